//! Adoption: what an interrupted session of the same writer left is used, not stored again.
//!
//! A pack is taken over when its trailer is signed by this writer over its header and table, and its size is what the
//! trailer says: two range reads. Its frames are not opened; whatever damage they took is found as in any other pack.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use crate::crypto::kem::Stanza;
use crate::crypto::sign::VerifyingKey;
use crate::error::{Error, Result};
use crate::format::blob::{Entry, PackInfo};
use crate::format::objects::{self, Parsed};
use crate::format::pack::{self, HEADER_BYTES_MAX, Header, PACK_BYTES_MAX, TRAILER_BYTES, Trailer};
use crate::id::{PackId, SessionId, WriterId};
use crate::store::{Listed, Store, StoreError, list_all};

use super::ledger::Ledger;
use super::open::Repository;
use super::view::View;

/// What is read from a pack's end at first: trailer, and usually the table.
const TAIL: u64 = 64 << 10;

/// A pack as its own header and table tell of it.
pub(super) struct Found {
    pub info: PackInfo,
    pub entries: Vec<Entry>,
    pub stanzas: Vec<((WriterId, SessionId), Stanza)>,
}

/// Takes over the packs of `interrupted` sessions; how many.
pub(super) fn adopt(
    repo: &Arc<Repository>,
    writer: WriterId,
    signer: &VerifyingKey,
    interrupted: &[SessionId],
    view: &View,
    ledger: &Ledger,
) -> Result<u64> {
    if interrupted.is_empty() {
        return Ok(0);
    }
    // A dropped one may stand again: a put that came late. Adopted it would be listed and yet in nobody's view (A3).
    let listed = view.index.packs().map(|p| p.id).chain(view.base.base.dropped.iter().copied());
    let listed: HashSet<PackId> = listed.collect();
    let mut adopted = 0;
    for session in interrupted {
        let prefix = format!("pack/{writer}/{session}/");
        let packs = repo.bridge.wait(list_all(repo.store.as_ref(), &prefix))?;
        let jobs: Vec<Listed> = packs
            .into_iter()
            .filter(|l| matches!(objects::parse(l.key.as_str()), Some(Parsed::Pack(.., id)) if !listed.contains(&id)))
            .collect();
        for batch in jobs.chunks(64) {
            let found = repo.bridge.map(batch.to_vec(), repo.options.connections, |l| {
                let (repo, signer) = (Arc::clone(repo), *signer);
                async move { examine(&repo, &signer, &l).await }
            })?;
            for Found { info, entries, stanzas } in found.into_iter().flatten() {
                adopted += u64::from(ledger.adopt(info, entries, &stanzas)?);
            }
        }
    }
    view.index.flush()?;
    Ok(adopted)
}

/// `None`: it is no good, and stays garbage.
async fn examine(repo: &Repository, signer: &VerifyingKey, l: &Listed) -> Result<Option<Found>> {
    match read(repo, signer, l).await {
        Ok(found) => Ok(Some(found)),
        Err(Error::Damaged { object, how }) => {
            tracing::warn!("{object} of an interrupted backup is not used: {how}");
            Ok(None)
        }
        Err(Error::Store(StoreError::NotFound { .. } | StoreError::Wrong { .. })) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Reads what a pack says of itself, signed by its writer: header, trailer and table, and no frame.
pub(super) async fn read(repo: &Repository, signer: &VerifyingKey, l: &Listed) -> Result<Found> {
    let object = || l.key.as_str().to_owned();
    let Some(Parsed::Pack(writer, session, seq, id)) = objects::parse(l.key.as_str()) else {
        return Err(Error::damaged(object(), "its name is none of a pack"));
    };
    if l.size < TRAILER_BYTES as u64 || l.size > PACK_BYTES_MAX {
        return Err(Error::damaged(object(), "its size is none of a pack"));
    }
    let store: &dyn Store = repo.store.as_ref();
    let exactly = async |range: Range<u64>| {
        let bytes = store.get_range(&l.key, range.clone()).await?;
        match bytes.len() as u64 == range.end - range.start {
            true => Ok(bytes),
            false => Err(Error::damaged(object(), "the store gave another length than was asked for")),
        }
    };
    let start = exactly(0..l.size.min(HEADER_BYTES_MAX as u64)).await?;
    let (header, header_len) = Header::decode(&start).map_err(Error::in_object(object()))?;
    if (header.repository, header.writer, header.session, header.seq) != (repo.id(), writer, session, seq) {
        return Err(Error::damaged(object(), "it is another pack than its name says"));
    }
    let tail_at = l.size.saturating_sub(TAIL);
    let mut tail = exactly(tail_at..l.size).await?;
    let trailer = Trailer::open(&tail[tail.len() - TRAILER_BYTES..], &header, l.size, &repo.graph)
        .map_err(Error::in_object(object()))?;
    if trailer.table_at < tail_at {
        tail = exactly(trailer.table_at..l.size).await?;
    }
    let table = &tail[tail.len() - TRAILER_BYTES - trailer.table_len as usize..tail.len() - TRAILER_BYTES];
    trailer.verify(&header, table, signer).map_err(Error::in_object(object()))?;
    let table = pack::open_table(table, &header, &repo.graph).map_err(Error::in_object(object()))?;
    let frames: u64 = table.frames.iter().map(|f| u64::from(f.stored)).sum();
    if header_len as u64 + frames != trailer.frames_end {
        return Err(Error::damaged(object(), "its table does not tell of every byte"));
    }
    let stanzas = header.origins.iter().map(|o| ((o.origin.writer, o.origin.session), o.stanza.clone())).collect();
    let entries = table.entries(0, header_len as u32);
    let origins = header.origins.iter().map(|o| o.origin).collect();
    let info = PackInfo { id, writer, session, seq, size: l.size, origins };
    Ok(Found { info, entries, stanzas })
}
