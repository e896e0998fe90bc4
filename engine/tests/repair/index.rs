//! Lost segments come back from the packs' own tables, and what lay in packs that are gone is stored anew.

use std::collections::BTreeSet;

use copal_engine::Error;
use copal_engine::crypto::rng::SystemRng;
use copal_engine::crypto::sign::SigningKey;
use copal_engine::format::base::{Base, SIGNED_BY_ROOT, SegmentRef};
use copal_engine::format::blob::{BlobKind, Origin};
use copal_engine::format::bundle::Role;
use copal_engine::format::objects::{self, Parsed};
use copal_engine::format::segment::{Segment, SegmentPlace};
use copal_engine::id::{BlobId, PackId};
use copal_engine::ops::check::Invariant::{I4, I8};
use copal_engine::ops::check::Read;
use copal_engine::ops::prune::prune;
use copal_engine::ops::repair::index::{Options, Report, repair};
use copal_engine::progress::{Cancel, Silent};

use crate::bench::{Bench, hurts, invariants, only};
use crate::{assert_none_lost, damages, files, objects, repair_index};

/// One copy of a blob, as the index tells of it.
type Copy = (BlobId, PackId, BlobKind, [u32; 4], Origin);

/// Everything that the index lists.
fn entries(bench: &Bench) -> BTreeSet<(String, Copy)> {
    let index = bench.repo().fresh_view().unwrap().index;
    let copy = |c: copal_engine::repo::index::Found| {
        let e = c.entry;
        let copy: Copy = (e.id, c.pack_id(), e.kind, [e.offset, e.stored, e.len, e.at], c.origin());
        (format!("{copy:?}"), copy)
    };
    index.entries().map(copy).collect()
}

fn assert_nothing_to_do(bench: &Bench) {
    let before = objects(bench);
    assert_eq!(repair_index(bench, &Options::default()).unwrap(), Report::default());
    assert_eq!(
        repair_index(bench, &Options { read_all_packs: true, ..Options::default() }).unwrap(),
        Report::default()
    );
    assert_eq!(objects(bench), before);
}

#[test]
fn nothing_is_done_where_nothing_is_wrong() {
    assert_nothing_to_do(&Bench::new());
}

#[test]
fn a_lost_segment_comes_back_from_the_packs() {
    let bench = Bench::new();
    let (whole, listed, before) = (bench.objects(), entries(&bench), files(&bench).unwrap());
    let segment = bench.keys("idx/").remove(0);
    let snapshot = whole[&bench.keys("snap/")[0]].to_vec();
    for (how, damage) in damages(snapshot) {
        bench.store.restore(whole.clone());
        bench.damage(&segment, damage);
        let damaged = bench.objects().get(&segment).cloned();
        let dry = repair_index(&bench, &Options { dry_run: true, ..Options::default() }).unwrap();
        assert_eq!((&dry.segments[..], dry.base), (&[segment.to_string()][..], None), "{how}");
        assert!(bench.keys("base/").is_empty());

        let report = repair_index(&bench, &Options::default()).unwrap();
        assert_eq!((report.listed_packs, report.base), (dry.listed_packs, Some(1)), "{how}");
        assert_eq!(entries(&bench), listed, "{how}: entry for entry");
        assert_eq!(bench.check(Read::All).findings, [], "{how}");
        assert_eq!(files(&bench).unwrap(), before, "{how}");
        assert!(!bench.objects().contains_key(&segment));
        let aside = bench.keys("lost/").first().map(|key| bench.objects()[key].clone());
        assert_eq!(aside, damaged, "{how}: as it was");
        assert_nothing_to_do(&bench);
    }
}

#[test]
fn a_repaired_repository_is_backed_up_pruned_and_folded() {
    let bench = Bench::new();
    bench.delete(&bench.keys("idx/").remove(0));
    repair_index(&bench, &Options::default()).unwrap();
    let before = files(&bench).unwrap();
    bench.write("new", b"after the repair");
    bench.backup();
    let repo = bench.repo();
    prune(&repo, &bench.who, Box::new(SystemRng), &Default::default(), &Silent, &Cancel::default()).unwrap();
    assert_eq!(bench.check(Read::All).findings, []);
    assert_none_lost(&before, &files(&bench).unwrap());
}

#[test]
fn a_segment_of_a_base_comes_back() {
    let bench = Bench::empty();
    for n in 0..66 {
        bench.write("file", format!("{n}").as_bytes());
        bench.backup();
    }
    let (listed, before) = (entries(&bench), files(&bench).unwrap());
    let segment = bench.keys("idx/").remove(0);
    bench.flip(&segment, 300);
    let report = repair_index(&bench, &Options::default()).unwrap();
    assert_eq!((report.segments, report.base), (vec![segment.to_string()], Some(2)));
    assert_eq!(entries(&bench), listed);
    assert_eq!((bench.check(Read::All).findings, files(&bench).unwrap()), (vec![], before));
    assert_nothing_to_do(&bench);
}

