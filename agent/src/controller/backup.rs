//! A Backup from its request to a snapshot (docs/kubernetes/design.md, "A backup").

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use copal_engine::crypto::rng::SystemRng;
use copal_engine::ops::backup::{self, Run};
use copal_engine::progress::{Cancel, Silent};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, PostParams};
use kube::runtime::controller::Action;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use super::items::{self, meta};
use super::place::{Purpose, grant, repository};
use super::repository::blocking;
use super::standins::{self, StandIn};
use super::{Context, Error, condition, grants, record, set_status};
use crate::api::backup::VolumeStatus;
use crate::api::items::{Place, RunRef};
use crate::api::{Backup, BackupStatus, Phase, Repository, VolumeBackup};
use crate::core::wanted::{From, Wanted, choose};
use crate::k8s::now;
use crate::shim::pods::{Group, StandIn as Shape};
use crate::shim::record::OURS;
use crate::volume::{PROGRAM, run_ref};

/// Problems that stand in a status; all of them stand in the snapshot.
const PROBLEMS_MAX: usize = 50;
/// Items that replace one another for one volume.
const TRIES: i32 = 20;
/// How long a stand-in may wait for a place.
const STAND_IN: Duration = Duration::from_secs(300);
/// How soon a request in progress is looked at again.
const SOON: Duration = Duration::from_secs(2);

/// What only a process can hold of a backup.
pub(super) struct Held {
    run: Mutex<Option<Run>>,
    reference: RunRef,
    recorded: record::Done,
    /// What goes beside the volumes; removed with this.
    top: PathBuf,
}

impl Drop for Held {
    fn drop(&mut self) {
        let scratch = self.top.parent().expect("it is below the run's scratch");
        if let Err(e) = std::fs::remove_dir_all(scratch) {
            tracing::warn!("cannot remove {}: {e}", scratch.display());
        }
    }
}

pub(super) async fn reconcile(backup: Arc<Backup>, context: Arc<Context>) -> Result<Action, Error> {
    let namespace = backup.namespace().unwrap_or_default();
    let uid = backup.uid().unwrap_or_default();
    let old = backup.status.clone().unwrap_or_default();
    if old.phase.is_over() || backup.metadata.deletion_timestamp.is_some() {
        context.runs.lock().expect("no panic while held").remove(&uid);
        return Ok(Action::await_change());
    }
    let mut request =
        Request { backup: &backup, context: &context, namespace: &namespace, uid: &uid, status: old.clone() };
    let done = match old.phase {
        Phase::New => request.begin().await,
        _ => request.advance().await,
    };
    if let Err(e) = &done {
        // What lasts is seen by whoever asks; it is tried again.
        request.status.message = format!("{e:#}");
    }
    request.write(&old).await?;
    done?;
    Ok(Action::requeue(SOON))
}

struct Request<'r> {
    backup: &'r Backup,
    context: &'r Context,
    namespace: &'r str,
    uid: &'r str,
    status: BackupStatus,
}

