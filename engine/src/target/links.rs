//! Hard links: the first name of a file is restored, every further one is linked to it.
//!
//! Names arrive in any order and from several threads. The first that is claimed becomes the file; names that arrive while it
//! is still being written wait in its queue and are linked by whoever finishes it. An entry is dropped when all the names
//! that the snapshot counts are there, so memory follows the files whose names are still incomplete: about 100 bytes each,
//! and the name of each that waits.
//!
//! Immutable and append-only files get their flag here, last: such a file takes no further name.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Mutex;

use rustix::fs::{AtFlags, OFlags, Stat};
use rustix::io::Errno;

use super::attributes::{freeze, problem};
use super::dir::{DirPath, TargetDir};
use super::existing::{Decision, Kept};
use super::handle::{FROZEN, Inode, Reach, open_at, open_plain, proc_path, stat_at, thaw_at};
use super::place::Temporary;
use super::{Error, Result, Target};
use crate::format::node::{HardLink, Metadata};
use crate::progress::Problem;

/// An entry that further names can be linked to: where it stands, and which inode it must be.
#[derive(Debug, Clone)]
pub struct LinkSource {
    dir: DirPath,
    name: Box<[u8]>,
    dev: u64,
    ino: u64,
    frozen: u32,
}

impl LinkSource {
    pub(super) fn new(dir: &TargetDir, name: &[u8], stat: &Stat, metadata: &Metadata) -> Self {
        let frozen = if metadata.hardlink.is_some() { metadata.flags & FROZEN } else { 0 };
        Self { dir: dir.dir_path().clone(), name: name.into(), dev: stat.st_dev, ino: stat.st_ino, frozen }
    }

    pub(super) fn dry(dir: &TargetDir, name: &[u8]) -> Self {
        Self { dir: dir.dir_path().clone(), name: name.into(), dev: 0, ino: 0, frozen: 0 }
    }

    /// The existing entry `name`, which was kept because it is [`Kept::Identical`].
    pub fn existing(dir: &TargetDir, name: &[u8], metadata: &Metadata) -> Result<Self> {
        dir.checked(name)?;
        let (Some(fd), false) = (dir.fd(), dir.shared().options.dry_run) else { return Ok(Self::dry(dir, name)) };
        let opened = open_at(fd, name, OFlags::PATH).map_err(|errno| dir.error("open it", name, errno))?;
        let stat = rustix::fs::fstat(&opened).map_err(|errno| dir.error("look at it", name, errno))?;
        Ok(Self::new(dir, name, &stat, metadata))
    }

    /// Holds the inode; [`Error::Swapped`] if another one stands there now.
    fn open(&self, dir: &TargetDir) -> Result<OwnedFd> {
        let fd = dir.fd().expect("the file stands in it");
        let held = open_at(fd, &self.name, OFlags::PATH).map_err(|errno| dir.error("open it", &self.name, errno))?;
        let stat = rustix::fs::fstat(&held).map_err(|errno| dir.error("look at it", &self.name, errno))?;
        match (stat.st_dev, stat.st_ino) == (self.dev, self.ino) {
            true => Ok(held),
            false => Err(Error::Swapped { path: dir.checked(&self.name)? }),
        }
    }
}

/// A name that waits for its file.
#[derive(Debug, Clone)]
pub struct Pending {
    /// The directory that it belongs into.
    pub dir: DirPath,
    /// The name.
    pub name: Vec<u8>,
    /// What was decided on it.
    pub decision: Decision,
}

/// What to do with one name of a file that has several.
#[derive(Debug)]
pub enum Claim {
    /// Restore it like any other entry, then call [`Links::done`], or [`Links::give_up`] if that failed or it was kept.
    First,
    /// It is linked to its file (in a dry run: would be).
    Linked,
    /// Its file is still being written; whoever finishes it links this name.
    Queued,
    /// It cannot be linked (another file system is mounted there, or the file has too many names): restore it on its own.
    Copy,
    /// What stands there stays.
    Kept(Kept),
}

/// What became of the names that waited for a file.
#[derive(Debug, Default)]
pub struct Settled {
    /// Names that were linked.
    pub linked: u64,
    /// Names that cannot be linked: restore each on its own, without claiming it.
    pub copy: Vec<Pending>,
    /// What went wrong.
    pub problems: Vec<Problem>,
}

