//! Snapshots of which something is lost, made anew without that, as restic does it: what a file still has stays in order, without
//! what is missing; a directory that cannot be read is empty. The new one gets the tag `repaired`, and the old one stays, unless
//! it shall be forgotten.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use crate::compress::Level;
use crate::crypto::rng::{Rng, split};
use crate::error::{Error, Result};
use crate::format::blob::BlobKind;
use crate::format::bundle::Identity;
use crate::format::meta::{Meta, MetaEntry};
use crate::format::node::NodeKind;
use crate::format::snapshot::LABELS_MAX;
use crate::format::tree::{DEPTH_MAX, Tags, Tree, TreeEntry, TreeKind};
use crate::id::{BlobId, PackId};
use crate::ops::{Edited, abandon, commit_edited, edit_all, names_of, persist, pool, tree_of};
use crate::progress::{Cancel, Problem, ProblemKind, Progress};
use crate::repo::content::{self, Content};
use crate::repo::save::Saver;
use crate::repo::session::Session;
use crate::repo::tree::Stretch;
use crate::repo::walk::join;
use crate::repo::{Node, Piece, Reader, Repository, Snapshot, directory, rely};

use super::{index, index_is_whole, may_repair};

/// The label of a new snapshot beside which the old one stays.
const LABEL: &[u8] = b"repaired";

/// What shall become of damaged snapshots.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Forget the old ones. Else both stay, and the new one gets the tag `repaired`.
    pub forget: bool,
    /// Only say what is lost.
    pub dry_run: bool,
}

/// Makes new snapshots of those of `chosen` that have lost something; calls `done` for each that was changed, at once. What is
/// lost is told to `progress`.
///
/// One whose root is lost stays as it is and is a problem.
pub fn repair(
    repo: &Arc<Repository>,
    who: &Identity,
    mut rng: Box<dyn Rng>,
    chosen: &[&Snapshot],
    options: &Options,
    (progress, cancel): (&dyn Progress, &Cancel),
    done: &mut dyn FnMut(&Edited),
) -> Result<()> {
    may_repair(repo)?;
    let view = repo.fresh_view()?;
    index_is_whole(&view)?;
    let gone: Vec<PackId> = index::gone_packs(repo, &view)?.into_iter().map(|p| p.id).collect();
    drop(view);
    edit_all(repo, who, &mut *rng, chosen, (progress, cancel), done, |rng, old| {
        persist(true, cancel, "this repair", || {
            one_session(repo, who, &mut *rng, (old, &gone), options, (progress, cancel))
        })
    })
}

fn one_session(
    repo: &Arc<Repository>,
    who: &Identity,
    rng: &mut dyn Rng,
    (old, gone): (&Snapshot, &[PackId]),
    options: &Options,
    (progress, cancel): (&dyn Progress, &Cancel),
) -> Result<Option<Edited>> {
    let session = Session::begin(Arc::clone(repo), who, Level::Auto.zstd(), options.dry_run, Box::new(split(rng)))?;
    session.view().index.exclude(gone.iter().copied());
    let before = tree_of(old)?;
    let (root, lost) = match rebuild(&session, &before, progress, cancel) {
        Ok(rebuilt) => rebuilt,
        Err(e) => return Err(abandon(session, e)),
    };
    if root == before {
        session.abandon();
        return Ok(None);
    }
    let [files, dirs, bytes] = lost;
    let mut names = names_of(old)?.clone();
    names.counts.bytes = names.counts.bytes.saturating_sub(bytes);
    if !options.forget && names.labels.len() < LABELS_MAX && !names.labels.iter().any(|l| l == LABEL) {
        names.labels.push(LABEL.to_vec());
    }
    let original = old.graph.original.or(Some(old.id()));
    let made = |s: &&Snapshot| s.graph.original == original && s.graph.root == Some(root);
    let twin = session.view().snapshots.iter().find(made).map(Snapshot::id);
    let new = match twin {
        // An earlier run has made it.
        Some(_) if !options.forget => {
            session.abandon();
            return Ok(None);
        }
        twin if options.dry_run => {
            session.abandon();
            twin.filter(|_| false)
        }
        Some(twin) => {
            session.abandon();
            Some(twin)
        }
        None => commit_edited(session, old, names.clone(), root, old.graph.time)?,
    };
    if options.forget && new.is_some() {
        repo.forget(&[old.at])?;
    }
    Ok(Some(Edited { left: [files, dirs, 0], left_bytes: bytes, ..Edited::of(old.id(), new, names) }))
}

