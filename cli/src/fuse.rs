//! The kernel's side of a mount: FUSE requests become calls of [`Vfs`], its answers become replies.
//!
//! Nothing is decided here but how long the kernel may remember what it was told: everything in a snapshot for good, what
//! stands above snapshots for a moment.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, anyhow};
use copal_engine::format::node::Timestamp;
use copal_engine::ops::vfs::{Attributes, Failure, FileKind, Listed, Seek, Vfs};
use copal_engine::progress::Cancel;
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, IoctlFlags, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
    SessionACL,
};
use rustix::io::Errno as OsError;
use rustix::mount::{UnmountFlags, unmount};

/// How long the kernel may remember what never changes.
const FOR_GOOD: Duration = Duration::from_secs(24 * 3600);
/// How long it may remember what stands above snapshots.
const A_MOMENT: Duration = Duration::from_secs(1);
/// How often a mount looks whether it shall end.
const LOOK: Duration = Duration::from_millis(50);
/// How long requests under way may take to end once nothing is mounted any more.
const LAST_REQUESTS: Duration = Duration::from_secs(5);
/// Length in bytes that reads are best done in.
const BLOCK_SIZE: u32 = 128 << 10;

/// How to mount. Read-only and without access times always.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MountOptions {
    /// Other users may look, too; the kernel checks what they may see.
    pub(crate) allow_other: bool,
    /// Devices in snapshots are devices.
    pub(crate) dev: bool,
    /// setuid bits and file capabilities count.
    pub(crate) suid: bool,
    /// Requests served at once.
    pub(crate) threads: usize,
}

/// How a mount ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// As it was asked to.
    Unmounted,
    /// As it was asked to, but files in it are still open: it is out of sight, and reads from them fail from now on.
    Detached,
    /// Somebody else unmounted it.
    Elsewhere,
}

/// Mounts at `dir` and serves until `cancel` or until somebody unmounts it. Calls `ready` once it is mounted.
pub(crate) fn serve(
    vfs: Arc<Vfs>,
    dir: &Path,
    options: MountOptions,
    cancel: &Cancel,
    ready: impl FnOnce(),
) -> Result<Ended> {
    let dir = check_mountpoint(dir)?;
    let session = fuser::spawn_mount(Adapter { vfs }, &dir, &config(options)).map_err(|e| cannot_mount(&dir, &e))?;
    ready();
    while !cancel.is_canceled() {
        if session.guard.is_finished() {
            session.join().context("the connection with the kernel broke")?;
            return Ok(Ended::Elsewhere);
        }
        std::thread::sleep(LOOK);
    }
    end(session, &dir)
}

/// The canonical path of a directory to mount at.
fn check_mountpoint(dir: &Path) -> Result<PathBuf> {
    let found = dir.metadata().map_err(|e| match OsError::from_io_error(&e) {
        Some(OsError::NOTCONN) => {
            anyhow!("{0} is what is left of a mount whose program died; fusermount3 -u {0} removes it", dir.display())
        }
        _ => anyhow!("cannot mount at {}: {e}", dir.display()),
    })?;
    if !found.is_dir() {
        return Err(anyhow!("cannot mount at {}: it is no directory", dir.display()));
    }
    match Path::new("/dev/fuse").metadata() {
        Ok(device) if device.file_type().is_char_device() => {}
        _ => {
            return Err(anyhow!(
                "cannot mount: there is no /dev/fuse; load it with modprobe fuse, or use restore or dump"
            ));
        }
    }
    dir.canonicalize().with_context(|| format!("cannot mount at {}", dir.display()))
}

fn cannot_mount(dir: &Path, e: &io::Error) -> anyhow::Error {
    let hint = match e.kind() {
        io::ErrorKind::NotFound => "; install fuse3, which has fusermount3",
        io::ErrorKind::PermissionDenied => "; --allow-other needs user_allow_other in /etc/fuse.conf",
        _ => "",
    };
    anyhow!("cannot mount at {}: {}{hint}", dir.display(), e.to_string().trim())
}

fn config(options: MountOptions) -> Config {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("copal".into()),
        MountOption::Subtype("copal".into()),
        MountOption::RO,
        MountOption::NoAtime,
        MountOption::DefaultPermissions,
        if options.dev { MountOption::Dev } else { MountOption::NoDev },
        if options.suid { MountOption::Suid } else { MountOption::NoSuid },
    ];
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(options.threads.max(1));
    config
}

