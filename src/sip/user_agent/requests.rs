//! Requests of peers: which leg each is for, and what those outside any dialog ask.

use super::admission::{ABILITIES, Claim, check_scheme, check_transport, server_key};
use super::caller_identity::passed;
use super::context::Context;
use super::leg::{
    InDialogRequest, Leg, LegPeer, ServerUse, capabilities, check_session, refuse_method, warning,
};
use super::{Output, UserAgent};
use crate::model::{Now, Number};
use crate::sip::config::Trunk;
use crate::sip::dialog::Dialog;
use crate::sip::flow::{Flow, Protocol};
use crate::sip::leg::{LegEvent, LegSource, MAX_FORWARDS};
use crate::sip::message::{
    Headers, Method, Refuse, RefuseReason, Scheme, SipRequest, SipResponse, validate,
};
use crate::sip::registrar::{BindingChange, Genuine, RegisterError};
use crate::sip::sdp::{SdpError, SdpSession};
use crate::sip::transaction::{Arrival, ReceivedVia, ServerKey, TransactionKind};
use std::net::SocketAddr;
use std::time::Duration;

/// Bytes of all header fields together. Nobody honest needs a tenth of it.
const LONGEST_HEAD: usize = 32 * 1024;

impl UserAgent {
    pub(super) fn handle_request(&mut self, flow: Flow, mut request: SipRequest, now: Now) {
        let via = request.headers.stamp_source(flow.peer);
        if request.method == Method::Ack {
            let key = via.and_then(|via| server_key(&request, &via, self.peers.of(&flow)));
            return key.map_or((), |key| self.handle_ack(flow, &key, &request, now));
        }
        let is_short = request.headers.text_len() <= LONGEST_HEAD;
        let sized = is_short.then_some(()).ok_or_else(|| Refuse::new(513));
        let in_dialog = request.headers.to().is_ok_and(|to| to.tag().is_some());
        if let Err(mut refuse) = sized
            .and_then(|()| validate(&request, &ABILITIES))
            .and_then(|()| check_scheme(&request, &flow))
        {
            let may_show = refuse.status != 405;
            // Refused or not, it says which party is there.
            let identified = in_dialog.then(|| {
                self.with_leg_of_request(&flow, &request, may_show, now, |leg, ctx| {
                    leg.identify_by_request(&request.headers, ctx)
                })
            });
            if let Some(Err(unknown)) = identified.filter(|_| !may_show) {
                // RFC 3261 12.2.2: whatever it asks for, the dialog that it asks in is not there.
                refuse = unknown;
            }
            return self.refuse(flow, &request, &refuse, now);
        }
        let key = via.and_then(|via| {
            let key = server_key(&request, &via, self.peers.of(&flow))?;
            let path = self.ctx.domain.return_path(flow, Some(&via), &request.headers);
            Some(ReceivedVia { key, path })
        });
        let Some(key) = key else {
            return self.refuse(flow, &request, &Refuse::new(400), now);
        };
        if self.ctx.transactions.handle_request(&key) == Arrival::Repeated {
            return;
        }
        self.reuse_connection(&flow, &request, now);
        if request.method == Method::Cancel {
            return self.handle_cancel(flow, key, &request, now);
        }
        let refused = match request.method {
            _ if in_dialog => self.handle_in_dialog(flow, key, &request, now),
            Method::Invite => self.handle_invite(flow, key, &request, now),
            Method::Register => self.handle_register(flow, key, &request, now),
            Method::Options => self.handle_options(flow, &request, now),
            Method::Bye | Method::Update | Method::Info | Method::Prack => Err(Refuse::new(481)),
            // To call for a peer outside any dialog invites toll fraud.
            Method::Refer => Err(Refuse::new(403)),
            _ => Err(refuse_method()),
        };
        if let Err(refuse) = refused {
            self.refuse(flow, &request, &refuse, now);
        }
    }

