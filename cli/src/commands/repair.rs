//! `repair`.

use std::sync::Arc;

use anyhow::Result;
use clap::{Args, Subcommand};
use copal_engine::crypto::rng::SystemRng;
use copal_engine::format::bundle::Identity;
use copal_engine::ops::Edited;
use copal_engine::ops::repair::{index, may_repair, packs, snapshots};
use copal_engine::repo::Repository;
use serde_json::{Value, json};

use super::edit::edit;
use crate::errors::Outcome;
use crate::open::Context;
use crate::progress::Shown;
use crate::select::Filter;
use crate::size;

/// Flags of `repair`.
#[derive(Debug, Args)]
pub(crate) struct RepairArgs {
    /// What to repair
    #[command(subcommand)]
    pub(crate) action: Action,
}

/// What to repair: in this order.
#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// List anew what lost index segments listed, and no more what lay in packs that are gone
    Index(IndexArgs),
    /// Save what still opens of damaged packs
    Packs(PacksArgs),
    /// Make snapshots anew without what they have lost
    Snapshots(SnapshotsArgs),
}

/// Flags of `repair index`.
#[derive(Debug, Args)]
#[command(
    after_help = "Backups may run meanwhile. Segments that are missing or damaged are made anew from the packs' own tables; damaged \
    ones are copied to lost/ in the store before they are removed. What lay in packs that are gone is stored anew by the next backup \
    that meets it. It takes an owner's key."
)]
pub(crate) struct IndexArgs {
    /// Read the table of every pack, and list anew what the index tells otherwise
    #[arg(long)]
    read_all_packs: bool,
    /// Only say what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Nobody else works on this repository: ask less of the store
    #[arg(long)]
    exclusive: bool,
    /// Go on though very many packs are gone
    #[arg(long)]
    yes: bool,
}

/// Flags of `repair packs`.
#[derive(Debug, Args)]
#[command(
    after_help = "Without a PACK, all packs are read that no check --read-data of an owner has found sound. Damaged ones are copied \
    to lost/ in the store, and go with a later prune. What is lost with them is stored anew by the next backup that meets it; repair \
    snapshots makes snapshots that do without it. It takes an owner's key."
)]
pub(crate) struct PacksArgs {
    /// Only these: ids as check names them, or their beginnings
    #[arg(value_name = "PACK")]
    packs: Vec<String>,
    /// Only say what is lost
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Nobody else works on this repository: ask less of the store
    #[arg(long)]
    exclusive: bool,
}

