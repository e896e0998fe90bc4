//! Opening a repository: from a location and a key to what may be done with it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::crypto::kdf;
use crate::crypto::kem::ReadSecret;
use crate::crypto::secret::Secret;
use crate::crypto::sign::{SigningKey, VerifyingKey};
use crate::error::{Error, Result};
use crate::format::bundle::{Bundle, Role};
use crate::format::config::{CONFIG_BYTES_MAX, Config, Use};
use crate::format::keys::{ContentIds, GraphKeys, SessionSecret};
use crate::format::objects::{self, Parsed};
use crate::format::slot::{Lock, SLOT_BYTES_MAX, Slot};
use crate::id::{ObjectHash, RepositoryId, SessionId, WriterId};
use crate::store::{Key, Store, StoreError, list_all};

use super::bridge::Bridge;
use super::clock::{Clock, SystemClock};

/// Features that this program knows; others forbid what they say.
pub(super) const KNOWN_FEATURES: &[&str] = &[];

/// Where a repository keeps local things, and what it may use.
#[derive(Debug, Clone)]
pub struct Options {
    /// The local index and other caches, one directory for each repository below it; `None`: unlinked files in the
    /// system's directory for temporary ones.
    pub cache: Option<PathBuf>,
    /// What must not be lost though it can be made anew: an owner's writer identity on this machine, heads last seen.
    pub state: PathBuf,
    /// Cap on the heap, in bytes (ARCHITECTURE.md "Memory").
    pub memory: u64,
    /// Threads that compute.
    pub threads: usize,
    /// Calls of the store at once.
    pub connections: usize,
    /// How often an open session looks whether somebody prunes; a prune waits a minute for it.
    pub watch: Duration,
    /// Tells the time, and waits.
    pub clock: Arc<dyn Clock>,
}

impl Options {
    /// Usual ones, with local things below `local`: 128 MiB, a thread for each core, 16 connections, a look every 10 s.
    pub fn new(local: impl Into<PathBuf>) -> Self {
        let local = local.into();
        Self {
            cache: Some(local.join("cache")),
            state: local.join("state"),
            memory: 128 << 20,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            connections: 16,
            watch: Duration::from_secs(10),
            clock: Arc::new(SystemClock::default()),
        }
    }
}

/// What opens a repository.
pub enum Opener {
    /// A passphrase, tried on every slot that takes one.
    Passphrase(zeroize::Zeroizing<Vec<u8>>),
    /// The key of a recovery code.
    RecoveryCode(Secret),
    /// A bundle from a file.
    Bundle(Box<Bundle>),
}

/// A repository that was found, and not opened.
pub struct Locked {
    store: Arc<dyn Store>,
    bridge: Bridge,
    /// All epochs of the config, by number.
    epochs: Epochs,
    repository: RepositoryId,
}

impl std::fmt::Debug for Locked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Locked({})", self.repository.short())
    }
}

pub(super) fn key(text: String) -> Key {
    Key::new(text).expect("the format's names are keys")
}

impl Locked {
    /// Looks for a repository in `store`.
    pub fn find(store: Arc<dyn Store>, bridge: Bridge) -> Result<Self> {
        let epochs = read_epochs(&store, &bridge)?;
        let Some((_, newest)) = epochs.last() else {
            return Err(Error::NoRepository { location: store.location() });
        };
        let repository = Config::peek_repository(newest).map_err(Error::in_object("config"))?;
        Ok(Self { store, bridge, epochs, repository })
    }

    /// Its id, not verified before it is opened.
    pub fn repository(&self) -> RepositoryId {
        self.repository
    }

    /// Its key slots. One that cannot be read is left out and logged.
    pub fn slots(&self) -> Result<Vec<Slot>> {
        read_slots(&self.store, &self.bridge)
    }

    /// Opens it.
    pub fn unlock(self, opener: Opener, options: Options) -> Result<Repository> {
        let bundle = match opener {
            Opener::Bundle(bundle) => *bundle,
            Opener::Passphrase(text) => self.try_slots(|lock| match lock {
                Lock::Passphrase { salt, params } => {
                    Some(kdf::derive_passphrase(&text, salt, *params).map_err(|e| Error::WrongKey(e.to_string())))
                }
                _ => None,
            })?,
            Opener::RecoveryCode(secret) => self.try_slots(|lock| match lock {
                Lock::RecoveryCode => Some(Ok(secret.clone())),
                _ => None,
            })?,
        };
        if bundle.repository != self.repository {
            return Err(Error::WrongKey(format!(
                "this key belongs to repository {}, and {} holds {}",
                bundle.repository.short(),
                self.store.location(),
                self.repository.short()
            )));
        }
        let (config, config_hash) = verify_epochs(&self.epochs, &bundle)?;
        Repository::new(self.store, self.bridge, bundle, config, config_hash, options)
    }

