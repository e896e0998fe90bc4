//! The local index of a repository: which blob lies where, for tens of millions of blobs on hardly any heap.
//!
//! **Expected flow**: [`Index::open`] with the segments of a view; [`Index::lookup`] to read, [`Index::claim`] and
//! [`Index::publish`] to write; drop.
//!
//! The index is a handful of [`Run`]s: immutable mapped files, one large and a few small ones over it, each made from
//! whole segments. Opening takes the runs that are there, fetches the segments that no run covers into one new run, and
//! merges runs when there are too many. A segment that is no longer wanted is hidden and goes with the next merge.
//!
//! **Guarantees**: a run is used only if its hash is right, a damaged one is built again; every lookup compares the whole
//! id; exactly one caller of `claim` is told `New` for an id that no run holds; several processes may share the
//! directory without a lock (see `files`); once open, the heap holds one bit a pack.
//!
//! **Caveats**: lookups fault pages in, so the caller's thread may wait for the disk; an I/O error of the disk below a
//! mapped file kills the process (SIGBUS), as does whoever truncates one of these files by hand.

mod build;
mod claims;
mod files;
mod filter;
mod map;
mod marks;
mod merge;
mod open;
mod run;

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, RwLock};

use crate::format::blob::{Entry, PackInfo};
use crate::id::{BlobId, PackId, SegmentId, SessionId, WriterId};

pub use self::build::{BUILD_BYTES, RunBuilder};
pub use self::claims::Claim;
pub use self::files::Place;
pub use self::marks::Marks;
pub use self::open::{Opening, Options};
pub use self::run::{Found, Run};

use self::claims::Claims;
use self::merge::{Merge, merge_runs};
use self::run::{Entries, PACKS_MAX};

/// Width of a stanza in bytes.
pub const STANZA_BYTES: usize = 1200;
/// What opens a session's frames for who has the READ secret; opaque here.
pub type Stanza = [u8; STANZA_BYTES];

/// Why the local index cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk or directory of the index fails, is full or is not ours.
    #[error(
        "cannot {action} {path}: the local index needs a writable directory with free space; choose another or go without a cache"
    )]
    Io {
        /// What was tried: a verb.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A run file is damaged. Opening an index removes such files and builds them again.
    #[error("local index file {path} is damaged: {how}; it can be deleted, it is built again")]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        how: String,
    },
    /// A segment's parts do not fit together: whoever wrote it is broken or lies.
    #[error("index segment {id} is malformed: {how}")]
    Segment {
        /// Which segment.
        id: SegmentId,
        /// What is wrong with it.
        how: &'static str,
    },
}

/// Result of a call of the index.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A decoded index segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Hash of its stored bytes.
    pub id: SegmentId,
    /// The packs that its entries lie in.
    pub packs: Vec<PackInfo>,
    /// What opens the frames of each session that its packs name as an origin.
    pub stanzas: Vec<((WriterId, SessionId), Box<Stanza>)>,
    /// Copies of blobs in any order; `pack` is a position in `packs`.
    pub entries: Vec<Entry>,
}

/// Published blobs that wait for a run before [`Index::publish`] writes one: about 8 MB of heap.
const PENDING_MAX: usize = 64 << 10;
/// In a session's own runs, where a segment's id stands.
const NO_SEGMENT: SegmentId = SegmentId::from_bytes([0; 32]);

/// The index of one view of a repository and of what this session added to it.
pub struct Index {
    options: Options,
    /// Those of the view, the largest first, then those of this session.
    runs: RwLock<Vec<Arc<Run>>>,
    claims: Claims,
    /// Held while the list of runs or the excluded packs change.
    changes: Mutex<Changes>,
}

#[derive(Default)]
struct Changes {
    excluded: HashSet<PackId>,
    /// How many runs, at the end of the list, are of this session.
    own: usize,
}

impl Index {
    /// Opens the index of the `wanted` segments, calling `fetch` for each that no run file covers.
    ///
    /// When `fetch` fails its error is returned, and a cache keeps what was fetched until then. Blocks on disk; a first
    /// opening writes about 60 bytes a blob.
    pub fn open<E: From<Error>>(
        options: Options,
        wanted: &[SegmentId],
        fetch: &mut dyn FnMut(&SegmentId) -> Result<Segment, E>,
    ) -> Result<Self, E> {
        let mut opening = Opening::new(options, wanted)?;
        for id in opening.missing().to_vec() {
            match fetch(&id) {
                Ok(segment) => opening.add(&segment)?,
                Err(error) => {
                    opening.keep()?;
                    return Err(error);
                }
            }
        }
        Ok(opening.finish()?)
    }

