//! Restores and reads that a prune overtakes: what it moves is looked for again, and what is really gone is told.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use copal_engine::id::SnapshotId;
use copal_engine::ops::prune::prune;
use copal_engine::ops::restore::{self, restore};
use copal_engine::progress::{Cancel, Collect, Silent};
use copal_engine::repo::{Reader, Snapshot};
use copal_engine::store::{Store, Verb};

use crate::bench::{Bench, Content, on_disk, read_snapshot, same_content};
use crate::gives_back::{ALL, three};
use crate::hooked::AtCall;

/// Two of three snapshots forgotten, so that a prune moves what the last one shares with them.
fn bench() -> (Arc<Bench>, (SnapshotId, Content)) {
    let (bench, mut known) = three();
    let last = known.pop().unwrap();
    bench.forget(&[known[0].0, known[1].0]);
    (Arc::new(bench), last)
}

/// Has `work` done by a reader below which a whole prune runs before its `n`th call of the store. How many calls it made.
fn overtaken_at(n: u64, bench: &Arc<Bench>, last: SnapshotId, work: impl Fn(&Reader, &Snapshot)) -> u64 {
    let act = {
        let bench = Arc::clone(bench);
        move || {
            let bench = Arc::clone(&bench);
            let run = move || {
                let mut repo = bench.open_as(&bench.bundle, &format!("pruner{n}")).unwrap();
                let who = repo.identity(&mut *bench.rng()).unwrap();
                prune(&Arc::new(repo), &who, bench.rng(), &ALL, &Silent, &Cancel::default()).unwrap()
            };
            let done = std::thread::spawn(run).join().unwrap();
            assert!(done.repacked_packs > 0 && done.done.deleted.packs > 0, "{done:?}");
        }
    };
    // Armed once the view was read.
    let store = Arc::new(AtCall::new(bench.memory.clone(), n, act));
    store.met.store(u64::MAX / 2, Ordering::Relaxed);
    let repo =
        Arc::new(bench.open_over(store.clone() as Arc<dyn Store>, &bench.bundle, &format!("reader{n}")).unwrap());
    let view = repo.view().unwrap();
    let snapshot = view.snapshots.iter().find(|s| s.id() == last).unwrap();
    let reader = Reader::new(Arc::clone(&repo), Arc::clone(&view.index), 8 << 20);
    store.met.store(0, Ordering::Relaxed);
    work(&reader, snapshot);
    store.met.load(Ordering::Relaxed)
}

/// Runs `work` with a prune before each of its calls, in turn.
fn at_each_call(work: impl Fn(&Reader, &Snapshot, &Content)) {
    let (bench, (last, content)) = bench();
    let stored = bench.memory.snapshot();
    let mut n = 0;
    loop {
        bench.memory.snapshot().into_keys().for_each(|key| bench.remove(key.as_str().into()));
        stored.iter().for_each(|(key, bytes)| bench.put(key.as_str().into(), bytes.to_vec()));
        let calls = overtaken_at(n, &bench, last, |reader, snapshot| work(reader, snapshot, &content));
        n += 1;
        if n > calls {
            break;
        }
    }
    assert!(n > 3, "{n}");
}

#[test]
fn a_restore_finds_what_a_prune_moves_below_it() {
    at_each_call(|reader, snapshot, content| {
        let target = tempfile::tempdir().unwrap();
        let told = Collect::default();
        let options = restore::Options::default();
        restore(reader, snapshot, b"source", target.path(), &options, &told, &Cancel::default()).unwrap();
        assert_eq!(*told.0.lock().unwrap(), []);
        same_content(&on_disk(target.path()), content, "overtaken");
    });
}

#[test]
fn so_does_a_reader_of_single_blobs() {
    at_each_call(|reader, snapshot, content| same_content(&read_snapshot(reader, snapshot).unwrap(), content, "read"));
}

#[test]
fn what_is_gone_for_good_is_told_and_looked_for_a_few_times() {
    let (bench, (last, _)) = bench();
    let packs: Vec<_> = bench.memory.snapshot().keys().filter(|k| k.as_str().starts_with("pack/")).cloned().collect();
    let repo = Arc::new(bench.open().unwrap());
    let view = repo.view().unwrap();
    let snapshot = view.snapshots.iter().find(|s| s.id() == last).unwrap();
    let reader = Reader::new(Arc::clone(&repo), Arc::clone(&view.index), 8 << 20);
    packs.iter().for_each(|pack| bench.remove(pack.as_str().into()));
    bench.record.take();
    let error = read_snapshot(&reader, snapshot).unwrap_err();
    assert!(error.to_string().contains("pack/"), "{error}");
    let lists = bench.record.count(Verb::List, "snap/");
    assert!((1..=8).contains(&lists), "{lists}");
}