    /// Several slots may open with one passphrase, because a rotation that was cut off leaves two: the newest pair that
    /// counts is taken.
    fn try_slots(&self, mut opener: impl FnMut(&Lock) -> Option<Result<Secret>>) -> Result<Bundle> {
        let slots = self.slots()?;
        let (mut tried, mut best) = (0, None);
        for slot in slots.iter().filter(|s| s.repository == self.repository) {
            let Some(secret) = opener(&slot.lock) else { continue };
            tried += 1;
            let Some(bundle) = slot.open(&secret?) else { continue };
            let bundle = bundle.map_err(Error::in_object(objects::slot(slot.id)))?;
            match self.age(&bundle) {
                Some(0) => return Ok(bundle),
                age if best.as_ref().is_none_or(|(other, _)| is_newer(age, *other)) => best = Some((age, bundle)),
                _ => {}
            }
        }
        best.map(|(_, bundle)| bundle).ok_or_else(|| {
            Error::WrongKey(match tried {
                0 => {
                    "no key slot of this repository opens that way; use the key file that it was made with (--key-file)"
                        .into()
                }
                n => format!("wrong password or code: none of {n} key slots opens with it"),
            })
        })
    }

    /// How many rotations ago the READ pair of `bundle` was the current one; `None`: it never was.
    fn age(&self, bundle: &Bundle) -> Option<usize> {
        let (config, _) = verify_epochs(&self.epochs, bundle).ok()?;
        let public = ReadSecret::from_seed(bundle.read_seed.clone()?).public().clone();
        config.recipients.iter().rev().position(|r| r.public == public)
    }
}

/// Whether a pair of age `a` is newer than one of age `b`; one that never counted is older than all.
fn is_newer(a: Option<usize>, b: Option<usize>) -> bool {
    a.unwrap_or(usize::MAX) < b.unwrap_or(usize::MAX)
}

type Epochs = Vec<(u64, Vec<u8>)>;

/// All epochs that a LIST shows, and then as far as a GET finds a higher one: a LIST may lag.
async fn fetch_epochs(store: &Arc<dyn Store>) -> Result<Epochs> {
    let mut epochs = Epochs::new();
    for batch in list_all(store.as_ref(), "cfg/").await?.chunks(8) {
        let mut reading = tokio::task::JoinSet::new();
        for l in batch {
            if let Some(Parsed::Config(epoch)) = objects::parse(l.key.as_str()) {
                let (store, key) = (Arc::clone(store), l.key.clone());
                reading.spawn(async move { (epoch, store.get(&key, CONFIG_BYTES_MAX).await) });
            }
        }
        for (epoch, stored) in reading.join_all().await {
            epochs.push((epoch, stored?.to_vec()));
        }
    }
    epochs.sort_unstable_by_key(|(epoch, _)| *epoch);
    // Where no repository shows, none is looked for by number.
    while let Some(next) = epochs.last().and_then(|(epoch, _)| epoch.checked_add(1)) {
        match store.get(&key(objects::config(next)), CONFIG_BYTES_MAX).await {
            Ok(stored) => epochs.push((next, stored.to_vec())),
            Err(StoreError::NotFound { .. }) => break,
            Err(e) => return Err(e.into()),
        }
    }
    Ok(epochs)
}

fn read_epochs(store: &Arc<dyn Store>, bridge: &Bridge) -> Result<Epochs> {
    bridge.wait(fetch_epochs(store))
}

/// The config as it stands now.
pub(super) async fn current_config(store: &Arc<dyn Store>, bundle: &Bundle) -> Result<Config> {
    Ok(verify_epochs(&fetch_epochs(store).await?, bundle)?.0)
}