/// The files of one restore that have several names.
#[derive(Debug, Default)]
pub struct Links {
    files: Mutex<HashMap<(u64, u64), File>>,
    /// Of flags that were set when the last name was there.
    problems: Mutex<Vec<Problem>>,
}

#[derive(Debug)]
struct File {
    /// Names that the snapshot counts, and names that are dealt with.
    names: u64,
    settled: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Nobody restores it (any more).
    Free,
    /// Somebody does, and these names wait.
    Writing(Vec<Pending>),
    /// It stands there.
    Ready(LinkSource),
}

enum Next {
    First,
    Queued,
    Link(LinkSource),
}

impl Links {
    /// Asks what to do with `name` in `dir`, one of the names of `id`, of which `decision` was made.
    ///
    /// Links at once where the file is there. Fails as [`TargetDir::hard_link`] does; the name is then dealt with.
    pub fn claim(
        &self,
        target: &Target,
        id: &HardLink,
        dir: &TargetDir,
        name: &[u8],
        decision: Decision,
    ) -> Result<Claim> {
        dir.checked(name)?;
        if let Decision::Keep(reason) = decision
            && reason != Kept::Identical
        {
            self.settle(target, id, 1);
            return Ok(Claim::Kept(reason));
        }
        let source = match self.next(id, || Pending { dir: dir.dir_path().clone(), name: name.to_vec(), decision }) {
            Next::First => return Ok(Claim::First),
            Next::Queued => return Ok(Claim::Queued),
            Next::Link(source) => source,
        };
        let linked = dir.hard_link(name, decision, &source);
        self.settle(target, id, 1);
        match linked {
            Err(error) if cannot_be_one_file(&error) => Ok(Claim::Copy),
            linked => linked.map(|()| Claim::Linked),
        }
    }

    fn next(&self, id: &HardLink, pending: impl FnOnce() -> Pending) -> Next {
        let mut files = self.files.lock().expect("no panic while held");
        let file = entry(&mut files, id);
        match &mut file.state {
            State::Free => {
                file.state = State::Writing(Vec::new());
                Next::First
            }
            State::Writing(queue) => {
                queue.push(pending());
                Next::Queued
            }
            State::Ready(source) => Next::Link(source.clone()),
        }
    }

    /// The file of `id` stands at `source` ([`super::Finished::source`], or [`LinkSource::existing`] if it was identical):
    /// links the names that waited for it.
    pub fn done(&self, target: &Target, id: &HardLink, source: LinkSource) -> Settled {
        let queue = self.take_queue(id, State::Ready(source.clone()));
        let mut settled = Settled::default();
        let names = 1 + queue.len() as u64;
        for pending in queue {
            let dir = target.reopen(&pending.dir);
            match dir.and_then(|dir| dir.hard_link(&pending.name, pending.decision, &source)) {
                Ok(()) => settled.linked += 1,
                Err(error) if cannot_be_one_file(&error) => settled.copy.push(pending),
                Err(error) => settled.problems.push(error.problem()),
            }
        }
        self.settle(target, id, names);
        settled
    }

    /// The claimed first name of `id` did not become the file. Claim each of the returned names again.
    pub fn give_up(&self, target: &Target, id: &HardLink) -> Vec<Pending> {
        let queue = self.take_queue(id, State::Free);
        self.settle(target, id, 1);
        queue
    }

    /// When every name was claimed and finished: what did not stick of flags that had to wait. Before directories are finished.
    pub fn finish(&self, target: &Target) -> Vec<Problem> {
        let files = std::mem::take(&mut *self.files.lock().expect("no panic while held"));
        for file in files.into_values() {
            self.complete(target, file);
        }
        std::mem::take(&mut *self.problems.lock().expect("no panic while held"))
    }

    /// Files of which names are still missing.
    pub fn incomplete(&self) -> usize {
        self.files.lock().expect("no panic while held").len()
    }

    fn take_queue(&self, id: &HardLink, state: State) -> Vec<Pending> {
        let mut files = self.files.lock().expect("no panic while held");
        match std::mem::replace(&mut entry(&mut files, id).state, state) {
            State::Writing(queue) => queue,
            State::Free | State::Ready(_) => Vec::new(),
        }
    }

