//! Who may sign, as the config says.
//!
//! A repository knows the epoch that it was opened with, and members are enrolled while it is open: an owner's machine by its
//! first backup. So nobody counts as unknown before the chain was read again, after the object that he has signed.

use std::cell::Cell;
use std::sync::Arc;

use crate::crypto::sign::VerifyingKey;
use crate::error::Result;
use crate::format::base::SIGNED_BY_ROOT;
use crate::format::config::{Config, Member};
use crate::id::WriterId;

use super::open::{Repository, current_config};

/// The members of one epoch of the config.
pub(crate) struct Members<'c> {
    config: &'c Config,
    /// Whether somebody was asked for who is none of them.
    missed: Cell<bool>,
}

impl<'c> Members<'c> {
    fn of(config: &'c Config) -> Self {
        Self { config, missed: Cell::new(false) }
    }

    /// The member of this id, revoked or not.
    pub(crate) fn member(&self, who: WriterId) -> Option<&'c Member> {
        let member = self.config.member(who);
        self.missed.set(self.missed.get() || member.is_none());
        member
    }

    /// Who may say what shall go: ROOT or a maintainer. A revoked one's word still counts here: to reuse less harms nobody.
    pub(crate) fn of_maintenance(&self, who: WriterId) -> Option<VerifyingKey> {
        if who == SIGNED_BY_ROOT {
            return Some(self.config.root);
        }
        self.member(who).filter(|m| m.maintainer).map(|m| m.key)
    }

    /// Who may sign base `n`: ROOT or a maintainer. What was made before a revocation counts on.
    pub(crate) fn of_base(&self, n: u64, who: WriterId) -> Option<VerifyingKey> {
        if who == SIGNED_BY_ROOT {
            return Some(self.config.root);
        }
        self.member(who).filter(|m| m.maintainer && m.revoked.is_none_or(|r| n <= r.base)).map(|m| m.key)
    }
}

/// Judges what others have signed. For objects that were all read before the first is judged: the chain is read again once at
/// most, so that many unknown signers cost no more than one.
pub(crate) struct Signers<'r> {
    repo: &'r Repository,
    again: bool,
}

impl<'r> Signers<'r> {
    pub(crate) fn new(repo: &'r Repository) -> Self {
        Self { repo, again: false }
    }

    /// What `judge` says by the members that are known; once more where it asks for somebody who is none, because its signer may
    /// have been enrolled since.
    pub(crate) async fn judge<T>(&mut self, judge: impl Fn(&Members<'_>) -> T) -> Result<T> {
        if let Some(judged) = if_all_known(&self.repo.config, &judge) {
            return Ok(judged);
        }
        let mut newest = self.repo.newest_config();
        if let Some(judged) = newest.as_deref().and_then(|config| if_all_known(config, &judge)) {
            return Ok(judged);
        }
        if !self.again || newest.is_none() {
            let config = Arc::new(current_config(&self.repo.store, &self.repo.bundle).await?);
            self.repo.remember_config(&config);
            (self.again, newest) = (true, Some(config));
        }
        Ok(judge(&Members::of(newest.as_deref().unwrap_or(&self.repo.config))))
    }
}

fn if_all_known<T>(config: &Config, judge: &impl Fn(&Members<'_>) -> T) -> Option<T> {
    let members = Members::of(config);
    let judged = judge(&members);
    (!members.missed.get()).then_some(judged)
}

impl Repository {
    /// Judges one object, as [`Signers::judge`]. Blocks.
    pub(crate) fn judge<T>(&self, judge: impl Fn(&Members<'_>) -> T) -> Result<T> {
        self.bridge.wait(Signers::new(self).judge(judge))
    }
}
