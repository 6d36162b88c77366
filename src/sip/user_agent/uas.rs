//! Requests in.

use super::admission::{ABILITIES, ALLOW, Claim, capabilities, check_scheme, server_key};
use super::caller::passed;
use super::leg::{Exchange, Incoming, Leg, LegPhase, LegTimer, ServerUse, Unacknowledged};
use super::reliable::Reliable;
use super::{Output, UserAgent};
use crate::media::rtp::event_of;
use crate::model::{Now, Number};
use crate::sip::dialog::Dialog;
use crate::sip::flow::Flow;
use crate::sip::leg::{EndReason, LegEvent, LegId, LegSource};
use crate::sip::message::{Headers, Method, NameAddr, Refuse, Scheme, SipRequest, SipResponse, quote, validate};
use crate::sip::registrar::{BindingChange, Genuine, RegisterError};
use crate::sip::sdp::{self, SdpError, SdpFault};
use crate::sip::transaction::{Arrival, ReceivedVia, ServerKey, ServerTransactionId, TransactionKind};
use std::time::Duration;

/// RFC 3261 13.3.1.1: a provisional response is repeated every minute.
const REMIND: Duration = Duration::from_secs(60);

/// An offer of theirs is refused when it has not been answered here by then: before the peer gives up by itself (32 s, RFC 3261 17.1.2.2).
const UNANSWERED: Duration = Duration::from_secs(20);

/// An Expires of an INVITE that is longer is as good as none: nothing rings so long.
const EXPIRES: Duration = Duration::from_secs(86_400);

/// Bytes of all header fields together. Nobody honest needs a tenth of it.
const LONGEST_HEAD: usize = 32 * 1024;

impl UserAgent {
    pub(super) fn handle_request(&mut self, flow: Flow, mut request: SipRequest, now: Now) {
        let via = request.headers.stamp_source(flow.peer);
        if request.method == Method::Ack {
            let key = via.and_then(|via| server_key(&request, &via, self.peers.of(&flow)));
            return key.map_or((), |key| self.handle_ack(flow, &key, &request, now));
        }
        if request.headers.text_len() > LONGEST_HEAD {
            return self.refuse(flow, &request, &Refuse::new(513), now);
        }
        let in_dialog = request.headers.to().is_ok_and(|to| to.tag().is_some());
        if let Err(mut refuse) = validate(&request, &ABILITIES).and_then(|()| check_scheme(&request)) {
            if refuse.status == 405 && in_dialog && self.leg_of(&flow, &request.headers, now).is_none() {
                // RFC 3261 12.2.2: whatever it asks for, the dialog that it asks in is not there.
                refuse = Refuse::new(481);
            } else if in_dialog && let Ok(leg) = self.leg_of_request(&flow, &request, now) {
                // Refused or not, it says who is there.
                self.identify_by_request(leg, &request.headers);
            }
            return self.refuse(flow, &request, &refuse, now);
        }
        let key = via.and_then(|via| {
            let key = server_key(&request, &via, self.peers.of(&flow))?;
            let path = self.return_path(flow, Some(&via), &request.headers);
            Some(ReceivedVia { key, path })
        });
        let Some(key) = key else {
            return self.refuse(flow, &request, &Refuse::new(400), now);
        };
        if self.transactions.handle_request(&key) == Arrival::Repeated {
            return;
        }
        if request.method == Method::Cancel {
            return self.handle_cancel(flow, key, &request, now);
        }
        let refused = match request.method {
            _ if in_dialog => self.handle_in_dialog(flow, key, &request, now),
            Method::Invite => self.handle_invite(flow, key, &request, now),
            Method::Register => self.handle_register(flow, key, &request, now),
            Method::Options => self.handle_options(flow, &request, now),
            Method::Bye | Method::Update | Method::Info | Method::Prack => Err(Refuse::new(481)),
            // To call somebody for whoever asks would be toll fraud's open door.
            Method::Refer => Err(Refuse::new(403)),
            _ => Err(refuse_method()),
        };
        if let Err(refuse) = refused {
            self.refuse(flow, &request, &refuse, now);
        }
    }

    fn handle_options(&mut self, flow: Flow, request: &SipRequest, now: Now) -> Result<(), Refuse> {
        if !self.is_ours(&request.uri) {
            return Err(Refuse::new(404));
        }
        if self.may_refuse(&flow, now) {
            self.stateless(flow, capabilities(request));
        }
        Ok(())
    }

    // ---- outside dialogs

