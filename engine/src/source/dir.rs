//! An open directory, and every step from it to what it holds.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{CWD, Mode, OFlags, RawDir, ResolveFlags, SeekFrom, openat, openat2, seek};
use rustix::io::Errno;

use super::attributes::{self, Handle, Note};
use super::{File, Kind, Names, Shared, Stat, errno, replaced};
use crate::format::node::{LINK_BYTES_MAX, Metadata, name_is_valid};

/// Bytes of directory entries per getdents64.
const LISTING_BYTES: usize = 64 << 10;
/// openat2 answers EAGAIN when a rename or mount elsewhere made its check of the way unsure.
const OPENAT2_TRIES_MAX: u32 = 16;

/// An open directory. Clones share the descriptor; all methods may be called from several threads at once.
#[derive(Debug, Clone)]
pub struct Dir(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fd: OwnedFd,
    dev: u64,
    mount_id: u64,
    stay_on_mount: bool,
    /// Listing moves the position of the descriptor.
    listing: Mutex<()>,
    shared: Arc<Shared>,
}

/// Whether a step may lead onto another mount.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mounts {
    Any,
    AsOptions,
}

impl Dir {
    pub(super) fn open_root(path: &Path, follow: OFlags, shared: &Arc<Shared>) -> io::Result<(Self, Stat)> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | follow;
        let fd = without_atime(true, |atime| openat(CWD, path, flags | atime, Mode::empty()))?;
        let stat = Stat::of(&fd)?;
        Ok((Self::new(fd, &stat, shared.options.one_file_system, shared), stat))
    }

    /// Of an entry that was named as a root: it may be a mount point itself, and its parent need not be readable.
    pub(super) fn open_parent(path: &Path, shared: &Arc<Shared>) -> io::Result<Self> {
        let fd = openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let stat = Stat::of(&fd)?;
        Ok(Self::new(fd, &stat, false, shared))
    }

    fn new(fd: OwnedFd, stat: &Stat, stay_on_mount: bool, shared: &Arc<Shared>) -> Self {
        let (dev, mount_id, listing, shared) = (stat.dev, stat.mount_id, Mutex::new(()), shared.clone());
        Self(Arc::new(Inner { fd, dev, mount_id, stay_on_mount, listing, shared }))
    }

    /// All names but `.` and `..`, sorted bytewise. Reads the directory once; an error in the middle is an error.
    pub fn names(&self) -> io::Result<Names> {
        let _one_at_a_time = self.0.listing.lock().unwrap_or_else(PoisonError::into_inner);
        seek(&self.0.fd, SeekFrom::Start(0))?;
        let mut buffer = Vec::with_capacity(LISTING_BYTES);
        let mut entries = RawDir::new(&self.0.fd, buffer.spare_capacity_mut());
        let mut names = Names::default();
        loop {
            match entries.next() {
                Some(Ok(entry)) => names.push(entry.file_name().to_bytes())?,
                Some(Err(Errno::INTR)) => {}
                Some(Err(e)) => return Err(e.into()),
                None => return Ok(names.finish()),
            }
        }
    }

    /// What `name` is now: one statx, which follows no symlink and triggers no automount.
    pub fn stat(&self, name: &[u8]) -> io::Result<Stat> {
        check_name(name)?;
        Stat::at(&self.0.fd, name)
    }

    /// What the directory itself is now.
    pub fn stat_self(&self) -> io::Result<Stat> {
        Stat::of(&self.0.fd)
    }

    /// Whether an entry of this directory lies on another mount (for directories: or another device, as a subvolume of
    /// btrfs does) and [`super::Options::one_file_system`] keeps it out.
    pub fn is_other_mount(&self, stat: &Stat) -> bool {
        let mount_differs = stat.mount_id != 0 && self.0.mount_id != 0 && stat.mount_id != self.0.mount_id;
        // Files of one overlayfs mount may bear different device numbers, its directories do not.
        let device_tells = stat.kind == Kind::Dir || stat.mount_id == 0;
        self.0.stay_on_mount && (mount_differs || (device_tells && stat.dev != self.0.dev))
    }

    /// Opens the directory `name` that `stat` describes.
    ///
    /// Errors: [`super::is_replaced`] if it is another one by now or no directory, [`super::is_other_mount`] (counted in
    /// [`super::Root::mounts_skipped`]), `NotFound`, `PermissionDenied`, whatever reading meets.
    pub fn open_dir(&self, name: &[u8], stat: &Stat) -> io::Result<Self> {
        let (fd, opened) = self.counting_mounts(|| self.open_directory(name, stat))?;
        Ok(Self::new(fd, &opened, self.0.stay_on_mount, &self.0.shared))
    }

    /// Opens the regular file `name` that `stat` describes; errors as for [`Dir::open_dir`].
    ///
    /// A lease or delegation that another process holds on it is waited for (at most /proc/sys/fs/lease-break-time).
    pub fn open_file(&self, name: &[u8], stat: &Stat) -> io::Result<File> {
        let fd = self.counting_mounts(|| self.open_regular(name, stat))?;
        Ok(File::new(fd, &self.0.shared.options))
    }

    /// Every attribute of `name`, which `stat` describes, read from an own descriptor, and what could not be read.
    ///
    /// Errors only where there is nothing left to describe: it vanished, was replaced, or the process has no descriptors.
    pub fn metadata(&self, name: &[u8], stat: &Stat) -> io::Result<(Metadata, Vec<Note>)> {
        let opened = match stat.kind {
            _ if self.is_other_mount(stat) => None,
            Kind::File => Some(self.open_regular(name, stat)),
            Kind::Dir => Some(self.open_directory(name, stat).map(|(fd, _)| fd)),
            _ => None,
        };
        let refusal = match opened {
            Some(Ok(fd)) => return self.metadata_of(&fd, stat),
            Some(Err(e)) if is_refusal(&e) => Some(e),
            Some(Err(e)) => return Err(e),
            None => None,
        };
        let pinned = self.pin(name, stat, Mounts::Any)?;
        let link = if stat.kind == Kind::Symlink { link_target(&pinned)? } else { Vec::new() };
        let handle = Handle::Path(pinned.as_fd());
        let (metadata, mut notes) = attributes::describe(&self.0.shared, handle, stat, link);
        notes.extend(refusal.map(|e| Note::attribute(format!("chattr flags and project id could not be read: {e}"))));
        Ok((metadata, notes))
    }

    /// Like [`Dir::metadata`] of a [`File`] or [`Dir`] that is open already: a file that will be read is opened once, and
    /// the root, which is in no `Dir`, can be described. `stat` must be that of a file or directory.
    pub fn metadata_of(&self, opened: &impl AsFd, stat: &Stat) -> io::Result<(Metadata, Vec<Note>)> {
        if !matches!(stat.kind, Kind::File | Kind::Dir) {
            return Err(replaced());
        }
        Ok(attributes::describe(&self.0.shared, Handle::Open(opened.as_fd()), stat, Vec::new()))
    }

    fn counting_mounts<T>(&self, open: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        open().inspect_err(|e| {
            if super::is_other_mount(e) {
                self.0.shared.mounts_skipped.fetch_add(1, Ordering::Relaxed);
            }
        })
    }

    fn open_directory(&self, name: &[u8], stat: &Stat) -> io::Result<(OwnedFd, Stat)> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let fd =
            without_atime(self.may_keep_atime(stat), |atime| self.open_beneath(name, flags | atime, Mounts::AsOptions))
                .map_err(other_kind_is_replaced)?;
        let opened = self.verify(&fd, stat, Mounts::AsOptions)?;
        Ok((fd, opened))
    }

    /// Pins the name first, so that neither a FIFO nor a device is opened even where one takes the file's place: opening
    /// a tape rewinds it, and a watchdog device starts its clock.
    fn open_regular(&self, name: &[u8], stat: &Stat) -> io::Result<OwnedFd> {
        if stat.kind != Kind::File {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "is not a regular file"));
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Some(proc_fds) = &self.0.shared.proc_fds else {
            let fd = without_atime(self.may_keep_atime(stat), |atime| {
                self.open_beneath(name, flags | atime, Mounts::AsOptions)
            })
            .map_err(other_kind_is_replaced)?;
            self.verify(&fd, stat, Mounts::AsOptions)?;
            return Ok(fd);
        };
        let pinned = self.pin(name, stat, Mounts::AsOptions)?;
        let number = pinned.as_raw_fd().to_string();
        let reopen = |flags: OFlags| {
            without_atime(self.may_keep_atime(stat), |atime| {
                openat(proc_fds, number.as_str(), flags | atime, Mode::empty())
            })
        };
        match reopen(flags) {
            Err(Errno::AGAIN) => Ok(reopen(flags - OFlags::NONBLOCK)?),
            other => Ok(other?),
        }
    }

    /// An `O_PATH` descriptor of the very entry that `stat` describes, whatever its kind; opens nothing.
    fn pin(&self, name: &[u8], stat: &Stat, mounts: Mounts) -> io::Result<OwnedFd> {
        let fd = self.open_beneath(name, OFlags::PATH, mounts).map_err(other_kind_is_replaced)?;
        self.verify(&fd, stat, mounts)?;
        Ok(fd)
    }

    /// Opens one name in this directory: never through a symlink, never above it.
    fn open_beneath(&self, name: &[u8], flags: OFlags, mounts: Mounts) -> rustix::io::Result<OwnedFd> {
        check_name(name).map_err(|_| Errno::INVAL)?;
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        if self.0.stay_on_mount && mounts == Mounts::AsOptions {
            resolve |= ResolveFlags::NO_XDEV;
        }
        let has_openat2 = &self.0.shared.has_openat2;
        let mut tries = 0;
        while has_openat2.load(Ordering::Relaxed) {
            tries += 1;
            match openat2(&self.0.fd, name, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) if tries < OPENAT2_TRIES_MAX => {}
                Err(Errno::NOSYS) => has_openat2.store(false, Ordering::Relaxed),
                // Seccomp filters older than the call answer this too; if it is meant, openat will say so again.
                Err(Errno::PERM) => break,
                other => return other,
            }
        }
        // As safe for a single name; a crossed mount shows when the result is verified.
        rustix::io::retry_on_intr(|| openat(&self.0.fd, name, flags, Mode::empty()))
    }

    fn verify(&self, fd: &OwnedFd, expected: &Stat, mounts: Mounts) -> io::Result<Stat> {
        let opened = Stat::of(fd)?;
        if mounts == Mounts::AsOptions && self.is_other_mount(&opened) {
            return Err(Errno::XDEV.into());
        }
        let same_inode = opened.ino == expected.ino || self.0.shared.options.ignore_inode;
        if opened.kind == expected.kind && opened.dev == expected.dev && same_inode {
            Ok(opened)
        } else {
            Err(replaced())
        }
    }

    /// `O_NOATIME` is refused to everybody but the owner and root; asking in vain costs a call for each file.
    fn may_keep_atime(&self, stat: &Stat) -> bool {
        self.0.shared.euid == 0 || self.0.shared.euid == stat.uid
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

/// Opens with `O_NOATIME` if that may work, without it where it is refused.
fn without_atime<T>(wanted: bool, open: impl Fn(OFlags) -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    match if wanted { open(OFlags::NOATIME) } else { open(OFlags::empty()) } {
        Err(Errno::PERM) if wanted => open(OFlags::empty()),
        other => other,
    }
}

/// A symlink or another kind stands where the expected one stood.
fn other_kind_is_replaced(e: Errno) -> io::Error {
    if matches!(e, Errno::LOOP | Errno::NOTDIR | Errno::NXIO | Errno::NODEV) { replaced() } else { e.into() }
}

/// Whether the entry is still there and only may not be opened.
fn is_refusal(error: &io::Error) -> bool {
    !super::is_replaced(error)
        && !matches!(
            errno(error),
            None | Some(Errno::NOENT | Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::STALE)
        )
}

fn link_target(pinned: &OwnedFd) -> io::Result<Vec<u8>> {
    let target = rustix::fs::readlinkat(pinned, c"", Vec::new())?.into_bytes();
    if target.is_empty() || target.len() > LINK_BYTES_MAX {
        let message = format!("is a symbolic link with a target of {} bytes", target.len());
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(target)
}

fn check_name(name: &[u8]) -> io::Result<()> {
    if name_is_valid(name) {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "is no name of an entry"))
    }
}
