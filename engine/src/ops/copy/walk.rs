//! One snapshot: its directories, with every attribute as it is stored, and its files cut anew for where they go.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::format::meta::MetaEntry;
use crate::format::tree::{DEPTH_MAX, Tagger, Tags, TreeEntry, TreeKind};
use crate::id::BlobId;
use crate::progress::Cancel;
use crate::repo::content::{self, Content};
use crate::repo::parent::OldDir;
use crate::repo::save::{Failed, Saver};
use crate::repo::tree::Stretch;
use crate::repo::walk::join;
use crate::repo::{Node, Reader, directory, rely};

use super::before::{Before, Pair};
use super::pieces::{Ahead, Pieces, cause};

/// Files with several names whose content is remembered, so that it is read once: about 16 MB at most.
const LINKS_MAX: usize = 64 << 10;

/// What all threads share that copy one snapshot.
pub(super) struct Walk<'w> {
    pub(super) saver: Saver<'w>,
    /// Reads where it comes from.
    pub(super) from: &'w Reader,
    /// Reads trees where it goes.
    pub(super) to: Reader,
    pub(super) source: [u8; 32],
    pub(super) batch_bytes: u64,
    pub(super) cancel: &'w Cancel,
    /// By its children at the source.
    pub(super) links: Mutex<HashMap<Vec<BlobId>, Content>>,
    /// Files and bytes that progress was told of.
    pub(super) told: [AtomicU64; 2],
}

/// What is the same for all entries of one directory.
struct Here<'a> {
    path: &'a [u8],
    depth: usize,
    tagger: Tagger,
    /// The directory in the last copy of the same source.
    old: Option<OldDir<'a>>,
}

