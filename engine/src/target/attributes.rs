//! Every attribute of an inode: set in the one order that works, then read back.
//!
//! Order and reasons: owner first, because chown clears setuid and capabilities; then extended attributes, while the owner may
//! still write to the inode; then mode (to which the access list was already fitted); then times, which none of the later
//! steps touch; then project and chattr flags, those that freeze the inode by [`freeze`] after it has its final name.

use std::path::Path;

use rustix::fs::{AtFlags, Gid, IFlags, Mode, Stat, Timespec, Timestamps, Uid};
use rustix::io::{Errno, Result};

use super::handle::{FROZEN, Inode, Reach};
use super::{Shared, ioctl, xattr};
use crate::format::node::{FLAGS_STORED, Metadata, Timestamp};
use crate::progress::{Problem, ProblemKind};

const SETID: u32 = 0o6000;
const SETGID: u32 = 0o2000;

/// One attribute, as far as a failed call concerns it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Owner,
    Mode,
    Xattr(Vec<u8>),
    Times,
    Project,
    Flags,
}

/// What the calls that set attributes said; whether it mattered shows when they are read back.
#[derive(Debug, Default)]
pub(super) struct Applied {
    causes: Vec<(Part, Errno)>,
    found: Found,
}

/// What was read before anything was set, and was left as it is because it was as wanted. No later step changes it, so that
/// it need not be read back: of a new file that is most of it, and a restore's kernel time goes into such calls.
#[derive(Debug, Default)]
struct Found {
    /// There are no extended attributes, and none are wanted.
    no_xattrs: bool,
    flags: Option<u32>,
    project: Option<u32>,
}

impl Applied {
    fn note(&mut self, part: Part, result: Result<()>) {
        if let Err(errno) = result {
            self.causes.push((part, errno));
        }
    }

    /// `": <cause>"` if setting `part` failed, else nothing.
    fn cause(&self, part: &Part) -> String {
        let cause = self.causes.iter().find(|(failed, _)| failed == part);
        cause.map(|(_, errno)| format!(": {errno}")).unwrap_or_default()
    }
}

/// Sets everything but the flags that freeze the inode.
pub(super) fn apply(inode: &Inode<'_>, metadata: &Metadata, shared: &Shared) -> Applied {
    let mut applied = Applied::default();
    match rustix::fs::fstat(inode.fd) {
        Ok(stat) => {
            let stat = apply_owner(inode, stat, metadata, shared, &mut applied);
            let stat = apply_xattrs(inode, stat, metadata, shared, &mut applied);
            apply_mode(inode, &stat, metadata, shared, &mut applied);
        }
        Err(errno) => [Part::Owner, Part::Mode].into_iter().for_each(|part| applied.note(part, Err(errno))),
    }
    applied.note(Part::Times, set_times(inode, metadata));
    if inode.reach == Reach::Open {
        apply_project(inode, metadata.project, &mut applied);
        apply_flags(inode, metadata.flags & !FROZEN, &mut applied);
    }
    applied
}

/// Sets immutable and append-only, those of them that `flags` have: the last change of an inode.
pub(super) fn freeze(inode: &Inode<'_>, flags: u32) -> Result<()> {
    let wanted = flags & FROZEN;
    if wanted == 0 || inode.reach == Reach::PathOnly {
        return Ok(());
    }
    let current = rustix::fs::ioctl_getflags(inode.fd)?;
    rustix::fs::ioctl_setflags(inode.fd, IFlags::from_bits_retain(current.bits() | wanted))
}

/// [`freeze`], as part of what was applied.
pub(super) fn apply_frozen(inode: &Inode<'_>, metadata: &Metadata, applied: &mut Applied) {
    if metadata.flags & FROZEN != 0 {
        applied.found.flags = None;
        applied.note(Part::Flags, freeze(inode, metadata.flags));
    }
}

/// Sets owner and group if they are others than those of `stat`, and returns the status from then on.
fn apply_owner(inode: &Inode<'_>, stat: Stat, metadata: &Metadata, shared: &Shared, applied: &mut Applied) -> Stat {
    if shared.options.no_owner || owner_sticks(&stat, metadata, shared) {
        return stat;
    }
    applied.note(Part::Owner, set_owner(inode, shared.owner(metadata)));
    rustix::fs::fstat(inode.fd).unwrap_or(stat)
}

