//! The view that a mount shows, and when a newer one takes its place.

use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use crate::crypto::hash::Hasher;
use crate::error::Result;
use crate::format::snapshot::SnapshotKind;
use crate::progress::Problem;
use crate::repo::{Reader, Repository, View};
use crate::store::list_all;

use super::Options;
use super::catalog::Top;

/// One view: what stands in the top directories, and what reads below them.
#[derive(Debug)]
pub(super) struct State {
    pub(super) reader: Arc<Reader>,
    pub(super) top: Arc<Top>,
    /// Snapshots shown.
    pub(super) snapshots: u64,
    /// What all snapshots of the repository take in packs, in bytes.
    pub(super) stored_bytes: u64,
}

/// The newest view that was read.
pub(super) struct Fresh {
    repo: Arc<Repository>,
    state: RwLock<Arc<State>>,
    checked: Mutex<Checked>,
    every: Duration,
    frame_bytes: usize,
}

/// When the list of snapshots was looked at, and what it was.
struct Checked {
    at: Instant,
    list: [u8; 32],
}

impl std::fmt::Debug for Fresh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Fresh({:?})", self.repo)
    }
}

impl Fresh {
    /// Reads the first view, and what was wrong with it.
    pub(super) fn start(repo: Arc<Repository>, options: &Options, frame_bytes: usize) -> Result<(Self, Vec<Problem>)> {
        let list = fingerprint(&repo)?;
        let mut view = repo.view()?;
        let problems = std::mem::take(&mut view.problems);
        let state = RwLock::new(Arc::new(state(&repo, &view, options, frame_bytes)));
        let checked = Mutex::new(Checked { at: Instant::now(), list });
        Ok((Self { repo, state, checked, every: options.refresh, frame_bytes }, problems))
    }

    /// The view of the moment.
    pub(super) fn state(&self) -> Arc<State> {
        Arc::clone(&self.state.read().expect("no panic while held"))
    }

    /// Looks for other snapshots than those of the view, if that was not done a moment ago and nobody is at it; what was
    /// wrong with a view that was taken.
    ///
    /// Only keys are listed unless something changed. Whatever fails leaves the view as it is until the next time.
    pub(super) fn refresh(&self, options: &Options) -> Result<Vec<Problem>> {
        let Ok(mut checked) = self.checked.try_lock() else { return Ok(Vec::new()) };
        if checked.at.elapsed() < self.every {
            return Ok(Vec::new());
        }
        checked.at = Instant::now();
        // Listed before the view is read: what comes in between is seen once more, never missed.
        let list = fingerprint(&self.repo)?;
        if list == checked.list {
            return Ok(Vec::new());
        }
        let mut view = self.repo.view()?;
        let problems = std::mem::take(&mut view.problems);
        let state = Arc::new(state(&self.repo, &view, options, self.frame_bytes));
        *self.state.write().expect("no panic while held") = state;
        *checked = Checked { at: Instant::now(), list };
        Ok(problems)
    }
}

fn state(repo: &Arc<Repository>, view: &View, options: &Options, frame_bytes: usize) -> State {
    let whole = || view.snapshots.iter().filter(|s| s.graph.kind == SnapshotKind::Whole && (options.chosen)(s));
    State {
        reader: Arc::new(Reader::new(Arc::clone(repo), Arc::clone(&view.index), frame_bytes)),
        top: Arc::new(Top::build(whole(), &options.templates, &*options.time)),
        snapshots: whole().count() as u64,
        stored_bytes: view.snapshots.iter().fold(0, |sum: u64, s| sum.saturating_add(s.graph.pack_bytes)),
    }
}

/// Stands for the keys and sizes of all snapshots, and of what tells that some are forgotten.
fn fingerprint(repo: &Repository) -> Result<[u8; 32]> {
    let mut hasher = Hasher::new();
    for prefix in ["forget/", "snap/"] {
        for listed in repo.bridge().wait(list_all(repo.store().as_ref(), prefix))? {
            hasher.update(listed.key.as_str().as_bytes()).update(b"\n").update(&listed.size.to_le_bytes());
        }
    }
    Ok(hasher.finish())
}
