//! What LISTs show: the packs that the index needs, and what nobody names (I3).

use std::collections::HashSet;
use std::sync::Arc;

use crate::error::Result;
use crate::format::objects::{self, Parsed};
use crate::id::{PackId, SessionId, WriterId};
use crate::repo::index::{Found, Index};
use crate::repo::{Repository, View};
use crate::store::{Key, Listed, Store, StoreError};

use super::damage::{Bad, Damage, Invariant};

/// A pack that segments list, in 80 bytes: repositories have hundreds of thousands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pack {
    pub writer: WriterId,
    pub session: SessionId,
    pub seq: u64,
    pub id: PackId,
    /// In bytes, as the index says.
    pub size: u64,
}

/// All packs that the index names, in the order of their keys, each once.
pub(super) struct Packs {
    pub list: Vec<Pack>,
    /// Positions in the list, in the order of ids.
    by_id: Vec<u32>,
    /// Packs whose size segments disagree about.
    disputed: Vec<Pack>,
}

impl Packs {
    pub(super) fn of(index: &Index) -> Self {
        let mut list: Vec<Pack> = index
            .packs()
            .map(|p| Pack { writer: p.writer, session: p.session, seq: p.seq, id: p.id, size: p.size })
            .collect();
        list.sort_unstable();
        let mut disputed = Vec::new();
        list.dedup_by(|b, a| {
            let same = (a.writer, a.session, a.seq, a.id) == (b.writer, b.session, b.seq, b.id);
            if same && a.size != b.size {
                disputed.push(*a);
            }
            same
        });
        list.shrink_to_fit();
        let mut by_id: Vec<u32> = (0..list.len() as u32).collect();
        by_id.sort_unstable_by_key(|at| list[*at as usize].id);
        Self { list, by_id, disputed }
    }

    /// Position of a pack with this id.
    pub(super) fn position(&self, id: &PackId) -> Option<usize> {
        let at = self.by_id.binary_search_by_key(id, |at| self.list[*at as usize].id).ok()?;
        Some(self.by_id[at] as usize)
    }

    /// The pack that a copy lies in.
    pub(super) fn of_copy(&self, copy: &Found) -> Pack {
        let p = copy.pack();
        Pack { writer: p.writer, session: p.session, seq: p.seq, id: p.id, size: p.size }
    }

    /// How many copies the index lists in each pack, in the order of the list.
    pub(super) fn entry_counts(&self, index: &Index) -> Vec<u32> {
        let mut counts = vec![0u32; self.list.len()];
        for copy in index.entries() {
            if let Some(at) = self.position(&copy.pack_id()) {
                counts[at] = counts[at].saturating_add(1);
            }
        }
        counts
    }
}

/// What nobody names: left behind by sessions that crashed, or of sessions that are not yet committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unlisted {
    /// Packs that no segment lists.
    pub packs: u64,
    /// Their sizes together, in bytes.
    pub pack_bytes: u64,
    /// Segments that no snapshot names.
    pub segments: u64,
    /// Objects among them whose keys are none of ours.
    pub foreign: u64,
}

/// Calls `each` with everything that a LIST shows, one page in memory at a time.
fn each_listed(repo: &Repository, prefix: &str, each: &mut dyn FnMut(&Listed)) -> Result<()> {
    let mut last: Option<Key> = None;
    loop {
        let page = repo.bridge().wait(repo.store().list(prefix, last.as_ref()))?;
        for listed in &page.objects {
            if last.as_ref().is_some_and(|last| *last >= listed.key) {
                let what = format!("list {prefix}");
                return Err(StoreError::Wrong { what, how: "keys out of order".into() }.into());
            }
            each(listed);
            last = Some(listed.key.clone());
        }
        match (page.more, page.objects.is_empty()) {
            (false, _) => return Ok(()),
            (true, false) => {}
            (true, true) => {
                let (what, how) = (format!("list {prefix}"), "an empty page with more to follow".into());
                return Err(StoreError::Wrong { what, how }.into());
            }
        }
    }
}

