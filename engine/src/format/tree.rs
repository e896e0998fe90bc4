//! Tree blobs: the bare graph of a directory, or of a very large file (docs/format.md "Tree blobs").
//!
//! They hold ids, kinds and tags, and no name: a writer recognises what is unchanged by them, and maintenance walks
//! them, without either reading what was backed up.

use crate::crypto::hash;
use crate::crypto::secret::Secret;
use crate::id::BlobId;

use super::blob::BlobKind;
use super::codec::{Reader, Result, Writer};
use super::node::{NodeKind, Timestamp};

const VERSION: u8 = 1;
/// Most entries of one stretch.
pub const STRETCH_ENTRIES_MAX: usize = 4096;
/// A stretch ends after an entry whose name tag has this many low bits 0.
pub const STRETCH_BITS: u32 = 10;
/// Most stretches of one directory, and most parts of one file.
pub const PARTS_MAX: usize = 1 << 18;
/// Most chunks of a file whose ids stand in its directory entry, and of one part of a larger file.
pub const FILE_CHUNKS_MAX: usize = 1024;
/// Deepest directory, in components.
pub const DEPTH_MAX: usize = 4096;

/// What an entry's children are. The number is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TreeKind {
    /// A file of no chunk, or of one and no hole: its data.
    File = 0,
    /// A directory: one tree.
    Dir = 1,
    /// No children.
    Symlink = 2,
    /// No children.
    Fifo = 3,
    /// No children.
    Socket = 4,
    /// No children.
    CharDevice = 5,
    /// No children.
    BlockDevice = 6,
    /// A file of several chunks or with holes: a map, then up to [`FILE_CHUNKS_MAX`] data.
    MappedFile = 7,
    /// A larger file: a map of parts, then one tree of the form [`Tree::Part`] for each.
    LargeFile = 8,
}

impl TreeKind {
    const ALL: [Self; 9] = [
        Self::File,
        Self::Dir,
        Self::Symlink,
        Self::Fifo,
        Self::Socket,
        Self::CharDevice,
        Self::BlockDevice,
        Self::MappedFile,
        Self::LargeFile,
    ];

    /// The kind of an entry whose metadata says `kind`; of the kinds of files the plain one. Its number stands in name tags.
    pub fn plain(kind: &NodeKind) -> Self {
        match kind {
            NodeKind::File { .. } => Self::File,
            NodeKind::Dir => Self::Dir,
            NodeKind::Symlink { .. } => Self::Symlink,
            NodeKind::Fifo => Self::Fifo,
            NodeKind::Socket => Self::Socket,
            NodeKind::CharDevice { .. } => Self::CharDevice,
            NodeKind::BlockDevice { .. } => Self::BlockDevice,
        }
    }

    /// Whether an entry whose metadata says `kind` may stand under this.
    pub fn fits(self, kind: &NodeKind) -> bool {
        self.base() == Self::plain(kind)
    }

    /// The kind without how a file's content is stored.
    pub fn base(self) -> Self {
        match self {
            Self::MappedFile | Self::LargeFile => Self::File,
            other => other,
        }
    }

    fn children_fit(self, count: usize) -> bool {
        match self {
            Self::File => count <= 1,
            Self::Dir => count == 1,
            Self::MappedFile => (1..=1 + FILE_CHUNKS_MAX).contains(&count),
            Self::LargeFile => (2..=1 + PARTS_MAX).contains(&count),
            _ => count == 0,
        }
    }
}

/// Eight bytes that stand for something a writer may compare and nobody may read; 0 matches nothing.
pub type Tag = u64;

/// What of an entry is compared from one backup to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Tags {
    /// Name and type. Finds the entry.
    pub name: Tag,
    /// Size and mtime.
    pub content: Tag,
    /// ctime.
    pub ctime: Tag,
    /// Inode number.
    pub inode: Tag,
}

/// Computes the tags of one directory's entries, under the key that [`super::keys::ContentIds::directory`] gives.
pub struct Tagger(pub Secret);

impl Tagger {
    /// Tag of a name and what it is: the entry's type, not how its content is stored.
    pub fn name(&self, name: &[u8], is: u8) -> Tag {
        self.tag(&[b"n", &[is], name])
    }

    /// Tag of size and mtime of the entry with this name tag.
    pub fn content(&self, name: Tag, size: u64, mtime: Timestamp) -> Tag {
        self.tag(&[b"m", &name.to_le_bytes(), &size.to_le_bytes(), &time_bytes(mtime)])
    }

    /// Tag of its ctime.
    pub fn ctime(&self, name: Tag, ctime: Timestamp) -> Tag {
        self.tag(&[b"c", &name.to_le_bytes(), &time_bytes(ctime)])
    }

    /// Tag of its inode number.
    pub fn inode(&self, name: Tag, inode: u64) -> Tag {
        self.tag(&[b"i", &name.to_le_bytes(), &inode.to_le_bytes()])
    }

    fn tag(&self, parts: &[&[u8]]) -> Tag {
        let full = hash::keyed(&self.0, parts);
        Tag::from_le_bytes(full[..8].try_into().expect("8 of 32 bytes")).max(1)
    }
}

