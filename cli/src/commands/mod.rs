//! One file per command: its flags (their docs are the help), one call of the engine, printing.

pub(crate) mod backup;
pub(crate) mod cache;
pub(crate) mod cat;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod copy;
pub(crate) mod diff;
pub(crate) mod dump;
mod edit;
pub(crate) mod find;
pub(crate) mod forget;
pub(crate) mod init;
pub(crate) mod key;
mod key_rotate;
pub(crate) mod list;
pub(crate) mod ls;
pub(crate) mod man;
pub(crate) mod mount;
pub(crate) mod policy;
pub(crate) mod prune;
pub(crate) mod repair;
pub(crate) mod restore;
pub(crate) mod rewrite;
pub(crate) mod snapshots;
pub(crate) mod stats;
pub(crate) mod tag;
pub(crate) mod version;

use anyhow::Result;

use crate::args::Command;
use crate::errors::Outcome;
use crate::open::Context;
use crate::profile::Parsed;

/// Runs what was asked for.
pub(crate) fn run(parsed: Parsed) -> Result<Outcome> {
    let mut global = parsed.cli.global;
    if let Command::Backup(args) = &parsed.cli.command {
        global.threads = args.read_concurrency.or(global.threads);
    }
    let context = Context::new(global, parsed.matches);
    context.tell_of_locks();
    match parsed.cli.command {
        Command::Init(args) => init::run(&context, &args),
        Command::Backup(args) => backup::run(&context, &args),
        Command::Snapshots(args) => snapshots::run(&context, &args),
        Command::Forget(args) => forget::run(&context, &args),
        Command::Prune(args) => prune::run(&context, &args),
        Command::Tag(args) => tag::run(&context, &args),
        Command::Rewrite(args) => rewrite::run(&context, &args),
        Command::Copy(args) => copy::run(&context, &args),
        Command::Repair(args) => repair::run(&context, &args),
        Command::Ls(args) => ls::run(&context, &args),
        Command::Find(args) => find::run(&context, &args),
        Command::Diff(args) => diff::run(&context, &args),
        Command::Restore(args) => restore::run(&context, &args),
        Command::Check(args) => check::run(&context, &args),
        Command::Dump(args) => dump::run(&context, &args),
        Command::Mount(args) => mount::run(&context, &args),
        Command::Key(args) => key::run(&context, &args),
        Command::Policy(args) => policy::run(&context, &args),
        Command::Stats(args) => stats::run(&context, &args),
        Command::Cat(args) => cat::run(&context, &args),
        Command::List(args) => list::run(&context, &args),
        Command::Cache(args) => cache::run(&context, &args),
        Command::Version => version::run(&context),
        Command::Completions(args) => completions::run(&context, &args),
        Command::Man(args) => man::run(&context, &args),
        Command::Unlock => {
            context.out.note("there is nothing to unlock: this repository has no locks");
            Ok(Outcome::Done)
        }
    }
}
