//! Directories, attributes and inodes.

use super::*;
use crate::format::node::HardLink;

#[test]
fn attributes_are_those_that_were_stored() {
    let bench = Bench::new();
    bench.snapshot(0, &[], |worker| {
        let mut file = small_file(worker, "file", b"hello");
        file.0.metadata.mode = 0o4755;
        file.0.metadata.flags = 0x10;
        file.0.metadata.project = 9;
        file.0.metadata.xattrs = vec![
            Xattr { name: b"system.posix_acl_access".to_vec(), value: vec![2, 0, 0, 0] },
            Xattr { name: b"user.a".to_vec(), value: b"value".to_vec() },
        ];
        let link = entry("link", NodeKind::Symlink { target: b"../x\xff".to_vec() }, TreeKind::Symlink, vec![]);
        let null = entry("null", NodeKind::CharDevice { rdev: 0x103 }, TreeKind::CharDevice, vec![]);
        let pipe = entry("pipe", NodeKind::Fifo, TreeKind::Fifo, vec![]);
        directory(worker, vec![file, link, null, pipe])
    });
    let vfs = bench.vfs();
    let root = "snapshots/1970-01-01T00:00:00Z";
    let file = walk(&vfs, &format!("{root}/file")).unwrap();
    let expected = Attributes {
        ino: file.ino,
        kind: FileKind::File,
        size: 5,
        blocks: 1,
        mode: 0o4755,
        nlink: 1,
        uid: 7,
        gid: 8,
        rdev: 0,
        mtime: Timestamp { secs: 5, nanos: 123_456_789 },
        atime: Timestamp { secs: -5, nanos: 1 },
        ctime: Timestamp { secs: 6, nanos: 2 },
        lasting: true,
    };
    assert_eq!(file, expected);
    assert_eq!(vfs.attributes(file.ino), Ok(expected));
    assert_eq!(vfs.flags(file.ino), Ok((0x10, 9)));
    assert_eq!(vfs.xattrs(file.ino).unwrap().len(), 2);
    assert_eq!(vfs.xattr(file.ino, b"user.a").unwrap(), b"value");
    assert_eq!(vfs.xattr(file.ino, b"user.b"), Err(Failure::NoAttribute));
    assert_eq!(vfs.read_link(file.ino), Err(Failure::WrongKind));

    let link = walk(&vfs, &format!("{root}/link")).unwrap();
    assert_eq!((link.size, vfs.read_link(link.ino).unwrap()), (5, b"../x\xff".to_vec()));
    assert_eq!(vfs.open(link.ino), Err(Failure::WrongKind));
    assert_eq!(walk(&vfs, &format!("{root}/null")).unwrap().rdev, 0x103);
    assert_eq!(walk(&vfs, &format!("{root}/pipe")).unwrap().kind, FileKind::Fifo);
    assert_eq!(walk(&vfs, &format!("{root}/file/x")), Err(Failure::NotDir));
    assert_eq!(walk(&vfs, &format!("{root}/none")), Err(Failure::NotFound));
    let top = walk(&vfs, root).unwrap();
    assert_eq!((top.mode, top.kind, vfs.open(top.ino)), (0o555, FileKind::Dir, Err(Failure::IsDir)));
}

#[test]
fn names_of_one_file_share_an_inode_within_a_snapshot_only() {
    let bench = Bench::new();
    bench.snapshot(0, &[], |worker| {
        let linked = |mut made: Made| {
            made.0.metadata.hardlink = Some(HardLink { dev: 1, ino: 2, nlink: 3 });
            made
        };
        let a = linked(small_file(worker, "a", b"x"));
        let b = linked(small_file(worker, "b", b"x"));
        let below = directory(worker, vec![b]);
        // Damaged or hostile: a directory is never linked.
        let dirs = ["d", "e"].map(|name| linked(dir_entry(name, below)));
        directory(worker, [vec![a], dirs.into()].concat())
    });
    let vfs = bench.vfs();
    let root = "snapshots/latest-is-a-link";
    assert_eq!(walk(&vfs, root), Err(Failure::NotFound));
    let [one, two] = ["snapshots", "hosts/host"].map(|top| format!("{top}/1970-01-01T00:00:00Z"));
    let ino = |path: String| walk(&vfs, &path).unwrap().ino;
    let a = walk(&vfs, &format!("{one}/a")).unwrap();
    assert_eq!((a.nlink, a.ino), (3, ino(format!("{one}/d/b"))));
    assert_eq!(a.ino, ino(format!("{one}/e/b")));
    assert_ne!(a.ino, ino(format!("{two}/a")));
    assert_ne!(ino(format!("{one}/d")), ino(format!("{one}/e")));
    let listed = list(&vfs, ino(one.clone()), false, 10);
    assert_eq!(listed[0], ("a".into(), FileKind::File, a.ino));
}

