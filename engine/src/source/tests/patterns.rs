//! Patterns against what restic's documentation and its filter say.

use proptest::prelude::*;

use crate::source::pattern::{Case, Match, Pattern, PatternError, PatternList, Subject};

fn matches(pattern: &str, path: &str) -> bool {
    Pattern::parse(pattern).unwrap().matches(&Subject::new(path.as_bytes()))
}

fn list(patterns: &[&str], case: Case, path: &str) -> Match {
    PatternList::parse(patterns, case).unwrap().matches(path.as_bytes())
}

#[test]
fn examples_of_the_documentation() {
    let table = [
        ("foo", "/dir1/foo/dir2/file", true),
        ("foo", "/dir/foo", true),
        ("foo", "/dir/foobar", false),
        ("foo", "barfoo", false),
        ("/bin", "/bin/bash", true),
        ("/bin", "/usr/bin/restic", false),
        ("b*ash", "/bin/bash", true),
        ("b*ash", "/bin/ash", false),
        ("foo/**/bar", "/dir1/foo/dir2/bar/file", true),
        ("foo/**/bar", "/foo/bar/file", true),
        ("foo/**/bar", "/tmp/foo/bar", true),
        ("/home/user/repos/**/target", "/home/user/repos/repo1/target", true),
        ("/home/user/repos/**/target", "/home/user/repos/repo2_workspace/project1/target", true),
        ("/home/user/repos/**/target", "/home/user/repos/repo3/bin", false),
        ("foo bar star/foo.txt", "/x/foo bar star/foo.txt", true),
    ];
    for (pattern, path, expected) in table {
        assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
    }
}

#[test]
fn a_selection_inside_home() {
    let patterns = ["/home/bob/*", "!/home/bob/Documents", "!/home/bob/.emacs.d", "node_modules", "*~"];
    let excluded = |path| list(&patterns, Case::Exact, path).matched;
    assert!(!excluded("/home/bob"));
    assert!(excluded("/home/bob/Music") && excluded("/home/bob/Music/a"));
    assert!(!excluded("/home/bob/Documents") && !excluded("/home/bob/Documents/letter"));
    assert!(excluded("/home/bob/Documents/letter~") && excluded("/home/bob/.emacs.d/node_modules/x"));
}

