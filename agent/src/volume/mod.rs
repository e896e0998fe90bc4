//! One volume: the one-shot command, and the child that a node's agent starts.

pub mod child;
pub mod confine;
pub mod job;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use copal_engine::Error;
use copal_engine::crypto::rng::SystemRng;
use copal_engine::format::bundle::Bundle;
use copal_engine::id::{SessionId, WriterId};
use copal_engine::ops::{backup, restore};
use copal_engine::progress::{Cancel, Problem, Progress};
use copal_engine::repo::{self, Bridge, Locked, Opener, Reader, Repository};
use copal_engine::store::url::{self, Location};
use serde_json::json;

use crate::api::items::RunRef;

/// What snapshots say that they were written by.
pub const PROGRAM: &str = concat!("copal-agent ", env!("CARGO_PKG_VERSION"));

/// The directory of a snapshot of one volume.
const VOLUME: &str = "volume";

/// A session of a writer.
pub type RunId = (WriterId, SessionId);

/// The run that a resource names.
pub fn run_id(run: &RunRef) -> Result<RunId> {
    Ok((run.writer.parse().context("the run's writer")?, run.session.parse().context("the run's session")?))
}

/// How a resource names a run.
pub fn run_ref((writer, session): RunId) -> RunRef {
    RunRef { writer: writer.to_string(), session: session.to_string() }
}

/// As the command line's: 10 no repository, 11 busy, 12 wrong key, 1 otherwise.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(match error.downcast_ref::<Error>() {
        Some(Error::NoRepository { .. }) => 10,
        Some(Error::Busy(_)) => 11,
        Some(Error::WrongKey(_) | Error::NotAllowed { .. }) => 12,
        _ => 1,
    })
}

/// One volume, mounted as a directory.
#[derive(Subcommand)]
pub enum Volume {
    /// Back up the content of DIR
    Backup {
        /// The repository
        #[command(flatten)]
        place: Place,
        /// What to record as host: the pod or claim [default: the machine's name]
        #[arg(long, env = "COPAL_HOST")]
        host: Option<OsString>,
        /// A tag of the new snapshot (may be given several times)
        #[arg(long)]
        tag: Vec<OsString>,
        /// Inode numbers and ctimes are a clone's own: compare sizes and mtimes only
        #[arg(long)]
        ignore_inode: bool,
        /// The volume's directory
        dir: PathBuf,
    },
    /// Restore a volume backup into DIR
    Restore {
        /// The repository
        #[command(flatten)]
        place: Place,
        /// The snapshot: latest, latest~N, or the first digits of an id
        #[arg(long, default_value = "latest")]
        snapshot: String,
        /// Remove what the snapshot does not have
        #[arg(long)]
        delete: bool,
        /// The volume's directory
        dir: PathBuf,
    },
}

/// Where the repository is, and what opens it.
#[derive(Args)]
pub struct Place {
    /// The repository: a path, or s3:https://host/bucket/prefix
    #[arg(long, env = "COPAL_REPOSITORY")]
    repo: OsString,
    /// A key bundle, from a Secret
    #[arg(long, env = "COPAL_KEY_FILE")]
    key_file: PathBuf,
    /// A directory for the local index; without one it is built anew each time
    #[arg(long, env = "COPAL_CACHE_DIR")]
    cache_dir: Option<PathBuf>,
    /// Where an owner's key keeps this machine's identity
    #[arg(long, env = "COPAL_STATE_DIR", default_value = "/var/lib/copal")]
    state_dir: PathBuf,
    /// Cap on memory, in MiB
    #[arg(long, default_value_t = 256)]
    memory: u64,
}

