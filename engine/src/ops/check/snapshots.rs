//! What snapshots say of themselves and of each other, and the small objects (I1, I2, I8, I9).

use std::collections::{BTreeMap, HashSet};

use crate::error::{Error, Result};
use crate::format::objects::{self, Parsed};
use crate::format::pin::{PIN_BYTES_MAX, Pin};
use crate::format::slot::{SLOT_BYTES_MAX, Slot};
use crate::id::SnapshotId;
use crate::progress::{Problem, ProblemKind};
use crate::repo::{Repository, Snapshot, View};

use super::damage::{Damage, Invariant};
use super::lists::get_all;

/// **I1** Every snapshot is signed by a member of the config that was not revoked before its session.
///
/// The view verified them when it read them. That the config is ROOT's is verified here once more, all epochs of it, and that
/// they begin with the first: a repository opens without its older epochs, because the newest says all that counts.
pub(super) fn i1_signed(repo: &Repository, view: &View, damage: &Damage) -> Result<()> {
    for problem in of_kind(view, ProblemKind::Damaged, "snap/") {
        damage.object(&object(problem), Invariant::I1, problem.message.clone());
    }
    match repo.verify_config() {
        Err(Error::Damaged { object, how }) => damage.object(&object, Invariant::I1, how),
        Err(Error::WrongKey(how)) => damage.object("cfg", Invariant::I1, how),
        other => (1..other?).take(EPOCHS_TOLD).for_each(|epoch| missing_epoch(epoch, view, damage)),
    }
    Ok(())
}

/// Missing epochs of the config that are told one by one.
const EPOCHS_TOLD: usize = 100;

fn missing_epoch(epoch: u64, view: &View, damage: &Damage) {
    let made = view.committed().filter(|s| s.graph.epoch == epoch).count();
    let how = format!(
        "this epoch of the config is not in the store, though newer ones are. Everything opens; but that the newer ones follow \
         from the one that the repository was made with cannot be verified any more, nor what held when {made} of the \
         snapshots were made under it"
    );
    damage.object(&objects::config(epoch), Invariant::I1, how);
}

/// **I2** Every segment that the newest base names, or a snapshot that is not in it, exists, has its hash, and opens.
///
/// The view verified those that it fetched: all of them, unless a local index was used.
pub(super) fn i2_segments(view: &View, damage: &Damage) {
    for problem in of_kind(view, ProblemKind::Damaged, "idx/") {
        damage.object(&object(problem), Invariant::I2, problem.message.clone());
    }
}

fn of_kind<'v>(view: &'v View, kind: ProblemKind, of: &'static str) -> impl Iterator<Item = &'v Problem> {
    view.problems.iter().filter(move |p| p.kind == kind && p.path.starts_with(of))
}

fn object(problem: &Problem) -> String {
    problem.path.to_string_lossy().into_owned()
}

/// **I8** Every snapshot that the base, or another one's view or chain names exists, or was forgotten.
///
/// The view tells of those that base and views name; the chain is followed here. Returns false where it cannot be told,
/// because a prune is under way, or left records that this program does not read.
pub(super) fn i8_named(repo: &Repository, view: &View, damage: &Damage) -> Result<bool> {
    let removed = of_kind(view, ProblemKind::Missing, "snap/").map(|p| (object(p), p.message.clone()));
    let mut absent: BTreeMap<String, String> = removed.collect();
    for (id, of) in broken_chains(view) {
        let of = objects::snapshot(of.at.writer, of.at.session);
        absent.insert(format!("snapshot {id}"), format!("{of} names it, and it is not there"));
    }
    if absent.is_empty() {
        return Ok(true);
    }
    if !repo.bridge().wait(repo.store().list("gc/", None))?.objects.is_empty() {
        return Ok(false);
    }
    absent.into_iter().for_each(|(object, how)| damage.object(&object, Invariant::I8, how));
    Ok(true)
}

/// Ids that a snapshot names as the one before it or as its part, and that nothing else tells of.
///
/// None once a floor has risen: forgotten snapshots below it are remembered by nobody, and a chain gives no session to compare
/// with it. Those that are not forgotten are named by the base and by views, which give theirs.
fn broken_chains(view: &View) -> Vec<(SnapshotId, &Snapshot)> {
    if !view.base.base.floors.is_empty() {
        return Vec::new();
    }
    let named = view.snapshots.iter().flat_map(|s| &s.graph.view.snapshots).chain(&view.base.base.snapshots);
    let named = named.chain(view.forgotten.iter().map(|f| &f.at)).map(|at| at.id);
    let known: HashSet<SnapshotId> = named.chain(view.snapshots.iter().map(Snapshot::id)).collect();
    let chain = |s: &'_ Snapshot| s.graph.previous.into_iter().chain(s.graph.parts.clone()).collect::<Vec<_>>();
    let links = view.snapshots.iter().flat_map(|s| chain(s).into_iter().map(move |id| (id, s)));
    links.filter(|(id, _)| !known.contains(id)).collect()
}

/// **I9** Every base, pin, verdict and record of forgotten snapshots opens at its key, bases are chained, and every key slot
/// has its form.
pub(super) fn i9_small_objects(repo: &Repository, view: &View, verdicts: &[Problem], damage: &Damage) -> Result<()> {
    let forgets: Vec<&Problem> = of_kind(view, ProblemKind::Damaged, "forget/").collect();
    let of_bases = repo.verify_bases()?;
    for problem in of_bases.iter().chain(verdicts).chain(forgets) {
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
