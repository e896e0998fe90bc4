//! `version`.

use anyhow::Result;
use serde_json::json;

use crate::errors::Outcome;
use crate::open::Context;

/// This program, as snapshots name it.
pub(crate) const PROGRAM: &str = concat!("copal ", env!("CARGO_PKG_VERSION"));

/// Prints the version.
pub(crate) fn run(context: &Context) -> Result<Outcome> {
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    if context.out.json {
        let version = env!("CARGO_PKG_VERSION");
        let document = json!({
            "message_type": "version", "schema": 1, "version": version, "format": 1, "os": os, "arch": arch,
        });
        context.out.line(&document)?;
    } else {
        context.out.say(format!("{PROGRAM}, repository format 1, on {os}/{arch}"))?;
    }
    Ok(Outcome::Done)
}
