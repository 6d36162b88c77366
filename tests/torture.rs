//! The messages of RFC 4475, RFC 5118 and our own hostile ones at the SIP port, as
//! `tests/data/torture/index.tsv` demands.
//!
//! One row alone: `TORTURE=wsinv cargo test --test all torture -- --nocapture`.

use crate::corpus;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use undertone::model::{DeviceId, Number};
use undertone::sip::config::{ListenAddress, SipAccount, SipConfig, SipLimits, Trunk, TrunkSource};
use undertone::sip::endpoint::Endpoint;
use undertone::sip::flow::Protocol;
use undertone::sip::leg::{LegCommand, LegEvent, PassedHeader};
use undertone::sip::transport::TransportTls;

/// Nothing on loopback takes so long; a machine under load may.
const PATIENCE: Duration = Duration::from_secs(20);

/// The endpoint under torture, with the events it told its B2BUA.
struct SipServer {
    udp: SocketAddr,
    tcp: SocketAddr,
    events: mpsc::UnboundedReceiver<LegEvent>,
}

impl SipServer {
    /// What the next call that comes in hands on.
    async fn incoming(&mut self) -> Vec<PassedHeader> {
        loop {
            match tokio::time::timeout(PATIENCE, self.events.recv()).await.unwrap().unwrap() {
                LegEvent::Incoming { passed, .. } => return passed,
                LegEvent::Located { .. } | LegEvent::ConnectedIdentity { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Datagrams from `trunk` are a trunk's; everybody else is a stranger.
    async fn open(trunk: Option<SocketAddr>) -> SipServer {
        let any = "127.0.0.1:0".parse().unwrap();
        let mut config = SipConfig {
            listen: vec![
                ListenAddress::new(Protocol::Udp, any),
                ListenAddress::new(Protocol::Tcp, any),
            ],
            // The messages call port 5060 of this host, whatever port we have.
            domains: vec!["127.0.0.1".into()],
            limits: SipLimits {
                refusals_per_second: 100_000,
                message_deadline: Duration::from_secs(2),
                ..SipLimits::default()
            },
            ..SipConfig::default()
        };
        for number in ["supervisor-1", "agent-1001"] {
            let (device, number) = (DeviceId::from(number), Number::from(number));
            config.accounts.insert(SipAccount::new(device, number, &config.realm, "secret"));
        }
        if let Some(address) = trunk {
            config.trunks.push(Trunk {
                sources: vec![TrunkSource::new(address.ip().into(), Some(address.port()))],
                ..Trunk::at("carrier", address, Protocol::Udp)
            });
        }
        let mut endpoint = Endpoint::bind(config, TransportTls::default()).await.unwrap();
        let udp = endpoint.local_addr(Protocol::Udp).unwrap();
        let tcp = endpoint.local_addr(Protocol::Tcp).unwrap();
        let (sender, events) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                for event in endpoint.next().await {
                    if let LegEvent::Incoming { leg, .. } = event {
                        endpoint.send(LegCommand::Reject { leg, status: 480 });
                    }
                    if sender.send(event).is_err() {
                        return;
                    }
                }
            }
        });
        SipServer { udp, tcp, events }
    }

    fn no_calls(&mut self) -> bool {
        self.events.try_recv().is_err()
    }
}

/// A peer: what it got, by CSeq and branch of the answer.
enum Peer {
    Udp(UdpSocket, SocketAddr),
    Tcp(TcpStream, Vec<u8>),
}

impl Peer {
    async fn udp(server: &SipServer) -> Peer {
        Peer::udp_at(server, 5060).await
    }

    /// At an address of its own, with the port that the sender of a message says it hears at:
    /// without rport the answer goes there (RFC 3261 18.2.2).
    async fn udp_at(server: &SipServer, port: u16) -> Peer {
        Peer::Udp(socket_at(port).await, server.udp)
    }

    async fn tcp(server: &SipServer) -> Peer {
        Peer::Tcp(TcpStream::connect(server.tcp).await.unwrap(), Vec::new())
    }

    async fn send(&mut self, bytes: &[u8]) {
        match self {
            Peer::Udp(socket, to) => drop(socket.send_to(bytes, *to).await.unwrap()),
            // The other side may have closed already: what it answered before is still to be read.
            Peer::Tcp(stream, _) => drop(stream.write_all(bytes).await),
        }
    }

