//! Stored bytes that are damaged, missing, or there twice.

use std::fs;

use copal_engine::ops::restore::{Options, Summary};
use copal_engine::progress::{Problem, ProblemKind};

use super::bench::{Bench, names, noise, rsync_differences};

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

fn restore(bench: &Bench) -> (Summary, Vec<String>) {
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
    bench.write("large", [noise(3, 9 << 20), bad.clone(), noise(4, 1 << 20)].concat());
    bench.backup();
    bench.spoil(&bench.copies("bad 1")[0]);
    bench.write_target("bad 1", b"stood here before");
    let (summary, bad) = restore(&bench);
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
    assert!(node.children.len() > 40);
    let mut copies = Vec::new();
    bench.reader().0.index().lookup(&node.children[30], &mut copies);
    bench.spoil(&copies[0]);
    assert_eq!(restore(&bench).1, ["large"]);
    assert_eq!(names(&bench.target()), ["good"]);
    // Also where the damage is met in a later batch than that in which the file was begun.
    let bench = bench.with_options(|options| options.memory = 16 << 10);
    assert_eq!(restore(&bench).1, ["large"]);
    assert_eq!(names(&bench.target()), ["good"]);
}

#[test]
fn a_damaged_group_hurts_its_files_and_no_others() {
    let bench = Bench::new();
    for n in 0..200 {
        bench.write(&format!("{n:03}"), noise(n, 1_000));
    }
    bench.write("alone", noise(1000, 100_000));
    bench.backup();
    bench.spoil(&bench.copies("017")[0]);
    let (summary, bad) = restore(&bench);
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
    assert_eq!(restore(&bench).1, ["gone"]);
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
    let (summary, problems) = restore(&bench);
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
    let (summary, bad) = restore(&bench);
    assert_eq!(bad, ["a/one", "a/two", "b"]);
    assert_eq!(summary.files_failed, 3);
    assert_eq!(names(&bench.target()), ["a/other"]);
}

#[test]
fn a_damaged_directory_is_told_and_nothing_is_deleted_in_it() {
    let bench = Bench::new();
    bench.write("bad/file", b"file");
    bench.write("good/file", b"file");
    bench.backup();
    // The second backup stores only the new directory anew, in frames of its own.
    bench.write("bad/new", b"new");
    bench.backup();
    let (reader, mut copies) = (bench.reader().0, Vec::new());
    let tree = bench.node("bad").children[0];
    reader.index().lookup(&tree, &mut copies);
    let root_trees = copies.clone();
    // Another copy of it, so that the walk gets there: only its meta is spoiled.
    let meta = match reader.tree(&tree).unwrap() {
        copal_engine::format::tree::Tree::Stretch { meta, .. } => meta,
        other => panic!("{other:?}"),
    };
    reader.index().lookup(&meta, &mut copies);
    assert!(!root_trees.is_empty());
    let sources = bench.node("bad");
    drop(sources);
    let mut target_only = Options { delete: true, ..Options::default() };
    target_only.verify = true;
    bench.write_target("bad/mine", b"mine");
    bench.write_target("good/mine", b"mine");
    bench.spoil(&copies[0]);
    let (reader, latest) = bench.reader();
    let problems = copal_engine::progress::Collect::default();
    let cancel = copal_engine::progress::Cancel::default();
    let done = copal_engine::ops::restore::restore(
        &reader,
        &latest,
        b"",
        &bench.target(),
        &target_only,
        &problems,
        &cancel,
    );
    // All names of this small backup share a frame: nothing can be walked, and nothing goes.
    assert_eq!(done.unwrap().files_deleted, 0);
    assert!(!problems.0.lock().unwrap().is_empty());
    assert_eq!(names(&bench.target()), ["bad/mine", "good/mine"]);
}

#[test]
fn what_the_store_refuses_ends_the_restore() {
    use copal_engine::store::fault::{Effect, Fault, Rule};
    let bench = Bench::new();
    bench.write("file", noise(1, 200_000));
    bench.backup();
    let fault = std::sync::Arc::new(Fault::new(bench.memory.clone(), 1));
    fault.add(Rule::on(copal_engine::store::Verb::GetRange, "pack/").skip(4).effect(Effect::ErrorBefore));
    let found = copal_engine::repo::Locked::find(fault, copal_engine::repo::Bridge::start().unwrap()).unwrap();
    let bundle = Box::new(bench.repo.bundle().clone());
    let opener = copal_engine::repo::Opener::Bundle(bundle);
    let repo = std::sync::Arc::new(found.unlock(opener, bench.repo.options().clone()).unwrap());
    let view = repo.view().unwrap();
    let reader = copal_engine::repo::Reader::new(repo, view.index, 0);
    let (problems, cancel) = (copal_engine::progress::Silent, copal_engine::progress::Cancel::default());
    let latest = view.snapshots.last().unwrap();
    let options = Options::default();
    let done =
        copal_engine::ops::restore::restore(&reader, latest, b"", &bench.target(), &options, &problems, &cancel);
    assert!(matches!(done, Err(copal_engine::Error::Store(_))), "{done:?}");
    assert_eq!(names(&bench.target()), Vec::<String>::new());
    assert_ne!(rsync_differences(&bench.source(), &bench.target()), "");
}
