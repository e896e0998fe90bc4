//! Prunes beside prunes.

use std::sync::Arc;

use copal_engine::Error;
use copal_engine::format::objects::{self, Parsed};
use copal_engine::format::pack;
use copal_engine::ops::check::Read;
use copal_engine::ops::prune::{Summary, prune};
use copal_engine::progress::{Cancel, Silent};
use copal_engine::store::fault::{Effect, Rule};

use crate::bench::{Bench, noise, on_disk, settle};
use crate::gives_back::{ALL, three};
use crate::hooked::AtCall;

/// Prunes, and before the `n`th call another process does: what came of it, and how many calls it made.
fn prune_with_another(bench: &Arc<Bench>, n: u64) -> (Result<Summary, Error>, u64) {
    let other = Arc::clone(bench);
    let act = move || {
        let other = Arc::clone(&other);
        let run = move || other.prune_as(&other.bundle, "elsewhere", &ALL).map(drop);
        std::thread::spawn(run).join().unwrap().unwrap_or_else(|e| panic!("the other one at call {n}: {e}"));
    };
    let store = Arc::new(AtCall::new(bench.record.clone(), n, act));
    let mut repo = bench.open_over(store.clone(), &bench.bundle, "owner").unwrap();
    let who = repo.identity(&mut *bench.rng()).unwrap();
    let done = prune(&Arc::new(repo), &who, bench.rng(), &ALL, &Silent, &Cancel::default());
    (done, store.met.load(std::sync::atomic::Ordering::Relaxed))
}

#[test]
fn a_whole_prune_at_any_call_of_another_stops_neither() {
    let (bench, mut known) = three();
    bench.forget(&[known[0].0]);
    // A base whose segments both will merge into their own.
    bench.prune().unwrap();
    std::fs::write(bench.source().join("d/own"), noise(90, 400_000)).unwrap();
    settle();
    known.push((bench.backup().snapshot.unwrap(), on_disk(&bench.source())));
    bench.forget(&[known[1].0]);
    known.drain(..2);
    bench.open_as(&bench.bundle, "elsewhere").unwrap().identity(&mut *bench.rng()).unwrap();
    let (start, bench) = (bench.memory.snapshot(), Arc::new(bench));
    let (done, calls) = prune_with_another(&bench, u64::MAX);
    assert!(done.unwrap().generation.is_some() && calls > 40, "{calls}");
    for n in 0..calls {
        let what = format!("at call {n} of {calls}");
        bench.memory.restore(start.clone());
        match prune_with_another(&bench, n).0 {
            // It is told to run it again.
            Ok(_) | Err(Error::Busy(_)) => {}
            Err(e) => panic!("{what}: {e}"),
        }
        bench.holds(&known, &what);
        bench.prune().unwrap();
        bench.prune().unwrap();
        bench.holds(&known, &what);
        bench.is_clean(&what);
    }
}

/// Packs in which one frame lies twice.
fn with_frames_twice(bench: &Bench) -> usize {
    let (repo, mut twice) = (bench.open().unwrap(), 0);
    for (key, bytes) in bench.memory.snapshot().into_iter().filter(|(key, _)| key.as_str().starts_with("pack/")) {
        let (_, table, _, mut at) = pack::open(&bytes, repo.graph_keys()).unwrap_or_else(|e| panic!("{key}: {e}"));
        let mut seen = std::collections::HashSet::new();
        twice += usize::from(!table.frames.iter().all(|f| {
            let sealed = &bytes[at as usize..(at + f.stored) as usize];
            at += f.stored;
            seen.insert(sealed)
        }));
    }
    twice
}

