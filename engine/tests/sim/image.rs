//! What schedules begin with, made once: sources on the disk and what they hold, and small repositories.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use copal_engine::chunker::Params;
use copal_engine::crypto::rng::{Rng, SeededRng};
use copal_engine::format::bundle::{Bundle, Identity, Role};
use copal_engine::ops::backup::{self, backup};
use copal_engine::ops::prune::{self, Limit, Policy, prune};
use copal_engine::progress::{Cancel, Silent};
use copal_engine::repo::{self, Bridge, Locked, Opener, Repository};
use copal_engine::store::fault::{Effect, Fault, Rule};
use copal_engine::store::memory::Memory;
use copal_engine::store::{Key, Store, Verb};

use crate::book::{Book, Forgotten};
use crate::judge::Still;

/// Bytes of files by their paths below the source.
pub type Files = BTreeMap<Vec<u8>, Vec<u8>>;

/// A source of backups that stays as it is.
pub struct Source {
    pub path: PathBuf,
    pub files: Files,
}

/// Who takes part, in this order: keys of two writers, and the owner's and a maintainer's.
pub struct Keys {
    pub owner: (Bundle, Identity),
    pub writers: Vec<(Bundle, Identity)>,
    pub maintainer: (Bundle, Identity),
}

pub struct Image {
    pub objects: BTreeMap<Key, Bytes>,
    pub book: Book,
    pub keys: Keys,
}

/// Everything that schedules share.
pub struct Images {
    /// Of the images' sources and local files.
    pub dir: tempfile::TempDir,
    pub sources: Vec<Source>,
    pub images: Vec<Image>,
    pub bridge: Bridge,
}

const SOURCES: usize = 10;

impl Images {
    pub fn make() -> Self {
        // In memory where there is such a place: a schedule makes dozens of small files.
        let shm = Path::new("/dev/shm");
        let dir = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap();
        let sources = (0..SOURCES).map(|n| make_source(&dir.path().join(format!("source-{n}")), n)).collect();
        let bridge = Bridge::start().unwrap();
        let mut images = Self { dir, sources, images: Vec::new(), bridge };
        for kind in 0..5 {
            let image = images.image(kind);
            images.images.push(image);
        }
        images
    }

    /// 0: nothing backed up; 1: some snapshots; 2: pruned as well; 3: as 1, in a store whose LISTs lag; 4: as 1, in one that ignores
    /// create-only.
    fn image(&self, kind: usize) -> Image {
        let memory = Arc::new(Memory::new());
        memory.ignore_create_only(kind == 4);
        let mut rng = SeededRng::new(format!("image {kind}"));
        let keys = self.init(memory.clone(), kind == 3, &mut rng);
        let mut book = Book::default();
        if kind > 0 {
            for (n, source) in [0, 3, 1].into_iter().enumerate() {
                let attempt = book.begin(source);
                let who = &keys.writers[n % 2];
                let repo = self.open(memory.clone(), &who.0, &self.cache());
                let options = self.backup(source, attempt);
                let done =
                    backup(&Arc::new(repo), &who.1, Box::new(rng.clone()), &options, &Silent, &Cancel::default());
                book.attempts[attempt].committed = Some(done.unwrap().snapshot.unwrap());
                let _: [u8; 32] = copal_engine::crypto::rng::draw(&mut rng);
            }
        }
        if kind == 2 {
            let repo = Arc::new(self.open(memory.clone(), &keys.owner.0, &self.cache()));
            let first = repo.view().unwrap().snapshots[0].at;
            repo.forget(&[first]).unwrap();
            book.forget(first.id, Forgotten::Yes);
            prune(&repo, &keys.owner.1, Box::new(rng), &everything(), &Silent, &Cancel::default()).unwrap();
        }
        Image { objects: memory.snapshot(), book, keys }
    }

