//! What is shown to nobody: passwords, their digests and hashes, keys, tokens.

use serde::{Deserialize, Deserializer};
use std::fmt;
use std::sync::Arc;
use zeroize::{Zeroize, Zeroizing};

/// A secret. `Debug` says only that there is one; there is no `Display`, and nothing serializes it.
/// Text and octets of its own are wiped when it is dropped.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Secret<T = Zeroizing<String>>(T);

impl<T: Zeroize> Secret<Zeroizing<T>> {
    /// Of what is secret.
    pub fn new(secret: T) -> Self {
        Self(Zeroizing::new(secret))
    }
}

impl<T> Secret<T> {
    /// What is secret, for whatever needs it: never for a log, an error or an answer.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(secret: String) -> Self {
        Self::new(secret)
    }
}

impl From<&str> for Secret {
    fn from(secret: &str) -> Self {
        Self::new(secret.to_owned())
    }
}

/// A secret that many hold, as what a cookie names.
pub type SharedSecret = Secret<Arc<str>>;

impl SharedSecret {
    /// Of what is secret.
    pub fn shared(secret: impl Into<Arc<str>>) -> Self {
        Self(secret.into())
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown_within_anything_that_is() {
        #[derive(Debug, Deserialize)]
        #[expect(dead_code, reason = "it is only shown")]
        struct Login {
            user: String,
            password: Option<Secret>,
        }
        let login: Login =
            serde_json::from_str(r#"{ "user": "anna", "password": "hunter2" }"#).expect("a login");
        assert_eq!(format!("{login:?}"), r#"Login { user: "anna", password: Some(<secret>) }"#);
        assert!(!format!("{:?} {login:#?}", Secret::new([104_u8, 117])).contains("104"));
        let fault = serde_json::from_str::<Login>(r#"{ "user": "anna", "password": ["hunter2"] }"#);
        assert!(!fault.expect_err("a list").to_string().contains("hunter2"));
        assert_eq!(login.password.expect("a password").expose().as_str(), "hunter2");
    }
}
