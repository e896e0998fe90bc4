//! What to do next: values in, a decision out. No client, no clock, no I/O.

pub mod wanted;
