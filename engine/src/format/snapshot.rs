//! A snapshot: who, when, what, which tree (docs/format.md "Snapshots").
//!
//! Two sealed parts under one signature: the graph part, which every role reads, and the names part, which only reader
//! and owner do. The signature covers the stored bytes, so that every role verifies it.

use crate::crypto::hash;
use crate::crypto::kem::Stanza;
use crate::crypto::secret::Secret;
use crate::crypto::sign::{SIGNATURE_LEN, SigningKey, VerifyingKey};
use crate::id::{BlobId, ObjectHash, RepositoryId, SegmentId, SessionId, SnapshotId, WriterId};

use super::codec::{Malformed, Reader, Result, Writer};
use super::keys::{ContentIds, GraphKeys, SUITE};
use super::node::Timestamp;
use super::objects;
use super::seal::{self, Place};
use super::segment::Segment;

const MAGIC: &[u8; 8] = b"copalsn1";
const SIGNED: &str = "copal 1 snapshot";
/// Longest snapshot that a reader accepts, in bytes.
pub const SNAPSHOT_BYTES_MAX: u64 = 64 << 20;
/// Most problems that a snapshot lists; the count tells of the rest.
pub const PROBLEMS_MAX: usize = 1000;
/// Most labels.
pub const LABELS_MAX: usize = 1024;
/// Most paths.
pub const PATHS_MAX: usize = 1 << 16;
const VIEW_MAX: usize = 1 << 16;
const TEXT_MAX: usize = 64 << 10;

/// What kind of root it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum SnapshotKind {
    /// One that users see.
    Whole = 0,
    /// One that only serves a whole.
    Part = 1,
    /// None: a commit of maintenance, or a tombstone.
    None = 2,
}

/// A snapshot's key, and its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotRef {
    /// Who made it.
    pub writer: WriterId,
    /// In which run.
    pub session: SessionId,
    /// BLAKE3 of the stored object.
    pub id: SnapshotId,
}

/// The state of the repository that a session saw.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    /// Number of the base, 0 = none.
    pub base: u64,
    /// Hash of the base.
    pub base_hash: Option<ObjectHash>,
    /// Committed snapshots newer than it.
    pub snapshots: Vec<SnapshotRef>,
}

/// The part that every role reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphPart {
    /// What kind of root.
    pub kind: SnapshotKind,
    /// When the backup began.
    pub time: Timestamp,
    /// Epoch of the config it was made under.
    pub epoch: u64,
    /// The root: a tree blob. Absent in the kind [`SnapshotKind::None`].
    pub root: Option<BlobId>,
    /// Names host and paths, keyed.
    pub source: [u8; 32],
    /// Stands for the host.
    pub host: [u8; 32],
    /// Stand for the paths.
    pub paths: Vec<[u8; 32]>,
    /// Stand for the labels (`--tag`).
    pub labels: Vec<[u8; 32]>,
    /// The source's snapshot before this one.
    pub previous: Option<SnapshotId>,
    /// Of which this is an edited copy.
    pub original: Option<SnapshotId>,
    /// For a part: the session of its whole.
    pub run: Option<(WriterId, SessionId)>,
    /// For a whole: its parts.
    pub parts: Vec<SnapshotId>,
    /// What the session saw.
    pub view: View,
    /// What the session published.
    pub segments: Vec<(u64, SegmentId)>,
    /// Packs the session stored.
    pub packs: u64,
    /// Their size together, in bytes.
    pub pack_bytes: u64,
    /// Entries of a small session, instead of a segment.
    pub inline: Option<Segment>,
}

/// How much was backed up, as `backup` reported it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counts {
    /// Files: new, changed, unchanged.
    pub files: [u64; 3],
    /// Directories: new, changed, unchanged.
    pub dirs: [u64; 3],
    /// Other entries.
    pub others: u64,
    /// Sum of the sizes of all files, in bytes.
    pub bytes: u64,
    /// New data blobs and all other new blobs.
    pub blobs: [u64; 2],
    /// Plaintext of the new blobs, in bytes.
    pub added: u64,
    /// What they take in packs, in bytes.
    pub stored: u64,
    /// How long it took, in milliseconds.
    pub millis: u64,
    /// How many problems there were.
    pub problems: u64,
}

