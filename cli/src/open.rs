//! From what was typed to an open repository: where it is, how its store is spoken to, which key opens it.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, Result, bail};
use clap::ArgMatches;
use copal_engine::Error;
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
use crate::secret::Password;
use crate::which::{FromArgs, Nothing, Which};

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

    /// The flags that say which repository and which key.
    fn which(&self) -> Which<'_> {
        Which::of(&self.global, &self.matches)
    }

    /// Where the repository is.
    pub(crate) fn place(&self) -> Result<Place> {
        match self.which().location()? {
            Some(location) => Ok(Place { location, is_default: false }),
            None => Ok(Place { location: Location::Local(data_dir()?.join("repository")), is_default: true }),
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

    /// Opens the repository that `copy` reads from; `matches` of the command itself are below ours.
    pub(crate) fn repository_from(&self, args: &FromArgs) -> Result<Repository> {
        let (_, matches) = self.matches.subcommand().expect("only a command has such flags");
        let which = Which::from(args, matches);
        let Some(location) = which.location()? else {
            return Err(usage("nothing says where to copy from; give --from-repo"));
        };
        let place = Place { location, is_default: false };
        let locked = Locked::find(self.store(&place, true)?, self.bridge()?.clone())?;
        let opener = which.opener(which.key_file()?.unwrap_or(None).as_deref(), &place.location, &locked)?;
        Ok(locked.unlock(opener, self.options())?)
    }

    /// The password that was given in whatever way but by typing it.
    pub(crate) fn given_password(&self) -> Result<Option<Password>> {
        self.which().given_password()
    }

    /// The key file that was given, or that of the default repository where nothing else was.
    pub(crate) fn key_file(&self, place: &Place) -> Result<Option<PathBuf>> {
        let which = self.which();
        match which.key_file()? {
            Ok(given) => Ok(given),
            Err(Nothing) if place.is_default && !which.has_variable() => Ok(default_key_file().ok()),
            Err(Nothing) => Ok(None),
        }
    }

    fn opener(&self, place: &Place, locked: &Locked) -> Result<Opener> {
        let usable = |path: &PathBuf| !place.is_default || self.global.key_file.is_some() || path.exists();
        let key_file = self.key_file(place)?.filter(usable);
        self.which().opener(key_file.as_deref(), &place.location, locked)
    }

    /// Says which accepted flags do nothing.
    pub(crate) fn tell_of_locks(&self) {
        if self.global.no_lock || self.global.retry_lock.is_some() {
            self.out.note("--no-lock and --retry-lock do nothing: this repository has no locks");
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
