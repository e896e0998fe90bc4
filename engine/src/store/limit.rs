//! Caps: bytes a second up and down, and calls at once.
//!
//! An upload waits for its turn **before** it begins, as long as its bytes take at the given rate, so at no moment have more
//! bytes been sent than the rate allows for the time gone by. A download is counted when it is done, by the bytes that
//! came, and delays the next ones. Within its turn one body goes at the speed of the line, for bodies are sent whole.

use std::future::Future;
use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until};

use super::retention::{HeldAfter, HeldPage, Keeper, Promises, Retention};
use super::{Key, Page, Result, Store};

/// What is capped; a `None` is no cap.
#[derive(Debug, Clone, Copy, Default)]
pub struct Caps {
    /// Bytes a second of bodies sent.
    pub upload: Option<NonZeroU64>,
    /// Bytes a second of bodies received.
    pub download: Option<NonZeroU64>,
    /// Calls at once.
    pub connections: Option<NonZeroU64>,
}

/// A store that keeps to [`Caps`].
#[derive(Debug)]
pub struct Limit {
    inner: Arc<dyn Store>,
    upload: Option<Lane>,
    download: Option<Lane>,
    calls: Semaphore,
}

/// Bytes pass one after another at a rate.
#[derive(Debug)]
struct Lane {
    rate: NonZeroU64,
    free_at: Mutex<Option<Instant>>,
}

impl Lane {
    fn new(rate: NonZeroU64) -> Self {
        Self { rate, free_at: Mutex::new(None) }
    }

    /// When `bytes` that ask now are through.
    fn book(&self, bytes: u64) -> Instant {
        let now = Instant::now();
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = free_at.map_or(now, |at| at.max(now));
        let end = begin + Duration::from_secs_f64(bytes as f64 / self.rate.get() as f64);
        *free_at = Some(end);
        end
    }

    async fn pass(lane: &Option<Self>, bytes: u64) {
        if let Some(lane) = lane {
            sleep_until(lane.book(bytes)).await;
        }
    }
}

impl Limit {
    /// Wraps `inner`.
    pub fn new(inner: Arc<dyn Store>, caps: Caps) -> Self {
        let calls =
            caps.connections.map_or(Semaphore::MAX_PERMITS, |n| n.get().min(Semaphore::MAX_PERMITS as u64) as usize);
        Self {
            inner,
            upload: caps.upload.map(Lane::new),
            download: caps.download.map(Lane::new),
            calls: Semaphore::new(calls),
        }
    }

    async fn download(&self, call: impl Future<Output = Result<Bytes>> + Send) -> Result<Bytes> {
        Lane::pass(&self.download, 0).await;
        let body = call.await?;
        if let Some(lane) = &self.download {
            lane.book(body.len() as u64);
        }
        Ok(body)
    }

    async fn permit(&self) -> SemaphorePermit<'_> {
        self.calls.acquire().await.expect("the semaphore is never closed")
    }
}

#[async_trait]
impl Store for Limit {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn list_may_lag(&self) -> bool {
        self.inner.list_may_lag()
    }

    fn keeper(&self) -> Option<&dyn Keeper> {
        self.inner.keeper().map(|_| self as &dyn Keeper)
    }

    async fn put_new(&self, key: &Key, body: Bytes) -> Result<()> {
        let _permit = self.permit().await;
        Lane::pass(&self.upload, body.len() as u64).await;
        self.inner.put_new(key, body).await
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<()> {
        let _permit = self.permit().await;
        Lane::pass(&self.upload, body.len() as u64).await;
        self.inner.put(key, body).await
    }

    async fn get(&self, key: &Key, max: u64) -> Result<Bytes> {
        let _permit = self.permit().await;
        self.download(self.inner.get(key, max)).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        let _permit = self.permit().await;
        self.download(self.inner.get_range(key, range)).await
    }

    async fn head(&self, key: &Key) -> Result<u64> {
        let _permit = self.permit().await;
        self.inner.head(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>) -> Result<Page> {
        let _permit = self.permit().await;
        self.inner.list(prefix, after).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let _permit = self.permit().await;
        self.inner.delete(key).await
    }
}

/// Reached only through `keeper`, which says whether the inner store is one.
const KEEPER: &str = "a store that keeps versions";

#[async_trait]
impl Keeper for Limit {
    fn root(&self) -> String {
        self.inner.keeper().expect(KEEPER).root()
    }

    async fn promises(&self) -> Result<Promises> {
        let _permit = self.permit().await;
        self.inner.keeper().expect(KEEPER).promises().await
    }

    async fn retain(&self, key: &Key, retention: Retention) -> Result<()> {
        let _permit = self.permit().await;
        self.inner.keeper().expect(KEEPER).retain(key, retention).await
    }

    async fn retention(&self, key: &Key) -> Result<Option<Retention>> {
        let _permit = self.permit().await;
        self.inner.keeper().expect(KEEPER).retention(key).await
    }

    async fn held_page(&self, after: Option<&HeldAfter>) -> Result<HeldPage> {
        let _permit = self.permit().await;
        self.inner.keeper().expect(KEEPER).held_page(after).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Verb;
    use crate::store::fault::{Effect, Fault, Rule};
    use crate::store::memory::Memory;

    fn key(text: &str) -> Key {
        Key::new(text).expect("a key")
    }

    #[tokio::test]
    async fn rates_are_kept() {
        let caps = Caps { upload: NonZeroU64::new(100_000), download: NonZeroU64::new(200_000), connections: None };
        let store = Limit::new(Arc::new(Memory::new()), caps);
        let begun = Instant::now();
        for n in 0..4 {
            store.put(&key(&format!("{n}")), vec![0; 5000].into()).await.unwrap();
        }
        assert!(begun.elapsed() >= Duration::from_millis(200), "20 kB up at 100 kB/s took {:?}", begun.elapsed());
        let begun = Instant::now();
        for n in [0, 1, 2, 3, 0] {
            store.get_range(&key(&format!("{n}")), 0..5000).await.unwrap();
        }
        // The last one is counted too, but nothing waits for it.
        assert!(begun.elapsed() >= Duration::from_millis(100), "25 kB down at 200 kB/s took {:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn calls_at_once_are_capped() {
        let fault = Arc::new(Fault::new(Arc::new(Memory::new()), 1));
        fault.add(Rule::on(Verb::Put, "").effect(Effect::Delay(Duration::from_millis(20))));
        let store = Arc::new(Limit::new(fault, Caps { connections: NonZeroU64::new(2), ..Caps::default() }));
        let begun = Instant::now();
        let puts: Vec<_> = (0..6)
            .map(|n| {
                let store = store.clone();
                tokio::spawn(async move { store.put(&key(&format!("{n}")), Bytes::new()).await })
            })
            .collect();
        for put in puts {
            put.await.unwrap().unwrap();
        }
        assert!(begun.elapsed() >= Duration::from_millis(60), "six calls, two at once: {:?}", begun.elapsed());
    }
}
