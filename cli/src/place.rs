//! What the environment says of this user and this machine.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use anyhow::{Result, bail};

/// What a variable of the XDG base directories says, else a place below the home directory.
pub(crate) fn env_dir(variable: &str, below_home: &str) -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute(variable).or_else(|| Some(absolute("HOME")?.join(below_home)))
}

/// Where the configuration and the default key file are.
pub(crate) fn config_dir() -> Option<PathBuf> {
    Some(env_dir("XDG_CONFIG_HOME", ".config")?.join("copal"))
}

/// Where the default repository is.
pub(crate) fn data_dir() -> Result<PathBuf> {
    match env_dir("XDG_DATA_HOME", ".local/share") {
        Some(dir) => Ok(dir.join("copal")),
        None => bail!("no repository is given, and HOME says nothing of a default one; use --repo or COPAL_REPOSITORY"),
    }
}

/// The key file of the default repository.
pub(crate) fn default_key_file() -> Result<PathBuf> {
    match config_dir() {
        Some(dir) => Ok(dir.join("key")),
        None => bail!("there is no place for a key file: HOME is not set"),
    }
}

/// The name of this machine: the host that backups record.
pub(crate) fn hostname() -> Vec<u8> {
    rustix::system::uname().nodename().to_bytes().to_vec()
}

/// Variables as exclude files use them.
pub(crate) fn variable(name: &[u8]) -> Option<Vec<u8>> {
    std::env::var_os(OsStr::from_bytes(name)).map(OsString::into_vec)
}

/// The name of the user who runs this: from the list of users, else from the environment.
pub(crate) fn user_name() -> Vec<u8> {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let text = std::fs::read("/etc/passwd").unwrap_or_default();
    let mut users = text.split(|&b| b == b'\n').map(|line| line.split(|&b| b == b':').collect::<Vec<_>>());
    let own = users.find(|fields| fields.get(2).is_some_and(|f| *f == uid.as_bytes()));
    own.map(|fields| fields[0].to_vec()).or_else(|| variable(b"USER")).unwrap_or_default()
}
