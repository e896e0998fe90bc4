//! A repository: opening it, reading and writing blobs, and the index that says where they lie.

pub mod index;
