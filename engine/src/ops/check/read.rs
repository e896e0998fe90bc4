//! Reading packs whole: fetched ahead within a cap on bytes, verified by all threads, remembered (`--read-data`).

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::format::blob::Class;
use crate::id::PackId;
use crate::progress::{Cancel, Progress};
use crate::repo::index::Found;
use crate::repo::{Reader, verdict};
use crate::store::{Key, StoreError};

use super::budget::{Budget, Held};
use super::damage::{Bad, Damage, Invariant};
use super::lists::{Pack, Packs, missing_pack};
use super::packs::{Outcome, Scratch, Verifier};
use super::select::Plan;

/// How often a long check remembers what it did, should it be killed.
const REMEMBER: Duration = Duration::from_secs(600);
/// Packs whose blobs are looked at one by one with one pass over the index.
const ONE_BY_ONE: usize = 256;

/// How much was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadCounts {
    /// Packs that were read whole.
    pub packs: u64,
    /// Their sizes together, in bytes.
    pub bytes: u64,
    /// Packs left out because they were verified not longer ago than asked for.
    pub fresh: u64,
    /// Packs left over when the time was up.
    pub left: u64,
}

/// One reading of packs.
pub(super) struct Reading<'c> {
    pub reader: &'c Reader,
    pub packs: &'c Packs,
    pub damage: &'c Damage,
    pub progress: &'c dyn Progress,
    pub cancel: &'c Cancel,
    pub deadline: Option<Instant>,
    pub pool: &'c rayon::ThreadPool,
    pub budget: Arc<Budget>,
    /// What came of each pack.
    pub found: &'c Mutex<verdict::Found>,
}

/// A pack on its way from the store.
struct Fetched {
    at: u32,
    bytes: Result<Bytes, StoreError>,
    held: Held,
}

/// What the threads of one reading share.
struct Shared<'c> {
    reading: &'c Reading<'c>,
    verifier: Verifier<'c>,
    /// Entries of the index in each pack.
    listed: Vec<u32>,
    unreadable: Mutex<Vec<u32>>,
    packs: AtomicU64,
    bytes: AtomicU64,
    gone: AtomicU64,
    stop: AtomicBool,
    failed: Mutex<Option<Error>>,
}

impl Reading<'_> {
    /// Reads what is planned, as far as time allows, and remembers it, also when it is interrupted.
    pub(super) fn run(&self, plan: &Plan) -> Result<ReadCounts> {
        let repo = self.reader.repository();
        let size = |at: &u32| self.packs.list[*at as usize].size;
        self.progress.expect(plan.order.len() as u64, plan.order.iter().map(size).sum());
        let index = self.reader.index();
        let shared = Shared {
            reading: self,
            verifier: Verifier { repo, index: &index, damage: self.damage },
            listed: if plan.order.is_empty() { Vec::new() } else { self.packs.entry_counts(&index) },
            unreadable: Mutex::default(),
            packs: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            gone: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            failed: Mutex::new(None),
        };
        let (send, receive) = channel();
        let receive = Mutex::new(receive);
        self.pool.in_place_scope(|scope| {
            for _ in 0..self.pool.current_num_threads() {
                scope.spawn(|_| shared.work(&receive));
            }
            shared.feed(plan, send);
        });
        self.one_by_one(&shared)?;
        self.remember()?;
        if let Some(e) = shared.failed.into_inner().expect("no panic while held") {
            return Err(e);
        }
        let packs = shared.packs.into_inner();
        let left = plan.order.len() as u64 - packs - shared.gone.into_inner();
        Ok(ReadCounts { packs, bytes: shared.bytes.into_inner(), fresh: plan.fresh, left })
    }

    fn remember(&self) -> Result<()> {
        let found = self.found.lock().expect("no panic while held").clone();
        if found.is_empty() {
            return Ok(());
        }
        match self.reader.repository().remember(&found, &|pack| self.packs.position(pack).is_some()) {
            // What was found is reported all the same; a full store must not hide it.
            Err(Error::Store(e @ (StoreError::Full { .. } | StoreError::Denied { .. }))) => {
                tracing::warn!("what was verified is not remembered, so the next check reads it again: {e}");
                Ok(())
            }
            other => other,
        }
    }

    /// Looks at each blob that the index places in a pack which does not tell itself what is in it.
    fn one_by_one(&self, shared: &Shared<'_>) -> Result<()> {
        let unreadable = std::mem::take(&mut *shared.unreadable.lock().expect("no panic while held"));
        for batch in unreadable.chunks(ONE_BY_ONE) {
            let ids: HashSet<PackId> = batch.iter().map(|at| self.packs.list[*at as usize].id).collect();
            let index = self.reader.index();
            let mut copies: Vec<Found> = index.entries().filter(|copy| ids.contains(&copy.pack_id())).collect();
            copies.sort_by_cached_key(|copy| (copy.pack_id(), copy.entry.offset, copy.entry.at));
            let looked = self.pool.install(|| copies.par_iter().try_for_each(|copy| self.look_at(copy)));
            looked?;
            ids.iter().for_each(|id| self.damage.forget_size(id));
        }
        Ok(())
    }

    fn look_at(&self, copy: &Found) -> Result<()> {
        let pack = self.packs.of_copy(copy);
        if self.cancel.is_canceled() {
            return Err(Error::Interrupted);
        }
        if copy.entry.kind.class() == Class::Content && !self.reader.repository().can_read() {
            self.damage.pack(&pack, Invariant::I6, "it does not tell what is in it", Bad::Content);
            return Ok(());
        }
        let id = copy.entry.id;
        if self.damage.lies_beyond(copy) {
            self.damage.pack(&pack, Invariant::I7, "blobs lie beyond its end", Bad::Blobs(vec![id]));
            return Ok(());
        }
        let how = match self.reader.read_copy(&id, copy) {
            Ok(_) => return Ok(()),
            Err(Error::Store(StoreError::NotFound { .. })) => {
                missing_pack(&pack, self.damage);
                return Ok(());
            }
            Err(Error::Damaged { how, .. }) => how,
            Err(Error::Store(e @ (StoreError::Wrong { .. } | StoreError::Failed { .. }))) => e.to_string(),
            Err(e) => return Err(e),
        };
        let what = format!("{} blob {}: {how}", copy.entry.kind.as_str(), id.short());
        self.damage.pack(&pack, Invariant::I7, what, Bad::Blobs(vec![id]));
        Ok(())
    }
}

