//! Which number a name of a user or group has on this machine.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use crate::format::node::Metadata;

/// Names of users and groups and their numbers here. Empty: numbers are used as they were stored.
///
/// Only the two files are read: other sources (LDAP, …) would need the C library's plug-ins, which a static binary lacks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// User name to user id.
    pub users: HashMap<Vec<u8>, u32>,
    /// Group name to group id.
    pub groups: HashMap<Vec<u8>, u32>,
}

impl Names {
    /// Reads `passwd` and `group` in `etc`; a file that is missing or unreadable knows no names.
    pub fn load(etc: &Path) -> Self {
        let read = |file: &str| fs::read(etc.join(file)).map(|bytes| parse(&bytes)).unwrap_or_default();
        Self { users: read("passwd"), groups: read("group") }
    }

    /// Owner and group that `metadata` asks for.
    pub fn owner(&self, metadata: &Metadata) -> (u32, u32) {
        let uid = self.users.get(&metadata.user).copied().unwrap_or(metadata.uid);
        let gid = self.groups.get(&metadata.group).copied().unwrap_or(metadata.gid);
        (uid, gid)
    }
}

/// First and third field of each line of passwd(5) or group(5); lines without a name or a number are passed over.
fn parse(bytes: &[u8]) -> HashMap<Vec<u8>, u32> {
    let mut names = HashMap::new();
    for line in bytes.split(|&byte| byte == b'\n') {
        let mut fields = line.split(|&byte| byte == b':');
        let (Some(name), Some(id)) = (fields.next(), fields.nth(1)) else { continue };
        let id = std::str::from_utf8(id).ok().and_then(|id| id.parse().ok());
        if let (false, Some(id)) = (name.is_empty(), id) {
            names.entry(name.to_vec()).or_insert(id);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_passwd_lines() {
        let names = parse(
            b"root:x:0:0:root:/root:/bin/sh\n\n# note\n+::::::\nbob:x:1001:7::/:\nbob:x:9:7::/:\nbad:x:-1:0\nx:y",
        );
        assert_eq!(names, HashMap::from([(b"root".to_vec(), 0), (b"bob".to_vec(), 1001)]));
    }
}
