//! Every rule is needed: without it the checker finds a failure where the whole protocol has none.

use std::collections::HashMap;

use copal_protocol_model::config::Config;
use copal_protocol_model::mutants::RULES;
use copal_protocol_model::run::{check_depth_first, configurations};

const THREADS: usize = 1;
/// States generated at most in a configuration of a rule that must be clean: the largest ones are cut here.
const CLEAN_MAX: usize = 8_000_000;
/// Far above what any of these generates (some 20 million): reaching it would mean that a run was cut short.
const STATES_MAX: usize = 200_000_000;

#[test]
fn every_rule_is_needed() {
    let mut survivors = Vec::new();
    for rule in RULES {
        let config = Config { mutant: Some(rule.mutant), ..rule.config.clone() };
        if check_depth_first(&config, THREADS, STATES_MAX).failed.is_empty() {
            survivors.push(rule.id);
        }
    }
    assert!(survivors.is_empty(), "no failure was found without {survivors:?}");
}

#[test]
fn with_every_rule_the_same_configurations_are_clean() {
    let mut seen = HashMap::new();
    for rule in RULES {
        seen.entry(format!("{:?}", rule.config)).or_insert(rule);
    }
    for rule in seen.values() {
        let outcome = check_depth_first(&rule.config, THREADS, CLEAN_MAX);
        assert!(outcome.failed.is_empty(), "the configuration of {} fails: {:?}", rule.id, outcome.failed);
    }
}

#[test]
fn small_configurations_are_clean() {
    for config in configurations().iter().filter(|config| QUICK.contains(&config.name)) {
        let outcome = check_depth_first(config, THREADS, STATES_MAX);
        assert!(outcome.complete && outcome.failed.is_empty(), "{}: {:?}", config.name, outcome.failed);
    }
}

/// The named configurations of under a second or so each.
const QUICK: [&str; 6] = ["one", "duplicates", "merge-chain", "lossy", "fold", "two"];

#[test]
fn the_same_states_are_found_breadth_first_and_depth_first() {
    let config = Config::SMALL;
    let broad = copal_protocol_model::run::check(&config, THREADS, STATES_MAX);
    assert_eq!(broad.states, check_depth_first(&config, THREADS, STATES_MAX).states);
    assert!(broad.states > 5_000, "the model lost most of its states: {}", broad.states);
}

#[test]
fn a_run_that_is_cut_short_says_so() {
    let outcome = check_depth_first(&Config::SMALL, 1, 1_000);
    assert!(!outcome.complete);
}