    /// The next response; `None` when the connection was closed, or nothing came until then.
    async fn receive(&mut self, until: Instant) -> Option<Answer> {
        match self {
            Peer::Udp(socket, _) => {
                let mut buffer = vec![0; 65_535];
                let (length, _) =
                    timeout_at(until, socket.recv_from(&mut buffer)).await.ok()?.ok()?;
                Answer::read(&buffer[..length])
            }
            Peer::Tcp(stream, buffer) => loop {
                if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                    // No answer here has a body.
                    let message: Vec<u8> = buffer.drain(..end + 4).collect();
                    return Answer::read(&message);
                }
                let mut part = [0; 4096];
                let read = timeout_at(until, stream.read(&mut part)).await.ok()?.ok()?;
                if read == 0 {
                    return None;
                }
                buffer.extend_from_slice(&part[..read]);
            },
        }
    }

    /// Everything that is answered until an OPTIONS sent behind it is. Retransmitted answers count
    /// once.
    async fn answers(&mut self, mark: &str) -> Option<Vec<Answer>> {
        let until = Instant::now() + PATIENCE;
        self.send(&options(mark)).await;
        let mut seen = BTreeSet::new();
        let mut order = Vec::new();
        loop {
            let answer = self.receive(until).await?;
            if answer.is_to(mark) {
                return Some(order);
            }
            if answer.status >= 200 && seen.insert(answer.text.clone()) {
                order.push(answer);
            }
        }
    }
}

/// A socket with this port, at an address of its own.
async fn socket_at(port: u16) -> UdpSocket {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number =
            std::process::id().wrapping_mul(251).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let [_, high, middle, low] = number.to_be_bytes();
        let address = Ipv4Addr::new(127, high | 128, middle, low.clamp(1, 254));
        if let Ok(socket) = UdpSocket::bind((address, port)).await {
            return socket;
        }
    }
}

/// An answer, read by other means than ours: a refusal repeats whatever was wrong with the request.
#[derive(Clone, Debug)]
struct Answer {
    status: u16,
    text: String,
}

impl Answer {
    fn read(bytes: &[u8]) -> Option<Answer> {
        let text = String::from_utf8_lossy(bytes).trim_start().to_owned();
        let status = text.strip_prefix("SIP/2.0 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no answer: {text}"));
        Some(Answer { status, text })
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.text.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    fn is_to(&self, call_id: &str) -> bool {
        self.header("Call-ID") == Some(call_id)
    }
}