fn read_slots(store: &Arc<dyn Store>, bridge: &Bridge) -> Result<Vec<Slot>> {
    let listed = bridge.wait(list_all(store.as_ref(), "key/"))?;
    let stored: Vec<(Key, bytes::Bytes)> = bridge.map(listed, 8, |l| {
        let store = Arc::clone(store);
        async move { store.get(&l.key, SLOT_BYTES_MAX).await.map(|bytes| (l.key, bytes)).map_err(Error::from) }
    })?;
    let mut slots = Vec::new();
    for (key, bytes) in stored {
        match Slot::decode(&bytes) {
            Ok(slot) if objects::slot(slot.id) == key.as_str() => slots.push(slot),
            Ok(_) => tracing::warn!("{key} holds another slot than its name says; it is ignored"),
            Err(e) => tracing::warn!("{key} is ignored: {e}"),
        }
    }
    Ok(slots)
}

/// The highest epoch, all of them signed by the pinned root and chained.
fn verify_epochs(epochs: &[(u64, Vec<u8>)], bundle: &Bundle) -> Result<(Config, ObjectHash)> {
    let mut newest: Option<(Config, ObjectHash)> = None;
    for (epoch, bytes) in epochs {
        let object = objects::config(*epoch);
        let config = Config::decode(bytes, &bundle.root).map_err(|e| {
            Error::WrongKey(format!("{object} of this repository is not what the key was made for: {e}"))
        })?;
        let follows = newest
            .as_ref()
            .is_none_or(|(before, hash)| config.epoch == before.epoch + 1 && config.previous == Some(*hash));
        if config.epoch != *epoch || config.repository != bundle.repository || !follows {
            return Err(Error::damaged(object, "it does not follow the config before it"));
        }
        newest = Some((config, Config::hash(bytes)));
    }
    newest.ok_or_else(|| Error::damaged("config", "there is none"))
}

/// Secrets of sessions, by session and hash of the stanza: anybody can make a wrong stanza for a session, and it must not
/// hide the right one.
pub(super) type KnownSecrets = HashMap<(WriterId, SessionId, [u8; 32]), SessionSecret>;

/// An open repository: its store, its config, and the keys of one role.
pub struct Repository {
    pub(super) store: Arc<dyn Store>,
    pub(super) bridge: Bridge,
    pub(super) bundle: Bundle,
    pub(super) config: Config,
    pub(super) config_hash: ObjectHash,
    /// The config as it was read last because somebody was met who is not in `config`.
    later: Mutex<Option<Arc<Config>>>,
    pub(super) graph: GraphKeys,
    pub(super) content: Option<ContentIds>,
    /// The READ pairs of all epochs that this role opens, newest first.
    pub(super) read: Vec<ReadSecret>,
    pub(super) options: Options,
    pub(super) sessions: Mutex<KnownSecrets>,
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Repository({} as {})", self.config.repository.short(), self.bundle.role.as_str())
    }
}

impl Repository {
    pub(super) fn new(
        store: Arc<dyn Store>,
        bridge: Bridge,
        bundle: Bundle,
        config: Config,
        config_hash: ObjectHash,
        options: Options,
    ) -> Result<Self> {
        let graph = GraphKeys::new(&bundle.domain.d_idx);
        let content = bundle.domain.d_id.as_ref().map(ContentIds::new);
        let read = match &bundle.read_seed {
            Some(seed) => read_secrets(&config, seed)?,
            None => Vec::new(),
        };
        let (later, sessions) = (Mutex::default(), Mutex::default());
        Ok(Self { store, bridge, bundle, config, config_hash, later, graph, content, read, options, sessions })
    }

    /// Its id.
    pub fn id(&self) -> RepositoryId {
        self.config.repository
    }

    /// The config that it was opened with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The config as it was read last, if it was read again.
    pub(super) fn newest_config(&self) -> Option<Arc<Config>> {
        self.later.lock().expect("no panic while held").clone()
    }

    pub(super) fn remember_config(&self, config: &Arc<Config>) {
        *self.later.lock().expect("no panic while held") = Some(Arc::clone(config));
    }

    /// What the key in use may do.
    pub fn role(&self) -> Role {
        self.bundle.role
    }

    /// The key in use. Secret.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// Where its objects are.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// What calls of the store go through.
    pub fn bridge(&self) -> &Bridge {
        &self.bridge
    }

    /// Caps and local places.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Keys of the graph class.
    pub fn graph_keys(&self) -> &GraphKeys {
        &self.graph
    }

