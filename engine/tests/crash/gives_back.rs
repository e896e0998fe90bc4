//! Prune itself: what it gives back, beside backups, beside itself, and over a store that crashes at every call.

use std::sync::Arc;
use std::time::Duration;

use copal_engine::format::bundle::{Bundle, Role};
use copal_engine::format::objects::{self, Parsed};
use copal_engine::format::snapshot::SnapshotRef;
use copal_engine::id::SnapshotId;
use copal_engine::ops::prune::{Limit, Options, Policy, Summary, prune};
use copal_engine::progress::{Cancel, Problem, Progress, Silent};
use copal_engine::store::Verb;
use copal_engine::store::fault::{Effect, Rule};
use copal_engine::{Error, Result};

use crate::bench::{Bench, Content, change_source, make_source, noise, on_disk, options, same_content, settle};
use crate::hooked::Hooked;

/// Everything unused goes.
pub const ALL: Options = Options {
    policy: Policy { max_unused: Limit::Bytes(0), max_repack: None },
    dry_run: false,
    exclusive: false,
    yes: false,
    probe: false,
    as_if_forgotten: Vec::new(),
    lock: None,
};

impl Bench {
    pub fn prune_as(&self, bundle: &Bundle, local: &str, options: &Options) -> Result<Summary> {
        let mut repo = self.open_as(bundle, local)?;
        let who = repo.identity(&mut *self.rng())?;
        prune(&Arc::new(repo), &who, self.rng(), options, &Silent, &Cancel::default())
    }

    pub fn prune(&self) -> Result<Summary> {
        self.prune_as(&self.bundle, "owner", &ALL)
    }

    pub fn forget(&self, snapshots: &[SnapshotId]) {
        let (repo, view) = self.view();
        let named: Vec<SnapshotRef> =
            view.snapshots.iter().map(|s| s.at).filter(|s| snapshots.contains(&s.id)).collect();
        assert_eq!(named.len(), snapshots.len());
        repo.forget(&named).unwrap();
    }

    pub fn count(&self, of: fn(&Parsed) -> bool) -> usize {
        let store = self.memory.snapshot();
        store.keys().filter(|key| objects::parse(key.as_str()).as_ref().is_some_and(of)).count()
    }

    pub fn pack_bytes(&self) -> u64 {
        let store = self.memory.snapshot();
        store.iter().filter(|(key, _)| key.as_str().starts_with("pack/")).map(|(_, bytes)| bytes.len() as u64).sum()
    }

    /// Exactly these snapshots are there, and whole.
    pub fn holds(&self, known: &[(SnapshotId, Content)], what: &str) {
        let visible = self.restore_all();
        let mut ids: Vec<SnapshotId> = visible.iter().map(|(id, _)| *id).collect();
        let mut wanted: Vec<SnapshotId> = known.iter().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(ids, wanted, "{what}");
        for (id, content) in &visible {
            same_content(content, &known.iter().find(|(known, _)| known == id).unwrap().1, what);
        }
    }

    pub fn is_clean(&self, what: &str) {
        let report = self.check();
        assert_eq!(report.errors, 0, "{what}: {:?}", report.findings);
        assert_eq!((report.unlisted.packs, report.unlisted.segments), (0, 0), "{what}");
    }
}

/// Three states of a source, each with much of its own in packs that the others need in part.
pub fn three() -> (Bench, Vec<(SnapshotId, Content)>) {
    three_in(Bench::new())
}

pub fn three_in(bench: Bench) -> (Bench, Vec<(SnapshotId, Content)>) {
    let bench = Bench { watch: Duration::from_millis(10), ..bench };
    let source = bench.source();
    make_source(&source, false);
    // Reading it changes its atime, and so the directory's meta.
    std::fs::remove_file(source.join("link")).unwrap();
    let mut known = Vec::new();
    for n in 0..3 {
        std::fs::write(source.join("d/own"), noise(70 + n, 400_000)).unwrap();
        std::fs::write(source.join(format!("d/stays{n}")), noise(80 + n, 150_000)).unwrap();
        settle();
        let done = bench.backup();
        known.push((done.snapshot.unwrap(), on_disk(&source)));
    }
    (bench, known)
}

