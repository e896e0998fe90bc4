//! Trees of unusual shapes, and what a repeat of them stores.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use copal_engine::Error;
use copal_engine::crypto::kem;
use copal_engine::format::tree::TreeKind;
use copal_engine::ops::backup::{Options, Summary};
use copal_engine::progress::{Collect, ProblemKind};
use copal_engine::repo::Reader;
use copal_engine::store::{Store, Verb};

use crate::bench::{Bench, Held, make_source, noise, on_disk, options, same_content, settle};

/// Kinds of objects that a backup writes.
fn writes(bench: &Bench) -> BTreeSet<String> {
    let log = bench.record.log();
    let written = log.iter().filter(|op| matches!(op.verb, Verb::Put | Verb::PutNew));
    written.map(|op| op.key.split('/').next().unwrap().to_owned()).collect()
}

fn assert_repeat_writes_nothing(bench: &Bench) -> Summary {
    bench.record.take();
    let repeat = bench.backup();
    assert_eq!(writes(bench).into_iter().collect::<Vec<_>>(), ["pin", "snap"]);
    assert_eq!(repeat.counts.files[..2], [0, 0]);
    repeat
}

fn assert_whole(bench: &Bench) {
    let now = on_disk(&bench.source());
    bench.restore_all().iter().for_each(|(_, content)| same_content(content, &now, "restored"));
}

#[test]
fn holes_come_back_and_are_not_stored() {
    let bench = Bench::new();
    let at = |name: &str| bench.source().join(name);
    let sparse = |name: &str, size: u64, data: &[(u64, usize)]| {
        let file = fs::File::create(at(name)).unwrap();
        data.iter().for_each(|&(offset, len)| file.write_all_at(&noise(offset, len), offset).unwrap());
        file.set_len(size).unwrap();
    };
    sparse("only-hole", 10 << 20, &[]);
    sparse("tiny-hole", 1, &[]);
    sparse("hole-first", 3 << 20, &[(2 << 20, 1 << 20)]);
    sparse("hole-last", 5 << 20, &[(0, 300_000)]);
    sparse("mixed", 12 << 20, &[(1 << 20, 100_000), (4 << 20, 4096), (7 << 20, 700_001), ((12 << 20) - 1, 1)]);
    let every = (0..300).map(|n| (n * 16384, 4096)).collect::<Vec<_>>();
    sparse("many", 300 * 16384, &every);
    settle();
    let first = bench.backup();
    assert!(first.counts.added < 8 << 20, "{}", first.counts.added);
    assert_repeat_writes_nothing(&bench);
    assert_whole(&bench);
}

#[test]
fn a_file_of_very_many_chunks_is_stored_in_parts() {
    let bench = Bench { threads: 2, memory_cap: 256 << 20, ..Bench::new() };
    let file = bench.source().join("large");
    fs::write(&file, noise(1, 150 << 20)).unwrap();
    settle();
    bench.backup();
    let (repo, view) = bench.view();
    let reader = Reader::new(repo, Arc::clone(&view.index), 8 << 20);
    let root = view.snapshots[0].graph.root.unwrap();
    let node = reader.find(&root, b"/source/large").unwrap().unwrap();
    assert_eq!(node.kind, TreeKind::LargeFile);
    assert!(node.children.len() >= 3);
    assert_repeat_writes_nothing(&bench);
    assert_whole(&bench);

    // One byte: one or two chunks, the part that holds them, and the directories above.
    let writable = fs::File::options().write(true).open(&file).unwrap();
    writable.write_all_at(b"!", 75 << 20).unwrap();
    let third = bench.backup();
    assert!(third.counts.blobs[0] <= 2 && third.counts.blobs[1] <= 8, "{:?}", third.counts.blobs);
    same_content(&bench.restore_all().pop().unwrap().1, &on_disk(&bench.source()), "changed");
}

