//! What the operator is told of a call: the log and the metrics of a real process.

use crate::crash::{coach, my_device, on};
use crate::support::process::{ANY, Process};
use crate::support::rest_client::{RestClient, http_client};
use crate::support::server::{AGENT, CUSTOMER, SUPERVISOR, directory};
use crate::support::talk::{COACH, PATIENCE, Trio};
use crate::support::wait;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value, json};
use std::fmt;
use std::net::SocketAddr;
use tokio::net::UdpSocket;
use undertone::clock;
use undertone::demo::phone::{Phone, PhoneConfig, PhoneEvent};

/// A JSON value no object of which names a key twice.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Strict;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Strict, M::Error> {
        let mut object = Map::new();
        while let Some((key, Strict(value))) = map.next_entry::<String, Strict>()? {
            if object.insert(key.clone(), value).is_some() {
                return Err(M::Error::custom(format!("the key {key} comes twice")));
            }
        }
        Ok(Strict(Value::Object(object)))
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Strict, S::Error> {
        let mut list = Vec::new();
        while let Some(Strict(value)) = seq.next_element()? {
            list.push(value);
        }
        Ok(Strict(Value::Array(list)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Strict, E> {
        Ok(Strict(text.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Strict, E> {
        Ok(Strict(number.into()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Strict, E> {
        Ok(Strict(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Strict, E> {
        Ok(Strict(number.into()))
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Strict, E> {
        Ok(Strict(truth.into()))
    }

    fn visit_unit<E>(self) -> Result<Strict, E> {
        Ok(Strict(Value::Null))
    }
}

/// Every string of a value, keys aside.
fn strings<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Array(list) => list.iter().for_each(|value| strings(value, found)),
        Value::Object(object) => object.values().for_each(|value| strings(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A process, as its operator sees it.
struct Operator {
    process: Process,
    http: reqwest::Client,
}

impl Operator {
    async fn scrape(&self) -> String {
        let url = format!("http://{}/metrics", self.process.door("admin"));
        self.http.get(url).send().await.unwrap().text().await.unwrap()
    }

    /// Waits until a figure is at least so much.
    async fn figure(&self, name: &str, least: f64) -> f64 {
        let look = async || {
            let text = self.scrape().await;
            let value =
                text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
            value.filter(|value| *value >= least)
        };
        match wait::found(PATIENCE, look).await {
            Some(value) => value,
            None => panic!("{name} does not come to {least}: {}", self.scrape().await),
        }
    }

    /// The agent's leg as it is read, once its sound and that of the customer have been measured.
    async fn measured_leg(&self, rest: SocketAddr) -> Value {
        let agent = RestClient::of(AGENT, rest);
        let look = async || {
            let leg = agent.look("/me/calls?fields=*").await["calls"][0].take();
            let of = [&leg["mediaQuality"], &leg["participants"][0]["mediaQuality"]];
            of.iter().all(|quality| quality["mos"].is_number()).then_some(leg)
        };
        wait::found(PATIENCE, look).await.expect("the call shows how its sound fares")
    }

    /// The log, each line one object.
    fn log(&self) -> Vec<Value> {
        let lines = self.process.log();
        let parse = |line: &String| match serde_json::from_str::<Strict>(line) {
            Ok(Strict(value)) => value,
            Err(error) => panic!("{error}: {line}"),
        };
        lines.iter().map(parse).collect()
    }

    /// Waits for a line with this message.
    async fn line(&self, message: &str) -> Value {
        let look =
            async || self.log().into_iter().find(|line| line["fields"]["message"] == message);
        match wait::found(PATIENCE, look).await {
            Some(line) => line,
            None => panic!("no line '{message}' in {:#?}", self.log()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_is_not_there_is_a_warning_with_its_url_and_the_cause() {
    let place = tempfile::tempdir().unwrap();
    // Nobody listens there any more.
    let nowhere = std::net::TcpListener::bind(ANY).unwrap().local_addr().unwrap();
    let url = format!("http://{nowhere}");
    let config = on(ANY, ANY, ANY, &format!("backend_url = '{url}'")) + "[log]\nformat = 'json'\n";
    let process = Process::start("gateway", place.path(), &config).await;
    let operator = Operator { process, http: http_client() };
    let warned = operator.line("the telephony backend is away").await;
    assert_eq!((&warned["level"], &warned["fields"]["url"]), (&"WARN".into(), &url.into()));
    let cause = warned["fields"]["cause"].as_str().unwrap();
    assert!(cause.contains("Connection refused"), "{cause}");
    let (status, text) = operator.process.says("/readyz").await;
    assert_eq!((status, text.as_str()), (503, "the telephony backend can not be reached\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_can_open_no_rtp_port_is_not_ready_and_says_why() {
    let place = tempfile::tempdir().unwrap();
    // RFC 5737: nobody's.
    let config =
        on(ANY, ANY, ANY, "") + "[media]\nbind = '198.51.100.99'\n[log]\nformat = 'json'\n";
    for part in ["serve", "sip-backend"] {
        let process = Process::start(part, place.path(), &config).await;
        let operator = Operator { process, http: http_client() };
        let warned = operator.line("calls can have no sound").await;
        assert_eq!(warned["level"], "WARN");
        let process = operator.process;
        let (status, text) = process.says("/readyz").await;
        assert_eq!(status, 503);
        assert!(
            text.starts_with("no RTP port can be opened on 198.51.100.99: ")
                && text.contains("Cannot assign requested address"),
            "{text}"
        );
        process.terminate(PATIENCE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_sees_a_coached_call_in_log_and_metrics_and_nobodys_number() {
    let place = tempfile::tempdir().unwrap();
    let config = on(ANY, ANY, ANY, "")
        + "[log]\nformat = 'json'\n[media]\nrtcp_interval = 0.2\n"
        + &directory();
    let process = Process::start("serve", place.path(), &config).await;
    process.ready().await;
    let operator = Operator { process, http: http_client() };
    let (rest, sip) = (operator.process.door("rest"), operator.process.door("sip"));
    let posting = |password: &str| {
        let supervisor = RestClient::new(rest, SUPERVISOR.user, password);
        let request = supervisor.posting(&my_device(SUPERVISOR), &coach());
        request.header("X-Request-Id", "seen-again").send()
    };
    assert_eq!(posting("wrong").await.unwrap().status(), 403);
    let nobody = json!({
        "operationName": "Coach",
        "targetDeviceUri": format!("http://{rest}/api/v2/devices/gone"),
    });
    let mut no_scope = coach();
    no_scope["supervisorMonitoringScope"] = json!("Nappingmode");
    let supervisor = RestClient::of(SUPERVISOR, rest);
    for (id, path, body, status) in [
        ("no-target", my_device(SUPERVISOR), &nobody, 404),
        ("no-operation", my_device(SUPERVISOR), &json!({"operationName": "Cooch"}), 403),
        ("no-session", "/me/calls/gone".to_owned(), &json!({"operationName": "Hangup"}), 404),
        (
            "no-reason",
            "/me/channels/voice".to_owned(),
            &json!({"operationName": "NotReady", "reason": 7}),
            400,
        ),
        ("no-scope", my_device(SUPERVISOR), &no_scope, 400),
    ] {
        let request = supervisor.posting(&path, body).header("X-Request-Id", id);
        assert_eq!(request.send().await.unwrap().status(), status, "{id}");
    }
    assert_eq!(posting(SUPERVISOR.password).await.unwrap().status(), 200);
    let supervisor = RestClient::of(SUPERVISOR, rest);
    supervisor.cometd(&json!([{"channel": "/meta/connect", "clientId": "unknown"}])).await;
    let shaken = supervisor.cometd(&json!([{"channel": "/meta/handshake"}])).await;
    let id = &shaken[0]["clientId"];
    let connect = json!({"channel": "/meta/connect", "clientId": id});
    let subscribe = json!({
        "channel": "/meta/subscribe", "clientId": id,
        "subscription": "/v2/me/devices", "ext": {"replay": -2},
    });
    supervisor.cometd(&json!([connect, subscribe])).await;
    supervisor.cometd(&json!([connect])).await;
    let why = operator.line("a CometD client is told to shake hands again").await;
    assert_eq!(why["fields"]["reason"], "never_known");

    let trio = Trio::register(sip).await;
    let stranger = Phone::start(PhoneConfig::new(AGENT.number, "wrong", sip, 437.0)).await.unwrap();
    assert!(stranger.register().await.is_err());
    trio.customer.call("9999").await.unwrap();
    operator.figure("undertone_calls_refused_total{status=\"404\"}", 1.0).await;
    let refused = |event: &PhoneEvent| matches!(event, PhoneEvent::Refused(404));
    trio.customer.until(refused, PATIENCE).await.unwrap();
    let since = clock::instant();
    trio.call().await;
    trio.hear(COACH).await;
    operator.figure("undertone_sip_calls", 1.0).await;
    operator.figure("undertone_monitors{state=\"joined\"}", 1.0).await;

    let leg = operator.measured_leg(rest).await;
    for quality in [&leg["mediaQuality"], &leg["participants"][0]["mediaQuality"]] {
        let mos = quality["mos"].as_f64().unwrap();
        assert!((1.0..=4.5).contains(&mos), "{quality}");
        assert!(
            quality["packetsReceived"].as_u64().unwrap() > 0 && quality["jitterMs"].is_u64(),
            "{quality}"
        );
        assert!(quality.get("remoteMos").is_none(), "these phones report nothing: {quality}");
    }

    let door = trio.agent.received(since)[0].peer;
    let foreign = operator.figure("undertone_media_packets_foreign_total", 0.0).await;
    let sprayer = UdpSocket::bind(ANY).await.unwrap();
    let mut packet = vec![0; 172];
    packet[0] = 0x80;
    for _ in 0..20 {
        sprayer.send_to(&packet, door).await.unwrap();
    }
    operator.figure("undertone_media_packets_foreign_total", foreign + 20.0).await;
    trio.customer.hang_up().await.unwrap();

    let sent = operator.figure("undertone_customer_packets_total", 1.0).await;
    let identical = operator.figure("undertone_customer_packets_identical_total", 1.0).await;
    assert!(identical <= sent, "{identical} of {sent}");
    for (name, least) in [
        ("undertone_calls_total", 1.0),
        ("undertone_sip_registrations", 3.0),
        ("undertone_sip_auth_failures_total", 1.0),
        ("undertone_sip_messages_received_total", 10.0),
        ("undertone_sip_messages_sent_total", 10.0),
        ("undertone_sip_messages_malformed_total", 0.0),
        ("undertone_login_failures_total", 1.0),
        ("undertone_joins_total", 1.0),
        ("undertone_join_seconds_count", 1.0),
        ("undertone_audit_failures_total", 0.0),
        ("undertone_monitor_end_failures_total", 0.0),
        ("undertone_audit_broken_total", 0.0),
        ("undertone_cometd_sessions{transport=\"long-polling\"}", 1.0),
        ("undertone_cometd_sessions{transport=\"websocket\"}", 0.0),
        ("undertone_cometd_websockets", 0.0),
        ("undertone_cometd_delivery_seconds_count", 1.0),
        ("undertone_cometd_unknown_sessions_total{reason=\"never_known\"}", 1.0),
        ("undertone_cometd_replays_total", 1.0),
        ("undertone_cometd_events_replayed_total", 0.0),
        ("undertone_cometd_handshakes_refused_total", 0.0),
        ("undertone_cometd_unkept_total", 0.0),
        ("undertone_cometd_lag_seconds", 0.0),
        ("undertone_cometd_held", 0.0),
        ("undertone_cometd_queued", 0.0),
        ("undertone_cometd_events_delivered_total", 0.0),
        ("undertone_media_packets_received_total", 10.0),
        ("undertone_media_packets_sent_total", 10.0),
        ("undertone_media_packets_lost_total", 0.0),
        ("undertone_media_packets_discarded_total", 0.0),
        ("undertone_media_loss_ratio_count{direction=\"in\"}", 3.0),
        ("undertone_media_jitter_seconds_count{direction=\"in\"}", 3.0),
        ("undertone_media_mos_count{direction=\"in\"}", 3.0),
        ("undertone_media_srtp_rejected_total", 0.0),
        ("undertone_media_srtp_replayed_total", 0.0),
        ("undertone_media_sources_taken_total", 0.0),
        ("undertone_leak_guards_total", 0.0),
        ("undertone_rest_requests_total{operation=\"Coach\",status=\"200\"}", 1.0),
        ("undertone_rest_request_seconds_count{operation=\"Coach\",status=\"200\"}", 1.0),
        ("undertone_rest_request_seconds_count{operation=\"Coach\",status=\"404\"}", 1.0),
        ("undertone_rest_request_seconds_count{operation=\"NotReady\",status=\"400\"}", 1.0),
        ("process_resident_memory_bytes", 1e6),
        ("process_virtual_memory_bytes", 1e6),
        ("process_open_fds", 10.0),
        ("process_max_fds", 100.0),
        ("process_threads", 2.0),
        ("process_start_time_seconds", 1.7e9),
        ("process_cpu_seconds_total", 0.0),
    ] {
        operator.figure(name, least).await;
        let bare = name.split('{').next().unwrap().trim_end_matches("_count");
        assert!(operator.scrape().await.contains(&format!("# HELP {bare} ")), "{bare} has no help");
    }

    let figures = operator.scrape().await;
    let built = format!("undertone_build_info{{version=\"{}\",", env!("CARGO_PKG_VERSION"));
    assert!(figures.lines().any(|line| line.starts_with(&built) && line.ends_with(" 1")));
    assert!(!figures.contains("Cooch"), "no label is a client's to choose");

    let no_operation = "Operation '<redacted>' does not exist on this resource.";
    let no_scope = "Parameter 'supervisorMonitoringScope': '<redacted>' is not one of Agent, Call.";
    let no_string = "Parameter 'reason' must be a string, not a number.";
    for (id, operation, reason, status_code, why) in [
        ("no-target", "Coach", "NotFound", 6, "Resource '/devices/gone' was not found."),
        ("no-operation", "POST /api/v2/me/devices/{id}", "Forbidden", 3, no_operation),
        ("no-session", "Hangup", "NotFound", 6, "Resource '/me/calls/gone' was not found."),
        ("no-reason", "NotReady", "InvalidInput", 10, no_string),
        ("no-scope", "Coach", "InvalidInput", 10, no_scope),
    ] {
        let line = operator
            .log()
            .into_iter()
            .find(|line| {
                line["fields"]["message"] == "request refused" && line["span"]["request_id"] == id
            })
            .unwrap_or_else(|| panic!("{id}: {:#?}", operator.log()));
        let fields = &line["fields"];
        assert_eq!((&fields["operation"], &line["level"]), (&operation.into(), &"INFO".into()));
        assert_eq!(
            (&fields["reason"], &fields["status_code"]),
            (&reason.into(), &status_code.into())
        );
        assert_eq!(fields["why"], why, "{line}");
        assert_eq!(line["span"]["user"], SUPERVISOR.user, "{line}");
    }
    let log = operator.log();
    assert!(!log.iter().any(|line| line.to_string().contains("Nappingmode")));

    let begun = operator.line("call begun").await;
    assert!(begun["span"]["call_id"].as_str().is_some_and(|id| !id.is_empty()), "{begun}");
    assert_eq!(begun["fields"]["from"], "<redacted>");
    let call = begun["fields"]["call"].clone();
    for message in ["call answered", "call ended", "supervisor joined", "supervisor left"] {
        assert_eq!(operator.line(message).await["fields"]["call"], call, "{message}");
    }
    assert!(operator.line("call ended").await["fields"]["duration_ms"].is_u64());
    let refused = operator.line("call refused").await["fields"].clone();
    assert_eq!((&refused["status"], &refused["reason"]), (&json!(404), &json!("no such number")));
    assert_eq!((&refused["from"], &refused["to"]), (&json!("<redacted>"), &json!("<redacted>")));
    assert!(refused["peer"].is_string() && refused["call_id"].is_string(), "{refused}");
    operator.line("a phone's password is wrong").await;
    operator.line("phone registered").await;
    let sound = operator
        .line(
            "sound of the call: packets to the customer, and those that were the agent's unchanged",
        )
        .await;
    assert!(
        sound["fields"]["customer_packets"].as_u64().is_some_and(|packets| packets > 0),
        "{sound}"
    );
    let legs: Vec<Value> = operator
        .log()
        .into_iter()
        .filter(|line| line["fields"]["message"] == "sound of a leg")
        .collect();
    let mut roles: Vec<_> =
        legs.iter().map(|line| line["fields"]["role"].as_str().unwrap()).collect();
    roles.sort_unstable();
    assert_eq!(roles, ["Agent", "Customer", "Supervisor"]);
    for leg in &legs {
        let fields = &leg["fields"];
        assert_eq!((&fields["call"], &leg["level"]), (&call, &"INFO".into()));
        assert!(["PCMU", "PCMA"].map(Value::from).contains(&fields["codec"]), "{fields}");
        for figure in
            ["seconds", "sent", "received", "lost", "remote_lost", "jitter_ms", "remote_jitter_ms"]
        {
            assert!(fields[figure].is_u64(), "{figure}: {fields}");
        }
        assert!(fields["mos"].as_f64().is_some_and(|mos| (1.0..=4.5).contains(&mos)), "{fields}");
    }
    let armed = operator.line("monitor").await;
    assert!(
        armed["span"]["request_id"].as_str().is_some_and(|id| id.contains("seen-again")),
        "the request's id crosses the contract: {armed}"
    );
    for line in operator.log() {
        let mut said = Vec::new();
        strings(&line, &mut said);
        for number in [CUSTOMER.number, AGENT.number, SUPERVISOR.number, "9999"] {
            let names = |text: &&str| {
                text.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == number)
            };
            assert!(!said.iter().any(names), "a number is in the log: {line}");
        }
    }
}
