//! Damage of stored objects: removed, cut, changed, swapped; every byte counts.

use std::collections::BTreeSet;

use copal_engine::crypto::secret::Secret;
use copal_engine::format::bundle::Role;
use copal_engine::ops::check::Invariant::{I1, I2, I3, I4, I5, I6, I7, I8, I9};
use copal_engine::ops::check::{Place, Read, check};
use copal_engine::progress::{Cancel, Collect, Silent};
use copal_engine::store::Key;

use crate::bench::{Bench, hurts, invariants, only, options};
use crate::forge::Forge;

#[test]
fn nothing_is_found_where_nothing_is_wrong_whatever_the_role() {
    let bench = Bench::new();
    let roles = [
        bench.owner.clone(),
        std::sync::Arc::into_inner(bench.repo()).unwrap().bundle_for(Role::Reader).unwrap(),
        bench.enroll(Role::Writer),
        bench.enroll(Role::Maintainer),
    ];
    for bundle in roles {
        let repo = bench.open(&bundle, bench.store.clone()).unwrap();
        let problems = Collect::default();
        let report = check(&repo, &options(Read::All), &problems, &Cancel::default()).unwrap();
        assert_eq!((report.findings.clone(), report.errors), (vec![], 0), "{:?}", bundle.role);
        assert!(problems.0.lock().unwrap().is_empty());
        assert_eq!((report.snapshots, report.read.packs), (2, report.packs));
        assert_eq!(report.unlisted, Default::default());
        assert_eq!(report.unchecked.is_empty(), repo.can_read(), "what a role cannot check is said");
        assert!(report.trees >= 6 && report.blobs >= 20 && report.blobs <= report.entries);
    }
    // The owner's verdict stands in the store, a reader's on its machine.
    assert_eq!(bench.keys("check/").len(), 1);
}

#[test]
fn a_missing_pack_hurts_those_who_need_it() {
    let bench = Bench::new();
    for pack in bench.keys("pack/") {
        let before = bench.objects();
        bench.delete(&pack);
        for read in [Read::Nothing, Read::All] {
            let report = bench.check(read);
            let finding = only(&report, pack.as_str(), &[I3]);
            assert!(!finding.hurts.is_empty() && finding.hurt_count == finding.hurts.len() as u64);
            assert_eq!(hurts(&report), bench.unrestorable());
            assert_eq!(report.broken_packs.len(), 1);
            assert!(!report.suggest_repair_index());
        }
        bench.store.restore(before);
    }
}

#[test]
fn a_cut_pack_hurts_what_lay_behind_the_cut() {
    let bench = Bench::new();
    let large = |bench: &Bench| {
        let objects = bench.objects();
        bench.keys("pack/").into_iter().max_by_key(|key| objects[key].len()).unwrap()
    };
    let pack = large(&bench);
    let size = bench.objects()[&pack].len();
    let whole = bench.objects();
    for keep in [0, 100, 1500, size / 2, size - 1] {
        bench.store.restore(whole.clone());
        bench.damage(&pack, |old| Some(old[..keep].to_vec()));
        let report = bench.check(Read::Nothing);
        only(&report, pack.as_str(), &[I3]);
        let expected = bench.unrestorable();
        assert_eq!(hurts(&report), expected, "{keep} of {size}");
        let read = bench.check(Read::All);
        assert!(read.findings.len() == 1 && invariants(&read.findings[0]).starts_with(&[I3, I6]));
        assert_eq!(hurts(&read), expected, "{keep} of {size}");
    }
    bench.store.restore(whole);
    bench.damage(&pack, |old| Some([old, b"x"].concat()));
    let report = bench.check(Read::All);
    only(&report, pack.as_str(), &[I3, I6]);
    assert!(hurts(&report).is_empty() && bench.unrestorable().is_empty());
}

