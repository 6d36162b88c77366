use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// What is known about a call beside its telephony: names and values that agents, the trunk it came
/// by and the client that dialled have attached to it. Bounded, cheap to clone; its text is never in
/// the log.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct UserData {
    pairs: Arc<BTreeMap<String, String>>,
}

/// What a call's data may not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotUserData {
    /// More keys than [`UserData::MOST_KEYS`].
    #[error("more than {} keys", UserData::MOST_KEYS)]
    Keys,
    /// Keys and values together have more bytes than [`UserData::MOST_BYTES`].
    #[error("more than {} bytes", UserData::MOST_BYTES)]
    Bytes,
    /// A value has a control character that is neither a tab nor the end of a line.
    #[error("a value with control characters")]
    Value,
    /// A key is empty, has control characters or more bytes than [`UserData::LONGEST_KEY`].
    #[error(
        "a key that is empty, has control characters or more than {} bytes",
        UserData::LONGEST_KEY
    )]
    Key,
}

/// A change of a call's data.
#[derive(Clone, PartialEq, Eq)]
pub enum UserDataChange {
    /// Each of these keys has this value from now on; the others stay.
    Set(UserData),
    /// This key goes; none of that name is no error.
    Delete(String),
    /// All keys go.
    Clear,
}

impl UserData {
    /// Keys of a call at most.
    pub const MOST_KEYS: usize = 400;
    /// Bytes of a call's keys and values together, in UTF-8, at most.
    pub const MOST_BYTES: usize = 64 * 1024;
    /// Bytes of a key at most.
    pub const LONGEST_KEY: usize = 256;

    /// These pairs; of a key that comes twice, the last.
    ///
    /// # Errors
    /// More than a call may have.
    pub fn new(pairs: impl IntoIterator<Item = (String, String)>) -> Result<Self, NotUserData> {
        Self::checked(pairs.into_iter().collect())
    }

    /// A key that a call's data may have.
    pub fn is_key(key: &str) -> bool {
        !key.is_empty() && key.len() <= Self::LONGEST_KEY && !key.chars().any(char::is_control)
    }

    /// Nothing is attached.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Its pairs in the order of their keys.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Bytes of its keys and values together, in UTF-8.
    pub fn bytes(&self) -> usize {
        bytes_of(&self.pairs)
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.pairs.get(key).map(String::as_str)
    }

    /// These and those; where both have a key, that of those.
    ///
    /// # Errors
    /// Together they are more than a call may have.
    pub fn with(&self, others: &Self) -> Result<Self, NotUserData> {
        if others.is_empty() {
            return Ok(self.clone());
        }
        let mut pairs = BTreeMap::clone(&self.pairs);
        pairs.extend(others.pairs.iter().map(|(key, value)| (key.clone(), value.clone())));
        Self::checked(pairs)
    }

    /// These and, of those, as many as there is room for, in the order of their keys: for calls
    /// that have become one, where nobody is left to tell.
    #[must_use]
    pub fn with_what_fits(&self, others: &Self) -> Self {
        let mut joined = BTreeMap::clone(&self.pairs);
        let mut bytes = bytes_of(&joined);
        for (key, value) in others.pairs.iter() {
            let before = joined.get(key).map(|old| key.len() + old.len());
            let after = bytes - before.unwrap_or(0) + key.len() + value.len();
            let keys = joined.len() + usize::from(before.is_none());
            if after <= Self::MOST_BYTES && keys <= Self::MOST_KEYS {
                joined.insert(key.clone(), value.clone());
                bytes = after;
            }
        }
        Self { pairs: Arc::new(joined) }
    }

    /// As it is after the change.
    ///
    /// # Errors
    /// It would be more than a call may have.
    pub fn changed(&self, change: &UserDataChange) -> Result<Self, NotUserData> {
        match change {
            UserDataChange::Set(others) => self.with(others),
            UserDataChange::Delete(key) => {
                let mut pairs = BTreeMap::clone(&self.pairs);
                pairs.remove(key);
                Ok(Self { pairs: Arc::new(pairs) })
            }
            UserDataChange::Clear => Ok(Self::default()),
        }
    }

