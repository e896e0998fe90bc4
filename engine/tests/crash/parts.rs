//! Parts and wholes: an application of several sessions, prunes beside them, and what of it goes when it is forgotten.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use copal_engine::format::bundle::Bundle;
use copal_engine::format::snapshot::SnapshotKind;
use copal_engine::id::SnapshotId;
use copal_engine::ops::backup::{Done, Options, Run, backup};
use copal_engine::progress::{Cancel, Silent};
use copal_engine::repo::{Reader, Repository};
use copal_engine::store::Store;
use copal_engine::{Error, Result};

use crate::bench::{Bench, Content, Held, noise, on_disk, options, read_dir, same_content, settle};
use crate::gives_back::ALL;
use crate::hooked::AtCall;

/// An application: manifests and volumes on this machine.
struct App {
    bench: Arc<Bench>,
    volumes: Vec<&'static str>,
}

impl App {
    fn new(volumes: &[&'static str]) -> Self {
        let bench = Bench { watch: std::time::Duration::from_millis(10), ..Bench::new() };
        let app = Self { bench: Arc::new(bench), volumes: volumes.to_vec() };
        fs::create_dir_all(app.top().join("manifests/core")).unwrap();
        fs::write(app.top().join("manifests/core/pod.json"), b"{}").unwrap();
        fs::create_dir_all(app.bench.dir.path().join("volumes")).unwrap();
        for (n, volume) in volumes.iter().enumerate() {
            fs::create_dir_all(app.volume(volume).join("d")).unwrap();
            fs::write(app.volume(volume).join("d/large"), noise(n as u64, 300_000)).unwrap();
            fs::write(app.volume(volume).join("small"), volume).unwrap();
        }
        settle();
        app
    }

    fn top(&self) -> PathBuf {
        self.bench.dir.path().join("top")
    }

    fn volume(&self, name: &str) -> PathBuf {
        self.bench.dir.path().join("volumes").join(name)
    }

    fn options(&self, path: PathBuf, as_path: String) -> Options {
        Options { as_path: Some(as_path.into()), ..options(&path) }
    }

    /// A part, by a process of its own, as on another node.
    fn part(&self, run: &Run, bundle: &Bundle, name: &str) -> Result<Done> {
        let mut repo = self.bench.open_as(bundle, "node")?;
        let who = repo.identity(&mut *self.bench.rng())?;
        self.part_over(&Arc::new(repo), &who, run, name)
    }

    fn part_over(
        &self,
        repo: &Arc<Repository>,
        who: &copal_engine::format::bundle::Identity,
        run: &Run,
        name: &str,
    ) -> Result<Done> {
        let options = Options { part_of: Some(run.at()), ..self.options(self.volume(name), format!("/{name}")) };
        let done = backup(repo, who, self.bench.rng(), &options, &Silent, &Cancel::default())?;
        Ok(Done { name: name.into(), snapshot: done.snapshot.unwrap() })
    }

    fn begin_over(&self, store: Arc<dyn Store>, local: &str) -> Result<Run> {
        let mut repo = self.bench.open_over(store, &self.bench.bundle, local)?;
        let who = repo.identity(&mut *self.bench.rng())?;
        Run::begin(&Arc::new(repo), &who, 1, &mut *self.bench.rng())
    }

    fn begin(&self) -> Run {
        self.begin_over(self.bench.record.clone(), "owner").unwrap()
    }

    fn finish(&self, run: Run, parts: &[Done]) -> Result<SnapshotId> {
        let options = self.options(self.top(), "/".into());
        Ok(run.finish(&options, parts, &mut *self.bench.rng(), &Silent, &Cancel::default())?.snapshot.unwrap())
    }

    fn back_up(&self) -> SnapshotId {
        let run = self.begin();
        let parts: Vec<Done> =
            self.volumes.iter().map(|name| self.part(&run, &self.bench.bundle, name).unwrap()).collect();
        self.finish(run, &parts).unwrap()
    }

    /// What its snapshot has to hold.
    fn content(&self) -> Content {
        let mut content = on_disk(&self.top());
        if !self.volumes.is_empty() {
            content.insert(b"/volumes".to_vec(), Held::Dir);
        }
        let below = on_disk(&self.bench.dir.path().join("volumes"));
        content.extend(below.into_iter().map(|(path, held)| ([b"/volumes", &path[..]].concat(), held)));
        content
    }

    /// Exactly these wholes are there for a user, and come back to the byte.
    fn holds(&self, known: &[(SnapshotId, Content)], what: &str) {
        let (repo, view) = self.bench.view();
        assert_eq!(view.problems, [], "{what}");
        let reader = Reader::new(repo, Arc::clone(&view.index), 8 << 20);
        let wholes: Vec<_> = view.snapshots.iter().filter(|s| s.graph.kind == SnapshotKind::Whole).collect();
        let ids: Vec<SnapshotId> = wholes.iter().map(|s| s.id()).collect();
        assert_eq!(ids, known.iter().map(|k| k.0).collect::<Vec<_>>(), "{what}");
        for (whole, (_, wanted)) in wholes.iter().zip(known) {
            let mut content = Content::new();
            read_dir(&reader, &whole.graph.root.unwrap(), b"", &mut content).unwrap();
            same_content(&content, wanted, what);
        }
        let report = self.bench.check();
        assert_eq!(report.errors, 0, "{what}: {:?}", report.findings);
    }

    fn parts(&self) -> usize {
        self.bench.view().1.snapshots.iter().filter(|s| s.graph.kind == SnapshotKind::Part).count()
    }

    fn change(&self, seed: u64) {
        for (n, volume) in self.volumes.iter().enumerate() {
            fs::write(self.volume(volume).join("d/large"), noise(seed * 10 + n as u64, 300_000)).unwrap();
        }
        settle();
    }
}

#[test]
fn one_snapshot_holds_manifests_and_volumes() {
    for volumes in [&[][..], &["data"], &["a", "data-0", "data-1", "logs", "z"]] {
        let app = App::new(volumes);
        let id = app.back_up();
        app.holds(&[(id, app.content())], "backed up");
        let (_, view) = app.bench.view();
        assert_eq!(view.resolve("latest", |_| true).unwrap().id(), id, "parts are not listed");
        let whole = view.snapshots.iter().find(|s| s.id() == id).unwrap();
        let mut parts: Vec<_> =
            view.snapshots.iter().filter(|s| s.graph.kind == SnapshotKind::Part).map(|s| s.id()).collect();
        parts.sort_unstable();
        assert_eq!(whole.graph.parts, parts);
        for part in parts {
            assert!(view.resolve(&part.to_string(), |_| true).is_err(), "nobody can ask for a part");
        }
    }
}

#[test]
fn what_is_as_it_was_is_not_stored_again() {
    let app = App::new(&["a", "b"]);
    let first = app.back_up();
    let content = app.content();
    let stored = app.bench.pack_bytes();
    let second = app.back_up();
    assert_eq!(app.bench.pack_bytes(), stored, "not even trees");
    app.holds(&[(first, content.clone()), (second, content)], "again");
}

#[test]
fn a_run_takes_only_parts_of_its_own() {
    let app = App::new(&["a"]);
    let (one, other) = (app.begin(), app.begin());
    let part = app.part(&one, &app.bench.bundle, "a").unwrap();
    let refused = app.finish(other, std::slice::from_ref(&part)).unwrap_err();
    assert!(matches!(refused, Error::NotFound(_)), "{refused}");
    let twice = app.finish(one, &[part.clone(), part.clone()]).unwrap_err();
    assert!(matches!(twice, Error::Invalid(_)), "{twice}");
    let run = app.begin();
    let part = Done { name: b"a/b".to_vec(), ..app.part(&run, &app.bench.bundle, "a").unwrap() };
    assert!(matches!(app.finish(run, &[part]), Err(Error::Invalid(_))));
    // A directory of that name would hide them.
    fs::create_dir(app.top().join("volumes")).unwrap();
    let run = app.begin();
    let part = app.part(&run, &app.bench.bundle, "a").unwrap();
    assert!(matches!(app.finish(run, &[part]), Err(Error::Invalid(_))));
    app.holds(&[], "nothing came of any");
}

#[test]
fn writers_share_a_run() {
    let app = App::new(&["a", "b"]);
    let (mine, another) = (app.bench.new_writer(), app.bench.new_writer());
    let run = app.begin();
    let parts = [app.part(&run, &mine, "a").unwrap(), app.part(&run, &another, "b").unwrap()];
    let id = app.finish(run, &parts).unwrap();
    app.holds(&[(id, app.content())], "shared");
}

#[test]
fn parts_live_while_their_run_does_and_go_with_it() {
    let app = App::new(&["a", "b"]);
    let first = app.back_up();
    let known = [(first, app.content())];
    let before = app.bench.pack_bytes();
    app.change(7);
    let run = app.begin();
    let parts: Vec<Done> = app.volumes.iter().map(|v| app.part(&run, &app.bench.bundle, v).unwrap()).collect();
    assert!(app.bench.pack_bytes() > before + 500_000);
    for _ in 0..2 {
        app.bench.prune_as(&app.bench.bundle, "pruner", &ALL).unwrap();
        assert_eq!(app.parts(), 4, "their run is open");
    }
    assert!(app.bench.pack_bytes() > before + 500_000);
    // It dies. Who asks gets no answer any more, and ends it.
    drop((run, parts));
    for _ in 0..2 {
        app.bench.prune_as(&app.bench.bundle, "pruner", &ALL).unwrap();
    }
    assert_eq!(app.parts(), 2, "they are nobody's");
    app.holds(&known, "ended");
    app.bench.is_clean("ended");
    assert!(app.bench.pack_bytes() < before + 100_000, "{} of {before}", app.bench.pack_bytes());
}

#[test]
fn parts_go_when_their_whole_is_forgotten() {
    let app = App::new(&["a", "b"]);
    let first = app.back_up();
    app.change(8);
    let known = [(app.back_up(), app.content())];
    assert_eq!(app.parts(), 4);
    let before = app.bench.pack_bytes();
    app.bench.forget(&[first]);
    app.bench.prune().unwrap();
    assert_eq!(app.parts(), 2);
    app.holds(&known, "forgotten");
    app.bench.is_clean("forgotten");
    // Small chunks stay where they share a frame with ones that are kept.
    assert!(app.bench.pack_bytes() + 250_000 < before, "{} of {before}", app.bench.pack_bytes());
    let again = app.bench.prune().unwrap();
    assert_eq!((again.generation, again.plan.is_empty()), (None, true), "nothing is left to do: {again:?}");
}

/// A run whose own calls meet a whole prune at call `n`, and whose part has one before it. How many calls it made.
fn run_with_prune_at(app: &App, n: u64) -> (Result<SnapshotId>, u64) {
    let bench = Arc::clone(&app.bench);
    let act = move || {
        let bench = Arc::clone(&bench);
        let prune = move || drop(bench.prune_as(&bench.bundle, &format!("pruner{n}"), &ALL).unwrap());
        std::thread::spawn(prune).join().unwrap();
    };
    let store = Arc::new(AtCall::new(app.bench.record.clone(), n, act));
    let made = (|| {
        let mut repo = app.bench.open_over(store.clone(), &app.bench.bundle, "owner")?;
        let who = repo.identity(&mut *app.bench.rng())?;
        let repo = Arc::new(repo);
        let run = Run::begin(&repo, &who, 1, &mut *app.bench.rng())?;
        let mut parts = Vec::new();
        for volume in &app.volumes {
            parts.push(app.part_over(&repo, &who, &run, volume)?);
        }
        app.finish(run, &parts)
    })();
    (made, store.met.load(Ordering::Relaxed))
}

#[test]
fn a_prune_at_any_call_of_a_run_takes_nothing_from_it() {
    let app = App::new(&["a", "b"]);
    let first = app.back_up();
    let content = app.content();
    app.change(9);
    app.back_up();
    app.bench.forget(&[first]);
    // As it was at first: all that the forgotten one alone had is wanted again while a prune takes it.
    for (n, volume) in app.volumes.iter().enumerate() {
        fs::write(app.volume(volume).join("d/large"), noise(n as u64, 300_000)).unwrap();
    }
    settle();
    let start = app.bench.memory.snapshot();
    let (done, calls) = run_with_prune_at(&app, u64::MAX);
    done.unwrap();
    assert!(calls > 30, "{calls}");
    let mut fenced = 0;
    for n in 0..calls {
        app.bench.memory.restore(start.clone());
        let what = format!("at call {n} of {calls}");
        let id = match run_with_prune_at(&app, n).0 {
            Ok(id) => id,
            Err(Error::Fenced(_)) => {
                fenced += 1;
                app.back_up()
            }
            Err(e) => panic!("{what}: {e}"),
        };
        for when in ["", "pruned", "pruned again"] {
            if !when.is_empty() {
                app.bench.prune().unwrap();
            }
            let (repo, view) = app.bench.view();
            let reader = Reader::new(repo, Arc::clone(&view.index), 8 << 20);
            let whole = view.snapshots.iter().find(|s| s.id() == id).unwrap_or_else(|| panic!("{what} {when}"));
            let mut got = Content::new();
            read_dir(&reader, &whole.graph.root.unwrap(), b"", &mut got).unwrap();
            same_content(&got, &content, &format!("{what} {when}"));
        }
        app.bench.is_clean(&what);
        assert_eq!(app.parts(), 4, "{what}");
    }
    assert!(fenced < calls / 2, "{fenced} of {calls}");
}

#[test]
fn a_crash_at_any_call_of_a_run_leaves_what_was_there() {
    use copal_engine::store::fault::{Effect, Rule};
    let app = App::new(&["a", "b"]);
    let first = app.back_up();
    let known = [(first, app.content())];
    app.change(10);
    let start = app.bench.memory.snapshot();
    let before = app.bench.fault.calls();
    let run = || {
        let run = app.begin_over(app.bench.record.clone(), "owner")?;
        let parts: Result<Vec<Done>> = app.volumes.iter().map(|v| app.part(&run, &app.bench.bundle, v)).collect();
        app.finish(run, &parts?)
    };
    run().unwrap();
    let calls = app.bench.fault.calls() - before;
    for n in 0..calls {
        for effect in [Effect::CrashBefore, Effect::CrashAfter] {
            let what = format!("call {n} of {calls}, {effect:?}");
            app.bench.memory.restore(start.clone());
            app.bench.fault.add(Rule::any().skip(n).times(1).effect(effect));
            let made = run();
            app.bench.fault.clear();
            app.bench.fault.revive();
            let (_, view) = app.bench.view();
            let wholes = view.snapshots.iter().filter(|s| s.graph.kind == SnapshotKind::Whole);
            let ids: Vec<SnapshotId> = wholes.map(|s| s.id()).collect();
            let mut wanted = known.to_vec();
            // Reported, or the answer was lost.
            if let Some(new) = ids.iter().find(|id| **id != first) {
                wanted.push((*new, app.content()));
            }
            assert!(made.is_err() || wanted.len() == 2, "{what}");
            for when in ["at once", "pruned", "again", "and again"] {
                if when != "at once" {
                    app.bench.prune().unwrap();
                }
                app.holds(&wanted, &format!("{what}, {when}"));
            }
            assert_eq!(app.parts(), wanted.len() * 2, "{what}");
        }
    }
}
