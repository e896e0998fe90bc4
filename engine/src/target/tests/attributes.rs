//! Attributes that stick, those that cannot, and the order that makes them stick.

use super::*;

const IMMUTABLE: u32 = 0x10;
const APPEND: u32 = 0x20;
const NODUMP: u32 = 0x40;
const NOATIME: u32 = 0x80;

/// Version 2, then tag, permissions and id per entry: u::rw-, u:1000:r--, g::r--, m::r--, o::---.
fn acl() -> Vec<u8> {
    let entries: [(u16, u16, u32); 5] =
        [(1, 6, u32::MAX), (2, 4, 1_000), (4, 4, u32::MAX), (0x10, 4, u32::MAX), (0x20, 0, u32::MAX)];
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// `cap_net_raw=ep`, revision 2 (linux/capability.h).
fn capability() -> Vec<u8> {
    [0x0200_0001_u32, 1 << 13, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn get(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 70_000];
    let len = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).ok()?;
    value.truncate(len);
    Some(value)
}

fn flags_of(path: &Path) -> u32 {
    let file = fs::File::open(path).unwrap();
    rustix::fs::ioctl_getflags(&file).unwrap().bits() & crate::format::node::FLAGS_STORED
}

fn thaw(path: &Path) {
    handle::thaw(std::os::fd::AsFd::as_fd(&fs::File::open(path).unwrap()));
}

#[test]
fn all_that_root_can_set_sticks() {
    if !is_root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let target = open(temp.path(), Options::default());
    let mut wanted = file_meta(b"bytes");
    wanted.mode = 0o6640;
    (wanted.uid, wanted.gid) = (1_000, 1_001);
    wanted.flags = IMMUTABLE | NODUMP | NOATIME;
    wanted.xattrs = vec![
        xattr("security.capability", &capability()),
        xattr("system.posix_acl_access", &acl()),
        xattr("trusted.hidden", b"\0\xff"),
        xattr("user.empty", b""),
        xattr("user.note", &[b'n'; 2_000]),
    ];
    let finished = put(target.root(), b"f", b"bytes", &wanted).unwrap().unwrap();
    let path = temp.path().join("f");
    let (is, flags) = (fs::symlink_metadata(&path).unwrap(), flags_of(&path));
    let values: Vec<_> = wanted.xattrs.iter().map(|x| get(&path, std::str::from_utf8(&x.name).unwrap())).collect();
    thaw(&path);
    assert_eq!(finished.problems, []);
    assert_eq!((is.mode() & 0o7777, is.uid(), is.gid(), flags), (0o6640, 1_000, 1_001, wanted.flags));
    assert_eq!(values, wanted.xattrs.iter().map(|xattr| Some(xattr.value.clone())).collect::<Vec<_>>());
    assert_eq!((is.mtime(), is.mtime_nsec()), (wanted.mtime.secs, wanted.mtime.nanos.into()));

    let mut dir_wanted = meta(NodeKind::Dir);
    dir_wanted.flags = APPEND;
    dir_wanted.xattrs = vec![xattr("system.posix_acl_default", &acl())];
    let dir = target.root().make_dir(b"d", &dir_wanted).unwrap();
    put_well(&dir, b"inside", b"x");
    let problems = dir.finish(&dir_wanted);
    let flags = flags_of(&temp.path().join("d"));
    thaw(&temp.path().join("d"));
    assert_eq!((problems, flags), (vec![], APPEND));
    assert_eq!(get(&temp.path().join("d"), "system.posix_acl_default"), Some(acl()));

    let mut link = meta(NodeKind::Symlink { target: b"f".to_vec() });
    link.xattrs = vec![xattr("trusted.of-link", b"1")];
    assert_eq!(target.root().symlink(b"l", &link, Decision::Create).unwrap().problems, []);
    assert_eq!(get(&temp.path().join("l"), "trusted.of-link"), Some(b"1".to_vec()));
    assert_eq!(get(&path, "trusted.of-link"), None, "not on what the link points to");
}

#[test]
fn what_a_parent_hands_down_is_taken_off_again() {
    if !is_root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    rustix::fs::setxattr(temp.path(), "system.posix_acl_default", &acl(), rustix::fs::XattrFlags::empty()).unwrap();
    let target = open(temp.path(), Options::default());
    put_well(target.root(), b"f", b"x");
    let dir = target.root().make_dir(b"d", &meta(NodeKind::Dir)).unwrap();
    assert_eq!(dir.finish(&meta(NodeKind::Dir)), []);
    assert_eq!(get(&temp.path().join("f"), "system.posix_acl_access"), None);
    assert_eq!(get(&temp.path().join("d"), "system.posix_acl_default"), None);
    assert_eq!((mode_of(&temp.path().join("f")), mode_of(&temp.path().join("d"))), (0o644, 0o755));
}

#[test]
fn what_does_not_stick_is_told_with_its_cause() {
    let temp = tempfile::tempdir().unwrap();
    let target = open(temp.path(), Options::default());
    let mut wanted = file_meta(b"x");
    wanted.uid = u32::MAX;
    wanted.mode = 0o4755;
    wanted.mtime.nanos = 0x3fff_ffff; // UTIME_NOW to the kernel
    wanted.xattrs = vec![xattr("nonsense", b"1"), xattr("user.fine", b"1")];
    let problems = put(target.root(), b"f", b"x", &wanted).unwrap().unwrap().problems;
    let told = |what: &str| problems.iter().filter(|problem| problem.message.contains(what)).count();
    assert_eq!(told("owner is"), 1, "{problems:?}");
    assert_eq!(told("setuid and setgid are left out"), 1, "{problems:?}");
    assert_eq!(told("modification time"), 1, "{problems:?}");
    assert_eq!(told("access time"), 1, "{problems:?}");
    assert_eq!(told("nonsense is not set as it was: "), 1, "{problems:?}");
    assert_eq!(problems.len(), 5, "{problems:?}");
    assert!(problems.iter().all(|problem| problem.path == temp.path().join("f")));
    assert_eq!(mode_of(&temp.path().join("f")), 0o755);
    assert_eq!(get(&temp.path().join("f"), "user.fine"), Some(b"1".to_vec()));
}

#[test]
fn project_sticks_or_is_told() {
    let temp = tempfile::tempdir().unwrap();
    let target = open(temp.path(), Options::default());
    let mut wanted = file_meta(b"x");
    wanted.project = 77;
    let problems = put(target.root(), b"f", b"x", &wanted).unwrap().unwrap().problems;
    let file = fs::File::open(temp.path().join("f")).unwrap();
    let is = ioctl::project(std::os::fd::AsFd::as_fd(&file)).unwrap_or(0);
    assert_eq!(problems.len(), usize::from(is != 77), "{problems:?}");
    assert!(problems.iter().all(|problem| problem.message.starts_with("project is 0 and not 77")), "{problems:?}");
}

#[test]
fn attributes_that_the_user_left_out_are_no_problem() {
    let temp = tempfile::tempdir().unwrap();
    let options = Options {
        no_owner: true,
        no_setuid: true,
        no_devices: true,
        exclude_xattr: vec![b"user.secret*".to_vec()],
        ..Options::default()
    };
    let target = open(temp.path(), options);
    let mut wanted = file_meta(b"x");
    (wanted.uid, wanted.gid, wanted.mode) = (4_242, 4_242, 0o6755);
    wanted.xattrs =
        vec![xattr("security.capability", &capability()), xattr("user.open", b"1"), xattr("user.secret.a", b"1")];
    assert_eq!(put(target.root(), b"f", b"x", &wanted).unwrap().unwrap().problems, []);
    let path = temp.path().join("f");
    assert_eq!((mode_of(&path), get(&path, "user.secret.a")), (0o755, None));
    assert_eq!((get(&path, "user.open"), get(&path, "security.capability")), (Some(b"1".to_vec()), None));
    let device = meta(NodeKind::CharDevice { rdev: 259 });
    let decision = decide(target.root(), b"dev", &device, Overwrite::Always).unwrap();
    assert_eq!(decision, Decision::Keep(Kept::Device));
}

#[test]
fn no_rights_of_others_without_their_owner() {
    if !is_root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let target = open(temp.path(), Options { no_owner: true, ..Options::default() });
    let mut wanted = file_meta(b"x");
    (wanted.uid, wanted.gid, wanted.mode) = (1_000, 1_000, 0o6755);
    wanted.xattrs = vec![xattr("security.capability", &capability())];
    let problems = put(target.root(), b"f", b"x", &wanted).unwrap().unwrap().problems;
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert_eq!((mode_of(&temp.path().join("f")), get(&temp.path().join("f"), "security.capability")), (0o755, None));
}

#[test]
fn owners_by_name_where_both_sides_know_them() {
    if !is_root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let names = Names { users: [(b"bob".to_vec(), 2_001)].into(), groups: [(b"staff".to_vec(), 2_002)].into() };
    let target = Target::open_with_names(temp.path(), Options::default(), names).unwrap();
    let mut wanted = file_meta(b"x");
    (wanted.uid, wanted.gid, wanted.user, wanted.group) = (7, 8, b"bob".to_vec(), b"crew".to_vec());
    assert_eq!(put(target.root(), b"f", b"x", &wanted).unwrap().unwrap().problems, []);
    let stat = fs::metadata(temp.path().join("f")).unwrap();
    assert_eq!((stat.uid(), stat.gid()), (2_001, 8));
}

#[test]
fn directories_that_shut_us_out_are_restored_so() {
    let temp = tempfile::tempdir().unwrap();
    let target = open(temp.path(), Options::default());
    for run in ["new", "again, over what is there"] {
        for mode in [0o500, 0o000, 0o1777] {
            let mut wanted = meta(NodeKind::Dir);
            wanted.mode = mode;
            let dir = target.root().make_dir(format!("{mode:o}").as_bytes(), &wanted).unwrap();
            assert_eq!(mode_of(&dir.path()) & 0o700, 0o700);
            put_well(&dir, b"f", run.as_bytes());
            let path = dir.path();
            assert_eq!(dir.finish(&wanted), []);
            assert_eq!(mode_of(&path), mode, "{run}");
            let stat = fs::metadata(&path).unwrap();
            assert_eq!((stat.mtime(), stat.mtime_nsec()), (wanted.mtime.secs, wanted.mtime.nanos.into()), "{run}");
        }
    }
    for mode in ["500", "0", "1777"] {
        assert_eq!(target.root().remove(mode.as_bytes()).unwrap(), 2, "{mode}");
    }
}

#[test]
fn frozen_files_and_directories_are_updated_replaced_and_removed() {
    if !is_root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let target = open(temp.path(), Options { overwrite: Overwrite::IfChanged, ..Options::default() });
    let mut frozen_dir = meta(NodeKind::Dir);
    frozen_dir.flags = IMMUTABLE;
    let mut frozen = file_meta(b"one");
    frozen.flags = IMMUTABLE;
    let dir = target.root().make_dir(b"d", &frozen_dir).unwrap();
    assert_eq!(put(&dir, b"f", b"one", &frozen).unwrap().unwrap().problems, []);
    assert_eq!(dir.finish(&frozen_dir), []);

    let dir = target.root().make_dir(b"d", &frozen_dir).unwrap();
    frozen.mode = 0o400;
    assert_eq!(decide(&dir, b"f", &frozen, Overwrite::IfChanged).unwrap(), Decision::UpdateMetadataOnly);
    assert_eq!(put(&dir, b"f", b"one", &frozen).unwrap().unwrap().problems, []);
    assert_eq!(mode_of(&temp.path().join("d/f")), 0o400);
    frozen.kind = NodeKind::File { size: 6 };
    assert_eq!(put(&dir, b"f", b"longer", &frozen).unwrap().unwrap().problems, []);
    assert_eq!(fs::read(temp.path().join("d/f")).unwrap(), b"longer");
    assert_eq!(dir.finish(&frozen_dir), []);
    assert_eq!(flags_of(&temp.path().join("d")) & flags_of(&temp.path().join("d/f")), IMMUTABLE);
    assert_eq!(target.root().remove(b"d").unwrap(), 2);
}

#[test]
fn an_update_takes_off_what_the_snapshot_lacks() {
    let temp = tempfile::tempdir().unwrap();
    let target = open(temp.path(), Options { overwrite: Overwrite::IfChanged, ..Options::default() });
    let path = temp.path().join("f");
    put_well(target.root(), b"f", b"x");
    rustix::fs::setxattr(&path, "user.later", b"1", rustix::fs::XattrFlags::empty()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    let before = fs::metadata(&path).unwrap().ino();
    put_well(target.root(), b"f", b"x");
    assert_eq!((get(&path, "user.later"), mode_of(&path)), (None, 0o644));
    assert_eq!(fs::metadata(&path).unwrap().ino(), before, "its bytes were kept");
}
