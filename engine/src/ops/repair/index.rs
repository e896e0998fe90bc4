//! The index, made to say what is in the store: what lost segments listed comes back from the packs' own tables, and what lay in
//! packs that are gone is listed no more, so that the next backup stores it anew.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::crypto::rng::Rng;
use crate::error::{Error, Result};
use crate::format::blob::{Entry, PackInfo};
use crate::format::bundle::Identity;
use crate::format::objects::{self, Parsed};
use crate::format::pack::PACK_BYTES_MAX;
use crate::format::segment::SEGMENT_BYTES_MAX;
use crate::id::PackId;
use crate::progress::{Cancel, Problem, ProblemKind, Progress};
use crate::repo::index::{Found, Index};
use crate::repo::mend::{Aside, Described, Mend};
use crate::repo::{Repository, View};
use crate::store::{Key, Listed, list_all};

use super::{bad_segments, may_repair};

/// Of all bytes that the index names, what may be missing at once without [`Options::yes`], in percent: a disk that is not
/// mounted looks like that.
const GONE_PERCENT: u64 = 30;
/// Bases that others may make while this one is made.
const TRIES_MAX: usize = 10;

/// How to repair the index.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Reads the table of every pack, listed or not, and lists anew what the index tells otherwise.
    pub read_all_packs: bool,
    /// Only says what is wrong.
    pub dry_run: bool,
    /// Nobody else works on the repository: the store need not promise much.
    pub exclusive: bool,
    /// Goes on though very many packs are gone.
    pub yes: bool,
}

/// What was wrong, and was put right unless it was a dry run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Keys of segments that were missing or damaged.
    pub segments: Vec<String>,
    /// Packs that are listed from their own tables.
    pub listed_packs: u64,
    /// Blobs in them.
    pub listed_blobs: u64,
    /// Keys of packs that are not in the store and listed no more.
    pub gone_packs: Vec<String>,
    /// Number of the base that says so; `None`: nothing was wrong, or only a look was wanted.
    pub base: Option<u64>,
    /// Damaged objects and where they were copied to.
    pub aside: Vec<(String, String)>,
}

/// Repairs the index. Blocks; call it from a plain thread.
///
/// What cannot be put right is told to `progress`. [`Error::Busy`]: others are in the way, or far too much is missing.
pub fn repair(
    repo: &Arc<Repository>,
    who: &Identity,
    rng: &mut dyn Rng,
    options: &Options,
    (progress, cancel): (&dyn Progress, &Cancel),
) -> Result<Report> {
    may_repair(repo)?;
    if !options.dry_run {
        repo.may_mend(options.exclusive)?;
    }
    for _ in 0..TRIES_MAX {
        let mut look = look(repo, options, cancel)?;
        if options.dry_run || look.mend.is_empty() {
            look.tell(progress);
            return Ok(look.report);
        }
        look.brake(options)?;
        // Only copied: nobody knows what is in them, and a prune takes them for what an interrupted backup left.
        for (object, _) in &look.unreadable {
            look.report.note(object, repo.set_aside(object, PACK_BYTES_MAX, false)?, progress);
        }
        let Some(base) = repo.mend(who, &look.mend, rng)? else { continue };
        look.report.base = Some(base);
        for object in look.mend.lost.values() {
            look.report.note(object, repo.set_aside(object, SEGMENT_BYTES_MAX, true)?, progress);
        }
        look.tell(progress);
        return Ok(look.report);
    }
    Err(Error::Busy("others change the index faster than it can be repaired; try again later".into()))
}

/// Packs that the index needs and that are not in the store.
pub(super) fn gone_packs(repo: &Arc<Repository>, view: &View) -> Result<Vec<PackInfo>> {
    Ok(Standing::of(repo, view)?.gone)
}

/// What is listed, beside what is there.
struct Standing {
    /// Packs that the index names and that are there, by id, with their sizes as the index says.
    listed: HashMap<PackId, u64>,
    /// Those that the index names and that are not there.
    gone: Vec<PackInfo>,
    /// All that are there.
    all: Vec<(PackId, Listed)>,
}

impl Standing {
    fn of(repo: &Arc<Repository>, view: &View) -> Result<Self> {
        let listed = repo.bridge().wait(list_all(repo.store().as_ref(), "pack/"))?;
        let pack = |l: Listed| match objects::parse(l.key.as_str()) {
            Some(Parsed::Pack(.., id)) => Some((id, l)),
            _ => None,
        };
        let all: Vec<(PackId, Listed)> = listed.into_iter().filter_map(pack).collect();
        let keys: HashSet<&str> = all.iter().map(|(_, l)| l.key.as_str()).collect();
        let mut named: BTreeMap<String, PackInfo> = BTreeMap::new();
        for p in view.index.packs() {
            named.insert(pack_key(&p), p);
        }
        let hidden = named.iter().filter(|(key, _)| !keys.contains(key.as_str())).map(|(_, p)| p.clone());
        let gone = repo.absent_packs(hidden.collect())?;
        for p in &gone {
            named.remove(&pack_key(p));
        }
        let listed = named.into_values().map(|p| (p.id, p.size)).collect();
        Ok(Self { listed, gone, all })
    }
}

fn pack_key(p: &PackInfo) -> String {
    objects::pack(p.writer, p.session, p.seq, p.id)
}

/// What one look has found.
struct Look {
    mend: Mend,
    report: Report,
    /// Packs that nothing lists and that do not say what is in them.
    unreadable: Vec<(Key, String)>,
    /// Bytes of all packs that the index names, and of those among them that are gone.
    bytes: [u64; 2],
}

