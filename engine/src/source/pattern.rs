//! Patterns to include or exclude paths, with restic's meaning. Pure: bytes in, verdict out.
//!
//! - A pattern is made of path components; each is a glob (`*`, `?`, `[a-z]`, `[^a]`, `\` escapes) for one component.
//! - It matches a path that holds it as a run of components **anywhere**: `foo` matches `/x/foo` and all below it.
//! - A leading `/` ties it to the root. A trailing `/` means nothing. `.` and `..` are resolved as text.
//! - `**` as a whole component stands for any number of components, also none.
//! - `!` in front takes back what earlier patterns of the same list matched: the last match wins.
//!
//! Two deliberate differences to restic's `internal/filter`, both where it falls short of its own documentation: several
//! `**` in one pattern find every split (restic stops one component early), and bytes that are no UTF-8 match only
//! themselves (Go takes all of them for one character).

use thiserror::Error;

use super::glob::Glob;

/// Why a pattern is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PatternError {
    /// Nothing in it.
    #[error("the pattern is empty")]
    Empty,
    /// A `[` without its end, without anything in it, or with a bare `-` or `]` where a character must stand.
    #[error(
        "the pattern has a [ without a proper end; write \\[ for the character itself, and \\- or \\] inside a class"
    )]
    BadClass,
    /// A `\` with nothing behind it.
    #[error("the pattern ends in a backslash; write \\\\ for the character itself")]
    EscapeAtEnd,
}

/// Whether upper and lower case are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Case {
    /// They are not.
    #[default]
    Exact,
    /// They are, as Unicode lower-cases characters.
    Ignore,
}

/// One parsed pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    negated: bool,
    anchored: bool,
    /// The runs of components between the `**`; there is one more than there are `**`. Some may be empty.
    runs: Vec<Vec<Glob>>,
}

/// A path split for matching: at `/`, empty components left out.
#[derive(Debug, Clone)]
pub struct Subject<'a> {
    absolute: bool,
    parts: Vec<&'a [u8]>,
}

impl<'a> Subject<'a> {
    /// Of a path in raw bytes. One that does not begin with `/` is matched by no anchored pattern.
    pub fn new(path: &'a [u8]) -> Self {
        Self {
            absolute: path.first() == Some(&b'/'),
            parts: path.split(|&b| b == b'/').filter(|part| !part.is_empty()).collect(),
        }
    }
}

impl Pattern {
    /// Parses one pattern in raw bytes.
    pub fn parse(pattern: impl AsRef<[u8]>) -> Result<Self, PatternError> {
        let pattern = pattern.as_ref();
        let (negated, text) = match pattern.strip_prefix(b"!") {
            Some(rest) => (true, rest),
            None => (false, pattern),
        };
        if pattern.is_empty() {
            return Err(PatternError::Empty);
        }
        let (anchored, parts) = clean(text);
        let mut runs = vec![Vec::new()];
        for part in parts {
            if part == b"**" {
                runs.push(Vec::new());
            } else {
                runs.last_mut().expect("never empty").push(Glob::parse(part)?);
            }
        }
        Ok(Self { negated, anchored, runs })
    }

    /// Whether it begins with `!`.
    pub fn is_negated(&self) -> bool {
        self.negated
    }

    /// Whether it matches the path or a directory above it (whatever `!` says).
    pub fn matches(&self, path: &Subject) -> bool {
        if self.anchored && !path.absolute || path.parts.is_empty() && !self.anchored {
            return false;
        }
        // The end is free, so the leftmost place of each run leaves the most room to the next.
        let mut rest = path.parts.as_slice();
        for (n, run) in self.runs.iter().enumerate() {
            let is_tied = n == 0 && self.anchored;
            let Some(end) = find(run, rest, is_tied) else { return false };
            rest = &rest[end..];
        }
        true
    }

    /// Whether it can match something below the path (whatever `!` says).
    pub fn child_may_match(&self, path: &Subject) -> bool {
        if !self.anchored {
            return true;
        }
        path.absolute && self.runs[0].iter().zip(&path.parts).all(|(glob, part)| glob.matches(part))
    }
}

/// Where the first place of `run` in `parts` ends; a tied run must stand at the front.
fn find(run: &[Glob], parts: &[&[u8]], is_tied: bool) -> Option<usize> {
    let last = parts.len().checked_sub(run.len())?;
    let starts = 0..=if is_tied { 0 } else { last };
    let stands_at = |start: &usize| run.iter().zip(&parts[*start..]).all(|(glob, part)| glob.matches(part));
    starts.into_iter().find(stands_at).map(|start| start + run.len())
}

/// Go's filepath.Clean: empty components and `.` go, `x/..` goes, `..` at the root goes.
fn clean(text: &[u8]) -> (bool, Vec<&[u8]>) {
    let anchored = text.first() == Some(&b'/');
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in text.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." if parts.last().is_some_and(|last| *last != b"..") => {
                parts.pop();
            }
            b".." if anchored => {}
            part => parts.push(part),
        }
    }
    if parts.is_empty() && !anchored {
        parts.push(b".");
    }
    (anchored, parts)
}

/// What a list says about a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Match {
    /// The last pattern that matches is not a negated one.
    pub matched: bool,
    /// Something below the path may match: an include list need not look into a directory where this is false.
    pub child_may_match: bool,
}

/// Patterns in order; the last that matches wins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PatternList {
    patterns: Vec<Pattern>,
    has_negated: bool,
    case: Case,
}

/// A pattern of a list that is none.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the pattern {:?} cannot be used", String::from_utf8_lossy(pattern))]
pub struct ListError {
    /// As it was given.
    pub pattern: Vec<u8>,
    /// What is wrong with it.
    #[source]
    pub source: PatternError,
}

impl PatternList {
    /// Parses all of them; empty ones are left out.
    pub fn parse<P: AsRef<[u8]>>(patterns: impl IntoIterator<Item = P>, case: Case) -> Result<Self, ListError> {
        let mut list = Self { case, ..Self::default() };
        for pattern in patterns {
            let given = pattern.as_ref();
            if given.is_empty() {
                continue;
            }
            let text = if case == Case::Ignore { lowercase(given) } else { given.to_vec() };
            let parsed = Pattern::parse(&text).map_err(|source| ListError { pattern: given.to_vec(), source })?;
            list.has_negated |= parsed.negated;
            list.patterns.push(parsed);
        }
        Ok(list)
    }

    /// Whether it holds no pattern; then it matches nothing.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// What the list says about a path in raw bytes.
    pub fn matches(&self, path: &[u8]) -> Match {
        if self.is_empty() {
            return Match::default();
        }
        match self.case {
            Case::Exact => self.matches_subject(&Subject::new(path)),
            Case::Ignore => self.matches_subject(&Subject::new(&lowercase(path))),
        }
    }

    fn matches_subject(&self, path: &Subject) -> Match {
        let mut verdict = Match::default();
        for pattern in &self.patterns {
            let matches = pattern.matches(path);
            if pattern.negated {
                verdict.matched &= !matches;
                verdict.child_may_match &= !matches;
            } else {
                verdict.matched |= matches;
                verdict.child_may_match |= pattern.child_may_match(path);
                if verdict.matched && verdict.child_may_match && !self.has_negated {
                    break;
                }
            }
        }
        verdict
    }
}

/// Lower case character by character; bytes that are no UTF-8 stay as they are.
fn lowercase(bytes: &[u8]) -> Vec<u8> {
    let mut lower = Vec::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars().flat_map(char::to_lowercase) {
            lower.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
        }
        lower.extend_from_slice(chunk.invalid());
    }
    lower
}
