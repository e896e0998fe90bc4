//! One run of one writer: the writer's half of the protocol (docs/protocol.md W1 to W6).
//!
//! **Order of writes**: pin; packs; index segments; snapshot. Each kind is durable before the next begins, so that a crash
//! leaves garbage and no damage. Only the snapshot makes anything count.

use std::sync::Arc;

use crate::crypto::hash;
use crate::crypto::kem;
use crate::crypto::rng::{Rng, draw};
use crate::crypto::secret::Secret;
use crate::crypto::sign::SigningKey;
use crate::error::{Error, Result};
use crate::format::blob::BlobKind;
use crate::format::bundle::Identity;
use crate::format::config::Use;
use crate::format::keys::{ContentIds, SessionSecret, blob_id};
use crate::format::objects::{self, Parsed};
use crate::format::pin::Pin;
use crate::format::seal::FrameSealer;
use crate::format::snapshot::{self, GraphPart, NamesPart, SNAPSHOT_BYTES_MAX, SnapshotKind, SnapshotRef};
use crate::id::{BlobId, SessionId, SnapshotId, WriterId};
use crate::store::{Key, StoreError, list_all};

use super::condemned::Condemned;
use super::index::Claim;
use super::ledger::Ledger;
use super::open::{Repository, key};
use super::packer::{Failure, Packer, SessionKeys};
use super::view::{Snapshot, View};

pub use super::ledger::Stored;

/// Blobs shorter than this are grouped into frames.
pub const GROUPED_UNDER: usize = 64 << 10;
/// A group is sealed once it holds this many bytes. Source code takes 4 % less in groups of 2 MiB than of 1, and 2 % less
/// in 4; but who wants one blob opens its group, and a group is given back only when all of it is unused.
const GROUP_BYTES: usize = 2 << 20;
/// Sessions that give way to a floor before one is given up.
const GIVE_WAY_MAX: usize = 8;

/// What a session ends with that a prune has ended.
pub(super) fn fenced() -> Error {
    let why = "maintenance has ended this session because it seemed dead; run the backup again, what it stored is used";
    Error::Fenced(why.into())
}

/// An open session.
pub struct Session {
    pub(super) repo: Arc<Repository>,
    pub(super) keys: SessionKeys,
    view: View,
    packer: Packer,
    pub(super) ledger: Arc<Ledger>,
    failure: Arc<Failure>,
    condemned: Arc<Condemned>,
    _watch: Watch,
    level: i32,
    dry: bool,
}

/// The task of [`watch_over`], ended with the session.
struct Watch(Option<tokio::task::JoinHandle<()>>);

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// A session, or the floor that it has to give way to.
enum Opened {
    Session(Box<Session>),
    Below(u64),
}

impl Session {
    /// Opens a session: pin, gc, then the view (W1, W2).
    ///
    /// `dry`: writes nothing at all; blobs are claimed and counted as if.
    pub fn begin(repo: Arc<Repository>, who: &Identity, level: i32, dry: bool, rng: Box<dyn Rng>) -> Result<Self> {
        repo.may(Use::Write, "back up")?;
        Self::begin_any(repo, who, (level, dry), rng)
    }

    /// A session of maintenance: it moves frames, and commits no tree.
    pub(super) fn maintain(repo: Arc<Repository>, who: &Identity, rng: Box<dyn Rng>) -> Result<Self> {
        repo.may(Use::Maintain, "prune")?;
        Self::begin_any(repo, who, (0, false), rng)
    }

    fn begin_any(repo: Arc<Repository>, who: &Identity, (level, dry): (i32, bool), rng: Box<dyn Rng>) -> Result<Self> {
        let (mut floor, mut rng) = (0, Some(rng));
        for _ in 0..GIVE_WAY_MAX {
            match Self::open(&repo, who, (level, dry, floor), &mut rng)? {
                Opened::Session(session) => return Ok(*session),
                Opened::Below(higher) => floor = higher,
            }
        }
        Err(Error::Busy("somebody raises the floor of this writer faster than it can begin; try again later".into()))
    }

