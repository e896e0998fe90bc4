//! Large bodies past the page cache (`O_DIRECT`): a pack is written once and read seldom, so its pages would only drive
//! out those of somebody else, in a pod on our own account, and copying it there takes more CPU than sealing it.
//!
//! What the cache has already is taken from it. File systems that refuse get ordinary calls, for the same bytes.

use std::fs::File;
use std::io::{Error, IoSliceMut, Read, Result, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

/// Bodies below this many bytes go the ordinary way.
const DIRECT_FROM: usize = 256 << 10;
/// Memory, offset and length of a direct call are multiples of this: the page size, and no block device asks for more
/// than that of a file system.
const ALIGN: usize = 4096;
/// Bytes copied into aligned memory for one write.
const WRITE_BYTES: usize = 4 << 20;

/// Writes `body` to an empty file.
pub(super) fn write_all(mut file: &File, body: &[u8]) -> Result<()> {
    let written = if body.len() >= DIRECT_FROM && set_direct(file, true) { write_direct(file, body)? } else { 0 };
    file.seek(SeekFrom::Start(written as u64))?;
    file.write_all(&body[written..])
}

/// Writes whole blocks, and says how many bytes that were: all but the last, or fewer where the file system refuses.
/// Afterwards the file takes ordinary calls.
fn write_direct(mut file: &File, body: &[u8]) -> Result<usize> {
    let whole = body.len() / ALIGN * ALIGN;
    let mut memory = Aligned::new(WRITE_BYTES.min(whole));
    let mut at = 0;
    while at < whole {
        let piece = memory.bytes(WRITE_BYTES.min(whole - at));
        piece.copy_from_slice(&body[at..at + piece.len()]);
        match file.write(piece) {
            // A write that ended inside of a block cannot go on from there.
            Ok(n) if n > 0 && n.is_multiple_of(ALIGN) => at += n,
            Ok(_) => break,
            Err(e) if is_refusal(&e) => break,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    set_direct(file, false);
    Ok(at)
}

/// Reads `len` bytes from `offset` on. `UnexpectedEof` if there are fewer.
pub(super) fn read_exact_at(mut file: &File, offset: u64, len: usize) -> Result<Bytes> {
    if len < DIRECT_FROM {
        let mut body = vec![0; len];
        file.read_exact_at(&mut body, offset)?;
        return Ok(body.into());
    }
    let skipped = offset as usize % ALIGN;
    let start = offset - skipped as u64;
    // To the end of its last block: a direct read takes whole ones, and the file may end in it.
    let mut memory = Aligned::new((skipped + len).next_multiple_of(ALIGN));
    let body = memory.bytes((skipped + len).next_multiple_of(ALIGN));
    let mut got = read_cached(file, start, body);
    if got < skipped + len && set_direct(file, true) {
        got = read_direct(file, start, body, got)?;
        set_direct(file, false);
    }
    if got < skipped + len {
        file.seek(SeekFrom::Start(start + got as u64))?;
        file.read_exact(&mut body[got..skipped + len])?;
    }
    Ok(memory.into_bytes(skipped, len))
}

/// How much of the beginning is in the page cache.
fn read_cached(file: &File, start: u64, body: &mut [u8]) -> usize {
    let mut got = 0;
    while got < body.len() {
        let rest = &mut [IoSliceMut::new(&mut body[got..])];
        match preadv2(file, rest, start + got as u64, ReadWriteFlags::NOWAIT) {
            Ok(n) if n > 0 => got += n,
            // At the end, not cached, or not known to this file system.
            _ => break,
        }
    }
    got
}

/// Reads on from the block in which `got` lies; how much there is then. Ends early where the file does, or if it is refused.
fn read_direct(file: &File, start: u64, body: &mut [u8], got: usize) -> Result<usize> {
    let mut at = got / ALIGN * ALIGN;
    while at < body.len() {
        match file.read_at(&mut body[at..], start + at as u64) {
            Ok(0) => break,
            Ok(n) if n.is_multiple_of(ALIGN) => at += n,
            // The last block of the file.
            Ok(n) => return Ok(at + n),
            Err(e) if is_refusal(&e) => break,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(at.max(got))
}

/// Whether the file takes direct calls now; never an error, because nothing depends on it.
fn set_direct(file: &File, direct: bool) -> bool {
    fcntl_getfl(file)
        .and_then(|flags| {
            fcntl_setfl(file, flags.difference(OFlags::DIRECT) | if direct { OFlags::DIRECT } else { OFlags::empty() })
        })
        .is_ok()
}

fn is_refusal(error: &Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::INVAL | Errno::OPNOTSUPP))
}

/// Memory of which some start is aligned.
struct Aligned {
    memory: Vec<u8>,
    start: usize,
}

impl Aligned {
    fn new(len: usize) -> Self {
        let memory = vec![0; len + ALIGN];
        let start = memory.as_ptr().align_offset(ALIGN);
        assert!(start <= ALIGN, "bytes can be aligned by leaving out some");
        Self { memory, start }
    }

    fn bytes(&mut self, len: usize) -> &mut [u8] {
        &mut self.memory[self.start..self.start + len]
    }

    fn into_bytes(self, skipped: usize, len: usize) -> Bytes {
        let start = self.start + skipped;
        Bytes::from(self.memory).slice(start..start + len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|n| (n * 7 + n / 251) as u8).collect()
    }

    /// A file on disk, and one in memory, where direct calls may be refused.
    fn files() -> Vec<File> {
        let in_memory = std::fs::metadata("/dev/shm").is_ok().then(|| tempfile::tempfile_in("/dev/shm").unwrap());
        [tempfile::tempfile().unwrap()].into_iter().chain(in_memory).collect()
    }

    #[test]
    fn any_length_comes_back() {
        for file in files() {
            for len in [0, 1, DIRECT_FROM - 1, DIRECT_FROM, DIRECT_FROM + 1, WRITE_BYTES + 4097, 2 * WRITE_BYTES] {
                file.set_len(0).unwrap();
                (&file).seek(SeekFrom::Start(0)).unwrap();
                let body = pattern(len);
                write_all(&file, &body).unwrap();
                assert_eq!(file.metadata().unwrap().len(), len as u64);
                assert!(read_exact_at(&file, 0, len).unwrap() == body, "{len} bytes");
            }
        }
    }

    #[test]
    fn any_range_comes_back_cached_or_not() {
        for file in files() {
            let body = pattern(3 * DIRECT_FROM + 77);
            write_all(&file, &body).unwrap();
            file.sync_all().unwrap();
            for start in [0, 1, 4095, 4096, 65_536, 100_000] {
                for len in [1, 5000, DIRECT_FROM, DIRECT_FROM + 4096, body.len() - start] {
                    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
                    let read = |file: &File| read_exact_at(file, start as u64, len).unwrap();
                    assert!(read(&file) == body[start..start + len], "{len} bytes at {start} from the disk");
                    file.read_exact_at(&mut vec![0; 20_000], start as u64).unwrap();
                    assert!(read(&file) == body[start..start + len], "{len} bytes at {start}, some cached");
                }
            }
        }
    }

    #[test]
    fn the_end_of_the_file_is_an_error() {
        for file in files() {
            write_all(&file, &pattern(DIRECT_FROM + 5)).unwrap();
            for (start, len) in [(6, DIRECT_FROM), (0, 2 * DIRECT_FROM), (1 << 30, DIRECT_FROM), (1 << 30, 1)] {
                let error = read_exact_at(&file, start, len).unwrap_err();
                assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "{len} bytes at {start}");
            }
        }
    }
}
