//! `check`.

use std::fs::{self, File};
use std::io::{Read as _, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{ArgGroup, Args};
use copal_engine::crypto::rng::{SystemRng, draw};
use copal_engine::format::attestation::ATTESTATION_BYTES_MAX;
use copal_engine::format::node::Timestamp;
use copal_engine::ops::check::attest::{Attested, attest, attested, may_attest};
use copal_engine::ops::check::{Finding, Hurt, Options, Place, Read, Report, check};
use serde_json::{Value, json};

use crate::errors::Outcome;
use crate::open::Context;
use crate::output::{lossy, shown};
use crate::progress::Shown;
use crate::{bucket, size, time};

/// Flags of `check`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("reading").args(["read_data", "read_data_subset", "attested"])))]
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
    /// Write to this file, signed, that all packs of all snapshots were verified, and when (with an owner's key)
    #[arg(long, value_name = "FILE", requires = "read_data", conflicts_with = "max_duration")]
    pub(crate) attest: Option<PathBuf>,
    /// Check nothing but this file: whether the owner of the repository signed it, and what it says (with --max-age: of
    /// no pack longer ago)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["max_duration", "with_cache"])]
    pub(crate) attested: Option<PathBuf>,
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
    if let Some(file) = &args.attested {
        return verify_attestation(context, file, args.max_age);
    }
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
    if args.attest.is_some() {
        may_attest(&repo)?;
    }
    context.catch_interrupts()?;
    let progress = Shown::start(context, "check");
    let checked = check(&repo, &options, progress.progress(), &context.cancel);
    progress.finish();
    let report = checked?;
    let told = bucket::ask(context, repo.store().as_ref())?;
    match context.out.json {
        true => {
            let mut document = summary(&report);
            document["bucket"] = told.to_json();
            context.out.line(&document)?;
        }
        false => {
            told.text().map_or(Ok(()), |text| context.out.say(text))?;
            print(context, &report)?;
        }
    }
    if let Some(file) = args.attest.as_deref().filter(|_| report.errors == 0) {
        write_whole(file, &attest(&repo, &report)?).with_context(|| format!("cannot write {}", file.display()))?;
        context.out.say(format!("{} attests it", file.display()))?;
    }
    Ok(if report.errors == 0 { Outcome::Done } else { Outcome::Damaged })
}

/// Replaces a file, so that whoever reads it sees the old one or all of the new one.
fn write_whole(path: &Path, text: &str) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let temporary = path.with_file_name(name);
    let mut file = File::create(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

/// `--attested`.
fn verify_attestation(context: &Context, file: &Path, max_age: Option<Duration>) -> Result<Outcome> {
    let mut text = String::new();
    let opened = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
    opened.take(ATTESTATION_BYTES_MAX).read_to_string(&mut text).with_context(|| format!("{}", file.display()))?;
    let said = attested(&context.repository()?, &text).with_context(|| format!("{}", file.display()))?;
    match context.out.json {
        true => context.out.line(&of_attestation(&said))?,
        false => print_attestation(context, &said)?,
    }
    let age = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let age = age.saturating_sub(Duration::from_secs(said.attestation.verified_from));
    if max_age.is_some_and(|max| age > max) {
        bail!("some packs were verified {} days ago, which is longer than --max-age", age.as_secs() / 86_400);
    }
    Ok(Outcome::Done)
}

/// A second since 1970 as the engine has them.
fn second(secs: u64) -> Timestamp {
    Timestamp { secs: secs.min(i64::MAX as u64) as i64, nanos: 0 }
}

fn of_attestation(said: &Attested) -> Value {
    let ids = |ids: &[_]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
    let at = |secs| time::rfc3339(second(secs));
    let of = &said.attestation;
    json!({
        "schema": 1, "repository": of.repository.to_string(),
        "made": at(of.made), "verified_from": at(of.verified_from), "verified_to": at(of.verified_to),
        "packs": of.packs, "pack_bytes": of.bytes, "snapshots": ids(&of.snapshots),
        "snapshots_gone": ids(&said.gone), "snapshots_since": ids(&said.since),
    })
}

fn print_attestation(context: &Context, said: &Attested) -> Result<()> {
    let of = &said.attestation;
    let at = |secs| time::short(second(secs));
    let (out, from, to) = (&context.out, at(of.verified_from), at(of.verified_to));
    out.say(format!("the owner of repository {} signed this at {}:", of.repository.short(), at(of.made)))?;
    out.say(format!("{}, {}, verified from {from} to {to}", plural(of.packs, "pack"), size::show(of.bytes)))?;
    let (gone, since) = (said.gone.len() as u64, said.since.len() as u64);
    out.say(format!(
        "all content of {}; {gone} of them forgotten since, and {} not attested yet",
        plural(of.snapshots.len() as u64, "snapshot"),
        plural(since, "newer snapshot")
    ))?;
    Ok(())
}

fn plural(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
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
        "verified_from": report.verified.map(|(from, _)| time::rfc3339(second(from))),
        "verified_to": report.verified.map(|(_, to)| time::rfc3339(second(to))),
        "packs_skipped": report.read.fresh, "packs_left": report.read.left, "seed": report.seed,
        "unlisted_packs": report.unlisted.packs, "unlisted_bytes": report.unlisted.pack_bytes,
        "unlisted_segments": report.unlisted.segments, "foreign_objects": report.unlisted.foreign,
        "dead_snapshots": report.dead_snapshots,
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
    let n = plural;
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
    if report.dead_snapshots > 0 {
        let dead = n(report.dead_snapshots, "snapshot");
        context.out.say(format!(
            "{dead} not counted: stored after a prune had ended the backup, or forgotten; prunes remove them"
        ))?;
    }
    match report.errors {
        0 => context.out.say("no errors were found")?,
        errors => {
            context.out.warn(format!("{} found", n(errors, "damaged object")));
            context.out.note("copal help repair says what can be put right");
        }
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
