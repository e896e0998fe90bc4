//! The file system over a store in memory, with trees made by hand so that each shape occurs.

mod files;
mod trees;
mod views;

use std::sync::Arc;
use std::time::Duration;

use crate::chunker::Params;
use crate::crypto::rng::{SeededRng, SystemRng};
use crate::format::blob::BlobKind;
use crate::format::bundle::Identity as Writer;
use crate::format::meta::{ChunkerKind, Map, Meta, MetaEntry, Run};
use crate::format::node::{Metadata, NodeKind, Timestamp};
use crate::format::snapshot::{GraphPart, NamesPart, SnapshotKind};
use crate::format::tree::{Tags, Tree, TreeEntry, TreeKind};
use crate::id::{BlobId, SnapshotId};
use crate::progress::Collect;
use crate::repo::repack::without_tree;
use crate::repo::session::{Session, Worker};
use crate::repo::{self, Bridge, Repository};
use crate::store::Store;
use crate::store::fault::Fault;
use crate::store::memory::Memory;

use super::*;

/// A repository in memory, and a writer of it.
struct Bench {
    _dir: tempfile::TempDir,
    fault: Arc<Fault>,
    repo: Arc<Repository>,
    who: Writer,
    problems: Arc<Collect>,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let fault = Arc::new(Fault::new(Arc::new(Memory::new()), 1));
        let store: Arc<dyn Store> = fault.clone();
        let (options, params) = (repo::Options::new(dir.path()), Params::with_average(64 << 10).unwrap());
        let bridge = Bridge::start().unwrap();
        let (mut repo, _) = repo::init(store, bridge, params, options, &mut SeededRng::new("init")).unwrap();
        let who = repo.identity(&mut SystemRng).unwrap();
        Self { _dir: dir, fault, repo: Arc::new(repo), who, problems: Arc::default() }
    }

    /// Commits a snapshot of what `root` stores, taken at second `time`.
    fn snapshot(&self, time: i64, labels: &[&str], root: impl FnOnce(&mut Worker<'_>) -> BlobId) -> SnapshotId {
        let session = Session::begin(Arc::clone(&self.repo), &self.who, 3, false, Box::new(SystemRng)).unwrap();
        let mut worker = session.worker();
        let root = root(&mut worker);
        worker.flush().unwrap();
        drop(worker);
        let names = NamesPart {
            host: b"host".to_vec(),
            user: b"user".to_vec(),
            labels: labels.iter().map(|l| l.as_bytes().to_vec()).collect(),
            ..NamesPart::default()
        };
        session.commit(graph(root, time), |_| names).unwrap().0.unwrap()
    }

    fn vfs(&self) -> Vfs {
        self.vfs_with(|_| {})
    }

    fn vfs_with(&self, change: impl FnOnce(&mut Options)) -> Vfs {
        let mut options = Options { refresh: Duration::ZERO, ..Options::new(32 << 20) };
        change(&mut options);
        Vfs::new(Arc::clone(&self.repo), options, self.problems.clone()).unwrap()
    }

    fn problems(&self) -> Vec<String> {
        self.problems.0.lock().unwrap().iter().map(ToString::to_string).collect()
    }
}

fn graph(root: BlobId, time: i64) -> GraphPart {
    let time = Timestamp { secs: time, nanos: 0 };
    GraphPart { kind: SnapshotKind::Whole, root: Some(root), ..without_tree(time) }
}

/// An entry in the making.
type Made = (MetaEntry, TreeEntry);

fn entry(name: &str, kind: NodeKind, tree: TreeKind, children: Vec<BlobId>) -> Made {
    let metadata = Metadata {
        kind,
        mode: 0o640,
        uid: 7,
        gid: 8,
        user: Vec::new(),
        group: Vec::new(),
        mtime: Timestamp { secs: 5, nanos: 123_456_789 },
        atime: Timestamp { secs: -5, nanos: 1 },
        ctime: Timestamp { secs: 6, nanos: 2 },
        btime: None,
        inode: None,
        hardlink: None,
        xattrs: Vec::new(),
        flags: 0,
        project: 0,
    };
    let name = name.as_bytes().to_vec();
    (MetaEntry { name, metadata }, TreeEntry { kind: tree, children, tags: Tags::default() })
}

fn small_file(worker: &mut Worker<'_>, name: &str, bytes: &[u8]) -> Made {
    let children = if bytes.is_empty() { vec![] } else { vec![worker.store(BlobKind::Data, bytes).unwrap()] };
    entry(name, NodeKind::File { size: bytes.len() as u64 }, TreeKind::File, children)
}

/// Pieces of a file: bytes, or the length of a hole.
enum Bit<'b> {
    Bytes(&'b [u8]),
    Hole(u64),
}

