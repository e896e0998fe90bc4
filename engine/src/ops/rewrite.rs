//! Rewrite: snapshots without what should not be in them, or with another host or time. Trees are stored anew where something
//! leaves; files stay the blobs that they are, and are not read.
//!
//! **Expected flow**: [`may_edit`] → choose among [`Repository::committed`] → [`rewrite`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use crate::compress::Level;
use crate::crypto::rng::{Rng, split};
use crate::error::{Error, Result};
use crate::format::bundle::Identity;
use crate::format::meta::MetaEntry;
use crate::format::node::{Metadata, NodeKind, Timestamp};
use crate::format::snapshot::{Counts, LABELS_MAX, NamesPart};
use crate::format::tree::{DEPTH_MAX, TreeEntry, TreeKind};
use crate::id::{BlobId, SnapshotId};
use crate::ops::{Edited, abandon, commit_edited, edit_all, may_edit, names_of, persist, pool, tree_of};
use crate::progress::{Cancel, Problem, ProblemKind, Progress};
use crate::repo::save::Saver;
use crate::repo::session::Session;
use crate::repo::walk::{Descend, join};
use crate::repo::{Reader, Repository, Snapshot, directory, rely};
use crate::source::exclude::Exclude;

const VERB: &str = "rewrite snapshots";
/// The label of a new snapshot beside which the old one stays, so that the two can be told apart.
const LABEL: &[u8] = b"rewrite";

/// What shall become of snapshots.
#[derive(Debug, Default)]
pub struct Options {
    /// What leaves, by paths in the snapshot. Sizes and tagged directories do not count here.
    pub exclude: Option<Exclude>,
    /// The host that it shall be of.
    pub host: Option<Vec<u8>>,
    /// When it shall have been made.
    pub time: Option<Timestamp>,
    /// Forget the old ones. Else both stay, and the new one gets the tag `rewrite`.
    pub forget: bool,
    /// Only say what would leave.
    pub dry_run: bool,
}

/// Makes new snapshots of `chosen` as far as anything changes; calls `done` for each that was changed, at once.
///
/// One that is damaged where it should stay, or of which nothing would be left, stays as it is and is a problem.
pub fn rewrite(
    repo: &Arc<Repository>,
    who: &Identity,
    mut rng: Box<dyn Rng>,
    chosen: &[&Snapshot],
    options: &Options,
    (progress, cancel): (&dyn Progress, &Cancel),
    done: &mut dyn FnMut(&Edited),
) -> Result<()> {
    may_edit(repo, VERB)?;
    edit_all(repo, who, &mut *rng, chosen, (progress, cancel), done, |rng, old| {
        persist(true, cancel, "this rewrite", || one_session(repo, who, &mut *rng, old, options, (progress, cancel)))
    })
}

fn one_session(
    repo: &Arc<Repository>,
    who: &Identity,
    rng: &mut dyn Rng,
    old: &Snapshot,
    options: &Options,
    (progress, cancel): (&dyn Progress, &Cancel),
) -> Result<Option<Edited>> {
    let session = Session::begin(Arc::clone(repo), who, Level::Auto.zstd(), options.dry_run, Box::new(split(rng)))?;
    let before = tree_of(old)?;
    let (root, left) = match rebuild(&session, &before, options, progress, cancel) {
        Ok(rebuilt) => rebuilt,
        Err(e) => return Err(abandon(session, e)),
    };
    let Some(root) = root else {
        session.abandon();
        let message = "it stays as it is: nothing would be left of it; to get rid of it, forget it".into();
        let path = format!("snapshot {}", old.id().short()).into();
        progress.problem(Problem { kind: ProblemKind::Skipped, path, message });
        return Ok(None);
    };
    let mut names = names_of(old)?.clone();
    names.host = options.host.clone().unwrap_or(names.host);
    let time = options.time.unwrap_or(old.graph.time);
    if root == before && time == old.graph.time && names_of(old)?.host == names.host {
        session.abandon();
        return Ok(None);
    }
    left.taken_from(&mut names.counts);
    if !options.forget && names.labels.len() < LABELS_MAX && !names.labels.iter().any(|l| l == LABEL) {
        names.labels.push(LABEL.to_vec());
    }
    let new = match options.dry_run {
        true => None,
        false => commit(repo, session, old, (&names, root, time), options.forget)?,
    };
    let [files, dirs, others, bytes] = left.numbers();
    Ok(Some(Edited { left: [files, dirs, others], left_bytes: bytes, ..Edited::of(old.id(), new, names) }))
}

fn commit(
    repo: &Repository,
    session: Session,
    old: &Snapshot,
    (names, root, time): (&NamesPart, BlobId, Timestamp),
    forget: bool,
) -> Result<Option<SnapshotId>> {
    let new = commit_edited(session, old, names.clone(), root, time)?;
    if forget {
        repo.forget(&[old.at])?;
    }
    Ok(new)
}

