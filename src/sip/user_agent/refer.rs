//! REFER within a call (RFC 3515): a phone asks that somebody else take its place, and is told how it goes.

use super::UserAgent;
use super::leg::{ClientUse, LegPhase, Way};
use crate::model::{Now, Number};
use crate::sip::flow::Flow;
use crate::sip::leg::{LegEvent, LegId};
use crate::sip::message::{Headers, Method, NameAddr, Refuse, Scheme, SipRequest, SipResponse, Uri, reason_phrase};
use crate::sip::transaction::{ReceivedVia, TransactionKind};

/// A peer that has asked, and is to hear what came of it.
#[derive(Clone, Debug)]
pub(super) struct Referrer {
    /// CSeq of its REFER: names the subscription (RFC 3515 2.4.6).
    cseq: u32,
    /// It wants to hear nothing (RFC 4488).
    is_silent: bool,
}

/// How long the subscription lasts, in seconds: longer than any phone rings.
const LASTS: u32 = 300;

impl UserAgent {
    pub(super) fn handle_refer(
        &mut self,
        leg_key: LegId,
        flow: Flow,
        key: ReceivedVia,
        refer: &SipRequest,
        now: Now,
    ) -> Result<(), Refuse> {
        let leg = self.legs.get(&leg_key).ok_or(Refuse::new(481))?;
        match leg.state {
            LegPhase::Confirmed if leg.referrer.is_none() => {}
            LegPhase::Confirmed | LegPhase::Incoming(_) | LegPhase::Calling(_) => return Err(Refuse::new(491)),
            LegPhase::Cancelling(..) | LegPhase::ByePending(_) | LegPhase::ByeSent => return Err(Refuse::new(481)),
        }
        let (to, replaces) = self.refer_to(leg_key, &refer.headers)?;
        let (cseq, _) = refer.headers.cseq().map_err(|_| Refuse::new(400))?;
        let wish = refer.headers.get("Refer-Sub");
        let is_silent = wish.is_some_and(|wish| wish.trim_ascii().eq_ignore_ascii_case(b"false"));
        let mut response = SipResponse::to(refer, 202).with("Contact", self.contact(&flow, &leg.number));
        if is_silent {
            response.headers.push("Refer-Sub", "false");
        }
        self.answer(leg_key, key, &response, now);
        if let Some(leg) = self.legs.get_mut(&leg_key) {
            leg.referrer = Some(Referrer { cseq, is_silent });
        }
        self.tell_referrer(leg_key, 100, now);
        self.event(LegEvent::Referred {
            leg: leg_key,
            to,
            replaces,
        });
        Ok(())
    }

    /// The number that is to be called, and the call of the same peer that goes there already. That one is named by Replaces
    /// alone (RFC 3891 3), whatever stands before it: often it is our Contact (RFC 5589 7). Else only a number of ours will
    /// do: whom a phone may call is decided by number.
    fn refer_to(&self, leg_key: LegId, headers: &Headers) -> Result<(Number, Option<LegId>), Refuse> {
        let value = headers.single("Refer-To").map_err(|_| Refuse::new(400))?;
        let uri = target(value).ok_or(Refuse::new(400))?;
        if uri.scheme() == Scheme::Other {
            return Err(Refuse::new(416));
        }
        let is_invite = uri.param("method").is_none_or(|method| method.eq_ignore_ascii_case(b"INVITE"));
        if !is_invite {
            return Err(Refuse::new(501));
        }
        let number = self.number_of(&uri);
        if let Some(value) = uri.header("Replaces")
            && let Some(other) = self.other_leg(leg_key, &value)
        {
            let number = number.or_else(|| self.legs.get(&other).map(|leg| leg.number.clone()));
            return Ok((number.unwrap_or_else(|| Number::from("")), Some(other)));
        }
        if !self.is_ours(&uri) {
            return Err(Refuse::new(403).because("refers to another host"));
        }
        if uri.header("Replaces").is_some() {
            return Err(Refuse::new(404).because("Replaces names no call of this peer"));
        }
        let to = number.ok_or(Refuse::new(404).because("refers to no number"))?;
        Ok((to, None))
    }

    /// Another leg of the same peer. (481 would end the dialog in which he asks, RFC 5057 5.1.)
    fn other_leg(&self, leg_key: LegId, replaces: &[u8]) -> Option<LegId> {
        let (other, early_only) = self.named(replaces)?;
        let (one, other_leg) = (self.legs.get(&leg_key)?, self.legs.get(&other)?);
        let stands = match other_leg.state {
            LegPhase::Confirmed => !early_only,
            LegPhase::Incoming(_) | LegPhase::Calling(_) => true,
            LegPhase::Cancelling(..) | LegPhase::ByePending(_) | LegPhase::ByeSent => false,
        };
        (stands && other != leg_key && one.peer == other_leg.peer).then_some(other)
    }

    /// NOTIFY with the status line of what was asked for (RFC 3515 2.4.5); the last one ends the subscription.
    pub(super) fn tell_referrer(&mut self, leg_key: LegId, status: u16, now: Now) {
        let Some(leg) = self.legs.get_mut(&leg_key) else { return };
        let is_last = status >= 200;
        let Some(referrer) = (if is_last { leg.referrer.take() } else { leg.referrer.clone() }) else {
            return;
        };
        if referrer.is_silent || !matches!(leg.state, LegPhase::Confirmed) || leg.way == Way::Lost {
            return;
        }
        let (flow, number) = (leg.dialog.flow, leg.number.clone());
        let state = match is_last {
            true => "terminated;reason=noresource".to_owned(),
            false => format!("active;expires={LASTS}"),
        };
        let notify = leg.dialog.request(Method::Notify);
        let mut notify = notify
            .with("Event", format!("refer;id={}", referrer.cseq))
            .with("Subscription-State", state);
        notify.headers.push("Contact", self.contact(&flow, &number));
        let line = format!("SIP/2.0 {status} {}\r\n", reason_phrase(status));
        let sent = self.sent(notify.with_body("message/sipfrag;version=2.0", line.into_bytes()), flow, 0);
        self.send(TransactionKind::Other, ClientUse::Other, &sent, now);
    }
}

/// The URI of a Refer-To. One with headers behind `?` belongs in angle brackets (RFC 3261 20); some phones leave them out.
fn target(value: &[u8]) -> Option<Uri> {
    match NameAddr::parse(value) {
        Ok(address) => Some(address.uri),
        Err(_) => Uri::parse(value.trim_ascii()).ok(),
    }
}
