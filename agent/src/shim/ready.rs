//! Whether a restored workload is ready, and if not why.

use serde_json::Value;

/// `None`: it is ready, or of a kind that has no such thing.
pub fn unready(object: &Value) -> Option<String> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let count = |value: &Value| value.as_i64().unwrap_or(0);
    let of = |ready: i64, wanted: i64| (ready < wanted).then(|| format!("{ready} of {wanted} pods are ready"));
    let seen = count(&status["observedGeneration"]) >= count(&object["metadata"]["generation"]);
    match object["kind"].as_str().unwrap_or_default() {
        "Deployment" | "StatefulSet" | "ReplicaSet" | "ReplicationController" | "DeploymentConfig" => {
            let wanted = spec["replicas"].as_i64().unwrap_or(1);
            if !seen {
                return Some("its controller has not seen it yet".into());
            }
            of(count(&status["readyReplicas"]), wanted)
        }
        "DaemonSet" => {
            if !seen {
                return Some("its controller has not seen it yet".into());
            }
            of(count(&status["numberReady"]), count(&status["desiredNumberScheduled"]))
        }
        "Pod" => {
            let phase = status["phase"].as_str().unwrap_or("Pending");
            let is_ready = condition(status, "Ready") == Some("True") || phase == "Succeeded";
            (!is_ready).then(|| format!("it is {phase}{}", waiting(status)))
        }
        "Job" => {
            let failed = condition(status, "Failed") == Some("True");
            let runs = count(&status["active"]) + count(&status["succeeded"]) > 0 || spec["suspend"] == true;
            match (failed, runs) {
                (true, _) => Some("it has failed".into()),
                (false, false) => Some("no pod of it runs yet".into()),
                (false, true) => None,
            }
        }
        "PersistentVolumeClaim" => {
            let phase = status["phase"].as_str().unwrap_or("Pending");
            (phase != "Bound").then(|| format!("it is {phase}"))
        }
        _ => None,
    }
}

fn condition<'s>(status: &'s Value, name: &str) -> Option<&'s str> {
    let mut all = status["conditions"].as_array().into_iter().flatten();
    all.find(|c| c["type"] == name).and_then(|c| c["status"].as_str())
}

/// Why a container waits.
fn waiting(status: &Value) -> String {
    let mut all = status["containerStatuses"].as_array().into_iter().flatten();
    let reason = all.find_map(|c| c["state"]["waiting"]["reason"].as_str());
    reason.map_or_else(String::new, |reason| format!(" ({reason})"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_table() {
        for (object, ready) in [
            (
                json!({"kind": "Deployment", "metadata": {"generation": 2}, "spec": {"replicas": 2}, "status": {"observedGeneration": 2, "readyReplicas": 2}}),
                true,
            ),
            (
                json!({"kind": "Deployment", "metadata": {"generation": 2}, "spec": {"replicas": 2}, "status": {"observedGeneration": 1, "readyReplicas": 2}}),
                false,
            ),
            (
                json!({"kind": "Deployment", "metadata": {"generation": 1}, "spec": {"replicas": 0}, "status": {"observedGeneration": 1}}),
                true,
            ),
            (
                json!({"kind": "StatefulSet", "metadata": {"generation": 1}, "spec": {}, "status": {"observedGeneration": 1}}),
                false,
            ),
            (
                json!({"kind": "Pod", "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}),
                true,
            ),
            (json!({"kind": "Pod", "status": {"phase": "Pending"}}), false),
            (json!({"kind": "Pod", "status": {"phase": "Succeeded"}}), true),
            (json!({"kind": "Job", "spec": {}, "status": {}}), false),
            (json!({"kind": "Job", "spec": {"suspend": true}, "status": {}}), true),
            (json!({"kind": "Job", "spec": {}, "status": {"active": 1}}), true),
            (json!({"kind": "PersistentVolumeClaim", "status": {"phase": "Pending"}}), false),
            (json!({"kind": "ConfigMap"}), true),
        ] {
            assert_eq!(unready(&object).is_none(), ready, "{object}");
        }
    }
}
