//! What stands at the target and is not in the snapshot (`delete`).

use std::iter::Peekable;
use std::vec;

use crate::error::Result;
use crate::target::{Entry, TargetDir};

use super::job::Job;
use super::tally::Count;

/// So deep below a directory that is not in the snapshot it is looked for what must stay; each level holds a descriptor.
const DEPTH_MAX: usize = 128;

/// The entries of one directory of the target that the walk did not come to yet, in order of names.
pub(super) struct Surplus(Peekable<vec::IntoIter<Entry>>);

impl Surplus {
    /// All that stands in `dir`.
    pub(super) fn of(dir: &TargetDir) -> crate::target::Result<Self> {
        let mut entries = dir.entries()?;
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(Self(entries.into_iter().peekable()))
    }

    /// The next entry that the snapshot does not have, as far as that is known when it is at `name` (`None`: at its end).
    pub(super) fn next_before(&mut self, name: Option<&[u8]>) -> Option<Entry> {
        let entry = self.0.next_if(|entry| name.is_none_or(|name| entry.name.as_slice() < name));
        if entry.is_none() {
            self.0.next_if(|entry| name == Some(entry.name.as_slice()));
        }
        entry
    }
}

/// Removes the entry of `dir`, whose path below what is restored is `path`, as far as it is chosen. Whether it is gone.
pub(super) fn delete(job: &Job, dir: &TargetDir, entry: &Entry, path: &[u8], depth: usize) -> Result<bool> {
    let verdict = job.options.choice.of(path);
    if !entry.is_dir || job.options.choice.is_everything() {
        return if verdict.selected { remove(job, dir, &entry.name) } else { Ok(false) };
    }
    if !verdict.selected && !verdict.below || depth >= DEPTH_MAX {
        return Ok(false);
    }
    if !delete_below(job, dir, entry, path, depth)? || !verdict.selected {
        return Ok(false);
    }
    // In a dry run all that is below still stands there, and is counted already.
    if job.options.dry_run {
        job.tally.add(Count::Deleted, 1);
        return Ok(true);
    }
    remove(job, dir, &entry.name)
}

/// Whether nothing is left in it.
fn delete_below(job: &Job, dir: &TargetDir, entry: &Entry, path: &[u8], depth: usize) -> Result<bool> {
    let inner = match dir.enter_existing(&entry.name) {
        Ok(inner) => inner,
        Err(error) => return job.report(&error).map(|()| false),
    };
    let mut is_empty = true;
    match inner.entries() {
        Ok(entries) => {
            for below in entries {
                job.check_cancel()?;
                let path = [path, b"/", &below.name].concat();
                is_empty &= delete(job, &inner, &below, &path, depth + 1)?;
            }
        }
        Err(error) => {
            job.report(&error)?;
            is_empty = false;
        }
    }
    // Mode and flags as they were.
    inner.put_back().into_iter().for_each(|problem| job.problem(problem));
    Ok(is_empty)
}

fn remove(job: &Job, dir: &TargetDir, name: &[u8]) -> Result<bool> {
    match dir.remove(name) {
        Ok(count) => {
            job.tally.add(Count::Deleted, count);
            Ok(true)
        }
        Err(error) => job.report(&error).map(|()| false),
    }
}