#[test]
fn one_changed_entry_of_a_directory_of_stretches_rewrites_one_stretch() {
    let bench = Bench { threads: 2, ..Bench::new() };
    for n in 0..6000 {
        fs::write(bench.source().join(format!("{n:05}")), format!("content {n}")).unwrap();
    }
    settle();
    bench.backup();
    let (repo, view) = bench.view();
    let reader = Reader::new(repo, Arc::clone(&view.index), 8 << 20);
    let root = view.snapshots[0].graph.root.unwrap();
    let tree = reader.find(&root, b"/source").unwrap().unwrap().tree().unwrap();
    assert!(reader.stretches(&tree).unwrap().len() >= 3, "it is a directory of stretches");
    assert_repeat_writes_nothing(&bench);

    fs::write(bench.source().join("03000"), b"changed").unwrap();
    let third = bench.backup();
    assert_eq!(third.counts.files, [0, 1, 5999]);
    // Meta and tree of the stretch, the list of stretches, and at most meta and tree of /.
    assert_eq!(third.counts.blobs[0], 1);
    assert!(third.counts.blobs[1] <= 5, "{:?}", third.counts.blobs);
    same_content(&bench.restore_all().pop().unwrap().1, &on_disk(&bench.source()), "changed");
}

#[test]
fn links_depths_and_raw_names_come_back() {
    let bench = Bench { threads: 2, ..Bench::new() };
    let source = bench.source();
    fs::write(source.join("one"), noise(1, 500_000)).unwrap();
    fs::hard_link(source.join("one"), source.join("two")).unwrap();
    for name in [&b"\xff\xfe raw"[..], b"new\nline", b"\x01", &[b'n'; 255], "ümlaut".as_bytes(), b"..."] {
        fs::write(source.join(std::ffi::OsString::from_vec(name.to_vec())), name).unwrap();
    }
    // Deeper than a path may be long: step by step.
    let depth = 1000;
    let mut at = rustix::fs::open(&source, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    for _ in 0..depth {
        rustix::fs::mkdirat(&at, "deepdir", 0o755.into()).unwrap();
        at = rustix::fs::openat(&at, "deepdir", rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    }
    rustix::fs::symlinkat("end", &at, "end").unwrap();
    settle();
    let first = bench.backup();
    assert_eq!(first.counts.bytes, 1_000_000 + 6 + 8 + 1 + 255 + 7 + 3);
    assert_repeat_writes_nothing(&bench);
    let (repo, view) = bench.view();
    let reader = Reader::new(repo, Arc::clone(&view.index), 8 << 20);
    let root = view.snapshots[0].graph.root.unwrap();
    let path = [&b"/source/"[..], "deepdir/".repeat(depth).as_bytes(), b"end"].concat();
    assert_eq!(reader.find(&root, &path).unwrap().unwrap().kind, TreeKind::Symlink);
    let get = |name: &str| reader.find(&root, format!("/source/{name}").as_bytes()).unwrap().unwrap();
    let (one, two) = (get("one"), get("two"));
    assert_eq!(one.children, two.children);
    assert!(one.metadata.hardlink.is_some() && one.metadata.hardlink == two.metadata.hardlink);
    let restored = &bench.restore_all()[0].1;
    for entry in fs::read_dir(&source).unwrap().map(Result::unwrap) {
        let name = [b"/", entry.file_name().as_bytes()].concat();
        if entry.file_type().unwrap().is_file() {
            assert_eq!(restored[&name], Held::Bytes(fs::read(entry.path()).unwrap()));
        }
    }
}

#[test]
fn what_an_unchanged_file_lost_from_the_index_is_read_again() {
    let bench = Bench::new();
    make_source(&bench.source(), true);
    // Reading it changes its atime, and so the directory's meta.
    fs::remove_file(bench.source().join("link")).unwrap();
    settle();
    bench.backup();
    let objects = bench.memory.snapshot();
    let segments: Vec<_> = objects.keys().filter(|k| k.as_str().starts_with("idx/")).collect();
    assert!(!segments.is_empty());
    segments.iter().for_each(|k| bench.bridge.wait(bench.memory.delete(k)).unwrap());
    // Nothing local remembers it either.
    fs::remove_dir_all(bench.dir.path().join("owner/cache")).unwrap();

    let again = |skip_if_unchanged| {
        let problems = Collect::default();
        let opts = Options { skip_if_unchanged, ..options(&bench.source()) };
        let done = bench.process(&opts, &problems).unwrap();
        let problems = problems.0.into_inner().unwrap();
        assert!(problems.iter().any(|p| p.kind == ProblemKind::Damaged), "{problems:?}");
        done
    };
    // The tree is equal, and yet it must be stored anew: what is skipped would stay lost.
    let second = again(true);
    assert!(second.snapshot.is_some());
    let third = again(true);
    assert!(third.snapshot.is_none(), "now it is whole, and unchanged");
    let (repo, view) = bench.view();
    let reader = Reader::new(repo, Arc::clone(&view.index), 8 << 20);
    for snapshot in &view.snapshots {
        let content = crate::bench::read_snapshot(&reader, snapshot).unwrap();
        same_content(&content, &on_disk(&bench.source()), "the old snapshot too");
    }
}

#[test]
fn a_snapshot_of_very_many_paths_can_be_read() {
    let bench = Bench::new();
    let paths: Vec<PathBuf> = (0..1500).map(|n| bench.source().join(format!("{n:04}"))).collect();
    paths.iter().for_each(|p| fs::write(p, b"x").unwrap());
    let opts = Options { paths, as_path: None, ..options(Path::new("/")) };
    let done = bench.process(&opts, &Collect::default()).unwrap();
    assert_eq!(done.counts.files[0], 1500);
    let (_, view) = bench.view();
    assert_eq!((view.snapshots.len(), view.problems.len()), (1, 0), "{:?}", view.problems);
    let labels = vec![b"label".to_vec(); 2000];
    let refused = bench.process(&Options { labels, ..options(&bench.source()) }, &Collect::default());
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
}

#[test]
fn a_foreign_object_of_any_size_at_a_snapshots_key_ends_nobodys_work() {
    let bench = Bench::new();
    make_source(&bench.source(), false);
    bench.backup();
    let writer = "0".repeat(32);
    let key = format!("snap/{writer}/0000000000000001-0000000000000001");
    let huge = vec![0; (64 << 20) + 1];
    bench.bridge.wait(bench.memory.put(&copal_engine::store::Key::new(key.clone()).unwrap(), huge.into())).unwrap();
    let (_, view) = bench.view();
    assert_eq!((view.snapshots.len(), view.problems.len()), (1, 1));
    assert_eq!(view.problems[0].path.as_os_str(), key.as_str());
}

#[test]
fn a_wrong_stanza_for_a_session_does_not_hide_the_right_one() {
    let bench = Bench::new();
    make_source(&bench.source(), false);
    let (done, _) = bench.try_backup();
    done.unwrap();
    let (repo, view) = bench.view();
    let at = view.snapshots[0].at;
    let wrong = copal_engine::crypto::secret::Secret::from_bytes([9; 32]);
    let stanza = kem::seal_to(repo.config().recipient(), &mut *bench.rng(), "copal 1 session", &wrong);
    let rogue = copal_engine::repo::index::Segment {
        id: copal_engine::id::SegmentId::from_bytes([1; 32]),
        packs: Vec::new(),
        stanzas: vec![((at.writer, at.session), Box::new(stanza.to_bytes()))],
        entries: Vec::new(),
    };
    let dir = tempfile::tempdir().unwrap();
    let mut segments = vec![rogue];
    let inline = view.snapshots[0].graph.inline.clone().unwrap();
    segments.push(copal_engine::repo::index::Segment {
        id: copal_engine::id::SegmentId::from_bytes([2; 32]),
        packs: inline.packs,
        stanzas: inline.stanzas.iter().map(|s| ((s.writer, s.session), Box::new(s.stanza.to_bytes()))).collect(),
        entries: inline.entries,
    });
    let wanted: Vec<_> = segments.iter().map(|s| s.id).collect();
    let mut fetch = |id: &_| Ok::<_, Error>(segments.iter().find(|s| s.id == *id).unwrap().clone());
    let options = copal_engine::repo::index::Options::unlinked(dir.path());
    let index = copal_engine::repo::index::Index::open(options, &wanted, &mut fetch).unwrap();
    // A process that did not read the snapshot before: the session of an interrupted backup has none.
    let fresh = Arc::new(bench.open().unwrap());
    let reader = Reader::new(fresh, Arc::new(index), 8 << 20);
    let content = crate::bench::read_snapshot(&reader, &view.snapshots[0]).unwrap();
    same_content(&content, &on_disk(&bench.source()), "read with the right secret");
}
