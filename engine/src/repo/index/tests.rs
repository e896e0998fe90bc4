//! The index against a plain map, against damage, and against itself in several threads and processes.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::format::blob::{BlobKind, Origin};

/// What a copy is to a model: pack, offset, place in the frame.
type Place3 = (PackId, u32, u32);

fn blob(n: u32) -> BlobId {
    BlobId::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes())
}

fn session(n: u8) -> (WriterId, SessionId) {
    (WriterId::from_bytes([n % 3; 16]), SessionId { n: n.into(), random: 7 })
}

fn stanza(n: u8) -> Box<Stanza> {
    Box::new([n; STANZA_BYTES])
}

fn pack_info(n: u8, origins: u8) -> PackInfo {
    let (writer, id) = session(n);
    let origin = |k: u8| {
        let (writer, session) = session(n.wrapping_add(k));
        Origin { writer, session, salt: [n ^ k; 32] }
    };
    let origins = (0..origins).map(origin).collect();
    PackInfo { id: PackId::from_bytes([n; 32]), writer, session: id, seq: n.into(), size: 1 << 24, origins }
}

fn entry(n: u32, pack: u32, offset: u32) -> Entry {
    Entry { id: blob(n), pack, offset, kind: BlobKind::Data, stored: 10, len: 20, at: n % 7, origin: 0 }
}

/// A segment `n` of packs and of `(blob, position of its pack, offset)`.
fn segment(n: u8, packs: &[u8], blobs: &[(u32, u8, u32)]) -> Segment {
    let entries = blobs.iter().map(|(blob, pack, offset)| {
        let pack = u32::from(*pack) % packs.len() as u32;
        Entry { origin: (blob % 2) as u8, ..entry(*blob, pack, *offset) }
    });
    Segment {
        id: SegmentId::from_bytes([n; 32]),
        packs: packs.iter().map(|pack| pack_info(*pack, 2)).collect(),
        stanzas: packs.iter().map(|pack| (session(*pack), stanza(*pack))).collect(),
        entries: entries.collect(),
    }
}

fn open(options: Options, segments: &[Segment]) -> (Index, usize) {
    let wanted: Vec<_> = segments.iter().map(|segment| segment.id).collect();
    open_some(options, segments, &wanted)
}

/// Opens the `wanted` ones of `segments`; also says how many were fetched.
fn open_some(options: Options, segments: &[Segment], wanted: &[SegmentId]) -> (Index, usize) {
    let fetched = RefCell::new(0);
    let index = Index::open::<Error>(options, wanted, &mut |id| {
        *fetched.borrow_mut() += 1;
        Ok(segments.iter().find(|segment| segment.id == *id).expect("a wanted segment").clone())
    });
    (index.unwrap(), fetched.into_inner())
}

fn run_files(dir: &Path) -> Vec<std::path::PathBuf> {
    super::Place::Cache(dir.to_owned()).run_files().unwrap()
}

fn places(found: &[Found]) -> BTreeSet<Place3> {
    found.iter().map(Found::place).collect()
}

/// All copies that the segments list, by blob.
fn model(segments: &[Segment], excluded: &[PackId]) -> BTreeMap<BlobId, BTreeSet<Place3>> {
    let mut copies = BTreeMap::<_, BTreeSet<_>>::new();
    for segment in segments {
        for entry in &segment.entries {
            let pack = segment.packs[entry.pack as usize].id;
            if !excluded.contains(&pack) {
                copies.entry(entry.id).or_default().insert((pack, entry.offset, entry.at));
            }
        }
    }
    copies
}

