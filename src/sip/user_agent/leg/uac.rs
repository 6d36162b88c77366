//! Requests of ours, and the responses to them.

use super::invite_session::{InviteSession, OfferOutcome, OfferRefusal};
use super::reliable::{fork, rseq};
use super::session_timer::SessionTimer;
use super::{
    ClientUse, ConnectedNames, HangupReason, Leg, LegPeer, LegPhase, LegTimer, OutgoingInvite,
    RequestRoute, SentRequest,
};
use crate::model::Now;
use crate::sip::config::AutoAnswer;
use crate::sip::dialog::Dialog;
use crate::sip::flow::Flow;
use crate::sip::leg::{HangupCause, Identity, LegEvent, LegId, LegSource, PassedHeader};
use crate::sip::message::{Method, NameAddr, SipRequest, SipResponse, Uri, UriError, printable};
use crate::sip::transaction::{ClientKey, ClientTransactionId, TransactionKind};
use crate::sip::user_agent::caller_identity::LONGEST_NAME;
use crate::sip::user_agent::context::Context;
use crate::sip::user_agent::leg_table::TRAIL;
use std::sync::Arc;
use std::time::Duration;

/// No early dialog sees so many.
const PRACKS: u32 = 1000;

/// The header fields that an INVITE of ours may carry for another.
const PASSED: &[&str] = &["Identity", "Date", "User-to-User", "Session-ID"];

/// An INVITE to be sent.
#[derive(Debug)]
pub(in crate::sip::user_agent) struct InviteContent {
    pub(in crate::sip::user_agent) from: Identity,
    pub(in crate::sip::user_agent) offer: Vec<u8>,
    /// How the phone is asked to answer by itself, if it is.
    pub(in crate::sip::user_agent) auto_answer: Option<AutoAnswer>,
    pub(in crate::sip::user_agent) max_forwards: u8,
    pub(in crate::sip::user_agent) passed: Vec<PassedHeader>,
}

impl InviteContent {
    /// Writes the INVITE of a new leg.
    fn write(
        &self,
        mut request: SipRequest,
        leg: LegId,
        timer: &SessionTimer,
        flow: &Flow,
        ctx: &Context,
    ) -> SipRequest {
        request.headers.set("Max-Forwards", self.max_forwards.to_string());
        ctx.domain.write_common(&mut request, flow, &self.from.number);
        request.headers.set("Supported", "timer, 100rel");
        request.headers.push(TRAIL, ctx.tokens.token(leg));
        if self.from.is_withheld() {
            request.headers.push("Privacy", "id");
        }
        timer.write_request(&mut request);
        if let Some(style) = self.auto_answer {
            write_auto_answer(&mut request, style, &ctx.domain.via_host(flow));
        }
        write_passed(&mut request, &self.passed);
        request.with_body("application/sdp", self.offer.clone())
    }
}

impl OutgoingInvite {
    /// CANCEL waits for a provisional response (RFC 3261 9.1).
    pub(super) fn cancel_if_heard(
        &mut self,
        reason: HangupReason,
        leg: LegId,
        ctx: &mut Context,
        now: Now,
    ) {
        if !self.provisional || self.cancelled {
            return;
        }
        self.cancelled = true;
        let sent = &self.sent;
        let key = ClientKey { branch: sent.branch.clone(), method: b"CANCEL".to_vec() };
        let bytes = cancel(sent, reason).to_bytes();
        ctx.transactions.request(
            key,
            TransactionKind::Other,
            sent.flow,
            bytes,
            ClientUse::Other,
            now.mono,
        );
        let give_up = ctx.domain.config.timing.give_up();
        ctx.timers.set((leg, LegTimer::Cancelled), now.mono + give_up);
    }

    /// Takes a provisional response. Its description is taken out when it is no news; its RSeq, if
    /// it wants a PRACK. `None` when it has been heard before.
    fn hear(&mut self, response: &SipResponse, media: &mut Option<Vec<u8>>) -> Option<Option<u32>> {
        let rseq = rseq(response);
        let fork = fork(&mut self.forks, &response.headers.to_tag())?;
        fork.hear(rseq, media).then_some(rseq)
    }

