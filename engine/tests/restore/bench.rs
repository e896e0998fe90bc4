//! A repository in memory, a source, and a target.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use copal_engine::chunker::Params;
use copal_engine::crypto::rng::{Rng, SeededRng, SystemRng};
use copal_engine::format::bundle::Identity;
use copal_engine::format::tree::TreeKind;
use copal_engine::id::BlobId;
use copal_engine::ops::backup::{self, Parent, backup};
use copal_engine::ops::restore::{Choice, Options, Patterns, Summary, restore};
use copal_engine::progress::{Cancel, Collect, Problem};
use copal_engine::repo::index::Found;
use copal_engine::repo::{self, Bridge, Node, Opener, Reader, Repository};
use copal_engine::store::Store;
use copal_engine::store::memory::Memory;
use copal_engine::store::record::Record;

pub(crate) struct Bench {
    dir: tempfile::TempDir,
    pub(crate) memory: Arc<Memory>,
    pub(crate) record: Arc<Record>,
    pub(crate) repo: Arc<Repository>,
    who: Identity,
}

impl Bench {
    /// An empty repository and an empty source.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("source")).unwrap();
        let memory = Arc::new(Memory::new());
        let record = Arc::new(Record::new(memory.clone()));
        let store: Arc<dyn Store> = record.clone();
        let options = repo::Options::new(dir.path().join("local"));
        // Files from 64 to 256 KiB are one blob in a frame of its own, smaller ones share frames.
        let params = Params::DEFAULT;
        let bridge = Bridge::start().unwrap();
        let (mut repo, _) = repo::init(store, bridge, params, options, &mut SeededRng::new("init")).unwrap();
        let who = repo.identity(&mut SystemRng).unwrap();
        Self { dir, memory, record, repo: Arc::new(repo), who }
    }

    /// The same repository, opened with another cap on memory and other numbers of threads.
    pub(crate) fn with_options(mut self, change: impl FnOnce(&mut repo::Options)) -> Self {
        let mut options = self.repo.options().clone();
        change(&mut options);
        let found = repo::Locked::find(self.record.clone(), Bridge::start().unwrap()).unwrap();
        let bundle = Box::new(self.repo.bundle().clone());
        self.repo = Arc::new(found.unlock(Opener::Bundle(bundle), options).unwrap());
        self
    }

    pub(crate) fn source(&self) -> PathBuf {
        self.dir.path().join("source")
    }

    pub(crate) fn target(&self) -> PathBuf {
        self.dir.path().join("target")
    }

    /// Writes a file of the source, directories above it included.
    pub(crate) fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        write(&self.source().join(path), bytes);
    }

    /// Writes a file of the target.
    pub(crate) fn write_target(&self, path: &str, bytes: impl AsRef<[u8]>) {
        write(&self.target().join(path), bytes);
    }

    /// Backs the source up as `/`.
    pub(crate) fn backup(&self) {
        let options = backup::Options {
            as_path: Some("/source".into()),
            host: b"host".to_vec(),
            user: (b"user".to_vec(), 0, 0),
            parent: Parent::None,
            level: 1,
            program: b"test".to_vec(),
            ..backup::Options::new(vec![self.source()])
        };
        let problems = Collect::default();
        backup(&self.repo, &self.who, Box::new(SystemRng), &options, &problems, &Cancel::default()).unwrap();
        assert_eq!(*problems.0.lock().unwrap(), []);
    }

    /// A reader of all that is committed, with nothing in its cache.
    pub(crate) fn reader(&self) -> (Reader, repo::Snapshot) {
        let view = self.repo.view().unwrap();
        let latest = view.snapshots.last().unwrap().clone();
        (Reader::new(self.repo.clone(), view.index, 8 << 20), latest)
    }

    /// Restores `subpath` of the latest snapshot.
    pub(crate) fn restore_at(&self, subpath: &str, options: &Options) -> (Summary, Vec<Problem>) {
        let (reader, latest) = self.reader();
        self.record.take();
        let (problems, cancel) = (Collect::default(), Cancel::default());
        let done = restore(&reader, &latest, subpath.as_bytes(), &self.target(), options, &problems, &cancel);
        let (summary, problems) = (done.unwrap(), problems.0.into_inner().unwrap());
        assert_eq!(summary.problems, problems.len() as u64);
        assert_eq!(summary.total_files, summary.files_restored + summary.files_skipped + summary.files_failed);
        (summary, problems)
    }

    /// Restores the source, and expects no problem.
    #[track_caller]
    pub(crate) fn restore(&self, options: &Options) -> Summary {
        let (summary, problems) = self.restore_at("source", options);
        assert_eq!(problems, []);
        summary
    }

    /// The entry of the latest snapshot at `path` below the source.
    pub(crate) fn node(&self, path: &str) -> Node {
        let (reader, latest) = self.reader();
        let path = format!("source/{path}");
        reader.find(&latest.graph.root.unwrap(), path.as_bytes()).unwrap().unwrap()
    }

    /// Where the one blob of that file lies.
    pub(crate) fn copies(&self, path: &str) -> Vec<Found> {
        let node = self.node(path);
        assert_eq!((node.kind, node.children.len()), (TreeKind::File, 1));
        self.copies_of(&node.children[0])
    }

    /// Where that blob lies.
    pub(crate) fn copies_of(&self, id: &BlobId) -> Vec<Found> {
        let mut copies = Vec::new();
        self.reader().0.index().lookup(id, &mut copies);
        copies
    }

    /// Flips one bit in the middle of a frame.
    pub(crate) fn spoil(&self, copy: &Found) {
        let mut objects = self.memory.snapshot();
        let name = self.reader().0.pack_key_name(copy);
        let object = objects.iter_mut().find(|(key, _)| key.as_str() == name).unwrap().1;
        let mut bytes = object.to_vec();
        bytes[(copy.entry.offset + copy.entry.stored / 2) as usize] ^= 1;
        *object = bytes.into();
        self.memory.restore(objects);
    }

    /// Target and source are the same, as far as rsync sees.
    #[track_caller]
    pub(crate) fn assert_same(&self) {
        assert_eq!(rsync_differences(&self.source(), &self.target()), "");
    }
}