    /// Counts `names` as dealt with, and forgets the file if those were the last.
    fn settle(&self, target: &Target, id: &HardLink, names: u64) {
        let mut files = self.files.lock().expect("no panic while held");
        let file = entry(&mut files, id);
        file.settled = file.settled.saturating_add(names);
        // One that is being written has a queue, whatever a dishonest count says.
        if file.settled < file.names || matches!(file.state, State::Writing(_)) {
            return;
        }
        let file = files.remove(&(id.dev, id.ino));
        drop(files);
        if let Some(file) = file {
            self.complete(target, file);
        }
    }

    fn complete(&self, target: &Target, file: File) {
        let State::Ready(source) = file.state else { return };
        if source.frozen != 0
            && let Err(message) = freeze_now(target, &source)
        {
            let mut path = target.shared.base.clone();
            if let Ok(dir) = target.reopen(&source.dir) {
                path = dir.path();
            }
            path.push(OsStr::from_bytes(&source.name));
            self.problems.lock().expect("no panic while held").push(problem(&path, message));
        }
    }
}

fn entry<'a>(files: &'a mut HashMap<(u64, u64), File>, id: &HardLink) -> &'a mut File {
    let file = files.entry((id.dev, id.ino)).or_insert(File { names: 0, settled: 0, state: State::Free });
    file.names = file.names.max(id.nlink);
    file
}

/// Whether the two names cannot belong to one file here, though nothing is wrong with either.
fn cannot_be_one_file(error: &Error) -> bool {
    error.is(Errno::XDEV) || error.is(Errno::MLINK)
}

/// Sets the flags that had to wait for the last name.
fn freeze_now(target: &Target, source: &LinkSource) -> std::result::Result<(), String> {
    let failed = |cause: String| format!("immutable or append-only flag is not set: {cause}");
    let dir = target.reopen(&source.dir).map_err(|error| failed(error.to_string()))?;
    let Some(fd) = dir.fd() else { return Ok(()) };
    let (file, stat) = open_plain(fd, &source.name).map_err(|errno| failed(errno.to_string()))?;
    if (stat.st_dev, stat.st_ino) != (source.dev, source.ino) {
        return Err(failed("another file stands there now".to_owned()));
    }
    let inode = Inode { fd: file.as_fd(), reach: Reach::Open, is_symlink: false, is_dir: false };
    let frozen = freeze(&inode, source.frozen);
    frozen.map_err(|errno| failed(errno.to_string()))
}

impl TargetDir {
    /// Makes `name` one more name of the entry at `source`, in the place of whatever else `decision` says may be replaced.
    ///
    /// Nothing to do if it already is. `EXDEV` and `EMLINK` if this cannot be; [`Error::Swapped`] if the source is no longer
    /// what was restored there. Its directory and this one must not be finished yet.
    pub fn hard_link(&self, name: &[u8], decision: Decision, source: &LinkSource) -> Result<()> {
        self.checked(name)?;
        let (Some(fd), false) = (self.fd(), self.shared().options.dry_run) else { return Ok(()) };
        let source_dir = match source.dir.is(self.dir_path()) {
            true => self.clone(),
            false => Self::reopen(self.shared(), &source.dir)?,
        };
        let held = source.open(&source_dir)?;
        let existing = stat_at(fd, name).map_err(|errno| self.error("look at what exists", name, errno))?;
        if existing.is_some_and(|existing| (existing.st_dev, existing.st_ino) == (source.dev, source.ino)) {
            return Ok(());
        }
        let link = |dir: BorrowedFd<'_>, name: &[u8]| match link_held(&held, dir, name) {
            // An identical file that was kept may be immutable; its flags come back with its last name.
            Err(Errno::PERM) if source.frozen != 0 && thaw_at(source_dir.fd().expect("held"), &source.name) => {
                link_held(&held, dir, name)
            }
            result => result,
        };
        if decision == Decision::Create {
            return link(fd, name).map_err(|errno| self.error(LINK, name, errno));
        }
        match Temporary::make(self, LINK, name, link)? {
            Some((temporary, ())) => temporary.place(name, Decision::Replace),
            None => Ok(()),
        }
    }
}

const LINK: &str = "link it to the file of which it is a name";

/// Gives the inode that is held one more name, whatever its other names are by now.
fn link_held(held: &OwnedFd, dir: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    rustix::fs::linkat(rustix::fs::CWD, proc_path(held.as_fd()), dir, name, AtFlags::SYMLINK_FOLLOW)
}
