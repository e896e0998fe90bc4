//! What is not restored: the cluster makes it again, or it would harm.

use serde_json::Value;

use super::record::Recorded;

/// Controllers of these kinds make their children again.
const BUILT_IN: [(&str, &str); 8] = [
    ("apps/", "ReplicaSet"),
    ("apps/", "Deployment"),
    ("apps/", "StatefulSet"),
    ("apps/", "DaemonSet"),
    ("batch/", "Job"),
    ("batch/", "CronJob"),
    ("v1", "ReplicationController"),
    ("apps.openshift.io/", "DeploymentConfig"),
];

/// ConfigMaps that every namespace gets.
const CONFIG_MAPS: [&str; 2] = ["kube-root-ca.crt", "openshift-service-ca.crt"];

/// Kinds that are never restored, by group.
const KINDS: [(&str, &str); 13] = [
    ("", "Event"),
    ("events.k8s.io", "Event"),
    ("", "Endpoints"),
    ("discovery.k8s.io", "EndpointSlice"),
    ("coordination.k8s.io", "Lease"),
    ("snapshot.storage.k8s.io", "VolumeSnapshot"),
    ("copal.dev", "Backup"),
    ("copal.dev", "Restore"),
    ("copal.dev", "VolumeBackup"),
    ("copal.dev", "VolumeRestore"),
    ("copal.dev", "Repository"),
    ("metrics.k8s.io", "PodMetrics"),
    ("packages.operators.coreos.com", "PackageManifest"),
];

/// Why an object is not restored; `None`: it is. Endpoints and EndpointSlices that nobody makes again (of Services without a selector)
/// are restored.
pub fn reason(recorded: &Recorded) -> Option<String> {
    let object = &recorded.object;
    let meta = &object["metadata"];
    if let Some(owner) = controller(meta) {
        let api_version = owner["apiVersion"].as_str().unwrap_or_default();
        let kind = owner["kind"].as_str().unwrap_or_default();
        if BUILT_IN.iter().any(|(group, name)| *name == kind && api_version.starts_with(group)) {
            return Some(format!("its {kind} makes it again"));
        }
        if kind == "Node" {
            return Some("it belongs to a node".into());
        }
    }
    if KINDS.contains(&(recorded.group.as_str(), recorded.kind.as_str())) && !is_by_hand(recorded) {
        return Some("the cluster makes these itself".into());
    }
    match recorded.kind.as_str() {
        "ConfigMap" if CONFIG_MAPS.contains(&recorded.name.as_str()) => Some("every namespace gets one".into()),
        "Secret" => secret(recorded),
        "ServiceAccount" if matches!(recorded.name.as_str(), "default" | "copal") => {
            Some("the namespace has its own".into())
        }
        "Pod" if meta["annotations"]["kubernetes.io/config.mirror"].is_string() => Some("it belongs to a node".into()),
        "Pod" if matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) => {
            Some("it has ended".into())
        }
        "Job" if !object["status"]["completionTime"].is_null() => Some("it is done".into()),
        _ => None,
    }
}

fn secret(recorded: &Recorded) -> Option<String> {
    let made = recorded.object["type"] == "kubernetes.io/service-account-token"
        || recorded.object["metadata"]["annotations"]["openshift.io/internal-registry-auth-token.service-account"]
            .is_string()
        || recorded.name.contains("-dockercfg-");
    made.then(|| "the cluster makes tokens itself".into())
}

/// Endpoints that a person or an operator wrote.
fn is_by_hand(recorded: &Recorded) -> bool {
    let labels = &recorded.object["metadata"]["labels"];
    match recorded.kind.as_str() {
        "EndpointSlice" => {
            let by = labels["endpointslice.kubernetes.io/managed-by"].as_str().unwrap_or_default();
            !by.starts_with("endpointslice-controller") && !by.starts_with("endpointslicemirroring-controller")
        }
        "Endpoints" => {
            let by_controller =
                recorded.object["metadata"]["annotations"]["endpoints.kubernetes.io/last-change-trigger-time"]
                    .is_string();
            !by_controller && labels["endpoints.kubernetes.io/managed-by"] != "endpoint-controller"
        }
        _ => false,
    }
}

/// The owner that controls an object.
pub fn controller(meta: &Value) -> Option<&Value> {
    meta["ownerReferences"].as_array()?.iter().find(|owner| owner["controller"] == true)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn recorded(group: &str, kind: &str, name: &str, mut object: Value) -> Recorded {
        object["metadata"]["name"] = json!(name);
        Recorded { group: group.into(), version: "v1".into(), kind: kind.into(), name: name.into(), object }
    }

    #[test]
    fn the_table() {
        let owned = |kind: &str, api: &str| json!({"metadata": {"ownerReferences": [{"apiVersion": api, "kind": kind, "controller": true}]}});
        for (object, restored) in [
            (recorded("", "Pod", "a", json!({})), true),
            (recorded("", "Pod", "a", owned("ReplicaSet", "apps/v1")), false),
            (recorded("", "Pod", "a", owned("Database", "example.com/v1")), true),
            (recorded("", "Pod", "a", owned("Node", "v1")), false),
            (recorded("", "Pod", "a", json!({"status": {"phase": "Succeeded"}})), false),
            (recorded("apps", "ReplicaSet", "a", owned("Deployment", "apps/v1")), false),
            (recorded("apps", "ReplicaSet", "a", json!({})), true),
            (recorded("batch", "Job", "a", owned("CronJob", "batch/v1")), false),
            (recorded("batch", "Job", "a", json!({"status": {"completionTime": "2026-01-01T00:00:00Z"}})), false),
            (recorded("", "ConfigMap", "kube-root-ca.crt", json!({})), false),
            (recorded("", "ConfigMap", "mine", json!({})), true),
            (recorded("", "Secret", "x", json!({"type": "kubernetes.io/service-account-token"})), false),
            (recorded("", "Secret", "builder-dockercfg-1", json!({})), false),
            (recorded("", "Secret", "x", json!({"type": "Opaque"})), true),
            (recorded("", "ServiceAccount", "default", json!({})), false),
            (recorded("", "ServiceAccount", "web", json!({})), true),
            (
                recorded(
                    "discovery.k8s.io",
                    "EndpointSlice",
                    "a",
                    json!({"metadata": {"labels": {"endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}}}),
                ),
                false,
            ),
            (
                recorded(
                    "discovery.k8s.io",
                    "EndpointSlice",
                    "a",
                    json!({"metadata": {"labels": {"endpointslice.kubernetes.io/managed-by": "me"}}}),
                ),
                true,
            ),
            (recorded("", "Event", "a", json!({})), false),
            (recorded("copal.dev", "Backup", "a", json!({})), false),
            (recorded("", "PersistentVolumeClaim", "a", json!({})), true),
        ] {
            assert_eq!(reason(&object).is_none(), restored, "{}", object.title());
        }
    }
}