/// What a repack that was cut off has copied lies twice in the store. It is never copied together with its source, and once an owner
/// has read all of it one copy goes.
#[test]
fn the_room_of_a_killed_repack_comes_back() {
    let (bench, mut known) = three();
    std::fs::remove_file(bench.source().join("d/stays0")).unwrap();
    settle();
    known.push((bench.backup().snapshot.unwrap(), on_disk(&bench.source())));
    bench.forget(&[known[0].0]);
    let start = bench.memory.snapshot();
    let before = bench.fault.calls();
    bench.prune().unwrap();
    let calls = bench.fault.calls() - before;
    // Then both, a pack and what was copied from it, are needed in part.
    let also_forgotten = [known[1].0, known[2].0];
    bench.forget(&also_forgotten);
    bench.prune().unwrap();
    let once = bench.pack_bytes();
    known.drain(..3);
    for n in 0..calls {
        let what = format!("call {n} of {calls}");
        bench.memory.restore(start.clone());
        bench.fault.add(Rule::any().skip(n).times(1).effect(Effect::CrashAfter));
        let _ = bench.prune();
        bench.fault.clear();
        bench.fault.revive();
        bench.forget(&also_forgotten);
        bench.prune().unwrap();
        assert_eq!(with_frames_twice(&bench), 0, "{what}");
        let report = bench.check_with(Read::All);
        assert_eq!(report.errors, 0, "{what}: {:?}", report.findings);
        bench.prune().unwrap();
        bench.prune().unwrap();
        assert_eq!(with_frames_twice(&bench), 0, "{what}");
        let now = bench.pack_bytes();
        assert!(now <= once + (64 << 10), "{what}: {now} where {once} are enough");
        bench.holds(&known, &what);
        bench.is_clean(&what);
    }
}

/// Where no pack goes: what a killed fold or prune left as segments, pins below the floor, and many pins of ended sessions.
#[test]
fn a_prune_that_gives_nothing_back_tidies_all_the_same() {
    let (bench, mut known) = three();
    bench.forget(&[known[0].0]);
    known.remove(0);
    let counted = |of: fn(&Parsed) -> bool| bench.count(of);
    let segments = || counted(|p| matches!(p, Parsed::Segment(..)));
    // Cut off once its merged segment is stored: its session is open, and has to be ended first.
    bench.fault.add(Rule::on(copal_engine::store::Verb::PutNew, "base/").effect(Effect::CrashBefore));
    bench.prune().unwrap_err();
    bench.fault.clear();
    bench.fault.revive();
    assert_eq!(segments(), 1);
    bench.prune().unwrap();
    bench.prune().unwrap();
    assert_eq!(segments(), 1, "only the one that base lists");
    bench.is_clean("ended");
    // Below the floor: a pin, its ack and a tombstone, as of one who came late.
    let floor = bench.view().1.base.base.floors[0];
    let late = (floor.0, copal_engine::id::SessionId { n: floor.1 - 1, random: 5 });
    bench.put(objects::pin(late.0, late.1), b"late".to_vec());
    bench.put(objects::ack(late.0, late.1, 1), b"late".to_vec());
    let done = bench.prune().unwrap();
    assert_eq!((done.generation, done.plan.is_empty()), (None, true));
    let there = bench.memory.snapshot();
    assert!(!there.keys().any(|k| k.as_str().starts_with(&objects::pin(late.0, late.1))));
    // Sessions that have committed, one after another.
    let pins = || counted(|p| matches!(p, Parsed::Pin(..)));
    for _ in 0..20 {
        known.push((bench.backup().snapshot.unwrap(), on_disk(&bench.source())));
    }
    assert!(pins() >= 20);
    let done = bench.prune().unwrap();
    assert!(done.generation.is_some() && done.plan.condemned().len() == done.done.deleted.packs as usize, "{done:?}");
    assert!(pins() <= 4, "{}", pins());
    assert_eq!(bench.prune().unwrap().generation, None, "and then there is nothing more");
    bench.holds(&known, "tidied");
}

/// Whose pins and snapshots are all gone counts from 1 again, below the floor: it starts over, and leaves nothing of that behind.
#[test]
fn a_session_below_the_floor_takes_its_pin_back() {
    let (bench, mut known) = three();
    let writer = bench.new_writer();
    let opts = crate::bench::options(&bench.source());
    for _ in 0..3 {
        let theirs = bench.process_as(&writer, "writer", &opts, &Silent).unwrap().snapshot.unwrap();
        bench.forget(&[theirs]);
    }
    bench.prune().unwrap();
    bench.prune().unwrap();
    let id = writer.identity.as_ref().unwrap().id;
    let floor = bench.view().1.base.base.floor(id);
    let pins = || bench.count(|p| matches!(p, Parsed::Pin(..)));
    let before = pins();
    assert!(floor > 1);
    known.push((
        bench.process_as(&writer, "writer", &opts, &Silent).unwrap().snapshot.unwrap(),
        on_disk(&bench.source()),
    ));
    assert_eq!(pins(), before + 1);
    let newest = bench.view().1.snapshots.iter().filter(|s| s.at.writer == id).map(|s| s.at.session.n).max();
    assert_eq!(newest, Some(floor));
    bench.holds(&known, "above the floor");
}
