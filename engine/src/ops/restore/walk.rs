//! The walk through a snapshot, depth first and in order of names: makes directories, decides on entries, plans files.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::error::{Error, Result};
use crate::format::node::{Metadata, NodeKind};
use crate::format::tree::DEPTH_MAX;
use crate::id::BlobId;
use crate::progress::{Problem, ProblemKind};
use crate::repo::{Node, Reader};
use crate::target::{self, Claim, Decision, DirPath, Kept, LinkSource, Overwrite, TargetDir, decide};

use super::batch::Batch;
use super::cursor::Cursor;
use super::drain::drain;
use super::file::File;
use super::job::{Again, Job, Place, only_damage};
use super::surplus::{Surplus, delete};
use super::tally::Count;

/// Directories on the way down that are held open; those above are opened again when the walk comes back.
const OPEN_LEVELS_MAX: usize = 64;
/// Entries in memory in all directories on the way down; beyond it those above are read again when the walk comes back.
const HELD_NODES_MAX: usize = 16_384;
/// What a directory costs until the end of the batch, beside its attributes.
const DIR_BYTES: usize = 256;

pub(super) struct Walk<'a> {
    job: &'a Job<'a>,
    /// Of the entry at hand, below what is restored; begins with `/`.
    path: Vec<u8>,
    levels: Vec<Level>,
    batch: Batch,
    /// Directories of which everything was seen, children before parents: to be finished when the batch is written.
    seen: Vec<(DirPath, Metadata)>,
    /// Directories whose attributes would shut us out while names in or below them are still to be linked to.
    shut: Vec<(DirPath, Metadata)>,
}

/// A directory on the way down.
struct Level {
    /// Its attributes; `None`: the target itself.
    node: Option<(Vec<u8>, Metadata)>,
    /// Length of its path.
    path_len: usize,
    cursor: Cursor,
    /// Name of its entry at hand.
    at: Vec<u8>,
    /// Made at the target. A directory that is not chosen itself is made when something in it is.
    made: Option<Made>,
}

struct Made {
    place: Place,
    dir: Option<TargetDir>,
    surplus: Option<Surplus>,
    is_kept: bool,
}

impl<'a> Walk<'a> {
    /// Restores `start`, or what is in `root`.
    pub(super) fn new(job: &'a Job<'a>, root: BlobId, start: Option<Node>) -> Self {
        let most = usize::try_from(job.reader.repository().options().memory / 8).unwrap_or(usize::MAX);
        let tree = start.as_ref().map_or(Some(root), Node::tree);
        let cursor = match (tree, start) {
            (None, Some(node)) => Cursor::single(node),
            (tree, _) => Cursor::new(tree.unwrap_or(root)),
        };
        let dir = job.target.root().clone();
        // Beside a single file everything stays.
        let surplus = (job.options.delete && tree.is_some()).then(|| Surplus::of(&dir));
        let surplus = surplus.and_then(|surplus| surplus.map_err(|error| job.problem(error.problem())).ok());
        let made = Made { place: job.place(&dir), dir: Some(dir), surplus, is_kept: false };
        let level = Level { node: None, path_len: 0, cursor, at: Vec::new(), made: Some(made) };
        let (seen, shut) = (Vec::new(), Vec::new());
        Self { job, path: Vec::new(), levels: vec![level], batch: Batch::new(most), seen, shut }
    }

    /// All of it, but for directories that are finished by [`Walk::close`].
    pub(super) fn run(&mut self) -> Result<()> {
        while let Some(level) = self.levels.last_mut() {
            self.job.check_cancel()?;
            match level.cursor.next(self.job.reader) {
                Ok(Some(node)) => self.entry(node)?,
                Ok(None) => self.leave()?,
                Err(error) => self.unreadable(&only_damage(error)?)?,
            }
            if self.batch.is_full() {
                self.flush()?;
            }
        }
        self.flush()
    }

    /// Finishes the directories that are left: also when the walk ended early, so that none stays shut or open to nobody.
    pub(super) fn close(mut self) {
        let job = self.job;
        // Unfinished files go before their directories get their times.
        self.batch.clear();
        job.links.finish(&job.target).into_iter().for_each(|problem| job.problem(problem));
        let open = self.levels.drain(..).rev().filter_map(|level| Some((level.made?.place.dir, level.node?.1)));
        let all = self.shut.drain(..).chain(self.seen.drain(..)).chain(open);
        all.for_each(|(dir, metadata)| job.finish_dir(&dir, &metadata));
    }

