//! Manifests as JSON values: where one is recorded, what is never restored, what is stripped and mapped, in which order, which pods
//! will come of a workload. No client, no I/O.

pub mod diff;
pub mod kind;
pub mod never;
pub mod order;
pub mod pods;
pub mod ready;
pub mod record;
pub mod strip;
