//! What is bounded, and what ends a restore early.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

use copal_engine::Error;
use copal_engine::ops::restore::{Options, restore};
use copal_engine::progress::{Cancel, Problem, Progress};

use super::bench::{Bench, names, noise};

#[test]
fn more_files_of_several_pieces_than_may_be_open() {
    use std::os::unix::fs::FileExt;
    let bench = Bench::new();
    let header = noise(0, 4096);
    // Each is the same header, a hole, and bytes of its own: the frame of the header wants all of them at once.
    for n in 1..=700 {
        bench.write(&n.to_string(), &header);
        let file = fs::File::options().write(true).open(bench.source().join(n.to_string())).unwrap();
        file.write_all_at(&noise(n, 4096), 1 << 20).unwrap();
    }
    bench.backup();
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let most_open = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut most = 0;
            while !is_over.load(Ordering::Relaxed) {
                most = most.max(open_files_below(&bench.target()));
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            most
        });
        bench.restore(&Options { verify: true, ..Options::default() });
        is_over.store(true, Ordering::Relaxed);
        watch.join().unwrap()
    });
    bench.assert_same();
    assert!((1..=330).contains(&most_open), "{most_open} files were open");
}

/// Descriptors of this process that are open on something below `path`.
fn open_files_below(path: &std::path::Path) -> usize {
    let fds = fs::read_dir("/proc/self/fd").unwrap();
    fds.flatten().filter(|fd| fs::read_link(fd.path()).is_ok_and(|file| file.starts_with(path))).count()
}

#[test]
fn a_tree_deeper_than_directories_are_held_open() {
    let bench = Bench::new();
    let mut path = String::new();
    for n in 0..200 {
        bench.write(&format!("{path}b before"), n.to_string());
        bench.write(&format!("{path}e after"), n.to_string());
        path.push_str("d/");
    }
    bench.backup();
    bench.restore(&Options::default());
    bench.assert_same();
    bench.restore(&Options { delete: true, ..Options::default() });
    bench.assert_same();
}

/// Cancels after so many steps.
struct CancelAfter<'a>(AtomicU64, &'a Cancel);

impl Progress for CancelAfter<'_> {
    fn advance(&self, _: u64, _: u64) {
        if self.0.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.1.cancel();
        }
    }
    fn problem(&self, problem: Problem) {
        panic!("{problem}");
    }
}

#[test]
fn cancel_leaves_whole_files_and_nothing_else() {
    let bench = Bench::new();
    for n in 0..100 {
        bench.write(&format!("d/{n}"), noise(n, 300_000));
    }
    bench.backup();
    let (reader, latest) = bench.reader();
    let mut all = 0;
    for after in [1, 40, 200] {
        let cancel = Cancel::default();
        let progress = CancelAfter(AtomicU64::new(after), &cancel);
        let done = restore(&reader, &latest, b"source", &bench.target(), &Options::default(), &progress, &cancel);
        assert!(matches!(done, Err(Error::Interrupted)), "{done:?}");
        let left = names(&bench.target());
        all = all.max(left.len());
        for name in left {
            assert_eq!(fs::read(bench.target().join(&name)).unwrap(), fs::read(bench.source().join(&name)).unwrap());
        }
        // The directory got its attributes all the same.
        let modified = |root: std::path::PathBuf| fs::metadata(root.join("d")).map(|m| m.modified().unwrap());
        if let Ok(time) = modified(bench.target()) {
            assert_eq!(time, modified(bench.source()).unwrap());
        }
    }
    assert!((1..100).contains(&all), "{all} files");
    bench.restore(&Options::default());
    bench.assert_same();
}

/// Adds up what it is told.
#[derive(Default)]
struct Sum([AtomicU64; 4]);

impl Progress for Sum {
    fn expect(&self, files: u64, bytes: u64) {
        self.0[0].fetch_add(files, Ordering::Relaxed);
        self.0[1].fetch_add(bytes, Ordering::Relaxed);
    }
    fn advance(&self, files: u64, bytes: u64) {
        self.0[2].fetch_add(files, Ordering::Relaxed);
        self.0[3].fetch_add(bytes, Ordering::Relaxed);
    }
    fn problem(&self, problem: Problem) {
        panic!("{problem}");
    }
}

#[test]
fn progress_comes_to_what_was_expected() {
    let bench = Bench::new();
    bench.write("d/a", noise(1, 300_000));
    bench.write("d/b", b"small");
    bench.write("empty", b"");
    fs::hard_link(bench.source().join("d/a"), bench.source().join("link")).unwrap();
    fs::File::create(bench.source().join("hole")).unwrap().set_len(1 << 20).unwrap();
    bench.backup();
    for options in [Options::default(), Options { dry_run: true, ..Options::default() }] {
        let (reader, latest) = bench.reader();
        let sum = Sum::default();
        let done = restore(&reader, &latest, b"source", &bench.target(), &options, &sum, &Cancel::default()).unwrap();
        let bytes = 300_000 + 5 + (1 << 20);
        assert_eq!(sum.0.map(AtomicU64::into_inner), [6, bytes, 6, bytes]);
        assert_eq!((done.total_files, done.total_bytes, done.bytes_restored), (6, bytes, bytes));
    }
}

/// Changes a byte of whatever is being written, right after it was.
struct Tamper<'a>(&'a std::path::Path, std::sync::Mutex<Vec<Problem>>);

impl Progress for Tamper<'_> {
    fn advance(&self, _: u64, bytes: u64) {
        use std::os::unix::fs::FileExt;
        for name in names(self.0).iter().filter(|name| bytes > 0 && name.starts_with(".copal-")) {
            let file = fs::File::options().read(true).write(true).open(self.0.join(name)).unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, 77_777).unwrap();
            file.write_all_at(&[byte[0] ^ 1], 77_777).unwrap();
        }
    }
    fn problem(&self, problem: Problem) {
        self.1.lock().unwrap().push(problem);
    }
}

#[test]
fn verify_finds_what_was_not_written_as_it_should_be() {
    let bench = Bench::new();
    bench.write("file", noise(1, 200_000));
    bench.backup();
    let (reader, latest) = bench.reader();
    let (target, cancel) = (bench.target(), Cancel::default());
    for verify in [true, false] {
        let tamper = Tamper(&target, std::sync::Mutex::default());
        let options = Options { verify, ..Options::default() };
        let summary = restore(&reader, &latest, b"source", &target, &options, &tamper, &cancel).unwrap();
        let problems = tamper.1.into_inner().unwrap();
        assert_eq!((summary.files_failed, problems.len()), (u64::from(verify), usize::from(verify)));
        assert!(problems.iter().all(|p| p.path.ends_with("file") && p.message.contains("read back")), "{problems:?}");
        // Without it nobody notices: so it is this that does.
        assert_eq!(names(&target).len(), usize::from(!verify));
    }
}
