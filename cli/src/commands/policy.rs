//! `policy`.

use anyhow::{Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use copal_engine::Error;
use copal_engine::id::WriterId;
use copal_engine::store::url::Location;
use serde_json::{Value, json};

use crate::errors::{Outcome, usage};
use crate::open::Context;

/// Flags of `policy`.
#[derive(Debug, Args)]
pub(crate) struct PolicyArgs {
    /// For which kind of store
    #[command(subcommand)]
    pub(crate) store: StoreKind,
}

/// Kinds of stores.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreKind {
    /// Print the policy for the credentials of a role, in the language of AWS IAM that S3 servers share
    S3(S3Args),
}

/// Flags of `policy s3`.
#[derive(Debug, Args)]
pub(crate) struct S3Args {
    /// Whose credentials
    #[arg(long, value_enum)]
    pub(crate) role: Role,
    /// For a writer or maintainer: its id, as copal key list shows it
    #[arg(long, value_name = "ID")]
    pub(crate) writer: Option<String>,
    /// For a bucket policy instead of one attached to a user: whom it is for, e.g. arn:aws:iam::123456789012:user/backup
    #[arg(long, value_name = "ARN")]
    pub(crate) principal: Option<String>,
    /// For a bucket with Object Lock: let owners and maintainers extend retention (prune --lock-extend), and deny every role
    /// to get round it
    #[arg(long)]
    pub(crate) lock: bool,
}

/// Whose credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Everything
    Owner,
    /// Get and list
    Reader,
    /// Add below its own prefixes, never delete
    Writer,
    /// Forget, fold, prune
    Maintainer,
}

/// Below these a writer puts its own objects.
const WRITER_PREFIXES: [&str; 4] = ["pack", "idx", "snap", "pin"];
/// What a maintainer makes and removes, beside sessions of its own.
const MAINTENANCE: [&str; 5] = ["base", "gc", "forget", "lost", "probe"];
/// What a maintainer may remove of others.
const SWEPT: [&str; 4] = ["pack", "idx", "snap", "pin"];

/// Says what the bucket promises, and changes nothing: for everybody.
const ASK: [&str; 2] = ["s3:GetBucketVersioning", "s3:GetBucketObjectLockConfiguration"];
/// Gets round versions and retention. Nobody is allowed that; servers that give an object's creator every right to it (as
/// Ceph does) must be told so.
const GET_ROUND: [&str; 3] = ["s3:BypassGovernanceRetention", "s3:DeleteObjectVersion", "s3:PutObjectLegalHold"];

/// Prints a policy.
pub(crate) fn run(context: &Context, args: &PolicyArgs) -> Result<Outcome> {
    let StoreKind::S3(args) = &args.store;
    let place = context.place()?;
    let Location::S3 { bucket, prefix, .. } = &place.location else {
        bail!(Error::Invalid(format!("{} is no bucket; give the repository as s3:…", place.location)));
    };
    let writer = match (args.role, &args.writer) {
        (Role::Writer | Role::Maintainer, Some(id)) => {
            let id: WriterId = id.parse().map_err(|_| usage(format!("{id:?} is no id of a writer")))?;
            Some(id.to_string())
        }
        (Role::Writer | Role::Maintainer, None) => return Err(usage("which writer? --writer ID (copal key list)")),
        (_, Some(_)) => return Err(usage("only writers and maintainers have an id")),
        (_, None) => None,
    };
    let whom =
        Whom { role: args.role, writer: writer.as_deref(), principal: args.principal.as_deref(), lock: args.lock };
    let policy = policy(whom, bucket, prefix);
    let text = if context.out.json { policy.to_string() } else { format!("{policy:#}") };
    let mut out = context.out.stdout();
    std::io::Write::write_all(&mut out, format!("{text}\n").as_bytes())?;
    std::io::Write::flush(&mut out)?;
    Ok(Outcome::Done)
}

