//! `forget`, as a user types it.

mod common;

use common::Place;
use serde_json::Value;

/// With snapshots at these times (UTC), oldest first.
fn place_of(times: &[&str]) -> Place {
    let place = Place::new();
    for (n, time) in times.iter().enumerate() {
        place.write("src/a.txt", format!("{n}").as_bytes());
        place.ok(&["backup", "src", "-q", "--host", "h", "--time", time]);
    }
    place
}

fn ids(place: &Place) -> Vec<String> {
    let snapshots = place.json(&["snapshots"]);
    snapshots.as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect()
}

fn records(place: &Place) -> usize {
    std::fs::read_dir(place.path("home/.local/share/copal/repository/forget")).map_or(0, Iterator::count)
}

const TIMES: [&str; 4] =
    ["2025-01-01T10:00:00Z", "2025-01-01T12:00:00Z", "2025-01-02T12:00:00Z", "2025-02-02T12:00:00Z"];

#[test]
fn a_policy_forgets_the_rest() {
    let place = place_of(&TIMES);
    let all = ids(&place);
    let words = ["forget", "--keep-last", "1", "-m", "2"];

    let dry = place.ok(&[&words[..], &["--dry-run"]].concat());
    for text in
        ["host h; paths ", "keep 2 snapshots:", "last snapshot, monthly snapshot", "forget 2 snapshots:", "Reasons"]
    {
        assert!(dry.out.contains(text), "{text}: {dry:?}");
    }
    assert!(dry.err.contains("nothing was changed"), "{dry:?}");
    assert_eq!((ids(&place), records(&place)), (all.clone(), 0));

    let groups = place.json(&words);
    let [group] = &groups.as_array().unwrap()[..] else { panic!("{groups}") };
    let of = |name: &str| group[name].as_array().unwrap().iter().map(|s| s["id"].clone()).collect::<Vec<_>>();
    assert_eq!(of("keep"), [all[3].as_str(), &all[2]]);
    assert_eq!(of("remove"), [all[1].as_str(), &all[0]]);
    assert_eq!(group["reasons"][0]["matches"], serde_json::json!(["last snapshot", "monthly snapshot"]));
    assert_eq!((group["host"].as_str(), records(&place)), (Some("h"), 1));
    assert_eq!(ids(&place), all[2..]);

    let again = place.ok(&words);
    assert!(!again.err.contains("forgotten"), "{again:?}");
    assert_eq!(records(&place), 1, "nothing to forget, nothing written");
    place.ok(&["check"]);
    place.ok(&["restore", "latest~1", "-t", "out"]);
}

#[test]
fn what_was_forgotten_is_not_found_and_the_message_says_why() {
    let place = place_of(&TIMES[..3]);
    let all = ids(&place);
    let done = place.ok(&["forget", &all[1][..8], "latest"]);
    assert!(
        done.err.contains("2 snapshots forgotten") && done.err.contains("copal prune gives their space"),
        "{done:?}"
    );
    assert_eq!(ids(&place), all[..1]);
    for words in
        [&["restore", &all[1], "-t", "out"][..], &["ls", &all[1]], &["forget", &all[1]], &["cat", "snapshot", &all[1]]]
    {
        let ran = place.run(words);
        assert!(ran.code == 1 && ran.err.contains("was forgotten at 20"), "{words:?}: {ran:?}");
    }
    assert_eq!(place.json(&["snapshots", "latest"])[0]["id"], all[0].as_str());
    // Not a parent either: the next one is compared with the one that is kept.
    place.ok(&["backup", "src", "-q", "--host", "h"]);
    assert_eq!(place.json(&["snapshots", "latest"])[0]["parent"], all[0].as_str());
    place.ok(&["check", "--read-data"]);
}

#[test]
fn a_group_is_emptied_only_when_that_is_meant() {
    let place = place_of(&TIMES[..2]);
    let refused = place.run(&["forget", "--keep-tag", "none"]);
    assert!(refused.code == 1 && refused.err.contains("--allow-empty-group"), "{refused:?}");
    assert_eq!((ids(&place).len(), records(&place)), (2, 0));
    place.ok(&["forget", "--keep-tag", "none", "--allow-empty-group"]);
    assert!(ids(&place).is_empty());
    place.ok(&["backup", "src", "-q"]);
    place.ok(&["forget", "latest"]);
    assert!(ids(&place).is_empty(), "who names a snapshot means it");
}

