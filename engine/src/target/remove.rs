//! Removes an entry and all that is below it, by descriptors, never through a link and never into another file system.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Dir, FileType, OFlags};
use rustix::io::{Errno, Result};

use super::handle::{file_type, open_at, open_for_work, stat_at, thaw_at};
use super::place::Temporaries;

/// Directories entered at once, each with a descriptor. What lies deeper is first moved up.
const DEPTH_AT_ONCE: usize = 64;

/// Names in an open directory with their types, without `.` and `..`; `Unknown` where the file system does not tell.
pub(super) fn names(dir: BorrowedFd<'_>) -> Result<Vec<(Vec<u8>, FileType)>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push((name.to_vec(), entry.file_type()));
        }
    }
    Ok(names)
}

/// Removes `name` from `dir` and returns how many entries that were.
///
/// Stops at the first that cannot be removed; `EXDEV` for a mount point, whose content belongs to somebody else.
pub(super) fn remove_tree(dir: BorrowedFd<'_>, name: &[u8], temporaries: &Temporaries) -> Result<u64> {
    let Some(stat) = stat_at(dir, name)? else { return Err(Errno::NOENT) };
    if file_type(&stat) != FileType::Directory {
        return unlink(dir, name).map(|()| 1);
    }
    let mut removal =
        Removal { top: dir, dev: rustix::fs::fstat(dir)?.st_dev, temporaries, moved: Vec::new(), count: 0 };
    removal.remove_dir(dir, name, 0)?;
    while let Some(moved) = removal.moved.pop() {
        removal.remove_dir(dir, &moved, 0)?;
    }
    Ok(removal.count)
}

struct Removal<'a> {
    top: BorrowedFd<'a>,
    dev: u64,
    temporaries: &'a Temporaries,
    /// Deep directories that were moved to `top`, by their temporary names.
    moved: Vec<Vec<u8>>,
    count: u64,
}

impl Removal<'_> {
    fn remove_dir(&mut self, parent: BorrowedFd<'_>, name: &[u8], depth: usize) -> Result<()> {
        let (dir, stat, _) = open_for_work(parent, name)?;
        if stat.st_dev != self.dev {
            return Err(Errno::XDEV);
        }
        for (entry, kind) in names(dir.as_fd())? {
            if !is_dir(dir.as_fd(), &entry, kind)? {
                unlink(dir.as_fd(), &entry)?;
                self.count += 1;
            } else if depth + 1 < DEPTH_AT_ONCE {
                self.remove_dir(dir.as_fd(), &entry, depth + 1)?;
            } else {
                self.move_up(dir.as_fd(), &entry)?;
            }
        }
        rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?;
        self.count += 1;
        Ok(())
    }

    fn move_up(&mut self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
        // To move a directory one must be able to write to it; opening it for work sees to that.
        open_for_work(dir, name)?;
        let temporary = self.temporaries.name();
        rustix::fs::renameat(dir, name, self.top, &temporary)?;
        self.moved.push(temporary);
        Ok(())
    }
}

fn is_dir(dir: BorrowedFd<'_>, name: &[u8], kind: FileType) -> Result<bool> {
    match kind {
        FileType::Unknown => Ok(stat_at(dir, name)?.is_some_and(|stat| file_type(&stat) == FileType::Directory)),
        kind => Ok(kind == FileType::Directory),
    }
}

/// Removes what is no directory, immutable or not. Already gone is as good as removed.
fn unlink(dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    let unlink = || rustix::fs::unlinkat(dir, name, AtFlags::empty());
    match unlink() {
        Err(Errno::PERM) if thaw_at(dir, name) => unlink(),
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}

/// How many entries [`remove_tree`] would remove, as far as they can be read.
pub(super) fn count_tree(dir: BorrowedFd<'_>, name: &[u8]) -> Result<u64> {
    let Some(stat) = stat_at(dir, name)? else { return Err(Errno::NOENT) };
    let mut count = 1;
    if file_type(&stat) != FileType::Directory {
        return Ok(count);
    }
    let dev = rustix::fs::fstat(dir)?.st_dev;
    // Directories that are entered, with what is left to look at in each. The depth is bounded by the open descriptors allowed.
    let mut open = vec![];
    enter(&mut open, dir, name, dev)?;
    while let Some((fd, left)) = open.last_mut() {
        let Some((entry, kind)) = left.pop() else {
            open.pop();
            continue;
        };
        count += 1;
        if is_dir(fd.as_fd(), &entry, kind)? {
            let parent = rustix::io::fcntl_dupfd_cloexec(&*fd, 0)?;
            enter(&mut open, parent.as_fd(), &entry, dev)?;
        }
    }
    Ok(count)
}

type Entered = (std::os::fd::OwnedFd, Vec<(Vec<u8>, FileType)>);

fn enter(open: &mut Vec<Entered>, parent: BorrowedFd<'_>, name: &[u8], dev: u64) -> Result<()> {
    let fd = open_at(parent, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
    if rustix::fs::fstat(&fd)?.st_dev != dev {
        return Err(Errno::XDEV);
    }
    let left = names(fd.as_fd())?;
    open.push((fd, left));
    Ok(())
}
