//! Forgetting beside backups, beside other forgets, beside bases, and over a store that fails.

use std::sync::Arc;

use copal_engine::Error;
use copal_engine::crypto::sign::SigningKey;
use copal_engine::format::base::{Base, SIGNED_BY_ROOT};
use copal_engine::format::bundle::Role;
use copal_engine::format::gc::{At, Forget, Kind};
use copal_engine::format::objects;
use copal_engine::format::snapshot::SnapshotRef;
use copal_engine::progress::{Problem, Progress};
use copal_engine::repo::Repository;
use copal_engine::store::fault::{Effect, Rule};
use copal_engine::store::{Key, Verb};

use crate::bench::{Bench, change_source, make_source, on_disk, options, same_content, settle};
use crate::hooked::Hooked;

/// A repository with `n` snapshots, each of another state of the source.
fn bench_of(n: usize) -> Bench {
    let bench = Bench::new();
    make_source(&bench.source(), false);
    // Reading it changes its atime, and so the directory's meta.
    std::fs::remove_file(bench.source().join("link")).unwrap();
    for n in 0..n {
        std::fs::write(bench.source().join("d/counter"), format!("{n}")).unwrap();
        bench.backup();
    }
    bench
}

impl Bench {
    fn all(&self) -> Vec<SnapshotRef> {
        self.view().1.snapshots.iter().map(|s| s.at).collect()
    }

    fn forgets(&self) -> Vec<String> {
        self.memory.snapshot().keys().map(|k| k.to_string()).filter(|k| k.starts_with("forget/")).collect()
    }

    fn remove_snapshot(&self, at: &SnapshotRef) {
        self.remove(objects::snapshot(at.writer, at.session));
    }

    /// A base above the newest one, that says what `change` makes of that.
    fn put_base(&self, change: impl FnOnce(&mut Base)) {
        let repo = self.open().unwrap();
        let newest = repo.newest_base().unwrap();
        let mut base = Base { previous: newest.hash, ..newest.base };
        change(&mut base);
        let n = newest.n + 1;
        self.put(objects::base(n), base.encode(repo.id(), n, repo.graph_keys(), SIGNED_BY_ROOT, &self.root()));
    }
}

fn forget(repo: &Repository, which: &[SnapshotRef]) -> u64 {
    repo.forget(which).unwrap().expect("something is named")
}

#[test]
fn a_forgotten_snapshot_is_seen_by_nobody_and_its_blobs_still_count() {
    let bench = bench_of(2);
    std::fs::write(bench.source().join("d/counter"), b"settled").unwrap();
    settle();
    bench.backup();
    let all = bench.all();
    assert_eq!(bench.open().unwrap().forget(&[]).unwrap(), None);
    assert!(bench.forgets().is_empty());
    assert_eq!(forget(&bench.open().unwrap(), &[all[2], all[0], all[2]]), 1);

    let (repo, view) = bench.view();
    assert_eq!(view.problems, []);
    assert_eq!(view.snapshots.iter().map(|s| s.at).collect::<Vec<_>>(), [all[1]]);
    assert_eq!(view.forgotten.len(), 2);
    assert!(view.forgotten.iter().all(|f| f.time.is_some() && f.snapshot.is_some()));
    assert_eq!(view.resolve("latest", |_| true).unwrap().at, all[1]);
    let gone = view.resolve(&all[2].id.to_string(), |_| true).unwrap_err();
    assert!(matches!(&gone, Error::NotFound(text) if text.contains("was forgotten at 2")), "{gone}");
    assert_eq!(repo.committed().unwrap().snapshots.len(), 1);
    let report = bench.check();
    assert_eq!((report.findings, report.unchecked, report.unlisted), (vec![], vec![], Default::default()));

    // It is nobody's parent, and what only it published is used again.
    bench.record.take();
    bench.backup();
    assert_eq!(bench.stored("pack/") + bench.stored("idx/"), 0);
    let (_, view) = bench.view();
    let newest = view.snapshots.last().unwrap();
    assert_eq!(newest.graph.previous, Some(all[1].id));
    assert!(all.iter().all(|s| newest.graph.view.snapshots.contains(s)), "what it relies on is named");
    let restored = bench.restore_all();
    same_content(&restored.last().unwrap().1, &on_disk(&bench.source()), "after a forget");
}

#[test]
fn the_index_does_not_need_a_list_to_show_forgotten_snapshots() {
    let bench = bench_of(2);
    let all = bench.all();
    forget(&bench.open().unwrap(), &all[1..]);
    bench.fault.add(Rule::on(Verb::List, "snap/").effect(Effect::ShortList));
    let (_, view) = bench.view();
    assert_eq!(view.snapshots.iter().map(|s| s.at).collect::<Vec<_>>(), all[..1]);
    assert_eq!(view.forgotten.iter().map(|f| (f.at, f.snapshot.is_some())).collect::<Vec<_>>(), [(all[1], true)]);
}

