//! From a channel to the sessions with a subscription that takes it in, without asking every
//! session.

use super::message::Pattern;
use super::session::SessionId;
use std::collections::{BTreeSet, HashMap};

/// The subscriptions of all sessions.
#[derive(Debug, Default)]
pub(super) struct SubscriptionIndex {
    exact: HashMap<String, BTreeSet<SessionId>>,
    /// By the pattern without its `*`.
    children: HashMap<String, BTreeSet<SessionId>>,
    /// By the pattern without its `**`.
    descendants: HashMap<String, BTreeSet<SessionId>>,
}

impl SubscriptionIndex {
    fn of(&mut self, pattern: &Pattern) -> (&mut HashMap<String, BTreeSet<SessionId>>, String) {
        match pattern {
            Pattern::Exact(name) => (&mut self.exact, name.clone()),
            Pattern::Children(parent) => (&mut self.children, parent.clone()),
            Pattern::Descendants(parent) => (&mut self.descendants, parent.clone()),
        }
    }

    pub(super) fn add(&mut self, pattern: &Pattern, session: SessionId) {
        let (sessions, name) = self.of(pattern);
        sessions.entry(name).or_default().insert(session);
    }

    pub(super) fn remove(&mut self, pattern: &Pattern, session: SessionId) {
        let (sessions, name) = self.of(pattern);
        if let Some(mine) = sessions.get_mut(&name) {
            mine.remove(&session);
            if mine.is_empty() {
                sessions.remove(&name);
            }
        }
    }

    /// Each session once, however many of its subscriptions take the channel in.
    pub(super) fn hearers(&self, channel: &str) -> Vec<SessionId> {
        let parents = channel.match_indices('/').map(|(at, slash)| &channel[..at + slash.len()]);
        let parent = channel.rfind('/').map(|at| &channel[..=at]);
        let sets = self
            .exact
            .get(channel)
            .into_iter()
            .chain(parent.and_then(|parent| self.children.get(parent)))
            .chain(parents.filter_map(|parent| self.descendants.get(parent)));
        let sets: Vec<&BTreeSet<SessionId>> = sets.collect();
        match sets.as_slice() {
            [] => Vec::new(),
            [only] => only.iter().copied().collect(),
            several => {
                let together: BTreeSet<SessionId> =
                    several.iter().flat_map(|set| set.iter().copied()).collect();
                together.into_iter().collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn overlapping_subscriptions_name_a_session_once() {
        let mut interest = SubscriptionIndex::default();
        let pattern = |text: &str| Pattern::parse(text).expect(text);
        for text in ["/a/b", "/a/*", "/a/**", "/**"] {
            interest.add(&pattern(text), SessionId(1));
        }
        interest.add(&pattern("/a/**"), SessionId(2));
        assert_eq!(interest.hearers("/a/b"), [SessionId(1), SessionId(2)]);
        assert_eq!(interest.hearers("/a/b/c"), [SessionId(1), SessionId(2)]);
        assert_eq!(interest.hearers("/a"), [SessionId(1)]);
        interest.remove(&pattern("/**"), SessionId(1));
        assert_eq!(interest.hearers("/a"), []);
    }

    proptest! {
        #[test]
        fn the_index_agrees_with_asking_every_pattern(
            patterns in proptest::collection::vec("(/[ab]){0,2}/([ab]|\\*|\\*\\*)", 0..8),
            channel in "(/[ab]){1,4}",
        ) {
            let mut interest = SubscriptionIndex::default();
            let mut expected = BTreeSet::new();
            for (number, text) in patterns.iter().enumerate() {
                let pattern = Pattern::parse(text).expect("a pattern");
                let session = SessionId(number as u64 % 3);
                interest.add(&pattern, session);
                if pattern.matches(&channel) {
                    expected.insert(session);
                }
            }
            let expected: Vec<SessionId> = expected.into_iter().collect();
            prop_assert_eq!(interest.hearers(&channel), expected);
        }
    }
}
