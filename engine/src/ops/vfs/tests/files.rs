//! Reading files: offsets, holes, parts, damage, and reads at once.

use super::*;
use crate::store::Verb;
use crate::store::fault::{Effect, Rule};

const ROOT: &str = "snapshots/1970-01-01T00:00:00Z";

/// One file of each shape with its bytes, each of more than one chunk or with a hole but the first two.
fn shapes(bench: &Bench) -> Vec<(&'static str, Vec<u8>)> {
    let (a, b, c) = (noise("a", 100_000), noise("b", 70_000), noise("c", 3));
    bench.snapshot(0, &[], |worker| {
        let parts: [&[Bit<'_>]; 3] = [
            &[Bit::Bytes(&a), Bit::Hole(50_000)],
            &[Bit::Hole(1000)],
            &[Bit::Hole(500), Bit::Bytes(&b), Bit::Bytes(&c)],
        ];
        let made = vec![
            small_file(worker, "empty", b""),
            small_file(worker, "small", b"hello"),
            mapped_file(worker, "mapped", &[Bit::Bytes(&a), Bit::Bytes(&b), Bit::Bytes(&c)]),
            mapped_file(worker, "sparse", &[Bit::Hole(4096), Bit::Bytes(&c), Bit::Hole(100_000), Bit::Bytes(&b)]),
            mapped_file(worker, "hole", &[Bit::Hole(1 << 40)]),
            large_file(worker, "large", &parts),
        ];
        directory(worker, made)
    });
    let zeros = |len| vec![0; len];
    vec![
        ("empty", vec![]),
        ("small", b"hello".to_vec()),
        ("mapped", [&a[..], &b, &c].concat()),
        ("sparse", [zeros(4096), c.clone(), zeros(100_000), b.clone()].concat()),
        ("large", [a, zeros(51_500), b, c].concat()),
    ]
}

fn open(vfs: &Vfs, name: &str) -> u64 {
    vfs.open(walk(vfs, &format!("{ROOT}/{name}")).unwrap().ino).unwrap()
}

#[test]
fn bytes_come_back_from_every_offset() {
    let bench = Bench::new();
    let shapes = shapes(&bench);
    let vfs = bench.vfs();
    for (name, bytes) in &shapes {
        let handle = open(&vfs, name);
        let len = bytes.len() as u64;
        for offset in [0, 1, 4095, 4096, 4099, 99_999, 100_000, 149_999, 151_500, len.saturating_sub(1), len, len + 9] {
            for want in [0u32, 1, 5000, 200_000, u32::MAX] {
                let from = offset.min(len) as usize;
                let to = (offset + u64::from(want)).min(len) as usize;
                let got = vfs.read(handle, offset, want).unwrap();
                assert!(got[..] == bytes[from..to.max(from)], "{name} {offset} {want}");
            }
        }
        assert_eq!(vfs.read(handle, u64::MAX, 10).unwrap().len(), 0);
        vfs.release(handle);
        assert_eq!(vfs.read(handle, 0, 1), Err(Failure::Stale));
    }
    let hole = open(&vfs, "hole");
    assert_eq!(vfs.read(hole, 1 << 39, 4096).unwrap(), vec![0; 4096]);
    assert_eq!(bench.problems(), [""; 0]);
}

#[test]
fn holes_and_data_are_found_and_counted() {
    let bench = Bench::new();
    let shapes = shapes(&bench);
    let vfs = bench.vfs();
    let size = |name: &str| shapes.iter().find(|s| s.0 == name).unwrap().1.len() as u64;
    /// Offset, and where data and hole are found from there.
    type Found = (u64, Option<u64>, Option<u64>);
    let cases: [(&str, &[Found]); 5] = [
        ("empty", &[(0, None, None)]),
        ("small", &[(0, Some(0), Some(5)), (4, Some(4), Some(5)), (5, None, None)]),
        ("sparse", &[(0, Some(4096), Some(0)), (4097, Some(4097), Some(4099)), (4099, Some(104_099), Some(4099))]),
        (
            "large",
            &[
                (10, Some(10), Some(100_000)),
                (120_000, Some(151_500), Some(120_000)),
                (151_500, Some(151_500), Some(size("large"))),
            ],
        ),
        ("hole", &[(0, None, Some(0)), (5, None, Some(5)), (1 << 40, None, None)]),
    ];
    for (name, seeks) in cases {
        let handle = open(&vfs, name);
        for &(offset, data, hole) in seeks {
            assert_eq!(vfs.seek(handle, offset, Seek::Data).ok(), data, "{name} {offset}");
            assert_eq!(vfs.seek(handle, offset, Seek::Hole).ok(), hole, "{name} {offset}");
        }
    }
    for (name, data) in
        [("empty", 0), ("small", 5), ("mapped", 170_003), ("sparse", 70_003), ("large", 170_003), ("hole", 0u64)]
    {
        let found = walk(&vfs, &format!("{ROOT}/{name}")).unwrap();
        assert_eq!(found.blocks, data.div_ceil(512), "{name}");
        assert_eq!(vfs.attributes(found.ino).unwrap(), found);
    }
}

#[test]
fn files_that_share_a_map_keep_their_own_bytes() {
    let bench = Bench::new();
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|seed| noise(seed, 1000));
    bench.snapshot(0, &[], |worker| {
        let one = mapped_file(worker, "one", &[Bit::Bytes(&a), Bit::Bytes(&b)]);
        let two = mapped_file(worker, "two", &[Bit::Bytes(&c), Bit::Bytes(&d)]);
        assert_eq!(one.1.children[0], two.1.children[0]);
        directory(worker, vec![one, two])
    });
    let vfs = bench.vfs();
    for (name, bytes) in [("one", [a, b].concat()), ("two", [c, d].concat())] {
        assert!(vfs.read(open(&vfs, name), 0, 9999).unwrap() == bytes);
    }
}

