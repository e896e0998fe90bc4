//! Under which paths a snapshot stands in the top directories: templates, and text made safe to be a name.

use crate::error::{Error, Result};
use crate::format::node::{NAME_BYTES_MAX, Timestamp};
use crate::repo::Snapshot;

/// The templates in use where none is given.
pub const DEFAULT_TEMPLATES: [&str; 4] = ["ids/%i", "snapshots/%T", "hosts/%h/%T", "tags/%t/%T"];

/// A path with placeholders: `%i` short id, `%I` full id, `%u` user, `%h` host, `%t` tag (one path for each tag, none
/// without tags), `%T` time, `%%` a percent sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Vec<Part>>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    ShortId,
    Id,
    User,
    Host,
    Tag,
    Time,
}

impl Template {
    /// Reads `text`. Refuses unknown placeholders, absolute paths, and components that are empty, `.` or `..`.
    pub fn parse(text: &str) -> Result<Self> {
        let components = text.split('/').map(|c| component(text, c)).collect::<Result<_>>()?;
        Ok(Self(components))
    }

    /// Whether the last component is the time alone: beside such entries stands `latest`.
    pub(super) fn ends_in_time(&self) -> bool {
        self.0.last().is_some_and(|last| last == &[Part::Time])
    }

    /// Its first component, where that is a directory and the same for every snapshot.
    pub(super) fn first_dir(&self) -> Option<Vec<u8>> {
        match (&self.0[0][..], self.0.len()) {
            ([Part::Text(name)], 2..) => Some(safe_name(name.clone().into_bytes())),
            _ => None,
        }
    }

    /// The paths of `snapshot`, as names that a directory may hold.
    pub(super) fn paths(&self, snapshot: &Snapshot, time: &dyn Fn(Timestamp) -> String) -> Vec<Vec<Vec<u8>>> {
        let none = Vec::new();
        let labels = snapshot.names.as_ref().map_or(&none, |n| &n.labels);
        match self.0.iter().flatten().any(|p| *p == Part::Tag) {
            true => labels.iter().map(|label| self.path(snapshot, label, time)).collect(),
            false => vec![self.path(snapshot, b"", time)],
        }
    }

    fn path(&self, snapshot: &Snapshot, label: &[u8], time: &dyn Fn(Timestamp) -> String) -> Vec<Vec<u8>> {
        let names = snapshot.names.as_ref();
        let fill = |part: &Part| match part {
            Part::Text(text) => text.clone().into_bytes(),
            Part::ShortId => snapshot.id().short().into_bytes(),
            Part::Id => snapshot.id().to_string().into_bytes(),
            Part::User => names.map_or_else(Vec::new, |n| n.user.clone()),
            Part::Host => names.map_or_else(Vec::new, |n| n.host.clone()),
            Part::Tag => label.to_vec(),
            Part::Time => time(snapshot.graph.time).into_bytes(),
        };
        self.0.iter().map(|c| safe_name(c.iter().flat_map(fill).collect())).collect()
    }
}

fn component(template: &str, text: &str) -> Result<Vec<Part>> {
    let bad = |how: &str| Error::Invalid(format!("{template:?} is no path template: {how}"));
    if text.is_empty() || text == "." || text == ".." {
        return Err(bad("every component needs a name; write it like hosts/%h/%T"));
    }
    let (mut parts, mut plain) = (Vec::new(), String::new());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let part = match c {
            '%' => match chars.next() {
                Some('i') => Part::ShortId,
                Some('I') => Part::Id,
                Some('u') => Part::User,
                Some('h') => Part::Host,
                Some('t') => Part::Tag,
                Some('T') => Part::Time,
                Some('%') => {
                    plain.push('%');
                    continue;
                }
                _ => return Err(bad("after % it knows i I u h t T and %")),
            },
            '\0' => return Err(bad("it has a NUL")),
            c => {
                plain.push(c);
                continue;
            }
        };
        if !plain.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut plain)));
        }
        parts.push(part);
    }
    if !plain.is_empty() {
        parts.push(Part::Text(plain));
    }
    Ok(parts)
}

/// `text` as one name: hosts and tags are whatever somebody typed.
fn safe_name(mut text: Vec<u8>) -> Vec<u8> {
    match &text[..] {
        b"" | b"." => return b"_".to_vec(),
        b".." => return b"__".to_vec(),
        _ => {}
    }
    text.iter_mut().filter(|b| matches!(**b, b'/' | 0)).for_each(|b| *b = b'_');
    text.truncate(NAME_BYTES_MAX - SUFFIX_BYTES);
    text
}

/// Room for what [`numbered`] appends.
const SUFFIX_BYTES: usize = 12;

/// `name` when `n` is 0, else a variant of it for another snapshot of the same name.
pub(super) fn numbered(name: &[u8], n: usize) -> Vec<u8> {
    match n {
        0 => name.to_vec(),
        n => [name, format!("-{n}").as_bytes()].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_checked() {
        assert!(Template::parse("hosts/%h/%T").unwrap().ends_in_time());
        assert!(!Template::parse("x/%T-%i").unwrap().ends_in_time());
        assert_eq!(Template::parse("100%%").unwrap(), Template(vec![vec![Part::Text("100%".into())]]));
        for bad in ["", "/a", "a//b", "a/", "a/../b", "%x", "a%"] {
            assert!(Template::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn whatever_somebody_typed_becomes_a_name() {
        for (text, name) in [("", "_"), (".", "_"), ("..", "__"), ("a/b", "a_b"), ("...", "..."), ("a\0", "a_")] {
            assert_eq!(safe_name(text.as_bytes().to_vec()), name.as_bytes());
        }
        assert!(numbered(&safe_name(vec![b'x'; 999]), 999_999).len() <= NAME_BYTES_MAX);
    }
}
