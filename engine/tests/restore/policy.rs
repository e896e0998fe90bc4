//! What is done with what stands at the target.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use copal_engine::ops::restore::Options;
use copal_engine::store::Verb;
use copal_engine::target::Overwrite;

use super::bench::{Bench, names, noise};

fn with(overwrite: Overwrite) -> Options {
    Options { overwrite, ..Options::default() }
}

fn bench() -> Bench {
    let bench = Bench::new();
    bench.write("a", b"as stored");
    bench.write("d/b", noise(1, 100_000));
    std::os::unix::fs::symlink("to", bench.source().join("link")).unwrap();
    bench.backup();
    bench
}

#[test]
fn never_touches_nothing_that_exists() {
    let bench = bench();
    bench.write_target("a", b"mine");
    let summary = bench.restore(&with(Overwrite::Never));
    assert_eq!(fs::read(bench.target().join("a")).unwrap(), b"mine");
    assert_eq!((summary.total_files, summary.files_restored, summary.files_skipped), (4, 3, 1));
    assert_eq!((summary.bytes_restored, summary.bytes_skipped), (100_000, 9));
    let again = bench.restore(&with(Overwrite::Never));
    assert_eq!((again.files_restored, again.files_skipped, again.bytes_skipped), (0, 4, 100_009));
}

#[test]
fn always_writes_anew() {
    let bench = bench();
    bench.restore(&with(Overwrite::Always));
    let inode = || fs::metadata(bench.target().join("d/b")).unwrap().ino();
    let before = inode();
    let held = fs::File::open(bench.target().join("d/b")).unwrap();
    let summary = bench.restore(&with(Overwrite::Always));
    assert_ne!(inode(), before);
    assert_eq!((summary.files_restored, summary.bytes_restored), (4, 100_009));
    drop(held);
    bench.assert_same();
}

#[test]
fn if_changed_reads_nothing_that_is_there_already() {
    let bench = bench();
    bench.restore(&with(Overwrite::IfChanged));
    rustix::fs::chmod(bench.target().join("d/b"), rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    fs::write(bench.target().join("a"), b"longer than it was").unwrap();
    let inode = |name: &str| fs::metadata(bench.target().join(name)).unwrap().ino();
    let before = inode("d/b");
    let summary = bench.restore(&with(Overwrite::IfChanged));
    bench.assert_same();
    assert_eq!(inode("d/b"), before);
    assert_eq!((summary.files_restored, summary.bytes_restored, summary.bytes_skipped), (4, 9, 100_000));
}

#[test]
fn if_newer_leaves_what_is_younger() {
    let bench = bench();
    bench.write_target("a", b"older");
    bench.write_target("d/b", b"younger");
    let set = |name: &str, time| {
        fs::File::options().write(true).open(bench.target().join(name)).unwrap().set_modified(time).unwrap();
    };
    set("a", SystemTime::UNIX_EPOCH);
    set("d/b", SystemTime::now() + Duration::from_secs(3600));
    let summary = bench.restore(&with(Overwrite::IfNewer));
    assert_eq!(fs::read(bench.target().join("a")).unwrap(), b"as stored");
    assert_eq!(fs::read(bench.target().join("d/b")).unwrap(), b"younger");
    assert_eq!(summary.bytes_skipped, 100_000);
}

#[test]
fn a_dry_run_counts_the_same_and_changes_nothing() {
    for overwrite in [Overwrite::Always, Overwrite::IfChanged, Overwrite::IfNewer, Overwrite::Never] {
        let bench = bench();
        fs::hard_link(bench.source().join("a"), bench.source().join("d/a too")).unwrap();
        bench.backup();
        let dry = Options { dry_run: true, ..with(overwrite) };
        let nothing_there = bench.restore(&dry);
        assert!(!bench.target().exists());
        bench.write_target("a", b"mine");
        bench.write_target("link/in/the/way", b"mine");
        let something_there = bench.restore(&dry);
        let reads = bench.record.log().iter().filter(|op| op.verb == Verb::GetRange).count();
        assert_eq!(names(&bench.target()), ["a", "link/in/the/way"]);
        assert_eq!(fs::read(bench.target().join("a")).unwrap(), b"mine");
        let really = bench.restore(&with(overwrite));
        assert_eq!(something_there, really);
        assert!(bench.record.count(Verb::GetRange, "pack/") > reads);
        fs::remove_dir_all(bench.target()).unwrap();
        assert_eq!(nothing_there, bench.restore(&with(overwrite)));
        bench.assert_same();
    }
}

#[test]
fn devices_and_owners_and_attributes_can_be_left_out() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let bench = Bench::new();
    bench.write("tool", b"#!");
    let path = bench.source().join("tool");
    std::os::unix::fs::chown(&path, Some(4321), Some(4321)).unwrap();
    rustix::fs::chmod(&path, rustix::fs::Mode::from_raw_mode(0o4755)).unwrap();
    rustix::fs::setxattr(&path, "user.secret", b"x", rustix::fs::XattrFlags::empty()).unwrap();
    let (kind, dev) = (rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    rustix::fs::mknodat(rustix::fs::CWD, bench.source().join("null"), kind, rustix::fs::Mode::RUSR, dev).unwrap();
    bench.backup();
    let options = Options {
        no_owner: true,
        numeric_owner: true,
        no_devices: true,
        no_setuid: true,
        exclude_xattr: vec![b"user.*".to_vec()],
        ..Options::default()
    };
    let summary = bench.restore(&options);
    assert_eq!((summary.files_restored, summary.files_skipped, summary.others), (1, 1, 1));
    assert_eq!(names(&bench.target()), ["tool"]);
    let tool = fs::metadata(bench.target().join("tool")).unwrap();
    assert_eq!((tool.uid(), tool.mode() & 0o7777), (0, 0o755));
    assert!(rustix::fs::getxattr(bench.target().join("tool"), "user.secret", &mut [0; 9]).is_err());
    bench.restore(&Options::default());
    bench.assert_same();
}
