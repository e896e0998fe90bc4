//! Who may open the repository: key slots, bundles for other roles, revocation, rotation of READ (docs/format.md "Roles").
//!
//! All of it takes an owner's key. What hands out access is durable before anything depends on it.

use crate::crypto::kdf::{self, Argon2Params, RecoveryCode};
use crate::crypto::kem::{self, ReadPublic, ReadSecret};
use crate::crypto::rng::{Rng, draw};
use crate::crypto::secret::Secret;
use crate::error::{Error, Result};
use crate::format::bundle::{Bundle, Identity, Role};
use crate::format::config::{Recipient, Revocation};
use crate::format::keys::Domain;
use crate::format::objects::{self, Parsed};
use crate::format::slot::{Lock, Slot};
use crate::id::{SessionId, SlotId, WriterId};
use crate::store::list_all;

use super::open::{Repository, key};

/// What shall open a new slot.
pub enum NewLock<'a> {
    /// A passphrase, and what deriving its key costs.
    Passphrase(&'a [u8], Argon2Params),
    /// A recovery code, as [`RecoveryCode::generate`] gives it.
    RecoveryCode(&'a RecoveryCode),
    /// Whoever holds this X-Wing key.
    Recipient(&'a ReadPublic),
}

impl Repository {
    /// Adds a slot that opens as `role`, owner or reader.
    pub fn add_slot(&self, role: Role, lock: NewLock<'_>, label: &[u8], rng: &mut dyn Rng) -> Result<SlotId> {
        self.add_slot_of(&self.bundle_for(role)?, lock, label, rng)
    }

    /// Adds a slot for `bundle`, an owner's or reader's: one that [`Repository::draw_rotation`] gave, before it counts.
    /// The label has at most 255 bytes and stands in clear.
    pub fn add_slot_of(&self, bundle: &Bundle, lock: NewLock<'_>, label: &[u8], rng: &mut dyn Rng) -> Result<SlotId> {
        self.root("add a key slot")?;
        if label.len() > 255 {
            return Err(Error::Invalid("the label of a key slot has at most 255 bytes".into()));
        }
        let id = SlotId::from_bytes(draw(rng));
        let (lock, opener) = match lock {
            NewLock::Passphrase(text, params) => {
                let salt = draw(rng);
                let opener = kdf::derive_passphrase(text, &salt, params).map_err(|e| Error::Invalid(e.to_string()))?;
                (Lock::Passphrase { salt, params }, opener)
            }
            NewLock::RecoveryCode(code) => (Lock::RecoveryCode, code.key()),
            NewLock::Recipient(public) => {
                let secret = Secret::random(rng);
                let stanza = kem::seal_to(public, rng, "copal 1 key slot recipient", &secret);
                (Lock::Recipient(Box::new(stanza)), secret)
            }
        };
        let slot = Slot::wrap(bundle, id, self.options.clock.now(), label, lock, &opener);
        self.bridge.wait(self.store.put_new(&key(objects::slot(id)), slot.encode().into()))?;
        Ok(id)
    }

    /// Removes a slot. Whether any other way to open the repository is left is the caller's to think of: a key file may be.
    pub fn remove_slot(&self, id: SlotId) -> Result<()> {
        self.root("remove a key slot")?;
        let object = key(objects::slot(id));
        self.bridge.wait(self.store.head(&object))?;
        Ok(self.bridge.wait(self.store.delete(&object))?)
    }

    /// Whether a passphrase opens a slot. Blocks while its key is derived.
    pub fn opens(&self, slot: &Slot, passphrase: &[u8]) -> Result<bool> {
        let Lock::Passphrase { salt, params } = &slot.lock else { return Ok(false) };
        let opener = kdf::derive_passphrase(passphrase, salt, *params).map_err(|e| Error::Invalid(e.to_string()))?;
        Ok(slot.open(&opener).is_some())
    }

    /// The bundle of an owner or reader.
    pub fn bundle_for(&self, role: Role) -> Result<Bundle> {
        self.root("hand out keys")?;
        match role {
            Role::Owner => Ok(self.bundle.clone()),
            Role::Reader => Ok(Bundle { role, root_seed: None, ..self.bundle.clone() }),
            Role::Writer | Role::Maintainer => {
                Err(Error::Invalid("writers and maintainers get keys of their own: enroll one".into()))
            }
        }
    }

    /// Makes a new writer or maintainer and enrolls it; its bundle.
    pub fn enroll_new(&mut self, role: Role, rng: &mut dyn Rng) -> Result<Bundle> {
        self.root("enroll a writer")?;
        let own = Identity { id: WriterId::from_bytes(draw(rng)), seed: Secret::random(rng) };
        let domain = match role {
            Role::Writer => self.bundle.domain.clone(),
            Role::Maintainer => Domain { d_id: None, d_chunk: None, d_idx: self.bundle.domain.d_idx.clone() },
            _ => return Err(Error::Invalid("only writers and maintainers are enrolled".into())),
        };
        self.enroll(&own, role == Role::Maintainer)?;
        Ok(Bundle { role, domain, root_seed: None, read_seed: None, identity: Some(own), ..self.bundle.clone() })
    }

    /// Ends trust in a writer or maintainer. Sessions that it has committed so far count, unless `trusted` names an
    /// earlier last one (0: none). It still knows D_id, D_idx and D_chunk, and its credentials of the store must be
    /// changed there.
    pub fn revoke(&mut self, id: WriterId, trusted: Option<u64>) -> Result<Option<SessionId>> {
        if self.config.member(id).is_none() {
            return Err(Error::NotFound(format!("no writer or maintainer {id} is enrolled")));
        }
        let sessions = self.committed_sessions(id)?;
        let last = match trusted {
            None => sessions.last().copied(),
            Some(n) => sessions.into_iter().rfind(|s| s.n <= n),
        };
        // Bases that it has signed so far count on.
        let base = self.newest_base()?.n;
        self.change_config("revoke a writer", |config| {
            let member = config.members.iter_mut().find(|m| m.id == id).expect("looked up before");
            member.revoked = Some(Revocation { base, last });
            Ok(())
        })?;
        Ok(last)
    }

    fn committed_sessions(&self, id: WriterId) -> Result<Vec<SessionId>> {
        let listed = self.bridge.wait(list_all(self.store.as_ref(), &format!("snap/{id}/")))?;
        let session = |l: &crate::store::Listed| match objects::parse(l.key.as_str()) {
            Some(Parsed::Snapshot(_, session)) => Some(session),
            _ => None,
        };
        Ok(listed.iter().filter_map(session).collect())
    }

    /// Draws a new READ pair: the owner's bundle with it. Nothing is changed yet: the caller stores the bundle first, where
    /// it will be found again, then calls [`Repository::rotate_to`].
    pub fn draw_rotation(&self, rng: &mut dyn Rng) -> Result<Bundle> {
        self.root("rotate keys")?;
        Ok(Bundle { read_seed: Some(Secret::random(rng)), ..self.bundle.clone() })
    }

    /// Whether a rotation of this owner's that was cut off may have drawn `found`: its READ pair is another one, which is current
    /// or never was a recipient's.
    pub fn was_drawn(&self, found: &Bundle) -> bool {
        let is_owners = found.role == Role::Owner
            && (found.repository, found.root) == (self.bundle.repository, self.bundle.root)
            && found.root_seed == self.bundle.root_seed;
        let Some(seed) = found.read_seed.clone().filter(|_| is_owners && found.read_seed != self.bundle.read_seed)
        else {
            return false;
        };
        let public = ReadSecret::from_seed(seed).public().clone();
        let known = self.config.recipients.iter().rposition(|r| r.public == public);
        known.is_none_or(|at| at + 1 == self.config.recipients.len())
    }

    /// Lets new sessions seal to the pair of `next`; what older ones sealed opens with it too. Older bundles and slots keep
    /// opening what was stored before, and nothing newer. Where that pair is the current one already, nothing is changed.
    pub fn rotate_to(&mut self, next: Bundle, rng: &mut dyn Rng) -> Result<()> {
        let seed = next.read_seed.clone().expect("an owner's bundle");
        if let Ok(read) = super::open::read_secrets(&self.config, &seed)
            && read.len() == self.config.recipients.len()
        {
            (self.read, self.bundle) = (read, next);
            return Ok(());
        }
        let (new, old) =
            (ReadSecret::from_seed(seed.clone()), self.bundle.read_seed.clone().expect("an owner's bundle"));
        let old_public = ReadSecret::from_seed(old.clone()).public().clone();
        let stanza = kem::seal_to(new.public(), rng, "copal 1 recipient", &old);
        let public = new.public().clone();
        self.change_config("rotate keys", |config| {
            let last = config.recipients.last_mut().expect("there is one");
            if last.public != old_public {
                return Err(Error::Busy(
                    "the keys were rotated by somebody else meanwhile; open it with the new key".into(),
                ));
            }
            last.handed_on = Some(stanza.clone());
            config.recipients.push(Recipient { public: public.clone(), handed_on: None });
            Ok(())
        })?;
        self.read = super::open::read_secrets(&self.config, &seed)?;
        self.bundle = next;
        Ok(())
    }
}
