//! An S3 server in this process, over a map: real HTTP, XML and signatures, and misbehaviour on request.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use copal_engine::store::probe::CreateOnly;
use copal_engine::store::s3::{S3Options, StaticKeys};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use s3s::auth::{S3Auth, SecretKey};
use s3s::dto::*;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;

pub const ACCESS_KEY: &str = "access";
pub const SECRET_KEY: &str = "a very secret key";
pub const BUCKET: &str = "bucket";
/// Keys in one page of a LIST.
const PAGE_KEYS: usize = 1000;

/// How the server behaves; the default is well.
#[derive(Debug, Clone)]
pub struct Behaviour {
    pub create_only: CreateOnly,
    /// Answers 503 to this many requests.
    pub storm: u64,
    /// Fails every request with a number that this divides: by 503 or 500 without doing anything, or by 500 to the next
    /// write when that is done.
    pub fail_every: Option<u64>,
    /// Answers every request with a number that this divides 200 ms late.
    pub slow_every: Option<u64>,
    /// Does what this many writes ask for, and answers 500.
    pub lost_answers: u64,
    /// Answers this code with this status to everything.
    pub refuse: Option<(u16, &'static str, &'static str)>,
    /// Waits before each answer.
    pub delay: Duration,
    /// Ends bodies early, against their own length.
    pub cut_bodies: bool,
    /// Sends one byte less than a range asks for, with headers that say so.
    pub short_ranges: bool,
    /// Sends the whole object where a range is asked for.
    pub ignore_ranges: bool,
    /// Answers a LIST with `start-after` by an empty page that says nothing follows.
    pub forget_after: bool,
    /// Knows no checksum headers and says so.
    pub refuse_checksums: bool,
    /// Answers "denied" to reads of what is not there, as to somebody who may not LIST the whole bucket.
    pub hide_absence: bool,
    /// Answers "denied" to reads of what is there.
    pub deny_reads: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            create_only: CreateOnly::Atomic,
            storm: 0,
            fail_every: None,
            slow_every: None,
            lost_answers: 0,
            refuse: None,
            delay: Duration::ZERO,
            cut_bodies: false,
            short_ranges: false,
            ignore_ranges: false,
            forget_after: false,
            refuse_checksums: false,
            hide_absence: false,
            deny_reads: false,
        }
    }
}

/// A stored object and what its put said besides.
#[derive(Debug, Clone, Default)]
pub struct Stored {
    pub body: Bytes,
    pub crc32c: Option<String>,
    pub customer_key_md5: Option<String>,
    pub kms_key: Option<String>,
    pub storage_class: Option<String>,
}

/// A running server; it ends with the value.
pub struct Server {
    pub endpoint: String,
    state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct State {
    objects: Mutex<BTreeMap<String, Stored>>,
    behaviour: Mutex<Behaviour>,
    requests: AtomicU64,
    failed: AtomicU64,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Listens on a free port of this machine.
    pub async fn start() -> Self {
        let (listener, state, service) = Self::prepare().await;
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                tokio::spawn(serve(stream, service.clone()));
            }
        });
        Self { endpoint, state, task }
    }

    /// The same with TLS, under the name `localhost`.
    pub async fn start_tls(config: tokio_rustls::rustls::ServerConfig) -> Self {
        let (listener, state, service) = Self::prepare().await;
        let endpoint = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, service) = (acceptor.clone(), service.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve(stream, service).await;
                    }
                });
            }
        });
        Self { endpoint, state, task }
    }

    async fn prepare() -> (TcpListener, Arc<State>, S3Service) {
        let state = Arc::new(State::default());
        let mut builder = S3ServiceBuilder::new(Handler { state: state.clone() });
        builder.set_auth(OneUser);
        (TcpListener::bind("127.0.0.1:0").await.unwrap(), state, builder.build())
    }

    /// How to reach it, under a fresh prefix.
    pub fn options(&self) -> S3Options {
        let secret_key = SECRET_KEY.to_owned().into();
        S3Options {
            endpoint: Some(self.endpoint.clone()),
            bucket: BUCKET.into(),
            prefix: super::random_word(),
            region: Some("us-east-1".into()),
            keys: Some(StaticKeys { access_key: ACCESS_KEY.into(), secret_key, session_token: None }),
            ..S3Options::default()
        }
    }

    pub fn behave(&self, behaviour: Behaviour) {
        *self.state.behaviour.lock().unwrap() = behaviour;
    }

    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::Relaxed)
    }

    /// How many requests [`Behaviour::fail_every`] hit.
    pub fn failed(&self) -> u64 {
        self.state.failed.load(Ordering::Relaxed)
    }

    /// All objects, by their full keys.
    pub fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Stored>> {
        self.state.objects.lock().unwrap()
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, service: S3Service) {
    let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let service = service.clone();
        async move {
            let answer = service.call(request.map(Body::from)).await;
            Ok::<_, Infallible>(answer.unwrap_or_else(|e| panic!("s3s: {e:?}")))
        }
    });
    // A client that went away is no matter.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

