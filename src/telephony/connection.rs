//! How the gateway reaches a backend: a URL or a pipe in this process, the same `Channel` either
//! way.

use crate::model::{Capabilities, Fact, Reason, Refusal};
use crate::telephony::proto::telephony_client::TelephonyClient;
use crate::telephony::proto::telephony_server::TelephonyServer;
use crate::telephony::{
    BackendConnection, CommandCall, TelephonyService, WatchItem, execute, proto, refusal_of,
};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Endpoint, Server, Uri};

/// Bytes of the pipe between gateway and a backend in this process.
const PIPE: usize = 256 * 1024;
/// Facts and commands that wait for the other end of a line.
const WAITING: usize = 256;
/// How often the backend says that it lives, and how many times it may be silent.
const HEARTBEAT: Duration = Duration::from_secs(3);
const MISSED: u32 = 3;
/// How long to wait before the backend is tried again: doubled each time, up to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How long `Describe` and the beginning of a watch may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A backend in this process. Each connection is a pipe to a server task; when the channel is
/// dropped they end.
pub fn in_process(server: TelephonyServer<TelephonyService>) -> Channel {
    let (connections, incoming) = mpsc::unbounded_channel();
    let incoming = UnboundedReceiverStream::new(incoming);
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
    Endpoint::from_static("http://backend.invalid").connect_with_connector_lazy(connector)
}

/// A backend elsewhere, connected at first use and again when the connection breaks.
///
/// Fails when `url` is not one.
pub fn remote(url: &str) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(url.to_owned())?
        .connect_timeout(Duration::from_secs(2))
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true)
        .tcp_nodelay(true);
    Ok(endpoint.connect_lazy())
}

/// A line over a channel: describes, watches, reconnects and resumes by itself until it is dropped.
///
/// After `Lost` comes either a new snapshot, or, when the backend still had what was missed,
/// `SnapshotComplete` alone and then the rest: what was known before is true again.
pub fn line(channel: Channel) -> BackendConnection {
    let client = TelephonyClient::new(channel);
    let (commands, placed) = mpsc::channel(WAITING);
    let (facts, reported) = mpsc::channel(WAITING);
    let capabilities = watch::Sender::new(Capabilities::default());
    let described = capabilities.subscribe();
    tokio::spawn(carry_commands(client.clone(), placed));
    let mut watching = WatchLoop {
        client,
        facts,
        capabilities,
        resume: proto::WatchRequest {
            heartbeat_ms: HEARTBEAT.as_millis() as u32,
            ..proto::WatchRequest::default()
        },
        is_up: false,
    };
    tokio::spawn(async move { watching.run().await });
    BackendConnection { commands, facts: reported, capabilities: described }
}

/// Commands do not wait for each other: each has its own deadline.
async fn carry_commands(client: TelephonyClient<Channel>, mut placed: mpsc::Receiver<CommandCall>) {
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
    client: TelephonyClient<Channel>,
    facts: mpsc::Sender<Fact>,
    capabilities: watch::Sender<Capabilities>,
    resume: proto::WatchRequest,
    /// Something has come since the last break.
    is_up: bool,
}

/// Nobody reads the line any more.
struct HungUp;

impl WatchLoop {
    async fn run(&mut self) {
        let (first, longest) = BACKOFF;
        let mut backoff = first;
        loop {
            match self.watch().await {
                Err(HungUp) => return,
                // The reader of the facts knows whether that was to be expected, and warns if not.
                Ok(refusal) => tracing::debug!(%refusal, "the watch of the backend has ended"),
            }
            if std::mem::take(&mut self.is_up) {
                backoff = first;
                if self.tell(Fact::Lost).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                () = self.facts.closed() => return,
                () = sleep(backoff) => {}
            }
            backoff = (backoff * 2).min(longest);
        }
    }

    /// Watches until the stream breaks; says why it has.
    async fn watch(&mut self) -> Result<Refusal, HungUp> {
        let mut client = self.client.clone();
        let described = match timeout(PATIENCE, client.describe(proto::DescribeRequest {})).await {
            Ok(Ok(described)) => described.into_inner(),
            Ok(Err(status)) => return Ok(refusal_of(&status)),
            Err(_) => return Ok(silent()),
        };
        self.capabilities.send_replace(described.into());
        let mut stream = match timeout(PATIENCE, client.watch(self.resume.clone())).await {
            Ok(Ok(stream)) => stream.into_inner(),
            Ok(Err(status)) => return Ok(refusal_of(&status)),
            Err(_) => return Ok(silent()),
        };
        loop {
            let next = tokio::select! {
                () = self.facts.closed() => return Err(HungUp),
                next = timeout(HEARTBEAT * MISSED, stream.message()) => next,
            };
            match next {
                Ok(Ok(Some(response))) => self.hear(response).await?,
                Ok(Ok(None)) => {
                    return Ok(Refusal::new(Reason::Unavailable, "The telephony backend is gone."));
                }
                Ok(Err(status)) => return Ok(refusal_of(&status)),
                Err(_) => return Ok(silent()),
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
            WatchItem::Heartbeat | WatchItem::Fact(_) if !was_up => {
                self.tell(Fact::SnapshotComplete).await?;
                self.keep(watched, revision).await
            }
            WatchItem::Heartbeat | WatchItem::Fact(_) => self.keep(watched, revision).await,
        }
    }

    async fn keep(&mut self, watched: WatchItem, revision: u64) -> Result<(), HungUp> {
        if let WatchItem::Fact(fact) = watched {
            self.tell(fact).await?;
        }
        // Entities of a snapshot carry no revision: a break in its middle begins it again.
        self.resume.after_revision = self.resume.after_revision.max(revision);
        Ok(())
    }

    async fn tell(&self, fact: Fact) -> Result<(), HungUp> {
        self.facts.send(fact).await.map_err(|_| HungUp)
    }
}

fn silent() -> Refusal {
    Refusal::new(Reason::Unavailable, "The telephony backend does not answer.")
}
