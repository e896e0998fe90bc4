//! `cat`.

use std::io::Write;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use copal_engine::Error;
use copal_engine::format::blob::BlobKind;
use copal_engine::id::{BlobId, hex};
use copal_engine::store::{Key, list_all};
use serde_json::{Value, json};

use super::key;
use super::snapshots;
use crate::errors::{Outcome, usage};
use crate::node;
use crate::open::Context;
use crate::output::lossy;
use crate::time;

/// Flags of `cat`.
#[derive(Debug, Args)]
pub(crate) struct CatArgs {
    /// What to print
    #[arg(value_enum)]
    pub(crate) what: What,
    /// Which: an id or its beginning; of packs and segments the key in the store or its end
    #[arg(value_name = "ID")]
    pub(crate) id: Option<String>,
}

/// Kinds of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum What {
    /// The config, as JSON
    Config,
    /// The key slots, as JSON
    Keys,
    /// A snapshot with its problems, as JSON
    Snapshot,
    /// A directory: its entries, as JSON
    Tree,
    /// A blob's bytes
    Blob,
    /// A pack's stored bytes
    Pack,
    /// An index segment's stored bytes
    Index,
}

/// Prints one object.
pub(crate) fn run(context: &Context, args: &CatArgs) -> Result<Outcome> {
    let id = || args.id.as_deref().ok_or_else(|| usage("which one? give its id"));
    match args.what {
        What::Config => print(context, &config(context)?)?,
        What::Keys => print(context, &key::document(&context.repository()?)?)?,
        What::Snapshot => print(context, &snapshot(context, id()?)?)?,
        What::Tree => print(context, &tree(context, id()?)?)?,
        What::Blob => blob(context, id()?)?,
        What::Pack => stored(context, "pack/", id()?)?,
        What::Index => stored(context, "idx/", id()?)?,
    }
    Ok(Outcome::Done)
}

fn print(context: &Context, value: &Value) -> Result<()> {
    let mut out = context.out.stdout();
    match context.out.json {
        true => serde_json::to_writer(&mut out, value).map_err(std::io::Error::from)?,
        false => serde_json::to_writer_pretty(&mut out, value).map_err(std::io::Error::from)?,
    }
    writeln!(out)?;
    Ok(out.flush()?)
}

fn config(context: &Context) -> Result<Value> {
    let repo = context.repository()?;
    let config = repo.config();
    let create_only = ["ignored", "sequential", "atomic"].get(usize::from(config.store.create_only)).copied();
    Ok(json!({
        "schema": 1, "version": 1, "id": config.repository.to_string(), "epoch": config.epoch,
        "time": time::rfc3339(config.time), "root": hex(config.root.as_bytes()),
        "chunker": {"min": config.chunker.min, "avg": config.chunker.avg, "max": config.chunker.max},
        "features": config.features.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(),
        "store": {"create_only": create_only, "strong_list": config.store.strong_list},
        "recipients": config.recipients.iter().map(|r| hex(&r.public.fingerprint())).collect::<Vec<_>>(),
        "members": key::members(&repo),
    }))
}

fn snapshot(context: &Context, id: &str) -> Result<Value> {
    let all = context.repository()?.committed()?;
    let snapshot = all.resolve(id, |_| true)?;
    let mut value = snapshots::to_json(snapshot);
    let problems = snapshot.names.iter().flat_map(|names| &names.problems);
    value["problem_list"] = problems
        .map(|p| json!({"kind": lossy(&p.kind), "item": lossy(&p.path), "message": lossy(&p.message)}))
        .collect();
    let segments = snapshot.graph.segments.iter();
    value["segments"] = segments.map(|(_, id)| Value::from(id.to_string())).collect();
    (value["packs"], value["pack_bytes"]) = (snapshot.graph.packs.into(), snapshot.graph.pack_bytes.into());
    Ok(value)
}

/// The blob with this id or the beginning of one, if one kind and one blob only has it.
pub(crate) fn find_blob(
    opened: &crate::open::Opened,
    text: &str,
    kind: Option<BlobKind>,
) -> Result<(BlobId, BlobKind)> {
    let text = text.to_lowercase();
    if text.len() < 4 || !text.bytes().all(|c| c.is_ascii_hexdigit()) {
        return Err(usage(format!("{text:?} is no id of a blob: give 4 or more of its digits")));
    }
    let mut found: Option<(BlobId, BlobKind)> = None;
    for entry in opened.view.index.entries().map(|copy| copy.entry) {
        if kind.is_some_and(|kind| kind != entry.kind) || !entry.id.to_string().starts_with(&text) {
            continue;
        }
        match found {
            Some(before) if before != (entry.id, entry.kind) => {
                return Err(usage(format!("several blobs begin with {text}; give more digits")));
            }
            _ => found = Some((entry.id, entry.kind)),
        }
    }
    Ok(found.ok_or_else(|| Error::NotFound(format!("no blob begins with {text}; copal list blobs lists them")))?)
}

fn tree(context: &Context, id: &str) -> Result<Value> {
    let opened = context.opened()?;
    let (tree, path) = match id.split_once(':') {
        Some((snapshot, path)) => {
            let snapshot = opened.view.resolve(snapshot, |_| true)?;
            let root = snapshot.graph.root.expect("a whole snapshot has a root");
            match opened.reader.find(&root, path.as_bytes())? {
                None => (root, String::new()),
                Some(node) => match node.tree() {
                    Some(tree) => (tree, path.trim_end_matches('/').to_owned()),
                    None => bail!(Error::Invalid(format!("{path} is no directory"))),
                },
            }
        }
        None => (find_blob(&opened, id, Some(BlobKind::Tree))?.0, String::new()),
    };
    let nodes: Vec<Value> = opened
        .reader
        .entries(&tree)?
        .iter()
        .map(|n| {
            let mut value = node::to_json(&[path.as_bytes(), b"/", &n.name].concat(), n);
            value["children"] = n.children.iter().map(|id| Value::from(id.to_string())).collect();
            value
        })
        .collect();
    Ok(json!({"schema": 1, "id": tree.to_string(), "nodes": nodes}))
}

fn blob(context: &Context, id: &str) -> Result<()> {
    let opened = context.opened()?;
    let (id, kind) = find_blob(&opened, id, None)?;
    let bytes = opened.reader.blob(&id, kind)?;
    let mut out = context.out.stdout();
    out.write_all(&bytes)?;
    Ok(out.flush()?)
}

fn stored(context: &Context, prefix: &str, id: &str) -> Result<()> {
    let repo = context.repository()?;
    let listed = repo.bridge().wait(list_all(repo.store().as_ref(), prefix))?;
    let is_it = |key: &Key| {
        let hash = key.name().rsplit('-').next().unwrap_or_default();
        key.as_str() == id || key.name() == id || id.len() >= 4 && hash.starts_with(id)
    };
    let found: Vec<_> = listed.into_iter().filter(|l| is_it(&l.key)).collect();
    let [one] = &found[..] else {
        let count = found.len();
        bail!(Error::NotFound(format!("{count} objects below {prefix} are called {id}; copal list shows all of them")));
    };
    let bytes = repo.bridge().wait(repo.store().get(&one.key, one.size))?;
    let mut out = context.out.stdout();
    out.write_all(&bytes)?;
    Ok(out.flush()?)
}
