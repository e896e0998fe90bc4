//! What of a recorded object is not applied: what the cluster gave it, and what it was bound to there; and what is mapped.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::record::Recorded;

/// Fields of metadata that a cluster gives.
const META: [&str; 10] = [
    "generateName",
    "selfLink",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "ownerReferences",
    "managedFields",
];

/// Annotations that a cluster gives, by kind (`*`: any).
const ANNOTATIONS: [(&str, &str); 8] = [
    ("PersistentVolumeClaim", "pv.kubernetes.io/bind-completed"),
    ("PersistentVolumeClaim", "pv.kubernetes.io/bound-by-controller"),
    ("PersistentVolumeClaim", "volume.kubernetes.io/storage-provisioner"),
    ("PersistentVolumeClaim", "volume.beta.kubernetes.io/storage-provisioner"),
    ("PersistentVolumeClaim", "volume.kubernetes.io/selected-node"),
    ("PersistentVolumeClaim", "volume.kubernetes.io/storage-resizer"),
    ("Deployment", "deployment.kubernetes.io/revision"),
    ("Secret", "kubernetes.io/service-account.uid"),
];

/// How objects are changed on their way.
#[derive(Debug, Clone, Default)]
pub struct Mapping {
    /// The namespace that they came from and the one that they go to.
    pub namespace: (String, String),
    /// Storage classes by other names.
    pub storage_class: BTreeMap<String, String>,
    /// Beginnings of image names by other beginnings.
    pub image: BTreeMap<String, String>,
    /// Labels that every restored object gets.
    pub labels: BTreeMap<String, String>,
}

/// The object as it is applied.
pub fn applied(recorded: &Recorded, mapping: &Mapping) -> Value {
    let mut object = recorded.object.clone();
    let kind = recorded.kind.as_str();
    if let Some(all) = object.as_object_mut() {
        all.remove("status");
    }
    if let Some(meta) = object["metadata"].as_object_mut() {
        META.iter().for_each(|field| drop(meta.remove(*field)));
        if let Some(annotations) = meta.get_mut("annotations").and_then(Value::as_object_mut) {
            let given = ANNOTATIONS.iter().filter(|(of, _)| *of == kind);
            given.for_each(|(_, annotation)| drop(annotations.remove(*annotation)));
        }
        meta.insert("namespace".into(), json!(mapping.namespace.1));
        let labels = meta.entry("labels").or_insert_with(|| json!({}));
        if let Some(labels) = labels.as_object_mut() {
            labels.extend(mapping.labels.iter().map(|(name, value)| (name.clone(), json!(value))));
        }
    }
    match kind {
        "Pod" => pod(&mut object),
        "Service" => service(&mut object),
        "PersistentVolumeClaim" => claim(&mut object, mapping),
        "Job" => job(&mut object),
        "ServiceAccount" => account(&mut object, &recorded.name),
        "RoleBinding" => binding(&mut object, mapping),
        "StatefulSet" => {
            for template in object["spec"]["volumeClaimTemplates"].as_array_mut().into_iter().flatten() {
                class(&mut template["spec"], mapping);
            }
        }
        _ => {}
    }
    images(&mut object, mapping);
    object
}

fn pod(object: &mut Value) {
    let Some(spec) = object["spec"].as_object_mut() else { return };
    for field in ["nodeName", "priority", "preemptionPolicy"] {
        spec.remove(field);
    }
    // The token's volume is put in again by admission.
    let is_token = |volume: &Value| volume["name"].as_str().is_some_and(|name| name.starts_with("kube-api-access-"));
    if let Some(volumes) = spec.get_mut("volumes").and_then(Value::as_array_mut) {
        volumes.retain(|volume| !is_token(volume));
    }
    for field in ["containers", "initContainers"] {
        for container in spec.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(mounts) = container["volumeMounts"].as_array_mut() {
                mounts.retain(|mount| !is_token(mount));
            }
        }
    }
}

