//! One file on its way to the target: begun when its first piece comes, finished when its last is written.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::error::{Error, Result};
use crate::format::blob::BlobKind;
use crate::id::BlobId;
use crate::progress::{Problem, ProblemKind};
use crate::repo::Node;
use crate::target::{self, Decision, TargetFile};

use super::job::{Job, Place};

/// Bytes of a file that are one blob.
#[derive(Debug, Clone, Copy)]
pub(super) struct FilePiece {
    pub id: BlobId,
    /// Which file of the batch.
    pub file: u32,
    /// Its length in bytes, no longer than blobs can be.
    pub len: u32,
    /// Where it belongs in the file.
    pub offset: u64,
}

/// A file of a batch.
pub(super) struct File {
    place: Place,
    /// Without children, unless it has several names.
    node: Node,
    decision: Decision,
    pub path: PathBuf,
    /// Whether all of its pieces are in this batch or were in those before.
    pub complete: bool,
    state: Mutex<State>,
}

struct State {
    stage: Stage,
    /// Pieces of this batch that are to be written yet.
    left: u32,
    /// Bytes that the progress knows of.
    reported: u64,
}

enum Stage {
    Waiting,
    Open(Arc<TargetFile>),
    /// Too many files are open: it is the next round's.
    PutOff,
    Failed,
    Done,
}

impl File {
    pub(super) fn new(place: Place, node: Node, decision: Decision, path: PathBuf) -> Self {
        let state = Mutex::new(State { stage: Stage::Waiting, left: 0, reported: 0 });
        Self { place, node, decision, path, complete: false, state }
    }

    /// Heap and inline bytes, about.
    pub(super) fn cost(&self) -> usize {
        let m = &self.node.metadata;
        let xattrs: usize = m.xattrs.iter().map(|x| x.name.len() + x.value.len() + 48).sum();
        let texts = self.node.name.len() + m.user.len() + m.group.len() + self.path.as_os_str().len();
        size_of::<Self>() + texts + xattrs + self.node.children.len() * BlobId::LEN
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    pub(super) fn add_piece(&self) {
        self.lock().left += 1;
    }

    pub(super) fn is_failed(&self) -> bool {
        matches!(self.lock().stage, Stage::Failed)
    }

    /// Whether a piece of it may be written in this round.
    pub(super) fn wants(&self) -> bool {
        matches!(self.lock().stage, Stage::Waiting | Stage::Open(_))
    }

    /// Whether it was put off; then it is no longer.
    pub(super) fn take_put_off(&self) -> bool {
        let mut state = self.lock();
        let is_put_off = matches!(state.stage, Stage::PutOff);
        if is_put_off {
            state.stage = Stage::Waiting;
        }
        is_put_off
    }

    /// Whether nothing of it is missing but its end.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.lock();
        self.complete && state.left == 0 && matches!(state.stage, Stage::Waiting | Stage::Open(_))
    }

    /// Writes the bytes of one piece, and finishes the file if they were the last. `pieces` are those of the batch.
    pub(super) fn write(&self, job: &Job, piece: &FilePiece, bytes: &[u8], pieces: &[FilePiece]) -> Result<()> {
        if bytes.len() != piece.len as usize {
            let error = Error::damaged(
                format!("data blob {}", piece.id.short()),
                format!("it has {} bytes where the file has {}", bytes.len(), piece.len),
            );
            self.fail_damaged(job, &error);
            return Ok(());
        }
        let Some(open) = self.open(job)? else { return Ok(()) };
        let written = open.write_at(piece.offset, bytes);
        drop(open);
        if let Err(error) = written {
            return self.fail(job, &error);
        }
        job.progress.advance(0, u64::from(piece.len));
        let mut state = self.lock();
        state.reported += u64::from(piece.len);
        state.left -= 1;
        let is_last = state.left == 0;
        drop(state);
        if is_last { self.end_part(job, pieces) } else { Ok(()) }
    }

