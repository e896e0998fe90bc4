//! From what was typed to an open repository: where it is, how its store is spoken to, which key opens it.

use std::ffi::OsString;
use std::num::NonZeroU64;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::ArgMatches;
use clap::parser::ValueSource;
use copal_engine::Error;
use copal_engine::crypto::kdf::RecoveryCode;
use copal_engine::format::slot::Lock;
use copal_engine::progress::Cancel;
use copal_engine::repo::{Bridge, Locked, Opener, Options, Reader, Repository, View};
use copal_engine::store::cache::Cache;
use copal_engine::store::grace::Grace;
use copal_engine::store::s3::{self, S3Options, ServerEncryption};
use copal_engine::store::url::Location;
use copal_engine::store::{Store, limit::Caps, url};
use zeroize::Zeroizing;

use crate::args::{Global, PathStyle};
use crate::errors::usage;
use crate::output::Output;
use crate::place::{data_dir, default_key_file, env_dir};
use crate::secret::{self, Password};

/// Room for snapshots fetched from a bucket.
const CACHE_BYTES: u64 = 256 << 20;

/// What a command works with.
pub(crate) struct Context {
    /// What every command takes.
    pub(crate) global: Global,
    /// Where to print.
    pub(crate) out: Output,
    /// Set by the first Ctrl-C, once [`Context::catch_interrupts`] was called.
    pub(crate) cancel: Arc<Cancel>,
    matches: ArgMatches,
    bridge: OnceLock<Bridge>,
}

/// Where the repository is.
pub(crate) struct Place {
    /// As the engine knows it.
    pub(crate) location: Location,
    /// None was given: the one of this user on this machine.
    pub(crate) is_default: bool,
}

/// An open repository and one view of it.
pub(crate) struct Opened {
    /// What is committed.
    pub(crate) view: View,
    /// Reads blobs of the view.
    pub(crate) reader: Reader,
}

impl Context {
    /// Takes what was typed.
    pub(crate) fn new(global: Global, matches: ArgMatches) -> Self {
        let out = Output { json: global.json, quiet: global.quiet, verbose: global.verbose };
        Self { global, out, cancel: Arc::default(), matches, bridge: OnceLock::new() }
    }

    /// From here on the first Ctrl-C (or SIGTERM) asks the operation to end, and the second ends the process at once.
    pub(crate) fn catch_interrupts(&self) -> Result<()> {
        let cancel = Arc::clone(&self.cancel);
        ctrlc::set_handler(move || {
            if cancel.is_canceled() {
                std::process::exit(130);
            }
            cancel.cancel();
            eprintln!("copal: ending; what is stored so far is kept (Ctrl-C again: at once)");
        })
        .context("cannot catch Ctrl-C")
    }

    /// The runtime that stores live on.
    pub(crate) fn bridge(&self) -> Result<&Bridge> {
        if self.bridge.get().is_none() {
            let bridge = Bridge::start().context("cannot start the threads that talk to the store")?;
            let _ = self.bridge.set(bridge);
        }
        Ok(self.bridge.get().expect("set above"))
    }

    /// Where the repository is.
    pub(crate) fn place(&self) -> Result<Place> {
        let text = match self.strongest(&["repo", "repository_file"])? {
            Some("repo") => self.global.repo.clone().expect("chosen because it is there"),
            Some(_) => {
                let path = self.global.repository_file.as_deref().expect("chosen because it is there");
                let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
                OsString::from_vec(bytes.trim_ascii_end().to_vec())
            }
            None => {
                refuse_restic(&["RESTIC_REPOSITORY", "RESTIC_REPOSITORY_FILE"])?;
                let location = Location::Local(data_dir()?.join("repository"));
                return Ok(Place { location, is_default: true });
            }
        };
        Ok(Place { location: Location::parse(&text).map_err(|e| usage(e.to_string()))?, is_default: false })
    }

