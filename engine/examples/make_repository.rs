//! Makes a repository with something of everything in it, for `tests/reader/`, without the command line program.
//!
//! `make_repository REPOSITORY KEYS SOURCE...` backs up each SOURCE as `/source`: the first as a writer, who is revoked
//! afterwards, the others as owner, with READ rotated before each. KEYS gets a file for each role, `first.key` (the owner
//! before any rotation); slots are opened by the passphrase `correct horse` and by the recovery code in the file `code`.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use copal_engine::chunker::Params;
use copal_engine::crypto::kdf::{Argon2Params, RecoveryCode};
use copal_engine::crypto::rng::SystemRng;
use copal_engine::format::bundle::{Bundle, Role};
use copal_engine::ops::backup::{Options, backup};
use copal_engine::progress::{Cancel, Silent};
use copal_engine::repo::key_admin::NewLock;
use copal_engine::repo::{self, Bridge, Locked, Opener, Repository};
use copal_engine::store::Store;
use copal_engine::store::local::Local;

struct Place {
    store: Arc<dyn Store>,
    bridge: Bridge,
    keys: PathBuf,
}

impl Place {
    fn options(&self, role: Role) -> repo::Options {
        repo::Options::new(self.keys.join("local").join(role.as_str()))
    }

    fn open(&self, bundle: &Bundle) -> Result<Repository, copal_engine::Error> {
        let opener = Opener::Bundle(Box::new(bundle.clone()));
        Locked::find(Arc::clone(&self.store), self.bridge.clone())?.unlock(opener, self.options(bundle.role))
    }

    fn keep(&self, name: &str, bundle: &Bundle) -> std::io::Result<()> {
        std::fs::write(self.keys.join(name), bundle.to_text().as_bytes())
    }

    fn backup(&self, bundle: &Bundle, source: &Path) -> Result<(), Box<dyn Error>> {
        let mut repo = self.open(bundle)?;
        let who = repo.identity(&mut SystemRng)?;
        let options = Options {
            as_path: Some("/source".into()),
            host: b"host".to_vec(),
            user: (b"user".to_vec(), 1000, 1000),
            labels: vec![b"label".to_vec()],
            program: b"make_repository".to_vec(),
            ..Options::new(vec![source.to_owned()])
        };
        let summary = backup(&Arc::new(repo), &who, Box::new(SystemRng), &options, &Silent, &Cancel::default())?;
        println!("{}", summary.snapshot.map_or_else(|| "none".to_owned(), |id| id.to_string()));
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [repository, keys, sources @ ..] = args.as_slice() else {
        return Err("usage: make_repository REPOSITORY KEYS SOURCE...".into());
    };
    std::fs::create_dir_all(keys)?;
    let place = Place { store: Arc::new(Local::create(repository)?), bridge: Bridge::start()?, keys: keys.clone() };
    let rng = &mut SystemRng;
    // The smallest chunks: a file becomes a large one early.
    let params = Params::with_average(64 << 10)?;
    let options = place.options(Role::Owner);
    let (mut repo, _) = repo::init(Arc::clone(&place.store), place.bridge.clone(), params, options, rng)?;
    let mut owner = repo.bundle().clone();
    place.keep("first.key", &owner)?;
    let writer = repo.enroll_new(Role::Writer, rng)?;
    place.keep("writer.key", &writer)?;
    place.keep("maintainer.key", &repo.enroll_new(Role::Maintainer, rng)?)?;
    drop(repo);
    for (n, source) in sources.iter().enumerate() {
        if n == 0 {
            place.backup(&writer, source)?;
            let id = writer.identity.as_ref().expect("a writer's").id;
            place.open(&owner)?.revoke(id, None)?;
            continue;
        }
        let mut repo = place.open(&owner)?;
        let next = repo.draw_rotation(rng)?;
        repo.rotate_to(next.clone(), rng)?;
        drop(repo);
        owner = next;
        place.backup(&owner, source)?;
    }
    place.keep("owner.key", &owner)?;
    let repo = place.open(&owner)?;
    place.keep("reader.key", &repo.bundle_for(Role::Reader)?)?;
    repo.add_slot(Role::Reader, NewLock::Passphrase(b"correct horse", Argon2Params::DEFAULT), b"slot", rng)?;
    let code = RecoveryCode::generate(rng);
    std::fs::write(place.keys.join("code"), code.text().as_bytes())?;
    repo.add_slot(Role::Owner, NewLock::RecoveryCode(&code), b"paper", rng)?;
    Ok(())
}
