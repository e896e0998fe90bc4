//! Every store, alone and wrapped, against the one suite in `common/conformance.rs`.
//!
//! `COPAL_TEST_S3` names a JSON file of real servers to run against as well:
//! `[{"name", "endpoint", "region", "access_key", "secret_key", "bucket", "create_only": "atomic"|"sequential"|"ignored"}]`,
//! with `{"tls_endpoint", "ca_file"}` and `{"stranger_access_key", "stranger_secret_key"}` where there are such.

mod common;

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use common::conformance::{Traits, run};
use common::s3_server::Server;
use copal_engine::store::cache::Cache;
use copal_engine::store::fault::{Effect, Fault, Rule};
use copal_engine::store::limit::{Caps, Limit};
use copal_engine::store::local::Local;
use copal_engine::store::memory::Memory;
use copal_engine::store::probe::{CREATORS, CreateOnly, ROUNDS, Verdict, probe};
use copal_engine::store::record::Record;
use copal_engine::store::retry::{Policy, Retry};
use copal_engine::store::s3::{S3, S3Options, StaticKeys};
use copal_engine::store::{Store, StoreError, Verb, list_all};

#[tokio::test(flavor = "multi_thread")]
async fn memory() {
    run(Arc::new(Memory::new()), Traits::default()).await;
    run(Arc::new(Memory::with_page(1)), Traits { keys: 100, ..Traits::default() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn local() {
    let dir = tempfile::tempdir().unwrap();
    let store = Local::create(&dir.path().join("deep/er")).unwrap();
    run(Arc::new(store), Traits { keys: 5000, ..Traits::default() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn local_with_named_temporaries() {
    let dir = tempfile::tempdir().unwrap();
    let store = Local::create(dir.path()).unwrap().without_anonymous_files();
    run(Arc::new(store), Traits::default()).await;
    assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0, "temporaries are left");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrappers() {
    let memory = || Arc::new(Memory::new());
    let caps =
        Caps { upload: NonZeroU64::new(1 << 40), download: NonZeroU64::new(1 << 40), connections: NonZeroU64::new(3) };
    run(Arc::new(Limit::new(memory(), caps)), Traits::default()).await;
    run(Arc::new(Retry::new(memory(), Policy::default())), Traits::default()).await;
    run(Arc::new(Fault::new(memory(), 1)), Traits::default()).await;
    let record = Arc::new(Record::new(memory()));
    run(record.clone(), Traits::default()).await;
    assert!(record.count(Verb::Put, "paging/") > 2500);
}

#[tokio::test(flavor = "multi_thread")]
async fn cache() {
    let dir = tempfile::tempdir().unwrap();
    // `replacing/` replaces objects, which the cache may assume nobody else does.
    let store = Cache::open(Arc::new(Memory::new()), dir.path(), &[""], 100 << 20).unwrap();
    run(Arc::new(store), Traits { keys: 300, ..Traits::default() }).await;
}

/// A store that fails one call in four, half of them after having done it, is as good as any behind `Retry`.
#[tokio::test(flavor = "multi_thread")]
async fn retry_over_an_unreliable_store() {
    let fault = Arc::new(Fault::new(Arc::new(Memory::new()), 42));
    fault.add(Rule::any().per_million(125_000).effect(Effect::ErrorBefore));
    fault.add(Rule::any().per_million(125_000).effect(Effect::ErrorAfter));
    let ms = Duration::from_millis;
    let policy = Policy { first_wait: ms(1), max_wait: ms(2), ..Policy::default() };
    run(Arc::new(Retry::new(fault, policy)), Traits { keys: 500, ..Traits::default() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3() {
    let server = Server::start().await;
    let store = S3::connect(server.options()).await.unwrap();
    let verdict = probe(&store, ROUNDS, CREATORS).await.unwrap();
    assert_eq!((verdict.word().as_str(), verdict.details.is_empty()), ("atomic", true), "{verdict:?}");
    run(Arc::new(store), Traits::default()).await;
    // Two prefixes of one bucket do not see each other, also where one begins like the other.
    let mut options = server.options();
    options.prefix = "pre".into();
    let outer = S3::connect(options.clone()).await.unwrap();
    options.prefix = "prefix".into();
    let other = S3::connect(options).await.unwrap();
    other.put(&common::key("a"), "1".into()).await.unwrap();
    assert!(list_all(&outer, "").await.unwrap().is_empty());
}

#[derive(serde::Deserialize)]
struct RealServer {
    name: String,
    endpoint: String,
    region: String,
    access_key: String,
    secret_key: String,
    bucket: String,
    create_only: String,
    /// The same server with TLS, and the CA that its certificate is from.
    tls_endpoint: Option<String>,
    ca_file: Option<std::path::PathBuf>,
    /// A user who has no right to the bucket.
    stranger_access_key: Option<String>,
    stranger_secret_key: Option<String>,
}

#[tokio::test(flavor = "multi_thread")]
async fn real_s3_servers() {
    let Some(file) = std::env::var_os("COPAL_TEST_S3") else { return };
    let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("COPAL_TEST_S3={}: {e}", file.display()));
    let servers: Vec<RealServer> = serde_json::from_str(&text).expect("COPAL_TEST_S3 names a list of servers");
    for server in servers {
        println!("{}: {}", server.name, server.endpoint);
        real_server(server).await;
    }
}

async fn real_server(server: RealServer) {
    let keys = StaticKeys { access_key: server.access_key, secret_key: server.secret_key.into(), session_token: None };
    let options = S3Options {
        endpoint: Some(server.endpoint),
        bucket: server.bucket,
        region: Some(server.region),
        prefix: format!("conformance-{}", common::random_word()),
        keys: Some(keys),
        ..S3Options::default()
    };
    let stranger = server.stranger_access_key.zip(server.stranger_secret_key);
    other_ways_in(&options, server.tls_endpoint.zip(server.ca_file), stranger).await;
    let store: Arc<dyn Store> = Arc::new(Retry::new(Arc::new(S3::connect(options).await.unwrap()), Policy::default()));
    let expected = Verdict::from_word(&server.create_only).expect("a verdict's word").create_only;
    let verdict = probe(&*store, ROUNDS, CREATORS).await.unwrap();
    assert_eq!(verdict.create_only, expected, "{}: {verdict:?}", server.name);
    let traits = Traits {
        create_only: expected >= CreateOnly::Sequential,
        atomic: expected == CreateOnly::Atomic,
        ..Traits::default()
    };
    run(store.clone(), traits).await;
    for object in list_all(&*store, "").await.unwrap() {
        store.delete(&object.key).await.unwrap();
    }
}

async fn other_ways_in(
    options: &S3Options,
    tls: Option<(String, std::path::PathBuf)>,
    stranger: Option<(String, String)>,
) {
    let (k, bytes) = (common::key("ways/in"), common::body(3 << 20, 1));
    let store = S3::connect(options.clone()).await.unwrap();
    store.put_new(&k, bytes.clone()).await.unwrap();
    if let Some((endpoint, ca_file)) = tls {
        let options = S3Options { endpoint: Some(endpoint), ca_file: Some(ca_file), ..options.clone() };
        let store = S3::connect(options).await.unwrap();
        assert!(store.get(&k, 3 << 20).await.unwrap() == bytes);
        assert!(store.put_new(&k, bytes).await.unwrap_err().is_exists());
    }
    if let Some((access_key, secret_key)) = stranger {
        let keys = StaticKeys { access_key, secret_key: secret_key.into(), session_token: None };
        let store = S3::connect(S3Options { keys: Some(keys), ..options.clone() }).await.unwrap();
        assert!(matches!(store.get(&k, 3 << 20).await, Err(StoreError::Denied { .. })));
        assert!(matches!(store.delete(&k).await, Err(StoreError::Denied { .. })));
    }
    let missing = S3::connect(S3Options { bucket: "copal-no-such-bucket".into(), ..options.clone() }).await.unwrap();
    let error = missing.list("", None).await.unwrap_err();
    assert!(error.to_string().contains("there is no bucket"), "{error}");
    store.delete(&k).await.unwrap();
}
