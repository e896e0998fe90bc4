//! Every kind of entry, and bytes that arrive in any order.

use std::os::fd::AsFd;

use proptest::prelude::*;
use rustix::fs::SeekFrom;

use super::*;

/// Data stretches of a file as the file system reports them.
fn data_extents(path: &Path) -> Vec<(u64, u64)> {
    let file = fs::File::open(path).unwrap();
    let (mut at, mut extents) = (0, Vec::new());
    while let Ok(start) = rustix::fs::seek(file.as_fd(), SeekFrom::Data(at)) {
        let end = rustix::fs::seek(file.as_fd(), SeekFrom::Hole(start)).unwrap();
        extents.push((start, end));
        at = end;
    }
    extents
}

#[test]
fn every_kind_with_owner_mode_and_times() {
    let temp = tempfile::tempdir().unwrap();
    let target = open(temp.path(), Options::default());
    let root = target.root();
    let mut kinds = vec![
        (NodeKind::File { size: 3 }, 0o640),
        (NodeKind::Symlink { target: b"/nowhere/\xff".to_vec() }, 0o777),
        (NodeKind::Fifo, 0o601),
        (NodeKind::Socket, 0o711),
        (NodeKind::Dir, 0o2571),
    ];
    if is_root() {
        kinds.push((NodeKind::CharDevice { rdev: rustix::fs::makedev(1, 3) }, 0o666));
        kinds.push((NodeKind::BlockDevice { rdev: rustix::fs::makedev(300, 70_000) }, 0o660));
    }
    for (at, (kind, mode)) in kinds.into_iter().enumerate() {
        let mut wanted = meta(kind.clone());
        wanted.mode = mode;
        wanted.mtime.secs = -(at as i64) * 300_000_007;
        if is_root() {
            (wanted.uid, wanted.gid) = (1_234, 5_678);
        }
        let name = format!("entry{at}");
        let problems = match kind {
            NodeKind::Dir => root.make_dir(name.as_bytes(), &wanted).unwrap().finish(&wanted),
            NodeKind::File { .. } => put(root, name.as_bytes(), b"abc", &wanted).unwrap().unwrap().problems,
            NodeKind::Symlink { .. } => root.symlink(name.as_bytes(), &wanted, Decision::Create).unwrap().problems,
            _ => root.special(name.as_bytes(), &wanted, Decision::Create).unwrap().problems,
        };
        assert_eq!(problems, []);
        let stat = rustix::fs::lstat(temp.path().join(&name)).unwrap();
        assert_eq!(rustix::fs::FileType::from_raw_mode(stat.st_mode), existing::wanted_type(&kind));
        assert_eq!((stat.st_mode & 0o7777, stat.st_uid, stat.st_gid), (mode, wanted.uid, wanted.gid), "{kind:?}");
        assert_eq!(crate::target::attributes::modified(&stat), wanted.mtime);
        assert_eq!((stat.st_atime, stat.st_atime_nsec as u32), (wanted.atime.secs, wanted.atime.nanos));
        if let NodeKind::CharDevice { rdev } | NodeKind::BlockDevice { rdev } = kind {
            assert_eq!(stat.st_rdev, rdev);
        }
    }
    assert_eq!(fs::read_link(temp.path().join("entry1")).unwrap().as_os_str().as_bytes(), b"/nowhere/\xff");
}

#[test]
fn bytes_in_any_order_from_many_threads_with_holes_as_they_were() {
    const BLOCK: u64 = 64 << 10;
    let temp = tempfile::tempdir().unwrap();
    let target = open(temp.path(), Options::default());
    let wanted = meta(NodeKind::File { size: 40 * BLOCK + 5 });
    let file = target.root().begin_file(b"holes", &wanted, Decision::Create).unwrap();
    // Blocks 8..16 and 24..32 hold bytes (the second all zeros), the rest is hole.
    let order = [31, 8, 15, 24, 9, 30, 10, 25, 11, 29, 12, 26, 13, 28, 14, 27];
    std::thread::scope(|scope| {
        for part in order.chunks(4) {
            let file = &file;
            scope.spawn(move || {
                for &block in part {
                    let byte = if block < 16 { block as u8 } else { 0 };
                    file.write_at(block * BLOCK, &vec![byte; BLOCK as usize]).unwrap();
                }
            });
        }
    });
    assert!(!temp.path().join("holes").exists(), "not before it is whole");
    assert_eq!(file.finish(&wanted).unwrap().problems, []);
    let path = temp.path().join("holes");
    assert_eq!(data_extents(&path), [(8 * BLOCK, 16 * BLOCK), (24 * BLOCK, 32 * BLOCK)]);
    let bytes = fs::read(&path).unwrap();
    assert_eq!(bytes.len() as u64, 40 * BLOCK + 5);
    for (at, block) in bytes.chunks(BLOCK as usize).enumerate() {
        let byte = if (8..16).contains(&at) { at as u8 } else { 0 };
        assert!(block.iter().all(|&is| is == byte), "block {at}");
    }
    assert_eq!(names_in(temp.path()), [b"holes".to_vec()]);
}

