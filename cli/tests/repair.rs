//! `repair`, as a user types it.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use common::{Place, assert_same_tree};

const REPOSITORY: &str = "home/.local/share/copal/repository";

fn place() -> Place {
    let place = Place::new();
    place.ok(&["backup", "src", "-q"]);
    place
}

fn segments(place: &Place) -> Vec<PathBuf> {
    let listed = place.ok(&["list", "objects"]).out;
    let keys = listed.split_whitespace().filter(|word| word.starts_with("idx/"));
    keys.map(|key| place.path(REPOSITORY).join(key)).collect()
}

/// One bit in the middle of the largest pack.
fn damage(place: &Place) -> PathBuf {
    let pack = place.packs().into_iter().max_by_key(|pack| fs::metadata(pack).unwrap().len()).unwrap();
    let mut bytes = fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::set_permissions(&pack, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&pack, bytes).unwrap();
    pack
}

fn restores(place: &Place, to: &str) {
    place.ok(&["restore", &format!("latest:{}", place.text("src")), "-t", to]);
    assert_same_tree(&place.path("src"), &place.path(to));
}

#[test]
fn a_lost_segment_is_made_anew() {
    let place = place();
    let [segment] = &segments(&place)[..] else { panic!("one session, one segment") };
    fs::remove_file(segment).unwrap();
    assert_eq!(place.run(&["check"]).code, 1);
    let dry = place.ok(&["repair", "index", "-n"]);
    assert!(dry.out.contains("missing or damaged") && dry.out.contains("dry run: "), "{dry:?}");
    assert_eq!(place.run(&["check"]).code, 1);
    let done = place.ok(&["repair", "index"]);
    assert!(done.out.contains("blobs anew"), "{done:?}");
    for words in [&["repair", "index"][..], &["repair", "index", "--read-all-packs"]] {
        assert!(place.ok(words).out.contains("the index is as it should be"));
    }
    place.ok(&["check", "--read-data"]);
    restores(&place, "out");
    place.ok(&["prune"]);
    place.ok(&["check", "--read-data"]);
}

#[test]
fn a_damaged_pack_is_saved_as_far_as_it_opens_and_a_backup_brings_back_the_rest() {
    let place = place();
    let pack = damage(&place);
    let id = pack.file_name().unwrap().to_str().unwrap().split_once('-').unwrap().1.to_owned();
    assert_eq!(place.run(&["check", "--read-data"]).code, 1);
    let done = place.run(&["repair", "packs", &id[..12]]);
    assert!(
        done.code == 3 && done.out.contains(": damaged") && done.out.contains("as it was at lost/pack/"),
        "{done:?}"
    );
    assert!(place.ok(&["repair", "packs", "--no-cache"]).out.contains("none is damaged"));
    let hurt = place.run(&["check", "--read-data"]);
    assert!(hurt.code == 1 && !hurt.err.contains(&id), "{hurt:?}");

    place.ok(&["backup", "src", "-q", "--force"]);
    place.ok(&["check", "--read-data"]);
    assert!(place.ok(&["repair", "snapshots"]).out.contains("no snapshot was changed"));
    restores(&place, "out");
    place.ok(&["prune", "--yes"]);
    assert!(!pack.exists());
    place.ok(&["check", "--read-data"]);
}

#[test]
fn a_snapshot_is_made_anew_without_what_is_lost() {
    let place = place();
    damage(&place);
    assert_eq!(place.run(&["repair", "packs", "-q"]).code, 3);
    let dry = place.run(&["repair", "snapshots", "--dry-run"]);
    assert!(dry.code == 3 && dry.out.contains("would be repaired") && dry.err.contains("/src/big"), "{dry:?}");
    let before = place.json(&["snapshots"]);
    let done = place.run(&["repair", "snapshots", "--forget"]);
    assert!(done.code == 3 && done.out.contains("is now") && done.err.contains("bytes are lost"), "{done:?}");
    let after = place.json(&["snapshots"]);
    assert_eq!((after.as_array().unwrap().len(), &after[0]["original"]), (1, &before[0]["id"]));
    place.ok(&["check", "--read-data"]);
    assert!(place.ok(&["repair", "snapshots", "--forget"]).out.contains("no snapshot was changed"));
    fs::remove_file(place.path("src/big")).unwrap();
    let source = place.text("src");
    place.ok(&["restore", &format!("latest:{source}"), "-t", "out", "--exclude", "big"]);
    assert_same_tree(&place.path("src"), &place.path("out"));
}

#[test]
fn bad_command_lines_and_other_keys_change_nothing() {
    let place = place();
    place.ok(&["key", "export", "--role", "reader", "--out", "reader"]);
    for (words, code, text) in [
        (&["packs", "xyz"][..], 1, "4 or more digits"),
        (&["packs", "ffffffff"], 1, "names no pack"),
        (&["snapshots", "ffffffff"], 1, "there is no snapshot"),
        (&["index", "--key-file", "reader"], 12, "use a key of role owner"),
        (&["packs", "--key-file", "reader"], 12, "use a key of role owner"),
        (&["snapshots", "--key-file", "reader"], 12, "use a key of role owner"),
    ] {
        let ran = place.run(&[&["repair"], words].concat());
        assert!(ran.code == code && ran.err.contains(text), "{words:?}: {ran:?}");
    }
}