    fn handle_invite(&mut self, flow: Flow, key: ReceivedVia, invite: &SipRequest, now: Now) -> Result<(), Refuse> {
        let headers = &invite.headers;
        let max_forwards = match headers.max_forwards() {
            Ok(0) => return Err(Refuse::new(483)),
            Ok(left) => left - 1,
            Err(_) => 70,
        };
        self.check_session(headers)?;
        let replaced = self.replaced(headers)?;
        let returns = self.returning(headers);
        if !self.is_ours(&invite.uri) {
            let status = if returns.is_some() { 482 } else { 404 };
            return Err(Refuse::new(status).because("the Request-URI names another host"));
        }
        // Whoever takes a leg's place is told that leg, by its Contact or by any other URI of ours (RFC 3891 3).
        let of_replaced = || replaced.and_then(|(leg, _)| self.legs.get(&leg)).map(|leg| leg.number.clone());
        let to = self.number_of(&invite.uri).or_else(of_replaced);
        let to = to.ok_or(Refuse::new(404).because("no number"))?;
        let source = self.admit(&flow, invite, now)?;
        if let LegSource::Account(device) = &source {
            self.is_there(device, &flow, now);
        }
        self.check_offer(&flow, invite)?;
        let replaces = replaced.map(|found| self.may_replace(found, &source)).transpose()?;
        let expires = headers.expires().ok();
        if expires == Some(0) {
            return Err(Refuse::new(487).because("its Expires is zero"));
        }
        let local_tag = self.chance.word();
        let mut dialog = Dialog::incoming(invite, local_tag, flow).map_err(|_| Refuse::new(400))?;
        let way = self.first_way(&source, &key.path, &mut dialog, now);
        // RFC 3261 8.2.2.2. Another Request-URI is another UAS: a proxy may fork to two numbers of ours.
        let merged =
            |leg: &Leg| leg.dialog.remote_tag == dialog.remote_tag && leg.dialog.remote_cseq == dialog.remote_cseq && leg.number == to;
        if self.legs_of(&dialog.call_id).any(|(_, leg)| merged(leg)) {
            return Err(Refuse::new(482).because("the same request by another way"));
        }
        let leg = LegId(self.next_leg);
        let opened = match self.legs.len() < self.config.limits.legs && self.may_call(&source, now) {
            true => self.transactions.open(key, TransactionKind::Invite, ServerUse(Some(leg))).ok(),
            false => None,
        };
        let Some(transaction) = opened else {
            self.count_refused(&source);
            self.refuse_overloaded(flow, invite, now);
            return Ok(());
        };
        self.know(flow);
        self.next_leg += 2;
        self.transactions
            .respond(transaction, 100, SipResponse::to(invite, 100).to_bytes(), now.mono);
        let (from, claimed) = self.identity(&source, headers, returns);
        let event = LegEvent::Incoming {
            leg,
            call_id: String::from_utf8_lossy(&dialog.call_id).into_owned(),
            passed: passed(&source, invite, &from, &to),
            from,
            claimed,
            to: to.clone(),
            offer: invite.description().map(<[u8]>::to_vec),
            max_forwards,
            replaces,
            returns,
            source: source.clone(),
        };
        let session = self.agree(self.first_session(), headers);
        let reliable = Reliable::wanted(invite, self.chance.below(u64::from(u32::MAX)));
        let incoming = Incoming {
            transaction,
            invite: invite.clone(),
            last: None,
        };
        self.add_leg(
            leg,
            Leg {
                way,
                peer: source,
                number: to,
                dialog,
                state: LegPhase::Incoming(incoming),
                exchange: Exchange::Idle,
                unacknowledged: None,
                queued: None,
                session,
                local_media: Vec::new(),
                remote_media: invite.description().unwrap_or_default().to_vec(),
                located: None,
                swallow_digits: false,
                referrer: None,
                reliable,
                named_early: Vec::new(),
                from_moved: false,
            },
        );
        self.timers.set((leg, LegTimer::Ringing), now.mono + self.config.limits.ringing);
        if let Some(seconds) = expires {
            self.timers
                .set((leg, LegTimer::Stale), now.mono + Duration::from_secs(seconds.into()).min(EXPIRES));
        }
        self.event(event);
        self.identify_by_invite(leg, headers);
        Ok(())
    }

    /// An offer that nobody could use makes no leg.
    fn check_offer(&mut self, flow: &Flow, invite: &SipRequest) -> Result<(), Refuse> {
        let read = invite.description().map(sdp::SdpSession::parse).transpose();
        let Err(fault) = read else { return Ok(()) };
        let call_id = invite.headers.call_id().unwrap_or_default();
        let mut refuse = Refuse::new(SdpError::STATUS);
        refuse.headers.push(("Warning", warning(&fault)));
        self.outputs.push_back(Output::Unusable {
            source: flow.peer.ip(),
            call_id: String::from_utf8_lossy(call_id).into_owned(),
            fault,
        });
        Err(refuse)
    }

    /// The leg that an INVITE wants to replace (RFC 3891 3). One that does not exist is not replaced, and nobody joins a call by himself.
    fn replaced(&self, headers: &Headers) -> Result<Option<(LegId, bool)>, Refuse> {
        if let Some(join) = headers.get("Join") {
            return Err(Refuse::new(if self.named(join).is_some() { 603 } else { 481 }));
        }
        if !headers.has("Replaces") {
            return Ok(None);
        }
        let value = headers.single("Replaces").map_err(|_| Refuse::new(400))?;
        self.named(value).map(Some).ok_or(Refuse::new(481))
    }

