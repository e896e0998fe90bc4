//! Sessions beside prunes. The prunes are made by hand here: a condemn, perhaps a tombstone or a base, and what the rules
//! then let them delete.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use copal_engine::Error;
use copal_engine::crypto::sign::SigningKey;
use copal_engine::format::base::{Base, SIGNED_BY_ROOT};
use copal_engine::format::gc::{Ack, At, Condemn, Kind, PackRef, Sweep, Tombstone};
use copal_engine::format::objects::{self, Parsed};
use copal_engine::id::{PackId, SessionId, WriterId};
use copal_engine::ops::backup::{Summary, backup};
use copal_engine::progress::{Cancel, Problem, Progress, Silent};
use copal_engine::repo::{Reader, Repository};
use copal_engine::store::fault::{Effect, Rule};
use copal_engine::store::grace::Grace;
use copal_engine::store::{Key, Store, Verb};

use crate::bench::{Bench, change_source, make_source, noise, on_disk, options, read_snapshot, same_content, settle};
use crate::hooked::Hooked;

impl Bench {
    fn repo(&self) -> Repository {
        self.open().unwrap()
    }

    fn seal<K: Kind>(&self, repo: &Repository, object: String, value: &K) {
        let at = At { repository: repo.id(), object: &object, keys: repo.graph_keys() };
        let stored = value.encode(at, SIGNED_BY_ROOT, &self.root());
        self.put(object, stored);
    }

    fn condemn(&self, repo: &Repository, generation: u64, packs: &[PackRef], floors: &[(WriterId, u64)]) {
        let condemn = Condemn { floors: floors.to_vec(), packs: packs.to_vec() };
        self.seal(repo, objects::condemn(generation), &condemn);
    }

    /// What is stored, sorted by id as a condemn has it.
    fn packs(&self) -> Vec<PackRef> {
        let mut packs: Vec<PackRef> = self
            .memory
            .snapshot()
            .iter()
            .filter_map(|(key, bytes)| match objects::parse(key.as_str()) {
                Some(Parsed::Pack(writer, session, seq, id)) => {
                    Some(PackRef { id, writer, session, seq, size: bytes.len() as u64 })
                }
                _ => None,
            })
            .collect();
        packs.sort_by_key(|p| p.id);
        packs
    }

    /// Claims of every ack of this generation; `None`: there is no ack.
    fn claims(&self, repo: &Repository, generation: u64) -> Option<BTreeSet<PackId>> {
        let mut claims = None;
        for (key, bytes) in self.memory.snapshot() {
            let Some(Parsed::Ack(writer, _, g)) = objects::parse(key.as_str()) else { continue };
            if g == generation {
                let at = At { repository: repo.id(), object: key.as_str(), keys: repo.graph_keys() };
                let member = repo.config().member(writer).unwrap().key;
                let ack = Ack::decode(&bytes, at, |who| (who == writer).then_some(member)).unwrap();
                claims.get_or_insert_with(BTreeSet::new).extend(ack.claims);
            }
        }
        claims
    }

    fn newest_pin(&self) -> (WriterId, SessionId) {
        let pins = self.memory.snapshot();
        let pin = |key: &Key| match objects::parse(key.as_str()) {
            Some(Parsed::Pin(writer, session)) => Some((writer, session)),
            _ => None,
        };
        pins.keys().filter_map(pin).max_by_key(|(_, session)| *session).unwrap()
    }

    fn fence_newest(&self, repo: &Repository) {
        let (writer, session) = self.newest_pin();
        self.seal(repo, objects::snapshot(writer, session), &Tombstone { generation: 1 });
    }

    /// Deletes what was condemned and not claimed, as a prune does; the newest snapshot is whole all the same.
    fn sweep(&self, repo: &Repository, generation: u64, condemned: &[PackRef], what: &str) {
        let claims = self.claims(repo, generation).unwrap_or_default();
        for p in condemned.iter().filter(|p| !claims.contains(&p.id)) {
            self.remove(objects::pack(p.writer, p.session, p.seq, p.id));
        }
        let (repo, view) = self.view();
        let reader = Reader::new(repo, Arc::clone(&view.index), 8 << 20);
        let newest = view.snapshots.iter().max_by_key(|s| s.at.session).unwrap();
        same_content(&read_snapshot(&reader, newest).unwrap(), &on_disk(&self.source()), what);
    }

