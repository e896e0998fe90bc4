//! Sorted entries from several sources as one sorted sequence, and several runs as one run.

use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::{BinaryHeap, HashSet};
use std::sync::Arc;

use crate::format::blob::Entry;

use super::Result;
use super::build::{Tables, write_run};
use super::files::Place;
use super::run::{Entries, Run};

/// Merges sources that are each sorted; yields each entry with the position of its source.
///
/// Equal ids from different sources follow each other, by pack position and then by source.
pub(super) struct Merge<I> {
    sources: Vec<I>,
    /// The next entry of each source that has one.
    heads: BinaryHeap<Reverse<(Entry, usize)>>,
}

impl<I: Iterator<Item = Entry>> Merge<I> {
    pub(super) fn new(mut sources: Vec<I>) -> Self {
        let heads =
            sources.iter_mut().enumerate().filter_map(|(n, source)| Some(Reverse((source.next()?, n)))).collect();
        Self { sources, heads }
    }
}

impl<I: Iterator<Item = Entry>> Iterator for Merge<I> {
    type Item = (usize, Entry);

    fn next(&mut self) -> Option<Self::Item> {
        let mut head = self.heads.peek_mut()?;
        let Reverse((entry, source)) = *head;
        match self.sources[source].next() {
            // Put in place of the old head, it sinks to where it belongs when `head` is dropped.
            Some(next) => *head = Reverse((next, source)),
            None => drop(PeekMut::pop(head)),
        }
        Some((source, entry))
    }
}

/// Writes one run with everything in `runs` that is not hidden, without the segments that were dropped.
///
/// Needs 4 bytes of heap a pack and about 50 a session beside the fixed buffers. The sum of packs must be at most
/// [`PACKS_MAX`](super::run::PACKS_MAX).
pub(super) fn merge_runs(place: &Place, runs: &[Arc<Run>]) -> Result<Run> {
    let mut tables = Tables::new(place.dir());
    let mut count = 0;
    let mut sources = Vec::new();
    for run in runs {
        let renumbered = copy_tables(run, &mut tables)?;
        count += run.live();
        // Positions rise in the new run as they did in the old one, so its entries stay sorted.
        sources.push(Entries::of(run).filter_map(move |entry| {
            let pack = *renumbered.get(entry.pack as usize)?;
            (pack != GONE).then_some(Entry { pack, ..entry })
        }));
    }
    write_run(place, tables, Merge::new(sources).map(|(_, entry)| entry), count)
}

/// The new position of a pack that is left out.
const GONE: u32 = u32::MAX;

/// Copies packs, segments and stanzas; returns the new position of each pack.
fn copy_tables(run: &Run, tables: &mut Tables) -> Result<Vec<u32>> {
    let mut renumbered = vec![GONE; run.pack_count() as usize];
    let mut sessions = HashSet::new();
    for (at, segment) in run.segments().enumerate() {
        if run.is_dropped(at) {
            continue;
        }
        let mut packs = 0;
        for pack in segment.packs.filter(|pack| *pack < run.pack_count()) {
            let Some(info) = run.pack(pack) else { continue };
            renumbered[pack as usize] = tables.add_pack(&info)?;
            sessions.extend(info.origins.iter().map(|origin| (origin.writer, origin.session)));
            packs += 1;
        }
        tables.add_segment(segment.id, packs, segment.entries);
    }
    for (session, stanza) in run.all_stanzas() {
        if sessions.contains(&session) {
            tables.add_stanza(session, stanza)?;
        }
    }
    Ok(renumbered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::blob::BlobKind;
    use crate::id::BlobId;
    use proptest::prelude::*;

    fn entry(id: u8, pack: u32) -> Entry {
        let id = BlobId::from_bytes([id; 32]);
        Entry { id, pack, offset: 0, kind: BlobKind::Data, stored: 1, len: 1, at: 0, origin: 0 }
    }

    proptest! {
        #[test]
        fn merges_as_sorting_does(lists: Vec<Vec<(u8, u8)>>) {
            let mut all = Vec::new();
            let mut sources = Vec::new();
            for list in &lists {
                let mut source: Vec<_> = list.iter().map(|(id, pack)| entry(*id, (*pack).into())).collect();
                source.sort();
                all.extend_from_slice(&source);
                sources.push(source.into_iter());
            }
            all.sort();
            let merged: Vec<_> = Merge::new(sources).collect();
            prop_assert!(merged.iter().map(|(_, entry)| *entry).eq(all));
            for (source, entry) in merged {
                prop_assert!(lists[source].contains(&(entry.id.as_bytes()[0], entry.pack as u8)));
            }
        }
    }
}
