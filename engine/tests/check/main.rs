//! `check` finds what is damaged, exactly that, and whom it hurts.

mod bench;
mod forge;
mod graph;
mod packs;
mod runs;
mod stored;
