//! Finds out whether a store keeps what [`Store`] promises, instead of believing it.
//!
//! Measured on real servers: some answer 200 and ignore the create-only condition; some refuse a second create in
//! sequence but let all of eight racing creators win. A maintainer reads the verdict before it relies on either.
//!
//! **Caveat.** A probe can prove a store wrong, never right: a race that was won cleanly ten times may be lost the
//! eleventh.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use bytes::Bytes;

use super::{Key, Result, Store, StoreError, list_all};
use crate::id::hex;

/// Rounds that `init` and `prune` use.
pub const ROUNDS: usize = 4;
/// Racing creators of a round.
pub const CREATORS: usize = 8;
/// Bytes of a creator's body: more than one TCP segment, so that bodies of racing creators arrive interleaved.
const BODY_BYTES: usize = 4096;

/// How far `put_new` can be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CreateOnly {
    /// Not at all: an existing object is overwritten.
    Ignored,
    /// Against what was there before, not against a race.
    Sequential,
    /// Exactly one of racing creators won, in every round.
    Atomic,
}

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Of `put_new`.
    pub create_only: CreateOnly,
    /// Whether every read and LIST saw the writes and deletes before it.
    pub strong_list: bool,
    /// What was seen, one sentence each; empty when all was well.
    pub details: Vec<String>,
}

impl Verdict {
    /// `atomic`, `sequential` or `ignored`, with `-weak-list` behind it unless reads and LISTs were strong. Stable.
    pub fn word(&self) -> String {
        format!("{}{}", self.create_only, if self.strong_list { "" } else { WEAK_LIST })
    }

    /// The verdict that [`Verdict::word`] made, without details.
    pub fn from_word(word: &str) -> Option<Self> {
        let (create_only, strong_list) = match word.strip_suffix(WEAK_LIST) {
            Some(rest) => (rest, false),
            None => (word, true),
        };
        let create_only = [CreateOnly::Ignored, CreateOnly::Sequential, CreateOnly::Atomic]
            .into_iter()
            .find(|c| c.to_string() == create_only)?;
        Some(Self { create_only, strong_list, details: Vec::new() })
    }

    /// Whether pruning beside running backups may rely on this store.
    pub fn is_sound(&self) -> bool {
        self.create_only == CreateOnly::Atomic && self.strong_list
    }

    /// The worse of two verdicts in each respect.
    pub fn worse(mut self, other: Self) -> Self {
        self.create_only = self.create_only.min(other.create_only);
        self.strong_list &= other.strong_list;
        self.details.extend(other.details);
        self
    }
}

const WEAK_LIST: &str = "-weak-list";

impl fmt::Display for CreateOnly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ignored => "ignored",
            Self::Sequential => "sequential",
            Self::Atomic => "atomic",
        })
    }
}

/// Races `creators` in each of `rounds`, and looks at reads and LISTs on the way.
///
/// Writes below `probe/` and deletes what it wrote; what it could not delete stands in the details. Any error that says
/// nothing about the promises (denied, unreachable) ends the probe without a verdict.
pub async fn probe(store: &dyn Store, rounds: usize, creators: usize) -> Result<Verdict> {
    let mut probe = Probe {
        store,
        run: random_word("probe")?,
        verdict: Verdict { create_only: CreateOnly::Atomic, strong_list: true, details: Vec::new() },
    };
    let outcome = probe.all(rounds, creators).await;
    probe.clean_up(rounds).await;
    outcome?;
    if store.list_may_lag() {
        let detail =
            "the directory lies on a network or FUSE file system, where a LIST of another machine's writes may lag";
        probe.verdict.strong_list = false;
        probe.verdict.details.push(detail.into());
    }
    Ok(probe.verdict)
}

struct Probe<'a> {
    store: &'a dyn Store,
    run: String,
    verdict: Verdict,
}

