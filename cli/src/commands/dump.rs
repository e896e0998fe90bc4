//! `dump`.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use copal_engine::Error;
use copal_engine::format::node::NodeKind;
use copal_engine::id::BlobId;
use copal_engine::repo::{Node, walk::Descend};

use crate::archive::tar::TarWriter;
use crate::archive::zip::Zip;
use crate::archive::{Holes, write_content};
use crate::errors::Outcome;
use crate::open::{Context, Opened};
use crate::output::shown;
use crate::select::{Filter, one};

/// Flags of `dump`.
#[derive(Debug, Args)]
pub(crate) struct DumpArgs {
    /// Snapshot: the beginning of its id, latest, or latest~N
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// File or directory in it
    #[arg(value_name = "PATH")]
    pub(crate) inside: OsString,
    /// Which snapshots `latest` chooses from.
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// How to write a directory; names in the archive are relative to it
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "tar")]
    pub(crate) archive: Archive,
}

/// Kinds of archives.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Archive {
    /// POSIX pax, with extended attributes, holes and hard links
    Tar,
    /// Names, bytes, modes and times only
    Zip,
}

/// Writes to stdout.
pub(crate) fn run(context: &Context, args: &DumpArgs) -> Result<Outcome> {
    let opened = context.opened()?;
    let (snapshot, _) = one(&opened, &args.id, &args.filter)?;
    let root = snapshot.graph.root.expect("a whole snapshot has a root");
    let found = opened.reader.find(&root, args.inside.as_bytes())?;
    let mut out = context.out.stdout();
    let tree = match &found {
        None => root,
        Some(node) => match (node.tree(), &node.metadata.kind) {
            (Some(tree), _) => tree,
            (None, NodeKind::File { .. }) => {
                write_content(&opened.reader, node, Holes::Zeros, &mut out)?;
                out.flush()?;
                return Ok(Outcome::Done);
            }
            _ => bail!(Error::Invalid(format!(
                "{} is neither a file nor a directory; copal restore brings it back",
                shown(args.inside.as_bytes())
            ))),
        },
    };
    let mut left_out = 0;
    let mut tell = |path: &[u8]| {
        left_out += 1;
        context.out.warn(format!("left out: {} is of a kind that the archive has no place for", shown(path)));
    };
    match args.archive {
        Archive::Tar => {
            let mut tar = TarWriter::new(&mut out);
            each_entry(&opened, &tree, &mut |name, node| tar.append(&opened.reader, name, node), &mut tell)?;
            tar.finish()?;
            out.flush()?;
        }
        Archive::Zip => {
            let mut zip = Zip::new(out);
            each_entry(&opened, &tree, &mut |name, node| zip.append(&opened.reader, name, node), &mut tell)?;
            zip.finish()?;
        }
    }
    Ok(Outcome::of_problems(left_out))
}

/// All entries below `tree` with their relative names; damage ends it, for half an archive is none.
fn each_entry(
    opened: &Opened,
    tree: &BlobId,
    append: &mut dyn FnMut(&[u8], &Node) -> Result<bool>,
    left_out: &mut dyn FnMut(&[u8]),
) -> Result<()> {
    let mut failed = None;
    let mut visit = |path: &[u8], node: &Node| match append(&path[1..], node) {
        Ok(true) => Ok(Descend::Into),
        Ok(false) => {
            left_out(path);
            Ok(Descend::Over)
        }
        Err(e) => {
            failed = Some(e);
            Err(Error::Interrupted)
        }
    };
    let walked = opened.reader.walk(tree, b"", &mut visit, &mut |_, e| Err(e));
    match failed {
        Some(e) => Err(e),
        None => Ok(walked?),
    }
}
