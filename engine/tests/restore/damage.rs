//! Stored bytes that are damaged, missing, or there twice.

use std::fs;
use std::sync::Arc;

use copal_engine::Error;
use copal_engine::format::tree::Tree;
use copal_engine::ops::restore::{self, Options, Summary};
use copal_engine::progress::{Cancel, Problem, ProblemKind, Silent};
use copal_engine::repo::{Bridge, Locked, Opener, Reader};
use copal_engine::store::fault::{Effect, Fault, Rule};
use copal_engine::store::{StoreError, Verb};

use super::bench::{Bench, names, noise};

fn damaged(bench: &Bench, problems: &[Problem]) -> Vec<String> {
    let mut paths = Vec::new();
    for problem in problems {
        assert_eq!(problem.kind, ProblemKind::Damaged, "{problem}");
        let path = problem.path.strip_prefix(bench.target()).unwrap_or(&problem.path);
        paths.push(path.to_str().unwrap().to_owned());
    }
    paths.sort();
    paths
}

fn restored(bench: &Bench) -> (Summary, Vec<String>) {
    let (summary, problems) = bench.restore_at("source", &Options::default());
    (summary, damaged(bench, &problems))
}

#[test]
fn exactly_the_files_with_a_damaged_chunk_are_left_out() {
    let bench = Bench::new();
    let bad = noise(1, 100_000);
    bench.write("bad 1", &bad);
    bench.write("d/bad 2", &bad);
    bench.write("good", noise(2, 100_000));
    bench.write("large", noise(3, 9 << 20));
    bench.backup();
    bench.spoil(&bench.copies("bad 1")[0]);
    bench.write_target("bad 1", b"stood here before");
    let (summary, bad) = restored(&bench);
    assert_eq!(bad, ["bad 1", "d/bad 2"]);
    assert_eq!((summary.files_failed, summary.files_restored), (2, 3));
    assert_eq!(names(&bench.target()), ["bad 1", "good", "large"]);
    assert_eq!(fs::read(bench.target().join("bad 1")).unwrap(), b"stood here before");
}

#[test]
fn a_damaged_piece_in_the_middle_of_a_large_file_leaves_nothing_of_it() {
    let bench = Bench::new();
    bench.write("large", noise(1, 20 << 20));
    bench.write("good", b"good");
    bench.backup();
    let node = bench.node("large");
    assert!(node.children.len() > 10);
    bench.spoil(&bench.copies_of(&node.children[8])[0]);
    assert_eq!(restored(&bench).1, ["large"]);
    assert_eq!(names(&bench.target()), ["good"]);
    // Also where the damage is met in a later batch than that in which the file was begun.
    let bench = bench.with_options(|options| options.memory = 4 << 10);
    assert_eq!(restored(&bench).1, ["large"]);
    assert_eq!(names(&bench.target()), ["good"]);
}

#[test]
fn a_damaged_group_hurts_its_files_and_no_others() {
    // One thread makes one group; several share the files out as it happens.
    let bench = Bench::new().with_options(|options| options.threads = 1);
    for n in 0..200 {
        bench.write(&format!("{n:03}"), noise(n, 1_000));
    }
    bench.write("alone", noise(1000, 100_000));
    bench.backup();
    bench.spoil(&bench.copies("017")[0]);
    let (summary, bad) = restored(&bench);
    assert_eq!(bad.len(), 200);
    assert_eq!((summary.files_restored, summary.files_failed), (1, 200));
    assert_eq!(names(&bench.target()), ["alone"]);
}

#[test]
fn a_missing_pack_hurts_its_files_and_no_others() {
    let bench = Bench::new();
    bench.write("gone", noise(1, 100_000));
    bench.backup();
    bench.write("there", noise(2, 100_000));
    bench.backup();
    let (copy, mut objects) = (&bench.copies("gone")[0], bench.memory.snapshot());
    let pack = bench.reader().0.pack_key_name(copy);
    // Trees and names may lie in the same pack: those of the second snapshot do not.
    objects.retain(|key, _| key.as_str() != pack);
    bench.memory.restore(objects);
    assert_eq!(restored(&bench).1, ["gone"]);
    assert_eq!(names(&bench.target()), ["there"]);
}

