//! Where objects live: one small trait, its implementations and wrappers.
//!
//! A store keeps opaque bytes under validated keys. It knows nothing of packs, snapshots or encryption, and decides
//! nothing: what must be written in which order is `repo`'s business.
//!
//! **Needs.** After `put` or `put_new` returns, every later `get`, `get_range`, `head` and `list` (from anybody) sees the
//! object whole. `put_new` is atomic: of any number of racing creators of a key exactly one succeeds. Whether a real
//! bucket holds to this is found out by [`probe`], never believed.

pub mod cache;
pub mod fault;
pub mod grace;
pub mod limit;
pub mod local;
pub mod memory;
pub mod probe;
pub mod record;
pub mod retention;
pub mod retry;
pub mod s3;
pub mod url;

use std::borrow::Borrow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use self::retention::Keeper;

/// Longest key in bytes; a part (between slashes) is under [`PART_BYTES_MAX`].
pub const KEY_BYTES_MAX: usize = 499;
/// Longest part of a key in bytes.
pub const PART_BYTES_MAX: usize = 199;

/// Name of an object: `[a-z0-9./-]`, parts joined by `/`, none of them empty, `.` or `..`.
///
/// Restricted so that every key is also a safe relative path and needs no escaping in any S3 dialect.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

/// Text that is not a [`Key`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a valid object key")]
pub struct BadKey(pub String);

impl Key {
    /// Checks `text` and takes it as a key.
    pub fn new(text: impl Into<String>) -> Result<Self, BadKey> {
        let text = text.into();
        let char_ok = |c: u8| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'/');
        let part_ok = |p: &str| !p.is_empty() && p != "." && p != ".." && p.len() <= PART_BYTES_MAX;
        if text.len() <= KEY_BYTES_MAX && text.bytes().all(char_ok) && text.split('/').all(part_ok) {
            Ok(Self(text.into()))
        } else {
            Err(BadKey(text))
        }
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part behind the last slash.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().expect("split yields at least one part")
    }
}

/// Keys order and hash as their text, so a map of keys can be searched by any text.
impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.0)
    }
}

/// One object as a LIST tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: Key,
    /// Its size in bytes.
    pub size: u64,
}

/// A part of a LIST.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// In rising order of keys.
    pub objects: Vec<Listed>,
    /// Whether more keys may follow the last one.
    pub more: bool,
}

/// What went wrong, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No object has this key.
    #[error("{key} is not in the store")]
    NotFound {
        /// The key asked for.
        key: Key,
    },
    /// A create-only put found the key taken.
    #[error("{key} exists already")]
    Exists {
        /// The key.
        key: Key,
    },
    /// May succeed when tried again: time-outs, 5xx, 429, connection resets.
    #[error("{what} did not succeed for now")]
    Transient {
        /// Verb and object, e.g. `put pack/…`.
        what: String,
        /// The cause.
        #[source]
        source: BoxError,
    },
    /// Credentials or permissions do not allow it.
    #[error("{what} was denied")]
    Denied {
        /// Verb and object.
        what: String,
        /// The cause.
        #[source]
        source: BoxError,
    },
    /// No room: full disk, quota, full bucket.
    #[error(
        "{what}: no space left in the store; make room or raise its quota, then try again: what is stored so far is used"
    )]
    Full {
        /// Verb and object.
        what: String,
        /// The cause.
        #[source]
        source: BoxError,
    },
    /// The store is set up wrongly for what was asked (bucket, region, certificate, clock); `hint` says what to do next.
    #[error("{what}: {hint}")]
    Setup {
        /// Verb and object.
        what: String,
        /// What to change.
        hint: String,
        /// The cause.
        #[source]
        source: BoxError,
    },
    /// The store answered with other bytes than asked for: short, long, or with a wrong length.
    #[error("{what}: the store answered wrongly: {how}")]
    Wrong {
        /// Verb and object.
        what: String,
        /// What was wrong.
        how: String,
    },
    /// Anything else; trying again is useless.
    #[error("{what} failed")]
    Failed {
        /// Verb and object.
        what: String,
        /// The cause.
        #[source]
        source: BoxError,
    },
}

impl StoreError {
    /// Whether the same call may succeed later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Transient { .. })
    }

    /// Whether the object is simply not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether a create-only put found the key taken.
    pub fn is_exists(&self) -> bool {
        matches!(self, Self::Exists { .. })
    }
}

