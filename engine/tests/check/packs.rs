//! Packs that a broken or lying writer stored under their right hash (I6, I7).

use copal_engine::crypto::secret::Secret;
use copal_engine::format::blob::BlobKind;
use copal_engine::format::tree::TreeKind;
use copal_engine::id::BlobId;
use copal_engine::ops::check::Invariant::{I4, I5, I6, I7};
use copal_engine::ops::check::{Place, Read};

use crate::bench::{Bench, hurts, invariants, only};
use crate::forge::{Forge, entry, file};

#[test]
fn a_sound_forgery_is_sound() {
    let bench = Bench::new();
    let mut forge = Forge::new(&bench);
    let root = forge.one_file("x", b"y");
    forge.store(root);
    assert_eq!(bench.check(Read::All).findings, []);
}

/// All blobs are there and open: nothing is hurt, but the pack is not as it must be.
#[test]
fn signature_padding_and_commitments_count() {
    let changes: [fn(&mut Forge<'_>); 5] = [
        |forge| forge.pack_signer = Secret::from_bytes([66; 32]),
        |forge| forge.pack = |pack, padding| pack[padding.start + 5] ^= 1,
        |forge| forge.header = |header| header.origins[0].graph[3] ^= 1,
        |forge| forge.header = |header| header.origins[0].content[3] ^= 1,
        |forge| forge.header = |header| header.origins[0].stanza.ciphertext[3] ^= 1,
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let bench = Bench::new();
        let mut forge = Forge::new(&bench);
        change(&mut forge);
        let root = forge.one_file("x", b"y");
        let forged = forge.store(root);
        assert_eq!(bench.check(Read::Nothing).findings, [], "bytes are only looked at when they are read");
        let report = bench.check(Read::All);
        only(&report, &forged.pack, &[I6]);
        assert_eq!(hurts(&report), bench.unrestorable(), "change {n}");
        assert!(hurts(&report).is_empty());
    }
}

#[test]
fn the_index_says_what_the_table_says() {
    let bench = Bench::new();
    let mut forge = Forge::new(&bench);
    let data = forge.blob(BlobKind::Data, b"content".to_vec());
    // One blob is listed at another place than it lies, and one that the pack does not hold.
    forge.entries = |entries| {
        let wrong = entries.iter_mut().find(|e| e.kind == BlobKind::Data).unwrap();
        wrong.offset += 1;
        let invented = copal_engine::format::blob::Entry { id: BlobId::from_bytes([0xaa; 32]), ..*wrong };
        entries.push(invented);
    };
    let invented = BlobId::from_bytes([0xaa; 32]);
    let entries = vec![entry(TreeKind::File, vec![data]), entry(TreeKind::File, vec![invented])];
    let root = forge.directory(vec![file("a", 7), file("b", 7)], entries);
    let forged = forge.store(root);
    let report = bench.check(Read::All);
    let finding = only(&report, &forged.pack, &[I6]);
    assert!(finding.hurts.iter().any(|h| h.place == Place::Path(b"/a".to_vec())));
    assert_eq!(bench.unrestorable().len(), 2);

    // Only the invented one.
    let bench = Bench::new();
    let mut forge = Forge::new(&bench);
    let data = forge.blob(BlobKind::Data, b"content".to_vec());
    forge.entries = |entries| {
        let known = *entries.iter().find(|e| e.kind == BlobKind::Data).unwrap();
        entries.push(copal_engine::format::blob::Entry { id: BlobId::from_bytes([0xaa; 32]), ..known });
    };
    let entries = vec![entry(TreeKind::File, vec![data]), entry(TreeKind::File, vec![invented])];
    let root = forge.directory(vec![file("a", 7), file("b", 7)], entries);
    let forged = forge.store(root);
    let report = bench.check(Read::All);
    only(&report, &forged.pack, &[I6]);
    assert_eq!(hurts(&report), [(forged.snapshot, b"/b".to_vec())].into());
    assert_eq!(hurts(&report), bench.unrestorable());
}

#[test]
fn a_blob_has_the_bytes_of_its_id() {
    let bench = Bench::new();
    let mut forge = Forge::new(&bench);
    let good = forge.blob(BlobKind::Data, b"good".to_vec());
    let bad = forge.blob_as(BlobId::from_bytes([0xbb; 32]), BlobKind::Data, b"evil".to_vec());
    let entries = vec![entry(TreeKind::File, vec![good]), entry(TreeKind::File, vec![bad])];
    let root = forge.directory(vec![file("bad", 4), file("good", 4)].into_iter().rev().rev().collect(), entries);
    let forged = forge.store(root);
    assert_eq!(bench.check(Read::Nothing).findings, [], "content is only looked at when it is read");
    let report = bench.check(Read::All);
    let finding = only(&report, &forged.pack, &[I7]);
    assert_eq!(finding.blobs, 1);
    assert_eq!(hurts(&report), [(forged.snapshot, b"/good".to_vec())].into());
    assert_eq!(hurts(&report), bench.unrestorable());
    assert_eq!(report.broken_packs.len(), 1);
}

#[test]
fn a_second_sound_copy_keeps_files_whole() {
    let bench = Bench::new();
    let mut liar = Forge::new(&bench);
    let content = b"the same content".to_vec();
    let id = {
        let mut probe = Forge::new(&bench);
        probe.blob(BlobKind::Data, content.clone())
    };
    liar.blob_as(id, BlobKind::Data, b"something else!!".to_vec());
    let root = liar.directory(vec![file("f", 16)], vec![entry(TreeKind::File, vec![id])]);
    let lied = liar.store(root);
    let report = bench.check(Read::All);
    only(&report, &lied.pack, &[I7]);
    assert_eq!(hurts(&report).len(), 1);

    let mut honest = Forge::new(&bench);
    honest.n = 51;
    let root = honest.one_file("g", &content);
    honest.store(root);
    let report = bench.check(Read::All);
    only(&report, &lied.pack, &[I7]);
    assert!(hurts(&report).is_empty() && bench.unrestorable().is_empty(), "the other copy serves both");
}

#[test]
fn a_tree_that_lies_is_found_without_reading_everything() {
    let bench = Bench::new();
    let mut forge = Forge::new(&bench);
    let fake = forge.blob_as(BlobId::from_bytes([0xcc; 32]), BlobKind::Tree, b"no tree".to_vec());
    let forged = forge.store(fake);
    let report = bench.check(Read::Nothing);
    only(&report, &forged.pack, &[I5]);
    assert_eq!(hurts(&report), [(forged.snapshot, b"/".to_vec())].into());
    let report = bench.check(Read::All);
    assert_eq!(invariants(&report.findings[0]), [I5, I7]);
    assert!(report.findings.iter().all(|f| !invariants(f).contains(&I4)));
}
