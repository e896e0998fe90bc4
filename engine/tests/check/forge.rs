//! Packs and snapshots as a broken or lying writer would store them: everything is signed and sealed rightly, but for
//! what a test changes.

use copal_engine::crypto::kem;
use copal_engine::crypto::rng::SystemRng;
use copal_engine::crypto::secret::Secret;
use copal_engine::crypto::sign::SigningKey;
use copal_engine::format::blob::{BlobKind, Entry, Origin, PackInfo};
use copal_engine::format::keys::{PackKey, SessionSecret, blob_id};
use copal_engine::format::meta::{Map, Meta, MetaEntry};
use copal_engine::format::node::{Metadata, NodeKind, Timestamp};
use copal_engine::format::objects;
use copal_engine::format::pack::{self, Frame, Header, HeaderOrigin, Table};
use copal_engine::format::seal::FrameSealer;
use copal_engine::format::segment::{Segment, SessionStanza};
use copal_engine::format::snapshot::{self, GraphPart, NamesPart, SnapshotKind, View};
use copal_engine::format::tree::{Tags, Tree, TreeEntry, TreeKind};
use copal_engine::id::{BlobId, PackId, SessionId, SnapshotId};

use crate::bench::Bench;

/// A session that is stored at once. What is public may be changed before [`Forge::store`].
pub struct Forge<'b> {
    bench: &'b Bench,
    /// Number of its session.
    pub n: u64,
    /// Signs the pack.
    pub pack_signer: Secret,
    /// Signs the snapshot.
    pub signer: Secret,
    /// Changes the header before it is signed.
    pub header: fn(&mut Header),
    /// Changes the finished pack before it is named; gets the range of its padding, too.
    pub pack: fn(&mut Vec<u8>, std::ops::Range<usize>),
    /// Changes what the index says.
    pub entries: fn(&mut Vec<Entry>),
    /// Changes the snapshot before it is signed.
    pub graph: Box<dyn FnOnce(&mut GraphPart)>,
    blobs: Vec<(BlobId, BlobKind, Vec<u8>)>,
}

/// What was stored.
pub struct Forged {
    pub pack: String,
    pub snapshot: SnapshotId,
    pub snapshot_key: String,
}

impl<'b> Forge<'b> {
    pub fn new(bench: &'b Bench) -> Self {
        let seed = bench.who.seed.clone();
        Self {
            bench,
            n: 50,
            pack_signer: seed.clone(),
            signer: seed,
            header: |_| {},
            pack: |_, _| {},
            entries: |_| {},
            graph: Box::new(|_| {}),
            blobs: Vec::new(),
        }
    }

    /// Adds a blob under its id.
    pub fn blob(&mut self, kind: BlobKind, text: Vec<u8>) -> BlobId {
        let repo = self.bench.repo();
        let id = blob_id(repo.graph_keys(), repo.content_ids(), kind, &text).unwrap();
        self.blob_as(id, kind, text)
    }

    /// Adds a blob under any id.
    pub fn blob_as(&mut self, id: BlobId, kind: BlobKind, text: Vec<u8>) -> BlobId {
        self.blobs.push((id, kind, text));
        id
    }

    /// Adds a directory; each entry's metadata is that of `metas`.
    pub fn directory(&mut self, metas: Vec<MetaEntry>, entries: Vec<TreeEntry>) -> BlobId {
        let meta = self.blob(BlobKind::Meta, Meta::Stretch(metas).encode());
        self.blob(BlobKind::Tree, Tree::Stretch { meta, entries }.encode())
    }

    /// Adds a directory with one file `name` of one chunk.
    pub fn one_file(&mut self, name: &str, content: &[u8]) -> BlobId {
        let data = self.blob(BlobKind::Data, content.to_vec());
        self.directory(vec![file(name, content.len() as u64)], vec![entry(TreeKind::File, vec![data])])
    }

    pub fn map(&mut self, map: Map) -> BlobId {
        self.blob(BlobKind::Map, map.encode())
    }

