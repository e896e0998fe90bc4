//! Tag: snapshots with other labels. A snapshot is never changed: a new one takes its place, and then the old one is forgotten.
//!
//! **Expected flow**: [`may_edit`] → choose among [`Repository::committed`] → [`tag`].

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::compress::Level;
use crate::crypto::rng::{Rng, split};
use crate::error::{Error, Result};
use crate::format::bundle::Identity;
use crate::format::snapshot::{LABELS_MAX, NamesPart};
use crate::id::SnapshotId;
use crate::ops::{Edited, abandon, commit_edited, edit_all, may_edit, names_of, persist, tree_of};
use crate::progress::{Cancel, Progress};
use crate::repo::session::Session;
use crate::repo::{Reader, Repository, Snapshot, rely};

const VERB: &str = "change the tags of snapshots";

/// What becomes of a snapshot's labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// These, and no others.
    Set(Vec<Vec<u8>>),
    /// First those go that are to be removed, then the others come.
    Edit {
        /// That it shall have.
        add: Vec<Vec<u8>>,
        /// That it shall not have.
        remove: Vec<Vec<u8>>,
    },
}

impl Change {
    /// The labels that come of `labels`, each once, those that stay in their order; `None` where they are the same ones.
    pub fn apply(&self, labels: &[Vec<u8>]) -> Option<Vec<Vec<u8>>> {
        let all: Vec<&Vec<u8>> = match self {
            Self::Set(set) => set.iter().collect(),
            Self::Edit { add, remove } => labels.iter().filter(|l| !remove.contains(l)).chain(add).collect(),
        };
        let mut seen = BTreeSet::new();
        let new: Vec<Vec<u8>> = all.into_iter().filter(|l| seen.insert(*l)).cloned().collect();
        (seen != labels.iter().collect()).then_some(new)
    }
}

/// Changes the labels of `chosen` as far as they are not already so; calls `done` for each that was changed, at once.
///
/// Each costs a session. Where it cannot be relied upon because something below it is missing, the snapshot stays as it is
/// and is a problem. `dry_run`: says what would be changed, and writes nothing.
#[expect(clippy::too_many_arguments, reason = "who, what, how, and whom to tell")]
pub fn tag(
    repo: &Arc<Repository>,
    who: &Identity,
    mut rng: Box<dyn Rng>,
    chosen: &[&Snapshot],
    change: &Change,
    dry_run: bool,
    (progress, cancel): (&dyn Progress, &Cancel),
    done: &mut dyn FnMut(&Edited),
) -> Result<()> {
    may_edit(repo, VERB)?;
    edit_all(repo, who, &mut *rng, chosen, (progress, cancel), done, |rng, old| {
        let Some(labels) = change.apply(&names_of(old)?.labels) else { return Ok(None) };
        if labels.len() > LABELS_MAX {
            return Err(Error::Invalid(format!("a snapshot takes up to {LABELS_MAX} tags, not {}", labels.len())));
        }
        let names = NamesPart { labels, ..names_of(old)?.clone() };
        let new = match dry_run {
            true => None,
            false => Some(persist(true, cancel, "this change", || one_session(repo, who, rng, old, &names, cancel))?),
        };
        Ok(Some(Edited::of(old.id(), new, names)))
    })
}

fn one_session(
    repo: &Arc<Repository>,
    who: &Identity,
    rng: &mut dyn Rng,
    old: &Snapshot,
    names: &NamesPart,
    cancel: &Cancel,
) -> Result<SnapshotId> {
    let session = Session::begin(Arc::clone(repo), who, Level::Auto.zstd(), false, Box::new(split(rng)))?;
    let root = tree_of(old)?;
    let memory = repo.options().memory as usize;
    let reader = Reader::new(Arc::clone(repo), Arc::clone(&session.view().index), (memory / 8).min(32 << 20));
    if let Err(e) = rely::rely_on(&session, &reader, &root, cancel) {
        return Err(abandon(session, e));
    }
    let new = commit_edited(session, old, names.clone(), root, old.graph.time)?.expect("it is no dry run");
    repo.forget(&[old.at])?;
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(words: &str) -> Vec<Vec<u8>> {
        words.split_whitespace().map(|word| word.as_bytes().to_vec()).collect()
    }

    #[test]
    fn labels_are_changed_as_was_asked() {
        let edit = |add: &str, remove: &str| Change::Edit { add: list(add), remove: list(remove) };
        for (change, before, after) in [
            (Change::Set(list("b a")), "x", Some("b a")),
            (Change::Set(list("b a b")), "a b", None),
            (Change::Set(list("")), "a", Some("")),
            (Change::Set(list("")), "", None),
            (edit("c a c", ""), "b a", Some("b a c")),
            (edit("a", ""), "b a", None),
            (edit("", "a x"), "b a c", Some("b c")),
            (edit("", "x"), "b a", None),
            (edit("a", "a"), "a b", None),
            (edit("c", "a"), "a b", Some("b c")),
        ] {
            assert_eq!(change.apply(&list(before)), after.map(list), "{change:?} of {before}");
        }
    }
}
