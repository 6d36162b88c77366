//! The session that INVITE negotiates: offer and answer within the dialog (RFC 3261 14, RFC 3311,
//! RFC 6337), and its refresh.

use super::{ClientUse, LegPeer, LegTimer, ServerUse, SessionTimer};
use crate::model::Now;
use crate::sip::flow::Flow;
use crate::sip::leg::LegId;
use crate::sip::message::{Method, Refuse, SipRequest, SipResponse};
use crate::sip::transaction::{
    ClientTransactionId, ReceivedVia, ServerTransactionId, TransactionKind,
};
use crate::sip::user_agent::context::Context;
use crate::sip::user_agent::local_domain::ALLOW;
use std::time::{Duration, Instant};

/// How often an offer that meets 491 is tried again.
const MOST_GLARES: u8 = 5;

/// A refresh that finds something else under way waits so long.
const BUSY: Duration = Duration::from_secs(2);

/// A peer that has said 100 to a re-INVITE has so long for the rest.
const OFFER: Duration = Duration::from_secs(60);

/// An offer of theirs is refused when it has not been answered here by then: before the peer gives
/// up by itself (32 s, RFC 3261 17.1.2.2).
const UNANSWERED: Duration = Duration::from_secs(20);

/// What is described, what is offered, and until when it holds. Its leg says whether the dialog is
/// confirmed.
#[derive(Debug)]
pub(super) struct InviteSession {
    pub(super) timer: SessionTimer,
    exchange: Exchange,
    /// Our 2xx that waits for its ACK.
    unacknowledged: Option<Unacknowledged>,
    /// An offer that waits until it may be sent.
    queued: Option<QueuedOffer>,
    /// The description we sent last.
    local_media: Vec<u8>,
    /// The description they sent last.
    remote_media: Vec<u8>,
}

/// Offer and answer within the dialog.
#[derive(Debug)]
enum Exchange {
    /// No offer is open.
    Idle,
    /// Our re-INVITE is under way.
    Ours(SentOffer),
    /// Their re-INVITE or UPDATE waits for us.
    Theirs(ReceivedOffer),
}

#[derive(Debug)]
struct SentOffer {
    transaction: ClientTransactionId,
    media: Vec<u8>,
    refresh: bool,
    glares: u8,
}

/// An INVITE or UPDATE of theirs that waits for our answer.
#[derive(Debug)]
pub(super) struct ReceivedOffer {
    pub(super) transaction: ServerTransactionId,
    pub(super) request: SipRequest,
}

#[derive(Debug)]
struct QueuedOffer {
    media: Vec<u8>,
    glares: u8,
}

/// A 2xx of ours to an INVITE, which is repeated until its ACK.
#[derive(Debug)]
struct Unacknowledged {
    cseq: u32,
    flow: Flow,
    response: Vec<u8>,
    interval: Duration,
    give_up_at: Instant,
    /// Our 2xx had the offer: the ACK has the answer.
    offered: bool,
    /// It answered the INVITE that began the session.
    is_first: bool,
}

/// What has come of an offer of ours that was accepted.
pub(super) enum OfferOutcome {
    /// It was a refresh, and the session is as it was.
    Unchanged,
    Answered(Vec<u8>),
    /// The 2xx describes nothing.
    Unanswered,
}

/// What the ACK of our 2xx answers.
pub(super) enum AckAnswer {
    /// Our offer went unanswered: there is no session.
    Missing,
    /// The answer to our offer. One that was made within a session and is not answered leaves it as
    /// it was.
    Media(Option<Vec<u8>>),
}

/// What has come of an UPDATE of ours.
pub(super) enum UpdateOutcome {
    /// It waits, or is tried again.
    Settled,
    /// The session goes on.
    Refreshed,
    /// The peer no longer knows the call.
    Gone,
    /// It may be sent better.
    Refused,
}

/// What has come of an offer of ours that was refused.
pub(super) enum OfferRefusal {
    /// The peer no longer knows the call.
    Gone,
    /// The session is as it was, or the offer is tried again.
    Settled,
    /// The B2BUA is to hear of it.
    Refused,
}

