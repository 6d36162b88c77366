//! Reliable provisional responses (RFC 3262), ours and theirs.

use super::{Leg, LegPhase, LegTimer};
use crate::model::Now;
use crate::sip::leg::{EndReason, LegId};
use crate::sip::message::{Headers, Refuse, SipRequest, SipResponse};
use crate::sip::transaction::{ReceivedVia, ServerTransactionId, Timing};
use crate::sip::user_agent::context::Context;
use std::time::{Duration, Instant};

/// RFC 3262 7.1: the first RSeq is below this, so that none wraps.
const FIRST_BELOW: u64 = 1 << 31;

/// Early dialogs of one INVITE that are told apart; what more of them say is not heard.
const MOST_FORKS: usize = 16;

/// Our reliable responses to an INVITE of theirs.
#[derive(Debug)]
pub(super) struct ReliableProvisionals {
    /// All of them (Require); else those that carry a session description (Supported).
    all: bool,
    /// The first would have to carry our offer (RFC 3261 13.2.1), which the 2xx does: so there is
    /// none.
    is_mute: bool,
    /// That of the INVITE.
    cseq: u32,
    rseq: u32,
    unheard: Option<Unheard>,
    /// What is to be said once that has been heard.
    next: Option<(u16, Option<Vec<u8>>)>,
    /// The answer of the 2xx that waits for the same (RFC 3262 3).
    accepted: Option<Vec<u8>>,
}

/// What has waited for a PRACK.
enum Deferred {
    /// A provisional response.
    Ring(u16, Option<Vec<u8>>),
    /// The 2xx, with its answer.
    Accept(Vec<u8>),
}

/// A response that waits for its PRACK.
#[derive(Debug)]
struct Unheard {
    status: u16,
    bytes: Vec<u8>,
    described: bool,
    interval: Duration,
    give_up_at: Instant,
}

/// An early dialog that our INVITE has made.
#[derive(Clone, Debug)]
pub(super) struct Fork {
    tag: Vec<u8>,
    rseq: Option<u32>,
    /// Its session description.
    pub(super) media: Option<Vec<u8>>,
    /// That came reliably: it is the answer, whatever comes later (RFC 3261 13.2.1).
    is_answer: bool,
}

impl ReliableProvisionals {
    /// As an INVITE wants it; `None` if it can not.
    pub(super) fn wanted(invite: &SipRequest, random: u64) -> Option<Self> {
        let headers = &invite.headers;
        let all = headers.lists("Require", "100rel");
        (all || headers.lists("Supported", "100rel")).then(|| Self {
            all,
            is_mute: all && invite.description().is_none(),
            cseq: headers.cseq().map(|(cseq, _)| cseq).unwrap_or_default(),
            rseq: (random % (FIRST_BELOW - 1)) as u32,
            unheard: None,
            next: None,
            accepted: None,
        })
    }

    /// A response is sent reliably.
    pub(super) fn takes(&self, described: bool) -> bool {
        self.all || described
    }

    /// If the last one has not been heard, the next waits.
    pub(super) fn defer(&mut self, status: u16, media: Option<&Vec<u8>>) -> bool {
        if self.unheard.is_some() {
            let waiting = self.next.take().and_then(|(_, media)| media);
            self.next = Some((status, media.cloned().or(waiting)));
        }
        self.unheard.is_some() || self.is_mute
    }

    /// A 2xx waits until a description before it has been heard.
    pub(super) fn defer_accept(&mut self, media: &[u8]) -> bool {
        let waits = self.unheard.as_ref().is_some_and(|unheard| unheard.described);
        self.accepted = waits.then(|| media.to_vec());
        waits
    }

    /// A response has gone out: it is said again until it is heard.
    pub(super) fn expect_prack(
        &mut self,
        status: u16,
        bytes: Vec<u8>,
        described: bool,
        timing: Timing,
        now: Instant,
    ) {
        self.unheard = Some(Unheard {
            status,
            bytes,
            described,
            interval: timing.t1,
            give_up_at: now + timing.give_up(),
        });
    }

    /// The response that waits for its PRACK, once more. True when it is given up: a caller that
    /// does not hear that it rings does not hear the rest (RFC 3262 3).
    fn repeat(
        &mut self,
        transaction: ServerTransactionId,
        leg: LegId,
        ctx: &mut Context,
        now: Now,
    ) -> bool {
        let Some(unheard) = &mut self.unheard else {
            return false;
        };
        if now.mono >= unheard.give_up_at {
            return true;
        }
        unheard.interval *= 2;
        let next_at = (now.mono + unheard.interval).min(unheard.give_up_at);
        ctx.transactions.respond(transaction, unheard.status, unheard.bytes.clone(), now.mono);
        ctx.timers.set((leg, LegTimer::Reliable), next_at);
        false
    }

