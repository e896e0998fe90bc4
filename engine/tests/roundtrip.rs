//! From a directory to a snapshot and back through the reader, over a store in memory.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use copal_engine::chunker::Params;
use copal_engine::crypto::rng::{SeededRng, SystemRng};
use copal_engine::format::blob::BlobKind;
use copal_engine::format::node::NodeKind;
use copal_engine::ops::backup::{Options, Summary, backup};
use copal_engine::progress::{Cancel, Collect, Problem, Progress};
use copal_engine::repo::{self, Bridge, Node, Reader, Repository};
use copal_engine::store::memory::Memory;
use copal_engine::store::record::Record;
use copal_engine::store::{Store, Verb};

struct Bench {
    dir: tempfile::TempDir,
    record: Arc<Record>,
    repo: Arc<Repository>,
    who: copal_engine::format::bundle::Identity,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let record = Arc::new(Record::new(Arc::new(Memory::new())));
        let store: Arc<dyn Store> = record.clone();
        let options = repo::Options::new(dir.path().join("local"));
        let params = Params::with_average(64 << 10).unwrap();
        let bridge = Bridge::start().unwrap();
        let (mut repo, _) = repo::init(store, bridge, params, options, &mut SeededRng::new("init")).unwrap();
        let who = repo.identity(&mut SystemRng).unwrap();
        Self { dir, record, repo: Arc::new(repo), who }
    }

    fn source(&self) -> std::path::PathBuf {
        self.dir.path().join("source")
    }

    fn backup(&self) -> Summary {
        let problems = Collect::default();
        let summary =
            backup(&self.repo, &self.who, Box::new(SystemRng), &options(&self.source()), &problems, &Cancel::default())
                .unwrap();
        assert_eq!(*problems.0.lock().unwrap(), []);
        summary
    }
}

fn options(path: &Path) -> Options {
    Options {
        // Directories above the source change under other tests.
        as_path: Some("/source".into()),
        host: b"host".to_vec(),
        user: (b"user".to_vec(), 0, 0),
        labels: vec![b"label".to_vec()],
        program: b"test".to_vec(),
        ..Options::new(vec![path.to_owned()])
    }
}

/// Bytes that do not compress, the same for the same seed.
fn noise(seed: u32, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3_fill(&mut out, seed);
    out
}

fn blake3_fill(out: &mut [u8], seed: u32) {
    use copal_engine::crypto::rng::Rng;
    SeededRng::new(seed.to_le_bytes()).fill(out);
}

fn make_source(root: &Path) {
    fs::create_dir_all(root.join("a/b/c")).unwrap();
    fs::write(root.join("a/empty"), b"").unwrap();
    fs::write(root.join("a/small"), b"hello").unwrap();
    fs::write(root.join("a/b/large"), noise(1, 3 << 20)).unwrap();
    fs::write(root.join("a/b/shared"), noise(2, 40 << 20)).unwrap();
    std::os::unix::fs::symlink("../nowhere", root.join("a/link")).unwrap();
    for n in 0..3000 {
        fs::write(root.join(format!("a/b/c/file-{n}")), format!("content of {n}")).unwrap();
    }
}

fn content(reader: &Reader, node: &Node) -> Vec<u8> {
    let mut out = Vec::new();
    reader
        .each_piece(node, &mut |piece| {
            assert_eq!(piece.offset, out.len() as u64);
            match piece.data {
                Some(id) => out.extend_from_slice(&reader.blob(&id, BlobKind::Data)?),
                None => out.resize(out.len() + piece.len as usize, 0),
            }
            Ok(())
        })
        .unwrap();
    out
}

/// Every file below `path` has the bytes that the snapshot says; how many there were.
fn compare(reader: &Reader, tree: &copal_engine::id::BlobId, path: &Path) -> usize {
    let mut compared = 0;
    let mut names = Vec::new();
    for node in reader.entries(tree).unwrap() {
        let at = path.join(std::ffi::OsStr::from_bytes(&node.name));
        names.push(node.name.clone());
        match &node.metadata.kind {
            NodeKind::Dir => compared += compare(reader, &node.tree().unwrap(), &at),
            NodeKind::File { size } => {
                let bytes = fs::read(&at).unwrap();
                assert_eq!(bytes.len() as u64, *size);
                assert!(content(reader, &node) == bytes, "{}", at.display());
                compared += 1;
            }
            NodeKind::Symlink { target } => assert_eq!(fs::read_link(&at).unwrap().as_os_str().as_bytes(), *target),
            other => panic!("{other:?}"),
        }
    }
    let mut there: Vec<Vec<u8>> =
        fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().as_bytes().to_vec()).collect();
    there.sort();
    assert_eq!(names, there);
    compared
}

