//! Small immutable objects kept in a local directory, so that they are fetched once.
//!
//! **Guarantees.** Bytes come back only if they match the checksum stored with them, bound to their key; an entry that
//! does not is removed and fetched again. The directory never holds more than its cap for long. Losing it costs requests,
//! nothing else: nothing in it is fsynced.
//!
//! **Assumptions.** Objects under the given prefixes never change. One that was deleted from the store may still be served:
//! who must know whether it is there asks with `head` or `list`, which are never answered from here.
//!
//! An entry is one file, named by the hash of its key: BLAKE3(key, 0, body) in 32 bytes, then the body. Several processes
//! may share the directory; each learns of the others' entries when it meets them.

use std::collections::HashMap;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;

use super::retention::Keeper;
use super::{Key, Page, Result, Store, StoreError, check_range, check_size};
use crate::id::{hex, unhex};

/// Bytes of the checksum before a body.
const CHECKSUM_BYTES: usize = 32;
/// An object above this part of the cap is not kept: it would push out too many others.
const ENTRY_PART: u64 = 4;
/// Eviction goes down to this many percent of the cap, so that it does not run at every write.
const EVICT_TO_PERCENT: u64 = 90;

/// A store whose small immutable objects are kept locally.
#[derive(Debug)]
pub struct Cache {
    inner: Arc<dyn Store>,
    entries: Arc<Entries>,
}

impl Cache {
    /// Keeps objects whose keys start with one of `prefixes` in `dir` (made 0700), up to `cap` bytes in all. Blocks.
    pub fn open(inner: Arc<dyn Store>, dir: &Path, prefixes: &[&str], cap: u64) -> Result<Self> {
        let what = || format!("open cache {}", dir.display());
        let fail = |e: io::Error| StoreError::Failed { what: what(), source: e.into() };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(fail)?;
        fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(fail)?;
        let known = read_dir(dir).map_err(fail)?;
        let prefixes = prefixes.iter().map(|p| p.to_string()).collect();
        let entries = Entries { dir: dir.into(), prefixes, cap, known: Mutex::new(known) };
        Ok(Self { inner, entries: entries.into() })
    }

    /// The body of `key` if it is kept and sound.
    async fn find(&self, key: &Key) -> Option<Bytes> {
        if !self.entries.takes(key) {
            return None;
        }
        let (entries, key) = (self.entries.clone(), key.clone());
        tokio::task::spawn_blocking(move || entries.read(&key)).await.ok().flatten()
    }

    /// Keeps `body`; a full disk or an unwritable cache is no reason to fail.
    async fn keep(&self, key: &Key, body: &Bytes) {
        if !self.entries.takes(key) || body.len() as u64 > self.entries.cap / ENTRY_PART {
            return;
        }
        let (entries, key, body) = (self.entries.clone(), key.clone(), body.clone());
        let kept = tokio::task::spawn_blocking(move || entries.write(&key, &body)).await;
        if let Ok(Err(e)) = kept {
            tracing::debug!("cache: {e}");
        }
    }

    async fn forget(&self, key: &Key) {
        if self.entries.takes(key) {
            let (entries, key) = (self.entries.clone(), key.clone());
            let _ = tokio::task::spawn_blocking(move || entries.remove(&file_name(&key))).await;
        }
    }
}

#[derive(Debug)]
struct Entries {
    dir: PathBuf,
    prefixes: Vec<String>,
    cap: u64,
    known: Mutex<HashMap<String, Entry>>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    bytes: u64,
    used: SystemTime,
}

impl Entries {
    fn takes(&self, key: &Key) -> bool {
        self.prefixes.iter().any(|p| key.as_str().starts_with(p))
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, key: &Key) -> Option<Bytes> {
        let name = file_name(key);
        let file = fs::File::open(self.dir.join(&name)).ok()?;
        let size = file.metadata().ok()?.len();
        // Never read more than could have been written, whatever somebody put there.
        let sound = size >= CHECKSUM_BYTES as u64 && size <= self.cap / ENTRY_PART + CHECKSUM_BYTES as u64;
        let mut bytes = Vec::new();
        let read = sound && (&file).take(size).read_to_end(&mut bytes).is_ok() && bytes.len() as u64 == size;
        if !read || checksum(key, &bytes[CHECKSUM_BYTES..]) != bytes[..CHECKSUM_BYTES] {
            self.remove(&name);
            return None;
        }
        let used = SystemTime::now();
        // Tells other and later processes; where it fails, the entry only looks older than it is.
        let _ = file.set_modified(used);
        self.known().insert(name, Entry { bytes: size, used });
        Some(Bytes::from(bytes).slice(CHECKSUM_BYTES..))
    }

