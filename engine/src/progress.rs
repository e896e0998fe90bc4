//! What a running operation tells whoever watches: counters that only rise, and problems one by one.
//!
//! The only upward call in the engine. Implementations must be cheap and never block: they are called from every worker.

use std::fmt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Watches one operation.
pub trait Progress: Send + Sync {
    /// So many files and bytes more are known to be ahead.
    fn expect(&self, files: u64, bytes: u64) {
        let _ = (files, bytes);
    }
    /// Work on `path` starts (a file, directory or object).
    fn start(&self, path: &std::path::Path) {
        let _ = path;
    }
    /// So many files and bytes more are done.
    fn advance(&self, files: u64, bytes: u64) {
        let _ = (files, bytes);
    }
    /// Something was skipped, changed while it was read, or did not stick.
    fn problem(&self, problem: Problem);
}

/// Watches nothing but keeps no problem either: only for callers that read the summary's problems.
#[derive(Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn problem(&self, _: Problem) {}
}

/// Keeps every problem: for tests and for callers that print at the end.
#[derive(Debug, Default)]
pub struct Collect(pub Mutex<Vec<Problem>>);

impl Progress for Collect {
    fn problem(&self, problem: Problem) {
        self.0.lock().expect("no panic while held").push(problem);
    }
}

/// Why one item is not exactly as it should be. Closed set: names stand in JSON output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProblemKind {
    /// Could not be read (permission, I/O error, vanished); not in the snapshot, or without its bytes.
    Unreadable,
    /// Changed while it was read; what was read is stored.
    Changed,
    /// Left out, because of a limit of the format or of the source (depth, name, count).
    Skipped,
    /// An attribute could not be read or did not stick.
    Attribute,
    /// Stored bytes are damaged or missing.
    Damaged,
    /// Could not be written or removed at the target.
    Unwritable,
    /// Was in the repository once and is gone, though nobody forgot it.
    Missing,
}

impl ProblemKind {
    /// Its name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Changed => "changed",
            Self::Skipped => "skipped",
            Self::Attribute => "attribute",
            Self::Damaged => "damaged",
            Self::Unwritable => "unwritable",
            Self::Missing => "missing",
        }
    }
}

/// One thing that did not go as it should; each is shown, counted, and changes the exit code to 3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Which class.
    pub kind: ProblemKind,
    /// Which file or object.
    pub path: PathBuf,
    /// What happened, and what to do about it if anything can be done.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.message)
    }
}

/// One flag, checked per chunk and per object, that ends an operation early.
#[derive(Debug, Default)]
pub struct Cancel(AtomicBool);

impl Cancel {
    /// Asks the operation to end.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
    /// Whether it was asked to.
    pub fn is_canceled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
