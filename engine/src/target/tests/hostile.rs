//! Snapshots that lie, and somebody who changes the tree under our hands: nothing outside is ever touched.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::*;

#[test]
fn names_that_are_none_are_refused_everywhere() {
    let temp = tempfile::tempdir().unwrap();
    let target = open(&temp.path().join("t"), Options::default());
    let dir = target.root().make_dir(b"d", &meta(NodeKind::Dir)).unwrap();
    let source = put_well(&dir, b"f", b"x").source;
    let before = listing(temp.path());
    let long = vec![b'n'; 256];
    let names: [&[u8]; 9] = [b"", b".", b"..", b"/", b"a/b", b"../x", b"/etc/x", b"a\0b", &long];
    for name in names {
        let file = file_meta(b"x");
        let id = HardLink { dev: 1, ino: 1, nlink: 2 };
        let refused = [
            decide(&dir, name, &file, Overwrite::Always).map(drop),
            dir.make_dir(name, &meta(NodeKind::Dir)).map(drop),
            dir.begin_file(name, &file, Decision::Replace).map(drop),
            dir.symlink(name, &meta(NodeKind::Symlink { target: b"t".to_vec() }), Decision::Replace).map(drop),
            dir.special(name, &meta(NodeKind::Fifo), Decision::Replace).map(drop),
            dir.update(name, &file).map(drop),
            dir.hard_link(name, Decision::Replace, &source),
            dir.remove(name).map(drop),
            Links::default().claim(&target, &id, &dir, name, Decision::Create).map(drop),
            LinkSource::existing(&dir, name, &file).map(drop),
        ];
        for (at, result) in refused.into_iter().enumerate() {
            assert!(matches!(result, Err(Error::Name { .. })), "{:?} at {at}", name.escape_ascii().to_string());
        }
    }
    assert_eq!(listing(temp.path()), before);
}

#[test]
fn link_targets_of_any_kind_are_only_stored() {
    let temp = tempfile::tempdir().unwrap();
    let target = open(temp.path(), Options::default());
    for (at, link) in [b"../../etc".as_slice(), b"/", b"", &[b'x'; 5_000], b"with\0nul"].into_iter().enumerate() {
        let name = format!("l{at}");
        let wanted = meta(NodeKind::Symlink { target: link.to_vec() });
        let made = target.root().symlink(name.as_bytes(), &wanted, Decision::Create);
        assert_eq!(made.is_ok(), at < 2, "{at}: {made:?}");
    }
    assert_eq!(names_in(temp.path()), [b"l0", b"l1"]);
}

#[test]
fn a_link_where_a_directory_should_be_is_replaced() {
    let temp = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("f"), b"precious").unwrap();
    let before = listing(outside.path());
    std::os::unix::fs::symlink(outside.path(), temp.path().join("d")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("f"), temp.path().join("f")).unwrap();
    let target = open(temp.path(), Options::default());
    put_well(target.root(), b"f", b"x");
    let dir = target.root().make_dir(b"d", &meta(NodeKind::Dir)).unwrap();
    put_well(&dir, b"f", b"x");
    assert_eq!(dir.finish(&meta(NodeKind::Dir)), []);
    assert_eq!(listing(outside.path()), before);
    assert!(fs::symlink_metadata(temp.path().join("d")).unwrap().is_dir());
    assert!(fs::symlink_metadata(temp.path().join("f")).unwrap().is_file());
}

#[test]
fn an_existing_file_with_a_name_outside_is_never_changed_in_place() {
    let temp = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir_in(temp.path().parent().unwrap()).unwrap();
    let precious = outside.path().join("precious");
    fs::write(&precious, b"x").unwrap();
    let time = std::time::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    fs::File::options()
        .write(true)
        .open(&precious)
        .unwrap()
        .set_times(fs::FileTimes::new().set_modified(time))
        .unwrap();
    fs::set_permissions(&precious, fs::Permissions::from_mode(0o600)).unwrap();
    fs::hard_link(&precious, temp.path().join("f")).unwrap();
    // Size and time agree, the mode does not: the snapshot would have it changed.
    let target = open(temp.path(), Options { overwrite: Overwrite::IfChanged, ..Options::default() });
    let wanted = file_meta(b"x");
    assert_eq!(decide(target.root(), b"f", &wanted, Overwrite::IfChanged).unwrap(), Decision::Replace);
    assert!(matches!(target.root().update(b"f", &wanted), Err(Error::Swapped { .. })));
    put(target.root(), b"f", b"x", &wanted).unwrap().unwrap();
    assert_eq!((mode_of(&precious), mode_of(&temp.path().join("f"))), (0o600, 0o644));
}