impl Request<'_> {
    fn name(&self) -> String {
        self.backup.name_any()
    }

    /// Only if it says something new.
    async fn write(&mut self, old: &BackupStatus) -> Result<()> {
        if self.status == *old {
            return Ok(());
        }
        let generation = self.backup.metadata.generation;
        self.status.observed_generation = generation;
        self.status.conditions =
            condition("Succeeded", self.status.phase, &self.status.message, generation, &old.conditions);
        let api: Api<Backup> = Api::namespaced(self.context.client.clone(), self.namespace);
        let mut value = serde_json::to_value(&self.status)?;
        value["message"] = json!(self.status.message);
        if self.status.run.is_none() {
            value["run"] = Value::Null;
        }
        set_status(&api, &self.name(), &value).await
    }

    fn end(&mut self, phase: Phase, message: String) {
        tracing::info!(namespace = self.namespace, name = self.name(), ?phase, message, "the backup is over");
        (self.status.phase, self.status.message) = (phase, message);
        self.status.completion_timestamp = Some(now());
        self.status.run = None;
    }

    /// Checks what can be checked, and fixes which volumes are taken.
    async fn begin(&mut self) -> Result<()> {
        let spec = &self.backup.spec;
        let Some(repository) = repository(self.context, self.namespace, &spec.storage_location).await? else {
            let message = format!("there is no Repository {} in this namespace", spec.storage_location);
            self.end(Phase::FailedValidation, message);
            return Ok(());
        };
        let found = repository.status.clone().unwrap_or_default();
        match (repository.spec.read_only, found.phase.as_str()) {
            (true, _) => self.end(Phase::FailedValidation, "its Repository is readOnly".into()),
            (false, "Available") => return self.choose().await,
            (false, "") => self.status.message = "waits until its Repository was looked at".into(),
            (false, _) => {
                self.end(Phase::FailedValidation, format!("its Repository cannot be used: {}", found.message))
            }
        }
        Ok(())
    }

    async fn choose(&mut self) -> Result<()> {
        let tenant = match self.context.tenants.client(self.namespace).await {
            Ok(tenant) => tenant,
            Err(e) => {
                self.end(Phase::FailedValidation, format!("{e:#}"));
                return Ok(());
            }
        };
        let (pods, claims) = look(&tenant, self.namespace).await?;
        let choice = choose(&pods, &claims, self.backup.spec.default_volumes_to_fs_backup);
        let volume = |wanted: &Wanted| VolumeStatus {
            claim: wanted.claim.as_ref().map(|claim| claim.name.clone()).unwrap_or_default(),
            directory: wanted.directory.clone(),
            source: if wanted.from == From::StandIn { "StandIn" } else { "Live" }.into(),
            ..VolumeStatus::default()
        };
        self.status.volumes = choice.wanted.iter().map(volume).collect();
        self.status.errors = choice.problems.len() as i32;
        self.status.problems = choice.problems;
        self.status.start_timestamp = Some(now());
        self.status.expiration = self.backup.spec.ttl.as_deref().and_then(expiration);
        (self.status.phase, self.status.message) = (Phase::InProgress, String::new());
        Ok(())
    }

    async fn advance(&mut self) -> Result<()> {
        let items: Vec<VolumeBackup> = items::of(&self.context.client, self.namespace, &self.name()).await?;
        if self.backup.spec.cancel {
            return self.cancel(&items).await;
        }
        let Some(repository) = repository(self.context, self.namespace, &self.backup.spec.storage_location).await?
        else {
            self.end(Phase::Failed, "its Repository is gone".into());
            return self.clear(&items).await;
        };
        let held = self.held(&repository).await?;
        let tenant = self.context.tenants.client(self.namespace).await?;
        let mut seen = None;
        for n in 0..self.status.volumes.len() {
            if self.status.volumes[n].phase.is_over() {
                continue;
            }
            let item = items.iter().find(|item| item.name_any() == self.status.volumes[n].item);
            match item.filter(|item| item.spec.run == held.reference) {
                Some(item) => {
                    grants::answer(self.context, &repository, Purpose::Write, item).await?;
                    let volume = &mut self.status.volumes[n];
                    if items::settle(&self.context.client, item, volume).await? {
                        volume.item.clear();
                    }
                    if volume.phase.is_over() {
                        standins::remove(&tenant, self.namespace, &stand_in(self.uid, n)).await?;
                    }
                }
                None => {
                    if seen.is_none() {
                        seen = Some(look(&tenant, self.namespace).await?);
                    }
                    let (pods, claims) = seen.as_ref().expect("just looked");
                    self.place(n, &repository, &held, &tenant, pods, claims).await?;
                }
            }
        }
        let volumes = &self.status.volumes;
        self.status.progress.items_backed_up = held.recorded.items;
        self.status.progress.total_items = held.recorded.items;
        self.status.progress.bytes.bytes_done = volumes.iter().map(|v| v.bytes).sum();
        self.status.progress.bytes.total_bytes = items
            .iter()
            .filter_map(|item| item.status.as_ref())
            .map(|status| status.progress.total_bytes)
            .sum::<i64>()
            .max(self.status.progress.bytes.bytes_done);
        if volumes.iter().all(|volume| volume.phase.is_over()) {
            return self.finish(&held, &items).await;
        }
        Ok(())
    }

    /// The open run, or another one where it was held by a process that is gone.
    async fn held(&mut self, repository: &Repository) -> Result<Arc<Held>> {
        let known = self.context.runs.lock().expect("no panic while held").get(self.uid).cloned();
        if let Some(held) = known.filter(|held| self.status.run.as_ref() == Some(&held.reference)) {
            return Ok(held);
        }
        let tenant = self.context.tenants.client(self.namespace).await?;
        let scratch = self.context.scratch.join(format!("backup-{}-{}", self.uid, Timestamp::now().as_millisecond()));
        let top = scratch.join("top");
        std::fs::create_dir_all(&top).with_context(|| format!("cannot make {}", top.display()))?;
        let grant = grant(self.context, self.namespace, repository, Purpose::Write).await?;
        let (state, memory) = (scratch.join("repository"), self.context.memory);
        let run = blocking(move || {
            let mut repo = grant.open(&state, memory)?;
            let who = repo.identity(&mut SystemRng)?;
            Ok(Run::begin(&Arc::new(repo), &who, 3, &mut SystemRng)?)
        })
        .await?;
        let reference = run_ref(run.at());
        // From now on the drop of `held` cleans up.
        let mut held =
            Held { run: Mutex::new(Some(run)), reference: reference.clone(), recorded: record::Done::default(), top };
        let (_, claims) = look(&tenant, self.namespace).await?;
        held.recorded =
            record::record(self.context, &tenant, self.namespace, &self.backup.spec, &claims, &held.top).await?;
        let held = Arc::new(held);
        self.context.runs.lock().expect("no panic while held").insert(self.uid.into(), Arc::clone(&held));
        self.status.run = Some(reference);
        self.status.not_visible.clone_from(&held.recorded.not_visible);
        // Parts of another run are nothing to this one; what they have stored is found.
        for volume in self.status.volumes.iter_mut().filter(|volume| volume.phase != Phase::Failed) {
            (volume.phase, volume.item) = (Phase::New, String::new());
        }
        Ok(held)
    }

    /// Makes the item of a volume, where it is mounted by now.
    async fn place(
        &mut self,
        n: usize,
        repository: &Repository,
        held: &Held,
        tenant: &Client,
        pods: &[Pod],
        claims: &[PersistentVolumeClaim],
    ) -> Result<()> {
        let choice = choose(pods, claims, self.backup.spec.default_volumes_to_fs_backup);
        let volume = &mut self.status.volumes[n];
        let Some(wanted) = choice.wanted.into_iter().find(|wanted| wanted.directory == volume.directory) else {
            (volume.phase, volume.message) = (Phase::Failed, "it is not there any more".into());
            return Ok(());
        };
        if volume.tries >= TRIES {
            (volume.phase, volume.message) =
                (Phase::Failed, format!("given up {TRIES} times, at last because {}", volume.message));
            return Ok(());
        }
        let (node, place) = match wanted.from {
            From::Mounted { node, place } => (node, place),
            From::StandIn => {
                let claim = wanted.claim.clone().context("a stand-in mounts a claim")?;
                let name = stand_in(self.uid, n);
                let owner = self.backup.name_any();
                let group = Group { spec: Value::Null, claims: [claim.name.clone()].into() };
                let shape = Shape {
                    name: &name,
                    owner: ("copal.dev/v1alpha1", "Backup", &owner, self.uid),
                    image: &self.context.image,
                    look: &repository.spec.pod,
                    read_only: true,
                };
                match standins::ensure(tenant, self.namespace, &shape.pod(&group)).await? {
                    StandIn::Runs(pod, node) => (node, Place { pod, volume: "v0".into(), claim: Some(claim) }),
                    StandIn::Waits(why) => {
                        volume.message = why;
                        if since(self.status.start_timestamp.as_deref()) > STAND_IN {
                            volume.phase = Phase::Failed;
                            standins::remove(tenant, self.namespace, &name).await?;
                        }
                        return Ok(());
                    }
                    StandIn::Refused(why) => {
                        (volume.phase, volume.message) = (Phase::Failed, why);
                        return Ok(());
                    }
                }
            }
        };
        let name = format!(
            "{}-{n}-{}",
            short(&self.backup.name_any(), self.uid),
            Timestamp::now().as_millisecond() % 100_000_000
        );
        let owner = self.backup.name_any();
        let item = json!({
            "apiVersion": "copal.dev/v1alpha1", "kind": "VolumeBackup",
            "metadata": meta(&name, &owner, ("Backup", &owner, self.uid)),
            "spec": {"node": node, "repository": self.backup.spec.storage_location, "place": place, "directory": volume.directory,
                "run": held.reference},
        });
        let api: Api<VolumeBackup> = Api::namespaced(self.context.client.clone(), self.namespace);
        api.create(&PostParams::default(), &serde_json::from_value(item)?).await.context("cannot make a work item")?;
        (volume.item, volume.phase) = (name, Phase::New);
        volume.tries += 1;
        Ok(())
    }

    /// Commits the whole.
    async fn finish(&mut self, held: &Arc<Held>, items: &[VolumeBackup]) -> Result<()> {
        let part = |item: &VolumeBackup| {
            let snapshot = item.status.as_ref()?.snapshot.as_ref()?.parse().ok()?;
            Some(backup::Done { name: item.spec.directory.clone().into_bytes(), snapshot })
        };
        let taken = |item: &&VolumeBackup| self.status.volumes.iter().any(|volume| volume.item == item.name_any());
        let parts: Vec<backup::Done> = items.iter().filter(taken).filter_map(part).collect();
        for volume in
            self.status.volumes.iter_mut().filter(|v| matches!(v.phase, Phase::Completed | Phase::PartiallyFailed))
        {
            if !parts.iter().any(|part| part.name == volume.directory.as_bytes()) {
                (volume.phase, volume.message) = (Phase::Failed, "its item is gone, and with it what it made".into());
            }
        }
        let mut problems = self.status.problems.clone();
        problems.extend(held.recorded.problems.iter().filter(|p| !self.status.problems.contains(p)).cloned());
        if parts.is_empty() && held.recorded.items == 0 {
            self.end(Phase::Failed, "nothing of the namespace could be read".into());
            return self.clear(items).await;
        }
        self.describe(held, &problems)?;
        let Some(run) = held.run.lock().expect("no panic while held").take() else {
            return self.anew("its run was ended");
        };
        let (top, name, namespace, cluster) =
            (held.top.clone(), self.name(), self.namespace.to_owned(), self.context.cluster.clone());
        let done = blocking(move || {
            let options = backup::Options {
                as_path: Some("/".into()),
                labels: vec![
                    format!("backup:{name}").into_bytes(),
                    format!("cluster:{cluster}").into_bytes(),
                    format!("namespace:{namespace}").into_bytes(),
                ],
                host: namespace.into_bytes(),
                program: PROGRAM.into(),
                ..backup::Options::new(vec![top])
            };
            Ok(run.finish(&options, &parts, &mut SystemRng, &Silent, &Cancel::default())?)
        })
        .await;
        let summary = match done {
            Ok(summary) => summary,
            Err(e) => return self.anew(&format!("{e:#}")),
        };
        self.status.snapshot = summary.snapshot.map(|id| id.to_string());
        let failed = self.status.volumes.iter().filter(|volume| volume.phase != Phase::Completed).count();
        self.status.errors = (problems.len() + failed) as i32;
        problems.truncate(PROBLEMS_MAX);
        self.status.problems = problems;
        let (phase, message) = match self.status.errors {
            0 => (Phase::Completed, String::new()),
            n => (Phase::PartiallyFailed, format!("{n} things are missing: see volumes and problems")),
        };
        self.end(phase, message);
        self.context.runs.lock().expect("no panic while held").remove(self.uid);
        Ok(())
    }

    /// What the snapshot says of itself.
    fn describe(&self, held: &Held, problems: &[crate::api::backup::ObjectProblem]) -> Result<()> {
        let about = json!({
            "backup": self.name(), "namespace": self.namespace, "cluster": self.context.cluster, "spec": self.backup.spec,
            "startTimestamp": self.status.start_timestamp, "volumes": self.status.volumes,
            "notVisible": held.recorded.not_visible, "problems": problems,
        });
        std::fs::write(held.top.join("backup.json"), serde_json::to_vec_pretty(&about)?)
            .context("cannot write backup.json")
    }

    /// The run cannot be finished: another one is begun.
    fn anew(&mut self, why: &str) -> Result<()> {
        tracing::warn!(namespace = self.namespace, name = self.name(), "the backup begins again: {why}");
        self.context.runs.lock().expect("no panic while held").remove(self.uid);
        self.status.run = None;
        self.status.message = format!("begins again: {why}");
        Ok(())
    }

    async fn cancel(&mut self, items: &[VolumeBackup]) -> Result<()> {
        self.context.runs.lock().expect("no panic while held").remove(self.uid);
        for volume in self.status.volumes.iter_mut().filter(|volume| !volume.phase.is_over()) {
            volume.phase = Phase::Canceled;
        }
        self.end(Phase::Canceled, "cancelled: there is no snapshot".into());
        self.clear(items).await
    }

    /// Takes away what works for this request.
    async fn clear(&self, items: &[VolumeBackup]) -> Result<()> {
        let api: Api<VolumeBackup> = Api::namespaced(self.context.client.clone(), self.namespace);
        for item in items {
            items::delete(&api, &item.name_any()).await?;
        }
        let tenant = self.context.tenants.client(self.namespace).await?;
        for n in 0..self.status.volumes.len() {
            standins::remove(&tenant, self.namespace, &stand_in(self.uid, n)).await?;
        }
        Ok(())
    }
}

