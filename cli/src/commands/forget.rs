//! `forget`.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use copal_engine::Error;
use copal_engine::format::snapshot::SnapshotRef;
use copal_engine::ops::forget::{Count, Group, GroupBy, Policy, Record, Span, plan};
use copal_engine::ops::prune::{self, Limit, Options};
use copal_engine::repo::init::now;
use copal_engine::repo::{Repository, Snapshot};
use serde_json::{Value, json};

use crate::errors::Outcome;
use crate::open::Context;
use crate::output::{shown, table, write_line};
use crate::select::{Filter, choose};
use crate::{group, size, time};

use super::prune::prune_with;
use super::snapshots::to_json;

/// Flags of `forget`.
#[derive(Debug, Args)]
#[command(
    after_help = "Without an ID, the policy is applied to each group: what no --keep option keeps is forgotten. Days, \
    weeks and so on are those of this machine's time zone (TZ). Forgotten snapshots are not shown and not restored any more; \
    their space is given back by prune."
)]
pub(crate) struct ForgetArgs {
    /// Forget these, whatever a policy says: beginnings of ids, latest, or latest~N
    #[arg(value_name = "ID", conflicts_with = "policy")]
    ids: Vec<String>,
    /// What is kept.
    #[command(flatten)]
    policy: PolicyArgs,
    /// Only snapshots of this host (may be given several times)
    #[arg(long, value_name = "HOST")]
    host: Vec<String>,
    /// Only snapshots with all these tags (several times: one of the lists)
    #[arg(long, value_name = "TAG[,TAG...]")]
    tag: Vec<String>,
    /// Only snapshots with this absolute path (several times: with all)
    #[arg(long, value_name = "PATH")]
    path: Vec<PathBuf>,
    /// Group by host, paths and tags, or some of them; '' makes one group of all
    #[arg(short, long, value_name = "host,paths,tags", default_value = "host,paths")]
    group_by: String,
    /// Forget all snapshots of a group if the policy keeps none; without it that is refused
    #[arg(long)]
    allow_empty_group: bool,
    /// Only say what would be forgotten
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Show short lines: no paths
    #[arg(short, long)]
    compact: bool,
    /// Then give the space back, as `prune` does
    #[arg(long)]
    prune: bool,
    /// For --prune: go on though much would be deleted
    #[arg(long, requires = "prune")]
    yes: bool,
    /// For --prune: how much may stay unused [default: 5%]
    #[arg(long, value_name = "LIMIT", requires = "prune")]
    max_unused: Option<Limit>,
    /// For --prune: copy at most so much; the next prune goes on
    #[arg(long, value_name = "SIZE", value_parser = size::parse, requires = "prune")]
    max_repack_size: Option<u64>,
}

impl ForgetArgs {
    fn prune_options(&self, forgotten: Vec<SnapshotRef>) -> Options {
        let usual = prune::Policy::default();
        let policy =
            prune::Policy { max_unused: self.max_unused.unwrap_or(usual.max_unused), max_repack: self.max_repack_size };
        let as_if_forgotten = if self.dry_run { forgotten } else { Vec::new() };
        let (dry_run, yes, probe) = (self.dry_run, self.yes, true);
        Options { policy, dry_run, yes, probe, as_if_forgotten, ..Options::default() }
    }
}

/// The policy.
#[derive(Debug, Args)]
#[group(id = "policy", multiple = true)]
struct PolicyArgs {
    /// Keep the last N snapshots (unlimited: all)
    #[arg(short = 'l', long, value_name = "N", allow_negative_numbers = true)]
    keep_last: Option<Count>,
    /// Keep the last snapshot of each of the last N hours that have any
    #[arg(short = 'H', long, value_name = "N", allow_negative_numbers = true)]
    keep_hourly: Option<Count>,
    /// Of each of the last N days that have any
    #[arg(short = 'd', long, value_name = "N", allow_negative_numbers = true)]
    keep_daily: Option<Count>,
    /// Of each of the last N weeks that have any
    #[arg(short = 'w', long, value_name = "N", allow_negative_numbers = true)]
    keep_weekly: Option<Count>,
    /// Of each of the last N months that have any
    #[arg(short = 'm', long, value_name = "N", allow_negative_numbers = true)]
    keep_monthly: Option<Count>,
    /// Of each of the last N years that have any
    #[arg(short = 'y', long, value_name = "N", allow_negative_numbers = true)]
    keep_yearly: Option<Count>,
    /// Keep all snapshots that are not older than this before the newest one, such as 2y5m7d3h
    #[arg(long, value_name = "DURATION")]
    keep_within: Option<Span>,
    /// Keep the last snapshot of each hour in this time before the newest one
    #[arg(long, value_name = "DURATION")]
    keep_within_hourly: Option<Span>,
    /// The last of each day
    #[arg(long, value_name = "DURATION")]
    keep_within_daily: Option<Span>,
    /// The last of each week
    #[arg(long, value_name = "DURATION")]
    keep_within_weekly: Option<Span>,
    /// The last of each month
    #[arg(long, value_name = "DURATION")]
    keep_within_monthly: Option<Span>,
    /// The last of each year
    #[arg(long, value_name = "DURATION")]
    keep_within_yearly: Option<Span>,
    /// Keep snapshots with all these tags (several times: one of the lists)
    #[arg(long, value_name = "TAG[,TAG...]")]
    keep_tag: Vec<String>,
}