/// **I3** Every pack that an entry of the index needs exists, with the size that the index says.
///
/// One LIST tells; what it does not show is asked for by name, because a LIST may lose keys.
pub(super) fn i3_packs(repo: &Repository, packs: &Packs, damage: &Damage, unlisted: &mut Unlisted) -> Result<()> {
    let mut missing: Vec<Pack> = Vec::new();
    let mut next = packs.list.iter().peekable();
    each_listed(repo, "pack/", &mut |listed| {
        let Some(Parsed::Pack(writer, session, seq, id)) = objects::parse(listed.key.as_str()) else {
            unlisted.foreign += 1;
            return;
        };
        let at = (writer, session, seq, id);
        let key = |p: &Pack| (p.writer, p.session, p.seq, p.id);
        missing.extend(std::iter::from_fn(|| next.next_if(|p| key(p) < at)));
        match next.next_if(|p| key(p) == at) {
            Some(pack) => check_size(pack, listed.size, damage),
            None => {
                unlisted.packs += 1;
                unlisted.pack_bytes += listed.size;
            }
        }
    })?;
    missing.extend(next);
    for pack in &packs.disputed {
        damage.pack(pack, Invariant::I3, "index segments disagree about its size", Bad::Nothing);
    }
    for batch in missing.chunks(1000) {
        let sizes = repo.bridge().map(batch.to_vec(), repo.options().connections, |pack| {
            let store = Arc::clone(repo.store());
            async move {
                let key = Key::new(pack.key()).expect("the format's names are keys");
                match store.head(&key).await {
                    Ok(size) => Ok(Some(size)),
                    Err(StoreError::NotFound { .. }) => Ok(None),
                    Err(e) => Err(e),
                }
            }
        })?;
        for (pack, size) in batch.iter().zip(sizes) {
            match size {
                Some(size) => check_size(pack, size, damage),
                None => missing_pack(pack, damage),
            }
        }
    }
    Ok(())
}

/// A pack that is not in the store.
pub(super) fn missing_pack(pack: &Pack, damage: &Damage) {
    damage.pack(pack, Invariant::I3, "it is not in the store", Bad::All);
}

fn check_size(pack: &Pack, size: u64, damage: &Damage) {
    if size != pack.size {
        let what = format!("it has {size} bytes in the store, the index says {}", pack.size);
        damage.pack(pack, Invariant::I3, what, Bad::Beyond(size));
    }
}

/// Counts segments that neither the base nor a snapshot names, and finds those that are named and not there (a local index may know what
/// they said, so that nobody fetched them).
pub(super) fn i2_listed(repo: &Repository, view: &View, damage: &Damage, unlisted: &mut Unlisted) -> Result<()> {
    let base = &view.base.base;
    let mut named: HashSet<String> =
        base.segments.iter().map(|s| objects::segment(s.writer, s.session, s.n, s.id)).collect();
    let mut folded: HashSet<String> = HashSet::new();
    for s in view.committed() {
        let own = s.graph.segments.iter().map(|&(n, id)| objects::segment(s.at.writer, s.at.session, n, id));
        let is_folded = base.holds(&s.at) || base.has_forgotten(&s.at);
        if is_folded { folded.extend(own) } else { named.extend(own) }
    }
    each_listed(repo, "idx/", &mut |listed| {
        let ours = matches!(objects::parse(listed.key.as_str()), Some(Parsed::Segment(..)));
        match named.remove(listed.key.as_str()) {
            true => {}
            // Merged into another by a fold; it may stand until a prune.
            false if folded.contains(listed.key.as_str()) => {}
            false if ours => unlisted.segments += 1,
            false => unlisted.foreign += 1,
        }
    })?;
    for object in named {
        let key = Key::new(object.clone()).expect("the format's names are keys");
        match repo.bridge().wait(repo.store().head(&key)) {
            Ok(_) => {}
            Err(StoreError::NotFound { .. }) => {
                damage.object(&object, Invariant::I2, "this index segment is missing; what it lists cannot be found");
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Gets small objects, many at once; `None` for one that vanished meanwhile.
pub(super) fn get_all(repo: &Repository, prefix: &str, max: u64, each: &mut dyn FnMut(&Key, &[u8])) -> Result<()> {
    let mut keys = Vec::new();
    each_listed(repo, prefix, &mut |listed| keys.push(listed.key.clone()))?;
    for batch in keys.chunks(256) {
        let got = repo.bridge().map(batch.to_vec(), repo.options().connections, |key| {
            let store: Arc<dyn Store> = Arc::clone(repo.store());
            async move {
                match store.get(&key, max).await {
                    Ok(bytes) => Ok(Some((key, bytes))),
                    Err(StoreError::NotFound { .. }) => Ok(None),
                    // Longer than any such object may be: shown as it is, it will not decode.
                    Err(StoreError::Wrong { .. }) => Ok(Some((key, bytes::Bytes::new()))),
                    Err(e) => Err(e),
                }
            }
        })?;
        got.into_iter().flatten().for_each(|(key, bytes)| each(&key, &bytes));
    }
    Ok(())
}
