//! One schedule from its seed to its verdict, and many.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use copal_engine::store::memory::Memory;

use crate::actors::{Actor, Role, wait};
use crate::book::Book;
use crate::dice::{DAY, Dice, Plan, SECOND};
use crate::image::Images;
use crate::judge::{Case, Checked, Judged};
use crate::mutants::{Forge, Mutant};
use crate::world::{Counts, World};

/// No schedule takes so long: one that does hangs.
const HANGS: Duration = Duration::from_secs(120);

/// What came of a schedule.
pub struct Outcome {
    pub plan: Plan,
    pub judged: Judged,
    pub counts: Counts,
    pub book: Book,
    pub created: BTreeMap<&'static str, u64>,
    /// Of everything that came to pass, in its order.
    pub trace: u64,
    pub log: Vec<String>,
    /// As in [`crate::world::State`].
    pub late_base: bool,
    pub memory: Arc<Memory>,
}

impl Outcome {
    /// Everything that one needs to look into it.
    pub fn tell(&self) -> String {
        let last = self.log.iter().rev().take(2000).rev().cloned().collect::<Vec<_>>().join("\n");
        format!("{last}\n{:?}\nfaults: {:#?}\nleaks: {:#?}", self.plan, self.judged.faults, self.judged.leaks)
    }
}

/// Runs the schedule, and judges it unless `judge` is false.
pub fn run(images: &Images, seed: u64, mutant: Option<Mutant>, judge: bool) -> Outcome {
    let mut plan = Plan::draw(seed);
    if mutant.is_some() {
        plan.flips = 0;
    }
    let image = &images.images[plan.image];
    let memory = Memory::with_page(plan.page);
    memory.restore(image.objects.clone());
    memory.ignore_create_only(plan.overwrites);
    let roles = Role::of(&plan);
    let names = roles.iter().map(|role| role.name()).collect();
    let world = Arc::new(World::new(plan.clone(), memory, image.book.clone(), names, mutant));
    if mutant.is_some() {
        world.lock().forge = Some(Forge::new(&image.keys));
    }
    let cache = images.dir.path().join(format!("cache-{seed}-{}", mutant.is_some()));
    act(images, &world, &roles, &cache);
    let mut state = world.lock();
    state.arrive_all();
    let memory = Arc::new(Memory::new());
    memory.restore(state.memory.snapshot());
    memory.ignore_create_only(plan.overwrites);
    let flipped = !state.flipped.is_empty();
    let (book, late_base) = (state.book.clone(), state.late_base);
    let judged = if judge {
        let repo = Arc::new(images.open(memory.clone(), &image.keys.owner.0, &cache.join("judge")));
        let case = Case {
            images,
            image,
            book: &book,
            memory: memory.clone(),
            repo,
            flipped,
            late_base,
            lags: plan.image == 3,
        };
        let checked = [Checked::Before, Checked::Not, Checked::After, Checked::Not][(seed % 4) as usize];
        case.judge(checked)
    } else {
        Judged { faults: book.faults.clone(), leaks: Vec::new() }
    };
    let _ = fs::remove_dir_all(&cache);
    let log = state.log.iter().cloned().collect();
    let created = state.kinds();
    Outcome { judged, counts: state.counts, trace: state.trace(), log, memory, book, created, late_base, plan }
}

/// Lets everybody do what they do, until all have done it.
fn act(images: &Images, world: &Arc<World>, roles: &[Role], cache: &std::path::Path) {
    let plan = world.lock().plan.clone();
    let mut dice = Dice::new(plan.seed ^ 0xabcd);
    let keeps = dice.in_thousand(250);
    let starts: Vec<_> = (0..roles.len())
        .map(|n| {
            // Most at about the same time, some much later.
            let time = match dice.below(3) {
                0 if !plan.contested => dice.spread(SECOND, DAY * 3),
                _ => SECOND * dice.below(5) as u32,
            };
            wait(world, n, time)
        })
        .collect();
    let (ended, all_ended) = channel::<()>();
    std::thread::scope(|scope| {
        for ((number, role), first) in roles.iter().enumerate().zip(starts) {
            let actor = Actor {
                world: Arc::clone(world),
                images,
                image: &images.images[plan.image],
                role: *role,
                number,
                dice: Dice::new(plan.seed ^ (number as u64 + 1) << 40),
                cache: cache.join(number.to_string()),
                keeps,
            };
            let ended = ended.clone();
            std::thread::Builder::new()
                .spawn_scoped(scope, move || {
                    actor.run(plan.runs, first);
                    drop(ended);
                })
                .expect("a thread");
        }
        drop(ended);
        world.begin();
        // Every actor holds an end of the channel; it closes with the last of them.
        if all_ended.recv_timeout(HANGS) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            let log: Vec<String> = world.lock().log.iter().rev().take(60).rev().cloned().collect();
            eprintln!("schedule {} hangs after:\n{}\n{plan:?}", plan.seed, log.join("\n"));
            std::process::abort();
        }
    });
}

/// Sums over many schedules.
#[derive(Default)]
pub struct Totals {
    pub schedules: u64,
    pub counts: Counts,
    pub ends: BTreeMap<String, u64>,
    /// What was created, by its kind.
    pub created: BTreeMap<&'static str, u64>,
    pub failed: Vec<u64>,
    pub leaked: Vec<u64>,
    pub committed: u64,
    pub forgotten: u64,
}

impl Totals {
    fn add(&mut self, seed: u64, outcome: &Outcome) {
        self.schedules += 1;
        let (sum, one) = (&mut self.counts, &outcome.counts);
        sum.ops += one.ops;
        sum.failed += one.failed;
        sum.late += one.late;
        sum.crashes += one.crashes;
        sum.sleeps += one.sleeps;
        outcome.book.ends.iter().for_each(|(how, n)| *self.ends.entry(how.clone()).or_default() += n);
        outcome.created.iter().for_each(|(kind, n)| *self.created.entry(kind).or_default() += n);
        self.committed += outcome.book.attempts.iter().filter(|a| a.committed.is_some()).count() as u64;
        self.forgotten += outcome.book.count_forgotten();
        if !outcome.judged.faults.is_empty() {
            self.failed.push(seed);
        }
        if !outcome.judged.leaks.is_empty() {
            self.leaked.push(seed);
        }
    }
}

/// Runs `count` schedules from `first` on, with as many at once as there are cores; stops at `enough` failures.
pub fn many(images: &Images, first: u64, count: u64, mutant: Option<Mutant>, enough: usize) -> Totals {
    let next = AtomicU64::new(first);
    let totals = Mutex::new(Totals::default());
    // Two for each core: an actor that hands over to another leaves its core for a moment.
    let cores = std::thread::available_parallelism().map_or(1, usize::from) * 2;
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count || totals.lock().unwrap().failed.len() >= enough {
                        return;
                    }
                    let outcome = run(images, seed, mutant, true);
                    let wrong = !outcome.judged.faults.is_empty();
                    let mut totals = totals.lock().unwrap();
                    if wrong && mutant.is_none() {
                        eprintln!("=== seed {seed}: {:#?}", outcome.judged.faults);
                    }
                    totals.add(seed, &outcome);
                    if totals.schedules % 10_000 == 0 {
                        eprintln!("{} schedules so far, {} failed", totals.schedules, totals.failed.len());
                    }
                }
            });
        }
    });
    totals.into_inner().unwrap()
}
