//! Every call of the store failing or lying, one at a time.

use copal_engine::Error;
use copal_engine::ops::backup::{Options, Stream};
use copal_engine::progress::{Problem, Progress};
use copal_engine::repo::Reader;
use copal_engine::store::fault::{Effect, Rule};
use copal_engine::store::{Key, Store, Verb};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::bench::{Bench, change_source, make_source, on_disk, options, read_snapshot, same_content, settle};

/// What is visible and not whole, told as an error or a problem; panics where other bytes come back.
fn told_damage(bench: &Bench, now: &crate::bench::Content, what: &str) -> (usize, Vec<String>) {
    let (repo, view) = bench.view();
    let mut told: Vec<String> = view.problems.iter().map(ToString::to_string).collect();
    let reader = Reader::new(repo, Arc::clone(&view.index), 8 << 20);
    for snapshot in view.snapshots.iter().skip(1) {
        match read_snapshot(&reader, snapshot) {
            Ok(content) => same_content(&content, now, what),
            Err(e) => told.push(e.to_string()),
        }
    }
    (view.snapshots.len(), told)
}

/// One call of an incremental backup is hit at a time. Success means a whole snapshot, failure says why and leaves none.
fn hit_everywhere(effect: Effect, large: bool) {
    let bench = Bench::new();
    make_source(&bench.source(), large);
    settle();
    bench.backup();
    change_source(&bench.source(), large);
    let (start, now) = (bench.memory.snapshot(), on_disk(&bench.source()));
    bench.record.take();
    bench.backup();
    let calls = bench.record.take().len();
    for n in 0..calls {
        bench.memory.restore(start.clone());
        bench.record.take();
        bench.fault.add(Rule::any().skip(n as u64).times(1).effect(effect.clone()));
        let (done, problems) = bench.try_backup();
        bench.fault.clear();
        let log = bench.record.take();
        // Uploads end beside each other: which was hit is known to within a call.
        let hit = &log[n.saturating_sub(1).min(log.len())..log.len().min(n + 2)];
        let what = format!("{effect:?} at call {n}, one of {hit:?}");
        let (visible, told) = told_damage(&bench, &now, &what);
        // Damage of what is written shows when it is read: by its hash, its seal, its id.
        let writes = hit.iter().any(|call| matches!(call.verb, Verb::Put | Verb::PutNew));
        let lies = writes && matches!(effect, Effect::Corrupt);
        match done {
            Ok(summary) => {
                assert!(summary.snapshot.is_some() && (visible == 2 || lies), "{what}: success and no snapshot");
                assert!(told.is_empty() || lies, "{what}: {told:?} and success ({problems:?})");
            }
            Err(e) => {
                assert!(!e.to_string().is_empty());
                assert!(visible == 1 || lies, "{what}: {e}, and yet a snapshot");
                assert!(told.is_empty() || writes, "{what}: {told:?}");
            }
        }
        if told.is_empty() {
            bench.backup();
            let restored = bench.restore_all();
            same_content(&restored.last().unwrap().1, &now, &what);
        }
    }
}

macro_rules! hits {
    ($($name:ident: $effect:expr;)*) => {$(
        #[test]
        fn $name() {
            hit_everywhere($effect, false);
            hit_everywhere($effect, true);
        }
    )*};
}

hits! {
    an_error_before_any_call_is_no_silent_loss: Effect::ErrorBefore;
    an_answer_lost_after_any_call_is_no_silent_loss: Effect::ErrorAfter;
    a_write_acknowledged_and_lost_is_noticed: Effect::Lost;
    a_full_store_is_no_silent_loss: Effect::Full;
    a_flipped_bit_is_noticed: Effect::Corrupt;
    half_an_object_is_noticed: Effect::Short;
    a_stale_list_is_no_silent_loss: Effect::StaleList(3);
    a_short_list_is_no_silent_loss: Effect::ShortList;
}

/// Puts a foreign object at the own snapshot's key once the walk has begun.
struct Tombstone<'b> {
    bench: &'b Bench,
    done: AtomicBool,
}

impl Progress for Tombstone<'_> {
    fn start(&self, _: &std::path::Path) {
        if self.done.swap(true, Ordering::Relaxed) {
            return;
        }
        let pins = self.bench.memory.snapshot();
        let newest = pins.keys().filter_map(|k| k.as_str().strip_prefix("pin/")).max().unwrap();
        let key = Key::new(format!("snap/{newest}")).unwrap();
        self.bench.bridge.wait(self.bench.memory.put_new(&key, "dead".into())).unwrap();
    }
    fn problem(&self, _: Problem) {}
}

#[test]
fn where_a_tombstone_stands_no_success_is_reported() {
    let bench = Bench::new();
    make_source(&bench.source(), false);
    // Reading it changes its atime, and so the directory's meta.
    std::fs::remove_file(bench.source().join("link")).unwrap();
    settle();
    let stream = Stream { reader: Mutex::new(Box::new(&b"from a pipe"[..])), owner: (0, 0) };
    let piped = Options { stream: Mutex::new(Some(stream)), as_path: None, ..options("piped".as_ref()) };
    let tombstone = || Tombstone { bench: &bench, done: AtomicBool::new(false) };
    // What came through a pipe cannot be read again.
    let fenced = bench.process(&piped, &tombstone());
    assert!(matches!(fenced, Err(Error::Fenced(_))), "{fenced:?}");
    assert_eq!(bench.view().1.snapshots.len(), 0);
    // Else another session follows, has a higher number, and uses what the fenced one stored.
    bench.record.take();
    let done = bench.process(&options(&bench.source()), &tombstone());
    assert!(done.unwrap().snapshot.is_some());
    assert_eq!(bench.record.count(Verb::PutNew, "pin/"), 2);
    let (_, view) = bench.view();
    assert_eq!(
        (view.snapshots.len(), view.problems.len()),
        (1, 2),
        "the foreign objects are told of: {:?}",
        view.problems
    );
}

#[test]
fn session_numbers_rise_and_never_repeat() {
    let bench = Bench::new();
    make_source(&bench.source(), false);
    for n in 0..24 {
        // Some fail early, some late, some not at all; a crash keeps the pin, a fault before it does not.
        bench.fault.add(Rule::any().skip(4 + n).times(1).effect(Effect::CrashBefore));
        let _ = bench.try_backup();
        bench.fault.clear();
        bench.fault.revive();
        bench.backup();
    }
    let mut pins: Vec<String> = bench
        .record
        .log()
        .iter()
        .filter(|op| op.verb == Verb::PutNew && op.ok)
        .map(|op| op.key.clone())
        .filter(|k| k.starts_with("pin/"))
        .collect();
    let in_order = pins.clone();
    pins.sort();
    assert_eq!(pins, in_order, "each session has a higher number than all before it");
    let numbers: std::collections::HashSet<&str> = pins.iter().map(|p| &p[5 + 32..5 + 32 + 16]).collect();
    assert_eq!(numbers.len(), pins.len());
}
