//! `init`, and the default repository that the first backup makes.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;
use copal_engine::Error;
use copal_engine::chunker::Params;
use copal_engine::crypto::kdf::Argon2Params;
use copal_engine::crypto::rng::SystemRng;
use copal_engine::format::bundle::{Bundle, Role};
use copal_engine::repo::key_admin::NewLock;
use copal_engine::repo::{Repository, init_keeping};
use copal_engine::store::probe::{CreateOnly, Verdict};
use serde_json::json;
use zeroize::Zeroizing;

use crate::bucket::{self, Told};
use crate::errors::{Outcome, usage};
use crate::open::{Context, Place};
use crate::place::default_key_file;
use crate::{secret, size};

/// Flags of `init`.
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Average size of chunks: a power of two from 64K to 4M
    #[arg(long, value_name = "SIZE", value_parser = size::parse, default_value = "512K")]
    pub(crate) chunk_size: u64,
    /// Write a generated key to this file, instead of asking for a password
    #[arg(long, value_name = "FILE")]
    pub(crate) key_out: Option<PathBuf>,
    /// Also make a recovery code, and print it once
    #[arg(long)]
    pub(crate) recovery_code: bool,
    /// Memory that opening the repository with the password takes: 64M to 4G
    #[arg(long, value_name = "SIZE", value_parser = size::parse, default_value = "64M")]
    pub(crate) kdf_memory: u64,
}

/// What opens the new repository.
enum NewKey {
    File(PathBuf),
    Password(secret::Password),
}

/// Makes a repository.
pub(crate) fn run(context: &Context, args: &InitArgs) -> Result<Outcome> {
    let place = context.place()?;
    let chunker = u32::try_from(args.chunk_size).ok().map(Params::with_average);
    let chunker = match chunker {
        Some(Ok(params)) => params,
        Some(Err(e)) => return Err(usage(e.to_string())),
        None => return Err(usage("chunks of 4 GiB are out of the question: 64K to 4M")),
    };
    let kdf = kdf_params(args.kdf_memory)?;
    let key = new_key(context, args, &place)?;
    refuse_existing_file(&key)?;
    let mut code = None;
    let (repo, verdict) = make(context, &place, chunker, &key, |repo| {
        keep_key(repo, &key, kdf)?;
        code = if args.recovery_code { Some(add_recovery_code(repo)?) } else { None };
        Ok(())
    })?;
    tell(context, &place, &repo, &verdict, &key, code.as_deref())?;
    Ok(Outcome::Done)
}

/// Makes the repository once its key is kept.
fn make(
    context: &Context,
    place: &Place,
    chunker: Params,
    key: &NewKey,
    keep: impl FnOnce(&Repository) -> Result<()>,
) -> Result<(Repository, Verdict)> {
    let store = context.create_store(place)?;
    let mut kept = false;
    let keep = |repo: &Repository| {
        keep(repo)?;
        kept = true;
        Ok(())
    };
    let made = init_keeping(store, context.bridge()?.clone(), chunker, context.options(), &mut SystemRng, keep);
    let (NewKey::File(path), Err(e)) = (key, &made) else { return made };
    if !kept {
        return made;
    }
    if let Some(Error::RepositoryExists { .. }) = e.downcast_ref() {
        // Somebody else was faster: this key opens nothing.
        std::fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
        return made;
    }
    made.with_context(|| {
        format!(
            "it is unknown whether the repository was made; {} is its key. If `copal snapshots` finds no repository, remove that file and run init again",
            path.display()
        )
    })
}

/// Argon2id with so many bytes.
pub(crate) fn kdf_params(memory: u64) -> Result<Argon2Params> {
    let memory_kib = u32::try_from(memory >> 10).unwrap_or(u32::MAX);
    Argon2Params { memory_kib, ..Argon2Params::DEFAULT }.validated().map_err(|e| usage(e.to_string()))
}

fn new_key(context: &Context, args: &InitArgs, place: &Place) -> Result<NewKey> {
    if let Some(path) = &args.key_out {
        return Ok(NewKey::File(path.clone()));
    }
    if let Some(password) = context.given_password()? {
        return Ok(NewKey::Password(password));
    }
    if let Some(path) = context.key_file(place)? {
        return Ok(NewKey::File(path));
    }
    match secret::prompt_new()? {
        Some(password) => Ok(NewKey::Password(password)),
        None => Err(usage("no key is given and there is no terminal to ask on: use --password-file or --key-out")),
    }
}

/// Before anything is made: a key that cannot be stored afterwards would lock everybody out.
fn refuse_existing_file(key: &NewKey) -> Result<()> {
    match key {
        NewKey::File(path) if path.symlink_metadata().is_ok() => Err(Error::Invalid(format!(
            "{} is there already and is not replaced: {}. Move it away, or give another name",
            path.display(),
            what_it_may_be(path)
        ))
        .into()),
        _ => Ok(()),
    }
}

