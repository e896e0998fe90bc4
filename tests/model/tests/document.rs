//! docs/protocol.md and the code hold the same rules, word for word and in the same order.

use std::collections::HashSet;

use copal_protocol_model::mutants::RULES;
use copal_protocol_model::run::configurations;

const DOCUMENT: &str = include_str!("../../../docs/protocol.md");

#[test]
fn the_document_lists_the_rules_of_the_code() {
    let (_, rest) = DOCUMENT.split_once("<!-- rules -->").expect("the list of rules begins with a marker");
    let (list, _) = rest.split_once("<!-- /rules -->").expect("the list of rules ends with a marker");
    let documented: Vec<&str> = list.lines().filter(|line| line.starts_with("- **")).collect();
    let coded: Vec<String> = RULES.iter().map(|rule| format!("- **{}** {}", rule.id, rule.text)).collect();
    assert_eq!(documented, coded);
}

#[test]
fn the_document_counts_the_states_of_every_configuration() {
    for config in configurations() {
        let row = format!("| `{}` |", config.name);
        assert!(DOCUMENT.contains(&row), "docs/protocol.md has no row {row}");
    }
}

#[test]
fn every_rule_has_a_number_and_a_mutant_of_its_own() {
    let ids: HashSet<_> = RULES.iter().map(|rule| rule.id).collect();
    let mutants: HashSet<_> = RULES.iter().map(|rule| rule.mutant).collect();
    assert_eq!((ids.len(), mutants.len()), (RULES.len(), RULES.len()));
}
