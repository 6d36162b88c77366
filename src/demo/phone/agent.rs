//! The user agent behind a phone: one task that owns the SIP socket, its transactions and its one
//! call.

mod call;
mod transactions;

use super::digest::Challenge;
use super::sdp::{self, Described, SdpDirection};
use super::socket::{Arrived, PhoneSocket};
use super::wire::{self, dialog_fields, new_branch, token};
use super::{AnswerPolicy, PhoneConfig, PhoneError, PhoneEvent, PhoneShared, PhoneTls};
use crate::clock;
use call::{PhoneCall, PhoneState};
use rsip::headers::{self, UntypedHeader};
use rsip::{Header, Method, Request, Response, SipMessage};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use transactions::{Outbox, PhoneAnswers, PhoneTransaction, PhoneTransactions, Purpose};

/// A connection that cannot be made is tried again after so long.
const AGAIN: Duration = Duration::from_millis(500);

pub(super) type PhoneReply = oneshot::Sender<Result<(), PhoneError>>;

/// What the handle asks of its task.
#[derive(Debug)]
pub(super) enum Ask {
    Register {
        on: bool,
        reply: PhoneReply,
    },
    Call {
        number: String,
        reply: PhoneReply,
    },
    Answer {
        reply: PhoneReply,
    },
    HangUp {
        reply: PhoneReply,
    },
    Reinvite {
        direction: SdpDirection,
        reply: PhoneReply,
    },
    Refer {
        number: String,
        replaces: Option<String>,
        reply: PhoneReply,
    },
    /// The value of a Replaces header that names the call.
    Dialog {
        reply: oneshot::Sender<Option<String>>,
    },
    Options {
        reply: PhoneReply,
    },
    Disconnect {
        stays_away: bool,
        reply: PhoneReply,
    },
    Policy {
        answer: AnswerPolicy,
        reply: PhoneReply,
    },
}

#[derive(Debug)]
pub(super) struct Agent {
    config: PhoneConfig,
    socket: PhoneSocket,
    address: SocketAddr,
    shared: Arc<PhoneShared>,
    call: Option<PhoneCall>,
    clients: PhoneTransactions,
    answers: PhoneAnswers,
    register_id: String,
    register_cseq: u32,
    renew_at: Option<Instant>,
    is_registered: bool,
    outbox: Outbox,
}

impl Agent {
    pub(super) fn new(
        config: PhoneConfig,
        socket: PhoneSocket,
        address: SocketAddr,
        shared: Arc<PhoneShared>,
    ) -> Agent {
        Agent {
            config,
            socket,
            address,
            shared,
            call: None,
            clients: PhoneTransactions::default(),
            answers: PhoneAnswers::default(),
            register_id: token(),
            register_cseq: 0,
            renew_at: None,
            is_registered: false,
            outbox: Outbox::new(),
        }
    }

    pub(super) async fn run(mut self, mut asks: mpsc::Receiver<Ask>) {
        let mut buffer = vec![0; 65_536];
        loop {
            while let Some((bytes, to)) = self.outbox.pop_front() {
                // Lost on the way, as on any network: retransmissions take care of it.
                if self.socket.send(&bytes, to).await.is_err() {
                    self.handle_lost(AGAIN);
                }
            }
            let wake = self.next_timeout();
            tokio::select! {
                ask = asks.recv() => match ask {
                    Some(ask) => self.handle_ask(ask),
                    None => return,
                },
                received = self.socket.receive(&mut buffer) => match received {
                    Ok(Arrived::Message(bytes, from)) => {
                        if let Some(message) = wire::read(&bytes) {
                            self.handle_message(message, from);
                        }
                    }
                    Ok(Arrived::Lost) => self.handle_lost(Duration::ZERO),
                    Err(_) => {}
                },
                () = sleep_until(wake) => self.handle_timeout(clock::instant()),
            }
        }
    }

    // What the user does

