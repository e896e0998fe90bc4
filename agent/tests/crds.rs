//! deploy/crds holds what the types say: `COPAL_UPDATE_DOCS=1 cargo test --workspace --test crds` writes it anew.
#![allow(missing_docs)]

use std::path::Path;

#[test]
fn the_files_are_those_of_the_types() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/crds");
    let mut wanted = Vec::new();
    for crd in copal_agent::api::crds() {
        let name = format!("{}.yaml", crd.spec.names.plural);
        let text = serde_saphyr::to_string(&crd).unwrap();
        if std::env::var_os("COPAL_UPDATE_DOCS").is_some() {
            std::fs::write(dir.join(&name), &text).unwrap();
        }
        let stored = std::fs::read_to_string(dir.join(&name)).unwrap_or_default();
        assert!(
            stored.trim() == text.trim(),
            "deploy/crds/{name} is old: COPAL_UPDATE_DOCS=1 cargo test --workspace --test crds"
        );
        wanted.push(name);
    }
    let mut there: Vec<String> =
        std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    there.sort();
    wanted.sort();
    assert_eq!(there, wanted);
}

/// What comes later is absent, and not ignored.
#[test]
fn nothing_is_promised_that_is_not_built() {
    let text: String = copal_agent::api::crds().iter().map(|crd| serde_saphyr::to_string(crd).unwrap()).collect();
    for later in ["retention", "maintenance", "Schedule", "hooks", "inPlace", "ownership"] {
        assert!(!text.contains(&format!("{later}:")), "{later}");
    }
}
