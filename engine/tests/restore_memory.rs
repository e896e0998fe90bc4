//! Peak heap of a restore stays below the cap that the repository was opened with.
//!
//! In a program of its own, because it counts every allocation of the process.
#![allow(missing_docs)]

#[path = "common/heap.rs"]
mod heap;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use copal_engine::chunker::Params;
use copal_engine::crypto::rng::{Rng, SeededRng, SystemRng};
use copal_engine::ops::backup::{self, Parent, backup};
use copal_engine::ops::restore::{Options, restore};
use copal_engine::progress::{Cancel, Collect};
use copal_engine::repo::{self, Bridge, Locked, Opener, Reader};
use copal_engine::store::Store;
use copal_engine::store::local::Local;

use heap::{NOW, PEAK};

const MEMORY: u64 = 32 << 20;
const CACHE: usize = 4 << 20;

#[test]
fn peak_heap_is_below_the_cap() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    make_source(&source);
    fs::create_dir(dir.path().join("store")).unwrap();
    let store: Arc<dyn Store> = Arc::new(Local::open(&dir.path().join("store")).unwrap());
    let mut options = repo::Options::new(dir.path().join("local"));
    let bridge = Bridge::start().unwrap();
    // Chunks of 1 MiB at most.
    let params = Params::new(64 << 10, 256 << 10, 1 << 20, 1).unwrap();
    let (mut made, _) =
        repo::init(store.clone(), bridge.clone(), params, options.clone(), &mut SeededRng::new("init")).unwrap();
    let who = made.identity(&mut SystemRng).unwrap();
    let made = Arc::new(made);
    let problems = Collect::default();
    backup(&made, &who, Box::new(SystemRng), &backup_options(&source), &problems, &Cancel::default()).unwrap();

    (options.memory, options.threads) = (MEMORY, 2);
    let opener = Opener::Bundle(Box::new(made.bundle().clone()));
    drop(made);
    let opened = Arc::new(Locked::find(store, bridge).unwrap().unlock(opener, options).unwrap());
    let view = opened.view().unwrap();
    let reader = Reader::new(opened, view.index.clone(), CACHE);
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let (target, options) = (dir.path().join("target"), Options { verify: true, ..Options::default() });
    let latest = view.snapshots.last().unwrap();
    let summary = restore(&reader, latest, b"source", &target, &options, &problems, &Cancel::default()).unwrap();
    let peak = PEAK.load(Ordering::Relaxed) - before;
    assert_eq!((summary.problems, summary.files_restored), (0, 8_021));
    // It is well above nothing, else this would count the wrong thing.
    assert!(peak as u64 > MEMORY / 8 && (peak as u64) < MEMORY, "{peak} bytes of heap, the cap is {MEMORY}");
}

/// A large file, and small ones whose plan alone is larger than its share.
fn make_source(root: &std::path::Path) {
    for dir in 0..20 {
        let dir = root.join(format!("a directory of small files, {dir}"));
        fs::create_dir_all(&dir).unwrap();
        for n in 0..400 {
            fs::write(dir.join(format!("a small file with quite a long name, {n}")), format!("{n} in {dir:?}"))
                .unwrap();
        }
    }
    let mut bytes = vec![0; 96 << 20];
    SeededRng::new("large").fill(&mut bytes);
    fs::write(root.join("large"), bytes).unwrap();
}

fn backup_options(source: &std::path::Path) -> backup::Options {
    backup::Options {
        as_path: Some("/source".into()),
        host: b"host".to_vec(),
        user: (b"user".to_vec(), 0, 0),
        parent: Parent::None,
        level: 1,
        program: b"test".to_vec(),
        ..backup::Options::new(vec![source.to_owned()])
    }
}
