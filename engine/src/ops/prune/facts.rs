//! How much of each pack is needed, and which copies may stand for others.

use std::collections::HashSet;

use crate::format::blob::BlobKind;
use crate::format::gc::PackRef;
use crate::id::PackId;
use crate::repo::index::{Found, Index, Marks};

/// How much of one published pack is needed. In bytes of frames as they are stored; header, table and padding count as
/// neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackUse {
    /// Which pack.
    pub at: PackRef,
    /// Whether it holds data; else trees, metas and maps.
    pub data: bool,
    /// Frames with a blob that is needed from here.
    pub used: u64,
    /// Frames that nobody needs from here.
    pub unused: u64,
    /// Of the unused, what nothing explains: neither a forgotten snapshot reaches it, nor is another copy kept.
    pub unexplained: u64,
}

/// What a plan is made from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Every pack that the view publishes, sorted by id.
    pub packs: Vec<PackUse>,
    /// Packs that stand in the store and that nothing publishes, and that no open session may be about to; sorted by id.
    pub unlisted: Vec<PackRef>,
    /// What of the unlisted nothing explains: packs of sessions that were neither ended nor lie below a floor. In bytes.
    pub unlisted_unexplained: u64,
}

/// One order for everybody: each executor keeps the same copies.
fn sort(copies: &mut [Found]) {
    copies.sort_by_cached_key(|c| {
        let pack = c.pack();
        (pack.writer, pack.session, pack.seq, c.entry.offset, pack.id, c.entry.at)
    });
}

/// Which of the copies of one needed blob are kept: one that is proven stands for all others; where there is none, all. What
/// segments say of a pack proves nothing: another copy may be one that was made up, to have good ones deleted in its favour.
fn keepers(copies: &mut [Found], proven: &dyn Fn(&PackId) -> bool) -> Vec<Found> {
    if let [only] = copies {
        return vec![only.clone()];
    }
    sort(copies);
    match copies.iter().find(|c| proven(&c.pack_id())) {
        Some(first) => vec![first.clone()],
        None => copies.to_vec(),
    }
}

/// Calls `each` with all copies of each blob (of one id and kind).
fn each_blob(index: &Index, each: &mut dyn FnMut(&mut [Found])) {
    let mut copies: Vec<Found> = Vec::new();
    let mut end = |copies: &mut Vec<Found>| {
        if copies.len() > 1 {
            copies.sort_by_key(|c| c.entry.kind);
        }
        copies.chunk_by_mut(|a, b| a.entry.kind == b.entry.kind).for_each(&mut *each);
        copies.clear();
    };
    for copy in index.entries() {
        if copies.first().is_some_and(|first| first.entry.id != copy.entry.id) {
            end(&mut copies);
        }
        copies.push(copy);
    }
    end(&mut copies);
}

/// One copy, as its frame is concerned: 16 bytes.
struct Use {
    pack: u32,
    offset: u32,
    stored: u32,
    flags: u8,
}

const NEEDED: u8 = 1;
const EXPLAINED: u8 = 2;
const DATA: u8 = 4;

/// Looks at every copy of every blob; `proven` are packs of which somebody trusted has verified all. Takes 16 bytes an entry, or reads the
/// index several times if that is more than `memory` bytes.
pub fn gather(index: &Index, live: &Marks, forgotten: &Marks, proven: &dyn Fn(&PackId) -> bool, memory: u64) -> Facts {
    let mut packs: Vec<PackRef> = index
        .packs()
        .map(|p| PackRef { id: p.id, writer: p.writer, session: p.session, seq: p.seq, size: p.size })
        .collect();
    packs.sort_unstable();
    packs.dedup_by_key(|p| p.id);
    let nothing = |at: PackRef| PackUse { at, data: false, used: 0, unused: 0, unexplained: 0 };
    let mut uses: Vec<PackUse> = packs.into_iter().map(nothing).collect();
    let passes = (index.len() * size_of::<Use>() as u64).div_ceil(memory.max(1 << 20)).max(1);
    // Packs share the passes evenly, but for chance. Growing the list would take twice its room.
    let of_pass = index.len() / passes;
    let room = if passes == 1 { of_pass } else { of_pass + of_pass / 8 };
    for pass in 0..passes {
        let mut copies_seen = Vec::with_capacity(room as usize);
        each_blob(index, &mut |copies| {
            let (id, kind) = (copies[0].entry.id, copies[0].entry.kind);
            let is_live = live.is_marked(&id, kind);
            let explained = if is_live || forgotten.is_marked(&id, kind) { EXPLAINED } else { 0 };
            let kept = if is_live { keepers(copies, proven) } else { Vec::new() };
            for copy in copies.iter() {
                let pack = position(&uses, &copy.pack_id());
                if u64::from(pack) % passes != pass {
                    continue;
                }
                let needed = if kept.iter().any(|k| k.same_copy(copy)) { NEEDED } else { 0 };
                let data = if kind == BlobKind::Data { DATA } else { 0 };
                let (offset, stored) = (copy.entry.offset, copy.entry.stored);
                copies_seen.push(Use { pack, offset, stored, flags: needed | explained | data });
            }
        });
        add_frames(&mut uses, copies_seen);
    }
    Facts { packs: uses, ..Facts::default() }
}