    fn checked(pairs: BTreeMap<String, String>) -> Result<Self, NotUserData> {
        if !pairs.keys().all(|key| Self::is_key(key)) {
            return Err(NotUserData::Key);
        }
        // Each would be six bytes of JSON, in every notice.
        let is_odd = |c: char| c.is_control() && !matches!(c, '\t' | '\r' | '\n');
        if pairs.values().any(|value| value.chars().any(is_odd)) {
            return Err(NotUserData::Value);
        }
        if pairs.len() > Self::MOST_KEYS {
            return Err(NotUserData::Keys);
        }
        if bytes_of(&pairs) > Self::MOST_BYTES {
            return Err(NotUserData::Bytes);
        }
        Ok(Self { pairs: Arc::new(pairs) })
    }
}

fn bytes_of(pairs: &BTreeMap<String, String>) -> usize {
    pairs.iter().map(|(key, value)| key.len() + value.len()).sum()
}

/// How many keys there are, and nothing that they say.
impl fmt::Debug for UserData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserData({} keys)", self.pairs.len())
    }
}

impl fmt::Debug for UserDataChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UserDataChange::Set(data) => f.debug_tuple("Set").field(data).finish(),
            UserDataChange::Delete(_) => f.write_str("Delete"),
            UserDataChange::Clear => f.write_str("Clear"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(pairs: &[(&str, &str)]) -> UserData {
        UserData::new(pairs.iter().map(|(key, value)| ((*key).into(), (*value).into()))).unwrap()
    }

    #[test]
    fn a_change_sets_deletes_or_clears_and_leaves_the_rest() {
        let before = data(&[("a", "1"), ("b", "2")]);
        let set = UserDataChange::Set(data(&[("b", "3"), ("c", "4")]));
        assert_eq!(before.changed(&set), Ok(data(&[("a", "1"), ("b", "3"), ("c", "4")])));
        let delete = |key: &str| before.changed(&UserDataChange::Delete(key.into()));
        assert_eq!(delete("a"), Ok(data(&[("b", "2")])));
        assert_eq!(delete("none"), Ok(before.clone()));
        assert_eq!(before.changed(&UserDataChange::Clear), Ok(UserData::default()));
    }

    #[test]
    fn the_data_of_a_call_is_bounded() {
        let many = |count: usize| UserData::new((0..count).map(|n| (n.to_string(), "".into())));
        assert!(many(UserData::MOST_KEYS).is_ok());
        assert_eq!(many(UserData::MOST_KEYS + 1), Err(NotUserData::Keys));
        let long = |bytes: usize| UserData::new([("k".into(), "x".repeat(bytes))]);
        assert!(long(UserData::MOST_BYTES - 1).is_ok());
        assert_eq!(long(UserData::MOST_BYTES), Err(NotUserData::Bytes));
        for key in ["", "a\nb", &"k".repeat(UserData::LONGEST_KEY + 1)] {
            assert_eq!(UserData::new([(key.into(), "".into())]), Err(NotUserData::Key), "{key}");
        }
        let value = |text: &str| UserData::new([("k".into(), text.into())]).map(|_| ());
        assert_eq!(value("a\tb\r\nc"), Ok(()));
        assert_eq!(value("a\u{1}"), Err(NotUserData::Value));
        let half = long(UserData::MOST_BYTES / 2 + 1).unwrap();
        let other = UserData::new([("l".into(), "x".repeat(UserData::MOST_BYTES / 2))]).unwrap();
        assert_eq!(half.with(&other), Err(NotUserData::Bytes));
        assert_eq!(half.with_what_fits(&other), half);
        let small = data(&[("k", "small"), ("m", "1")]);
        assert_eq!(half.with_what_fits(&small), small, "what is replaced makes room");
    }

    #[test]
    fn the_log_learns_how_much_there_is_and_nothing_of_it() {
        let text = format!("{:?}", UserDataChange::Set(data(&[("AccountNumber", "12345")])));
        assert_eq!(text, "Set(UserData(1 keys))");
        let deleted = format!("{:?}", UserDataChange::Delete("AccountNumber".into()));
        assert!(!deleted.contains("AccountNumber"), "{deleted}");
    }
}
