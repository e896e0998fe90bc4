//! Where the pieces of a file lie, found by offset: without reading more of its maps than the place needs.

use crate::error::{Error, Result};
use crate::format::blob::RAW_BYTES_MAX;
use crate::format::meta::{Map, Run};
use crate::format::tree::{Tree, TreeKind};
use crate::id::BlobId;
use crate::repo::{Node, Piece, Reader};

/// Pieces of a file or of a part of one, in order from offset 0 without a gap, found by binary search.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Ends of the pieces, in rising order; the last one is the length of all.
    ends: Vec<u64>,
    /// As many: what each piece holds, `None` for a hole.
    data: Vec<Option<BlobId>>,
}

impl Layout {
    /// From a map and the data it speaks of. They must fit each other and be `size` bytes long.
    fn new(map: &Map, ids: &[BlobId], size: u64) -> Result<Self, &'static str> {
        if map.size() != size {
            return Err("its map is not as long as it is");
        }
        if map.data_runs() != ids.len() {
            return Err("its map does not fit its chunks");
        }
        let (mut ids, mut end) = (ids.iter(), 0);
        let mut layout = Self { ends: Vec::new(), data: Vec::new() };
        for run in &map.runs {
            end += run.len();
            layout.ends.push(end);
            layout.data.push(match run {
                Run::Hole(_) => None,
                Run::Data(len) if *len <= u64::from(RAW_BYTES_MAX) => ids.next().copied(),
                Run::Data(_) => return Err("a chunk of it is longer than chunks can be"),
            });
        }
        Ok(layout)
    }

    /// Length of all pieces, in bytes.
    pub(super) fn size(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Bytes that are in no hole.
    pub(super) fn data_bytes(&self) -> u64 {
        self.pieces_from(0).filter(|p| p.data.is_some()).map(|p| p.len).sum()
    }

    /// The piece that holds `offset`, and those behind it.
    pub(super) fn pieces_from(&self, offset: u64) -> impl Iterator<Item = Piece> + '_ {
        let first = self.ends.partition_point(|&end| end <= offset);
        (first..self.ends.len()).map(|n| {
            let start = n.checked_sub(1).map_or(0, |before| self.ends[before]);
            Piece { offset: start, len: self.ends[n] - start, data: self.data[n] }
        })
    }

    /// Heap that it takes, about, in bytes.
    pub(super) fn weight(&self) -> usize {
        self.ends.len() * (size_of::<u64>() + size_of::<Option<BlobId>>()) + size_of::<Self>()
    }
}

/// A file by its pieces, or by parts whose pieces are read when they are needed.
#[derive(Debug)]
pub(super) enum Content {
    /// All pieces, of a file that its directory entry lists.
    Whole(Layout),
    /// A very large file.
    Parts {
        /// Ends of the parts, in rising order; the last is the file's length.
        ends: Vec<u64>,
        /// As many: the tree of each.
        trees: Vec<BlobId>,
    },
}

/// A part of a very large file: its tree, and where it starts and ends in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) tree: BlobId,
    pub(super) start: u64,
    pub(super) end: u64,
}

impl Content {
    /// Of `file`: reads its map where it has one.
    pub(super) fn read(reader: &Reader, file: &Node) -> Result<Self> {
        let size = file.size();
        let layout = match (file.kind, &file.children[..]) {
            (TreeKind::File, []) if size == 0 => Ok(Layout { ends: Vec::new(), data: Vec::new() }),
            (TreeKind::File, [chunk]) if (1..=u64::from(RAW_BYTES_MAX)).contains(&size) => {
                Ok(Layout { ends: vec![size], data: vec![Some(*chunk)] })
            }
            (TreeKind::MappedFile, [map, data @ ..]) => Layout::new(&reader.map(map)?, data, size),
            (TreeKind::LargeFile, [map, trees @ ..]) => return Self::parts(&reader.map(map)?, trees, file),
            _ => Err("its length does not fit its content"),
        };
        layout.map(Self::Whole).map_err(|how| unfit(file, how))
    }