/// Two sessions that did not see one another: every blob is there twice.
fn twice() -> Bench {
    let bench = Bench::new();
    for n in 0..20 {
        bench.write(&format!("{n}"), noise(n, 1_000 + 10_000 * n as usize));
    }
    let before = bench.memory.snapshot();
    bench.backup();
    let first = bench.memory.snapshot();
    bench.memory.restore(before);
    bench.backup();
    let mut both = bench.memory.snapshot();
    both.extend(first);
    bench.memory.restore(both);
    bench
}

#[test]
fn a_second_copy_is_taken_where_the_first_is_damaged() {
    let bench = twice();
    let mut packs = std::collections::BTreeSet::new();
    for n in 0..20 {
        let copies = bench.copies(&n.to_string());
        assert_eq!(copies.len(), 2);
        bench.spoil(&copies[0]);
        packs.insert(bench.reader().0.pack_key_name(&copies[0]));
    }
    let (summary, problems) = restored(&bench);
    bench.assert_same();
    assert_eq!((summary.files_restored, summary.files_failed), (20, 0));
    // Told once for each pack, although nothing was lost.
    assert_eq!(problems, Vec::from_iter(packs));
}

#[test]
fn names_of_one_damaged_file_are_each_told() {
    let bench = Bench::new();
    bench.write("a/one", noise(1, 100_000));
    bench.write("a/other", noise(2, 100_000));
    for name in ["a/two", "b"] {
        fs::hard_link(bench.source().join("a/one"), bench.source().join(name)).unwrap();
    }
    bench.backup();
    bench.spoil(&bench.copies("b")[0]);
    let (summary, bad) = restored(&bench);
    assert_eq!(bad, ["a/one", "a/two", "b"]);
    assert_eq!(summary.files_failed, 3);
    assert_eq!((summary.total_bytes, summary.bytes_restored), (200_000, 100_000));
    assert_eq!(names(&bench.target()), ["a/other"]);
}

#[test]
fn a_damaged_directory_is_told_and_nothing_is_deleted_in_it() {
    let bench = Bench::new();
    bench.write("bad/file", b"file");
    bench.write("good/file", b"file");
    bench.backup();
    // Of the second snapshot only this directory is in the frames of the first.
    bench.write("good/new", b"new");
    bench.write("top", b"top");
    bench.backup();
    let Tree::Stretch { meta, .. } = bench.reader().0.tree(&bench.node("bad").children[0]).unwrap() else {
        panic!("a directory of one entry has stretches");
    };
    bench.spoil(&bench.copies_of(&meta)[0]);
    bench.write_target("bad/mine", b"mine");
    bench.write_target("good/mine", b"mine");
    let (summary, problems) = bench.restore_at("source", &Options { delete: true, ..Options::default() });
    assert_eq!(damaged(&bench, &problems), ["bad"]);
    assert_eq!((summary.files_restored, summary.files_deleted), (5, 1));
    assert_eq!(names(&bench.target()), ["bad/mine", "good/file", "good/new", "top"]);
}

#[test]
fn what_the_store_refuses_ends_the_restore() {
    let bench = Bench::new();
    bench.write("file", noise(1, 200_000));
    bench.backup();
    let (_, latest) = bench.reader();
    let fault = Arc::new(Fault::new(bench.memory.clone(), 1));
    let opener = Opener::Bundle(Box::new(bench.repo.bundle().clone()));
    let found = Locked::find(fault.clone(), Bridge::start().unwrap()).unwrap();
    let repo = Arc::new(found.unlock(opener, bench.repo.options().clone()).unwrap());
    let reader = Reader::new(repo.clone(), repo.view().unwrap().index, 8 << 20);
    // The last read of all is that of the file.
    let root = reader.find(&latest.graph.root.unwrap(), b"source").unwrap().unwrap();
    reader.entries(&root.children[0]).unwrap();
    fault.add(Rule::on(Verb::GetRange, "pack/").effect(Effect::ErrorBefore));
    let (target, options) = (bench.target(), Options::default());
    let done = restore::restore(&reader, &latest, b"source", &target, &options, &Silent, &Cancel::default());
    assert!(matches!(done, Err(Error::Store(StoreError::Transient { .. }))), "{done:?}");
    assert_eq!(names(&bench.target()), Vec::<String>::new());
}