    /// What was created since the log was taken last: the first parts of keys, `ack` for an ack.
    fn created(&self) -> Vec<String> {
        let puts = self.record.take().into_iter().filter(|op| matches!(op.verb, Verb::Put | Verb::PutNew));
        let kind = |key: String| match objects::parse(&key) {
            Some(Parsed::Ack(..)) => "ack".to_owned(),
            _ => key.split('/').next().unwrap().to_owned(),
        };
        puts.map(|op| kind(op.key)).collect()
    }
}

fn small_bench() -> Bench {
    let bench = Bench::new();
    make_source(&bench.source(), false);
    // Reading it changes its atime, and so the directory's meta.
    std::fs::remove_file(bench.source().join("link")).unwrap();
    settle();
    bench
}

/// Does something at the `n`th entry that the walk comes to.
struct AtEntry<F: Fn() + Send + Sync> {
    n: u64,
    met: AtomicU64,
    act: F,
}

impl<F: Fn() + Send + Sync> Progress for AtEntry<F> {
    fn start(&self, _: &std::path::Path) {
        if self.met.fetch_add(1, Ordering::Relaxed) == self.n {
            (self.act)();
        }
    }
    fn problem(&self, problem: Problem) {
        panic!("{problem}");
    }
}

fn at_entry<F: Fn() + Send + Sync>(n: u64, act: F) -> AtEntry<F> {
    AtEntry { n, met: AtomicU64::new(0), act }
}

