//! Every stored object: bytes <-> values, versioned, no I/O. The normative text is docs/format.md.

pub mod blob;
pub mod codec;
pub mod node;
