//! From what an S3 server or the way to it says, to a [`StoreError`] that tells what to do next.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use crate::store::url::without_user;
use crate::store::{BoxError, Key, StoreError, Verb};

/// Longest wait that a `Retry-After` may ask for; above it our own deadline decides.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// What a request was about, for messages and for reading its answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) verb: Verb,
    /// The object, or none for a LIST.
    pub(super) key: Option<&'a Key>,
    pub(super) bucket: &'a str,
    /// `http[s]://host[:port]` where one is given.
    pub(super) endpoint: Option<&'a str>,
}

impl Request<'_> {
    pub(super) fn what(&self) -> String {
        let verb = self.verb;
        match self.key {
            Some(key) => format!("{verb} {key}"),
            None => format!("{verb} bucket {}", self.bucket),
        }
    }
}

/// An answer of the server that is not success: cause of a [`StoreError`].
#[derive(Debug)]
pub(super) struct Answer {
    status: u16,
    /// S3's code, e.g. `SlowDown`; empty where the answer has no body (HEAD) or a foreign one.
    code: String,
    message: String,
    request_id: Option<String>,
    /// The region that the server says the bucket lies in.
    region: Option<String>,
    retry_after: Option<Duration>,
    hint: &'static str,
}

impl Error for Answer {}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server answered {}", self.status)?;
        for (before, text, after) in [(" ", self.code.as_str(), ""), (" (", self.message.as_str(), ")")] {
            if !text.is_empty() {
                write!(f, "{before}{text}{after}")?;
            }
        }
        if let Some(id) = &self.request_id {
            write!(f, ", request {id}")?;
        }
        if !self.hint.is_empty() {
            write!(f, "; {}", self.hint)?;
        }
        Ok(())
    }
}

/// How long the server asked to wait before the next try, if it did.
pub(crate) fn retry_after(error: &StoreError) -> Option<Duration> {
    let StoreError::Transient { source, .. } = error else { return None };
    source.downcast_ref::<Answer>()?.retry_after
}

/// Whether this refusal of a read may mean that the object is not there. The answer to a HEAD has no code.
pub(super) fn may_hide_absence(error: &StoreError) -> bool {
    let StoreError::Denied { source, .. } = error else { return false };
    source.downcast_ref::<Answer>().is_some_and(|a| a.status == 403 && matches!(a.code.as_str(), "" | "AccessDenied"))
}

/// Whether the server does not know what was asked for, or says that the bucket was not set up for it.
pub(super) fn lacks_feature(error: &StoreError) -> bool {
    let StoreError::Failed { source, .. } = error else { return false };
    source.downcast_ref::<Answer>().is_some_and(|a| {
        matches!(a.status, 404 | 405 | 501)
            || (a.status == 400 && matches!(a.code.as_str(), "InvalidRequest" | "NotImplemented"))
    })
}

/// Sorts the failure of a call of the SDK.
pub(super) fn sort<E>(request: Request<'_>, error: SdkError<E, HttpResponse>) -> StoreError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    match error {
        SdkError::ServiceError(e) => {
            let answer = read_answer(e.err().code(), e.err().message(), e.raw());
            sort_answer(request, answer)
        }
        // The body was not S3's XML, e.g. a proxy's page: the status alone speaks.
        SdkError::ResponseError(e) if !(200..300).contains(&e.raw().status().as_u16()) => {
            sort_answer(request, read_answer(None, None, e.raw()))
        }
        SdkError::TimeoutError(_) => transient(request, "the server did not answer in time".into()),
        SdkError::ConstructionFailure(_) if find::<CredentialsError>(&error).is_none() => {
            StoreError::Failed { what: request.what(), source: chain_text(&error).into() }
        }
        other => sort_unanswered(request, other.into()),
    }
}

pub(super) fn transient(request: Request<'_>, source: BoxError) -> StoreError {
    StoreError::Transient { what: request.what(), source }
}

fn read_answer(code: Option<&str>, message: Option<&str>, raw: &HttpResponse) -> Answer {
    let header = |name| raw.headers().get(name).map(str::to_owned);
    let seconds = header("retry-after").and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
    Answer {
        status: raw.status().as_u16(),
        // Words of an untrusted server, kept to a length that fits a message.
        code: code.unwrap_or_default().chars().take(80).collect(),
        message: message.unwrap_or_default().chars().filter(|c| !c.is_control()).take(300).collect(),
        request_id: header("x-amz-request-id").map(|id| id.chars().take(80).collect()),
        region: header("x-amz-bucket-region").or_else(|| expected_region(message.unwrap_or_default())),
        retry_after: seconds.map(|s| s.min(RETRY_AFTER_MAX)),
        hint: "",
    }
}