#[test]
fn what_is_gone_without_a_record_is_told() {
    let bench = bench_of(3);
    let all = bench.all();
    forget(&bench.open().unwrap(), &all[..1]);
    bench.remove_snapshot(&all[0]);
    let repo = bench.open().unwrap();
    let committed = repo.committed().unwrap();
    assert_eq!((committed.problems, committed.snapshots.len()), (vec![], 2));
    bench.remove_snapshot(&all[1]);
    let problems = repo.committed().unwrap().problems;
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].path.ends_with(all[1].session.to_string()), "{problems:?}");
}

#[test]
fn forgets_at_once_all_count() {
    let bench = bench_of(6);
    let all = bench.all();
    std::thread::scope(|scope| {
        for at in &all[..5] {
            let bench = &bench;
            scope.spawn(move || forget(&bench.open().unwrap(), &[*at]));
        }
    });
    assert_eq!(bench.all(), all[5..]);
    assert_eq!(bench.forgets(), (1..=5).map(objects::forget).collect::<Vec<_>>());
}

/// Forgets in the middle of a backup.
struct Meanwhile<'b>(&'b Bench, Vec<SnapshotRef>, std::sync::Once);

impl Progress for Meanwhile<'_> {
    fn advance(&self, _: u64, _: u64) {
        self.2.call_once(|| {
            std::thread::scope(|scope| {
                scope.spawn(|| forget(&self.0.open().unwrap(), &self.1));
            });
        });
    }
    fn problem(&self, problem: Problem) {
        panic!("{problem}");
    }
}

#[test]
fn a_backup_whose_parent_is_forgotten_meanwhile_is_whole() {
    let bench = bench_of(2);
    let all = bench.all();
    settle();
    change_source(&bench.source(), false);
    let meanwhile = Meanwhile(&bench, all, std::sync::Once::new());
    bench.process(&options(&bench.source()), &meanwhile).unwrap();
    assert!(meanwhile.2.is_completed());
    let restored = bench.restore_all();
    assert_eq!(restored.len(), 1);
    same_content(&restored[0].1, &on_disk(&bench.source()), "its parent was forgotten");
    assert_eq!(bench.check().findings, []);
}

#[test]
fn a_forget_that_is_cut_off_is_done_or_not_and_can_be_repeated() {
    for effect in [Effect::CrashBefore, Effect::CrashAfter] {
        let bench = bench_of(2);
        let all = bench.all();
        bench.fault.add(Rule::on(Verb::PutNew, "forget/").effect(effect.clone()));
        assert!(bench.open().unwrap().forget(&all[..1]).is_err());
        bench.fault.clear();
        bench.fault.revive();
        let done = effect == Effect::CrashAfter;
        assert_eq!(bench.all(), all[usize::from(done)..], "{effect:?}");
        assert_eq!(forget(&bench.open().unwrap(), &all[..1]), 1 + u64::from(done));
        assert_eq!(bench.all(), all[1..], "{effect:?}");
    }
}

#[test]
fn a_record_that_a_list_does_not_show_hides_nothing_more() {
    let bench = bench_of(3);
    let all = bench.all();
    forget(&bench.open().unwrap(), &all[..1]);
    forget(&bench.open().unwrap(), &all[1..2]);
    bench.fault.add(Rule::on(Verb::List, "forget/").effect(Effect::ShortList).times(1));
    assert_eq!(bench.all(), all[1..], "the second is seen once more");
    assert_eq!(bench.all(), all[2..]);
    // Nor does it let a record be replaced.
    bench.fault.add(Rule::on(Verb::List, "forget/").effect(Effect::ShortList).times(1));
    assert_eq!(forget(&bench.open().unwrap(), &all[2..]), 3);
    assert!(bench.all().is_empty());
}

#[test]
fn a_store_that_overwrites_or_loses_a_record_is_noticed() {
    let bench = bench_of(2);
    let all = bench.all();
    bench.fault.add(Rule::on(Verb::PutNew, "forget/").effect(Effect::Lost).times(1));
    assert_eq!(forget(&bench.open().unwrap(), &all[..1]), 2, "the first was acknowledged and is not there");
    assert_eq!(bench.all(), all[1..]);
}

#[test]
fn what_is_no_record_hides_nothing_and_is_told() {
    let bench = bench_of(2);
    let all = bench.all();
    let repo = bench.open().unwrap();
    bench.put(objects::forget(1), b"whatever".to_vec());
    let other = SigningKey::from_seed(copal_engine::crypto::secret::Secret::from_bytes([7; 32]));
    let object = objects::forget(2);
    let record = Forget { snapshots: vec![all[0]], ..Forget::default() };
    let at = At { repository: repo.id(), object: &object, keys: repo.graph_keys() };
    bench.put(object.clone(), record.encode(at, all[0].writer, &other));
    let committed = repo.committed().unwrap();
    assert_eq!(committed.snapshots.len(), 2);
    let told: Vec<_> = committed.problems.iter().map(|p| p.path.to_string_lossy().into_owned()).collect();
    assert_eq!(told, [objects::forget(1), objects::forget(2)]);
    let found: Vec<_> = bench.check().findings.into_iter().map(|f| f.object).collect();
    assert_eq!(found, told);
    assert_eq!(forget(&repo, &all[..1]), 3, "the next one goes on behind them");
    assert_eq!(bench.view().1.snapshots.len(), 1);
}

