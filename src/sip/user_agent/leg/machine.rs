//! What comes to a leg, and its end.

use super::{
    ClientUse, HangupReason, InDialogRequest, Leg, LegPeer, LegPhase, LegTimer, ReferredLeg,
    SentRequest,
};
use crate::model::Now;
use crate::sip::flow::Flow;
use crate::sip::leg::{EndReason, HangupCause, LegCommand, LegEvent, LegId, LegSource};
use crate::sip::message::{Headers, Method, Refuse, SipResponse};
use crate::sip::transaction::{ClientTransactionId, ServerTransactionId};
use crate::sip::user_agent::context::Context;
use crate::sip::user_agent::trunk_targets::REST;

impl Leg {
    pub fn id(&self) -> LegId {
        self.peer.leg
    }

    /// The other end.
    pub fn peer(&self) -> &LegPeer {
        &self.peer
    }

    /// Nothing is left to do: the leg is to be dropped.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, LegPhase::Over)
    }

    /// Whether an INVITE of `source` may take the place of this leg (RFC 3891 3): of its own peer
    /// only, or of another behind the same switch (`trunk`), which has joined the two. Any other
    /// that knows its tags has learned them somewhere.
    pub fn check_replaced(
        &self,
        (source, trunk): (&LegSource, Option<&str>),
        early_only: bool,
    ) -> Result<LegId, Refuse> {
        let is_of_switch = trunk.is_some() && self.peer.trunk() == trunk;
        if self.peer.source != *source && !is_of_switch {
            return Err(Refuse::new(603));
        }
        self.phase.check_replaced(early_only).map(|()| self.id())
    }

    /// This leg, as another may name it in the Replaces of a REFER.
    pub fn as_referred(&self, early_only: bool) -> Option<ReferredLeg> {
        let (leg, source, number) = (self.id(), &self.peer.source, &self.peer.number);
        self.phase.may_be_referred_to(early_only).then(|| ReferredLeg {
            leg,
            source: source.clone(),
            number: number.clone(),
        })
    }

    // ---- what comes in

    /// The B2BUA wants something.
    pub fn handle_command(&mut self, command: LegCommand, ctx: &mut Context, now: Now) {
        match command {
            // It makes a leg, and never comes to one.
            LegCommand::Invite { .. } => {}
            LegCommand::Provisional { status, media, .. } => {
                self.provisional(status, media, ctx, now)
            }
            LegCommand::Accept { media, .. } => self.accept(media, ctx, now),
            LegCommand::Reject { status, .. } => {
                self.answer_incoming(status.clamp(400, 699), ctx, now)
            }
            LegCommand::Refuse { status, text, .. } => {
                self.refuse_incoming(status.clamp(400, 699), &text, ctx, now)
            }
            LegCommand::Offer { media, .. } => {
                self.session.queue(media);
                self.send_queued(ctx, now);
            }
            LegCommand::AnswerOffer { media, .. } => self.answer_offer(media, ctx, now),
            LegCommand::RejectOffer { status, .. } => {
                self.drop_offer(status.clamp(400, 699), ctx, now);
                self.send_queued(ctx, now);
            }
            LegCommand::RefuseOffer { fault, .. } => {
                self.refuse_offer(&fault, ctx, now);
                self.send_queued(ctx, now);
            }
            LegCommand::Identify { party, .. } => self.identify(party, ctx, now),
            LegCommand::AskToAnswer { .. } => self.ask_to_answer(ctx, now),
            LegCommand::TellReferrer { status, .. } => self.tell_referrer(status, ctx, now),
            LegCommand::Hangup { reason, .. } => self.hangup(reason, ctx, now),
        }
    }

    /// The peer has sent a request within the dialog, other than ACK.
    pub fn handle_request(
        &mut self,
        received: InDialogRequest<'_>,
        ctx: &mut Context,
        now: Now,
    ) -> Result<(), Refuse> {
        let InDialogRequest { request, ref via, .. } = received;
        let (cseq, _) = request.headers.cseq().map_err(|_| Refuse::new(400))?;
        self.peer.dialog.accept_cseq(cseq).map_err(|_| Refuse::new(500))?;
        ctx.know(via.path.source);
        self.peer.update_flow(&via.path, &request.headers, ctx, now);
        self.connected.report_request(&request.headers, &self.peer, ctx);
        let again = via.clone();
        if let Err(refuse) = self.dispatch_request(received, ctx, now) {
            ctx.refuse_within(self.id(), again, request, &refuse, now);
        }
        Ok(())
    }

    /// What a request of the peer that is refused elsewhere says of the party there.
    pub fn identify_by_request(&mut self, headers: &Headers, ctx: &mut Context) {
        self.connected.report_request(headers, &self.peer, ctx);
    }

    /// The peer has cancelled an INVITE. Anything but the first INVITE, or one that is answered, is
    /// not undone by that (RFC 3261 9.2).
    pub fn handle_cancel(&mut self, invite: ServerTransactionId, ctx: &mut Context, now: Now) {
        if matches!(&self.phase, LegPhase::Incoming(incoming) if incoming.transaction == invite) {
            self.answer_incoming(487, ctx, now);
            self.end_told(EndReason::Cancelled, ctx);
        }
    }

    /// The peer has answered a request of ours.
    pub fn handle_response(
        &mut self,
        id: ClientTransactionId,
        client: ClientUse,
        response: &SipResponse,
        ctx: &mut Context,
        now: Now,
    ) {
        match (client, response.status) {
            (ClientUse::Invite(_, sent), _) if self.given_up.contains(&sent.branch) => {
                self.handle_late(id, &sent, response, ctx, now)
            }
            (ClientUse::Invite(..), ..200) => self.handle_progress(response, ctx, now),
            (ClientUse::Invite(_, sent), 200..300) => {
                self.handle_answered(id, &sent, response, ctx, now)
            }
            (ClientUse::Invite(_, sent), _) => self.handle_refused(&sent, response, ctx, now),
            (ClientUse::Reinvite(..), ..200) => {}
            (ClientUse::Reinvite(_, sent), 200..300) => {
                self.handle_offer_answered(id, &sent, response, ctx, now)
            }
            (ClientUse::Reinvite(_, sent), _) => {
                self.handle_offer_refused(&sent, response, ctx, now)
            }
            (ClientUse::Update(_, sent), _) => self.handle_updated(&sent, response, ctx, now),
            (ClientUse::Bye(_, sent), 401 | 407) => {
                if !self.send_again(&sent, response, ClientUse::Bye, ctx, now) {
                    ctx.note_refused_by(&sent, response, now);
                    self.end(ctx);
                }
            }
            (ClientUse::Bye(..), _) => self.end(ctx),
            (ClientUse::Prack(_, sent), 401 | 407) => {
                self.send_again(&sent, response, ClientUse::Prack, ctx, now);
            }
            (ClientUse::Talk(_), 300..) => self.talk_refused(response.status, ctx),
            (
                ClientUse::Talk(_)
                | ClientUse::Prack(..)
                | ClientUse::Qualify(_)
                | ClientUse::AskTrunk(_)
                | ClientUse::Register(..)
                | ClientUse::Other,
                _,
            ) => {}
        }
    }

    /// No response came (408), or the transport failed (503). To an INVITE both are the same:
    /// nobody is there.
    pub fn handle_failure(&mut self, client: ClientUse, status: u16, ctx: &mut Context, now: Now) {
        match client {
            // It has gone to another target since.
            ClientUse::Invite(_, sent) if self.given_up.contains(&sent.branch) => {}
            ClientUse::Invite(_, sent) => self.handle_unanswered(&sent, status, ctx, now),
            ClientUse::Reinvite(_, sent) | ClientUse::Update(_, sent)
                if self.peer.has_moved(&sent) =>
            {
                self.say_again(sent.request.method == Method::Update, ctx, now);
            }
            ClientUse::Reinvite(..) | ClientUse::Update(..) => {
                self.session.forget_offer();
                self.expire(ctx, now);
            }
            ClientUse::Bye(_, sent) if self.peer.has_moved(&sent) => self.send_bye(None, ctx, now),
            ClientUse::Bye(..) => self.end(ctx),
            ClientUse::Talk(_) => self.talk_refused(status, ctx),
            // The call is not lost with it: its INVITE still waits for an answer.
            ClientUse::Prack(..)
            | ClientUse::Qualify(_)
            | ClientUse::AskTrunk(_)
            | ClientUse::Register(..)
            | ClientUse::Other => {}
        }
    }

    fn handle_unanswered(&mut self, sent: &SentRequest, status: u16, ctx: &mut Context, now: Now) {
        let told = matches!(self.phase, LegPhase::Calling(_));
        if told {
            let reason = if status == 408 { "no response" } else { "cannot be reached" };
            ctx.note_failed(sent, status, reason, now);
        }
        if self.try_next(REST, ctx, now) {
            if status == 503 {
                // Until it answers OPTIONS again, which says that it is back.
                ctx.targets.handle_silence((sent.flow.protocol, sent.flow.peer));
            }
            return;
        }
        self.end(ctx);
        if told {
            ctx.event(LegEvent::Failed { leg: self.id(), status: 503 });
        }
    }

    /// A target has said nothing for a while.
    fn handle_silence(&mut self, sent: &SentRequest, ctx: &mut Context, now: Now) {
        if self.try_next(REST, ctx, now) {
            ctx.note_failed(sent, 408, "no response: the next target is tried", now);
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
            LegTimer::FirstResponse => {
                if let LegPhase::Calling(calling) = &self.phase
                    && !calling.provisional
                {
                    let sent = calling.sent.clone();
                    self.handle_silence(&sent, ctx, now);
                }
            }
            LegTimer::NoAnswer => {
                let status = if self.phase.is_progressing() { 408 } else { 503 };
                self.hangup(None, ctx, now);
                ctx.event(LegEvent::Failed { leg: self.id(), status });
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

    /// The flow to the peer is gone: a trunk is reached by another connection, a phone by another
    /// registration, or when it comes back.
    pub fn handle_flow_gone(&mut self, gone: &Flow, ctx: &mut Context, now: Now) {
        if let Some(flow) = self.peer.handle_flow_gone(gone, ctx, now) {
            self.follow(flow, ctx, now);
        }
    }

    /// The phone is reached by another flow from now on: what has waited for it is said.
    pub fn follow(&mut self, flow: Flow, ctx: &mut Context, now: Now) {
        self.peer.follow(flow);
        // What is still to be answered is answered there, too.
        if let LegPhase::Incoming(incoming) = &self.phase {
            ctx.transactions.redirect(incoming.transaction, flow, None);
        }
        self.session.follow(flow, ctx);
        ctx.timers.clear(&(self.id(), LegTimer::Lost));
        if self.peer.is_located() {
            self.locate(ctx);
        }
        match self.phase {
            LegPhase::ByePending(reason) if !self.session.expects_ack() => {
                self.send_bye(reason, ctx, now)
            }
            _ => self.send_queued(ctx, now),
        }
    }

    // ---- what the B2BUA is told

    /// Tells the B2BUA, and before that where the leg is, if that is news and matters for the
    /// event.
    pub(super) fn event(&mut self, event: LegEvent, ctx: &mut Context) {
        self.locate(ctx);
        ctx.event(event);
    }

    fn locate(&mut self, ctx: &mut Context) {
        self.peer.report_location(self.phase.via_host(), ctx);
    }

    // ---- its end

    /// Releases the leg in whatever state it is.
    fn hangup(&mut self, reason: HangupReason, ctx: &mut Context, now: Now) {
        match &self.phase {
            LegPhase::Incoming(_) => {
                let status = reason.map(HangupCause::sip_status);
                let status = status.filter(|status| (400..=699).contains(status)).unwrap_or(480);
                self.answer_incoming(status, ctx, now);
            }
            LegPhase::Calling(calling) => {
                let calling = calling.clone().cancel(reason, self.peer.leg, ctx, now);
                self.phase = LegPhase::Cancelling(calling, reason);
            }
            LegPhase::Confirmed => {
                self.drop_offer(487, ctx, now);
                self.send_bye(reason, ctx, now);
            }
            LegPhase::Cancelling(..)
            | LegPhase::ByePending(_)
            | LegPhase::ByeSent
            | LegPhase::Over => {}
        }
    }

    /// The peer is no longer there, or no longer knows the call.
    pub(super) fn expire(&mut self, ctx: &mut Context, now: Now) {
        if self.phase.is_confirmed() {
            self.drop_offer(487, ctx, now);
            self.send_bye(None, ctx, now);
            self.end_told(EndReason::Expired, ctx);
        }
    }

    /// Tells the B2BUA that the call has ended here.
    pub(super) fn end_told(&self, reason: EndReason, ctx: &mut Context) {
        ctx.event(LegEvent::Ended { leg: self.id(), reason });
    }

    /// The leg is over.
    pub(super) fn end(&mut self, ctx: &mut Context) {
        self.phase = LegPhase::Over;
        LegTimer::stop_all(self.id(), ctx);
    }
}
