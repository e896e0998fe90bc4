//! What snapshots reach, through trees alone: a maintainer's key reads no more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rayon::Scope;

use crate::error::{Error, Result};
use crate::format::blob::BlobKind;
use crate::format::tree::{DEPTH_MAX, Named, Tree};
use crate::id::BlobId;
use crate::progress::Cancel;
use crate::repo::index::{Index, Marks};
use crate::repo::{Reader, Repository};

/// Marks every blob that is reachable from `roots`, each tree verified by its id.
///
/// A tree that cannot be read, or a blob that the index does not know, is an error that names it: what lies below cannot be
/// known, so nothing may be deleted. Holds a bit for each entry of the index four times, and an eighth of the memory that
/// the repository was opened with. Blocks; call it from a plain thread.
pub fn mark(repo: &Arc<Repository>, index: &Arc<Index>, roots: &[BlobId], cancel: &Cancel) -> Result<Marks> {
    let threads = repo.options().threads.max(1);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|n| format!("copal-mark-{n}"))
        .build()
        .map_err(|e| Error::Invalid(format!("cannot start {threads} threads: {e}")))?;
    let cache = (repo.options().memory / 8).min(256 << 20) as usize;
    let walk = Walk {
        reader: Reader::new(Arc::clone(repo), Arc::clone(index), cache),
        cancel,
        live: index.marks(),
        visited: [(); 3].map(|()| index.marks()),
        stop: AtomicBool::new(false),
        failed: Mutex::new(None),
    };
    pool.scope(|scope| {
        for root in roots {
            walk.descend(scope, Named::root(*root));
        }
    });
    match walk.failed.into_inner().expect("no panic while held") {
        Some(error) => Err(error),
        None => Ok(walk.live),
    }
}

struct Walk<'c> {
    reader: Reader,
    cancel: &'c Cancel,
    live: Marks,
    /// One for each [`Form`](crate::format::tree::Form).
    visited: [Marks; 3],
    stop: AtomicBool,
    failed: Mutex<Option<Error>>,
}

impl Walk<'_> {
    /// Visits a tree unless it was visited in this form.
    fn descend<'s>(&'s self, scope: &Scope<'s>, job: Named) {
        let known = self.reach(&job.tree, BlobKind::Tree);
        if known && self.visited[job.form as usize].mark(&job.tree, BlobKind::Tree) == Some(true) {
            scope.spawn(move |scope| self.visit(scope, job));
        }
    }

    /// Marks a blob; whether the index knows it.
    fn reach(&self, id: &BlobId, kind: BlobKind) -> bool {
        let known = self.live.mark(id, kind).is_some();
        if !known {
            self.fail(unknown(id, kind, "a snapshot needs it and no index segment lists it"));
        }
        known
    }

    fn visit<'s>(&'s self, scope: &Scope<'s>, job: Named) {
        if self.stop.load(Ordering::Relaxed) {
            return;
        }
        if self.cancel.is_canceled() {
            return self.fail(Error::Interrupted);
        }
        match self.read(&job) {
            Ok(tree) => self.children(scope, &job, &tree),
            Err(error) => self.fail(error),
        }
    }

    /// A tree that opens, has its id, and is what it is named as.
    fn read(&self, job: &Named) -> Result<Tree> {
        if job.depth > DEPTH_MAX {
            return Err(unknown(&job.tree, BlobKind::Tree, format!("it lies deeper than {DEPTH_MAX} directories")));
        }
        let tree = self.reader.tree(&job.tree).map_err(|error| match error {
            Error::Damaged { object, how } => unknown(&job.tree, BlobKind::Tree, format!("{object}: {how}")),
            other => other,
        })?;
        tree.may_be(job.form).map_err(|how| unknown(&job.tree, BlobKind::Tree, how))?;
        Ok(tree)
    }

    fn children<'s>(&'s self, scope: &Scope<'s>, job: &Named, tree: &Tree) {
        tree.each_named(&mut |id, kind, form| match form {
            Some(form) => self.descend(scope, job.below(*id, form)),
            None => {
                self.reach(id, kind);
            }
        });
    }

    fn fail(&self, error: Error) {
        self.stop.store(true, Ordering::Relaxed);
        self.failed.lock().expect("no panic while held").get_or_insert(error);
    }
}

