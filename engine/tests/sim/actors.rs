//! What actors do: each runs processes one after the other, on a thread of its own, in its turns.

use std::any::Any;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use copal_engine::crypto::hash;
use copal_engine::crypto::rng::{Rng, SeededRng};
use copal_engine::format::bundle::{Bundle, Identity};
use copal_engine::format::objects;
use copal_engine::ops::backup::{Parent, backup};
use copal_engine::ops::prune::{Limit, prune};
use copal_engine::progress::{Cancel, Problem, Progress};
use copal_engine::repo::verdict::Found;
use copal_engine::repo::{Bridge, Locked, Opener, Reader, Repository};
use copal_engine::store::retry::{Policy, Retry};
use copal_engine::store::{Key, Store, StoreError};
use copal_engine::{Error, Result};

use crate::ask::Ask;
use crate::book::Forgotten;
use crate::dice::{DAY, Dice, HOUR, Plan, SECOND};
use crate::image::{Image, Images, everything};
use crate::judge::{read_files, same};
use crate::mutants::Mutant;
use crate::store::Turns;
use crate::world::{Tell, World};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Writer(usize),
    Pruner(usize),
    Reader,
    Forgetter,
    Checker,
}

impl Role {
    /// Everybody who takes part.
    pub fn of(plan: &Plan) -> Vec<Self> {
        let mut roles: Vec<Self> = (0..plan.writers).map(Self::Writer).collect();
        roles.extend((0..plan.pruners).map(Self::Pruner));
        roles.extend((0..plan.readers).map(|_| Self::Reader));
        roles.extend(plan.forgets.then_some(Self::Forgetter));
        roles.extend(plan.checks.then_some(Self::Checker));
        roles
    }

    pub fn name(self) -> String {
        match self {
            Self::Writer(n) => format!("writer {n}"),
            Self::Pruner(n) => format!("pruner {n}"),
            other => format!("{other:?}").to_lowercase(),
        }
    }
}

/// An actor, with what it works on.
pub struct Actor<'i> {
    pub world: Arc<World>,
    pub images: &'i Images,
    pub image: &'i Image,
    pub role: Role,
    pub number: usize,
    pub dice: Dice,
    pub cache: PathBuf,
    /// Its local index outlasts its processes.
    pub keeps: bool,
}

/// When its next process begins.
pub fn wait(world: &World, actor: usize, time: Duration) -> Receiver<()> {
    let (sender, receiver) = channel();
    let mut state = world.lock();
    let until = state.now + time;
    state.ask(actor, Ask::Wait(until), Tell::Thread(sender));
    receiver
}