#[test]
fn large_directories_are_listed_in_pieces_from_any_offset() {
    let bench = Bench::new();
    let name = |n: usize| format!("f{n:06}");
    bench.snapshot(0, &[], |worker| {
        let parts =
            (0..6).map(|part| (part * 700..(part + 1) * 700).map(|n| small_file(worker, &name(n), b"")).collect());
        let parts = parts.collect();
        let tree = split(worker, parts);
        let empty = directory(worker, vec![]);
        directory(worker, vec![dir_entry("large", tree), dir_entry("empty", empty)])
    });
    let vfs = bench.vfs();
    let root = "snapshots/1970-01-01T00:00:00Z";
    let large = walk(&vfs, &format!("{root}/large")).unwrap().ino;
    let all: Vec<String> = (0..4200).map(name).collect();
    for (plus, room) in [(false, 1000), (true, 999), (false, 1), (true, 4300)] {
        let listed = list(&vfs, large, plus, room);
        assert!(listed.iter().map(|l| &l.0).eq(&all), "{plus} {room}");
    }
    let listed = list(&vfs, large, false, 500);
    for n in [0, 699, 700, 4199] {
        let found = vfs.lookup(large, name(n).as_bytes()).unwrap();
        assert_eq!(found.ino, listed[n].2, "what is listed is what is looked up");
    }
    for none in ["a", "f000699x", "z"] {
        assert_eq!(vfs.lookup(large, none.as_bytes()), Err(Failure::NotFound));
    }
    assert!(names(&vfs, &format!("{root}/empty")).is_empty());
}

#[test]
fn offsets_hold_while_the_cache_turns_over() {
    let bench = Bench::new();
    bench.snapshot(0, &[], |worker| {
        let parts =
            (0..8).map(|p| (0..500).map(|n| small_file(worker, &format!("{p}-{n:04}"), b"")).collect()).collect();
        split(worker, parts)
    });
    let vfs = bench.vfs_with(|options| options.memory = 1 << 10);
    let ino = walk(&vfs, "snapshots/1970-01-01T00:00:00Z").unwrap().ino;
    assert_eq!(list(&vfs, ino, true, 333).len(), 4000);
    let held = vfs.held_inodes();
    assert!(held > 4000, "{held}");
}

#[test]
fn inodes_go_with_their_last_lookup() {
    let bench = Bench::new();
    bench.snapshot(0, &[], |worker| {
        let made = (0..100).map(|n| small_file(worker, &format!("{n:03}"), b"")).collect();
        directory(worker, made)
    });
    let vfs = bench.vfs();
    let ino = walk(&vfs, "snapshots/1970-01-01T00:00:00Z").unwrap().ino;
    let before = vfs.held_inodes();
    let listed = list(&vfs, ino, true, 7);
    assert_eq!(vfs.held_inodes(), before + 100, "a name that found no room is not held");
    let again = vfs.lookup(ino, b"000").unwrap();
    assert_eq!(again.ino, listed[0].2);
    listed.iter().for_each(|l| vfs.forget(l.2, 1));
    assert_eq!(vfs.held_inodes(), before + 1);
    assert!(vfs.attributes(again.ino).is_ok());
    vfs.forget(again.ino, 1);
    assert_eq!(vfs.attributes(again.ino), Err(Failure::Stale));
    assert_eq!(list(&vfs, ino, false, 7).len(), 100);
    assert_eq!(vfs.held_inodes(), before, "a listing without attributes holds nothing");
}

#[test]
fn a_directory_that_does_not_fit_its_list_of_stretches_is_damage() {
    let bench = Bench::new();
    bench.snapshot(0, &[], |worker| {
        let stretches = [["a", "b"], ["k", "l"]]
            .map(|names| names.map(|name| small_file(worker, name, b"")).to_vec())
            .map(|made| directory(worker, made));
        let names = Meta::Split(vec![b"a".to_vec(), b"j".to_vec()]);
        let meta = worker.store(BlobKind::Meta, &names.encode()).unwrap();
        worker.store(BlobKind::Tree, &Tree::Split { meta, stretches: stretches.to_vec() }.encode()).unwrap()
    });
    let vfs = bench.vfs();
    let ino = walk(&vfs, "snapshots/1970-01-01T00:00:00Z").unwrap().ino;
    assert!(vfs.lookup(ino, b"b").is_ok());
    assert_eq!(vfs.lookup(ino, b"k"), Err(Failure::Unreadable));
    let mut given = Vec::new();
    let mut listing = |offset| {
        vfs.read_dir(ino, 0, offset, false, &mut |l| {
            given.push((l.name.to_vec(), l.next));
            false
        })
    };
    assert_eq!(listing(2), Ok(()));
    let (last, next) = given.pop().unwrap();
    assert_eq!(last, b"b");
    let read_on = vfs.read_dir(ino, 0, next, false, &mut |_| false);
    assert_eq!(read_on, Err(Failure::Unreadable));
    let problems = bench.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].starts_with("snapshots/1970-01-01T00:00:00Z: "), "{problems:?}");
}
