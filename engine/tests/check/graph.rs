//! Trees that lead nowhere, or do not match their names (I4, I5).

use copal_engine::format::blob::BlobKind;
use copal_engine::format::meta::{ChunkerKind, Map, Meta, Run};
use copal_engine::format::node::NodeKind;
use copal_engine::format::tree::{Tree, TreeKind};
use copal_engine::id::{BlobId, SnapshotId};
use copal_engine::ops::check::Invariant::{I4, I5};
use copal_engine::ops::check::Read;

use crate::bench::{Bench, hurts, only};
use crate::forge::{Forge, entry, file, named};

const NOWHERE: BlobId = BlobId::from_bytes([0xee; 32]);

/// Checks a forged root: one finding, about `tree blob <id>`, that hurts these paths as a restore would find.
fn expect(bench: &Bench, snapshot: SnapshotId, tree: &BlobId, paths: &[&str]) {
    let report = bench.check(Read::All);
    only(&report, &format!("tree blob {tree}"), &[I5]);
    let expected = paths.iter().map(|path| (snapshot, path.as_bytes().to_vec())).collect();
    assert_eq!(hurts(&report), expected);
    assert_eq!(bench.unrestorable(), expected, "restoring agrees");
}

#[test]
fn what_no_segment_lists_is_found_with_its_file() {
    let bench = Bench::new();
    let mut forge = Forge::new(&bench);
    let data = forge.blob(BlobKind::Data, b"sound".to_vec());
    let metas = vec![file("a", 5), file("b", 5), named("c", NodeKind::Dir)];
    let entries = vec![
        entry(TreeKind::File, vec![data]),
        entry(TreeKind::File, vec![NOWHERE]),
        entry(TreeKind::Dir, vec![BlobId::from_bytes([0xdd; 32])]),
    ];
    let root = forge.directory(metas, entries);
    let forged = forge.store(root);
    let report = bench.check(Read::Nothing);
    let finding = only(&report, "index", &[I4]);
    assert_eq!(finding.blobs, 2);
    let expected = [b"/b", b"/c"].map(|path| (forged.snapshot, path.to_vec())).into();
    assert_eq!(hurts(&report), expected);
    assert_eq!(bench.unrestorable(), expected);
}

#[test]
fn a_root_that_is_nowhere_hurts_the_whole_snapshot() {
    let bench = Bench::new();
    let mut forge = Forge::new(&bench);
    forge.one_file("x", b"y");
    let forged = forge.store(NOWHERE);
    let report = bench.check(Read::Nothing);
    only(&report, "index", &[I4]);
    assert_eq!(hurts(&report), [(forged.snapshot, b"/".to_vec())].into());
}

#[test]
fn names_and_entries_are_as_many() {
    let bench = Bench::new();
    let mut forge = Forge::new(&bench);
    let root = forge.directory(vec![file("a", 0), file("b", 0)], vec![entry(TreeKind::File, vec![])]);
    let forged = forge.store(root);
    expect(&bench, forged.snapshot, &root, &["/"]);
}

#[test]
fn a_tree_that_is_no_directory_is_none() {
    let bench = Bench::new();
    let mut forge = Forge::new(&bench);
    let map = forge.map(Map { chunker: ChunkerKind::FastCdc, runs: vec![Run::Hole(5)] });
    let part = forge.blob(BlobKind::Tree, Tree::Part { map, data: Vec::new() }.encode());
    let root = forge.directory(vec![named("d", NodeKind::Dir)], vec![entry(TreeKind::Dir, vec![part])]);
    let forged = forge.store(root);
    expect(&bench, forged.snapshot, &part, &["/d"]);
}

#[test]
fn bytes_that_are_no_tree_are_told_of() {
    let bench = Bench::new();
    let mut forge = Forge::new(&bench);
    let junk = forge.blob(BlobKind::Tree, b"junk".to_vec());
    let root = forge.directory(vec![named("d", NodeKind::Dir)], vec![entry(TreeKind::Dir, vec![junk])]);
    let forged = forge.store(root);
    expect(&bench, forged.snapshot, &junk, &["/d"]);
}

#[test]
fn stretches_are_in_order() {
    let bench = Bench::new();
    let mut forge = Forge::new(&bench);
    let first = forge.one_file("b", b"1");
    let second = forge.one_file("a", b"2");
    let meta = forge.blob(BlobKind::Meta, Meta::Split(vec![b"a".to_vec(), b"b".to_vec()]).encode());
    let root = forge.blob(BlobKind::Tree, Tree::Split { meta, stretches: vec![first, second] }.encode());
    let forged = forge.store(root);
    expect(&bench, forged.snapshot, &root, &["/"]);
}

