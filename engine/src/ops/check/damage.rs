//! What was found: damaged objects, and which copies of blobs are lost with them.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Mutex;

use crate::format::blob::{BlobKind, Class};
use crate::format::objects;
use crate::id::{BlobId, PackId, SnapshotId};
use crate::repo::index::{Found, Index};

use super::lists::Pack;

/// Findings that are listed; the count tells of the rest.
pub const FINDINGS_MAX: usize = 1000;
/// Places that are listed for each finding; the count tells of the rest.
pub const HURTS_MAX: usize = 100;
/// Different faults of one object that are told.
const FAULTS_MAX: usize = 10;
/// Blobs that no segment lists and that are remembered one by one to be counted once.
const ABSENT_MAX: usize = 64 << 10;

/// What docs/format.md "Invariants that `check` verifies" numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// Snapshots are signed.
    I1,
    /// Segments exist and open.
    I2,
    /// Packs exist with their size.
    I3,
    /// What is reachable is in the index.
    I4,
    /// Trees open and match.
    I5,
    /// Packs are whole and agree with the index.
    I6,
    /// Frames open and blobs have their ids.
    I7,
    /// Named snapshots exist.
    I8,
    /// Pins, verdicts and slots.
    I9,
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// One way in which an object is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Which sentence of the format it offends against.
    pub invariant: Invariant,
    /// What is wrong.
    pub what: String,
}

/// Where a snapshot is hurt.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A file or directory, absolute.
    Path(Vec<u8>),
    /// A directory without its name, which this key does not read: its tree.
    Tree(BlobId),
}

/// Something that cannot be restored whole.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hurt {
    /// In which snapshot.
    pub snapshot: SnapshotId,
    /// A file; or a directory, with everything below it.
    pub place: Place,
}

/// One damaged object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its key; `tree blob <id>` for a directory that makes no sense; `index` for what no segment lists.
    pub object: String,
    /// What is wrong with it, each invariant once.
    pub faults: Vec<Fault>,
    /// How many blobs were found to be lost with it. For a missing or cut pack nobody counted: 0.
    pub blobs: u64,
    /// The first [`HURTS_MAX`] places that suffer from it, each once. Blobs with a sound copy elsewhere hurt nothing.
    pub hurts: Vec<Hurt>,
    /// How many there are; where [`super::Report::hurts_complete`] is false, at least so many.
    pub hurt_count: u64,
}

/// What is lost with a damaged pack.
#[derive(Debug)]
pub(super) enum Bad {
    /// No blob, as far as is known.
    Nothing,
    /// All of them.
    All,
    /// Copies that do not end before this byte.
    Beyond(u64),
    /// All content, which this key cannot look at.
    Content,
    /// These blobs.
    Blobs(Vec<BlobId>),
    /// All copies of other blobs than these.
    Except(HashSet<BlobId>),
}

#[derive(Debug, Default)]
struct BadPack {
    finding: usize,
    all: bool,
    content: bool,
    beyond: Option<u64>,
    blobs: HashSet<BlobId>,
    except: Option<HashSet<BlobId>>,
}

impl BadPack {
    fn holds(&self, copy: &Found) -> bool {
        let end = u64::from(copy.entry.offset) + u64::from(copy.entry.stored);
        self.all
            || (self.content && copy.entry.kind.class() == Class::Content)
            || self.beyond.is_some_and(|size| end > size)
            || self.except.as_ref().is_some_and(|known| !known.contains(&copy.entry.id))
            || self.blobs.contains(&copy.entry.id)
    }
}

/// Number of a finding that is counted and not listed.
pub(super) const UNLISTED: usize = usize::MAX;

/// Everything found so far. Safe to share.
#[derive(Debug, Default)]
pub(super) struct Damage(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    findings: Vec<Finding>,
    unlisted: u64,
    by_object: HashMap<String, usize>,
    packs: HashMap<PackId, BadPack>,
    absent: HashSet<BlobId>,
    absent_finding: Option<usize>,
    trees: HashMap<BlobId, usize>,
    entries: HashMap<(BlobId, usize), usize>,
}

