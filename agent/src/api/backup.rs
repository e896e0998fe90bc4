//! One snapshot of an application: manifests and volumes of a namespace.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Phase;
use super::items::{Bytes, RunRef};

/// One snapshot of what the namespace holds, or of a part of it.
#[derive(CustomResource, Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "copal.dev",
    version = "v1alpha1",
    kind = "Backup",
    plural = "backups",
    shortname = "cbk",
    category = "copal",
    namespaced,
    status = "BackupStatus",
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Objects","type":"integer","jsonPath":".status.progress.itemsBackedUp"}"#,
    printcolumn = r#"{"name":"Bytes","type":"integer","jsonPath":".status.progress.bytesDone"}"#,
    printcolumn = r#"{"name":"Errors","type":"integer","jsonPath":".status.errors"}"#,
    printcolumn = r#"{"name":"Snapshot","type":"string","jsonPath":".status.snapshot","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.storageLocation == oldSelf.storageLocation && self.volumeSource == oldSelf.volumeSource && self.defaultVolumesToFsBackup == oldSelf.defaultVolumesToFsBackup && self.includedResources == oldSelf.includedResources && self.excludedResources == oldSelf.excludedResources && has(self.labelSelector) == has(oldSelf.labelSelector) && (!has(self.labelSelector) || self.labelSelector == oldSelf.labelSelector) && self.orLabelSelectors == oldSelf.orLabelSelectors", "message": "a Backup says what was backed up: only cancel and ttl may change; make another Backup"},
    {"rule": "!(has(self.labelSelector) && size(self.orLabelSelectors) > 0)", "message": "give labelSelector or orLabelSelectors, not both"},
    {"rule": "!oldSelf.cancel || self.cancel", "message": "a cancelled Backup stays so; make another one"}
]))]
pub struct BackupSpec {
    /// The Repository of this namespace.
    #[schemars(length(min = 1, max = 253))]
    pub storage_location: String,
    /// How long the snapshot is meant to be kept, as `720h`. It shows an expiration; nothing is removed by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 32), regex(pattern = r"^([0-9]+h)?([0-9]+m)?([0-9]+s)?$"))]
    pub ttl: Option<String>,
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
    /// Only objects that one of these takes.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub or_label_selectors: Vec<LabelSelector>,
    /// All volumes but those that are opted out; otherwise only those that are opted in.
    #[serde(default = "yes")]
    #[schemars(default = "yes")]
    pub default_volumes_to_fs_backup: bool,
    /// What volumes are read from.
    #[serde(default)]
    pub volume_source: VolumeSource,
    /// Stop; what was not committed is no snapshot.
    #[serde(default)]
    pub cancel: bool,
}

fn yes() -> bool {
    true
}

/// What a volume is read from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VolumeSource {
    /// The best that there is; so far the mounted volume.
    #[default]
    Auto,
    /// The mounted volume.
    Live,
}

/// Where it stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BackupStatus {
    /// Where it stands.
    pub phase: Phase,
    /// What it waits for, or why it ended so.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The snapshot: 64 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// The session in the repository that makes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<RunRef>,
    /// When it began (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_timestamp: Option<String>,
    /// When it was over (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_timestamp: Option<String>,
    /// Until when it is meant to be kept (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expiration: Option<String>,
    /// How far it is.
    pub progress: BackupProgress,
    /// The volumes that it takes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeStatus>,
    /// Kinds that the namespace's account may neither list nor create: they belong to the platform.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_visible: Vec<String>,
    /// How many things are listed that harm nothing.
    pub warnings: i32,
    /// How many things are missing in the snapshot.
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

/// How far a backup is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BackupProgress {
    /// Objects whose manifests are recorded.
    pub items_backed_up: i64,
    /// Of these.
    pub total_items: i64,
    /// Bytes of the volumes.
    #[serde(flatten)]
    pub bytes: Bytes,
}

/// A volume of a backup or restore.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeStatus {
    /// The claim; empty for a volume that has none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub claim: String,
    /// Its directory below `volumes/` in the snapshot.
    pub directory: String,
    /// Where it stands.
    pub phase: Phase,
    /// `Live`, or `StandIn` where no pod of the application has it mounted.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// The work item.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub item: String,
    /// How many items there have been for it.
    pub tries: i32,
    /// Files.
    pub files: i64,
    /// Their bytes.
    pub bytes: i64,
    /// What went wrong on the way.
    pub problems: i64,
    /// What stopped it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// What is wrong with one object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ObjectProblem {
    /// Its kind, as `deployments.apps`.
    pub kind: String,
    /// Its name; empty where the whole kind is meant.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// In one word.
    pub reason: String,
    /// In a sentence.
    pub message: String,
}
