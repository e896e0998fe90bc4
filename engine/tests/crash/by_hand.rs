//! What others are said to have done to a repository, done by hand.

use std::sync::Arc;

use copal_engine::crypto::sign::SigningKey;
use copal_engine::ops::check;
use copal_engine::progress::{Cancel, Silent};
use copal_engine::store::{Key, Store};

use crate::bench::Bench;

impl Bench {
    pub fn root(&self) -> SigningKey {
        SigningKey::from_seed(self.bundle.root_seed.clone().unwrap())
    }

    pub fn put(&self, key: String, bytes: Vec<u8>) {
        at_once(self.memory.put(&Key::new(key).unwrap(), bytes.into())).unwrap();
    }

    pub fn remove(&self, key: String) {
        at_once(self.memory.delete(&Key::new(key).unwrap())).unwrap();
    }

    /// The structure alone.
    pub fn check(&self) -> check::Report {
        self.check_with(check::Read::Nothing)
    }

    pub fn check_with(&self, read: check::Read) -> check::Report {
        let with = check::Options { read, max_age: None, max_duration: None, with_cache: false, seed: 1 };
        check::check(&Arc::new(self.open().unwrap()), &with, &Silent, &Cancel::default()).unwrap()
    }
}

/// The result of a future that waits for nothing, as those of the store in memory: also within a task of a runtime.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("it waits"),
    }
}
