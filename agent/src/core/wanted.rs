//! Which volumes a backup takes, and how: Velero's and K8up's annotations on pods and claims.
//!
//! An explicit "out" wins over an "in". One claim is taken once, however many pods mount it. What is left out without having been
//! told to is a problem, never silence.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};

use crate::api::backup::ObjectProblem;
use crate::api::items::{Named, Place};

/// Comma list of volumes that are taken.
const IN: &str = "backup.velero.io/backup-volumes";
/// Comma list of volumes that are not.
const OUT: &str = "backup.velero.io/backup-volumes-excludes";
/// K8up's word for pods and claims: `true` or `false`.
const K8UP: &str = "k8up.io/backup";
/// A label; its value must be `true`.
const LEAVE: &str = "velero.io/exclude-from-backup";

/// A volume that is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Name of its directory in the snapshot.
    pub directory: String,
    /// The claim.
    pub claim: Option<Named>,
    /// Where it is read.
    pub from: From,
}

/// Where a volume is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// In a pod of the application, on this node.
    Mounted {
        /// The node.
        node: String,
        /// The volume.
        place: Place,
    },
    /// No running pod has it mounted: a pod of ours stands in.
    StandIn,
}

/// What is taken, and what is not though it should be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// In the order of their directories.
    pub wanted: Vec<Wanted>,
    /// What could not be decided or cannot be read.
    pub problems: Vec<ObjectProblem>,
}

/// Decides for all pods and claims of a namespace. `all`: whatever is not opted out; otherwise only what is opted in.
pub fn choose(pods: &[Pod], claims: &[PersistentVolumeClaim], all: bool) -> Choice {
    let mut choice = Choice::default();
    let out = claims_out(pods, claims);
    let mut taken = BTreeSet::new();
    for pod in pods.iter().filter(|pod| counts(pod)) {
        for volume in volumes(pod) {
            match of_pod(pod, volume, all) {
                Of::Claim(name) if !out.contains(name.as_str()) && !taken.contains(&name) => {
                    let Some(claim) = claims.iter().find(|c| c.metadata.name.as_deref() == Some(&name)) else {
                        continue;
                    };
                    if let Some(why) = unreadable(claim) {
                        choice.problems.push(problem("persistentvolumeclaims", &name, why));
                        taken.insert(name);
                        continue;
                    }
                    let Some((node, place)) = mounted(pod, volume, claim) else { continue };
                    choice.wanted.push(Wanted {
                        directory: name.clone(),
                        claim: Some(named(&claim.metadata)),
                        from: From::Mounted { node, place },
                    });
                    taken.insert(name);
                }
                Of::Claim(_) | Of::Nothing => {}
                Of::EmptyDir => match running(pod) {
                    Some(node) => choice.wanted.push(Wanted {
                        directory: format!("{}.{}", workload(pod), volume.name),
                        claim: None,
                        from: From::Mounted {
                            node,
                            place: Place { pod: named(&pod.metadata), volume: volume.name.clone(), claim: None },
                        },
                    }),
                    None => {
                        let why = format!("its emptyDir {} can only be read while it runs", volume.name);
                        choice.problems.push(problem("pods", name_of(&pod.metadata), why));
                    }
                },
                Of::Never(why) => choice.problems.push(problem("pods", name_of(&pod.metadata), why)),
            }
        }
    }
    for claim in claims {
        let name = name_of(&claim.metadata).to_owned();
        let wanted = opted_in(claim) || all || named_by_some_pod(pods, &name);
        if !wanted || out.contains(name.as_str()) || taken.contains(&name) {
            continue;
        }
        match unreadable(claim) {
            Some(why) => choice.problems.push(problem("persistentvolumeclaims", &name, why)),
            None => {
                choice.wanted.push(Wanted { directory: name, claim: Some(named(&claim.metadata)), from: From::StandIn })
            }
        }
    }
    choice.wanted.sort_by(|a, b| a.directory.cmp(&b.directory));
    // Replicas of one workload each have an emptyDir of the same name.
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for wanted in &mut choice.wanted {
        let n = seen.entry(wanted.directory.clone()).or_default();
        *n += 1;
        if *n > 1 {
            wanted.directory = format!("{}.{n}", wanted.directory);
        }
    }
    choice
}

/// Ended and going pods have nothing to say.
fn counts(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default();
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, "Succeeded" | "Failed")
}

fn volumes(pod: &Pod) -> &[Volume] {
    pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default()
}

/// What a pod says of one of its volumes.
enum Of {
    Claim(String),
    EmptyDir,
    Nothing,
    Never(String),
}

