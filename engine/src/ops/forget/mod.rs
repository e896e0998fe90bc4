//! Forget: which snapshots a policy keeps, group by group.
//!
//! **Expected flow**: [`Record::of`] each snapshot → [`plan`] → [`Repository::forget`](crate::repo::Repository::forget) what the
//! groups remove. Nothing here reads or writes a store.

pub mod group;
pub mod policy;

use crate::format::node::Timestamp;

pub use group::{GroupBy, GroupKey, Record};
pub use policy::{Clock, Count, Period, Policy, Span};

use policy::apply;

/// What becomes of one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// What its snapshots have in common.
    pub key: GroupKey,
    /// Positions in the records, newest first, and why each is kept.
    pub keep: Vec<(usize, Vec<String>)>,
    /// Positions in the records, newest first.
    pub remove: Vec<usize>,
}

/// Applies a policy to each group of `records`, which may be in any order; groups in the order of their keys.
pub fn plan(records: &[Record], by: GroupBy, policy: &Policy, now: Timestamp, clock: Clock<'_>) -> Vec<Group> {
    let groups = group::groups(records, by).into_iter();
    groups
        .map(|(key, mut members)| {
            members.sort_by_key(|&at| (records[at].time, records[at].at));
            members.reverse();
            let kept = apply(&members.iter().map(|&at| &records[at]).collect::<Vec<_>>(), policy, now, clock);
            let mut group = Group { key, keep: Vec::new(), remove: Vec::new() };
            for (at, reasons) in members.into_iter().zip(kept) {
                if reasons.is_empty() { group.remove.push(at) } else { group.keep.push((at, reasons)) }
            }
            group
        })
        .collect()
}

#[cfg(test)]
mod tests;
