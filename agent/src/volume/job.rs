//! What a child is told, and what it says.

use serde::{Deserialize, Serialize};

use crate::api::items::RunRef;
use crate::grant::Grant;

/// Longest job that is read from standard input, in bytes.
pub const JOB_MAX: u64 = 1 << 20;

/// One volume: the working directory of whoever reads this.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// What opens the repository.
    pub grant: Grant,
    /// What to do.
    pub task: Task,
    /// Name of the directory that stands for the volume in snapshots.
    pub directory: String,
    /// A directory for caches and state, of this run alone.
    pub scratch: std::path::PathBuf,
    /// Cap on memory, in bytes.
    pub memory: u64,
}

/// Which way.
#[derive(Serialize, Deserialize)]
#[serde(tag = "task", rename_all = "camelCase", deny_unknown_fields)]
pub enum Task {
    /// Make a part of a run.
    Backup {
        /// The run.
        run: RunRef,
        /// What to record as host: the namespace.
        host: String,
        /// Patterns of paths that are left out.
        exclude: Vec<String>,
    },
    /// Fill the volume.
    Restore {
        /// Of this snapshot.
        snapshot: String,
        /// Remove what it does not have.
        delete: bool,
    },
}

/// A line on standard output.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "camelCase")]
pub enum Event {
    /// How far it is; at most once a second.
    Progress {
        /// Bytes done.
        done: u64,
        /// Bytes that are known to be ahead or done.
        total: u64,
        /// Files done.
        files: u64,
    },
    /// Something on the way did not go as it should.
    Problem {
        /// Which entry.
        path: String,
        /// What.
        message: String,
    },
    /// The last line of a run that came to its end.
    Done {
        /// The part that was made.
        snapshot: Option<String>,
        /// Files read or written.
        files: u64,
        /// Their bytes.
        bytes: u64,
        /// How many problems there were.
        problems: u64,
    },
    /// The last line of one that did not.
    Failed {
        /// Why.
        message: String,
        /// Another try may come further: the store did not answer, or the run was ended.
        again: bool,
    },
}