impl Actor<'_> {
    /// All its processes; `first` tells when it is its turn for the first time.
    pub fn run(mut self, runs: usize, first: Receiver<()>) {
        let mut turn = first;
        for _ in 0..runs {
            turn.recv().expect("the world lasts as long as its actors");
            self.world.lock().actors[self.number].dead = false;
            let (world, number) = (Arc::clone(&self.world), self.number);
            let bridge = Bridge::single(move |is_idle| world.step(number, is_idle)).expect("a runtime");
            let ended = catch_unwind(AssertUnwindSafe(|| self.process(&bridge)));
            self.world.leave(self.number);
            // What was called off ends only when it is its turn once more.
            bridge.wait(async {
                for _ in 0..20 {
                    tokio::task::yield_now().await;
                }
            });
            drop(bridge);
            let how = match ended {
                Ok(Ok(())) => "done".into(),
                Ok(Err(e)) => format!("{e:?}").split([' ', '(', '{']).next().unwrap_or_default().to_owned(),
                Err(panic) => {
                    self.fault(format!("a panic: {}", said(&*panic)));
                    "panic".into()
                }
            };
            let mut state = self.world.lock();
            state.note(|s| format!("{:>12.1} {} ends: {how}", s.now.as_secs_f64(), self.role.name()));
            let name = self.role.name();
            state.book.ended(&format!("{}: {how}", name.split(' ').next().unwrap_or_default()));
            drop(state);
            let long = if self.contested() && self.dice.below(8) > 0 { HOUR / 4 } else { DAY * 20 };
            let pause = self.dice.spread(SECOND, long);
            turn = wait(&self.world, self.number, pause);
            self.world.rest(self.number);
        }
        turn.recv().expect("the world lasts as long as its actors");
        self.world.end(self.number);
    }

    fn contested(&self) -> bool {
        self.world.lock().plan.contested
    }

    fn fault(&self, what: String) {
        let mut state = self.world.lock();
        state.note(|_| format!("    {what}"));
        state.book.faults.push(what);
    }

    fn turns(&self) -> Turns {
        Turns { world: Arc::clone(&self.world), actor: self.number }
    }

    /// One process: a store with its retries, and the repository opened anew.
    fn process(&mut self, bridge: &Bridge) -> Result<()> {
        let attempts = self.world.lock().plan.attempts;
        let at_once = Policy {
            first_wait: Duration::ZERO,
            max_wait: Duration::ZERO,
            attempts,
            deadline: HOUR,
            first_deadline: HOUR,
            wrong_retries: 2,
        };
        let store: Arc<dyn Store> = Arc::new(Retry::new(Arc::new(self.turns()), at_once));
        let (bundle, own) = self.key().clone();
        if !self.keeps {
            let _ = fs::remove_dir_all(&self.cache);
        }
        let options = self.images.options(Arc::new(self.turns()), &self.cache);
        let opener = Opener::Bundle(Box::new(bundle));
        let repo = Arc::new(Locked::find(store, bridge.clone())?.unlock(opener, options)?);
        match self.role {
            Role::Writer(_) => self.backup(&repo, &own),
            Role::Pruner(_) => self.prune(&repo, &own),
            Role::Reader => self.read(&repo),
            Role::Forgetter => self.forget(&repo),
            Role::Checker => self.check(&repo),
        }
    }

    fn key(&self) -> &(Bundle, Identity) {
        let keys = &self.image.keys;
        let state = self.world.lock();
        let (shared, owner_prunes) = (state.plan.shared_key, state.plan.owner_prunes);
        drop(state);
        match self.role {
            Role::Writer(1) if shared => &keys.writers[0],
            Role::Writer(2) => &keys.owner,
            Role::Writer(n) => &keys.writers[n],
            Role::Pruner(0) if owner_prunes => &keys.owner,
            Role::Pruner(_) | Role::Forgetter => &keys.maintainer,
            Role::Reader | Role::Checker => &keys.owner,
        }
    }

    fn rng(&mut self) -> Box<dyn Rng> {
        Box::new(SeededRng::new(self.dice.next().to_le_bytes()))
    }

    fn passing<'a>(&self, repo: &'a Repository) -> Passing<'a> {
        Passing { turns: self.turns(), bridge: repo.bridge() }
    }

    fn backup(&mut self, repo: &Arc<Repository>, own: &Identity) -> Result<()> {
        let source = self.dice.below(self.images.sources.len());
        let attempt = self.world.lock().book.begin(source);
        let mut options = self.images.backup(source, attempt);
        options.skip_if_unchanged = self.dice.in_thousand(100);
        if self.dice.in_thousand(200) {
            options.parent = Parent::None;
        }
        let rng = self.rng();
        let done = backup(repo, own, rng, &options, &self.passing(repo), &Cancel::default())?;
        let mut state = self.world.lock();
        state.book.attempts[attempt].committed = done.snapshot;
        state.note(|_| format!("    attempt {attempt} is committed: {:?}", done.snapshot.map(|s| s.short())));
        Ok(())
    }

    fn prune(&mut self, repo: &Arc<Repository>, own: &Identity) -> Result<()> {
        if self.contested() || self.dice.below(2) == 0 {
            self.forget(repo)?;
        }
        let mut options = everything();
        options.policy.max_unused =
            *self.dice.pick(&[Limit::Bytes(0), Limit::Bytes(0), Limit::Percent(20.0), Limit::Unlimited]);
        let rng = self.rng();
        prune(repo, own, rng, &options, &self.passing(repo), &Cancel::default()).map(drop)
    }

    fn read(&mut self, repo: &Arc<Repository>) -> Result<()> {
        let view = repo.view()?;
        let reader = Reader::new(Arc::clone(repo), Arc::clone(&view.index), 1 << 20);
        for snapshot in &view.snapshots {
            let Some((_, names)) = snapshot.graph.root.zip(snapshot.names.as_ref()) else { continue };
            let attempt = self.world.lock().book.of(&names.labels);
            // What is given up meanwhile is not there; but whatever is read is right.
            if let Ok(files) = read_files(&reader, snapshot) {
                let source = attempt.map(|n| self.world.lock().book.attempts[n].source);
                if !source.is_some_and(|n| same(&files, &self.images.sources[n].files)) {
                    self.fault(format!("a reader was given other bytes than those of attempt {attempt:?}"));
                }
            }
        }
        Ok(())
    }

    fn forget(&mut self, repo: &Arc<Repository>) -> Result<()> {
        let (snapshots, _) = repo.snapshots()?;
        let mut chosen = Vec::new();
        let all = self.dice.below(3) == 0;
        for s in &snapshots {
            if s.graph.root.is_some() && (all || self.dice.below(2) == 0) {
                chosen.push(s.at);
            }
        }
        let tell = |how: Forgotten| {
            let mut state = self.world.lock();
            if state.mutant != Some(Mutant::ForgetsUnasked) {
                chosen.iter().for_each(|at| state.book.forget(at.id, how));
            }
        };
        tell(Forgotten::Perhaps);
        repo.forget(&chosen)?;
        tell(Forgotten::Yes);
        Ok(())
    }

    /// Reads every pack whole and says which are sound, as `check --read-data` does.
    fn check(&mut self, repo: &Arc<Repository>) -> Result<()> {
        let view = repo.view()?;
        let mut found = Found::new();
        for p in view.index.packs() {
            let object =
                Key::new(objects::pack(p.writer, p.session, p.seq, p.id)).expect("the format's names are keys");
            let sound = match repo.bridge().wait(repo.store().get(&object, 64 << 20)) {
                Ok(bytes) => hash::blake3(&[&bytes]) == *p.id.as_bytes(),
                Err(StoreError::NotFound { .. }) => false,
                Err(e) => return Err(Error::from(e)),
            };
            found.insert(p.id, sound.then_some(1));
        }
        repo.remember(&found, &|pack| found.contains_key(pack))
    }
}

/// Lets the others go on at every entry that is walked.
struct Passing<'a> {
    turns: Turns,
    bridge: &'a Bridge,
}

impl Progress for Passing<'_> {
    fn start(&self, _: &Path) {
        self.bridge.wait(self.turns.pass());
    }

    fn problem(&self, _: Problem) {}
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default()
}
