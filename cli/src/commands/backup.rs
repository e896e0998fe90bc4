//! `backup`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use anyhow::Result;
use clap::Args;
use copal_engine::compress::Level;
use copal_engine::crypto::rng::SystemRng;
use copal_engine::format::node::Timestamp;
use copal_engine::ops::backup::{Options, Parent, Summary, backup};
use copal_engine::repo::Repository;
use copal_engine::source::raise_open_files_limit;
use serde_json::json;

use super::init::open_or_make_default;
use super::tag::labels;
use super::version::PROGRAM;
use crate::errors::Outcome;
use crate::open::Context;
use crate::place::{hostname, user_name};
use crate::progress::{Problems, Shown};
use crate::sources::{ExcludeArgs, sources};
use crate::{size, time};

/// Flags of `backup`.
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// Files and directories to back up; with --stdin-from-command the command and its arguments
    #[arg(value_name = "PATH")]
    pub(crate) paths: Vec<OsString>,
    /// Tags of the new snapshot
    #[arg(long, value_name = "TAG[,TAG...]")]
    pub(crate) tag: Vec<OsString>,
    /// Host to record [default: the name of this machine]
    #[arg(short = 'H', long, value_name = "HOST")]
    pub(crate) host: Option<OsString>,
    /// When the data was as it is: 2006-01-02T15:04:05+01:00, or 2006-01-02 15:04:05 in local time [default: now]
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    pub(crate) time: Option<Timestamp>,
    /// Store the one PATH under this absolute path
    #[arg(long, value_name = "PATH")]
    pub(crate) as_path: Option<PathBuf>,
    /// What to leave out.
    #[command(flatten)]
    pub(crate) exclude: ExcludeArgs,
    /// Read paths from a file: a pattern a line, # comments (may be given several times; - is stdin)
    #[arg(long, value_name = "FILE")]
    pub(crate) files_from: Vec<PathBuf>,
    /// Read paths from a file: one a line, as it stands
    #[arg(long, value_name = "FILE")]
    pub(crate) files_from_verbatim: Vec<PathBuf>,
    /// Read paths from a file: each ended by a zero byte
    #[arg(long, value_name = "FILE")]
    pub(crate) files_from_raw: Vec<PathBuf>,
    /// Stay on the file systems of the paths
    #[arg(short = 'x', long)]
    pub(crate) one_file_system: bool,
    /// Back up what comes from stdin
    #[arg(long, conflicts_with_all = ["stdin_from_command", "files_from", "files_from_verbatim", "files_from_raw"])]
    pub(crate) stdin: bool,
    /// Back up what a command prints: copal backup --stdin-from-command -- COMMAND ARG...; fails unless it exits with 0
    #[arg(long, conflicts_with_all = ["files_from", "files_from_verbatim", "files_from_raw"])]
    pub(crate) stdin_from_command: bool,
    /// Name of the file that stdin is stored as
    #[arg(long, value_name = "NAME", default_value = "stdin")]
    pub(crate) stdin_filename: PathBuf,
    /// Compare with this snapshot [default: the last one of the same paths from this writer]
    #[arg(long, value_name = "ID", conflicts_with = "force")]
    pub(crate) parent: Option<String>,
    /// Read all files, changed or not
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Take a file for unchanged though its ctime differs
    #[arg(long)]
    pub(crate) ignore_ctime: bool,
    /// Neither compare nor store inode numbers and ctimes, nor store birth times (clones of volumes)
    #[arg(long)]
    pub(crate) ignore_inode: bool,
    /// Read and compare, store nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// How hard to compress: off, fast, auto, better or max
    #[arg(long, value_name = "LEVEL", default_value = "auto")]
    pub(crate) compression: Level,
    /// Files read at once [default: --threads]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) read_concurrency: Option<u16>,
    /// Make no snapshot if nothing changed
    #[arg(long)]
    pub(crate) skip_if_unchanged: bool,
}

/// Backs up.
pub(crate) fn run(context: &Context, args: &BackupArgs) -> Result<Outcome> {
    let mut options = options(context, args)?;
    let _ = raise_open_files_limit();
    let mut repo = open_or_make_default(context)?;
    options.parent = parent(&repo, args)?;
    let who = repo.identity(&mut SystemRng)?;
    let repo = Arc::new(repo);
    context.catch_interrupts()?;
    let started = now();
    let shown = Shown::start(context, "archival");
    let done = backup(&repo, &who, Box::new(SystemRng), &options, shown.progress(), &context.cancel);
    let problems = shown.finish();
    let summary = done?;
    tell(context, args, &summary, &problems, started)?;
    Ok(Outcome::of_problems(problems.count.max(summary.counts.problems)))
}

