//! Meta blobs: names and attributes of one stretch of a directory, and map blobs: lengths and holes of one file
//! (docs/format.md "Meta blobs", "Map blobs"). They hold no ids; their tree does.

use super::codec::{Malformed, Reader, Result, Writer};
use super::node::{
    FLAGS_STORED, HardLink, LINK_BYTES_MAX, Metadata, NAME_BYTES_MAX, NodeKind, XATTR_BYTES_MAX, XATTRS_MAX, Xattr,
    name_is_valid,
};
use super::tree::{FILE_CHUNKS_MAX, PARTS_MAX, STRETCH_ENTRIES_MAX};

const VERSION: u8 = 1;

/// A name and everything about it but its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaEntry {
    /// Raw bytes, valid by [`name_is_valid`].
    pub name: Vec<u8>,
    /// Its attributes.
    pub metadata: Metadata,
}

/// A meta blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meta {
    /// Of a [`super::tree::Tree::Stretch`]: entries in rising order of names.
    Stretch(Vec<MetaEntry>),
    /// Of a [`super::tree::Tree::Split`]: the first name of each stretch, in rising order.
    Split(Vec<Vec<u8>>),
}

impl Meta {
    /// Its text.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u8(VERSION);
        match self {
            Self::Stretch(entries) => {
                assert!(entries.is_sorted_by(|a, b| a.name < b.name), "names are sorted and unique");
                w.u8(0).list(entries, |w, e| {
                    assert!(name_is_valid(&e.name), "a name that may stand in a directory");
                    w.bytes(&e.name);
                    write_metadata(w, &e.metadata);
                });
            }
            Self::Split(names) => {
                assert!(names.is_sorted_by(|a, b| a < b), "names are sorted and unique");
                w.u8(1).list(names, |w, n| {
                    w.bytes(n);
                });
            }
        }
        w.finish()
    }

    /// The reverse.
    pub fn decode(text: &[u8]) -> Result<Self> {
        let mut r = Reader::new("meta", text);
        let version = r.u8()?;
        if version != VERSION {
            return r.fail(format!("version {version} is newer than this program; use a newer one"));
        }
        let meta = match r.u8()? {
            0 => {
                let entries = r.list(STRETCH_ENTRIES_MAX, 10, "entries", |r| {
                    Ok(MetaEntry { name: read_name(r)?, metadata: read_metadata(r)? })
                })?;
                if !entries.is_sorted_by(|a, b| a.name < b.name) {
                    return r.fail("names are not in order");
                }
                Self::Stretch(entries)
            }
            1 => {
                let names = r.list(PARTS_MAX, 2, "names", read_name)?;
                if !names.is_sorted_by(|a, b| a < b) {
                    return r.fail("names are not in order");
                }
                Self::Split(names)
            }
            form => return r.fail(format!("form {form} is unknown")),
        };
        r.finish()?;
        Ok(meta)
    }
}

fn read_name(r: &mut Reader<'_>) -> Result<Vec<u8>> {
    let name = r.bytes(NAME_BYTES_MAX, "name")?;
    if name_is_valid(name) { Ok(name.to_vec()) } else { r.fail("a name that no directory may hold") }
}

fn write_metadata(w: &mut Writer, m: &Metadata) {
    match &m.kind {
        NodeKind::File { size } => w.u8(0).varint(*size),
        NodeKind::Dir => w.u8(1),
        NodeKind::Symlink { target } => w.u8(2).bytes(target),
        NodeKind::Fifo => w.u8(3),
        NodeKind::Socket => w.u8(4),
        NodeKind::CharDevice { rdev } => w.u8(5).varint(*rdev),
        NodeKind::BlockDevice { rdev } => w.u8(6).varint(*rdev),
    };
    w.varint(u64::from(m.mode)).varint(u64::from(m.uid)).varint(u64::from(m.gid)).bytes(&m.user).bytes(&m.group);
    w.time(m.mtime).time(m.atime).time(m.ctime);
    w.option(m.btime, |w, t| {
        w.time(t);
    });
    w.option(m.inode, |w, n| {
        w.varint(n);
    });
    w.option(m.hardlink, |w, l| {
        w.varint(l.dev).varint(l.ino).varint(l.nlink);
    });
    assert!(m.xattrs.is_sorted_by(|a, b| a.name < b.name), "attributes are sorted and unique");
    w.list(&m.xattrs, |w, x| {
        w.bytes(&x.name).bytes(&x.value);
    });
    w.varint(u64::from(m.flags)).varint(u64::from(m.project));
}

