//! Worlds in which something is wrong that the protocol rests on: each must be found, or the simulation sees nothing.

use bytes::Bytes;
use copal_engine::crypto::secret::Secret;
use copal_engine::crypto::sign::SigningKey;
use copal_engine::format::gc::{Ack, At, Kind};
use copal_engine::format::keys::GraphKeys;
use copal_engine::format::objects::{self, Parsed};
use copal_engine::id::{RepositoryId, WriterId};
use copal_engine::store::StoreError;

use crate::image::Keys;

use crate::ask::{Answer, Answered, Ask};
use crate::world::State;

/// What a store does that it must not, or that an actor does not see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// Pins are acknowledged and not kept (W1).
    PinsLost,
    /// LISTs for a prune leave out the newest pin, again and again (P3a).
    PinHidden,
    /// Sessions are not shown what stands under `gc/` (W2a).
    CondemnsHidden,
    /// A prune is told that every session has ended (P3b).
    AllEnded,
    /// Acks are kept, but with no answer for a prune: it is told of one without claims (P4a).
    AcksWithoutClaims,
    /// Tombstones are acknowledged and not kept (P3c).
    TombstonesLost,
    /// Creating overwrites, where sessions end (W6a).
    SnapshotsOverwrite,
    /// Nobody but prunes is shown the newest base (W3d).
    NewestBaseHidden,
    /// Snapshots are forgotten that nobody wanted to forget.
    ForgetsUnasked,
    /// Sessions are not shown whom a fence names (N8, N11).
    NamesHidden,
}

impl Mutant {
    pub const ALL: [Self; 10] = [
        Self::PinsLost,
        Self::PinHidden,
        Self::CondemnsHidden,
        Self::AllEnded,
        Self::AcksWithoutClaims,
        Self::TombstonesLost,
        Self::SnapshotsOverwrite,
        Self::NewestBaseHidden,
        Self::ForgetsUnasked,
        Self::NamesHidden,
    ];

    /// What is answered instead of the truth.
    pub fn answer(self, state: &mut State, actor: usize, ask: &Ask) -> Option<Answered> {
        let prunes = state.actors[actor].name.starts_with("pruner");
        let parsed = objects::parse(ask.key());
        let of_others = |state: &State| {
            let name = ask.key().split_once('/').map_or("", |(_, name)| name);
            !state.actors[actor].pins.iter().any(|pin| pin == name)
        };
        match (self, ask) {
            (Self::PinsLost, Ask::PutNew(..)) if !prunes && matches!(parsed, Some(Parsed::Pin(..))) => {
                Some(Ok(Answer::Done))
            }
            (Self::PinHidden, Ask::List(prefix, _)) if prunes && prefix == "pin/" => {
                let newest =
                    state.created.iter().rev().find(|k| matches!(objects::parse(k.as_str()), Some(Parsed::Pin(..))));
                let newest = newest.map_or(String::new(), |k| k.as_str().to_owned());
                without(state.apply(ask), &|key| key.starts_with(&newest))
            }
            (Self::CondemnsHidden, Ask::List(prefix, _)) if !prunes && prefix == "gc/" => {
                without(state.apply(ask), &|_| true)
            }
            (Self::NamesHidden, Ask::List(prefix, _)) if !prunes && prefix == "gc/" => {
                without(state.apply(ask), &|key| key.ends_with(".fence"))
            }
            (Self::AllEnded, Ask::Head(_)) if prunes && ask.key().starts_with("snap/") && of_others(state) => {
                Some(Ok(Answer::Size(1)))
            }
            (Self::AcksWithoutClaims, Ask::PutNew(key, _)) if !prunes && matches!(parsed, Some(Parsed::Ack(..))) => {
                let empty = state.forge.as_ref().map(|forge| forge.empty_ack(key.as_str()));
                empty.map(|body| state.apply(&Ask::PutNew(key.clone(), body)))
            }
            (Self::TombstonesLost, Ask::PutNew(..)) if prunes && ask.key().starts_with("snap/") && of_others(state) => {
                Some(Ok(Answer::Done))
            }
            (Self::SnapshotsOverwrite, Ask::PutNew(key, body)) if key.as_str().starts_with("snap/") => {
                Some(state.apply(&Ask::Put(key.clone(), body.clone())))
            }
            (Self::NewestBaseHidden, _) if !prunes && ask.key().starts_with("base/") => hide_newest_base(state, ask),
            _ => None,
        }
    }
}

fn without(answer: Answered, hidden: &dyn Fn(&str) -> bool) -> Option<Answered> {
    Some(answer.map(|answer| match answer {
        Answer::Page(mut page) => {
            page.objects.retain(|l| !hidden(l.key.as_str()));
            Answer::Page(page)
        }
        other => other,
    }))
}

fn hide_newest_base(state: &mut State, ask: &Ask) -> Option<Answered> {
    let newest = state.created.iter().filter(|k| k.as_str().starts_with("base/")).max()?.clone();
    match ask {
        Ask::Get(key, _) if *key == newest => Some(Err(StoreError::NotFound { key: key.clone() })),
        Ask::List(..) => without(state.apply(ask), &|key| key == newest.as_str()),
        _ => None,
    }
}

/// Everybody's keys, for acks that nobody has written.
pub struct Forge {
    repository: RepositoryId,
    graph: GraphKeys,
    seeds: Vec<(WriterId, Secret)>,
}

impl Forge {
    pub fn new(keys: &Keys) -> Self {
        let everybody = keys.writers.iter().chain([&keys.owner, &keys.maintainer]);
        let seeds = everybody.map(|(_, own)| (own.id, own.seed.clone())).collect();
        let bundle = &keys.owner.0;
        Self { repository: bundle.repository, graph: GraphKeys::new(&bundle.domain.d_idx), seeds }
    }

    fn empty_ack(&self, object: &str) -> Bytes {
        let Some(Parsed::Ack(writer, ..)) = objects::parse(object) else { unreachable!("asked for acks only") };
        let (_, seed) = self.seeds.iter().find(|(id, _)| *id == writer).expect("everybody is known");
        let at = At { repository: self.repository, object, keys: &self.graph };
        Ack { claims: Vec::new() }.encode(at, writer, &SigningKey::from_seed(seed.clone())).into()
    }
}
