//! The phone's transactions: its requests that wait for a response, and its answers that are kept
//! for copies and for their ACK.

use super::PhoneReply;
use crate::demo::phone::sdp::SdpDirection;
use crate::demo::phone::wire::{self, branch_of};
use rsip::headers::{self, UntypedHeader};
use rsip::{Header, Method, Request, Response};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// RFC 3261 17.1.1.1
const T1: Duration = Duration::from_millis(500);
const T2: Duration = Duration::from_secs(4);
const GIVE_UP: Duration = Duration::from_secs(32);
const ANSWERED_KEPT: usize = 64;

/// Datagrams to be sent.
pub(super) type Outbox = VecDeque<(Vec<u8>, SocketAddr)>;

/// What a request is for, and which command waits for it.
#[derive(Debug)]
pub(super) enum Purpose {
    Register { on: bool, reply: Option<PhoneReply> },
    Invite,
    Reinvite { direction: SdpDirection, reply: Option<PhoneReply> },
    Refer { reply: Option<PhoneReply> },
    Options { reply: Option<PhoneReply> },
    Release,
}

/// A client transaction.
#[derive(Debug)]
pub(super) struct PhoneTransaction {
    pub(super) branch: String,
    pub(super) request: Request,
    pub(super) to: SocketAddr,
    pub(super) purpose: Purpose,
    proceeding: bool,
    /// It has answered a challenge.
    pub(super) credentials: bool,
    resend: Option<Instant>,
    interval: Duration,
    deadline: Option<Instant>,
}

/// The client transactions.
#[derive(Debug, Default)]
pub(super) struct PhoneTransactions {
    clients: Vec<PhoneTransaction>,
}

/// A final response to an INVITE that waits for its ACK.
#[derive(Debug)]
pub(super) struct FinalAnswer {
    pub(super) call_id: String,
    cseq: u32,
    bytes: Vec<u8>,
    to: SocketAddr,
    pub(super) accepted: bool,
    resend: Instant,
    interval: Duration,
    deadline: Instant,
}

/// The server transactions.
#[derive(Debug, Default)]
pub(super) struct PhoneAnswers {
    unacknowledged: Vec<FinalAnswer>,
    /// The last answers, each with what names its request.
    answered: VecDeque<(String, Vec<u8>)>,
}

impl PhoneTransaction {
    pub(super) fn new(
        (branch, request): (String, Request),
        to: SocketAddr,
        purpose: Purpose,
        credentials: bool,
        now: Instant,
    ) -> Self {
        Self {
            branch,
            request,
            to,
            purpose,
            proceeding: false,
            credentials,
            resend: Some(now + T1),
            interval: T1,
            deadline: Some(now + GIVE_UP),
        }
    }

    /// Nothing is lost on its way.
    pub(super) fn send_once(&mut self) {
        self.resend = None;
    }

    /// A provisional response has come.
    pub(super) fn proceed(&mut self) {
        self.proceeding = true;
        if self.request.method == Method::Invite {
            self.resend = None;
            self.deadline = None;
        }
    }

    fn handle_timeout(&mut self, now: Instant, outbox: &mut Outbox) {
        if self.resend.is_none_or(|at| at > now) {
            return;
        }
        outbox.push_back((self.request.to_string().into_bytes(), self.to));
        self.interval = match self.request.method {
            Method::Invite => self.interval * 2,
            _ => (self.interval * 2).min(T2),
        };
        self.resend = Some(now + self.interval);
    }

    /// The fields of its CANCEL, without the Via.
    pub(super) fn cancel_fields(&self) -> Vec<Header> {
        let fields = self.request.headers.iter().filter_map(|header| match header {
            Header::From(_)
            | Header::To(_)
            | Header::CallId(_)
            | Header::MaxForwards(_)
            | Header::Route(_) => Some(header.clone()),
            Header::CSeq(cseq) => {
                Some(Header::CSeq(headers::CSeq::new(cseq.value().replace("INVITE", "CANCEL"))))
            }
            _ => None,
        });
        fields.collect()
    }

    /// The ACK of a refusal belongs to the INVITE's transaction (RFC 3261 17.1.1.3).
    pub(super) fn refusal_ack(&self, response: &Response) -> Option<Request> {
        let fields = self.request.headers.iter().filter_map(|header| match header {
            Header::Via(_)
            | Header::From(_)
            | Header::CallId(_)
            | Header::MaxForwards(_)
            | Header::Route(_) => Some(header.clone()),
            Header::To(_) => Some(Header::To(headers::To::new(
                wire::value(&response.headers, "To")?.into_owned(),
            ))),
            Header::CSeq(cseq) => {
                Some(Header::CSeq(headers::CSeq::new(cseq.value().replace("INVITE", "ACK"))))
            }
            _ => None,
        });
        wire::request(Method::Ack, &self.request.uri.to_string(), fields.collect(), None)
    }