#[test]
fn swapped_packs_are_noticed_by_what_they_hold() {
    let bench = Bench::new();
    let packs = bench.keys("pack/");
    let objects = bench.objects();
    let (a, b) = (packs[0].clone(), packs[packs.len() - 1].clone());
    bench.damage(&a, |_| Some(objects[&b].to_vec()));
    bench.damage(&b, |_| Some(objects[&a].to_vec()));
    let report = bench.check(Read::All);
    assert_eq!(report.findings.iter().map(|f| f.object.as_str()).collect::<Vec<_>>(), [a.as_str(), b.as_str()]);
    assert!(report.findings.iter().all(|f| invariants(f).contains(&I6)));
    assert_eq!(hurts(&report), bench.unrestorable());
    assert!(!hurts(&report).is_empty());
}

#[test]
fn a_lost_segment_hurts_what_only_it_lists() {
    let bench = Bench::new();
    let segment = bench.keys("idx/").remove(0);
    let before = bench.objects();
    bench.delete(&segment);
    let report = bench.check(Read::Nothing);
    let finding = only(&report, segment.as_str(), &[I2, I4]);
    assert!(finding.blobs > 1 && report.suggest_repair_index());
    assert_eq!(hurts(&report), bench.unrestorable());
    assert!(!hurts(&report).is_empty());
    // Its packs are not named by anybody any more: garbage, as far as can be told.
    assert!(report.unlisted.packs > 0 && report.suggest_prune());

    bench.store.restore(before);
    bench.flip(&segment, 2000);
    only(&bench.check(Read::Nothing), segment.as_str(), &[I2, I4]);
}

#[test]
fn a_local_index_does_not_hide_that_a_segment_is_gone() {
    let bench = Bench::new();
    let mut cached = copal_engine::repo::Options::new(bench.dir.path().join("cached"));
    cached.threads = 1;
    let opener = copal_engine::repo::Opener::Bundle(Box::new(bench.owner.clone()));
    let found = copal_engine::repo::Locked::find(bench.store.clone(), bench.bridge.clone()).unwrap();
    let repo = std::sync::Arc::new(found.unlock(opener, cached).unwrap());
    repo.view().unwrap();
    let segment = bench.keys("idx/").remove(0);
    bench.delete(&segment);
    let with_cache = copal_engine::ops::check::Options { with_cache: true, ..options(Read::Nothing) };
    let report = check(&repo, &with_cache, &Silent, &Cancel::default()).unwrap();
    assert!(only(&report, segment.as_str(), &[I2]).hurts.is_empty(), "restores go by the local index, too");
}

#[test]
fn snapshots_count_only_with_a_members_signature() {
    let bench = Bench::new();
    let before = bench.objects();
    let snapshot = bench.keys("snap/").pop().unwrap();
    bench.flip(&snapshot, 100);
    only(&bench.check(Read::All), snapshot.as_str(), &[I1]);

    bench.store.restore(before.clone());
    let mut forge = Forge::new(&bench);
    forge.signer = Secret::from_bytes([77; 32]);
    let root = forge.one_file("x", b"y");
    let forged = forge.store(root);
    let report = bench.check(Read::All);
    only(&report, &forged.snapshot_key, &[I1]);
    assert_eq!((report.snapshots, report.unlisted.packs), (2, 1));
}

#[test]
fn the_config_begins_with_its_first_epoch() {
    let bench = Bench::new();
    let configs = bench.keys("cfg/");
    assert_eq!(configs.len(), 2, "made, and the owner's writer was enrolled");
    let whole = bench.objects();
    bench.delete(&configs[0]);
    let report = bench.check(Read::All);
    let finding = only(&report, "cfg/0000000000000001", &[I1]);
    assert!(finding.faults[0].what.contains("0 of the snapshots"), "{finding:?}");
    assert!(bench.unrestorable().is_empty());

    // Of three the first two; the snapshots were made under the second.
    bench.store.restore(whole);
    bench.enroll(Role::Writer);
    for config in &configs {
        bench.delete(config);
    }
    let report = bench.check(Read::Nothing);
    let told: Vec<_> = report.findings.iter().map(|f| (f.object.as_str(), f.faults[0].what.contains("2 of"))).collect();
    assert_eq!(told, [("cfg/0000000000000001", false), ("cfg/0000000000000002", true)]);
    assert_eq!((report.snapshots, report.errors), (2, 2));
}