/// The tree without what leaves, stored; `None` where nothing would be left of it. And what left.
fn rebuild(
    session: &Session,
    root: &BlobId,
    options: &Options,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<(Option<BlobId>, Left)> {
    let repo = session.repository();
    let memory = repo.options().memory as usize;
    let reader = Reader::new(Arc::clone(repo), Arc::clone(&session.view().index), (memory / 8).min(32 << 20));
    let Some(exclude) = &options.exclude else {
        rely::rely_on(session, &reader, root, cancel)?;
        return Ok((Some(*root), Left::default()));
    };
    let threads = repo.options().threads.max(1);
    let saver = Saver::new(session, threads, progress, cancel)?;
    let walk = Walk { saver, reader, exclude, kept: AtomicU64::new(0), left: Left::default() };
    let new = pool(threads)?.install(|| walk.directory(root, b"", 0))?;
    walk.saver.flush()?;
    let empty = new != *root && walk.kept.into_inner() == 0;
    Ok(((!empty).then_some(new), walk.left))
}

/// What left a snapshot: files, directories, other entries, bytes.
#[derive(Debug, Default)]
struct Left([AtomicU64; 4]);

impl Left {
    fn add(&self, metadata: &Metadata) {
        let (at, bytes) = match metadata.kind {
            NodeKind::File { size } => (0, size),
            NodeKind::Dir => (1, 0),
            _ => (2, 0),
        };
        self.0[at].fetch_add(1, Ordering::Relaxed);
        self.0[3].fetch_add(bytes, Ordering::Relaxed);
    }

    fn numbers(&self) -> [u64; 4] {
        [0, 1, 2, 3].map(|n| self.0[n].load(Ordering::Relaxed))
    }

    /// What is left of the sums that the backup counted: nobody knows which of its entries were new to it.
    fn taken_from(&self, counts: &mut Counts) {
        let [files, dirs, others, bytes] = self.numbers();
        take(files, &mut counts.files);
        take(dirs, &mut counts.dirs);
        counts.others = counts.others.saturating_sub(others);
        counts.bytes = counts.bytes.saturating_sub(bytes);
    }
}

/// Takes `n` off the unmodified, then the changed, then the new ones.
fn take(mut n: u64, of: &mut [u64; 3]) {
    for count in of.iter_mut().rev() {
        let taken = n.min(*count);
        *count -= taken;
        n -= taken;
    }
}

/// What becomes of an entry that does not stay as it is.
enum Change {
    Gone,
    Tree(BlobId),
}

struct Walk<'w> {
    saver: Saver<'w>,
    reader: Reader,
    exclude: &'w Exclude,
    /// Entries that stay.
    kept: AtomicU64,
    left: Left,
}

impl Walk<'_> {
    /// The tree of a directory without what leaves: the same one where nothing does.
    ///
    /// The first pass looks up everything that stays, and notes what changes; only where something does, a second one stores.
    fn directory(&self, tree: &BlobId, path: &[u8], depth: usize) -> Result<BlobId> {
        if depth > DEPTH_MAX {
            let how = format!("it is deeper than {DEPTH_MAX} directories");
            return Err(Error::damaged(format!("directory {}", tree.short()), how));
        }
        let (mut at, mut changes) = (0, Vec::new());
        self.reader.each_stretch(tree, &mut |stretch| {
            self.saver.check_cancel()?;
            let changed: Result<Vec<Option<Change>>> =
                stretch.par_iter().with_min_len(8).map(|(meta, entry)| self.entry(path, meta, entry, depth)).collect();
            changes.extend(changed?.into_iter().enumerate().filter_map(|(n, change)| Some((at + n, change?))));
            at += stretch.len();
            Ok(())
        })?;
        if changes.is_empty() {
            self.reader.each_directory_blob(tree, &mut |id, _| rely::has(self.saver.session(), &id))?;
            return Ok(*tree);
        }
        self.changed(tree, changes)
    }

    /// Stores a directory with `changes` at these places, which are in order.
    fn changed(&self, tree: &BlobId, changes: Vec<(usize, Change)>) -> Result<BlobId> {
        let mut builder = directory::Builder::new(&self.saver);
        let (mut at, mut changes) = (0, changes.into_iter().peekable());
        self.reader.each_stretch(tree, &mut |stretch| {
            for (meta, mut entry) in stretch {
                let change = changes.next_if(|(place, _)| *place == at).map(|(_, change)| change);
                at += 1;
                match change {
                    Some(Change::Gone) => continue,
                    Some(Change::Tree(tree)) => entry.children = vec![tree],
                    None => {}
                }
                builder.push(meta, entry)?;
            }
            Ok(())
        })?;
        builder.finish()
    }

    fn entry(&self, above: &[u8], meta: &MetaEntry, entry: &TreeEntry, depth: usize) -> Result<Option<Change>> {
        let path = join(above, &meta.name);
        if self.exclude.excluded_by_path(&path).is_some() {
            self.leaves(&path, meta, entry)?;
            return Ok(Some(Change::Gone));
        }
        self.kept.fetch_add(1, Ordering::Relaxed);
        if entry.kind == TreeKind::Dir {
            let old = entry.children[0];
            let new = self.directory(&old, &path, depth + 1)?;
            return Ok((new != old).then_some(Change::Tree(new)));
        }
        if !rely::has_file(self.saver.session(), &self.reader, entry) {
            let how = "no pack has all of it that a new snapshot may rely on";
            return Err(Error::damaged(String::from_utf8_lossy(&path), how));
        }
        Ok(None)
    }

    /// Counts an entry that leaves, with all below it. What is damaged there may leave, too.
    fn leaves(&self, path: &[u8], meta: &MetaEntry, entry: &TreeEntry) -> Result<()> {
        self.left.add(&meta.metadata);
        if entry.kind != TreeKind::Dir {
            return Ok(());
        }
        let mut visit = |_: &[u8], node: &crate::repo::Node| {
            self.saver.check_cancel()?;
            self.left.add(&node.metadata);
            Ok(Descend::Into)
        };
        self.reader.walk(&entry.children[0], path, &mut visit, &mut |_, _| Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_left_is_taken_off_the_counts() {
        let mut counts = Counts { files: [5, 2, 3], dirs: [1, 0, 0], others: 1, bytes: 100, ..Counts::default() };
        let left = Left([4, 3, 0, 60].map(AtomicU64::new));
        left.taken_from(&mut counts);
        assert_eq!((counts.files, counts.dirs, counts.others, counts.bytes), ([5, 1, 0], [0, 0, 0], 1, 40));
    }
}