/// Whether the index knows exactly what `model` does, by every way of asking, for the blobs 0..`blobs`.
fn assert_same(index: &Index, model: &BTreeMap<BlobId, BTreeSet<Place3>>, blobs: u32) {
    let mut found = Vec::new();
    for n in 0..blobs {
        index.lookup(&blob(n), &mut found);
        assert_eq!(places(&found), model.get(&blob(n)).cloned().unwrap_or_default());
        assert_eq!(places(&found).len(), found.len(), "a copy came twice");
        assert_eq!(index.contains(&blob(n)), model.contains_key(&blob(n)));
    }
    let all: Vec<Found> = index.entries().collect();
    assert!(all.is_sorted_by_key(|copy| copy.entry.id));
    assert_eq!(all.len(), model.values().map(BTreeSet::len).sum::<usize>());
    for copy in all {
        assert!(model[&copy.entry.id].contains(&copy.place()));
        let n = copy.pack_id().as_bytes()[0];
        assert_eq!(copy.pack(), pack_info(n, 2));
        assert_eq!(copy.origin(), pack_info(n, 2).origins[copy.entry.origin as usize]);
        assert_eq!(index.stanza(&session(n).0, session(n).1), Some(stanza(n)));
    }
}

fn segments() -> impl Strategy<Value = Vec<Segment>> {
    let packs = proptest::collection::vec(0u8..12, 1..4);
    let blobs = proptest::collection::vec((0u32..60, 0u8..4, 0u32..5), 0..40);
    proptest::collection::vec((packs, blobs), 0..12)
        .prop_map(|list| list.iter().enumerate().map(|(n, (packs, blobs))| segment(n as u8, packs, blobs)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Views come and go over one cache; each must look as if it had been built from nothing.
    #[test]
    fn equals_a_map(all in segments(), views: Vec<u16>, excluded in proptest::collection::vec(0u8..12, 0..4)) {
        let dir = tempfile::tempdir().unwrap();
        let excluded: Vec<_> = excluded.into_iter().map(|n| PackId::from_bytes([n; 32])).collect();
        let mut cached = BTreeSet::new();
        for view in views.into_iter().take(6).chain([u16::MAX]) {
            let view: Vec<_> = all.iter().enumerate().filter(|(n, _)| view >> n & 1 == 1).map(|(_, s)| s.clone()).collect();
            let (index, fetched) = open(Options::cache(dir.path()), &view);
            let wanted: BTreeSet<_> = view.iter().map(|segment| segment.id).collect();
            // What the last view wanted is there; what earlier ones did may be.
            prop_assert!(fetched <= wanted.difference(&cached).count());
            cached = wanted;
            assert_same(&index, &model(&view, &[]), 60);
            prop_assert_eq!(index.len(), view.iter().map(|segment| segment.entries.len() as u64).sum::<u64>());
            // The same view again needs nothing.
            let (again, fetched) = open(Options::cache(dir.path()), &view);
            prop_assert_eq!(fetched, 0);
            again.exclude(excluded.iter().copied());
            assert_same(&again, &model(&view, &excluded), 60);
            assert_same(&index, &model(&view, &[]), 60);
        }
    }

    /// Segment by segment into runs of their own: lookups, iteration and exclusion over many runs.
    #[test]
    fn equals_a_map_over_many_runs(all in segments(), excluded in 0u8..12) {
        let dir = tempfile::tempdir().unwrap();
        let mut runs = Vec::new();
        for segment in &all {
            let mut builder = RunBuilder::new(&Place::Unlinked(dir.path().into()), 0);
            builder.add(segment).unwrap();
            runs.push(Arc::new(builder.finish().unwrap()));
        }
        let index = Index::new(Options::unlinked(dir.path()), runs);
        assert_same(&index, &model(&all, &[]), 60);
        let excluded = PackId::from_bytes([excluded; 32]);
        index.exclude([excluded]);
        assert_same(&index, &model(&all, &[excluded]), 60);
        prop_assert!(index.packs().all(|pack| pack.id != excluded));
    }

    #[test]
    fn any_bytes_are_refused_or_answered(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(Run::from_bytes(bytes).is_err());
    }
}

fn many(n: u8, blobs: std::ops::Range<u32>) -> Segment {
    segment(n, &[n, n + 1], &blobs.map(|b| (b, (b % 2) as u8, b)).collect::<Vec<_>>())
}

#[test]
fn spilled_and_merged_builds_equal_one_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place::Unlinked(dir.path().into());
    // 90,000 entries do not fit the smallest budget.
    let parts: Vec<_> = (0..3).map(|n| many(n * 2, u32::from(n) * 20_000..u32::from(n) * 20_000 + 30_000)).collect();
    let build = |heap| {
        let mut builder = RunBuilder::new(&place, heap);
        parts.iter().for_each(|part| builder.add(part).unwrap());
        builder.finish().unwrap()
    };
    let (small, large) = (Arc::new(build(0)), Arc::new(build(BUILD_BYTES)));
    assert_eq!(small.entry_count(), 90_000);
    assert!(Entries::of(&small).eq(Entries::of(&large)));
    assert!(Entries::of(&small).is_sorted());
    let single = |part| {
        let mut builder = RunBuilder::new(&place, 0);
        builder.add(part).unwrap();
        Arc::new(builder.finish().unwrap())
    };
    let merged = Arc::new(merge_runs(&place, &parts.iter().map(single).collect::<Vec<_>>()).unwrap());
    assert!(Entries::of(&merged).eq(Entries::of(&large)));
    assert!(merged.segments().eq(large.segments()));
    assert!(merged.all_stanzas().eq(large.all_stanzas()));
    assert!((0..90_000).all(|n| merged.contains(&blob(n)) == (n < 70_000)));
}

#[test]
fn nothing_is_fetched_twice() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = vec![many(0, 0..1000)];
    assert_eq!(open(Options::cache(dir.path()), &all).1, 1);
    for n in 1..30u8 {
        all.push(many(n * 2, u32::from(n) * 1000..u32::from(n) * 1000 + 50));
        let (index, fetched) = open(Options::cache(dir.path()), &all);
        assert_eq!(fetched, 1);
        assert!(index.run_count() <= 9);
        assert_eq!(run_files(dir.path()).len(), index.run_count());
        assert!(all.iter().flat_map(|s| &s.entries).all(|entry| index.contains(&entry.id)));
    }
    // Unwanted segments go without a fetch, and with them their entries from the disk, once they are many.
    let before: u64 = run_files(dir.path()).iter().map(|f| fs::metadata(f).unwrap().len()).sum();
    let (index, fetched) = open(Options::cache(dir.path()), &all[20..]);
    assert_eq!((fetched, index.contains(&blob(5)), index.contains(&blob(20_005))), (0, false, true));
    let after: u64 = run_files(dir.path()).iter().map(|f| fs::metadata(f).unwrap().len()).sum();
    assert!(after < before / 2, "{after} of {before} bytes are left");
    // Nothing wanted: nothing left.
    assert!(open(Options::cache(dir.path()), &[]).0.is_empty());
    assert!(run_files(dir.path()).is_empty());
    assert!(index.contains(&blob(20_005)), "what is open stays open");
}

