//! Every stored object: bytes <-> values, versioned, no I/O. The normative text is docs/format.md.

pub mod attestation;
pub mod base;
pub mod blob;
pub mod bundle;
pub mod calendar;
pub mod codec;
pub mod config;
pub mod gc;
pub mod keys;
pub mod meta;
pub mod node;
pub mod objects;
pub mod pack;
pub mod pin;
pub mod seal;
pub mod segment;
mod signed;
pub mod slot;
pub mod snapshot;
pub mod texts;
pub mod tree;
pub mod verdict;