/// The tree without what is lost, stored; and how many files and directories have lost something, and bytes of files.
fn rebuild(session: &Session, root: &BlobId, progress: &dyn Progress, cancel: &Cancel) -> Result<(BlobId, [u64; 3])> {
    let repo = session.repository();
    let memory = repo.options().memory as usize;
    let reader = Reader::new(Arc::clone(repo), Arc::clone(&session.view().index), (memory / 8).min(32 << 20));
    let threads = repo.options().threads.max(1);
    let saver = Saver::new(session, threads, progress, cancel)?;
    let walk = Walk { saver, reader, progress, lost: Default::default() };
    let new = pool(threads)?.install(|| walk.directory(root, b"", 0))?;
    walk.saver.flush()?;
    Ok((new, walk.lost.map(AtomicU64::into_inner)))
}

/// What becomes of an entry that does not stay as it is.
enum Change {
    Tree(BlobId),
    File(Content),
}

struct Walk<'w> {
    saver: Saver<'w>,
    reader: Reader,
    progress: &'w dyn Progress,
    /// Files and directories that have lost something, and bytes of files.
    lost: [AtomicU64; 3],
}

/// What is damaged is `Err` inside; what only did not succeed must not be taken for damage.
fn tolerate<T>(done: Result<T>) -> Result<Result<T, Error>> {
    match done {
        Err(e @ Error::Damaged { .. }) => Ok(Err(e)),
        Err(e) => Err(e),
        Ok(value) => Ok(Ok(value)),
    }
}

