//! Commands, and the responses to what we have sent.

use super::UserAgent;
use super::admission::{ACCEPT, ALLOW, TRAIL};
use super::caller::LONGEST_NAME;
use super::leg::{Calling, ClientUse, Exchange, HangupReason, Leg, LegPhase, LegTimer, QueuedRequest, SentInvite, Way};
use super::reliable::{fork, rseq};
use super::session_timer::min_se;
use crate::model::{Now, Number};
use crate::sip::config::AutoAnswer;
use crate::sip::dialog::Dialog;
use crate::sip::digest::DigestRequest;
use crate::sip::flow::{ConnectionId, Flow, Protocol};
use crate::sip::leg::{Destination, EndReason, Identity, LegCommand, LegEvent, LegId, LegSource, PassedHeader};
use crate::sip::message::{Method, NameAddr, SipRequest, SipResponse, Uri, printable};
use crate::sip::transaction::{ClientKey, ClientTransactionId, Reply, TransactionKind};
use std::sync::Arc;
use std::time::Duration;

/// Authentication, then a longer session interval: no honest peer asks for more.
const MOST_ATTEMPTS: u8 = 3;

/// How often an offer that meets 491 is tried again.
const MOST_GLARES: u8 = 5;

/// No early dialog sees so many.
const PRACKS: u32 = 1000;

/// A refresh that finds something else under way waits so long.
const BUSY: Duration = Duration::from_secs(2);

/// A peer that has said 100 to a re-INVITE has so long for the rest.
const OFFER: Duration = Duration::from_secs(60);

/// The header fields that an INVITE of ours may carry for another.
const PASSED: &[&str] = &["Identity", "Date", "User-to-User", "Session-ID"];

/// A way to a peer and what stands on the envelope.
struct RequestRoute {
    flow: Flow,
    uri: Uri,
    to: NameAddr,
    peer: LegSource,
    auto_answer: Option<AutoAnswer>,
}

impl UserAgent {
    pub(super) fn command(&mut self, command: LegCommand, now: Now) {
        match command {
            LegCommand::Invite {
                leg,
                to,
                from,
                offer,
                auto_answer,
                swallow_digits,
                timeout,
                max_forwards,
                passed,
            } => match self.route(&to, now) {
                Ok(route) if !self.legs.contains_key(&leg) && self.legs.len() < self.config.limits.legs => {
                    self.invite(leg, route, &from, offer, auto_answer, max_forwards, &passed, now);
                    self.timers.set((leg, LegTimer::NoAnswer), now.mono + timeout);
                    if let Some(leg) = self.legs.get_mut(&leg) {
                        leg.swallow_digits = swallow_digits;
                    }
                }
                Ok(_) => self.event(LegEvent::Refused { leg, status: 503 }),
                Err(status) => self.event(LegEvent::Refused { leg, status }),
            },
            LegCommand::Provisional { leg, status, media } => self.provisional(leg, status, media, now),
            LegCommand::Accept { leg, media } => self.accept(leg, media, now),
            LegCommand::Reject { leg, status } => self.answer_incoming(leg, status.clamp(400, 699), now),
            LegCommand::Offer { leg, media } => {
                if let Some(found) = self.legs.get_mut(&leg) {
                    found.queued = Some(QueuedRequest { media, glares: 0 });
                    self.send_queued(leg, now);
                }
            }
            LegCommand::AnswerOffer { leg, media } => self.answer_offer(leg, media, now),
            LegCommand::RejectOffer { leg, status } => {
                self.drop_offer(leg, status.clamp(400, 699), now);
                self.send_queued(leg, now);
            }
            LegCommand::RefuseOffer { leg, fault } => {
                self.refuse_offer(leg, &fault, now);
                self.send_queued(leg, now);
            }
            LegCommand::AskToAnswer { leg } => self.ask_to_answer(leg, now),
            LegCommand::TellReferrer { leg, status } => self.tell_referrer(leg, status, now),
            LegCommand::Hangup { leg, reason } => self.hangup(leg, reason, now),
        }
    }