    /// The answer of a 2xx: what other forks have described is not its answer.
    fn answer(&mut self, response: &SipResponse) -> Option<Vec<u8>> {
        let described = response.description().map(<[u8]>::to_vec);
        match fork(&mut self.forks, &response.headers.to_tag()) {
            Some(answering) => answering.clone().answer(described),
            None => described,
        }
    }
}

impl Leg {
    /// A leg that begins with an INVITE of ours. An error when the caller's number fits into no
    /// URI.
    pub fn invite(
        id: LegId,
        route: RequestRoute,
        content: InviteContent,
        ctx: &mut Context,
        now: Now,
    ) -> Result<Leg, UriError> {
        let host = ctx.domain.via_host(&route.flow);
        let local = shown_as(&content.from, &host)?;
        let call_id = format!("{}{}@{host}", ctx.tokens.word(), ctx.tokens.word());
        let tag = ctx.tokens.word();
        let mut dialog = Dialog::outgoing(call_id, local, tag, route.to, route.uri, route.flow);
        let timer = SessionTimer::new(&ctx.domain.config);
        let request = content.write(dialog.request(Method::Invite), id, &timer, &route.flow, ctx);
        let sent = ctx.sent(request, route.flow, 0);
        let transaction =
            ctx.send(TransactionKind::Invite, ClientUse::Invite(id, sent.clone()), &sent, now);
        let calling = OutgoingInvite {
            transaction,
            sent,
            provisional: false,
            cancelled: false,
            forks: Vec::new(),
        };
        Ok(Leg {
            peer: LegPeer::called(id, route.source, content.from.number, dialog),
            phase: LegPhase::Calling(calling),
            session: InviteSession::new(timer, content.offer, Vec::new()),
            swallow_digits: false,
            referral: None,
            reliable: None,
            connected: ConnectedNames::default(),
        })
    }

    /// What is asked of an INVITE that has gone out.
    pub fn expect_answer(
        &mut self,
        timeout: Duration,
        swallow_digits: bool,
        ctx: &mut Context,
        now: Now,
    ) {
        ctx.timers.set((self.id(), LegTimer::NoAnswer), now.mono + timeout);
        self.swallow_digits = swallow_digits;
    }

    /// Asks a ringing phone to answer.
    pub(super) fn ask_to_answer(&mut self, ctx: &mut Context, now: Now) {
        if !matches!(self.phase, LegPhase::Calling(_)) {
            return;
        }
        if self.peer.dialog.remote_tag.is_none() {
            return self.talk_refused(480, ctx);
        }
        let notify = self.peer.notify("talk", "active", &ctx.domain);
        ctx.request(notify, self.peer.dialog.flow, |_| ClientUse::Talk(self.id()), now);
    }

    pub(super) fn talk_refused(&mut self, status: u16, ctx: &mut Context) {
        if matches!(self.phase, LegPhase::Calling(_)) {
            ctx.event(LegEvent::AskToAnswerRefused { leg: self.id(), status });
        }
    }

    /// BYE now, or after the ACK that we still wait for.
    pub(super) fn send_bye(&mut self, reason: HangupReason, ctx: &mut Context, now: Now) {
        self.session.forget_queued();
        let lost = self.peer.is_lost();
        if self.session.expects_ack() || lost {
            self.phase = LegPhase::ByePending(reason);
            for timer in [LegTimer::Refresh, LegTimer::Expire, LegTimer::Glare] {
                ctx.timers.clear(&(self.id(), timer));
            }
            if lost {
                self.peer.wait_for_phone(ctx, now);
            }
            return;
        }
        self.phase = LegPhase::ByeSent;
        self.session.abandon_offer(ctx, now);
        let mut bye = self.peer.dialog.request(Method::Bye);
        write_reason(&mut bye, reason);
        self.stop_timers(ctx);
        ctx.request(bye, self.peer.dialog.flow, |sent| ClientUse::Bye(self.id(), sent), now);
    }

    /// Sends the offer that waits, if nothing forbids it.
    pub(super) fn send_queued(&mut self, ctx: &mut Context, now: Now) {
        if matches!(self.phase, LegPhase::Confirmed) {
            self.session.send_queued(&mut self.peer, ctx, now);
        }
    }

    /// Refreshes the session.
    pub(super) fn refresh(&mut self, ctx: &mut Context, now: Now) {
        match self.phase {
            LegPhase::Confirmed => self.session.refresh(&mut self.peer, ctx, now),
            _ => self.session.refresh_later(self.id(), ctx, now),
        }
    }

