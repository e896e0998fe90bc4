//! Calls of the store and waits, as values.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use copal_engine::store::{Key, Page, Result, StoreError, Verb};

/// What an actor waits for.
#[derive(Debug, Clone)]
pub enum Ask {
    PutNew(Key, Bytes),
    Put(Key, Bytes),
    Get(Key, u64),
    GetRange(Key, Range<u64>),
    Head(Key),
    List(String, Option<Key>),
    Delete(Key),
    /// Until then, at least.
    Wait(Duration),
}

#[derive(Debug)]
pub enum Answer {
    Done,
    Bytes(Bytes),
    Size(u64),
    Page(Page),
}

pub type Answered = Result<Answer>;

impl Ask {
    pub fn key(&self) -> &str {
        match self {
            Self::PutNew(key, _) | Self::Put(key, _) | Self::Get(key, _) => key.as_str(),
            Self::GetRange(key, _) | Self::Head(key) | Self::Delete(key) => key.as_str(),
            Self::List(prefix, _) => prefix,
            Self::Wait(_) => "",
        }
    }

    pub fn verb(&self) -> Option<Verb> {
        Some(match self {
            Self::PutNew(..) => Verb::PutNew,
            Self::Put(..) => Verb::Put,
            Self::Get(..) => Verb::Get,
            Self::GetRange(..) => Verb::GetRange,
            Self::Head(_) => Verb::Head,
            Self::List(..) => Verb::List,
            Self::Delete(_) => Verb::Delete,
            Self::Wait(_) => return None,
        })
    }

    pub fn is_write(&self) -> bool {
        matches!(self, Self::PutNew(..) | Self::Put(..) | Self::Delete(_))
    }

    pub fn what(&self) -> String {
        format!("{} {}", self.verb().map_or("wait".into(), |v| v.to_string()), self.key())
    }

    pub fn fails_for_now(&self) -> StoreError {
        StoreError::Transient { what: self.what(), source: "simulated".into() }
    }

    pub fn dies(&self) -> StoreError {
        StoreError::Failed { what: self.what(), source: "the process died".into() }
    }
}
