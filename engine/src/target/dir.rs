//! Directories of the target: held by descriptor while they are worked in, remembered by name when they are not.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{FileType, IFlags, Mode, OFlags};
use rustix::io::Errno;

use super::attributes::{Compare, apply, apply_frozen, problem, read_back};
use super::existing::{Decision, Kept, decide};
use super::handle::{FROZEN, Inode, Reach, file_type, open_at, open_beneath, open_for_work, stat_at};
use super::remove::{count_tree, names, remove_tree};
use super::{Error, Result, Shared};
use crate::format::node::{Metadata, NodeKind, name_is_valid};
use crate::progress::Problem;

/// Most directories below one another: a path of one-byte names that Linux can still name in one call.
pub const DEPTH_MAX: u32 = 2_048;

/// Where a directory of the target is, without a descriptor: about 100 bytes, cheap to clone.
#[derive(Debug, Clone)]
pub struct DirPath(Option<Arc<Step>>);

#[derive(Debug)]
struct Step {
    parent: DirPath,
    name: Box<[u8]>,
    depth: u32,
    attributes: Attributes,
}

/// What becomes of a directory's own attributes when it is finished.
#[derive(Debug, Clone, Copy)]
enum Attributes {
    /// The snapshot's.
    Restore,
    /// Those that it had: it existed, and what exists is not to be touched.
    Keep { mode: u32, frozen: u32 },
}

impl DirPath {
    fn names(&self) -> Vec<&[u8]> {
        let mut names = Vec::new();
        let mut at = self;
        while let Some(step) = &at.0 {
            names.push(&*step.name);
            at = &step.parent;
        }
        names.reverse();
        names
    }

    fn depth(&self) -> u32 {
        self.0.as_ref().map_or(0, |step| step.depth)
    }

    /// Whether both are the same directory of the same run.
    pub(super) fn is(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (a, b) => a.is_none() && b.is_none(),
        }
    }
}

/// A directory of the target that is held open. Clones share one descriptor.
#[derive(Debug, Clone)]
pub struct TargetDir {
    shared: Arc<Shared>,
    /// `None`: a dry run, and the directory does not exist (or something else that would be replaced by it does).
    fd: Option<Arc<OwnedFd>>,
    path: DirPath,
}

/// One entry that stands in a directory of the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: Vec<u8>,
    /// Whether it is a directory (a link to one is not).
    pub is_dir: bool,
}

impl TargetDir {
    pub(super) fn root_of(shared: &Arc<Shared>) -> Result<Self> {
        Self::reopen(shared, &DirPath(None))
    }

    pub(super) fn reopen(shared: &Arc<Shared>, path: &DirPath) -> Result<Self> {
        let mut dir = Self { shared: shared.clone(), fd: None, path: path.clone() };
        let Some(root) = &shared.root else { return Ok(dir) };
        match open_beneath(root.as_fd(), &path.names()) {
            Ok(fd) => dir.fd = Some(Arc::new(fd)),
            // A dry run made no directories, and opened up none that shut us out.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) if shared.options.dry_run => {}
            Err(errno) => {
                let (path, source) = (dir.path(), errno.into());
                return Err(Error::Io { action: "open the directory again", path, source });
            }
        }
        Ok(dir)
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(|fd| fd.as_fd())
    }

    /// Where it is, to [`super::Target::reopen`] it after it was dropped.
    pub fn dir_path(&self) -> &DirPath {
        &self.path
    }

    /// Its path for messages: names as they were when it was made. Never used to reach it.
    pub fn path(&self) -> PathBuf {
        let mut path = self.shared.base.clone();
        path.extend(self.path.names().into_iter().map(OsStr::from_bytes));
        path
    }

    /// Checks `name` once more, whoever checked it before, and returns the entry's path for messages.
    pub(super) fn checked(&self, name: &[u8]) -> Result<PathBuf> {
        let dir = self.path();
        match name_is_valid(name) {
            true => Ok(dir.join(OsStr::from_bytes(name))),
            false => Err(Error::Name { dir, name: name.to_vec() }),
        }
    }

