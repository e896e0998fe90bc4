//! Which pods will come of what is restored, and pods of ours that stand in for them while volumes are read or filled.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::record::{OURS, Recorded};
use crate::api::repository::PodLook;

/// A pod that some workload will start.
#[derive(Debug, Clone, PartialEq)]
pub struct Future {
    /// As `StatefulSet/db`.
    pub owner: String,
    /// Its spec.
    pub spec: Value,
    /// Names of the claims that it mounts.
    pub claims: BTreeSet<String>,
}

/// The pods that come of a recorded object; those of one controller that mount the same claims are one.
pub fn futures(recorded: &Recorded) -> Vec<Future> {
    let object = &recorded.object;
    let spec = match recorded.kind.as_str() {
        "Pod" => &object["spec"],
        "CronJob" => &object["spec"]["jobTemplate"]["spec"]["template"]["spec"],
        "Deployment"
        | "ReplicaSet"
        | "ReplicationController"
        | "DaemonSet"
        | "Job"
        | "StatefulSet"
        | "DeploymentConfig" => &object["spec"]["template"]["spec"],
        _ => return Vec::new(),
    };
    let volumes = spec["volumes"].as_array().into_iter().flatten();
    let shared: BTreeSet<String> =
        volumes.filter_map(|v| v["persistentVolumeClaim"]["claimName"].as_str()).map(String::from).collect();
    let future = |claims| Future { owner: recorded.title(), spec: spec.clone(), claims };
    let templates: Vec<&str> = object["spec"]["volumeClaimTemplates"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|template| template["metadata"]["name"].as_str())
        .collect();
    if recorded.kind != "StatefulSet" || templates.is_empty() {
        return vec![future(shared)];
    }
    let first = object["spec"]["ordinals"]["start"].as_u64().unwrap_or(0);
    let replicas = object["spec"]["replicas"].as_u64().unwrap_or(1).min(REPLICAS_MAX);
    let of = |n: u64| {
        let own = templates.iter().map(|template| format!("{template}-{}-{n}", recorded.name));
        future(own.chain(shared.iter().cloned()).collect())
    };
    (first..first + replicas).map(of).collect()
}

/// A manifest may say any number.
const REPLICAS_MAX: u64 = 1000;

/// Claims together with the pod spec that decides where they can be mounted.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Of a future pod; empty where no workload mounts them.
    pub spec: Value,
    /// Names of claims.
    pub claims: BTreeSet<String>,
}

/// Each claim of `wanted` in one group: with the pod that will mount it, or alone. A stand-in mounts all claims of its pod, as the
/// pod will, so that all of them come to be where it can run.
pub fn groups(futures: &[Future], wanted: &BTreeSet<String>) -> Vec<Group> {
    let mut left = wanted.clone();
    let mut groups = Vec::new();
    for future in futures {
        let own: BTreeSet<String> = future.claims.intersection(&left).cloned().collect();
        if !own.is_empty() {
            left.retain(|claim| !own.contains(claim));
            groups.push(Group { spec: future.spec.clone(), claims: own });
        }
    }
    groups.extend(left.into_iter().map(|claim| Group { spec: Value::Null, claims: [claim].into() }));
    groups
}

/// What of a future pod decides where it can run.
const PLACING: [&str; 6] =
    ["nodeSelector", "affinity", "tolerations", "topologySpreadConstraints", "schedulerName", "priorityClassName"];

/// A pod of ours that has claims mounted. `read_only`: in the volume source, so that nothing changes an owner or a label.
pub struct StandIn<'s> {
    /// Its name.
    pub name: &'s str,
    /// The object that it is made for: `(apiVersion, kind, name, uid)`.
    pub owner: (&'s str, &'s str, &'s str, &'s str),
    /// Our image.
    pub image: &'s str,
    /// How the tenant wants our pods to look.
    pub look: &'s PodLook,
    /// Nothing is written through it.
    pub read_only: bool,
}

