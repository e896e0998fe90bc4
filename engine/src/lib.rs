//! The engine of Copal: a content-addressed, deduplicating, encrypting backup repository.
//!
//! ARCHITECTURE.md has the map; layers are `id chunker compress crypto` < `format` < `store` < `repo`, beside it `source`,
//! `target` and `progress`, and above them `ops`.
#![deny(unsafe_code)]

pub mod format;
pub mod id;
pub mod progress;
pub mod repo;
pub mod store;
