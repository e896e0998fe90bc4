//! What is backed up and what is left out: paths, lists of paths, pipes, patterns.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context as _, Result};
use clap::Args;
use copal_engine::ops::backup::Stream;
use copal_engine::source::exclude::{Exclude, ExcludeOptions, parse_exclude_file};
use copal_engine::source::files_from;

use crate::commands::backup::BackupArgs;
use crate::errors::usage;
use crate::open::Context;
use crate::place::variable;
use crate::size;

/// Patterns of paths to leave out.
#[derive(Debug, Args)]
pub(crate) struct PatternArgs {
    /// Leave out what matches (may be given several times)
    #[arg(short, long, value_name = "PATTERN")]
    exclude: Vec<OsString>,
    /// The same, upper and lower case alike
    #[arg(long, value_name = "PATTERN")]
    iexclude: Vec<OsString>,
    /// Read such patterns from a file
    #[arg(long, value_name = "FILE")]
    exclude_file: Vec<PathBuf>,
    /// The same, upper and lower case alike
    #[arg(long, value_name = "FILE")]
    iexclude_file: Vec<PathBuf>,
}

/// What to leave out.
#[derive(Debug, Args)]
pub(crate) struct ExcludeArgs {
    /// By paths.
    #[command(flatten)]
    patterns: PatternArgs,
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

/// The paths, and the pipe if the bytes come from one.
pub(crate) fn sources(context: &Context, args: &BackupArgs) -> Result<(Vec<PathBuf>, Option<Stream>)> {
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

impl PatternArgs {
    fn options(&self) -> Result<ExcludeOptions> {
        let bytes = |texts: &[OsString]| texts.iter().map(|t| t.clone().into_vec()).collect::<Vec<_>>();
        let mut options = ExcludeOptions {
            patterns: bytes(&self.exclude),
            patterns_any_case: bytes(&self.iexclude),
            ..ExcludeOptions::default()
        };
        options.patterns.extend(read_patterns(&self.exclude_file)?);
        options.patterns_any_case.extend(read_patterns(&self.iexclude_file)?);
        Ok(options)
    }

    /// All of them in one predicate; `None` where there is none.
    pub(crate) fn compile(&self) -> Result<Option<Exclude>> {
        let options = self.options()?;
        let none = options.patterns.is_empty() && options.patterns_any_case.is_empty();
        if none { Ok(None) } else { compile(&options).map(Some) }
    }
}

impl ExcludeArgs {
    /// All of them in one predicate.
    pub(crate) fn compile(&self) -> Result<Exclude> {
        compile(&ExcludeOptions {
            caches: self.exclude_caches,
            if_present: self.exclude_if_present.iter().map(|t| t.clone().into_vec()).collect(),
            larger_than: self.exclude_larger_than,
            ..self.patterns.options()?
        })
    }
}

fn compile(options: &ExcludeOptions) -> Result<Exclude> {
    Exclude::new(options).map_err(|e| usage(crate::errors::text(&e.into())))
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
            return Err(usage(
                "--stdin-from-command needs a command: copal backup --stdin-from-command -- COMMAND ARG...",
            ));
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
