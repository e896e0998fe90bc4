//! What is read in which run, and what is remembered of it.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use copal_engine::Error;
use copal_engine::format::bundle::Role;
use copal_engine::ops::check::Invariant::I3;
use copal_engine::ops::check::{Options, Read, check};
use copal_engine::progress::{Cancel, Silent};
use copal_engine::store::memory::Memory;
use copal_engine::store::record::Record;
use copal_engine::store::{Key, Page, Store, StoreError, Verb};

use crate::bench::{Bench, noise, only, options};

/// Several packs: one for each backup.
fn many_packs() -> Bench {
    let bench = Bench::empty();
    for n in 0..7 {
        bench.write(&format!("file-{n}"), &noise(n, 50_000));
        bench.backup();
    }
    assert_eq!(bench.keys("pack/").len(), 7);
    bench
}

/// Packs that a check with these options fetched whole, in the order of their keys.
fn fetched(bench: &Bench, options: &Options) -> Vec<String> {
    let record = Arc::new(Record::new(bench.store.clone()));
    let repo = bench.open(&bench.owner, record.clone()).unwrap();
    record.take();
    assert_eq!(check(&repo, options, &Silent, &Cancel::default()).unwrap().findings, []);
    let log = record.take();
    let lists = log.iter().filter(|op| op.verb == Verb::List && op.key == "pack/").count();
    assert_eq!(lists, 1, "packs are listed once");
    let whole = log.into_iter().filter(|op| op.verb == Verb::Get && op.key.starts_with("pack/"));
    let mut keys: Vec<String> = whole.map(|op| op.key).collect();
    keys.sort();
    keys
}

#[test]
fn parts_read_each_pack_once() {
    let bench = many_packs();
    let mut all: Vec<String> = (1..=3).flat_map(|n| fetched(&bench, &options(Read::Part { n, of: 3 }))).collect();
    all.sort();
    let packs: Vec<String> = bench.keys("pack/").iter().map(|key| key.as_str().to_owned()).collect();
    assert_eq!(all, packs);
    assert!(fetched(&bench, &options(Read::Nothing)).is_empty());
}

#[test]
fn shares_are_drawn_and_the_seed_is_said() {
    let bench = many_packs();
    let report = bench.check_with(&Options { seed: 42, ..options(Read::Percent(40.0)) });
    assert_eq!(report.seed, Some(42));
    assert!(report.read.packs >= 2 && report.read.packs < 7);
    let report = bench.check_with(&options(Read::Bytes(1)));
    assert_eq!((report.read.packs, report.read.left), (1, 0));
    assert_eq!(bench.check(Read::All).seed, None);
    for nonsense in [Read::Part { n: 4, of: 3 }, Read::Percent(0.0)] {
        let refused = check(&bench.repo(), &options(nonsense), &Silent, &Cancel::default());
        assert!(matches!(refused, Err(Error::Invalid(_))));
    }
}

#[test]
fn what_was_verified_lately_is_left_out() {
    let bench = many_packs();
    let aged = Options { max_age: Some(Duration::from_secs(3600)), ..options(Read::All) };
    assert_eq!(fetched(&bench, &aged).len(), 7);
    assert_eq!(fetched(&bench, &aged), Vec::<String>::new());
    let report = bench.check_with(&aged);
    assert_eq!((report.read.packs, report.read.fresh), (0, 7));
    // A new pack, and only that one; one verdict stands for all.
    bench.write("file-x", &noise(99, 50_000));
    bench.backup();
    assert_eq!(fetched(&bench, &aged).len(), 1);
    assert_eq!(bench.keys("check/").len(), 1);
    assert_eq!(bench.check_with(&aged).read.fresh, 8);
    assert_eq!(fetched(&bench, &options(Read::All)).len(), 8, "without an age all are read");
    // Nobody else's verdict counts.
    let verdict = bench.keys("check/").remove(0);
    bench.delete(&verdict);
    assert_eq!(fetched(&bench, &aged).len(), 8);
}

#[test]
fn a_damaged_pack_loses_its_verdict() {
    let bench = many_packs();
    let aged = Options { max_age: Some(Duration::from_secs(3600)), ..options(Read::All) };
    bench.check_with(&aged);
    let pack = bench.keys("pack/").remove(3);
    let before = bench.objects()[&pack].clone();
    bench.flip(&pack, 3000);
    assert_eq!(bench.check(Read::All).errors, 1);
    bench.damage(&pack, |_| Some(before.to_vec()));
    assert_eq!(fetched(&bench, &aged), [pack.as_str()]);
}

#[test]
fn a_reader_remembers_on_its_own_machine() {
    let bench = many_packs();
    let bundle = Arc::into_inner(bench.repo()).unwrap().bundle_for(Role::Reader).unwrap();
    let repo = bench.open(&bundle, bench.store.clone()).unwrap();
    let aged = Options { max_age: Some(Duration::from_secs(3600)), ..options(Read::All) };
    let before = bench.objects();
    let run = || check(&repo, &aged, &Silent, &Cancel::default()).unwrap().read;
    assert_eq!((run().packs, run().fresh), (7, 7));
    assert_eq!(bench.objects(), before, "a reader writes nothing");
    // A damaged note is none.
    let note = bench.dir.path().join("reader/state").join(repo.id().to_string()).join("verdict");
    let mut bytes = std::fs::read(&note).unwrap();
    bytes[10] ^= 1;
    std::fs::write(&note, bytes).unwrap();
    assert_eq!(run().packs, 7);
    // What the owner verified is believed.
    std::fs::remove_file(&note).unwrap();
    bench.check(Read::All);
    assert_eq!(run().fresh, 7);
}

