//! The engine of Copal: a content-addressed, deduplicating, encrypting backup repository.
//!
//! ARCHITECTURE.md has the map; layers are `id chunker compress crypto` < `format` < `store` < `repo`, beside it `source`,
//! `target` and `progress`, and above them `ops`.
#![deny(unsafe_code)]

pub mod chunker;
pub mod compress;
pub mod crypto;
mod error;
pub mod format;
pub mod id;
pub mod ops;
pub mod progress;
pub mod repo;
pub mod source;
pub mod store;
mod sys;
pub mod target;

pub use sys::return_large_memory;

pub use error::{Error, Result};