    fn write(&self, key: &Key, body: &[u8]) -> io::Result<()> {
        let name = file_name(key);
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|e| io::Error::other(e.to_string()))?;
        let temporary = self.dir.join(format!("{}.tmp", hex(&random)));
        let written = (|| {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(&checksum(key, body))?;
            file.write_all(body)?;
            fs::rename(&temporary, self.dir.join(&name))
        })();
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
            return written;
        }
        let bytes = (CHECKSUM_BYTES + body.len()) as u64;
        self.known().insert(name, Entry { bytes, used: SystemTime::now() });
        self.evict();
        Ok(())
    }

    fn remove(&self, name: &str) {
        self.known().remove(name);
        let _ = fs::remove_file(self.dir.join(name));
    }

    /// Removes what was used longest ago, until the cap is kept.
    fn evict(&self) {
        let known = self.known();
        let mut bytes: u64 = known.values().map(|e| e.bytes).sum();
        if bytes <= self.cap {
            return;
        }
        let mut oldest: Vec<_> = known.iter().map(|(name, entry)| (entry.used, name.clone(), entry.bytes)).collect();
        drop(known);
        oldest.sort_unstable();
        let goal = self.cap / 100 * EVICT_TO_PERCENT;
        for (_, name, freed) in oldest {
            if bytes <= goal {
                return;
            }
            self.remove(&name);
            bytes = bytes.saturating_sub(freed);
        }
    }
}

/// Entries of earlier runs. Unfinished files of writers that died are removed when they are an hour old.
fn read_dir(dir: &Path) -> io::Result<HashMap<String, Entry>> {
    let mut known = HashMap::new();
    for file in fs::read_dir(dir)? {
        let file = file?;
        let (Ok(name), Ok(meta)) = (file.file_name().into_string(), file.metadata()) else { continue };
        let used = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        if unhex(&name, &mut [0; CHECKSUM_BYTES]).is_ok() && meta.is_file() {
            known.insert(name, Entry { bytes: meta.len(), used });
        } else if name.ends_with(".tmp") && used.elapsed().is_ok_and(|age| age.as_secs() > 3600) {
            let _ = fs::remove_file(file.path());
        }
    }
    Ok(known)
}

fn file_name(key: &Key) -> String {
    hex(blake3::hash(key.as_str().as_bytes()).as_bytes())
}

/// Of the key too, so that swapped files are noticed.
fn checksum(key: &Key, body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(key.as_str().as_bytes()).update(&[0]).update(body);
    hasher.finalize().into()
}

#[async_trait]
impl Store for Cache {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn list_may_lag(&self) -> bool {
        self.inner.list_may_lag()
    }

    fn keeper(&self) -> Option<&dyn Keeper> {
        self.inner.keeper()
    }