/// One thing that went wrong during the backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredProblem {
    /// Its class, as in JSON.
    pub kind: Vec<u8>,
    /// Where.
    pub path: Vec<u8>,
    /// What.
    pub message: Vec<u8>,
}

/// The part that only readers and owners open.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NamesPart {
    /// Host that was backed up.
    pub host: Vec<u8>,
    /// Name of the user who ran the backup.
    pub user: Vec<u8>,
    /// Its uid and gid.
    pub uid_gid: (u32, u32),
    /// Absolute paths that were backed up.
    pub paths: Vec<Vec<u8>>,
    /// Labels (`--tag`).
    pub labels: Vec<Vec<u8>>,
    /// Which program wrote it, e.g. `copal 0.1.0`.
    pub program: Vec<u8>,
    /// How much.
    pub counts: Counts,
    /// The first [`PROBLEMS_MAX`] problems.
    pub problems: Vec<StoredProblem>,
}

/// A stored snapshot, its signature not yet verified, its parts still sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// In which repository.
    pub repository: RepositoryId,
    /// Who made it.
    pub writer: WriterId,
    /// In which run.
    pub session: SessionId,
    /// The session's secret, sealed to READ.
    pub stanza: Stanza,
    graph: Vec<u8>,
    names: Vec<u8>,
    signed_len: usize,
    signature: [u8; SIGNATURE_LEN],
}

/// The stored bytes of a snapshot. `names_key` is [`super::keys::SessionSecret::names`].
#[allow(clippy::too_many_arguments)]
pub fn encode(
    repository: RepositoryId,
    writer: WriterId,
    session: SessionId,
    stanza: &Stanza,
    graph: &GraphPart,
    names: &NamesPart,
    keys: (&GraphKeys, &Secret),
    signer: &SigningKey,
) -> Vec<u8> {
    let object = objects::snapshot(writer, session);
    let at = |kind| Place { kind, repository: repository.as_bytes(), object: &object, ordinal: 0 };
    let graph = seal::seal_record(keys.0.records(), &at("snapshot graph"), &graph.encode());
    let names = seal::seal_record(keys.1, &at("snapshot names"), &names.encode());
    let mut w = Writer::new();
    w.raw(MAGIC).u8(SUITE).raw(repository.as_bytes()).raw(writer.as_bytes()).session(session);
    w.raw(&stanza.to_bytes()).u32(graph.len() as u32).raw(&graph).u32(names.len() as u32).raw(&names);
    let mut out = w.finish();
    out.resize(seal::padme((out.len() + SIGNATURE_LEN) as u64) as usize - SIGNATURE_LEN, 0);
    let signature = signer.sign(SIGNED, &out);
    out.extend_from_slice(&signature);
    out
}

/// Id of stored bytes.
pub fn id(stored: &[u8]) -> SnapshotId {
    SnapshotId::from_bytes(hash::blake3(&[stored]))
}

