//! Turns requests into items and snapshots, and snapshots into objects and items.

mod backup;
mod grants;
mod items;
mod place;
mod record;
mod repository;
mod restore;
mod standins;

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::watcher;
use kube::{Api, Client, Config, ResourceExt};
use serde::Serialize;
use serde_json::json;

use crate::api::{Backup, Phase, Repository, Restore, VolumeBackup, VolumeRestore};
use crate::k8s::Tenants;
use crate::probe;

/// What the controller is told.
#[derive(clap::Args)]
pub struct Args {
    /// Our image: what stand-in pods run
    #[arg(long, env = "COPAL_IMAGE")]
    image: String,
    /// A directory in memory, for manifests and caches
    #[arg(long, default_value = "/scratch")]
    scratch: PathBuf,
    /// Cap on the memory of one repository, in MiB
    #[arg(long, default_value_t = 96)]
    memory: u64,
    /// Port of the probes
    #[arg(long, default_value_t = 8081)]
    port: u16,
}

/// Runs until it is told to end.
pub fn main(args: Args) -> ExitCode {
    crate::service(run(args))
}

/// What all reconciliations share.
struct Context {
    client: Client,
    tenants: Tenants,
    image: String,
    scratch: PathBuf,
    memory: u64,
    /// uid of the namespace kube-system: what clusters are told apart by.
    cluster: String,
    /// Open runs of backups, by the Backup's uid. What only a process can hold.
    runs: Mutex<HashMap<String, Arc<backup::Held>>>,
    /// What was read for restores, by the Restore's uid.
    loaded: Mutex<HashMap<String, Arc<restore::Loaded>>>,
}

/// Something to be tried again.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}")]
struct Error(anyhow::Error);

impl From<anyhow::Error> for Error {
    fn from(error: anyhow::Error) -> Self {
        Self(error)
    }
}

async fn run(args: Args) -> Result<()> {
    let config = Config::infer().await.context("no API server is known")?;
    let client = Client::try_from(config.clone())?;
    let ready = probe::serve(args.port).await?;
    let system = Api::<Namespace>::all(client.clone()).get("kube-system").await;
    let cluster = system.context("cannot read the namespace kube-system")?.metadata.uid.unwrap_or_default();
    let context = Arc::new(Context {
        tenants: Tenants::new(config, client.clone()),
        client: client.clone(),
        image: args.image,
        scratch: args.scratch,
        memory: args.memory.max(64) << 20,
        cluster,
        runs: Mutex::default(),
        loaded: Mutex::default(),
    });
    ready.set();
    tracing::info!("watches requests");
    let any = watcher::Config::default;
    let repositories = Controller::new(Api::<Repository>::all(client.clone()), any())
        .run(repository::reconcile, again, Arc::clone(&context))
        .for_each(|_| async {});
    let backups = Controller::new(Api::<Backup>::all(client.clone()), any())
        .owns(Api::<VolumeBackup>::all(client.clone()), any())
        .run(backup::reconcile, again, Arc::clone(&context))
        .for_each(|_| async {});
    let restores = Controller::new(Api::<Restore>::all(client.clone()), any())
        .owns(Api::<VolumeRestore>::all(client), any())
        .run(restore::reconcile, again, context)
        .for_each(|_| async {});
    futures::future::join3(repositories, backups, restores).await;
    Ok(())
}

/// After an error: soon, and it is said. The account may be another one by now, of the same name.
fn again<K: ResourceExt>(object: Arc<K>, error: &Error, context: Arc<Context>) -> Action {
    tracing::warn!("{error}");
    context.tenants.forget(&object.namespace().unwrap_or_default());
    Action::requeue(Duration::from_secs(5))
}

/// The one condition of a request: true when it is done whole, false when it ended otherwise, unknown until then.
fn condition(kind: &str, phase: Phase, message: &str, generation: Option<i64>, old: &[Condition]) -> Vec<Condition> {
    let status = match phase {
        Phase::Completed => "True",
        phase if phase.is_over() => "False",
        _ => "Unknown",
    };
    let before = old.iter().find(|condition| condition.type_ == kind && condition.status == status);
    let since = before.map_or_else(|| Time(k8s_openapi::jiff::Timestamp::now()), |c| c.last_transition_time.clone());
    vec![Condition {
        type_: kind.into(),
        status: status.into(),
        reason: format!("{phase:?}"),
        message: message.into(),
        observed_generation: generation,
        last_transition_time: since,
    }]
}

/// Replaces a status, as far as `status` says something.
async fn set_status<K>(api: &Api<K>, name: &str, status: &impl Serialize) -> Result<()>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let patch = json!({"status": status});
    let params = kube::api::PatchParams::default();
    match api.patch_status(name, &params, &kube::api::Patch::Merge(&patch)).await {
        Ok(_) => Ok(()),
        Err(e) if crate::k8s::is_missing(&e) => Ok(()),
        Err(e) => Err(e).context("cannot write a status"),
    }
}
