//! SIP over TLS on real sockets: phones, trunks that know each other by certificate, certificates
//! that are exchanged and connections that break while people talk.

use crate::support::cable::Cable;
use crate::support::certificates::{Certificates, DAY};
use crate::support::cometd_connection::Cut;
use crate::support::ports::free_port;
use crate::support::sip_fixture::{
    AGENT, CUSTOMER, OTHER, SOON, SipFixture, config, eventually, hz, level, table,
};
use crate::support::wait;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use undertone::clock;
use undertone::demo::phone::{AnswerPolicy, Phone, PhoneConfig, PhoneEvent, PhoneSrtp, PhoneTls};
use undertone::media::srtp::Suite;
use undertone::model::{LegState, Timestamp};
use undertone::sip::backend::BackendConfig;
use undertone::sip::config::{DeviceTransport, ListenAddress, SipAccount, Trunk, TrunkSource};
use undertone::sip::flow::Protocol;
use undertone::sip::sdp::SrtpPolicy;
use undertone::sip::transport::TransportTls;
use undertone::tls::{
    Alpn, ClientTls, ClientTlsFiles, KeyPairFiles, ServerTls, ServerTlsFiles, SubjectName,
};

const ANSWERS: AnswerPolicy = AnswerPolicy::Auto(Duration::ZERO);

/// Two switches of one authority.
const HERE: &str = "here.example";
const THERE: &str = "there.example";

fn names(name: &str) -> Vec<SubjectName> {
    vec![SubjectName::Host(name.to_owned())]
}

/// What a switch presents, and those it believes.
fn speaking(pair: KeyPairFiles, authorities: &Certificates) -> TransportTls {
    let client_authorities = Some(authorities.authority_file());
    let files = ServerTlsFiles { pair: pair.clone(), client_authorities };
    TransportTls {
        server: Some(Arc::new(ServerTls::load("sip", files, Alpn::None).expect("a fine pair"))),
        client: ClientTls::new(ClientTlsFiles {
            authorities: Some(authorities.authority_file()),
            pair: Some(pair),
        }),
    }
}

/// The people of the fixture behind a door over TLS.
fn over_tls(tls: TransportTls) -> BackendConfig {
    let mut config = config();
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    config.sip.listen.push(ListenAddress::new(Protocol::Tls, anywhere));
    config.sip.verifies_clients = true;
    config.tls = tls;
    config
}

fn door(certificates: &Certificates) -> BackendConfig {
    over_tls(speaking(certificates.server(), certificates))
}

fn tls_address(fixture: &SipFixture) -> SocketAddr {
    fixture.backend.local_addr(Protocol::Tls).expect("listens over TLS")
}

fn phone_tls(certificates: &Certificates, sips: bool) -> PhoneTls {
    PhoneTls { client: certificates.client(), name: "127.0.0.1".to_owned(), sips }
}

/// A phone that has registered over TLS.
async fn phone(fixture: &SipFixture, device: &str, answer: AnswerPolicy, tls: PhoneTls) -> Phone {
    registered(fixture, fixture.phone_config(device).answering(answer).over(tls)).await
}

async fn registered(fixture: &SipFixture, mut config: PhoneConfig) -> Phone {
    config.server = tls_address(fixture);
    let phone = Phone::start(config).await.expect("starts");
    phone.register().await.expect("registers");
    phone
}

/// The people of the fixture, whose sound is encrypted or not.
fn with_srtp(certificates: &Certificates, srtp: SrtpPolicy) -> BackendConfig {
    let mut config = door(certificates);
    for account in config.sip.accounts.iter_mut() {
        account.transport = DeviceTransport::Tls;
        account.srtp = srtp;
    }
    config
}

