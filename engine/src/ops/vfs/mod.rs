//! The repository as a file system, read-only and lazy: an inode leads to a tree entry, a tree entry to blobs.
//!
//! Knows no kernel: the FUSE adapter of the command line drives it, and so do tests. Above the snapshots stand top
//! directories after templates ([`Template`]); below a snapshot's root everything is as it was stored.
//!
//! **Expected flow**: [`Vfs::new`]; [`Vfs::lookup`] from [`ROOT_INO`] down, each counted until [`Vfs::forget`];
//! [`Vfs::read_dir`], [`Vfs::attributes`], [`Vfs::open`] and [`Vfs::read`]. All methods may be called from many threads at
//! once, and none holds a lock while it waits for the store.
//!
//! **Memory**: an inode takes about 150 bytes as long as the kernel holds it; decoded directories, chunks, opened frames and
//! maps stand in caches, whose caps together are [`Options::memory`]. Beside them each call holds what it reads.

mod attributes;
mod catalog;
mod chunks;
mod directory;
mod file;
mod fresh;
mod inodes;
mod layout;
mod listing;
mod lru;
mod names;
mod report;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, Result as EngineResult};
use crate::format::config::Use;
use crate::format::node::{NodeKind, Timestamp, Xattr};
use crate::id::BlobId;
use crate::progress::Progress;
use crate::repo::{Node, Reader, Repository, Snapshot};

use catalog::{Item, Top};
use directory::{Directories, Stretch};
use file::{Contents, OpenFile, ReadAhead};
use fresh::Fresh;
use inodes::{Identity, Inode, Place, Table, What};
use report::Reports;

pub use crate::format::calendar::utc;
pub use attributes::{Attributes, BLOCK_BYTES, FileKind};
pub use file::Seek;
pub use inodes::ROOT_INO;
pub use listing::{Add, Listed};
pub use names::{DEFAULT_TEMPLATES, Template};

/// What to show, and how.
pub struct Options {
    /// Where snapshots stand.
    pub templates: Vec<Template>,
    /// A time as text, for names.
    pub time: Box<dyn Fn(Timestamp) -> String + Send + Sync>,
    /// Which snapshots.
    pub chosen: Box<dyn Fn(&Snapshot) -> bool + Send + Sync>,
    /// Owner and group of the directories above the snapshots' entries.
    pub owner: (u32, u32),
    /// Cap on all caches together, in bytes.
    pub memory: usize,
    /// How old the list of snapshots may be when a top directory is looked at.
    pub refresh: Duration,
}

impl Options {
    /// All snapshots in the usual places, named in UTC, looked for every 2 seconds, in up to `memory` bytes of caches.
    pub fn new(memory: usize) -> Self {
        let templates = DEFAULT_TEMPLATES.map(|t| Template::parse(t).expect("they are templates"));
        Self {
            templates: templates.into(),
            time: Box::new(utc),
            chosen: Box::new(|_| true),
            owner: (0, 0),
            memory,
            refresh: Duration::from_secs(2),
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Options({:?}, {} bytes, every {:?})", self.templates, self.memory, self.refresh)
    }
}

/// Why a call gives nothing. Each is one number of the kernel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// There is no such name (`ENOENT`).
    #[error("no such entry")]
    NotFound,
    /// The inode is not among those that were looked up, or the handle is not open (`ESTALE`).
    #[error("no such inode or handle")]
    Stale,
    /// It is no directory (`ENOTDIR`).
    #[error("not a directory")]
    NotDir,
    /// It is a directory (`EISDIR`).
    #[error("a directory")]
    IsDir,
    /// It is not of the kind that this asks for (`EINVAL`).
    #[error("not of that kind")]
    WrongKind,
    /// It has no such attribute (`ENODATA`).
    #[error("no such attribute")]
    NoAttribute,
    /// There is no such byte (`ENXIO`).
    #[error("nothing there")]
    Nothing,
    /// It cannot be read; why was told to the progress (`EIO`).
    #[error("cannot be read")]
    Unreadable,
}

/// Result of what a kernel asks.
pub type Result<T> = std::result::Result<T, Failure>;