/// Pods and claims as the tenant sees them, without our own.
async fn look(tenant: &Client, namespace: &str) -> Result<(Vec<Pod>, Vec<PersistentVolumeClaim>)> {
    let params = ListParams::default().labels(&format!("!{OURS}"));
    let pods = Api::<Pod>::namespaced(tenant.clone(), namespace).list(&params).await;
    let claims = Api::<PersistentVolumeClaim>::namespaced(tenant.clone(), namespace).list(&ListParams::default()).await;
    Ok((
        pods.context("the account copal cannot list pods")?.items,
        claims.context("the account copal cannot list claims")?.items,
    ))
}

fn stand_in(uid: &str, n: usize) -> String {
    format!("copal-{uid}-{n}")
}

/// A request's name at the beginning of other names, which have limits, too.
fn short(name: &str, uid: &str) -> String {
    if name.len() <= 40 { name.into() } else { format!("{}-{}", &name[..32], &uid[..8.min(uid.len())]) }
}

/// Since a time as the API writes it.
pub(super) fn since(time: Option<&str>) -> Duration {
    let time = time.and_then(|text| text.parse::<Timestamp>().ok()).unwrap_or_else(Timestamp::now);
    Duration::try_from(Timestamp::now().duration_since(time)).unwrap_or_default()
}

/// `720h30m` from now on.
fn expiration(ttl: &str) -> Option<String> {
    let until = Timestamp::now().checked_add(k8s_openapi::jiff::SignedDuration::try_from(duration(ttl)?).ok()?).ok()?;
    Some(Timestamp::from_second(until.as_second()).ok()?.to_string())
}

/// As `1h30m10s`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let (mut seconds, mut number) = (0_u64, String::new());
    for c in text.chars() {
        match c {
            '0'..='9' => number.push(c),
            'h' | 'm' | 's' => {
                let unit = match c {
                    'h' => 3600,
                    'm' => 60,
                    _ => 1,
                };
                seconds = seconds.checked_add(number.parse::<u64>().ok()?.checked_mul(unit)?)?;
                number.clear();
            }
            _ => return None,
        }
    }
    number.is_empty().then_some(Duration::from_secs(seconds))
}
