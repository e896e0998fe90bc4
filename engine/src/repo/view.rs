//! What is committed: snapshots, and the index of all that they publish.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::crypto::hash;
use crate::error::{Error, Result};
use crate::format::base::Base;
use crate::format::calendar::utc;
use crate::format::gc::{At, Kind, Tombstone};
use crate::format::keys::SessionSecret;
use crate::format::node::Timestamp;
use crate::format::objects::{self, Parsed};
use crate::format::segment::{SEGMENT_BYTES_MAX, Segment};
use crate::format::snapshot::{self, GraphPart, NamesPart, SNAPSHOT_BYTES_MAX, SnapshotKind, SnapshotRef, Stored};
use crate::id::{SegmentId, SessionId, SnapshotId, WriterId};
use crate::progress::{Problem, ProblemKind};
use crate::store::{Key, StoreError, list_all};

use super::base::NewestBase;
use super::fence::{Fenced, Sessions};
use super::forget::Forgets;
use super::index::{self, Index, Opening};
use super::open::{Repository, key};
use super::signers::{Members, Signers};

/// A committed snapshot whose signature was verified.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Its key and id.
    pub at: SnapshotRef,
    /// What every role reads.
    pub graph: GraphPart,
    /// What readers and owners read; `None` for other roles.
    pub names: Option<NamesPart>,
}

impl Snapshot {
    /// Its id.
    pub fn id(&self) -> SnapshotId {
        self.at.id
    }
}

/// A snapshot that nobody wants any more: it is not shown, and not deleted before a prune.
#[derive(Debug, Clone)]
pub struct Forgotten {
    /// Its key and id.
    pub at: SnapshotRef,
    /// When it was forgotten; `None` where only the base tells of it.
    pub time: Option<Timestamp>,
    /// Itself, if it is still there.
    pub snapshot: Option<Snapshot>,
}

/// What is committed, and what was wrong with other objects.
#[derive(Debug, Clone, Default)]
pub struct Committed {
    /// In order of time.
    pub snapshots: Vec<Snapshot>,
    /// Not among the snapshots; in order of keys.
    pub forgotten: Vec<Forgotten>,
    /// Sessions that were ended before they committed.
    pub ended: Vec<Ended>,
    /// Snapshots that stand and do not count: their sessions are dead.
    pub dead: Vec<SnapshotRef>,
    /// Snapshots and records that are no good or gone.
    pub problems: Vec<Problem>,
}

impl Committed {
    /// As [`View::resolve`].
    pub fn resolve<'a>(&'a self, name: &str, chosen: impl Fn(&Snapshot) -> bool) -> Result<&'a Snapshot> {
        resolve(&self.snapshots, &self.forgotten, name, chosen)
    }

    /// Parts that count as forgotten in this generation.
    pub(super) fn spent(&self, base: &Base, generation: u64) -> BTreeSet<SnapshotRef> {
        let ended = self.ended.iter().filter(|ended| ended.is_before(generation));
        spent(&self.snapshots, &self.forgotten, ended, base)
    }

    /// Takes out what these sessions have committed, unless `base` lists it.
    fn leave_out(&mut self, sessions: &Sessions, base: &Base) {
        let is_out = |s: &Snapshot| sessions.contains(&(s.at.writer, s.at.session)) && !base.holds(&s.at);
        self.dead.extend(self.snapshots.extract_if(.., |s| is_out(s)).map(|s| s.at));
        for forgotten in self.forgotten.iter_mut().filter(|f| !base.has_forgotten(&f.at)) {
            self.dead.extend(forgotten.snapshot.take_if(|s| is_out(s)).map(|s| s.at));
        }
    }

    /// Those that `base` has not taken in, forgotten or not: what their sessions published counts, and they must name it.
    pub(super) fn unfolded<'a>(&'a self, base: &'a Base) -> impl Iterator<Item = &'a Snapshot> {
        unfolded(&self.snapshots, &self.forgotten, base)
    }
}

/// A session that was ended before it committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// It.
    pub at: (WriterId, SessionId),
    /// Of the prune that ended it; 0: of none.
    pub generation: u64,
}

