//! Connected identity: what a peer says of the party at its end of an established dialog.
//!
//! A switch that has handed a leg on to somebody else says so in the next 2xx, re-INVITE or UPDATE: in P-Asserted-Identity (RFC 3325 9.1),
//! in Remote-Party-ID (draft-ietf-sip-privacy-04), or in a From that differs from the dialog's (RFC 4916 4). All three are believed from
//! whoever the leg is with: what follows from a false one is silence.

use super::UserAgent;
use crate::model::Number;
use crate::sip::leg::{ANONYMOUS, LegEvent, LegId, LegSource};
use crate::sip::message::{Headers, NameAddr, Uri};

/// The most values of one header field that are looked at.
const MOST_VALUES: usize = 4;

/// The most early dialogs of which names are kept.
const MOST_FORKS: usize = 16;

impl UserAgent {
    /// Reports what the INVITE of a new dialog names: of an account a From, too, that is not the account's own number.
    pub(super) fn identify_by_invite(&mut self, leg_key: LegId, headers: &Headers) {
        let mut names = self.asserted(headers);
        let account = match self.legs.get(&leg_key).map(|leg| &leg.peer) {
            Some(LegSource::Account(device)) => self.config.account(device),
            Some(LegSource::Trunk(_)) | None => None,
        };
        if let (Some(account), Ok(from)) = (account, headers.from()) {
            let name = self.name_of(&from.uri);
            names.extend(Some(name).filter(|name| *name != account.number));
        }
        self.identified(leg_key, names);
    }

    /// Reports what a request of the peer within the dialog names.
    pub(super) fn identify_by_request(&mut self, leg_key: LegId, headers: &Headers) {
        let mut names = self.asserted(headers);
        names.extend(self.moved_from(leg_key, headers));
        self.identified(leg_key, names);
    }

    /// Reports what a 2xx of the peer names. A 2xx without a name says what the provisional response of the same early dialog has said.
    pub(super) fn identify_by_response(&mut self, leg_key: LegId, headers: &Headers) {
        let mut names = self.asserted(headers);
        let early = self.legs.get_mut(&leg_key).map(|leg| std::mem::take(&mut leg.named_early));
        if names.is_empty() {
            let tag = to_tag(headers);
            let rang = early.into_iter().flatten().find(|(known, _)| *known == tag);
            names = rang.map(|(_, names)| names).unwrap_or_default();
        }
        self.identified(leg_key, names);
    }

    /// Keeps what a provisional response names until the answer.
    pub(super) fn note_early_identity(&mut self, leg_key: LegId, headers: &Headers) {
        let (names, tag) = (self.asserted(headers), to_tag(headers));
        let Some(leg) = self.legs.get_mut(&leg_key).filter(|_| !names.is_empty()) else {
            return;
        };
        if let Some((_, known)) = leg.named_early.iter_mut().find(|(known, _)| *known == tag) {
            *known = names;
        } else if leg.named_early.len() < MOST_FORKS {
            leg.named_early.push((tag, names));
        }
    }

    pub(super) fn identified(&mut self, leg: LegId, mut names: Vec<Number>) {
        names.dedup();
        if !names.is_empty() {
            self.event(LegEvent::ConnectedIdentity { leg, names });
        }
    }

    /// The names in P-Asserted-Identity and Remote-Party-ID. What cannot be read is a name that is withheld: it may be anybody's.
    pub(super) fn asserted(&self, headers: &Headers) -> Vec<Number> {
        let mut names = Vec::new();
        for field in ["P-Asserted-Identity", "Remote-Party-ID"]
            .into_iter()
            .filter(|field| headers.has(field))
        {
            let values = headers.get_all(field);
            let name = |value: &&[u8]| NameAddr::parse(value).ok().map(|address| self.name_of(&address.uri));
            names.extend(
                values
                    .iter()
                    .take(MOST_VALUES)
                    .map(|value| name(value).unwrap_or_else(|| Number::from(ANONYMOUS))),
            );
            // Nothing in it, or more than anybody says of one party.
            if values.is_empty() || values.len() > MOST_VALUES {
                names.push(Number::from(ANONYMOUS));
            }
        }
        names
    }

    /// The number in a From that is not the dialog's, and every later one: the dialog's own is news again then.
    fn moved_from(&mut self, leg_key: LegId, headers: &Headers) -> Option<Number> {
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