    fn handle_ask(&mut self, ask: Ask) {
        match ask {
            Ask::Register { on, reply } => self.register(on, Some(reply)),
            Ask::Call { number, reply } => answer(reply, self.start_call(&number)),
            Ask::Answer { reply } => answer(reply, self.answer()),
            Ask::HangUp { reply } => answer(reply, self.hang_up()),
            Ask::Reinvite { direction, reply } => self.reinvite(direction, reply),
            Ask::Refer { number, replaces, reply } => {
                self.refer(&number, replaces.as_deref(), reply)
            }
            Ask::Dialog { reply } => {
                // Whoever asked may have gone.
                let _ = reply.send(self.call.as_ref().and_then(PhoneCall::replaces));
            }
            Ask::Options { reply } => {
                let server = self.config.server;
                let uri = format!("{}:{server}", self.scheme());
                let fields = self.outside_fields(&uri, &token(), 1, "OPTIONS");
                self.send_request(
                    Method::Options,
                    &uri,
                    fields,
                    None,
                    server,
                    Purpose::Options { reply: Some(reply) },
                );
            }
            Ask::Disconnect { stays_away, reply } => {
                self.socket.disconnect();
                match stays_away {
                    true => self.renew_at = None,
                    false => self.handle_lost(Duration::ZERO),
                }
                answer(reply, Ok(()));
            }
            Ask::Policy { answer: policy, reply } => {
                self.config.answer = policy;
                answer(reply, Ok(()));
            }
        }
    }

    /// Its connection is gone: it registers again by another.
    fn handle_lost(&mut self, after: Duration) {
        if self.socket.is_reliable() && self.is_registered {
            self.renew_at = Some(clock::instant() + after);
        }
    }

    fn register(&mut self, on: bool, reply: Option<PhoneReply>) {
        let server = self.config.server;
        self.register_cseq += 1;
        self.renew_at = None;
        self.is_registered &= on;
        let id = self.register_id.clone();
        let uri = self.address_of(&self.config.number);
        let mut fields = self.outside_fields(&uri, &id, self.register_cseq, "REGISTER");
        fields.push(self.contact());
        let expires = if on { self.config.expires } else { 0 };
        fields.push(Header::Expires(headers::Expires::new(expires.to_string())));
        let registrar = format!("{}:{server}", self.scheme());
        self.send_request(
            Method::Register,
            &registrar,
            fields,
            None,
            server,
            Purpose::Register { on, reply },
        );
    }

    fn start_call(&mut self, number: &str) -> Result<(), PhoneError> {
        if self.call.is_some() {
            return Err(PhoneError::NoCall);
        }
        let uri = self.address_of(number);
        let own = self.address_of(&self.config.number);
        self.call = Some(PhoneCall::outgoing(&own, uri, self.config.server));
        self.shared.sound.begin();
        let offer = (!self.config.late_offer)
            .then(|| self.description(SdpDirection::SendRecv, None))
            .flatten();
        let asserted = self.config.asserts.as_ref().map(|number| {
            let value = format!("<{}>", self.address_of(number));
            Header::Other("P-Asserted-Identity".to_owned(), value)
        });
        let more = asserted.into_iter().collect();
        self.send_in_call_with(Method::Invite, more, offer, Purpose::Invite);
        Ok(())
    }

    fn answer(&mut self) -> Result<(), PhoneError> {
        let ringing = self.call.as_ref().and_then(PhoneCall::ringing);
        let (invite, from) = ringing.ok_or(PhoneError::NoCall)?;
        let invite = invite.clone();
        let offered = self.read(&invite.body);
        let direction = offered
            .as_ref()
            .map_or(SdpDirection::SendRecv, |offer| offer.direction.answer(SdpDirection::SendRecv));
        let body = self.description(direction, offered.as_ref());
        self.respond_final(&invite, 200, from, body);
        if let Some(call) = &mut self.call {
            call.state = PhoneState::Established;
            call.agree(direction, offered);
        }
        self.apply_sound();
        self.shared.happened(PhoneEvent::Established);
        Ok(())
    }

    fn hang_up(&mut self) -> Result<(), PhoneError> {
        let Some(call) = &mut self.call else {
            return Err(PhoneError::NoCall);
        };
        match &mut call.state {
            PhoneState::Calling { cancelled } => {
                *cancelled = true;
                self.cancel_if_proceeding();
                return Ok(());
            }
            PhoneState::Ringing { invite, from, .. } => {
                let (invite, from) = (invite.clone(), *from);
                self.respond_final(&invite, 603, from, None);
            }
            PhoneState::Established => self.send_in_call(Method::Bye, None, Purpose::Release),
        }
        self.end_call(true, None);
        Ok(())
    }

