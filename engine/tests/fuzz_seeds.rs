//! The kept inputs of the fuzz targets, through the same functions, without libFuzzer: on any compiler, with every change.
//!
//! And the list of fuzz/README.md: every function of this crate that makes something of bytes or text has a line there.

use std::path::{Path, PathBuf};

#[path = "../../fuzz/src/lib.rs"]
#[allow(missing_docs, unreachable_pub)]
mod fuzz;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the engine lies in the repository").to_owned()
}

/// Files of a directory, sorted.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

#[test]
fn no_kept_input_breaks_its_target() {
    for (name, target) in fuzz::TARGETS {
        let seeds = files(&root().join("fuzz/seeds").join(name));
        assert!(!seeds.is_empty(), "{name} has no seeds");
        for seed in seeds {
            let bytes = std::fs::read(&seed).unwrap();
            println!("{}", seed.display());
            target(&bytes);
            damaged(&bytes, *target);
        }
    }
}

/// Cut off at some places, and with a byte changed there: always the same ones.
fn damaged(bytes: &[u8], target: fuzz::Target) {
    for n in 1..=8 {
        let at = bytes.len() * n / 9;
        target(&bytes[..at]);
        let mut changed = bytes.to_vec();
        if let Some(byte) = changed.get_mut(at) {
            *byte = byte.wrapping_add([1, 128, 255][n % 3]);
        }
        target(&changed);
    }
}

#[test]
fn every_target_is_built_and_listed() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let (manifest, readme) = (read("fuzz/Cargo.toml"), read("fuzz/README.md"));
    let names: Vec<&str> = fuzz::TARGETS.iter().map(|(name, _)| *name).collect();
    let built: Vec<String> = files(&root().join("fuzz/fuzz_targets"))
        .iter()
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, built);
    for name in names {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name} is not in fuzz/Cargo.toml");
        assert!(readme.contains(&format!("| `{name}` |")), "{name} is not in the table of fuzz/README.md");
    }
}

/// A function that is called like a decoder and takes bytes or text.
#[test]
fn every_decoder_is_in_the_list() {
    let readme = std::fs::read_to_string(root().join("fuzz/README.md")).unwrap();
    let mut missing = Vec::new();
    let mut found = 0;
    for (file, text) in sources(&root().join("engine/src"), "") {
        let code = text.split("#[cfg(test)]").next().unwrap();
        for name in decoders(code, file.starts_with("format/")) {
            found += 1;
            if !readme.lines().any(|line| line.contains(&format!("`{file}`")) && line.contains(&format!("`{name}`"))) {
                missing.push(format!("{file}: {name}"));
            }
        }
    }
    assert!(found > 30, "the search finds no decoders any more: {found}");
    assert!(missing.is_empty(), "not in the table of fuzz/README.md:\n{}", missing.join("\n"));
}

/// All source files below `dir`, by their path without the `.rs`.
fn sources(dir: &Path, prefix: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for path in files(dir) {
        let stem = format!("{prefix}{}", path.file_stem().unwrap().to_str().unwrap());
        if path.is_dir() {
            all.extend(sources(&path, &format!("{stem}/")));
        } else if !stem.ends_with("tests") {
            all.push((stem, std::fs::read_to_string(&path).unwrap()));
        }
    }
    all
}

/// Functions with the name of a decoder that take bytes or text; beside the format, `open` and `read` are about files.
fn decoders(code: &str, of_format: bool) -> Vec<String> {
    let verbs = ["decode", "parse", "from_", "peek", "decompress", "open", "read"];
    let verbs = if of_format { &verbs[..] } else { &verbs[..5] };
    let kinds = ["&[u8]", "&mut [u8]", "&str", "Vec<u8>", "&OsStr", "[u8; "];
    let mut names = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let (head, rest) = code[at + 3..].split_once('(').unwrap_or_default();
        let name = head.split('<').next().unwrap_or_default();
        let parameters = rest.split(')').next().unwrap_or_default();
        if verbs.iter().any(|verb| name.starts_with(verb)) && kinds.iter().any(|kind| parameters.contains(kind)) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    names.dedup();
    names
}
