//! What may happen to a directory: crashes, foreign files, links, full disks.

mod common;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{body, key};
use copal_engine::store::local::Local;
use copal_engine::store::url::{Location, Options, create, open};
use copal_engine::store::{Store, StoreError, list_all};

/// Names the directory that the child of the crash test writes into.
const CRASH_DIR: &str = "COPAL_TEST_CRASH_DIR";
const CRASH_BODY_BYTES: usize = 300_000;

/// Not a test of its own: what the crash test starts and kills.
#[tokio::test(flavor = "multi_thread")]
async fn crash_child() {
    let Some(dir) = std::env::var_os(CRASH_DIR) else { return };
    let mut store = Local::open(Path::new(&dir)).unwrap();
    if Path::new(&dir).join("named").exists() {
        store = store.without_anonymous_files();
    }
    let run = common::random_word();
    for n in 0u64.. {
        let k = key(&format!("crash/{run}/{n}"));
        let bytes = body(CRASH_BODY_BYTES, n % 7);
        if n % 2 == 0 {
            store.put_new(&k, bytes).await.unwrap()
        } else {
            store.put(&k, bytes).await.unwrap()
        }
        // The same object again, as a retry would send it.
        store.put(&k, body(CRASH_BODY_BYTES, n % 7)).await.unwrap();
    }
}

/// A process killed at any moment leaves whole objects and, at most, temporaries that nobody sees.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_writer_leaves_no_partial_object() {
    for named in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        if named {
            // Its name is a valid key, so it must not be in the way below.
            std::fs::write(dir.path().join("named"), "").unwrap();
        }
        for round in 0..8u64 {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "crash_child", "--nocapture"])
                .env(CRASH_DIR, dir.path())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            tokio::time::sleep(Duration::from_millis(60 + round * 17)).await;
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let store = Local::open(dir.path()).unwrap();
        let objects = list_all(&store, "crash/").await.unwrap();
        assert!(objects.len() > 8, "the children wrote hardly anything: {}", objects.len());
        for object in objects {
            let n: u64 = object.key.name().parse().unwrap();
            assert_eq!(object.size, CRASH_BODY_BYTES as u64, "{}", object.key);
            assert!(
                store.get(&object.key, object.size).await.unwrap() == body(CRASH_BODY_BYTES, n % 7),
                "{}",
                object.key
            );
        }
        assert_eq!(list_all(&store, "tmp").await.unwrap(), []);
        store.clean_tmp(Duration::ZERO).unwrap();
        assert!(std::fs::read_dir(dir.path().join("tmp")).map_or(0, |entries| entries.count()) == 0);
        store.put_new(&key("later"), body(10, 1)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn modes_are_private() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("repository");
    let store = Local::create(&root).unwrap();
    store.put_new(&key("pack/a/b"), body(10, 1)).await.unwrap();
    let mode = |path: &str| std::fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("pack"), mode("pack/a"), mode("pack/a/b")), (0o700, 0o700, 0o700, 0o400));
    assert!(!store.is_network() && !store.list_may_lag());
}

