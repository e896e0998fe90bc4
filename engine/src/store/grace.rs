//! Ends calls that nobody wants to wait for any more: an operation that was asked to end has a short while for what it has
//! begun, and after that every call fails, whatever the network does.

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::{Instant, sleep, sleep_until};

use super::retention::{HeldAfter, HeldPage, Keeper, Promises, Retention};
use super::{Key, Page, Result, Store, StoreError};

/// How often a call in flight looks whether it was asked to end.
const LOOK: Duration = Duration::from_millis(100);
/// The while that is left to calls once that was so.
pub const GRACE: Duration = Duration::from_millis(1500);

/// A store whose calls end soon after `asked` says so.
pub struct Grace {
    inner: Arc<dyn Store>,
    asked: Box<dyn Fn() -> bool + Send + Sync>,
    /// When that was first seen.
    since: Mutex<Option<Instant>>,
}

impl fmt::Debug for Grace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Grace").field(&self.inner).finish()
    }
}

impl Grace {
    /// Wraps `inner`; `asked` is called often and must be cheap.
    pub fn new(inner: Arc<dyn Store>, asked: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { inner, asked: Box::new(asked), since: Mutex::default() }
    }

    async fn within<T>(&self, what: &str, key: &str, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
        tokio::select! {
            biased;
            done = call => done,
            () = self.end() => Err(StoreError::Failed { what: format!("{what} {key}"), source: "interrupted".into() }),
        }
    }

    async fn end(&self) {
        while !(self.asked)() {
            sleep(LOOK).await;
        }
        let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
        sleep_until(since + GRACE).await;
    }
}

#[async_trait]
impl Store for Grace {
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
        self.within("put", key.as_str(), self.inner.put_new(key, body)).await
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<()> {
        self.within("put", key.as_str(), self.inner.put(key, body)).await
    }

    async fn get(&self, key: &Key, max: u64) -> Result<Bytes> {
        self.within("get", key.as_str(), self.inner.get(key, max)).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.within("get", key.as_str(), self.inner.get_range(key, range)).await
    }

    async fn head(&self, key: &Key) -> Result<u64> {
        self.within("head", key.as_str(), self.inner.head(key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>) -> Result<Page> {
        self.within("list", prefix, self.inner.list(prefix, after)).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.within("delete", key.as_str(), self.inner.delete(key)).await
    }
}

/// Reached only through `keeper`, which says whether the inner store is one.
const KEEPER: &str = "a store that keeps versions";

#[async_trait]
impl Keeper for Grace {
    fn root(&self) -> String {
        self.inner.keeper().expect(KEEPER).root()
    }

    async fn promises(&self) -> Result<Promises> {
        self.within("ask the bucket", "", self.inner.keeper().expect(KEEPER).promises()).await
    }

    async fn retain(&self, key: &Key, retention: Retention) -> Result<()> {
        self.within("set retention of", key.as_str(), self.inner.keeper().expect(KEEPER).retain(key, retention)).await
    }

    async fn retention(&self, key: &Key) -> Result<Option<Retention>> {
        self.within("get retention of", key.as_str(), self.inner.keeper().expect(KEEPER).retention(key)).await
    }

    async fn held_page(&self, after: Option<&HeldAfter>) -> Result<HeldPage> {
        self.within("list versions", "", self.inner.keeper().expect(KEEPER).held_page(after)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fault::{Effect, Fault, Rule};
    use crate::store::memory::Memory;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[tokio::test]
    async fn calls_that_hang_end_soon_after_they_were_asked_to() {
        let fault = Arc::new(Fault::new(Arc::new(Memory::new()), 1));
        let asked = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&asked);
        let store = Grace::new(fault.clone(), move || flag.load(Ordering::Relaxed));
        let key = Key::new("a").unwrap();
        store.put(&key, "1".into()).await.unwrap();
        fault.add(Rule::any().effect(Effect::Delay(Duration::from_secs(3600))));
        let begun = Instant::now();
        let (ended, ()) = tokio::join!(store.get(&key, 9), async {
            sleep(Duration::from_millis(50)).await;
            asked.store(true, Ordering::Relaxed);
        });
        assert!(ended.unwrap_err().to_string().contains("get a"));
        let took = begun.elapsed();
        assert!(took >= GRACE && took < GRACE * 10, "{took:?}");
        fault.clear();
        assert_eq!(store.get(&key, 9).await.unwrap(), "1", "what is quick still goes through");
    }
}
