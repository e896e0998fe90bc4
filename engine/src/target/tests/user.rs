//! As an ordinary user: what such a user cannot do is told, all else is restored.

use super::*;

const NOBODY: u32 = 65_534;

#[test]
fn an_ordinary_user_restores_all_that_users_can() {
    if !is_root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let dir = temp.path().join("work");
    fs::create_dir(&dir).unwrap();
    std::os::unix::fs::chown(&dir, Some(NOBODY), Some(NOBODY)).unwrap();
    let output = run_again("target::tests::user::restores_as_nobody", &dir, Some(NOBODY));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "it ran");
}

#[test]
#[ignore = "part of another test"]
fn restores_as_nobody() {
    let base = given_dir();
    let target = open(&base.join("t"), Options { overwrite: Overwrite::IfChanged, ..Options::default() });
    for _ in 0..2 {
        owners_of_others(&target);
        devices_and_privileged_attributes(&target);
        closed_directories(&target);
    }
    closed_files(&target);
    assert_eq!(target.root().entries().unwrap().len(), 5);
}

fn told(problems: &[Problem], expected: &[&str]) {
    assert_eq!(problems.len(), expected.len(), "{problems:?}");
    for (problem, expected) in problems.iter().zip(expected) {
        assert!(problem.message.contains(expected), "{problems:?}");
    }
}

fn owners_of_others(target: &Target) {
    let root = target.root();
    let mut wanted = file_meta(b"of root");
    (wanted.uid, wanted.gid, wanted.mode) = (0, 0, 0o6755);
    let finished = put(root, b"of root", b"of root", &wanted).unwrap().unwrap();
    told(&finished.problems, &["owner is 65534:65534 and not 0:0: Operation not permitted", "setuid and setgid"]);
    let path = target.root().path().join("of root");
    assert_eq!((mode_of(&path), fs::read(&path).unwrap()), (0o755, b"of root".to_vec()));
    // Our own programs keep their setuid bit.
    let own = Metadata { mode: 0o4755, ..file_meta(b"own") };
    told(&put(root, b"own", b"own", &own).unwrap().unwrap().problems, &[]);
    assert_eq!(mode_of(&target.root().path().join("own")), 0o4755);
    let link = Metadata { uid: 0, gid: 0, ..meta(NodeKind::Symlink { target: b"t".to_vec() }) };
    let decision = decide(root, b"link", &link, Overwrite::Always).unwrap();
    told(&root.symlink(b"link", &link, decision).unwrap().problems, &["owner is"]);
    let dir = Metadata { uid: 0, gid: 0, mode: 0o2755, ..meta(NodeKind::Dir) };
    told(&root.make_dir(b"dir of root", &dir).unwrap().finish(&dir), &["owner is", "setuid and setgid"]);
}

fn devices_and_privileged_attributes(target: &Target) {
    let root = target.root();
    let device = meta(NodeKind::BlockDevice { rdev: 259 });
    let error = root.special(b"device", &device, Decision::Create).unwrap_err();
    assert_eq!(error.problem().kind, ProblemKind::Unwritable);
    assert!(error.is(rustix::io::Errno::PERM), "{error}");
    let mut wanted = Metadata { mode: 0o400, ..file_meta(b"x") };
    wanted.xattrs = vec![
        xattr("security.capability", b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        xattr("trusted.t", b"1"),
        xattr("user.u", b"1"),
    ];
    wanted.flags = 0x10 | 0x40;
    let finished = put(root, b"attributes", b"x", &wanted).unwrap().unwrap();
    told(&finished.problems, &["security.capability", "trusted.t", "chattr flags are 0x40 and not 0x50"]);
    assert_eq!(mode_of(&root.path().join("attributes")), 0o400, "user.u was set all the same");
}

fn closed_directories(target: &Target) {
    for mode in [0o500, 0o000] {
        let wanted = Metadata { mode, ..meta(NodeKind::Dir) };
        let name = format!("closed {mode:o}");
        let dir = target.root().make_dir(name.as_bytes(), &wanted).unwrap();
        let sub = dir.make_dir(b"sub", &wanted).unwrap();
        put_well(&sub, b"f", b"x");
        told(&sub.finish(&wanted), &[]);
        told(&dir.finish(&wanted), &[]);
        assert_eq!(mode_of(&target.root().path().join(&name)), mode);
    }
}

fn closed_files(target: &Target) {
    let wanted = Metadata { mode: 0, xattrs: vec![xattr("user.u", b"1")], ..file_meta(b"x") };
    for _ in 0..2 {
        let finished = put(target.root(), b"attributes", b"x", &wanted).unwrap().unwrap();
        // The first run still can open the file, the second reaches it by path only.
        told(&finished.problems, &[]);
    }
    assert_eq!(mode_of(&target.root().path().join("attributes")), 0);
    for mode in ["500", "0"] {
        assert_eq!(target.root().remove(format!("closed {mode}").as_bytes()).unwrap(), 3);
    }
}
