//! Whether a Repository can be used: it is opened, with the tenant's own keys.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use copal_engine::store::probe::CreateOnly;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::runtime::controller::Action;
use kube::{Api, ResourceExt};

use super::place::{Purpose, grant};
use super::{Context, Error, set_status};
use crate::api::{Repository, RepositoryStatus};
use crate::grant::Grant;
use crate::k8s::now;

/// How often it is tried again while it works, and while it does not.
const AGAIN: [Duration; 2] = [Duration::from_secs(600), Duration::from_secs(5)];

pub(super) async fn reconcile(repository: Arc<Repository>, context: Arc<Context>) -> Result<Action, Error> {
    let namespace = repository.namespace().unwrap_or_default();
    let api: Api<Repository> = Api::namespaced(context.client.clone(), &namespace);
    let old = repository.status.clone().unwrap_or_default();
    let found = try_out(&context, &namespace, &repository).await;
    let mut status = RepositoryStatus {
        last_validated: Some(now()),
        observed_generation: repository.metadata.generation,
        repository_id: old.repository_id.clone(),
        ..RepositoryStatus::default()
    };
    match &found {
        Ok((id, create_only)) => {
            status.phase = "Available".into();
            status.repository_id = Some(id.clone());
            status.conditions = vec![
                condition(&old, "Ready", true, "Opened", "it was opened with the namespace's own keys"),
                match create_only {
                    CreateOnly::Atomic => {
                        condition(&old, "CreateOnly", true, "Atomic", "of several creators of one object one wins")
                    }
                    _ => condition(
                        &old,
                        "CreateOnly",
                        false,
                        "Overwrites",
                        "the server lets several creators of one object win: only one prune may run at a time",
                    ),
                },
            ];
        }
        Err(e) => {
            // Its account may be another one of that name by now.
            context.tenants.forget(&namespace);
            status.phase = "Unavailable".into();
            status.message = format!("{e:#}");
            status.conditions = vec![condition(&old, "Ready", false, "NotOpened", &status.message)];
        }
    }
    // A status that says the same need not be written each time.
    let same = RepositoryStatus { last_validated: old.last_validated.clone(), ..status.clone() } == old;
    if !same || found.is_ok() {
        let mut value = serde_json::to_value(&status).context("plain values")?;
        value["message"] = status.message.clone().into();
        set_status(&api, &repository.name_any(), &value).await?;
    }
    Ok(Action::requeue(AGAIN[usize::from(found.is_err())]))
}

/// Opens it: its id, and what its store holds to.
async fn try_out(context: &Context, namespace: &str, repository: &Repository) -> Result<(String, CreateOnly)> {
    let purpose = if repository.spec.read_only { Purpose::Read } else { Purpose::Write };
    let grant = grant(context, namespace, repository, purpose).await?;
    let scratch = context.scratch.join(format!("repository-{}", repository.uid().unwrap_or_default()));
    let memory = context.memory;
    blocking(move || open(&grant, &scratch, memory)).await
}

fn open(grant: &Grant, scratch: &std::path::Path, memory: u64) -> Result<(String, CreateOnly)> {
    std::fs::create_dir_all(scratch)?;
    let repo = grant.open(scratch, memory)?;
    let found = (repo.id().to_string(), repo.promised().create_only);
    drop(repo);
    std::fs::remove_dir_all(scratch)?;
    Ok(found)
}

/// Work of the engine: it blocks, and has threads of its own.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.context("the engine panicked")?
}

fn condition(old: &RepositoryStatus, kind: &str, holds: bool, reason: &str, message: &str) -> Condition {
    let status = if holds { "True" } else { "False" };
    let before = old.conditions.iter().find(|condition| condition.type_ == kind && condition.status == status);
    Condition {
        type_: kind.into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        observed_generation: None,
        last_transition_time: before
            .map_or_else(|| Time(k8s_openapi::jiff::Timestamp::now()), |c| c.last_transition_time.clone()),
    }
}
