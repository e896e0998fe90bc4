//! The one stream that a schedule is drawn from, and what is drawn of it before it begins.

use std::time::Duration;

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `n` - 1; `n` is at least 1.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// True in so many of a thousand.
    pub fn in_thousand(&mut self, n: u32) -> bool {
        self.next() % 1000 < u64::from(n)
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// Between `least` and `most`, each order of magnitude as likely as any other.
    pub fn spread(&mut self, least: Duration, most: Duration) -> Duration {
        let part = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        least.mul_f64((most.as_secs_f64() / least.as_secs_f64()).powf(part))
    }
}

pub const SECOND: Duration = Duration::from_secs(1);
pub const HOUR: Duration = Duration::from_secs(3600);
pub const DAY: Duration = Duration::from_secs(24 * 3600);

/// What a schedule is made of: who takes part, and how often what goes wrong. Chances are in a thousand calls.
#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    /// Which of the images it begins with.
    pub image: usize,
    pub writers: usize,
    /// The first two writers are two processes with one key.
    pub shared_key: bool,
    pub pruners: usize,
    /// The first of them prunes with the owner's key; else all have one maintainer's.
    pub owner_prunes: bool,
    pub readers: usize,
    pub forgets: bool,
    pub checks: bool,
    /// Runs of each actor.
    pub runs: usize,
    /// All begin at once and again soon, and every prune forgets first: backups and prunes meet.
    pub contested: bool,
    /// About how long a backup takes for an entry, a prune for a pack.
    pub walk: Duration,
    /// How often the actor that went on last goes on.
    pub sticks: u32,
    /// About how long a call takes.
    pub latency: Duration,
    /// Keys in a page of a LIST.
    pub page: usize,
    /// Tries of a call that failed for now.
    pub attempts: u32,
    pub fails: u32,
    pub storms: u32,
    pub late: u32,
    pub repeats: u32,
    pub torn: u32,
    pub crashes: u32,
    pub sleeps: u32,
    pub jumps: u32,
    /// LISTs that are short or stale, at most.
    pub short_lists: u32,
    /// Objects of which a bit is flipped.
    pub flips: u32,
    /// The store ignores create-only, and there is one prune at a time.
    pub overwrites: bool,
}

impl Plan {
    pub fn draw(seed: u64) -> Self {
        let dice = &mut Dice::new(seed);
        let mut often = |chance: u32, rates: &[u32]| match dice.in_thousand(chance) {
            true => *dice.pick(rates),
            false => 0,
        };
        let (fails, storms) = (often(500, &[2, 10, 40]), often(250, &[2, 5]));
        let (late, repeats, torn) = (often(500, &[5, 20, 60]), often(400, &[5, 20, 60]), often(200, &[10, 50]));
        let (crashes, sleeps, jumps) = (often(500, &[3, 8, 20]), often(500, &[3, 10, 25]), often(200, &[5, 20]));
        let (short_lists, flips) = (often(300, &[1]), often(60, &[1, 2]));
        // The last image is of a store whose LISTs lag: only there is no end of them.
        let image = if dice.in_thousand(70) { 3 } else { dice.below(3) };
        let contested = dice.in_thousand(600);
        let mut plan = Self {
            seed,
            image,
            writers: *dice.pick(&[1, 1, 2, 2, 2, 3, 4]),
            shared_key: dice.in_thousand(250),
            pruners: if contested { 1 + dice.below(2) } else { dice.below(3) },
            contested,
            owner_prunes: dice.in_thousand(400),
            readers: *dice.pick(&[0, 0, 1]),
            forgets: dice.in_thousand(600),
            checks: dice.in_thousand(250),
            runs: *dice.pick(&[1, 2, 2, 3]),
            walk: *dice.pick(&[Duration::ZERO, SECOND, SECOND * 30, SECOND * 300]),
            sticks: *dice.pick(&[0, 500, 800, 950]),
            latency: *dice.pick(&[SECOND / 200, SECOND / 4, SECOND * 3]),
            page: *dice.pick(&[3, 1000, 1000]),
            attempts: *dice.pick(&[1, 4, 4, 8]),
            fails,
            storms,
            late,
            repeats,
            torn,
            crashes,
            sleeps,
            jumps,
            short_lists: if image == 3 { u32::MAX } else { short_lists },
            flips,
            overwrites: false,
        };
        // Drawn last, so that the other draws of a seed are what they were.
        if image != 3 && dice.in_thousand(120) {
            plan.overwrites = true;
            plan.image = 4;
            // Of two who forget at once one may be overruled (docs/limitations.md).
            (plan.pruners, plan.forgets) = (plan.pruners.min(1), false);
        }
        plan
    }
}
