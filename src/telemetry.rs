//! Logs, metrics, health.

mod process;

use crate::model::{Refusal, Subject};
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use serde::de::{Deserialize, Deserializer, Error};
use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// A level, or one for each module, in the syntax of `RUST_LOG`, which itself is not read.
    /// TRACE is for our own modules alone: libraries tell secrets there.
    #[serde(deserialize_with = "filter")]
    pub filter: String,
    /// For people or for machines.
    pub format: LogFormat,
    /// Numbers and SIP URIs are logged as they are.
    pub personal_data: bool,
}

/// The look of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One readable line each.
    Pretty,
    /// One JSON object each.
    Json,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { filter: "info".into(), format: LogFormat::Pretty, personal_data: false }
    }
}

static SHOW_PII: AtomicBool = AtomicBool::new(false);

/// Personal data in a log line: redacted unless configured. Numbers and SIP URIs go through it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pii<T>(pub T);

impl<T: fmt::Display> fmt::Display for Pii<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if SHOW_PII.load(Ordering::Relaxed) { self.0.fmt(f) } else { f.write_str("<redacted>") }
    }
}

impl<T: fmt::Display> fmt::Debug for Pii<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text of a refusal for a log line, its numbers as [`Pii`].
pub fn logged(refusal: &Refusal) -> Refusal {
    let mut logged = refusal.clone();
    if let Some(Subject::Number(number)) = &refusal.subject {
        logged = logged.renamed(Subject::Number(Pii(number).to_string().into()));
    }
    logged.quoted = refusal.quoted.as_ref().map(|quoted| Pii(quoted).to_string());
    logged
}

/// Lets numbers and URIs into the log, or keeps them out (the default).
pub fn show_personal_data(show: bool) {
    SHOW_PII.store(show, Ordering::Relaxed);
}

fn filter<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let filter = String::deserialize(deserializer)?;
    EnvFilter::try_new(&filter).map_err(D::Error::custom)?;
    Ok(filter)
}

/// Sets up the log of this process, on standard error. A second call changes nothing but
/// [`show_personal_data`].
pub fn start_log(config: &LogConfig) {
    show_personal_data(config.personal_data);
    let filter = EnvFilter::try_new(&config.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt::layer().with_writer(Tame(io::stderr));
    let quiet = tracing_subscriber::registry().with(filter).with(filter_fn(may_be_logged));
    let _ = match config.format {
        LogFormat::Pretty => quiet.with(log.with_ansi(false).compact()).try_init(),
        // Fields stay in an object of their own: one called "target" or "level" would name its key
        // twice.
        LogFormat::Json => {
            quiet.with(log.json().flatten_event(false).with_current_span(true)).try_init()
        }
    };
}

/// Our own modules keep secrets out of every line. Libraries write down at TRACE what passes
/// through them, tokens, cookies and keys with it: that is not logged, whatever the filter says.
/// Nor is what the resolver warns of: a line for each datagram that anybody may send it, and a
/// lookup that fails has a line of ours.
fn may_be_logged(about: &Metadata<'_>) -> bool {
    let origin = about.target().split("::").next().unwrap_or_default();
    let is_resolver = origin.starts_with("hickory_");
    let is_ours = origin == env!("CARGO_CRATE_NAME");
    is_ours || *about.level() != Level::TRACE && !(is_resolver && *about.level() == Level::WARN)
}

/// A writer that lets no control character reach the terminal but the end of each event: no input
/// writes a line of its own.
struct Tame<W>(W);

/// One event on its way.
struct TameLine<W: Write> {
    to: W,
    line: Vec<u8>,
}

impl<'a, W: Write, M: MakeWriter<'a, Writer = W>> MakeWriter<'a> for Tame<M> {
    type Writer = TameLine<W>;

    fn make_writer(&'a self) -> TameLine<W> {
        TameLine { to: self.0.make_writer(), line: Vec::new() }
    }
}

impl<W: Write> Write for TameLine<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W: Write> Drop for TameLine<W> {
    fn drop(&mut self) {
        let text = String::from_utf8_lossy(&self.line);
        let line = tamed(text.strip_suffix('\n').unwrap_or(&text));
        // A log that cannot be written cannot say so.
        let _ = self.to.write_all(format!("{line}\n").as_bytes());
    }
}

