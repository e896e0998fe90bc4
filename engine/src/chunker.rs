//! Content-defined chunking: bytes in, cut points out.
//!
//! FastCDC (Xia et al., 2020) with normalised chunking: a gear hash rolls over the bytes from `min` on, a chunk ends where
//! the hash has zeros under a mask, a strict mask before `avg` and a loose one after it, and at `max` at the latest. The
//! table of the hash is derived from a key, so that two repositories cut differently and a stranger cannot precompute cuts.
//! A keyed table alone does not hide what is stored (eprint 2025/532, 2025/558): chunk lengths stand only inside of sealed
//! bytes (docs/format.md "Chunking").
//!
//! The scan is the `fastcdc` crate's. Its cuts are part of the format: golden vectors (tests/vectors/chunker.json) and a
//! second implementation in the tests notice it if a version of that crate ever cuts elsewhere.
//!
//! **A cut depends only on the chunk's own bytes**, the byte after it, and on the end of the input: never on how the bytes
//! were read, nor on what came before the chunk.

use std::io::{self, Read};

use fastcdc::v2020;
use zeroize::Zeroize;

use crate::crypto::hash;
use crate::crypto::secret::Secret;

/// Sizes that chunks have, in bytes. Part of a repository's config: other sizes find no duplicates among older chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Params {
    min: u32,
    avg: u32,
    max: u32,
    normalization: u8,
}

impl Params {
    /// 512 KiB on average, 128 KiB to 4 MiB, normalisation 1: against 1 MiB an edit in a large file costs half the bytes, and
    /// compression loses about 1 % (docs/benchmarks.md).
    pub const DEFAULT: Self = Self { min: 128 << 10, avg: 512 << 10, max: 4 << 20, normalization: 1 };

    /// Least average: below, the ids of the chunks cost more than small chunks save.
    pub const AVG_MIN: u32 = 64 << 10;

    /// Greatest average that the scan has masks for.
    pub const AVG_MAX: u32 = 4 << 20;

    /// Greatest chunk: bounds what a reader allocates for one.
    pub const CHUNK_MAX: u32 = 16 << 20;

    /// Checked sizes:
    ///
    /// - `avg`: a power of two from [`Params::AVG_MIN`] to [`Params::AVG_MAX`] (between powers the masks would aim beside it);
    /// - `min`: even, from `avg / 16` to `avg / 2` (duplicates are lost quickly above);
    /// - `max`: even, from `2 * avg` to [`Params::CHUNK_MAX`];
    /// - `normalization`: 0 to 3, how strongly lengths are drawn to `avg`.
    pub fn new(min: u32, avg: u32, max: u32, normalization: u8) -> Result<Self, ParamsError> {
        let error = |what, value, rule| Err(ParamsError { what, value, rule });
        if !avg.is_power_of_two() || !(Self::AVG_MIN..=Self::AVG_MAX).contains(&avg) {
            return error("average", avg, "a power of two from 64 KiB to 4 MiB");
        }
        if !min.is_multiple_of(2) || !(avg / 16..=avg / 2).contains(&min) {
            return error("minimum", min, "even, and from a sixteenth to half of the average");
        }
        if !max.is_multiple_of(2) || !(avg * 2..=Self::CHUNK_MAX).contains(&max) {
            return error("maximum", max, "even, at least twice the average and at most 16 MiB");
        }
        if normalization > 3 {
            return error("normalization", normalization.into(), "0, 1, 2 or 3");
        }
        Ok(Self { min, avg, max, normalization })
    }

    /// The usual shape around an average: a quarter of it at least, eight times it (or 16 MiB) at most, normalisation 1.
    pub fn with_average(avg: u32) -> Result<Self, ParamsError> {
        Self::new(avg / 4, avg, avg.saturating_mul(8).min(Self::CHUNK_MAX), 1)
    }

    /// Least length of a chunk; only the last of an input is shorter.
    pub fn min(&self) -> u32 {
        self.min
    }

    /// Length that chunks of random bytes have on average, roughly.
    pub fn avg(&self) -> u32 {
        self.avg
    }

    /// Greatest length of a chunk.
    pub fn max(&self) -> u32 {
        self.max
    }

    /// How strongly lengths are drawn to the average, 0 to 3.
    pub fn normalization(&self) -> u8 {
        self.normalization
    }

    /// The strict mask (before `avg`) and the loose one (after it).
    fn masks(&self) -> (u64, u64) {
        let level = match self.normalization {
            0 => v2020::Normalization::Level0,
            1 => v2020::Normalization::Level1,
            2 => v2020::Normalization::Level2,
            _ => v2020::Normalization::Level3,
        };
        v2020::select_masks(self.avg as usize, level)
    }
}

impl Default for Params {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A size that the chunker does not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("chunk {what} of {value} is refused: it must be {rule}")]
pub struct ParamsError {
    what: &'static str,
    value: u32,
    rule: &'static str,
}