    pub(super) fn error(&self, action: &'static str, name: &[u8], errno: Errno) -> Error {
        Error::Io { action, path: self.path().join(OsStr::from_bytes(name)), source: errno.into() }
    }

    /// Makes the directory `name`, or enters the one that exists; whatever else stands there is replaced or kept by the policy.
    ///
    /// A new directory is accessible to us only (0700) until it is finished; an existing one is opened up for us. Attributes of
    /// one that the policy keeps come back at [`TargetDir::finish`]. [`Error::Kept`] if something else stands there that must
    /// stay; [`Error::Deep`] below [`DEPTH_MAX`].
    pub fn make_dir(&self, name: &[u8], metadata: &Metadata) -> Result<Self> {
        assert_eq!(metadata.kind, NodeKind::Dir, "only directories are made as such");
        let path = self.checked(name)?;
        if self.path.depth() >= DEPTH_MAX {
            return Err(Error::Deep { path });
        }
        let decision = decide(self, name, metadata, self.shared.options.overwrite)?;
        let (fd, attributes) = match decision {
            Decision::Create | Decision::Replace => self.create(name, decision)?,
            Decision::UpdateMetadataOnly => self.enter(name, None)?,
            Decision::Keep(reason) => self.enter(name, Some(reason))?,
        };
        let step = Step { parent: self.path.clone(), name: name.into(), depth: self.path.depth() + 1, attributes };
        let path = DirPath(Some(Arc::new(step)));
        let dir = Self { shared: self.shared.clone(), fd: fd.map(Arc::new), path };
        if !matches!(decision, Decision::Create | Decision::Replace) {
            dir.remove_leftovers();
        }
        Ok(dir)
    }

    fn create(&self, name: &[u8], decision: Decision) -> Result<(Option<OwnedFd>, Attributes)> {
        let (Some(fd), false) = (self.fd(), self.shared.options.dry_run) else {
            return Ok((None, Attributes::Restore));
        };
        if decision == Decision::Replace {
            self.remove(name)?;
        }
        let made = rustix::fs::mkdirat(fd, name, Mode::RWXU).and_then(|()| open_for_work(fd, name));
        let (opened, stat, _) = made.map_err(|errno| self.error("make the directory", name, errno))?;
        // Somebody may have put a directory of theirs in its place, to read what we restore into it. (65534 is what a network
        // file system makes of root.)
        let is_own = stat.st_uid == rustix::process::geteuid().as_raw() || stat.st_uid == 65_534;
        if !is_own || stat.st_mode & 0o077 != 0 {
            return Err(Error::Swapped { path: self.checked(name)? });
        }
        Ok((Some(opened), Attributes::Restore))
    }

    fn enter(&self, name: &[u8], kept: Option<Kept>) -> Result<(Option<OwnedFd>, Attributes)> {
        let fd = self.fd().expect("something was found in it");
        let opened = match self.shared.options.dry_run {
            true => open_at(fd, name, OFlags::RDONLY | OFlags::DIRECTORY).map(|fd| (Some(fd), Attributes::Restore)),
            false => open_for_work(fd, name).map(|(fd, stat, frozen)| {
                let keep = Attributes::Keep { mode: stat.st_mode & 0o7777, frozen };
                (Some(fd), if kept.is_some() { keep } else { Attributes::Restore })
            }),
        };
        match (opened, kept) {
            // It would be opened up; what is in it cannot be seen until then.
            (Err(Errno::ACCESS), _) if self.shared.options.dry_run => Ok((None, Attributes::Restore)),
            (Err(Errno::NOTDIR | Errno::LOOP), Some(reason)) => Err(Error::Kept { path: self.checked(name)?, reason }),
            (opened, _) => opened.map_err(|errno| self.error("open the directory", name, errno)),
        }
    }

