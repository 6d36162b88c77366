//! How the gateway reaches a backend: a URL or a pipe in this process, the same `Channel` either
//! way.

use crate::model::{Capabilities, Fact, NodeLoad};
use crate::telephony::callers::{BearerToken, in_this_process};
use crate::telephony::convert::node_load;
use crate::telephony::proto::telephony_client::TelephonyClient;
use crate::telephony::proto::telephony_server::{Telephony, TelephonyServer};
use crate::telephony::{BackendConnection, CommandCall, WatchItem, execute, proto};
use crate::tls::ClientTls;
use hyper_util::rt::TokioIo;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Server, Uri};

/// Bytes of the pipe between gateway and a backend in this process.
const PIPE: usize = 256 * 1024;
/// Facts and commands that wait for the other end of a line.
const WAITING: usize = 256;
/// How often the backend says that it lives, and how many times it may be silent.
const HEARTBEAT: Duration = Duration::from_secs(2);
const MISSED: u32 = 3;
/// How long to wait before the backend is tried again: doubled each time, up to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// A watch that has gone on for so long was one: the backend is tried again soon after it. One that
/// ends sooner is a try that has failed.
const SETTLED: Duration = Duration::from_secs(10);
/// How long until the log says again that the backend cannot be reached: doubled each time, up to
/// the second.
const REMINDER: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));
/// How long a connection may take, a handshake included.
const CONNECT: Duration = Duration::from_secs(2);
/// How long `Describe` and the beginning of a watch may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The way to a server of the contract, with what the caller shows there.
pub type TelephonyChannel = InterceptedService<Channel, BearerToken>;

/// A backend in this process. Each connection is a pipe to a server task; when the channel is
/// dropped they end.
pub fn in_process(server: TelephonyServer<impl Telephony>) -> TelephonyChannel {
    let (connections, incoming) = mpsc::unbounded_channel();
    let incoming = UnboundedReceiverStream::new(incoming);
    let server = InterceptedService::new(server, in_this_process);
    tokio::spawn(async move {
        if let Err(error) =
            Server::builder().add_service(server).serve_with_incoming(incoming).await
        {
            tracing::error!(%error, "the in-process backend has ended");
        }
    });
    let connector = tower::service_fn(move |_: Uri| {
        let (near, far) = tokio::io::duplex(PIPE);
        let sent = connections.send(Ok::<_, std::io::Error>(far));
        let connected = sent.map(|()| TokioIo::new(near));
        std::future::ready(
            connected.map_err(|_| std::io::Error::from(std::io::ErrorKind::ConnectionRefused)),
        )
    });
    let endpoint = Endpoint::from_static("http://backend.invalid");
    InterceptedService::new(endpoint.connect_with_connector_lazy(connector), BearerToken::none())
}

/// A backend elsewhere, connected at first use and again when the connection breaks.
///
/// Fails when `url` is not one.
pub fn remote(
    url: &str,
    tls: ClientTls,
    token: BearerToken,
) -> Result<TelephonyChannel, tonic::transport::Error> {
    remote_at(url, None, tls, token)
}

/// As [`remote()`], at this address under the name in `url`; `None`: wherever that name leads.
pub fn remote_at(
    url: &str,
    address: Option<SocketAddr>,
    tls: ClientTls,
    token: BearerToken,
) -> Result<TelephonyChannel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(url.to_owned())?
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true);
    let connector = tower::service_fn(move |uri: Uri| {
        let tls = tls.clone();
        async move {
            let reached = timeout(CONNECT, reach(&uri, address, &tls)).await;
            reached.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        }
    });
    let channel = endpoint.connect_with_connector_lazy(connector);
    Ok(InterceptedService::new(channel, token))
}

/// Name or address of a server, and its port.
pub fn host_and_port(uri: &Uri) -> (&str, u16) {
    let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    (host, uri.port_u16().unwrap_or(default))
}

/// A connection to a server, in clear or by TLS.
trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<C: AsyncRead + AsyncWrite + Send + Unpin> Connection for C {}

