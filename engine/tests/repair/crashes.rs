//! A repair whose process dies at any call of the store: nothing is lost by it, and the next repair ends as an undisturbed one.

use std::sync::Arc;

use copal_engine::crypto::rng::SystemRng;
use copal_engine::ops::check::Read;
use copal_engine::ops::repair::{index, packs, snapshots};
use copal_engine::progress::{Cancel, Silent};
use copal_engine::repo::Repository;
use copal_engine::store::fault::{Effect, Fault, Rule};
use copal_engine::{Error, Result};

use crate::bench::Bench;
use crate::{Files, files};

type Repair = fn(&Bench, &Arc<Repository>) -> Result<()>;

fn repair_index(bench: &Bench, repo: &Arc<Repository>) -> Result<()> {
    let options = index::Options { yes: true, ..Default::default() };
    index::repair(repo, &bench.who, &mut SystemRng, &options, (&Silent, &Cancel::default())).map(drop)
}

/// Reads all, because what an earlier check has found sound may be damaged since.
fn repair_packs(bench: &Bench, repo: &Arc<Repository>) -> Result<()> {
    packs::repair(repo, &bench.who, &mut SystemRng, &Default::default(), (&Silent, &Cancel::default())).map(drop)
}

fn repair_snapshots(bench: &Bench, repo: &Arc<Repository>) -> Result<()> {
    let all = repo.committed()?.snapshots;
    let chosen: Vec<_> = all.iter().filter(|s| s.graph.root.is_some()).collect();
    let options = snapshots::Options { forget: true, dry_run: false };
    let (rng, watched) = (Box::new(SystemRng), (&Silent as _, &Cancel::default()));
    snapshots::repair(repo, &bench.who, rng, &chosen, &options, watched, &mut |_| {})
}

/// Runs `repair` through a store that dies at its `n`th call; whether there were that many.
fn dies(bench: &Bench, repair: Repair, n: u64, effect: &Effect) -> bool {
    let fault = Arc::new(Fault::new(bench.store.clone(), 1));
    fault.add(Rule::any().skip(n).times(1).effect(effect.clone()));
    let done = bench.open(&bench.owner, fault.clone()).and_then(|repo| repair(bench, &repo));
    assert!(done.is_ok() || fault.calls() > n, "{effect:?} at {n}: {done:?}");
    fault.calls() > n
}

/// A snapshot made anew has a new id each time, and stands for the old one.
fn without_ids(files: &Files) -> Vec<(&[u8], Option<&[u8]>)> {
    let mut all: Vec<_> = files.iter().map(|((_, path), bytes)| (&path[..], bytes.as_deref())).collect();
    all.sort_unstable();
    all
}

/// Lets `repair` die before and after each of its calls, each time from the state that `bench` is in: how many there were.
fn at_every_call(bench: &Bench, repair: Repair) -> u64 {
    let (start, before) = (bench.objects(), files(bench).unwrap());
    repair(bench, &bench.repo()).unwrap();
    let (findings, wanted) = (bench.check(Read::All).findings.len(), files(bench).unwrap());
    let mut n = 0;
    loop {
        for effect in [Effect::CrashBefore, Effect::CrashAfter] {
            let what = format!("{effect:?} at call {n}");
            bench.store.restore(start.clone());
            let died = dies(bench, repair, n, &effect);
            let now = files(bench).unwrap();
            let (now, then) = (without_ids(&now), without_ids(&before));
            assert!(then.iter().all(|file| file.1.is_none() || now.contains(file)), "{what}: something is lost");
            repair(bench, &bench.repo()).unwrap_or_else(|e: Error| panic!("{what}: {e}"));
            let after = files(bench).unwrap();
            assert_eq!(bench.check(Read::All).findings.len(), findings, "{what}");
            assert!(without_ids(&after) == without_ids(&wanted), "{what}");
            if !died {
                assert!(n > 5);
                return n;
            }
        }
        n += 1;
    }
}

#[test]
fn of_the_index() {
    let bench = Bench::new();
    bench.delete(&bench.keys("idx/").remove(0));
    at_every_call(&bench, repair_index);
}

#[test]
fn of_the_index_with_a_pack_gone() {
    let bench = Bench::new();
    bench.delete(&bench.keys("idx/").remove(0));
    bench.delete(&bench.keys("pack/").remove(1));
    at_every_call(&bench, repair_index);
}

#[test]
fn of_packs() {
    let bench = Bench::new();
    for pack in bench.keys("pack/") {
        let size = bench.objects()[&pack].len();
        bench.flip(&pack, size / 3);
    }
    at_every_call(&bench, repair_packs);
}

#[test]
fn of_snapshots() {
    let bench = Bench::new();
    let pack = bench.keys("pack/").remove(0);
    let size = bench.objects()[&pack].len();
    bench.flip(&pack, size / 3);
    repair_packs(&bench, &bench.repo()).unwrap();
    assert!(files(&bench).unwrap().values().any(Option::is_none));
    at_every_call(&bench, repair_snapshots);
}
