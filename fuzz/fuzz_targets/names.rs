//! Keys and ids as a LIST or a command line brings them: what is accepted is safe as a path, and has exactly one text.
#![no_main]

use std::fmt::{Debug, Display};
use std::path::{Component, Path};
use std::str::FromStr;

use copal_engine::id::{BlobId, SessionId, SlotId, parse_number};
use copal_engine::store::{KEY_BYTES_MAX, Key};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    key(text);
    one_text::<BlobId>(text);
    one_text::<SlotId>(text);
    one_text::<SessionId>(text);
    if let Ok(number) = parse_number(text) {
        assert_eq!(format!("{number:016x}"), text);
    }
});

fn key(text: &str) {
    let Ok(key) = Key::new(text) else { return };
    assert_eq!(key.as_str(), text);
    assert!(text.len() <= KEY_BYTES_MAX && text.ends_with(key.name()));
    assert!(Path::new(text).components().all(|part| matches!(part, Component::Normal(_))), "leaves its directory");
}

fn one_text<T: FromStr + Display + Debug>(text: &str) {
    if let Ok(id) = text.parse::<T>() {
        assert_eq!(id.to_string(), text, "{id:?} has two texts");
    }
}