    fn reinvite(&mut self, direction: SdpDirection, reply: PhoneReply) {
        let busy = self.clients.has_offer();
        match &mut self.call {
            Some(call) if call.is_established() && !busy => call.describe_anew(),
            _ => return answer(reply, Err(PhoneError::NoCall)),
        }
        let offer = self.description(direction, None);
        self.send_in_call(
            Method::Invite,
            offer,
            Purpose::Reinvite { direction, reply: Some(reply) },
        );
    }

    fn refer(&mut self, number: &str, replaces: Option<&str>, reply: PhoneReply) {
        if !self.call.as_ref().is_some_and(PhoneCall::is_established) {
            return answer(reply, Err(PhoneError::NoCall));
        }
        let to = match replaces {
            Some(dialog) => {
                let escaped = dialog
                    .replace('%', "%25")
                    .replace('@', "%40")
                    .replace(';', "%3B")
                    .replace('=', "%3D");
                format!("<{}?Replaces={escaped}>", self.address_of(number))
            }
            None => format!("<{}>", self.address_of(number)),
        };
        let more = vec![self.contact(), Header::Other("Refer-To".into(), to)];
        self.send_in_call_with(Method::Refer, more, None, Purpose::Refer { reply: Some(reply) });
    }

    /// A CANCEL may go out only after a provisional response (RFC 3261 9.1).
    fn cancel_if_proceeding(&mut self) {
        let Some(client) = self.clients.cancellable() else {
            return;
        };
        let (uri, to, branch) = (client.request.uri.to_string(), client.to, client.branch.clone());
        let fields = std::iter::once(self.via(&branch)).chain(client.cancel_fields()).collect();
        if let Some(request) = wire::request(Method::Cancel, &uri, fields, None) {
            self.start((branch, request), to, Purpose::Release, false);
        }
    }

    // What comes from the wire

    fn handle_message(&mut self, message: SipMessage, from: SocketAddr) {
        self.shared.traced(false, wire::summary(&message), message.to_string());
        match message {
            SipMessage::Request(request) => self.handle_request(request, from),
            SipMessage::Response(response) => self.handle_response(response),
        }
    }

    fn handle_request(&mut self, request: Request, from: SocketAddr) {
        if let Some(bytes) = self.answers.of(&request) {
            self.outbox.push_back((bytes.to_vec(), from));
            return;
        }
        let inside = self.call.as_ref().is_some_and(|call| call.has(&request));
        match request.method {
            Method::Invite if inside => self.handle_reinvite(&request, from),
            Method::Invite => self.handle_invite(request, from),
            Method::Ack => self.handle_ack(&request),
            Method::Cancel => self.handle_cancel(&request, from),
            Method::Bye if inside => {
                self.respond(&request, 200, from, Vec::new(), None);
                let reason =
                    wire::value(&request.headers, "Reason").map(|reason| reason.into_owned());
                self.end_call(false, reason);
            }
            Method::Notify if inside => self.handle_notify(&request, from),
            Method::Update if inside && !request.body.is_empty() => {
                self.handle_reinvite(&request, from)
            }
            Method::Options | Method::Info | Method::Update => {
                self.respond(&request, 200, from, Vec::new(), None)
            }
            _ => self.respond(&request, if inside { 501 } else { 481 }, from, Vec::new(), None),
        }
    }

    fn handle_invite(&mut self, request: Request, from: SocketAddr) {
        self.respond(&request, 100, from, Vec::new(), None);
        let auto = wire::asks_auto_answer(&request.headers);
        let busy = self.call.is_some() || self.config.answer == AnswerPolicy::Busy;
        if busy || self.config.answer == AnswerPolicy::Reject {
            return self.respond_final(&request, if busy { 486 } else { 603 }, from, None);
        }
        if !request.body.is_empty() && self.read(&request.body).is_none() {
            return self.respond_final(&request, 488, from, None);
        }
        let caller = wire::value(&request.headers, "From").unwrap_or_default().into_owned();
        let answer_at = match self.config.answer {
            AnswerPolicy::Auto(after) => Some(clock::instant() + after),
            AnswerPolicy::ByHeader if auto => Some(clock::instant()),
            _ => None,
        };
        self.call = Some(PhoneCall::incoming(request.clone(), from, answer_at));
        self.shared.sound.begin();
        self.shared.happened(PhoneEvent::Incoming { from: caller, auto_answer: auto });
        match answer_at {
            Some(at) if at <= clock::instant() => drop(self.answer()),
            _ => self.respond(&request, 180, from, vec![self.contact()], None),
        }
    }