impl InviteSession {
    pub(super) fn new(timer: SessionTimer, local_media: Vec<u8>, remote_media: Vec<u8>) -> Self {
        Self {
            timer,
            exchange: Exchange::Idle,
            unacknowledged: None,
            queued: None,
            local_media,
            remote_media,
        }
    }

    pub(super) fn set_remote(&mut self, media: Vec<u8>) {
        self.remote_media = media;
    }

    pub(super) fn expects_ack(&self) -> bool {
        self.unacknowledged.is_some()
    }

    /// No offer is open, and no ACK is awaited.
    fn is_free(&self) -> bool {
        matches!(self.exchange, Exchange::Idle) && self.unacknowledged.is_none()
    }

    /// The session begins, or has been refreshed.
    pub(super) fn restart(&mut self, leg: LegId, ctx: &mut Context, now: Now) {
        self.timer.restart(leg, &mut ctx.timers, now);
    }

    /// The call ends: what waits is not sent any more.
    pub(super) fn forget_queued(&mut self) {
        self.queued = None;
    }

    /// The call ends: the answer to our re-INVITE matters no more.
    pub(super) fn abandon_offer(&self, ctx: &mut Context, now: Now) {
        if let Exchange::Ours(ours) = &self.exchange {
            ctx.transactions.abandon_later(ours.transaction, now.mono);
        }
    }

    /// The peer is reached by another flow: what is still to be answered is answered there, too.
    pub(super) fn follow(&mut self, flow: Flow, ctx: &mut Context) {
        if let Exchange::Theirs(theirs) = &self.exchange {
            ctx.transactions.redirect(theirs.transaction, flow, None);
        }
        if let Some(waiting) = &mut self.unacknowledged {
            waiting.flow = flow;
        }
    }

    // ---- offers of ours

    /// Takes an offer of ours, to be sent as soon as nothing forbids it.
    pub(super) fn queue(&mut self, media: Vec<u8>) {
        self.queued = Some(QueuedOffer { media, glares: 0 });
    }

    /// Sends the offer that waits, if nothing forbids it.
    pub(super) fn send_queued(&mut self, peer: &mut LegPeer, ctx: &mut Context, now: Now) {
        if !self.is_free() || ctx.timers.is_set(&(peer.leg, LegTimer::Glare)) {
            return;
        }
        if peer.is_lost() && self.queued.is_some() {
            return peer.wait_for_phone(ctx, now);
        }
        if let Some(QueuedOffer { media, glares }) = self.queued.take() {
            let request = self.refresh_request(Method::Invite, peer, ctx);
            self.offer(request, (media, false, glares), peer, ctx, now);
        }
    }

    /// A re-INVITE with a description. It is a refresh or not, and has met 491 so often.
    fn offer(
        &mut self,
        request: SipRequest,
        (media, refresh, glares): (Vec<u8>, bool, u8),
        peer: &LegPeer,
        ctx: &mut Context,
        now: Now,
    ) {
        let request = request.with_body("application/sdp", media.clone());
        let transaction =
            ctx.request(request, peer.dialog.flow, |sent| ClientUse::Reinvite(peer.leg, sent), now);
        ctx.timers.set((peer.leg, LegTimer::Offer), now.mono + OFFER);
        self.exchange = Exchange::Ours(SentOffer { transaction, media, refresh, glares });
    }

    /// Refreshes the session: by UPDATE, or by a re-INVITE with the description that we have sent
    /// last.
    pub(super) fn refresh(&mut self, peer: &mut LegPeer, ctx: &mut Context, now: Now) {
        let is_free = self.is_free();
        if !is_free || peer.is_lost() {
            self.refresh_later(peer.leg, ctx, now);
            if is_free {
                peer.wait_for_phone(ctx, now);
            }
            return;
        }
        if !peer.dialog.allows_update {
            let request = self.refresh_request(Method::Invite, peer, ctx);
            return self.offer(request, (self.local_media.clone(), true, 0), peer, ctx, now);
        }
        let update = self.refresh_request(Method::Update, peer, ctx);
        ctx.request(update, peer.dialog.flow, |sent| ClientUse::Update(peer.leg, sent), now);
    }