struct OneUser;

#[async_trait::async_trait]
impl S3Auth for OneUser {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        if access_key == ACCESS_KEY { Ok(SECRET_KEY.into()) } else { Err(s3_error!(InvalidAccessKeyId)) }
    }
}

struct Handler {
    state: Arc<State>,
}

impl Handler {
    /// Counts the request and misbehaves where nothing is to be done.
    async fn gate(&self, bucket: &str) -> S3Result<Behaviour> {
        let number = 1 + self.state.requests.fetch_add(1, Ordering::Relaxed);
        let divides = |every: Option<u64>| every.is_some_and(|every| number.is_multiple_of(every));
        let behaviour = {
            let mut behaviour = self.state.behaviour.lock().unwrap();
            if divides(behaviour.fail_every) {
                let failed = self.state.failed.fetch_add(1, Ordering::Relaxed);
                match failed % 3 {
                    0 => return Err(s3_error!(SlowDown, "slow down")),
                    1 => return Err(s3_error!(InternalError, "try again")),
                    _ => behaviour.lost_answers += 1,
                }
            }
            if behaviour.storm > 0 {
                behaviour.storm -= 1;
                return Err(s3_error!(SlowDown, "slow down"));
            }
            behaviour.clone()
        };
        tokio::time::sleep(behaviour.delay).await;
        if divides(behaviour.slow_every) {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        if let Some((status, code, message)) = behaviour.refuse {
            let mut error = S3Error::with_message(S3ErrorCode::Custom(code.into()), message);
            error.set_status_code(status.try_into().unwrap());
            return Err(error);
        }
        if bucket == BUCKET { Ok(behaviour) } else { Err(s3_error!(NoSuchBucket)) }
    }

    /// Fails a write that was done.
    fn after_write(&self) -> S3Result<()> {
        let mut behaviour = self.state.behaviour.lock().unwrap();
        if behaviour.lost_answers == 0 {
            return Ok(());
        }
        behaviour.lost_answers -= 1;
        Err(s3_error!(InternalError, "done, but the answer is lost"))
    }

    fn find(&self, key: &str, customer_key_md5: Option<&String>) -> S3Result<Stored> {
        let objects = self.state.objects.lock().unwrap();
        let (hidden, denied) = {
            let behaviour = self.state.behaviour.lock().unwrap();
            (behaviour.hide_absence, behaviour.deny_reads)
        };
        if denied {
            return Err(s3_error!(AccessDenied));
        }
        let absent = || if hidden { s3_error!(AccessDenied) } else { s3_error!(NoSuchKey) };
        let stored = objects.get(key).ok_or_else(absent)?;
        if stored.customer_key_md5.as_ref() != customer_key_md5 {
            return Err(s3_error!(InvalidRequest, "The object was stored using a form of Server Side Encryption."));
        }
        Ok(stored.clone())
    }

    /// Stores `object`, or refuses, as well as the behaviour allows.
    async fn store(&self, key: String, object: Stored, create: bool, behaviour: &Behaviour) -> S3Result<()> {
        let exists = || self.state.objects.lock().unwrap().contains_key(&key);
        if create && behaviour.create_only == CreateOnly::Sequential {
            if exists() {
                return Err(s3_error!(PreconditionFailed));
            }
            // The gap in which a racing creator is not seen.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut objects = self.state.objects.lock().unwrap();
        if create && behaviour.create_only == CreateOnly::Atomic && objects.contains_key(&key) {
            return Err(s3_error!(PreconditionFailed));
        }
        objects.insert(key, object);
        Ok(())
    }
}

#[async_trait::async_trait]
impl S3 for Handler {
    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let input = request.input;
        let behaviour = self.gate(&input.bucket).await?;
        if behaviour.refuse_checksums && input.checksum_crc32c.is_some() {
            return Err(s3_error!(
                NotImplemented,
                "A header you provided implies functionality that is not implemented"
            ));
        }
        let body = match input.body {
            Some(blob) => Body::from(blob)
                .collect()
                .await
                .map_err(|e| S3Error::with_source(S3ErrorCode::IncompleteBody, e))?
                .to_bytes(),
            None => Bytes::new(),
        };
        let object = Stored {
            body,
            crc32c: input.checksum_crc32c,
            customer_key_md5: input.sse_customer_key_md5,
            kms_key: input.ssekms_key_id,
            storage_class: input.storage_class.map(|c| c.as_str().to_owned()),
        };
        self.store(input.key, object, input.if_none_match.is_some(), &behaviour).await?;
        self.after_write()?;
        Ok(S3Response::new(PutObjectOutput::default()))
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        let behaviour = self.gate(&input.bucket).await?;
        let body = self.find(&input.key, input.sse_customer_key_md5.as_ref())?.body;
        let mut output = GetObjectOutput::default();
        let mut sent = body.clone();
        if let Some(range) = input.range.filter(|_| !behaviour.ignore_ranges) {
            let mut range = range.check(body.len() as u64)?;
            range.end -= u64::from(behaviour.short_ranges);
            output.content_range = Some(format!("bytes {}-{}/{}", range.start, range.end - 1, body.len()));
            sent = body.slice(range.start as usize..range.end as usize);
        }
        output.content_length = Some(sent.len() as i64);
        if behaviour.cut_bodies {
            sent.truncate(sent.len() / 2);
        }
        output.body = Some(StreamingBlob::from(Body::from(sent)));
        Ok(S3Response::new(output))
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = request.input;
        self.gate(&input.bucket).await?;
        let size = self.find(&input.key, input.sse_customer_key_md5.as_ref())?.body.len();
        Ok(S3Response::new(HeadObjectOutput { content_length: Some(size as i64), ..Default::default() }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        let behaviour = self.gate(&input.bucket).await?;
        if behaviour.forget_after && input.start_after.is_some() {
            return Ok(S3Response::new(ListObjectsV2Output { is_truncated: Some(false), ..Default::default() }));
        }
        let prefix = input.prefix.unwrap_or_default();
        let after = input.continuation_token.or(input.start_after).unwrap_or_default();
        let from = if after >= prefix { Bound::Excluded(after.as_str()) } else { Bound::Included(prefix.as_str()) };
        let objects = self.state.objects.lock().unwrap();
        let mut found = objects
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(&prefix))
            .map(|(key, o)| Object { key: Some(key.clone()), size: Some(o.body.len() as i64), ..Default::default() });
        let page: Vec<Object> = found.by_ref().take(PAGE_KEYS).collect();
        let more = found.next().is_some();
        let output = ListObjectsV2Output {
            is_truncated: Some(more),
            next_continuation_token: page.last().filter(|_| more).and_then(|o| o.key.clone()),
            contents: Some(page),
            ..Default::default()
        };
        Ok(S3Response::new(output))
    }

    async fn delete_object(&self, request: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        let input = request.input;
        self.gate(&input.bucket).await?;
        self.state.objects.lock().unwrap().remove(&input.key);
        self.after_write()?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }
}
