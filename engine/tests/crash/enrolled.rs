//! Writers and maintainers that are enrolled while somebody has the repository open.

use std::sync::Arc;

use copal_engine::crypto::rng::SystemRng;
use copal_engine::format::bundle::Role;
use copal_engine::format::gc::{At, Kind, Tombstone};
use copal_engine::format::objects;
use copal_engine::format::snapshot::SnapshotRef;
use copal_engine::ops::backup::backup;
use copal_engine::ops::check::{self, Read};
use copal_engine::ops::prune::prune;
use copal_engine::progress::{Cancel, Silent};
use copal_engine::repo::{Reader, Repository};
use copal_engine::store::Verb;

use crate::bench::{Bench, make_source, on_disk, options, read_snapshot, same_content};
use crate::gives_back::ALL;

fn opened() -> (Bench, Arc<Repository>) {
    let bench = Bench::new();
    make_source(&bench.source(), false);
    bench.backup();
    let repo = Arc::new(bench.open().unwrap());
    (bench, repo)
}

fn check_all(repo: &Arc<Repository>) -> check::Report {
    let with = check::Options { read: Read::All, max_age: None, max_duration: None, with_cache: false, seed: 1 };
    check::check(repo, &with, &Silent, &Cancel::default()).unwrap()
}

#[test]
fn what_a_writer_commits_that_was_enrolled_since_counts() {
    let (bench, repo) = opened();
    // The owner's other machine, by its first backup.
    let done = bench.process_as(&bench.bundle, "elsewhere", &options(&bench.source()), &Silent).unwrap();
    let view = repo.view().unwrap();
    assert_eq!((view.snapshots.len(), view.problems.len()), (2, 0), "{:?}", view.problems);
    let reader = Reader::new(Arc::clone(&repo), Arc::clone(&view.index), 8 << 20);
    let newest = view.snapshots.iter().find(|s| Some(s.id()) == done.snapshot).unwrap();
    same_content(&read_snapshot(&reader, newest).unwrap(), &on_disk(&bench.source()), "enrolled since");
    // Its packs too, and where no snapshot tells of it because all that it has committed is folded.
    std::fs::write(bench.source().join("new"), crate::bench::noise(4, 90_000)).unwrap();
    bench.process_as(&bench.bundle, "elsewhere", &options(&bench.source()), &Silent).unwrap();
    assert_eq!(check_all(&repo).findings, []);
    let who = Repository::identity(&mut bench.open().unwrap(), &mut SystemRng).unwrap();
    let opts = options(&bench.source());
    backup(&repo, &who, bench.rng(), &opts, &Silent, &Cancel::default()).unwrap();
    assert_eq!(bench.check().findings, []);
}

#[test]
fn what_a_maintainer_signs_that_was_enrolled_since_counts() {
    let (bench, repo) = opened();
    let first = bench.view().1.snapshots[0].at;
    let maintainer = bench.open().unwrap().enroll_new(Role::Maintainer, &mut *bench.rng()).unwrap();
    bench.backup();
    let theirs = Arc::new(bench.open_as(&maintainer, "maintainer").unwrap());
    theirs.forget(&[SnapshotRef { ..first }]).unwrap();
    let seen = repo.view().unwrap();
    assert_eq!((seen.snapshots.len(), seen.problems), (1, vec![]), "the record counts");
    // A tombstone.
    let mine = maintainer.identity.clone().unwrap();
    let (writer, session) = (first.writer, copal_engine::id::SessionId { n: 77, random: 7 });
    let object = objects::snapshot(writer, session);
    let at = At { repository: repo.id(), object: &object, keys: repo.graph_keys() };
    let signer = copal_engine::crypto::sign::SigningKey::from_seed(mine.seed.clone());
    let repo = Arc::new(bench.open().unwrap());
    let fresh = bench.open().unwrap().enroll_new(Role::Maintainer, &mut *bench.rng()).unwrap().identity.unwrap();
    let by_fresh = copal_engine::crypto::sign::SigningKey::from_seed(fresh.seed.clone());
    bench.put(object.clone(), Tombstone { generation: 1 }.encode(at, fresh.id, &by_fresh));
    let view = repo.view().unwrap();
    assert_eq!((view.ended[0].at, view.ended.len(), view.problems), ((writer, session), 1, vec![]));
    bench.put(object.clone(), Tombstone { generation: 1 }.encode(at, mine.id, &signer));
    // A base.
    let later = bench.open().unwrap().enroll_new(Role::Maintainer, &mut *bench.rng()).unwrap();
    let theirs = Arc::new(bench.open_as(&later, "later").unwrap());
    let identity = later.identity.clone().unwrap();
    prune(&theirs, &identity, bench.rng(), &ALL, &Silent, &Cancel::default()).unwrap();
    let base = repo.newest_base().unwrap();
    assert_eq!((base.n, base.unreadable), (1, vec![]));
    assert_eq!(repo.view().unwrap().problems, []);
    assert_eq!(check_all(&repo).findings, []);
}

#[test]
fn many_unknown_writers_cost_one_look_at_the_config() {
    let (bench, repo) = opened();
    let snapshot = bench.memory.snapshot().into_iter().find(|(k, _)| k.as_str().starts_with("snap/")).unwrap();
    for n in 0..20u8 {
        let mut forged = snapshot.1.to_vec();
        let writer = copal_engine::id::WriterId::from_bytes([n; 16]);
        // Magic, suite and repository stand before it.
        forged[41..57].copy_from_slice(writer.as_bytes());
        let session = copal_engine::id::SessionId::clone(&bench.view().1.snapshots[0].at.session);
        bench.put(objects::snapshot(writer, session), forged);
    }
    bench.record.take();
    let view = repo.view().unwrap();
    assert_eq!((view.snapshots.len(), view.problems.len()), (1, 20));
    assert!(view.problems.iter().all(|p| p.message.contains("not enrolled")), "{:?}", view.problems);
    assert_eq!(bench.record.count(Verb::List, "cfg/"), 1);
}

#[test]
fn machines_that_begin_at_once_in_one_state_directory_share_one_identity() {
    let bench = Bench::new();
    for round in 0..20 {
        let local = format!("round {round}");
        let members = bench.open().unwrap().config().members.len();
        let ids = std::thread::scope(|scope| {
            let one =
                |_| scope.spawn(|| bench.open_as(&bench.bundle, &local).unwrap().identity(&mut SystemRng).unwrap().id);
            (0..6).map(one).collect::<Vec<_>>().into_iter().map(|t| t.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        assert_eq!(bench.open().unwrap().config().members.len(), members + 1);
    }
}
