//! Copying snapshots into another repository: equal to the bit, cut as its own backups, over stores that crash.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use copal_engine::Error;
use copal_engine::Result;
use copal_engine::format::bundle::{Bundle, Role};
use copal_engine::format::tree::TreeKind;
use copal_engine::ops::backup::{Options, Parent};
use copal_engine::ops::check::Read;
use copal_engine::ops::copy::{Copied, From, copy};
use copal_engine::progress::{Cancel, Collect, Problem, Progress};
use copal_engine::repo::{Reader, Snapshot};
use copal_engine::store::Verb;
use copal_engine::store::fault::{Effect, Rule};
use rustix::fs::{FileType, Mode, XattrFlags};

use crate::bench::{Bench, change_source, make_source, noise, on_disk, options, same_content, settle};

/// A repository to copy from, and another one.
struct Two {
    from: Bench,
    to: Bench,
}

impl Two {
    fn new() -> Self {
        let threads = 2;
        Self { from: Bench { threads, ..Bench::new() }, to: Bench { threads, ..Bench::of("other") } }
    }

    /// Copies all snapshots, by a process of its own.
    fn copy(&self) -> Result<(Vec<Copied>, Vec<Problem>)> {
        let problems = Collect::default();
        let copied = self.copy_as((&self.from.bundle, "owner"), (&self.to.bundle, "owner"), &problems)?;
        Ok((copied, problems.0.into_inner().unwrap()))
    }

    fn copy_as(&self, from: (&Bundle, &str), to: (&Bundle, &str), progress: &dyn Progress) -> Result<Vec<Copied>> {
        let from = Arc::new(self.from.open_as(from.0, from.1)?);
        let mut to = self.to.open_as(to.0, to.1)?;
        copal_engine::ops::copy::may_copy(&from, &to)?;
        let who = to.identity(&mut *self.to.rng())?;
        let view = from.view()?;
        let reader = Reader::new(from, Arc::clone(&view.index), 4 << 20);
        let chosen: Vec<&Snapshot> = view.snapshots.iter().collect();
        let (mut all, cancel) = (Vec::new(), Cancel::default());
        let mut done = |copied: &Copied| all.push(*copied);
        let from = From { view: &view, reader: &reader };
        copy(from, &Arc::new(to), &who, self.to.rng(), &chosen, 1, (progress, &cancel), &mut done)?;
        Ok(all)
    }

    /// Both have the same snapshots, with the same names, entries and bytes.
    fn assert_equal(&self, what: &str) {
        let [a, b] = [&self.from, &self.to].map(|bench| bench.view().1.snapshots);
        assert_eq!(a.len(), b.len(), "{what}");
        let [contents_a, contents_b] = [&self.from, &self.to].map(Bench::restore_all);
        for (n, (a, b)) in a.iter().zip(&b).enumerate() {
            assert_eq!((a.graph.time, &a.names), (b.graph.time, &b.names), "{what}");
            assert_eq!(b.graph.original, Some(a.id()), "{what}");
            let (in_a, in_b) = (self.from.stored_entries(a), self.to.stored_entries(b));
            assert_eq!(in_a.len(), in_b.len(), "{what}");
            for (path, (metadata, entry)) in &in_a {
                let (other, copy) = &in_b[path];
                let what = format!("{what}: {}", String::from_utf8_lossy(path));
                assert_eq!((metadata, entry.kind.base()), (other, copy.kind.base()), "{what}");
                let zeros = |t: copal_engine::format::tree::Tags| [t.name, t.content, t.ctime, t.inode].map(|t| t == 0);
                assert_eq!(zeros(entry.tags), zeros(copy.tags), "{what}");
                assert_ne!(entry.tags.name, copy.tags.name, "{what}: under other keys");
            }
            same_content(&contents_b[n].1, &contents_a[n].1, what);
        }
    }
}

