//! What only the inside shows: how much is in memory at once.

use std::sync::Arc;

use crate::chunker::Params;
use crate::crypto::rng::{Rng, SeededRng, SystemRng};
use crate::format::blob::BlobKind;
use crate::format::snapshot::{GraphPart, NamesPart, SnapshotKind};
use crate::format::tree::Tree;
use crate::progress::{Cancel, Silent};
use crate::repo::repack::without_tree;
use crate::repo::{Bridge, Options as RepoOptions, Session, init};
use crate::store::Store;
use crate::store::memory::Memory;

use super::budget::Budget;
use super::{Options, Read, check_within};

/// Sessions with a pack of about half a megabyte each.
fn repository(dir: &std::path::Path, sessions: u32) -> Arc<crate::repo::Repository> {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    let mut options = RepoOptions::new(dir);
    (options.cache, options.threads) = (None, 3);
    let params = Params::with_average(64 << 10).unwrap();
    let bridge = Bridge::start().unwrap();
    let (mut repo, _) = init(store, bridge, params, options, &mut SeededRng::new("memory")).unwrap();
    let who = repo.identity(&mut SystemRng).unwrap();
    let repo = Arc::new(repo);
    for n in 0..sessions {
        let session = Session::begin(Arc::clone(&repo), &who, 1, false, Box::new(SystemRng)).unwrap();
        let mut worker = session.worker();
        let mut noise = vec![0; 500 << 10];
        SeededRng::new(n.to_le_bytes()).fill(&mut noise);
        worker.store(BlobKind::Data, &noise).unwrap();
        let meta = worker.store(BlobKind::Meta, &crate::format::meta::Meta::Stretch(Vec::new()).encode()).unwrap();
        let root = worker.store(BlobKind::Tree, &Tree::Stretch { meta, entries: Vec::new() }.encode()).unwrap();
        worker.flush().unwrap();
        drop(worker);
        session.commit(graph(root), |_| NamesPart::default()).unwrap();
    }
    repo
}

fn graph(root: crate::id::BlobId) -> GraphPart {
    GraphPart { kind: SnapshotKind::Whole, root: Some(root), ..without_tree(Default::default()) }
}

#[test]
fn packs_in_flight_stay_within_the_budget() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repository(dir.path(), 24);
    let options = Options { read: Read::All, max_age: None, max_duration: None, with_cache: false, seed: 0 };
    for cap in [2 << 20, 600 << 10, 1] {
        let budget = Budget::new(cap);
        let report = check_within(&repo, &options, &Silent, &Cancel::default(), Arc::clone(&budget)).unwrap();
        assert_eq!((report.findings.len(), report.read.packs), (0, 24));
        let largest = report.pack_bytes / 24 * 2;
        assert!(budget.peak() > 0 && budget.peak() <= cap.max(largest), "{} of {cap}", budget.peak());
    }
}
