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
use crate::format::config::{ChunkerParams, Config, Recipient, StoreVerdict};
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

/// Makes a repository in `store`, and opens it as its owner. Nothing wraps the owner's bundle yet: the caller stores it
/// in a slot or a file **before** it backs up anything.
///
/// The store is probed first; what it was found to hold to is stored and returned.
pub fn init(
    store: Arc<dyn Store>,
    bridge: Bridge,
    chunker: Params,
    options: Options,
    rng: &mut dyn Rng,
) -> Result<(Repository, probe::Verdict)> {
    let exists = |store: &dyn Store| Error::RepositoryExists { location: store.location() };
    if !bridge.wait(list_all(store.as_ref(), "cfg/"))?.is_empty() {
        return Err(exists(store.as_ref()));
    }
    let verdict = bridge.wait(probe::probe(store.as_ref(), 4, 8))?;
    let bundle = draw_owner(rng);
    let config = first_config(&bundle, chunker, &verdict);
    let root = SigningKey::from_seed(bundle.root_seed.clone().expect("an owner's"));
    let stored = config.encode(&root);
    let hash = Config::hash(&stored);
    match bridge.wait(store.put_new(&key(objects::config(1)), stored.into())) {
        Ok(()) => {}
        Err(StoreError::Exists { .. }) => return Err(exists(store.as_ref())),
        Err(e) => return Err(e.into()),
    }
    Ok((Repository::new(store, bridge, bundle, config, hash, options)?, verdict))
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

fn first_config(bundle: &Bundle, chunker: Params, verdict: &probe::Verdict) -> Config {
    let root = SigningKey::from_seed(bundle.root_seed.clone().expect("an owner's"));
    let read = ReadSecret::from_seed(bundle.read_seed.clone().expect("an owner's"));
    Config {
        repository: bundle.repository,
        epoch: 1,
        previous: None,
        root: root.verifying(),
        time: now(),
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
