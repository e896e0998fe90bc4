//! What one run on a node needs, sealed to that run's key (docs/kubernetes/design.md, "An item").
//!
//! The agent draws a [`RunKey`] for each attempt and shows its public half; who answers seals a [`Grant`] to it, bound to item
//! and attempt. Both are wiped when they are dropped.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use copal_engine::crypto::kem::{CIPHERTEXT_LEN, ReadPublic, ReadSecret, encapsulate};
use copal_engine::crypto::rng::Rng;
use copal_engine::crypto::secret::Secret;
use copal_engine::crypto::{aead, hash};
use copal_engine::format::bundle::Bundle;
use copal_engine::repo::{self, Bridge, Locked, Opener, Repository};
use copal_engine::store::s3::{PathStyle, S3Options, ServerEncryption, StaticKeys};
use copal_engine::store::url::{self, Location};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::api::repository;

/// Longest sealed grant that is opened, in bytes.
pub const SEALED_MAX: usize = 256 << 10;

const CONTEXT: &str = "copal.dev grant v1";

/// Where a repository is, and what opens it.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// `http[s]://host[:port]`; none: AWS.
    pub endpoint: Option<String>,
    /// The bucket.
    pub bucket: String,
    /// What its objects begin with.
    pub prefix: String,
    /// The region.
    pub region: Option<String>,
    /// `auto`, `path` or `virtual`.
    pub path_style: String,
    /// Access key id.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
    /// CA of the server, in PEM.
    pub ca: Option<String>,
    /// Key for SSE-C, 32 bytes in base64.
    pub sse_customer_key: Option<String>,
    /// The key bundle, as `copal key export` writes it.
    pub bundle: String,
}

impl Grant {
    /// The parts of a Repository that are no secret.
    pub fn place(bucket: &repository::Bucket) -> Self {
        let path_style = match bucket.path_style {
            repository::PathStyle::Auto => "auto",
            repository::PathStyle::Path => "path",
            repository::PathStyle::Virtual => "virtual",
        };
        Self {
            endpoint: bucket.endpoint.as_ref().map(|e| e.trim_end_matches('/').to_owned()),
            bucket: bucket.bucket.clone(),
            prefix: bucket.prefix.trim_matches('/').to_owned(),
            region: bucket.region.clone(),
            path_style: path_style.into(),
            access_key: String::new(),
            secret_key: String::new(),
            ca: None,
            sse_customer_key: None,
            bundle: String::new(),
        }
    }

    /// Opens the repository. `scratch`: a directory for caches and state, of this run alone. Blocks.
    pub fn open(&self, scratch: &Path, memory: u64) -> Result<Repository> {
        let bundle = Bundle::from_text(&self.bundle).context("the Secret holds no key bundle")?;
        let bridge = Bridge::start().context("cannot start threads")?;
        let location = Location::S3 {
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            bucket: self.bucket.clone(),
            prefix: self.prefix.clone(),
        };
        let store_options = url::Options { s3: self.s3(scratch)?, ..url::Options::default() };
        let store = bridge.wait(url::open(&location, &store_options)).map_err(copal_engine::Error::from)?;
        let mut options = repo::Options::new(scratch);
        options.memory = memory;
        Ok(Locked::find(store, bridge)?.unlock(Opener::Bundle(Box::new(bundle)), options)?)
    }

    fn s3(&self, scratch: &Path) -> Result<S3Options> {
        let ca_file = match &self.ca {
            Some(pem) => {
                let file = scratch.join("ca.pem");
                std::fs::write(&file, pem).with_context(|| format!("cannot write {}", file.display()))?;
                Some(file)
            }
            None => None,
        };
        let encryption = match &self.sse_customer_key {
            Some(key) => ServerEncryption::CustomerKey(customer_key(key)?),
            None => ServerEncryption::Bucket,
        };
        let path_style = match self.path_style.as_str() {
            "path" => PathStyle::Path,
            "virtual" => PathStyle::Virtual,
            _ => PathStyle::Auto,
        };
        // Never what the pod's own environment says: a node's identity would pay for everybody.
        let keys = StaticKeys {
            access_key: self.access_key.clone(),
            secret_key: Zeroizing::new(self.secret_key.clone()),
            session_token: None,
        };
        Ok(S3Options { ca_file, encryption, path_style, keys: Some(keys), ..S3Options::default() })
    }
}

