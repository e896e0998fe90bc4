//! Prunes beside backups over a store that ignores create-only: sessions are ended by name (docs/protocol.md N1 to N14).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use copal_engine::Error;
use copal_engine::format::objects::{self, Parsed};
use copal_engine::id::{SessionId, SnapshotId, WriterId};
use copal_engine::ops::backup::{Summary, backup};
use copal_engine::ops::prune::{Options, Relied};
use copal_engine::progress::{Cancel, Silent};
use copal_engine::repo::Reader;
use copal_engine::store::fault::{Effect, Rule};
use copal_engine::store::{Key, Store, Verb};

use crate::bench::{Bench, Content, change_source, noise, on_disk, options, read_snapshot, same_content, settle};
use crate::gives_back::{ALL, crash_at_any_call, prune_anywhere, three_in};
use crate::hooked::Hooked;

fn probing() -> Options {
    Options { probe: true, ..ALL }
}

fn ends() -> Options {
    Options { exclusive: true, ..ALL }
}

fn three() -> (Bench, Vec<(SnapshotId, Content)>) {
    three_in(Bench::overwriting())
}

/// A backup that does something at the first call of a verb on keys that begin so.
fn backup_with(
    bench: &Bench,
    on: (Verb, &'static str),
    after: bool,
    act: impl Fn() + Send + Sync + 'static,
) -> Result<Summary, Error> {
    let inner: Arc<dyn Store> = bench.record.clone();
    let act = move || std::thread::scope(|s| s.spawn(&act).join().unwrap());
    let store = Arc::new(Hooked { inner, on, after, act: Mutex::new(Some(act)), hidden: None });
    let mut repo = bench.open_over(store.clone(), &bench.bundle, "owner").unwrap();
    let who = repo.identity(&mut *bench.rng()).unwrap();
    let done = backup(&Arc::new(repo), &who, bench.rng(), &options(&bench.source()), &Silent, &Cancel::default());
    assert!(store.act.lock().unwrap().is_none(), "that call did not come");
    done
}

/// A prune that does something at such a call.
fn prune_with(bench: &Bench, on: (Verb, &'static str), after: bool, act: impl Fn() + Send + Sync + 'static) {
    let inner: Arc<dyn Store> = bench.record.clone();
    let act = move || std::thread::scope(|s| s.spawn(&act).join().unwrap());
    let store = Arc::new(Hooked { inner, on, after, act: Mutex::new(Some(act)), hidden: None });
    let mut repo = bench.open_over(store.clone(), &bench.bundle, "owner").unwrap();
    let who = repo.identity(&mut *bench.rng()).unwrap();
    copal_engine::ops::prune::prune(&Arc::new(repo), &who, bench.rng(), &ALL, &Silent, &Cancel::default()).unwrap();
    assert!(store.act.lock().unwrap().is_none(), "that call did not come");
}

/// A backup whose process dies before its snapshot's put arrives: that put, and whose it is.
fn dies_before_its_snapshot(bench: &Bench) -> (Key, bytes::Bytes, (WriterId, SessionId)) {
    let before = bench.memory.snapshot();
    bench.fault.add(Rule::on(Verb::PutNew, "snap/").effect(Effect::CrashAfter));
    bench.try_backup().0.unwrap_err();
    bench.fault.clear();
    bench.fault.revive();
    let is_new = |key: &&Key| key.as_str().starts_with("snap/") && !before.contains_key(*key);
    let now = bench.memory.snapshot();
    let key = now.keys().find(is_new).unwrap().clone();
    bench.remove(key.as_str().to_owned());
    let Some(Parsed::Snapshot(writer, session)) = objects::parse(key.as_str()) else { panic!("{key}") };
    (key.clone(), now[&key].clone(), (writer, session))
}

/// What only the next snapshot holds.
fn change(bench: &Bench, seed: u64) {
    std::fs::write(bench.source().join("d/own"), noise(seed, 400_000)).unwrap();
    settle();
}

#[test]
fn a_prune_needs_no_exclusive_and_says_what_it_relies_on() {
    let (bench, mut known) = three();
    assert!(bench.open().unwrap().ends_by_name());
    bench.forget(&[known.remove(0).0]);
    let before = bench.pack_bytes();
    let done = bench.prune_as(&bench.bundle, "owner", &Options { probe: true, ..ALL }).unwrap();
    assert_eq!(done.relied, Relied::OnePrune);
    assert!(done.done.deleted.packs > 0 && bench.pack_bytes() < before);
    bench.holds(&known, "pruned");
    bench.is_clean("pruned");
    assert!(bench.memory.snapshot().keys().all(|k| !k.as_str().starts_with("probe/")));
    let exclusive = bench.prune_as(&bench.bundle, "owner", &Options { exclusive: true, ..ALL }).unwrap();
    assert_eq!(exclusive.relied, Relied::Nobody);
}

#[test]
fn the_worse_of_what_init_found_and_what_is_found_now_counts() {
    // Backups go by what init found: they would not look for their names.
    let (bench, known) = three_in(Bench::new());
    bench.forget(&[known[0].0]);
    bench.memory.ignore_create_only(true);
    let start = bench.memory.snapshot();
    let refused = bench.prune_as(&bench.bundle, "owner", &probing()).unwrap_err();
    assert!(matches!(refused, Error::Busy(_)) && refused.to_string().contains("--exclusive"), "{refused}");
    assert_eq!(bench.memory.snapshot(), start);
    bench.prune_as(&bench.bundle, "owner", &Options { exclusive: true, ..probing() }).unwrap();
    bench.holds(&known[1..], "exclusive");
    // And the other way round.
    let (bench, _) = three();
    bench.memory.ignore_create_only(false);
    assert_eq!(bench.prune_as(&bench.bundle, "owner", &probing()).unwrap().relied, Relied::OnePrune);
    // Listings that lag now.
    bench.fault.add(Rule::on(Verb::List, "probe/").effect(Effect::StaleList(1)));
    assert!(matches!(bench.prune_as(&bench.bundle, "owner", &probing()), Err(Error::Busy(_))));
}

#[test]
fn a_crash_of_the_prune_at_any_call_loses_nothing() {
    crash_at_any_call(three());
}

#[test]
fn a_crash_of_a_prune_that_ends_a_session_at_any_call_loses_nothing() {
    let (mut bench, mut known) = three();
    // Nobody who could answer is waited for.
    bench.watch = Duration::from_millis(1);
    change(&bench, 950);
    let (key, late, _) = dies_before_its_snapshot(&bench);
    bench.forget(&[known.remove(1).0]);
    let start = bench.memory.snapshot();
    let calls = bench.fault.calls();
    assert_eq!(bench.prune().unwrap().done.fenced, 1);
    let calls = bench.fault.calls() - calls;
    let (mut counted, mut dead) = (0, 0);
    for n in 0..calls {
        for effect in [Effect::CrashBefore, Effect::CrashAfter] {
            let what = format!("{effect:?} call {n} of {calls}");
            bench.memory.restore(start.clone());
            bench.fault.add(Rule::any().skip(n).times(1).effect(effect));
            let _ = bench.prune();
            bench.fault.clear();
            bench.fault.revive();
            // Whether it counts or not, it is whole where it is shown, and later prunes change neither.
            bench.put(key.as_str().to_owned(), late.to_vec());
            let counts = bench.restore_all().len() > known.len();
            (counted, dead) = (counted + u32::from(counts), dead + u32::from(!counts));
            for again in 0..3 {
                let shown = bench.restore_all().len() > known.len();
                assert_eq!(shown, counts, "{what}, and {again} more");
                assert_eq!(bench.check().errors, 0, "{what}, and {again} more");
                bench.prune().unwrap_or_else(|e| panic!("{what}, and {again} more: {e}"));
            }
            if !counts {
                bench.holds(&known, &what);
                bench.is_clean(&what);
                assert!(!bench.memory.snapshot().contains_key(&key), "{what}");
            }
        }
    }
    assert!(counted > 20 && dead > 20, "{counted} {dead}");
}

#[test]
fn a_prune_anywhere_in_a_backup_harms_neither() {
    prune_anywhere(three());
}

#[test]
fn a_snapshot_that_comes_once_its_session_was_ended_is_dead() {
    let (bench, mut known) = three();
    change(&bench, 950);
    let (key, late, (writer, session)) = dies_before_its_snapshot(&bench);
    bench.forget(&[known.remove(0).0]);
    assert_eq!(bench.prune().unwrap().done.fenced, 1);
    assert_eq!(bench.view().1.base.base.dead, [(writer, session)]);
    assert_eq!(bench.count(|p| matches!(p, Parsed::Fence(_))), 0, "it was retired");
    bench.put(key.as_str().to_owned(), late.to_vec());
    bench.holds(&known, "dead");
    let view = bench.view().1;
    assert_eq!(view.dead.iter().map(|s| s.session).collect::<Vec<_>>(), [session]);
    let report = bench.check();
    assert_eq!((report.errors, report.dead_snapshots), (0, 1), "{:?}", report.findings);
    // What it has stored is adopted all the same.
    bench.record.take();
    let now = on_disk(&bench.source());
    let done = bench.backup();
    assert!(bench.stored("pack/") < 100_000, "{}", bench.stored("pack/"));
    let known: Vec<_> = known.into_iter().chain([(done.snapshot.unwrap(), now)]).collect();
    for n in 0..3 {
        bench.prune().unwrap();
        bench.holds(&known, &format!("prune {n}"));
    }
    bench.is_clean("passed by the floor");
    assert!(!bench.memory.snapshot().contains_key(&key));
    // Even then.
    bench.put(key.as_str().to_owned(), late.to_vec());
    bench.holds(&known, "below the floor");
}

#[test]
fn a_snapshot_that_stands_when_its_key_is_read_counts_though_it_was_named() {
    let (bench, mut known) = three();
    change(&bench, 950);
    let now = on_disk(&bench.source());
    let (at, late, _) = dies_before_its_snapshot(&bench);
    bench.forget(&[known.remove(0).0]);
    let (bench, id) = (Arc::new(bench), copal_engine::format::snapshot::id(&late));
    let other = Arc::clone(&bench);
    prune_with(&bench, (Verb::Put, "gc/"), true, move || other.put(at.as_str().to_owned(), late.to_vec()));
    let known: Vec<_> = known.into_iter().chain([(id, now)]).collect();
    bench.holds(&known, "named and there");
    bench.prune().unwrap();
    bench.prune().unwrap();
    bench.holds(&known, "named and there");
    bench.is_clean("named and there");
}

#[test]
fn nobody_builds_upon_a_session_that_is_named_and_undecided() {
    for sweep in [false, true] {
        let (bench, mut known) = three();
        change(&bench, 950);
        let now = on_disk(&bench.source());
        let (key, late, _) = dies_before_its_snapshot(&bench);
        bench.forget(&[known.remove(0).0]);
        let bench = Arc::new(bench);
        let writer = bench.new_writer();
        let (other, before) = (Arc::clone(&bench), known.clone());
        let made: Arc<Mutex<Option<SnapshotId>>> = Arc::default();
        let into = Arc::clone(&made);
        // The put of the one that died arrives when it has been looked for, and another writer backs up the same.
        let on = if sweep { (Verb::PutNew, "base/") } else { (Verb::PutNew, "gc/0000000000000001.sweep") };
        let act = move || {
            other.put(key.as_str().to_owned(), late.to_vec());
            let shown = other.restore_all().len();
            assert_eq!(
                shown,
                before.len() + usize::from(!sweep),
                "who only reads sees it until the sweep says it is dead"
            );
            let (repo, view) = other.view();
            let done = other.process_as(&writer, "writer", &options(&other.source()), &Silent).unwrap();
            *into.lock().unwrap() = done.snapshot;
            let view = if sweep { other.view().1 } else { view };
            let reader = Reader::new(repo, Arc::clone(&view.index), 8 << 20);
            let whole = view.snapshots.iter().filter(|s| s.graph.root.is_some());
            whole.for_each(|s| drop(read_snapshot(&reader, s).unwrap()));
        };
        prune_with(&bench, on, false, act);
        known.push((made.lock().unwrap().unwrap(), now));
        for n in 0..3 {
            bench.holds(&known, &format!("prune {n}"));
            assert_eq!(bench.check().errors, 0);
            bench.prune().unwrap();
        }
        bench.is_clean("after all");
    }
}

/// A whole prune right before and right after the snapshot's put, and one that dies at any of its calls.
#[test]
fn whoever_is_named_around_its_commit_starts_over_or_counts() {
    let (bench, mut known) = three();
    change_source(&bench.source(), false);
    change(&bench, 960);
    let now = on_disk(&bench.source());
    bench.forget(&[known.remove(0).0]);
    bench.open_as(&bench.bundle, "elsewhere").unwrap().identity(&mut *bench.rng()).unwrap();
    let (start, bench) = (bench.memory.snapshot(), Arc::new(bench));
    let calls = bench.fault.calls();
    bench.prune_as(&bench.bundle, "elsewhere", &ends()).unwrap();
    let calls = bench.fault.calls() - calls;
    let mut restarts = 0;
    for after in [false, true] {
        for n in (0..calls).step_by(3).chain([u64::MAX]) {
            let what = format!("after: {after}, dies at {n} of {calls}");
            bench.memory.restore(start.clone());
            bench.record.take();
            let other = Arc::clone(&bench);
            let act = move || {
                other.fault.add(Rule::any().skip(n).times(1).effect(Effect::CrashAfter));
                let _ = other.prune_as(&other.bundle, "elsewhere", &ends());
                other.fault.clear();
                other.fault.revive();
            };
            let done =
                backup_with(&bench, (Verb::PutNew, "snap/"), after, act).unwrap_or_else(|e| panic!("{what}: {e}"));
            restarts += u32::from(bench.record.count(Verb::PutNew, "pin/") > 3);
            let reported = done.snapshot.unwrap();
            for again in 0..3 {
                let shown = bench.restore_all();
                let whole = |id: &SnapshotId| {
                    shown.iter().find(|(shown, _)| shown == id).unwrap_or_else(|| panic!("{what}: {id} is lost"))
                };
                known.iter().for_each(|(id, content)| same_content(&whole(id).1, content, &what));
                same_content(&whole(&reported).1, &now, &what);
                assert_eq!(bench.check().errors, 0, "{what}, and {again} more");
                bench.prune().unwrap_or_else(|e| panic!("{what}, and {again} more: {e}"));
            }
        }
    }
    assert!(restarts > 10, "{restarts}");
}

#[test]
fn a_record_that_a_list_does_not_show_is_not_overwritten() {
    let (bench, known) = three();
    let first = Key::new(objects::forget(1)).unwrap();
    bench.forget(&[known[0].0]);
    let inner: Arc<dyn Store> = bench.record.clone();
    let on = (Verb::Delete, "nothing/");
    let store = Hooked { inner, on, after: false, act: Mutex::new(None::<fn()>), hidden: Some(first.clone()) };
    let repo = bench.open_over(Arc::new(store), &bench.bundle, "owner").unwrap();
    let before = bench.memory.snapshot()[&first].clone();
    let second = repo.view().unwrap().snapshots.iter().find(|s| s.id() == known[1].0).unwrap().at;
    repo.forget(&[second]).unwrap();
    assert_eq!(bench.memory.snapshot()[&first], before);
    bench.holds(&known[2..], "both are forgotten");
}
