//! Which repository, and which key opens it: by the flags that every command takes, or by those of where `copy` reads from.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::parser::ValueSource;
use clap::{ArgMatches, Args};
use copal_engine::Error;
use copal_engine::crypto::kdf::RecoveryCode;
use copal_engine::format::slot::Lock;
use copal_engine::repo::{Locked, Opener};
use copal_engine::store::url::Location;

use crate::args::Global;
use crate::errors::usage;
use crate::secret::{self, Password};

/// Five flags as they were typed, or came from elsewhere.
pub(crate) struct Which<'a> {
    repo: Option<&'a OsStr>,
    repository_file: Option<&'a Path>,
    password_file: Option<&'a Path>,
    password_command: Option<&'a OsStr>,
    key_file: Option<&'a Path>,
    /// Before the names of the flags, and in those of the variables.
    prefix: &'static str,
    matches: &'a ArgMatches,
}

/// Where `copy` reads from.
#[derive(Debug, Args)]
pub(crate) struct FromArgs {
    /// Repository to copy from, as --repo
    #[arg(long, value_name = "URL", env = "COPAL_FROM_REPOSITORY", hide_env_values = true)]
    from_repo: Option<OsString>,
    /// File that holds the text for --from-repo
    #[arg(long, value_name = "FILE", env = "COPAL_FROM_REPOSITORY_FILE", hide_env_values = true)]
    from_repository_file: Option<PathBuf>,
    /// File that holds its password or recovery code (or the password itself in COPAL_FROM_PASSWORD)
    #[arg(long, value_name = "FILE", env = "COPAL_FROM_PASSWORD_FILE", hide_env_values = true)]
    from_password_file: Option<PathBuf>,
    /// Command that prints its password; run by sh
    #[arg(long, value_name = "COMMAND", env = "COPAL_FROM_PASSWORD_COMMAND", hide_env_values = true)]
    from_password_command: Option<OsString>,
    /// Key file of its owner or a reader, instead of a password
    #[arg(long, value_name = "FILE", env = "COPAL_FROM_KEY_FILE", hide_env_values = true)]
    from_key_file: Option<PathBuf>,
}

const KEYS: [&str; 3] = ["password_file", "password_command", "key_file"];

impl<'a> Which<'a> {
    /// What every command takes.
    pub(crate) fn of(global: &'a Global, matches: &'a ArgMatches) -> Self {
        Self {
            repo: global.repo.as_deref(),
            repository_file: global.repository_file.as_deref(),
            password_file: global.password_file.as_deref(),
            password_command: global.password_command.as_deref(),
            key_file: global.key_file.as_deref(),
            prefix: "",
            matches,
        }
    }

    /// Where is read from; `matches` are those of the command.
    pub(crate) fn from(args: &'a FromArgs, matches: &'a ArgMatches) -> Self {
        Self {
            repo: args.from_repo.as_deref(),
            repository_file: args.from_repository_file.as_deref(),
            password_file: args.from_password_file.as_deref(),
            password_command: args.from_password_command.as_deref(),
            key_file: args.from_key_file.as_deref(),
            prefix: "from_",
            matches,
        }
    }

    /// Where the repository is, if anything says so.
    pub(crate) fn location(&self) -> Result<Option<Location>> {
        let text = match self.strongest(&["repo", "repository_file"])? {
            Some("repo") => self.repo.expect("chosen because it is there").to_owned(),
            Some(_) => {
                let path = self.repository_file.expect("chosen because it is there");
                let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
                OsString::from_vec(bytes.trim_ascii_end().to_vec())
            }
            None => {
                self.refuse_restic(&["REPOSITORY", "REPOSITORY_FILE"])?;
                return Ok(None);
            }
        };
        Ok(Some(Location::parse(&text).map_err(|e| usage(e.to_string()))?))
    }