/// What the file system takes and holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// What the snapshots of the repository take in packs, in bytes.
    pub bytes: u64,
    /// Snapshots shown.
    pub snapshots: u64,
}

/// A mounted repository, without the mount.
#[derive(Debug)]
pub struct Vfs {
    options: Options,
    fresh: Arc<Fresh>,
    inodes: Mutex<Table>,
    directories: Directories,
    contents: Arc<Contents>,
    ahead: ReadAhead,
    handles: Mutex<HashMap<u64, Handle>>,
    next_handle: AtomicU64,
    reports: Reports,
}

#[derive(Debug, Clone)]
enum Handle {
    File(Arc<OpenFile>),
    /// A top directory as it was when it was opened: positions in it stay what they are.
    Top(Arc<Top>),
}

impl Vfs {
    /// Reads the list of snapshots. Refuses a key that may not read content. Whatever cannot be read later is told to
    /// `progress`, each trouble once.
    pub fn new(repo: Arc<Repository>, options: Options, progress: Arc<dyn Progress>) -> EngineResult<Self> {
        repo.may(Use::Read, "mount it")?;
        let reports = Reports::new(progress);
        let quarter = options.memory / 4;
        let (fresh, problems) = Fresh::start(repo, &options, quarter)?;
        problems.into_iter().for_each(|p| reports.tell(p));
        let fresh = Arc::new(fresh);
        let contents = Arc::new(Contents::new(quarter, options.memory / 16));
        let newest = Arc::clone(&fresh);
        let ahead = ReadAhead::start(&contents, move || Arc::clone(&newest.state().reader))
            .map_err(|e| Error::io("start a thread for", "reading ahead", e))?;
        Ok(Self {
            directories: Directories::new(quarter + options.memory / 8),
            options,
            fresh,
            inodes: Mutex::new(Table::new()),
            contents,
            ahead,
            handles: Mutex::default(),
            next_handle: AtomicU64::new(1),
            reports,
        })
    }

    /// The entry `name` of the directory `parent`; its inode is held until it is forgotten as often as it was given.
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Result<Attributes> {
        match &self.inode(parent)?.what {
            What::Top(path) => {
                self.refresh();
                let state = self.fresh.state();
                let top = state.top.dir(path).ok_or(Failure::NotFound)?;
                let item = top.items.get(name).ok_or(Failure::NotFound)?;
                Ok(self.enter_top(parent, path, name, item, top))
            }
            What::Root(root, _) => self.lookup_stored(parent, parent, &root.tree, name),
            What::Entry(place) => {
                let tree = self.with_node(parent, place, |node| node.tree())?.ok_or(Failure::NotDir)?;
                self.lookup_stored(parent, place.root, &tree, name)
            }
            What::Latest(..) => Err(Failure::NotDir),
        }
    }

    fn lookup_stored(&self, parent: u64, root: u64, tree: &BlobId, name: &[u8]) -> Result<Attributes> {
        let reader = self.reader();
        let found = self.directories.find(&reader, tree, name).map_err(|e| self.unreadable(parent, None, &e))?;
        let (stretch, entries, at) = found.ok_or(Failure::NotFound)?;
        Ok(self.enter(parent, &reader, root, stretch, &entries, at))
    }

    /// Takes back `lookups` of an inode.
    pub fn forget(&self, ino: u64, lookups: u64) {
        self.inodes.lock().expect("no panic while held").forget(ino, lookups);
    }

    /// Inodes that are held.
    pub fn held_inodes(&self) -> usize {
        self.inodes.lock().expect("no panic while held").len()
    }

    /// What `stat` tells.
    pub fn attributes(&self, ino: u64) -> Result<Attributes> {
        let owner = self.options.owner;
        match &self.inode(ino)?.what {
            What::Top(path) => {
                let newest = self.fresh.state().top.dir(path).map_or(Timestamp::default(), |top| top.newest);
                Ok(Attributes::made_up(ino, FileKind::Dir, 0, owner, newest))
            }
            What::Latest(target, time) => {
                Ok(Attributes::made_up(ino, FileKind::Symlink, target.len() as u64, owner, *time))
            }
            What::Root(root, _) => Ok(Attributes::made_up(ino, FileKind::Dir, 0, owner, root.time)),
            What::Entry(place) => {
                let reader = self.reader();
                let entries = self.stretch(ino, &reader, place)?;
                Ok(self.stored_attributes(ino, &reader, &entries, usize::from(place.at)))
            }
        }
    }

