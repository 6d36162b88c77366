//! The other end of a leg, and by which flow it is reached.
//!
//! A request belongs to a leg by Call-ID and tags, when it comes from where the leg's peer is: any
//! source of its trunk, or any port and either transport of an address that its phone has been
//! heard at. Requests of ours go where the peer hears them:
//!
//! | peer | flow |
//! |---|---|
//! | a phone that has registered | where its newest registration is called |
//! | a phone that calls from elsewhere | where it says at its own host; behind a NAT the source |
//! | a trunk | its first Route, else its Contact, if that is this trunk's own; else the source |

use super::session_timer::{SessionTimer, min_se};
use super::uac::write_reason;
use super::{ClientUse, HangupReason, LegTimer, SentRequest};
use crate::media::is_private;
use crate::model::{DeviceId, Now, Number};
use crate::sip::config::{Nat, Trunk};
use crate::sip::dialog::Dialog;
use crate::sip::flow::{ConnectionId, Flow, Protocol};
use crate::sip::leg::{Identity, LegEvent, LegId, LegSource};
use crate::sip::message::{Headers, Host, Method, NameAddr, SipRequest, SipResponse, Uri};
use crate::sip::peer::{ReturnPath, contact_at, speaks_from, transport_of};
use crate::sip::registrar::{Binding, Registrar};
use crate::sip::transaction::{ClientTransactionId, TransactionKind};
use crate::sip::user_agent::context::Context;
use crate::sip::user_agent::local_domain::LocalDomain;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

/// Authentication, then a longer session interval: no honest peer asks for more.
const MOST_ATTEMPTS: u8 = 3;

/// How the flow to a leg's peer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sip::user_agent) enum FlowState {
    /// Its phone has registered by it: where the phone goes, the leg follows.
    Registered,
    /// The leg's own: it stays until it is gone, or the device's only phone registers at the same
    /// host.
    Own,
    /// Gone: what is to be said waits until the phone registers again.
    Lost,
}

/// The other end of a leg: its identity, the dialog with it, and the flow to it.
#[derive(Debug)]
pub(in crate::sip::user_agent) struct LegPeer {
    /// The leg that it is the peer of.
    pub(super) leg: LegId,
    /// The account or the trunk.
    pub(super) source: LegSource,
    /// The trunk that it is, or that the account is behind: by its addresses it is reached.
    trunk: Option<String>,
    /// The number that we go by on this leg: the called one here, or the one that is shown as
    /// calling there.
    pub(super) number: Number,
    /// The party at the other end of the call, once another one has come there.
    pub(super) connected_with: Option<Identity>,
    pub(super) dialog: Dialog,
    flow_state: FlowState,
    /// What `Located` told last.
    located: Option<(IpAddr, bool)>,
}

impl LegPeer {
    /// The caller of a new dialog, and the flow to it.
    pub fn calling(
        leg: LegId,
        (source, number): (LegSource, Number),
        mut dialog: Dialog,
        path: &ReturnPath,
        ctx: &Context,
        now: Now,
    ) -> Self {
        let trunk = ctx.domain.trunk_of(&source).map(str::to_owned);
        let flow_state = match (&source, &trunk) {
            (LegSource::Account(device), None) => {
                let target = registered_flow(device, path, &dialog.target, &ctx.registrar, now)
                    .filter(|flow| dialog.may_use(flow));
                dialog.flow = target.unwrap_or_else(|| path.toward(&dialog.target));
                if target.is_some() { FlowState::Registered } else { FlowState::Own }
            }
            (LegSource::Account(_), Some(name)) | (LegSource::Trunk(name), _) => {
                dialog.flow = path.toward(&dialog.target);
                dialog.flow = next_hop(&ctx.domain, name, dialog.flow, dialog.next_uri());
                FlowState::Own
            }
        };
        let connected_with = None;
        Self { leg, source, trunk, number, connected_with, dialog, flow_state, located: None }
    }

    /// The callee of an INVITE of ours.
    pub(super) fn called(
        leg: LegId,
        source: LegSource,
        number: Number,
        dialog: Dialog,
        domain: &LocalDomain,
    ) -> Self {
        let trunk = domain.trunk_of(&source).map(str::to_owned);
        let flow_state = if trunk.is_some() { FlowState::Own } else { FlowState::Registered };
        let connected_with = None;
        Self { leg, source, trunk, number, connected_with, dialog, flow_state, located: None }
    }

