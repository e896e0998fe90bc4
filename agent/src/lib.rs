//! Copal inside a cluster (ARCHITECTURE.md, "The agent"): requests as custom resources, manifests recorded and applied, volumes
//! taken and filled.
//!
//! ```text
//! api         the custom resources                                   types only
//! core        what to do next: values in, a decision out             no Kubernetes client, no clock, no I/O
//! shim        manifests: what is recorded, and what of it applied    JSON in, JSON out
//! grant       what a run on a node needs, sealed to that run
//! volume      one volume: a backup or restore in this process
//! node        the agent of a node: finds the directory, confines a child, reports
//! controller  turns requests into items, and ends them
//! ```
#![forbid(unsafe_code)]

pub mod api;
pub mod controller;
pub mod core;
pub mod grant;
pub mod k8s;
pub mod node;
pub mod probe;
pub mod shim;
pub mod volume;

use std::process::ExitCode;

/// Waits until it is told to end.
pub fn pause() -> ExitCode {
    service(std::future::pending())
}

/// Runs a service until it fails or is told to end (SIGTERM, SIGINT).
fn service(work: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    tracing_subscriber::fmt()
        .json()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()))
        .with_writer(std::io::stderr)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let ended = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        runtime.block_on(async {
            let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
            tokio::select! {
                ended = work => ended,
                _ = term.recv() => Ok(()),
                told = tokio::signal::ctrl_c() => Ok(told?),
            }
        })
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!("{e:#}");
            ExitCode::FAILURE
        }
    }
}