fn read_metadata(r: &mut Reader<'_>) -> Result<Metadata> {
    let kind = match r.u8()? {
        0 => NodeKind::File { size: r.at_most(i64::MAX as u64, "size")? },
        1 => NodeKind::Dir,
        2 => {
            let target = r.bytes(LINK_BYTES_MAX, "link target")?;
            if target.is_empty() || target.contains(&0) {
                return r.fail("a link target that no symlink may have");
            }
            NodeKind::Symlink { target: target.to_vec() }
        }
        3 => NodeKind::Fifo,
        4 => NodeKind::Socket,
        5 => NodeKind::CharDevice { rdev: r.varint()? },
        6 => NodeKind::BlockDevice { rdev: r.varint()? },
        n => return r.fail(format!("{n} is no kind of entry")),
    };
    let max32 = u64::from(u32::MAX);
    Ok(Metadata {
        kind,
        mode: r.at_most(0o7777, "mode")? as u32,
        uid: r.at_most(max32, "uid")? as u32,
        gid: r.at_most(max32, "gid")? as u32,
        user: r.bytes(255, "user name")?.to_vec(),
        group: r.bytes(255, "group name")?.to_vec(),
        mtime: r.time()?,
        atime: r.time()?,
        ctime: r.time()?,
        btime: r.option(Reader::time)?,
        inode: r.option(Reader::varint)?,
        hardlink: r.option(|r| Ok(HardLink { dev: r.varint()?, ino: r.varint()?, nlink: r.varint()? }))?,
        xattrs: read_xattrs(r)?,
        flags: {
            let flags = r.at_most(max32, "flags")? as u32;
            if flags & !FLAGS_STORED != 0 {
                return r.fail("flags that are never stored");
            }
            flags
        },
        project: r.at_most(max32, "project id")? as u32,
    })
}

fn read_xattrs(r: &mut Reader<'_>) -> Result<Vec<Xattr>> {
    let xattrs = r.list(XATTRS_MAX, 3, "attributes", |r| {
        let name = r.bytes(255, "attribute name")?;
        if name.is_empty() || name.contains(&0) {
            return r.fail("an attribute without a name");
        }
        Ok(Xattr { name: name.to_vec(), value: r.bytes(XATTR_BYTES_MAX, "attribute value")?.to_vec() })
    })?;
    if !xattrs.is_sorted_by(|a, b| a.name < b.name) {
        return r.fail("attributes are not in order");
    }
    Ok(xattrs)
}

/// How a file's chunks were cut. The number is stored with each map, so that another way can come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ChunkerKind {
    /// FastCDC 2020 with the table of the repository's D_chunk and the parameters of its config.
    FastCdc = 1,
    /// Pieces of one length, the last shorter.
    Fixed = 2,
}

/// A stretch of a file, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Run {
    /// The next child: so many bytes, 1 or more.
    Data(u64),
    /// So many bytes that were never written, 1 or more.
    Hole(u64),
}

impl Run {
    /// Its length in bytes.
    pub fn len(self) -> u64 {
        match self {
            Self::Data(len) | Self::Hole(len) => len,
        }
    }

    /// Never: a run has at least one byte.
    pub fn is_empty(self) -> bool {
        false
    }
}

/// Most runs of one map: between any two holes there is data.
pub const RUNS_MAX: usize = if PARTS_MAX > 2 * FILE_CHUNKS_MAX + 1 { PARTS_MAX } else { 2 * FILE_CHUNKS_MAX + 1 };

/// A map blob: lengths of chunks (or of parts) and holes of a file, from its start, without a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    /// How the chunks were cut.
    pub chunker: ChunkerKind,
    /// In order. Two holes never meet.
    pub runs: Vec<Run>,
}

