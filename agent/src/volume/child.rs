//! The child that a node's agent starts for one volume: a job on standard input, events on standard output, the volume as
//! working directory, and nothing else of the node.

use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use copal_engine::Error;
use copal_engine::crypto::rng::SystemRng;
use copal_engine::ops::{backup, restore};
use copal_engine::progress::{Cancel, Problem, Progress};
use copal_engine::repo::{Reader, Repository};
use copal_engine::source::exclude::{Exclude, ExcludeOptions};
use zeroize::Zeroizing;

use super::confine::confine;
use super::job::{Event, JOB_MAX, Job, Task};
use super::{PROGRAM, RunId, exit_code, run_id};

/// Least time between two lines of progress.
const INTERVAL: Duration = Duration::from_secs(1);
/// Problems that are told one by one; all are counted.
const TOLD_MAX: u64 = 1000;

/// Does what standard input says.
pub fn main() -> ExitCode {
    let cancel = Arc::new(Cancel::default());
    match run(&cancel) {
        Ok((done, problems)) => {
            say(&done);
            if problems == 0 { ExitCode::SUCCESS } else { ExitCode::from(3) }
        }
        Err(e) => {
            let again = matches!(
                e.downcast_ref::<Error>(),
                Some(Error::Store(_) | Error::Fenced(_) | Error::Busy(_) | Error::Interrupted)
            );
            say(&Event::Failed { message: format!("{e:#}"), again });
            exit_code(&e)
        }
    }
}

fn run(cancel: &Arc<Cancel>) -> Result<(Event, u64)> {
    let mut text = Zeroizing::new(Vec::new());
    std::io::stdin().lock().take(JOB_MAX + 1).read_to_end(&mut text).context("cannot read the job")?;
    if text.len() as u64 > JOB_MAX {
        bail!("the job is far too long");
    }
    let job: Job = serde_json::from_slice(&text).context("the job is none")?;
    drop(text);
    // Before any thread exists: what follows holds for all of them.
    confine(&job)?;
    let flag = Arc::clone(cancel);
    ctrlc::set_handler(move || flag.cancel()).context("cannot handle signals")?;
    let repo = job.grant.open(&job.scratch, job.memory)?;
    match &job.task {
        Task::Backup { run, host, exclude } => back_up(repo, run_id(run)?, &job.directory, host, exclude, cancel),
        Task::Restore { snapshot, delete } => put_back(repo, snapshot, &job.directory, *delete, cancel),
    }
}

fn back_up(
    mut repo: Repository,
    run: RunId,
    directory: &str,
    host: &str,
    exclude: &[String],
    cancel: &Cancel,
) -> Result<(Event, u64)> {
    let who = repo.identity(&mut SystemRng)?;
    let patterns = exclude.iter().map(|pattern| pattern.clone().into_bytes()).collect();
    let options = backup::Options {
        as_path: Some(Path::new("/").join(directory)),
        host: host.into(),
        one_file_system: true,
        exclude: Exclude::new(&ExcludeOptions { patterns, ..ExcludeOptions::default() })?,
        part_of: Some(run),
        program: PROGRAM.into(),
        ..backup::Options::new(vec![".".into()])
    };
    let lines = Lines::default();
    let done = backup::backup(&Arc::new(repo), &who, Box::new(SystemRng), &options, &lines, cancel)?;
    let files = done.counts.files.iter().sum();
    let snapshot = done.snapshot.map(|id| id.to_string());
    let problems = done.counts.problems;
    Ok((Event::Done { snapshot, files, bytes: done.counts.bytes, problems }, problems))
}

fn put_back(repo: Repository, snapshot: &str, directory: &str, delete: bool, cancel: &Cancel) -> Result<(Event, u64)> {
    let repo = Arc::new(repo);
    let view = repo.view()?;
    let snapshot = view.resolve(snapshot, |_| true)?;
    let cache = (repo.options().memory / 8) as usize;
    let reader = Reader::new(Arc::clone(&repo), Arc::clone(&view.index), cache);
    let options =
        restore::Options { delete, numeric_owner: true, target_attributes: true, ..restore::Options::default() };
    let lines = Lines::default();
    let below = format!("volumes/{directory}");
    let done = restore::restore(&reader, snapshot, below.as_bytes(), Path::new("."), &options, &lines, cancel)?;
    let (files, bytes) = (done.files_restored, done.bytes_restored);
    Ok((Event::Done { snapshot: None, files, bytes, problems: done.problems }, done.problems))
}

fn say(event: &Event) {
    let line = serde_json::to_string(event).expect("plain values");
    // Whoever does not listen any more will not be told why either.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Says progress and problems as lines.
struct Lines {
    files: AtomicU64,
    done: AtomicU64,
    total: AtomicU64,
    problems: AtomicU64,
    last: Mutex<Instant>,
}

impl Default for Lines {
    fn default() -> Self {
        let (files, done, total, problems) = Default::default();
        Self { files, done, total, problems, last: Mutex::new(Instant::now()) }
    }
}

impl Progress for Lines {
    fn expect(&self, _files: u64, bytes: u64) {
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }

    fn advance(&self, files: u64, bytes: u64) {
        let files = self.files.fetch_add(files, Ordering::Relaxed) + files;
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Ok(mut last) = self.last.try_lock()
            && last.elapsed() >= INTERVAL
        {
            *last = Instant::now();
            say(&Event::Progress { done, total: self.total.load(Ordering::Relaxed).max(done), files });
        }
    }

    fn problem(&self, problem: Problem) {
        if self.problems.fetch_add(1, Ordering::Relaxed) < TOLD_MAX {
            say(&Event::Problem { path: problem.path.display().to_string(), message: problem.message });
        }
    }
}
