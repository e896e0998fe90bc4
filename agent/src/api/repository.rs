//! Where the snapshots of a namespace go, and with which keys.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A repository in a bucket, as a namespace uses it. The owner's key never enters the cluster.
#[derive(CustomResource, Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "copal.dev",
    version = "v1alpha1",
    kind = "Repository",
    plural = "repositories",
    shortname = "crepo",
    category = "copal",
    namespaced,
    status = "RepositoryStatus",
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Bucket","type":"string","jsonPath":".spec.s3.bucket"}"#,
    printcolumn = r#"{"name":"Validated","type":"date","jsonPath":".status.lastValidated"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.message","priority":1}"#
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.readOnly || has(self.writerKeySecretRef)", "message": "a Repository that is not readOnly needs writerKeySecretRef"},
    {"rule": "!(has(self.caSecretRef) && has(self.caConfigMapRef))", "message": "give caSecretRef or caConfigMapRef, not both"}
]))]
pub struct RepositorySpec {
    /// The bucket.
    pub s3: Bucket,
    /// Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the names that an ObjectBucketClaim writes.
    pub credentials_secret_ref: NameRef,
    /// The same for restores, where these have credentials of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_credentials_secret_ref: Option<NameRef>,
    /// The CA that signed the server's certificate, in a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<KeyRef>,
    /// The same in a ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_config_map_ref: Option<KeyRef>,
    /// The tenant's own key for SSE-C, on top of our encryption: 32 bytes, as they are or in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sse_customer_key_secret_ref: Option<KeyRef>,
    /// Secret with the writer's key in `key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writer_key_secret_ref: Option<NameRef>,
    /// Secret with the reader's key in `key`; needed while something is restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reader_key_secret_ref: Option<NameRef>,
    /// How our own pods in this namespace look.
    #[serde(default)]
    pub pod: PodLook,
    /// Backups are refused.
    #[serde(default)]
    pub read_only: bool,
}

/// A bucket and how to reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Bucket {
    /// Its name.
    #[schemars(length(min = 3, max = 63), regex(pattern = r"^[a-z0-9][a-z0-9.-]*[a-z0-9]$"))]
    pub bucket: String,
    /// What the repository's objects begin with.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512), regex(pattern = r"^[A-Za-z0-9._/-]*$"))]
    pub prefix: String,
    /// The server, as `https://s3.example:443`; without it, AWS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), regex(pattern = r"^https?://[A-Za-z0-9.\[\]:-]+/?$"))]
    pub endpoint: Option<String>,
    /// Its region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9-]+$"))]
    pub region: Option<String>,
    /// Whether the bucket stands in the path or in the host's name.
    #[serde(default)]
    pub path_style: PathStyle,
}

/// As `copal --s3-path-style`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum PathStyle {
    /// In the path for servers with an endpoint of their own.
    #[default]
    Auto,
    /// In the path.
    Path,
    /// In the host's name.
    Virtual,
}

/// An object of the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NameRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// A value in an object of the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyRef {
    /// The object's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key in its data.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// What our own pods in the namespace carry, so that its quotas, policies and registries take them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PodLook {
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(length(max = 64))]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(length(max = 64))]
    pub annotations: BTreeMap<String, String>,
    /// Requests and limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<k8s_openapi::api::core::v1::ResourceRequirements>,
    /// Tolerations.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub tolerations: Vec<k8s_openapi::api::core::v1::Toleration>,
    /// Secrets to pull our image with.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<NameRef>,
    /// Priority class.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub priority_class_name: String,
}

/// Whether it can be used.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RepositoryStatus {
    /// `Available` or `Unavailable`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub phase: String,
    /// Why not.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When that was found (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_validated: Option<String>,
    /// The repository's id.
    #[serde(rename = "repositoryID", skip_serializing_if = "Option::is_none")]
    pub repository_id: Option<String>,
    /// The generation that this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, `CreateOnly`, `AppendOnly`, `BucketOutlivesNamespace`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
