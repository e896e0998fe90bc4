//! A directory as it was when it was copied before.

use std::iter::Peekable;
use std::vec::IntoIter;

use crate::id::BlobId;
use crate::repo::{Node, Reader};

/// A tree where it comes from, and the tree that it became where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) from: BlobId,
    pub(super) to: BlobId,
}

/// Its entries in order of names, one stretch in memory. Where they cannot be read there are none: all is copied anew.
pub(super) struct Before<'r> {
    reader: &'r Reader,
    stretches: IntoIter<BlobId>,
    nodes: Peekable<IntoIter<Node>>,
}

impl<'r> Before<'r> {
    /// At the first entry.
    pub(super) fn load(reader: &'r Reader, pair: Option<Pair>) -> Self {
        let stretches = pair.map(|pair| reader.stretches(&pair.from).unwrap_or_default()).unwrap_or_default();
        let ids: Vec<BlobId> = stretches.into_iter().map(|(_, id)| id).collect();
        Self { reader, stretches: ids.into_iter(), nodes: Vec::new().into_iter().peekable() }
    }

    /// The entry of this name. Names must be asked for in their order.
    pub(super) fn find(&mut self, name: &[u8]) -> Option<Node> {
        loop {
            while self.nodes.next_if(|node| node.name.as_slice() < name).is_some() {}
            if self.nodes.peek().is_some() {
                return self.nodes.next_if(|node| node.name == name);
            }
            let stretch = self.stretches.next()?;
            self.nodes = self.reader.one_stretch(&stretch).unwrap_or_default().into_iter().peekable();
        }
    }
}
