//! Who may, and who may not: shown by trying with each role's bundle.

use std::sync::Arc;

use copal_engine::Error;
use copal_engine::chunker::Params;
use copal_engine::crypto::kdf::{Argon2Params, RecoveryCode};
use copal_engine::crypto::rng::{SeededRng, SystemRng};
use copal_engine::format::blob::BlobKind;
use copal_engine::format::bundle::{Bundle, Role};
use copal_engine::ops::backup::{self, Options};
use copal_engine::progress::{Cancel, Silent};
use copal_engine::repo::key_admin::NewLock;
use copal_engine::repo::{self, Bridge, Locked, Opener, Reader, Repository};
use copal_engine::store::Store;
use copal_engine::store::memory::Memory;

struct Place {
    dir: tempfile::TempDir,
    store: Arc<dyn Store>,
    bridge: Bridge,
}

impl Place {
    /// A repository with one file in one snapshot of its owner.
    fn new() -> (Self, Repository) {
        let place = Self {
            dir: tempfile::tempdir().unwrap(),
            store: Arc::new(Memory::new()),
            bridge: Bridge::start().unwrap(),
        };
        std::fs::create_dir(place.dir.path().join("source")).unwrap();
        std::fs::write(place.dir.path().join("source/secret-name"), b"secret content").unwrap();
        let options = place.options("owner");
        let (repo, _) = repo::init(
            Arc::clone(&place.store),
            place.bridge.clone(),
            Params::DEFAULT,
            options,
            &mut SeededRng::new("owner"),
        )
        .unwrap();
        (place, repo)
    }

    fn options(&self, who: &str) -> repo::Options {
        repo::Options::new(self.dir.path().join(who))
    }

    fn open(&self, opener: Opener, who: &str) -> Result<Repository, Error> {
        Locked::find(Arc::clone(&self.store), self.bridge.clone())?.unlock(opener, self.options(who))
    }

    fn open_bundle(&self, bundle: &Bundle, who: &str) -> Repository {
        // Through its text, as a file would hold it.
        let bundle = Bundle::from_text(&bundle.to_text()).unwrap();
        self.open(Opener::Bundle(Box::new(bundle)), who).unwrap()
    }

    fn backup(&self, repo: Repository) -> Result<(Arc<Repository>, backup::Summary), Error> {
        let mut repo = repo;
        let who = repo.identity(&mut SystemRng)?;
        let repo = Arc::new(repo);
        let options = Options {
            as_path: Some("/source".into()),
            host: b"host".to_vec(),
            level: 1,
            ..Options::new(vec![self.dir.path().join("source")])
        };
        let summary = backup::backup(&repo, &who, Box::new(SystemRng), &options, &Silent, &Cancel::default())?;
        Ok((repo, summary))
    }
}

/// The content of the one file in the newest snapshot.
fn read_back(repo: &Arc<Repository>) -> Result<Vec<u8>, Error> {
    let view = repo.view()?;
    let snapshot = view.snapshots.last().expect("one was made");
    let reader = Reader::new(Arc::clone(repo), Arc::clone(&view.index), 1 << 20);
    let node = reader.find(&snapshot.graph.root.unwrap(), b"/source/secret-name")?.unwrap();
    Ok(reader.blob(&node.children[0], BlobKind::Data)?.to_vec())
}

#[test]
fn a_writer_adds_and_deduplicates_and_reads_no_content_and_no_name() {
    let (place, mut owner) = Place::new();
    let bundle = owner.enroll_new(Role::Writer, &mut SystemRng).unwrap();
    let (owner, first) = place.backup(owner).unwrap();
    assert_eq!(first.counts.blobs[0], 1);

    let (writer, second) = place.backup(place.open_bundle(&bundle, "writer")).unwrap();
    assert_eq!(second.counts.blobs[0], 0, "what the owner stored is found by the writer");
    let view = writer.view().unwrap();
    assert_eq!(view.snapshots.len(), 2);
    assert!(view.snapshots.iter().all(|s| s.names.is_none()));
    let reader = Reader::new(Arc::clone(&writer), Arc::clone(&view.index), 1 << 20);
    let mut denied = 0;
    for found in view.index.entries() {
        match reader.blob(&found.entry.id, found.entry.kind) {
            Ok(_) => assert_eq!(found.entry.kind, BlobKind::Tree, "the graph is open to a writer"),
            Err(Error::NotAllowed { .. }) => denied += 1,
            Err(e) => panic!("{e}"),
        }
    }
    assert!(denied >= 2, "data and meta are not");
    drop(owner);
    let owner = place.open_bundle(&place_owner(&place), "owner");
    assert_eq!(read_back(&Arc::new(owner)).unwrap(), b"secret content");
}

/// The owner's bundle, as the seed gives it.
fn place_owner(place: &Place) -> Bundle {
    let again: Arc<dyn Store> = Arc::new(Memory::new());
    let (repo, _) =
        repo::init(again, place.bridge.clone(), Params::DEFAULT, place.options("again"), &mut SeededRng::new("owner"))
            .unwrap();
    repo.bundle().clone()
}