/// Waits until the open session has acknowledged.
fn wait_for_ack(bench: &Bench, repo: &Repository, generation: u64) {
    let begun = Instant::now();
    while bench.claims(repo, generation).is_none() {
        assert!(begun.elapsed() < Duration::from_secs(30), "no ack comes");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn backup_hooked(
    bench: &Bench,
    on: (Verb, &'static str),
    after: bool,
    act: impl Fn() + Send + Sync + 'static,
) -> Summary {
    let inner: Arc<dyn Store> = bench.record.clone();
    let store = Arc::new(Hooked { inner, on, after, act: Mutex::new(Some(act)), hidden: None });
    let mut repo = bench.open_over(store.clone(), &bench.bundle, "owner").unwrap();
    let who = repo.identity(&mut *bench.rng()).unwrap();
    let opts = options(&bench.source());
    let done = backup(&Arc::new(repo), &who, bench.rng(), &opts, &Silent, &Cancel::default()).unwrap();
    assert!(store.act.lock().unwrap().is_none(), "that call did not come");
    done
}

#[test]
fn a_prune_from_before_is_acknowledged_and_nothing_of_it_reused() {
    let bench = small_bench();
    bench.backup();
    // What an interrupted session left, too: it is not adopted.
    std::fs::write(bench.source().join("more"), noise(900, 50_000)).unwrap();
    settle();
    bench.fault.add(Rule::on(Verb::PutNew, "snap/").effect(Effect::CrashBefore));
    bench.try_backup().0.unwrap_err();
    bench.fault.clear();
    bench.fault.revive();
    let (repo, condemned) = (bench.repo(), bench.packs());
    assert_eq!(condemned.len(), 2);
    bench.condemn(&repo, 1, &condemned, &[]);
    bench.record.take();
    bench.backup();
    assert_eq!(bench.created(), ["pin", "ack", "pack", "snap"]);
    assert_eq!(bench.claims(&repo, 1), Some(BTreeSet::new()));
    bench.sweep(&repo, 1, &condemned, "before");
}

#[test]
fn the_sweep_counts_in_place_of_the_condemn() {
    let bench = small_bench();
    bench.backup();
    let (repo, condemned) = (bench.repo(), bench.packs());
    bench.condemn(&repo, 1, &condemned, &[]);
    bench.seal(&repo, objects::sweep(1), &Sweep::default());
    bench.record.take();
    bench.backup();
    assert_eq!(bench.stored("pack/"), 0, "what the sweep spares is reused");
}

#[test]
fn an_unchanged_repeat_beside_a_prune_writes_pin_ack_and_snapshot() {
    let bench = small_bench();
    bench.backup();
    let repo = bench.repo();
    let other = PackRef { id: PackId::from_bytes([7; 32]), ..bench.packs()[0] };
    bench.condemn(&repo, 1, &[other], &[]);
    bench.record.take();
    bench.backup();
    assert_eq!(bench.created(), ["pin", "ack", "snap"]);
    assert_eq!(bench.claims(&repo, 1), Some(BTreeSet::new()));
}

#[test]
fn a_prune_that_begins_anywhere_in_a_session_takes_nothing_of_it() {
    let bench = Bench { watch: Duration::from_millis(10), ..small_bench() };
    bench.backup();
    std::fs::create_dir(bench.source().join("z")).unwrap();
    for n in 0..4 {
        std::fs::write(bench.source().join(format!("z/{n}")), noise(500 + n, 3000)).unwrap();
    }
    settle();
    bench.backup();
    change_source(&bench.source(), false);
    settle();
    let (start, repo, condemned) = (bench.memory.snapshot(), bench.repo(), bench.packs());
    let entries = at_entry(u64::MAX, || ());
    bench.process(&options(&bench.source()), &entries).unwrap();
    let entries = entries.met.into_inner();
    assert!(entries > 10);
    let mut claimed = BTreeSet::new();
    for n in 0..entries {
        bench.memory.restore(start.clone());
        let progress = at_entry(n, || {
            bench.condemn(&repo, 1, &condemned, &[]);
            wait_for_ack(&bench, &repo, 1);
        });
        bench.process(&options(&bench.source()), &progress).unwrap();
        claimed.insert(bench.claims(&repo, 1).unwrap().len());
        bench.sweep(&repo, 1, &condemned, &format!("at entry {n}"));
    }
    assert!(claimed.len() > 1, "claims grow with what was reused: {claimed:?}");
}

#[test]
fn a_prune_right_before_the_commit_is_acknowledged_before_it() {
    let bench = Arc::new(small_bench());
    bench.backup();
    change_source(&bench.source(), false);
    settle();
    let (repo, condemned) = (bench.repo(), bench.packs());
    bench.record.take();
    let inner = (Arc::clone(&bench), bench.repo(), condemned.clone());
    // The LIST of the own packs.
    backup_hooked(&bench, (Verb::List, "pack/"), false, move || inner.0.condemn(&inner.1, 1, &inner.2, &[]));
    assert_eq!(bench.created(), ["pin", "pack", "ack", "snap"]);
    assert_eq!(bench.claims(&repo, 1).unwrap().len(), 1, "unchanged files lie in it");
    bench.sweep(&repo, 1, &condemned, "before the commit");
}

#[test]
fn a_session_that_is_fenced_goes_on_as_another_and_stores_nothing_twice() {
    let bench = Bench { watch: Duration::from_millis(10), ..Bench::new() };
    make_source(&bench.source(), true);
    settle();
    let (start, repo) = (bench.memory.snapshot(), bench.repo());
    let entries = at_entry(u64::MAX, || ());
    bench.record.take();
    bench.process(&options(&bench.source()), &entries).unwrap();
    let (entries, once) = (entries.met.into_inner(), bench.stored("pack/"));
    for n in [0, entries / 2, entries - 1] {
        bench.memory.restore(start.clone());
        bench.record.take();
        let progress = at_entry(n, || {
            bench.fence_newest(&repo);
            // Until the watch has looked.
            std::thread::sleep(Duration::from_millis(200));
        });
        let done = bench.process(&options(&bench.source()), &progress).unwrap();
        let stored = bench.stored("pack/");
        assert!(stored <= once + (300 << 10), "{stored} after {once}");
        assert_eq!(bench.record.count(Verb::PutNew, "pin/"), 2);
        let restored = bench.restore_all();
        assert_eq!((restored.len(), restored[0].0), (1, done.snapshot.unwrap()));
        same_content(&restored[0].1, &on_disk(&bench.source()), "fenced");
    }
}

#[test]
fn a_fence_at_the_last_moment_is_met_by_the_snapshot() {
    let bench = Arc::new(small_bench());
    bench.record.take();
    let inner = (Arc::clone(&bench), bench.repo());
    let done = backup_hooked(&bench, (Verb::PutNew, "snap/"), false, move || inner.0.fence_newest(&inner.1));
    assert_eq!(bench.created(), ["pin", "pack", "snap", "pin", "snap"], "the pack is adopted");
    assert_eq!(bench.restore_all()[0].0, done.snapshot.unwrap());
}

#[test]
fn sessions_below_a_proposed_or_standing_floor_give_way() {
    let bench = small_bench();
    bench.backup();
    let (repo, (writer, session)) = (bench.repo(), bench.newest_pin());
    bench.condemn(&repo, 1, &[], &[(writer, session.n + 10)]);
    bench.backup();
    assert_eq!(bench.newest_pin().1.n, session.n + 10);
    let newest = bench.view().1.snapshots.iter().map(|s| s.at).max().unwrap();
    let base = Base { snapshots: vec![newest], floors: vec![(writer, session.n + 20)], ..Base::default() };
    bench.put(objects::base(1), base.encode(repo.id(), 1, repo.graph_keys(), SIGNED_BY_ROOT, &bench.root()));
    bench.backup();
    assert_eq!(bench.newest_pin().1.n, session.n + 20);
    let view = bench.view().1;
    assert_eq!((view.snapshots.len(), view.problems.len()), (2, 0), "the first is dead, the second known to base");
}

#[test]
fn a_session_that_a_new_base_declares_dead_is_not_reported() {
    let bench = Arc::new(small_bench());
    let inner = (Arc::clone(&bench), bench.repo());
    bench.record.take();
    let done = backup_hooked(&bench, (Verb::PutNew, "snap/"), true, move || {
        let (bench, repo) = &inner;
        let (writer, session) = bench.newest_pin();
        let base = Base { floors: vec![(writer, session.n + 5)], ..Base::default() };
        bench.put(objects::base(1), base.encode(repo.id(), 1, repo.graph_keys(), SIGNED_BY_ROOT, &bench.root()));
    });
    let snapshots = bench.restore_all();
    assert_eq!((snapshots.len(), snapshots[0].0), (1, done.snapshot.unwrap()), "only the second counts");
    assert_eq!(bench.record.count(Verb::PutNew, "snap/"), 2);
}

#[test]
fn dropped_packs_are_neither_reused_nor_adopted() {
    let bench = small_bench();
    bench.fault.add(Rule::on(Verb::PutNew, "snap/").effect(Effect::CrashBefore));
    bench.try_backup().0.unwrap_err();
    bench.fault.clear();
    bench.fault.revive();
    let (repo, packs) = (bench.repo(), bench.packs());
    let base = Base { dropped: packs.iter().map(|p| p.id).collect(), ..Base::default() };
    bench.put(objects::base(1), base.encode(repo.id(), 1, repo.graph_keys(), SIGNED_BY_ROOT, &bench.root()));
    bench.backup();
    assert_eq!(bench.packs().len(), 2, "it is stored anew");
    let base = Base { dropped: bench.packs().iter().map(|p| p.id).collect(), ..base };
    bench.put(objects::base(1), base.encode(repo.id(), 1, repo.graph_keys(), SIGNED_BY_ROOT, &bench.root()));
    bench.backup();
    assert_eq!(bench.packs().len(), 3, "and again");
}

#[test]
fn what_cannot_be_understood_under_gc_stops_a_session_and_is_named() {
    let bench = small_bench();
    bench.put(objects::condemn(1), b"rubbish".to_vec());
    let refused = bench.try_backup().0.unwrap_err();
    assert!(matches!(refused, Error::Damaged { .. }), "{refused}");
    assert!(refused.to_string().contains("gc/0000000000000001") && refused.to_string().contains("remove"), "{refused}");
    // Signed, but by a writer.
    let (mut repo, writer) = (bench.repo(), bench.new_writer().identity.unwrap());
    let object = objects::condemn(1);
    let at = At { repository: repo.id(), object: &object, keys: repo.graph_keys() };
    let stored = Condemn::default().encode(at, writer.id, &SigningKey::from_seed(writer.seed.clone()));
    bench.put(object, stored);
    bench.try_backup().0.unwrap_err();
    // By a maintainer who was enrolled after the session's process had opened the repository.
    let who = repo.identity(&mut *bench.rng()).unwrap();
    let role = copal_engine::format::bundle::Role::Maintainer;
    let maintainer = bench.repo().enroll_new(role, &mut *bench.rng()).unwrap().identity.unwrap();
    let object = objects::condemn(1);
    let at = At { repository: repo.id(), object: &object, keys: repo.graph_keys() };
    let stored = Condemn::default().encode(at, maintainer.id, &SigningKey::from_seed(maintainer.seed.clone()));
    bench.put(object, stored);
    let opts = options(&bench.source());
    backup(&Arc::new(repo), &who, bench.rng(), &opts, &Silent, &Cancel::default()).unwrap();
    bench.put("gc/0000000000000001.later".into(), Vec::new());
    let refused = bench.try_backup().0.unwrap_err();
    assert!(matches!(refused, Error::TooNew(_)), "{refused}");
    // Also when it comes while a session is open.
    let late = Key::new("gc/0000000000000001.later").unwrap();
    bench.remove(late.as_str().to_owned());
    let progress = at_entry(3, || bench.put(late.as_str().to_owned(), Vec::new()));
    let refused = bench.process(&options(&bench.source()), &progress).unwrap_err();
    assert!(matches!(refused, Error::TooNew(_)), "{refused}");
}

#[test]
fn a_pack_that_the_store_has_lost_is_stored_by_another_session() {
    for effect in [Effect::Lost, Effect::Short] {
        let bench = small_bench();
        bench.fault.add(Rule::on(Verb::Put, "pack/").times(1).effect(effect));
        bench.backup();
        same_content(&bench.restore_all()[0].1, &on_disk(&bench.source()), "lost");
    }
}

#[test]
fn a_snapshot_that_a_list_misses_is_asked_for() {
    let bench = small_bench();
    bench.backup();
    std::fs::write(bench.source().join("new"), b"new").unwrap();
    bench.backup();
    // The second names the first as part of its view: only the LIST does not show it, as when it came between two pages.
    let first = bench.memory.snapshot().into_keys().find(|k| k.as_str().starts_with("snap/"));
    assert_eq!(bench.view().1.snapshots.len(), 2);
    let inner: Arc<dyn Store> = bench.record.clone();
    let on = (Verb::Delete, "");
    let store = |hidden| {
        Arc::new(Hooked { inner: Arc::clone(&inner), on, after: false, act: Mutex::new(None::<fn()>), hidden })
    };
    let view = bench.open_over(store(first), &bench.bundle, "owner").unwrap().view().unwrap();
    assert_eq!((view.snapshots.len(), view.problems), (2, Vec::new()));
    // As with the newest epoch of the config.
    let epochs = bench.repo().config().epoch;
    assert!(epochs > 1);
    let newest = Key::new(objects::config(epochs)).unwrap();
    let repo = bench.open_over(store(Some(newest)), &bench.bundle, "owner").unwrap();
    assert_eq!(repo.config().epoch, epochs);
}

#[test]
fn rubbish_where_a_base_may_stand_is_found_and_stops_no_reader() {
    for n in [1, 7, u64::MAX] {
        let bench = small_bench();
        bench.backup();
        bench.put(objects::base(n), b"rubbish".to_vec());
        let (_, view) = bench.view();
        let [problem] = &view.problems[..] else { panic!("{:?}", view.problems) };
        assert_eq!(problem.path, std::path::Path::new(&objects::base(n)));
        let reader = Reader::new(Arc::new(bench.repo()), Arc::clone(&view.index), 8 << 20);
        read_snapshot(&reader, &view.snapshots[0]).unwrap();
        let report = bench.check();
        assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
        assert!(report.findings[0].object == objects::base(n), "{:?}", report.findings);
        // Who writes must not overlook what a base has dropped.
        let refused = bench.try_backup().0.unwrap_err().to_string();
        assert!(refused.contains(&objects::base(n)) && refused.contains("remove that object"), "{refused}");
        bench.remove(objects::base(n));
        bench.backup();
    }
}

#[test]
fn a_damaged_newest_base_leaves_readers_the_one_before() {
    let bench = small_bench();
    bench.backup();
    let (repo, newest) = (bench.repo(), bench.view().1.snapshots[0].at);
    let base = |n, previous| {
        let base = Base { previous, snapshots: vec![newest], ..Base::default() };
        base.encode(repo.id(), n, repo.graph_keys(), SIGNED_BY_ROOT, &bench.root())
    };
    let first = base(1, None);
    let mut second = base(2, Some(Base::hash(&first)));
    *second.last_mut().unwrap() ^= 1;
    bench.put(objects::base(1), first);
    bench.put(objects::base(2), second);
    let view = bench.view().1;
    assert_eq!((view.base.n, view.problems.len()), (1, 1));
    bench.try_backup().0.unwrap_err();
}

#[test]
fn a_backup_that_is_interrupted_ends_soon_whatever_the_network_does() {
    for verb in [Verb::Put, Verb::List, Verb::PutNew] {
        let bench = Bench::new();
        make_source(&bench.source(), true);
        let cancel = Arc::new(Cancel::default());
        let asked = Arc::clone(&cancel);
        let store = Arc::new(Grace::new(bench.record.clone(), move || asked.is_canceled()));
        let mut repo = bench.open_over(store, &bench.bundle, "owner").unwrap();
        let who = repo.identity(&mut *bench.rng()).unwrap();
        bench.fault.add(Rule::on(verb, "").effect(Effect::Delay(Duration::from_secs(600))));
        let asking = std::thread::spawn({
            let cancel = Arc::clone(&cancel);
            move || {
                std::thread::sleep(Duration::from_millis(700));
                cancel.cancel();
                Instant::now()
            }
        });
        let done = backup(&Arc::new(repo), &who, bench.rng(), &options(&bench.source()), &Silent, &cancel);
        let took = asking.join().unwrap().elapsed();
        assert!(matches!(done, Err(Error::Interrupted)), "{done:?}");
        assert!(took < Duration::from_secs(5), "{verb}: {took:?}");
    }
}
