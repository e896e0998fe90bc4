//! Snapshots that have lost something are made anew without it; all else is in them to the byte.

use std::collections::BTreeMap;

use copal_engine::format::blob::{BlobKind, Class};
use copal_engine::id::SnapshotId;
use copal_engine::ops::check::Read;
use copal_engine::ops::repair::snapshots::Options;
use copal_engine::ops::repair::{index, packs};
use copal_engine::store::Key;

use crate::bench::{Bench, hurts};
use crate::{Files, files, objects, repair_index, repair_packs, repair_snapshots};

/// Packs by what is in them.
fn packs_of(bench: &Bench, kind: BlobKind) -> Vec<Key> {
    let index = bench.repo().view().unwrap().index;
    let wanted = |c: &copal_engine::repo::index::Found| c.entry.kind == kind;
    let ids: std::collections::BTreeSet<_> = index.entries().filter(wanted).map(|c| c.pack_id().to_string()).collect();
    bench.keys("pack/").into_iter().filter(|key| ids.iter().any(|id| key.as_str().ends_with(id.as_str()))).collect()
}

fn of(files: &Files, snapshot: SnapshotId) -> BTreeMap<&[u8], Option<&[u8]>> {
    let own = files.iter().filter(|((s, _), _)| *s == snapshot);
    own.map(|((_, path), bytes)| (&path[..], bytes.as_deref())).collect()
}

fn lose(bench: &Bench, pack: &Key) {
    bench.delete(pack);
    repair_index(bench, &index::Options { yes: true, ..Default::default() }).unwrap();
}

/// The chunks of the last frame of the newest session: a changed byte takes all of them.
fn lose_a_frame(bench: &Bench) {
    let pack = packs_of(bench, BlobKind::Data).pop().unwrap();
    let index = bench.repo().view().unwrap().index;
    let ours = || index.entries().filter(|c| pack.as_str().ends_with(&c.pack_id().to_string()));
    let frame = ours().filter(|c| c.entry.kind == BlobKind::Data).map(|c| c.entry.offset).max().unwrap();
    let mut chunks: Vec<_> = ours().filter(|c| c.entry.offset == frame).map(|c| c.entry.id).collect();
    chunks.sort_unstable();
    bench.flip(&pack, frame as usize + 50);
    let report = repair_packs(bench, &packs::Options { packs: vec![pack.to_string()], ..Default::default() }).unwrap();
    assert_eq!(report.lost, chunks);
}

#[test]
fn sound_snapshots_stay_as_they_are() {
    let bench = Bench::new();
    let before = objects(&bench);
    for forget in [false, true] {
        let (changed, problems) = repair_snapshots(&bench, &Options { forget, dry_run: false }).unwrap();
        assert_eq!((changed, problems), (vec![], vec![]));
    }
    assert_eq!(objects(&bench), before);
}

#[test]
fn files_keep_what_is_left_of_them() {
    let bench = Bench::new();
    // One file in two packs, so that a part of it is lost.
    let half = crate::bench::noise(8, 400 << 10);
    bench.write("half", &half);
    bench.backup();
    bench.write("half", &[&half[..], &crate::bench::noise(9, 400 << 10)].concat());
    bench.backup();
    let before = files(&bench).unwrap();
    let snapshots: Vec<SnapshotId> = bench.repo().snapshots().unwrap().0.iter().map(|s| s.id()).collect();
    lose_a_frame(&bench);
    let lost = bench.unrestorable();
    assert!(!lost.is_empty());

    let dry = repair_snapshots(&bench, &Options { forget: false, dry_run: true }).unwrap();
    assert!(dry.0.iter().all(|(_, new)| new.is_none()) && !dry.0.is_empty());
    let (changed, problems) = repair_snapshots(&bench, &Options::default()).unwrap();
    assert_eq!((changed.len(), problems.len()), (dry.0.len(), lost.len()), "each loss is told: {problems:?}");
    let now = files(&bench).unwrap();
    for (old, new) in &changed {
        let (then, now) = (of(&before, *old), of(&now, new.unwrap()));
        assert_eq!(then.keys().collect::<Vec<_>>(), now.keys().collect::<Vec<_>>(), "no file is missing");
        for (path, bytes) in now {
            let (bytes, then) = (bytes.expect("all of it can be read"), then[path].unwrap());
            match lost.contains(&(*old, path.to_vec())) {
                false => assert!(bytes == then),
                true => assert!(bytes.len() < then.len()),
            }
        }
    }
    let half_now = of(&now, changed.iter().find(|(old, _)| *old == snapshots[3]).unwrap().1.unwrap());
    let kept = half_now.iter().find(|(path, _)| path.ends_with(b"/half")).unwrap().1.unwrap();
    assert!(kept.len() > 100 << 10 && half.starts_with(&kept[..100 << 10]), "its first half: {}", kept.len());
    let repo = bench.repo();
    let labelled = repo
        .snapshots()
        .unwrap()
        .0
        .into_iter()
        .filter(|s| s.names.as_ref().unwrap().labels.iter().any(|l| l == b"repaired"));
    assert_eq!(labelled.count(), changed.len());

    // A second run finds what the first has made.
    let again = objects(&bench);
    assert_eq!(repair_snapshots(&bench, &Options::default()).unwrap().0, []);
    assert_eq!(objects(&bench), again);
    assert!(hurts(&bench.check(Read::All)).iter().all(|(s, _)| snapshots.contains(s)));
    // And forgets the old ones on demand: nothing is damaged then.
    let (forgotten, _) = repair_snapshots(&bench, &Options { forget: true, dry_run: false }).unwrap();
    assert_eq!(forgotten.len(), changed.len());
    assert_eq!(bench.check(Read::All).findings, []);
    assert_eq!(repair_snapshots(&bench, &Options { forget: true, dry_run: false }).unwrap(), (vec![], vec![]));
}

#[test]
fn a_directory_that_is_lost_is_empty_and_a_lost_root_stays() {
    let bench = Bench::new();
    let before = files(&bench).unwrap();
    let snapshots: Vec<SnapshotId> = bench.repo().snapshots().unwrap().0.iter().map(|s| s.id()).collect();
    // The first session's: the root of its snapshot, and directories that the second found unchanged.
    assert_eq!(BlobKind::Tree.class(), Class::Graph);
    let trees = packs_of(&bench, BlobKind::Tree).remove(0);
    lose(&bench, &trees);
    let (changed, problems) = repair_snapshots(&bench, &Options { forget: true, dry_run: false }).unwrap();
    let [(old, Some(new))] = changed[..] else { panic!("{changed:?} {problems:?}") };
    assert_eq!(old, snapshots[1]);
    assert!(problems.iter().any(|p| p.message.contains("it stays as it is")), "{problems:?}");
    let now = files(&bench).unwrap();
    let (then, now) = (of(&before, old), of(&now, new));
    assert!(!now.is_empty() && now.len() < then.len());
    assert!(now.iter().all(|(path, bytes)| bytes.is_some() && *bytes == then[path]));
    assert!(hurts(&bench.check(Read::All)).iter().all(|(s, _)| *s == snapshots[0]));
}
