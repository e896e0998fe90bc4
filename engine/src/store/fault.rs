//! Faults on purpose: for tests that ask what happens when a store fails, lies or stops.
//!
//! Rules are looked at in the order they were added; the first that fires decides the call. Random rules draw from one
//! seeded stream, so a run without concurrency repeats exactly.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::retention::{HeldAfter, HeldPage, Keeper, Promises, Retention};
use super::{Key, Page, Result, Store, StoreError, Verb};

/// What happens to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// A transient error; nothing was done.
    ErrorBefore,
    /// Done, and a transient error all the same: the answer was lost.
    ErrorAfter,
    /// Success is reported and nothing was done (writes); other verbs fail as with [`Effect::ErrorBefore`].
    Lost,
    /// No room, nothing done.
    Full,
    /// Done after a while.
    Delay(Duration),
    /// A read gives its first half only; a write stores its first half only. Both report success.
    Short,
    /// One bit of the bytes read, or stored, is flipped.
    Corrupt,
    /// A LIST misses the newest `n` keys that were created through this wrapper.
    StaleList(usize),
    /// A LIST ends after its first half and says that nothing follows.
    ShortList,
    /// Nothing was done, and every later call fails: the process died before it.
    CrashBefore,
    /// Done, and every later call fails: the process died after it.
    CrashAfter,
}

/// Which calls are hit.
#[derive(Debug, Clone)]
pub struct Rule {
    verb: Option<Verb>,
    prefix: String,
    /// Matching calls that pass before the first hit.
    skip: u64,
    /// Hits before the rule is spent.
    times: u64,
    /// Hits per million matching calls.
    chance: u32,
    effect: Effect,
}

impl Rule {
    /// All calls of `verb` whose key (or LIST prefix) starts with `prefix`.
    pub fn on(verb: Verb, prefix: &str) -> Self {
        Self { verb: Some(verb), prefix: prefix.into(), ..Self::any() }
    }

    /// All calls.
    pub fn any() -> Self {
        let effect = Effect::ErrorBefore;
        Self { verb: None, prefix: String::new(), skip: 0, times: u64::MAX, chance: 1_000_000, effect }
    }

    /// What happens to them; a transient error before the call unless said.
    pub fn effect(self, effect: Effect) -> Self {
        Self { effect, ..self }
    }

    /// Lets the first `n` matching calls pass.
    pub fn skip(self, n: u64) -> Self {
        Self { skip: n, ..self }
    }

    /// Hits `n` calls and no more.
    pub fn times(self, n: u64) -> Self {
        Self { times: n, ..self }
    }

    /// Hits this many of a million matching calls, by the wrapper's seed.
    pub fn per_million(self, chance: u32) -> Self {
        Self { chance, ..self }
    }

    fn matches(&self, verb: Verb, key: &str) -> bool {
        self.times > 0 && self.verb.is_none_or(|v| v == verb) && key.starts_with(&self.prefix)
    }
}

/// A store that misbehaves as told.
#[derive(Debug)]
pub struct Fault {
    inner: Arc<dyn Store>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    rules: Vec<Rule>,
    random: u64,
    calls: u64,
    crashed: bool,
    /// Keys created here, oldest first.
    created: Vec<Key>,
}

impl Fault {
    /// Wraps `inner`; well-behaved until a rule is added.
    pub fn new(inner: Arc<dyn Store>, seed: u64) -> Self {
        let state = State { rules: Vec::new(), random: seed, calls: 0, crashed: false, created: Vec::new() };
        Self { inner, state: Mutex::new(state) }
    }

    /// Adds a rule behind those that are there.
    pub fn add(&self, rule: Rule) {
        self.lock().rules.push(rule);
    }

    /// Removes all rules; a crash stays.
    pub fn clear(&self) {
        self.lock().rules.clear();
    }

    /// Calls so far, failed ones included.
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// Whether a crash has happened.
    pub fn crashed(&self) -> bool {
        self.lock().crashed
    }

