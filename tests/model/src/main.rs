//! Explores the named configurations, or the mutants, and prints what was found.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use copal_protocol_model::config::Config;
use copal_protocol_model::mutants::RULES;
use copal_protocol_model::run::{Outcome, check, configurations};

const USAGE: &str = "\
usage: copal-protocol-model list               the configurations
       copal-protocol-model run [NAME...]      explore these (default: all); every one must be clean
       copal-protocol-model mutants [RULE...]  explore without these rules (default: each in turn); every one must fail

COPAL_MODEL_STATES bounds the states generated in one run (default 2000000000), COPAL_MODEL_THREADS the threads.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((verb, names)) = arguments.split_first() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let as_wanted = match verb.as_str() {
        "list" => configurations().iter().map(|config| println!("{config:?}")).count() > 0,
        "run" => run(names),
        "mutants" => mutants(names),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    if as_wanted { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(names: &[String]) -> bool {
    let chosen: Vec<Config> = configurations().into_iter().filter(|config| wanted(names, config.name)).collect();
    let mut clean = !chosen.is_empty();
    for config in chosen {
        let outcome = explore(&config);
        report(config.name, &outcome);
        clean &= outcome.failed.is_empty() && outcome.complete;
    }
    clean
}

fn mutants(names: &[String]) -> bool {
    let mut killed = true;
    for rule in RULES.iter().filter(|rule| wanted(names, rule.id)) {
        let outcome = explore(&Config { mutant: Some(rule.mutant), ..rule.config.clone() });
        report(&format!("without {} {:?}", rule.id, rule.mutant), &outcome);
        killed &= !outcome.failed.is_empty();
    }
    killed
}

fn wanted(names: &[String], name: &str) -> bool {
    names.is_empty() || names.iter().any(|wanted| wanted == name)
}

fn explore(config: &Config) -> Outcome {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    check(config, number("COPAL_MODEL_THREADS", cores), number("COPAL_MODEL_STATES", 2_000_000_000))
}

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn report(name: &str, outcome: &Outcome) {
    let verdict = match (outcome.failed.is_empty(), outcome.complete) {
        (true, true) => "clean",
        (true, false) => "CUT SHORT",
        (false, _) => "FAILS",
    };
    let seconds = outcome.took.as_secs_f32();
    println!("{name}: {verdict}, {} states, depth {}, {seconds:.1} s", outcome.states, outcome.depth);
    for failure in &outcome.failed {
        println!("    {}", failure.property);
        if failure.path.is_empty() {
            println!("        no reachable state shows it");
        }
        for action in &failure.path {
            println!("        {action}");
        }
    }
}