/// The keys that a phone has described, in order, each named once.
fn keys_of(phone: &Phone) -> Vec<String> {
    let mut keys: Vec<String> = Vec::new();
    for traced in phone.trace().into_iter().filter(|traced| traced.sent) {
        let lines = traced.text.lines().filter(|line| line.starts_with("a=crypto:"));
        for line in lines.map(str::to_owned) {
            let key = line.rsplit("inline:").next().map(str::to_owned).unwrap_or_default();
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    keys
}

/// A trunk to another switch at this address.
fn trunk(name: &str, address: SocketAddr) -> Trunk {
    let source = TrunkSource::new(address.ip().into(), None);
    Trunk {
        sources: vec![source],
        prefixes: vec!["0".into()],
        tls_name: Some(name.to_owned()),
        ..Trunk::at("site", address, Protocol::Tls)
    }
}

async fn both_are_heard((one, one_hz): (&Phone, f32), (other, other_hz): (&Phone, f32)) {
    eventually("the first hears the second", || level(one, other_hz) > -30.0).await;
    eventually("the second hears the first", || level(other, one_hz) > -30.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn phones_over_tls_talk_whether_they_register_sip_or_sips_uris() {
    for sips in [false, true] {
        let certificates = Certificates::new();
        let fixture = SipFixture::open(door(&certificates)).await;
        let tls = || phone_tls(&certificates, sips);
        let agent = phone(&fixture, AGENT, ANSWERS, tls()).await;
        let customer = phone(&fixture, CUSTOMER, AnswerPolicy::Never, tls()).await;
        customer.call("5001").await.expect("calls");
        customer.established(SOON).await.expect("answered");
        let phones = [(AGENT, &agent), (CUSTOMER, &customer)];
        table(&phones, &[(AGENT, CUSTOMER), (CUSTOMER, AGENT)]).await;
        agent.hang_up().await.expect("hangs up");
        customer.ended(SOON).await.expect("is told so");
        let contact = if sips { "Contact: <sips:" } else { ";transport=tls>" };
        let is_named = |traced: &undertone::demo::phone::Traced| {
            !traced.sent && traced.line == "200 OK (INVITE)" && traced.text.contains(contact)
        };
        assert!(customer.trace().iter().any(is_named), "sips: {sips}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_to_a_sips_uri_reaches_no_phone_that_is_there_in_clear() {
    let certificates = Certificates::new();
    let fixture = SipFixture::open(door(&certificates)).await;
    let agent = fixture.phone(AGENT, ANSWERS).await;
    let customer =
        phone(&fixture, CUSTOMER, AnswerPolicy::Never, phone_tls(&certificates, true)).await;
    customer.call("5001").await.expect("calls");
    customer.until(|event| *event == PhoneEvent::Refused(480), SOON).await.expect("refused");
    let called = |event: &PhoneEvent| matches!(event, PhoneEvent::Incoming { .. });
    assert!(!agent.events().iter().any(|happened| called(&happened.event)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_over_tls_does_not_register_in_clear() {
    let certificates = Certificates::new();
    let mut config = door(&certificates);
    let agent = config.sip.accounts.iter_mut().find(|account| account.device.as_str() == AGENT);
    agent.expect("is there").transport = DeviceTransport::Tls;
    let fixture = SipFixture::open(config).await;
    let in_clear = Phone::start(fixture.phone_config(AGENT)).await.expect("starts");
    let refused = in_clear.register().await.expect_err("is refused");
    assert_eq!(refused.to_string(), "refused with 403");
    phone(&fixture, AGENT, ANSWERS, phone_tls(&certificates, false)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_trusts_no_other_authority_and_none_comes_in_with_another_certificate() {
    let (certificates, others) = (Certificates::new(), Certificates::new());
    let fixture = SipFixture::open(door(&certificates)).await;
    let start = async |tls: PhoneTls| {
        let mut config = fixture.phone_config(AGENT).over(tls);
        config.server = tls_address(&fixture);
        let phone = Phone::start(config).await?;
        tokio::time::timeout(SOON, phone.register()).await.expect("in time")
    };
    assert!(start(phone_tls(&others, false)).await.is_err(), "another authority");
    let mut elsewhere = phone_tls(&certificates, false);
    elsewhere.name = "elsewhere.example".to_owned();
    assert!(start(elsewhere).await.is_err(), "another name");
    // Without a certificate a phone is known by its password.
    start(phone_tls(&certificates, false)).await.expect("registers");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_exchanged_under_calls_and_none_of_them_ends() {
    let certificates = Certificates::new();
    let config = door(&certificates);
    let server = config.tls.server.clone().expect("listens over TLS");
    let mut fixture = SipFixture::open(config).await;
    let tls = || phone_tls(&certificates, false);
    let agent = phone(&fixture, AGENT, ANSWERS, tls()).await;
    let customer = phone(&fixture, CUSTOMER, AnswerPolicy::Never, tls()).await;
    customer.call("5001").await.expect("calls");
    customer.established(SOON).await.expect("answered");
    fixture.state(AGENT, LegState::Established).await;
    let at = tls_address(&fixture);
    let before = certificates.presented(at).await;
    certificates.server();
    server.refresh(false);
    let after = certificates.presented(at).await;
    assert_ne!(before, after, "new connections are shown the new certificate");
    // A pair that is wrong changes nothing.
    let pair = certificates.server();
    fs::write(&pair.certificate, "no certificate").expect("written");
    server.refresh(false);
    assert_eq!(certificates.presented(at).await, after);
    both_are_heard((&agent, hz(AGENT)), (&customer, hz(CUSTOMER))).await;
    agent.hold().await.expect("by the connection of before");
    agent.retrieve().await.expect("by the connection of before");
    let ended = |event: &PhoneEvent| matches!(event, PhoneEvent::Ended { .. });
    assert!(!customer.events().iter().any(|happened| ended(&happened.event)), "no call is dropped");
    customer.hang_up().await.expect("hangs up");
    agent.ended(SOON).await.expect("is told so");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_authority_is_taken_away_loses_its_connection_and_no_other_does() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let certificates = Certificates::new();
    let config = door(&certificates);
    let server = config.tls.server.clone().expect("listens over TLS");
    let fixture = SipFixture::open(config).await;
    let at = tls_address(&fixture);
    let connect = async |pair: Option<KeyPairFiles>| {
        let authorities = Some(certificates.authority_file());
        let client = ClientTls::new(ClientTlsFiles { authorities, pair });
        let stream = tokio::net::TcpStream::connect(at).await.expect("connects");
        client.connect("127.0.0.1", stream, &[]).await.expect("shakes hands")
    };
    let pair = certificates.issue("there", &names(THERE));
    let (mut known, mut stranger) = (connect(Some(pair)).await, connect(None).await);
    let mut pong = [0; 2];
    for stream in [&mut known, &mut stranger] {
        stream.write_all(b"\r\n\r\n").await.expect("asks");
        stream.read_exact(&mut pong).await.expect("is answered");
    }
    fs::write(certificates.authority_file(), "").expect("written");
    server.refresh(true);
    let read = tokio::time::timeout(SOON, known.read(&mut pong)).await.expect("is closed soon");
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    stranger.write_all(b"\r\n\r\n").await.expect("asks");
    stranger.read_exact(&mut pong).await.expect("is answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_outlives_the_connection_of_its_phone_and_is_ended_from_both_sides() {
    for agent_ends in [true, false] {
        let certificates = Certificates::new();
        let fixture = SipFixture::open(door(&certificates)).await;
        let tls = || phone_tls(&certificates, false);
        let agent = phone(&fixture, AGENT, ANSWERS, tls()).await;
        let customer = phone(&fixture, CUSTOMER, AnswerPolicy::Never, tls()).await;
        customer.call("5001").await.expect("calls");
        customer.established(SOON).await.expect("answered");
        both_are_heard((&agent, hz(AGENT)), (&customer, hz(CUSTOMER))).await;
        let since = clock::instant();
        agent.disconnect(true).await.expect("breaks");
        eventually("the sound goes on", || {
            agent.received(since).len() > 25 && customer.received(since).len() > 25
        })
        .await;
        match agent_ends {
            // It says so by a connection of its own, without having registered again.
            true => {
                agent.hang_up().await.expect("hangs up");
                customer.ended(SOON).await.expect("is told so");
            }
            // That is said as soon as the phone is back.
            false => {
                customer.hang_up().await.expect("hangs up");
                agent.register().await.expect("registers again");
                agent.ended(SOON).await.expect("is told so");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn phones_with_srtp_talk_by_each_suite_and_on_after_a_hold_with_other_keys_or_the_same() {
    for (suite, rekeys) in
        Suite::ALL.into_iter().flat_map(|suite| [false, true].map(|rekeys| (suite, rekeys)))
    {
        let certificates = Certificates::new();
        let fixture = SipFixture::open(with_srtp(&certificates, SrtpPolicy::Required)).await;
        let phone = async |device: &str, answer| {
            let srtp = PhoneSrtp { suites: vec![suite], rekeys };
            let config = fixture.phone_config(device).over(phone_tls(&certificates, false));
            registered(&fixture, config.answering(answer).encrypting(srtp)).await
        };
        let agent = phone(AGENT, ANSWERS).await;
        let customer = phone(CUSTOMER, AnswerPolicy::Never).await;
        customer.call("5001").await.expect("calls");
        customer.established(SOON).await.expect("answered");
        let phones = [(AGENT, &agent), (CUSTOMER, &customer)];
        table(&phones, &[(AGENT, CUSTOMER), (CUSTOMER, AGENT)]).await;
        agent.hold().await.expect("accepted");
        table(&phones, &[(CUSTOMER, AGENT)]).await;
        agent.retrieve().await.expect("accepted");
        table(&phones, &[(AGENT, CUSTOMER), (CUSTOMER, AGENT)]).await;
        // An answer, and two offers.
        let expected = if rekeys { 3 } else { 1 };
        assert_eq!(keys_of(&agent).len(), expected, "{suite:?}, rekeys: {rekeys}");
        for phone in [&agent, &customer] {
            let counts = phone.srtp().expect("it has SRTP");
            assert!(counts.encrypted > 0, "{counts:?}");
            assert!(rekeys || counts.rejected == 0, "{suite:?}: {counts:?}");
        }
        agent.hang_up().await.expect("hangs up");
        customer.ended(SOON).await.expect("is told so");
        let since = clock::instant();
        customer.call("5001").await.expect("calls again");
        customer.established(SOON).await.expect("answered");
        eventually("the next call has keys of its own", || {
            level(&customer, hz(AGENT)) > -30.0 && customer.received(since).len() > 10
        })
        .await;
        assert!(keys_of(&agent).len() > expected, "{suite:?}, rekeys: {rekeys}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_with_srtp_neither_calls_nor_answers_in_clear_and_one_without_not_encrypted() {
    let certificates = Certificates::new();
    for (policy, has_srtp) in [(SrtpPolicy::Off, true), (SrtpPolicy::Required, false)] {
        let mut config = with_srtp(&certificates, policy);
        // The other one gets along with its own line.
        for account in config.sip.accounts.iter_mut() {
            if account.device.as_str() == CUSTOMER {
                account.srtp = SrtpPolicy::Optional;
            }
        }
        let fixture = SipFixture::open(config).await;
        let phone = async |device: &str| {
            let mut config = fixture.phone_config(device).over(phone_tls(&certificates, false));
            config.srtp = has_srtp.then(PhoneSrtp::default);
            registered(&fixture, config.answering(ANSWERS)).await
        };
        let (agent, customer) = (phone(AGENT).await, phone(CUSTOMER).await);
        for (caller, number) in [(&agent, "7001"), (&customer, "5001")] {
            caller.call(number).await.expect("calls");
            let refused = |event: &PhoneEvent| *event == PhoneEvent::Refused(488);
            caller.until(refused, SOON).await.expect("refused");
        }
        let established = |phone: &Phone| {
            phone.events().iter().any(|happened| happened.event == PhoneEvent::Established)
        };
        assert!(!established(&agent) && !established(&customer), "{policy:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_comes_back_at_once_is_called_again() {
    let certificates = Certificates::new();
    let fixture = SipFixture::open(door(&certificates)).await;
    let agent = phone(&fixture, AGENT, ANSWERS, phone_tls(&certificates, false)).await;
    let caller = fixture.phone(OTHER, AnswerPolicy::Never).await;
    let registered = |event: &PhoneEvent| *event == PhoneEvent::Registered(true);
    agent.until(registered, SOON).await.expect("the first time");
    agent.disconnect(false).await.expect("breaks");
    agent.until(registered, SOON).await.expect("by another connection");
    caller.call("5001").await.expect("calls");
    caller.established(SOON).await.expect("answered");
}

/// Two switches, each a trunk of the other over TLS, and a cable from `here` to `there`.
struct Two {
    here: SipFixture,
    there: SipFixture,
    cable: Cable,
    agent: Phone,
    outside: Phone,
    certificates: Certificates,
}

impl Two {
    async fn start() -> Two {
        let certificates = Certificates::new();
        let pair = |name: &str| certificates.issue(name, &names(name));
        let mut there = over_tls(speaking(pair(THERE), &certificates));
        let listens = SocketAddr::from(([127, 0, 0, 1], free_port()));
        // It calls nobody here, but says there what belongs to a call.
        there.sip.trunks = vec![Trunk { prefixes: Vec::new(), ..trunk(HERE, listens) }];
        // The host of its URIs is that of the cable.
        there.sip.domains = vec!["127.0.0.1".to_owned()];
        let customer = SipAccount::new(CUSTOMER.into(), "07001".into(), "undertone", "secret");
        there.sip.accounts = [customer].into_iter().collect();
        let there = SipFixture::open(there).await;
        let cable = Cable::to(tls_address(&there)).await;
        let mut here = over_tls(speaking(pair(HERE), &certificates));
        here.sip.trunks = vec![trunk(THERE, cable.address)];
        here.sip.listen.retain(|listen| listen.protocol != Protocol::Tls);
        here.sip.listen.push(ListenAddress::new(Protocol::Tls, listens));
        let here = SipFixture::open(here).await;
        let agent = here.phone(AGENT, ANSWERS).await;
        let mut config = there.phone_config(CUSTOMER).answering(ANSWERS);
        config.number = "07001".to_owned();
        let outside = Phone::start(config).await.expect("starts");
        Two { here, there, cable, agent, outside, certificates }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_switches_call_each_other_over_tls_and_a_call_outlives_the_connection_between_them() {
    for outside_ends in [true, false] {
        let mut two = Two::start().await;
        two.outside.register().await.expect("registers");
        two.agent.call("07001").await.expect("calls");
        two.agent.established(SOON).await.expect("answered");
        two.here.state(AGENT, LegState::Established).await;
        both_are_heard((&two.agent, hz(AGENT)), (&two.outside, hz(CUSTOMER))).await;
        // What is in the files meanwhile is for nobody.
        fs::write(two.certificates.authority_file(), "").expect("written");
        two.cable.cut(Cut::Rst).await;
        let since = clock::instant();
        eventually("the sound goes on", || {
            two.agent.received(since).len() > 25 && two.outside.received(since).len() > 25
        })
        .await;
        let (ends, hears) = match outside_ends {
            true => (&two.outside, &two.agent),
            false => (&two.agent, &two.outside),
        };
        ends.hang_up().await.expect("hangs up");
        hears.ended(SOON).await.expect("is told so, by another connection");
        // The trunk is there again for the next call.
        two.agent.call("07001").await.expect("calls");
        two.agent.established(SOON).await.expect("answered");
        drop(two.there);
    }
}

/// A server over TLS that takes any client and counts the bytes that it is told.
struct Impostor {
    address: SocketAddr,
    told: Arc<AtomicUsize>,
}

impl Impostor {
    async fn start(pair: &KeyPairFiles) -> Impostor {
        undertone::tls::install_provider();
        let certificate = CertificateDer::from_pem_file(&pair.certificate).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(&pair.key).expect("a key");
        let config = ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(vec![certificate], key).expect("they belong together");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let told = Arc::<AtomicUsize>::default();
        let counter = told.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, counter) = (acceptor.clone(), counter.clone());
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let mut bytes = [0; 4096];
                    while let Ok(size @ 1..) = stream.read(&mut bytes).await {
                        counter.fetch_add(size, Ordering::SeqCst);
                    }
                });
            }
        });
        Impostor { address, told }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trunk_is_told_nothing_unless_its_certificate_is_valid_and_has_its_name() {
    let (certificates, others) = (Certificates::new(), Certificates::new());
    let month_ago = Timestamp(clock::wall().0 - 30 * DAY.as_millis() as u64);
    let uri = |uri: &str| vec![SubjectName::Uri(uri.to_owned())];
    let fine = certificates.issue("fine", &names(THERE));
    for (what, pair, is_told) in [
        ("fine", fine, true),
        ("a URI of its domain", certificates.issue("uri", &uri("sip:there.example")), true),
        ("another authority", others.issue("other", &names(THERE)), false),
        ("expired", certificates.issue_at("old", &names(THERE), month_ago, DAY), false),
        ("another name", certificates.issue("name", &names("elsewhere.example")), false),
        ("a name below", certificates.issue("below", &names("a.there.example")), false),
        ("a wildcard", certificates.issue("wildcard", &names("*.there.example")), false),
        ("a URI of a user", certificates.issue("user", &uri("sip:a@there.example")), false),
    ] {
        let impostor = Impostor::start(&pair).await;
        let mut config = over_tls(speaking(certificates.issue(HERE, &names(HERE)), &certificates));
        config.sip.trunks = vec![trunk(THERE, impostor.address)];
        let fixture = SipFixture::open(config).await;
        let agent = fixture.phone(AGENT, ANSWERS).await;
        agent.call("07001").await.expect("calls");
        match is_told {
            true => {
                let told = async || (impostor.told.load(Ordering::SeqCst) > 0).then_some(());
                wait::found(SOON, told).await.unwrap_or_else(|| panic!("{what}: is called"));
            }
            false => {
                let refused = |event: &PhoneEvent| matches!(event, PhoneEvent::Refused(_));
                agent.until(refused, SOON).await.unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!(impostor.told.load(Ordering::SeqCst), 0, "{what}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_is_the_trunk_only_with_a_certificate_of_its_name() {
    let (certificates, others) = (Certificates::new(), Certificates::new());
    let mut config = door(&certificates);
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
    config.sip.trunks = vec![Trunk { prefixes: Vec::new(), ..trunk(THERE, nowhere) }];
    let fixture = SipFixture::open(config).await;
    let _agent = fixture.phone(AGENT, AnswerPolicy::Busy).await;
    let at = tls_address(&fixture);
    let caller = |pair: Option<KeyPairFiles>| {
        ClientTls::new(ClientTlsFiles { authorities: Some(certificates.authority_file()), pair })
    };
    for (what, pair, expected) in [
        ("its own", Some(certificates.issue("its", &names(THERE))), "SIP/2.0 486"),
        ("none", None, "SIP/2.0 401"),
        ("another's", Some(certificates.issue("another", &names(HERE))), "SIP/2.0 401"),
        ("another authority's", Some(others.issue("other", &names(THERE))), ""),
    ] {
        let stream = TcpStream::connect(at).await.expect("connects");
        let stream = caller(pair).connect("127.0.0.1", stream, &[]).await;
        let mut stream = stream.expect("TLS 1.3 judges clients after the handshake");
        let sound = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
                     m=audio 40000 RTP/AVP 0\r\n";
        let invite = format!(
            "INVITE sip:5001@{at} SIP/2.0\r\nVia: SIP/2.0/TLS 127.0.0.1:5061;branch=z9hG4bK{}\r\n\
             From: <sip:0123@there.example>;tag=a\r\nTo: <sip:5001@{at}>\r\nCall-ID: {}\r\n\
             CSeq: 1 INVITE\r\nMax-Forwards: 70\r\nContact: <sip:there.example;transport=tls>\r\n\
             Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{sound}",
            what.replace(' ', ""),
            what.replace(' ', ""),
            sound.len()
        );
        let (mut heard, mut bytes) = (String::new(), [0; 4096]);
        let _ = stream.write_all(invite.as_bytes()).await;
        let answered = async {
            while let Ok(size @ 1..) = stream.read(&mut bytes).await {
                heard += &String::from_utf8_lossy(&bytes[..size]);
                if heard.contains(" 4") {
                    return;
                }
            }
        };
        tokio::time::timeout(SOON, answered).await.expect("answered, or closed");
        assert!(
            heard.contains(expected) && expected.is_empty() == heard.is_empty(),
            "{what}: {heard}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_shake_hands_has_a_place_among_its_address_for_a_while_and_then_none() {
    let certificates = Certificates::new();
    let mut config = door(&certificates);
    config.sip.limits.strangers_per_source = 2;
    config.sip.limits.message_deadline = Duration::from_secs(2);
    let fixture = SipFixture::open(config).await;
    let at = tls_address(&fixture);
    let ends = async |mut stream: TcpStream| {
        let mut bytes = [0; 64];
        let read = tokio::time::timeout(SOON, stream.read(&mut bytes)).await.expect("is closed");
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
        clock::instant()
    };
    let mut silent = Vec::new();
    for _ in 0..2 {
        silent.push(TcpStream::connect(at).await.expect("connects"));
    }
    let third = TcpStream::connect(at).await.expect("connects");
    let (refused, given_up) = (ends(third).await, ends(silent.remove(0)).await);
    assert!(given_up > refused, "the newest is refused, and later the eldest given up");
    ends(silent.remove(0)).await;
    phone(&fixture, AGENT, ANSWERS, phone_tls(&certificates, false)).await;
}