/// `eu-west-1` from "the region 'us-east-1' is wrong; expecting 'eu-west-1'".
fn expected_region(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("expecting '")?;
    let (region, _) = rest.split_once('\'')?;
    region.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-').then(|| region.to_owned())
}

fn sort_answer(request: Request<'_>, mut answer: Answer) -> StoreError {
    let what = request.what();
    if let Some(hint) = setup_hint(request, &answer) {
        return StoreError::Setup { what, hint, source: answer.into() };
    }
    let key = || request.key.cloned().expect("requests that can meet this name a key");
    let code = answer.code.as_str();
    match (answer.status, code) {
        (404, _)
            if matches!(request.verb, Verb::Get | Verb::GetRange | Verb::Head | Verb::Retain | Verb::Retention) =>
        {
            StoreError::NotFound { key: key() }
        }
        (412, _) if request.verb == Verb::PutNew => StoreError::Exists { key: key() },
        (416, _) if request.verb == Verb::GetRange => {
            StoreError::Wrong { what, how: "it is shorter than the range asked for".into() }
        }
        (507, _) | (_, "QuotaExceeded" | "XMinioStorageFull" | "XMinioAdminBucketQuotaExceeded" | "StorageFull") => {
            StoreError::Full { what, source: answer.into() }
        }
        (401 | 403, _) => {
            answer.hint = denied_hint(code);
            StoreError::Denied { what, source: answer.into() }
        }
        // Another write or delete of this key was under way. That is no proof that the key is taken: the other one may
        // fail. The next try finds out.
        (409, "" | "ConditionalRequestConflict" | "OperationAborted" | "ConcurrentModification") => {
            StoreError::Transient { what, source: answer.into() }
        }
        // Broken on the way there.
        (400, "RequestTimeout" | "BadDigest" | "XAmzContentSHA256Mismatch" | "IncompleteBody" | "InvalidDigest") => {
            StoreError::Transient { what, source: answer.into() }
        }
        (501 | 505, _) => {
            answer.hint = "this server lacks a feature that is needed or asked for";
            StoreError::Failed { what, source: answer.into() }
        }
        (408 | 425 | 429 | 500.., _) | (_, "SlowDown" | "Throttling" | "ThrottlingException" | "InternalError") => {
            StoreError::Transient { what, source: answer.into() }
        }
        _ => StoreError::Failed { what, source: answer.into() },
    }
}

/// What to change in the set-up, where the answer says that it is wrong.
fn setup_hint(request: Request<'_>, answer: &Answer) -> Option<String> {
    let bucket = request.bucket;
    match (answer.status, answer.code.as_str()) {
        (_, "NoSuchBucket" | "InvalidBucketName") => {
            Some(format!("there is no bucket {bucket:?}; check its name and the endpoint, or create it first"))
        }
        // Writes and LISTs address the bucket; a 404 without S3's code comes from something that is no S3 server.
        (404, _) if matches!(request.verb, Verb::Put | Verb::PutNew | Verb::List) => {
            Some(format!("bucket {bucket:?} was not found; check endpoint, bucket and path style"))
        }
        (_, "RequestTimeTooSkewed" | "RequestExpired") => {
            Some("this machine's clock differs from the server's by minutes; set it right (NTP)".into())
        }
        (301 | 307 | 308, _)
        | (
            _,
            "PermanentRedirect"
            | "TemporaryRedirect"
            | "AuthorizationHeaderMalformed"
            | "IllegalLocationConstraintException",
        ) => Some(match &answer.region {
            Some(region) => format!("bucket {bucket:?} lies in region {region}; set AWS_REGION={region}"),
            None => format!(
                "bucket {bucket:?} lies in another region or under another endpoint; set AWS_REGION or the endpoint in the URL"
            ),
        }),
        (400, "InvalidStorageClass") => {
            Some("the server does not know the storage class; check --s3-storage-class".into())
        }
        (
            400,
            "InvalidEncryptionAlgorithmError"
            | "InvalidEncryptionMethod"
            | "KMS.NotFoundException"
            | "KMS.DisabledException",
        ) => Some("the server refuses the encryption asked for; check --s3-sse and --s3-sse-c-key-file".into()),
        (400, "InvalidRequest") if answer.message.to_ascii_lowercase().contains("encrypt") => {
            Some("the object is encrypted with a customer key; give the right one with --s3-sse-c-key-file".into())
        }
        _ => None,
    }
}

