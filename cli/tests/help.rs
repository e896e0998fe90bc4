//! docs/cli.md holds the help of every command, word for word. `COPAL_UPDATE_DOCS=1 cargo test --test help` writes it anew.

mod common;

use std::fs;
use std::path::PathBuf;

use common::Place;

const BEGIN: &str = "<!-- help: from here on written by cli/tests/help.rs -->";

/// Commands as `copal -h` lists them, and those below them.
fn commands(place: &Place, above: &[&str]) -> Vec<Vec<String>> {
    let help = place.ok(&[above, &["-h"]].concat()).out;
    let list = help.split("\nCommands:\n").nth(1).unwrap_or_default().split("\n\n").next().unwrap_or_default();
    let names = list.lines().filter_map(|line| {
        let name = line.strip_prefix("  ")?;
        (!name.starts_with(' ')).then(|| name.split_whitespace().next().unwrap())
    });
    let mut all = Vec::new();
    for name in names.filter(|name| *name != "help") {
        let path: Vec<&str> = above.iter().copied().chain([name]).collect();
        all.push(path.iter().map(|word| word.to_string()).collect());
        all.extend(commands(place, &path));
    }
    all
}

fn generated(place: &Place) -> String {
    let clean = |text: String| text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
    let section = |title: &str, help: String| format!("\n## {title}\n\n```text\n{}\n```\n", clean(help).trim());
    let mut text = section("copal", place.ok(&["--help"]).out);
    for command in commands(place, &[]) {
        let words: Vec<&str> = command.iter().map(String::as_str).chain(["-h"]).collect();
        text.push_str(&section(&format!("copal {}", command.join(" ")), place.ok(&words).out));
    }
    text
}

#[test]
fn the_document_is_what_the_commands_say() {
    let place = Place::new();
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md");
    let text = fs::read_to_string(&path).unwrap();
    let (head, below) = text.split_once(BEGIN).expect("the mark stands in docs/cli.md");
    let expected = format!("\n{}", generated(&place));
    assert!(expected.matches("\n## ").count() > 20, "the list of commands was read");
    if std::env::var_os("COPAL_UPDATE_DOCS").is_some() {
        fs::write(&path, format!("{head}{BEGIN}{expected}")).unwrap();
        return;
    }
    assert!(below == expected, "docs/cli.md is behind: run COPAL_UPDATE_DOCS=1 cargo test -p copal --test help");
}

#[test]
fn manual_pages_and_completions_are_written() {
    let place = Place::new();
    place.ok(&["man", "--dir", "man"]);
    for page in ["copal.1", "copal-backup.1", "copal-key-export.1"] {
        assert!(place.path("man").join(page).exists(), "{page}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(place.ok(&["completions", shell]).out.contains("skip-if-unchanged"), "{shell}");
    }
}
