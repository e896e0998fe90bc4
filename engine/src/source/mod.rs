//! The Linux source of a backup: reads directory trees by descriptors, so that nobody who changes the tree meanwhile can
//! lead the reader out of it.
//!
//! # Expected flow
//! [`Root::open`] a path, then for each directory [`Dir::names`], per name [`Dir::stat`], and from there
//! [`Dir::open_dir`] or [`Dir::open_file`] and [`Dir::metadata`] (or [`Dir::metadata_of`] of what is open already).
//! After the bytes of a file are read, [`File::check_unchanged`] tells whether they belong to one state of it.
//! Excludes ([`exclude`], [`pattern`]) are asked by the walk; nothing here leaves anything out by itself.
//!
//! # Guarantees
//! - Only the path given to [`Root::open`] is resolved as a path. Below it every step is one name in an open directory,
//!   and what was opened must be what was stated (type, device, inode), else the error is [`is_replaced`].
//! - No symlink is followed below the root. FIFOs, sockets and devices are never opened for reading: a file is pinned
//!   with `O_PATH` and opened only once its type is known.
//! - Access times stay as they are where the kernel allows it (owner or `CAP_FOWNER`).
//! - User files are never mapped: truncation would kill the process.
//!
//! # Caveats
//! - A listing is not a snapshot: names may vanish (`NotFound`) or be replaced between the calls. Stating the name again
//!   and trying once more is the caller's choice.
//! - A [`Dir`] holds a descriptor. A walk that keeps all ancestors open needs as many as the tree is deep, times its
//!   threads: see [`raise_open_files_limit`].
//! - Reads no clock, no environment; prints nothing. `/proc` should be mounted: without it extended attributes of
//!   symlinks and special files are reported as unread, and files are opened with `O_NONBLOCK` and checked after it.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;

use crate::format::node::Timestamp;

mod attributes;
mod dir;
pub mod exclude;
mod file;
pub mod files_from;
mod glob;
mod names;
mod owners;
pub mod pattern;
mod stat;
#[cfg(test)]
mod tests;

pub use attributes::Note;
pub use dir::Dir;
pub use file::{Change, Extents, File};
pub use names::{Names, Rejected, RejectedWhy};
pub use stat::{Kind, Stat};

/// How to read a source.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Stay on the mount of each root: [`Dir::open_dir`] answers `CrossesDevices` for a directory on another one, and the
    /// walk stores that as an empty directory.
    pub one_file_system: bool,
    /// Inode numbers and ctimes are a copy's own (clones of volumes, FUSE without stable numbers): they are neither
    /// compared nor stored, nor are birth times, but for the identity of files with several names.
    pub ignore_inode: bool,
    /// ctimes are not compared (they are stored).
    pub ignore_ctime: bool,
    /// When the backup began, for [`Stat::is_settled`]; no clock is read here.
    pub now: Timestamp,
}

/// A path to back up, opened.
#[derive(Debug)]
pub struct Root {
    target: Target,
    shared: Arc<Shared>,
}

/// What a [`Root`] is.
#[derive(Debug)]
pub enum Target {
    /// A directory.
    Dir {
        /// It, open.
        dir: Dir,
        /// What it was when it was opened.
        stat: Stat,
    },
    /// Anything else.
    Entry {
        /// The directory that holds it.
        parent: Dir,
        /// Its name there.
        name: Vec<u8>,
        /// What it was when it was looked at.
        stat: Stat,
    },
}

/// A root that cannot be read.
#[derive(Debug, Error)]
#[error("cannot open {}", path.display())]
pub struct OpenError {
    /// As it was given.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl Root {
    /// Opens `path`, relative to the working directory if it is relative.
    ///
    /// Symlinks on the way are followed: the path is the user's word. One at its end is not (it is an entry to back up
    /// itself), unless a `/` or `/.` follows it.
    pub fn open(path: &Path, options: &Options) -> Result<Self, OpenError> {
        let shared = Arc::new(Shared::new(*options));
        let target = open_target(path, &shared).map_err(|source| OpenError { path: path.to_owned(), source })?;
        Ok(Self { target, shared })
    }

