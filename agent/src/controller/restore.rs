//! A Restore from its request to running workloads (docs/kubernetes/design.md, "A restore").

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use copal_engine::format::snapshot::NamesPart;
use copal_engine::repo::{Reader, Snapshot};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::runtime::controller::Action;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use super::backup::{duration, since};
use super::items::{self, meta};
use super::place::{Purpose, grant, repository};
use super::repository::blocking;
use super::standins::{self, StandIn};
use super::{Context, Error, condition, grants, set_status};
use crate::api::backup::{ObjectProblem, VolumeStatus};
use crate::api::items::{Named, Place};
use crate::api::restore::{ExistingPolicy, PlanRef, RestoreSpec, Step};
use crate::api::{Phase, Repository, Restore, RestoreStatus, VolumeRestore};
use crate::grant::Grant;
use crate::k8s::{self, now};
use crate::shim::diff::differences;
use crate::shim::kind::Kind;
use crate::shim::pods::{Group, StandIn as Shape, futures, groups};
use crate::shim::record::{Recorded, read};
use crate::shim::strip::{Mapping, applied};
use crate::shim::{never, order, ready};

/// Label of what a Restore has made: its uid.
const MADE_BY: &str = "copal.dev/restore-uid";
const PROBLEMS_MAX: usize = 50;
/// A plan in the cluster, in bytes.
const PLAN_MAX: usize = 512 << 10;
/// Manifests of one snapshot.
const OBJECTS_MAX: usize = 100_000;
const STAND_IN: Duration = Duration::from_secs(600);
const SOON: Duration = Duration::from_secs(2);

/// What was read from the snapshot.
pub(super) struct Loaded {
    snapshot: String,
    /// In the order in which they are restored.
    objects: Vec<Recorded>,
    /// Directories below `volumes/`.
    volumes: BTreeSet<String>,
    /// What could not be read.
    problems: Vec<ObjectProblem>,
    /// The namespace that was backed up.
    from: String,
}

pub(super) async fn reconcile(restore: Arc<Restore>, context: Arc<Context>) -> Result<Action, Error> {
    let namespace = restore.namespace().unwrap_or_default();
    let uid = restore.uid().unwrap_or_default();
    let old = restore.status.clone().unwrap_or_default();
    if old.phase.is_over() || restore.metadata.deletion_timestamp.is_some() {
        context.loaded.lock().expect("no panic while held").remove(&uid);
        return Ok(Action::await_change());
    }
    let mut request =
        Request { restore: &restore, context: &context, namespace: &namespace, uid: &uid, status: old.clone() };
    let done = request.advance().await;
    if let Err(e) = &done {
        request.status.message = format!("{e:#}");
    }
    request.write(&old).await?;
    done?;
    Ok(Action::requeue(SOON))
}

struct Request<'r> {
    restore: &'r Restore,
    context: &'r Context,
    namespace: &'r str,
    uid: &'r str,
    status: RestoreStatus,
}

