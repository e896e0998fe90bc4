//! A snapshot that several sessions share: an application, its manifests and its volumes (docs/protocol.md, "A snapshot of
//! several sessions").
//!
//! **Expected flow**: [`Run::begin`]; for each volume, anywhere, [`backup`](super::backup) with [`Options::part_of`] = [`Run::at`];
//! [`Run::finish`] with what those have made. A run that maintenance has ended fails, and begins anew with new parts.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::crypto::rng::{Rng, split};
use crate::error::{Error, Result};
use crate::format::bundle::Identity;
use crate::format::snapshot::{LABELS_MAX, SnapshotKind};
use crate::id::{BlobId, SessionId, SnapshotId, WriterId};
use crate::ops::fold;
use crate::progress::{Cancel, Progress};
use crate::repo::Repository;
use crate::repo::session::Session;

use super::{Options, Summary, plan, plan_paths, source_options, store};

/// The directory that holds what the parts hold.
pub const VOLUMES: &[u8] = b"volumes";

/// A part that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// The one entry of its root, of at most 255 bytes: its path is `/<name>`.
    pub name: Vec<u8>,
    /// The part.
    pub snapshot: SnapshotId,
}

/// A snapshot in the making. Dropped without [`Run::finish`] it leaves nothing but what a prune gives back.
pub struct Run {
    session: Session,
    who: Identity,
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Run({:?})", self.at())
    }
}

impl Run {
    /// Opens its session, which answers prunes from now on. What it stores itself is compressed at `level` (zstd, 0: off).
    pub fn begin(repo: &Arc<Repository>, who: &Identity, level: i32, rng: &mut dyn Rng) -> Result<Self> {
        let session = Session::begin(Arc::clone(repo), who, level, false, Box::new(split(rng)))?;
        Ok(Self { session, who: who.clone() })
    }

    /// What its parts must name.
    pub fn at(&self) -> (WriterId, SessionId) {
        self.session.at()
    }

    /// Commits the whole: what `options` says, and beside it in the top directory [`VOLUMES`], with what the parts hold. Blocks.
    ///
    /// [`Error::NotFound`]: a part is not there, or is none of this run. [`Error::Fenced`]: maintenance has ended the run.
    pub fn finish(
        self,
        options: &Options,
        parts: &[Done],
        rng: &mut dyn Rng,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Summary> {
        let repo = Arc::clone(self.session.repository());
        let roots = self.roots(parts)?;
        let source_options = source_options(&repo, options);
        let (paths, plan) = plan_paths(options, &source_options)?;
        let first = options.paths.first().map(|path| plan::absolute(path)).transpose()?.unwrap_or_default();
        let plan = plan.beside(&first, VOLUMES, roots, &source_options)?;
        let mut ids: Vec<SnapshotId> = parts.iter().map(|part| part.snapshot).collect();
        ids.sort_unstable();
        let Self { session, who } = self;
        let shape = |graph: &mut crate::format::snapshot::GraphPart| graph.parts = ids.clone();
        let summary = store(session, &paths, &plan, options, &shape, progress, cancel)?;
        fold(&repo, &who, rng);
        Ok(summary)
    }

    /// The parts' trees by their names. Only what was committed and names this run is taken (S2, S3).
    fn roots(&self, parts: &[Done]) -> Result<BTreeMap<Vec<u8>, BlobId>> {
        if parts.len() > LABELS_MAX {
            return Err(Error::Invalid(format!("a snapshot takes up to {LABELS_MAX} parts, not {}", parts.len())));
        }
        let committed = self.session.repository().committed()?;
        let mut roots = BTreeMap::new();
        for Done { name, snapshot } in parts {
            let own = |s: &&crate::repo::Snapshot| {
                s.id() == *snapshot && s.graph.kind == SnapshotKind::Part && s.graph.run == Some(self.at())
            };
            let part = committed.snapshots.iter().find(own);
            let root = part.and_then(|part| part.graph.root).ok_or_else(|| {
                Error::NotFound(format!("there is no snapshot {} that is a part of this run", snapshot.short()))
            })?;
            if name.is_empty() || name.len() > 255 || name.contains(&b'/') || roots.insert(name.clone(), root).is_some()
            {
                let name = String::from_utf8_lossy(name);
                return Err(Error::Invalid(format!("{name:?} is no name for a part, or two have it")));
            }
        }
        Ok(roots)
    }
}
