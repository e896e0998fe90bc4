//! What was backed up comes back.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use copal_engine::ops::restore::Options;
use copal_engine::store::Verb;
use rustix::fs::{FileType, Mode, XattrFlags};

use super::bench::{Bench, noise, write};

/// One of each kind, and attributes that are easily lost.
fn make_all_kinds(root: &Path) {
    write(&root.join("a/empty"), b"");
    write(&root.join("a/small"), b"hello");
    write(&root.join("a/large"), noise(1, 3 << 20));
    symlink("../nowhere", root.join("a/link")).unwrap();
    fs::create_dir_all(root.join("b/deep/er")).unwrap();
    fs::hard_link(root.join("a/large"), root.join("b/large again")).unwrap();
    fs::hard_link(root.join("a/small"), root.join("b/deep/small again")).unwrap();
    fs::hard_link(root.join("a/empty"), root.join("b/empty again")).unwrap();
    fs::hard_link(root.join("a/link"), root.join("b/link again")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap());
    let node = |name: &str, kind, dev| {
        rustix::fs::mknodat(rustix::fs::CWD, root.join(name), kind, Mode::from_raw_mode(0o640), dev).unwrap();
    };
    node("fifo", FileType::Fifo, 0);
    if rustix::process::geteuid().is_root() {
        node("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
        node("loop", FileType::BlockDevice, rustix::fs::makedev(7, 77));
        std::os::unix::fs::chown(root.join("a/large"), Some(1234), Some(5678)).unwrap();
        fs::set_permissions(root.join("a/large"), fs::Permissions::from_mode(0o6755)).unwrap();
    }
    rustix::fs::setxattr(root.join("a/small"), "user.note", b"kept", XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(root.join("b"), "user.dir", b"kept too", XattrFlags::empty()).unwrap();
    write(&root.join("shut/inside"), b"in a directory that nobody may write to");
    fs::set_permissions(root.join("shut"), fs::Permissions::from_mode(0o555)).unwrap();
    fs::set_permissions(root.join("b/deep"), fs::Permissions::from_mode(0o2770)).unwrap();
    // Times of directories are the last thing that may change: they are old here.
    for dir in ["b/deep/er", "b/deep", "a", "shut"] {
        let old = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
        fs::File::open(root.join(dir)).unwrap().set_modified(old).unwrap();
    }
}

#[test]
fn all_kinds_come_back() {
    let bench = Bench::new();
    make_all_kinds(&bench.source());
    bench.backup();
    let summary = bench.restore(&Options::default());
    bench.assert_same();
    assert_eq!((summary.files_skipped, summary.files_failed, summary.problems), (0, 0, 0));
    assert_eq!(summary.dirs, 5);
    // Further names of a file have no bytes of their own.
    let small = b"hello".len() + b"in a directory that nobody may write to".len();
    assert_eq!(summary.total_bytes, (small + (3 << 20)) as u64);
    assert_eq!(summary.bytes_restored, summary.total_bytes);
    let inode = |path: &str| fs::symlink_metadata(bench.target().join(path)).unwrap().ino();
    assert_eq!(inode("a/large"), inode("b/large again"));
    assert_eq!(inode("a/link"), inode("b/link again"));

    // And over what is there.
    let again = bench.restore(&Options { delete: true, verify: true, ..Options::default() });
    bench.assert_same();
    assert_eq!((again.files_restored, again.files_deleted), (summary.files_restored, 0));
}

#[test]
fn all_kinds_come_back_in_tiny_batches_with_one_thread() {
    let bench = Bench::new();
    make_all_kinds(&bench.source());
    for n in 0..300 {
        bench.write(&format!("many/{n}/file"), format!("content of {n}"));
        let (first, other) = (bench.source().join(format!("many/{n}/file")), format!("others/{}", n % 7));
        fs::create_dir_all(bench.source().join(&other)).unwrap();
        fs::hard_link(first, bench.source().join(other).join(n.to_string())).unwrap();
    }
    bench.backup();
    let bench = bench.with_options(|options| {
        options.memory = 64 << 10;
        options.threads = 1;
        options.connections = 1;
    });
    bench.restore(&Options::default());
    bench.assert_same();
}

#[test]
fn holes_stay_holes() {
    let bench = Bench::new();
    bench.write("sparse", b"");
    let file = fs::File::options().write(true).open(bench.source().join("sparse")).unwrap();
    file.write_all_at(&noise(1, 200_000), 0).unwrap();
    file.write_all_at(&noise(2, 100_000), 64 << 20).unwrap();
    file.set_len(1 << 30).unwrap();
    bench.write("zeros", vec![0; 4 << 20]);
    bench.backup();
    let summary = bench.restore(&Options { verify: true, ..Options::default() });
    bench.assert_same();
    assert_eq!(summary.bytes_restored, (1 << 30) + (4 << 20));
    let blocks = |name: &str| fs::metadata(bench.target().join(name)).unwrap().blocks();
    assert!(blocks("sparse") * 512 < 1 << 20);
    assert!(blocks("zeros") * 512 >= 4 << 20);

    bench.restore(&Options { sparse: true, verify: true, ..Options::default() });
    bench.assert_same();
    assert!(blocks("zeros") * 512 < 1 << 20);
}

#[test]
fn a_thousand_small_files_are_a_handful_of_requests() {
    let bench = Bench::new();
    for n in 0..1000 {
        bench.write(&format!("{}/{n}", n % 10), noise(n, 2_000));
    }
    bench.backup();
    let summary = bench.restore(&Options::default());
    bench.assert_same();
    assert_eq!((summary.files_restored, summary.bytes_restored), (1010, 2_000_000));
    let requests = bench.record.count(Verb::GetRange, "pack/");
    assert!(requests <= 12, "{requests} requests");
    let bytes = bench.record.bytes(Verb::GetRange, "pack/");
    assert!(bytes < 5_000_000, "{bytes} bytes read for 2,000,000");
}

#[test]
fn a_chunk_that_many_files_share_is_fetched_once() {
    let bench = Bench::new();
    let shared = noise(1, 1 << 20);
    for n in 0..50 {
        bench.write(&format!("copy {n}"), &shared);
    }
    bench.backup();
    bench.restore(&Options { verify: true, ..Options::default() });
    bench.assert_same();
    let bytes = bench.record.bytes(Verb::GetRange, "pack/");
    assert!(bytes < 3 << 20, "{bytes} bytes read for 1 MiB");
}

#[test]
fn a_large_file_streams_through_small_batches() {
    let bench = Bench::new();
    bench.write("large", noise(1, 40 << 20));
    bench.write("next", b"next");
    bench.backup();
    let bench = bench.with_options(|options| options.memory = 128 << 10);
    bench.restore(&Options { verify: true, ..Options::default() });
    bench.assert_same();
}

#[test]
fn a_directory_of_many_stretches_comes_back() {
    let bench = Bench::new();
    for n in 0..3000 {
        bench.write(&format!("wide/{n:04}/x"), n.to_string());
    }
    bench.backup();
    let summary = bench.restore(&Options::default());
    bench.assert_same();
    assert_eq!(summary.files_restored, 6_001);
}
