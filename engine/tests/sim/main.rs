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
mod ask;
mod book;
mod dice;
mod faults;
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

/// Leaves the states of some schedules on the disk, as they were left by everybody, for a judge that shares no code with the
/// engine: `<dir>/<seed>/` is the repository, `<seed>.key` the owner's key, `<seed>.committed` the ids that must be there.
#[test]
#[ignore = "tests/reader calls it, with COPAL_SIM_STATES"]
fn leave_states() {
    let images = Images::make();
    let dir = std::path::PathBuf::from(std::env::var_os("COPAL_SIM_STATES").expect("COPAL_SIM_STATES is a directory"));
    let (first, count) = (number("COPAL_SIM_SEED").unwrap_or(1), number("COPAL_SIM_COUNT").unwrap_or(40));
    // Every so many, so that they are others than those that are looked at first.
    for seed in (0..count).map(|n| first + n * 500) {
        let outcome = run(&images, seed, None, false);
        // There the documents are broken on purpose.
        if outcome.plan.flips > 0 || outcome.plan.torn > 0 || outcome.late_base {
            continue;
        }
        for (key, body) in outcome.memory.snapshot() {
            let path = dir.join(seed.to_string()).join(key.as_str());
            std::fs::create_dir_all(path.parent().expect("keys have folders")).unwrap();
            std::fs::write(path, body).unwrap();
        }
        let owner = images.images[outcome.plan.image].keys.owner.0.to_text();
        std::fs::write(dir.join(format!("{seed}.key")), owner.as_bytes()).unwrap();
        let ids: Vec<String> = outcome.book.must_be_there().map(|(_, id)| id.to_string()).collect();
        std::fs::write(dir.join(format!("{seed}.committed")), ids.join("\n")).unwrap();
    }
}