/// The tables of restic's internal/filter (BSD 2-Clause), but for the empty pattern, which is none here.
#[test]
fn matches_as_restic() {
    let table = [
        ("*.go", "/foo/bar/test.go", true),
        ("*.c", "/foo/bar/test.go", false),
        ("*", "/foo/bar/test.go", true),
        ("**", "/foo/bar/test.go", true),
        ("foo*", "/foo/bar/test.go", true),
        ("bar*", "/foo/bar/test.go", true),
        ("/bar*", "/foo/bar/test.go", false),
        ("bar/*", "/foo/bar/test.go", true),
        ("baz/*", "/foo/bar/test.go", false),
        ("bar/test.go", "/foo/bar/test.go", true),
        ("bar/*.go", "/foo/bar/test.go", true),
        ("ba*/*.go", "/foo/bar/test.go", true),
        ("bb*/*.go", "/foo/bar/test.go", false),
        ("test.*", "/foo/bar/test.go", true),
        ("tesT.*", "/foo/bar/test.go", false),
        ("bar/*", "/foo/bar/baz", true),
        ("bar", "/foo/bar", true),
        ("/foo/bar", "/foo/bar", true),
        ("/foo/bar/", "/foo/bar", true),
        ("/foo/bar", "/foo/baz", false),
        ("/foo/bar", "/foo/baz/", false),
        ("/foo///bar", "/foo/bar", true),
        ("/foo/../bar", "/foo/bar", false),
        ("/foo/../bar", "/bar", true),
        ("/foo", "/foo/baz", true),
        ("/foo/", "/foo/baz", true),
        ("/foo/*", "/foo", false),
        ("/foo/*", "/foo/baz", true),
        ("bar", "/foo/bar/baz", true),
        ("bar", "/foo/bar/test.go", true),
        ("/foo/*test.*", "/foo/bar/test.go", false),
        ("/foo/*/test.*", "/foo/bar/test.go", true),
        ("/foo/*/bar/test.*", "/foo/bar/test.go", false),
        ("/*/*/bar/test.*", "/foo/bar/test.go", false),
        ("/*/*/bar/test.*", "/foo/bar/baz/test.go", false),
        ("/*/*/baz/test.*", "/foo/bar/baz/test.go", true),
        ("/*/foo/bar/test.*", "/foo/bar/baz/test.go", false),
        ("/*/foo/bar/test.*", "/foo/bar/baz/test.go", false),
        ("/foo/bar/test.*", "bar/baz/test.go", false),
        ("/x/y/bar/baz/test.*", "bar/baz/test.go", false),
        ("/x/y/bar/baz/test.c", "bar/baz/test.go", false),
        ("baz/test.*", "bar/baz/test.go", true),
        ("baz/tesT.*", "bar/baz/test.go", false),
        ("test.go", "bar/baz/test.go", true),
        ("*.go", "bar/baz/test.go", true),
        ("*.c", "bar/baz/test.go", false),
        ("sdk", "/foo/bar/sdk", true),
        ("sdk", "/foo/bar/sdk/test/sdk_foo.go", true),
        ("sdk/*/cpp/*/*vars*.html", "/usr/share/doc/libreoffice/sdk/docs/cpp/ref/a00517.html", false),
        ("foo/**/bar/*.go", "/home/user/foo/work/special/project/bar/test.go", true),
        ("foo/**/bar/*.go", "/home/user/foo/bar/test.go", true),
        ("foo/**/bar/*.go", "x/foo/bar/test.go", true),
        ("foo/**/bar/*.go", "foo/bar/test.go", true),
        ("foo/**/bar/*.go", "foo/bar/baz/bar/test.go", true),
        ("foo/**/bar/*.go", "/home/user/foo/test.c", false),
        ("foo/**/bar/*.go", "bar/foo/main.go", false),
        ("foo/**/bar/*.go", "/foo/bar/main.go", true),
        ("foo/**/bar/*.go", "bar/main.go", false),
        ("foo/**/bar", "/home/user/foo/x/y/bar", true),
        ("foo/**/bar", "/home/user/foo/x/y/bar/main.go", true),
        ("foo/**/bar/**/x", "/home/user/foo/bar/x", true),
        ("foo/**/bar/**/x", "/home/user/foo/blaaa/blaz/bar/shared/work/x", true),
        ("user/**/important*", "/home/user/work/x/y/hidden/x", false),
        ("user/**/hidden*/**/c", "/home/user/work/x/y/hidden/z/a/b/c", true),
        ("c:/foo/*test.*", "c:/foo/bar/test.go", false),
        ("c:/foo", "c:/foo/bar", true),
        ("c:/foo/", "c:/foo/bar", true),
        ("c:/foo/*/test.*", "c:/foo/bar/test.go", true),
        ("c:/foo/*/bar/test.*", "c:/foo/bar/test.go", false),
    ];
    for (pattern, path, expected) in table {
        assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
    }
}

#[test]
fn children_may_match_as_restic() {
    let table = [
        ("foo/bar", "/foo", true),
        ("baz/bar", "/foo", true),
        ("foo", "/foo/bar", true),
        ("bar", "/foo", true),
        ("baz", "/foo/bar", true),
        ("*", "/foo", true),
        ("*", "/foo/bar", true),
        ("/foo/bar", "/foo", true),
        ("/foo/bar/baz", "/foo", true),
        ("/foo/bar/baz", "/foo/bar", true),
        ("/foo/bar/baz", "/foo/baz", false),
        ("/foo/**/baz", "/foo/bar/baz", true),
        ("/foo/**/baz", "/foo/bar/baz/blah", true),
        ("/foo/**/qux", "/foo/bar/baz/qux", true),
        ("/foo/**/qux", "/foo/bar/baz", true),
        ("/foo/**/qux", "/foo/bar/baz/boo", true),
        ("/foo/**", "/foo/bar/baz", true),
        ("/foo/**", "/foo/bar", true),
        ("foo/**/bar/**/x", "/home/user/foo", true),
        ("foo/**/bar/**/x", "/home/user/foo/bar", true),
        ("foo/**/bar/**/x", "/home/user/foo/blaaa/blaz/bar/shared/work/x", true),
        ("/foo/*/qux", "/foo/bar", true),
        ("/foo/*/qux", "/foo/bar/boo", false),
        ("/foo/*/qux", "/foo/bar/boo/xx", false),
        ("/baz/bar", "/foo", false),
        ("/foo", "/foo/bar", true),
        ("/*", "/foo", true),
        ("/*", "/foo/bar", true),
        ("/foo", "/foo/bar", true),
        ("/**", "/foo", true),
        ("/*/**", "/foo", true),
        ("/*/**", "/foo/bar", true),
        ("/*/bar", "/foo", true),
        ("/bar/*", "/foo", false),
        ("/foo/*/baz", "/foo/bar", true),
        ("/foo/*/baz", "/foo/baz", true),
        ("/foo/*/baz", "/bar/baz", false),
        ("/**/*", "/foo", true),
        ("/**/bar", "/foo/bar", true),
    ];
    for (pattern, path, expected) in table {
        let got = Pattern::parse(pattern).unwrap().child_may_match(&Subject::new(path.as_bytes()));
        assert_eq!(got, expected, "{pattern} {path}");
    }
}

