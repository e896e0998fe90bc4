//! A snapshot through the kernel: what other programs see in a mount is what was backed up.
//!
//! Wants root and /dev/fuse. Without /dev/fuse the tests say so and end.

#[allow(dead_code, reason = "the commands use all of it")]
#[path = "../src/fuse.rs"]
mod fuse;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use copal_engine::chunker::Params;
use copal_engine::crypto::rng::{Rng, SeededRng, SystemRng};
use copal_engine::format::bundle::Identity;
use copal_engine::ops::backup::{self, backup};
use copal_engine::ops::vfs::{self, Vfs};
use copal_engine::progress::{Cancel, Collect};
use copal_engine::repo::session::GROUPED_UNDER;
use copal_engine::repo::{self, Bridge, Reader, Repository};
use copal_engine::store::Store;
use copal_engine::store::local::Local;
use fuse::{Ended, MountOptions, serve};
use rustix::fs::{FileType, Mode, XattrFlags, mknodat};

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

fn can_mount() -> bool {
    let there = Path::new("/dev/fuse").exists();
    if !there {
        eprintln!("\n*** NOT TESTED: there is no /dev/fuse, nothing was mounted ***\n");
    }
    there
}

/// A source, a repository with backups of it, and a place to mount.
struct Bench {
    dir: tempfile::TempDir,
    repo: Arc<Repository>,
    who: Identity,
    problems: Arc<Collect>,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["source", "mount", "repository"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let store: Arc<dyn Store> = Arc::new(Local::create(&dir.path().join("repository")).unwrap());
        let options = repo::Options::new(dir.path().join("local"));
        let params = Params::DEFAULT;
        let (mut repo, _) = repo::init(store, Bridge::start().unwrap(), params, options, &mut SystemRng).unwrap();
        let who = repo.identity(&mut SystemRng).unwrap();
        Self { dir, repo: Arc::new(repo), who, problems: Arc::default() }
    }

    fn source(&self) -> PathBuf {
        self.dir.path().join("source")
    }

    /// The source as `latest` shows it.
    fn mounted(&self) -> PathBuf {
        self.dir.path().join("mount/snapshots/latest/source")
    }

    fn backup(&self) {
        let problems = Collect::default();
        let options = backup_options(&self.source());
        backup(&self.repo, &self.who, Box::new(SystemRng), &options, &problems, &Cancel::default()).unwrap();
        assert_eq!(*problems.0.lock().unwrap(), []);
    }

    fn mount(&self) -> Mount {
        let options = vfs::Options { refresh: Duration::from_millis(200), ..vfs::Options::new(32 << 20) };
        let vfs = Arc::new(Vfs::new(Arc::clone(&self.repo), options, self.problems.clone()).unwrap());
        let (dir, cancel) = (self.dir.path().join("mount"), Arc::new(Cancel::default()));
        let (ready, is_ready) = channel();
        let (at, stop) = (dir.clone(), Arc::clone(&cancel));
        let thread = std::thread::spawn(move || {
            let options = MountOptions { allow_other: true, dev: false, suid: false, threads: 8 };
            serve(vfs, &at, options, &stop, || ready.send(()).unwrap()).unwrap()
        });
        is_ready.recv_timeout(PATIENCE).expect("it mounts");
        Mount { dir, cancel, thread: Some(thread) }
    }

    fn problems(&self) -> Vec<String> {
        self.problems.0.lock().unwrap().iter().map(ToString::to_string).collect()
    }
}

/// A mount; unmounted when it is dropped.
struct Mount {
    dir: PathBuf,
    cancel: Arc<Cancel>,
    thread: Option<JoinHandle<Ended>>,
}

