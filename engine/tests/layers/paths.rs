//! Reads just enough Rust to know which paths of its own crate a file names: tokens, and trees of `use`.
//!
//! Comments, strings, and what is compiled for tests only do not count. Paths inside macros do.

/// One path that a file names, made absolute: `["store", "Key"]` for `crate::store::Key`, or for `super::Key` below `store`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    /// Segments behind `crate`; the last may be `*`.
    pub(crate) path: Vec<String>,
    /// The name it has from here on: the last segment, or what stands behind `as`.
    pub(crate) name: String,
    /// Line in the file, from 1.
    pub(crate) line: usize,
}

/// What one file holds.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// Paths that start with `crate`, `super` or `self`.
    pub(crate) named: Vec<Named>,
    /// What `pub use` at the top of the file hands on, whatever its path starts with.
    pub(crate) handed_on: Vec<Named>,
    /// Modules in files of their own that are compiled for tests only.
    pub(crate) test_modules: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind<'a> {
    Word(&'a str),
    /// `::`
    PathSeparator,
    Mark(char),
}

#[derive(Debug, Clone, Copy)]
struct Token<'a> {
    kind: Kind<'a>,
    line: usize,
}

/// Reads `source`, the file of module `module` (empty for the crate's root).
pub(crate) fn read(source: &str, module: &[String]) -> Contents {
    let tokens = tokens(source);
    let mut contents = Contents::default();
    let mut scopes = vec![(0, module.to_vec())];
    let (mut i, mut depth) = (0, 0);
    while i < tokens.len() {
        let here = &scopes.last().expect("the file's own scope is never popped").1;
        match tokens[i].kind {
            Kind::Mark('#') if is_test_attribute(&tokens[i..]) => {
                i = skip_item(&tokens, i, &mut contents.test_modules);
                continue;
            }
            Kind::Word("mod") if kind(&tokens, i + 2) == Some(Kind::Mark('{')) => {
                if let Some(Kind::Word(name)) = kind(&tokens, i + 1) {
                    let inner = [here.as_slice(), &[name.to_owned()]].concat();
                    scopes.push((depth + 1, inner));
                }
            }
            Kind::Word("use") if depth == 0 && is_public(&tokens[..i]) => {
                let mut found = Vec::new();
                tree(&tokens, i + 1, Vec::new(), &mut found);
                contents.handed_on.extend(found.into_iter().filter_map(|n| absolute(n, module)));
            }
            Kind::Word("crate" | "super" | "self") if starts_path(&tokens, i) => {
                let mut found = Vec::new();
                i = tree(&tokens, i, Vec::new(), &mut found);
                contents.named.extend(found.into_iter().filter_map(|n| absolute(n, here)));
                continue;
            }
            Kind::Mark('{') => depth += 1,
            Kind::Mark('}') => {
                if scopes.len() > 1 && scopes.last().is_some_and(|(start, _)| *start == depth) {
                    scopes.pop();
                }
                depth -= 1;
            }
            _ => {}
        }
        i += 1;
    }
    contents
}

/// Whether `source` names something of the crate `name`: the bare word may be a variable.
pub(crate) fn names_crate(source: &str, name: &str) -> bool {
    let tokens = tokens(source);
    (0..tokens.len()).any(|i| tokens[i].kind == Kind::Word(name) && starts_path(&tokens, i))
}

fn kind<'a>(tokens: &[Token<'a>], i: usize) -> Option<Kind<'a>> {
    tokens.get(i).map(|t| t.kind)
}

