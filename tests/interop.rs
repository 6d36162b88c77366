//! Against programs that others wrote: SIPp as customer and as agent, baresip as supervisor and as
//! agent. What they send is real audio, and what they received is looked at: from the WAV files
//! baresip records, and for SIPp, which records nothing, from the wire.

mod call_data;
mod programs;
mod tap;
mod trunk_identity;

use crate::interop::programs::{Baresip, Sipp, folder, openssl_says};
use crate::interop::tap::Tap;
use crate::support::certificates::Certificates;
use crate::support::server::{AGENT, Account, COLLEAGUE, CUSTOMER, SUPERVISOR, Server};
use crate::support::wait;
use serde_json::{Value, json};
use std::time::Duration;
use undertone::clock;
use undertone::demo::phone::audio::{Companding, level, peak};
use undertone::demo::phone::{Phone, PhoneConfig};

const CUSTOMER_HZ: f32 = 437.0;
const AGENT_HZ: f32 = 613.0;
const SUPERVISOR_HZ: f32 = 1021.0;
const COLLEAGUE_HZ: f32 = 1327.0;
/// The programs speak at −16 dBFS; a recording also has the time before the supervisor came.
const HEARD: f32 = -26.0;
const SILENT: f32 = -50.0;
const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn sipp_as_agent_hears_the_whisper_of_baresip_and_sipp_as_customer_does_not() {
    let server = Server::start().await;
    let place = folder();
    let tap = Tap::start();
    Sipp::register(&server, AGENT, &place).await;
    let agent = Sipp::agent(&server, AGENT, AGENT_HZ, &place);
    let supervisor = Baresip::start(&server, SUPERVISOR, SUPERVISOR_HZ, &place);
    server.registered(AGENT).await;
    server.registered(SUPERVISOR).await;
    server.coach(json!({})).await;
    let customer = customer(&server, 5, &place);
    let customer_port = customer.finished(SOON).await;
    let agent_port = agent.finished(SOON).await;
    let recorded = supervisor.finished().await;
    let heard = tap.finish();

    let at_agent = heard.samples_to(agent_port);
    assert!(
        peak(&at_agent, SUPERVISOR_HZ) > HEARD,
        "the whisper is at the agent: {}",
        peak(&at_agent, SUPERVISOR_HZ)
    );
    assert!(
        level(&at_agent, CUSTOMER_HZ) > HEARD,
        "and so is the customer: {}",
        level(&at_agent, CUSTOMER_HZ)
    );
    let at_customer = heard.samples_to(customer_port);
    assert!(
        level(&at_customer, AGENT_HZ) > HEARD,
        "the agent is at the customer: {}",
        level(&at_customer, AGENT_HZ)
    );
    assert!(
        peak(&at_customer, SUPERVISOR_HZ) < SILENT,
        "the whisper is not: {}",
        peak(&at_customer, SUPERVISOR_HZ)
    );
    assert!(
        peak(&recorded, CUSTOMER_HZ) > HEARD && peak(&recorded, AGENT_HZ) > HEARD,
        "the supervisor hears both"
    );
    assert!(peak(&recorded, SUPERVISOR_HZ) < SILENT, "and not himself");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_sipp_sends_in_g729_arrives_octet_by_octet_at_a_phone_that_has_it() {
    let server = Server::start().await;
    let place = folder();
    let mut config = PhoneConfig::new(AGENT.number, AGENT.password, server.sip, AGENT_HZ);
    config.laws = vec![Companding::Mu, Companding::Opaque];
    let agent = Phone::start(config).await.unwrap();
    agent.register().await.unwrap();
    let (since, talk) = (clock::instant(), Duration::from_secs(2));
    let number = AGENT.number;
    let scenario = "customer_g729";
    let customer =
        Sipp::customer_as(scenario, &server, CUSTOMER, number, CUSTOMER_HZ, talk, &place);
    customer.finished(SOON).await;
    let file = place.path().join(CUSTOMER.number).join("tone.ulaw");
    let sent = std::fs::read(file).unwrap();
    let received = agent.payloads(since).concat();
    assert!(received.len() > 20 * 50, "{}", received.len());
    assert_eq!(received, sent[..received.len()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn baresip_in_srtp_as_agent_and_supervisor_and_sipp_in_clear_as_customer() {
    let server = Server::with_srtp(&[AGENT, SUPERVISOR], "required").await;
    let place = folder();
    let tap = Tap::start();
    let secure = "audio_codecs=pcmu/8000/1;mediaenc=srtp-mand";
    let agent = Baresip::start_as(secure, "srtp.so", &server, AGENT, AGENT_HZ, &place);
    let supervisor =
        Baresip::start_as(secure, "srtp.so", &server, SUPERVISOR, SUPERVISOR_HZ, &place);
    server.registered(AGENT).await;
    server.registered(SUPERVISOR).await;
    server.coach(json!({"supervisorMonitoringMode": "NextCall"})).await;
    let customer = customer(&server, 5, &place);
    let customer_port = customer.finished(SOON).await;
    let at_agent = agent.finished().await;
    let at_supervisor = supervisor.finished().await;
    let at_customer = tap.finish().samples_to(customer_port);
    assert!(peak(&at_agent, SUPERVISOR_HZ) > HEARD && peak(&at_agent, CUSTOMER_HZ) > HEARD);
    assert!(peak(&at_supervisor, CUSTOMER_HZ) > HEARD && peak(&at_supervisor, AGENT_HZ) > HEARD);
    assert!(level(&at_customer, AGENT_HZ) > HEARD, "the customer hears the agent in clear");
    assert!(peak(&at_customer, SUPERVISOR_HZ) < SILENT);
    let media = server.running.backend().unwrap().media();
    // baresip drops its keys before it says goodbye: its RTCP BYE is in clear, and refused where it
    // comes before the leg is gone.
    let goodbyes = 2;
    assert!(media.srtp_rejected <= goodbyes && media.srtp_replayed == 0, "{media:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn baresips_over_tls_with_srtp_are_coached_and_nobody_hears_whom_they_may_not() {
    let certificates = Certificates::new();
    let server = Server::with_tls(&[AGENT, SUPERVISOR, CUSTOMER], &certificates).await;
    let place = folder();
    let secure = "audio_codecs=pcmu/8000/1;mediaenc=srtp-mand";
    let start = |account, hz| Baresip::start_as(secure, "srtp.so", &server, account, hz, &place);
    let agent = start(AGENT, AGENT_HZ);
    let supervisor = start(SUPERVISOR, SUPERVISOR_HZ);
    let customer = start(CUSTOMER, CUSTOMER_HZ);
    for account in [AGENT, SUPERVISOR, CUSTOMER] {
        server.registered(account).await;
    }
    server.coach(json!({"supervisorMonitoringMode": "NextCall"})).await;
    let (address, _) = server.sip_tls.clone().expect("listens over TLS");
    let agents = format!("sip:{}@{address};transport=tls", AGENT.number);
    customer.does("dial", &agents).await;
    let backend = server.running.backend().unwrap();
    wait::found(SOON, async || (backend.media().mixed >= 300).then_some(()))
        .await
        .unwrap_or_else(|| panic!("{:?}", backend.media()));
    let at_customer = customer.finished().await;
    let at_agent = agent.finished().await;
    let at_supervisor = supervisor.finished().await;
    assert!(peak(&at_agent, SUPERVISOR_HZ) > HEARD && peak(&at_agent, CUSTOMER_HZ) > HEARD);
    assert!(peak(&at_supervisor, CUSTOMER_HZ) > HEARD && peak(&at_supervisor, AGENT_HZ) > HEARD);
    assert!(peak(&at_customer, AGENT_HZ) > HEARD && peak(&at_customer, SUPERVISOR_HZ) < SILENT);
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_is_answered_over_tls_1_2_and_1_3_and_not_below() {
    let certificates = Certificates::new();
    let server = Server::with_tls(&[AGENT], &certificates).await;
    let (address, authority) = server.sip_tls.clone().expect("listens over TLS");
    for (version, is_answered) in [("-tls1_1", false), ("-tls1_2", true), ("-tls1_3", true)] {
        let options = format!(
            "OPTIONS sip:{address} SIP/2.0\r\nVia: SIP/2.0/TLS 127.0.0.1;branch=z9hG4bKa\r\n\
             From: <sip:a@127.0.0.1>;tag=a\r\nTo: <sip:{address}>\r\nCall-ID: a{version}\r\n\
             CSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
        );
        let answer = openssl_says(address, &authority, version, &options).await;
        assert_eq!(answer.contains("SIP/2.0 200"), is_answered, "{version}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn baresip_without_srtp_is_not_called_where_it_is_required() {
    let server = Server::with_srtp(&[AGENT], "required").await;
    let place = folder();
    let agent = Baresip::start(&server, AGENT, AGENT_HZ, &place);
    let customer = Baresip::start(&server, CUSTOMER, CUSTOMER_HZ, &place);
    server.registered(AGENT).await;
    server.registered(CUSTOMER).await;
    let address = format!("sip:{}@{}", AGENT.number, server.sip);
    customer.does("dial", &address).await;
    let refused = customer.says("488").await;
    assert!(refused, "the call is refused as not acceptable");
    assert_eq!(server.running.backend().unwrap().media().sent, 0, "nothing was sent in clear");
    drop(agent);
}

#[tokio::test(flavor = "multi_thread")]
async fn three_baresips_with_opus_or_g722_hear_whom_they_may_and_the_customer_what_the_agent_sent()
{
    for (codec, module) in [("opus/48000/2", "opus.so"), ("g722/16000/1", "g722.so")] {
        let server = Server::start().await;
        let place = folder();
        let speaks = format!("audio_codecs={codec}");
        let start = |account, hz| Baresip::start_as(&speaks, module, &server, account, hz, &place);
        let agent = start(AGENT, AGENT_HZ);
        let supervisor = start(SUPERVISOR, SUPERVISOR_HZ);
        let customer = start(CUSTOMER, CUSTOMER_HZ);
        for account in [AGENT, SUPERVISOR, CUSTOMER] {
            server.registered(account).await;
        }
        server.coach(json!({"supervisorMonitoringMode": "NextCall"})).await;
        customer.does("dial", &format!("sip:{}@{}", AGENT.number, server.sip)).await;
        let backend = server.running.backend().unwrap();
        wait::found(SOON, async || (backend.media().mixed >= 300).then_some(()))
            .await
            .unwrap_or_else(|| panic!("{codec}: {:?}", backend.media()));
        let media = backend.media();
        assert_eq!((media.transcoded, media.leak_guards), (0, 0), "{codec}");
        assert!(
            media.unchanged > 100,
            "{codec}: the agent's packets reach the customer as they were"
        );
        let at_customer = customer.finished().await;
        let at_agent = agent.finished().await;
        let at_supervisor = supervisor.finished().await;
        let heard = |samples: &[i16], hz: f32, who: &str| {
            assert!(peak(samples, hz) > HEARD, "{codec}: {who}: {}", peak(samples, hz))
        };
        heard(&at_agent, SUPERVISOR_HZ, "the whisper at the agent");
        heard(&at_agent, CUSTOMER_HZ, "the customer at the agent");
        heard(&at_customer, AGENT_HZ, "the agent at the customer");
        heard(&at_supervisor, AGENT_HZ, "the agent at the supervisor");
        heard(&at_supervisor, CUSTOMER_HZ, "the customer at the supervisor");
        assert!(
            peak(&at_customer, SUPERVISOR_HZ) < SILENT,
            "{codec}: {}",
            peak(&at_customer, SUPERVISOR_HZ)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn baresip_as_agent_records_the_whisper_and_sipp_as_customer_never_gets_it() {
    let server = Server::start().await;
    let place = folder();
    let tap = Tap::start();
    let agent = Baresip::start(&server, AGENT, AGENT_HZ, &place);
    let supervisor = Baresip::start(&server, SUPERVISOR, SUPERVISOR_HZ, &place);
    server.registered(AGENT).await;
    server.registered(SUPERVISOR).await;
    server.coach(json!({"supervisorMonitoringMode": "NextCall"})).await;
    let customer = customer(&server, 5, &place);
    let customer_port = customer.finished(SOON).await;
    let at_agent = agent.finished().await;
    let at_supervisor = supervisor.finished().await;
    let at_customer = tap.finish().samples_to(customer_port);

    assert!(
        peak(&at_agent, SUPERVISOR_HZ) > HEARD,
        "the whisper is in the agent's recording: {}",
        peak(&at_agent, SUPERVISOR_HZ)
    );
    assert!(peak(&at_agent, CUSTOMER_HZ) > HEARD, "and so is the customer");
    assert!(peak(&at_agent, AGENT_HZ) < SILENT, "and not himself");
    assert!(
        peak(&at_supervisor, CUSTOMER_HZ) > HEARD && peak(&at_supervisor, AGENT_HZ) > HEARD,
        "the supervisor hears both"
    );
    assert!(
        level(&at_customer, AGENT_HZ) > HEARD,
        "the agent is at the customer: {}",
        level(&at_customer, AGENT_HZ)
    );
    assert!(
        peak(&at_customer, SUPERVISOR_HZ) < SILENT,
        "the whisper is not: {}",
        peak(&at_customer, SUPERVISOR_HZ)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn baresip_dials_a_feature_code_and_its_keys_decide_who_hears_it() {
    let server = Server::configured("[feature_codes]\nenabled = true\n").await;
    let place = folder();
    let tap = Tap::start();
    let agent = Baresip::start(&server, AGENT, AGENT_HZ, &place);
    let supervisor = Baresip::start(&server, SUPERVISOR, SUPERVISOR_HZ, &place);
    server.registered(AGENT).await;
    server.registered(SUPERVISOR).await;
    let customer = customer(&server, 9, &place);
    until(&server, AGENT, &["Established"]).await;
    supervisor.does("dial", &format!("sip:*81{}@{}", AGENT.number, server.sip)).await;
    until(&server, SUPERVISOR, &["Established"]).await;
    talk(1500).await;
    let coached = tap.finish();
    let tap = Tap::start();
    supervisor.does("sndcode", "6").await;
    let switched = wait::found(SOON, async || {
        server.audit().iter().any(|line| line["operation"] == "SwitchToBargeIn").then_some(())
    });
    switched.await.unwrap_or_else(|| panic!("{:?}", server.audit()));
    talk(1500).await;
    supervisor.does("sndcode", "4").await;
    talk(1000).await;
    let customer_port = customer.finished(SOON).await;
    let at_agent = agent.finished().await;
    let at_supervisor = supervisor.finished().await;
    let before = coached.samples_to(customer_port);
    let after = tap.finish().samples_to(customer_port);
    has("the customer while coached", &before, &[(AGENT_HZ, true), (SUPERVISOR_HZ, false)]);
    has("the customer after the key", &after, &[(AGENT_HZ, true), (SUPERVISOR_HZ, true)]);
    has("the agent", &at_agent, &[(CUSTOMER_HZ, true), (SUPERVISOR_HZ, true)]);
    has("the supervisor", &at_supervisor, &[(CUSTOMER_HZ, true), (AGENT_HZ, true)]);
    let operations: Vec<_> = server
        .audit()
        .iter()
        .filter_map(|line| Some(line["operation"].as_str()?.to_owned()))
        .collect();
    assert_eq!(operations, ["Coach", "SwitchToBargeIn", "SwitchToListenIn"]);
}

/// What the two above rest on: had the supervisor been let through to the customer, the recording
/// would show it.
#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_who_barges_in_is_found_in_what_sipp_gets_as_customer() {
    let server = Server::start().await;
    let place = folder();
    let tap = Tap::start();
    let _agent = Baresip::start(&server, AGENT, AGENT_HZ, &place);
    let _supervisor = Baresip::start(&server, SUPERVISOR, SUPERVISOR_HZ, &place);
    server.registered(AGENT).await;
    server.registered(SUPERVISOR).await;
    server.coach(json!({"operationName": "BargeIn"})).await;
    let customer = customer(&server, 3, &place);
    let at_customer = tap_after(customer, tap).await;
    assert!(
        peak(&at_customer, SUPERVISOR_HZ) > HEARD,
        "he is heard: {}",
        peak(&at_customer, SUPERVISOR_HZ)
    );
}

async fn tap_after(customer: Sipp, tap: Tap) -> Vec<i16> {
    let port = customer.finished(SOON).await;
    tap.finish().samples_to(port)
}

/// How much of a tone somebody got.
fn has(who: &str, samples: &[i16], tones: &[(f32, bool)]) {
    for (hz, wanted) in tones {
        let loudest = peak(samples, *hz);
        assert!(
            if *wanted { loudest > HEARD } else { loudest < SILENT },
            "{who}: {hz} Hz at {loudest} dBFS, wanted: {wanted}"
        );
    }
}

/// The user's calls, as the desktop reads them.
async fn calls(server: &Server, account: Account) -> Vec<Value> {
    let mut reply = server.client(account).look("/me/calls?fields=*").await;
    reply["calls"].as_array_mut().map(std::mem::take).unwrap_or_default()
}

/// Waits until the states of the user's calls are these, in any order; the id of the first that is
/// in the first of them.
async fn until(server: &Server, account: Account, states: &[&str]) -> String {
    let mut wanted: Vec<&str> = states.to_vec();
    wanted.sort_unstable();
    let found = wait::found(SOON, async || {
        let calls = calls(server, account).await;
        let mut now: Vec<&str> = calls.iter().filter_map(|call| call["state"].as_str()).collect();
        now.sort_unstable();
        (now == wanted).then(|| {
            let first = calls
                .iter()
                .find(|call| Some(call["state"].as_str()) == states.first().copied().map(Some));
            first.and_then(|call| call["id"].as_str()).unwrap_or_default().to_owned()
        })
    });
    match found.await {
        Some(id) => id,
        None => panic!("{} is not in {states:?}: {:?}", account.user, calls(server, account).await),
    }
}

/// The customer calls the agent, and hangs up after so many seconds.
fn customer(server: &Server, seconds: u64, place: &tempfile::TempDir) -> Sipp {
    let talk = Duration::from_secs(seconds);
    Sipp::customer(server, CUSTOMER, AGENT.number, CUSTOMER_HZ, talk, place)
}

/// They talk for so long.
async fn talk(millis: u64) {
    wait::elapse(Duration::from_millis(millis)).await;
}

/// SIPp as customer; baresip as agent, colleague and supervisor, who coaches.
struct Cast {
    server: Server,
    place: tempfile::TempDir,
    tap: Tap,
    agent: Baresip,
    colleague: Baresip,
    supervisor: Baresip,
}

impl Cast {
    async fn coaching(scope: &str) -> Cast {
        let server = Server::start().await;
        let place = folder();
        let start = |account: Account, hz| Baresip::start(&server, account, hz, &place);
        let cast = Cast {
            agent: start(AGENT, AGENT_HZ),
            colleague: start(COLLEAGUE, COLLEAGUE_HZ),
            supervisor: start(SUPERVISOR, SUPERVISOR_HZ),
            tap: Tap::start(),
            server,
            place,
        };
        for account in [AGENT, COLLEAGUE, SUPERVISOR] {
            cast.server.registered(account).await;
        }
        cast.server.coach(json!({"supervisorMonitoringScope": scope})).await;
        cast
    }

    fn customer(&self, seconds: u64) -> Sipp {
        customer(&self.server, seconds, &self.place)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn baresip_holds_retrieves_and_transfers_blindly_and_the_coach_goes_along_or_is_out() {
    for scope in ["Call", "Agent"] {
        let cast = Cast::coaching(scope).await;
        let customer = cast.customer(8);
        until(&cast.server, SUPERVISOR, &["Established"]).await;
        talk(800).await;
        cast.agent.does("hold", "").await;
        until(&cast.server, AGENT, &["Held"]).await;
        talk(500).await;
        cast.agent.does("resume", "").await;
        until(&cast.server, AGENT, &["Established"]).await;
        talk(500).await;
        let to = format!("sip:{}@{}", COLLEAGUE.number, cast.server.sip);
        cast.agent.does("transfer", &to).await;
        until(&cast.server, COLLEAGUE, &["Established"]).await;
        until(&cast.server, AGENT, &[]).await;
        let port = customer.finished(SOON).await;
        let goes_along = scope == "Call";
        let at_customer = cast.tap.finish().samples_to(port);
        has(
            "the customer",
            &at_customer,
            &[(AGENT_HZ, true), (COLLEAGUE_HZ, true), (SUPERVISOR_HZ, false)],
        );
        has(
            "the agent",
            &cast.agent.finished().await,
            &[(CUSTOMER_HZ, true), (SUPERVISOR_HZ, true)],
        );
        let at_colleague = cast.colleague.finished().await;
        has(
            "the colleague",
            &at_colleague,
            &[(CUSTOMER_HZ, true), (SUPERVISOR_HZ, goes_along), (AGENT_HZ, false)],
        );
        let at_supervisor = cast.supervisor.finished().await;
        has(
            "the supervisor",
            &at_supervisor,
            &[(CUSTOMER_HZ, true), (AGENT_HZ, true), (COLLEAGUE_HZ, goes_along)],
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn baresip_is_asked_and_the_customer_is_transferred_to_it_with_the_coach_or_without() {
    for scope in ["Call", "Agent"] {
        let cast = Cast::coaching(scope).await;
        let customer = cast.customer(8);
        let call = until(&cast.server, AGENT, &["Established"]).await;
        until(&cast.server, SUPERVISOR, &["Established"]).await;
        talk(800).await;
        let path = format!("/me/calls/{call}");
        let ask = json!({
            "operationName": "InitiateTransfer", "destination": {"phoneNumber": COLLEAGUE.number},
        });
        cast.server.post(AGENT, &path, ask).await;
        until(&cast.server, AGENT, &["Held", "Established"]).await;
        until(&cast.server, COLLEAGUE, &["Established"]).await;
        talk(800).await;
        cast.server.post(AGENT, &path, json!({"operationName": "CompleteTransfer"})).await;
        until(&cast.server, AGENT, &[]).await;
        let port = customer.finished(SOON).await;
        let goes_along = scope == "Call";
        let at_customer = cast.tap.finish().samples_to(port);
        has(
            "the customer",
            &at_customer,
            &[(AGENT_HZ, true), (COLLEAGUE_HZ, true), (SUPERVISOR_HZ, false)],
        );
        let at_colleague = cast.colleague.finished().await;
        has(
            "the colleague",
            &at_colleague,
            &[(CUSTOMER_HZ, true), (AGENT_HZ, true), (SUPERVISOR_HZ, goes_along)],
        );
        let at_supervisor = cast.supervisor.finished().await;
        has(
            "the supervisor",
            &at_supervisor,
            &[(CUSTOMER_HZ, true), (AGENT_HZ, true), (COLLEAGUE_HZ, goes_along)],
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_conference_of_sipp_and_baresip_the_whisper_is_the_agents_alone() {
    let cast = Cast::coaching("Call").await;
    let customer = cast.customer(6);
    let call = until(&cast.server, AGENT, &["Established"]).await;
    until(&cast.server, SUPERVISOR, &["Established"]).await;
    let path = format!("/me/calls/{call}");
    let ask = json!({
        "operationName": "InitiateConference", "destination": {"phoneNumber": COLLEAGUE.number},
    });
    cast.server.post(AGENT, &path, ask).await;
    until(&cast.server, AGENT, &["Held", "Established"]).await;
    until(&cast.server, COLLEAGUE, &["Established"]).await;
    cast.server.post(AGENT, &path, json!({"operationName": "CompleteConference"})).await;
    until(&cast.server, AGENT, &["Established"]).await;
    // It ends while all are in it: the agent and the coach leave first.
    let port = customer.finished(SOON).await;
    let at_customer = cast.tap.finish().samples_to(port);
    has("the customer", &at_customer, &[(AGENT_HZ, true), (COLLEAGUE_HZ, true)]);
    assert!(level(&at_customer, SUPERVISOR_HZ) < SILENT, "{}", level(&at_customer, SUPERVISOR_HZ));
    let at_colleague = cast.colleague.finished().await;
    has("the colleague", &at_colleague, &[(CUSTOMER_HZ, true), (AGENT_HZ, true)]);
    assert!(
        level(&at_colleague, SUPERVISOR_HZ) < SILENT,
        "{}",
        level(&at_colleague, SUPERVISOR_HZ)
    );
    has(
        "the agent",
        &cast.agent.finished().await,
        &[(CUSTOMER_HZ, true), (COLLEAGUE_HZ, true), (SUPERVISOR_HZ, true)],
    );
    has(
        "the supervisor",
        &cast.supervisor.finished().await,
        &[(CUSTOMER_HZ, true), (AGENT_HZ, true), (COLLEAGUE_HZ, true)],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sipp_holds_in_every_way_there_is_and_the_whisper_keeps_flowing() {
    let server = Server::start().await;
    let place = folder();
    Sipp::register(&server, AGENT, &place).await;
    let tap = Tap::start();
    let agent = Sipp::agent_as("agent_holds", &server, AGENT, AGENT_HZ, &place);
    let supervisor = Baresip::start(&server, SUPERVISOR, SUPERVISOR_HZ, &place);
    server.registered(AGENT).await;
    server.registered(SUPERVISOR).await;
    server.coach(json!({})).await;
    let customer = customer(&server, 9, &place);
    until(&server, SUPERVISOR, &["Established"]).await;
    for _ in 0..3 {
        until(&server, AGENT, &["Held"]).await;
        until(&server, AGENT, &["Established"]).await;
    }
    let customer_port = customer.finished(SOON).await;
    let agent_port = agent.finished(SOON).await;
    let heard = tap.finish();
    has(
        "the customer",
        &heard.samples_to(customer_port),
        &[(AGENT_HZ, true), (SUPERVISOR_HZ, false)],
    );
    has("the agent", &heard.samples_to(agent_port), &[(CUSTOMER_HZ, true), (SUPERVISOR_HZ, true)]);
    has("the supervisor", &supervisor.finished().await, &[(CUSTOMER_HZ, true), (AGENT_HZ, true)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sipp_refers_the_customer_to_baresip_and_the_coach_goes_along() {
    let server = Server::start().await;
    let place = folder();
    Sipp::register(&server, AGENT, &place).await;
    let tap = Tap::start();
    let agent = Sipp::agent_as("agent_refers", &server, AGENT, AGENT_HZ, &place);
    let supervisor = Baresip::start(&server, SUPERVISOR, SUPERVISOR_HZ, &place);
    let colleague = Baresip::start(&server, COLLEAGUE, COLLEAGUE_HZ, &place);
    for account in [AGENT, COLLEAGUE, SUPERVISOR] {
        server.registered(account).await;
    }
    server.coach(json!({})).await;
    let customer = customer(&server, 6, &place);
    agent.finished(SOON).await;
    let customer_port = customer.finished(SOON).await;
    let at_customer = tap.finish().samples_to(customer_port);
    has(
        "the customer",
        &at_customer,
        &[(AGENT_HZ, true), (COLLEAGUE_HZ, true), (SUPERVISOR_HZ, false)],
    );
    has(
        "the colleague",
        &colleague.finished().await,
        &[(CUSTOMER_HZ, true), (SUPERVISOR_HZ, true)],
    );
    has("the supervisor", &supervisor.finished().await, &[(AGENT_HZ, true), (COLLEAGUE_HZ, true)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sipp_hears_and_is_heard_with_reliable_provisional_responses_on_either_side() {
    let server = Server::start().await;
    let place = folder();
    Sipp::register(&server, AGENT, &place).await;
    Sipp::register(&server, COLLEAGUE, &place).await;
    let tap = Tap::start();
    let agents = [
        Sipp::agent_as("agent_reliable", &server, AGENT, AGENT_HZ, &place),
        Sipp::agent_as("agent", &server, COLLEAGUE, COLLEAGUE_HZ, &place),
    ];
    server.registered(AGENT).await;
    server.registered(COLLEAGUE).await;
    let mut heard_by = Vec::new();
    let seconds = Duration::from_secs(2);
    // The one answers reliably, the other wants to be told so.
    for (scenario, callee) in [("customer", AGENT), ("customer_reliable", COLLEAGUE)] {
        let customer = Sipp::customer_as(
            scenario,
            &server,
            CUSTOMER,
            callee.number,
            CUSTOMER_HZ,
            seconds,
            &place,
        );
        heard_by.push(customer.finished(SOON).await);
    }
    for agent in agents {
        heard_by.push(agent.finished(SOON).await);
    }
    let heard = tap.finish();
    has("the first customer", &heard.samples_to(heard_by[0]), &[(AGENT_HZ, true)]);
    has("the second customer", &heard.samples_to(heard_by[1]), &[(COLLEAGUE_HZ, true)]);
    has("the agent", &heard.samples_to(heard_by[2]), &[(CUSTOMER_HZ, true)]);
    has("the colleague", &heard.samples_to(heard_by[3]), &[(CUSTOMER_HZ, true)]);
}
