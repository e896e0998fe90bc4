//! Files of the state directory: each is written whole or not at all, whoever else writes it at the same time.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Makes the file, durably, and its directory if need be; one that stands is replaced.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    write(path, bytes, |temporary| fs::rename(temporary, path)).map(drop)
}

/// The same unless the file stands: whether it was made.
pub(super) fn create(path: &Path, bytes: &[u8]) -> Result<bool> {
    write(path, bytes, |temporary| match fs::hard_link(temporary, path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(false),
        // A file system without hard links.
        Err(_) if !path.exists() => fs::rename(temporary, path).map(|()| true),
        Err(_) => Ok(false),
    })
}

fn write<T>(path: &Path, bytes: &[u8], publish: impl FnOnce(&Path) -> io::Result<T>) -> Result<T> {
    let dir = path.parent().expect("it has a directory");
    fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))?;
    let written = || -> io::Result<T> {
        let (temporary, mut file) = temporary(path)?;
        let published = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| publish(&temporary));
        // After a rename there is none.
        let _ = fs::remove_file(&temporary);
        let published = published?;
        fs::File::open(dir)?.sync_all()?;
        Ok(published)
    };
    written().map_err(|e| Error::io("write", path, e))
}

/// A file beside `path` that nobody else writes: another process may have the same id in another container.
fn temporary(path: &Path) -> io::Result<(PathBuf, fs::File)> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    loop {
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let temporary = path.with_extension(format!("new-{}-{n}", std::process::id()));
        match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            opened => return Ok((temporary, opened?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_threads_write_one_file_in_a_directory_that_does_not_exist_yet() {
        for _ in 0..50 {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("state/repository/file");
            let text = |n: usize| vec![b'a' + n as u8; 100_000];
            let made: usize = std::thread::scope(|scope| {
                let create = |n| {
                    scope.spawn({
                        let path = &path;
                        move || create(path, &text(n)).unwrap()
                    })
                };
                let threads: Vec<_> = (0..8).map(create).collect();
                threads.into_iter().map(|t| usize::from(t.join().unwrap())).sum()
            });
            assert_eq!(made, 1, "one is first");
            let first = fs::read(&path).unwrap();
            assert!(first.len() == 100_000 && first.iter().all(|b| *b == first[0]));
            std::thread::scope(|scope| {
                (0..8).for_each(|n| {
                    drop(scope.spawn({
                        let path = &path;
                        move || replace(path, &text(n)).unwrap()
                    }))
                });
            });
            let last = fs::read(&path).unwrap();
            assert!(last.len() == 100_000 && last.iter().all(|b| *b == last[0]));
            assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left over");
        }
    }
}
