//! The command line as it is typed. The doc comments are the help texts.
#![allow(
    rustdoc::broken_intra_doc_links,
    rustdoc::bare_urls,
    reason = "these comments are help for a terminal, not Markdown"
)]

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::commands as c;
use crate::size;

/// Deduplicating, encrypting backups into a directory or an S3 bucket.
///
/// Without --repo, the default repository on this machine is used; the first backup makes it, and its key file.
#[derive(Debug, Parser)]
#[command(name = "copal", version, max_term_width = 120, subcommand_required = true, arg_required_else_help = true)]
#[command(
    after_help = "Global options: copal --help. Exit codes: 0 done, 1 failed, 2 bad command line, 3 done with something \
    skipped, 10 no repository, 11 refused because something else runs, 12 wrong password or key, 130 interrupted."
)]
pub(crate) struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Repository: a path, local:PATH, s3:https://host[:port]/bucket/prefix, s3:host/bucket/prefix or s3://bucket/prefix
    #[arg(short, long, value_name = "URL", env = "COPAL_REPOSITORY", hide_env_values = true)]
    #[arg(global = true, hide_short_help = true)]
    pub(crate) repo: Option<OsString>,
    /// File that holds the text for --repo
    #[arg(long, value_name = "FILE", env = "COPAL_REPOSITORY_FILE", hide_env_values = true)]
    #[arg(global = true, hide_short_help = true)]
    pub(crate) repository_file: Option<PathBuf>,
    /// File that holds the password or recovery code (or the password itself in COPAL_PASSWORD)
    #[arg(short, long, value_name = "FILE", env = "COPAL_PASSWORD_FILE", hide_env_values = true)]
    #[arg(global = true, hide_short_help = true)]
    pub(crate) password_file: Option<PathBuf>,
    /// Command that prints the password; run by sh
    #[arg(long, value_name = "COMMAND", env = "COPAL_PASSWORD_COMMAND", hide_env_values = true)]
    #[arg(global = true, hide_short_help = true)]
    pub(crate) password_command: Option<OsString>,
    /// Key file of an owner, reader, writer or maintainer, instead of a password
    #[arg(
        long,
        value_name = "FILE",
        env = "COPAL_KEY_FILE",
        hide_env_values = true,
        global = true,
        hide_short_help = true
    )]
    pub(crate) key_file: Option<PathBuf>,
    /// Configuration with profiles [default: $XDG_CONFIG_HOME/copal/copal.toml]
    #[arg(
        long,
        value_name = "FILE",
        env = "COPAL_CONFIG",
        hide_env_values = true,
        global = true,
        hide_short_help = true
    )]
    pub(crate) config: Option<PathBuf>,
    /// Profile of the configuration; without it, the one called `default` if there is one
    #[arg(
        long,
        value_name = "NAME",
        env = "COPAL_PROFILE",
        hide_env_values = true,
        global = true,
        hide_short_help = true
    )]
    pub(crate) profile: Option<String>,
    /// Directory for the local index and other caches [default: $XDG_CACHE_HOME/copal]
    #[arg(
        long,
        value_name = "DIR",
        env = "COPAL_CACHE_DIR",
        hide_env_values = true,
        global = true,
        hide_short_help = true
    )]
    pub(crate) cache_dir: Option<PathBuf>,
    /// Keep nothing on this machine
    #[arg(long, global = true, hide_short_help = true)]
    pub(crate) no_cache: bool,
    /// Machine output on stdout: a document, or one object a line (docs/json/)
    #[arg(long, global = true, hide_short_help = true)]
    pub(crate) json: bool,
    /// Print neither summaries nor notes
    #[arg(short, long, global = true, hide_short_help = true)]
    pub(crate) quiet: bool,
    /// Print more; -vv still more
    #[arg(short, long, action = ArgAction::Count, global = true, hide_short_help = true)]
    pub(crate) verbose: u8,
    /// Show no progress (on a terminal bars, with --json `status` lines, COPAL_PROGRESS_FPS of them a second)
    #[arg(long, global = true, hide_short_help = true)]
    pub(crate) no_progress: bool,
    /// Cap on memory, 64M or more
    #[arg(long, value_name = "SIZE", value_parser = size::parse_memory, default_value = "128M", global = true, hide_short_help = true)]
    pub(crate) memory: u64,
    /// Threads that compute [default: one for each processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), global = true, hide_short_help = true)]
    pub(crate) threads: Option<u16>,
    /// Requests to the store at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), default_value = "16")]
    #[arg(global = true, hide_short_help = true)]
    pub(crate) connections: u16,
    /// Cap on sending: KiB a second, or with a unit
    #[arg(long, value_name = "RATE", value_parser = size::parse_rate, global = true, hide_short_help = true)]
    pub(crate) limit_upload: Option<u64>,
    /// Cap on receiving: KiB a second, or with a unit
    #[arg(long, value_name = "RATE", value_parser = size::parse_rate, global = true, hide_short_help = true)]
    pub(crate) limit_download: Option<u64>,
    /// Certificates (PEM) to trust instead of the system's
    #[arg(long, value_name = "FILE", global = true, hide_short_help = true)]
    pub(crate) cacert: Option<PathBuf>,
    /// Refused with an explanation: certificates are always verified, see --cacert
    #[arg(long, global = true, hide_short_help = true)]
    pub(crate) insecure_tls: bool,
    /// SSE-C: file with the key, 32 bytes or 64 hex digits
    #[arg(long, value_name = "FILE", global = true, hide_short_help = true)]
    pub(crate) s3_sse_c_key_file: Option<PathBuf>,
    /// SSE-KMS: kms:KEYID
    #[arg(long, value_name = "kms:KEYID", global = true, hide_short_help = true)]
    pub(crate) s3_sse: Option<String>,
    /// How the bucket is addressed
    #[arg(long, value_enum, value_name = "STYLE", default_value = "auto", global = true, hide_short_help = true)]
    pub(crate) s3_path_style: PathStyle,
    /// Storage class of new objects, as the server names it
    #[arg(long, value_name = "CLASS", global = true, hide_short_help = true)]
    pub(crate) s3_storage_class: Option<String>,
    /// Accepted and without effect: there are no locks
    #[arg(long, global = true, hide_short_help = true)]
    pub(crate) no_lock: bool,
    /// Accepted and without effect: there are no locks to wait for
    #[arg(long, value_name = "DURATION", global = true, hide_short_help = true)]
    pub(crate) retry_lock: Option<String>,
}