fn options(mark: &str) -> Vec<u8> {
    format!(
        "OPTIONS sip:127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1;rport;branch=z9hG4bK{mark}\r\n\
         Max-Forwards: 70\r\n\
         From: <sip:probe@127.0.0.1>;tag=1\r\nTo: <sip:127.0.0.1>\r\nCall-ID: {mark}\r\n\
         CSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    )
    .into_bytes()
}

/// What a gateway may answer, from the words of the index.
struct Allowed {
    finals: Vec<u16>,
    any_final: bool,
    except: Vec<u16>,
    silence: bool,
    header: Option<&'static str>,
}

impl Allowed {
    fn read(words: &str) -> Allowed {
        let numbers = |text: &str| -> Vec<u16> {
            let parts = text.split(|char: char| !char.is_ascii_digit());
            parts.filter(|part| part.len() == 3).filter_map(|part| part.parse().ok()).collect()
        };
        let lower = words.to_lowercase();
        let any_final = lower.contains("any final") || lower.contains("liberal");
        let (finals, except) = match lower.split_once("except") {
            Some((_, rest)) => (Vec::new(), numbers(rest.split("(").next().unwrap_or_default())),
            None if lower.contains("any final") => (Vec::new(), Vec::new()),
            None => (numbers(words), Vec::new()),
        };
        Allowed {
            finals,
            any_final,
            except,
            silence: lower.contains("silence") || lower.contains("drop"),
            header: ["Unsupported", "Accept", "Allow"]
                .into_iter()
                .find(|name| words.contains(&format!("+ {name}"))),
        }
    }

    fn covers(&self, answers: &[Answer]) -> bool {
        match answers {
            [] => self.silence,
            [answer] => {
                let listed = self.finals.contains(&answer.status)
                    || self.any_final && !self.except.contains(&answer.status);
                listed && self.header.is_none_or(|name| answer.header(name).is_some())
            }
            _ => false,
        }
    }
}

struct Row {
    file: String,
    allowed: String,
    tcp: bool,
    /// The port of sent-by.
    port: u16,
}

/// The messages that can be sent: both RFCs in the form that is sendable.
fn rows() -> Vec<Row> {
    let index = String::from_utf8(corpus::file("torture/index.tsv")).unwrap();
    let rows = index.lines().skip(1).map(|line| line.split('\t').collect::<Vec<_>>());
    let rows = rows.filter(|columns| !columns[0].contains("/archive/"));
    let rows = rows.map(|columns| Row {
        file: columns[0].to_owned(),
        allowed: columns[7].to_owned(),
        tcp: ["/TCP", "/TLS"].iter().any(|transport| columns[10].contains(transport)),
        port: columns[10]
            .rsplit_once(':')
            .and_then(|(host, port)| {
                (!host.contains('[') || host.ends_with(']')).then(|| port.parse().ok())?
            })
            .unwrap_or(5060),
    });
    let wanted = std::env::var("TORTURE").unwrap_or_default();
    rows.filter(|row| row.file.contains(&wanted)).collect()
}

fn describe(answers: Option<&[Answer]>) -> String {
    match answers {
        None => "the port fell silent".to_owned(),
        Some([]) => "silence".to_owned(),
        Some(answers) => {
            let statuses: Vec<String> =
                answers.iter().map(|answer| answer.status.to_string()).collect();
            statuses.join(" and ")
        }
    }
}

fn name_of(file: &str) -> &str {
    file.rsplit('/').next().unwrap_or(file)
}

/// Over a connection, what cannot be framed ends it: the answer, if any, is what came before the
/// end.
async fn over_tcp(server: &SipServer, bytes: &[u8], mark: &str) -> Option<Vec<Answer>> {
    let mut before = Peer::tcp(server).await;
    before.answers(&format!("{mark}before")).await?;
    let mut peer = Peer::tcp(server).await;
    peer.send(bytes).await;
    let until = Instant::now() + PATIENCE;
    peer.send(&options(mark)).await;
    let mut answers = Vec::new();
    while let Some(answer) = peer.receive(until).await {
        if answer.is_to(mark) {
            break;
        }
        if answer.status >= 200 {
            answers.push(answer);
        }
    }
    let mut after = Peer::tcp(server).await;
    after.answers(&format!("{mark}after")).await?;
    Some(answers)
}

async fn over_udp(server: &SipServer, bytes: &[u8], mark: &str, port: u16) -> Option<Vec<Answer>> {
    let mut peer = Peer::udp_at(server, port).await;
    peer.answers(&format!("{mark}before")).await?;
    peer.send(bytes).await;
    peer.answers(&format!("{mark}after")).await
}

#[tokio::test]
async fn every_message_of_rfc_4475_and_rfc_5118_is_answered_as_a_gateway_may() {
    let mut server = SipServer::open(None).await;
    let mut failures = Vec::new();
    let rows = rows();
    for (number, row) in rows.iter().enumerate() {
        let bytes = corpus::file(&format!("torture/{}", row.file));
        let mark = format!("t{number}");
        let answers = match row.tcp {
            true => over_tcp(&server, &bytes, &mark).await,
            false => over_udp(&server, &bytes, &mark, row.port).await,
        };
        let fits =
            answers.as_deref().is_some_and(|answers| Allowed::read(&row.allowed).covers(answers));
        if !fits || !server.no_calls() {
            failures.push(format!(
                "{}: expected {}, got {}; run TORTURE={} cargo test --test all torture",
                row.file,
                row.allowed,
                describe(answers.as_deref()),
                name_of(&row.file)
            ));
        }
    }
    println!(
        "{} of {} messages answered as a gateway may",
        rows.len() - failures.len(),
        rows.len()
    );
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), rows.len(), failures.join("\n"));
    assert!(rows.len() == 63 || std::env::var("TORTURE").is_ok(), "{} rows, not 63", rows.len());
}