#[test]
fn damage_fails_the_file_that_has_it_and_is_told_once() {
    let bench = Bench::new();
    bench.snapshot(0, &[], |worker| {
        let made = ["bad", "good"].map(|name| small_file(worker, name, &noise(name, 300_000)));
        let mut short = small_file(worker, "short", b"12345");
        short.0.metadata.kind = NodeKind::File { size: 6 };
        let absent = BlobId::from_bytes([9; 32]);
        let gone = entry("gone", NodeKind::File { size: 1 }, TreeKind::File, vec![absent]);
        let below = dir_entry("dir", absent);
        directory(worker, [made.to_vec(), vec![short, gone, below]].concat())
    });
    let vfs = bench.vfs();
    let good = open(&vfs, "good");
    assert!(vfs.read(good, 0, 10).is_ok());
    let bad = open(&vfs, "bad");
    bench.fault.add(Rule::on(Verb::GetRange, "pack/").effect(Effect::Corrupt).times(2));
    for _ in 0..2 {
        assert_eq!(vfs.read(bad, 0, 4096), Err(Failure::Unreadable));
    }
    assert_eq!(bench.problems().len(), 1, "{:?}", bench.problems());
    assert!(bench.problems()[0].starts_with(&format!("{ROOT}/bad: pack/")), "{:?}", bench.problems());
    assert!(vfs.read(good, 200_000, 4096).is_ok());
    assert_eq!(vfs.read(bad, 0, 4096).unwrap(), noise("bad", 300_000)[..4096], "damage is not remembered");

    for name in ["short", "gone"] {
        assert_eq!(vfs.read(open(&vfs, name), 0, 10), Err(Failure::Unreadable), "{name}");
    }
    let dir = walk(&vfs, &format!("{ROOT}/dir")).unwrap().ino;
    assert_eq!(vfs.lookup(dir, b"x"), Err(Failure::Unreadable));
    assert_eq!(bench.problems().len(), 4, "{:?}", bench.problems());
}

