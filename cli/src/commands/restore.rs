//! `restore`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};
use copal_engine::ops::restore::{Choice, Options, Patterns, Summary, restore};
use copal_engine::source::raise_open_files_limit;
use copal_engine::target;
use serde_json::json;

use crate::errors::{Outcome, usage};
use crate::open::Context;
use crate::progress::{Problems, Shown};
use crate::select::{Filter, one};
use crate::sources::read_patterns;
use crate::{size, time};

/// Flags of `restore`.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// Snapshot (the beginning of its id, latest, or latest~N), and perhaps a path in it: what is below comes into DIR itself
    #[arg(value_name = "ID[:SUBPATH]")]
    pub(crate) id: String,
    /// Where to
    #[arg(short, long, value_name = "DIR")]
    pub(crate) target: PathBuf,
    /// Which snapshots `latest` chooses from.
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// Restore only what matches (may be given several times)
    #[arg(short, long, value_name = "PATTERN")]
    pub(crate) include: Vec<OsString>,
    /// The same, upper and lower case alike
    #[arg(long, value_name = "PATTERN")]
    pub(crate) iinclude: Vec<OsString>,
    /// Read such patterns from a file
    #[arg(long, value_name = "FILE")]
    pub(crate) include_file: Vec<PathBuf>,
    /// The same, upper and lower case alike
    #[arg(long, value_name = "FILE")]
    pub(crate) iinclude_file: Vec<PathBuf>,
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
    /// What to do with files that are there
    #[arg(long, value_enum, value_name = "WHEN", default_value = "always")]
    pub(crate) overwrite: Overwrite,
    /// Remove what the snapshot does not have from the directories that are restored
    #[arg(long)]
    pub(crate) delete: bool,
    /// Read back what was written
    #[arg(long)]
    pub(crate) verify: bool,
    /// Also make holes where zeros were stored (holes that were holes come back without this)
    #[arg(long)]
    pub(crate) sparse: bool,
    /// Change nothing, tell what would be done
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// Leave owner and group as the system sets them
    #[arg(long)]
    pub(crate) no_owner: bool,
    /// Use the stored numbers of owners, whatever their names are here
    #[arg(long)]
    pub(crate) numeric_owner: bool,
    /// Leave out devices
    #[arg(long)]
    pub(crate) no_devices: bool,
    /// Leave out setuid and setgid bits and capabilities
    #[arg(long)]
    pub(crate) no_setuid: bool,
    /// Leave out extended attributes whose names match
    #[arg(long, value_name = "PATTERN")]
    pub(crate) exclude_xattr: Vec<OsString>,
}

/// What to do with files that are there.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Overwrite {
    /// Write all anew
    Always,
    /// Keep the bytes where size and time of change agree
    IfChanged,
    /// Write only what is older than in the snapshot
    IfNewer,
    /// Leave what is there as it is
    Never,
}

impl RestoreArgs {
    fn options(&self) -> Result<Options> {
        let bytes = |texts: &[OsString]| texts.iter().map(|t| t.clone().into_vec()).collect::<Vec<_>>();
        let both = |texts: &[OsString], files: &[PathBuf]| -> Result<Vec<Vec<u8>>> {
            Ok([bytes(texts), read_patterns(files)?].concat())
        };
        let patterns = Patterns {
            include: both(&self.include, &self.include_file)?,
            include_any_case: both(&self.iinclude, &self.iinclude_file)?,
            exclude: both(&self.exclude, &self.exclude_file)?,
            exclude_any_case: both(&self.iexclude, &self.iexclude_file)?,
        };
        let choice = Choice::new(&patterns).map_err(|e| usage(crate::errors::text(&e.into())))?;
        let overwrite = match self.overwrite {
            Overwrite::Always => target::Overwrite::Always,
            Overwrite::IfChanged => target::Overwrite::IfChanged,
            Overwrite::IfNewer => target::Overwrite::IfNewer,
            Overwrite::Never => target::Overwrite::Never,
        };
        Ok(Options {
            choice,
            overwrite,
            delete: self.delete,
            verify: self.verify,
            dry_run: self.dry_run,
            no_owner: self.no_owner,
            numeric_owner: self.numeric_owner,
            no_devices: self.no_devices,
            no_setuid: self.no_setuid,
            exclude_xattr: bytes(&self.exclude_xattr),
            sparse: self.sparse,
            target_attributes: false,
        })
    }
}

/// Restores.
pub(crate) fn run(context: &Context, args: &RestoreArgs) -> Result<Outcome> {
    let options = args.options()?;
    let _ = raise_open_files_limit();
    let opened = context.opened()?;
    let (snapshot, subpath) = one(&opened, &args.id, &args.filter)?;
    context.catch_interrupts()?;
    let begun = std::time::Instant::now();
    let shown = Shown::start(context, "restore");
    let done = restore(&opened.reader, snapshot, &subpath, &args.target, &options, shown.progress(), &context.cancel);
    let problems = shown.finish();
    let summary = done?;
    tell(context, args, &summary, &problems, begun.elapsed().as_millis() as u64)?;
    Ok(Outcome::of_problems(problems.count.max(summary.problems)))
}

fn tell(context: &Context, args: &RestoreArgs, s: &Summary, problems: &Problems, millis: u64) -> Result<()> {
    if context.out.json {
        return context.out.line(&json!({
            "message_type": "summary", "schema": 1, "seconds_elapsed": millis / 1000,
            "total_files": s.total_files, "files_restored": s.files_restored, "files_skipped": s.files_skipped,
            "files_failed": s.files_failed, "files_deleted": s.files_deleted, "total_bytes": s.total_bytes,
            "bytes_restored": s.bytes_restored, "bytes_skipped": s.bytes_skipped,
            "dry_run": args.dry_run, "errors": problems.to_json(),
        }));
    }
    let out = &context.out;
    let verb = if args.dry_run { "would restore" } else { "restored" };
    out.say(format!(
        "{verb} {} of {} files and directories ({} of {}) to {} in {}",
        s.files_restored,
        s.total_files,
        size::show(s.bytes_restored),
        size::show(s.total_bytes),
        args.target.display(),
        time::span(millis)
    ))?;
    for (count, what) in [
        (s.files_skipped, "left as they were"),
        (s.files_deleted, if args.dry_run { "would be deleted" } else { "deleted" }),
        (s.files_failed, "could not be restored"),
    ] {
        if count > 0 {
            out.say(format!("{count} {what}"))?;
        }
    }
    if problems.count > 0 {
        out.warn(format!("{} problems, listed above", problems.count));
    }
    Ok(())
}
