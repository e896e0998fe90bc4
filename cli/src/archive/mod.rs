//! A file's bytes, or a directory as an archive, to one stream that nobody can seek in.

pub(crate) mod tar;
pub(crate) mod zip;

use std::io::Write;

use anyhow::Result;
use copal_engine::Error;
use copal_engine::format::blob::BlobKind;
use copal_engine::repo::{Node, Piece, Reader};

/// Pieces that are fetched at once: with chunks of 8 MiB at most 64 MiB.
const AHEAD: usize = 8;
/// Zeros are written in blocks of this many bytes.
const ZEROS: usize = 64 << 10;

/// Whether holes are written as zeros or left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holes {
    Zeros,
    LeftOut,
}

/// Writes the bytes of a file, from its start to its end.
pub(crate) fn write_content(reader: &Reader, node: &Node, holes: Holes, out: &mut dyn Write) -> Result<()> {
    let mut waiting = Vec::with_capacity(AHEAD);
    let mut failed = None;
    let walked = reader.each_piece(node, &mut |piece| {
        waiting.push(piece);
        if waiting.len() < AHEAD {
            return Ok(());
        }
        write_pieces(reader, &mut waiting, holes, out).map_err(|e| {
            failed = Some(e);
            Error::Interrupted
        })
    });
    match (failed, walked) {
        (Some(e), _) => Err(e),
        (None, walked) => {
            walked?;
            write_pieces(reader, &mut waiting, holes, out)
        }
    }
}

fn write_pieces(reader: &Reader, pieces: &mut Vec<Piece>, holes: Holes, out: &mut dyn Write) -> Result<()> {
    let fetch = |piece: &Piece| piece.data.map(|id| reader.blob(&id, BlobKind::Data)).transpose();
    let fetched: Vec<_> = match &pieces[..] {
        [one] => vec![fetch(one)],
        many => std::thread::scope(|scope| {
            let threads: Vec<_> = many.iter().map(|piece| scope.spawn(|| fetch(piece))).collect();
            threads.into_iter().map(|thread| thread.join().expect("reading does not panic")).collect()
        }),
    };
    for (piece, bytes) in pieces.drain(..).zip(fetched) {
        match bytes? {
            Some(bytes) if bytes.len() as u64 == piece.len => out.write_all(&bytes)?,
            Some(_) => return Err(Error::damaged("a file's map", "a chunk is not as long as it says").into()),
            None if holes == Holes::Zeros => write_zeros(out, piece.len)?,
            None => {}
        }
    }
    Ok(())
}

/// Writes so many zero bytes.
fn write_zeros(out: &mut dyn Write, mut len: u64) -> std::io::Result<()> {
    let zeros = [0; ZEROS];
    while len > 0 {
        let n = len.min(ZEROS as u64) as usize;
        out.write_all(&zeros[..n])?;
        len -= n as u64;
    }
    Ok(())
}
