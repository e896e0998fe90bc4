//! One directory: its entries in blocks, each compared with what it was, then stretches of meta and tree blobs.

use rayon::prelude::*;

use crate::error::Result;
use crate::format::meta::MetaEntry;
use crate::format::node::{Metadata, NodeKind, Timestamp};
use crate::format::tree::{DEPTH_MAX, STRETCH_ENTRIES_MAX, Tagger, Tags, TreeEntry, TreeKind, ends_stretch};
use crate::id::BlobId;
use crate::progress::ProblemKind;
use crate::repo::content::{self, Content};
use crate::repo::directory::{self, META_BYTES, meta_bytes};
use crate::repo::parent::{OldDir, Place, same};
use crate::repo::rely;
use crate::repo::save::Failed;
use crate::source::{self, Change, Dir, Kind, Note, Stat};

use super::Walk;
use super::plan::{Plan, Stream};

/// Entries that are looked at together.
const BLOCK: usize = 1024;

/// Where an entry comes from.
#[derive(Clone, Copy)]
pub(super) enum From<'a> {
    /// A directory that is walked.
    Dir(&'a Dir),
    /// A path that was asked for, or a directory on the way to one.
    Plan(&'a Plan),
}

/// A name to be looked at.
pub(super) struct Name<'a> {
    pub(super) name: &'a [u8],
    pub(super) from: From<'a>,
}

/// An entry whose content is stored.
struct Done<'a> {
    name: &'a [u8],
    from: From<'a>,
    stat: Option<Stat>,
    entry: TreeEntry,
    /// Its attributes are those that the parent snapshot has at this place.
    unchanged: Option<Place>,
    /// Where they were read already.
    metadata: Option<Metadata>,
    /// How many bytes were read, where that is not what `stat` says.
    size: Option<u64>,
}

/// What is the same for all entries of one directory.
struct Here<'a> {
    path: &'a [u8],
    depth: usize,
    tagger: Tagger,
    old: Option<OldDir<'a>>,
}

impl Here<'_> {
    fn path_of(&self, name: &[u8]) -> Vec<u8> {
        [self.path, b"/", name].concat()
    }
}

impl<'w> Walk<'w> {
    /// Stores an open directory; its tree. `old` is the tree it had in the parent snapshot.
    pub(super) fn save_dir(&self, dir: &Dir, path: &[u8], depth: usize, old: Option<BlobId>) -> Result<BlobId> {
        let names = match dir.names() {
            Ok(names) => names,
            Err(e) => {
                self.problem(ProblemKind::Unreadable, path, format!("its entries cannot be listed: {e}"));
                source::Names::default()
            }
        };
        for rejected in names.rejected() {
            let name = self.join(path, &rejected.name);
            self.problem(ProblemKind::Skipped, &name, format!("left out: {:?}", rejected.why));
        }
        let (tagged, notes) = self.options.exclude.dir_is_excluded(dir);
        self.notes(path, notes);
        let only = match tagged {
            Some(source::exclude::Reason::TaggedBy(tag)) => Some(tag),
            _ => None,
        };
        let all = names.iter().filter(|name| only.is_none_or(|only| *name == only));
        self.save_entries(all.map(|name| Name { name, from: From::Dir(dir) }), path, depth, old)
    }

