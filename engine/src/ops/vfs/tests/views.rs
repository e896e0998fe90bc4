//! The top directories, and how they follow the repository.

use super::*;
use crate::format::bundle::Role;
use crate::repo::{Locked, Opener};
use crate::store::Verb;
use crate::store::fault::Rule;

fn empty(worker: &mut Worker<'_>) -> BlobId {
    directory(worker, vec![])
}

#[test]
fn snapshots_stand_by_id_time_host_and_tag() {
    let bench = Bench::new();
    let first = bench.snapshot(0, &["a/b", "x"], empty);
    let second = bench.snapshot(86_400, &[], |worker| {
        let file = small_file(worker, "f", b"");
        directory(worker, vec![file])
    });
    let third = bench.snapshot(86_400, &["x"], empty);
    let vfs = bench.vfs();
    assert_eq!(names(&vfs, ""), ["hosts", "ids", "snapshots", "tags"]);
    let mut ids = [first, second, third].map(|id| id.short());
    ids.sort();
    assert_eq!(names(&vfs, "ids"), ids);
    let times = ["1970-01-01T00:00:00Z", "1970-01-02T00:00:00Z", "1970-01-02T00:00:00Z-1", "latest"];
    assert_eq!(names(&vfs, "snapshots"), times);
    assert_eq!(names(&vfs, "hosts"), ["host"]);
    assert_eq!(names(&vfs, "hosts/host"), times);
    assert_eq!(names(&vfs, "tags"), ["a_b", "x"]);
    assert_eq!(names(&vfs, "tags/a_b"), ["1970-01-01T00:00:00Z", "latest"]);
    assert_eq!(names(&vfs, "tags/x"), ["1970-01-01T00:00:00Z", "1970-01-02T00:00:00Z", "latest"]);
    let latest = walk(&vfs, "snapshots/latest").unwrap();
    assert_eq!((latest.kind, vfs.read_link(latest.ino).unwrap()), (FileKind::Symlink, times[2].into()));
    assert_eq!(names(&vfs, &format!("ids/{}", second.short())), ["f"]);
    assert_eq!(vfs.space().snapshots, 3);
    assert!(vfs.space().bytes > 0);
}

#[test]
fn templates_and_filters_are_followed() {
    let bench = Bench::new();
    let first = bench.snapshot(0, &["a"], empty);
    bench.snapshot(1, &["b"], empty);
    let vfs = bench.vfs_with(|options| {
        options.templates = vec![Template::parse("by-%u/%t-%I").unwrap(), Template::parse("%T").unwrap()];
        options.time = Box::new(|t| format!("t{}", t.secs));
        options.chosen = Box::new(|s| s.names.as_ref().unwrap().labels == [b"a"]);
    });
    assert_eq!(names(&vfs, ""), ["by-user", "latest", "t0"]);
    assert_eq!(names(&vfs, "by-user"), [format!("a-{first}")]);
}

#[test]
fn an_empty_repository_has_its_top_directories() {
    let vfs = Bench::new();
    let vfs = vfs.vfs();
    assert_eq!(names(&vfs, ""), ["hosts", "ids", "snapshots", "tags"]);
    assert!(names(&vfs, "snapshots").is_empty());
}

#[test]
fn new_snapshots_appear_and_open_listings_stay() {
    let bench = Bench::new();
    bench.snapshot(0, &[], empty);
    let vfs = bench.vfs();
    let top = walk(&vfs, "snapshots").unwrap().ino;
    let old = vfs.lookup(top, b"latest").unwrap();
    let handle = vfs.open_dir(top).unwrap();
    bench.snapshot(60, &[], |worker| {
        let file = small_file(worker, "new", b"content");
        directory(worker, vec![file])
    });
    assert_eq!(names(&vfs, "snapshots"), ["1970-01-01T00:00:00Z", "1970-01-01T00:01:00Z", "latest"]);
    let new = vfs.lookup(top, b"latest").unwrap();
    assert_ne!(old.ino, new.ino, "kernels remember where a link points, by inode");
    assert_eq!(vfs.read_link(new.ino).unwrap(), b"1970-01-01T00:01:00Z");
    let file = walk(&vfs, "snapshots/1970-01-01T00:01:00Z/new").unwrap();
    assert_eq!(vfs.read(vfs.open(file.ino).unwrap(), 0, 99).unwrap(), "content");
    let mut listed = 0;
    vfs.read_dir(top, handle, 2, false, &mut |_| {
        listed += 1;
        false
    })
    .unwrap();
    assert_eq!(listed, 2);
}

#[test]
fn forgotten_snapshots_go() {
    let bench = Bench::new();
    bench.snapshot(0, &[], empty);
    let second = bench.snapshot(60, &[], empty);
    let vfs = bench.vfs();
    assert_eq!(names(&vfs, "snapshots").len(), 3);
    let at = bench.repo.snapshots().unwrap().0.iter().find(|s| s.id() == second).unwrap().at;
    bench.repo.forget(&[at]).unwrap();
    assert_eq!(names(&vfs, "snapshots"), ["1970-01-01T00:00:00Z", "latest"]);
    assert_eq!(vfs.space().snapshots, 1);
}

#[test]
fn the_list_is_read_no_more_often_than_asked_and_trouble_keeps_the_old_one() {
    let bench = Bench::new();
    bench.snapshot(0, &[], empty);
    let patient = bench.vfs_with(|options| options.refresh = Duration::from_secs(3600));
    let eager = bench.vfs();
    bench.snapshot(60, &[], empty);
    let calls = bench.fault.calls();
    assert_eq!(names(&patient, "snapshots").len(), 2);
    assert_eq!(bench.fault.calls(), calls);
    bench.fault.add(Rule::on(Verb::List, "snap/"));
    assert_eq!(names(&eager, "snapshots").len(), 2);
    assert_eq!(bench.problems().len(), 1, "{:?}", bench.problems());
    assert!(bench.problems()[0].starts_with("the list of snapshots: "), "{:?}", bench.problems());
    bench.fault.clear();
    assert_eq!(names(&eager, "snapshots").len(), 3);
}

#[test]
fn a_key_that_may_not_read_is_refused() {
    let bench = Bench::new();
    bench.snapshot(0, &[], empty);
    let mut bundle = bench.repo.bundle().clone();
    (bundle.role, bundle.root_seed, bundle.read_seed) = (Role::Writer, None, None);
    bundle.identity = Some(bench.who.clone());
    let locked = Locked::find(Arc::clone(bench.repo.store()), bench.repo.bridge().clone()).unwrap();
    let writer = locked.unlock(Opener::Bundle(Box::new(bundle)), bench.repo.options().clone()).unwrap();
    let refused = Vfs::new(Arc::new(writer), Options::new(1 << 20), bench.problems.clone()).unwrap_err();
    assert!(matches!(refused, Error::NotAllowed { needed: "owner or reader", .. }), "{refused:?}");
    assert!(refused.to_string().contains("may not mount it"), "{refused}");
}
