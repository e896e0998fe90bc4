//! zip: what it can tell of an entry is its name, bytes, mode and time of change.

use std::io::Write;

use anyhow::Result;
use copal_engine::format::node::{Metadata, NodeKind};
use copal_engine::repo::{Node, Reader};
use jiff::tz::TimeZone;
use zip::write::{SimpleFileOptions, StreamWriter};
use zip::{CompressionMethod, DateTime, ZipWriter};

use super::{Holes, write_content};
use crate::output::lossy;

/// Writes entries one after another.
pub(crate) struct Zip<W: Write>(ZipWriter<StreamWriter<W>>);

impl<W: Write> Zip<W> {
    /// Begins an archive.
    pub(crate) fn new(out: W) -> Self {
        Self(ZipWriter::new_stream(out))
    }

    /// Appends an entry under `name` (relative). False: zip has no such thing, and nothing was written.
    pub(crate) fn append(&mut self, reader: &Reader, name: &[u8], node: &Node) -> Result<bool> {
        let options = options(&node.metadata);
        match &node.metadata.kind {
            NodeKind::File { size } => {
                self.0.start_file(lossy(name), options.large_file(*size >= u64::from(u32::MAX)))?;
                write_content(reader, node, Holes::Zeros, &mut self.0)?;
            }
            NodeKind::Dir => self.0.add_directory(lossy(name), options)?,
            NodeKind::Symlink { target } => self.0.add_symlink(lossy(name), lossy(target), options)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Writes the directory at the end.
    pub(crate) fn finish(self) -> Result<()> {
        self.0.finish()?.into_inner().flush()?;
        Ok(())
    }
}

fn options(m: &Metadata) -> SimpleFileOptions {
    let options =
        SimpleFileOptions::default().compression_method(CompressionMethod::Deflated).unix_permissions(m.mode & 0o777);
    match local_time(m) {
        Some(time) => options.last_modified_time(time),
        None => options,
    }
}

/// Times in zip are local and lie between 1980 and 2107; others are left out.
fn local_time(m: &Metadata) -> Option<DateTime> {
    let at = jiff::Timestamp::from_second(m.mtime.secs).ok()?.to_zoned_datetime(TimeZone::system());
    let (year, month, day) = (u16::try_from(at.year()).ok()?, at.month() as u8, at.day() as u8);
    DateTime::from_date_and_time(year, month, day, at.hour() as u8, at.minute() as u8, at.second() as u8).ok()
}
