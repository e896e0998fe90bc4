//! One item from claiming it to its end.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use copal_engine::crypto::rng::SystemRng;
use kube::api::{Patch, PatchParams};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::child::Running;
use super::verify::{Found, pod, verify};
use super::{Node, path};
use crate::api::Phase;
use crate::api::items::{Item, ItemStatus};
use crate::grant::{Grant, RunKey};
use crate::k8s::{is_conflict, now};
use crate::volume::job::{Event, Job};

/// How long the controller has to answer with a grant.
const GRANT: Duration = Duration::from_secs(60);
/// Least time between two patches of a status.
const PATCHES: Duration = Duration::from_secs(2);
/// How often the pod is looked at.
const LOOKS: Duration = Duration::from_secs(3);
/// How long a run may go without a word.
const SILENCE: Duration = Duration::from_secs(120);
/// How long it may take.
const LONGEST: Duration = Duration::from_secs(4 * 3600);

/// How an attempt ended.
enum End {
    /// With this status.
    Status(Value),
    /// Given back, for this reason.
    Released(String),
    /// It is somebody else's by now.
    Lost,
}

/// Claims an item and brings it to its end, or gives it back.
pub(super) async fn work<K>(node: &Node, item: &K, store: &Store<K>)
where
    K: Item + kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope> + DeserializeOwned,
{
    let (namespace, name) = (item.namespace().unwrap_or_default(), item.name_any());
    let api: Api<K> = Api::namespaced(node.client.clone(), &namespace);
    let attempt = item.state().attempt + 1;
    let key = RunKey::generate(&mut SystemRng);
    let claim = json!({
        "metadata": {"resourceVersion": item.resource_version()},
        "status": {"phase": Phase::InProgress, "agent": node.agent, "attempt": attempt, "publicKey": key.public(), "grant": null,
            "startTimestamp": now(), "heartbeat": now(), "message": null},
    });
    match api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&claim)).await {
        Ok(_) => tracing::info!(namespace, name, attempt, "claimed"),
        Err(e) if is_conflict(&e) => return,
        Err(e) => return tracing::warn!(namespace, name, "cannot claim it: {e}"),
    }
    let attempt =
        Attempt { node, item, store, api: &api, namespace: &namespace, name: &name, number: attempt, key: &key };
    let over = match attempt.run().await {
        Ok(End::Status(status)) => status,
        Ok(End::Released(why)) => json!({"phase": Phase::New, "released": true, "message": why, "agent": null}),
        Ok(End::Lost) => return tracing::info!(namespace, name, "is somebody else's by now"),
        Err(e) => json!({"phase": Phase::Failed, "message": format!("{e:#}"), "completionTimestamp": now()}),
    };
    attempt.finish(over).await;
}

struct Attempt<'a, K: kube::Resource<DynamicType = ()> + 'static> {
    node: &'a Node,
    item: &'a K,
    store: &'a Store<K>,
    api: &'a Api<K>,
    namespace: &'a str,
    name: &'a str,
    number: i32,
    key: &'a RunKey,
}

