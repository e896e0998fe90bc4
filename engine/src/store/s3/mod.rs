//! A bucket as a store, on the official SDK.
//!
//! **Bodies** are sent from memory, whole and signed: streamed ones are refused by some servers over http. Each carries a
//! CRC32C header where the server takes one; some servers store a wrong checksum without complaint, so the only proof of
//! content is our own hash, above this layer.
//!
//! **Answers** are not trusted: a range is checked for its exact length and place, a LIST for its order and prefix.
//!
//! **Time.** Each call has a limit that grows with its body (`within`). No call is repeated here, that is `Retry`'s work.

mod connect;
mod errors;
mod list;
mod retention;

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::RequestChecksumCalculation;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, ServerSideEncryption, StorageClass};
use bytes::Bytes;
use md5::{Digest, Md5};
use zeroize::Zeroizing;

pub(crate) use self::errors::retry_after;
use self::errors::{Request, chain_text, may_hide_absence, sort, transient};
use super::retention::Keeper;
use super::{Key, Page, Result, Store, StoreError, Verb, check_range, check_size};

/// Time that any call may take, whatever its body.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes a second below which a transfer counts as stalled: a slow uplink shared by eight connections is faster.
const STALL_RATE: u64 = 16 << 10;
/// What is allocated for a body before its bytes have come.
const BODY_RESERVE_MAX: u64 = 32 << 20;

/// How a bucket is addressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PathStyle {
    /// `https://host/bucket` where an endpoint is given or the bucket's name holds a dot, else as [`PathStyle::Virtual`].
    #[default]
    Auto,
    /// `https://host/bucket/key`.
    Path,
    /// `https://bucket.host/key`.
    Virtual,
}

/// Encryption by the server, beside ours.
#[derive(Clone, Default)]
pub enum ServerEncryption {
    /// What the bucket does by default.
    #[default]
    Bucket,
    /// With this key, sent along with each request (SSE-C). The server forgets it.
    CustomerKey(Zeroizing<[u8; 32]>),
    /// With the key of this id in the provider's KMS.
    Kms(String),
}

impl fmt::Debug for ServerEncryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bucket => f.write_str("Bucket"),
            Self::CustomerKey(_) => f.write_str("CustomerKey(..)"),
            Self::Kms(id) => write!(f, "Kms({id})"),
        }
    }
}

/// Credentials given outright, instead of found by the SDK.
#[derive(Clone)]
pub struct StaticKeys {
    /// Access key id.
    pub access_key: String,
    /// Its secret.
    pub secret_key: Zeroizing<String>,
    /// For temporary credentials.
    pub session_token: Option<Zeroizing<String>>,
}

impl fmt::Debug for StaticKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StaticKeys(..)")
    }
}

/// Where a bucket is and how to speak to it.
#[derive(Debug, Clone, Default)]
pub struct S3Options {
    /// `https://host[:port]`; none = AWS (or what `AWS_ENDPOINT_URL_S3` and the profile say).
    pub endpoint: Option<String>,
    /// Its name.
    pub bucket: String,
    /// What all keys start with, without slashes at its ends; empty = the whole bucket.
    pub prefix: String,
    /// None = environment, profile, machine, `us-east-1`.
    pub region: Option<String>,
    /// How the bucket is addressed.
    pub path_style: PathStyle,
    /// PEM certificates trusted instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Refused with [`StoreError::Setup`]: the SDK's TLS cannot be told to trust anybody.
    pub insecure_tls: bool,
    /// Encryption by the server.
    pub encryption: ServerEncryption,
    /// Storage class of new objects, as the server names it.
    pub storage_class: Option<String>,
    /// None = environment, shared profile, web identity, container and instance roles, as the SDK finds them.
    pub keys: Option<StaticKeys>,
    /// Name in the shared AWS configuration; none = `AWS_PROFILE`, `default`.
    pub profile: Option<String>,
}

/// A bucket, or what lies under a prefix of one; cloning shares it.
#[derive(Clone)]
pub struct S3 {
    client: Client,
    options: Arc<S3Options>,
    /// The customer key as its two headers want it: base64 of the key and of its MD5.
    customer_key: Option<Arc<(Zeroizing<String>, String)>>,
    /// Cleared once the server turned out not to know checksum headers.
    checksums: Arc<AtomicBool>,
    tokens: Arc<list::Tokens>,
}

impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3({})", self.location())
    }
}

impl S3 {
    /// Prepares access; the bucket is not asked yet.
    pub async fn connect(mut options: S3Options) -> Result<Self> {
        if options.endpoint.is_none() {
            let set = |name| std::env::var(name).ok().filter(|v: &String| !v.is_empty());
            options.endpoint = set("AWS_ENDPOINT_URL_S3").or_else(|| set("AWS_ENDPOINT_URL"));
        }
        let client = connect::client(&options).await?;
        let customer_key = match &options.encryption {
            ServerEncryption::CustomerKey(key) => {
                let encode = |bytes: &[u8]| aws_smithy_types::base64::encode(bytes);
                Some(Arc::new((Zeroizing::new(encode(&key[..])), encode(&Md5::digest(&key[..])))))
            }
            _ => None,
        };
        Ok(Self {
            client,
            options: options.into(),
            customer_key,
            checksums: Arc::new(AtomicBool::new(true)),
            tokens: Arc::default(),
        })
    }

