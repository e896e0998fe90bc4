//! A repository in memory that can be damaged, and what restoring from it would find.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use copal_engine::chunker::Params;
use copal_engine::crypto::rng::{Rng, SeededRng, SystemRng};
use copal_engine::format::blob::BlobKind;
use copal_engine::format::bundle::{Bundle, Identity, Role};
use copal_engine::format::node::NodeKind;
use copal_engine::id::{BlobId, SnapshotId};
use copal_engine::ops::backup::{self, Parent, backup};
use copal_engine::ops::check::{Finding, Hurt, Invariant, Options, Place, Read, Report, check};
use copal_engine::progress::{Cancel, Collect, Silent};
use copal_engine::repo::{self, Bridge, Locked, Opener, Reader, Repository};
use copal_engine::store::memory::Memory;
use copal_engine::store::{Key, Store};

/// A repository, its owner, and a directory to back up.
pub struct Bench {
    pub dir: tempfile::TempDir,
    pub store: Arc<Memory>,
    pub bridge: Bridge,
    pub owner: Bundle,
    pub who: Identity,
}

pub fn options(read: Read) -> Options {
    Options { read, max_age: None, max_duration: None, with_cache: false, seed: 1 }
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u32, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    SeededRng::new(seed.to_le_bytes()).fill(&mut out);
    out
}

impl Bench {
    /// Without snapshots.
    pub fn empty() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Memory::new());
        let bridge = Bridge::start().unwrap();
        let params = Params::with_average(64 << 10).unwrap();
        let options = repo::Options::new(dir.path().join("owner"));
        let mut rng = SeededRng::new("bench");
        let (mut repo, _) = repo::init(store.clone(), bridge.clone(), params, options, &mut rng).unwrap();
        let who = repo.identity(&mut SystemRng).unwrap();
        let owner = repo.bundle_for(Role::Owner).unwrap();
        fs::create_dir_all(dir.path().join("source")).unwrap();
        Self { dir, store, bridge, owner, who }
    }

    /// With a large session, which has packs and a segment, and a small one, which has its entries in the snapshot.
    pub fn new() -> Self {
        let bench = Self::empty();
        bench.write("a/one", &noise(1, 300 << 10));
        bench.write("a/b/two", &noise(2, 900 << 10));
        bench.write("a/b/three", &noise(3, 500 << 10));
        bench.write("c/four", b"a small file");
        bench.write("c/empty", b"");
        std::os::unix::fs::symlink("four", bench.path("c/link")).unwrap();
        bench.backup();
        bench.write("c/four", b"other content");
        bench.write("d/five", &noise(5, 100 << 10));
        bench.backup();
        bench
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("source").join(name)
    }

    pub fn write(&self, name: &str, content: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// A handle of an owner, through the store as it is; nothing is cached.
    pub fn repo(&self) -> Arc<Repository> {
        self.open(&self.owner, self.store.clone()).unwrap()
    }

    pub fn open(&self, bundle: &Bundle, store: Arc<dyn Store>) -> Result<Arc<Repository>, copal_engine::Error> {
        let mut options = repo::Options::new(self.dir.path().join(bundle.role.as_str()));
        options.cache = None;
        options.threads = 2;
        let opener = Opener::Bundle(Box::new(bundle.clone()));
        Ok(Arc::new(Locked::find(store, self.bridge.clone())?.unlock(opener, options)?))
    }

    /// A new member's bundle.
    pub fn enroll(&self, role: Role) -> Bundle {
        Arc::into_inner(self.repo()).unwrap().enroll_new(role, &mut SystemRng).unwrap()
    }

    pub fn backup(&self) -> SnapshotId {
        self.backup_as(&self.repo(), &self.who)
    }

    pub fn backup_as(&self, repo: &Arc<Repository>, who: &Identity) -> SnapshotId {
        let options = backup_options(&self.dir.path().join("source"));
        let problems = Collect::default();
        let done = backup(repo, who, Box::new(SystemRng), &options, &problems, &Cancel::default()).unwrap();
        assert_eq!(*problems.0.lock().unwrap(), []);
        done.snapshot.unwrap()
    }

    pub fn check(&self, read: Read) -> Report {
        self.check_with(&options(read))
    }

    pub fn check_with(&self, options: &Options) -> Report {
        check(&self.repo(), options, &Silent, &Cancel::default()).unwrap()
    }

    pub fn objects(&self) -> BTreeMap<Key, Bytes> {
        self.store.snapshot()
    }

    /// Keys that start so, in order.
    pub fn keys(&self, prefix: &str) -> Vec<Key> {
        self.objects().into_keys().filter(|key| key.as_str().starts_with(prefix)).collect()
    }

    /// Replaces an object, or removes it.
    pub fn damage(&self, key: &Key, change: impl FnOnce(&[u8]) -> Option<Vec<u8>>) {
        let mut objects = self.objects();
        let old = objects.remove(key).unwrap_or_else(|| panic!("{key} is not there"));
        if let Some(new) = change(&old) {
            objects.insert(key.clone(), new.into());
        }
        self.store.restore(objects);
    }

    pub fn delete(&self, key: &Key) {
        self.damage(key, |_| None);
    }

    pub fn flip(&self, key: &Key, at: usize) {
        self.damage(key, |old| {
            let mut new = old.to_vec();
            new[at] ^= 0x10;
            Some(new)
        });
    }

    pub fn put(&self, key: &str, bytes: Vec<u8>) {
        let mut objects = self.objects();
        objects.insert(Key::new(key).unwrap(), bytes.into());
        self.store.restore(objects);
    }

    /// Every place that a restore of every snapshot would fail at: files, and directories that cannot be listed.
    pub fn unrestorable(&self) -> BTreeSet<(SnapshotId, Vec<u8>)> {
        let repo = self.repo();
        let view = repo.view().unwrap();
        let reader = Reader::new(Arc::clone(&repo), Arc::clone(&view.index), 8 << 20);
        let mut broken = BTreeSet::new();
        for snapshot in &view.snapshots {
            let mut each = |path: &[u8]| {
                broken.insert((snapshot.id(), path.to_vec()));
            };
            // Sessions of maintenance have none.
            if let Some(root) = &snapshot.graph.root {
                restore(&reader, root, b"", &mut each);
            }
        }
        broken
    }
}

