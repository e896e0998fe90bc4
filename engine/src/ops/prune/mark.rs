//! What snapshots reach, through trees alone: a maintainer's key reads no more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rayon::Scope;

use crate::error::{Error, Result};
use crate::format::blob::BlobKind;
use crate::format::tree::{DEPTH_MAX, Tree, TreeEntry, TreeKind};
use crate::id::BlobId;
use crate::progress::Cancel;
use crate::repo::index::{Index, Marks};
use crate::repo::{Reader, Repository};

const NOTHING: &str = "Nothing was deleted, because what lies below it cannot be known";

/// Marks every blob that is reachable from `roots`; each tree is read once and its id verified. A bit of heap for each entry.
///
/// A tree that cannot be read, or a blob that the index does not know, is an error that names it: what lies below cannot be
/// known, so nothing may be deleted.
pub fn mark(repo: &Arc<Repository>, index: &Arc<Index>, roots: &[BlobId], cancel: &Cancel) -> Result<Marks> {
    let threads = repo.options().threads.max(1);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|n| format!("copal-mark-{n}"))
        .build()
        .map_err(|e| Error::Invalid(format!("cannot start {threads} threads: {e}")))?;
    let cache = (repo.options().memory / 8).min(64 << 20) as usize;
    let walk = Walk {
        reader: Reader::new(Arc::clone(repo), Arc::clone(index), cache),
        live: index.marks(),
        cancel,
        stop: AtomicBool::new(false),
        failed: Mutex::new(None),
    };
    pool.scope(|scope| roots.iter().for_each(|root| walk.reach(scope, root, BlobKind::Tree, 0)));
    match walk.failed.into_inner().expect("no panic while held") {
        Some(_) if cancel.is_canceled() => Err(Error::Interrupted),
        Some(e) => Err(e),
        None => Ok(walk.live),
    }
}

struct Walk<'c> {
    reader: Reader,
    live: Marks,
    cancel: &'c Cancel,
    stop: AtomicBool,
    failed: Mutex<Option<Error>>,
}

impl Walk<'_> {
    /// Marks a blob, and visits it if it is a tree that was not reached before.
    fn reach<'s>(&'s self, scope: &Scope<'s>, id: &BlobId, kind: BlobKind, depth: usize) {
        match self.live.mark(id, kind) {
            Some(true) if kind == BlobKind::Tree => {
                let id = *id;
                scope.spawn(move |scope| self.visit(scope, &id, depth));
            }
            Some(_) => {}
            None => self.fail(Error::damaged(
                format!("{} blob {id}", kind.as_str()),
                format!("a snapshot needs it, and no index segment lists it. {NOTHING}"),
            )),
        }
    }

    fn visit<'s>(&'s self, scope: &Scope<'s>, id: &BlobId, depth: usize) {
        if self.stop.load(Ordering::Relaxed) {
            return;
        }
        if self.cancel.is_canceled() {
            return self.fail(Error::Interrupted);
        }
        let tree = match self.tree(id, depth) {
            Ok(tree) => tree,
            Err(e) => return self.fail(e),
        };
        match tree {
            Tree::Stretch { meta, entries } => {
                self.reach(scope, &meta, BlobKind::Meta, depth);
                entries.iter().for_each(|entry| self.entry(scope, entry, depth));
            }
            Tree::Split { meta, stretches } => {
                self.reach(scope, &meta, BlobKind::Meta, depth);
                stretches.iter().for_each(|id| self.reach(scope, id, BlobKind::Tree, depth));
            }
            Tree::Part { map, data } => {
                self.reach(scope, &map, BlobKind::Map, depth);
                data.iter().for_each(|id| self.reach(scope, id, BlobKind::Data, depth));
            }
        }
    }

    fn entry<'s>(&'s self, scope: &Scope<'s>, entry: &TreeEntry, depth: usize) {
        let below = depth + usize::from(entry.kind == TreeKind::Dir);
        for (id, kind) in entry.blobs() {
            self.reach(scope, id, kind, below);
        }
    }

    fn tree(&self, id: &BlobId, depth: usize) -> Result<Tree> {
        // Ids bind content, so no tree lies below itself; only a reader's stack has to be spared.
        if depth > DEPTH_MAX {
            return Err(Error::damaged(format!("tree blob {id}"), format!("it lies too deep. {NOTHING}")));
        }
        self.reader.tree(id).map_err(|e| match e {
            Error::Damaged { object, how } => Error::damaged(object, format!("{how}. {NOTHING}")),
            other => other,
        })
    }

    fn fail(&self, error: Error) {
        self.stop.store(true, Ordering::Relaxed);
        self.failed.lock().expect("no panic while held").get_or_insert(error);
    }
}