    /// Lets calls through again after a crash, as a new process would.
    pub fn revive(&self) {
        self.lock().crashed = false;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of the call, waits out a delay and fails where nothing is to be done; else says what to spoil.
    async fn before(&self, verb: Verb, key: &str) -> Result<Option<Effect>> {
        let effect = self.lock().choose(verb, key);
        let what = || format!("{verb} {key}");
        match effect {
            Some(Effect::ErrorBefore) => Err(injected(what())),
            Some(Effect::Lost) if !matches!(verb, Verb::Put | Verb::PutNew | Verb::Delete | Verb::Retain) => {
                Err(injected(what()))
            }
            Some(Effect::Full) => Err(StoreError::Full { what: what(), source: "injected".into() }),
            Some(Effect::CrashBefore) => Err(StoreError::Failed { what: what(), source: "injected crash".into() }),
            Some(Effect::Delay(time)) => {
                tokio::time::sleep(time).await;
                Ok(None)
            }
            other => Ok(other),
        }
    }

    /// The result of a call that was let through.
    fn after<T>(&self, verb: Verb, key: &str, effect: Option<Effect>, done: Result<T>) -> Result<T> {
        let what = || format!("{verb} {key}");
        match effect {
            Some(Effect::ErrorAfter) => Err(injected(what())),
            Some(Effect::CrashAfter) => Err(StoreError::Failed { what: what(), source: "injected crash".into() }),
            _ => done,
        }
    }

    fn spoil(&self, body: Bytes, effect: &Option<Effect>) -> Bytes {
        match effect {
            Some(Effect::Short) => body.slice(..body.len() / 2),
            Some(Effect::Corrupt) if !body.is_empty() => {
                let mut bytes = body.to_vec();
                let bit = self.lock().next_random() % (bytes.len() as u64 * 8);
                bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
                bytes.into()
            }
            _ => body,
        }
    }

    async fn write(&self, verb: Verb, key: &Key, body: Bytes) -> Result<()> {
        let effect = self.before(verb, key.as_str()).await?;
        if effect == Some(Effect::Lost) {
            return Ok(());
        }
        let body = self.spoil(body, &effect);
        let done = match verb {
            Verb::PutNew => self.inner.put_new(key, body).await,
            _ => self.inner.put(key, body).await,
        };
        if done.is_ok() {
            let mut state = self.lock();
            state.created.retain(|k| k != key);
            state.created.push(key.clone());
        }
        self.after(verb, key.as_str(), effect, done)
    }

    fn spoil_page(&self, page: &mut Page, effect: &Option<Effect>) {
        match effect {
            Some(Effect::StaleList(n)) => {
                let state = self.lock();
                let hidden = &state.created[state.created.len().saturating_sub(*n)..];
                page.objects.retain(|l| !hidden.contains(&l.key));
            }
            Some(Effect::ShortList) => {
                page.objects.truncate(page.objects.len() / 2);
                page.more = false;
            }
            _ => {}
        }
    }
}

impl State {
    fn choose(&mut self, verb: Verb, key: &str) -> Option<Effect> {
        self.calls += 1;
        if self.crashed {
            return Some(Effect::CrashBefore);
        }
        for n in 0..self.rules.len() {
            if !self.rules[n].matches(verb, key) {
                continue;
            }
            if self.rules[n].skip > 0 {
                self.rules[n].skip -= 1;
                continue;
            }
            let chance = u64::from(self.rules[n].chance);
            if chance < 1_000_000 && self.next_random() % 1_000_000 >= chance {
                continue;
            }
            self.rules[n].times = self.rules[n].times.saturating_sub(1);
            let effect = self.rules[n].effect.clone();
            self.crashed = matches!(effect, Effect::CrashBefore | Effect::CrashAfter);
            return Some(effect);
        }
        None
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn injected(what: String) -> StoreError {
    StoreError::Transient { what, source: "injected fault".into() }
}

#[async_trait]
impl Store for Fault {
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
        self.write(Verb::PutNew, key, body).await
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<()> {
        self.write(Verb::Put, key, body).await
    }

    async fn get(&self, key: &Key, max: u64) -> Result<Bytes> {
        let effect = self.before(Verb::Get, key.as_str()).await?;
        let done = self.inner.get(key, max).await.map(|body| self.spoil(body, &effect));
        self.after(Verb::Get, key.as_str(), effect, done)
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        let effect = self.before(Verb::GetRange, key.as_str()).await?;
        let done = self.inner.get_range(key, range).await.map(|body| self.spoil(body, &effect));
        self.after(Verb::GetRange, key.as_str(), effect, done)
    }

    async fn head(&self, key: &Key) -> Result<u64> {
        let effect = self.before(Verb::Head, key.as_str()).await?;
        let done = self.inner.head(key).await;
        self.after(Verb::Head, key.as_str(), effect, done)
    }

    async fn list(&self, prefix: &str, after: Option<&Key>) -> Result<Page> {
        let effect = self.before(Verb::List, prefix).await?;
        let mut done = self.inner.list(prefix, after).await;
        if let Ok(page) = &mut done {
            self.spoil_page(page, &effect);
        }
        self.after(Verb::List, prefix, effect, done)
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let effect = self.before(Verb::Delete, key.as_str()).await?;
        if effect == Some(Effect::Lost) {
            return Ok(());
        }
        let done = self.inner.delete(key).await;
        self.after(Verb::Delete, key.as_str(), effect, done)
    }
}

/// Reached only through `keeper`, which says whether the inner store is one.
const KEEPER: &str = "a store that keeps versions";

#[async_trait]
impl Keeper for Fault {
    fn root(&self) -> String {
        self.inner.keeper().expect(KEEPER).root()
    }

    async fn promises(&self) -> Result<Promises> {
        let effect = self.before(Verb::Promises, "").await?;
        let done = self.inner.keeper().expect(KEEPER).promises().await;
        self.after(Verb::Promises, "", effect, done)
    }

    async fn retain(&self, key: &Key, retention: Retention) -> Result<()> {
        let effect = self.before(Verb::Retain, key.as_str()).await?;
        if effect == Some(Effect::Lost) {
            return Ok(());
        }
        let done = self.inner.keeper().expect(KEEPER).retain(key, retention).await;
        self.after(Verb::Retain, key.as_str(), effect, done)
    }

    async fn retention(&self, key: &Key) -> Result<Option<Retention>> {
        let effect = self.before(Verb::Retention, key.as_str()).await?;
        let done = self.inner.keeper().expect(KEEPER).retention(key).await;
        self.after(Verb::Retention, key.as_str(), effect, done)
    }

    async fn held_page(&self, after: Option<&HeldAfter>) -> Result<HeldPage> {
        let effect = self.before(Verb::Versions, "").await?;
        let done = self.inner.keeper().expect(KEEPER).held_page(after).await;
        self.after(Verb::Versions, "", effect, done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{list_all, memory::Memory};

    fn key(text: &str) -> Key {
        Key::new(text).expect("a key")
    }

    fn stores() -> (Arc<Memory>, Fault) {
        let memory = Arc::new(Memory::new());
        (memory.clone(), Fault::new(memory, 7))
    }

    #[tokio::test]
    async fn a_rule_hits_what_it_names_and_no_more() {
        let (memory, fault) = stores();
        fault.add(Rule::on(Verb::Put, "pack/").skip(1).times(1));
        fault.put(&key("pack/1"), "1".into()).await.unwrap();
        fault.put(&key("idx/1"), "1".into()).await.unwrap();
        assert!(fault.put(&key("pack/2"), "1".into()).await.unwrap_err().is_transient());
        fault.put(&key("pack/3"), "1".into()).await.unwrap();
        assert_eq!(memory.snapshot().len(), 3);
    }

    #[tokio::test]
    async fn writes_can_be_lost_cut_or_acknowledged_late() {
        let (memory, fault) = stores();
        for (name, effect, stored) in [
            ("lost", Effect::Lost, None),
            ("short", Effect::Short, Some(5)),
            ("after", Effect::ErrorAfter, Some(10)),
            ("full", Effect::Full, None),
        ] {
            fault.clear();
            fault.add(Rule::any().effect(effect));
            let _ = fault.put(&key(name), "0123456789".into()).await;
            assert_eq!(memory.snapshot().get(name).map(Bytes::len), stored, "{name}");
        }
        fault.clear();
        fault.add(Rule::any().effect(Effect::Corrupt));
        memory.put(&key("x"), vec![0; 100].into()).await.unwrap();
        let read = fault.get(&key("x"), 100).await.unwrap();
        assert_eq!(read.iter().map(|b| b.count_ones()).sum::<u32>(), 1, "one bit is flipped");
    }

    #[tokio::test]
    async fn a_crash_lasts_until_revived() {
        let (memory, fault) = stores();
        fault.add(Rule::any().skip(1).times(1).effect(Effect::CrashAfter));
        fault.put(&key("a"), "1".into()).await.unwrap();
        fault.put(&key("b"), "1".into()).await.unwrap_err();
        assert!(fault.crashed() && fault.put(&key("c"), "1".into()).await.is_err());
        assert_eq!(memory.snapshot().len(), 2, "the last one took effect");
        fault.revive();
        fault.put(&key("c"), "1".into()).await.unwrap();
    }

    #[tokio::test]
    async fn lists_can_be_stale_or_short() {
        let (_, fault) = stores();
        for name in ["a", "c", "b"] {
            fault.put(&key(name), "1".into()).await.unwrap();
        }
        fault.add(Rule::any().effect(Effect::StaleList(2)).times(1));
        fault.add(Rule::any().effect(Effect::ShortList).times(1));
        assert_eq!(list_all(&fault, "").await.unwrap().len(), 1);
        assert_eq!(list_all(&fault, "").await.unwrap().len(), 1);
        assert_eq!(list_all(&fault, "").await.unwrap().len(), 3);
    }

    #[tokio::test]
    async fn random_faults_repeat_with_their_seed() {
        let run = |seed| async move {
            let fault = Fault::new(Arc::new(Memory::new()), seed);
            fault.add(Rule::any().per_million(300_000));
            let mut hits = Vec::new();
            for n in 0..100 {
                hits.push(fault.put(&key(&format!("{n}")), Bytes::new()).await.is_err());
            }
            hits
        };
        let first = run(1).await;
        assert_eq!(first, run(1).await);
        assert_ne!(first, run(2).await);
        assert!((10..60).contains(&first.iter().filter(|hit| **hit).count()));
    }
}
