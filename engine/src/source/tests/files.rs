//! Bytes, holes, and change while reading.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::time::Duration;

use super::*;
use crate::format::node::Extent;
use crate::source::{Change, File};

const BLOCK: u64 = 4096;

fn extents(file: &File, size: u64) -> Vec<(u64, u64)> {
    file.extents(size).map(|e| e.map(|Extent { start, len }| (start, len)).unwrap()).collect()
}

fn open_file(tmp: &Path, options: &Options) -> (Stat, File) {
    let dir = open_with(tmp, options);
    let stat = dir.stat(b"file").unwrap();
    (stat, dir.open_file(b"file", &stat).unwrap())
}

#[test]
fn holes_are_mapped_exactly() {
    on_each_file_system(|tmp| {
        let file = fs::File::create(tmp.join("file")).unwrap();
        file.write_all_at(&[1; 100], 0).unwrap();
        file.write_all_at(&[2; 2 * BLOCK as usize], 1 << 20).unwrap();
        file.write_all_at(&[3; 10], (5 << 20) + BLOCK).unwrap();
        file.set_len(9 << 20).unwrap();
        let (stat, read) = open_file(tmp, &Options::default());
        assert_eq!(stat.size, 9 << 20);
        let expected = [(0, BLOCK), (1 << 20, 2 * BLOCK), ((5 << 20) + BLOCK, BLOCK)];
        assert_eq!(extents(&read, stat.size), expected);
        assert_eq!(extents(&read, (1 << 20) + 5), [(0, BLOCK), (1 << 20, 5)], "cut where the stated size ends");
        assert_eq!(extents(&read, 2 * BLOCK), [(0, BLOCK)], "the next data lies behind the stated size");
        assert_eq!(extents(&read, 0), []);
    });
}

#[test]
fn files_of_one_hole_or_none() {
    on_each_file_system(|tmp| {
        let file = fs::File::create(tmp.join("file")).unwrap();
        assert_eq!(extents(&open_file(tmp, &Options::default()).1, 0), []);
        file.set_len(1 << 40).unwrap();
        assert_eq!(extents(&open_file(tmp, &Options::default()).1, 1 << 40), []);
        file.set_len(0).unwrap();
        file.write_all_at(&[1; 10_001], 0).unwrap();
        let (stat, read) = open_file(tmp, &Options::default());
        assert_eq!(extents(&read, stat.size), [(0, 10_001)]);
        assert_eq!(extents(&read, 1 << 30), [(0, 10_001)], "shorter than stated: the rest is not there");
    });
}

#[test]
fn thousands_of_holes_come_one_by_one() {
    on_each_file_system(|tmp| {
        const PIECES: u64 = 3000;
        let file = fs::File::create(tmp.join("file")).unwrap();
        for n in 0..PIECES {
            file.write_all_at(b"x", n * 4 * BLOCK).unwrap();
        }
        let (stat, read) = open_file(tmp, &Options::default());
        assert_eq!(extents(&read, stat.size).len() as u64, PIECES);
        let (mut a, mut b) = (read.extents(stat.size), read.extents(stat.size));
        for n in 0..10 {
            assert_eq!(
                a.next().unwrap().unwrap().start,
                n * 4 * BLOCK,
                "two maps of one file do not disturb each other"
            );
            assert_eq!(b.next().unwrap().unwrap().start, n * 4 * BLOCK);
        }
    });
}

#[test]
fn bytes_are_read_by_position() {
    let tmp = tempfile::tempdir().unwrap();
    fs::write(tmp.path().join("file"), b"0123456789").unwrap();
    let (_, file) = open_file(tmp.path(), &Options::default());
    let mut buf = [0; 4];
    assert_eq!((file.read_at(8, &mut buf).unwrap(), &buf[..2]), (2, b"89".as_slice()));
    assert_eq!((file.read_at(0, &mut buf).unwrap(), &buf), (4, b"0123"));
    assert_eq!(file.read_at(10, &mut buf).unwrap(), 0);
    assert_eq!(file.read_at(1 << 60, &mut buf).unwrap(), 0);
}