#[test]
fn lists_match_as_restic() {
    let table: &[(&[&str], &str, bool, bool)] = &[
        (&[], "/foo/bar/test.go", false, false),
        (&["*.go"], "/foo/bar/test.go", true, true),
        (&["*.go"], "/foo/bar", false, true),
        (&["*.c"], "/foo/bar/test.go", false, true),
        (&["*.go", "*.c"], "/foo/bar/test.go", true, true),
        (&["*"], "/foo/bar/test.go", true, true),
        (&["x"], "/foo/bar/test.go", false, true),
        (&["?"], "/foo/bar/test.go", false, true),
        (&["?", "x"], "/foo/bar/x", true, true),
        (&["/*/*/bar/test.*"], "/foo/bar/test.go", false, false),
        (&["/*/*/bar/test.*"], "/foo/bar/bar", false, true),
        (&["/*/*/bar/test.*", "*.go"], "/foo/bar/test.go", true, true),
        (&["", "*.c"], "/foo/bar/test.go", false, true),
        (&["!**", "*.go"], "/foo/bar/test.go", true, true),
        (&["!**", "*.c"], "/foo/bar/test.go", false, true),
        (&["/foo/*/test.*", "!*.c"], "/foo/bar/test.c", false, false),
        (&["/foo/*/test.*", "!*.c"], "/foo/bar/test.go", true, true),
        (&["/foo/*/*", "!test.*", "*.c"], "/foo/bar/test.go", false, true),
        (&["/foo/*/*", "!test.*", "*.c"], "/foo/bar/test.c", true, true),
        (&["/foo/*/*", "!test.*", "*.c"], "/foo/bar/file.go", true, true),
        (&["/**/*", "!/foo", "/foo/*", "!/foo/bar"], "/foo/other/test.go", true, true),
        (&["/**/*", "!/foo", "/foo/*", "!/foo/bar"], "/foo/bar", false, false),
        (&["/**/*", "!/foo", "/foo/*", "!/foo/bar"], "/foo/bar/test.go", false, false),
        (&["/**/*", "!/foo", "/foo/*", "!/foo/bar"], "/foo/bar/test.go/child", false, false),
        (&["/**/*", "!/foo", "/foo/*", "!/foo/bar", "/foo/bar/test*"], "/foo/bar/test.go/child", true, true),
        (&["/foo/bar/*"], "/foo", false, true),
        (&["/foo/bar/*", "!/foo/bar/[a-m]*"], "/foo", false, true),
        (&["/foo/**/test.c"], "/foo/bar/foo/bar/test.c", true, true),
        (&["/foo/*/test.c"], "/foo/bar/foo/bar/test.c", false, false),
    ];
    for &(patterns, path, matched, child_may_match) in table {
        assert_eq!(list(patterns, Case::Exact, path), Match { matched, child_may_match }, "{patterns:?} {path}");
    }
}

#[test]
fn dots_are_resolved_as_text() {
    let table = [
        ("/../bar", "/bar", true),
        ("/./a//b/", "/a/b", true),
        ("a/./b", "/a/b", true),
        ("x/../a", "/a", true),
        ("../a", "/a", false),
        (".", "/a", false),
        ("/", "/a", true),
        ("/..", "/a", true),
    ];
    for (pattern, path, expected) in table {
        assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
    }
}