/// Flags of `repair snapshots`.
#[derive(Debug, Args)]
#[command(
    after_help = "Without an ID, all snapshots that the filters take are looked at. Run repair index and repair packs first, then a \
    backup: what it meets again is not lost. A snapshot is never changed itself: a new one with a new id is made, in which files are \
    without their missing parts (they keep their names) and directories that cannot be read are empty. Without --forget the old one \
    stays, and the new one gets the tag `repaired`. It takes an owner's key."
)]
pub(crate) struct SnapshotsArgs {
    /// Only these: beginnings of ids, latest, or latest~N
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// Which snapshots.
    #[command(flatten)]
    filter: Filter,
    /// Forget the old snapshots
    #[arg(long)]
    forget: bool,
    /// Only say what is lost
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// Repairs.
pub(crate) fn run(context: &Context, args: &RepairArgs) -> Result<Outcome> {
    match &args.action {
        Action::Index(args) => run_index(context, args),
        Action::Packs(args) => run_packs(context, args),
        Action::Snapshots(args) => run_snapshots(context, args),
    }
}

/// What an owner repairs with.
fn owner(context: &Context) -> Result<(Arc<Repository>, Identity)> {
    let mut repo = context.repository()?;
    may_repair(&repo)?;
    let who = repo.identity(&mut SystemRng)?;
    context.catch_interrupts()?;
    Ok((Arc::new(repo), who))
}

fn run_index(context: &Context, args: &IndexArgs) -> Result<Outcome> {
    let IndexArgs { read_all_packs, dry_run, exclusive, yes } = *args;
    let options = index::Options { read_all_packs, dry_run, exclusive, yes };
    let (repo, who) = owner(context)?;
    let shown = Shown::start(context, "repair");
    let watched = (shown.progress(), &*context.cancel);
    let done = index::repair(&repo, &who, &mut SystemRng, &options, watched);
    let refused = shown.finish();
    let report = done?;
    match context.out.json {
        true => context.out.line(&json!({
            "message_type": "summary", "schema": 1, "repair": "index", "dry_run": dry_run,
            "bad_segments": report.segments, "listed_packs": report.listed_packs, "listed_blobs": report.listed_blobs,
            "missing_packs": report.gone_packs, "base": report.base, "set_aside": aside(&report.aside),
        }))?,
        false => tell_index(context, &report, dry_run)?,
    }
    Ok(Outcome::of_problems(refused.count))
}

fn tell_index(context: &Context, report: &index::Report, dry_run: bool) -> Result<()> {
    let out = &context.out;
    for segment in &report.segments {
        out.say(format!("{segment}: missing or damaged"))?;
    }
    for pack in &report.gone_packs {
        out.say(format!("{pack}: not in the store"))?;
    }
    if report.segments.is_empty() && report.gone_packs.is_empty() && report.listed_packs == 0 {
        return Ok(out.say("the index is as it should be")?);
    }
    tell_aside(context, &report.aside)?;
    let (packs, blobs) = (report.listed_packs, report.listed_blobs);
    match dry_run {
        true => out.say(format!("dry run: {packs} packs with {blobs} blobs would be listed anew"))?,
        false => out.say(format!("listed {packs} packs with {blobs} blobs anew"))?,
    }
    Ok(())
}

fn run_packs(context: &Context, args: &PacksArgs) -> Result<Outcome> {
    let options = packs::Options { packs: args.packs.clone(), dry_run: args.dry_run, exclusive: args.exclusive };
    let (repo, who) = owner(context)?;
    let shown = Shown::start(context, "repair");
    let watched = (shown.progress(), &*context.cancel);
    let done = packs::repair(&repo, &who, &mut SystemRng, &options, watched);
    let refused = shown.finish();
    let report = done?;
    let lost: Vec<String> = report.lost.iter().map(ToString::to_string).collect();
    match context.out.json {
        true => context.out.line(&json!({
            "message_type": "summary", "schema": 1, "repair": "packs", "dry_run": args.dry_run,
            "packs_read": report.read, "damaged_packs": report.damaged, "saved_blobs": report.saved_blobs,
            "lost_blobs": lost, "base": report.base, "set_aside": aside(&report.aside),
        }))?,
        false => tell_packs(context, &report, args.dry_run)?,
    }
    Ok(Outcome::of_problems(refused.count + lost.len() as u64))
}

fn tell_packs(context: &Context, report: &packs::Report, dry_run: bool) -> Result<()> {
    let out = &context.out;
    if report.damaged.is_empty() {
        return Ok(out.say(format!("read {} packs: none is damaged", report.read))?);
    }
    for pack in &report.damaged {
        out.say(format!("{pack}: damaged"))?;
    }
    tell_aside(context, &report.aside)?;
    let how = if dry_run { "dry run: would save" } else { "saved" };
    out.say(format!("{how} {} blobs, {} are lost", report.saved_blobs, report.lost.len()))?;
    if !report.lost.is_empty() && !dry_run {
        out.say("copal check says which files that hurts; a backup stores again what it meets, then run copal repair snapshots")?;
    }
    Ok(())
}

fn aside(moved: &[(String, String)]) -> Value {
    moved.iter().map(|(from, to)| json!({"object": from, "copy": to})).collect()
}

fn tell_aside(context: &Context, moved: &[(String, String)]) -> Result<()> {
    for (from, to) in moved {
        context.out.say(format!("{from}: as it was at {to}"))?;
    }
    Ok(())
}

fn run_snapshots(context: &Context, args: &SnapshotsArgs) -> Result<Outcome> {
    let options = snapshots::Options { forget: args.forget, dry_run: args.dry_run };
    let print = |context: &Context, edited: &Edited| print_snapshot(context, args, edited);
    let verb = ("repair", "repair a repository");
    let (count, problems) = edit(context, verb, (&args.ids, &args.filter), print, |of, done| {
        snapshots::repair(of.repo, of.who, Box::new(SystemRng), of.chosen, &options, of.watched, done)
    })?;
    if context.out.json {
        context.out.line(&json!({
            "message_type": "summary", "schema": 1, "repair": "snapshots", "dry_run": args.dry_run,
            "changed_snapshots": count,
        }))?;
    } else {
        context.out.say(match (count, args.dry_run) {
            (0, _) => "no snapshot was changed".to_owned(),
            (n, true) => format!("dry run: {n} snapshots would be repaired"),
            (n, false) => format!("repaired {n} snapshots"),
        })?;
    }
    Ok(Outcome::of_problems(problems))
}

fn print_snapshot(context: &Context, args: &SnapshotsArgs, edited: &Edited) -> Result<()> {
    let [files, dirs, _] = edited.left;
    if context.out.json {
        return context.out.line(&json!({
            "message_type": "changed", "schema": 1,
            "old_snapshot_id": edited.old.to_string(),
            "new_snapshot_id": edited.new.map(|id| id.to_string()).unwrap_or_default(),
            "old_forgotten": args.forget && edited.new.is_some(),
            "files_damaged": files, "dirs_damaged": dirs, "bytes_lost": edited.left_bytes,
        }));
    }
    let old = edited.old.short();
    let what = match edited.new {
        Some(new) if args.forget => format!("snapshot {old} is now {}", new.short()),
        Some(new) => format!("snapshot {old} stays, and {} is made of it", new.short()),
        None => format!("snapshot {old} would be repaired"),
    };
    let lost = size::show(edited.left_bytes);
    Ok(context.out.say(format!("{what}: {files} files and {dirs} directories have lost something, {lost} of files"))?)
}