#[test]
fn a_reader_reads_everything_and_writes_nothing() {
    let (place, owner) = Place::new();
    let bundle = owner.bundle_for(Role::Reader).unwrap();
    place.backup(owner).unwrap();
    let reader = place.open_bundle(&bundle, "reader");
    assert!(matches!(reader.bundle_for(Role::Owner), Err(Error::NotAllowed { .. })));
    let refused = place.backup(place.open_bundle(&bundle, "reader")).unwrap_err();
    assert!(matches!(refused, Error::NotAllowed { .. }), "{refused}");
    assert_eq!(read_back(&Arc::new(reader)).unwrap(), b"secret content");
}

#[test]
fn a_maintainer_sees_the_graph_and_reads_and_writes_nothing() {
    let (place, mut owner) = Place::new();
    let bundle = owner.enroll_new(Role::Maintainer, &mut SystemRng).unwrap();
    place.backup(owner).unwrap();
    let maintainer = Arc::new(place.open_bundle(&bundle, "maintainer"));
    let view = maintainer.view().unwrap();
    assert!(view.snapshots[0].names.is_none() && !view.index.is_empty());
    let reader = Reader::new(Arc::clone(&maintainer), Arc::clone(&view.index), 1 << 20);
    assert!(reader.tree(&view.snapshots[0].graph.root.unwrap()).is_ok());
    assert!(matches!(read_back(&maintainer), Err(Error::NotAllowed { .. })));
    let refused = place.backup(place.open_bundle(&bundle, "maintainer")).unwrap_err();
    assert!(matches!(refused, Error::NotAllowed { .. }), "{refused}");
}

#[test]
fn slots_open_with_their_passphrase_or_code_and_no_other() {
    let (place, owner) = Place::new();
    let code = RecoveryCode::generate(&mut SystemRng);
    owner.add_slot(Role::Owner, NewLock::Passphrase(b"right", Argon2Params::DEFAULT), b"me", &mut SystemRng).unwrap();
    let removed = owner.add_slot(Role::Reader, NewLock::RecoveryCode(&code), b"paper", &mut SystemRng).unwrap();
    let passphrase = |text: &[u8]| Opener::Passphrase(text.to_vec().into());
    assert_eq!(place.open(passphrase(b"right"), "a").unwrap().role(), Role::Owner);
    assert!(matches!(place.open(passphrase(b"wrong"), "a"), Err(Error::WrongKey(_))));
    assert_eq!(place.open(Opener::RecoveryCode(code.key()), "a").unwrap().role(), Role::Reader);
    owner.remove_slot(removed).unwrap();
    assert!(matches!(place.open(Opener::RecoveryCode(code.key()), "a"), Err(Error::WrongKey(_))));
}

#[test]
fn a_revoked_writer_writes_no_more_and_what_it_wrote_before_stays() {
    let (place, mut owner) = Place::new();
    let bundle = owner.enroll_new(Role::Writer, &mut SystemRng).unwrap();
    let id = bundle.identity.as_ref().unwrap().id;
    place.backup(place.open_bundle(&bundle, "writer")).unwrap();
    // Opened before it was revoked: what it still writes does not count.
    let late = place.open_bundle(&bundle, "writer");
    assert_eq!(owner.revoke(id, None).unwrap().unwrap().n, 1);
    place.backup(late).unwrap();
    let refused = place.backup(place.open_bundle(&bundle, "writer")).unwrap_err();
    assert!(matches!(refused, Error::WrongKey(_)), "{refused}");
    let (snapshots, problems) = owner.snapshots().unwrap();
    assert_eq!((snapshots.len(), problems.len()), (1, 1));
}

#[test]
fn after_a_rotation_old_keys_read_the_old_and_new_ones_everything() {
    let (place, owner) = Place::new();
    let old = owner.bundle_for(Role::Reader).unwrap();
    let before = owner.bundle().clone();
    place.backup(owner).unwrap();
    let mut owner = place.open_bundle(&before, "owner");
    let next = owner.draw_rotation(&mut SystemRng).unwrap();
    owner.rotate_to(next.clone(), &mut SystemRng).unwrap();
    std::fs::write(place.dir.path().join("source/secret-name"), b"newer content").unwrap();
    place.backup(owner).unwrap();

    assert_eq!(read_back(&Arc::new(place.open_bundle(&next, "new"))).unwrap(), b"newer content");
    let (snapshots, problems) = place.open_bundle(&next, "new").snapshots().unwrap();
    assert_eq!((snapshots.len(), problems.len()), (2, 0));
    let (snapshots, problems) = place.open_bundle(&old, "old").snapshots().unwrap();
    assert_eq!((snapshots.len(), problems.len()), (1, 1), "the old key opens the old snapshot only");
}

#[test]
fn a_config_of_another_root_is_refused() {
    let (place, owner) = Place::new();
    let mut bundle = owner.bundle().clone();
    bundle.root[0] ^= 1;
    let refused = place.open(Opener::Bundle(Box::new(bundle)), "owner").unwrap_err();
    assert!(matches!(refused, Error::WrongKey(_)), "{refused}");
}
