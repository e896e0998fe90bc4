//! From a Repository to what opens it: its Secrets, read as the tenant.

use anyhow::{Context as _, Result, anyhow};
use zeroize::Zeroizing;

use super::Context;
use crate::api::KEY;
use crate::api::repository::{NameRef, Repository};
use crate::grant::Grant;
use crate::k8s::{config_map, secret};

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// With the writer's key.
    Write,
    /// With the reader's.
    Read,
}

/// Everything that opens the repository for this. An error says which Secret is missing.
pub(super) async fn grant(
    context: &Context,
    namespace: &str,
    repository: &Repository,
    purpose: Purpose,
) -> Result<Grant> {
    let tenant = context.tenants.client(namespace).await?;
    let spec = &repository.spec;
    let (key, credentials) = match purpose {
        Purpose::Write => (spec.writer_key_secret_ref.as_ref(), &spec.credentials_secret_ref),
        Purpose::Read => (
            spec.reader_key_secret_ref.as_ref(),
            spec.read_credentials_secret_ref.as_ref().unwrap_or(&spec.credentials_secret_ref),
        ),
    };
    let key = key.ok_or_else(|| match purpose {
        Purpose::Write => anyhow!("the Repository names no writerKeySecretRef"),
        Purpose::Read => {
            anyhow!("the Repository names no readerKeySecretRef, which a restore needs: copal key export --role reader")
        }
    })?;
    let value = |of: &NameRef, field: &'static str| {
        let (tenant, name) = (tenant.clone(), of.name.clone());
        async move { secret(&tenant, namespace, &name, field).await }
    };
    let mut grant = Grant::place(&spec.s3);
    grant.access_key = plain(value(credentials, "AWS_ACCESS_KEY_ID").await?);
    grant.secret_key = plain(value(credentials, "AWS_SECRET_ACCESS_KEY").await?);
    grant.bundle = plain(value(key, KEY).await?);
    if let Some(ca) = &spec.ca_secret_ref {
        grant.ca = Some(plain(secret(&tenant, namespace, &ca.name, &ca.key).await?));
    }
    if let Some(ca) = &spec.ca_config_map_ref {
        grant.ca = Some(config_map(&tenant, namespace, &ca.name, &ca.key).await?);
    }
    if let Some(sse) = &spec.sse_customer_key_secret_ref {
        grant.sse_customer_key = Some(plain(secret(&tenant, namespace, &sse.name, &sse.key).await?));
    }
    Ok(grant)
}

fn plain(text: Zeroizing<String>) -> String {
    text.trim_end_matches(['\n', '\r']).to_owned()
}

/// The Repository of a request, as the API has it.
pub(super) async fn repository(context: &Context, namespace: &str, name: &str) -> Result<Option<Repository>> {
    let api: kube::Api<Repository> = kube::Api::namespaced(context.client.clone(), namespace);
    api.get_opt(name).await.with_context(|| format!("cannot read the Repository {name}"))
}

/// Secrets of the namespace that hold keys: they are not recorded.
pub(super) async fn key_secrets(context: &Context, namespace: &str) -> Result<Vec<String>> {
    let api: kube::Api<Repository> = kube::Api::namespaced(context.client.clone(), namespace);
    let all = api.list(&kube::api::ListParams::default()).await.context("cannot list Repositories")?;
    let of = |r: &Repository| {
        let spec = &r.spec;
        let refs = [
            Some(&spec.credentials_secret_ref),
            spec.read_credentials_secret_ref.as_ref(),
            spec.writer_key_secret_ref.as_ref(),
            spec.reader_key_secret_ref.as_ref(),
        ];
        let keys = spec.sse_customer_key_secret_ref.as_ref().map(|key| key.name.clone());
        refs.into_iter().flatten().map(|r| r.name.clone()).chain(keys).collect::<Vec<_>>()
    };
    Ok(all.items.iter().flat_map(of).collect())
}