    fn new(options: Options, runs: Vec<Arc<Run>>) -> Self {
        Self { options, runs: RwLock::new(runs), claims: Claims::new(), changes: Mutex::default() }
    }

    fn runs(&self) -> Vec<Arc<Run>> {
        self.runs.read().expect("no panic while held").clone()
    }

    /// Replaces `out` by all copies of a blob that are not excluded; a copy that two segments list comes once.
    ///
    /// Blobs of this session are found once [`Index::flush`] has written their run.
    pub fn lookup(&self, id: &BlobId, out: &mut Vec<Found>) {
        out.clear();
        for run in self.runs.read().expect("no panic while held").iter() {
            run.lookup(id, out);
        }
        one_of_each(out);
    }

    /// Whether [`Index::lookup`] finds a copy.
    pub fn contains(&self, id: &BlobId) -> bool {
        self.runs.read().expect("no panic while held").iter().any(|run| run.contains(id))
    }

    /// The distinct stanzas that segments name for a session: one, unless a writer named a wrong one.
    pub fn stanzas(&self, writer: &WriterId, session: SessionId) -> Vec<Box<Stanza>> {
        let mut found: Vec<Box<Stanza>> = Vec::new();
        for run in self.runs.read().expect("no panic while held").iter() {
            for stanza in run.stanzas(writer, session) {
                if !found.iter().any(|known| **known == *stanza) {
                    found.push(Box::new(*stanza));
                }
            }
        }
        found
    }

    /// The first of [`Index::stanzas`].
    pub fn stanza(&self, writer: &WriterId, session: SessionId) -> Option<Box<Stanza>> {
        let runs = self.runs.read().expect("no panic while held");
        runs.iter().find_map(|run| run.stanzas(writer, session).next().map(|stanza| Box::new(*stanza)))
    }

    /// Whether a copy can be reused: its pack is noted, so that [`Index::reused`] tells of it.
    pub fn reuse(&self, id: &BlobId) -> bool {
        self.runs.read().expect("no panic while held").iter().any(|run| run.reuse(id).is_some())
    }

    /// Those of `packs` of which a copy was reused or found by a claim. Whoever has excluded them before asking misses
    /// none: from then on no copy in them is reused.
    pub fn reused(&self, packs: &HashSet<PackId>) -> HashSet<PackId> {
        self.runs()
            .iter()
            .flat_map(|run| run.reused_packs().filter(|id| packs.contains(id)).collect::<Vec<_>>())
            .collect()
    }

    /// How many entries the wanted segments list, and this session's runs. A copy counts as often as it is listed, also
    /// when its pack is excluded.
    pub fn len(&self) -> u64 {
        self.runs.read().expect("no panic while held").iter().fold(0, |sum, run| sum.saturating_add(run.live()))
    }

    /// Whether no segment lists anything.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many runs there are.
    pub fn run_count(&self) -> usize {
        self.runs.read().expect("no panic while held").len()
    }

    /// All copies that are not excluded, in the order of ids; a copy that two segments list comes once.
    ///
    /// What runs are added meanwhile is not seen.
    pub fn entries(&self) -> impl Iterator<Item = Found> + use<> {
        let runs = self.runs();
        let merge = Merge::new(runs.iter().map(Entries::of).collect());
        let found = merge.filter_map(move |(source, entry)| Found::new(&runs[source], entry));
        Copies { found: found.peekable(), of_one_id: Vec::new().into_iter() }
    }

    /// All packs that are not excluded, in no order; a pack comes as often as segments list it.
    pub fn packs(&self) -> impl Iterator<Item = PackInfo> + use<> {
        self.runs().into_iter().flat_map(|run| {
            (0..run.pack_count()).filter_map(move |pack| if run.is_hidden(pack) { None } else { run.pack(pack) })
        })
    }

    /// Hides all copies in these packs from now on (condemned packs). Copies that were found before keep working.
    pub fn exclude(&self, packs: impl IntoIterator<Item = PackId>) {
        let mut changes = self.changes.lock().expect("no panic while held");
        let packs: HashSet<PackId> = packs.into_iter().collect();
        for run in self.runs() {
            run.hide_packs(&packs);
        }
        changes.excluded.extend(packs);
    }

    /// Decides what is to be done about a blob; for each id that the index does not know exactly one caller is told
    /// [`Claim::New`], whatever runs meanwhile.
    pub fn claim(&self, id: &BlobId) -> Claim {
        self.claims.claim(id, || {
            // Read anew under the claim's lock: a flush first adds its run, then releases the claims that it covers.
            self.runs.read().expect("no panic while held").iter().find_map(|run| run.reuse(id))
        })
    }