    /// Our UPDATE or re-INVITE was lost with its flow: once more by the new one, or when there is
    /// one.
    pub(super) fn say_again(&mut self, update: bool, ctx: &mut Context, now: Now) {
        if !matches!(self.phase, LegPhase::Confirmed) {
            return;
        }
        match update {
            true => self.session.refresh(&mut self.peer, ctx, now),
            false => self.session.offer_again(&mut self.peer, ctx, now),
        }
    }

    // ---- responses to INVITE

    pub(super) fn handle_progress(&mut self, response: &SipResponse, ctx: &mut Context, now: Now) {
        match &mut self.phase {
            LegPhase::Calling(calling) => {
                calling.provisional = true;
                if response.status == 100 {
                    return;
                }
                let cseq = calling.sent.cseq;
                let mut media = response.description().map(<[u8]>::to_vec);
                let Some(rseq) = calling.hear(response, &mut media) else {
                    return;
                };
                self.peer.dialog.handle_response(response);
                self.peer.retarget(&ctx.domain.config);
                self.connected.note_early(&response.headers, &ctx.domain);
                if let Some(rseq) = rseq {
                    self.peer.send_prack(rseq, cseq, ctx, now);
                }
                let (leg, status) = (self.id(), response.status);
                self.event(LegEvent::Progress { leg, status, media }, ctx);
            }
            LegPhase::Cancelling(calling, reason) => {
                calling.provisional = true;
                calling.cancel_if_heard(*reason, self.peer.leg, ctx, now);
            }
            LegPhase::Incoming(_)
            | LegPhase::Confirmed
            | LegPhase::ByePending(_)
            | LegPhase::ByeSent
            | LegPhase::Over => {}
        }
    }

    pub(super) fn handle_answered(
        &mut self,
        id: ClientTransactionId,
        sent: &SentRequest,
        response: &SipResponse,
        ctx: &mut Context,
        now: Now,
    ) {
        let (is_wanted, reason, media) = match &mut self.phase {
            LegPhase::Calling(calling) => (true, None, calling.answer(response)),
            LegPhase::Cancelling(_, reason) => (false, *reason, None),
            LegPhase::Incoming(_)
            | LegPhase::Confirmed
            | LegPhase::ByePending(_)
            | LegPhase::ByeSent
            | LegPhase::Over => {
                return refuse_fork(id, sent, response, ctx, now);
            }
        };
        self.peer.dialog.handle_response(response);
        self.peer.retarget(&ctx.domain.config);
        ctx.acknowledge(id, &self.peer.dialog, sent, response);
        self.session.timer = self.session.timer.agreed(&response.headers);
        self.phase = LegPhase::Confirmed;
        match media {
            // The CANCEL and the 2xx have crossed.
            _ if !is_wanted => self.send_bye(reason, ctx, now),
            // Where its phone is nobody knows: what was said in the call would not arrive.
            _ if response.headers.contacts().is_err() => {
                ctx.note_refusal_of(
                    sent,
                    response.status,
                    b"the Contact of its answer cannot be read",
                    None,
                    now,
                );
                self.send_bye(Some(HangupCause::BadContact), ctx, now);
                ctx.event(LegEvent::Refused { leg: self.id(), status: 502 });
            }
            Some(media) => self.begin_session(media, response, ctx, now),
            // A 2xx without a description is no call.
            None => {
                ctx.note_refusal_of(
                    sent,
                    response.status,
                    b"no session description in its answer",
                    None,
                    now,
                );
                self.send_bye(Some(HangupCause::NoAnswer), ctx, now);
                ctx.event(LegEvent::Refused { leg: self.id(), status: 488 });
            }
        }
    }

    fn begin_session(
        &mut self,
        media: Vec<u8>,
        response: &SipResponse,
        ctx: &mut Context,
        now: Now,
    ) {
        self.session.set_remote(media.clone());
        self.stop_timers(ctx);
        self.session.restart(self.id(), ctx, now);
        self.identify_by_response(&response.headers, ctx);
        self.event(LegEvent::Answered { leg: self.id(), media }, ctx);
        self.send_queued(ctx, now);
    }

