use super::SharedMap;
use std::sync::Arc;

/// What has become of the entries of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference<K> {
    /// There now, and not before.
    pub added: Vec<K>,
    /// There before and now, with another value.
    pub changed: Vec<K>,
    /// There before, and not now.
    pub removed: Vec<K>,
}

impl<K: Ord + Clone> Difference<K> {
    /// From one map to another that may share most of its values.
    pub fn between<V: PartialEq>(before: &SharedMap<K, V>, after: &SharedMap<K, V>) -> Self {
        let mut found = Self { added: Vec::new(), changed: Vec::new(), removed: Vec::new() };
        if before.is_one_with(after) {
            return found;
        }
        let (mut old, mut new) = (before.iter().peekable(), after.iter().peekable());
        loop {
            match (old.peek(), new.peek()) {
                (None, None) => return found,
                (Some((key, _)), None) => {
                    found.removed.push((*key).clone());
                    old.next();
                }
                (None, Some((key, _))) => {
                    found.added.push((*key).clone());
                    new.next();
                }
                (Some((gone, _)), Some((key, _))) if gone < key => {
                    found.removed.push((*gone).clone());
                    old.next();
                }
                (Some((kept, _)), Some((key, _))) if kept > key => {
                    found.added.push((*key).clone());
                    new.next();
                }
                (Some((key, was)), Some((_, is))) => {
                    if !Arc::ptr_eq(was, is) && was != is {
                        found.changed.push((*key).clone());
                    }
                    old.next();
                    new.next();
                }
            }
        }
    }

    /// Nothing has.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }

    /// The entries that are there now and are news.
    pub fn put(&self) -> impl Iterator<Item = &K> {
        self.added.iter().chain(&self.changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_told_apart_by_key_and_value() {
        let map = |pairs: &[(&'static str, u8)]| -> SharedMap<&'static str, u8> {
            pairs.iter().map(|(key, value)| (*key, Arc::new(*value))).collect()
        };
        let before = map(&[("a", 1), ("b", 2), ("d", 4)]);
        let after = map(&[("b", 3), ("c", 3), ("d", 4), ("e", 5)]);
        let found = Difference::between(&before, &after);
        assert_eq!(found.added, ["c", "e"]);
        assert_eq!(found.changed, ["b"]);
        assert_eq!(found.removed, ["a"]);
        assert!(Difference::between(&after, &after.clone()).is_empty());
    }
}
