//! What stands behind `--repo`: from its text to an open store.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::limit::{Caps, Limit};
use super::local::Local;
use super::retry::{Policy, Retry};
use super::s3::{S3, S3Options};
use super::{Result, Store};

/// The forms that are understood, for messages.
const FORMS: &str = "PATH, local:PATH, s3:https://host[:port]/bucket/prefix, s3:host/bucket/prefix, s3://bucket/prefix";

/// Text that names no repository.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}; a repository is given as one of {FORMS}")]
pub struct BadLocation {
    why: String,
}

/// Where a repository is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// In a directory.
    Local(PathBuf),
    /// In a bucket.
    S3 {
        /// `http[s]://host[:port]`; none = AWS, or what the environment says.
        endpoint: Option<String>,
        /// Where the host's name says it.
        region: Option<String>,
        /// Name of the bucket.
        bucket: String,
        /// Without slashes at its ends; empty = the whole bucket.
        prefix: String,
    },
}

/// How to open a store; the fields of [`S3Options`] that the location gives are taken from there.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// For buckets.
    pub s3: S3Options,
    /// Rates and connections.
    pub caps: Caps,
    /// Patience.
    pub retry: Policy,
}

/// Opens the store at `location`, with retries and caps. A directory must exist; a bucket is not asked yet.
pub async fn open(location: &Location, options: &Options) -> Result<Arc<dyn Store>> {
    match location {
        Location::Local(path) => Ok(directory(Local::open(path)?, options)),
        Location::S3 { .. } => {
            let bucket = S3::connect(bucket_options(location, options)).await?;
            Ok(wrapped(Arc::new(bucket), options, options.retry))
        }
    }
}

/// As [`open`], and makes a directory that is missing. Buckets are never made.
pub async fn create(location: &Location, options: &Options) -> Result<Arc<dyn Store>> {
    match location {
        Location::Local(path) => Ok(directory(Local::create(path)?, options)),
        Location::S3 { .. } => open(location, options).await,
    }
}

fn directory(store: Local, options: &Options) -> Arc<dyn Store> {
    wrapped(Arc::new(store), options, Policy { wrong_retries: 0, ..options.retry })
}

fn wrapped(store: Arc<dyn Store>, options: &Options, policy: Policy) -> Arc<dyn Store> {
    Arc::new(Retry::new(Arc::new(Limit::new(store, options.caps)), policy))
}

fn bucket_options(location: &Location, options: &Options) -> S3Options {
    let mut s3 = options.s3.clone();
    if let Location::S3 { endpoint, region, bucket, prefix } = location {
        s3.endpoint = endpoint.clone();
        s3.region = region.clone().or(s3.region);
        (s3.bucket, s3.prefix) = (bucket.clone(), prefix.clone());
    }
    s3
}

impl Location {
    /// Reads the text of `--repo`.
    pub fn parse(text: &OsStr) -> Result<Self, BadLocation> {
        let bytes = text.as_bytes();
        if bytes.is_empty() {
            return Err(bad("no repository is given"));
        }
        if let Some(path) = bytes.strip_prefix(b"local:") {
            return local(path);
        }
        let Some(text) = text.to_str() else { return local(bytes) };
        if let Some(rest) = text.strip_prefix("s3:") {
            return s3(rest);
        }
        match scheme(text) {
            Some("file") => Err(bad("file: is not understood: write the path alone")),
            Some("http" | "https") => {
                Err(bad("a web address alone is not understood: write s3: before it for an S3 server"))
            }
            Some(other) => {
                Err(bad(format!("{other}: is not understood (a directory with a colon in its name is local:{text})")))
            }
            None => local(bytes),
        }
    }
}

impl std::str::FromStr for Location {
    type Err = BadLocation;
    fn from_str(text: &str) -> Result<Self, BadLocation> {
        Self::parse(OsStr::new(text))
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => {
                // So that what is shown can be typed.
                let text = path.to_string_lossy();
                let mark = if scheme(&text).is_some() { "local:" } else { "" };
                write!(f, "{mark}{text}")
            }
            Self::S3 { endpoint, bucket, prefix, region } => {
                match (endpoint, region) {
                    (Some(endpoint), _) => write!(f, "s3:{}/{bucket}", without_user(endpoint))?,
                    (None, Some(region)) => write!(f, "s3:s3.{region}.amazonaws.com/{bucket}")?,
                    (None, None) => write!(f, "s3://{bucket}")?,
                }
                if prefix.is_empty() { Ok(()) } else { write!(f, "/{prefix}") }
            }
        }
    }
}

