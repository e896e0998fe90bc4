//! A crash anywhere while a repository is made.

use std::sync::Arc;

use copal_engine::chunker::Params;
use copal_engine::crypto::kdf::RecoveryCode;
use copal_engine::crypto::rng::SeededRng;
use copal_engine::format::bundle::Role;
use copal_engine::repo::key_admin::NewLock;
use copal_engine::repo::{self, Bridge, Locked, Opener, Repository};
use copal_engine::store::Store;
use copal_engine::store::fault::{Effect, Fault, Rule};
use copal_engine::store::memory::Memory;
use copal_engine::{Error, Result};

struct Place {
    dir: tempfile::TempDir,
    memory: Arc<Memory>,
    fault: Arc<Fault>,
    bridge: Bridge,
}

impl Place {
    fn new() -> Self {
        let memory = Arc::new(Memory::new());
        let fault = Arc::new(Fault::new(memory.clone(), 1));
        Self { dir: tempfile::tempdir().unwrap(), memory, fault, bridge: Bridge::start().unwrap() }
    }

    fn options(&self) -> repo::Options {
        repo::Options::new(self.dir.path().join("local"))
    }

    /// Makes a repository whose key is a slot for `code`.
    fn init(&self, seed: u64, code: &RecoveryCode) -> Result<()> {
        let store: Arc<dyn Store> = self.fault.clone();
        let mut rng = SeededRng::new(seed.to_le_bytes());
        let keep = |repo: &Repository| {
            let mut rng = SeededRng::new((seed + 1000).to_le_bytes());
            repo.add_slot(Role::Owner, NewLock::RecoveryCode(code), b"", &mut rng).map(drop)
        };
        repo::init_keeping(store, self.bridge.clone(), Params::DEFAULT, self.options(), &mut rng, keep).map(drop)
    }

    fn open(&self, code: &RecoveryCode) -> Result<Repository> {
        let store: Arc<dyn Store> = self.memory.clone();
        Locked::find(store, self.bridge.clone())?.unlock(Opener::RecoveryCode(code.key()), self.options())
    }

    fn slots(&self) -> usize {
        self.memory.snapshot().keys().filter(|k| k.as_str().starts_with("key/")).count()
    }
}

#[test]
fn a_crash_anywhere_in_init_leaves_no_repository_without_a_key() {
    let code = |n: u64| RecoveryCode::generate(&mut SeededRng::new(n.to_le_bytes()));
    let place = Place::new();
    place.init(0, &code(0)).unwrap();
    // The probe races: how many calls it makes may vary by a few.
    let calls = place.fault.calls();
    let (mut made, mut unmade) = (0, 0);
    for n in calls.saturating_sub(12)..calls + 3 {
        for effect in [Effect::CrashBefore, Effect::CrashAfter] {
            let place = Place::new();
            place.fault.add(Rule::any().skip(n).times(1).effect(effect.clone()));
            let done = place.init(1, &code(1));
            place.fault.clear();
            place.fault.revive();
            let what = format!("{effect:?} at call {n} of {calls}");
            match place.open(&code(1)) {
                // It is complete: a second init says so.
                Ok(_) => {
                    made += 1;
                    let again = place.init(2, &code(2));
                    assert!(matches!(again, Err(Error::RepositoryExists { .. })), "{what}: {again:?}");
                }
                // There is none: a second init makes it, and cleans up.
                Err(Error::NoRepository { .. }) => {
                    unmade += 1;
                    assert!(done.is_err(), "{what}");
                    place.init(2, &code(2)).unwrap();
                    place.open(&code(2)).unwrap();
                    assert_eq!(place.slots(), 1, "{what}: the slot of the first is gone");
                }
                Err(e) => panic!("{what}: a repository that its key does not open: {e}"),
            }
        }
    }
    assert!(made > 0 && unmade > 4, "{made} {unmade}");
}
