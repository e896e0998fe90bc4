//! The source against real file systems: the temporary directory and, as a second one, /dev/shm.

mod entries;
mod excludes;
mod files;
mod patterns;
mod races;
mod refusals;

use std::path::Path;

use rustix::process::{Gid, Uid};
use tempfile::TempDir;

use super::{Dir, Options, Root, Stat, Target};
use crate::format::node::{Metadata, Timestamp};

/// Runs `test` in a temporary directory of each file system at hand.
fn on_each_file_system(test: impl Fn(&Path)) {
    test(tempfile::tempdir().unwrap().path());
    match TempDir::new_in("/dev/shm") {
        Ok(dir) => test(dir.path()),
        Err(e) => skip(&format!("/dev/shm cannot be used: {e}")),
    }
}

fn skip(why: &str) {
    eprintln!("skipped: {why}");
}

fn open(path: &Path) -> Dir {
    open_with(path, &Options::default())
}

fn open_with(path: &Path, options: &Options) -> Dir {
    let root = Root::open(path, options).unwrap();
    match root.target() {
        Target::Dir { dir, .. } => dir.clone(),
        Target::Entry { .. } => panic!("{} is no directory", path.display()),
    }
}

/// Metadata of an entry of which nothing must stay unread.
fn metadata(dir: &Dir, name: &[u8]) -> (Stat, Metadata) {
    let stat = dir.stat(name).unwrap();
    let (metadata, notes) = dir.metadata(name, &stat).unwrap();
    assert_eq!(notes, [], "{}", name.escape_ascii());
    (stat, metadata)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs `test` in a thread of an ordinary user without groups and capabilities; needs root.
fn as_nobody<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let nobody = scope.spawn(|| {
            rustix::thread::set_thread_groups(&[]).unwrap();
            let gid = Gid::from_raw(65534);
            rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
            let uid = Uid::from_raw(65534);
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            test()
        });
        nobody.join().unwrap()
    })
}

#[test]
fn threads_may_share_everything() {
    fn shared<T: Send + Sync>() {}
    shared::<(Root, Dir, super::File, super::Names, super::exclude::Exclude, super::pattern::PatternList)>();
}

const EPOCH: Timestamp = Timestamp { secs: 0, nanos: 0 };
