//! Whether an item means what it says: that very pod, here, with that very claim, bound to the volume that the kubelet mounted.

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use kube::{Api, Client};

use super::path::Sought;
use crate::api::items::Place;
use crate::k8s::is_missing;

/// What was found.
pub(super) enum Found {
    /// The volume, by what the kubelet calls it.
    Volume(Sought),
    /// The application needs it, or has given it up: in a sentence.
    Gone(String),
}

/// Compares the item with pod, claim and volume as they are now. An error: they contradict each other, and nothing may be read.
pub(super) async fn verify(client: &Client, namespace: &str, node: &str, place: &Place) -> Result<Found> {
    let Some(pod) = pod(client, namespace, place).await? else {
        return Ok(Found::Gone(format!("the pod {} is gone or going", place.pod.name)));
    };
    let spec = pod.spec.unwrap_or_default();
    if spec.node_name.as_deref() != Some(node) {
        bail!("the pod {} does not run on this node", place.pod.name);
    }
    let volume = spec.volumes.into_iter().flatten().find(|volume| volume.name == place.volume);
    let Some(volume) = volume else { bail!("the pod {} has no volume {}", place.pod.name, place.volume) };
    match &place.claim {
        None if volume.empty_dir.is_some() => Ok(Found::Volume(Sought::EmptyDir(volume.name))),
        None => bail!("the volume {} of the pod {} is no emptyDir", place.volume, place.pod.name),
        Some(claim) => {
            if claim_of(&volume, &place.pod.name).as_deref() != Some(&claim.name) {
                bail!("the volume {} of the pod {} is not the claim {}", place.volume, place.pod.name, claim.name);
            }
            bound(client, namespace, &claim.name, &claim.uid).await.map(Found::Volume)
        }
    }
}

/// That pod, unless it is gone, going, or another one of its name.
pub(super) async fn pod(client: &Client, namespace: &str, place: &Place) -> Result<Option<Pod>> {
    match Api::<Pod>::namespaced(client.clone(), namespace).get(&place.pod.name).await {
        Ok(pod) if pod.metadata.uid.as_deref() != Some(&place.pod.uid) => Ok(None),
        Ok(pod) if pod.metadata.deletion_timestamp.is_some() => Ok(None),
        Ok(pod) => Ok(Some(pod)),
        Err(e) if is_missing(&e) => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot read the pod {}", place.pod.name)),
    }
}

fn claim_of(volume: &Volume, pod: &str) -> Option<String> {
    let own = volume.persistent_volume_claim.as_ref().map(|claim| claim.claim_name.clone());
    own.or_else(|| volume.ephemeral.as_ref().map(|_| format!("{pod}-{}", volume.name)))
}

/// The PersistentVolume of a claim, which must say the same of each other.
async fn bound(client: &Client, namespace: &str, name: &str, uid: &str) -> Result<Sought> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let claim = claims.get(name).await.with_context(|| format!("cannot read the claim {name}"))?;
    if claim.metadata.uid.as_deref() != Some(uid) {
        bail!("the claim {name} is another one by now");
    }
    let Some(volume) = claim.spec.and_then(|spec| spec.volume_name) else { bail!("the claim {name} is not bound") };
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let found = volumes.get(&volume).await.with_context(|| format!("cannot read the volume {volume}"))?;
    let spec = found.spec.unwrap_or_default();
    let back = spec.claim_ref.unwrap_or_default();
    if back.uid.as_deref() != Some(uid) || back.namespace.as_deref() != Some(namespace) {
        bail!("the volume {volume} is bound to another claim than {name}");
    }
    if spec.host_path.is_some() {
        bail!("the volume {volume} is a directory of the node: such volumes are not backed up or filled");
    }
    Ok(Sought::Persistent(volume))
}