    /// Tells where the blobs of a pack of this session lie, now that it is durable. `pack` of the entries is ignored.
    ///
    /// Writes a run once 64 Ki blobs wait for one. After an error the session cannot go on.
    pub fn publish(&self, pack: PackInfo, entries: &[Entry]) -> Result<()> {
        if self.claims.publish(pack, entries) < PENDING_MAX { Ok(()) } else { self.flush() }
    }

    /// How many blobs are claimed and in no run yet.
    pub fn pending_len(&self) -> usize {
        self.claims.len()
    }

    /// Writes a run of everything published, so that [`Index::lookup`] finds it; it is unlinked also in a cache,
    /// because no segment lists it yet.
    pub fn flush(&self) -> Result<()> {
        let mut changes = self.changes.lock().expect("no panic while held");
        let published = self.claims.take_published();
        if published.entries.is_empty() {
            return Ok(());
        }
        let (packs, entries) = (published.packs, published.entries);
        let segment = Segment { id: NO_SEGMENT, packs, stanzas: Vec::new(), entries };
        let place = Place::Unlinked(self.options.place.dir().to_owned());
        let mut builder = RunBuilder::new(&place, self.options.build_bytes);
        builder.add(&segment)?;
        self.add_own(&place, builder.finish()?, &mut changes)?;
        self.claims.release(&segment.entries);
        Ok(())
    }

    /// Adds a run of this session, merged with those before it that are not much larger: their sizes fall by half each,
    /// so there are few, and an entry is rewritten a few times.
    fn add_own(&self, place: &Place, run: Run, changes: &mut Changes) -> Result<()> {
        let mut runs = self.runs();
        let mut merged = vec![Arc::new(run)];
        let (mut entries, mut packs) = (merged[0].entry_count(), u64::from(merged[0].pack_count()));
        let fits = |last: &mut Arc<Run>, entries, packs| {
            last.entry_count() < 2 * entries && packs + u64::from(last.pack_count()) <= PACKS_MAX
        };
        while changes.own > 0
            && let Some(last) = runs.pop_if(|last| fits(last, entries, packs))
        {
            entries += last.entry_count();
            packs += u64::from(last.pack_count());
            merged.insert(0, last);
            changes.own -= 1;
        }
        let run = if merged.len() == 1 { merged.remove(0) } else { Arc::new(merge_runs(place, &merged)?) };
        run.hide_packs(&changes.excluded);
        runs.push(run);
        changes.own += 1;
        *self.runs.write().expect("no panic while held") = runs;
        Ok(())
    }
}

/// Reads `body`, a run file without its hash, as if the hash were right, and asks everything of it: for fuzzing.
///
/// Damage is noticed by the hash, so only this way are the later reads reached with bytes that nobody wrote.
#[doc(hidden)]
pub fn fuzz_run(mut body: Vec<u8>, id: &BlobId) -> Result<()> {
    body.extend_from_slice(blake3::hash(&body).as_bytes());
    let run = Arc::new(Run::from_bytes(body)?);
    let index = Index::new(Options::unlinked(""), vec![run]);
    let mut found = Vec::new();
    index.lookup(id, &mut found);
    index.claim(id);
    for copy in found.into_iter().chain(index.entries()) {
        let origin = copy.origin();
        assert!(copy.pack().origins.contains(&origin));
        index.stanzas(&origin.writer, origin.session);
    }
    index.exclude(index.packs().map(|pack| pack.id));
    assert_eq!((index.packs().count(), index.entries().count()), (0, 0));
    Ok(())
}

/// Removes what is the same copy as one before it.
fn one_of_each(copies: &mut Vec<Found>) {
    if copies.len() > 1 {
        let mut seen = HashSet::new();
        copies.retain(|copy| seen.insert(copy.place()));
    }
}

/// Passes on copies sorted by id, each once.
struct Copies<I: Iterator<Item = Found>> {
    found: std::iter::Peekable<I>,
    of_one_id: std::vec::IntoIter<Found>,
}

impl<I: Iterator<Item = Found>> Iterator for Copies<I> {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        if let Some(copy) = self.of_one_id.next() {
            return Some(copy);
        }
        let first = self.found.next()?;
        let id = first.entry.id;
        // Nearly always the only one: no allocation then.
        let Some(second) = self.found.next_if(|next| next.entry.id == id) else { return Some(first) };
        let mut copies = vec![first, second];
        copies.extend(std::iter::from_fn(|| self.found.next_if(|next| next.entry.id == id)));
        one_of_each(&mut copies);
        self.of_one_id = copies.into_iter();
        self.of_one_id.next()
    }
}

#[cfg(test)]
mod tests;
