//! The one encoding of all stored structures: fixed little-endian integers, minimal varints, length-prefixed bytes.
//!
//! Canonical: a value has one encoding, and [`Reader`] refuses every other (docs/format.md "Encoding"). So
//! `decode(encode(x)) = x` and `encode(decode(b)) = b`, and a hash of the bytes is a hash of the value.

use crate::id::{BlobId, SessionId, WriterId};

use super::node::Timestamp;

/// Bytes that are not the canonical encoding of what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} is malformed: {how}")]
pub struct Malformed {
    /// The structure that was decoded, e.g. `segment head`.
    pub what: &'static str,
    /// What was wrong with it.
    pub how: String,
}

/// Result of decoding.
pub type Result<T, E = Malformed> = std::result::Result<T, E>;

/// Appends values to a buffer.
#[derive(Debug, Default)]
pub struct Writer {
    out: Vec<u8>,
}

impl Writer {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// The bytes written.
    pub fn finish(self) -> Vec<u8> {
        self.out
    }

    /// How many bytes were written.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Raw bytes, without a length.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.out.extend_from_slice(bytes);
        self
    }

    /// One byte.
    pub fn u8(&mut self, v: u8) -> &mut Self {
        self.raw(&[v])
    }

    /// Four bytes, little-endian.
    pub fn u32(&mut self, v: u32) -> &mut Self {
        self.raw(&v.to_le_bytes())
    }

    /// Eight bytes, little-endian.
    pub fn u64(&mut self, v: u64) -> &mut Self {
        self.raw(&v.to_le_bytes())
    }

    /// LEB128, the shortest form.
    pub fn varint(&mut self, mut v: u64) -> &mut Self {
        while v >= 0x80 {
            self.out.push(v as u8 | 0x80);
            v >>= 7;
        }
        self.out.push(v as u8);
        self
    }

    /// A signed number: zigzag, then varint.
    pub fn signed(&mut self, v: i64) -> &mut Self {
        self.varint(((v << 1) ^ (v >> 63)) as u64)
    }

    /// Varint length, then the bytes.
    pub fn bytes(&mut self, v: &[u8]) -> &mut Self {
        self.varint(v.len() as u64).raw(v)
    }

    /// 0, or 1 and the value.
    pub fn option<T>(&mut self, v: Option<T>, put: impl FnOnce(&mut Self, T)) -> &mut Self {
        match v {
            None => self.u8(0),
            Some(v) => {
                self.u8(1);
                put(self, v);
                self
            }
        }
    }

    /// Varint count, then each value.
    pub fn list<T>(&mut self, items: &[T], mut put: impl FnMut(&mut Self, &T)) -> &mut Self {
        self.varint(items.len() as u64);
        for item in items {
            put(self, item);
        }
        self
    }

    /// Seconds as a signed varint, nanoseconds as a varint.
    pub fn time(&mut self, t: Timestamp) -> &mut Self {
        self.signed(t.secs).varint(u64::from(t.nanos))
    }

    /// Number and random half, 16 bytes.
    pub fn session(&mut self, s: SessionId) -> &mut Self {
        self.u64(s.n).u64(s.random)
    }
}

