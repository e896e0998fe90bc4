//! Which snapshots are meant.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use copal_engine::format::snapshot::{NamesPart, SnapshotKind};
use copal_engine::repo::view;
use copal_engine::repo::{Forgotten, Snapshot};

use crate::open::Opened;

/// Choosing snapshots by what they are.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Filter {
    /// Only snapshots of this host (may be given several times)
    #[arg(short = 'H', long, value_name = "HOST")]
    pub(crate) host: Vec<String>,
    /// Only snapshots with all these tags (several times: one of the lists)
    #[arg(long, value_name = "TAG[,TAG...]")]
    pub(crate) tag: Vec<String>,
    /// Only snapshots with this absolute path (several times: with all)
    #[arg(long, value_name = "PATH")]
    pub(crate) path: Vec<PathBuf>,
}

impl Filter {
    /// Whether nothing is asked for.
    pub(crate) fn is_empty(&self) -> bool {
        self.host.is_empty() && self.tag.is_empty() && self.path.is_empty()
    }

    /// Whether a snapshot is chosen. One whose names this key does not open is chosen only by an empty filter.
    pub(crate) fn takes(&self, snapshot: &Snapshot) -> bool {
        self.is_empty() || snapshot.names.as_ref().is_some_and(|names| self.takes_names(names))
    }

    fn takes_names(&self, names: &NamesPart) -> bool {
        let host = self.host.is_empty() || self.host.iter().any(|h| h.as_bytes() == names.host);
        let has_path = |path: &PathBuf| names.paths.iter().any(|p| p == path.as_os_str().as_bytes());
        let has_tag = |tag: &str| names.labels.iter().any(|l| l == tag.as_bytes());
        // As in restic: an empty tag means "no tags".
        let has_all = |list: &String| match list.as_str() {
            "" => names.labels.is_empty(),
            list => list.split(',').all(has_tag),
        };
        host && self.path.iter().all(has_path) && (self.tag.is_empty() || self.tag.iter().any(has_all))
    }
}

/// The snapshots with these ids, or all that the filter takes where none is named; in order of time.
pub(crate) fn choose<'a>(
    snapshots: &'a [Snapshot],
    forgotten: &[Forgotten],
    ids: &[String],
    filter: &Filter,
) -> Result<Vec<&'a Snapshot>> {
    if ids.is_empty() {
        return Ok(snapshots.iter().filter(|s| s.graph.kind == SnapshotKind::Whole && filter.takes(s)).collect());
    }
    let resolve = |id: &String| view::resolve(snapshots, forgotten, id, |s| filter.takes(s));
    Ok(ids.iter().map(resolve).collect::<Result<_, _>>()?)
}

/// The one snapshot that `id` names, and a path behind a colon in it.
pub(crate) fn one<'a>(opened: &'a Opened, id: &str, filter: &Filter) -> Result<(&'a Snapshot, Vec<u8>)> {
    let (id, path) = id.split_once(':').unwrap_or((id, ""));
    Ok((opened.view.resolve(id, |s| filter.takes(s))?, path.as_bytes().to_vec()))
}