#[test]
fn a_revoked_writers_later_snapshots_do_not_count() {
    let bench = Bench::new();
    let writer = bench.enroll(Role::Writer);
    let who = writer.identity.clone().unwrap();
    let repo = bench.open(&writer, bench.store.clone()).unwrap();
    bench.backup_as(&repo, &who);
    std::sync::Arc::into_inner(bench.repo()).unwrap().revoke(who.id, None).unwrap();
    assert_eq!(bench.check(Read::All).findings, [], "what it committed before still counts");
    bench.backup_as(&repo, &who);
    let late = bench.keys(&format!("snap/{}/", who.id)).pop().unwrap();
    only(&bench.check(Read::All), late.as_str(), &[I1]);
}

#[test]
fn a_snapshot_that_others_name_must_be_there() {
    let bench = Bench::new();
    bench.write("e", b"third");
    bench.backup();
    let snapshot = bench.keys("snap/").remove(1);
    bench.delete(&snapshot);
    let report = bench.check(Read::Nothing);
    let object = report.findings.iter().find(|f| f.object == snapshot.as_str()).expect("it is found");
    assert_eq!(invariants(object), [I8]);
    // What only the lost one listed is lost to the third, which took it for stored.
    assert_eq!(hurts(&report), bench.unrestorable());

    bench.put("gc/0000000000000001", b"whatever".to_vec());
    let report = bench.check(Read::Nothing);
    assert!(report.findings.iter().all(|f| !invariants(f).contains(&I8)));
    assert!(report.unchecked.iter().any(|text| text.contains("I8")));
}

#[test]
fn pins_and_verdicts_open() {
    let bench = Bench::new();
    bench.check(Read::All);
    for prefix in ["pin/", "check/"] {
        let key = bench.keys(prefix).remove(0);
        let before = bench.objects();
        bench.flip(&key, 60);
        only(&bench.check(Read::Nothing), key.as_str(), &[I9]);
        bench.store.restore(before);
    }
}

#[test]
fn garbage_is_counted_and_no_error() {
    let bench = Bench::new();
    let pack = bench.keys("pack/").remove(0);
    let (place, _) = pack.as_str().rsplit_once('-').unwrap();
    let other = format!("{place}-{}", "ab".repeat(32));
    bench.put(&other, vec![0; 77]);
    bench.put("pack/whatever", vec![0; 5]);
    let segment = bench.keys("idx/").remove(0);
    let (place, _) = segment.as_str().rsplit_once('-').unwrap();
    bench.put(&format!("{place}-{}", "cd".repeat(32)), vec![0; 9]);
    let report = bench.check(Read::All);
    assert_eq!(report.findings, []);
    let unlisted = report.unlisted;
    assert_eq!((unlisted.packs, unlisted.pack_bytes, unlisted.segments, unlisted.foreign), (1, 77, 1, 1));
    assert!(report.suggest_prune());
}

