//! A snapshot back into a namespace.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::Phase;
use super::backup::{ObjectProblem, VolumeStatus};

/// Brings what a snapshot holds into this namespace.
#[derive(CustomResource, Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "copal.dev",
    version = "v1alpha1",
    kind = "Restore",
    plural = "restores",
    shortname = "cres",
    category = "copal",
    namespaced,
    status = "RestoreStatus",
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Step","type":"string","jsonPath":".status.step"}"#,
    printcolumn = r#"{"name":"Objects","type":"integer","jsonPath":".status.progress.itemsRestored"}"#,
    printcolumn = r#"{"name":"Errors","type":"integer","jsonPath":".status.errors"}"#,
    printcolumn = r#"{"name":"Snapshot","type":"string","jsonPath":".status.snapshot","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.backupName) != has(self.snapshot)", "message": "give backupName or snapshot (an id, or latest), and only one of them"},
    {"rule": "has(self.backupName) == has(oldSelf.backupName) && (!has(self.backupName) || self.backupName == oldSelf.backupName) && has(self.snapshot) == has(oldSelf.snapshot) && (!has(self.snapshot) || self.snapshot == oldSelf.snapshot) && self.storageLocation == oldSelf.storageLocation && self.plan == oldSelf.plan && self.existingResourcePolicy == oldSelf.existingResourcePolicy && self.restorePVs == oldSelf.restorePVs", "message": "a Restore says what was restored: only cancel may change; make another Restore"},
    {"rule": "!oldSelf.cancel || self.cancel", "message": "a cancelled Restore stays so; make another one"}
]))]
pub struct RestoreSpec {
    /// The Repository of this namespace.
    #[schemars(length(min = 1, max = 253))]
    pub storage_location: String,
    /// The Backup that made the snapshot. It is found in the bucket, so it need not exist in this cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub backup_name: Option<String>,
    /// `latest`, or the first digits of a snapshot's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 4, max = 64), regex(pattern = r"^(latest|[0-9a-f]{4,64})$"))]
    pub snapshot: Option<String>,
    /// Whose snapshot.
    #[serde(default)]
    pub source: Source,
    /// Say what would be done, and touch nothing.
    #[serde(default)]
    pub plan: bool,
    /// What becomes of objects that exist.
    #[serde(default)]
    pub existing_resource_policy: ExistingPolicy,
    /// Claims are made and filled.
    #[serde(rename = "restorePVs", default = "yes")]
    #[schemars(default = "yes")]
    pub restore_pvs: bool,
    /// Storage classes by other names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(length(max = 64))]
    pub storage_class_mapping: BTreeMap<String, String>,
    /// Beginnings of image names by other beginnings.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(length(max = 64))]
    pub image_mapping: BTreeMap<String, String>,
    /// Kinds, as `deployments` or `deployments.apps`; `*` and none are all.
    #[serde(default)]
    #[schemars(length(max = 256), inner(length(min = 1, max = 253)))]
    pub included_resources: Vec<String>,
    /// Kinds that are left out.
    #[serde(default)]
    #[schemars(length(max = 256), inner(length(min = 1, max = 253)))]
    pub excluded_resources: Vec<String>,
    /// Only objects with these labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_selector: Option<LabelSelector>,
    /// Kinds whose status is restored, too.
    #[serde(default)]
    pub restore_status: StatusKinds,
    /// How long to wait until workloads are ready, as `10m`; `0s` does not wait.
    #[serde(default = "ten_minutes")]
    #[schemars(
        default = "ten_minutes",
        length(min = 2, max = 32),
        regex(pattern = r"^([0-9]+h)?([0-9]+m)?([0-9]+s)?$")
    )]
    pub wait_for_ready: String,
    /// Stop. What was restored stays.
    #[serde(default)]
    pub cancel: bool,
}

fn yes() -> bool {
    true
}

fn ten_minutes() -> String {
    "10m".into()
}

/// Whose snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Source {
    /// The namespace that was backed up; by default this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// The cluster (uid of its namespace kube-system), only where that is ambiguous.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub cluster: Option<String>,
}

/// What becomes of objects that exist.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ExistingPolicy {
    /// They stay as they are, and what differs is listed.
    #[default]
    None,
    /// They are made as they were.
    Update,
}

/// Kinds, as `deployments` or `deployments.apps`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusKinds {
    /// These.
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    pub included_resources: Vec<String>,
    /// But not these.
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    pub excluded_resources: Vec<String>,
}

/// What a restore does at present.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Step {
    /// Objects that are no workload.
    #[default]
    Objects,
    /// Volumes are filled.
    Volumes,
    /// Workloads.
    Workloads,
    /// Until they are ready.
    Waiting,
}

/// Where it stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RestoreStatus {
    /// Where it stands.
    pub phase: Phase,
    /// What it does at present.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<Step>,
    /// What it waits for, or why it ended so.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The snapshot that was found: 64 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// Where the plan is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanRef>,
    /// When it began (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_timestamp: Option<String>,
    /// When it was over (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_timestamp: Option<String>,
    /// How far it is.
    pub progress: RestoreProgress,
    /// Claims that exist because of this Restore, which may be filled.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeStatus>,
    /// Workloads that are not ready, each with its reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_ready: Vec<ObjectProblem>,
    /// How many things are listed that harm nothing.
    pub warnings: i32,
    /// How many things were not restored.
    pub errors: i32,
    /// Of these the first 50.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<ObjectProblem>,
    /// The generation that this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Succeeded`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// How far a restore is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RestoreProgress {
    /// Objects that are there now.
    pub items_restored: i64,
    /// Of these.
    pub total_items: i64,
}

/// A plan in the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PlanRef {
    /// The ConfigMap.
    pub config_map: String,
}
