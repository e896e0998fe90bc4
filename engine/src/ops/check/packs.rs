//! One whole pack in memory: is it what it says, and does all of it open (I6, I7)?

use std::collections::HashSet;

use crate::crypto::hash;
use crate::format::blob::{Class, Entry};
use crate::format::keys::{PackKey, blob_id};
use crate::format::pack::{self, Frame, Header, HeaderOrigin, TRAILER_BYTES, Table, Trailer};
use crate::format::seal::FrameOpener;
use crate::id::{BlobId, RepositoryId};
use crate::repo::Repository;
use crate::repo::index::{Found, Index};

use super::damage::{Bad, Damage, Invariant};
use super::lists::Pack;

/// Buffers of one thread.
#[derive(Default)]
pub(super) struct Scratch {
    opener: FrameOpener,
    frame: Vec<u8>,
    text: Vec<u8>,
    copies: Vec<Found>,
}

/// What verifies packs.
#[derive(Clone, Copy)]
pub(super) struct Verifier<'v> {
    pub repo: &'v Repository,
    pub index: &'v Index,
    pub damage: &'v Damage,
}

/// What came of one pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All of it is as it must be, as far as this key can look.
    Sound,
    /// Not, and everything that is lost with it is noted.
    Damaged,
    /// It does not tell what is in it: its blobs must be looked at one by one, where the index says they are.
    Unreadable,
}

/// The parts of a pack that agree with each other.
struct Parts {
    header: Header,
    table: Table,
    start: u32,
}

