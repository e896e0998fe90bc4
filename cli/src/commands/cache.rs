//! `cache`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use copal_engine::format::node::Timestamp;
use serde_json::json;

use crate::errors::{Outcome, usage};
use crate::open::Context;
use crate::output::table;
use crate::{size, time};

/// Flags of `cache`.
#[derive(Debug, Args)]
pub(crate) struct CacheArgs {
    /// Remove caches that were not used for so many days
    #[arg(long)]
    pub(crate) cleanup: bool,
    /// Days after which a cache is old
    #[arg(long, value_name = "DAYS", default_value = "30")]
    pub(crate) max_age: u32,
}

/// The cache of one repository or one bucket.
struct Found {
    path: PathBuf,
    name: String,
    bytes: u64,
    used: SystemTime,
}

/// Lists caches, and removes old ones.
pub(crate) fn run(context: &Context, args: &CacheArgs) -> Result<Outcome> {
    let Some(directory) = context.cache_dir() else {
        return Err(usage("there is no cache: --no-cache was given, or HOME is not set"));
    };
    let mut caches = find(&directory)?;
    caches.sort_by_key(|cache| cache.used);
    let old = |cache: &Found| {
        let age = cache.used.elapsed().unwrap_or_default();
        args.cleanup && age > Duration::from_secs(u64::from(args.max_age) * 86_400)
    };
    for cache in caches.iter().filter(|cache| old(cache)) {
        fs::remove_dir_all(&cache.path).with_context(|| format!("cannot remove {}", cache.path.display()))?;
    }
    let seconds = |cache: &Found| cache.used.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let used = |cache: &Found| Timestamp { secs: seconds(cache) as i64, nanos: 0 };
    if context.out.json {
        let list: Vec<_> = caches
            .iter()
            .map(|c| {
                json!({"name": c.name, "path": c.path.to_string_lossy(), "size": c.bytes,
                       "last_used": time::rfc3339(used(c)), "removed": old(c)})
            })
            .collect();
        let document = json!({"schema": 1, "directory": directory.to_string_lossy(), "caches": list});
        context.out.line(&document)?;
        return Ok(Outcome::Done);
    }
    let rows: Vec<_> = caches
        .iter()
        .map(|c| {
            let state = if old(c) { "removed" } else { "" };
            vec![c.name.clone(), time::short(used(c)), size::show(c.bytes), state.into()]
        })
        .collect();
    let mut out = context.out.stdout();
    table(&mut out, &["Cache", "Last used", "Size", ""], &rows)?;
    writeln!(out, "{} caches in {}", caches.len(), directory.display())?;
    out.flush()?;
    Ok(Outcome::Done)
}

/// Directories of repositories, and of buckets below `objects`. Whatever else lies there is not ours.
fn find(directory: &Path) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for (below, digits) in [("", 64), ("objects", 32)] {
        let place = directory.join(below);
        let entries = match fs::read_dir(&place) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => bail!("cannot read {}: {e}", place.display()),
        };
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot read {}", place.display()))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let ours = name.len() == digits && name.bytes().all(|c| c.is_ascii_hexdigit());
            if ours && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let (bytes, used) = measure(&entry.path(), SystemTime::UNIX_EPOCH);
                found.push(Found {
                    path: entry.path(),
                    name: format!("{below}/{name}").trim_matches('/').into(),
                    bytes,
                    used,
                });
            }
        }
    }
    Ok(found)
}

/// Bytes of all files, and when the last was changed; what vanishes meanwhile counts nothing.
fn measure(directory: &Path, mut used: SystemTime) -> (u64, SystemTime) {
    let mut bytes = 0;
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        used = used.max(metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH));
        if metadata.is_dir() {
            let (below, last) = measure(&entry.path(), used);
            (bytes, used) = (bytes + below, used.max(last));
        } else {
            bytes += metadata.len();
        }
    }
    (bytes, used)
}
