//! `tag`, as a user types it.

mod common;

use common::{Place, assert_same_tree};
use serde_json::{Value, json};

fn place() -> Place {
    let place = Place::new();
    place.ok(&["backup", "src", "-q", "--host", "one", "--tag", "a,b"]);
    place.write("src/a.txt", b"changed");
    place.ok(&["backup", "src", "-q", "--host", "two"]);
    place
}

fn tags(place: &Place) -> Vec<Value> {
    place.json(&["snapshots"]).as_array().unwrap().iter().map(|s| s["tags"].clone()).collect()
}

#[test]
fn tags_are_set_added_and_removed() {
    let place = place();
    let before = place.json(&["snapshots"]);
    let done = place.ok(&["tag", "--add", "c", "--add", "d,a", "--remove", "b", "--host", "one"]);
    assert!(done.out.contains("with tags a,c,d") && done.out.contains("changed the tags of 1 snapshots"), "{done:?}");
    assert_eq!(tags(&place), [json!(["a", "c", "d"]), json!([])]);
    let after = place.json(&["snapshots"]);
    assert_eq!(after[1], before[1], "the other one is as it was");
    assert_eq!(after[0]["original"], before[0]["id"]);
    for same in ["time", "tree", "paths", "hostname", "username", "summary", "program_version", "writer"] {
        assert_eq!(after[0][same], before[0][same], "{same}");
    }
    let gone = place.run(&["ls", before[0]["id"].as_str().unwrap()]);
    assert!(gone.code == 1 && gone.err.contains("was forgotten"), "{gone:?}");

    assert!(place.ok(&["tag", "--set", "x", "--tag", "c,d", "--dry-run"]).out.contains("would have tags x"));
    assert_eq!(place.json(&["snapshots"]), after);
    place.ok(&["tag", "latest", "--set", "x,y"]);
    place.ok(&["tag", "--set", "", "--path", &place.text("src"), "--host", "one"]);
    assert_eq!(tags(&place), [json!([]), json!(["x", "y"])]);
    assert!(place.ok(&["tag", "--remove", "nothing"]).out.contains("no snapshot needs to be changed"));
    place.ok(&["check", "--read-data"]);
    place.ok(&["restore", &format!("latest:{}", place.text("src")), "-t", "out"]);
    assert_same_tree(&place.path("src"), &place.path("out"));
}

#[test]
fn machine_output_names_old_and_new() {
    let place = place();
    let before = place.json(&["snapshots"]);
    let ran = place.ok(&["tag", "--set", "x", "--json"]);
    let lines: Vec<Value> = ran.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let after = place.json(&["snapshots"]);
    for n in 0..2 {
        assert_eq!((&lines[n]["message_type"], &lines[n]["tags"]), (&json!("changed"), &json!(["x"])));
        assert_eq!((&lines[n]["old_snapshot_id"], &lines[n]["new_snapshot_id"]), (&before[n]["id"], &after[n]["id"]));
    }
    assert_eq!(lines[2]["changed_snapshots"], 2);
    assert_eq!(place.json(&["tag", "--set", "x"])["changed_snapshots"], 0);
}

#[test]
fn bad_command_lines_and_other_roles_change_nothing() {
    let place = place();
    let before = place.json(&["snapshots"]);
    for role in ["reader", "writer", "maintainer"] {
        place.ok(&["key", "export", "--role", role, "--out", role]);
    }
    for (words, code, text) in [
        (&["latest"][..], 2, "--set, --add or --remove"),
        (&["--set", "a", "--add", "b"], 2, "cannot be used with"),
        (&["ffffffff", "--add", "b"], 1, "there is no snapshot"),
        (&["--add", "b", "--key-file", "reader"], 12, "use a key of role owner"),
        (&["--add", "b", "--key-file", "writer"], 12, "use a key of role owner"),
        (&["--add", "b", "--key-file", "maintainer"], 12, "use a key of role owner"),
    ] {
        let ran = place.run(&[&["tag"], words].concat());
        assert!(ran.code == code && ran.err.contains(text), "{words:?}: {ran:?}");
    }
    assert_eq!(place.json(&["snapshots"]), before);
}
