//! What an S3 server can do wrong, and what the user then reads.

mod common;

use std::error::Error;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use common::s3_server::{Behaviour, Server};
use common::{body, key};
use copal_engine::store::probe::{CreateOnly, probe};
use copal_engine::store::retry::{Policy, Retry};
use copal_engine::store::s3::{S3, S3Options, ServerEncryption, StaticKeys};
use copal_engine::store::{Store, StoreError, list_all};

async fn server_and_store() -> (Server, S3) {
    let server = Server::start().await;
    let store = S3::connect(server.options()).await.unwrap();
    (server, store)
}

fn quick(store: S3) -> Retry {
    let ms = Duration::from_millis;
    let policy = Policy { first_wait: ms(1), max_wait: ms(5), attempts: 10, ..Policy::default() };
    Retry::new(Arc::new(store), policy)
}

/// The error and its causes, as the command line prints them.
fn chain(error: &StoreError) -> String {
    let layers = std::iter::successors(Some(error as &dyn Error), |e| (*e).source());
    layers.map(|e| e.to_string()).collect::<Vec<_>>().join(": ")
}

#[tokio::test(flavor = "multi_thread")]
async fn puts_carry_what_was_asked_for() {
    let server = Server::start().await;
    let options = S3Options { storage_class: Some("STANDARD_IA".into()), ..server.options() };
    let store = S3::connect(options.clone()).await.unwrap();
    // The check value of CRC-32C (RFC 3720): 0xe3069283.
    store.put(&key("a"), "123456789".into()).await.unwrap();
    let options = S3Options { encryption: ServerEncryption::Kms("key-1".into()), ..options };
    S3::connect(options).await.unwrap().put_new(&key("b"), "1".into()).await.unwrap();
    let objects = server.objects();
    let [a, b] = [0, 1].map(|n| objects.values().nth(n).unwrap());
    assert_eq!((a.crc32c.as_deref(), a.storage_class.as_deref()), (Some("4waSgw=="), Some("STANDARD_IA")));
    assert_eq!((b.kms_key.as_deref(), b.body.as_ref()), (Some("key-1"), &b"1"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn customer_keys_go_with_every_request() {
    let server = Server::start().await;
    let encryption = ServerEncryption::CustomerKey([7; 32].into());
    let options = S3Options { encryption, ..server.options() };
    let store = S3::connect(options.clone()).await.unwrap();
    store.put_new(&key("a"), body(1000, 1)).await.unwrap();
    store.put(&key("a"), body(1000, 2)).await.unwrap();
    assert_eq!(store.head(&key("a")).await.unwrap(), 1000);
    assert_eq!(store.get(&key("a"), 1000).await.unwrap(), body(1000, 2));
    assert_eq!(store.get_range(&key("a"), 10..20).await.unwrap(), body(1000, 2)[10..20]);
    // MD5 of 32 bytes of 0x07, base64.
    let md5 = server.objects().values().next().unwrap().customer_key_md5.clone().unwrap();
    assert_eq!(md5, "y4HAEFCYWuvAXWFTtA1Qpg==");
    let without = S3::connect(S3Options { encryption: ServerEncryption::Bucket, ..options }).await.unwrap();
    let error = without.get(&key("a"), 1000).await.unwrap_err();
    assert!(error.to_string().contains("--s3-sse-c-key-file"), "{}", chain(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_denied_with_a_hint() {
    let server = Server::start().await;
    for (access_key, secret_key, hint) in [
        (common::s3_server::ACCESS_KEY, "wrong", "the secret key does not belong to the access key"),
        ("nobody", "wrong", "the server does not know the access key"),
    ] {
        let keys =
            StaticKeys { access_key: access_key.into(), secret_key: secret_key.to_owned().into(), session_token: None };
        let store = S3::connect(S3Options { keys: Some(keys), ..server.options() }).await.unwrap();
        for error in [
            store.put_new(&key("a"), "1".into()).await.unwrap_err(),
            store.list("", None).await.unwrap_err(),
            store.get(&key("a"), 1).await.unwrap_err(),
        ] {
            assert!(matches!(error, StoreError::Denied { .. }) && chain(&error).contains(hint), "{}", chain(&error));
            assert!(!chain(&error).contains(secret_key), "{}", chain(&error));
        }
    }
}

/// As a policy does that allows to LIST below a prefix only.
#[tokio::test(flavor = "multi_thread")]
async fn absence_is_told_from_denial_by_a_list() {
    let (server, store) = server_and_store().await;
    store.put(&key("ab"), "1".into()).await.unwrap();
    server.behave(Behaviour { hide_absence: true, ..Behaviour::default() });
    let absent = |e: StoreError| matches!(e, StoreError::NotFound { .. });
    // "ab" begins like it and is another one.
    assert!(absent(store.get(&key("a"), 1).await.unwrap_err()));
    assert!(absent(store.get_range(&key("a"), 0..1).await.unwrap_err()));
    assert!(absent(store.head(&key("a")).await.unwrap_err()));
    assert_eq!(probe(&store, 2, 4).await.unwrap().word(), "atomic");
    // Denied in earnest: not even a LIST is answered.
    server.behave(Behaviour { refuse: Some((403, "AccessDenied", "")), ..Behaviour::default() });
    assert!(matches!(store.get(&key("a"), 1).await, Err(StoreError::Denied { .. })));
    server.behave(Behaviour { deny_reads: true, ..Behaviour::default() });
    assert!(matches!(store.get(&key("ab"), 1).await, Err(StoreError::Denied { .. })), "it is there, and not for us");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_set_up_says_what_to_change() {
    let server = Server::start().await;
    let store = S3::connect(S3Options { bucket: "other".into(), ..server.options() }).await.unwrap();
    for error in [
        store.put(&key("a"), "1".into()).await.unwrap_err(),
        store.get(&key("a"), 1).await.unwrap_err(),
        store.list("", None).await.unwrap_err(),
        store.delete(&key("a")).await.unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::Setup { .. }), "{}", chain(&error));
        assert!(error.to_string().contains("there is no bucket \"other\""), "{}", chain(&error));
    }
    let store = S3::connect(server.options()).await.unwrap();
    for (refuse, hint) in [
        (
            (400, "AuthorizationHeaderMalformed", "the region 'us-east-1' is wrong; expecting 'eu-west-1'"),
            "AWS_REGION=eu-west-1",
        ),
        ((301, "PermanentRedirect", "must be addressed using the specified endpoint"), "another region"),
        ((403, "RequestTimeTooSkewed", ""), "clock"),
    ] {
        server.behave(Behaviour { refuse: Some(refuse), ..Behaviour::default() });
        for error in [store.put(&key("a"), "1".into()).await.unwrap_err(), store.list("", None).await.unwrap_err()] {
            assert!(matches!(error, StoreError::Setup { .. }) && error.to_string().contains(hint), "{}", chain(&error));
        }
    }
    server.behave(Behaviour { refuse: Some((403, "QuotaExceeded", "")), ..Behaviour::default() });
    assert!(matches!(store.put(&key("a"), "1".into()).await, Err(StoreError::Full { .. })));
    let insecure = S3::connect(S3Options { insecure_tls: true, ..server.options() }).await.unwrap_err();
    assert!(insecure.to_string().contains("--cacert"), "{}", chain(&insecure));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_server_is_transient() {
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let options = S3Options { endpoint: Some(format!("http://{unused}")), ..Server::start().await.options() };
    let error = S3::connect(options).await.unwrap().get(&key("a"), 1).await.unwrap_err();
    let told = chain(&error);
    assert!(error.is_transient() && told.to_lowercase().contains("refused"), "{told}");
    assert!(told.contains(&format!("http://{unused} cannot be reached: ")), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn storms_are_waited_out() {
    let (server, store) = server_and_store().await;
    server.behave(Behaviour { storm: 1, ..Behaviour::default() });
    assert!(store.put(&key("a"), "1".into()).await.unwrap_err().is_transient());
    server.behave(Behaviour { storm: 5, ..Behaviour::default() });
    let before = server.requests();
    quick(store).put(&key("a"), "1".into()).await.unwrap();
    assert_eq!(server.requests() - before, 6, "nothing but Retry repeats a request");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_resolved_by_reading_back() {
    let (server, store) = server_and_store().await;
    let retry = quick(store.clone());
    server.behave(Behaviour { lost_answers: 1, ..Behaviour::default() });
    assert!(store.put_new(&key("a"), body(500, 1)).await.unwrap_err().is_transient());
    server.behave(Behaviour { lost_answers: 3, ..Behaviour::default() });
    retry.put_new(&key("b"), body(500, 1)).await.unwrap();
    server.behave(Behaviour { storm: 1, ..Behaviour::default() });
    assert!(retry.put_new(&key("b"), body(500, 2)).await.unwrap_err().is_exists(), "not our bytes");
    assert_eq!(store.get(&key("b"), 500).await.unwrap(), body(500, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_is_no_proof_that_the_key_is_taken() {
    let (server, store) = server_and_store().await;
    server.behave(Behaviour { refuse: Some((409, "ConditionalRequestConflict", "")), ..Behaviour::default() });
    assert!(store.put_new(&key("a"), "1".into()).await.unwrap_err().is_transient());
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bodies_are_never_taken() {
    let (server, store) = server_and_store().await;
    store.put(&key("a"), body(10_000, 1)).await.unwrap();
    server.behave(Behaviour { cut_bodies: true, ..Behaviour::default() });
    assert!(store.get(&key("a"), 10_000).await.unwrap_err().is_transient());
    assert!(store.get_range(&key("a"), 0..5000).await.unwrap_err().is_transient());
    server.behave(Behaviour { short_ranges: true, ..Behaviour::default() });
    assert!(matches!(store.get_range(&key("a"), 10..5000).await, Err(StoreError::Wrong { .. })));
    server.behave(Behaviour { ignore_ranges: true, ..Behaviour::default() });
    assert!(matches!(store.get_range(&key("a"), 10..5000).await, Err(StoreError::Wrong { .. })));
    assert!(matches!(store.get_range(&key("a"), 0..5000).await, Err(StoreError::Wrong { .. })));
    assert_eq!(store.get_range(&key("a"), 0..10_000).await.unwrap(), body(10_000, 1), "the whole is the range");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_without_checksums_are_served_without() {
    let (server, store) = server_and_store().await;
    server.behave(Behaviour { refuse_checksums: true, ..Behaviour::default() });
    let before = server.requests();
    store.put(&key("a"), body(100, 1)).await.unwrap();
    store.put_new(&key("b"), body(100, 2)).await.unwrap();
    assert_eq!(server.requests() - before, 3, "the header is not tried again");
    assert_eq!(store.get(&key("a"), 100).await.unwrap(), body(100, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_probe_finds_out_what_a_server_ignores() {
    let (server, store) = server_and_store().await;
    for (create_only, word) in
        [(CreateOnly::Ignored, "ignored"), (CreateOnly::Sequential, "sequential"), (CreateOnly::Atomic, "atomic")]
    {
        server.behave(Behaviour { create_only, ..Behaviour::default() });
        let verdict = probe(&store, 3, 8).await.unwrap();
        assert_eq!(verdict.word(), word, "{verdict:?}");
        assert!(server.objects().is_empty(), "the probe left something behind");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_objects_are_left_out() {
    let (server, store) = server_and_store().await;
    store.put(&key("m/a"), "1".into()).await.unwrap();
    let name = server.objects().keys().next().unwrap().clone();
    let prefix = name.strip_suffix("m/a").unwrap();
    for foreign in ["", "M", "m/A", "m/", "m/a b", "m/é"] {
        server.objects().insert(format!("{prefix}{foreign}"), Default::default());
    }
    // More than a page of them.
    for n in 0..2500 {
        server.objects().insert(format!("{prefix}Foreign{n}"), Default::default());
    }
    let listed = list_all(&store, "").await.unwrap();
    assert_eq!(listed.iter().map(|l| l.key.as_str()).collect::<Vec<_>>(), ["m/a"]);
}

/// MinIO (2026) ends a page with `start-after` early and says that nothing follows.
#[tokio::test(flavor = "multi_thread")]
async fn no_list_relies_on_start_after() {
    let (server, store) = server_and_store().await;
    store.put(&key("a"), "1".into()).await.unwrap();
    let name = server.objects().keys().next().unwrap().clone();
    for n in 0..2500 {
        server.objects().insert(format!("{}b/{n:04}", name.strip_suffix('a').unwrap()), Default::default());
    }
    server.behave(Behaviour { forget_after: true, ..Behaviour::default() });
    let before = server.requests();
    assert_eq!(list_all(&store, "").await.unwrap().len(), 2501);
    assert_eq!(server.requests() - before, 3, "a page costs one request");
    for (after, next) in
        [("b/0999", Some("b/1000")), ("b/2400x", Some("b/2401")), ("b/1700", Some("b/1701")), ("b/2499", None)]
    {
        let page = store.list("b/", Some(&key(after))).await.unwrap();
        assert_eq!(page.objects.first().map(|l| l.key.as_str()), next, "after {after}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_ca_is_trusted_and_an_unknown_one_is_not() {
    let (ca_pem, config) = private_ca();
    let server = Server::start_tls(config).await;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(ca_pem.as_bytes()).unwrap();
    let options = S3Options { ca_file: Some(file.path().into()), ..server.options() };
    let store = S3::connect(options.clone()).await.unwrap();
    store.put_new(&key("a"), body(100_000, 1)).await.unwrap();
    assert_eq!(store.get(&key("a"), 100_000).await.unwrap(), body(100_000, 1));

    let (other_pem, _) = private_ca();
    std::fs::write(file.path(), other_pem).unwrap();
    let error = S3::connect(options.clone()).await.unwrap().get(&key("a"), 1).await.unwrap_err();
    assert!(matches!(error, StoreError::Setup { .. }) && error.to_string().contains("--cacert"), "{}", chain(&error));

    let damaged = ca_pem.replace("-----END", "A-----END");
    for bad in ["", "no certificate", &ca_pem[..ca_pem.len() / 2], &damaged] {
        std::fs::write(file.path(), bad).unwrap();
        let error = S3::connect(options.clone()).await.unwrap_err();
        assert!(error.to_string().contains("CA file"), "{bad:?}: {}", chain(&error));
    }
}

/// A CA's certificate, and a server configuration with a certificate for `localhost` issued by it.
fn private_ca() -> (String, tokio_rustls::rustls::ServerConfig) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().unwrap();
    let ca = params.self_signed(&ca_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &Issuer::from_params(&params, &ca_key)).unwrap();
    let private = tokio_rustls::rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let config = tokio_rustls::rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], private)
        .unwrap();
    (ca.pem(), config)
}
