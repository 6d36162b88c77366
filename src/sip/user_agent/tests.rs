//! One harness: user agents on a virtual network under a virtual clock, and a peer that speaks raw
//! text.

mod behind;
mod bodies;
mod capacity;
mod connected;
mod directory;
mod flows;
mod identity;
mod network;
mod peers;
mod qualify;
mod races;
mod reasons;
mod reliable;
mod rules;
mod tls;
mod trunks;
mod user_data;

use super::{Output, RefusedRequest, RegistrationState, UserAgent, WrongPassword};
use crate::model::{DeviceId, Now, Number, Timestamp};
use crate::sip::config::{Login, Lookup, SipAccount, SipConfig, Trunk};
use crate::sip::digest::{Credentials, DigestRequest};
use crate::sip::flow::{ConnectionId, Flow, Protocol};
use crate::sip::leg::{Destination, Identity, LegCommand, LegEvent, LegId};
use crate::sip::message::{SipMessage, SipRequest, SipResponse, parse_datagram};
use crate::sip::registrar::KeptBinding;
use crate::sip::sdp::SdpFault;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

const US: &str = "192.0.2.1:5060";
const US_TLS: &str = "192.0.2.1:5061";
const CARRIER: &str = "192.0.2.2:5060";
const PHONE: &str = "192.0.2.3:5062";
const STRANGER: &str = "192.0.2.66:5060";
const REALM: &str = "undertone";

const SDP: &str = "v=0\r\no=- 1 1 IN IP4 192.0.2.9\r\ns=-\r\nc=IN IP4 192.0.2.9\r\nt=0 0\r\n\
                   m=audio 40000 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n";

