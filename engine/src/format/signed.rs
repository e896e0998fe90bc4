//! One signed record of the graph class, as bases and all that maintenance says are stored (docs/format.md "Bases",
//! "Maintenance"): magic 8, suite, signer 16, length, sealed text, signature over all before it.

use crate::crypto::sign::{SIGNATURE_LEN, SigningKey, VerifyingKey};
use crate::id::{RepositoryId, WriterId};

use super::codec::{Malformed, Reader, Result, Writer};
use super::keys::{GraphKeys, SUITE};
use super::seal::{self, Place, RECORD_OVERHEAD};

const HEAD: usize = 8 + 1 + 16 + 4;
/// What stands around the text, in bytes.
pub(super) const AROUND: usize = HEAD + RECORD_OVERHEAD + SIGNATURE_LEN;

/// Where such an object stands, and what it is sealed with.
#[derive(Clone, Copy)]
pub struct At<'a> {
    /// Of which repository.
    pub repository: RepositoryId,
    /// Key of the object.
    pub object: &'a str,
    /// Keys of the graph class.
    pub keys: &'a GraphKeys,
}

/// What tells one kind of these objects from another.
pub(super) struct Envelope {
    /// First bytes of the object.
    pub magic: &'static [u8; 8],
    /// Kind of its record.
    pub kind: &'static str,
    /// Context of its signature.
    pub context: &'static str,
    /// Who may sign it, for the error.
    pub signers: &'static str,
}

impl Envelope {
    /// The stored bytes, signed by `who`. The text is padded so that the whole has a length of PADME.
    pub(super) fn seal(&self, at: At<'_>, text: Writer, who: WriterId, signer: &SigningKey) -> Vec<u8> {
        let mut text = text.finish();
        text.resize(seal::padme((text.len() + AROUND) as u64) as usize - AROUND, 0);
        let sealed = seal::seal_record(at.keys.records(), &self.place(&at), &text);
        let mut w = Writer::new();
        w.raw(self.magic).u8(SUITE).raw(who.as_bytes()).u32(sealed.len() as u32).raw(&sealed);
        let mut out = w.finish();
        let signature = signer.sign(self.context, &out);
        out.extend_from_slice(&signature);
        out
    }

    /// The text, with its padding; `signer_of` gives the key of who may sign this object.
    pub(super) fn open(
        &self,
        bytes: &[u8],
        at: At<'_>,
        signer_of: impl FnOnce(WriterId) -> Option<VerifyingKey>,
    ) -> Result<Vec<u8>> {
        let mut r = Reader::new(self.kind, bytes);
        if r.array()? != *self.magic || r.u8()? != SUITE {
            return r.fail(format!("not a {} of version 1", self.kind));
        }
        let who = r.writer()?;
        let len = r.u32()? as usize;
        let sealed = r.raw(len)?;
        let signature = r.array()?;
        r.finish()?;
        let key = signer_of(who);
        if key.is_none_or(|key| key.verify(self.context, &bytes[..HEAD + len], &signature).is_err()) {
            return Err(Malformed { what: self.kind, how: format!("not signed by {}", self.signers) });
        }
        seal::open_record(at.keys.records(), &self.place(&at), sealed)
    }

    fn place<'a>(&self, at: &'a At<'_>) -> Place<'a> {
        Place { kind: self.kind, repository: at.repository.as_bytes(), object: at.object, ordinal: 0 }
    }
}