impl Ended {
    /// Whether whoever planned that generation may have known. Parts of a run that it has ended itself are left to the next
    /// one, so that what goes is what its plan has shown.
    pub(super) fn is_before(&self, generation: u64) -> bool {
        self.generation < generation
    }
}

/// Parts that count as forgotten: their run has ended without a whole, or that is forgotten (docs/protocol.md S1).
fn spent<'a>(
    snapshots: &[Snapshot],
    forgotten: &[Forgotten],
    ended: impl Iterator<Item = &'a Ended>,
    base: &Base,
) -> BTreeSet<SnapshotRef> {
    let parts = || snapshots.iter().filter(|s| s.graph.kind == SnapshotKind::Part);
    if parts().next().is_none() {
        return BTreeSet::new();
    }
    let of = |at: &SnapshotRef| (at.writer, at.session);
    let there: HashSet<_> = snapshots.iter().map(|s| of(&s.at)).chain(base.snapshots.iter().map(of)).collect();
    let gone: HashSet<_> = forgotten.iter().map(|f| of(&f.at)).chain(base.forgotten.iter().map(of)).collect();
    let over: HashSet<_> = ended.map(|ended| ended.at).chain(base.dead.iter().copied()).collect();
    let is_over = |run: &(WriterId, SessionId)| {
        gone.contains(run) || (!there.contains(run) && (over.contains(run) || run.1.n < base.floor(run.0)))
    };
    // A part without a run is nobody's.
    parts().filter(|part| part.graph.run.as_ref().is_none_or(is_over)).map(|part| part.at).collect()
}

fn unfolded<'a>(
    snapshots: &'a [Snapshot],
    forgotten: &'a [Forgotten],
    base: &'a Base,
) -> impl Iterator<Item = &'a Snapshot> {
    let all = snapshots.iter().chain(forgotten.iter().filter_map(|f| f.snapshot.as_ref()));
    all.filter(|s| !base.holds(&s.at) && !base.has_forgotten(&s.at))
}

/// A state of the repository: base, and committed snapshots newer than it, and their segments.
pub struct View {
    /// The newest base.
    pub base: NewestBase,
    /// In order of time; without the forgotten ones.
    pub snapshots: Vec<Snapshot>,
    /// What they published is in the index all the same.
    pub forgotten: Vec<Forgotten>,
    /// Sessions that were ended before they committed.
    pub ended: Vec<Ended>,
    /// Snapshots that stand and do not count: their sessions are dead.
    pub dead: Vec<SnapshotRef>,
    /// Where every blob lies that a snapshot may reach.
    pub index: Arc<Index>,
    /// Snapshots that are no good and segments that are gone: what they list may not be restorable.
    pub problems: Vec<Problem>,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "View({} snapshots, {} entries)", self.snapshots.len(), self.index.len())
    }
}

impl View {
    /// The snapshot that `name` means among those of `chosen`: a unique prefix of an id (4 digits or more), `latest`, or
    /// `latest~N`.
    pub fn resolve<'a>(&'a self, name: &str, chosen: impl Fn(&Snapshot) -> bool) -> Result<&'a Snapshot> {
        resolve(&self.snapshots, &self.forgotten, name, chosen)
    }

    /// Parts that count as forgotten.
    pub fn spent(&self) -> BTreeSet<SnapshotRef> {
        spent(&self.snapshots, &self.forgotten, self.ended.iter(), &self.base.base)
    }

    /// Whether a part's run is still open, or has died without anybody's having ended it.
    pub fn awaits_wholes(&self) -> bool {
        let (spent, base) = (self.spent(), &self.base.base);
        let is_there = |run: &(WriterId, SessionId)| {
            let mut all = self.snapshots.iter().map(|s| &s.at).chain(&base.snapshots);
            all.any(|at| (at.writer, at.session) == *run)
        };
        let mut parts = self.snapshots.iter().filter(|s| s.graph.kind == SnapshotKind::Part);
        parts.any(|part| !spent.contains(&part.at) && !part.graph.run.as_ref().is_some_and(is_there))
    }

    /// All snapshots that are there, forgotten or not.
    pub fn committed(&self) -> impl Iterator<Item = &Snapshot> {
        self.snapshots.iter().chain(self.forgotten.iter().filter_map(|f| f.snapshot.as_ref()))
    }

    /// Those of them that the base has not taken in.
    pub(super) fn unfolded(&self) -> impl Iterator<Item = &Snapshot> {
        unfolded(&self.snapshots, &self.forgotten, &self.base.base)
    }
}