impl Stored {
    /// Takes stored bytes apart.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new("snapshot", bytes);
        if r.array()? != *MAGIC {
            return r.fail("not a snapshot of version 1");
        }
        if r.u8()? != SUITE {
            return r.fail("made with algorithms that this version does not know; use a newer one");
        }
        let repository = RepositoryId::from_bytes(r.array()?);
        let (writer, session) = (r.writer()?, r.session()?);
        let stanza = Stanza::from_bytes(&r.array()?);
        let graph_len = r.u32()? as usize;
        let graph = r.raw(graph_len)?.to_vec();
        let names_len = r.u32()? as usize;
        let names = r.raw(names_len)?.to_vec();
        let used = bytes.len() - r.left();
        let padding = r.raw(r.left().saturating_sub(SIGNATURE_LEN))?;
        if padding.iter().any(|&b| b != 0) || bytes.len() as u64 != seal::padme((used + SIGNATURE_LEN) as u64) {
            return r.fail("padding is not as it must be");
        }
        let signature = r.array()?;
        r.finish()?;
        let signed_len = bytes.len() - SIGNATURE_LEN;
        Ok(Self { repository, writer, session, stanza, graph, names, signed_len, signature })
    }

    /// Whether the writer signed these bytes (the same that were decoded).
    pub fn verify(&self, bytes: &[u8], writer: &VerifyingKey) -> Result<()> {
        writer
            .verify(SIGNED, &bytes[..self.signed_len], &self.signature)
            .map_err(|_| Malformed { what: "snapshot", how: "not signed by its writer".into() })
    }

    /// Opens the part that every role reads.
    pub fn graph(&self, keys: &GraphKeys) -> Result<GraphPart> {
        GraphPart::decode(&self.open("snapshot graph", keys.records(), &self.graph)?)
    }

    /// Opens the part that only readers and owners do.
    pub fn names(&self, key: &Secret) -> Result<NamesPart> {
        NamesPart::decode(&self.open("snapshot names", key, &self.names)?)
    }

    fn open(&self, kind: &'static str, key: &Secret, sealed: &[u8]) -> Result<Vec<u8>> {
        let object = objects::snapshot(self.writer, self.session);
        seal::open_record(
            key,
            &Place { kind, repository: self.repository.as_bytes(), object: &object, ordinal: 0 },
            sealed,
        )
    }
}

pub(super) fn write_ref(w: &mut Writer, s: &SnapshotRef) {
    w.raw(s.writer.as_bytes()).session(s.session).raw(s.id.as_bytes());
}

pub(super) fn read_ref(r: &mut Reader<'_>) -> Result<SnapshotRef> {
    Ok(SnapshotRef { writer: r.writer()?, session: r.session()?, id: SnapshotId::from_bytes(r.array()?) })
}

