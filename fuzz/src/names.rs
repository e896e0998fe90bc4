//! Keys, ids and addresses as a LIST or a command line brings them: what is accepted is safe as a path, and has one text.

use std::ffi::OsStr;
use std::fmt::{Debug, Display};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};
use std::str::FromStr;

use copal_engine::compress::Level;
use copal_engine::crypto::kdf::RecoveryCode;
use copal_engine::crypto::secret::Secret;
use copal_engine::crypto::sign::SigningKey;
use copal_engine::format::attestation::Attestation;
use copal_engine::format::bundle::{Bundle, Role};
use copal_engine::format::objects::{self, Parsed};
use copal_engine::id::{BlobId, SessionId, SlotId, WriterId, hex, parse_number};
use copal_engine::store::probe::Verdict;
use copal_engine::store::url::Location;
use copal_engine::store::{KEY_BYTES_MAX, Key};

/// All of them see every text.
pub fn run(bytes: &[u8]) {
    location(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    key(text);
    object(text);
    one_text::<BlobId>(text);
    one_text::<SlotId>(text);
    one_text::<SessionId>(text);
    one_text::<WriterId>(text);
    if let Ok(number) = parse_number(text) {
        assert_eq!(format!("{number:016x}"), text);
    }
    words(text);
    secrets(text);
    attestation(text);
}

/// A statement that the owner signed, whatever it says.
fn attestation(text: &str) {
    let root = SigningKey::from_seed(Secret::from_bytes([1; 32]));
    let signature = hex(&root.sign("copal 1 attestation", text.as_bytes()));
    let text = format!("{text}signature {signature}\n");
    if let Ok(attestation) = Attestation::decode(&text, &root.verifying()) {
        assert_eq!(attestation.encode(&root), text);
    }
}

fn key(text: &str) {
    let Ok(key) = Key::new(text) else { return };
    assert_eq!(key.as_str(), text);
    assert!(text.len() <= KEY_BYTES_MAX && text.ends_with(key.name()));
    assert!(Path::new(text).components().all(|part| matches!(part, Component::Normal(_))), "leaves its directory");
}

fn object(text: &str) {
    let Some(parsed) = objects::parse(text) else { return };
    let again = match parsed {
        Parsed::Config(n) => objects::config(n),
        Parsed::Base(n) => objects::base(n),
        Parsed::Verdict(n) => objects::verdict(n),
        Parsed::Slot(id) => objects::slot(id),
        Parsed::Pin(w, s) => objects::pin(w, s),
        Parsed::Ack(w, s, generation) => objects::ack(w, s, generation),
        Parsed::Condemn(generation) => objects::condemn(generation),
        Parsed::Fence(generation) => objects::fence(generation),
        Parsed::Sweep(generation) => objects::sweep(generation),
        Parsed::Forget(n) => objects::forget(n),
        Parsed::Snapshot(w, s) => objects::snapshot(w, s),
        Parsed::Pack(w, s, seq, id) => objects::pack(w, s, seq, id),
        Parsed::Segment(w, s, n, id) => objects::segment(w, s, n, id),
    };
    assert_eq!(again, text, "an object has two names");
    assert!(Key::new(again).is_ok());
}

fn one_text<T: FromStr + Display + Debug>(text: &str) {
    if let Ok(id) = text.parse::<T>() {
        assert_eq!(id.to_string(), text, "{id:?} has two texts");
    }
}

/// What is shown can be typed, and means the same.
fn location(bytes: &[u8]) {
    let Ok(location) = Location::parse(OsStr::from_bytes(bytes)) else { return };
    let shown = location.to_string();
    if std::str::from_utf8(bytes).is_ok() {
        let again: Location = shown.parse().unwrap_or_else(|e| panic!("{shown:?}: {e}"));
        assert_eq!(again, location, "{shown:?}");
    }
}

fn words(text: &str) {
    if let Ok(level) = text.parse::<Level>() {
        assert!(level.zstd() <= 22);
    }
    if let Some(role) = Role::parse(text) {
        assert_eq!(role.as_str(), text);
    }
    if let Some(verdict) = Verdict::from_word(text) {
        assert_eq!(verdict.word(), text);
    }
}

fn secrets(text: &str) {
    if let Ok(code) = RecoveryCode::parse(text) {
        let again = RecoveryCode::parse(&code.text()).expect("its own text");
        assert_eq!(again.key().expose(), code.key().expose());
    }
    if let Ok(bundle) = Bundle::from_text(text) {
        let again = Bundle::from_text(&bundle.to_text()).expect("its own text");
        assert_eq!(*again.encode(), *bundle.encode());
    }
}
