//! What a backup leaves out: patterns, sizes, and directories that are tagged.
//!
//! The options mean what they mean in restic. A path named on the command line is never left out itself; that is for the
//! walk to see to, which asks only about what it finds below.

use std::fmt;
use std::io;

use super::pattern::{Case, ListError, PatternList};
use super::{Dir, Kind, Note, Stat};
use crate::progress::ProblemKind;

/// First bytes of a CACHEDIR.TAG (<https://bford.info/cachedir/>).
pub const CACHEDIR_SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// The options as they are given.
#[derive(Debug, Clone, Default)]
pub struct ExcludeOptions {
    /// `--exclude`, and the lines of `--exclude-file` (see [`parse_exclude_file`]).
    pub patterns: Vec<Vec<u8>>,
    /// `--iexclude`, and the lines of `--iexclude-file`.
    pub patterns_any_case: Vec<Vec<u8>>,
    /// `--exclude-caches`.
    pub caches: bool,
    /// `--exclude-if-present NAME[:HEADER]`, each in raw bytes.
    pub if_present: Vec<Vec<u8>>,
    /// `--exclude-larger-than`, in bytes.
    pub larger_than: Option<u64>,
}

/// An option that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ExcludeError {
    /// A bad pattern.
    #[error(transparent)]
    Pattern(#[from] ListError),
    /// `--exclude-if-present` without a name, or with one that holds a `/`.
    #[error("{:?} names no file to look for; write NAME or NAME:HEADER, without a /", String::from_utf8_lossy(.0))]
    TagName(Vec<u8>),
}

/// Why something is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason<'a> {
    /// A pattern matches the path.
    Pattern,
    /// It is larger than so many bytes.
    LargerThan(u64),
    /// A file of this name marks the directory: everything in it is left out but that file.
    TaggedBy(&'a [u8]),
}

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pattern => write!(f, "excluded by a pattern"),
            Self::LargerThan(bytes) => write!(f, "excluded: larger than {bytes} bytes"),
            Self::TaggedBy(name) => write!(f, "contents excluded because of {}", name.escape_ascii()),
        }
    }
}

/// All exclude options in one predicate; shared by all threads of a walk.
#[derive(Debug, Default)]
pub struct Exclude {
    exact: PatternList,
    any_case: PatternList,
    tags: Vec<Tag>,
    larger_than: Option<u64>,
}

/// A file that marks a directory.
#[derive(Debug)]
struct Tag {
    name: Vec<u8>,
    /// What it must begin with; empty: it need only be there, whatever it is.
    header: Vec<u8>,
}

impl Exclude {
    /// Checks and compiles the options.
    pub fn new(options: &ExcludeOptions) -> Result<Self, ExcludeError> {
        let mut tags = options.if_present.iter().map(|spec| parse_tag(spec)).collect::<Result<Vec<_>, _>>()?;
        if options.caches {
            tags.push(Tag { name: b"CACHEDIR.TAG".to_vec(), header: CACHEDIR_SIGNATURE.to_vec() });
        }
        Ok(Self {
            exact: PatternList::parse(&options.patterns, Case::Exact)?,
            any_case: PatternList::parse(&options.patterns_any_case, Case::Ignore)?,
            tags,
            larger_than: options.larger_than,
        })
    }

    /// Whether the path (absolute, raw bytes) alone decides: to be asked before the entry is stated.
    pub fn excluded_by_path(&self, path: &[u8]) -> Option<Reason<'_>> {
        let matched = self.exact.matches(path).matched || self.any_case.matches(path).matched;
        matched.then_some(Reason::Pattern)
    }

    /// Whether an entry is left out, by its path (absolute, raw bytes) or its size. Of a directory, also all below it.
    pub fn excluded(&self, path: &[u8], stat: &Stat) -> Option<Reason<'_>> {
        let too_large = self.larger_than.filter(|&limit| stat.kind != Kind::Dir && stat.size > limit);
        self.excluded_by_path(path).or(too_large.map(Reason::LargerThan))
    }

    /// Whether what `dir` holds is left out because of a tag in it, and what kept a tag from being read.
    ///
    /// A tag with a header must be a regular file that begins with it; one without may be any entry. A tag that is there
    /// but cannot be read, or has another header, excludes nothing and is a note: somebody meant it to.
    pub fn dir_is_excluded(&self, dir: &Dir) -> (Option<Reason<'_>>, Vec<Note>) {
        let mut notes = Vec::new();
        for tag in &self.tags {
            match tag.marks(dir) {
                Ok(true) => return (Some(Reason::TaggedBy(&tag.name)), notes),
                Ok(false) => {}
                Err(e) => {
                    let message = format!("the tag {} excludes nothing: {e}", tag.name.escape_ascii());
                    notes.push(Note { kind: ProblemKind::Attribute, message });
                }
            }
        }
        (None, notes)
    }
}