async fn reach(
    uri: &Uri,
    address: Option<SocketAddr>,
    tls: &ClientTls,
) -> io::Result<TokioIo<Box<dyn Connection>>> {
    let is_sealed = uri.scheme_str() == Some("https");
    let (host, port) = host_and_port(uri);
    let stream = match address {
        Some(address) => TcpStream::connect(address).await?,
        None => TcpStream::connect((host, port)).await?,
    };
    stream.set_nodelay(true)?;
    let connection: Box<dyn Connection> = match is_sealed {
        true => Box::new(tls.connect(host, stream, &[b"h2"]).await?),
        false => Box::new(stream),
    };
    Ok(TokioIo::new(connection))
}

/// A line over a channel: describes, watches, reconnects and resumes by itself until it is dropped.
///
/// After `Lost` comes either a new snapshot, or, when the backend still had what was missed,
/// `SnapshotComplete` alone and then the rest: what was known before is true again.
pub fn line(channel: TelephonyChannel) -> BackendConnection {
    start(channel, Complaint::default())
}

/// As [`line()`], to a backend elsewhere: as long as it is away, the log warns of it, with its `url`
/// and the cause, less and less often.
pub fn line_to(channel: TelephonyChannel, url: &str) -> BackendConnection {
    start(channel, Complaint { url: Some(url.to_owned()), ..Complaint::default() })
}

fn start(channel: TelephonyChannel, complaint: Complaint) -> BackendConnection {
    let client = TelephonyClient::new(channel);
    let (commands, placed) = mpsc::channel(WAITING);
    let (facts, reported) = mpsc::channel(WAITING);
    let capabilities = watch::Sender::new(Capabilities::default());
    let described = capabilities.subscribe();
    let (load, loaded) = watch::channel(NodeLoad::default());
    tokio::spawn(carry_commands(client.clone(), placed));
    let mut watching = WatchLoop {
        client,
        facts,
        capabilities,
        load,
        resume: proto::WatchRequest {
            heartbeat_ms: HEARTBEAT.as_millis() as u32,
            ..proto::WatchRequest::default()
        },
        is_up: false,
        complaint,
    };
    tokio::spawn(async move { watching.run().await });
    BackendConnection { commands, facts: reported, capabilities: described, load: loaded }
}

/// Commands do not wait for each other: each has its own deadline.
async fn carry_commands(
    client: TelephonyClient<TelephonyChannel>,
    mut placed: mpsc::Receiver<CommandCall>,
) {
    while let Some(CommandCall { context, command, reply }) = placed.recv().await {
        let client = client.clone();
        tokio::spawn(async move {
            let answered = execute(client, &context, &command).await;
            // Who asked may have gone.
            let _ = reply.send(answered.map(|_| ()));
        });
    }
}

struct WatchLoop {
    client: TelephonyClient<TelephonyChannel>,
    facts: mpsc::Sender<Fact>,
    capabilities: watch::Sender<Capabilities>,
    load: watch::Sender<NodeLoad>,
    resume: proto::WatchRequest,
    /// Something has come since the last break.
    is_up: bool,
    complaint: Complaint,
}

/// What the log has been told of a backend that cannot be watched.
#[derive(Default)]
struct Complaint {
    /// Of a backend elsewhere. One in this process is away only when the process ends, and nobody
    /// has to be warned of that.
    url: Option<String>,
    /// Tries in a row that have failed.
    failures: u32,
    /// When it is said again, and how long after that.
    again: Option<(Instant, Duration)>,
    /// The last watch was over sooner than [`SETTLED`].
    is_fickle: bool,
    /// That it is here now has been said.
    is_told_here: bool,
}

impl Complaint {
    /// A try has failed, or a watch has ended.
    fn failed(&mut self, cause: &BreakCause) {
        self.failures = self.failures.saturating_add(1);
        let (now, (first, longest)) = (Instant::now(), REMINDER);
        let pause = match self.again {
            Some((at, _)) if now < at => {
                tracing::debug!(%cause, "the telephony backend is away");
                return;
            }
            Some((_, pause)) => pause,
            None => first,
        };
        self.again = Some((now + pause, (pause * 2).min(longest)));
        let (url, failures) = (&self.url, self.failures);
        match url {
            Some(url) => tracing::warn!(url, %cause, failures, "the telephony backend is away"),
            None => tracing::debug!(%cause, "the telephony backend is away"),
        }
    }

    /// The backend is watched. One that has just ended a watch at once has to stay first.
    fn met(&mut self, since: Instant) {
        if self.is_told_here || (self.is_fickle && since.elapsed() < SETTLED) {
            return;
        }
        self.is_told_here = true;
        tracing::info!(url = self.url.as_deref(), "the telephony backend is here");
    }

