//! What attackers try (D4 to D9, D17, D18 of the threats), on real sockets against the whole
//! product.

use crate::support::gateway_server::{
    self, BOB_PHONE, MEG_PHONE, OTTO_PHONE, PASSWORD, ServerOptions,
};
use crate::support::process::{ANY, Process};
use crate::support::rest_client::RestClient;
use crate::support::server::{AGENT, SUPERVISOR, Server, directory};
use crate::support::talk::{COACH, PATIENCE, TALK, Trio};
use crate::support::wait;
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use undertone::clock;
use undertone::demo::phone::{Phone, PhoneEvent};

/// Where a trunk is that brings calls in.
const SITE: &str = "127.0.0.2:0";
/// Where a trunk is that takes calls out.
const CARRIER: &str = "127.0.0.3:0";
/// Nobody's.
const STRANGER: &str = "127.0.0.9:0";

/// Somebody who writes SIP by hand.
struct Peer {
    socket: UdpSocket,
    address: SocketAddr,
    server: SocketAddr,
}

impl Peer {
    async fn bind(at: &str) -> Peer {
        let socket = UdpSocket::bind(at).await.unwrap();
        let address = socket.local_addr().unwrap();
        let server = address;
        Peer { socket, address, server }
    }

    async fn of(at: &str, server: SocketAddr) -> Peer {
        Peer { server, ..Peer::bind(at).await }
    }

    async fn send(&self, text: &str) {
        self.socket.send_to(text.as_bytes(), self.server).await.unwrap();
    }

    async fn receive(&self) -> String {
        let mut buffer = vec![0; 65_536];
        let (length, _) =
            timeout(PATIENCE, self.socket.recv_from(&mut buffer)).await.expect("in time").unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// Reads until one begins so; what came before it is passed over.
    async fn until(&self, start: &str) -> String {
        loop {
            let text = self.receive().await;
            if text.starts_with(start) {
                return text;
            }
        }
    }

    /// The final response to this method.
    async fn finally(&self, method: &str) -> String {
        loop {
            let text = self.receive().await;
            let is_final = text.starts_with("SIP/2.0 ") && !text.starts_with("SIP/2.0 1");
            if is_final && field(&text, "CSeq").ends_with(method) {
                return text;
            }
        }
    }

    /// Everything that has come until an OPTIONS sent now is answered.
    async fn fence(&self, name: &str) -> Vec<String> {
        let (server, address) = (self.server, self.address);
        let options = format!(
            "OPTIONS sip:{server} SIP/2.0\r\nVia: SIP/2.0/UDP \
             {address};branch=z9hG4bK{name};rport\r\nMax-Forwards: 70\r\n\
             From: <sip:x@{address}>;tag=x\r\nTo: <sip:{server}>\r\nCall-ID: {name}\r\n\
             CSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
        );
        self.send(&options).await;
        let mut heard = Vec::new();
        loop {
            let text = self.receive().await;
            if text.starts_with("SIP/2.0 ") && field(&text, "Call-ID") == name {
                return heard;
            }
            heard.push(text);
        }
    }

    fn invite(&self, name: &str, uri: &str, from: &str, more: &str) -> String {
        let (ip, address) = (self.address.ip(), self.address);
        let sdp = format!(
            "v=0\r\no=- 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\n\
             m=audio 40000 RTP/AVP 0\r\n"
        );
        format!(
            "INVITE {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {address};branch=z9hG4bK{name};rport\r\n\
             Max-Forwards: 70\r\nFrom: {from};tag={name}\r\n\
             To: <{uri}>\r\nCall-ID: {name}\r\nCSeq: 1 INVITE\r\nContact: <sip:x@{address}>\r\n\
             {more}Content-Type: application/sdp\r\n\
             Content-Length: {}\r\n\r\n{sdp}",
            sdp.len()
        )
    }

    /// A request after its INVITE and the response to that.
    fn within(
        &self,
        method: &str,
        cseq: u32,
        branch: &str,
        invite: &str,
        response: &str,
    ) -> String {
        let target = field(response, "Contact");
        let target = target.trim_start_matches('<').split('>').next().unwrap();
        format!(
            "{method} {target} SIP/2.0\r\nVia: SIP/2.0/UDP {};branch=z9hG4bK{branch};rport\r\n\
             Max-Forwards: 70\r\nFrom: {}\r\nTo: {}\r\n\
             Call-ID: {}\r\nCSeq: {cseq} {method}\r\nContact: <sip:x@{}>\r\n\
             Content-Length: 0\r\n\r\n",
            self.address,
            field(invite, "From"),
            field(response, "To"),
            field(invite, "Call-ID"),
            self.address,
        )
    }

    async fn respond(&self, request: &str, status: &str, more: &str, body: &str) {
        let vias: String = fields(request, "Via").map(|via| format!("Via: {via}\r\n")).collect();
        let to = field(request, "To");
        let tag = if to.contains(";tag=") { "" } else { ";tag=peer" };
        let response = format!(
            "SIP/2.0 {status}\r\n{vias}From: {}\r\nTo: {to}{tag}\r\nCall-ID: {}\r\nCSeq: {}\r\n\
             {more}Content-Length: {}\r\n\r\n{body}",
            field(request, "From"),
            field(request, "Call-ID"),
            field(request, "CSeq"),
            body.len()
        );
        self.send(&response).await;
    }
}

fn fields<'a>(message: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    let head = message.split("\r\n\r\n").next().unwrap_or_default();
    head.split("\r\n").filter_map(move |line| line.strip_prefix(name)?.strip_prefix(": "))
}

