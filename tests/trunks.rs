//! Trunks as products have them, on real sockets: the next target for a call, names by a name server
//! of our own, and a registration with Kamailio.

use crate::support::ports::free_port;
use crate::support::sip_fixture::{
    AGENT, OUTSIDE, SOON, SipFixture, config, eventually, hz, level, outside, site,
};
use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::process::{Child, Command};
use undertone::clock;
use undertone::demo::phone::{AnswerPolicy, Phone, PhoneConfig};
use undertone::sip::config::{Registration, Trunk, TrunkSource, TrunkTarget};
use undertone::sip::flow::Protocol;

fn target(address: SocketAddr, priority: u16) -> TrunkTarget {
    let host = address.ip().to_string();
    TrunkTarget { priority, ..TrunkTarget::new(&host, Some(address.port()), Protocol::Udp) }
}

/// Calls outside, and hangs up; how long it took until somebody was there.
async fn call_outside(agent: &Phone, outside: &Phone) -> Duration {
    let since = undertone::clock::instant();
    agent.call("0123").await.expect("calls");
    agent.established(SOON).await.expect("answered");
    let took = since.elapsed();
    eventually("the agent hears outside", || level(agent, hz(OUTSIDE)) > -30.0).await;
    eventually("outside hears the agent", || level(outside, hz(AGENT)) > -30.0).await;
    agent.hang_up().await.expect("hangs up");
    outside.ended(SOON).await.expect("over");
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_goes_to_the_next_target_when_the_first_is_silent_closed_or_busy() {
    let called = Phone::start(outside().answering(AnswerPolicy::Auto(Duration::ZERO)));
    let called = called.await.expect("starts");
    let silent = UdpSocket::bind("127.0.0.3:0").await.expect("a socket");
    let closed = UdpSocket::bind("127.0.0.3:0").await.expect("a socket");
    let gone = closed.local_addr().expect("bound");
    drop(closed);
    let busy = UdpSocket::bind("127.0.0.3:0").await.expect("a socket");
    let busy_at = busy.local_addr().expect("bound");
    tokio::spawn(refuse_with_503(busy));
    for (first, at_least, at_most) in
        [(silent.local_addr().expect("bound"), 1000, 5000), (gone, 0, 900), (busy_at, 0, 900)]
    {
        let mut config = config();
        config.sip.trunks = vec![Trunk {
            targets: vec![target(first, 0), target(called.address(), 1)],
            first_response: Duration::from_secs(1),
            ..site(&called)
        }];
        let fixture = SipFixture::open(config).await;
        let agent = fixture.phone(AGENT, AnswerPolicy::Never).await;
        let took = call_outside(&agent, &called).await.as_millis();
        assert!((at_least..at_most).contains(&took), "{first}: {took} ms");
        // It is known to be of no use now: the second is called at once.
        let again = call_outside(&agent, &called).await.as_millis();
        assert!(again < 900, "{first}: {again} ms");
    }
}

/// Answers every INVITE with 503.
async fn refuse_with_503(socket: UdpSocket) {
    let mut buffer = vec![0; 65_536];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if text.starts_with("INVITE ") {
            let kept = ["Via:", "From:", "To:", "Call-ID:", "CSeq:"];
            let lines = text.lines().filter(|line| kept.iter().any(|name| line.starts_with(name)));
            let tagged = |line: &str| match line.starts_with("To:") {
                true => format!("{line};tag=busy\r\n"),
                false => format!("{line}\r\n"),
            };
            let answer = format!(
                "SIP/2.0 503 Service Unavailable\r\n{}Retry-After: 30\r\nContent-Length: 0\r\n\r\n",
                lines.map(tagged).collect::<String>()
            );
            let _ = socket.send_to(answer.as_bytes(), from).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_has_died_is_skipped_at_once_and_used_again_when_it_is_back() {
    let called = Phone::start(outside().answering(AnswerPolicy::Auto(Duration::ZERO)));
    let called = called.await.expect("starts");
    let first = UdpSocket::bind("127.0.0.3:0").await.expect("a socket");
    let first_at = first.local_addr().expect("bound");
    let answered = Arc::new(Mutex::new(0));
    let mut answering = tokio::spawn(answer_options(first, answered.clone()));
    let mut config = config();
    config.sip.trunks = vec![Trunk {
        targets: vec![target(first_at, 0), target(called.address(), 1)],
        qualify: Some(Duration::from_secs(1)),
        ..site(&called)
    }];
    let fixture = SipFixture::open(config).await;
    let agent = fixture.phone(AGENT, AnswerPolicy::Never).await;
    eventually("it is asked", || *answered.lock().unwrap() >= 2).await;
    // Its port is closed: ICMP says so at the next OPTIONS.
    answering.abort();
    let _ = (&mut answering).await;
    tokio::time::timeout(SOON, async {
        while call_outside(&agent, &called).await > Duration::from_millis(900) {}
    })
    .await
    .expect("skipped");
    let back = UdpSocket::bind(first_at).await.expect("the same port");
    let invited = Arc::new(Mutex::new(0));
    tokio::spawn(answer_options_and_count_invites(back, invited.clone()));
    tokio::time::timeout(SOON, async {
        while *invited.lock().unwrap() == 0 {
            call_outside(&agent, &called).await;
        }
    })
    .await
    .expect("used again");
}

/// Answers OPTIONS, and counts them.
async fn answer_options(socket: UdpSocket, count: Arc<Mutex<u32>>) {
    let mut buffer = vec![0; 65_536];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if answer_one(&socket, &text, "OPTIONS ", "200 OK", from).await {
            *count.lock().unwrap() += 1;
        }
    }
}

async fn answer_options_and_count_invites(socket: UdpSocket, count: Arc<Mutex<u32>>) {
    let mut buffer = vec![0; 65_536];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        answer_one(&socket, &text, "OPTIONS ", "200 OK", from).await;
        if answer_one(&socket, &text, "INVITE ", "503 Service Unavailable", from).await {
            *count.lock().unwrap() += 1;
        }
    }
}

async fn answer_one(
    socket: &UdpSocket,
    request: &str,
    method: &str,
    status: &str,
    from: SocketAddr,
) -> bool {
    if !request.starts_with(method) {
        return false;
    }
    let kept = ["Via:", "From:", "To:", "Call-ID:", "CSeq:"];
    let lines = request.lines().filter(|line| kept.iter().any(|name| line.starts_with(name)));
    let tagged = |line: &str| match line.starts_with("To:") {
        true => format!("{line};tag=t\r\n"),
        false => format!("{line}\r\n"),
    };
    let lines: String = lines.map(tagged).collect();
    let answer = format!("SIP/2.0 {status}\r\n{lines}Content-Length: 0\r\n\r\n");
    socket.send_to(answer.as_bytes(), from).await.is_ok()
}

// ---- names

type Zone = Arc<Mutex<BTreeMap<(String, RecordType), Vec<RData>>>>;

/// A name server that knows this zone; what it does not know does not exist.
async fn name_server(zone: Zone) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let address = socket.local_addr().expect("bound");
    tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let Ok(query) = Message::from_vec(&buffer[..length]) else { continue };
            let mut answer = Message::response(query.metadata.id, OpCode::Query);
            answer.metadata.recursion_desired = true;
            answer.metadata.recursion_available = true;
            for question in &query.queries {
                let key = (question.name.to_ascii().to_lowercase(), question.query_type);
                let known = zone.lock().unwrap().get(&key).cloned().unwrap_or_default();
                if known.is_empty() {
                    answer.metadata.response_code = ResponseCode::NXDomain;
                }
                answer.queries.push(question.clone());
                let records = known.into_iter();
                let records =
                    records.map(|data| Record::from_rdata(question.name.clone(), 300, data));
                answer.answers.extend(records);
            }
            let bytes = answer.to_vec().expect("a message");
            let _ = socket.send_to(&bytes, from).await;
        }
    });
    address
}