/// Unmounts: at once where nobody uses it, else out of sight.
fn end(session: BackgroundSession, dir: &Path) -> Result<Ended> {
    match unmount(dir, UnmountFlags::empty()) {
        Ok(()) => Ok(wait(session.guard)),
        Err(OsError::BUSY) => {
            unmount(dir, UnmountFlags::DETACH).with_context(|| format!("cannot unmount {}", dir.display()))?;
            // Dropped, it would unmount once more, and hit whatever else is mounted there.
            std::mem::forget(session);
            Ok(Ended::Detached)
        }
        // Not root: the session's own way is fusermount3, which detaches.
        Err(OsError::PERM) => {
            let BackgroundSession { guard, .. } = session;
            Ok(wait(guard))
        }
        // Somebody else was faster.
        Err(OsError::INVAL) => Ok(wait(session.guard)),
        Err(e) => {
            Err(anyhow!("cannot unmount {}: {e}; fusermount3 -u -z {} does it later", dir.display(), dir.display()))
        }
    }
}

fn wait(guard: JoinHandle<io::Result<()>>) -> Ended {
    let deadline = Instant::now() + LAST_REQUESTS;
    while !guard.is_finished() {
        if Instant::now() > deadline {
            return Ended::Detached;
        }
        std::thread::sleep(LOOK / 10);
    }
    Ended::Unmounted
}

struct Adapter {
    vfs: Arc<Vfs>,
}

fn errno(failure: Failure) -> Errno {
    match failure {
        Failure::NotFound => Errno::ENOENT,
        Failure::Stale => Errno::ESTALE,
        Failure::NotDir => Errno::ENOTDIR,
        Failure::IsDir => Errno::EISDIR,
        Failure::WrongKind => Errno::EINVAL,
        Failure::NoAttribute => Errno::ENODATA,
        Failure::Nothing => Errno::ENXIO,
        Failure::Unreadable => Errno::EIO,
    }
}

fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Dir => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

/// As the kernel takes it; a time that no clock can show becomes the nearest end of the calendar.
fn system_time(time: Timestamp) -> SystemTime {
    let secs = Duration::from_secs(time.secs.unsigned_abs());
    let whole = match time.secs {
        0.. => SystemTime::UNIX_EPOCH.checked_add(secs),
        _ => SystemTime::UNIX_EPOCH.checked_sub(secs),
    };
    whole.and_then(|t| t.checked_add(Duration::from_nanos(time.nanos.into()))).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Linux's 64-bit device number in the 32 bits of the protocol: 12 of the major number and 20 of the minor one.
fn device(rdev: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(rdev), rustix::fs::minor(rdev));
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & 0xf_ff00) << 12
}