#[tokio::test(flavor = "multi_thread")]
async fn young_temporaries_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = Local::create(dir.path()).unwrap();
    std::fs::create_dir(dir.path().join("tmp")).unwrap();
    std::fs::write(dir.path().join("tmp/_0123"), "partial").unwrap();
    store.put(&key("tmp/object"), body(10, 1)).await.unwrap();
    assert_eq!(list_all(&store, "").await.unwrap().len(), 1, "an object may lie there, a temporary is none");
    assert_eq!(store.clean_tmp(Duration::from_secs(3600)).unwrap(), 0);
    assert_eq!(store.clean_tmp(Duration::ZERO).unwrap(), 1);
    assert_eq!(store.head(&key("tmp/object")).await.unwrap(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn links_are_not_followed() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "secret").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store = Local::create(dir.path()).unwrap();
    symlink(outside.path(), dir.path().join("pack")).unwrap();
    symlink(outside.path().join("secret"), dir.path().join("file")).unwrap();
    symlink(outside.path(), dir.path().join("tmp")).unwrap();
    for name in ["pack/secret", "file"] {
        let error = store.get(&key(name), 100).await.unwrap_err();
        assert!(error.to_string().contains("symbolic link"), "{error}");
    }
    assert!(store.put(&key("pack/new"), body(1, 1)).await.is_err());
    assert!(store.delete(&key("pack/secret")).await.is_err());
    assert!(store.clone().without_anonymous_files().put(&key("new"), body(1, 1)).await.is_err(), "tmp is a link");
    assert_eq!(list_all(&store, "").await.unwrap(), []);
    let left: Vec<_> = std::fs::read_dir(outside.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert_eq!(left, ["secret"], "something was changed outside");
    // A link in place of an object is replaced, not written through.
    store.delete(&key("file")).await.unwrap();
    assert!(outside.path().join("secret").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_files_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let store = Local::create(dir.path()).unwrap();
    store.put(&key("a/b"), body(3, 1)).await.unwrap();
    for foreign in ["README", "a/B", "a/_x", ".~lock#"] {
        std::fs::write(dir.path().join(foreign), "x").unwrap();
    }
    std::fs::create_dir_all(dir.path().join("lost+found/x")).unwrap();
    let fifo = Command::new("mkfifo").arg(dir.path().join("fifo")).status().unwrap();
    assert!(fifo.success());
    assert_eq!(list_all(&store, "").await.unwrap().len(), 1);
    assert!(store.get(&key("fifo"), 10).await.unwrap_err().is_not_found(), "a FIFO must not hold us");
    assert!(store.get(&key("a"), 10).await.unwrap_err().is_not_found(), "a directory is no object");
}

#[tokio::test(flavor = "multi_thread")]
async fn opening_says_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let location = |path: &str| Location::Local(dir.path().join(path));
    let missing = open(&location("missing"), &Options::default()).await.unwrap_err();
    assert!(matches!(missing, StoreError::Setup { .. }) && missing.to_string().contains("init"), "{missing}");
    std::fs::write(dir.path().join("file"), "").unwrap();
    let file = open(&location("file"), &Options::default()).await.unwrap_err();
    assert!(file.to_string().contains("not a directory"), "{file}");
    let made = create(&location("new/one"), &Options::default()).await.unwrap();
    made.put_new(&key("a"), body(1, 1)).await.unwrap();
    assert_eq!(made.location(), dir.path().join("new/one").display().to_string());
    open(&location("new/one"), &Options::default()).await.unwrap().head(&key("a")).await.unwrap();
}

/// On a file system of one megabyte; needs the right to mount, and says so where it lacks.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "none"]).arg(dir.path()).status();
    if !mounted.is_ok_and(|status| status.success()) {
        println!("skipped: cannot mount a tmpfs here");
        return;
    }
    let outcome = tokio::spawn(fill(dir.path().to_path_buf())).await;
    assert!(Command::new("umount").arg(dir.path()).status().unwrap().success());
    outcome.unwrap();
}

async fn fill(dir: std::path::PathBuf) {
    for store in [Local::open(&dir).unwrap(), Local::open(&dir).unwrap().without_anonymous_files()] {
        store.put(&key("a/small"), body(1000, 1)).await.unwrap();
        for put in
            [store.put_new(&key("b/big"), body(2 << 20, 1)).await, store.put(&key("b/big"), body(2 << 20, 1)).await]
        {
            assert!(matches!(put, Err(StoreError::Full { .. })), "{put:?}");
        }
        assert_eq!(list_all(&store, "").await.unwrap().len(), 1);
        assert_eq!(store.clean_tmp(Duration::ZERO).unwrap(), 0, "a temporary stayed behind");
        store.put(&key("b/small"), body(1000, 1)).await.unwrap();
        store.delete(&key("b/small")).await.unwrap();
    }
}
