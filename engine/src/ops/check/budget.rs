//! How many bytes may be in memory at once between the store and those who look at them.

use std::sync::{Arc, Condvar, Mutex};

/// A cap on bytes that several threads share.
#[derive(Debug)]
pub(super) struct Budget {
    cap: u64,
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    held: u64,
    peak: u64,
}

/// Bytes that are held until this is dropped.
#[derive(Debug)]
pub(super) struct Held {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Budget {
    pub(super) fn new(cap: u64) -> Arc<Self> {
        Arc::new(Self { cap, state: Mutex::default(), freed: Condvar::new() })
    }

    /// The most that fits.
    pub(super) fn cap(&self) -> u64 {
        self.cap
    }

    /// Waits until so many bytes fit. What is larger than the cap waits until nothing else is held.
    pub(super) fn take(self: &Arc<Self>, bytes: u64) -> Held {
        let mut state = self.state.lock().expect("no panic while held");
        while state.held > 0 && state.held + bytes > self.cap {
            state = self.freed.wait(state).expect("no panic while held");
        }
        state.held += bytes;
        state.peak = state.peak.max(state.held);
        Held { budget: Arc::clone(self), bytes }
    }

    /// Most bytes that were held at once.
    #[cfg(test)]
    pub(super) fn peak(&self) -> u64 {
        self.state.lock().expect("no panic while held").peak
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.state.lock().expect("no panic while held").held -= self.bytes;
        self.budget.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_more_than_the_cap_unless_alone() {
        let budget = Budget::new(100);
        std::thread::scope(|scope| {
            for n in 0..8u64 {
                let budget = &budget;
                scope.spawn(move || (0..200).for_each(|round| drop(budget.take((n * 13 + round) % 60))));
            }
        });
        assert!(budget.peak() <= 100);
        let alone = budget.take(500);
        assert_eq!(budget.peak(), 500);
        drop(alone);
        assert_eq!(budget.state.lock().unwrap().held, 0);
    }
}
