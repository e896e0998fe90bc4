//! The API server, as somebody: tokens of tenants, kinds, raw objects.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, ServiceAccount};
use kube::api::{ApiResource, DynamicObject, ListParams, PostParams};
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::api::TENANT;
use crate::shim::kind::Kind;

/// How long a tenant's token is good, in seconds: the least that an API server gives.
const TOKEN_SECONDS: i64 = 600;
/// Objects of one page of a list.
const PAGE: u32 = 500;

/// Now, as the API writes times.
pub fn now() -> String {
    let now = k8s_openapi::jiff::Timestamp::now();
    k8s_openapi::jiff::Timestamp::from_second(now.as_second())
        .map_or_else(|_| now.to_string(), |whole| whole.to_string())
}

/// Whether the API server says that there is no such object.
pub fn is_missing(error: &kube::Error) -> bool {
    code(error) == Some(404)
}

/// Whether it says that this may not be done.
pub fn is_forbidden(error: &kube::Error) -> bool {
    code(error) == Some(403)
}

/// Whether somebody else was faster, or it exists.
pub fn is_conflict(error: &kube::Error) -> bool {
    code(error) == Some(409)
}

/// The status of an answer.
pub fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// Clients that act as the account `copal` of a namespace, and may do no more than it.
pub struct Tenants {
    config: Config,
    client: Client,
    known: Mutex<HashMap<String, (Client, Instant)>>,
}

impl Tenants {
    /// Tokens are asked for as whoever `client` is.
    pub fn new(config: Config, client: Client) -> Self {
        Self { config, client, known: Mutex::default() }
    }

    /// As the tenant. An error in a sentence where the namespace has not opted in.
    pub async fn client(&self, namespace: &str) -> Result<Client> {
        let known = self.known.lock().expect("no panic while held").get(namespace).cloned();
        if let Some((client, until)) = known.filter(|(_, until)| Instant::now() < *until) {
            let _ = until;
            return Ok(client);
        }
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let spec = TokenRequestSpec { expiration_seconds: Some(TOKEN_SECONDS), ..TokenRequestSpec::default() };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let answer = match accounts.create_token_request(TENANT, &PostParams::default(), &request).await {
            Err(e) if is_missing(&e) => {
                return Err(anyhow!(
                    "the namespace {namespace} has no ServiceAccount {TENANT}: kubectl copal init makes it, or create it and bind \
                     the ClusterRole edit to it"
                ));
            }
            answer => answer.context("cannot get a token of the namespace's account copal")?,
        };
        let token = Zeroizing::new(answer.status.map(|status| status.token).unwrap_or_default());
        let mut config = self.config.clone();
        config.auth_info = serde_json::from_value(json!({"token": *token}))?;
        config.default_namespace = namespace.into();
        let client = Client::try_from(config)?;
        let until = Instant::now() + Duration::from_secs(TOKEN_SECONDS as u64 / 2);
        self.known.lock().expect("no panic while held").insert(namespace.into(), (client.clone(), until));
        Ok(client)
    }

    /// Forgets a token that is refused.
    pub fn forget(&self, namespace: &str) {
        self.known.lock().expect("no panic while held").remove(namespace);
    }
}

/// Kinds that are served in namespaces, each in the version that its group prefers, and groups that do not answer.
pub async fn kinds(client: &Client) -> Result<(Vec<Kind>, Vec<String>)> {
    let groups = client.list_api_groups_aggregated().await.context("cannot ask which kinds there are")?;
    let core = client.list_core_api_versions_aggregated().await.context("cannot ask which kinds there are")?;
    let (mut kinds, mut silent) = (BTreeMap::new(), Vec::new());
    for group in core.items.into_iter().chain(groups.items) {
        let name = group.metadata.and_then(|meta| meta.name).unwrap_or_default();
        for found in group.versions {
            let version = found.version.unwrap_or_default();
            if found.freshness.as_deref() == Some("Stale") {
                silent.push(format!("{version}.{name}"));
            }
            for resource in found.resources.into_iter().filter(|r| r.scope.as_deref() == Some("Namespaced")) {
                let (Some(plural), Some(is)) = (resource.resource, resource.response_kind) else { continue };
                let kind = is.kind.unwrap_or_default();
                // The first version is the preferred one.
                kinds.entry((name.clone(), plural.clone())).or_insert_with(|| Kind {
                    group: name.clone(),
                    version: version.clone(),
                    kind,
                    plural,
                    verbs: resource.verbs.into_iter().collect(),
                });
            }
        }
    }
    Ok((kinds.into_values().collect(), silent))
}

/// Objects of a kind in a namespace.
pub fn objects(client: &Client, kind: &Kind, namespace: &str) -> Api<DynamicObject> {
    let resource = ApiResource {
        group: kind.group.clone(),
        version: kind.version.clone(),
        api_version: kind.api_version(),
        kind: kind.kind.clone(),
        plural: kind.plural.clone(),
    };
    Api::namespaced_with(client.clone(), namespace, &resource)
}

/// All of them, as the API gives them.
pub async fn list(client: &Client, kind: &Kind, namespace: &str, selector: &str) -> kube::Result<Vec<Value>> {
    let api = objects(client, kind, namespace);
    let mut params = ListParams::default().limit(PAGE).labels(selector);
    let mut all = Vec::new();
    loop {
        let page = api.list(&params).await?;
        all.extend(page.items.iter().map(|object| value(object, kind)));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(all),
        }
    }
}

/// An object with its kind, which lists leave out.
pub fn value(object: &DynamicObject, kind: &Kind) -> Value {
    let mut value = serde_json::to_value(object).unwrap_or_default();
    value["apiVersion"] = json!(kind.api_version());
    value["kind"] = json!(kind.kind);
    value
}

/// Whether whoever `client` is may do this in the namespace.
pub async fn may(client: &Client, kind: &Kind, namespace: &str, verb: &str) -> kube::Result<bool> {
    let attributes = ResourceAttributes {
        namespace: Some(namespace.into()),
        verb: Some(verb.into()),
        group: Some(kind.group.clone()),
        resource: Some(kind.plural.clone()),
        ..ResourceAttributes::default()
    };
    let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
    let review = SelfSubjectAccessReview { spec, ..Default::default() };
    let answer = Api::<SelfSubjectAccessReview>::all(client.clone()).create(&PostParams::default(), &review).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

/// A value of a Secret, as text.
pub async fn secret(client: &Client, namespace: &str, name: &str, key: &str) -> Result<Zeroizing<String>> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = secrets.get(name).await.with_context(|| format!("cannot read the Secret {name}"))?;
    let bytes = secret.data.unwrap_or_default().remove(key);
    let bytes = bytes.ok_or_else(|| anyhow!("the Secret {name} has no {key}"))?;
    Ok(Zeroizing::new(String::from_utf8(bytes.0).with_context(|| format!("{key} of the Secret {name} is no text"))?))
}

/// A value of a ConfigMap.
pub async fn config_map(client: &Client, namespace: &str, name: &str, key: &str) -> Result<String> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let map = maps.get(name).await.with_context(|| format!("cannot read the ConfigMap {name}"))?;
    map.data.unwrap_or_default().remove(key).ok_or_else(|| anyhow!("the ConfigMap {name} has no {key}"))
}