/// `endpoint` as it may be shown: some have credentials in it though they do not belong there.
pub(super) fn without_user(endpoint: &str) -> String {
    let Some((scheme, rest)) = endpoint.split_once("://") else { return endpoint.to_owned() };
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let host = authority.rsplit('@').next().expect("rsplit yields at least one part");
    format!("{scheme}://{host}{path}")
}

fn bad(why: impl Into<String>) -> BadLocation {
    BadLocation { why: why.into() }
}

fn local(path: &[u8]) -> Result<Location, BadLocation> {
    if path.is_empty() || path.contains(&0) {
        return Err(bad("the path of the repository is empty or holds a NUL"));
    }
    Ok(Location::Local(PathBuf::from(OsStr::from_bytes(path))))
}

/// The word before a colon that no slash precedes, if it looks like that of a URL.
fn scheme(text: &str) -> Option<&str> {
    let (word, _) = text.split_once(':')?;
    let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    (word.starts_with(|c: char| c.is_ascii_alphabetic()) && word.chars().all(letter)).then_some(word)
}

/// What follows `s3:`.
fn s3(rest: &str) -> Result<Location, BadLocation> {
    if let Some(path) = rest.strip_prefix("//") {
        let (bucket, prefix) = bucket_and_prefix(path)?;
        return Ok(Location::S3 { endpoint: None, region: None, bucket, prefix });
    }
    let (scheme, rest) = match rest.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
        Some(_) => return Err(bad("an S3 server is reached by http:// or https://")),
        None => ("https", rest),
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    check_host(host)?;
    let (bucket, prefix) = bucket_and_prefix(path)?;
    let (endpoint, region) = match aws_region(host) {
        Aws::Region(region) if scheme == "https" => (None, region.map(str::to_owned)),
        Aws::BucketInHost => {
            return Err(bad("the bucket's name stands in the host's: write s3:s3.REGION.amazonaws.com/BUCKET"));
        }
        _ => (Some(format!("{scheme}://{host}")), None),
    };
    Ok(Location::S3 { endpoint, region, bucket, prefix })
}

fn check_host(host: &str) -> Result<(), BadLocation> {
    if host.contains('@') {
        return Err(bad("credentials do not belong into the address: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"));
    }
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    };
    let bracketed = name.strip_prefix('[').and_then(|n| n.strip_suffix(']'));
    let name_ok = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_')),
    };
    let port_ok = port.is_none_or(|p| p.parse::<u16>().is_ok_and(|p| p > 0));
    if name_ok && port_ok { Ok(()) } else { Err(bad(format!("{host:?} is no host and port"))) }
}

/// What an AWS host name says.
enum Aws<'a> {
    /// S3 itself, perhaps of a region.
    Region(Option<&'a str>),
    BucketInHost,
    /// Another server, or a special endpoint of AWS that is used as it stands.
    Other,
}

fn aws_region(host: &str) -> Aws<'_> {
    let Some(name) = host.strip_suffix(".amazonaws.com").or_else(|| host.strip_suffix(".amazonaws.com.cn")) else {
        return Aws::Other;
    };
    let region = match name.strip_prefix("s3.").or_else(|| name.strip_prefix("s3-")) {
        _ if name == "s3" => return Aws::Region(None),
        Some(region) => region,
        None if name.ends_with(".s3") || name.contains(".s3.") || name.contains(".s3-") => return Aws::BucketInHost,
        None => return Aws::Other,
    };
    let plain = !region.contains('.') && region.matches('-').count() >= 2 && !region.starts_with("fips");
    if plain { Aws::Region(Some(region)) } else { Aws::Other }
}

