//! Work items: one volume, one node. Only the controller makes them, only the agent of `spec.node` changes their status.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Phase;

/// An object by name, and which one of that name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Named {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its uid.
    #[schemars(length(min = 1, max = 64))]
    pub uid: String,
}

/// The volume of a pod, where the kubelet has mounted it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Place {
    /// The pod, which runs on the item's node.
    pub pod: Named,
    /// The volume's name in the pod.
    #[schemars(length(min = 1, max = 63))]
    pub volume: String,
    /// The claim behind it; none for an emptyDir.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Named>,
}

/// The session that the part belongs to, as in the repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunRef {
    /// The writer's id: 32 hexadecimal digits.
    #[schemars(length(equal = 32))]
    pub writer: String,
    /// The session's id, as `0000000000000007-00f1e2d3c4b5a697`.
    #[schemars(length(equal = 33))]
    pub session: String,
}

/// One volume into a part of an application's snapshot.
#[derive(CustomResource, Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "copal.dev",
    version = "v1alpha1",
    kind = "VolumeBackup",
    plural = "volumebackups",
    shortname = "cvb",
    namespaced,
    status = "ItemStatus",
    selectable = ".spec.node"
)]
#[serde(rename_all = "camelCase")]
pub struct VolumeBackupSpec {
    /// The node whose agent takes it.
    #[schemars(length(min = 1, max = 253))]
    pub node: String,
    /// The Repository of this namespace.
    #[schemars(length(min = 1, max = 253))]
    pub repository: String,
    /// What is read.
    pub place: Place,
    /// Name of the directory that the part holds: the claim's, or `<workload>.<volume>`.
    #[schemars(length(min = 1, max = 255))]
    pub directory: String,
    /// The application's snapshot in the making.
    pub run: RunRef,
    /// Paths that are left out (patterns as of `copal backup --exclude`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub exclude: Vec<String>,
    /// Stop.
    #[serde(default)]
    pub cancel: bool,
}

/// One volume out of a snapshot.
#[derive(CustomResource, Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "copal.dev",
    version = "v1alpha1",
    kind = "VolumeRestore",
    plural = "volumerestores",
    shortname = "cvr",
    namespaced,
    status = "ItemStatus",
    selectable = ".spec.node"
)]
#[serde(rename_all = "camelCase")]
pub struct VolumeRestoreSpec {
    /// The node whose agent fills it.
    #[schemars(length(min = 1, max = 253))]
    pub node: String,
    /// The Repository of this namespace.
    #[schemars(length(min = 1, max = 253))]
    pub repository: String,
    /// What is written.
    pub place: Place,
    /// The snapshot's id: 64 hexadecimal digits.
    #[schemars(length(equal = 64))]
    pub snapshot: String,
    /// Name of the directory below `volumes/` in it.
    #[schemars(length(min = 1, max = 255))]
    pub directory: String,
    /// Remove what the snapshot does not have.
    #[serde(default)]
    pub delete: bool,
    /// Stop.
    #[serde(default)]
    pub cancel: bool,
}

/// Where an item stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ItemStatus {
    /// Where it stands.
    pub phase: Phase,
    /// Who works on it: the name of the agent's pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Which try, from 1. What an older one brings is refused.
    pub attempt: i32,
    /// The agent's fresh public key for this attempt (base64).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// What the attempt needs, sealed to `publicKey` (base64); gone when the item is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grant: Option<String>,
    /// When the attempt began (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_timestamp: Option<String>,
    /// When the agent last said something (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<String>,
    /// When it was over (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_timestamp: Option<String>,
    /// How far it is.
    pub progress: Bytes,
    /// The part that was made: 64 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// Files read or written.
    pub files: i64,
    /// Their bytes.
    pub bytes: i64,
    /// What went wrong on the way.
    pub problems: i64,
    /// What stopped it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The agent gave it up, because the application needs the volume or nothing moved: it may be tried elsewhere or later.
    pub released: bool,
}

/// Bytes of a whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Bytes {
    /// Done.
    pub bytes_done: i64,
    /// Of these, as far as is known.
    pub total_bytes: i64,
}

/// What both kinds of items have in common.
pub trait Item: Clone + std::fmt::Debug + Send + Sync + 'static {
    /// In which directory of a snapshot the volume stands, and what is to be done with it.
    fn task(&self, namespace: &str) -> (String, crate::volume::job::Task);
    /// Node, volume, and whether to stop.
    fn what(&self) -> (&str, &Place, bool);
    /// Where it stands.
    fn state(&self) -> ItemStatus;
}

impl Item for VolumeBackup {
    fn task(&self, namespace: &str) -> (String, crate::volume::job::Task) {
        let (run, exclude) = (self.spec.run.clone(), self.spec.exclude.clone());
        (self.spec.directory.clone(), crate::volume::job::Task::Backup { run, host: namespace.into(), exclude })
    }

    fn what(&self) -> (&str, &Place, bool) {
        (&self.spec.node, &self.spec.place, self.spec.cancel)
    }

    fn state(&self) -> ItemStatus {
        self.status.clone().unwrap_or_default()
    }
}

impl Item for VolumeRestore {
    fn task(&self, _namespace: &str) -> (String, crate::volume::job::Task) {
        let (snapshot, delete) = (self.spec.snapshot.clone(), self.spec.delete);
        (self.spec.directory.clone(), crate::volume::job::Task::Restore { snapshot, delete })
    }

    fn what(&self) -> (&str, &Place, bool) {
        (&self.spec.node, &self.spec.place, self.spec.cancel)
    }

    fn state(&self) -> ItemStatus {
        self.status.clone().unwrap_or_default()
    }
}
