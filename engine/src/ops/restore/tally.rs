//! What a restore did, counted from all threads.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::progress::{Problem, Progress};

/// What a restore did, or in a dry run would do. "Files" are entries of every kind, as in restic's output.
///
/// `total_files` = restored + skipped + `files_failed`; all but the last name of a file with several have no bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Entries that were chosen.
    pub total_files: u64,
    /// Those that stand at the target as in the snapshot (each attribute that did not stick is a problem).
    pub files_restored: u64,
    /// Those that were left as they were, because the policy says so or because they are devices.
    pub files_skipped: u64,
    /// Those that could not be restored; each is a problem. Below a directory that cannot be made nothing is counted.
    pub files_failed: u64,
    /// Entries removed at the target because the snapshot does not have them.
    pub files_deleted: u64,
    /// Bytes of all chosen files.
    pub total_bytes: u64,
    /// Bytes of files that were written (holes included).
    pub bytes_restored: u64,
    /// Bytes of files that were left as they were, or of which only attributes were set.
    pub bytes_skipped: u64,
    /// How many of `total_files` are directories.
    pub dirs: u64,
    /// How many of `total_files` are neither files nor directories.
    pub others: u64,
    /// What was told to [`Progress::problem`].
    pub problems: u64,
}

/// One number of a [`Summary`].
#[derive(Debug, Clone, Copy)]
pub(super) enum Count {
    Total,
    Restored,
    Skipped,
    Failed,
    Deleted,
    TotalBytes,
    BytesRestored,
    BytesSkipped,
    Dirs,
    Others,
    Problems,
}

#[derive(Debug, Default)]
pub(super) struct Tally([AtomicU64; 11]);

impl Tally {
    pub(super) fn add(&self, count: Count, n: u64) {
        self.0[count as usize].fetch_add(n, Ordering::Relaxed);
    }

    pub(super) fn problem(&self, problem: Problem, progress: &dyn Progress) {
        self.add(Count::Problems, 1);
        progress.problem(problem);
    }

    pub(super) fn summary(&self) -> Summary {
        let get = |count: Count| self.0[count as usize].load(Ordering::Relaxed);
        Summary {
            total_files: get(Count::Total),
            files_restored: get(Count::Restored),
            files_skipped: get(Count::Skipped),
            files_failed: get(Count::Failed),
            files_deleted: get(Count::Deleted),
            total_bytes: get(Count::TotalBytes),
            bytes_restored: get(Count::BytesRestored),
            bytes_skipped: get(Count::BytesSkipped),
            dirs: get(Count::Dirs),
            others: get(Count::Others),
            problems: get(Count::Problems),
        }
    }
}