    /// A leg is replaced by its own peer only: whoever else knows its tags has learned them somewhere.
    fn may_replace(&self, (leg, early_only): (LegId, bool), source: &LegSource) -> Result<LegId, Refuse> {
        let found = self.legs.get(&leg).ok_or(Refuse::new(481))?;
        match found.state {
            _ if found.peer != *source => Err(Refuse::new(603)),
            LegPhase::Confirmed if early_only => Err(Refuse::new(486)),
            LegPhase::Confirmed => Ok(leg),
            LegPhase::Incoming(_) | LegPhase::Calling(_) | LegPhase::Cancelling(..) | LegPhase::ByePending(_) | LegPhase::ByeSent => {
                Err(Refuse::new(481))
            }
        }
    }

    /// The leg that a Replaces or Join names, and whether only an early dialog is meant.
    pub(super) fn named(&self, value: &[u8]) -> Option<(LegId, bool)> {
        let mut parts = value.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let call_id = parts.next()?;
        let (mut to_tag, mut from_tag, mut early_only) = (None, None, false);
        for part in parts {
            let mut halves = part.splitn(2, |byte| *byte == b'=').map(<[u8]>::trim_ascii);
            match (halves.next()?.to_ascii_lowercase().as_slice(), halves.next()) {
                (b"to-tag", tag) => to_tag = tag,
                (b"from-tag", tag) => from_tag = tag,
                (b"early-only", _) => early_only = true,
                _ => {}
            }
        }
        let (to_tag, from_tag) = (to_tag?, from_tag?);
        let found = self.legs_of(call_id).find(|(_, leg)| leg.dialog.matches(call_id, to_tag, from_tag));
        found.map(|(key, _)| (key, early_only))
    }

    fn handle_register(&mut self, flow: Flow, key: ReceivedVia, request: &SipRequest, now: Now) -> Result<(), Refuse> {
        let headers = &request.headers;
        let to = headers.to().map_err(|_| Refuse::new(400))?;
        if to.uri.scheme() == Scheme::Other {
            return Err(Refuse::new(400));
        }
        let change = registration(headers)?;
        if !self.is_ours(&request.uri) || !self.is_ours(&to.uri) {
            return Err(Refuse::new(403).because("registers at another host"));
        }
        let number = self.number_of(&to.uri).unwrap_or_else(|| Number::from(""));
        let Some(account) = self.account_of_number(number.as_str()).cloned() else {
            // As somebody who exists would be answered: which numbers are ours is nobody's business.
            self.authenticate(&flow, request, Claim::Nobody(number.as_str()), now)?;
            return Err(Refuse::new(403));
        };
        self.authenticate(&flow, request, Claim::Account(&account), now)?;
        let (cseq, _) = headers.cseq().map_err(|_| Refuse::new(400))?;
        let call_id = headers.call_id().map_err(|_| Refuse::new(400))?;
        let device = account.device;
        let was = self.registrar.lookup(&device, now.mono).is_some();
        let genuine = Genuine {
            call_id,
            cseq,
            challenge: self.answered_challenge(headers),
            path: key.path,
        };
        if let Err(error) = self.registrar.register(&device, change, genuine, now.mono) {
            return Err(match error {
                RegisterError::TooBrief => {
                    let mut refuse = Refuse::new(423);
                    let min = self.config.limits.min_expires.as_secs().to_string();
                    refuse.headers.push(("Min-Expires", min.into_bytes()));
                    refuse
                }
                RegisterError::OutOfOrder => Refuse::new(500),
                RegisterError::TooMany => Refuse::new(403),
            });
        }
        let mut response = SipResponse::to(request, 200).with_to_tag(&self.chance.word());
        for binding in self.registrar.of(&device, now.mono) {
            let left = binding.expires_at.saturating_duration_since(now.mono);
            let contact = [b"<", binding.contact.as_bytes(), format!(">;expires={}", left.as_secs()).as_bytes()].concat();
            response.headers.push("Contact", contact);
        }
        self.qualify(&device, now);
        let reply = key.path.reply;
        match self.transactions.open(key, TransactionKind::Other, ServerUse(None)) {
            Ok(transaction) => self.transactions.respond(transaction, 200, response.to_bytes(), now.mono),
            Err(_) => self.transmit(reply, response.to_bytes()),
        }
        let is = self.registrar.lookup(&device, now.mono).is_some();
        if is != was {
            self.registered(device.clone(), is);
        }
        if let Some(target) = self.registrar.target_of(&device, &flow, now.mono) {
            self.know(flow);
            self.follow_phone(&device, target, call_id, now);
        }
        Ok(())
    }

