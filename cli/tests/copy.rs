//! `copy`, as a user types it: from the default repository into another one.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use common::{Place, assert_same_tree, ran};
use serde_json::{Value, json};

/// Two snapshots in the default repository; an empty one in `other`, opened by `other.key`.
fn place() -> Place {
    let place = Place::new();
    place.ok(&["backup", "src", "-q", "--host", "one", "--tag", "a,b", "--time", "2025-01-01T10:00:00Z"]);
    place.write("src/sub/new.c", b"int later;\n");
    place.ok(&["backup", "src", "-q", "--host", "two"]);
    place.ok(&["-r", "other", "init", "--key-out", "other.key"]);
    place
}

const TO: [&str; 4] = ["-r", "other", "--key-file", "other.key"];
const FROM: [&str; 4] =
    ["--from-repo", "home/.local/share/copal/repository", "--from-key-file", "home/.config/copal/key"];

fn copy<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&TO[..], &["copy"], &FROM, more].concat()
}

fn there<'a>(words: &[&'a str]) -> Vec<&'a str> {
    [&TO[..], words].concat()
}

#[test]
fn copies_are_equal_and_made_once() {
    let place = place();
    let done = place.ok(&copy(&[]));
    assert!(done.out.contains("is copied as") && done.out.contains("copied 2 snapshots, 0 were here"), "{done:?}");
    let (old, new) = (place.json(&["snapshots"]), place.json(&there(&["snapshots"])));
    assert_eq!(new.as_array().unwrap().len(), 2);
    for n in 0..2 {
        assert_eq!(new[n]["original"], old[n]["id"]);
        for same in ["time", "paths", "hostname", "username", "uid", "tags", "summary", "program_version", "problems"] {
            assert_eq!(new[n][same], old[n][same], "{same}");
        }
        assert_ne!(new[n]["tree"], old[n]["tree"], "under other keys");
    }
    let source = place.text("src");
    let listed = |words: &[&str]| {
        place
            .ok(&[words, &["ls", "latest", "--json"]].concat())
            .out
            .lines()
            .skip(1)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(listed(&[]), listed(&TO), "every attribute");
    place.ok(&there(&["restore", &format!("latest:{source}"), "-t", "out"]));
    assert_same_tree(&place.path("src"), &place.path("out"));
    let of = |name: &str| fs::metadata(place.path("out").join(name)).unwrap();
    assert_eq!(of("a.txt").ino(), of("hard").ino());
    assert!(of("sparse").blocks() * 512 < 1 << 20, "holes stay holes");
    place.ok(&there(&["check", "--read-data"]));

    let again = place.ok(&copy(&[]));
    assert!(
        again.out.contains("is here already, as") && again.out.contains("copied 0 snapshots, 2 were here"),
        "{again:?}"
    );
    assert_eq!(place.json(&there(&["snapshots"])), new);
    // One that was edited there is a copy all the same.
    place.ok(&there(&["tag", "latest", "--add", "mine"]));
    assert!(place.ok(&copy(&["latest"])).out.contains("1 were here"));
}

#[test]
fn some_are_chosen_and_machine_output_names_both() {
    let place = place();
    let old = place.json(&["snapshots"]);
    let ran = place.ok(&copy(&["--host", "one", "--json"]));
    let lines: Vec<Value> = ran.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let new = place.json(&there(&["snapshots"]));
    assert_eq!(new.as_array().unwrap().len(), 1);
    let line = lines.iter().find(|l| l["message_type"] == "copied").unwrap();
    assert_eq!((&line["source_snapshot_id"], &line["snapshot_id"]), (&old[0]["id"], &new[0]["id"]));
    assert!(line["data_added"].as_u64().unwrap() > 3 << 20, "{line}");
    let summary = place.json(&copy(&["latest", &old[0]["id"].as_str().unwrap()[..8]]));
    assert_eq!((&summary["copied_snapshots"], &summary["skipped_snapshots"]), (&json!(1), &json!(1)));
}

#[test]
fn keys_come_from_where_they_were_said_to() {
    let place = place();
    place.write("pw", b"secret\n");
    fs::set_permissions(place.path("pw"), fs::Permissions::from_mode(0o600)).unwrap();
    place.ok(&["key", "add", "--new-password-file", "pw"]);
    place.ok(&["key", "export", "--role", "reader", "--out", "reader"]);
    place.ok(&there(&["key", "export", "--role", "writer", "--out", "writer"]));
    let repo = "home/.local/share/copal/repository";
    let mut by_variables = place.command(&there(&["copy", "latest"]));
    by_variables.env("COPAL_FROM_REPOSITORY", repo).env("COPAL_FROM_PASSWORD", "secret");
    let done = ran(&mut by_variables);
    assert_eq!(done.code, 0, "{done:?}");
    place.ok(&[
        "-r",
        "other",
        "--key-file",
        "writer",
        "copy",
        "--from-repo",
        repo,
        "--from-password-command",
        "cat pw",
    ]);
    place.ok(&there(&["copy", "--from-repo", repo, "--from-key-file", "reader"]));
    assert_eq!(place.json(&there(&["snapshots"])).as_array().unwrap().len(), 2);
    let mut theirs = place.command(&there(&["copy"]));
    let refused = ran(theirs.env("RESTIC_FROM_REPOSITORY", "x"));
    assert!(refused.code == 1 && refused.err.contains("set COPAL_FROM_REPOSITORY for copal"), "{refused:?}");
}

#[test]
fn exit_codes() {
    let place = place();
    place.ok(&["key", "export", "--role", "writer", "--out", "writer"]);
    place.ok(&there(&["key", "export", "--role", "reader", "--out", "reader"]));
    let (repo, key) = ("home/.local/share/copal/repository", "home/.config/copal/key");
    for (words, code, text) in [
        (there(&["copy"]), 2, "--from-repo"),
        (copy(&["--from-password-file", "x"]), 2, "--from-password-file and --from-key-file exclude each other"),
        (there(&["copy", "--from-repo", "nowhere", "--from-key-file", key]), 10, "no repository"),
        (
            there(&["copy", "--from-repo", repo]),
            12,
            "use --from-password-file, --from-password-command or --from-key-file",
        ),
        (there(&["copy", "--from-repo", repo, "--from-key-file", "other.key"]), 12, "belongs to repository"),
        (there(&["copy", "--from-repo", repo, "--from-key-file", "writer"]), 12, "use a key of role owner or reader"),
        (["-r", "other", "--key-file", "reader", "copy"].into_iter().chain(FROM).collect(), 12, "owner or writer"),
        ([&["copy"][..], &FROM].concat(), 1, "one repository"),
        (copy(&["ffffffff"]), 1, "there is no snapshot"),
    ] {
        let ran = place.run(&words);
        assert!(ran.code == code && ran.err.contains(text), "{words:?}: {ran:?}");
    }
    assert!(place.json(&there(&["snapshots"])).as_array().unwrap().is_empty());

    // Damage at the source: what it hurts is not copied, the rest is.
    let before = place.packs();
    place.write("src/sub/spoilt", &common::noise(700_000));
    place.ok(&["backup", "src", "-q", "--host", "three"]);
    let pack = place.packs().into_iter().find(|pack| !before.contains(pack)).unwrap();
    let mut bytes = fs::read(&pack).unwrap();
    bytes.iter_mut().skip(3000).take(600_000).for_each(|b| *b ^= 1);
    fs::set_permissions(&pack, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&pack, bytes).unwrap();
    let ran = place.run(&copy(&[]));
    assert!(ran.code == 3 && ran.err.contains("it is not copied") && ran.out.contains("copied 2 snapshots"), "{ran:?}");
    place.ok(&there(&["check", "--read-data"]));
}