pub(crate) fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// What rsync would change to make `to` like `from`: content, all kinds, times, owners, modes, links, ACLs, attributes.
pub(crate) fn rsync_differences(from: &Path, to: &Path) -> String {
    let dir = |path: &Path| format!("{}/", path.display());
    let output = Command::new("rsync")
        .args(["-aHAXc", "--dry-run", "--itemize-changes", "--delete"])
        .args([dir(from), dir(to)])
        .output()
        .expect("rsync is needed to compare trees: install it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // The target itself is no entry of what is restored: its attributes stay.
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().filter(|line| !line.ends_with(" ./")).collect::<Vec<_>>().join("\n")
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(seed: u32, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    SeededRng::new(seed.to_le_bytes()).fill(&mut out);
    out
}

/// Names of all files and links below `path`, sorted.
pub(crate) fn names(path: &Path) -> Vec<String> {
    fn add(base: &Path, path: &Path, all: &mut Vec<String>) {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            match path.symlink_metadata().unwrap().is_dir() {
                true => add(base, &path, all),
                false => all.push(path.strip_prefix(base).unwrap().to_str().unwrap().to_owned()),
            }
        }
    }
    let mut all = Vec::new();
    if path.exists() {
        add(path, path, &mut all);
    }
    all.sort();
    all
}

pub(crate) fn chosen(include: &[&str], exclude: &[&str]) -> Options {
    let list = |patterns: &[&str]| patterns.iter().map(|p| p.as_bytes().to_vec()).collect();
    let patterns = Patterns { include: list(include), exclude: list(exclude), ..Patterns::default() };
    Options { choice: Choice::new(&patterns).unwrap(), ..Options::default() }
}
