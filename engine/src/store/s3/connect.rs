//! From [`S3Options`] to a client of the SDK.

use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::timeout::TimeoutConfig;
use aws_credential_types::Credentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    AppName, BehaviorVersion, Region, RequestChecksumCalculation, ResponseChecksumValidation, SharedHttpClient,
    StalledStreamProtectionConfig, retry::RetryConfig,
};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{self, TlsContext, TrustStore, rustls_provider::CryptoMode};
use aws_smithy_http_client::{Builder, Connector};

use super::{PathStyle, S3Options};
use crate::store::{Result, StoreError};

/// Time to establish a connection, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long an unused connection is kept: less than what load balancers allow (60 s and more).
const IDLE_TIMEOUT: Duration = Duration::from_secs(45);
/// Whether the system trusts no CA at all.
static NO_ROOTS: LazyLock<bool> = LazyLock::new(|| rustls_native_certs::load_native_certs().certs.is_empty());
/// Longest CA file that is read.
const CA_BYTES_MAX: u64 = 4 << 20;

/// Makes a client; sends no request to the bucket, but may ask the machine's metadata service for region or credentials.
pub(super) async fn client(options: &S3Options) -> Result<Client> {
    if options.insecure_tls {
        let hint = "the TLS library used here always verifies certificates; give the server's CA with --cacert instead of --insecure-tls";
        return Err(setup(options, hint.into(), "not supported".into()));
    }
    let ca = options.ca_file.as_deref().map(|file| read_ca(options, file)).transpose()?;
    let http = http_client(options, ca)?;
    let mut loader = aws_config::defaults(BehaviorVersion::latest()).region(region(options)).http_client(http.clone());
    if let Some(profile) = &options.profile {
        loader = loader.profile_name(profile);
    }
    if let Some(keys) = &options.keys {
        let token = keys.session_token.as_ref().map(|t| t.to_string());
        let keys = Credentials::new(&*keys.access_key, &*keys.secret_key, token, None, "static");
        loader = loader.credentials_provider(keys);
    }
    let shared = loader.load().await;
    let mut config = aws_sdk_s3::config::Builder::from(&shared)
        .app_name(AppName::new("copal").expect("a plain word"))
        .http_client(http)
        .force_path_style(path_style(options))
        // Retrying is `Retry`'s work, and time limits are ours: they grow with the body (see `within`).
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).build())
        // Trailing checksums make older servers refuse a put; ours are headers.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    if let Some(endpoint) = &options.endpoint {
        config = config.endpoint_url(endpoint);
    }
    Ok(Client::from_conf(config.build()))
}

/// The one given, else environment, else profile, else (at AWS) the machine's own, else the one that most servers use.
fn region(options: &S3Options) -> RegionProviderChain {
    let given = RegionProviderChain::first_try(options.region.clone().map(Region::new));
    let chain = if options.endpoint.is_some() {
        let mut profile = ProfileFileRegionProvider::builder();
        if let Some(name) = &options.profile {
            profile = profile.profile_name(name);
        }
        given.or_else(EnvironmentVariableRegionProvider::new()).or_else(profile.build())
    } else {
        given.or_default_provider()
    };
    chain.or_else(Region::new("us-east-1"))
}

/// Virtual-host style needs DNS below the endpoint and, with TLS, a name without dots: what only AWS has for sure.
fn path_style(options: &S3Options) -> bool {
    match options.path_style {
        PathStyle::Path => true,
        PathStyle::Virtual => false,
        PathStyle::Auto => options.endpoint.is_some() || options.bucket.contains('.'),
    }
}

fn http_client(options: &S3Options, ca: Option<Vec<u8>>) -> Result<SharedHttpClient> {
    let trust = match ca {
        // A private CA is trusted instead of the system's, not beside them.
        Some(pem) => TrustStore::empty().with_pem_certificate(pem),
        // Small images have none, and the TLS library takes being told to look for them for a promise that there are some.
        None if *NO_ROOTS => match &options.endpoint {
            Some(endpoint) if endpoint.starts_with("http://") => TrustStore::empty(),
            _ => {
                let hint = "this machine has no CA certificates: install them (package ca-certificates), or give the server's CA with --cacert";
                return Err(setup(options, hint.into(), "no server can be verified".into()));
            }
        },
        None => TrustStore::default(),
    };
    let context = TlsContext::builder().with_trust_store(trust).build();
    let context = context.map_err(|e| setup(options, "TLS cannot be set up on this machine".into(), e.into()))?;
    let client = Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = Connector::builder().enable_tcp_nodelay(true).pool_idle_timeout(IDLE_TIMEOUT);
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(|c| c.sleep_impl()));
        let proxied = connector.proxy_config(ProxyConfig::from_env());
        proxied.tls_provider(tls::Provider::Rustls(CryptoMode::AwsLc)).tls_context(context.clone()).build()
    });
    Ok(client)
}

/// Certificates of a PEM file. Checked here, as the TLS library panics on what it cannot read.
fn read_ca(options: &S3Options, file: &Path) -> Result<Vec<u8>> {
    let bad = |how: &str| setup(options, format!("the CA file {} {how}", file.display()), "unusable CA file".into());
    let meta = std::fs::metadata(file)
        .map_err(|e| setup(options, format!("cannot read the CA file {}", file.display()), e.into()))?;
    if meta.len() > CA_BYTES_MAX {
        return Err(bad("is far too long for a list of certificates"));
    }
    let pem = std::fs::read(file)
        .map_err(|e| setup(options, format!("cannot read the CA file {}", file.display()), e.into()))?;
    let text = std::str::from_utf8(&pem).map_err(|_| bad("is not PEM text"))?;
    let mut sections = text.split("-----BEGIN CERTIFICATE-----").skip(1).peekable();
    if sections.peek().is_none() {
        return Err(bad("holds no PEM certificate"));
    }
    for section in sections {
        let (base64, _) =
            section.split_once("-----END CERTIFICATE-----").ok_or_else(|| bad("ends within a certificate"))?;
        let base64: String = base64.split_whitespace().collect();
        let der =
            aws_smithy_types::base64::decode(base64).map_err(|_| bad("holds a certificate that is not base64"))?;
        if !is_der_sequence(&der) {
            return Err(bad("holds something that is not an X.509 certificate"));
        }
    }
    Ok(pem)
}

/// Whether `der` is exactly one SEQUENCE, the outermost layer of a certificate.
fn is_der_sequence(der: &[u8]) -> bool {
    let [0x30, len, rest @ ..] = der else { return false };
    let digits = (len & 0x7f) as usize;
    if len & 0x80 == 0 {
        return rest.len() == digits;
    }
    if digits > 4 || rest.len() < digits {
        return false;
    }
    let len = rest[..digits].iter().fold(0usize, |n, b| n << 8 | *b as usize);
    rest.len() - digits == len
}

fn setup(options: &S3Options, hint: String, source: crate::store::BoxError) -> StoreError {
    StoreError::Setup { what: format!("open bucket {}", options.bucket), hint, source }
}
