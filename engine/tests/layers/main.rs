//! The house's layers hold: every path that a module names points down the table below, never up or sideways.

mod paths;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use paths::Named;

/// Each module of the engine, and what it may use besides itself. ARCHITECTURE.md has the same table with reasons.
const MAY_USE: &[(&str, &[&str])] = &[
    ("id", &[]),
    // The table of the chunker is drawn from a secret.
    ("chunker", &["crypto"]),
    ("compress", &[]),
    ("crypto", &["id"]),
    ("format", &["id", "chunker", "compress", "crypto"]),
    ("store", &["id", "sys"]),
    ("progress", &["id"]),
    ("sys", &[]),
    ("source", &["id", "format", "progress", "sys"]),
    ("target", &["id", "format", "progress", "sys"]),
    // One layer in two modules: what can fail in `repo` and below, and `repo`.
    ("error", &["id", "crypto", "format", "store", "repo"]),
    ("repo", &["id", "chunker", "compress", "crypto", "format", "store", "progress", "sys", "error"]),
    // Each verb below `ops` for itself; what several of them share stands in ops/mod.rs.
    (
        "ops",
        &["id", "chunker", "compress", "crypto", "format", "store", "progress", "source", "target", "error", "repo"],
    ),
];

/// A source file: its path below `src`, and its text.
type File = (PathBuf, String);

#[test]
fn the_engine_points_downwards() {
    let files = files_below("src");
    assert!(files.len() > 5, "the engine's files were not found");
    report(violations(&files));
}

#[test]
fn nobody_imports_the_edges() {
    let edges =
        [("src", &["copal", "copal_agent"][..]), ("../cli/src", &["copal_agent"]), ("../agent/src", &["copal"])];
    let mut found = Vec::new();
    for (below, forbidden) in edges {
        for (path, text) in files_below(below) {
            let named = forbidden.iter().filter(|name| paths::names_crate(&text, name));
            found.extend(named.map(|name| format!("{below}/{}: uses the crate `{name}`", path.display())));
        }
    }
    report(found);
}

fn report(violations: Vec<String>) {
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

/// All violations in `files`, one line each.
fn violations(files: &[File]) -> Vec<String> {
    let contents: BTreeMap<&Path, _> =
        files.iter().map(|(path, text)| (path.as_path(), paths::read(text, &module_of(path)))).collect();
    let tests: Vec<Vec<String>> = contents
        .iter()
        .flat_map(|(path, c)| c.test_modules.iter().map(|name| [module_of(path), vec![name.clone()]].concat()))
        .collect();
    let verbs = verbs(files);
    let handed_on = handed_on(&contents, &verbs);
    let mut found = Vec::new();
    for (path, contents) in &contents {
        let module = module_of(path);
        if module.is_empty() || tests.iter().any(|test| module.starts_with(test)) {
            continue;
        }
        let from = owner(&module, &verbs, &handed_on);
        let wrong = contents.named.iter().filter_map(|named| wrong(&from, named, &verbs, &handed_on));
        found.extend(wrong.map(|why| format!("engine/src/{}:{why}", path.display())));
    }
    found
}

/// Why module `from` may not name `named`, or `None` if it may.
fn wrong(from: &str, named: &Named, verbs: &[String], handed_on: &BTreeMap<String, String>) -> Option<String> {
    let to = owner(&named.path, verbs, handed_on);
    let text = named.path.join("::");
    let line = named.line;
    let layer = from.split("::").next().unwrap_or(from);
    let Some((_, may)) = MAY_USE.iter().find(|(module, _)| *module == layer) else {
        return Some(format!("{line}: the module `{layer}` has no row in MAY_USE (engine/tests/layers/main.rs)"));
    };
    if to == "*" || (to == "ops::*" && from != "ops") {
        return Some(format!("{line}: `crate::{text}` brings in names of every layer: say which are meant"));
    }
    let known = MAY_USE.iter().any(|(module, _)| to.split("::").next() == Some(module));
    let own = to == from || to == layer || (from == "ops" && to.starts_with("ops::"));
    // What is neither a module nor handed on by lib.rs stands in lib.rs itself, or is a macro.
    if own || !known || may.contains(&to.as_str()) {
        return None;
    }
    let allowed = if may.is_empty() { "nothing".to_owned() } else { may.join(", ") };
    Some(format!("{line}: `{from}` may not use `{to}` (crate::{text}); it may use {allowed}"))
}

/// The row a path belongs to: its module, below `ops` the verb; names that lib.rs or ops/mod.rs hand on count as where they come from.
fn owner(path: &[String], verbs: &[String], handed_on: &BTreeMap<String, String>) -> String {
    let first = path.first().map_or("", String::as_str);
    match path.get(1).map(String::as_str) {
        Some("*") if first == "ops" => "ops::*".to_owned(),
        Some(second) if first == "ops" && verbs.iter().any(|v| v == second) => format!("ops::{second}"),
        Some(second) if first == "ops" => {
            handed_on.get(&format!("ops::{second}")).cloned().unwrap_or_else(|| "ops".to_owned())
        }
        _ => handed_on.get(first).cloned().unwrap_or_else(|| first.to_owned()),
    }
}

/// The modules directly below `ops`.
fn verbs(files: &[File]) -> Vec<String> {
    let mut names: Vec<String> = files
        .iter()
        .map(|(path, _)| module_of(path))
        .filter(|m| m.len() >= 2 && m[0] == "ops")
        .map(|m| m[1].clone())
        .collect();
    names.dedup();
    names
}

/// Where the names come from that the root and `ops` hand on: name as seen from the crate's root -> owner.
fn handed_on(contents: &BTreeMap<&Path, paths::Contents>, verbs: &[String]) -> BTreeMap<String, String> {
    let mut map = BTreeMap::new();
    for (file, prefix, base) in
        [("lib.rs", "", None), ("ops/mod.rs", "ops::", Some("ops")), ("ops.rs", "ops::", Some("ops"))]
    {
        let Some(contents) = contents.get(Path::new(file)) else { continue };
        for named in &contents.handed_on {
            let below_ops = base.is_some() && verbs.contains(&named.path[0]);
            let path =
                if below_ops { [vec!["ops".to_owned()], named.path.clone()].concat() } else { named.path.clone() };
            map.insert(format!("{prefix}{}", named.name), owner(&path, verbs, &BTreeMap::new()));
        }
    }
    map
}

/// `store/s3/client.rs` -> `["store", "s3", "client"]`; `lib.rs` and `main.rs` -> `[]`.
fn module_of(path: &Path) -> Vec<String> {
    let mut parts: Vec<String> = path.with_extension("").iter().map(|p| p.to_string_lossy().into_owned()).collect();
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        parts.pop();
    }
    parts
}