fn restore(reader: &Reader, tree: &BlobId, path: &[u8], broken: &mut dyn FnMut(&[u8])) {
    let Ok(nodes) = reader.entries(tree) else {
        return broken(if path.is_empty() { b"/" } else { path });
    };
    for node in nodes {
        let path = [path, b"/", &node.name[..]].concat();
        match &node.metadata.kind {
            NodeKind::Dir => restore(reader, &node.tree().unwrap(), &path, broken),
            NodeKind::File { .. } => {
                let read = reader.each_piece(&node, &mut |piece| match piece.data {
                    Some(id) => reader.blob(&id, BlobKind::Data).map(drop),
                    None => Ok(()),
                });
                if read.is_err() {
                    broken(&path);
                }
            }
            _ => {}
        }
    }
}

/// Everything that the report says is hurt, by whatever.
pub fn hurts(report: &Report) -> BTreeSet<(SnapshotId, Vec<u8>)> {
    assert!(report.hurts_complete);
    let path = |hurt: &Hurt| match &hurt.place {
        Place::Path(path) => (hurt.snapshot, path.clone()),
        Place::Tree(id) => panic!("a reader sees names, not {id}"),
    };
    report.findings.iter().flat_map(|f| &f.hurts).map(path).collect()
}

/// The invariants that a finding offends against.
pub fn invariants(finding: &Finding) -> Vec<Invariant> {
    finding.faults.iter().map(|f| f.invariant).collect()
}

/// The one finding: about this object, and against these invariants.
pub fn only<'r>(report: &'r Report, object: &str, expected: &[Invariant]) -> &'r Finding {
    let [finding] = &report.findings[..] else { panic!("one finding expected: {:#?}", report.findings) };
    assert_eq!(finding.object, object);
    assert_eq!(invariants(finding), expected, "{finding:#?}");
    assert_eq!(report.errors, 1);
    finding
}

fn backup_options(path: &Path) -> backup::Options {
    backup::Options {
        as_path: Some("/source".into()),
        host: b"host".to_vec(),
        user: (b"user".to_vec(), 0, 0),
        parent: Parent::None,
        program: b"test".to_vec(),
        ..backup::Options::new(vec![path.to_owned()])
    }
}