fn time_bytes(t: Timestamp) -> [u8; 12] {
    let mut out = [0; 12];
    out[..8].copy_from_slice(&t.secs.to_le_bytes());
    out[8..].copy_from_slice(&t.nanos.to_le_bytes());
    out
}

/// Whether a stretch ends after an entry with this name tag.
pub fn ends_stretch(name: Tag) -> bool {
    name.trailing_zeros() >= STRETCH_BITS
}

/// One entry of a directory, without its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeEntry {
    /// What its children are.
    pub kind: TreeKind,
    /// As many as the kind allows.
    pub children: Vec<BlobId>,
    /// Compared by the next backup.
    pub tags: Tags,
}

impl TreeEntry {
    /// The blobs that it names itself, with their kinds.
    pub fn blobs(&self) -> impl Iterator<Item = (&BlobId, BlobKind)> {
        self.children.iter().enumerate().map(|(n, id)| {
            let kind = match self.kind {
                TreeKind::Dir => BlobKind::Tree,
                TreeKind::MappedFile | TreeKind::LargeFile if n == 0 => BlobKind::Map,
                TreeKind::LargeFile => BlobKind::Tree,
                _ => BlobKind::Data,
            };
            (id, kind)
        })
    }
}

/// A tree blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tree {
    /// A directory, or a stretch of one: up to [`STRETCH_ENTRIES_MAX`] entries in the order of their names in `meta`.
    Stretch {
        /// The meta blob with as many entries.
        meta: BlobId,
        /// In name order.
        entries: Vec<TreeEntry>,
    },
    /// A directory of several stretches.
    Split {
        /// The meta blob with each stretch's first name.
        meta: BlobId,
        /// Trees of the form [`Tree::Stretch`], two or more.
        stretches: Vec<BlobId>,
    },
    /// A part of a very large file.
    Part {
        /// Lengths and holes of this part.
        map: BlobId,
        /// Up to [`FILE_CHUNKS_MAX`] data.
        data: Vec<BlobId>,
    },
}

/// As what a tree is named by whoever names it. One that is named in several ways is looked at once in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// By a snapshot, or an entry of a directory.
    Directory,
    /// By a directory of several.
    Stretch,
    /// By a very large file.
    Part,
}

/// A tree as something names it, on a walk over all that snapshots reach.
#[derive(Debug, Clone, Copy)]
pub struct Named {
    /// Its id.
    pub tree: BlobId,
    /// As what it is named.
    pub form: Form,
    /// How many directories lie above it.
    pub depth: usize,
}

impl Named {
    /// By a snapshot.
    pub fn root(tree: BlobId) -> Self {
        Self { tree, form: Form::Directory, depth: 0 }
    }

    /// By this one.
    pub fn below(&self, tree: BlobId, form: Form) -> Self {
        Self { tree, form, depth: self.depth + usize::from(form == Form::Directory) }
    }
}

impl Tree {
    /// Whether it may be named so, and if not, why.
    pub fn may_be(&self, form: Form) -> Result<(), &'static str> {
        match (form, self) {
            (Form::Directory, Tree::Part { .. }) => Err("it is named as a directory and is a part of a file"),
            (Form::Stretch, Tree::Split { .. } | Tree::Part { .. }) => Err("it is named as a stretch and is none"),
            (Form::Part, Tree::Stretch { .. } | Tree::Split { .. }) => {
                Err("it is named as a part of a file and is none")
            }
            _ => Ok(()),
        }
    }

    /// Calls `each` with every blob that it names, its kind, and as what if that is a tree.
    pub fn each_named(&self, each: &mut dyn FnMut(&BlobId, BlobKind, Option<Form>)) {
        match self {
            Tree::Stretch { meta, entries } => {
                each(meta, BlobKind::Meta, None);
                for entry in entries {
                    let form = if entry.kind == TreeKind::Dir { Form::Directory } else { Form::Part };
                    entry.blobs().for_each(|(id, kind)| each(id, kind, (kind == BlobKind::Tree).then_some(form)));
                }
            }
            Tree::Split { meta, stretches } => {
                each(meta, BlobKind::Meta, None);
                stretches.iter().for_each(|id| each(id, BlobKind::Tree, Some(Form::Stretch)));
            }
            Tree::Part { map, data } => {
                each(map, BlobKind::Map, None);
                data.iter().for_each(|id| each(id, BlobKind::Data, None));
            }
        }
    }

    /// Its text.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u8(VERSION);
        let ids = |w: &mut Writer, id: &BlobId| {
            w.raw(id.as_bytes());
        };
        match self {
            Self::Stretch { meta, entries } => {
                assert!(entries.len() <= STRETCH_ENTRIES_MAX);
                w.u8(0).raw(meta.as_bytes()).list(entries, |w, e| {
                    assert!(e.kind.children_fit(e.children.len()), "an entry has the children of its kind");
                    w.u8(e.kind as u8).list(&e.children, ids);
                    w.u64(e.tags.name).u64(e.tags.content).u64(e.tags.ctime).u64(e.tags.inode);
                });
            }
            Self::Split { meta, stretches } => {
                assert!((2..=PARTS_MAX).contains(&stretches.len()));
                w.u8(1).raw(meta.as_bytes()).list(stretches, ids);
            }
            Self::Part { map, data } => {
                assert!(data.len() <= FILE_CHUNKS_MAX);
                w.u8(2).raw(map.as_bytes()).list(data, ids);
            }
        }
        w.finish()
    }

    /// The reverse.
    pub fn decode(text: &[u8]) -> Result<Self> {
        let mut r = Reader::new("tree", text);
        let version = r.u8()?;
        if version != VERSION {
            return r.fail(format!("version {version} is newer than this program; use a newer one"));
        }
        let tree = match r.u8()? {
            0 => Self::Stretch { meta: r.blob()?, entries: r.list(STRETCH_ENTRIES_MAX, 34, "entries", read_entry)? },
            1 => Self::Split { meta: r.blob()?, stretches: r.list(PARTS_MAX, 32, "stretches", Reader::blob)? },
            2 => Self::Part { map: r.blob()?, data: r.list(FILE_CHUNKS_MAX, 32, "chunks", Reader::blob)? },
            form => return r.fail(format!("form {form} is unknown")),
        };
        if matches!(&tree, Self::Split { stretches, .. } if stretches.len() < 2) {
            return r.fail("a split directory of fewer than two stretches");
        }
        r.finish()?;
        Ok(tree)
    }

    /// Every blob it names.
    pub fn children(&self) -> impl Iterator<Item = BlobId> + '_ {
        let (own, ids, entries): (_, &[BlobId], &[TreeEntry]) = match self {
            Self::Stretch { meta, entries } => (meta, &[], entries),
            Self::Split { meta, stretches } => (meta, stretches, &[]),
            Self::Part { map, data } => (map, data, &[]),
        };
        std::iter::once(*own).chain(ids.iter().copied()).chain(entries.iter().flat_map(|e| e.children.iter().copied()))
    }
}

