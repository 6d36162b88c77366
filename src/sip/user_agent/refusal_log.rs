//! Refusals that are written down for the operator: each in one line, and never so many that they
//! fill a disk.

use super::Output;
use super::context::Context;
use super::leg::SentRequest;
use crate::model::Now;
use crate::rate_limit::TokenBucket;
use crate::sip::digest;
use crate::sip::flow::Flow;
use crate::sip::message::{
    Fault, ParseError, Refuse, RefuseReason, SipRequest, SipResponse, printable, reason_phrase,
};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Lines at once about strangers, and how long until there may be another.
const STRANGERS: u32 = 20;
const STRANGERS_EACH: Duration = Duration::from_secs(2);

/// The same about trunks and registered phones together.
const KNOWN: u32 = 200;
const KNOWN_EACH: Duration = Duration::from_millis(50);

/// So much of a header value stands in the log, in characters.
const SHOWN: usize = 200;

/// The side that has refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedBy {
    /// A request of theirs was refused here.
    Us,
    /// A request of ours was refused there, or found nobody.
    Peer,
}

/// A request that was refused, or something that could not be read. All text is bounded and
/// printable; `from` and `to` are personal data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRequest {
    /// The side that refused.
    pub by: RefusedBy,
    /// The method; empty when it could not be read.
    pub method: String,
    /// The Call-ID of the request.
    pub call_id: String,
    /// From as it is written.
    pub from: String,
    /// The Request-URI as it is written.
    pub to: String,
    /// The other side.
    pub peer: SocketAddr,
    /// 300 to 699; 0 when nothing was answered.
    pub status: u16,
    /// Why: ours in words, or the reason phrase of theirs.
    pub reason: String,
    /// The realms that were asked for, for 401 and 407.
    pub realms: String,
    /// How many lines of this kind were left out since the last one.
    pub left_out: u64,
    /// It was sent to a trunk.
    pub to_trunk: bool,
}

impl RefusedRequest {
    /// What the owner of a switch that has refused a call has most likely forgotten.
    pub fn hint(&self) -> Option<&'static str> {
        if self.by != RefusedBy::Peer || !self.to_trunk || self.method != "INVITE" {
            return None;
        }
        match self.status {
            403 | 603 => Some(
                "the switch may have no way for calls from here to this number: in Asterisk, the \
                 context for calls outside (docs/attach)",
            ),
            404 | 480 => Some(
                "no phone may be registered there, or the switch may not know this number \
                 (docs/attach)",
            ),
            _ => None,
        }
    }
}

/// How many refusals are written down.
#[derive(Debug, Default)]
pub(super) struct RefusalLog {
    known: RefusalLines,
    strangers: RefusalLines,
}

#[derive(Debug, Default)]
struct RefusalLines {
    allowance: TokenBucket,
    left_out: u64,
}

impl RefusalLog {
    /// The line, if there may be one now. It is not made when there may not.
    pub(super) fn take(
        &mut self,
        known: bool,
        now: Instant,
        line: impl FnOnce() -> RefusedRequest,
    ) -> Option<RefusedRequest> {
        let (lines, most, each) = match known {
            true => (&mut self.known, KNOWN, KNOWN_EACH),
            false => (&mut self.strangers, STRANGERS, STRANGERS_EACH),
        };
        if lines.allowance.try_take(most, each, now).is_err() {
            lines.left_out += 1;
            return None;
        }
        Some(RefusedRequest { left_out: std::mem::take(&mut lines.left_out), ..line() })
    }
}

impl Context {
    /// Writes a refusal of a request of theirs down.
    pub(super) fn note_refused(
        &mut self,
        flow: &Flow,
        request: &SipRequest,
        refuse: &Refuse,
        now: Now,
    ) {
        if refuse.reason == Some(RefuseReason::Challenge) {
            return;
        }
        let known = self.is_known(flow, now);
        let shown = |name: &str| shown(request.headers.get(name));
        let note = || RefusedRequest {
            by: RefusedBy::Us,
            method: request.method.to_string(),
            call_id: shown("Call-ID"),
            from: shown("From"),
            to: printable(request.uri.as_bytes(), SHOWN),
            peer: flow.peer,
            status: refuse.status,
            reason: match refuse.reason {
                Some(reason) => reason.to_string(),
                None => reason_phrase(refuse.status).to_owned(),
            },
            realms: String::new(),
            left_out: 0,
            to_trunk: false,
        };
        let note = self.refusals.take(known, now.mono, note);
        self.outputs.extend(note.map(Output::Refused));
    }

    /// Writes down that something came which is no message: what it should have answered waits in
    /// vain.
    pub(super) fn note_malformed(&mut self, flow: &Flow, error: &ParseError, now: Now) {
        if error.fault == Fault::KeepAlive {
            return;
        }
        let known = self.is_known(flow, now);
        let of = |name: &str| {
            shown(error.response.as_ref().and_then(|response| response.headers.get(name)))
        };
        let note = || RefusedRequest {
            by: RefusedBy::Us,
            method: String::new(),
            call_id: of("Call-ID"),
            from: of("From"),
            to: of("To"),
            peer: flow.peer,
            status: error.response.as_ref().map_or(0, |response| response.status),
            reason: error.fault.to_string(),
            realms: String::new(),
            left_out: 0,
            to_trunk: false,
        };
        let note = self.refusals.take(known, now.mono, note);
        self.outputs.extend(note.map(Output::Refused));
    }

    /// Writes down that the peer has refused a request of ours.
    pub(super) fn note_refused_by(&mut self, sent: &SentRequest, response: &SipResponse, now: Now) {
        let realms: Vec<String> = ["WWW-Authenticate", "Proxy-Authenticate"]
            .into_iter()
            .flat_map(|name| response.headers.fields_of(name))
            .filter_map(digest::realm)
            .map(|realm| printable(&realm, SHOWN))
            .collect();
        self.note_refusal(sent, response.status, &response.reason, &realms, now);
    }

    /// Writes down that a request of ours found nobody, or that its answer is of no use.
    pub(super) fn note_failed(&mut self, sent: &SentRequest, status: u16, reason: &str, now: Now) {
        self.note_refusal(sent, status, reason.as_bytes(), &[], now);
    }

    fn note_refusal(
        &mut self,
        sent: &SentRequest,
        status: u16,
        reason: &[u8],
        realms: &[String],
        now: Now,
    ) {
        let request = &sent.request;
        let to_trunk = self.trunk_at(&sent.flow).is_some();
        let note = || RefusedRequest {
            by: RefusedBy::Peer,
            method: request.method.to_string(),
            call_id: shown(request.headers.get("Call-ID")),
            from: shown(request.headers.get("From")),
            to: printable(request.uri.as_bytes(), SHOWN),
            peer: sent.flow.peer,
            status,
            reason: printable(reason, SHOWN),
            realms: realms.join(", "),
            left_out: 0,
            to_trunk,
        };
        let note = self.refusals.take(true, now.mono, note);
        self.outputs.extend(note.map(Output::Refused));
    }
}

fn shown(value: Option<&[u8]>) -> String {
    printable(value.unwrap_or_default(), SHOWN)
}