impl Tag {
    fn marks(&self, dir: &Dir) -> io::Result<bool> {
        let stat = match dir.stat(&self.name) {
            Ok(stat) => stat,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        };
        if self.header.is_empty() {
            return Ok(true);
        }
        let file = dir.open_file(&self.name, &stat)?;
        let mut begin = vec![0; self.header.len()];
        let mut filled = 0;
        while filled < begin.len() {
            match file.read_at(filled as u64, &mut begin[filled..])? {
                0 => break,
                n => filled += n,
            }
        }
        if begin == self.header { Ok(true) } else { Err(io::Error::other("does not begin with the expected header")) }
    }
}

fn parse_tag(spec: &[u8]) -> Result<Tag, ExcludeError> {
    let colon = spec.iter().position(|&b| b == b':');
    let (name, header) = match colon {
        Some(colon) => (&spec[..colon], &spec[colon + 1..]),
        None => (spec, b"".as_slice()),
    };
    if !crate::format::node::name_is_valid(name) {
        return Err(ExcludeError::TagName(spec.to_vec()));
    }
    Ok(Tag { name: name.to_vec(), header: header.to_vec() })
}

/// The patterns in an exclude (or include) file: one a line, white space around it trimmed, empty lines and those that
/// begin with `#` left out, a byte order mark understood, variables replaced by [`expand_variables`].
pub fn parse_exclude_file(bytes: &[u8], variable: &dyn Fn(&[u8]) -> Option<Vec<u8>>) -> Vec<Vec<u8>> {
    let text = super::files_from::decode_text(bytes);
    super::files_from::lines_with_comments(&text).map(|line| expand_variables(line, variable)).collect()
}

/// Replaces `$NAME` and `${NAME}` by what `variable` says (nothing if it is unset), `$$` by `$`; as Go's os.Expand does.
///
/// A `$` before anything else stays. `${}` and `${` without an end are dropped.
pub fn expand_variables(line: &[u8], variable: &dyn Fn(&[u8]) -> Option<Vec<u8>>) -> Vec<u8> {
    let mut out = Vec::with_capacity(line.len());
    let mut rest = line;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'$' || tail.is_empty() {
            out.push(byte);
            continue;
        }
        let (name, taken) = variable_name(tail);
        rest = &tail[taken..];
        match name {
            b"" if taken == 0 => out.push(b'$'),
            b"" => {}
            b"$" => out.push(b'$'),
            name => out.extend(variable(name).unwrap_or_default()),
        }
    }
    out
}

/// The name behind a `$`, and how many bytes it takes with its braces.
fn variable_name(text: &[u8]) -> (&[u8], usize) {
    let is_special = |b: u8| b"*#$@!?-".contains(&b) || b.is_ascii_digit();
    if text[0] == b'{' {
        return match text.iter().position(|&b| b == b'}') {
            Some(end) => (&text[1..end], end + 1),
            None => (b"", 1),
        };
    }
    if is_special(text[0]) {
        return (&text[..1], 1);
    }
    let len = text.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
    (&text[..len], len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(line: &str) -> String {
        let variable = |name: &[u8]| match name {
            b"HOME" => Some(b"/home/bob".to_vec()),
            b"X_1" => Some(b"$HOME".to_vec()),
            _ => None,
        };
        String::from_utf8(expand_variables(line.as_bytes(), &variable)).unwrap()
    }

    #[test]
    fn variables_as_go_expands_them() {
        let table = [
            ("$HOME/x", "/home/bob/x"),
            ("${HOME}x", "/home/bobx"),
            ("a$$b", "a$b"),
            ("$$HOME", "$HOME"),
            ("${$}", "$"),
            ("$X_1", "$HOME"),
            ("$NOPE.", "."),
            ("cost $", "cost $"),
            ("$/x", "$/x"),
            ("${}x", "x"),
            ("${HOME", "HOME"),
            ("$1x", "x"),
            ("", ""),
        ];
        for (line, expected) in table {
            assert_eq!(expand(line), expected, "{line}");
        }
    }

    #[test]
    fn exclude_file_of_the_documentation() {
        let text =
            b"\xef\xbb\xbf# exclude go-files\r\n*.go\r\n\r\n  # exclude foo/x/y/z/bar\n\t foo/**/bar \n$HOME/a#b";
        let lines = parse_exclude_file(text, &|_| Some(b"/root".to_vec()));
        assert_eq!(lines, [b"*.go".to_vec(), b"foo/**/bar".to_vec(), b"/root/a#b".to_vec()]);
    }

    #[test]
    fn tags_need_a_name() {
        for bad in ["", ":x", "a/b", ".."] {
            let options = ExcludeOptions { if_present: vec![bad.into()], ..ExcludeOptions::default() };
            assert!(matches!(Exclude::new(&options), Err(ExcludeError::TagName(_))), "{bad}");
        }
        let tag = parse_tag(b".skip:a:b").unwrap();
        assert_eq!((tag.name.as_slice(), tag.header.as_slice()), (b".skip".as_slice(), b"a:b".as_slice()));
    }

    #[test]
    fn a_bad_pattern_is_named() {
        let options = ExcludeOptions { patterns_any_case: vec![b"ok".to_vec(), b"A[".to_vec()], ..Default::default() };
        let error = Exclude::new(&options).unwrap_err();
        assert!(error.to_string().contains("\"A[\""), "{error}");
    }
}
