//! The engine's error: about a dozen variants, by what the caller can do next.

use std::io;
use std::path::PathBuf;

use crate::format::codec::Malformed;
use crate::store::StoreError;

/// Why an operation did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed; its own text says what to do.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Nothing is stored there that looks like a repository.
    #[error("there is no repository at {location}; `copal init` makes one")]
    NoRepository {
        /// Where it was looked for.
        location: String,
    },
    /// A repository is there already.
    #[error("there is a repository at {location} already; choose another place, or use it as it is")]
    RepositoryExists {
        /// Where.
        location: String,
    },
    /// The passphrase, recovery code or key file does not open this repository.
    #[error("{0}")]
    WrongKey(String),
    /// The key is right, but its role may not do this.
    #[error("a {role}'s key may not {what}; use a key of role {needed}")]
    NotAllowed {
        /// The role of the key in use.
        role: &'static str,
        /// What was tried.
        what: &'static str,
        /// A role that may.
        needed: &'static str,
    },
    /// Something else runs, or could run, that forbids this.
    #[error("{0}")]
    Busy(String),
    /// Made with something that this version does not know.
    #[error("this repository needs a newer version of copal: {0}")]
    TooNew(String),
    /// Stored bytes are not what they must be.
    #[error("{object} is damaged: {how}; `copal check` tells what it hurts")]
    Damaged {
        /// Key of the object, or the blob.
        object: String,
        /// What is wrong.
        how: String,
    },
    /// No snapshot, path or object has this name.
    #[error("{0}")]
    NotFound(String),
    /// What was asked for makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The local file system failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// A verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The local index or another cache failed.
    #[error(transparent)]
    Index(#[from] crate::repo::index::Error),
    /// The snapshot that the session would have made may not be made any more.
    #[error("{0}")]
    Fenced(String),
    /// It was asked to stop.
    #[error("interrupted; what was stored so far is used again by the next run")]
    Interrupted,
}

/// Result of the engine's verbs.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Damage of the stored object `object`.
    pub fn damaged(object: impl Into<String>, how: impl ToString) -> Self {
        Self::Damaged { object: object.into(), how: how.to_string() }
    }

    /// A failure of the local file system.
    pub fn io(action: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self::Io { action, path: path.into(), source: source.into() }
    }

    /// For `map_err` on decoders: they tell whether a newer program is needed.
    pub fn in_object(object: impl Into<String>) -> impl FnOnce(Malformed) -> Self {
        move |malformed| Self::damaged(object, malformed)
    }
}