#[test]
fn a_tree_comes_back_and_a_repeat_writes_a_pin_and_a_snapshot() {
    let bench = Bench::new();
    make_source(&bench.source());
    // Entries that changed within the last two seconds are read again by the next backup.
    std::thread::sleep(Duration::from_millis(2100));
    let first = bench.backup();
    assert_eq!(first.counts.files, [3004, 0, 0]);

    let view = bench.repo.view().unwrap();
    assert_eq!(view.problems, []);
    let snapshot = view.resolve("latest", |_| true).unwrap();
    assert_eq!(Some(snapshot.id()), first.snapshot);
    assert_eq!(snapshot.names.as_ref().unwrap().labels, [b"label".to_vec()]);
    let reader = Reader::new(Arc::clone(&bench.repo), Arc::clone(&view.index), 8 << 20);
    let source = bench.source();
    let node = reader.find(&snapshot.graph.root.unwrap(), b"/source").unwrap().unwrap();
    assert_eq!(compare(&reader, &node.tree().unwrap(), &source), 3004);

    bench.record.take();
    let second = bench.backup();
    assert_eq!(second.counts.files, [0, 0, 3004]);
    assert_eq!(second.parent, first.snapshot);
    let writes: Vec<String> = bench
        .record
        .log()
        .iter()
        .filter(|op| matches!(op.verb, Verb::Put | Verb::PutNew))
        .map(|op| op.key.split('/').next().unwrap().to_owned())
        .collect();
    assert_eq!(writes, ["pin", "snap"]);

    fs::write(bench.source().join("a/small"), b"other").unwrap();
    let third = bench.backup();
    assert_eq!(third.counts.files, [0, 1, 3003]);
    assert_eq!(third.counts.blobs[0], 1);
}

#[test]
fn what_an_interrupted_backup_stored_is_adopted() {
    let bench = Bench::new();
    fs::create_dir_all(bench.source()).unwrap();
    for n in 0..6 {
        fs::write(bench.source().join(format!("{n}")), noise(n, 8 << 20)).unwrap();
    }
    let cancel = CancelAfter { cancel: Cancel::default(), left: AtomicI64::new(40 << 20) };
    let stopped =
        backup(&bench.repo, &bench.who, Box::new(SystemRng), &options(&bench.source()), &cancel, &cancel.cancel);
    assert!(matches!(stopped, Err(copal_engine::Error::Interrupted)));
    let left = bench.record.bytes(Verb::Put, "pack/");
    assert!(left > 20 << 20, "{left} bytes were stored before it stopped");

    bench.record.take();
    let summary = bench.backup();
    let stored = bench.record.bytes(Verb::Put, "pack/");
    assert!(stored < (48 << 20) - left / 2, "{stored} bytes were stored again after {left}");
    assert!(summary.counts.added < 48 << 20);
    let view = bench.repo.view().unwrap();
    let reader = Reader::new(Arc::clone(&bench.repo), Arc::clone(&view.index), 8 << 20);
    let root = view.snapshots[0].graph.root.unwrap();
    let node = reader.find(&root, b"/source").unwrap().unwrap();
    assert_eq!(compare(&reader, &node.tree().unwrap(), &bench.source()), 6);
}

/// Asks to stop after so many bytes.
struct CancelAfter {
    cancel: Cancel,
    left: AtomicI64,
}

impl Progress for CancelAfter {
    fn advance(&self, _files: u64, bytes: u64) {
        if self.left.fetch_sub(bytes as i64, Ordering::Relaxed) < bytes as i64 {
            self.cancel.cancel();
        }
    }
    fn problem(&self, _: Problem) {}
}

#[test]
fn many_small_sessions_are_folded_and_nothing_is_lost() {
    let bench = Bench::new();
    fs::create_dir_all(bench.source()).unwrap();
    let mut last = 0;
    for n in 0..70 {
        fs::write(bench.source().join(format!("{n}")), noise(n, 1000)).unwrap();
        bench.backup();
        last = bench.repo.newest_base().unwrap().n;
        if last > 0 {
            break;
        }
    }
    assert_eq!(last, 1);
    let base = bench.repo.newest_base().unwrap().base;
    assert_eq!((base.snapshots.len(), base.segments.len()), (65, 1));

    // What was folded is read from the base alone, what came later beside it.
    fs::write(bench.source().join("later"), noise(100, 1000)).unwrap();
    bench.backup();
    let view = bench.repo.view().unwrap();
    assert_eq!((view.problems.len(), view.snapshots.len()), (0, 66));
    let reader = Reader::new(Arc::clone(&bench.repo), Arc::clone(&view.index), 8 << 20);
    let files = |n: usize| {
        let node = reader.find(&view.snapshots[n].graph.root.unwrap(), b"/source").unwrap().unwrap();
        let files = reader.entries(&node.tree().unwrap()).unwrap();
        files.iter().for_each(|file| assert_eq!(content(&reader, file).len(), 1000));
        files.len()
    };
    assert_eq!((files(0), files(64), files(65)), (1, 65, 66));
}

#[test]
fn a_snapshot_that_was_removed_behind_our_back_is_noticed() {
    let bench = Bench::new();
    make_source(&bench.source());
    bench.backup();
    bench.backup();
    let (snapshots, problems) = bench.repo.snapshots().unwrap();
    assert_eq!((snapshots.len(), problems.len()), (2, 0));
    let gone = format!("snap/{}/{}", snapshots[0].at.writer, snapshots[0].at.session);
    let key = copal_engine::store::Key::new(gone.clone()).unwrap();
    bench.repo.bridge().wait(bench.repo.store().delete(&key)).unwrap();
    let (snapshots, problems) = bench.repo.snapshots().unwrap();
    assert_eq!((snapshots.len(), problems.len()), (1, 1));
    assert_eq!(problems[0].path.as_os_str(), gone.as_str());
}