    fn entry(&mut self, node: Node) -> Result<()> {
        let level = self.levels.last_mut().expect("the entry is in one");
        level.at.clone_from(&node.name);
        self.pass(self.levels.len() - 1)?;
        let len = self.path.len();
        self.path.push(b'/');
        self.path.extend_from_slice(&node.name);
        let verdict = self.job.options.choice.of(&self.path);
        match node.tree() {
            Some(tree) if verdict.selected || verdict.below => return self.enter(node, tree, verdict.selected),
            None if verdict.selected => self.place_entry(node)?,
            _ => {}
        }
        self.path.truncate(len);
        Ok(())
    }

    /// Goes down into a directory.
    fn enter(&mut self, node: Node, tree: BlobId, is_selected: bool) -> Result<()> {
        if self.levels.len() > DEPTH_MAX {
            let path = self.job.shown(&self.path);
            self.path.truncate(self.levels.last().map_or(0, |level| level.path_len));
            self.job.expect(&node);
            return self.job.failed(&target::Error::Deep { path });
        }
        self.spare();
        self.levels.push(Level {
            node: Some((node.name, node.metadata)),
            path_len: self.path.len(),
            cursor: Cursor::new(tree),
            at: Vec::new(),
            made: None,
        });
        if is_selected { self.make_levels().map(drop) } else { Ok(()) }
    }

    /// Before going down: gives up descriptors and entries of directories further up.
    fn spare(&mut self) {
        let depth = self.levels.len();
        if let Some(above) = depth.checked_sub(OPEN_LEVELS_MAX).and_then(|n| self.levels.get_mut(n)) {
            above.made.iter_mut().for_each(|made| made.dir = None);
        }
        let mut held: usize = self.levels.iter().map(|level| level.cursor.held()).sum();
        for level in &mut self.levels {
            if held <= HELD_NODES_MAX {
                return;
            }
            held -= level.cursor.held();
            level.cursor.unload();
        }
    }

    /// Back up: all entries of the directory were seen.
    fn leave(&mut self) -> Result<()> {
        let level = self.levels.last_mut().expect("the walk is in one");
        level.at.clear();
        self.pass(self.levels.len() - 1)?;
        let level = self.levels.pop().expect("the walk was in one");
        self.path.truncate(self.levels.last().map_or(0, |above| above.path_len));
        let (Some(made), Some((_, metadata))) = (level.made, level.node) else { return Ok(()) };
        match made.is_kept {
            true => self.job.kept(Count::Skipped, 0),
            false => self.job.restored(0, 0),
        }
        let xattrs: usize = metadata.xattrs.iter().map(|x| x.name.len() + x.value.len() + 48).sum();
        self.batch.hold(DIR_BYTES + size_of::<Metadata>() + xattrs);
        self.seen.push((made.place.dir, metadata));
        Ok(())
    }

    /// What is stored of the directory at hand, or a stretch of it, is damaged. What it had there is not known, so that
    /// nothing more is removed in it.
    fn unreadable(&mut self, damage: &Error) -> Result<()> {
        let message = format!("what is in this directory, or a part of it, is not restored: {damage}");
        let path = self.job.shown(&self.path);
        self.job.problem(Problem { kind: ProblemKind::Damaged, path, message });
        if self.make_levels()? {
            let level = self.levels.last_mut().expect("the walk is in one");
            level.made.iter_mut().for_each(|made| made.surplus = None);
        }
        Ok(())
    }

    /// Makes the directories on the way down that are not made yet. Whether the one at hand is there; if not, the walk is
    /// back in the last one that is.
    fn make_levels(&mut self) -> Result<bool> {
        for n in 1..self.levels.len() {
            if self.levels[n].made.is_some() {
                continue;
            }
            let made = self.dir(n - 1).and_then(|parent| self.make(n, &parent));
            match made {
                Ok(made) => self.levels[n].made = Some(made),
                Err(error) => {
                    self.levels.truncate(n);
                    self.path.truncate(self.levels[n - 1].path_len);
                    return self.job.failed(&error).map(|()| false);
                }
            }
            // Made late, for the sake of its entry at hand: what stands before that one was not looked at yet.
            if !self.levels[n].at.is_empty() {
                self.pass(n)?;
            }
        }
        Ok(true)
    }