impl Map {
    /// Its text.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u8(VERSION).u8(self.chunker as u8).list(&self.runs, |w, run| {
            w.varint(run.len() << 1 | u64::from(matches!(run, Run::Hole(_))));
        });
        w.finish()
    }

    /// The reverse. The sum of all runs fits 63 bits.
    pub fn decode(text: &[u8]) -> Result<Self> {
        let mut r = Reader::new("map", text);
        let version = r.u8()?;
        if version != VERSION {
            return r.fail(format!("version {version} is newer than this program; use a newer one"));
        }
        let chunker = match r.u8()? {
            1 => ChunkerKind::FastCdc,
            2 => ChunkerKind::Fixed,
            n => return r.fail(format!("{n} is no kind of chunker")),
        };
        let runs = r.list(RUNS_MAX, 1, "runs", |r| {
            let v = r.varint()?;
            if v >> 1 == 0 {
                return r.fail("an empty run");
            }
            Ok(if v & 1 == 1 { Run::Hole(v >> 1) } else { Run::Data(v >> 1) })
        })?;
        r.finish()?;
        let map = Self { chunker, runs };
        if map.runs.windows(2).any(|w| matches!(w, [Run::Hole(_), Run::Hole(_)])) {
            return Err(Malformed { what: "map", how: "two holes meet".into() });
        }
        if map.checked_size().is_none() {
            return Err(Malformed { what: "map", how: "longer than a file can be".into() });
        }
        Ok(map)
    }

    fn checked_size(&self) -> Option<u64> {
        self.runs.iter().try_fold(0u64, |sum, run| sum.checked_add(run.len())).filter(|s| *s <= i64::MAX as u64)
    }

    /// Length of what it maps, in bytes.
    pub fn size(&self) -> u64 {
        self.checked_size().expect("checked when it was decoded")
    }

    /// How many children it speaks of.
    pub fn data_runs(&self) -> usize {
        self.runs.iter().filter(|r| matches!(r, Run::Data(_))).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::node::Timestamp;
    use proptest::prelude::*;

    fn time() -> impl Strategy<Value = Timestamp> {
        (any::<i64>(), 0u32..1_000_000_000).prop_map(|(secs, nanos)| Timestamp { secs, nanos })
    }

    fn kind() -> impl Strategy<Value = NodeKind> {
        prop_oneof![
            (0..=i64::MAX as u64).prop_map(|size| NodeKind::File { size }),
            Just(NodeKind::Dir),
            proptest::collection::vec(1u8.., 1..40).prop_map(|target| NodeKind::Symlink { target }),
            Just(NodeKind::Fifo),
            Just(NodeKind::Socket),
            any::<u64>().prop_map(|rdev| NodeKind::CharDevice { rdev }),
            any::<u64>().prop_map(|rdev| NodeKind::BlockDevice { rdev }),
        ]
    }

    fn metadata() -> impl Strategy<Value = Metadata> {
        let xattrs = proptest::collection::btree_map(
            proptest::collection::vec(1u8.., 1..9),
            proptest::collection::vec(any::<u8>(), 0..9),
            0..3,
        );
        let ids = (0u32..0o10000, any::<u32>(), any::<u32>(), any::<[u8; 3]>());
        let links = proptest::option::of(any::<[u64; 3]>());
        let rest = (proptest::option::of(any::<u64>()), links, xattrs, any::<u32>(), any::<u32>());
        (kind(), ids, [time(), time(), time()], proptest::option::of(time()), rest).prop_map(
            |(kind, (mode, uid, gid, user), [mtime, atime, ctime], btime, rest)| Metadata {
                kind,
                mode,
                uid,
                gid,
                user: user.to_vec(),
                group: Vec::new(),
                mtime,
                atime,
                ctime,
                btime,
                inode: rest.0,
                hardlink: rest.1.map(|[dev, ino, nlink]| HardLink { dev, ino, nlink }),
                xattrs: rest.2.into_iter().map(|(name, value)| Xattr { name, value }).collect(),
                flags: rest.3 & FLAGS_STORED,
                project: rest.4,
            },
        )
    }

    fn meta() -> impl Strategy<Value = Meta> {
        let name = proptest::collection::vec(b'a'..b'f', 1..9);
        proptest::collection::btree_map(name, metadata(), 0..5).prop_map(|entries| {
            Meta::Stretch(entries.into_iter().map(|(name, metadata)| MetaEntry { name, metadata }).collect())
        })
    }

    proptest! {
        #[test]
        fn metas_come_back(meta in meta()) {
            prop_assert_eq!(Meta::decode(&meta.encode()), Ok(meta));
        }

        #[test]
        fn what_decodes_has_one_encoding(meta in meta(), at: prop::sample::Index, value: u8) {
            let mut text = meta.encode();
            let at = at.index(text.len());
            text[at] = value;
            if let Ok(other) = Meta::decode(&text) {
                prop_assert_eq!(other.encode(), text);
            }
        }

        #[test]
        fn maps_come_back(lens in proptest::collection::vec(1u64..1 << 40, 0..20)) {
            let runs = lens.iter().enumerate().map(|(n, &len)| if n % 2 == 0 { Run::Data(len) } else { Run::Hole(len) });
            let map = Map { chunker: ChunkerKind::FastCdc, runs: runs.collect() };
            prop_assert_eq!(map.size(), lens.iter().sum::<u64>());
            prop_assert_eq!(Map::decode(&map.encode()), Ok(map));
        }
    }

    #[test]
    fn hostile_names_and_orders_are_refused() {
        let split = |names: &[&[u8]]| {
            let mut w = Writer::new();
            w.u8(VERSION).u8(1).list(names, |w, n| {
                w.bytes(n);
            });
            Meta::decode(&w.finish())
        };
        assert!(split(&[b"a", b"b"]).is_ok());
        for bad in [&[&b".."[..]][..], &[b"a/b"], &[b"a\0"], &[b""], &[b"b", b"a"], &[b"a", b"a"]] {
            assert!(split(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn maps_that_do_not_add_up_are_refused() {
        let text = |runs: &[u64]| {
            let mut w = Writer::new();
            w.u8(VERSION).u8(1).list(runs, |w, v| {
                w.varint(*v);
            });
            w.finish()
        };
        assert!(Map::decode(&text(&[3, 2])).is_ok());
        for bad in [&[3u64, 3][..], &[0], &[1], &[u64::MAX - 1, u64::MAX - 1]] {
            assert!(Map::decode(&text(bad)).is_err(), "{bad:?}");
        }
    }
}
