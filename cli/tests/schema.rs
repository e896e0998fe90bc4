//! Real output against the schemas in docs/json/. The validator knows the few keywords that they use and fails on others.

mod common;

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

use common::Place;
use serde_json::Value;

fn schema(name: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/json").join(format!("{name}.schema.json"));
    serde_json::from_str(&fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).unwrap()
}

/// Why `value` is not what `schema` says; `root` holds the definitions.
fn check(root: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    for (keyword, rule) in schema.as_object().expect("a schema is an object") {
        let fail = |how: String| Err(format!("{at}: {how}"));
        match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" | "additionalProperties" => {}
            "$ref" => {
                let name = rule.as_str().and_then(|r| r.strip_prefix("#/$defs/")).expect("only references to $defs");
                check(root, &root["$defs"][name], value, at)?;
            }
            "const" if value == rule => {}
            "const" => return fail(format!("{value} is not {rule}")),
            "enum" if rule.as_array().unwrap().contains(value) => {}
            "enum" => return fail(format!("{value} is none of {rule}")),
            "type" => {
                let names = rule.as_array().cloned().unwrap_or_else(|| vec![rule.clone()]);
                if !names.iter().any(|name| is(name.as_str().unwrap(), value)) {
                    return fail(format!("{value} is no {rule}"));
                }
            }
            "required" => {
                for name in rule.as_array().unwrap() {
                    if value.get(name.as_str().unwrap()).is_none() {
                        return fail(format!("{name} is missing"));
                    }
                }
            }
            "properties" => {
                for (name, inner) in value.as_object().into_iter().flatten() {
                    match rule.get(name) {
                        Some(rule) => check(root, rule, inner, &format!("{at}/{name}"))?,
                        None if schema["additionalProperties"] == false => return fail(format!("{name} is too much")),
                        None => {}
                    }
                }
            }
            "items" => {
                for (n, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(root, rule, item, &format!("{at}/{n}"))?;
                }
            }
            "oneOf" => {
                let results: Vec<_> = rule.as_array().unwrap().iter().map(|s| check(root, s, value, at)).collect();
                if results.iter().filter(|r| r.is_ok()).count() != 1 {
                    return fail(format!("not exactly one of the alternatives: {results:?} for {value}"));
                }
            }
            other => panic!("this validator does not know the keyword {other}"),
        }
    }
    Ok(())
}

fn is(name: &str, value: &Value) -> bool {
    match name {
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("this validator does not know the type {other}"),
    }
}

#[track_caller]
fn assert_lines(name: &str, text: &str, seen: &mut HashSet<String>) {
    assert!(!text.trim().is_empty(), "{name}: nothing was printed");
    for line in text.lines() {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{name}: {e}: {line}"));
        // Notes are the same for every command.
        let name = if value["message_type"] == "log" { "log" } else { name };
        let schema = schema(name);
        check(&schema, &schema, &value, name).unwrap();
        seen.insert(name.to_owned());
    }
}

