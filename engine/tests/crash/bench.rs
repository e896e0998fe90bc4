//! A repository over a store that can crash and lie, a source tree, and a compact reader to compare what comes back.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use copal_engine::chunker::Params;
use copal_engine::crypto::rng::{Rng, SeededRng};
use copal_engine::format::blob::BlobKind;
use copal_engine::format::bundle::{Bundle, Role};
use copal_engine::format::node::NodeKind;
use copal_engine::id::{BlobId, SnapshotId};
use copal_engine::ops::backup::{Options, Summary, backup};
use copal_engine::progress::{Cancel, Collect, Problem, Progress};
use copal_engine::repo::{self, Bridge, Locked, Node, Opener, Reader, Repository, View};
use copal_engine::store::fault::Fault;
use copal_engine::store::memory::Memory;
use copal_engine::store::record::Record;
use copal_engine::store::{Store, Verb};
use copal_engine::{Error, Result};

/// What an entry of a tree holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    Dir,
    Bytes(Vec<u8>),
    Link(Vec<u8>),
    Other,
}

/// All entries of a tree by their path below its root.
pub type Content = BTreeMap<Vec<u8>, Held>;

/// Each call of [`Bench::process`] is a process of its own: it opens the repository anew.
pub struct Bench {
    pub dir: tempfile::TempDir,
    pub memory: Arc<Memory>,
    pub fault: Arc<Fault>,
    pub record: Arc<Record>,
    pub bundle: Bundle,
    pub bridge: Bridge,
    pub threads: usize,
    pub memory_cap: u64,
    /// How often a session looks for prunes.
    pub watch: Duration,
    pub seeds: AtomicU64,
}

impl Bench {
    pub fn new() -> Self {
        Self::of("init")
    }

    /// Another repository for each seed.
    pub fn of(seed: &str) -> Self {
        Self::over(Memory::new(), seed)
    }

    /// Over a store that ignores create-only.
    pub fn overwriting() -> Self {
        let memory = Memory::new();
        memory.ignore_create_only(true);
        Self::over(memory, "init")
    }

    fn over(memory: Memory, seed: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let memory = Arc::new(memory);
        let fault = Arc::new(Fault::new(memory.clone(), 1));
        let record = Arc::new(Record::new(fault.clone()));
        let store: Arc<dyn Store> = record.clone();
        let params = Params::with_average(64 << 10).unwrap();
        let bridge = Bridge::start().unwrap();
        let options = repo::Options::new(dir.path().join("owner"));
        let (mut repo, _) = repo::init(store, bridge.clone(), params, options, &mut SeededRng::new(seed)).unwrap();
        repo.identity(&mut SeededRng::new("writer")).unwrap();
        let bundle = repo.bundle().clone();
        let seeds = AtomicU64::new(0);
        fs::create_dir(dir.path().join("source")).unwrap();
        Self {
            dir,
            memory,
            fault,
            record,
            bundle,
            bridge,
            threads: 1,
            memory_cap: 16 << 20,
            watch: Duration::from_secs(10),
            seeds,
        }
    }

    pub fn source(&self) -> PathBuf {
        self.dir.path().join("source")
    }

    /// The repository as a process of the owner sees it.
    pub fn open(&self) -> Result<Repository> {
        self.open_as(&self.bundle, "owner")
    }

    pub fn open_as(&self, bundle: &Bundle, local: &str) -> Result<Repository> {
        self.open_over(self.record.clone(), bundle, local)
    }

    pub fn open_over(&self, store: Arc<dyn Store>, bundle: &Bundle, local: &str) -> Result<Repository> {
        let mut options = repo::Options::new(self.dir.path().join(local));
        (options.threads, options.memory, options.watch) = (self.threads, self.memory_cap, self.watch);
        Locked::find(store, self.bridge.clone())?.unlock(Opener::Bundle(Box::new(bundle.clone())), options)
    }

    pub fn rng(&self) -> Box<dyn Rng> {
        Box::new(SeededRng::new(self.seeds.fetch_add(1, Ordering::Relaxed).to_le_bytes()))
    }

    /// One backup by a process of its own.
    pub fn process(&self, options: &Options, progress: &dyn Progress) -> Result<Summary> {
        self.process_as(&self.bundle, "owner", options, progress)
    }

    pub fn process_as(
        &self,
        bundle: &Bundle,
        local: &str,
        options: &Options,
        progress: &dyn Progress,
    ) -> Result<Summary> {
        let mut repo = self.open_as(bundle, local)?;
        let who = repo.identity(&mut *self.rng())?;
        backup(&Arc::new(repo), &who, self.rng(), options, progress, &Cancel::default())
    }

    pub fn try_backup(&self) -> (Result<Summary>, Vec<Problem>) {
        let problems = Collect::default();
        let done = self.process(&options(&self.source()), &problems);
        (done, problems.0.into_inner().unwrap())
    }

    /// A backup without any fault.
    pub fn backup(&self) -> Summary {
        let (done, problems) = self.try_backup();
        assert_eq!(problems, []);
        done.unwrap()
    }

    pub fn new_writer(&self) -> Bundle {
        self.open().unwrap().enroll_new(Role::Writer, &mut *self.rng()).unwrap()
    }

    pub fn view(&self) -> (Arc<Repository>, View) {
        let repo = Arc::new(self.open().unwrap());
        let view = repo.view().unwrap();
        (repo, view)
    }