/// Takes values from bytes, refusing what no [`Writer`] writes.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads `bytes` as a `what` (for error messages).
    pub fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, rest: bytes }
    }

    /// An error about this structure.
    pub fn fail<T>(&self, how: impl Into<String>) -> Result<T> {
        Err(Malformed { what: self.what, how: how.into() })
    }

    /// How many bytes are left.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// All bytes that are left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Refuses bytes behind the end.
    pub fn finish(self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { self.fail(format!("{} bytes too many", self.rest.len())) }
    }

    /// Exactly `n` raw bytes.
    pub fn raw(&mut self, n: usize) -> Result<&'a [u8]> {
        if n > self.rest.len() {
            return self.fail(format!("{n} bytes expected, {} left", self.rest.len()));
        }
        let (taken, rest) = self.rest.split_at(n);
        self.rest = rest;
        Ok(taken)
    }

    /// Exactly `N` raw bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.raw(N)?.try_into().expect("raw returns N bytes"))
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    /// Four bytes, little-endian.
    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Eight bytes, little-endian.
    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// LEB128; longer forms than needed are refused.
    pub fn varint(&mut self) -> Result<u64> {
        let mut v = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return self.fail("a number above 2^64");
            }
            v |= bits << shift;
            if byte & 0x80 == 0 {
                return if byte == 0 && shift > 0 { self.fail("a number in a longer form than needed") } else { Ok(v) };
            }
        }
        self.fail("a number above 2^64")
    }

    /// A varint of at most `max`.
    pub fn at_most(&mut self, max: u64, name: &str) -> Result<u64> {
        let v = self.varint()?;
        if v > max { self.fail(format!("{name} is {v}, at most {max} allowed")) } else { Ok(v) }
    }

    /// Zigzag varint.
    pub fn signed(&mut self) -> Result<i64> {
        let v = self.varint()?;
        Ok((v >> 1) as i64 ^ -((v & 1) as i64))
    }

    /// Length-prefixed bytes, at most `max`.
    pub fn bytes(&mut self, max: usize, name: &str) -> Result<&'a [u8]> {
        let len = self.at_most(max as u64, name)? as usize;
        self.raw(len)
    }

    /// 0, or 1 and the value.
    pub fn option<T>(&mut self, take: impl FnOnce(&mut Self) -> Result<T>) -> Result<Option<T>> {
        match self.u8()? {
            0 => Ok(None),
            1 => Ok(Some(take(self)?)),
            other => self.fail(format!("{other} where 0 or 1 must stand")),
        }
    }

    /// Count of at most `max`, then each value of at least `least` bytes (so that a count cannot ask for memory that
    /// the bytes do not back).
    pub fn list<T>(
        &mut self,
        max: usize,
        least: usize,
        name: &str,
        mut take: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        let count = self.at_most(max as u64, name)? as usize;
        if count.saturating_mul(least) > self.rest.len() {
            return self.fail(format!("{count} {name} announced, too few bytes left"));
        }
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(take(self)?);
        }
        Ok(items)
    }

    /// Seconds and nanoseconds below 10^9.
    pub fn time(&mut self) -> Result<Timestamp> {
        Ok(Timestamp { secs: self.signed()?, nanos: self.at_most(999_999_999, "nanoseconds")? as u32 })
    }

    /// A session, 16 bytes.
    pub fn session(&mut self) -> Result<SessionId> {
        Ok(SessionId { n: self.u64()?, random: self.u64()? })
    }

    /// A writer, 16 bytes.
    pub fn writer(&mut self) -> Result<WriterId> {
        Ok(WriterId::from_bytes(self.array()?))
    }

    /// A blob's id, 32 bytes.
    pub fn blob(&mut self) -> Result<BlobId> {
        Ok(BlobId::from_bytes(self.array()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_come_back(v: u64, s: i64) {
            let mut w = Writer::new();
            w.varint(v).signed(s);
            let bytes = w.finish();
            let mut r = Reader::new("test", &bytes);
            prop_assert_eq!(r.varint(), Ok(v));
            prop_assert_eq!(r.signed(), Ok(s));
            prop_assert!(r.finish().is_ok());
        }

        #[test]
        fn whatever_decodes_encodes_to_itself(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let mut r = Reader::new("test", &bytes);
            if let Ok(v) = r.varint() {
                let used = bytes.len() - r.left();
                let mut w = Writer::new();
                w.varint(v);
                prop_assert_eq!(&w.finish(), &bytes[..used]);
            }
        }
    }

    #[test]
    fn a_count_cannot_ask_for_memory() {
        let mut w = Writer::new();
        w.varint(1 << 30).raw(&[0; 64]);
        let bytes = w.finish();
        assert!(Reader::new("test", &bytes).list(1 << 31, 32, "ids", |r| r.blob()).is_err());
    }
}
