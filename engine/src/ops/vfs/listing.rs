//! Listing directories piece by piece: an offset says where to go on, and means the same in every call.

use std::sync::Arc;

use crate::format::node::Timestamp;
use crate::format::tree::STRETCH_ENTRIES_MAX;
use crate::id::BlobId;

use super::catalog::{Item, Top};
use super::inodes::{Identity, ROOT_INO, What};
use super::{Attributes, Failure, FileKind, Handle, Result, Vfs, stored_identity, top_identity};

/// Offsets 0 and 1 stand for `.` and `..`; entry `at` of stretch `n` has this many and `n * STRETCH_ENTRIES_MAX + at`.
const DOTS: u64 = 2;

/// One name of a directory.
#[derive(Debug, Clone, Copy)]
pub struct Listed<'n> {
    /// The name.
    pub name: &'n [u8],
    /// Number of its inode.
    pub ino: u64,
    /// Its type.
    pub kind: FileKind,
    /// The offset to go on behind it.
    pub next: u64,
    /// Where attributes are asked for. Its inode was looked up then, but for `.` and `..`.
    pub attributes: Option<Attributes>,
}

/// Takes the names of a listing; `true`: there was no room for this one.
pub type Add<'a> = dyn FnMut(Listed<'_>) -> bool + 'a;

/// What names are given to: with their attributes (and one lookup each), or without.
struct Sink<'s, 'a> {
    vfs: &'s Vfs,
    plus: bool,
    add: &'s mut Add<'a>,
}

impl Sink<'_, '_> {
    /// `false`: it is full. `enter` looks the name up.
    fn name(
        &mut self,
        name: &[u8],
        id: Identity,
        kind: FileKind,
        next: u64,
        enter: impl FnOnce() -> Attributes,
    ) -> bool {
        let attributes = self.plus.then(enter);
        let ino = attributes.map_or_else(|| id.ino(), |a| a.ino);
        let full = (self.add)(Listed { name, ino, kind, next, attributes });
        if full && attributes.is_some() {
            self.vfs.forget(ino, 1);
        }
        !full
    }

    fn dot(&mut self, name: &[u8], ino: u64, next: u64) -> bool {
        let made_up = || Attributes::made_up(ino, FileKind::Dir, 0, (0, 0), Timestamp::default());
        let attributes = self.plus.then(made_up);
        !(self.add)(Listed { name, ino, kind: FileKind::Dir, next, attributes })
    }
}

impl Vfs {
    /// Opens a directory: a handle for [`Vfs::read_dir`], until [`Vfs::release`].
    pub fn open_dir(&self, ino: u64) -> Result<u64> {
        match &self.inode(ino)?.what {
            What::Top(path) => {
                self.refresh();
                let top = Arc::clone(&self.fresh.state().top);
                top.dir(path).ok_or(Failure::NotFound)?;
                Ok(self.keep(Handle::Top(top)))
            }
            // Stored directories never change: they need no handle.
            What::Root(..) => Ok(0),
            What::Entry(place) => match self.with_node(ino, place, |node| node.tree())? {
                Some(_) => Ok(0),
                None => Err(Failure::NotDir),
            },
            What::Latest(..) => Err(Failure::NotDir),
        }
    }

    /// Gives the names of a directory from `offset` (0 at first) to `add` until it is full, in a fixed order. With `plus`,
    /// each name that `add` took counts as looked up.
    ///
    /// A part of a directory that cannot be read fails the call that begins with it.
    pub fn read_dir(&self, ino: u64, handle: u64, offset: u64, plus: bool, add: &mut Add<'_>) -> Result<()> {
        let inode = self.inode(ino)?;
        let mut sink = Sink { vfs: self, plus, add };
        let parent = if ino == ROOT_INO { ROOT_INO } else { inode.parent };
        if offset == 0 && !sink.dot(b".", ino, 1) || offset <= 1 && !sink.dot(b"..", parent, DOTS) {
            return Ok(());
        }
        let from = offset.max(DOTS) - DOTS;
        match &inode.what {
            What::Top(path) => self.list_top(ino, handle, path, from, &mut sink),
            What::Root(root, _) => self.list_stored(ino, ino, &root.tree, from, &mut sink),
            What::Entry(place) => {
                let tree = self.with_node(ino, place, |node| node.tree())?.ok_or(Failure::NotDir)?;
                self.list_stored(ino, place.root, &tree, from, &mut sink)
            }
            What::Latest(..) => Err(Failure::NotDir),
        }
    }

    fn list_top(&self, ino: u64, handle: u64, path: &[Vec<u8>], from: u64, sink: &mut Sink<'_, '_>) -> Result<()> {
        let opened = self.handles.lock().expect("no panic while held").get(&handle).cloned();
        let Some(Handle::Top(all)) = opened else { return Err(Failure::Stale) };
        let top: &Top = all.dir(path).ok_or(Failure::NotFound)?;
        for ((name, item), n) in top.items.iter().zip(0u64..).skip(from as usize) {
            let kind = if matches!(item, Item::Latest(_)) { FileKind::Symlink } else { FileKind::Dir };
            let enter = || self.enter_top(ino, path, name, item, top);
            if !sink.name(name, top_identity(ino, name, item), kind, DOTS + n + 1, enter) {
                break;
            }
        }
        Ok(())
    }

    fn list_stored(&self, ino: u64, root: u64, tree: &BlobId, from: u64, sink: &mut Sink<'_, '_>) -> Result<()> {
        let reader = self.reader();
        let per_stretch = STRETCH_ENTRIES_MAX as u64;
        let listing = self.directories.listing(&reader, tree).map_err(|e| self.unreadable(ino, None, &e))?;
        let (first, mut skip) = ((from / per_stretch) as usize, (from % per_stretch) as usize);
        let mut given = false;
        for n in first..listing.len() {
            let (id, entries) = match self.directories.nth(&reader, &listing, n) {
                Ok(found) => found,
                // What was given counts; the next call begins with this stretch and fails.
                Err(_) if given => return Ok(()),
                Err(e) => return Err(self.unreadable(ino, None, &e)),
            };
            for at in skip..entries.len() {
                let node = entries.node(at).expect("below its length");
                let (kind, identity) = (FileKind::of(&node.metadata.kind), stored_identity(ino, root, node));
                let next = DOTS + n as u64 * per_stretch + at as u64 + 1;
                let enter = || self.enter(ino, &reader, root, id, &entries, at);
                if !sink.name(&node.name, identity, kind, next, enter) {
                    return Ok(());
                }
                given = true;
            }
            skip = 0;
        }
        Ok(())
    }
}
