//! `undertone check --probe`: is each trunk there, and what of it can be known before a call?

use super::print;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use undertone::clock;
use undertone::config::Config;
use undertone::sip::config::{Trunk, TrunkTarget};
use undertone::sip::digest::realm;
use undertone::sip::flow::Protocol;
use undertone::sip::message::{Method, SipMessage, SipRequest, SipResponse, Uri, parse_datagram};

/// RFC 3261 17.1.2.2: when it is sent again, and how long an answer may take.
const AGAIN: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_millis(1000), Duration::from_millis(1500)];
/// The longest answer.
const LONGEST: usize = 65_535;

/// An answer to OPTIONS.
struct Answer {
    response: SipResponse,
    from: SocketAddr,
    took: Duration,
}

/// Asks all trunks, and tells what is known of each. Exit code 1: one does not answer, or wants a
/// password that is not here: nothing is attached there.
pub(super) fn run(config: &Config) -> ExitCode {
    let mut all_answer = true;
    for trunk in &config.sip.trunks {
        for target in &trunk.targets {
            let (lines, answers) = probe(trunk, target, config);
            all_answer &= answers;
            print(&lines);
        }
    }
    match (all_answer, config.sip.trunks.is_empty()) {
        (_, true) => print("no [[sip.trunk]] to ask\n"),
        (true, false) => ExitCode::SUCCESS,
        (false, false) => ExitCode::FAILURE,
    }
}

/// What is known of a target of a trunk, in lines, and whether it answers. Of a name without a port,
/// addresses are asked for and no SRV.
fn probe(trunk: &Trunk, target: &TrunkTarget, config: &Config) -> (String, bool) {
    let (name, protocol) = (&trunk.name, target.protocol);
    let said = |what: String| format!("{name}: {what}\n");
    let port = target.port.unwrap_or(protocol.default_port());
    let target = match (target.host.as_str(), port).to_socket_addrs().map(|mut it| it.next()) {
        Ok(Some(address)) => address,
        Ok(None) => return (said(format!("{target} has no address")), false),
        Err(error) => return (said(format!("{target}: {error}")), false),
    };
    let own = own_address(config, protocol, target);
    let mut lines = String::new();
    let answer = match protocol {
        Protocol::Udp => by_datagram(own, target),
        Protocol::Tcp => by_stream(target),
        Protocol::Tls => {
            lines += &said("over TLS no OPTIONS is sent; only a connection is tried".to_owned());
            return match TcpStream::connect_timeout(&target, AGAIN.iter().sum()) {
                Ok(_) => (lines + &said(format!("{target} takes connections")), true),
                Err(error) => (lines + &said(format!("{target}: {error}")), false),
            };
        }
    };
    let is_there = match answer {
        Ok(Some(answer)) => {
            lines += &answered(trunk, (protocol, target), &answer);
            is_known(trunk, &answer.response)
        }
        Ok(None) => {
            let protocol = protocol.as_str();
            let own = shown_address(own, target);
            lines += &said(format!("{target} ({protocol}) does not answer OPTIONS from {own}"));
            false
        }
        Err(error) => {
            let own = shown_address(own, target);
            lines += &said(format!("{target} can not be asked from {own}: {error}"));
            false
        }
    };
    lines += &said(sound(config, target));
    (lines, is_there)
}

/// It asks for no password, or for one that is here.
fn is_known(trunk: &Trunk, response: &SipResponse) -> bool {
    let known = |realm: Vec<u8>| {
        let realm = String::from_utf8_lossy(&realm).into_owned();
        trunk.logins.iter().any(|login| login.realm == realm)
    };
    !matches!(response.status, 401 | 407) || challenged(response).any(known)
}

/// The realms that it wants a password for.
fn challenged(response: &SipResponse) -> impl Iterator<Item = Vec<u8>> {
    let challenges = ["WWW-Authenticate", "Proxy-Authenticate"];
    let challenges = challenges.into_iter().flat_map(|field| response.headers.get_all(field));
    challenges.filter_map(realm)
}

fn answered(trunk: &Trunk, asked: (Protocol, SocketAddr), answer: &Answer) -> String {
    let (protocol, target) = asked;
    let Answer { response, from, took } = answer;
    let name = &trunk.name;
    let mut lines = format!(
        "{name}: {target} ({}) answers {} {} after {} ms",
        protocol.as_str(),
        response.status,
        String::from_utf8_lossy(&response.reason).escape_debug(),
        took.as_millis(),
    );
    let product = response.headers.get("Server").or_else(|| response.headers.get("User-Agent"));
    if let Some(product) = product {
        lines += &format!(": {}", String::from_utf8_lossy(product).escape_debug());
    }
    lines += "\n";
    if *from != target {
        lines += &format!("{name}: the answer comes from {from}\n");
    }
    // What a source by name stands for is known to a process that runs.
    let has_names = trunk.sources.iter().any(|source| source.networks.is_empty());
    if !has_names && !trunk.owns(protocol, *from) {
        lines += &format!("{name}: calls from {from} are refused: it is not among its sources\n");
    }
    for realm in challenged(response) {
        let realm = String::from_utf8_lossy(&realm).into_owned();
        let known = trunk.logins.iter().any(|login| login.realm == realm);
        let realm = realm.escape_debug();
        lines += &match known {
            true => {
                format!("{name}: wants the password for realm \"{realm}\", which it has here\n")
            }
            false => format!(
                "{name}: asks for a password for realm \"{realm}\", and has none here. Either it does \
                 not know this machine yet, and asks every stranger for one: give it the lines that \
                 `undertone attach` prints, and have it read them. Or it wants one: set realm, user \
                 and password of the trunk\n"
            ),
        };
    }
    lines
}