    /// It may know who is at the other end: a telephone of the house, or a trunk that is trusted
    /// with it (RFC 3325 2.3).
    pub(super) fn may_know_parties(&self, domain: &LocalDomain) -> bool {
        domain.trusts(self.trunk(), &self.source)
    }

    /// Writes who is at the other end, where another party has come there (RFC 3325 9.1).
    pub(super) fn write_connected(&self, request: &mut SipRequest, domain: &LocalDomain) {
        let party = self.connected_with.as_ref().filter(|party| !party.is_withheld());
        let party = party.filter(|_| self.may_know_parties(domain));
        if let Some(party) = party {
            let host = domain.via_host(&self.dialog.flow);
            domain.write_asserted(request, &self.source, party, &host);
            if party.is_private {
                request.headers.push("Privacy", "id");
            }
        }
    }

    /// The device whose registrations say where it is reached.
    fn phone(&self) -> Option<&DeviceId> {
        match (&self.source, &self.trunk) {
            (LegSource::Account(device), None) => Some(device),
            (LegSource::Account(_), Some(_)) | (LegSource::Trunk(_), _) => None,
        }
    }

    /// The trunk by which it is reached.
    pub(in crate::sip::user_agent) fn trunk(&self) -> Option<&str> {
        self.trunk.as_deref()
    }

    pub fn source(&self) -> &LegSource {
        &self.source
    }

    /// The number that we go by here.
    pub fn number(&self) -> &Number {
        &self.number
    }

    pub fn dialog(&self) -> &Dialog {
        &self.dialog
    }

    /// The same request has made the other dialog, too (RFC 3261 8.2.2.2). Another Request-URI is
    /// another UAS: a proxy may fork to two numbers of ours.
    pub fn is_merged(&self, other: &LegPeer) -> bool {
        let (one, two) = (&self.dialog, &other.dialog);
        one.remote_tag == two.remote_tag
            && one.remote_cseq == two.remote_cseq
            && self.number == other.number
    }

    /// A CANCEL is of this dialog.
    pub fn is_cancelled_by(&self, cancel: &SipRequest) -> bool {
        let from = cancel.headers.from().ok();
        let tag = from.as_ref().and_then(NameAddr::tag).unwrap_or_default();
        cancel.headers.call_id() == Ok(self.dialog.call_id.as_slice())
            && self.dialog.remote_tag.as_deref() == Some(tag)
    }

    /// What is said to it and by it goes over TLS only.
    pub fn needs_tls(&self, ctx: &Context) -> bool {
        let config = &ctx.domain.config;
        self.dialog.is_secure
            || match (self.phone(), self.trunk()) {
                (Some(device), _) => config
                    .account(device)
                    .is_some_and(|account| !account.transport.allows(Protocol::Udp)),
                (None, Some(name)) => ctx.domain.trunk(name).is_some_and(Trunk::is_secure),
                (None, None) => false,
            }
    }

    /// A request that names a leg may come from there.
    pub fn speaks_from(&self, source: &Flow, ctx: &Context, now: Instant) -> bool {
        let address = source.peer.ip().to_canonical();
        match self.phone() {
            Some(device) => {
                self.dialog.flow.peer.ip().to_canonical() == address
                    || ctx.registrar.is_at_address(device, address, now)
            }
            None => self.dialog.flow == *source || self.may_answer(source, ctx, now),
        }
    }

    /// A response to a request of ours may come from there (RFC 3261 17.1.3, 18.1.2: from anywhere;
    /// here: from the same peer).
    pub fn may_answer(&self, source: &Flow, ctx: &Context, now: Instant) -> bool {
        match (self.phone(), self.trunk()) {
            // A device that is known no more has no registration left, and its call goes on.
            (Some(device), _) => {
                ctx.registrar.is_at_address(device, source.peer.ip(), now)
                    || ctx.domain.account_of(&self.source).is_none()
                        && self.dialog.flow.peer.ip().to_canonical()
                            == source.peer.ip().to_canonical()
            }
            (None, Some(name)) => {
                ctx.domain.trunk(name).is_some_and(|trunk| ctx.speaks_from(trunk, source))
            }
            (None, None) => false,
        }
    }

