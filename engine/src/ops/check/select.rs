//! Which packs are read, and in which order.

use std::time::Duration;

use crate::crypto::hash;
use crate::error::{Error, Result};
use crate::id::PackId;
use crate::repo::verdict::Verified;

use super::lists::Pack;

/// How much content is read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Read {
    /// None: what is listed and reachable is checked.
    Nothing,
    /// Every pack.
    All,
    /// Packs of the `n`th of `of` parts, 1 to `of`. A pack is always in the same part, so that all parts are everything.
    Part {
        /// Which part, from 1.
        n: u64,
        /// How many parts there are.
        of: u64,
    },
    /// Packs drawn by the seed until they have this share of all bytes: above 0, at most 100.
    Percent(f64),
    /// Packs drawn by the seed until they have this many bytes.
    Bytes(u64),
}

impl Read {
    /// Refuses parts and shares that make no sense.
    pub(super) fn validate(self) -> Result<()> {
        match self {
            Self::Part { n, of } if n == 0 || n > of => {
                Err(Error::Invalid(format!("there is no part {n} of {of}; parts go from 1 to {of}")))
            }
            Self::Percent(share) if !(share > 0.0 && share <= 100.0) => {
                Err(Error::Invalid(format!("{share} % makes no sense; give more than 0 and at most 100")))
            }
            _ => Ok(()),
        }
    }

    /// Whether the seed plays a part.
    pub fn is_drawn(self) -> bool {
        matches!(self, Self::Percent(_) | Self::Bytes(_))
    }
}

/// What is to be read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Positions in the list of packs: those never verified first, then those whose verdict is oldest.
    pub order: Vec<u32>,
    /// Packs that were chosen and left out because their verdict is young enough.
    pub fresh: u64,
}

/// Plans at time `now`, in seconds since 1970. Verdicts from the future count as none.
pub(super) fn plan(
    packs: &[Pack],
    read: Read,
    seed: u64,
    verified: &Verified,
    max_age: Option<Duration>,
    now: u64,
) -> Plan {
    let chosen: Vec<u32> = match read {
        Read::Nothing => Vec::new(),
        Read::All => (0..packs.len() as u32).collect(),
        Read::Part { n, of } => {
            (0..packs.len() as u32).filter(|at| number(&packs[*at as usize].id) % of == n - 1).collect()
        }
        Read::Percent(share) => {
            let all: u64 = packs.iter().map(|p| p.size).sum();
            drawn(packs, seed, (all as f64 * share / 100.0).ceil() as u64)
        }
        Read::Bytes(bytes) => drawn(packs, seed, bytes),
    };
    let at = |n: u32| verified.get(&packs[n as usize].id).copied().filter(|at| *at <= now);
    let is_fresh = |n: &u32| max_age.is_some_and(|age| at(*n).is_some_and(|at| now - at <= age.as_secs()));
    let (fresh, mut order): (Vec<u32>, Vec<u32>) = chosen.into_iter().partition(is_fresh);
    order.sort_by_key(|n| (at(*n), *n));
    Plan { order, fresh: fresh.len() as u64 }
}

fn number(id: &PackId) -> u64 {
    u64::from_be_bytes(id.as_bytes()[..8].try_into().expect("8 of 32 bytes"))
}

/// Packs in the order that the seed gives them, until they have so many bytes.
fn drawn(packs: &[Pack], seed: u64, bytes: u64) -> Vec<u32> {
    let mut order: Vec<(u64, u32)> = (0..packs.len() as u32)
        .map(|n| {
            let hash = hash::blake3(&[b"copal check", &seed.to_le_bytes(), packs[n as usize].id.as_bytes()]);
            (u64::from_le_bytes(hash[..8].try_into().expect("8 of 32 bytes")), n)
        })
        .collect();
    order.sort_unstable();
    let mut held = 0;
    let fits = |(_, n): &(u64, u32)| {
        let before = held;
        held += packs[*n as usize].size;
        before < bytes
    };
    order.into_iter().take_while(fits).map(|(_, n)| n).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{SessionId, WriterId};

    fn packs(count: u64) -> Vec<Pack> {
        let id = |n: u64| PackId::from_bytes(hash::blake3(&[&n.to_le_bytes()]));
        let (writer, session) = (WriterId::from_bytes([1; 16]), SessionId { n: 1, random: 1 });
        (0..count).map(|n| Pack { writer, session, seq: n, id: id(n), size: 100 + n }).collect()
    }

    fn order(packs: &[Pack], read: Read, seed: u64) -> Vec<u32> {
        plan(packs, read, seed, &Verified::new(), None, 1000).order
    }

    #[test]
    fn parts_are_everything_once() {
        let packs = packs(500);
        for of in [1, 2, 3, 7, 1000] {
            let mut all: Vec<u32> = (1..=of).flat_map(|n| order(&packs, Read::Part { n, of }, 0)).collect();
            all.sort_unstable();
            assert!(all.into_iter().eq(0..500), "{of} parts");
        }
    }

    #[test]
    fn shares_are_drawn_by_the_seed() {
        let packs = packs(500);
        let size = |order: &[u32]| order.iter().map(|n| packs[*n as usize].size).sum::<u64>();
        let total = size(&order(&packs, Read::All, 0));
        let tenth = order(&packs, Read::Percent(10.0), 1);
        assert!((total / 10..total / 10 + 700).contains(&size(&tenth)));
        assert_eq!(tenth, order(&packs, Read::Percent(10.0), 1));
        assert_ne!(tenth, order(&packs, Read::Percent(10.0), 2));
        assert_eq!(order(&packs, Read::Percent(100.0), 3).len(), 500);
        assert_eq!(order(&packs, Read::Bytes(1), 3).len(), 1);
        assert!(order(&packs, Read::Nothing, 3).is_empty());
    }

    #[test]
    fn the_oldest_verdict_goes_first_and_a_young_one_not_at_all() {
        let packs = packs(4);
        let verified: Verified = [(packs[0].id, 900), (packs[1].id, 500), (packs[3].id, 5000)].into_iter().collect();
        let all = plan(&packs, Read::All, 0, &verified, None, 1000);
        assert_eq!(all, Plan { order: vec![2, 3, 1, 0], fresh: 0 });
        let aged = plan(&packs, Read::All, 0, &verified, Some(Duration::from_secs(100)), 1000);
        assert_eq!(aged, Plan { order: vec![2, 3, 1], fresh: 1 });
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for bad in [Read::Part { n: 0, of: 3 }, Read::Part { n: 4, of: 3 }, Read::Percent(0.0), Read::Percent(f64::NAN)]
        {
            assert!(bad.validate().is_err(), "{bad:?}");
        }
        assert!(Read::Part { n: 3, of: 3 }.validate().is_ok() && Read::Percent(100.0).validate().is_ok());
    }
}