    fn handle_reinvite(&mut self, request: &Request, from: SocketAddr) {
        if self.clients.has_offer() {
            return self.respond_final(request, 491, from, None);
        }
        let offered = self.read(&request.body);
        if offered.is_none() && !request.body.is_empty() {
            return self.respond_final(request, 488, from, None);
        }
        let Some(call) = &mut self.call else { return };
        call.describe_anew();
        let direction = offered
            .as_ref()
            .map_or(SdpDirection::SendRecv, |offer| offer.direction.answer(SdpDirection::SendRecv));
        call.move_target(wire::value(&request.headers, "Contact").as_deref());
        let body = self.description(direction, offered.as_ref());
        match request.method {
            Method::Invite => self.respond_final(request, 200, from, body),
            _ => self.respond(request, 200, from, vec![self.contact()], body),
        }
        let Some(call) = &mut self.call else { return };
        if let Some(offered) = &offered {
            self.shared.happened(PhoneEvent::Reoffered(offered.direction));
        }
        call.agree(direction, offered);
        self.apply_sound();
    }

    fn handle_ack(&mut self, request: &Request) {
        self.answers.handle_ack(request);
        // The answer to an offer of ours in a 200.
        if let (Some(described), Some(call)) = (self.read(&request.body), &mut self.call)
            && wire::value(&request.headers, "Call-ID").as_deref() == Some(call.call_id.as_str())
        {
            call.describe(described);
            self.apply_sound();
        }
    }

    fn handle_cancel(&mut self, request: &Request, from: SocketAddr) {
        let call = self.call.as_ref().filter(|call| call.is_cancelled_by(request));
        let ringing = call.and_then(PhoneCall::ringing);
        let Some((invite, invited_from)) = ringing.map(|(invite, from)| (invite.clone(), from))
        else {
            return self.respond(request, 481, from, Vec::new(), None);
        };
        self.respond(request, 200, from, Vec::new(), None);
        self.respond_final(&invite, 487, invited_from, None);
        self.end_call(
            false,
            wire::value(&request.headers, "Reason").map(|reason| reason.into_owned()),
        );
    }

    fn handle_notify(&mut self, request: &Request, from: SocketAddr) {
        let event = wire::value(&request.headers, "Event").unwrap_or_default().to_ascii_lowercase();
        if event.split(';').next() == Some("refer") {
            self.respond(request, 200, from, Vec::new(), None);
            let line = String::from_utf8_lossy(&request.body).into_owned();
            if let Some(status) = line.split(' ').nth(1).and_then(|status| status.parse().ok()) {
                self.shared.happened(PhoneEvent::Transfer(status));
            }
            return;
        }
        if event != "talk" {
            return self.respond(request, 489, from, Vec::new(), None);
        }
        self.respond(request, 200, from, Vec::new(), None);
        self.shared.happened(PhoneEvent::AskedToTalk);
        if self.config.answer != AnswerPolicy::Never
            && self.call.as_ref().and_then(PhoneCall::ringing).is_some()
        {
            drop(self.answer());
        }
    }

    fn handle_response(&mut self, response: Response) {
        let status = response.status_code.code();
        let via = wire::value(&response.headers, "Via").unwrap_or_default().into_owned();
        let branch = wire::parameter(&via, "branch").unwrap_or_default().to_owned();
        let Some((cseq, method)) = wire::cseq(&response.headers) else {
            return;
        };
        let Some(mut client) = self.clients.take(&branch, &method) else {
            // A 200 came again: our ACK was lost.
            if let Some(call) = &self.call
                && let Some(ack) = call.repeated_ack(status, cseq, &method)
            {
                self.outbox.push_back((ack.to_vec(), call.peer));
            }
            return;
        };
        if status < 200 {
            client.proceed();
            self.clients.push(client);
            return self.handle_provisional(status);
        }
        if method == "INVITE"
            && status >= 300
            && let Some(ack) = client.refusal_ack(&response)
        {
            self.send(SipMessage::Request(ack), client.to);
        }
        if (status == 401 || status == 407)
            && !client.credentials
            && self.try_credentials(&mut client, &response, status, cseq)
        {
            return;
        }
        self.handle_final(client, &response, status, cseq);
    }

