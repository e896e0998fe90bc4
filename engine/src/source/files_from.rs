//! Lists of what to back up: `--files-from`, `--files-from-verbatim`, `--files-from-raw`.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::glob::{Glob, has_special};
use super::pattern::PatternError;

/// A list that cannot be used.
#[derive(Debug, Error)]
pub enum ListError {
    /// A bad glob.
    #[error("the pattern {} cannot be used", .pattern.display())]
    Pattern {
        /// As it stands in the list.
        pattern: PathBuf,
        /// What is wrong with it.
        #[source]
        source: PatternError,
    },
    /// A raw list that does not end in NUL: it may have been cut off.
    #[error("the list does not end in a zero byte; was it cut off?")]
    Unterminated,
    /// A raw list with nothing between two NULs.
    #[error("the list has an empty name, as entry {0}")]
    EmptyName(usize),
}

/// One line of `--files-from` and what it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expanded {
    /// The line.
    pub pattern: PathBuf,
    /// Paths that are there, sorted within each directory, relative if the line is. None: worth a warning.
    pub paths: Vec<PathBuf>,
}

/// `--files-from`: one glob a line, comments and empty lines left out, relative ones below `cwd`.
///
/// A component with `*`, `?`, `[…]` or `\` is compared with the names in its directory (dot files too, as in restic);
/// `**` is no more than `*` here. Directories that cannot be read match nothing.
pub fn expand(bytes: &[u8], cwd: &Path) -> Result<Vec<Expanded>, ListError> {
    let text = decode_text(bytes);
    lines_with_comments(&text)
        .map(|line| {
            let pattern = PathBuf::from(OsStr::from_bytes(line));
            match expand_glob(line, cwd) {
                Ok(paths) => Ok(Expanded { pattern, paths }),
                Err(source) => Err(ListError::Pattern { pattern, source }),
            }
        })
        .collect()
}

/// `--files-from-verbatim`: one path a line, as it stands, empty lines left out.
pub fn parse_verbatim(bytes: &[u8]) -> Vec<PathBuf> {
    lines(&decode_text(bytes))
        .filter(|line| !line.is_empty())
        .map(|line| PathBuf::from(OsStr::from_bytes(line)))
        .collect()
}

/// `--files-from-raw`: each path ended by a NUL, any other byte is part of it.
pub fn parse_raw(bytes: &[u8]) -> Result<Vec<PathBuf>, ListError> {
    let Some(list) = bytes.strip_suffix(b"\0") else {
        return if bytes.is_empty() { Ok(Vec::new()) } else { Err(ListError::Unterminated) };
    };
    let paths = list.split(|&b| b == 0).enumerate();
    paths
        .map(|(n, path)| match path {
            b"" => Err(ListError::EmptyName(n + 1)),
            path => Ok(PathBuf::from(OsStr::from_bytes(path))),
        })
        .collect()
}

fn expand_glob(pattern: &[u8], cwd: &Path) -> Result<Vec<PathBuf>, PatternError> {
    let root = if pattern[0] == b'/' { PathBuf::from("/") } else { PathBuf::new() };
    let parts: Vec<&[u8]> = pattern.split(|&b| b == b'/').filter(|part| !part.is_empty()).collect();
    let mut found = vec![root];
    for part in parts {
        let glob = Glob::parse(part)?;
        // Names without special characters are only joined: their directory need not be readable.
        found = if has_special(part) {
            found.iter().flat_map(|dir| matching(dir, &glob, cwd)).collect()
        } else {
            found.iter().map(|dir| dir.join(OsStr::from_bytes(part))).collect()
        };
    }
    found.retain(|path| fs::symlink_metadata(cwd.join(path)).is_ok());
    Ok(found)
}

fn matching(dir: &Path, glob: &Glob, cwd: &Path) -> Vec<PathBuf> {
    let names =
        |entries: fs::ReadDir| entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<OsString>>>();
    let mut names = fs::read_dir(cwd.join(dir)).and_then(names).unwrap_or_default();
    names.retain(|name| glob.matches(name.as_bytes()));
    names.sort_unstable();
    names.into_iter().map(|name| dir.join(name)).collect()
}

/// Lines, with the `\r` of a `\r\n` taken off; no empty one after the last `\n`.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    text.split(|&b| b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

/// Trimmed lines without the empty ones and those that begin with `#`.
pub(super) fn lines_with_comments(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    lines(text).map(<[u8]>::trim_ascii).filter(|line| !line.is_empty() && line[0] != b'#')
}

/// Takes off the byte order mark of UTF-8, and turns UTF-16 with one into UTF-8; anything else stays as it is.
pub(super) fn decode_text(bytes: &[u8]) -> Cow<'_, [u8]> {
    let utf16 = |units: &[u8], unit: fn([u8; 2]) -> u16| {
        let units = units.as_chunks().0.iter().map(|pair| unit(*pair));
        let text: String = char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
        Cow::Owned(OsString::from(text).into_vec())
    };
    match bytes {
        [0xef, 0xbb, 0xbf, rest @ ..] => Cow::Borrowed(rest),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        other => Cow::Borrowed(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(list: &[&str]) -> Vec<PathBuf> {
        list.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn verbatim_keeps_everything_but_line_ends() {
        let got = parse_verbatim(b" a \n#b\n\n*c\r\n\xff");
        assert_eq!(got[..3], paths(&[" a ", "#b", "*c"]));
        assert_eq!(got[3].as_os_str().as_bytes(), b"\xff");
        assert_eq!(parse_verbatim(b"\xff\xfea\0\n\0"), paths(&["a"]));
        assert_eq!(parse_verbatim(b"\xfe\xff\0a\0\n\0b"), paths(&["a", "b"]));
    }

    #[test]
    fn raw_needs_its_last_zero() {
        assert_eq!(parse_raw(b"a\nb\0c\0").unwrap(), paths(&["a\nb", "c"]));
        assert!(parse_raw(b"").unwrap().is_empty());
        assert!(matches!(parse_raw(b"a\0b"), Err(ListError::Unterminated)));
        assert!(matches!(parse_raw(b"a\0\0b\0"), Err(ListError::EmptyName(2))));
        assert!(matches!(parse_raw(b"\0"), Err(ListError::EmptyName(1))));
    }

    #[test]
    fn globs_are_expanded_below_the_working_directory() {
        let tmp = tempfile::tempdir().unwrap();
        for file in ["a/x.c", "a/y.h", "b/x.c", "b/.z.c", "c[d", "#no"] {
            let path = tmp.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"").unwrap();
        }
        std::os::unix::fs::symlink("nowhere", tmp.path().join("dangling")).unwrap();
        let list = b"# comment\n*/*.c\n\n  a/y.h\nmissing\nc\\[d\ndang*\n?/../b/x*\n";
        let got: Vec<_> = expand(list, tmp.path()).unwrap().into_iter().map(|line| line.paths).collect();
        assert_eq!(got[0], paths(&["a/x.c", "b/.z.c", "b/x.c"]));
        assert_eq!(got[1..5], [paths(&["a/y.h"]), paths(&[]), paths(&["c[d"]), paths(&["dangling"])]);
        assert_eq!(got[5], paths(&["a/../b/x.c", "b/../b/x.c"]));
        let absolute = format!("{}/a/*", tmp.path().display());
        let got = expand(absolute.as_bytes(), Path::new("/nonexistent")).unwrap();
        assert_eq!(got[0].paths, [tmp.path().join("a/x.c"), tmp.path().join("a/y.h")]);
        assert!(expand(b"a[", tmp.path()).is_err());
    }
}
