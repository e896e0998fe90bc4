//! Groups of snapshots: by what, and how a group is called.

use anyhow::Result;
use copal_engine::id::hex;
use copal_engine::ops::forget::{GroupBy, GroupKey};

use crate::errors::usage;
use crate::output::{lossy, shown};

/// `--group-by`: host, paths and tags, in any order.
pub(crate) fn parse(text: &str) -> Result<GroupBy> {
    let mut by = GroupBy::default();
    for word in text.split(',').filter(|word| !word.is_empty()) {
        match word {
            "host" => by.host = true,
            "path" | "paths" => by.paths = true,
            "tag" | "tags" => by.tags = true,
            other => return Err(usage(format!("snapshots are grouped by host, paths and tags, not by {other:?}"))),
        }
    }
    Ok(by)
}

/// The group for people. What this key cannot read is shown by the first digits of its hash.
pub(crate) fn title(by: GroupBy, key: &GroupKey) -> String {
    let text = |bytes: &Vec<u8>| if key.named { shown(bytes) } else { digits(bytes) };
    let list = |list: &[Vec<u8>]| list.iter().map(text).collect::<Vec<_>>().join(", ");
    let parts =
        [(by.host, "host", text(&key.host)), (by.paths, "paths", list(&key.paths)), (by.tags, "tags", list(&key.tags))];
    let parts: Vec<String> =
        parts.into_iter().filter(|part| part.0).map(|(_, what, text)| format!("{what} {text}")).collect();
    if parts.is_empty() { "all snapshots".into() } else { parts.join("; ") }
}

/// Host, paths and tags for JSON.
pub(crate) fn fields(key: &GroupKey) -> (String, Vec<String>, Vec<String>) {
    let text = |bytes: &Vec<u8>| match key.named || bytes.is_empty() {
        true => lossy(bytes),
        false => hex(bytes),
    };
    let list = |list: &[Vec<u8>]| list.iter().map(text).collect();
    (text(&key.host), list(&key.paths), list(&key.tags))
}

fn digits(hash: &[u8]) -> String {
    format!("#{}", hex(&hash[..hash.len().min(4)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_named() {
        assert_eq!(parse("host,paths").unwrap(), GroupBy { host: true, paths: true, tags: false });
        assert_eq!(parse("").unwrap(), GroupBy::default());
        assert!(parse("colour").is_err());
        let by = GroupBy { host: true, ..GroupBy::default() };
        let key = |named| GroupKey { named, host: b"h\x1bst1".to_vec(), ..GroupKey::default() };
        assert_eq!(
            (title(by, &key(true)), title(by, &key(false))),
            ("host h\\u{1b}st1".into(), "host #681b7374".into())
        );
        assert_eq!(title(GroupBy::default(), &GroupKey::default()), "all snapshots");
    }
}