#[test]
fn what_lay_in_a_pack_that_is_gone_is_stored_anew_by_the_next_backup() {
    let bench = Bench::new();
    let before = files(&bench).unwrap();
    let whole = bench.objects();
    for pack in bench.keys("pack/") {
        bench.store.restore(whole.clone());
        bench.delete(&pack);
        let yes = Options { yes: true, ..Options::default() };
        let report = repair_index(&bench, &yes).unwrap();
        assert_eq!(report.gone_packs, [pack.to_string()]);
        let report = bench.check(Read::All);
        only(&report, "index", &[I4]);
        assert_eq!(hurts(&report), bench.unrestorable());
        assert_eq!(repair_index(&bench, &Options::default()).unwrap(), Report::default());
        bench.backup();
        let now = files(&bench).unwrap();
        assert!(now.values().filter(|bytes| bytes.is_some()).count() >= before.len() / 2);
        let newest = bench.repo().view().unwrap().snapshots.last().unwrap().id();
        assert!(now.iter().filter(|((s, _), _)| *s == newest).all(|(_, bytes)| bytes.is_some()));
    }
}

#[test]
fn very_many_packs_are_not_gone_without_a_word() {
    let bench = Bench::new();
    let whole = bench.objects();
    for pack in bench.keys("pack/") {
        bench.delete(&pack);
    }
    let missing = bench.objects();
    let Err(Error::Busy(how)) = repair_index(&bench, &Options::default()) else { panic!("it goes on") };
    assert!(how.contains("--yes"), "{how}");
    assert_eq!(bench.objects(), missing);
    bench.store.restore(whole);
    assert_nothing_to_do(&bench);
}

#[test]
fn what_a_removed_snapshot_published_is_there_for_those_who_rely_on_it() {
    let bench = Bench::new();
    bench.write("e", b"third");
    bench.backup();
    bench.delete(&bench.keys("snap/").remove(1));
    assert!(!hurts(&bench.check(Read::Nothing)).is_empty());
    assert!(repair_index(&bench, &Options::default()).unwrap().listed_packs > 0);
    let report = bench.check(Read::All);
    assert!(report.findings.iter().all(|f| invariants(f) == [I8]), "{:#?}", report.findings);
    assert!(hurts(&report).is_empty() && bench.unrestorable().is_empty());
    assert_eq!(repair_index(&bench, &Options::default()).unwrap(), Report::default());
}

/// A base lists a segment that leaves a blob out and tells wrongly of another.
#[test]
fn all_packs_are_read_on_demand() {
    let bench = Bench::new();
    let (listed, before) = (entries(&bench), files(&bench).unwrap());
    let repo = bench.repo();
    let object = bench.keys("idx/").remove(0);
    let Some(Parsed::Segment(writer, session, ..)) = objects::parse(object.as_str()) else { panic!() };
    let (_, mut segment) = Segment::decode(&bench.objects()[&object], repo.graph_keys()).unwrap();
    segment.entries.remove(1);
    segment.entries.first_mut().unwrap().at += 1;
    let place = SegmentPlace { repository: repo.id(), writer, session, n: 9 };
    let stored = segment.encode(&place, repo.graph_keys());
    let (id, size) = (Segment::id(&stored), stored.len() as u64);
    bench.put(&objects::segment(writer, session, 9, id), stored);
    let snapshots = repo.snapshots().unwrap().0.iter().map(|s| s.at).filter(|at| at.session == session).collect();
    let base = Base { segments: vec![SegmentRef { writer, session, n: 9, id, size }], snapshots, ..Base::default() };
    let root = SigningKey::from_seed(bench.owner.root_seed.clone().unwrap());
    bench.put(&objects::base(1), base.encode(repo.id(), 1, repo.graph_keys(), SIGNED_BY_ROOT, &root));

    assert!(bench.check(Read::All).errors > 0);
    assert_eq!(repair_index(&bench, &Options::default()).unwrap(), Report::default());
    let report = repair_index(&bench, &Options { read_all_packs: true, ..Options::default() }).unwrap();
    assert!(report.listed_packs >= 1 && report.base == Some(2), "{report:?}");
    assert_eq!((entries(&bench), files(&bench).unwrap()), (listed, before));
    assert_eq!(bench.check(Read::All).findings, []);
    assert_nothing_to_do(&bench);
}

#[test]
fn only_an_owner_repairs() {
    let bench = Bench::new();
    let reader = std::sync::Arc::into_inner(bench.repo()).unwrap().bundle_for(Role::Reader).unwrap();
    for bundle in [reader, bench.enroll(Role::Writer), bench.enroll(Role::Maintainer)] {
        let repo = bench.open(&bundle, bench.store.clone()).unwrap();
        let watched = (&Silent as &dyn copal_engine::progress::Progress, &Cancel::default());
        let done = repair(&repo, &bench.who, &mut SystemRng, &Options::default(), watched);
        assert!(matches!(done, Err(Error::NotAllowed { needed: "owner", .. })), "{:?}: {done:?}", bundle.role);
    }
}
