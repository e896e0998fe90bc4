//! `key rotate`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;
use copal_engine::crypto::rng::SystemRng;
use copal_engine::format::bundle::Bundle;
use copal_engine::repo::Repository;
use copal_engine::repo::key_admin::NewLock;
use serde_json::json;

use super::init::kdf_params;
use super::key::done;
use crate::errors::usage;
use crate::open::Context;
use crate::secret;

/// Flags of `key rotate`.
#[derive(Debug, Args)]
pub(crate) struct RotateArgs {
    /// Write the new owner's key to this file; else it takes the place of the password or key file in use
    #[arg(long, value_name = "FILE")]
    pub(crate) key_out: Option<PathBuf>,
}

/// Rotates.
pub(crate) fn run(context: &Context, repo: &mut Repository, args: &RotateArgs) -> Result<()> {
    let place = context.place()?;
    let in_use = context.key_file(&place)?.filter(|path| path.exists());
    let file = args.key_out.clone().or_else(|| in_use.as_deref().map(next_to));
    // The new key is durable before anything is sealed to it: if it were lost, nobody could read later backups.
    let text = match file {
        Some(file) => {
            let next = written(context, repo, &file)?;
            repo.rotate_to(next, &mut SystemRng)?;
            let file = match (&args.key_out, in_use) {
                (None, Some(old)) => take_place(&file, old)?,
                _ => file,
            };
            format!("the new key is {}", file.display())
        }
        None => {
            let next = repo.draw_rotation(&mut SystemRng)?;
            rotate_password(context, repo, next)?;
            "the password in use opens the new key; other key slots and key files do not".into()
        }
    };
    context.out.note(
        "keys made before open what is backed up until now and nothing newer: hand out new ones (key add, key export), \
         remove old slots (key remove)",
    );
    done(context, json!({"message_type": "key_rotated"}), text)
}

/// The new key in `file`: a rotation that was cut off may have left it there, and backups may be sealed to it already.
fn written(context: &Context, repo: &Repository, file: &Path) -> Result<Bundle> {
    if let Some(left) = secret::read_bundle(file).ok().filter(|left| repo.was_drawn(left)) {
        context.out.note(format!("an earlier rotation was cut off; it goes on with the key in {}", file.display()));
        return Ok(left);
    }
    // Cut off before it was written: nothing is sealed to it.
    if file.symlink_metadata().is_ok_and(|found| found.is_file() && found.len() == 0) {
        std::fs::remove_file(file).with_context(|| format!("cannot replace the empty file {}", file.display()))?;
    }
    let next = repo.draw_rotation(&mut SystemRng)?;
    secret::write_bundle(file, &next)?;
    Ok(next)
}

fn take_place(new: &Path, old: PathBuf) -> Result<PathBuf> {
    let what = || format!("the new key is {}, and could not take the place of {}", new.display(), old.display());
    std::fs::rename(new, &old).with_context(what)?;
    Ok(old)
}

fn next_to(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// The new pair in a slot of the same password, which is asked for again if it was typed; then the old slots of it go.
fn rotate_password(context: &Context, repo: &mut Repository, next: Bundle) -> Result<()> {
    let password = match context.given_password()? {
        Some(password) => password,
        None => secret::prompt("password once more")?.ok_or_else(|| usage("use --key-out for the new key"))?,
    };
    let before = repo.slots()?;
    let mut old = Vec::new();
    for slot in before {
        if repo.opens(&slot, &password)? {
            old.push(slot.id);
        }
    }
    if old.is_empty() {
        return Err(usage("that is not the password of a key slot; use --key-out for the new key"));
    }
    let lock = NewLock::Passphrase(&password, kdf_params(64 << 20)?);
    repo.add_slot_of(&next, lock, b"", &mut SystemRng)?;
    repo.rotate_to(next, &mut SystemRng)?;
    old.into_iter().try_for_each(|id| Ok(repo.remove_slot(id)?))
}
