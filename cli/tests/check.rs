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
    ] {
        assert_eq!(place.run(words).code, 2, "{words:?}");
    }
}
