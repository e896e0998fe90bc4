//! Files that are fetched together, and the plan of what to fetch for them.

use std::ops::Range;

use crate::error::Error;
use crate::format::blob::BlobKind;
use crate::repo::Reader;
use crate::repo::fetch::{Span, Wanted, spans};
use crate::repo::index::Found;
use crate::repo::tree::Piece;

use super::file::{File, FilePiece};

/// What one piece costs until its batch is written: itself, its place in the plan, its share of frames and spans.
const PIECE_BYTES: usize =
    size_of::<FilePiece>() + size_of::<u32>() + size_of::<BlobUse>() + size_of::<Wanted<FrameUse>>();

/// Files and pieces, up to so many bytes of them.
pub(super) struct Batch {
    pub files: Vec<File>,
    /// Those of one file stand together, in the order of files.
    pub pieces: Vec<FilePiece>,
    held: usize,
    most: usize,
}

impl Batch {
    /// Empty; full at `most` bytes of heap.
    pub(super) fn new(most: usize) -> Self {
        Self { files: Vec::new(), pieces: Vec::new(), held: 0, most }
    }

    /// Whether it should be written before anything else is planned.
    pub(super) fn is_full(&self) -> bool {
        self.held >= self.most
    }

    /// Counts `bytes` that wait for its end.
    pub(super) fn hold(&mut self, bytes: usize) {
        self.held += bytes;
    }

    /// Takes a file, whose pieces follow.
    pub(super) fn add_file(&mut self, file: File) {
        self.held += file.cost();
        self.files.push(file);
    }

    /// Takes a piece of the last file. [`Error::Damaged`] where none can be so long.
    pub(super) fn add_piece(&mut self, piece: &Piece) -> Result<(), Error> {
        let Some(id) = piece.data else { return Ok(()) };
        let len = u32::try_from(piece.len)
            .map_err(|_| Error::damaged(format!("data blob {}", id.short()), "it would be longer than blobs can be"))?;
        let file = self.files.last().expect("pieces follow their file");
        file.add_piece();
        self.pieces.push(FilePiece { id, file: self.files.len() as u32 - 1, len, offset: piece.offset });
        self.held += PIECE_BYTES;
        Ok(())
    }

    /// Empties it, but for the last file, of which more pieces follow.
    pub(super) fn carry(&mut self) {
        let last = self.files.pop();
        *self = Self::new(self.most);
        last.into_iter().for_each(|file| self.add_file(file));
    }

    /// Empties it.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.most);
    }

    /// For each file, which of the pieces are its own.
    pub(super) fn pieces_of_files(&self) -> Vec<Range<usize>> {
        let mut ranges = vec![0..0; self.files.len()];
        let mut at = 0;
        for pieces in self.pieces.chunk_by(|a, b| a.file == b.file) {
            ranges[pieces[0].file as usize] = at..at + pieces.len();
            at += pieces.len();
        }
        ranges
    }
}

/// A blob of a frame, and where it belongs.
#[derive(Debug)]
pub(super) struct BlobUse {
    pub copy: Found,
    /// Positions in [`Plan::order`].
    pub places: Range<usize>,
}

/// The blobs that are wanted of one frame.
pub(super) type FrameUse = Vec<BlobUse>;

/// What to fetch for a batch.
pub(super) struct Plan {
    /// Positions of pieces, those of one blob together.
    pub order: Vec<u32>,
    /// In the order of the first file that needs each, so that files are open for a short time.
    pub spans: Vec<Span<FrameUse>>,
    /// Positions of pieces whose blob is in no index segment.
    pub missing: Vec<u32>,
}

/// Plans all pieces of the batch.
pub(super) fn plan(reader: &Reader, pieces: &[FilePiece]) -> Plan {
    let mut order: Vec<u32> = (0..pieces.len() as u32).collect();
    order.sort_unstable_by_key(|&n| (pieces[n as usize].id, n));
    let (mut blobs, mut missing, mut copies) = (Vec::new(), Vec::new(), Vec::new());
    let (index, mut at) = (reader.index(), 0);
    for same in order.chunk_by(|&a, &b| pieces[a as usize].id == pieces[b as usize].id) {
        index.lookup(&pieces[same[0] as usize].id, &mut copies);
        match copies.drain(..).find(|copy| copy.entry.kind == BlobKind::Data) {
            Some(copy) => blobs.push(BlobUse { copy, places: at..at + same.len() }),
            None => missing.extend(same),
        }
        at += same.len();
    }
    let mut spans = spans(frames(blobs));
    spans.sort_by_cached_key(|span| {
        let blobs = span.frames.iter().flat_map(|frame| &frame.what);
        blobs.map(|blob| order[blob.places.start]).min()
    });
    Plan { order, spans, missing }
}

fn frames(mut blobs: Vec<BlobUse>) -> Vec<Wanted<FrameUse>> {
    let frame = |blob: &BlobUse| {
        let e = &blob.copy.entry;
        (blob.copy.pack_id(), e.offset, e.stored, e.origin)
    };
    blobs.sort_by_cached_key(|blob| (frame(blob), blob.copy.entry.at));
    let mut frames: Vec<Wanted<FrameUse>> = Vec::new();
    for blob in blobs {
        match frames.last_mut() {
            Some(last) if frame(&last.what[0]) == frame(&blob) => last.what.push(blob),
            _ => frames.push(Wanted { copy: blob.copy.clone(), what: vec![blob] }),
        }
    }
    frames
}
