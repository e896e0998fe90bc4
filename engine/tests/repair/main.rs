//! `repair` puts right what is damaged, says what is lost, and loses nothing that could still be read.

#![allow(unreachable_pub)] // a test binary has no outside

#[allow(dead_code)] // what tests of `check` use beside this
#[path = "../check/bench.rs"]
mod bench;

mod bytes;
mod crashes;
mod index;
mod packs;
mod snapshots;

use std::collections::BTreeMap;
use std::sync::Arc;

use bench::Bench;
use copal_engine::Error;
use copal_engine::crypto::rng::SystemRng;
use copal_engine::format::blob::BlobKind;
use copal_engine::format::node::NodeKind;
use copal_engine::id::{BlobId, SnapshotId};
use copal_engine::ops::repair;
use copal_engine::progress::{Cancel, Collect, Problem, Silent};
use copal_engine::repo::Reader;
use copal_engine::store::Key;

/// Each file of each snapshot, and its bytes if they can be read.
type Files = BTreeMap<(SnapshotId, Vec<u8>), Option<Vec<u8>>>;

fn files(bench: &Bench) -> Result<Files, Error> {
    let repo = bench.open(&bench.owner, bench.store.clone())?;
    let view = repo.view()?;
    let reader = Reader::new(Arc::clone(&repo), Arc::clone(&view.index), 8 << 20);
    let mut files = Files::new();
    for s in &view.snapshots {
        if let Some(root) = s.graph.root {
            add_files(&reader, s.id(), &root, b"", &mut files);
        }
    }
    Ok(files)
}

fn add_files(reader: &Reader, snapshot: SnapshotId, tree: &BlobId, path: &[u8], files: &mut Files) {
    for node in reader.entries(tree).unwrap_or_default() {
        let path = [path, b"/", &node.name[..]].concat();
        match &node.metadata.kind {
            NodeKind::Dir => add_files(reader, snapshot, &node.tree().unwrap(), &path, files),
            NodeKind::File { .. } => {
                let mut bytes = Vec::new();
                let read = reader.each_piece(&node, &mut |piece| {
                    match piece.data {
                        Some(id) => bytes.extend_from_slice(&reader.blob(&id, BlobKind::Data)?),
                        None => bytes.resize(bytes.len() + piece.len as usize, 0),
                    }
                    Ok(())
                });
                files.insert((snapshot, path), read.ok().map(|()| bytes));
            }
            _ => {}
        }
    }
}

/// Whatever could be read before can still be read, and is the same.
fn assert_none_lost(before: &Files, after: &Files) {
    for (place, bytes) in before.iter().filter(|(_, bytes)| bytes.is_some()) {
        assert!(after.get(place) == Some(bytes), "{} of {}", String::from_utf8_lossy(&place.1), place.0.short());
    }
}

/// What an object becomes; `None`: it is gone.
type Damage = Box<dyn Fn(&[u8]) -> Option<Vec<u8>>>;

/// Changes that damage an object in one of the ways that stores do; the last stands for another object in its place.
fn damages(other: Vec<u8>) -> Vec<(&'static str, Damage)> {
    let flipped = |at: fn(usize) -> usize| {
        move |old: &[u8]| {
            let mut new = old.to_vec();
            new[at(old.len())] ^= 4;
            Some(new)
        }
    };
    vec![
        ("deleted", Box::new(|_: &[u8]| None)),
        ("cut", Box::new(|old: &[u8]| Some(old[..old.len() / 2].to_vec()))),
        ("emptied", Box::new(|_: &[u8]| Some(Vec::new()))),
        ("flipped at its start", Box::new(flipped(|_| 20))),
        ("flipped in the middle", Box::new(flipped(|len| len / 2))),
        ("flipped at its end", Box::new(flipped(|len| len - 100))),
        ("swapped", Box::new(move |_: &[u8]| Some(other.clone()))),
    ]
}

fn repair_index(bench: &Bench, options: &repair::index::Options) -> Result<repair::index::Report, Error> {
    let repo = bench.open(&bench.owner, bench.store.clone())?;
    repair::index::repair(&repo, &bench.who, &mut SystemRng, options, (&Silent, &Cancel::default()))
}

fn repair_packs(bench: &Bench, options: &repair::packs::Options) -> Result<repair::packs::Report, Error> {
    let repo = bench.open(&bench.owner, bench.store.clone())?;
    repair::packs::repair(&repo, &bench.who, &mut SystemRng, options, (&Silent, &Cancel::default()))
}

/// Of all snapshots: which were changed into which, and what was told.
type Changed = (Vec<(SnapshotId, Option<SnapshotId>)>, Vec<Problem>);

fn repair_snapshots(bench: &Bench, options: &repair::snapshots::Options) -> Result<Changed, Error> {
    let repo = bench.open(&bench.owner, bench.store.clone())?;
    let snapshots = repo.committed()?.snapshots;
    let chosen: Vec<_> = snapshots.iter().filter(|s| s.graph.root.is_some()).collect();
    let (problems, mut changed) = (Collect::default(), Vec::new());
    let watched = (&problems as &dyn copal_engine::progress::Progress, &Cancel::default());
    repair::snapshots::repair(&repo, &bench.who, Box::new(SystemRng), &chosen, options, watched, &mut |edited| {
        changed.push((edited.old, edited.new));
    })?;
    Ok((changed, problems.0.into_inner().unwrap()))
}

/// Keys and bytes of everything but pins: every session leaves one.
fn objects(bench: &Bench) -> BTreeMap<Key, ::bytes::Bytes> {
    bench.objects().into_iter().filter(|(key, _)| !key.as_str().starts_with("pin/")).collect()
}
