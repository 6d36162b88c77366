//! What the machines of the user agent share: configuration, registrar, transactions, timers, and
//! the way out.

use super::certificates::PeerCertificates;
use super::leg::{ClientUse, LegTimer, SentRequest, ServerUse};
use super::local_domain::LocalDomain;
use super::refusal_log::RefusalLog;
use super::tokens::TokenGenerator;
use super::trunk_registration::login_of;
use super::trunk_targets::TargetStates;
use super::{Counters, Output};
use crate::model::{DeviceId, Now, Number};
use crate::sip::config::{Login, Trunk};
use crate::sip::dialog::Dialog;
use crate::sip::digest::{Credentials, DigestRequest};
use crate::sip::flow::{ConnectionId, Flow};
use crate::sip::leg::{LegEvent, LegId};
use crate::sip::message::{Method, NameAddr, Refuse, Scheme, SipRequest, SipResponse, Uri};
use crate::sip::peer::speaks_from;
use crate::sip::registrar::Registrar;
use crate::sip::timers::Timers;
use crate::sip::transaction::{
    ClientKey, ClientTransactionId, ReceivedVia, ServerTransactionId, TransactionKind, Transactions,
};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// After how long a call that finds no room may be tried again, at most.
const RETRY_AFTER: Duration = Duration::from_secs(20);

/// The parts of the user agent that it lends to its machines: a leg, the admission, the
/// qualification. No leg is among them, so that a leg sees no other.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) domain: LocalDomain,
    pub(super) registrar: Registrar,
    pub(super) transactions: Transactions<ServerUse, ClientUse>,
    pub(super) timers: Timers<(LegId, LegTimer)>,
    pub(super) tokens: TokenGenerator,
    /// Our credentials at trunks, by the trunk's name.
    pub(super) logins: BTreeMap<String, TrunkLogins>,
    /// What is known of the targets of trunks.
    pub(super) targets: TargetStates,
    pub(super) refusals: RefusalLog,
    pub(super) counters: Counters,
    pub(super) certificates: PeerCertificates,
    /// New calls may come here.
    pub(super) takes_calls: bool,
    pub(super) outputs: VecDeque<Output>,
}

/// Our credentials at one trunk.
#[derive(Debug)]
pub(super) struct TrunkLogins {
    /// Those that we register with.
    register: Option<Credentials>,
    /// Those for a realm.
    others: Vec<Credentials>,
}

impl TrunkLogins {
    /// What the challenges of a trunk are answered with, by its name.
    pub(super) fn of(trunk: &Trunk) -> Option<(String, Self)> {
        let name = &trunk.name;
        let register = trunk.registration.as_ref().map(|one| login_of(name, one));
        let others = trunk.logins.iter().map(|login| {
            let Login { realm, username, password } = login;
            Credentials::new(name, Some(realm), username, password.expose())
        });
        let others: Vec<Credentials> = others.collect();
        let is_empty = register.is_none() && others.is_empty();
        (!is_empty).then(|| (name.clone(), Self { register, others }))
    }
}

impl Context {
    /// OPTIONS outside any dialog (RFC 3261 11.1), with our contact as this number; `None`: our own
    /// address makes no URI.
    pub fn options(&mut self, uri: Uri, flow: &Flow, number: &Number) -> Option<SipRequest> {
        let host = self.domain.via_host(flow);
        let from = NameAddr::new(Uri::sip(None, &host, None).ok()?).with_tag(&self.tokens.word());
        let contact = self.domain.contact(flow, uri.scheme() == Scheme::Sips, number);
        let options = SipRequest::new(Method::Options, uri.clone())
            .with("Max-Forwards", "70")
            .with("From", from.to_bytes())
            .with("To", NameAddr::new(uri).to_bytes())
            .with("Call-ID", format!("{}@{host}", self.tokens.word()))
            .with("CSeq", "1 OPTIONS")
            .with("Contact", contact)
            .with("Accept", "application/sdp")
            .with("User-Agent", &self.domain.config.product);
        Some(options)
    }