/// One of each kind, attributes, links, holes, a directory of many stretches, and a file of several parts.
fn make_everything(root: &Path) {
    make_source(root, true);
    fs::create_dir(root.join("wide")).unwrap();
    (0..3000).for_each(|n| fs::write(root.join(format!("wide/{n}")), n.to_string()).unwrap());
    fs::write(root.join("parts"), noise(900, 80 << 20)).unwrap();
    fs::write(root.join("empty file"), b"").unwrap();
    for (name, link) in
        [("d/5", "linked"), ("large-2", "d/e/linked"), ("empty file", "d/empty again"), ("link", "d/link")]
    {
        fs::hard_link(root.join(name), root.join(link)).unwrap();
    }
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.write_all_at(&noise(901, 500_000), 1 << 20).unwrap();
    sparse.write_all_at(&noise(902, 1000), 300 << 20).unwrap();
    sparse.set_len(1 << 30).unwrap();
    let node = |name: &str, kind, dev| {
        rustix::fs::mknodat(rustix::fs::CWD, root.join(name), kind, Mode::from_raw_mode(0o640), dev).unwrap();
    };
    node("fifo", FileType::Fifo, 0);
    drop(std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap());
    if rustix::process::geteuid().is_root() {
        node("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
        node("loop", FileType::BlockDevice, rustix::fs::makedev(7, 77));
        std::os::unix::fs::chown(root.join("d/9"), Some(1234), Some(5678)).unwrap();
    }
    rustix::fs::setxattr(root.join("d/8"), "user.note", b"kept", XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(root.join("d"), "user.dir", b"kept too", XattrFlags::empty()).unwrap();
}

/// Sums what was told.
#[derive(Default)]
struct Sums {
    expected: [AtomicU64; 2],
    done: [AtomicU64; 2],
}

impl Progress for Sums {
    fn expect(&self, files: u64, bytes: u64) {
        self.expected[0].fetch_add(files, Ordering::Relaxed);
        self.expected[1].fetch_add(bytes, Ordering::Relaxed);
    }
    fn advance(&self, files: u64, bytes: u64) {
        self.done[0].fetch_add(files, Ordering::Relaxed);
        self.done[1].fetch_add(bytes, Ordering::Relaxed);
    }
    fn problem(&self, problem: Problem) {
        panic!("{problem}");
    }
}

#[test]
fn everything_is_equal_and_deduplicates_with_backups_of_its_own() {
    let two = Two::new();
    let source = two.from.source();
    make_everything(&source);
    settle();
    let first = two.from.backup();
    let sums = Sums::default();
    two.copy_as((&two.from.bundle, "owner"), (&two.to.bundle, "owner"), &sums).unwrap();
    two.assert_equal("everything");
    let [expected, done] = [sums.expected, sums.done].map(|two| two.map(AtomicU64::into_inner));
    assert_eq!(expected, [first.counts.files.iter().sum(), first.counts.bytes]);
    assert_eq!(done, expected);
    let kinds = two.to.stored_entries(&two.to.only());
    let kind = |path: &str| kinds[path.as_bytes()].1.kind;
    assert_eq!((kind("/source/parts"), kind("/source/sparse")), (TreeKind::LargeFile, TreeKind::MappedFile));
    assert_eq!(two.to.check_with(Read::All).findings, []);

    // A backup into the other repository finds nothing changed, and cuts where the copy was cut.
    let mine = two.to.process(&options(&source), &Collect::default()).unwrap();
    assert_eq!(
        (mine.parent, mine.counts.files[0], mine.counts.files[1]),
        (two.to.view().1.snapshots[0].id().into(), 0, 0)
    );
    let all = Options { parent: Parent::None, ..options(&source) };
    let anew = two.to.process(&all, &Collect::default()).unwrap();
    assert_eq!(anew.counts.blobs[0], 0, "no chunk is new");
}

#[test]
fn what_was_copied_is_passed_over_and_what_did_not_change_is_not_read() {
    let two = Two::new();
    let source = two.from.source();
    make_source(&source, true);
    settle();
    two.from.backup();
    two.from.record.take();
    assert!(two.copy().unwrap().0.iter().all(|c| c.stored.is_some()));
    let whole = two.from.record.bytes(Verb::GetRange, "pack/");
    two.from.record.take();
    two.to.record.take();
    let (again, _) = two.copy().unwrap();
    assert_eq!((again.len(), again[0].stored, again[0].to), (1, None, two.to.only().id()));
    assert_eq!(two.to.record.count(Verb::PutNew, "") + two.to.record.count(Verb::Put, ""), 0);
    assert_eq!(two.from.record.bytes(Verb::GetRange, "pack/"), 0);

    fs::write(source.join("d/e/more"), noise(77, 100_000)).unwrap();
    fs::rename(source.join("large-3"), source.join("d/large-3")).unwrap();
    settle();
    two.from.backup();
    two.from.backup();
    two.from.record.take();
    two.to.record.take();
    let (copied, problems) = two.copy().unwrap();
    assert_eq!(
        (copied.iter().map(|c| c.stored.is_some()).collect::<Vec<_>>(), problems),
        (vec![false, true, true], vec![])
    );
    assert_eq!(copied[2].stored.unwrap().data_blobs, 0, "the third is as the second");
    let read = two.from.record.bytes(Verb::GetRange, "pack/");
    // Chunks under 64 KiB share a frame with those of other files, and there are many: the average is no more.
    assert!(read < whole / 2, "{read} bytes of {whole} were read for a new file and one that was moved");
    assert!(two.to.stored("pack/") < 600 << 10, "{}", two.to.stored("pack/"));
    two.assert_equal("three");
    let chain: Vec<_> = two.to.view().1.snapshots.iter().map(|s| (s.graph.previous, s.id())).collect();
    assert_eq!((chain[1].0, chain[2].0), (Some(chain[0].1), Some(chain[1].1)), "copies follow each other");
    assert_eq!(two.to.check_with(Read::All).findings, []);

    // A copy that was forgotten is made anew, of what is there.
    let repo = two.to.open().unwrap();
    repo.forget(&[two.to.view().1.snapshots[1].at]).unwrap();
    assert_eq!(two.copy().unwrap().0.iter().filter(|c| c.stored.is_some()).count(), 1);
    two.assert_equal("again");
}

#[test]
fn readers_and_writers_are_enough_and_others_may_not() {
    let two = Two::new();
    make_source(&two.from.source(), false);
    two.from.backup();
    let reader = two.from.open().unwrap().bundle_for(Role::Reader).unwrap();
    let writer = two.to.new_writer();
    let problems = Collect::default();
    let copied = two.copy_as((&reader, "reader"), (&writer, "writer"), &problems).unwrap();
    assert!(copied[0].stored.is_some());
    change_source(&two.from.source(), false);
    two.from.backup();
    let copied = two.copy_as((&reader, "reader"), (&writer, "writer"), &problems).unwrap();
    assert_eq!(copied.iter().map(|c| c.stored.is_some()).collect::<Vec<_>>(), [false, true]);
    two.assert_equal("a reader and a writer");

    let other_writer = two.from.new_writer();
    let other_reader = two.to.open().unwrap().bundle_for(Role::Reader).unwrap();
    let owner = (&two.from.bundle, "owner");
    let denied = two.copy_as((&other_writer, "other"), (&writer, "writer"), &problems).unwrap_err();
    assert!(matches!(denied, Error::NotAllowed { needed: "owner or reader", .. }), "{denied}");
    let denied = two.copy_as(owner, (&other_reader, "other"), &problems).unwrap_err();
    assert!(matches!(denied, Error::NotAllowed { needed: "owner or writer", .. }), "{denied}");
    let (one, same) = (two.from.open().unwrap(), two.from.open().unwrap());
    assert!(copal_engine::ops::copy::may_copy(&one, &same).unwrap_err().to_string().contains("one repository"));
}

#[test]
fn a_damaged_snapshot_is_not_copied_and_the_others_are() {
    let two = Two::new();
    make_source(&two.from.source(), false);
    settle();
    two.from.backup();
    let whole = two.from.memory.snapshot();
    fs::write(two.from.source().join("spoilt"), noise(5, 500_000)).unwrap();
    two.from.backup();
    fs::remove_file(two.from.source().join("spoilt")).unwrap();
    two.from.backup();
    let mut objects = two.from.memory.snapshot();
    let new = |key: &copal_engine::store::Key| key.as_str().starts_with("pack/") && !whole.contains_key(key);
    let (_, pack) = objects.iter_mut().find(|(key, bytes)| new(key) && bytes.len() > 500_000).unwrap();
    let mut bytes = pack.to_vec();
    bytes[5_000..505_000].iter_mut().for_each(|b| *b ^= 1);
    *pack = bytes.into();
    two.from.memory.restore(objects);
    let (copied, problems) = two.copy().unwrap();
    assert_eq!((copied.len(), problems.len()), (2, 1), "{problems:?}");
    assert!(problems[0].message.contains("it is not copied"), "{problems:?}");
    let restored = two.to.restore_all();
    assert_eq!(restored.len(), 2);
    same_content(&restored[1].1, &on_disk(&two.from.source()), "the one after it");
    assert_eq!(two.to.check_with(Read::All).findings, []);
}

#[test]
fn a_copy_that_crashes_anywhere_goes_on_with_what_it_stored() {
    let two = Two { to: Bench::of("other"), from: Bench::new() };
    make_source(&two.from.source(), true);
    settle();
    two.from.backup();
    change_source(&two.from.source(), true);
    two.from.backup();
    let contents = two.from.restore_all();
    let start = two.to.memory.snapshot();
    let before = two.to.fault.calls();
    two.to.record.take();
    two.copy().unwrap();
    two.assert_equal("without a crash");
    let (calls, whole) = (two.to.fault.calls() - before, two.to.stored("pack/"));
    for n in 0..calls {
        for effect in [Effect::CrashBefore, Effect::CrashAfter] {
            let what = format!("{effect:?} call {n} of {calls}");
            two.to.memory.restore(start.clone());
            two.to.record.take();
            two.to.fault.add(Rule::any().skip(n).times(1).effect(effect.clone()));
            let crashed = two.copy();
            two.to.fault.clear();
            two.to.fault.revive();
            let seen = two.to.restore_all();
            for ((_, there), (_, content)) in seen.iter().zip(&contents) {
                same_content(there, content, &what);
            }
            assert!(crashed.is_err() || seen.len() == 2, "{what}: it was reported");
            let pack = |key: &copal_engine::store::Key| key.as_str().starts_with("pack/");
            let stands: u64 =
                two.to.memory.snapshot().iter().filter(|(k, _)| pack(k)).map(|(_, bytes)| bytes.len() as u64).sum();
            two.to.record.take();
            two.copy().unwrap();
            let again = two.to.stored("pack/");
            assert!(again <= whole.saturating_sub(stands) + (600 << 10), "{what}: {again} after {stands} of {whole}");
            let seen = two.to.restore_all();
            assert_eq!(seen.len(), 2, "{what}");
            for ((_, there), (_, content)) in seen.iter().zip(&contents) {
                same_content(there, content, &what);
            }
        }
    }
    assert_eq!(two.to.check_with(Read::All).findings, []);
}
