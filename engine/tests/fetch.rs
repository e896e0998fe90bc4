//! Frames are read with few requests and in bounded memory, over a store in memory.

use std::collections::BTreeSet;
use std::sync::Arc;

use copal_engine::chunker::Params;
use copal_engine::crypto::rng::{Rng, SeededRng, SystemRng};
use copal_engine::format::blob::BlobKind;
use copal_engine::ops::backup::{self, Parent, backup};
use copal_engine::progress::{Cancel, Silent};
use copal_engine::repo::fetch::{Fetcher, SPAN_BYTES_MAX, Span, Wanted, spans};
use copal_engine::repo::index::Found;
use copal_engine::repo::reader::READ_STEP;
use copal_engine::repo::{self, Bridge, Reader, Repository};
use copal_engine::store::memory::Memory;
use copal_engine::store::record::Record;
use copal_engine::store::{Store, Verb};

struct Bench {
    _dir: tempfile::TempDir,
    memory: Arc<Memory>,
    record: Arc<Record>,
    repo: Arc<Repository>,
    reader: Reader,
}

/// 240 files of 100 kB, each a frame: 24 MB in two packs.
fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    std::fs::create_dir(&source).unwrap();
    for n in 0..240u32 {
        // Neither cut nor grouped: each is a frame of its own.
        let mut bytes = vec![0; Params::DEFAULT.min() as usize];
        SeededRng::new(n.to_le_bytes()).fill(&mut bytes);
        std::fs::write(source.join(n.to_string()), bytes).unwrap();
    }
    let memory = Arc::new(Memory::new());
    let record = Arc::new(Record::new(memory.clone()));
    let store: Arc<dyn Store> = record.clone();
    let options = repo::Options { threads: 1, ..repo::Options::new(dir.path().join("local")) };
    let (bridge, mut rng) = (Bridge::start().unwrap(), SeededRng::new("fetch"));
    let (mut repo, _) = repo::init(store, bridge, Params::DEFAULT, options, &mut rng).unwrap();
    let who = repo.identity(&mut rng).unwrap();
    let repo = Arc::new(repo);
    let options = backup::Options {
        as_path: Some("/d".into()),
        parent: Parent::None,
        level: 1,
        ..backup::Options::new(vec![source])
    };
    backup(&repo, &who, Box::new(SystemRng), &options, &Silent, &Cancel::default()).unwrap();
    let reader = Reader::new(repo.clone(), repo.view().unwrap().index, 0);
    record.take();
    Bench { _dir: dir, memory, record, repo, reader }
}

impl Bench {
    /// Data frames in the order in which they lie, every `nth` of them.
    fn frames(&self, nth: usize) -> Vec<Wanted<usize>> {
        let mut found: Vec<Found> = self.reader.index().entries().collect();
        found.retain(|copy| copy.entry.kind == BlobKind::Data);
        found.sort_by_key(|copy| (copy.pack_id(), copy.entry.offset));
        assert_eq!(found.len(), 240);
        found.into_iter().step_by(nth).enumerate().map(|(what, copy)| Wanted { copy, what }).collect()
    }

    /// Reads all of them; which came well, and which did not.
    fn read(&self, spans: Vec<Span<usize>>, memory: u64) -> (BTreeSet<usize>, BTreeSet<usize>) {
        let fetcher = Fetcher::start(&self.repo, spans, memory);
        let (mut good, mut bad) = (BTreeSet::new(), BTreeSet::new());
        while let Some(mut fetched) = fetcher.next() {
            fetched.check().unwrap();
            for (n, wanted) in fetched.span.frames.iter().enumerate() {
                let is_new = match fetched.frame(n) {
                    Ok(sealed) => {
                        let text = self.reader.open_frame(&wanted.copy, &mut sealed.to_vec()).unwrap();
                        self.reader.slice(&wanted.copy.entry.id, &wanted.copy, &text).unwrap();
                        good.insert(wanted.what)
                    }
                    Err(e) => {
                        assert!(matches!(e, copal_engine::Error::Damaged { .. }), "{e}");
                        bad.insert(wanted.what)
                    }
                };
                assert!(is_new, "{} came twice", wanted.what);
            }
        }
        (good, bad)
    }
}

#[test]
fn near_frames_are_one_request_and_far_ones_are_not() {
    let bench = bench();
    // All of them, every other (gaps of 128 KiB), every tenth (gaps of 1.1 MiB).
    for (nth, requests) in [(1, 6..=10), (2, 6..=10), (10, 24..=24)] {
        let mut frames = bench.frames(nth);
        // In any order.
        frames.reverse();
        let count = frames.len();
        let spans = spans(frames);
        assert!(requests.contains(&spans.len()), "{} spans for every {nth}th frame", spans.len());
        assert!(spans.iter().all(|span| span.bytes() <= SPAN_BYTES_MAX + READ_STEP));
        let planned: u64 = spans.iter().map(Span::bytes).sum();
        let asked = spans.len();
        let (good, bad) = bench.read(spans, 64 << 20);
        assert_eq!((good.len(), bad.len()), (count, 0));
        assert_eq!(bench.record.count(Verb::GetRange, "pack/"), asked);
        assert_eq!(bench.record.bytes(Verb::GetRange, "pack/"), planned);
        bench.record.take();
    }
}

#[test]
fn little_memory_is_enough() {
    let bench = bench();
    let (good, bad) = bench.read(spans(bench.frames(1)), 1);
    assert_eq!((good.len(), bad.len()), (240, 0));
}

#[test]
fn no_more_is_read_ahead_than_fits() {
    let bench = bench();
    // Two spans of 4 MiB fit, or a third one that is short.
    let fetcher = Fetcher::start(&bench.repo, spans(bench.frames(1)), 9 << 20);
    let mut held = vec![fetcher.next().unwrap(), fetcher.next().unwrap()];
    std::thread::sleep(std::time::Duration::from_millis(200));
    let read = bench.record.bytes(Verb::GetRange, "pack/");
    assert!((1 << 20..=9 << 20).contains(&read), "{read} bytes read ahead");
    held.pop();
    assert!(fetcher.next().is_some());
    // Dropped with spans that nobody took: nothing waits for them.
    drop(fetcher);
}

#[test]
fn a_pack_that_is_gone_or_short_is_damage_of_its_frames() {
    let bench = bench();
    let frames = bench.frames(1);
    let name = |wanted: &Wanted<usize>| bench.reader.pack_key_name(&wanted.copy);
    let (first, last) = (name(&frames[0]), name(&frames[239]));
    assert_ne!(first, last);
    let in_first = frames.iter().filter(|wanted| name(wanted) == first).count();
    let mut objects = bench.memory.snapshot();
    objects.retain(|key, _| key.as_str() != first);
    for (key, bytes) in &mut objects {
        if key.as_str() == last {
            *bytes = bytes.slice(..bytes.len() / 2);
        }
    }
    bench.memory.restore(objects);
    let (good, bad) = bench.read(spans(frames), 64 << 20);
    assert!((0..in_first).all(|n| bad.contains(&n)) && bad.contains(&239));
    assert!(!good.is_empty() && good.len() + bad.len() == 240);
}
