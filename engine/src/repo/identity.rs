//! Who signs on this machine: a writer's bundle says it; an owner gets a writer id of its own on each machine.

use std::fs;
use std::path::PathBuf;

use crate::crypto::rng::{Rng, draw};
use crate::crypto::secret::Secret;
use crate::crypto::sign::SigningKey;
use crate::error::{Error, Result};
use crate::format::bundle::{Bundle, Identity, Role};
use crate::format::config::Member;
use crate::id::WriterId;

use super::open::Repository;
use super::state;

impl Repository {
    /// The identity that this machine writes with. An owner's is drawn and enrolled on first use, and kept in the state
    /// directory: two machines never share one, because a writer's sessions are numbered.
    pub fn identity(&mut self, rng: &mut dyn Rng) -> Result<Identity> {
        if let Some(own) = self.bundle.identity.clone() {
            let member = self.config.member(own.id);
            return match member {
                Some(m) if m.revoked.is_some() => Err(Error::WrongKey(
                    "this writer was revoked; ask the owner of the repository for a new key".into(),
                )),
                Some(_) => Ok(own),
                None => Err(Error::WrongKey("this key's writer is not enrolled in the repository".into())),
            };
        }
        let own = match self.stored_identity()? {
            Some(own) if self.config.member(own.id).is_none_or(|m| m.revoked.is_none()) => own,
            revoked => {
                let own = Identity { id: WriterId::from_bytes(draw(rng)), seed: Secret::random(rng) };
                self.store_identity(own, revoked.is_some())?
            }
        };
        if self.config.member(own.id).is_none() {
            self.enroll(&own, false)?;
        }
        Ok(own)
    }

    /// Makes somebody's signature count, in a new epoch of the config.
    pub(super) fn enroll(&mut self, who: &Identity, maintainer: bool) -> Result<()> {
        let key = SigningKey::from_seed(who.seed.clone()).verifying();
        let id = who.id;
        self.change_config("enroll a writer", |config| {
            if let Err(at) = config.members.binary_search_by_key(&id, |m| m.id) {
                config.members.insert(at, Member { id, key, maintainer, revoked: None });
            }
            Ok(())
        })
    }

    fn identity_file(&self) -> PathBuf {
        self.options.state.join(self.id().to_string()).join("writer")
    }

    fn stored_identity(&self) -> Result<Option<Identity>> {
        let path = self.identity_file();
        let text = match fs::read_to_string(&path) {
            Ok(text) => zeroize::Zeroizing::new(text),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("read", path, e)),
        };
        let bundle = Bundle::from_text(&text).map_err(Error::in_object(path.display().to_string()))?;
        if bundle.repository != self.id() {
            return Err(Error::damaged(path.display().to_string(), "it belongs to another repository"));
        }
        Ok(bundle.identity)
    }

    /// Durable before it is enrolled: an enrolled identity that is lost would only be clutter, one that is used and lost
    /// too, but one that is not enrolled signs nothing that counts.
    ///
    /// The one that stands then: of several processes that begin at once, the first one's. `instead`: of a revoked one.
    fn store_identity(&self, own: Identity, instead: bool) -> Result<Identity> {
        let bundle = Bundle {
            role: Role::Writer,
            root_seed: None,
            read_seed: None,
            identity: Some(own.clone()),
            ..self.bundle.clone()
        };
        let (path, text) = (self.identity_file(), bundle.to_text());
        if instead {
            state::replace(&path, text.as_bytes())?;
        } else if !state::create(&path, text.as_bytes())? {
            return Ok(self.stored_identity()?.unwrap_or(own));
        }
        Ok(own)
    }
}
