//! Restore: walk the snapshot, make directories, decide per file, fetch what is missing, write it.
//!
//! ```text
//! walk      tree blobs -> directories made, entries decided      walk.rs, cursor.rs, choice.rs, surplus.rs
//! batch     files -> pieces -> frames -> ranges of packs         batch.rs
//! drain     ranges fetched ahead (repo::fetch); each frame
//!           opened once by one of many threads, its blobs
//!           verified and written wherever they belong            drain.rs, file.rs
//! finish    a file when its last piece is there; a directory
//!           when everything below it is                          job.rs, walk.rs
//! ```
//! **Damage**: a file of which one piece cannot be had from any copy is told as a problem and is not restored: no file
//! with a hole where bytes were stands under its name, and what stood there stays. Everything else goes on.
//!
//! **Memory**: of the repository's `memory`, an eighth for the plan of a batch, an eighth for what is fetched ahead; for each
//! thread a sealed frame and its text; one stretch for each directory on the way down, but no more than 16,384 entries in all.
//! With `delete` also the names that exist in each directory on the way down.
//!
//! **Descriptors**: at most 64 directories on the way down, 64 that files are written into, 256 files and theirs.

mod batch;
mod choice;
mod cursor;
mod drain;
mod file;
mod job;
mod surplus;
mod tally;
mod walk;

use std::path::Path;

use crate::error::{Error, Result};
use crate::format::config::Use;
use crate::ops::reason;
use crate::progress::{Cancel, Progress};
use crate::repo::{Reader, Snapshot};
use crate::target::{self, Overwrite, Target};

pub use self::choice::{Choice, Patterns};
pub use self::tally::Summary;

use self::job::Job;
use self::walk::Walk;

/// What to restore, and how.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Which entries.
    pub choice: Choice,
    /// What to do with what already stands at the target.
    pub overwrite: Overwrite,
    /// In each directory that is restored, remove what the snapshot does not have there. Only what is chosen: nothing that is
    /// excluded goes, nor what does not match an include pattern, nor what stands in a directory that could not be read.
    pub delete: bool,
    /// Read back what was written before it gets its name. (From the page cache, if it is still there: this finds what the
    /// file system or this program did wrong, not a bad disk.)
    pub verify: bool,
    /// Change nothing, and tell what would be done. Content is not read.
    pub dry_run: bool,
    /// Leave owner and group as whoever runs this gets them.
    pub no_owner: bool,
    /// Use the stored numbers of owners, whatever their names are here.
    pub numeric_owner: bool,
    /// Leave out devices.
    pub no_devices: bool,
    /// Leave out setuid and setgid bits and capabilities of files.
    pub no_setuid: bool,
    /// Extended attributes to leave out: patterns on the full name.
    pub exclude_xattr: Vec<Vec<u8>>,
    /// Also leave holes where zeros were stored.
    pub sparse: bool,
    /// The target itself gets the attributes of the directory that is restored: it is a volume's root, say.
    pub target_attributes: bool,
}

impl Options {
    fn target(&self) -> target::Options {
        target::Options {
            overwrite: self.overwrite,
            dry_run: self.dry_run,
            no_owner: self.no_owner,
            numeric_owner: self.numeric_owner,
            no_devices: self.no_devices,
            no_setuid: self.no_setuid,
            exclude_xattr: self.exclude_xattr.clone(),
            sparse: self.sparse,
        }
    }
}

/// Restores what a snapshot has below `subpath` into the directory `target`, which is made if it is missing.
///
/// Of a directory, the content goes into `target` itself, whose own attributes stay (but for [`Options::target_attributes`]); anything else goes into `target` under its
/// name. An empty subpath is the whole snapshot. Blocks; call it from a plain thread.
///
/// An error means that it ended early: the store or the target's file system failed as a whole, there is no such subpath, or it
/// was canceled. Everything smaller is told to `progress` and counted. Also after an error no file is there in part.
pub fn restore(
    reader: &Reader,
    snapshot: &Snapshot,
    subpath: &[u8],
    target: &Path,
    options: &Options,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Summary> {
    reader.repository().may(Use::Read, "restore")?;
    let root =
        snapshot.graph.root.ok_or_else(|| Error::NotFound(format!("snapshot {} has no files", snapshot.id())))?;
    let start = reader.find(&root, subpath)?;
    let target = Target::open(target, options.target()).map_err(fatal)?;
    let job = Job::new(reader, target, options, progress, cancel);
    let own = start.as_ref().filter(|node| options.target_attributes && node.tree().is_some());
    let own = own.map(|node| node.metadata.clone());
    let mut walk = Walk::new(&job, root, start);
    let walked = walk.run();
    walk.close();
    walked.map_err(|e| reason(cancel, e))?;
    if let Some(metadata) = own.filter(|_| !options.dry_run) {
        job.finish_dir(job.target.root().dir_path(), &metadata);
    }
    let summary = job.tally.summary();
    // What is said to be restored outlasts a power cut.
    if summary.files_restored > 0 {
        job.target.sync().map_err(fatal)?;
    }
    Ok(summary)
}

/// What ends a restore.
fn fatal(error: target::Error) -> Error {
    match error {
        target::Error::Io { action, path, source } => Error::io(action, path, source),
        other => Error::Invalid(other.to_string()),
    }
}
