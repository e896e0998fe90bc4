//! Telling what could not be read: each trouble once, though the kernel asks again and again.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use crate::error::Error;
use crate::progress::{Problem, ProblemKind, Progress};

use super::inodes::{ROOT_INO, What};
use super::{Failure, Vfs};

/// Troubles that are remembered; with more, old ones may be told again.
const REMEMBERED: usize = 4096;

/// Where problems go.
pub(super) struct Reports {
    progress: Arc<dyn Progress>,
    told: Mutex<HashSet<(PathBuf, String)>>,
}

impl std::fmt::Debug for Reports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reports({} told)", self.told.lock().map_or(0, |told| told.len()))
    }
}

impl Reports {
    pub(super) fn new(progress: Arc<dyn Progress>) -> Self {
        Self { progress, told: Mutex::default() }
    }

    pub(super) fn tell(&self, problem: Problem) {
        let mut told = self.told.lock().expect("no panic while held");
        if told.len() >= REMEMBERED {
            told.clear();
        }
        let new = told.insert((problem.path.clone(), problem.message.clone()));
        drop(told);
        if new {
            self.progress.problem(problem);
        }
    }

    pub(super) fn failed(&self, path: PathBuf, error: &Error) {
        let kind = match error {
            Error::Damaged { .. } => ProblemKind::Damaged,
            _ => ProblemKind::Unreadable,
        };
        self.tell(Problem { kind, path, message: error.to_string() });
    }
}

impl Vfs {
    /// Tells that `ino` cannot be read (at `offset` of it), and why.
    pub(super) fn unreadable(&self, ino: u64, offset: Option<u64>, error: &Error) -> Failure {
        tracing::debug!(ino, offset, %error, "unreadable");
        self.reports.failed(self.path(ino), error);
        Failure::Unreadable
    }

    /// The path of an inode below the mount, with `…` for what is not in memory: a message is no reason to read.
    fn path(&self, mut ino: u64) -> PathBuf {
        let mut names: Vec<Vec<u8>> = Vec::new();
        while ino != ROOT_INO {
            let Ok(inode) = self.inode(ino) else {
                names.push("…".into());
                break;
            };
            match &inode.what {
                What::Top(path) | What::Root(_, path) => {
                    names.extend(path.iter().rev().cloned());
                    break;
                }
                What::Latest(..) => names.push(super::catalog::LATEST.to_vec()),
                What::Entry(place) => {
                    let name = self
                        .directories
                        .held(&place.stretch)
                        .and_then(|entries| entries.node(usize::from(place.at)).map(|node| node.name.clone()));
                    names.push(name.unwrap_or_else(|| "…".into()));
                }
            }
            ino = inode.parent;
        }
        names.reverse();
        let text = names.iter().map(|name| String::from_utf8_lossy(name)).collect::<Vec<_>>().join("/");
        PathBuf::from(text)
    }
}