    fn make(&self, n: usize, parent: &TargetDir) -> target::Result<Made> {
        let (name, metadata) = self.levels[n].node.as_ref().expect("only the target itself has none");
        self.job.tally.add(Count::Total, 1);
        self.job.tally.add(Count::Dirs, 1);
        self.job.progress.expect(1, 0);
        let overwrite = self.job.options.overwrite;
        let is_kept = matches!(overwrite, Overwrite::Never | Overwrite::IfNewer)
            && matches!(decide(parent, name, metadata, overwrite)?, Decision::Keep(_));
        let dir = parent.make_dir(name, metadata)?;
        let surplus = if self.job.options.delete { Some(Surplus::of(&dir)?) } else { None };
        Ok(Made { place: self.job.place(&dir), dir: Some(dir), surplus, is_kept })
    }

    /// The directory of a level that is made, open.
    fn dir(&mut self, n: usize) -> target::Result<TargetDir> {
        let made = self.levels[n].made.as_mut().expect("it was made before");
        if made.dir.is_none() {
            made.dir = Some(self.job.target.reopen(&made.place.dir)?);
        }
        Ok(made.dir.clone().expect("opened a line before"))
    }

    /// Removes what stands in a directory of the target before the entry at hand (`at` empty: to the end) and is in no
    /// snapshot.
    fn pass(&mut self, n: usize) -> Result<()> {
        let level = &mut self.levels[n];
        let (at, path_len) = (level.at.clone(), level.path_len);
        let at = (!at.is_empty()).then_some(at);
        while let Some(surplus) = self.levels[n].made.as_mut().and_then(|made| made.surplus.as_mut())
            && let Some(entry) = surplus.next_before(at.as_deref())
        {
            self.job.check_cancel()?;
            let path = [&self.path[..path_len], b"/", &entry.name].concat();
            match self.dir(n) {
                Ok(dir) => drop(delete(self.job, &dir, &entry, &path, 0)?),
                Err(error) => self.job.report(&error)?,
            }
        }
        Ok(())
    }

    /// Restores an entry that is no directory, or plans it.
    fn place_entry(&mut self, node: Node) -> Result<()> {
        if !self.make_levels()? {
            return Ok(());
        }
        self.job.expect(&node);
        let n = self.levels.len() - 1;
        let decided = self.dir(n).and_then(|dir| {
            let decision = decide(&dir, &node.name, &node.metadata, self.job.options.overwrite)?;
            Ok((dir, decision))
        });
        match decided {
            Ok((dir, decision)) => {
                let place = self.levels[n].made.as_ref().expect("made above").place.clone();
                let Some(node) = self.claim(&dir, node, decision)? else { return Ok(()) };
                self.job.expect_bytes(node.size());
                self.put(&dir, place, node, decision)
            }
            Err(error) => self.job.failed(&error),
        }
    }

    /// Links a name of a file that is there already, or will be; gives everything else back, to be put.
    fn claim(&mut self, dir: &TargetDir, mut node: Node, decision: Decision) -> Result<Option<Node>> {
        let job = self.job;
        let Some(id) = &node.metadata.hardlink else { return Ok(Some(node)) };
        match job.links.claim(&job.target, id, dir, &node.name, decision) {
            Ok(Claim::First) => return Ok(Some(node)),
            Ok(Claim::Copy) => {
                node.metadata.hardlink = None;
                return Ok(Some(node));
            }
            Ok(Claim::Linked) => job.restored(0, 0),
            Ok(Claim::Queued) => {}
            Ok(Claim::Kept(_)) => {
                job.expect_bytes(node.size());
                job.kept(Count::Skipped, node.size());
            }
            Err(error) => job.failed(&error)?,
        }
        Ok(None)
    }

