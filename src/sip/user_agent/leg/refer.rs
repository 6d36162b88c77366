//! REFER within a call (RFC 3515): a phone asks that another party take its place, and is told how
//! it goes.

use super::{ClientUse, InDialogRequest, Leg, LegPeer, ReferredLeg};
use crate::model::{Now, Number};
use crate::sip::leg::{LegEvent, LegId};
use crate::sip::message::{
    Headers, NameAddr, Refuse, RefuseReason, Scheme, SipResponse, Uri, reason_phrase,
};
use crate::sip::user_agent::context::Context;
use crate::sip::user_agent::local_domain::LocalDomain;

/// How long the subscription lasts, in seconds: longer than any phone rings.
const LASTS: u32 = 300;

/// What a peer has asked for, and is to hear of.
#[derive(Clone, Debug)]
pub(super) struct Referral {
    /// CSeq of its REFER: names the subscription (RFC 3515 2.4.6).
    cseq: u32,
    /// It wants to hear nothing (RFC 4488).
    is_silent: bool,
}

impl Referral {
    /// Takes a REFER: answers it, and says what the B2BUA is to hear of it.
    fn take(
        refer: InDialogRequest<'_>,
        peer: &LegPeer,
        ctx: &mut Context,
        now: Now,
    ) -> Result<(Referral, LegEvent), Refuse> {
        let headers = &refer.request.headers;
        // Of the same peer, and not the one in which it asks.
        let referred = refer.referred.filter(|it| it.leg != peer.leg && it.source == peer.source);
        let asked = refer_to(headers, referred, (peer.trunk(), &ctx.domain))?;
        let ReferTarget { to, replaces, is_secure } = asked;
        let (cseq, _) = headers.cseq().map_err(|_| Refuse::new(400))?;
        let is_silent = headers
            .get("Refer-Sub")
            .is_some_and(|value| value.trim_ascii().eq_ignore_ascii_case(b"false"));
        let (source, is_sips) = (&refer.via.path.source, peer.dialog.is_sips);
        let contact = ctx.domain.contact(source, is_sips, &peer.number);
        let mut response = SipResponse::to(refer.request, 202).with("Contact", contact);
        if is_silent {
            response.headers.push("Refer-Sub", "false");
        }
        ctx.answer(peer.leg, refer.via, &response, now);
        let event = LegEvent::Referred { leg: peer.leg, to, replaces, is_secure };
        Ok((Referral { cseq, is_silent }, event))
    }

    /// NOTIFY with the status line of what was asked for (RFC 3515 2.4.5); the last one ends the
    /// subscription.
    fn notify(&self, peer: &mut LegPeer, status: u16, ctx: &mut Context, now: Now) {
        let state = match status {
            200.. => "terminated;reason=noresource".to_owned(),
            _ => format!("active;expires={LASTS}"),
        };
        let notify = peer.notify(&format!("refer;id={}", self.cseq), &state, &ctx.domain);
        let line = format!("SIP/2.0 {status} {}\r\n", reason_phrase(status));
        let notify = notify.with_body("message/sipfrag;version=2.0", line.into_bytes());
        ctx.request(notify, peer.dialog.flow, |_| ClientUse::Other, now);
    }
}

impl Leg {
    pub(super) fn handle_refer(
        &mut self,
        refer: InDialogRequest<'_>,
        ctx: &mut Context,
        now: Now,
    ) -> Result<(), Refuse> {
        self.phase.check_refer()?;
        if self.referral.is_some() {
            return Err(Refuse::new(491));
        }
        let (referral, event) = Referral::take(refer, &self.peer, ctx, now)?;
        self.referral = Some(referral);
        self.tell_referrer(100, ctx, now);
        ctx.event(event);
        Ok(())
    }

    /// How it goes with what the peer has asked for.
    pub(super) fn tell_referrer(&mut self, status: u16, ctx: &mut Context, now: Now) {
        let is_last = status >= 200;
        let referral = if is_last { self.referral.take() } else { self.referral.clone() };
        let can_hear = self.phase.is_confirmed() && !self.peer.is_lost();
        if let Some(referral) = referral.filter(|referral| can_hear && !referral.is_silent) {
            referral.notify(&mut self.peer, status, ctx, now);
        }
    }
}

/// The number that is to be called, and the call of the same peer that goes there already
/// (`replaced`). That one is named by Replaces alone (RFC 3891 3), whatever stands before it: often
/// it is our Contact (RFC 5589 7). Else only a number of ours will do: what a phone may call is
/// decided by number. A switch names its own host where it means a number that it knows.
fn refer_to(
    headers: &Headers,
    replaced: Option<ReferredLeg>,
    (trunk, domain): (Option<&str>, &LocalDomain),
) -> Result<ReferTarget, Refuse> {
    let value = headers.single("Refer-To").map_err(|_| Refuse::new(400))?;
    let uri = refer_target(value).ok_or(Refuse::new(400))?;
    if uri.scheme() == Scheme::Other {
        return Err(Refuse::new(416));
    }
    let is_invite = uri.param("method").is_none_or(|method| method.eq_ignore_ascii_case(b"INVITE"));
    if !is_invite {
        return Err(Refuse::new(501));
    }
    let number = domain.number_from(trunk, &uri);
    let is_secure = uri.scheme() == Scheme::Sips;
    if let Some(replaced) = replaced {
        let (to, replaces) = (number.unwrap_or(replaced.number), Some(replaced.leg));
        return Ok(ReferTarget { to, replaces, is_secure });
    }
    if !domain.is_ours(&uri) && !domain.is_at_trunk(trunk, &uri) {
        return Err(Refuse::new(403).because(RefuseReason::RefersElsewhere));
    }
    if uri.header("Replaces").is_some() {
        return Err(Refuse::new(404).because(RefuseReason::ReplacesNothing));
    }
    let to = number.ok_or(Refuse::new(404).because(RefuseReason::RefersToNoNumber))?;
    Ok(ReferTarget { to, replaces: None, is_secure })
}

/// What a Refer-To names.
struct ReferTarget {
    to: Number,
    replaces: Option<LegId>,
    /// It is a sips URI.
    is_secure: bool,
}

/// The URI of a Refer-To. One with headers behind `?` belongs in angle brackets (RFC 3261 20); some
/// phones leave them out.
pub(in crate::sip::user_agent) fn refer_target(value: &[u8]) -> Option<Uri> {
    match NameAddr::parse(value) {
        Ok(address) => Some(address.uri),
        Err(_) => Uri::parse(value.trim_ascii()).ok(),
    }
}