#[expect(
    clippy::disallowed_methods,
    reason = "a test has to begin somewhere; time then passes by hand"
)]
fn start() -> Now {
    Now { mono: Instant::now(), wall: Timestamp(1_800_000_000_000) }
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// `192.0.2.3:5062`, `7/192.0.2.3:5062` for the seventh TCP connection, or `tls/7/192.0.2.3:5062`
/// where that is one over TLS.
fn flow_from(peer: &str) -> Flow {
    if let Some(connection) = peer.strip_prefix("tls/") {
        let (protocol, local) = (Protocol::Tls, address(US_TLS));
        return Flow { protocol, local, ..flow_from(connection) };
    }
    if let Some((connection, peer)) = peer.split_once('/') {
        return Flow {
            protocol: Protocol::Tcp,
            connection: ConnectionId(connection.parse().unwrap()),
            ..flow_from(peer)
        };
    }
    Flow {
        protocol: Protocol::Udp,
        local: address(US),
        peer: address(peer),
        connection: ConnectionId::NONE,
    }
}

fn device(name: &str) -> DeviceId {
    DeviceId::from(name)
}

fn first_account(config: &mut SipConfig) -> &mut SipAccount {
    config.accounts.iter_mut().next().expect("an account")
}

fn config() -> SipConfig {
    let mut carrier = Trunk::at("carrier", address(CARRIER), Protocol::Udp);
    carrier.logins = vec![Login {
        realm: "carrier.example".to_owned(),
        username: "undertone".to_owned(),
        password: "secret".into(),
    }];
    SipConfig {
        domains: vec!["coach.example".to_owned()],
        accounts: [("phone-1", "1001"), ("phone-2", "1002")]
            .map(|(name, number)| SipAccount::new(device(name), number.into(), REALM, "secret"))
            .into_iter()
            .collect(),
        trunks: vec![carrier],
        ..SipConfig::default()
    }
}

/// One user agent, and everybody else in one person.
struct Stage {
    agent: UserAgent,
    now: Now,
    sent: Vec<(Flow, SipMessage)>,
    events: Vec<LegEvent>,
    located: Vec<(LegId, IpAddr, bool)>,
    reports: Vec<WrongPassword>,
    /// Connections that are no strangers'.
    known: Vec<Flow>,
    /// Connections that are to be made.
    connects: Vec<Flow>,
    /// Trunks over TLS that can be reached, or no longer.
    connected: Vec<(String, bool)>,
    aliases: Vec<(Flow, SocketAddr)>,
    /// Trunks that devices are behind, and whether they answer.
    present: Vec<(String, bool)>,
    /// Targets of trunks, and whether they answer.
    targets: Vec<(SocketAddr, bool)>,
    registrations: Vec<RegistrationState>,
    lookups: Vec<Lookup>,
    /// Names, and whether it is known what they stood for.
    not_found: Vec<(String, bool)>,
    faults: Vec<SdpFault>,
    refusals: Vec<RefusedRequest>,
    /// What a restart would find.
    kept: BTreeMap<DeviceId, Vec<KeptBinding>>,
}

impl Stage {
    fn new() -> Stage {
        Stage::with(config())
    }

    fn with(config: SipConfig) -> Stage {
        let now = start();
        let locals = [(Protocol::Udp, address(US)), (Protocol::Tls, address(US_TLS))];
        Stage {
            agent: UserAgent::new(config, locals.to_vec(), [7; 32], now),
            now,
            sent: Vec::new(),
            events: Vec::new(),
            located: Vec::new(),
            reports: Vec::new(),
            known: Vec::new(),
            connects: Vec::new(),
            connected: Vec::new(),
            aliases: Vec::new(),
            present: Vec::new(),
            targets: Vec::new(),
            registrations: Vec::new(),
            lookups: Vec::new(),
            not_found: Vec::new(),
            faults: Vec::new(),
            refusals: Vec::new(),
            kept: BTreeMap::new(),
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.agent.poll_output() {
            match output {
                Output::Transmit { flow, bytes } => {
                    self.sent.push((flow, parse_datagram(&bytes).unwrap()))
                }
                // Told of every leg; `flows` has a test of it.
                Output::Event(LegEvent::Located { leg, host, is_translated }) => {
                    self.located.push((leg, host, is_translated))
                }
                Output::Event(event) => self.events.push(event),
                Output::Known(flow) => self.known.push(flow),
                Output::Connect(flow) => self.connects.push(flow),
                Output::Alias { flow, address } => self.aliases.push((flow, address)),
                Output::TrunkConnected { trunk, connected, .. } => {
                    self.connected.push((trunk, connected))
                }
                Output::WrongPassword(report) => self.reports.push(report),
                Output::Qualified { .. } => {}
                Output::TrunkPresent { trunk, present, .. } => self.present.push((trunk, present)),
                Output::TargetPresent { address, present, .. } => {
                    self.targets.push((address.1, present))
                }
                Output::TargetGone { .. } | Output::TrunksMoved => {}
                Output::Registration { state, .. } => self.registrations.push(state),
                Output::LookUp(lookup) => self.lookups.push(lookup),
                Output::NotFound { host, known, .. } => self.not_found.push((host, known)),
                Output::Unusable { fault, .. } => self.faults.push(fault),
                Output::Refused(refused) => self.refusals.push(refused),
                Output::Bindings { device, bindings } => drop(self.kept.insert(device, bindings)),
            }
        }
    }

    /// After a restart that took a while.
    fn restarted(&self, config: SipConfig, away: Duration) -> Stage {
        let mut stage = Stage::with(config);
        stage.now = self.now + away;
        for (device, bindings) in self.kept.clone() {
            stage.agent.restore(&device, bindings, stage.now);
        }
        stage.drain();
        stage
    }

    /// A message from a peer; line ends are written as `\n`.
    fn hear(&mut self, peer: &str, text: &str) {
        let (head, body) = text.split_once("\n\n").unwrap_or((text.trim_end(), ""));
        let bytes = format!("{}\r\n\r\n{body}", head.replace('\n', "\r\n"));
        self.agent.handle_datagram(flow_from(peer), bytes.as_bytes(), self.now);
        self.drain();
    }

    fn hear_message(&mut self, peer: &str, bytes: &[u8]) {
        self.agent.handle_datagram(flow_from(peer), bytes, self.now);
        self.drain();
    }

    fn command(&mut self, command: LegCommand) {
        self.agent.handle_command(command, self.now);
        self.drain();
    }

    /// Lets time pass, waking the agent whenever it asks.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.agent.poll_timeout().filter(|at| *at <= end.mono) {
            self.now = self.now + at.saturating_duration_since(self.now.mono);
            self.agent.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    fn sent(&mut self) -> Vec<SipMessage> {
        std::mem::take(&mut self.sent).into_iter().map(|(_, message)| message).collect()
    }

    /// What has been sent since, in short: methods and statuses.
    fn said(&mut self) -> Vec<String> {
        self.sent().iter().map(short).collect()
    }

    fn events(&mut self) -> Vec<LegEvent> {
        std::mem::take(&mut self.events)
    }

    fn request(&mut self, method: &str) -> SipRequest {
        let sent = self.sent();
        let found = sent.iter().find_map(|message| match message {
            SipMessage::Request(request) if request.method.as_bytes() == method.as_bytes() => {
                Some(request.clone())
            }
            _ => None,
        });
        found.unwrap_or_else(|| {
            panic!("no {method} among {:?}", sent.iter().map(short).collect::<Vec<_>>())
        })
    }

    fn response(&mut self, status: u16) -> SipResponse {
        let sent = self.sent();
        let found = sent.iter().find_map(|message| match message {
            SipMessage::Response(response) if response.status == status => Some(response.clone()),
            _ => None,
        });
        found.unwrap_or_else(|| {
            panic!("no {status} among {:?}", sent.iter().map(short).collect::<Vec<_>>())
        })
    }

    /// The carrier calls 1001 and is answered; the call's words on their side.
    fn incoming_call(&mut self) -> Call {
        self.hear(CARRIER, &invite("c1", "INVITE", 1, ""));
        let leg = match self.events().as_slice() {
            [LegEvent::Incoming { leg, .. }] => *leg,
            other => panic!("{other:?}"),
        };
        self.command(LegCommand::Accept { leg, media: SDP.into() });
        let ok = self.response(200);
        let call = Call {
            leg,
            call_id: "c1".to_owned(),
            theirs: "<sip:+4930@carrier.example>;tag=theirs".to_owned(),
            ours: text(&ok, "To"),
        };
        self.hear(CARRIER, &call.request("ACK", 1, ""));
        assert!(matches!(self.events().as_slice(), [LegEvent::Confirmed { .. }]));
        call
    }

    /// We call the carrier and are answered.
    fn outgoing_call(&mut self) -> Call {
        self.outgoing(call_carrier(LegId(1)))
    }

    fn outgoing(&mut self, command: LegCommand) -> Call {
        let leg = LegId(1);
        self.command(command);
        let invite = self.request("INVITE");
        let extra = "Contact: <sip:carrier@192.0.2.2>\nAllow: INVITE, BYE, ACK, CANCEL\n\
                     Content-Type: application/sdp\n";
        self.hear(CARRIER, &answer(&invite, 200, ";tag=theirs", extra, SDP));
        assert!(matches!(self.events().as_slice(), [LegEvent::Answered { .. }]));
        let ack = self.request("ACK");
        Call {
            leg,
            call_id: text_of(&ack, "Call-ID"),
            theirs: text_of(&ack, "To"),
            ours: text_of(&ack, "From"),
        }
    }

    fn register_phone(&mut self) {
        self.register(PHONE, "1001", 1, "Contact: <sip:1001@10.0.0.3:5062>\nExpires: 600\n");
        assert!(matches!(
            self.events().as_slice(),
            [LegEvent::Registered { registered: true, .. }]
        ));
        self.sent.clear();
    }

    /// REGISTER with its challenge and its answer; the last response.
    fn register(&mut self, peer: &str, number: &str, cseq: u32, extra: &str) -> SipResponse {
        let first = register(number, cseq * 10, extra);
        self.hear(peer, &first);
        let challenge = self.response(401);
        let mut client = Credentials::new("us", Some(REALM), number, "secret");
        let challenges: Vec<&[u8]> = challenge.headers.fields_of("WWW-Authenticate").collect();
        let subject = DigestRequest { method: b"REGISTER", uri: b"sip:coach.example", body: b"" };
        let answer = client.answer(&challenges, "us", subject, "cnonce").unwrap();
        self.hear(
            peer,
            &register(number, cseq * 10 + 1, &format!("{extra}Authorization: {answer}\n")),
        );
        match self.sent().pop() {
            Some(SipMessage::Response(response)) => response,
            other => panic!("{other:?}"),
        }
    }

    fn is_quiet(&self) -> bool {
        self.agent.is_idle()
    }
}

/// A call as the peer sees it.
struct Call {
    leg: LegId,
    call_id: String,
    theirs: String,
    ours: String,
}

impl Call {
    fn request(&self, method: &str, cseq: u32, extra: &str) -> String {
        let branch = format!("z9hG4bK{}{method}{cseq}", self.call_id);
        let body = if extra.contains("Content-Type: application/sdp") { SDP } else { "" };
        format!(
            "{method} sip:192.0.2.1 SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.2;branch={branch}\n\
             Max-Forwards: 70\nFrom: {}\nTo: {}\n\
             Call-ID: {}\nCSeq: {cseq} {method}\nContact: <sip:carrier@192.0.2.2>\n\
             {extra}Content-Length: {}\n\n{body}",
            self.theirs,
            self.ours,
            self.call_id,
            body.len()
        )
    }
}

const WITH_SDP: &str = "Content-Type: application/sdp\n";

fn invite(call_id: &str, branch: &str, cseq: u32, extra: &str) -> String {
    format!(
        "INVITE sip:1001@coach.example SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.2;branch=z9hG4bK{branch}\n\
         Max-Forwards: 70\n\
         From: <sip:+4930@carrier.example>;tag=theirs\nTo: <sip:1001@coach.example>\n\
         Call-ID: {call_id}\nCSeq: {cseq} INVITE\n\
         Contact: <sip:carrier@192.0.2.2>\n{extra}Content-Type: application/sdp\n\
         Content-Length: {}\n\n{SDP}",
        SDP.len()
    )
}

fn register(number: &str, cseq: u32, extra: &str) -> String {
    format!(
        "REGISTER sip:coach.example SIP/2.0\nVia: SIP/2.0/UDP \
         10.0.0.3:5062;rport;branch=z9hG4bKreg{cseq}\nMax-Forwards: 70\n\
         From: <sip:{number}@coach.example>;tag=r\nTo: <sip:{number}@coach.example>\n\
         Call-ID: reg-{number}\nCSeq: {cseq} REGISTER\n\
         {extra}Content-Length: 0\n\n"
    )
}

fn call_carrier(leg: LegId) -> LegCommand {
    LegCommand::Invite {
        leg,
        to: Destination::Trunk { name: "carrier".to_owned(), number: Number::from("+4930123") },
        from: caller(),
        offer: SDP.into(),
        auto_answer: false,
        swallow_digits: false,
        timeout: Duration::from_secs(60),
        max_forwards: 69,
        passed: Vec::new(),
        user_data: Default::default(),
        is_secure: false,
        reasons: Default::default(),
    }
}

/// The phone of 1001, wherever it has registered.
fn call_phone(leg: LegId) -> LegCommand {
    LegCommand::Invite {
        leg,
        to: Destination::Device(device("phone-1")),
        from: caller(),
        offer: SDP.into(),
        auto_answer: false,
        swallow_digits: false,
        timeout: Duration::from_secs(60),
        max_forwards: 70,
        passed: Vec::new(),
        user_data: Default::default(),
        is_secure: false,
        reasons: Default::default(),
    }
}

fn caller() -> Identity {
    Identity { number: Number::from("1001"), display: "Anna \"A\"".to_owned(), is_private: false }
}

/// A response to a request of ours.
fn answer(request: &SipRequest, status: u16, tag: &str, extra: &str, body: &str) -> String {
    format!(
        "SIP/2.0 {status} So\nVia: {}\nFrom: {}\nTo: {}{tag}\nCall-ID: {}\nCSeq: {}\n\
         {extra}Content-Length: {}\n\n{body}",
        text_of(request, "Via"),
        text_of(request, "From"),
        text_of(request, "To"),
        text_of(request, "Call-ID"),
        text_of(request, "CSeq"),
        body.len()
    )
}

fn text_of(request: &SipRequest, name: &str) -> String {
    String::from_utf8_lossy(request.headers.get(name).unwrap_or_default()).into_owned()
}

fn text(response: &SipResponse, name: &str) -> String {
    String::from_utf8_lossy(response.headers.get(name).unwrap_or_default()).into_owned()
}

fn short(message: &SipMessage) -> String {
    match message {
        SipMessage::Request(request) => request.method.to_string(),
        SipMessage::Response(response) => response.status.to_string(),
    }
}