    fn put(&mut self, dir: &TargetDir, place: Place, node: Node, decision: Decision) -> Result<()> {
        let job = self.job;
        let made = match (decision, &node.metadata.kind) {
            (Decision::Keep(kept), _) => return self.keep(dir, &node, kept),
            (Decision::UpdateMetadataOnly, _) => dir.update(&node.name, &node.metadata),
            (_, NodeKind::File { .. }) => return self.file(dir, place, node, decision),
            (_, NodeKind::Symlink { .. }) => dir.symlink(&node.name, &node.metadata, decision),
            _ => dir.special(&node.name, &node.metadata, decision),
        };
        match made {
            Ok(finished) => {
                job.done(&node, finished);
                job.kept(Count::Restored, node.size());
                Ok(())
            }
            Err(error) => {
                job.give_up(&node);
                job.failed(&error)
            }
        }
    }

    fn keep(&mut self, dir: &TargetDir, node: &Node, kept: Kept) -> Result<()> {
        self.job.kept(Count::Skipped, node.size());
        if node.metadata.hardlink.is_some() && kept == Kept::Identical {
            match LinkSource::existing(dir, &node.name, &node.metadata) {
                Ok(source) => self.job.stands(node, source),
                Err(error) => {
                    self.job.give_up(node);
                    self.job.report(&error)?;
                }
            }
        }
        Ok(())
    }

    /// Plans a file. One with more pieces than a batch takes is written in several.
    fn file(&mut self, dir: &TargetDir, place: Place, mut node: Node, decision: Decision) -> Result<()> {
        let job = self.job;
        if job.options.dry_run {
            if let Ok(source) = LinkSource::existing(dir, &node.name, &node.metadata) {
                job.stands(&node, source);
            }
            job.restored(node.size(), 0);
            return Ok(());
        }
        let whole =
            Node { children: std::mem::take(&mut node.children), metadata: node.metadata.clone(), ..node.clone() };
        if node.metadata.hardlink.is_some() {
            node.children.clone_from(&whole.children);
        }
        let path = dir.path().join(OsStr::from_bytes(&node.name));
        self.batch.add_file(File::new(place, node, decision, path));
        let planned = plan_pieces(job.reader, &whole, &mut self.batch, job);
        let file = self.batch.files.last_mut().expect("added above");
        match planned {
            Ok(()) => file.complete = true,
            Err(error) => {
                let damage = only_damage(error)?;
                file.fail_damaged(job, &damage);
            }
        }
        Ok(())
    }

    /// Writes the batch, with all that turns out to be missing meanwhile, and finishes the directories that are done.
    fn flush(&mut self) -> Result<()> {
        loop {
            drain(self.job, &mut self.batch)?;
            self.batch.clear();
            let again = std::mem::take(&mut *self.job.again.lock().expect("no panic while held"));
            if again.is_empty() {
                break;
            }
            again.into_iter().try_for_each(|name| self.put_again(name))?;
        }
        self.finish_seen();
        Ok(())
    }

    /// A name that waited for a file which cannot be linked to, or did not come to be.
    fn put_again(&mut self, name: Again) -> Result<()> {
        let dir = match self.job.target.reopen(&name.pending.dir) {
            Ok(dir) => dir,
            Err(error) => return self.job.failed(&error),
        };
        let (place, decision) = (self.job.place(&dir), name.pending.decision);
        if name.claim {
            // Its bytes are those of the name that failed: they were expected then.
            let Some(node) = self.claim(&dir, name.node, decision)? else { return Ok(()) };
            return self.put(&dir, place, node, decision);
        }
        self.job.expect_bytes(name.node.size());
        self.put(&dir, place, name.node, decision)
    }

    fn finish_seen(&mut self) {
        for (dir, metadata) in std::mem::take(&mut self.seen) {
            let is_shut = metadata.mode & 0o500 != 0o500;
            if is_shut && (self.job.links.incomplete() > 0 || !self.shut.is_empty()) {
                self.shut.push((dir, metadata));
            } else {
                self.job.finish_dir(&dir, &metadata);
            }
        }
    }
}

/// Takes the pieces of the batch's last file; writes the batch as often as it is full.
fn plan_pieces(reader: &Reader, whole: &Node, batch: &mut Batch, job: &Job) -> Result<()> {
    let mut is_failed = false;
    let planned = reader.each_piece(whole, &mut |piece| {
        job.check_cancel()?;
        if batch.is_full() {
            drain(job, batch)?;
            batch.carry();
            is_failed = batch.files.last().expect("it was carried over").is_failed();
            if is_failed {
                return Err(Error::Interrupted);
            }
        }
        batch.add_piece(&piece)
    });
    if is_failed { Ok(()) } else { planned }
}
