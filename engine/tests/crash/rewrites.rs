//! Rewriting snapshots: what leaves, what stays as it was to the bit, and a store that crashes at every call.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;

use copal_engine::Result;
use copal_engine::format::node::{HardLink, Metadata, NodeKind};
use copal_engine::format::tree::{Tags, TreeEntry};
use copal_engine::ops::Edited;
use copal_engine::ops::rewrite::{Options, rewrite};
use copal_engine::progress::{Cancel, Collect, Problem};
use copal_engine::repo::tree::Stretch;
use copal_engine::repo::walk::join;
use copal_engine::repo::{Reader, Snapshot};
use copal_engine::source::exclude::{Exclude, ExcludeOptions};
use copal_engine::store::Verb;
use copal_engine::store::fault::{Effect, Rule};

use crate::bench::{Bench, Content, make_source, noise, on_disk, same_content, settle};

fn without(patterns: &[&str]) -> Options {
    let options =
        ExcludeOptions { patterns: patterns.iter().map(|p| p.as_bytes().to_vec()).collect(), ..Default::default() };
    Options { exclude: Some(Exclude::new(&options).unwrap()), forget: true, ..Options::default() }
}

impl Bench {
    fn rewrite(&self, options: &Options) -> Result<(Vec<Edited>, Vec<Problem>)> {
        let mut repo = self.open()?;
        let who = repo.identity(&mut *self.rng())?;
        let repo = Arc::new(repo);
        let committed = repo.committed()?;
        let chosen: Vec<_> = committed.snapshots.iter().collect();
        let (mut all, problems, cancel) = (Vec::new(), Collect::default(), Cancel::default());
        let mut done = |edited: &Edited| all.push(edited.clone());
        rewrite(&repo, &who, self.rng(), &chosen, options, (&problems, &cancel), &mut done)?;
        Ok((all, problems.0.into_inner().unwrap()))
    }

    /// Every entry of a snapshot, as it is stored, by its path.
    pub fn stored_entries(&self, snapshot: &Snapshot) -> HashMap<Vec<u8>, (Metadata, TreeEntry)> {
        let (repo, view) = self.view();
        let reader = Reader::new(repo, view.index, 8 << 20);
        let mut all = HashMap::new();
        let mut open = vec![(Vec::new(), snapshot.graph.root.unwrap())];
        while let Some((path, tree)) = open.pop() {
            let mut each = |stretch: Stretch| {
                for (meta, entry) in stretch {
                    let path = join(&path, &meta.name);
                    if meta.metadata.kind == NodeKind::Dir {
                        open.push((path.clone(), entry.children[0]));
                    }
                    all.insert(path, (meta.metadata, entry));
                }
                Ok(())
            };
            reader.each_stretch(&tree, &mut each).unwrap();
        }
        all
    }

    pub fn only(&self) -> Snapshot {
        let snapshots = self.view().1.snapshots;
        assert_eq!(snapshots.len(), 1);
        snapshots.into_iter().next().unwrap()
    }
}

/// A wide directory of many stretches, links, and things that shall leave.
fn bench() -> Bench {
    let bench = Bench { threads: 2, ..Bench::new() };
    let source = bench.source();
    make_source(&source, false);
    fs::create_dir(source.join("wide")).unwrap();
    for n in 0..5000 {
        fs::write(source.join(format!("wide/{n:04}")), format!("{n}")).unwrap();
    }
    fs::create_dir_all(source.join("gone/deeper")).unwrap();
    fs::write(source.join("gone/deeper/large"), noise(7, 300_000)).unwrap();
    fs::write(source.join("d/linked"), b"three names").unwrap();
    for name in ["d/e/linked", "gone/linked"] {
        fs::hard_link(source.join("d/linked"), source.join(name)).unwrap();
    }
    settle();
    bench.backup();
    bench
}

#[test]
fn what_stays_is_as_it_was_with_tags_and_hard_links() {
    let bench = bench();
    let old = bench.only();
    let before = bench.stored_entries(&old);
    bench.record.take();
    let (done, problems) = bench.rewrite(&without(&["/source/gone", "/source/wide/*7"])).unwrap();
    assert_eq!((done.len(), problems), (1, vec![]));
    assert_eq!((done[0].left, done[0].left_bytes), ([2 + 500, 2, 0], 300_000 + 11 + 1889));
    let data = bench.record.log().iter().filter(|op| op.verb == Verb::GetRange).count();
    assert!(data < 60, "{data} ranges were read: trees and metas, no content");

    let new = bench.only();
    let after = bench.stored_entries(&new);
    let leaves =
        |path: &[u8]| path.starts_with(b"/source/gone") || path.starts_with(b"/source/wide/") && path.ends_with(b"7");
    assert_eq!(after.len(), before.iter().filter(|(path, _)| !leaves(path)).count());
    for (path, (metadata, entry)) in &after {
        let (old_metadata, old_entry) = &before[path];
        let what = String::from_utf8_lossy(path);
        assert_eq!(metadata, old_metadata, "{what}");
        assert_eq!((entry.tags, entry.kind), (old_entry.tags, old_entry.kind), "{what}");
        assert_ne!(entry.tags, Tags::default(), "{what}");
        let changed: &[&[u8]] = &[b"/source", b"/source/wide"];
        assert_eq!(entry.children != old_entry.children, changed.contains(&path.as_slice()), "{what}");
    }
    let link = |path: &[u8]| -> Option<HardLink> { after[path].0.hardlink };
    assert!(link(b"/source/d/linked").is_some());
    assert_eq!(link(b"/source/d/linked"), link(b"/source/d/e/linked"));

    // The next backup takes all that stayed for unchanged.
    fs::remove_dir_all(bench.source().join("gone")).unwrap();
    for n in (0..5000).filter(|n| n % 10 == 7) {
        fs::remove_file(bench.source().join(format!("wide/{n:04}"))).unwrap();
    }
    same_content(&bench.restore_all()[0].1, &on_disk(&bench.source()), "rewritten");
    let next = bench.backup();
    assert_eq!((next.parent, next.counts.files[0]), (Some(new.id()), 0));
    assert!(next.counts.files[1] <= 2, "only the two names of what lost its third one: {:?}", next.counts.files);
    assert_eq!(bench.check().findings, []);
    let names = new.names.unwrap();
    assert_eq!(names.counts.files.iter().sum::<u64>(), old.names.unwrap().counts.files.iter().sum::<u64>() - 502);
}

