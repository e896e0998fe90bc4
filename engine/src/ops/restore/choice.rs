//! Which entries of a snapshot are restored.

use crate::source::pattern::{Case, ListError, PatternList};

/// Patterns as they are given, in raw bytes; their meaning is that of [`crate::source::pattern`], and the root is what is
/// restored: of `snapshot:sub/dir`, that directory.
#[derive(Debug, Clone, Default)]
pub struct Patterns {
    /// Only what matches, and what is below it. Nothing given: everything.
    pub include: Vec<Vec<u8>>,
    /// The same, whatever the case.
    pub include_any_case: Vec<Vec<u8>>,
    /// What matches is left out, and what is below it.
    pub exclude: Vec<Vec<u8>>,
    /// The same, whatever the case.
    pub exclude_any_case: Vec<Vec<u8>>,
}

/// Checked patterns. The default chooses everything.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    include: [PatternList; 2],
    exclude: [PatternList; 2],
}

/// What is to be done with one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    /// It is restored, or removed if it is in the way.
    pub selected: bool,
    /// Something below it may be.
    pub below: bool,
}

impl Choice {
    /// Parses them.
    pub fn new(patterns: &Patterns) -> Result<Self, ListError> {
        let pair = |exact: &[Vec<u8>], any: &[Vec<u8>]| -> Result<_, ListError> {
            Ok([PatternList::parse(exact, Case::Exact)?, PatternList::parse(any, Case::Ignore)?])
        };
        Ok(Self {
            include: pair(&patterns.include, &patterns.include_any_case)?,
            exclude: pair(&patterns.exclude, &patterns.exclude_any_case)?,
        })
    }

    /// Whether nothing is left out.
    pub(super) fn is_everything(&self) -> bool {
        self.include.iter().chain(&self.exclude).all(PatternList::is_empty)
    }

    /// On a path that begins with `/`. What is excluded is so with all below it, whatever is included.
    pub(super) fn of(&self, path: &[u8]) -> Verdict {
        if self.exclude.iter().any(|list| list.matches(path).matched) {
            return Verdict { selected: false, below: false };
        }
        if self.include.iter().all(PatternList::is_empty) {
            return Verdict { selected: true, below: true };
        }
        let matches = self.include.each_ref().map(|list| list.matches(path));
        Verdict { selected: matches.iter().any(|m| m.matched), below: matches.iter().any(|m| m.child_may_match) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(include: &[&str], include_any: &[&str], exclude: &[&str], exclude_any: &[&str]) -> Choice {
        let list = |patterns: &[&str]| patterns.iter().map(|p| p.as_bytes().to_vec()).collect();
        let patterns = Patterns {
            include: list(include),
            include_any_case: list(include_any),
            exclude: list(exclude),
            exclude_any_case: list(exclude_any),
        };
        Choice::new(&patterns).unwrap()
    }

    #[track_caller]
    fn is(choice: &Choice, path: &str, selected: bool, below: bool) {
        assert_eq!(choice.of(path.as_bytes()), Verdict { selected, below }, "{path}");
    }

    #[test]
    fn nothing_given_is_everything() {
        let all = Choice::default();
        assert!(all.is_everything());
        is(&all, "/a/b", true, true);
    }

    #[test]
    fn includes_look_for_more_below() {
        let some = choice(&["/a/b"], &["*.TXT"], &[], &[]);
        assert!(!some.is_everything());
        is(&some, "/a", false, true);
        is(&some, "/a/b/c", true, true);
        is(&some, "/x/Note.txt", true, true);
        let tied = choice(&["/a/b"], &[], &[], &[]);
        is(&tied, "/x", false, false);
    }

    #[test]
    fn excludes_win_with_all_below() {
        let but = choice(&["/a"], &[], &["b"], &["CACHE"]);
        is(&but, "/a/x", true, true);
        is(&but, "/a/b", false, false);
        is(&but, "/a/b/x", false, false);
        is(&but, "/a/Cache", false, false);
        assert!(choice(&[], &[], &["!x", "y"], &[]).of(b"/x").selected);
    }
}