impl<K> Attempt<'_, K>
where
    K: Item + kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope> + DeserializeOwned,
{
    async fn run(&self) -> Result<End> {
        let Some(grant) = self.grant().await? else { return Ok(End::Lost) };
        let (_, place, _) = self.item.what();
        let sought = match verify(&self.node.client, self.namespace, &self.node.name, place).await? {
            Found::Volume(sought) => sought,
            Found::Gone(why) => return Ok(End::Released(why)),
        };
        let volume = path::find(&self.node.pods, &place.pod.uid, &sought)?;
        let uid = self.item.uid().unwrap_or_default();
        let scratch = self.node.scratch.join(format!("{uid}-{}", self.number));
        std::fs::create_dir_all(&scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
        let _removed = Scratch(&scratch);
        let (directory, task) = self.item.task(self.namespace);
        let job = Job { grant, task, directory, scratch: scratch.clone(), memory: self.node.memory };
        let running = Running::start(&job, &volume).await?;
        drop(job);
        self.listen(running).await
    }

    /// What the controller answers; `None`: the item is no longer ours.
    async fn grant(&self) -> Result<Option<Grant>> {
        let begun = Instant::now();
        let uid = self.item.uid().unwrap_or_default();
        while begun.elapsed() < GRANT {
            tokio::time::sleep(Duration::from_millis(200)).await;
            // The claim itself may not have come by yet.
            let Some(status) = self.seen() else { continue };
            if status.attempt < self.number {
                continue;
            }
            if status.attempt > self.number || status.phase != Phase::InProgress {
                return Ok(None);
            }
            if let Some(sealed) = status.grant.filter(|_| status.public_key.as_deref() == Some(&*self.key.public())) {
                return self.key.open(&sealed, &uid, self.number).map(Some);
            }
        }
        bail!(
            "the controller did not answer within {} s: kubectl -n copal-system logs deployment/copal-controller",
            GRANT.as_secs()
        )
    }

    fn seen(&self) -> Option<ItemStatus> {
        self.store.get(&ObjectRef::new(self.name).within(self.namespace)).map(|item| item.state())
    }

    async fn listen(&self, mut running: Running) -> Result<End> {
        let begun = Instant::now();
        let (mut heard, mut patched, mut looked) = (begun, begun, begun);
        let mut progress = Value::Null;
        let mut problems = Vec::new();
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        let ended = loop {
            tokio::select! {
                event = running.next() => {
                    heard = Instant::now();
                    match event? {
                        Some(Event::Progress { done, total, files }) => {
                            progress = json!({"progress": {"bytesDone": done, "totalBytes": total}, "files": files});
                        }
                        Some(Event::Problem { path, message }) => {
                            tracing::warn!(namespace = self.namespace, name = self.name, "{path}: {message}");
                            if problems.len() < 5 { problems.push(format!("{path}: {message}")); }
                        }
                        Some(Event::Done { snapshot, files, bytes, problems: n }) => break Ok(done(snapshot, files, bytes, n, &problems)),
                        Some(Event::Failed { message, .. }) => break Err(anyhow!(message)),
                        None => break Err(anyhow!("the child died without a word: out of memory, or killed")),
                    }
                }
                _ = tick.tick() => {}
            }
            if heard.elapsed() > SILENCE {
                running.end().await;
                return Ok(End::Released(format!("nothing moved for {} s", SILENCE.as_secs())));
            }
            if begun.elapsed() > LONGEST {
                running.end().await;
                bail!("it takes longer than {} h", LONGEST.as_secs() / 3600);
            }
            if looked.elapsed() > LOOKS {
                looked = Instant::now();
                if let Some(end) = self.look(patched).await {
                    running.end().await;
                    return Ok(end);
                }
            }
            if patched.elapsed() > PATCHES && (!progress.is_null() || patched.elapsed() > 5 * PATCHES) {
                patched = Instant::now();
                let mut status = progress.take();
                status["heartbeat"] = json!(now());
                self.patch(status).await;
            }
        };
        running.end().await;
        ended.map(End::Status)
    }

    /// Whether the application needs the volume, or nobody needs the work any more.
    async fn look(&self, _patched: Instant) -> Option<End> {
        let current = self.store.get(&ObjectRef::new(self.name).within(self.namespace))?;
        let status = current.state();
        if status.attempt != self.number {
            return Some(End::Lost);
        }
        if current.what().2 {
            let over = json!({"phase": Phase::Canceled, "message": "cancelled", "completionTimestamp": now()});
            return Some(End::Status(over));
        }
        let (_, place, _) = self.item.what();
        match pod(&self.node.client, self.namespace, place).await {
            Ok(Some(_)) => None,
            Ok(None) => Some(End::Released(format!("the pod {} is gone or going", place.pod.name))),
            Err(e) => {
                tracing::warn!("{e:#}");
                None
            }
        }
    }

    async fn patch(&self, status: Value) {
        let patch = json!({"status": status});
        if let Err(e) = self.api.patch_status(self.name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            tracing::warn!(namespace = self.namespace, name = self.name, "cannot report: {e}");
        }
    }

    /// The last word, unless somebody else has it by now.
    async fn finish(&self, mut status: Value) {
        status["grant"] = Value::Null;
        status["publicKey"] = Value::Null;
        tracing::info!(namespace = self.namespace, name = self.name, "{}", status["phase"]);
        for wait in [0, 1, 2, 5, 10, 30, 60] {
            tokio::time::sleep(Duration::from_secs(wait)).await;
            let current = match self.api.get(self.name).await {
                Ok(current) => current,
                Err(e) if crate::k8s::is_missing(&e) => return,
                Err(_) => continue,
            };
            if current.state().attempt != self.number {
                return;
            }
            let patch = json!({"metadata": {"resourceVersion": current.resource_version()}, "status": status});
            match self.api.patch_status(self.name, &PatchParams::default(), &Patch::Merge(&patch)).await {
                Ok(_) => return,
                Err(e) => tracing::warn!(namespace = self.namespace, name = self.name, "cannot report the end: {e}"),
            }
        }
    }
}

fn done(snapshot: Option<String>, files: u64, bytes: u64, problems: u64, first: &[String]) -> Value {
    let phase = if problems == 0 { Phase::Completed } else { Phase::PartiallyFailed };
    json!({"phase": phase, "snapshot": snapshot, "files": files, "bytes": bytes, "problems": problems,
        "message": first.join("; "), "progress": {"bytesDone": bytes, "totalBytes": bytes}, "completionTimestamp": now()})
}

/// Removed with what is in it.
struct Scratch<'p>(&'p Path);

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(self.0) {
            tracing::warn!("cannot remove {}: {e}", self.0.display());
        }
    }
}