/// The stated outcome of each of our own hostile messages, as the statuses it may get; none is
/// silence.
const DERIVED: &[(&str, &[u16])] = &[
    ("smuggle_ws_before_colon.sip", &[400, 480]),
    ("smuggle_ruri_headers.sip", &[400, 480]),
    ("smuggle_crlf_escape_user.sip", &[400, 404]),
    ("smuggle_bare_lf_lines.sip", &[]),
    ("dup_from_compact.sip", &[400]),
    ("dup_callid.sip", &[400]),
    ("cl_plus_sign.sip", &[400]),
    ("cl_huge_u64.sip", &[400]),
    ("cl_4gib_tcp.sip", &[400, 413, 513]),
    ("tcp_pipeline_two.sip", &[200]),
    ("tcp_garbage_http.sip", &[400, 505]),
    ("tcp_crlf_keepalive.sip", &[]),
    ("udp_crlf_keepalive.sip", &[]),
    ("udp_one_byte.sip", &[]),
    ("big_header_60k.sip", &[400, 413, 513]),
    ("multipart_nested_200.sip", &[400, 415]),
    ("max_forwards_0_invite.sip", &[483]),
    ("ood_bye.sip", &[481]),
    ("ood_update.sip", &[481]),
    ("ood_cancel.sip", &[481]),
    ("ood_ack.sip", &[]),
    ("stray_200.sip", &[]),
    ("replaces_unknown.sip", &[481]),
    ("refer_ood_premium.sip", &[403, 405, 603]),
    ("register_supervisor.sip", &[401]),
    ("subscribe_dialog.sip", &[401, 403, 405, 489]),
    ("message_spoof.sip", &[401, 403, 405]),
    ("open_relay_invite.sip", &[403, 404]),
    ("sdp_port_65536.sip", &[400, 488]),
    ("sdp_multicast.sip", &[488]),
    ("sdp_zero_addr.sip", &[480]),
    ("sdp_no_media.sip", &[488]),
    ("sdp_bad_fmtp.sip", &[480, 488]),
    ("sdp_srtp_downgrade.sip", &[480, 488]),
    ("sdp_crypto_short_key.sip", &[480, 488]),
    ("log_ansi_escape.sip", &[200]),
    ("invalid_utf8_display.sip", &[200, 400]),
    ("identity_passthrough.sip", &[480]),
    ("require_unknown.sip", &[420]),
    ("session_expires_tiny.sip", &[422]),
];

/// Whether a message may have reached the B2BUA: those whose outcome is the B2BUA's 480.
fn may_call(allowed: &[u16]) -> bool {
    allowed.contains(&480)
}

#[tokio::test]
async fn our_own_hostile_messages_have_their_stated_outcome_even_from_a_trunk() {
    let index = String::from_utf8(corpus::file("torture/derived/index.tsv")).unwrap();
    let wanted = std::env::var("TORTURE").unwrap_or_default();
    let mut failures = Vec::new();
    let mut count = 0;
    for (number, line) in index.lines().skip(1).enumerate() {
        let columns: Vec<&str> = line.split('\t').collect();
        let name = name_of(columns[0]);
        if !name.contains(&wanted) {
            continue;
        }
        count += 1;
        let (_, allowed) = DERIVED
            .iter()
            .find(|(known, _)| *known == name)
            .unwrap_or_else(|| panic!("{name} has no outcome"));
        let bytes = corpus::file(&format!("torture/{}", columns[0]));
        let socket = socket_at(5060).await;
        let mut server = SipServer::open(Some(socket.local_addr().unwrap())).await;
        let mark = format!("d{number}");
        let answers = match columns[1] {
            "TCP" => over_tcp(&server, &bytes, &mark).await,
            _ => {
                let mut peer = Peer::Udp(socket, server.udp);
                let before = peer.answers(&format!("{mark}before")).await;
                peer.send(&bytes).await;
                before.and(peer.answers(&format!("{mark}after")).await)
            }
        };
        let fits = match answers.as_deref() {
            None => false,
            Some([]) => allowed.is_empty() || name == "tcp_garbage_http.sip",
            Some([one, two]) => {
                name == "tcp_pipeline_two.sip" && [one.status, two.status] == [200, 200]
            }
            Some([one]) => allowed.contains(&one.status),
            Some(_) => false,
        };
        if !fits || !(may_call(allowed) || server.no_calls()) {
            let got = describe(answers.as_deref());
            failures.push(format!("{name}: expected {allowed:?} ({}), got {got}", columns[3]));
        }
    }
    assert!(failures.is_empty(), "{} of {count}:\n{}", failures.len(), failures.join("\n"));
    assert!(count == 40 || !wanted.is_empty(), "{count} rows, not 40");
}

#[tokio::test]
async fn identity_and_its_date_reach_the_switchboard_byte_for_byte() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut server = SipServer::open(Some(socket.local_addr().unwrap())).await;
    let text = String::from_utf8(corpus::file("torture/derived/identity_passthrough.sip")).unwrap();
    let bytes = text.replace("To: <sip:probe@", "To: <sip:agent-1001@").into_bytes();
    socket.send_to(&bytes, server.udp).await.unwrap();
    let passed = server.incoming().await;
    let names: Vec<&str> = passed.iter().map(|header| header.name).collect();
    assert_eq!(names, ["Identity", "Date"]);
    let line = [b"Identity: ".as_slice(), &passed[0].value, b"\r\n"].concat();
    assert!(bytes.windows(line.len()).any(|window| window == line));
}

