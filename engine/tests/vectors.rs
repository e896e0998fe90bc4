//! Golden vectors of the pure layer: what a repository's bytes rest on, frozen in `vectors/*.json`.
//!
//! They are in the repository so that a stranger's reader can be checked, and so that a dependency that changes its mind is
//! noticed before a repository is written with it. All bytes are lower-case hex; all inputs are said by rule.
//!
//! - `xwing.json` is the draft's own.
//! - `crypto.json` and `chunker.json` were written by the ignored test `write_vectors`
//!   (`cargo test -p copal-engine --test vectors -- --ignored`) and checked by `vectors/check.py`, which computes every
//!   field of them once more in Python, with `blake3`, `cryptography` (AES-GCM, Ed25519, ML-KEM-768, X25519, SHA3) and
//!   `argon2-cffi`, and the chunker from the paper's text. Only what that script agrees to may be committed.

use std::path::PathBuf;

use copal_engine::chunker::{Chunker, Cuts, Params, Table};
use copal_engine::crypto::kdf::{Argon2Params, RecoveryCode, derive_passphrase};
use copal_engine::crypto::kem::{ReadPublic, ReadSecret, Stanza, encapsulate, seal_to};
use copal_engine::crypto::rng::{Rng, SeededRng};
use copal_engine::crypto::secret::Secret;
use copal_engine::crypto::sign::{SigningKey, VerifyingKey};
use copal_engine::crypto::{aead, hash};
use copal_engine::id::{hex, unhex};
use serde_json::{Value, json};

const CONTEXT: &str = "copal 2026 vectors";

fn vectors(file: &str) -> Value {
    let text = std::fs::read_to_string(path(file)).expect("the vectors are in the repository");
    serde_json::from_str(&text).expect("the vectors are JSON")
}

fn path(file: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "vectors", file].iter().collect()
}

fn bytes(value: &Value) -> Vec<u8> {
    let text = value.as_str().expect("hex in a string");
    let mut bytes = vec![0; text.len() / 2];
    unhex(text, &mut bytes).expect("lower-case hex");
    bytes
}

fn secret(value: &Value) -> Secret {
    Secret::from_bytes(bytes(value).try_into().expect("32 bytes"))
}

/// Gives out the bytes it was made with, and no more.
struct Fixed(Vec<u8>);

impl Rng for Fixed {
    fn fill(&mut self, out: &mut [u8]) {
        let rest = self.0.split_off(out.len());
        out.copy_from_slice(&self.0);
        self.0 = rest;
    }
}

#[test]
fn xwing_is_that_of_the_draft() {
    let file = vectors("xwing.json");
    let list = file["vectors"].as_array().unwrap();
    assert_eq!(list.len(), 3);
    for vector in list {
        assert_eq!(vector["seed"], vector["sk"]);
        let read = ReadSecret::from_seed(secret(&vector["seed"]));
        assert_eq!(hex(read.public().as_bytes()), vector["pk"]);
        let public = ReadPublic::from_bytes(&bytes(&vector["pk"])).unwrap();
        let mut rng = Fixed(bytes(&vector["eseed"]));
        let (ciphertext, shared) = encapsulate(&public, &mut rng);
        assert!(rng.0.is_empty(), "all 64 bytes are drawn");
        assert_eq!(hex(&ciphertext[..]), vector["ct"]);
        assert_eq!(hex(shared.expose()), vector["ss"]);
        assert_eq!(read.decapsulate(&ciphertext), shared);
    }
}

#[test]
fn crypto_is_frozen() {
    let file = vectors("crypto.json");
    assert_eq!(crypto(), file, "a primitive changed: no repository could be read any more");

    // And the frozen bytes open: the readers' side, from the file alone.
    let mut sealed = bytes(&file["aead"]["sealed"]);
    assert_eq!(hex(aead::open_in_place(&secret(&file["aead"]["key"]), &mut sealed).unwrap()), file["aead"]["text"]);
    let read = ReadSecret::from_seed(secret(&file["stanza"]["read_seed"]));
    let stanza = Stanza::from_bytes(&bytes(&file["stanza"]["stanza"]).try_into().unwrap());
    assert_eq!(read.open_stanza(CONTEXT, &stanza), Ok(secret(&file["stanza"]["secret"])));
    let key = VerifyingKey::from_bytes(&bytes(&file["sign"]["public"]).try_into().unwrap()).unwrap();
    let signature = bytes(&file["sign"]["signature"]).try_into().unwrap();
    assert_eq!(key.verify(CONTEXT, &bytes(&file["sign"]["message"]), &signature), Ok(()));
    let code = RecoveryCode::parse(file["recovery_code"]["text"].as_str().unwrap()).unwrap();
    assert_eq!(code.key(), secret(&file["recovery_code"]["key"]));
}

