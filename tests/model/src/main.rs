//! Placeholder replaced below.
fn main() {
    let which: Vec<String> = std::env::args().skip(1).collect();
    if which.first().is_some_and(|w| w == "mutants") {
        for rule in copal_protocol_model::mutants::RULES { if which.len()>1 && !which.iter().any(|w| w==rule.id) {continue;}
            let clean = copal_protocol_model::run::check(&rule.config, 2, 20_000_000);
            let mut config = rule.config.clone();
            config.mutant = Some(rule.mutant);
            let o = copal_protocol_model::run::check(&config, 2, 20_000_000);
            let f=|o: &copal_protocol_model::run::Outcome| o.failed.iter().map(|f| format!("{} {:?}", f.property, f.path)).collect::<Vec<_>>();
 println!("{} {:?}: clean {} {} {:.1}s {:?}; mutant {} {:.1}s {:?}", rule.id, rule.mutant, clean.complete, clean.states, clean.took.as_secs_f32(), f(&clean), o.states, o.took.as_secs_f32(), f(&o));
        }
        return;
    }
    for config in copal_protocol_model::run::configurations() {
        if which.is_empty() || which.iter().any(|w| w == config.name) {
            println!("{:?}", copal_protocol_model::run::check(&config, 2, 100_000_000));
        }
    }
}