impl PolicyArgs {
    fn policy(&self) -> Policy {
        let p = self;
        let counts = [p.keep_last, p.keep_hourly, p.keep_daily, p.keep_weekly, p.keep_monthly, p.keep_yearly];
        let within = [
            p.keep_within,
            p.keep_within_hourly,
            p.keep_within_daily,
            p.keep_within_weekly,
            p.keep_within_monthly,
            p.keep_within_yearly,
        ];
        let list = |list: &String| list.split(',').map(|tag| tag.as_bytes().to_vec()).collect();
        Policy {
            counts: counts.map(Option::unwrap_or_default),
            within: within.map(Option::unwrap_or_default),
            tags: p.keep_tag.iter().map(list).collect(),
        }
    }
}

impl ForgetArgs {
    fn filter(&self) -> Filter {
        Filter { host: self.host.clone(), tag: self.tag.clone(), path: self.path.clone() }
    }
}

/// What shall become of one group.
struct Fate<'s> {
    title: String,
    fields: (String, Vec<String>, Vec<String>),
    keep: Vec<(&'s Snapshot, Vec<String>)>,
    remove: Vec<&'s Snapshot>,
}

/// Forgets snapshots.
pub(crate) fn run(context: &Context, args: &ForgetArgs) -> Result<Outcome> {
    let by = group::parse(&args.group_by)?;
    let (policy, filter) = (args.policy.policy(), args.filter());
    let repo = context.repository()?;
    repo.may_forget()?;
    let by_names = !(filter.is_empty() && policy.tags.is_empty());
    if by_names && !repo.can_read() {
        let (role, what) = (repo.role().as_str(), "choose snapshots by host, path or tag");
        return Err(Error::NotAllowed { role, what, needed: "owner" }.into());
    }
    let committed = repo.committed()?;
    committed.problems.iter().for_each(|p| context.out.warn(p.to_string()));
    let chosen = choose(&committed.snapshots, &committed.forgotten, &args.ids, &filter)?;
    let fates = match (args.ids.is_empty(), policy.is_empty()) {
        (false, _) => vec![named(chosen)],
        (true, true) => {
            context
                .out
                .note("no policy was given, so no snapshot is forgotten; say what to keep, such as --keep-daily 7");
            Vec::new()
        }
        (true, false) => planned(&chosen, by, &policy),
    };
    refuse_empty(args, &fates)?;
    let mut remove: Vec<SnapshotRef> = fates.iter().flat_map(|fate| fate.remove.iter().map(|s| s.at)).collect();
    remove.sort_unstable();
    remove.dedup();
    if !args.dry_run {
        repo.forget(&remove)?;
    }
    show(context, args, &fates)?;
    tell(context, args, &repo, remove.len());
    if args.prune {
        prune_with(context, repo, &args.prune_options(remove))?;
    }
    Ok(Outcome::of_problems(committed.problems.len() as u64))
}

/// Those that were named go, whatever is left of their group.
fn named(mut chosen: Vec<&Snapshot>) -> Fate<'_> {
    chosen.sort_by_key(|s| (s.graph.time, s.at));
    chosen.dedup_by_key(|s| s.at);
    Fate { title: "the snapshots that were named".into(), fields: Default::default(), keep: Vec::new(), remove: chosen }
}