#[test]
fn filters_and_groups_choose() {
    let place = place_of(&TIMES[..2]);
    place.ok(&["backup", "src", "-q", "--host", "other", "--tag", "keep", "--time", TIMES[2]]);
    place.ok(&["backup", "src/sub", "-q", "--host", "h", "--time", TIMES[3]]);
    let all = ids(&place);
    let removed = |words: &[&str]| -> Vec<Value> {
        let groups = place.json(&[&["forget", "-n", "--keep-last", "1"], words].concat());
        let removed = groups.as_array().unwrap().iter().flat_map(|g| g["remove"].as_array().unwrap().clone());
        removed.map(|s| s["id"].clone()).collect()
    };
    assert_eq!(removed(&[]), [all[0].as_str()]);
    assert_eq!(removed(&["--group-by", "host"]), [all[1].as_str(), &all[0]]);
    assert_eq!(removed(&["--group-by", ""]), [all[2].as_str(), &all[1], &all[0]]);
    assert_eq!(removed(&["--group-by", "", "--keep-tag", "keep"]), [all[1].as_str(), &all[0]]);
    assert!(removed(&["--host", "other"]).is_empty());
    assert_eq!(removed(&["-g", "host", "--path", &place.text("src")]), [all[0].as_str()]);
    // A day is one of this machine's time zone: 10 and 12 o'clock UTC are of two days there.
    let daily = ["forget", "-n", "-d", "unlimited", "--json", "--host", "h", "--path", &place.text("src")];
    let kept = |zone: &str| {
        let ran = common::ran(place.command(&daily).env("TZ", zone));
        let groups: Value = serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {ran:?}"));
        groups[0]["reasons"].as_array().unwrap().iter().map(|r| r["matches"][0].to_string()).collect::<Vec<_>>()
    };
    assert_eq!(kept("UTC0"), ["\"daily snapshot\"", "\"oldest daily snapshot\""]);
    assert_eq!(kept("XXX-13"), ["\"daily snapshot\"", "\"daily snapshot\""]);
}

#[test]
fn roles_may_or_may_not() {
    let place = place_of(&TIMES[..2]);
    for role in ["reader", "writer", "maintainer"] {
        place.ok(&["key", "export", "--role", role, "--out", role]);
    }
    for role in ["reader", "writer"] {
        let ran = place.run(&["forget", "--keep-last", "1", "--key-file", role]);
        assert!(ran.code == 12 && ran.err.contains(&format!("a {role}'s key may not forget snapshots")), "{ran:?}");
    }
    let blind = place.run(&["forget", "--keep-last", "1", "--keep-tag", "x", "--key-file", "maintainer"]);
    assert!(blind.code == 12 && blind.err.contains("by host, path or tag"), "{blind:?}");
    assert_eq!(records(&place), 0);
    let done = place.ok(&["forget", "--keep-last", "1", "--key-file", "maintainer"]);
    assert!(done.out.contains("host #"), "{done:?}");
    assert_eq!(ids(&place).len(), 1);
}

#[test]
fn bad_command_lines_change_nothing() {
    let place = place_of(&TIMES[..2]);
    for (words, code, text) in [
        (&["--yes"][..], 2, "--prune"),
        (&["--max-unused", "0"], 2, "--prune"),
        (&["--max-repack-size", "1M"], 2, "--prune"),
        (&["latest", "--keep-last", "1"], 2, "cannot be used with"),
        (&["--keep-last", "-2"], 2, "unlimited"),
        (&["--keep-within", "1w"], 2, "no length of time"),
        (&["--keep-last", "1", "--group-by", "colour"], 2, "colour"),
        (&["ffffffff"], 1, "there is no snapshot"),
    ] {
        let ran = place.run(&[&["forget"], words].concat());
        assert!(ran.code == code && ran.err.contains(text), "{words:?}: {ran:?}");
    }
    let nothing = place.ok(&["forget"]);
    assert!(nothing.err.contains("no policy was given"), "{nothing:?}");
    assert_eq!((ids(&place).len(), records(&place)), (2, 0));
}