/// Exchanges `dir` with a link to `outside` as fast as it can, until told to stop; returns how often.
///
/// Puts up a new link when the restore has replaced the one that there was.
fn exchange(dir: &Path, link: &Path, outside: &Path, stop: &AtomicBool) -> u64 {
    let cwd = rustix::fs::CWD;
    let is_link = |path: &Path| fs::symlink_metadata(path).is_ok_and(|stat| stat.is_symlink());
    let mut swaps = 0;
    while !stop.load(Ordering::Relaxed) {
        if !is_link(dir) && !is_link(link) {
            let _ = fs::rename(link, link.with_extension(swaps.to_string()));
            let _ = std::os::unix::fs::symlink(outside, link);
        }
        for _ in 0..16 {
            if rustix::fs::renameat_with(cwd, dir, cwd, link, rustix::fs::RenameFlags::EXCHANGE).is_ok() {
                swaps += 1;
            }
        }
    }
    swaps
}

/// One pass over the tree that the exchanger attacks. Errors are fine, writing through the link is not.
fn restore_pass(target: &Target) -> Result<()> {
    let dir_meta = meta(NodeKind::Dir);
    let dir = target.root().make_dir(b"swapped", &dir_meta)?;
    let path = dir.dir_path().clone();
    put(&dir, b"canary", b"attack", &file_meta(b"attack"))?;
    let source = put(&dir, b"first", b"attack", &file_meta(b"attack"))?.map(|finished| finished.source);
    drop(dir);
    let dir = target.reopen(&path)?;
    let sub = dir.make_dir(b"sub", &dir_meta)?;
    put(&sub, b"canary", b"attack", &file_meta(b"attack"))?;
    if let Some(source) = source {
        sub.hard_link(b"linked", decide(&sub, b"linked", &file_meta(b"attack"), Overwrite::Always)?, &source)?;
    }
    sub.finish(&dir_meta);
    dir.remove(b"canary")?;
    target.reopen(&path)?.finish(&dir_meta);
    Ok(())
}

#[test]
fn a_link_swapped_in_while_restoring_leads_nowhere() {
    let temp = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::create_dir(outside.path().join("sub")).unwrap();
    for path in ["canary", "sub/canary", "sub/linked"] {
        fs::write(outside.path().join(path), b"precious").unwrap();
    }
    let before = listing(outside.path());
    fs::create_dir(temp.path().join("swapped")).unwrap();
    let attack = tempfile::tempdir().unwrap();
    let link = attack.path().join("link");
    std::os::unix::fs::symlink(outside.path(), &link).unwrap();
    let (stop, mut passes, mut failed) = (AtomicBool::new(false), 0, 0);
    let swaps = std::thread::scope(|scope| {
        let exchanger = scope.spawn(|| exchange(&temp.path().join("swapped"), &link, outside.path(), &stop));
        let end = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end {
            let target = open(temp.path(), Options::default());
            failed += u64::from(restore_pass(&target).is_err());
            passes += 1;
        }
        stop.store(true, Ordering::Relaxed);
        exchanger.join().unwrap()
    });
    assert_eq!(listing(outside.path()), before, "{swaps} swaps in {passes} passes");
    assert!(swaps > 100 && passes > 10, "{swaps} swaps, {passes} passes, {failed} refused");
}

#[test]
fn another_file_swapped_in_under_an_update_is_left_alone() {
    let temp = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir_in(temp.path().parent().unwrap()).unwrap();
    let precious = outside.path().join("precious");
    fs::write(&precious, b"x").unwrap();
    fs::set_permissions(&precious, fs::Permissions::from_mode(0o600)).unwrap();
    let target = open(temp.path(), Options::default());
    let wanted = Metadata { mode: 0o666, ..file_meta(b"x") };
    for swapped_in in ["link", "hard link", "directory"] {
        let path = temp.path().join("f");
        match swapped_in {
            "link" => std::os::unix::fs::symlink(&precious, &path).unwrap(),
            "hard link" => fs::hard_link(&precious, &path).unwrap(),
            _ => fs::create_dir(&path).unwrap(),
        }
        assert!(matches!(target.root().update(b"f", &wanted), Err(Error::Swapped { .. })), "{swapped_in}");
        assert_eq!(target.root().remove(b"f").unwrap(), 1);
    }
    assert_eq!(mode_of(&precious), 0o600);
}