    /// A watch has ended that had gone on for long enough, or not.
    fn ended(&mut self, was_settled: bool) {
        if was_settled {
            (self.failures, self.again) = (0, None);
        }
        (self.is_fickle, self.is_told_here) = (!was_settled, false);
    }
}

/// Why a watch has ended, or has not begun.
#[derive(Debug, thiserror::Error)]
enum BreakCause {
    /// The backend, or the way to it, says no.
    #[error("{}", spelled_out(.0))]
    Status(Box<tonic::Status>),
    /// The backend has ended its answer without a word.
    #[error("it has ended the watch")]
    Ended,
    /// Nothing has come for so long.
    #[error("it has said nothing for {} s", .0.as_secs())]
    Silent(Duration),
}

impl From<tonic::Status> for BreakCause {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// The text of a status, and of what has brought it about: that of the system comes last.
fn spelled_out(status: &tonic::Status) -> String {
    let text = match status.message() {
        "" => format!("{:?}", status.code()),
        message => message.to_owned(),
    };
    with_causes(text, status)
}

/// A text about an error, and what has brought that about.
pub(crate) fn with_causes(mut text: String, error: &dyn std::error::Error) -> String {
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        source = cause.source();
    }
    text
}

/// Nobody reads the line any more.
struct HungUp;

impl WatchLoop {
    async fn run(&mut self) {
        let (first, longest) = BACKOFF;
        let mut backoff = first;
        loop {
            let since = Instant::now();
            let cause = match self.watch().await {
                Err(HungUp) => return,
                Ok(cause) => cause,
            };
            let was_up = std::mem::take(&mut self.is_up);
            if was_up {
                let was_settled = since.elapsed() >= SETTLED;
                self.complaint.ended(was_settled);
                if was_settled {
                    backoff = first;
                }
            }
            self.complaint.failed(&cause);
            if was_up && self.tell(Fact::Lost).await.is_err() {
                return;
            }
            tokio::select! {
                () = self.facts.closed() => return,
                () = sleep(backoff) => {}
            }
            backoff = (backoff * 2).min(longest);
        }
    }

    /// Watches until the stream breaks; says why it has.
    async fn watch(&mut self) -> Result<BreakCause, HungUp> {
        let mut client = self.client.clone();
        let described = match timeout(PATIENCE, client.describe(proto::DescribeRequest {})).await {
            Ok(Ok(described)) => described.into_inner(),
            Ok(Err(status)) => return Ok(status.into()),
            Err(_) => return Ok(BreakCause::Silent(PATIENCE)),
        };
        self.note_load(described.load.as_ref().map(node_load::load).unwrap_or_default());
        self.capabilities.send_replace(described.into());
        let mut stream = match timeout(PATIENCE, client.watch(self.resume.clone())).await {
            Ok(Ok(stream)) => stream.into_inner(),
            Ok(Err(status)) => return Ok(status.into()),
            Err(_) => return Ok(BreakCause::Silent(PATIENCE)),
        };
        let since = Instant::now();
        loop {
            let next = tokio::select! {
                () = self.facts.closed() => return Err(HungUp),
                next = timeout(HEARTBEAT * MISSED, stream.message()) => next,
            };
            match next {
                Ok(Ok(Some(response))) => {
                    self.hear(response).await?;
                    if self.is_up {
                        self.complaint.met(since);
                    }
                }
                Ok(Ok(None)) => return Ok(BreakCause::Ended),
                Ok(Err(status)) => return Ok(status.into()),
                Err(_) => return Ok(BreakCause::Silent(HEARTBEAT * MISSED)),
            }
        }
    }

    async fn hear(&mut self, response: proto::WatchResponse) -> Result<(), HungUp> {
        let revision = response.revision;
        let watched = match WatchItem::try_from(response) {
            Ok(watched) => watched,
            Err(malformed) => {
                tracing::warn!(
                    %malformed,
                    revision,
                    "the backend has reported something that is not in the contract"
                );
                return Ok(());
            }
        };
        let was_up = std::mem::replace(&mut self.is_up, true);
        match watched {
            WatchItem::SnapshotBegin { instance } => {
                self.resume.instance = instance;
                self.resume.after_revision = 0;
                self.tell(Fact::SnapshotBegin).await
            }
            WatchItem::Heartbeat(_) | WatchItem::Fact(_) if !was_up => {
                self.tell(Fact::SnapshotComplete).await?;
                self.keep(watched, revision).await
            }
            WatchItem::Heartbeat(_) | WatchItem::Fact(_) => self.keep(watched, revision).await,
        }
    }

