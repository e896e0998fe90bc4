//! Opening an index: which run files serve, which segments are missing, which runs are merged.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::id::SegmentId;

use super::build::{BUILD_BYTES, RunBuilder};
use super::files::{Place, remove};
use super::merge::merge_runs;
use super::run::{PACKS_MAX, Run};
use super::{Error, Index, Result, Segment};

/// Where the index lies and how much memory building it may take.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where its files lie.
    pub place: Place,
    /// Heap that a build may take, in bytes.
    pub build_bytes: usize,
}

impl Options {
    /// A cache in this directory of the repository's own.
    pub fn cache(dir: impl Into<PathBuf>) -> Self {
        Self { place: Place::Cache(dir.into()), build_bytes: BUILD_BYTES }
    }

    /// Unlinked files in this directory.
    pub fn unlinked(dir: impl Into<PathBuf>) -> Self {
        Self { place: Place::Unlinked(dir.into()), build_bytes: BUILD_BYTES }
    }
}

/// An index that still misses segments.
///
/// For callers that fetch several at once: [`Opening::missing`] in any order through [`Opening::add`], then
/// [`Opening::finish`]. Everybody else calls [`Index::open`].
pub struct Opening {
    options: Options,
    runs: Vec<Run>,
    missing: Vec<SegmentId>,
    builder: Option<RunBuilder>,
    /// Run files that are of no use for what is wanted.
    stale: Vec<PathBuf>,
}

impl Opening {
    /// Finds the run files that hold any of the `wanted` segments. Damaged ones are removed: they are built again.
    pub fn new(options: Options, wanted: &[SegmentId]) -> Result<Self> {
        options.place.prepare()?;
        let mut found = Vec::new();
        let mut stale = Vec::new();
        for path in options.place.run_files()? {
            match Run::open(&path) {
                Ok(run) => found.extend(run),
                Err(Error::Corrupt { path, how }) => {
                    tracing::warn!("local index file {} is built again: {how}", path.display());
                    // At once: the new file may get the same name.
                    remove(&path);
                }
                Err(error) => return Err(error),
            }
        }
        let mut uncovered: HashSet<SegmentId> = wanted.iter().copied().collect();
        let runs = choose(found, &mut uncovered, &mut stale);
        let mut missing: Vec<SegmentId> = uncovered.into_iter().collect();
        missing.sort_unstable();
        Ok(Self { options, runs, missing, builder: None, stale })
    }

    /// Segments to be added, sorted.
    pub fn missing(&self) -> &[SegmentId] {
        &self.missing
    }

    /// Adds one of the missing segments. An error `Segment` is about this one only: the caller may go on without it.
    pub fn add(&mut self, segment: &Segment) -> Result<()> {
        if self.builder.as_ref().is_some_and(|builder| !builder.has_room(segment)) {
            self.keep()?;
        }
        let new = || RunBuilder::new(&self.options.place, self.options.build_bytes);
        self.builder.get_or_insert_with(new).add(segment)
    }

    /// Writes what was added so far; in a cache the next opening finds it.
    pub fn keep(&mut self) -> Result<()> {
        if let Some(builder) = self.builder.take() {
            self.runs.push(builder.finish()?);
        }
        Ok(())
    }

    /// The index of everything that was found and added. Merges runs and removes files as it sees fit.
    pub fn finish(mut self) -> Result<Index> {
        self.keep()?;
        self.runs.sort_by_key(|run| std::cmp::Reverse(run.live()));
        let sizes: Vec<Size> = self.runs.iter().map(Size::of).collect();
        let mut runs: Vec<Arc<Run>> = self.runs.into_iter().map(Arc::new).collect();
        if let Some(start) = plan_merge(&sizes) {
            let merged = merge_runs(&self.options.place, &runs[start..])?;
            self.stale.extend(runs.drain(start..).filter_map(|run| run.path().map(Into::into)));
            runs.push(Arc::new(merged));
        }
        let in_use = |path: &Path| runs.iter().any(|run| run.path() == Some(path));
        self.stale.iter().filter(|path| !in_use(path)).for_each(|path| remove(path));
        Ok(Index::new(self.options, runs))
    }
}