/// What keeps a prune from knowing what is needed.
fn unknown(id: &BlobId, kind: BlobKind, how: impl std::fmt::Display) -> Error {
    let how = format!("{how}; what lies below it cannot be known, so nothing was deleted");
    Error::damaged(format!("{} blob {id}", kind.as_str()), how)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunker::Params;
    use crate::crypto::rng::{SeededRng, SystemRng};
    use crate::format::snapshot::{GraphPart, NamesPart, SnapshotKind};
    use crate::format::tree::{TreeEntry, TreeKind};
    use crate::repo::repack::without_tree;
    use crate::repo::session::Worker;
    use crate::repo::{Bridge, Options, Session, init};
    use crate::store::memory::Memory;
    use crate::store::{Key, Store};

    struct Setting {
        _dir: tempfile::TempDir,
        store: Arc<dyn Store>,
        repo: Arc<Repository>,
        roots: Vec<BlobId>,
    }

    /// A repository with one snapshot of what `fill` stores; `fill` gives the roots that are walked from.
    fn stored(fill: impl FnOnce(&mut Worker) -> Vec<BlobId>) -> Setting {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(Memory::new());
        let mut options = Options::new(dir.path());
        (options.cache, options.threads) = (None, 3);
        let params = Params::with_average(64 << 10).unwrap();
        let bridge = Bridge::start().unwrap();
        let (mut repo, _) = init(Arc::clone(&store), bridge, params, options, &mut SeededRng::new("mark")).unwrap();
        let who = repo.identity(&mut SystemRng).unwrap();
        let repo = Arc::new(repo);
        let session = Session::begin(Arc::clone(&repo), &who, 1, false, Box::new(SystemRng)).unwrap();
        let mut worker = session.worker();
        let roots = fill(&mut worker);
        worker.flush().unwrap();
        drop(worker);
        session.commit(graph(roots[0]), |_| NamesPart::default()).unwrap();
        Setting { _dir: dir, store, repo, roots }
    }

    fn graph(root: BlobId) -> GraphPart {
        GraphPart { kind: SnapshotKind::Whole, root: Some(root), ..without_tree(Default::default()) }
    }

    impl Setting {
        fn mark(&self) -> Result<Marks> {
            let view = self.repo.view()?;
            mark(&self.repo, &view.index, &self.roots, &Cancel::default())
        }

        /// What a walk that must fail says; it never names success.
        fn damage(&self) -> (String, String) {
            match self.mark() {
                Err(Error::Damaged { object, how }) => {
                    assert!(how.contains("nothing was deleted"), "{how}");
                    (object, how)
                }
                Err(other) => panic!("{other}"),
                Ok(_) => panic!("damage went unnoticed"),
            }
        }
    }

    fn entry(kind: TreeKind, children: Vec<BlobId>) -> TreeEntry {
        TreeEntry { kind, children, tags: Default::default() }
    }

    fn tree(worker: &mut Worker, tree: Tree) -> BlobId {
        worker.store(BlobKind::Tree, &tree.encode()).unwrap()
    }

    fn directory(worker: &mut Worker, entries: Vec<TreeEntry>) -> BlobId {
        let meta = worker.store(BlobKind::Meta, b"never read").unwrap();
        tree(worker, Tree::Stretch { meta, entries })
    }

    #[test]
    fn what_is_reachable_is_marked_and_nothing_else() {
        let mut needed = Vec::new();
        let mut surplus = Vec::new();
        let setting = stored(|worker| {
            let mut blob = |worker: &mut Worker, kind, text: &str| {
                let id = worker.store(kind, text.as_bytes()).unwrap();
                needed.push((id, kind));
                id
            };
            let data: Vec<_> = ["a", "b", "c"].map(|text| blob(worker, BlobKind::Data, text)).into();
            let map = blob(worker, BlobKind::Map, "map");
            let names = blob(worker, BlobKind::Meta, "names");
            let part = tree(worker, Tree::Part { map, data: vec![data[2]] });
            let large = entry(TreeKind::LargeFile, vec![map, part]);
            let stretches = vec![
                directory(worker, vec![entry(TreeKind::File, vec![data[0]]), large]),
                directory(worker, vec![entry(TreeKind::MappedFile, vec![map, data[1]])]),
            ];
            let split = tree(worker, Tree::Split { meta: names, stretches: stretches.clone() });
            let root = directory(worker, vec![entry(TreeKind::Dir, vec![split])]);
            needed.extend([part, split, root].into_iter().chain(stretches).map(|id| (id, BlobKind::Tree)));
            surplus.push((worker.store(BlobKind::Data, b"alone").unwrap(), BlobKind::Data));
            surplus.push((directory(worker, vec![entry(TreeKind::Fifo, vec![])]), BlobKind::Tree));
            vec![root, root]
        });
        let marks = setting.mark().unwrap();
        assert!(needed.iter().all(|(id, kind)| marks.is_marked(id, *kind)));
        assert!(!surplus.iter().any(|(id, kind)| marks.is_marked(id, *kind)));
    }

    #[test]
    fn a_blob_that_no_segment_lists_stops_it() {
        let nowhere = BlobId::from_bytes([7; 32]);
        for kind in [TreeKind::File, TreeKind::Dir] {
            let setting = stored(|worker| vec![directory(worker, vec![entry(kind, vec![nowhere])])]);
            assert!(setting.damage().0.contains(&nowhere.to_string()));
        }
    }

    #[test]
    fn a_tree_that_is_none_stops_it() {
        let setting = stored(|worker| vec![worker.store(BlobKind::Tree, b"junk").unwrap()]);
        assert!(setting.damage().0.contains(&setting.roots[0].to_string()));

        let setting = stored(|worker| {
            let map = worker.store(BlobKind::Map, b"map").unwrap();
            let part = tree(worker, Tree::Part { map, data: Vec::new() });
            vec![directory(worker, vec![entry(TreeKind::Dir, vec![part])]), part]
        });
        let (object, how) = setting.damage();
        assert!(
            object.contains(&setting.roots[1].to_string()) && how.contains("named as a directory"),
            "{object} {how}"
        );
    }

    #[test]
    fn a_tree_deeper_than_any_backup_stops_it() {
        let setting = stored(|worker| {
            let mut at = directory(worker, Vec::new());
            for _ in 0..=DEPTH_MAX {
                at = directory(worker, vec![entry(TreeKind::Dir, vec![at])]);
            }
            vec![at]
        });
        assert!(setting.damage().1.contains("deeper"));
    }

    #[test]
    fn a_tree_whose_pack_is_gone_stops_it() {
        let setting = stored(|worker| vec![directory(worker, vec![])]);
        let view = setting.repo.view().unwrap();
        let mut found = Vec::new();
        view.index.lookup(&setting.roots[0], &mut found);
        let reader = Reader::new(Arc::clone(&setting.repo), Arc::clone(&view.index), 0);
        let pack = Key::new(reader.pack_key_name(&found[0])).unwrap();
        setting.repo.bridge().wait(setting.store.delete(&pack)).unwrap();
        assert!(setting.damage().0.contains(&setting.roots[0].to_string()));
    }

    #[test]
    fn it_ends_when_asked_to() {
        let setting = stored(|worker| vec![directory(worker, vec![])]);
        let cancel = Cancel::default();
        cancel.cancel();
        let view = setting.repo.view().unwrap();
        let result = mark(&setting.repo, &view.index, &setting.roots, &cancel);
        assert!(matches!(result, Err(Error::Interrupted)));
    }
}
