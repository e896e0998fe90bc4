//! Backup: walk the source, store what is new, commit a snapshot.

use std::path::PathBuf;

use crate::format::node::Timestamp;
use crate::format::snapshot::Counts;
use crate::id::SnapshotId;
use crate::source::exclude::Exclude;

/// What to back up, and how.
#[derive(Debug)]
pub struct Options {
    /// Files and directories; stored under their absolute paths.
    pub paths: Vec<PathBuf>,
    /// Store the one path under this absolute one instead.
    pub as_path: Option<PathBuf>,
    /// Host to record.
    pub host: Vec<u8>,
    /// User to record: name, uid, gid.
    pub user: (Vec<u8>, u32, u32),
    /// Labels (`--tag`).
    pub labels: Vec<Vec<u8>>,
    /// When it was taken; `None`: now.
    pub time: Option<Timestamp>,
    /// What is left out.
    pub exclude: Exclude,
    /// Stay on the mounts of the paths.
    pub one_file_system: bool,
    /// Do not compare inode numbers and ctimes, nor store them.
    pub ignore_inode: bool,
    /// Do not compare ctimes.
    pub ignore_ctime: bool,
    /// Which snapshot unchanged files are taken from.
    pub parent: Parent,
    /// zstd level; 0 = off.
    pub level: i32,
    /// Read and compare, store nothing.
    pub dry_run: bool,
    /// Make no snapshot if its tree equals its parent's.
    pub skip_if_unchanged: bool,
    /// Which program, e.g. `copal 0.1.0`.
    pub program: Vec<u8>,
}

/// Which snapshot unchanged files are taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parent {
    /// The last one of the same source by the own writer.
    Auto,
    /// None: everything is read.
    None,
    /// This one, whoever made it.
    Given(SnapshotId),
}

/// What a backup did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// The snapshot; `None` in a dry run, or where it was skipped.
    pub snapshot: Option<SnapshotId>,
    /// The one that it was compared with.
    pub parent: Option<SnapshotId>,
    /// How much.
    pub counts: Counts,
    /// When it began.
    pub time: Timestamp,
}