    fn handle_provisional(&mut self, status: u16) {
        if let Some(PhoneCall { state: PhoneState::Calling { cancelled }, .. }) = &self.call {
            if *cancelled {
                if !self.clients.is_cancelling() {
                    self.cancel_if_proceeding();
                }
            } else if status > 100 {
                self.shared.happened(PhoneEvent::Ringing(status));
            }
        }
    }

    fn try_credentials(
        &mut self,
        client: &mut PhoneTransaction,
        response: &Response,
        status: u16,
        cseq: u32,
    ) -> bool {
        let (asked, given) = if status == 401 {
            ("WWW-Authenticate", "Authorization")
        } else {
            ("Proxy-Authenticate", "Proxy-Authorization")
        };
        let challenges = wire::values(&response.headers, asked);
        let Some(challenge) = challenges
            .iter()
            .filter_map(|value| Challenge::read(value))
            .max_by_key(Challenge::strength)
        else {
            return false;
        };
        let request = &client.request;
        let method = request.method;
        let uri = request.uri.to_string();
        let value = challenge.answer(
            &self.config.number,
            self.config.password.expose(),
            &method.to_string(),
            &uri,
            &token(),
        );
        let branch = new_branch();
        let next = cseq + 1;
        let mut fields = vec![self.via(&branch)];
        fields.extend(client.fields_again(next));
        fields.push(Header::Other(given.into(), value));
        let body = (!request.body.is_empty()).then(|| request.body.clone());
        match (&client.purpose, &mut self.call) {
            (Purpose::Register { .. }, _) => self.register_cseq = next,
            (
                Purpose::Invite
                | Purpose::Reinvite { .. }
                | Purpose::Refer { .. }
                | Purpose::Release,
                Some(call),
            ) => call.count_to(next),
            _ => {}
        }
        let purpose = std::mem::replace(&mut client.purpose, Purpose::Release);
        if let Some(request) = wire::request(method, &uri, fields, body) {
            self.start((branch, request), client.to, purpose, true);
        }
        true
    }

    fn handle_final(
        &mut self,
        client: PhoneTransaction,
        response: &Response,
        status: u16,
        cseq: u32,
    ) {
        let good = (200..300).contains(&status);
        let outcome = if good { Ok(()) } else { Err(PhoneError::Refused(status)) };
        match client.purpose {
            Purpose::Register { on, reply } => {
                if good {
                    self.is_registered = on;
                    if on {
                        self.renew_at = Some(
                            clock::instant()
                                + Duration::from_secs(u64::from(self.granted(response)).max(2) / 2),
                        );
                    }
                    self.shared.happened(PhoneEvent::Registered(on));
                }
                answer(reply, outcome);
            }
            Purpose::Options { reply } | Purpose::Refer { reply } => answer(reply, outcome),
            Purpose::Invite if good => self.handle_answered(response, cseq),
            Purpose::Invite => {
                if self
                    .call
                    .take_if(|call| matches!(call.state, PhoneState::Calling { .. }))
                    .is_some()
                {
                    self.shared.happened(PhoneEvent::Refused(status));
                }
            }
            Purpose::Reinvite { direction, reply } => {
                if good {
                    self.acknowledge(response, cseq, None);
                    let described = self.read(&response.body);
                    if let Some(call) = &mut self.call {
                        call.agree(direction, described);
                    }
                    self.apply_sound();
                }
                answer(reply, outcome);
            }
            Purpose::Release => {}
        }
    }

    fn handle_answered(&mut self, response: &Response, cseq: u32) {
        let described = self.read(&response.body);
        let Some(call) = &mut self.call else { return };
        let Some(cancelled) = call.establish(response, described.clone()) else {
            return;
        };
        let answer = self
            .config
            .late_offer
            .then(|| self.description(SdpDirection::SendRecv, described.as_ref()))
            .flatten();
        self.acknowledge(response, cseq, answer);
        if cancelled {
            self.send_in_call(Method::Bye, None, Purpose::Release);
            return self.end_call(true, None);
        }
        self.apply_sound();
        self.shared.happened(PhoneEvent::Established);
    }

