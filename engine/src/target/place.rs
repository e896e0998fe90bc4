//! Temporary names: everything is made under one and renamed when it is whole.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{AtFlags, FileType, FlockOperation, RenameFlags};
use rustix::io::Errno;

use super::dir::TargetDir;
use super::existing::Decision;
use super::handle::{file_type, open_plain, stat_at, thaw_at};
use super::{Error, Result};

const PREFIX: &[u8] = b".copal-";
const HEX_DIGITS: usize = 16;

/// Gives out temporary names: eight hex digits of this run, eight that count.
#[derive(Debug)]
pub(crate) struct Temporaries {
    run: u32,
    next: AtomicU32,
}

impl Temporaries {
    pub(super) fn new() -> Result<Self> {
        let run = getrandom::u32().map_err(|error| Error::Io {
            action: "get random bytes for temporary names",
            path: Path::new(OsStr::from_bytes(PREFIX)).to_owned(),
            source: std::io::Error::other(error),
        })?;
        Ok(Self { run, next: AtomicU32::new(0) })
    }

    pub(super) fn name(&self) -> Vec<u8> {
        let count = self.next.fetch_add(1, Ordering::Relaxed);
        [PREFIX, format!("{:08x}{count:08x}", self.run).as_bytes()].concat()
    }

    /// Whether `name` is a temporary one of this run.
    pub(super) fn is_own(&self, name: &[u8]) -> bool {
        is_temporary(name) && name[PREFIX.len()..].starts_with(format!("{:08x}", self.run).as_bytes())
    }
}

/// Whether `name` is a temporary one of any run.
pub(super) fn is_temporary(name: &[u8]) -> bool {
    let is_hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    name.strip_prefix(PREFIX).is_some_and(|digits| digits.len() == HEX_DIGITS && digits.iter().all(is_hex))
}

/// An entry under a temporary name; removed when dropped before [`Temporary::place`].
#[derive(Debug)]
pub(super) struct Temporary {
    dir: TargetDir,
    name: Vec<u8>,
    is_placed: bool,
}

impl Temporary {
    /// Lets `make` create an entry under a name that is free. `None` in a dry run, where there is no directory to make it in.
    pub(super) fn make<T>(
        dir: &TargetDir,
        action: &'static str,
        final_name: &[u8],
        mut make: impl FnMut(BorrowedFd<'_>, &[u8]) -> rustix::io::Result<T>,
    ) -> Result<Option<(Self, T)>> {
        if dir.shared().options.dry_run {
            return Ok(None);
        }
        let fd = dir.fd().expect("only a dry run has directories that are not open");
        loop {
            let name = dir.shared().temporaries.name();
            match make(fd, &name) {
                Ok(made) => return Ok(Some((Self { dir: dir.clone(), name, is_placed: false }, made))),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(dir.error(action, final_name, errno)),
            }
        }
    }

    /// Gives the entry its own name.
    ///
    /// With [`Decision::Create`] nothing is overwritten, not even what appeared since. With [`Decision::Replace`] a directory
    /// in the way is removed with all that is in it, and an immutable file is made mutable first.
    pub(super) fn place(mut self, name: &[u8], decision: Decision) -> Result<()> {
        let dir = self.dir.clone();
        let fd = dir.fd().expect("a temporary stands in an open directory");
        let renamed = match decision {
            Decision::Create => rename_to_free(fd, &self.name, name),
            _ => {
                let is_dir =
                    stat_at(fd, name).ok().flatten().is_some_and(|stat| file_type(&stat) == FileType::Directory);
                if is_dir {
                    dir.remove(name)?;
                }
                match rustix::fs::renameat(fd, &self.name, fd, name) {
                    Err(Errno::PERM) if thaw_at(fd, name) => rustix::fs::renameat(fd, &self.name, fd, name),
                    result => result,
                }
            }
        };
        renamed.map_err(|errno| dir.error("give it its name", name, errno))?;
        self.is_placed = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let (false, Some(fd)) = (self.is_placed, self.dir.fd()) {
            let _ = rustix::fs::unlinkat(fd, &self.name, AtFlags::empty());
        }
    }
}

/// Renames unless `to` exists; atomic where the file system can.
fn rename_to_free(dir: BorrowedFd<'_>, from: &[u8], to: &[u8]) -> rustix::io::Result<()> {
    match rustix::fs::renameat_with(dir, from, dir, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => match stat_at(dir, to)? {
            Some(_) => Err(Errno::EXIST),
            None => rustix::fs::renameat(dir, from, dir, to),
        },
        result => result,
    }
}

impl TargetDir {
    /// Removes what interrupted runs left in this directory under temporary names.
    ///
    /// A file that a running process writes is locked and stays. What cannot be removed stays as well: it is in nobody's way.
    pub(super) fn remove_leftovers(&self) {
        let Some(fd) = self.fd().filter(|_| !self.shared().options.dry_run) else { return };
        let leftovers = self.entries().unwrap_or_default().into_iter().map(|entry| entry.name);
        for name in leftovers.filter(|name| is_temporary(name) && !self.shared().temporaries.is_own(name)) {
            let file = open_plain(fd, &name);
            let lock = file
                .as_ref()
                .map(|(file, _)| rustix::fs::flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive));
            if !matches!(lock, Ok(Err(Errno::WOULDBLOCK))) {
                let _ = self.remove(&name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_recognised() {
        let temporaries = Temporaries { run: 0xdead_beef, next: AtomicU32::new(10) };
        let name = temporaries.name();
        assert_eq!(name, b".copal-deadbeef0000000a");
        assert!(is_temporary(&name) && temporaries.is_own(&name));
        assert!(is_temporary(b".copal-0000000000000000") && !temporaries.is_own(b".copal-0000000000000000"));
        for other in ["", ".copal-", ".copal-deadbeef", ".copal-DEADBEEF00000000", "copal-deadbeef00000000"] {
            assert!(!is_temporary(other.as_bytes()), "{other}");
        }
    }
}