    fn open(
        repo: &Arc<Repository>,
        who: &Identity,
        (level, dry, floor): (i32, bool, u64),
        rng: &mut Option<Box<dyn Rng>>,
    ) -> Result<Opened> {
        let mut own = rng.take().expect("put back by who gives way");
        let (keys, earlier) = draw_session(repo, who, floor, &mut *own)?;
        let (id, repo) = (keys.session, Arc::clone(repo));
        if !dry {
            put_pin(&repo, who.id, id)?;
        }
        let failure = Arc::<Failure>::default();
        let condemned = Arc::new(Condemned::new(&repo, who.id, id, &keys.signer));
        let proposed = condemned.open()?;
        if id.n < proposed {
            *rng = Some(own);
            give_way(&repo, who.id, id, dry)?;
            return Ok(Opened::Below(proposed));
        }
        let mut watch = Watch(None);
        if !dry {
            repo.bridge.wait(condemned.acknowledge())?;
            watch.0 = Some(repo.bridge.spawn(watch_over(Arc::clone(&condemned), Arc::clone(&failure), who.id, id)));
        }
        let view = repo.view_to_build_upon()?;
        view.base.whole()?;
        let standing = view.base.base.floor(who.id);
        if id.n < standing {
            *rng = Some(own);
            give_way(&repo, who.id, id, dry)?;
            return Ok(Opened::Below(standing));
        }
        // Named while it opened: W6d asks only for bases that are newer than this one.
        if view.base.base.dead.binary_search(&(who.id, id)).is_ok() {
            return Err(fenced());
        }
        condemned.reuse_from(&view.index);
        let (index, for_ledger) = (Arc::clone(&view.index), Arc::clone(&condemned));
        let ledger = Arc::new(Ledger::new(&repo, &keys, index, for_ledger));
        if !dry {
            let interrupted = interrupted(&earlier, who.id, &view);
            super::adopt::adopt(&repo, who.id, &keys.signer.verifying(), &interrupted, &view, &ledger)?;
        }
        let packer = Packer::new(Arc::clone(&repo), &keys, own, ledger.clone(), Arc::clone(&failure));
        let session = Self { repo, keys, view, packer, ledger, failure, condemned, _watch: watch, level, dry };
        Ok(Opened::Session(Box::new(session)))
    }

    /// The state that it saw.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The repository.
    pub fn repository(&self) -> &Arc<Repository> {
        &self.repo
    }

    /// Who writes.
    pub fn writer(&self) -> WriterId {
        self.keys.writer
    }

    /// Keys of ids and tags.
    pub fn content_ids(&self) -> &ContentIds {
        self.repo.content.as_ref().expect("owners and writers hold D_id")
    }

    /// Its writer and itself.
    pub fn at(&self) -> (WriterId, SessionId) {
        (self.keys.writer, self.keys.session)
    }

