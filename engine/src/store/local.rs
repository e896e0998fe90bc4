//! A directory as a store.
//!
//! **Order of a write.** A temporary file is written whole and fsynced before it gets the object's name, by `link` where
//! the name must be new and by `link` or `rename` elsewhere; then the directory is fsynced. So a name is never seen on
//! half an object, not even after a crash. Temporaries are `O_TMPFILE` (nothing stays behind) where the file system has
//! it, else files in `tmp/` whose names are no keys, so that LIST does not see them.
//!
//! **Directories** are made on demand and removed when their last object goes. One that a crash could take back would
//! take its objects along, so each is fsynced in its parent before this process relies on it, whoever made it.
//!
//! **An fsync error** is final for that file: the kernel may have dropped the dirty pages and would report success the
//! next time. The caller's next try writes a new file.
//!
//! Keys are opened relative to the root's descriptor and never through a symbolic link ([`ResolveFlags`]): who can write
//! into the directory cannot lead us out of it. All calls block and run on tokio's blocking threads.

mod bulk;
mod walk;

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::{self, AtFlags, Dir, Mode, OFlags, RenameFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;

use super::{Key, Page, Result, Store, StoreError, check_range, check_size};
use crate::id::hex;

/// Where named temporaries lie, below the root.
const TMP_DIR: &str = "tmp";
/// First character of their names: not in the alphabet of keys.
const TMP_MARK: u8 = b'_';
/// How often a write starts anew because a deletion took its directory away in between.
const PARENT_RACES_MAX: usize = 100;
/// How often a syscall is tried again after EINTR or an unstable path (EAGAIN of openat2).
const INTERRUPTS_MAX: usize = 100;

/// `f_type` of file systems whose directories are somebody else's: a LIST may be stale.
/// (NFS, SMB, CIFS, SMB2, FUSE, 9p, Ceph, AFS, Coda, Lustre.)
const NETWORK_FILE_SYSTEMS: [u64; 10] = [
    0x6969,
    0x517b,
    0xff53_4d42,
    0xfe53_4d42,
    0x6573_5546,
    0x0102_1997,
    0x00c3_6400,
    0x5346_414f,
    0x7375_7245,
    0x0bd0_0bd0,
];

/// A store in a directory; cloning shares it.
#[derive(Debug, Clone)]
pub struct Local {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    root: OwnedFd,
    network: bool,
    /// Cleared once the file system turned out to lack `O_TMPFILE` or a way to link it.
    anonymous: AtomicBool,
    /// Directories known to survive a crash, by path.
    durable: Mutex<HashMap<String, DirIdentity>>,
}

/// Tells a directory from another one made later under its name: inode numbers alone are reused at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct DirIdentity {
    inode: u64,
    born: (i64, u32),
}

/// A written and fsynced file without its final name.
enum Temporary {
    Anonymous(File),
    /// The file, the directory it lies in, and its name there.
    Named(File, OwnedFd, String),
}

impl Local {
    /// Opens the directory `path`, making it and its parents (0700) where they are missing. Blocks.
    pub fn create(path: &Path) -> Result<Self> {
        let what = || format!("create {}", path.display());
        let missing: Vec<&Path> = path.ancestors().take_while(|p| !p.as_os_str().is_empty() && !p.exists()).collect();
        for dir in missing.into_iter().rev() {
            match fs::mkdir(dir, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(os_error(what(), e)),
            }
            let parent = dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let parent = File::open(parent).map_err(|e| io_error(what(), e))?;
            fs::fsync(&parent).map_err(|e| os_error(what(), e))?;
        }
        Self::open(path)
    }

