//! One object of every kind, a byte of it changed here and there: whatever is done then either says so or harms nothing.

use std::collections::BTreeSet;

use copal_engine::crypto::kdf::RecoveryCode;
use copal_engine::crypto::rng::SystemRng;

use copal_engine::format::bundle::Role;
use copal_engine::ops::check::{Read, check};
use copal_engine::ops::prune::{self, prune};
use copal_engine::progress::{Cancel, Silent};
use copal_engine::repo::key_admin::NewLock;
use copal_engine::store::Key;

use crate::bench::{Bench, noise, options};
use crate::{assert_none_lost, files, repair_index, repair_packs, repair_snapshots};

/// Places in each object, evenly apart, if not all.
const PLACES: usize = 4;
const KINDS: [&str; 9] = ["cfg/", "key/", "pin/", "pack/", "idx/", "snap/", "base/", "check/", "forget/"];

/// A small repository with an object of every kind.
fn small() -> Bench {
    let bench = Bench::new();
    let repo = bench.repo();
    repo.add_slot(Role::Owner, NewLock::RecoveryCode(&RecoveryCode::generate(&mut SystemRng)), b"code", &mut SystemRng)
        .unwrap();
    bench.check(Read::All);
    for (name, seed) in [("e", 11), ("f", 12)] {
        bench.write(name, &noise(seed, 1200 << 10));
        let forgotten = bench.backup();
        std::fs::remove_file(bench.path(name)).unwrap();
        let at = repo.snapshots().unwrap().0.iter().find(|s| s.id() == forgotten).unwrap().at;
        repo.forget(&[at]).unwrap();
        // A base stands after the first; the second's record does, too.
        if name == "e" {
            let options = prune::Options { yes: true, ..Default::default() };
            prune(&repo, &bench.who, Box::new(SystemRng), &options, &Silent, &Cancel::default()).unwrap();
        }
    }
    bench.write("g", b"only the last snapshot names this");
    bench.backup();
    bench
}

/// The first and the last of each kind.
fn samples(bench: &Bench) -> BTreeSet<Key> {
    let ends = |kind: &&str| {
        let keys = bench.keys(kind);
        [keys.first().cloned(), keys.last().cloned()]
    };
    KINDS.iter().flat_map(ends).flatten().collect()
}

#[test]
fn no_changed_byte_leads_to_a_wrong_one_or_to_a_loss() {
    change(PLACES);
}

/// `tests/long flips`: every byte of small objects, and as many of the packs.
#[test]
#[ignore = "takes a quarter of an hour"]
fn no_changed_byte_anywhere_leads_to_a_wrong_one_or_to_a_loss() {
    change(3000);
}

/// Changes a byte at so many places of each object, or every one.
fn change(places: usize) {
    let bench = small();
    let (whole, right) = (bench.objects(), files(&bench).unwrap());
    assert!(right.values().all(Option::is_some));
    let samples = samples(&bench);
    let kinds: BTreeSet<&str> = samples.iter().map(|key| key.as_str().split('/').next().unwrap()).collect();
    assert_eq!(kinds.len(), KINDS.len(), "one of every kind: {kinds:?}");
    let (mut flips, mut unopened, mut seen) = (0, 0, 0);
    for key in &samples {
        let len = whole[key].len();
        let count = places.min(len);
        for byte in (0..count).map(|n| (len - 1) * n / (count - 1)) {
            bench.store.restore(whole.clone());
            bench.flip(key, byte);
            flips += 1;
            let at = format!("byte {byte} of {key}");
            let Ok(before) = files(&bench) else {
                unopened += 1;
                continue;
            };
            let all_right = |files: &crate::Files| {
                files
                    .iter()
                    .all(|(place, bytes)| bytes.is_none() || right.get(place).is_none_or(|right| right == bytes))
            };
            assert!(all_right(&before), "{at}: a wrong byte");
            let repo = bench.repo();
            let found = check(&repo, &options(Read::All), &Silent, &Cancel::default());
            seen += usize::from(found.as_ref().map_or(true, |report| report.errors > 0));
            let _ = repair_index(&bench, &Default::default());
            let _ = repair_packs(&bench, &Default::default());
            assert_none_lost(&before, &files(&bench).unwrap());
            let _ = repair_snapshots(&bench, &Default::default());
            let options = prune::Options { exclusive: true, ..Default::default() };
            let _ = prune(&repo, &bench.who, Box::new(SystemRng), &options, &Silent, &Cancel::default());
            let after = files(&bench).unwrap();
            assert_none_lost(&before, &after);
            assert!(all_right(&after), "{at}: a wrong byte after a repair");
        }
    }
    println!(
        "{flips} bytes of {} objects: {unopened} times it did not open, {seen} times check told of it",
        samples.len()
    );
    assert!(unopened > 0 && seen > flips / 2, "{flips} flips: {unopened} did not open, {seen} were found");
}