    /// The content of every visible snapshot, in order of time; panics at the first that is not whole.
    pub fn restore_all(&self) -> Vec<(SnapshotId, Content)> {
        let (repo, view) = self.view();
        assert_eq!(view.problems, []);
        let reader = Reader::new(Arc::clone(&repo), Arc::clone(&view.index), 8 << 20);
        let content = |s: &repo::Snapshot| (s.id(), read_snapshot(&reader, s).unwrap());
        view.snapshots.iter().filter(|s| s.graph.root.is_some()).map(content).collect()
    }

    pub fn stored(&self, prefix: &str) -> u64 {
        self.record.bytes(Verb::Put, prefix) + self.record.bytes(Verb::PutNew, prefix)
    }
}

pub fn options(path: &Path) -> Options {
    Options {
        as_path: Some("/source".into()),
        host: b"host".to_vec(),
        user: (b"user".to_vec(), 0, 0),
        level: 1,
        program: b"test".to_vec(),
        ..Options::new(vec![path.to_owned()])
    }
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    SeededRng::new(seed.to_le_bytes()).fill(&mut out);
    out
}

/// Waits until what was written so far counts as settled: tags are stored only then.
pub fn settle() {
    std::thread::sleep(Duration::from_millis(2100));
}

/// Sets an mtime that is long settled; ctimes cannot be set.
pub fn age(path: &Path) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)).unwrap();
}

pub fn read_snapshot(reader: &Reader, snapshot: &repo::Snapshot) -> Result<Content> {
    let root = snapshot.graph.root.expect("a whole snapshot has a root");
    let node = reader.find(&root, b"/source")?.expect("what was asked for is there");
    let mut content = Content::new();
    match node.tree() {
        Some(tree) => read_dir(reader, &tree, b"", &mut content)?,
        None => {
            content.insert(Vec::new(), read_node(reader, &node)?);
        }
    }
    Ok(content)
}

pub fn read_dir(reader: &Reader, tree: &BlobId, at: &[u8], content: &mut Content) -> Result<()> {
    for node in reader.entries(tree)? {
        let path = [at, b"/", &node.name].concat();
        content.insert(path.clone(), read_node(reader, &node)?);
        if let Some(tree) = node.tree() {
            read_dir(reader, &tree, &path, content)?;
        }
    }
    Ok(())
}

fn read_node(reader: &Reader, node: &Node) -> Result<Held> {
    Ok(match &node.metadata.kind {
        NodeKind::Dir => Held::Dir,
        NodeKind::Symlink { target } => Held::Link(target.clone()),
        NodeKind::File { .. } => Held::Bytes(read_file(reader, node)?),
        _ => Held::Other,
    })
}

pub fn read_file(reader: &Reader, node: &Node) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    reader.each_piece(node, &mut |piece| {
        assert_eq!(piece.offset, out.len() as u64);
        match piece.data {
            Some(id) => out.extend_from_slice(&reader.blob(&id, BlobKind::Data)?),
            None => out.resize(out.len() + piece.len as usize, 0),
        }
        Ok(())
    })?;
    if out.len() as u64 == node.size() { Ok(out) } else { Err(Error::damaged("file", "it has another length")) }
}

/// What stands in a directory of this machine.
pub fn on_disk(root: &Path) -> Content {
    fn walk(dir: &Path, at: &[u8], content: &mut Content) {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let path = [at, b"/", entry.file_name().as_bytes()].concat();
            let kind = entry.file_type().unwrap();
            let held = if kind.is_dir() {
                Held::Dir
            } else if kind.is_symlink() {
                Held::Link(fs::read_link(entry.path()).unwrap().as_os_str().as_bytes().to_vec())
            } else if kind.is_file() {
                Held::Bytes(fs::read(entry.path()).unwrap())
            } else {
                Held::Other
            };
            content.insert(path.clone(), held);
            if kind.is_dir() {
                walk(&entry.path(), &path, content);
            }
        }
    }
    let mut content = Content::new();
    walk(root, b"", &mut content);
    content
}

/// Not `assert_eq`: nobody wants to read megabytes.
pub fn same_content(got: &Content, want: &Content, what: &str) {
    for path in got.keys().chain(want.keys()) {
        assert!(got.get(path) == want.get(path), "{what}: {} differs", String::from_utf8_lossy(path));
    }
}

/// A few dozen files of all sizes; `large`: enough for several packs.
pub fn make_source(root: &Path, large: bool) {
    fs::create_dir_all(root.join("d/e")).unwrap();
    fs::create_dir_all(root.join("empty")).unwrap();
    for n in 0..30 {
        fs::write(root.join(format!("d/{n}")), noise(n, n as usize * 97)).unwrap();
    }
    fs::write(root.join("d/e/medium"), noise(100, 300_000)).unwrap();
    std::os::unix::fs::symlink("nowhere", root.join("link")).unwrap();
    if large {
        for n in 0..5 {
            fs::write(root.join(format!("large-{n}")), noise(200 + n, 1_500_000)).unwrap();
        }
    }
}

/// A later state of it.
pub fn change_source(root: &Path, large: bool) {
    fs::write(root.join("d/3"), b"changed").unwrap();
    fs::write(root.join("d/new"), noise(300, 5000)).unwrap();
    fs::remove_file(root.join("d/7")).unwrap();
    fs::create_dir(root.join("d/e/f")).unwrap();
    fs::write(root.join("d/e/f/deep"), noise(301, 100_000)).unwrap();
    if large {
        fs::write(root.join("large-new"), noise(400, 4_000_000)).unwrap();
        let mut bytes = fs::read(root.join("large-1")).unwrap();
        bytes.splice(700_000..700_000, *b"inserted");
        fs::write(root.join("large-1"), bytes).unwrap();
    }
}
