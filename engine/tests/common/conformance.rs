//! What every store must do, as one suite. Each check uses its own prefix and cleans nothing up.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use copal_engine::store::{Listed, Store, StoreError, list_all};

use super::{body, key};

/// Creators at once in a race.
const CREATORS: usize = 8;

/// What is known to be weaker about a store, and how much to ask of it.
#[derive(Debug, Clone, Copy)]
pub struct Traits {
    /// `put_new` is honoured when calls come one after another.
    pub create_only: bool,
    /// `put_new` has exactly one winner when calls race.
    pub atomic: bool,
    /// Keys in the paging check.
    pub keys: usize,
}

impl Default for Traits {
    fn default() -> Self {
        Self { create_only: true, atomic: true, keys: 2600 }
    }
}

/// Runs all checks against an empty store.
pub async fn run(store: Arc<dyn Store>, traits: Traits) {
    assert!(list_all(&*store, "").await.unwrap().is_empty(), "the suite wants an empty store");
    absent_objects(&*store).await;
    bodies(&*store).await;
    ranges(&*store).await;
    replacing(&*store).await;
    deleting(&*store).await;
    prefixes(&*store).await;
    if traits.create_only {
        create_only(&*store).await;
    }
    if traits.atomic {
        create_race(store.clone()).await;
    }
    concurrent_writes(store.clone()).await;
    paging(store.clone(), traits.keys).await;
}

async fn absent_objects(store: &dyn Store) {
    for name in ["absent", "absent/deep/er", "absent/deep"] {
        let k = key(name);
        assert!(matches!(store.get(&k, 10).await, Err(StoreError::NotFound { key }) if key == k), "{name}");
        assert!(matches!(store.get_range(&k, 0..1).await, Err(StoreError::NotFound { .. })), "{name}");
        assert!(matches!(store.get_range(&k, 0..0).await, Err(StoreError::NotFound { .. })), "{name}");
        assert!(matches!(store.head(&k).await, Err(StoreError::NotFound { .. })), "{name}");
        store.delete(&k).await.unwrap();
    }
    assert!(store.list("absent/", None).await.unwrap().objects.is_empty());
}

async fn bodies(store: &dyn Store) {
    for (n, len) in [0, 1, 255, 4096, 65_537, 1 << 20, 20 << 20].into_iter().enumerate() {
        for (verb, k) in [("put", key(&format!("bodies/{len}"))), ("put-new", key(&format!("bodies/{len}.new")))] {
            let bytes = body(len, n as u64);
            let done =
                if verb == "put" { store.put(&k, bytes.clone()).await } else { store.put_new(&k, bytes.clone()).await };
            done.unwrap_or_else(|e| panic!("{verb} {len}: {e:?}"));
            assert!(store.get(&k, len as u64).await.unwrap() == bytes, "{verb} {len}: other bytes came back");
            assert_eq!(store.head(&k).await.unwrap(), len as u64);
            if len > 0 {
                let short = store.get(&k, len as u64 - 1).await;
                assert!(matches!(short, Err(StoreError::Wrong { .. })), "{verb} {len}: more than the bound was taken");
            }
        }
    }
}

async fn ranges(store: &dyn Store) {
    let (k, bytes) = (key("ranges/x"), body(100_000, 7));
    store.put(&k, bytes.clone()).await.unwrap();
    for range in [0..1, 0..100_000, 99_999..100_000, 1..65_537, 500..500, 0..0, 100_000..100_000] {
        let got = store.get_range(&k, range.clone()).await.unwrap_or_else(|e| panic!("{range:?}: {e:?}"));
        assert!(got == bytes.slice(range.start as usize..range.end as usize), "{range:?}");
    }
    for range in [0..100_001, 99_999..100_001, 100_000..100_001, 200_000..200_010, 100_001..100_001, 0..u64::MAX] {
        let got = store.get_range(&k, range.clone()).await;
        assert!(matches!(got, Err(StoreError::Wrong { .. })), "{range:?}: {got:?}");
    }
    #[expect(clippy::reversed_empty_ranges)]
    let reversed = store.get_range(&k, 10..5).await;
    assert!(matches!(reversed, Err(StoreError::Wrong { .. })), "{reversed:?}");
}

async fn replacing(store: &dyn Store) {
    let k = key("replacing/x");
    for round in 0..3 {
        let bytes = body(1000 + round, round as u64);
        store.put(&k, bytes.clone()).await.unwrap();
        assert!(store.get(&k, 10_000).await.unwrap() == bytes);
    }
    assert_eq!(list_all(store, "replacing/").await.unwrap(), [Listed { key: k, size: 1002 }]);
}

async fn deleting(store: &dyn Store) {
    let (a, b) = (key("deleting/d/a"), key("deleting/d/b"));
    store.put(&a, body(10, 1)).await.unwrap();
    store.put(&b, body(10, 2)).await.unwrap();
    for _ in 0..2 {
        store.delete(&a).await.unwrap();
        assert!(matches!(store.get(&a, 10).await, Err(StoreError::NotFound { .. })));
        assert_eq!(list_all(store, "deleting/").await.unwrap().len(), 1, "the other object stays");
    }
    store.delete(&b).await.unwrap();
    assert!(list_all(store, "deleting/").await.unwrap().is_empty());
    // What was deleted can be made anew, also where its directory went with it.
    store.put_new(&a, body(11, 3)).await.unwrap();
    assert_eq!(store.head(&a).await.unwrap(), 11);
}