    /// An answer to a challenge of a trunk that we have a login for, once for each request: a
    /// second challenge means it was wrong.
    pub(super) fn answer_challenge(
        &mut self,
        trunk: &str,
        sent: &SentRequest,
        response: &SipResponse,
    ) -> Option<(&'static str, String)> {
        let TrunkLogins { register, others } = self.logins.get_mut(trunk)?;
        let (first, last) = match sent.request.method {
            Method::Register => (register.as_mut(), None),
            _ => (None, register.as_mut()),
        };
        let logins = first.into_iter().chain(others).chain(last);
        let cnonce = self.tokens.word();
        answer_by(logins, trunk, sent, response, &cnonce)
    }

    /// The same, with credentials that are no trunk's any more.
    pub(super) fn answer_challenge_by(
        &mut self,
        login: &mut Credentials,
        trunk: &str,
        sent: &SentRequest,
        response: &SipResponse,
    ) -> Option<(&'static str, String)> {
        let cnonce = self.tokens.word();
        answer_by([login].into_iter(), trunk, sent, response, &cnonce)
    }

    pub(super) fn transmit(&mut self, flow: Flow, bytes: Vec<u8>) {
        self.outputs.push_back(Output::Transmit { flow, bytes });
    }

    pub(super) fn event(&mut self, event: LegEvent) {
        self.outputs.push_back(Output::Event(event));
    }

    pub(super) fn registered(&mut self, device: DeviceId, registered: bool) {
        self.event(LegEvent::Registered { device, registered });
    }

    /// The other end of a connection has shown that it belongs here.
    pub(super) fn know(&mut self, flow: Flow) {
        if flow.connection != ConnectionId::NONE {
            self.outputs.push_back(Output::Known(flow));
        }
    }

    /// The flow is a trunk's, or a phone has registered by it.
    pub(super) fn is_known(&self, flow: &Flow, now: Now) -> bool {
        self.trunk_at(flow).is_some() || self.registrar.devices_at(flow, now.mono).next().is_some()
    }

    /// The trunk that sends from there: by its addresses, and over TLS by its certificate where
    /// certificates are asked for.
    pub(super) fn trunk_at(&self, flow: &Flow) -> Option<&Trunk> {
        let config = &self.domain.config;
        config.trunks.iter().find(|trunk| {
            trunk.owns(flow.protocol, flow.peer) && self.certificates.allow(trunk, flow, config)
        })
    }

    /// This trunk speaks from there, or answers there.
    pub(super) fn speaks_from(&self, trunk: &Trunk, flow: &Flow) -> bool {
        speaks_from(trunk, flow) && self.certificates.allow(trunk, flow, &self.domain.config)
    }

    // ---- requests of ours

    /// Puts our Via on a request; the branch tells us later that it was ours.
    fn stamp(&mut self, request: &mut SipRequest, flow: &Flow) -> Vec<u8> {
        let branch = self.tokens.branch();
        request.headers.remove("Via");
        let host = self.domain.via_host(flow);
        let via = [
            format!("SIP/2.0/{} {host}:{};branch=", flow.protocol, flow.local.port()).as_bytes(),
            &branch,
            b";rport",
            // It may send its own requests by the connection (RFC 5923 8.1).
            if self.domain.is_secure_trunk(flow) { b";alias" } else { b"" },
        ]
        .concat();
        request.headers.push_front("Via", via);
        branch
    }

    /// Puts a Via on a request and keeps it.
    pub(super) fn sent(
        &mut self,
        mut request: SipRequest,
        flow: Flow,
        attempts: u8,
    ) -> Arc<SentRequest> {
        let branch = self.stamp(&mut request, &flow);
        let cseq = request.headers.cseq().map(|(cseq, _)| cseq).unwrap_or_default();
        Arc::new(SentRequest { request, flow, branch, cseq, attempts })
    }

    pub(super) fn send(
        &mut self,
        kind: TransactionKind,
        client: ClientUse,
        sent: &SentRequest,
        now: Now,
    ) -> ClientTransactionId {
        let key = ClientKey {
            branch: sent.branch.clone(),
            method: sent.request.method.as_bytes().to_vec(),
        };
        self.transactions.request(key, kind, sent.flow, sent.request.to_bytes(), client, now.mono)
    }

