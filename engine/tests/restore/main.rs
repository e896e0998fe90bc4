//! From a snapshot to a directory, over a store in memory; results are compared by rsync.

mod bench;
mod choice;
mod damage;
mod limits;
mod policy;
mod trees;