    /// Stores a directory given as its entries' names, in order.
    pub(super) fn save_entries<'n>(
        &self,
        names: impl Iterator<Item = Name<'n>>,
        path: &[u8],
        depth: usize,
        old: Option<BlobId>,
    ) -> Result<BlobId> {
        let tagger = Tagger(self.saver.session().content_ids().directory(&self.source, path));
        let old_tree = old;
        let old = old.and_then(|id| OldDir::load(&self.reader, &id));
        let here = Here { path, depth, tagger, old };
        let builder = directory::Builder::new(&self.saver);
        let mut stretches = Stretches { walk: self, here: &here, open: Vec::new(), builder };
        let mut names = names.peekable();
        while names.peek().is_some() {
            let block: Vec<Name<'n>> = names.by_ref().take(BLOCK).collect();
            let done: Vec<Result<Option<Done<'n>>>> =
                block.into_par_iter().with_min_len(8).map(|name| self.save_entry(&here, name)).collect();
            for entry in done {
                if let Some(entry) = entry? {
                    stretches.push(entry)?;
                }
            }
        }
        let tree = stretches.finish()?;
        self.tally.dir(old_tree, tree);
        Ok(tree)
    }

    /// Looks at one entry, stores its content, and says what it is; `None`: left out.
    fn save_entry<'n>(&self, here: &Here<'_>, name: Name<'n>) -> Result<Option<Done<'n>>> {
        self.saver.check_cancel()?;
        let path = here.path_of(name.name);
        let stat = match name.from {
            From::Plan(Plan::Stream(stream)) => return self.save_stdin(here, name, stream).map(Some),
            From::Plan(plan) => *plan.stat(),
            From::Dir(dir) => {
                if self.options.exclude.excluded_by_path(&path).is_some() {
                    return Ok(None);
                }
                match dir.stat(name.name) {
                    Ok(stat) => stat,
                    Err(e) => {
                        self.problem(ProblemKind::Unreadable, &path, format!("left out: {e}"));
                        return Ok(None);
                    }
                }
            }
        };
        if matches!(name.from, From::Dir(_)) && self.options.exclude.excluded(&path, &stat).is_some() {
            return Ok(None);
        }
        self.progress.start(path_of(&path));
        let tags = self.tags(here, name.name, &stat);
        let old = here.old.as_ref().and_then(|old| old.find(tags.name));
        let old = old.filter(|(_, old)| old.kind == TreeKind::File || tree_kind(stat.kind) == old.kind.base());
        match stat.kind {
            Kind::Dir => self.save_subdir(here, name, &path, stat, tags, old),
            Kind::File => self.save_file(name, &path, stat, tags, old),
            other => {
                self.tally.other();
                let unchanged = self.unchanged(old.as_ref(), &tags);
                let entry = TreeEntry { kind: tree_kind(other), children: Vec::new(), tags };
                let Name { name, from } = name;
                Ok(Some(Done { name, from, stat: Some(stat), entry, unchanged, metadata: None, size: None }))
            }
        }
    }

    fn tags(&self, here: &Here<'_>, name: &[u8], stat: &Stat) -> Tags {
        let t = &here.tagger;
        let name = t.name(name, type_code(stat.kind));
        let size = if stat.kind == Kind::File { stat.size } else { 0 };
        let mut tags = Tags { name, ..Tags::default() };
        if stat.is_settled(&self.source_options) {
            tags.content = t.content(name, size, stat.mtime);
            // Where ctimes do not count for content, they still do for attributes.
            let strictly = source::Options { ignore_ctime: false, ..self.source_options };
            if !self.options.ignore_inode && stat.is_settled(&strictly) {
                tags.ctime = t.ctime(name, stat.ctime);
            }
            if !self.options.ignore_inode {
                tags.inode = t.inode(name, stat.ino);
            }
        }
        tags
    }

    fn is_same(&self, old: &Tags, new: &Tags) -> bool {
        let inode = !self.options.ignore_inode;
        same(old, new, inode && !self.options.ignore_ctime, inode)
    }

    /// Where the attributes stand that an entry still has. Content may be taken for unchanged without looking at ctime or
    /// inode, attributes may not: a change of mode or owner shows nowhere else.
    fn unchanged(&self, old: Option<&(Place, TreeEntry)>, new: &Tags) -> Option<Place> {
        old.filter(|(_, old)| same(&old.tags, new, true, true)).map(|(place, _)| *place)
    }

    fn save_subdir<'n>(
        &self,
        here: &Here<'_>,
        name: Name<'n>,
        path: &[u8],
        stat: Stat,
        tags: Tags,
        old: Option<(Place, TreeEntry)>,
    ) -> Result<Option<Done<'n>>> {
        let depth = here.depth + 1;
        if depth > DEPTH_MAX {
            self.problem(ProblemKind::Skipped, path, format!("left out: deeper than {DEPTH_MAX} directories"));
            return Ok(None);
        }
        let old_tree = old.as_ref().map(|(_, old)| old.children[0]);
        let tree = match name.from {
            From::Plan(plan) => self.save_plan(plan, path, depth, old_tree)?,
            From::Dir(dir) => match dir.open_dir(name.name, &stat) {
                Ok(sub) => self.save_dir(&sub, path, depth, old_tree)?,
                Err(e) if source::is_other_mount(&e) => self.save_entries(std::iter::empty(), path, depth, old_tree)?,
                Err(e) => {
                    self.problem(ProblemKind::Unreadable, path, format!("left out with all below it: {e}"));
                    return Ok(None);
                }
            },
        };
        let unchanged = self.unchanged(old.as_ref(), &tags);
        let entry = TreeEntry { kind: TreeKind::Dir, children: vec![tree], tags };
        let Name { name, from } = name;
        Ok(Some(Done { name, from, stat: Some(stat), entry, unchanged, metadata: None, size: None }))
    }

    fn save_file<'n>(
        &self,
        name: Name<'n>,
        path: &[u8],
        stat: Stat,
        mut tags: Tags,
        old: Option<(Place, TreeEntry)>,
    ) -> Result<Option<Done<'n>>> {
        let existed = old.is_some();
        let Name { name, from } = name;
        let unchanged = self.unchanged(old.as_ref(), &tags);
        if let Some((_, old)) = old
            && self.is_same(&old.tags, &tags)
            && rely::has_file(self.saver.session(), &self.reader, &old)
        {
            self.tally.file(2, stat.size);
            self.progress.advance(1, stat.size);
            let entry = TreeEntry { tags, ..old };
            return Ok(Some(Done { name, from, stat: Some(stat), entry, unchanged, metadata: None, size: None }));
        }
        let dir = match from {
            From::Dir(dir) => dir,
            From::Plan(plan) => plan.parent(),
        };
        let linked = (stat.nlink > 1).then(|| self.linked(&stat)).flatten();
        let read = match linked {
            Some(content) => Ok((content, None, Change::None)),
            None => self.read_file(dir, name, path, &stat),
        };
        let (content, metadata, change) = match read {
            Ok(read) => read,
            Err(Failed::Store(e)) => return Err(e),
            Err(Failed::Source(e)) => {
                self.problem(ProblemKind::Unreadable, path, format!("left out: {e}"));
                return Ok(None);
            }
        };
        if change != Change::None {
            self.problem(ProblemKind::Changed, path, format!("{change}; what was read is stored"));
            (tags.content, tags.ctime, tags.inode) = (0, 0, 0);
        } else if stat.nlink > 1 {
            self.remember_linked(&stat, &content);
        }
        self.tally.file(usize::from(existed), content.size);
        self.progress.advance(1, 0);
        let entry = TreeEntry { kind: content.kind, children: content.children, tags };
        let size = Some(content.size);
        Ok(Some(Done { name, from, stat: Some(stat), entry, unchanged: None, metadata, size }))
    }

    fn read_file(
        &self,
        dir: &Dir,
        name: &[u8],
        path: &[u8],
        stat: &Stat,
    ) -> Result<(Content, Option<Metadata>, Change), Failed> {
        let file = dir.open_file(name, stat)?;
        let content = self.save_content(&file, stat)?;
        let (metadata, notes) = dir.metadata_of(&file, stat)?;
        self.notes(path, notes);
        let change = match file.check_unchanged(stat)? {
            Change::None if content.size != stat.size => Change::Size { was: stat.size, is: content.size },
            change => change,
        };
        Ok((content, Some(metadata), change))
    }

    fn save_stdin<'n>(&self, here: &Here<'_>, name: Name<'n>, stream: &Stream) -> Result<Done<'n>> {
        let mut content = content::Builder::default();
        let path = here.path_of(name.name);
        self.progress.start(path_of(&path));
        let mut reader = stream.reader.lock().expect("no panic while held");
        match self.saver.save_stream(&mut **reader, &mut content) {
            Ok(_) => {}
            Err(Failed::Store(e)) => return Err(e),
            Err(Failed::Source(e)) => return Err(crate::error::Error::io("read", path_of(&path), e)),
        }
        let content = content.finish(&self.saver)?;
        self.tally.file(0, content.size);
        self.progress.advance(1, 0);
        let tags = Tags { name: here.tagger.name(name.name, 0), ..Tags::default() };
        let size = Some(content.size);
        let entry = TreeEntry { kind: content.kind, children: content.children, tags };
        let metadata = Some(stream.metadata(self.source_options.now));
        Ok(Done { name: name.name, from: name.from, stat: None, entry, unchanged: None, metadata, size })
    }

    fn notes(&self, path: &[u8], notes: Vec<Note>) {
        for note in notes {
            self.problem(note.kind, path, note.message);
        }
    }

    fn join(&self, path: &[u8], name: &[u8]) -> Vec<u8> {
        [path, b"/", name].concat()
    }

    /// Attributes of an entry whose content is stored; `None`: it vanished meanwhile.
    fn metadata(&self, here: &Here<'_>, done: &mut Done<'_>) -> Option<Metadata> {
        let path = here.path_of(done.name);
        let read = match (done.metadata.take(), done.stat, done.from) {
            (Some(metadata), ..) => Ok((metadata, Vec::new())),
            (None, Some(stat), From::Dir(dir)) => dir.metadata(done.name, &stat),
            (None, Some(stat), From::Plan(plan)) => plan.metadata(done.name, &stat),
            (None, None, _) => unreachable!("what has no stat brings its attributes"),
        };
        match read {
            Ok((mut metadata, notes)) => {
                self.notes(&path, notes);
                if let (NodeKind::File { size }, Some(real)) = (&mut metadata.kind, done.size) {
                    *size = real;
                }
                Some(metadata)
            }
            Err(e) => {
                self.problem(ProblemKind::Unreadable, &path, format!("left out: its attributes cannot be read: {e}"));
                None
            }
        }
    }
}