    fn handle_cancel(&mut self, flow: Flow, key: ReceivedVia, cancel: &SipRequest, now: Now) {
        let invite = key.key.with_method(Method::Invite.as_bytes());
        // A phone whose address has changed writes another sent-by: Call-ID and tag say then that it is the same.
        let found = self.transactions.server(&invite).or_else(|| {
            let like = self.transactions.of_same_branch(&invite)?;
            self.transactions.server(&like)
        });
        let leg = found.and_then(|(invite, ServerUse(leg))| leg.map(|leg| (invite, leg)));
        let same_call = |leg: &Leg| {
            let from = cancel.headers.from().ok();
            let tag = from.as_ref().and_then(NameAddr::tag).unwrap_or_default();
            cancel.headers.call_id() == Ok(leg.dialog.call_id.as_slice()) && leg.dialog.remote_tag.as_deref() == Some(tag)
        };
        let Some((invite, key_of_leg)) = leg else {
            return self.refuse(flow, cancel, &Refuse::new(481), now);
        };
        if self.legs.get(&key_of_leg).is_some_and(|leg| !same_call(leg)) {
            return self.refuse(flow, cancel, &Refuse::new(481), now);
        }
        let tag = self.legs.get(&key_of_leg).map(|leg| leg.dialog.local_tag.clone());
        let tag = tag.unwrap_or_else(|| self.chance.word());
        let response = SipResponse::to(cancel, 200).with_to_tag(&tag);
        let transaction = self.transactions.open_always(key, TransactionKind::Other, ServerUse(None));
        self.transactions.respond(transaction, 200, response.to_bytes(), now.mono);
        // Anything but the first INVITE, or one that is answered, is not undone by a CANCEL (RFC 3261 9.2).
        let waiting = |leg: &Leg| matches!(&leg.state, LegPhase::Incoming(incoming) if incoming.transaction == invite);
        if self.legs.get(&key_of_leg).is_some_and(waiting) {
            self.answer_incoming(key_of_leg, 487, now);
            self.event(LegEvent::Ended {
                leg: key_of_leg,
                reason: EndReason::Cancelled,
            });
        }
    }

    // ---- within dialogs

    fn leg_of(&self, flow: &Flow, headers: &Headers, now: Now) -> Option<LegId> {
        let (key, leg) = self.leg_within(headers)?;
        self.is_of_peer(leg, flow, now.mono).then_some(key)
    }

    /// The leg whose Call-ID and tags are these.
    fn leg_within(&self, headers: &Headers) -> Option<(LegId, &Leg)> {
        let (from, to) = (headers.from().ok()?, headers.to().ok()?);
        let call_id = headers.call_id().ok()?;
        let (from_tag, to_tag) = (from.tag().unwrap_or_default(), to.tag().unwrap_or_default());
        self.legs_of(call_id).find(|(_, leg)| leg.dialog.matches(call_id, to_tag, from_tag))
    }

    /// The leg that a request belongs to (RFC 3261 12.2.2). From where its peer is, the tags are enough; from elsewhere a phone has to
    /// show its digest (22.1), and who shows none learns nothing.
    fn leg_of_request(&mut self, flow: &Flow, request: &SipRequest, now: Now) -> Result<LegId, Refuse> {
        let (key, leg) = self.leg_within(&request.headers).ok_or(Refuse::new(481))?;
        if self.is_of_peer(leg, flow, now.mono) {
            return Ok(key);
        }
        let account = match &leg.peer {
            LegSource::Account(device) if request.headers.has("Authorization") => self.config.account(device).cloned(),
            LegSource::Account(_) | LegSource::Trunk(_) => None,
        };
        let account = account.ok_or(Refuse::new(481))?;
        self.authenticate(flow, request, Claim::Account(&account), now)?;
        Ok(key)
    }

    fn handle_in_dialog(&mut self, flow: Flow, key: ReceivedVia, request: &SipRequest, now: Now) -> Result<(), Refuse> {
        let leg_key = self.leg_of_request(&flow, request, now)?;
        let (cseq, _) = request.headers.cseq().map_err(|_| Refuse::new(400))?;
        let leg = self.legs.get_mut(&leg_key).ok_or(Refuse::new(481))?;
        leg.dialog.accept_cseq(cseq).map_err(|_| Refuse::new(500))?;
        self.know(flow);
        self.come_from(leg_key, &key.path, &request.headers, now);
        self.identify_by_request(leg_key, &request.headers);
        let again = key.clone();
        let done = match request.method {
            Method::Bye => self.handle_bye(leg_key, key, request, now),
            Method::Invite => self.handle_offer(leg_key, key, request, now),
            Method::Update => self.handle_update(leg_key, key, request, now),
            Method::Info => self.handle_info(leg_key, key, request, now),
            Method::Refer => self.handle_refer(leg_key, flow, key, request, now),
            Method::Prack => self.handle_prack(leg_key, key, request, now),
            Method::Options => {
                self.answer(leg_key, key, &capabilities(request), now);
                Ok(())
            }
            _ => Err(refuse_method()),
        };
        if let Err(refuse) = done {
            self.refuse_in_dialog(leg_key, again, request, &refuse, now);
        }
        Ok(())
    }

