//! The public keys of an issuer (RFC 7517).

use super::token::{LONGEST_KID, SignatureAlgorithm};
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use serde::Deserialize;
use serde_json::Value;

/// Keys of one issuer; more are let be.
const MOST_KEYS: usize = 64;

/// A key, and the signatures that it can be asked for.
pub(super) struct VerificationKey {
    kid: Option<String>,
    algorithms: Vec<SignatureAlgorithm>,
    pub(super) key: DecodingKey,
}

/// The keys of an issuer.
pub(super) struct KeySet(Vec<VerificationKey>);

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

impl KeySet {
    /// What can be used of a JWK set; keys of other kinds are let be (RFC 7517 5). `None`: nothing.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let document: Document = serde_json::from_slice(body).ok()?;
        let keys = document.keys.into_iter().filter_map(VerificationKey::read);
        let keys: Vec<_> = keys.take(MOST_KEYS).collect();
        (!keys.is_empty()).then_some(Self(keys))
    }

    /// The key of this name. Without a name: the only one for this algorithm.
    pub(super) fn find(
        &self,
        kid: Option<&str>,
        algorithm: SignatureAlgorithm,
    ) -> Option<&VerificationKey> {
        let mut fitting = self.0.iter().filter(|key| {
            key.algorithms.contains(&algorithm)
                && kid.is_none_or(|kid| key.kid.as_deref() == Some(kid))
        });
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Some(key),
            (_, _) => None,
        }
    }
}

impl VerificationKey {
    fn read(value: Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        let common = &jwk.common;
        let verifies = match (&common.public_key_use, &common.key_operations) {
            (Some(PublicKeyUse::Signature) | None, None) => true,
            (Some(PublicKeyUse::Signature) | None, Some(operations)) => {
                operations.contains(&KeyOperations::Verify)
            }
            (Some(_), _) => false,
        };
        let kid = common.key_id.clone();
        if !verifies || kid.as_ref().is_some_and(|kid| kid.len() > LONGEST_KID) {
            return None;
        }
        let mut algorithms = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => vec![
                SignatureAlgorithm::RS256,
                SignatureAlgorithm::RS384,
                SignatureAlgorithm::RS512,
                SignatureAlgorithm::PS256,
                SignatureAlgorithm::PS384,
                SignatureAlgorithm::PS512,
            ],
            AlgorithmParameters::EllipticCurve(key) => match key.curve {
                EllipticCurve::P256 => vec![SignatureAlgorithm::ES256],
                EllipticCurve::P384 => vec![SignatureAlgorithm::ES384],
                _ => return None,
            },
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
                vec![SignatureAlgorithm::EdDSA]
            }
            // A secret that both sides have is no public key.
            _ => return None,
        };
        if let Some(only) = &common.key_algorithm {
            let only = SignatureAlgorithm::of(&only.to_string());
            algorithms.retain(|algorithm| Some(*algorithm) == only);
        }
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        (!algorithms.is_empty()).then_some(Self { kid, algorithms, key })
    }
}
