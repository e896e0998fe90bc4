//! `check` finds what is damaged, exactly that, and whom it hurts.

#![allow(unreachable_pub)] // a test binary has no outside

mod bench;
mod forge;
mod graph;
mod packs;
mod runs;
mod stored;