#[test]
fn sparse_makes_holes_of_zeros() {
    let temp = tempfile::tempdir().unwrap();
    let target = open(temp.path(), Options { sparse: true, ..Options::default() });
    let wanted = meta(NodeKind::File { size: 1 << 20 });
    let file = target.root().begin_file(b"f", &wanted, Decision::Create).unwrap();
    file.write_at(0, &vec![0; 1 << 20]).unwrap();
    file.write_at(500_000, b"x").unwrap();
    file.finish(&wanted).unwrap();
    let extents = data_extents(&temp.path().join("f"));
    assert_eq!(extents, [(500_000 / 4096 * 4096, 500_000 / 4096 * 4096 + 4096)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Whatever is written where, with and without `sparse`: the file reads like a plain buffer that was written to.
    #[test]
    fn reads_like_a_buffer(
        sparse: bool,
        writes in prop::collection::vec((0_u64..40_000, 0_usize..9_000, prop::bool::ANY), 0..12),
    ) {
        let temp = tempfile::tempdir().unwrap();
        let target = open(temp.path(), Options { sparse, ..Options::default() });
        let mut buffer = vec![0; 50_000];
        let wanted = file_meta(&buffer);
        let file = target.root().begin_file(b"f", &wanted, Decision::Create).unwrap();
        let mut written = vec![false; buffer.len()];
        for (at, (offset, len, zeros)) in writes.into_iter().enumerate() {
            // Zeros only where nothing was written: a restore never writes one byte twice with different values.
            let range = offset as usize..offset as usize + len;
            if written[range.clone()].iter().any(|&is| is) {
                continue;
            }
            written[range.clone()].fill(true);
            let mut bytes = vec![if zeros { 0 } else { at as u8 + 1 }; len];
            bytes.iter_mut().skip(4_500).for_each(|byte| *byte = 0);
            file.write_at(offset, &bytes).unwrap();
            buffer[range].copy_from_slice(&bytes);
        }
        file.finish(&wanted).unwrap();
        prop_assert_eq!(fs::read(temp.path().join("f")).unwrap(), buffer);
    }
}

#[test]
fn bytes_beyond_the_size_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let target = open(temp.path(), Options::default());
    let file = target.root().begin_file(b"f", &file_meta(b"abc"), Decision::Create).unwrap();
    file.write_at(3, b"").unwrap();
    for (offset, bytes) in [(1, b"abc".as_slice()), (3, b"x"), (u64::MAX, b"x"), (u64::MAX, b"")] {
        let error = file.write_at(offset, bytes).unwrap_err();
        assert!(matches!(error, Error::Beyond { .. }), "{offset}: {error}");
    }
    drop(file);
    assert!(names_in(temp.path()).is_empty(), "an unfinished file leaves nothing");
}

#[test]
fn a_size_that_no_file_can_have_is_an_error() {
    let temp = tempfile::tempdir().unwrap();
    let target = open(temp.path(), Options::default());
    for size in [u64::MAX, i64::MAX as u64] {
        assert!(target.root().begin_file(b"f", &meta(NodeKind::File { size }), Decision::Create).is_err());
    }
    assert!(names_in(temp.path()).is_empty());
}

#[test]
fn names_of_any_bytes() {
    let temp = tempfile::tempdir().unwrap();
    let target = open(temp.path(), Options::default());
    let long = vec![b'n'; 255];
    let names: [&[u8]; 5] = [b"\xff\xfe", b"new\nline", b"...", b" ", &long];
    for name in names {
        let dir = target.root().make_dir(name, &meta(NodeKind::Dir)).unwrap();
        put_well(&dir, name, b"bytes");
        assert_eq!(dir.finish(&meta(NodeKind::Dir)), []);
        let path = temp.path().join(OsStr::from_bytes(name)).join(OsStr::from_bytes(name));
        assert_eq!(fs::read(path).unwrap(), b"bytes");
    }
}

#[test]
fn a_directory_is_reopened_by_its_path_however_deep() {
    let temp = tempfile::tempdir().unwrap();
    let target = open(temp.path(), Options::default());
    // Deeper than one path can say: 40 names of 200 bytes.
    let name = vec![b'd'; 200];
    let mut dir = target.root().clone();
    for _ in 0..40 {
        dir = dir.make_dir(&name, &meta(NodeKind::Dir)).unwrap();
    }
    let path = dir.dir_path().clone();
    drop(dir);
    let dir = target.reopen(&path).unwrap();
    put_well(&dir, b"f", b"deep");
    assert_eq!(target.reopen(&path).unwrap().entries().unwrap(), [Entry { name: b"f".to_vec(), is_dir: false }]);
    assert_eq!(target.root().remove(&name).unwrap(), 41);
}

#[test]
fn too_deep_is_an_error_and_all_of_it_can_be_removed() {
    let temp = tempfile::tempdir().unwrap();
    let target = open(temp.path(), Options::default());
    let mut dir = target.root().clone();
    for _ in 0..DEPTH_MAX {
        dir = dir.make_dir(b"d", &meta(NodeKind::Dir)).unwrap();
    }
    assert!(matches!(dir.make_dir(b"d", &meta(NodeKind::Dir)), Err(Error::Deep { .. })));
    drop(dir);
    assert_eq!(target.root().remove(b"d").unwrap(), u64::from(DEPTH_MAX));
    assert!(names_in(temp.path()).is_empty());
}
