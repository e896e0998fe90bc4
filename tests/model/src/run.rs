//! The model as stateright sees it, the named configurations, and how one is checked.

use std::time::{Duration, Instant};

use stateright::{Checker, CheckerBuilder, HasDiscoveries, Model, Property};

use crate::config::{Config, First, Fold, WRITER_SESSIONS, each};
use crate::properties::properties;
use crate::state::State;
use crate::{executor, fold, writer};

/// The protocol under one configuration.
#[derive(Clone, Debug)]
pub struct Protocol {
    /// Who takes part.
    pub config: Config,
}

/// One atomic step of anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A writer process, by its number.
    Writer(u8, writer::Step),
    /// An executor, by its number.
    Executor(u8, executor::Step),
    /// The folder.
    Folder(fold::Step),
    /// Somebody forgets the snapshot of this session.
    Forget(u8),
    /// The put of this session's pack arrives late or again.
    LatePack(u8),
    /// The same of its segment.
    LateSegment(u8),
    /// The same of its snapshot, which is only created where nothing stands.
    LateSnapshot(u8),
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::initial(&self.config)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let config = &self.config;
        let mut steps = Vec::new();
        for p in 0..config.writers {
            writer::steps(config, state, p, &mut steps);
            actions.extend(steps.drain(..).map(|step| Action::Writer(p as u8, step)));
        }
        let mut steps = Vec::new();
        for e in 0..config.executors {
            executor::steps(config, state, e, &mut steps);
            actions.extend(steps.drain(..).map(|step| Action::Executor(e as u8, step)));
        }
        let mut steps = Vec::new();
        fold::steps(config, state, &mut steps);
        actions.extend(steps.into_iter().map(Action::Folder));
        if state.forgotten.count_ones() < config.forgets {
            actions.extend(each(state.live(config)).map(|s| Action::Forget(s as u8)));
        }
        if config.late {
            late(config, state, actions);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let config = &self.config;
        let mut state = last.clone();
        match action {
            Action::Writer(p, step) => writer::take(config, &mut state, p as usize, step),
            Action::Executor(e, step) => executor::take(config, &mut state, e as usize, step),
            Action::Folder(step) => fold::take(config, &mut state, step),
            Action::Forget(session) => {
                state.store.forgets |= 1 << session;
                state.forgotten |= 1 << session;
            }
            Action::LatePack(session) => state.store.packs |= 1 << (session + 1),
            Action::LateSegment(session) => state.store.segments |= 1 << session,
            Action::LateSnapshot(session) => state.store.snapshots |= 1 << session,
        }
        state.ended |= (state.store.snapshots | state.store.tombstones | state.store.base.dead) & WRITER_SESSIONS;
        state.named |= state.store.fenced();
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties(&self.config)
    }
}

/// Puts that were sent once and whose object does not stand.
fn late(config: &Config, state: &State, actions: &mut Vec<Action>) {
    let store = &state.store;
    for session in each(config.writer_sessions()) {
        let pack = session + 1;
        if store.blobs[pack] != 0 && store.packs & (1 << pack) == 0 {
            actions.push(Action::LatePack(session as u8));
        }
        if store.lists[session] != 0 && store.segments & (1 << session) == 0 {
            actions.push(Action::LateSegment(session as u8));
        }
        if state.sent & !store.snapshots & !store.tombstones & (1 << session) != 0 {
            actions.push(Action::LateSnapshot(session as u8));
        }
    }
}

/// What a check found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Distinct states visited.
    pub states: usize,
    /// Length of the longest shortest path.
    pub depth: usize,
    /// Time taken.
    pub took: Duration,
    /// Whether every reachable state was visited.
    pub complete: bool,
    /// Properties that failed: an `always` with a counterexample, a `sometimes` without an example.
    pub failed: Vec<Failure>,
}

/// A property that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its name.
    pub property: &'static str,
    /// The shortest way there, one action an element; empty where nothing reachable shows the property.
    pub path: Vec<String>,
}

/// Explores `config` breadth first until a property fails or everything was seen.
///
/// It stops after `states_max` states were generated, repetitions included (about five times the distinct ones).
///
/// A run that was cut at `states_max` says nothing about `sometimes` properties, so it reports none of them as failed.
pub fn check(config: &Config, threads: usize, states_max: usize) -> Outcome {
    let begun = Instant::now();
    outcome(builder(config, threads, states_max).spawn_bfs().join(), begun, states_max)
}

/// The same depth first: a failure is found sooner, by a longer path.
pub fn check_depth_first(config: &Config, threads: usize, states_max: usize) -> Outcome {
    let begun = Instant::now();
    outcome(builder(config, threads, states_max).spawn_dfs().join(), begun, states_max)
}

fn builder(config: &Config, threads: usize, states_max: usize) -> CheckerBuilder<Protocol> {
    Protocol { config: config.clone() }
        .checker()
        .threads(threads)
        .target_state_count(states_max)
        .finish_when(HasDiscoveries::AnyFailures)
}

fn outcome(checker: impl Checker<Protocol>, begun: Instant, states_max: usize) -> Outcome {
    let states = checker.unique_state_count();
    let complete = checker.state_count() < states_max;
    let mut failed = Vec::new();
    for property in checker.model().properties() {
        match (checker.discovery(property.name), property.expectation.discovery_is_failure()) {
            (Some(path), true) => {
                let path = path.into_actions().iter().map(|action| format!("{action:?}")).collect();
                failed.push(Failure { property: property.name, path });
            }
            (None, false) if complete => failed.push(Failure { property: property.name, path: Vec::new() }),
            _ => {}
        }
    }
    if failed.iter().any(|failure| !failure.path.is_empty()) {
        failed.retain(|failure| !failure.path.is_empty());
    }
    Outcome { states, depth: checker.max_depth(), took: begun.elapsed(), complete, failed }
}