    fn route(&self, to: &Destination, now: Now) -> Result<RequestRoute, u16> {
        match to {
            Destination::Device(device) => {
                let account = self.config.account(device).ok_or(480u16)?;
                let binding = self.registrar.lookup(device, now.mono).ok_or(480u16)?;
                let host = self.via_host(&binding.target);
                let to = Uri::sip(Some(account.number.as_str().as_bytes()), &host, None).map_err(|_| 480u16)?;
                Ok(RequestRoute {
                    flow: binding.target,
                    uri: binding.contact.clone(),
                    to: NameAddr::new(to),
                    peer: LegSource::Account(device.clone()),
                    auto_answer: Some(account.auto_answer),
                })
            }
            Destination::Trunk { name, number } => {
                let trunk = self.config.trunk(name).ok_or(503u16)?;
                let peer = trunk.address.ok_or(503u16)?;
                let fits = |(protocol, local): &&(Protocol, std::net::SocketAddr)| {
                    *protocol == trunk.protocol && local.is_ipv4() == peer.is_ipv4()
                };
                let (protocol, local) = *self.locals.iter().find(fits).ok_or(503u16)?;
                let host = trunk.target.strip_suffix(&format!(":{}", peer.port())).unwrap_or(&trunk.target);
                let port = (peer.port() != 5060).then_some(peer.port());
                let to = Uri::sip(Some(number.as_str().as_bytes()), host, port).map_err(|_| 404u16)?;
                let uri = match protocol {
                    Protocol::Udp => to.clone(),
                    Protocol::Tcp => to.with_param("transport", Some("tcp")).map_err(|_| 404u16)?,
                };
                Ok(RequestRoute {
                    flow: Flow {
                        protocol,
                        local,
                        peer,
                        connection: ConnectionId::NONE,
                    },
                    uri,
                    to: NameAddr::new(to),
                    peer: LegSource::Trunk(name.clone()),
                    auto_answer: None,
                })
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the command's fields")]
    fn invite(
        &mut self,
        leg: LegId,
        route: RequestRoute,
        from: &Identity,
        offer: Vec<u8>,
        auto_answer: bool,
        max_forwards: u8,
        passed: &[PassedHeader],
        now: Now,
    ) {
        let RequestRoute {
            flow,
            uri,
            to,
            peer,
            auto_answer: style,
        } = route;
        let host = self.via_host(&flow);
        // RFC 3323 4.1.1.3: the host is not ours either, so that nobody takes it for a number here.
        let shown_at = if from.is_withheld() { "anonymous.invalid" } else { host.as_str() };
        let Ok(own) = Uri::sip(Some(from.number.as_str().as_bytes()), shown_at, None) else {
            return self.event(LegEvent::Refused { leg, status: 404 });
        };
        let mut local = NameAddr::new(own);
        let display = match from.display.as_str() {
            "" if from.is_withheld() => "Anonymous",
            display => display,
        };
        local.display = printable(display.as_bytes(), LONGEST_NAME).into_bytes();
        let call_id = format!("{}{}@{host}", self.chance.word(), self.chance.word());
        let tag = self.chance.word();
        let mut dialog = Dialog::outgoing(call_id, local, tag, to, uri, flow);
        let session = self.first_session();
        let mut request = dialog.request(Method::Invite);
        request.headers.set("Max-Forwards", max_forwards.to_string());
        self.write_common(&mut request, &flow, &from.number);
        request.headers.set("Supported", "timer, 100rel");
        request.headers.push(TRAIL, self.chance.token(leg));
        if from.is_withheld() {
            request.headers.push("Privacy", "id");
        }
        Self::write_session_request(&session, &mut request);
        if let (true, Some(style)) = (auto_answer, style) {
            write_auto_answer(&mut request, style, &host);
        }
        let vouched = passed.iter().any(|header| header.name == "Identity") && passed.iter().any(|header| header.name == "Date");
        for header in passed.iter().filter(|header| PASSED.contains(&header.name)) {
            if vouched || !matches!(header.name, "Identity" | "Date") {
                request.headers.push(header.name, &header.value);
            }
        }
        let request = request.with_body("application/sdp", offer.clone());
        let sent = self.sent(request, flow, 0);
        let transaction = self.send(TransactionKind::Invite, ClientUse::Invite(leg, sent.clone()), &sent, now);
        let calling = Calling {
            transaction,
            sent,
            provisional: false,
            cancelled: false,
            forks: Vec::new(),
        };
        let way = match &peer {
            LegSource::Account(_) => Way::Registered,
            LegSource::Trunk(_) => Way::Own,
        };
        self.add_leg(
            leg,
            Leg {
                way,
                peer,
                number: from.number.clone(),
                dialog,
                state: LegPhase::Calling(calling),
                exchange: Exchange::Idle,
                unacknowledged: None,
                queued: None,
                session,
                local_media: offer,
                remote_media: Vec::new(),
                located: None,
                swallow_digits: false,
                referrer: None,
                reliable: None,
                named_early: Vec::new(),
                from_moved: false,
            },
        );
    }

    fn write_common(&self, request: &mut SipRequest, flow: &Flow, number: &Number) {
        request.headers.push("Contact", self.contact(flow, number));
        request.headers.push("Allow", ALLOW);
        request.headers.push("Accept", ACCEPT);
        request.headers.push("Supported", "timer");
        request.headers.push("User-Agent", &self.config.product);
    }

    /// Puts a Via on a request and keeps it.
    pub(super) fn sent(&mut self, mut request: SipRequest, flow: Flow, attempts: u8) -> Arc<SentInvite> {
        let branch = self.stamp(&mut request, &flow);
        let cseq = request.headers.cseq().map(|(cseq, _)| cseq).unwrap_or_default();
        Arc::new(SentInvite {
            request,
            flow,
            branch,
            cseq,
            attempts,
        })
    }

    pub(super) fn send(&mut self, kind: TransactionKind, client: ClientUse, sent: &SentInvite, now: Now) -> ClientTransactionId {
        let key = ClientKey {
            branch: sent.branch.clone(),
            method: sent.request.method.as_bytes().to_vec(),
        };
        self.transactions
            .request(key, kind, sent.flow, sent.request.to_bytes(), client, now.mono)
    }

    fn ask_to_answer(&mut self, leg_key: LegId, now: Now) {
        let Some(leg) = self.legs.get_mut(&leg_key) else { return };
        if !matches!(leg.state, LegPhase::Calling(_)) {
            return;
        }
        if leg.dialog.remote_tag.is_none() {
            return self.talk_refused(leg_key, 480);
        }
        let (flow, number) = (leg.dialog.flow, leg.number.clone());
        let notify = leg.dialog.request(Method::Notify);
        let mut notify = notify.with("Event", "talk").with("Subscription-State", "active");
        notify.headers.push("Contact", self.contact(&flow, &number));
        let sent = self.sent(notify, flow, 0);
        self.send(TransactionKind::Other, ClientUse::Talk(leg_key), &sent, now);
    }

    fn talk_refused(&mut self, leg: LegId, status: u16) {
        if self.legs.get(&leg).is_some_and(|leg| matches!(leg.state, LegPhase::Calling(_))) {
            self.event(LegEvent::AskToAnswerRefused { leg, status });
        }
    }

    pub(super) fn hangup(&mut self, leg_key: LegId, reason: HangupReason, now: Now) {
        let Some(leg) = self.legs.get_mut(&leg_key) else { return };
        match &leg.state {
            LegPhase::Incoming(_) => {
                let status = reason.map_or(480, |(status, _)| status);
                self.answer_incoming(leg_key, if (400..=699).contains(&status) { status } else { 480 }, now);
            }
            LegPhase::Calling(calling) => {
                let calling = calling.clone();
                leg.state = LegPhase::Cancelling(calling, reason);
                self.timers.clear(&(leg_key, LegTimer::NoAnswer));
                self.cancel_if_heard(leg_key, now);
            }
            LegPhase::Confirmed => {
                self.drop_offer(leg_key, 487, now);
                self.send_bye(leg_key, reason, now);
            }
            LegPhase::Cancelling(..) | LegPhase::ByePending(_) | LegPhase::ByeSent => {}
        }
    }

    /// CANCEL waits for a provisional response (RFC 3261 9.1).
    fn cancel_if_heard(&mut self, leg_key: LegId, now: Now) {
        let Some(leg) = self.legs.get_mut(&leg_key) else { return };
        let LegPhase::Cancelling(calling, reason) = &mut leg.state else {
            return;
        };
        if !calling.provisional || calling.cancelled {
            return;
        }
        calling.cancelled = true;
        let (sent, reason) = (calling.sent.clone(), *reason);
        let invite = &sent.request;
        let mut cancel = SipRequest::new(Method::Cancel, invite.uri.clone());
        copy(&["Via", "Max-Forwards", "From", "To", "Call-ID", "Route"], invite, &mut cancel);
        cancel.headers.push("CSeq", format!("{} CANCEL", sent.cseq));
        write_reason(&mut cancel, reason);
        let key = ClientKey {
            branch: sent.branch.clone(),
            method: b"CANCEL".to_vec(),
        };
        self.transactions.request(
            key,
            TransactionKind::Other,
            sent.flow,
            cancel.to_bytes(),
            ClientUse::Other,
            now.mono,
        );
        self.timers
            .set((leg_key, LegTimer::Cancelled), now.mono + self.config.timing.give_up());
    }

    /// BYE now, or after the ACK that we still wait for.
    pub(super) fn send_bye(&mut self, leg_key: LegId, reason: HangupReason, now: Now) {
        let Some(leg) = self.legs.get_mut(&leg_key) else { return };
        leg.queued = None;
        let lost = leg.way == Way::Lost;
        if leg.unacknowledged.is_some() || lost {
            leg.state = LegPhase::ByePending(reason);
            for timer in [LegTimer::Refresh, LegTimer::Expire, LegTimer::Glare] {
                self.timers.clear(&(leg_key, timer));
            }
            if lost {
                self.wait_for_phone(leg_key, now);
            }
            return;
        }
        leg.state = LegPhase::ByeSent;
        if let Exchange::Ours { transaction, .. } = leg.exchange {
            self.transactions.abandon_later(transaction, now.mono);
        }
        let flow = leg.dialog.flow;
        let mut bye = leg.dialog.request(Method::Bye);
        write_reason(&mut bye, reason);
        self.stop_timers(leg_key);
        let sent = self.sent(bye, flow, 0);
        self.send(TransactionKind::Other, ClientUse::Bye(leg_key, sent.clone()), &sent, now);
    }

    /// Sends the offer that waits, if nothing forbids it.
    pub(super) fn send_queued(&mut self, leg_key: LegId, now: Now) {
        let Some(leg) = self.legs.get_mut(&leg_key) else { return };
        let free = matches!((&leg.state, &leg.exchange), (LegPhase::Confirmed, Exchange::Idle)) && leg.unacknowledged.is_none();
        if !free || self.timers.is_set(&(leg_key, LegTimer::Glare)) {
            return;
        }
        if leg.way == Way::Lost && leg.queued.is_some() {
            return self.wait_for_phone(leg_key, now);
        }
        let Some(QueuedRequest { media, glares }) = leg.queued.take() else {
            return;
        };
        self.offer(leg_key, media, false, glares, now);
    }

    fn offer(&mut self, leg_key: LegId, media: Vec<u8>, refresh: bool, glares: u8, now: Now) {
        let Some(leg) = self.legs.get_mut(&leg_key) else { return };
        let (flow, session, number) = (leg.dialog.flow, leg.session, leg.number.clone());
        let mut request = leg.dialog.request(Method::Invite);
        self.write_common(&mut request, &flow, &number);
        Self::write_session_request(&session, &mut request);
        let sent = self.sent(request.with_body("application/sdp", media.clone()), flow, 0);
        let transaction = self.send(TransactionKind::Invite, ClientUse::Reinvite(leg_key, sent.clone()), &sent, now);
        self.timers.set((leg_key, LegTimer::Offer), now.mono + OFFER);
        if let Some(leg) = self.legs.get_mut(&leg_key) {
            leg.exchange = Exchange::Ours {
                transaction,
                media,
                refresh,
                glares,
            };
        }
    }

    fn refresh(&mut self, leg_key: LegId, now: Now) {
        let Some(leg) = self.legs.get_mut(&leg_key) else { return };
        let free = matches!((&leg.state, &leg.exchange), (LegPhase::Confirmed, Exchange::Idle)) && leg.unacknowledged.is_none();
        if !free {
            self.timers.set((leg_key, LegTimer::Refresh), now.mono + BUSY);
            return;
        }
        if leg.way == Way::Lost {
            self.timers.set((leg_key, LegTimer::Refresh), now.mono + BUSY);
            return self.wait_for_phone(leg_key, now);
        }
        if !leg.dialog.allows_update {
            let media = leg.local_media.clone();
            return self.offer(leg_key, media, true, 0, now);
        }
        let (flow, session, number) = (leg.dialog.flow, leg.session, leg.number.clone());
        let mut update = leg.dialog.request(Method::Update);
        self.write_common(&mut update, &flow, &number);
        Self::write_session_request(&session, &mut update);
        let sent = self.sent(update, flow, 0);
        self.send(TransactionKind::Other, ClientUse::Update(leg_key, sent.clone()), &sent, now);
    }

    // ---- timers

    pub(super) fn handle_leg_timer(&mut self, leg_key: LegId, timer: LegTimer, now: Now) {
        match timer {
            LegTimer::Ringing | LegTimer::Stale => {
                let status = if timer == LegTimer::Stale { 487 } else { 480 };
                self.answer_incoming(leg_key, status, now);
                self.event(LegEvent::Ended {
                    leg: leg_key,
                    reason: EndReason::Expired,
                });
            }
            LegTimer::Remind => self.remind(leg_key, now),
            LegTimer::Reliable => self.repeat_reliable(leg_key, now),
            LegTimer::NoAnswer => {
                let heard = |leg: &Leg| matches!(&leg.state, LegPhase::Calling(calling) if calling.provisional);
                let status = if self.legs.get(&leg_key).is_some_and(heard) { 408 } else { 503 };
                self.hangup(leg_key, None, now);
                self.event(LegEvent::Refused { leg: leg_key, status });
            }
            LegTimer::Cancelled => {
                if let Some(Leg {
                    state: LegPhase::Cancelling(calling, _),
                    ..
                }) = self.legs.get(&leg_key)
                {
                    self.transactions.abandon(calling.transaction);
                    self.remove_leg(leg_key);
                }
            }
            LegTimer::Accepted => self.repeat_accepted(leg_key, now),
            LegTimer::Refresh => self.refresh(leg_key, now),
            LegTimer::Expire => self.expire(leg_key, now),
            LegTimer::Offer => self.expire(leg_key, now),
            LegTimer::Theirs => {
                self.drop_offer(leg_key, 500, now);
                self.send_queued(leg_key, now);
            }
            LegTimer::Glare => self.send_queued(leg_key, now),
            LegTimer::Lost => match self.legs.get(&leg_key).map(|leg| &leg.state) {
                Some(LegPhase::ByePending(_)) => self.remove_leg(leg_key),
                _ => self.expire(leg_key, now),
            },
        }
    }

    /// The peer is no longer there, or no longer knows the call.
    fn expire(&mut self, leg_key: LegId, now: Now) {
        let Some(leg) = self.legs.get(&leg_key) else { return };
        if !matches!(leg.state, LegPhase::Confirmed) {
            return;
        }
        self.drop_offer(leg_key, 487, now);
        self.send_bye(leg_key, None, now);
        self.event(LegEvent::Ended {
            leg: leg_key,
            reason: EndReason::Expired,
        });
    }

    // ---- responses

    pub(super) fn handle_response(&mut self, flow: Flow, response: &SipResponse, now: Now) {
        let headers = &response.headers;
        let (Ok(via), Ok((_, method))) = (headers.via_top(), headers.cseq()) else {
            return;
        };
        let key = ClientKey {
            branch: via.branch().unwrap_or_default().to_vec(),
            method: method.as_bytes().to_vec(),
        };
        let to_tag = tag_of(response);
        let waits = self.transactions.client(&key);
        if !waits.is_some_and(|(client, sent_to)| self.may_answer(client, sent_to, &flow, now.mono)) {
            return;
        }
        match self.transactions.handle_response(&key, response.status, &to_tag, now.mono) {
            Reply::Absorbed => {}
            Reply::Refused(id, client) => {
                if let ClientUse::Invite(_, sent) | ClientUse::Reinvite(_, sent) = &client {
                    let ack = refusal_ack(sent, response);
                    self.transactions.acknowledge(id, &to_tag, sent.flow, ack.to_bytes());
                }
                self.handle_reply(id, client, response, now);
            }
            Reply::Pass(id, client) => self.handle_reply(id, client, response, now),
        }
    }

    fn handle_reply(&mut self, id: ClientTransactionId, client: ClientUse, response: &SipResponse, now: Now) {
        match (client, response.status) {
            (ClientUse::Invite(leg, _), ..200) => self.handle_progress(leg, response, now),
            (ClientUse::Invite(leg, sent), 200..300) => self.handle_answered(id, leg, &sent, response, now),
            (ClientUse::Invite(leg, sent), _) => self.handle_refused(leg, &sent, response, now),
            (ClientUse::Reinvite(..), ..200) => {}
            (ClientUse::Reinvite(leg, sent), 200..300) => self.handle_offer_answered(id, leg, &sent, response, now),
            (ClientUse::Reinvite(leg, sent), _) => self.handle_offer_refused(leg, &sent, response, now),
            (ClientUse::Update(leg, sent), _) => self.handle_updated(leg, &sent, response, now),
            (ClientUse::Bye(leg, sent), 401 | 407) => {
                if !self.send_again(TransactionKind::Other, leg, &sent, response, ClientUse::Bye, now) {
                    self.note_refusal_of(&sent, response.status, &response.reason, Some(&response.headers), now);
                    self.remove_leg(leg);
                }
            }
            (ClientUse::Bye(leg, _), _) => self.remove_leg(leg),
            (ClientUse::Prack(leg, sent), 401 | 407) => {
                self.send_again(TransactionKind::Other, leg, &sent, response, ClientUse::Prack, now);
            }
            (ClientUse::Qualify(phone), _) => self.has_answered(&phone, now),
            (ClientUse::Talk(leg), 300..) => self.talk_refused(leg, response.status),
            (ClientUse::Talk(_) | ClientUse::Prack(..) | ClientUse::Other, _) => {}
        }
    }

    /// No response came (408), or the transport failed (503). To an INVITE both are the same: nobody is there.
    pub(super) fn handle_failure(&mut self, client: ClientUse, status: u16, now: Now) {
        match client {
            ClientUse::Invite(leg_key, sent) => {
                let told = self.legs.get(&leg_key).is_some_and(|leg| matches!(leg.state, LegPhase::Calling(_)));
                self.has_not_been_found(leg_key, now);
                self.remove_leg(leg_key);
                if told {
                    let reason = if status == 408 { "no response" } else { "cannot be reached" };
                    self.note_refusal_of(&sent, status, reason.as_bytes(), None, now);
                    self.event(LegEvent::Refused { leg: leg_key, status: 503 });
                }
            }
            ClientUse::Reinvite(leg_key, sent) | ClientUse::Update(leg_key, sent) if self.has_moved(leg_key, &sent) => {
                self.say_again(leg_key, sent.request.method == Method::Update, now);
            }
            ClientUse::Reinvite(leg_key, _) | ClientUse::Update(leg_key, _) => {
                if let Some(leg) = self.legs.get_mut(&leg_key)
                    && matches!(leg.exchange, Exchange::Ours { .. })
                {
                    leg.exchange = Exchange::Idle;
                }
                self.expire(leg_key, now);
            }
            ClientUse::Bye(leg_key, sent) if self.has_moved(leg_key, &sent) => self.send_bye(leg_key, None, now),
            ClientUse::Bye(leg_key, _) => self.remove_leg(leg_key),
            ClientUse::Talk(leg_key) => self.talk_refused(leg_key, status),
            ClientUse::Qualify(phone) => self.has_not_answered(&phone, now),
            // The call is not lost with it: its INVITE still waits for an answer.
            ClientUse::Prack(..) | ClientUse::Other => {}
        }
    }

    /// A request went a way that its leg has left since: its failure says nothing about the peer.
    fn has_moved(&self, leg_key: LegId, sent: &SentInvite) -> bool {
        let leg = self.legs.get(&leg_key);
        leg.is_some_and(|leg| leg.way == Way::Lost || leg.dialog.flow != sent.flow)
    }

    /// Our UPDATE or re-INVITE was lost with its way: once more by the new one, or when there is one.
    fn say_again(&mut self, leg_key: LegId, update: bool, now: Now) {
        let Some(leg) = self.legs.get_mut(&leg_key) else { return };
        if !matches!(leg.state, LegPhase::Confirmed) {
            return;
        }
        if update {
            return self.refresh(leg_key, now);
        }
        let exchange = std::mem::replace(&mut leg.exchange, Exchange::Idle);
        let Exchange::Ours {
            media, refresh, glares, ..
        } = exchange
        else {
            leg.exchange = exchange;
            return;
        };
        self.timers.clear(&(leg_key, LegTimer::Offer));
        if refresh {
            return self.refresh(leg_key, now);
        }
        leg.queued.get_or_insert(QueuedRequest { media, glares });
        self.send_queued(leg_key, now);
    }

    fn handle_progress(&mut self, leg_key: LegId, response: &SipResponse, now: Now) {
        let Some(leg) = self.legs.get_mut(&leg_key) else { return };
        match &mut leg.state {
            LegPhase::Calling(calling) => {
                calling.provisional = true;
                if response.status == 100 {
                    return;
                }
                let (rseq, cseq) = (rseq(response), calling.sent.cseq);
                let mut media = response.description().map(<[u8]>::to_vec);
                let heard = fork(&mut calling.forks, &tag_of(response)).is_some_and(|fork| fork.hear(rseq, &mut media));
                if !heard {
                    return;
                }
                leg.dialog.handle_response(response);
                self.aim(leg_key);
                self.note_early_identity(leg_key, &response.headers);
                if let Some(rseq) = rseq {
                    self.send_prack(leg_key, rseq, cseq, now);
                }
                self.event(LegEvent::Progress {
                    leg: leg_key,
                    status: response.status,
                    media,
                });
            }
            LegPhase::Cancelling(calling, _) => {
                calling.provisional = true;
                self.cancel_if_heard(leg_key, now);
            }
            LegPhase::Incoming(_) | LegPhase::Confirmed | LegPhase::ByePending(_) | LegPhase::ByeSent => {}
        }
    }

    fn handle_answered(&mut self, id: ClientTransactionId, leg_key: LegId, sent: &Arc<SentInvite>, response: &SipResponse, now: Now) {
        let known = self.legs.get_mut(&leg_key);
        let Some(leg) = known.filter(|leg| matches!(leg.state, LegPhase::Calling(_) | LegPhase::Cancelling(..))) else {
            return self.refuse_fork(id, sent, response, now);
        };
        leg.dialog.handle_response(response);
        self.aim(leg_key);
        let Some(leg) = self.legs.get_mut(&leg_key) else { return };
        let dialog = leg.dialog.clone();
        let is_readable = response.headers.contacts().is_ok();
        let (wanted, reason, forks) = match &mut leg.state {
            LegPhase::Calling(calling) => (true, None, Some(&mut calling.forks)),
            LegPhase::Cancelling(_, reason) => (false, *reason, None),
            LegPhase::Incoming(_) | LegPhase::Confirmed | LegPhase::ByePending(_) | LegPhase::ByeSent => (false, None, None),
        };
        // The one that answers: what the others have described is not its answer.
        let answering = forks.and_then(|forks| fork(forks, &tag_of(response)).cloned());
        let media = response.description().map(<[u8]>::to_vec);
        let media = match answering {
            Some(answering) => answering.answer(media),
            None => media,
        };
        let session = leg.session;
        self.acknowledge(id, &dialog, sent, response);
        let session = self.agreed(session, &response.headers);
        let Some(leg) = self.legs.get_mut(&leg_key) else { return };
        leg.session = session;
        leg.state = LegPhase::Confirmed;
        match media {
            // Where its phone is nobody knows: what was said in the call would not arrive.
            _ if wanted && !is_readable => {
                self.note_refusal_of(sent, response.status, b"the Contact of its answer cannot be read", None, now);
                self.send_bye(leg_key, Some((502, "Contact cannot be read")), now);
                self.event(LegEvent::Refused { leg: leg_key, status: 502 });
            }
            Some(media) if wanted => {
                leg.remote_media = media.clone();
                self.stop_timers(leg_key);
                self.restart_session(leg_key, now);
                self.identify_by_response(leg_key, &response.headers);
                self.event(LegEvent::Answered { leg: leg_key, media });
                self.send_queued(leg_key, now);
            }
            // A 2xx without a description is no call.
            None if wanted => {
                self.note_refusal_of(sent, response.status, b"no session description in its answer", None, now);
                self.send_bye(leg_key, Some((488, "No answer to the offer")), now);
                self.event(LegEvent::Refused { leg: leg_key, status: 488 });
            }
            // The CANCEL and the 2xx have crossed.
            _ => self.send_bye(leg_key, reason, now),
        }
    }

    /// A 2xx of a fork that comes too late, or for a leg that is gone: taken and ended at once (RFC 3261 13.2.2.4).
    fn refuse_fork(&mut self, id: ClientTransactionId, sent: &Arc<SentInvite>, response: &SipResponse, now: Now) {
        let headers = &sent.request.headers;
        let (Ok(local), Ok(to), Ok(call_id)) = (headers.from(), headers.to(), headers.call_id()) else {
            return;
        };
        let call_id = String::from_utf8_lossy(call_id).into_owned();
        let tag = String::from_utf8_lossy(local.tag().unwrap_or_default()).into_owned();
        let mut dialog = Dialog::outgoing(call_id, local, tag, to, sent.request.uri.clone(), sent.flow);
        // Above whatever its PRACKs have had.
        dialog.local_cseq = sent.cseq + PRACKS;
        dialog.handle_response(response);
        self.acknowledge(id, &dialog, sent, response);
        let bye = dialog.request(Method::Bye);
        let sent = self.sent(bye, dialog.flow, 0);
        self.send(TransactionKind::Other, ClientUse::Other, &sent, now);
    }

    /// The ACK of a 2xx: a transaction of its own, with the credentials of its INVITE.
    fn acknowledge(&mut self, id: ClientTransactionId, dialog: &Dialog, sent: &SentInvite, response: &SipResponse) {
        let mut ack = dialog.ack(sent.cseq);
        copy(&["Authorization", "Proxy-Authorization"], &sent.request, &mut ack);
        self.stamp(&mut ack, &dialog.flow);
        self.transactions.acknowledge(id, &tag_of(response), dialog.flow, ack.to_bytes());
    }

    fn handle_refused(&mut self, leg_key: LegId, sent: &Arc<SentInvite>, response: &SipResponse, now: Now) {
        let Some(leg) = self.legs.get(&leg_key) else { return };
        match leg.state {
            LegPhase::Calling(_) => {}
            LegPhase::Cancelling(..) => return self.remove_leg(leg_key),
            LegPhase::Incoming(_) | LegPhase::Confirmed | LegPhase::ByePending(_) | LegPhase::ByeSent => return,
        }
        if self.send_again(TransactionKind::Invite, leg_key, sent, response, ClientUse::Invite, now) {
            return;
        }
        self.note_refusal_of(sent, response.status, &response.reason, Some(&response.headers), now);
        let to = self.redirected_to(leg_key, response);
        self.remove_leg(leg_key);
        let status = response.status;
        self.event(match to.is_empty() {
            true => LegEvent::Refused { leg: leg_key, status },
            false => LegEvent::Redirected { leg: leg_key, status, to },
        });
    }

    /// Sends a refused request once more: with an answer to the challenge, or with a longer interval.
    fn send_again(
        &mut self,
        kind: TransactionKind,
        leg_key: LegId,
        sent: &Arc<SentInvite>,
        response: &SipResponse,
        client: impl FnOnce(LegId, Arc<SentInvite>) -> ClientUse,
        now: Now,
    ) -> bool {
        if sent.attempts >= MOST_ATTEMPTS {
            return false;
        }
        let mut request = sent.request.clone();
        match response.status {
            401 | 407 => {
                let Some((name, answer)) = self.answer_challenge(leg_key, sent, response) else {
                    return false;
                };
                request.headers.set(name, answer);
            }
            422 => {
                let Some(min) = min_se(&response.headers) else { return false };
                let Some(leg) = self.legs.get_mut(&leg_key) else { return false };
                leg.session.min = leg.session.min.max(min);
                leg.session.interval = leg.session.interval.max(min);
                let session = leg.session;
                for name in ["Session-Expires", "Min-SE"] {
                    request.headers.remove(name);
                }
                Self::write_session_request(&session, &mut request);
            }
            _ => return false,
        }
        let Some(leg) = self.legs.get_mut(&leg_key) else { return false };
        leg.dialog.local_cseq += 1;
        let cseq = format!("{} {}", leg.dialog.local_cseq, request.method);
        request.headers.set("CSeq", cseq);
        let again = self.sent(request, sent.flow, sent.attempts + 1);
        let transaction = self.send(kind, client(leg_key, again.clone()), &again, now);
        let Some(leg) = self.legs.get_mut(&leg_key) else { return true };
        if let (TransactionKind::Invite, LegPhase::Calling(calling)) = (kind, &mut leg.state) {
            calling.transaction = transaction;
            calling.sent = again;
            calling.provisional = false;
        } else if let (TransactionKind::Invite, Exchange::Ours { transaction: ours, .. }) = (kind, &mut leg.exchange) {
            *ours = transaction;
        }
        true
    }

    /// An answer to a challenge of a trunk that we have a login for, once for each request: a second challenge means it was wrong.
    fn answer_challenge(&mut self, leg_key: LegId, sent: &SentInvite, response: &SipResponse) -> Option<(&'static str, String)> {
        let (asks, answers) = match response.status {
            401 => ("WWW-Authenticate", "Authorization"),
            _ => ("Proxy-Authenticate", "Proxy-Authorization"),
        };
        let LegSource::Trunk(name) = &self.legs.get(&leg_key)?.peer else {
            return None;
        };
        let name = name.clone();
        let stale = |value: &[u8]| value.to_ascii_lowercase().windows(10).any(|window| window == b"stale=true");
        let challenges: Vec<&[u8]> = response.headers.fields_of(asks).collect();
        if sent.request.headers.has(answers) && !challenges.iter().any(|value| stale(value)) {
            return None;
        }
        let subject = DigestRequest {
            method: sent.request.method.as_bytes(),
            uri: sent.request.uri.as_bytes(),
            body: &sent.request.body,
        };
        let cnonce = self.chance.word();
        let answer = self.logins.get_mut(&name)?.answer(&challenges, &name, subject, &cnonce)?;
        Some((answers, answer))
    }

    fn handle_offer_answered(&mut self, id: ClientTransactionId, leg_key: LegId, sent: &Arc<SentInvite>, response: &SipResponse, now: Now) {
        let Some(leg) = self.legs.get_mut(&leg_key) else { return };
        leg.dialog.refresh(&response.headers.contacts().unwrap_or_default());
        self.aim(leg_key);
        let Some(leg) = self.legs.get(&leg_key) else { return };
        let (dialog, session) = (leg.dialog.clone(), leg.session);
        self.acknowledge(id, &dialog, sent, response);
        let session = self.agreed(session, &response.headers);
        let Some(leg) = self.legs.get_mut(&leg_key) else { return };
        if !matches!(leg.state, LegPhase::Confirmed) {
            return;
        }
        let Exchange::Ours { media, refresh, .. } = std::mem::replace(&mut leg.exchange, Exchange::Idle) else {
            return;
        };
        self.timers.clear(&(leg_key, LegTimer::Offer));
        leg.session = session;
        leg.local_media = media;
        self.restart_session(leg_key, now);
        self.identify_by_response(leg_key, &response.headers);
        let Some(leg) = self.legs.get_mut(&leg_key) else { return };
        match response.description().map(<[u8]>::to_vec) {
            Some(media) if refresh && media == leg.remote_media => {}
            Some(media) => {
                leg.remote_media = media.clone();
                self.event(LegEvent::OfferAnswered { leg: leg_key, media });
            }
            None if refresh => {}
            None => self.event(LegEvent::OfferRefused { leg: leg_key, status: 488 }),
        }
        self.send_queued(leg_key, now);
    }

    fn handle_offer_refused(&mut self, leg_key: LegId, sent: &Arc<SentInvite>, response: &SipResponse, now: Now) {
        let Some(leg) = self.legs.get(&leg_key) else { return };
        if !matches!(leg.state, LegPhase::Confirmed) {
            return;
        }
        if self.send_again(TransactionKind::Invite, leg_key, sent, response, ClientUse::Reinvite, now) {
            return;
        }
        let Some(leg) = self.legs.get_mut(&leg_key) else { return };
        let Exchange::Ours {
            media, refresh, glares, ..
        } = std::mem::replace(&mut leg.exchange, Exchange::Idle)
        else {
            return;
        };
        self.timers.clear(&(leg_key, LegTimer::Offer));
        match response.status {
            408 | 481 => self.expire(leg_key, now),
            491 if refresh => self.timers.set((leg_key, LegTimer::Refresh), now.mono + BUSY),
            491 if glares < MOST_GLARES => {
                leg.queued.get_or_insert(QueuedRequest { media, glares: glares + 1 });
                let wait = self.glare_wait(leg_key);
                self.timers.set((leg_key, LegTimer::Glare), now.mono + wait);
            }
            // The peer is alive and keeps the session as it is: the refresh itself has failed, not the call.
            _ if refresh => self.restart_session(leg_key, now),
            status => {
                self.event(LegEvent::OfferRefused { leg: leg_key, status });
                self.send_queued(leg_key, now);
            }
        }
    }

    /// RFC 3261 14.1: whoever made the Call-ID waits longer.
    fn glare_wait(&mut self, leg_key: LegId) -> Duration {
        let ours = leg_key.0 % 2 == 1;
        let tens = if ours {
            210 + self.chance.below(190)
        } else {
            self.chance.below(200)
        };
        Duration::from_millis(tens * 10)
    }

    fn handle_updated(&mut self, leg_key: LegId, sent: &Arc<SentInvite>, response: &SipResponse, now: Now) {
        let Some(leg) = self.legs.get_mut(&leg_key) else { return };
        if !matches!(leg.state, LegPhase::Confirmed) {
            return;
        }
        match response.status {
            ..200 => {}
            200..300 => {
                leg.dialog.refresh(&response.headers.contacts().unwrap_or_default());
                let before = leg.session;
                let session = self.agreed(before, &response.headers);
                if let Some(leg) = self.legs.get_mut(&leg_key) {
                    leg.session = session;
                }
                self.restart_session(leg_key, now);
                self.identify_by_response(leg_key, &response.headers);
            }
            408 | 481 => self.expire(leg_key, now),
            405 | 501 => {
                leg.dialog.allows_update = false;
                self.refresh(leg_key, now);
            }
            491 | 500 => self.timers.set((leg_key, LegTimer::Refresh), now.mono + BUSY),
            _ => {
                if !self.send_again(TransactionKind::Other, leg_key, sent, response, ClientUse::Update, now) {
                    self.restart_session(leg_key, now);
                }
            }
        }
    }
}

/// The ACK of a refusal belongs to its INVITE's transaction (RFC 3261 17.1.1.3).
fn refusal_ack(sent: &SentInvite, response: &SipResponse) -> SipRequest {
    let invite = &sent.request;
    let mut ack = SipRequest::new(Method::Ack, invite.uri.clone());
    copy(&["Via", "Max-Forwards", "From"], invite, &mut ack);
    if let Some(to) = response.headers.get("To") {
        ack.headers.push("To", to);
    }
    copy(&["Call-ID", "Route"], invite, &mut ack);
    ack.headers.push("CSeq", format!("{} ACK", sent.cseq));
    ack
}

fn copy(names: &[&str], from: &SipRequest, to: &mut SipRequest) {
    for name in names {
        for value in from.headers.fields_of(name) {
            to.headers.push(name, value);
        }
    }
}

fn tag_of(response: &SipResponse) -> Vec<u8> {
    let tag = response.headers.to().ok().and_then(|to| to.tag().map(<[u8]>::to_vec));
    tag.unwrap_or_default()
}

fn write_reason(request: &mut SipRequest, reason: HangupReason) {
    if let Some((status, text)) = reason {
        request.headers.push("Reason", format!("SIP;cause={status};text=\"{text}\""));
    }
}

fn write_auto_answer(request: &mut SipRequest, style: AutoAnswer, host: &str) {
    if style.answer_mode {
        request.headers.push("Answer-Mode", "Auto");
    }
    if style.call_info {
        request.headers.push("Call-Info", format!("<sip:{host}>;answer-after=0"));
    }
    if style.alert_info {
        request
            .headers
            .push("Alert-Info", format!("<http://{host}>;info=alert-autoanswer;delay=0"));
    }
}