#[test]
fn time_that_is_up_leaves_packs_for_the_next_run() {
    let bench = many_packs();
    let none = Options { max_duration: Some(Duration::ZERO), ..options(Read::All) };
    let report = bench.check_with(&none);
    assert_eq!((report.findings.len(), report.read.packs, report.read.left), (0, 0, 7));
    assert!(report.trees > 0, "everything but the reading is done");
    assert!(bench.keys("check/").is_empty());
    let enough = Options { max_duration: Some(Duration::from_secs(3600)), ..options(Read::All) };
    assert_eq!(bench.check_with(&enough).read.left, 0);
}

#[test]
fn an_interrupted_check_remembers_what_it_read() {
    let bench = many_packs();
    let cancel = Arc::new(Cancel::default());
    let (asked, count) = (Arc::clone(&cancel), AtomicUsize::new(0));
    let store = Arc::new(Events::new(&bench.store, move |verb, key| {
        let pack = verb == Verb::Get && key.starts_with("pack/");
        if pack && count.fetch_add(1, Ordering::SeqCst) == 2 {
            asked.cancel();
        }
    }));
    let mut repo_options = copal_engine::repo::Options::new(bench.dir.path().join("slow"));
    repo_options.cache = None;
    repo_options.threads = 1;
    // One pack in memory at a time.
    repo_options.connections = 1;
    let opener = copal_engine::repo::Opener::Bundle(Box::new(bench.owner.clone()));
    let found = copal_engine::repo::Locked::find(store, bench.bridge.clone()).unwrap();
    let repo = Arc::new(found.unlock(opener, repo_options).unwrap());
    let ended = check(&repo, &options(Read::All), &Silent, &cancel);
    assert!(matches!(ended, Err(Error::Interrupted)));
    let aged = Options { max_age: Some(Duration::from_secs(3600)), ..options(Read::All) };
    let rest = bench.check_with(&aged).read;
    assert!(rest.fresh >= 1 && rest.packs >= 1, "{rest:?}");
}

type Watch = dyn Fn(Verb, &str) + Send + Sync;

/// A store that tells of every call before it is made, and may not show a key in its LISTs.
struct Events {
    inner: Arc<Memory>,
    on: Box<Watch>,
    hidden: Option<Key>,
}

impl Events {
    fn new(inner: &Arc<Memory>, on: impl Fn(Verb, &str) + Send + Sync + 'static) -> Self {
        Self { inner: Arc::clone(inner), on: Box::new(on), hidden: None }
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Events")
    }
}

#[async_trait]
impl Store for Events {
    fn location(&self) -> String {
        self.inner.location()
    }
    async fn put_new(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        (self.on)(Verb::PutNew, key.as_str());
        self.inner.put_new(key, body).await
    }
    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        (self.on)(Verb::Put, key.as_str());
        self.inner.put(key, body).await
    }
    async fn get(&self, key: &Key, max: u64) -> Result<Bytes, StoreError> {
        (self.on)(Verb::Get, key.as_str());
        self.inner.get(key, max).await
    }
    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        (self.on)(Verb::GetRange, key.as_str());
        self.inner.get_range(key, range).await
    }
    async fn head(&self, key: &Key) -> Result<u64, StoreError> {
        (self.on)(Verb::Head, key.as_str());
        self.inner.head(key).await
    }
    async fn list(&self, prefix: &str, after: Option<&Key>) -> Result<Page, StoreError> {
        (self.on)(Verb::List, prefix);
        let mut page = self.inner.list(prefix, after).await?;
        page.objects.retain(|listed| Some(&listed.key) != self.hidden.as_ref());
        Ok(page)
    }
    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        (self.on)(Verb::Delete, key.as_str());
        self.inner.delete(key).await
    }
}

#[test]
fn a_backup_or_a_prune_beside_it_is_no_damage() {
    // The last snapshot and its pack go between reading snapshots and listing packs, as a prune would take them.
    let bench = many_packs();
    let inner = Arc::clone(&bench.store);
    let once = AtomicBool::new(true);
    let (snapshot, packs) = (bench.keys("snap/").pop().unwrap(), bench.keys("pack/"));
    let store = Arc::new(Events::new(&bench.store, move |verb, key| {
        if verb == Verb::List && key == "pack/" && once.swap(false, Ordering::SeqCst) {
            let mut objects = inner.snapshot();
            objects.remove(&snapshot);
            objects.remove(packs.last().unwrap());
            inner.restore(objects);
        }
    }));
    let repo = bench.open(&bench.owner, store).unwrap();
    let report = check(&repo, &options(Read::All), &Silent, &Cancel::default()).unwrap();
    assert_eq!((report.findings.clone(), report.snapshots, report.read.packs), (vec![], 6, 6));

    // A backup that runs all the while.
    let bench = Arc::new(many_packs());
    std::thread::scope(|scope| {
        let other = Arc::clone(&bench);
        let backups = scope.spawn(move || {
            for n in 100..106 {
                other.write(&format!("file-{n}"), &noise(n, 60_000));
                other.backup();
            }
        });
        while !backups.is_finished() {
            assert_eq!(bench.check(Read::All).findings, []);
        }
        backups.join().unwrap();
    });
    assert_eq!(bench.check(Read::All).snapshots, 13);
}

#[test]
fn a_list_that_loses_a_key_is_no_damage_and_a_lost_pack_is() {
    let bench = many_packs();
    let pack = bench.keys("pack/").remove(2);
    let lossy = Arc::new(Events { hidden: Some(pack.clone()), ..Events::new(&bench.store, |_, _| {}) });
    let repo = bench.open(&bench.owner, lossy).unwrap();
    assert_eq!(check(&repo, &options(Read::Nothing), &Silent, &Cancel::default()).unwrap().findings, []);
    bench.delete(&pack);
    only(&bench.check(Read::Nothing), pack.as_str(), &[I3]);
}
