//! The agent inside a cluster: `volume` for one volume, `node` for all volumes of a node, `controller` for requests.
//!
//! Configured as pods are: by the environment, files from Secrets, and arguments. Exit codes are those of `copal`: 0 done, 3 done with
//! problems, 1 failed, 10 no repository, 12 wrong key.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use copal_agent::{controller, node, volume};

#[derive(Parser)]
#[command(name = "copal-agent", version, about = "Copal inside a cluster")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// One volume, mounted as a directory
    #[command(subcommand)]
    Volume(volume::Volume),
    /// Take the work items of this node
    Node(node::Args),
    /// Turn requests into work items, record and restore manifests
    Controller(controller::Args),
    /// Wait until told to end: what pods of ours do that stand in for others
    #[command(hide = true)]
    Pause,
    /// Print the custom resource definitions
    Crds,
    /// For `node`: one volume, as standard input says
    #[command(hide = true)]
    Child,
}

fn main() -> ExitCode {
    copal_engine::return_large_memory();
    match Cli::parse().command {
        Command::Volume(volume) => volume::main(volume),
        Command::Child => volume::child::main(),
        Command::Node(args) => node::main(args),
        Command::Controller(args) => controller::main(args),
        Command::Pause => copal_agent::pause(),
        Command::Crds => copal_agent::api::print(),
    }
}
