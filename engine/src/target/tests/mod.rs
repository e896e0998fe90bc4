//! On a real file system, as root and (by running this binary again) as an ordinary user.

mod attributes;
mod hostile;
mod kinds;
mod links;
mod policy;
mod user;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::*;
use crate::format::node::{HardLink, NodeKind, Timestamp, Xattr};

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Attributes of an entry of ours, with times that no clock shows now.
fn meta(kind: NodeKind) -> Metadata {
    let mode = if kind == NodeKind::Dir { 0o755 } else { 0o644 };
    Metadata {
        kind,
        mode,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        user: Vec::new(),
        group: Vec::new(),
        mtime: Timestamp { secs: 1_000_000_000, nanos: 123_456_789 },
        atime: Timestamp { secs: 1_100_000_000, nanos: 987_654_321 },
        ctime: Timestamp::default(),
        btime: None,
        inode: None,
        hardlink: None,
        xattrs: Vec::new(),
        flags: 0,
        project: 0,
    }
}

fn file_meta(bytes: &[u8]) -> Metadata {
    meta(NodeKind::File { size: bytes.len() as u64 })
}

fn xattr(name: &str, value: &[u8]) -> Xattr {
    Xattr { name: name.into(), value: value.into() }
}

fn open(path: &Path, options: Options) -> Target {
    Target::open_with_names(path, options, Names::default()).unwrap()
}

/// Restores one file as the policy says; `None` if it was kept.
fn put(dir: &TargetDir, name: &[u8], bytes: &[u8], metadata: &Metadata) -> Result<Option<Finished>> {
    let decision = decide(dir, name, metadata, dir.shared().options.overwrite)?;
    match decision {
        Decision::Keep(_) => Ok(None),
        Decision::UpdateMetadataOnly => dir.update(name, metadata).map(Some),
        Decision::Create | Decision::Replace => {
            let file = dir.begin_file(name, metadata, decision)?;
            file.write_at(0, bytes)?;
            file.finish(metadata).map(Some)
        }
    }
}

/// Restores one file and wants it to be without problems.
#[track_caller]
fn put_well(dir: &TargetDir, name: &[u8], bytes: &[u8]) -> Finished {
    let finished = put(dir, name, bytes, &file_meta(bytes)).unwrap().unwrap();
    assert_eq!(finished.problems, []);
    finished
}

/// Everything below `path` that a user can see: path to description, without change times (they cannot be restored) and without
/// access times (they move when we look).
fn listing(path: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![path.to_owned()];
    while let Some(path) = open.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        let kind = stat.file_type();
        let content = if kind.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            String::new()
        } else if kind.is_symlink() {
            format!("{:?}", fs::read_link(&path).unwrap())
        } else if kind.is_file() {
            blake3::hash(&fs::read(&path).unwrap()).to_hex().to_string()
        } else {
            format!("{} {}", kind.is_fifo(), stat.rdev())
        };
        let times = (stat.mtime(), stat.mtime_nsec(), stat.ino(), stat.nlink());
        found.insert(path, format!("{:o} {}:{} {times:?} {content}", stat.mode(), stat.uid(), stat.gid()));
    }
    found
}

fn mode_of(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

fn names_in(path: &Path) -> Vec<Vec<u8>> {
    let mut names: Vec<_> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().as_bytes().to_vec()).collect();
    names.sort();
    names
}

/// Runs an ignored test of this binary in a process of its own, in `dir`, as user `uid`.
fn run_again(test: &str, dir: &Path, uid: Option<u32>) -> Output {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "--nocapture", test]).env("COPAL_TEST_TARGET", dir);
    if let Some(uid) = uid {
        command.uid(uid).gid(uid);
    }
    command.output().unwrap()
}

/// The directory of a test that [`run_again`] runs.
fn given_dir() -> PathBuf {
    std::env::var_os("COPAL_TEST_TARGET").expect("runs only as a part of another test").into()
}
