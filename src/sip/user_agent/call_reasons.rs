//! Why a call comes: Diversion (RFC 5806), History-Info (RFC 7044), Referred-By (RFC 3892), and
//! who asserts to call (RFC 3325).
//!
//! | | to a telephone of the house | to a trusted trunk | to another trunk |
//! |---|---|---|---|
//! | the caller asserted | in From | P-Asserted-Identity, Remote-Party-ID | — |
//! | a number of ours that has sent the call on | — | Diversion | Diversion, if it wants that |
//! | the party whose REFER has asked for the call | Referred-By | Referred-By | — |
//! | what came with the call by a trusted trunk | — | all three | — |

use super::leg::shown_as;
use super::local_domain::LocalDomain;
use crate::sip::b2bua::AccountKind;
use crate::sip::config::{AssertedIdentity, Trunk};
use crate::sip::leg::{CallReasons, Identity, LegSource, PassedHeader};
use crate::sip::message::{Headers, NameAddr, Scheme, SipRequest, is_printable};

/// The header fields that say why a call comes.
const REASONS: &[&str] = &["Diversion", "History-Info", "Referred-By"];

/// So many values of one of them are handed on.
const MOST_VALUES: usize = 8;

/// The longest value that is handed on, in bytes.
const LONGEST_VALUE: usize = 512;

/// Bytes of all of them together: the rest of an INVITE has room beside them (RFC 3261 18.1.1).
const MOST_BYTES: usize = 2048;

impl LocalDomain {
    /// It may know who is at the other end: a telephone of the house, or a trunk that is trusted
    /// with it (RFC 3325 2.3), and what is behind that.
    pub(super) fn trusts(&self, trunk: Option<&str>, peer: &LegSource) -> bool {
        match trunk {
            Some(trunk) => self.trunk(trunk).is_some_and(|trunk| trunk.trusted),
            None => {
                self.account_of(peer).is_some_and(|account| account.kind == AccountKind::Internal)
            }
        }
    }

    /// The caller in From of an INVITE to this peer, and the caller that is asserted to it. A trunk
    /// gets no private number in From, since it is free to show that.
    pub(super) fn named_to(
        &self,
        peer: &LegSource,
        from: &Identity,
    ) -> (Identity, Option<Identity>) {
        let trunk = self.trunk_of(peer);
        let is_trusted = self.trusts(trunk, peer);
        let asserted = from.clone();
        let asserted = (trunk.is_some() && is_trusted && !from.is_withheld()).then_some(asserted);
        (from.seen(trunk.is_none() && is_trusted), asserted)
    }

    /// Writes a party whose name the peer may know.
    pub(super) fn write_asserted(
        &self,
        request: &mut SipRequest,
        peer: &LegSource,
        party: &Identity,
        host: &str,
    ) {
        let Ok(name) = shown_as(party, host) else { return };
        request.headers.push("P-Asserted-Identity", name.to_bytes());
        let reads_rpid = |trunk: &Trunk| trunk.identity == AssertedIdentity::Rpid;
        if self.trunk_of(peer).and_then(|trunk| self.trunk(trunk)).is_some_and(reads_rpid) {
            let privacy = if party.is_private { "full" } else { "off" };
            let mut value = name.to_bytes();
            value.extend(format!(";party=calling;privacy={privacy};screen=yes").into_bytes());
            request.headers.push("Remote-Party-ID", value);
        }
    }