    /// What one thread stores with.
    pub fn worker(&self) -> Worker<'_> {
        Worker {
            session: self,
            sealer: FrameSealer::new(self.level),
            scratch: Vec::new(),
            groups: BlobKind::ALL.map(|_| Group::default()),
        }
    }

    /// The writer's own last snapshot of a source, or part: what its unchanged files are taken from. The latest in time, for an edited
    /// copy of an old one is made later; but where both stand the original, which has no less.
    pub fn last_of_source(&self, source: &[u8; 32]) -> Option<&Snapshot> {
        let own = |s: &&Snapshot| {
            s.at.writer == self.keys.writer && s.graph.source == *source && s.graph.kind != SnapshotKind::None
        };
        self.view.snapshots.iter().filter(own).max_by_key(|s| (s.graph.time, s.graph.original.is_none(), s.at.session))
    }

    /// Ends without a snapshot; the first failure, if anything has failed. What is complete is still stored, so that the
    /// next session of this writer can adopt it.
    pub fn abandon(self) -> Option<Error> {
        if let Err(e) = self.packer.finish() {
            tracing::debug!("an abandoned session did not store its last packs: {e}");
        }
        self.failure.take()
    }

    /// Whether nothing was stored or adopted: a tree that was saved consists of what the view has.
    pub fn added_nothing(&self) -> bool {
        self.ledger.is_empty()
    }

    /// Whether a blob is in the view or was stored by this session (W3): only then may it be referenced.
    pub fn has(&self, id: &BlobId) -> bool {
        self.view.index.reuse(id)
    }

    /// Makes everything durable and commits the snapshot (W5, W6). All workers are done and flushed.
    ///
    /// [`Error::Fenced`]: no snapshot was made and a new session has to start over; it adopts what this one stored.
    ///
    /// `graph` comes without what the session knows itself (view, segments, packs, inline entries).
    /// A dry session commits nothing and has no id.
    pub fn commit(
        self,
        mut graph: GraphPart,
        make_names: impl FnOnce(Stored) -> NamesPart,
    ) -> Result<(Option<SnapshotId>, Stored)> {
        if self.dry {
            return Ok((None, self.ledger.stored()));
        }
        // A failed step says only that another had failed before it; the reason is that one's.
        self.packer.finish().map_err(|e| self.failure.take().unwrap_or(e))?;
        let stored = self.ledger.stored();
        graph.inline = self.ledger.take_inline();
        if graph.inline.is_none() {
            self.ledger.write_segment()?;
        }
        self.failure.check().map_err(|e| self.failure.take().unwrap_or(e))?;
        let names = make_names(stored);
        graph.epoch = self.repo.config.epoch;
        graph.segments = self.ledger.segments();
        (graph.packs, graph.pack_bytes) = (stored.packs, stored.pack_bytes);
        let base = &self.view.base;
        (graph.view.base, graph.view.base_hash) = (base.n, base.hash);
        // Forgotten ones too: what they published may be reused here.
        graph.view.snapshots = self.view.unfolded().map(|s| s.at).collect();

        self.ledger.verify_stored()?;
        match self.repo.bridge.wait(self.condemned.look()) {
            Ok(()) => {}
            Err(e @ (Error::TooNew(_) | Error::Fenced(_))) => return Err(e),
            // Not acknowledged: a prune waits for the snapshot, or fences.
            Err(e) => tracing::warn!("it was not seen whether somebody prunes: {e}"),
        }
        self.failure.check().map_err(|e| self.failure.take().unwrap_or(e))?;
        let id = self.put_snapshot(&graph, &names)?;
        if self.repo.ends_by_name() {
            self.not_named()?;
        }
        self.confirm(id)?;
        Ok((Some(id), stored))
    }

    /// No prune has named this session while its snapshot came to stand: one that named it before found none, and declares it
    /// dead (N8). Asked before base is read once more (N10).
    fn not_named(&self) -> Result<()> {
        let ask = || self.repo.bridge.wait(self.repo.named());
        let named = ask().or_else(|_| ask()).or_else(|_| ask())?;
        match named.contains(&(self.keys.writer, self.keys.session)) {
            true => Err(fenced()),
            false => Ok(()),
        }
    }

    /// Whether a base that was made meanwhile has declared the session dead (W6d). Unless that is known to be false the
    /// snapshot is not reported.
    fn confirm(&self, id: SnapshotId) -> Result<()> {
        let at = SnapshotRef { writer: self.keys.writer, session: self.keys.session, id };
        let mut newer = self.repo.base_above(self.view.base.n);
        for _ in 0..2 {
            if newer.is_err() {
                newer = self.repo.base_above(self.view.base.n);
            }
        }
        match newer? {
            Some(base) if base.base.is_dead(&at) => Err(fenced()),
            Some(base) => base.whole(),
            None => Ok(()),
        }
    }

    fn put_snapshot(&self, graph: &GraphPart, names: &NamesPart) -> Result<SnapshotId> {
        let (repo, keys) = (&self.repo, &self.keys);
        let names_key = keys.secret.names(repo.id(), keys.writer, keys.session);
        let stored = snapshot::encode(
            repo.id(),
            keys.writer,
            keys.session,
            &keys.stanza,
            graph,
            names,
            (&repo.graph, &names_key),
            &keys.signer,
        );
        self.prove(&stored, &names_key)?;
        let object = key(objects::snapshot(keys.writer, keys.session));
        let put = repo.bridge.wait(repo.store.put_new(&object, stored.clone().into()));
        self.stands(&object, &stored, put)?;
        Ok(snapshot::id(&stored))
    }

    /// A snapshot that a reader would refuse must not be reported as made.
    fn prove(&self, stored: &[u8], names_key: &Secret) -> Result<()> {
        let read = || {
            let read = snapshot::Stored::decode(stored)?;
            read.verify(stored, &self.keys.signer.verifying())?;
            read.graph(&self.repo.graph)?;
            read.names(names_key)
        };
        let too_long = (stored.len() as u64 > SNAPSHOT_BYTES_MAX).then(|| "it is too long".to_owned());
        match read().err().map(|e| e.to_string()).or(too_long) {
            None => Ok(()),
            Some(how) => Err(Error::Invalid(format!(
                "this snapshot would not be readable: {how}; back up fewer paths at once, or let the owner back up, which folds old snapshots"
            ))),
        }
    }

    /// Whatever the put was answered: the bytes tell (W6). Its answer may have been lost, a tombstone may stand there, and
    /// a store may acknowledge what it does not keep.
    fn stands(&self, object: &Key, stored: &[u8], put: Result<(), StoreError>) -> Result<()> {
        let get = || self.repo.bridge.wait(self.repo.store.get(object, SNAPSHOT_BYTES_MAX));
        let is_ours = |there: &Result<bytes::Bytes, StoreError>| there.as_ref().is_ok_and(|there| *there == stored);
        // Twice, because the answer may be spoilt and not the object.
        let mut there = get();
        if !is_ours(&there) {
            there = get();
        }
        match (put, there) {
            (_, there) if is_ours(&there) => Ok(()),
            (Err(StoreError::Exists { .. }), Ok(_) | Err(StoreError::Wrong { .. })) => Err(fenced()),
            (Err(e), _) => Err(e.into()),
            (Ok(()), Ok(_) | Err(StoreError::Wrong { .. })) => {
                Err(Error::damaged(object.as_str(), "it has not the bytes that were written; run the backup again"))
            }
            (Ok(()), Err(StoreError::NotFound { .. })) => {
                Err(Error::damaged(object.as_str(), "it was written and is not in the store; run the backup again"))
            }
            (Ok(()), Err(e)) => {
                tracing::warn!("the snapshot was stored, and could not be read back: {e}");
                Ok(())
            }
        }
    }
}