    /// Something else is under way.
    pub(super) fn refresh_later(&self, leg: LegId, ctx: &mut Context, now: Now) {
        ctx.timers.set((leg, LegTimer::Refresh), now.mono + BUSY);
    }

    fn refresh_request(&self, method: Method, peer: &mut LegPeer, ctx: &Context) -> SipRequest {
        let mut request = peer.dialog.request(method);
        ctx.domain.write_common(&mut request, &peer.dialog, &peer.number);
        peer.write_connected(&mut request, &ctx.domain);
        self.timer.write_request(&mut request);
        request
    }

    /// Our re-INVITE was lost with its flow: once more by the new one, or when there is one.
    pub(super) fn offer_again(&mut self, peer: &mut LegPeer, ctx: &mut Context, now: Now) {
        let Some(ours) = self.end_ours() else { return };
        ctx.timers.clear(&(peer.leg, LegTimer::Offer));
        if ours.refresh {
            return self.refresh(peer, ctx, now);
        }
        let (media, glares) = (ours.media, ours.glares);
        self.queued.get_or_insert(QueuedOffer { media, glares });
        self.send_queued(peer, ctx, now);
    }

    /// Our re-INVITE goes on in another transaction, with credentials or a longer interval.
    pub(super) fn move_offer(&mut self, to: ClientTransactionId) {
        if let Exchange::Ours(ours) = &mut self.exchange {
            ours.transaction = to;
        }
    }

    /// A 2xx to our re-INVITE.
    pub(super) fn handle_answer(
        &mut self,
        response: &SipResponse,
        leg: LegId,
        ctx: &mut Context,
        now: Now,
    ) -> Option<OfferOutcome> {
        let ours = self.end_ours()?;
        ctx.timers.clear(&(leg, LegTimer::Offer));
        self.timer = self.timer.agreed(&response.headers);
        self.local_media = ours.media;
        self.restart(leg, ctx, now);
        Some(match response.description().map(<[u8]>::to_vec) {
            Some(media) if ours.refresh && media == self.remote_media => OfferOutcome::Unchanged,
            Some(media) => {
                self.remote_media = media.clone();
                OfferOutcome::Answered(media)
            }
            None if ours.refresh => OfferOutcome::Unchanged,
            None => OfferOutcome::Unanswered,
        })
    }

    /// A refusal of our re-INVITE.
    pub(super) fn handle_refusal(
        &mut self,
        status: u16,
        leg: LegId,
        ctx: &mut Context,
        now: Now,
    ) -> Option<OfferRefusal> {
        let SentOffer { media, refresh, glares, .. } = self.end_ours()?;
        ctx.timers.clear(&(leg, LegTimer::Offer));
        match status {
            408 | 481 => return Some(OfferRefusal::Gone),
            491 if refresh => self.refresh_later(leg, ctx, now),
            491 if glares < MOST_GLARES => {
                self.queued.get_or_insert(QueuedOffer { media, glares: glares + 1 });
                let wait = glare_wait(leg, ctx);
                ctx.timers.set((leg, LegTimer::Glare), now.mono + wait);
            }
            // The peer is alive and keeps the session as it is: the refresh itself has failed, not
            // the call.
            _ if refresh => self.restart(leg, ctx, now),
            _ => return Some(OfferRefusal::Refused),
        }
        Some(OfferRefusal::Settled)
    }

    /// A response to our UPDATE.
    pub(super) fn handle_updated(
        &mut self,
        response: &SipResponse,
        peer: &mut LegPeer,
        ctx: &mut Context,
        now: Now,
    ) -> UpdateOutcome {
        match response.status {
            ..200 => UpdateOutcome::Settled,
            200..300 => {
                peer.dialog.refresh(&response.headers.contacts().unwrap_or_default());
                self.timer = self.timer.agreed(&response.headers);
                self.restart(peer.leg, ctx, now);
                UpdateOutcome::Refreshed
            }
            408 | 481 => UpdateOutcome::Gone,
            405 | 501 => {
                peer.dialog.allows_update = false;
                self.refresh(peer, ctx, now);
                UpdateOutcome::Settled
            }
            491 | 500 => {
                self.refresh_later(peer.leg, ctx, now);
                UpdateOutcome::Settled
            }
            _ => UpdateOutcome::Refused,
        }
    }

