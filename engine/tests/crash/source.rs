//! Sources that change while they are read.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use copal_engine::format::tree::{Tagger, TreeKind, ends_stretch};
use copal_engine::progress::{Problem, ProblemKind, Progress};
use copal_engine::repo::Reader;

use crate::bench::{Bench, Held, age, make_source, noise, on_disk, options, same_content, settle};

/// Does something to the source when the walk reaches a path: after its stat, before it is read.
struct When<F: Fn(&Path) + Send + Sync> {
    reached: F,
    problems: Mutex<Vec<Problem>>,
}

impl<F: Fn(&Path) + Send + Sync> When<F> {
    fn new(reached: F) -> Self {
        Self { reached, problems: Mutex::default() }
    }
}

impl<F: Fn(&Path) + Send + Sync> Progress for When<F> {
    fn start(&self, path: &Path) {
        (self.reached)(path);
    }
    fn problem(&self, problem: Problem) {
        self.problems.lock().unwrap().push(problem);
    }
}

#[test]
fn files_that_change_between_stat_and_read_are_told_of_and_read_again() {
    let bench = Bench::new();
    let source = bench.source();
    for name in ["grows", "shrinks", "empties", "rewritten", "vanishes", "becomes-dir", "becomes-fifo", "stays"] {
        fs::write(source.join(name), noise(1, 200_000)).unwrap();
        age(&source.join(name));
    }
    settle();
    let at = source.clone();
    let changes = When::new(move |path: &Path| {
        let file = at.join(path.file_name().unwrap_or_default());
        match path.file_name().unwrap_or_default().as_bytes() {
            b"grows" => fs::write(&file, noise(2, 300_000)).unwrap(),
            b"shrinks" => fs::File::options().write(true).open(&file).unwrap().set_len(70_000).unwrap(),
            b"empties" => fs::write(&file, b"").unwrap(),
            b"rewritten" => {
                fs::write(&file, noise(3, 200_000)).unwrap();
                age(&file);
            }
            b"vanishes" => fs::remove_file(&file).unwrap(),
            b"becomes-dir" => {
                fs::remove_file(&file).unwrap();
                fs::create_dir(&file).unwrap();
            }
            b"becomes-fifo" => {
                fs::remove_file(&file).unwrap();
                let made = std::process::Command::new("mkfifo").arg(&file).status().unwrap();
                assert!(made.success());
            }
            _ => {}
        }
    });
    bench.process(&options(&source), &changes).unwrap();
    let problems = changes.problems.into_inner().unwrap();
    let kind = |name: &str| problems.iter().find(|p| p.path.ends_with(name)).map(|p| p.kind);
    for name in ["grows", "shrinks", "empties", "rewritten"] {
        assert_eq!(kind(name), Some(ProblemKind::Changed), "{name}");
    }
    for name in ["vanishes", "becomes-dir", "becomes-fifo"] {
        assert_eq!(kind(name), Some(ProblemKind::Unreadable), "{name}");
    }
    assert_eq!(problems.len(), 7, "{problems:?}");
    let restored = bench.restore_all().pop().unwrap().1;
    let want = noise(1, 200_000);
    assert!(restored[&b"/shrinks"[..]] == Held::Bytes(want[..70_000].to_vec()), "nothing is made up");
    assert!(restored[&b"/empties"[..]] == Held::Bytes(Vec::new()), "nothing is made up");
    assert!(restored[&b"/stays"[..]] == Held::Bytes(want));

    // The tags of what changed are zero: everything is as it is now, though the rewritten one has its old mtime and size.
    bench.backup();
    same_content(&bench.restore_all().pop().unwrap().1, &on_disk(&source), "after the changes");
}

