//! Tries again what may succeed later, and finds out what became of a create whose answer was lost.
//!
//! **Waiting**: full jitter (a random part of a wait that doubles), so that many agents that failed together do not come
//! back together. A `Retry-After` of the server is a lower bound of the wait.
//!
//! **put_new.** When a try failed with an unknown outcome and the next one meets `Exists`, the object may be our own. It is
//! read back: equal bytes are success, others are `Exists`. Two creators must therefore never send equal bytes where only
//! one may win; sessions and generations put their own random names into what they create.
//!
//! **Wrong answers** (short bodies, odd ranges) to reads are asked for a few times more: proxies cut bodies now and then.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::retention::{HeldAfter, HeldPage, Keeper, Promises, Retention};
use super::{Key, Page, Result, Store, StoreError, s3};

/// Further tries of a read that was answered wrongly, where there may be a proxy.
const WRONG_RETRIES: u32 = 2;

/// How long and how often to try.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// Upper end of the first wait; it doubles with each try.
    pub first_wait: Duration,
    /// Upper end of any wait that we choose ourselves.
    pub max_wait: Duration,
    /// Tries of one call, the first included.
    pub attempts: u32,
    /// No try begins later than this after the first.
    pub deadline: Duration,
    /// The same, until the store has answered anything: a mistyped host should not take a quarter of an hour to say so.
    pub first_deadline: Duration,
    /// Further tries of a read that was answered wrongly. None for a disk: what is short there stays short.
    pub wrong_retries: u32,
}

impl Default for Policy {
    /// Outlasts the restart of a server.
    fn default() -> Self {
        Self {
            first_wait: Duration::from_millis(500),
            max_wait: Duration::from_secs(30),
            attempts: 100,
            deadline: Duration::from_secs(15 * 60),
            first_deadline: Duration::from_secs(30),
            wrong_retries: WRONG_RETRIES,
        }
    }
}

/// A store whose transient failures are waited out.
#[derive(Debug)]
pub struct Retry {
    inner: Arc<dyn Store>,
    policy: Policy,
    reached: AtomicBool,
}

impl Retry {
    /// Wraps `inner`.
    pub fn new(inner: Arc<dyn Store>, policy: Policy) -> Self {
        Self { inner, policy, reached: AtomicBool::new(false) }
    }

    /// Calls until success, a lasting error, or the end of patience.
    async fn again<T, F: Future<Output = Result<T>> + Send>(&self, call: impl Fn() -> F + Send + Sync) -> Result<T> {
        let mut tries = Tries::new(self);
        loop {
            match call().await {
                Err(error) => tries.wait_after(error).await?,
                done => {
                    self.reached.store(true, Ordering::Relaxed);
                    return done;
                }
            }
        }
    }

    /// Whether `key` holds `body`: decides a create with an unknown outcome.
    async fn is_ours(&self, key: &Key, body: &Bytes) -> Result<bool> {
        match self.get(key, body.len() as u64).await {
            Ok(found) => Ok(found == body),
            // Longer than ours, or gone again: somebody else's doing either way.
            Err(StoreError::Wrong { .. } | StoreError::NotFound { .. }) => Ok(false),
            Err(e) => Err(e),
        }
    }
}

/// The tries of one call.
struct Tries<'a> {
    retry: &'a Retry,
    begun: Instant,
    made: u32,
    wrong: u32,
}

impl<'a> Tries<'a> {
    fn new(retry: &'a Retry) -> Self {
        Self { retry, begun: Instant::now(), made: 0, wrong: 0 }
    }

    /// Waits before the next try, or gives `error` back when there is to be none.
    async fn wait_after(&mut self, error: StoreError) -> Result<()> {
        self.made += 1;
        let policy = &self.retry.policy;
        match &error {
            StoreError::Transient { .. } => {}
            StoreError::Wrong { .. } if self.wrong < policy.wrong_retries => self.wrong += 1,
            _ => {
                self.retry.reached.store(true, Ordering::Relaxed);
                return Err(error);
            }
        }
        let reached = self.retry.reached.load(Ordering::Relaxed);
        let deadline = if reached { policy.deadline } else { policy.first_deadline };
        let wait = self.next_wait().max(s3::retry_after(&error).unwrap_or_default());
        if self.made >= policy.attempts || self.begun.elapsed() + wait > deadline {
            return Err(self.give_up(error));
        }
        tracing::warn!(tries = self.made, wait_ms = wait.as_millis() as u64, "{}", describe(&error));
        // Where nothing is to be waited for no timer is needed, and a simulation has none.
        if !wait.is_zero() {
            sleep(wait).await;
        }
        Ok(())
    }

    fn next_wait(&self) -> Duration {
        let policy = &self.retry.policy;
        let doubled = policy.first_wait.saturating_mul(1 << (self.made - 1).min(20));
        doubled.min(policy.max_wait).mul_f64(random_fraction())
    }

    fn give_up(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::Transient { what, source } if self.made > 1 => {
                let what = format!("{what} ({} tries in {} s)", self.made, self.begun.elapsed().as_secs());
                StoreError::Transient { what, source }
            }
            error => error,
        }
    }
}

