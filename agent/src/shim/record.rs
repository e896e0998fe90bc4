//! Where a manifest stands in a snapshot, and back again. What comes out of a bucket is untrusted.

use serde_json::Value;

use super::kind::Kind;

/// Largest manifest that is read back, in bytes: the API server takes 3 MiB.
pub const MANIFEST_MAX: u64 = 3 << 20;

/// An object that was recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct Recorded {
    /// API group; empty: core.
    pub group: String,
    /// Version.
    pub version: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// All of it.
    pub object: Value,
}

impl Recorded {
    /// As `Deployment/web`, for messages.
    pub fn title(&self) -> String {
        format!("{}/{}", self.kind, self.name)
    }
}

/// `manifests/<group|core>/<version>/<kind>/<name>.json`. An error in a sentence: a name that is no file name.
pub fn path(kind: &Kind, object: &Value) -> Result<String, String> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let group = if kind.group.is_empty() { "core" } else { &kind.group };
    let parts = [group, &kind.version, &kind.kind, name];
    match parts.iter().find(|part| !is_file_name(part)) {
        Some(part) => Err(format!("{part:?} is no name of a file")),
        None => Ok(format!("manifests/{group}/{}/{}/{name}.json", kind.version, kind.kind)),
    }
}

/// What stands at such a path. An error in a sentence.
pub fn read(path: &str, bytes: &[u8]) -> Result<Recorded, String> {
    let parts: Vec<&str> = path.split('/').collect();
    let ["manifests", group, version, kind, file] = parts[..] else {
        return Err(format!("{path:?} is no place of a manifest"));
    };
    let Some(name) = file.strip_suffix(".json").filter(|name| is_file_name(name)) else {
        return Err(format!("{path:?} is no place of a manifest"));
    };
    if bytes.len() as u64 > MANIFEST_MAX {
        return Err(format!("{path} has {} bytes, more than an API server takes", bytes.len()));
    }
    let object: Value = serde_json::from_slice(bytes).map_err(|e| format!("{path} is no JSON: {e}"))?;
    let group = if group == "core" { "" } else { group };
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let says = [("apiVersion", api_version.as_str()), ("kind", kind)];
    if says.iter().any(|(field, wanted)| object[field].as_str() != Some(wanted))
        || object["metadata"]["name"].as_str() != Some(name)
    {
        return Err(format!("{path} holds another object than its name says"));
    }
    Ok(Recorded { group: group.into(), version: version.into(), kind: kind.into(), name: name.into(), object })
}

/// Why an object is left out of a backup, whatever the request says; `None`: it is recorded.
pub fn left_out(object: &Value, keys: &[&str]) -> Option<&'static str> {
    let meta = &object["metadata"];
    if !meta["deletionTimestamp"].is_null() {
        return Some("it is being deleted");
    }
    if meta["labels"]["velero.io/exclude-from-backup"] == "true" {
        return Some("its label velero.io/exclude-from-backup says so");
    }
    if object["kind"] == "Secret" {
        let name = meta["name"].as_str().unwrap_or_default();
        if object["type"] == "kubernetes.io/service-account-token" {
            return Some("the cluster makes tokens itself");
        }
        if keys.contains(&name) {
            return Some("a Repository's own keys are not kept in it");
        }
    }
    if meta["labels"][OURS].is_string() {
        return Some("it is Copal's own");
    }
    None
}

/// Label of pods and other objects that we make for a while.
pub const OURS: &str = "copal.dev/helper";

fn is_file_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= 250 && text != "." && text != ".." && !text.contains(['/', '\0'])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn kind() -> Kind {
        Kind {
            group: "apps".into(),
            version: "v1".into(),
            kind: "Deployment".into(),
            plural: "deployments".into(),
            verbs: Default::default(),
        }
    }

    #[test]
    fn what_is_recorded_reads_back() {
        let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web:1"}});
        let at = path(&kind(), &object).unwrap();
        assert_eq!(at, "manifests/apps/v1/Deployment/web:1.json");
        let read = read(&at, object.to_string().as_bytes()).unwrap();
        assert_eq!((read.group.as_str(), read.title().as_str(), read.object), ("apps", "Deployment/web:1", object));
    }

    #[test]
    fn a_forged_one_is_refused() {
        let good = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}});
        let text = good.to_string();
        assert!(read("manifests/core/v1/Pod/a.json", text.as_bytes()).is_ok());
        for path in [
            "manifests/core/v1/Pod/b.json",
            "manifests/core/v2/Pod/a.json",
            "manifests/apps/v1/Pod/a.json",
            "manifests/core/v1/Secret/a.json",
            "manifests/core/v1/Pod/a",
            "manifests/core/v1/Pod/../a.json",
            "cluster/core/v1/Pod/a.json",
        ] {
            assert!(read(path, text.as_bytes()).is_err(), "{path}");
        }
        assert!(read("manifests/core/v1/Pod/a.json", b"[]").is_err());
        let name = json!({"metadata": {"name": "../../x"}});
        assert!(path(&kind(), &name).is_err());
    }

    #[test]
    fn some_objects_are_never_recorded() {
        let of = |object: Value| left_out(&object, &["copal-key"]).is_some();
        assert!(!of(json!({"kind": "Secret", "metadata": {"name": "a"}, "type": "Opaque"})));
        assert!(of(json!({"kind": "Secret", "metadata": {"name": "copal-key"}})));
        assert!(of(
            json!({"kind": "Secret", "metadata": {"name": "t"}, "type": "kubernetes.io/service-account-token"})
        ));
        assert!(of(json!({"kind": "Pod", "metadata": {"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z"}})));
        assert!(of(
            json!({"kind": "Pod", "metadata": {"name": "a", "labels": {"velero.io/exclude-from-backup": "true"}}})
        ));
        assert!(!of(
            json!({"kind": "Pod", "metadata": {"name": "a", "labels": {"velero.io/exclude-from-backup": "yes"}}})
        ));
    }

    proptest! {
        #[test]
        fn no_path_and_no_bytes_panic(at in "[a-z./]{0,60}", bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&at, &bytes);
            let _ = read("manifests/core/v1/Pod/a.json", &bytes);
        }
    }
}
