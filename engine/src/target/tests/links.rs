//! Files with several names.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

fn id(ino: u64, nlink: u64) -> HardLink {
    HardLink { dev: 1, ino, nlink }
}

fn linked_meta(bytes: &[u8], id: HardLink) -> Metadata {
    Metadata { hardlink: Some(id), ..file_meta(bytes) }
}

fn ino(path: &Path) -> (u64, u64) {
    let stat = fs::symlink_metadata(path).unwrap();
    (stat.ino(), stat.nlink())
}

/// Restores one name, as a restore does.
fn restore(target: &Target, links: &Links, dir: &TargetDir, name: &[u8], bytes: &[u8], wanted: &Metadata) -> Settled {
    let id = wanted.hardlink.unwrap();
    let decision = decide(dir, name, wanted, target.options().overwrite).unwrap();
    match links.claim(target, &id, dir, name, decision).unwrap() {
        Claim::First if decision == Decision::Keep(Kept::Identical) => {
            links.done(target, &id, LinkSource::existing(dir, name, wanted).unwrap())
        }
        Claim::First => {
            let finished = put(dir, name, bytes, wanted).unwrap().unwrap();
            assert_eq!(finished.problems, []);
            links.done(target, &id, finished.source)
        }
        Claim::Copy => panic!("all names are on one file system"),
        Claim::Linked | Claim::Queued | Claim::Kept(_) => Settled::default(),
    }
}

#[test]
fn across_directories_and_over_what_is_there() {
    let temp = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir_in(temp.path().parent().unwrap()).unwrap();
    fs::write(outside.path().join("precious"), b"old").unwrap();
    let target = open(temp.path(), Options::default());
    let links = Links::default();
    let wanted = linked_meta(b"shared", id(9, 3));
    let a = target.root().make_dir(b"a", &meta(NodeKind::Dir)).unwrap();
    let b = target.root().make_dir(b"b", &meta(NodeKind::Dir)).unwrap();
    // Under one of the names stands a file whose other name is outside: that one must not change.
    fs::hard_link(outside.path().join("precious"), temp.path().join("b/y")).unwrap();
    let before = listing(&outside.path().join("precious"));
    restore(&target, &links, &a, b"x", b"shared", &wanted);
    restore(&target, &links, &b, b"y", b"shared", &wanted);
    restore(&target, &links, target.root(), b"z", b"shared", &wanted);
    assert_eq!(links.incomplete(), 0, "forgotten with the last name");
    assert_eq!(links.finish(&target), []);
    for dir in [a, b] {
        assert_eq!(dir.finish(&meta(NodeKind::Dir)), []);
    }
    let (first, count) = ino(&temp.path().join("a/x"));
    assert_eq!((ino(&temp.path().join("b/y")), ino(&temp.path().join("z")), count), ((first, 3), (first, 3), 3));
    assert_eq!(fs::metadata(temp.path().join("b")).unwrap().mtime(), 1_000_000_000, "directory times are last");
    let after = listing(&outside.path().join("precious"));
    let without_link_count =
        |found: BTreeMap<PathBuf, String>| found.into_values().next().unwrap().replace(", 2)", ", 1)");
    assert_eq!(without_link_count(after), without_link_count(before));
}

