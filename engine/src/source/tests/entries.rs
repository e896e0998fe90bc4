//! Every kind of entry and every attribute.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{CWD, FileType, IFlags, Mode, XattrFlags, ioctl_setflags, lsetxattr, makedev, mknodat, setxattr};
use rustix::io::Errno;

use super::*;
use crate::format::node::{HardLink, NodeKind};
use crate::source::Kind;

#[test]
fn every_kind_of_entry() {
    on_each_file_system(|tmp| {
        fs::write(tmp.join("file"), b"12345").unwrap();
        fs::create_dir(tmp.join("dir")).unwrap();
        symlink("no\\where/\u{e4}", tmp.join("link")).unwrap();
        mknodat(CWD, tmp.join("fifo"), FileType::Fifo, Mode::from(0o640), 0).unwrap();
        let _socket = UnixListener::bind(tmp.join("socket")).unwrap();
        let dir = open(tmp);

        assert_eq!(metadata(&dir, b"file").1.kind, NodeKind::File { size: 5 });
        assert_eq!(metadata(&dir, b"dir").1.kind, NodeKind::Dir);
        let target = "no\\where/\u{e4}".as_bytes().to_vec();
        assert_eq!(metadata(&dir, b"link").1.kind, NodeKind::Symlink { target });
        assert_eq!(metadata(&dir, b"fifo").1.kind, NodeKind::Fifo);
        assert_eq!(metadata(&dir, b"socket").1.kind, NodeKind::Socket);
        let listed: Vec<Vec<u8>> = dir.names().unwrap().iter().map(<[u8]>::to_vec).collect();
        assert_eq!(listed, [b"dir".as_slice(), b"fifo", b"file", b"link", b"socket"]);
        assert_eq!(dir.names().unwrap().len(), 5, "a second listing begins at the start");
    });
}

#[test]
fn devices_are_described_and_never_opened() {
    on_each_file_system(|tmp| {
        // Major 240 to 254 are for local use: opening one fails with ENXIO, so that an open would show as a note.
        for (name, kind) in [("char", FileType::CharacterDevice), ("block", FileType::BlockDevice)] {
            match mknodat(CWD, tmp.join(name), kind, Mode::from(0o600), makedev(251, 300)) {
                Ok(()) => {}
                Err(Errno::PERM) => return skip("no right to make device nodes"),
                Err(e) => panic!("{e}"),
            }
        }
        let dir = open(tmp);
        let rdev = makedev(251, 300);
        assert_eq!(metadata(&dir, b"char").1.kind, NodeKind::CharDevice { rdev });
        assert_eq!(metadata(&dir, b"block").1.kind, NodeKind::BlockDevice { rdev });
        let stat = dir.stat(b"char").unwrap();
        assert_eq!(dir.open_file(b"char", &stat).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
    });
}

#[test]
fn modes_owners_times_and_inodes() {
    on_each_file_system(|tmp| {
        let path = tmp.join("file");
        let file = fs::File::create(&path).unwrap();
        let old = std::time::UNIX_EPOCH - std::time::Duration::new(86_400, 250_000_000);
        file.set_times(fs::FileTimes::new().set_modified(old).set_accessed(old)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o6751)).unwrap();
        if is_root() {
            std::os::unix::fs::chown(&path, Some(0), Some(4_000_000_000)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o6751)).unwrap();
        }
        let dir = open(tmp);
        let (stat, metadata) = metadata(&dir, b"file");
        assert_eq!((metadata.mode, stat.mode), (0o6751, 0o6751));
        assert_eq!(metadata.mtime, Timestamp { secs: -86_401, nanos: 750_000_000 });
        assert_eq!(metadata.atime, metadata.mtime);
        assert_eq!(metadata.inode, Some(stat.ino));
        assert!(stat.ctime > EPOCH && metadata.ctime == stat.ctime);
        assert!(stat.mount_id != 0 && !stat.is_mount_root);
        assert_eq!(metadata.btime, stat.btime);
        assert_eq!(metadata.hardlink, None);
        if is_root() {
            assert_eq!((metadata.uid, metadata.gid), (0, 4_000_000_000));
            assert_eq!((metadata.user.as_slice(), metadata.group.as_slice()), (b"root".as_slice(), b"".as_slice()));
        }
    });
}

#[test]
fn reading_leaves_access_times_alone() {
    let tmp = tempfile::tempdir().unwrap();
    fs::create_dir(tmp.path().join("dir")).unwrap();
    fs::write(tmp.path().join("dir/file"), b"x").unwrap();
    let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
    for path in ["dir/file", "dir"] {
        let times = fs::FileTimes::new().set_accessed(old);
        fs::File::open(tmp.path().join(path)).unwrap().set_times(times).unwrap();
    }
    let root = open(tmp.path());
    let dir_stat = root.stat(b"dir").unwrap();
    let dir = root.open_dir(b"dir", &dir_stat).unwrap();
    assert_eq!(dir.names().unwrap().len(), 1);
    let stat = dir.stat(b"file").unwrap();
    assert_eq!(dir.open_file(b"file", &stat).unwrap().read_at(0, &mut [0; 8]).unwrap(), 1);
    assert_eq!(dir.stat(b"file").unwrap().atime.secs, 1_000_000);
    assert_eq!(root.stat(b"dir").unwrap().atime.secs, 1_000_000);
}

