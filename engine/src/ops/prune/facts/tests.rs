//! Uses counted and copies spared, against a plain reading of the rule.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::format::blob::{Entry, Origin, PackInfo};
use crate::id::{BlobId, SegmentId, SessionId, WriterId};
use crate::repo::index::{Error, Options, Segment};

const STANZA: [u8; 1200] = [0; 1200];

/// A copy: which blob, in which pack, in which frame of it. Every frame has 1,000 bytes and its blobs follow one another.
type Copy = (u8, u8, u8);

fn pack_id(n: u8) -> PackId {
    PackId::from_bytes([n; 32])
}

fn blob(n: u8) -> BlobId {
    BlobId::from_bytes([n; 32])
}

/// Pack n was sealed by session n % sessions.
fn index(dir: &std::path::Path, copies: &[Copy], sessions: u8) -> Index {
    let run = |n: u8| (WriterId::from_bytes([7; 16]), SessionId { n: u64::from(n % sessions), random: 1 });
    let segment = |n: u8| {
        let (writer, session) = run(n);
        let origins = vec![Origin { writer, session, salt: [n; 32] }];
        let pack = PackInfo { id: pack_id(n), writer, session, seq: n.into(), size: 1 << 20, origins };
        let mut at: HashMap<u8, u32> = HashMap::new();
        let entries = copies.iter().filter(|(_, pack, _)| *pack == n).map(|&(id, _, frame)| {
            let at = at.entry(frame).or_default();
            *at += 10;
            let offset = 2000 + 1000 * u32::from(frame);
            Entry { id: blob(id), pack: 0, offset, kind: BlobKind::Data, stored: 1000, len: 10, at: *at, origin: 0 }
        });
        let entries = entries.collect();
        let stanzas = vec![((writer, session), Box::new(STANZA))];
        Segment { id: SegmentId::from_bytes([n; 32]), packs: vec![pack], stanzas, entries }
    };
    let mut numbers: Vec<u8> = copies.iter().map(|(_, pack, _)| *pack).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let wanted: Vec<SegmentId> = numbers.iter().map(|n| SegmentId::from_bytes([*n; 32])).collect();
    Index::open::<Error>(Options::unlinked(dir), &wanted, &mut |id| Ok(segment(id.as_bytes()[0]))).unwrap()
}

fn marked(index: &Index, blobs: &[u8]) -> Marks {
    let marks = index.marks();
    for id in blobs {
        marks.mark(&blob(*id), BlobKind::Data);
    }
    marks
}

#[test]
fn a_frame_is_needed_whole_and_what_explains_the_rest_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    // Pack 1: frame 0 with blobs 1 and 2, frame 1 with 3, frame 2 with 4. Pack 2 holds 3 again, pack 3 blob 4; one session each.
    let copies = [(1, 1, 0), (2, 1, 0), (3, 1, 1), (4, 1, 2), (3, 2, 0), (4, 3, 0)];
    let index = index(dir.path(), &copies, 9);
    let facts = |live: &[u8], forgotten: &[u8], verified: &[u8], memory| {
        let verified = |id: &PackId| verified.iter().any(|n| pack_id(*n) == *id);
        let facts = gather(&index, &marked(&index, live), &marked(&index, forgotten), &verified, memory);
        facts.packs.iter().map(|p| (p.used / 1000, p.unused / 1000, p.unexplained / 1000)).collect::<Vec<_>>()
    };
    let all = u64::MAX;
    assert_eq!(facts(&[1], &[], &[], all), [(1, 2, 2), (0, 1, 1), (0, 1, 1)], "with blob 1 stays blob 2");
    assert_eq!(facts(&[1], &[3], &[], all), [(1, 2, 1), (0, 1, 0), (0, 1, 1)], "3 was forgotten");
    assert_eq!(facts(&[3], &[], &[], all), [(1, 2, 2), (1, 0, 0), (0, 1, 1)], "nobody knows which is good");
    assert_eq!(facts(&[3], &[], &[2], all), [(0, 3, 2), (1, 0, 0), (0, 1, 1)], "the verified one stands for the other");
    assert_eq!(facts(&[1], &[3], &[], 1), facts(&[1], &[3], &[], all));
}

#[test]
fn many_passes_see_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let copies: Vec<Copy> = (0..200).map(|n| (n, n % 7, n % 3)).collect();
    let index = index(dir.path(), &copies, 2);
    let live = marked(&index, &(0..90).collect::<Vec<_>>());
    let facts = |memory| gather(&index, &live, &index.marks(), &|_| false, memory);
    assert_eq!(facts(0), facts(u64::MAX));
}

proptest! {
    #[test]
    fn every_needed_copy_keeps_one_that_may_stand_for_it(
        copies in proptest::collection::vec((0u8..12, 0u8..8, 0u8..3), 1..60),
        live in proptest::collection::vec(0u8..12, 0..12),
        chosen in proptest::collection::vec(0u8..8, 0..8),
        others in proptest::collection::vec(0u8..8, 0..2),
        verified in proptest::collection::vec(0u8..8, 0..3),
        sessions in 1u8..4,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let index = index(dir.path(), &copies, sessions);
        let elsewhere: HashSet<PackId> = others.iter().map(|n| pack_id(*n)).collect();
        let before: HashSet<PackId> = chosen.iter().map(|n| pack_id(*n)).collect();
        let is_verified = |id: &PackId| verified.iter().any(|n| pack_id(*n) == *id);
        let mut going = before.clone();
        spare(&index, &marked(&index, &live), &is_verified, &elsewhere, &mut going);
        prop_assert!(going.is_subset(&before));
        for &(id, pack, _) in &copies {
            if !live.contains(&id) || !going.contains(&pack_id(pack)) {
                continue;
            }
            let stands = copies.iter().any(|&(other, at, _)| {
                other == id && is_verified(&pack_id(at)) && !going.contains(&pack_id(at)) && !elsewhere.contains(&pack_id(at))
            });
            prop_assert!(stands, "blob {} of pack {}", id, pack);
        }
        // Nothing stays that could go by itself.
        for spared in before.difference(&going) {
            let needed = copies.iter().any(|&(id, pack, _)| pack_id(pack) == *spared && live.contains(&id));
            prop_assert!(needed);
        }
    }
}
