//! Records what a namespace holds, as its own account sees it, into a directory in memory.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{Api, Client};
use serde_json::{Value, json};

use super::Context;
use super::place::key_secrets;
use crate::api::backup::{BackupSpec, ObjectProblem};
use crate::k8s;
use crate::shim::kind::Kind;
use crate::shim::record;

/// What was recorded, and what was not.
#[derive(Debug, Clone, Default)]
pub(super) struct Done {
    /// Objects.
    pub items: i64,
    /// Kinds that belong to the platform.
    pub not_visible: Vec<String>,
    /// What is missing in the snapshot.
    pub problems: Vec<ObjectProblem>,
}

/// Records everything that the Backup asks for below `top`.
pub(super) async fn record(
    context: &Context,
    tenant: &Client,
    namespace: &str,
    spec: &BackupSpec,
    claims: &[PersistentVolumeClaim],
    top: &Path,
) -> Result<Done> {
    let mut done = Done::default();
    let keys = key_secrets(context, namespace).await?;
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let (kinds, silent) = k8s::kinds(tenant).await?;
    for group in silent {
        let message = "the group's server does not answer: what it holds is not recorded".to_owned();
        done.problems.push(ObjectProblem { kind: group, name: String::new(), reason: "NotServed".into(), message });
    }
    let selectors = selectors(spec);
    let mut seen = BTreeSet::new();
    for kind in kinds.iter().filter(|kind| kind.is_recorded()) {
        if !kind.is_chosen(&spec.included_resources, &spec.excluded_resources) {
            continue;
        }
        for selector in &selectors {
            match k8s::list(tenant, kind, namespace, selector).await {
                Ok(objects) => {
                    for object in objects {
                        // The same object is served by several groups.
                        if seen.insert(object["metadata"]["uid"].as_str().unwrap_or_default().to_owned()) {
                            one(kind, &object, &keys, top, &mut done)?;
                        }
                    }
                }
                Err(e) => refused(tenant, namespace, kind, &e, &mut done).await?,
            }
        }
    }
    around(context, tenant, namespace, claims, top).await?;
    Ok(done)
}

fn one(kind: &Kind, object: &Value, keys: &[&str], top: &Path, done: &mut Done) -> Result<()> {
    if record::left_out(object, keys).is_some() {
        return Ok(());
    }
    match record::path(kind, object) {
        Ok(path) => {
            write(&top.join(path), object)?;
            done.items += 1;
        }
        Err(message) => done.problems.push(ObjectProblem {
            kind: kind.resource(),
            name: object["metadata"]["name"].as_str().unwrap_or_default().into(),
            reason: "NoFileName".into(),
            message,
        }),
    }
    Ok(())
}

/// A kind that may not be listed belongs to the platform, unless the account may create it: then something is missing.
async fn refused(tenant: &Client, namespace: &str, kind: &Kind, error: &kube::Error, done: &mut Done) -> Result<()> {
    if matches!(k8s::code(error), Some(404 | 405)) {
        return Ok(());
    }
    if k8s::is_forbidden(error) && !k8s::may(tenant, kind, namespace, "create").await? {
        if !done.not_visible.contains(&kind.resource()) {
            done.not_visible.push(kind.resource());
        }
        return Ok(());
    }
    let message = match k8s::is_forbidden(error) {
        true => "the account copal may create such objects, but not list them: they are not recorded".to_owned(),
        false => format!("they cannot be listed: {error}"),
    };
    let problem = ObjectProblem { kind: kind.resource(), name: String::new(), reason: "NotListed".into(), message };
    if !done.problems.contains(&problem) {
        done.problems.push(problem);
    }
    Ok(())
}

/// The namespace itself, and as context what its claims depend on.
async fn around(
    context: &Context,
    tenant: &Client,
    namespace: &str,
    claims: &[PersistentVolumeClaim],
    top: &Path,
) -> Result<()> {
    if let Ok(found) = Api::<Namespace>::all(tenant.clone()).get(namespace).await {
        write(&top.join("manifests/namespace.json"), &with_kind(&found, "v1", "Namespace")?)?;
    }
    let (volumes, classes): (Api<PersistentVolume>, Api<StorageClass>) =
        (Api::all(context.client.clone()), Api::all(context.client.clone()));
    let mut known = BTreeSet::new();
    for spec in claims.iter().filter_map(|claim| claim.spec.as_ref()) {
        if let Some(name) = &spec.volume_name
            && let Some(found) = volumes.get_opt(name).await?
        {
            // Only one that is really bound to this namespace: a claim may name any.
            let bound = found.spec.as_ref().and_then(|s| s.claim_ref.as_ref()).and_then(|r| r.namespace.as_deref());
            if bound == Some(namespace) {
                let mut object = with_kind(&found, "v1", "PersistentVolume")?;
                cut_secrets(&mut object);
                write(&top.join(format!("cluster/core/v1/PersistentVolume/{name}.json")), &object)?;
            }
        }
        if let Some(name) = spec.storage_class_name.as_ref().filter(|name| known.insert((*name).clone()))
            && let Some(found) = classes.get_opt(name).await?
        {
            let mut object = with_kind(&found, "storage.k8s.io/v1", "StorageClass")?;
            cut_secrets(&mut object);
            write(&top.join(format!("cluster/storage.k8s.io/v1/StorageClass/{name}.json")), &object)?;
        }
    }
    Ok(())
}

fn with_kind(object: &impl serde::Serialize, api_version: &str, kind: &str) -> Result<Value> {
    let mut value = serde_json::to_value(object)?;
    value["apiVersion"] = json!(api_version);
    value["kind"] = json!(kind);
    Ok(value)
}

/// Names of the platform's Secrets are nobody's business.
fn cut_secrets(object: &mut Value) {
    let is_secret = |name: &str| name.to_ascii_lowercase().contains("secret");
    match object {
        Value::Object(fields) => {
            fields.retain(|name, _| !is_secret(name));
            fields.values_mut().for_each(cut_secrets);
        }
        Value::Array(list) => list.iter_mut().for_each(cut_secrets),
        _ => {}
    }
}

fn write(path: &Path, object: &Value) -> Result<()> {
    let dir = path.parent().expect("it is below the top");
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut text = serde_json::to_vec_pretty(object)?;
    text.push(b'\n');
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// One list for each; an empty one takes all.
fn selectors(spec: &BackupSpec) -> Vec<String> {
    let one = spec.label_selector.iter();
    let all: Vec<String> = one.chain(&spec.or_label_selectors).map(selector).collect();
    if all.is_empty() { vec![String::new()] } else { all }
}

/// As the API takes it in a list.
fn selector(selector: &LabelSelector) -> String {
    let equal = selector.match_labels.iter().flatten().map(|(name, value)| format!("{name}={value}"));
    let other = selector.match_expressions.iter().flatten().map(|e| {
        let values = e.values.clone().unwrap_or_default().join(",");
        match e.operator.as_str() {
            "In" => format!("{} in ({values})", e.key),
            "NotIn" => format!("{} notin ({values})", e.key),
            "Exists" => e.key.clone(),
            _ => format!("!{}", e.key),
        }
    });
    equal.chain(other).collect::<Vec<_>>().join(",")
}