    fn init(&self, memory: Arc<Memory>, lags: bool, rng: &mut SeededRng) -> Keys {
        let fault = Arc::new(Fault::new(memory, 1));
        if lags {
            fault.add(Rule::on(Verb::List, "probe/").effect(Effect::StaleList(1)));
        }
        let params = Params::with_average(64 << 10).unwrap();
        let (mut repo, verdict) = repo::init(
            fault,
            self.bridge.clone(),
            params,
            self.options(Arc::new(Still::default()), &self.cache()),
            rng,
        )
        .unwrap();
        assert_eq!(verdict.strong_list, !lags);
        let mut enroll = |role, rng: &mut dyn Rng| {
            let bundle = repo.enroll_new(role, rng).unwrap();
            let own = bundle.identity.clone().unwrap();
            (bundle, own)
        };
        let writers = (0..4).map(|_| enroll(Role::Writer, rng)).collect();
        let maintainer = enroll(Role::Maintainer, rng);
        let own = repo.identity(rng).unwrap();
        Keys { owner: (repo.bundle().clone(), own), writers, maintainer }
    }

    /// Where the index files of the images lie.
    fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    /// As a process that nothing disturbs.
    pub fn open(&self, store: Arc<dyn Store>, bundle: &Bundle, cache: &Path) -> Repository {
        let opener = Opener::Bundle(Box::new(bundle.clone()));
        let options = self.options(Arc::new(Still::default()), cache);
        Locked::find(store, self.bridge.clone()).unwrap().unlock(opener, options).unwrap()
    }

    pub fn options(&self, clock: Arc<dyn repo::Clock>, cache: &Path) -> repo::Options {
        repo::Options {
            cache: Some(cache.to_owned()),
            memory: 16 << 20,
            threads: 1,
            connections: 4,
            clock,
            ..repo::Options::new(self.dir.path().join("local"))
        }
    }

    pub fn backup(&self, source: usize, attempt: usize) -> backup::Options {
        backup::Options {
            as_path: Some("/source".into()),
            host: b"host".to_vec(),
            labels: vec![Book::label(attempt)],
            ignore_inode: true,
            level: 0,
            ..backup::Options::new(vec![self.sources[source].path.clone()])
        }
    }
}

/// A prune that leaves nothing that it need not.
pub fn everything() -> prune::Options {
    let policy = Policy { max_unused: Limit::Bytes(0), max_repack: None };
    prune::Options { policy, yes: true, ..prune::Options::default() }
}

/// Sources share much of what they hold, and differ in some of it. Large files are frames of their own.
fn make_source(path: &Path, n: usize) -> Source {
    let mut files = Files::new();
    let small = |k: usize| noise(&format!("small {k}"), 50 + 37 * k);
    let large = |k: usize| noise(&format!("large {k}"), 66_000 + 100 * k);
    for k in 0..3 {
        files.insert(format!("a/{k}").into_bytes(), small((n * (k + 1)) % 7));
    }
    files.insert(b"a/x/deep".to_vec(), small(n / 3));
    files.insert(b"b/large".to_vec(), large(n % 3));
    if n % 2 == 1 {
        files.insert(b"b/other".to_vec(), large(3 + n % 4));
    }
    if n % 5 == 4 {
        files.insert(b"a/small".to_vec(), small(8));
    }
    for (name, bytes) in &files {
        let at = path.join(std::str::from_utf8(name).unwrap());
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(at, bytes).unwrap();
    }
    settle(path);
    Source { path: path.to_owned(), files }
}

/// The same attributes whenever and wherever it is made.
fn settle(path: &Path) {
    let kind = fs::symlink_metadata(path).unwrap();
    if kind.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| settle(&entry.unwrap().path()));
    }
    fs::set_permissions(path, fs::Permissions::from_mode(if kind.is_dir() { 0o755 } else { 0o644 })).unwrap();
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let times = fs::FileTimes::new().set_modified(long_ago).set_accessed(long_ago);
    fs::File::open(path).unwrap().set_times(times).unwrap();
}

fn noise(seed: &str, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    SeededRng::new(seed).fill(&mut out);
    out
}