    /// The open file; begins it if that is to do. `None`: nothing is to be written, now at least.
    fn open(&self, job: &Job) -> Result<Option<Arc<TargetFile>>> {
        let mut state = self.lock();
        match &state.stage {
            Stage::Open(file) => return Ok(Some(Arc::clone(file))),
            Stage::Waiting => {}
            Stage::PutOff | Stage::Failed | Stage::Done => return Ok(None),
        }
        if !job.may_open_file(self.complete && state.left <= 1) {
            state.stage = Stage::PutOff;
            return Ok(None);
        }
        job.progress.start(&self.path);
        let begun = job
            .open_dir(&self.place)
            .and_then(|dir| dir.begin_file(&self.node.name, &self.node.metadata, self.decision));
        match begun {
            Ok(file) => {
                let file = Arc::new(file);
                state.stage = Stage::Open(Arc::clone(&file));
                Ok(Some(file))
            }
            Err(error) => {
                job.close_file();
                drop(state);
                self.fail(job, &error).map(|()| None)
            }
        }
    }

    /// All pieces of this batch are written: reads them back if that was asked for, and finishes the file if it is whole.
    fn end_part(&self, job: &Job, pieces: &[FilePiece]) -> Result<()> {
        if job.options.verify && !self.is_as_stored(job, pieces)? {
            return Ok(());
        }
        if self.complete { self.finish(job) } else { Ok(()) }
    }

    /// Gives the file attributes and name. Also for files without pieces, which are begun here.
    pub(super) fn finish(&self, job: &Job) -> Result<()> {
        let Some(file) = self.open(job)? else { return Ok(()) };
        let mut state = self.lock();
        state.stage = Stage::Done;
        let reported = state.reported;
        drop(state);
        let file = Arc::into_inner(file).expect("whoever writes gives it back before he counts his piece as written");
        let finished = file.finish(&self.node.metadata);
        job.close_file();
        match finished {
            Ok(finished) => {
                job.done(&self.node, finished);
                job.restored(self.node.size(), reported);
                Ok(())
            }
            Err(error) => {
                job.give_up(&self.node);
                job.failed(&error)
            }
        }
    }

    fn is_as_stored(&self, job: &Job, pieces: &[FilePiece]) -> Result<bool> {
        let Some(file) = self.open(job)? else { return Ok(false) };
        let mut bytes = Vec::new();
        for piece in pieces {
            job.check_cancel()?;
            bytes.resize(piece.len as usize, 0);
            if let Err(error) = file.read_at(piece.offset, &mut bytes) {
                drop(file);
                self.fail(job, &error)?;
                return Ok(false);
            }
            if !job.reader.is_blob(&piece.id, BlobKind::Data, &bytes) {
                drop(file);
                self.fail_verify(job, piece);
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Ends it unfinished; whether it was not ended before.
    fn end(&self, job: &Job) -> bool {
        let mut state = self.lock();
        match std::mem::replace(&mut state.stage, Stage::Failed) {
            Stage::Open(_) => job.close_file(),
            Stage::Waiting | Stage::PutOff => {}
            Stage::Failed | Stage::Done => return false,
        }
        drop(state);
        job.give_up(&self.node);
        true
    }

    /// The target does not take it.
    pub(super) fn fail(&self, job: &Job, error: &target::Error) -> Result<()> {
        if self.end(job) { job.failed(error) } else { Ok(()) }
    }

    /// What is stored of it is damaged.
    pub(super) fn fail_damaged(&self, job: &Job, error: &Error) {
        if self.end(job) {
            job.damaged(&self.path, error);
        }
    }

    fn fail_verify(&self, job: &Job, piece: &FilePiece) {
        if self.end(job) {
            let message = format!(
                "not restored: {} bytes at {} read back otherwise than they were written",
                piece.len, piece.offset
            );
            job.unverified(Problem { kind: ProblemKind::Unwritable, path: self.path.clone(), message });
        }
    }
}
