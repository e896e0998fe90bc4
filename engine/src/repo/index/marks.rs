//! One bit a blob: for walks over everything, where a set of ids would not fit into memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::format::blob::BlobKind;
use crate::id::BlobId;

use super::Index;
use super::run::Run;

/// A set of the blobs of one index. Safe to share; holds the index's files as they were when it was made.
pub struct Marks {
    runs: Vec<(Arc<Run>, Box<[AtomicU64]>)>,
}

impl Index {
    /// An empty set: a bit of heap for each entry of the index.
    pub fn marks(&self) -> Marks {
        let bits = |run: &Run| (0..run.entry_count().div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Marks { runs: self.runs().into_iter().map(|run| (Arc::clone(&run), bits(&run))).collect() }
    }
}

impl Marks {
    /// Puts a blob of this kind into the set. `Some(true)`: it was not there; of several callers one is told so.
    /// `None`: the index does not know it.
    pub fn mark(&self, id: &BlobId, kind: BlobKind) -> Option<bool> {
        let (word, bit) = self.place(id, kind)?;
        Some(word.fetch_or(bit, Ordering::Relaxed) & bit == 0)
    }

    /// Whether it is in the set.
    pub fn is_marked(&self, id: &BlobId, kind: BlobKind) -> bool {
        self.place(id, kind).is_some_and(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
    }

    /// Its first copy stands for the blob.
    fn place(&self, id: &BlobId, kind: BlobKind) -> Option<(&AtomicU64, u64)> {
        self.runs.iter().find_map(|(run, bits)| {
            let at = run.positions(id).find(|at| run.entry(*at).is_some_and(|entry| entry.kind == kind))?;
            Some((&bits[(at / 64) as usize], 1 << (at % 64)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::blob::{Entry, Origin, PackInfo};
    use crate::id::{PackId, SegmentId, SessionId, WriterId};
    use crate::repo::index::{Error, Options, Segment};

    fn segment(n: u8, ids: std::ops::Range<u8>) -> Segment {
        let (writer, session) = (WriterId::from_bytes([n; 16]), SessionId { n: 1, random: 2 });
        let origins = vec![Origin { writer, session, salt: [n; 32] }];
        let pack = PackInfo { id: PackId::from_bytes([n; 32]), writer, session, seq: 0, size: 1 << 20, origins };
        let entry = |id: u8| Entry {
            id: BlobId::from_bytes([id; 32]),
            pack: 0,
            offset: 2000,
            kind: if id.is_multiple_of(2) { BlobKind::Data } else { BlobKind::Tree },
            stored: 100,
            len: 10,
            at: u32::from(id) * 10,
            origin: 0,
        };
        Segment {
            id: SegmentId::from_bytes([n; 32]),
            packs: vec![pack],
            stanzas: vec![((writer, session), Box::new([0; 1200]))],
            entries: ids.map(entry).collect(),
        }
    }

    #[test]
    fn each_blob_is_new_once_whatever_copies_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let segments = [segment(1, 0..200), segment(2, 100..250)];
        let wanted: Vec<SegmentId> = segments.iter().map(|s| s.id).collect();
        let index = Index::open::<Error>(Options::unlinked(dir.path()), &wanted, &mut |id| {
            Ok(segments.iter().find(|s| s.id == *id).unwrap().clone())
        })
        .unwrap();
        let marks = index.marks();
        for round in [true, false] {
            for id in 0..250u8 {
                let (even, id) = (id.is_multiple_of(2), BlobId::from_bytes([id; 32]));
                let (right, wrong) =
                    if even { (BlobKind::Data, BlobKind::Tree) } else { (BlobKind::Tree, BlobKind::Data) };
                assert_eq!(marks.is_marked(&id, right), !round);
                assert_eq!(marks.mark(&id, right), Some(round));
                assert_eq!(marks.mark(&id, wrong), None);
            }
        }
        assert_eq!(marks.mark(&BlobId::from_bytes([255; 32]), BlobKind::Data), None);
    }
}
