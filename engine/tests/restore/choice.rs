//! Parts of a snapshot: subpaths, includes, excludes, and what they spare from deletion.

use std::fs;

use copal_engine::Error;
use copal_engine::ops::restore::{Options, restore};
use copal_engine::progress::{Cancel, Silent};

use super::bench::{Bench, chosen, names};

fn bench() -> Bench {
    let bench = Bench::new();
    for path in ["a/x.txt", "a/y.log", "a/b/z.txt", "c/w.log", "top.txt"] {
        bench.write(path, path);
    }
    bench.backup();
    bench
}

#[test]
fn a_directory_goes_into_the_target_and_a_file_under_its_name() {
    let bench = bench();
    let (summary, problems) = bench.restore_at("/source/a/", &Options::default());
    assert_eq!((summary.total_files, problems.len()), (4, 0));
    assert_eq!(names(&bench.target()), ["b/z.txt", "x.txt", "y.log"]);

    bench.write_target("stays", b"");
    let options = Options { delete: true, ..Options::default() };
    let (summary, _) = bench.restore_at("source/a/b/z.txt", &options);
    assert_eq!((summary.total_files, summary.files_deleted), (1, 0));
    assert_eq!(names(&bench.target()), ["b/z.txt", "stays", "x.txt", "y.log", "z.txt"]);
    assert_eq!(fs::read(bench.target().join("z.txt")).unwrap(), b"a/b/z.txt");
}

#[test]
fn the_whole_snapshot_has_its_paths() {
    let bench = bench();
    bench.restore_at("", &Options::default());
    assert_eq!(names(&bench.target()).len(), 5);
    assert!(bench.target().join("source/a/b/z.txt").exists());
}

#[test]
fn what_is_not_there_is_an_error() {
    let bench = bench();
    let (reader, latest) = bench.reader();
    for missing in ["source/none", "source/top.txt/below"] {
        let done = restore(
            &reader,
            &latest,
            missing.as_bytes(),
            &bench.target(),
            &Options::default(),
            &Silent,
            &Cancel::default(),
        );
        assert!(matches!(done, Err(Error::NotFound(_))), "{done:?}");
    }
    assert!(!bench.target().exists());
}

#[test]
fn includes_make_only_the_directories_that_they_need() {
    let bench = bench();
    let (summary, _) = bench.restore_at("source", &chosen(&["*.txt"], &[]));
    assert_eq!(names(&bench.target()), ["a/b/z.txt", "a/x.txt", "top.txt"]);
    assert!(!bench.target().join("c").exists());
    assert_eq!((summary.total_files, summary.dirs), (5, 2));
}

#[test]
fn excludes_leave_out_with_all_below() {
    let bench = bench();
    bench.restore_at("source", &chosen(&[], &["*.log", "/a/b"]));
    assert_eq!(names(&bench.target()), ["a/x.txt", "top.txt"]);
    assert!(bench.target().join("c").exists());
}

#[test]
fn delete_removes_what_the_snapshot_does_not_have() {
    let bench = bench();
    for surplus in ["0", "a/0", "a/b/zz", "a/xx/deep/er", "c/w.log.old", "zz/z"] {
        bench.write_target(surplus, b"surplus");
    }
    let options = Options { delete: true, ..Options::default() };
    let dry = bench.restore(&Options { dry_run: true, ..options.clone() });
    assert_eq!(names(&bench.target()).len(), 6);
    let summary = bench.restore(&options);
    bench.assert_same();
    assert_eq!(summary.files_deleted, 9);
    assert_eq!(dry, summary);
}

#[test]
fn delete_spares_what_is_excluded_also_in_directories_that_go() {
    let bench = bench();
    for path in ["a/y.log", "a/mine.log", "a/gone", "old/keep.log", "old/gone", "old/sub/gone", "logs.log/x", "older/x"]
    {
        bench.write_target(path, b"mine");
    }
    let options = Options { delete: true, ..chosen(&[], &["*.log"]) };
    let dry = bench.restore(&Options { dry_run: true, ..options.clone() });
    let summary = bench.restore(&options);
    let left = ["a/b/z.txt", "a/mine.log", "a/x.txt", "a/y.log", "logs.log/x", "old/keep.log", "top.txt"];
    assert_eq!(names(&bench.target()), left);
    assert_eq!(fs::read(bench.target().join("a/y.log")).unwrap(), b"mine");
    assert_eq!(summary.files_deleted, 6);
    assert_eq!(dry, summary);
}

#[test]
fn delete_with_includes_removes_only_what_they_match() {
    let bench = bench();
    for path in ["a/a.txt", "a/b/0.txt", "a/mine", "a/zz.txt", "c/c.txt", "other/o.txt", "other/mine"] {
        bench.write_target(path, b"");
    }
    let options = Options { delete: true, ..chosen(&["*.txt"], &[]) };
    let summary = bench.restore(&options);
    // Nothing is restored into c, so that nothing is removed there.
    assert_eq!(names(&bench.target()), ["a/b/z.txt", "a/mine", "a/x.txt", "c/c.txt", "other/mine", "top.txt"]);
    assert_eq!(summary.files_deleted, 4);
}