    /// It has sent a request within the dialog: its flow is where that came from, unless there is a
    /// better one.
    pub(super) fn update_flow(
        &mut self,
        path: &ReturnPath,
        headers: &Headers,
        ctx: &Context,
        now: Now,
    ) {
        let refreshes = headers
            .cseq()
            .is_ok_and(|(_, method)| matches!(method, Method::Invite | Method::Update));
        let contacts = if refreshes { headers.contacts().unwrap_or_default() } else { Vec::new() };
        let contact = match contacts.as_slice() {
            [contact] => &contact.uri,
            _ => &self.dialog.target,
        };
        let before = self.dialog.flow;
        let other_transport = before.protocol != path.source.protocol;
        let (flow, state) = match (self.phone(), self.trunk()) {
            (Some(device), _) => {
                let is_called_there =
                    || ctx.registrar.of(device, now.mono).any(|binding| binding.target == before);
                match ctx.registrar.target_of(device, &path.source, now.mono) {
                    Some(target) => (target, FlowState::Registered),
                    // A request too long for a datagram comes by TCP (RFC 3261 18.1.1): the phone
                    // has not moved.
                    None if other_transport
                        && !self.is_lost()
                        && (is_called_there() || is_for(contact, &before)) =>
                    {
                        (before, self.flow_state)
                    }
                    None => {
                        let flow = path.toward(contact);
                        let moved = flow != before || self.is_lost();
                        (flow, if moved { FlowState::Registered } else { self.flow_state })
                    }
                }
            }
            (None, Some(name)) => {
                let uri = self.dialog.routes.first().map_or(contact, |route| &route.uri);
                let from = match other_transport && is_for(uri, &before) {
                    true => before,
                    false => path.toward(contact),
                };
                (next_hop(&ctx.domain, name, from, uri), self.flow_state)
            }
            (None, None) => (before, self.flow_state),
        };
        self.dialog.flow = flow;
        self.flow_state = state;
    }

    /// A response to our INVITE has told more of the dialog.
    pub(super) fn handle_response(&mut self, response: &SipResponse, domain: &LocalDomain) {
        self.dialog.handle_response(response);
        self.retarget(domain);
    }

    /// A response may have told where the trunk wants to hear of a dialog.
    pub(super) fn retarget(&mut self, domain: &LocalDomain) {
        if let Some(name) = &self.trunk {
            self.dialog.flow = next_hop(domain, name, self.dialog.flow, self.dialog.next_uri());
        }
    }

    /// Its INVITE goes to another target of its trunk, before anything has been heard.
    pub(super) fn try_at(&mut self, flow: Flow, uri: Uri) {
        self.dialog.flow = flow;
        self.dialog.target = uri;
    }

    /// The flow to it is gone.
    pub(super) fn is_lost(&self) -> bool {
        self.flow_state == FlowState::Lost
    }

    /// A request went by a flow that the leg has left since: its failure says nothing about the
    /// peer.
    pub(super) fn has_moved(&self, sent: &SentRequest) -> bool {
        self.is_lost() || self.dialog.flow != sent.flow
    }

    /// A phone is reached by this flow from now on: it has registered by it.
    pub(super) fn follow(&mut self, flow: Flow) {
        self.dialog.flow = flow;
        self.flow_state = FlowState::Registered;
    }

    /// Something is to be said to a phone that can not be reached: for so long as any request waits
    /// for its answer, it may come back.
    pub(super) fn wait_for_phone(&self, ctx: &mut Context, now: Now) {
        if !ctx.timers.is_set(&(self.leg, LegTimer::Lost)) {
            let give_up = ctx.domain.config.timing.give_up();
            ctx.timers.set((self.leg, LegTimer::Lost), now.mono + give_up);
        }
    }

    /// The flow to it is gone. A trunk is reached by another connection, a phone by another
    /// registration, which is to be followed; without one, its flow is lost.
    pub(super) fn handle_flow_gone(
        &mut self,
        gone: &Flow,
        ctx: &Context,
        now: Now,
    ) -> Option<Flow> {
        match self.phone() {
            None => {
                let trunk = self.trunk().and_then(|name| ctx.domain.trunk(name));
                if let Some(peer) = trunk.and_then(|trunk| address_of(trunk, gone)) {
                    self.dialog.flow = Flow { peer, connection: ConnectionId::NONE, ..*gone };
                }
                None
            }
            Some(device) => {
                let fits = |binding: &Binding| self.dialog.may_use(&binding.target);
                let found = ctx.registrar.lookup_of(device, fits, now.mono);
                let flow = found.map(|binding| binding.target);
                if flow.is_none() {
                    self.flow_state = FlowState::Lost;
                }
                flow
            }
        }
    }

