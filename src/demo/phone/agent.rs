//! The user agent behind a phone: one task that owns the SIP socket, its transactions and its one
//! call.

use super::digest::Challenge;
use super::sdp::{self, Described, SdpDirection};
use super::wire;
use super::{AnswerPolicy, PhoneConfig, PhoneError, PhoneEvent, PhoneShared};
use crate::clock;
use rsip::headers::{self, UntypedHeader};
use rsip::{Header, Method, Request, Response, SipMessage};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot};

/// RFC 3261 17.1.1.1
const T1: Duration = Duration::from_millis(500);
const T2: Duration = Duration::from_secs(4);
const GIVE_UP: Duration = Duration::from_secs(32);
const ANSWERED_KEPT: usize = 64;

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
    Policy {
        answer: AnswerPolicy,
        reply: PhoneReply,
    },
}

#[derive(Debug)]
enum Purpose {
    Register { on: bool, reply: Option<PhoneReply> },
    Invite,
    Reinvite { direction: SdpDirection, reply: Option<PhoneReply> },
    Refer { reply: Option<PhoneReply> },
    Options { reply: Option<PhoneReply> },
    Release,
}

/// A client transaction.
#[derive(Debug)]
struct PhoneTransaction {
    branch: String,
    request: Request,
    to: SocketAddr,
    purpose: Purpose,
    proceeding: bool,
    credentials: bool,
    resend: Option<Instant>,
    interval: Duration,
    deadline: Option<Instant>,
}

/// A final response to an INVITE that waits for its ACK.
#[derive(Debug)]
struct Unacknowledged {
    call_id: String,
    cseq: u32,
    bytes: Vec<u8>,
    to: SocketAddr,
    accepted: bool,
    resend: Instant,
    interval: Duration,
    deadline: Instant,
}

#[derive(Debug)]
enum PhoneState {
    /// Our INVITE is out. `cancelled`: the user has hung up already.
    Calling {
        cancelled: bool,
    },
    /// Theirs rings here.
    Ringing {
        invite: Box<Request>,
        from: SocketAddr,
        answer_at: Option<Instant>,
    },
    Established,
}

#[derive(Debug)]
struct PhoneCall {
    state: PhoneState,
    call_id: String,
    local: String,
    remote: String,
    target: String,
    routes: Vec<String>,
    peer: SocketAddr,
    cseq: u32,
    /// Of the INVITE we acknowledged last, and that ACK.
    acknowledged: Option<(u32, Vec<u8>)>,
    direction: SdpDirection,
    described: Option<Described>,
    session: u64,
    version: u64,
}

#[derive(Debug)]
pub(super) struct Agent {
    config: PhoneConfig,
    socket: UdpSocket,
    address: SocketAddr,
    shared: Arc<PhoneShared>,
    call: Option<PhoneCall>,
    clients: Vec<PhoneTransaction>,
    unacknowledged: Vec<Unacknowledged>,
    answered: VecDeque<(String, Vec<u8>)>,
    register_id: String,
    register_cseq: u32,
    renew_at: Option<Instant>,
    outbox: VecDeque<(Vec<u8>, SocketAddr)>,
}

impl Agent {
    pub(super) fn new(
        config: PhoneConfig,
        socket: UdpSocket,
        address: SocketAddr,
        shared: Arc<PhoneShared>,
    ) -> Agent {
        Agent {
            config,
            socket,
            address,
            shared,
            call: None,
            clients: Vec::new(),
            unacknowledged: Vec::new(),
            answered: VecDeque::new(),
            register_id: token(),
            register_cseq: 0,
            renew_at: None,
            outbox: VecDeque::new(),
        }
    }