fn denied_hint(code: &str) -> &'static str {
    match code {
        "SignatureDoesNotMatch" => "the secret key does not belong to the access key, or a proxy changed the request",
        "InvalidAccessKeyId" => "the server does not know the access key",
        "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" => {
            "the session token has expired or is wrong: log in again"
        }
        "AccessDenied" => {
            "the credentials are good but may not do this: check bucket policy and role (`policy s3` prints what is needed), \
             Object Lock, and the customer key if one is used"
        }
        _ => "check credentials, bucket policy and this machine's clock",
    }
}

/// Nothing came back: no credentials, no connection, no TLS.
fn sort_unanswered(request: Request<'_>, error: BoxError) -> StoreError {
    let what = request.what();
    let chain = chain_text(&*error);
    if find::<CredentialsError>(&*error).is_some() {
        let hint =
            "no usable AWS credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
                .into();
        return StoreError::Setup { what, hint, source: chain.into() };
    }
    if chain.contains("certificate") {
        let hint = "the server's certificate is not trusted; give its CA with --cacert, and the name it is issued for in the URL".into();
        return StoreError::Setup { what, hint, source: chain.into() };
    }
    if ["corrupt message", "InvalidContentType", "InvalidMessage", "wrong version number"]
        .iter()
        .any(|t| chain.contains(t))
    {
        let hint = "the server does not speak TLS there; use http:// or another port in the URL".into();
        return StoreError::Setup { what, hint, source: chain.into() };
    }
    let source = match chain.split_once("client error (Connect)") {
        Some((_, cause)) => format!("{} cannot be reached{cause}", request.endpoint.map_or("AWS".into(), without_user)),
        None => chain,
    };
    StoreError::Transient { what, source: source.into() }
}

fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    layers(error).find_map(|e| e.downcast_ref())
}

fn layers<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |e| (*e).source())
}

/// All layers in one line: the SDK's own texts ("dispatch failure") say nothing alone.
pub(super) fn chain_text(error: &(dyn Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    for layer in layers(error) {
        let text = layer.to_string();
        if !texts.iter().any(|t| t.contains(&text)) {
            texts.push(text);
        }
    }
    texts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(verb: Verb, status: u16, code: &str, message: &str) -> StoreError {
        let key = Key::new("pack/a").expect("a key");
        let answer = Answer {
            status,
            code: code.into(),
            message: message.into(),
            request_id: None,
            region: expected_region(message),
            retry_after: None,
            hint: "",
        };
        sort_answer(Request { verb, key: Some(&key), bucket: "b", endpoint: None }, answer)
    }

    #[test]
    fn answers_are_sorted_by_what_can_be_done() {
        use StoreError as E;
        assert!(matches!(sorted(Verb::Get, 404, "NoSuchKey", ""), E::NotFound { .. }));
        assert!(matches!(sorted(Verb::Head, 404, "", ""), E::NotFound { .. }));
        assert!(matches!(sorted(Verb::Get, 404, "NoSuchBucket", ""), E::Setup { .. }));
        assert!(matches!(sorted(Verb::Put, 404, "", ""), E::Setup { .. }));
        assert!(matches!(sorted(Verb::PutNew, 412, "PreconditionFailed", ""), E::Exists { .. }));
        assert!(matches!(sorted(Verb::Put, 412, "PreconditionFailed", ""), E::Failed { .. }));
        assert!(matches!(sorted(Verb::PutNew, 409, "ConditionalRequestConflict", ""), E::Transient { .. }));
        assert!(matches!(sorted(Verb::GetRange, 416, "InvalidRange", ""), E::Wrong { .. }));
        assert!(matches!(sorted(Verb::Put, 403, "QuotaExceeded", ""), E::Full { .. }));
        assert!(matches!(sorted(Verb::Put, 507, "", ""), E::Full { .. }));
        assert!(matches!(sorted(Verb::Put, 501, "NotImplemented", ""), E::Failed { .. }));
        for status in [429, 500, 502, 503, 504] {
            assert!(matches!(sorted(Verb::List, status, "", ""), E::Transient { .. }), "{status}");
        }
    }

    #[test]
    fn hints_name_the_next_step() {
        let region = "The authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-west-1'";
        let wrong = sorted(Verb::Get, 400, "AuthorizationHeaderMalformed", region);
        assert!(wrong.to_string().contains("set AWS_REGION=eu-west-1"), "{wrong}");
        let skewed = sorted(Verb::Get, 403, "RequestTimeTooSkewed", "");
        assert!(skewed.to_string().contains("clock"), "{skewed}");
        let denied = sorted(Verb::Get, 403, "SignatureDoesNotMatch", "");
        let cause = denied.source().expect("a cause").to_string();
        assert_eq!(
            cause,
            "the server answered 403 SignatureDoesNotMatch; the secret key does not belong to the access key, or a proxy changed the request"
        );
    }
}