    pub(super) fn handle_refused(
        &mut self,
        sent: &SentRequest,
        response: &SipResponse,
        ctx: &mut Context,
        now: Now,
    ) {
        match self.phase {
            LegPhase::Calling(_) => {}
            LegPhase::Cancelling(..) => return self.end(ctx),
            LegPhase::Incoming(_)
            | LegPhase::Confirmed
            | LegPhase::ByePending(_)
            | LegPhase::ByeSent
            | LegPhase::Over => return,
        }
        if self.send_again(sent, response, ClientUse::Invite, ctx, now) {
            return;
        }
        ctx.note_refusal_of(sent, response.status, &response.reason, Some(&response.headers), now);
        let to = match &self.peer.source {
            LegSource::Account(_) => ctx.domain.redirected_to(response),
            LegSource::Trunk(_) => Vec::new(),
        };
        self.end(ctx);
        let (leg, status) = (self.id(), response.status);
        ctx.event(match to.is_empty() {
            true => LegEvent::Refused { leg, status },
            false => LegEvent::Redirected { leg, status, to },
        });
    }

    // ---- responses within the dialog

    /// Sends a refused request once more: with an answer to the challenge, or with a longer
    /// interval.
    pub(super) fn send_again(
        &mut self,
        sent: &SentRequest,
        response: &SipResponse,
        client: impl FnOnce(LegId, Arc<SentRequest>) -> ClientUse,
        ctx: &mut Context,
        now: Now,
    ) -> bool {
        let improved = self.peer.improve(sent, response, &mut self.session.timer, ctx);
        let Some(request) = improved else {
            return false;
        };
        let kind = match request.method {
            Method::Invite => TransactionKind::Invite,
            _ => TransactionKind::Other,
        };
        let again = ctx.sent(request, sent.flow, sent.attempts + 1);
        let transaction = ctx.send(kind, client(self.id(), again.clone()), &again, now);
        match (kind, &mut self.phase) {
            (TransactionKind::Invite, LegPhase::Calling(calling)) => {
                calling.transaction = transaction;
                calling.sent = again;
                calling.provisional = false;
            }
            (TransactionKind::Invite, _) => self.session.move_offer(transaction),
            (TransactionKind::Other, _) => {}
        }
        true
    }

    pub(super) fn handle_offer_answered(
        &mut self,
        id: ClientTransactionId,
        sent: &SentRequest,
        response: &SipResponse,
        ctx: &mut Context,
        now: Now,
    ) {
        self.peer.dialog.refresh(&response.headers.contacts().unwrap_or_default());
        self.peer.retarget(&ctx.domain.config);
        ctx.acknowledge(id, &self.peer.dialog, sent, response);
        if !matches!(self.phase, LegPhase::Confirmed) {
            return;
        }
        let outcome = self.session.handle_answer(response, self.peer.leg, ctx, now);
        let Some(outcome) = outcome else { return };
        self.identify_by_response(&response.headers, ctx);
        let leg = self.id();
        match outcome {
            OfferOutcome::Unchanged => {}
            OfferOutcome::Answered(media) => {
                self.event(LegEvent::OfferAnswered { leg, media }, ctx)
            }
            OfferOutcome::Unanswered => ctx.event(LegEvent::OfferRefused { leg, status: 488 }),
        }
        self.send_queued(ctx, now);
    }

    pub(super) fn handle_offer_refused(
        &mut self,
        sent: &SentRequest,
        response: &SipResponse,
        ctx: &mut Context,
        now: Now,
    ) {
        if !matches!(self.phase, LegPhase::Confirmed)
            || self.send_again(sent, response, ClientUse::Reinvite, ctx, now)
        {
            return;
        }
        let (leg, status) = (self.id(), response.status);
        match self.session.handle_refusal(status, leg, ctx, now) {
            Some(OfferRefusal::Gone) => self.expire(ctx, now),
            Some(OfferRefusal::Refused) => {
                ctx.event(LegEvent::OfferRefused { leg, status });
                self.send_queued(ctx, now);
            }
            Some(OfferRefusal::Settled) | None => {}
        }
    }

