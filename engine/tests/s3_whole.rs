//! `init`, `backup` and `restore` over S3 as it is: a server that fails one request in a hundred or more, and what a backup
//! costs in requests.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::s3_server::{Behaviour, Server};
use copal_engine::chunker::Params;
use copal_engine::crypto::rng::SystemRng;
use copal_engine::format::bundle::Identity;
use copal_engine::ops::backup::{self, Summary, backup};
use copal_engine::ops::restore::{Options, restore};
use copal_engine::progress::{Cancel, Collect};
use copal_engine::repo::{self, Bridge, Locked, Opener, Reader, Repository};
use copal_engine::store::retry::{Policy, Retry};
use copal_engine::store::s3::S3;
use copal_engine::store::{Store, Verb, record::Record};

struct Bench {
    dir: tempfile::TempDir,
    server: Server,
    /// Below the retries: every request is seen.
    record: Arc<Record>,
    store: Arc<dyn Store>,
    repo: Arc<Repository>,
    who: Identity,
}

impl Bench {
    fn new(behaviour: Behaviour) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bridge = Bridge::start().unwrap();
        let server = bridge.wait(Server::start());
        server.behave(behaviour);
        let s3 = bridge.wait(S3::connect(server.options())).unwrap();
        let record = Arc::new(Record::new(Arc::new(s3)));
        let ms = Duration::from_millis;
        let policy = Policy { first_wait: ms(1), max_wait: ms(20), ..Policy::default() };
        let store: Arc<dyn Store> = Arc::new(Retry::new(record.clone(), policy));
        let options = repo::Options::new(dir.path().join("local"));
        let (mut repo, verdict) =
            repo::init(Arc::clone(&store), bridge, Params::DEFAULT, options, &mut SystemRng).unwrap();
        assert_eq!(verdict.word(), "atomic", "{verdict:?}");
        let who = repo.identity(&mut SystemRng).unwrap();
        Self { dir, server, record, store, repo: Arc::new(repo), who }
    }

    fn source(&self) -> PathBuf {
        self.dir.path().join("source")
    }

    /// As a new process does it: opens, and backs up.
    fn backup(&mut self) -> Summary {
        let found = Locked::find(Arc::clone(&self.store), self.repo.bridge().clone()).unwrap();
        let bundle = Box::new(self.repo.bundle().clone());
        self.repo = Arc::new(found.unlock(Opener::Bundle(bundle), self.repo.options().clone()).unwrap());
        let options = backup::Options {
            as_path: Some("/source".into()),
            host: b"host".to_vec(),
            user: (b"user".to_vec(), 0, 0),
            program: b"test".to_vec(),
            ..backup::Options::new(vec![self.source()])
        };
        let problems = Collect::default();
        let summary =
            backup(&self.repo, &self.who, Box::new(SystemRng), &options, &problems, &Cancel::default()).unwrap();
        assert_eq!(*problems.0.lock().unwrap(), []);
        summary
    }

    fn restore(&self, target: &str) -> PathBuf {
        let view = self.repo.view().unwrap();
        assert_eq!(view.problems, []);
        let latest = view.resolve("latest", |_| true).unwrap().clone();
        let reader = Reader::new(Arc::clone(&self.repo), view.index, 8 << 20);
        let (target, problems) = (self.dir.path().join(target), Collect::default());
        restore(&reader, &latest, b"/source", &target, &Options::default(), &problems, &Cancel::default()).unwrap();
        assert_eq!(*problems.0.lock().unwrap(), []);
        target
    }

    /// Requests by verb and first part of the key, since the last call.
    fn requests(&self) -> Vec<(Verb, String)> {
        let kind = |key: &str| key.split('/').next().unwrap_or_default().to_owned();
        self.record.take().into_iter().map(|op| (op.verb, kind(&op.key))).collect()
    }
}

fn write_files(dir: &Path, count: usize, round: usize) {
    for n in 0..count {
        let path = dir.join(format!("dir-{}/file-{n}", n % 10));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("file {n} of round {round}, {}", "and some text ".repeat(n % 100))).unwrap();
    }
}

fn same_files(from: &Path, to: &Path) -> usize {
    let mut count = 0;
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let other = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => count += same_files(&path, &other),
            false => {
                assert_eq!(fs::read(&path).unwrap(), fs::read(&other).unwrap(), "{}", other.display());
                count += 1;
            }
        }
    }
    count
}

/// Rounds until some requests have failed.
fn through_faults(fail_every: u64, rounds: usize, at_least: u64) {
    let behaviour =
        Behaviour { fail_every: Some(fail_every), slow_every: Some(3 * fail_every), ..Behaviour::default() };
    let mut bench = Bench::new(behaviour);
    for round in 0..rounds {
        write_files(&bench.source(), 200, round);
        let summary = bench.backup();
        assert!(summary.snapshot.is_some());
        let target = bench.restore(&format!("target-{round}"));
        assert_eq!(same_files(&bench.source(), &target), 200);
    }
    assert_eq!(bench.repo.view().unwrap().snapshots.len(), rounds, "each snapshot once");
    let failed = bench.server.failed();
    println!("{} requests, {failed} of them failed", bench.server.requests());
    assert!(failed >= at_least, "{failed} failures prove little");
}

#[test]
fn one_request_in_a_hundred_fails() {
    through_faults(100, 12, 3);
}

#[test]
fn one_request_in_seven_fails() {
    through_faults(7, 4, 20);
}

/// What docs/limitations.md says: an S3 server is paid, and waited for, by the request.
#[test]
fn a_backup_of_a_thousand_small_files_takes_few_requests() {
    let mut bench = Bench::new(Behaviour::default());
    write_files(&bench.source(), 1000, 0);
    bench.requests();
    assert_eq!(bench.backup().counts.files, [1000, 0, 0]);
    let requests = bench.requests();
    let count = |verbs: &[Verb]| requests.iter().filter(|(verb, _)| verbs.contains(verb)).count();
    let (puts, lists, reads) =
        (count(&[Verb::Put, Verb::PutNew]), count(&[Verb::List]), count(&[Verb::Get, Verb::GetRange, Verb::Head]));
    println!("{puts} puts, {lists} lists, {reads} reads: {requests:?}");
    assert!(puts <= 4 && lists <= 14 && reads <= 9, "{puts} puts, {lists} lists, {reads} reads: {requests:?}");
    assert_eq!(count(&[Verb::Delete]), 0, "a backup deletes nothing");
}
