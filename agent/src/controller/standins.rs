//! Stand-in pods: made, looked at and taken away as the tenant.

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use serde_json::Value;

use crate::api::items::Named;
use crate::k8s::{is_conflict, is_missing};

/// Where a stand-in stands.
pub(super) enum StandIn {
    /// It runs, on this node.
    Runs(Named, String),
    /// It does not yet, for this reason.
    Waits(String),
    /// It cannot.
    Refused(String),
}

/// Looks for it, and makes it if it is not there.
pub(super) async fn ensure(tenant: &Client, namespace: &str, pod: &Value) -> Result<StandIn> {
    let pods: Api<Pod> = Api::namespaced(tenant.clone(), namespace);
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let Some(found) = pods.get_opt(name).await.context("cannot look for our stand-in pod")? else {
        let wanted: Pod = serde_json::from_value(pod.clone()).context("the stand-in is no pod")?;
        return match pods.create(&PostParams::default(), &wanted).await {
            Ok(_) => Ok(StandIn::Waits("our pod was just made".into())),
            Err(e) if is_conflict(&e) => Ok(StandIn::Waits("our pod was just made".into())),
            // A quota, a policy or a webhook: it says why.
            Err(kube::Error::Api(status)) => {
                Ok(StandIn::Refused(format!("a pod that mounts it is refused: {}", status.message)))
            }
            Err(e) => Err(e).context("cannot make a pod that mounts the claim"),
        };
    };
    let status = found.status.unwrap_or_default();
    let node = found.spec.and_then(|spec| spec.node_name);
    match (status.phase.as_deref(), node) {
        (Some("Running"), Some(node)) if found.metadata.deletion_timestamp.is_none() => {
            let named = Named { name: name.into(), uid: found.metadata.uid.unwrap_or_default() };
            Ok(StandIn::Runs(named, node))
        }
        (Some("Failed" | "Succeeded"), _) => {
            remove(tenant, namespace, name).await?;
            Ok(StandIn::Waits("our pod has ended".into()))
        }
        _ => {
            let scheduled =
                status.conditions.into_iter().flatten().find(|c| c.type_ == "PodScheduled" && c.status == "False");
            let why = scheduled.and_then(|c| c.message).unwrap_or_else(|| "its containers are being started".into());
            Ok(StandIn::Waits(format!("a pod of ours that mounts it does not run yet: {why}")))
        }
    }
}

/// Takes it away; whether it is gone.
pub(super) async fn remove(tenant: &Client, namespace: &str, name: &str) -> Result<bool> {
    let pods: Api<Pod> = Api::namespaced(tenant.clone(), namespace);
    match pods.delete(name, &DeleteParams::default().grace_period(1)).await {
        Ok(_) => Ok(false),
        Err(e) if is_missing(&e) => Ok(true),
        Err(e) => Err(e).context("cannot remove our stand-in pod"),
    }
}
