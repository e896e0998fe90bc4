//! `check`.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::{ArgGroup, Args};
use copal_engine::crypto::rng::{SystemRng, draw};
use copal_engine::ops::check::{Finding, Hurt, Options, Place, Read, Report, check};
use serde_json::{Value, json};

use crate::errors::Outcome;
use crate::open::Context;
use crate::output::{lossy, shown};
use crate::progress::Shown;
use crate::{size, time};

/// Flags of `check`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("reading").args(["read_data", "read_data_subset"])))]
pub(crate) struct CheckArgs {
    /// Read every pack whole and verify all that is in it
    #[arg(long)]
    pub(crate) read_data: bool,
    /// Read a part of the packs: the nth of t parts, a share, or so many bytes
    #[arg(long, value_name = "n/t|X%|SIZE", value_parser = subset)]
    pub(crate) read_data_subset: Option<Read>,
    /// Draw the packs of a share or size as an earlier check did, which said its seed
    #[arg(long, value_name = "N", requires = "read_data_subset")]
    pub(crate) read_data_seed: Option<u64>,
    /// Leave out packs that an earlier check found sound within this time: 12h, 30d, 1w2d
    #[arg(long, value_name = "DURATION", value_parser = time::duration, requires = "reading")]
    pub(crate) max_age: Option<Duration>,
    /// Begin no pack after this time; the next check goes on with what was verified longest ago
    #[arg(long, value_name = "DURATION", value_parser = time::duration, requires = "reading")]
    pub(crate) max_duration: Option<Duration>,
    /// Go by the local index and cache instead of reading everything from the repository
    #[arg(long)]
    pub(crate) with_cache: bool,
}

/// What `--read-data-subset` means.
fn subset(text: &str) -> Result<Read, String> {
    let wrong =
        || format!("{text:?} is no subset; write n/t (such as 1/7), a share (such as 10%), or a size (such as 10G)");
    if let Some((n, of)) = text.split_once('/') {
        let (n, of) = (n.trim().parse().map_err(|_| wrong())?, of.trim().parse().map_err(|_| wrong())?);
        return if n >= 1 && n <= of { Ok(Read::Part { n, of }) } else { Err(wrong()) };
    }
    if let Some(share) = text.strip_suffix('%') {
        let share: f64 = share.trim().parse().map_err(|_| wrong())?;
        return if share > 0.0 && share <= 100.0 { Ok(Read::Percent(share)) } else { Err(wrong()) };
    }
    match size::parse(text) {
        Ok(bytes) if bytes > 0 => Ok(Read::Bytes(bytes)),
        _ => Err(wrong()),
    }
}

/// Checks.
pub(crate) fn run(context: &Context, args: &CheckArgs) -> Result<Outcome> {
    let options = Options {
        read: match args.read_data_subset {
            Some(read) => read,
            None if args.read_data => Read::All,
            None => Read::Nothing,
        },
        max_age: args.max_age,
        max_duration: args.max_duration,
        with_cache: args.with_cache,
        seed: args.read_data_seed.unwrap_or_else(|| u64::from_le_bytes(draw(&mut SystemRng))),
    };
    let repo = Arc::new(context.repository_at(&context.place()?, args.with_cache)?);
    context.catch_interrupts()?;
    let progress = Shown::start(context, "check");
    let checked = check(&repo, &options, progress.progress(), &context.cancel);
    progress.finish();
    let report = checked?;
    match context.out.json {
        true => context.out.line(&summary(&report))?,
        false => print(context, &report)?,
    }
    Ok(if report.errors == 0 { Outcome::Done } else { Outcome::Damaged })
}

fn summary(report: &Report) -> Value {
    json!({
        "message_type": "summary", "schema": 1,
        "num_errors": report.errors,
        "broken_packs": report.broken_packs.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "suggest_repair_index": report.suggest_repair_index(),
        "suggest_prune": report.suggest_prune(),
        "snapshots": report.snapshots, "trees": report.trees, "blobs": report.blobs, "index_entries": report.entries,
        "packs": report.packs, "pack_bytes": report.pack_bytes,
        "packs_read": report.read.packs, "bytes_read": report.read.bytes,
        "packs_skipped": report.read.fresh, "packs_left": report.read.left, "seed": report.seed,
        "unlisted_packs": report.unlisted.packs, "unlisted_bytes": report.unlisted.pack_bytes,
        "unlisted_segments": report.unlisted.segments, "foreign_objects": report.unlisted.foreign,
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
        "hurts_complete": report.hurts_complete,
        "unchecked": report.unchecked,
    })
}

