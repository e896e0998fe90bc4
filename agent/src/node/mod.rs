//! The agent of a node: takes the work items of its node, finds the volume's directory, has a confined child do the work, reports.

mod child;
pub mod path;
mod verify;
mod work;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use crate::api::items::Item;
use crate::api::{Phase, VolumeBackup, VolumeRestore};
use crate::probe;

/// What a node's agent is told.
#[derive(clap::Args)]
pub struct Args {
    /// This node
    #[arg(long, env = "NODE_NAME")]
    node: String,
    /// The agent's own pod
    #[arg(long, env = "POD_NAME")]
    pod_name: String,
    /// Its uid: the agent is ready once the kubelet's directory has this pod
    #[arg(long, env = "POD_UID")]
    pod_uid: String,
    /// Where the kubelet's directory of pods is mounted
    #[arg(long, default_value = "/host_pods")]
    pods_dir: PathBuf,
    /// A directory for caches and state
    #[arg(long, default_value = "/scratch")]
    scratch: PathBuf,
    /// Take only such items
    #[arg(long)]
    only: Option<Only>,
    /// Items at the same time
    #[arg(long, default_value_t = 2)]
    slots: usize,
    /// Cap on the memory of one item, in MiB
    #[arg(long, default_value_t = 128)]
    memory: u64,
    /// Port of the probes
    #[arg(long, default_value_t = 8081)]
    port: u16,
}

/// One kind of items.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Only {
    Backup,
    Restore,
}

/// Runs until it is told to end.
pub fn main(args: Args) -> ExitCode {
    crate::service(run(args))
}

/// What all work shares.
struct Node {
    name: String,
    agent: String,
    client: Client,
    pods: OwnedFd,
    scratch: PathBuf,
    memory: u64,
    slots: usize,
    /// Namespaces of the items at work, by uid.
    busy: Mutex<HashMap<String, String>>,
}

async fn run(args: Args) -> Result<()> {
    let client = Client::try_default().await.context("this is no pod of a cluster: no API server is known")?;
    let pods = path::open_pods(&args.pods_dir)?;
    let ready = probe::serve(args.port).await?;
    while !path::has_pod(&pods, &args.pod_uid) {
        tracing::warn!(
            "{} does not hold this very pod: it is not the directory of the kubelet that runs here",
            args.pods_dir.display()
        );
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    ready.set();
    let node = Arc::new(Node {
        name: args.node,
        agent: args.pod_name,
        client,
        pods,
        scratch: args.scratch,
        memory: args.memory.max(64) << 20,
        slots: args.slots.max(1),
        busy: Mutex::default(),
    });
    tracing::info!(node = node.name, "takes work items");
    let backups = watch::<VolumeBackup>(Arc::clone(&node), args.only != Some(Only::Restore));
    let restores = watch::<VolumeRestore>(node, args.only != Some(Only::Backup));
    tokio::try_join!(backups, restores).map(drop)
}

/// Takes items of one kind, as long as the process lives.
async fn watch<K>(node: Arc<Node>, is_mine: bool) -> Result<()>
where
    K: Item + kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope> + DeserializeOwned,
{
    if !is_mine {
        return Ok(());
    }
    let api: Api<K> = Api::all(node.client.clone());
    let (store, writer) = reflector::store();
    let config = watcher::Config::default().fields(&format!("spec.node={}", node.name));
    let mut events = watcher(api, config).default_backoff().reflect(writer).applied_objects().boxed();
    let mut tasks = JoinSet::new();
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(_)) => {}
                Some(Err(e)) => tracing::warn!("cannot watch items: {e}"),
                None => bail!("the watch of items has ended"),
            },
            _ = tick.tick() => {}
            _ = tasks.join_next(), if !tasks.is_empty() => {}
        }
        while let Some(item) = next(&node, &store) {
            let (node, store) = (Arc::clone(&node), store.clone());
            let uid = item.uid().unwrap_or_default();
            let namespace = item.namespace().unwrap_or_default();
            node.busy.lock().expect("no panic while held").insert(uid.clone(), namespace);
            tasks.spawn(async move {
                work::work(&node, &item, &store).await;
                node.busy.lock().expect("no panic while held").remove(&uid);
            });
        }
    }
}

/// The next item to take: of the namespace that has the fewest at work, the oldest.
fn next<K>(node: &Node, store: &Store<K>) -> Option<K>
where
    K: Item + kube::Resource<DynamicType = ()>,
{
    let busy = node.busy.lock().expect("no panic while held");
    if busy.len() >= node.slots {
        return None;
    }
    let is_open = |item: &&Arc<K>| {
        let status = item.state();
        let known = item.uid().is_some_and(|uid| busy.contains_key(&uid));
        status.phase == Phase::New
            && !status.released
            && !item.what().2
            && !known
            && item.meta().deletion_timestamp.is_none()
    };
    let of = |item: &Arc<K>| {
        let namespace = item.namespace().unwrap_or_default();
        let at_work = busy.values().filter(|other| **other == namespace).count();
        (at_work, item.creation_timestamp().map(|t| t.0), item.name_any())
    };
    let all = store.state();
    all.iter().filter(is_open).min_by_key(|item| of(item)).map(|item| K::clone(item))
}
