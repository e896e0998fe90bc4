//! A store in memory that keeps retention as a bucket with Object Lock says it does, and refuses to delete what is locked: as
//! some servers do instead of only marking.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use copal_engine::store::memory::Memory;
use copal_engine::store::retention::{HeldAfter, HeldPage, Keeper, Mode, ObjectLock, Promises, Retention, Versioning};
use copal_engine::store::{Key, Page, Result, Store, StoreError};

#[derive(Debug)]
pub struct Vault {
    pub memory: Arc<Memory>,
    pub kept: Mutex<BTreeMap<Key, Retention>>,
    /// Object Lock of the bucket.
    pub lock: Option<ObjectLock>,
    /// Calls that set a retention of these succeed, and do nothing.
    pub slippery: Mutex<BTreeSet<Key>>,
    /// No key may be deleted, though none is locked.
    pub denies: AtomicBool,
}

impl Vault {
    pub fn new(lock: Option<ObjectLock>) -> Self {
        let (kept, slippery) = (Mutex::default(), Mutex::default());
        Self { memory: Arc::new(Memory::new()), kept, lock, slippery, denies: AtomicBool::new(false) }
    }

    pub fn until(&self, key: &Key) -> Option<u64> {
        self.kept.lock().unwrap().get(key).map(|r| r.until)
    }

    /// As if so many seconds had gone by.
    pub fn age(&self, seconds: u64) {
        self.kept.lock().unwrap().values_mut().for_each(|r| r.until -= seconds);
    }

    /// Keys below a prefix.
    pub fn keys(&self, prefix: &str) -> Vec<Key> {
        self.memory.snapshot().into_keys().filter(|k| k.as_str().starts_with(prefix)).collect()
    }
}

#[async_trait]
impl Store for Vault {
    fn location(&self) -> String {
        "memory".into()
    }
    fn keeper(&self) -> Option<&dyn Keeper> {
        Some(self)
    }
    async fn put_new(&self, key: &Key, body: Bytes) -> Result<()> {
        self.memory.put_new(key, body).await
    }
    async fn put(&self, key: &Key, body: Bytes) -> Result<()> {
        self.memory.put(key, body).await
    }
    async fn get(&self, key: &Key, max: u64) -> Result<Bytes> {
        self.memory.get(key, max).await
    }
    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.memory.get_range(key, range).await
    }
    async fn head(&self, key: &Key) -> Result<u64> {
        self.memory.head(key).await
    }
    async fn list(&self, prefix: &str, after: Option<&Key>) -> Result<Page> {
        self.memory.list(prefix, after).await
    }
    async fn delete(&self, key: &Key) -> Result<()> {
        if self.until(key).is_some_and(|until| until > now()) || self.denies.load(Ordering::Relaxed) {
            return Err(StoreError::Denied { what: format!("delete {key}"), source: "AccessDenied".into() });
        }
        self.kept.lock().unwrap().remove(key);
        self.memory.delete(key).await
    }
}

#[async_trait]
impl Keeper for Vault {
    fn root(&self) -> String {
        "here/".into()
    }
    async fn promises(&self) -> Result<Promises> {
        Ok(Promises { versioning: Versioning::On, lock: self.lock })
    }
    async fn retain(&self, key: &Key, retention: Retention) -> Result<()> {
        self.memory.head(key).await?;
        let weaker = |r: &Retention| r.until > retention.until || r.mode > retention.mode;
        if self.kept.lock().unwrap().get(key).is_some_and(weaker) {
            return Err(StoreError::Denied { what: format!("retain {key}"), source: "shortens".into() });
        }
        if !self.slippery.lock().unwrap().contains(key) {
            self.kept.lock().unwrap().insert(key.clone(), retention);
        }
        Ok(())
    }
    async fn retention(&self, key: &Key) -> Result<Option<Retention>> {
        self.memory.head(key).await?;
        Ok(self.kept.lock().unwrap().get(key).copied())
    }
    async fn held_page(&self, _: Option<&HeldAfter>) -> Result<HeldPage> {
        Ok(HeldPage::default())
    }
}

pub fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// Object Lock whose new objects are not locked by themselves.
pub const LOCK: Option<ObjectLock> = Some(ObjectLock { default: None });
/// The same with a default.
pub const STRICT: Option<ObjectLock> = Some(ObjectLock { default: Some((Mode::Compliance, 1)) });
