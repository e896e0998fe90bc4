//! `key`.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use copal_engine::Error;
use copal_engine::crypto::kdf::RecoveryCode;
use copal_engine::crypto::rng::SystemRng;
use copal_engine::format::bundle::Role;
use copal_engine::format::slot::Slot;
use copal_engine::id::{SlotId, WriterId};
use copal_engine::repo::Repository;
use copal_engine::repo::key_admin::NewLock;
use serde_json::{Value, json};

use super::init::kdf_params;
use super::key_rotate;
use crate::errors::{Outcome, usage};
use crate::open::Context;
use crate::output::{lossy, shown, table};
use crate::{secret, size, time};

/// Flags of `key`.
#[derive(Debug, Args)]
pub(crate) struct KeyArgs {
    /// What to do
    #[command(subcommand)]
    pub(crate) action: Action,
}

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// List key slots, and who is enrolled
    List,
    /// Add a password or recovery code that opens the repository
    Add(AddArgs),
    /// Remove a key slot
    Remove {
        /// Id of the slot, or its beginning
        id: String,
    },
    /// Write a key file for a role; writers and maintainers are enrolled
    Export(ExportArgs),
    /// Enroll a writer and write its key file (the same as export --role writer)
    EnrollWriter {
        /// File to write; it must not exist
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// End the trust in a writer or maintainer
    Revoke(RevokeArgs),
    /// Replace the pair of keys that backups are sealed to; older key files open only what is there now
    Rotate(key_rotate::RotateArgs),
}

/// Flags of `key add`.
#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// File that holds the new password; without it, it is asked for
    #[arg(long, value_name = "FILE", conflicts_with = "recovery_code")]
    pub(crate) new_password_file: Option<PathBuf>,
    /// Make a recovery code instead, and print it once
    #[arg(long)]
    pub(crate) recovery_code: bool,
    /// What the key may do
    #[arg(long, value_enum, value_name = "ROLE", default_value = "owner")]
    pub(crate) role: SlotRole,
    /// Name for the list; readable without a key
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) label: String,
    /// Memory that opening with the password takes: 64M to 4G
    #[arg(long, value_name = "SIZE", value_parser = size::parse, default_value = "64M")]
    pub(crate) kdf_memory: u64,
}

/// Roles that slots have.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum SlotRole {
    /// Everything
    Owner,
    /// See and restore
    Reader,
}

/// Flags of `key export`.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// What the key may do
    #[arg(long, value_enum, value_name = "ROLE")]
    pub(crate) role: ExportRole,
    /// File to write; it must not exist
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

/// Roles that key files have.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ExportRole {
    /// Everything
    Owner,
    /// See and restore everything
    Reader,
    /// Add snapshots; read no content and no name
    Writer,
    /// Forget and prune; read no content and no name
    Maintainer,
}

/// Flags of `key revoke`.
#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    /// Its id, or the beginning of it
    pub(crate) id: String,
    /// Number of its last session that counts, 0 for none [default: all until now]
    #[arg(long, value_name = "N")]
    pub(crate) trusted: Option<u64>,
}

/// Manages keys.
pub(crate) fn run(context: &Context, args: &KeyArgs) -> Result<Outcome> {
    let mut repo = context.repository()?;
    match &args.action {
        Action::List => list(context, &repo)?,
        Action::Add(args) => add(context, &repo, args)?,
        Action::Remove { id } => remove(context, &repo, id)?,
        Action::Export(args) => export(context, &mut repo, args.role, &args.out)?,
        Action::EnrollWriter { out } => export(context, &mut repo, ExportRole::Writer, out)?,
        Action::Revoke(args) => revoke(context, &mut repo, args)?,
        Action::Rotate(args) => key_rotate::run(context, &mut repo, args)?,
    }
    Ok(Outcome::Done)
}

fn list(context: &Context, repo: &Repository) -> Result<()> {
    if context.out.json {
        return context.out.line(&document(repo)?);
    }
    let mut out = context.out.stdout();
    let slots = repo.slots()?;
    let rows: Vec<_> = slots
        .iter()
        .map(|s| {
            let id = s.id.to_string()[..8].to_owned();
            vec![id, s.lock.as_str().into(), s.role.as_str().into(), time::short(s.time), shown(&s.label)]
        })
        .collect();
    table(&mut out, &["Slot", "Opened by", "Role", "Made", "Label"], &rows)?;
    writeln!(out)?;
    let rows: Vec<_> = repo
        .config()
        .members
        .iter()
        .map(|m| {
            let state = if m.revoked.is_some() { "revoked" } else { "" };
            vec![m.id.to_string(), if m.maintainer { "maintainer" } else { "writer" }.into(), state.into()]
        })
        .collect();
    table(&mut out, &["Enrolled", "Role", ""], &rows)?;
    Ok(out.flush()?)
}

/// Slots and members.
pub(crate) fn document(repo: &Repository) -> Result<Value> {
    let slot = |s: &Slot| {
        json!({"id": s.id.to_string(), "kind": s.lock.as_str(), "role": s.role.as_str(), "created": time::rfc3339(s.time),
               "label": lossy(&s.label)})
    };
    let slots: Vec<Value> = repo.slots()?.iter().map(slot).collect();
    Ok(json!({"schema": 1, "role_in_use": repo.role().as_str(), "slots": slots, "members": members(repo)}))
}