#[test]
fn names_from_many_threads_while_the_file_is_being_written() {
    const THREADS: usize = 8;
    const FILES: u64 = 60;
    let temp = tempfile::tempdir().unwrap();
    let target = open(temp.path(), Options::default());
    let links = Links::default();
    let dirs: Vec<_> = (0..THREADS)
        .map(|at| target.root().make_dir(format!("{at}").as_bytes(), &meta(NodeKind::Dir)).unwrap())
        .collect();
    let (start, linked) = (Barrier::new(THREADS), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for dir in &dirs {
            let (target, links, start, linked) = (&target, &links, &start, &linked);
            scope.spawn(move || {
                for file in 0..FILES {
                    start.wait();
                    let wanted = linked_meta(b"bytes", id(file, THREADS as u64));
                    let settled = restore(target, links, dir, format!("f{file}").as_bytes(), b"bytes", &wanted);
                    assert_eq!((settled.problems, settled.copy.len()), (vec![], 0));
                    linked.fetch_add(settled.linked as usize, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(links.incomplete(), 0);
    for file in 0..FILES {
        let inodes: Vec<_> = (0..THREADS).map(|at| ino(&temp.path().join(format!("{at}/f{file}")))).collect();
        assert!(inodes.iter().all(|&one| one == (inodes[0].0, THREADS as u64)), "{inodes:?}");
    }
    assert!((0..THREADS).all(|at| names_in(&temp.path().join(format!("{at}"))).len() == FILES as usize));
}

#[test]
fn names_that_wait_are_handed_back_when_the_file_fails() {
    let temp = tempfile::tempdir().unwrap();
    let target = open(temp.path(), Options::default());
    let (links, root, id) = (Links::default(), target.root(), id(1, 3));
    let wanted = linked_meta(b"x", id);
    let claim = |name: &[u8]| links.claim(&target, &id, root, name, Decision::Create).unwrap();
    assert!(matches!(claim(b"a"), Claim::First));
    assert!(matches!(claim(b"b"), Claim::Queued));
    assert!(matches!(claim(b"c"), Claim::Queued));
    let waiting = links.give_up(&target, &id);
    assert_eq!(waiting.iter().map(|pending| pending.name.clone()).collect::<Vec<_>>(), [b"b", b"c"]);
    for pending in waiting {
        restore(&target, &links, &target.reopen(&pending.dir).unwrap(), &pending.name, b"x", &wanted);
    }
    assert_eq!((links.incomplete(), ino(&temp.path().join("b")).1), (0, 2));
}

#[test]
fn counts_that_lie_cost_links_but_no_names() {
    let temp = tempfile::tempdir().unwrap();
    let target = open(temp.path(), Options::default());
    let links = Links::default();
    for (at, nlink) in [0, 2, 2, u64::MAX].into_iter().enumerate() {
        restore(&target, &links, target.root(), format!("f{at}").as_bytes(), b"x", &linked_meta(b"x", id(1, nlink)));
    }
    assert_eq!(links.finish(&target), []);
    assert_eq!(names_in(temp.path()).len(), 4);
}

#[test]
fn a_kept_name_is_not_the_file() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("a"), b"mine").unwrap();
    let target = open(temp.path(), Options { overwrite: Overwrite::Never, ..Options::default() });
    let links = Links::default();
    let wanted = linked_meta(b"theirs", id(1, 3));
    for name in [b"a", b"b", b"c"] {
        restore(&target, &links, target.root(), name, b"theirs", &wanted);
    }
    assert_eq!((links.incomplete(), fs::read(temp.path().join("a")).unwrap()), (0, b"mine".to_vec()));
    assert_eq!(ino(&temp.path().join("b")), ino(&temp.path().join("c")));
    assert_eq!(fs::read(temp.path().join("c")).unwrap(), b"theirs");
}

#[test]
fn an_unchanged_group_is_left_alone_and_a_lost_name_comes_back() {
    let temp = tempfile::tempdir().unwrap();
    let options = || Options { overwrite: Overwrite::IfChanged, ..Options::default() };
    let wanted = linked_meta(b"x", id(1, 3));
    let run = || {
        let (target, links) = (open(temp.path(), options()), Links::default());
        for name in [b"a", b"b", b"c"] {
            restore(&target, &links, target.root(), name, b"x", &wanted);
        }
        assert_eq!(links.finish(&target), []);
        [b"a", b"b", b"c"].map(|name| ino(&temp.path().join(OsStr::from_bytes(name))))
    };
    let first = run();
    assert_eq!(run(), first);
    fs::remove_file(temp.path().join("b")).unwrap();
    assert_eq!(run(), first);
}

#[test]
fn an_immutable_file_gets_all_its_names_and_then_its_flag() {
    if !is_root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let mut wanted = linked_meta(b"x", id(1, 2));
    wanted.flags = 0x10;
    for run in ["all names", "names missing in the snapshot", "again"] {
        let target = open(temp.path(), Options { overwrite: Overwrite::IfChanged, ..Options::default() });
        let links = Links::default();
        wanted.hardlink = Some(id(1, if run == "names missing in the snapshot" { 5 } else { 2 }));
        for name in [b"a", b"b"] {
            restore(&target, &links, target.root(), name, b"x", &wanted);
        }
        assert_eq!(links.finish(&target), [], "{run}");
        let file = fs::File::open(temp.path().join("a")).unwrap();
        let flags = rustix::fs::ioctl_getflags(&file).unwrap();
        assert!(flags.contains(rustix::fs::IFlags::IMMUTABLE), "{run}");
        assert_eq!(ino(&temp.path().join("a")), ino(&temp.path().join("b")), "{run}");
    }
    let target = open(temp.path(), Options::default());
    assert_eq!(target.root().remove(b"a").unwrap() + target.root().remove(b"b").unwrap(), 2);
}

#[test]
fn links_to_something_else_than_was_restored_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let target = open(temp.path(), Options::default());
    let source = put_well(target.root(), b"a", b"x").source;
    fs::rename(temp.path().join("a"), temp.path().join("moved")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", temp.path().join("a")).unwrap();
    assert!(matches!(target.root().hard_link(b"b", Decision::Create, &source), Err(Error::Swapped { .. })));
    assert!(!temp.path().join("b").exists());
}
