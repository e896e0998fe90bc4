//! Every attribute of an entry: from its stat, its descriptor and the account files into [`Metadata`].

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{fgetxattr, flistxattr, getxattr, ioctl_getflags, listxattr};
use rustix::io::Errno;

use super::{Kind, Shared, Stat};
use crate::format::node::{
    ACL_COPIES, FLAGS_STORED, HardLink, Metadata, NodeKind, Timestamp, XATTR_BYTES_MAX, XATTRS_MAX, Xattr,
};
use crate::progress::ProblemKind;
use crate::sys;

/// Something about an entry that could not be read; its path is the caller's to add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Which class.
    pub kind: ProblemKind,
    /// What happened.
    pub message: String,
}

impl Note {
    pub(super) fn attribute(message: String) -> Self {
        Self { kind: ProblemKind::Attribute, message }
    }
}

/// By what the attributes are reached.
#[derive(Clone, Copy)]
pub(super) enum Handle<'a> {
    /// Open for reading: a file or a directory.
    Open(BorrowedFd<'a>),
    /// Open with `O_PATH`: anything. Its attributes are reached through /proc/self/fd, which leads to the entry itself,
    /// a symlink included, and never through it.
    Path(BorrowedFd<'a>),
}

/// Builds the metadata; `link` is the target of a symlink, else unused.
pub(super) fn describe(shared: &Shared, handle: Handle, stat: &Stat, link: Vec<u8>) -> (Metadata, Vec<Note>) {
    let mut notes = Vec::new();
    let xattrs = xattrs(shared, handle, &mut notes);
    let (flags, project) = match handle {
        Handle::Open(fd) => (flags(fd, &mut notes), project(fd, &mut notes)),
        Handle::Path(_) => (0, 0),
    };
    let ignore_inode = shared.options.ignore_inode;
    let metadata = Metadata {
        kind: node_kind(stat, link),
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        user: shared.owners.user(stat.uid),
        group: shared.owners.group(stat.gid),
        mtime: stat.mtime,
        atime: stat.atime,
        ctime: if ignore_inode { Timestamp::default() } else { stat.ctime },
        btime: stat.btime.filter(|_| !ignore_inode),
        inode: (!ignore_inode).then_some(stat.ino),
        hardlink: hardlink(stat),
        xattrs,
        flags,
        project,
    };
    (metadata, notes)
}

fn node_kind(stat: &Stat, target: Vec<u8>) -> NodeKind {
    match stat.kind {
        Kind::File => NodeKind::File { size: stat.size },
        Kind::Dir => NodeKind::Dir,
        Kind::Symlink => NodeKind::Symlink { target },
        Kind::Fifo => NodeKind::Fifo,
        Kind::Socket => NodeKind::Socket,
        Kind::Char => NodeKind::CharDevice { rdev: stat.rdev },
        Kind::Block => NodeKind::BlockDevice { rdev: stat.rdev },
    }
}

fn hardlink(stat: &Stat) -> Option<HardLink> {
    let several = stat.nlink > 1 && stat.kind != Kind::Dir;
    several.then_some(HardLink { dev: stat.dev, ino: stat.ino, nlink: stat.nlink })
}

fn flags(fd: BorrowedFd, notes: &mut Vec<Note>) -> u32 {
    match ioctl_getflags(fd) {
        Ok(flags) => flags.bits() & FLAGS_STORED,
        Err(e) if has_no_such_thing(e) => 0,
        Err(e) => {
            notes.push(Note::attribute(format!("chattr flags could not be read: {}", io::Error::from(e))));
            0
        }
    }
}

fn project(fd: BorrowedFd, notes: &mut Vec<Note>) -> u32 {
    match sys::project_id(fd) {
        Ok(id) => id,
        Err(e) if super::errno(&e).is_some_and(has_no_such_thing) => 0,
        Err(e) => {
            notes.push(Note::attribute(format!("project id could not be read: {e}")));
            0
        }
    }
}

/// What file systems answer to a call that they do not have; some FUSE ones add their own.
fn has_no_such_thing(e: Errno) -> bool {
    matches!(e, Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS)
}

/// All extended attributes that this process may see, sorted by name. The kernel hides `trusted.*` from all but root.
fn xattrs(shared: &Shared, handle: Handle, notes: &mut Vec<Note>) -> Vec<Xattr> {
    let reader = match handle {
        Handle::Open(fd) => Reader::Fd(fd),
        Handle::Path(fd) if shared.proc_fds.is_some() => Reader::Path(format!("/proc/self/fd/{}", fd.as_raw_fd())),
        Handle::Path(_) => {
            notes.push(Note::attribute("extended attributes could not be read: /proc is not mounted".to_owned()));
            return Vec::new();
        }
    };
    let list = match reader.list() {
        Ok(list) => list,
        Err(e) if has_no_such_thing(e) => return Vec::new(),
        Err(e) => {
            let message = format!("extended attributes could not be listed: {}", io::Error::from(e));
            notes.push(Note::attribute(message));
            return Vec::new();
        }
    };
    let mut names: Vec<&[u8]> = list.split(|&b| b == 0).filter(|name| !name.is_empty()).collect();
    names.sort_unstable();
    names.dedup();
    leave_out_copies(&mut names);
    if names.len() > XATTRS_MAX {
        let message = format!("has {} extended attributes; {XATTRS_MAX} are stored", names.len());
        notes.push(Note { kind: ProblemKind::Skipped, message });
        names.truncate(XATTRS_MAX);
    }
    names.into_iter().filter_map(|name| value(&reader, name, notes)).collect()
}

/// XFS shows root each access list twice: as all file systems do, and in the form that it keeps on disk.
fn leave_out_copies(names: &mut Vec<&[u8]>) {
    for (list, copy) in ACL_COPIES {
        if names.binary_search(&list).is_ok() {
            names.retain(|name| *name != copy);
        }
    }
}

fn value(reader: &Reader, name: &[u8], notes: &mut Vec<Note>) -> Option<Xattr> {
    match reader.get(name) {
        Ok(value) => Some(Xattr { name: name.to_vec(), value }),
        // Removed since it was listed.
        Err(Errno::NODATA) => None,
        Err(e) => {
            let (name, e) = (name.escape_ascii(), io::Error::from(e));
            notes.push(Note::attribute(format!("extended attribute {name} could not be read: {e}")));
            None
        }
    }
}

/// Reads extended attributes by descriptor or by the name of one.
enum Reader<'a> {
    Fd(BorrowedFd<'a>),
    Path(String),
}

impl Reader<'_> {
    fn list(&self) -> rustix::io::Result<Vec<u8>> {
        growing(|buf| match self {
            Self::Fd(fd) => flistxattr(fd, buf),
            Self::Path(path) => listxattr(path.as_str(), buf),
        })
    }

    fn get(&self, name: &[u8]) -> rustix::io::Result<Vec<u8>> {
        growing(|buf| match self {
            Self::Fd(fd) => fgetxattr(fd, name, buf),
            Self::Path(path) => getxattr(path.as_str(), name, buf),
        })
    }
}

/// Tries with a small buffer, then with the largest that Linux ever needs (names and values have the same limit).
fn growing(read: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut small = [0; 512];
    match read(&mut small) {
        Ok(len) => Ok(small[..len].to_vec()),
        Err(Errno::RANGE) => {
            let mut large = vec![0; XATTR_BYTES_MAX];
            let len = read(&mut large)?;
            large.truncate(len);
            large.shrink_to_fit();
            Ok(large)
        }
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_left_out_only_beside_its_list() {
        let mut both: Vec<&[u8]> = vec![b"system.posix_acl_access", b"trusted.SGI_ACL_FILE", b"user.x"];
        leave_out_copies(&mut both);
        assert_eq!(both, [&b"system.posix_acl_access"[..], b"user.x"]);
        let mut alone: Vec<&[u8]> = vec![b"system.posix_acl_access", b"trusted.SGI_ACL_DEFAULT"];
        leave_out_copies(&mut alone);
        assert_eq!(alone.len(), 2);
    }
}