    /// The fields of the same request once more, with another number and without the Via.
    pub(super) fn fields_again(&self, cseq: u32) -> impl Iterator<Item = Header> {
        let method = self.request.method;
        self.request.headers.iter().filter_map(move |header| match header {
            Header::Via(_)
            | Header::ContentLength(_)
            | Header::ContentType(_)
            | Header::UserAgent(_) => None,
            Header::CSeq(_) => Some(Header::CSeq(headers::CSeq::new(format!("{cseq} {method}")))),
            _ => Some(header.clone()),
        })
    }
}

impl PhoneTransactions {
    pub(super) fn push(&mut self, client: PhoneTransaction) {
        self.clients.push(client);
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut PhoneTransaction> {
        self.clients.iter_mut()
    }

    /// Takes out the one that a response is for.
    pub(super) fn take(&mut self, branch: &str, method: &str) -> Option<PhoneTransaction> {
        let is_it = |client: &PhoneTransaction| {
            client.branch == branch && client.request.method.to_string() == method
        };
        let place = self.clients.iter().position(is_it)?;
        Some(self.clients.remove(place))
    }

    /// An offer of ours is under way.
    pub(super) fn has_offer(&self) -> bool {
        self.clients.iter().any(|client| matches!(client.purpose, Purpose::Reinvite { .. }))
    }

    /// The INVITE that may be cancelled: a CANCEL may go out once, and only after a provisional
    /// response (RFC 3261 9.1).
    pub(super) fn cancellable(&self) -> Option<&PhoneTransaction> {
        let is_invite = |client: &&PhoneTransaction| matches!(client.purpose, Purpose::Invite);
        self.clients.iter().filter(is_invite).find(|client| client.proceeding)
    }

    pub(super) fn is_cancelling(&self) -> bool {
        self.clients.iter().any(|client| client.request.method == Method::Cancel)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let times = self.clients.iter().flat_map(|client| [client.resend, client.deadline]);
        times.flatten().min()
    }

    /// Sends again what is due.
    pub(super) fn handle_timeout(&mut self, now: Instant, outbox: &mut Outbox) {
        for client in &mut self.clients {
            client.handle_timeout(now, outbox);
        }
    }

    /// Takes out one that has waited too long.
    pub(super) fn take_overdue(&mut self, now: Instant) -> Option<PhoneTransaction> {
        let is_overdue =
            |client: &PhoneTransaction| client.deadline.is_some_and(|deadline| deadline <= now);
        let place = self.clients.iter().position(is_overdue)?;
        Some(self.clients.remove(place))
    }
}

impl PhoneAnswers {
    /// The answer that a copy of a request gets.
    pub(super) fn of(&self, request: &Request) -> Option<&[u8]> {
        let key = transaction_key(request);
        self.answered.iter().find(|(known, _)| *known == key).map(|(_, bytes)| bytes.as_slice())
    }

    /// A request has been answered.
    pub(super) fn keep(&mut self, request: &Request, bytes: Vec<u8>) {
        let key = transaction_key(request);
        self.answered.retain(|(answered, _)| *answered != key);
        if self.answered.len() == ANSWERED_KEPT {
            self.answered.pop_front();
        }
        self.answered.push_back((key, bytes));
    }

    /// The last answer is repeated until the INVITE that it answers is acknowledged.
    pub(super) fn expect_ack(
        &mut self,
        invite: &Request,
        status: u16,
        to: SocketAddr,
        now: Instant,
    ) {
        let (Some(call_id), Some((cseq, _)), Some((_, bytes))) = (
            wire::value(&invite.headers, "Call-ID"),
            wire::cseq(&invite.headers),
            self.answered.back(),
        ) else {
            return;
        };
        self.unacknowledged.push(FinalAnswer {
            call_id: call_id.into_owned(),
            cseq,
            bytes: bytes.clone(),
            to,
            accepted: status < 300,
            resend: now + T1,
            interval: T1,
            deadline: now + GIVE_UP,
        });
    }

    /// An ACK has come.
    pub(super) fn handle_ack(&mut self, ack: &Request) {
        let (call_id, cseq) = (wire::value(&ack.headers, "Call-ID"), wire::cseq(&ack.headers));
        self.unacknowledged.retain(|waiting| {
            Some(waiting.call_id.as_str()) != call_id.as_deref()
                || Some(waiting.cseq) != cseq.as_ref().map(|cseq| cseq.0)
        });
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.unacknowledged.iter().map(|waiting| waiting.resend.min(waiting.deadline)).min()
    }

    /// Sends again what is due.
    pub(super) fn handle_timeout(&mut self, now: Instant, outbox: &mut Outbox) {
        for waiting in self.unacknowledged.iter_mut().filter(|waiting| waiting.resend <= now) {
            outbox.push_back((waiting.bytes.clone(), waiting.to));
            waiting.interval = (waiting.interval * 2).min(T2);
            waiting.resend = now + waiting.interval;
        }
    }

    /// Takes out a transaction that waits in vain for its ACK.
    pub(super) fn take_overdue(&mut self, now: Instant) -> Option<FinalAnswer> {
        let place = self.unacknowledged.iter().position(|waiting| waiting.deadline <= now)?;
        Some(self.unacknowledged.remove(place))
    }
}

fn transaction_key(request: &Request) -> String {
    format!("{} {}", branch_of(request), request.method)
}