    /// Stores pack and snapshot.
    pub fn store(self, root: BlobId) -> Forged {
        let repo = self.bench.repo();
        let (repository, writer) = (repo.id(), self.bench.who.id);
        let session = SessionId { n: self.n, random: 7 };
        let secret = SessionSecret(Secret::random(&mut SystemRng));
        let stanza = kem::seal_to(repo.config().recipient(), &mut SystemRng, "copal 1 session", &secret.0);
        let origin = Origin { writer, session, salt: [9; 32] };
        let graph_key = PackKey::graph(repo.graph_keys(), repository, &origin);
        let content_key = PackKey::content(&secret, repository, &origin);
        let (graph, content) = (graph_key.commitment(), content_key.commitment());
        let origins = vec![HeaderOrigin { origin, graph, content, stanza: stanza.clone() }];
        let mut header = Header { repository, writer, session, seq: 0, origins };
        (self.header)(&mut header);

        let mut bytes = header.encode();
        let start = bytes.len() as u32;
        let (mut table, mut sealer) = (Table::default(), FrameSealer::new(1));
        for (n, (id, kind, text)) in self.blobs.iter().enumerate() {
            let before = bytes.len();
            let key = if *kind == BlobKind::Tree { &graph_key } else { &content_key };
            sealer.seal(key, n as u32, *kind, &[*id], text, &mut bytes);
            let stored = (bytes.len() - before) as u32;
            let blobs = vec![(*id, text.len() as u32)];
            table.frames.push(Frame { origin: 0, ordinal: n as u32, kind: *kind, stored, blobs });
        }
        let end = bytes.len();
        let pack_signer = SigningKey::from_seed(self.pack_signer);
        pack::finish(&mut bytes, &header, &table, repo.graph_keys(), &graph_key, &pack_signer, false);
        let (_, _, trailer, _) = pack::open(&bytes, repo.graph_keys()).unwrap();
        (self.pack)(&mut bytes, end..trailer.table_at as usize);
        let id = PackId::from_bytes(*blake3::hash(&bytes).as_bytes());
        let info = PackInfo { id, writer, session, seq: 0, size: bytes.len() as u64, origins: vec![origin] };
        let mut entries = table.entries(0, start);
        (self.entries)(&mut entries);
        entries.sort();
        let inline = Segment {
            packs: vec![info],
            stanzas: vec![SessionStanza { writer, session, stanza: stanza.clone() }],
            entries,
        };
        let pack = objects::pack(writer, session, 0, id);
        self.bench.put(&pack, bytes);

        let mut graph = GraphPart {
            kind: SnapshotKind::Whole,
            time: Timestamp { secs: 2_000_000_000, nanos: 0 },
            epoch: 1,
            root: Some(root),
            source: [0; 32],
            host: [0; 32],
            paths: Vec::new(),
            labels: Vec::new(),
            previous: None,
            original: None,
            run: None,
            parts: Vec::new(),
            view: View::default(),
            segments: Vec::new(),
            packs: 1,
            pack_bytes: 0,
            inline: Some(inline),
        };
        (self.graph)(&mut graph);
        let names_key = secret.names(repository, writer, session);
        let keys = (repo.graph_keys(), &names_key);
        let signer = SigningKey::from_seed(self.signer);
        let stored =
            snapshot::encode(repository, writer, session, &stanza, &graph, &NamesPart::default(), keys, &signer);
        let snapshot_key = objects::snapshot(writer, session);
        let snapshot = snapshot::id(&stored);
        self.bench.put(&snapshot_key, stored);
        Forged { pack, snapshot, snapshot_key }
    }
}

/// An entry without tags.
pub fn entry(kind: TreeKind, children: Vec<BlobId>) -> TreeEntry {
    TreeEntry { kind, children, tags: Tags::default() }
}

/// Names and attributes of a file.
pub fn file(name: &str, size: u64) -> MetaEntry {
    named(name, NodeKind::File { size })
}

pub fn named(name: &str, kind: NodeKind) -> MetaEntry {
    let time = Timestamp::default();
    let metadata = Metadata {
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
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
    };
    MetaEntry { name: name.into(), metadata }
}