/// Every `.rs` file below `below`, a directory relative to the engine's own.
fn files_below(below: &str) -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(below);
    let mut files = Vec::new();
    let mut open = vec![root.clone()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).expect("a source directory can be read") {
            let path = entry.expect("a directory entry can be read").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).expect("a source file is UTF-8");
                files.push((path.strip_prefix(&root).expect("it was found below root").to_owned(), text));
            }
        }
    }
    files.sort();
    files
}

/// The violations in a house of these files.
fn of(files: &[(&str, &str)]) -> Vec<String> {
    let files: Vec<File> = files.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())).collect();
    violations(&files)
}

#[test]
fn an_upward_arrow_is_found() {
    let upward = "`store` may not use `format` (crate::format::";
    for text in [
        "use crate::format::Pack;",
        "use crate::{id::BlobId, format::{self, tree::Node}};",
        "use super::format::Pack;",
        "fn f() -> crate::format::Pack { make() }",
        "mod inner { use super::super::format::Pack; }",
        "fn f() { let s = \"\\\"\"; let c = '\"'; crate::format::check(s) }",
        "impl<'a> A<'a> { fn f() { crate::format::check::<u8>() } }",
        "macro_rules! m { () => { $crate::format::check() } }",
        "#[cfg(not(test))] use crate::format::Pack;",
    ] {
        let found = of(&[("store/mod.rs", text)]);
        let starts = found.iter().any(|line| line.contains(upward) || line.contains("(crate::format)"));
        assert!(starts, "{text}: {found:?}");
    }
    let nested = of(&[("store/s3/client.rs", "\n\nuse super::super::super::repo::Index;")]);
    assert_eq!(nested.len(), 1, "{nested:?}");
    assert!(nested[0].starts_with("engine/src/store/s3/client.rs:3: `store` may not use `repo`"), "{nested:?}");
}

#[test]
fn a_verb_does_not_reach_its_neighbour() {
    let house = |text| {
        of(&[
            ("lib.rs", "pub use ops::restore::Plan;\npub use repo::Reader;"),
            ("ops/mod.rs", "pub mod backup; pub mod restore; pub use restore::Summary; pub struct Shared;"),
            ("ops/restore.rs", ""),
            ("ops/backup/mod.rs", text),
        ])
    };
    for bad in [
        "use super::restore;",
        "use crate::ops::restore::x;",
        "use super::Summary;",
        "use crate::Plan;",
        "use super::*;",
    ] {
        assert_eq!(house(bad).len(), 1, "{bad}");
    }
    for good in
        ["use super::Shared;", "use crate::Reader;", "use self::walk::Walk;", "use crate::repo::{Reader, Writer as W};"]
    {
        assert_eq!(house(good), Vec::<String>::new(), "{good}");
    }
}

#[test]
fn what_hides_an_arrow_is_found() {
    let by_the_root = of(&[("lib.rs", "pub use crate::repo::{Index as Map};"), ("store/mod.rs", "use crate::Map;")]);
    assert_eq!(by_the_root.len(), 1, "{by_the_root:?}");
    assert_eq!(of(&[("store/mod.rs", "use crate::*;")]).len(), 1);
    assert_eq!(of(&[("novel/mod.rs", "use crate::id::BlobId;")]).len(), 1);
}

#[test]
fn what_is_no_arrow_is_left_alone() {
    for text in [
        "// use crate::format::Pack;\n/* crate::format::x /* nested */ crate::format::y */ /// [`crate::format::Pack`]",
        "fn f() { let s = \"crate::format::Pack\"; let r = r#\"crate::format::\"Pack\"#; }",
        "use crate::id::{BlobId, hex as digits}; pub(crate) fn f(self: &Self) {} use crate::store::Key;",
        "#[cfg(test)]\nmod tests { use crate::format::Pack; fn f() { { } } }\nfn g() {}",
        "#[cfg(all(test, unix))] #[allow(unused)] use crate::format::Pack; fn g() {}",
    ] {
        assert_eq!(of(&[("store/mod.rs", text)]), Vec::<String>::new(), "{text}");
    }
    let in_a_file = [("store/mod.rs", "#[cfg(test)]\nmod tests;"), ("store/tests.rs", "use crate::format::Pack;")];
    assert_eq!(of(&in_a_file), Vec::<String>::new());
}
