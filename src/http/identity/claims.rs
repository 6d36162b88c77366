//! What a token says (RFC 7519 4.1), and what of it has to be right.

use crate::model::Timestamp;
use serde_json::{Map, Value};
use std::time::Duration;

/// Why a token is nobody's: a label of the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TokenFault {
    /// It is no signed token.
    Malformed,
    /// It is too long.
    TooLarge,
    /// Another `typ`.
    Type,
    /// An algorithm that is not taken from its issuer.
    Algorithm,
    /// No issuer of ours.
    Issuer,
    /// It is for somebody else.
    Audience,
    /// Its issuer has no such key.
    Key,
    /// Its issuer has not signed it.
    Signature,
    /// It is over.
    Expired,
    /// It is of the future.
    NotYet,
    /// There is no such user.
    User,
    /// It does not vouch for a role that the directory gives the user.
    Role,
    /// It does not vouch for a group that names the user.
    Group,
    /// It answers another login.
    Nonce,
    /// It counts with the proof of a key alone (RFC 7800 3.1, RFC 9449), which is not looked for.
    Bound,
}

impl TokenFault {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            TokenFault::Malformed => "malformed",
            TokenFault::TooLarge => "too_large",
            TokenFault::Type => "type",
            TokenFault::Algorithm => "algorithm",
            TokenFault::Issuer => "issuer",
            TokenFault::Audience => "audience",
            TokenFault::Key => "key",
            TokenFault::Signature => "signature",
            TokenFault::Expired => "expired",
            TokenFault::NotYet => "not_yet",
            TokenFault::User => "user",
            TokenFault::Role => "role",
            TokenFault::Group => "group",
            TokenFault::Nonce => "nonce",
            TokenFault::Bound => "bound",
        }
    }
}

/// The claims of a token by their names.
pub(super) struct Claims(pub(super) Map<String, Value>);

/// Seconds that are a time: until the year 9999.
const LAST_SECOND: f64 = 253_402_300_799.0;
/// No token is good for longer.
const LONGEST_LIFE: f64 = 366.0 * 86_400.0;

impl Claims {
    /// A claim that is text, and not empty.
    pub(super) fn text(&self, claim: &str) -> Option<&str> {
        self.0.get(claim)?.as_str().filter(|text| !text.is_empty())
    }

    /// It counts with the proof of a key alone.
    pub(super) fn is_bound(&self) -> bool {
        self.0.contains_key("cnf")
    }

    /// A claim that is a list of texts, or one text with spaces in between, as `scope` is.
    pub(super) fn words(&self, claim: &str) -> Vec<&str> {
        match self.0.get(claim) {
            Some(Value::Array(values)) => values.iter().filter_map(Value::as_str).collect(),
            Some(Value::String(text)) => text.split(' ').filter(|word| !word.is_empty()).collect(),
            Some(_) | None => Vec::new(),
        }
    }

    /// `aud` names this (RFC 7519 4.1.3).
    pub(super) fn is_for(&self, audience: &str) -> bool {
        self.audiences().any(|named| named == audience)
    }

    pub(super) fn audiences(&self) -> impl Iterator<Item = &str> {
        let (one, several) = match self.0.get("aud") {
            Some(Value::String(one)) => (Some(one.as_str()), None),
            Some(Value::Array(several)) => (None, Some(several)),
            Some(_) | None => (None, None),
        };
        one.into_iter().chain(several.into_iter().flatten().filter_map(Value::as_str))
    }

    /// A NumericDate; `None`: the claim is not there.
    fn seconds(&self, claim: &str) -> Result<Option<f64>, TokenFault> {
        let Some(value) = self.0.get(claim) else {
            return Ok(None);
        };
        let seconds = value.as_f64().filter(|seconds| (0.0..=LAST_SECOND).contains(seconds));
        seconds.map(Some).ok_or(TokenFault::Malformed)
    }

    /// How long it is still good for, from now on; `leeway`: how far the issuer's clock may differ.
    pub(super) fn life_left(
        &self,
        now: Timestamp,
        leeway: Duration,
    ) -> Result<Duration, TokenFault> {
        let (now, leeway) = (now.0 as f64 / 1000.0, leeway.as_secs_f64());
        for claim in ["nbf", "iat"] {
            if self.seconds(claim)?.is_some_and(|seconds| seconds > now + leeway) {
                return Err(TokenFault::NotYet);
            }
        }
        let left = self.seconds("exp")?.ok_or(TokenFault::Malformed)? + leeway - now;
        match left > 0.0 {
            true => Ok(Duration::from_secs_f64(left.min(LONGEST_LIFE))),
            false => Err(TokenFault::Expired),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);
    const LEEWAY: Duration = Duration::from_secs(60);

    fn left(claims: Value) -> Result<Duration, TokenFault> {
        let Value::Object(claims) = claims else { panic!("an object") };
        Claims(claims).life_left(NOW, LEEWAY)
    }

    #[test]
    fn a_token_is_good_until_a_leeway_after_its_end() {
        let now = 1_800_000_000_i64;
        assert_eq!(left(json!({"exp": now + 10})), Ok(Duration::from_secs(70)));
        assert_eq!(left(json!({"exp": now - 59})), Ok(Duration::from_secs(1)));
        assert_eq!(left(json!({"exp": now - 60})), Err(TokenFault::Expired));
        assert_eq!(left(json!({"exp": now + 10, "nbf": now + 60})), Ok(Duration::from_secs(70)));
        assert_eq!(left(json!({"exp": now + 10, "nbf": now + 61})), Err(TokenFault::NotYet));
        assert_eq!(left(json!({"exp": now + 10, "iat": now + 61})), Err(TokenFault::NotYet));
    }

    #[test]
    fn what_is_no_time_is_no_end() {
        for exp in [json!("1900000000"), json!(-1), json!(1e300), json!(null), json!(u64::MAX)] {
            assert_eq!(left(json!({"exp": exp})), Err(TokenFault::Malformed), "{exp}");
        }
        assert_eq!(left(json!({})), Err(TokenFault::Malformed));
        assert_eq!(left(json!({"exp": 1.9e9, "nbf": "now"})), Err(TokenFault::Malformed));
        let year = Duration::from_secs(366 * 86_400);
        assert_eq!(left(json!({"exp": 253_402_300_799_u64})), Ok(year));
    }

    #[test]
    fn an_audience_is_a_text_or_one_of_a_list() {
        let is_for = |aud: Value| {
            let Value::Object(claims) = json!({"aud": aud}) else { panic!("an object") };
            Claims(claims).is_for("desk")
        };
        assert!(is_for(json!("desk")) && is_for(json!(["crm", "desk"])));
        for other in [json!("desk2"), json!(["crm"]), json!([]), json!({"desk": 1}), json!(null)] {
            assert!(!is_for(other.clone()), "{other}");
        }
    }
}
