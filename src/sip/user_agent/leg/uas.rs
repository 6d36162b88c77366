//! Requests of the peer, and our answers to them.

use super::invite_session::{AckAnswer, InviteSession, ReceivedOffer};
use super::phase::ByeOutcome;
use super::{
    ConnectedNames, InDialogRequest, IncomingInvite, Leg, LegPeer, LegPhase, LegTimer,
    ReliableProvisionals, SessionTimer, check_session,
};
use crate::model::Now;
use crate::sip::leg::{EndReason, HangupCause, LegEvent, LegId};
use crate::sip::message::{Host, Method, Refuse, SipRequest, SipResponse, quote};
use crate::sip::sdp::{SdpError, SdpFault};
use crate::sip::transaction::{ReceivedVia, ServerTransactionId};
use crate::sip::user_agent::context::Context;
use crate::sip::user_agent::local_domain::{ACCEPT, ALLOW};
use std::time::Duration;

/// RFC 3261 13.3.1.1: a provisional response is repeated every minute.
const REMIND: Duration = Duration::from_secs(60);

/// An Expires of an INVITE that is longer is as good as none: nothing rings so long.
const EXPIRES: Duration = Duration::from_secs(86_400);

impl IncomingInvite {
    /// Sends a provisional response, reliably if the caller takes it so; the next waits until such
    /// a one has been heard.
    fn ring(
        &mut self,
        (status, media): (u16, Option<Vec<u8>>),
        reliable: Option<&mut ReliableProvisionals>,
        peer: &LegPeer,
        ctx: &mut Context,
        now: Now,
    ) {
        let mut reliable = reliable.filter(|reliable| reliable.takes(media.is_some()));
        if reliable.as_mut().is_some_and(|reliable| reliable.defer(status, media.as_ref())) {
            return;
        }
        let mut response = SipResponse::to(&self.invite, status.clamp(180, 199))
            .with_to_tag(&peer.dialog.local_tag);
        response.headers.copy(&["Record-Route"], &self.invite.headers);
        if let Some(reliable) = &mut reliable {
            response = reliable.stamp(response);
        }
        response = response.with("Contact", peer.contact(&ctx.domain)).with("Allow", ALLOW);
        let described = media.is_some();
        if let Some(media) = media {
            response = response.with_body("application/sdp", media);
        }
        let bytes = response.to_bytes();
        self.last = Some((status, bytes.clone()));
        ctx.transactions.respond(self.transaction, response.status, bytes.clone(), now.mono);
        ctx.timers.set((peer.leg, LegTimer::Remind), now.mono + REMIND);
        if let Some(reliable) = reliable {
            let timing = ctx.domain.config.timing;
            reliable.expect_prack(response.status, bytes, described, timing, now.mono);
            ctx.timers.set((peer.leg, LegTimer::Reliable), now.mono + timing.t1);
        }
    }

    /// How long it may wait: until nobody rings any longer, or until it expires by itself.
    fn start_timers(leg: LegId, expires: Option<u32>, ctx: &mut Context, now: Now) {
        let ringing = ctx.domain.config.limits.ringing;
        ctx.timers.set((leg, LegTimer::Ringing), now.mono + ringing);
        if let Some(seconds) = expires {
            let wait = Duration::from_secs(seconds.into()).min(EXPIRES);
            ctx.timers.set((leg, LegTimer::Stale), now.mono + wait);
        }
    }

    /// The host that its Via names.
    pub(super) fn via_host(&self) -> Option<Host> {
        self.invite.headers.via_top().ok().map(|via| Host::read(&via.host))
    }

    /// Repeats the last provisional response (RFC 3261 13.3.1.1).
    fn remind(&self, leg: LegId, ctx: &mut Context, now: Now) {
        let Some((status, bytes)) = self.last.clone() else {
            return;
        };
        ctx.transactions.respond(self.transaction, status, bytes, now.mono);
        ctx.timers.set((leg, LegTimer::Remind), now.mono + REMIND);
    }

    /// Refuses the INVITE, with a Warning if there is one, and with when to call again where no
    /// calls are taken.
    fn refuse(
        &self,
        status: u16,
        warning: Option<Vec<u8>>,
        peer: &LegPeer,
        ctx: &mut Context,
        now: Now,
    ) {
        let mut response =
            SipResponse::to(&self.invite, status).with_to_tag(&peer.dialog.local_tag);
        if let Some(warning) = warning {
            response.headers.push("Warning", warning);
        }
        if status == 503
            && let Some(wait) = ctx.retry_after()
        {
            response.headers.push("Retry-After", wait);
        }
        ctx.respond(self.transaction, &response, now);
    }
}