fn field<'a>(message: &'a str, name: &'a str) -> &'a str {
    fields(message, name).next().unwrap_or_default()
}

fn status(response: &str) -> u16 {
    response[8..11].parse().unwrap()
}

/// The product with a trunk that brings calls in and one that takes calls out.
async fn server_with_trunks() -> (Server, Peer, Peer) {
    let (mut site, mut carrier) = (Peer::bind(SITE).await, Peer::bind(CARRIER).await);
    let trunks = format!(
        "[[sip.trunk]]\nname = 'site'\nsources = ['{}']\ntarget = '{}'\nqualify = 0\n\
         [[sip.trunk]]\nname = 'carrier'\nsources = ['{}']\ntarget = '{}'\nprefixes = ['0']\n\
         qualify = 0\nuser = 'undertone'\npassword = 'trunk-secret'\nrealm = 'carrier.example'\n",
        site.address.ip(),
        site.address,
        carrier.address.ip(),
        carrier.address,
    );
    let server = Server::configured(&trunks).await;
    site.server = server.sip;
    carrier.server = server.sip;
    (server, site, carrier)
}

fn no_legs(server: &Server) -> bool {
    server.running.backend().unwrap().media().legs == 0
}

/// The INVITE that a phone received last.
fn invited(phone: &Phone) -> String {
    let trace = phone.trace();
    let received = trace.iter().rev().find(|seen| !seen.sent && seen.line.starts_with("INVITE "));
    received.unwrap().text.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn d4_no_header_of_a_caller_reaches_the_callee_but_those_on_the_list() {
    let (server, site, _) = server_with_trunks().await;
    let trio = Trio::register(server.sip).await;
    let uri = format!("sip:{}@{}", AGENT.number, server.sip);
    let from = format!("\"Boss\" <sip:0711@{}>", site.address);
    let smuggled = "X-Coach-Role : supervisor\r\nX-Folded:\r\n smuggled\r\nX-Long : a\r\n\
                    \tsmuggled\r\ns: smuggled subject\r\nSubject: smuggled\r\n\
                    Answer-Mode: Auto\r\nPriv-Answer-Mode: Auto\r\n\
                    Call-Info: <sip:smuggled>;answer-after=0\r\n\
                    Alert-Info: <http://x>;info=alert-autoanswer\r\n\
                    P-Asserted-Identity: <sip:smuggled@x>\r\nRemote-Party-ID: <sip:smuggled@x>\r\n\
                    Diversion: <sip:smuggled@x>\r\n\
                    Authorization: Digest username=\"smuggled\"\r\n\
                    Record-Route: <sip:smuggled.example;lr>\r\nHistory-Info: <sip:smuggled@x>\r\n\
                    X-Undertone-Call: smuggled\r\nr: <sip:smuggled@x>\r\nb: <sip:smuggled@x>\r\n\
                    User-Agent: smuggled\r\nUser-to-User: 56;encoding=hex\r\n";
    let invite = site.invite("d4", &uri, &from, smuggled);
    site.send(&invite).await;
    let answered = site.finally("INVITE").await;
    assert_eq!(status(&answered), 200, "{answered}");
    site.send(&site.within("ACK", 1, "d4a", &invite, &answered)).await;
    let seen = invited(&trio.agent);
    let allowed: BTreeSet<&str> = "Via Max-Forwards From To Call-ID CSeq Contact Allow Accept \
                                   Supported Session-Expires Min-SE User-Agent \
                                   User-to-User X-Undertone-Call Content-Type Content-Length"
        .split_whitespace()
        .collect();
    let head = seen.split("\r\n\r\n").next().unwrap();
    for line in head.split("\r\n").skip(1) {
        let name = line.split(':').next().unwrap();
        assert!(allowed.contains(name), "{line}\n{seen}");
    }
    assert!(!seen.contains("smuggled") && !seen.to_ascii_lowercase().contains("coach"), "{seen}");
    assert!(
        field(&seen, "From").contains("Boss") && field(&seen, "User-to-User") == "56;encoding=hex"
    );
    let incoming =
        |event: &PhoneEvent| matches!(event, PhoneEvent::Incoming { auto_answer: true, .. });
    assert!(!trio.agent.events().iter().any(|happened| incoming(&happened.event)), "{seen}");
    site.send(&site.within("BYE", 2, "d4b", &invite, &answered)).await;
    assert_eq!(status(&site.finally("BYE").await), 200);
    trio.agent.ended(PATIENCE).await.unwrap();

    // Header fields in the Request-URI: refused, or not passed on.
    let before = trio.agent.trace().iter().filter(|seen| seen.line.starts_with("INVITE ")).count();
    let evil =
        site.invite("d4u", &format!("{uri}?X-Coach-Role=supervisor&Subject=smuggled"), &from, "");
    site.send(&evil).await;
    let answered = site.finally("INVITE").await;
    if status(&answered) == 200 {
        assert!(!invited(&trio.agent).contains("X-Coach-Role"));
    } else {
        assert!((400..500).contains(&status(&answered)), "{answered}");
        let after =
            trio.agent.trace().iter().filter(|seen| seen.line.starts_with("INVITE ")).count();
        assert_eq!(before, after, "refused and passed on");
    }
}

fn challenge(name: &str, realm: &str) -> String {
    format!("{name}: Digest realm=\"{realm}\", nonce=\"abc\", qop=\"auth\", algorithm=MD5\r\n")
}

const CHALLENGES: [(&str, &str); 2] = [
    ("401 Unauthorized", "WWW-Authenticate"),
    ("407 Proxy Authentication Required", "Proxy-Authenticate"),
];

fn is_credential(text: &str) -> bool {
    ["authorization:", "proxy-authorization:"]
        .iter()
        .any(|name| text.to_ascii_lowercase().contains(name))
}

#[tokio::test(flavor = "multi_thread")]
async fn d5_a_callee_of_a_foreign_realm_gets_no_digest_for_an_invite_or_a_bye() {
    let (server, _, carrier) = server_with_trunks().await;
    let trio = Trio::register(server.sip).await;
    let sdp = format!(
        "v=0\r\no=- 1 1 IN IP4 {0}\r\ns=-\r\nc=IN IP4 {0}\r\nt=0 0\r\nm=audio 40000 RTP/AVP 0\r\n",
        carrier.address.ip()
    );
    let session =
        format!("Contact: <sip:x@{}>\r\nContent-Type: application/sdp\r\n", carrier.address);
    for (round, (status, header)) in CHALLENGES.into_iter().enumerate() {
        trio.agent.call("0123").await.unwrap();
        let invite = carrier.until("INVITE ").await;
        carrier.respond(&invite, status, &challenge(header, "evil.example"), "").await;
        let refused = trio
            .agent
            .until(|event| matches!(event, PhoneEvent::Refused(_)), PATIENCE)
            .await
            .unwrap();
        assert!(!matches!(refused.event, PhoneEvent::Refused(200..=299)));
        let heard = carrier.fence(&format!("invite{round}")).await;
        assert!(
            heard.iter().all(|text| text.starts_with("ACK ") && !is_credential(text)),
            "{heard:?}"
        );

        // Its own realm gets one: this test can see them.
        trio.agent.call("0123").await.unwrap();
        let invite = carrier.until("INVITE ").await;
        carrier.respond(&invite, status, &challenge(header, "carrier.example"), "").await;
        let again = carrier.until("INVITE ").await;
        assert!(is_credential(&again), "{again}");
        carrier.respond(&again, "200 OK", &session, &sdp).await;
        trio.agent.established(PATIENCE).await.unwrap();
        carrier.until("ACK ").await;
        trio.agent.hang_up().await.unwrap();
        let bye = carrier.until("BYE ").await;
        carrier.respond(&bye, status, &challenge(header, "evil.example"), "").await;
        wait::holds("the call is over", PATIENCE, || no_legs(&server)).await;
        let heard = carrier.fence(&format!("bye{round}")).await;
        // A BYE that crossed the challenge may have been repeated as it was.
        assert!(heard.iter().all(|text| *text == bye), "{heard:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn d6_nobody_is_carried_to_a_foreign_target_or_a_premium_number() {
    let (server, site, carrier) = server_with_trunks().await;
    let trio = Trio::register(server.sip).await;
    let stranger = Peer::of(STRANGER, server.sip).await;
    let targets = [
        "sip:0900123@premium.example".to_owned(),
        "sip:0900123@192.0.2.7:5060;transport=tcp".to_owned(),
        format!("sip:0900123@{}", server.sip),
        format!("sip:0900123%40premium.example@{}", server.sip),
        format!("sip:{}@premium.example;maddr=127.0.0.3", AGENT.number),
        "tel:+900123".to_owned(),
    ];
    for (name, peer) in [("site", &site), ("stranger", &stranger)] {
        for (at, target) in targets.iter().enumerate() {
            for (kind, from) in [
                ("self", format!("<sip:x@{}>", peer.address)),
                ("agent", format!("<sip:5001@{}>", server.sip)),
            ] {
                let label = format!("{name}{kind}{at}");
                peer.send(&peer.invite(&label, target, &from, "")).await;
                let answer = peer.finally("INVITE").await;
                let refused = match (kind, name) {
                    // A caller with the agent's name is asked to prove it, and so is every caller
                    // that is not known.
                    ("agent", _) | (_, "stranger") => [401, 403, 404, 405, 416].as_slice(),
                    _ => &[403, 404, 405, 416],
                };
                assert!(refused.contains(&status(&answer)), "{label} {target}: {answer}");
            }
            let refer = peer
                .invite(
                    &format!("refer{name}{at}"),
                    &format!("sip:{}@{}", AGENT.number, server.sip),
                    "<sip:x@x>",
                    &format!("Refer-To: <{target}>\r\n"),
                )
                .replace("INVITE", "REFER");
            peer.send(&refer).await;
            let answer = peer.finally("REFER").await;
            assert!(matches!(status(&answer), 403..=405), "{target}: {answer}");
        }
    }
    // A customer's account calls devices only.
    trio.customer.call("0900123").await.unwrap();
    let refused = trio
        .customer
        .until(|event| matches!(event, PhoneEvent::Refused(_)), PATIENCE)
        .await
        .unwrap();
    assert!(matches!(refused.event, PhoneEvent::Refused(403 | 404)), "{refused:?}");
    let heard = carrier.fence("quiet").await;
    assert!(heard.is_empty(), "somebody was carried out: {heard:?}");
    assert!(no_legs(&server));
    let incoming = |event: &PhoneEvent| matches!(event, PhoneEvent::Incoming { .. });
    assert!(!trio.agent.events().iter().any(|happened| incoming(&happened.event)));
}

/// The product as a process, with a call that is coached.
pub(crate) async fn coached_process(more: &str) -> (tempfile::TempDir, Process, Trio) {
    let place = tempfile::tempdir().unwrap();
    let config = format!(
        "[rest]\nbind = '{ANY}'\n[grpc]\nbind = '{ANY}'\n[admin]\nbind = '{ANY}'\n[sip]\n\
         listen = ['udp:{ANY}', 'tcp:{ANY}']\ngrace = 0\n{more}\n{}",
        directory()
    );
    let process = Process::start("serve", place.path(), &config).await;
    process.ready().await;
    let trio = Trio::register(process.door("sip")).await;
    trio.call().await;
    trio.hear(TALK).await;
    let supervisor = RestClient::of(SUPERVISOR, process.door("rest"));
    let coach = json!({
        "operationName": "Coach", "targetDeviceUri": format!("/api/v2/devices/{}", AGENT.device),
    });
    supervisor.post(&format!("/me/devices/{}", SUPERVISOR.device), coach).await;
    trio.hear(COACH).await;
    (place, process, trio)
}

/// The longest time that any of the three heard no packet.
fn longest_gap(trio: &Trio, since: Instant, until: Instant) -> Duration {
    let phones = [&trio.customer, &trio.agent, &trio.supervisor];
    let gaps = phones.map(|phone| {
        let packets = phone.received_between(since, until);
        let arrivals: Vec<Instant> = [since]
            .into_iter()
            .chain(packets.iter().map(|packet| packet.at))
            .chain([until])
            .collect();
        arrivals.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    });
    gaps.into_iter().max().unwrap_or_default()
}

/// INVITEs with tags of their own, from one source, for so long.
async fn flood(server: SocketAddr, per_second: u32, time: Duration) -> u32 {
    let stranger = Peer::of(STRANGER, server).await;
    let mut beat = tokio::time::interval(Duration::from_millis(10));
    let begun = clock::instant();
    let mut sent = 0;
    while begun.elapsed() < time {
        beat.tick().await;
        while f64::from(sent) < begun.elapsed().as_secs_f64() * f64::from(per_second) {
            sent += 1;
            // Some are nobody's, some say that they are the agent, some that they are within a
            // call.
            let from = match sent % 3 {
                0 => format!("<sip:{}@{server}>", AGENT.number),
                _ => format!("<sip:x@{}>", stranger.address),
            };
            let mut invite = stranger.invite(
                &format!("flood{sent}"),
                &format!("sip:{}@{server}", AGENT.number),
                &from,
                "",
            );
            if sent % 5 == 0 {
                invite = invite.replacen(
                    &format!("To: <sip:{}@{server}>", AGENT.number),
                    &format!("To: <sip:x@x>;tag=spoofed{sent}"),
                    1,
                );
            }
            // A full socket loses it, as the network does.
            let _ = stranger.socket.try_send_to(invite.as_bytes(), server);
        }
    }
    sent
}

#[tokio::test(flavor = "multi_thread")]
async fn d7_a_coached_call_goes_on_through_a_flood_of_invites_that_leaves_nothing_behind() {
    const ROUNDS: usize = 6;
    const GAP: Duration = Duration::from_millis(60);
    let (_place, process, trio) = coached_process("").await;
    let sip = process.door("sip");
    // The first of all: what is set up once is set up.
    flood(sip, 2000, Duration::from_millis(300)).await;
    let before = process.memory("VmRSS");
    let mut gaps = Vec::new();
    for _ in 0..ROUNDS {
        // A busy machine stops the phones too: their gaps without a flood say how much.
        let quiet = clock::instant();
        wait::elapse(Duration::from_secs(1)).await;
        let calm = longest_gap(&trio, quiet, clock::instant());
        let since = clock::instant();
        let sent = flood(sip, 2000, Duration::from_secs(2)).await;
        assert!(sent > 1000, "no flood: {sent}");
        let stormy = longest_gap(&trio, since, clock::instant());
        gaps.push((calm, stormy));
        if stormy <= GAP.max(calm) {
            break;
        }
    }
    assert!(
        gaps.last().is_some_and(|(calm, stormy)| *stormy <= GAP.max(*calm)),
        "gaps without and with the flood: {gaps:?}"
    );
    let grown = process.memory("VmRSS").saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} KiB more");
    trio.hear(COACH).await;
    // Recovered: a call is set up again.
    trio.customer.hang_up().await.unwrap();
    trio.agent.ended(PATIENCE).await.unwrap();
    trio.call().await;
    trio.hear(COACH).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn d8_five_hundred_dribbling_connections_and_a_declared_4_gib_cost_little_and_are_closed() {
    let (_place, process, trio) = coached_process("").await;
    let sip = process.door("sip-tcp");
    let (size, resident) = (process.memory("VmSize"), process.memory("VmRSS"));
    let mut crowd = Vec::new();
    for number in 0..500 {
        let mut stream = TcpStream::connect(sip).await.unwrap();
        let begin: &[u8] = match number % 2 {
            0 => b"INVITE sip:5001@127.0.0.1 SIP/2.0\r\nContent-Length: 4294967296\r\nX: ",
            _ => b"OPTIONS sip:127.0.0.1 SIP/2.0\r\nVia: ",
        };
        let _ = stream.write_all(begin).await;
        crowd.push(stream);
    }
    // A whole header that declares 4 GiB is refused at once or closed; nothing is set aside for it.
    let mut declaring = TcpStream::connect(sip).await.unwrap();
    let whole = "OPTIONS sip:127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1;branch=z9hG4bKd8\r\n\
                 Max-Forwards: 70\r\nFrom: <sip:x@x>;tag=x\r\n\
                 To: <sip:x@x>\r\nCall-ID: d8\r\nCSeq: 1 OPTIONS\r\n\
                 Content-Length: 4294967296\r\n\r\nx";
    declaring.write_all(whole.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let closed = timeout(PATIENCE, declaring.read_to_end(&mut answer)).await;
    assert!(closed.is_ok(), "a connection that declared 4 GiB stays open");
    assert!(!answer.starts_with(b"SIP/2.0 2"), "{}", String::from_utf8_lossy(&answer));

    let mut beat = tokio::time::interval(Duration::from_secs(1));
    let until = clock::instant() + 2 * PATIENCE;
    while !crowd.is_empty() {
        beat.tick().await;
        // A byte a second keeps nothing open.
        crowd.retain(|stream| {
            let gone = matches!(stream.try_read(&mut [0; 64]), Ok(0))
                || stream
                    .try_write(b"x")
                    .is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock);
            !gone
        });
        trio.customer.options().await.unwrap();
        assert!(clock::instant() < until, "{} connections are still open", crowd.len());
    }
    assert!(process.memory("VmSize").saturating_sub(size) < 1 << 20, "a GiB more was set aside");
    let grown = process.memory("VmRSS").saturating_sub(resident);
    assert!(grown < 64 * 1024, "{grown} KiB more");
    trio.hear(COACH).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn d9_forged_bye_cancel_and_re_invite_are_481_and_the_call_lives() {
    let (server, site, _) = server_with_trunks().await;
    let trio = Trio::register(server.sip).await;
    let stranger = Peer::of(STRANGER, server.sip).await;
    let uri = format!("sip:{}@{}", AGENT.number, server.sip);
    trio.agent.set_answer(undertone::demo::phone::AnswerPolicy::OnRequest).await.unwrap();
    let invite = site.invite("d9", &uri, &format!("<sip:0711@{}>", site.address), "");
    site.send(&invite).await;
    let ringing = site.until("SIP/2.0 180").await;

    let bodiless = format!("{}\r\n\r\n", invite.split("\r\n\r\n").next().unwrap())
        .replace("Content-Type: application/sdp\r\n", "");
    let length = format!("Content-Length: {}", field(&invite, "Content-Length"));
    let cancel = bodiless.replace("INVITE", "CANCEL").replace(&length, "Content-Length: 0");
    for (peer, forged) in [
        (&stranger, cancel.clone()),
        (&site, cancel.replace("z9hG4bKd9", "z9hG4bKguessed")),
        (&site, cancel.replace(";tag=d9", ";tag=forged")),
    ] {
        peer.send(&forged).await;
        assert_eq!(status(&peer.finally("CANCEL").await), 481, "{forged}");
    }
    trio.agent.answer().await.unwrap();
    let answered = site.finally("INVITE").await;
    assert_eq!(status(&answered), 200, "{ringing}\n{answered}");
    site.send(&site.within("ACK", 1, "d9a", &invite, &answered)).await;

    let elsewhere = Peer::of(SITE.replace(".2:", ".8:").as_str(), server.sip).await;
    for (at, method) in ["BYE", "INVITE", "UPDATE", "INFO"].into_iter().enumerate() {
        let cseq = 10 + at as u32;
        for (name, peer) in [("stranger", &stranger), ("elsewhere", &elsewhere)] {
            peer.send(&peer.within(method, cseq, &format!("{name}{at}"), &invite, &answered)).await;
            assert_eq!(
                status(&peer.finally(method).await),
                481,
                "{method} with the right tags from a {name}"
            );
        }
        let right = site.within(method, cseq, &format!("forged{at}"), &invite, &answered);
        let tag = field(&answered, "To").rsplit_once(";tag=").unwrap().1;
        for forged in [right.replace(";tag=d9", ";tag=forged"), right.replace(tag, "forged")] {
            site.send(&forged.replace(&format!("forged{at}"), &format!("f{at}{}", forged.len())))
                .await;
            assert_eq!(status(&site.finally(method).await), 481, "{forged}");
        }
    }
    let over =
        |event: &PhoneEvent| matches!(event, PhoneEvent::Ended { .. } | PhoneEvent::Reoffered(_));
    assert!(!trio.agent.events().iter().any(|happened| over(&happened.event)));
    site.send(&site.within("OPTIONS", 20, "d9o", &invite, &answered)).await;
    assert_eq!(status(&site.finally("OPTIONS").await), 200, "the dialog is there");
    site.send(&site.within("BYE", 21, "d9b", &invite, &answered)).await;
    assert_eq!(status(&site.finally("BYE").await), 200);
    trio.agent.ended(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn d17_nobody_reads_switches_or_ends_what_another_supervisor_monitors() {
    let server = gateway_server::GatewayServer::open(ServerOptions::default()).await;
    let device = |id: &str| format!("/api/v2/me/devices/{id}");
    let coach = json!({
        "operationName": "Coach", "targetDeviceUri": format!("/api/v2/devices/{BOB_PHONE}"),
    });
    let done = |(status, body): (StatusCode, Value)| {
        assert_eq!((status, &body["statusCode"]), (StatusCode::OK, &json!(0)), "{body}")
    };
    done(server.post("meg", &device(MEG_PHONE), &coach).await);
    let call = server.phones.customer_calls("7001", "5001").await.unwrap();
    server.phones.answer(&BOB_PHONE.into(), &call).await.unwrap();
    let path = format!("/api/v2/me/calls/{call}");
    let joined = wait::found(PATIENCE, async || {
        (server.get("meg", &path).await.1["call"]["state"] == "Established").then_some(())
    });
    joined.await.expect("joined in time");
    let refused = |what: String, (status, body): (StatusCode, Value)| {
        let row = (status.as_u16(), body["statusCode"].as_u64().unwrap());
        assert!(matches!(row, (403, 5) | (404, 6)), "{what}: {row:?} {body}");
        assert!(!body.to_string().contains(BOB_PHONE) || what.contains("Coach"), "{what}: {body}");
    };
    let operation = |name: &str| json!({"operationName": name});
    for user in ["kim", "otto", "bob"] {
        for path in [device(MEG_PHONE), format!("/api/v2/devices/{MEG_PHONE}")] {
            refused(format!("{user} reads {path}"), server.get(user, &path).await);
        }
        for name in ["CancelSupervisorMonitoring", "DoNotDisturbOn"] {
            refused(
                format!("{user} {name}"),
                server.post(user, &device(MEG_PHONE), &operation(name)).await,
            );
        }
        refused(
            format!("{user} Coach from her device"),
            server.post(user, &device(MEG_PHONE), &coach).await,
        );
        if user != "bob" {
            refused(format!("{user} reads {path}"), server.get(user, &path).await);
            for name in ["SwitchToBargeIn", "Hangup"] {
                refused(format!("{user} {name}"), server.post(user, &path, &operation(name)).await);
            }
        }
    }
    // The agent is on the call, and no supervisor.
    refused("bob switches".into(), server.post("bob", &path, &operation("SwitchToBargeIn")).await);
    refused("bob Coach".into(), server.post("bob", &device(BOB_PHONE), &coach).await);
    refused(
        "otto Coach outside his group".into(),
        server.post("otto", &device(OTTO_PHONE), &coach).await,
    );

    let state =
        server.get("meg", &device(MEG_PHONE)).await.1["device"]["supervisorMonitoringState"]
            .clone();
    assert_eq!(state["state"], "Coach", "as she left it");
    assert_eq!(server.get("meg", &path).await.1["call"]["state"], "Established");
    let lines = server.audit();
    for user in ["kim", "otto", "bob"] {
        let told = lines.iter().any(|line| line["user"] == user && line["refused"].is_string());
        assert!(told, "no audit line of {user}: {lines:?}");
    }
    assert!(lines.iter().all(|line| !line.to_string().contains(PASSWORD)));
}

const EVIL: &str =
    "x\r\n{\"level\":\"ERROR\",\"message\":\"forged\"}\u{1b}[2J\",\"level\":\"ERROR\u{9b}\u{2028}";

#[tokio::test(flavor = "multi_thread")]
async fn d18_no_display_name_user_agent_or_field_writes_a_log_line_of_its_own() {
    let site = Peer::bind(SITE).await;
    let more = format!(
        "[[sip.trunk]]\nname = 'site'\nsources = ['{}']\ntarget = '{}'\nqualify = 0\n\
         [log]\nformat = 'json'\n\
         filter = 'debug'\npersonal_data = true\n",
        site.address.ip(),
        site.address
    );
    let (place, process, trio) = coached_process(&more).await;
    let site = Peer { server: process.door("sip"), ..site };
    trio.customer.hang_up().await.unwrap();
    trio.agent.ended(PATIENCE).await.unwrap();
    let uri = format!("sip:{}@{}", AGENT.number, site.server);
    let shown = "\u{1b}[2J\\\",\\\"level\\\":\\\"ERROR\u{9b}\u{2028}";
    let from = format!("\"{shown}\" <sip:0711%0d%0a%1b@{}>", site.address);
    let agent = format!("User-Agent: {shown}\r\nX-Evil: {shown}\r\n");
    let invite = site.invite("d18\u{1b}\",\"level\":\"ERROR", &uri, &from, &agent);
    site.send(&invite).await;
    let plain =
        site.invite("d18", &uri, &format!("\"{shown}\" <sip:0711@{}>", site.address), &agent);
    // Quotes and braces are right in a Call-ID, and Call-IDs are logged.
    let quoted = plain.replace("Call-ID: d18\r\n", "Call-ID: d18\"}{\"level\":\"ERROR\"\r\n");
    assert_ne!(plain, quoted);
    site.send(&quoted).await;
    // Whatever came of them: it has been looked at.
    site.fence("d18fence").await;

    let device = format!("/me/devices/{}", SUPERVISOR.device);
    for (user, body) in [
        (SUPERVISOR.user, json!({"operationName": EVIL})),
        (SUPERVISOR.user, json!({"operationName": "Coach", "targetDeviceUri": EVIL})),
        (
            SUPERVISOR.user,
            json!({"operationName": "Coach", "targetDeviceUri": format!("/api/v2/devices/{EVIL}")}),
        ),
        (
            SUPERVISOR.user,
            json!({
                "operationName": "Coach", "phoneNumber": EVIL, "supervisorMonitoringMode": EVIL,
            }),
        ),
        (SUPERVISOR.user, json!({"operationName": "ForwardCallsOn", "destination": EVIL})),
        (EVIL, json!({"operationName": "Coach"})),
    ] {
        let client = RestClient::new(process.door("rest"), user, SUPERVISOR.password);
        let request = client
            .posting(&device, &body)
            .header("X-Request-Id", "x\",\"level\":\"ERROR")
            .header("User-Agent", "y\",\"level\":\"ERROR");
        let answer = request.send().await.unwrap();
        assert!(answer.status().is_client_error(), "{body}");
    }
    let supervisor = RestClient::of(SUPERVISOR, process.door("rest"));
    let request = supervisor.getting("/me/calls/%0d%0a%1b%22,%22level%22:%22ERROR");
    assert!(request.send().await.unwrap().status().is_client_error());
    drop(trio);

    let audit = std::fs::read_to_string(place.path().join("undertone-data/audit.jsonl")).unwrap();
    assert!(audit.lines().count() > 0);
    let log = process.log();
    let written = log
        .iter()
        .any(|line| line.contains("a call comes in") && line.contains(r#"d18\"}{\"level"#));
    assert!(written, "the log does not show the Call-ID: {log:?}");
    for line in log.iter().map(String::as_str).chain(audit.lines()) {
        let object: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        let object = object.as_object().unwrap_or_else(|| panic!("no object: {line:?}"));
        assert!(!line.contains(|c: char| c.is_control() || c == '\u{2028}'), "{line:?}");
        assert_ne!(object.get("message").and_then(Value::as_str), Some("forged"));
        // What they wrote is a value, never a key of the line.
        assert_eq!(
            line.matches("\"level\":").count(),
            usize::from(object.contains_key("level")),
            "{line:?}"
        );
    }
    process.terminate(PATIENCE).await;
}