    /// Writes why the call goes to this peer, as far as that may know.
    pub(super) fn write_reasons(
        &self,
        request: &mut SipRequest,
        peer: &LegSource,
        (reasons, passed): (&CallReasons, &[PassedHeader]),
        host: &str,
    ) {
        let name = self.trunk_of(peer);
        let trunk = name.and_then(|name| self.trunk(name));
        let is_trusted = self.trusts(name, peer);
        let mut said = Vec::new();
        let heard = if trunk.is_some_and(Trunk::hears_diversions) { MOST_VALUES } else { 0 };
        for diversion in reasons.diversions.iter().take(heard) {
            let by = Identity::new(diversion.number.clone(), String::new());
            let Ok(address) = shown_as(&by, host) else { continue };
            let mut value = address.to_bytes();
            value.extend(format!(";reason={}", diversion.reason.as_str()).into_bytes());
            request.headers.push("Diversion", value);
            said.push(diversion.number.clone());
        }
        let referrer = reasons.referred_by.as_ref().filter(|by| is_trusted && !by.is_withheld());
        let referrer = referrer.and_then(|by| shown_as(by, host).ok());
        if let Some(by) = &referrer {
            request.headers.push("Referred-By", by.to_bytes());
        }
        if trunk.is_none() || !is_trusted {
            return;
        }
        // A call of ours that has come back has our own Diversion with it.
        let is_said = |value: &[u8]| {
            let number = NameAddr::parse(value).ok().and_then(|by| self.number_of(&by.uri));
            number.is_some_and(|number| said.contains(&number))
        };
        for PassedHeader { name, value } in passed.iter().filter(|it| REASONS.contains(&it.name)) {
            let is_there = match *name {
                "Diversion" => is_said(value),
                "Referred-By" => referrer.is_some(),
                _ => false,
            };
            if !is_there {
                request.headers.push(name, value);
            }
        }
    }

    /// What the INVITE of a trusted trunk says of why it comes, as far as it can be read.
    pub(super) fn reasons(&self, source: &LegSource, headers: &Headers) -> Vec<PassedHeader> {
        let name = self.trunk_of(source);
        if !name.and_then(|name| self.trunk(name)).is_some_and(|trunk| trunk.trusted) {
            return Vec::new();
        }
        let mut room = MOST_BYTES;
        let mut reasons = Vec::new();
        for name in REASONS {
            let values = headers.get_all(name);
            let most = if *name == "Referred-By" { 1 } else { MOST_VALUES };
            let readable = values.into_iter().filter_map(|value| readable(name, value));
            for value in readable.take(most) {
                let Some(left) = room.checked_sub(value.len()) else { return reasons };
                room = left;
                reasons.push(PassedHeader { name, value });
            }
        }
        reasons
    }
}

/// The value as it may be handed on.
fn readable(name: &str, value: &[u8]) -> Option<Vec<u8>> {
    let is_text = std::str::from_utf8(value).is_ok_and(|text| text.chars().all(is_printable));
    if value.len() > LONGEST_VALUE || !is_text {
        return None;
    }
    let address = NameAddr::parse(value).ok()?;
    let is_index = |index: &[u8]| {
        !index.is_empty() && index.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.')
    };
    match name {
        _ if address.uri.scheme() == Scheme::Other => None,
        "History-Info" if !address.params.get("index").is_some_and(is_index) => None,
        // Its `cid` names a body that is not handed on (RFC 3892 3).
        "Referred-By" => {
            Some(NameAddr { display: address.display, ..NameAddr::new(address.uri) }.to_bytes())
        }
        _ => Some(value.to_vec()),
    }
}

/// The parties that a request asserts to come from, by the header field that counts; `None`: From
/// counts.
pub(super) fn asserted_parties(
    identity: AssertedIdentity,
    headers: &Headers,
) -> Option<Vec<NameAddr>> {
    let field = |name: &str| {
        let values = headers.get_all(name);
        values.iter().filter_map(|value| NameAddr::parse(value).ok()).collect::<Vec<_>>()
    };
    let pai = || field("P-Asserted-Identity");
    let rpid = || {
        let parties = field("Remote-Party-ID").into_iter();
        let is_caller = |party: &NameAddr| {
            let party = party.params.get("party");
            party.is_none_or(|party| party.eq_ignore_ascii_case(b"calling"))
        };
        parties.filter(is_caller).collect::<Vec<_>>()
    };
    match identity {
        AssertedIdentity::Pai => Some(pai()),
        AssertedIdentity::Rpid => Some(rpid()),
        AssertedIdentity::From => None,
        AssertedIdentity::Any if headers.has("P-Asserted-Identity") => Some(pai()),
        AssertedIdentity::Any => Some(rpid()).filter(|parties| !parties.is_empty()),
    }
}