/// The gear table: 256 random words, a secret of the dedup domain. Wiped when dropped.
pub struct Table {
    gear: Box<[u64; 256]>,
    /// The same words shifted left by one: the scan takes two bytes a step (FastCDC 2020, 3.7).
    shifted: Box<[u64; 256]>,
}

impl Table {
    /// The table of a repository: 256 little-endian words of the keystream of `d_chunk`, label "copal 2026 gear table v1".
    pub fn derive(d_chunk: &Secret) -> Self {
        let mut stream = [0; 256 * 8];
        hash::keystream(d_chunk, b"copal 2026 gear table v1", &mut stream);
        let mut table = Self { gear: Box::new([0; 256]), shifted: Box::new([0; 256]) };
        for (word, bytes) in table.gear.iter_mut().zip(stream.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        stream.zeroize();
        for (shifted, word) in table.shifted.iter_mut().zip(table.gear.iter()) {
            *shifted = word << 1;
        }
        table
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        self.gear.zeroize();
        self.shifted.zeroize();
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Table(..)")
    }
}

/// Cuts bytes into chunks. One serves all threads.
#[derive(Debug)]
pub struct Chunker {
    params: Params,
    table: Table,
}

impl Chunker {
    /// A chunker of these sizes with this table.
    pub fn new(params: Params, table: Table) -> Self {
        Self { params, table }
    }

    /// Its sizes.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Length of the first chunk in `buf`: at most `max`, at least `min` unless `buf` is shorter, 0 only if it is empty.
    ///
    /// `buf` holds at least `max` bytes or reaches to the end of the input. With less, a result below `buf.len()` is still
    /// right, and one equal to it means that the chunk may go on. CPU only, about 4 GB/s.
    pub fn cut(&self, buf: &[u8]) -> usize {
        let Params { min, avg, max, .. } = self.params;
        let (strict, loose) = self.params.masks();
        let (gear, shifted) = (&self.table.gear[..], &self.table.shifted[..]);
        let (_, len) = v2020::cut_gear(
            buf,
            min as usize,
            avg as usize,
            max as usize,
            strict,
            loose,
            strict << 1,
            loose << 1,
            gear,
            shifted,
        );
        len
    }
}

/// The chunks of a reader, one after another, in one buffer.
///
/// The buffer grows to four times the average and, where a chunk is longer than half of that, at most to twice the
/// maximum: little of it has left the processor's cache when a chunk is handed out. The cuts do not depend on how many
/// bytes each read returns.
#[derive(Debug)]
pub struct Cuts<'a, R> {
    chunker: &'a Chunker,
    reader: R,
    buffer: Vec<u8>,
    /// The bytes read and not yet handed out are `buffer[start..end]`.
    start: usize,
    end: usize,
    ended: bool,
}

impl<'a, R: Read> Cuts<'a, R> {
    /// Cuts what `reader` gives.
    pub fn new(chunker: &'a Chunker, reader: R) -> Self {
        Self::with_buffer(chunker, reader, Vec::new())
    }

    /// As [`Cuts::new`], with the buffer of an earlier run ([`Cuts::into_buffer`]); its content is of no account.
    pub fn with_buffer(chunker: &'a Chunker, reader: R, buffer: Vec<u8>) -> Self {
        Self { chunker, reader, buffer, start: 0, end: 0, ended: false }
    }

    /// The buffer, for the next run.
    pub fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }

    /// The next chunk, or `None` after the last; an empty input has none.
    ///
    /// An error of the reader is passed on, but for `Interrupted`, which is retried. No byte is lost by it: a caller that
    /// asks again reads on where the error came.
    pub fn next_chunk(&mut self) -> io::Result<Option<&[u8]>> {
        let len = self.find_cut()?;
        let chunk = self.start..self.start + len;
        self.start = chunk.end;
        Ok((len > 0).then(|| &self.buffer[chunk]))
    }

    /// Reads until the end of the next chunk is certain and returns its length.
    ///
    /// Most chunks end within twice the average; the few longer ones are scanned again with more bytes behind them.
    fn find_cut(&mut self) -> io::Result<usize> {
        let max = self.chunker.params.max as usize;
        let mut want = (self.chunker.params.avg as usize * 2).min(max);
        loop {
            self.fill(want)?;
            let available = &self.buffer[self.start..self.end];
            let len = self.chunker.cut(available);
            if len < available.len() || self.ended || available.len() >= max {
                return Ok(len);
            }
            want = (want * 2).min(max);
        }
    }

    /// Reads until at least `want` bytes are there or the reader has no more.
    fn fill(&mut self, want: usize) -> io::Result<()> {
        if self.buffer.len() - self.start < want {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.buffer.len() < want * 2 {
                self.buffer.resize(want * 2, 0);
            }
        }
        while !self.ended && self.end - self.start < want {
            match self.reader.read(&mut self.buffer[self.end..]) {
                Ok(0) => self.ended = true,
                Ok(read) => self.end += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