fn describe(error: &StoreError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// Uniform in 0..1; without randomness the middle, which is a wait like any other.
fn random_fraction() -> f64 {
    getrandom::u32().map_or(0.5, |n| f64::from(n) / (f64::from(u32::MAX) + 1.0))
}

#[async_trait]
impl Store for Retry {
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
        let mut tries = Tries::new(self);
        loop {
            match self.inner.put_new(key, body.clone()).await {
                Err(StoreError::Exists { .. }) if tries.made > 0 && self.is_ours(key, &body).await? => return Ok(()),
                // An answer that cannot be understood to a write says nothing about its effect: not tried again.
                Err(error @ StoreError::Wrong { .. }) => return Err(error),
                Err(error) => tries.wait_after(error).await?,
                Ok(()) => {
                    self.reached.store(true, Ordering::Relaxed);
                    return Ok(());
                }
            }
        }
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<()> {
        self.again(|| self.inner.put(key, body.clone())).await
    }

    async fn get(&self, key: &Key, max: u64) -> Result<Bytes> {
        self.again(|| self.inner.get(key, max)).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.again(|| self.inner.get_range(key, range.clone())).await
    }

    async fn head(&self, key: &Key) -> Result<u64> {
        self.again(|| self.inner.head(key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>) -> Result<Page> {
        self.again(|| self.inner.list(prefix, after)).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.again(|| self.inner.delete(key)).await
    }
}

/// Reached only through `keeper`, which says whether the inner store is one.
const KEEPER: &str = "a store that keeps versions";

#[async_trait]
impl Keeper for Retry {
    fn root(&self) -> String {
        self.inner.keeper().expect(KEEPER).root()
    }

    async fn promises(&self) -> Result<Promises> {
        self.again(|| self.inner.keeper().expect(KEEPER).promises()).await
    }

    async fn retain(&self, key: &Key, retention: Retention) -> Result<()> {
        self.again(|| self.inner.keeper().expect(KEEPER).retain(key, retention)).await
    }

    async fn retention(&self, key: &Key) -> Result<Option<Retention>> {
        self.again(|| self.inner.keeper().expect(KEEPER).retention(key)).await
    }

    async fn held_page(&self, after: Option<&HeldAfter>) -> Result<HeldPage> {
        self.again(|| self.inner.keeper().expect(KEEPER).held_page(after)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Verb;
    use crate::store::fault::{Effect, Fault, Rule};
    use crate::store::memory::Memory;

    fn quick() -> Policy {
        let ms = Duration::from_millis;
        Policy {
            first_wait: ms(1),
            max_wait: ms(4),
            attempts: 5,
            deadline: ms(5000),
            first_deadline: ms(5000),
            wrong_retries: WRONG_RETRIES,
        }
    }

    fn key(text: &str) -> Key {
        Key::new(text).expect("a key")
    }

    fn stores() -> (Arc<Memory>, Arc<Fault>, Retry) {
        let memory = Arc::new(Memory::new());
        let fault = Arc::new(Fault::new(memory.clone(), 1));
        (memory, fault.clone(), Retry::new(fault, quick()))
    }

    #[tokio::test]
    async fn lost_answer_to_a_create_is_success_only_with_our_bytes() {
        let (memory, fault, retry) = stores();
        fault.add(Rule::on(Verb::PutNew, "a").effect(Effect::ErrorAfter).times(1));
        retry.put_new(&key("a"), "mine".into()).await.unwrap();
        assert_eq!(memory.get(&key("a"), 9).await.unwrap(), "mine");

        // Somebody else creates it before our second try.
        fault.add(Rule::on(Verb::PutNew, "b").effect(Effect::ErrorBefore).times(1));
        memory.put(&key("b"), "others".into()).await.unwrap();
        for body in ["mine", "others and more", "o", "longer"] {
            fault.add(Rule::on(Verb::PutNew, "b").effect(Effect::ErrorBefore).times(1));
            assert!(retry.put_new(&key("b"), body.into()).await.unwrap_err().is_exists(), "{body}");
        }
        assert_eq!(memory.get(&key("b"), 9).await.unwrap(), "others");
    }

    #[tokio::test]
    async fn exists_at_the_first_try_is_never_ours() {
        let (memory, _, retry) = stores();
        memory.put(&key("a"), "same".into()).await.unwrap();
        assert!(retry.put_new(&key("a"), "same".into()).await.unwrap_err().is_exists());
    }

    #[tokio::test]
    async fn patience_ends() {
        let (memory, fault, retry) = stores();
        fault.add(Rule::any().effect(Effect::ErrorBefore));
        let error = retry.get(&key("a"), 9).await.unwrap_err();
        assert!(error.is_transient() && error.to_string().contains("5 tries"), "{error}");
        assert_eq!(fault.calls(), 5);
        drop(memory);
    }

    #[tokio::test]
    async fn lasting_errors_are_not_tried_again() {
        let (_, fault, retry) = stores();
        assert!(retry.get(&key("a"), 9).await.unwrap_err().is_not_found());
        assert_eq!(fault.calls(), 1);
    }

    #[tokio::test]
    async fn wrong_answers_to_reads_are_asked_again_a_little() {
        let (memory, fault, retry) = stores();
        memory.put(&key("a"), "0123456789".into()).await.unwrap();
        assert!(matches!(retry.get_range(&key("a"), 5..20).await, Err(StoreError::Wrong { .. })));
        assert_eq!(fault.calls(), u64::from(1 + WRONG_RETRIES));
        let disk = Retry::new(fault.clone(), Policy { wrong_retries: 0, ..quick() });
        assert!(matches!(disk.get_range(&key("a"), 5..20).await, Err(StoreError::Wrong { .. })));
        assert_eq!(fault.calls(), u64::from(2 + WRONG_RETRIES));
    }
}