impl Inner {
    fn add(&mut self, object: &str, invariant: Invariant, what: String) -> usize {
        let n = match self.by_object.get(object) {
            Some(n) => *n,
            None if self.findings.len() == FINDINGS_MAX => {
                self.unlisted += 1;
                return UNLISTED;
            }
            None => {
                self.by_object.insert(object.to_owned(), self.findings.len());
                let object = object.to_owned();
                self.findings.push(Finding { object, faults: Vec::new(), blobs: 0, hurts: Vec::new(), hurt_count: 0 });
                self.findings.len() - 1
            }
        };
        let faults = &mut self.findings[n].faults;
        if faults.len() < FAULTS_MAX && faults.iter().all(|f| f.invariant != invariant) {
            faults.push(Fault { invariant, what });
        }
        n
    }

    fn count_blobs(&mut self, finding: usize, count: usize) {
        if let Some(finding) = self.findings.get_mut(finding) {
            finding.blobs += count as u64;
        }
    }

    fn is_bad(&self, copy: &Found) -> bool {
        !self.packs.is_empty() && self.packs.get(&copy.pack_id()).is_some_and(|bad| bad.holds(copy))
    }
}

impl Damage {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().expect("no panic while held")
    }

    /// An object that holds no blobs.
    pub(super) fn object(&self, object: &str, invariant: Invariant, what: impl Into<String>) {
        self.lock().add(object, invariant, what.into());
    }

    /// A pack, and what is lost with it.
    pub(super) fn pack(&self, pack: &Pack, invariant: Invariant, what: impl Into<String>, bad: Bad) {
        let mut inner = self.lock();
        let finding = match inner.packs.get(&pack.id) {
            // Counted once, when it was found first.
            Some(known) if known.finding == UNLISTED => UNLISTED,
            _ => inner.add(&pack.key(), invariant, what.into()),
        };
        let entry = inner.packs.entry(pack.id).or_default();
        entry.finding = finding;
        let before = entry.blobs.len();
        match bad {
            Bad::Nothing => {}
            Bad::All => entry.all = true,
            Bad::Content => entry.content = true,
            Bad::Beyond(size) => entry.beyond = Some(size),
            Bad::Blobs(ids) => entry.blobs.extend(ids),
            Bad::Except(known) => entry.except = Some(known),
        }
        let more = entry.blobs.len() - before;
        inner.count_blobs(finding, more);
    }

    /// Whether a copy does not end before its pack does in the store, so that there is nothing to ask the store for.
    pub(super) fn lies_beyond(&self, copy: &Found) -> bool {
        let end = u64::from(copy.entry.offset) + u64::from(copy.entry.stored);
        let inner = self.lock();
        inner.packs.get(&copy.pack_id()).and_then(|bad| bad.beyond).is_some_and(|size| end > size)
    }

    /// A pack of another size than it should have was read blob by blob: what is lost is known by now.
    pub(super) fn forget_size(&self, pack: &PackId) {
        if let Some(bad) = self.lock().packs.get_mut(pack) {
            bad.beyond = None;
        }
    }

    /// A blob that no segment lists. Where one segment is damaged, that is why.
    pub(super) fn absent(&self, id: &BlobId, kind: BlobKind) {
        let mut inner = self.lock();
        if inner.absent.len() >= ABSENT_MAX || !inner.absent.insert(*id) {
            return;
        }
        let finding = inner.absent_finding.unwrap_or_else(|| {
            let mut damaged = inner.by_object.keys().filter(|object| object.starts_with("idx/"));
            let object = match (damaged.next(), damaged.next()) {
                (Some(only), None) => only.clone(),
                _ => "index".into(),
            };
            let what = format!(
                "blobs that snapshots need are in no index segment that can be read, {} blob {} among them",
                kind.as_str(),
                id.short()
            );
            inner.add(&object, Invariant::I4, what)
        });
        inner.absent_finding = Some(finding);
        inner.count_blobs(finding, 1);
    }

    /// A tree that makes no sense: everything below it is lost.
    pub(super) fn tree(&self, id: &BlobId, what: impl Into<String>) {
        let mut inner = self.lock();
        if !inner.trees.contains_key(id) {
            let finding = inner.add(&format!("tree blob {id}"), Invariant::I5, what.into());
            inner.trees.insert(*id, finding);
        }
    }

    /// An entry of a tree, counted from 0, that makes no sense: one file is lost.
    pub(super) fn entry(&self, tree: &BlobId, n: usize, what: impl fmt::Display) {
        let mut inner = self.lock();
        let finding = inner.add(&format!("tree blob {tree}"), Invariant::I5, format!("entry {n}: {what}"));
        inner.entries.insert((*tree, n), finding);
    }

    /// Whether all of a pack is known to be lost.
    pub(super) fn is_gone(&self, pack: &PackId) -> bool {
        self.lock().packs.get(pack).is_some_and(|bad| bad.all)
    }

    /// Whether nothing was found.
    pub(super) fn is_empty(&self) -> bool {
        let inner = self.lock();
        inner.findings.is_empty() && inner.unlisted == 0
    }

    /// Whether this copy is known to be lost.
    pub(super) fn is_bad(&self, copy: &Found) -> bool {
        self.lock().is_bad(copy)
    }

    /// Why a blob cannot be read: numbers of findings, none if it can.
    pub(super) fn causes(&self, index: &Index, id: &BlobId, kind: BlobKind, copies: &mut Vec<Found>) -> Vec<usize> {
        index.lookup(id, copies);
        copies.retain(|copy| copy.entry.kind == kind);
        let inner = self.lock();
        let mut causes: Vec<usize> = match copies.is_empty() {
            true => inner.absent_finding.into_iter().collect(),
            false if copies.iter().all(|copy| inner.is_bad(copy)) => {
                copies.iter().map(|copy| inner.packs[&copy.pack_id()].finding).collect()
            }
            false => Vec::new(),
        };
        causes.extend(inner.trees.get(id).filter(|_| kind == BlobKind::Tree));
        causes.sort_unstable();
        causes.dedup();
        causes
    }

    /// Why an entry of a tree makes no sense.
    pub(super) fn entry_cause(&self, tree: &BlobId, n: usize) -> Option<usize> {
        self.lock().entries.get(&(*tree, n)).copied()
    }

    /// Notes a place that suffers from a finding. The same snapshot's come one after another.
    pub(super) fn hurt(&self, finding: usize, hurt: &Hurt) {
        let mut inner = self.lock();
        let Some(finding) = inner.findings.get_mut(finding) else { return };
        if finding.hurts.last() == Some(hurt) {
            return;
        }
        finding.hurt_count += 1;
        if finding.hurts.len() < HURTS_MAX {
            finding.hurts.push(hurt.clone());
        }
    }

    /// Packs that are damaged and known by their id.
    pub(super) fn bad_packs(&self) -> Vec<PackId> {
        let mut packs: Vec<PackId> = self.lock().packs.keys().copied().collect();
        packs.sort_unstable();
        packs
    }

    /// The findings in the order of their objects, and how many more there are.
    pub(super) fn into_findings(self) -> (Vec<Finding>, u64) {
        let mut inner = self.0.into_inner().expect("no panic while held");
        inner.findings.sort_by(|a, b| a.object.cmp(&b.object));
        inner.findings.iter_mut().for_each(|f| f.faults.sort_by_key(|fault| fault.invariant));
        (inner.findings, inner.unlisted)
    }
}

impl Pack {
    /// Its key.
    pub(super) fn key(&self) -> String {
        objects::pack(self.writer, self.session, self.seq, self.id)
    }
}