    /// The ACK of a 2xx: a request of its own (RFC 3261 13.2.2.4), sent again whenever the 2xx
    /// comes again.
    fn acknowledge(&mut self, response: &Response, cseq: u32, body: Option<Vec<u8>>) {
        let Some(call) = &self.call else { return };
        let mut fields = vec![self.via(&new_branch())];
        fields.extend(call.ack_fields(response, cseq));
        let Some(request) = wire::request(Method::Ack, &call.target, fields, body) else {
            return;
        };
        let bytes = self.send(SipMessage::Request(request), call.peer);
        if let Some(call) = &mut self.call {
            call.acknowledge(cseq, bytes);
        }
    }

    // Time

    fn next_timeout(&self) -> Option<Instant> {
        let answer_at = self.call.as_ref().and_then(PhoneCall::answer_at);
        let times =
            [self.clients.poll_timeout(), self.answers.poll_timeout(), answer_at, self.renew_at];
        times.into_iter().flatten().min()
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.clients.handle_timeout(now, &mut self.outbox);
        self.answers.handle_timeout(now, &mut self.outbox);
        while let Some(client) = self.clients.take_overdue(now) {
            self.handle_unanswered(client);
        }
        while let Some(waiting) = self.answers.take_overdue(now) {
            if waiting.accepted
                && self.call.as_ref().is_some_and(|call| call.call_id == waiting.call_id)
            {
                drop(self.hang_up());
            }
        }
        if self.call.as_ref().and_then(PhoneCall::answer_at).is_some_and(|at| at <= now) {
            drop(self.answer());
        }
        if self.renew_at.is_some_and(|at| at <= now) {
            self.register(true, None);
        }
    }

    fn handle_unanswered(&mut self, client: PhoneTransaction) {
        match client.purpose {
            Purpose::Register { reply, .. }
            | Purpose::Options { reply }
            | Purpose::Refer { reply }
            | Purpose::Reinvite { reply, .. } => {
                answer(reply, Err(PhoneError::Timeout));
            }
            Purpose::Invite => {
                self.call = None;
                self.shared.happened(PhoneEvent::Refused(408));
            }
            Purpose::Release => {}
        }
    }

    // The ways out

    fn send_in_call(&mut self, method: Method, body: Option<Vec<u8>>, purpose: Purpose) {
        self.send_in_call_with(method, Vec::new(), body, purpose);
    }

    fn send_in_call_with(
        &mut self,
        method: Method,
        more: Vec<Header>,
        body: Option<Vec<u8>>,
        purpose: Purpose,
    ) {
        let Some(call) = &mut self.call else { return };
        let mut fields = call.next_fields(method);
        let (target, peer) = (call.target.clone(), call.peer);
        fields.extend(more);
        if method == Method::Invite {
            fields.push(self.contact());
            fields.push(Header::Allow(headers::Allow::new(
                "INVITE, ACK, CANCEL, BYE, OPTIONS, NOTIFY, INFO, UPDATE",
            )));
        }
        self.send_request(method, &target, fields, body, peer, purpose);
    }

    fn send_request(
        &mut self,
        method: Method,
        uri: &str,
        mut fields: Vec<Header>,
        body: Option<Vec<u8>>,
        to: SocketAddr,
        purpose: Purpose,
    ) {
        let branch = new_branch();
        fields.insert(0, self.via(&branch));
        if let Some(request) = wire::request(method, uri, fields, body) {
            self.start((branch, request), to, purpose, false);
        }
    }

    /// Sends a request and waits for its response.
    fn start(
        &mut self,
        (branch, request): (String, Request),
        to: SocketAddr,
        purpose: Purpose,
        credentials: bool,
    ) {
        self.send(SipMessage::Request(request.clone()), to);
        let (sent, now) = ((branch, request), clock::instant());
        let mut client = PhoneTransaction::new(sent, to, purpose, credentials, now);
        if self.socket.is_reliable() {
            client.send_once();
        }
        self.clients.push(client);
    }