/// Whom a policy is for.
#[derive(Debug, Clone, Copy)]
struct Whom<'w> {
    role: Role,
    writer: Option<&'w str>,
    principal: Option<&'w str>,
    /// Whether the bucket has Object Lock.
    lock: bool,
}

/// Statements that allow what the role needs and nothing else; whatever is not allowed is denied.
fn policy(whom: Whom<'_>, bucket: &str, prefix: &str) -> Value {
    let Whom { role, writer, principal, lock } = whom;
    let base = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
    let all = format!("arn:aws:s3:::{bucket}/{base}*");
    let below = |path: &str| format!("arn:aws:s3:::{bucket}/{base}{path}/*");
    let prunes = matches!(role, Role::Owner | Role::Maintainer);
    // Which old versions there are a prune reports, and until when an object stays it asks before it calls a refusal a lock.
    let (list, read): (&[&str], &[&str]) = match prunes {
        true => (&["s3:ListBucket", "s3:ListBucketVersions"], &["s3:GetObject", "s3:GetObjectRetention"]),
        false => (&["s3:ListBucket"], &["s3:GetObject"]),
    };
    let mut statements = vec![
        list_statement(list, bucket, &base),
        statement("Ask", &ASK, vec![format!("arn:aws:s3:::{bucket}")]),
        statement("Read", read, vec![all.clone()]),
    ];
    if lock {
        statements.extend(lock_statements(prunes, &all));
    }
    match (role, writer) {
        (Role::Owner, _) => statements.push(statement("Change", &["s3:PutObject", "s3:DeleteObject"], vec![all])),
        (Role::Reader, _) | (_, None) => {}
        (Role::Writer, Some(id)) => {
            let own = WRITER_PREFIXES.iter().map(|p| below(&format!("{p}/{id}"))).collect();
            statements.push(statement("AddOwn", &["s3:PutObject"], own));
        }
        (Role::Maintainer, Some(id)) => {
            let mut put: Vec<String> = WRITER_PREFIXES.iter().map(|p| below(&format!("{p}/{id}"))).collect();
            put.extend(MAINTENANCE.iter().map(|p| below(p)));
            // A tombstone stands at the snapshot key of the session that it ends.
            put.push(below("snap"));
            statements.push(statement("Maintain", &["s3:PutObject"], put));
            let removed = SWEPT.iter().chain(&MAINTENANCE).map(|p| below(p)).collect();
            statements.push(statement("Sweep", &["s3:DeleteObject"], removed));
        }
    }
    for statement in &mut statements {
        // Several roles' statements make one bucket policy, in which each needs a name of its own.
        let sid =
            format!("{role:?}{}{}", writer.map_or("", |id| &id[..8]), statement["Sid"].as_str().unwrap_or_default());
        statement["Sid"] = sid.into();
        if let Some(principal) = principal {
            statement["Principal"] = json!({"AWS": principal});
        }
    }
    json!({"Version": "2012-10-17", "Statement": statements})
}

/// Only who prunes may lock: whoever can may also lock rubbish, and have it paid for, for years.
fn lock_statements(prunes: bool, all: &str) -> Vec<Value> {
    let (allowed, mut denied) = (["s3:PutObjectRetention"], GET_ROUND.to_vec());
    if !prunes {
        denied.extend(allowed);
    }
    let mut deny = statement("KeepLocked", &denied, vec![all.into()]);
    deny["Effect"] = "Deny".into();
    let allow = statement("Lock", &allowed, vec![all.into()]);
    if prunes { vec![allow, deny] } else { vec![deny] }
}

fn list_statement(actions: &[&str], bucket: &str, base: &str) -> Value {
    let mut list = statement("List", actions, vec![format!("arn:aws:s3:::{bucket}")]);
    if !base.is_empty() {
        list["Condition"] = json!({"StringLike": {"s3:prefix": [format!("{base}*")]}});
    }
    list
}

