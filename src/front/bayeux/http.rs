//! The noisy side: long-polling over HTTP, and the loop that owns the [`Hub`].

use super::Config;
use super::message::{self, ClientId, Kind};
use super::session::{Hub, Output, Peer, Post, PostNo};
use crate::clock;
use crate::front::auth::{Caller, cookie};
use crate::front::json::{self, Uris};
use crate::front::refusal::Refused;
use crate::front::rest::body::whole;
use crate::gateway::desk::Desk;
use crate::words::{Notice, Reason};
use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http_body::{Frame, SizeHint};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinSet;

/// The way in to the event channel. Cheap to clone.
#[derive(Clone)]
pub struct Bayeux(Arc<Door>);

struct Door {
    inbox: mpsc::UnboundedSender<Happening>,
    posts: AtomicU64,
    body_limit: usize,
    max_messages: usize,
    secure_cookies: bool,
    load: watch::Receiver<Load>,
}

/// How much there is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Sessions now.
    pub sessions: usize,
    /// Connects that are held now.
    pub held: usize,
}

/// What the loop is told. Unbounded, yet no more than a few per open connection: each waits for its answer before the next.
enum Happening {
    Posted(Post, oneshot::Sender<Answered>),
    Written(PostNo),
    Cut(PostNo),
    Drain,
}

enum Answered {
    Body(String),
    Overtaken,
}

impl Bayeux {
    /// Starts the loop that owns all sessions; it ends when the last handle and request are gone.
    pub fn start(front: &crate::front::Config, config: Config, desk: Desk) -> Self {
        let (inbox, happenings) = mpsc::unbounded_channel();
        let (tell_load, load) = watch::channel(Load::default());
        let door = Door {
            inbox,
            posts: AtomicU64::new(0),
            body_limit: front.body_limit,
            max_messages: config.max_messages,
            secure_cookies: front.public_url.starts_with("https:"),
            load,
        };
        let shell = Shell {
            hub: Hub::new(config),
            waiting: BTreeMap::new(),
            notices: desk.notices(),
            states: JoinSet::new(),
            uris: Uris::new(&front.public_url),
            tell_load,
            weighed: None,
            desk,
        };
        tokio::spawn(shell.run(happenings));
        Self(Arc::new(door))
    }

    /// How much there is to do, as it changes.
    pub fn load(&self) -> watch::Receiver<Load> {
        self.0.load.clone()
    }

    /// Answers every held connect, so that a graceful shutdown does not wait for them.
    pub fn drain(&self) {
        let _ = self.0.inbox.send(Happening::Drain);
    }
}

/// Owns the hub. One rhythm: hand in, drain, wait.
struct Shell {
    hub: Hub,
    waiting: BTreeMap<PostNo, oneshot::Sender<Answered>>,
    notices: broadcast::Receiver<Arc<Notice>>,
    /// Snapshots under way.
    states: JoinSet<(ClientId, Vec<String>)>,
    uris: Uris,
    tell_load: watch::Sender<Load>,
    /// When the queues were counted last.
    weighed: Option<std::time::Instant>,
    desk: Desk,
}

impl Shell {
    async fn run(mut self, mut happenings: mpsc::UnboundedReceiver<Happening>) {
        let mut notices_end = false;
        loop {
            self.tell_load();
            self.drain_outputs();
            let deadline = self.hub.poll_timeout();
            let wake = async move {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                happening = happenings.recv() => match happening {
                    Some(happening) => self.take(happening),
                    None => return,
                },
                notice = self.notices.recv(), if !notices_end => match notice {
                    Ok(notice) => self.tell(&notice),
                    Err(RecvError::Lagged(lost)) => {
                        tracing::warn!(lost, "notices were lost; every CometD session starts again");
                        self.hub.handle_gap();
                    }
                    Err(RecvError::Closed) => notices_end = true,
                },
                Some(Ok((client, state))) = self.states.join_next() => {
                    self.hub.handle_snapshot(&client, &state, clock::instant());
                }
                () = wake => self.hub.handle_timeout(clock::instant()),
            }
        }
    }

    fn take(&mut self, happening: Happening) {
        let now = clock::instant();
        match happening {
            Happening::Posted(post, reply) => {
                self.waiting.insert(post.no, reply);
                self.hub.handle_post(post, now);
            }
            Happening::Written(post) => self.hub.handle_written(post, now),
            Happening::Cut(post) => {
                self.waiting.remove(&post);
                self.hub.handle_cut(post, now);
            }
            Happening::Drain => self.hub.handle_drain(now),
        }
    }

    fn tell(&mut self, notice: &Notice) {
        let data = text(&self.uris, notice);
        self.hub
            .handle_notice(&notice.user, json::channel(notice.topic), &data, clock::instant());
    }

    fn tell_load(&mut self) {
        let load = Load {
            sessions: self.hub.len(),
            held: self.hub.held(),
        };
        self.tell_load.send_if_modified(|told| {
            let changed = *told != load;
            *told = load;
            changed
        });
        metrics::gauge!("undertone_cometd_sessions").set(load.sessions as f64);
        metrics::gauge!("undertone_cometd_held").set(load.held as f64);
        // This looks at every session, and so not at every step.
        let now = clock::instant();
        if self.weighed.is_none_or(|at| now.saturating_duration_since(at) >= WEIGHING) {
            self.weighed = Some(now);
            metrics::gauge!("undertone_cometd_queued").set(self.hub.queued() as f64);
        }
        metrics::counter!("undertone_cometd_events_delivered_total").absolute(self.hub.handed_out());
    }