/// As [`View::resolve`], where only the snapshots were read.
pub fn resolve<'a>(
    snapshots: &'a [Snapshot],
    forgotten: &[Forgotten],
    name: &str,
    chosen: impl Fn(&Snapshot) -> bool,
) -> Result<&'a Snapshot> {
    let visible = || snapshots.iter().filter(|s| s.graph.kind == SnapshotKind::Whole && chosen(s));
    if let Some(rest) = name.strip_prefix("latest") {
        let back = match rest.strip_prefix('~') {
            None if rest.is_empty() => Some(0),
            None => None,
            Some(n) => n.parse::<usize>().ok(),
        };
        let back = back.ok_or_else(|| Error::Invalid(format!("{name} is neither latest nor latest~N")))?;
        return visible().rev().nth(back).ok_or_else(|| {
            Error::NotFound(format!("there is no snapshot {name} among {} that match", visible().count()))
        });
    }
    if name.len() < 4 || !name.bytes().all(|c| c.is_ascii_hexdigit()) {
        return Err(Error::Invalid(format!(
            "{name:?} is no snapshot: give latest, latest~N, or 4 or more digits of an id (copal snapshots lists them)"
        )));
    }
    let name = name.to_lowercase();
    let found: Vec<&Snapshot> = visible().filter(|s| s.id().to_string().starts_with(&name)).collect();
    match found[..] {
        [one] => Ok(one),
        [] => Err(absent(&name, forgotten)),
        _ => Err(Error::Invalid(format!("{} snapshots begin with {name}; give more digits", found.len()))),
    }
}

fn absent(name: &str, forgotten: &[Forgotten]) -> Error {
    let mut found = forgotten.iter().filter(|f| f.at.id.to_string().starts_with(name));
    Error::NotFound(match (found.next(), found.next()) {
        (Some(Forgotten { at, time: Some(time), .. }), None) => {
            format!(
                "snapshot {} was forgotten at {}; copal snapshots lists those that are kept",
                at.id.short(),
                utc(*time)
            )
        }
        (Some(Forgotten { at, .. }), None) => {
            format!("snapshot {} was forgotten; copal snapshots lists those that are kept", at.id.short())
        }
        _ => format!("there is no snapshot {name}; copal snapshots lists them"),
    })
}

impl Repository {
    /// The committed snapshots that nobody has forgotten, in order of time, and what was wrong with others.
    ///
    /// A snapshot that the base or another snapshot's view names and that is not there was removed behind our back.
    pub fn snapshots(&self) -> Result<(Vec<Snapshot>, Vec<Problem>)> {
        self.committed().map(|committed| (committed.snapshots, committed.problems))
    }

    /// The same, with the forgotten ones.
    pub fn committed(&self) -> Result<Committed> {
        self.base_and_committed(&BTreeSet::new(), Fenced::Shown).map(|(_, committed)| committed)
    }