    /// Opens the existing directory `path`. Blocks.
    pub fn open(path: &Path) -> Result<Self> {
        let what = || format!("open {}", path.display());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = fs::open(path, flags, Mode::empty()).map_err(|e| match e {
            Errno::NOENT => {
                setup(what(), "there is no such directory; check the path, or create the repository with `init`", e)
            }
            Errno::NOTDIR => setup(what(), "it is not a directory; a repository is kept in one", e),
            e => os_error(what(), e),
        })?;
        let kind = fs::fstatfs(&root).map_err(|e| os_error(what(), e))?.f_type as u64;
        let network = NETWORK_FILE_SYSTEMS.contains(&(kind & 0xffff_ffff));
        let inner = Inner {
            path: path.to_path_buf(),
            root,
            network,
            anonymous: AtomicBool::new(true),
            durable: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Whether the directory lies on a network or FUSE file system, where a LIST may miss what others just wrote.
    pub fn is_network(&self) -> bool {
        self.inner.network
    }

    /// Removes temporaries of writers that crashed, if last changed before `older_than`; says how many. Blocks.
    ///
    /// Never done on its own: the age of a file says nothing certain about its writer.
    pub fn clean_tmp(&self, older_than: Duration) -> Result<usize> {
        self.inner.clean_tmp(older_than)
    }

    /// Behaves as on a file system without `O_TMPFILE`, to test that path everywhere.
    #[doc(hidden)]
    pub fn without_anonymous_files(self) -> Self {
        self.inner.anonymous.store(false, Ordering::Relaxed);
        self
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Inner) -> Result<T> + Send + 'static) -> Result<T> {
        let inner = self.inner.clone();
        match tokio::task::spawn_blocking(move || work(&inner)).await {
            Ok(done) => done,
            Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
            Err(e) => Err(StoreError::Failed { what: self.location(), source: e.into() }),
        }
    }
}

#[async_trait]
impl Store for Local {
    fn location(&self) -> String {
        self.inner.path.display().to_string()
    }

    fn list_may_lag(&self) -> bool {
        self.is_network()
    }

    async fn put_new(&self, key: &Key, body: Bytes) -> Result<()> {
        let key = key.clone();
        self.blocking(move |inner| inner.write(&key, &body, Inner::publish_new)).await
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<()> {
        let key = key.clone();
        self.blocking(move |inner| inner.write(&key, &body, Inner::publish)).await
    }

    async fn get(&self, key: &Key, max: u64) -> Result<Bytes> {
        let key = key.clone();
        let read = move |inner: &Inner| {
            let (file, size) = inner.open_object(&key)?;
            check_size(&key, size, max)?;
            read_exactly(&file, &key, 0..size)
        };
        self.blocking(read).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        let key = key.clone();
        let read = move |inner: &Inner| {
            let (file, size) = inner.open_object(&key)?;
            check_range(&key, &range, size)?;
            read_exactly(&file, &key, range)
        };
        self.blocking(read).await
    }

    async fn head(&self, key: &Key) -> Result<u64> {
        let key = key.clone();
        self.blocking(move |inner| Ok(inner.open_object(&key)?.1)).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>) -> Result<Page> {
        let (prefix, after) = (prefix.to_owned(), after.cloned());
        self.blocking(move |inner| walk::page(&inner.root, &prefix, after.as_ref())).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let key = key.clone();
        self.blocking(move |inner| inner.delete(&key)).await
    }
}

type Publish = fn(&Inner, &Temporary, &OwnedFd, &str) -> Result<(), Errno>;

impl Inner {
    fn write(&self, key: &Key, body: &[u8], publish: Publish) -> Result<()> {
        let what = || format!("put {key}");
        for _ in 0..PARENT_RACES_MAX {
            let dir = match self.parent_dir(key) {
                Ok(dir) => dir,
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(path_error(what(), e)),
            };
            let anonymous = self.anonymous.load(Ordering::Relaxed);
            match self.write_in(&dir, key.name(), body, publish) {
                Ok(()) => return Ok(()),
                Err(Errno::EXIST) => return Err(StoreError::Exists { key: key.clone() }),
                // Another task deleted the last object of this directory, and it with it.
                Err(_) if is_removed(&dir) => {}
                // Without /proc or the right to link an anonymous file: named ones from now on.
                Err(Errno::NOENT | Errno::PERM | Errno::OPNOTSUPP | Errno::XDEV) if anonymous => {
                    self.anonymous.store(false, Ordering::Relaxed);
                }
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                    let hint = "this file system has neither hard links nor a rename that refuses to replace, so nothing \
                                can be created there safely; choose another one";
                    return Err(setup(what(), hint, Errno::OPNOTSUPP));
                }
                Err(e) => return Err(path_error(what(), e)),
            }
        }
        let source = "its directory was removed again and again while it was written".into();
        Err(StoreError::Transient { what: what(), source })
    }