fn file_attr(a: &Attributes) -> FileAttr {
    FileAttr {
        ino: INodeNo(a.ino),
        size: a.size,
        blocks: a.blocks,
        atime: system_time(a.atime),
        mtime: system_time(a.mtime),
        ctime: system_time(a.ctime),
        crtime: SystemTime::UNIX_EPOCH,
        kind: file_type(a.kind),
        perm: a.mode as u16,
        nlink: u32::try_from(a.nlink).unwrap_or(u32::MAX),
        uid: a.uid,
        gid: a.gid,
        rdev: device(a.rdev),
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

fn remembered(a: &Attributes) -> Duration {
    if a.lasting { FOR_GOOD } else { A_MOMENT }
}

/// Replies with `bytes` in the protocol of extended attributes: a buffer of `size` 0 asks for the length.
fn reply_xattr(reply: ReplyXattr, bytes: &[u8], size: u32) {
    match size {
        0 => reply.size(bytes.len() as u32),
        _ if bytes.len() > size as usize => reply.error(Errno::ERANGE),
        _ => reply.data(bytes),
    }
}

/// `FS_IOC_GETFLAGS`, as the kernel forwards it for a process of 64 bits.
const GET_FLAGS: u32 = 0x8008_6601;
/// `FS_IOC_FSGETXATTR`.
const GET_FS_XATTR: u32 = 0x801c_581f;
/// chattr flags and what they are called in a `struct fsxattr`: i, a, S, A, d, P.
const FS_XFLAGS: [(u32, u32); 6] =
    [(0x10, 0x8), (0x20, 0x10), (0x8, 0x20), (0x80, 0x40), (0x40, 0x80), (0x2000_0000, 0x200)];

/// A `struct fsxattr`: flags, extent size, extents, project, size of copies, 8 bytes of padding.
fn fs_xattr(flags: u32, project: u32) -> [u8; 28] {
    let xflags = FS_XFLAGS.iter().filter(|(flag, _)| flags & flag != 0).fold(0, |all, (_, x)| all | x);
    let mut out = [0; 28];
    out[..4].copy_from_slice(&xflags.to_le_bytes());
    out[12..16].copy_from_slice(&project.to_le_bytes());
    out
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Each for itself: a kernel that lacks one still mounts. ACLs of snapshots count where the kernel can check them.
        for wanted in [
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_POSIX_ACL,
        ] {
            let _ = config.add_capabilities(wanted);
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.vfs.lookup(parent.0, name.as_bytes()) {
            Ok(a) => reply.entry(&remembered(&a), &file_attr(&a), Generation(0)),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn forget(&self, _: &Request, ino: INodeNo, lookups: u64) {
        self.vfs.forget(ino.0, lookups);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.vfs.attributes(ino.0) {
            Ok(a) => reply.attr(&remembered(&a), &file_attr(&a)),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.vfs.read_link(ino.0) {
            Ok(target) => reply.data(&target),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.vfs.open(ino.0) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.vfs.read(handle.0, offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn lseek(&self, _: &Request, _: INodeNo, handle: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        // SEEK_DATA and SEEK_HOLE of lseek(2); the kernel does the others itself.
        let seek = match whence {
            3 => Seek::Data,
            4 => Seek::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        match self.vfs.seek(handle.0, offset, seek) {
            Ok(found) => reply.offset(found as i64),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.vfs.release(handle.0);
        reply.ok();
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.vfs.open_dir(ino.0) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn readdir(&self, _: &Request, ino: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let mut add = |l: Listed<'_>| reply.add(INodeNo(l.ino), l.next, file_type(l.kind), OsStr::from_bytes(l.name));
        match self.vfs.read_dir(ino.0, handle.0, offset, false, &mut add) {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn readdirplus(&self, _: &Request, ino: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let mut add = |l: Listed<'_>| {
            let a = l.attributes.expect("they were asked for");
            let name = OsStr::from_bytes(l.name);
            reply.add(INodeNo(l.ino), l.next, name, &remembered(&a), &file_attr(&a), Generation(0))
        };
        match self.vfs.read_dir(ino.0, handle.0, offset, true, &mut add) {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.vfs.release(handle.0);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let space = self.vfs.space();
        reply.statfs(space.bytes.div_ceil(4096), 0, 0, space.snapshots, 0, 4096, 255, 4096);
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        match self.vfs.xattr(ino.0, name.as_bytes()) {
            Ok(value) => reply_xattr(reply, &value, size),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let xattrs = match self.vfs.xattrs(ino.0) {
            Ok(xattrs) => xattrs,
            Err(e) => return reply.error(errno(e)),
        };
        // As other file systems do: names that only root may read are shown to root only.
        let shown = |name: &[u8]| request.uid() == 0 || !name.starts_with(b"trusted.");
        let names = xattrs.iter().filter(|x| shown(&x.name)).flat_map(|x| x.name.iter().copied().chain([0]));
        reply_xattr(reply, &names.collect::<Vec<u8>>(), size);
    }

    fn ioctl(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        command: u32,
        _: &[u8],
        out_size: u32,
        reply: ReplyIoctl,
    ) {
        let (flags, project) = match self.vfs.flags(ino.0) {
            Ok(found) => found,
            Err(e) => return reply.error(errno(e)),
        };
        match (command, out_size) {
            (GET_FLAGS, 4) => reply.ioctl(0, &flags.to_le_bytes()),
            (GET_FLAGS, 8) => reply.ioctl(0, &u64::from(flags).to_le_bytes()),
            (GET_FS_XATTR, 28) => reply.ioctl(0, &fs_xattr(flags, project)),
            _ => reply.error(Errno::ENOTTY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_keep_their_nanoseconds() {
        let at = |secs, nanos| system_time(Timestamp { secs, nanos });
        assert_eq!(at(-1, 1), SystemTime::UNIX_EPOCH - Duration::from_nanos(999_999_999));
        assert_eq!(at(1, 5), SystemTime::UNIX_EPOCH + Duration::new(1, 5));
        let _ = (at(i64::MIN, 0), at(i64::MAX, 999_999_999));
    }

    #[test]
    fn device_numbers_are_those_of_the_protocol() {
        assert_eq!(device(rustix::fs::makedev(1, 3)), 0x103);
        assert_eq!(device(rustix::fs::makedev(0xabc, 0x12345)), 0x123a_bc45);
    }
}