impl Walk<'_> {
    /// Extended attributes that no blob could hold are left out.
    fn bounded(&self, here: &Here<'_>, name: &[u8], metadata: &mut Metadata) {
        let (plain, xattrs) = meta_bytes(name, metadata);
        if plain + xattrs <= META_BYTES {
            return;
        }
        metadata.xattrs.clear();
        let how = format!("has {xattrs} bytes of extended attributes, more than can be stored; none of them is");
        self.problem(ProblemKind::Attribute, &here.path_of(name), how);
    }
}

/// Gathers entries in order and ends a stretch where the tags say.
struct Stretches<'a, 'w, 'n> {
    walk: &'a Walk<'w>,
    here: &'a Here<'a>,
    open: Vec<Done<'n>>,
    builder: directory::Builder<'a, 'w>,
}

impl<'n> Stretches<'_, '_, 'n> {
    fn push(&mut self, done: Done<'n>) -> Result<()> {
        let ends = ends_stretch(done.entry.tags.name);
        self.open.push(done);
        if ends || self.open.len() == STRETCH_ENTRIES_MAX { self.end_stretch() } else { Ok(()) }
    }

    fn end_stretch(&mut self) -> Result<()> {
        let mut entries = std::mem::take(&mut self.open);
        if let Some(meta) = self.kept_meta(&entries) {
            let first = entries[0].name.to_vec();
            return self.builder.keep(first, meta, entries.into_iter().map(|done| done.entry).collect());
        }
        let (walk, here) = (self.walk, self.here);
        let metas: Vec<Option<Metadata>> =
            entries.par_iter_mut().with_min_len(64).map(|done| walk.metadata(here, done)).collect();
        for (done, metadata) in entries.into_iter().zip(metas) {
            let Some(mut metadata) = metadata else { continue };
            walk.bounded(here, done.name, &mut metadata);
            self.builder.push(MetaEntry { name: done.name.to_vec(), metadata }, done.entry)?;
        }
        self.builder.end_stretch()
    }