/// Whose signatures count.
pub(crate) fn members(repo: &Repository) -> Value {
    let member = |m: &copal_engine::format::config::Member| {
        json!({"id": m.id.to_string(), "role": if m.maintainer { "maintainer" } else { "writer" },
               "revoked": m.revoked.is_some(),
               "last_session": m.revoked.and_then(|r| r.last).map(|s| s.to_string())})
    };
    repo.config().members.iter().map(member).collect()
}

fn add(context: &Context, repo: &Repository, args: &AddArgs) -> Result<()> {
    let role = match args.role {
        SlotRole::Owner => Role::Owner,
        SlotRole::Reader => Role::Reader,
    };
    let params = kdf_params(args.kdf_memory)?;
    let label = args.label.as_bytes();
    let id = if args.recovery_code {
        let code = RecoveryCode::generate(&mut SystemRng);
        let id = repo.add_slot(role, NewLock::RecoveryCode(&code), label, &mut SystemRng)?;
        eprintln!("recovery code, shown this once; write it down: {}", code.text().as_str());
        id
    } else {
        let given = args.new_password_file.as_deref().map(secret::from_file).transpose()?;
        let password = match given {
            Some(password) => password,
            None => secret::prompt_new()?
                .ok_or_else(|| usage("there is no terminal to ask for the new password on: use --new-password-file"))?,
        };
        repo.add_slot(role, NewLock::Passphrase(&password, params), label, &mut SystemRng)?
    };
    done(context, json!({"message_type": "key_added", "id": id.to_string()}), format!("added key slot {}", id.short()))
}

/// A document for machines, or a line for people.
pub(crate) fn done(context: &Context, mut document: Value, text: String) -> Result<()> {
    document["schema"] = 1.into();
    if context.out.json { context.out.line(&document) } else { Ok(context.out.say(text)?) }
}

fn remove(context: &Context, repo: &Repository, id: &str) -> Result<()> {
    let slots = repo.slots()?;
    let ids: Vec<SlotId> = slots.iter().map(|s| s.id).collect();
    let id = by_prefix(&ids, id, "key slot")?;
    repo.remove_slot(id)?;
    if slots.len() == 1 {
        context.out.warn("that was the last key slot: from now on only key files open this repository");
    }
    context.out.note("whoever opened the repository with it before may have kept the keys; copal key rotate shuts them out of later backups");
    let short = id.short();
    done(context, json!({"message_type": "key_removed", "id": id.to_string()}), format!("removed key slot {short}"))
}

/// The id that is or begins with `text`.
fn by_prefix<T: Copy + ToString>(ids: &[T], text: &str, what: &str) -> Result<T> {
    let text = text.to_lowercase();
    let found: Vec<T> =
        ids.iter().copied().filter(|id| !text.is_empty() && id.to_string().starts_with(&text)).collect();
    match found[..] {
        [one] => Ok(one),
        [] => bail!(Error::NotFound(format!("no {what} begins with {text:?}; copal key list shows them"))),
        _ => Err(usage(format!("{} of the {what}s begin with {text}; give more digits", found.len()))),
    }
}

fn export(context: &Context, repo: &mut Repository, role: ExportRole, out: &Path) -> Result<()> {
    // Before somebody is enrolled whose key then has no place.
    if out.symlink_metadata().is_ok() {
        bail!(Error::Invalid(format!("{} is there already and is not replaced; give another name", out.display())));
    }
    let bundle = match role {
        ExportRole::Owner => repo.bundle_for(Role::Owner)?,
        ExportRole::Reader => repo.bundle_for(Role::Reader)?,
        ExportRole::Writer => repo.enroll_new(Role::Writer, &mut SystemRng)?,
        ExportRole::Maintainer => repo.enroll_new(Role::Maintainer, &mut SystemRng)?,
    };
    secret::write_bundle(out, &bundle)?;
    let id = bundle.identity.as_ref().map(|who| who.id.to_string());
    let role = bundle.role.as_str();
    let whom = id.as_ref().map(|id| format!(" {id}")).unwrap_or_default();
    let text = format!("wrote the key of a {role}{whom} to {}", out.display());
    done(context, json!({"message_type": "key_exported", "role": role, "id": id, "file": out.to_string_lossy()}), text)
}

fn revoke(context: &Context, repo: &mut Repository, args: &RevokeArgs) -> Result<()> {
    let ids: Vec<WriterId> = repo.config().members.iter().map(|m| m.id).collect();
    let id = by_prefix(&ids, &args.id, "writer")?;
    let last = repo.revoke(id, args.trusted)?;
    context
        .out
        .note("it still knows the keys of this repository's deduplication: change its credentials of the store, too");
    let last = last.map(|s| s.to_string());
    let document = json!({"message_type": "writer_revoked", "id": id.to_string(), "last_session": last});
    done(context, document, format!("revoked {id}; its later snapshots do not count"))
}
