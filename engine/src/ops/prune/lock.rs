//! Retention of what is live, in a bucket with Object Lock (`--lock-extend`): extended, and read back.
//!
//! **Guarantees.** An object counts as locked only if the bucket, asked afterwards, says so. Nothing is ever shortened or
//! weakened. What ends later than in half of the time asked for is left as it is, so a repeat costs one request an object.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::progress::{Cancel, Problem, ProblemKind, Progress};
use crate::repo::Repository;
use crate::store::retention::{Held, Keeper, Mode, Promises, Retention, Versioning, held};
use crate::store::{Key, Store, StoreError};

/// Longest time that can be asked for: what AWS takes, in days.
pub const DAYS_MAX: u64 = 36_500;
/// Shortest: below that, clocks that differ a little decide.
pub const SECONDS_MIN: u64 = 3600;
/// Objects that are named as problems one by one.
const NAMED_MAX: u64 = 20;

/// Objects between two looks whether the operation was asked to end.
const BATCH: usize = 256;

/// What to extend to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extend {
    /// From now on, [`SECONDS_MIN`] to [`DAYS_MAX`].
    pub by: Duration,
    /// `None`: the bucket's default mode, else governance.
    pub mode: Option<Mode>,
}

/// What has come of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extended {
    /// The mode asked for.
    pub mode: Mode,
    /// What was asked for, in seconds since 1970.
    pub until: u64,
    /// Live objects.
    pub objects: u64,
    /// Of these, extended (in a dry run: what would be).
    pub extended: u64,
    /// Of these, what the bucket does not keep until then.
    pub failed: u64,
}

/// What the bucket says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// What it promises.
    pub promises: Promises,
    /// Old versions; `None`: none are kept.
    pub held: Option<Held>,
    /// What keys begin with in the bucket.
    pub root: String,
}

/// Where and how retention is to be set, once it is clear that it can be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    mode: Mode,
    now: u64,
    until: u64,
}

/// Refuses before anything is done where retention cannot be set.
pub(super) fn plan(repo: &Repository, extend: Extend) -> Result<Plan> {
    let location = repo.store().location();
    let Some(keeper) = repo.store().keeper() else {
        return Err(Error::Invalid(format!(
            "{location} is no bucket, so nothing in it can be locked (--lock-extend). What a directory holds is protected by \
             who may write there: keep a second copy out of reach (copal copy), or prune without --lock-extend"
        )));
    };
    let Some(lock) = repo.bridge().wait(keeper.promises())?.lock else {
        return Err(Error::Invalid(format!(
            "the bucket of {location} has no Object Lock, so --lock-extend can lock nothing; nothing was done. Object Lock is \
             chosen when a bucket is made (aws s3api create-bucket --object-lock-enabled-for-bucket): make one, copy the \
             repository there (copal copy), or prune without --lock-extend"
        )));
    };
    let (least, most) = (Duration::from_secs(SECONDS_MIN), Duration::from_secs(DAYS_MAX * 86_400));
    if extend.by < least || extend.by > most {
        return Err(Error::Invalid(format!("--lock-extend takes from 1h to {DAYS_MAX}d")));
    }
    let mode = extend.mode.or(lock.default.map(|(mode, _)| mode)).unwrap_or(Mode::Governance);
    let now = repo.options().clock.now().secs.unsigned_abs();
    Ok(Plan { mode, now, until: now + extend.by.as_secs() })
}

impl Plan {
    /// Half of the time is left at least, and nobody who must not can shorten it.
    fn is_enough(&self, there: Option<Retention>) -> bool {
        there.is_some_and(|r| r.until >= self.now + (self.until - self.now) / 2 && r.mode >= self.mode)
    }

    /// What to ask for where there is not enough: never weaker than what is there.
    fn wanted(&self, there: Option<Retention>) -> Retention {
        let before = there.filter(|r| r.until > self.now);
        let mode = before.map_or(self.mode, |r| r.mode.max(self.mode));
        Retention { mode, until: before.map_or(self.until, |r| r.until.max(self.until)) }
    }
}

/// What became of one object.
enum Outcome {
    Kept,
    Extended,
    Failed(Key, String),
    /// Another prune has deleted it.
    Gone,
}

