//! The world of a schedule: its store, its time, and whose turn it is.
//!
//! One actor runs at a time. When nothing of it can go on ([`Bridge::single`] tells), the next event of anybody is drawn: a call
//! of the store that takes effect and is answered, or a wait that ends. So a schedule is a function of its seed.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::mpsc::Sender;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use copal_engine::format::objects::{self, Parsed};
use copal_engine::store::Key;
use copal_engine::store::memory::Memory;
use tokio::sync::oneshot;

use crate::ask::{Answer, Answered, Ask};
use crate::book::Book;
use crate::dice::{DAY, Dice, Plan, SECOND};
use crate::mutants::{Forge, Mutant};

/// Whom an answer goes to.
pub enum Tell {
    Task(oneshot::Sender<Answered>),
    /// An actor between its processes.
    Thread(Sender<()>),
}

struct Pending {
    id: u64,
    actor: usize,
    ask: Ask,
    /// It took effect, and its answer is on the way.
    answer: Option<Answered>,
    tell: Tell,
}

#[derive(Debug, Clone, Default)]
pub struct Actor {
    pub name: String,
    /// Its process died; what it still asks is refused.
    pub dead: bool,
    /// It does not go on before that.
    asleep: Duration,
    /// Calls that still fail.
    pub storm: u32,
    /// How far its time of day is off, in seconds.
    pub skew: i64,
    /// Sessions that it has opened, as keys name them.
    pub pins: Vec<String>,
    /// How often it goes on, beside the others.
    weight: usize,
    ended: bool,
}

/// What is counted of a schedule.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    pub ops: u64,
    pub failed: u64,
    pub late: u64,
    pub crashes: u64,
    pub sleeps: u64,
}

pub struct State {
    pub plan: Plan,
    pub dice: Dice,
    pub memory: Memory,
    pub mutant: Option<Mutant>,
    /// What mutants seal with.
    pub forge: Option<Forge>,
    pub now: Duration,
    pub actors: Vec<Actor>,
    pub book: Book,
    /// Keys in the order in which they were created.
    pub created: Vec<Key>,
    pub counts: Counts,
    pub flipped: Vec<Key>,
    /// A base came late, perhaps below the newest one, which does not follow it: `check` and the judge call that damage.
    pub late_base: bool,
    trace: DefaultHasher,
    /// The last events, for who looks into a failure.
    pub log: VecDeque<String>,
    running: usize,
    pending: Vec<Pending>,
    next_id: u64,
    /// Writes that arrive at their time, whoever waits for them.
    pub late: Vec<(Duration, Ask)>,
    /// LISTs that may still be short.
    pub short_lists: u32,
}

/// Nobody: before the first actor begins.
const NOBODY: usize = usize::MAX;
const LOG_LINES: usize = 4000;

pub struct World(Mutex<State>);

/// What is over at its first poll, as all of [`Memory`] is.
pub fn at_once<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("a store in memory waits for nothing"),
    }
}

impl World {
    pub fn new(plan: Plan, memory: Memory, book: Book, names: Vec<String>, mutant: Option<Mutant>) -> Self {
        let mut dice = Dice::new(plan.seed ^ 0x0123_4567_89ab_cdef);
        let actor = |name| Actor { name, weight: *dice.pick(&[1, 3, 10, 10, 30]), ..Actor::default() };
        let actors = names.into_iter().map(actor).collect();
        Self(Mutex::new(State {
            dice,
            memory,
            mutant,
            forge: None,
            now: Duration::ZERO,
            actors,
            book,
            created: Vec::new(),
            counts: Counts::default(),
            flipped: Vec::new(),
            late_base: false,
            trace: DefaultHasher::new(),
            log: VecDeque::new(),
            running: NOBODY,
            pending: Vec::new(),
            next_id: 0,
            late: Vec::new(),
            short_lists: plan.short_lists,
            plan,
        }))
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the next event come to pass, if it is this actor's turn; it cannot go on by itself. Asked under the lock: an answer
    /// may have come while this was waited for, from whoever had the turn before.
    pub fn step(&self, actor: usize, is_idle: &dyn Fn() -> bool) {
        let mut state = self.lock();
        // A process that died goes on to its end, and nobody else before that.
        if state.running == actor && !state.actors[actor].dead && is_idle() {
            state.step();
        }
    }

    /// The first event.
    pub fn begin(&self) {
        self.lock().step();
    }

    /// The actor waits for its next process.
    pub fn rest(&self, actor: usize) {
        let mut state = self.lock();
        assert_eq!(state.running, actor, "only who runs can rest");
        state.step();
    }

    /// The actor's process is over, however it ended: nothing that it left on its way is waited for.
    pub fn leave(&self, actor: usize) {
        let mut state = self.lock();
        state.actors[actor].dead = true;
        let (own, others) = std::mem::take(&mut state.pending).into_iter().partition(|p| p.actor == actor);
        state.pending = others;
        let own: Vec<Pending> = own;
        for Pending { ask, answer, tell, .. } in own {
            if answer.is_none() {
                state.may_arrive(actor, ask.clone());
            }
            deliver(tell, Err(ask.dies()));
        }
    }

    /// The actor does nothing any more.
    pub fn end(&self, actor: usize) {
        let mut state = self.lock();
        state.actors[actor].ended = true;
        assert_eq!(state.running, actor, "only who runs can end");
        state.step();
    }
}

impl State {
    pub fn note(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.log.len() == LOG_LINES {
            self.log.pop_front();
        }
        let line = line(self);
        line.hash(&mut self.trace);
        self.log.push_back(line);
    }