    /// Its phone has registered by `flow`, under this Call-ID, and no longer hears by the flow of
    /// the leg.
    pub fn has_left(
        &self,
        device: &DeviceId,
        flow: Flow,
        call_id: &[u8],
        registrar: &Registrar,
        now: Now,
    ) -> bool {
        if self.phone() != Some(device) || !self.dialog.may_use(&flow) {
            return false;
        }
        let mut others = registrar.of(device, now.mono).filter(|binding| !binding.is_of(call_id));
        match self.flow_state {
            FlowState::Lost => true,
            // Not by this registration; but where the device has no other phone, it is this one.
            FlowState::Own => {
                let of_here =
                    self.dialog.flow.peer.ip().to_canonical() == flow.peer.ip().to_canonical();
                self.dialog.flow != flow && of_here && others.next().is_none()
            }
            // A phone registers under one Call-ID as long as it runs (RFC 3261 10.2): its other
            // flows are older ones.
            FlowState::Registered => {
                self.dialog.flow != flow
                    && !others.any(|binding| binding.target == self.dialog.flow)
            }
        }
    }

    /// Its location has been told.
    pub(super) fn is_located(&self) -> bool {
        self.located.is_some()
    }

    /// Tells the B2BUA where its signalling comes from, and whether an address translator is on the
    /// way, if that is news. `via` is the host that its Via names, while its INVITE waits.
    pub(super) fn report_location(&mut self, via: Option<Host>, ctx: &mut Context) {
        let location = self.location(via);
        if self.located.replace(location) != Some(location) {
            let (host, is_translated) = location;
            ctx.event(LegEvent::Located { leg: self.leg, host, is_translated });
        }
    }

    /// Translated is a device which names another address in its Via, or another, private one in
    /// its Contact. A trunk may have several addresses of its own, and so may the loopback.
    fn location(&self, via: Option<Host>) -> (IpAddr, bool) {
        let host = self.dialog.flow.peer.ip().to_canonical();
        if host.is_loopback() || self.trunk.is_some() {
            return (host, false);
        }
        let was =
            self.located.is_some_and(|(before, is_translated)| is_translated && before == host);
        let contact = self.dialog.target.host();
        let is_hidden = matches!(
            contact,
            Host::Address(address) if is_private(address) && address.to_canonical() != host
        );
        let is_other =
            matches!(via, Some(Host::Address(address)) if address.to_canonical() != host);
        (host, was || is_hidden || is_other)
    }

    /// Our Contact here.
    pub(super) fn contact(&self, domain: &LocalDomain) -> Vec<u8> {
        domain.contact(&self.dialog.flow, self.dialog.is_sips, &self.number)
    }

    /// A NOTIFY within the dialog (RFC 6665).
    pub(super) fn notify(&mut self, event: &str, state: &str, domain: &LocalDomain) -> SipRequest {
        let notify = self.dialog.request(Method::Notify);
        notify
            .with("Event", event)
            .with("Subscription-State", state)
            .with("Contact", self.contact(domain))
    }

    /// BYE ends the dialog.
    pub(super) fn send_bye(&mut self, reason: HangupReason, ctx: &mut Context, now: Now) {
        let mut bye = self.dialog.request(Method::Bye);
        write_reason(&mut bye, reason);
        ctx.request(bye, self.dialog.flow, |sent| ClientUse::Bye(self.leg, sent), now);
    }

    /// PRACK acknowledges a reliable response in its dialog.
    pub(super) fn send_prack(&mut self, rseq: u32, cseq: u32, ctx: &mut Context, now: Now) {
        let prack = self.dialog.request(Method::Prack);
        let prack = prack.with("RAck", format!("{rseq} {cseq} INVITE"));
        ctx.request(prack, self.dialog.flow, |sent| ClientUse::Prack(self.leg, sent), now);
    }

