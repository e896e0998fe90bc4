//! Backup: walk the source, store what is new, commit a snapshot.
//!
//! ```text
//! plan      paths -> a tree of what is asked for               plan.rs
//! dir       names -> stat -> compare tags with the parent      dir.rs, parent.rs
//! file      extents -> chunks -> Worker::store                 file.rs
//! stretch   meta and tree blobs, children before parents       dir.rs
//! commit    packs durable, then segments, snapshot last        repo::session
//! run       a snapshot that several sessions share             run.rs
//! ```
//! Each thread runs a file from reading to sealing while its bytes are in the cache. Only a very large file is shared out.

mod dir;
mod file;
mod plan;
mod run;

use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::compress::Level;
use crate::crypto::rng::{Rng, split};
use crate::error::{Error, Result};
use crate::format::blob::BlobKind;
use crate::format::bundle::Identity;
use crate::format::meta::Meta;
use crate::format::node::Timestamp;
use crate::format::snapshot::{
    Counts, GraphPart, LABELS_MAX, NamesPart, PATHS_MAX, PROBLEMS_MAX, SnapshotKind, StoredProblem,
};
use crate::format::tree::Tree;
use crate::id::{BlobId, SessionId, SnapshotId, WriterId};
use crate::ops::{abandon, fold, persist, pool};
use crate::progress::{Cancel, Problem, ProblemKind, Progress};
use crate::repo::content::Content;
use crate::repo::save::Saver;
use crate::repo::session::{Session, Stored};
use crate::repo::{Reader, Repository, Snapshot};
use crate::source::exclude::Exclude;
use crate::source::{self, Stat, Target};

use self::plan::Plan;
pub use self::plan::Stream;
pub use self::run::{Done, Run, VOLUMES};

/// What to back up, and how.
#[derive(Debug)]
pub struct Options {
    /// Files and directories; stored under their absolute paths.
    pub paths: Vec<PathBuf>,
    /// Bytes from a pipe instead: stored as the file that the one path names. Taken by the backup.
    pub stream: Mutex<Option<Stream>>,
    /// Store the one path under this absolute one instead.
    pub as_path: Option<PathBuf>,
    /// Host to record.
    pub host: Vec<u8>,
    /// User to record: name, uid, gid.
    pub user: (Vec<u8>, u32, u32),
    /// Labels (`--tag`).
    pub labels: Vec<Vec<u8>>,
    /// When it was taken; `None`: now.
    pub time: Option<Timestamp>,
    /// What is left out.
    pub exclude: Exclude,
    /// Stay on the mounts of the paths.
    pub one_file_system: bool,
    /// Do not compare inode numbers and ctimes, nor store them and birth times.
    pub ignore_inode: bool,
    /// Do not compare ctimes.
    pub ignore_ctime: bool,
    /// Which snapshot unchanged files are taken from.
    pub parent: Parent,
    /// zstd level; 0 = off.
    pub level: i32,
    /// Read and compare, store nothing.
    pub dry_run: bool,
    /// Commit a part of the snapshot that this run will make ([`Run`]); nobody lists it.
    pub part_of: Option<(WriterId, SessionId)>,
    /// Make no snapshot if its tree equals its parent's.
    pub skip_if_unchanged: bool,
    /// Which program, e.g. `copal 0.1.0`.
    pub program: Vec<u8>,
}

impl Options {
    /// Everything below `paths`, compared with the last snapshot of the same source, compressed at the usual level; nothing
    /// recorded of host, user and program.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        Self {
            paths,
            stream: Mutex::new(None),
            as_path: None,
            host: Vec::new(),
            user: (Vec::new(), 0, 0),
            labels: Vec::new(),
            time: None,
            exclude: Exclude::default(),
            one_file_system: false,
            ignore_inode: false,
            ignore_ctime: false,
            parent: Parent::Auto,
            level: Level::Auto.zstd(),
            dry_run: false,
            part_of: None,
            skip_if_unchanged: false,
            program: Vec::new(),
        }
    }
}

/// Which snapshot unchanged files are taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parent {
    /// The last one of the same source by the own writer.
    Auto,
    /// None: everything is read.
    None,
    /// This one, whoever made it.
    Given(SnapshotId),
}

