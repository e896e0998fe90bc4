//! An entry of a snapshot as it is shown.

use copal_engine::format::node::{Metadata, NodeKind};
use copal_engine::repo::Node;
use serde_json::{Value, json};

use crate::output::{lossy, shown};
use crate::{size, time};

/// restic's word for what an entry is.
pub(crate) fn kind(node: &NodeKind) -> &'static str {
    match node {
        NodeKind::File { .. } => "file",
        NodeKind::Dir => "dir",
        NodeKind::Symlink { .. } => "symlink",
        NodeKind::Fifo => "fifo",
        NodeKind::Socket => "socket",
        NodeKind::CharDevice { .. } => "chardev",
        NodeKind::BlockDevice { .. } => "dev",
    }
}

/// As `ls -l` writes it: `drwxr-xr-t`.
pub(crate) fn permissions(metadata: &Metadata) -> String {
    let first = match metadata.kind {
        NodeKind::File { .. } => '-',
        NodeKind::Dir => 'd',
        NodeKind::Symlink { .. } => 'l',
        NodeKind::Fifo => 'p',
        NodeKind::Socket => 's',
        NodeKind::CharDevice { .. } => 'c',
        NodeKind::BlockDevice { .. } => 'b',
    };
    let mut text = String::from(first);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = metadata.mode >> shift & 7;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (metadata.mode & special != 0, bits & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, false) => letter.to_ascii_uppercase(),
            (true, true) => letter,
        });
    }
    text
}

/// The mode as Go's os.FileMode has it, because restic's JSON does: type in the high bits, permissions in the low nine.
fn go_mode(metadata: &Metadata) -> u32 {
    let kind = match metadata.kind {
        NodeKind::File { .. } => 0,
        NodeKind::Dir => 1 << 31,
        NodeKind::Symlink { .. } => 1 << 27,
        NodeKind::Fifo => 1 << 25,
        NodeKind::Socket => 1 << 24,
        NodeKind::CharDevice { .. } => 1 << 26 | 1 << 21,
        NodeKind::BlockDevice { .. } => 1 << 26,
    };
    let special = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let special: u32 = special.iter().filter(|(bit, _)| metadata.mode & bit != 0).map(|(_, go)| go).sum();
    kind | special | metadata.mode & 0o777
}

/// Fields as in restic's `ls`; `path` is absolute in the snapshot.
pub(crate) fn to_json(path: &[u8], node: &Node) -> Value {
    let m = &node.metadata;
    let mut value = json!({
        "name": lossy(&node.name),
        "type": kind(&m.kind),
        "path": lossy(path),
        "uid": m.uid,
        "gid": m.gid,
        "user": lossy(&m.user),
        "group": lossy(&m.group),
        "mode": go_mode(m),
        "permissions": permissions(m),
        "mtime": time::rfc3339(m.mtime),
        "atime": time::rfc3339(m.atime),
        "ctime": time::rfc3339(m.ctime),
    });
    if let Some(btime) = m.btime {
        value["btime"] = time::rfc3339(btime).into();
    }
    if let NodeKind::File { size } = m.kind {
        value["size"] = size.into();
    }
    if let Some(inode) = m.inode.or(m.hardlink.map(|l| l.ino)) {
        value["inode"] = inode.into();
    }
    if let NodeKind::Symlink { target } = &m.kind {
        value["linktarget"] = lossy(target).into();
    }
    value
}

/// One line for people; long as `ls -l`.
pub(crate) fn line(path: &[u8], node: &Node, long: bool, human: bool) -> String {
    if !long {
        return shown(path);
    }
    let m = &node.metadata;
    let owner = |name: &[u8], id: u32| if name.is_empty() { id.to_string() } else { shown(name) };
    let size = if human { size::show(node.size()) } else { node.size().to_string() };
    let target = match &m.kind {
        NodeKind::Symlink { target } => format!(" -> {}", shown(target)),
        _ => String::new(),
    };
    format!(
        "{} {:>8} {:>8} {size:>12} {} {}{target}",
        permissions(m),
        owner(&m.user, m.uid),
        owner(&m.group, m.gid),
        time::short(m.mtime),
        shown(path)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(kind: NodeKind, mode: u32) -> Metadata {
        let zero = Default::default();
        Metadata {
            kind,
            mode,
            uid: 0,
            gid: 0,
            user: Vec::new(),
            group: Vec::new(),
            mtime: zero,
            atime: zero,
            ctime: zero,
            btime: None,
            inode: None,
            hardlink: None,
            xattrs: Vec::new(),
            flags: 0,
            project: 0,
        }
    }

    #[test]
    fn modes_in_letters_and_as_go_has_them() {
        for (kind, mode, letters, go) in [
            (NodeKind::File { size: 1 }, 0o4755, "-rwsr-xr-x", 0o755 | 1 << 23),
            (NodeKind::File { size: 1 }, 0o2644, "-rw-r-Sr--", 0o644 | 1 << 22),
            (NodeKind::Dir, 0o1777, "drwxrwxrwt", 0o777 | 1 << 31 | 1 << 20),
            (NodeKind::Symlink { target: b"x".to_vec() }, 0o777, "lrwxrwxrwx", 0o777 | 1 << 27),
            (NodeKind::CharDevice { rdev: 1 }, 0o600, "crw-------", 0o600 | 1 << 26 | 1 << 21),
        ] {
            let metadata = metadata(kind, mode);
            assert_eq!((permissions(&metadata).as_str(), go_mode(&metadata)), (letters, go));
        }
    }
}