#[test]
fn the_space_of_forgotten_snapshots_is_back_in_the_same_run() {
    let (bench, mut known) = three();
    let before = bench.pack_bytes();
    bench.forget(&[known[0].0, known[1].0]);
    let planned = bench.prune_as(&bench.bundle, "owner", &Options { dry_run: true, ..ALL }).unwrap();
    assert_eq!((planned.generation, bench.pack_bytes()), (None, before), "a dry run changes nothing");
    let done = bench.prune().unwrap();
    known.drain(..2);
    assert_eq!(planned.plan, done.plan);
    assert!(done.repacked_packs > 0 && done.done.forgotten >= 2, "{done:?}");
    // Small chunks of the forgotten files stay where they share a frame with ones that are kept.
    assert!(bench.pack_bytes() + 500_000 < before, "{} of {before}", bench.pack_bytes());
    assert_eq!(done.plan.counts.unused_after, 0);
    assert!(bench.pack_bytes() <= before - done.done.deleted.bytes + done.repacked_bytes + (300 << 10));
    bench.holds(&known, "pruned");
    bench.is_clean("pruned");
    assert_eq!(bench.count(|p| matches!(p, Parsed::Condemn(_) | Parsed::Sweep(_) | Parsed::Forget(_))), 0);
    assert_eq!(bench.count(|p| matches!(p, Parsed::Base(_))), 1);
    // Beside the snapshot what ended the prune's own two sessions; the next one takes those away.
    assert_eq!(bench.count(|p| matches!(p, Parsed::Snapshot(..))), 3);
    // Nothing is left to do, nothing is stored twice, and it can all be done again.
    bench.record.take();
    let again = bench.prune().unwrap();
    assert_eq!((again.generation, again.plan.is_empty()), (None, true), "{again:?}");
    assert_eq!(bench.stored(""), 0);
    bench.backup();
    assert_eq!(bench.stored("pack/"), 0, "what was moved is reused");
}

#[test]
fn a_maintainer_prunes_what_it_cannot_read() {
    let (bench, mut known) = three();
    let maintainer = bench.open().unwrap().enroll_new(Role::Maintainer, &mut *bench.rng()).unwrap();
    bench.forget(&[known[0].0]);
    let before = bench.pack_bytes();
    let done = bench.prune_as(&maintainer, "maintainer", &ALL).unwrap();
    known.remove(0);
    assert!(done.repacked_bytes > 0 && bench.pack_bytes() < before);
    bench.holds(&known, "maintainer");
    bench.is_clean("maintainer");
    let writer = bench.new_writer();
    assert!(matches!(bench.prune_as(&writer, "writer", &ALL), Err(Error::NotAllowed { .. })));
}

#[test]
fn a_crash_at_any_call_loses_nothing_and_the_next_prune_ends_it() {
    crash_at_any_call(three());
}

pub fn crash_at_any_call((bench, mut known): (Bench, Vec<(SnapshotId, Content)>)) {
    bench.forget(&[known[1].0]);
    known.remove(1);
    let start = bench.memory.snapshot();
    let calls = bench.fault.calls();
    let done = bench.prune().unwrap();
    let calls = bench.fault.calls() - calls;
    // What a crashed one had copied stays: nobody has verified it, so no other copy goes in its favour.
    let whole = bench.pack_bytes() + done.repacked_bytes + (300 << 10);
    assert!(calls > 40, "{calls}");
    for n in 0..calls {
        for effect in [Effect::CrashBefore, Effect::CrashAfter] {
            let what = format!("{effect:?} call {n} of {calls}");
            bench.memory.restore(start.clone());
            bench.fault.add(Rule::any().skip(n).times(1).effect(effect));
            let crashed = bench.prune();
            bench.fault.clear();
            bench.fault.revive();
            if n + 4 < calls {
                assert!(crashed.is_err(), "{what}");
            }
            bench.holds(&known, &what);
            bench.prune().unwrap_or_else(|e| panic!("{what}: {e}"));
            // What the crashed one had stored and its session was ended for.
            bench.prune().unwrap_or_else(|e| panic!("{what}: {e}"));
            bench.holds(&known, &what);
            let report = bench.check();
            // An index segment may stay until a prune that makes a base of its own.
            assert_eq!((report.errors, report.unlisted.packs), (0, 0), "{what}: {:?}", report.findings);
            assert!(bench.pack_bytes() <= whole, "{what}: {} and not {whole}", bench.pack_bytes());
        }
    }
}

/// Prunes at the `n`th entry that a backup comes to.
struct PruneAt<'b> {
    bench: &'b Bench,
    n: u64,
    met: std::sync::atomic::AtomicU64,
}

impl Progress for PruneAt<'_> {
    fn start(&self, _: &std::path::Path) {
        if self.met.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == self.n {
            // A process of its own: the owner's other machine.
            self.bench.prune_as(&self.bench.bundle, "elsewhere", &ALL).unwrap();
        }
    }
    fn problem(&self, problem: Problem) {
        panic!("{problem}");
    }
}

#[test]
fn a_prune_anywhere_in_a_backup_harms_neither() {
    prune_anywhere(three());
}

pub fn prune_anywhere((bench, mut known): (Bench, Vec<(SnapshotId, Content)>)) {
    change_source(&bench.source(), false);
    settle();
    // What only the forgotten ones hold is there again: the backup would like to reuse it.
    std::fs::write(bench.source().join("d/own"), noise(70, 400_000)).unwrap();
    settle();
    bench.forget(&[known[0].0, known[1].0]);
    known.drain(..2);
    // Its identity is enrolled before.
    bench.open_as(&bench.bundle, "elsewhere").unwrap().identity(&mut *bench.rng()).unwrap();
    let start = bench.memory.snapshot();
    let count = PruneAt { bench: &bench, n: u64::MAX, met: Default::default() };
    bench.process(&options(&bench.source()), &count).unwrap();
    let entries = count.met.into_inner();
    assert!(entries > 5);
    let now = on_disk(&bench.source());
    for n in 0..entries {
        bench.memory.restore(start.clone());
        let at = PruneAt { bench: &bench, n, met: Default::default() };
        let done = bench.process(&options(&bench.source()), &at).unwrap();
        let mut known = known.clone();
        known.push((done.snapshot.unwrap(), now.clone()));
        bench.holds(&known, &format!("pruned at entry {n}"));
        bench.prune().unwrap();
        bench.prune().unwrap();
        bench.holds(&known, &format!("pruned at entry {n}, and again"));
        bench.is_clean(&format!("pruned at entry {n}"));
    }
}

