//! Lists of paths and patterns that users point at: files that anybody may have written.

use copal_engine::source::exclude::{expand_variables, parse_exclude_file};
use copal_engine::source::files_from::{parse_raw, parse_verbatim};
use copal_engine::source::pattern::{Case, PatternList};

/// Everything before the first NUL is a list, everything behind it a path to match with the patterns of the list.
pub fn run(bytes: &[u8]) {
    for path in parse_verbatim(bytes) {
        assert!(!path.as_os_str().is_empty());
    }
    if let Ok(paths) = parse_raw(bytes) {
        assert!(paths.iter().all(|path| !path.as_os_str().is_empty()));
    }
    let cut = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    let (list, path) = bytes.split_at(cut);
    let lines = parse_exclude_file(list, &|name| (!name.is_empty()).then(|| name.to_vec()));
    assert!(lines.iter().all(|line| line.len() <= list.len() * 3), "grew out of proportion");
    for case in [Case::Exact, Case::Ignore] {
        if let Ok(patterns) = PatternList::parse(&lines, case) {
            patterns.matches(path);
            patterns.matches(&[b"/", path].concat());
        }
    }
    assert!(expand_variables(list, &|_| None).len() <= list.len());
}