#[test]
fn owners_and_maintainers_forget_and_nobody_else() {
    let bench = bench_of(3);
    let all = bench.all();
    let maintainer = bench.open().unwrap().enroll_new(Role::Maintainer, &mut *bench.rng()).unwrap();
    let writer = bench.new_writer();
    let reader = bench.open().unwrap().bundle_for(Role::Reader).unwrap();
    for (bundle, role) in [(&writer, "writer"), (&reader, "reader")] {
        let repo = bench.open_as(bundle, role).unwrap();
        for denied in [repo.may_forget().unwrap_err(), repo.forget(&all).unwrap_err()] {
            assert!(matches!(denied, Error::NotAllowed { role: r, .. } if r == role), "{denied}");
            assert!(denied.to_string().contains("owner or maintainer"), "{denied}");
        }
    }
    assert!(bench.forgets().is_empty());

    let repo = bench.open_as(&maintainer, "maintainer").unwrap();
    assert!(repo.snapshots().unwrap().0.iter().all(|s| s.names.is_none()));
    assert_eq!(forget(&repo, &all[..1]), 1);
    assert_eq!(forget(&bench.open().unwrap(), &all[1..2]), 2);
    assert_eq!(bench.all(), all[2..]);
    assert_eq!(bench.open_as(&writer, "writer").unwrap().snapshots().unwrap().0.len(), 1);

    // Who is revoked has forgotten nothing, as far as no base has taken it in.
    let id = maintainer.identity.as_ref().unwrap().id;
    bench.open().unwrap().revoke(id, None).unwrap();
    assert_eq!(bench.all(), [all[0], all[2]]);
    let revoked = bench.open_as(&maintainer, "maintainer").unwrap().forget(&all).unwrap_err();
    assert!(matches!(revoked, Error::WrongKey(_)), "{revoked}");
}

#[test]
fn an_older_process_knows_a_maintainer_who_came_later() {
    let bench = bench_of(2);
    let all = bench.all();
    let early = bench.open().unwrap();
    let maintainer = bench.open().unwrap().enroll_new(Role::Maintainer, &mut *bench.rng()).unwrap();
    forget(&bench.open_as(&maintainer, "maintainer").unwrap(), &all[..1]);
    let committed = early.committed().unwrap();
    assert_eq!((committed.problems, committed.snapshots.len()), (vec![], 1));
}

#[test]
fn what_a_base_has_taken_in_needs_no_record() {
    let bench = bench_of(3);
    let all = bench.all();
    let mut folded = all.clone();
    folded.sort_unstable();
    forget(&bench.open().unwrap(), &all[..1]);
    bench.put_base(|base| {
        let repo = bench.open().unwrap();
        // Small sessions keep their entries in the snapshot; what a base lists does not matter here.
        assert!(repo.view().unwrap().problems.is_empty());
        (base.snapshots, base.forgotten, base.forgets) = (folded, vec![all[0]], 1);
    });
    bench.remove(objects::forget(1));
    let (_, view) = bench.view();
    assert_eq!(view.snapshots.iter().map(|s| s.at).collect::<Vec<_>>(), all[1..]);
    let gone = view.resolve(&all[0].id.to_string(), |_| true).unwrap_err();
    assert!(gone.to_string().contains("was forgotten;"), "{gone}");
    // A number that base counts as done is never used again, and what stands there says nothing.
    assert_eq!(forget(&bench.open().unwrap(), &all[1..2]), 2);
    assert_eq!(bench.all(), all[2..]);
}

/// Somebody forgets something else, a base takes that in, and its record is removed: all between this forget's look at the base
/// and its record, which so comes under a number that the base counts.
#[test]
fn a_record_under_a_number_that_a_base_counts_is_made_again() {
    let bench = bench_of(2);
    let all = bench.all();
    bench.put_base(|base| base.forgets = 1);
    let stored = bench.memory.snapshot()[&Key::new(objects::base(1)).unwrap()].clone();
    bench.remove(objects::base(1));
    let bench = Arc::new(bench);
    let other = Arc::clone(&bench);
    let takes_in = move || other.put(objects::base(1), stored.to_vec());
    let store = Hooked::before(bench.memory.clone(), (Verb::PutNew, "forget/"), takes_in);
    let repo = bench.open_over(Arc::new(store), &bench.bundle, "owner").unwrap();
    assert_eq!(forget(&repo, &all[..1]), 2);
    assert_eq!(bench.all(), all[1..]);
}