fn customer_key(text: &str) -> Result<Zeroizing<[u8; 32]>> {
    let bytes = Zeroizing::new(STANDARD.decode(text).context("the SSE-C key is not base64")?);
    let key = bytes.as_slice().try_into().map_err(|_| anyhow!("the SSE-C key has {} bytes, not 32", bytes.len()))?;
    Ok(Zeroizing::new(key))
}

/// The key of one attempt.
pub struct RunKey(ReadSecret);

impl RunKey {
    /// A fresh one.
    pub fn generate(rng: &mut dyn Rng) -> Self {
        Self(ReadSecret::from_seed(Secret::random(rng)))
    }

    /// What may be shown, in base64.
    pub fn public(&self) -> String {
        STANDARD.encode(self.0.public().as_bytes())
    }

    /// What was sealed to it, for this item and attempt only.
    pub fn open(&self, sealed: &str, item: &str, attempt: i32) -> Result<Grant> {
        if sealed.len() > SEALED_MAX {
            bail!("the grant is far too long");
        }
        let bytes = STANDARD.decode(sealed).context("the grant is not base64")?;
        let (ciphertext, text) =
            bytes.split_first_chunk::<CIPHERTEXT_LEN>().ok_or_else(|| anyhow!("the grant is too short"))?;
        let key = wrap_key(&self.0.decapsulate(ciphertext), ciphertext, item, attempt);
        let mut text = Zeroizing::new(text.to_vec());
        let text = aead::open_in_place(&key, &mut text).map_err(|_| anyhow!("the grant is for another run"))?;
        serde_json::from_slice(text).context("the grant is none")
    }
}

/// Seals a grant to the public key of an attempt, in base64.
pub fn seal(grant: &Grant, public: &str, item: &str, attempt: i32, rng: &mut dyn Rng) -> Result<String> {
    let public = STANDARD.decode(public).context("the run's public key is not base64")?;
    let public = ReadPublic::from_bytes(&public).context("the run's public key is none")?;
    let (ciphertext, shared) = encapsulate(&public, rng);
    let key = wrap_key(&shared, &ciphertext, item, attempt);
    let mut text = Zeroizing::new(serde_json::to_vec(grant)?);
    aead::seal(&key, &mut text);
    Ok(STANDARD.encode([&ciphertext[..], &text].concat()))
}

/// One key for one text: the shared secret is fresh each time.
fn wrap_key(shared: &Secret, ciphertext: &[u8; CIPHERTEXT_LEN], item: &str, attempt: i32) -> Secret {
    let len = (item.len() as u64).to_le_bytes();
    hash::derive(CONTEXT, &[shared.expose(), ciphertext, &len, item.as_bytes(), &attempt.to_le_bytes()])
}

#[cfg(test)]
mod tests {
    use copal_engine::crypto::rng::SeededRng;

    use super::*;

    fn grant() -> Grant {
        Grant {
            endpoint: Some("https://s3.example".into()),
            bucket: "b".into(),
            prefix: "p".into(),
            region: None,
            path_style: "auto".into(),
            access_key: "id".into(),
            secret_key: "secret".into(),
            ca: None,
            sse_customer_key: None,
            bundle: "bundle".into(),
        }
    }

    #[test]
    fn a_grant_opens_for_its_run_and_no_other() {
        let mut rng = SeededRng::new("grant");
        let (key, other) = (RunKey::generate(&mut rng), RunKey::generate(&mut rng));
        let sealed = seal(&grant(), &key.public(), "uid", 2, &mut rng).unwrap();
        assert_eq!(key.open(&sealed, "uid", 2).unwrap().secret_key, "secret");
        for (key, item, attempt) in [(&other, "uid", 2), (&key, "uie", 2), (&key, "uid", 3)] {
            assert!(key.open(&sealed, item, attempt).is_err());
        }
        let mut bytes = STANDARD.decode(&sealed).unwrap();
        for at in [0, CIPHERTEXT_LEN - 1, CIPHERTEXT_LEN, bytes.len() - 1] {
            bytes[at] ^= 1;
            assert!(key.open(&STANDARD.encode(&bytes), "uid", 2).is_err(), "{at}");
            bytes[at] ^= 1;
        }
        assert!(key.open("", "uid", 2).is_err());
        assert_ne!(sealed, seal(&grant(), &key.public(), "uid", 2, &mut rng).unwrap());
    }
}