#[test]
fn a_tree_that_is_written_to_all_the_time_can_be_restored_and_is_whole_once_it_rests() {
    let bench = Bench { threads: 2, ..Bench::new() };
    let source = bench.source();
    make_source(&source, true);
    settle();
    let stop = AtomicBool::new(false);
    let told = When::new(|_: &Path| {});
    std::thread::scope(|scope| {
        scope.spawn(|| mutate(&source, &stop));
        for _ in 0..8 {
            bench.process(&options(&source), &told).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(bench.restore_all().len(), 8, "all of them are whole");
    let (done, _) = bench.try_backup();
    done.unwrap();
    same_content(&bench.restore_all().pop().unwrap().1, &on_disk(&source), "at rest");
}

fn mutate(source: &Path, stop: &AtomicBool) {
    let mut n = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        n += 1;
        let file = source.join(format!("large-{}", n % 5));
        match n % 7 {
            0 => drop(fs::remove_file(&file)),
            1 => drop(fs::write(&file, noise(n, 2_000_000))),
            2 => drop(fs::File::options().write(true).open(&file).map(|f| f.set_len(n * 997 % 1_500_000))),
            3 => drop(fs::rename(&file, source.join("large-0"))),
            4 => drop(fs::remove_dir_all(source.join("d/e"))),
            5 => drop(fs::create_dir_all(source.join("d/e/f/g")).and_then(|()| fs::write(source.join("d/e/x"), b"x"))),
            _ => drop(fs::write(source.join(format!("d/{}", n % 40)), noise(n, (n % 9000) as usize))),
        }
    }
}

#[test]
fn another_name_of_a_file_that_changed_meanwhile_is_read_again() {
    let bench = Bench::new();
    let source = bench.source();
    fs::write(source.join("a"), noise(1, 100_000)).unwrap();
    fs::hard_link(source.join("a"), source.join("b")).unwrap();
    age(&source.join("a"));
    // "b" is stated after "a" was read; its mtime is the old one again.
    let (at, first) = (source.clone(), AtomicBool::new(true));
    let change = When::new(move |path: &Path| {
        if path.ends_with("z") && first.swap(false, Ordering::Relaxed) {
            fs::write(at.join("a"), noise(2, 100_000)).unwrap();
            age(&at.join("a"));
        }
    });
    fs::create_dir(source.join("zz")).unwrap();
    fs::write(source.join("z"), b"").unwrap();
    fs::rename(source.join("b"), source.join("zz/b")).unwrap();
    let mut opts = options(&source);
    opts.ignore_ctime = true;
    bench.process(&opts, &change).unwrap();
    bench.process(&opts, &change).unwrap();
    let restored = bench.restore_all().pop().unwrap().1;
    assert!(
        restored[&b"/zz/b"[..]] == Held::Bytes(noise(2, 100_000)),
        "the other name has what it had when it was read"
    );
}

#[test]
fn attributes_are_as_they_are_also_where_ctimes_are_not_compared() {
    for inode in [false, true] {
        let bench = Bench::new();
        let file = bench.source().join("file");
        fs::write(&file, b"content").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        age(&file);
        let mut opts = options(&bench.source());
        (opts.ignore_ctime, opts.ignore_inode) = (!inode, inode);
        let quiet = When::new(|_: &Path| {});
        bench.process(&opts, &quiet).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        let second = bench.process(&opts, &quiet).unwrap();
        assert_eq!(second.counts.files, [0, 0, 1], "its content is not read again");
        let (repo, view) = bench.view();
        let reader = Reader::new(repo, view.index.clone(), 1 << 20);
        let root = view.snapshots.last().unwrap().graph.root.unwrap();
        let node = reader.find(&root, b"/source/file").unwrap().unwrap();
        assert_eq!(node.metadata.mode, 0o755);
    }
}

/// Names of which the first `ends` end a stretch, by the tags that an entry `is` of that name has in `/source`.
fn names(bench: &Bench, is: TreeKind, count: usize, ends: usize) -> Vec<String> {
    let repo = bench.open().unwrap();
    let ids = repo.content_ids().unwrap();
    let source = ids.source(b"host", &[b"/source".to_vec()]);
    let tagger = Tagger(ids.directory(&source, b"/source"));
    let ending = |name: &String| ends_stretch(tagger.name(name.as_bytes(), is as u8));
    let mut all: Vec<String> = (0..).map(|n| format!("a{n:07}")).filter(ending).take(ends).collect();
    all.extend((0..).map(|n| format!("b{n:07}")).filter(|name| !ending(name)).take(count - ends));
    all
}

#[test]
fn a_directory_of_stretches_whose_entries_all_vanish_is_an_empty_one() {
    let bench = Bench::new();
    let source = bench.source();
    let names = names(&bench, TreeKind::Symlink, 1024, 2);
    let paths: Vec<PathBuf> = names.iter().map(|n| source.join(n)).collect();
    paths.iter().for_each(|p| std::os::unix::fs::symlink("nowhere", p).unwrap());
    // All of one block are stated; then, before their attributes are read, they go.
    let started = AtomicUsize::new(0);
    let vanish = When::new(|path: &Path| {
        if path.starts_with("/source/") && started.fetch_add(1, Ordering::Relaxed) + 1 == paths.len() {
            paths.iter().for_each(|p| fs::remove_file(p).unwrap());
        }
    });
    bench.process(&options(&source), &vanish).unwrap();
    assert_eq!(started.load(Ordering::Relaxed), 1024);
    assert_eq!(vanish.problems.into_inner().unwrap().len(), 1024);
    assert!(bench.restore_all().pop().unwrap().1.is_empty());
}

#[test]
fn a_stretch_of_very_many_attributes_is_stored_in_pieces() {
    let bench = Bench::new();
    let source = bench.source();
    let value = "x".repeat(4020);
    for name in names(&bench, TreeKind::File, 4200, 0) {
        fs::write(source.join(&name), b"").unwrap();
        let set =
            rustix::fs::setxattr(source.join(&name), "user.long", value.as_bytes(), rustix::fs::XattrFlags::empty());
        if let Err(e) = set {
            eprintln!("not tested: this file system takes no such attributes: {e}");
            return;
        }
    }
    bench.backup();
    same_content(&bench.restore_all().pop().unwrap().1, &on_disk(&source), "all entries");
}
