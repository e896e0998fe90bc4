//! Somebody changes the tree while it is read.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, RenameFlags, makedev, mknodat, renameat_with};

use super::*;
use crate::source::is_replaced;

type Make = fn(&Path);

/// Each entry by what takes its place between stat and open.
#[test]
fn a_replaced_entry_is_refused() {
    on_each_file_system(|tmp| {
        fs::create_dir(tmp.join("canary")).unwrap();
        fs::write(tmp.join("canary/secret"), b"secret").unwrap();
        let make: [(&str, Make); 6] = [
            ("file", |path| fs::write(path, b"").unwrap()),
            ("dir", |path| fs::create_dir(path).unwrap()),
            ("link to dir", |path| symlink("canary", path).unwrap()),
            ("link to file", |path| symlink("canary/secret", path).unwrap()),
            ("fifo", |path| mknodat(CWD, path, FileType::Fifo, Mode::from(0o600), 0).unwrap()),
            ("link up", |path| symlink("..", path).unwrap()),
        ];
        let dir = open(tmp);
        for (before, make_before) in make {
            for (after, make_after) in make {
                let path = tmp.join("entry");
                make_before(&path);
                let stat = dir.stat(b"entry").unwrap();
                // Moved away, not removed: a freed inode number could come back.
                fs::rename(&path, tmp.join("before")).unwrap();
                make_after(&path);
                let errors = [
                    dir.metadata(b"entry", &stat).map(drop).unwrap_err(),
                    match before {
                        "dir" => dir.open_dir(b"entry", &stat).map(drop).unwrap_err(),
                        "file" => dir.open_file(b"entry", &stat).map(drop).unwrap_err(),
                        _ => super::super::replaced(),
                    },
                ];
                assert!(errors.iter().all(is_replaced), "{before} became {after}: {errors:?}");
                for path in [path, tmp.join("before")] {
                    fs::remove_file(&path).or_else(|_| fs::remove_dir(&path)).unwrap();
                }
            }
        }
        assert_eq!(fs::read(tmp.join("canary/secret")).unwrap(), b"secret");
    });
}

#[test]
fn a_vanished_entry_is_not_found() {
    let tmp = tempfile::tempdir().unwrap();
    fs::write(tmp.path().join("file"), b"").unwrap();
    fs::create_dir(tmp.path().join("dir")).unwrap();
    let dir = open(tmp.path());
    let (file_stat, dir_stat) = (dir.stat(b"file").unwrap(), dir.stat(b"dir").unwrap());
    fs::remove_file(tmp.path().join("file")).unwrap();
    fs::remove_dir(tmp.path().join("dir")).unwrap();
    let errors = [
        dir.stat(b"file").map(drop).unwrap_err(),
        dir.open_file(b"file", &file_stat).map(drop).unwrap_err(),
        dir.open_dir(b"dir", &dir_stat).map(drop).unwrap_err(),
        dir.metadata(b"file", &file_stat).map(drop).unwrap_err(),
    ];
    assert!(errors.iter().all(|e| e.kind() == ErrorKind::NotFound), "{errors:?}");
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let tmp = tempfile::tempdir().unwrap();
    fs::create_dir(tmp.path().join("dir")).unwrap();
    let dir = open(tmp.path());
    let stat = dir.stat(b"dir").unwrap();
    for name in [b"".as_slice(), b".", b"..", b"dir/..", b"/", b"a\0b", &[b'x'; 256]] {
        assert_eq!(dir.stat(name).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(dir.open_dir(name, &stat).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}

/// A thread exchanges a directory and a link to a canary as fast as it can; the canary is never seen.
#[test]
fn an_attacker_who_swaps_never_gets_us_out() {
    let tmp = tempfile::tempdir().unwrap();
    let at = |name: &str| tmp.path().join(name);
    fs::create_dir_all(at("tree/dir")).unwrap();
    fs::write(at("tree/dir/ours"), b"").unwrap();
    fs::create_dir(at("outside")).unwrap();
    fs::write(at("outside/canary"), b"").unwrap();
    symlink("../outside", at("tree/swap")).unwrap();
    let stop = AtomicBool::new(false);
    let (mut entered, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                renameat_with(CWD, at("tree/dir"), CWD, at("tree/swap"), RenameFlags::EXCHANGE).unwrap();
            }
        });
        let tree = open(&at("tree"));
        let end = Instant::now() + Duration::from_secs(20);
        while (entered < 1000 || refused < 100) && Instant::now() < end {
            let stat = tree.stat(b"dir").unwrap();
            match tree.open_dir(b"dir", &stat) {
                Ok(dir) => {
                    assert!(dir.names().unwrap().iter().eq([b"ours".as_slice()]));
                    entered += 1;
                }
                Err(e) => {
                    assert!(is_replaced(&e), "{e}");
                    refused += 1;
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(entered > 0 && refused > 0, "entered {entered}, refused {refused}");
}

/// Opening a FIFO without a writer blocks for ever, so a test that ends has not done it.
#[test]
fn a_fifo_never_blocks() {
    let tmp = tempfile::tempdir().unwrap();
    mknodat(CWD, tmp.path().join("fifo"), FileType::Fifo, Mode::from(0o600), 0).unwrap();
    let dir = open(tmp.path());
    let (stat, _) = metadata(&dir, b"fifo");
    assert!(dir.open_file(b"fifo", &stat).is_err());
    // As if it had been a file when it was stated, with the same number.
    let lie = Stat { kind: crate::source::Kind::File, ..stat };
    assert!(is_replaced(&dir.open_file(b"fifo", &lie).unwrap_err()));
    assert!(is_replaced(&dir.metadata(b"fifo", &lie).unwrap_err()));
    assert!(matches!(
        Root::open(&tmp.path().join("fifo"), &Options::default()).unwrap().target(),
        Target::Entry { .. }
    ));
}

/// A device that takes the place of a file is not opened: /dev/tty-like nodes would block, a tape would rewind.
#[test]
fn a_device_in_place_of_a_file_is_not_opened() {
    let tmp = tempfile::tempdir().unwrap();
    let made = mknodat(CWD, tmp.path().join("node"), FileType::CharacterDevice, Mode::from(0o600), makedev(251, 300));
    if made.is_err() {
        return skip("no right to make device nodes");
    }
    let dir = open(tmp.path());
    let lie = Stat { kind: crate::source::Kind::File, ..dir.stat(b"node").unwrap() };
    // An open would answer ENXIO.
    assert!(is_replaced(&dir.open_file(b"node", &lie).unwrap_err()));
}

#[test]
fn where_inode_numbers_mean_nothing_they_are_not_compared() {
    let tmp = tempfile::tempdir().unwrap();
    fs::write(tmp.path().join("file"), b"abc").unwrap();
    let dir = open_with(tmp.path(), &Options { ignore_inode: true, ..Options::default() });
    let stat = dir.stat(b"file").unwrap();
    let other = Stat { ino: stat.ino + 1, ..stat };
    let file = dir.open_file(b"file", &other).unwrap();
    assert_eq!(file.check_unchanged(&other).unwrap(), crate::source::Change::None);
    assert!(is_replaced(&open(tmp.path()).open_file(b"file", &other).unwrap_err()));
    let elsewhere = Stat { dev: stat.dev + 1, ..stat };
    assert!(is_replaced(&dir.open_file(b"file", &elsewhere).unwrap_err()), "the device is compared all the same");
}