    /// Sends a refused request once more, if something can be done about it.
    pub(super) fn send_again(
        &mut self,
        (sent, response): (&SentRequest, &SipResponse),
        timer: &mut SessionTimer,
        client: impl FnOnce(LegId, Arc<SentRequest>) -> ClientUse,
        ctx: &mut Context,
        now: Now,
    ) -> Option<(ClientTransactionId, Arc<SentRequest>)> {
        let request = self.improve(sent, response, timer, ctx)?;
        let kind = match request.method {
            Method::Invite => TransactionKind::Invite,
            _ => TransactionKind::Other,
        };
        let again = ctx.sent(request, sent.flow, sent.attempts + 1);
        Some((ctx.send(kind, client(self.leg, again.clone()), &again, now), again))
    }

    /// A refused request once more: with an answer to the challenge, or with a longer interval.
    fn improve(
        &mut self,
        sent: &SentRequest,
        response: &SipResponse,
        timer: &mut SessionTimer,
        ctx: &mut Context,
    ) -> Option<SipRequest> {
        if sent.attempts >= MOST_ATTEMPTS {
            return None;
        }
        let mut request = sent.request.clone();
        match response.status {
            401 | 407 => {
                let (name, answer) = ctx.answer_challenge(self.trunk()?, sent, response)?;
                request.headers.set(name, answer);
            }
            422 => {
                timer.raise(min_se(&response.headers)?);
                for name in ["Session-Expires", "Min-SE"] {
                    request.headers.remove(name);
                }
                timer.write_request(&mut request);
            }
            _ => return None,
        }
        self.dialog.local_cseq += 1;
        let cseq = format!("{} {}", self.dialog.local_cseq, request.method);
        request.headers.set("CSeq", cseq);
        Some(request)
    }
}

/// Where a phone is called that has registered by this very flow, or with this Contact from the
/// same address.
fn registered_flow(
    device: &DeviceId,
    path: &ReturnPath,
    contact: &Uri,
    registrar: &Registrar,
    now: Now,
) -> Option<Flow> {
    let by_flow = registrar.target_of(device, &path.source, now.mono);
    by_flow.or_else(|| {
        let address = path.source.peer.ip().to_canonical();
        let mut bound = registrar.of(device, now.mono);
        let found = bound.find(|binding| {
            binding.flow.peer.ip().to_canonical() == address && binding.contact.same(contact)
        });
        found.map(|binding| binding.target)
    })
}

/// Where a connection of a trunk that is gone is made again: at its other end, if that is a target,
/// at the target of that host, or at any.
fn address_of(trunk: &Trunk, gone: &Flow) -> Option<SocketAddr> {
    let known = trunk.addresses().filter(|(protocol, _)| *protocol == gone.protocol);
    let all: Vec<SocketAddr> = known.map(|(_, address)| address).collect();
    let exact = all.iter().find(|address| **address == gone.peer);
    let of_host = || all.iter().find(|address| address.ip() == gone.peer.ip().to_canonical());
    exact.or_else(of_host).or(all.first()).copied()
}

/// A trunk's flow, or one to the address that it wants, if that is its own.
fn next_hop(domain: &LocalDomain, trunk: &str, flow: Flow, uri: &Uri) -> Flow {
    let Some(trunk) = domain
        .trunk(trunk)
        .filter(|trunk| trunk.nat != Nat::Always && flow.protocol == Protocol::Udp)
    else {
        return flow;
    };
    let wanted = contact_at(uri, flow.protocol)
        .filter(|wanted| wanted.is_ipv4() == flow.peer.ip().to_canonical().is_ipv4());
    let wanted = wanted.map(|wanted| Flow {
        // A socket of both families writes an IPv4 address as an IPv6 one.
        peer: match (flow.peer.ip(), wanted.ip()) {
            (IpAddr::V6(_), IpAddr::V4(address)) => {
                (address.to_ipv6_mapped(), wanted.port()).into()
            }
            _ => wanted,
        },
        ..flow
    });
    let is_at = |flow: &Flow| speaks_from(trunk, flow) || trunk.is_at(flow.protocol, flow.peer);
    wanted.filter(is_at).unwrap_or(flow)
}

/// The URI asks for the transport of this flow.
fn is_for(uri: &Uri, flow: &Flow) -> bool {
    transport_of(uri) == Some(flow.protocol)
}