fn of_pod(pod: &Pod, volume: &Volume, all: bool) -> Of {
    let named = lists(pod, IN, &volume.name);
    let out = lists(pod, OUT, &volume.name) || says(&pod.metadata, K8UP) == Some(false) || left(&pod.metadata);
    if out {
        return Of::Nothing;
    }
    if let Some(claim) = claim_of(pod, volume) {
        let wanted = all || named || says(&pod.metadata, K8UP) == Some(true);
        return if wanted { Of::Claim(claim) } else { Of::Nothing };
    }
    match () {
        () if !named => Of::Nothing,
        () if volume.empty_dir.is_some() => Of::EmptyDir,
        () if volume.host_path.is_some() => Of::Never(format!(
            "its volume {} is a hostPath: the node's own files are never backed up with an application",
            volume.name
        )),
        () => Of::Never(format!("its volume {} is of a kind that has no data of its own", volume.name)),
    }
}

/// The claim behind a volume; a generic ephemeral volume has one named after pod and volume.
fn claim_of(pod: &Pod, volume: &Volume) -> Option<String> {
    let own = volume.persistent_volume_claim.as_ref().map(|claim| claim.claim_name.clone());
    own.or_else(|| volume.ephemeral.as_ref().map(|_| format!("{}-{}", name_of(&pod.metadata), volume.name)))
}

/// The node of a pod that runs.
fn running(pod: &Pod) -> Option<String> {
    let is_running = pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running");
    pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).filter(|_| is_running)
}

fn mounted(pod: &Pod, volume: &Volume, claim: &PersistentVolumeClaim) -> Option<(String, Place)> {
    let place = Place { pod: named(&pod.metadata), volume: volume.name.clone(), claim: Some(named(&claim.metadata)) };
    running(pod).map(|node| (node, place))
}

/// Claims that somebody opted out: themselves, or every pod that mounts them.
fn claims_out<'c>(pods: &[Pod], claims: &'c [PersistentVolumeClaim]) -> BTreeSet<&'c str> {
    let is_out = |claim: &&PersistentVolumeClaim| {
        let name = name_of(&claim.metadata);
        let excluded = |pod: &&Pod| {
            let is_it = |volume: &&Volume| claim_of(pod, volume).as_deref() == Some(name);
            let out = says(&pod.metadata, K8UP) == Some(false) || left(&pod.metadata);
            volumes(pod).iter().filter(is_it).any(|volume| out || lists(pod, OUT, &volume.name))
        };
        says(&claim.metadata, K8UP) == Some(false)
            || left(&claim.metadata)
            || pods.iter().filter(|pod| counts(pod)).any(|pod| excluded(&pod))
    };
    claims.iter().filter(is_out).map(|claim| name_of(&claim.metadata)).collect()
}

fn opted_in(claim: &PersistentVolumeClaim) -> bool {
    says(&claim.metadata, K8UP) == Some(true)
}

/// Some pod, which does not run, opts this claim in.
fn named_by_some_pod(pods: &[Pod], claim: &str) -> bool {
    pods.iter().filter(|pod| counts(pod)).any(|pod| {
        let mut own = volumes(pod).iter().filter(|volume| claim_of(pod, volume).as_deref() == Some(claim));
        own.any(|volume| lists(pod, IN, &volume.name) || says(&pod.metadata, K8UP) == Some(true))
    })
}

/// Why a claim has no files that we could read.
fn unreadable(claim: &PersistentVolumeClaim) -> Option<String> {
    let spec = claim.spec.as_ref()?;
    if spec.volume_mode.as_deref() == Some("Block") {
        return Some("it is a block device without a file system: such volumes are not read yet".into());
    }
    let phase = claim.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending");
    (phase == "Lost").then(|| "its volume is lost".into())
}

type Meta = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

fn lists(pod: &Pod, annotation: &str, volume: &str) -> bool {
    let list = pod.metadata.annotations.as_ref().and_then(|a| a.get(annotation));
    list.is_some_and(|list| list.split(',').any(|name| name.trim() == volume))
}

fn says(meta: &Meta, annotation: &str) -> Option<bool> {
    match meta.annotations.as_ref().and_then(|a| a.get(annotation)).map(String::as_str) {
        Some("true") => Some(true),
        Some("false") => Some(false),
        _ => None,
    }
}

fn left(meta: &Meta) -> bool {
    meta.labels.as_ref().and_then(|l| l.get(LEAVE)).is_some_and(|value| value == "true")
}

fn name_of(meta: &Meta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}

fn named(meta: &Meta) -> Named {
    Named { name: name_of(meta).into(), uid: meta.uid.clone().unwrap_or_default() }
}

/// What a pod belongs to: the name of its controller, without a ReplicaSet's hash.
fn workload(pod: &Pod) -> String {
    let owner = pod.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    match owner {
        Some(owner) if owner.kind == "ReplicaSet" => {
            owner.name.rsplit_once('-').map_or(owner.name.as_str(), |(name, _)| name).to_owned()
        }
        Some(owner) => owner.name.clone(),
        None => name_of(&pod.metadata).to_owned(),
    }
}

fn problem(kind: &str, name: &str, message: String) -> ObjectProblem {
    ObjectProblem { kind: kind.into(), name: name.into(), reason: "VolumeNotTaken".into(), message }
}
