//! The engine above `Store` and clock, whole and unchanged, in a world that is drawn from one seed: several writers, prunes,
//! forgets and readers, whose calls are interleaved at will, fail, come late, come twice; whose processes die and sleep for
//! months. After each schedule it is judged what everybody was promised (docs/protocol.md "Simulation").
//!
//! ```text
//! COPAL_SIM_SEED=7 cargo test -p copal-engine --test sim one_seed -- --ignored --nocapture   what happens in one schedule
//! tests/long sim 1000000 7                                                                   many, from that seed on
//! ```
#![allow(missing_docs, unreachable_pub)]

mod actors;
mod book;
mod dice;
mod image;
mod judge;
mod mutants;
mod schedule;
mod store;
mod world;

use std::time::Instant;

use crate::image::Images;
use crate::mutants::Mutant;
use crate::schedule::{Totals, many, run};

/// Schedules of every run of the tests.
const SCHEDULES: u64 = 10_000;
/// Schedules within which each mutant must be found.
const MUTANT_WITHIN: u64 = 1000;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

fn report(totals: &Totals, begun: Instant) {
    let n = totals.schedules.max(1);
    println!("{n} schedules in {:.0} s, {} calls each", begun.elapsed().as_secs_f64(), totals.counts.ops / n);
    println!("{:?}, {} committed, {} forgotten", totals.counts, totals.committed, totals.forgotten);
    println!("created: {:?}", totals.created);
    totals.ends.iter().for_each(|(how, n)| println!("{n:8} {how}"));
    println!("leaks: {} {:?}", totals.leaked.len(), &totals.leaked[..totals.leaked.len().min(20)]);
}

#[test]
fn nothing_that_was_reported_is_lost() {
    let (images, begun) = (Images::make(), Instant::now());
    let (first, count) = (number("COPAL_SIM_SEED").unwrap_or(1), number("COPAL_SIM_COUNT").unwrap_or(SCHEDULES));
    let totals = many(&images, first, count, None, 10);
    report(&totals, begun);
    assert_eq!(totals.failed, [0; 0], "these seeds fail; COPAL_SIM_SEED=<seed> and the test one_seed show how");
}

#[test]
fn a_seed_is_one_schedule() {
    let images = Images::make();
    for seed in 0..200 {
        let (one, other) = (run(&images, seed, None, false), run(&images, seed, None, false));
        if one.trace != other.trace {
            let at = one.log.iter().zip(&other.log).position(|(a, b)| a != b).unwrap_or(0);
            let lines = |log: &[String]| log[at.saturating_sub(6)..log.len().min(at + 3)].join("\n");
            panic!("seed {seed} differs:\n{}\n---\n{}", lines(&one.log), lines(&other.log));
        }
        let objects = |o: &schedule::Outcome| o.memory.snapshot().into_keys().collect::<Vec<_>>();
        assert_eq!(objects(&one), objects(&other), "seed {seed}");
    }
}

#[test]
fn what_breaks_the_protocol_is_found() {
    let images = Images::make();
    for mutant in Mutant::ALL {
        let begun = Instant::now();
        let totals = many(&images, 1, MUTANT_WITHIN, Some(mutant), 1);
        let seconds = begun.elapsed().as_secs_f64();
        println!("{mutant:?}: found after {} schedules, {seconds:.1} s: {:?}", totals.schedules, totals.failed);
        assert!(!totals.failed.is_empty(), "{mutant:?} is not found");
    }
}

/// Shows one schedule.
#[test]
#[ignore = "for looking into a seed"]
fn one_seed() {
    let images = Images::make();
    let outcome = run(&images, number("COPAL_SIM_SEED").expect("COPAL_SIM_SEED is the seed"), None, true);
    println!("{}", outcome.tell());
}