#[test]
fn output_is_what_the_schemas_say() {
    let place = Place::new();
    let mut seen = HashSet::new();
    let source = place.text("src");
    place.ok(&["backup", "src", "-q"]);
    place.write("src/sub/deep.c", b"longer than before");
    place.write("new.pw", b"x\n");
    let tree = format!("latest:{source}");
    for (name, words) in [
        ("version", &["version"][..]),
        ("backup", &["backup", "src", "--tag", "t", "-vv"]),
        ("backup", &["backup", "src", "--dry-run"]),
        ("snapshots", &["snapshots"]),
        ("snapshots", &["snapshots", "--group-by", "host,tags"]),
        ("ls", &["ls", "latest"]),
        ("find", &["find", "*.c", "link"]),
        ("diff", &["diff", "latest~1", "latest", "--metadata"]),
        ("stats", &["stats"]),
        ("stats", &["stats", "--mode", "raw-data"]),
        ("stats", &["stats", "--mode", "blobs-per-file"]),
        ("restore", &["restore", &tree, "-t", "out", "--dry-run"]),
        ("restore", &["restore", &tree, "-t", "out"]),
        ("check", &["check"]),
        ("check", &["check", "--read-data", "--attest", "said.txt"]),
        ("check-attested", &["check", "--attested", "said.txt"]),
        ("check", &["check", "--read-data-subset", "1/1", "--max-age", "1d", "-vv"]),
        ("key", &["key", "export", "--role", "writer", "--out", "w.key"]),
        ("key", &["key", "export", "--role", "reader", "--out", "r.key"]),
        ("key", &["key", "add", "--new-password-file", "new.pw"]),
        ("key-list", &["key", "list"]),
        ("key-list", &["cat", "keys"]),
        ("key", &["key", "rotate"]),
        ("cat-config", &["cat", "config"]),
        ("cat-snapshot", &["cat", "snapshot", "latest"]),
        ("cat-tree", &["cat", "tree", &tree]),
        ("list", &["list", "snapshots"]),
        ("list", &["list", "packs"]),
        ("list", &["list", "blobs"]),
        ("list", &["list", "objects"]),
        ("cache", &["cache"]),
        ("init", &["init", "-r", "other", "--key-out", "o.key"]),
        ("snapshots", &["snapshots", "--key-file", "w.key"]),
        ("tag", &["tag", "latest", "--add", "u"]),
        ("tag", &["tag", "--set", "v", "-n"]),
        ("rewrite", &["rewrite", "--exclude", "deep.c", "-n"]),
        ("rewrite", &["rewrite", "latest", "--exclude", "deep.c", "--forget"]),
        ("forget", &["forget", "--keep-daily", "1", "--keep-tag", "t", "--dry-run"]),
        ("forget", &["forget", "latest", "-n"]),
        ("forget", &["forget"]),
        ("prune", &["prune", "-n"]),
        ("prune", &["prune"]),
    ] {
        let ran = place.ok(&[words, &["--json"]].concat());
        assert_lines(name, &ran.out, &mut seen);
    }
    let found = place.ok(&["find", "--tree", &tree_id(&place, &tree), "--json"]);
    assert_lines("find", &found.out, &mut seen);
    let writer = members(&place).into_iter().find(|m| m["revoked"] == false).unwrap();
    let revoked = place.ok(&["key", "revoke", writer["id"].as_str().unwrap(), "--json"]);
    assert_lines("key", &revoked.out, &mut seen);
    let slot = place.json(&["key", "list"])["slots"][0]["id"].as_str().unwrap().to_owned();
    assert_lines("key", &place.ok(&["key", "remove", &slot, "--json"]).out, &mut seen);
    place.ok(&["-r", "third", "init", "--key-out", "third.key"]);
    let default = ["home/.local/share/copal/repository", "home/.config/copal/key"];
    let from = ["--from-repo", default[0], "--from-key-file", default[1]];
    let words = [&["-r", "third", "--key-file", "third.key", "copy", "--json", "-vv"][..], &from].concat();
    for said in ["copied", "skipped"] {
        let ran = place.ok(&words);
        assert!(ran.out.contains(said), "{ran:?}");
        assert_lines("copy", &ran.out, &mut seen);
    }
    let refused = place.run(&["rewrite", "--exclude", "*", "--json"]);
    assert_eq!(refused.code, 3);
    assert_lines("rewrite", &refused.out, &mut seen);
    assert_lines("rewrite", &refused.err, &mut seen);
    let failed = place.run(&["ls", "nope", "--json"]);
    assert_lines("exit-error", &failed.err, &mut seen);
    fs::set_permissions(place.path("src/a.txt"), std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    let unreadable = place.run_as_user(&["backup", "src", "--json"]);
    assert_lines("backup", &unreadable.out, &mut seen);
    assert_lines("backup", &unreadable.err, &mut seen);
    assert_lines("repair", &place.ok(&["repair", "index", "--json"]).out, &mut seen);
    damage_a_pack(&place);
    let damaged = place.run(&["check", "--read-data", "--json"]);
    assert_eq!(damaged.code, 1);
    assert_lines("check", &damaged.out, &mut seen);
    assert_lines("check", &damaged.err, &mut seen);
    for action in ["packs", "snapshots"] {
        let repaired = place.run(&["repair", action, "--json"]);
        assert!([0, 3].contains(&repaired.code), "{repaired:?}");
        assert_lines("repair", &repaired.out, &mut seen);
        if !repaired.err.is_empty() {
            assert_lines("repair", &repaired.err, &mut seen);
        }
    }
    assert_eq!(seen, names(), "every schema is used, and every one that is used exists");
}

fn damage_a_pack(place: &Place) {
    let pack = place.packs().remove(0);
    let mut bytes = fs::read(&pack).unwrap();
    bytes[5000] ^= 1;
    fs::set_permissions(&pack, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    fs::write(&pack, bytes).unwrap();
}

fn tree_id(place: &Place, tree: &str) -> String {
    place.json(&["cat", "tree", tree])["id"].as_str().unwrap().to_owned()
}

fn members(place: &Place) -> Vec<Value> {
    place.json(&["key", "list"])["members"].as_array().unwrap().clone()
}

fn names() -> HashSet<String> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/json");
    let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap().replace(".schema.json", "");
    fs::read_dir(dir).unwrap().map(|entry| name(entry.unwrap())).collect()
}

#[test]
fn the_validator_finds_what_is_wrong() {
    let schema = schema("version");
    let good = serde_json::json!({"message_type": "version", "schema": 1, "version": "1", "format": 1, "os": "x", "arch": "y"});
    assert_eq!(check(&schema, &schema, &good, ""), Ok(()));
    for (name, bad) in [("schema", 2.into()), ("format", "1".into()), ("message_type", "x".into()), ("more", 1.into())]
    {
        let mut value: Value = good.clone();
        value[name] = bad;
        assert!(check(&schema, &schema, &value, "").is_err(), "{name}");
    }
    let mut less = good;
    less.as_object_mut().unwrap().remove("os");
    assert!(check(&schema, &schema, &less, "").is_err());
}
