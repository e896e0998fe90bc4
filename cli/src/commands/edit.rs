//! What `tag`, `rewrite` and `repair snapshots` have in common: which snapshots, one call of the engine, a line for each that was changed.

use std::sync::Arc;

use anyhow::Result;
use copal_engine::crypto::rng::SystemRng;
use copal_engine::format::bundle::Identity;
use copal_engine::ops::{Edited, may_edit};
use copal_engine::progress::{Cancel, Progress};
use copal_engine::repo::{Committed, Repository, Snapshot};

use crate::open::Context;
use crate::progress::Shown;
use crate::select::{Filter, choose};

/// What the engine edits, for whom, and who watches.
pub(super) struct Of<'a> {
    pub(super) repo: &'a Arc<Repository>,
    pub(super) who: &'a Identity,
    /// In order of time.
    pub(super) chosen: &'a [&'a Snapshot],
    pub(super) watched: (&'a dyn Progress, &'a Cancel),
}

/// Chooses snapshots and edits them; how many were changed, and how many problems there were. `during` names the command,
/// `verb` what it does to snapshots.
pub(super) fn edit(
    context: &Context,
    (during, verb): (&'static str, &'static str),
    (ids, filter): (&[String], &Filter),
    print: impl Fn(&Context, &Edited) -> Result<()>,
    run: impl FnOnce(&Of<'_>, &mut dyn FnMut(&Edited)) -> Result<(), copal_engine::Error>,
) -> Result<(u64, u64)> {
    let mut repo = context.repository()?;
    may_edit(&repo, verb)?;
    let who = repo.identity(&mut SystemRng)?;
    let repo = Arc::new(repo);
    let Committed { snapshots, forgotten, problems, .. } = repo.committed()?;
    problems.iter().for_each(|p| context.out.warn(p.to_string()));
    let mut chosen = choose(&snapshots, &forgotten, ids, filter)?;
    chosen.sort_by_key(|s| (s.graph.time, s.at));
    chosen.dedup_by_key(|s| s.at);
    context.catch_interrupts()?;
    let shown = Shown::start(context, during);
    let (mut count, mut printed) = (0, Ok(()));
    let mut each = |edited: &Edited| {
        count += 1;
        if printed.is_ok() {
            printed = print(context, edited);
        }
    };
    let watched = (shown.progress(), &*context.cancel);
    let done = run(&Of { repo: &repo, who: &who, chosen: &chosen, watched }, &mut each);
    let refused = shown.finish();
    done?;
    printed?;
    Ok((count, refused.count + problems.len() as u64))
}
