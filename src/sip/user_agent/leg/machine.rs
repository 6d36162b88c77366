//! What comes to a leg, and its end.

use super::{ClientUse, Exchange, HangupReason, InDialogRequest, Leg, LegPeer, LegPhase, LegTimer, SentRequest};
use crate::media::is_private;
use crate::model::{Now, Number};
use crate::sip::flow::Flow;
use crate::sip::leg::{EndReason, LegCommand, LegEvent, LegId, LegSource};
use crate::sip::message::{Host, Method, NameAddr, Refuse, SipRequest, SipResponse};
use crate::sip::transaction::{ClientTransactionId, ServerTransactionId};
use crate::sip::user_agent::context::Context;
use std::net::IpAddr;

impl Leg {
    pub fn id(&self) -> LegId {
        self.id
    }

    /// The other end.
    pub fn peer(&self) -> &LegPeer {
        &self.peer
    }

    pub fn source(&self) -> &LegSource {
        &self.peer.source
    }

    /// The number that we go by here.
    pub fn number(&self) -> &Number {
        &self.peer.number
    }

    pub fn call_id(&self) -> &[u8] {
        &self.peer.dialog.call_id
    }

    pub fn local_tag(&self) -> &str {
        &self.peer.dialog.local_tag
    }

    /// By which flow the peer is reached.
    pub fn flow(&self) -> Flow {
        self.peer.dialog.flow
    }

    /// A request or a response with this Call-ID, To tag and From tag is of this dialog.
    pub fn matches(&self, call_id: &[u8], to_tag: &[u8], from_tag: &[u8]) -> bool {
        self.peer.dialog.matches(call_id, to_tag, from_tag)
    }