/// `crate::x`, not the `crate` of `pub(crate)` nor the `self` of `a::{self}`.
fn starts_path(tokens: &[Token<'_>], i: usize) -> bool {
    let behind_separator = i > 0 && tokens[i - 1].kind == Kind::PathSeparator;
    kind(tokens, i + 1) == Some(Kind::PathSeparator) && !behind_separator
}

fn is_public(before: &[Token<'_>]) -> bool {
    let before = match before {
        [head @ .., Token { kind: Kind::Mark('('), .. }, _, Token { kind: Kind::Mark(')'), .. }] => head,
        all => all,
    };
    before.last().is_some_and(|t| t.kind == Kind::Word("pub"))
}

/// `#[cfg(test)]` and its like (`all(test, unix)`), but not `not(test)`.
fn is_test_attribute(tokens: &[Token<'_>]) -> bool {
    if kind(tokens, 1) != Some(Kind::Mark('[')) || kind(tokens, 2) != Some(Kind::Word("cfg")) {
        return false;
    }
    let inside = tokens.iter().skip(3).take_while(|t| t.kind != Kind::Mark(']'));
    let words: Vec<_> = inside.map(|t| t.kind).collect();
    words.contains(&Kind::Word("test")) && !words.contains(&Kind::Word("not"))
}

/// The index behind the item whose attribute starts at `i`; a module without a body is noted.
fn skip_item(tokens: &[Token<'_>], mut i: usize, test_modules: &mut Vec<String>) -> usize {
    let mut depth = 0;
    while i < tokens.len() {
        match tokens[i].kind {
            Kind::Word("mod") if depth == 0 && kind(tokens, i + 2) == Some(Kind::Mark(';')) => {
                if let Some(Kind::Word(name)) = kind(tokens, i + 1) {
                    test_modules.push(name.to_owned());
                }
            }
            Kind::Mark('{') => depth += 1,
            Kind::Mark('}') if depth == 1 => return i + 1,
            Kind::Mark('}') => depth -= 1,
            Kind::Mark(';') if depth == 0 => return i + 1,
            _ => {}
        }
        i += 1;
    }
    i
}

/// Reads the tree of paths that starts at token `i`, adds its leaves to `found`, returns the index behind it.
fn tree(tokens: &[Token<'_>], mut i: usize, mut path: Vec<String>, found: &mut Vec<Named>) -> usize {
    while let Some(token) = tokens.get(i) {
        match token.kind {
            Kind::Word(word) => path.push(word.to_owned()),
            Kind::Mark('*') => path.push("*".to_owned()),
            Kind::Mark('{') => return branches(tokens, i + 1, &path, found),
            _ => break,
        }
        i += 1;
        if kind(tokens, i) != Some(Kind::PathSeparator) {
            break;
        }
        i += 1;
    }
    if let (Some(last), Some(token)) = (path.last().cloned(), tokens.get(i.saturating_sub(1))) {
        let mut name = last;
        if let (Some(Kind::Word("as")), Some(Kind::Word(alias))) = (kind(tokens, i), kind(tokens, i + 1)) {
            name = alias.to_owned();
            i += 2;
        }
        found.push(Named { path, name, line: token.line });
    }
    i
}

/// What stands between braces, up to and with the closing one.
fn branches(tokens: &[Token<'_>], mut i: usize, path: &[String], found: &mut Vec<Named>) -> usize {
    while let Some(token) = tokens.get(i) {
        match token.kind {
            Kind::Mark('}') => return i + 1,
            Kind::Mark(',') => i += 1,
            // Always at least one token further, so that odd text cannot hold the loop.
            _ => i = tree(tokens, i, path.to_vec(), found).max(i + 1),
        }
    }
    i
}

/// `named` with `crate`, `self` and `super` resolved as seen from module `here`; `None` where it leaves the crate's root.
fn absolute(mut named: Named, here: &[String]) -> Option<Named> {
    let mut path: Vec<String> = Vec::new();
    for (at, segment) in named.path.iter().enumerate() {
        match segment.as_str() {
            "crate" => path.clear(),
            "self" if at == 0 => path = here.to_vec(),
            "self" => {}
            "super" if at == 0 => path = here.split_last()?.1.to_vec(),
            "super" => drop(path.pop()?),
            _ => path.push(segment.clone()),
        }
    }
    if named.name == "self" {
        named.name = path.last()?.clone();
    }
    (!path.is_empty()).then_some(Named { path, ..named })
}

/// Words, `::` and single marks; comments, strings and characters are left out.
fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    let (mut rest, mut line) = (source, 1);
    while let Some(c) = rest.chars().next() {
        let (used, token) = next_token(rest, c);
        if let Some(kind) = token {
            found.push(Token { kind, line });
        }
        line += rest[..used].matches('\n').count();
        rest = &rest[used..];
    }
    found
}

/// Length of what `rest` starts with, and the token if it is one.
fn next_token(rest: &str, c: char) -> (usize, Option<Kind<'_>>) {
    if rest.starts_with("//") {
        return (rest.find('\n').unwrap_or(rest.len()), None);
    }
    if rest.starts_with("/*") {
        return (block_comment(rest), None);
    }
    if let Some(length) = string(rest) {
        return (length, None);
    }
    if rest.starts_with("::") {
        return (2, Some(Kind::PathSeparator));
    }
    if c == '\'' {
        return (character(rest), None);
    }
    let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    if word > 0 {
        return (word, Some(Kind::Word(&rest[..word])));
    }
    (c.len_utf8(), (!c.is_whitespace()).then_some(Kind::Mark(c)))
}

/// Length of a block comment; they nest.
fn block_comment(rest: &str) -> usize {
    let (mut at, mut depth) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

/// Length of a string literal of any kind, if `rest` starts with one.
fn string(rest: &str) -> Option<usize> {
    let letters = ["br", "cr", "b", "c", "r", ""].into_iter().find(|p| rest.starts_with(p))?;
    let hashes = rest[letters.len()..].bytes().take_while(|b| *b == b'#').count();
    let open = letters.len() + hashes;
    if rest.as_bytes().get(open) != Some(&b'"') || (hashes > 0 && !letters.ends_with('r')) {
        return None;
    }
    let body = &rest[open + 1..];
    if letters.ends_with('r') {
        let end = format!("\"{}", "#".repeat(hashes));
        return Some(open + 1 + body.find(&end).map_or(body.len(), |at| at + end.len()));
    }
    let mut escaped = false;
    for (at, c) in body.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(open + 1 + at + 1),
            _ => {}
        }
    }
    Some(rest.len())
}

/// Length of a character literal, or 1 for the mark of a lifetime.
fn character(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => {
            chars.next();
            chars.find(|(_, c)| *c == '\'').map_or(1, |(at, _)| at + 1)
        }
        Some(_) => chars.next().filter(|(_, c)| *c == '\'').map_or(1, |(at, _)| at + 1),
        None => 1,
    }
}
