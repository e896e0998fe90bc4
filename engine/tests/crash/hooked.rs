//! A store that does something, or shows less, at a chosen call.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use copal_engine::store::{Key, Page, Store, Verb};

/// Does something before or after the first call of a verb on keys that begin with a prefix.
pub struct Hooked<F: Fn() + Send + Sync> {
    pub inner: Arc<dyn Store>,
    pub on: (Verb, &'static str),
    pub after: bool,
    pub act: Mutex<Option<F>>,
    /// No LIST shows this key.
    pub hidden: Option<Key>,
}

impl<F: Fn() + Send + Sync> std::fmt::Debug for Hooked<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hooked")
    }
}

impl<F: Fn() + Send + Sync> Hooked<F> {
    /// Acts before that call, and hides nothing.
    pub fn before(inner: Arc<dyn Store>, on: (Verb, &'static str), act: F) -> Self {
        Self { inner, on, after: false, act: Mutex::new(Some(act)), hidden: None }
    }

    fn hook(&self, verb: Verb, key: &str, after: bool) {
        if self.on.0 == verb && key.starts_with(self.on.1) && self.after == after {
            let act = self.act.lock().unwrap().take();
            act.into_iter().for_each(|act| act());
        }
    }
}

#[async_trait]
impl<F: Fn() + Send + Sync> Store for Hooked<F> {
    fn location(&self) -> String {
        self.inner.location()
    }
    async fn put_new(&self, key: &Key, body: Bytes) -> copal_engine::store::Result<()> {
        self.hook(Verb::PutNew, key.as_str(), false);
        let done = self.inner.put_new(key, body).await;
        self.hook(Verb::PutNew, key.as_str(), true);
        done
    }
    async fn put(&self, key: &Key, body: Bytes) -> copal_engine::store::Result<()> {
        self.hook(Verb::Put, key.as_str(), false);
        let done = self.inner.put(key, body).await;
        self.hook(Verb::Put, key.as_str(), true);
        done
    }
    async fn get(&self, key: &Key, max: u64) -> copal_engine::store::Result<Bytes> {
        self.inner.get(key, max).await
    }
    async fn get_range(&self, key: &Key, range: Range<u64>) -> copal_engine::store::Result<Bytes> {
        self.inner.get_range(key, range).await
    }
    async fn head(&self, key: &Key) -> copal_engine::store::Result<u64> {
        self.inner.head(key).await
    }
    async fn list(&self, prefix: &str, after: Option<&Key>) -> copal_engine::store::Result<Page> {
        self.hook(Verb::List, prefix, false);
        let mut page = self.inner.list(prefix, after).await?;
        page.objects.retain(|l| Some(&l.key) != self.hidden.as_ref());
        Ok(page)
    }
    async fn delete(&self, key: &Key) -> copal_engine::store::Result<()> {
        self.inner.delete(key).await
    }
}

/// Does something before the `n`th call, whatever it is.
pub struct AtCall<F: Fn() + Send + Sync> {
    pub inner: Arc<dyn Store>,
    pub n: u64,
    pub met: AtomicU64,
    pub act: F,
}

impl<F: Fn() + Send + Sync> std::fmt::Debug for AtCall<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AtCall")
    }
}

impl<F: Fn() + Send + Sync> AtCall<F> {
    pub fn new(inner: Arc<dyn Store>, n: u64, act: F) -> Self {
        Self { inner, n, met: AtomicU64::new(0), act }
    }

    fn store(&self) -> &dyn Store {
        if self.met.fetch_add(1, Ordering::Relaxed) == self.n {
            (self.act)();
        }
        self.inner.as_ref()
    }
}

#[async_trait]
impl<F: Fn() + Send + Sync> Store for AtCall<F> {
    fn location(&self) -> String {
        self.inner.location()
    }
    async fn put_new(&self, key: &Key, body: Bytes) -> copal_engine::store::Result<()> {
        self.store().put_new(key, body).await
    }
    async fn put(&self, key: &Key, body: Bytes) -> copal_engine::store::Result<()> {
        self.store().put(key, body).await
    }
    async fn get(&self, key: &Key, max: u64) -> copal_engine::store::Result<Bytes> {
        self.store().get(key, max).await
    }
    async fn get_range(&self, key: &Key, range: Range<u64>) -> copal_engine::store::Result<Bytes> {
        self.store().get_range(key, range).await
    }
    async fn head(&self, key: &Key) -> copal_engine::store::Result<u64> {
        self.store().head(key).await
    }
    async fn list(&self, prefix: &str, after: Option<&Key>) -> copal_engine::store::Result<Page> {
        self.store().list(prefix, after).await
    }
    async fn delete(&self, key: &Key) -> copal_engine::store::Result<()> {
        self.store().delete(key).await
    }
}
