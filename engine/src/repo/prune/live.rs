//! What must not be lost now, by name: what retention is extended for.

use crate::error::Result;
use crate::format::objects::{self, Parsed};
use crate::store::{Key, list_all};

use super::super::open::key;
use super::{Look, Pruner};

impl Pruner {
    /// Every object that a restore needs, with those that open the repository: config epochs, key slots, the newest base,
    /// snapshots that are not forgotten, segments, and the packs that those list. Not what comes and goes: pins, acks, `gc/`.
    pub fn live(&self, look: &Look) -> Result<Vec<Key>> {
        let view = &look.view;
        let mut live = Vec::new();
        for prefix in ["cfg/", "key/"] {
            let listed = self.repo.bridge.wait(list_all(self.repo.store.as_ref(), prefix))?;
            let ours = |k: &Key| matches!(objects::parse(k.as_str()), Some(Parsed::Config(_) | Parsed::Slot(_)));
            live.extend(listed.into_iter().map(|l| l.key).filter(ours));
        }
        if view.base.n > 0 {
            live.push(key(objects::base(view.base.n)));
        }
        let folded = view.base.base.segments.iter().map(|s| objects::segment(s.writer, s.session, s.n, s.id));
        live.extend(folded.map(key));
        // A forgotten one that no base has taken in publishes packs that others may rely on.
        for s in view.unfolded() {
            live.push(key(objects::snapshot(s.at.writer, s.at.session)));
            let segments = s.graph.segments.iter().map(|&(n, id)| objects::segment(s.at.writer, s.at.session, n, id));
            live.extend(segments.map(key));
        }
        live.extend(view.snapshots.iter().map(|s| key(objects::snapshot(s.at.writer, s.at.session))));
        let there = view.index.packs().filter(|p| !look.missing.contains(&p.id));
        live.extend(there.map(|p| key(objects::pack(p.writer, p.session, p.seq, p.id))));
        live.sort_unstable();
        live.dedup();
        Ok(live)
    }
}