impl Walk<'_> {
    fn lose(&self, what: usize, path: &[u8], message: String) {
        self.lost[what].fetch_add(1, Ordering::Relaxed);
        let path = String::from_utf8_lossy(if path.is_empty() { b"/" } else { path }).into_owned().into();
        self.progress.problem(Problem { kind: ProblemKind::Damaged, path, message });
    }

    /// The tree of a directory without what is lost: the same one where nothing is.
    ///
    /// The first pass notes what changes; only where something does, a second one stores.
    fn directory(&self, tree: &BlobId, path: &[u8], depth: usize) -> Result<BlobId> {
        if depth > DEPTH_MAX {
            let how = format!("it is deeper than {DEPTH_MAX} directories");
            return Err(Error::damaged(format!("directory {}", tree.short()), how));
        }
        let mut lost = None;
        let stretches = self.stretches(tree, &mut lost)?;
        let (mut plan, mut last) = (Vec::new(), None);
        for id in stretches {
            match tolerate(self.stretch(&id, &mut last))? {
                Err(e) => lost = Some(e),
                Ok(stretch) => plan.push((id, self.changes(path, &stretch, depth)?)),
            }
        }
        match lost {
            Some(e) if depth == 0 && plan.is_empty() => return Err(e),
            Some(e) if plan.is_empty() => self.lose(1, path, format!("it is empty now: {e}")),
            Some(e) => self.lose(1, path, format!("some of its entries are left out: {e}")),
            None if plan.iter().all(|(_, changes)| changes.is_empty()) => {
                self.reader.each_directory_blob(tree, &mut |id, _| rely::has(self.saver.session(), &id))?;
                return Ok(*tree);
            }
            None => {}
        }
        self.changed(plan)
    }

    /// The stretches of a directory that are named; where not even that can be read, `lost` says why.
    fn stretches(&self, tree: &BlobId, lost: &mut Option<Error>) -> Result<Vec<BlobId>> {
        Ok(match tolerate(self.reader.tree(tree))? {
            Ok(Tree::Stretch { .. }) => vec![*tree],
            Ok(Tree::Split { meta, stretches }) => {
                match tolerate(self.reader.meta(&meta))? {
                    Ok(Meta::Split(names)) if names.len() == stretches.len() => {}
                    Ok(_) => {
                        *lost = Some(Error::damaged(format!("directory {}", tree.short()), "its names do not fit"))
                    }
                    Err(e) => *lost = Some(e),
                }
                stretches
            }
            Ok(Tree::Part { .. }) => {
                *lost = Some(Error::damaged(format!("directory {}", tree.short()), "it is a part of a file"));
                Vec::new()
            }
            Err(e) => {
                *lost = Some(e);
                Vec::new()
            }
        })
    }

    /// One stretch, whose names follow `last`.
    fn stretch(&self, id: &BlobId, last: &mut Option<Vec<u8>>) -> Result<Stretch> {
        let mut all = Vec::new();
        self.reader.each_stretch(id, &mut |stretch| {
            all.extend(stretch);
            Ok(())
        })?;
        if let (Some(last), Some((first, _))) = (&*last, all.first())
            && *last >= first.name
        {
            return Err(Error::damaged(format!("directory {}", id.short()), "it is not in order with those before it"));
        }
        *last = all.last().map(|(meta, _)| meta.name.clone()).or(last.take());
        Ok(all)
    }

    fn changes(&self, path: &[u8], stretch: &Stretch, depth: usize) -> Result<Vec<(usize, Change)>> {
        self.saver.check_cancel()?;
        let changed: Result<Vec<Option<Change>>> =
            stretch.par_iter().with_min_len(8).map(|(meta, entry)| self.entry(path, meta, entry, depth)).collect();
        Ok(changed?.into_iter().enumerate().filter_map(|(n, change)| Some((n, change?))).collect())
    }

    /// Stores a directory of these stretches, with changes at these places of each.
    fn changed(&self, plan: Vec<(BlobId, Vec<(usize, Change)>)>) -> Result<BlobId> {
        let mut builder = directory::Builder::new(&self.saver);
        for (id, changes) in plan {
            let mut changes = changes.into_iter().peekable();
            for (n, (mut meta, mut entry)) in self.stretch(&id, &mut None)?.into_iter().enumerate() {
                match changes.next_if(|(place, _)| *place == n).map(|(_, change)| change) {
                    None => {}
                    Some(Change::Tree(tree)) => entry.children = vec![tree],
                    Some(Change::File(content)) => {
                        meta.metadata.kind = NodeKind::File { size: content.size };
                        // The next backup must not take it for unchanged.
                        let tags = Tags { name: entry.tags.name, ..Tags::default() };
                        entry = TreeEntry { kind: content.kind, children: content.children, tags };
                    }
                }
                builder.push(meta, entry)?;
            }
        }
        builder.finish()
    }

    fn entry(&self, above: &[u8], meta: &MetaEntry, entry: &TreeEntry, depth: usize) -> Result<Option<Change>> {
        let path = join(above, &meta.name);
        match entry.kind {
            TreeKind::Dir => {
                let old = entry.children[0];
                let new = self.directory(&old, &path, depth + 1)?;
                Ok((new != old).then_some(Change::Tree(new)))
            }
            TreeKind::File | TreeKind::MappedFile | TreeKind::LargeFile => self.file(&path, meta, entry),
            _ => Ok(None),
        }
    }

    fn file(&self, path: &[u8], meta: &MetaEntry, entry: &TreeEntry) -> Result<Option<Change>> {
        let node = Node::from((meta.clone(), entry.clone()));
        let fits = tolerate(self.reader.each_piece(&node, &mut |_| Ok(())))?.is_ok();
        if fits && rely::has_file(self.saver.session(), &self.reader, entry) {
            return Ok(None);
        }
        let mut content = content::Builder::default();
        self.what_is_left(&node, &mut content)?;
        let content = content.finish(&self.saver)?;
        let lost = node.size().saturating_sub(content.size);
        self.lost[2].fetch_add(lost, Ordering::Relaxed);
        let message = format!("{lost} of its {} bytes are lost; what is left is kept without a gap", node.size());
        self.lose(0, path, message);
        Ok(Some(Change::File(content)))
    }

    fn what_is_left(&self, file: &Node, content: &mut content::Builder) -> Result<()> {
        match tolerate(self.reader.parts(file))? {
            Ok(parts) => {
                for (n, part) in parts.iter().enumerate() {
                    match tolerate(self.reader.pieces(file, part))? {
                        Ok(pieces) => pieces.into_iter().try_for_each(|piece| self.piece(piece, content))?,
                        Err(_) if file.kind == TreeKind::LargeFile => self.part(&file.children[n + 1], content)?,
                        Err(_) => self.chunks(file.children.get(1..).unwrap_or_default(), content)?,
                    }
                }
                Ok(())
            }
            Err(_) if file.kind == TreeKind::LargeFile => {
                file.children[1..].iter().try_for_each(|part| self.part(part, content))
            }
            Err(_) => Ok(()),
        }
    }

    fn piece(&self, piece: Piece, content: &mut content::Builder) -> Result<()> {
        match piece.data {
            None => content.hole(piece.len),
            Some(id) if self.saver.session().has(&id) => content.data(&self.saver, piece.len, id)?,
            Some(_) => {}
        }
        Ok(())
    }

    /// A part of a large file whose place nothing tells.
    fn part(&self, tree: &BlobId, content: &mut content::Builder) -> Result<()> {
        match tolerate(self.reader.tree(tree))? {
            Ok(Tree::Part { data, .. }) => self.chunks(&data, content),
            _ => Ok(()),
        }
    }

    /// Chunks whose map is lost: in order, and as long as the index says.
    fn chunks(&self, data: &[BlobId], content: &mut content::Builder) -> Result<()> {
        let (index, mut copies) = (self.reader.index(), Vec::new());
        for id in data.iter().filter(|id| self.saver.session().has(id)) {
            index.lookup(id, &mut copies);
            if let Some(copy) = copies.iter().find(|copy| copy.entry.kind == BlobKind::Data) {
                content.data(&self.saver, u64::from(copy.entry.len), *id)?;
            }
        }
        Ok(())
    }
}
