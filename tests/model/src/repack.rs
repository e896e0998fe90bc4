//! Repacking: a session of the maintainer, before its condemn, that copies what is alive in packs which shall go.
//!
//! # Expected flow
//! pin; read the condemned packs and put a new one with copies; a segment; a commit without a tree. Whatever goes wrong
//! leaves P4 to keep the last copies.

use crate::config::{CHILD, Config, TREE, bit, has, repack_session, repacked};
use crate::executor::Executor;
use crate::executor::Phase::{self, *};
use crate::mutants::Mutant;
use crate::state::Store;

/// Whether executor `e` has not repacked yet: it does so once in a run of the model.
pub fn possible(store: &Store, e: usize) -> bool {
    store.blobs[repacked(e)] == 0 && !has(store.pins, repack_session(e))
}

/// Does the operation of the present phase and returns the next one.
pub fn next(config: &Config, store: &mut Store, executor: &Executor, e: usize) -> Phase {
    let session = repack_session(e);
    match executor.phase {
        PinRepack => {
            if !config.lacks(Mutant::RepackPin) {
                store.pins |= bit(session);
            }
            PutPack
        }
        PutPack => {
            let copied = store.blobs_of(executor.packs & store.packs) & (CHILD | TREE);
            if copied == 0 {
                return CreateCondemn;
            }
            store.blobs[repacked(e)] = copied;
            store.packs |= bit(repacked(e));
            PutRepackSegment
        }
        PutRepackSegment => {
            store.segments |= bit(session);
            store.lists[session] = bit(repacked(e));
            CommitRepack
        }
        _ => {
            if !has(store.tombstones, session) {
                store.snapshots |= bit(session);
            }
            CreateCondemn
        }
    }
}
