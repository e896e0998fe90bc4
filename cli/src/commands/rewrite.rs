//! `rewrite`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use anyhow::Result;
use clap::Args;
use copal_engine::crypto::rng::SystemRng;
use copal_engine::format::node::Timestamp;
use copal_engine::ops::Edited;
use copal_engine::ops::rewrite::{Options, rewrite};
use serde_json::json;

use super::edit::edit;
use crate::errors::{Outcome, usage};
use crate::open::Context;
use crate::select::Filter;
use crate::sources::PatternArgs;
use crate::{size, time};

const VERB: (&str, &str) = ("rewrite", "rewrite snapshots");

/// Flags of `rewrite`.
#[derive(Debug, Args)]
#[command(
    after_help = "Without an ID, all snapshots that the filters take are rewritten. A snapshot is never changed itself: a new one \
    with a new id is made. Without --forget the old one stays, and the new one gets the tag `rewrite`. What left takes its space \
    until the old snapshots are forgotten and pruned."
)]
pub(crate) struct RewriteArgs {
    /// Only these: beginnings of ids, latest, or latest~N
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// Which snapshots.
    #[command(flatten)]
    filter: Filter,
    /// What leaves them.
    #[command(flatten)]
    patterns: PatternArgs,
    /// Record this host
    #[arg(long, value_name = "HOST")]
    new_host: Option<OsString>,
    /// Record this time: 2006-01-02T15:04:05+01:00, or 2006-01-02 15:04:05 in local time
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    new_time: Option<Timestamp>,
    /// Forget the old snapshots
    #[arg(long)]
    forget: bool,
    /// Only say what would be changed
    #[arg(short = 'n', long)]
    dry_run: bool,
}

impl RewriteArgs {
    fn options(&self) -> Result<Options> {
        let options = Options {
            exclude: self.patterns.compile()?,
            host: self.new_host.as_ref().map(|host| host.as_bytes().to_vec()),
            time: self.new_time,
            forget: self.forget,
            dry_run: self.dry_run,
        };
        match (&options.exclude, &options.host, options.time) {
            (None, None, None) => {
                Err(usage("nothing to change: give --exclude and the like, --new-host or --new-time"))
            }
            _ => Ok(options),
        }
    }
}

/// Rewrites.
pub(crate) fn run(context: &Context, args: &RewriteArgs) -> Result<Outcome> {
    let options = args.options()?;
    let print = |context: &Context, edited: &Edited| print(context, args, edited);
    let (count, problems) = edit(context, VERB, (&args.ids, &args.filter), print, |of, done| {
        rewrite(of.repo, of.who, Box::new(SystemRng), of.chosen, &options, of.watched, done)
    })?;
    tell(context, args, count)?;
    Ok(Outcome::of_problems(problems))
}

fn print(context: &Context, args: &RewriteArgs, edited: &Edited) -> Result<()> {
    let [files, dirs, others] = edited.left;
    if context.out.json {
        return context.out.line(&json!({
            "message_type": "changed", "schema": 1,
            "old_snapshot_id": edited.old.to_string(),
            "new_snapshot_id": edited.new.map(|id| id.to_string()).unwrap_or_default(),
            "old_forgotten": args.forget && edited.new.is_some(),
            "files_removed": files, "dirs_removed": dirs, "others_removed": others, "bytes_removed": edited.left_bytes,
        }));
    }
    let old = edited.old.short();
    let what = match edited.new {
        Some(new) if args.forget => format!("snapshot {old} is now {}", new.short()),
        Some(new) => format!("snapshot {old} stays, and {} is made of it", new.short()),
        None => format!("snapshot {old} would be rewritten"),
    };
    let left = match files + dirs + others {
        0 => String::new(),
        _ => format!(
            ", without {files} files, {dirs} directories and {others} others, together {}",
            size::show(edited.left_bytes)
        ),
    };
    Ok(context.out.say(format!("{what}{left}"))?)
}

fn tell(context: &Context, args: &RewriteArgs, count: u64) -> Result<()> {
    if context.out.json {
        return context.out.line(&json!({
            "message_type": "summary", "schema": 1, "changed_snapshots": count, "dry_run": args.dry_run,
        }));
    }
    let text = match (count, args.dry_run) {
        (0, _) => "no snapshot needs to be changed".into(),
        (n, true) => format!("dry run: {n} snapshots would be rewritten"),
        (n, false) => format!("rewrote {n} snapshots"),
    };
    Ok(context.out.say(text)?)
}
