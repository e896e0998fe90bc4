//! Merging the index segments that a base will list, and leaving out what was dropped.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::base::{Base, SegmentRef};
use crate::format::blob::PackInfo;
use crate::format::objects;
use crate::format::segment::{SEGMENT_BYTES_MAX, Segment, SegmentPlace};
use crate::id::{PackId, SegmentId, SessionId, WriterId};

use super::open::{Repository, key};
use super::view::Snapshot;

/// Segments smaller than this are merged.
const MERGE_UNDER: u64 = 4 << 20;
/// A merged segment is written once it holds this many entries.
const MERGED_ENTRIES: usize = 128 << 10;
/// A large segment is written anew once one in so many of its entries is dead.
const REWRITE_ONE_IN: usize = 4;

/// Gathers small segments into larger ones. Merged ones are stored under a pinned session.
pub(super) struct Merge<'r> {
    repo: &'r Arc<Repository>,
    writer: WriterId,
    session: Option<SessionId>,
    /// Of the next segment in the session; never used twice, whatever becomes of the base that would list it.
    n: u64,
    dropped: HashSet<PackId>,
    /// Segments that cannot be read and are left out.
    lost: HashSet<SegmentId>,
    /// Packs that are listed from their own tables, whatever segments say.
    relisted: HashSet<PackId>,
    kept: Vec<SegmentRef>,
    /// Dropped packs that what was read mentions, and those that what is kept does.
    seen: HashSet<PackId>,
    mentioned: BTreeSet<PackId>,
    open: Segment,
    /// Positions in the packs of `open`.
    at: HashMap<PackId, Vec<u32>>,
}

/// What a base lists then.
pub(super) struct Merged {
    /// Sorted.
    pub segments: Vec<SegmentRef>,
    /// Dropped packs that these still mention, and those that no segment ever did: what an interrupted session left, and its
    /// writer could adopt (A5). Sorted.
    pub dropped: Vec<PackId>,
}

