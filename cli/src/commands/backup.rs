//! `backup`.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};
use clap::Args;
use copal_engine::compress::Level;
use copal_engine::crypto::rng::SystemRng;
use copal_engine::format::node::Timestamp;
use copal_engine::ops::backup::{Options, Parent, Stream, Summary, backup};
use copal_engine::repo::{Repository, view};
use copal_engine::source::exclude::{Exclude, ExcludeOptions, parse_exclude_file};
use copal_engine::source::{files_from, raise_open_files_limit};
use serde_json::json;

use super::init::open_or_make_default;
use super::version::PROGRAM;
use crate::errors::{Outcome, usage};
use crate::open::{Context, hostname, user_name, variable};
use crate::progress::{Problems, Shown};
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
    /// Neither compare nor store inode numbers and ctimes (clones of volumes)
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

/// What to leave out.
#[derive(Debug, Args)]
pub(crate) struct ExcludeArgs {
    /// Leave out what matches (may be given several times)
    #[arg(short, long, value_name = "PATTERN")]
    pub(crate) exclude: Vec<OsString>,
    /// The same, upper and lower case alike
    #[arg(long, value_name = "PATTERN")]
    pub(crate) iexclude: Vec<OsString>,
    /// Read such patterns from a file
    #[arg(long, value_name = "FILE")]
    pub(crate) exclude_file: Vec<PathBuf>,
    /// The same, upper and lower case alike
    #[arg(long, value_name = "FILE")]
    pub(crate) iexclude_file: Vec<PathBuf>,
    /// Leave out what is in directories with a CACHEDIR.TAG
    #[arg(long)]
    pub(crate) exclude_caches: bool,
    /// Leave out what is in directories with such a file (that begins with HEADER)
    #[arg(long, value_name = "NAME[:HEADER]")]
    pub(crate) exclude_if_present: Vec<OsString>,
    /// Leave out larger files
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub(crate) exclude_larger_than: Option<u64>,
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
    let split = |list: &OsString| list.as_bytes().split(|&b| b == b',').map(<[u8]>::to_vec).collect::<Vec<_>>();
    let labels = args.tag.iter().flat_map(split).filter(|tag| !tag.is_empty()).collect();
    let id = rustix::process::getuid().as_raw();
    Ok(Options {
        paths,
        stream: Mutex::new(stream),
        as_path: args.as_path.clone(),
        host: args.host.as_ref().map_or_else(hostname, |h| h.as_bytes().to_vec()),
        user: (user_name(), id, rustix::process::getgid().as_raw()),
        labels,
        time: args.time,
        exclude: args.exclude.compile()?,
        one_file_system: args.one_file_system,
        ignore_inode: args.ignore_inode,
        ignore_ctime: args.ignore_ctime,
        parent: Parent::Auto,
        level: args.compression.zstd(),
        dry_run: args.dry_run,
        skip_if_unchanged: args.skip_if_unchanged,
        program: PROGRAM.into(),
    })
}

fn parent(repo: &Repository, args: &BackupArgs) -> Result<Parent> {
    match (&args.parent, args.force) {
        (None, false) => Ok(Parent::Auto),
        (None, true) => Ok(Parent::None),
        (Some(id), _) => Ok(Parent::Given(view::resolve(&repo.snapshots()?.0, id, |_| true)?.id())),
    }
}