    /// Enters the directory `name` that exists and is in no snapshot, to remove things in it. [`TargetDir::put_back`] gives
    /// it the mode and flags again that it had; in a dry run it is entered as it is.
    pub fn enter_existing(&self, name: &[u8]) -> Result<Self> {
        let path = self.checked(name)?;
        if self.path.depth() >= DEPTH_MAX {
            return Err(Error::Deep { path });
        }
        let (fd, attributes) = self.enter(name, Some(Kept::Exists))?;
        let step = Step { parent: self.path.clone(), name: name.into(), depth: self.path.depth() + 1, attributes };
        Ok(Self { shared: self.shared.clone(), fd: fd.map(Arc::new), path: DirPath(Some(Arc::new(step))) })
    }

    /// Everything that stands in it, in no order; empty for a directory that a dry run did not make.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let Some(fd) = self.fd() else { return Ok(Vec::new()) };
        let read = names(fd).and_then(|names| names.into_iter().map(|(name, kind)| entry(fd, name, kind)).collect());
        read.map_err(|errno| Error::Io { action: "read the directory", path: self.path(), source: errno.into() })
    }

    /// Removes `name` and everything below it, and returns how many entries that were (in a dry run: would be).
    ///
    /// Links are removed, not followed; read-only and immutable things are removed; mount points are not (`EXDEV`). Stops at
    /// the first entry that cannot be removed.
    pub fn remove(&self, name: &[u8]) -> Result<u64> {
        self.checked(name)?;
        let Some(fd) = self.fd() else { return Ok(0) };
        let removed = match self.shared.options.dry_run {
            true => count_tree(fd, name),
            false => remove_tree(fd, name, &self.shared.temporaries),
        };
        removed.map_err(|errno| self.error("remove it and what is in it", name, errno))
    }

    /// Gives the directory its attributes and lists those that did not stick. Nothing may change in it any more.
    pub fn finish(self, metadata: &Metadata) -> Vec<Problem> {
        let (Some(fd), false) = (self.fd(), self.shared.options.dry_run) else { return Vec::new() };
        if matches!(self.path.0.as_ref().map(|step| step.attributes), Some(Attributes::Keep { .. })) {
            return self.put_back();
        }
        let inode = Inode { fd, reach: Reach::Open, is_symlink: false, is_dir: true };
        let mut applied = apply(&inode, metadata, &self.shared);
        apply_frozen(&inode, metadata, &mut applied);
        read_back(&inode, metadata, &self.shared, &applied, Compare::All, &self.path())
    }

    /// Gives a directory whose attributes stay the mode and flags again that it had before it was opened up for us.
    pub fn put_back(&self) -> Vec<Problem> {
        let (Some(fd), false) = (self.fd(), self.shared.options.dry_run) else { return Vec::new() };
        let Some(Attributes::Keep { mode, frozen }) = self.path.0.as_ref().map(|step| step.attributes) else {
            return Vec::new();
        };
        let mut done = match rustix::fs::fstat(fd) {
            Ok(stat) if stat.st_mode & 0o7777 == mode => Ok(()),
            _ => rustix::fs::fchmod(fd, Mode::from_raw_mode(mode)),
        };
        if frozen & FROZEN != 0 {
            let flags = rustix::fs::ioctl_getflags(fd);
            let flags = flags.map(|flags| IFlags::from_bits_retain(flags.bits() | frozen));
            done = done.and(flags.and_then(|flags| rustix::fs::ioctl_setflags(fd, flags)));
        }
        let message = |errno| format!("mode and flags that it had before cannot be set again: {errno}");
        done.err().map(|errno| problem(&self.path(), message(errno))).into_iter().collect()
    }
}

fn entry(dir: BorrowedFd<'_>, name: Vec<u8>, kind: FileType) -> rustix::io::Result<Entry> {
    let kind = match kind {
        FileType::Unknown => stat_at(dir, &name)?.map_or(kind, |stat| file_type(&stat)),
        kind => kind,
    };
    Ok(Entry { name, is_dir: kind == FileType::Directory })
}
