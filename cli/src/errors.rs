//! Any error becomes one message and one exit code, here and nowhere else.

use std::fmt;
use std::process::ExitCode;

use copal_engine::Error;
use serde_json::json;

/// How a command ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All is done.
    Done,
    /// Done, but something was skipped or did not stick.
    Incomplete,
    /// A check was done, and found damage.
    Damaged,
}

impl Outcome {
    /// [`Outcome::Incomplete`] where there were problems.
    pub(crate) fn of_problems(count: u64) -> Self {
        if count == 0 { Self::Done } else { Self::Incomplete }
    }

    /// 0, 3, or 1 for a repository that is damaged.
    pub(crate) fn exit_code(self) -> ExitCode {
        match self {
            Self::Done => ExitCode::SUCCESS,
            Self::Incomplete => ExitCode::from(3),
            Self::Damaged => ExitCode::FAILURE,
        }
    }
}

/// A command line that parses and makes no sense: exit code 2.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// A [`Usage`] as an error.
pub(crate) fn usage(text: impl Into<String>) -> anyhow::Error {
    Usage(text.into()).into()
}

/// Why the command line is none.
pub(crate) enum ParseError {
    /// clap prints it itself (help and version, too).
    Clap(clap::Error),
    /// The profile cannot be used.
    Other(anyhow::Error),
}

/// Says what happened, on stderr, and gives the code for it. A reader of our output that has gone away is no failure.
pub(crate) fn report(error: &anyhow::Error, json: bool) -> ExitCode {
    if is_broken_pipe(error) {
        return ExitCode::SUCCESS;
    }
    let code = code(error);
    let message = text(error);
    if json {
        eprintln!("{}", json!({"message_type": "exit_error", "code": code, "message": message, "schema": 1}));
    } else {
        eprintln!("copal: {message}");
    }
    ExitCode::from(code)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|e| e.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe))
}

fn code(error: &anyhow::Error) -> u8 {
    if error.chain().any(|e| e.is::<Usage>()) {
        return 2;
    }
    match error.chain().find_map(|e| e.downcast_ref::<Error>()) {
        Some(Error::NoRepository { .. }) => 10,
        Some(Error::Busy(_)) => 11,
        Some(Error::WrongKey(_) | Error::NotAllowed { .. }) => 12,
        Some(Error::Interrupted) => 130,
        _ => 1,
    }
}

/// The chain of causes in one line; a cause that the text before it tells already is left out.
pub(crate) fn text(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_follow_the_contract() {
        let wrong = || Error::WrongKey("no".into());
        for (error, expected) in [
            (Error::NoRepository { location: "x".into() }, 10),
            (Error::Busy("x".into()), 11),
            (wrong(), 12),
            (Error::NotAllowed { role: "writer", what: "read", needed: "owner" }, 12),
            (Error::Interrupted, 130),
            (Error::Invalid("x".into()), 1),
        ] {
            assert_eq!(code(&error.into()), expected);
        }
        assert_eq!(code(&anyhow::Error::from(wrong()).context("while opening")), 12);
        assert_eq!(code(&usage("no")), 2);
    }

    #[test]
    fn causes_are_told_once() {
        let io = std::io::Error::new(std::io::ErrorKind::NotFound, "gone");
        let error = anyhow::Error::from(Error::io("read", "/x", io));
        assert_eq!(text(&error), "cannot read /x: gone");
        let pipe = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert!(is_broken_pipe(&pipe.into()));
    }
}