    fn object(&self, key: &Key) -> String {
        format!("{}{key}", self.root())
    }

    /// What stands before each key in the bucket.
    fn root(&self) -> String {
        if self.options.prefix.is_empty() { String::new() } else { format!("{}/", self.options.prefix) }
    }

    fn request<'a>(&'a self, verb: Verb, key: Option<&'a Key>) -> Request<'a> {
        Request { verb, key, bucket: &self.options.bucket, endpoint: self.options.endpoint.as_deref() }
    }

    fn customer_key(&self) -> (Option<String>, Option<String>, Option<String>) {
        match self.customer_key.as_deref() {
            Some((key, md5)) => (Some("AES256".into()), Some(key.to_string()), Some(md5.clone())),
            None => (None, None, None),
        }
    }

    async fn upload(&self, verb: Verb, key: &Key, body: Bytes) -> Result<()> {
        let checksums = self.checksums.load(Ordering::Relaxed);
        match self.upload_once(verb, key, body.clone(), checksums).await {
            Err(StoreError::Failed { .. }) if checksums => {
                // Perhaps it was the checksum header that the server did not take; if so, never send it again.
                let done = self.upload_once(verb, key, body, false).await;
                if done.is_ok() {
                    self.checksums.store(false, Ordering::Relaxed);
                }
                done
            }
            done => done,
        }
    }

    async fn upload_once(&self, verb: Verb, key: &Key, body: Bytes, checksums: bool) -> Result<()> {
        let request = self.request(verb, Some(key));
        let (algorithm, customer_key, md5) = self.customer_key();
        let len = body.len() as u64;
        let mut put = self.client.put_object().bucket(&self.options.bucket).key(self.object(key));
        put = put.content_type("application/octet-stream").body(ByteStream::from(body));
        put =
            put.set_sse_customer_algorithm(algorithm).set_sse_customer_key(customer_key).set_sse_customer_key_md5(md5);
        put = put.set_storage_class(self.options.storage_class.as_deref().map(StorageClass::from));
        if let ServerEncryption::Kms(id) = &self.options.encryption {
            put = put.server_side_encryption(ServerSideEncryption::AwsKms).ssekms_key_id(id);
        }
        if verb == Verb::PutNew {
            put = put.if_none_match("*");
        }
        // The SDK computes a checksum only where it is told that all supported ones are wanted.
        let when = if checksums {
            RequestChecksumCalculation::WhenSupported
        } else {
            RequestChecksumCalculation::WhenRequired
        };
        put = put.set_checksum_algorithm(checksums.then_some(ChecksumAlgorithm::Crc32C));
        let put = put.customize().config_override(aws_sdk_s3::Config::builder().request_checksum_calculation(when));
        within(request, len, async { put.send().await.map_err(|e| sort(request, e)) }).await.map(drop)
    }

    async fn download(&self, key: &Key, range: Option<&Range<u64>>) -> Result<GetObjectOutput> {
        let request = self.request(if range.is_some() { Verb::GetRange } else { Verb::Get }, Some(key));
        let (algorithm, customer_key, md5) = self.customer_key();
        let mut get = self.client.get_object().bucket(&self.options.bucket).key(self.object(key));
        get =
            get.set_sse_customer_algorithm(algorithm).set_sse_customer_key(customer_key).set_sse_customer_key_md5(md5);
        if let Some(range) = range {
            get = get.range(format!("bytes={}-{}", range.start, range.end - 1));
        }
        get.send().await.map_err(|e| sort(request, e))
    }

    async fn read(&self, key: &Key, mut body: ByteStream, told: Option<i64>, max: u64) -> Result<Bytes> {
        let request = self.request(Verb::Get, Some(key));
        let told = told.map(|n| u64::try_from(n).unwrap_or(0));
        check_size(key, told.unwrap_or(0), max)?;
        let mut bytes = Vec::with_capacity(told.unwrap_or(max).min(BODY_RESERVE_MAX) as usize);
        while let Some(part) = body.try_next().await.map_err(|e| transient(request, chain_text(&e).into()))? {
            check_size(key, (bytes.len() + part.len()) as u64, max)?;
            bytes.extend_from_slice(&part);
        }
        match told {
            Some(told) if told != bytes.len() as u64 => Err(transient(request, "the body ended early".into())),
            _ => Ok(bytes.into()),
        }
    }