    fn respond(
        &mut self,
        request: &Request,
        status: u16,
        to: SocketAddr,
        more: Vec<Header>,
        body: Option<Vec<u8>>,
    ) {
        let own = self.call.as_ref().and_then(PhoneCall::tag).unwrap_or("none").to_owned();
        let response = wire::response(request, status, &own, more, body);
        let bytes = self.send(SipMessage::Response(response), to);
        self.answers.keep(request, bytes);
    }

    /// Answers an INVITE for good and repeats that until it is acknowledged.
    fn respond_final(
        &mut self,
        invite: &Request,
        status: u16,
        to: SocketAddr,
        body: Option<Vec<u8>>,
    ) {
        let more = if status < 300 { vec![self.contact()] } else { Vec::new() };
        self.respond(invite, status, to, more, body);
        self.answers.expect_ack(invite, status, to, clock::instant());
    }

    fn send(&mut self, message: SipMessage, to: SocketAddr) -> Vec<u8> {
        let (line, text) = (wire::summary(&message), message.to_string());
        let bytes = text.clone().into_bytes();
        self.shared.traced(true, line, text);
        self.outbox.push_back((bytes.clone(), to));
        bytes
    }

    fn end_call(&mut self, here: bool, reason: Option<String>) {
        if self.call.take().is_none() {
            return;
        }
        self.shared.sound.hush();
        for client in self.clients.iter_mut() {
            if let Purpose::Reinvite { reply, .. } | Purpose::Refer { reply } = &mut client.purpose
            {
                answer(reply.take(), Err(PhoneError::NoCall));
            }
        }
        self.shared.happened(PhoneEvent::Ended { here, reason });
    }

    // Parts

    fn apply_sound(&self) {
        if let Some(call) = &self.call {
            self.shared.sound.agree(call.destination(&self.config.laws), call.keys());
        }
    }

    /// What a description says that this phone can use.
    fn read(&self, body: &[u8]) -> Option<Described> {
        let suites = self.config.srtp.as_ref().map_or(&[][..], |srtp| &srtp.suites);
        sdp::read(body, suites)
    }

    /// Our offer, or our answer to theirs.
    fn description(
        &mut self,
        direction: SdpDirection,
        offered: Option<&Described>,
    ) -> Option<Vec<u8>> {
        let call = self.call.as_mut()?;
        let address = self.shared.sound.address();
        let ip = self.config.described_ip.unwrap_or(address.ip());
        let at = SocketAddr::new(ip, address.port());
        Some(call.description(direction, offered, &self.config, at))
    }

    fn granted(&self, response: &Response) -> u32 {
        let own = self.address.to_string();
        let contacts = wire::values(&response.headers, "Contact");
        let of_contact = contacts
            .iter()
            .filter(|contact| contact.contains(&own))
            .find_map(|contact| wire::parameter(contact, "expires")?.parse().ok());
        of_contact
            .or_else(|| wire::value(&response.headers, "Expires")?.parse().ok())
            .unwrap_or(self.config.expires)
    }

    fn address_of(&self, number: &str) -> String {
        format!("{}:{number}@{}", self.scheme(), self.config.server)
    }

    fn scheme(&self) -> &'static str {
        match &self.config.tls {
            Some(PhoneTls { sips: true, .. }) => "sips",
            Some(_) | None => "sip",
        }
    }

    fn contact(&self) -> Header {
        let transport = match &self.config.tls {
            Some(PhoneTls { sips: false, .. }) => ";transport=tls",
            Some(_) | None => "",
        };
        Header::Contact(headers::Contact::new(format!(
            "<{}:{}@{}{transport}>",
            self.scheme(),
            self.config.number,
            self.address
        )))
    }

    fn via(&self, branch: &str) -> Header {
        Header::Via(headers::Via::new(format!(
            "SIP/2.0/{} {};rport;branch={branch}",
            if self.socket.is_reliable() { "TLS" } else { "UDP" },
            self.address
        )))
    }

    fn outside_fields(&self, to: &str, call_id: &str, cseq: u32, method: &str) -> Vec<Header> {
        let own = format!("<{}>;tag={}", self.address_of(&self.config.number), token());
        dialog_fields(&own, &format!("<{to}>"), call_id, cseq, method, &[])
    }
}

fn answer(reply: impl Into<Option<PhoneReply>>, outcome: Result<(), PhoneError>) {
    if let Some(reply) = reply.into() {
        // The caller of this command may have stopped waiting.
        let _ = reply.send(outcome);
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
