//! Kinds that a cluster serves.

use std::collections::BTreeSet;

/// One kind, in the version that its group prefers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    /// API group; empty: core.
    pub group: String,
    /// Version.
    pub version: String,
    /// As in `kind:`.
    pub kind: String,
    /// As in URLs.
    pub plural: String,
    /// What can be done with it.
    pub verbs: BTreeSet<String>,
}

impl Kind {
    /// As in `apiVersion:`.
    pub fn api_version(&self) -> String {
        match self.group.as_str() {
            "" => self.version.clone(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// As `kubectl get` takes it: `deployments.apps`, `pods`.
    pub fn resource(&self) -> String {
        match self.group.as_str() {
            "" => self.plural.clone(),
            group => format!("{}.{group}", self.plural),
        }
    }

    /// Where its objects of a namespace are.
    pub fn path(&self, namespace: &str) -> String {
        match self.group.as_str() {
            "" => format!("/api/{}/namespaces/{namespace}/{}", self.version, self.plural),
            group => format!("/apis/{group}/{}/namespaces/{namespace}/{}", self.version, self.plural),
        }
    }

    /// It can be read and made: anything else is a view of something, like a review or a metric.
    pub fn is_recorded(&self) -> bool {
        ["list", "create"].iter().all(|verb| self.verbs.contains(*verb))
            && !NOT_RECORDED.contains(&self.resource().as_str())
    }

    /// Whether a list as in `includedResources` names it: `*`, `deployments`, `deployments.apps`, in any case.
    pub fn is_in(&self, list: &[String]) -> bool {
        let names = [self.plural.as_str(), &self.resource(), &self.kind].map(str::to_ascii_lowercase);
        list.iter().any(|entry| entry == "*" || names.contains(&entry.to_ascii_lowercase()))
    }

    /// Whether it is chosen: by `included` (none is all) and not by `excluded`.
    pub fn is_chosen(&self, included: &[String], excluded: &[String]) -> bool {
        (included.is_empty() || self.is_in(included)) && !self.is_in(excluded)
    }
}

/// What the cluster makes of itself, and what lives for seconds.
const NOT_RECORDED: [&str; 6] = [
    "events",
    "events.events.k8s.io",
    "leases.coordination.k8s.io",
    "pods.metrics.k8s.io",
    "volumebackups.copal.dev",
    "volumerestores.copal.dev",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(group: &str, plural: &str, kind: &str) -> Kind {
        let verbs = ["list", "create", "get"].map(String::from).into();
        Kind { group: group.into(), version: "v1".into(), kind: kind.into(), plural: plural.into(), verbs }
    }

    #[test]
    fn lists_name_kinds_as_velero_does() {
        let deployments = kind("apps", "deployments", "Deployment");
        for (list, named) in [
            (vec!["*"], true),
            (vec!["deployments"], true),
            (vec!["Deployments.apps"], true),
            (vec!["deployments.extensions"], false),
            (vec!["pods", "deployment"], true),
            (vec![], false),
        ] {
            let list: Vec<String> = list.into_iter().map(String::from).collect();
            assert_eq!(deployments.is_in(&list), named, "{list:?}");
        }
        assert!(deployments.is_chosen(&[], &[]) && !deployments.is_chosen(&["*".into()], &["deployments".into()]));
    }

    #[test]
    fn events_and_leases_are_not_recorded() {
        assert!(kind("apps", "deployments", "Deployment").is_recorded());
        assert!(
            !kind("", "events", "Event").is_recorded() && !kind("coordination.k8s.io", "leases", "Lease").is_recorded()
        );
        let mut reviews = kind("authorization.k8s.io", "localsubjectaccessreviews", "LocalSubjectAccessReview");
        reviews.verbs.remove("list");
        assert!(!reviews.is_recorded());
    }
}