    fn refuse(&mut self, flow: Flow, request: &SipRequest, refuse: &Refuse, now: Now) {
        self.admission.refuse(flow, request, refuse, &mut self.ctx, now);
    }

    /// A trunk that has shown its certificate says that requests to its address may come by this
    /// connection (RFC 5923 8.2).
    fn reuse_connection(&mut self, flow: &Flow, request: &SipRequest, now: Now) {
        let Ok(via) = request.headers.via_top() else {
            return;
        };
        if !flow.protocol.is_secure() || via.params.get("alias").is_none() {
            return;
        }
        let port = via.port.unwrap_or(flow.protocol.default_port());
        let address = SocketAddr::new(flow.peer.ip(), port);
        let names = |trunk: &Trunk| {
            trunk.is_at(Protocol::Tls, address) && self.ctx.certificates.name(trunk, flow)
        };
        if self.config().trunks.iter().any(names) && self.ctx.certificates.alias(flow.connection) {
            self.ctx.outputs.push_back(Output::Alias { flow: *flow, address });
            let alias = Flow { peer: address, ..*flow };
            self.trunk_connections.handle_connected(&alias, &mut self.ctx, now);
        }
    }

    // ---- outside dialogs

    fn handle_options(&mut self, flow: Flow, request: &SipRequest, now: Now) -> Result<(), Refuse> {
        // Whoever belongs here asks whether we are there, by whatever name.
        if !self.ctx.domain.is_ours(&request.uri) && !self.ctx.is_known(&flow, now) {
            return Err(Refuse::new(404));
        }
        if self.admission.may_answer(&flow, &mut self.ctx, now) {
            // RFC 3261 11.2: as an INVITE would be answered.
            let response = match self.ctx.retry_after() {
                Some(wait) => SipResponse::to(request, 503).with("Retry-After", wait),
                None => capabilities(request),
            };
            self.ctx.stateless(flow, response);
        }
        Ok(())
    }