fn know(zone: &Zone, name: &str, kind: RecordType, data: Vec<RData>) {
    zone.lock().unwrap().insert((name.to_owned(), kind), data);
}

fn service(priority: u16, port: u16, host: &str) -> RData {
    RData::SRV(SRV::new(priority, 1, port, Name::from_str(host).expect("a name")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trunk_is_found_by_srv_and_one_that_is_not_found_yet_is_no_reason_not_to_start() {
    let called = Phone::start(outside().answering(AnswerPolicy::Auto(Duration::ZERO)));
    let called = called.await.expect("starts");
    let zone = Zone::default();
    let mut config = config();
    config.sip.name_server = Some(name_server(zone.clone()).await);
    config.sip.trunks = vec![Trunk {
        targets: vec![TrunkTarget::new("pbx.test", None, Protocol::Udp)],
        sources: vec![TrunkSource::try_from("node.pbx.test".to_owned()).expect("a name")],
        first_response: Duration::from_secs(1),
        ..site(&called)
    }];
    let fixture = SipFixture::open(config).await;
    let agent = fixture.phone(AGENT, AnswerPolicy::Auto(Duration::ZERO)).await;
    agent.call("0123").await.expect("calls");
    let refused = |event: &_| *event == undertone::demo::phone::PhoneEvent::Refused(503);
    agent.until(refused, SOON).await.expect("nobody knows where it is");
    // Its name is entered now: a dead host first, and the living one behind it.
    let nobody = UdpSocket::bind("127.0.0.4:0").await.expect("a socket");
    let dead = nobody.local_addr().expect("bound").port();
    let host = |last| vec![RData::A(A(Ipv4Addr::new(127, 0, 0, last)))];
    know(&zone, "dead.pbx.test.", RecordType::A, host(4));
    know(&zone, "node.pbx.test.", RecordType::A, host(2));
    let hosts = vec![
        service(20, called.address().port(), "node.pbx.test."),
        service(10, dead, "dead.pbx.test."),
    ];
    know(&zone, "_sip._udp.pbx.test.", RecordType::SRV, hosts);
    let found = async {
        loop {
            agent.call("0123").await.expect("calls");
            if agent.established(Duration::from_secs(3)).await.is_ok() {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(40), found).await.expect("found");
    eventually("the agent hears outside", || level(&agent, hz(OUTSIDE)) > -30.0).await;
    agent.hang_up().await.expect("hangs up");
    called.ended(SOON).await.expect("over");
    // And what comes from the host of that name is the trunk's.
    let caller = PhoneConfig { server: fixture.address(), ..outside() };
    let caller = Phone::start(caller).await.expect("starts");
    caller.call("5001").await.expect("calls");
    caller.established(SOON).await.expect("answered");
    eventually("the agent hears outside", || level(&agent, hz(OUTSIDE)) > -30.0).await;
}

// ---- a registration

const KAMAILIO: &str = r#"
debug=2
log_stderror=yes
fork=yes
children=2
disable_tcp=yes
auto_aliases=no
listen=udp:127.0.0.1:PORT
loadmodule "tm.so"
loadmodule "sl.so"
loadmodule "rr.so"
loadmodule "pv.so"
loadmodule "siputils.so"
loadmodule "usrloc.so"
loadmodule "registrar.so"
loadmodule "auth.so"
loadmodule "textops.so"
modparam("registrar", "min_expires", 120)
request_route {
    if (is_method("REGISTER")) {
        if (!pv_www_authenticate("kamailio.test", "secret", "0")) {
            www_challenge("kamailio.test", "0");
            exit;
        }
        save("location");
        exit;
    }
    if (has_totag()) {
        loose_route();
        t_relay();
        exit;
    }
    if (is_method("CANCEL")) {
        t_relay();
        exit;
    }
    record_route();
    if (!lookup("location")) {
        sl_send_reply("404", "Not Found");
        exit;
    }
    t_relay();
}
"#;

/// A Kamailio, which ends with its handle.
struct Kamailio {
    address: SocketAddr,
    place: tempfile::TempDir,
    child: Child,
}

impl Kamailio {
    fn start() -> Kamailio {
        let place = tempfile::tempdir().expect("a folder");
        let port = free_port();
        let file = place.path().join("kamailio.cfg");
        fs::write(&file, KAMAILIO.replace("PORT", &port.to_string())).expect("written");
        let log = fs::File::create(place.path().join("log")).expect("a log");
        let child = Command::new("kamailio")
            .env("PATH", "/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin:/bin")
            .arg("-DD")
            .arg("-f")
            .arg(&file)
            .arg("-Y")
            .arg(place.path())
            .args(["-m", "64", "-M", "8"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| {
                panic!("kamailio does not start ({error}); ./test installs it")
            });
        Kamailio { address: SocketAddr::from(([127, 0, 0, 1], port)), place, child }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.place.path().join("log")).unwrap_or_default()
    }

    /// It ends its children itself, when it is asked to.
    async fn end(mut self) {
        if let Some(id) = self.child.id() {
            let id = nix::unistd::Pid::from_raw(id.try_into().expect("a process"));
            let _ = nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM);
        }
        let _ = tokio::time::timeout(SOON, self.child.wait()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn we_register_with_kamailio_and_are_called_there_until_we_stop() {
    let kamailio = Kamailio::start();
    let mut config = config();
    config.sip.trunks = vec![Trunk {
        sources: Vec::new(),
        prefixes: Vec::new(),
        registration: Some(Registration {
            user: "line".to_owned(),
            password: "secret".into(),
            realm: None,
            // Kamailio wants two minutes at least, and says so by granting them.
            expires: Duration::from_secs(60),
            contact_user: "5001".into(),
        }),
        ..Trunk::at("kamailio", kamailio.address, Protocol::Udp)
    }];
    let fixture = SipFixture::open(config).await;
    let agent = fixture.phone(AGENT, AnswerPolicy::Auto(Duration::ZERO)).await;
    let caller = Phone::start(PhoneConfig { server: kamailio.address, ..outside() });
    let caller = caller.await.expect("starts");
    let reached = async {
        loop {
            caller.call("line").await.expect("calls");
            if caller.established(Duration::from_secs(2)).await.is_ok() {
                break;
            }
        }
    };
    if tokio::time::timeout(Duration::from_secs(40), reached).await.is_err() {
        panic!("nobody is called: {}", kamailio.log());
    }
    eventually("the agent hears the caller", || level(&agent, hz(OUTSIDE)) > -30.0).await;
    eventually("the caller hears the agent", || level(&caller, hz(AGENT)) > -30.0).await;
    caller.hang_up().await.expect("hangs up");
    agent.ended(SOON).await.expect("over");
    let SipFixture { backend, line, .. } = fixture;
    drop(line);
    let since = clock::instant();
    backend.shutdown().await;
    assert!(since.elapsed() < Duration::from_secs(10));
    caller.call("line").await.expect("calls");
    let unknown = |event: &_| *event == undertone::demo::phone::PhoneEvent::Refused(404);
    caller.until(unknown, SOON).await.expect("Kamailio has forgotten us");
    kamailio.end().await;
}
