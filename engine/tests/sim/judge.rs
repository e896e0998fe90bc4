//! What must hold once all is quiet: nothing that was reported is lost, nothing comes back other than it was, and what
//! nobody needs goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use copal_engine::crypto::rng::SeededRng;
use copal_engine::format::blob::BlobKind;
use copal_engine::format::node::{NodeKind, Timestamp};
use copal_engine::id::BlobId;
use copal_engine::ops::check::{self, Read, check};
use copal_engine::ops::prune::{self, prune};
use copal_engine::progress::{Cancel, Silent};
use copal_engine::repo::{self, Clock, Node, Reader, Repository};
use copal_engine::store::memory::Memory;
use copal_engine::{Error, Result};

use crate::book::{Book, Forgotten};
use crate::image::{Files, Image, Images, everything};
use crate::store::EPOCH;

/// A clock that goes on only while somebody waits.
#[derive(Debug, Default)]
pub struct Still(AtomicU64);

#[async_trait]
impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp { secs: EPOCH - 1000, nanos: 0 }
    }

    fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }

    async fn pause(&self, time: Duration) {
        // What looks again and again beside the work is not needed here, and would never end.
        if time >= Duration::from_secs(5) {
            std::future::pending::<()>().await;
        }
        self.0.fetch_add(time.as_nanos() as u64 * 20, Ordering::Relaxed);
    }
}

/// Prunes after which nothing may be left that nobody needs.
const PRUNES: usize = 3;

/// What is judged.
pub struct Case<'c> {
    pub images: &'c Images,
    pub image: &'c Image,
    pub book: &'c Book,
    pub memory: Arc<Memory>,
    /// Of an owner whom nothing disturbs.
    pub repo: Arc<Repository>,
    /// Bits were flipped: damage is no fault, only other bytes are.
    pub flipped: bool,
    /// A base may stand again below the newest, which follows another.
    pub late_base: bool,
    /// The store promises less, and is pruned only by who is alone.
    pub lags: bool,
}

/// When `check` reads everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    Before,
    After,
    Not,
}

/// What does not hold; nothing, as it should be.
pub struct Judged {
    pub faults: Vec<String>,
    /// What stays in the store though nobody needs it.
    pub leaks: Vec<String>,
}

impl Case<'_> {
    /// It is checked before any prune, or only after, or not at all: that reads everything once more, and takes long.
    pub fn judge(&self, checked: Checked) -> Judged {
        let mut judged = Judged { faults: self.book.faults.clone(), leaks: Vec::new() };
        let mut all = |what: &str, done: Result<Vec<String>>| match done {
            Ok(faults) => judged.faults.extend(faults.into_iter().map(|f| format!("{what}: {f}"))),
            Err(_) if self.flipped => {}
            Err(e) => judged.faults.push(format!("{what}: {e}")),
        };
        all("at first", self.snapshots());
        if checked == Checked::Before || self.flipped {
            all("check", self.check());
        }
        if self.flipped {
            return judged;
        }
        for n in 1..=PRUNES {
            all(&format!("prune {n}"), self.prune(false).map(|_| Vec::new()));
            if n == 1 {
                all("after a prune", self.snapshots());
            }
        }
        // Before the check: what that proves lets more copies go.
        let left = self.prune(true);
        if checked == Checked::After {
            all("check after prunes", self.check());
        }
        match left {
            Ok(left) if left.plan.is_empty() => {}
            Ok(left) => judged.leaks.push(format!("after {PRUNES} prunes there is still to do: {:?}", left.plan)),
            Err(e) => judged.faults.push(format!("a last plan: {e}")),
        }
        judged
    }

    /// Every reported snapshot that nobody has forgotten is there, and all that are there are what they say.
    fn snapshots(&self) -> Result<Vec<String>> {
        let view = self.repo.view()?;
        let mut faults = Vec::new();
        if !self.flipped {
            view.base.whole()?;
            faults.extend(view.problems.iter().map(|p| p.to_string()));
            for (n, id) in self.book.must_be_there() {
                if !view.snapshots.iter().any(|s| s.id() == id) {
                    faults.push(format!("attempt {n} was committed as {} and is not there", id.short()));
                }
            }
        }
        let reader = Reader::new(Arc::clone(&self.repo), Arc::clone(&view.index), 8 << 20);
        for s in &view.snapshots {
            let Some((_, names)) = s.graph.root.zip(s.names.as_ref()) else { continue };
            let Some(n) = self.book.of(&names.labels) else {
                faults.push(format!("{} is of nobody", s.id().short()));
                continue;
            };
            let attempt = &self.book.attempts[n];
            if self.book.forgotten(&s.id()) == Forgotten::Yes && !self.flipped {
                faults.push(format!("attempt {n} was forgotten and is there"));
            }
            match read_files(&reader, s) {
                Ok(files) if same(&files, &self.images.sources[attempt.source].files) => {}
                Ok(_) => faults.push(format!("attempt {n} comes back as something else")),
                Err(_) if self.flipped => {}
                Err(e) => faults.push(format!("attempt {n} does not come back: {e}")),
            }
        }
        Ok(faults)
    }

    fn check(&self) -> Result<Vec<String>> {
        let options = check::Options { read: Read::All, max_age: None, max_duration: None, with_cache: false, seed: 1 };
        let report = check(&self.repo, &options, &Silent, &Cancel::default())?;
        if self.flipped {
            return Ok(Vec::new());
        }
        let late_base = |f: &&check::Finding| {
            let unchained = |fault: &check::Fault| fault.what == "it does not follow the base before it";
            self.late_base && f.faults.iter().all(unchained)
        };
        Ok(report.findings.iter().filter(|f| !late_base(f)).map(|f| format!("{f:?}")).collect())
    }

    fn prune(&self, dry_run: bool) -> Result<prune::Summary> {
        let options = prune::Options { dry_run, exclusive: self.lags, ..everything() };
        let rng = Box::new(SeededRng::new(format!("judge {}", self.memory.snapshot().len())));
        prune(&self.repo, &self.image.keys.owner.1, rng, &options, &Silent, &Cancel::default())
    }
}

pub fn same(a: &Files, b: &Files) -> bool {
    a == b
}

/// The files of a snapshot.
pub fn read_files(reader: &Reader, snapshot: &repo::Snapshot) -> Result<Files> {
    let root = snapshot.graph.root.expect("a whole snapshot has a root");
    let node = reader.find(&root, b"/source")?.ok_or_else(|| Error::damaged("tree", "it has no /source"))?;
    let mut files = Files::new();
    let tree = node.tree().ok_or_else(|| Error::damaged("tree", "the source is no directory"))?;
    read_dir(reader, &tree, b"", &mut files)?;
    Ok(files)
}

fn read_dir(reader: &Reader, tree: &BlobId, at: &[u8], files: &mut Files) -> Result<()> {
    for node in reader.entries(tree)? {
        let mut path = at.to_vec();
        path.extend_from_slice(&node.name);
        match node.tree() {
            Some(tree) => {
                path.push(b'/');
                read_dir(reader, &tree, &path, files)?;
            }
            None if matches!(node.metadata.kind, NodeKind::File { .. }) => {
                files.insert(path, read_file(reader, &node)?);
            }
            None => return Err(Error::damaged("tree", "an entry is neither file nor directory")),
        }
    }
    Ok(())
}

fn read_file(reader: &Reader, node: &Node) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    reader.each_piece(node, &mut |piece| {
        if let Some(id) = piece.data {
            out.extend_from_slice(&reader.blob(&id, BlobKind::Data)?);
        }
        Ok(())
    })?;
    Ok(out)
}