fn tamed(text: &str) -> String {
    let dangerous = |c: char| {
        c.is_control()
            || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match dangerous(c) {
            // Within a JSON string, where serde_json has left C1 controls and separators as they
            // are, this is their escape.
            true => line.push_str(&format!("\\u{:04x}", c as u32)),
            false => line.push(c),
        }
    }
    line
}

/// Buckets of times, REST requests' among them: from what a read takes to [`HttpConfig::timeout`],
/// after which a request is answered 503.
///
/// [`HttpConfig::timeout`]: crate::http::HttpConfig::timeout
const SECONDS: [f64; 14] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Buckets of parts of a whole.
const RATIOS: [f64; 10] = [0.0, 0.001, 0.002_5, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5];
/// Buckets of MOS: where ITU-T G.107 Annex B puts its borders between the satisfied and the others,
/// and some between.
const OPINIONS: [f64; 9] = [2.0, 2.58, 3.1, 3.6, 3.8, 4.03, 4.2, 4.34, 4.4];

/// The metrics of this process.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

/// The recorder of metrics is there already, or its settings are wrong.
#[derive(Debug, thiserror::Error)]
#[error("metrics: {0}")]
pub struct MetricsError(#[from] metrics_exporter_prometheus::BuildError);

impl Metrics {
    /// Installs the recorder of this process; once.
    ///
    /// # Errors
    /// One is installed already.
    pub fn start() -> Result<Self, MetricsError> {
        let handle = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
            .set_buckets_for_metric(Matcher::Full("undertone_media_loss_ratio".into()), &RATIOS)?
            .set_buckets_for_metric(Matcher::Full("undertone_media_mos".into()), &OPINIONS)?
            .install_recorder()?;
        describe();
        process::describe();
        let built = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("arch", std::env::consts::ARCH),
            ("os", std::env::consts::OS),
        ];
        metrics::gauge!("undertone_build_info", &built).set(1.0);
        Ok(Self { handle })
    }

    /// The metrics as Prometheus reads them.
    pub fn render(&self) -> String {
        process::measure();
        self.handle.run_upkeep();
        self.handle.render()
    }
}

