//! `diff`.

use std::io::Write;

use anyhow::{Result, bail};
use clap::Args;
use copal_engine::Error;
use copal_engine::id::BlobId;
use copal_engine::ops::diff::{Change, Side, Summary, diff};
use copal_engine::repo::walk::join;
use serde_json::{Value, json};

use super::ls::to_engine;
use crate::errors::Outcome;
use crate::open::{Context, Opened};
use crate::output::{lossy, shown, write_line};
use crate::select::{Filter, one};
use crate::size;

/// Flags of `diff`.
#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// First snapshot, and perhaps a directory in it
    #[arg(value_name = "ID[:SUBPATH]")]
    pub(crate) a: String,
    /// Second snapshot, and perhaps a directory in it
    #[arg(value_name = "ID[:SUBPATH]")]
    pub(crate) b: String,
    /// Also show what differs in attributes only
    #[arg(long)]
    pub(crate) metadata: bool,
}

/// Compares. + only in the second, - only in the first, M other bytes, T another kind, U other attributes.
pub(crate) fn run(context: &Context, args: &DiffArgs) -> Result<Outcome> {
    let opened = context.opened()?;
    let (a, a_tree, base) = tree(&opened, &args.a)?;
    let (b, b_tree, other) = tree(&opened, &args.b)?;
    let base = if base == other { base } else { Vec::new() };
    let mut out = context.out.stdout();
    let mut each = |path: &[u8], change: Change| {
        if change == Change::Metadata && !args.metadata {
            return Ok(());
        }
        let letter = change.letter();
        let written = match context.out.json {
            true => write_line(
                &mut out,
                &json!({"message_type": "change", "path": lossy(path), "modifier": letter.to_string()}),
            ),
            false => writeln!(out, "{letter}    {}", shown(path)).map_err(Into::into),
        };
        written.map_err(to_engine)
    };
    let summary = diff(&opened.reader, &base, &a_tree, &b_tree, &mut each)?;
    match context.out.json {
        true => write_line(&mut out, &document(&summary, &a, &b))?,
        false if !context.out.quiet => print(&mut out, &summary)?,
        false => {}
    }
    out.flush()?;
    Ok(Outcome::Done)
}

/// Id of the snapshot, the tree, and its path.
fn tree(opened: &Opened, text: &str) -> Result<(String, BlobId, Vec<u8>)> {
    let (snapshot, path) = one(opened, text, &Filter::default())?;
    let root = snapshot.graph.root.expect("a whole snapshot has a root");
    let id = snapshot.id().to_string();
    match opened.reader.find(&root, &path)? {
        None => Ok((id, root, Vec::new())),
        Some(node) => match node.tree() {
            Some(tree) => Ok((id, tree, join(b"", &path))),
            None => bail!(Error::Invalid(format!("{} is no directory", shown(&path)))),
        },
    }
}

fn side(side: &Side) -> Value {
    json!({"files": side.files, "dirs": side.dirs, "others": side.others, "data_blobs": side.data_blobs,
           "tree_blobs": side.tree_blobs, "bytes": side.bytes})
}

fn document(summary: &Summary, a: &str, b: &str) -> Value {
    json!({
        "message_type": "statistics", "schema": 1, "source_snapshot": a, "target_snapshot": b,
        "changed_files": summary.changed_files, "added": side(&summary.added), "removed": side(&summary.removed),
    })
}

fn print(out: &mut impl Write, summary: &Summary) -> Result<()> {
    let (added, removed) = (&summary.added, &summary.removed);
    writeln!(
        out,
        "\nfiles:  {:>8} new, {:>8} removed, {:>8} changed",
        added.files, removed.files, summary.changed_files
    )?;
    writeln!(out, "dirs:   {:>8} new, {:>8} removed", added.dirs, removed.dirs)?;
    writeln!(out, "others: {:>8} new, {:>8} removed", added.others, removed.others)?;
    writeln!(out, "data blobs: {:>4} new, {:>8} removed", added.data_blobs, removed.data_blobs)?;
    writeln!(out, "tree blobs: {:>4} new, {:>8} removed", added.tree_blobs, removed.tree_blobs)?;
    writeln!(out, "added {}, removed {}", size::show(added.bytes), size::show(removed.bytes))?;
    Ok(())
}