#[test]
fn no_cache_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (index, fetched) = open(Options::unlinked(dir.path()), &[many(0, 0..10_000), many(2, 5000..9000)]);
    index.claim(&blob(1_000_000));
    index.publish(pack_info(9, 1), &[entry(1_000_000, 0, 0)]).unwrap();
    index.flush().unwrap();
    assert_eq!((fetched, index.len()), (2, 14_001));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_failed_fetch_keeps_what_came_before() {
    let dir = tempfile::tempdir().unwrap();
    let all: Vec<_> = (0..5).map(|n| many(n * 2, 0..100)).collect();
    let wanted: Vec<_> = all.iter().map(|segment| segment.id).collect();
    let mut served = 0;
    let result = Index::open::<Error>(Options::cache(dir.path()), &wanted, &mut |id| {
        served += 1;
        if served > 3 {
            return Err(Error::Segment { id: *id, how: "gone" });
        }
        Ok(all.iter().find(|segment| segment.id == *id).unwrap().clone())
    });
    assert!(matches!(result, Err(Error::Segment { how: "gone", .. })));
    assert_eq!(open(Options::cache(dir.path()), &all).1, 2);
}

#[test]
fn segments_that_do_not_fit_together_are_refused() {
    let good = segment(1, &[1], &[(1, 0, 0)]);
    let bad = |change: &dyn Fn(&mut Segment)| {
        let mut segment = good.clone();
        change(&mut segment);
        segment
    };
    let cases = [
        bad(&|s| s.entries[0].pack = 1),
        bad(&|s| s.entries[0].origin = 2),
        bad(&|s| s.entries[0].at = 1 << 24),
        bad(&|s| s.entries[0].len = 17 << 20),
        bad(&|s| s.entries[0].offset = (1 << 24) - 5),
        bad(&|s| s.packs[0].origins.clear()),
        bad(&|s| s.packs[0].origins = vec![s.packs[0].origins[0]; 65]),
    ];
    let dir = tempfile::tempdir().unwrap();
    let mut builder = RunBuilder::new(&Place::Unlinked(dir.path().into()), 0);
    builder.add(&good).unwrap();
    for case in &cases {
        assert!(matches!(builder.add(case), Err(Error::Segment { .. })), "{case:?}");
    }
    assert_eq!(builder.finish().unwrap().entry_count(), 1);
}