fn store_map(worker: &mut Worker<'_>, runs: Vec<Run>) -> BlobId {
    let map = Map { chunker: ChunkerKind::FastCdc, runs };
    worker.store(BlobKind::Map, &map.encode()).unwrap()
}

/// Map, data, and length of a file of these pieces.
fn mapped(worker: &mut Worker<'_>, bits: &[Bit<'_>]) -> (BlobId, Vec<BlobId>, u64) {
    let (mut runs, mut data) = (Vec::new(), Vec::new());
    for bit in bits {
        runs.push(match bit {
            Bit::Hole(len) => Run::Hole(*len),
            Bit::Bytes(bytes) => {
                data.push(worker.store(BlobKind::Data, bytes).unwrap());
                Run::Data(bytes.len() as u64)
            }
        });
    }
    let size = runs.iter().map(|r| r.len()).sum();
    (store_map(worker, runs), data, size)
}

fn mapped_file(worker: &mut Worker<'_>, name: &str, bits: &[Bit<'_>]) -> Made {
    let (map, data, size) = mapped(worker, bits);
    entry(name, NodeKind::File { size }, TreeKind::MappedFile, [vec![map], data].concat())
}

fn large_file(worker: &mut Worker<'_>, name: &str, parts: &[&[Bit<'_>]]) -> Made {
    let (mut runs, mut children) = (Vec::new(), Vec::new());
    for bits in parts {
        let (map, data, size) = mapped(worker, bits);
        runs.push(Run::Data(size));
        children.push(worker.store(BlobKind::Tree, &Tree::Part { map, data }.encode()).unwrap());
    }
    let size = runs.iter().map(|r| r.len()).sum();
    let map = store_map(worker, runs);
    entry(name, NodeKind::File { size }, TreeKind::LargeFile, [vec![map], children].concat())
}

/// The tree of a directory of one stretch.
fn directory(worker: &mut Worker<'_>, mut made: Vec<Made>) -> BlobId {
    made.sort_by(|a, b| a.0.name.cmp(&b.0.name));
    let (metas, entries) = made.into_iter().unzip();
    let meta = worker.store(BlobKind::Meta, &Meta::Stretch(metas).encode()).unwrap();
    worker.store(BlobKind::Tree, &Tree::Stretch { meta, entries }.encode()).unwrap()
}

/// The tree of a directory of stretches, each of which has these entries.
fn split(worker: &mut Worker<'_>, parts: Vec<Vec<Made>>) -> BlobId {
    let names = parts.iter().map(|part| part[0].0.name.clone()).collect();
    let stretches = parts.into_iter().map(|part| directory(worker, part)).collect();
    let meta = worker.store(BlobKind::Meta, &Meta::Split(names).encode()).unwrap();
    worker.store(BlobKind::Tree, &Tree::Split { meta, stretches }.encode()).unwrap()
}

fn dir_entry(name: &str, tree: BlobId) -> Made {
    entry(name, NodeKind::Dir, TreeKind::Dir, vec![tree])
}

/// `len` bytes that do not compress, the same for the same seed.
fn noise(seed: &str, len: usize) -> Vec<u8> {
    use crate::crypto::rng::Rng;
    let mut out = vec![0; len];
    SeededRng::new(seed).fill(&mut out);
    out
}

/// Looks up a path from the top.
fn walk(vfs: &Vfs, path: &str) -> Result<Attributes> {
    let mut at = vfs.attributes(ROOT_INO)?;
    for name in path.split('/') {
        at = vfs.lookup(at.ino, name.as_bytes())?;
    }
    Ok(at)
}

/// All names of a directory with their types and inodes, listed `room` at a time.
fn list(vfs: &Vfs, ino: u64, plus: bool, room: usize) -> Vec<(String, FileKind, u64)> {
    let handle = vfs.open_dir(ino).unwrap();
    let (mut all, mut offset) = (Vec::new(), 0);
    loop {
        let before = all.len();
        vfs.read_dir(ino, handle, offset, plus, &mut |listed| {
            if all.len() - before == room {
                return true;
            }
            assert_eq!(listed.attributes.is_some(), plus);
            all.push((String::from_utf8_lossy(listed.name).into_owned(), listed.kind, listed.ino));
            offset = listed.next;
            false
        })
        .unwrap();
        if all.len() == before {
            break;
        }
    }
    vfs.release(handle);
    assert_eq!((&*all[0].0, &*all[1].0), (".", ".."));
    all.split_off(2)
}

fn names(vfs: &Vfs, path: &str) -> Vec<String> {
    let ino = if path.is_empty() { ROOT_INO } else { walk(vfs, path).unwrap().ino };
    list(vfs, ino, false, 3).into_iter().map(|(name, _, _)| name).collect()
}
