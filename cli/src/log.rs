//! What the engine logs, on stderr: warnings (such as calls of the store that are tried again), more with `-v` and `-vv`.

use std::fmt::{Debug, Write};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::output::{log_line, shown};

/// Prints events of the engine up to a level; those of libraries below it are left out.
struct Log {
    max: Level,
    /// Lines of JSON.
    json: bool,
}

/// Begins to print. `-q` keeps all but errors back.
pub(crate) fn start(quiet: bool, verbose: u8, json: bool) {
    let max = match (quiet, verbose) {
        (true, _) => Level::ERROR,
        (_, 0) => Level::WARN,
        (_, 1) => Level::INFO,
        _ => Level::DEBUG,
    };
    // Only a second call could fail, and there is none.
    let _ = tracing::subscriber::set_global_default(Log { max, json });
}

impl Log {
    fn shows(&self, target: &str, level: Level) -> bool {
        level <= self.max && target.starts_with("copal")
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        !metadata.is_span() && self.shows(metadata.target(), *metadata.level())
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::from_level(self.max))
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let level = event.metadata().level().as_str().to_ascii_lowercase();
        let message = format!("{}{}", shown(line.message.as_bytes()), shown(line.fields.as_bytes()));
        eprintln!("{}", log_line(self.json, &level, &message));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_events_up_to_the_level() {
        let log = Log { max: Level::INFO, json: false };
        assert!(log.shows("copal_engine::store", Level::WARN));
        assert!(log.shows("copal_engine::store", Level::INFO));
        assert!(!log.shows("copal_engine::store", Level::DEBUG));
        assert!(!log.shows("aws_sdk_s3", Level::WARN));
    }
}
