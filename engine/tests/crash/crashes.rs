//! A crash before and after every single call of the store.

use std::collections::HashMap;

use copal_engine::id::SnapshotId;
use copal_engine::store::fault::{Effect, Rule};

use crate::bench::{Bench, Content, change_source, make_source, on_disk, same_content, settle};

/// Snapshots that were reported, with what they hold.
type Known = HashMap<SnapshotId, Content>;

/// Everything that was reported is there, and everything that is there is whole: known, or what stands on the disk now.
fn all_whole(bench: &Bench, known: &Known, now: &Content, what: &str) -> usize {
    let visible = bench.restore_all();
    for (id, content) in &visible {
        same_content(content, known.get(id).unwrap_or(now), what);
    }
    for id in known.keys() {
        assert!(visible.iter().any(|(there, _)| there == id), "{what}: a snapshot is gone");
    }
    visible.len()
}

/// Crashes one backup at each of its calls, in both ways; after each: all is whole, a repeat succeeds, is whole too and
/// stores only what the crashed one did not. Leaves the store as it was, and returns how many calls a backup makes.
fn crash_everywhere(bench: &Bench, known: &Known, what: &str) -> u64 {
    let start = bench.memory.snapshot();
    let now = on_disk(&bench.source());
    bench.record.take();
    let before = bench.fault.calls();
    bench.backup();
    let (calls, whole) = (bench.fault.calls() - before, bench.stored("pack/"));
    for n in 0..calls {
        for effect in [Effect::CrashBefore, Effect::CrashAfter] {
            let what = format!("{what}, {effect:?} call {n} of {calls}");
            bench.memory.restore(start.clone());
            bench.fault.add(Rule::any().skip(n).times(1).effect(effect.clone()));
            let (crashed, _) = bench.try_backup();
            // What the first process fetched into the local index the others have.
            assert!(bench.fault.crashed() || n + 4 > calls, "{what}: it ended before");
            bench.fault.clear();
            bench.fault.revive();
            let stands: u64 = packs(bench) - start.iter().filter(|(k, _)| is_pack(k)).map(size).sum::<u64>();

            let visible = all_whole(bench, known, &now, &what);
            assert!(visible <= known.len() + 1, "{what}");
            // Folding and looking back come after the snapshot.
            assert!(crashed.is_err() || visible == known.len() + 1, "{what}: success without a snapshot");

            bench.record.take();
            let summary = bench.backup();
            let again = bench.stored("pack/");
            assert!(again <= whole.saturating_sub(stands) + (300 << 10), "{what}: {again} after {stands} of {whole}");
            let mut known = known.clone();
            known.insert(summary.snapshot.unwrap(), now.clone());
            all_whole(bench, &known, &now, &what);
        }
    }
    bench.memory.restore(start);
    calls
}

fn is_pack(key: &copal_engine::store::Key) -> bool {
    key.as_str().starts_with("pack/")
}

fn size(object: (&copal_engine::store::Key, &bytes::Bytes)) -> u64 {
    object.1.len() as u64
}

fn packs(bench: &Bench) -> u64 {
    bench.memory.snapshot().iter().filter(|(k, _)| is_pack(k)).map(size).sum()
}

fn crash_through_a_life(large: bool) {
    let bench = Bench::new();
    let source = bench.source();
    make_source(&source, large);
    settle();
    let mut known = Known::new();
    let calls = crash_everywhere(&bench, &known, "first");
    assert!(calls > 10, "{calls}");

    let first = bench.backup();
    known.insert(first.snapshot.unwrap(), on_disk(&source));
    change_source(&source, large);
    crash_everywhere(&bench, &known, "incremental");

    // After a crash: what the session left is adopted by one that is crashed in turn.
    let middle = calls / 2 + if large { 3 } else { 1 };
    bench.fault.add(Rule::any().skip(middle).times(1).effect(Effect::CrashAfter));
    assert!(bench.try_backup().0.is_err());
    bench.fault.clear();
    bench.fault.revive();
    crash_everywhere(&bench, &known, "after a crash");
}

#[test]
fn a_crash_anywhere_in_small_sessions_loses_nothing() {
    crash_through_a_life(false);
}

#[test]
fn a_crash_anywhere_in_sessions_of_several_packs_loses_nothing() {
    crash_through_a_life(true);
}