    /// What it is.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// How many directories and files on other mounts were refused so far because of [`Options::one_file_system`].
    pub fn mounts_skipped(&self) -> u64 {
        self.shared.mounts_skipped.load(Ordering::Relaxed)
    }
}

fn open_target(path: &Path, shared: &Arc<Shared>) -> io::Result<Target> {
    let Some((parent, name)) = split_last(path) else {
        let (dir, stat) = Dir::open_root(path, OFlags::empty(), shared)?;
        return Ok(Target::Dir { dir, stat });
    };
    match Dir::open_root(path, OFlags::NOFOLLOW, shared) {
        Ok((dir, stat)) => Ok(Target::Dir { dir, stat }),
        Err(e) if matches!(errno(&e), Some(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP)) => {
            let parent = Dir::open_parent(parent, shared)?;
            let stat = parent.stat(name)?;
            Ok(Target::Entry { parent, name: name.to_vec(), stat })
        }
        Err(e) => Err(e),
    }
}

/// The directory part and the last name; none where the path ends in `/`, `.` or `..` and so means a directory.
fn split_last(path: &Path) -> Option<(&Path, &[u8])> {
    let bytes = path.as_os_str().as_bytes();
    let (parent, name) = match bytes.iter().rposition(|&b| b == b'/') {
        Some(0) => (b"/".as_slice(), &bytes[1..]),
        Some(slash) => (&bytes[..slash], &bytes[slash + 1..]),
        None => (b".".as_slice(), bytes),
    };
    let is_dir = name.is_empty() || name == b"." || name == b"..";
    (!is_dir).then(|| (Path::new(OsStr::from_bytes(parent)), name))
}

/// What all descriptors of one root have in common.
#[derive(Debug)]
struct Shared {
    options: Options,
    owners: owners::Owners,
    euid: u32,
    /// `/proc/self/fd`, if it really is that.
    proc_fds: Option<OwnedFd>,
    /// False once openat2 was found missing (before Linux 5.6, gVisor).
    has_openat2: AtomicBool,
    mounts_skipped: AtomicU64,
}

impl Shared {
    fn new(options: Options) -> Self {
        Self {
            options,
            owners: owners::Owners::of_this_machine(),
            euid: rustix::process::geteuid().as_raw(),
            proc_fds: open_proc_fds(),
            has_openat2: AtomicBool::new(true),
            mounts_skipped: AtomicU64::new(0),
        }
    }
}

/// None where /proc is missing or something else was put in its place.
fn open_proc_fds() -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fds = openat(CWD, c"/proc/self/fd", flags, Mode::empty()).ok()?;
    let is_proc = rustix::fs::fstatfs(&fds).is_ok_and(|fs| fs.f_type == 0x9fa0 /* PROC_SUPER_MAGIC */);
    is_proc.then_some(fds)
}

/// The entry is not what it was when it was stated: another took its name in between.
#[derive(Debug, Error)]
#[error("was replaced while it was read")]
struct Replaced;

fn replaced() -> io::Error {
    io::Error::other(Replaced)
}

/// Whether the error says that another entry took the name between [`Dir::stat`] and opening it.
pub fn is_replaced(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Replaced>())
}

/// Whether the error says that the entry lies on another mount and [`Options::one_file_system`] keeps it out.
pub fn is_other_mount(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::CrossesDevices
}

fn errno(error: &io::Error) -> Option<rustix::io::Errno> {
    rustix::io::Errno::from_io_error(error)
}

/// Lets this process hold as many open files as its hard limit allows, and returns that number.
///
/// The usual soft limit is 1024, which a deep tree read by several threads can exceed. A front end calls this once at its
/// start; `None` means no limit.
pub fn raise_open_files_limit() -> io::Result<Option<u64>> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(limit.maximum)
}