/// A lease answers an open without waiting with EAGAIN; a backup must not leave such files out.
#[test]
fn a_leased_file_is_waited_for() {
    on_each_file_system(|tmp| {
        fs::write(tmp.join("file"), b"abc").unwrap();
        let holder = fs::OpenOptions::new().write(true).open(tmp.join("file")).unwrap();
        if let Err(e) = crate::sys::set_write_lease(&holder, true) {
            return skip(&format!("no leases on {}: {e}", tmp.display()));
        }
        let begun = std::time::Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(100));
                crate::sys::set_write_lease(&holder, false).unwrap();
            });
            let (_, file) = open_file(tmp, &Options::default());
            assert!(begun.elapsed() >= Duration::from_millis(90), "the lease was in the way");
            assert_eq!(file.read_at(0, &mut [0; 8]).unwrap(), 3);
        });
    });
}

/// What a reader sees after `change` was done to a file of three bytes that it has opened.
fn change_seen(options: &Options, change: impl Fn(&Path)) -> Change {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("file");
    fs::write(&path, b"abc").unwrap();
    let (stat, file) = open_file(tmp.path(), options);
    assert_eq!(file.check_unchanged(&stat).unwrap(), Change::None);
    // Older kernels count file times in ticks of up to 10 ms.
    std::thread::sleep(Duration::from_millis(20));
    change(&path);
    file.check_unchanged(&stat).unwrap()
}

#[test]
fn change_while_reading_is_noticed() {
    let options = Options::default();
    let append = |path: &Path| fs::OpenOptions::new().append(true).open(path).unwrap().write_all(b"d").unwrap();
    assert_eq!(change_seen(&options, append), Change::Size { was: 3, is: 4 });
    let truncate = |path: &Path| fs::OpenOptions::new().write(true).open(path).unwrap().set_len(1).unwrap();
    assert_eq!(change_seen(&options, truncate), Change::Size { was: 3, is: 1 });
    let overwrite = |path: &Path| {
        fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(b"x", 1).unwrap();
    };
    assert_eq!(change_seen(&options, overwrite), Change::Times);
    let chmod = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(change_seen(&options, chmod), Change::Times);
    assert_eq!(change_seen(&Options { ignore_ctime: true, ..options }, chmod), Change::None);
    assert_eq!(change_seen(&Options { ignore_ctime: true, ..options }, overwrite), Change::Times);
    assert_eq!(change_seen(&options, |_| {}), Change::None);
}

#[test]
fn a_stat_of_another_file_does_not_pass() {
    let tmp = tempfile::tempdir().unwrap();
    fs::write(tmp.path().join("file"), b"abc").unwrap();
    fs::write(tmp.path().join("other"), b"abc").unwrap();
    let (_, file) = open_file(tmp.path(), &Options::default());
    let other = open(tmp.path()).stat(b"other").unwrap();
    assert_eq!(file.check_unchanged(&other).unwrap(), Change::Replaced);
}

/// Whether the page cache holds the first byte.
fn is_cached(file: &fs::File) -> bool {
    let mut byte = [0];
    let mut buffers = [std::io::IoSliceMut::new(&mut byte)];
    rustix::io::preadv2(file, &mut buffers, 0, rustix::io::ReadWriteFlags::NOWAIT) == Ok(1)
}

#[test]
fn the_cache_keeps_what_it_held_before() {
    let tmp = tempfile::tempdir().unwrap();
    let size: u64 = 1 << 20;
    let other = fs::File::create_new(tmp.path().join("file")).unwrap();
    (&other).write_all(&vec![1; size as usize]).unwrap();
    other.sync_all().unwrap();
    let other = fs::File::open(tmp.path().join("file")).unwrap();
    if !is_cached(&other) {
        return skip("this file system does not tell what is cached");
    }
    let read = || {
        let (_, file) = open_file(tmp.path(), &Options::default());
        file.advise_sequential(size);
        assert_eq!(file.read_at(0, &mut vec![0; size as usize]).unwrap(), size as usize);
        file.advise_dontneed(0, size);
        is_cached(&other)
    };
    assert!(read(), "was cached before, so it stays");
    // Pages that are still being read, as the probe itself may have begun to do, cannot be dropped.
    let drop_all = || {
        std::thread::sleep(Duration::from_millis(20));
        rustix::fs::fadvise(&other, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    };
    drop_all();
    if is_cached(&other) {
        return skip("the cache cannot be dropped here");
    }
    let goes = (0..20).any(|_| {
        drop_all();
        !read()
    });
    assert!(goes, "was not cached before, so it goes");
}