    /// What stands beside that base, given the records that were read after it.
    ///
    /// `pinned`: of these sessions the snapshot's key is asked for whatever the LIST shows, and it is made twice. For who
    /// deletes what no snapshot needs, so that one short answer hides none. `fenced`: what counts of sessions that are being ended.
    pub(super) fn committed_beside(
        &self,
        newest: &NewestBase,
        forgets: Forgets,
        pinned: &Sessions,
        fenced: Fenced<'_>,
    ) -> Result<Committed> {
        let mut sessions = pinned.clone();
        for _ in 0..if pinned.is_empty() { 1 } else { 2 } {
            for l in self.bridge.wait(list_all(self.store.as_ref(), "snap/"))? {
                if let Some(Parsed::Snapshot(writer, session)) = objects::parse(l.key.as_str()) {
                    sessions.insert((writer, session));
                }
            }
        }
        let jobs = sessions.into_iter().map(|(w, s)| (key(objects::snapshot(w, s)), w, s)).collect();
        let stored = self.bridge.map(jobs, self.options.connections, |(key, writer, session)| {
            let store = Arc::clone(&self.store);
            async move {
                match store.get(&key, SNAPSHOT_BYTES_MAX).await {
                    Ok(bytes) => Ok(Some((key, writer, session, bytes))),
                    Err(StoreError::NotFound { .. }) => Ok(None),
                    // Too long: whoever may write could end everybody's work with such an object. Empty is none either.
                    Err(StoreError::Wrong { .. }) => Ok(Some((key, writer, session, Default::default()))),
                    Err(e) => Err(Error::from(e)),
                }
            }
        })?;
        let (mut snapshots, mut ended, mut dead) = (Vec::new(), Vec::new(), Vec::new());
        let mut problems = newest.unreadable.clone();
        problems.extend(forgets.problems);
        let mut signers = Signers::new(self);
        for (key, writer, session, bytes) in stored.into_iter().flatten() {
            let judge = |members: &Members<'_>| match self.read_snapshot(members, writer, session, &bytes) {
                Err(e) => self.tombstone(members, key.as_str(), &bytes).map(Err).ok_or(e),
                Ok(snapshot) => Ok(Ok(snapshot)),
            };
            match self.bridge.wait(signers.judge(judge))? {
                // Nobody can bring it back (W8).
                Ok(Ok(s)) if newest.base.is_dead(&s.at) => dead.push(s.at),
                Ok(Ok(snapshot)) => snapshots.push(snapshot),
                Ok(Err(tombstone)) => ended.push(Ended { at: (writer, session), generation: tombstone.generation }),
                Err(e) => problems.push(damaged(key.as_str(), format!("this snapshot is left out: {e}"))),
            }
        }
        // Whoever is named there was committed before what was just judged, and so was its writer enrolled.
        self.look_for_named(&mut snapshots, newest, &forgets.at, &mut signers, &mut problems)?;
        snapshots.sort_by_key(|s| (s.graph.time, s.at));
        let mut committed = Committed { ended, dead, ..part(snapshots, newest, &forgets.at, problems) };
        committed.leave_out(&self.left_out(fenced)?, &newest.base);
        Ok(committed)
    }

    /// Asks for each snapshot that somebody saw and that was not listed: it may have been committed while pages came in, or
    /// be missing in a LIST. Adds a problem for each that is gone, or another one now.
    fn look_for_named(
        &self,
        snapshots: &mut Vec<Snapshot>,
        newest: &NewestBase,
        forgets: &BTreeMap<SnapshotRef, Timestamp>,
        signers: &mut Signers<'_>,
        problems: &mut Vec<Problem>,
    ) -> Result<()> {
        let mut asked = BTreeSet::new();
        loop {
            // Forgotten ones too: others rely on what they published, until a base lists it.
            let mut new = named_and_absent(snapshots, newest, forgets.keys());
            new.retain(|s| asked.insert(*s));
            if new.is_empty() {
                break;
            }
            let stored = self.bridge.map(new, self.options.connections, |s| {
                let (store, key) = (Arc::clone(&self.store), key(objects::snapshot(s.writer, s.session)));
                async move {
                    match store.get(&key, SNAPSHOT_BYTES_MAX).await {
                        Ok(bytes) => Ok(Some((s, bytes))),
                        Err(StoreError::NotFound { .. } | StoreError::Wrong { .. }) => Ok(None),
                        Err(e) => Err(Error::from(e)),
                    }
                }
            })?;
            for (s, bytes) in stored.into_iter().flatten() {
                let judge = |members: &Members<'_>| self.read_snapshot(members, s.writer, s.session, &bytes);
                let found = self.bridge.wait(signers.judge(judge))?;
                snapshots.extend(found.ok().filter(|found| found.at == s));
            }
        }
        for s in named_and_absent(snapshots, newest, [].iter()).into_iter().filter(|s| !forgets.contains_key(s)) {
            let object = objects::snapshot(s.writer, s.session);
            let known = problems.iter().any(|p| p.path.as_os_str() == object.as_str());
            if !known {
                let message = "this snapshot was here once and is gone: somebody removed or replaced it".into();
                problems.push(Problem { kind: ProblemKind::Missing, path: object.into(), message });
            }
        }
        Ok(())
    }

    pub(super) fn tombstone(&self, members: &Members<'_>, object: &str, bytes: &[u8]) -> Option<Tombstone> {
        let at = At { repository: self.id(), object, keys: &self.graph };
        Tombstone::decode(bytes, at, |who| members.of_maintenance(who)).ok()
    }

    fn read_snapshot(
        &self,
        members: &Members<'_>,
        writer: WriterId,
        session: SessionId,
        bytes: &[u8],
    ) -> Result<Snapshot> {
        let object = objects::snapshot(writer, session);
        let stored = Stored::decode(bytes).map_err(Error::in_object(&object))?;
        if (stored.repository, stored.writer, stored.session) != (self.id(), writer, session) {
            return Err(Error::damaged(object, "it is another snapshot than its key says"));
        }
        let member = members.member(writer).ok_or_else(|| Error::damaged(&object, "its writer is not enrolled"))?;
        if member.revoked.is_some_and(|r| r.last.is_none_or(|last| session > last)) {
            return Err(Error::damaged(object, "its writer was revoked before it"));
        }
        stored.verify(bytes, &member.key).map_err(Error::in_object(&object))?;
        let graph = stored.graph(&self.graph).map_err(Error::in_object(&object))?;
        let names = match self.can_read() {
            false => None,
            true => {
                let secret = self.open_stanza(&stored.stanza, writer, session)?;
                let key = secret.names(self.id(), writer, session);
                Some(stored.names(&key).map_err(Error::in_object(&object))?)
            }
        };
        let at = SnapshotRef { writer, session, id: snapshot::id(bytes) };
        Ok(Snapshot { at, graph, names })
    }

    /// The secret of a session that this stanza holds, and remembers it.
    pub(super) fn open_stanza(
        &self,
        stanza: &crate::crypto::kem::Stanza,
        writer: WriterId,
        session: SessionId,
    ) -> Result<SessionSecret> {
        let place = (writer, session, hash::blake3(&[&stanza.to_bytes()]));
        let mut known = self.sessions.lock().expect("no panic while held");
        if let Some(secret) = known.get(&place) {
            return Ok(secret.clone());
        }
        let secret = self.unseal_session(stanza).map_err(|e| Error::damaged(objects::snapshot(writer, session), e))?;
        known.insert(place, secret.clone());
        Ok(secret)
    }

    /// The secret that this very stanza holds; why it does not open.
    pub fn unseal_session(&self, stanza: &crate::crypto::kem::Stanza) -> Result<SessionSecret, String> {
        let pair = self.read.iter().find(|r| r.public().fingerprint() == stanza.recipient);
        let pair = pair.ok_or("its session was sealed to a key that this one does not hold")?;
        pair.open_stanza("copal 1 session", stanza).map(SessionSecret).map_err(|e| e.to_string())
    }

    /// A base, and the records of forgotten snapshots and the snapshots beside it, read so that no base was made in between: a
    /// view must not trust a snapshot whose session a newer base has declared dead (docs/protocol.md W3f), and a record may be
    /// removed once a newer base has taken it in (G2).
    fn base_and_committed(&self, pinned: &Sessions, fenced: Fenced<'_>) -> Result<(NewestBase, Committed)> {
        loop {
            let base = self.newest_base()?;
            let forgets = self.forgets_beside(&base)?;
            let committed = self.committed_beside(&base, forgets, pinned, fenced)?;
            if self.base_above(base.n)?.is_none_or(|again| again.n == base.n) {
                return Ok((base, committed));
            }
        }
    }

    /// Snapshots and the index of what they publish.
    pub fn view(&self) -> Result<View> {
        self.view_through(self.index_options()?, &BTreeSet::new(), Fenced::Shown)
    }

    /// As [`Repository::view`], for a session that builds upon it.
    pub(super) fn view_to_build_upon(&self) -> Result<View> {
        self.view_through(self.index_options()?, &BTreeSet::new(), Fenced::LeftOut)
    }

    /// As [`Repository::view`], and what these sessions have committed is in it whatever a LIST shows.
    pub(super) fn view_of(&self, pinned: &Sessions, dead: &Sessions) -> Result<View> {
        self.view_through(self.index_options()?, pinned, Fenced::Dead(dead))
    }

    /// As [`Repository::view`], where every segment is fetched and no local file is believed.
    pub fn fresh_view(&self) -> Result<View> {
        let dir = match &self.options.cache {
            Some(dir) if std::fs::create_dir_all(dir).is_ok() => dir.clone(),
            _ => std::env::temp_dir(),
        };
        self.view_through(self.bounded(index::Options::unlinked(dir)), &BTreeSet::new(), Fenced::Shown)
    }

    fn view_through(&self, options: index::Options, pinned: &Sessions, fenced: Fenced<'_>) -> Result<View> {
        loop {
            let (base, mut committed) = self.base_and_committed(pinned, fenced)?;
            let mut gone = false;
            let index = Arc::new(self.open_index(options.clone(), &base, &mut committed, &mut gone)?);
            // A segment that is gone was merged into another, if a newer base says so (W3e).
            if gone && self.base_above(base.n)?.is_some_and(|newer| newer.n > base.n) {
                continue;
            }
            index.exclude(base.base.dropped.iter().copied());
            let Committed { snapshots, forgotten, ended, dead, problems } = committed;
            return Ok(View { base, snapshots, forgotten, ended, dead, index, problems });
        }
    }

    fn open_index(
        &self,
        options: index::Options,
        base: &NewestBase,
        committed: &mut Committed,
        gone: &mut bool,
    ) -> Result<Index> {
        let Committed { snapshots, forgotten, problems, .. } = committed;
        let unfolded = || unfolded(snapshots, forgotten, &base.base);
        let mut wanted = Vec::new();
        let mut keys = HashMap::new();
        for s in &base.base.segments {
            wanted.push(s.id);
            keys.insert(s.id, objects::segment(s.writer, s.session, s.n, s.id));
        }
        for s in unfolded() {
            for &(n, id) in &s.graph.segments {
                wanted.push(id);
                keys.insert(id, objects::segment(s.at.writer, s.at.session, n, id));
            }
            if s.graph.inline.is_some() {
                wanted.push(inline_id(s.id()));
            }
        }
        let mut opening = Opening::new(options, &wanted)?;
        let missing: HashSet<SegmentId> = opening.missing().iter().copied().collect();
        for s in unfolded().filter(|s| missing.contains(&inline_id(s.id()))) {
            let inline = s.graph.inline.clone().expect("only inline ones are named so");
            let object = objects::snapshot(s.at.writer, s.at.session);
            add(&mut opening, &object, &for_index(inline_id(s.id()), inline), problems)?;
        }
        let fetch: Vec<(SegmentId, Key)> =
            missing.iter().filter_map(|id| Some((*id, key(keys.get(id)?.clone())))).collect();
        for batch in fetch.chunks(8) {
            let fetched = self.bridge.map(batch.to_vec(), self.options.connections.min(8), |(id, key)| {
                let store = Arc::clone(&self.store);
                async move {
                    match store.get(&key, SEGMENT_BYTES_MAX).await {
                        Ok(bytes) => Ok((id, key, Some(bytes))),
                        Err(StoreError::NotFound { .. }) => Ok((id, key, None)),
                        Err(e) => Err(Error::from(e)),
                    }
                }
            });
            let fetched = match fetched {
                Ok(fetched) => fetched,
                Err(e) => {
                    opening.keep()?;
                    return Err(e);
                }
            };
            for (id, key, bytes) in fetched {
                *gone |= bytes.is_none();
                match self.read_segment(id, key.as_str(), bytes.as_deref()) {
                    Ok(segment) => add(&mut opening, key.as_str(), &for_index(id, segment), problems)?,
                    Err(how) => problems.push(damaged(key.as_str(), format!("{how}; what it lists cannot be found"))),
                }
            }
        }
        Ok(opening.finish()?)
    }

    fn read_segment(&self, id: SegmentId, key: &str, bytes: Option<&[u8]>) -> Result<Segment, String> {
        let bytes = bytes.ok_or("this index segment is missing")?;
        if Segment::id(bytes) != id {
            return Err("this index segment has not the bytes that were written".into());
        }
        let (place, segment) = Segment::decode(bytes, &self.graph).map_err(|e| e.to_string())?;
        if place.repository != self.id() {
            return Err("this index segment belongs to another repository".into());
        }
        if objects::segment(place.writer, place.session, place.n, id) != key {
            return Err("this index segment is another one than its key says".into());
        }
        Ok(segment)
    }

    fn index_options(&self) -> Result<index::Options> {
        let options = match &self.options.cache {
            Some(dir) => index::Options::cache(dir.join(self.id().to_string()).join("index")),
            None => index::Options::unlinked(std::env::temp_dir()),
        };
        Ok(self.bounded(options))
    }

    fn bounded(&self, options: index::Options) -> index::Options {
        let build_bytes = options.build_bytes.min((self.options.memory / 4) as usize).max(4 << 20);
        index::Options { build_bytes, ..options }
    }
}

