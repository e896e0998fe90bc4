//! What the walk and all threads of one restore share, and what becomes of each entry in the end.

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::error::{Error, Result};
use crate::format::node::NodeKind;
use crate::progress::{Cancel, Problem, ProblemKind, Progress};
use crate::repo::{Node, Reader};
use crate::target::{self, DirPath, Finished, LinkSource, Links, Pending, Target, TargetDir};

use super::Options;
use super::tally::{Count, Tally};

/// Files of several pieces that are open at once.
const OPEN_FILES_MAX: usize = 256;
/// Directories that are held open to write files into, beside those that open files hold.
const OPEN_DIRS_MAX: usize = 64;

pub(super) struct Job<'a> {
    pub reader: &'a Reader,
    pub target: Target,
    pub options: &'a Options,
    pub progress: &'a dyn Progress,
    pub links: Links,
    pub tally: Tally,
    /// Names of files with several that must be restored on their own after all.
    pub again: Mutex<Vec<Again>>,
    cancel: &'a Cancel,
    /// Packs of which damage was told.
    spoiled: Mutex<HashSet<String>>,
    open_files: AtomicUsize,
    open_dirs: Mutex<HashMap<u64, TargetDir>>,
    next_dir: AtomicU64,
}

/// An entry whose file could not be linked to.
pub(super) struct Again {
    pub node: Node,
    pub pending: Pending,
    /// Whether it may become a link after all.
    pub claim: bool,
}

/// A directory that files go into: how to open it, and its number in this run.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub dir: DirPath,
    number: u64,
}

impl<'a> Job<'a> {
    pub(super) fn new(
        reader: &'a Reader,
        target: Target,
        options: &'a Options,
        progress: &'a dyn Progress,
        cancel: &'a Cancel,
    ) -> Self {
        Self {
            reader,
            target,
            options,
            progress,
            links: Links::default(),
            tally: Tally::default(),
            again: Mutex::default(),
            cancel,
            spoiled: Mutex::default(),
            open_files: AtomicUsize::new(0),
            open_dirs: Mutex::default(),
            next_dir: AtomicU64::new(0),
        }
    }

    pub(super) fn check_cancel(&self) -> Result<()> {
        if self.cancel.is_canceled() { Err(Error::Interrupted) } else { Ok(()) }
    }

    pub(super) fn place(&self, dir: &TargetDir) -> Place {
        Place { dir: dir.dir_path().clone(), number: self.next_dir.fetch_add(1, Ordering::Relaxed) }
    }

    /// The directory, opened at most once for files that come one after another.
    pub(super) fn open_dir(&self, place: &Place) -> target::Result<TargetDir> {
        let mut open = self.open_dirs.lock().expect("no panic while held");
        if let Some(dir) = open.get(&place.number) {
            return Ok(dir.clone());
        }
        let dir = self.target.reopen(&place.dir)?;
        if open.len() >= OPEN_DIRS_MAX {
            open.clear();
        }
        open.insert(place.number, dir.clone());
        Ok(dir)
    }

    /// Whether one more file may be open; to be given back by [`Job::close_file`].
    pub(super) fn may_open_file(&self, is_last_piece: bool) -> bool {
        let open = self.open_files.fetch_add(1, Ordering::Relaxed);
        // One that is closed in a moment is bounded by the number of threads.
        let may = open < OPEN_FILES_MAX || is_last_piece;
        if !may {
            self.close_file();
        }
        may
    }

