//! Changing the tags of snapshots, over a store that crashes at every call.

use copal_engine::format::bundle::Role;
use copal_engine::format::snapshot::SnapshotRef;
use copal_engine::ops::Edited;
use copal_engine::ops::tag::{Change, tag};
use copal_engine::progress::{Cancel, Collect, Problem};
use copal_engine::store::Verb;
use copal_engine::store::fault::{Effect, Rule};
use copal_engine::{Error, Result};

use crate::bench::{Bench, change_source, make_source, same_content, settle};

/// A repository with two snapshots of different content.
fn bench() -> Bench {
    let bench = Bench::new();
    make_source(&bench.source(), false);
    bench.backup();
    change_source(&bench.source(), false);
    bench.backup();
    bench
}

fn add(label: &str) -> Change {
    Change::Edit { add: vec![label.into()], remove: Vec::new() }
}

impl Bench {
    /// Changes the tags of those of `which`, or all, by a process of its own.
    fn tag(&self, which: Option<SnapshotRef>, change: &Change, dry_run: bool) -> Result<(Vec<Edited>, Vec<Problem>)> {
        let mut repo = self.open()?;
        let who = repo.identity(&mut *self.rng())?;
        let repo = std::sync::Arc::new(repo);
        let committed = repo.committed()?;
        let chosen: Vec<_> = committed.snapshots.iter().filter(|s| which.is_none_or(|at| s.at == at)).collect();
        let (mut all, problems, cancel) = (Vec::new(), Collect::default(), Cancel::default());
        let mut done = |edited: &Edited| all.push(edited.clone());
        tag(&repo, &who, self.rng(), &chosen, change, dry_run, (&problems, &cancel), &mut done)?;
        Ok((all, problems.0.into_inner().unwrap()))
    }

    fn labels(&self) -> Vec<Vec<Vec<u8>>> {
        self.view().1.snapshots.into_iter().map(|s| s.names.unwrap().labels).collect()
    }
}

#[test]
fn a_new_snapshot_takes_the_place_of_the_old_one() {
    let bench = bench();
    let (before, old) = (bench.restore_all(), bench.view().1.snapshots);
    let packs = bench.memory.snapshot().keys().filter(|k| k.as_str().starts_with("pack/")).count();

    let (would, _) = bench.tag(None, &add("x"), true).unwrap();
    assert_eq!(would.iter().map(|e| (e.old, e.new)).collect::<Vec<_>>(), [(old[0].id(), None), (old[1].id(), None)]);
    assert_eq!(bench.view().1.snapshots.iter().map(|s| s.at).collect::<Vec<_>>(), [old[0].at, old[1].at]);

    let (done, problems) = bench.tag(Some(old[0].at), &add("x"), false).unwrap();
    assert_eq!((done.len(), problems), (1, vec![]));
    let (repo, view) = bench.view();
    let [new, kept] = &view.snapshots[..] else { panic!("{:?}", view.snapshots) };
    assert_eq!((kept.at, Some(new.id())), (old[1].at, done[0].new));
    assert_eq!(new.graph.original, Some(old[0].id()));
    let mut names = old[0].names.clone().unwrap();
    names.labels.push(b"x".to_vec());
    assert_eq!(new.names.as_ref(), Some(&names), "all else is as it was");
    let of = |s: &copal_engine::repo::Snapshot| {
        let g = s.graph.clone();
        (g.root, g.time, g.source, g.host, g.paths, g.previous)
    };
    assert_eq!(of(new), of(&old[0]));
    assert_eq!(new.graph.labels, [repo.content_ids().unwrap().label("label", b"x")]);
    assert!(view.forgotten.iter().any(|f| f.at == old[0].at));
    assert_eq!(bench.memory.snapshot().keys().filter(|k| k.as_str().starts_with("pack/")).count(), packs);

    // Tagged again it still names the first, and one that has the tag is left alone.
    let again = bench.tag(Some(new.at), &Change::Set(vec![b"y".to_vec()]), false).unwrap().0;
    assert_eq!(again.len(), 1);
    assert_eq!(bench.view().1.snapshots[0].graph.original, Some(old[0].id()));
    assert!(bench.tag(Some(kept.at), &Change::Set(Vec::new()), false).unwrap().0.is_empty());
    assert_eq!(bench.labels(), [vec![b"y".to_vec()], vec![]]);
    let after = bench.restore_all();
    for ((_, a), (_, b)) in before.iter().zip(&after) {
        same_content(b, a, "tagged");
    }
    assert_eq!(bench.check().findings, []);
}