#[test]
fn a_files_map_fits_its_length_and_chunks() {
    let chunker = ChunkerKind::FastCdc;
    let cases: [(u64, Vec<Run>); 3] = [
        (11, vec![Run::Data(5), Run::Data(5)]), // longer than the map
        (5, vec![Run::Data(5)]),                // fewer runs than chunks
        (10, vec![Run::Data(4), Run::Data(6)]), // runs of other lengths than the chunks
    ];
    for (n, (size, runs)) in cases.into_iter().enumerate() {
        let bench = Bench::new();
        let mut forge = Forge::new(&bench);
        let chunks = [b"chunk", b"other"].map(|text| forge.blob(BlobKind::Data, text.to_vec()));
        let map = forge.map(Map { chunker, runs });
        let good = forge.map(Map { chunker, runs: vec![Run::Data(5), Run::Hole(7), Run::Data(5)] });
        let children = |map| [&[map][..], &chunks].concat();
        let entries = vec![entry(TreeKind::MappedFile, children(good)), entry(TreeKind::MappedFile, children(map))];
        let root = forge.directory(vec![file("a-good", 17), file("bad", size)], entries);
        let forged = forge.store(root);
        let report = bench.check(Read::All);
        only(&report, &format!("tree blob {root}"), &[I5]);
        assert_eq!(hurts(&report), [(forged.snapshot, b"/bad".to_vec())].into(), "case {n}");
    }
}

#[test]
fn an_entry_is_the_same_thing_in_both() {
    let bench = Bench::new();
    let mut forge = Forge::new(&bench);
    let root = forge.directory(vec![named("p", NodeKind::Fifo)], vec![entry(TreeKind::File, vec![])]);
    let forged = forge.store(root);
    let report = bench.check(Read::Nothing);
    only(&report, &format!("tree blob {root}"), &[I5]);
    // No reader lists such a directory at all.
    assert_eq!(hurts(&report), [(forged.snapshot, b"/".to_vec())].into());
    assert_eq!(bench.unrestorable(), hurts(&report));
}

#[test]
fn shared_trees_are_walked_once_and_hurt_every_snapshot() {
    let bench = Bench::empty();
    bench.write("deep/er/file", &[7; 100]);
    (0..5).for_each(|n| {
        bench.write("changes", format!("{n}").as_bytes());
        bench.backup();
    });
    let report = bench.check(Read::Nothing);
    assert_eq!(report.findings, []);
    // Five roots and five /source; /source/deep and /source/deep/er once.
    assert_eq!((report.snapshots, report.trees), (5, 12));
    let pack = bench.keys("pack/").remove(0);
    bench.delete(&pack);
    let report = bench.check(Read::Nothing);
    assert_eq!(hurts(&report), bench.unrestorable());
    let snapshots: std::collections::BTreeSet<_> = hurts(&report).into_iter().map(|(snapshot, _)| snapshot).collect();
    assert_eq!(snapshots.len(), 5);
}

#[test]
fn parts_of_large_files_are_walked() {
    let bench = Bench::empty();
    let mut forge = Forge::new(&bench);
    let chunker = ChunkerKind::FastCdc;
    let data = forge.blob(BlobKind::Data, b"12345".to_vec());
    let map = forge.map(Map { chunker, runs: vec![Run::Data(5), Run::Hole(5)] });
    let good = forge.blob(BlobKind::Tree, Tree::Part { map, data: vec![data] }.encode());
    let bad = forge.blob(BlobKind::Tree, Tree::Part { map, data: vec![NOWHERE] }.encode());
    let parts = forge.map(Map { chunker, runs: vec![Run::Data(10), Run::Data(10)] });
    let entries =
        vec![entry(TreeKind::LargeFile, vec![parts, good, good]), entry(TreeKind::LargeFile, vec![parts, good, bad])];
    let root = forge.directory(vec![file("good", 20), file("large", 20)], entries);
    let forged = forge.store(root);
    let report = bench.check(Read::All);
    only(&report, "index", &[I4]);
    assert_eq!(hurts(&report), [(forged.snapshot, b"/large".to_vec())].into());
    assert_eq!(bench.unrestorable(), hurts(&report));
}
