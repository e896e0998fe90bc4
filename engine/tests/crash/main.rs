//! The writer's half against a store that crashes, fails and lies, a source that changes, and other writers.
//!
//! What must hold throughout: every visible snapshot comes back to the byte; a backup that reports success has made one;
//! one that did not says why and leaves none.
#![allow(missing_docs, unreachable_pub)]

mod bench;
mod beside;
mod by_hand;
mod copies;
mod crashes;
mod enrolled;
mod faults;
mod forgets;
mod gives_back;
mod hooked;
mod init;
mod keys;
mod named;
mod overtaken;
mod parts;
mod prunes;
mod races;
mod rewrites;
mod shapes;
mod source;
mod tags;