/// Takes the forgotten ones out of `snapshots`.
fn part(
    snapshots: Vec<Snapshot>,
    newest: &NewestBase,
    forgets: &BTreeMap<SnapshotRef, Timestamp>,
    problems: Vec<Problem>,
) -> Committed {
    let of_base = newest.base.forgotten.iter().map(|s| (*s, None));
    let of_records = forgets.iter().map(|(s, time)| (*s, Some(*time)));
    let mut forgotten: BTreeMap<SnapshotRef, Forgotten> =
        of_base.chain(of_records).map(|(at, time)| (at, Forgotten { at, time, snapshot: None })).collect();
    let mut kept = Vec::with_capacity(snapshots.len());
    for s in snapshots {
        match forgotten.get_mut(&s.at) {
            Some(forgotten) => forgotten.snapshot = Some(s),
            None => kept.push(s),
        }
    }
    let forgotten = forgotten.into_values().collect();
    Committed { snapshots: kept, forgotten, problems, ..Committed::default() }
}

/// What the base, another snapshot, or `also` names and is not among `snapshots`, sorted.
fn named_and_absent<'a>(
    snapshots: &'a [Snapshot],
    newest: &'a NewestBase,
    also: impl Iterator<Item = &'a SnapshotRef>,
) -> Vec<SnapshotRef> {
    let there: HashSet<SnapshotRef> = snapshots.iter().map(|s| s.at).collect();
    let named = snapshots.iter().flat_map(|s| s.graph.view.snapshots.iter()).chain(&newest.base.snapshots);
    let given_up = |s: &&SnapshotRef| newest.base.has_forgotten(s) || newest.base.is_dead(s);
    let gone: BTreeSet<SnapshotRef> =
        named.chain(also).filter(|s| !there.contains(*s) && !given_up(s)).copied().collect();
    gone.into_iter().collect()
}

/// Adds a segment; one whose parts do not fit together is a problem of its own and stops nobody.
fn add(opening: &mut Opening, object: &str, segment: &index::Segment, problems: &mut Vec<Problem>) -> Result<()> {
    match opening.add(segment) {
        Err(e @ index::Error::Segment { .. }) => problems.push(damaged(object, e.to_string())),
        other => other?,
    }
    Ok(())
}

/// Under which id the local index keeps the entries that stand in a snapshot itself.
fn inline_id(id: SnapshotId) -> SegmentId {
    SegmentId::from_bytes(*id.as_bytes())
}

pub(super) fn for_index(id: SegmentId, segment: Segment) -> index::Segment {
    let stanzas = segment.stanzas.into_iter().map(|s| ((s.writer, s.session), Box::new(s.stanza.to_bytes()))).collect();
    index::Segment { id, packs: segment.packs, stanzas, entries: segment.entries }
}

pub(super) fn damaged(object: &str, message: String) -> Problem {
    Problem { kind: ProblemKind::Damaged, path: object.into(), message }
}