/// The paths, and the pipe if the bytes come from one.
fn sources(context: &Context, args: &BackupArgs) -> Result<(Vec<PathBuf>, Option<Stream>)> {
    let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let stream = |reader: Box<dyn Read + Send>| Some(Stream { reader: Mutex::new(reader), owner });
    if args.stdin_from_command {
        return Ok((vec![args.stdin_filename.clone()], stream(Box::new(CommandOutput::start(&args.paths)?))));
    }
    if args.stdin {
        if !args.paths.is_empty() {
            return Err(usage("--stdin takes no paths: the name of the file is given by --stdin-filename"));
        }
        return Ok((vec![args.stdin_filename.clone()], stream(Box::new(io::stdin()))));
    }
    let mut paths: Vec<PathBuf> = args.paths.iter().map(PathBuf::from).collect();
    let cwd = std::env::current_dir().context("the working directory is gone")?;
    for list in &args.files_from {
        for line in files_from::expand(&read_list(list)?, &cwd)? {
            if line.paths.is_empty() {
                context.out.warn(format!("nothing matches {} in {}", line.pattern.display(), list.display()));
            }
            paths.extend(line.paths);
        }
    }
    for list in &args.files_from_verbatim {
        paths.extend(files_from::parse_verbatim(&read_list(list)?));
    }
    for list in &args.files_from_raw {
        paths.extend(files_from::parse_raw(&read_list(list)?)?);
    }
    if paths.is_empty() {
        return Err(usage("nothing to back up: name files or directories, or a list of them that is not empty"));
    }
    Ok((paths, None))
}

fn read_list(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = match path.as_os_str().as_bytes() {
        b"-" => io::stdin().read_to_end(&mut bytes).map(|_| bytes),
        _ => std::fs::read(path),
    };
    read.with_context(|| format!("cannot read the list {}", path.display()))
}

impl ExcludeArgs {
    /// All of them in one predicate.
    pub(crate) fn compile(&self) -> Result<Exclude> {
        let bytes = |texts: &[OsString]| texts.iter().map(|t| t.clone().into_vec()).collect::<Vec<_>>();
        let mut options = ExcludeOptions {
            patterns: bytes(&self.exclude),
            patterns_any_case: bytes(&self.iexclude),
            caches: self.exclude_caches,
            if_present: bytes(&self.exclude_if_present),
            larger_than: self.exclude_larger_than,
        };
        options.patterns.extend(read_patterns(&self.exclude_file)?);
        options.patterns_any_case.extend(read_patterns(&self.iexclude_file)?);
        Exclude::new(&options).map_err(|e| usage(crate::errors::text(&e.into())))
    }
}

/// The patterns in files, with variables of the environment replaced.
pub(crate) fn read_patterns(files: &[PathBuf]) -> Result<Vec<Vec<u8>>> {
    let mut patterns = Vec::new();
    for file in files {
        patterns.extend(parse_exclude_file(&read_list(file)?, &variable));
    }
    Ok(patterns)
}

/// What a command prints; an error at its end unless it succeeded, so that a half of a dump is never a snapshot.
struct CommandOutput {
    child: Child,
    name: String,
}

impl CommandOutput {
    fn start(words: &[OsString]) -> Result<Self> {
        let Some((program, rest)) = words.split_first() else {
            return Err(usage("--stdin-from-command needs a command: copal backup --stdin-from-command -- COMMAND ARG..."));
        };
        let child = Command::new(program).args(rest).stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let name = program.to_string_lossy().into_owned();
        Ok(Self { child: child.with_context(|| format!("cannot start {name}"))?, name })
    }
}

impl Read for CommandOutput {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.child.stdout.as_mut().expect("it was asked for").read(buf)?;
        if n > 0 || buf.is_empty() {
            return Ok(n);
        }
        let status = self.child.wait()?;
        if status.success() { Ok(0) } else { Err(io::Error::other(format!("{} failed: {status}", self.name))) }
    }
}

impl Drop for CommandOutput {
    /// Whoever stops reading early leaves no process behind.
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn tell(context: &Context, args: &BackupArgs, summary: &Summary, problems: &Problems, started: Timestamp) -> Result<()> {
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
        (Some(id), _) => out.say(format!("snapshot {} saved", id.short()))?,
        (None, true) => out.say("dry run: no snapshot was made")?,
        (None, false) => out.say("nothing changed: no snapshot was made")?,
    }
    if problems.count > 0 {
        out.warn(format!("{} problems, listed above: the snapshot is not complete", problems.count));
    }
    Ok(())
}
