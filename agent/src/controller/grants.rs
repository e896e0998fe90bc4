//! Answers to agents: what a run needs, sealed to the key that it shows.

use anyhow::Result;
use copal_engine::crypto::rng::SystemRng;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::Context;
use super::place::{Purpose, grant};
use crate::api::items::Item;
use crate::api::{Phase, Repository};
use crate::grant::seal;

/// Answers an item that shows a public key and has no grant yet.
pub(super) async fn answer<K>(context: &Context, repository: &Repository, purpose: Purpose, item: &K) -> Result<()>
where
    K: Item
        + kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + serde::de::DeserializeOwned,
{
    let status = item.state();
    let Some(public) = status.public_key.filter(|_| status.phase == Phase::InProgress && status.grant.is_none()) else {
        return Ok(());
    };
    let namespace = item.namespace().unwrap_or_default();
    let grant = grant(context, &namespace, repository, purpose).await?;
    let uid = item.uid().unwrap_or_default();
    let sealed = seal(&grant, &public, &uid, status.attempt, &mut SystemRng)?;
    // Only for the attempt that showed the key.
    let patch = json!({"metadata": {"resourceVersion": item.resource_version()}, "status": {"grant": sealed}});
    let api: Api<K> = Api::namespaced(context.client.clone(), &namespace);
    match api.patch_status(&item.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await {
        Ok(_) => Ok(()),
        // It has moved on; its next state brings us here again.
        Err(e) if crate::k8s::is_conflict(&e) || crate::k8s::is_missing(&e) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
