//! `prune` and `forget --prune`, as a user types them.

mod common;

use common::Place;

fn packs_bytes(place: &Place) -> u64 {
    place.packs().iter().map(|pack| std::fs::metadata(pack).unwrap().len()).sum()
}

/// Bytes that do not compress.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Two snapshots: of the first only one file is in the second.
fn place() -> Place {
    let place = Place::new();
    place.write("src/stays", &noise(1, 300_000));
    place.write("src/goes", &noise(2, 6_000_000));
    place.ok(&["backup", "src"]);
    std::fs::remove_file(place.path("src/goes")).unwrap();
    place.write("src/new", &noise(3, 200_000));
    place.ok(&["backup", "src"]);
    place
}

#[test]
fn forgotten_space_is_given_back() {
    let place = place();
    place.ok(&["forget", "--keep-last", "1"]);
    let before = packs_bytes(&place);
    let dry = place.ok(&["prune", "-n"]);
    assert!(dry.out.contains("nothing was changed") && packs_bytes(&place) == before, "{dry:?}");
    let done = place.json(&["prune"]);
    assert_eq!((&done["dry_run"], &done["generation"]), (&false.into(), &1.into()), "{done}");
    assert!(done["deleted_bytes"].as_u64() > Some(5_500_000), "{done}");
    assert!(packs_bytes(&place) < before - 5_000_000, "{} of {before}", packs_bytes(&place));
    place.ok(&["check", "--read-data"]);
    let tree = format!("latest:{}", place.text("src"));
    place.ok(&["restore", &tree, "-t", "out"]);
    assert_eq!(std::fs::read(place.path("out/stays")).unwrap(), noise(1, 300_000));
    let again = place.ok(&["prune"]);
    assert!(again.out.contains("there is nothing to give back"), "{again:?}");
}

#[test]
fn forget_does_both_in_one() {
    let place = place();
    let before = packs_bytes(&place);
    let dry = place.ok(&["forget", "--keep-last", "1", "--prune", "-n"]);
    assert!(dry.err.contains("would be forgotten") && packs_bytes(&place) == before, "{dry:?}");
    let planned = |words: &[&str]| {
        let ran = place.ok(&[&["forget", "--keep-last", "1", "--prune", "-n", "--json"], words].concat());
        let plan: serde_json::Value = serde_json::from_str(ran.out.lines().last().unwrap()).unwrap();
        plan["plan"]["repack_packs"].as_u64().unwrap()
    };
    assert_eq!(planned(&["--max-unused", "unlimited"]), 0);
    assert!(planned(&["--max-unused", "0"]) > 0);
    assert_eq!(planned(&["--max-unused", "0", "--max-repack-size", "1"]), 0);
    let done = place.ok(&["forget", "--keep-last", "1", "--prune"]);
    assert!(done.out.contains("deleted") && packs_bytes(&place) < before - 5_000_000, "{done:?}");
    place.ok(&["check", "--read-data"]);
}

/// The snapshot that the newest one followed is remembered by nobody after the second prune: its chain is not broken.
#[test]
fn check_is_clean_after_every_prune() {
    let place = place();
    for round in 0..4 {
        place.write("src/new", &noise(10 + round, 200_000));
        place.ok(&["backup", "src"]);
        place.ok(&["forget", "--keep-last", "1", "--prune"]);
        place.ok(&["check", "--read-data"]);
    }
}

#[test]
fn who_may_not_cannot_and_wrong_limits_are_named() {
    let place = place();
    for role in ["reader", "writer"] {
        place.ok(&["key", "export", "--role", role, "--out", role]);
        let ran = place.run(&["prune", "--key-file", role]);
        assert!(ran.code == 12 && ran.err.contains("owner or maintainer"), "{ran:?}");
    }
    for limit in ["much", "-1%", "5x"] {
        let ran = place.run(&["prune", &format!("--max-unused={limit}")]);
        assert!(ran.code == 2 && ran.err.contains("limit"), "{ran:?}");
    }
    place.ok(&["key", "export", "--role", "maintainer", "--out", "maintainer"]);
    place.ok(&["forget", "--keep-last", "1", "--key-file", "maintainer"]);
    let done = place.ok(&["prune", "--key-file", "maintainer"]);
    assert!(done.out.contains("deleted"), "{done:?}");
}