    pub(super) fn handle_updated(
        &mut self,
        sent: &SentRequest,
        response: &SipResponse,
        ctx: &mut Context,
        now: Now,
    ) {
        if !matches!(self.phase, LegPhase::Confirmed) {
            return;
        }
        match response.status {
            ..200 => {}
            200..300 => {
                self.peer.dialog.refresh(&response.headers.contacts().unwrap_or_default());
                self.session.timer = self.session.timer.agreed(&response.headers);
                self.session.restart(self.id(), ctx, now);
                self.identify_by_response(&response.headers, ctx);
            }
            408 | 481 => self.expire(ctx, now),
            405 | 501 => {
                self.peer.dialog.allows_update = false;
                self.refresh(ctx, now);
            }
            491 | 500 => self.session.refresh_later(self.id(), ctx, now),
            _ => {
                if !self.send_again(sent, response, ClientUse::Update, ctx, now) {
                    self.session.restart(self.id(), ctx, now);
                }
            }
        }
    }
}

/// A 2xx of a fork that comes too late, or for a leg that is gone: taken and ended at once (RFC
/// 3261 13.2.2.4).
pub(in crate::sip::user_agent) fn refuse_fork(
    id: ClientTransactionId,
    sent: &SentRequest,
    response: &SipResponse,
    ctx: &mut Context,
    now: Now,
) {
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
    ctx.acknowledge(id, &dialog, sent, response);
    let bye = dialog.request(Method::Bye);
    ctx.request(bye, dialog.flow, |_| ClientUse::Other, now);
}

/// The ACK of a refusal belongs to its INVITE's transaction (RFC 3261 17.1.1.3).
pub(in crate::sip::user_agent) fn refusal_ack(
    sent: &SentRequest,
    response: &SipResponse,
) -> SipRequest {
    let invite = &sent.request;
    let mut ack = SipRequest::new(Method::Ack, invite.uri.clone());
    ack.headers.copy(&["Via", "Max-Forwards", "From"], &invite.headers);
    if let Some(to) = response.headers.get("To") {
        ack.headers.push("To", to);
    }
    ack.headers.copy(&["Call-ID", "Route"], &invite.headers);
    ack.headers.push("CSeq", format!("{} ACK", sent.cseq));
    ack
}

fn cancel(sent: &SentRequest, reason: HangupReason) -> SipRequest {
    let invite = &sent.request;
    let mut cancel = SipRequest::new(Method::Cancel, invite.uri.clone());
    let kept = ["Via", "Max-Forwards", "From", "To", "Call-ID", "Route"];
    cancel.headers.copy(&kept, &invite.headers);
    cancel.headers.push("CSeq", format!("{} CANCEL", sent.cseq));
    write_reason(&mut cancel, reason);
    cancel
}

/// The From of a call.
fn shown_as(from: &Identity, host: &str) -> Result<NameAddr, UriError> {
    // RFC 3323 4.1.1.3: the host is not ours either, so that nobody takes it for a number here.
    let host = if from.is_withheld() { "anonymous.invalid" } else { host };
    let mut local = NameAddr::new(Uri::sip(Some(from.number.as_str().as_bytes()), host, None)?);
    let display = match from.display.as_str() {
        "" if from.is_withheld() => "Anonymous",
        display => display,
    };
    local.display = printable(display.as_bytes(), LONGEST_NAME).into_bytes();
    Ok(local)
}

fn write_reason(request: &mut SipRequest, reason: HangupReason) {
    if let Some(cause) = reason {
        let (status, text) = (cause.sip_status(), reason_text(cause));
        request.headers.push("Reason", format!("SIP;cause={status};text=\"{text}\""));
    }
}

fn reason_text(cause: HangupCause) -> &'static str {
    match cause {
        HangupCause::NotAcceptable => "Not Acceptable Here",
        HangupCause::NoAnswer => "No answer to the offer",
        HangupCause::BadContact => "Contact cannot be read",
        HangupCause::MediaFailure => "Media Failure",
        HangupCause::Stopping => "Service Unavailable",
    }
}

fn write_passed(request: &mut SipRequest, passed: &[PassedHeader]) {
    let vouched = passed.iter().any(|header| header.name == "Identity")
        && passed.iter().any(|header| header.name == "Date");
    for header in passed.iter().filter(|header| PASSED.contains(&header.name)) {
        if vouched || !matches!(header.name, "Identity" | "Date") {
            request.headers.push(header.name, &header.value);
        }
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