/// What a backup did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// The snapshot; `None` in a dry run, or where it was skipped.
    pub snapshot: Option<SnapshotId>,
    /// Its tree.
    pub root: Option<BlobId>,
    /// The one that it was compared with.
    pub parent: Option<SnapshotId>,
    /// How much.
    pub counts: Counts,
    /// Packs stored, and their sizes together in bytes.
    pub packs: (u64, u64),
    /// Directories on other mounts that were left out (`one_file_system`).
    pub mounts_skipped: u64,
    /// When it began.
    pub time: Timestamp,
}

/// Backs up. Blocks until the snapshot is durable; call it from a plain thread.
///
/// A session that maintenance has ended, or whose packs the store has lost, is followed by another, which adopts what is there.
///
/// Whatever could not be read is told to `progress`, listed in the snapshot, and counted in the summary; an error means
/// that there is no snapshot. After [`Cancel`] what was stored so far stays, for the next run to adopt.
pub fn backup(
    repo: &Arc<Repository>,
    who: &Identity,
    mut rng: Box<dyn Rng>,
    options: &Options,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Summary> {
    // What came through a pipe cannot be read again.
    let again = options.stream.lock().expect("no panic while held").is_none();
    persist(again, cancel, "the backup", || one_session(repo, who, &mut *rng, options, progress, cancel))
}

fn one_session(
    repo: &Arc<Repository>,
    who: &Identity,
    rng: &mut dyn Rng,
    options: &Options,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Summary> {
    if options.part_of.is_some() && options.skip_if_unchanged {
        return Err(Error::Invalid("a part is made even if nothing has changed: its run needs it".into()));
    }
    let (paths, plan) = plan_paths(options, &source_options(repo, options))?;
    let session = Session::begin(Arc::clone(repo), who, options.level, options.dry_run, Box::new(split(rng)))?;
    let run = options.part_of;
    let shape = move |graph: &mut GraphPart| {
        if run.is_some() {
            (graph.kind, graph.run) = (SnapshotKind::Part, run);
        }
    };
    let summary = store(session, &paths, &plan, options, &shape, progress, cancel)?;
    if summary.snapshot.is_some() && run.is_none() {
        fold(repo, who, rng);
    }
    Ok(summary)
}

fn source_options(repo: &Repository, options: &Options) -> source::Options {
    source::Options {
        one_file_system: options.one_file_system,
        ignore_inode: options.ignore_inode,
        ignore_ctime: options.ignore_ctime,
        now: repo.options().clock.now(),
    }
}

/// Stores what is planned, and commits it as `shape` has it.
fn store(
    session: Session,
    paths: &[PathBuf],
    plan: &Plan,
    options: &Options,
    shape: &dyn Fn(&mut GraphPart),
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Summary> {
    let repo = Arc::clone(session.repository());
    let clock = &*repo.options().clock;
    let begun = clock.elapsed();
    let source_options = source_options(&repo, options);
    let now = source_options.now;
    let path_bytes: Vec<Vec<u8>> = paths.iter().map(|p| p.as_os_str().as_bytes().to_vec()).collect();
    let source = session.content_ids().source(&options.host, &path_bytes);
    let parent = find_parent(&session, options, &source)?;
    let old_root = parent.as_ref().and_then(|p| p.graph.root);

    let threads = repo.options().threads.max(1);
    let saver = Saver::new(&session, threads, progress, cancel)?;
    let walk = Walk::new(saver, options, source_options, source);
    for problem in &session.view().problems {
        walk.tally.problem(problem.clone(), progress);
    }
    let pool = pool(threads)?;
    let walked = pool.install(|| walk.save_plan(plan, b"", 0, old_root));
    let root = match walked.and_then(|root| walk.saver.flush().map(|()| root)) {
        Ok(root) => root,
        Err(e) => {
            drop(walk);
            return Err(abandon(session, e));
        }
    };
    let tally = walk.into_tally();
    let mut summary = Summary {
        snapshot: None,
        root: Some(root),
        parent: parent.as_ref().map(Snapshot::id),
        counts: tally.counts(),
        packs: (0, 0),
        mounts_skipped: plan.mounts_skipped(),
        time: options.time.unwrap_or(now),
    };
    // An equal tree of which something had to be stored again was not whole before.
    if options.skip_if_unchanged && old_root == Some(root) && session.added_nothing() {
        session.abandon();
        summary.counts.millis = (clock.elapsed() - begun).as_millis() as u64;
        return Ok(summary);
    }
    let mut names = NamesPart {
        host: options.host.clone(),
        user: options.user.0.clone(),
        uid_gid: (options.user.1, options.user.2),
        paths: path_bytes,
        labels: options.labels.clone(),
        program: options.program.clone(),
        counts: Counts::default(),
        problems: tally.into_problems(),
    };
    let mut graph = GraphPart::whole(session.content_ids(), &names, root, summary.time);
    graph.previous = match options.parent {
        Parent::Auto => summary.parent,
        _ => session.last_of_source(&source).map(Snapshot::id),
    };
    shape(&mut graph);
    let counts = summary.counts.clone();
    let make_names = |stored: Stored| {
        names.counts = add_stored(counts, stored, clock.elapsed() - begun);
        names
    };
    let (snapshot, stored) = session.commit(graph, make_names)?;
    summary.snapshot = snapshot;
    summary.counts = add_stored(summary.counts, stored, clock.elapsed() - begun);
    summary.packs = (stored.packs, stored.pack_bytes);
    Ok(summary)
}

fn add_stored(counts: Counts, stored: Stored, took: Duration) -> Counts {
    Counts {
        blobs: [stored.data_blobs, stored.other_blobs],
        added: stored.raw_bytes,
        stored: stored.frame_bytes,
        millis: took.as_millis() as u64,
        ..counts
    }
}

fn plan_paths(options: &Options, source_options: &source::Options) -> Result<(Vec<PathBuf>, Plan)> {
    for (what, count, max) in [("paths", options.paths.len(), PATHS_MAX), ("labels", options.labels.len(), LABELS_MAX)]
    {
        if count > max {
            return Err(Error::Invalid(format!("a snapshot takes up to {max} {what}, not {count}")));
        }
    }
    if let Some(stream) = options.stream.lock().expect("no panic while held").take() {
        let path = Path::new("/").join(options.paths.first().map_or(Path::new("stdin"), PathBuf::as_path));
        let plan = plan::plan_stream(&path, stream, source_options)?;
        return Ok((vec![path], plan));
    }
    let mut paths: Vec<PathBuf> = options.paths.iter().map(|p| plan::absolute(p)).collect::<Result<_>>()?;
    paths.sort();
    paths.dedup();
    match (&options.as_path, &paths[..]) {
        (_, []) => Err(Error::Invalid("nothing to back up: name a file or directory".into())),
        (None, _) => Ok((paths.clone(), plan::plan(&paths, source_options)?)),
        (Some(as_path), [path]) if as_path.is_absolute() => {
            Ok((vec![as_path.clone()], plan::plan_as(path, as_path, source_options)?))
        }
        (Some(_), _) => Err(Error::Invalid("--as-path takes one source, and an absolute path for it".into())),
    }
}

fn find_parent(session: &Session, options: &Options, source: &[u8; 32]) -> Result<Option<Snapshot>> {
    match options.parent {
        Parent::None => Ok(None),
        Parent::Auto => Ok(session.last_of_source(source).cloned()),
        Parent::Given(id) => session
            .view()
            .snapshots
            .iter()
            .find(|s| s.id() == id)
            .cloned()
            .map(Some)
            .ok_or_else(|| Error::NotFound(format!("there is no snapshot {} to compare with", id.short()))),
    }
}

/// What all threads of one backup share.
struct Walk<'w> {
    saver: Saver<'w>,
    reader: Reader,
    options: &'w Options,
    source_options: source::Options,
    source: [u8; 32],
    links: Mutex<HashMap<(u64, u64), Linked>>,
    tally: Tally,
    progress: &'w dyn Progress,
}

/// What one name of a file became, and the times that it had.
struct Linked {
    mtime: Timestamp,
    ctime: Timestamp,
    content: Content,
}

/// Files with several names whose content is remembered, so that it is read once: about 16 MB at most.
const LINKS_MAX: usize = 64 << 10;

impl<'w> Walk<'w> {
    fn new(saver: Saver<'w>, options: &'w Options, source_options: source::Options, source: [u8; 32]) -> Self {
        let session = saver.session();
        let repo = session.repository();
        let (index, memory) = (Arc::clone(&session.view().index), repo.options().memory as usize);
        Self {
            reader: Reader::new(Arc::clone(repo), index, (memory / 16).min(32 << 20)),
            options,
            source_options,
            source,
            links: Mutex::default(),
            tally: Tally::default(),
            progress: saver.progress(),
            saver,
        }
    }

    /// Stores one node of the plan, a directory; its tree.
    fn save_plan(&self, plan: &Plan, path: &[u8], depth: usize, old: Option<BlobId>) -> Result<BlobId> {
        match plan {
            Plan::Above { children, .. } => {
                let names = children.iter().map(|(name, plan)| dir::Name { name, from: dir::From::Plan(plan) });
                self.save_entries(names, path, depth, old)
            }
            Plan::Whole(root) => match root.target() {
                Target::Dir { dir, .. } => self.save_dir(dir, path, depth, old),
                Target::Entry { .. } => unreachable!("an entry that is no directory is saved as a file"),
            },
            Plan::Stream(_) => unreachable!("a stream is saved as a file"),
            Plan::Parts { roots, .. } => self.save_parts(roots),
        }
    }

    /// A directory that consists of the parts' roots: one stretch each, which nobody needs to read for that (docs/protocol.md S1).
    fn save_parts(&self, roots: &BTreeMap<Vec<u8>, BlobId>) -> Result<BlobId> {
        let stretches: Vec<BlobId> = roots.values().copied().collect();
        if let [only] = stretches[..] {
            return Ok(only);
        }
        let firsts = Meta::Split(roots.keys().cloned().collect());
        let meta = self.saver.store(BlobKind::Meta, &firsts.encode())?;
        self.saver.store(BlobKind::Tree, &Tree::Split { meta, stretches }.encode())
    }

    fn problem(&self, kind: ProblemKind, path: &[u8], message: String) {
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(if path.is_empty() { b"/" } else { path }));
        self.tally.problem(Problem { kind, path, message }, self.progress);
    }

    /// What another name of the same file became.
    fn linked(&self, stat: &Stat) -> Option<Content> {
        let links = self.links.lock().expect("no panic while held");
        // It may have been written to since.
        let same = |l: &&Linked| (l.mtime, l.ctime, l.content.size) == (stat.mtime, stat.ctime, stat.size);
        links.get(&(stat.dev, stat.ino)).filter(same).map(|l| l.content.clone())
    }

    fn remember_linked(&self, stat: &Stat, content: &Content) {
        let mut links = self.links.lock().expect("no panic while held");
        if links.len() < LINKS_MAX && content.children.len() <= 64 {
            let Stat { mtime, ctime, .. } = *stat;
            links.insert((stat.dev, stat.ino), Linked { mtime, ctime, content: content.clone() });
        }
    }

    fn into_tally(self) -> Tally {
        self.tally
    }
}

/// Counts, from all threads.
#[derive(Default)]
struct Tally {
    files: [AtomicU64; 3],
    dirs: [AtomicU64; 3],
    others: AtomicU64,
    bytes: AtomicU64,
    problem_count: AtomicU64,
    problems: Mutex<Vec<StoredProblem>>,
}

impl Tally {
    /// `state`: 0 new, 1 changed, 2 unmodified.
    fn file(&self, state: usize, size: u64) {
        self.files[state].fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(size, Ordering::Relaxed);
    }

    fn dir(&self, old: Option<BlobId>, new: BlobId) {
        let state = match old {
            None => 0,
            Some(old) if old != new => 1,
            Some(_) => 2,
        };
        self.dirs[state].fetch_add(1, Ordering::Relaxed);
    }

    fn other(&self) {
        self.others.fetch_add(1, Ordering::Relaxed);
    }

    fn problem(&self, problem: Problem, progress: &dyn Progress) {
        self.problem_count.fetch_add(1, Ordering::Relaxed);
        let mut problems = self.problems.lock().expect("no panic while held");
        if problems.len() < PROBLEMS_MAX {
            problems.push(StoredProblem {
                kind: problem.kind.as_str().into(),
                path: problem.path.as_os_str().as_bytes().to_vec(),
                message: problem.message.clone().into_bytes(),
            });
        }
        drop(problems);
        progress.problem(problem);
    }

    fn counts(&self) -> Counts {
        let all = |three: &[AtomicU64; 3]| [0, 1, 2].map(|n| three[n].load(Ordering::Relaxed));
        Counts {
            files: all(&self.files),
            dirs: all(&self.dirs),
            others: self.others.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            problems: self.problem_count.load(Ordering::Relaxed),
            ..Counts::default()
        }
    }

    fn into_problems(self) -> Vec<StoredProblem> {
        self.problems.into_inner().expect("no panic while held")
    }
}