impl Probe<'_> {
    async fn all(&mut self, rounds: usize, creators: usize) -> Result<()> {
        for round in 0..rounds {
            self.race(round, creators).await?;
        }
        for round in 0..rounds {
            self.delete_and_look(round).await?;
        }
        Ok(())
    }

    fn key(&self, round: usize) -> Key {
        Key::new(format!("{}-{round:x}", self.run)).expect("of the alphabet of keys")
    }

    /// One round: a race, then a create over what it left, and a look at both.
    async fn race(&mut self, round: usize, creators: usize) -> Result<()> {
        let key = self.key(round);
        let bodies: Vec<Bytes> = (0..creators.max(1)).map(|_| random_body()).collect::<Result<_>>()?;
        let calls = bodies.iter().map(|body| self.store.put_new(&key, body.clone())).collect();
        let mut winners = Vec::new();
        for (n, outcome) in join_all(calls).await.into_iter().enumerate() {
            match outcome {
                Ok(()) => winners.push(n),
                Err(StoreError::Exists { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        let stored = self.read(&key, "written").await?;
        match winners[..] {
            [winner] => {
                if stored.is_some_and(|s| s != bodies[winner]) {
                    self.lower(CreateOnly::Sequential, format!("round {round}: the bytes stored are not the winner's"));
                }
            }
            _ => {
                let detail =
                    format!("round {round}: {} of {} racing creators were told they won", winners.len(), bodies.len());
                self.lower(CreateOnly::Sequential, detail);
            }
        }
        self.look_for(&key, true).await?;
        self.create_again(&key, round).await
    }

    async fn create_again(&mut self, key: &Key, round: usize) -> Result<()> {
        let before = self.read(key, "written").await?;
        match self.store.put_new(key, random_body()?).await {
            Err(StoreError::Exists { .. }) => {}
            Ok(()) => {
                self.lower(CreateOnly::Ignored, format!("round {round}: create-only put replaced an existing object"));
                return Ok(());
            }
            Err(e) => return Err(e),
        }
        if self.read(key, "written").await? != before {
            self.lower(CreateOnly::Ignored, format!("round {round}: a refused create changed the object"));
        }
        Ok(())
    }

    async fn delete_and_look(&mut self, round: usize) -> Result<()> {
        let key = self.key(round);
        match self.store.delete(&key).await {
            Ok(()) => {}
            // Without the right to delete the rest can still be told; clean_up reports what stays.
            Err(StoreError::Denied { .. }) => return Ok(()),
            Err(e) => return Err(e),
        }
        match self.store.head(&key).await {
            Err(StoreError::NotFound { .. }) => {}
            Ok(_) => self.weak(format!("{key} was still there after it was deleted")),
            Err(e) => return Err(e),
        }
        self.look_for(&key, false).await
    }

    async fn read(&mut self, key: &Key, what: &str) -> Result<Option<Bytes>> {
        match self.store.get(key, BODY_BYTES as u64).await {
            Ok(body) => Ok(Some(body)),
            Err(StoreError::NotFound { .. }) => {
                self.weak(format!("{key} was not there after it was {what}"));
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    async fn look_for(&mut self, key: &Key, expected: bool) -> Result<()> {
        let listed = list_all(self.store, &self.run).await?.iter().any(|l| l.key == *key);
        if listed != expected {
            let how = if expected {
                "was missing from a LIST after it was written"
            } else {
                "was listed after it was deleted"
            };
            self.weak(format!("{key} {how}"));
        }
        Ok(())
    }

    fn lower(&mut self, to: CreateOnly, detail: String) {
        self.verdict.create_only = self.verdict.create_only.min(to);
        self.verdict.details.push(detail);
    }

    fn weak(&mut self, detail: String) {
        self.verdict.strong_list = false;
        self.verdict.details.push(detail);
    }

    async fn clean_up(&mut self, rounds: usize) {
        for round in 0..rounds {
            let key = self.key(round);
            if let Err(e) = self.store.delete(&key).await {
                let cause = std::error::Error::source(&e).map(|c| format!(": {c}")).unwrap_or_default();
                self.verdict.details.push(format!("{key} is left behind: {e}{cause}"));
            }
        }
    }
}

fn random_body() -> Result<Bytes> {
    let mut body = vec![0; BODY_BYTES];
    getrandom::fill(&mut body).map_err(no_randomness)?;
    Ok(body.into())
}

fn random_word(dir: &str) -> Result<String> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(no_randomness)?;
    Ok(format!("{dir}/{}", hex(&bytes)))
}

fn no_randomness(error: getrandom::Error) -> StoreError {
    StoreError::Failed { what: "probe".into(), source: error.to_string().into() }
}

/// Drives all futures at once and gives their results in order.
async fn join_all<T>(calls: Vec<Pin<Box<dyn Future<Output = T> + Send + '_>>>) -> Vec<T> {
    let mut calls: Vec<_> = calls.into_iter().map(Some).collect();
    let mut results: Vec<Option<T>> = calls.iter().map(|_| None).collect();
    poll_fn(move |context| {
        for (call, result) in calls.iter_mut().zip(&mut results) {
            if let Some(Poll::Ready(value)) = call.as_mut().map(|c| c.as_mut().poll(context)) {
                (*result, *call) = (Some(value), None);
            }
        }
        if calls.iter().any(Option::is_some) {
            return Poll::Pending;
        }
        Poll::Ready(results.iter_mut().map(|r| r.take().expect("each call has ended")).collect())
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::Verb;
    use crate::store::fault::{Effect, Fault, Rule};
    use crate::store::memory::Memory;

    #[tokio::test]
    async fn a_sound_store_is_found_sound_and_left_clean() {
        let memory = Memory::new();
        let verdict = probe(&memory, 3, 8).await.unwrap();
        assert_eq!((verdict.word().as_str(), verdict.details.len()), ("atomic", 0));
        assert!(verdict.is_sound() && memory.snapshot().is_empty());
    }

    #[tokio::test]
    async fn stale_and_lying_stores_are_found_out() {
        for (rule, word) in [
            (Rule::on(Verb::List, "probe/").effect(Effect::StaleList(1)), "atomic-weak-list"),
            (Rule::on(Verb::Put, "").effect(Effect::Corrupt), "atomic"),
            (Rule::on(Verb::PutNew, "").effect(Effect::Corrupt), "sequential"),
            (Rule::on(Verb::Delete, "").effect(Effect::Lost), "atomic-weak-list"),
            (Rule::on(Verb::PutNew, "").effect(Effect::Lost), "ignored-weak-list"),
        ] {
            let fault = Fault::new(Arc::new(Memory::new()), 1);
            fault.add(rule.clone());
            assert_eq!(probe(&fault, 2, 4).await.unwrap().word(), word, "{rule:?}");
        }
    }

    #[tokio::test]
    async fn no_verdict_from_an_unreachable_store() {
        let fault = Fault::new(Arc::new(Memory::new()), 1);
        fault.add(Rule::on(Verb::PutNew, "").skip(5));
        assert!(probe(&fault, 2, 4).await.unwrap_err().is_transient());
    }

    #[test]
    fn words_are_stable() {
        for word in ["atomic", "sequential", "ignored", "atomic-weak-list", "sequential-weak-list", "ignored-weak-list"]
        {
            assert_eq!(Verdict::from_word(word).expect(word).word(), word);
        }
        assert_eq!(Verdict::from_word("strong"), None);
        let of = |word| Verdict::from_word(word).expect("a word");
        assert_eq!(of("atomic-weak-list").worse(of("ignored")).word(), "ignored-weak-list");
    }
}