#[test]
fn one_slow_read_does_not_hold_up_others() {
    let bench = Bench::new();
    let made = ["slow", "quick"];
    bench.snapshot(0, &[], |worker| {
        let made = made.map(|name| small_file(worker, name, &noise(name, 300_000)));
        directory(worker, made.to_vec())
    });
    let vfs = bench.vfs();
    let (slow, quick) = (open(&vfs, "slow"), open(&vfs, "quick"));
    assert!(vfs.read(quick, 0, 1).is_ok());
    bench.fault.add(Rule::on(Verb::GetRange, "pack/").effect(Effect::Delay(Duration::from_millis(1500))).times(1));
    let begun = std::time::Instant::now();
    std::thread::scope(|scope| {
        let reads: Vec<_> = (0..3).map(|_| scope.spawn(|| vfs.read(slow, 0, 300_000).unwrap())).collect();
        std::thread::sleep(Duration::from_millis(100));
        assert!(vfs.read(quick, 0, 300_000).is_ok());
        assert!(walk(&vfs, &format!("{ROOT}/slow")).is_ok());
        assert!(begun.elapsed() < Duration::from_millis(1000), "{:?}", begun.elapsed());
        for read in reads {
            assert!(read.join().unwrap() == noise("slow", 300_000));
        }
    });
    assert!(begun.elapsed() >= Duration::from_millis(1500));
}

#[test]
fn reading_on_fetches_the_next_chunk() {
    let bench = Bench::new();
    let chunks: Vec<Vec<u8>> = (0..4).map(|n| noise(&n.to_string(), 200_000)).collect();
    bench.snapshot(0, &[], |worker| {
        let bits: Vec<Bit<'_>> = chunks.iter().map(|c| Bit::Bytes(c)).collect();
        let file = mapped_file(worker, "file", &bits);
        directory(worker, vec![file])
    });
    let vfs = bench.vfs();
    let handle = open(&vfs, "file");
    vfs.read(handle, 0, 50_000).unwrap();
    let calls = bench.fault.calls();
    vfs.read(handle, 50_000, 50_000).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while bench.fault.calls() == calls {
        assert!(std::time::Instant::now() < deadline, "nothing was read ahead");
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut offset = 100_000;
    while offset < 800_000 {
        let bytes = vfs.read(handle, offset as u64, 50_000).unwrap();
        assert!(bytes[..] == chunks.concat()[offset..offset + 50_000]);
        offset += 50_000;
    }
    // Each chunk is fetched once, whoever did it.
    assert_eq!(bench.fault.calls(), calls + 3);
}

#[test]
fn a_hole_among_the_lengths_of_parts_is_refused() {
    let bench = Bench::new();
    let a = noise("a", 1000);
    bench.snapshot(0, &[], |worker| {
        let parts: [&[Bit<'_>]; 2] = [&[Bit::Bytes(&a)], &[Bit::Hole(500)]];
        let mut large = large_file(worker, "large", &parts);
        large.1.children[0] = store_map(worker, vec![Run::Data(1000), Run::Hole(500)]);
        directory(worker, vec![large])
    });
    let vfs = bench.vfs();
    let large = walk(&vfs, &format!("{ROOT}/large")).unwrap();
    assert_eq!(vfs.open(large.ino), Err(Failure::Unreadable));
    let view = bench.repo.view().unwrap();
    let reader = crate::repo::Reader::new(Arc::clone(&bench.repo), view.index, 1 << 20);
    let large = reader.entries(&view.snapshots[0].graph.root.unwrap()).unwrap().remove(0);
    let refused = reader.each_piece(&large, &mut |_| Ok(())).unwrap_err().to_string();
    assert!(refused.contains("large") && refused.contains("parts"), "{refused}");
}