#[test]
fn all_stanzas_of_a_session_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut liar = many(2, 100..200);
    let ((writer, id), lie) = (session(0), stanza(99));
    liar.stanzas.push(((writer, id), lie.clone()));
    let (index, _) = open(Options::unlinked(dir.path()), &[many(0, 0..100), liar]);
    let found = index.stanzas(&writer, id);
    assert!(found.len() == 2 && found.contains(&lie) && found.contains(&stanza(0)));
    assert_eq!(index.stanza(&writer, SessionId { n: 0, random: 8 }), None);
}

/// The bytes of a small run with every section filled.
fn run_bytes() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let mut builder = RunBuilder::new(&Place::Cache(dir.path().into()), 0);
    builder.add(&segment(1, &[1], &(0..20).map(|n| (n, 0, n)).collect::<Vec<_>>())).unwrap();
    builder.add(&segment(2, &[2], &[(3, 0, 0), (70, 0, 1)])).unwrap();
    fs::read(builder.finish().unwrap().path().unwrap()).unwrap()
}

#[test]
fn every_flipped_byte_is_noticed() {
    let good = run_bytes();
    assert!(Run::from_bytes(good.clone()).is_ok());
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        assert!(matches!(Run::from_bytes(bad), Err(Error::Corrupt { .. })), "byte {at}");
    }
    for len in 0..good.len() {
        assert!(Run::from_bytes(good[..len].to_vec()).is_err(), "cut to {len}");
    }
}

/// Damage under a right hash, as only somebody could make it: any answer will do, a panic will not.
#[test]
fn no_forged_byte_panics() {
    let good = run_bytes();
    let dir = tempfile::tempdir().unwrap();
    let place = Place::Unlinked(dir.path().into());
    for at in 0..good.len() - 32 {
        // One value a byte keeps this short; which one differs from byte to byte.
        let mut bad = good[..good.len() - 32].to_vec();
        bad[at] ^= [0xff, 1, 0x80, 0x10][at % 4];
        if fuzz_run(bad.clone(), &blob(at as u32 % 72)).is_ok() && at % 16 == 0 {
            // Sorted no longer, perhaps, but merged without a panic.
            bad.extend_from_slice(blake3::hash(&bad).as_bytes());
            merge_runs(&place, &[Arc::new(Run::from_bytes(bad).unwrap())]).unwrap();
        }
    }
}

#[test]
fn a_damaged_file_is_built_again() {
    let dir = tempfile::tempdir().unwrap();
    let all = [many(0, 0..1000)];
    open(Options::cache(dir.path()), &all);
    let file = run_files(dir.path()).remove(0);
    let good = fs::read(&file).unwrap();
    let mut bad = good.clone();
    bad[500] ^= 1;
    for bytes in [&bad[..], &good[..700], b"", &[good.as_slice(), b"x"].concat()] {
        // As a disk would: what was mapped before is not our concern here.
        fs::remove_file(&file).unwrap();
        fs::write(&file, bytes).unwrap();
        let (index, fetched) = open(Options::cache(dir.path()), &all);
        assert_eq!((fetched, index.len()), (1, 1000));
        assert!(index.contains(&blob(999)));
        assert_eq!(fs::read(&file).unwrap(), good, "the new one has the old name");
    }
    assert_eq!(open(Options::cache(dir.path()), &all).1, 0);
}