    /// Nothing is left to do: the leg is to be dropped.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, LegPhase::Over)
    }

    /// Whether an INVITE of `source` may take the place of this leg (RFC 3891 3): of its own peer only. Any other that knows its tags has
    /// learned them somewhere.
    pub fn check_replaced(&self, source: &LegSource, early_only: bool) -> Result<LegId, Refuse> {
        match self.phase {
            _ if self.peer.source != *source => Err(Refuse::new(603)),
            LegPhase::Confirmed if early_only => Err(Refuse::new(486)),
            LegPhase::Confirmed => Ok(self.id),
            LegPhase::Incoming(_)
            | LegPhase::Calling(_)
            | LegPhase::Cancelling(..)
            | LegPhase::ByePending(_)
            | LegPhase::ByeSent
            | LegPhase::Over => Err(Refuse::new(481)),
        }
    }

    /// Whether `other` may name this leg in the Replaces of a REFER.
    pub fn may_be_referred_to(&self, other: &Leg, early_only: bool) -> bool {
        let stands = match self.phase {
            LegPhase::Confirmed => !early_only,
            LegPhase::Incoming(_) | LegPhase::Calling(_) => true,
            LegPhase::Cancelling(..) | LegPhase::ByePending(_) | LegPhase::ByeSent | LegPhase::Over => false,
        };
        stands && other.id != self.id && other.peer.source == self.peer.source
    }

    // ---- what comes in

    /// The B2BUA wants something.
    pub fn handle_command(&mut self, command: LegCommand, ctx: &mut Context, now: Now) {
        match command {
            // It makes a leg, and never comes to one.
            LegCommand::Invite { .. } => {}
            LegCommand::Provisional { status, media, .. } => self.provisional(status, media, ctx, now),
            LegCommand::Accept { media, .. } => self.accept(media, ctx, now),
            LegCommand::Reject { status, .. } => self.answer_incoming(status.clamp(400, 699), ctx, now),
            LegCommand::Offer { media, .. } => self.queue_offer(media, ctx, now),
            LegCommand::AnswerOffer { media, .. } => self.answer_offer(media, ctx, now),
            LegCommand::RejectOffer { status, .. } => {
                self.drop_offer(status.clamp(400, 699), ctx, now);
                self.send_queued(ctx, now);
            }
            LegCommand::RefuseOffer { fault, .. } => {
                self.refuse_offer(&fault, ctx, now);
                self.send_queued(ctx, now);
            }
            LegCommand::AskToAnswer { .. } => self.ask_to_answer(ctx, now),
            LegCommand::TellReferrer { status, .. } => self.tell_referrer(status, ctx, now),
            LegCommand::Hangup { reason, .. } => self.hangup(reason, ctx, now),
        }
    }

    /// The peer has sent a request within the dialog, other than ACK.
    pub fn handle_request(&mut self, received: InDialogRequest<'_>, ctx: &mut Context, now: Now) -> Result<(), Refuse> {
        let InDialogRequest { request, ref via, .. } = received;
        let (cseq, _) = request.headers.cseq().map_err(|_| Refuse::new(400))?;
        self.peer.dialog.accept_cseq(cseq).map_err(|_| Refuse::new(500))?;
        ctx.know(via.path.source);
        self.peer.update_flow(&via.path, &request.headers, ctx, now);
        self.identify_by_request(&request.headers, ctx);
        let again = via.clone();
        if let Err(refuse) = self.dispatch_request(received, ctx, now) {
            self.refuse(again, request, &refuse, ctx, now);
        }
        Ok(())
    }

    /// A CANCEL is of this leg's call.
    pub fn is_cancelled_by(&self, cancel: &SipRequest) -> bool {
        let from = cancel.headers.from().ok();
        let tag = from.as_ref().and_then(NameAddr::tag).unwrap_or_default();
        cancel.headers.call_id() == Ok(self.call_id()) && self.peer.dialog.remote_tag.as_deref() == Some(tag)
    }

    /// The peer has cancelled an INVITE. Anything but the first INVITE, or one that is answered, is not undone by that (RFC 3261 9.2).
    pub fn handle_cancel(&mut self, invite: ServerTransactionId, ctx: &mut Context, now: Now) {
        if matches!(&self.phase, LegPhase::Incoming(incoming) if incoming.transaction == invite) {
            self.answer_incoming(487, ctx, now);
            self.end_told(EndReason::Cancelled, ctx);
        }
    }

    /// The peer has answered a request of ours.
    pub fn handle_response(&mut self, id: ClientTransactionId, client: ClientUse, response: &SipResponse, ctx: &mut Context, now: Now) {
        match (client, response.status) {
            (ClientUse::Invite(..), ..200) => self.handle_progress(response, ctx, now),
            (ClientUse::Invite(_, sent), 200..300) => self.handle_answered(id, &sent, response, ctx, now),
            (ClientUse::Invite(_, sent), _) => self.handle_refused(&sent, response, ctx, now),
            (ClientUse::Reinvite(..), ..200) => {}
            (ClientUse::Reinvite(_, sent), 200..300) => self.handle_offer_answered(id, &sent, response, ctx, now),
            (ClientUse::Reinvite(_, sent), _) => self.handle_offer_refused(&sent, response, ctx, now),
            (ClientUse::Update(_, sent), _) => self.handle_updated(&sent, response, ctx, now),
            (ClientUse::Bye(_, sent), 401 | 407) => {
                if !self.send_again(&sent, response, ClientUse::Bye, ctx, now) {
                    ctx.note_refusal_of(&sent, response.status, &response.reason, Some(&response.headers), now);
                    self.end(ctx);
                }
            }
            (ClientUse::Bye(..), _) => self.end(ctx),
            (ClientUse::Prack(_, sent), 401 | 407) => {
                self.send_again(&sent, response, ClientUse::Prack, ctx, now);
            }
            (ClientUse::Talk(_), 300..) => self.talk_refused(response.status, ctx),
            (ClientUse::Talk(_) | ClientUse::Prack(..) | ClientUse::Qualify(_) | ClientUse::Other, _) => {}
        }
    }

    /// No response came (408), or the transport failed (503). To an INVITE both are the same: nobody is there.
    pub fn handle_failure(&mut self, client: ClientUse, status: u16, ctx: &mut Context, now: Now) {
        match client {
            ClientUse::Invite(_, sent) => self.handle_unanswered(&sent, status, ctx, now),
            ClientUse::Reinvite(_, sent) | ClientUse::Update(_, sent) if self.peer.has_moved(&sent) => {
                self.say_again(sent.request.method == Method::Update, ctx, now);
            }
            ClientUse::Reinvite(..) | ClientUse::Update(..) => {
                self.exchange.end_ours();
                self.expire(ctx, now);
            }
            ClientUse::Bye(_, sent) if self.peer.has_moved(&sent) => self.send_bye(None, ctx, now),
            ClientUse::Bye(..) => self.end(ctx),
            ClientUse::Talk(_) => self.talk_refused(status, ctx),
            // The call is not lost with it: its INVITE still waits for an answer.
            ClientUse::Prack(..) | ClientUse::Qualify(_) | ClientUse::Other => {}
        }
    }

    fn handle_unanswered(&mut self, sent: &SentRequest, status: u16, ctx: &mut Context, now: Now) {
        let told = matches!(self.phase, LegPhase::Calling(_));
        self.end(ctx);
        if told {
            let reason = if status == 408 { "no response" } else { "cannot be reached" };
            ctx.note_refusal_of(sent, status, reason.as_bytes(), None, now);
            ctx.event(LegEvent::Refused { leg: self.id, status: 503 });
        }
    }

    /// A timer of the leg is due.
    pub fn handle_timeout(&mut self, timer: LegTimer, ctx: &mut Context, now: Now) {
        match timer {
            LegTimer::Ringing | LegTimer::Stale => {
                let status = if timer == LegTimer::Stale { 487 } else { 480 };
                self.answer_incoming(status, ctx, now);
                self.end_told(EndReason::Expired, ctx);
            }
            LegTimer::Remind => self.remind(ctx, now),
            LegTimer::Reliable => self.repeat_reliable(ctx, now),
            LegTimer::NoAnswer => {
                let was_heard = matches!(&self.phase, LegPhase::Calling(calling) if calling.provisional);
                let status = if was_heard { 408 } else { 503 };
                self.hangup(None, ctx, now);
                ctx.event(LegEvent::Refused { leg: self.id, status });
            }
            LegTimer::Cancelled => {
                if let LegPhase::Cancelling(calling, _) = &self.phase {
                    ctx.transactions.abandon(calling.transaction);
                    self.end(ctx);
                }
            }
            LegTimer::Accepted => self.repeat_accepted(ctx, now),
            LegTimer::Refresh => self.refresh(ctx, now),
            LegTimer::Expire | LegTimer::Offer => self.expire(ctx, now),
            LegTimer::Theirs => {
                self.drop_offer(500, ctx, now);
                self.send_queued(ctx, now);
            }
            LegTimer::Glare => self.send_queued(ctx, now),
            LegTimer::Lost => match self.phase {
                LegPhase::ByePending(_) => self.end(ctx),
                _ => self.expire(ctx, now),
            },
        }
    }

    // ---- the flow to the peer

    /// The flow to the peer is gone: a trunk is reached by another connection, a phone by another registration, or when it comes back.
    pub fn handle_flow_gone(&mut self, gone: &Flow, ctx: &mut Context, now: Now) {
        match &self.peer.source {
            LegSource::Trunk(name) => {
                if let Some(trunk) = ctx.domain.config.trunk(name).cloned() {
                    self.peer.reconnect(&trunk, gone);
                }
            }
            LegSource::Account(device) => match ctx.registrar.lookup(device, now.mono).map(|binding| binding.target) {
                Some(flow) => self.follow(flow, ctx, now),
                None => self.peer.lose_flow(),
            },
        }
    }

    /// The phone is reached by another flow from now on: what has waited for it is said.
    pub fn follow(&mut self, flow: Flow, ctx: &mut Context, now: Now) {
        self.peer.follow(flow);
        // What is still to be answered is answered there, too.
        let pending = match (&self.phase, &self.exchange) {
            (LegPhase::Incoming(incoming), _) => Some(incoming.transaction),
            (_, Exchange::Theirs { transaction, .. }) => Some(*transaction),
            _ => None,
        };
        if let Some(transaction) = pending {
            ctx.transactions.redirect(transaction, flow, None);
        }
        let waits_for_ack = self.unacknowledged.as_mut().map(|waiting| waiting.flow = flow).is_some();
        ctx.timers.clear(&(self.id, LegTimer::Lost));
        if self.located.is_some() {
            self.locate(ctx);
        }
        match self.phase {
            LegPhase::ByePending(reason) if !waits_for_ack => self.send_bye(reason, ctx, now),
            _ => self.send_queued(ctx, now),
        }
    }

    /// Something is to be said to a phone that can not be reached: for so long as any request waits for its answer, it may come back.
    pub(super) fn wait_for_phone(&mut self, ctx: &mut Context, now: Now) {
        if !ctx.timers.is_set(&(self.id, LegTimer::Lost)) {
            let give_up = ctx.domain.config.timing.give_up();
            ctx.timers.set((self.id, LegTimer::Lost), now.mono + give_up);
        }
    }

    // ---- what the B2BUA is told

    /// Tells the B2BUA, and before that where the leg is, if that is news and matters for the event.
    pub(super) fn event(&mut self, event: LegEvent, ctx: &mut Context) {
        self.locate(ctx);
        ctx.event(event);
    }

    fn locate(&mut self, ctx: &mut Context) {
        let (host, is_translated) = self.whereabouts();
        if self.located != Some((host, is_translated)) {
            self.located = Some((host, is_translated));
            ctx.event(LegEvent::Located {
                leg: self.id,
                host,
                is_translated,
            });
        }
    }

    /// Where its signalling comes from; and whether that is a device which names another address in its Via, or another, private one in its
    /// Contact. A trunk may have several addresses of its own, and so may the loopback.
    fn whereabouts(&self) -> (IpAddr, bool) {
        let host = self.flow().peer.ip().to_canonical();
        if host.is_loopback() || matches!(self.peer.source, LegSource::Trunk(_)) {
            return (host, false);
        }
        let was = self.located.is_some_and(|(before, is_translated)| is_translated && before == host);
        let contact = self.peer.dialog.target.host();
        let via = match &self.phase {
            LegPhase::Incoming(incoming) => incoming.invite.headers.via_top().ok().map(|via| Host::read(&via.host)),
            LegPhase::Calling(_)
            | LegPhase::Cancelling(..)
            | LegPhase::Confirmed
            | LegPhase::ByePending(_)
            | LegPhase::ByeSent
            | LegPhase::Over => None,
        };
        let is_hidden = matches!(contact, Host::Address(address) if is_private(address) && address.to_canonical() != host);
        let is_other = matches!(via, Some(Host::Address(address)) if address.to_canonical() != host);
        (host, was || is_hidden || is_other)
    }

    // ---- its end

    /// Releases the leg in whatever state it is.
    fn hangup(&mut self, reason: HangupReason, ctx: &mut Context, now: Now) {
        match &self.phase {
            LegPhase::Incoming(_) => {
                let status = reason.map_or(480, |(status, _)| status);
                self.answer_incoming(if (400..=699).contains(&status) { status } else { 480 }, ctx, now);
            }
            LegPhase::Calling(calling) => {
                self.phase = LegPhase::Cancelling(calling.clone(), reason);
                ctx.timers.clear(&(self.id, LegTimer::NoAnswer));
                self.cancel_if_heard(ctx, now);
            }
            LegPhase::Confirmed => {
                self.drop_offer(487, ctx, now);
                self.send_bye(reason, ctx, now);
            }
            LegPhase::Cancelling(..) | LegPhase::ByePending(_) | LegPhase::ByeSent | LegPhase::Over => {}
        }
    }

    /// The peer is no longer there, or no longer knows the call.
    pub(super) fn expire(&mut self, ctx: &mut Context, now: Now) {
        if matches!(self.phase, LegPhase::Confirmed) {
            self.drop_offer(487, ctx, now);
            self.send_bye(None, ctx, now);
            self.end_told(EndReason::Expired, ctx);
        }
    }

    /// The session begins, or has been refreshed.
    pub(super) fn restart_session(&mut self, ctx: &mut Context, now: Now) {
        self.session.restart(self.id, &mut ctx.timers, now);
    }

    /// Tells the B2BUA that the call has ended here.
    pub(super) fn end_told(&self, reason: EndReason, ctx: &mut Context) {
        ctx.event(LegEvent::Ended { leg: self.id, reason });
    }

    /// The leg is over.
    pub(super) fn end(&mut self, ctx: &mut Context) {
        self.phase = LegPhase::Over;
        self.stop_timers(ctx);
    }

    pub(super) fn stop_timers(&self, ctx: &mut Context) {
        for timer in LegTimer::ALL {
            ctx.timers.clear(&(self.id, timer));
        }
    }
}
