//! What the harness knows by itself: what was backed up, and what became of it as far as anybody was told.

use std::collections::BTreeMap;

use copal_engine::id::SnapshotId;

/// Whether a snapshot was forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forgotten {
    No,
    /// Somebody tried, and was not told that it came to pass.
    Perhaps,
    Yes,
}

/// A backup that somebody began.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Which of the sources.
    pub source: usize,
    /// Reported as committed.
    pub committed: Option<SnapshotId>,
}

/// All of them, by the number that stands in their labels.
#[derive(Debug, Clone, Default)]
pub struct Book {
    pub attempts: Vec<Attempt>,
    /// Snapshots that somebody has forgotten, or has tried to. By their ids: an attempt may have made two.
    forgotten: BTreeMap<SnapshotId, Forgotten>,
    /// What was wrong already while the schedule ran.
    pub faults: Vec<String>,
    /// How the runs of actors ended.
    pub ends: BTreeMap<String, u64>,
}

impl Book {
    pub fn begin(&mut self, source: usize) -> usize {
        self.attempts.push(Attempt { source, committed: None });
        self.attempts.len() - 1
    }

    pub fn label(attempt: usize) -> Vec<u8> {
        format!("attempt-{attempt}").into_bytes()
    }

    /// The attempt that a snapshot with these labels is of.
    pub fn of(&self, labels: &[Vec<u8>]) -> Option<usize> {
        let label = labels.iter().find_map(|l| l.strip_prefix(b"attempt-"))?;
        let n = std::str::from_utf8(label).ok()?.parse().ok()?;
        (n < self.attempts.len()).then_some(n)
    }

    pub fn forget(&mut self, snapshot: SnapshotId, how: Forgotten) {
        let known = self.forgotten.entry(snapshot).or_insert(how);
        if *known != Forgotten::Yes {
            *known = how;
        }
    }

    pub fn forgotten(&self, snapshot: &SnapshotId) -> Forgotten {
        self.forgotten.get(snapshot).copied().unwrap_or(Forgotten::No)
    }

    /// Every attempt that was reported, and whose snapshot nobody has tried to forget.
    pub fn must_be_there(&self) -> impl Iterator<Item = (usize, SnapshotId)> + '_ {
        let committed = self.attempts.iter().enumerate().filter_map(|(n, a)| Some((n, a.committed?)));
        committed.filter(|(_, id)| self.forgotten(id) == Forgotten::No)
    }

    /// How many were forgotten for sure.
    pub fn count_forgotten(&self) -> u64 {
        self.forgotten.values().filter(|how| **how == Forgotten::Yes).count() as u64
    }

    pub fn ended(&mut self, how: &str) {
        *self.ends.entry(how.to_owned()).or_default() += 1;
    }
}
