//! A log of what was asked of a store: tests count requests and bytes instead of timing them.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::retention::{HeldAfter, HeldPage, Keeper, Promises, Retention};
use super::{Key, Page, Result, Store, Verb};

/// One call, in the order in which calls ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Op {
    /// What was asked.
    pub verb: Verb,
    /// The key, or the prefix of a LIST.
    pub key: String,
    /// Bytes of the body sent or received; 0 for a failed read and for verbs without a body.
    pub bytes: u64,
    /// Whether it succeeded.
    pub ok: bool,
}

/// A store that remembers every call for as long as it lives.
#[derive(Debug)]
pub struct Record {
    inner: Arc<dyn Store>,
    log: Mutex<Vec<Op>>,
}

impl Record {
    /// Wraps `inner`.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, log: Mutex::default() }
    }

    /// All calls so far.
    pub fn log(&self) -> Vec<Op> {
        self.lock().clone()
    }

    /// All calls so far, and forgets them.
    pub fn take(&self) -> Vec<Op> {
        std::mem::take(&mut self.lock())
    }

    /// Calls of `verb` on keys (or LIST prefixes) that start with `prefix`, failed ones included.
    pub fn count(&self, verb: Verb, prefix: &str) -> usize {
        self.lock().iter().filter(|op| op.verb == verb && op.key.starts_with(prefix)).count()
    }

    /// Bytes that such calls moved.
    pub fn bytes(&self, verb: Verb, prefix: &str) -> u64 {
        self.lock().iter().filter(|op| op.verb == verb && op.key.starts_with(prefix)).map(|op| op.bytes).sum()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Op>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note<T>(&self, verb: Verb, key: &str, done: Result<T>, bytes: impl FnOnce(&T) -> u64) -> Result<T> {
        let op = Op { verb, key: key.into(), bytes: done.as_ref().map_or(0, bytes), ok: done.is_ok() };
        self.lock().push(op);
        done
    }
}

#[async_trait]
impl Store for Record {
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
        let len = body.len() as u64;
        self.note(Verb::PutNew, key.as_str(), self.inner.put_new(key, body).await, |()| len)
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<()> {
        let len = body.len() as u64;
        self.note(Verb::Put, key.as_str(), self.inner.put(key, body).await, |()| len)
    }

    async fn get(&self, key: &Key, max: u64) -> Result<Bytes> {
        self.note(Verb::Get, key.as_str(), self.inner.get(key, max).await, |body| body.len() as u64)
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.note(Verb::GetRange, key.as_str(), self.inner.get_range(key, range).await, |body| body.len() as u64)
    }

    async fn head(&self, key: &Key) -> Result<u64> {
        self.note(Verb::Head, key.as_str(), self.inner.head(key).await, |_| 0)
    }

    async fn list(&self, prefix: &str, after: Option<&Key>) -> Result<Page> {
        self.note(Verb::List, prefix, self.inner.list(prefix, after).await, |_| 0)
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.note(Verb::Delete, key.as_str(), self.inner.delete(key).await, |()| 0)
    }
}

/// Reached only through `keeper`, which says whether the inner store is one.
const KEEPER: &str = "a store that keeps versions";

#[async_trait]
impl Keeper for Record {
    fn root(&self) -> String {
        self.inner.keeper().expect(KEEPER).root()
    }

    async fn promises(&self) -> Result<Promises> {
        self.note(Verb::Promises, "", self.inner.keeper().expect(KEEPER).promises().await, |_| 0)
    }

    async fn retain(&self, key: &Key, retention: Retention) -> Result<()> {
        self.note(Verb::Retain, key.as_str(), self.inner.keeper().expect(KEEPER).retain(key, retention).await, |_| 0)
    }

    async fn retention(&self, key: &Key) -> Result<Option<Retention>> {
        self.note(Verb::Retention, key.as_str(), self.inner.keeper().expect(KEEPER).retention(key).await, |_| 0)
    }

    async fn held_page(&self, after: Option<&HeldAfter>) -> Result<HeldPage> {
        self.note(Verb::Versions, "", self.inner.keeper().expect(KEEPER).held_page(after).await, |_| 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::Memory;

    #[tokio::test]
    async fn calls_are_counted_with_their_bytes() {
        let store = Record::new(Arc::new(Memory::new()));
        let key = |text: &str| Key::new(text).expect("a key");
        store.put(&key("pack/a"), "12345".into()).await.unwrap();
        store.put_new(&key("pack/a"), "1".into()).await.unwrap_err();
        store.get_range(&key("pack/a"), 1..3).await.unwrap();
        store.list("pack/", None).await.unwrap();
        assert_eq!(store.bytes(Verb::Put, "pack/"), 5);
        assert_eq!(store.bytes(Verb::GetRange, ""), 2);
        assert_eq!(store.count(Verb::PutNew, "pack/"), 1);
        assert_eq!(store.count(Verb::PutNew, "idx/"), 0);
        let op = |verb, key: &str, bytes, ok| Op { verb, key: key.into(), bytes, ok };
        let expected = [
            op(Verb::Put, "pack/a", 5, true),
            op(Verb::PutNew, "pack/a", 0, false),
            op(Verb::GetRange, "pack/a", 2, true),
            op(Verb::List, "pack/", 0, true),
        ];
        assert_eq!(store.take(), expected);
        assert!(store.log().is_empty());
    }
}
