//! `prune`, and the end of `forget --prune`.

use std::sync::Arc;

use anyhow::Result;
use clap::Args;
use copal_engine::crypto::rng::SystemRng;
use copal_engine::ops::prune::{Limit, Options, Plan, Policy, Summary, prune};
use copal_engine::repo::Repository;
use serde_json::{Value, json};

use crate::errors::Outcome;
use crate::open::Context;
use crate::progress::Shown;
use crate::size;

/// Flags of `prune`.
#[derive(Debug, Args)]
#[command(
    after_help = "Backups may run meanwhile: whatever a running backup relies on stays until the next prune. One that does not \
    answer for a minute is ended, and starts over with what it has stored. A prune that was cut off is finished by the next."
)]
pub(crate) struct PruneArgs {
    /// How much may stay unused: a share of what is used, a size, or unlimited
    #[arg(long, value_name = "LIMIT", default_value = "5%")]
    max_unused: Limit,
    /// Copy at most so much; the next prune goes on
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    max_repack_size: Option<u64>,
    /// Only say what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Nobody else works on this repository: end open sessions at once, and ask less of the store
    #[arg(long)]
    exclusive: bool,
    /// Go on though much would be deleted that nothing explains
    #[arg(long)]
    yes: bool,
}

impl PruneArgs {
    fn options(&self) -> Options {
        Options {
            policy: Policy { max_unused: self.max_unused, max_repack: self.max_repack_size },
            dry_run: self.dry_run,
            exclusive: self.exclusive,
            yes: self.yes,
        }
    }
}

/// Gives space back.
pub(crate) fn run(context: &Context, args: &PruneArgs) -> Result<Outcome> {
    prune_with(context, context.repository()?, &args.options())
}

/// The same after a `forget`.
pub(crate) fn prune_with(context: &Context, mut repo: Repository, options: &Options) -> Result<Outcome> {
    repo.may_forget()?;
    let who = repo.identity(&mut SystemRng)?;
    let repo = Arc::new(repo);
    context.catch_interrupts()?;
    let shown = Shown::start(context, "prune");
    let done = prune(&repo, &who, Box::new(SystemRng), options, shown.progress(), &context.cancel);
    shown.finish();
    let summary = done?;
    match context.out.json {
        true => context.out.line(&to_json(&summary, options))?,
        false => print(context, &summary, options)?,
    }
    Ok(Outcome::Done)
}

fn to_json(summary: &Summary, options: &Options) -> Value {
    let Summary { plan, done, .. } = summary;
    let counts = plan.counts;
    json!({
        "message_type": "summary", "schema": 1, "dry_run": options.dry_run,
        "plan": {
            "stored_bytes": counts.stored, "used_bytes": counts.used,
            "unused_bytes": counts.unused, "unused_bytes_after": counts.unused_after,
            "drop_packs": plan.drop.len(), "drop_bytes": counts.drop,
            "repack_packs": plan.repack.len(), "repack_bytes": counts.repack, "copy_bytes": counts.copied,
            "unlisted_packs": plan.unlisted.len(), "unlisted_bytes": counts.unlisted,
            "unexplained_bytes": counts.unexplained,
        },
        "generation": summary.generation, "finished": summary.finished,
        "repacked_packs": summary.repacked_packs, "copied_bytes": summary.repacked_bytes,
        "deleted_packs": done.deleted.packs, "deleted_bytes": done.deleted.bytes,
        "deleted_segments": done.deleted.segments,
        "spared_packs": done.spared, "ended_sessions": done.fenced, "forgotten_snapshots": done.forgotten,
    })
}

fn count(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn print(context: &Context, summary: &Summary, options: &Options) -> Result<()> {
    let (out, done) = (&context.out, &summary.done);
    if summary.finished > 0 {
        out.say(format!("finished {} that had been cut off", count(summary.finished, "prune")))?;
    }
    print_plan(context, &summary.plan)?;
    if options.dry_run {
        return Ok(out.say("nothing was changed")?);
    }
    let deleted = done.deleted;
    if summary.generation.is_none() && summary.finished == 0 {
        return Ok(out.say("there is nothing to give back")?);
    }
    if summary.repacked_packs > 0 {
        let bytes = size::show(summary.repacked_bytes);
        out.say(format!("copied {bytes} out of {}", count(summary.repacked_packs, "pack")))?;
    }
    let (packs, segments) = (count(deleted.packs, "pack"), count(deleted.segments, "index segment"));
    out.say(format!("deleted {packs} ({}) and {segments}", size::show(deleted.bytes)))?;
    if done.spared > 0 {
        out.say(format!("{} stay for now: a running backup relies on them", count(done.spared, "pack")))?;
    }
    if done.fenced > 0 {
        out.say(format!("ended {} that did not answer", count(done.fenced, "session")))?;
    }
    Ok(())
}

fn print_plan(context: &Context, plan: &Plan) -> Result<()> {
    let counts = plan.counts;
    let line = |what: &str, packs: usize, bytes: u64, then: String| {
        format!("{what:<32}{:>12}  {:>12}{then}", count(packs as u64, "pack"), size::show(bytes))
    };
    let out = &context.out;
    out.say(format!(
        "{} are stored, {} of them used and {} unused",
        size::show(counts.stored),
        size::show(counts.used),
        size::show(counts.unused)
    ))?;
    out.say(line("not needed:", plan.drop.len(), counts.drop, String::new()))?;
    let copied = format!(", of which {} are copied", size::show(counts.copied));
    out.say(line("needed in part:", plan.repack.len(), counts.repack, copied))?;
    out.say(line("left by interrupted backups:", plan.unlisted.len(), counts.unlisted, String::new()))?;
    Ok(out.say(format!("stays unused: {}", size::show(counts.unused_after)))?)
}
