//! Writes a restored tree: directories, files, links and special files, with every attribute that the target can hold.
//!
//! Knows nothing of repositories: a restore drives it with entries ([`Metadata`]) and bytes, from several threads.
//!
//! **Expected flow**
//! 1. [`Target::open`]; per directory of the snapshot [`TargetDir::make_dir`], parents first.
//! 2. Per entry [`decide`], and then by the decision: nothing, [`TargetDir::update`], or make it: [`TargetDir::begin_file`]
//!    with any number of [`TargetFile::write_at`] in any order and from any thread, then [`TargetFile::finish`];
//!    [`TargetDir::symlink`]; [`TargetDir::special`]. Names that share one file go through [`Links`] first.
//! 3. [`Links::finish`], then [`TargetDir::finish`] for every directory, children before parents. A directory's own times and
//!    a mode that shuts us out are set only there, so nothing may be created, linked or removed in it afterwards.
//!
//! **Guarantees**
//! - Nothing outside the target is written, whatever the snapshot says and whatever others do to the tree meanwhile. Every
//!   access is one checked name below a directory that is held open, and never follows a symbolic link. Existing files with
//!   other names elsewhere (hard links) are replaced, never changed in place.
//! - No file stands under its own name before all of its bytes and attributes are there: it grows under a temporary name
//!   `.copal-<16 hex digits>` and is renamed. An existing file stays until then. Leftovers of an interrupted run are removed
//!   when the next run enters their directory; those that a running process still writes are locked, and stay.
//! - Whatever did not stick is told as a [`Problem`]: attributes are read back after they were set. Birth and change
//!   times cannot be set at all and are not told.
//! - setuid, setgid and file capabilities are never set on a file whose owner or group did not stick.
//! - With [`Options::dry_run`] nothing changes, and every decision is the same.
//!
//! **Assumptions**: `/proc` is mounted (attributes of symbolic links and special files, hard links); one thread at a time works
//! on one name. A directory that somebody moves away while it is restored is filled where it then stands.
//!
//! **Costs**: one file descriptor per [`TargetFile`] and per [`TargetDir`] that is alive (clones share it). A [`DirPath`] holds
//! none: of a million directories keep the paths, about 100 bytes each, and [`Target::reopen`] them to finish.

mod attributes;
mod dir;
mod existing;
mod file;
mod handle;
mod ioctl;
mod links;
mod owners;
mod place;
mod remove;
mod special;
mod xattr;

#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use self::attributes::{Applied, Compare, verify};
use self::handle::Inode;
use crate::format::node::Metadata;
use crate::progress::{Problem, ProblemKind};

pub use dir::{DEPTH_MAX, DirPath, Entry, TargetDir};
pub use existing::{Decision, Kept, decide};
pub use file::TargetFile;
pub use links::{Claim, LinkSource, Links, Pending, Settled};
pub use owners::Names;

/// What to do with what already stands at the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Overwrite {
    /// Everything is written anew.
    #[default]
    Always,
    /// Bytes are kept where kind, size and modification time agree; attributes are set to the snapshot's.
    IfChanged,
    /// Only what is older than the snapshot's is written.
    IfNewer,
    /// Nothing that exists is touched.
    Never,
}

/// How to restore.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What to do with what already stands there.
    pub overwrite: Overwrite,
    /// Change nothing, decide everything.
    pub dry_run: bool,
    /// Leave owner and group as whoever runs this gets them.
    pub no_owner: bool,
    /// Use the stored numbers, even where this machine knows the stored names under other numbers.
    pub numeric_owner: bool,
    /// Leave out character and block devices.
    pub no_devices: bool,
    /// Leave out setuid and setgid bits and capabilities of files. (setgid of a directory is no privilege and stays.)
    pub no_setuid: bool,
    /// Extended attributes to leave out and to leave alone: patterns on the full name, `*` any bytes, `?` one byte.
    pub exclude_xattr: Vec<Vec<u8>>,
    /// Also leave a hole where 4 KiB of zeros were stored.
    pub sparse: bool,
}

/// Why something could not be restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("{}: cannot {action}", path.display())]
    Io {
        /// What was tried: an infinitive and its object.
        action: &'static str,
        /// On which entry.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// No name of a directory entry: empty, too long, `.`, `..`, or with `/` or NUL. Never from an honest snapshot.
    #[error("{}: {:?} is no valid name", dir.display(), OsStr::from_bytes(name))]
    Name {
        /// Where it was to stand.
        dir: PathBuf,
        /// The name.
        name: Vec<u8>,
    },
    /// More than [`DEPTH_MAX`] directories deep.
    #[error("{}: more than {DEPTH_MAX} directories deep", path.display())]
    Deep {
        /// Which directory.
        path: PathBuf,
    },
    /// Something else stands where a directory should be, and may not be replaced: what is below is left out.
    #[error("{}: {reason}", path.display())]
    Kept {
        /// Which entry.
        path: PathBuf,
        /// Why.
        reason: Kept,
    },
    /// Not what was made or looked at a moment ago: somebody else works in the target. Nothing was done to it.
    #[error("{}: replaced by somebody else while it was being restored", path.display())]
    Swapped {
        /// Which entry.
        path: PathBuf,
    },
    /// Bytes beyond the size that the snapshot states. Never from an honest snapshot.
    #[error("{}: {len} bytes at {offset} lie beyond the size of {size} bytes", path.display())]
    Beyond {
        /// Which file.
        path: PathBuf,
        /// First byte.
        offset: u64,
        /// How many.
        len: u64,
        /// Size of the file.
        size: u64,
    },
}