    fn handle_invite(
        &mut self,
        flow: Flow,
        key: ReceivedVia,
        invite: &SipRequest,
        now: Now,
    ) -> Result<(), Refuse> {
        let headers = &invite.headers;
        let max_forwards = match headers.max_forwards() {
            Ok(0) => return Err(Refuse::new(483)),
            Ok(left) => left - 1,
            Err(_) => MAX_FORWARDS,
        };
        check_session(headers, &self.ctx.domain.config)?;
        let replaced = self.legs.replaced(headers)?;
        let returning = self.legs.returning(headers, &self.ctx.tokens);
        if !self.ctx.domain.is_ours(&invite.uri) {
            let status = if returning.is_some() { 482 } else { 404 };
            return Err(Refuse::new(status).because(RefuseReason::OtherHost));
        }
        // A caller that takes a leg's place is told that leg, by its Contact or by any other URI of
        // ours (RFC 3891 3).
        let of_replaced = || replaced.map(|(leg, _)| leg.peer().number().clone());
        let trunk = self.ctx.trunk_at(&flow).map(|trunk| trunk.name.as_str());
        let to = self.ctx.domain.number_called(trunk, invite).or_else(of_replaced);
        let to = to.ok_or(Refuse::new(404).because(RefuseReason::NoNumber))?;
        let source = self.admission.admit(&flow, invite, &mut self.ctx, now)?;
        if let LegSource::Account(device) = &source {
            self.qualification.handle_call_from(device, &flow, &mut self.ctx, now);
        }
        check_offer(&flow, invite, &mut self.ctx)?;
        let trunk_of_source = self.ctx.domain.trunk_of(&source);
        let replaces = replaced
            .map(|(leg, early_only)| leg.check_replaced((&source, trunk_of_source), early_only))
            .transpose()?;
        let expires = headers.expires().ok();
        if expires == Some(0) {
            return Err(Refuse::new(487).because(RefuseReason::Expired));
        }
        let local_tag = self.ctx.tokens.word();
        let dialog = Dialog::incoming(invite, local_tag, flow).map_err(|_| Refuse::new(400))?;
        if dialog.leaks() {
            return Err(Refuse::new(400).because(RefuseReason::NeedsTls));
        }
        let is_secure = dialog.is_secure;
        let id = self.legs.next_id();
        let peer =
            LegPeer::calling(id, (source.clone(), to.clone()), dialog, &key.path, &self.ctx, now);
        let call_id = headers.call_id().unwrap_or_default();
        if self.legs.of_call(call_id).any(|leg| peer.is_merged(leg.peer())) {
            return Err(Refuse::new(482).because(RefuseReason::Merged));
        }
        let (from, claimed) =
            self.ctx.domain.identity(&source, headers, returning.map(|leg| leg.peer().number()));
        let returns = returning.map(Leg::id);
        let has_room = self.legs.len() < self.ctx.domain.config.limits.legs;
        let opened = match has_room && self.admission.may_call(trunk_of_source, now) {
            true => {
                self.ctx.transactions.open(key, TransactionKind::Invite, ServerUse(Some(id))).ok()
            }
            false => None,
        };
        let Some(transaction) = opened else {
            let of = self.ctx.domain.trunk_of(&source).map(str::to_owned);
            self.admission.refuse_overloaded(flow, (invite, of), &mut self.ctx, now);
            return Ok(());
        };
        self.ctx.know(flow);
        self.legs.take_id();
        self.ctx.respond(transaction, &SipResponse::to(invite, 100), now);
        let mut passed = passed(&source, invite, &from, &to);
        passed.extend(self.ctx.domain.reasons(&source, headers));
        let event = LegEvent::Incoming {
            leg: id,
            call_id: String::from_utf8_lossy(call_id).into_owned(),
            passed,
            user_data: self.ctx.domain.user_data(&source, headers),
            from,
            claimed,
            to,
            offer: invite.description().map(<[u8]>::to_vec),
            max_forwards,
            replaces,
            returns,
            source,
            is_secure,
        };
        let mut leg = Leg::incoming(peer, transaction, invite, &mut self.ctx);
        leg.begin(event, expires, &mut self.ctx, now);
        self.legs.insert(leg);
        Ok(())
    }

    fn handle_register(
        &mut self,
        flow: Flow,
        key: ReceivedVia,
        request: &SipRequest,
        now: Now,
    ) -> Result<(), Refuse> {
        let headers = &request.headers;
        let to = headers.to().map_err(|_| Refuse::new(400))?;
        if to.uri.scheme() == Scheme::Other {
            return Err(Refuse::new(400));
        }
        let change = registration(headers, flow.protocol)?;
        let domain = &self.ctx.domain;
        if !domain.is_ours(&request.uri) || !domain.is_ours(&to.uri) {
            return Err(Refuse::new(403).because(RefuseReason::RegistersElsewhere));
        }
        let number = domain.number_of(&to.uri).unwrap_or_else(|| Number::from(""));
        let Some(account) = domain.account_of_number(number.as_str()).cloned() else {
            // Answered as an account that exists: which numbers are ours is nobody's business.
            let claim = Claim::Nobody(number.as_str());
            self.admission.authenticate(&flow, request, claim, &mut self.ctx, now)?;
            return Err(Refuse::new(403));
        };
        let claim = Claim::Account(&account);
        self.admission.authenticate(&flow, request, claim, &mut self.ctx, now)?;
        check_transport(&account, &flow)?;
        let (cseq, _) = headers.cseq().map_err(|_| Refuse::new(400))?;
        let call_id = headers.call_id().map_err(|_| Refuse::new(400))?;
        let device = account.device;
        let was = self.ctx.registrar.lookup(&device, now.mono).is_some();
        let genuine = Genuine {
            call_id,
            cseq,
            challenge: self.admission.answered_challenge(headers, &self.ctx.domain.config),
            path: key.path,
        };
        let registered = self.ctx.registrar.register(&device, change, genuine, now.mono);
        registered.map_err(|error| {
            refuse_registration(error, self.ctx.domain.config.limits.min_expires)
        })?;
        let mut response = SipResponse::to(request, 200).with_to_tag(&self.ctx.tokens.word());
        for binding in self.ctx.registrar.of(&device, now.mono) {
            let left = binding.expires_at.saturating_duration_since(now.mono);
            let contact = [
                b"<",
                binding.contact.as_bytes(),
                format!(">;expires={}", left.as_secs()).as_bytes(),
            ]
            .concat();
            response.headers.push("Contact", contact);
        }
        self.qualification.handle_bindings(&device, &mut self.ctx, now);
        let reply = key.path.reply;
        match self.ctx.transactions.open(key, TransactionKind::Other, ServerUse(None)) {
            Ok(transaction) => self.ctx.respond(transaction, &response, now),
            Err(_) => self.ctx.transmit(reply, response.to_bytes()),
        }
        let is = self.ctx.registrar.lookup(&device, now.mono).is_some();
        if is != was {
            self.ctx.registered(device.clone(), is);
        }
        if let Some(target) = self.ctx.registrar.target_of(&device, &flow, now.mono) {
            self.ctx.know(flow);
            self.follow_phone(&device, target, call_id, now);
        }
        Ok(())
    }