impl Verifier<'_> {
    /// Verifies a pack of which the index lists `listed` copies.
    pub(super) fn verify(&self, pack: &Pack, bytes: &[u8], listed: u32, scratch: &mut Scratch) -> Outcome {
        let mut sound = true;
        let mut fault = |invariant, what: String, bad| {
            sound = false;
            self.damage.pack(pack, invariant, what, bad);
        };
        let whole = hash::blake3(&[bytes]) == *pack.id.as_bytes();
        if !whole {
            // Who cannot open content cannot tell which of it is lost.
            let lost = if self.repo.can_read() { Bad::Nothing } else { Bad::Content };
            fault(Invariant::I6, "its bytes are not those that were written".into(), lost);
        }
        let parts = match self.i6_parts(pack, bytes) {
            Ok(parts) => parts,
            Err(how) => {
                fault(Invariant::I6, how, Bad::Nothing);
                return Outcome::Unreadable;
            }
        };
        if let Err((how, bad)) = self.i6_entries(pack, &parts, listed, &mut scratch.copies) {
            fault(Invariant::I6, how, bad);
        }
        match self.i7_frames(&parts, bytes, scratch) {
            Ok(()) => {}
            Err((how, lost)) => fault(Invariant::I7, how, Bad::Blobs(lost)),
        }
        if sound { Outcome::Sound } else { Outcome::Damaged }
    }

    /// **I6** Every pack has its hash, its header, trailer and table agree, its trailer is signed by a member, its padding
    /// and commitments are as they must be …
    fn i6_parts(&self, pack: &Pack, bytes: &[u8]) -> Result<Parts, String> {
        let graph = self.repo.graph_keys();
        let (header, table, trailer, start) = pack::open(bytes, graph).map_err(|e| e.to_string())?;
        let place = (header.repository, header.writer, header.session, header.seq);
        if place != (self.repo.id(), pack.writer, pack.session, pack.seq) {
            return Err("it is another pack than its key says".into());
        }
        self.signed(&header, &trailer, bytes)?;
        if !pack::padding_fits(bytes, &header, &trailer, graph) {
            return Err("its padding is not as it must be".into());
        }
        header.origins.iter().try_for_each(|origin| self.commitments(origin))?;
        Ok(Parts { header, table, start })
    }

    fn signed(&self, header: &Header, trailer: &Trailer, bytes: &[u8]) -> Result<(), String> {
        let sealed_table = &bytes[trailer.table_at as usize..bytes.len() - TRAILER_BYTES];
        let judged = self.repo.judge(|members| {
            let member = members.member(header.writer).ok_or("its writer is not enrolled")?;
            trailer.verify(header, sealed_table, &member.key).map_err(|e| e.to_string())
        });
        judged.map_err(|e| format!("whether its writer was enrolled since could not be read: {e}"))?
    }

    /// The header's commitments are those of the keys, and readers are given the same stanza by the index.
    fn commitments(&self, origin: &HeaderOrigin) -> Result<(), String> {
        let (repository, at) = (self.repo.id(), &origin.origin);
        if PackKey::graph(self.repo.graph_keys(), repository, at).commitment() != origin.graph {
            return Err("its commitment to the graph's key is wrong".into());
        }
        if !self.index.stanzas(&at.writer, at.session).iter().any(|known| **known == origin.stanza.to_bytes()) {
            return Err("the index has another stanza for a session in it".into());
        }
        if self.repo.can_read() && self.content_key(origin, repository)?.commitment() != origin.content {
            return Err("its commitment to the content's key is wrong".into());
        }
        Ok(())
    }

    fn content_key(&self, origin: &HeaderOrigin, repository: RepositoryId) -> Result<PackKey, String> {
        let secret = self.repo.unseal_session(&origin.stanza)?;
        Ok(PackKey::content(&secret, repository, &origin.origin))
    }

    /// **I6** … and its entries in the index are those of its table.
    ///
    /// The table may list more: what nobody needs any more leaves the index and stays in the pack.
    fn i6_entries(
        &self,
        pack: &Pack,
        parts: &Parts,
        listed: u32,
        copies: &mut Vec<Found>,
    ) -> Result<(), (String, Bad)> {
        let mut entries = parts.table.entries(0, parts.start);
        entries.sort_unstable();
        let (mut agree, mut lost) = (0u32, Vec::new());
        for same_id in entries.chunk_by(|a, b| a.id == b.id) {
            let id = same_id[0].id;
            self.index.lookup(&id, copies);
            for copy in copies.iter().filter(|copy| copy.pack_id() == pack.id) {
                let right = same_id.binary_search(&Entry { pack: 0, ..copy.entry }).is_ok()
                    && parts.header.origins[usize::from(copy.entry.origin)..]
                        .first()
                        .is_some_and(|origin| origin.origin == copy.origin());
                if right { agree += 1 } else { lost.push(id) }
            }
        }
        if !lost.is_empty() {
            return Err(("the index tells otherwise of it than its table".into(), Bad::Blobs(lost)));
        }
        if agree != listed {
            let known: HashSet<BlobId> = entries.iter().map(|e| e.id).collect();
            return Err(("the index lists blobs in it that its table does not".into(), Bad::Except(known)));
        }
        Ok(())
    }

    /// **I7** Every frame opens, and every blob in it has its id (readers and owners; trees: everybody).
    ///
    /// What is wrong with the first frame that is not right, and the blobs of all such.
    fn i7_frames(&self, parts: &Parts, bytes: &[u8], scratch: &mut Scratch) -> Result<(), (String, Vec<BlobId>)> {
        let repository = self.repo.id();
        let graph = |origin: &HeaderOrigin| PackKey::graph(self.repo.graph_keys(), repository, &origin.origin);
        let graph_keys: Vec<PackKey> = parts.header.origins.iter().map(graph).collect();
        let content_keys: Vec<Option<PackKey>> = match self.repo.can_read() {
            true => parts.header.origins.iter().map(|origin| self.content_key(origin, repository).ok()).collect(),
            false => Vec::new(),
        };
        let (mut first, mut lost) = (None, Vec::new());
        let mut at = parts.start as usize;
        for (n, frame) in parts.table.frames.iter().enumerate() {
            let sealed = &bytes[at..at + frame.stored as usize];
            at += frame.stored as usize;
            let origin = usize::from(frame.origin);
            let key = match frame.kind.class() {
                Class::Graph => &graph_keys[origin],
                Class::Content if !self.repo.can_read() => continue,
                // Its stanza opened before, with its commitment.
                Class::Content => match &content_keys[origin] {
                    Some(key) => key,
                    None => continue,
                },
            };
            let before = lost.len();
            if let Err(how) = self.frame(frame, key, sealed, scratch, &mut lost) {
                first.get_or_insert(format!("{} frame {n} of {}: {how}", frame.kind.as_str(), frame.blobs.len()));
                if lost.len() == before {
                    lost.extend(frame.blobs.iter().map(|(id, _)| *id));
                }
            }
        }
        first.map_or(Ok(()), |how| Err((how, lost)))
    }

    /// Opens one frame. Blobs without their id are put into `lost`; all are lost if it does not open.
    fn frame(
        &self,
        frame: &Frame,
        key: &PackKey,
        sealed: &[u8],
        scratch: &mut Scratch,
        lost: &mut Vec<BlobId>,
    ) -> Result<(), String> {
        scratch.frame.clear();
        scratch.frame.extend_from_slice(sealed);
        let header = scratch.opener.open(key, &mut scratch.frame, &mut scratch.text).map_err(|e| e.to_string())?;
        let raw: u64 = frame.blobs.iter().map(|(_, len)| u64::from(*len)).sum();
        if header.kind != frame.kind
            || usize::from(header.count) != frame.blobs.len()
            || u64::from(header.raw_len) != raw
        {
            return Err("its header tells otherwise of it than the table".into());
        }
        let mut at = 0;
        let before = lost.len();
        for (id, len) in &frame.blobs {
            let text = &scratch.text[at..at + *len as usize];
            at += *len as usize;
            if blob_id(self.repo.graph_keys(), self.repo.content_ids(), frame.kind, text) != Some(*id) {
                lost.push(*id);
            }
        }
        if lost.len() > before { Err("a blob has other bytes than its id says".into()) } else { Ok(()) }
    }
}