/// Every figure that a process may have, with what it is.
fn describe() {
    use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge};
    for (name, help) in [
        ("undertone_calls_total", "Calls begun."),
        ("undertone_sip_messages_received_total", "SIP messages read."),
        ("undertone_sip_messages_sent_total", "SIP messages sent, retransmissions included."),
        ("undertone_sip_messages_malformed_total", "SIP messages that could not be read."),
        (
            "undertone_sip_requests_refused_total",
            "SIP requests refused at the door, challenges included.",
        ),
        (
            "undertone_sip_requests_silenced_total",
            "SIP requests left without an answer because their source asks too often.",
        ),
        (
            "undertone_sip_requests_overloaded_total",
            "SIP requests refused with 503 because too much is going on.",
        ),
        (
            "undertone_sip_trunk_calls_refused_total",
            "Calls of a trunk refused with 503: more in a second than it may begin, or no room.",
        ),
        ("undertone_sip_auth_failures_total", "SIP requests with a wrong password."),
        ("undertone_joins_total", "Supervisors who have joined a call."),
        (
            "undertone_customer_packets_total",
            "RTP packets sent to customers, counted at the end of each leg.",
        ),
        (
            "undertone_customer_packets_identical_total",
            "Of undertone_customer_packets_total: the other party's payload, byte for byte.",
        ),
        ("undertone_media_packets_received_total", "Valid RTP packets received."),
        ("undertone_media_packets_sent_total", "RTP packets sent."),
        (
            "undertone_media_packets_unchanged_total",
            "Of the sent: another leg's payload, byte for byte.",
        ),
        (
            "undertone_media_packets_foreign_total",
            "Packets dropped because another address than the signalled one sent them.",
        ),
        (
            "undertone_media_packets_malformed_total",
            "Packets dropped as not RTP, of an unknown payload type, empty or too long.",
        ),
        (
            "undertone_media_packets_discarded_total",
            "Packets dropped as too late or not to be received.",
        ),
        (
            "undertone_media_srtp_rejected_total",
            "Packets dropped as not authentic under the agreed SRTP key.",
        ),
        ("undertone_media_srtp_replayed_total", "SRTP packets dropped as replays."),
        (
            "undertone_media_sources_taken_total",
            "Legs that came to have their packets from where another's come from, to a port that \
             both share: nobody hears either.",
        ),
        (
            "undertone_media_packets_lost_total",
            "Packets lost on their way to us, counted at the end of each leg.",
        ),
        ("undertone_media_send_errors_total", "Packets that the system did not take."),
        (
            "undertone_media_events_lost_total",
            "Events of the media engine that nobody fetched in time.",
        ),
        (
            "undertone_leak_guards_total",
            "Times that sound was kept from a listener it was not for.",
        ),
        ("undertone_requests_total", "Requests that reached the gateway."),
        ("undertone_notices_total", "Events for users, over CometD."),
        ("undertone_login_failures_total", "Refused logins by password."),
        (
            "undertone_audit_failures_total",
            "Audit lines that could not be written: nobody may listen then.",
        ),
        (
            "undertone_monitor_end_failures_total",
            "Times that the backend has not ended a monitor that must end: it is asked again.",
        ),
        (
            "undertone_audit_broken_total",
            "Times that the audit was found to be another one than was written.",
        ),
        ("undertone_cometd_events_delivered_total", "Events handed to CometD answers."),
        ("undertone_cometd_replays_total", "Times that kept events were asked for again."),
        (
            "undertone_cometd_events_replayed_total",
            "Events that were told again from what is kept.",
        ),
        (
            "undertone_cometd_handshakes_refused_total",
            "CometD handshakes refused because there were too many.",
        ),
        (
            "undertone_cometd_unkept_total",
            "Events that could not be kept for clients that come back.",
        ),
    ] {
        describe_counter!(name, help);
        counter!(name).increment(0);
    }
    for (name, help) in [
        ("undertone_sip_calls", "Calls now."),
        ("undertone_sip_registrations", "Devices whose phones are registered now."),
        ("undertone_media_legs", "Open media legs now."),
        ("undertone_backend_ready", "1 while the gateway has its telephony backend."),
        ("undertone_nodes", "Backends of a gateway that has several."),
        ("undertone_nodes_ready", "Those of them that can be asked now."),
        ("undertone_cometd_held", "CometD connects held now."),
        ("undertone_cometd_websockets", "Websockets of the event channel that are open now."),
        ("undertone_cometd_queued", "Events that wait for CometD sessions now."),
        (
            "undertone_cometd_lag_seconds",
            "How long CometD requests waited for their turn, at most, in the last second.",
        ),
    ] {
        describe_gauge!(name, help);
        gauge!(name).set(0.0);
    }
    // These come with labels, and so with their first event.
    describe_gauge!(
        "undertone_store_writable",
        "1 while the state file takes changes, by store; 0: they wait in memory."
    );
    describe_gauge!(
        "undertone_store_waiting_bytes",
        "Changes that wait for the state file to take them, by store."
    );
    describe_gauge!(
        "undertone_sip_trunk_connected",
        "1 while a target over TLS of a trunk that takes calls out can be reached, by trunk and \
         target."
    );
    describe_gauge!(
        "undertone_sip_trunk_up",
        "1 while one of a trunk's targets answers OPTIONS, by trunk."
    );
    describe_gauge!(
        "undertone_sip_trunk_target_up",
        "1 while a target of a trunk answers OPTIONS, by trunk, target and transport; NaN: it is \
         no target any more."
    );
    describe_gauge!(
        "undertone_sip_trunk_registered",
        "1 while we are registered with a trunk that has register, by trunk."
    );
    describe_gauge!("undertone_node_calls", "Calls of a node of the cluster now, by node.");
    describe_gauge!(
        "undertone_node_calls_max",
        "Calls that a node of the cluster may have at most, by node; NaN: no limit is known."
    );
    describe_gauge!(
        "undertone_node_draining",
        "1 while a node of the cluster takes no new calls, by node; NaN: it is no node any more."
    );
    describe_gauge!("undertone_connections", "TCP connections now, by door.");
    describe_counter!(
        "undertone_connections_refused_total",
        "TCP connections closed at once, by door and reason: the address has enough, or the door \
         is full."
    );
    describe_counter!(
        "undertone_grpc_watches_refused_total",
        "Watches refused because their caller has enough of them."
    );
    describe_counter!(
        "undertone_grpc_watches_unread_total",
        "Watches ended because nobody read them."
    );
    describe_counter!(
        "undertone_http2_floods_total",
        "Connections over HTTP/2 that were closed for frames that ask nothing, by door."
    );
    describe_counter!(
        "undertone_connections_displaced_total",
        "TCP connections closed for one of an address with fewer, by door."
    );
    describe_counter!(
        "undertone_accept_errors_total",
        "Times that no TCP connection could be accepted, by door."
    );
    describe_counter!(
        "undertone_grpc_callers_refused_total",
        "gRPC requests refused for who called, by reason: anonymous, token, certificate, role, \
         user, unasked."
    );
    describe_counter!(
        "undertone_tls_clients_expelled_total",
        "Connections closed because nobody vouches any more for the client's certificate, by door."
    );
    describe_gauge!(
        "undertone_grpc_token_file_failed",
        "Whether the token file of a gRPC caller cannot be used, so that it has no token."
    );
    describe_counter!(
        "undertone_tokens_refused_total",
        "Bearer and ID tokens that were refused, by reason."
    );
    describe_counter!(
        "undertone_issuer_fetches_total",
        "Fetches of the keys of issuers of tokens, by issuer and outcome: fetched, failed."
    );
    describe_counter!("undertone_calls_refused_total", "Calls refused, by SIP status.");
    describe_counter!(
        "undertone_rest_requests_total",
        "REST requests, by operation and HTTP status."
    );
    describe_histogram!(
        "undertone_rest_request_seconds",
        "From a REST request until its answer is made, by operation and HTTP status."
    );
    describe_gauge!("undertone_build_info", "1, with the version of the program as a label.");
    describe_gauge!("undertone_cometd_sessions", "CometD sessions now, by transport.");
    describe_counter!(
        "undertone_cometd_unknown_sessions_total",
        "CometD messages answered 402, by reason."
    );
    describe_histogram!(
        "undertone_cometd_delivery_seconds",
        "From an event until the answer or frame with it has left; of each answer the oldest event."
    );
    describe_gauge!("undertone_monitors", "Monitors now, by state.");
    describe_counter!(
        "undertone_joins_refused_total",
        "Supervisors that were kept out of a call, by reason: codec (its sound is only relayed)."
    );
    describe_histogram!(
        "undertone_media_loss_ratio",
        "Of a leg's packets those that the network lost, at its end, by direction."
    );
    describe_histogram!(
        "undertone_media_jitter_seconds",
        "Interarrival jitter of a leg at its end, by direction."
    );
    describe_histogram!(
        "undertone_media_round_trip_seconds",
        "From us to a leg's phone and back, at its end, by RTCP."
    );
    describe_histogram!(
        "undertone_media_mos",
        "Estimated MOS of a leg (ITU-T G.107) at its end, by direction: in from its phone, out to \
         it."
    );
    describe_histogram!(
        "undertone_join_seconds",
        "From the moment a supervisor is on his way into a call until he has joined."
    );
}