    /// The meta of the parent's stretch, if that has just these entries and none changed.
    fn kept_meta(&self, entries: &[Done<'_>]) -> Option<BlobId> {
        let (stretch, _) = entries.first()?.unchanged?;
        let (meta, count) = self.here.old.as_ref()?.meta(stretch);
        let all_there = entries.len() == count
            && entries.iter().enumerate().all(|(n, done)| done.unchanged == Some((stretch, n as u16)));
        (all_there && self.walk.saver.session().has(&meta)).then_some(meta)
    }

    fn finish(mut self) -> Result<BlobId> {
        self.end_stretch()?;
        self.builder.finish()
    }
}

fn type_code(kind: Kind) -> u8 {
    tree_kind(kind) as u8
}

/// The kind of entry that `kind` becomes; of the kinds of files the plain one.
fn tree_kind(kind: Kind) -> TreeKind {
    match kind {
        Kind::File => TreeKind::File,
        Kind::Dir => TreeKind::Dir,
        Kind::Symlink => TreeKind::Symlink,
        Kind::Fifo => TreeKind::Fifo,
        Kind::Socket => TreeKind::Socket,
        Kind::Char => TreeKind::CharDevice,
        Kind::Block => TreeKind::BlockDevice,
    }
}

fn path_of(bytes: &[u8]) -> &std::path::Path {
    use std::os::unix::ffi::OsStrExt;
    std::path::Path::new(std::ffi::OsStr::from_bytes(bytes))
}

/// For the attributes of what has none of its own.
pub(super) fn synthetic(kind: NodeKind, mode: u32, owner: (u32, u32), time: Timestamp) -> Metadata {
    Metadata {
        kind,
        mode,
        uid: owner.0,
        gid: owner.1,
        user: Vec::new(),
        group: Vec::new(),
        mtime: time,
        atime: time,
        ctime: time,
        btime: None,
        inode: None,
        hardlink: None,
        xattrs: Vec::new(),
        flags: 0,
        project: 0,
    }
}