    /// Our re-INVITE has found nobody.
    pub(super) fn forget_offer(&mut self) {
        self.end_ours();
    }

    /// Our offer, which is open no longer; one of theirs is left alone.
    fn end_ours(&mut self) -> Option<SentOffer> {
        match std::mem::replace(&mut self.exchange, Exchange::Idle) {
            Exchange::Ours(ours) => Some(ours),
            other => {
                self.exchange = other;
                None
            }
        }
    }

    // ---- offers of theirs

    /// Whether an offer of theirs can be taken now (RFC 3261 14.2, RFC 3311 5.2, RFC 5407).
    pub(super) fn check_offer(&self, ctx: &mut Context) -> Result<(), Refuse> {
        match &self.exchange {
            _ if self.unacknowledged.is_some() => Err(Refuse::new(491)),
            Exchange::Idle => Ok(()),
            Exchange::Theirs(_) => {
                let mut refuse = Refuse::new(500);
                let wait = ctx.tokens.below(10).to_string();
                refuse.headers.push(("Retry-After", wait.into_bytes()));
                Err(refuse)
            }
            Exchange::Ours(_) => Err(Refuse::new(491)),
        }
    }

    /// Their re-INVITE or UPDATE with an offer, which waits for us from now on.
    pub(super) fn take_offer(
        &mut self,
        via: ReceivedVia,
        request: &SipRequest,
        leg: LegId,
        ctx: &mut Context,
        now: Now,
    ) {
        let kind = match request.method {
            Method::Invite => TransactionKind::Invite,
            _ => TransactionKind::Other,
        };
        let transaction = ctx.transactions.open_always(via, kind, ServerUse(Some(leg)));
        if kind == TransactionKind::Invite {
            ctx.respond(transaction, &SipResponse::to(request, 100), now);
        }
        let request = request.clone();
        self.exchange = Exchange::Theirs(ReceivedOffer { transaction, request });
        ctx.timers.set((leg, LegTimer::Theirs), now.mono + UNANSWERED);
    }

    /// Answers it. False when there is none.
    pub(super) fn answer_offer(
        &mut self,
        media: Vec<u8>,
        peer: &mut LegPeer,
        ctx: &mut Context,
        now: Now,
    ) -> bool {
        let Some(theirs) = self.end_theirs(peer.leg, ctx) else {
            return false;
        };
        if let Some(description) = theirs.request.description() {
            self.remote_media = description.to_vec();
        }
        if theirs.request.method == Method::Invite {
            self.accept_invite(&theirs, media, peer, ctx, now);
        } else {
            self.local_media = media.clone();
            let response = self.accept_refresh(&theirs.request, peer, ctx, now);
            ctx.respond(theirs.transaction, &response.with_body("application/sdp", media), now);
        }
        true
    }

    /// Refuses it, with a Warning if there is one.
    pub(super) fn refuse_offer(
        &mut self,
        status: u16,
        warning: Option<Vec<u8>>,
        leg: LegId,
        ctx: &mut Context,
        now: Now,
    ) {
        if let Some(theirs) = self.end_theirs(leg, ctx) {
            let mut response = SipResponse::to(&theirs.request, status);
            if let Some(warning) = warning {
                response.headers.push("Warning", warning);
            }
            ctx.respond(theirs.transaction, &response, now);
        }
    }

    /// Their offer no longer waits; an exchange of ours is left alone.
    fn end_theirs(&mut self, leg: LegId, ctx: &mut Context) -> Option<ReceivedOffer> {
        match std::mem::replace(&mut self.exchange, Exchange::Idle) {
            Exchange::Theirs(theirs) => {
                ctx.timers.clear(&(leg, LegTimer::Theirs));
                Some(theirs)
            }
            other => {
                self.exchange = other;
                None
            }
        }
    }