async fn prefixes(store: &dyn Store) {
    let keys = ["prefixes/a", "prefixes/a.b", "prefixes/ab/c", "prefixes/ab/d", "prefixes/abc", "prefixes/b"];
    for k in keys {
        store.put(&key(k), body(3, 1)).await.unwrap();
    }
    let listed = |prefix: &'static str| async move {
        let keys = list_all(store, prefix).await.unwrap();
        keys.iter().map(|l| l.key.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(listed("prefixes/").await, keys);
    assert_eq!(listed("prefixes/a").await, keys[..5]);
    assert_eq!(listed("prefixes/ab").await, keys[2..5]);
    assert_eq!(listed("prefixes/ab/").await, keys[2..4]);
    assert_eq!(listed("prefixes/ab/c").await, keys[2..3]);
    assert!(listed("prefixes/c").await.is_empty());
    assert!(listed("prefixes/a/").await.is_empty(), "an object is no directory");
    let page = store.list("prefixes/", Some(&key("prefixes/ab/c"))).await.unwrap();
    assert!(page.objects.iter().map(|l| l.key.as_str()).eq(keys[3..3 + page.objects.len()].iter().copied()));
    // `after` need not exist, and may lie before or behind all that the prefix covers.
    let page = store.list("prefixes/ab/", Some(&key("prefixes/aa"))).await.unwrap();
    assert_eq!(page.objects[0].key.as_str(), "prefixes/ab/c");
    let page = store.list("prefixes/ab/", Some(&key("prefixes/b"))).await.unwrap();
    assert!(page.objects.is_empty() && !page.more);
}

async fn create_only(store: &dyn Store) {
    let (k, first) = (key("create/x"), body(100, 1));
    store.put_new(&k, first.clone()).await.unwrap();
    for other in [body(100, 2), Bytes::new(), body(5000, 3)] {
        let again = store.put_new(&k, other).await;
        assert!(matches!(&again, Err(StoreError::Exists { key }) if *key == k), "{again:?}");
        assert!(store.get(&k, 5000).await.unwrap() == first, "the first object was touched");
    }
}

async fn create_race(store: Arc<dyn Store>) {
    for round in 0..10 {
        let k = key(&format!("race/{round}/x"));
        let creators: Vec<_> = (0..CREATORS)
            .map(|n| {
                let (store, k) = (store.clone(), k.clone());
                tokio::spawn(async move { store.put_new(&k, body(2000, n as u64)).await })
            })
            .collect();
        let mut winners = Vec::new();
        for (n, creator) in creators.into_iter().enumerate() {
            match creator.await.unwrap() {
                Ok(()) => winners.push(n),
                Err(StoreError::Exists { .. }) => {}
                Err(e) => panic!("round {round}: {e:?}"),
            }
        }
        assert_eq!(winners.len(), 1, "round {round}: winners {winners:?}");
        assert!(store.get(&k, 2000).await.unwrap() == body(2000, winners[0] as u64), "not the winner's bytes");
    }
}

/// Writers and deleters in one directory, which comes and goes with its objects, while others list it.
async fn concurrent_writes(store: Arc<dyn Store>) {
    let writers: Vec<_> = (0..CREATORS)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                for round in 0..10 {
                    let k = key(&format!("busy/d/{n}-{round}"));
                    store.put_new(&k, body(100, round)).await.unwrap();
                    assert_eq!(store.head(&k).await.unwrap(), 100);
                    assert!(list_all(&*store, "busy/").await.unwrap().iter().any(|l| l.key == k && l.size == 100));
                    store.delete(&k).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    assert!(list_all(&*store, "busy/").await.unwrap().is_empty());
}

/// Keys whose order by whole text differs from that of a walk by directories, in many pages.
async fn paging(store: Arc<dyn Store>, count: usize) {
    let tricky =
        ["a-b", "a.b", "a/b", "a0", "a/b0", "ab", "a-/x", "a.-/x", "a/-", "a/.x", "b/c/d/e/f", "b/c.d", "b/c-d/e"];
    let tricky = tricky.iter().map(|t| format!("paging/{t}"));
    let many =
        (0..count).map(|n| format!("paging/{}{}{n:04x}", ["m", "m.", "m-"][n % 3], ["/", "-", ".", "/x/"][n % 4]));
    let keys: BTreeSet<String> = tricky.chain(many).collect();
    let queue = Arc::new(std::sync::Mutex::new(keys.iter().cloned().collect::<Vec<_>>()));
    let workers: Vec<_> = (0..16)
        .map(|_| {
            let (store, queue) = (store.clone(), queue.clone());
            tokio::spawn(async move {
                let next = || queue.lock().unwrap().pop();
                while let Some(k) = next() {
                    store.put(&key(&k), Bytes::from(k)).await.unwrap();
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    let listed = list_all(&*store, "paging/").await.unwrap();
    assert!(listed.iter().map(|l| l.key.as_str()).eq(keys.iter().map(String::as_str)), "wrong keys or wrong order");
    assert!(listed.iter().all(|l| l.size == l.key.as_str().len() as u64));
    // From any key on, the rest follows.
    for at in (0..listed.len()).step_by(listed.len() / 7) {
        let page = store.list("paging/", Some(&listed[at].key)).await.unwrap();
        assert_eq!(page.objects, listed[at + 1..at + 1 + page.objects.len()]);
        assert_eq!(page.more, at + 1 + page.objects.len() < listed.len());
        assert!(!page.objects.is_empty() || at + 1 == listed.len());
    }
}
