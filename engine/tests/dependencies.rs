//! docs/dependencies.md and the `Cargo.toml` files say the same: each direct dependency has a reason, each reason a dependency.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("engine/ lies in the workspace").to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_dependency_has_a_reason_and_every_reason_a_dependency() {
    let used: BTreeSet<String> = members(&read(&root().join("Cargo.toml")))
        .iter()
        .flat_map(|m| dependencies(&read(&root().join(m).join("Cargo.toml"))))
        .collect();
    let explained = rows(&read(&root().join("docs/dependencies.md")));
    let locked = packages(&read(&root().join("Cargo.lock")));
    let missing: Vec<_> = used.difference(&explained).collect();
    assert!(missing.is_empty(), "docs/dependencies.md has no row for {missing:?}: why are they here?");
    let stale: Vec<_> = explained.difference(&locked).collect();
    assert!(stale.is_empty(), "docs/dependencies.md explains {stale:?}, which nothing needs any more");
}

/// The directories in `members = [...]`.
fn members(manifest: &str) -> Vec<String> {
    let line = manifest.lines().find(|l| l.starts_with("members")).expect("a workspace has members");
    line.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Names in every table of dependencies, under whatever condition.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut inside = false;
    for line in manifest.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            inside = section.trim_end_matches(']').ends_with("dependencies");
            continue;
        }
        if inside && !line.is_empty() && !line.starts_with('#') {
            names.extend(line.split(['.', ' ', '=']).next().map(str::to_owned));
        }
    }
    names
}

/// The names in the first column of the document's tables.
fn rows(document: &str) -> BTreeSet<String> {
    let names = document.lines().filter_map(|l| l.strip_prefix("| `")?.split_once('`'));
    names.map(|(name, _)| name.to_owned()).collect()
}

/// The packages of a lock file.
fn packages(lock: &str) -> BTreeSet<String> {
    lock.lines().filter_map(|l| l.strip_prefix("name = \"")?.strip_suffix('"')).map(str::to_owned).collect()
}

#[test]
fn tables_are_read() {
    let manifest = "[dependencies]\na.workspace = true\nb-c = \"1\"\n# d\n[target.'cfg(unix)'.dev-dependencies]\ne = { path = \"x\" }\n[lints]\nf = 1";
    assert_eq!(dependencies(manifest), ["a", "b-c", "e"].map(str::to_owned).into());
    assert_eq!(members("[workspace]\nmembers = [\"a\", \"b/c\"]"), ["a", "b/c"]);
    assert_eq!(rows("| `a` | x |\n|---|\ntext `b`\n"), ["a".to_owned()].into());
    assert_eq!(packages("name = \"a\"\nversion = \"1\""), ["a".to_owned()].into());
}
