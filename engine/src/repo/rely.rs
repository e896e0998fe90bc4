//! What a new snapshot takes over from another: reused only after every blob was looked up by its own id (docs/protocol.md W3b).

use crate::error::{Error, Result};
use crate::format::tree::{Tree, TreeEntry, TreeKind};
use crate::id::BlobId;
use crate::progress::Cancel;

use super::reader::Reader;
use super::session::Session;

/// Whether everything that a file is made of is in the view, or was stored by this session. True for what has no content.
pub fn has_file(session: &Session, reader: &Reader, file: &TreeEntry) -> bool {
    let has_all = |ids: &[BlobId]| ids.iter().all(|id| session.has(id));
    let parts_have_all = || {
        file.children[1..].iter().all(|part| match reader.tree(part) {
            Ok(tree) => tree.children().all(|id| session.has(&id)),
            Err(_) => false,
        })
    };
    has_all(&file.children) && (file.kind != TreeKind::LargeFile || parts_have_all())
}

/// Looks up everything below the directory `root`, itself included; an error names the first blob that is missing.
///
/// Only trees are read. In memory are the ids of directories that were met and not yet read.
pub fn rely_on(session: &Session, reader: &Reader, root: &BlobId, cancel: &Cancel) -> Result<()> {
    let mut open = vec![*root];
    while let Some(id) = open.pop() {
        if cancel.is_canceled() {
            return Err(Error::Interrupted);
        }
        has(session, &id)?;
        match reader.tree(&id)? {
            Tree::Stretch { meta, entries } => {
                has(session, &meta)?;
                for entry in entries {
                    match entry.kind {
                        TreeKind::Dir => open.extend(entry.children),
                        TreeKind::LargeFile => {
                            has(session, &entry.children[0])?;
                            open.extend(&entry.children[1..]);
                        }
                        _ => entry.children.iter().try_for_each(|id| has(session, id))?,
                    }
                }
            }
            Tree::Split { meta, stretches } => {
                has(session, &meta)?;
                open.extend(stretches);
            }
            Tree::Part { map, data } => {
                has(session, &map)?;
                data.iter().try_for_each(|id| has(session, id))?;
            }
        }
    }
    Ok(())
}

/// Fails unless a blob may be referenced.
pub fn has(session: &Session, id: &BlobId) -> Result<()> {
    if session.has(id) { Ok(()) } else { Err(missing(id)) }
}

/// What is said of a blob that may not be referenced.
pub fn missing(id: &BlobId) -> Error {
    Error::damaged(format!("blob {}", id.short()), "no pack has it that a new snapshot may rely on")
}
