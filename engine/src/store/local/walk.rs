//! LIST over a directory tree, in the order of whole keys.
//!
//! Entries of one directory are sorted by the text their keys go on with: a file by its name, a directory by its name and
//! a slash. So `a-b`, `a.b`, `a/…`, `a0` come in this order, as bytes of whole keys do, though a walk by names alone
//! would give `a/…` first.

use std::os::fd::OwnedFd;

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{open_beneath, os_error, path_error};
use crate::store::{Key, Listed, Page, Result};

/// Keys in one page.
const PAGE_KEYS: usize = 4096;

/// The first keys that start with `prefix` and are greater than `after`.
///
/// What appears or goes meanwhile may be in it or not; what stands all the time is in it.
pub(super) fn page(root: &OwnedFd, prefix: &str, after: Option<&Key>) -> Result<Page> {
    let mut walk = Walk { root, prefix, after: after.map_or("", |k| k.as_str()), page: Page::default() };
    // Start at the deepest directory that holds all of the prefix; text that no key can have finds nothing.
    let start = prefix.rsplit_once('/').map_or("", |(dir, _)| dir);
    if !start.is_empty() && Key::new(start).is_err() {
        return Ok(walk.page);
    }
    walk.directory(start)?;
    Ok(walk.page)
}

struct Walk<'a> {
    root: &'a OwnedFd,
    prefix: &'a str,
    after: &'a str,
    page: Page,
}

impl Walk<'_> {
    /// Adds what lies below the directory with path `path` (empty = root). Depth is bounded by the length of keys.
    fn directory(&mut self, path: &str) -> Result<()> {
        let fail = |e| path_error(format!("list {path}"), e);
        let (open, slash) = if path.is_empty() { (".", "") } else { (path, "/") };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let dir = match open_beneath(self.root, open, flags, Mode::empty()) {
            Ok(dir) => dir,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(e) => return Err(fail(e)),
        };
        for name in self.names(&dir, &format!("{path}{slash}")).map_err(fail)? {
            let full = format!("{path}{slash}{name}");
            match full.strip_suffix('/') {
                Some(child) => self.directory(child)?,
                None => self.file(&dir, &name, full)?,
            }
            if self.page.more {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Names of interest in `dir`, in order; those of directories end in a slash. `start` is what their keys start with.
    fn names(&self, dir: &OwnedFd, start: &str) -> Result<Vec<String>, Errno> {
        let mut names = Vec::new();
        for entry in Dir::read_from(dir)? {
            let entry = entry?;
            // Foreign names are no keys, whatever they are.
            let Ok(name) = entry.file_name().to_str() else { continue };
            if Key::new(format!("{start}{name}")).is_err() {
                continue;
            }
            let name = match self.file_type(dir, name, entry.file_type())? {
                FileType::Directory => format!("{name}/"),
                FileType::RegularFile => name.to_owned(),
                _ => continue,
            };
            if self.wanted(&format!("{start}{name}")) {
                names.push(name);
            }
        }
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// Whether `text` is a key, or the start of keys when it ends in a slash, that belongs to the page.
    fn wanted(&self, text: &str) -> bool {
        if text.ends_with('/') {
            let prefix = text.starts_with(self.prefix) || self.prefix.starts_with(text);
            prefix && (text > self.after || self.after.starts_with(text))
        } else {
            text.starts_with(self.prefix) && text > self.after
        }
    }

    fn file_type(&self, dir: &OwnedFd, name: &str, told: FileType) -> Result<FileType, Errno> {
        if told != FileType::Unknown {
            return Ok(told);
        }
        match fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(FileType::from_raw_mode(stat.st_mode)),
            Err(Errno::NOENT) => Ok(FileType::Unknown),
            Err(e) => Err(e),
        }
    }

    fn file(&mut self, dir: &OwnedFd, name: &str, full: String) -> Result<()> {
        let Ok(key) = Key::new(full) else { return Ok(()) };
        match fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) if self.page.objects.len() == PAGE_KEYS => self.page.more = true,
            Ok(stat) => self.page.objects.push(Listed { key, size: stat.st_size as u64 }),
            Err(Errno::NOENT) => {}
            Err(e) => return Err(os_error(format!("list {key}"), e)),
        }
        Ok(())
    }
}