/// The keys of a new session, and the earlier ones that have a pin.
fn draw_session(
    repo: &Repository,
    who: &Identity,
    floor: u64,
    rng: &mut dyn Rng,
) -> Result<(SessionKeys, Vec<SessionId>)> {
    let (session, earlier) = next_session(repo, who.id, floor, rng)?;
    let random = Secret::random(rng);
    let now = repo.options.clock.now();
    let nanos = (now.secs as u128) * 1_000_000_000 + u128::from(now.nanos);
    let secret = SessionSecret::draw(&random, &who.seed, who.id, session, nanos);
    let stanza = kem::seal_to(repo.config.recipient(), rng, "copal 1 session", &secret.0);
    let signer = SigningKey::from_seed(who.seed.clone());
    Ok((SessionKeys { writer: who.id, session, signer, secret, stanza }, earlier))
}

/// 1 + the writer's highest number in pin/ and snap/, and not below `floor`; and the sessions that have a pin.
pub(super) fn next_session(
    repo: &Repository,
    writer: WriterId,
    floor: u64,
    rng: &mut dyn Rng,
) -> Result<(SessionId, Vec<SessionId>)> {
    let mut highest = floor.saturating_sub(1);
    let mut pinned = Vec::new();
    for kind in ["pin", "snap"] {
        for l in repo.bridge.wait(list_all(repo.store.as_ref(), &format!("{kind}/{writer}/")))? {
            let session = match objects::parse(l.key.as_str()) {
                Some(Parsed::Pin(_, s)) => {
                    pinned.push(s);
                    s
                }
                Some(Parsed::Snapshot(_, s)) => s,
                _ => continue,
            };
            highest = highest.max(session.n);
        }
    }
    let n = highest.checked_add(1).ok_or_else(|| Error::damaged(format!("pin/{writer}"), "no number is left"))?;
    Ok((SessionId { n, random: u64::from_le_bytes(draw(rng)) }, pinned))
}

