//! Profiles: flags that stand in a file. Each becomes the default of its flag, so that the environment and the command
//! line, in this order, take its place.
//!
//! ```toml
//! [default]                      # used when no --profile is given
//! repo = "s3:https://s3.example/backup"
//! limit-upload = "2M"
//!
//! [laptop]
//! inherit = "default"            # or a list; later ones win, the own flags last
//! password-command = "pass show backup"
//!
//! [laptop.backup]                # flags of one command
//! exclude = ["*.o", "/tmp"]
//! one-file-system = true
//! ```

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::{ArgMatches, CommandFactory, FromArgMatches};
use toml::{Table, Value};

use crate::args::Cli;
use crate::errors::{ParseError, usage};
use crate::place::config_dir;

/// A command line, and where its values come from.
pub(crate) struct Parsed {
    /// What it says.
    pub(crate) cli: Cli,
    /// As clap knows it.
    pub(crate) matches: ArgMatches,
}

/// Parses the command line with the profile that it names behind it.
pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Parsed, ParseError> {
    let words: Vec<OsString> = words.into_iter().collect();
    let mut command = Cli::command();
    // A first look only for --config and --profile: whatever else is wrong is told by the second.
    if let Ok(first) = Cli::command().ignore_errors(true).try_get_matches_from(&words)
        && let Some(flags) = load(&first).map_err(ParseError::Other)?
    {
        command = with_defaults(command, &flags, &[]).map_err(ParseError::Other)?;
    }
    let matches = command.try_get_matches_from(&words).map_err(ParseError::Clap)?;
    let cli = Cli::from_arg_matches(&matches).map_err(ParseError::Clap)?;
    Ok(Parsed { cli, matches })
}

/// The flags of the chosen profile, with what it inherits.
fn load(first: &ArgMatches) -> Result<Option<Table>> {
    let name = first.get_one::<String>("profile");
    let given = first.get_one::<PathBuf>("config");
    let Some(path) = given.cloned().or_else(|| Some(config_dir()?.join("copal.toml"))) else {
        return Ok(None);
    };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && given.is_none() => match name {
            None => return Ok(None),
            Some(name) => bail!("there is no profile {name}: {} is not there", path.display()),
        },
        Err(e) => return Err(e).with_context(|| format!("cannot read the configuration {}", path.display())),
    };
    let all: Table = text.parse().with_context(|| format!("{} cannot be used", path.display()))?;
    let what = || format!("{} cannot be used", path.display());
    match name {
        Some(name) => resolve(&all, name, &mut Vec::new()).map(Some).with_context(what),
        None if all.contains_key("default") => resolve(&all, "default", &mut Vec::new()).map(Some).with_context(what),
        None => Ok(None),
    }
}

fn resolve<'a>(all: &'a Table, name: &'a str, seen: &mut Vec<&'a str>) -> Result<Table> {
    if seen.contains(&name) {
        bail!("profile {name} inherits from itself");
    }
    seen.push(name);
    let own = match all.get(name) {
        Some(Value::Table(own)) => own,
        Some(_) => bail!("{name} is no profile: write [{name}] and its flags below"),
        None => bail!("there is no profile {name}"),
    };
    let mut flags = Table::new();
    let parents = match own.get("inherit") {
        None => Vec::new(),
        Some(Value::String(parent)) => vec![parent.as_str()],
        Some(Value::Array(parents)) if parents.iter().all(Value::is_str) => {
            parents.iter().filter_map(Value::as_str).collect()
        }
        Some(_) => bail!("inherit of profile {name} is neither a name nor a list of names"),
    };
    for parent in parents {
        merge(&mut flags, resolve(all, parent, seen)?);
    }
    let mut own = own.clone();
    own.remove("inherit");
    merge(&mut flags, own);
    seen.pop();
    Ok(flags)
}

fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// `command` with each flag's value as its default; tables are for subcommands.
fn with_defaults(mut command: clap::Command, flags: &Table, above: &[&str]) -> Result<clap::Command> {
    for (key, value) in flags {
        if let Value::Table(inner) = value {
            if command.find_subcommand(key).is_none() {
                return Err(usage(format!("the profile has flags for {key}, which is no command")));
            }
            let path: Vec<&str> = above.iter().copied().chain([key.as_str()]).collect();
            let sub = command.find_subcommand(key).expect("found above").clone();
            let sub = with_defaults(sub, inner, &path)?;
            command = command.mut_subcommand(key, |_| sub);
            continue;
        }
        let arg = command.get_arguments().find(|arg| arg.get_long() == Some(key));
        let Some(id) = arg.map(|arg| arg.get_id().clone()).filter(|_| !matches!(key.as_str(), "config" | "profile"))
        else {
            let whose = if above.is_empty() { "copal".to_owned() } else { above.join(" ") };
            return Err(usage(format!("the profile has {key}, which is no flag of {whose}")));
        };
        let values = texts(key, value)?;
        command = command.mut_arg(id, |arg| arg.required(false).default_values(values));
    }
    Ok(command)
}

fn texts(key: &str, value: &Value) -> Result<Vec<String>> {
    let one = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(n) => Ok(n.to_string()),
        Value::Boolean(b) => Ok(b.to_string()),
        _ => Err(usage(format!("{key} in the profile is no text, number, true or false, nor a list of them"))),
    };
    match value {
        Value::Array(values) => values.iter().map(one).collect(),
        value => Ok(vec![one(value)?]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_with(profile: &str, words: &[&str]) -> Result<Parsed> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), profile)?;
        let config = ["copal", "--config", file.path().to_str().expect("a plain path")];
        let words = config.iter().chain(words).map(OsString::from);
        parse(words).map_err(|e| match e {
            ParseError::Clap(e) => e.into(),
            ParseError::Other(e) => e,
        })
    }

    const PROFILES: &str = r#"
        [default]
        limit-upload = "2M"
        threads = 3
        [work]
        inherit = "default"
        threads = 4
        json = true
        [work.ls]
        long = true
        [loop]
        inherit = ["loop"]
        [bad]
        colour = "red"
    "#;

    #[test]
    fn flags_come_from_the_profile_unless_typed() {
        let parsed = parse_with(PROFILES, &["snapshots"]).unwrap();
        assert_eq!((parsed.cli.global.threads, parsed.cli.global.json), (Some(3), false));
        let parsed = parse_with(PROFILES, &["--profile", "work", "ls", "latest"]).unwrap();
        let global = &parsed.cli.global;
        assert_eq!((global.threads, global.limit_upload, global.json), (Some(4), Some(2 << 20), true));
        assert!(matches!(parsed.cli.command, crate::args::Command::Ls(ls) if ls.long));
        let parsed = parse_with(PROFILES, &["--profile", "work", "ls", "latest", "--threads", "9"]).unwrap();
        assert_eq!(parsed.cli.global.threads, Some(9));
    }

    #[test]
    fn profiles_that_cannot_be_used_say_why() {
        for (name, why) in [("nope", "no profile nope"), ("loop", "inherits from itself"), ("bad", "no flag of copal")]
        {
            let error = parse_with(PROFILES, &["--profile", name, "snapshots"]).map(|_| ()).unwrap_err();
            assert!(crate::errors::text(&error).contains(why), "{error:#}");
        }
    }
}