/// Sets `(uid, gid)`, and the group at least where only that is allowed. 2^32-1 is nobody's number, to chown it means "as is".
fn set_owner(inode: &Inode<'_>, (uid, gid): (u32, u32)) -> Result<()> {
    if uid == u32::MAX || gid == u32::MAX {
        return Err(Errno::INVAL);
    }
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    let both = rustix::fs::chownat(inode.fd, "", uid, gid, AtFlags::EMPTY_PATH);
    if both.is_err() {
        let _ = rustix::fs::chownat(inode.fd, "", None, gid, AtFlags::EMPTY_PATH);
    }
    both
}

/// Makes the extended attributes those of `metadata`, and returns the status from then on: access lists move the mode.
fn apply_xattrs(inode: &Inode<'_>, stat: Stat, metadata: &Metadata, shared: &Shared, applied: &mut Applied) -> Stat {
    let surplus = xattr::surplus(inode, metadata, &shared.options);
    if metadata.xattrs.is_empty() && surplus.as_ref().is_ok_and(Vec::is_empty) {
        applied.found.no_xattrs = true;
        return stat;
    }
    if stat.st_mode & 0o200 == 0 && !inode.is_symlink {
        // user.* asks for write permission even of the owner; the wanted mode follows.
        let _ = set_mode(inode, stat.st_mode & 0o777 | 0o200);
    }
    for name in surplus.unwrap_or_default() {
        let removed = xattr::remove(inode, &name);
        applied.note(Part::Xattr(name), removed);
    }
    let trusted = owner_sticks(&stat, metadata, shared);
    for wanted in &metadata.xattrs {
        if xattr::is_excluded(&shared.options, &wanted.name) {
            continue;
        }
        let set = match wanted.name == xattr::CAPABILITY && !trusted {
            true => Err(Errno::PERM),
            false => xattr::set(inode, &wanted.name, &wanted.value),
        };
        applied.note(Part::Xattr(wanted.name.clone()), set);
    }
    rustix::fs::fstat(inode.fd).unwrap_or(stat)
}

fn apply_mode(inode: &Inode<'_>, stat: &Stat, metadata: &Metadata, shared: &Shared, applied: &mut Applied) {
    let (wanted, _) = wanted_mode(inode, stat, metadata, shared);
    if !inode.is_symlink && stat.st_mode & 0o7777 != wanted {
        applied.note(Part::Mode, set_mode(inode, wanted));
    }
}

fn owner_sticks(stat: &Stat, metadata: &Metadata, shared: &Shared) -> bool {
    (stat.st_uid, stat.st_gid) == shared.owner(metadata)
}

/// The mode to set on an inode whose owner is that of `stat`, and whether setuid or setgid had to be left out of it, because
/// they would hand out the rights of somebody else than at the source.
fn wanted_mode(inode: &Inode<'_>, stat: &Stat, metadata: &Metadata, shared: &Shared) -> (u32, bool) {
    let mut mode = metadata.mode & 0o7777;
    if shared.options.no_setuid {
        mode &= if inode.is_dir { !(SETID & !SETGID) } else { !SETID };
    }
    // setgid of a directory only says which group new entries get.
    let sticks =
        if inode.is_dir { stat.st_gid == shared.owner(metadata).1 } else { owner_sticks(stat, metadata, shared) };
    match sticks {
        true => (mode, false),
        false => (mode & !SETID, mode & SETID != 0),
    }
}

fn set_mode(inode: &Inode<'_>, mode: u32) -> Result<()> {
    let mode = Mode::from_raw_mode(mode);
    match inode.reach {
        Reach::Open => rustix::fs::fchmod(inode.fd, mode),
        Reach::PathOnly => rustix::fs::chmod(inode.proc_path(), mode),
    }
}

fn set_times(inode: &Inode<'_>, metadata: &Metadata) -> Result<()> {
    let times = Timestamps { last_access: timespec(metadata.atime)?, last_modification: timespec(metadata.mtime)? };
    match inode.reach {
        Reach::Open => rustix::fs::futimens(inode.fd, &times),
        // Kernels before 5.8 take no empty path here; the path through /proc ends at the same inode.
        Reach::PathOnly => match rustix::fs::utimensat(inode.fd, "", &times, AtFlags::EMPTY_PATH) {
            Err(Errno::INVAL) => rustix::fs::utimensat(rustix::fs::CWD, inode.proc_path(), &times, AtFlags::empty()),
            result => result,
        },
    }
}