/// Sessions of this writer that did not commit, after the last that did: that one adopted what was left before it. None that
/// lies below the floor (A6).
fn interrupted(pinned: &[SessionId], writer: WriterId, view: &View) -> Vec<SessionId> {
    let committed = view.committed().filter(|s| s.at.writer == writer).map(|s| s.at.session);
    let last = committed.max().map_or(0, |s| s.n);
    let floor = view.base.base.floor(writer);
    pinned.iter().copied().filter(|s| s.n > last && s.n >= floor).collect()
}

/// A session that has stored nothing but its pin ends, so that no prune waits for it. Below the floor of a base its pin may go (P8a),
/// and so may its acks. Where the floor is only proposed a tombstone ends it, if this key signs one: as a fold's own session.
fn give_way(repo: &Repository, writer: WriterId, session: SessionId, dry: bool) -> Result<()> {
    if dry {
        return Ok(());
    }
    if session.n < repo.newest_base()?.base.floor(writer) {
        let prefix = objects::pin(writer, session);
        let left = repo.bridge.wait(list_all(repo.store.as_ref(), &prefix))?;
        return left.into_iter().try_for_each(|l| Ok(repo.bridge.wait(repo.store.delete(&l.key))?));
    }
    match repo.maintenance_signer("end a session") {
        Ok((signer, key)) => repo.end_session(writer, session, (signer, &key)),
        // A writer's own: a prune ends it.
        Err(_) => Ok(()),
    }
}

pub(super) fn put_pin(repo: &Repository, writer: WriterId, session: SessionId) -> Result<()> {
    let (host, boot) = this_machine(repo);
    let pid = u64::from(std::process::id());
    let pin = Pin { epoch: repo.config.epoch, host, boot, pid, started: started(pid).unwrap_or(0) };
    let stored = pin.encode(repo.id(), writer, session, &repo.graph);
    repo.bridge.wait(repo.store.put_new(&key(objects::pin(writer, session)), stored.into()))?;
    Ok(())
}

/// What stands in pins for this host, and for its boot with the namespace that process ids are counted in.
pub(super) fn this_machine(repo: &Repository) -> ([u8; 32], [u8; 32]) {
    let tag = |what: &[u8], text: &[&[u8]]| hash::keyed(repo.graph.records(), &[&[what], text].concat());
    let boot = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let host = tag(b"pin host", &[rustix::system::uname().nodename().to_bytes()]);
    (host, tag(b"pin boot", &[&boot, namespace.as_os_str().as_encoded_bytes()]))
}

/// When a process started, in clock ticks since the boot: field 22 of /proc/PID/stat, counted behind the command's name,
/// which may hold anything. `None`: there is no such process.
pub(super) fn started(pid: u64) -> Option<u64> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&stat);
    let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    fields.split_whitespace().nth(19)?.parse().ok()
}

