//! `tag`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use anyhow::Result;
use clap::Args;
use copal_engine::crypto::rng::SystemRng;
use copal_engine::ops::Edited;
use copal_engine::ops::tag::{Change, tag};
use serde_json::json;

use super::edit::edit;
use crate::errors::{Outcome, usage};
use crate::open::Context;
use crate::output::{lossy, shown};
use crate::select::Filter;

const VERB: (&str, &str) = ("tag", "change the tags of snapshots");

/// Flags of `tag`.
#[derive(Debug, Args)]
#[command(
    after_help = "Without an ID, all snapshots that the filters take are changed. A snapshot is never changed itself: a new one \
    with a new id, and the same time and content, takes its place, and the old one is forgotten."
)]
pub(crate) struct TagArgs {
    /// Only these: beginnings of ids, latest, or latest~N
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// Which snapshots.
    #[command(flatten)]
    filter: Filter,
    /// Give them these tags and no others ('': none)
    #[arg(long, value_name = "TAG[,TAG...]", conflicts_with_all = ["add", "remove"])]
    set: Vec<OsString>,
    /// Add these tags
    #[arg(long, value_name = "TAG[,TAG...]")]
    add: Vec<OsString>,
    /// Remove these tags
    #[arg(long, value_name = "TAG[,TAG...]")]
    remove: Vec<OsString>,
    /// Only say what would be changed
    #[arg(short = 'n', long)]
    dry_run: bool,
}

impl TagArgs {
    fn change(&self) -> Result<Change> {
        if [&self.set, &self.add, &self.remove].iter().all(|list| list.is_empty()) {
            return Err(usage("nothing to change: give --set, --add or --remove"));
        }
        Ok(match self.set.is_empty() {
            false => Change::Set(labels(&self.set)),
            true => Change::Edit { add: labels(&self.add), remove: labels(&self.remove) },
        })
    }
}

/// The tags in lists of them.
pub(crate) fn labels(lists: &[OsString]) -> Vec<Vec<u8>> {
    let split = |list: &OsString| list.as_bytes().split(|&b| b == b',').map(<[u8]>::to_vec).collect::<Vec<_>>();
    lists.iter().flat_map(split).filter(|tag| !tag.is_empty()).collect()
}

/// Changes tags.
pub(crate) fn run(context: &Context, args: &TagArgs) -> Result<Outcome> {
    let change = args.change()?;
    let (count, problems) = edit(context, VERB, (&args.ids, &args.filter), print, |of, done| {
        tag(of.repo, of.who, Box::new(SystemRng), of.chosen, &change, args.dry_run, of.watched, done)
    })?;
    tell(context, args, count)?;
    Ok(Outcome::of_problems(problems))
}

fn print(context: &Context, edited: &Edited) -> Result<()> {
    let labels = &edited.names.labels;
    if context.out.json {
        return context.out.line(&json!({
            "message_type": "changed", "schema": 1,
            "old_snapshot_id": edited.old.to_string(),
            "new_snapshot_id": edited.new.map(|id| id.to_string()).unwrap_or_default(),
            "tags": labels.iter().map(|l| lossy(l)).collect::<Vec<_>>(),
        }));
    }
    let tags = match &labels.iter().map(|l| shown(l)).collect::<Vec<_>>()[..] {
        [] => "no tags".to_owned(),
        tags => format!("tags {}", tags.join(",")),
    };
    let old = edited.old.short();
    let text = match edited.new {
        Some(new) => format!("snapshot {old} is now {}, with {tags}", new.short()),
        None => format!("snapshot {old} would have {tags}"),
    };
    Ok(context.out.say(text)?)
}

fn tell(context: &Context, args: &TagArgs, count: u64) -> Result<()> {
    if context.out.json {
        return context.out.line(&json!({
            "message_type": "summary", "schema": 1, "changed_snapshots": count, "dry_run": args.dry_run,
        }));
    }
    let text = match (count, args.dry_run) {
        (0, _) => "no snapshot needs to be changed".into(),
        (n, true) => format!("dry run: {n} snapshots would be changed"),
        (n, false) => format!("changed the tags of {n} snapshots"),
    };
    Ok(context.out.say(text)?)
}