    /// Which of these flags counts: the command line before the environment before the profile; two at once: an error.
    fn strongest(&self, ids: &[&'static str]) -> Result<Option<&'static str>> {
        let strength = |id: &str| match self.matches.value_source(&format!("{}{id}", self.prefix)) {
            Some(ValueSource::CommandLine) => 3,
            Some(ValueSource::EnvVariable) => 2,
            Some(ValueSource::DefaultValue) => 1,
            _ => 0,
        };
        let best = ids.iter().map(|id| strength(id)).max().unwrap_or(0);
        let chosen: Vec<&'static str> = ids.iter().copied().filter(|id| best > 0 && strength(id) == best).collect();
        match chosen[..] {
            [] => Ok(None),
            [one] => Ok(Some(one)),
            _ => {
                let flag = |id: &&str| format!("--{}{id}", self.prefix).replace('_', "-");
                let flags: Vec<String> = chosen.iter().map(flag).collect();
                Err(usage(format!("{} exclude each other; give one of them", flags.join(" and "))))
            }
        }
    }

    fn variable(&self, program: &str, name: &str) -> String {
        format!("{program}_{}{name}", self.prefix.to_uppercase())
    }

    /// Whether the environment holds the password itself.
    pub(crate) fn has_variable(&self) -> bool {
        std::env::var_os(self.variable("COPAL", "PASSWORD")).is_some()
    }

    /// The password that was given in whatever way but by typing it.
    pub(crate) fn given_password(&self) -> Result<Option<Password>> {
        match self.strongest(&KEYS)? {
            Some("password_file") => self.password_file.map(secret::from_file).transpose(),
            Some("password_command") => self.password_command.map(secret::from_command).transpose(),
            Some(_) => Ok(None),
            None => secret::from_environment(&self.variable("COPAL", "PASSWORD")).transpose(),
        }
    }

    /// The key file that was given; `Err` within: nothing was given at all.
    pub(crate) fn key_file(&self) -> Result<Result<Option<PathBuf>, Nothing>> {
        Ok(match self.strongest(&KEYS)? {
            Some("key_file") => Ok(self.key_file.map(Path::to_owned)),
            Some(_) => Ok(None),
            None => Err(Nothing),
        })
    }

    /// What opens the repository at `location`: that key file, or the password that is given or asked for.
    pub(crate) fn opener(&self, key_file: Option<&Path>, location: &Location, locked: &Locked) -> Result<Opener> {
        if let Some(path) = key_file {
            return Ok(Opener::Bundle(Box::new(secret::read_bundle(path)?)));
        }
        let password = match self.given_password()? {
            Some(password) => password,
            None => {
                self.refuse_restic(&["PASSWORD", "PASSWORD_FILE", "PASSWORD_COMMAND"])?;
                secret::prompt(&format!("password for {location}"))?.ok_or_else(|| self.no_key())?
            }
        };
        // A recovery code has a checksum, so a password is hardly ever taken for one.
        if let Ok(code) =
            std::str::from_utf8(&password).map_err(drop).and_then(|t| RecoveryCode::parse(t).map_err(drop))
            && locked.slots()?.iter().any(|slot| matches!(slot.lock, Lock::RecoveryCode))
        {
            return Ok(Opener::RecoveryCode(code.key()));
        }
        Ok(Opener::Passphrase(password))
    }

    fn no_key(&self) -> anyhow::Error {
        let p = self.prefix.replace('_', "-");
        anyhow!(Error::WrongKey(format!(
            "no key is given, and there is no terminal to ask on; use --{p}password-file, --{p}password-command or --{p}key-file"
        )))
    }

    /// Fails where somebody has set variables for restic and none of ours: going on would use another repository or key.
    fn refuse_restic(&self, names: &[&str]) -> Result<()> {
        match names.iter().find(|name| std::env::var_os(self.variable("RESTIC", name)).is_some()) {
            None => Ok(()),
            Some(name) => bail!(
                "{} is restic's and is not read; set {} for copal",
                self.variable("RESTIC", name),
                self.variable("COPAL", name)
            ),
        }
    }
}

/// No flag says how the repository is opened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Nothing;
