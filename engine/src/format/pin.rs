//! Small records of the graph class: pins (docs/format.md "Pins").

use crate::id::{RepositoryId, SessionId, WriterId};

use super::codec::{Reader, Result, Writer};
use super::keys::{GraphKeys, SUITE};
use super::objects;
use super::seal::{self, Place, RECORD_OVERHEAD};

const MAGIC: &[u8; 8] = b"copalpn1";
/// Longest pin that a reader accepts, in bytes.
pub const PIN_BYTES_MAX: u64 = 64 << 10;
const HEADER: usize = 9;

/// Says that a session is open, and who could tell whether its process still lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    /// Epoch of the config it goes by.
    pub epoch: u64,
    /// Stands for the host, under a key of the graph class.
    pub host: [u8; 32],
    /// Stands for the host's boot.
    pub boot: [u8; 32],
    /// The process.
    pub pid: u64,
    /// When it started, in clock ticks since the boot.
    pub started: u64,
}

impl Pin {
    /// The stored bytes.
    pub fn encode(&self, repository: RepositoryId, w: WriterId, s: SessionId, keys: &GraphKeys) -> Vec<u8> {
        let mut text = Writer::new();
        text.varint(self.epoch).raw(&self.host).raw(&self.boot).u64(self.pid).u64(self.started);
        let mut text = text.finish();
        let len = seal::padme((text.len() + HEADER + RECORD_OVERHEAD) as u64) as usize;
        text.resize(len - HEADER - RECORD_OVERHEAD, 0);
        let object = objects::pin(w, s);
        let place = Place { kind: "pin", repository: repository.as_bytes(), object: &object, ordinal: 0 };
        let mut out = Writer::new();
        out.raw(MAGIC).u8(SUITE).raw(&seal::seal_record(keys.records(), &place, &text));
        out.finish()
    }

    /// The reverse.
    pub fn decode(bytes: &[u8], repository: RepositoryId, w: WriterId, s: SessionId, keys: &GraphKeys) -> Result<Self> {
        let mut r = Reader::new("pin", bytes);
        if r.array()? != *MAGIC || r.u8()? != SUITE {
            return r.fail("not a pin of version 1");
        }
        let object = objects::pin(w, s);
        let place = Place { kind: "pin", repository: repository.as_bytes(), object: &object, ordinal: 0 };
        let text = seal::open_record(keys.records(), &place, r.rest())?;
        let mut r = Reader::new("pin", &text);
        let pin = Self { epoch: r.varint()?, host: r.array()?, boot: r.array()?, pid: r.u64()?, started: r.u64()? };
        if r.rest().iter().any(|&b| b != 0) {
            return r.fail("padding is not as it must be");
        }
        Ok(pin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::secret::Secret;

    #[test]
    fn pins_come_back_at_their_place_only() {
        let keys = GraphKeys::new(&Secret::from_bytes([1; 32]));
        let (repo, w) = (RepositoryId::from_bytes([2; 32]), WriterId::from_bytes([3; 16]));
        let s = SessionId { n: 1, random: 2 };
        let pin = Pin { epoch: 1, host: [4; 32], boot: [5; 32], pid: 6, started: 7 };
        let stored = pin.encode(repo, w, s, &keys);
        assert_eq!(Pin::decode(&stored, repo, w, s, &keys), Ok(pin));
        assert!(Pin::decode(&stored, repo, w, SessionId { n: 2, ..s }, &keys).is_err());
    }
}
