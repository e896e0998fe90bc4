//! Every decoder of a text that stands inside a seal, by number: what fuzzing and the tests below feed.
//!
//! Seals keep strangers out, not a lying writer or maintainer: these decoders see hostile bytes too.

use super::base::Base;
use super::bundle::Bundle;
use super::config::Config;
use super::gc;
use super::meta::{Map, Meta};
use super::pack::{self, Header, Table};
use super::slot::Slot;
use super::snapshot::{GraphPart, NamesPart, Stored};
use super::tree::Tree;
use super::verdict::Verdict;

/// How many decoders there are.
pub const DECODERS: u8 = 14;

/// Decodes `text` with decoder `n`, and encodes what came out: it must be `text` again, whatever it was. `None`: refused, or
/// the decoded value has no plain encoding to compare with.
pub fn decode_and_encode(n: u8, text: &[u8]) -> Option<Vec<u8>> {
    match n % DECODERS {
        0 => Tree::decode(text).ok().map(|v| v.encode()),
        1 => Meta::decode(text).ok().map(|v| v.encode()),
        2 => Map::decode(text).ok().map(|v| v.encode()),
        3 => GraphPart::decode(text).ok().map(|v| v.encode()),
        4 => NamesPart::decode(text).ok().map(|v| v.encode()),
        5 => Slot::decode(text).ok().map(|v| v.encode()),
        6 => Bundle::decode(text).ok().map(|v| v.encode().to_vec()),
        7 => Table::decode(text, pack::TABLE_STEP).ok().map(|v| v.encode()),
        8 => Header::decode(text).ok().map(|(v, len)| [&v.encode(), &text[len..]].concat()),
        9 => {
            let _ = Stored::decode(text);
            None
        }
        10 => {
            let _ = Base::read(text);
            None
        }
        11 => Verdict::from_bytes(text).ok().map(|v| v.to_bytes()),
        12 => {
            gc::fuzz_texts(text);
            None
        }
        _ => {
            let _ = Config::read(text);
            let _ = Bundle::from_text(&String::from_utf8_lossy(text));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Mostly small numbers, as counts and lengths are: random bytes alone end at the first of them.
        #[test]
        fn no_text_panics_or_has_a_second_encoding(
            n in 0..DECODERS,
            text in proptest::collection::vec(prop_oneof![4 => 0u8..4, 1 => any::<u8>()], 0..400),
        ) {
            if let Some(again) = decode_and_encode(n, &text) {
                prop_assert_eq!(again, text);
            }
        }
    }
}