impl StandIn<'_> {
    /// It, for a group: the n-th claim is the volume `v<n>`.
    pub fn pod(&self, group: &Group) -> Value {
        let volumes: Vec<Value> = group.claims.iter().enumerate().map(|(n, claim)| {
            json!({"name": format!("v{n}"), "persistentVolumeClaim": {"claimName": claim, "readOnly": self.read_only}})
        }).collect();
        let mounts: Vec<Value> = (0..volumes.len())
            .map(|n| json!({"name": format!("v{n}"), "mountPath": format!("/claims/{n}"), "readOnly": true}))
            .collect();
        let (api_version, kind, owner, uid) = self.owner;
        let mut labels = json!(self.look.labels);
        labels[OURS] = json!(owner);
        let restricted = json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}});
        let mut spec = json!({
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "pause", "image": self.image, "imagePullPolicy": "IfNotPresent", "args": ["pause"],
                "securityContext": restricted, "volumeMounts": mounts,
                "resources": json!(self.look.resources.clone().unwrap_or_default())}],
            "volumes": volumes,
            "imagePullSecrets": self.look.image_pull_secrets.iter().map(|s| json!({"name": s.name})).collect::<Vec<_>>(),
        });
        for field in PLACING {
            if !group.spec[field].is_null() {
                spec[field] = group.spec[field].clone();
            }
        }
        let mut tolerations = spec["tolerations"].as_array().cloned().unwrap_or_default();
        tolerations.extend(self.look.tolerations.iter().map(|t| json!(t)));
        spec["tolerations"] = json!(tolerations);
        if !self.look.priority_class_name.is_empty() {
            spec["priorityClassName"] = json!(self.look.priority_class_name);
        }
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.name,
                "labels": labels,
                "annotations": self.look.annotations,
                "ownerReferences": [{"apiVersion": api_version, "kind": kind, "name": owner, "uid": uid}],
            },
            "spec": spec,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(kind: &str, name: &str, object: Value) -> Recorded {
        Recorded { group: "apps".into(), version: "v1".into(), kind: kind.into(), name: name.into(), object }
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn a_stateful_set_starts_a_pod_for_each_ordinal() {
        let object = json!({"spec": {"replicas": 2, "ordinals": {"start": 3},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}}, {"metadata": {"name": "log"}}],
            "template": {"spec": {"volumes": [{"persistentVolumeClaim": {"claimName": "shared"}}, {"emptyDir": {}}]}}}});
        let claims: Vec<_> = futures(&recorded("StatefulSet", "db", object)).into_iter().map(|f| f.claims).collect();
        assert_eq!(claims, [set(&["data-db-3", "log-db-3", "shared"]), set(&["data-db-4", "log-db-4", "shared"])]);
    }

    #[test]
    fn each_claim_is_filled_once_where_its_pod_will_run() {
        let template = |claim: &str, node: &str| json!({"spec": {"replicas": 5, "template": {"spec": {"nodeSelector": {"n": node}, "volumes": [{"persistentVolumeClaim": {"claimName": claim}}]}}}});
        let all: Vec<Future> = [
            recorded("Deployment", "a", template("one", "x")),
            recorded("Deployment", "b", template("one", "y")),
            recorded("Deployment", "c", template("two", "z")),
            recorded("ConfigMap", "d", json!({})),
        ]
        .iter()
        .flat_map(futures)
        .collect();
        let groups = groups(&all, &set(&["one", "nobodys"]));
        assert_eq!(groups.len(), 2);
        assert_eq!((&groups[0].claims, &groups[0].spec["nodeSelector"]["n"]), (&set(&["one"]), &json!("x")));
        assert_eq!((&groups[1].claims, &groups[1].spec), (&set(&["nobodys"]), &Value::Null));
    }

    #[test]
    fn a_stand_in_runs_where_its_pod_would_and_nothing_selects_it() {
        let spec = json!({"nodeSelector": {"disk": "ssd"}, "serviceAccountName": "web", "hostNetwork": true, "tolerations": [{"key": "a"}],
            "containers": [{"name": "web", "image": "web"}]});
        let group = Group { spec, claims: set(&["data", "log"]) };
        let look = PodLook { labels: [("team".into(), "x".into())].into(), ..PodLook::default() };
        let owner = ("copal.dev/v1alpha1", "Restore", "r", "uid");
        let pod = StandIn { name: "n", owner, image: "copal", look: &look, read_only: false }.pod(&group);
        assert_eq!(pod["metadata"]["labels"], json!({"team": "x", OURS: "r"}));
        let spec = &pod["spec"];
        assert_eq!((&spec["nodeSelector"]["disk"], &spec["tolerations"]), (&json!("ssd"), &json!([{"key": "a"}])));
        assert_eq!(
            spec["volumes"][1],
            json!({"name": "v1", "persistentVolumeClaim": {"claimName": "log", "readOnly": false}})
        );
        assert!(
            spec["serviceAccountName"].is_null()
                && spec["hostNetwork"].is_null()
                && spec["securityContext"]["fsGroup"].is_null()
        );
        assert_eq!(
            (&spec["automountServiceAccountToken"], &spec["securityContext"]["runAsNonRoot"]),
            (&json!(false), &json!(true))
        );
    }
}
