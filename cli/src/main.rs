//! `copal`: arguments, one call of the engine, printing, an exit code.
//!
//! ```text
//! args      what was typed; the environment; profile.rs: what the profile says      args.rs
//! context   where the repository is, which key opens it, what it may use            open.rs, which.rs, secret.rs
//! command   one file each in commands/; the engine does the work
//! errors    any error -> one message, one exit code                                 errors.rs
//! ```
//! Data goes to stdout, everything else to stderr.
#![forbid(unsafe_code)]

mod archive;
mod args;
mod bucket;
mod commands;
mod errors;
mod fuse;
mod group;
mod log;
mod node;
mod open;
mod output;
mod place;
mod profile;
mod progress;
mod secret;
mod select;
mod size;
mod sources;
mod time;
mod which;

use std::process::ExitCode;

fn main() -> ExitCode {
    protect_secrets();
    copal_engine::return_large_memory();
    let parsed = match profile::parse(std::env::args_os()) {
        Ok(parsed) => parsed,
        Err(errors::ParseError::Clap(e)) => e.exit(),
        Err(errors::ParseError::Other(e)) => return errors::report(&e, false),
    };
    let json = parsed.cli.global.json;
    log::start(parsed.cli.global.quiet, parsed.cli.global.verbose, parsed.cli.global.json);
    match commands::run(parsed) {
        Ok(outcome) => outcome.exit_code(),
        Err(e) => errors::report(&e, json),
    }
}

/// No core dump shall hold a key, and nobody may attach to the process. Where the system refuses, backups still work.
fn protect_secrets() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}