/// Addresses and ports that the cluster chose; those that somebody asked for stay.
fn service(object: &mut Value) {
    let applied = object["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"].as_str();
    let asked: Value = applied.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let asked: Vec<i64> =
        asked["spec"]["ports"].as_array().into_iter().flatten().filter_map(|p| p["nodePort"].as_i64()).collect();
    let Some(spec) = object["spec"].as_object_mut() else { return };
    if spec.get("clusterIP").is_some_and(|ip| ip != "None") {
        spec.remove("clusterIP");
        spec.remove("clusterIPs");
    }
    spec.remove("healthCheckNodePort");
    for port in
        spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
    {
        if port.get("nodePort").and_then(Value::as_i64).is_some_and(|n| !asked.contains(&n)) {
            port.remove("nodePort");
        }
    }
}

fn claim(object: &mut Value, mapping: &Mapping) {
    class(&mut object["spec"], mapping);
    let Some(spec) = object["spec"].as_object_mut() else { return };
    spec.remove("volumeName");
    // What it was first filled from may be gone, and what is restored takes its place.
    spec.remove("dataSource");
    spec.remove("dataSourceRef");
}

fn class(spec: &mut Value, mapping: &Mapping) {
    let new = spec["storageClassName"].as_str().and_then(|old| mapping.storage_class.get(old));
    if let Some(new) = new.cloned() {
        spec["storageClassName"] = json!(new);
    }
}

/// Labels by which the old Job found its pods.
fn job(object: &mut Value) {
    const GIVEN: [&str; 4] =
        ["controller-uid", "batch.kubernetes.io/controller-uid", "job-name", "batch.kubernetes.io/job-name"];
    let drop_from = |labels: &mut Map<String, Value>| GIVEN.iter().for_each(|label| drop(labels.remove(*label)));
    if object["spec"]["manualSelector"] != true
        && let Some(spec) = object["spec"].as_object_mut()
    {
        spec.remove("selector");
    }
    if let Some(labels) = object["spec"]["template"]["metadata"]["labels"].as_object_mut() {
        drop_from(labels);
    }
    if let Some(labels) = object["metadata"]["labels"].as_object_mut() {
        drop_from(labels);
    }
}

fn account(object: &mut Value, name: &str) {
    let made = |entry: &Value| {
        let secret = entry["name"].as_str().unwrap_or_default();
        secret.starts_with(&format!("{name}-token-")) || secret.starts_with(&format!("{name}-dockercfg-"))
    };
    for field in ["secrets", "imagePullSecrets"] {
        if let Some(list) = object[field].as_array_mut() {
            list.retain(|entry| !made(entry));
        }
    }
}

fn binding(object: &mut Value, mapping: &Mapping) {
    for subject in object["subjects"].as_array_mut().into_iter().flatten() {
        if subject["namespace"].as_str() == Some(&mapping.namespace.0) {
            subject["namespace"] = json!(mapping.namespace.1);
        }
    }
}

/// Images of all containers, wherever a pod template stands.
fn images(value: &mut Value, mapping: &Mapping) {
    if mapping.image.is_empty() {
        return;
    }
    match value {
        Value::Array(list) => list.iter_mut().for_each(|value| images(value, mapping)),
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::Array(list) if matches!(name.as_str(), "containers" | "initContainers") => {
                        list.iter_mut().for_each(|container| image(container, mapping));
                    }
                    value => images(value, mapping),
                }
            }
        }
        _ => {}
    }
}

