//! The repository: opening it, the view of what is committed, reading blobs, and the writer's half of the protocol.
//!
//! **Expected flow**: [`Locked::find`] → [`Locked::unlock`] → [`Repository`]; [`Repository::view`] reads what is committed;
//! [`Reader`] gives blobs; [`Session`] adds a snapshot.

mod adopt;
pub mod base;
pub mod bridge;
pub mod clock;
mod condemned;
pub mod content;
pub mod directory;
mod fence;
pub mod fetch;
mod forget;
mod identity;
pub mod index;
pub mod init;
pub mod key_admin;
mod ledger;
pub mod mend;
mod merge;
mod open;
pub mod packer;
pub mod parent;
pub mod prune;
pub mod reader;
pub mod rely;
pub mod repack;
pub mod save;
pub mod session;
mod signers;
mod state;
pub mod tree;
pub mod verdict;
pub mod view;
pub mod walk;

pub use bridge::Bridge;
pub use clock::Clock;
pub use init::{init, init_keeping};
pub use open::{Locked, Opener, Options, Repository};
pub use reader::Reader;
pub use session::Session;
pub use tree::{Node, Piece};
pub use view::{Committed, Forgotten, Snapshot, View};