    /// How many objects of each kind were created.
    pub fn kinds(&self) -> BTreeMap<&'static str, u64> {
        let mut kinds = BTreeMap::new();
        for key in &self.created {
            let kind = match objects::parse(key.as_str()) {
                Some(Parsed::Pin(..)) => "pins",
                Some(Parsed::Ack(..)) => "acks",
                Some(Parsed::Snapshot(..)) => "snapshots and tombstones",
                Some(Parsed::Pack(..)) => "packs",
                Some(Parsed::Segment(..)) => "segments",
                Some(Parsed::Condemn(_)) => "condemns",
                Some(Parsed::Sweep(_)) => "sweeps",
                Some(Parsed::Base(_)) => "bases",
                Some(Parsed::Forget(_)) => "forgets",
                _ => "others",
            };
            *kinds.entry(kind).or_default() += 1;
        }
        kinds
    }

    /// Of all that came to pass.
    pub fn trace(&self) -> u64 {
        self.trace.finish()
    }

    /// The answer is told once its turn has come; the number of the call.
    pub fn ask(&mut self, actor: usize, ask: Ask, tell: Tell) -> u64 {
        if let Ask::PutNew(key, _) = &ask
            && let Some(name) = key.as_str().strip_prefix("pin/")
        {
            self.actors[actor].pins.push(name.to_owned());
        }
        self.next_id += 1;
        self.pending.push(Pending { id: self.next_id, actor, ask, answer: None, tell });
        self.next_id
    }

    /// Nobody waits for it any more; what is on its way to the store may arrive.
    pub fn give_up(&mut self, id: u64) {
        let Some(at) = self.pending.iter().position(|p| p.id == id) else { return };
        let Pending { actor, ask, answer: None, .. } = self.pending.remove(at) else { return };
        self.may_arrive(actor, ask);
    }

    fn is_ready(&self, p: &Pending) -> bool {
        let waits = matches!(p.ask, Ask::Wait(until) if until > self.now);
        !waits && self.actors[p.actor].asleep <= self.now
    }

    /// Time goes on to the first thing that it brings.
    fn pass_time(&mut self) {
        let of_pending = self.pending.iter().map(|p| {
            let asleep = self.actors[p.actor].asleep;
            match p.ask {
                Ask::Wait(until) => until.max(asleep),
                _ => asleep,
            }
        });
        let next = of_pending.chain(self.late.iter().map(|(at, _)| *at)).filter(|at| *at > self.now).min();
        self.now = next.expect("something was waited for");
    }

    fn step(&mut self) {
        if self.actors.iter().all(|a| a.ended) {
            self.running = NOBODY;
            return;
        }
        loop {
            self.arrive();
            let ready: Vec<usize> = (0..self.pending.len()).filter(|n| self.is_ready(&self.pending[*n])).collect();
            let waits = ready.len() < self.pending.len();
            if ready.is_empty() || (waits && self.dice.in_thousand(15)) {
                self.pass_time();
                continue;
            }
            let at = self.choose(&ready);
            if self.go_on(at) {
                return;
            }
        }
    }

