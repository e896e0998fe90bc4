//! Names of stored objects (docs/format.md "Objects"). All numbers are 16 hex digits, so that a LIST is in their order.

use crate::id::{ObjectHash, PackId, SegmentId, SessionId, SlotId, WriterId, hex, parse_number};

/// `cfg/<epoch>`.
pub fn config(epoch: u64) -> String {
    format!("cfg/{epoch:016x}")
}

/// `base/<n>`.
pub fn base(n: u64) -> String {
    format!("base/{n:016x}")
}

/// `key/<slot>`.
pub fn slot(id: SlotId) -> String {
    format!("key/{id}")
}

/// `pin/<writer>/<session>`.
pub fn pin(writer: WriterId, session: SessionId) -> String {
    format!("pin/{writer}/{session}")
}

/// `snap/<writer>/<session>`.
pub fn snapshot(writer: WriterId, session: SessionId) -> String {
    format!("snap/{writer}/{session}")
}

/// `pack/<writer>/<session>/<seq>-`: a pack's key without its hash.
pub fn pack_place(writer: WriterId, session: SessionId, seq: u64) -> String {
    format!("pack/{writer}/{session}/{seq:016x}-")
}

/// `pack/<writer>/<session>/<seq>-<hash>`.
pub fn pack(writer: WriterId, session: SessionId, seq: u64, id: PackId) -> String {
    format!("{}{id}", pack_place(writer, session, seq))
}

/// `idx/<writer>/<session>/<n>-`: a segment's key without its hash.
pub fn segment_place(writer: WriterId, session: SessionId, n: u64) -> String {
    format!("idx/{writer}/{session}/{n:016x}-")
}

/// `idx/<writer>/<session>/<n>-<hash>`.
pub fn segment(writer: WriterId, session: SessionId, n: u64, id: SegmentId) -> String {
    format!("{}{id}", segment_place(writer, session, n))
}

/// `check/<n>`.
pub fn verdict(n: u64) -> String {
    format!("check/{n:016x}")
}

/// `pin/<writer>/<session>.<generation>`.
pub fn ack(writer: WriterId, session: SessionId, generation: u64) -> String {
    format!("{}.{generation:016x}", pin(writer, session))
}

/// `gc/<generation>`.
pub fn condemn(generation: u64) -> String {
    format!("gc/{generation:016x}")
}

/// `gc/<generation>.fence`.
pub fn fence(generation: u64) -> String {
    format!("gc/{generation:016x}.fence")
}

/// `gc/<generation>.sweep`.
pub fn sweep(generation: u64) -> String {
    format!("gc/{generation:016x}.sweep")
}

/// `forget/<n>`.
pub fn forget(n: u64) -> String {
    format!("forget/{n:016x}")
}

/// `lost/<old key>`: where a repair puts a copy of what it found damaged.
pub fn lost(old: &str) -> String {
    format!("lost/{old}")
}

/// A key taken apart; what is none of ours is `None` in [`parse`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// `cfg/…`
    Config(u64),
    /// `base/…`
    Base(u64),
    /// `check/…`
    Verdict(u64),
    /// `key/…`
    Slot(SlotId),
    /// `pin/…`
    Pin(WriterId, SessionId),
    /// `snap/…`
    Snapshot(WriterId, SessionId),
    /// `pack/…`
    Pack(WriterId, SessionId, u64, PackId),
    /// `idx/…`
    Segment(WriterId, SessionId, u64, SegmentId),
    /// `pin/….<generation>`
    Ack(WriterId, SessionId, u64),
    /// `gc/<generation>`
    Condemn(u64),
    /// `gc/<generation>.fence`
    Fence(u64),
    /// `gc/<generation>.sweep`
    Sweep(u64),
    /// `forget/…`
    Forget(u64),
}

/// Takes a key apart.
pub fn parse(key: &str) -> Option<Parsed> {
    let parts: Vec<&str> = key.split('/').collect();
    let numbered = |text: &str| -> Option<(u64, [u8; 32])> {
        let (n, id) = text.split_once('-')?;
        Some((parse_number(n).ok()?, *id.parse::<ObjectHash>().ok()?.as_bytes()))
    };
    Some(match parts[..] {
        ["cfg", n] => Parsed::Config(parse_number(n).ok()?),
        ["base", n] => Parsed::Base(parse_number(n).ok()?),
        ["check", n] => Parsed::Verdict(parse_number(n).ok()?),
        ["key", id] => Parsed::Slot(id.parse().ok()?),
        ["pin", w, s] => match s.split_once('.') {
            None => Parsed::Pin(w.parse().ok()?, s.parse().ok()?),
            Some((s, generation)) => Parsed::Ack(w.parse().ok()?, s.parse().ok()?, parse_number(generation).ok()?),
        },
        ["gc", name] => match name.split_once('.') {
            None => Parsed::Condemn(parse_number(name).ok()?),
            Some((generation, "fence")) => Parsed::Fence(parse_number(generation).ok()?),
            Some((generation, "sweep")) => Parsed::Sweep(parse_number(generation).ok()?),
            Some(_) => return None,
        },
        ["forget", n] => Parsed::Forget(parse_number(n).ok()?),
        ["snap", w, s] => Parsed::Snapshot(w.parse().ok()?, s.parse().ok()?),
        ["pack", w, s, last] => {
            let (seq, id) = numbered(last)?;
            Parsed::Pack(w.parse().ok()?, s.parse().ok()?, seq, PackId::from_bytes(id))
        }
        ["idx", w, s, last] => {
            let (n, id) = numbered(last)?;
            Parsed::Segment(w.parse().ok()?, s.parse().ok()?, n, SegmentId::from_bytes(id))
        }
        _ => return None,
    })
}

/// A random object name for probes and set-aside objects: 32 hex digits.
pub fn random_name(random: &[u8; 16]) -> String {
    hex(random)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{KEY_BYTES_MAX, Key};

    #[test]
    fn names_come_apart_again_and_are_keys() {
        let (w, s) = (WriterId::from_bytes([0xab; 16]), SessionId { n: 3, random: u64::MAX });
        let cases = [
            (config(1), Parsed::Config(1)),
            (base(u64::MAX), Parsed::Base(u64::MAX)),
            (verdict(9), Parsed::Verdict(9)),
            (slot(SlotId::from_bytes([1; 16])), Parsed::Slot(SlotId::from_bytes([1; 16]))),
            (pin(w, s), Parsed::Pin(w, s)),
            (snapshot(w, s), Parsed::Snapshot(w, s)),
            (pack(w, s, 7, PackId::from_bytes([2; 32])), Parsed::Pack(w, s, 7, PackId::from_bytes([2; 32]))),
            (
                segment(w, s, 8, SegmentId::from_bytes([3; 32])),
                Parsed::Segment(w, s, 8, SegmentId::from_bytes([3; 32])),
            ),
            (ack(w, s, 2), Parsed::Ack(w, s, 2)),
            (condemn(4), Parsed::Condemn(4)),
            (fence(4), Parsed::Fence(4)),
            (sweep(4), Parsed::Sweep(4)),
            (forget(5), Parsed::Forget(5)),
        ];
        for (text, parsed) in cases {
            assert_eq!(parse(&text), Some(parsed));
            assert!(Key::new(text.clone()).is_ok() && text.len() < KEY_BYTES_MAX / 2);
        }
        for foreign in
            ["", "cfg/1", "pin/a/b", "pack/x", "cfg/0000000000000001/x", "probe/aa", "gc/1", "gc/0000000000000001.x"]
        {
            assert_eq!(parse(foreign), None, "{foreign}");
        }
    }
}
