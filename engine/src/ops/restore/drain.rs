//! Fetches and writes what a batch planned, with many threads.
//!
//! In rounds: where more files would have to be open at once than may be, those that come too late are put off to the next
//! round, and what they share with others is fetched again. Each round finishes some, so there is an end.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::format::blob::BlobKind;
use crate::repo::fetch::{Fetched, Fetcher};

use super::batch::{Batch, BlobUse, FrameUse, Plan, plan};
use super::job::{Job, only_damage};

/// Writes all pieces of the batch and finishes the files that are complete.
pub(super) fn drain(job: &Job, batch: &mut Batch) -> Result<()> {
    loop {
        batch.files.iter().filter(|file| file.is_idle()).try_for_each(|file| file.finish(job))?;
        if batch.pieces.is_empty() {
            return Ok(());
        }
        let plan = plan(job.reader, &batch.pieces);
        round(job, batch, plan)?;
        let put_off: Vec<bool> = batch.files.iter().map(|file| file.take_put_off()).collect();
        batch.pieces.retain(|piece| put_off[piece.file as usize]);
    }
}

fn round(job: &Job, batch: &Batch, mut plan: Plan) -> Result<()> {
    for &n in &plan.missing {
        let piece = &batch.pieces[n as usize];
        let error = Error::damaged(format!("data blob {}", piece.id.short()), "it is in no index segment");
        batch.files[piece.file as usize].fail_damaged(job, &error);
    }
    let spans = std::mem::take(&mut plan.spans);
    let (count, repo) = (spans.len(), job.reader.repository());
    let fetcher = Fetcher::start(repo, spans, repo.options().memory / 8);
    let round = Round {
        job,
        batch,
        own: batch.pieces_of_files(),
        plan,
        fetcher,
        failed: Mutex::default(),
        is_over: AtomicBool::new(false),
    };
    let threads = repo.options().threads.clamp(1, count.max(1));
    let taken: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(|| round.work())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).sum()
    });
    if let Some(error) = round.failed.into_inner().expect("no panic while held") {
        return Err(error);
    }
    assert_eq!(taken, count, "every span that was asked for comes");
    Ok(())
}

struct Round<'r> {
    job: &'r Job<'r>,
    batch: &'r Batch,
    /// Which pieces are whose.
    own: Vec<std::ops::Range<usize>>,
    plan: Plan,
    fetcher: Fetcher<FrameUse>,
    failed: Mutex<Option<Error>>,
    is_over: AtomicBool,
}

impl Round<'_> {
    /// One thread's share; how many spans that were.
    fn work(&self) -> usize {
        let mut taken = 0;
        while !self.is_over.load(Ordering::Relaxed)
            && let Some(fetched) = self.fetcher.next()
        {
            taken += 1;
            if let Err(error) = self.span(fetched) {
                self.is_over.store(true, Ordering::Relaxed);
                self.failed.lock().expect("no panic while held").get_or_insert(error);
            }
        }
        taken
    }

    fn span(&self, mut fetched: Fetched<FrameUse>) -> Result<()> {
        fetched.check()?;
        for (n, frame) in fetched.span.frames.iter().enumerate() {
            if !frame.what.iter().any(|blob| self.is_wanted(blob)) {
                continue;
            }
            let sealed = fetched.frame(n).map(<[u8]>::to_vec);
            let text = sealed.and_then(|mut sealed| self.job.reader.open_frame(&frame.copy, &mut sealed));
            let text = match text {
                Ok(text) => Ok(text),
                Err(error) => Err(only_damage(error)?),
            };
            frame.what.iter().try_for_each(|blob| self.blob(blob, &text))?;
        }
        Ok(())
    }

    fn is_wanted(&self, blob: &BlobUse) -> bool {
        let pieces = self.plan.order[blob.places.clone()].iter().map(|&n| &self.batch.pieces[n as usize]);
        pieces.into_iter().any(|piece| self.batch.files[piece.file as usize].wants())
    }

    /// Writes one blob wherever it belongs, from this frame or from another copy.
    fn blob(&self, blob: &BlobUse, text: &Result<Bytes, Error>) -> Result<()> {
        self.job.check_cancel()?;
        let bytes = match self.bytes(blob, text) {
            Ok(bytes) => Ok(bytes),
            Err(error) => Err(only_damage(error)?),
        };
        for &n in &self.plan.order[blob.places.clone()] {
            if self.is_over.load(Ordering::Relaxed) {
                return Ok(());
            }
            self.job.check_cancel()?;
            let piece = &self.batch.pieces[n as usize];
            let (file, own) = (&self.batch.files[piece.file as usize], self.own[piece.file as usize].clone());
            match &bytes {
                Ok(bytes) => file.write(self.job, piece, bytes, &self.batch.pieces[own])?,
                Err(error) => file.fail_damaged(self.job, error),
            }
        }
        Ok(())
    }

    fn bytes(&self, blob: &BlobUse, text: &Result<Bytes, Error>) -> Result<Bytes> {
        let (reader, copy) = (self.job.reader, &blob.copy);
        let id = &copy.entry.id;
        let here = match text {
            Ok(text) => reader.slice(id, copy, text),
            Err(e) => Err(Error::damaged(reader.pack_key_name(copy), how(e))),
        };
        let here = match here {
            Ok(bytes) => return Ok(bytes),
            Err(error) => only_damage(error)?,
        };
        match reader.blob_elsewhere(id, BlobKind::Data, copy) {
            Ok(bytes) => {
                if !reader.has_moved(copy)? {
                    self.job.spoiled(reader.pack_key_name(copy), &here);
                }
                Ok(bytes)
            }
            Err(error) => only_damage(error).and(Err(here)),
        }
    }
}

fn how(error: &Error) -> String {
    match error {
        Error::Damaged { how, .. } => how.clone(),
        other => other.to_string(),
    }
}
