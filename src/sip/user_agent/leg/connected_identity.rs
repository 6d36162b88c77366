//! Connected identity: what a peer says of the party at its end of an established dialog.
//!
//! A switch that has handed a leg on to another party says so in the next 2xx, re-INVITE or UPDATE:
//! in P-Asserted-Identity (RFC 3325 9.1), in Remote-Party-ID (draft-ietf-sip-privacy-04), or in a
//! From that differs from the dialog's (RFC 4916 4). All three are believed from whatever the leg
//! is with: what follows from a false one is silence.

use super::LegPeer;
use crate::model::Number;
use crate::sip::config::SipAccount;
use crate::sip::leg::{ANONYMOUS, LegEvent, LegSource};
use crate::sip::message::{Headers, NameAddr, Uri};
use crate::sip::user_agent::caller_identity::asks_for_privacy;
use crate::sip::user_agent::context::Context;
use crate::sip::user_agent::local_domain::LocalDomain;

/// The most values of one header field that are looked at.
const MOST_VALUES: usize = 4;

/// The most early dialogs of which names are kept.
const MOST_FORKS: usize = 16;

/// What of the names that a peer has said has to be kept.
#[derive(Debug, Default)]
pub(super) struct ConnectedNames {
    /// What the last provisional response of each early dialog has named, by its To tag.
    early: Vec<(Vec<u8>, Vec<Number>)>,
    /// The peer has sent another From than the dialog's (RFC 4916 4.4).
    from_moved: bool,
}

impl ConnectedNames {
    /// Reports what the INVITE of a new dialog names.
    pub(super) fn report_invite(headers: &Headers, peer: &LegPeer, ctx: &mut Context) {
        let account = ctx.domain.account_of(&peer.source);
        let names = of_invite(headers, account, Namespace::of(peer, &ctx.domain));
        report(names, headers, peer, ctx);
    }

    /// Reports what a request of the peer within the dialog names.
    pub(super) fn report_request(&mut self, headers: &Headers, peer: &LegPeer, ctx: &mut Context) {
        let namespace = Namespace::of(peer, &ctx.domain);
        let mut names = asserted(headers, namespace);
        names.extend(self.moved_from(headers, &peer.dialog.remote, namespace));
        report(names, headers, peer, ctx);
    }

    /// Reports what a 2xx of the peer names.
    pub(super) fn report_answer(&mut self, headers: &Headers, peer: &LegPeer, ctx: &mut Context) {
        let names = self.of_answer(headers, Namespace::of(peer, &ctx.domain));
        report(names, headers, peer, ctx);
    }

    /// Keeps what a provisional response names until the answer.
    pub(super) fn note_early(&mut self, headers: &Headers, peer: &LegPeer, domain: &LocalDomain) {
        let (names, tag) = (asserted(headers, Namespace::of(peer, domain)), headers.to_tag());
        if names.is_empty() {
            return;
        }
        if let Some((_, known)) = self.early.iter_mut().find(|(known, _)| *known == tag) {
            *known = names;
        } else if self.early.len() < MOST_FORKS {
            self.early.push((tag, names));
        }
    }

    /// What a 2xx names. One without a name says what the provisional response of the same early
    /// dialog has said.
    fn of_answer(&mut self, headers: &Headers, namespace: Namespace<'_>) -> Vec<Number> {
        let names = asserted(headers, namespace);
        let early = std::mem::take(&mut self.early);
        if !names.is_empty() {
            return names;
        }
        let tag = headers.to_tag();
        let rang = early.into_iter().find(|(known, _)| *known == tag);
        rang.map(|(_, names)| names).unwrap_or_default()
    }

    /// The number in a From that is not the dialog's (`remote`), and every later one: the dialog's
    /// own is news again then.
    fn moved_from(
        &mut self,
        headers: &Headers,
        remote: &[u8],
        namespace: Namespace<'_>,
    ) -> Option<Number> {
        let from = namespace.name_of(&headers.from().ok()?.uri);
        let known = NameAddr::parse(remote).ok().map(|known| namespace.name_of(&known.uri));
        self.from_moved |= known.as_ref() != Some(&from);
        self.from_moved.then_some(from)
    }
}

/// Tells the B2BUA of names.
fn report(mut names: Vec<Number>, headers: &Headers, peer: &LegPeer, ctx: &mut Context) {
    names.dedup();
    if !names.is_empty() {
        let (leg, withheld) = (peer.leg, asks_for_privacy(headers));
        ctx.event(LegEvent::ConnectedIdentity { leg, names, withheld });
    }
}

/// What the INVITE of a new dialog names: of an account a From, too, that is not the account's own
/// number. What a switch asserts of a device behind it goes before From, in which the caller may
/// withhold its number.
fn of_invite(
    headers: &Headers,
    account: Option<&SipAccount>,
    namespace: Namespace<'_>,
) -> Vec<Number> {
    let mut names = asserted(headers, namespace);
    let is_asserted = |account: &SipAccount| account.via.is_some() && !names.is_empty();
    let account = account.filter(|account| !is_asserted(account));
    if let (Some(account), Ok(from)) = (account, headers.from()) {
        let name = namespace.name_of(&from.uri);
        names.extend(Some(name).filter(|name| *name != account.number));
    }
    names
}

/// The names in P-Asserted-Identity and Remote-Party-ID. What cannot be read is a name that is
/// withheld: it may be anybody's.
fn asserted(headers: &Headers, namespace: Namespace<'_>) -> Vec<Number> {
    let mut names = Vec::new();
    for field in
        ["P-Asserted-Identity", "Remote-Party-ID"].into_iter().filter(|field| headers.has(field))
    {
        let values = headers.get_all(field);
        let name = |value: &&[u8]| {
            NameAddr::parse(value).ok().map(|address| namespace.name_of(&address.uri))
        };
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

/// Whose names they are: those of a switch name the devices behind it first, and nobody outside
/// passes for a device of ours.
#[derive(Clone, Copy)]
struct Namespace<'a> {
    trunk: Option<&'a str>,
    peer: &'a LegSource,
    domain: &'a LocalDomain,
}

impl<'a> Namespace<'a> {
    fn of(peer: &'a LegPeer, domain: &'a LocalDomain) -> Self {
        Self { trunk: peer.trunk(), peer: peer.source(), domain }
    }

    /// The number that a URI names: of a device behind the switch its number here.
    fn name_of(self, uri: &Uri) -> Number {
        let number = self.domain.number_of(uri);
        let behind = self.trunk.zip(number.as_ref());
        let behind = behind.and_then(|(trunk, name)| self.domain.account_behind(trunk, name));
        let is_real = |number: &Number| self.domain.may_be_named(self.peer, number);
        let number =
            behind.map(|account| account.number.clone()).or_else(|| number.filter(is_real));
        number.unwrap_or_else(|| Number::from(ANONYMOUS))
    }
}