#[test]
fn what_an_interrupted_backup_left_goes_once_its_session_was_ended() {
    let (bench, known) = three();
    std::fs::write(bench.source().join("more"), noise(900, 500_000)).unwrap();
    settle();
    let before = bench.pack_bytes();
    bench.fault.add(Rule::on(Verb::PutNew, "snap/").effect(Effect::CrashBefore));
    bench.try_backup().0.unwrap_err();
    bench.fault.clear();
    bench.fault.revive();
    assert!(bench.pack_bytes() > before + 400_000);
    // Nobody knows whether it still runs: first it is asked, and ended. Records are taken in meanwhile.
    bench.forget(&[known[0].0]);
    let first = bench.prune().unwrap();
    assert_eq!(first.done.fenced, 1);
    bench.prune().unwrap();
    assert!(bench.pack_bytes() < before);
    bench.holds(&known[1..], "pruned");
    bench.is_clean("pruned");
    bench.backup();
}

#[test]
fn nothing_is_deleted_where_what_is_needed_cannot_be_known() {
    let (bench, known) = three();
    bench.forget(&[known[0].0]);
    let newest = bench.view().1.snapshots.iter().map(|s| s.at.session.n).max().unwrap();
    let start = bench.memory.snapshot();
    let packs = || bench.memory.snapshot().keys().filter(|k| k.as_str().starts_with("pack/")).count();
    let all = packs();
    for key in start.keys() {
        let Some(parsed) = objects::parse(key.as_str()) else { continue };
        if matches!(parsed, Parsed::Pin(..) | Parsed::Slot(_) | Parsed::Config(_)) {
            continue;
        }
        bench.memory.restore(start.clone());
        bench.remove(key.as_str().to_owned());
        let missing = usize::from(matches!(parsed, Parsed::Pack(..)));
        match (parsed, bench.prune()) {
            // A record that is gone hides nothing any more; and a snapshot that only the record named was forgotten.
            (Parsed::Forget(_), Ok(_)) => {}
            // The newest, which nobody names yet, looks like one that was never committed (docs/limitations.md).
            (Parsed::Snapshot(_, session), Ok(_)) if session.n == newest => bench.holds(&known[1..2], key.as_str()),
            (Parsed::Snapshot(..), Ok(_)) => bench.holds(&known[1..], key.as_str()),
            // It held nothing that is kept.
            (Parsed::Pack(..), Ok(_)) => bench.holds(&known[1..], key.as_str()),
            (_, Ok(done)) => panic!("without {key}: {done:?}"),
            (_, Err(e)) => {
                assert!(matches!(e, Error::Damaged { .. } | Error::Store(_) | Error::Busy(_)), "without {key}: {e}");
                assert_eq!(packs(), all - missing, "without {key}: {e}");
            }
        }
    }
}

/// Another executor decides, records and retires this one's generation before its sweep is stored: what then stands under the
/// sweep's name is no decision that a base holds.
#[test]
fn a_sweep_that_comes_after_its_generation_was_retired_deletes_nothing() {
    let (bench, mut known) = three();
    bench.forget(&[known[0].0]);
    known.remove(0);
    bench.open_as(&bench.bundle, "elsewhere").unwrap().identity(&mut *bench.rng()).unwrap();
    let bench = Arc::new(bench);
    let other = Arc::clone(&bench);
    // It has not verified what this one has copied, so it lets more packs stay.
    let finishes = move || {
        let other = Arc::clone(&other);
        let run =
            move || other.prune_as(&other.bundle, "elsewhere", &Options { policy: Policy::default(), ..ALL }).map(drop);
        std::thread::spawn(run).join().unwrap().unwrap();
    };
    let store = Hooked::before(bench.record.clone(), (Verb::PutNew, "gc/0000000000000001.sweep"), finishes);
    let mut repo = bench.open_over(Arc::new(store), &bench.bundle, "owner").unwrap();
    let who = repo.identity(&mut *bench.rng()).unwrap();
    let done = prune(&Arc::new(repo), &who, bench.rng(), &ALL, &Silent, &Cancel::default()).unwrap();
    assert!(done.repacked_packs > 0 && done.done.deleted.packs == 0, "{done:?}");
    bench.holds(&known, "retired by another");
    assert_eq!(bench.check().errors, 0, "packs that base shows are gone");
    assert_eq!(bench.count(|p| matches!(p, Parsed::Condemn(_) | Parsed::Sweep(_))), 0);
}