impl<'r> Merge<'r> {
    pub(super) fn new<'p>(
        repo: &'r Arc<Repository>,
        writer: WriterId,
        dropped: impl IntoIterator<Item = &'p PackId>,
    ) -> Self {
        Self {
            repo,
            writer,
            session: None,
            n: 0,
            dropped: dropped.into_iter().copied().collect(),
            lost: HashSet::new(),
            relisted: HashSet::new(),
            kept: Vec::new(),
            seen: HashSet::new(),
            mentioned: BTreeSet::new(),
            open: Segment::default(),
            at: HashMap::new(),
        }
    }

    /// The session that merged segments are stored under; its pin stands.
    pub(super) fn begin(&mut self, session: SessionId) {
        self.session = Some(session);
    }

    /// What a repair does otherwise: leaves out segments that are `lost`, and what segments say of packs that are `relisted`.
    pub(super) fn mending(&mut self, lost: impl IntoIterator<Item = SegmentId>, relisted: HashSet<PackId>) {
        self.lost.extend(lost);
        self.relisted = relisted;
    }

    /// Everything that the base and those snapshots publish. May be called again, for another base.
    pub(super) fn all(&mut self, base: &Base, unfolded: &[&Snapshot]) -> Result<Merged> {
        self.all_and(base, unfolded, |_| Ok(()))
    }

    /// The same, with what `more` adds by [`Merge::relist`].
    pub(super) fn all_and(
        &mut self,
        base: &Base,
        unfolded: &[&Snapshot],
        more: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<Merged> {
        (self.kept, self.seen, self.mentioned) = Default::default();
        let repo = self.repo;
        let mut inputs = base.segments.clone();
        for s in unfolded {
            for &(n, id) in s.graph.segments.iter().filter(|(_, id)| !self.lost.contains(id)) {
                let object = key(objects::segment(s.at.writer, s.at.session, n, id));
                let size = repo.bridge.wait(repo.store.head(&object))?;
                inputs.push(SegmentRef { writer: s.at.writer, session: s.at.session, n, id, size });
            }
        }
        inputs.retain(|input| !self.lost.contains(&input.id));
        for input in inputs {
            self.segment(input)?;
        }
        for inline in unfolded.iter().filter_map(|s| s.graph.inline.clone()) {
            self.add(inline)?;
        }
        more(self)?;
        self.end()?;
        let mut segments = std::mem::take(&mut self.kept);
        segments.sort_unstable();
        segments.dedup();
        let mut dropped = std::mem::take(&mut self.mentioned);
        dropped.extend(self.dropped.difference(&self.seen));
        Ok(Merged { segments, dropped: dropped.into_iter().collect() })
    }

    fn segment(&mut self, input: SegmentRef) -> Result<()> {
        let small = input.size < MERGE_UNDER;
        if !small && self.dropped.is_empty() && self.relisted.is_empty() {
            self.kept.push(input);
            return Ok(());
        }
        let segment = self.read(&input)?;
        let dropped: Vec<bool> = segment.packs.iter().map(|p| self.dropped.contains(&p.id)).collect();
        let mentioned = || segment.packs.iter().zip(&dropped).filter(|(_, dropped)| **dropped).map(|(p, _)| p.id);
        self.seen.extend(mentioned());
        let dead = segment.entries.iter().filter(|e| dropped[e.pack as usize]).count();
        let relisted = segment.packs.iter().any(|p| self.relisted.contains(&p.id));
        if small || relisted || dead * REWRITE_ONE_IN >= segment.entries.len() {
            return self.add(segment);
        }
        self.mentioned.extend(mentioned());
        self.kept.push(input);
        Ok(())
    }

    fn read(&self, input: &SegmentRef) -> Result<Segment> {
        let object = key(objects::segment(input.writer, input.session, input.n, input.id));
        let stored = self.repo.bridge.wait(self.repo.store.get(&object, SEGMENT_BYTES_MAX))?;
        if Segment::id(&stored) != input.id {
            return Err(Error::damaged(object.as_str(), "it has not the bytes that were written"));
        }
        let (_, segment) = Segment::decode(&stored, &self.repo.graph).map_err(Error::in_object(object.as_str()))?;
        Ok(segment)
    }

    fn add(&mut self, segment: Segment) -> Result<()> {
        self.seen.extend(segment.packs.iter().map(|p| p.id).filter(|id| self.dropped.contains(id)));
        let out = |p: &PackInfo| self.dropped.contains(&p.id) || self.relisted.contains(&p.id);
        let out = segment.packs.iter().map(out).collect();
        self.add_without(segment, out)
    }

    /// Adds what a pack says of itself.
    pub(super) fn relist(&mut self, segment: Segment) -> Result<()> {
        let out = vec![false; segment.packs.len()];
        self.add_without(segment, out)
    }

    /// Adds a segment without those of its packs that are `out`.
    fn add_without(&mut self, segment: Segment, out: Vec<bool>) -> Result<()> {
        let mut at = Vec::with_capacity(segment.packs.len());
        for (pack, out) in segment.packs.into_iter().zip(out) {
            at.push(if out { None } else { Some(self.position(pack)) });
        }
        self.open.entries.extend(segment.entries.into_iter().filter_map(|mut e| {
            e.pack = at[e.pack as usize]?;
            Some(e)
        }));
        self.open.stanzas.extend(segment.stanzas);
        if self.open.entries.len() >= MERGED_ENTRIES { self.end() } else { Ok(()) }
    }

    /// Among the packs of `open`. Who says something else about a pack of the same id means another one.
    fn position(&mut self, pack: PackInfo) -> u32 {
        let packs = &mut self.open.packs;
        let known = self.at.entry(pack.id).or_default();
        if let Some(at) = known.iter().find(|at| packs[**at as usize] == pack) {
            return *at;
        }
        packs.push(pack);
        known.push(packs.len() as u32 - 1);
        packs.len() as u32 - 1
    }

    fn end(&mut self) -> Result<()> {
        let mut segment = std::mem::take(&mut self.open);
        self.at.clear();
        if segment.entries.is_empty() {
            return Ok(());
        }
        segment.entries.sort_unstable();
        segment.entries.dedup();
        let origins: HashSet<_> =
            segment.packs.iter().flat_map(|p| &p.origins).map(|o| (o.writer, o.session)).collect();
        segment.stanzas.retain(|s| origins.contains(&(s.writer, s.session)));
        segment.stanzas.sort_by_key(|s| (s.writer, s.session));
        segment.stanzas.dedup_by_key(|s| (s.writer, s.session));
        let session = self.session.expect("a session was begun before segments are merged");
        let place = SegmentPlace { repository: self.repo.id(), writer: self.writer, session, n: self.n };
        let stored = segment.encode(&place, &self.repo.graph);
        let (id, size) = (Segment::id(&stored), stored.len() as u64);
        let object = key(objects::segment(self.writer, session, self.n, id));
        self.repo.bridge.wait(self.repo.store.put(&object, stored.into()))?;
        self.kept.push(SegmentRef { writer: self.writer, session, n: self.n, id, size });
        self.n += 1;
        Ok(())
    }
}
