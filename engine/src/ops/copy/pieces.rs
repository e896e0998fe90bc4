//! The bytes of a stored file as a reader gives them, up to each hole.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read};
use std::vec::IntoIter;

use bytes::Bytes;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::format::blob::BlobKind;
use crate::id::BlobId;
use crate::repo::fetch::{Fetcher, Wanted, spans};
use crate::repo::index::Found;
use crate::repo::session::GROUPED_UNDER;
use crate::repo::tree::Part;
use crate::repo::{Node, Piece, Reader};

/// What comes next in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ahead {
    /// So many bytes of nothing; they are passed over.
    Hole(u64),
    /// About so many bytes, which are to be read.
    Data(u64),
    /// No more.
    End,
}

/// Reads a file's pieces in order; the chunks of a batch are fetched at the same time.
pub(super) struct Pieces<'r> {
    reader: &'r Reader,
    file: &'r Node,
    parts: IntoIter<Part>,
    pieces: VecDeque<Piece>,
    /// What was fetched and not yet read.
    fetched: VecDeque<Bytes>,
    batch_bytes: u64,
}

impl<'r> Pieces<'r> {
    /// From the start of `file`. Up to `batch_bytes` are in memory, or one chunk.
    pub(super) fn new(reader: &'r Reader, file: &'r Node, batch_bytes: u64) -> Result<Self> {
        let parts = reader.parts(file)?.into_iter();
        Ok(Self { reader, file, parts, pieces: VecDeque::new(), fetched: VecDeque::new(), batch_bytes })
    }

    /// What follows what was read so far.
    pub(super) fn ahead(&mut self) -> Result<Ahead> {
        Ok(match self.front()? {
            None => Ahead::End,
            Some(Piece { data: None, len, .. }) => {
                self.pieces.pop_front();
                Ahead::Hole(len)
            }
            Some(_) => Ahead::Data(self.pieces.iter().take_while(|p| p.data.is_some()).map(|p| p.len).sum()),
        })
    }

    fn front(&mut self) -> Result<Option<Piece>> {
        while self.pieces.is_empty() {
            let Some(part) = self.parts.next() else { return Ok(None) };
            self.pieces = self.reader.pieces(self.file, &part)?.into();
        }
        Ok(self.pieces.front().copied())
    }

    /// Fetches the next chunks, at least one, unless a hole or the end follows.
    fn fetch(&mut self) -> Result<()> {
        let (mut batch, mut bytes): (Vec<(BlobId, u64)>, u64) = (Vec::new(), 0);
        while let Some(Piece { data: Some(id), len, .. }) = self.front()?
            && (batch.is_empty() || bytes + len <= self.batch_bytes)
        {
            self.pieces.pop_front();
            batch.push((id, len));
            bytes += len;
        }
        let texts = match batch.len() {
            0 | 1 => HashMap::new(),
            _ => self.fetch_together(&batch)?,
        };
        for (id, len) in batch {
            let bytes = match texts.get(&id).cloned() {
                Some(bytes) => bytes,
                None => self.reader.blob(&id, BlobKind::Data)?,
            };
            if bytes.len() as u64 != len {
                let object = format!("file {}", String::from_utf8_lossy(&self.file.name));
                return Err(Error::damaged(object, "a chunk is not as long as its map says"));
            }
            self.fetched.push_back(bytes);
        }
        Ok(())
    }

    /// Those of a batch that have frames of their own, with few requests. The others share frames, which the reader keeps.
    fn fetch_together(&self, batch: &[(BlobId, u64)]) -> Result<HashMap<BlobId, Bytes>> {
        let (index, mut wanted, mut copies) = (self.reader.index(), HashMap::new(), Vec::new());
        for (id, len) in batch.iter().filter(|(_, len)| *len >= GROUPED_UNDER as u64) {
            index.lookup(id, &mut copies);
            let fits = |copy: &Found| copy.entry.kind == BlobKind::Data && u64::from(copy.entry.len) == *len;
            if let Some(copy) = copies.drain(..).find(fits) {
                wanted.insert(*id, copy);
            }
        }
        let spans = spans(wanted.into_iter().map(|(what, copy)| Wanted { copy, what }).collect());
        let fetcher = Fetcher::start(self.reader.repository(), spans, 2 * self.batch_bytes);
        let mut sealed = Vec::new();
        while let Some(mut fetched) = fetcher.next() {
            fetched.check()?;
            let frames =
                (0..fetched.span.frames.len()).map(|n| fetched.frame(n).map(<[u8]>::to_vec)).collect::<Vec<_>>();
            sealed.extend(std::mem::take(&mut fetched.span.frames).into_iter().zip(frames));
        }
        let open = |(Wanted { copy, what: id }, sealed): (Wanted<BlobId>, Result<Vec<u8>>)| {
            let text = sealed.and_then(|mut sealed| {
                let frame = self.reader.open_frame(&copy, &mut sealed)?;
                self.reader.slice(&id, &copy, &frame)
            });
            match text {
                Err(Error::Damaged { .. }) => Ok((id, self.reader.blob_elsewhere(&id, BlobKind::Data, &copy)?)),
                text => Ok((id, text?)),
            }
        };
        sealed.into_par_iter().with_max_len(1).map(open).collect()
    }
}

impl Read for Pieces<'_> {
    /// Errors are the engine's, see [`cause`].
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.fetched.is_empty() {
            self.fetch().map_err(io::Error::other)?;
        }
        let Some(front) = self.fetched.front_mut() else { return Ok(0) };
        let len = buf.len().min(front.len());
        buf[..len].copy_from_slice(&front.split_to(len));
        if front.is_empty() {
            self.fetched.pop_front();
        }
        Ok(len)
    }
}

/// The error of the engine behind one of [`Pieces`].
pub(super) fn cause(e: io::Error) -> Error {
    match e.downcast::<Error>() {
        Ok(e) => e,
        Err(e) => Error::io("read", "a stored file", e),
    }
}