    /// A refusal within a dialog is repeated with its request: judged anew, the repetition would be out of order.
    fn refuse_in_dialog(&mut self, leg: LegId, key: ReceivedVia, request: &SipRequest, refuse: &Refuse, now: Now) {
        let kind = match request.method {
            Method::Invite => TransactionKind::Invite,
            _ => TransactionKind::Other,
        };
        self.note_refused(&key.path.source, request, refuse, now);
        let transaction = self.transactions.open_always(key, kind, ServerUse(Some(leg)));
        if let Some(response) = refuse.response(request) {
            self.transactions.respond(transaction, refuse.status, response.to_bytes(), now.mono);
        }
    }

    /// Answers a request that is not INVITE at once.
    pub(super) fn answer(&mut self, leg: LegId, key: ReceivedVia, response: &SipResponse, now: Now) {
        let transaction = self.transactions.open_always(key, TransactionKind::Other, ServerUse(Some(leg)));
        self.transactions
            .respond(transaction, response.status, response.to_bytes(), now.mono);
    }

    fn handle_bye(&mut self, leg_key: LegId, key: ReceivedVia, bye: &SipRequest, now: Now) -> Result<(), Refuse> {
        let leg = self.legs.get(&leg_key).ok_or(Refuse::new(481))?;
        let (gone, told) = match leg.state {
            // A callee may not leave an early dialog with BYE (RFC 3261 15).
            LegPhase::Calling(_) | LegPhase::Cancelling(..) => return Err(Refuse::new(481)),
            LegPhase::Incoming(_) | LegPhase::Confirmed => (true, true),
            LegPhase::ByePending(_) => (true, false),
            LegPhase::ByeSent => (false, false),
        };
        self.answer(leg_key, key, &SipResponse::to(bye, 200), now);
        if gone {
            if let Some(Exchange::Ours { transaction, .. }) = self.legs.get(&leg_key).map(|leg| &leg.exchange) {
                self.transactions.abandon_later(*transaction, now.mono);
            }
            self.answer_incoming(leg_key, 487, now);
            self.drop_offer(leg_key, 487, now);
            self.remove_leg(leg_key);
        }
        if told {
            self.event(LegEvent::Ended {
                leg: leg_key,
                reason: EndReason::Bye,
            });
        }
        Ok(())
    }

    fn handle_offer(&mut self, leg_key: LegId, key: ReceivedVia, invite: &SipRequest, now: Now) -> Result<(), Refuse> {
        self.check_session(&invite.headers)?;
        self.may_offer(leg_key)?;
        let transaction = self
            .transactions
            .open_always(key, TransactionKind::Invite, ServerUse(Some(leg_key)));
        self.transactions
            .respond(transaction, 100, SipResponse::to(invite, 100).to_bytes(), now.mono);
        self.take_offer(leg_key, transaction, invite, now);
        Ok(())
    }

    fn handle_update(&mut self, leg_key: LegId, key: ReceivedVia, update: &SipRequest, now: Now) -> Result<(), Refuse> {
        self.check_session(&update.headers)?;
        if update.description().is_some() {
            self.may_offer(leg_key)?;
            let transaction = self.transactions.open_always(key, TransactionKind::Other, ServerUse(Some(leg_key)));
            self.take_offer(leg_key, transaction, update, now);
            return Ok(());
        }
        let leg = self.legs.get(&leg_key).ok_or(Refuse::new(481))?;
        if matches!(leg.state, LegPhase::ByeSent | LegPhase::ByePending(_)) {
            return Err(Refuse::new(481));
        }
        let response = self.accept_refresh(leg_key, update, now);
        self.answer(leg_key, key, &response, now);
        Ok(())
    }

    /// Whether an offer of theirs can be taken now (RFC 3261 14.2, RFC 3311 5.2, RFC 5407).
    fn may_offer(&mut self, leg_key: LegId) -> Result<(), Refuse> {
        let leg = self.legs.get(&leg_key).ok_or(Refuse::new(481))?;
        match (&leg.state, &leg.exchange) {
            (LegPhase::ByeSent | LegPhase::ByePending(_), _) => Err(Refuse::new(481)),
            (LegPhase::Confirmed, _) if leg.unacknowledged.is_some() => Err(Refuse::new(491)),
            (LegPhase::Confirmed, Exchange::Idle) => Ok(()),
            (LegPhase::Confirmed, Exchange::Theirs { .. }) => {
                let mut refuse = Refuse::new(500);
                let wait = self.chance.below(10).to_string();
                refuse.headers.push(("Retry-After", wait.into_bytes()));
                Err(refuse)
            }
            (LegPhase::Confirmed, Exchange::Ours { .. }) | (LegPhase::Incoming(_) | LegPhase::Calling(_) | LegPhase::Cancelling(..), _) => {
                Err(Refuse::new(491))
            }
        }
    }

