//! `ls`.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;

use anyhow::Result;
use clap::{Args, ValueEnum};
use copal_engine::Error;
use copal_engine::repo::Node;
use copal_engine::repo::walk::{Descend, join};
use serde_json::{Value, json};

use super::snapshots;
use crate::errors::Outcome;
use crate::node;
use crate::open::Context;
use crate::output::{shown, write_line};
use crate::select::{Filter, one};
use crate::time;

/// Flags of `ls`.
#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// Snapshot: the beginning of its id, latest, or latest~N
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// Only what is directly in this directory, or this file [default: everything]
    #[arg(value_name = "PATH")]
    pub(crate) inside: Option<OsString>,
    /// Which snapshots `latest` chooses from.
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// Show permissions, owner, size and time
    #[arg(short, long)]
    pub(crate) long: bool,
    /// With --long: sizes in binary units
    #[arg(long)]
    pub(crate) human_readable: bool,
    /// Also all below PATH
    #[arg(long)]
    pub(crate) recursive: bool,
    /// Order; all but name keep the whole list in memory
    #[arg(short, long, value_enum, value_name = "KEY", default_value = "name")]
    pub(crate) sort: Sort,
    /// The other way round
    #[arg(long)]
    pub(crate) reverse: bool,
}

/// What a list is ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sort {
    /// By path
    Name,
    /// By size
    Size,
    /// By time of change
    #[value(alias = "mtime")]
    Time,
    /// By time of last access
    Atime,
    /// By time of change of the inode
    Ctime,
    /// By what follows the last dot
    Extension,
}

/// Lists what a snapshot holds.
pub(crate) fn run(context: &Context, args: &LsArgs) -> Result<Outcome> {
    let opened = context.opened()?;
    let (snapshot, sub) = one(&opened, &args.id, &args.filter)?;
    let path = args.inside.as_ref().map_or(sub, |p| p.as_bytes().to_vec());
    let root = snapshot.graph.root.expect("a whole snapshot has a root");
    let mut out = context.out.stdout();
    if context.out.json {
        write_line(&mut out, &tagged("snapshot", snapshots::to_json(snapshot)))?;
    } else if !context.out.quiet && args.inside.is_none() {
        context.out.note(format!("snapshot {} of {}", snapshot.id().short(), time::short(snapshot.graph.time)));
    }

    let everything = args.recursive || path.iter().all(|&b| b == b'/');
    let mut kept = Vec::new();
    let mut problems = 0;
    let mut visit = |at: &[u8], found: &Node| -> copal_engine::Result<Descend> {
        if args.sort == Sort::Name && !args.reverse {
            print(context, args, &mut out, at, found).map_err(to_engine)?;
        } else {
            kept.push((at.to_vec(), found.clone()));
        }
        Ok(if everything { Descend::Into } else { Descend::Over })
    };
    let mut damaged = |at: &[u8], e: Error| {
        problems += 1;
        context.out.warn(format!("{}: {e}", shown(at)));
        Ok(())
    };
    match opened.reader.find(&root, &path)? {
        None => opened.reader.walk(&root, b"", &mut visit, &mut damaged)?,
        Some(found) => {
            let at = join(b"", &path);
            match found.tree() {
                Some(tree) => opened.reader.walk(&tree, &at, &mut visit, &mut damaged)?,
                None => visit(&at, &found).map(|_| ())?,
            }
        }
    }
    sort(&mut kept, args);
    for (at, found) in &kept {
        print(context, args, &mut out, at, found)?;
    }
    out.flush()?;
    Ok(Outcome::of_problems(problems))
}

/// An error of stdout on its way through a walk of the engine.
pub(crate) fn to_engine(error: anyhow::Error) -> Error {
    let source = error.downcast::<std::io::Error>().unwrap_or_else(std::io::Error::other);
    Error::io("write to", "stdout", source)
}

fn print(context: &Context, args: &LsArgs, out: &mut impl Write, at: &[u8], found: &Node) -> Result<()> {
    if context.out.json {
        return write_line(out, &tagged("node", node::to_json(at, found)));
    }
    Ok(writeln!(out, "{}", node::line(at, found, args.long, args.human_readable))?)
}

/// The type of a line in front of its fields; `struct_type` for readers of older restic.
fn tagged(kind: &str, fields: Value) -> Value {
    let mut line = json!({"message_type": kind, "struct_type": kind});
    if let (Some(line), Value::Object(fields)) = (line.as_object_mut(), fields) {
        line.extend(fields);
    }
    line
}

fn sort(kept: &mut [(Vec<u8>, Node)], args: &LsArgs) {
    let extension = |path: &[u8]| {
        let name = path.rsplit(|&b| b == b'/').next().unwrap_or_default();
        name.iter().rposition(|&b| b == b'.').map(|dot| name[dot..].to_vec())
    };
    kept.sort_by(|(a_path, a), (b_path, b)| {
        let (am, bm) = (&a.metadata, &b.metadata);
        // As `ls` does: the largest and the newest first.
        let key = match args.sort {
            Sort::Name => std::cmp::Ordering::Equal,
            Sort::Size => b.size().cmp(&a.size()),
            Sort::Time => bm.mtime.cmp(&am.mtime),
            Sort::Atime => bm.atime.cmp(&am.atime),
            Sort::Ctime => bm.ctime.cmp(&am.ctime),
            Sort::Extension => extension(a_path).cmp(&extension(b_path)),
        };
        key.then_with(|| a_path.cmp(b_path))
    });
    if args.reverse {
        kept.reverse();
    }
}