/// Outcome of an operation on the target.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The entry that it is about.
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Io { path, .. } | Self::Deep { path } | Self::Kept { path, .. } => path.clone(),
            Self::Swapped { path } | Self::Beyond { path, .. } => path.clone(),
            Self::Name { dir, name } => dir.join(OsStr::from_bytes(name)),
        }
    }

    /// The same as a problem, for a restore that goes on with the other entries.
    pub fn problem(&self) -> Problem {
        let kind = match self {
            Self::Io { .. } | Self::Swapped { .. } => ProblemKind::Unwritable,
            Self::Name { .. } | Self::Deep { .. } | Self::Kept { .. } => ProblemKind::Skipped,
            Self::Beyond { .. } => ProblemKind::Damaged,
        };
        let path = self.path();
        let message = match self {
            Self::Io { action, source, .. } => format!("cannot {action}: {source}"),
            Self::Name { .. } => "its name is no valid name of a directory entry".to_owned(),
            Self::Deep { .. } => format!("more than {DEPTH_MAX} directories deep"),
            Self::Kept { reason, .. } => reason.to_string(),
            Self::Swapped { .. } => {
                "replaced by somebody else while it was being restored; restore it again".to_owned()
            }
            Self::Beyond { offset, len, size, .. } => {
                format!("{len} bytes at {offset} lie beyond its size of {size} bytes")
            }
        };
        Problem { kind, path, message }
    }

    /// Whether the operating system said `errno`.
    pub(crate) fn is(&self, errno: rustix::io::Errno) -> bool {
        matches!(self, Self::Io { source, .. } if source.raw_os_error() == Some(errno.raw_os_error()))
    }
}

/// What an entry that was made or updated came to.
#[derive(Debug)]
pub struct Finished {
    /// Each attribute that did not stick.
    pub problems: Vec<Problem>,
    /// Where it stands: further names of the same file are linked to it ([`Links::done`]).
    pub source: LinkSource,
}

impl Finished {
    /// What a dry run finishes.
    fn dry(dir: &TargetDir, name: &[u8]) -> Self {
        Self { problems: Vec::new(), source: LinkSource::dry(dir, name) }
    }

    /// Looks at what stands at `name` in `dir` after all was set.
    fn read_back(
        dir: &TargetDir,
        name: &[u8],
        inode: &Inode<'_>,
        metadata: &Metadata,
        applied: &Applied,
        compare: Compare,
    ) -> Result<Self> {
        let stat = rustix::fs::fstat(inode.fd).map_err(|errno| dir.error("read its attributes back", name, errno))?;
        let problems = verify(inode, &stat, metadata, dir.shared(), applied, compare, &dir.checked(name)?);
        Ok(Self { problems, source: LinkSource::new(dir, name, &stat, metadata) })
    }
}

/// What everything below one target shares.
#[derive(Debug)]
pub(crate) struct Shared {
    options: Options,
    names: Names,
    base: PathBuf,
    /// `None`: a dry run into a directory that does not exist.
    root: Option<OwnedFd>,
    temporaries: place::Temporaries,
}

/// A directory into which a tree is restored.
#[derive(Debug, Clone)]
pub struct Target {
    shared: Arc<Shared>,
    root: TargetDir,
}

impl Target {
    /// Opens the directory `path`, which is made if it is missing; links in `path` itself are followed.
    ///
    /// Names of owners are looked up in `/etc/passwd` and `/etc/group`, unless [`Options::numeric_owner`] says otherwise.
    pub fn open(path: &Path, options: Options) -> Result<Self> {
        let names = if options.numeric_owner { Names::default() } else { Names::load(Path::new("/etc")) };
        Self::open_with_names(path, options, names)
    }

    /// [`Target::open`] with the names of owners given.
    pub fn open_with_names(path: &Path, options: Options, names: Names) -> Result<Self> {
        let root = open_root(path, options.dry_run).map_err(|source| Error::Io {
            action: "open or make the target directory",
            path: path.to_owned(),
            source,
        })?;
        let shared =
            Arc::new(Shared { options, names, base: path.to_owned(), root, temporaries: place::Temporaries::new()? });
        let root = TargetDir::root_of(&shared)?;
        root.remove_leftovers();
        Ok(Self { shared, root })
    }

    /// The target itself, into which the snapshot's topmost entries go.
    pub fn root(&self) -> &TargetDir {
        &self.root
    }

    /// How this target was opened.
    pub fn options(&self) -> &Options {
        &self.shared.options
    }

    /// Opens a directory again that was made in this run and is not finished yet.
    pub fn reopen(&self, path: &DirPath) -> Result<TargetDir> {
        TargetDir::reopen(&self.shared, path)
    }

    /// Waits until everything that was written to the target's file system is on the disk.
    pub fn sync(&self) -> Result<()> {
        match &self.shared.root {
            Some(root) if !self.shared.options.dry_run => rustix::fs::syncfs(root).map_err(|errno| Error::Io {
                action: "write the restored files out to the disk",
                path: self.shared.base.clone(),
                source: errno.into(),
            }),
            _ => Ok(()),
        }
    }
}

impl Shared {
    /// Owner and group that `metadata` asks for on this machine: by name where both sides know it, else by number.
    fn owner(&self, metadata: &Metadata) -> (u32, u32) {
        self.names.owner(metadata)
    }
}

/// Opens the target; `None` where a dry run finds none.
fn open_root(path: &Path, dry_run: bool) -> io::Result<Option<OwnedFd>> {
    if !dry_run {
        fs::create_dir_all(path)?;
    }
    match rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(root) => Ok(Some(root)),
        Err(rustix::io::Errno::NOENT) if dry_run => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}