impl Mount {
    fn end(mut self) -> Ended {
        self.cancel.cancel();
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.cancel.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn is_mounted(dir: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.lines().any(|line| line.split(' ').nth(1) == dir.to_str())
}

fn backup_options(path: &Path) -> backup::Options {
    backup::Options {
        as_path: Some("/source".into()),
        host: b"host".to_vec(),
        user: (b"user".to_vec(), 0, 0),
        labels: vec![b"tag".to_vec()],
        program: b"test".to_vec(),
        ..backup::Options::new(vec![path.to_owned()])
    }
}

fn noise(seed: &str, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    SeededRng::new(seed).fill(&mut out);
    out
}

fn run(program: &str, args: &[&OsStr]) -> Output {
    Command::new(program).args(args).env("LC_ALL", "C").output().unwrap_or_else(|e| panic!("{program}: {e}"))
}

/// Runs a program that must succeed and say nothing.
fn silent(program: &str, args: &[&OsStr]) {
    let output = run(program, args);
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{program} {args:?}: {}", String::from_utf8_lossy(&said));
}

/// What a file system can hold: every kind, and attributes of every kind.
fn make_source(root: &Path) {
    fs::create_dir_all(root.join("dir/deeper")).unwrap();
    fs::create_dir(root.join("many")).unwrap();
    for n in 0..3000 {
        fs::write(root.join(format!("many/file-{n}")), format!("content of {n}")).unwrap();
    }
    fs::write(root.join("empty"), b"").unwrap();
    fs::write(root.join("dir/small"), b"hello").unwrap();
    fs::write(root.join("dir/deeper/large"), noise("large", 5 << 20)).unwrap();
    fs::write(root.join("dir").join(OsStr::from_bytes(b"not \xff utf-8\n")), b"x").unwrap();
    make_sparse(&root.join("sparse"));
    fs::write(root.join("linked"), b"one file, three names").unwrap();
    fs::hard_link(root.join("linked"), root.join("dir/linked")).unwrap();
    fs::hard_link(root.join("linked"), root.join("dir/deeper/linked")).unwrap();
    symlink("../nowhere", root.join("dir/dangling")).unwrap();
    make_special(root);
    make_attributes(root);
}

fn make_sparse(path: &Path) {
    let mut file = File::create(path).unwrap();
    file.write_all(&noise("sparse", 100_000)).unwrap();
    file.write_all_at(b"middle", 10 << 20).unwrap();
    file.set_len(30 << 20).unwrap();
    file.sync_all().unwrap();
}

fn make_special(root: &Path) {
    let node = |name: &str, kind, dev| {
        mknodat(rustix::fs::CWD, root.join(name), kind, Mode::from_raw_mode(0o644), dev).unwrap();
    };
    node("fifo", FileType::Fifo, 0);
    node("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    node("loop", FileType::BlockDevice, rustix::fs::makedev(7, 300));
    drop(UnixListener::bind(root.join("socket")).unwrap());
}

fn make_attributes(root: &Path) {
    let set = |name: &str, attribute: &str, value: &[u8]| {
        rustix::fs::setxattr(root.join(name), attribute, value, XattrFlags::empty()).unwrap();
    };
    fs::write(root.join("acl"), b"for user 1234").unwrap();
    fs::set_permissions(root.join("acl"), fs::Permissions::from_mode(0o600)).unwrap();
    silent("setfacl", &["-m".as_ref(), "u:1234:r".as_ref(), root.join("acl").as_os_str()]);
    silent("setfacl", &["-d".as_ref(), "-m".as_ref(), "g:99:rwx".as_ref(), root.join("dir").as_os_str()]);
    set("dir/small", "user.comment", b"some \0 bytes");
    set("dir/small", "trusted.secret", b"for root");
    // CAP_NET_RAW, as `setcap cap_net_raw+p` stores it.
    set("empty", "security.capability", &[0, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    fs::set_permissions(root.join("dir/small"), fs::Permissions::from_mode(0o4711)).unwrap();
    std::os::unix::fs::chown(root.join("dir/deeper"), Some(1234), Some(5678)).unwrap();
    fs::set_permissions(root.join("dir/deeper"), fs::Permissions::from_mode(0o1770)).unwrap();
    let old = SystemTime::UNIX_EPOCH - Duration::from_nanos(123_456_789);
    File::open(root.join("linked")).unwrap().set_modified(old).unwrap();
    File::open(root.join("many")).unwrap().set_modified(SystemTime::UNIX_EPOCH + Duration::new(1 << 33, 1)).unwrap();
}

#[test]
fn other_programs_find_no_difference() {
    if !can_mount() {
        return;
    }
    let bench = Bench::new();
    make_source(&bench.source());
    bench.backup();
    let mount = bench.mount();
    let (source, mounted) = (bench.source(), bench.mounted());

    // diff knows two pipes as different; rsync compares them.
    let args = ["-r", "--no-dereference", "-x", "fifo", "-x", "socket"].map(OsStr::new);
    silent("diff", &[&args[..], &[source.as_ref(), mounted.as_ref()]].concat());
    for (from, to) in [(&source, &mounted), (&mounted, &source)] {
        let (from, to) = (from.join(""), to.join(""));
        let args = ["-aHAXn", "--itemize-changes", "--delete", "--modify-window=-1"].map(OsStr::new);
        silent("rsync", &[&args[..], &[from.as_ref(), to.as_ref()]].concat());
    }
    compare_all(&source, &mounted);
    compare_links(&mounted);
    compare_attributes(&source, &mounted);
    compare_holes(&source.join("sparse"), &mounted.join("sparse"));
    permissions_count(&mounted);
    let space = rustix::fs::statvfs(&mount.dir).unwrap();
    assert!(
        space.f_blocks > 1000 && space.f_bfree == 0 && space.f_namemax == 255,
        "{} {}",
        space.f_blocks,
        space.f_bfree
    );
    assert_eq!(fs::write(mounted.join("new"), b"").unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    assert_eq!(bench.problems(), [""; 0]);
    assert_eq!(mount.end(), Ended::Unmounted);
    assert!(!is_mounted(&bench.dir.path().join("mount")));
}

/// Every attribute that `stat` shows of every entry, the directory's own included.
fn compare_all(source: &Path, mounted: &Path) {
    let (a, b) = (fs::symlink_metadata(source).unwrap(), fs::symlink_metadata(mounted).unwrap());
    let facts = |m: &fs::Metadata| {
        let size = if m.is_dir() { 0 } else { m.size() };
        let links = if m.is_dir() { 0 } else { m.nlink() };
        let times = [m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()];
        (m.mode(), m.uid(), m.gid(), size, links, times, m.rdev())
    };
    assert_eq!(facts(&a), facts(&b), "{}", source.display());
    if !a.is_dir() {
        return;
    }
    let names = |dir: &Path| {
        let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(source), names(mounted));
    for name in names(source) {
        compare_all(&source.join(&name), &mounted.join(&name));
    }
}

fn compare_links(mounted: &Path) {
    let ino = |name: &str| fs::metadata(mounted.join(name)).unwrap().ino();
    assert_eq!(ino("linked"), ino("dir/linked"));
    assert_eq!(ino("linked"), ino("dir/deeper/linked"));
    assert_ne!(ino("linked"), ino("dir/small"));
    assert!(fs::symlink_metadata(mounted.join("fifo")).unwrap().file_type().is_fifo());
    for entry in fs::read_dir(mounted.join("dir")).unwrap() {
        use std::os::unix::fs::DirEntryExt;
        let entry = entry.unwrap();
        assert_eq!(entry.ino(), entry.metadata().unwrap().ino(), "{:?}", entry.file_name());
    }
}

fn compare_attributes(source: &Path, mounted: &Path) {
    let value = |path: &Path, name: &str| {
        let mut buffer = vec![0; 4096];
        let len = rustix::fs::getxattr(path, name, &mut buffer[..]).unwrap_or_else(|e| panic!("{path:?} {name}: {e}"));
        buffer.truncate(len);
        buffer
    };
    for (file, name) in [
        ("acl", "system.posix_acl_access"),
        ("dir", "system.posix_acl_default"),
        ("dir/small", "user.comment"),
        ("dir/small", "trusted.secret"),
        ("empty", "security.capability"),
    ] {
        assert_eq!(value(&source.join(file), name), value(&mounted.join(file), name), "{file} {name}");
    }
    let shown = |root: &Path| {
        let args = ["-R", "-h", "-d", "-m", "-", "--absolute-names", "."].map(OsStr::new);
        let mut all =
            String::from_utf8(Command::new("getfattr").args(args).current_dir(root).output().unwrap().stdout).unwrap();
        all.retain(|c| c != '\r');
        let mut files: Vec<String> = all.split("\n\n").map(str::to_owned).collect();
        files.sort();
        files
    };
    assert!(shown(source).len() > 4);
    assert_eq!(shown(source), shown(mounted));
}

fn compare_holes(source: &Path, mounted: &Path) {
    let positions = |path: &Path| {
        let file = File::open(path).unwrap();
        let (mut at, mut found) = (0, Vec::new());
        while let Ok(data) = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at)) {
            at = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(data)).unwrap();
            found.push((data, at));
        }
        found
    };
    let found = positions(mounted);
    assert_eq!(found, positions(source));
    assert_eq!(found.len(), 2);
    let data: u64 = found.iter().map(|(start, end)| end - start).sum();
    assert_eq!(fs::metadata(mounted).unwrap().blocks(), data / 512);
    assert_eq!(fs::metadata(mounted).unwrap().len(), 30 << 20);
}

/// Who may read what is decided by modes and ACLs of the snapshot.
fn permissions_count(mounted: &Path) {
    let read_as = |uid: &str, name: &str| {
        let path = mounted.join(name);
        let args = ["--reuid", uid, "--regid", uid, "--clear-groups", "cat"].map(OsStr::new);
        run("setpriv", &[&args[..], &[path.as_ref()]].concat())
    };
    assert_eq!(read_as("1234", "acl").stdout, b"for user 1234");
    let refused = read_as("4321", "acl");
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("Permission denied"));
    assert!(read_as("4321", "many/file-1").status.success());
}

#[test]
fn many_read_at_once_and_from_everywhere() {
    if !can_mount() {
        return;
    }
    let bench = Bench::new();
    let bytes = noise("random", 20 << 20);
    fs::write(bench.source().join("file"), &bytes).unwrap();
    bench.backup();
    let _mount = bench.mount();
    let path = bench.mounted().join("file");
    std::thread::scope(|scope| {
        for reader in 0..4usize {
            let (path, bytes) = (&path, &bytes);
            scope.spawn(move || {
                let mut file = File::open(path).unwrap();
                for step in 0..60 {
                    let offset = (reader * 7_919_113 + step * 3_571_777) % (bytes.len() - 70_000);
                    let mut got = vec![0; 70_000];
                    file.read_exact_at(&mut got, offset as u64).unwrap();
                    assert!(got == bytes[offset..offset + 70_000], "{offset}");
                }
                let mut all = Vec::new();
                file.seek(SeekFrom::Start(0)).unwrap();
                file.read_to_end(&mut all).unwrap();
                assert!(all == *bytes);
            });
        }
    });
}

#[test]
fn new_snapshots_appear_in_a_mount() {
    if !can_mount() {
        return;
    }
    let bench = Bench::new();
    fs::write(bench.source().join("file"), b"first").unwrap();
    bench.backup();
    let mount = bench.mount();
    let file = bench.mounted().join("file");
    assert_eq!(fs::read(&file).unwrap(), b"first");
    let latest = fs::read_link(mount.dir.join("snapshots/latest")).unwrap();
    let count = |dir: &str| fs::read_dir(mount.dir.join(dir)).unwrap().count();
    assert_eq!([count("ids"), count("snapshots"), count("hosts/host"), count("tags/tag")], [1, 2, 2, 2]);

    std::thread::sleep(Duration::from_millis(1100));
    fs::write(bench.source().join("file"), b"second").unwrap();
    bench.backup();
    let deadline = Instant::now() + PATIENCE;
    while fs::read(&file).unwrap() != b"second" {
        assert!(Instant::now() < deadline, "the new snapshot does not appear");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!([count("ids"), count("snapshots"), count("hosts/host"), count("tags/tag")], [2, 3, 3, 3]);
    let old = mount.dir.join("snapshots").join(latest).join("source/file");
    assert_eq!(fs::read(old).unwrap(), b"first");
}

#[test]
fn damage_is_an_error_of_one_file() {
    if !can_mount() {
        return;
    }
    let bench = Bench::new();
    for name in ["a", "bad", "c"] {
        fs::write(bench.source().join(name), noise(name, 60_000)).unwrap();
        fs::write(bench.source().join(format!("{name}-large")), noise(name, 1 << 20)).unwrap();
    }
    bench.backup();
    damage(&bench, b"/source/bad-large");
    let _mount = bench.mount();
    for entry in fs::read_dir(bench.mounted()).unwrap() {
        let entry = entry.unwrap();
        let read = fs::read(entry.path());
        match entry.file_name().to_str() {
            Some("bad-large") => assert_eq!(read.unwrap_err().raw_os_error(), Some(5), "EIO"),
            name => {
                let read = read.unwrap_or_else(|e| panic!("{name:?}: {e}; {:?}", bench.problems()));
                assert!(read == fs::read(bench.source().join(entry.file_name())).unwrap(), "{name:?}");
            }
        }
    }
    let problems = bench.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("/source/bad-large: pack/"), "{problems:?}");
}

/// Flips a bit in the frame of the last chunk of a file that shares its frame with no other: shorter ones are grouped.
fn damage(bench: &Bench, path: &[u8]) {
    let view = bench.repo.view().unwrap();
    let reader = Reader::new(Arc::clone(&bench.repo), Arc::clone(&view.index), 1 << 20);
    let root = view.snapshots[0].graph.root.unwrap();
    let node = reader.find(&root, path).unwrap().unwrap();
    let mut copies = Vec::new();
    for id in node.children.iter().rev() {
        view.index.lookup(id, &mut copies);
        if copies[0].entry.len as usize >= GROUPED_UNDER {
            break;
        }
    }
    let pack = bench.dir.path().join("repository").join(reader.pack_key_name(&copies[0]));
    let at = u64::from(copies[0].entry.offset) + 100;
    fs::set_permissions(&pack, fs::Permissions::from_mode(0o600)).unwrap();
    let file = fs::OpenOptions::new().read(true).write(true).open(&pack).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

#[test]
fn a_mount_in_use_goes_out_of_sight() {
    if !can_mount() {
        return;
    }
    let bench = Bench::new();
    fs::write(bench.source().join("file"), b"x").unwrap();
    bench.backup();
    let mount = bench.mount();
    let dir = mount.dir.clone();
    assert!(is_mounted(&dir));
    let open = File::open(bench.mounted().join("file")).unwrap();
    assert_eq!(mount.end(), Ended::Detached);
    assert!(!is_mounted(&dir));
    drop(open);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);

    let mount = bench.mount();
    silent("umount", &[dir.as_ref()]);
    let deadline = Instant::now() + PATIENCE;
    while !mount.thread.as_ref().unwrap().is_finished() {
        assert!(Instant::now() < deadline, "it does not notice that it was unmounted");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(mount.end(), Ended::Elsewhere);
}

/// The program itself, on a repository of its own.
struct Program {
    dir: tempfile::TempDir,
}

impl Program {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_copal"));
        command.args(args).env("COPAL_PASSWORD", "test").env("COPAL_REPOSITORY", self.dir.path().join("repository"));
        for (name, dir) in [("XDG_CACHE_HOME", "cache"), ("XDG_STATE_HOME", "state"), ("XDG_CONFIG_HOME", "config")] {
            command.env(name, self.dir.path().join(dir));
        }
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }
}

#[test]
fn signals_unmount_and_the_program_ends_well() {
    if !can_mount() {
        return;
    }
    let program = Program { dir: tempfile::tempdir().unwrap() };
    let (source, mount) = (program.dir.path().join("source"), program.dir.path().join("mount"));
    for dir in [&source, &mount] {
        fs::create_dir(dir).unwrap();
    }
    fs::write(source.join("file"), b"content").unwrap();
    program.run(&["init"]);
    for tag in ["one", "two"] {
        program.run(&["backup", source.to_str().unwrap(), "--tag", tag, "--host", "here"]);
    }
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        let args = ["mount", mount.to_str().unwrap(), "--tag", "two", "--path-template", "%h/%t"];
        let mut child = program.command(&args).spawn().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while !is_mounted(&mount) {
            assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none(), "it does not mount");
            std::thread::sleep(Duration::from_millis(20));
        }
        let below = mount.join("here/two").join(source.strip_prefix("/").unwrap());
        let read = fs::read(below.join("file"));
        let tags: Vec<_> = fs::read_dir(mount.join("here")).unwrap().map(|e| e.unwrap().file_name()).collect();
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
        assert!(!is_mounted(&mount));
        assert_eq!(read.unwrap(), b"content");
        assert_eq!(tags, ["two"]);
    }
}

#[test]
fn what_cannot_be_mounted_says_why() {
    if !can_mount() {
        return;
    }
    let program = Program { dir: tempfile::tempdir().unwrap() };
    program.run(&["init"]);
    let file = program.dir.path().join("file");
    fs::write(&file, b"").unwrap();
    let missing = program.dir.path().join("missing");
    for (args, code, says) in [
        (["mount", file.to_str().unwrap()], 1, "no directory"),
        (["mount", missing.to_str().unwrap()], 1, "cannot mount at"),
        (["mount", "--path-template=a//b"], 2, "DIR"),
    ] {
        let output = program.command(&args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), said.contains(says)), (Some(code), true), "{said}");
    }
}