    fn take_offer(&mut self, leg_key: LegId, transaction: ServerTransactionId, request: &SipRequest, now: Now) {
        let Some(leg) = self.legs.get_mut(&leg_key) else { return };
        leg.exchange = Exchange::Theirs {
            transaction,
            request: request.clone(),
        };
        self.timers.set((leg_key, LegTimer::Theirs), now.mono + UNANSWERED);
        self.event(LegEvent::Offered {
            leg: leg_key,
            media: request.description().map(<[u8]>::to_vec),
        });
    }

    /// What a 2xx to their INVITE or UPDATE does to the dialog and the session, and that 2xx without its body.
    fn accept_refresh(&mut self, leg_key: LegId, request: &SipRequest, now: Now) -> SipResponse {
        let mut response = SipResponse::to(request, 200).with("Allow", ALLOW);
        let Some(leg) = self.legs.get(&leg_key) else { return response };
        let contact = self.contact(&leg.dialog.flow, &leg.number);
        let session = self.agree(leg.session, &request.headers);
        for route in request.headers.fields_of("Record-Route") {
            response.headers.push("Record-Route", route);
        }
        response.headers.push("Contact", contact);
        Self::write_session_response(&session, &mut response);
        if let Some(leg) = self.legs.get_mut(&leg_key) {
            leg.session = session;
            leg.dialog.refresh(&request.headers.contacts().unwrap_or_default());
        }
        self.restart_session(leg_key, now);
        response
    }

    fn handle_info(&mut self, leg_key: LegId, key: ReceivedVia, info: &SipRequest, now: Now) -> Result<(), Refuse> {
        if info.headers.has("Info-Package") {
            return Err(Refuse::new(469));
        }
        let leg = self.legs.get(&leg_key).ok_or(Refuse::new(481))?;
        let (swallows, is_up) = (leg.swallow_digits, matches!(leg.state, LegPhase::Confirmed));
        let digit = match info.headers.content_type().as_deref() {
            _ if info.body.is_empty() => None,
            Some("application/dtmf-relay") => Some(relayed_digit(&info.body)),
            Some("application/dtmf") => Some(plain_digit(&info.body)),
            _ => {
                // RFC 3261 21.4.13: the types we take.
                let mut refuse = Refuse::new(415);
                refuse
                    .headers
                    .push(("Accept", b"application/dtmf-relay, application/dtmf".to_vec()));
                return Err(refuse);
            }
        };
        // A supervisor's digits are nobody's, whatever they are.
        let digit = digit.filter(|_| !swallows);
        if digit.is_some() && !is_up {
            return Err(Refuse::new(480));
        }
        let digit = digit.map(|digit| digit.ok_or(Refuse::new(400))).transpose()?;
        self.answer(leg_key, key, &SipResponse::to(info, 200), now);
        if let Some(digit) = digit {
            let digits = digit.to_string();
            self.event(LegEvent::Dialled { leg: leg_key, digits });
        }
        Ok(())
    }

    fn handle_ack(&mut self, flow: Flow, key: &ServerKey, ack: &SipRequest, now: Now) {
        if self.transactions.handle_ack(key, now.mono) {
            return;
        }
        let Some(leg_key) = self.leg_of(&flow, &ack.headers, now) else {
            // Of a refusal, from a phone that writes another sent-by than before.
            if let Some(like) = self.transactions.of_same_branch(key) {
                self.transactions.handle_ack(&like, now.mono);
            }
            return;
        };
        let Some(leg) = self.legs.get_mut(&leg_key) else { return };
        let cseq = ack.headers.cseq().map(|(cseq, _)| cseq);
        if leg.unacknowledged.as_ref().map(|waiting| waiting.cseq) != cseq.ok() {
            return;
        }
        let Some(waiting) = leg.unacknowledged.take() else { return };
        self.timers.clear(&(leg_key, LegTimer::Accepted));
        if let LegPhase::ByePending(reason) = leg.state {
            return self.send_bye(leg_key, reason, now);
        }
        let answer = ack.description().map(<[u8]>::to_vec);
        if waiting.offered && waiting.is_first && answer.is_none() {
            // Our offer went unanswered: there is no session.
            self.send_bye(leg_key, Some((488, "No answer to the offer")), now);
            return self.event(LegEvent::Ended {
                leg: leg_key,
                reason: EndReason::NoAck,
            });
        }
        // One that was made within a session and is not answered leaves it as it was.
        let media = answer.filter(|_| waiting.offered);
        if let Some(media) = &media {
            leg.remote_media = media.clone();
        }
        self.event(LegEvent::Confirmed { leg: leg_key, media });
        self.send_queued(leg_key, now);
    }

    // ---- what the B2BUA answers