    fn parts(map: &Map, trees: &[BlobId], file: &Node) -> Result<Self> {
        if map.size() != file.size() || map.runs.len() != trees.len() || map.data_runs() != map.runs.len() {
            return Err(unfit(file, "its map does not fit its parts"));
        }
        let ends = map.runs.iter().scan(0, |end, run| {
            *end += run.len();
            Some(*end)
        });
        Ok(Self::Parts { ends: ends.collect(), trees: trees.to_vec() })
    }
}

impl Part {
    /// The part that holds `offset`; `None` behind the end.
    pub(super) fn at(ends: &[u64], trees: &[BlobId], offset: u64) -> Option<Self> {
        let n = ends.partition_point(|&end| end <= offset);
        let end = *ends.get(n)?;
        Some(Self { tree: trees[n], start: n.checked_sub(1).map_or(0, |before| ends[before]), end })
    }

    /// Its pieces, with offsets from its start.
    pub(super) fn layout(&self, reader: &Reader) -> Result<Layout> {
        let object = || format!("part {} of a file", self.tree.short());
        match reader.tree(&self.tree)? {
            Tree::Part { map, data } => Layout::new(&reader.map(&map)?, &data, self.end - self.start)
                .map_err(|how| Error::damaged(object(), how)),
            _ => Err(Error::damaged(object(), "it is a directory")),
        }
    }
}

pub(super) fn unfit(file: &Node, how: &str) -> Error {
    Error::damaged(format!("file {}", String::from_utf8_lossy(&file.name)), how)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::meta::ChunkerKind;

    fn id(n: u8) -> BlobId {
        BlobId::from_bytes([n; 32])
    }

    fn map(runs: Vec<Run>) -> Map {
        Map { chunker: ChunkerKind::FastCdc, runs }
    }

    #[test]
    fn pieces_are_found_by_offset() {
        let map = map(vec![Run::Hole(10), Run::Data(5), Run::Data(5), Run::Hole(3)]);
        let layout = Layout::new(&map, &[id(1), id(2)], 23).unwrap();
        let at = |offset| layout.pieces_from(offset).next().map(|p| (p.offset, p.len, p.data));
        assert_eq!(at(0), Some((0, 10, None)));
        assert_eq!(at(9), Some((0, 10, None)));
        assert_eq!(at(10), Some((10, 5, Some(id(1)))));
        assert_eq!(at(15), Some((15, 5, Some(id(2)))));
        assert_eq!(at(22), Some((20, 3, None)));
        assert_eq!(at(23), None);
        assert_eq!(layout.data_bytes(), 10);
        assert_eq!(layout.pieces_from(12).count(), 3);
    }

    #[test]
    fn maps_that_do_not_fit_are_refused() {
        let runs = || vec![Run::Data(5), Run::Hole(5)];
        assert!(Layout::new(&map(runs()), &[id(1)], 10).is_ok());
        assert!(Layout::new(&map(runs()), &[id(1)], 11).is_err());
        assert!(Layout::new(&map(runs()), &[], 10).is_err());
        assert!(Layout::new(&map(runs()), &[id(1), id(2)], 10).is_err());
        let long = u64::from(RAW_BYTES_MAX) + 1;
        assert!(Layout::new(&map(vec![Run::Data(long)]), &[id(1)], long).is_err());
    }

    #[test]
    fn parts_are_found_by_offset() {
        let (ends, trees) = ([100, 150], [id(1), id(2)]);
        let at = |offset| Part::at(&ends, &trees, offset);
        assert_eq!(at(99), Some(Part { tree: id(1), start: 0, end: 100 }));
        assert_eq!(at(100), Some(Part { tree: id(2), start: 100, end: 150 }));
        assert_eq!(at(150), None);
    }
}
