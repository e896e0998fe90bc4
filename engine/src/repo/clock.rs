//! Time as an argument, as randomness is: what waits or tells the time asks here, so that a run can be replayed.
//!
//! No rule of the protocol rests on it. The time of day is recorded, and the other is only for patience.

use std::time::{Duration, Instant};

use async_trait::async_trait;

use crate::format::node::Timestamp;

/// What a process knows of time.
#[async_trait]
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// The time of day, which may jump either way.
    fn now(&self) -> Timestamp;

    /// Time since some moment before: it never goes back.
    fn elapsed(&self) -> Duration;

    /// Waits at least `time` by [`Self::elapsed`].
    async fn pause(&self, time: Duration);
}

/// The clocks of this machine.
#[derive(Debug)]
pub struct SystemClock(Instant);

impl Default for SystemClock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        super::init::now()
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    async fn pause(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}