fn finding(finding: &Finding) -> Value {
    let fault = |f: &copal_engine::ops::check::Fault| json!({"invariant": f.invariant.to_string(), "what": f.what});
    let hurt = |hurt: &Hurt| match &hurt.place {
        Place::Path(path) => json!({"snapshot": hurt.snapshot.to_string(), "path": lossy(path)}),
        Place::Tree(tree) => json!({"snapshot": hurt.snapshot.to_string(), "tree": tree.to_string()}),
    };
    json!({
        "object": finding.object,
        "faults": finding.faults.iter().map(fault).collect::<Vec<_>>(),
        "blobs": finding.blobs,
        "hurt_count": finding.hurt_count,
        "hurts": finding.hurts.iter().map(hurt).collect::<Vec<_>>(),
    })
}

fn print(context: &Context, report: &Report) -> Result<()> {
    report.unchecked.iter().for_each(|text| context.out.note(format!("not checked: {text}")));
    let mut out = context.out.stdout();
    for finding in &report.findings {
        print_finding(&mut out, finding, report.hurts_complete)?;
    }
    if report.errors > report.findings.len() as u64 {
        writeln!(out, "and {} more damaged objects", report.errors - report.findings.len() as u64)?;
    }
    out.flush()?;
    drop(out);
    let n = |count: u64, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let packs = n(report.packs, "pack");
    let what = [n(report.snapshots, "snapshot"), n(report.trees, "tree"), n(report.blobs, "blob"), packs].join(", ");
    context.out.say(format!("checked {what} ({})", size::show(report.pack_bytes)))?;
    let read = report.read;
    if read.packs + read.fresh + read.left > 0 {
        let seed = report.seed.map_or(String::new(), |seed| format!(", drawn with --read-data-seed {seed}"));
        let (packs, bytes) = (n(read.packs, "pack"), size::show(read.bytes));
        let (fresh, left) = (read.fresh, read.left);
        context
            .out
            .say(format!("read {packs} ({bytes}{seed}), {fresh} verified lately, {left} left for the next check"))?;
    }
    let unlisted = report.unlisted;
    if report.suggest_prune() {
        let (packs, segments) = (n(unlisted.packs, "pack"), n(unlisted.segments, "index segment"));
        let bytes = size::show(unlisted.pack_bytes);
        context
            .out
            .say(format!("no snapshot publishes {packs} ({bytes}) and {segments}: running or crashed backups"))?;
    }
    match report.errors {
        0 => context.out.say("no errors were found")?,
        errors => context.out.warn(format!("{} found", n(errors, "damaged object"))),
    }
    Ok(())
}

fn print_finding(out: &mut impl Write, finding: &Finding, complete: bool) -> std::io::Result<()> {
    let at_least = if complete { "" } else { "at least " };
    match finding.hurt_count {
        0 => writeln!(out, "{} hurts no file that is checked", finding.object)?,
        count => writeln!(out, "{} hurts {at_least}{count} files or directories:", finding.object)?,
    }
    for hurt in &finding.hurts {
        match &hurt.place {
            Place::Path(path) => writeln!(out, "  snapshot {}  {}", hurt.snapshot.short(), shown(path))?,
            Place::Tree(tree) => writeln!(out, "  snapshot {}  directory with the tree {tree}", hurt.snapshot.short())?,
        }
    }
    match finding.hurt_count - finding.hurts.len() as u64 {
        0 => Ok(()),
        more => writeln!(out, "  and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subsets_are_read() {
        assert_eq!(subset("2/7"), Ok(Read::Part { n: 2, of: 7 }));
        assert_eq!(subset("2.5%"), Ok(Read::Percent(2.5)));
        assert_eq!(subset("10G"), Ok(Read::Bytes(10 << 30)));
        for bad in ["0/7", "8/7", "1/x", "0%", "101%", "nan%", "0", "much", ""] {
            assert!(subset(bad).is_err(), "{bad}");
        }
    }
}
