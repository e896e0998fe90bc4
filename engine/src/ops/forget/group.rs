//! Snapshots as policies see them, and what they are grouped by.

use std::collections::BTreeMap;

use crate::format::node::Timestamp;
use crate::format::snapshot::SnapshotRef;
use crate::repo::Snapshot;

/// What a policy looks at.
///
/// Where a key does not open the names, the keyed hashes of the graph part stand for them: equal ones are equal all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its key and id.
    pub at: SnapshotRef,
    /// When the backup began.
    pub time: Timestamp,
    /// Whether what follows are names; else hashes of 32 bytes.
    pub named: bool,
    /// Host.
    pub host: Vec<u8>,
    /// Paths, sorted.
    pub paths: Vec<Vec<u8>>,
    /// Labels (`--tag`), sorted.
    pub labels: Vec<Vec<u8>>,
}

impl Record {
    /// Of a snapshot.
    pub fn of(snapshot: &Snapshot) -> Self {
        let graph = &snapshot.graph;
        let sorted = |mut list: Vec<Vec<u8>>| {
            list.sort();
            list
        };
        let hashes = |list: &[[u8; 32]]| list.iter().map(|hash| hash.to_vec()).collect();
        let (host, paths, labels) = match &snapshot.names {
            Some(names) => (names.host.clone(), names.paths.clone(), names.labels.clone()),
            None => (graph.host.to_vec(), hashes(&graph.paths), hashes(&graph.labels)),
        };
        let (paths, labels) = (sorted(paths), sorted(labels));
        Self { at: snapshot.at, time: graph.time, named: snapshot.names.is_some(), host, paths, labels }
    }
}

/// What snapshots are grouped by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupBy {
    /// Of one host.
    pub host: bool,
    /// With the same paths.
    pub paths: bool,
    /// With the same labels.
    pub tags: bool,
}

/// What the snapshots of a group have in common; empty where they are not grouped by it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupKey {
    /// Whether these are names; else hashes, and where nothing is grouped by either.
    pub named: bool,
    /// The host.
    pub host: Vec<u8>,
    /// The paths, sorted.
    pub paths: Vec<Vec<u8>>,
    /// The labels, sorted.
    pub tags: Vec<Vec<u8>>,
}

impl GroupBy {
    /// The group that a snapshot belongs to.
    pub fn key(self, record: &Record) -> GroupKey {
        let pick = |wanted: bool, list: &Vec<Vec<u8>>| if wanted { list.clone() } else { Vec::new() };
        GroupKey {
            named: record.named && self != Self::default(),
            host: if self.host { record.host.clone() } else { Vec::new() },
            paths: pick(self.paths, &record.paths),
            tags: pick(self.tags, &record.labels),
        }
    }
}

/// The positions of each group's records, in the order of the records.
pub fn groups(records: &[Record], by: GroupBy) -> BTreeMap<GroupKey, Vec<usize>> {
    let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (at, record) in records.iter().enumerate() {
        groups.entry(by.key(record)).or_default().push(at);
    }
    groups
}
