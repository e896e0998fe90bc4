//! Which key opens what: every derivation of the format in one place (docs/format.md "Keys").
//!
//! Two classes of bytes. The **graph** (segments, pack tables, tree blobs, graph part of snapshots) opens with D_idx,
//! which every role holds. **Content** (data, meta and map blobs, names part of snapshots) opens with the secret that
//! its session drew and sealed to READ.

use crate::crypto::hash;
use crate::crypto::secret::Secret;
use crate::id::{BlobId, RepositoryId, SessionId, WriterId};

use super::blob::{BlobKind, Origin};

/// Version of all algorithms together: BLAKE3, AES-256-GCM, X-Wing (draft 06), Ed25519, Argon2id, zstd.
pub const SUITE: u8 = 1;

/// The three secrets of a dedup domain. Owner, reader and writer hold all; a maintainer only `d_idx`.
#[derive(Clone)]
pub struct Domain {
    /// Keys the ids of content blobs, tags and labels. Absent in a maintainer's bundle.
    pub d_id: Option<Secret>,
    /// Opens the graph class.
    pub d_idx: Secret,
    /// Seeds the chunker's table. Absent in a maintainer's bundle.
    pub d_chunk: Option<Secret>,
}

/// Keys of the graph class, derived from D_idx.
pub struct GraphKeys {
    tree_ids: Secret,
    packs: Secret,
    records: Secret,
}

impl GraphKeys {
    /// Derives them.
    pub fn new(d_idx: &Secret) -> Self {
        let from = |context| hash::derive(context, &[d_idx.expose()]);
        Self {
            tree_ids: from("copal 1 tree blob id"),
            packs: from("copal 1 graph packs"),
            records: from("copal 1 graph records"),
        }
    }

    /// Key of the pages, tables, graph parts and records of this class.
    pub fn records(&self) -> &Secret {
        &self.records
    }
}

/// Keys derived from D_id: ids of content, tags of directories, hashes of labels.
pub struct ContentIds {
    /// Of data, meta and map blobs.
    ids: [Secret; 3],
    tags: Secret,
    labels: Secret,
    source: Secret,
}

impl ContentIds {
    /// Derives them.
    pub fn new(d_id: &Secret) -> Self {
        let from = |context| hash::derive(context, &[d_id.expose()]);
        Self {
            ids: ["copal 1 data blob id", "copal 1 meta blob id", "copal 1 map blob id"].map(from),
            tags: from("copal 1 directory tags"),
            labels: from("copal 1 labels"),
            source: from("copal 1 source"),
        }
    }

    /// Key of the four tags of the entries of the directory `path` (absolute as in the snapshot) of a source.
    pub fn directory(&self, source: &[u8; 32], path: &[u8]) -> Secret {
        hash::keyed_secret(&self.tags, &[source, path])
    }

    /// Stands for a host, path or label in the graph part, so that retention can group by it without reading it.
    /// `what` is `host`, `path` or `label`.
    pub fn label(&self, what: &str, text: &[u8]) -> [u8; 32] {
        hash::keyed(&self.labels, &[&[what.len() as u8], what.as_bytes(), text])
    }

    /// Names what is backed up again and again: a host and its paths in order.
    pub fn source(&self, host: &[u8], paths: &[Vec<u8>]) -> [u8; 32] {
        let mut text = Vec::new();
        for part in std::iter::once(host).chain(paths.iter().map(Vec::as_slice)) {
            text.extend_from_slice(&(part.len() as u64).to_le_bytes());
            text.extend_from_slice(part);
        }
        hash::keyed(&self.source, &[&text])
    }
}

/// Id of a blob: BLAKE3 of its plaintext under the key of its kind. `content` is needed for all kinds but trees.
///
/// Nothing stands before the plaintext: BLAKE3 takes several chunks at once only where they are whole, and small files have few.
pub fn blob_id(graph: &GraphKeys, content: Option<&ContentIds>, kind: BlobKind, plaintext: &[u8]) -> Option<BlobId> {
    let key = match kind {
        BlobKind::Tree => &graph.tree_ids,
        BlobKind::Data => &content?.ids[0],
        BlobKind::Meta => &content?.ids[1],
        BlobKind::Map => &content?.ids[2],
    };
    Some(BlobId::from_bytes(hash::keyed(key, &[plaintext])))
}

/// What one session seals content with. Readers get it back from the stanza, nobody else does.
#[derive(Clone)]
pub struct SessionSecret(pub Secret);

impl SessionSecret {
    /// Draws one: from randomness, and hedged with what no other session shares, should the randomness be bad.
    pub fn draw(random: &Secret, writer_seed: &Secret, writer: WriterId, session: SessionId, nanos: u128) -> Self {
        let parts: [&[u8]; 5] =
            [random.expose(), writer_seed.expose(), writer.as_bytes(), &session_bytes(session), &nanos.to_le_bytes()];
        Self(hash::derive("copal 1 session secret", &parts))
    }

    /// Key of the names part of the session's snapshot.
    pub fn names(&self, repository: RepositoryId, writer: WriterId, session: SessionId) -> Secret {
        let parts: [&[u8]; 4] = [self.0.expose(), repository.as_bytes(), writer.as_bytes(), &session_bytes(session)];
        hash::derive("copal 1 snapshot names", &parts)
    }
}

/// Key of all frames of one class that one origin sealed into one pack.
#[derive(Clone)]
pub struct PackKey(pub(super) Secret);

impl PackKey {
    /// Of the graph class.
    pub fn graph(keys: &GraphKeys, repository: RepositoryId, origin: &Origin) -> Self {
        Self::derive(&keys.packs, repository, origin)
    }

    /// Of the content class.
    pub fn content(secret: &SessionSecret, repository: RepositoryId, origin: &Origin) -> Self {
        Self::derive(&secret.0, repository, origin)
    }

    fn derive(class: &Secret, repository: RepositoryId, origin: &Origin) -> Self {
        let parts: [&[u8]; 6] = [
            class.expose(),
            &[SUITE],
            repository.as_bytes(),
            origin.writer.as_bytes(),
            &session_bytes(origin.session),
            &origin.salt,
        ];
        Self(hash::derive("copal 1 pack", &parts))
    }

    /// The key itself, for fuzzing what stands behind a seal.
    #[doc(hidden)]
    pub fn secret(&self) -> &Secret {
        &self.0
    }

    /// Stands in the pack's header, so that a key can be told right from wrong, and no frame opens under two keys.
    pub fn commitment(&self) -> [u8; 32] {
        hash::keyed(&self.0, &[b"commit"])
    }
}

/// A session as it stands in stored structures: number and random half, little-endian.
pub fn session_bytes(s: SessionId) -> [u8; 16] {
    let mut out = [0; 16];
    out[..8].copy_from_slice(&s.n.to_le_bytes());
    out[8..].copy_from_slice(&s.random.to_le_bytes());
    out
}