impl Leg {
    /// A leg that begins with an INVITE of the peer.
    pub fn incoming(
        peer: LegPeer,
        transaction: ServerTransactionId,
        invite: &SipRequest,
        ctx: &mut Context,
    ) -> Leg {
        let incoming = IncomingInvite { transaction, invite: invite.clone(), last: None };
        let config = &ctx.domain.config;
        let timer = SessionTimer::new(config).agree(&invite.headers, config);
        let remote_media = invite.description().unwrap_or_default().to_vec();
        let session = InviteSession::new(timer, Vec::new(), remote_media);
        let random = ctx.tokens.below(u64::from(u32::MAX));
        Leg {
            reliable: ReliableProvisionals::wanted(invite, random),
            ..Leg::new(peer, LegPhase::Incoming(incoming), session)
        }
    }

    /// Tells the B2BUA of the INVITE (`event`), which waits from now on, for so many seconds as it
    /// says in Expires.
    pub fn begin(&mut self, event: LegEvent, expires: Option<u32>, ctx: &mut Context, now: Now) {
        IncomingInvite::start_timers(self.id(), expires, ctx, now);
        self.event(event, ctx);
        if let LegPhase::Incoming(incoming) = &self.phase {
            ConnectedNames::report_invite(&incoming.invite.headers, &self.peer, ctx);
        }
    }

    // ---- requests within the dialog

    pub(super) fn dispatch_request(
        &mut self,
        received: InDialogRequest<'_>,
        ctx: &mut Context,
        now: Now,
    ) -> Result<(), Refuse> {
        let InDialogRequest { request, via, referred } = received;
        match request.method {
            Method::Bye => self.handle_bye(via, request, ctx, now),
            Method::Invite => self.handle_offer(via, request, ctx, now),
            Method::Update => self.handle_update(via, request, ctx, now),
            Method::Info => self.handle_info(via, request, ctx, now),
            Method::Refer => {
                self.handle_refer(InDialogRequest { request, via, referred }, ctx, now)
            }
            Method::Prack => self.handle_prack(via, request, ctx, now),
            Method::Options => {
                ctx.answer(self.id(), via, &capabilities(request), now);
                Ok(())
            }
            _ => Err(refuse_method()),
        }
    }

    fn handle_bye(
        &mut self,
        key: ReceivedVia,
        bye: &SipRequest,
        ctx: &mut Context,
        now: Now,
    ) -> Result<(), Refuse> {
        let outcome = self.phase.check_bye()?;
        ctx.answer(self.id(), key, &SipResponse::to(bye, 200), now);
        if outcome != ByeOutcome::Crossed {
            self.session.abandon_offer(ctx, now);
            self.answer_incoming(487, ctx, now);
            self.drop_offer(487, ctx, now);
            self.end(ctx);
        }
        if outcome == ByeOutcome::Ends {
            self.end_told(EndReason::Bye, ctx);
        }
        Ok(())
    }

    fn handle_offer(
        &mut self,
        key: ReceivedVia,
        request: &SipRequest,
        ctx: &mut Context,
        now: Now,
    ) -> Result<(), Refuse> {
        check_session(&request.headers, &ctx.domain.config)?;
        self.phase.check_offer()?;
        self.session.check_offer(ctx)?;
        self.session.take_offer(key, request, self.peer.leg, ctx, now);
        let media = request.description().map(<[u8]>::to_vec);
        self.event(LegEvent::Offered { leg: self.id(), media }, ctx);
        Ok(())
    }

    fn handle_update(
        &mut self,
        key: ReceivedVia,
        update: &SipRequest,
        ctx: &mut Context,
        now: Now,
    ) -> Result<(), Refuse> {
        if update.description().is_some() {
            return self.handle_offer(key, update, ctx, now);
        }
        check_session(&update.headers, &ctx.domain.config)?;
        if matches!(self.phase, LegPhase::ByeSent | LegPhase::ByePending(_)) {
            return Err(Refuse::new(481));
        }
        let response = self.session.accept_refresh(update, &mut self.peer, ctx, now);
        ctx.answer(self.id(), key, &response, now);
        Ok(())
    }

    fn handle_info(
        &mut self,
        key: ReceivedVia,
        info: &SipRequest,
        ctx: &mut Context,
        now: Now,
    ) -> Result<(), Refuse> {
        let digit = self.digits.dialled(info, self.phase.is_confirmed())?;
        ctx.answer(self.id(), key, &SipResponse::to(info, 200), now);
        if let Some(digit) = digit {
            let digits = digit.to_string();
            ctx.event(LegEvent::Dialled { leg: self.id(), digits });
        }
        Ok(())
    }

    /// The ACK of a 2xx of ours.
    pub fn handle_ack(&mut self, ack: &SipRequest, ctx: &mut Context, now: Now) {
        let Some(answer) = self.session.take_ack(ack, self.peer.leg, ctx) else {
            return;
        };
        if let LegPhase::ByePending(reason) = self.phase {
            return self.send_bye(reason, ctx, now);
        }
        match answer {
            AckAnswer::Missing => {
                self.send_bye(Some(HangupCause::NoAnswer), ctx, now);
                self.end_told(EndReason::NoAck, ctx);
            }
            AckAnswer::Media(media) => {
                self.event(LegEvent::Confirmed { leg: self.id(), media }, ctx);
                self.send_queued(ctx, now);
            }
        }
    }