    fn handle_cancel(&mut self, flow: Flow, key: ReceivedVia, cancel: &SipRequest, now: Now) {
        let transactions = &self.ctx.transactions;
        let invite = key.key.with_method(Method::Invite.as_bytes());
        // A phone whose address has changed writes another sent-by: Call-ID and tag say then that
        // it is the same.
        let found = transactions.server(&invite).or_else(|| {
            let like = transactions.of_same_branch(&invite)?;
            transactions.server(&like)
        });
        let Some((invite, ServerUse(Some(id)))) = found else {
            return self.refuse(flow, cancel, &Refuse::new(481), now);
        };
        let answer = |tag: &str, ctx: &mut Context| {
            let response = SipResponse::to(cancel, 200).with_to_tag(tag);
            let (kind, of_no_leg) = (TransactionKind::Other, ServerUse(None));
            let transaction = ctx.transactions.open_always(key, kind, of_no_leg);
            ctx.respond(transaction, &response, now);
        };
        let Some(leg) = self.legs.get_mut(id) else {
            return answer(&self.ctx.tokens.word(), &mut self.ctx);
        };
        if !leg.peer().is_cancelled_by(cancel) {
            return self.refuse(flow, cancel, &Refuse::new(481), now);
        }
        answer(&leg.peer().dialog().local_tag, &mut self.ctx);
        leg.handle_cancel(invite, &mut self.ctx, now);
        if leg.is_over() {
            self.legs.remove(id);
        }
    }

    // ---- within dialogs

    /// Lends the leg that a request belongs to (RFC 3261 12.2.2) to `act`, and drops it if it is
    /// over then; 481 when there is none. From where its peer is, the tags are enough; from
    /// elsewhere a phone has to show its digest (22.1), where it `may_show` one, and a source that
    /// shows none learns nothing.
    fn with_leg_of_request<R>(
        &mut self,
        flow: &Flow,
        request: &SipRequest,
        may_show: bool,
        now: Now,
        act: impl FnOnce(&mut Leg, &mut Context) -> R,
    ) -> Result<R, Refuse> {
        let leg = self.legs.within(&request.headers).ok_or(Refuse::new(481))?;
        if !flow.protocol.is_secure() && leg.peer().needs_tls(&self.ctx) {
            return Err(Refuse::new(481).because(RefuseReason::NeedsTls));
        }
        if !leg.peer().speaks_from(flow, &self.ctx, now.mono) {
            let account = self.ctx.domain.account_of(leg.peer().source());
            let account = account.filter(|_| may_show && request.headers.has("Authorization"));
            let account = account.cloned().ok_or(Refuse::new(481))?;
            let claim = Claim::Account(&account);
            self.admission.authenticate(flow, request, claim, &mut self.ctx, now)?;
        }
        let result = act(leg, &mut self.ctx);
        if leg.is_over() {
            let id = leg.id();
            self.legs.remove(id);
        }
        Ok(result)
    }