#[test]
fn chunker_is_frozen() {
    let file = vectors("chunker.json");
    let now = chunker();
    assert_eq!(now["table"], file["table"], "the gear table changed");
    for (now, frozen) in now["cuts"].as_array().unwrap().iter().zip(file["cuts"].as_array().unwrap()) {
        assert_eq!(now, frozen, "cuts changed: no duplicate would be found in older repositories");
    }
    assert_eq!(now, file);
}

#[test]
#[ignore = "writes vectors/crypto.json and vectors/chunker.json: run vectors/check.py after it"]
fn write_vectors() {
    for (file, value) in [("crypto.json", crypto()), ("chunker.json", chunker())] {
        let text = serde_json::to_string_pretty(&value).unwrap();
        std::fs::write(path(file), text + "\n").unwrap();
    }
}

/// 32 bytes for the vectors: BLAKE3 of the label.
fn labelled(label: &str) -> Secret {
    Secret::from_bytes(hash::blake3(&[label.as_bytes()]))
}

fn crypto() -> Value {
    json!({
        "rule": "every key and seed is BLAKE3 of the ASCII label next to it; context is the KDF or signature context",
        "context": CONTEXT,
        "hash": hashes(),
        "aead": sealed(),
        "stanza": stanza(),
        "sign": signed(),
        "argon2id": passphrase(),
        "recovery_code": recovery_code(),
    })
}

fn hashes() -> Value {
    let key = labelled("hash key");
    let parts: [&[u8]; 3] = [b"type", b"", b"plaintext"];
    let mut stream = [0; 100];
    hash::keystream(&key, b"label", &mut stream);
    json!({
        "key_label": "hash key",
        "key": hex(key.expose()),
        "parts": parts.map(hex),
        "derive": hex(hash::derive(CONTEXT, &parts).expose()),
        "keyed": hex(&hash::keyed(&key, &parts)),
        "keyed_secret": hex(hash::keyed_secret(&key, &parts).expose()),
        "blake3": hex(&hash::blake3(&parts)),
        "keystream_label": hex(b"label"),
        "keystream": hex(&stream),
        "seeded_rng_seed": hex(b"seed"),
        "seeded_rng": hex(&copal_engine::crypto::rng::draw::<40>(&mut SeededRng::new("seed"))),
    })
}

fn sealed() -> Value {
    let key = labelled("aead key");
    let text = b"one key seals one text";
    let mut buf = text.to_vec();
    aead::seal(&key, &mut buf);
    json!({ "key_label": "aead key", "key": hex(key.expose()), "text": hex(text), "sealed": hex(&buf) })
}

fn stanza() -> Value {
    let (seed, inner) = (labelled("read seed"), labelled("sealed secret"));
    let eseed = [labelled("eseed 0"), labelled("eseed 1")].map(|part| *part.expose()).concat();
    let read = ReadSecret::from_seed(seed.clone());
    let stanza = seal_to(read.public(), &mut Fixed(eseed.clone()), CONTEXT, &inner);
    json!({
        "read_seed_label": "read seed",
        "read_seed": hex(seed.expose()),
        "eseed_labels": ["eseed 0", "eseed 1"],
        "eseed": hex(&eseed),
        "secret_label": "sealed secret",
        "secret": hex(inner.expose()),
        "public": hex(read.public().as_bytes()),
        "recipient": hex(&read.public().fingerprint()),
        "shared": hex(read.decapsulate(&stanza.ciphertext).expose()),
        "stanza": hex(&stanza.to_bytes()),
    })
}