    /// What a 2xx to their INVITE or UPDATE does to the dialog and the session, and that 2xx
    /// without its body.
    pub(super) fn accept_refresh(
        &mut self,
        request: &SipRequest,
        peer: &mut LegPeer,
        ctx: &mut Context,
        now: Now,
    ) -> SipResponse {
        let mut response = SipResponse::to(request, 200).with("Allow", ALLOW);
        response.headers.copy(&["Record-Route"], &request.headers);
        response.headers.push("Contact", peer.contact(&ctx.domain));
        self.timer = self.timer.agree(&request.headers, &ctx.domain.config);
        self.timer.write_response(&mut response);
        peer.dialog.refresh(&request.headers.contacts().unwrap_or_default());
        self.restart(peer.leg, ctx, now);
        response
    }

    /// 200 to an INVITE, which is repeated here until the ACK (RFC 3261 13.3.1.4).
    pub(super) fn accept_invite(
        &mut self,
        theirs: &ReceivedOffer,
        media: Vec<u8>,
        peer: &mut LegPeer,
        ctx: &mut Context,
        now: Now,
    ) {
        self.local_media = media.clone();
        let invite = &theirs.request;
        let response = self.accept_refresh(invite, peer, ctx, now);
        let mut response = response.with_body("application/sdp", media);
        response.headers.tag_to(&peer.dialog.local_tag);
        let bytes = response.to_bytes();
        let timing = ctx.domain.config.timing;
        self.unacknowledged = Some(Unacknowledged {
            cseq: invite.headers.cseq().map(|(cseq, _)| cseq).unwrap_or_default(),
            flow: ctx.transactions.reply_flow(theirs.transaction).unwrap_or(peer.dialog.flow),
            response: bytes.clone(),
            interval: timing.t1,
            give_up_at: now.mono + timing.give_up(),
            offered: invite.description().is_none(),
            is_first: invite.headers.to().is_ok_and(|to| to.tag().is_none()),
        });
        ctx.timers.set((peer.leg, LegTimer::Accepted), now.mono + timing.t1);
        ctx.transactions.respond(theirs.transaction, 200, bytes, now.mono);
    }

    /// The ACK of our 2xx, which waits no longer; `None` when it is not for that.
    pub(super) fn take_ack(
        &mut self,
        ack: &SipRequest,
        leg: LegId,
        ctx: &mut Context,
    ) -> Option<AckAnswer> {
        let cseq = ack.headers.cseq().map(|(cseq, _)| cseq).ok();
        if self.unacknowledged.as_ref().map(|waiting| waiting.cseq) != cseq {
            return None;
        }
        ctx.timers.clear(&(leg, LegTimer::Accepted));
        let waiting = self.unacknowledged.take()?;
        let media = ack.description().filter(|_| waiting.offered).map(<[u8]>::to_vec);
        match &media {
            Some(media) => self.remote_media.clone_from(media),
            None if waiting.offered && waiting.is_first => return Some(AckAnswer::Missing),
            None => {}
        }
        Some(AckAnswer::Media(media))
    }

    /// Our 2xx has found no ACK yet: again, or no more. True when it is given up.
    pub(super) fn repeat_accepted(&mut self, leg: LegId, ctx: &mut Context, now: Now) -> bool {
        let Some(waiting) = &mut self.unacknowledged else {
            return false;
        };
        if now.mono >= waiting.give_up_at {
            self.unacknowledged = None;
            return true;
        }
        waiting.interval = (waiting.interval * 2).min(ctx.domain.config.timing.t2);
        let next = (now.mono + waiting.interval).min(waiting.give_up_at);
        ctx.timers.set((leg, LegTimer::Accepted), next);
        ctx.transmit(waiting.flow, waiting.response.clone());
        false
    }
}

/// RFC 3261 14.1: the side that made the Call-ID waits longer.
fn glare_wait(leg: LegId, ctx: &mut Context) -> Duration {
    let ours = leg.0 % 2 == 1;
    let tens = if ours { 210 + ctx.tokens.below(190) } else { ctx.tokens.below(200) };
    Duration::from_millis(tens * 10)
}