/// Every byte of every object is covered: whatever is flipped, the check fails or says so, and it says whom it hurts as
/// restoring would find.
#[test]
fn any_flipped_byte_is_noticed() {
    let bench = Bench::new();
    bench.check(Read::All);
    let whole = bench.objects();
    let index = bench.repo().view().unwrap().index;
    let frames: BTreeSet<_> = index.entries().map(|c| (c.pack_id(), c.entry.offset, c.entry.stored)).collect();
    let mut seen = BTreeSet::new();
    for (key, bytes) in &whole {
        let ends = [0, 8, 9, 40, bytes.len() / 2];
        let step = (bytes.len() / 6).max(1);
        // Each frame's tag, its header and its end.
        let own = frames.iter().filter(|(id, ..)| key.as_str().ends_with(&id.to_string()));
        let in_frames = own.flat_map(|(_, at, len)| [*at, at + 34, at + len - 1].map(|at| at as usize));
        let samples: BTreeSet<usize> = ends
            .into_iter()
            .chain(in_frames)
            .chain([1, 65, 197].map(|back| bytes.len().saturating_sub(back)))
            .chain((0..bytes.len()).step_by(step))
            .filter(|at| *at < bytes.len())
            .collect();
        for at in samples {
            bench.store.restore(whole.clone());
            bench.flip(key, at);
            let Ok(repo) = bench.open(&bench.owner, bench.store.clone()) else { continue };
            let Ok(report) = check(&repo, &options(Read::All), &Silent, &Cancel::default()) else { continue };
            assert!(report.errors > 0, "byte {at} of {key}");
            assert!(report.findings.iter().any(|f| about(&f.object, key)), "byte {at} of {key}: {:?}", report.findings);
            assert_eq!(hurts(&report), bench.unrestorable(), "byte {at} of {key}");
            seen.extend(report.findings.iter().flat_map(invariants));
        }
    }
    assert!([I1, I2, I4, I5, I6, I7, I9].iter().all(|i| seen.contains(i)), "{seen:?}");
}

fn about(object: &str, key: &Key) -> bool {
    object == key.as_str() || object == "index"
}

/// Above 64 snapshots a backup folds: a base names a merged segment, and that one counts.
#[test]
fn a_folded_repository_is_checked_by_its_base() {
    let bench = Bench::empty();
    for n in 0..66 {
        bench.write("file", format!("{n}").as_bytes());
        bench.backup();
    }
    let (base, segments) = (bench.keys("base/"), bench.keys("idx/"));
    assert_eq!((base.len(), segments.len()), (1, 1));
    let report = bench.check(Read::All);
    assert_eq!((report.findings.clone(), report.snapshots, report.unlisted), (vec![], 66, Default::default()));
    let whole = bench.objects();

    bench.delete(&segments[0]);
    let report = bench.check(Read::Nothing);
    only(&report, segments[0].as_str(), &[I2, I4]);
    assert_eq!(hurts(&report), bench.unrestorable());
    bench.store.restore(whole.clone());

    // The oldest, which the base names, and the views of others.
    let oldest = bench.keys("snap/").remove(0);
    bench.delete(&oldest);
    let report = bench.check(Read::Nothing);
    assert_eq!(
        report.findings.iter().map(|f| (f.object.as_str(), invariants(f))).next(),
        Some((oldest.as_str(), vec![I8]))
    );
    bench.store.restore(whole);

    // A base that does not open is a finding; the snapshots still name what they publish.
    bench.flip(&base[0], 100);
    let report = bench.check(Read::Nothing);
    let finding = only(&report, base[0].as_str(), &[I9]);
    assert_eq!((finding.hurts.len(), report.snapshots), (0, 66));
    assert!(bench.unrestorable().is_empty());
}

#[test]
fn a_key_without_read_names_directories_by_their_trees() {
    let bench = Bench::new();
    let writer = bench.enroll(Role::Writer);
    let pack = bench.keys("pack/").remove(0);
    bench.delete(&pack);
    let repo = bench.open(&writer, bench.store.clone()).unwrap();
    let report = check(&repo, &options(Read::Nothing), &Silent, &Cancel::default()).unwrap();
    let finding = only(&report, pack.as_str(), &[I3]);
    assert!(finding.hurts.iter().all(|hurt| matches!(hurt.place, Place::Tree(_))) && !finding.hurts.is_empty());
    let snapshots = |hurts: &BTreeSet<_>| hurts.iter().map(|(s, _): &(_, Vec<u8>)| *s).collect::<BTreeSet<_>>();
    let named: BTreeSet<_> = finding.hurts.iter().map(|hurt| hurt.snapshot).collect();
    assert_eq!(named, snapshots(&bench.unrestorable()));
}
