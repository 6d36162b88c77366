//! Requests of ours, and the responses to them.

use super::invite_session::{InviteSession, OfferOutcome, OfferRefusal, UpdateOutcome};
use super::reliable::{fork, rseq};
use super::session_timer::SessionTimer;
use super::{
    ClientUse, HangupReason, Leg, LegPeer, LegPhase, LegTimer, OutgoingInvite, RequestRoute,
    SentRequest,
};
use crate::model::{Now, UserData};
use crate::sip::config::AutoAnswer;
use crate::sip::dialog::Dialog;
use crate::sip::leg::{
    CallReasons, HangupCause, Identity, LegEvent, LegId, LegSource, PassedHeader,
};
use crate::sip::message::{Method, NameAddr, SipRequest, SipResponse, Uri, UriError, printable};
use crate::sip::transaction::{ClientKey, ClientTransactionId, TransactionKind};
use crate::sip::user_agent::caller_identity::LONGEST_NAME;
use crate::sip::user_agent::context::Context;
use crate::sip::user_agent::leg_table::TRAIL;
use crate::sip::user_agent::trunk_registration::retry_after;
use std::sync::Arc;
use std::time::Duration;

/// No early dialog sees so many.
const PRACKS: u32 = 1000;

/// The header fields that an INVITE of ours may carry for another.
const PASSED: &[&str] = &["Identity", "Date", "User-to-User", "Session-ID"];

/// An INVITE to be sent.
#[derive(Debug)]
pub(in crate::sip::user_agent) struct InviteContent {
    /// The caller in From, as the peer may see it.
    pub(in crate::sip::user_agent) from: Identity,
    /// The caller that is asserted, to a peer within our trust domain.
    pub(in crate::sip::user_agent) asserted: Option<Identity>,
    pub(in crate::sip::user_agent) offer: Vec<u8>,
    /// How the phone is asked to answer by itself, if it is.
    pub(in crate::sip::user_agent) auto_answer: Option<AutoAnswer>,
    pub(in crate::sip::user_agent) max_forwards: u8,
    pub(in crate::sip::user_agent) passed: Vec<PassedHeader>,
    pub(in crate::sip::user_agent) user_data: UserData,
    pub(in crate::sip::user_agent) reasons: CallReasons,
}

impl InviteContent {
    /// Writes the INVITE of a new leg.
    fn write(
        &self,
        mut request: SipRequest,
        (leg, peer): (LegId, &LegSource),
        timer: &SessionTimer,
        dialog: &Dialog,
        ctx: &Context,
    ) -> SipRequest {
        request.headers.set("Max-Forwards", self.max_forwards.to_string());
        ctx.domain.write_common(&mut request, dialog, &self.from.number);
        request.headers.set("Supported", "timer, 100rel");
        request.headers.push(TRAIL, ctx.tokens.token(leg));
        if self.from.is_withheld() {
            request.headers.push("Privacy", "id");
        }
        let host = ctx.domain.via_host(&dialog.flow);
        if let Some(caller) = &self.asserted {
            ctx.domain.write_asserted(&mut request, peer, caller, &host);
        }
        timer.write_request(&mut request);
        if let Some(style) = self.auto_answer {
            write_auto_answer(&mut request, style, &host);
        }
        write_passed(&mut request, &self.passed);
        ctx.domain.write_reasons(&mut request, peer, (&self.reasons, &self.passed), &host);
        ctx.domain.write_user_data(&mut request, peer, &self.user_data);
        request.with_body("application/sdp", self.offer.clone())
    }
}

/// What a provisional response says.
pub(super) struct Progress {
    /// Its description, when that is news.
    media: Option<Vec<u8>>,
    /// RSeq and CSeq for the PRACK that it wants.
    acknowledges: Option<(u32, u32)>,
}

/// What a 2xx to an INVITE of ours means for its leg.
#[derive(Debug)]
pub(super) enum InviteAnswer {
    /// The CANCEL and the 2xx have crossed.
    Cancelled(HangupReason),
    /// The answer to our offer.
    Media(Vec<u8>),
    /// No call comes of it.
    Unusable(AnswerFault),
}