    /// Whose turn it is, then with what.
    fn choose(&mut self, ready: &[usize]) -> usize {
        let of = |state: &Self, n: usize| state.pending[n].actor;
        let goes_on = ready.iter().any(|n| of(self, *n) == self.running);
        let actor = if goes_on && self.dice.in_thousand(self.plan.sticks) {
            self.running
        } else {
            let mut actors: Vec<usize> = ready.iter().map(|n| of(self, *n)).collect();
            actors.sort_unstable();
            actors.dedup();
            let all: usize = actors.iter().map(|a| self.actors[*a].weight).sum();
            let mut drawn = self.dice.below(all);
            let chosen = actors.into_iter().find(|a| match drawn.checked_sub(self.actors[*a].weight) {
                Some(rest) => {
                    drawn = rest;
                    false
                }
                None => true,
            });
            chosen.expect("the draw is below the sum")
        };
        let own: Vec<usize> = ready.iter().copied().filter(|n| of(self, *n) == actor).collect();
        *self.dice.pick(&own)
    }

    /// One event takes place; whether somebody goes on by it.
    fn go_on(&mut self, at: usize) -> bool {
        let (actor, id) = (self.pending[at].actor, self.pending[at].id);
        let latency = self.plan.latency;
        self.now += latency.mul_f64(self.dice.below(200) as f64 / 100.0);
        if self.pending[at].answer.is_none() {
            self.counts.ops += 1;
            if self.dice.in_thousand(self.plan.jumps) {
                let far = self.dice.spread(SECOND, DAY * 20_000).as_secs() as i64;
                self.actors[actor].skew = if self.dice.below(2) == 0 { far } else { -far };
            }
            let ask = self.pending[at].ask.clone();
            // Between two reads one moment is as good as another.
            let weight = if ask.is_write() { 6 } else { 1 };
            if ask.verb().is_some() && self.dice.in_thousand(self.plan.crashes * weight / 2) {
                self.crash(actor, id);
                return true;
            }
            if self.falls_asleep(actor, weight) && self.dice.below(2) == 0 {
                return false;
            }
            let answer = self.answer(actor, &ask);
            self.note(|s| {
                let how = match &answer {
                    Ok(Answer::Page(page)) => format!("{} keys", page.objects.len()),
                    Ok(_) => "ok".into(),
                    Err(e) => format!("{e}"),
                };
                format!("{:>12.1} {:10} {} -> {how}", s.now.as_secs_f64(), s.actors[actor].name, ask.what())
            });
            if self.actors[actor].asleep > self.now {
                self.pending[at].answer = Some(answer);
                return false;
            }
            self.pending[at].answer = Some(answer);
        }
        let Pending { answer, tell, .. } = self.pending.remove(at);
        self.running = actor;
        deliver(tell, answer.expect("it was put there"));
        true
    }

    /// Whether its machine is suspended now, for minutes or months.
    fn falls_asleep(&mut self, actor: usize, weight: u32) -> bool {
        let sleeps = self.dice.in_thousand(self.plan.sleeps * weight / 2);
        if sleeps {
            self.counts.sleeps += 1;
            let long = self.dice.spread(SECOND * 20, DAY * 200);
            self.actors[actor].asleep = self.now + long;
            self.note(|s| format!("{:>12} {} sleeps for {} s", "", s.actors[actor].name, long.as_secs()));
        }
        sleeps
    }

    /// The process ends at one of its calls; each that was on its way may have come through, or may yet.
    fn crash(&mut self, actor: usize, id: u64) {
        self.counts.crashes += 1;
        self.actors[actor].dead = true;
        self.note(|s| format!("{:>12.1} {} dies", s.now.as_secs_f64(), s.actors[actor].name));
        self.running = actor;
        let (own, others) = std::mem::take(&mut self.pending).into_iter().partition(|p| p.actor == actor);
        self.pending = others;
        let mut own: Vec<Pending> = own;
        own.sort_by_key(|p| p.id != id);
        for p in own {
            if p.answer.is_none() {
                self.may_arrive(actor, p.ask.clone());
            }
            let answer = if matches!(p.ask, Ask::Wait(_)) { Ok(Answer::Done) } else { Err(p.ask.dies()) };
            deliver(p.tell, answer);
        }
    }
}

fn deliver(tell: Tell, answer: Answered) {
    match tell {
        // Who waited may be gone: its process was dropped.
        Tell::Task(sender) => drop(sender.send(answer)),
        Tell::Thread(sender) => drop(sender.send(())),
    }
}