impl Place {
    fn open(&self) -> Result<Repository> {
        let location = Location::parse(&self.repo)?;
        let bridge = Bridge::start().context("cannot start threads")?;
        let store = bridge.wait(url::open(&location, &url::Options::default())).map_err(Error::from)?;
        let text = std::fs::read_to_string(&self.key_file)
            .with_context(|| format!("cannot read the key file {}", self.key_file.display()))?;
        let bundle = Bundle::from_text(&zeroize::Zeroizing::new(text))
            .with_context(|| format!("{} holds no key", self.key_file.display()))?;
        let mut options = repo::Options::new(&self.state_dir);
        (options.cache, options.state) = (self.cache_dir.clone(), self.state_dir.clone());
        options.memory = self.memory.max(64) << 20;
        Ok(Locked::find(store, bridge)?.unlock(Opener::Bundle(Box::new(bundle)), options)?)
    }
}

/// Prints each problem as it comes.
struct Lines;

impl Progress for Lines {
    fn problem(&self, problem: Problem) {
        eprintln!("copal-agent: {problem}");
    }
}

/// Does it, and prints what was done.
pub fn main(volume: Volume) -> ExitCode {
    let done = match volume {
        Volume::Backup { place, host, tag, ignore_inode, dir } => back_up(&place, host, tag, ignore_inode, &dir),
        Volume::Restore { place, snapshot, delete, dir } => put_back(&place, &snapshot, delete, &dir),
    };
    match done {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(3),
        Err(e) => {
            eprintln!("copal-agent: {e:#}");
            exit_code(&e)
        }
    }
}

/// How many problems there were.
fn back_up(place: &Place, host: Option<OsString>, tags: Vec<OsString>, ignore_inode: bool, dir: &Path) -> Result<u64> {
    let mut repo = place.open()?;
    let who = repo.identity(&mut SystemRng)?;
    let host = host.map_or_else(machine, OsStringExt::into_vec);
    let options = backup::Options {
        // Wherever it was mounted; not the snapshot's root, which has no attributes.
        as_path: Some(Path::new("/").join(VOLUME)),
        host,
        labels: tags.into_iter().map(OsStringExt::into_vec).collect(),
        one_file_system: true,
        ignore_inode,
        program: PROGRAM.into(),
        ..backup::Options::new(vec![dir.to_owned()])
    };
    let done = backup::backup(&Arc::new(repo), &who, Box::new(SystemRng), &options, &Lines, &Cancel::default())?;
    let document = json!({
        "schema": 1,
        "snapshot_id": done.snapshot.map(|id| id.to_string()),
        "files_new": done.counts.files[0],
        "files_changed": done.counts.files[1],
        "files_unmodified": done.counts.files[2],
        "total_bytes_processed": done.counts.bytes,
        "data_added": done.counts.added,
        "data_added_packed": done.counts.stored,
        "errors": done.counts.problems,
    });
    println!("{document}");
    Ok(done.counts.problems)
}

fn put_back(place: &Place, snapshot: &str, delete: bool, dir: &Path) -> Result<u64> {
    let repo = Arc::new(place.open()?);
    let view = repo.view()?;
    for problem in &view.problems {
        Lines.problem(problem.clone());
    }
    let snapshot = view.resolve(snapshot, |_| true)?;
    let cache = (place.memory << 20) as usize / 8;
    let reader = Reader::new(Arc::clone(&repo), Arc::clone(&view.index), cache);
    let options =
        restore::Options { delete, target_attributes: true, numeric_owner: true, ..restore::Options::default() };
    let done = restore::restore(&reader, snapshot, VOLUME.as_bytes(), dir, &options, &Lines, &Cancel::default())?;
    let document = json!({
        "schema": 1,
        "snapshot_id": snapshot.id().to_string(),
        "total_files": done.total_files,
        "files_restored": done.files_restored,
        "files_skipped": done.files_skipped,
        "files_deleted": done.files_deleted,
        "total_bytes": done.total_bytes,
        "bytes_restored": done.bytes_restored,
        "errors": done.problems,
    });
    println!("{document}");
    Ok(done.problems + view.problems.len() as u64)
}

fn machine() -> Vec<u8> {
    std::fs::read("/proc/sys/kernel/hostname").map_or_else(|_| b"unknown".to_vec(), |name| name.trim_ascii().to_vec())
}