    fn drain_outputs(&mut self) {
        while let Some(output) = self.hub.poll_output() {
            match output {
                Output::Answer { post, body } => self.answer(post, Answered::Body(body)),
                Output::Overtaken { post } => self.answer(post, Answered::Overtaken),
                Output::Snapshot { client, user } => {
                    let (desk, uris) = (self.desk.clone(), self.uris.clone());
                    self.states.spawn(async move {
                        let notices = desk.states(&user).await;
                        (client, notices.iter().map(|notice| text(&uris, notice)).collect())
                    });
                }
            }
        }
    }

    /// A request that is gone says so itself, by its [`Report`].
    fn answer(&mut self, post: PostNo, answered: Answered) {
        if let Some(reply) = self.waiting.remove(&post) {
            let _ = reply.send(answered);
        }
    }
}

fn text(uris: &Uris, notice: &Notice) -> String {
    serde_json::to_string(&json::notice(uris, notice)).unwrap_or_else(|_| unreachable!("a notice is text, numbers and lists of them"))
}

/// The endpoint and its subtree, without the layers it shares with REST. Clients append `/handshake`, `/connect`, a slash.
pub(in crate::front) fn router(bayeux: Bayeux) -> Router {
    let endpoint = post(receive).fallback(only_post);
    Router::new()
        .route("/api/v2/notifications", endpoint.clone())
        .route("/api/v2/notifications/", endpoint.clone())
        .route("/api/v2/notifications/{*rest}", endpoint)
        .with_state(bayeux)
}

async fn only_post() -> Response {
    let refused = Refused::new(Reason::Forbidden, "The event channel takes POST only.");
    let mut response = refused.with_http(StatusCode::METHOD_NOT_ALLOWED).into_response();
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
    response
}

/// Between two counts of the events that wait.
const WEIGHING: std::time::Duration = std::time::Duration::from_secs(1);

const BROWSER_COOKIE: &str = "BAYEUX_BROWSER";

async fn receive(State(bayeux): State<Bayeux>, caller: Option<Extension<Caller>>, request: Request) -> Result<Response, Refused> {
    let door = &*bayeux.0;
    if !may_be_json(request.headers()) {
        return Err(Refused::new(Reason::UnsupportedMediaType, "Content-Type must be application/json."));
    }
    let browser = browser_of(request.headers());
    let bytes = whole(request, door.body_limit).await?;
    let messages = message::parse(&bytes, door.max_messages)
        .map_err(|error| Refused::new(Reason::InvalidInput, format!("Malformed request: {error}.")))?;

    let opens = messages.iter().any(|message| matches!(message.kind, Kind::Handshake { .. }));
    let new_browser: Option<Arc<str>> = (opens && browser.is_none()).then(|| random_hex().into());
    let no = PostNo(door.posts.fetch_add(1, Ordering::Relaxed));
    let from = Peer {
        user: caller.map(|Extension(caller)| caller.user),
        browser: browser.or_else(|| new_browser.clone()),
    };
    let post = Post {
        no,
        from,
        fresh: ClientId(random_hex().into()),
        messages,
    };

    let (reply, answer) = oneshot::channel();
    let report = Report {
        post: no,
        written: false,
        bayeux: bayeux.clone(),
    };
    let closing = || Refused::new(Reason::Unavailable, "The event channel is closing.");
    door.inbox.send(Happening::Posted(post, reply)).map_err(|_| closing())?;
    match answer.await.map_err(|_| closing())? {
        Answered::Body(body) => Ok(answered(body, report, new_browser, door.secure_cookies)),
        Answered::Overtaken => Err(Refused::new(Reason::InvalidState, "A newer connect of this session has come.")),
    }
}

/// A cross-site form can send `text/plain` and two form types without asking; they are not JSON. No type at all is.
fn may_be_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return true;
    };
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    ["application/json", "text/json"]
        .iter()
        .any(|one| essence.eq_ignore_ascii_case(one))
}

fn browser_of(headers: &HeaderMap) -> Option<Arc<str>> {
    let value = cookie(headers, BROWSER_COOKIE)?;
    let is_ours = (20..=64).contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_ours.then(|| value.into())
}

/// 160 random bits, alphanumeric.
fn random_hex() -> String {
    rand::random::<[u8; 20]>().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn answered(body: String, report: Report, new_browser: Option<Arc<str>>, secure: bool) -> Response {
    let body = Body::new(Reported {
        data: Some(body.into()),
        report,
    });
    let mut response = ([(header::CONTENT_TYPE, "application/json")], body).into_response();
    let headers = response.headers_mut();
    // Tells nginx not to keep an answer back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    if let Some(browser) = new_browser {
        let secure = if secure { "; Secure" } else { "" };
        let line = format!("{BROWSER_COOKIE}={browser}; Path=/; HttpOnly; SameSite=Lax{secure}");
        if let Ok(line) = HeaderValue::from_str(&line) {
            headers.append(header::SET_COOKIE, line);
        }
    }
    response
}

/// Says how a request ended, by being dropped: with its handler or its answer unsent when the socket is gone, or written.
struct Report {
    post: PostNo,
    written: bool,
    bayeux: Bayeux,
}

impl Drop for Report {
    fn drop(&mut self) {
        let happening = if self.written {
            Happening::Written(self.post)
        } else {
            Happening::Cut(self.post)
        };
        let _ = self.bayeux.0.inbox.send(happening);
    }
}

/// An answer that knows whether the connection has taken it.
struct Reported {
    data: Option<Bytes>,
    report: Report,
}

impl HttpBody for Reported {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = self.data.take();
        self.report.written |= data.is_some();
        Poll::Ready(data.map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.data.as_ref().map_or(0, |data| data.len() as u64))
    }
}
