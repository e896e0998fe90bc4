//! One actor's end of the world: its store, whose every call is an event, and its clock.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use copal_engine::format::node::Timestamp;
use copal_engine::repo::Clock;
use copal_engine::store::{Key, Page, Result, Store};
use tokio::sync::oneshot;

use crate::ask::{Answer, Answered, Ask};
use crate::world::{Tell, World};

/// 2026-01-01, where every world begins.
pub const EPOCH: i64 = 1_767_225_600;

/// The store and the clock of an actor's process.
#[derive(Clone)]
pub struct Turns {
    pub world: Arc<World>,
    pub actor: usize,
}

impl std::fmt::Debug for Turns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Turns({})", self.actor)
    }
}

/// A call on its way.
struct Asked<'t> {
    turns: &'t Turns,
    id: u64,
    answer: oneshot::Receiver<Answered>,
}

impl Future for Asked<'_> {
    type Output = Answered;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answered> {
        Pin::new(&mut self.answer).poll(cx).map(|told| told.expect("the world answers or keeps the call"))
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.turns.world.lock().give_up(self.id);
    }
}

impl Turns {
    async fn ask(&self, ask: Ask) -> Answered {
        let asked = {
            let mut state = self.world.lock();
            if state.actors[self.actor].dead {
                return Err(ask.dies());
            }
            // The config does not change here, so it does not matter when it is read.
            if ask.key().starts_with("cfg/") {
                return state.apply(&ask);
            }
            let (tell, answer) = oneshot::channel();
            let id = state.ask(self.actor, ask, Tell::Task(tell));
            Asked { turns: self, id, answer }
        };
        asked.await
    }

    /// Works for a while, and lets others go on.
    pub async fn pass(&self) {
        let asked = {
            let mut state = self.world.lock();
            if state.actors[self.actor].dead {
                return;
            }
            let (tell, answer) = oneshot::channel();
            let until = state.now + state.plan.walk.mul_f64(state.dice.below(200) as f64 / 100.0);
            let id = state.ask(self.actor, Ask::Wait(until), Tell::Task(tell));
            Asked { turns: self, id, answer }
        };
        drop(asked.await);
    }
}

#[async_trait]
impl Store for Turns {
    fn location(&self) -> String {
        "simulated:".into()
    }

    async fn put_new(&self, key: &Key, body: Bytes) -> Result<()> {
        self.ask(Ask::PutNew(key.clone(), body)).await.map(drop)
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<()> {
        self.ask(Ask::Put(key.clone(), body)).await.map(drop)
    }

    async fn get(&self, key: &Key, max: u64) -> Result<Bytes> {
        match self.ask(Ask::Get(key.clone(), max)).await? {
            Answer::Bytes(bytes) => Ok(bytes),
            other => unreachable!("{other:?} to a get"),
        }
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        match self.ask(Ask::GetRange(key.clone(), range)).await? {
            Answer::Bytes(bytes) => Ok(bytes),
            other => unreachable!("{other:?} to a get"),
        }
    }

    async fn head(&self, key: &Key) -> Result<u64> {
        match self.ask(Ask::Head(key.clone())).await? {
            Answer::Size(size) => Ok(size),
            other => unreachable!("{other:?} to a head"),
        }
    }

    async fn list(&self, prefix: &str, after: Option<&Key>) -> Result<Page> {
        match self.ask(Ask::List(prefix.into(), after.cloned())).await? {
            Answer::Page(page) => Ok(page),
            other => unreachable!("{other:?} to a list"),
        }
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.ask(Ask::Delete(key.clone())).await.map(drop)
    }
}

#[async_trait]
impl Clock for Turns {
    fn now(&self) -> Timestamp {
        let state = self.world.lock();
        let secs = EPOCH + state.now.as_secs() as i64 + state.actors[self.actor].skew;
        Timestamp { secs, nanos: state.now.subsec_nanos() }
    }

    fn elapsed(&self) -> Duration {
        self.world.lock().now
    }

    /// Mostly longer than asked for, as where a machine has much else to do.
    async fn pause(&self, time: Duration) {
        let asked = {
            let mut state = self.world.lock();
            // Who waits for nothing to happen would go round for ever.
            if state.actors[self.actor].dead {
                None
            } else {
                let until = state.now + time * (1 + state.dice.below(16) as u32);
                let (tell, answer) = oneshot::channel();
                let id = state.ask(self.actor, Ask::Wait(until), Tell::Task(tell));
                Some(Asked { turns: self, id, answer })
            }
        };
        match asked {
            Some(asked) => drop(asked.await),
            None => std::future::pending().await,
        }
    }
}