fn statement(sid: &str, actions: &[&str], resources: Vec<String>) -> Value {
    json!({"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": resources})
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "abababab";

    fn whom(role: Role, writer: Option<&str>) -> Whom<'_> {
        Whom { role, writer, principal: None, lock: false }
    }

    #[test]
    fn writers_put_below_their_own_prefixes_and_delete_nothing() {
        let policy = policy(whom(Role::Writer, Some(ID)), "b", "p");
        let text = policy.to_string();
        assert!(text.contains("arn:aws:s3:::b/p/pack/abababab/*") && !text.contains("Delete"), "{text}");
        let put = policy["Statement"].as_array().unwrap().iter().find(|s| s["Action"][0] == "s3:PutObject").unwrap();
        let resources = put["Resource"].as_array().unwrap();
        assert!(
            resources.len() == 4 && resources.iter().all(|r| r.as_str().unwrap().ends_with("/abababab/*")),
            "{put}"
        );
    }

    #[test]
    fn statements_of_several_roles_have_names_of_their_own() {
        let names = |role, id| {
            let policy = policy(whom(role, id), "b", "p");
            let statements = policy["Statement"].as_array().unwrap().clone();
            statements.into_iter().map(|s| s["Sid"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let mut all = names(Role::Writer, Some(ID));
        all.extend(names(Role::Writer, Some("cdcdcdcd")));
        all.extend(names(Role::Reader, None));
        assert!(all.iter().all(|sid| sid.bytes().all(|c| c.is_ascii_alphanumeric())), "{all:?}");
        let unique: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(unique.len(), all.len(), "{all:?}");
    }

    #[test]
    fn readers_only_read() {
        let text = {
            let reader = Whom { principal: Some("arn:aws:iam::1:user/x"), ..whom(Role::Reader, None) };
            policy(reader, "b", "").to_string()
        };
        assert!(!text.contains("Put") && !text.contains("Delete") && text.contains("Principal"), "{text}");
        assert!(!text.contains("Condition"), "{text}");
    }

    #[test]
    fn maintainers_never_delete_keys_or_the_config() {
        let policy = policy(whom(Role::Maintainer, Some(ID)), "b", "p");
        let removes = |s: &&Value| s["Action"][0] == "s3:DeleteObject";
        let delete = policy["Statement"].as_array().unwrap().iter().find(removes).unwrap().to_string();
        assert!(!delete.contains("/key/") && !delete.contains("/cfg/") && delete.contains("/gc/*"), "{delete}");
    }

    #[test]
    fn nobody_gets_round_a_lock_and_only_who_prunes_locks() {
        for (role, locks) in
            [(Role::Owner, true), (Role::Maintainer, true), (Role::Writer, false), (Role::Reader, false)]
        {
            let id = matches!(role, Role::Writer | Role::Maintainer).then_some(ID);
            let allowed = |lock| {
                let policy = policy(Whom { lock, ..whom(role, id) }, "b", "p");
                let statements = policy["Statement"].as_array().unwrap().iter();
                let part = |effect: &str| {
                    statements
                        .clone()
                        .filter(|s| s["Effect"] == effect)
                        .map(|s| s["Action"].to_string())
                        .collect::<String>()
                };
                (part("Allow"), part("Deny"))
            };
            for (allow, deny) in [allowed(false), allowed(true)] {
                for action in GET_ROUND {
                    assert!(!allow.contains(action), "{role:?} {allow}");
                    assert!(deny.is_empty() || deny.contains(action), "{role:?} {deny}");
                }
            }
            assert!(!allowed(false).0.contains("PutObjectRetention") && allowed(false).1.is_empty());
            assert_eq!(allowed(true).0.contains("PutObjectRetention"), locks, "{role:?}");
            assert_ne!(allowed(true).1.contains("PutObjectRetention"), locks, "{role:?}");
        }
    }
}