fn now() -> Timestamp {
    copal_engine::repo::init::now()
}

fn options(context: &Context, args: &BackupArgs) -> Result<Options> {
    let (paths, stream) = sources(context, args)?;
    let id = rustix::process::getuid().as_raw();
    Ok(Options {
        paths,
        stream: Mutex::new(stream),
        as_path: args.as_path.clone(),
        host: args.host.as_ref().map_or_else(hostname, |h| h.as_bytes().to_vec()),
        user: (user_name(), id, rustix::process::getgid().as_raw()),
        labels: labels(&args.tag),
        time: args.time,
        exclude: args.exclude.compile()?,
        one_file_system: args.one_file_system,
        ignore_inode: args.ignore_inode,
        ignore_ctime: args.ignore_ctime,
        parent: Parent::Auto,
        level: args.compression.zstd(),
        dry_run: args.dry_run,
        part_of: None,
        skip_if_unchanged: args.skip_if_unchanged,
        program: PROGRAM.into(),
    })
}

fn parent(repo: &Repository, args: &BackupArgs) -> Result<Parent> {
    match (&args.parent, args.force) {
        (None, false) => Ok(Parent::Auto),
        (None, true) => Ok(Parent::None),
        (Some(id), _) => Ok(Parent::Given(repo.committed()?.resolve(id, |_| true)?.id())),
    }
}

fn tell(
    context: &Context,
    args: &BackupArgs,
    summary: &Summary,
    problems: &Problems,
    started: Timestamp,
) -> Result<()> {
    let c = &summary.counts;
    if context.out.json {
        let [files, dirs] = [c.files, c.dirs];
        let left_out = problems.first.iter().filter(|p| matches!(p.kind.as_str(), "unreadable" | "skipped")).count();
        return context.out.line(&json!({
            "message_type": "summary", "schema": 1,
            "files_new": files[0], "files_changed": files[1], "files_unmodified": files[2],
            "dirs_new": dirs[0], "dirs_changed": dirs[1], "dirs_unmodified": dirs[2],
            "data_blobs": c.blobs[0], "tree_blobs": c.blobs[1],
            "data_added": c.added, "data_added_packed": c.stored,
            "total_files_processed": files.iter().sum::<u64>(), "total_bytes_processed": c.bytes,
            "total_duration": c.millis as f64 / 1000.0,
            "backup_start": time::rfc3339(started), "backup_end": time::rfc3339(now()),
            "snapshot_id": summary.snapshot.map(|id| id.to_string()).unwrap_or_default(),
            "dry_run": args.dry_run,
            "errors": problems.to_json(), "skipped": left_out,
        }));
    }
    let out = &context.out;
    let [files, dirs] = [c.files, c.dirs];
    out.say(format!("files: {} new, {} changed, {} unmodified", files[0], files[1], files[2]))?;
    out.say(format!("dirs:  {} new, {} changed, {} unmodified", dirs[0], dirs[1], dirs[2]))?;
    let verb = if args.dry_run { "would add" } else { "added" };
    let stored = if args.dry_run { String::new() } else { format!(" ({} stored)", size::show(c.stored)) };
    out.say(format!("{verb} to the repository: {}{stored}", size::show(c.added)))?;
    out.say(format!(
        "processed {} files, {} in {}",
        files.iter().sum::<u64>() + c.others,
        size::show(c.bytes),
        time::span(c.millis)
    ))?;
    if summary.mounts_skipped > 0 {
        out.say(format!("left out {} other file systems", summary.mounts_skipped))?;
    }
    match (summary.snapshot, args.dry_run) {
        (Some(id), _) => {
            out.say(format!("snapshot {} saved", id.short()))?;
            out.say(format!("to get it back: copal restore {} --target DIR", id.short()))?;
        }
        (None, true) => out.say("dry run: no snapshot was made")?,
        (None, false) => out.say("nothing changed: no snapshot was made")?,
    }
    if problems.count > 0 {
        out.warn(format!("{} problems, listed above: the snapshot is not complete", problems.count));
    }
    Ok(())
}
