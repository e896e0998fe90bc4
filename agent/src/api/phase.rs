//! Where a request or an item stands.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Velero's phases, and `Canceled`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Nobody has begun.
    #[default]
    New,
    /// What is asked for cannot be done; nothing was touched.
    FailedValidation,
    /// Somebody is at it.
    InProgress,
    /// All of it was done.
    Completed,
    /// Some of it was done; the rest is listed.
    PartiallyFailed,
    /// Nothing that could be used came of it.
    Failed,
    /// It goes, and what belongs to it.
    Deleting,
    /// It was told to stop, and has.
    Canceled,
}

impl Phase {
    /// No more will happen.
    pub fn is_over(self) -> bool {
        !matches!(self, Self::New | Self::InProgress | Self::Deleting)
    }
}
