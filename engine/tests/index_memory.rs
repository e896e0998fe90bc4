//! Heap and disk that the local index takes, counted by the allocator: the promise is under 64 MiB while it is built and
//! under 2 bytes a blob once it is open.
#![allow(missing_docs)]

#[path = "common/heap.rs"]
mod heap;

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use copal_engine::format::blob::{BlobKind, Entry, Origin, PackInfo};
use copal_engine::id::{BlobId, PackId, SegmentId, SessionId, WriterId};
use copal_engine::ops::prune::{Limit, Policy, facts, plan_prune};
use copal_engine::repo::index::{Claim, Error, Index, Options, STANZA_BYTES, Segment};

use heap::{NOW, PEAK};

/// Heap is counted for the whole process, so only one test may run at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// What `work` returns, the most heap that it held at once, and what is left of it, in bytes.
fn measured<T>(work: impl FnOnce() -> T) -> (T, usize, usize) {
    let before = NOW.load(Relaxed);
    PEAK.store(before, Relaxed);
    let result = work();
    (result, PEAK.load(Relaxed) - before, NOW.load(Relaxed).saturating_sub(before))
}

const SEGMENT_BLOBS: u64 = 60_000;
const PACK_BLOBS: u64 = 32;

fn blob(n: u64) -> BlobId {
    BlobId::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes())
}

/// One pack of 16 MiB, of one session for each segment.
fn pack(n: u64) -> PackInfo {
    let writer = WriterId::from_bytes([(n % 5) as u8; 16]);
    let session = SessionId { n: n * PACK_BLOBS / SEGMENT_BLOBS, random: 1 };
    let id = PackId::from_bytes(*blake3::hash(&n.to_be_bytes()).as_bytes());
    PackInfo {
        id,
        writer,
        session,
        seq: n,
        size: 16 << 20,
        origins: vec![Origin { writer, session, salt: [n as u8; 32] }],
    }
}

fn segment(n: u64) -> Segment {
    let first_pack = n * SEGMENT_BLOBS / PACK_BLOBS;
    let packs: Vec<_> = (0..SEGMENT_BLOBS / PACK_BLOBS).map(|k| pack(first_pack + k)).collect();
    let stanzas = vec![((packs[0].writer, packs[0].session), Box::new([n as u8; STANZA_BYTES]))];
    let entry = |k: u64| Entry {
        id: blob(n * SEGMENT_BLOBS + k),
        pack: (k / PACK_BLOBS) as u32,
        offset: (k % PACK_BLOBS) as u32 * (512 << 10),
        kind: BlobKind::Data,
        stored: 512 << 10,
        len: 1 << 20,
        at: 0,
        origin: 0,
    };
    Segment { id: segment_id(n), packs, stanzas, entries: (0..SEGMENT_BLOBS).map(entry).collect() }
}

fn segment_id(n: u64) -> SegmentId {
    SegmentId::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes())
}

/// Builds, reopens, asks and extends an index of `segments` segments; states and checks what that takes.
fn takes_little(segments: u64) {
    let _alone = ALONE.lock().unwrap_or_else(|poison| poison.into_inner());
    let blobs = segments * SEGMENT_BLOBS;
    let dir = tempfile::tempdir().unwrap();
    let wanted: Vec<_> = (0..segments).map(segment_id).collect();
    // The pool of rayon's threads is not the index's.
    rayon::join(|| (), || ());

    let start = Instant::now();
    let (index, peak, kept) = measured(|| {
        let by_id: HashMap<_, _> = wanted.iter().copied().zip(0..).collect();
        Index::open::<Error>(Options::cache(dir.path()), &wanted, &mut |id| Ok(segment(by_id[id]))).unwrap()
    });
    let files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).collect();
    println!(
        "{blobs} blobs built in {:.1?}: heap peak {:.1} MiB, kept {kept} bytes; files {files:?}, {:.1} bytes a blob",
        start.elapsed(),
        peak as f64 / f64::from(1 << 20),
        files.iter().sum::<u64>() as f64 / blobs as f64
    );
    assert_eq!(index.len(), blobs);
    assert!(peak < 64 << 20, "{peak} bytes of heap at the peak of a build");
    assert!(kept as u64 * 4 < blobs, "{kept} bytes of heap for {blobs} blobs");
    drop(index);

    let start = Instant::now();
    let (index, peak, kept) = measured(|| {
        Index::open::<Error>(Options::cache(dir.path()), &wanted, &mut |_| panic!("nothing is missing")).unwrap()
    });
    println!("opened in {:.1?}: heap peak {peak} bytes, kept {kept} bytes", start.elapsed());
    assert!((peak as u64) < 2 * blobs && (kept as u64) * 4 < blobs);

    let (start, asked) = (Instant::now(), 100_000);
    let ((), peak, _) = measured(|| {
        let mut found = Vec::new();
        for n in 0..asked {
            let n = n * (blobs / asked);
            index.lookup(&blob(n), &mut found);
            assert_eq!((found.len(), found[0].pack_id()), (1, pack(n / PACK_BLOBS).id));
            assert!(!index.contains(&blob(blobs + n)));
        }
    });
    println!("{asked} hits and as many misses in {:.1?}: heap {peak} bytes", start.elapsed());
    assert!(peak < 64 << 10);

    let (_, peak, kept) = measured(|| add_new(&index, blobs, 500_000));
    println!("500000 new blobs claimed and published: heap peak {peak} bytes, kept {kept} bytes");
    assert!(peak < 48 << 20 && kept < 20 << 20);
    assert_eq!(index.len() + index.pending_len() as u64, blobs + 500_000);
}

