//! Names of users and groups, from /etc/passwd and /etc/group.
//!
//! The files are parsed here because a static binary has no name service: accounts that exist only in LDAP or SSSD have a
//! number and no name. Read once per run, so that a lookup is a plain map access from any thread.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::path::Path;

/// Longer names than this are not kept (useradd allows 32 bytes, the kernel none).
const NAME_BYTES_MAX: usize = 255;
/// Larger account files are read only so far.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Numbers to names.
#[derive(Debug, Default)]
pub(super) struct Owners {
    users: HashMap<u32, Vec<u8>>,
    groups: HashMap<u32, Vec<u8>>,
}

impl Owners {
    /// Those of this machine. A file that is missing or unreadable means no names.
    pub(super) fn of_this_machine() -> Self {
        Self { users: read(Path::new("/etc/passwd")), groups: read(Path::new("/etc/group")) }
    }

    /// Name of a user, empty if it has none.
    pub(super) fn user(&self, uid: u32) -> Vec<u8> {
        self.users.get(&uid).cloned().unwrap_or_default()
    }

    /// Name of a group, empty if it has none.
    pub(super) fn group(&self, gid: u32) -> Vec<u8> {
        self.groups.get(&gid).cloned().unwrap_or_default()
    }
}

fn read(path: &Path) -> HashMap<u32, Vec<u8>> {
    let mut bytes = Vec::new();
    match fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)) {
        Ok(_) => parse(&bytes),
        Err(_) => HashMap::new(),
    }
}

/// Lines `name:password:number:…`; of several names of one number the first counts, as for getpwuid.
fn parse(bytes: &[u8]) -> HashMap<u32, Vec<u8>> {
    let mut names = HashMap::new();
    for line in bytes.split(|&b| b == b'\n') {
        let mut fields = line.split(|&b| b == b':');
        let (Some(name), Some(_), Some(number)) = (fields.next(), fields.next(), fields.next()) else { continue };
        // `+` and `-` lines belong to NIS, `#` to comments.
        if name.is_empty() || name.len() > NAME_BYTES_MAX || matches!(name[0], b'+' | b'-' | b'#') {
            continue;
        }
        let Some(number) = std::str::from_utf8(number).ok().and_then(|n| n.parse().ok()) else { continue };
        names.entry(number).or_insert_with(|| name.to_vec());
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_of_two_names_counts_and_nonsense_does_not() {
        let text = b"root:x:0:0::/root:/bin/sh\ntoor:x:0:0::/:\n# c:x:1:1\n+nis:x:2:2\n:x:3:3\nb:x:-4:\nc:x\n\
            d\xff:x:4294967295:1::\nlast:x:9";
        let names = parse(text);
        assert_eq!(names.len(), 3);
        assert_eq!(names[&0], b"root");
        assert_eq!(names[&u32::MAX], b"d\xff");
        assert_eq!(names[&9], b"last");
    }

    #[test]
    fn root_is_known_here() {
        let owners = Owners::of_this_machine();
        assert_eq!(owners.user(0), b"root");
        assert_eq!(owners.group(0), b"root");
        assert_eq!(owners.user(3_999_999_999), b"");
    }
}
