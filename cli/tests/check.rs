//! `check` as a user sees it.

mod common;

use std::fs;

use common::Place;

#[test]
fn a_sound_repository_is_said_to_be_and_damage_is_named_with_its_files() {
    let place = Place::new();
    place.ok(&["backup", "src", "-q"]);
    let sound = place.ok(&["check"]);
    assert!(sound.out.contains("checked 1 snapshot") && sound.out.contains("no errors were found"), "{sound:?}");
    let read = place.ok(&["check", "--read-data"]);
    assert!(read.out.contains("\nread 1 pack (") || read.out.contains("\nread 2 packs ("), "{read:?}");
    let again = place.json(&["check", "--read-data", "--max-age", "1d"]);
    assert_eq!((again["packs_read"].as_u64(), again["packs_left"].as_u64()), (Some(0), Some(0)));
    assert_eq!(again["packs_skipped"], again["packs"]);

    let drawn = place.ok(&["check", "--read-data-subset", "1%"]);
    assert!(drawn.out.contains("--read-data-seed "), "{drawn:?}");

    for pack in place.packs() {
        fs::remove_file(pack).unwrap();
    }
    let damaged = place.run(&["check"]);
    assert_eq!(damaged.code, 1, "{damaged:?}");
    assert!(damaged.err.contains("it is not in the store") && damaged.err.contains("damaged object"), "{damaged:?}");
    assert!(damaged.out.lines().any(|line| line.starts_with("  snapshot ") && line.ends_with("  /")), "{damaged:?}");
}

#[test]
fn flags_that_make_no_sense_are_refused() {
    let place = Place::new();
    for words in [
        &["check", "--read-data", "--read-data-subset", "1/2"][..],
        &["check", "--max-age", "1d"],
        &["check", "--max-duration", "1h"],
        &["check", "--read-data-subset", "3/2"],
        &["check", "--read-data", "--max-age", "soon"],
        &["check", "--attest", "file"],
        &["check", "--read-data", "--max-duration", "1h", "--attest", "file"],
        &["check", "--attested", "file", "--read-data"],
    ] {
        assert_eq!(place.run(words).code, 2, "{words:?}");
    }
}

#[test]
fn an_owner_attests_what_was_verified_and_anybody_with_a_key_can_verify_it() {
    let place = Place::new();
    let refused = place.run(&["check", "--read-data", "--attest", "said.txt"]);
    assert_eq!(refused.code, 10, "{refused:?}");
    place.ok(&["backup", "src", "-q"]);
    place.ok(&["key", "export", "--role", "reader", "--out", "reader.key"]);
    let attested = place.ok(&["check", "--read-data", "--max-age", "1d", "--attest", "said.txt"]);
    assert!(attested.out.contains("said.txt attests it"), "{attested:?}");

    let said = place.json(&["check", "--attested", "said.txt", "--max-age", "1h", "--key-file", "reader.key"]);
    assert_eq!(said["packs"], place.json(&["check"])["packs"]);
    assert_eq!(said["snapshots"].as_array().unwrap().len(), 1);
    assert_eq!(said["snapshots_since"].as_array().unwrap().len(), 0);
    place.write("src/a.txt", b"other");
    place.ok(&["backup", "src", "-q"]);
    place.ok(&["forget", said["snapshots"][0].as_str().unwrap()]);
    let later = place.json(&["check", "--attested", "said.txt"]);
    assert_eq!(later["snapshots_gone"], said["snapshots"]);
    assert_eq!(later["snapshots_since"].as_array().unwrap().len(), 1);
    let shown = place.ok(&["check", "--attested", "said.txt"]);
    assert!(shown.out.contains("1 of them forgotten since, and 1 newer snapshot not attested yet"), "{shown:?}");

    let text = fs::read_to_string(place.path("said.txt")).unwrap();
    place.write("forged.txt", text.replace("\npacks ", "\npacks 1").as_bytes());
    let forged = place.run(&["check", "--attested", "forged.txt"]);
    assert_eq!((forged.code, forged.err.contains("says nothing about this repository")), (1, true), "{forged:?}");
    let reader = place.run(&["check", "--read-data", "--attest", "x.txt", "--key-file", "reader.key"]);
    assert_eq!((reader.code, reader.err.contains("use a key of role owner")), (12, true), "{reader:?}");

    for pack in place.packs() {
        fs::write(pack, b"damaged").unwrap();
    }
    let damaged = place.run(&["check", "--read-data", "--attest", "none.txt"]);
    assert_eq!((damaged.code, place.path("none.txt").exists()), (1, false), "{damaged:?}");
}