#[test]
fn bad_patterns_are_refused() {
    assert_eq!(Pattern::parse(""), Err(PatternError::Empty));
    for bad in ["test/[", "test/**/[", "*[._]log[.-][0-9]", "!*[._]log[.-][0-9]", "a/\\"] {
        assert!(Pattern::parse(bad).is_err(), "{bad}");
    }
    let error = PatternList::parse(["ok", "A["], Case::Ignore).unwrap_err();
    assert_eq!(error.pattern, b"A[", "named as it was given");
}

#[test]
fn case_is_ignored_only_where_asked() {
    for (pattern, path) in
        [("*.JPG", "/a/b.jpg"), ("/HOME", "/home/x"), ("straSSE", "/STRAsse"), ("\u{c4}[A-C]", "/\u{e4}B")]
    {
        assert!(list(&[pattern], Case::Ignore, path).matched, "{pattern} {path}");
        assert!(!list(&[pattern], Case::Exact, path).matched, "{pattern} {path}");
    }
    let raw = PatternList::parse([b"A\xff"], Case::Ignore).unwrap();
    assert!(raw.matches(b"/a\xff").matched && !raw.matches(b"/a\xfe").matched);
}

#[test]
fn every_split_of_several_double_stars_is_found() {
    assert!(matches("/a/**/b/**/c", "/a/x/b/c"));
    assert!(matches("/a/**/b/**/c", "/a/b/x/c"));
    assert!(matches("/**/b/**", "/a/b"));
    assert!(matches("**/**", "/a"));
    assert!(!matches("/a/**/b/**/c", "/a/x/c/b"));
    assert!(matches("/a/**/b/c", "/a/b/x/b/c"), "the first b is not the one");
}

/// restic's match() without its early stop: each `**` is tried as 0, 1, … components `*`, the rest at every offset.
fn oracle(anchored: bool, parts: &[&str], path: &[&str]) -> bool {
    if let Some(at) = parts.iter().position(|part| *part == "**") {
        return (0..=path.len()).any(|count| {
            let expanded = [&parts[..at], &vec!["*"; count], &parts[at + 1..]].concat();
            oracle(anchored, &expanded, path)
        });
    }
    if parts.is_empty() {
        return anchored;
    }
    let fits = |offset: usize| {
        offset + parts.len() <= path.len()
            && parts.iter().zip(&path[offset..]).all(|(part, name)| *part == "*" || part == name)
    };
    if anchored { fits(0) } else { (0..path.len()).any(fits) }
}

proptest! {
    #[test]
    fn same_as_restics_expansion(
        anchored: bool,
        parts in prop::collection::vec(prop::sample::select(vec!["a", "b", "*", "**"]), 1..6),
        path in prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..7),
    ) {
        let pattern = format!("{}{}", if anchored { "/" } else { "" }, parts.join("/"));
        let expected = oracle(anchored, &parts, &path);
        prop_assert_eq!(matches(&pattern, &format!("/{}", path.join("/"))), expected, "{}", pattern);
    }

    /// An include walk looks for matches only where they may be; if this were wrong it would miss files.
    #[test]
    fn a_match_is_never_hidden_behind_its_parents(
        anchored: bool,
        parts in prop::collection::vec(prop::sample::select(vec!["a", "b", "*", "**", "[ab]"]), 1..6),
        path in prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..7),
    ) {
        let pattern = Pattern::parse(format!("{}{}", if anchored { "/" } else { "" }, parts.join("/"))).unwrap();
        let at = |len: usize| format!("/{}", path[..len].join("/"));
        if pattern.matches(&Subject::new(at(path.len()).as_bytes())) {
            for len in 0..path.len() {
                prop_assert!(pattern.child_may_match(&Subject::new(at(len).as_bytes())), "{}", at(len));
            }
        }
    }

    #[test]
    fn never_panics(pattern in prop::collection::vec(any::<u8>(), 0..30), path in prop::collection::vec(any::<u8>(), 0..30)) {
        for case in [Case::Exact, Case::Ignore] {
            if let Ok(list) = PatternList::parse([&pattern], case) {
                list.matches(&path);
            }
        }
    }
}
