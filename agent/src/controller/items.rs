//! Items of a request: how they are found, and what their states mean for it.

use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::api::Phase;
use crate::api::backup::VolumeStatus;
use crate::api::items::{Item, ItemStatus};
use crate::k8s::{is_conflict, is_missing};

/// Label of items: the name of their request.
pub(super) const REQUEST: &str = "copal.dev/request";
/// An agent that says nothing for so long has died.
const SILENT: Duration = Duration::from_secs(60);
/// Nobody has taken an item for so long: there is no agent.
const UNCLAIMED: Duration = Duration::from_secs(120);
/// Attempts of one item.
const ATTEMPTS: i32 = 3;

/// All items of a request.
pub(super) async fn of<K>(client: &Client, namespace: &str, request: &str) -> Result<Vec<K>>
where
    K: Item + kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope> + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let params = ListParams::default().labels(&format!("{REQUEST}={}", label(request)));
    Ok(api.list(&params).await.context("cannot list work items")?.items)
}

/// A name as the value of a label, which is at most 63 bytes.
pub(super) fn label(name: &str) -> String {
    match name.len() {
        0..=63 => name.into(),
        _ => format!("{}-{}", &name[..46], &blake3::hash(name.as_bytes()).to_hex()[..16]),
    }
}

/// Metadata of a new item.
pub(super) fn meta(name: &str, request: &str, owner: (&str, &str, &str)) -> Value {
    let (kind, owner_name, uid) = owner;
    json!({
        "name": name,
        "labels": {REQUEST: label(request)},
        "ownerReferences": [{"apiVersion": "copal.dev/v1alpha1", "kind": kind, "name": owner_name, "uid": uid, "controller": true}],
    })
}

/// What is to be done about an item.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Wait.
    Leave,
    /// Its agent has died: it may be tried again.
    Again,
    /// It is over, for this reason.
    Fail(String),
    /// Its agent has given it up: the volume may be somewhere else by now.
    Replace(String),
}

/// Decides by a status and the time since the item was made.
pub(super) fn judge(status: &ItemStatus, node: &str, age: Duration, now: Timestamp) -> Verdict {
    match status.phase {
        Phase::New if status.released => Verdict::Replace(status.message.clone()),
        Phase::New if status.attempt == 0 && age > UNCLAIMED => Verdict::Fail(format!(
            "no agent of Copal has taken it: is there one on the node {node}? (kubectl -n copal-system get pods -o wide)"
        )),
        Phase::InProgress => {
            let beat = status.heartbeat.as_deref().and_then(|text| text.parse::<Timestamp>().ok());
            let silent = beat.is_none_or(|beat| {
                now.duration_since(beat) > k8s_openapi::jiff::SignedDuration::try_from(SILENT).unwrap_or_default()
            });
            match (silent, status.attempt >= ATTEMPTS) {
                (false, _) => Verdict::Leave,
                (true, false) => Verdict::Again,
                (true, true) => Verdict::Fail(format!("its agent has died {ATTEMPTS} times")),
            }
        }
        _ => Verdict::Leave,
    }
}

/// Carries a verdict out and says what it means for the volume; whether the item is to be replaced.
pub(super) async fn settle<K>(client: &Client, item: &K, volume: &mut VolumeStatus) -> Result<bool>
where
    K: Item + kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope> + DeserializeOwned,
{
    let status = item.state();
    let api: Api<K> = Api::namespaced(client.clone(), &item.namespace().unwrap_or_default());
    let name = item.name_any();
    let now = Timestamp::now();
    let made = item.creation_timestamp().map_or(now, |time| time.0);
    let age = Duration::try_from(now.duration_since(made)).unwrap_or_default();
    match judge(&status, item.what().0, age, now) {
        Verdict::Leave => {}
        Verdict::Again => {
            let patch = json!({"metadata": {"resourceVersion": item.resource_version()},
                "status": {"phase": Phase::New, "agent": null, "publicKey": null, "grant": null, "message": "its agent has died"}});
            match api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
                Err(e) if !is_conflict(&e) && !is_missing(&e) => return Err(e).context("cannot give an item back"),
                _ => {}
            }
        }
        Verdict::Fail(why) => {
            (volume.phase, volume.message) = (Phase::Failed, why);
            delete(&api, &name).await?;
            return Ok(false);
        }
        Verdict::Replace(why) => {
            volume.message = why;
            delete(&api, &name).await?;
            return Ok(true);
        }
    }
    volume.phase = status.phase;
    (volume.files, volume.problems) = (status.files, status.problems);
    volume.bytes = if status.phase.is_over() { status.bytes } else { status.progress.bytes_done };
    if status.phase.is_over() || !status.message.is_empty() {
        volume.message = status.message;
    }
    Ok(false)
}

/// Deletes an item; one that is gone is gone.
pub(super) async fn delete<K>(api: &Api<K>, name: &str) -> Result<()>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    match api.delete(name, &DeleteParams::default()).await {
        Err(e) if !is_missing(&e) => Err(e).context("cannot delete an item"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table() {
        let now: Timestamp = "2026-01-01T00:10:00Z".parse().unwrap();
        let status = |phase, attempt, heartbeat: &str, released| ItemStatus {
            phase,
            attempt,
            heartbeat: Some(heartbeat.to_owned()).filter(|h| !h.is_empty()),
            released,
            message: "why".into(),
            ..ItemStatus::default()
        };
        let of = |status: ItemStatus, age| judge(&status, "n", Duration::from_secs(age), now);
        assert_eq!(of(status(Phase::New, 0, "", false), 10), Verdict::Leave);
        assert!(matches!(of(status(Phase::New, 0, "", false), 130), Verdict::Fail(_)));
        assert_eq!(of(status(Phase::New, 1, "", true), 10), Verdict::Replace("why".into()));
        assert_eq!(of(status(Phase::InProgress, 1, "2026-01-01T00:09:30Z", false), 600), Verdict::Leave);
        assert_eq!(of(status(Phase::InProgress, 1, "2026-01-01T00:08:30Z", false), 600), Verdict::Again);
        assert!(matches!(of(status(Phase::InProgress, 3, "2026-01-01T00:08:30Z", false), 600), Verdict::Fail(_)));
        assert_eq!(of(status(Phase::Completed, 1, "2026-01-01T00:00:00Z", false), 600), Verdict::Leave);
    }

    #[test]
    fn long_names_stay_apart() {
        let long = "x".repeat(60) + "-first";
        assert!(label(&long).len() <= 63 && label(&long) != label(&("x".repeat(60) + "-second")) && label("a") == "a");
    }
}