    fn handle_in_dialog(
        &mut self,
        flow: Flow,
        via: ReceivedVia,
        request: &SipRequest,
        now: Now,
    ) -> Result<(), Refuse> {
        let referred = match request.method {
            Method::Refer => self.legs.referred_to(&request.headers),
            _ => None,
        };
        let received = InDialogRequest { request, via, referred };
        self.with_leg_of_request(&flow, request, true, now, |leg, ctx| {
            leg.handle_request(received, ctx, now)
        })?
    }

    fn handle_ack(&mut self, flow: Flow, key: &ServerKey, ack: &SipRequest, now: Now) {
        if self.ctx.transactions.handle_ack(key, now.mono) {
            return;
        }
        let handled = self
            .with_leg_of_request(&flow, ack, false, now, |leg, ctx| leg.handle_ack(ack, ctx, now));
        // Of a refusal, from a phone that writes another sent-by than before.
        if handled.is_err()
            && let Some(like) = self.ctx.transactions.of_same_branch(key)
        {
            self.ctx.transactions.handle_ack(&like, now.mono);
        }
    }
}

/// An offer that nobody could use makes no leg.
fn check_offer(flow: &Flow, invite: &SipRequest, ctx: &mut Context) -> Result<(), Refuse> {
    let read = invite.description().map(SdpSession::parse).transpose();
    let Err(fault) = read else { return Ok(()) };
    let call_id = invite.headers.call_id().unwrap_or_default();
    let mut refuse = Refuse::new(SdpError::STATUS);
    refuse.headers.push(("Warning", warning(&fault)));
    ctx.outputs.push_back(Output::Unusable {
        source: flow.peer.ip(),
        call_id: String::from_utf8_lossy(call_id).into_owned(),
        fault,
    });
    Err(refuse)
}

fn refuse_registration(error: RegisterError, min_expires: Duration) -> Refuse {
    match error {
        RegisterError::TooBrief => {
            let mut refuse = Refuse::new(423);
            let min = min_expires.as_secs().to_string();
            refuse.headers.push(("Min-Expires", min.into_bytes()));
            refuse
        }
        RegisterError::OutOfOrder => Refuse::new(500),
        RegisterError::TooMany => Refuse::new(403),
    }
}

/// The longest Contact that may be registered, in bytes: an SBC writes whole routes into its URI
/// parameters.
const LONGEST_CONTACT: usize = 2048;

fn registration(headers: &Headers, protocol: Protocol) -> Result<BindingChange, Refuse> {
    let bad = || Refuse::new(400);
    let expires = headers.expires().ok();
    if headers.get_all("Contact").iter().any(|value| *value == b"*") {
        let alone = headers.contact_is_star() && expires == Some(0);
        return if alone { Ok(BindingChange::RemoveAll) } else { Err(bad()) };
    }
    let contacts = headers.contacts().map_err(|_| bad())?;
    if contacts.is_empty() {
        return Ok(BindingChange::Fetch);
    }
    let mut bind = Vec::new();
    for contact in contacts {
        let fits = match contact.uri.scheme() {
            Scheme::Sip => true,
            // It is called there over TLS, which it has to speak.
            Scheme::Sips => protocol.is_secure(),
            Scheme::Tel | Scheme::Other => false,
        };
        if !fits || contact.uri.as_bytes().len() > LONGEST_CONTACT {
            return Err(bad());
        }
        let own = contact
            .params
            .get("expires")
            .and_then(|value| std::str::from_utf8(value).ok()?.parse::<u32>().ok());
        // RFC 3261 10.3: a value that is no number counts as 3600.
        let seconds = own.or(expires).unwrap_or(3600);
        bind.push((contact.uri, Duration::from_secs(seconds.into())));
    }
    Ok(BindingChange::Bind(bind))
}
