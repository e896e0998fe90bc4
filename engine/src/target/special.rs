//! Entries without bytes of their own: symbolic links, pipes, sockets, devices; and entries whose bytes are already right.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::attributes::{Compare, apply, apply_frozen};
use super::dir::TargetDir;
use super::existing::{Decision, wanted_type};
use super::handle::{Inode, Reach, file_type, is_same, open_at, open_plain, thaw};
use super::place::Temporary;
use super::{Error, Finished, Result};
use crate::format::node::{Metadata, NodeKind};

impl TargetDir {
    /// Makes the symbolic link `name`, which [`super::decide`] said to create or replace.
    pub fn symlink(&self, name: &[u8], metadata: &Metadata, decision: Decision) -> Result<Finished> {
        let NodeKind::Symlink { target } = &metadata.kind else { panic!("only symbolic links point somewhere") };
        self.make(name, metadata, decision, "make the symbolic link", |dir, name| {
            rustix::fs::symlinkat(target, dir, name)
        })
    }

    /// Makes the pipe, socket or device `name`, which [`super::decide`] said to create or replace.
    pub fn special(&self, name: &[u8], metadata: &Metadata, decision: Decision) -> Result<Finished> {
        let rdev = match metadata.kind {
            NodeKind::Fifo | NodeKind::Socket => 0,
            NodeKind::CharDevice { rdev } | NodeKind::BlockDevice { rdev } => rdev,
            _ => panic!("only pipes, sockets and devices are special"),
        };
        let kind = wanted_type(&metadata.kind);
        self.make(name, metadata, decision, "make the special file", |dir, name| {
            rustix::fs::mknodat(dir, name, kind, Mode::RUSR | Mode::WUSR, rdev)
        })
    }

    fn make(
        &self,
        name: &[u8],
        metadata: &Metadata,
        decision: Decision,
        action: &'static str,
        mut create: impl FnMut(std::os::fd::BorrowedFd<'_>, &[u8]) -> rustix::io::Result<()>,
    ) -> Result<Finished> {
        assert!(matches!(decision, Decision::Create | Decision::Replace), "what is kept is not made");
        let path = self.checked(name)?;
        let made = Temporary::make(self, action, name, |dir, name| {
            create(dir, name)?;
            open_at(dir, name, OFlags::PATH)
        })?;
        let Some((temporary, fd)) = made else { return Ok(Finished::dry(self, name)) };
        let stat = rustix::fs::fstat(&fd).map_err(|errno| self.error(action, name, errno))?;
        // What was made is held only now. Had somebody put another inode in its place, its owner and mode would be set.
        let is_device_as_made = match metadata.kind {
            NodeKind::CharDevice { rdev } | NodeKind::BlockDevice { rdev } => stat.st_rdev == rdev,
            _ => true,
        };
        if file_type(&stat) != wanted_type(&metadata.kind) || stat.st_nlink != 1 || !is_device_as_made {
            return Err(Error::Swapped { path });
        }
        let is_symlink = file_type(&stat) == FileType::Symlink;
        let inode = Inode { fd: fd.as_fd(), reach: Reach::PathOnly, is_symlink, is_dir: false };
        let applied = apply(&inode, metadata, self.shared());
        temporary.place(name, decision)?;
        Finished::read_back(self, name, &inode, metadata, &applied, Compare::All)
    }

    /// Brings the attributes of the existing `name` to the snapshot's, as [`Decision::UpdateMetadataOnly`] says.
    ///
    /// [`Error::Swapped`] if it is no longer what was decided on. Not for directories: [`TargetDir::make_dir`] enters them.
    pub fn update(&self, name: &[u8], metadata: &Metadata) -> Result<Finished> {
        let path = self.checked(name)?;
        let (Some(dir), false) = (self.fd(), self.shared().options.dry_run) else {
            return Ok(Finished::dry(self, name));
        };
        let held = open_at(dir, name, OFlags::PATH).map_err(|errno| self.error("open it", name, errno))?;
        let stat = rustix::fs::fstat(&held).map_err(|errno| self.error("look at it", name, errno))?;
        if file_type(&stat) != wanted_type(&metadata.kind) || stat.st_nlink != 1 {
            return Err(Error::Swapped { path });
        }
        let (fd, reach) = match file_type(&stat) {
            FileType::RegularFile => self.open_file(name, held, &stat)?,
            _ => (held, Reach::PathOnly),
        };
        let is_symlink = file_type(&stat) == FileType::Symlink;
        let inode = Inode { fd: fd.as_fd(), reach, is_symlink, is_dir: false };
        if reach == Reach::Open {
            thaw(inode.fd);
        }
        let mut applied = apply(&inode, metadata, self.shared());
        apply_frozen(&inode, metadata, &mut applied);
        Finished::read_back(self, name, &inode, metadata, &applied, Compare::All)
    }

    /// Opens a regular file for attributes; one that shuts us out is reached by path, which does for all but chattr flags.
    fn open_file(&self, name: &[u8], held: OwnedFd, stat: &rustix::fs::Stat) -> Result<(OwnedFd, Reach)> {
        let dir = self.fd().expect("the file was opened in it");
        match open_plain(dir, name) {
            Ok((fd, opened)) if is_same(&opened, stat) => Ok((fd, Reach::Open)),
            Ok(_) | Err(Errno::INVAL) => Err(Error::Swapped { path: self.checked(name)? }),
            Err(Errno::ACCESS) => Ok((held, Reach::PathOnly)),
            Err(errno) => Err(self.error("open it", name, errno)),
        }
    }
}
