//! What becomes of an entry of the snapshot, given what already stands under its name and what the user allows.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FileType, OFlags, Stat};

use super::attributes::{Applied, Compare, modified, read_back};
use super::dir::TargetDir;
use super::handle::{Inode, Reach, file_type, open_at, open_plain, stat_at};
use super::{Overwrite, Result};
use crate::format::node::{Metadata, NodeKind};

/// What to do with one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decision {
    /// Nothing stands there: make it.
    Create,
    /// Something stands there: make it anew and put it in that one's place.
    Replace,
    /// Leave what stands there (or nothing) as it is.
    Keep(Kept),
    /// Its bytes are right: only bring its attributes to what the snapshot says.
    UpdateMetadataOnly,
}

/// Why an entry is not touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kept {
    /// Something exists there, and nothing that exists is to be touched.
    Exists,
    /// What exists there is as new as the snapshot's, or newer.
    NotOlder,
    /// It already is exactly as the snapshot says.
    Identical,
    /// It is a device, and devices are left out.
    Device,
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exists => "exists, and nothing that exists is to be overwritten",
            Self::NotOlder => "what exists there is not older than in the snapshot",
            Self::Identical => "is already as in the snapshot",
            Self::Device => "is a device, and devices are left out",
        })
    }
}

/// Decides what to do with the entry `name` of `dir` that is `metadata` in the snapshot. Changes nothing.
///
/// Directories that exist as such are never replaced, only their attributes are, by [`TargetDir::make_dir`]. An existing
/// file with several names is never `UpdateMetadataOnly`: its other names may lie outside of the target.
pub fn decide(dir: &TargetDir, name: &[u8], metadata: &Metadata, overwrite: Overwrite) -> Result<Decision> {
    let path = dir.checked(name)?;
    if is_device(&metadata.kind) && dir.shared().options.no_devices {
        return Ok(Decision::Keep(Kept::Device));
    }
    let Some(fd) = dir.fd() else { return Ok(Decision::Create) };
    let Some(stat) = stat_at(fd, name).map_err(|errno| dir.error("look at what exists", name, errno))? else {
        return Ok(Decision::Create);
    };
    let is_dir = metadata.kind == NodeKind::Dir && file_type(&stat) == FileType::Directory;
    let write = if is_dir { Decision::UpdateMetadataOnly } else { Decision::Replace };
    Ok(match overwrite {
        Overwrite::Never => Decision::Keep(Kept::Exists),
        Overwrite::IfNewer if metadata.mtime <= modified(&stat) => Decision::Keep(Kept::NotOlder),
        Overwrite::IfNewer | Overwrite::Always => write,
        Overwrite::IfChanged if is_dir => write,
        Overwrite::IfChanged if !has_same_bytes(fd, name, &stat, metadata) => Decision::Replace,
        Overwrite::IfChanged if stat.st_nlink == 1 => Decision::UpdateMetadataOnly,
        Overwrite::IfChanged => match is_identical(dir, fd, name, metadata, &path) {
            true => Decision::Keep(Kept::Identical),
            false => Decision::Replace,
        },
    })
}

fn is_device(kind: &NodeKind) -> bool {
    matches!(kind, NodeKind::CharDevice { .. } | NodeKind::BlockDevice { .. })
}

/// Kind of an entry as the file system knows it.
pub(super) fn wanted_type(kind: &NodeKind) -> FileType {
    match kind {
        NodeKind::File { .. } => FileType::RegularFile,
        NodeKind::Dir => FileType::Directory,
        NodeKind::Symlink { .. } => FileType::Symlink,
        NodeKind::Fifo => FileType::Fifo,
        NodeKind::Socket => FileType::Socket,
        NodeKind::CharDevice { .. } => FileType::CharacterDevice,
        NodeKind::BlockDevice { .. } => FileType::BlockDevice,
    }
}

/// Whether kind and content agree; of a file by size and modification time.
fn has_same_bytes(dir: BorrowedFd<'_>, name: &[u8], stat: &Stat, metadata: &Metadata) -> bool {
    if file_type(stat) != wanted_type(&metadata.kind) {
        return false;
    }
    match &metadata.kind {
        NodeKind::File { size } => u64::try_from(stat.st_size) == Ok(*size) && modified(stat) == metadata.mtime,
        NodeKind::Symlink { target } => {
            rustix::fs::readlinkat(dir, name, Vec::new()).is_ok_and(|link| link.as_bytes() == target)
        }
        NodeKind::CharDevice { rdev } | NodeKind::BlockDevice { rdev } => stat.st_rdev == *rdev,
        NodeKind::Dir | NodeKind::Fifo | NodeKind::Socket => true,
    }
}

fn is_identical(dir: &TargetDir, fd: BorrowedFd<'_>, name: &[u8], metadata: &Metadata, path: &std::path::Path) -> bool {
    let (opened, reach) = match &metadata.kind {
        NodeKind::File { .. } => (open_plain(fd, name).map(|(fd, _)| fd), Reach::Open),
        _ => (open_at(fd, name, OFlags::PATH), Reach::PathOnly),
    };
    opened.is_ok_and(|opened| {
        let is_symlink = matches!(metadata.kind, NodeKind::Symlink { .. });
        let inode = Inode { fd: opened.as_fd(), reach, is_symlink, is_dir: false };
        read_back(&inode, metadata, dir.shared(), &Applied::default(), Compare::NotAccessTime, path).is_empty()
    })
}
