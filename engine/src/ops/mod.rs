//! The walks: one verb each, each reads from top to bottom in its own file.

pub mod backup;
pub mod check;
pub mod diff;
pub mod find;
pub mod restore;
pub mod stats;
pub mod vfs;
