//! `man`.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Args, CommandFactory};

use crate::args::Cli;
use crate::errors::Outcome;
use crate::open::Context;

/// Flags of `man`.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Directory to write copal.1, copal-backup.1 and the others into; made if it is missing
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
}

/// Writes the pages.
pub(crate) fn run(context: &Context, args: &ManArgs) -> Result<Outcome> {
    let what = || format!("cannot write manual pages into {}", args.dir.display());
    std::fs::create_dir_all(&args.dir).with_context(what)?;
    clap_mangen::generate_to(Cli::command(), &args.dir).with_context(what)?;
    context.out.note(format!("wrote the manual pages into {}", args.dir.display()));
    Ok(Outcome::Done)
}