    fn write_in(&self, dir: &OwnedFd, name: &str, body: &[u8], publish: Publish) -> Result<(), Errno> {
        let temporary = self.new_temporary(dir)?;
        let (Temporary::Anonymous(file) | Temporary::Named(file, ..)) = &temporary;
        let written = bulk::write_all(file, body).map_err(|e| errno(&e));
        let published = written.and_then(|()| fs::fsync(file)).and_then(|()| publish(self, &temporary, dir, name));
        temporary.remove_name();
        published.and_then(|()| self.sync_dir(dir))
    }

    /// Some network file systems have no fsync of directories; there the server sees to it.
    fn sync_dir(&self, dir: &OwnedFd) -> Result<(), Errno> {
        match fs::fsync(dir) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) if self.network => Ok(()),
            other => other,
        }
    }

    /// Owner read-only; on SMB that would be the read-only attribute, which forbids deletion.
    fn object_mode(&self) -> Mode {
        if self.network { Mode::RUSR | Mode::WUSR } else { Mode::RUSR }
    }

    fn new_temporary(&self, dir: &OwnedFd) -> Result<Temporary, Errno> {
        let mode = self.object_mode();
        if self.anonymous.load(Ordering::Relaxed) {
            let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
            match fs::openat(dir, ".", flags, mode) {
                Ok(fd) => return Ok(Temporary::Anonymous(File::from(fd))),
                Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => self.anonymous.store(false, Ordering::Relaxed),
                Err(e) => return Err(e),
            }
        }
        let (tmp, name) = (self.tmp_dir()?, temporary_name()?);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let fd = open_beneath(&tmp, &name, flags, mode)?;
        Ok(Temporary::Named(File::from(fd), tmp, name))
    }

    fn tmp_dir(&self) -> Result<OwnedFd, Errno> {
        fs::mkdirat(&self.root, TMP_DIR, Mode::RWXU).or_else(ignore_exist)?;
        self.open_beneath(TMP_DIR, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
    }

    /// Gives the file the name `name` in `dir` if nothing has it, else EEXIST.
    fn publish_new(&self, temporary: &Temporary, dir: &OwnedFd, name: &str) -> Result<(), Errno> {
        match temporary {
            Temporary::Anonymous(file) => link_anonymous(file, dir, name),
            Temporary::Named(file, tmp, from) => match fs::linkat(tmp, from, dir, name, AtFlags::empty()) {
                // NFS sends a link again when the answer was lost, and then reports the effect of the first one.
                Err(Errno::EXIST) if fs::fstat(file).is_ok_and(|s| s.st_nlink == 2) => Ok(()),
                Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => {
                    fs::renameat_with(tmp, from, dir, name, RenameFlags::NOREPLACE)
                }
                other => other,
            },
        }
    }

    /// Gives the file the name `name` in `dir`, replacing what has it.
    fn publish(&self, temporary: &Temporary, dir: &OwnedFd, name: &str) -> Result<(), Errno> {
        match temporary {
            Temporary::Named(_, tmp, from) => fs::renameat(tmp, from, dir, name),
            Temporary::Anonymous(file) => match link_anonymous(file, dir, name) {
                Err(Errno::EXIST) => {
                    let (tmp, from) = (self.tmp_dir()?, temporary_name()?);
                    link_anonymous(file, &tmp, &from)?;
                    fs::renameat(&tmp, &from, dir, name).inspect_err(|_| {
                        let _ = fs::unlinkat(&tmp, &from, AtFlags::empty());
                    })
                }
                other => other,
            },
        }
    }

    /// The directory of `key`, made where missing, and sure to be there after a crash.
    fn parent_dir(&self, key: &Key) -> Result<OwnedFd, Errno> {
        let Some((parent, _)) = key.as_str().rsplit_once('/') else {
            return self.root.try_clone().map_err(|e| errno(&e));
        };
        match self.open_beneath(parent, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) {
            Ok(dir) if self.is_durable(parent, identity(&dir)?) => Ok(dir),
            Ok(_) | Err(Errno::NOENT) => self.make_durable(parent),
            Err(e) => Err(e),
        }
    }

    fn make_durable(&self, path: &str) -> Result<OwnedFd, Errno> {
        let mut dir = self.root.try_clone().map_err(|e| errno(&e))?;
        for end in path.match_indices('/').map(|(at, _)| at).chain([path.len()]) {
            let part = path[..end].rsplit('/').next().expect("rsplit yields at least one part");
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            fs::mkdirat(&dir, part, Mode::RWXU).or_else(ignore_exist)?;
            let child = fs::openat(&dir, part, flags, Mode::empty())?;
            let identity = identity(&child)?;
            if !self.is_durable(&path[..end], identity) {
                self.sync_dir(&dir)?;
                self.durable().insert(path[..end].into(), identity);
            }
            dir = child;
        }
        Ok(dir)
    }

    fn is_durable(&self, path: &str, identity: DirIdentity) -> bool {
        self.durable().get(path) == Some(&identity)
    }

    fn durable(&self) -> std::sync::MutexGuard<'_, HashMap<String, DirIdentity>> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A regular file and its size.
    fn open_object(&self, key: &Key) -> Result<(File, u64)> {
        let absent = || StoreError::NotFound { key: key.clone() };
        // Not blocking, lest somebody's FIFO holds us for ever.
        let fd =
            self.open_beneath(key.as_str(), OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).map_err(|e| match e {
                Errno::NOENT | Errno::NOTDIR => absent(),
                e => path_error(format!("get {key}"), e),
            })?;
        let stat = fs::fstat(&fd).map_err(|e| os_error(format!("get {key}"), e))?;
        if fs::FileType::from_raw_mode(stat.st_mode) != fs::FileType::RegularFile {
            return Err(absent());
        }
        Ok((File::from(fd), stat.st_size as u64))
    }

    fn delete(&self, key: &Key) -> Result<()> {
        let what = || format!("delete {key}");
        let (parent, name) = key.as_str().rsplit_once('/').unwrap_or((".", key.as_str()));
        let dir = match self.open_beneath(parent, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) {
            Ok(dir) => dir,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(e) => return Err(path_error(what(), e)),
        };
        match fs::unlinkat(&dir, name, AtFlags::empty()) {
            Ok(()) => self.sync_dir(&dir).map_err(|e| os_error(what(), e))?,
            Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR) => return Ok(()),
            Err(e) => return Err(os_error(what(), e)),
        }
        self.remove_empty_dirs(parent);
        Ok(())
    }

    /// Removes `path` and its parents as long as they are empty; best effort, an empty directory does no harm.
    fn remove_empty_dirs(&self, mut path: &str) {
        while path != "." {
            let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
            let Ok(dir) = self.open_beneath(parent, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) else { return };
            if fs::unlinkat(&dir, name, AtFlags::REMOVEDIR).is_err() {
                return;
            }
            self.durable().remove(path);
            path = parent;
        }
    }

    fn clean_tmp(&self, older_than: Duration) -> Result<usize> {
        let what = || format!("clean {TMP_DIR}");
        let dir = match self.open_beneath(TMP_DIR, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Ok(0),
            Err(e) => return Err(path_error(what(), e)),
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut removed = 0;
        for entry in Dir::read_from(&dir).map_err(|e| os_error(what(), e))? {
            let entry = entry.map_err(|e| os_error(what(), e))?;
            if entry.file_name().to_bytes().first() != Some(&TMP_MARK) {
                continue;
            }
            let Ok(stat) = fs::statat(&dir, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let changed = Duration::from_secs(stat.st_mtime.max(0) as u64);
            if now.saturating_sub(changed) >= older_than {
                fs::unlinkat(&dir, entry.file_name(), AtFlags::empty()).map_err(|e| os_error(what(), e))?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn open_beneath(&self, path: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        open_beneath(&self.root, path, flags, mode)
    }
}

impl Temporary {
    /// After a rename there is nothing to remove; what cannot be removed is garbage that LIST does not show.
    fn remove_name(&self) {
        if let Self::Named(_, tmp, name) = self {
            let _ = fs::unlinkat(tmp, name, AtFlags::empty());
        }
    }
}

/// Opens `path` below `dir` without leaving it and without following any link.
fn open_beneath(dir: &OwnedFd, path: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let mut left = INTERRUPTS_MAX;
    loop {
        match fs::openat2(dir, path, flags | OFlags::CLOEXEC, mode, resolve) {
            Err(Errno::AGAIN | Errno::INTR) if left > 0 => left -= 1,
            other => return other,
        }
    }
}

/// `linkat` with an empty path needs a capability, the way through /proc does not.
fn link_anonymous(file: &File, dir: &OwnedFd, name: &str) -> Result<(), Errno> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    fs::linkat(fs::CWD, path, dir, name, AtFlags::SYMLINK_FOLLOW)
}

fn identity(dir: &OwnedFd) -> Result<DirIdentity, Errno> {
    let stat = fs::statx(dir.as_fd(), "", AtFlags::EMPTY_PATH, StatxFlags::INO | StatxFlags::BTIME)?;
    Ok(DirIdentity { inode: stat.stx_ino, born: (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec) })
}

/// Whether the open directory `dir` has no name any more.
fn is_removed(dir: &OwnedFd) -> bool {
    fs::fstat(dir).is_ok_and(|s| s.st_nlink == 0)
}

fn temporary_name() -> Result<String, Errno> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|_| Errno::IO)?;
    Ok(format!("{}{}", TMP_MARK as char, hex(&random)))
}

fn ignore_exist(error: Errno) -> Result<(), Errno> {
    if error == Errno::EXIST { Ok(()) } else { Err(error) }
}

fn read_exactly(file: &File, key: &Key, range: Range<u64>) -> Result<Bytes> {
    let what = || format!("get {key}");
    let len = range.end - range.start;
    let len = usize::try_from(len).map_err(|e| StoreError::Failed { what: what(), source: e.into() })?;
    bulk::read_exact_at(file, range.start, len).map_err(|e| match e.kind() {
        std::io::ErrorKind::UnexpectedEof => {
            StoreError::Wrong { what: what(), how: "it shrank while it was read".into() }
        }
        _ => io_error(what(), e),
    })
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

fn io_error(what: String, error: std::io::Error) -> StoreError {
    os_error(what, errno(&error))
}

/// Sorts an OS error by what can be done about it.
fn os_error(what: String, error: Errno) -> StoreError {
    let source = Box::new(std::io::Error::from(error));
    match error {
        Errno::NOSPC | Errno::DQUOT => StoreError::Full { what, source },
        Errno::ACCESS | Errno::PERM | Errno::ROFS => StoreError::Denied { what, source },
        Errno::INTR | Errno::AGAIN | Errno::BUSY | Errno::MFILE | Errno::NFILE | Errno::NOMEM => {
            StoreError::Transient { what, source }
        }
        Errno::STALE | Errno::TIMEDOUT => StoreError::Transient { what, source },
        _ => StoreError::Failed { what, source },
    }
}

/// As [`os_error`], and explains what a key's path can meet in a directory that others changed.
fn path_error(what: String, error: Errno) -> StoreError {
    match error {
        Errno::LOOP | Errno::XDEV => setup(
            what,
            "a symbolic link or another file system stands in the repository where objects belong; remove it",
            error,
        ),
        Errno::NOTDIR | Errno::ISDIR => setup(
            what,
            "a file and a directory claim the same name in the repository; move the foreign one away",
            error,
        ),
        Errno::NOSYS => setup(what, "this kernel lacks openat2 (Linux 5.6) or forbids it (seccomp)", error),
        error => os_error(what, error),
    }
}

fn setup(what: String, hint: &str, error: Errno) -> StoreError {
    StoreError::Setup { what, hint: hint.into(), source: Box::new(std::io::Error::from(error)) }
}
