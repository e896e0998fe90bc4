//! Files of the local index: where they lie, how they come to be, what a crash leaves.
//!
//! A run file is written as `tmp-*`, flushed, and renamed to `<hash of its bytes>.run`: whoever finds the name finds all
//! of the bytes, and processes that share the directory need no lock: equal content has one name, other content another,
//! and unlinking takes nothing from whoever has it mapped. A crash leaves a `tmp-*` file that is removed a day later.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::OFlags;

use crate::id::hex;

use super::map::Bytes;
use super::{Error, Result};

/// Where the files of an index lie. No files of anything else belong into the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Kept for the next process, in this directory of one repository's own; it is made (0700) if it is not there.
    /// Any number of processes may share it.
    Cache(PathBuf),
    /// Unlinked at once, in this existing directory: nothing is left, whatever happens (`--no-cache`).
    Unlinked(PathBuf),
}

impl Place {
    /// The directory.
    pub fn dir(&self) -> &Path {
        match self {
            Self::Cache(dir) | Self::Unlinked(dir) => dir,
        }
    }

    /// Makes the directory of a cache, and removes what crashed processes left in it.
    pub(super) fn prepare(&self) -> Result<()> {
        let Self::Cache(dir) = self else { return Ok(()) };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed("create", dir))?;
        for path in self.files(|name| name.starts_with(TEMPORARY))? {
            let age = fs::symlink_metadata(&path).and_then(|m| m.modified()).map(|at| at.elapsed().unwrap_or_default());
            if age.is_ok_and(|age| age > LEFTOVER_AGE) {
                remove(&path);
            }
        }
        Ok(())
    }

    /// Paths of all run files of a cache, sorted.
    pub(super) fn run_files(&self) -> Result<Vec<PathBuf>> {
        match self {
            Self::Cache(_) => self.files(|name| name.ends_with(RUN)),
            Self::Unlinked(_) => Ok(Vec::new()),
        }
    }

    fn files(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
        let dir = self.dir();
        let mut found = Vec::new();
        for entry in fs::read_dir(dir).map_err(failed("list", dir))? {
            let entry = entry.map_err(failed("list", dir))?;
            if entry.file_name().to_str().is_some_and(&wanted) {
                found.push(entry.path());
            }
        }
        found.sort();
        Ok(found)
    }
}

const TEMPORARY: &str = "tmp-";
const RUN: &str = ".run";
/// No build takes that long, so a temporary file of this age belongs to nobody.
const LEFTOVER_AGE: Duration = Duration::from_secs(24 * 3600);

/// Turns an I/O error into one that names what was done to which file.
pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}

/// Unlinks a file of the cache that nobody needs. It may be gone already, or stay: it costs space and nothing else.
pub(super) fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!("cannot remove {} from the local index: {error}", path.display());
    }
}

/// Maps a run file after a look at who may write to it. `None` if it is gone.
pub(super) fn open(path: &Path) -> Result<Option<Bytes>> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", path)(error)),
    };
    let meta = file.metadata().map_err(failed("open", path))?;
    // Who may write may also truncate, and a mapped file that shrinks kills the process. Kubernetes opens the files of a
    // volume to the pod's group; that much is taken.
    if !meta.is_file() || meta.uid() != rustix::process::geteuid().as_raw() || meta.mode() & 0o002 != 0 {
        return Err(Error::Corrupt { path: path.to_owned(), how: "not a private file of this user".into() });
    }
    Bytes::map(&file).map(Some).map_err(failed("map", path))
}

/// A new file `tmp-*` in `dir`, 0600.
fn create(dir: &Path) -> Result<(File, PathBuf)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let path = dir.join(format!("{TEMPORARY}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => return Ok((file, path)),
            // A leftover, or a process with the same number in another container.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(failed("create", &path)(error)),
        }
    }
}

fn create_unlinked(dir: &Path) -> Result<(File, PathBuf)> {
    let (file, path) = create(dir)?;
    fs::remove_file(&path).map_err(failed("unlink", &path))?;
    Ok((file, path))
}

/// Heap that one [`Scratch`] or [`Output`] holds at most, roughly, in bytes.
const BUFFER_BYTES: usize = 256 << 10;

/// Bytes on their way into a run that would be too many for the heap: an unlinked file once they fill a buffer.
pub(super) struct Scratch {
    dir: PathBuf,
    buffer: Vec<u8>,
    file: Option<(File, PathBuf)>,
    len: u64,
}

impl Scratch {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), buffer: Vec::new(), file: None, len: 0 }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        self.len += bytes.len() as u64;
        if self.buffer.len() < BUFFER_BYTES { Ok(()) } else { self.spill() }
    }

    fn spill(&mut self) -> Result<()> {
        if self.file.is_none() {
            self.file = Some(create_unlinked(&self.dir)?);
        }
        let (file, path) = self.file.as_mut().expect("made above");
        file.write_all(&self.buffer).map_err(failed("write", path))?;
        self.buffer.clear();
        Ok(())
    }

    /// All bytes written.
    pub(super) fn finish(mut self) -> Result<Bytes> {
        if self.file.is_none() {
            return Ok(Bytes::Owned(self.buffer));
        }
        self.spill()?;
        let (file, path) = self.file.expect("spilled above");
        Bytes::map(&file).map_err(failed("map", &path))
    }
}