#[test]
fn hard_links_share_an_identity() {
    on_each_file_system(|tmp| {
        fs::write(tmp.join("a"), b"x").unwrap();
        fs::hard_link(tmp.join("a"), tmp.join("b")).unwrap();
        let dir = open(tmp);
        let (stat, a) = metadata(&dir, b"a");
        assert_eq!(a.hardlink, Some(HardLink { dev: stat.dev, ino: stat.ino, nlink: 2 }));
        assert_eq!(metadata(&dir, b"b").1.hardlink, a.hardlink);
        let options = Options { ignore_inode: true, ..Options::default() };
        let (_, ignored) = metadata(&open_with(tmp, &options), b"a");
        assert_eq!((ignored.inode, ignored.ctime, ignored.hardlink), (None, EPOCH, a.hardlink));
        fs::create_dir(tmp.join("dir")).unwrap();
        fs::create_dir(tmp.join("dir/sub")).unwrap();
        assert_eq!(metadata(&dir, b"dir").1.hardlink, None);
    });
}

/// `user::rw-, user:65534:r--, group::r--, mask::r--, other::---` in the kernel's encoding: version 2, then entries of
/// tag 16, permissions 16, id 32, little-endian.
const ACL: &[u8] = b"\x02\0\0\0\
    \x01\0\x06\0\xff\xff\xff\xff\
    \x02\0\x04\0\xfe\xff\0\0\
    \x04\0\x04\0\xff\xff\xff\xff\
    \x10\0\x04\0\xff\xff\xff\xff\
    \x20\0\0\0\xff\xff\xff\xff";
/// VFS_CAP_REVISION_2, effective; permitted: CAP_NET_RAW.
const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

#[test]
fn extended_attributes_of_all_namespaces() {
    on_each_file_system(|tmp| {
        let large = vec![7; 3000];
        fs::write(tmp.join("file"), b"").unwrap();
        fs::create_dir(tmp.join("dir")).unwrap();
        let wanted: [(&str, &str, &[u8]); 7] = [
            ("file", "user.empty", b""),
            ("file", "user.large", &large),
            ("file", "system.posix_acl_access", ACL),
            ("file", "security.capability", CAPABILITY),
            ("file", "trusted.copal", b"\0\xff"),
            ("dir", "system.posix_acl_default", ACL),
            ("dir", "user.on dir \u{e4}", b"v"),
        ];
        let mut set = Vec::new();
        for (file, name, value) in wanted {
            match setxattr(tmp.join(file), name, value, XattrFlags::empty()) {
                Ok(()) => set.push((file, name, value)),
                Err(e @ (Errno::OPNOTSUPP | Errno::PERM)) => skip(&format!("{name} on {}: {e}", tmp.display())),
                Err(e) => panic!("{name}: {e}"),
            }
        }
        assert!(set.iter().any(|(_, name, _)| name.starts_with("system.")), "neither file system here has ACLs");
        let dir = open(tmp);
        for file in ["file", "dir"] {
            let (_, metadata) = metadata(&dir, file.as_bytes());
            let mut expected: Vec<_> = set.iter().filter(|(of, ..)| *of == file).map(|&(_, n, v)| (n, v)).collect();
            expected.sort_unstable();
            // A security module may add its own label.
            let ours = metadata.xattrs.iter().filter(|x| x.name != b"security.selinux");
            let got: Vec<_> = ours.map(|x| (std::str::from_utf8(&x.name).unwrap(), x.value.as_slice())).collect();
            assert_eq!(got, expected);
        }
    });
}

#[test]
fn extended_attributes_of_links_and_special_files_are_their_own() {
    on_each_file_system(|tmp| {
        fs::write(tmp.join("file"), b"").unwrap();
        symlink("file", tmp.join("link")).unwrap();
        mknodat(CWD, tmp.join("fifo"), FileType::Fifo, Mode::from(0o600), 0).unwrap();
        if let Err(e) = setxattr(tmp.join("file"), "trusted.of", b"file", XattrFlags::empty()) {
            return skip(&format!("trusted.*: {e}"));
        }
        lsetxattr(tmp.join("link"), "trusted.of", b"link", XattrFlags::empty()).unwrap();
        setxattr(tmp.join("fifo"), "trusted.of", b"fifo", XattrFlags::empty()).unwrap();
        let dir = open(tmp);
        for name in ["file", "link", "fifo"] {
            let (_, metadata) = metadata(&dir, name.as_bytes());
            let of = metadata.xattrs.iter().find(|x| x.name == b"trusted.of").unwrap();
            assert_eq!(of.value, name.as_bytes());
        }
    });
}

