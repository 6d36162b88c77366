//! Connected identity: what a peer says of the party at its end of an established dialog.
//!
//! A switch that has handed a leg on to somebody else says so in the next 2xx, re-INVITE or UPDATE: in P-Asserted-Identity (RFC 3325 9.1),
//! in Remote-Party-ID (draft-ietf-sip-privacy-04), or in a From that differs from the dialog's (RFC 4916 4). All three are believed from
//! whoever the leg is with: what follows from a false one is silence.

use super::UserAgent;
use crate::sip::leg::{ANONYMOUS, LegEvent, LegKey};
use crate::sip::message::{Headers, NameAddr, Uri};
use crate::words::Number;

/// The most values of one header field that are looked at.
const MOST_VALUES: usize = 4;

impl UserAgent {
    /// Reports what a re-INVITE or UPDATE of the peer names.
    pub(super) fn identify_by_request(&mut self, leg_key: LegKey, headers: &Headers) {
        let mut names = self.asserted(headers);
        names.extend(self.moved_from(leg_key, headers));
        self.identified(leg_key, names);
    }

    /// Reports what a 2xx of the peer names. A 2xx without a name says what the provisional response of the same early dialog has said.
    pub(super) fn identify_by_response(&mut self, leg_key: LegKey, headers: &Headers) {
        let mut names = self.asserted(headers);
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
        let names = self.asserted(headers);
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

    /// The names in P-Asserted-Identity and Remote-Party-ID. What cannot be read is a name that is withheld: it may be anybody's.
    pub(super) fn asserted(&self, headers: &Headers) -> Vec<Number> {
        let values = ["P-Asserted-Identity", "Remote-Party-ID"]
            .into_iter()
            .flat_map(|name| headers.get_all(name).into_iter().take(MOST_VALUES));
        let name = |value| NameAddr::parse(value).map_or_else(|_| Number::from(ANONYMOUS), |address| self.name_of(&address.uri));
        values.map(name).collect()
    }

    /// The number in a From that is not the dialog's, and every later one: the dialog's own is news again then.
    fn moved_from(&mut self, leg_key: LegKey, headers: &Headers) -> Option<Number> {
        let from = self.name_of(&headers.from().ok()?.uri);
        let leg = self.legs.get(&leg_key)?;
        let known = NameAddr::parse(&leg.dialog.remote).ok().map(|known| self.name_of(&known.uri));
        let has_moved = leg.from_moved || known.as_ref() != Some(&from);
        self.legs.get_mut(&leg_key)?.from_moved = has_moved;
        has_moved.then_some(from)
    }

    fn name_of(&self, uri: &Uri) -> Number {
        self.number_of(uri).unwrap_or_else(|| Number::from(ANONYMOUS))
    }
}

fn to_tag(headers: &Headers) -> Vec<u8> {
    let to = headers.to().ok();
    to.and_then(|to| to.tag().map(<[u8]>::to_vec)).unwrap_or_default()
}