#[test]
fn nothing_is_stored_where_nothing_changes() {
    let bench = bench();
    let old = bench.only();
    bench.record.take();
    assert!(bench.rewrite(&without(&["/nowhere", "*.none"])).unwrap().0.is_empty());
    assert_eq!((bench.only().at, bench.stored("pack/"), bench.stored("snap/")), (old.at, 0, 0));
    let dry = Options { dry_run: true, ..without(&["/source/gone"]) };
    let (would, _) = bench.rewrite(&dry).unwrap();
    assert_eq!((would.len(), would[0].new, would[0].left), (1, None, [2, 2, 0]));
    assert_eq!((bench.only().at, bench.stored("")), (old.at, bench.stored("pin/")), "a dry run writes nothing");

    let (_, problems) = bench.rewrite(&without(&["source"])).unwrap();
    assert!(problems[0].message.contains("nothing would be left"), "{problems:?}");
    assert_eq!(bench.only().at, old.at);
}

#[test]
fn damage_that_leaves_does_not_keep_the_rest_from_being_rewritten() {
    let bench = Bench::new();
    fs::create_dir(bench.source().join("gone")).unwrap();
    fs::write(bench.source().join("gone/large"), noise(7, 300_000)).unwrap();
    settle();
    bench.backup();
    let first = bench.only().at;
    fs::write(bench.source().join("here"), noise(8, 1000)).unwrap();
    fs::write(bench.source().join("other"), b"leaves").unwrap();
    bench.backup();
    // The entries of a small session stand in its snapshot: what only the first one published is nowhere now.
    bench.remove(copal_engine::format::objects::snapshot(first.writer, first.session));
    let (done, problems) = bench.rewrite(&without(&["other"])).unwrap();
    assert_eq!((done.len(), problems.len()), (0, 1));
    assert!(problems[0].message.contains("it stays as it is"), "{problems:?}");
    let (done, problems) = bench.rewrite(&without(&["gone"])).unwrap();
    assert_eq!((done.len(), problems, done[0].left), (1, vec![], [0, 1, 0]));
    let (repo, view) = bench.view();
    let reader = Reader::new(repo, view.index, 8 << 20);
    let content = crate::bench::read_snapshot(&reader, &view.snapshots[0]).unwrap();
    assert_eq!(content.keys().collect::<Vec<_>>(), [b"/here".as_slice(), b"/other"]);
}

#[test]
fn a_crash_anywhere_loses_nothing_and_a_repeat_makes_no_second_one() {
    let bench = Bench::new();
    make_source(&bench.source(), false);
    bench.backup();
    let old: Content = bench.restore_all().remove(0).1;
    let new: Content =
        old.iter().filter(|(path, _)| !path.starts_with(b"/d/e")).map(|(p, c)| (p.clone(), c.clone())).collect();
    let start = bench.memory.snapshot();
    let before = bench.fault.calls();
    bench.rewrite(&without(&["/source/d/e"])).unwrap();
    let calls = bench.fault.calls() - before;
    same_content(&bench.restore_all()[0].1, &new, "without a crash");
    for n in 0..calls {
        for effect in [Effect::CrashBefore, Effect::CrashAfter] {
            let what = format!("{effect:?} call {n} of {calls}");
            bench.memory.restore(start.clone());
            bench.fault.add(Rule::any().skip(n).times(1).effect(effect.clone()));
            let crashed = bench.rewrite(&without(&["/source/d/e"]));
            bench.fault.clear();
            bench.fault.revive();
            let seen = bench.restore_all();
            assert!(!seen.is_empty() && seen.iter().all(|(_, c)| *c == old || *c == new), "{what}");
            assert!(crashed.is_err() || seen.len() == 1 && seen[0].1 == new, "{what}: it was reported");
            bench.rewrite(&without(&["/source/d/e"])).unwrap();
            let seen = bench.restore_all();
            assert_eq!(seen.len(), 1, "{what}");
            same_content(&seen[0].1, &new, &what);
        }
    }
    assert_eq!(bench.check().findings, []);
}