    async fn keep(&mut self, watched: WatchItem, revision: u64) -> Result<(), HungUp> {
        match watched {
            WatchItem::Fact(fact) => self.tell(fact).await?,
            WatchItem::Heartbeat(Some(load)) => self.note_load(load),
            WatchItem::Heartbeat(None) | WatchItem::SnapshotBegin { .. } => {}
        }
        // Entities of a snapshot carry no revision: a break in its middle begins it again.
        self.resume.after_revision = self.resume.after_revision.max(revision);
        Ok(())
    }

    fn note_load(&self, load: NodeLoad) {
        self.load.send_if_modified(|told| std::mem::replace(told, load) != load);
    }

    async fn tell(&self, fact: Fact) -> Result<(), HungUp> {
        self.facts.send(fact).await.map_err(|_| HungUp)
    }
}

#[cfg(test)]
mod tests {
    //! A backend that is not there or does not stay, in virtual time.

    use super::*;
    use axum::body::{Body, Bytes};
    use axum::http::{HeaderMap, HeaderValue, Request, Response};
    use futures_util::StreamExt;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use hyper_util::rt::TokioExecutor;
    use hyper_util::server::conn::auto;
    use prost::Message;
    use proto::watch_response::Fact as WireFact;
    use std::convert::Infallible;
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex, PoisonError};

    /// When the backend was asked for a watch.
    type Watches = Arc<Mutex<Vec<Instant>>>;

    fn held<T: Clone>(mutex: &Mutex<T>) -> T {
        mutex.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A gRPC message behind its five bytes of head.
    fn framed(message: &impl Message) -> Bytes {
        let payload = message.encode_to_vec();
        let mut bytes = vec![0];
        bytes.extend((payload.len() as u32).to_be_bytes());
        bytes.extend(payload);
        bytes.into()
    }

    /// A way where nothing is shown.
    fn by(channel: Channel) -> TelephonyChannel {
        InterceptedService::new(channel, BearerToken::none())
    }

    /// A backend whose watches end cleanly after so many facts, each three seconds after the last.
    fn leaving(watches: Watches, facts: usize) -> TelephonyChannel {
        let connector = tower::service_fn(move |_: Uri| {
            let (near, far) = tokio::io::duplex(PIPE);
            let watches = watches.clone();
            let service = hyper::service::service_fn(move |request: Request<_>| {
                let messages = match request.uri().path().ends_with("/Watch") {
                    true => {
                        watches.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
                        let begin = WireFact::SnapshotBegin(proto::SnapshotBegin::default());
                        let rest = std::iter::repeat_n(
                            WireFact::Heartbeat(proto::Heartbeat::default()),
                            facts,
                        );
                        let response =
                            |fact| proto::WatchResponse { revision: 0, fact: Some(fact) };
                        [begin]
                            .into_iter()
                            .chain(rest)
                            .map(|fact| framed(&response(fact)))
                            .collect()
                    }
                    false => vec![framed(&proto::DescribeResponse::default())],
                };
                std::future::ready(Ok::<_, Infallible>(answer(messages)))
            });
            tokio::spawn(async move {
                let builder = auto::Builder::new(TokioExecutor::new()).http2_only();
                // It ends with the channel.
                let _ = builder.serve_connection(TokioIo::new(far), service).await;
            });
            std::future::ready(Ok::<_, io::Error>(TokioIo::new(near)))
        });
        by(Endpoint::from_static("http://backend.invalid").connect_with_connector_lazy(connector))
    }

    fn answer(messages: Vec<Bytes>) -> Response<Body> {
        let frames = futures_util::stream::iter(messages.into_iter().enumerate());
        let frames = frames.then(|(number, message)| async move {
            sleep(if number == 0 { Duration::ZERO } else { Duration::from_secs(3) }).await;
            Ok::<_, Infallible>(Frame::data(message))
        });
        let trailers = HeaderMap::from_iter([(
            axum::http::HeaderName::from_static("grpc-status"),
            HeaderValue::from_static("0"),
        )]);
        let end = futures_util::stream::once(async { Ok(Frame::trailers(trailers)) });
        let mut response = Response::new(Body::new(StreamBody::new(frames.chain(end))));
        let kind = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(axum::http::header::CONTENT_TYPE, kind);
        response
    }

    /// What was read on the line until the virtual clock had gone on for so long.
    async fn read_for(mut line: BackendConnection, time: Duration) -> Vec<Fact> {
        let mut read = Vec::new();
        let reading = async {
            while let Some(fact) = line.facts.recv().await {
                read.push(fact);
            }
        };
        assert!(timeout(time, reading).await.is_err(), "the line has ended");
        read
    }

    fn pauses(watches: &Watches) -> Vec<u128> {
        let watches = held(watches);
        watches.windows(2).map(|two| (two[1] - two[0]).as_millis()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_that_ends_every_watch_at_once_is_asked_less_and_less_often() {
        let watches = Watches::default();
        let facts = read_for(line(leaving(watches.clone(), 0)), Duration::from_secs(60)).await;
        let pauses = pauses(&watches);
        assert_eq!(pauses[..8], [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000], "{pauses:?}");
        assert!(pauses[8..].iter().all(|pause| *pause == 5_000), "{pauses:?}");
        let lost = facts.iter().filter(|fact| **fact == Fact::Lost).count();
        assert_eq!(lost, watches.lock().unwrap_or_else(PoisonError::into_inner).len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_that_has_been_there_for_a_while_is_asked_again_at_once() {
        let watches = Watches::default();
        read_for(line(leaving(watches.clone(), 4)), Duration::from_secs(60)).await;
        let pauses = pauses(&watches);
        assert_eq!(pauses, [12_100; 4], "{pauses:?}");
    }

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The warnings of the log while a line is read.
    async fn warnings(line: impl FnOnce() -> BackendConnection, time: Duration) -> Vec<String> {
        logged(tracing::Level::WARN, line, time).await
    }

    async fn logged(
        level: tracing::Level,
        line: impl FnOnce() -> BackendConnection,
        time: Duration,
    ) -> Vec<String> {
        let log = Log::default();
        let to = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_ansi(false)
            .with_writer(move || to.clone())
            .finish();
        let _logged = tracing::subscriber::set_default(subscriber);
        read_for(line(), time).await;
        let text = String::from_utf8(held(&log.0)).expect("text");
        text.lines().map(str::to_owned).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_out_of_reach_is_warned_of_with_url_and_cause_less_and_less_often() {
        let unreachable = || {
            let refuse = |_: Uri| {
                let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
                std::future::ready(Err::<TokioIo<tokio::io::DuplexStream>, _>(refused))
            };
            let endpoint = Endpoint::from_static("http://backend.invalid");
            by(endpoint.connect_with_connector_lazy(tower::service_fn(refuse)))
        };
        let url = "http://192.0.2.7:11052";
        let told = warnings(|| line_to(unreachable(), url), Duration::from_secs(100)).await;
        // At once, and after 10, 30 and 70 seconds.
        assert_eq!(told.len(), 4, "{told:#?}");
        for line in &told {
            assert!(line.contains(url) && line.contains("connection refused"), "{line}");
        }
        assert!(told[3].contains("failures="), "{}", told[3]);
        let told = warnings(|| line(unreachable()), Duration::from_secs(100)).await;
        assert_eq!(told, [""; 0], "one in this process is not reached by a URL");
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_that_ends_its_watch_is_warned_of_with_that_cause() {
        let leaving = leaving(Watches::default(), 0);
        let told =
            warnings(|| line_to(leaving, "http://192.0.2.7:1"), Duration::from_secs(5)).await;
        assert_eq!(told.len(), 1, "{told:#?}");
        assert!(told[0].contains("it has ended the watch"), "{}", told[0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_that_ends_each_watch_at_once_is_said_to_be_here_once() {
        let (url, time) = ("http://192.0.2.7:1", Duration::from_secs(60));
        let fickle = leaving(Watches::default(), 1);
        let told = logged(tracing::Level::INFO, || line_to(fickle, url), time).await;
        let here = told.iter().filter(|line| line.contains("the telephony backend is here"));
        assert_eq!(here.count(), 1, "{told:#?}");
        assert!(told.iter().all(|line| line.contains(url)), "{told:#?}");
        assert!(told[1].contains("is away") && told[1].contains("cause="), "{told:#?}");
    }
}