    async fn put_new(&self, key: &Key, body: Bytes) -> Result<()> {
        self.inner.put_new(key, body.clone()).await?;
        self.keep(key, &body).await;
        Ok(())
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<()> {
        self.forget(key).await;
        self.inner.put(key, body.clone()).await?;
        self.keep(key, &body).await;
        Ok(())
    }

    async fn get(&self, key: &Key, max: u64) -> Result<Bytes> {
        if let Some(body) = self.find(key).await {
            check_size(key, body.len() as u64, max)?;
            return Ok(body);
        }
        let body = self.inner.get(key, max).await?;
        self.keep(key, &body).await;
        Ok(body)
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        if let Some(body) = self.find(key).await {
            check_range(key, &range, body.len() as u64)?;
            return Ok(body.slice(range.start as usize..range.end as usize));
        }
        self.inner.get_range(key, range).await
    }

    async fn head(&self, key: &Key) -> Result<u64> {
        self.inner.head(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>) -> Result<Page> {
        self.inner.list(prefix, after).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.forget(key).await;
        self.inner.delete(key).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Verb;
    use crate::store::memory::Memory;
    use crate::store::record::Record;

    fn key(text: &str) -> Key {
        Key::new(text).expect("a key")
    }

    fn cache(dir: &Path, cap: u64) -> (Arc<Memory>, Arc<Record>, Cache) {
        let memory = Arc::new(Memory::new());
        let record = Arc::new(Record::new(memory.clone()));
        let cache = Cache::open(record.clone(), dir, &["idx/", "snap/"], cap).unwrap();
        (memory, record, cache)
    }

    #[tokio::test]
    async fn objects_are_fetched_once_if_they_belong_here() {
        let dir = tempfile::tempdir().unwrap();
        let (memory, record, cache) = cache(dir.path(), 1 << 20);
        for name in ["idx/a", "pack/a"] {
            memory.put(&key(name), "0123456789".into()).await.unwrap();
            for _ in 0..3 {
                assert_eq!(cache.get(&key(name), 10).await.unwrap(), "0123456789");
            }
            assert_eq!(cache.get_range(&key(name), 2..4).await.unwrap(), "23");
        }
        assert_eq!((record.count(Verb::Get, "idx/"), record.count(Verb::GetRange, "idx/")), (1, 0));
        assert_eq!((record.count(Verb::Get, "pack/"), record.count(Verb::GetRange, "pack/")), (3, 1));
        assert!(matches!(cache.get(&key("idx/a"), 9).await, Err(StoreError::Wrong { .. })));
        cache.delete(&key("idx/a")).await.unwrap();
        assert!(cache.get(&key("idx/a"), 10).await.unwrap_err().is_not_found());
    }

    #[tokio::test]
    async fn damaged_and_swapped_entries_are_fetched_again() {
        let dir = tempfile::tempdir().unwrap();
        let (_, record, cache) = cache(dir.path(), 1 << 20);
        cache.put(&key("idx/a"), "aaaa".into()).await.unwrap();
        cache.put(&key("idx/b"), "bbbb".into()).await.unwrap();
        let path = |name| dir.path().join(file_name(&key(name)));
        let a = fs::read(path("idx/a")).unwrap();
        for damage in [[&a[..35], b"x"].concat(), a[..35].to_vec(), Vec::new(), fs::read(path("idx/b")).unwrap()] {
            fs::write(path("idx/a"), damage).unwrap();
            record.take();
            assert_eq!(cache.get(&key("idx/a"), 4).await.unwrap(), "aaaa");
            assert_eq!(record.count(Verb::Get, ""), 1, "it was fetched");
            assert_eq!(cache.get(&key("idx/a"), 4).await.unwrap(), "aaaa");
            assert_eq!(record.count(Verb::Get, ""), 1, "and kept again");
        }
        assert_eq!(fs::metadata(path("idx/a")).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn the_least_recently_used_go_first() {
        let dir = tempfile::tempdir().unwrap();
        let (_, record, cache) = cache(dir.path(), 10_000);
        for n in 0..9 {
            cache.put(&key(&format!("idx/{n}")), vec![n; 1000].into()).await.unwrap();
        }
        cache.get(&key("idx/0"), 1000).await.unwrap();
        cache.put(&key("idx/9"), vec![9; 1000].into()).await.unwrap();
        cache.put(&key("idx/big"), vec![9; 5000].into()).await.unwrap();
        let bytes: u64 = fs::read_dir(dir.path()).unwrap().map(|f| f.unwrap().metadata().unwrap().len()).sum();
        assert!(bytes <= 10_000, "{bytes}");
        record.take();
        cache.get(&key("idx/0"), 1000).await.unwrap();
        cache.get(&key("idx/9"), 1000).await.unwrap();
        assert_eq!(record.count(Verb::Get, ""), 0, "the newest and the last used are kept");
        cache.get(&key("idx/1"), 1000).await.unwrap();
        assert_eq!(record.count(Verb::Get, ""), 1, "the oldest is gone");
        // A later process finds what is there.
        let (_, _, again) = self::cache(dir.path(), 10_000);
        assert!(again.get(&key("idx/0"), 1000).await.is_ok());
    }
}