#[test]
fn the_next_backup_compares_with_the_last_state_not_with_what_was_tagged_last() {
    let bench = Bench::new();
    make_source(&bench.source(), false);
    settle();
    bench.backup();
    change_source(&bench.source(), false);
    settle();
    let last = bench.backup();
    let first = bench.view().1.snapshots[0].at;
    bench.tag(Some(first), &add("old"), false).unwrap();
    let next = bench.backup();
    assert_eq!((next.parent, next.counts.files[0] + next.counts.files[1]), (last.snapshot, 0));
    // Where the last one itself was tagged, its copy serves.
    let newest = bench.view().1.snapshots.last().unwrap().at;
    let tagged = bench.tag(Some(newest), &add("new"), false).unwrap().0[0].new;
    let next = bench.backup();
    assert_eq!((next.parent, next.counts.files[0] + next.counts.files[1]), (tagged, 0));
}

#[test]
fn a_crash_anywhere_loses_no_snapshot_and_a_repeat_makes_no_second_one() {
    let bench = bench();
    let contents = bench.restore_all();
    let start = bench.memory.snapshot();
    let before = bench.fault.calls();
    bench.tag(None, &add("x"), false).unwrap();
    let calls = bench.fault.calls() - before;
    assert!(calls > 20, "{calls}");
    for n in 0..calls {
        for effect in [Effect::CrashBefore, Effect::CrashAfter] {
            let what = format!("{effect:?} call {n} of {calls}");
            bench.memory.restore(start.clone());
            bench.fault.add(Rule::any().skip(n).times(1).effect(effect.clone()));
            let crashed = bench.tag(None, &add("x"), false);
            bench.fault.clear();
            bench.fault.revive();
            // Between the two steps both stand; never none.
            let seen = bench.restore_all();
            for (_, content) in &contents {
                assert!(seen.iter().any(|(_, there)| there == content), "{what}: a snapshot is gone");
            }
            assert!(crashed.is_err() || seen.len() == 2, "{what}: it was reported");
            bench.tag(None, &add("x"), false).unwrap();
            assert_eq!(bench.labels(), [[b"x".to_vec()], [b"x".to_vec()]], "{what}");
            for ((_, there), (_, content)) in bench.restore_all().iter().zip(&contents) {
                same_content(there, content, &what);
            }
        }
    }
    assert_eq!(bench.check().findings, []);
}

#[test]
fn a_snapshot_that_is_not_whole_stays_as_it_is_and_the_others_are_changed() {
    let bench = bench();
    let old: Vec<_> = bench.view().1.snapshots.iter().map(|s| s.at).collect();
    // The entries of small sessions stand in their snapshots: without the first one the second is not whole either, but
    // one that shares nothing with it is.
    std::fs::remove_dir_all(bench.source()).unwrap();
    std::fs::create_dir(bench.source()).unwrap();
    std::fs::write(bench.source().join("other"), b"nothing in common").unwrap();
    bench.backup();
    bench.remove(copal_engine::format::objects::snapshot(old[0].writer, old[0].session));
    let (done, problems) = bench.tag(None, &add("x"), false).unwrap();
    assert_eq!((done.len(), problems.len()), (1, 1), "{problems:?}");
    assert!(problems[0].message.contains("stays as it is") && problems[0].message.contains("no pack"), "{problems:?}");
    assert_eq!(bench.labels(), [vec![], vec![b"x".to_vec()]]);
    assert_eq!(bench.view().1.snapshots[0].at, old[1]);
}

#[test]
fn only_an_owner_may_and_only_so_many() {
    let bench = bench();
    let many = Change::Set((0..1025).map(|n| n.to_string().into_bytes()).collect());
    assert!(matches!(bench.tag(None, &many, false), Err(Error::Invalid(text)) if text.contains("up to 1024 tags")));
    let writes = |bench: &Bench| bench.record.count(Verb::PutNew, "");
    let before = writes(&bench);
    for bundle in [bench.new_writer(), bench.open().unwrap().enroll_new(Role::Maintainer, &mut *bench.rng()).unwrap()] {
        let repo = bench.open_as(&bundle, "other").unwrap();
        let denied = copal_engine::ops::may_edit(&repo, "change the tags of snapshots").unwrap_err();
        assert!(denied.to_string().contains("use a key of role owner"), "{denied}");
    }
    assert_eq!(writes(&bench), before + 2, "two members were enrolled and nothing else was written");
}