fn look(repo: &Arc<Repository>, options: &Options, cancel: &Cancel) -> Result<Look> {
    let view = repo.fresh_view()?;
    view.base.whole()?;
    let standing = Standing::of(repo, &view)?;
    let gone: u64 = standing.gone.iter().map(|p| p.size).sum();
    let bytes = [standing.listed.values().sum::<u64>() + gone, gone];
    let mut look = Look { mend: Mend::default(), report: Report::default(), unreadable: Vec::new(), bytes };
    for problem in bad_segments(&view) {
        let object = problem.path.to_string_lossy().into_owned();
        if let (Some(Parsed::Segment(.., id)), Ok(key)) = (objects::parse(&object), Key::new(object.clone())) {
            look.mend.lost.insert(id, key);
            look.report.segments.push(object);
        }
    }
    look.mend.gone = standing.gone.iter().map(|p| p.id).collect();
    look.report.gone_packs = standing.gone.iter().map(pack_key).collect();
    // A snapshot that is damaged or gone published packs, too, which others rely on.
    let is_missing = !look.mend.lost.is_empty() || view.problems.iter().any(|p| p.path.starts_with("snap"));
    if is_missing || options.read_all_packs {
        look.unlisted(repo, &view, &standing)?;
    }
    if options.read_all_packs {
        look.listed(repo, &view, &standing, cancel)?;
    }
    Ok(look)
}

impl Look {
    /// Takes in what no segment lists: nobody knows any more what a lost one did. What prunes have given up stays out (A2, A3).
    fn unlisted(&mut self, repo: &Arc<Repository>, view: &View, standing: &Standing) -> Result<()> {
        let mut out = repo.condemned_packs()?;
        out.extend(&view.base.base.dropped);
        let candidates = standing.all.iter().filter(|(id, _)| !standing.listed.contains_key(id) && !out.contains(id));
        let candidates: Vec<Listed> = candidates.map(|(_, l)| l.clone()).collect();
        repo.describe_packs(&candidates, &mut |l, described| {
            match described {
                Ok(described) => self.list(l, &described),
                Err(how) => self.unreadable.push((l.key.clone(), how)),
            }
            Ok(())
        })
    }

    /// Compares what is listed with the tables. A pack that does not tell what is in it stays listed as it is.
    fn listed(&mut self, repo: &Arc<Repository>, view: &View, standing: &Standing, cancel: &Cancel) -> Result<()> {
        let mut counts: HashMap<PackId, u64> = HashMap::new();
        view.index.entries().for_each(|copy| *counts.entry(copy.pack_id()).or_default() += 1);
        let listed: Vec<Listed> =
            standing.all.iter().filter(|(id, _)| standing.listed.contains_key(id)).map(|(_, l)| l.clone()).collect();
        repo.describe_packs(&listed, &mut |l, described| {
            if cancel.is_canceled() {
                return Err(Error::Interrupted);
            }
            if let Ok(described) = described {
                let count = counts.get(&described.info.id).copied().unwrap_or(0);
                let size = standing.listed.get(&described.info.id);
                if size != Some(&described.info.size) || !agrees(&view.index, &described, count) {
                    self.list(l, &described);
                }
            }
            Ok(())
        })
    }

    fn list(&mut self, l: &Listed, described: &Described) {
        self.mend.relist.push(l.clone());
        self.report.listed_packs += 1;
        self.report.listed_blobs += described.entries.len() as u64;
    }

    fn brake(&self, options: &Options) -> Result<()> {
        let [all, gone] = self.bytes;
        if options.yes || gone * 100 <= all * GONE_PERCENT {
            return Ok(());
        }
        Err(Error::Busy(format!(
            "{gone} of {all} bytes that the index names are not in the store; nothing was changed. If a disk is not mounted or the \
             store lists too little, that is how it looks. If they are lost for good, run the repair again with --yes"
        )))
    }

    fn tell(&self, progress: &dyn Progress) {
        for (object, how) in &self.unreadable {
            let message = format!("it does not say what is in it, so nothing of it is listed: {how}");
            progress.problem(Problem { kind: ProblemKind::Damaged, path: object.as_str().into(), message });
        }
    }
}

/// Whether the index lists exactly these entries in the pack.
fn agrees(index: &Index, described: &Described, count: u64) -> bool {
    let mut copies: Vec<Found> = Vec::new();
    let mut distinct: Vec<&Entry> = described.entries.iter().collect();
    distinct.sort_unstable();
    distinct.dedup();
    distinct.len() as u64 == count
        && distinct.into_iter().all(|entry| {
            index.lookup(&entry.id, &mut copies);
            copies.iter().any(|copy| {
                copy.pack_id() == described.info.id
                    && Entry { pack: 0, ..copy.entry } == *entry
                    && copy.origin() == described.info.origins[usize::from(entry.origin)]
            })
        })
}

impl Report {
    fn note(&mut self, object: &Key, aside: Aside, progress: &dyn Progress) {
        note(&mut self.aside, object, aside, progress);
    }
}

/// Notes where a damaged object was copied to. One that stays where it was is told: it is in nobody's way.
pub(super) fn note(asides: &mut Vec<(String, String)>, object: &Key, aside: Aside, progress: &dyn Progress) {
    let stays = |how: String| {
        let message = format!("nobody needs it any more, and it stays where it is: {how}");
        progress.problem(Problem { kind: ProblemKind::Unwritable, path: object.as_str().into(), message });
    };
    match aside {
        Aside::Absent => {}
        Aside::Moved(to) => asides.push((object.to_string(), to.to_string())),
        Aside::Copied(to, how) => {
            asides.push((object.to_string(), to.to_string()));
            if !how.is_empty() {
                stays(how);
            }
        }
        Aside::Stays(how) => stays(how),
    }
}
