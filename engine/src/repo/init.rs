//! Making a repository.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::chunker::Params;
use crate::crypto::kem::ReadSecret;
use crate::crypto::rng::{Rng, draw};
use crate::crypto::secret::Secret;
use crate::crypto::sign::SigningKey;
use crate::error::{Error, Result};
use crate::format::bundle::{Bundle, Role};
use crate::format::config::{CONFIG_BYTES_MAX, ChunkerParams, Config, Recipient, StoreVerdict};
use crate::format::keys::Domain;
use crate::format::node::Timestamp;
use crate::format::objects;
use crate::id::RepositoryId;
use crate::store::{Store, StoreError, list_all, probe};

use super::bridge::Bridge;
use super::open::{Options, Repository, key};

/// The system's clock.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp { secs: since.as_secs() as i64, nanos: since.subsec_nanos() }
}

/// As [`init_keeping`], for who has a place for the bundle already or needs none.
pub fn init(
    store: Arc<dyn Store>,
    bridge: Bridge,
    chunker: Params,
    options: Options,
    rng: &mut dyn Rng,
) -> Result<(Repository, probe::Verdict)> {
    init_keeping(store, bridge, chunker, options, rng, |_| Ok(()))
}

/// Makes a repository in `store`, and opens it as its owner.
///
/// `keep` stores the owner's bundle, in a slot or a file, durably: only then the config is created, and with it the
/// repository. A crash before that leaves a key that opens nothing, and never a repository without a key. Slots that such a
/// crash has left are removed by the next call.
///
/// The store is probed first; what it was found to hold to is stored and returned. [`Error::RepositoryExists`]: somebody else
/// has made one, and what `keep` stored opens nothing.
pub fn init_keeping<E: From<Error>>(
    store: Arc<dyn Store>,
    bridge: Bridge,
    chunker: Params,
    options: Options,
    rng: &mut dyn Rng,
    keep: impl FnOnce(&Repository) -> Result<(), E>,
) -> Result<(Repository, probe::Verdict), E> {
    let exists = |store: &dyn Store| Error::RepositoryExists { location: store.location() };
    if !bridge.wait(list_all(store.as_ref(), "cfg/")).map_err(Error::from)?.is_empty() {
        return Err(exists(store.as_ref()).into());
    }
    let verdict = bridge.wait(probe::probe(store.as_ref(), probe::ROUNDS, probe::CREATORS)).map_err(Error::from)?;
    let bundle = draw_owner(rng);
    let config = first_config(&bundle, chunker, &verdict, options.clock.now());
    let root = SigningKey::from_seed(bundle.root_seed.clone().expect("an owner's"));
    let stored = config.encode(&root);
    let hash = Config::hash(&stored);
    let repo = Repository::new(Arc::clone(&store), bridge.clone(), bundle, config, hash, options)?;
    keep(&repo)?;
    let object = key(objects::config(1));
    match bridge.wait(store.put_new(&object, stored.clone().into())) {
        Ok(()) => {}
        // The answer to the own put may have been lost, and the put repeated.
        Err(StoreError::Exists { .. }) => match bridge.wait(store.get(&object, CONFIG_BYTES_MAX)) {
            Ok(there) if there == stored => {}
            _ => return Err(exists(store.as_ref()).into()),
        },
        Err(e) => return Err(Error::from(e).into()),
    }
    if let Err(e) = remove_orphans(&repo) {
        tracing::warn!("key slots that an interrupted init has left stay: {e}");
    }
    Ok((repo, verdict))
}

/// Removes slots of repositories that were never made: an `init` was cut off before its config, or was slower than this one.
/// Where a create-only put proves nothing, the other one might yet count: then they stay.
fn remove_orphans(repo: &Repository) -> Result<()> {
    if repo.ends_by_name() {
        return Ok(());
    }
    for slot in repo.slots()?.iter().filter(|slot| slot.repository != repo.id()) {
        repo.bridge.wait(repo.store.delete(&key(objects::slot(slot.id))))?;
    }
    Ok(())
}

impl Repository {
    /// What `init` found the store to hold to.
    pub fn promised(&self) -> probe::Verdict {
        let StoreVerdict { create_only, strong_list } = self.config.store;
        let create_only = match create_only {
            0 => probe::CreateOnly::Ignored,
            1 => probe::CreateOnly::Sequential,
            _ => probe::CreateOnly::Atomic,
        };
        probe::Verdict { create_only, strong_list, details: Vec::new() }
    }

    /// What the store is found to hold to now. `None`: this key may not write below `probe/`.
    pub fn probe(&self) -> Result<Option<probe::Verdict>> {
        match self.bridge.wait(probe::probe(self.store.as_ref(), probe::ROUNDS, probe::CREATORS)) {
            Ok(found) => {
                found.details.iter().for_each(|detail| tracing::info!("the store was probed: {detail}"));
                Ok(Some(found))
            }
            Err(e @ StoreError::Denied { .. }) => {
                tracing::warn!("the store is taken for what init found it to be, because it cannot be probed: {e}");
                Ok(None)
            }
            Err(e) => Err(e.into()),
        }
    }
}

fn draw_owner(rng: &mut dyn Rng) -> Bundle {
    let root_seed = Secret::random(rng);
    let root = SigningKey::from_seed(root_seed.clone()).verifying().fingerprint();
    let domain =
        Domain { d_id: Some(Secret::random(rng)), d_idx: Secret::random(rng), d_chunk: Some(Secret::random(rng)) };
    Bundle {
        role: Role::Owner,
        repository: RepositoryId::from_bytes(draw(rng)),
        root,
        domain,
        root_seed: Some(root_seed),
        read_seed: Some(Secret::random(rng)),
        identity: None,
    }
}

fn first_config(bundle: &Bundle, chunker: Params, verdict: &probe::Verdict, time: Timestamp) -> Config {
    let root = SigningKey::from_seed(bundle.root_seed.clone().expect("an owner's"));
    let read = ReadSecret::from_seed(bundle.read_seed.clone().expect("an owner's"));
    Config {
        repository: bundle.repository,
        epoch: 1,
        previous: None,
        root: root.verifying(),
        time,
        chunker: ChunkerParams {
            min: chunker.min(),
            avg: chunker.avg(),
            max: chunker.max(),
            normalization: chunker.normalization(),
        },
        features: Vec::new(),
        store: StoreVerdict {
            create_only: match verdict.create_only {
                probe::CreateOnly::Atomic => 2,
                probe::CreateOnly::Sequential => 1,
                probe::CreateOnly::Ignored => 0,
            },
            strong_list: verdict.strong_list,
        },
        recipients: vec![Recipient { public: read.public().clone(), handed_on: None }],
        members: Vec::new(),
    }
}
