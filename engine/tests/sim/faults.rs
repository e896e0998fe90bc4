//! What the store does with a call: what it should, or what goes wrong with it.

use std::time::Duration;

use copal_engine::store::{Key, Page, Store};

use crate::ask::{Answer, Answered, Ask};
use crate::dice::{DAY, SECOND};
use crate::world::{State, at_once};

impl State {
    pub fn may_arrive(&mut self, actor: usize, ask: Ask) {
        if ask.is_write() {
            match self.dice.below(3) {
                1 => drop(self.apply(&ask)),
                2 if self.may_be_late(actor) => self.arrives_late(ask),
                _ => {}
            }
        }
    }

    /// Where puts overwrite, one prune at a time means that nothing of an earlier one is under way.
    fn may_be_late(&self, actor: usize) -> bool {
        !(self.plan.overwrites && self.actors[actor].name.starts_with("pruner"))
    }

    pub fn arrives_late(&mut self, ask: Ask) {
        let at = self.now + self.dice.spread(SECOND, DAY * 100);
        self.counts.late += 1;
        self.late.push((at, ask));
    }

    /// Everything that was late, in the order of its time.
    pub fn arrive_all(&mut self) {
        self.now += DAY * 1000;
        self.arrive();
    }

    pub fn arrive(&mut self) {
        let now = self.now;
        let mut due: Vec<(Duration, Ask)> = Vec::new();
        self.late.retain(|(at, ask)| {
            if *at <= now {
                due.push((*at, ask.clone()));
            }
            *at > now
        });
        due.sort_by_key(|(at, _)| *at);
        for (_, ask) in due {
            let done = self.apply(&ask).is_ok();
            self.late_base |= done && ask.is_write() && ask.key().starts_with("base/");
            self.note(|_| format!("    late: {} {}", ask.what(), if done { "arrives" } else { "has no effect" }));
        }
    }

    pub fn answer(&mut self, actor: usize, ask: &Ask) -> Answered {
        if ask.verb().is_none() {
            return Ok(Answer::Done);
        }
        if let Some(answer) = self.mutant.and_then(|mutant| mutant.answer(self, actor, ask)) {
            return answer;
        }
        if let Some(answer) = self.fault(actor, ask) {
            self.counts.failed += 1;
            return answer;
        }
        let answer = self.apply(ask);
        if ask.is_write() && answer.is_ok() && self.dice.in_thousand(self.plan.repeats) && self.may_be_late(actor) {
            self.arrives_late(ask.clone());
        }
        match answer {
            Ok(Answer::Page(page)) => Ok(Answer::Page(self.shorten(page))),
            answer => answer,
        }
    }

    fn fault(&mut self, actor: usize, ask: &Ask) -> Option<Answered> {
        if self.dice.in_thousand(self.plan.storms) {
            self.actors[actor].storm = 1 + self.dice.below(12) as u32;
        }
        let storm = self.actors[actor].storm;
        self.actors[actor].storm = storm.saturating_sub(1);
        if let Ask::Put(key, body) = ask
            && self.dice.in_thousand(self.plan.torn)
        {
            let half = body.slice(..self.dice.below(body.len().max(1)));
            let _ = self.apply(&Ask::Put(key.clone(), half));
            return Some(Err(ask.fails_for_now()));
        }
        if ask.is_write() && self.dice.in_thousand(self.plan.late) {
            if self.may_be_late(actor) {
                self.arrives_late(ask.clone());
            }
            return Some(Err(ask.fails_for_now()));
        }
        if storm > 0 || self.dice.in_thousand(self.plan.fails) {
            if self.dice.below(2) == 0 {
                let _ = self.apply(ask);
            }
            return Some(Err(ask.fails_for_now()));
        }
        None
    }

    /// What the store does, whoever asks.
    pub fn apply(&mut self, ask: &Ask) -> Answered {
        let memory = &self.memory;
        match ask {
            Ask::PutNew(key, body) => {
                at_once(memory.put_new(key, body.clone()))?;
                self.created.push(key.clone());
                self.may_flip(key);
            }
            Ask::Put(key, body) => {
                at_once(memory.put(key, body.clone()))?;
                self.created.push(key.clone());
                self.may_flip(key);
            }
            Ask::Get(key, max) => return at_once(memory.get(key, *max)).map(Answer::Bytes),
            Ask::GetRange(key, range) => return at_once(memory.get_range(key, range.clone())).map(Answer::Bytes),
            Ask::Head(key) => return at_once(memory.head(key)).map(Answer::Size),
            Ask::List(prefix, after) => return at_once(memory.list(prefix, after.as_ref())).map(Answer::Page),
            Ask::Delete(key) => at_once(memory.delete(key))?,
            Ask::Wait(_) => {}
        }
        Ok(Answer::Done)
    }

    fn may_flip(&mut self, key: &Key) {
        if self.plan.flips == 0 || !self.dice.in_thousand(100) {
            return;
        }
        let mut body = at_once(self.memory.get(key, u64::MAX)).expect("it was just put").to_vec();
        if body.is_empty() {
            return;
        }
        self.plan.flips -= 1;
        let bit = self.dice.below(body.len() * 8);
        body[bit / 8] ^= 1 << (bit % 8);
        at_once(self.memory.put(key, body.into())).expect("a store in memory");
        self.note(|_| format!("    a bit of {key} is flipped"));
        self.flipped.push(key.clone());
    }

    /// A LIST that does not show all, where the store may do that.
    fn shorten(&mut self, mut page: Page) -> Page {
        if self.short_lists == 0 || page.objects.is_empty() || !self.dice.in_thousand(60) {
            return page;
        }
        self.short_lists -= 1;
        match self.dice.below(2) {
            0 => {
                page.objects.truncate(page.objects.len() / 2);
                page.more = false;
            }
            _ => {
                let hidden = &self.created[self.created.len().saturating_sub(2)..];
                page.objects.retain(|l| !hidden.contains(&l.key));
            }
        }
        self.note(|_| "    this LIST is short".into());
        page
    }
}
