//! The parts of a signed token (RFC 7515 7.1): read, and nothing of them believed yet.

use super::TokenType;
use super::claims::{Claims, TokenFault};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// Bytes of a token; longer is none.
const LONGEST_TOKEN: usize = 8 * 1024;
/// Bytes of a header within it.
const LONGEST_HEADER: usize = 1024;
/// Bytes of the name of a key.
pub(super) const LONGEST_KID: usize = 128;

/// Signatures by a key of which only the issuer has the private half (RFC 7518 3.1, RFC 8037).
/// There is no `none` and no HMAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[expect(missing_docs, reason = "the names of the RFC")]
pub enum SignatureAlgorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

impl SignatureAlgorithm {
    pub(super) const ALL: [Self; 9] = [
        Self::RS256,
        Self::RS384,
        Self::RS512,
        Self::PS256,
        Self::PS384,
        Self::PS512,
        Self::ES256,
        Self::ES384,
        Self::EdDSA,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::RS256 => "RS256",
            Self::RS384 => "RS384",
            Self::RS512 => "RS512",
            Self::PS256 => "PS256",
            Self::PS384 => "PS384",
            Self::PS512 => "PS512",
            Self::ES256 => "ES256",
            Self::ES384 => "ES384",
            Self::EdDSA => "EdDSA",
        }
    }

    pub(super) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == name)
    }

    pub(super) fn of_library(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::RS256 => jsonwebtoken::Algorithm::RS256,
            Self::RS384 => jsonwebtoken::Algorithm::RS384,
            Self::RS512 => jsonwebtoken::Algorithm::RS512,
            Self::PS256 => jsonwebtoken::Algorithm::PS256,
            Self::PS384 => jsonwebtoken::Algorithm::PS384,
            Self::PS512 => jsonwebtoken::Algorithm::PS512,
            Self::ES256 => jsonwebtoken::Algorithm::ES256,
            Self::ES384 => jsonwebtoken::Algorithm::ES384,
            Self::EdDSA => jsonwebtoken::Algorithm::EdDSA,
        }
    }
}

/// What is read of a header. Keys and certificates that a token brings along are let be.
#[derive(Deserialize)]
struct Header {
    alg: String,
    typ: Option<String>,
    kid: Option<String>,
    /// Extensions that have to be understood (RFC 7515 4.1.11): none is.
    #[serde(default, deserialize_with = "whatever_it_is")]
    crit: Option<Value>,
}

/// `null` is there, too.
fn whatever_it_is<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(value).map(Some)
}

/// A token whose signature has not been looked at.
pub(super) struct ParsedToken<'a> {
    pub(super) algorithm: SignatureAlgorithm,
    pub(super) kid: Option<String>,
    pub(super) claims: Claims,
    typ: Option<String>,
    /// What is signed.
    pub(super) message: &'a str,
    /// In base64url.
    pub(super) signature: &'a str,
}

impl<'a> ParsedToken<'a> {
    pub(super) fn read(token: &'a str) -> Result<Self, TokenFault> {
        if token.len() > LONGEST_TOKEN {
            return Err(TokenFault::TooLarge);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(TokenFault::Malformed)?;
        let (header, claims) = message.split_once('.').ok_or(TokenFault::Malformed)?;
        if claims.contains('.') {
            return Err(TokenFault::Malformed);
        }
        if header.len() > LONGEST_HEADER {
            return Err(TokenFault::TooLarge);
        }
        let Header { alg, typ, kid, crit } = from_part(header)?;
        if crit.is_some() {
            return Err(TokenFault::Malformed);
        }
        let algorithm = SignatureAlgorithm::of(&alg).ok_or(TokenFault::Algorithm)?;
        if kid.as_ref().is_some_and(|kid| kid.len() > LONGEST_KID) {
            return Err(TokenFault::Key);
        }
        let claims = Claims(from_part(claims)?);
        Ok(Self { algorithm, kid, claims, typ, message, signature })
    }

    /// RFC 7515 4.1.9: in upper or lower case, with `application/` or without.
    pub(super) fn is_of_type(&self, wanted: TokenType) -> bool {
        let is = |typ: &str, name: &str| {
            let short = typ
                .get(.."application/".len())
                .filter(|start| start.eq_ignore_ascii_case("application/"));
            let typ = short.map_or(typ, |start| &typ[start.len()..]);
            typ.eq_ignore_ascii_case(name)
        };
        match (wanted, &self.typ) {
            (TokenType::AccessToken, Some(typ)) => is(typ, "at+jwt"),
            (TokenType::AccessToken, None) => false,
            (TokenType::Jwt, Some(typ)) => is(typ, "JWT"),
            (TokenType::Jwt, None) => true,
        }
    }
}

fn from_part<T: for<'de> Deserialize<'de>>(part: &str) -> Result<T, TokenFault> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenFault::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| TokenFault::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_type_is_read_as_a_media_type() {
        let is = |typ: Value, wanted| {
            let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
            let mut header = json!({"alg": "ES256"});
            if !typ.is_null() {
                header["typ"] = typ;
            }
            let token = format!("{}.{}.c2ln", part(header), part(json!({})));
            ParsedToken::read(&token).is_ok_and(|token| token.is_of_type(wanted))
        };
        for typ in ["at+jwt", "AT+JWT", "application/at+jwt", "Application/At+JWT"] {
            assert!(is(json!(typ), TokenType::AccessToken), "{typ}");
            assert!(!is(json!(typ), TokenType::Jwt), "{typ}");
        }
        for typ in [json!("JWT"), json!("jwt"), json!("application/jwt"), Value::Null] {
            assert!(!is(typ.clone(), TokenType::AccessToken), "{typ}");
            assert!(is(typ.clone(), TokenType::Jwt), "{typ}");
        }
        for typ in ["", "at", "application/", "at+jwt ", "text/at+jwt", "\u{e4}pplication/at+jwt"] {
            assert!(!is(json!(typ), TokenType::AccessToken), "{typ}");
            assert!(!is(json!(typ), TokenType::Jwt), "{typ}");
        }
    }
}
