//! Versions and Object Lock of a bucket.

use async_trait::async_trait;
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{
    BucketVersioningStatus, ObjectLockEnabled, ObjectLockRetention, ObjectLockRetentionMode, ObjectLockRule,
};

use super::errors::{lacks_feature, sort};
use super::{S3, within};
use crate::store::retention::{Held, HeldAfter, HeldPage, Keeper, Mode, ObjectLock, Promises, Retention, Versioning};
use crate::store::{Key, Result, StoreError, Verb};

/// How servers say that an object has no retention.
const NO_RETENTION: [&str; 2] = ["NoSuchObjectLockConfiguration", "ObjectLockConfigurationNotFoundError"];

impl S3 {
    async fn versioning(&self) -> Result<Versioning> {
        let request = self.request(Verb::Promises, None);
        let call = self.client.get_bucket_versioning().bucket(&self.options.bucket);
        match within(request, 0, async { call.send().await.map_err(|e| sort(request, e)) }).await {
            Ok(told) => Ok(match told.status {
                Some(BucketVersioningStatus::Enabled) => Versioning::On,
                Some(BucketVersioningStatus::Suspended) => Versioning::Suspended,
                _ => Versioning::Off,
            }),
            Err(e) if lacks_feature(&e) => Ok(Versioning::Off),
            Err(e) => Err(e),
        }
    }

    async fn object_lock(&self) -> Result<Option<ObjectLock>> {
        let request = self.request(Verb::Promises, None);
        let call = self.client.get_object_lock_configuration().bucket(&self.options.bucket);
        let told = match within(request, 0, async { call.send().await.map_err(|e| sort(request, e)) }).await {
            Ok(told) => told.object_lock_configuration,
            Err(e) if lacks_feature(&e) => return Ok(None),
            Err(e) => return Err(e),
        };
        let enabled = told.filter(|c| c.object_lock_enabled == Some(ObjectLockEnabled::Enabled));
        Ok(enabled.map(|c| ObjectLock { default: c.rule.as_ref().and_then(default_retention) }))
    }
}

#[async_trait]
impl Keeper for S3 {
    fn root(&self) -> String {
        self.root()
    }

    async fn promises(&self) -> Result<Promises> {
        Ok(Promises { versioning: self.versioning().await?, lock: self.object_lock().await? })
    }

    async fn retain(&self, key: &Key, retention: Retention) -> Result<()> {
        let request = self.request(Verb::Retain, Some(key));
        let mode = match retention.mode {
            Mode::Governance => ObjectLockRetentionMode::Governance,
            Mode::Compliance => ObjectLockRetentionMode::Compliance,
        };
        let until = DateTime::from_secs(i64::try_from(retention.until).unwrap_or(i64::MAX));
        let retention = ObjectLockRetention::builder().mode(mode).retain_until_date(until).build();
        let put = self.client.put_object_retention().bucket(&self.options.bucket).key(self.object(key));
        let put = put.retention(retention);
        within(request, 0, async { put.send().await.map_err(|e| sort(request, e)) }).await.map(drop)
    }

    async fn retention(&self, key: &Key) -> Result<Option<Retention>> {
        let request = self.request(Verb::Retention, Some(key));
        let get = self.client.get_object_retention().bucket(&self.options.bucket).key(self.object(key));
        let call = async {
            match get.send().await {
                Ok(told) => read_retention(key, told.retention),
                Err(e) if e.code().is_some_and(|code| NO_RETENTION.contains(&code)) => Ok(None),
                Err(e) => Err(sort(request, e)),
            }
        };
        self.or_absent(key, within(request, 0, call).await).await
    }

    async fn held_page(&self, after: Option<&HeldAfter>) -> Result<HeldPage> {
        let request = self.request(Verb::Versions, None);
        let mut list = self.client.list_object_versions().bucket(&self.options.bucket).prefix(self.root());
        if let Some(after) = after {
            list = list.key_marker(&after.key).set_version_id_marker(after.version.clone());
        }
        let page = within(request, 0, async { list.send().await.map_err(|e| sort(request, e)) }).await?;
        let mut held = Held { markers: page.delete_markers().len() as u64, ..Held::default() };
        for version in page.versions().iter().filter(|v| v.is_latest != Some(true)) {
            held.versions += 1;
            held.bytes = held.bytes.saturating_add(version.size.and_then(|n| u64::try_from(n).ok()).unwrap_or(0));
        }
        let wrong = |how: &str| StoreError::Wrong { what: request.what(), how: how.into() };
        let next = match (page.is_truncated.unwrap_or(false), page.next_key_marker) {
            (false, _) => None,
            (true, Some(key)) => Some(HeldAfter { key, version: page.next_version_id_marker }),
            (true, None) => return Err(wrong("more is said to follow, but not how to get it")),
        };
        Ok(HeldPage { held, next })
    }
}

fn mode(mode: Option<&ObjectLockRetentionMode>) -> Option<Mode> {
    match mode {
        Some(ObjectLockRetentionMode::Governance) => Some(Mode::Governance),
        Some(ObjectLockRetentionMode::Compliance) => Some(Mode::Compliance),
        _ => None,
    }
}

fn default_retention(rule: &ObjectLockRule) -> Option<(Mode, u64)> {
    let default = rule.default_retention.as_ref()?;
    let days = match (default.days, default.years) {
        (Some(days), _) => i64::from(days),
        (None, years) => i64::from(years?) * 365,
    };
    Some((mode(default.mode.as_ref())?, u64::try_from(days).ok()?))
}

/// One that cannot be understood counts for nothing, and is no answer.
fn read_retention(key: &Key, told: Option<ObjectLockRetention>) -> Result<Option<Retention>> {
    let Some(told) = told else { return Ok(None) };
    let until = told.retain_until_date.and_then(|at| u64::try_from(at.secs()).ok());
    match (mode(told.mode.as_ref()), until) {
        (Some(mode), Some(until)) => Ok(Some(Retention { mode, until })),
        (None, None) if told.mode.is_none() => Ok(None),
        _ => Err(StoreError::Wrong { what: format!("get retention of {key}"), how: "no mode, or no date".into() }),
    }
}
