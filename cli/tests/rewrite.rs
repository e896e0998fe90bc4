//! `rewrite`, as a user types it.

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;

use common::{Place, assert_same_tree};
use serde_json::{Value, json};

fn place() -> Place {
    let place = Place::new();
    place.write("src/sub/secret.key", b"never to be shown");
    place.write("src/.cache/x/y", b"cached");
    place.ok(&["backup", "src", "-q", "--host", "one", "--tag", "a"]);
    place
}

fn snapshots(place: &Place) -> Vec<Value> {
    place.json(&["snapshots"]).as_array().unwrap().clone()
}

#[test]
fn what_is_excluded_leaves_and_all_else_stays() {
    let place = place();
    let source = place.text("src");
    let before = snapshots(&place);
    place.write("patterns", format!("# caches\n{source}/.cache\n").as_bytes());
    let words = ["rewrite", "--iexclude", "*.KEY", "--exclude-file", "patterns"];
    let dry = place.ok(&[&words[..], &["--dry-run"]].concat());
    assert!(dry.out.contains("without 2 files, 2 directories and 0 others, together 23 B"), "{dry:?}");
    assert_eq!(snapshots(&place), before);

    let packs = place.packs().len();
    let done = place.ok(&words);
    assert!(done.out.contains("stays, and") && done.out.contains("rewrote 1 snapshots"), "{done:?}");
    let after = snapshots(&place);
    assert_eq!((after.len(), after.contains(&before[0])), (2, true));
    let new = after.iter().find(|s| s["id"] != before[0]["id"]).unwrap();
    assert_eq!((&new["tags"], &new["original"]), (&json!(["a", "rewrite"]), &before[0]["id"]));
    assert_eq!((&new["time"], &new["hostname"]), (&before[0]["time"], &before[0]["hostname"]));
    let bytes = |s: &Value| s["summary"]["total_bytes_processed"].as_u64().unwrap();
    assert_eq!(bytes(new), bytes(&before[0]) - 23);
    assert_eq!(place.packs().len(), packs + 1, "trees and metas alone");

    place.ok(&["restore", &format!("{}:{source}", new["id"].as_str().unwrap()), "-t", "out"]);
    fs::remove_dir_all(place.path("src/.cache")).unwrap();
    fs::remove_file(place.path("src/sub/secret.key")).unwrap();
    assert_same_tree(&place.path("src"), &place.path("out"));
    let [a, hard] = ["a.txt", "hard"].map(|name| fs::metadata(place.path("out").join(name)).unwrap().ino());
    assert_eq!(a, hard, "two names of one file");
    place.ok(&["check", "--read-data"]);
}

#[test]
fn old_ones_are_forgotten_on_demand_and_a_repeat_changes_nothing() {
    let place = place();
    let before = snapshots(&place);
    let words = ["rewrite", "--exclude", "*.key", "--exclude", "a.txt", "--forget"];
    let done = place.ok(&words);
    assert!(done.out.contains("is now"), "{done:?}");
    let [new] = &snapshots(&place)[..] else { panic!() };
    assert_eq!((&new["tags"], &new["original"]), (&json!(["a"]), &before[0]["id"]));
    assert!(place.ok(&words).out.contains("no snapshot needs to be changed"));
    let listed = place.ok(&["ls", "latest"]).out;
    assert!(!listed.contains("secret") && !listed.contains("a.txt") && listed.contains("/hard"), "{listed}");
    // The last name of a file that had two comes back with its bytes.
    assert_eq!(place.ok(&["dump", "latest", &place.text("src/hard")]).out, "hello\n");
    // And the next backup compares with it.
    assert_eq!(place.json(&["backup", "src", "--host", "one"])["files_new"], 2);
}

#[test]
fn host_and_time_are_changed() {
    let place = place();
    let before = snapshots(&place);
    place.ok(&["rewrite", "latest", "--new-host", "two", "--new-time", "2020-01-02T03:04:05Z", "--forget"]);
    let [new] = &snapshots(&place)[..] else { panic!() };
    assert_eq!((&new["hostname"], &new["tree"]), (&json!("two"), &before[0]["tree"]));
    assert!(new["time"].as_str().unwrap().starts_with("2020-01-0"), "{new}");
    assert_eq!(place.json(&["snapshots", "--host", "two"]).as_array().unwrap().len(), 1);
    place.ok(&["check"]);
}

#[test]
fn bad_command_lines_and_what_would_be_empty_change_nothing() {
    let place = place();
    place.ok(&["key", "export", "--role", "writer", "--out", "writer"]);
    let before = snapshots(&place);
    for (words, code, text) in [
        (&["latest"][..], 2, "--new-host or --new-time"),
        (&["--exclude", "a["], 2, "a["),
        (&["--new-time", "yesterday"], 2, "no time"),
        (&["ffffffff", "--exclude", "x"], 1, "there is no snapshot"),
        (&["--exclude", "x", "--key-file", "writer"], 12, "use a key of role owner"),
        (&["--exclude", "*", "--forget"], 3, "nothing would be left"),
    ] {
        let ran = place.run(&[&["rewrite"], words].concat());
        assert!(ran.code == code && ran.err.contains(text), "{words:?}: {ran:?}");
    }
    assert_eq!(snapshots(&place), before);
}