    /// A PRACK acknowledges the response that waits, or none (481).
    fn acknowledge(
        &mut self,
        (rseq, cseq, method): (u32, u32, &[u8]),
        leg: LegId,
        ctx: &mut Context,
    ) -> Result<(), Refuse> {
        let is_of_last = (self.rseq, self.cseq) == (rseq, cseq) && method == b"INVITE";
        if !is_of_last || self.unheard.take().is_none() {
            return Err(Refuse::new(481));
        }
        ctx.timers.clear(&(leg, LegTimer::Reliable));
        Ok(())
    }

    /// What has waited for the PRACK: the 2xx, else what was to be said before it.
    fn take_next(&mut self) -> Option<Deferred> {
        let ring = self.next.take().map(|(status, media)| Deferred::Ring(status, media));
        self.accepted.take().map(Deferred::Accept).or(ring)
    }

    /// The fields of the next response.
    pub(super) fn stamp(&mut self, response: SipResponse) -> SipResponse {
        self.rseq += 1;
        response.with("Require", "100rel").with("RSeq", self.rseq.to_string())
    }
}

/// The one that a To tag names, made if it is new.
pub(super) fn fork<'a>(forks: &'a mut Vec<Fork>, tag: &[u8]) -> Option<&'a mut Fork> {
    let place = forks.iter().position(|fork| fork.tag == tag).or_else(|| {
        (forks.len() < MOST_FORKS).then(|| {
            forks.push(Fork { tag: tag.to_vec(), rseq: None, media: None, is_answer: false });
            forks.len() - 1
        })
    })?;
    forks.get_mut(place)
}

impl Fork {
    /// Takes a response; false if it has been heard before, or one before it has not (RFC 3262 4).
    /// A description that is no news is taken out: an early dialog that repeats it is not the one
    /// that is to be heard now.
    pub(super) fn hear(&mut self, rseq: Option<u32>, media: &mut Option<Vec<u8>>) -> bool {
        if let (Some(rseq), Some(last)) = (rseq, self.rseq)
            && last.checked_add(1) != Some(rseq)
        {
            return false;
        }
        self.rseq = rseq.or(self.rseq);
        let is_answer = self.is_answer;
        self.is_answer |= rseq.is_some() && media.is_some();
        if is_answer || *media == self.media {
            *media = None;
        } else if media.is_some() {
            self.media.clone_from(media);
        }
        true
    }

    /// The answer, when its 2xx says this.
    pub(super) fn answer(self, described: Option<Vec<u8>>) -> Option<Vec<u8>> {
        if self.is_answer { self.media } else { described.or(self.media) }
    }
}

/// The RSeq of a response that wants to be acknowledged.
pub(super) fn rseq(response: &SipResponse) -> Option<u32> {
    let headers = &response.headers;
    let value = headers.lists("Require", "100rel").then(|| headers.single("RSeq").ok())??;
    number(value).filter(|rseq| *rseq > 0)
}

/// The RSeq, CSeq and method of a RAck (RFC 3262 7.2).
fn rack(headers: &Headers) -> Option<(u32, u32, &[u8])> {
    let mut words = headers
        .single("RAck")
        .ok()?
        .split(|byte| matches!(byte, b' ' | b'\t'))
        .filter(|word| !word.is_empty());
    let found = (number(words.next()?)?, number(words.next()?)?, words.next()?);
    words.next().is_none().then_some(found)
}

fn number(text: &[u8]) -> Option<u32> {
    let digits = text.trim_ascii();
    digits.iter().all(u8::is_ascii_digit).then(|| std::str::from_utf8(digits).ok()?.parse().ok())?
}

impl Leg {
    pub(super) fn repeat_reliable(&mut self, ctx: &mut Context, now: Now) {
        let (LegPhase::Incoming(incoming), Some(reliable)) = (&self.phase, &mut self.reliable)
        else {
            return;
        };
        if reliable.repeat(incoming.transaction, self.peer.leg, ctx, now) {
            self.answer_incoming(504, ctx, now);
            self.end_told(EndReason::NoAck, ctx);
        }
    }

    pub(super) fn handle_prack(
        &mut self,
        key: ReceivedVia,
        prack: &SipRequest,
        ctx: &mut Context,
        now: Now,
    ) -> Result<(), Refuse> {
        let rack = rack(&prack.headers).ok_or(Refuse::new(400))?;
        let reliable = self.reliable.as_mut().ok_or(Refuse::new(481))?;
        reliable.acknowledge(rack, self.peer.leg, ctx)?;
        // A new offer is one too many before the call stands (RFC 3262 5 allows it; RFC 6337 3.1.1
        // says how to say no). It is heard all the same.
        let done = match prack.description().is_none() {
            true => {
                ctx.answer(self.peer.leg, key, &SipResponse::to(prack, 200), now);
                Ok(())
            }
            false => Err(Refuse::new(488)),
        };
        if matches!(self.phase, LegPhase::Incoming(_)) {
            match reliable.take_next() {
                Some(Deferred::Accept(media)) => self.accept(media, ctx, now),
                Some(Deferred::Ring(status, media)) => self.provisional(status, media, ctx, now),
                None => {}
            }
        }
        done
    }
}
