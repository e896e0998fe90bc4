//! Extended attributes: which of them we manage, and how they are put on an inode and read back.

use rustix::fs::XattrFlags;
use rustix::io::{Errno, Result};

use super::Options;
use super::handle::{Inode, Reach};
use crate::format::node::{ACL_COPIES, Metadata};

/// The attribute that holds a file's capabilities.
pub(super) const CAPABILITY: &[u8] = b"security.capability";
/// The access list of an inode.
pub(super) const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
/// The access list that new entries of a directory inherit.
pub(super) const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";

/// Whether the user asked to leave `name` out.
pub(super) fn is_excluded(options: &Options, name: &[u8]) -> bool {
    (options.no_setuid && name == CAPABILITY) || options.exclude_xattr.iter().any(|pattern| matches(pattern, name))
}

/// Whether `name` is removed from an existing inode when the snapshot lacks it.
///
/// Labels that the system itself puts on new files (SELinux, IMA, …) are not ours to remove.
fn is_managed(name: &[u8]) -> bool {
    name.starts_with(b"user.") || name.starts_with(b"trusted.") || [CAPABILITY, ACL_ACCESS, ACL_DEFAULT].contains(&name)
}

/// Names on `inode` that `metadata` lacks and that are to be removed.
pub(super) fn surplus(inode: &Inode<'_>, metadata: &Metadata, options: &Options) -> Result<Vec<Vec<u8>>> {
    let wanted = |name: &[u8]| metadata.xattrs.iter().any(|xattr| xattr.name == name);
    // Goes with the access list that it is a copy of.
    let is_copy = |name: &[u8]| ACL_COPIES.iter().any(|(list, copy)| *copy == name && wanted(list));
    let mut names = list(inode)?;
    names.retain(|name| is_managed(name) && !is_excluded(options, name) && !wanted(name) && !is_copy(name));
    Ok(names)
}

/// All names on `inode`; empty where the file system has no extended attributes.
fn list(inode: &Inode<'_>) -> Result<Vec<Vec<u8>>> {
    let mut buffer = vec![0; 1024];
    loop {
        let listed = match inode.reach {
            Reach::Open => rustix::fs::flistxattr(inode.fd, buffer.as_mut_slice()),
            Reach::PathOnly => rustix::fs::listxattr(inode.proc_path(), buffer.as_mut_slice()),
        };
        match listed {
            Ok(len) => {
                let names = buffer[..len].split(|&byte| byte == 0).filter(|name| !name.is_empty());
                return Ok(names.map(<[u8]>::to_vec).collect());
            }
            // Linux lists at most 64 KiB; larger answers come from nowhere.
            Err(Errno::RANGE) if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 8, 0),
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(errno) => return Err(errno),
        }
    }
}

/// Sets one attribute.
pub(super) fn set(inode: &Inode<'_>, name: &[u8], value: &[u8]) -> Result<()> {
    match inode.reach {
        Reach::Open => rustix::fs::fsetxattr(inode.fd, name, value, XattrFlags::empty()),
        Reach::PathOnly => rustix::fs::setxattr(inode.proc_path(), name, value, XattrFlags::empty()),
    }
}

/// Removes one attribute.
pub(super) fn remove(inode: &Inode<'_>, name: &[u8]) -> Result<()> {
    match inode.reach {
        Reach::Open => rustix::fs::fremovexattr(inode.fd, name),
        Reach::PathOnly => rustix::fs::removexattr(inode.proc_path(), name),
    }
}

/// Whether `inode` has exactly `value` under `name`.
///
/// `EACCES` where the mode does not let us read: `user.*` asks for that permission, however the inode was opened.
pub(super) fn has(inode: &Inode<'_>, name: &[u8], value: &[u8]) -> Result<bool> {
    // One byte more than wanted: a longer value then answers with its length or with ERANGE, and differs.
    let mut buffer = vec![0; value.len() + 1];
    let read = match inode.reach {
        Reach::Open => rustix::fs::fgetxattr(inode.fd, name, buffer.as_mut_slice()),
        Reach::PathOnly => rustix::fs::getxattr(inode.proc_path(), name, buffer.as_mut_slice()),
    };
    match read {
        Ok(len) => Ok(buffer[..len] == *value),
        Err(Errno::RANGE | Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Whether `pattern` (`*` any bytes, `?` one byte) covers all of `name`. Linear in their product at worst.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where the last `*` stood, and how far the name was matched when it is asked to take one byte more.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&byte) if byte == b'?' || byte == name[n] => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((at, taken)) = star else { return false };
                star = Some((at, taken + 1));
                p = at + 1;
                n = taken + 1;
            }
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_cover_whole_names() {
        let yes: [(&str, &str); 8] = [
            ("user.a", "user.a"),
            ("user.*", "user."),
            ("*", "anything"),
            ("**a", "aaa"),
            ("u*.?b*", "user.xbc"),
            ("*.selinux", "security.selinux"),
            ("a*b*c", "aXbXbYc"),
            ("", ""),
        ];
        for (pattern, name) in yes {
            assert!(matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
        let no = [("user.a", "user.ab"), ("user.?", "user."), ("*b", "abc"), ("", "a"), ("a*b*c", "aXcXb"), ("?", "")];
        for (pattern, name) in no {
            assert!(!matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
    }
}
