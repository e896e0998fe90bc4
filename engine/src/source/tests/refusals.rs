//! What an ordinary user may not read, and what lies on other mounts.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, chown};

use super::*;
use crate::progress::ProblemKind;
use crate::source::{Kind, is_other_mount};

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn an_ordinary_user_is_refused_file_by_file() {
    if !is_root() {
        return skip("needs root to become another user");
    }
    let tmp = tempfile::tempdir().unwrap();
    chmod(tmp.path(), 0o755);
    let at = |name: &str| tmp.path().join(name);
    fs::write(at("readable"), b"abc").unwrap();
    chmod(&at("readable"), 0o644);
    fs::write(at("secret"), b"abc").unwrap();
    chmod(&at("secret"), 0o600);
    fs::create_dir(at("closed")).unwrap();
    chmod(&at("closed"), 0o700);
    fs::create_dir(at("listable")).unwrap();
    fs::write(at("listable/inside"), b"").unwrap();
    chmod(&at("listable"), 0o744);
    fs::write(at("own"), b"abc").unwrap();
    chown(at("own"), Some(65534), Some(65534)).unwrap();
    as_nobody(|| {
        let dir = open(tmp.path());
        assert_eq!(dir.names().unwrap().len(), 5);
        for readable in [b"readable".as_slice(), b"own"] {
            let (stat, _) = metadata(&dir, readable);
            assert_eq!(dir.open_file(readable, &stat).unwrap().read_at(0, &mut [0; 8]).unwrap(), 3);
        }
        let secret = dir.stat(b"secret").unwrap();
        assert_eq!(dir.open_file(b"secret", &secret).unwrap_err().kind(), ErrorKind::PermissionDenied);
        let closed = dir.stat(b"closed").unwrap();
        assert_eq!(dir.open_dir(b"closed", &closed).unwrap_err().kind(), ErrorKind::PermissionDenied);
        for (name, stat) in [(b"secret", secret), (b"closed", closed)] {
            let (metadata, notes) = dir.metadata(name, &stat).unwrap();
            assert_eq!((metadata.mode, metadata.uid), (stat.mode, 0), "what can be known is described");
            assert_eq!(notes.len(), 1, "{notes:?}");
            assert_eq!(notes[0].kind, ProblemKind::Attribute);
            assert!(notes[0].message.contains("Permission denied"), "{notes:?}");
        }
        let listable = dir.stat(b"listable").unwrap();
        let listable = dir.open_dir(b"listable", &listable).unwrap();
        assert!(listable.names().unwrap().iter().eq([b"inside".as_slice()]), "r without x still lists");
        assert_eq!(listable.stat(b"inside").unwrap_err().kind(), ErrorKind::PermissionDenied);
    });
}

#[test]
fn a_user_attribute_that_may_not_be_read_is_told() {
    if !is_root() {
        return skip("needs root to become another user");
    }
    let tmp = tempfile::tempdir().unwrap();
    chmod(tmp.path(), 0o755);
    let path = tmp.path().join("secret");
    fs::write(&path, b"").unwrap();
    if rustix::fs::setxattr(&path, "user.x", b"v", rustix::fs::XattrFlags::empty()).is_err() {
        return skip("no user attributes here");
    }
    chmod(&path, 0o600);
    as_nobody(|| {
        let dir = open(tmp.path());
        let stat = dir.stat(b"secret").unwrap();
        let (metadata, notes) = dir.metadata(b"secret", &stat).unwrap();
        assert!(metadata.xattrs.is_empty());
        assert!(notes.iter().any(|note| note.message.contains("user.x")), "{notes:?}");
    });
}

/// / and /proc are two mounts on every Linux machine.
#[test]
fn another_mount_is_entered_only_if_that_is_wanted() {
    let root = Root::open(Path::new("/"), &Options { one_file_system: true, ..Options::default() }).unwrap();
    let Target::Dir { dir, .. } = root.target() else { panic!("/ is a directory") };
    let proc = dir.stat(b"proc").unwrap();
    if !proc.is_mount_root {
        return skip("/proc is not mounted");
    }
    assert!(dir.is_other_mount(&proc));
    let error = dir.open_dir(b"proc", &proc).unwrap_err();
    assert!(is_other_mount(&error), "{error}");
    let (metadata, notes) = dir.metadata(b"proc", &proc).unwrap();
    assert_eq!((metadata.mode, notes), (proc.mode, vec![]), "the empty directory that is stored instead is described");
    assert_eq!(root.mounts_skipped(), 1, "only entering counts");

    let anywhere = open(Path::new("/"));
    let proc = anywhere.stat(b"proc").unwrap();
    assert!(!anywhere.is_other_mount(&proc));
    let proc = anywhere.open_dir(b"proc", &proc).unwrap();
    assert!(proc.names().unwrap().contains(b"self"));
}

/// The older call, for kernels and sandboxes without openat2, keeps every promise.
#[test]
fn without_openat2_nothing_changes() {
    let tmp = tempfile::tempdir().unwrap();
    fs::create_dir(tmp.path().join("dir")).unwrap();
    std::os::unix::fs::symlink("dir", tmp.path().join("link")).unwrap();
    let root = Root::open(tmp.path(), &Options::default()).unwrap();
    root.shared.has_openat2.store(false, std::sync::atomic::Ordering::Relaxed);
    let Target::Dir { dir, .. } = root.target() else { panic!() };
    let stat = dir.stat(b"dir").unwrap();
    dir.open_dir(b"dir", &stat).unwrap();
    let lie = Stat { kind: Kind::Dir, ..dir.stat(b"link").unwrap() };
    assert!(crate::source::is_replaced(&dir.open_dir(b"link", &lie).unwrap_err()));

    let root = Root::open(Path::new("/"), &Options { one_file_system: true, ..Options::default() }).unwrap();
    root.shared.has_openat2.store(false, std::sync::atomic::Ordering::Relaxed);
    let Target::Dir { dir, .. } = root.target() else { panic!() };
    let proc = dir.stat(b"proc").unwrap();
    if proc.is_mount_root {
        assert!(is_other_mount(&dir.open_dir(b"proc", &proc).unwrap_err()));
    }
}

/// Without /proc files are still read and kinds still checked; only attributes of links and the like are told as unread.
#[test]
fn without_proc_files_are_still_read() {
    let tmp = tempfile::tempdir().unwrap();
    fs::write(tmp.path().join("file"), b"abc").unwrap();
    std::os::unix::fs::symlink("file", tmp.path().join("link")).unwrap();
    let shared = super::super::Shared { proc_fds: None, ..super::super::Shared::new(Options::default()) };
    let (dir, _) = Dir::open_root(tmp.path(), rustix::fs::OFlags::empty(), &std::sync::Arc::new(shared)).unwrap();
    let (stat, _) = metadata(&dir, b"file");
    assert_eq!(dir.open_file(b"file", &stat).unwrap().read_at(0, &mut [0; 8]).unwrap(), 3);
    let link = dir.stat(b"link").unwrap();
    let (_, notes) = dir.metadata(b"link", &link).unwrap();
    assert!(notes[0].message.contains("/proc"), "{notes:?}");
    let lie = Stat { kind: Kind::File, ..link };
    assert!(crate::source::is_replaced(&dir.open_file(b"link", &lie).unwrap_err()));
}

#[test]
fn the_limit_of_open_files_rises_to_the_hard_one() {
    let hard = crate::source::raise_open_files_limit().unwrap();
    assert_eq!(rustix::process::getrlimit(rustix::process::Resource::Nofile).current, hard);
}