/// `nanos` past 10^9 are refused: two values there mean "now" and "leave" to the kernel.
fn timespec(time: Timestamp) -> Result<Timespec> {
    match time.nanos < 1_000_000_000 {
        true => Ok(Timespec { tv_sec: time.secs, tv_nsec: time.nanos.into() }),
        false => Err(Errno::INVAL),
    }
}

fn apply_project(inode: &Inode<'_>, wanted: u32, applied: &mut Applied) {
    match ioctl::project(inode.fd) {
        Ok(project) if project == wanted => applied.found.project = Some(project),
        Ok(_) => applied.note(Part::Project, ioctl::set_project(inode.fd, wanted)),
        // No projects on this file system; that matters only if one was wanted, and is seen then.
        Err(errno) => applied.note(Part::Project, Err(errno)),
    }
}

/// Sets the stored flags to `wanted` and keeps the others; where the file system refuses the whole, one by one.
fn apply_flags(inode: &Inode<'_>, wanted: u32, applied: &mut Applied) {
    let current = match rustix::fs::ioctl_getflags(inode.fd) {
        Ok(flags) => flags.bits(),
        Err(errno) => return applied.note(Part::Flags, Err(errno)),
    };
    let target = current & !FLAGS_STORED | wanted & FLAGS_STORED;
    let set = |flags: u32| rustix::fs::ioctl_setflags(inode.fd, IFlags::from_bits_retain(flags));
    if target == current {
        applied.found.flags = Some(current);
        return;
    }
    let Err(errno) = set(target) else { return };
    applied.note(Part::Flags, Err(errno));
    let mut reached = current;
    for bit in (0..32).map(|bit| 1 << bit).filter(|bit| (target ^ current) & bit != 0) {
        if set(reached ^ bit).is_ok() {
            reached ^= bit;
        }
    }
}

/// How closely attributes are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compare {
    /// All.
    All,
    /// All but the flags that freeze: they follow later.
    NotFrozenYet,
    /// All but the access time, which every reader moves.
    NotAccessTime,
}

/// Reads every attribute back and lists those that are not as `metadata` wants them. `stat` was read after the last change.
///
/// Left out are those that the user excluded. Times of birth and change cannot be set and are not compared.
pub(super) fn verify(
    inode: &Inode<'_>,
    stat: &Stat,
    metadata: &Metadata,
    shared: &Shared,
    applied: &Applied,
    compare: Compare,
    path: &Path,
) -> Vec<Problem> {
    let mut messages = Vec::new();
    verify_owner(stat, metadata, shared, applied, &mut messages);
    if !inode.is_symlink {
        verify_mode(inode, stat, metadata, shared, applied, &mut messages);
    }
    verify_times(stat, metadata, compare, applied, &mut messages);
    verify_xattrs(inode, metadata, shared, compare, applied, &mut messages);
    verify_inode_flags(inode, metadata, compare, applied, &mut messages);
    messages.into_iter().map(|message| problem(path, message)).collect()
}

/// [`verify`] with the status that the inode has now.
pub(super) fn read_back(
    inode: &Inode<'_>,
    metadata: &Metadata,
    shared: &Shared,
    applied: &Applied,
    compare: Compare,
    path: &Path,
) -> Vec<Problem> {
    match rustix::fs::fstat(inode.fd) {
        Ok(stat) => verify(inode, &stat, metadata, shared, applied, compare, path),
        Err(errno) => vec![problem(path, format!("attributes cannot be read back: {errno}"))],
    }
}

pub(super) fn problem(path: &Path, message: String) -> Problem {
    Problem { kind: ProblemKind::Attribute, path: path.to_owned(), message }
}

fn verify_owner(stat: &Stat, metadata: &Metadata, shared: &Shared, applied: &Applied, messages: &mut Vec<String>) {
    let (uid, gid) = shared.owner(metadata);
    if !shared.options.no_owner && (stat.st_uid, stat.st_gid) != (uid, gid) {
        let cause = applied.cause(&Part::Owner);
        messages.push(format!("owner is {}:{} and not {uid}:{gid}{cause}", stat.st_uid, stat.st_gid));
    }
}