    /// Keys of ids, tags and labels; a maintainer has none.
    pub fn content_ids(&self) -> Option<&ContentIds> {
        self.content.as_ref()
    }

    /// Whether content and names can be read with this key.
    pub fn can_read(&self) -> bool {
        !self.read.is_empty()
    }

    /// The key slots.
    pub fn slots(&self) -> Result<Vec<Slot>> {
        read_slots(&self.store, &self.bridge)
    }

    /// Reads the config's epochs again: all of them are signed by ROOT and chained. The lowest that is there: 1, unless older
    /// ones were removed.
    pub fn verify_config(&self) -> Result<u64> {
        let epochs = read_epochs(&self.store, &self.bridge)?;
        verify_epochs(&epochs, &self.bundle)?;
        Ok(epochs[0].0)
    }

    /// Refuses what the role may not do, or what a feature forbids to this program.
    pub fn may(&self, what: Use, verb: &'static str) -> Result<()> {
        if let Some(feature) = self.config.forbidding(what, KNOWN_FEATURES).next() {
            return Err(Error::TooNew(format!("to {verb} it must know the feature {feature}")));
        }
        let (ok, needed) = match what {
            Use::Read => (matches!(self.role(), Role::Owner | Role::Reader), "owner or reader"),
            Use::Write => (matches!(self.role(), Role::Owner | Role::Writer), "owner or writer"),
            Use::Maintain => (matches!(self.role(), Role::Owner | Role::Maintainer), "owner or maintainer"),
            Use::Check => (true, ""),
        };
        if ok { Ok(()) } else { Err(Error::NotAllowed { role: self.role().as_str(), what: verb, needed }) }
    }

    /// ROOT's signing key: an owner's.
    pub(crate) fn root(&self, verb: &'static str) -> Result<SigningKey> {
        let seed = self.bundle.root_seed.clone().ok_or(Error::NotAllowed {
            role: self.role().as_str(),
            what: verb,
            needed: "owner",
        })?;
        Ok(SigningKey::from_seed(seed))
    }

    /// The public half of ROOT, which only owners hold.
    pub(crate) fn root_key(&self) -> &VerifyingKey {
        &self.config.root
    }

    /// Stores the next epoch of the config, made from the newest one by `change`; an equal change by somebody else
    /// meanwhile is built upon.
    pub(super) fn change_config(
        &mut self,
        verb: &'static str,
        mut change: impl FnMut(&mut Config) -> Result<()>,
    ) -> Result<()> {
        let root = self.root(verb)?;
        loop {
            let mut next = self.config.clone();
            next.epoch += 1;
            next.previous = Some(self.config_hash);
            next.time = self.options.clock.now();
            change(&mut next)?;
            let stored = next.encode(&root);
            let object = key(objects::config(next.epoch));
            match self.create(&object, stored.clone()) {
                Ok(()) => {
                    self.config_hash = Config::hash(&stored);
                    self.config = next;
                    return Ok(());
                }
                Err(StoreError::Exists { .. }) => {
                    let epochs = read_epochs(&self.store, &self.bridge)?;
                    let (config, hash) = verify_epochs(&epochs, &self.bundle)?;
                    if config.epoch <= self.config.epoch {
                        return Err(Error::damaged(object.as_str(), "it exists and cannot be listed"));
                    }
                    (self.config, self.config_hash) = (config, hash);
                }
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// READ pairs from the one that `seed` gives back to the oldest: each is sealed to the next.
pub(super) fn read_secrets(config: &Config, seed: &Secret) -> Result<Vec<ReadSecret>> {
    let own = ReadSecret::from_seed(seed.clone());
    let Some(at) = config.recipients.iter().rposition(|r| r.public == *own.public()) else {
        return Err(Error::WrongKey("this key's READ pair is not among the recipients of the repository".into()));
    };
    let mut secrets = vec![own];
    for recipient in config.recipients[..at].iter().rev() {
        let stanza = recipient.handed_on.as_ref().expect("checked when decoded: all but the last");
        let newer = secrets.last().expect("one was put in");
        let seed = newer
            .open_stanza("copal 1 recipient", stanza)
            .map_err(|e| Error::damaged("config", format!("an older READ secret does not open: {e}")))?;
        secrets.push(ReadSecret::from_seed(seed));
    }
    Ok(secrets)
}