/// What stands where a new key file shall be written.
fn what_it_may_be(path: &Path) -> String {
    let bundle = std::fs::read_to_string(path).ok().and_then(|text| Bundle::from_text(&text).ok());
    match bundle {
        Some(bundle) => format!(
            "it is the key of repository {}, perhaps the only one. If that one was never made, because its init was interrupted, it opens nothing and can be removed",
            bundle.repository.short()
        ),
        None => "it is no whole key. If an init was interrupted while it wrote it, it can be removed".into(),
    }
}

fn keep_key(repo: &Repository, key: &NewKey, kdf: Argon2Params) -> Result<()> {
    let what = "no repository was made, because its key could not be kept";
    match key {
        NewKey::File(path) => secret::write_bundle(path, repo.bundle()).context(what),
        NewKey::Password(password) => {
            let lock = NewLock::Passphrase(password, kdf);
            repo.add_slot(Role::Owner, lock, b"", &mut SystemRng).map(|_| ()).context(what)
        }
    }
}

fn add_recovery_code(repo: &Repository) -> Result<Zeroizing<String>> {
    let code = copal_engine::crypto::kdf::RecoveryCode::generate(&mut SystemRng);
    repo.add_slot(Role::Owner, NewLock::RecoveryCode(&code), b"recovery code", &mut SystemRng)?;
    Ok(code.text())
}

/// What a store does not keep, and what to keep in mind because of it.
fn unsound(verdict: &Verdict) -> String {
    let what = match verdict.create_only {
        CreateOnly::Ignored => "this store replaces objects that were to be created only if they are not there",
        CreateOnly::Sequential => "this store lets several racing creators of one object win",
        CreateOnly::Atomic => "reads or LISTs of this store lag behind its writes",
    };
    let detail = verdict.details.first().map(|d| format!(" ({d})")).unwrap_or_default();
    let prune = match (verdict.create_only, verdict.strong_list) {
        (CreateOnly::Atomic, _) => "never prune here while backups run",
        (_, true) => "never run two prunes or repairs here at once; old snapshots are not folded",
        (_, false) => "never prune here while backups run; old snapshots are not folded",
    };
    format!("{what}{detail}: change keys on one machine at a time, and {prune}; backups themselves are safe")
}

fn tell(
    context: &Context,
    place: &Place,
    repo: &Repository,
    verdict: &Verdict,
    key: &NewKey,
    code: Option<&String>,
) -> Result<()> {
    if !verdict.is_sound() {
        context.out.warn(unsound(verdict));
    }
    // The code goes to the terminal, never into a log of JSON.
    if let Some(code) = code {
        eprintln!("recovery code, shown this once; write it down: {}", code.as_str());
    }
    // Also where the repository stands by now: that the bucket does not answer is no reason to say that init failed.
    let told = bucket::ask(context, repo.store().as_ref()).unwrap_or(Told::Nothing);
    let key_file = match key {
        NewKey::File(path) => Some(path.display().to_string()),
        NewKey::Password(_) => None,
    };
    if context.out.json {
        return context.out.line(&json!({
            "message_type": "initialized", "schema": 1, "id": repo.id().to_string(),
            "repository": place.location.to_string(), "key_file": key_file,
            "store": {"verdict": verdict.word(), "sound": verdict.is_sound(), "details": verdict.details},
            "bucket": told.to_json(),
        }));
    }
    context.out.say(format!("created repository {} at {}", repo.id().short(), place.location))?;
    context.out.say(format!("the store creates objects: {}", verdict.word()))?;
    told.text().map_or(Ok(()), |text| context.out.say(text))?;
    match key_file {
        Some(path) => {
            context.out.say(format!("its key is {path}: keep a copy elsewhere; without it nothing can be read"))?
        }
        None => context
            .out
            .say("without the password nothing can be read: keep it where this machine's loss does not take it")?,
    }
    Ok(())
}

/// The repository to back up into: the default one is made, with a key file, when it is not there yet.
pub(crate) fn open_or_make_default(context: &Context) -> Result<Repository> {
    let place = context.place()?;
    match context.repository_at(&place, true) {
        Err(e) if place.is_default && matches!(e.downcast_ref(), Some(Error::NoRepository { .. })) => {}
        opened => return opened,
    }
    let key = match context.given_password()? {
        Some(password) => NewKey::Password(password),
        None => NewKey::File(context.key_file(&place)?.map_or_else(default_key_file, Ok)?),
    };
    refuse_existing_file(&key)?;
    let keep = |repo: &Repository| keep_key(repo, &key, Argon2Params::DEFAULT);
    let (repo, _) = make(context, &place, Params::DEFAULT, &key, keep)?;
    if let NewKey::File(path) = &key {
        context.out.warn(format!(
            "made the repository {} and its key {}; keep a copy of the key elsewhere, without it nothing can be read",
            place.location,
            path.display()
        ));
    }
    Ok(repo)
}
