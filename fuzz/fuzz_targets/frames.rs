//! See `src/frames.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| copal_fuzz::frames::run(bytes));