fn planned<'s>(chosen: &[&'s Snapshot], by: GroupBy, policy: &Policy) -> Vec<Fate<'s>> {
    let records: Vec<Record> = chosen.iter().map(|s| Record::of(s)).collect();
    let fate = |Group { key, keep, remove }: Group| Fate {
        title: group::title(by, &key),
        fields: group::fields(&key),
        keep: keep.into_iter().map(|(at, reasons)| (chosen[at], reasons)).collect(),
        remove: remove.into_iter().map(|at| chosen[at]).collect(),
    };
    plan(&records, by, policy, now(), &time::offset).into_iter().map(fate).collect()
}

fn refuse_empty(args: &ForgetArgs, fates: &[Fate<'_>]) -> Result<()> {
    let emptied = fates.iter().find(|fate| fate.keep.is_empty());
    match emptied.filter(|_| args.ids.is_empty() && !args.allow_empty_group) {
        None => Ok(()),
        Some(fate) => Err(Error::Invalid(format!(
            "the policy keeps no snapshot of the group {}; nothing was forgotten. Give --allow-empty-group if that is meant",
            fate.title
        ))
        .into()),
    }
}

fn show(context: &Context, args: &ForgetArgs, fates: &[Fate<'_>]) -> Result<()> {
    let mut out = context.out.stdout();
    if context.out.json {
        write_line(&mut out, &fates.iter().map(fate_json).collect::<Vec<_>>())?;
    } else if !context.out.quiet {
        for fate in fates {
            print(&mut out, args, fate)?;
        }
    }
    Ok(out.flush()?)
}

fn fate_json(fate: &Fate<'_>) -> Value {
    let (host, paths, tags) = &fate.fields;
    let reason =
        |(snapshot, matches): &(&Snapshot, Vec<String>)| json!({"snapshot": to_json(snapshot), "matches": matches});
    json!({
        "schema": 1, "tags": tags, "host": host, "paths": paths,
        "keep": fate.keep.iter().map(|(s, _)| to_json(s)).collect::<Vec<_>>(),
        "remove": fate.remove.iter().map(|s| to_json(s)).collect::<Vec<_>>(),
        "reasons": fate.keep.iter().map(reason).collect::<Vec<_>>(),
    })
}

fn print(out: &mut impl Write, args: &ForgetArgs, fate: &Fate<'_>) -> Result<()> {
    writeln!(out, "{}", fate.title)?;
    let row = |snapshot: &Snapshot, reasons: Option<&[String]>| {
        let names = snapshot.names.as_ref();
        let list = |list: Option<&Vec<Vec<u8>>>, with: &str| {
            list.into_iter().flatten().map(|t| shown(t)).collect::<Vec<_>>().join(with)
        };
        let mut row = vec![snapshot.id().short(), time::short(snapshot.graph.time)];
        row.push(names.map(|n| shown(&n.host)).unwrap_or_default());
        row.push(list(names.map(|n| &n.labels), ","));
        row.extend(reasons.map(|reasons| shown(reasons.join(", ").as_bytes())));
        if !args.compact {
            row.push(list(names.map(|n| &n.paths), "  "));
        }
        row
    };
    let head = |words: &[&'static str]| {
        let paths = (!args.compact).then_some("Paths");
        ["ID", "Time", "Host", "Tags"].iter().chain(words).copied().chain(paths).collect::<Vec<_>>()
    };
    if !fate.keep.is_empty() {
        writeln!(out, "keep {}:", count(fate.keep.len()))?;
        let rows: Vec<_> = fate.keep.iter().map(|(s, reasons)| row(s, Some(reasons))).collect();
        table(out, &head(&["Reasons"]), &rows)?;
    }
    if !fate.remove.is_empty() {
        writeln!(out, "forget {}:", count(fate.remove.len()))?;
        let rows: Vec<_> = fate.remove.iter().map(|s| row(s, None)).collect();
        table(out, &head(&[]), &rows)?;
    }
    Ok(writeln!(out)?)
}

fn count(n: usize) -> String {
    if n == 1 { "1 snapshot".into() } else { format!("{n} snapshots") }
}

/// What was done, on stderr: also beside JSON somebody should know that the space is still taken.
fn tell(context: &Context, args: &ForgetArgs, repo: &Repository, forgotten: usize) {
    match (forgotten, args.dry_run) {
        (0, _) => {}
        (n, true) => context.out.note(format!("{} would be forgotten; nothing was changed", count(n))),
        (n, false) if args.prune => context.out.note(format!("{} forgotten", count(n))),
        (n, false) => context.out.note(format!(
            "{} forgotten. copal prune gives their space at {} back",
            count(n),
            repo.store().location()
        )),
    }
}