#[tokio::test]
async fn an_identity_that_was_signed_for_another_number_than_is_called_stays_here() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut server = SipServer::open(Some(socket.local_addr().unwrap())).await;
    let bytes = corpus::file("torture/derived/identity_passthrough.sip");
    socket.send_to(&bytes, server.udp).await.unwrap();
    let passed = server.incoming().await;
    assert!(passed.is_empty(), "{passed:?}");
}

#[tokio::test]
async fn a_connection_that_dribbles_is_closed_and_others_are_served() {
    let server = SipServer::open(None).await;
    let mut slow = TcpStream::connect(server.tcp).await.unwrap();
    slow.write_all(b"OPTIONS sip:127.0.0.1 SIP/2.0\r\nVia: ").await.unwrap();
    let until = Instant::now() + PATIENCE;
    let mut buffer = [0; 1];
    let dribble = async {
        loop {
            // A byte within every deadline of its own does not help.
            match timeout_at(Instant::now() + Duration::from_millis(200), slow.read(&mut buffer))
                .await
            {
                Ok(Ok(0) | Err(_)) => return,
                Ok(Ok(_)) => panic!("an answer to half a message"),
                Err(_) => drop(slow.write_all(b"x").await),
            }
        }
    };
    timeout_at(until, dribble).await.expect("closed at the deadline");
    let mut other = Peer::tcp(&server).await;
    assert!(other.answers("after").await.is_some());
}

#[tokio::test]
async fn a_crowd_of_dribbling_connections_is_bounded_and_closed_while_others_are_served() {
    let server = SipServer::open(None).await;
    let mut crowd = Vec::new();
    for _ in 0..120 {
        let mut stream = TcpStream::connect(server.tcp).await.unwrap();
        // Over the limit of one source the server closes at once.
        let _ = stream
            .write_all(b"INVITE sip:1@127.0.0.1 SIP/2.0\r\nContent-Length: 4294967296\r\nX: ")
            .await;
        crowd.push(stream);
    }
    let mut peer = Peer::udp(&server).await;
    assert!(peer.answers("meanwhile").await.is_some());
    let until = Instant::now() + PATIENCE;
    let mut buffer = [0; 16];
    for stream in &mut crowd {
        let read =
            timeout_at(until, stream.read(&mut buffer)).await.expect("closed at the deadline");
        assert!(matches!(read, Ok(0) | Err(_)));
    }
    let mut other = Peer::tcp(&server).await;
    assert!(other.answers("after").await.is_some());
}

#[tokio::test]
async fn a_flood_of_invites_leaves_nothing_behind() {
    let mut server = SipServer::open(None).await;
    let flood = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for number in 0..5000 {
        let invite = format!(
            "INVITE sip:agent-1001@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP \
             127.0.0.1;rport;branch=z9hG4bKf{number}\r\nMax-Forwards: 70\r\n\
             From: <sip:x@127.0.0.1>;tag={number}\r\nTo: <sip:agent-1001@127.0.0.1>\r\n\
             Call-ID: flood{number}\r\nCSeq: 1 INVITE\r\n\
             Contact: <sip:x@127.0.0.1>\r\nContent-Length: 0\r\n\r\n"
        );
        flood.send_to(invite.as_bytes(), server.udp).await.unwrap();
        if number % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let until = Instant::now() + PATIENCE;
    let mut peer = Peer::udp(&server).await;
    // Datagrams may be lost in the crush: a phone asks again.
    let mut again = tokio::time::interval(Duration::from_millis(500));
    loop {
        again.tick().await;
        peer.send(&options("flooded")).await;
        if peer.receive((Instant::now() + Duration::from_millis(500)).min(until)).await.is_some() {
            break;
        }
        assert!(Instant::now() < until, "the port fell silent");
    }
    assert!(server.no_calls());
}

#[tokio::test]
async fn a_double_line_end_is_answered_on_a_connection_and_not_on_udp() {
    let server = SipServer::open(None).await;
    let mut stream = TcpStream::connect(server.tcp).await.unwrap();
    stream.write_all(b"\r\n\r\n").await.unwrap();
    let mut pong = [0; 2];
    timeout_at(Instant::now() + PATIENCE, stream.read_exact(&mut pong)).await.unwrap().unwrap();
    assert_eq!(&pong, b"\r\n");
    let mut peer = Peer::udp(&server).await;
    peer.send(b"\r\n\r\n").await;
    assert!(peer.answers("after").await.unwrap().is_empty());
}