    /// Which of these flags counts: the command line before the environment before the profile; two at once: an error.
    fn strongest(&self, ids: &[&'static str]) -> Result<Option<&'static str>> {
        let strength = |id: &str| match self.matches.value_source(id) {
            Some(ValueSource::CommandLine) => 3,
            Some(ValueSource::EnvVariable) => 2,
            Some(ValueSource::DefaultValue) => 1,
            _ => 0,
        };
        let best = ids.iter().map(|id| strength(id)).max().unwrap_or(0);
        let chosen: Vec<&'static str> = ids.iter().copied().filter(|id| best > 0 && strength(id) == best).collect();
        match chosen[..] {
            [] => Ok(None),
            [one] => Ok(Some(one)),
            _ => {
                let flags: Vec<String> = chosen.iter().map(|id| format!("--{}", id.replace('_', "-"))).collect();
                Err(usage(format!("{} exclude each other; give one of them", flags.join(" and "))))
            }
        }
    }

    /// The store at `place`. A missing directory is made only by [`Context::create_store`].
    pub(crate) fn store(&self, place: &Place, use_cache: bool) -> Result<Arc<dyn Store>> {
        if let Location::Local(path) = &place.location
            && !path.exists()
        {
            return Err(Error::NoRepository { location: place.location.to_string() }.into());
        }
        let store = self.ending(self.bridge()?.wait(url::open(&place.location, &self.store_options()?))?);
        let directory = self.cache_dir().filter(|_| use_cache && matches!(place.location, Location::S3 { .. }));
        let Some(directory) = directory else { return Ok(store) };
        let name = copal_engine::id::hex(&copal_engine::crypto::hash::blake3(&[store.location().as_bytes()])[..16]);
        match Cache::open(Arc::clone(&store), &directory.join("objects").join(name), &["snap/"], CACHE_BYTES) {
            Ok(cached) => Ok(Arc::new(cached)),
            Err(e) => {
                self.out.note(format!("no cache is used: {}", crate::errors::text(&e.into())));
                Ok(store)
            }
        }
    }

    /// The store at `place`; a missing directory is made.
    pub(crate) fn create_store(&self, place: &Place) -> Result<Arc<dyn Store>> {
        Ok(self.ending(self.bridge()?.wait(url::create(&place.location, &self.store_options()?))?))
    }

    /// Whose calls end soon after Ctrl-C.
    fn ending(&self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        let cancel = Arc::clone(&self.cancel);
        Arc::new(Grace::new(store, move || cancel.is_canceled()))
    }

    fn store_options(&self) -> Result<url::Options> {
        let g = &self.global;
        let encryption = match (&g.s3_sse_c_key_file, g.s3_sse.as_deref()) {
            (None, None) => ServerEncryption::Bucket,
            (Some(path), None) => ServerEncryption::CustomerKey(read_customer_key(path)?),
            (None, Some(text)) => match text.strip_prefix("kms:") {
                Some(id) if !id.is_empty() => ServerEncryption::Kms(id.into()),
                _ => return Err(usage("--s3-sse takes kms:KEYID")),
            },
            (Some(_), Some(_)) => return Err(usage("--s3-sse-c-key-file and --s3-sse exclude each other")),
        };
        let path_style = match g.s3_path_style {
            PathStyle::Auto => s3::PathStyle::Auto,
            PathStyle::Path => s3::PathStyle::Path,
            PathStyle::Virtual => s3::PathStyle::Virtual,
        };
        let rate = |rate: Option<u64>| match rate {
            Some(0) => Err(usage("a rate of 0 moves nothing; leave the flag out for no cap")),
            rate => Ok(rate.and_then(NonZeroU64::new)),
        };
        Ok(url::Options {
            s3: S3Options {
                path_style,
                ca_file: g.cacert.clone(),
                insecure_tls: g.insecure_tls,
                encryption,
                storage_class: g.s3_storage_class.clone(),
                ..S3Options::default()
            },
            caps: Caps {
                upload: rate(g.limit_upload)?,
                download: rate(g.limit_download)?,
                connections: NonZeroU64::new(g.connections.into()),
            },
            retry: Default::default(),
        })
    }

    /// Caps and local places for the engine.
    pub(crate) fn options(&self) -> Options {
        let state =
            env_dir("XDG_STATE_HOME", ".local/state").map_or_else(|| "/var/lib/copal".into(), |d| d.join("copal"));
        let mut options = Options::new("");
        options.cache = self.cache_dir();
        options.state = state;
        options.memory = self.global.memory;
        options.threads = self.global.threads.map_or(options.threads, usize::from);
        options.connections = self.global.connections.into();
        options
    }

    /// Where things are kept that can be fetched again; `None` where nothing shall be.
    pub(crate) fn cache_dir(&self) -> Option<PathBuf> {
        if self.global.no_cache {
            return None;
        }
        self.global.cache_dir.clone().or_else(|| Some(env_dir("XDG_CACHE_HOME", ".cache")?.join("copal")))
    }

    /// Opens the repository, and says once which accepted flags do nothing.
    pub(crate) fn repository(&self) -> Result<Repository> {
        self.repository_at(&self.place()?, true)
    }

    /// As [`Context::repository`]; without `use_cache` every object comes from the store itself.
    pub(crate) fn repository_at(&self, place: &Place, use_cache: bool) -> Result<Repository> {
        let locked = Locked::find(self.store(place, use_cache)?, self.bridge()?.clone())?;
        let opener = self.opener(place, &locked)?;
        Ok(locked.unlock(opener, self.options())?)
    }

    /// Opens the repository and reads what is committed; what is wrong with that is told on stderr.
    pub(crate) fn opened(&self) -> Result<Opened> {
        let repo = Arc::new(self.repository()?);
        let view = repo.view()?;
        view.problems.iter().for_each(|p| self.out.warn(p.to_string()));
        let cache_bytes = (self.global.memory / 4).min(1 << 30) as usize;
        let reader = Reader::new(repo, Arc::clone(&view.index), cache_bytes);
        Ok(Opened { view, reader })
    }

    /// The password that was given in whatever way but by typing it.
    pub(crate) fn given_password(&self) -> Result<Option<Password>> {
        match self.strongest(&["password_file", "password_command", "key_file"])? {
            Some("password_file") => self.global.password_file.as_deref().map(secret::from_file).transpose(),
            Some("password_command") => self.global.password_command.as_deref().map(secret::from_command).transpose(),
            Some(_) => Ok(None),
            None => secret::from_environment().transpose(),
        }
    }

    /// The key file that was given, or that of the default repository where nothing else was.
    pub(crate) fn key_file(&self, place: &Place) -> Result<Option<PathBuf>> {
        match self.strongest(&["password_file", "password_command", "key_file"])? {
            Some("key_file") => Ok(self.global.key_file.clone()),
            None if place.is_default && std::env::var_os("COPAL_PASSWORD").is_none() => Ok(default_key_file().ok()),
            _ => Ok(None),
        }
    }

    fn opener(&self, place: &Place, locked: &Locked) -> Result<Opener> {
        if let Some(path) = self.key_file(place)?
            && (!place.is_default || self.global.key_file.is_some() || path.exists())
        {
            return Ok(Opener::Bundle(Box::new(secret::read_bundle(&path)?)));
        }
        let password = match self.given_password()? {
            Some(password) => password,
            None => {
                refuse_restic(&["RESTIC_PASSWORD", "RESTIC_PASSWORD_FILE", "RESTIC_PASSWORD_COMMAND"])?;
                secret::prompt(&format!("password for {}", place.location))?.ok_or_else(no_key)?
            }
        };
        // A recovery code has a checksum, so a password is hardly ever taken for one.
        if let Ok(code) =
            std::str::from_utf8(&password).map_err(drop).and_then(|t| RecoveryCode::parse(t).map_err(drop))
            && locked.slots()?.iter().any(|slot| matches!(slot.lock, Lock::RecoveryCode))
        {
            return Ok(Opener::RecoveryCode(code.key()));
        }
        Ok(Opener::Passphrase(password))
    }

    /// Says which accepted flags do nothing.
    pub(crate) fn tell_of_locks(&self) {
        if self.global.no_lock || self.global.retry_lock.is_some() {
            self.out.note("--no-lock and --retry-lock do nothing: this repository has no locks");
        }
    }
}

fn no_key() -> anyhow::Error {
    anyhow!(Error::WrongKey(
        "no key is given, and there is no terminal to ask on; use --password-file, --password-command or --key-file"
            .into()
    ))
}

/// Fails where somebody has set variables for restic and none of ours: going on would use another repository or key.
fn refuse_restic(names: &[&str]) -> Result<()> {
    match names.iter().find(|name| std::env::var_os(name).is_some()) {
        None => Ok(()),
        Some(name) => {
            bail!("{name} is restic's and is not read; set {} for copal", name.replacen("RESTIC", "COPAL", 1))
        }
    }
}

fn read_customer_key(path: &Path) -> Result<Zeroizing<[u8; 32]>> {
    let bytes = Zeroizing::new(std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?);
    let mut key = Zeroizing::new([0; 32]);
    if bytes.len() == 32 {
        key.copy_from_slice(&bytes);
        return Ok(key);
    }
    let text = std::str::from_utf8(bytes.trim_ascii()).unwrap_or_default();
    match copal_engine::id::unhex(text, &mut *key) {
        Ok(()) => Ok(key),
        Err(_) => bail!("{} is no SSE-C key: it must hold 32 bytes, or 64 hex digits", path.display()),
    }
}