/// Cause of a [`StoreError`].
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Result of a store verb.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// A verb of [`Store`], for logs and faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// [`Store::put_new`].
    PutNew,
    /// [`Store::put`].
    Put,
    /// [`Store::get`].
    Get,
    /// [`Store::get_range`].
    GetRange,
    /// [`Store::head`].
    Head,
    /// [`Store::list`]; one page is one call.
    List,
    /// [`Store::delete`].
    Delete,
    /// [`Keeper::promises`].
    Promises,
    /// [`Keeper::retain`].
    Retain,
    /// [`Keeper::retention`].
    Retention,
    /// [`Keeper::held_page`].
    Versions,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PutNew | Self::Put => "put",
            Self::Get | Self::GetRange => "get",
            Self::Head => "head",
            Self::List => "list",
            Self::Delete => "delete",
            Self::Promises => "ask for versioning and Object Lock of",
            Self::Retain => "set retention of",
            Self::Retention => "get retention of",
            Self::Versions => "list versions in",
        })
    }
}

/// The verbs. Implementations are shared by reference and safe to call from many tasks at once.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// Where this is, for messages; never holds a credential.
    fn location(&self) -> String;

    /// Whether this is a directory on a network or FUSE file system, where a LIST may miss what others just wrote.
    fn list_may_lag(&self) -> bool {
        false
    }

    /// For stores that keep versions or lock objects, as buckets may; wrappers pass it on.
    fn keeper(&self) -> Option<&dyn Keeper> {
        None
    }

    /// Creates `key`, or fails with [`StoreError::Exists`] and changes nothing.
    ///
    /// After any other error the outcome is unknown: the object may be there, now or later.
    async fn put_new(&self, key: &Key, body: Bytes) -> Result<()>;

    /// Writes `key`, whether it exists or not. For hash-named objects (whose bytes are always the same), key slots, and fences, which grow.
    async fn put(&self, key: &Key, body: Bytes) -> Result<()>;

    /// All bytes of `key`; [`StoreError::Wrong`] when there are more than `max`.
    async fn get(&self, key: &Key, max: u64) -> Result<Bytes>;

    /// Exactly `range.end - range.start` bytes of `key` from `range.start`; [`StoreError::Wrong`] when it is shorter.
    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes>;

    /// Size of `key` in bytes.
    async fn head(&self, key: &Key) -> Result<u64>;

    /// Up to some thousands of keys that start with `prefix` and are greater than `after`, in order.
    ///
    /// `prefix` is any leading text of keys, usually ending in `/`; empty = all. Keys that are not valid (foreign objects)
    /// are left out.
    async fn list(&self, prefix: &str, after: Option<&Key>) -> Result<Page>;

    /// Removes `key`; absent is success.
    async fn delete(&self, key: &Key) -> Result<()>;
}

/// All pages of a LIST.
///
/// A page that is out of order, or empty though more is said to follow, is [`StoreError::Wrong`]: going on would loop
/// for ever or lose keys.
pub async fn list_all(store: &dyn Store, prefix: &str) -> Result<Vec<Listed>> {
    let mut all: Vec<Listed> = Vec::new();
    loop {
        let page = store.list(prefix, all.last().map(|l| &l.key)).await?;
        let (before, empty) = (all.len(), page.objects.is_empty());
        all.extend(page.objects);
        let rising = all[before.saturating_sub(1)..].is_sorted_by(|a, b| a.key < b.key);
        if !rising || (empty && page.more) {
            let how = if rising { "an empty page with more to follow" } else { "keys out of order" };
            return Err(StoreError::Wrong { what: format!("list {prefix}"), how: how.into() });
        }
        if !page.more {
            return Ok(all);
        }
    }
}

/// Refuses an object of `size` bytes where the caller takes at most `max`, before anything is allocated.
fn check_size(key: &Key, size: u64, max: u64) -> Result<()> {
    if size <= max {
        return Ok(());
    }
    Err(StoreError::Wrong { what: format!("get {key}"), how: format!("{size} bytes where at most {max} are expected") })
}

/// Refuses a range that does not lie within an object of `size` bytes.
fn check_range(key: &Key, range: &Range<u64>, size: u64) -> Result<()> {
    if range.start <= range.end && range.end <= size {
        return Ok(());
    }
    let how = format!("it has {size} bytes");
    Err(StoreError::Wrong { what: format!("get {key} bytes {}..{}", range.start, range.end), how })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_safe_paths() {
        for good in ["cfg/0000000000000001", "pack/ab/1-2/3-4", "a", "lost/pack/x"] {
            assert!(Key::new(good).is_ok(), "{good}");
        }
        for bad in ["", "/a", "a/", "a//b", "..", "a/../b", "./a", "A", "a_b", "a b", "a\0", "é"] {
            assert!(Key::new(bad).is_err(), "{bad:?}");
        }
        assert!(Key::new("a".repeat(200)).is_err());
        assert!(Key::new(vec!["a".repeat(100); 5].join("/")).is_err());
    }
}
