//! `mount`.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::Args;
use copal_engine::ops::vfs::{self, DEFAULT_TEMPLATES, Template, Vfs};
use copal_engine::progress::{Cancel, Problem, Progress};
use serde_json::json;

use crate::errors::{Outcome, text, usage};
use crate::fuse::{Ended, MountOptions, serve};
use crate::open::Context;
use crate::output::{Output, shown};
use crate::select::Filter;
use crate::time;

/// Fewest and most requests that are served at once; in between, as many as the store takes.
const THREADS: (usize, usize) = (4, 64);
/// Least room for caches: some directories and chunks.
const CACHE_BYTES_MIN: u64 = 32 << 20;

/// Flags of `mount`.
#[derive(Debug, Args)]
pub(crate) struct MountArgs {
    /// An existing directory
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Which snapshots to show.
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// Let other users in; they see what owners, modes and ACLs in the snapshots allow them
    #[arg(long)]
    pub(crate) allow_other: bool,
    /// Where snapshots stand: %i short id, %I id, %u user, %h host, %t tag, %T time, %% percent (may be given several times)
    /// [default: ids/%i snapshots/%T hosts/%h/%T tags/%t/%T]
    #[arg(long, value_name = "TEMPLATE")]
    pub(crate) path_template: Vec<String>,
    /// Let devices in snapshots be devices
    #[arg(long)]
    pub(crate) dev: bool,
    /// Let setuid bits and file capabilities in snapshots count
    #[arg(long)]
    pub(crate) suid: bool,
}

/// Mounts the repository until Ctrl-C, SIGTERM or an unmount by somebody else.
pub(crate) fn run(context: &Context, args: &MountArgs) -> Result<Outcome> {
    let templates = templates(&args.path_template)?;
    let cancel = catch_interrupts()?;
    let repo = Arc::new(context.repository()?);
    let filter = args.filter.clone();
    let memory = (context.global.memory / 2).max(CACHE_BYTES_MIN);
    let options = vfs::Options {
        templates,
        time: Box::new(time::name),
        chosen: Box::new(move |snapshot| filter.takes(snapshot)),
        owner: (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw()),
        ..vfs::Options::new(usize::try_from(memory).unwrap_or(usize::MAX))
    };
    let vfs = Arc::new(Vfs::new(repo, options, Arc::new(Tell(context.out)))?);
    let options = MountOptions {
        allow_other: args.allow_other,
        dev: args.dev,
        suid: args.suid,
        threads: usize::from(context.global.connections).clamp(THREADS.0, THREADS.1),
    };
    match serve(vfs, &args.dir, options, &cancel, || mounted(context, args))? {
        Ended::Unmounted => {}
        Ended::Detached => context.out.warn("files in it were still open: it is unmounted, and reading them fails now"),
        Ended::Elsewhere => context.out.note(format!("{} was unmounted", args.dir.display())),
    }
    Ok(Outcome::Done)
}

fn templates(given: &[String]) -> Result<Vec<Template>> {
    let parse = |text: &str| Template::parse(text).map_err(|e| usage(e.to_string()));
    match given {
        [] => DEFAULT_TEMPLATES.into_iter().map(parse).collect(),
        given => given.iter().map(|text| parse(text)).collect(),
    }
}

/// The first Ctrl-C (or SIGTERM) unmounts, the second ends the process at once.
fn catch_interrupts() -> Result<Arc<Cancel>> {
    let cancel = Arc::new(Cancel::default());
    let asked = Arc::clone(&cancel);
    let handler = move || {
        if asked.is_canceled() {
            std::process::exit(130);
        }
        asked.cancel();
    };
    ctrlc::set_handler(handler).context("cannot catch Ctrl-C")?;
    Ok(cancel)
}

fn mounted(context: &Context, args: &MountArgs) {
    if context.out.json {
        let line = json!({"message_type": "mounted", "mountpoint": args.dir.to_string_lossy(), "schema": 1});
        if let Err(e) = context.out.line(&line) {
            context.out.warn(text(&e));
        }
    } else {
        context.out.note(format!("mounted at {}; Ctrl-C unmounts it", args.dir.display()));
    }
}

/// Tells what cannot be read, a line each.
struct Tell(Output);

impl Progress for Tell {
    fn problem(&self, problem: Problem) {
        if !self.0.json {
            let item = shown(problem.path.as_os_str().as_bytes());
            return self.0.warn(format!("{}: {item}: {}", problem.kind.as_str(), problem.message));
        }
        let line = json!({
            "message_type": "error",
            "error": {"message": problem.message},
            "during": "mount",
            "item": problem.path.to_string_lossy(),
            "schema": 1,
        });
        eprintln!("{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_that_make_no_sense_are_a_bad_command_line() {
        assert_eq!(templates(&[]).unwrap().len(), 4);
        let error = templates(&["%x".into()]).unwrap_err();
        assert!(error.is::<crate::errors::Usage>(), "{error}");
    }
}
