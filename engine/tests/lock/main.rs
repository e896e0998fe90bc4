//! `prune --lock-extend` and deletes that a lock refuses, over a store that says how it keeps what it keeps.
#![allow(missing_docs, unreachable_pub)]

mod vault;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use copal_engine::chunker::Params;
use copal_engine::crypto::rng::SystemRng;
use copal_engine::format::bundle::{Bundle, Identity};
use copal_engine::ops::backup::{self, backup};
use copal_engine::ops::check::{self, check};
use copal_engine::ops::prune::{Extend, Limit, Options, Policy, Summary, prune};
use copal_engine::progress::{Cancel, Collect, Silent};
use copal_engine::repo::{self, Bridge, Locked, Opener, Repository};
use copal_engine::store::memory::Memory;
use copal_engine::store::record::Record;
use copal_engine::store::retention::{Mode, ObjectLock};
use copal_engine::store::{Key, Store, Verb};
use copal_engine::{Error, Result};

use vault::{LOCK, STRICT, Vault, now};

const DAY: u64 = 86_400;

struct Bench {
    dir: tempfile::TempDir,
    vault: Arc<Vault>,
    record: Arc<Record>,
    bundle: Bundle,
    bridge: Bridge,
}

impl Bench {
    /// A repository with two snapshots, of which the first is forgotten: some packs may go.
    fn new(lock: Option<ObjectLock>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let vault = Arc::new(Vault::new(lock));
        let record = Arc::new(Record::new(vault.clone()));
        let (params, bridge) = (Params::with_average(64 << 10).unwrap(), Bridge::start().unwrap());
        let options = repo::Options::new(dir.path().join("owner"));
        let (mut repo, _) = repo::init(record.clone(), bridge.clone(), params, options, &mut SystemRng).unwrap();
        repo.identity(&mut SystemRng).unwrap();
        let bundle = repo.bundle().clone();
        let bench = Self { dir, vault, record, bundle, bridge };
        bench.backup(1);
        bench.backup(2);
        let repo = bench.open().0;
        let first = repo.view().unwrap().snapshots[0].at;
        repo.forget(&[first]).unwrap();
        bench
    }

    fn open(&self) -> (Arc<Repository>, Identity) {
        let options = repo::Options::new(self.dir.path().join("owner"));
        let found = Locked::find(self.record.clone(), self.bridge.clone()).unwrap();
        let mut repo = found.unlock(Opener::Bundle(Box::new(self.bundle.clone())), options).unwrap();
        let who = repo.identity(&mut SystemRng).unwrap();
        (Arc::new(repo), who)
    }

    fn backup(&self, seed: u8) {
        let source = self.dir.path().join("source");
        fs::create_dir_all(&source).unwrap();
        let mut bytes = vec![0; 300_000];
        blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
        fs::write(source.join("file"), bytes).unwrap();
        let options = backup::Options {
            host: b"host".to_vec(),
            user: (b"user".to_vec(), 0, 0),
            program: b"test".to_vec(),
            ..backup::Options::new(vec![source])
        };
        let (repo, who) = self.open();
        backup(&repo, &who, Box::new(SystemRng), &options, &Silent, &Cancel::default()).unwrap();
    }

    fn prune(&self, days: u64) -> Result<(Summary, Vec<String>)> {
        self.prune_with(Options { lock: Some(extend(days)), ..ALL })
    }

    fn prune_with(&self, options: Options) -> Result<(Summary, Vec<String>)> {
        let ((repo, who), problems) = (self.open(), Collect::default());
        let done = prune(&repo, &who, Box::new(SystemRng), &options, &problems, &Cancel::default())?;
        Ok((done, problems.0.into_inner().unwrap().iter().map(ToString::to_string).collect()))
    }

    fn calls(&self) -> (usize, usize) {
        let log = self.record.take();
        let count = |verb| log.iter().filter(|op| op.verb == verb).count();
        (count(Verb::Retention), count(Verb::Retain))
    }

    fn is_clean(&self) {
        let repo = self.open().0;
        let read = check::Read::All;
        let options = check::Options { read, max_age: None, max_duration: None, with_cache: false, seed: 0 };
        let report = check(&repo, &options, &Silent, &Cancel::default()).unwrap();
        assert_eq!((report.errors, report.snapshots), (0, 1), "{:?}", report.findings);
    }
}

const ALL: Options = Options {
    policy: Policy { max_unused: Limit::Bytes(0), max_repack: None },
    dry_run: false,
    exclusive: false,
    yes: false,
    probe: false,
    as_if_forgotten: Vec::new(),
    lock: None,
};

fn extend(days: u64) -> Extend {
    Extend { by: Duration::from_secs(days * DAY), mode: None }
}

