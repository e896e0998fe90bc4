//! `find`.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStringExt;

use anyhow::Result;
use clap::Args;
use copal_engine::Error;
use copal_engine::format::blob::BlobKind;
use copal_engine::format::node::Timestamp;
use copal_engine::id::BlobId;
use copal_engine::ops::find::{Query, find, find_blobs};
use copal_engine::repo::{Node, Snapshot};
use copal_engine::source::pattern::Case;
use serde_json::{Value, json};

use super::cat::find_blob;
use crate::errors::{Outcome, usage};
use crate::node;
use crate::open::{Context, Opened};
use crate::output::{lossy, shown};
use crate::select::{Filter, choose};
use crate::time;

/// Flags of `find`.
#[derive(Debug, Args)]
pub(crate) struct FindArgs {
    /// Patterns: without / compared with names, with / with paths. With --blob, --tree or --pack: ids
    #[arg(value_name = "PATTERN", required = true)]
    pub(crate) patterns: Vec<OsString>,
    /// Only in these snapshots (may be given several times) [default: all]
    #[arg(short, long, value_name = "ID")]
    pub(crate) snapshot: Vec<String>,
    /// Which snapshots.
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// Upper and lower case alike
    #[arg(short, long)]
    pub(crate) ignore_case: bool,
    /// Only what changed then or later
    #[arg(short = 'N', long, value_name = "TIME", value_parser = time::parse)]
    pub(crate) newer: Option<Timestamp>,
    /// Only what changed then or earlier
    #[arg(short = 'O', long, value_name = "TIME", value_parser = time::parse)]
    pub(crate) older: Option<Timestamp>,
    /// Show permissions, owner, size and time
    #[arg(short, long)]
    pub(crate) long: bool,
    /// Find what is made of these blobs
    #[arg(long, conflicts_with_all = ["tree", "pack"])]
    pub(crate) blob: bool,
    /// Find directories with these trees
    #[arg(long, conflicts_with = "pack")]
    pub(crate) tree: bool,
    /// Find what lies in these packs
    #[arg(long)]
    pub(crate) pack: bool,
}

/// Finds.
pub(crate) fn run(context: &Context, args: &FindArgs) -> Result<Outcome> {
    let opened = context.opened()?;
    let mut chosen = choose(&opened.view.snapshots, &opened.view.forgotten, &args.snapshot, &args.filter)?;
    // The newest first: that is what most people look for.
    chosen.reverse();
    if args.blob || args.tree || args.pack {
        by_blob(context, args, &opened, &chosen)
    } else {
        by_name(context, args, &opened, &chosen)
    }
}

fn by_name(context: &Context, args: &FindArgs, opened: &Opened, chosen: &[&Snapshot]) -> Result<Outcome> {
    let patterns: Vec<Vec<u8>> = args.patterns.iter().map(|p| p.clone().into_vec()).collect();
    let case = if args.ignore_case { Case::Ignore } else { Case::Exact };
    let mut query = Query::new(&patterns, case).map_err(|e| usage(crate::errors::text(&e.into())))?;
    (query.newer, query.older) = (args.newer, args.older);
    let mut damage = Damage::new(context);
    let (mut documents, mut out) = (Vec::new(), context.out.stdout());
    for snapshot in chosen {
        let mut matches: Vec<(Vec<u8>, Node)> = Vec::new();
        let mut each = |path: &[u8], node: &Node| {
            matches.push((path.to_vec(), node.clone()));
            Ok(())
        };
        let root = snapshot.graph.root.expect("a whole snapshot has a root");
        find(&opened.reader, &root, &query, &mut each, &mut |at, e| damage.tell(at, e))?;
        if matches.is_empty() {
            continue;
        }
        if context.out.json {
            let found: Vec<Value> = matches.iter().map(|(path, found)| node::to_json(path, found)).collect();
            documents.push(
                json!({"schema": 1, "matches": found, "hits": found.len(), "snapshot": snapshot.id().to_string()}),
            );
            continue;
        }
        writeln!(out, "in snapshot {} of {}", snapshot.id().short(), time::short(snapshot.graph.time))?;
        for (path, found) in &matches {
            writeln!(out, "{}", node::line(path, found, args.long, false))?;
        }
    }
    out.flush()?;
    if context.out.json {
        drop(out);
        context.out.line(&documents)?;
    }
    Ok(Outcome::of_problems(damage.count))
}

fn by_blob(context: &Context, args: &FindArgs, opened: &Opened, chosen: &[&Snapshot]) -> Result<Outcome> {
    let wanted = wanted(args, opened)?;
    let mut damage = Damage::new(context);
    let (mut documents, mut out) = (Vec::new(), context.out.stdout());
    for snapshot in chosen {
        let mut each = |path: &[u8], id: BlobId, kind: BlobKind| {
            let path = if path.is_empty() { b"/".as_slice() } else { path };
            if context.out.json {
                documents.push(json!({
                    "schema": 1, "object_type": kind.as_str(), "id": id.to_string(), "path": lossy(path),
                    "snapshot": snapshot.id().to_string(), "time": time::rfc3339(snapshot.graph.time),
                }));
                return Ok(());
            }
            let (id, snapshot) = (id.short(), snapshot.id().short());
            writeln!(out, "{} {id} in {} of snapshot {snapshot}", kind.as_str(), shown(path))
                .map_err(|e| Error::io("write to", "stdout", e))
        };
        let root = snapshot.graph.root.expect("a whole snapshot has a root");
        let mut seen = HashSet::new();
        find_blobs(&opened.reader, &root, &wanted, &mut seen, &mut each, &mut |at, e| damage.tell(at, e))?;
    }
    out.flush()?;
    if context.out.json {
        drop(out);
        context.out.line(&documents)?;
    }
    Ok(Outcome::of_problems(damage.count))
}

/// The blobs that are looked for.
fn wanted(args: &FindArgs, opened: &Opened) -> Result<HashSet<BlobId>> {
    let texts: Vec<String> = args.patterns.iter().map(|p| p.to_string_lossy().to_lowercase()).collect();
    if !args.pack {
        let kind = args.tree.then_some(BlobKind::Tree);
        return texts.iter().map(|text| Ok(find_blob(opened, text, kind)?.0)).collect();
    }
    if let Some(short) = texts.iter().find(|t| t.len() < 4 || !t.bytes().all(|c| c.is_ascii_hexdigit())) {
        return Err(usage(format!("{short:?} is no id of a pack: give 4 or more digits of its hash")));
    }
    let packs: HashSet<_> = opened
        .view
        .index
        .packs()
        .map(|p| p.id)
        .filter(|id| texts.iter().any(|t| id.to_string().starts_with(t)))
        .collect();
    if packs.is_empty() {
        return Err(Error::NotFound("no pack of the index has such a hash; copal list packs lists them".into()).into());
    }
    Ok(opened.view.index.entries().filter(|copy| packs.contains(&copy.pack_id())).map(|copy| copy.entry.id).collect())
}

/// Damage that a walk passes over: told, and counted.
pub(crate) struct Damage<'c> {
    context: &'c Context,
    /// How often.
    pub(crate) count: u64,
}

impl<'c> Damage<'c> {
    /// None yet.
    pub(crate) fn new(context: &'c Context) -> Self {
        Self { context, count: 0 }
    }

    /// Tells of one.
    pub(crate) fn tell(&mut self, at: &[u8], error: Error) -> copal_engine::Result<()> {
        self.count += 1;
        self.context.out.warn(format!("{}: {error}", shown(if at.is_empty() { b"/" } else { at })));
        Ok(())
    }
}
