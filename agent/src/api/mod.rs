//! The custom resources of group `copal.dev`, v1alpha1, all namespaced. Fields have Velero's names where the meaning is Velero's.

pub mod backup;
pub mod items;
pub mod phase;
pub mod repository;
pub mod restore;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

pub use backup::{Backup, BackupStatus};
pub use items::{ItemStatus, VolumeBackup, VolumeRestore};
pub use phase::Phase;
pub use repository::{Repository, RepositoryStatus};
pub use restore::{Restore, RestoreStatus};

/// API group.
pub const GROUP: &str = "copal.dev";
/// Its only version.
pub const VERSION: &str = "v1alpha1";
/// The ServiceAccount by which a tenant lets us work in its namespace.
pub const TENANT: &str = "copal";
/// The key of a Secret that holds a key bundle.
pub const KEY: &str = "key";

/// All of them, as a cluster takes them.
pub fn crds() -> [CustomResourceDefinition; 5] {
    [Repository::crd(), Backup::crd(), Restore::crd(), VolumeBackup::crd(), VolumeRestore::crd()]
}

/// Prints them, one document each.
pub fn print() -> std::process::ExitCode {
    for crd in crds() {
        let text = serde_saphyr::to_string(&crd).expect("plain values");
        println!("---\n{text}");
    }
    std::process::ExitCode::SUCCESS
}
