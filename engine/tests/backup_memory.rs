//! Heap that a backup takes, counted by the allocator: under the sum that ARCHITECTURE.md "Memory" gives for its options.
#![allow(missing_docs)]

#[path = "common/heap.rs"]
mod heap;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use async_trait::async_trait;
use bytes::Bytes;
use copal_engine::chunker::Params;
use copal_engine::crypto::rng::{Rng, SeededRng, SystemRng};
use copal_engine::ops::backup::{Options, backup};
use copal_engine::progress::{Cancel, Silent};
use copal_engine::repo::{self, Bridge};
use copal_engine::store::local::Local;
use copal_engine::store::{Key, Page, Store};

use heap::{NOW, PEAK};

const MEMORY: usize = 64 << 20;
const THREADS: usize = 2;
const MIB: usize = 1 << 20;

/// The rows of ARCHITECTURE.md's table that depend on options, for the default chunker.
fn formula() -> usize {
    let chunk_max = 4 * MIB;
    let packs = 3 * ((16 * MIB).min(MEMORY / 8) + chunk_max);
    let threads = THREADS * (3 * chunk_max + 8 * MIB + 2 * chunk_max);
    let shared = 2 * (16 * MIB).min(MEMORY / 16).max(2 * chunk_max);
    let parent = (32 * MIB).min(MEMORY / 16);
    packs + threads + shared + parent
}

/// A store that takes its time, so that packs pile up wherever they can.
#[derive(Debug)]
struct Slow(Local);

#[async_trait]
impl Store for Slow {
    fn location(&self) -> String {
        self.0.location()
    }
    async fn put_new(&self, key: &Key, body: Bytes) -> copal_engine::store::Result<()> {
        self.0.put_new(key, body).await
    }
    async fn put(&self, key: &Key, body: Bytes) -> copal_engine::store::Result<()> {
        tokio::time::sleep(std::time::Duration::from_millis(60)).await;
        self.0.put(key, body).await
    }
    async fn get(&self, key: &Key, max: u64) -> copal_engine::store::Result<Bytes> {
        self.0.get(key, max).await
    }
    async fn get_range(&self, key: &Key, range: std::ops::Range<u64>) -> copal_engine::store::Result<Bytes> {
        self.0.get_range(key, range).await
    }
    async fn head(&self, key: &Key) -> copal_engine::store::Result<u64> {
        self.0.head(key).await
    }
    async fn list(&self, prefix: &str, after: Option<&Key>) -> copal_engine::store::Result<Page> {
        self.0.list(prefix, after).await
    }
    async fn delete(&self, key: &Key) -> copal_engine::store::Result<()> {
        self.0.delete(key).await
    }
}

fn make_source(root: &Path) {
    let mut rng = SeededRng::new("source");
    for dir in 0..20 {
        let dir = root.join(format!("{dir}"));
        fs::create_dir_all(&dir).unwrap();
        for n in 0..1000 {
            let mut bytes = vec![0; n * 3];
            rng.fill(&mut bytes);
            fs::write(dir.join(format!("{n}")), bytes).unwrap();
        }
    }
    for (name, mib) in [("one", 256), ("two", 40), ("three", 20), ("four", 20)] {
        use std::io::Write;
        let mut file = fs::File::create(root.join(name)).unwrap();
        let mut bytes = vec![0; MIB];
        for _ in 0..mib {
            rng.fill(&mut bytes);
            file.write_all(&bytes).unwrap();
        }
    }
}

#[test]
fn a_backup_stays_under_its_cap() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    make_source(&source);
    let store: Arc<dyn Store> = Arc::new(Slow(Local::create(&dir.path().join("store")).unwrap()));
    let mut options = repo::Options::new(dir.path().join("local"));
    (options.memory, options.threads) = (MEMORY as u64, THREADS);
    let (mut repo, _) = repo::init(store, Bridge::start().unwrap(), Params::DEFAULT, options, &mut SystemRng).unwrap();
    let who = repo.identity(&mut SystemRng).unwrap();
    let repo = Arc::new(repo);
    let opts = Options { as_path: Some("/source".into()), ..Options::new(vec![source]) };
    for run in ["first", "repeat"] {
        let before = NOW.load(Relaxed);
        PEAK.store(before, Relaxed);
        let done = backup(&repo, &who, Box::new(SystemRng), &opts, &Silent, &Cancel::default()).unwrap();
        assert_eq!(done.counts.files.iter().sum::<u64>(), 20_004);
        let (peak, left) = (PEAK.load(Relaxed) - before, NOW.load(Relaxed).saturating_sub(before));
        println!("{run}: peak {} MiB of {} MiB, left {} KiB", peak / MIB, formula() / MIB, left >> 10);
        assert!(peak < formula(), "{run}: {peak} bytes");
        assert!(left < 4 * MIB, "{run}: {left} bytes are left");
    }
}
