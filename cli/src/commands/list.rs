//! `list`.

use std::io::Write;

use anyhow::Result;
use clap::{Args, ValueEnum};
use copal_engine::format::blob::BlobKind;
use copal_engine::store::list_all;
use serde_json::json;

use crate::errors::Outcome;
use crate::open::{Context, Opened};
use crate::output::write_line;

/// Flags of `list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// What to list
    #[arg(value_enum)]
    pub(crate) what: What,
}

/// Kinds of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum What {
    /// Snapshots: ids
    Snapshots,
    /// Packs: keys in the store
    Packs,
    /// Index segments: keys in the store
    Index,
    /// Key slots: keys in the store
    Keys,
    /// Pins of sessions that run or ended: keys in the store
    Pins,
    /// All blobs of the index: kind and id
    Blobs,
    /// All objects of the store: keys
    Objects,
}

/// Lists.
pub(crate) fn run(context: &Context, args: &ListArgs) -> Result<Outcome> {
    let mut out = context.out.stdout();
    match args.what {
        What::Snapshots => {
            let (snapshots, problems) = context.repository()?.snapshots()?;
            problems.iter().for_each(|p| context.out.warn(p.to_string()));
            for snapshot in &snapshots {
                line(context, &mut out, "snapshot", &snapshot.id().to_string(), None)?;
            }
            out.flush()?;
            return Ok(Outcome::of_problems(problems.len() as u64));
        }
        What::Blobs => blobs(context, &context.opened()?, &mut out)?,
        what => {
            let (prefix, kind) = match what {
                What::Packs => ("pack/", "pack"),
                What::Index => ("idx/", "index"),
                What::Keys => ("key/", "key"),
                What::Pins => ("pin/", "pin"),
                _ => ("", "object"),
            };
            let repo = context.repository()?;
            for listed in repo.bridge().wait(list_all(repo.store().as_ref(), prefix))? {
                line(context, &mut out, kind, listed.key.as_str(), Some(listed.size))?;
            }
        }
    }
    out.flush()?;
    Ok(Outcome::Done)
}

fn line(context: &Context, out: &mut impl Write, kind: &str, id: &str, size: Option<u64>) -> Result<()> {
    if context.out.json {
        return write_line(out, &json!({"type": kind, "id": id, "size": size}));
    }
    Ok(writeln!(out, "{id}")?)
}

fn blobs(context: &Context, opened: &Opened, out: &mut impl Write) -> Result<()> {
    let mut last = None;
    for found in opened.view.index.entries() {
        let entry = found.entry;
        // Copies of a blob stand together; one line tells of it.
        if last.replace((entry.id, entry.kind)) == Some((entry.id, entry.kind)) {
            continue;
        }
        if context.out.json {
            write_line(out, &json!({"type": kind(entry.kind), "id": entry.id.to_string(), "size": entry.len}))?;
        } else {
            writeln!(out, "{} {}", kind(entry.kind), entry.id)?;
        }
    }
    Ok(())
}

/// The word for a kind of blob.
pub(crate) fn kind(kind: BlobKind) -> &'static str {
    kind.as_str()
}