    // ---- what the B2BUA answers

    pub(super) fn provisional(
        &mut self,
        status: u16,
        media: Option<Vec<u8>>,
        ctx: &mut Context,
        now: Now,
    ) {
        if let LegPhase::Incoming(incoming) = &mut self.phase {
            incoming.ring((status, media), self.reliable.as_mut(), &self.peer, ctx, now);
        }
    }

    pub(super) fn remind(&mut self, ctx: &mut Context, now: Now) {
        if let LegPhase::Incoming(incoming) = &self.phase {
            incoming.remind(self.peer.leg, ctx, now);
        }
    }

    pub(super) fn accept(&mut self, media: Vec<u8>, ctx: &mut Context, now: Now) {
        let LegPhase::Incoming(incoming) = &self.phase else {
            return;
        };
        if self.reliable.as_mut().is_some_and(|reliable| reliable.defer_accept(&media)) {
            return;
        }
        let theirs =
            ReceivedOffer { transaction: incoming.transaction, request: incoming.invite.clone() };
        self.phase = LegPhase::Confirmed;
        LegTimer::stop_all(self.id(), ctx);
        self.session.accept_invite(&theirs, media, &mut self.peer, ctx, now);
    }

    pub(super) fn answer_offer(&mut self, media: Vec<u8>, ctx: &mut Context, now: Now) {
        if self.session.answer_offer(media, &mut self.peer, ctx, now) {
            self.send_queued(ctx, now);
        }
    }

    /// Our 2xx has found no ACK yet: again, or no more.
    pub(super) fn repeat_accepted(&mut self, ctx: &mut Context, now: Now) {
        if !self.session.repeat_accepted(self.peer.leg, ctx, now) {
            return;
        }
        let told = self.phase.is_confirmed();
        self.drop_offer(487, ctx, now);
        self.send_bye(None, ctx, now);
        if told {
            self.end_told(EndReason::NoAck, ctx);
        }
    }

    /// Refuses the INVITE that waits for us, which ends the leg.
    pub(super) fn answer_incoming(&mut self, status: u16, ctx: &mut Context, now: Now) {
        if let LegPhase::Incoming(incoming) = &self.phase {
            incoming.refuse(status, None, &self.peer, ctx, now);
            self.end(ctx);
        }
    }

    /// Refuses the INVITE, and says why (RFC 3261 20.43: 399 is a text for people).
    pub(super) fn refuse_incoming(&mut self, status: u16, text: &str, ctx: &mut Context, now: Now) {
        if let LegPhase::Incoming(incoming) = &self.phase {
            let warning = [b"399 undertone ", &*quote(text.as_bytes())].concat();
            incoming.refuse(status, Some(warning), &self.peer, ctx, now);
            self.end(ctx);
        }
    }

    /// Refuses the INVITE, re-INVITE or UPDATE that waits for us: its description cannot be used
    /// (RFC 3261 21.4.26).
    pub(super) fn refuse_offer(&mut self, fault: &SdpFault, ctx: &mut Context, now: Now) {
        let status = SdpError::STATUS;
        let warning = warning(fault);
        if let LegPhase::Incoming(incoming) = &self.phase {
            incoming.refuse(status, Some(warning), &self.peer, ctx, now);
            return self.end(ctx);
        }
        self.session.refuse_offer(status, Some(warning), self.peer.leg, ctx, now);
    }

    /// Refuses the re-INVITE or UPDATE that waits for us.
    pub(super) fn drop_offer(&mut self, status: u16, ctx: &mut Context, now: Now) {
        self.session.refuse_offer(status, None, self.peer.leg, ctx, now);
    }
}

/// A 200 to OPTIONS.
pub(in crate::sip::user_agent) fn capabilities(request: &SipRequest) -> SipResponse {
    SipResponse::to(request, 200)
        .with("Allow", ALLOW)
        .with("Accept", ACCEPT)
        .with("Accept-Encoding", "identity")
        .with("Accept-Language", "en")
        .with("Supported", "timer, replaces, 100rel")
}

/// 405, with what is allowed.
pub(in crate::sip::user_agent) fn refuse_method() -> Refuse {
    let mut refuse = Refuse::new(405);
    refuse.headers.push(("Allow", ALLOW.into()));
    refuse
}

/// What is wrong with a description, for people (RFC 3261 20.43).
pub(in crate::sip::user_agent) fn warning(fault: &SdpFault) -> Vec<u8> {
    let text = quote(fault.to_string().as_bytes());
    [format!("{} undertone ", fault.error.warning()).as_bytes(), &text].concat()
}
