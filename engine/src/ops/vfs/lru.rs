//! What was decoded, kept up to a number of bytes; the least recently used goes first.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// A cache with a cap on the weight of what it holds.
#[derive(Debug)]
pub(super) struct Lru<K, V> {
    cap: usize,
    held: usize,
    clock: u64,
    items: HashMap<K, Item<V>>,
    by_use: BTreeMap<u64, K>,
}

#[derive(Debug)]
struct Item<V> {
    value: V,
    weight: usize,
    used: u64,
}

impl<K: Hash + Eq + Clone, V: Clone> Lru<K, V> {
    /// Holds up to `cap` bytes, and always the last one that was put, whatever it weighs: a directory larger than the
    /// cache is listed in several calls, and must not be decoded anew for each.
    pub(super) fn new(cap: usize) -> Self {
        Self { cap, held: 0, clock: 0, items: HashMap::new(), by_use: BTreeMap::new() }
    }

    pub(super) fn get(&mut self, key: &K) -> Option<V> {
        self.clock += 1;
        let item = self.items.get_mut(key)?;
        self.by_use.remove(&item.used);
        item.used = self.clock;
        self.by_use.insert(self.clock, key.clone());
        Some(item.value.clone())
    }

    pub(super) fn put(&mut self, key: K, value: V, weight: usize) {
        self.clock += 1;
        self.held += weight;
        let item = Item { value, weight, used: self.clock };
        if let Some(old) = self.items.insert(key.clone(), item) {
            self.held -= old.weight;
            self.by_use.remove(&old.used);
        }
        self.by_use.insert(self.clock, key);
        while self.held > self.cap && self.items.len() > 1 {
            let (_, oldest) = self.by_use.pop_first().expect("what is held is listed");
            self.held -= self.items.remove(&oldest).expect("what is listed is held").weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_least_recently_used_goes_and_the_newest_stays() {
        let mut lru = Lru::new(10);
        lru.put("a", 1, 4);
        lru.put("b", 2, 4);
        assert_eq!(lru.get(&"a"), Some(1));
        lru.put("c", 3, 4);
        assert_eq!((lru.get(&"a"), lru.get(&"b"), lru.get(&"c")), (Some(1), None, Some(3)));
        lru.put("large", 4, 100);
        assert_eq!((lru.get(&"a"), lru.get(&"c"), lru.get(&"large")), (None, None, Some(4)));
        lru.put("a", 5, 1);
        assert_eq!((lru.get(&"large"), lru.get(&"a")), (None, Some(5)));
    }

    proptest! {
        #[test]
        fn the_cap_is_kept(puts in proptest::collection::vec((0u8..20, 1usize..9), 1..200)) {
            let mut lru = Lru::new(30);
            for (key, weight) in puts {
                lru.put(key, (), weight);
                prop_assert_eq!(lru.held, lru.items.values().map(|i| i.weight).sum::<usize>());
                prop_assert!(lru.held <= 30);
                prop_assert_eq!(lru.items.len(), lru.by_use.len());
                prop_assert!(lru.get(&key).is_some());
            }
        }
    }
}