/// Looks for new generations and for a tombstone at the own snapshot key, as long as the session is open (W4).
async fn watch_over(condemned: Arc<Condemned>, failure: Arc<Failure>, writer: WriterId, session: SessionId) {
    let own = key(objects::snapshot(writer, session));
    loop {
        let options = &condemned.repository().options;
        options.clock.pause(options.watch).await;
        match condemned.look().await {
            Ok(()) => {}
            // By rules that nobody knows here there may be no waiting for an ack.
            Err(e @ (Error::TooNew(_) | Error::Fenced(_))) => return failure.note(e),
            Err(e) => tracing::warn!("it was not seen whether somebody prunes: {e}"),
        }
        if condemned.repository().store.head(&own).await.is_ok() {
            return failure.note(fenced());
        }
    }
}

/// Small blobs that wait to be sealed together.
#[derive(Default)]
struct Group {
    raw: Vec<u8>,
    blobs: Vec<(BlobId, u32)>,
}

/// One thread's end of a session: claims, compresses, seals.
pub struct Worker<'s> {
    session: &'s Session,
    sealer: FrameSealer,
    scratch: Vec<u8>,
    groups: [Group; 4],
}

impl Worker<'_> {
    /// Stores a blob unless it is stored; its id.
    ///
    /// It is durable only when the session commits; an interrupted session may have stored it or not.
    pub fn store(&mut self, kind: BlobKind, raw: &[u8]) -> Result<BlobId> {
        let repo = &self.session.repo;
        let id = blob_id(&repo.graph, repo.content.as_ref(), kind, raw).expect("owners and writers hold D_id");
        match self.session.view.index.claim(&id) {
            Claim::Known(_) | Claim::Pending => {}
            Claim::New => {
                self.session.ledger.count(kind, raw.len() as u64);
                self.add(kind, id, raw)?;
            }
        }
        Ok(id)
    }

    fn add(&mut self, kind: BlobKind, id: BlobId, raw: &[u8]) -> Result<()> {
        if raw.len() >= GROUPED_UNDER {
            return self.seal(kind, vec![(id, raw.len() as u32)], raw);
        }
        if self.groups[kind as usize].raw.len() + raw.len() > GROUP_BYTES {
            self.seal_group(kind)?;
        }
        let group = &mut self.groups[kind as usize];
        group.raw.extend_from_slice(raw);
        group.blobs.push((id, raw.len() as u32));
        if group.blobs.len() == usize::from(u16::MAX) {
            self.seal_group(kind)?;
        }
        Ok(())
    }

    fn seal_group(&mut self, kind: BlobKind) -> Result<()> {
        let mut group = std::mem::take(&mut self.groups[kind as usize]);
        if group.blobs.is_empty() {
            return Ok(());
        }
        let done = self.seal(kind, std::mem::take(&mut group.blobs), &group.raw);
        group.raw.clear();
        self.groups[kind as usize] = group;
        done
    }

    fn seal(&mut self, kind: BlobKind, blobs: Vec<(BlobId, u32)>, raw: &[u8]) -> Result<()> {
        if self.session.dry {
            return Ok(());
        }
        self.session.failure.check()?;
        self.session.packer.add(&mut self.sealer, &mut self.scratch, kind, blobs, raw)?;
        self.session.ledger.count_frame(self.scratch.len() as u64);
        Ok(())
    }

    /// Seals what waits in groups. Must be called before the session commits.
    pub fn flush(&mut self) -> Result<()> {
        BlobKind::ALL.into_iter().try_for_each(|kind| self.seal_group(kind))
    }

    /// Whether anything waits in groups.
    pub fn is_flushed(&self) -> bool {
        self.groups.iter().all(|g| g.blobs.is_empty())
    }
}
