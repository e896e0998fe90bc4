//! An explicit-state model of the protocol by which backups, folds, forgets and prunes share a repository without
//! locks: docs/protocol.md.
//!
//! **What is modelled.** One snapshot's content: a tree and its child, two blobs. Every session wants to store just
//! these, so every pack can serve, and harm, everybody. Each operation on the store is one atomic step; all
//! interleavings of all processes are explored. A process that crashed is one that is never scheduled again; a crash
//! that matters beyond that (a next session, a put still under way) is a step of its own.
//!
//! - [`config`]: who takes part and which faults the store has; numbering of sessions, packs, segments
//! - [`state`]: what stands in the store; what a reader makes of it
//! - [`writer`]: W1 to W6, views, adoption
//! - [`fold`]: the base chain and the maintainer that folds
//! - [`executor`]: P1 to P3, by one or two processes, and what one takes on that another has begun
//! - [`fence`]: how sessions are ended where create-only puts are ignored
//! - [`repack`]: the maintainer's session that copies what is alive in condemned packs
//! - [`mark`]: P4 and P5
//! - [`tidy`]: P6 to P8
//! - [`properties`]: what must hold in every state, and what must be possible
//! - [`mutants`]: every rule with its text; the model without it must fail
//! - [`run`]: the named configurations and how one is checked
//!
//! **Assumptions.** The store reads its own writes, LISTs completely (but for the short LISTs of a configuration) and
//! creates atomically. Reading all segments of a view is one step: they never change, only vanish. States are told
//! apart by 64-bit fingerprints: at 10^8 states the chance that any two collide is under 10^-3.
//!
//! **Absent.** Verdicts, parts, revocation; names, keys and
//! sizes; clocks.

#![forbid(unsafe_code)]

pub mod config;
pub mod executor;
pub mod fence;
pub mod fold;
pub mod mark;
pub mod mutants;
pub mod parts;
pub mod properties;
pub mod repack;
pub mod run;
pub mod state;
pub mod tidy;
pub mod writer;