/// Openings of different views at once, as several processes on one directory would do them.
#[test]
fn openings_at_once_do_not_disturb_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let all: Vec<_> = (0..6).map(|n| many(n * 2, u32::from(n) * 100..u32::from(n) * 100 + 150)).collect();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (all, dir) = (&all, dir.path());
            scope.spawn(move || {
                for round in 0..10 {
                    let view = &all[(thread + round) % 4..];
                    let (index, _) = open(Options::cache(dir), view);
                    let expected = model(view, &[]);
                    assert_eq!(index.entries().count(), expected.values().map(BTreeSet::len).sum::<usize>());
                }
            });
        }
    });
}

#[test]
fn each_id_is_new_exactly_once() {
    let dir = tempfile::tempdir().unwrap();
    let (index, _) = open(Options::unlinked(dir.path()), &[many(0, 0..1000)]);
    let ids: Vec<_> = (0..100_000).map(blob).collect();
    let count = |reversed: bool| {
        let (mut new, mut waiting) = (0usize, Vec::new());
        for n in 0..ids.len() {
            let n = if reversed { ids.len() - 1 - n } else { n };
            match index.claim(&ids[n]) {
                Claim::New => waiting.push(entry(n as u32, 0, n as u32 % 1000)),
                Claim::Known(found) => assert_eq!(found.entry.id, ids[n]),
                Claim::Pending => assert!(n >= 1000),
            }
            // Packs become durable and runs are written while others claim.
            if waiting.len() == 4000 {
                new += waiting.len();
                index.publish(pack_info(reversed.into(), 1), &waiting).unwrap();
                waiting.clear();
                index.flush().unwrap();
            }
        }
        new + waiting.len()
    };
    let total = std::thread::scope(|scope| {
        let other = scope.spawn(|| count(true));
        count(false) + other.join().unwrap()
    });
    assert_eq!(total, 99_000);
    assert!(index.pending_len() < 8000, "{} are pending", index.pending_len());
    assert!(index.run_count() <= 7, "{} runs", index.run_count());
    assert_eq!(index.len() + index.pending_len() as u64, 100_000);
}

#[test]
fn claims_pass_from_new_over_pending_to_known() {
    let dir = tempfile::tempdir().unwrap();
    let (index, _) = open(Options::cache(dir.path()), &[many(0, 0..10)]);
    assert!(matches!(index.claim(&blob(3)), Claim::Known(found) if found.entry.offset == 3));
    assert!(matches!(index.claim(&blob(50)), Claim::New));
    assert!(matches!(index.claim(&blob(50)), Claim::Pending));
    index.publish(pack_info(7, 1), &[entry(50, 0, 5)]).unwrap();
    assert!(matches!(index.claim(&blob(50)), Claim::Pending));
    index.flush().unwrap();
    assert!(matches!(index.claim(&blob(50)), Claim::Known(found) if found.pack() == pack_info(7, 1)));
    assert_eq!(index.pending_len(), 0);
    // A condemned pack's blobs must be stored again, also the session's own and those of later runs.
    index.exclude([PackId::from_bytes([0; 32]), PackId::from_bytes([7; 32]), PackId::from_bytes([8; 32])]);
    assert!(matches!(index.claim(&blob(50)), Claim::New));
    assert!(matches!(index.claim(&blob(2)), Claim::New), "pack 0");
    assert!(matches!(index.claim(&blob(3)), Claim::Known(_)), "pack 1");
    index.publish(pack_info(8, 1), &[entry(50, 0, 5)]).unwrap();
    index.flush().unwrap();
    assert!(!index.contains(&blob(50)));
    // The session's own run is no part of the cache.
    assert_eq!(run_files(dir.path()).len(), 1);
}

#[test]
fn publishing_writes_runs_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let (index, _) = open(Options::unlinked(dir.path()), &[]);
    for pack in 0..40u32 {
        let entries: Vec<_> = (pack * 10_000..(pack + 1) * 10_000).map(|n| entry(n, 0, n % 1000)).collect();
        entries.iter().for_each(|entry| assert!(matches!(index.claim(&entry.id), Claim::New)));
        index.publish(pack_info(pack as u8, 1), &entries).unwrap();
        assert!(index.pending_len() < PENDING_MAX);
    }
    assert!((1..=3).contains(&index.run_count()));
    assert!(matches!(index.claim(&blob(3)), Claim::Known(_)));
}
