//! What a callee is told of its caller: name, number, and what is handed on from one leg to the
//! other.

use super::call_reasons::asserted_parties;
use super::local_domain::LocalDomain;
use crate::model::Number;
use crate::sip::leg::{ANONYMOUS, Identity, LegSource, PassedHeader};
use crate::sip::message::{Headers, NameAddr, SipRequest, escape, is_printable, printable};

/// What a trunk's INVITE may hand on to the B-leg (Identity only with its Date), and what an
/// account's may.
const PASSED_FROM_TRUNKS: &[&str] = &["Identity", "Date", "User-to-User", "Session-ID"];
const PASSED_FROM_ACCOUNTS: &[&str] = &["User-to-User", "Session-ID"];

/// The longest display name, in characters.
pub(super) const LONGEST_NAME: usize = 128;

impl LocalDomain {
    /// The caller as it may be shown, and the number that it says it is.
    ///
    /// An account is shown by its own number. A trunk may say what it likes, but not that it is a
    /// device of ours: such a number is withheld and shown as not verified, unless the trunk may
    /// (`own_numbers`), or the call is one of ours that comes back: `returning` is the number that
    /// we go by on the leg with the INVITE that comes back in this one. What a trusted trunk
    /// asserts, or a switch that devices are behind, goes before From, and is known to the house
    /// also where the caller withholds it.
    pub(super) fn identity(
        &self,
        source: &LegSource,
        headers: &Headers,
        returning: Option<&Number>,
    ) -> (Identity, Number) {
        let from = headers.from().ok();
        let said = from.as_ref().and_then(|from| self.number_of(&from.uri));
        let asserted = self.asserted_caller(source, headers);
        let number = match source {
            LegSource::Account(device) => {
                self.config.account(device).map(|account| account.number.clone())
            }
            LegSource::Trunk(_) => {
                asserted.as_ref().map(|(number, _)| number.clone()).or(said.clone())
            }
        };
        let claimed = number.unwrap_or_else(|| Number::from(ANONYMOUS));
        let is_private =
            from.as_ref().is_some_and(|from| self.is_anonymous(from)) || asks_for_privacy(headers);
        let is_unknown = claimed.as_str() == ANONYMOUS;
        if is_unknown || is_private && asserted.is_none() {
            return (Identity::withheld(String::new()), claimed);
        }
        let is_back = returning == Some(&claimed);
        if !self.may_be_named(source, &claimed) && !is_back {
            let display = if is_private { String::new() } else { format!("unverified {claimed}") };
            return (Identity::withheld(display), claimed);
        }
        let of_from = || {
            let from = from
                .filter(|_| !is_private && (asserted.is_none() || said == Some(claimed.clone())));
            from.map(|from| from.display)
        };
        let display = asserted
            .as_ref()
            .map(|(_, display)| display.clone())
            .filter(|display| !display.is_empty())
            .or_else(of_from)
            .unwrap_or_default();
        let display = printable(&display, LONGEST_NAME);
        (Identity { number: claimed.clone(), display, is_private }, claimed)
    }

    /// The number and display name of the caller that is asserted (RFC 3325 5) by a trusted trunk,
    /// or by a switch that is believed which of its phones calls.
    fn asserted_caller(&self, source: &LegSource, headers: &Headers) -> Option<(Number, Vec<u8>)> {
        let LegSource::Trunk(name) = source else { return None };
        let trunk = self.trunk(name).filter(|trunk| trunk.trusted || self.has_devices(name))?;
        let parties = asserted_parties(trunk.identity, headers)?;
        let mut known = parties.into_iter().filter(|party| !self.is_anonymous(party));
        known.find_map(|party| Some((self.number_of(&party.uri)?, party.display)))
    }

    /// The address of a caller that withholds its number (RFC 3323 4.1.1.3).
    fn is_anonymous(&self, address: &NameAddr) -> bool {
        let host = address.uri.host_text().to_ascii_lowercase();
        let number = self.number_of(&address.uri);
        host.ends_with("anonymous.invalid")
            || number.is_some_and(|number| number.as_str().eq_ignore_ascii_case(ANONYMOUS))
    }

    /// A peer may name a party so: a trunk no device of ours, unless it may (`own_numbers`).
    pub(super) fn may_be_named(&self, peer: &LegSource, number: &Number) -> bool {
        let may_be_ours = match peer {
            LegSource::Account(_) => true,
            LegSource::Trunk(name) => self.trunk(name).is_some_and(|trunk| trunk.own_numbers),
        };
        may_be_ours || !self.looks_internal(number)
    }

