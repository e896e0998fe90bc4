//! Of damaged packs everything that still opens is saved, and the rest is named.

use copal_engine::Error;
use copal_engine::crypto::rng::SystemRng;
use copal_engine::ops::check::Invariant::I4;
use copal_engine::ops::check::Read;
use copal_engine::ops::prune::{self, prune};
use copal_engine::ops::repair::packs::{Options, Report};
use copal_engine::progress::{Cancel, Silent};

use crate::bench::{Bench, hurts, invariants};
use crate::{assert_none_lost, damages, files, objects, repair_index, repair_packs};

#[test]
fn what_still_opens_is_saved_whatever_the_damage() {
    let bench = Bench::new();
    // What is right is remembered, so that without names only the damaged one is left to be read.
    let whole = bench.objects();
    let packs = bench.keys("pack/");
    for (n, pack) in packs.iter().enumerate() {
        let other = whole[&packs[(n + 1) % packs.len()]].to_vec();
        for (how, damage) in damages(other) {
            bench.store.restore(whole.clone());
            bench.damage(pack, damage);
            let damaged = bench.objects().get(pack).cloned();
            let before = files(&bench).unwrap();
            bench.check(Read::All);
            let dry = repair_packs(&bench, &Options { dry_run: true, ..Options::default() }).unwrap();
            assert_eq!((dry.read, &dry.damaged[..]), (1, &[pack.to_string()][..]), "{how} {pack}");
            assert!(bench.keys("base/").is_empty() && bench.keys("lost/").is_empty());

            let report =
                repair_packs(&bench, &Options { packs: vec![pack.to_string()], ..Options::default() }).unwrap();
            assert_eq!((&report.lost, report.saved_blobs), (&dry.lost, dry.saved_blobs), "{how} {pack}");
            assert_none_lost(&before, &files(&bench).unwrap());
            let aside = bench.keys("lost/").first().map(|key| bench.objects()[key].clone());
            assert_eq!(aside, damaged, "{how}: as it was");
            let report = bench.check(Read::All);
            assert!(report.findings.iter().all(|f| f.object == "index" && invariants(f) == [I4]), "{how}: {report:#?}");
            assert_eq!(hurts(&report), bench.unrestorable(), "{how} {pack}");
            assert_eq!(bench.check(Read::All).broken_packs, []);
            let again = objects(&bench);
            assert_eq!(repair_packs(&bench, &Options::default()).unwrap(), Report::default(), "{how} {pack}");
            assert_eq!(objects(&bench), again);
        }
    }
}

#[test]
fn a_backup_brings_back_what_it_meets_and_a_prune_takes_the_damaged_pack() {
    let bench = Bench::new();
    let before = files(&bench).unwrap();
    let pack = bench.keys("pack/").remove(0);
    let size = bench.objects()[&pack].len();
    bench.flip(&pack, size / 2);
    bench.check(Read::All);
    let report = repair_packs(&bench, &Options::default()).unwrap();
    assert!(report.saved_blobs > 0 && !report.lost.is_empty(), "{report:?}");
    bench.backup();
    assert_eq!(bench.check(Read::All).findings, []);
    let options = prune::Options { yes: true, ..Default::default() };
    prune(&bench.repo(), &bench.who, Box::new(SystemRng), &options, &Silent, &Cancel::default()).unwrap();
    assert!(!bench.objects().contains_key(&pack));
    assert_eq!(bench.check(Read::All).findings, []);
    assert_none_lost(&before, &files(&bench).unwrap());
}

#[test]
fn the_index_comes_first_and_names_must_be_right() {
    let bench = Bench::new();
    let named = |name: &str| Options { packs: vec![name.into()], ..Options::default() };
    assert!(matches!(repair_packs(&bench, &named("xyz")), Err(Error::Invalid(_))));
    assert!(matches!(repair_packs(&bench, &named("ffffffffffffffff")), Err(Error::NotFound(_))));
    let pack = bench.keys("pack/").remove(0).to_string();
    let sound = repair_packs(&bench, &named(&pack)).unwrap();
    assert_eq!(sound, Report { read: 1, ..Report::default() });
    bench.delete(&bench.keys("idx/").remove(0));
    let refused = repair_packs(&bench, &Options::default());
    assert!(matches!(&refused, Err(Error::Damaged { how, .. }) if how.contains("repair index")), "{refused:?}");
    repair_index(&bench, &Default::default()).unwrap();
    repair_packs(&bench, &Options::default()).unwrap();
}