    pub(super) async fn run(mut self, mut asks: mpsc::Receiver<Ask>) {
        let mut buffer = vec![0; 65_536];
        loop {
            while let Some((bytes, to)) = self.outbox.pop_front() {
                // Lost on the way, as on any network: retransmissions take care of it.
                let _ = self.socket.send_to(&bytes, to).await;
            }
            let wake = self.next_timeout();
            tokio::select! {
                ask = asks.recv() => match ask {
                    Some(ask) => self.handle_ask(ask),
                    None => return,
                },
                received = self.socket.recv_from(&mut buffer) => {
                    if let Ok((size, from)) = received
                        && let Some(message) = wire::read(&buffer[..size])
                    {
                        self.handle_message(message, from);
                    }
                }
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
                let _ = reply.send(self.dialog());
            }
            Ask::Options { reply } => {
                let server = self.config.server;
                let uri = format!("sip:{server}");
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
            Ask::Policy { answer: policy, reply } => {
                self.config.answer = policy;
                answer(reply, Ok(()));
            }
        }
    }

    fn register(&mut self, on: bool, reply: Option<PhoneReply>) {
        let server = self.config.server;
        self.register_cseq += 1;
        self.renew_at = None;
        let id = self.register_id.clone();
        let uri = self.address_of(&self.config.number);
        let mut fields = self.outside_fields(&uri, &id, self.register_cseq, "REGISTER");
        fields.push(self.contact());
        let expires = if on { self.config.expires } else { 0 };
        fields.push(Header::Expires(headers::Expires::new(expires.to_string())));
        let registrar = format!("sip:{server}");
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
        let (call_id, tag) = (token(), token());
        let call = PhoneCall {
            state: PhoneState::Calling { cancelled: false },
            call_id,
            local: format!("<{}>;tag={tag}", self.address_of(&self.config.number)),
            remote: format!("<{uri}>"),
            target: uri,
            routes: Vec::new(),
            peer: self.config.server,
            cseq: 0,
            acknowledged: None,
            direction: SdpDirection::SendRecv,
            described: None,
            session: rand::random::<u32>().into(),
            version: 1,
        };
        self.call = Some(call);
        let offer = (!self.config.late_offer)
            .then(|| self.description(SdpDirection::SendRecv, None))
            .flatten();
        self.send_in_call(Method::Invite, offer, Purpose::Invite);
        Ok(())
    }

    fn answer(&mut self) -> Result<(), PhoneError> {
        let Some(PhoneCall { state: PhoneState::Ringing { invite, from, .. }, .. }) = &self.call
        else {
            return Err(PhoneError::NoCall);
        };
        let (invite, from) = (invite.clone(), *from);
        let offered = sdp::read(&invite.body);
        let direction = offered
            .as_ref()
            .map_or(SdpDirection::SendRecv, |offer| offer.direction.answer(SdpDirection::SendRecv));
        let body = self.description(direction, offered.as_ref());
        self.respond_final(&invite, 200, from, body);
        if let Some(call) = &mut self.call {
            call.state = PhoneState::Established;
            call.direction = direction;
            call.described = offered;
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
        let busy =
            self.clients.iter().any(|client| matches!(client.purpose, Purpose::Reinvite { .. }));
        match &mut self.call {
            Some(call) if matches!(call.state, PhoneState::Established) && !busy => {
                call.version += 1
            }
            _ => return answer(reply, Err(PhoneError::NoCall)),
        }
        let offer = self.description(direction, None);
        self.send_in_call(
            Method::Invite,
            offer,
            Purpose::Reinvite { direction, reply: Some(reply) },
        );
    }

    /// The tags of a Replaces header, as the receiver of the INVITE sees them (RFC 3891 3).
    fn dialog(&self) -> Option<String> {
        let call = self.call.as_ref()?;
        let (theirs, ours) = (wire::tag(&call.remote)?, wire::tag(&call.local)?);
        Some(format!("{};to-tag={theirs};from-tag={ours}", call.call_id))
    }

    fn refer(&mut self, number: &str, replaces: Option<&str>, reply: PhoneReply) {
        if !matches!(&self.call, Some(call) if matches!(call.state, PhoneState::Established)) {
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
        let Some(client) = self
            .clients
            .iter()
            .find(|client| matches!(client.purpose, Purpose::Invite) && client.proceeding)
        else {
            return;
        };
        let (uri, to, branch) = (client.request.uri.to_string(), client.to, client.branch.clone());
        let fields = client.request.headers.iter().filter_map(|header| match header {
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
        let fields = std::iter::once(self.via(&branch)).chain(fields).collect();
        self.send_with_branch(Method::Cancel, &uri, fields, None, to, Purpose::Release, branch);
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
        if let Some((_, bytes)) =
            self.answered.iter().find(|(key, _)| *key == transaction_key(&request))
        {
            self.outbox.push_back((bytes.clone(), from));
            return;
        }
        let inside = self.is_inside(&request);
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
        if !request.body.is_empty() && sdp::read(&request.body).is_none() {
            return self.respond_final(&request, 488, from, None);
        }
        let text = |name| {
            wire::value(&request.headers, name).map(|value| value.into_owned()).unwrap_or_default()
        };
        let caller = text("From");
        let answer_at = match self.config.answer {
            AnswerPolicy::Auto(after) => Some(clock::instant() + after),
            AnswerPolicy::ByHeader if auto => Some(clock::instant()),
            _ => None,
        };
        self.call = Some(PhoneCall {
            call_id: text("Call-ID"),
            local: format!("{};tag={}", text("To"), token()),
            remote: caller.clone(),
            target: wire::address(&text("Contact")).into(),
            routes: wire::values(&request.headers, "Record-Route")
                .into_iter()
                .map(|route| route.into_owned())
                .collect(),
            peer: from,
            cseq: 0,
            acknowledged: None,
            direction: SdpDirection::SendRecv,
            described: None,
            session: rand::random::<u32>().into(),
            version: 1,
            state: PhoneState::Ringing { invite: Box::new(request.clone()), from, answer_at },
        });
        self.shared.happened(PhoneEvent::Incoming { from: caller, auto_answer: auto });
        match answer_at {
            Some(at) if at <= clock::instant() => drop(self.answer()),
            _ => self.respond(&request, 180, from, vec![self.contact()], None),
        }
    }

    fn handle_reinvite(&mut self, request: &Request, from: SocketAddr) {
        if self.clients.iter().any(|client| matches!(client.purpose, Purpose::Reinvite { .. })) {
            return self.respond_final(request, 491, from, None);
        }
        let offered = sdp::read(&request.body);
        if offered.is_none() && !request.body.is_empty() {
            return self.respond_final(request, 488, from, None);
        }
        let Some(call) = &mut self.call else { return };
        call.version += 1;
        let direction = offered
            .as_ref()
            .map_or(SdpDirection::SendRecv, |offer| offer.direction.answer(SdpDirection::SendRecv));
        if let Some(contact) = wire::value(&request.headers, "Contact") {
            call.target = wire::address(&contact).into();
        }
        let body = self.description(direction, offered.as_ref());
        match request.method {
            Method::Invite => self.respond_final(request, 200, from, body),
            _ => self.respond(request, 200, from, vec![self.contact()], body),
        }
        let Some(call) = &mut self.call else { return };
        call.direction = direction;
        if let Some(offered) = offered {
            self.shared.happened(PhoneEvent::Reoffered(offered.direction));
            call.described = Some(offered);
        }
        self.apply_sound();
    }

    fn handle_ack(&mut self, request: &Request) {
        let (call_id, cseq) =
            (wire::value(&request.headers, "Call-ID"), wire::cseq(&request.headers));
        let waits = |waiting: &Unacknowledged| {
            Some(waiting.call_id.as_str()) != call_id.as_deref()
                || Some(waiting.cseq) != cseq.as_ref().map(|cseq| cseq.0)
        };
        self.unacknowledged.retain(waits);
        // The answer to an offer of ours in a 200.
        if let (Some(described), Some(call)) = (sdp::read(&request.body), &mut self.call)
            && Some(call.call_id.as_str()) == call_id.as_deref()
        {
            call.described = Some(described);
            self.apply_sound();
        }
    }

    fn handle_cancel(&mut self, request: &Request, from: SocketAddr) {
        let branch = branch_of(request);
        let ringing = match &self.call {
            Some(PhoneCall { state: PhoneState::Ringing { invite, from, .. }, .. })
                if branch_of(invite) == branch =>
            {
                Some((invite.clone(), *from))
            }
            _ => None,
        };
        let Some((invite, invited_from)) = ringing else {
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
            && matches!(
                self.call.as_ref().map(|call| &call.state),
                Some(PhoneState::Ringing { .. })
            )
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
        let Some(i) = self.clients.iter().position(|client| {
            client.branch == branch && client.request.method.to_string() == method
        }) else {
            // A 200 came again: our ACK was lost.
            if let Some(call) = &self.call
                && let Some((acknowledged, bytes)) = &call.acknowledged
                && (200..300).contains(&status)
                && *acknowledged == cseq
                && method == "INVITE"
            {
                self.outbox.push_back((bytes.clone(), call.peer));
            }
            return;
        };
        if status < 200 {
            let client = &mut self.clients[i];
            client.proceeding = true;
            if method == "INVITE" {
                client.resend = None;
                client.deadline = None;
            }
            return self.handle_provisional(status);
        }
        let mut client = self.clients.remove(i);
        if method == "INVITE" && status >= 300 {
            self.acknowledge_refusal(&client, &response);
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
                let pending =
                    self.clients.iter().any(|client| client.request.method == Method::Cancel);
                if !pending {
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
            &self.config.password,
            &method.to_string(),
            &uri,
            &token(),
        );
        let branch = new_branch();
        let next = cseq + 1;
        let mut fields = vec![self.via(&branch)];
        fields.extend(request.headers.iter().filter_map(|header| match header {
            Header::Via(_)
            | Header::ContentLength(_)
            | Header::ContentType(_)
            | Header::UserAgent(_) => None,
            Header::CSeq(_) => Some(Header::CSeq(headers::CSeq::new(format!("{next} {method}")))),
            _ => Some(header.clone()),
        }));
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
            ) => call.cseq = call.cseq.max(next),
            _ => {}
        }
        let purpose = std::mem::replace(&mut client.purpose, Purpose::Release);
        self.send_with_branch(method, &uri, fields, body, client.to, purpose, branch);
        if let Some(client) = self.clients.last_mut() {
            client.credentials = true;
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
                    if let Some(call) = &mut self.call {
                        call.direction = direction;
                        if let Some(described) = sdp::read(&response.body) {
                            call.described = Some(described);
                        }
                    }
                    self.apply_sound();
                }
                answer(reply, outcome);
            }
            Purpose::Release => {}
        }
    }

    fn handle_answered(&mut self, response: &Response, cseq: u32) {
        let Some(call) = &mut self.call else { return };
        let PhoneState::Calling { cancelled } = call.state else {
            return;
        };
        if let Some(to) = wire::value(&response.headers, "To") {
            call.remote = to.into_owned();
        }
        if let Some(contact) = wire::value(&response.headers, "Contact") {
            call.target = wire::address(&contact).into();
        }
        call.routes = wire::values(&response.headers, "Record-Route")
            .into_iter()
            .rev()
            .map(|route| route.into_owned())
            .collect();
        call.state = PhoneState::Established;
        call.described = sdp::read(&response.body);
        let described = call.described.clone();
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
        let to = wire::value(&response.headers, "To").unwrap_or_default().into_owned();
        let mut fields = vec![self.via(&new_branch())];
        fields.extend(dialog_fields(&call.local, &to, &call.call_id, cseq, "ACK", &call.routes));
        let Some(request) = wire::request(Method::Ack, &call.target, fields, body) else {
            return;
        };
        let bytes = self.send(SipMessage::Request(request), call.peer);
        if let Some(call) = &mut self.call {
            call.acknowledged = Some((cseq, bytes));
        }
    }

    /// The ACK of a refusal belongs to the INVITE's transaction (RFC 3261 17.1.1.3).
    fn acknowledge_refusal(&mut self, client: &PhoneTransaction, response: &Response) {
        let fields = client.request.headers.iter().filter_map(|header| match header {
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
        if let Some(request) =
            wire::request(Method::Ack, &client.request.uri.to_string(), fields.collect(), None)
        {
            self.send(SipMessage::Request(request), client.to);
        }
    }

    // Time

    fn next_timeout(&self) -> Option<Instant> {
        let clients =
            self.clients.iter().flat_map(|client| [client.resend, client.deadline]).flatten();
        let waiting =
            self.unacknowledged.iter().flat_map(|waiting| [waiting.resend, waiting.deadline]);
        let answer_at = match &self.call {
            Some(PhoneCall { state: PhoneState::Ringing { answer_at, .. }, .. }) => *answer_at,
            _ => None,
        };
        clients.chain(waiting).chain(answer_at).chain(self.renew_at).min()
    }

    fn handle_timeout(&mut self, now: Instant) {
        for client in &mut self.clients {
            if client.resend.is_some_and(|at| at <= now) {
                self.outbox.push_back((client.request.to_string().into_bytes(), client.to));
                client.interval = if client.request.method == Method::Invite {
                    client.interval * 2
                } else {
                    (client.interval * 2).min(T2)
                };
                client.resend = Some(now + client.interval);
            }
        }
        for waiting in &mut self.unacknowledged {
            if waiting.resend <= now {
                self.outbox.push_back((waiting.bytes.clone(), waiting.to));
                waiting.interval = (waiting.interval * 2).min(T2);
                waiting.resend = now + waiting.interval;
            }
        }
        while let Some(i) =
            self.clients.iter().position(|client| client.deadline.is_some_and(|at| at <= now))
        {
            let client = self.clients.remove(i);
            self.handle_unanswered(client);
        }
        while let Some(i) = self.unacknowledged.iter().position(|waiting| waiting.deadline <= now) {
            let waiting = self.unacknowledged.remove(i);
            if waiting.accepted
                && self.call.as_ref().is_some_and(|call| call.call_id == waiting.call_id)
            {
                drop(self.hang_up());
            }
        }
        if matches!(&self.call, Some(PhoneCall { state: PhoneState::Ringing { answer_at: Some(at), .. }, .. }) if *at <= now)
        {
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
        call.cseq += 1;
        let name = method.to_string();
        let mut fields =
            dialog_fields(&call.local, &call.remote, &call.call_id, call.cseq, &name, &call.routes);
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
        self.send_with_branch(method, uri, fields, body, to, purpose, branch);
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of a request")]
    fn send_with_branch(
        &mut self,
        method: Method,
        uri: &str,
        fields: Vec<Header>,
        body: Option<Vec<u8>>,
        to: SocketAddr,
        purpose: Purpose,
        branch: String,
    ) {
        let Some(request) = wire::request(method, uri, fields, body) else {
            return;
        };
        self.send(SipMessage::Request(request.clone()), to);
        let now = clock::instant();
        self.clients.push(PhoneTransaction {
            branch,
            request,
            to,
            purpose,
            proceeding: false,
            credentials: false,
            resend: Some(now + T1),
            interval: T1,
            deadline: Some(now + GIVE_UP),
        });
    }

    fn respond(
        &mut self,
        request: &Request,
        status: u16,
        to: SocketAddr,
        more: Vec<Header>,
        body: Option<Vec<u8>>,
    ) {
        let own =
            self.call.as_ref().and_then(|call| wire::tag(&call.local)).unwrap_or("none").to_owned();
        let response = wire::response(request, status, &own, more, body);
        let bytes = self.send(SipMessage::Response(response), to);
        let key = transaction_key(request);
        self.answered.retain(|(answered, _)| *answered != key);
        if self.answered.len() == ANSWERED_KEPT {
            self.answered.pop_front();
        }
        self.answered.push_back((key, bytes));
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
        let (Some(call_id), Some((cseq, _)), Some((_, bytes))) = (
            wire::value(&invite.headers, "Call-ID"),
            wire::cseq(&invite.headers),
            self.answered.back(),
        ) else {
            return;
        };
        let now = clock::instant();
        self.unacknowledged.push(Unacknowledged {
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
        self.shared.sound.send_to(None);
        for client in &mut self.clients {
            if let Purpose::Reinvite { reply, .. } | Purpose::Refer { reply } = &mut client.purpose
            {
                answer(reply.take(), Err(PhoneError::NoCall));
            }
        }
        self.shared.happened(PhoneEvent::Ended { here, reason });
    }

    // Parts

    fn apply_sound(&self) {
        let Some(call) = &self.call else { return };
        let sending = call.direction.sends();
        let target =
            call.described.as_ref().filter(|described| sending && described.direction.receives());
        let law = |described: &Described| {
            described.laws.iter().copied().find(|law| self.config.laws.contains(law))
        };
        self.shared
            .sound
            .send_to(target.and_then(|described| Some((described.address, law(described)?))));
    }

    /// Our offer, or our answer to theirs.
    fn description(&self, direction: SdpDirection, offered: Option<&Described>) -> Option<Vec<u8>> {
        let call = self.call.as_ref()?;
        let laws: Vec<_> = match offered {
            Some(offered) => offered
                .laws
                .iter()
                .copied()
                .filter(|law| self.config.laws.contains(law))
                .take(1)
                .collect(),
            None => self.config.laws.clone(),
        };
        let address = self.shared.sound.address();
        Some(sdp::write(
            SocketAddr::new(self.config.described_ip.unwrap_or(address.ip()), address.port()),
            call.session,
            call.version,
            &laws,
            direction,
        ))
    }

    fn is_inside(&self, request: &Request) -> bool {
        let Some(call) = &self.call else { return false };
        let text = |name| wire::value(&request.headers, name).unwrap_or_default();
        let same_id = text("Call-ID") == call.call_id.as_str();
        let (to, from) = (text("To"), text("From"));
        same_id
            && wire::tag(&to).is_some()
            && wire::tag(&to) == wire::tag(&call.local)
            && wire::tag(&from) == wire::tag(&call.remote)
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
        format!("sip:{number}@{}", self.config.server)
    }

    fn contact(&self) -> Header {
        Header::Contact(headers::Contact::new(format!(
            "<sip:{}@{}>",
            self.config.number, self.address
        )))
    }

    fn via(&self, branch: &str) -> Header {
        Header::Via(headers::Via::new(format!(
            "SIP/2.0/UDP {};rport;branch={branch}",
            self.address
        )))
    }

    fn outside_fields(&self, to: &str, call_id: &str, cseq: u32, method: &str) -> Vec<Header> {
        let own = format!("<{}>;tag={}", self.address_of(&self.config.number), token());
        dialog_fields(&own, &format!("<{to}>"), call_id, cseq, method, &[])
    }
}

fn dialog_fields(
    local: &str,
    remote: &str,
    call_id: &str,
    cseq: u32,
    method: &str,
    routes: &[String],
) -> Vec<Header> {
    let routes = routes.iter().map(|route| Header::Route(headers::Route::new(route.clone())));
    [
        Header::MaxForwards(headers::MaxForwards::new("70")),
        Header::From(headers::From::new(local)),
        Header::To(headers::To::new(remote)),
        Header::CallId(headers::CallId::new(call_id)),
        Header::CSeq(headers::CSeq::new(format!("{cseq} {method}"))),
    ]
    .into_iter()
    .chain(routes)
    .collect()
}

fn branch_of(request: &Request) -> String {
    let via = wire::value(&request.headers, "Via").unwrap_or_default();
    wire::parameter(&via, "branch").unwrap_or_default().to_owned()
}

fn transaction_key(request: &Request) -> String {
    format!("{} {}", branch_of(request), request.method)
}

fn new_branch() -> String {
    format!("z9hG4bK{}", token())
}

fn token() -> String {
    format!("{:016x}", rand::random::<u64>())
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
