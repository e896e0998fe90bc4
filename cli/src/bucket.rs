//! What a bucket says of versioning and Object Lock, for people and for JSON.

use anyhow::Result;
use copal_engine::store::retention::{ObjectLock, Promises, promises};
use copal_engine::store::{Store, StoreError};
use serde_json::{Value, json};

use crate::open::Context;

/// What it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    /// The store is a directory.
    NoBucket,
    /// These credentials may not ask, or the server does not answer.
    Nothing,
    /// This, as read back from it.
    Promises(Promises),
}

/// Asks the store.
pub(crate) fn ask(context: &Context, store: &dyn Store) -> Result<Told> {
    match context.bridge()?.wait(promises(store)) {
        Ok(None) => Ok(Told::NoBucket),
        Ok(Some(told)) => Ok(Told::Promises(told)),
        Err(e @ (StoreError::Denied { .. } | StoreError::Failed { .. })) => {
            tracing::debug!("{}", crate::errors::text(&e.into()));
            Ok(Told::Nothing)
        }
        Err(e) => Err(e.into()),
    }
}

impl Told {
    /// For people; `None`: there is no bucket to speak of.
    pub(crate) fn text(&self) -> Option<String> {
        match self {
            Self::NoBucket => None,
            Self::Nothing => {
                Some("whether the bucket keeps versions or locks objects these credentials may not ask".into())
            }
            Self::Promises(told) => Some(format!("the bucket says: {told}")),
        }
    }

    /// `null` for a directory, and where nothing was told.
    pub(crate) fn to_json(&self) -> Value {
        match self {
            Self::NoBucket | Self::Nothing => Value::Null,
            Self::Promises(told) => to_json(told),
        }
    }
}

/// `{"versioning", "object_lock"}`.
pub(crate) fn to_json(told: &Promises) -> Value {
    let lock = told.lock.map(|ObjectLock { default }| {
        json!({"default_mode": default.map(|(mode, _)| mode.to_string()), "default_days": default.map(|(_, days)| days)})
    });
    json!({"versioning": told.versioning.to_string(), "object_lock": lock})
}