fn read_entry(r: &mut Reader<'_>) -> Result<TreeEntry> {
    let n = r.u8()?;
    let Some(kind) = TreeKind::ALL.get(usize::from(n)).copied() else {
        return r.fail(format!("{n} is no kind of entry"));
    };
    let children = r.list(1 + PARTS_MAX, 32, "children", Reader::blob)?;
    if !kind.children_fit(children.len()) {
        return r.fail(format!("{} children of a {kind:?}", children.len()));
    }
    let tags = Tags { name: r.u64()?, content: r.u64()?, ctime: r.u64()?, inode: r.u64()? };
    Ok(TreeEntry { kind, children, tags })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id() -> impl Strategy<Value = BlobId> {
        any::<[u8; 32]>().prop_map(BlobId::from_bytes)
    }

    fn entry() -> impl Strategy<Value = TreeEntry> {
        let children = prop_oneof![
            (Just(TreeKind::File), proptest::collection::vec(id(), 0..2)),
            (Just(TreeKind::Dir), proptest::collection::vec(id(), 1..2)),
            (Just(TreeKind::Socket), Just(Vec::new())),
            (Just(TreeKind::MappedFile), proptest::collection::vec(id(), 1..5)),
            (Just(TreeKind::LargeFile), proptest::collection::vec(id(), 2..5)),
        ];
        (children, any::<[u64; 4]>()).prop_map(|((kind, children), [name, content, ctime, inode])| TreeEntry {
            kind,
            children,
            tags: Tags { name, content, ctime, inode },
        })
    }

    fn tree() -> impl Strategy<Value = Tree> {
        prop_oneof![
            (id(), proptest::collection::vec(entry(), 0..9))
                .prop_map(|(meta, entries)| Tree::Stretch { meta, entries }),
            (id(), proptest::collection::vec(id(), 2..9)).prop_map(|(meta, stretches)| Tree::Split { meta, stretches }),
            (id(), proptest::collection::vec(id(), 0..9)).prop_map(|(map, data)| Tree::Part { map, data }),
        ]
    }

    proptest! {
        #[test]
        fn trees_come_back(tree in tree()) {
            prop_assert_eq!(Tree::decode(&tree.encode()), Ok(tree));
        }

        #[test]
        fn what_decodes_has_one_encoding(tree in tree(), at: prop::sample::Index, value: u8) {
            let mut text = tree.encode();
            let at = at.index(text.len());
            text[at] = value;
            if let Ok(other) = Tree::decode(&text) {
                prop_assert_eq!(other.encode(), text);
            }
        }
    }

    #[test]
    fn no_tag_is_zero_and_tags_differ_by_name() {
        let tagger = Tagger(Secret::from_bytes([1; 32]));
        let t = Timestamp { secs: 5, nanos: 6 };
        let (a, b) = (tagger.name(b"a", 0), tagger.name(b"b", 0));
        assert!(a != 0 && a != b && a != tagger.name(b"a", 1));
        assert_ne!(tagger.content(a, 1, t), tagger.content(b, 1, t));
        assert_ne!(tagger.content(a, 1, t), tagger.content(a, 2, t));
    }
}