    /// Where a symlink points.
    pub fn read_link(&self, ino: u64) -> Result<Vec<u8>> {
        match &self.inode(ino)?.what {
            What::Latest(target, _) => Ok(target.to_vec()),
            What::Entry(place) => self
                .with_node(ino, place, |node| match &node.metadata.kind {
                    NodeKind::Symlink { target } => Some(target.clone()),
                    _ => None,
                })?
                .ok_or(Failure::WrongKind),
            _ => Err(Failure::WrongKind),
        }
    }

    /// All extended attributes, sorted by name: none above the entries of snapshots.
    pub fn xattrs(&self, ino: u64) -> Result<Vec<Xattr>> {
        match &self.inode(ino)?.what {
            What::Entry(place) => self.with_node(ino, place, |node| node.metadata.xattrs.clone()),
            _ => Ok(Vec::new()),
        }
    }

    /// The value of an extended attribute.
    pub fn xattr(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>> {
        let What::Entry(place) = &self.inode(ino)?.what else { return Err(Failure::NoAttribute) };
        let find = |node: &Node| node.metadata.xattrs.iter().find(|x| x.name == name).map(|x| x.value.clone());
        self.with_node(ino, place, find)?.ok_or(Failure::NoAttribute)
    }

    /// chattr flags (`FS_IOC_GETFLAGS`) and project id: 0 above the entries of snapshots.
    pub fn flags(&self, ino: u64) -> Result<(u32, u32)> {
        match &self.inode(ino)?.what {
            What::Entry(place) => self.with_node(ino, place, |node| (node.metadata.flags, node.metadata.project)),
            _ => Ok((0, 0)),
        }
    }

    /// Opens a regular file: a handle for [`Vfs::read`] and [`Vfs::seek`], until [`Vfs::release`].
    pub fn open(&self, ino: u64) -> Result<u64> {
        let What::Entry(place) = &self.inode(ino)?.what else { return Err(Failure::IsDir) };
        let node = self.with_node(ino, place, Node::clone)?;
        match node.metadata.kind {
            NodeKind::File { .. } => {}
            NodeKind::Dir => return Err(Failure::IsDir),
            _ => return Err(Failure::WrongKind),
        }
        let file = OpenFile::open(&self.reader(), ino, node).map_err(|e| self.unreadable(ino, None, &e))?;
        Ok(self.keep(Handle::File(Arc::new(file))))
    }

    /// Up to `len` bytes at `offset` of an open file; fewer only at its end.
    pub fn read(&self, handle: u64, offset: u64, len: u32) -> Result<Bytes> {
        let file = self.file(handle)?;
        let bytes = self
            .contents
            .read(&self.reader(), &file, offset, len)
            .map_err(|e| self.unreadable(file.ino, Some(offset), &e))?;
        self.ahead.after(&file, offset, offset.saturating_add(bytes.len() as u64));
        Ok(bytes)
    }

    /// The first byte at or after `offset` of an open file that is in a hole, or in none.
    pub fn seek(&self, handle: u64, offset: u64, seek: Seek) -> Result<u64> {
        let file = self.file(handle)?;
        let found = self.contents.seek(&self.reader(), &file, offset, seek);
        found.map_err(|e| self.unreadable(file.ino, Some(offset), &e))?.ok_or(Failure::Nothing)
    }

    /// Closes a handle.
    pub fn release(&self, handle: u64) {
        self.handles.lock().expect("no panic while held").remove(&handle);
    }

    /// What the file system takes.
    pub fn space(&self) -> Space {
        let state = self.fresh.state();
        Space { bytes: state.stored_bytes, snapshots: state.snapshots }
    }

    fn refresh(&self) {
        match self.fresh.refresh(&self.options) {
            Ok(problems) => problems.into_iter().for_each(|p| self.reports.tell(p)),
            Err(e) => self.reports.failed("the list of snapshots".into(), &e),
        }
    }

    fn reader(&self) -> Arc<Reader> {
        Arc::clone(&self.fresh.state().reader)
    }

    fn inode(&self, ino: u64) -> Result<Inode> {
        self.inodes.lock().expect("no panic while held").get(ino).cloned().ok_or(Failure::Stale)
    }

    fn keep(&self, handle: Handle) -> u64 {
        let n = self.next_handle.fetch_add(1, Ordering::Relaxed);
        self.handles.lock().expect("no panic while held").insert(n, handle);
        n
    }

    fn file(&self, handle: u64) -> Result<Arc<OpenFile>> {
        match self.handles.lock().expect("no panic while held").get(&handle) {
            Some(Handle::File(file)) => Ok(Arc::clone(file)),
            _ => Err(Failure::Stale),
        }
    }

    fn stretch(&self, ino: u64, reader: &Reader, place: &Place) -> Result<Arc<Stretch>> {
        let entries = self.directories.stretch(reader, &place.stretch);
        let entries = entries.map_err(|e| self.unreadable(ino, None, &e))?;
        if usize::from(place.at) < entries.len() { Ok(entries) } else { Err(Failure::Stale) }
    }

    fn with_node<T>(&self, ino: u64, place: &Place, take: impl FnOnce(&Node) -> T) -> Result<T> {
        let entries = self.stretch(ino, &self.reader(), place)?;
        entries.node(usize::from(place.at)).map(take).ok_or(Failure::Stale)
    }

    /// Looks up an item of a top directory.
    fn enter_top(&self, parent: u64, path: &[Vec<u8>], name: &[u8], item: &Item, top: &Top) -> Attributes {
        let owner = self.options.owner;
        let below = || -> Arc<[Vec<u8>]> { path.iter().cloned().chain([name.to_vec()]).collect() };
        let (identity, what, kind, size, time) = match item {
            Item::Dir(dir) => (top_identity(parent, name, item), What::Top(below()), FileKind::Dir, 0, dir.newest),
            Item::Snapshot(root) => {
                let what = What::Root(Arc::clone(root), below());
                (top_identity(parent, name, item), what, FileKind::Dir, 0, root.time)
            }
            Item::Latest(target) => {
                let what = What::Latest(target.as_slice().into(), top.newest);
                (top_identity(parent, name, item), what, FileKind::Symlink, target.len() as u64, top.newest)
            }
        };
        let ino = self.inodes.lock().expect("no panic while held").acquire(identity, parent, what);
        Attributes::made_up(ino, kind, size, owner, time)
    }

    /// Looks up entry `at` of a stretch of the directory `parent`.
    fn enter(
        &self,
        parent: u64,
        reader: &Reader,
        root: u64,
        stretch: BlobId,
        entries: &Stretch,
        at: usize,
    ) -> Attributes {
        let node = entries.node(at).expect("it was found there");
        let what = What::Entry(Place { root, stretch, at: at as u16 });
        let identity = stored_identity(parent, root, node);
        let ino = self.inodes.lock().expect("no panic while held").acquire(identity, parent, what);
        self.stored_attributes(ino, reader, entries, at)
    }

    /// Where the maps that tell of holes are damaged, the file counts as without holes: what is damaged is told when
    /// somebody reads it.
    fn stored_attributes(&self, ino: u64, reader: &Reader, entries: &Stretch, at: usize) -> Attributes {
        let node = entries.node(at).expect("it was found there");
        let data = entries.data_bytes(reader, at).unwrap_or(node.size());
        Attributes::stored(ino, &node.metadata, data)
    }
}

fn top_identity(parent: u64, name: &[u8], item: &Item) -> Identity {
    match item {
        Item::Dir(_) => Identity::named(parent, name),
        Item::Snapshot(root) => Identity::changing(parent, name, root.id.as_bytes()),
        Item::Latest(target) => Identity::changing(parent, name, target),
    }
}

/// Names of one file share an inode. A directory has one name whatever a damaged entry says.
fn stored_identity(parent: u64, root: u64, node: &Node) -> Identity {
    match &node.metadata.hardlink {
        Some(link) if node.metadata.kind != NodeKind::Dir => Identity::linked(root, link),
        _ => Identity::named(parent, &node.name),
    }
}
