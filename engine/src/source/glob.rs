//! One component of a path against one component of a pattern, as Go's filepath.Match does it (restic's patterns are
//! built on that): `*`, `?`, `[a-z]`, `[^a]`, `\` before a character that shall stand for itself.

use super::pattern::PatternError;

/// A compiled component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Glob {
    /// No special character: equal bytes.
    Literal(Vec<u8>),
    /// Anything else.
    Tokens(Vec<Token>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// `*`: any bytes, also none.
    Star,
    /// `?`: one character.
    One,
    /// This byte.
    Byte(u8),
    /// `[…]`: one character in (or, negated, outside) these ranges, both ends included.
    Class { negated: bool, ranges: Vec<(u32, u32)> },
}

/// Characters that make a component more than a literal (the set of restic).
pub(super) fn has_special(part: &[u8]) -> bool {
    part.iter().any(|b| b"\\[]*?".contains(b))
}

impl Glob {
    /// Compiles one component (no `/` in it). Errors: an open or empty `[`, a range without an end, a `\` at the end.
    pub(super) fn parse(part: &[u8]) -> Result<Self, PatternError> {
        if !has_special(part) {
            return Ok(Self::Literal(part.to_vec()));
        }
        let mut tokens = Vec::new();
        let mut rest = part;
        while let Some((&byte, tail)) = rest.split_first() {
            rest = tail;
            tokens.push(match byte {
                b'*' => Token::Star,
                b'?' => Token::One,
                b'[' => class(&mut rest)?,
                b'\\' => {
                    let (&escaped, tail) = rest.split_first().ok_or(PatternError::EscapeAtEnd)?;
                    rest = tail;
                    Token::Byte(escaped)
                }
                other => Token::Byte(other),
            });
        }
        tokens.dedup_by(|b, a| *a == Token::Star && *b == Token::Star);
        Ok(Self::Tokens(tokens))
    }

    /// Whether the whole of `name` matches. At most tokens times bytes steps.
    pub(super) fn matches(&self, name: &[u8]) -> bool {
        match self {
            Self::Literal(literal) => literal == name,
            Self::Tokens(tokens) => matches(tokens, name),
        }
    }
}

/// On a mismatch only the last `*` needs to take one byte more: what the earlier ones took was the least possible.
fn matches(tokens: &[Token], name: &[u8]) -> bool {
    let (mut t, mut n) = (0, 0);
    let mut star = None;
    while n < name.len() || t < tokens.len() {
        match tokens.get(t) {
            Some(Token::Star) => {
                star = Some((t + 1, n + 1));
                t += 1;
                continue;
            }
            Some(token) => {
                if let Some(len) = token.matches_prefix(&name[n..]) {
                    (t, n) = (t + 1, n + len);
                    continue;
                }
            }
            None => {}
        }
        match star {
            Some((after, from)) if from <= name.len() => {
                (t, n) = (after, from);
                star = Some((after, from + 1));
            }
            _ => return false,
        }
    }
    true
}

impl Token {
    /// How many bytes it takes from the front of `name`, if it matches there.
    fn matches_prefix(&self, name: &[u8]) -> Option<usize> {
        match self {
            Self::Star => None,
            Self::Byte(byte) => (name.first() == Some(byte)).then_some(1),
            Self::One => first_char(name).map(|(_, len)| len),
            Self::Class { negated, ranges } => {
                let (char, len) = first_char(name)?;
                let inside = ranges.iter().any(|&(low, high)| low <= char && char <= high);
                (inside != *negated).then_some(len)
            }
        }
    }
}

/// The rest of a class behind its `[`. As in Go a `-` or `]` in it needs a `\`, and only `^` negates.
fn class(rest: &mut &[u8]) -> Result<Token, PatternError> {
    let negated = rest.first() == Some(&b'^');
    if negated {
        *rest = &rest[1..];
    }
    let mut ranges = Vec::new();
    loop {
        if rest.first() == Some(&b']') && !ranges.is_empty() {
            *rest = &rest[1..];
            return Ok(Token::Class { negated, ranges });
        }
        let low = class_char(rest)?;
        let mut high = low;
        if rest.first() == Some(&b'-') {
            *rest = &rest[1..];
            high = class_char(rest)?;
        }
        ranges.push((low, high));
    }
}