/// Takes runs, the most useful first, as long as they cover a segment that no other covers; hides the rest of their
/// segments. What they cover leaves `uncovered`, what is not taken goes to `stale`.
fn choose(found: Vec<Run>, uncovered: &mut HashSet<SegmentId>, stale: &mut Vec<PathBuf>) -> Vec<Run> {
    let useful = |run: &Run, wanted: &HashSet<SegmentId>| -> u64 {
        run.segments()
            .filter(|segment| wanted.contains(&segment.id))
            .fold(0, |sum, s| sum.saturating_add(s.entries + 1))
    };
    let mut ranked: Vec<(u64, Run)> = found.into_iter().map(|run| (useful(&run, uncovered), run)).collect();
    ranked.sort_by_key(|(useful, _)| std::cmp::Reverse(*useful));
    let mut chosen = Vec::new();
    for (_, mut run) in ranked {
        if useful(&run, uncovered) == 0 {
            stale.extend(run.path().map(Into::into));
            continue;
        }
        run.drop_segments(|id| uncovered.remove(id));
        chosen.push(run);
    }
    chosen
}

/// What the plan of a merge goes by.
#[derive(Debug, Clone, Copy)]
struct Size {
    /// Entries of segments that are wanted.
    live: u64,
    /// Other entries.
    dead: u64,
    packs: u64,
}

impl Size {
    fn of(run: &Run) -> Self {
        let live = run.live();
        Self { live, dead: run.entry_count().saturating_sub(live), packs: run.pack_count().into() }
    }
}

/// Most runs beside the largest.
const OVERLAYS_MAX: usize = 8;

/// From which run on, the largest standing first, all runs become one; `None` if they stay as they are.
///
/// Everything is rewritten when the overlays hold a quarter of the largest run's entries or a quarter of all entries is
/// dead, so an entry is rewritten a few times in its life; too many small overlays become one before that.
fn plan_merge(sizes: &[Size]) -> Option<usize> {
    let (main, overlays) = sizes.split_first()?;
    let (live, dead) =
        sizes.iter().fold((0u64, 0u64), |(l, d), s| (l.saturating_add(s.live), d.saturating_add(s.dead)));
    let in_overlays = live - main.live;
    let all = dead > (live.saturating_add(dead)) / 4 || in_overlays > main.live / 4;
    let mut start = match all {
        true => 0,
        false if overlays.len() > OVERLAYS_MAX => 1,
        false => return None,
    };
    // A run cannot list more packs than that; then the large ones stay apart.
    while sizes[start..].iter().map(|size| size.packs).sum::<u64>() > PACKS_MAX {
        start += 1;
    }
    let merged = &sizes[start..];
    (merged.len() > 1 || merged.iter().any(|size| size.dead > 0)).then_some(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(live: u64, dead: u64) -> Size {
        Size { live, dead, packs: 10 }
    }

    #[test]
    fn merges_when_it_pays() {
        assert_eq!(plan_merge(&[]), None);
        assert_eq!(plan_merge(&[size(100, 0)]), None);
        assert_eq!(plan_merge(&[size(100, 30), size(5, 0)]), None);
        assert_eq!(plan_merge(&[size(100, 40)]), Some(0));
        assert_eq!(plan_merge(&[size(100, 0), size(20, 0), size(5, 0)]), None);
        assert_eq!(plan_merge(&[size(100, 0), size(20, 0), size(6, 0)]), Some(0));
        assert_eq!(plan_merge(&[size(1000, 0); 1]), None);
        let mut many = vec![size(1000, 0)];
        many.extend([size(1, 0); OVERLAYS_MAX]);
        assert_eq!(plan_merge(&many), None);
        many.push(size(1, 0));
        assert_eq!(plan_merge(&many), Some(1));
    }

    #[test]
    fn never_merges_more_packs_than_fit() {
        let large = Size { live: 100, dead: 0, packs: PACKS_MAX - 5 };
        assert_eq!(plan_merge(&[large, size(60, 0)]), None);
        assert_eq!(plan_merge(&[large, size(60, 0), size(60, 0)]), Some(1));
        assert_eq!(plan_merge(&[large, large, large]), None);
        assert_eq!(plan_merge(&[Size { dead: 90, ..large }]), Some(0));
    }
}