/// A run file while it is written, front to back.
pub(super) struct Output {
    place: Place,
    file: File,
    path: PathBuf,
    buffer: Vec<u8>,
    hasher: blake3::Hasher,
}

impl Output {
    pub(super) fn create(place: &Place) -> Result<Self> {
        let (file, path) = match place {
            Place::Cache(dir) => create(dir)?,
            Place::Unlinked(dir) => create_unlinked(dir)?,
        };
        let buffer = Vec::with_capacity(BUFFER_BYTES);
        Ok(Self { place: place.clone(), file, path, buffer, hasher: blake3::Hasher::new() })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.buffer.len() + bytes.len() > BUFFER_BYTES {
            self.flush()?;
        }
        if bytes.len() < BUFFER_BYTES {
            self.buffer.extend_from_slice(bytes);
            return Ok(());
        }
        self.hasher.update(bytes);
        self.file.write_all(bytes).map_err(failed("write", &self.path))
    }

    fn flush(&mut self) -> Result<()> {
        self.hasher.update(&self.buffer);
        self.file.write_all(&self.buffer).map_err(failed("write", &self.path))?;
        self.buffer.clear();
        Ok(())
    }

    /// Appends the hash of everything written; in a cache also makes the file durable under the name of that hash.
    /// Returns its bytes and, in a cache, its path.
    pub(super) fn finish(mut self) -> Result<(Bytes, Option<PathBuf>)> {
        self.flush()?;
        let hash = *self.hasher.finalize().as_bytes();
        self.file.write_all(&hash).map_err(failed("write", &self.path))?;
        let path = match self.place.clone() {
            Place::Unlinked(_) => None,
            Place::Cache(dir) => Some(self.publish(&dir, &hash)?),
        };
        let bytes = Bytes::map(&self.file).map_err(failed("map", path.as_ref().unwrap_or(&self.path)))?;
        Ok((bytes, path))
    }

    fn publish(&mut self, dir: &Path, hash: &[u8; 32]) -> Result<PathBuf> {
        let path = dir.join(format!("{}{RUN}", hex(hash)));
        self.file.sync_data().map_err(failed("flush", &self.path))?;
        fs::rename(&self.path, &path).map_err(failed("rename", &self.path))?;
        // From here Drop must leave it alone.
        self.place = Place::Unlinked(dir.to_owned());
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("flush", dir))?;
        Ok(path)
    }
}

impl Drop for Output {
    /// A file that was not finished goes.
    fn drop(&mut self) {
        if let Place::Cache(_) = self.place {
            remove(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn names(dir: &Path) -> Vec<String> {
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn scratch_gives_back_what_was_written() {
        let dir = tempfile::tempdir().unwrap();
        for count in [0usize, 1, 1000, 200_000] {
            let mut scratch = Scratch::new(dir.path());
            for n in 0..count {
                scratch.write(&(n as u32).to_le_bytes()).unwrap();
            }
            assert_eq!(scratch.len(), 4 * count as u64);
            let bytes = scratch.finish().unwrap();
            let back: Vec<u32> = bytes.chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect();
            assert!(back.iter().copied().eq(0..count as u32));
        }
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn a_cache_keeps_a_private_file_under_its_hash() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::Cache(dir.path().join("a/b"));
        place.prepare().unwrap();
        let content = vec![7; BUFFER_BYTES + 5];
        let mut out = Output::create(&place).unwrap();
        out.write(b"x").unwrap();
        out.write(&content).unwrap();
        out.write(b"y").unwrap();
        let (bytes, path) = out.finish().unwrap();
        let (body, hash) = bytes.split_at(bytes.len() - 32);
        assert_eq!(body.len(), content.len() + 2);
        assert_eq!(blake3::hash(body).as_bytes(), hash);
        let path = path.unwrap();
        assert_eq!(place.run_files().unwrap(), std::slice::from_ref(&path));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(open(&path).unwrap().unwrap().len(), bytes.len());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(matches!(open(&path), Err(Error::Corrupt { .. })));
        assert!(open(&dir.path().join("none")).unwrap().is_none());
    }

    #[test]
    fn an_unfinished_or_unlinked_file_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        drop(Output::create(&Place::Cache(dir.path().to_owned())).unwrap());
        let (_bytes, path) = Output::create(&Place::Unlinked(dir.path().to_owned())).unwrap().finish().unwrap();
        assert!(path.is_none() && names(dir.path()).is_empty());
    }

    #[test]
    fn only_old_leftovers_go() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["tmp-1-0", "tmp-2-0"] {
            fs::write(dir.path().join(name), b"").unwrap();
        }
        let old = std::time::SystemTime::now() - 2 * LEFTOVER_AGE;
        File::options().write(true).open(dir.path().join("tmp-1-0")).unwrap().set_modified(old).unwrap();
        Place::Cache(dir.path().to_owned()).prepare().unwrap();
        assert_eq!(names(dir.path()), ["tmp-2-0"]);
    }
}