fn image(container: &mut Value, mapping: &Mapping) {
    let Some(old) = container["image"].as_str() else { return };
    // The longest beginning wins.
    let fits = mapping.image.iter().filter(|(from, _)| old.starts_with(from.as_str()));
    if let Some((from, to)) = fits.max_by_key(|(from, _)| from.len()) {
        container["image"] = json!(format!("{to}{}", &old[from.len()..]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(kind: &str, object: Value) -> Value {
        let mapping = Mapping {
            namespace: ("shop".into(), "copy".into()),
            storage_class: [("gp2".into(), "standard".into())].into(),
            image: [("old.example/".into(), "new.example/mirror/".into())].into(),
            labels: [("velero.io/restore-name".into(), "r".into())].into(),
        };
        let recorded =
            Recorded { group: String::new(), version: "v1".into(), kind: kind.into(), name: "a".into(), object };
        applied(&recorded, &mapping)
    }

    #[test]
    fn what_the_cluster_gave_is_gone() {
        let object = json!({"metadata": {"name": "a", "namespace": "shop", "uid": "u", "resourceVersion": "1", "managedFields": [],
            "creationTimestamp": "t", "ownerReferences": [{}], "labels": {"app": "x"}, "annotations": {"mine": "1"}},
            "data": {"k": "v"}, "status": {"x": 1}});
        let wanted = json!({"metadata": {"name": "a", "namespace": "copy", "annotations": {"mine": "1"},
            "labels": {"app": "x", "velero.io/restore-name": "r"}}, "data": {"k": "v"}});
        assert_eq!(apply("ConfigMap", object), wanted);
    }

    #[test]
    fn claims_are_bound_anew() {
        let object = json!({"metadata": {"name": "a", "annotations": {"pv.kubernetes.io/bind-completed": "yes", "volume.kubernetes.io/selected-node": "n"}},
            "spec": {"volumeName": "pv", "storageClassName": "gp2", "dataSource": {"name": "s"}, "accessModes": ["ReadWriteOnce"]}});
        let got = apply("PersistentVolumeClaim", object);
        assert_eq!(got["spec"], json!({"storageClassName": "standard", "accessModes": ["ReadWriteOnce"]}));
        assert_eq!(got["metadata"]["annotations"], json!({}));
    }

    #[test]
    fn services_get_new_addresses_unless_somebody_asked() {
        let asked = r#"{"spec":{"ports":[{"nodePort":30001}]}}"#;
        let object = json!({"metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": asked}},
            "spec": {"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ports": [{"port": 1, "nodePort": 30001}, {"port": 2, "nodePort": 30002}]}});
        let got = apply("Service", object);
        assert_eq!(got["spec"], json!({"ports": [{"port": 1, "nodePort": 30001}, {"port": 2}]}));
        assert_eq!(
            apply("Service", json!({"metadata": {}, "spec": {"clusterIP": "None"}}))["spec"]["clusterIP"],
            "None"
        );
    }

    #[test]
    fn pods_lose_their_node_and_token() {
        let object = json!({"metadata": {}, "spec": {"nodeName": "n", "priority": 0, "volumes": [{"name": "data"}, {"name": "kube-api-access-x"}],
            "containers": [{"image": "old.example/web:1", "volumeMounts": [{"name": "kube-api-access-x"}, {"name": "data"}]}]}});
        let wanted = json!({"volumes": [{"name": "data"}], "containers": [{"image": "new.example/mirror/web:1", "volumeMounts": [{"name": "data"}]}]});
        assert_eq!(apply("Pod", object)["spec"], wanted);
    }

    #[test]
    fn only_the_namespace_of_subjects_is_mapped() {
        let object = json!({"metadata": {}, "subjects": [{"kind": "ServiceAccount", "namespace": "shop"}, {"kind": "ServiceAccount", "namespace": "other"}]});
        let got = apply("RoleBinding", object);
        assert_eq!(
            (&got["subjects"][0]["namespace"], &got["subjects"][1]["namespace"]),
            (&json!("copy"), &json!("other"))
        );
    }

    #[test]
    fn jobs_find_their_pods_anew() {
        let object = json!({"metadata": {"labels": {"job-name": "a", "app": "x"}}, "spec": {"selector": {"matchLabels": {"controller-uid": "u"}},
            "template": {"metadata": {"labels": {"controller-uid": "u", "app": "x"}}}}});
        let got = apply("Job", object);
        assert_eq!(got["spec"], json!({"template": {"metadata": {"labels": {"app": "x"}}}}));
    }
}