fn verify_mode(
    inode: &Inode<'_>,
    stat: &Stat,
    metadata: &Metadata,
    shared: &Shared,
    applied: &Applied,
    messages: &mut Vec<String>,
) {
    let (wanted, left_out) = wanted_mode(inode, stat, metadata, shared);
    let mode = stat.st_mode & 0o7777;
    if left_out {
        messages.push("setuid and setgid are left out, because it has another owner than at the source".to_owned());
    }
    if mode != wanted {
        messages.push(format!("mode is {mode:04o} and not {wanted:04o}{}", applied.cause(&Part::Mode)));
    }
}

fn verify_times(stat: &Stat, metadata: &Metadata, compare: Compare, applied: &Applied, messages: &mut Vec<String>) {
    let cause = applied.cause(&Part::Times);
    let mut check = |what: &str, is: Timestamp, wanted: Timestamp| {
        if is != wanted {
            let (is, wanted) = (seconds(is), seconds(wanted));
            messages.push(format!("{what} time is {is} and not {wanted} seconds since 1970{cause}"));
        }
    };
    check("modification", modified(stat), metadata.mtime);
    if compare != Compare::NotAccessTime {
        check("access", Timestamp { secs: stat.st_atime, nanos: stat.st_atime_nsec as u32 }, metadata.atime);
    }
}

/// Last change of the bytes.
pub(super) fn modified(stat: &Stat) -> Timestamp {
    Timestamp { secs: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 }
}

/// `time` as a decimal fraction, exact also before 1970.
fn seconds(time: Timestamp) -> String {
    let nanos = i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos);
    let sign = if nanos < 0 { "-" } else { "" };
    format!("{sign}{}.{:09}", nanos.unsigned_abs() / 1_000_000_000, nanos.unsigned_abs() % 1_000_000_000)
}

fn verify_xattrs(
    inode: &Inode<'_>,
    metadata: &Metadata,
    shared: &Shared,
    compare: Compare,
    applied: &Applied,
    messages: &mut Vec<String>,
) {
    if applied.found.no_xattrs {
        return;
    }
    let mut tell = |name: &[u8], what: &str| {
        let cause = applied.cause(&Part::Xattr(name.to_vec()));
        messages.push(format!("extended attribute {} {what}{cause}", name.escape_ascii()));
    };
    for wanted in metadata.xattrs.iter().filter(|xattr| !xattr::is_excluded(&shared.options, &xattr.name)) {
        let sticks = match xattr::has(inode, &wanted.name, &wanted.value) {
            Ok(sticks) => sticks,
            // The restored mode shuts us out: what setting it said has to do, if it was set.
            Err(Errno::ACCESS) if compare != Compare::NotAccessTime => {
                applied.cause(&Part::Xattr(wanted.name.clone())).is_empty()
            }
            Err(_) => false,
        };
        if !sticks {
            tell(&wanted.name, "is not set as it was");
        }
    }
    for name in xattr::surplus(inode, metadata, &shared.options).unwrap_or_default() {
        tell(&name, "was not there and cannot be removed");
    }
}

fn verify_inode_flags(
    inode: &Inode<'_>,
    metadata: &Metadata,
    compare: Compare,
    applied: &Applied,
    messages: &mut Vec<String>,
) {
    let compared = if compare == Compare::NotFrozenYet { FLAGS_STORED & !FROZEN } else { FLAGS_STORED };
    let (mut flags, mut project) = (0, 0);
    if inode.reach == Reach::Open {
        // What a file system does not know, it does not have.
        let read_flags = || rustix::fs::ioctl_getflags(inode.fd).map_or(0, |flags| flags.bits());
        flags = applied.found.flags.unwrap_or_else(read_flags);
        project = applied.found.project.unwrap_or_else(|| ioctl::project(inode.fd).unwrap_or(0));
    }
    let (is, wanted) = (flags & compared, metadata.flags & compared);
    if is != wanted {
        messages.push(format!("chattr flags are {is:#x} and not {wanted:#x}{}", applied.cause(&Part::Flags)));
    }
    if project != metadata.project {
        let cause = applied.cause(&Part::Project);
        messages.push(format!("project is {project} and not {}{cause}", metadata.project));
    }
}
