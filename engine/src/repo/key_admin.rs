//! Keys after `init`: slots, bundles for other roles, revocation, rotation (docs/format.md "Key slots", "Config").

use zeroize::Zeroizing;

use crate::crypto::kdf::{self, Argon2Params, RecoveryCode};
use crate::crypto::kem::{self, ReadSecret};
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
    Passphrase(&'a Zeroizing<Vec<u8>>, Argon2Params),
    /// A code for the paper.
    RecoveryCode(&'a RecoveryCode),
}

impl Repository {
    /// Wraps this owner's keys (or, for [`Role::Reader`], the part of them that reads) in a new slot.
    ///
    /// Blocks while the passphrase's key is derived. `label` is stored in clear, 255 bytes at most.
    pub fn add_slot(&self, lock: NewLock<'_>, role: Role, label: &[u8], rng: &mut dyn Rng) -> Result<SlotId> {
        self.add_slot_of(&self.reading_bundle(role)?, lock, label, rng)
    }

    fn add_slot_of(&self, bundle: &Bundle, lock: NewLock<'_>, label: &[u8], rng: &mut dyn Rng) -> Result<SlotId> {
        if label.len() > 255 {
            return Err(Error::Invalid("a label of a key has at most 255 bytes".into()));
        }
        let (lock, opener) = match lock {
            NewLock::Passphrase(text, params) => {
                let salt = draw(rng);
                let opener =
                    kdf::derive_passphrase(text, &salt, params).map_err(|e| Error::Invalid(e.to_string()))?;
                (Lock::Passphrase { salt, params }, opener)
            }
            NewLock::RecoveryCode(code) => (Lock::RecoveryCode, code.key()),
        };
        let id = SlotId::from_bytes(draw(rng));
        let slot = Slot::wrap(bundle, id, super::init::now(), label, lock, &opener);
        self.bridge.wait(self.store.put_new(&key(objects::slot(id)), slot.encode().into()))?;
        Ok(id)
    }

    /// Removes a slot. Who has opened the repository with it, or kept its bytes, knows what it wrapped: only
    /// [`Repository::rotate`] shuts them out of what is backed up later.
    pub fn remove_slot(&self, id: SlotId) -> Result<()> {
        self.root("remove a key")?;
        Ok(self.bridge.wait(self.store.delete(&key(objects::slot(id))))?)
    }

    /// The keys of `role`, owner or reader, out of these.
    pub fn reading_bundle(&self, role: Role) -> Result<Bundle> {
        match (self.role(), role) {
            (Role::Owner, Role::Owner) | (Role::Reader, Role::Reader) => Ok(self.bundle.clone()),
            (Role::Owner, Role::Reader) => Ok(Bundle { role, root_seed: None, ..self.bundle.clone() }),
            (_, Role::Writer | Role::Maintainer) => {
                Err(Error::Invalid("a writer or maintainer is enrolled, and has no slot".into()))
            }
            (own, _) => Err(Error::NotAllowed { role: own.as_str(), what: "hand on these keys", needed: "owner" }),
        }
    }

    /// Draws and enrolls a new writer or maintainer; its bundle.
    pub fn enroll_member(&mut self, role: Role, rng: &mut dyn Rng) -> Result<Bundle> {
        let maintainer = match role {
            Role::Writer => false,
            Role::Maintainer => true,
            _ => return Err(Error::Invalid(format!("{} is no role to enroll; export it", role.as_str()))),
        };
        self.root("enroll somebody")?;
        let who = Identity { id: WriterId::from_bytes(draw(rng)), seed: Secret::random(rng) };
        self.enroll(&who, maintainer)?;
        let domain = match maintainer {
            true => Domain { d_id: None, d_chunk: None, ..self.bundle.domain.clone() },
            false => self.bundle.domain.clone(),
        };
        let own = self.bundle.clone();
        Ok(Bundle { role, domain, root_seed: None, read_seed: None, identity: Some(who), ..own })
    }

    /// Ends the trust in a writer or maintainer: sessions after the last one that is committed now do not count.
    ///
    /// It keeps knowing D_id, D_idx and D_chunk, and its credentials of the store keep working until they are changed.
    pub fn revoke(&mut self, who: WriterId) -> Result<Option<SessionId>> {
        let Some(member) = self.config.member(who) else {
            return Err(Error::NotFound(format!("no writer {} is enrolled; copal key list shows them", who.short())));
        };
        if member.revoked.is_some() {
            return Err(Error::Invalid(format!("writer {} is revoked already", who.short())));
        }
        self.root("revoke a writer")?;
        let listed = self.bridge.wait(list_all(self.store.as_ref(), &format!("snap/{who}/")))?;
        let last = listed
            .iter()
            .filter_map(|l| match objects::parse(l.key.as_str()) {
                Some(Parsed::Snapshot(_, session)) => Some(session),
                _ => None,
            })
            .max();
        self.change_config("revoke a writer", |config| {
            if let Ok(at) = config.members.binary_search_by_key(&who, |m| m.id) {
                config.members[at].revoked.get_or_insert(Revocation { base: 0, last });
            }
            Ok(())
        })?;
        Ok(last)
    }

    /// Replaces READ: what is backed up from now on opens only with the new pair, which also opens all before it.
    ///
    /// `keep` is given the new bundle **before** any session can be sealed to it, and must make it durable: if it is lost,
    /// later backups cannot be read by anybody. Slots and files with the older pair still open all older snapshots.
    pub fn rotate(
        &mut self,
        rng: &mut dyn Rng,
        keep: impl FnOnce(&Self, &Bundle, &mut dyn Rng) -> Result<()>,
    ) -> Result<()> {
        self.root("rotate the read key")?;
        let current = self.read.first().map(ReadSecret::public).cloned();
        if current.as_ref() != Some(self.config.recipient()) {
            return Err(Error::WrongKey(
                "this key is older than the last rotation; use the one that was made then".into(),
            ));
        }
        let (old_seed, seed) = (self.bundle.read_seed.clone().expect("an owner's"), Secret::random(rng));
        let new = ReadSecret::from_seed(seed.clone());
        let bundle = Bundle { read_seed: Some(seed), ..self.bundle.clone() };
        keep(self, &bundle, rng)?;
        let handed_on = kem::seal_to(new.public(), rng, "copal 1 recipient", &old_seed);
        self.change_config("rotate the read key", |config| {
            let last = config.recipients.last_mut().expect("checked when decoded");
            if Some(&last.public) != current.as_ref() {
                return Err(Error::Busy("somebody else rotated the read key meanwhile; open the repository again".into()));
            }
            last.handed_on = Some(handed_on.clone());
            config.recipients.push(Recipient { public: new.public().clone(), handed_on: None });
            Ok(())
        })?;
        self.bundle = bundle;
        self.read.insert(0, new);
        Ok(())
    }

    /// Wraps a bundle that [`Repository::rotate`] made in a slot.
    pub fn add_slot_for(&self, bundle: &Bundle, lock: NewLock<'_>, label: &[u8], rng: &mut dyn Rng) -> Result<SlotId> {
        self.root("add a key")?;
        self.add_slot_of(bundle, lock, label, rng)
    }

    /// Whether a passphrase opens a slot. Blocks while its key is derived.
    pub fn opens(&self, slot: &Slot, passphrase: &[u8]) -> Result<bool> {
        let Lock::Passphrase { salt, params } = &slot.lock else { return Ok(false) };
        let opener = kdf::derive_passphrase(passphrase, salt, *params).map_err(|e| Error::Invalid(e.to_string()))?;
        Ok(slot.open(&opener).is_some())
    }
}
