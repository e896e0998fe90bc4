//! Which packs go: pure.

use std::str::FromStr;

use crate::format::gc::PackRef;

use super::facts::{Facts, PackUse};

/// Smaller packs are copied together, of data and of all else, in bytes.
const SMALL: [u64; 2] = [4 << 20, 1 << 20];
/// So many small ones of a kind are worth it.
const MANY: usize = 16;

/// How much may stay unused.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// In percent of what is used.
    Percent(f64),
    /// In bytes.
    Bytes(u64),
    /// Only whole packs are given up.
    Unlimited,
}

impl Limit {
    fn bytes(self, used: u64) -> u64 {
        match self {
            Self::Percent(percent) => (used as f64 * percent / 100.0) as u64,
            Self::Bytes(bytes) => bytes,
            Self::Unlimited => u64::MAX,
        }
    }
}

impl FromStr for Limit {
    type Err = String;

    /// `5%`, `unlimited`, or bytes with a suffix K, M, G or T (of 1024).
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no limit: give 5%, 200M or unlimited");
        if text == "unlimited" {
            return Ok(Self::Unlimited);
        }
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.trim().parse().map_err(|_| wrong())?;
            return if (0.0..=10_000.0).contains(&percent) { Ok(Self::Percent(percent)) } else { Err(wrong()) };
        }
        let (digits, shift) = match text.char_indices().last() {
            Some((at, last)) if !last.is_ascii_digit() => {
                let shift = "KMGT".find(last.to_ascii_uppercase()).ok_or_else(wrong)?;
                (&text[..at], 10 * (shift as u32 + 1))
            }
            _ => (text, 0),
        };
        let bytes: u64 = digits.parse().map_err(|_| wrong())?;
        bytes.checked_mul(1 << shift).map(Self::Bytes).ok_or_else(wrong)
    }
}

/// What a plan goes by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// How much may stay unused.
    pub max_unused: Limit,
    /// How much is copied at most, in bytes; `None`: as much as that takes.
    pub max_repack: Option<u64>,
}

impl Default for Policy {
    fn default() -> Self {
        Self { max_unused: Limit::Percent(5.0), max_repack: None }
    }
}

/// What goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Packs of which nothing is needed, sorted by id.
    pub drop: Vec<PackRef>,
    /// Packs of which the rest is copied first, sorted by id.
    pub repack: Vec<PackRef>,
    /// Packs that nothing publishes, sorted by id.
    pub unlisted: Vec<PackRef>,
    /// How much that is.
    pub counts: Counts,
}

/// A plan in numbers, all in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// All packs that are published, whole.
    pub stored: u64,
    /// Frames that are needed.
    pub used: u64,
    /// Frames that are not, as it is.
    pub unused: u64,
    /// And once the plan is carried out.
    pub unused_after: u64,
    /// Packs that are dropped, whole.
    pub drop: u64,
    /// Packs that are repacked, whole.
    pub repack: u64,
    /// Frames that are copied from those.
    pub copied: u64,
    /// Packs that nothing publishes.
    pub unlisted: u64,
    /// Of all that goes, what nobody has forgotten and no interrupted backup has left.
    pub unexplained: u64,
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.drop.is_empty() && self.repack.is_empty() && self.unlisted.is_empty()
    }

    /// All packs that go.
    pub fn condemned(&self) -> Vec<PackRef> {
        [&self.drop[..], &self.repack, &self.unlisted].concat()
    }
}

/// Drops what nobody needs; then copies what is needed out of the emptiest packs until no more stays unused than may, and
/// many small packs into few.
pub fn plan_prune(facts: &Facts, policy: &Policy) -> Plan {
    let sum = |of: fn(&PackUse) -> u64| facts.packs.iter().map(of).sum::<u64>();
    let mut counts = Counts {
        stored: sum(|p| p.at.size),
        used: sum(|p| p.used),
        unused: sum(|p| p.unused),
        unlisted: facts.unlisted.iter().map(|p| p.size).sum(),
        unexplained: facts.unlisted_unexplained,
        ..Counts::default()
    };
    let (needed, dropped): (Vec<&PackUse>, Vec<&PackUse>) = facts.packs.iter().partition(|p| p.used > 0);
    let mut after = needed.iter().map(|p| p.unused).sum::<u64>();
    let limit = policy.max_unused.bytes(counts.used);
    let mut left = policy.max_repack.unwrap_or(u64::MAX);
    let mut repacked: Vec<&PackUse> = Vec::new();
    for pack in emptiest_first(&needed) {
        if after <= limit {
            break;
        }
        if pack.unused > 0 && pack.used <= left {
            (left, after) = (left - pack.used, after - pack.unused);
            repacked.push(pack);
        }
    }
    for pack in small(&needed, &repacked) {
        if pack.used <= left {
            (left, after) = (left - pack.used, after - pack.unused);
            repacked.push(pack);
        }
    }
    counts.unused_after = after;
    counts.drop = dropped.iter().map(|p| p.at.size).sum();
    counts.repack = repacked.iter().map(|p| p.at.size).sum();
    counts.copied = repacked.iter().map(|p| p.used).sum();
    counts.unexplained += dropped.iter().chain(&repacked).map(|p| p.unexplained).sum::<u64>();
    let sorted = |packs: Vec<&PackUse>| {
        let mut packs: Vec<PackRef> = packs.into_iter().map(|p| p.at).collect();
        packs.sort_unstable();
        packs
    };
    Plan { drop: sorted(dropped), repack: sorted(repacked), unlisted: facts.unlisted.clone(), counts }
}

fn emptiest_first<'p>(packs: &[&'p PackUse]) -> Vec<&'p PackUse> {
    let mut packs = packs.to_vec();
    // Shares are compared as products, so that no rounding decides.
    packs.sort_by(|a, b| {
        let (of_a, of_b) = (u128::from(a.unused) * u128::from(b.used), u128::from(b.unused) * u128::from(a.used));
        of_b.cmp(&of_a).then(a.at.id.cmp(&b.at.id))
    });
    packs
}

/// Small packs that are not copied anyway, where there are many of a kind.
fn small<'p>(packs: &[&'p PackUse], repacked: &[&PackUse]) -> Vec<&'p PackUse> {
    let of_kind = |data: bool| {
        let limit = SMALL[usize::from(!data)];
        let is_small = |p: &&&PackUse| p.data == data && p.at.size < limit && repacked.iter().all(|r| r.at != p.at);
        packs.iter().filter(is_small).copied().collect::<Vec<_>>()
    };
    [of_kind(true), of_kind(false)].into_iter().filter(|small| small.len() >= MANY).flatten().collect()
}

#[cfg(test)]
mod tests;