fn position(packs: &[PackUse], id: &PackId) -> u32 {
    packs.binary_search_by_key(id, |p| p.at.id).expect("the index lists every pack that it has copies in") as u32
}

/// A frame is needed if any of its blobs is, and explained likewise.
fn add_frames(packs: &mut [PackUse], mut copies: Vec<Use>) {
    copies.sort_unstable_by_key(|u| (u.pack, u.offset));
    let mut data_bytes = 0u64;
    for of_pack in copies.chunk_by(|a, b| a.pack == b.pack) {
        let pack = &mut packs[of_pack[0].pack as usize];
        for frame in of_pack.chunk_by(|a, b| a.offset == b.offset) {
            let flags = frame.iter().fold(0, |flags, u| flags | u.flags);
            let stored = u64::from(frame[0].stored);
            let to = if flags & NEEDED != 0 { &mut pack.used } else { &mut pack.unused };
            *to += stored;
            if flags & (NEEDED | EXPLAINED) == 0 {
                pack.unexplained += stored;
            }
            if flags & DATA != 0 {
                data_bytes += stored;
            }
        }
        pack.data = data_bytes * 2 >= pack.used + pack.unused;
        data_bytes = 0;
    }
}

/// Whether a copy of a needed blob is one that [`gather`] has counted as needed: what a repack moves.
pub(super) fn is_kept(
    index: &Index,
    proven: &dyn Fn(&PackId) -> bool,
    id: &crate::id::BlobId,
    kind: BlobKind,
    (pack, offset): (&PackId, u32),
) -> bool {
    let mut copies = Vec::new();
    index.lookup(id, &mut copies);
    copies.retain(|c| c.entry.kind == kind);
    keepers(&mut copies, proven).iter().any(|c| c.pack_id() == *pack && c.entry.offset == offset)
}

/// Takes out of `packs` those that must stay because a needed blob has no other copy that may stand for the one in them: a proven
/// one, outside of `packs` and of `elsewhere`.
pub fn spare(
    index: &Index,
    live: &Marks,
    proven: &dyn Fn(&PackId) -> bool,
    elsewhere: &HashSet<PackId>,
    packs: &mut HashSet<PackId>,
) {
    each_blob(index, &mut |copies| {
        let going = copies.iter().any(|c| packs.contains(&c.pack_id()));
        if !going || !live.is_marked(&copies[0].entry.id, copies[0].entry.kind) {
            return;
        }
        let stands = |pack: &PackId| proven(pack) && !elsewhere.contains(pack);
        let is_safe = |packs: &HashSet<PackId>| {
            copies.iter().map(Found::pack_id).any(|pack| stands(&pack) && !packs.contains(&pack))
        };
        if is_safe(packs) {
            return;
        }
        // A proven one that was to go stays for all.
        let mut of_copies: Vec<PackId> = copies.iter().map(Found::pack_id).filter(|p| packs.contains(p)).collect();
        of_copies.sort_unstable();
        if let Some(first) = of_copies.iter().find(|pack| stands(pack)) {
            of_copies = vec![*first];
        }
        for pack in of_copies {
            packs.remove(&pack);
        }
    });
}

#[cfg(test)]
mod tests;
