//! Several backups at once, and threads that panic.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use copal_engine::format::blob::BlobKind;
use copal_engine::progress::{Cancel, Collect, Silent};
use copal_engine::repo::session::Session;
use copal_engine::repo::{Locked, Opener};
use copal_engine::store::Verb;

use crate::bench::{Bench, make_source, noise, on_disk, options, same_content};
use crate::hooked::Hooked;

#[test]
fn backups_of_one_writer_and_of_two_at_once_are_all_whole() {
    let bench = Bench { threads: 2, ..Bench::new() };
    make_source(&bench.source(), true);
    let now = on_disk(&bench.source());
    let other = bench.new_writer();
    let one = |bundle, local: &str| {
        for _ in 0..3 {
            let done = bench.process_as(bundle, local, &options(&bench.source()), &Silent);
            done.unwrap().snapshot.unwrap();
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| one(&bench.bundle, "owner"));
        scope.spawn(|| one(&bench.bundle, "owner"));
        scope.spawn(|| one(&other, "other"));
    });
    let all = bench.restore_all();
    assert_eq!(all.len(), 9);
    all.iter().for_each(|(_, content)| same_content(content, &now, "at once"));
    bench.record.take();
    bench.backup();
    assert_eq!(bench.stored("pack/") + bench.stored("idx/"), 0, "everything is found by the next one");
}

#[test]
fn a_panic_while_a_pack_is_stored_is_no_success() {
    for large in [false, true] {
        let bench = Bench::new();
        make_source(&bench.source(), large);
        // As a client with a bug might, in the first put of a pack.
        let panics = || panic!("a panic on purpose");
        let store = Arc::new(Hooked::before(bench.memory.clone(), (Verb::Put, "pack/"), panics));
        let options_of_repo = copal_engine::repo::Options::new(bench.dir.path().join("owner"));
        let opener = Opener::Bundle(Box::new(bench.bundle.clone()));
        let mut repo = Locked::find(store, bench.bridge.clone()).unwrap().unlock(opener, options_of_repo).unwrap();
        let who = repo.identity(&mut *bench.rng()).unwrap();
        let told = Collect::default();
        let opts = options(&bench.source());
        let done =
            copal_engine::ops::backup::backup(&Arc::new(repo), &who, bench.rng(), &opts, &told, &Cancel::default());
        assert!(done.unwrap_err().to_string().contains("broke off"));
        assert_eq!(bench.restore_all().len(), 0);
        bench.backup();
        same_content(&bench.restore_all().pop().unwrap().1, &on_disk(&bench.source()), "the next one");
    }
}

/// Runs `work` and fails if it hangs.
fn ends_within(time: Duration, work: impl FnOnce() + Send + 'static) {
    let (done, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let result = catch_unwind(AssertUnwindSafe(work));
        let _ = done.send(result.is_ok());
    });
    assert_eq!(wait.recv_timeout(time), Ok(true), "it hangs, or failed");
}

#[test]
fn threads_that_panic_while_sealing_fail_the_session_and_hang_nobody() {
    ends_within(Duration::from_secs(60), || {
        let bench = Bench::new();
        let mut repo = bench.open().unwrap();
        let who = repo.identity(&mut *bench.rng()).unwrap();
        let session = Session::begin(Arc::new(repo), &who, 0, false, bench.rng()).unwrap();
        // Longer than a frame may be: panics with a place in the open pack that is never filled.
        let too_long = vec![0; 17 << 20];
        let mut failed = 0;
        for n in 0..40 {
            let mut worker = session.worker();
            if n < 4 {
                let kind = if n % 2 == 0 { BlobKind::Data } else { BlobKind::Tree };
                let sealing = catch_unwind(AssertUnwindSafe(|| worker.store(kind, &too_long[n..]).is_ok()));
                assert!(!matches!(sealing, Ok(true)));
            }
            failed += u32::from(worker.store(BlobKind::Data, &noise(n as u64, 1 << 20)).is_err());
        }
        assert_eq!(failed, 40);
        assert!(session.abandon().unwrap().to_string().contains("panicked"));
    });
}

#[test]
fn tiny_blobs_make_no_pack_of_endless_tables() {
    let bench = Bench::new();
    let mut repo = bench.open().unwrap();
    let who = repo.identity(&mut *bench.rng()).unwrap();
    let session = Session::begin(Arc::new(repo), &who, 0, false, bench.rng()).unwrap();
    let mut worker = session.worker();
    for n in 0_u32..1_000_000 {
        worker.store(BlobKind::Data, &n.to_le_bytes()).unwrap();
    }
    worker.flush().unwrap();
    drop(worker);
    assert!(session.abandon().is_none());
    let packs = bench.memory.snapshot().into_iter().filter(|(k, _)| k.as_str().starts_with("pack/"));
    let sizes: Vec<usize> = packs.map(|(_, body)| body.len()).collect();
    assert!(sizes.len() >= 2 && sizes.iter().all(|size| *size < 10 << 20), "{sizes:?}");
}