impl Request<'_> {
    fn spec(&self) -> &RestoreSpec {
        &self.restore.spec
    }

    fn name(&self) -> String {
        self.restore.name_any()
    }

    async fn write(&mut self, old: &RestoreStatus) -> Result<()> {
        if self.status == *old {
            return Ok(());
        }
        let generation = self.restore.metadata.generation;
        self.status.observed_generation = generation;
        self.status.conditions =
            condition("Succeeded", self.status.phase, &self.status.message, generation, &old.conditions);
        let api: Api<Restore> = Api::namespaced(self.context.client.clone(), self.namespace);
        let mut value = serde_json::to_value(&self.status)?;
        value["message"] = json!(self.status.message);
        set_status(&api, &self.name(), &value).await
    }

    fn end(&mut self, phase: Phase, message: String) {
        tracing::info!(namespace = self.namespace, name = self.name(), ?phase, message, "the restore is over");
        (self.status.phase, self.status.message) = (phase, message);
        self.status.completion_timestamp = Some(now());
    }

    fn problem(&mut self, recorded: &Recorded, reason: &str, message: String, is_error: bool) {
        let kind = match recorded.group.as_str() {
            "" => recorded.kind.clone(),
            group => format!("{}.{group}", recorded.kind),
        };
        let problem = ObjectProblem { kind, name: recorded.name.clone(), reason: reason.into(), message };
        if self.status.problems.contains(&problem) {
            return;
        }
        match is_error {
            true => self.status.errors += 1,
            false => self.status.warnings += 1,
        }
        if self.status.problems.len() < PROBLEMS_MAX {
            self.status.problems.push(problem);
        }
    }

    async fn advance(&mut self) -> Result<()> {
        let Some(repository) = repository(self.context, self.namespace, &self.spec().storage_location).await? else {
            let message = format!("there is no Repository {} in this namespace", self.spec().storage_location);
            self.end(Phase::FailedValidation, message);
            return Ok(());
        };
        let tenant = match self.context.tenants.client(self.namespace).await {
            Ok(tenant) => tenant,
            Err(e) if self.status.phase == Phase::New => {
                self.end(Phase::FailedValidation, format!("{e:#}"));
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        if self.spec().cancel {
            self.clear(&tenant).await?;
            self.end(Phase::Canceled, "cancelled: what was restored stays".into());
            return Ok(());
        }
        let loaded = match self.loaded(&repository).await {
            Ok(loaded) => loaded,
            Err(e) if self.status.phase == Phase::New && e.downcast_ref::<NoSnapshot>().is_some() => {
                self.end(Phase::FailedValidation, format!("{e:#}"));
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        let (kinds, _) = k8s::kinds(&tenant).await?;
        let work = Work { tenant: &tenant, kinds: &kinds, loaded: &loaded, mapping: self.mapping(&loaded) };
        if self.status.phase == Phase::New {
            self.status.phase = Phase::InProgress;
            self.status.snapshot = Some(loaded.snapshot.clone());
            self.status.start_timestamp = Some(now());
            self.status.errors += loaded.problems.len() as i32;
            self.status.problems = loaded.problems.iter().take(PROBLEMS_MAX).cloned().collect();
            self.status.progress.total_items = self.chosen(&work).count() as i64;
            if self.spec().plan {
                return self.plan(&work).await;
            }
            self.status.step = Some(Step::Objects);
            return Ok(());
        }
        match self.status.step.unwrap_or_default() {
            Step::Objects => self.objects(&work).await,
            Step::Volumes => self.volumes(&work, &repository).await,
            Step::Workloads => self.workloads(&work).await,
            Step::Waiting => self.wait(&work).await,
        }
    }

    fn mapping(&self, loaded: &Loaded) -> Mapping {
        let mut labels = BTreeMap::from([
            ("velero.io/restore-name".to_owned(), items::label(&self.name())),
            (MADE_BY.to_owned(), self.uid.to_owned()),
        ]);
        if let Some(backup) = &self.spec().backup_name {
            labels.insert("velero.io/backup-name".into(), items::label(backup));
        }
        Mapping {
            namespace: (loaded.from.clone(), self.namespace.into()),
            storage_class: self.spec().storage_class_mapping.clone(),
            image: self.spec().image_mapping.clone(),
            labels,
        }
    }

    /// What is to be applied, in order: recorded objects of kinds that are served and wanted.
    fn chosen<'w>(&self, work: &'w Work<'_>) -> impl Iterator<Item = (&'w Recorded, &'w Kind)> + use<'w> {
        let spec = self.spec().clone();
        work.loaded.objects.iter().filter_map(move |recorded| {
            let kind = work.kind(recorded)?;
            let is_chosen = kind.is_chosen(&spec.included_resources, &spec.excluded_resources)
                && (spec.restore_pvs || recorded.kind != "PersistentVolumeClaim")
                && spec.label_selector.as_ref().is_none_or(|selector| selects(selector, &recorded.object));
            (is_chosen && never::reason(recorded).is_none()).then_some((recorded, kind))
        })
    }

    /// Reads the snapshot once for this process.
    async fn loaded(&self, repository: &Repository) -> Result<Arc<Loaded>> {
        if let Some(known) = self.context.loaded.lock().expect("no panic while held").get(self.uid) {
            return Ok(Arc::clone(known));
        }
        let grant = grant(self.context, self.namespace, repository, Purpose::Read).await?;
        let scratch = self.context.scratch.join(format!("restore-{}", self.uid));
        let (memory, spec, own) = (self.context.memory, self.spec().clone(), self.namespace.to_owned());
        let fixed = self.status.snapshot.clone();
        let loaded = blocking(move || {
            std::fs::create_dir_all(&scratch)?;
            let loaded = load(&grant, &scratch, memory, &spec, &own, fixed.as_deref());
            std::fs::remove_dir_all(&scratch)?;
            loaded
        })
        .await?;
        let loaded = Arc::new(loaded);
        self.context.loaded.lock().expect("no panic while held").insert(self.uid.into(), Arc::clone(&loaded));
        Ok(loaded)
    }

    /// What would be done, object by object, as the server says.
    async fn plan(&mut self, work: &Work<'_>) -> Result<()> {
        let mut plan = Vec::new();
        for recorded in &work.loaded.objects {
            if let Some(why) = never::reason(recorded) {
                plan.push(json!({"object": recorded.title(), "action": "skipped", "message": why}));
                continue;
            }
            let Some(kind) = work.kind(recorded) else {
                plan.push(json!({"object": recorded.title(), "action": "unknown", "message": "this cluster does not serve the kind"}));
                continue;
            };
            let wanted = applied(recorded, &work.mapping);
            let action = match work.live(kind, &recorded.name).await? {
                Some(live) => {
                    let found = differences(&wanted, &live);
                    match (found.is_empty(), self.spec().existing_resource_policy) {
                        (true, _) => json!({"action": "unchanged"}),
                        (false, ExistingPolicy::None) => json!({"action": "conflict", "differences": found}),
                        (false, ExistingPolicy::Update) => json!({"action": "update", "differences": found}),
                    }
                }
                None => match work.create(kind, &wanted, true).await {
                    Ok(_) => json!({"action": "create"}),
                    Err(e) if k8s::is_forbidden(&e) => json!({"action": "forbidden", "message": told(&e, recorded)}),
                    Err(e) => json!({"action": "unknown", "message": told(&e, recorded)}),
                },
            };
            let mut entry = json!({"object": recorded.title()});
            entry.as_object_mut().expect("an object").extend(action.as_object().expect("an object").clone());
            plan.push(entry);
        }
        let volumes: Vec<&String> = work.loaded.volumes.iter().collect();
        let mut text = serde_json::to_string_pretty(
            &json!({"snapshot": work.loaded.snapshot, "objects": plan, "volumes": volumes}),
        )?;
        if text.len() > PLAN_MAX {
            let cut = (0..=PLAN_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            text.truncate(cut);
            self.status.warnings += 1;
        }
        let name = format!("{}-plan", self.name());
        let map = json!({
            "metadata": {"name": name, "ownerReferences": [{"apiVersion": "copal.dev/v1alpha1", "kind": "Restore", "name": self.name(), "uid": self.uid}]},
            "data": {"plan.json": text},
        });
        let maps: Api<ConfigMap> = Api::namespaced(work.tenant.clone(), self.namespace);
        let params = PatchParams::apply("copal").force();
        let mut map = map;
        (map["apiVersion"], map["kind"]) = (json!("v1"), json!("ConfigMap"));
        maps.patch(&name, &params, &Patch::Apply(&map)).await.context("cannot write the plan")?;
        self.status.plan = Some(PlanRef { config_map: name });
        self.end(Phase::Completed, "this is a plan: nothing was restored".into());
        Ok(())
    }

    /// Everything that workloads need.
    async fn objects(&mut self, work: &Work<'_>) -> Result<()> {
        let all: Vec<(&Recorded, &Kind)> =
            self.chosen(work).filter(|(recorded, _)| !order::is_workload(recorded)).collect();
        for recorded in work.loaded.objects.iter().filter(|r| work.kind(r).is_none() && never::reason(r).is_none()) {
            self.problem(recorded, "NotServed", "this cluster does not serve the kind".into(), true);
        }
        for (recorded, kind) in all {
            let made = self.apply(work, recorded, kind).await?;
            if recorded.kind == "PersistentVolumeClaim" && made && work.loaded.volumes.contains(&recorded.name) {
                let volume = VolumeStatus {
                    claim: recorded.name.clone(),
                    directory: recorded.name.clone(),
                    ..VolumeStatus::default()
                };
                if !self.status.volumes.iter().any(|v| v.directory == volume.directory) {
                    self.status.volumes.push(volume);
                }
            }
        }
        self.claims_of_sets(work).await?;
        self.status.step = Some(Step::Volumes);
        Ok(())
    }

    /// A claim that was backed up and whose manifest was not: nobody makes it, so it cannot be filled.
    async fn claims_of_sets(&mut self, work: &Work<'_>) -> Result<()> {
        let recorded: BTreeSet<&str> =
            work.loaded.objects.iter().filter(|r| r.kind == "PersistentVolumeClaim").map(|r| r.name.as_str()).collect();
        for directory in work.loaded.volumes.iter().filter(|directory| !recorded.contains(directory.as_str())) {
            let message =
                "it belongs to no claim: bring it into a running pod, or get files with copal mount".to_owned();
            let problem =
                ObjectProblem { kind: "volumes".into(), name: directory.clone(), reason: "NoClaim".into(), message };
            if !self.status.problems.contains(&problem) {
                self.status.warnings += 1;
                self.status.problems.push(problem);
            }
        }
        Ok(())
    }

    /// Makes an object, or leaves or updates one that is there; whether it is this Restore's.
    async fn apply(&mut self, work: &Work<'_>, recorded: &Recorded, kind: &Kind) -> Result<bool> {
        let wanted = applied(recorded, &work.mapping);
        match work.create(kind, &wanted, false).await {
            Ok(_) => {
                self.status.progress.items_restored += 1;
                return Ok(true);
            }
            Err(e) if k8s::is_conflict(&e) => {}
            Err(kube::Error::Api(status)) if status.code < 500 && status.code != 429 => {
                // What is there as it was needs no right to be made.
                if let Some(live) = work.live(kind, &recorded.name).await?
                    && differences(&wanted, &live).is_empty()
                {
                    self.status.progress.items_restored += 1;
                    return Ok(false);
                }
                let reason = if status.code == 403 { "Forbidden" } else { "Refused" };
                self.problem(recorded, reason, told(&kube::Error::Api(status), recorded), true);
                return Ok(false);
            }
            Err(e) => return Err(e).with_context(|| format!("cannot make {}", recorded.title())),
        }
        let Some(live) = work.live(kind, &recorded.name).await? else { return Ok(false) };
        if live["metadata"]["labels"][MADE_BY] == self.uid {
            return Ok(true);
        }
        let found = differences(&wanted, &live);
        match (found.is_empty(), self.spec().existing_resource_policy) {
            (true, _) => self.status.progress.items_restored += 1,
            (false, ExistingPolicy::None) => {
                self.problem(
                    recorded,
                    "Exists",
                    format!("it exists and is left as it is: {}", found.join("; ")),
                    false,
                );
            }
            (false, ExistingPolicy::Update) => match work.update(kind, &recorded.name, &wanted).await {
                Ok(()) => self.status.progress.items_restored += 1,
                Err(e) => self.problem(recorded, "NotUpdated", told(&e, recorded), true),
            },
        }
        Ok(false)
    }

    /// Fills the claims that were made.
    async fn volumes(&mut self, work: &Work<'_>, repository: &Repository) -> Result<()> {
        let wanted: BTreeSet<String> = self.status.volumes.iter().map(|volume| volume.claim.clone()).collect();
        let to_come: Vec<_> = self.chosen(work).flat_map(|(recorded, _)| futures(recorded)).collect();
        let groups = groups(&to_come, &wanted);
        let items: Vec<VolumeRestore> = items::of(&self.context.client, self.namespace, &self.name()).await?;
        let mut gone = true;
        for (n, group) in groups.iter().enumerate() {
            let name = format!("copal-{}-{n}", self.uid);
            let is_over = |claim: &String| self.status.volumes.iter().any(|v| v.claim == *claim && v.phase.is_over());
            if group.claims.iter().all(is_over) {
                gone &= standins::remove(work.tenant, self.namespace, &name).await?;
                continue;
            }
            gone = false;
            self.fill(work, repository, group, &name, &items).await?;
        }
        if gone {
            self.status.step = Some(Step::Workloads);
        }
        Ok(())
    }

    async fn fill(
        &mut self,
        work: &Work<'_>,
        repository: &Repository,
        group: &Group,
        name: &str,
        items: &[VolumeRestore],
    ) -> Result<()> {
        let owner = self.name();
        let shape = Shape {
            name,
            owner: ("copal.dev/v1alpha1", "Restore", &owner, self.uid),
            image: &self.context.image,
            look: &repository.spec.pod,
            read_only: false,
        };
        let stand_in = standins::ensure(work.tenant, self.namespace, &shape.pod(group)).await?;
        for (n, claim) in group.claims.iter().enumerate() {
            let at =
                self.status.volumes.iter().position(|v| v.claim == *claim).context("a group's claim is a volume")?;
            if self.status.volumes[at].phase.is_over() {
                continue;
            }
            let item = items.iter().find(|item| item.name_any() == self.status.volumes[at].item);
            if let Some(item) = item {
                grants::answer(self.context, repository, Purpose::Read, item).await?;
                if items::settle(&self.context.client, item, &mut self.status.volumes[at]).await? {
                    self.status.volumes[at].item.clear();
                }
                continue;
            }
            match &stand_in {
                StandIn::Runs(pod, node) => self.item(work, at, n, claim, pod, node).await?,
                StandIn::Waits(why) => {
                    let is_late = since(self.status.start_timestamp.as_deref()) > STAND_IN;
                    let volume = &mut self.status.volumes[at];
                    volume.message.clone_from(why);
                    if is_late {
                        volume.phase = Phase::Failed;
                    }
                }
                StandIn::Refused(why) => {
                    let volume = &mut self.status.volumes[at];
                    (volume.phase, volume.message) = (Phase::Failed, why.clone());
                }
            }
        }
        Ok(())
    }

    async fn item(&mut self, work: &Work<'_>, at: usize, n: usize, claim: &str, pod: &Named, node: &str) -> Result<()> {
        let kind =
            work.kinds.iter().find(|kind| kind.resource() == "persistentvolumeclaims").context("claims are served")?;
        let Some(live) = work.live(kind, claim).await? else { bail!("the claim {claim} is gone") };
        let uid = live["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let place = Place { pod: pod.clone(), volume: format!("v{n}"), claim: Some(Named { name: claim.into(), uid }) };
        let volume = &mut self.status.volumes[at];
        if volume.tries >= 5 {
            (volume.phase, volume.message) = (Phase::Failed, format!("given up, at last because {}", volume.message));
            return Ok(());
        }
        let owner = self.restore.name_any();
        let name =
            format!("{}-{at}-{}", &owner[..owner.len().min(40)], Timestamp::now().as_millisecond() % 100_000_000);
        let item = json!({
            "apiVersion": "copal.dev/v1alpha1", "kind": "VolumeRestore",
            "metadata": meta(&name, &owner, ("Restore", &owner, self.uid)),
            "spec": {"node": node, "repository": self.restore.spec.storage_location, "place": place,
                "snapshot": work.loaded.snapshot, "directory": volume.directory},
        });
        let api: Api<VolumeRestore> = Api::namespaced(self.context.client.clone(), self.namespace);
        api.create(&PostParams::default(), &serde_json::from_value(item)?).await.context("cannot make a work item")?;
        (volume.item, volume.phase) = (name, Phase::New);
        volume.tries += 1;
        Ok(())
    }

    async fn workloads(&mut self, work: &Work<'_>) -> Result<()> {
        let all: Vec<(&Recorded, &Kind)> =
            self.chosen(work).filter(|(recorded, _)| order::is_workload(recorded)).collect();
        for (recorded, kind) in all {
            self.apply(work, recorded, kind).await?;
        }
        self.status.step = Some(Step::Waiting);
        Ok(())
    }

    /// Until what was made is ready, or the time is over.
    async fn wait(&mut self, work: &Work<'_>) -> Result<()> {
        let patience = duration(&self.spec().wait_for_ready).unwrap_or_default();
        let mut not_ready = Vec::new();
        let all: Vec<(&Recorded, &Kind)> =
            self.chosen(work).filter(|(recorded, _)| order::is_workload(recorded)).collect();
        for (recorded, kind) in all {
            let Some(live) = work.live(kind, &recorded.name).await? else { continue };
            if live["metadata"]["labels"][MADE_BY] == self.uid
                && let Some(message) = ready::unready(&live)
            {
                let kind = kind.resource();
                not_ready.push(ObjectProblem { kind, name: recorded.name.clone(), reason: "NotReady".into(), message });
            }
        }
        let is_late = since(self.status.start_timestamp.as_deref()) > patience;
        self.status.not_ready = not_ready;
        if !self.status.not_ready.is_empty() && !is_late && !patience.is_zero() {
            return Ok(());
        }
        let volumes = self.status.volumes.iter().filter(|volume| volume.phase != Phase::Completed).count();
        let missing = self.status.errors + volumes as i32;
        let not_ready = if patience.is_zero() { 0 } else { self.status.not_ready.len() };
        let message = match (missing, not_ready) {
            (0, 0) => String::new(),
            (0, n) => format!("everything is restored, but {n} workloads are not ready: see notReady"),
            (n, _) => format!("{n} things were not restored: see volumes and problems"),
        };
        self.status.errors = missing;
        let phase = if message.is_empty() { Phase::Completed } else { Phase::PartiallyFailed };
        self.end(phase, message);
        Ok(())
    }

    async fn clear(&self, tenant: &Client) -> Result<()> {
        let api: Api<VolumeRestore> = Api::namespaced(self.context.client.clone(), self.namespace);
        for item in items::of::<VolumeRestore>(&self.context.client, self.namespace, &self.name()).await? {
            items::delete(&api, &item.name_any()).await?;
        }
        for n in 0..self.status.volumes.len() {
            standins::remove(tenant, self.namespace, &format!("copal-{}-{n}", self.uid)).await?;
        }
        Ok(())
    }
}

/// What the steps need.
struct Work<'w> {
    tenant: &'w Client,
    kinds: &'w [Kind],
    loaded: &'w Loaded,
    mapping: Mapping,
}

impl Work<'_> {
    /// As it is served here, in whatever version.
    fn kind(&self, recorded: &Recorded) -> Option<&Kind> {
        let mut own = self.kinds.iter().filter(|kind| kind.group == recorded.group && kind.kind == recorded.kind);
        own.find(|kind| kind.verbs.contains("create"))
    }

    fn api(&self, kind: &Kind) -> Api<DynamicObject> {
        k8s::objects(self.tenant, kind, &self.mapping.namespace.1)
    }

    async fn live(&self, kind: &Kind, name: &str) -> Result<Option<Value>> {
        match self.api(kind).get_opt(name).await {
            Ok(found) => Ok(found.map(|object| k8s::value(&object, kind))),
            Err(e) if k8s::is_forbidden(&e) => Ok(None),
            Err(e) => Err(e).with_context(|| format!("cannot read {}/{name}", kind.kind)),
        }
    }

    /// As the version that it was recorded in.
    async fn create(&self, kind: &Kind, object: &Value, dry_run: bool) -> kube::Result<()> {
        let api_version = object["apiVersion"].as_str().unwrap_or_default();
        let version = api_version.rsplit('/').next().unwrap_or_default().to_owned();
        let api = self.api(&Kind { version, ..kind.clone() });
        let object: DynamicObject = serde_json::from_value(object.clone()).map_err(kube::Error::SerdeError)?;
        api.create(&PostParams { dry_run, field_manager: Some("copal".into()) }, &object).await.map(drop)
    }

    async fn update(&self, kind: &Kind, name: &str, object: &Value) -> kube::Result<()> {
        let mut object = object.clone();
        object["apiVersion"] = json!(kind.api_version());
        self.api(kind).patch(name, &PatchParams::default(), &Patch::Merge(&object)).await.map(drop)
    }
}

/// What the server says; never the object itself, and of a Secret not even that.
fn told(error: &kube::Error, recorded: &Recorded) -> String {
    match error {
        kube::Error::Api(status) if recorded.kind == "Secret" => format!("the server refuses it ({})", status.reason),
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NoSnapshot(String);

/// Finds the snapshot and reads its manifests. Blocks.
fn load(
    grant: &Grant,
    scratch: &std::path::Path,
    memory: u64,
    spec: &RestoreSpec,
    own: &str,
    fixed: Option<&str>,
) -> Result<Loaded> {
    let repo = Arc::new(grant.open(scratch, memory)?);
    let view = repo.view()?;
    let namespace = spec.source.namespace.as_deref().unwrap_or(own).to_owned();
    let label = |name: &str, value: &str| format!("{name}:{value}").into_bytes();
    let is_chosen = |names: &NamesPart| {
        let has = |name: &str, value: &str| names.labels.contains(&label(name, value));
        has("namespace", &namespace)
            && spec.source.cluster.as_ref().is_none_or(|cluster| has("cluster", cluster))
            && spec.backup_name.as_ref().is_none_or(|backup| has("backup", backup))
    };
    let chosen = |snapshot: &Snapshot| snapshot.names.as_ref().is_some_and(is_chosen);
    let asked = fixed.or(spec.snapshot.as_deref()).unwrap_or("latest");
    let of_an_application =
        |s: &Snapshot| s.names.as_ref().is_some_and(|n| n.labels.iter().any(|l| l.starts_with(b"namespace:")));
    let found = match asked {
        "latest" => view.resolve(asked, chosen),
        id => view.resolve(id, of_an_application),
    };
    let what = spec.backup_name.as_ref().map_or(asked.to_owned(), |name| format!("of the Backup {name}"));
    let snapshot = found
        .map_err(|e| anyhow!(NoSnapshot(format!("there is no snapshot {what} of the namespace {namespace}: {e}"))))?;
    let root = snapshot.graph.root.context("the snapshot has no tree")?;
    let from = snapshot
        .names
        .as_ref()
        .and_then(|names| names.labels.iter().find_map(|l| l.strip_prefix(b"namespace:".as_slice())))
        .map_or(namespace, |name| String::from_utf8_lossy(name).into_owned());
    let reader = Reader::new(Arc::clone(&repo), Arc::clone(&view.index), (memory / 8) as usize);
    let mut loaded = Loaded {
        snapshot: snapshot.id().to_string(),
        objects: Vec::new(),
        volumes: BTreeSet::new(),
        problems: Vec::new(),
        from,
    };
    if let Some(tree) = reader.find(&root, b"volumes")?.and_then(|node| node.tree()) {
        for node in reader.entries(&tree)? {
            loaded.volumes.insert(String::from_utf8_lossy(&node.name).into_owned());
        }
    }
    if let Some(tree) = reader.find(&root, b"manifests")?.and_then(|node| node.tree()) {
        manifests(&reader, &tree, "manifests", 0, &mut loaded)?;
    }
    loaded.objects.sort_by_cached_key(order::rank);
    Ok(loaded)
}

fn manifests(
    reader: &Reader,
    tree: &copal_engine::id::BlobId,
    at: &str,
    depth: usize,
    loaded: &mut Loaded,
) -> Result<()> {
    for node in reader.entries(tree)? {
        let path = format!("{at}/{}", String::from_utf8_lossy(&node.name));
        if let Some(tree) = node.tree().filter(|_| depth < 4) {
            manifests(reader, &tree, &path, depth + 1, loaded)?;
            continue;
        }
        if path == "manifests/namespace.json" {
            continue;
        }
        if loaded.objects.len() >= OBJECTS_MAX {
            bail!("the snapshot holds more than {OBJECTS_MAX} manifests");
        }
        let read = match node.size() {
            size if size > crate::shim::record::MANIFEST_MAX => {
                Err(format!("{path} has {size} bytes, more than an API server takes"))
            }
            _ => content(reader, &node).map_err(|e| format!("{path}: {e}")).and_then(|bytes| read(&path, &bytes)),
        };
        match read {
            Ok(recorded) => loaded.objects.push(recorded),
            Err(message) => loaded.problems.push(ObjectProblem {
                kind: "manifests".into(),
                name: path,
                reason: "Unreadable".into(),
                message,
            }),
        }
    }
    Ok(())
}

fn content(reader: &Reader, node: &copal_engine::repo::Node) -> copal_engine::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.each_piece(node, &mut |piece| {
        match piece.data {
            Some(id) => bytes.extend_from_slice(&reader.blob(&id, copal_engine::format::blob::BlobKind::Data)?),
            None => bytes.resize(bytes.len() + piece.len as usize, 0),
        }
        Ok(())
    })?;
    Ok(bytes)
}

/// Whether a label selector takes an object.
fn selects(selector: &k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector, object: &Value) -> bool {
    let label = |name: &str| object["metadata"]["labels"][name].as_str();
    let labels = selector.match_labels.iter().flatten().all(|(name, value)| label(name) == Some(value));
    labels
        && selector.match_expressions.iter().flatten().all(|e| {
            let values = e.values.as_deref().unwrap_or_default();
            let is_in = label(&e.key).is_some_and(|value| values.iter().any(|v| v == value));
            match e.operator.as_str() {
                "In" => is_in,
                "NotIn" => !is_in,
                "Exists" => label(&e.key).is_some(),
                _ => label(&e.key).is_none(),
            }
        })
}
