//! `stats`.

use anyhow::Result;
use clap::{Args, ValueEnum};
use copal_engine::ops::stats::{Blobs, RestoreSize, blobs_per_file, restore_size};
use serde_json::{Value, json};

use super::find::Damage;
use crate::errors::Outcome;
use crate::open::{Context, Opened};
use crate::select::{Filter, choose};
use crate::{bucket, size};

/// Flags of `stats`.
#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// Snapshots: beginnings of ids, latest, or latest~N [default: all]
    #[arg(value_name = "ID")]
    pub(crate) ids: Vec<String>,
    /// Which snapshots.
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// What to count
    #[arg(long, value_enum, default_value = "restore-size")]
    pub(crate) mode: Mode,
}

/// What to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// What restoring each snapshot takes, added up
    RestoreSize,
    /// What the blobs of all of them take in the repository
    RawData,
    /// How many blobs their files have
    BlobsPerFile,
}

/// Counts.
pub(crate) fn run(context: &Context, args: &StatsArgs) -> Result<Outcome> {
    let opened = context.opened()?;
    let chosen = choose(&opened.view.snapshots, &opened.view.forgotten, &args.ids, &args.filter)?;
    let roots: Vec<_> = chosen.iter().filter_map(|s| s.graph.root).collect();
    let mut damage = Damage::new(context);
    let (mut document, text) = match args.mode {
        Mode::RestoreSize => of_restore(&opened, &roots, &mut damage)?,
        Mode::RawData => of_blobs(&opened, &roots, &mut damage)?,
        Mode::BlobsPerFile => of_files(&opened, &roots, &mut damage)?,
    };
    let told = bucket::ask(context, opened.reader.repository().store().as_ref())?;
    if context.out.json {
        document["bucket"] = told.to_json();
        (document["schema"], document["snapshots_count"]) = (1.into(), chosen.len().into());
        context.out.line(&document)?;
    } else {
        context.out.say(format!("{} snapshots: {text}", chosen.len()))?;
        told.text().map_or(Ok(()), |text| context.out.say(text))?;
    }
    Ok(Outcome::of_problems(damage.count))
}

type Roots<'r> = &'r [copal_engine::id::BlobId];

fn of_restore(opened: &Opened, roots: Roots<'_>, damage: &mut Damage<'_>) -> Result<(Value, String)> {
    let mut total = RestoreSize::default();
    for root in roots {
        restore_size(&opened.reader, root, &mut total, &mut |at, e| damage.tell(at, e))?;
    }
    let document = json!({"total_size": total.bytes, "total_file_count": total.files});
    Ok((document, format!("{} files and directories, {} when restored", total.files, size::show(total.bytes))))
}

fn of_blobs(opened: &Opened, roots: Roots<'_>, damage: &mut Damage<'_>) -> Result<(Value, String)> {
    let mut blobs = Blobs::default();
    for root in roots {
        blobs.add(&opened.reader, root, &mut |at, e| damage.tell(at, e))?;
    }
    if blobs.missing > 0 {
        damage.count += blobs.missing;
    }
    let ratio = blobs.raw_bytes as f64 / blobs.stored_bytes.max(1) as f64;
    let saved = 100.0 * (1.0 - blobs.stored_bytes as f64 / blobs.raw_bytes.max(1) as f64);
    let document = json!({
        "total_size": blobs.stored_bytes, "total_uncompressed_size": blobs.raw_bytes, "compression_ratio": ratio,
        "compression_space_saving": saved, "total_blob_count": blobs.count(), "missing_blob_count": blobs.missing,
    });
    let (stored, raw) = (size::show(blobs.stored_bytes), size::show(blobs.raw_bytes));
    let mut text = format!("{} blobs, {stored} stored, {raw} uncompressed (ratio {ratio:.2})", blobs.count());
    if blobs.missing > 0 {
        text.push_str(&format!("; {} blobs are missing: copal check tells what that hurts", blobs.missing));
    }
    Ok((document, text))
}

fn of_files(opened: &Opened, roots: Roots<'_>, damage: &mut Damage<'_>) -> Result<(Value, String)> {
    let [mut files, mut blobs, mut bytes] = [0; 3];
    for root in roots {
        let counts = blobs_per_file(&opened.reader, root, &mut |at, e| damage.tell(at, e))?;
        (files, blobs, bytes) = (files + counts[0], blobs + counts[1], bytes + counts[2]);
    }
    let average = blobs as f64 / files.max(1) as f64;
    let document = json!({"total_file_count": files, "total_blob_count": blobs, "total_size": bytes});
    Ok((document, format!("{files} files of {} have {blobs} blobs, {average:.2} each", size::show(bytes))))
}
