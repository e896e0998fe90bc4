//! What a bucket keeps against whoever may delete: old versions, and Object Lock.
//!
//! With versioning a delete or an overwrite only marks; the version before stays. With Object Lock a version cannot be
//! removed before its retention ends, whatever the credentials allow (compliance), or unless they may bypass it
//! (governance). Stores without either have no [`Keeper`].
//!
//! Nothing here is believed because it was asked for: what a bucket promises, and until when it keeps an object, is read
//! back from it.

use std::fmt;

use async_trait::async_trait;

use super::{Key, Result, Store, StoreError};

/// Pages of versions that are counted at most; each has up to a thousand.
const HELD_PAGES_MAX: usize = 1000;

/// Whether a bucket keeps what is deleted or put over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Versioning {
    /// No.
    Off,
    /// What was kept stays, nothing more is kept.
    Suspended,
    /// Yes.
    On,
}

impl fmt::Display for Versioning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Suspended => "suspended",
            Self::On => "on",
        })
    }
}

/// Who may shorten a retention; the later one is the stronger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Who has the right to bypass it.
    Governance,
    /// Nobody, not even the owner of the account.
    Compliance,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Governance => "governance",
            Self::Compliance => "compliance",
        })
    }
}

/// Until when a version of an object cannot be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Who could shorten it.
    pub mode: Mode,
    /// Seconds since 1970.
    pub until: u64,
}

/// Object Lock of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectLock {
    /// What new objects get by themselves: mode, and days (a year counts 365).
    pub default: Option<(Mode, u64)>,
}

/// What a bucket says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promises {
    /// Whether it keeps old versions.
    pub versioning: Versioning,
    /// `None`: no retention can be set.
    pub lock: Option<ObjectLock>,
}

impl fmt::Display for Promises {
    /// `versioning on, Object Lock on, default retention 30 days (governance)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "versioning {}, Object Lock ", self.versioning)?;
        match self.lock {
            None => f.write_str("off"),
            Some(ObjectLock { default: None }) => f.write_str("on, no default retention"),
            Some(ObjectLock { default: Some((mode, days)) }) => {
                write!(f, "on, default retention {days} day{} ({mode})", if days == 1 { "" } else { "s" })
            }
        }
    }
}

/// Versions below the store's prefix that no name shows any more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// How many.
    pub versions: u64,
    /// Their sizes together, in bytes.
    pub bytes: u64,
    /// Delete markers, which have no size.
    pub markers: u64,
    /// Whether more lie behind those that were counted.
    pub more: bool,
}

/// Where a list of versions goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldAfter {
    /// The full key in the bucket.
    pub key: String,
    /// The server's name of a version of it.
    pub version: Option<String>,
}

/// A part of that list.
#[derive(Debug, Clone, Default)]
pub struct HeldPage {
    /// What it adds; `more` is not used.
    pub held: Held,
    /// Where the next one begins, if one follows.
    pub next: Option<HeldAfter>,
}

/// A store that can keep versions and lock them: a bucket.
#[async_trait]
pub trait Keeper: Send + Sync {
    /// What the keys of the store begin with in the bucket, as a rule of the bucket names them; empty = the whole bucket.
    fn root(&self) -> String;

    /// What the bucket promises now.
    async fn promises(&self) -> Result<Promises>;

    /// Sets until when the newest version of `key` stays. Never shortens: no right to bypass is ever claimed.
    async fn retain(&self, key: &Key, retention: Retention) -> Result<()>;

    /// Until when the newest version of `key` stays; `None`: it was never said.
    async fn retention(&self, key: &Key) -> Result<Option<Retention>>;

    /// Counts old versions, a page at a time.
    async fn held_page(&self, after: Option<&HeldAfter>) -> Result<HeldPage>;
}

/// What the bucket promises; `None`: the store is none.
pub async fn promises(store: &dyn Store) -> Result<Option<Promises>> {
    match store.keeper() {
        Some(keeper) => keeper.promises().await.map(Some),
        None => Ok(None),
    }
}

/// Counts all old versions, up to a million.
pub async fn held(keeper: &dyn Keeper) -> Result<Held> {
    let (mut sum, mut after) = (Held::default(), None);
    for _ in 0..HELD_PAGES_MAX {
        let page = keeper.held_page(after.as_ref()).await?;
        sum.versions += page.held.versions;
        sum.bytes = sum.bytes.saturating_add(page.held.bytes);
        sum.markers += page.held.markers;
        match page.next {
            None => return Ok(sum),
            next if next == after => {
                let (what, how) = ("list versions".into(), "the next page begins where this one did".into());
                return Err(StoreError::Wrong { what, how });
            }
            next => after = next,
        }
    }
    Ok(Held { more: true, ..sum })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn promises_are_told() {
        let of = |versioning, lock| Promises { versioning, lock }.to_string();
        assert_eq!(of(Versioning::Off, None), "versioning off, Object Lock off");
        let lock = |default| Some(ObjectLock { default });
        assert_eq!(of(Versioning::On, lock(None)), "versioning on, Object Lock on, no default retention");
        let text = of(Versioning::On, lock(Some((Mode::Compliance, 1))));
        assert_eq!(text, "versioning on, Object Lock on, default retention 1 day (compliance)");
    }

    /// Says always the same, or goes on for ever.
    struct Pages {
        asked: Mutex<usize>,
        stuck: bool,
    }

    #[async_trait]
    impl Keeper for Pages {
        fn root(&self) -> String {
            String::new()
        }

        async fn promises(&self) -> Result<Promises> {
            unreachable!("only pages are asked for")
        }

        async fn retain(&self, _: &Key, _: Retention) -> Result<()> {
            unreachable!("only pages are asked for")
        }

        async fn retention(&self, _: &Key) -> Result<Option<Retention>> {
            unreachable!("only pages are asked for")
        }

        async fn held_page(&self, _: Option<&HeldAfter>) -> Result<HeldPage> {
            let mut asked = self.asked.lock().unwrap();
            *asked += 1;
            let key = if self.stuck { "a".into() } else { format!("{asked:09}") };
            let held = Held { versions: 1, bytes: 2, ..Held::default() };
            Ok(HeldPage { held, next: Some(HeldAfter { key, version: None }) })
        }
    }

    #[tokio::test]
    async fn endless_lists_of_versions_end() {
        let asked = Mutex::default();
        let endless = held(&Pages { asked, stuck: false }).await.unwrap();
        assert_eq!((endless.versions, endless.bytes, endless.more), (1000, 2000, true));
        let asked = Mutex::default();
        assert!(matches!(held(&Pages { asked, stuck: true }).await, Err(StoreError::Wrong { .. })));
    }
}