#[test]
fn chattr_flags_are_masked() {
    on_each_file_system(|tmp| {
        let file = fs::File::create(tmp.join("file")).unwrap();
        if let Err(e) = ioctl_setflags(&file, IFlags::NODUMP | IFlags::NOATIME) {
            return skip(&format!("chattr on {}: {e}", tmp.display()));
        }
        fs::create_dir(tmp.join("dir")).unwrap();
        let dir = open(tmp);
        let (_, file) = metadata(&dir, b"file");
        // ext4 sets its own flag for extents too, which is not ours to put back.
        assert_eq!((file.flags, file.project), (0xc0, 0));
        assert_eq!(metadata(&dir, b"dir").1.flags, 0);
    });
}

#[test]
fn names_that_are_no_text_and_as_long_as_they_get() {
    on_each_file_system(|tmp| {
        let long = [b'\xf0'; 255];
        let names: [&[u8]; 5] = [b"\x01\n", b" ", b"\\", b"\xff\xfe", &long];
        for name in names {
            fs::write(tmp.join(OsStr::from_bytes(name)), name).unwrap();
        }
        let dir = open(tmp);
        let listed = dir.names().unwrap();
        let mut sorted = names.to_vec();
        sorted.sort_unstable();
        assert!(listed.iter().eq(sorted.iter().copied()));
        assert_eq!(listed.rejected_count(), 0);
        for name in names {
            let stat = dir.stat(name).unwrap();
            let mut content = [0; 256];
            let len = dir.open_file(name, &stat).unwrap().read_at(0, &mut content).unwrap();
            assert_eq!(&content[..len], name);
        }
    });
}

#[test]
fn a_directory_of_many_entries_is_listed_whole() {
    on_each_file_system(|tmp| {
        for n in 0..5000 {
            fs::write(tmp.join(format!("a-name-of-some-length-{n:05}")), b"").unwrap();
        }
        let names = open(tmp).names().unwrap();
        assert!(
            names
                .iter()
                .map(<[u8]>::to_vec)
                .eq((0..5000).map(|n| format!("a-name-of-some-length-{n:05}").into_bytes()))
        );
    });
}

#[test]
fn a_root_may_be_anything() {
    let tmp = tempfile::tempdir().unwrap();
    let file = tmp.path().join("file");
    fs::write(&file, b"abc").unwrap();
    fs::create_dir(tmp.path().join("dir")).unwrap();
    symlink("dir", tmp.path().join("link")).unwrap();
    let open = |path: &Path| Root::open(path, &Options::default());
    let kind = |path: &str| match open(&tmp.path().join(path)).unwrap().target() {
        Target::Dir { stat, .. } => (stat.kind, None),
        Target::Entry { name, stat, .. } => (stat.kind, Some(name.clone())),
    };
    assert_eq!(kind("file"), (Kind::File, Some(b"file".to_vec())));
    assert_eq!(kind("dir"), (Kind::Dir, None));
    assert_eq!(kind("link"), (Kind::Symlink, Some(b"link".to_vec())), "a link is an entry of its own");
    assert_eq!(kind("link/"), (Kind::Dir, None), "a slash means what is behind it");
    assert_eq!(kind("link/."), (Kind::Dir, None));
    assert_eq!(kind("dir/.."), (Kind::Dir, None));
    assert!(matches!(open(Path::new("/")).unwrap().target(), Target::Dir { .. }));

    let Target::Entry { parent, name, stat } = open(&file).unwrap().target else { panic!() };
    assert_eq!(parent.open_file(&name, &stat).unwrap().read_at(1, &mut [0; 9]).unwrap(), 2);
    assert_eq!(parent.metadata(&name, &stat).unwrap().0.kind, NodeKind::File { size: 3 });

    let error = open(&tmp.path().join("missing/x")).unwrap_err();
    assert!(error.to_string().starts_with("cannot open /"), "{error}");
    assert_eq!(error.source.kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn what_is_open_already_is_described_by_it() {
    let tmp = tempfile::tempdir().unwrap();
    fs::write(tmp.path().join("file"), b"abc").unwrap();
    let dir = open(tmp.path());
    let (stat, by_name) = metadata(&dir, b"file");
    let file = dir.open_file(b"file", &stat).unwrap();
    assert_eq!(dir.metadata_of(&file, &stat).unwrap(), (by_name, vec![]));
    let own = dir.stat_self().unwrap();
    assert_eq!(dir.metadata_of(&dir, &own).unwrap().0.kind, NodeKind::Dir);
}

#[test]
fn a_tree_deeper_than_any_path() {
    const DEPTH: u64 = 400;
    let tmp = tempfile::tempdir().unwrap();
    let name = [b'd'; 50];
    let mut made = rustix::fs::openat(CWD, tmp.path(), rustix::fs::OFlags::DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..DEPTH {
        rustix::fs::mkdirat(&made, name.as_slice(), Mode::from(0o700)).unwrap();
        made = rustix::fs::openat(&made, name.as_slice(), rustix::fs::OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    let mut dir = open(tmp.path());
    let mut depth = 0;
    while let Some(name) = dir.names().unwrap().iter().next() {
        let stat = dir.stat(name).unwrap();
        dir = dir.open_dir(name, &stat).unwrap();
        depth += 1;
    }
    assert_eq!(depth, DEPTH);
}