/// How a bucket is addressed.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum PathStyle {
    /// By path where an endpoint is given, else by host name
    Auto,
    /// https://host/bucket/key
    Path,
    /// https://bucket.host/key
    Virtual,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a repository
    Init(c::init::InitArgs),
    /// Back up files and directories into a new snapshot
    Backup(Box<c::backup::BackupArgs>),
    /// List snapshots
    Snapshots(c::snapshots::SnapshotsArgs),
    /// List what a snapshot holds
    Ls(c::ls::LsArgs),
    /// Find files by name in snapshots, or what refers to a blob or pack
    Find(c::find::FindArgs),
    /// Show what differs between two snapshots
    Diff(c::diff::DiffArgs),
    /// Restore a snapshot, or a part of it, into a directory
    Restore(c::restore::RestoreArgs),
    /// Write one file, or a directory as an archive, to stdout
    Dump(c::dump::DumpArgs),
    /// Show the repository as a file system, read-only, until Ctrl-C
    Mount(c::mount::MountArgs),
    /// Forget snapshots: those that are named, or those that a policy does not keep
    Forget(Box<c::forget::ForgetArgs>),
    /// Give back the space of what no snapshot needs any more
    Prune(c::prune::PruneArgs),
    /// Change the tags of snapshots
    Tag(c::tag::TagArgs),
    /// Leave files out of snapshots, or change their host or time
    Rewrite(c::rewrite::RewriteArgs),
    /// Copy snapshots from another repository into this one
    Copy(Box<c::copy::CopyArgs>),
    /// Verify the repository, and tell which snapshots and files damage hurts
    Check(c::check::CheckArgs),
    /// Put right what check has found, as far as it can be
    Repair(c::repair::RepairArgs),
    /// Manage keys
    Key(c::key::KeyArgs),
    /// Print access policies for the store
    Policy(c::policy::PolicyArgs),
    /// Show sizes and counts of snapshots
    Stats(c::stats::StatsArgs),
    /// Print one object of the repository
    Cat(c::cat::CatArgs),
    /// List objects of one kind
    List(c::list::ListArgs),
    /// Show the caches of this machine, and remove those long unused
    Cache(c::cache::CacheArgs),
    /// Print the version
    Version,
    /// Print a script that completes commands in a shell
    Completions(c::completions::CompletionsArgs),
    /// Write the manual pages
    Man(c::man::ManArgs),
    /// Accepted and without effect: there are no locks
    Unlock,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn flags_do_not_collide() {
        super::Cli::command().debug_assert();
    }
}