fn signed() -> Value {
    let seed = labelled("signing seed");
    let key = SigningKey::from_seed(seed.clone());
    let message = b"the message";
    json!({
        "seed_label": "signing seed",
        "seed": hex(seed.expose()),
        "public": hex(key.verifying().as_bytes()),
        "fingerprint": hex(&key.verifying().fingerprint()),
        "message": hex(message),
        "signature": hex(&key.sign(CONTEXT, message)),
    })
}

fn passphrase() -> Value {
    let salt: [u8; 16] = labelled("salt").expose()[..16].try_into().unwrap();
    let params = Argon2Params::DEFAULT;
    let key = derive_passphrase("pässphrase".as_bytes(), &salt, params).unwrap();
    json!({
        "salt_label": "salt",
        "salt": hex(&salt),
        "passphrase": hex("pässphrase".as_bytes()),
        "memory_kib": params.memory_kib,
        "passes": params.passes,
        "lanes": params.lanes,
        "key": hex(key.expose()),
    })
}

fn recovery_code() -> Value {
    let key = labelled("recovery key");
    let code = RecoveryCode::generate(&mut Fixed(key.expose().to_vec()));
    json!({ "key_label": "recovery key", "key": hex(key.expose()), "text": *code.text() })
}

/// The inputs: `noise` is the BLAKE3 extended output of the label; `letters` maps each byte of it to `etaoin s`[byte & 7];
/// `period` repeats its first 4099 bytes; `zero` is zeros; `mixed` is noise with the second quarter zero, and the last
/// quarter a copy of the first.
fn chunker_input(kind: &str, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(b"chunker vectors").finalize_xof().fill(&mut bytes);
    let quarter = len / 4;
    match kind {
        "noise" => {}
        "letters" => bytes.iter_mut().for_each(|byte| *byte = b"etaoin s"[usize::from(*byte & 7)]),
        "period" => (4099..len).for_each(|i| bytes[i] = bytes[i - 4099]),
        "zero" => bytes.fill(0),
        "mixed" => {
            bytes[quarter..2 * quarter].fill(0);
            bytes.copy_within(..quarter, 3 * quarter);
        }
        kind => panic!("no rule for {kind}"),
    }
    bytes
}

fn chunker() -> Value {
    let key = labelled("d_chunk");
    let mut words = [0; 2048];
    hash::keystream(&key, b"copal 2026 gear table v1", &mut words);
    let table = words.as_chunks().0.iter().map(|word| format!("{:016x}", u64::from_le_bytes(*word)));
    let sizes = [
        Params::with_average(1 << 20).unwrap(),
        Params::DEFAULT,
        Params::with_average(64 << 10).unwrap(),
        Params::new(8 << 10, 64 << 10, 300 << 10, 0).unwrap(),
        Params::new(32 << 10, 128 << 10, 256 << 10, 2).unwrap(),
        Params::new(16 << 10, 64 << 10, 1 << 20, 3).unwrap(),
    ];
    let kinds = ["noise", "letters", "period", "zero", "mixed"];
    let cuts = sizes.iter().flat_map(|params| kinds.map(|kind| cuts(&key, params, kind)));
    json!({
        "rule": "d_chunk is BLAKE3 of the ASCII label; inputs are by the rules of chunker_input in vectors.rs; lengths of chunks in order",
        "input_label": "chunker vectors",
        "d_chunk_label": "d_chunk",
        "d_chunk": hex(key.expose()),
        "table": table.collect::<Vec<_>>(),
        "cuts": cuts.collect::<Vec<_>>(),
    })
}

fn cuts(key: &Secret, params: &Params, kind: &str) -> Value {
    // Larger chunks get more bytes; odd, so that the end of input is off the scan's pairs of bytes.
    let len = (params.avg() as usize * 12).min(12 << 20) + 12_345;
    let input = chunker_input(kind, len);
    let chunker = Chunker::new(*params, Table::derive(key));
    let mut cuts = Cuts::new(&chunker, &input[..]);
    let mut lengths = Vec::new();
    while let Some(chunk) = cuts.next_chunk().unwrap() {
        lengths.push(chunk.len());
    }
    json!({
        "input": kind,
        "input_len": len,
        "min": params.min(),
        "avg": params.avg(),
        "max": params.max(),
        "normalization": params.normalization(),
        "lengths": lengths.iter().map(usize::to_string).collect::<Vec<_>>().join(" "),
    })
}
