//! A store in memory: for tests and simulation, and the plainest reading of what [`Store`] promises.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::{Key, Listed, Page, Result, Store, StoreError, check_range, check_size};

/// Keys in one page of a LIST unless [`Memory::with_page`] says otherwise: what S3 gives.
const PAGE_KEYS: usize = 1000;

/// Objects under a mutex; dropped with the value.
#[derive(Debug)]
pub struct Memory {
    objects: Mutex<BTreeMap<Key, Bytes>>,
    page: usize,
    overwrites: AtomicBool,
}

impl Default for Memory {
    fn default() -> Self {
        Self::with_page(PAGE_KEYS)
    }
}

impl Memory {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store whose LIST gives at most `page` keys at a time (at least 1).
    pub fn with_page(page: usize) -> Self {
        Self { objects: Mutex::default(), page: page.max(1), overwrites: AtomicBool::new(false) }
    }

    /// From now on [`Store::put_new`] replaces what is there, or does not: some servers ignore the condition.
    pub fn ignore_create_only(&self, ignore: bool) {
        self.overwrites.store(ignore, Ordering::Relaxed);
    }

    /// A copy of all objects, to compare states or to damage them.
    pub fn snapshot(&self) -> BTreeMap<Key, Bytes> {
        self.lock().clone()
    }

    /// Replaces all objects.
    pub fn restore(&self, objects: BTreeMap<Key, Bytes>) {
        *self.lock() = objects;
    }

    /// A panic elsewhere cannot leave the map half changed: every verb is one map operation.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Bytes>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, key: &Key) -> Result<Bytes> {
        self.lock().get(key).cloned().ok_or_else(|| StoreError::NotFound { key: key.clone() })
    }
}

#[async_trait]
impl Store for Memory {
    fn location(&self) -> String {
        "memory:".into()
    }

    async fn put_new(&self, key: &Key, body: Bytes) -> Result<()> {
        use std::collections::btree_map::Entry;
        match self.lock().entry(key.clone()) {
            Entry::Occupied(mut there) if self.overwrites.load(Ordering::Relaxed) => {
                there.insert(body);
                Ok(())
            }
            Entry::Occupied(_) => Err(StoreError::Exists { key: key.clone() }),
            Entry::Vacant(free) => {
                free.insert(body);
                Ok(())
            }
        }
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<()> {
        self.lock().insert(key.clone(), body);
        Ok(())
    }

    async fn get(&self, key: &Key, max: u64) -> Result<Bytes> {
        let body = self.find(key)?;
        check_size(key, body.len() as u64, max)?;
        Ok(body)
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        let body = self.find(key)?;
        check_range(key, &range, body.len() as u64)?;
        Ok(body.slice(range.start as usize..range.end as usize))
    }

    async fn head(&self, key: &Key) -> Result<u64> {
        Ok(self.find(key)?.len() as u64)
    }

    async fn list(&self, prefix: &str, after: Option<&Key>) -> Result<Page> {
        let from = match after {
            Some(after) if after.as_str() >= prefix => Bound::Excluded(after.as_str()),
            _ => Bound::Included(prefix),
        };
        let objects = self.lock();
        let mut found = objects
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(key, _)| key.as_str().starts_with(prefix))
            .map(|(key, body)| Listed { key: key.clone(), size: body.len() as u64 });
        let page = found.by_ref().take(self.page).collect();
        Ok(Page { objects: page, more: found.next().is_some() })
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.lock().remove(key);
        Ok(())
    }
}
