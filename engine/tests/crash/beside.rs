//! Prunes beside prunes.

use std::sync::Arc;

use copal_engine::Error;
use copal_engine::ops::prune::{Summary, prune};
use copal_engine::progress::{Cancel, Silent};

use crate::bench::{Bench, noise, on_disk, settle};
use crate::gives_back::{ALL, three};
use crate::hooked::AtCall;

/// Prunes, and before the `n`th call another process does: what came of it, and how many calls it made.
fn prune_with_another(bench: &Arc<Bench>, n: u64) -> (Result<Summary, Error>, u64) {
    let other = Arc::clone(bench);
    let act = move || {
        let other = Arc::clone(&other);
        let run = move || other.prune_as(&other.bundle, "elsewhere", &ALL).map(drop);
        std::thread::spawn(run).join().unwrap().unwrap_or_else(|e| panic!("the other one at call {n}: {e}"));
    };
    let store = Arc::new(AtCall::new(bench.record.clone(), n, act));
    let mut repo = bench.open_over(store.clone(), &bench.bundle, "owner").unwrap();
    let who = repo.identity(&mut *bench.rng()).unwrap();
    let done = prune(&Arc::new(repo), &who, bench.rng(), &ALL, &Silent, &Cancel::default());
    (done, store.met.load(std::sync::atomic::Ordering::Relaxed))
}

#[test]
fn a_whole_prune_at_any_call_of_another_stops_neither() {
    let (bench, mut known) = three();
    bench.forget(&[known[0].0]);
    // A base whose segments both will merge into their own.
    bench.prune().unwrap();
    std::fs::write(bench.source().join("d/own"), noise(90, 400_000)).unwrap();
    settle();
    known.push((bench.backup().snapshot.unwrap(), on_disk(&bench.source())));
    bench.forget(&[known[1].0]);
    known.drain(..2);
    bench.open_as(&bench.bundle, "elsewhere").unwrap().identity(&mut *bench.rng()).unwrap();
    let (start, bench) = (bench.memory.snapshot(), Arc::new(bench));
    let (done, calls) = prune_with_another(&bench, u64::MAX);
    assert!(done.unwrap().generation.is_some() && calls > 40, "{calls}");
    for n in 0..calls {
        let what = format!("at call {n} of {calls}");
        bench.memory.restore(start.clone());
        match prune_with_another(&bench, n).0 {
            // It is told to run it again.
            Ok(_) | Err(Error::Busy(_)) => {}
            Err(e) => panic!("{what}: {e}"),
        }
        bench.holds(&known, &what);
        bench.prune().unwrap();
        bench.prune().unwrap();
        bench.holds(&known, &what);
        bench.is_clean(&what);
    }
}