impl GraphPart {
    /// Of a snapshot that users see, with what stands for `names`; nothing before it, and nothing published yet.
    pub fn whole(ids: &ContentIds, names: &NamesPart, root: BlobId, time: Timestamp) -> Self {
        Self {
            kind: SnapshotKind::Whole,
            time,
            epoch: 0,
            root: Some(root),
            source: ids.source(&names.host, &names.paths),
            host: ids.label("host", &names.host),
            paths: names.paths.iter().map(|p| ids.label("path", p)).collect(),
            labels: names.labels.iter().map(|l| ids.label("label", l)).collect(),
            previous: None,
            original: None,
            run: None,
            parts: Vec::new(),
            view: View::default(),
            segments: Vec::new(),
            packs: 0,
            pack_bytes: 0,
            inline: None,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        let hash = |w: &mut Writer, h: &[u8; 32]| {
            w.raw(h);
        };
        w.u8(self.kind as u8).time(self.time).varint(self.epoch);
        w.option(self.root, |w, id| {
            w.raw(id.as_bytes());
        });
        w.raw(&self.source).raw(&self.host).list(&self.paths, hash).list(&self.labels, hash);
        for id in [self.previous, self.original] {
            w.option(id, |w, id| {
                w.raw(id.as_bytes());
            });
        }
        w.option(self.run, |w, (writer, session)| {
            w.raw(writer.as_bytes()).session(session);
        });
        w.list(&self.parts, |w, id| {
            w.raw(id.as_bytes());
        });
        w.varint(self.view.base).option(self.view.base_hash, |w, h| {
            w.raw(h.as_bytes());
        });
        w.list(&self.view.snapshots, write_ref);
        w.list(&self.segments, |w, (n, id)| {
            w.varint(*n).raw(id.as_bytes());
        });
        w.varint(self.packs).varint(self.pack_bytes);
        w.option(self.inline.as_ref(), |w, s| s.write_inline(w));
        w.finish()
    }

    pub(super) fn decode(text: &[u8]) -> Result<Self> {
        let mut r = Reader::new("snapshot graph", text);
        let part = Self {
            kind: match r.u8()? {
                0 => SnapshotKind::Whole,
                1 => SnapshotKind::Part,
                2 => SnapshotKind::None,
                n => return r.fail(format!("{n} is no kind of snapshot")),
            },
            time: r.time()?,
            epoch: r.varint()?,
            root: r.option(Reader::blob)?,
            source: r.array()?,
            host: r.array()?,
            paths: r.list(PATHS_MAX, 32, "paths", Reader::array)?,
            labels: r.list(LABELS_MAX, 32, "labels", Reader::array)?,
            previous: r.option(|r| Ok(SnapshotId::from_bytes(r.array()?)))?,
            original: r.option(|r| Ok(SnapshotId::from_bytes(r.array()?)))?,
            run: r.option(|r| Ok((r.writer()?, r.session()?)))?,
            parts: r.list(LABELS_MAX, 32, "parts", |r| Ok(SnapshotId::from_bytes(r.array()?)))?,
            view: View {
                base: r.varint()?,
                base_hash: r.option(|r| Ok(ObjectHash::from_bytes(r.array()?)))?,
                snapshots: r.list(VIEW_MAX, 64, "snapshots", read_ref)?,
            },
            segments: r.list(VIEW_MAX, 33, "segments", |r| Ok((r.varint()?, SegmentId::from_bytes(r.array()?))))?,
            packs: r.varint()?,
            pack_bytes: r.varint()?,
            inline: r.option(Segment::read_inline)?,
        };
        if part.root.is_none() != (part.kind == SnapshotKind::None) {
            return r.fail("a root where none may be, or none where one must be");
        }
        r.finish()?;
        Ok(part)
    }
}

impl NamesPart {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        let text = |w: &mut Writer, t: &Vec<u8>| {
            w.bytes(t);
        };
        w.bytes(&self.host).bytes(&self.user);
        w.varint(u64::from(self.uid_gid.0)).varint(u64::from(self.uid_gid.1));
        w.list(&self.paths, text).list(&self.labels, text).bytes(&self.program);
        for n in self.counts.numbers() {
            w.varint(n);
        }
        w.list(&self.problems, |w, p| {
            w.bytes(&p.kind).bytes(&p.path).bytes(&p.message);
        });
        w.finish()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new("snapshot names", bytes);
        let text = |r: &mut Reader<'_>| Ok(r.bytes(TEXT_MAX, "text")?.to_vec());
        let max32 = u64::from(u32::MAX);
        let part = Self {
            host: text(&mut r)?,
            user: text(&mut r)?,
            uid_gid: (r.at_most(max32, "uid")? as u32, r.at_most(max32, "gid")? as u32),
            paths: r.list(PATHS_MAX, 1, "paths", text)?,
            labels: r.list(LABELS_MAX, 1, "labels", text)?,
            program: text(&mut r)?,
            counts: Counts::read(&mut r)?,
            problems: r.list(PROBLEMS_MAX, 3, "problems", |r| {
                Ok(StoredProblem { kind: text(r)?, path: text(r)?, message: text(r)? })
            })?,
        };
        r.finish()?;
        Ok(part)
    }
}

impl Counts {
    fn numbers(&self) -> [u64; 14] {
        let ([a, b, c], [d, e, f], [g, h]) = (self.files, self.dirs, self.blobs);
        [a, b, c, d, e, f, self.others, self.bytes, g, h, self.added, self.stored, self.millis, self.problems]
    }

    fn read(r: &mut Reader<'_>) -> Result<Self> {
        let mut n = [0; 14];
        for v in &mut n {
            *v = r.varint()?;
        }
        let [a, b, c, d, e, f, others, bytes, g, h, added, stored, millis, problems] = n;
        let (files, dirs, blobs) = ([a, b, c], [d, e, f], [g, h]);
        Ok(Self { files, dirs, others, bytes, blobs, added, stored, millis, problems })
    }
}