    /// A server tells that an object is absent only to whom it would LIST the whole bucket for, and to others that they are
    /// denied: also to those whose policy lets them LIST below their prefix. So a LIST of the very key decides.
    async fn or_absent<T>(&self, key: &Key, answer: Result<T>) -> Result<T> {
        match answer {
            Err(denied) if may_hide_absence(&denied) => match self.page(key.as_str(), None).await {
                Ok(page) if page.objects.iter().all(|l| l.key != *key) => {
                    Err(StoreError::NotFound { key: key.clone() })
                }
                _ => Err(denied),
            },
            answer => answer,
        }
    }
}

#[async_trait]
impl Store for S3 {
    fn keeper(&self) -> Option<&dyn Keeper> {
        Some(self)
    }

    fn location(&self) -> String {
        let S3Options { endpoint, bucket, prefix, .. } = &*self.options;
        let slash = if prefix.is_empty() { "" } else { "/" };
        match endpoint {
            Some(endpoint) => format!("s3:{}/{bucket}{slash}{prefix}", super::url::without_user(endpoint)),
            None => format!("s3://{bucket}{slash}{prefix}"),
        }
    }

    async fn put_new(&self, key: &Key, body: Bytes) -> Result<()> {
        self.upload(Verb::PutNew, key, body).await
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<()> {
        self.upload(Verb::Put, key, body).await
    }

    async fn get(&self, key: &Key, max: u64) -> Result<Bytes> {
        let call = async {
            let got = self.download(key, None).await?;
            self.read(key, got.body, got.content_length, max).await
        };
        self.or_absent(key, within(self.request(Verb::Get, Some(key)), max, call).await).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        // What no `Range` header can say: nothing, or more than servers can count.
        if range.is_empty() || range.end > i64::MAX as u64 {
            let size = self.head(key).await?;
            check_range(key, &range, size)?;
            return Ok(Bytes::new());
        }
        let len = range.end - range.start;
        let call = async {
            let got = self.download(key, Some(&range)).await?;
            check_answered_range(key, &range, &got)?;
            let body = self.read(key, got.body, got.content_length, len).await?;
            check_range(key, &range, range.start + body.len() as u64)?;
            Ok(body)
        };
        self.or_absent(key, within(self.request(Verb::Get, Some(key)), len, call).await).await
    }

    async fn head(&self, key: &Key) -> Result<u64> {
        let request = self.request(Verb::Head, Some(key));
        let (algorithm, customer_key, md5) = self.customer_key();
        let mut head = self.client.head_object().bucket(&self.options.bucket).key(self.object(key));
        head =
            head.set_sse_customer_algorithm(algorithm).set_sse_customer_key(customer_key).set_sse_customer_key_md5(md5);
        let told = within(request, 0, async { head.send().await.map_err(|e| sort(request, e)) }).await;
        let told = self.or_absent(key, told).await?;
        let size = told.content_length.and_then(|n| u64::try_from(n).ok());
        size.ok_or_else(|| StoreError::Wrong { what: request.what(), how: "no length".into() })
    }

    async fn list(&self, prefix: &str, after: Option<&Key>) -> Result<Page> {
        self.page(prefix, after).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let request = self.request(Verb::Delete, Some(key));
        let delete = self.client.delete_object().bucket(&self.options.bucket).key(self.object(key));
        let call = async {
            match delete.send().await {
                Ok(_) => Ok(()),
                Err(e) if e.raw_response().is_some_and(|r| r.status().as_u16() == 404) && !no_bucket(&e) => Ok(()),
                Err(e) => Err(sort(request, e)),
            }
        };
        within(request, 0, call).await
    }
}

fn no_bucket(error: &impl aws_sdk_s3::error::ProvideErrorMetadata) -> bool {
    error.code() == Some("NoSuchBucket")
}

/// Gives up a call that moves `len` bytes when it takes longer than a stalled one would.
async fn within<T>(request: Request<'_>, len: u64, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
    let limit = CALL_TIMEOUT + Duration::from_secs(len / STALL_RATE);
    match tokio::time::timeout(limit, call).await {
        Ok(done) => done,
        Err(_) => Err(transient(request, format!("not done within {} s", limit.as_secs()).into())),
    }
}

/// The range that the server says it sends; without a `Content-Range` it sends the whole object.
fn check_answered_range(key: &Key, asked: &Range<u64>, got: &GetObjectOutput) -> Result<()> {
    let wrong =
        |how: String| StoreError::Wrong { what: format!("get {key} bytes {}..{}", asked.start, asked.end), how };
    let Some(told) = got.content_range.as_deref() else {
        if asked.start == 0 && got.content_length.is_some_and(|n| n as u64 == asked.end - asked.start) {
            return Ok(());
        }
        return Err(wrong("the whole object instead of a range".into()));
    };
    let place = told.strip_prefix("bytes ").and_then(|t| t.split_once('/')).map(|(place, _)| place);
    if place != Some(&format!("{}-{}", asked.start, asked.end - 1)) {
        return Err(wrong(format!("range {:?}", told.chars().take(80).collect::<String>())));
    }
    Ok(())
}
