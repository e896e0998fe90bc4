//! `copy`.

use std::sync::Arc;

use anyhow::Result;
use clap::Args;
use copal_engine::compress::Level;
use copal_engine::crypto::rng::SystemRng;
use copal_engine::ops::copy::{Copied, From, copy, may_copy};
use copal_engine::repo::Reader;
use serde_json::json;

use crate::errors::Outcome;
use crate::open::Context;
use crate::progress::{Problems, Shown};
use crate::select::{Filter, choose};
use crate::size;
use crate::which::FromArgs;

/// Flags of `copy`.
#[derive(Debug, Args)]
#[command(
    after_help = "--repo is where the copies go, into a repository that is there (copal init). Without an ID, all snapshots that the \
    filters take are copied; those of which a copy stands are passed over, so that a copy that was interrupted goes on when it \
    is started again. Flags for the store, such as --cacert and the AWS_ variables, count for both repositories."
)]
pub(crate) struct CopyArgs {
    /// Only these: beginnings of ids, latest, or latest~N
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// Where from.
    #[command(flatten)]
    from: FromArgs,
    /// Which snapshots.
    #[command(flatten)]
    filter: Filter,
    /// How hard to compress: off, fast, auto, better or max
    #[arg(long, value_name = "LEVEL", default_value = "auto")]
    compression: Level,
}

/// Sums for the end.
#[derive(Default)]
struct Sums {
    copied: u64,
    skipped: u64,
    added: u64,
    stored: u64,
}

/// Copies.
pub(crate) fn run(context: &Context, args: &CopyArgs) -> Result<Outcome> {
    let from = Arc::new(context.repository_from(&args.from)?);
    let mut to = context.repository()?;
    may_copy(&from, &to)?;
    let who = to.identity(&mut SystemRng)?;
    let to = Arc::new(to);
    let view = from.view()?;
    view.problems.iter().for_each(|p| context.out.warn(p.to_string()));
    let cache_bytes = (context.global.memory / 4).min(1 << 30) as usize;
    let reader = Reader::new(from, Arc::clone(&view.index), cache_bytes);
    let mut chosen = choose(&view.snapshots, &view.forgotten, &args.ids, &args.filter)?;
    chosen.sort_by_key(|s| (s.graph.time, s.at));
    chosen.dedup_by_key(|s| s.at);
    context.catch_interrupts()?;
    let shown = Shown::start(context, "copy");
    let (mut sums, mut printed) = (Sums::default(), Ok(()));
    let mut each = |copied: &Copied| {
        sums.add(copied);
        if printed.is_ok() {
            printed = print(context, copied);
        }
    };
    let watched = (shown.progress(), &*context.cancel);
    let from = From { view: &view, reader: &reader };
    let done = copy(from, &to, &who, Box::new(SystemRng), &chosen, args.compression.zstd(), watched, &mut each);
    let problems = shown.finish();
    done?;
    printed?;
    tell(context, &sums, &problems)?;
    Ok(Outcome::of_problems(problems.count + view.problems.len() as u64))
}

impl Sums {
    fn add(&mut self, copied: &Copied) {
        match copied.stored {
            None => self.skipped += 1,
            Some(stored) => {
                self.copied += 1;
                self.added += stored.raw_bytes;
                self.stored += stored.frame_bytes;
            }
        }
    }
}

fn print(context: &Context, copied: &Copied) -> Result<()> {
    let Copied { from, to, stored } = copied;
    if context.out.json {
        let stored = stored.unwrap_or_default();
        return context.out.line(&json!({
            "message_type": if copied.stored.is_some() { "copied" } else { "skipped" }, "schema": 1,
            "source_snapshot_id": from.to_string(), "snapshot_id": to.to_string(),
            "data_blobs": stored.data_blobs, "tree_blobs": stored.other_blobs,
            "data_added": stored.raw_bytes, "data_added_packed": stored.frame_bytes,
        }));
    }
    let (old, new) = (from.short(), to.short());
    let text = match stored {
        None => format!("snapshot {old} is here already, as {new}"),
        Some(stored) => {
            let (added, packed) = (size::show(stored.raw_bytes), size::show(stored.frame_bytes));
            format!("snapshot {old} is copied as {new}: added {added} ({packed} stored)")
        }
    };
    Ok(context.out.say(text)?)
}

fn tell(context: &Context, sums: &Sums, problems: &Problems) -> Result<()> {
    if context.out.json {
        return context.out.line(&json!({
            "message_type": "summary", "schema": 1,
            "copied_snapshots": sums.copied, "skipped_snapshots": sums.skipped,
            "data_added": sums.added, "data_added_packed": sums.stored, "errors": problems.to_json(),
        }));
    }
    if problems.count > 0 {
        context.out.warn(format!("{} snapshots could not be copied, see above", problems.count));
    }
    let (added, stored) = (size::show(sums.added), size::show(sums.stored));
    let text = format!("copied {} snapshots, {} were here: added {added} ({stored} stored)", sums.copied, sums.skipped);
    Ok(context.out.say(text)?)
}
