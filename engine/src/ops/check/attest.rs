//! Attestations: an owner signs that everything was verified; anybody with a key of the repository can check that.

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::format::attestation::Attestation;
use crate::id::SnapshotId;
use crate::repo::{Repository, Snapshot};

use super::Report;

/// What an attestation says, and of what it says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attested {
    /// What the owner signed.
    pub attestation: Attestation,
    /// Snapshots that it names and that are no longer there, sorted.
    pub gone: Vec<SnapshotId>,
    /// Snapshots that are there and that it does not name, sorted.
    pub since: Vec<SnapshotId>,
}

/// Refuses keys that sign no attestations; asked before a long check.
pub fn may_attest(repo: &Repository) -> Result<()> {
    repo.root("attest anything").map(drop)
}

/// Signs what a check found: the text of an attestation. Fails unless it found no damage and every pack was verified.
pub fn attest(repo: &Repository, report: &Report) -> Result<String> {
    let root = repo.root("attest anything")?;
    if report.errors > 0 {
        return Err(Error::Invalid(format!("{} objects are damaged, so nothing is attested", report.errors)));
    }
    let Some((verified_from, verified_to)) = report.verified else {
        let how = match report.packs {
            0 => "there is nothing yet that could be",
            _ => "check with --read-data and without --max-duration",
        };
        return Err(Error::Invalid(format!("not every pack was verified, so nothing is attested; {how}")));
    };
    let attestation = Attestation {
        repository: repo.id(),
        made: repo.options().clock.now().secs.max(0) as u64,
        verified_from,
        verified_to,
        packs: report.packs,
        bytes: report.pack_bytes,
        snapshots: report.snapshot_ids.clone(),
    };
    Ok(attestation.encode(&root))
}

/// Checks the text of an attestation: that the owner of this repository signed it, and how it compares to what is there.
pub fn attested(repo: &Repository, text: &str) -> Result<Attested> {
    let refuse = |how: String| Error::Invalid(format!("this attestation says nothing about this repository: {how}"));
    let attestation = Attestation::decode(text, repo.root_key()).map_err(|e| refuse(e.to_string()))?;
    if attestation.repository != repo.id() {
        return Err(refuse(format!("it is of the repository {}", attestation.repository)));
    }
    let named: BTreeSet<SnapshotId> = attestation.snapshots.iter().copied().collect();
    let there: BTreeSet<SnapshotId> =
        repo.snapshots()?.0.iter().filter(|s| s.graph.root.is_some()).map(Snapshot::id).collect();
    Ok(Attested {
        gone: named.difference(&there).copied().collect(),
        since: there.difference(&named).copied().collect(),
        attestation,
    })
}
