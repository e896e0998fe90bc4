//! One file: its extents, chunk by chunk, and the holes between them.

use std::io::{self, Read};

use crate::error::Result;
use crate::format::blob::BlobKind;
use crate::repo::content::{Builder, Content};
use crate::repo::save::Failed;
use crate::source::{File, Stat};

use super::Walk;

impl Walk<'_> {
    /// Stores the bytes of a file. What it holds beyond the size that `stat` tells is left for the next backup.
    pub(super) fn save_content(&self, file: &File, stat: &Stat) -> Result<Content, Failed> {
        let saver = &self.saver;
        if stat.size >= 1 << 20 {
            file.advise_sequential(stat.size);
        }
        let mut content = Builder::default();
        let mut end = 0;
        if stat.size <= saver.min_chunk() && stat.blocks.saturating_mul(512) >= stat.size {
            self.save_small(file, stat.size, &mut content)?;
            return Ok(content.finish(saver)?);
        }
        for extent in file.extents(stat.size) {
            let extent = extent?;
            content.hole(extent.start - end);
            let reader = ExtentReader { file, at: extent.start, end: extent.start + extent.len };
            let read = saver.save_extent(reader, extent.len, &mut content)?;
            end = extent.start + read;
            if read < extent.len {
                // It became shorter while it was read.
                return Ok(content.finish(saver)?);
            }
        }
        if end < stat.size {
            // A hole up to the end, or it became shorter: then nothing may be made up for what is gone.
            content.hole(file.stat()?.size.clamp(end, stat.size) - end);
        }
        Ok(content.finish(saver)?)
    }

    fn save_small(&self, file: &File, size: u64, content: &mut Builder) -> Result<(), Failed> {
        let mut buffer = self.saver.small_buffer();
        buffer.resize(size as usize, 0);
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read_at(filled as u64, &mut buffer[filled..])? {
                0 => break,
                n => filled += n,
            }
        }
        if filled > 0 {
            self.saver.check_cancel()?;
            content.data(&self.saver, filled as u64, self.saver.store(BlobKind::Data, &buffer[..filled])?)?;
            self.progress.advance(0, filled as u64);
        }
        Ok(())
    }
}

struct ExtentReader<'f> {
    file: &'f File,
    at: u64,
    end: u64,
}

impl Read for ExtentReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = (buf.len() as u64).min(self.end - self.at) as usize;
        if want == 0 {
            return Ok(0);
        }
        let n = self.file.read_at(self.at, &mut buf[..want])?;
        self.file.advise_dontneed(self.at, n as u64);
        self.at += n as u64;
        Ok(n)
    }
}
