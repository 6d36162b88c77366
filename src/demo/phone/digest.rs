//! Answers digest challenges (RFC 8760). `rsip` spells SHA-256 in its own way and counts `nc` in
//! decimal, so this is read from the raw value.

use crate::hex::hex;
use md5::Md5;
use sha2::{Digest, Sha256};

/// A challenge as it stands in WWW-Authenticate or Proxy-Authenticate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Challenge {
    realm: String,
    nonce: String,
    opaque: Option<String>,
    algorithm: String,
    qop: bool,
}

impl Challenge {
    /// `None` when this phone cannot answer it.
    pub(super) fn read(value: &str) -> Option<Challenge> {
        let (scheme, mut rest) = value.trim().split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("Digest") {
            return None;
        }
        let mut challenge = Challenge { algorithm: "MD5".into(), ..Challenge::default() };
        while let Some((name, after)) = rest.split_once('=') {
            let (text, after) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => after.split_at(after.find(',').unwrap_or(after.len())),
            };
            match name.trim().to_ascii_lowercase().as_str() {
                "realm" => challenge.realm = text.into(),
                "nonce" => challenge.nonce = text.into(),
                "opaque" => challenge.opaque = Some(text.into()),
                "algorithm" => challenge.algorithm = text.trim().into(),
                "qop" => challenge.qop = text.split(',').any(|qop| qop.trim() == "auth"),
                _ => {}
            }
            rest = after.trim_start().strip_prefix(',').unwrap_or("").trim_start();
        }
        matches!(challenge.algorithm.as_str(), "MD5" | "SHA-256").then_some(challenge)
    }

    /// SHA-256 is better than MD5.
    pub(super) fn strength(&self) -> u8 {
        u8::from(self.algorithm == "SHA-256")
    }

    /// The value of Authorization or Proxy-Authorization.
    pub(super) fn answer(
        &self,
        user: &str,
        password: &str,
        method: &str,
        uri: &str,
        cnonce: &str,
    ) -> String {
        let hash = |text: String| match self.algorithm.as_str() {
            "SHA-256" => hex(&Sha256::digest(text)),
            _ => hex(&Md5::digest(text)),
        };
        let (realm, nonce) = (&self.realm, &self.nonce);
        let ha1 = hash(format!("{user}:{realm}:{password}"));
        let ha2 = hash(format!("{method}:{uri}"));
        let response = match self.qop {
            true => hash(format!("{ha1}:{nonce}:00000001:{cnonce}:auth:{ha2}")),
            false => hash(format!("{ha1}:{nonce}:{ha2}")),
        };
        let mut value = format!(
            "Digest username=\"{user}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", \
             response=\"{response}\", algorithm={}",
            self.algorithm
        );
        if let Some(opaque) = &self.opaque {
            value += &format!(", opaque=\"{opaque}\"");
        }
        if self.qop {
            value += &format!(", qop=auth, nc=00000001, cnonce=\"{cnonce}\"");
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 7616 3.9.1
    const NONCE: &str = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v";
    const CNONCE: &str = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";

    #[test]
    fn the_examples_of_rfc_7616_are_answered() {
        for (algorithm, response) in [
            ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
            ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
        ] {
            let text = format!(
                "Digest realm=\"http-auth@example.org\", qop=\"auth, auth-int\", \
                 algorithm={algorithm}, nonce=\"{NONCE}\""
            );
            let answer = Challenge::read(&text).unwrap().answer(
                "Mufasa",
                "Circle of Life",
                "GET",
                "/dir/index.html",
                CNONCE,
            );
            assert!(answer.contains(response), "{answer}");
        }
    }

    #[test]
    fn other_schemes_and_algorithms_are_not_answered() {
        assert_eq!(Challenge::read("Bearer realm=\"x\""), None);
        assert_eq!(Challenge::read("Digest realm=\"x\", nonce=\"y\", algorithm=SHA-512-256"), None);
    }
}