    pub(super) fn provisional(&mut self, leg_key: LegId, status: u16, media: Option<Vec<u8>>, now: Now) {
        let Some(leg) = self.legs.get_mut(&leg_key) else { return };
        let (flow, number) = (leg.dialog.flow, leg.number.clone());
        let LegPhase::Incoming(incoming) = &mut leg.state else { return };
        let mut reliable = leg.reliable.as_mut().filter(|reliable| reliable.takes(media.is_some()));
        if reliable.as_mut().is_some_and(|reliable| reliable.defer(status, media.as_ref())) {
            return;
        }
        let mut response = SipResponse::to(&incoming.invite, status.clamp(180, 199)).with_to_tag(&leg.dialog.local_tag);
        for route in incoming.invite.headers.fields_of("Record-Route") {
            response.headers.push("Record-Route", route);
        }
        let transaction = incoming.transaction;
        let is_reliable = reliable.is_some();
        if let Some(reliable) = reliable {
            response = reliable.stamp(response);
        }
        let contact = self.contact(&flow, &number);
        response = response.with("Contact", contact).with("Allow", ALLOW);
        let described = media.is_some();
        if let Some(media) = media {
            response = response.with_body("application/sdp", media);
        }
        let bytes = response.to_bytes();
        if let Some(Leg {
            state: LegPhase::Incoming(incoming),
            ..
        }) = self.legs.get_mut(&leg_key)
        {
            incoming.last = Some((status, bytes.clone()));
        }
        self.transactions.respond(transaction, response.status, bytes.clone(), now.mono);
        self.timers.set((leg_key, LegTimer::Remind), now.mono + REMIND);
        if is_reliable {
            self.expect_prack(leg_key, response.status, bytes, described, now);
        }
    }

    pub(super) fn remind(&mut self, leg_key: LegId, now: Now) {
        let Some(leg) = self.legs.get(&leg_key) else { return };
        let LegPhase::Incoming(incoming) = &leg.state else { return };
        let Some((status, bytes)) = incoming.last.clone() else { return };
        self.transactions.respond(incoming.transaction, status, bytes, now.mono);
        self.timers.set((leg_key, LegTimer::Remind), now.mono + REMIND);
    }

    pub(super) fn accept(&mut self, leg_key: LegId, media: Vec<u8>, now: Now) {
        let Some(leg) = self.legs.get_mut(&leg_key) else { return };
        let LegPhase::Incoming(incoming) = &leg.state else { return };
        if leg.reliable.as_mut().is_some_and(|reliable| reliable.defer_accept(&media)) {
            return;
        }
        let (transaction, invite) = (incoming.transaction, incoming.invite.clone());
        leg.state = LegPhase::Confirmed;
        leg.local_media = media.clone();
        self.stop_timers(leg_key);
        self.accept_invite(leg_key, transaction, &invite, media, now);
    }

    pub(super) fn answer_offer(&mut self, leg_key: LegId, media: Vec<u8>, now: Now) {
        let Some((transaction, request)) = self.end_theirs(leg_key) else {
            return;
        };
        let Some(leg) = self.legs.get_mut(&leg_key) else { return };
        leg.local_media = media.clone();
        if let Some(description) = request.description() {
            leg.remote_media = description.to_vec();
        }
        if request.method == Method::Invite {
            return self.accept_invite(leg_key, transaction, &request, media, now);
        }
        let response = self.accept_refresh(leg_key, &request, now).with_body("application/sdp", media);
        self.transactions.respond(transaction, 200, response.to_bytes(), now.mono);
        self.send_queued(leg_key, now);
    }

    /// 200 to an INVITE, which the user agent itself repeats until the ACK (RFC 3261 13.3.1.4).
    fn accept_invite(&mut self, leg_key: LegId, transaction: ServerTransactionId, invite: &SipRequest, media: Vec<u8>, now: Now) {
        let mut response = self.accept_refresh(leg_key, invite, now).with_body("application/sdp", media);
        let Some(leg) = self.legs.get_mut(&leg_key) else { return };
        response.headers.tag_to(&leg.dialog.local_tag);
        let bytes = response.to_bytes();
        let timing = self.config.timing;
        leg.unacknowledged = Some(Unacknowledged {
            cseq: invite.headers.cseq().map(|(cseq, _)| cseq).unwrap_or_default(),
            flow: self.transactions.reply_flow(transaction).unwrap_or(leg.dialog.flow),
            response: bytes.clone(),
            interval: timing.t1,
            give_up_at: now.mono + timing.give_up(),
            offered: invite.description().is_none(),
            is_first: invite.headers.to().is_ok_and(|to| to.tag().is_none()),
        });
        self.timers.set((leg_key, LegTimer::Accepted), now.mono + timing.t1);
        self.transactions.respond(transaction, 200, bytes, now.mono);
    }