fn add_new(index: &Index, first: u64, count: u64) {
    let mut entries = Vec::new();
    for n in first..first + count {
        assert!(matches!(index.claim(&blob(n)), Claim::New));
        let offset = entries.len() as u32 * (512 << 10);
        let (stored, len) = (512 << 10, 1 << 20);
        entries.push(Entry { id: blob(n), pack: 0, offset, kind: BlobKind::Data, stored, len, at: 0, origin: 0 });
        if entries.len() as u64 == PACK_BLOBS {
            index.publish(pack(n / PACK_BLOBS), &entries).unwrap();
            entries.clear();
        }
    }
}

#[test]
fn one_million_blobs_take_little_heap() {
    takes_little(17);
}

#[test]
#[ignore = "writes 1.2 GB and takes 10 s"]
fn ten_million_blobs_take_little_heap() {
    takes_little(167);
}

#[test]
#[ignore = "writes 600 MB and takes a minute"]
fn ten_million_blobs_are_planned_for_in_little_heap() {
    let _alone = ALONE.lock().unwrap_or_else(|poison| poison.into_inner());
    let segments = 167;
    let dir = tempfile::tempdir().unwrap();
    let wanted: Vec<_> = (0..segments).map(segment_id).collect();
    let by_id: HashMap<_, _> = wanted.iter().copied().zip(0..).collect();
    let index = Index::open::<Error>(Options::unlinked(dir.path()), &wanted, &mut |id| Ok(segment(by_id[id]))).unwrap();
    let (live, forgotten) = (index.marks(), index.marks());
    // Of every eighth pack nothing is needed, of every other eighth half.
    let needed = |n: u64| match n / PACK_BLOBS % 8 {
        0 => false,
        4 => n.is_multiple_of(2),
        _ => true,
    };
    let blobs = segments * SEGMENT_BLOBS;
    for n in 0..blobs {
        (if needed(n) { &live } else { &forgotten }).mark(&blob(n), BlobKind::Data);
    }
    for memory in [512 << 20, 64 << 20] {
        let start = Instant::now();
        let (facts, peak, kept) = measured(|| facts::gather(&index, &live, &forgotten, &|_| false, memory));
        println!("{blobs} blobs, {memory} bytes: facts in {:.1?}, heap peak {peak}, kept {kept}", start.elapsed());
        assert!((peak as u64) < memory.min(16 * blobs) + 320 * facts.packs.len() as u64);

        let start = Instant::now();
        let policy = Policy { max_unused: Limit::Bytes(0), max_repack: None };
        let (plan, peak, _) = measured(|| plan_prune(&facts, &policy));
        println!("planned in {:.1?}, heap peak {peak}: {:?}", start.elapsed(), plan.counts);
        assert_eq!(plan.counts.unexplained, 0);
        assert_eq!(plan.drop.len() as u64, (blobs / PACK_BLOBS).div_ceil(8));

        let mut packs: HashSet<_> = plan.drop.iter().chain(&plan.repack).map(|pack| pack.id).collect();
        let start = Instant::now();
        let ((), peak, _) = measured(|| facts::spare(&index, &live, &|_| false, &HashSet::new(), &mut packs));
        println!("spared in {:.1?}, heap peak {peak}", start.elapsed());
        assert!(peak < 1 << 20);
        assert_eq!(packs, plan.drop.iter().map(|pack| pack.id).collect());
    }
}