fn bucket_and_prefix(path: &str) -> Result<(String, String), BadLocation> {
    let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
    let char_ok = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_');
    if bucket.is_empty() {
        return Err(bad("the bucket's name is missing"));
    }
    if bucket.len() > 255 || !bucket.bytes().all(char_ok) || bucket.bytes().all(|c| c == b'.') {
        return Err(bad(format!("{bucket:?} is no name of a bucket")));
    }
    let prefix = prefix.trim_matches('/');
    let part_ok = |p: &str| {
        !matches!(p, "" | "." | "..") && !p.contains(|c: char| c.is_control() || matches!(c, '?' | '#' | '\\'))
    };
    if !prefix.is_empty() && !prefix.split('/').all(part_ok) {
        return Err(bad(format!("the prefix {prefix:?} has an empty part or a character that does not belong there")));
    }
    Ok((bucket.into(), prefix.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(endpoint: Option<&str>, region: Option<&str>, bucket: &str, prefix: &str) -> Location {
        let own = |text: Option<&str>| text.map(str::to_owned);
        Location::S3 { endpoint: own(endpoint), region: own(region), bucket: bucket.into(), prefix: prefix.into() }
    }

    #[test]
    fn all_forms_are_read_and_shown() {
        let local = |path: &str| Location::Local(path.into());
        for (text, expected, shown) in [
            ("/srv/backup", local("/srv/backup"), "/srv/backup"),
            ("relative/a:b", local("relative/a:b"), "relative/a:b"),
            ("local:a:b", local("a:b"), "local:a:b"),
            ("local:a", local("a"), "a"),
            ("s3:https://h:9000/b/p/q/", bucket(Some("https://h:9000"), None, "b", "p/q"), "s3:https://h:9000/b/p/q"),
            (
                "s3:http://127.0.0.1:7480/b",
                bucket(Some("http://127.0.0.1:7480"), None, "b", ""),
                "s3:http://127.0.0.1:7480/b",
            ),
            ("s3:http://[::1]:80/b", bucket(Some("http://[::1]:80"), None, "b", ""), "s3:http://[::1]:80/b"),
            ("s3:h.example/b/p", bucket(Some("https://h.example"), None, "b", "p"), "s3:https://h.example/b/p"),
            ("s3:s3.amazonaws.com/b", bucket(None, None, "b", ""), "s3://b"),
            (
                "s3:s3.eu-west-1.amazonaws.com/b/p",
                bucket(None, Some("eu-west-1"), "b", "p"),
                "s3:s3.eu-west-1.amazonaws.com/b/p",
            ),
            (
                "s3:https://s3-eu-west-1.amazonaws.com/b",
                bucket(None, Some("eu-west-1"), "b", ""),
                "s3:s3.eu-west-1.amazonaws.com/b",
            ),
            ("s3://b", bucket(None, None, "b", ""), "s3://b"),
            ("s3://b/p", bucket(None, None, "b", "p"), "s3://b/p"),
        ] {
            let location: Location = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(location, expected, "{text}");
            assert_eq!(location.to_string(), shown, "{text}");
            assert_eq!(shown.parse::<Location>().unwrap_or_else(|e| panic!("{shown}: {e}")).to_string(), shown);
        }
    }

    #[test]
    fn what_is_not_understood_says_so() {
        for (text, why) in [
            ("", "no repository"),
            ("local:", "empty"),
            ("sftp:host:/x", "sftp: is not understood"),
            ("https://h/b", "write s3: before it"),
            ("file:///srv", "path alone"),
            ("s3:", "no host"),
            ("s3://", "bucket's name is missing"),
            ("s3:https://h", "bucket's name is missing"),
            ("s3:ftp://h/b", "http:// or https://"),
            ("s3:https://key:secret@h/b", "credentials do not belong"),
            ("s3:https://h:99999/b", "no host and port"),
            ("s3:https://h/b/../c", "prefix"),
            ("s3:https://h/b/c?versioning", "prefix"),
            ("s3:b.s3.eu-west-1.amazonaws.com/p", "bucket's name stands in the host's"),
        ] {
            let error = text.parse::<Location>().expect_err(text).to_string();
            assert!(error.contains(why) && error.contains("s3://bucket/prefix"), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn paths_need_not_be_text() {
        let path = OsStr::from_bytes(b"/srv/\xff");
        assert_eq!(Location::parse(path), Ok(Location::Local(path.into())));
    }

    #[test]
    fn endpoints_are_shown_without_credentials() {
        assert_eq!(without_user("https://a:b@c:1/d"), "https://c:1/d");
        assert_eq!(without_user("https://c"), "https://c");
    }
}
