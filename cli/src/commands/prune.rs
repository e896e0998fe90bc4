//! `prune`, and the end of `forget --prune`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};
use copal_engine::crypto::rng::SystemRng;
use copal_engine::format::node::Timestamp;
use copal_engine::ops::prune::{Bucket, Extend, Extended, Limit, Options, Plan, Policy, Relied, Summary, prune};
use copal_engine::repo::Repository;
use copal_engine::store::retention::Mode;
use serde_json::{Value, json};

use crate::errors::Outcome;
use crate::open::Context;
use crate::progress::Shown;
use crate::{bucket, size, time};

/// How long the rule that is suggested keeps old versions, where nothing else says it.
const KEPT_DAYS: u64 = 30;

/// Flags of `prune`.
#[derive(Debug, Args)]
#[command(
    after_help = "Backups may run meanwhile: whatever a running backup relies on stays until the next prune. One that does not \
    answer for a minute is ended, and starts over with what it has stored. A prune that was cut off is finished by the next.\n\n\
    In a bucket with Object Lock, --lock-extend 30d sees to it that nothing a restore needs can be removed for 30 days, \
    whoever holds the credentials: run it more often than every 15 days. Each object is asked for its retention, and again \
    after it was extended; one that the bucket does not keep is named, and the exit code is 3."
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
    /// In a bucket with Object Lock: afterwards extend the retention of all that a restore needs to so long from now, where
    /// it ends in less than half of that: 30d, 8w
    #[arg(long, value_name = "DURATION", value_parser = time::duration)]
    lock_extend: Option<Duration>,
    /// Who may shorten it: whoever may bypass it, or nobody [default: the bucket's default, else governance]
    #[arg(long, value_enum, requires = "lock_extend")]
    lock_mode: Option<LockMode>,
}

/// Modes of Object Lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LockMode {
    /// Who has the right to bypass it may shorten it
    Governance,
    /// Nobody may
    Compliance,
}

impl From<LockMode> for Mode {
    fn from(mode: LockMode) -> Self {
        match mode {
            LockMode::Governance => Self::Governance,
            LockMode::Compliance => Self::Compliance,
        }
    }
}

impl PruneArgs {
    fn options(&self) -> Options {
        Options {
            policy: Policy { max_unused: self.max_unused, max_repack: self.max_repack_size },
            dry_run: self.dry_run,
            exclusive: self.exclusive,
            yes: self.yes,
            probe: true,
            as_if_forgotten: Vec::new(),
            lock: self.lock_extend.map(|by| Extend { by, mode: self.lock_mode.map(Into::into) }),
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
    Ok(Outcome::of_problems(summary.extended.map_or(0, |e| e.failed)))
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
        "relied_on": relied_on(summary.relied),
        "spared_packs": done.spared, "ended_sessions": done.fenced, "forgotten_snapshots": done.forgotten,
        "still_locked": {
            "objects": done.deleted.locked.objects, "pack_bytes": done.deleted.locked.bytes,
            "until": (done.deleted.locked.objects > 0).then(|| time::rfc3339(second(done.deleted.locked.until))),
        },
        "retention": summary.extended.as_ref().map(of_retention),
        "bucket": summary.bucket.as_ref().map(|b| of_bucket(b, options)),
    })
}

/// What nobody but the caller can know.
fn relied_on(relied: Relied) -> &'static str {
    match relied {
        Relied::CreateOnly => "create-only",
        Relied::OnePrune => "one-prune-at-a-time",
        Relied::Nobody => "exclusive",
    }
}

fn of_retention(e: &Extended) -> Value {
    json!({
        "mode": e.mode.to_string(), "until": time::rfc3339(second(e.until)),
        "objects": e.objects, "extended": e.extended, "failed": e.failed,
    })
}

fn of_bucket(b: &Bucket, options: &Options) -> Value {
    let mut told = bucket::to_json(&b.promises);
    told["held"] = b.held.map_or(Value::Null, |held| {
        json!({
            "versions": held.versions, "bytes": held.bytes, "delete_markers": held.markers, "more": held.more,
            "lifecycle_rule": lifecycle_rule(b, options),
        })
    });
    told
}

