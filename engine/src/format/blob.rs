//! Kinds of blobs, the class of bytes each belongs to, and where a copy of one lies.

use crate::id::{BlobId, PackId, SessionId, WriterId};

use super::codec::{Reader, Result};

/// What a blob holds. The number is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum BlobKind {
    /// One chunk of a file.
    Data = 0,
    /// Names and attributes of one stretch of a directory.
    Meta = 1,
    /// Ids and tags of one stretch of a directory, or ids of a part of a very large file.
    Tree = 2,
    /// Lengths and holes of one file.
    Map = 3,
}

/// Which key opens it (docs/format.md "Classes").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Every role reads it.
    Graph,
    /// Only reader and owner do.
    Content,
}

impl BlobKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Data, Self::Meta, Self::Tree, Self::Map];

    /// The kind with this number.
    pub fn from_u8(n: u8) -> Option<Self> {
        Self::ALL.get(usize::from(n)).copied()
    }

    /// The class whose key seals it.
    pub fn class(self) -> Class {
        match self {
            Self::Tree => Class::Graph,
            Self::Data | Self::Meta | Self::Map => Class::Content,
        }
    }

    /// Its name in output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Meta => "meta",
            Self::Tree => "tree",
            Self::Map => "map",
        }
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self> {
        let n = r.u8()?;
        Self::from_u8(n).map_or_else(|| r.fail(format!("{n} is no kind of blob")), Ok)
    }
}

/// Longest plaintext of a frame in bytes, and of a blob: nothing may ask for more memory than this at once.
pub const RAW_BYTES_MAX: u32 = 16 << 20;
/// Most blobs in one frame.
pub const GROUP_BLOBS_MAX: usize = 65_535;
/// Most sessions whose frames one pack may hold.
pub const ORIGINS_MAX: usize = 64;

/// The session that sealed a frame: with the class secret and the salt it gives the key (docs/format.md "Pack keys").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// Who.
    pub writer: WriterId,
    /// In which run.
    pub session: SessionId,
    /// Salt of the pack that it was first sealed into.
    pub salt: [u8; 32],
}

/// A pack as segments know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackInfo {
    /// Hash of its bytes.
    pub id: PackId,
    /// Who stored it: with `session` and `seq` its key.
    pub writer: WriterId,
    /// In which run.
    pub session: SessionId,
    /// Number within the session.
    pub seq: u64,
    /// Size in bytes.
    pub size: u64,
    /// Who sealed its frames: 1 to [`ORIGINS_MAX`]; a frame names one by position.
    pub origins: Vec<Origin>,
}

/// One copy of a blob: where it lies. `pack` is a position in the list of packs that stands beside the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry {
    /// Which blob.
    pub id: BlobId,
    /// Position in the list of packs, below 2^24.
    pub pack: u32,
    /// Where the frame starts in the pack, in bytes.
    pub offset: u32,
    /// What the blob is.
    pub kind: BlobKind,
    /// Length of the frame in the pack, in bytes.
    pub stored: u32,
    /// Length of the blob, in bytes.
    pub len: u32,
    /// Where the blob starts in the frame's plaintext, in bytes, below 2^24.
    pub at: u32,
    /// Position in the pack's list of origins, below [`ORIGINS_MAX`].
    pub origin: u8,
}

/// Width of a stored [`Entry`] in bytes.
pub const ENTRY_BYTES: usize = 52;

impl Entry {
    /// `id 32 | pack 3 | kind 1 | offset 4 | stored 4 | len 4 | at 3 | origin 1`, little-endian.
    pub fn to_bytes(&self) -> [u8; ENTRY_BYTES] {
        assert!(self.pack < 1 << 24 && self.at < 1 << 24, "fields of 24 bits");
        let mut out = [0; ENTRY_BYTES];
        out[..32].copy_from_slice(self.id.as_bytes());
        out[32..36].copy_from_slice(&(self.pack | (self.kind as u32) << 24).to_le_bytes());
        out[36..40].copy_from_slice(&self.offset.to_le_bytes());
        out[40..44].copy_from_slice(&self.stored.to_le_bytes());
        out[44..48].copy_from_slice(&self.len.to_le_bytes());
        out[48..52].copy_from_slice(&(self.at | u32::from(self.origin) << 24).to_le_bytes());
        out
    }

    /// The reverse; refuses unknown kinds, origins out of range and lengths over [`RAW_BYTES_MAX`].
    pub fn from_bytes(bytes: &[u8; ENTRY_BYTES]) -> Result<Self> {
        let mut r = Reader::new("index entry", bytes);
        let id = r.blob()?;
        let pack_kind = r.u32()?;
        let (offset, stored, len) = (r.u32()?, r.u32()?, r.u32()?);
        let at_origin = r.u32()?;
        let Some(kind) = BlobKind::from_u8((pack_kind >> 24) as u8) else {
            return r.fail("unknown kind of blob");
        };
        let (at, origin) = (at_origin & 0xff_ffff, (at_origin >> 24) as u8);
        if usize::from(origin) >= ORIGINS_MAX {
            return r.fail("origin out of range");
        }
        if len > RAW_BYTES_MAX || u64::from(at) + u64::from(len) > u64::from(RAW_BYTES_MAX) {
            return r.fail("blob longer than a frame may be");
        }
        if stored > RAW_BYTES_MAX + 65_536 || offset.checked_add(stored).is_none() {
            return r.fail("frame longer than a frame may be");
        }
        Ok(Self { id, pack: pack_kind & 0xff_ffff, offset, kind, stored, len, at, origin })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back() {
        let entry = Entry {
            id: BlobId::from_bytes([7; 32]),
            pack: 0xff_fffe,
            offset: 123,
            kind: BlobKind::Map,
            stored: 456,
            len: 789,
            at: 0xf0_0000,
            origin: 63,
        };
        assert_eq!(Entry::from_bytes(&entry.to_bytes()), Ok(entry));
    }

    #[test]
    fn entries_out_of_range_are_refused() {
        let entry = Entry {
            id: BlobId::from_bytes([7; 32]),
            pack: 1,
            offset: 1,
            kind: BlobKind::Data,
            stored: 1,
            len: 1,
            at: 0,
            origin: 0,
        };
        let good = entry.to_bytes();
        for (at, value) in [(35, 9u8), (51, 64), (47, 0xff), (43, 0xff)] {
            let mut bad = good;
            bad[at] = value;
            assert!(Entry::from_bytes(&bad).is_err(), "byte {at}");
        }
    }
}