    pub(super) fn close_file(&self) {
        self.open_files.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn problem(&self, problem: Problem) {
        self.tally.problem(problem, self.progress);
    }

    /// One more entry is chosen.
    pub(super) fn expect(&self, node: &Node) {
        self.tally.add(Count::Total, 1);
        match node.metadata.kind {
            NodeKind::File { .. } => {}
            NodeKind::Dir => self.tally.add(Count::Dirs, 1),
            _ => self.tally.add(Count::Others, 1),
        }
        self.progress.expect(1, 0);
    }

    /// So many bytes of its content are chosen.
    pub(super) fn expect_bytes(&self, bytes: u64) {
        self.tally.add(Count::TotalBytes, bytes);
        self.progress.expect(0, bytes);
    }

    /// One entry is restored. `reported`: how many of its bytes the progress knows of.
    pub(super) fn restored(&self, bytes: u64, reported: u64) {
        self.tally.add(Count::Restored, 1);
        self.tally.add(Count::BytesRestored, bytes);
        self.progress.advance(1, bytes.saturating_sub(reported));
    }

    /// One entry stays as it is, its bytes at least.
    pub(super) fn kept(&self, count: Count, bytes: u64) {
        self.tally.add(count, 1);
        self.tally.add(Count::BytesSkipped, bytes);
        self.progress.advance(1, bytes);
    }

    /// One entry cannot be restored. An error where that says that no other one can be either.
    pub(super) fn failed(&self, error: &target::Error) -> Result<()> {
        self.tally.add(Count::Failed, 1);
        self.progress.advance(1, 0);
        self.report(error)
    }

    /// One entry cannot be restored because of what is stored.
    pub(super) fn damaged(&self, path: &Path, damage: &Error) {
        self.tally.add(Count::Failed, 1);
        self.progress.advance(1, 0);
        let message = format!("not restored: {damage}");
        self.problem(Problem { kind: ProblemKind::Damaged, path: path.to_owned(), message });
    }

    /// One entry was not what had been written, when it was read back.
    pub(super) fn unverified(&self, problem: Problem) {
        self.tally.add(Count::Failed, 1);
        self.progress.advance(1, 0);
        self.problem(problem);
    }

    /// A pack is damaged, and nothing was lost by it yet. Told once for each.
    pub(super) fn spoiled(&self, pack: String, damage: &Error) {
        let message = format!("{damage}. What was needed of it is stored a second time, and was restored from there");
        if self.spoiled.lock().expect("no panic while held").insert(pack.clone()) {
            self.problem(Problem { kind: ProblemKind::Damaged, path: pack.into(), message });
        }
    }

    /// Tells what went wrong at the target, unless it went wrong with all of it: then this is the error.
    pub(super) fn report(&self, error: &target::Error) -> Result<()> {
        if let target::Error::Io { action, path, source } = error
            && matches!(
                source.kind(),
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::ReadOnlyFilesystem
            )
        {
            let source = source.raw_os_error().map_or_else(|| source.kind().into(), std::io::Error::from_raw_os_error);
            return Err(Error::io(action, path, source));
        }
        self.problem(error.problem());
        Ok(())
    }

    /// An entry stands there: tells what did not stick, and links the names that waited for it.
    ///
    /// `node` has its children where it has several names.
    pub(super) fn done(&self, node: &Node, finished: Finished) {
        finished.problems.into_iter().for_each(|problem| self.problem(problem));
        self.stands(node, finished.source);
    }

    /// As [`Job::done`], for one that was left as it was.
    pub(super) fn stands(&self, node: &Node, source: LinkSource) {
        let Some(id) = &node.metadata.hardlink else { return };
        let settled = self.links.done(&self.target, id, source);
        for _ in 0..settled.linked {
            self.restored(0, 0);
        }
        for problem in settled.problems {
            self.tally.add(Count::Failed, 1);
            self.progress.advance(1, 0);
            self.problem(problem);
        }
        self.again_with(node, settled.copy, false);
    }

    /// An entry could not be restored, and names of it may wait: one of them is next.
    pub(super) fn give_up(&self, node: &Node) {
        if let Some(id) = &node.metadata.hardlink {
            self.again_with(node, self.links.give_up(&self.target, id), true);
        }
    }

    fn again_with(&self, node: &Node, names: Vec<Pending>, claim: bool) {
        let mut again = self.again.lock().expect("no panic while held");
        for pending in names {
            let mut node = Node { name: pending.name.clone(), ..node.clone() };
            if !claim {
                node.metadata.hardlink = None;
            }
            again.push(Again { node, pending, claim });
        }
    }

    /// Gives a directory its attributes, now that nothing changes in it any more.
    pub(super) fn finish_dir(&self, dir: &DirPath, metadata: &crate::format::node::Metadata) {
        let problems = match self.target.reopen(dir) {
            Ok(dir) => dir.finish(metadata),
            Err(error) => vec![error.problem()],
        };
        problems.into_iter().for_each(|problem| self.problem(problem));
    }

    /// Where the entry `path` (below what is restored) goes, for messages.
    pub(super) fn shown(&self, path: &[u8]) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        let below = path.strip_prefix(b"/").unwrap_or(path);
        self.target.root().path().join(std::ffi::OsStr::from_bytes(below))
    }
}

/// Damage goes on with the next entry; everything else ends the restore.
pub(super) fn only_damage(error: Error) -> Result<Error> {
    if matches!(error, Error::Damaged { .. }) { Ok(error) } else { Err(error) }
}