/// Where it was asked from: an address of this machine, whose port is another one each time.
fn shown_address(own: SocketAddr, target: SocketAddr) -> IpAddr {
    let any = own.ip().is_unspecified();
    way_to(target).filter(|_| any).unwrap_or(own.ip())
}

/// Where its sound is told to come, and what of that can be known.
fn sound(config: &Config, target: SocketAddr) -> String {
    let told = config.media.advertised.unwrap_or(config.media.bind);
    if told.is_loopback() && !target.ip().is_loopback() {
        return format!("its sound can not come: it is told to send it to {told} (media.bind)");
    }
    let ports = match &config.media.ports {
        Some(ports) => format!("{} to {}", ports.start(), ports.end()),
        None => "any".to_owned(),
    };
    let way = match way_to(target) {
        Some(own) if own == told => "the address that leads there".to_owned(),
        Some(own) => format!("this machine reaches it from {own}, so that must lead here, too"),
        None => "this machine has no way there".to_owned(),
    };
    format!(
        "its sound is told to come to {told}, UDP ports {ports}: {way}. Whether these ports are \
         open on the way shows in the first call"
    )
}

/// The address of this machine from which another is reached.
fn way_to(target: SocketAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind(any(target)).ok()?;
    socket.connect(target).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn any(target: SocketAddr) -> SocketAddr {
    match target {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

/// Where SIP listens, at a port of its own: the product may run.
fn own_address(config: &Config, protocol: Protocol, target: SocketAddr) -> SocketAddr {
    let fits = |address: &SocketAddr| address.is_ipv4() == target.is_ipv4();
    let listens = config.sip.listen.iter().filter(|listen| listen.protocol == protocol);
    let listens = listens.map(|listen| listen.address).find(fits);
    let mut own = listens.unwrap_or_else(|| any(target));
    own.set_port(0);
    own
}

fn by_datagram(own: SocketAddr, target: SocketAddr) -> std::io::Result<Option<Answer>> {
    let socket = UdpSocket::bind(own)?;
    let mut here = socket.local_addr()?;
    if here.ip().is_unspecified()
        && let Some(ip) = way_to(target)
    {
        here.set_ip(ip);
    }
    let request = options(target, here, Protocol::Udp);
    let begun = clock::instant();
    let mut buffer = vec![0; LONGEST];
    for wait in AGAIN {
        socket.send_to(&request, target)?;
        let until = clock::instant() + wait;
        while let Some(left) = left(until) {
            socket.set_read_timeout(Some(left))?;
            match socket.recv_from(&mut buffer) {
                Ok((size, from)) => {
                    if let Some(response) = final_response(&buffer[..size]) {
                        let took = clock::instant() - begun;
                        return Ok(Some(Answer { response, from, took }));
                    }
                }
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(None)
}

fn by_stream(target: SocketAddr) -> std::io::Result<Option<Answer>> {
    let begun = clock::instant();
    let until = begun + AGAIN.iter().sum::<Duration>();
    let mut stream = TcpStream::connect_timeout(&target, AGAIN.iter().sum())?;
    let here = stream.local_addr()?;
    stream.write_all(&options(target, here, Protocol::Tcp))?;
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    while let Some(left) = left(until)
        && bytes.len() < LONGEST
    {
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(None),
            Ok(size) => bytes.extend_from_slice(&buffer[..size]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
        if let Some(response) = final_response(&bytes) {
            let took = clock::instant() - begun;
            return Ok(Some(Answer { response, from: target, took }));
        }
    }
    Ok(None)
}

fn left(until: Instant) -> Option<Duration> {
    let left = until.saturating_duration_since(clock::instant());
    (!left.is_zero()).then_some(left)
}

/// A response for good.
fn final_response(bytes: &[u8]) -> Option<SipResponse> {
    match parse_datagram(bytes) {
        Ok(SipMessage::Response(response)) if response.status >= 200 => Some(response),
        Ok(_) | Err(_) => None,
    }
}

fn options(target: SocketAddr, here: SocketAddr, protocol: Protocol) -> Vec<u8> {
    let unique = format!("{:x}{}", std::process::id(), here.port());
    let uri = format!("sip:{target}");
    let protocol_name = protocol.as_str();
    let Ok(parsed) = Uri::parse(uri.as_bytes()) else { return Vec::new() };
    SipRequest::new(Method::Options, parsed)
        .with("Via", format!("SIP/2.0/{protocol_name} {here};rport;branch=z9hG4bK{unique}"))
        .with("Max-Forwards", "70")
        .with("From", format!("<sip:probe@{here}>;tag={unique}"))
        .with("To", format!("<{uri}>"))
        .with("Call-ID", format!("{unique}@{}", here.ip()))
        .with("CSeq", "1 OPTIONS")
        .with("Contact", format!("<sip:probe@{here}>"))
        .with("Accept", "application/sdp")
        .to_bytes()
}