    /// The number is a device's or an alias of one, or is written so that a person would take it
    /// for one: with digits of other scripts, or with signs around it.
    fn looks_internal(&self, number: &Number) -> bool {
        let digits: String = number
            .as_str()
            .chars()
            .filter_map(|char| Some(char::from(b'0' + digit_of(char)?)))
            .collect();
        let is_listed = |name: &str| self.is_listed(name);
        let is_plain = number.as_str().chars().all(|char| char.is_ascii_digit() || char == '+');
        is_listed(number.as_str()) || !is_plain && is_listed(&digits)
    }
}

/// The value of a decimal digit, in ASCII, full width or Arabic script.
fn digit_of(char: char) -> Option<u8> {
    let zeros = ['0', '\u{ff10}', '\u{660}', '\u{6f0}', '\u{966}'];
    let value = zeros
        .iter()
        .filter_map(|zero| u32::from(char).checked_sub(u32::from(*zero)))
        .find(|value| *value < 10)?;
    u8::try_from(value).ok()
}

/// The caller wants its number withheld (RFC 3323 4.2, RFC 3325 9.3). What else may be asked for, a
/// B2BUA does anyway.
pub(super) fn asks_for_privacy(headers: &Headers) -> bool {
    let asked = headers
        .fields_of("Privacy")
        .flat_map(|value| value.split(|byte| matches!(byte, b';' | b',')));
    let mut asked = asked.map(|value| value.trim_ascii().to_ascii_lowercase());
    // Remote-Party-ID says the same in a parameter (draft-ietf-sip-privacy-04 5.1).
    let mut parties = headers
        .get_all("Remote-Party-ID")
        .into_iter()
        .filter_map(|value| NameAddr::parse(value).ok());
    let mut wishes = |party: NameAddr| {
        party.params.get("privacy").is_some_and(|wish| !wish.eq_ignore_ascii_case(b"off"))
    };
    asked.any(|value| matches!(value.as_slice(), b"id" | b"user" | b"header"))
        || parties.any(&mut wishes)
}

/// The allow-list. Names are compared after normalisation, so no spelling gets another header
/// through. A value that is too long, or holds what cannot be printed, stays behind.
pub(super) fn passed(
    source: &LegSource,
    invite: &SipRequest,
    from: &Identity,
    to: &Number,
) -> Vec<PassedHeader> {
    let headers = &invite.headers;
    let allowed = match source {
        LegSource::Trunk(_) => PASSED_FROM_TRUNKS,
        LegSource::Account(_) => PASSED_FROM_ACCOUNTS,
    };
    let vouched =
        headers.has("Identity") && headers.single("Date").is_ok() && names_stay(invite, from, to);
    let wanted = allowed.iter().filter(|name| vouched || !matches!(**name, "Identity" | "Date"));
    let values = wanted.flat_map(|name| {
        let fitting = headers.fields_of(name).filter(|value| may_pass(name, value));
        let first = fitting.take(MOST_PASSED);
        first.map(|value| PassedHeader { name, value: value.to_vec() })
    });
    values.collect()
}

/// So many fields of one name are handed on.
const MOST_PASSED: usize = 4;

fn may_pass(name: &str, value: &[u8]) -> bool {
    let most = match name {
        // A signed token with its certificate's address (RFC 8224 4).
        "Identity" => 8192,
        // RFC 7433 4.1: 128 octets in hexadecimal are common; no more than that was ever promised.
        "User-to-User" => 512,
        // RFC 7989 5: two UUIDs and little else.
        "Session-ID" => 256,
        _ => 64,
    };
    let is_text = std::str::from_utf8(value).is_ok_and(|text| text.chars().all(is_printable));
    let is_session = || {
        value.len() >= 32
            && value[..32].iter().all(u8::is_ascii_hexdigit)
            && matches!(value.get(32), None | Some(b';' | b' '))
    };
    value.len() <= most && is_text && (name != "Session-ID" || is_session())
}

/// The B-leg's From and To name the caller and the called number: an Identity that was signed for
/// others would vouch for nobody there (RFC 8224 6.2).
fn names_stay(invite: &SipRequest, from: &Identity, to: &Number) -> bool {
    let stays = |address: &NameAddr, number: &Number| {
        address.uri.raw_user() == Some(escape(number.as_str().as_bytes()).as_slice())
    };
    let (Ok(caller), Ok(called)) = (invite.headers.from(), invite.headers.to()) else {
        return false;
    };
    !from.is_withheld() && !from.is_private && stays(&caller, &from.number) && stays(&called, to)
}
