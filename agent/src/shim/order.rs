//! In which order objects are restored: what others refer to first, workloads last.

use super::record::Recorded;

/// Kinds in their order; all others come after these and before workloads.
const FIRST: [&str; 11] = [
    "ResourceQuota",
    "LimitRange",
    "Role",
    "ServiceAccount",
    "RoleBinding",
    "Secret",
    "ConfigMap",
    "PersistentVolumeClaim",
    "NetworkPolicy",
    "Service",
    "PodDisruptionBudget",
];

/// Kinds that start pods, in their order. Pods before controllers, so that a bare pod is there when its claim's user comes.
const WORKLOADS: [(&str, &str); 8] = [
    ("", "Pod"),
    ("apps", "ReplicaSet"),
    ("", "ReplicationController"),
    ("apps", "Deployment"),
    ("apps", "StatefulSet"),
    ("apps", "DaemonSet"),
    ("batch", "Job"),
    ("batch", "CronJob"),
];

/// Kinds that act on workloads: last of all.
const LAST: [(&str, &str); 2] = [("autoscaling", "HorizontalPodAutoscaler"), ("apps.openshift.io", "DeploymentConfig")];

/// Whether pods come of it: it waits until volumes are filled.
pub fn is_workload(recorded: &Recorded) -> bool {
    let kind = (recorded.group.as_str(), recorded.kind.as_str());
    // What an operator makes pods of is known to the operator alone: custom objects wait, too.
    WORKLOADS.contains(&kind) || LAST.contains(&kind) || is_custom(&recorded.group)
}

/// A group that Kubernetes itself does not serve.
fn is_custom(group: &str) -> bool {
    group.contains('.') && !group.ends_with(".k8s.io") && group != "route.openshift.io"
}

/// What to sort by.
pub fn rank(recorded: &Recorded) -> (usize, String, String) {
    let kind = (recorded.group.as_str(), recorded.kind.as_str());
    let at = if let Some(at) = WORKLOADS.iter().position(|known| *known == kind) {
        200 + at
    } else if LAST.contains(&kind) {
        300
    } else if is_custom(&recorded.group) {
        150
    } else {
        FIRST.iter().position(|known| *known == recorded.kind).unwrap_or(100)
    };
    (at, format!("{}/{}", recorded.group, recorded.kind), recorded.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_need_comes_first() {
        let of = |group: &str, kind: &str| Recorded {
            group: group.into(),
            version: "v1".into(),
            kind: kind.into(),
            name: "a".into(),
            object: serde_json::Value::Null,
        };
        let mut all = vec![
            of("autoscaling", "HorizontalPodAutoscaler"),
            of("apps", "Deployment"),
            of("example.com", "Database"),
            of("networking.k8s.io", "Ingress"),
            of("", "Service"),
            of("", "PersistentVolumeClaim"),
            of("", "Secret"),
            of("", "Pod"),
            of("", "ServiceAccount"),
        ];
        all.sort_by_key(rank);
        let kinds: Vec<&str> = all.iter().map(|r| r.kind.as_str()).collect();
        let wanted = "ServiceAccount Secret PersistentVolumeClaim Service Ingress Database Pod Deployment HorizontalPodAutoscaler";
        assert_eq!(kinds.join(" "), wanted);
        let workloads: Vec<bool> = all.iter().map(is_workload).collect();
        assert_eq!(workloads, [false, false, false, false, false, true, true, true, true]);
    }
}