/// Extends the retention of `live`, some at once.
pub(super) fn extend(
    repo: &Repository,
    plan: Plan,
    live: Vec<Key>,
    dry_run: bool,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Extended> {
    let mut outcomes = Vec::with_capacity(live.len());
    for batch in live.chunks(BATCH) {
        if cancel.is_canceled() {
            return Err(Error::Interrupted);
        }
        outcomes.extend(repo.bridge().map(batch.to_vec(), repo.options().connections, |object| {
            let store = Arc::clone(repo.store());
            async move { one(store.as_ref(), plan, object, dry_run).await.map_err(Error::from) }
        })?);
    }
    let mut sum = Extended { mode: plan.mode, until: plan.until, objects: 0, extended: 0, failed: 0 };
    for outcome in outcomes {
        sum.objects += u64::from(!matches!(outcome, Outcome::Gone));
        sum.extended += u64::from(matches!(outcome, Outcome::Extended));
        let Outcome::Failed(object, message) = outcome else { continue };
        sum.failed += 1;
        if sum.failed <= NAMED_MAX {
            progress.problem(Problem { kind: ProblemKind::Attribute, path: object.as_str().into(), message });
        }
    }
    Ok(sum)
}

async fn one(store: &dyn Store, plan: Plan, object: Key, dry_run: bool) -> Result<Outcome, StoreError> {
    let keeper = store.keeper().expect("it was one when this was planned");
    match attempt(keeper, plan, &object, dry_run).await {
        Ok(outcome) => Ok(outcome),
        Err(StoreError::NotFound { .. }) => Ok(Outcome::Gone),
        // These are about the object; any other error is about the way there.
        Err(e @ (StoreError::Denied { .. } | StoreError::Failed { .. } | StoreError::Wrong { .. })) => {
            let cause = std::error::Error::source(&e).map(|c| format!(": {c}")).unwrap_or_default();
            Ok(Outcome::Failed(object, format!("its retention was not extended: {e}{cause}")))
        }
        Err(e) => Err(e),
    }
}

async fn attempt(keeper: &dyn Keeper, plan: Plan, object: &Key, dry_run: bool) -> Result<Outcome, StoreError> {
    let there = keeper.retention(object).await?;
    if plan.is_enough(there) {
        return Ok(Outcome::Kept);
    }
    if dry_run {
        return Ok(Outcome::Extended);
    }
    let wanted = plan.wanted(there);
    keeper.retain(object, wanted).await?;
    let found = keeper.retention(object).await?;
    if found.is_some_and(|r| r.until >= wanted.until && r.mode >= wanted.mode) {
        return Ok(Outcome::Extended);
    }
    let message = match found {
        None => "the store accepted its retention, and says now that it has none".into(),
        Some(r) => format!(
            "the store accepted its retention ({} until second {} since 1970), and says now {} until {}",
            wanted.mode, wanted.until, r.mode, r.until
        ),
    };
    Ok(Outcome::Failed(object.clone(), message))
}

/// What the bucket promises, and what it holds on to. `None`: no bucket, or it does not say.
pub(super) fn bucket(repo: &Repository) -> Result<Option<Bucket>> {
    let Some(keeper) = repo.store().keeper() else { return Ok(None) };
    let asked = async {
        let promises = keeper.promises().await?;
        let held = match promises.versioning {
            Versioning::Off => None,
            _ => Some(held(keeper).await?),
        };
        Ok(Bucket { promises, held, root: keeper.root() })
    };
    match repo.bridge().wait(asked) {
        Ok(bucket) => Ok(Some(bucket)),
        Err(e @ (StoreError::Denied { .. } | StoreError::Failed { .. })) => {
            tracing::debug!("what the bucket keeps is not known: {e}");
            Ok(None)
        }
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_shortened_or_weakened() {
        let plan = Plan { mode: Mode::Governance, now: 1000, until: 2000 };
        let r = |mode, until| Some(Retention { mode, until });
        for (there, enough) in [
            (None, false),
            (r(Mode::Governance, 900), false),
            (r(Mode::Governance, 1499), false),
            (r(Mode::Governance, 1500), true),
            (r(Mode::Compliance, 1500), true),
        ] {
            assert_eq!(plan.is_enough(there), enough, "{there:?}");
        }
        let strict = Plan { mode: Mode::Compliance, ..plan };
        assert!(!strict.is_enough(r(Mode::Governance, 9000)));
        assert_eq!(Some(strict.wanted(r(Mode::Governance, 9000))), r(Mode::Compliance, 9000));
        assert_eq!(Some(plan.wanted(r(Mode::Compliance, 1100))), r(Mode::Compliance, 2000));
        // What has ended binds nobody.
        assert_eq!(Some(plan.wanted(r(Mode::Compliance, 900))), r(Mode::Governance, 2000));
        assert_eq!(Some(plan.wanted(None)), r(Mode::Governance, 2000));
    }
}