/// A second since 1970 as the engine has them.
fn second(secs: u64) -> Timestamp {
    Timestamp { secs: i64::try_from(secs).unwrap_or(i64::MAX), nanos: 0 }
}

/// What frees old versions, as `aws s3api put-bucket-lifecycle-configuration` takes it among its `Rules`.
fn lifecycle_rule(b: &Bucket, options: &Options) -> Value {
    let days = options.lock.map_or(KEPT_DAYS, |extend| extend.by.as_secs().div_ceil(86_400));
    json!({
        "ID": "copal-old-versions", "Status": "Enabled", "Filter": {"Prefix": b.root},
        "NoncurrentVersionExpiration": {"NoncurrentDays": days}, "Expiration": {"ExpiredObjectDeleteMarker": true},
    })
}

fn count(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn print(context: &Context, summary: &Summary, options: &Options) -> Result<()> {
    let out = &context.out;
    if summary.finished > 0 {
        out.say(format!("finished {} that had been cut off", count(summary.finished, "prune")))?;
    }
    if summary.relied == Relied::OnePrune {
        out.say(
            "this store has no atomic create-only put: backups may run meanwhile, but it is taken for granted that no other \
             prune or repair of this repository does",
        )?;
    }
    print_plan(context, &summary.plan)?;
    print_done(context, summary, options)?;
    if let Some(extended) = &summary.extended {
        print_retention(context, extended, options)?;
    }
    if let Some(b) = &summary.bucket {
        print_held(context, b, options)?;
    }
    Ok(())
}

fn print_done(context: &Context, summary: &Summary, options: &Options) -> Result<()> {
    let (out, done) = (&context.out, &summary.done);
    let deleted = done.deleted;
    if options.dry_run {
        return Ok(out.say("nothing was changed")?);
    }
    if summary.generation.is_none() && summary.finished == 0 {
        return Ok(out.say("there is nothing to give back")?);
    }
    if summary.repacked_packs > 0 {
        let bytes = size::show(summary.repacked_bytes);
        out.say(format!("copied {bytes} out of {}", count(summary.repacked_packs, "pack")))?;
    }
    let (packs, segments) = (count(deleted.packs, "pack"), count(deleted.segments, "index segment"));
    out.say(format!("deleted {packs} ({}) and {segments}", size::show(deleted.bytes)))?;
    let locked = deleted.locked;
    if locked.objects > 0 {
        let (objects, bytes) = (count(locked.objects, "object"), size::show(locked.bytes));
        let until = time::short(second(locked.until));
        out.say(format!("{objects} ({bytes} of packs) still locked, the last until {until}: gone with a later prune"))?;
    }
    if done.spared > 0 {
        out.say(format!("{} stay for now: a running backup relies on them", count(done.spared, "pack")))?;
    }
    if done.fenced > 0 {
        out.say(format!("ended {} that did not answer", count(done.fenced, "session")))?;
    }
    Ok(())
}

fn print_retention(context: &Context, e: &Extended, options: &Options) -> Result<()> {
    let verb = if options.dry_run { "would be extended" } else { "extended, and read back" };
    let until = time::short(second(e.until));
    context.out.say(format!(
        "retention of {} of {} {verb}, to {until} ({})",
        e.extended,
        count(e.objects, "live object"),
        e.mode
    ))?;
    if e.failed > 0 {
        context.out.warn(format!("{} not locked until then", count(e.failed, "live object")));
    }
    Ok(())
}

fn print_held(context: &Context, b: &Bucket, options: &Options) -> Result<()> {
    let Some(held) = b.held.filter(|h| h.versions + h.markers > 0) else { return Ok(()) };
    let (least, versions) = (if held.more { "at least " } else { "" }, count(held.versions, "old version"));
    context.out.say(format!(
        "the bucket has versioning: {least}{versions} ({}) and {} stay in it, and are paid for, until a lifecycle rule ends \
         them, such as {}",
        size::show(held.bytes),
        count(held.markers, "delete marker"),
        lifecycle_rule(b, options)
    ))?;
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