    /// Our 2xx has found no ACK yet: again, or no more.
    pub(super) fn repeat_accepted(&mut self, leg_key: LegId, now: Now) {
        let t2 = self.config.timing.t2;
        let Some(leg) = self.legs.get_mut(&leg_key) else { return };
        let Some(waiting) = &mut leg.unacknowledged else { return };
        if now.mono < waiting.give_up_at {
            waiting.interval = (waiting.interval * 2).min(t2);
            let (flow, bytes) = (waiting.flow, waiting.response.clone());
            let next = (now.mono + waiting.interval).min(waiting.give_up_at);
            self.timers.set((leg_key, LegTimer::Accepted), next);
            return self.transmit(flow, bytes);
        }
        leg.unacknowledged = None;
        let told = matches!(leg.state, LegPhase::Confirmed);
        self.drop_offer(leg_key, 487, now);
        self.send_bye(leg_key, None, now);
        if told {
            self.event(LegEvent::Ended {
                leg: leg_key,
                reason: EndReason::NoAck,
            });
        }
    }

    /// Refuses the INVITE that waits for us, and forgets the leg.
    pub(super) fn answer_incoming(&mut self, leg_key: LegId, status: u16, now: Now) {
        let Some(leg) = self.legs.get(&leg_key) else { return };
        let LegPhase::Incoming(incoming) = &leg.state else { return };
        let response = SipResponse::to(&incoming.invite, status).with_to_tag(&leg.dialog.local_tag);
        let transaction = incoming.transaction;
        self.transactions.respond(transaction, status, response.to_bytes(), now.mono);
        self.remove_leg(leg_key);
    }

    /// Refuses the INVITE, re-INVITE or UPDATE that waits for us: its description cannot be used (RFC 3261 21.4.26).
    pub(super) fn refuse_offer(&mut self, leg_key: LegId, fault: &SdpFault, now: Now) {
        let status = SdpError::STATUS;
        let warning = warning(fault);
        let Some(leg) = self.legs.get(&leg_key) else { return };
        if let LegPhase::Incoming(incoming) = &leg.state {
            let response = SipResponse::to(&incoming.invite, status).with_to_tag(&leg.dialog.local_tag);
            let bytes = response.with("Warning", warning).to_bytes();
            self.transactions.respond(incoming.transaction, status, bytes, now.mono);
            return self.remove_leg(leg_key);
        }
        if let Some((transaction, request)) = self.end_theirs(leg_key) {
            let bytes = SipResponse::to(&request, status).with("Warning", warning).to_bytes();
            self.transactions.respond(transaction, status, bytes, now.mono);
        }
    }

    /// Refuses the re-INVITE or UPDATE that waits for us.
    pub(super) fn drop_offer(&mut self, leg_key: LegId, status: u16, now: Now) {
        let Some((transaction, request)) = self.end_theirs(leg_key) else {
            return;
        };
        let response = SipResponse::to(&request, status);
        self.transactions.respond(transaction, status, response.to_bytes(), now.mono);
    }
}

impl UserAgent {
    /// Their offer no longer waits; an exchange of ours is left alone.
    fn end_theirs(&mut self, leg_key: LegId) -> Option<(ServerTransactionId, SipRequest)> {
        let leg = self.legs.get_mut(&leg_key)?;
        match std::mem::replace(&mut leg.exchange, Exchange::Idle) {
            Exchange::Theirs { transaction, request } => {
                self.timers.clear(&(leg_key, LegTimer::Theirs));
                Some((transaction, request))
            }
            other => {
                leg.exchange = other;
                None
            }
        }
    }
}

fn refuse_method() -> Refuse {
    let mut refuse = Refuse::new(405);
    refuse.headers.push(("Allow", ALLOW.into()));
    refuse
}

/// What is wrong with a description, for people (RFC 3261 20.43).
fn warning(fault: &SdpFault) -> Vec<u8> {
    let text = quote(fault.to_string().as_bytes());
    [format!("{} undertone ", fault.error.warning()).as_bytes(), &text].concat()
}

/// The digit of an `application/dtmf-relay` body: `Signal=5`.
fn relayed_digit(body: &[u8]) -> Option<char> {
    let mut lines = body.split(|byte| matches!(byte, b'\r' | b'\n'));
    let value = lines.find_map(|line| {
        let mut halves = line.splitn(2, |byte| *byte == b'=').map(<[u8]>::trim_ascii);
        halves.next()?.eq_ignore_ascii_case(b"Signal").then(|| halves.next())?
    });
    plain_digit(value?)
}

/// The digit of an `application/dtmf` body: itself, or its event number (RFC 4733 3.2).
fn plain_digit(body: &[u8]) -> Option<char> {
    let digit = match body.trim_ascii() {
        b"10" => '*',
        b"11" => '#',
        [one] => char::from(one.to_ascii_uppercase()),
        _ => return None,
    };
    event_of(digit).map(|_| digit)
}

/// The longest Contact that may be registered, in bytes: an SBC writes whole routes into its URI parameters.
const LONGEST_CONTACT: usize = 2048;

fn registration(headers: &Headers) -> Result<BindingChange, Refuse> {
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
        if contact.uri.scheme() != Scheme::Sip || contact.uri.as_bytes().len() > LONGEST_CONTACT {
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
