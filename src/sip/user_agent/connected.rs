//! Connected identity: what a peer says of the party at its end of an established dialog.
//!
//! A switch that has handed a leg on to somebody else says so in the next 2xx, re-INVITE or UPDATE: in P-Asserted-Identity (RFC 3325 9.1),
//! in Remote-Party-ID (draft-ietf-sip-privacy-04), or in a From that differs from the dialog's (RFC 4916 4). All three are believed from
//! whoever the leg is with: what follows from a false one is silence.

use super::UserAgent;
use super::leg::Leg;
use crate::sip::leg::{LegEvent, LegKey};
use crate::sip::message::{Headers, NameAddr, Scheme, Uri};
use crate::words::Number;

/// The most values of one header field that are looked at.
const MOST_VALUES: usize = 4;

/// A name that has no number in it: whoever is there withholds it.
const NAMELESS: &str = "anonymous";

impl UserAgent {
    /// Reports what a re-INVITE or UPDATE of the peer names.
    pub(super) fn identify_by_request(&mut self, leg_key: LegKey, headers: &Headers) {
        let Some(leg) = self.legs.get_mut(&leg_key) else { return };
        let mut names = asserted(headers);
        names.extend(leg.moved_from(headers));
        self.identified(leg_key, names);
    }

    /// Reports what a 2xx of the peer names. A 2xx without a name says what the provisional response of the same early dialog has said.
    pub(super) fn identify_by_response(&mut self, leg_key: LegKey, headers: &Headers) {
        let mut names = asserted(headers);
        if let Some((tag, earlier)) = self.legs.get_mut(&leg_key).and_then(|leg| leg.named_early.take())
            && names.is_empty()
            && to_tag(headers) == tag
        {
            names = earlier;
        }
        self.identified(leg_key, names);
    }

    /// Keeps what a provisional response names until the answer.
    pub(super) fn note_early_identity(&mut self, leg_key: LegKey, headers: &Headers) {
        let names = asserted(headers);
        if let Some(leg) = self.legs.get_mut(&leg_key).filter(|_| !names.is_empty()) {
            leg.named_early = Some((to_tag(headers), names));
        }
    }

    pub(super) fn identified(&mut self, leg: LegKey, mut names: Vec<Number>) {
        names.dedup();
        if !names.is_empty() {
            self.event(LegEvent::ConnectedIdentity { leg, names });
        }
    }
}

impl Leg {
    /// The number in a From that is not the dialog's, and every later one: the dialog's own is news again then.
    fn moved_from(&mut self, headers: &Headers) -> Option<Number> {
        let from = headers.from().ok()?;
        let user = |uri: &Uri| UserAgent::user_of(uri);
        let known = NameAddr::parse(&self.dialog.remote).ok();
        self.from_moved |= known.is_none_or(|known| user(&known.uri) != user(&from.uri));
        self.from_moved.then(|| name_of(&from.uri))
    }
}

/// The names in P-Asserted-Identity and Remote-Party-ID. What cannot be read is a name that is withheld: it may be anybody's.
pub(super) fn asserted(headers: &Headers) -> Vec<Number> {
    let values = ["P-Asserted-Identity", "Remote-Party-ID"]
        .into_iter()
        .flat_map(|name| headers.get_all(name).into_iter().take(MOST_VALUES));
    let name = |value| NameAddr::parse(value).map_or_else(|_| Number::from(NAMELESS), |address| name_of(&address.uri));
    values.map(name).collect()
}

fn name_of(uri: &Uri) -> Number {
    let number = match uri.scheme() {
        Scheme::Tel => uri
            .opaque()
            .split(|byte| *byte == b';')
            .next()
            .and_then(|number| std::str::from_utf8(number).ok().map(str::to_owned)),
        _ => UserAgent::user_of(uri),
    };
    number.map_or_else(|| Number::from(NAMELESS), Number::from)
}

fn to_tag(headers: &Headers) -> Vec<u8> {
    let to = headers.to().ok();
    to.and_then(|to| to.tag().map(<[u8]>::to_vec)).unwrap_or_default()
}