/// Why a 2xx to an INVITE of ours begins no call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AnswerFault {
    #[error("the Contact of its answer cannot be read")]
    Contact,
    #[error("no session description in its answer")]
    NoDescription,
}

impl AnswerFault {
    fn cause(self) -> HangupCause {
        match self {
            Self::Contact => HangupCause::BadContact,
            Self::NoDescription => HangupCause::NoAnswer,
        }
    }
}

impl OutgoingInvite {
    /// It is given up.
    pub(super) fn cancel(
        mut self,
        reason: HangupReason,
        leg: LegId,
        ctx: &mut Context,
        now: Now,
    ) -> Self {
        ctx.timers.clear(&(leg, LegTimer::NoAnswer));
        self.cancel_if_heard(reason, leg, ctx, now);
        self
    }

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
        send_cancel(&self.sent, reason, ctx, now);
        let give_up = ctx.domain.config.timing.give_up();
        ctx.timers.set((leg, LegTimer::Cancelled), now.mono + give_up);
    }

    /// Sends the INVITE of a new leg, which begins this dialog.
    fn send(
        leg: LegId,
        RequestRoute { flow, uri, to, source, is_secure, others }: RequestRoute,
        content: &InviteContent,
        timer: &SessionTimer,
        ctx: &mut Context,
        now: Now,
    ) -> Result<(Dialog, OutgoingInvite), UriError> {
        let host = ctx.domain.via_host(&flow);
        let local = shown_as(&content.from, &host)?;
        let call_id = format!("{}{}@{host}", ctx.tokens.word(), ctx.tokens.word());
        let tag = ctx.tokens.word();
        let mut dialog = Dialog::outgoing(call_id, local, tag, to, uri, flow);
        dialog.is_secure |= is_secure;
        let request = dialog.request(Method::Invite);
        let request = content.write(request, (leg, &source), timer, &dialog, ctx);
        let sent = ctx.sent(request, flow, 0);
        let client = ClientUse::Invite(leg, sent.clone());
        let transaction = ctx.send(TransactionKind::Invite, client, &sent, now);
        let (provisional, cancelled, forks) = (false, false, Vec::new());
        let invite = OutgoingInvite { transaction, sent, provisional, cancelled, forks, others };
        Ok((dialog, invite))
    }

    /// Takes a provisional response; `None` when it says nothing, or was heard before.
    pub(super) fn hear(&mut self, response: &SipResponse) -> Option<Progress> {
        self.provisional = true;
        if response.status == 100 {
            return None;
        }
        let rseq = rseq(response);
        let mut media = response.description().map(<[u8]>::to_vec);
        let fork = fork(&mut self.forks, &response.headers.to_tag())?;
        let is_news = fork.hear(rseq, &mut media);
        let acknowledges = rseq.map(|rseq| (rseq, self.sent.cseq));
        is_news.then_some(Progress { media, acknowledges })
    }

    /// The answer of a 2xx: what other forks have described is not its answer.
    pub(super) fn answer(&mut self, response: &SipResponse) -> InviteAnswer {
        // Where its phone is nobody knows: what was said in the call would not arrive.
        if response.headers.contacts().is_err() {
            return InviteAnswer::Unusable(AnswerFault::Contact);
        }
        let described = response.description().map(<[u8]>::to_vec);
        let media = match fork(&mut self.forks, &response.headers.to_tag()) {
            Some(answering) => answering.clone().answer(described),
            None => described,
        };
        media.map_or(InviteAnswer::Unusable(AnswerFault::NoDescription), InviteAnswer::Media)
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
        let timer = SessionTimer::new(&ctx.domain.config);
        let source = route.source.clone();
        let (dialog, calling) = OutgoingInvite::send(id, route, &content, &timer, ctx, now)?;
        let peer = LegPeer::called(id, source, content.from.number, dialog, &ctx.domain);
        let session = InviteSession::new(timer, content.offer, Vec::new());
        Ok(Leg::new(peer, LegPhase::Calling(calling), session))
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
        self.digits.swallow = swallow_digits;
        self.expect_first_response(ctx, now);
    }

    /// The next target is tried when this one says nothing for a while.
    fn expect_first_response(&self, ctx: &mut Context, now: Now) {
        let trunk = self.peer.trunk().and_then(|name| ctx.domain.trunk(name));
        if let (LegPhase::Calling(calling), Some(trunk)) = (&self.phase, trunk)
            && !calling.others.is_empty()
        {
            let at = now.mono + trunk.first_response;
            ctx.timers.set((self.id(), LegTimer::FirstResponse), at);
        }
    }

    /// Nobody is there, or a proxy says so: the INVITE goes to the next target (RFC 3263 4.3), if
    /// there is one and nobody has rung. The one that it went to is tried behind others for `rest`.
    pub(super) fn try_next(&mut self, rest: Duration, ctx: &mut Context, now: Now) -> bool {
        let LegPhase::Calling(calling) = &mut self.phase else { return false };
        let tried = calling.sent.flow;
        if self.peer.trunk().is_some() {
            ctx.targets.rest((tried.protocol, tried.peer), rest, now);
        }
        if !calling.forks.is_empty() {
            return false;
        }
        let Some((flow, uri)) = calling.others.pop_front() else { return false };
        ctx.transactions.stop_repeating(calling.transaction);
        self.given_up.push(calling.sent.branch.clone());
        let mut request = calling.sent.request.clone();
        request.uri = uri.clone();
        self.peer.try_at(flow, uri);
        for name in ["Authorization", "Proxy-Authorization"] {
            request.headers.remove(name);
        }
        request.headers.set("Contact", self.peer.contact(&ctx.domain));
        let sent = ctx.sent(request, flow, 0);
        let client = ClientUse::Invite(self.peer.leg, sent.clone());
        calling.transaction = ctx.send(TransactionKind::Invite, client, &sent, now);
        calling.sent = sent;
        calling.provisional = false;
        self.expect_first_response(ctx, now);
        true
    }

    /// A target that was given up has answered after all: nobody waits there any more.
    pub(super) fn handle_late(
        &mut self,
        id: ClientTransactionId,
        sent: &SentRequest,
        response: &SipResponse,
        ctx: &mut Context,
        now: Now,
    ) {
        match response.status {
            ..200 if ctx.transactions.client(&cancel_key(sent)).is_none() => {
                send_cancel(sent, None, ctx, now)
            }
            200..300 => refuse_fork(id, sent, response, ctx, now),
            _ => {}
        }
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
        LegTimer::stop_all(self.id(), ctx);
        self.peer.send_bye(reason, ctx, now);
    }

    /// Sends the offer that waits, if nothing forbids it.
    pub(super) fn send_queued(&mut self, ctx: &mut Context, now: Now) {
        if self.phase.is_confirmed() {
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

    /// Tells the peer which party it is connected with, if it may know. A phone that can not be
    /// reached hears of it with the next refresh.
    pub(super) fn identify(&mut self, party: Identity, ctx: &mut Context, now: Now) {
        self.peer.connected_with = Some(party);
        if self.peer.may_know_parties(&ctx.domain) && !self.peer.is_lost() {
            self.refresh(ctx, now);
        }
    }

    /// Our UPDATE or re-INVITE was lost with its flow: once more by the new one, or when there is
    /// one.
    pub(super) fn say_again(&mut self, update: bool, ctx: &mut Context, now: Now) {
        if !self.phase.is_confirmed() {
            return;
        }
        match update {
            true => self.session.refresh(&mut self.peer, ctx, now),
            false => self.session.offer_again(&mut self.peer, ctx, now),
        }
    }

    // ---- responses to INVITE

    pub(super) fn handle_progress(&mut self, response: &SipResponse, ctx: &mut Context, now: Now) {
        let heard = self.phase.hear(response, self.peer.leg, ctx, now);
        let Some(Progress { media, acknowledges }) = heard else {
            return;
        };
        self.peer.handle_response(response, &ctx.domain);
        self.connected.note_early(&response.headers, &self.peer, &ctx.domain);
        if let Some((rseq, cseq)) = acknowledges {
            self.peer.send_prack(rseq, cseq, ctx, now);
        }
        let (leg, status) = (self.id(), response.status);
        self.event(LegEvent::Progress { leg, status, media }, ctx);
    }

    pub(super) fn handle_answered(
        &mut self,
        id: ClientTransactionId,
        sent: &SentRequest,
        response: &SipResponse,
        ctx: &mut Context,
        now: Now,
    ) {
        let Some(answer) = self.phase.take_answer(response) else {
            return refuse_fork(id, sent, response, ctx, now);
        };
        self.peer.handle_response(response, &ctx.domain);
        ctx.acknowledge(id, &self.peer.dialog, sent, response);
        self.session.timer = self.session.timer.agreed(&response.headers);
        self.phase = LegPhase::Confirmed;
        match answer {
            InviteAnswer::Cancelled(reason) => self.send_bye(reason, ctx, now),
            InviteAnswer::Media(media) => self.begin_session(media, response, ctx, now),
            InviteAnswer::Unusable(fault) => {
                ctx.note_failed(sent, response.status, &fault.to_string(), now);
                let cause = fault.cause();
                self.send_bye(Some(cause), ctx, now);
                ctx.event(LegEvent::Failed { leg: self.id(), status: cause.sip_status() });
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
        LegTimer::stop_all(self.id(), ctx);
        self.session.restart(self.id(), ctx, now);
        self.connected.report_answer(&response.headers, &self.peer, ctx);
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
        if matches!(self.phase, LegPhase::Cancelling(..)) {
            return self.end(ctx);
        }
        if !matches!(self.phase, LegPhase::Calling(_))
            || self.send_again(sent, response, ClientUse::Invite, ctx, now)
        {
            return;
        }
        ctx.note_refused_by(sent, response, now);
        // RFC 3261 21.5.4: of the target, not of who is called.
        let rest = retry_after(&response.headers).unwrap_or_default();
        if response.status == 503 && self.try_next(rest, ctx, now) {
            return;
        }
        let to = match self.peer.trunk() {
            None => ctx.domain.redirected_to(response),
            Some(name) => ctx.domain.redirected_by_trunk(name, response),
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
        let timer = &mut self.session.timer;
        let again = self.peer.send_again((sent, response), timer, client, ctx, now);
        let Some((transaction, again)) = again else {
            return false;
        };
        match &mut self.phase {
            _ if again.request.method != Method::Invite => {}
            LegPhase::Calling(calling) => {
                (calling.transaction, calling.sent) = (transaction, again);
                calling.provisional = false;
            }
            _ => self.session.move_offer(transaction),
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
        self.peer.retarget(&ctx.domain);
        ctx.acknowledge(id, &self.peer.dialog, sent, response);
        if !self.phase.is_confirmed() {
            return;
        }
        let outcome = self.session.handle_answer(response, self.peer.leg, ctx, now);
        let Some(outcome) = outcome else { return };
        self.connected.report_answer(&response.headers, &self.peer, ctx);
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
        if !self.phase.is_confirmed()
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
        if !self.phase.is_confirmed() {
            return;
        }
        match self.session.handle_updated(response, &mut self.peer, ctx, now) {
            UpdateOutcome::Settled => {}
            UpdateOutcome::Refreshed => {
                self.connected.report_answer(&response.headers, &self.peer, ctx);
            }
            UpdateOutcome::Gone => self.expire(ctx, now),
            UpdateOutcome::Refused => {
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

fn cancel_key(sent: &SentRequest) -> ClientKey {
    ClientKey { branch: sent.branch.clone(), method: b"CANCEL".to_vec() }
}

fn send_cancel(sent: &SentRequest, reason: HangupReason, ctx: &mut Context, now: Now) {
    let (kind, bytes) = (TransactionKind::Other, cancel(sent, reason).to_bytes());
    let key = cancel_key(sent);
    ctx.transactions.request(key, kind, sent.flow, bytes, ClientUse::Other, now.mono);
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
pub(in crate::sip::user_agent) fn shown_as(
    from: &Identity,
    host: &str,
) -> Result<NameAddr, UriError> {
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

pub(super) fn write_reason(request: &mut SipRequest, reason: HangupReason) {
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
        HangupCause::Declined => "Decline",
        HangupCause::Redirected => "Moved Temporarily",
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