    /// Sends a request that nobody has seen yet; `client` says what it is for.
    pub(super) fn request(
        &mut self,
        request: SipRequest,
        flow: Flow,
        client: impl FnOnce(Arc<SentRequest>) -> ClientUse,
        now: Now,
    ) -> ClientTransactionId {
        let kind = match request.method {
            Method::Invite => TransactionKind::Invite,
            _ => TransactionKind::Other,
        };
        let sent = self.sent(request, flow, 0);
        self.send(kind, client(sent.clone()), &sent, now)
    }

    /// The ACK of a 2xx: a transaction of its own, with the credentials of its INVITE.
    pub(super) fn acknowledge(
        &mut self,
        id: ClientTransactionId,
        dialog: &Dialog,
        sent: &SentRequest,
        response: &SipResponse,
    ) {
        let mut ack = dialog.ack(sent.cseq);
        ack.headers.copy(&["Authorization", "Proxy-Authorization"], &sent.request.headers);
        self.stamp(&mut ack, &dialog.flow);
        self.transactions.acknowledge(id, &response.headers.to_tag(), dialog.flow, ack.to_bytes());
    }

    // ---- responses of ours

    pub(super) fn respond(
        &mut self,
        transaction: ServerTransactionId,
        response: &SipResponse,
        now: Now,
    ) {
        self.transactions.respond(transaction, response.status, response.to_bytes(), now.mono);
    }

    /// Answers a request within a leg that is not INVITE at once.
    pub(super) fn answer(
        &mut self,
        leg: LegId,
        key: ReceivedVia,
        response: &SipResponse,
        now: Now,
    ) {
        let transaction =
            self.transactions.open_always(key, TransactionKind::Other, ServerUse(Some(leg)));
        self.respond(transaction, response, now);
    }

    /// A refusal within a dialog is repeated with its request: judged anew, the repetition would be
    /// out of order.
    pub(super) fn refuse_within(
        &mut self,
        leg: LegId,
        key: ReceivedVia,
        request: &SipRequest,
        refuse: &Refuse,
        now: Now,
    ) {
        let kind = match request.method {
            Method::Invite => TransactionKind::Invite,
            _ => TransactionKind::Other,
        };
        self.note_refused(&key.path.source, request, refuse, now);
        let transaction = self.transactions.open_always(key, kind, ServerUse(Some(leg)));
        if let Some(response) = refuse.response(request) {
            self.respond(transaction, &response, now);
        }
    }

    /// When whoever calls may call again (RFC 3261 20.33), while no new calls are taken: not all of
    /// them at one moment.
    pub(super) fn retry_after(&mut self) -> Option<Vec<u8>> {
        let wait = (!self.takes_calls).then(|| self.tokens.scattered(RETRY_AFTER))?;
        Some(wait.as_secs().to_string().into_bytes())
    }

    /// Answers without a transaction (RFC 3261 8.2.7).
    pub(super) fn stateless(&mut self, flow: Flow, response: SipResponse) {
        let tag = self.tokens.stateless_tag(&response.headers);
        let via = response.headers.via_top().ok();
        let path = self.domain.return_path(flow, via.as_ref(), &response.headers);
        self.transmit(path.reply, response.with_to_tag(&tag).to_bytes());
    }
}

/// The first of these credentials that answers a challenge: the header field, and its value.
fn answer_by<'a>(
    mut logins: impl Iterator<Item = &'a mut Credentials>,
    trunk: &str,
    sent: &SentRequest,
    response: &SipResponse,
    cnonce: &str,
) -> Option<(&'static str, String)> {
    let (asks, answers) = match response.status {
        401 => ("WWW-Authenticate", "Authorization"),
        _ => ("Proxy-Authenticate", "Proxy-Authorization"),
    };
    let stale =
        |value: &[u8]| value.to_ascii_lowercase().windows(10).any(|window| window == b"stale=true");
    let challenges: Vec<&[u8]> = response.headers.fields_of(asks).collect();
    if sent.request.headers.has(answers) && !challenges.iter().any(|value| stale(value)) {
        return None;
    }
    let subject = DigestRequest {
        method: sent.request.method.as_bytes(),
        uri: sent.request.uri.as_bytes(),
        body: &sent.request.body,
    };
    let answer = logins.find_map(|login| login.answer(&challenges, trunk, subject, cnonce))?;
    Some((answers, answer))
}