/// Brings figures up to date that are not kept as metrics: called before they are read.
pub type Measure = Arc<dyn Fn() + Send + Sync>;

/// What must be true for the process to take work; `Err` says what is missing.
pub type Ready = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// `/livez`, `/readyz` and `/metrics`. Without metrics the last one is empty.
pub fn admin(metrics: Option<Metrics>, ready: Ready, measure: Measure) -> Router {
    let render = move || {
        measure();
        let text = metrics.as_ref().map(Metrics::render).unwrap_or_default();
        async move { ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text) }
    };
    let readyz = move || {
        let answer = match ready() {
            Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
            Err(missing) => (StatusCode::SERVICE_UNAVAILABLE, format!("{missing}\n")),
        };
        async move { answer.into_response() }
    };
    Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Reason;
    use std::sync::{Mutex, PoisonError};

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_the_resolver_warns_of_each_datagram_is_not_logged() {
        let page = Page::default();
        let to = page.clone();
        let log = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || to.clone());
        let log = tracing_subscriber::registry().with(log).with(filter_fn(may_be_logged));
        tracing::subscriber::with_default(log, || {
            tracing::warn!(target: "hickory_net::udp::udp_client_stream", "a wrong id");
            tracing::warn!(target: "hyper", "kept");
            tracing::warn!("kept");
            tracing::debug!(target: "hickory_resolver", "kept");
        });
        let bytes = page.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let text = String::from_utf8(bytes).expect("text");
        assert_eq!(text.matches("kept").count(), 3, "{text}");
        assert!(!text.contains("a wrong id"), "{text}");
    }

    const EVIL: &str = "x\r\n{\"level\":\"INFO\"}\u{1b}[2J\u{9b}2J\u{2028}\u{202e}";

    #[test]
    fn nobody_can_write_a_log_line_of_his_own_in_either_format() {
        for json in [false, true] {
            let page = Page::default();
            let to = page.clone();
            let log = tracing_subscriber::fmt().with_writer(Tame(move || to.clone()));
            let log: Box<dyn tracing::Subscriber + Send + Sync> = match json {
                true => Box::new(log.json().finish()),
                false => Box::new(log.with_ansi(false).compact().finish()),
            };
            tracing::subscriber::with_default(log, || {
                let span = tracing::info_span!("call", call_id = EVIL);
                let _inside = span.enter();
                tracing::info!(name = EVIL, debugged = ?EVIL, "{}", EVIL);
            });
            let bytes = page.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let text = String::from_utf8(bytes).expect("text");
            assert_eq!(text.matches('\n').count(), 1, "{text:?}");
            assert!(text.trim_end_matches('\n').chars().all(|c| !c.is_control()), "{text:?}");
            assert!(!text.contains(['\u{2028}', '\u{202e}']));
            if json {
                let event: serde_json::Value =
                    serde_json::from_str(&text).expect("one JSON object");
                assert_eq!(event["fields"]["name"], EVIL);
            }
        }
    }

    #[tokio::test]
    async fn the_admin_door_tells_life_readiness_and_metrics() {
        use axum::body::Body;
        use axum::http::Request;
        use tower::ServiceExt;

        let metrics = PrometheusBuilder::new().build_recorder();
        let handle = metrics.handle();
        metrics::with_local_recorder(&metrics, || {
            metrics::counter!("undertone_requests_total").increment(3)
        });
        let is_ready = Arc::new(AtomicBool::new(false));
        let asked = is_ready.clone();
        let ready: Ready = Arc::new(move || match asked.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err("the telephony backend is away".to_owned()),
        });
        let door = admin(Some(Metrics { handle }), ready, Arc::new(|| {}));
        let get = async |path: &str| {
            let request = Request::get(path).body(Body::empty()).expect("a request");
            let answer = door.clone().oneshot(request).await.expect("it answers");
            let status = answer.status();
            let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.expect("a body");
            (status, String::from_utf8(body.to_vec()).expect("text"))
        };
        assert_eq!(get("/livez").await, (StatusCode::OK, "alive\n".into()));
        assert_eq!(
            get("/readyz").await,
            (StatusCode::SERVICE_UNAVAILABLE, "the telephony backend is away\n".into())
        );
        is_ready.store(true, Ordering::Relaxed);
        assert_eq!(get("/readyz").await.0, StatusCode::OK);
        assert!(get("/metrics").await.1.contains("undertone_requests_total 3"));
    }

    #[test]
    fn personal_data_is_redacted() {
        assert_eq!(format!("{} {:?}", Pii("5001"), Pii("sip:5001@x")), "<redacted> <redacted>");
        let refusal = Refusal::number(Reason::InvalidState, &"5001".into(), "'{}' as '{}'.");
        let refusal = logged(&refusal.quoting("05001"));
        assert_eq!(refusal.to_string(), "'<redacted>' as '<redacted>'.");
        let refusal = Refusal::device(Reason::InvalidState, &"5001".into(), "'{}' is busy.");
        assert_eq!(logged(&refusal).to_string(), "'5001' is busy.");
    }
}