impl Walk<'_> {
    /// Copies a directory; its tree. `pair`: what it was when it was copied before, and what became of it.
    pub(super) fn directory(&self, tree: &BlobId, path: &[u8], depth: usize, pair: Option<Pair>) -> Result<BlobId> {
        if depth > DEPTH_MAX {
            let how = format!("it is deeper than {DEPTH_MAX} directories");
            return Err(Error::damaged(format!("directory {}", tree.short()), how));
        }
        if let Some(Pair { from, to }) = pair
            && from == *tree
            && self.is_whole(&to)?
        {
            return Ok(to);
        }
        let tagger = Tagger(self.saver.session().content_ids().directory(&self.source, path));
        let here = Here { path, depth, tagger, old: pair.and_then(|pair| OldDir::load(&self.to, &pair.to)) };
        let mut before = Before::load(self.from, pair.filter(|_| here.old.is_some()));
        let mut builder = directory::Builder::new(&self.saver);
        self.from.each_stretch(tree, &mut |stretch: Stretch| {
            let before: Vec<Option<Node>> = stretch.iter().map(|(meta, _)| before.find(&meta.name)).collect();
            let copied: Vec<Result<TreeEntry>> = (&stretch, before)
                .into_par_iter()
                .with_min_len(8)
                .map(|((meta, entry), before)| self.entry(&here, meta, entry, before))
                .collect();
            stretch.into_iter().zip(copied).try_for_each(|((meta, _), entry)| builder.push(meta, entry?))
        })?;
        builder.finish()
    }

    /// Whether everything below a tree that was copied before is still there to be relied upon; else it is copied anew.
    fn is_whole(&self, tree: &BlobId) -> Result<bool> {
        match rely::rely_on(self.saver.session(), &self.to, tree, self.cancel) {
            Ok(()) => Ok(true),
            Err(Error::Damaged { .. }) => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn entry(&self, here: &Here<'_>, meta: &MetaEntry, entry: &TreeEntry, before: Option<Node>) -> Result<TreeEntry> {
        self.saver.check_cancel()?;
        let path = join(here.path, &meta.name);
        self.saver.progress().start(Path::new(std::ffi::OsStr::from_bytes(&path)));
        let tags = tags(&here.tagger, meta, &entry.tags);
        let old = before.and_then(|before| Some((before, here.old.as_ref()?.find(tags.name)?.1)));
        let old =
            old.filter(|(before, old)| (before.kind.base(), old.kind.base()) == (entry.kind.base(), entry.kind.base()));
        match entry.kind.base() {
            TreeKind::Dir => {
                let pair = old.map(|(before, old)| Pair { from: before.children[0], to: old.children[0] });
                let tree = self.directory(&entry.children[0], &path, here.depth + 1, pair)?;
                Ok(TreeEntry { kind: TreeKind::Dir, children: vec![tree], tags })
            }
            TreeKind::File => {
                let node = Node::from((meta.clone(), entry.clone()));
                let same = old.filter(|(before, old)| {
                    (before.kind, &before.children, before.size()) == (node.kind, &node.children, node.size())
                        && rely::has_file(self.saver.session(), &self.to, old)
                });
                if let Some((_, old)) = same {
                    self.tell(1, node.size());
                    return Ok(TreeEntry { tags, ..old });
                }
                let Content { kind, children, .. } = self.file(&node)?;
                Ok(TreeEntry { kind, children, tags })
            }
            kind => Ok(TreeEntry { kind, children: Vec::new(), tags }),
        }
    }

    /// Copies a file, or takes what another name of it became.
    fn file(&self, node: &Node) -> Result<Content> {
        let links = || self.links.lock().expect("no panic while held");
        let linked = node.metadata.hardlink.is_some() && node.children.len() <= 64;
        let known = if linked { links().get(&node.children).cloned() } else { None };
        if let Some(known) = known {
            self.tell(1, node.size());
            return Ok(known);
        }
        let content = self.bytes_of(node)?;
        if content.size != node.size() {
            let how = "it has other bytes than its attributes say";
            return Err(Error::damaged(format!("file {}", String::from_utf8_lossy(&node.name)), how));
        }
        if linked && links().len() < LINKS_MAX {
            links().insert(node.children.clone(), content.clone());
        }
        self.saver.progress().advance(1, 0);
        self.told[0].fetch_add(1, Ordering::Relaxed);
        self.told[1].fetch_add(node.size(), Ordering::Relaxed);
        Ok(content)
    }

    fn bytes_of(&self, node: &Node) -> Result<Content> {
        let mut content = content::Builder::default();
        let mut pieces = Pieces::new(self.from, node, self.batch_bytes)?;
        loop {
            match pieces.ahead()? {
                Ahead::End => return content.finish(&self.saver),
                Ahead::Hole(len) => {
                    content.hole(len);
                    self.saver.progress().advance(0, len);
                }
                Ahead::Data(len) => match self.saver.save_extent(&mut pieces, len, &mut content) {
                    Ok(_) => {}
                    Err(Failed::Source(e)) => return Err(cause(e)),
                    Err(Failed::Store(e)) => return Err(e),
                },
            }
        }
    }

    /// Of what was not read.
    fn tell(&self, files: u64, bytes: u64) {
        self.saver.progress().advance(files, bytes);
        self.told[0].fetch_add(files, Ordering::Relaxed);
        self.told[1].fetch_add(bytes, Ordering::Relaxed);
    }
}

/// The tags of an entry under the keys of where it goes. What matches nothing where it comes from must not match here either.
fn tags(tagger: &Tagger, meta: &MetaEntry, old: &Tags) -> Tags {
    let metadata = &meta.metadata;
    let kind = TreeKind::plain(&metadata.kind);
    let size = match metadata.kind {
        crate::format::node::NodeKind::File { size } => size,
        _ => 0,
    };
    let name = tagger.name(&meta.name, kind as u8);
    let unless_none = |old, new: u64| if old == 0 { 0 } else { new };
    Tags {
        name,
        content: unless_none(old.content, tagger.content(name, size, metadata.mtime)),
        ctime: unless_none(old.ctime, tagger.ctime(name, metadata.ctime)),
        inode: metadata.inode.map_or(0, |inode| unless_none(old.inode, tagger.inode(name, inode))),
    }
}
