//! What snapshots say of themselves and of each other, and the small objects (I1, I2, I8, I9).

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::error::{Error, Result};
use crate::format::objects::{self, Parsed};
use crate::format::pin::{PIN_BYTES_MAX, Pin};
use crate::format::slot::{SLOT_BYTES_MAX, Slot};
use crate::format::snapshot::SnapshotRef;
use crate::id::SnapshotId;
use crate::progress::{Problem, ProblemKind};
use crate::repo::{Repository, Snapshot, View};
use crate::store::{Key, StoreError};

use super::damage::{Damage, Invariant};
use super::lists::get_all;

/// **I1** Every snapshot is signed by a member of the config that was not revoked before its session.
///
/// The view verified them when it read them. That the config is ROOT's is verified here once more, all epochs of it.
pub(super) fn i1_signed(repo: &Repository, view: &View, damage: &Damage) -> Result<()> {
    for problem in of_kind(view, "snap/") {
        damage.object(&object(problem), Invariant::I1, problem.message.clone());
    }
    match repo.verify_config() {
        Err(Error::Damaged { object, how }) => damage.object(&object, Invariant::I1, how),
        Err(Error::WrongKey(how)) => damage.object("cfg", Invariant::I1, how),
        other => other?,
    }
    Ok(())
}

/// **I2** Every segment that a snapshot names exists, has its hash, and opens.
///
/// The view verified those that it fetched: all of them, unless a local index was used.
pub(super) fn i2_segments(view: &View, damage: &Damage) {
    for problem in of_kind(view, "idx/") {
        damage.object(&object(problem), Invariant::I2, problem.message.clone());
    }
}

fn of_kind<'v>(view: &'v View, kind: &'static str) -> impl Iterator<Item = &'v Problem> {
    // What is missing is I8's.
    let damaged = |p: &&Problem| p.kind == ProblemKind::Damaged;
    view.problems.iter().filter(damaged).filter(move |p| p.path.starts_with(kind))
}

fn object(problem: &Problem) -> String {
    problem.path.to_string_lossy().into_owned()
}

/// **I8** Every snapshot that another one's view or chain names exists, or was forgotten.
///
/// Returns false where that cannot be told, because forgetting leaves records that this program does not read.
pub(super) fn i8_named(repo: &Repository, view: &View, damage: &Damage) -> Result<bool> {
    let named = Named::of(view);
    let mut absent: BTreeMap<String, (Option<SnapshotRef>, u64)> = BTreeMap::new();
    for snapshot in &view.snapshots {
        for missing in named.missing_from(snapshot) {
            let object = match missing {
                Missing::Ref(at) => objects::snapshot(at.writer, at.session),
                Missing::Id(id) => format!("snapshot {id}"),
            };
            let at = if let Missing::Ref(at) = missing { Some(*at) } else { None };
            absent.entry(object).or_insert((at, 0)).1 += 1;
        }
    }
    if absent.is_empty() {
        return Ok(true);
    }
    for prefix in ["forget/", "gc/"] {
        if !repo.bridge().wait(repo.store().list(prefix, None))?.objects.is_empty() {
            return Ok(false);
        }
    }
    for (object, (at, count)) in absent {
        let there = match at {
            Some(_) => exists(repo, &object)?,
            None => false,
        };
        let how = if there { "its bytes are not those" } else { "it is not in the store, and was not forgotten;" };
        damage.object(&object, Invariant::I8, format!("{how} that {count} other snapshots name"));
    }
    Ok(true)
}

fn exists(repo: &Repository, object: &str) -> Result<bool> {
    let key = Key::new(object).expect("the format's names are keys");
    match repo.bridge().wait(repo.store().head(&key)) {
        Ok(_) => Ok(true),
        Err(StoreError::NotFound { .. }) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

enum Missing<'s> {
    Ref(&'s SnapshotRef),
    Id(SnapshotId),
}

/// The snapshots that are there.
struct Named {
    ids: HashSet<SnapshotId>,
    /// Keys of those that are there and no good: I1 tells of them.
    damaged: HashSet<String>,
    /// Ids whose keys some view tells.
    keys: HashMap<SnapshotId, String>,
}

impl Named {
    fn of(view: &View) -> Self {
        let mut keys = HashMap::new();
        for at in view.snapshots.iter().flat_map(|s| &s.graph.view.snapshots) {
            keys.entry(at.id).or_insert_with(|| objects::snapshot(at.writer, at.session));
        }
        Self {
            ids: view.snapshots.iter().map(Snapshot::id).collect(),
            damaged: of_kind(view, "snap/").map(object).collect(),
            keys,
        }
    }

    /// What a snapshot's view and chain name in vain. What both name comes once.
    fn missing_from<'s>(&self, snapshot: &'s Snapshot) -> Vec<Missing<'s>> {
        let graph = &snapshot.graph;
        let gone = |at: &&SnapshotRef| {
            !self.ids.contains(&at.id) && !self.damaged.contains(&objects::snapshot(at.writer, at.session))
        };
        let mut missing: Vec<Missing<'s>> = graph.view.snapshots.iter().filter(gone).map(Missing::Ref).collect();
        for id in graph.previous.iter().chain(&graph.parts) {
            if !self.ids.contains(id) && !self.keys.contains_key(id) {
                missing.push(Missing::Id(*id));
            }
        }
        missing
    }
}

/// **I9** Every pin and every verdict opens at its key, and every key slot has its form.
pub(super) fn i9_small_objects(repo: &Repository, verdicts: &[Problem], damage: &Damage) -> Result<()> {
    for problem in verdicts {
        damage.object(&object(problem), Invariant::I9, problem.message.clone());
    }
    get_all(repo, "pin/", PIN_BYTES_MAX, &mut |key, bytes| {
        if let Some(Parsed::Pin(writer, session)) = objects::parse(key.as_str())
            && let Err(e) = Pin::decode(bytes, repo.id(), writer, session, repo.graph_keys())
        {
            damage.object(key.as_str(), Invariant::I9, e.to_string());
        }
    })?;
    get_all(repo, "key/", SLOT_BYTES_MAX, &mut |key, bytes| {
        let fault = match Slot::decode(bytes) {
            Err(e) => e.to_string(),
            Ok(slot) if objects::slot(slot.id) != key.as_str() => "it holds another slot than its key says".into(),
            Ok(slot) if slot.repository != repo.id() => "it belongs to another repository".into(),
            Ok(_) => return,
        };
        damage.object(key.as_str(), Invariant::I9, fault);
    })
}