impl Shared<'_> {
    /// Fetches packs in the order of the plan, as many at once as the budget holds.
    fn feed(&self, plan: &Plan, send: Sender<Fetched>) {
        let reading = self.reading;
        let repo = reading.reader.repository();
        let mut remembered = Instant::now();
        // Many small packs are no more calls at once than large ones.
        let least = reading.budget.cap() / repo.options().connections.max(1) as u64;
        for &at in &plan.order {
            let pack = &reading.packs.list[at as usize];
            let held = reading.budget.take(pack.size.max(least));
            let late = reading.deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if late || self.stop.load(Ordering::Relaxed) {
                return;
            }
            if reading.cancel.is_canceled() {
                return self.fail(Error::Interrupted);
            }
            if remembered.elapsed() > REMEMBER {
                if let Err(e) = reading.remember() {
                    return self.fail(e);
                }
                remembered = Instant::now();
            }
            reading.progress.start(Path::new(&pack.key()));
            let (store, send, size) = (Arc::clone(repo.store()), send.clone(), pack.size);
            let key = Key::new(pack.key()).expect("the format's names are keys");
            repo.bridge().spawn(async move {
                let bytes = store.get(&key, size).await;
                // Nobody listens any more only after a panic of those who would.
                let _ = send.send(Fetched { at, bytes, held });
            });
        }
    }

    fn work(&self, receive: &Mutex<Receiver<Fetched>>) {
        let mut scratch = Scratch::default();
        loop {
            let fetched = receive.lock().expect("no panic while held").recv();
            let Ok(Fetched { at, bytes, held }) = fetched else { return };
            self.judge(at, bytes, &mut scratch);
            drop(held);
        }
    }

    fn judge(&self, at: u32, bytes: Result<Bytes, StoreError>, scratch: &mut Scratch) {
        let reading = self.reading;
        let pack = &reading.packs.list[at as usize];
        let outcome = match bytes {
            Ok(bytes) => Some(self.verifier.verify(pack, &bytes, self.listed[at as usize], scratch)),
            Err(e) => self.not_read(pack, e),
        };
        let Some(verdict) = self.conclude(at, outcome) else { return };
        reading.found.lock().expect("no panic while held").insert(pack.id, verdict);
        self.packs.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(pack.size, Ordering::Relaxed);
        reading.progress.advance(1, pack.size);
    }

    fn now(&self) -> u64 {
        self.verifier.repo.options().clock.now().secs.max(0) as u64
    }

    /// What is remembered of a pack: when it was found sound, or that it was not.
    fn conclude(&self, at: u32, outcome: Option<Outcome>) -> Option<Option<u64>> {
        match outcome? {
            Outcome::Sound => return Some(Some(self.now())),
            Outcome::Damaged => {}
            Outcome::Unreadable => self.unreadable.lock().expect("no panic while held").push(at),
        }
        Some(None)
    }

    /// A pack that the store does not give. `None`: it is not there, or the store fails and with it the check.
    fn not_read(&self, pack: &Pack, error: StoreError) -> Option<Outcome> {
        match error {
            StoreError::NotFound { .. } => {
                missing_pack(pack, self.reading.damage);
                self.gone.fetch_add(1, Ordering::Relaxed);
            }
            // Of other length, or on a place of the disk that cannot be read: parts of it may be sound.
            StoreError::Wrong { .. } | StoreError::Failed { .. } => {
                self.reading.damage.pack(pack, Invariant::I6, error.to_string(), Bad::Nothing);
                return Some(Outcome::Unreadable);
            }
            error => self.fail(error.into()),
        }
        None
    }

    fn fail(&self, error: Error) {
        self.stop.store(true, Ordering::Relaxed);
        self.failed.lock().expect("no panic while held").get_or_insert(error);
    }
}
