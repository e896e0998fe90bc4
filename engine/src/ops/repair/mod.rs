//! Repair: what is damaged stops being in the way, and nothing that can still be read is lost by it.
//!
//! ```text
//! index       segments that are missing or damaged, listed anew from the packs; packs that are gone, no more     index.rs
//! packs       what still opens of damaged packs, stored anew                                                      packs.rs
//! snapshots   snapshots of which something is lost, made anew without that                                        snapshots.rs
//! ```
//! In this order: each relies on what the one before it has put right. What is damaged is copied to `lost/…` as it is before
//! anything stops naming it. Each may be repeated: what is right stays as it is.

pub mod index;
pub mod packs;
pub mod snapshots;

use crate::error::{Error, Result};
use crate::format::bundle::Role;
use crate::format::config::Use;
use crate::progress::{Problem, ProblemKind};
use crate::repo::{Repository, View};

/// Whether this key may repair: bases and snapshots are made anew, and content is read.
pub fn may_repair(repo: &Repository) -> Result<()> {
    const VERB: &str = "repair a repository";
    if repo.role() != Role::Owner {
        return Err(Error::NotAllowed { role: repo.role().as_str(), what: VERB, needed: "owner" });
    }
    [Use::Read, Use::Write, Use::Maintain].into_iter().try_for_each(|what| repo.may(what, VERB))
}

/// Index segments of a view that are missing or damaged.
fn bad_segments(view: &View) -> impl Iterator<Item = &Problem> {
    view.problems.iter().filter(|p| p.kind == ProblemKind::Damaged && p.path.starts_with("idx"))
}

/// What is lost cannot be told while parts of the index cannot be read.
fn index_is_whole(view: &View) -> Result<()> {
    match bad_segments(view).next() {
        None => Ok(()),
        Some(first) => {
            Err(Error::damaged(first.path.display().to_string(), "run copal repair index first; nothing was changed"))
        }
    }
}