/// Of every kind that a restore needs, and nothing that comes and goes.
#[test]
fn what_is_live_is_retained_and_nothing_else() {
    let bench = Bench::new(LOCK);
    let (done, problems) = bench.prune(30).unwrap();
    assert_eq!(problems, [""; 0]);
    assert!(done.done.deleted.packs > 0 && done.done.deleted.locked.objects == 0, "{done:?}");
    let extended = done.extended.unwrap();
    assert_eq!((extended.objects, extended.failed, extended.mode), (extended.extended, 0, Mode::Governance));
    let all = bench.vault.keys("");
    let (kept, rest): (Vec<&Key>, Vec<&Key>) = all.iter().partition(|k| bench.vault.until(k).is_some());
    assert_eq!(kept.len() as u64, extended.objects);
    for key in &kept {
        let until = bench.vault.until(key).unwrap();
        assert!(until >= now() + 30 * DAY - 60 && until <= now() + 30 * DAY, "{key} {until}");
    }
    for kind in ["cfg/", "pack/", "idx/", "base/", "snap/"] {
        assert!(kept.iter().any(|k| k.as_str().starts_with(kind)), "{kind} {kept:?}");
    }
    // A tombstone of the prune's own session stands below snap/.
    let may_go = |k: &&&Key| ["pin/", "check/", "snap/"].iter().any(|p| k.as_str().starts_with(p));
    assert_eq!(rest.iter().filter(may_go).count(), rest.len(), "{rest:?}");
    bench.is_clean();
}

#[test]
fn a_repeat_asks_once_an_object_and_extends_in_time() {
    let bench = Bench::new(LOCK);
    let live = bench.prune(30).unwrap().0.extended.unwrap().objects;
    let calls = bench.calls();
    assert_eq!(calls, (2 * live as usize, live as usize), "asked, set, read back");
    let again = bench.prune(30).unwrap().0.extended.unwrap();
    assert_eq!((again.objects, again.extended), (live, 0));
    assert_eq!(bench.calls(), (live as usize, 0));
    bench.vault.age(16 * DAY);
    let dry = bench.prune_with(Options { dry_run: true, lock: Some(extend(30)), ..ALL }).unwrap().0;
    assert_eq!((dry.extended.unwrap().extended, bench.calls().1), (live, 0));
    assert_eq!(bench.prune(30).unwrap().0.extended.unwrap().extended, live);
}

#[test]
fn a_retention_that_does_not_stick_is_named() {
    let bench = Bench::new(STRICT);
    bench.prune_with(ALL).unwrap();
    let pack = bench.vault.keys("pack/")[0].clone();
    bench.vault.slippery.lock().unwrap().insert(pack.clone());
    let (done, problems) = bench.prune(30).unwrap();
    let extended = done.extended.unwrap();
    assert_eq!((extended.failed, extended.extended, extended.mode), (1, extended.objects - 1, Mode::Compliance));
    assert!(
        problems.len() == 1 && problems[0].contains(pack.as_str()) && problems[0].contains("has none"),
        "{problems:?}"
    );
}

/// Whoever has locked what goes: the prune is done, and what is left goes once it is free.
#[test]
fn what_a_lock_holds_goes_with_a_later_prune() {
    let bench = Bench::new(LOCK);
    for key in bench.vault.keys("") {
        let wanted = copal_engine::store::retention::Retention { mode: Mode::Compliance, until: now() + 5 * DAY };
        bench.vault.kept.lock().unwrap().insert(key, wanted);
    }
    let before = bench.vault.keys("pack/").len();
    let done = bench.prune_with(ALL).unwrap().0;
    let locked = done.done.deleted.locked;
    assert!(done.generation.is_some() && done.done.deleted.packs == 0 && locked.objects > 0, "{done:?}");
    assert!(locked.bytes > 0 && locked.until > now() + 4 * DAY, "{locked:?}");
    assert!(bench.vault.keys("pack/").len() >= before);
    bench.is_clean();
    // Again and again, beside backups that go on, and not one of them brings anything back.
    bench.backup(2);
    let repo = bench.open().0;
    let oldest = repo.view().unwrap().snapshots[0].at;
    repo.forget(&[oldest]).unwrap();
    let again = bench.prune_with(ALL).unwrap().0.done.deleted;
    assert!(again.locked.bytes >= locked.bytes, "{again:?}");
    bench.is_clean();
    bench.vault.age(6 * DAY);
    let last = bench.prune_with(ALL).unwrap().0;
    assert!(last.done.deleted.bytes >= locked.bytes && last.done.deleted.locked.objects == 0, "{last:?}");
    assert_eq!(bench.prune_with(ALL).unwrap().0.plan.unlisted.len(), 0);
    bench.is_clean();
}

#[test]
fn a_refusal_without_a_lock_is_one_for_want_of_rights() {
    let bench = Bench::new(LOCK);
    bench.vault.denies.store(true, Ordering::Relaxed);
    assert!(matches!(bench.prune_with(ALL), Err(Error::Store(_))));
    bench.vault.denies.store(false, Ordering::Relaxed);
    bench.prune_with(ALL).unwrap();
    bench.is_clean();
}

#[test]
fn where_nothing_can_be_locked_nothing_is_done() {
    let bench = Bench::new(None);
    let before = bench.vault.keys("");
    let error = bench.prune(30).unwrap_err();
    assert!(
        matches!(&error, Error::Invalid(why) if why.contains("no Object Lock") && why.contains("copal copy")),
        "{error}"
    );
    assert_eq!(bench.vault.keys(""), before);
    let strict = Bench::new(STRICT);
    let too_short = strict.prune_with(Options { lock: Some(Extend { by: Duration::from_secs(9), mode: None }), ..ALL });
    assert!(matches!(too_short, Err(Error::Invalid(_))));
    // A directory is no bucket, and neither is memory.
    assert!(Memory::new().keeper().is_none());
}
