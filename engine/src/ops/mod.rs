//! The walks: one verb each, each reads from top to bottom in its own file.

pub mod backup;
pub mod check;
pub mod diff;
pub mod find;
pub mod forget;
pub mod prune;
pub mod restore;
pub mod stats;
pub mod vfs;

use crate::error::Error;
use crate::progress::Cancel;

/// Why an operation failed: once it was asked to end, whatever broke off is because of that.
fn reason(cancel: &Cancel, error: Error) -> Error {
    if cancel.is_canceled() { Error::Interrupted } else { error }
}
