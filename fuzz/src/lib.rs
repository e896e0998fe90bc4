//! What each fuzz target does with its bytes, apart from libFuzzer: the stable compiler runs the kept inputs through the
//! same functions (engine/tests/fuzz_seeds.rs).

pub mod frames;
pub mod keys;
pub mod lists;
pub mod names;
pub mod runs;
pub mod segments;
pub mod texts;

/// A target: any bytes in; it panics when something does not hold that must.
pub type Target = fn(&[u8]);

/// All of them, by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("frames", frames::run),
    ("keys", keys::run),
    ("lists", lists::run),
    ("names", names::run),
    ("runs", runs::run),
    ("segments", segments::run),
    ("texts", texts::run),
];
