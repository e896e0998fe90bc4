//! Every store, alone and wrapped, against the one suite in `common/conformance.rs`.

mod common;

use std::sync::Arc;

use common::conformance::{Traits, run};
use copal_engine::store::local::Local;
use copal_engine::store::memory::Memory;

#[tokio::test(flavor = "multi_thread")]
async fn memory() {
    run(Arc::new(Memory::new()), Traits::default()).await;
    run(Arc::new(Memory::with_page(1)), Traits { keys: 100, ..Traits::default() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn local() {
    let dir = tempfile::tempdir().unwrap();
    run(Arc::new(Local::create(&dir.path().join("deep/er")).unwrap()), Traits { keys: 9000, ..Traits::default() })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn local_with_named_temporaries() {
    let dir = tempfile::tempdir().unwrap();
    let store = Local::create(dir.path()).unwrap().without_anonymous_files();
    run(Arc::new(store), Traits::default()).await;
    assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0, "temporaries are left");
}