/// The configurations that must be clean: the features of the protocol, alone and in pairs, roughly by size.
pub fn configurations() -> Vec<Config> {
    const ONE: Config = Config::SMALL;
    const TWO: Config = Config { writers: 2, ..ONE };
    const AGAIN: Config = Config { attempts: 2, crash: true, adopt: true, ..ONE };
    const PAIR: Config = Config { executors: 2, writers: 0, all_subsets: true, split: false, ..ONE };
    const PARTS: Config = Config { parts: true, writers: 2, shared_writer: true, ..ONE };
    const NAMED: Config = Config { by_name: true, late: true, ..ONE };
    const PLAIN: Config = Config { executors: 2, writers: 0, forgets: 0, ..ONE };
    vec![
        Config { name: "one", ..ONE },
        Config { name: "duplicates", all_subsets: true, split: false, forgets: 2, ..ONE },
        Config { name: "merge-chain", writers: 0, prunes: 2, rewrite: true, fold: Fold::Merge, ..ONE },
        Config { name: "lossy", losses: 1, short_lists: 1, unknown: true, prunes: 2, ..ONE },
        Config { name: "fold", fold: Fold::Plain, unfolded: true, forgets: 2, ..ONE },
        Config { name: "adopt", prunes: 2, ..AGAIN },
        Config { name: "late", late: true, prunes: 2, attempts: 2, ..ONE },
        Config { name: "two", ..TWO },
        Config { name: "two-crash", prune_crash: true, ..TWO },
        Config { name: "two-short", short_lists: 1, ..TWO },
        Config { name: "two-lossy", losses: 1, unknown: true, late: true, ..TWO },
        Config { name: "shared", shared_writer: true, forgets: 2, ..TWO },
        Config { name: "late-fold", late: true, fold: Fold::Plain, prunes: 2, ..ONE },
        Config { name: "merge", fold: Fold::Merge, unfolded: true, ..ONE },
        Config { name: "merge-rewrite", fold: Fold::Merge, rewrite: true, ..ONE },
        Config { name: "adopt-late", late: true, prunes: 2, forgets: 2, ..AGAIN },
        Config { name: "adopt-fold", fold: Fold::Plain, forgets: 2, ..AGAIN },
        Config { name: "adopt-short", short_lists: 1, losses: 1, prunes: 2, ..AGAIN },
        Config { name: "two-fold", fold: Fold::Plain, ..TWO },
        Config { name: "two-prunes", prunes: 2, ..TWO },
        Config { name: "two-adopt", ..Config { writers: 2, ..AGAIN } },
        Config { name: "shared-adopt", shared_writer: true, ..Config { writers: 2, ..AGAIN } },
        Config { name: "three", writers: 3, ..ONE },
        Config { name: "pair", ..PAIR },
        Config { name: "pair-crash", prune_crash: true, ..PAIR },
        Config { name: "pair-prunes", prunes: 2, ..PAIR },
        Config { name: "pair-leaves", prunes: 2, leaves: true, ..PAIR },
        Config { name: "pair-rewrite", prunes: 2, rewrite: true, ..PLAIN },
        Config { name: "pair-merge", prunes: 2, fold: Fold::Merge, ..PLAIN },
        Config { name: "pair-repack", prunes: 2, leaves: true, repack: true, ..PLAIN },
        Config { name: "pair-late", first: First::Fenced, writers: 1, late: true, prunes: 2, leaves: true, ..PLAIN },
        Config { name: "beside", executors: 2, ..ONE },
        Config { name: "beside-adopt", first: First::Fenced, attempts: 2, adopt: true, executors: 2, ..ONE },
        Config { name: "parts", ..PARTS },
        Config { name: "parts-prunes", prunes: 2, ..PARTS },
        Config { name: "parts-crash", prune_crash: true, ..PARTS },
        Config { name: "parts-rewrite", rewrite: true, prunes: 2, ..PARTS },
        Config { name: "parts-fold", fold: Fold::Plain, unfolded: true, forgets: 2, ..PARTS },
        Config { name: "parts-lossy", losses: 1, unknown: true, late: true, ..PARTS },
        Config { name: "parts-again", attempts: 2, crash: true, ..PARTS },
        Config { name: "parts-named", by_name: true, late: true, ..PARTS },
        Config { name: "named", prunes: 2, ..NAMED },
        Config { name: "named-crash", prunes: 2, prune_crash: true, ..NAMED },
        Config { name: "named-again", attempts: 2, ..NAMED },
        Config { name: "named-builds", first: First::Crashed, attempts: 2, prunes: 2, prune_crash: true, ..NAMED },
        Config { name: "named-short", first: First::Crashed, attempts: 2, short_lists: 1, ..NAMED },
        Config { name: "named-lossy", losses: 1, unknown: true, prunes: 2, ..NAMED },
        Config { name: "named-adopt", prunes: 2, by_name: true, ..AGAIN },
        Config { name: "named-adopt-late", first: First::Crashed, late: true, prunes: 2, by_name: true, ..AGAIN },
        Config { name: "named-repack", repack: true, rewrite: true, prunes: 2, forgets: 0, prune_crash: true, ..NAMED },
        Config { name: "named-two", writers: 2, ..NAMED },
        Config { name: "named-two-crash", writers: 2, prune_crash: true, late: false, ..NAMED },
        Config { name: "named-two-again", first: First::Crashed, writers: 2, attempts: 2, ..NAMED },
        Config { name: "named-shared", shared_writer: true, writers: 2, ..NAMED },
    ]
}