fn class_char(rest: &mut &[u8]) -> Result<u32, PatternError> {
    match rest.first() {
        None | Some(b'-' | b']') => return Err(PatternError::BadClass),
        Some(b'\\') => *rest = &rest[1..],
        Some(_) => {}
    }
    let (char, len) = first_char(rest).ok_or(PatternError::BadClass)?;
    *rest = &rest[len..];
    Ok(char)
}

/// The first character and its length in bytes. A byte that begins no UTF-8 sequence is a character of its own, beyond
/// the range of Unicode so that it equals nothing but itself.
fn first_char(bytes: &[u8]) -> Option<(u32, usize)> {
    let first = *bytes.first()?;
    let head = &bytes[..bytes.len().min(4)];
    let valid = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(e) => std::str::from_utf8(&head[..e.valid_up_to()]).expect("valid up to there"),
    };
    Some(match valid.chars().next() {
        Some(char) => (u32::from(char), char.len_utf8()),
        None => (0x11_0000 + u32::from(first), 1),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_match(pattern: &[u8], name: &[u8]) -> bool {
        Glob::parse(pattern).unwrap().matches(name)
    }

    #[test]
    fn what_go_matches() {
        // From the table of Go's filepath.Match, without the rows that hold a `/`.
        let table: &[(&str, &str, bool)] = &[
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "abc", true),
            ("a*b*c*d*e*", "axbxcxdxe", true),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^b-d]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("a???b", "a☺b", false),
            ("a[^a][^a][^a]b", "a☺b", false),
            ("[a-ζ]*", "α", true),
            ("*[a-ζ]", "A", false),
            ("[\\]a]", "]", true),
            ("[\\-]", "-", true),
            ("[x\\-]", "x", true),
            ("[x\\-]", "z", false),
            ("[\\-x]", "-", true),
            ("[\\-x]", "a", false),
            ("*x", "xxx", true),
            ("*", "", true),
            ("?", "", false),
            ("**", "ab", true),
        ];
        for &(pattern, name, expected) in table {
            assert_eq!(is_match(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn what_go_refuses() {
        for bad in
            ["[]a]", "[-]", "[x-]", "[-x]", "[a-b-c]", "[", "[^", "[^bc", "a[", "\\", "a\\", "[\\", "[a-\\", "[]"]
        {
            assert!(Glob::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn bytes_that_are_no_text() {
        assert!(is_match(b"a?c", b"a\xffc"));
        assert!(is_match(b"a[\xff]c", b"a\xffc") && !is_match(b"a[\xfe]c", b"a\xffc"));
        assert!(is_match(b"\xe2*", b"\xe2\x98\xba"));
        assert!(!is_match(b"?", b"\xff\xff"));
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = b"*a".repeat(200);
        assert!(!is_match(&pattern, &b"a".repeat(199)));
    }

    /// The definition, word for word.
    fn oracle(tokens: &[Token], name: &[u8]) -> bool {
        match tokens.split_first() {
            None => name.is_empty(),
            Some((Token::Star, rest)) => (0..=name.len()).any(|taken| oracle(rest, &name[taken..])),
            Some((token, rest)) => token.matches_prefix(name).is_some_and(|len| oracle(rest, &name[len..])),
        }
    }

    proptest! {
        #[test]
        fn same_as_the_definition(pattern in "[ab*?]{0,8}|[ab*é?]{0,4}\\[\\^?[a-c]\\][b*]{0,3}", name in "[abcé]{0,8}") {
            let glob = Glob::parse(pattern.as_bytes()).unwrap();
            let expected = match &glob {
                Glob::Literal(literal) => literal == name.as_bytes(),
                Glob::Tokens(tokens) => oracle(tokens, name.as_bytes()),
            };
            prop_assert_eq!(glob.matches(name.as_bytes()), expected);
        }

        #[test]
        fn never_panics(pattern in prop::collection::vec(any::<u8>(), 0..20), name in prop::collection::vec(any::<u8>(), 0..20)) {
            if let Ok(glob) = Glob::parse(&pattern) {
                glob.matches(&name);
            }
        }
    }
}
