//! The loop that owns the [`Sessions`]. One rhythm: hand in, drain, wait.

use super::CometdConfig;
use super::event_log::{EventLog, Legacy};
use super::session::ReplyPath;
use super::sessions::{
    ClientRequest, ClientRequestId, CometdTransport, ConnectionType, EndedLogins, LogChange,
    Output, SessionCounts, SessionId, Sessions, SocketId,
};
use super::sessions::{Numbered, RestoredEvents};
use crate::clock;
use crate::gateway::task::{GatewayEvent, GatewayHandle, QuestionId};
use crate::http::auth::{EndedLogin, EndedPart};
use crate::http::delivery::{
    DeliveryId, DeliveryListener, DeliveryOutcome, DeliveryTracker, Written,
};
use crate::http::gws_json::{self, Uris};
use crate::http::response::{ResponseContext, ResponseHead};
use crate::model::{Notice, Now, UserId};
use crate::store::{Store, StoreError};
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

/// How much there is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Sessions now.
    pub sessions: usize,
    /// Connects that are held now.
    pub held: usize,
    /// Websockets that are open now.
    pub sockets: usize,
}

/// What the loop is told. Unbounded, yet no more than a few per open connection: each waits for its
/// answer before the next.
pub(crate) enum Input {
    Posted(ClientRequest, DeliveryTracker, RequestReply, Instant),
    Opened(SocketId, IpAddr, DeliveryTracker, mpsc::UnboundedSender<ToSocket>),
    Frame(ClientRequest, Instant),
    Gone(SocketId),
    Outcome(ReplyPath, DeliveryOutcome),
    Replayed(SessionId, Option<Vec<RestoredEvents>>),
    Unkept(UserId, u64),
    LoggedOut(EndedLogin),
    Drain(oneshot::Sender<()>),
}

pub(crate) type Inbox = mpsc::UnboundedSender<Input>;
/// The loop itself must not keep the last way in open.
pub(crate) type WeakInbox = mpsc::WeakUnboundedSender<Input>;

/// Tells the loop what has become of answers, or of frames.
pub(crate) struct DeliveryInbox {
    inbox: Inbox,
    path: fn(u64) -> ReplyPath,
}

impl DeliveryInbox {
    pub(crate) fn of_requests(inbox: Inbox) -> Arc<dyn DeliveryListener> {
        Arc::new(Self { inbox, path: |number| ReplyPath::Post(ClientRequestId(number)) })
    }

    pub(crate) fn of_sockets(inbox: Inbox) -> Arc<dyn DeliveryListener> {
        Arc::new(Self { inbox, path: |number| ReplyPath::Socket(SocketId(number)) })
    }
}

impl DeliveryListener for DeliveryInbox {
    fn handle_outcome(&self, id: DeliveryId, outcome: DeliveryOutcome) {
        // The loop has ended: nobody asks any more.
        let _ = self.inbox.send(Input::Outcome((self.path)(id.0), outcome));
    }
}

/// Where a request waits for its answer.
pub(crate) enum RequestReply {
    /// In its handler.
    Here(oneshot::Sender<ConnectAnswer>),
    /// At its connection, which has no other.
    Wire(ResponseContext),
}

pub(crate) enum ConnectAnswer {
    /// With events or without.
    Body(String, bool),
    Overtaken,
}

pub(crate) enum ToSocket {
    Send(String),
    /// What is left of a frame.
    Flush,
    Next,
    Close(u16, &'static str),
}

/// A session's question how things are, which the gateway has not answered yet.
struct PendingQuestion {
    session: SessionId,
    channels: Vec<&'static str>,
    answer: oneshot::Receiver<Vec<Notice>>,
}

pub(crate) struct CometdTask {
    hub: Sessions,
    inbox: WeakInbox,
    /// Hears what becomes of frames.
    frames: Weak<dyn DeliveryListener>,
    waiting: Numbered<ClientRequestId, (DeliveryTracker, Option<RequestReply>)>,
    sockets: Numbered<SocketId, (DeliveryTracker, mpsc::UnboundedSender<ToSocket>)>,
    notices: broadcast::Receiver<Arc<GatewayEvent>>,
    journal: EventLog,
    uris: Uris,
    tell_load: watch::Sender<Load>,
    gauges: Gauges,
    lag: Lag,
    log: LogThrottle,
    desk: GatewayHandle,
    /// Questions how things are that the gateway has not answered yet, and those it will be asked.
    questions: BTreeMap<QuestionId, PendingQuestion>,
    to_ask: VecDeque<(UserId, SessionId, Vec<&'static str>)>,
    /// There is one thread: leaving it to a connection to write would only come later.
    is_alone: bool,
    /// Where there are several, so many more answers and frames are written here in this turn.
    here: usize,
    head: ResponseHead,
    now: Now,
    told: (Load, SessionCounts),
}

/// Answers and frames written here in one turn; the others are left to their connections, which
/// share the cores. On one core so many sessions get events in one turn; the others get theirs in
/// the next, with what has come meanwhile.
const HERE: usize = 64;

/// Notices taken in one go.
const NOTICES: usize = 1_024;
/// States asked for at once.
const ASKING: usize = 256;

/// The time is read anew for each so many.
const FRESH: usize = 8;

/// Happenings taken in one go.
const TOGETHER: usize = 256;

impl CometdTask {
    /// With the events and sessions that an earlier life has left.
    pub(crate) fn new(
        front: &crate::http::HttpConfig,
        config: CometdConfig,
        desk: GatewayHandle,
        store: Store,
        (inbox, frames): (WeakInbox, Weak<dyn DeliveryListener>),
        tell_load: watch::Sender<Load>,
    ) -> Result<Self, StoreError> {
        let (journal, legacy) = EventLog::open(store, inbox.clone())?;
        let Legacy { epoch, has_forgotten, events, dropped, sessions } = legacy;
        let mut hub = Sessions::new(config, epoch);
        if has_forgotten {
            hub.restore_nothing();
        }
        let now = clock::now();
        let is_known = |user: &UserId| desk.user(user).is_some();
        for (user, number) in dropped.into_iter().filter(|(user, _)| is_known(user)) {
            hub.restore_dropped(&user, number);
        }
        for (user, number, bytes) in events {
            match is_known(&user) {
                true => hub.restore_event(&user, number, bytes),
                // The user is not in the directory any more.
                false => drop(journal.keep(LogChange::NoEvents { user, gone: vec![number] })),
            }
        }
        for session in sessions {
            match is_known(&session.user) {
                true => hub.restore_session(session, now),
                false => drop(journal.keep(LogChange::NoSession(session.id))),
            }
        }
        Ok(Self {
            hub,
            inbox,
            frames,
            waiting: Numbered::default(),
            sockets: Numbered::default(),
            notices: desk.notices(),
            journal,
            uris: Uris::new(&front.public_url),
            tell_load,
            gauges: Gauges::new(),
            lag: Lag::default(),
            log: LogThrottle::default(),
            desk,
            questions: BTreeMap::new(),
            to_ask: VecDeque::new(),
            is_alone: Handle::current().metrics().num_workers() == 1,
            here: HERE,
            head: ResponseHead::default(),
            now,
            told: Default::default(),
        })
    }

    pub(crate) async fn run(mut self, mut happenings: mpsc::UnboundedReceiver<Input>) {
        let mut together = Vec::with_capacity(TOGETHER);
        let wake = tokio::time::sleep_until(self.now.mono.into());
        tokio::pin!(wake);
        loop {
            self.hear();
            let all = self.drain_some();
            self.tell_load();
            // Whatever else there is to do.
            if self.hub.poll_timeout().is_some_and(|at| at <= self.now.mono) {
                self.hub.handle_timeout(self.now);
                continue;
            }
            if !all {
                self.take_more(&mut together, &mut happenings).await;
                continue;
            }
            let deadline = self.hub.poll_timeout();
            // It may come too early, but never too late: most deadlines are moved on before they
            // come.
            if let Some(at) = deadline
                && (wake.is_elapsed() || tokio::time::Instant::from(at) < wake.deadline())
            {
                wake.as_mut().reset(at.into());
            }
            tokio::select! {
                biased;
                count = happenings.recv_many(&mut together, TOGETHER) => {
                    if count == 0 {
                        return;
                    }
                    self.take_more(&mut together, &mut happenings).await;
                }
                told = self.notices.recv(), if !self.notices.is_closed() => {
                    self.now = clock::now();
                    match told {
                        Ok(told) => self.tell(&told),
                        Err(RecvError::Lagged(lost)) => self.lagged(lost),
                        Err(RecvError::Closed) => {}
                    }
                }
                () = &mut wake, if deadline.is_some() => {
                    self.now = clock::now();
                    self.hub.handle_timeout(self.now);
                }
            }
        }
    }

    /// Lets the connections have a turn, and takes what they bring: what comes together is handed
    /// out together.
    async fn take_more(
        &mut self,
        together: &mut Vec<Input>,
        happenings: &mut mpsc::UnboundedReceiver<Input>,
    ) {
        tokio::task::yield_now().await;
        self.now = clock::now();
        together.drain(..).for_each(|happening| self.take(happening));
        for _ in 0..TOGETHER {
            match happenings.try_recv() {
                Ok(happening) => self.take(happening),
                Err(_) => return,
            }
        }
    }

    /// What has been told meanwhile: before anything else, for nobody waits for us there.
    fn hear(&mut self) {
        for _ in 0..NOTICES {
            match self.notices.try_recv() {
                Ok(told) => self.tell(&told),
                Err(TryRecvError::Lagged(lost)) => self.lagged(lost),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    fn hear_all(&mut self) {
        while !self.notices.is_empty() {
            self.hear();
        }
    }

    fn lagged(&mut self, lost: u64) {
        tracing::warn!(
            lost,
            "notices were lost; every CometD session that hears them starts again"
        );
        self.questions.clear();
        self.hub.handle_gap(clock::now());
        self.ask_desk();
    }

    fn take(&mut self, happening: Input) {
        let now = self.now;
        match happening {
            Input::Posted(post, wire, reply, at) => {
                self.lag.note(at, now.mono);
                if self.hub.takes_over(&post) && wire.has_gone() {
                    wire.abandon(DeliveryId(post.no.0));
                    return;
                }
                self.waiting.insert(post.no, (wire, Some(reply)));
                self.hub.handle_post(post, now);
            }
            Input::Frame(post, at) => {
                self.lag.note(at, now.mono);
                if let CometdTransport::Socket(socket) = post.via
                    && self.hub.takes_over(&post)
                    && self.sockets.get(&socket).is_some_and(|(wire, _)| wire.has_gone())
                {
                    // It reads on, and finds its end.
                    self.tell_socket(socket, ToSocket::Next);
                    return;
                }
                self.hub.handle_post(post, now);
            }
            Input::Opened(socket, address, wire, tell) => {
                self.sockets.insert(socket, (wire, tell));
                self.hub.handle_open(socket, address, now);
            }
            Input::Gone(socket) => {
                self.sockets.remove(&socket);
                self.hub.handle_gone(socket, now);
            }
            Input::Outcome(path, outcome) => self.outcome(path, outcome),
            Input::Replayed(session, kept) => self.hub.handle_replay(session, kept, now),
            Input::Unkept(user, number) => self.hub.handle_unkept(&user, number),
            Input::LoggedOut(ended) => {
                // What came of it, as its last event, is told first.
                self.hear_all();
                let what = match &ended.what {
                    EndedPart::Session(login) => EndedLogins::One(login),
                    EndedPart::WithoutSession => EndedLogins::WithoutSession,
                    EndedPart::Everything => EndedLogins::All,
                };
                self.hub.handle_logout(&ended.user, what, now);
            }
            Input::Drain(done) => {
                // What was told before is written down with the rest.
                self.hear_all();
                self.hub.handle_drain(now);
                while !self.drain_some() {}
                self.journal.flush(done);
            }
        }
    }

    fn outcome(&mut self, path: ReplyPath, outcome: DeliveryOutcome) {
        let now = self.now;
        match (path, outcome) {
            (ReplyPath::Post(post), DeliveryOutcome::Left) => {
                self.waiting.remove(&post);
                self.hub.handle_written(post, now);
            }
            (ReplyPath::Post(post), DeliveryOutcome::Cut) => {
                self.waiting.remove(&post);
                self.hub.handle_cut(post, now);
            }
            (ReplyPath::Socket(socket), DeliveryOutcome::Left) => self.hub.handle_sent(socket, now),
            (ReplyPath::Socket(socket), DeliveryOutcome::Cut) => {
                self.sockets.remove(&socket);
                self.hub.handle_gone(socket, now);
            }
        }
    }

    fn tell(&mut self, told: &GatewayEvent) {
        let now = clock::now();
        match told {
            GatewayEvent::Notice(notice) => {
                let data = text(&self.uris, notice);
                self.hub.handle_notice(&notice.user, gws_json::channel(notice.topic), &data, now);
            }
            GatewayEvent::Answered(question) => {
                let Some(mut asked) = self.questions.remove(question) else {
                    return;
                };
                self.ask_desk();
                let Ok(notices) = asked.answer.try_recv() else {
                    return;
                };
                let states: Vec<(&'static str, String)> = notices
                    .iter()
                    .map(|notice| (gws_json::channel(notice.topic), notice))
                    .filter(|(channel, _)| asked.channels.contains(channel))
                    .map(|(channel, notice)| (channel, text(&self.uris, notice)))
                    .collect();
                self.hub.handle_state(asked.session, &states, now);
            }
        }
    }

    /// Everything that somebody waits for, and then events for so many sessions as one turn may
    /// take. False: there is more for the next turn.
    fn drain_some(&mut self) -> bool {
        self.here = HERE;
        let (mut handed_out, mut read) = (0, 0);
        loop {
            let Some(output) = self.hub.poll_ready() else {
                if self.is_alone && handed_out == HERE {
                    return !self.hub.has_woken();
                }
                handed_out += 1;
                self.lag.note(self.hub.waiting_since().unwrap_or(self.now.mono), self.now.mono);
                match self.hub.hand_out_next() {
                    true => continue,
                    false => return true,
                }
            };
            read += 1;
            if read % FRESH == 0 {
                self.now = clock::now();
            }
            match output {
                Output::Answer { post, body, has_events } => {
                    self.answer(post, ConnectAnswer::Body(body, has_events))
                }
                Output::Overtaken { post } => self.answer(post, ConnectAnswer::Overtaken),
                Output::Abandon { post } => {
                    let outcome = self
                        .waiting
                        .get(&post)
                        .and_then(|(wire, _)| wire.abandon(DeliveryId(post.0)));
                    if let Some(outcome) = outcome {
                        self.outcome(ReplyPath::Post(post), outcome);
                    }
                }
                Output::AbandonSocket { socket } => {
                    let outcome = self
                        .sockets
                        .get(&socket)
                        .and_then(|(wire, _)| wire.abandon(DeliveryId(socket.0)));
                    if let Some(outcome) = outcome {
                        self.outcome(ReplyPath::Socket(socket), outcome);
                    }
                }
                Output::Send { socket, body } => self.tell_socket(socket, ToSocket::Send(body)),
                Output::Next { socket } => self.tell_socket(socket, ToSocket::Next),
                Output::Close { socket, code, reason } => {
                    self.tell_socket(socket, ToSocket::Close(code, reason))
                }
                Output::State { session, user, channels } => {
                    self.to_ask.push_back((user, session, channels));
                    self.ask_desk();
                }
                Output::Replay { session, user, after } => {
                    self.gauges.replays.increment(1);
                    if !self.journal.read(session, user, after) {
                        self.hub.handle_replay(session, None, clock::now());
                    }
                }
                Output::Keep(change) => self.keep(change),
                Output::UnknownSession { why, gone_for, user } => {
                    metrics::counter!(
                        "undertone_cometd_unknown_sessions_total",
                        "reason" => why.as_str()
                    )
                    .increment(1);
                    let gone_for = gone_for.map(|time| time.as_secs());
                    let named = user.as_ref().map(UserId::as_str);
                    match self.log.may_say(user.as_ref()) {
                        true => tracing::info!(
                            reason = why.as_str(),
                            gone_for,
                            user = named,
                            "a CometD client is told to shake hands again"
                        ),
                        false => tracing::debug!(
                            reason = why.as_str(),
                            gone_for,
                            user = named,
                            "a CometD client is told to shake hands again"
                        ),
                    }
                }
                Output::Throttled { user, address } => {
                    metrics::counter!("undertone_cometd_handshakes_refused_total").increment(1);
                    let named = user.as_ref().map(UserId::as_str);
                    match self.log.may_say(user.as_ref()) {
                        true => {
                            tracing::info!(user = named, %address, "too many CometD handshakes")
                        }
                        false => {
                            tracing::debug!(user = named, %address, "too many CometD handshakes")
                        }
                    }
                }
            }
        }
    }

    /// Few at once: the answers come among the notices, and must not push any out.
    fn ask_desk(&mut self) {
        while self.questions.len() < ASKING
            && let Some((user, session, channels)) = self.to_ask.pop_front()
        {
            let (question, answer, sent) = self.desk.ask_state(user);
            let asked = PendingQuestion { session, channels, answer };
            self.questions.insert(question, asked);
            tokio::spawn(sent);
        }
    }

    fn keep(&mut self, change: LogChange) {
        if let Err(LogChange::Event { user, event, .. }) = self.journal.keep(change) {
            metrics::counter!("undertone_cometd_unkept_total").increment(1);
            self.hub.handle_unkept(&user, event.number);
        }
    }

    /// A request that is gone says so itself, through its wire.
    fn answer(&mut self, post: ClientRequestId, answered: ConnectAnswer) {
        let Some((wire, reply)) = self.waiting.get_mut(&post) else {
            return;
        };
        match (reply.take(), answered) {
            (Some(RequestReply::Here(reply)), answered) => drop(reply.send(answered)),
            (Some(RequestReply::Wire(_)), ConnectAnswer::Overtaken) => {
                wire.supersede(DeliveryId(post.0))
            }
            (Some(RequestReply::Wire(context)), ConnectAnswer::Body(body, has_events)) => {
                let is_last = self.hub.is_draining();
                let bytes = self.head.with(self.now.wall, &context, &body, is_last);
                let at_once = self.is_alone || self.here > 0;
                self.here = self.here.saturating_sub(1);
                if wire.answer(DeliveryId(post.0), (has_events, is_last), bytes, at_once)
                    == Written::Left
                {
                    self.outcome(ReplyPath::Post(post), DeliveryOutcome::Left);
                }
            }
            (None, _) => {}
        }
    }

    fn tell_socket(&mut self, socket: SocketId, order: ToSocket) {
        if let Some((wire, tell)) = self.sockets.get(&socket) {
            let order = match order {
                ToSocket::Send(body) if self.is_alone || self.here > 0 => {
                    self.here = self.here.saturating_sub(1);
                    let path = ReplyPath::Socket(socket);
                    match wire.frame(
                        DeliveryId(socket.0),
                        super::websocket::frame(&body),
                        &self.frames,
                    ) {
                        Written::Left => return self.outcome(path, DeliveryOutcome::Left),
                        Written::Waits => ToSocket::Flush,
                        Written::NotNow => ToSocket::Send(body),
                        Written::Never => return self.outcome(path, DeliveryOutcome::Cut),
                    }
                }
                order => order,
            };
            // It is closing; it says so itself.
            let _ = tell.send(order);
        } else if matches!(order, ToSocket::Send(_) | ToSocket::Close(..))
            && let Some(inbox) = self.inbox.upgrade()
        {
            let _ = inbox.send(Input::Gone(socket));
        }
    }

    fn tell_load(&mut self) {
        let counts = self.hub.counts();
        let load =
            Load { sessions: self.hub.len(), held: counts.held, sockets: self.hub.sockets() };
        self.tell_load.send_if_modified(|told| std::mem::replace(told, load) != load);
        for age in self.hub.delivered() {
            self.gauges.delivery.record(age.as_secs_f64());
        }
        self.gauges.tell((load, counts), std::mem::replace(&mut self.told, (load, counts)));
        if let Some(waiting) = self.lag.measured(clock::instant()) {
            self.log.next_second();
            self.gauges.lag.set(waiting.as_secs_f64());
            self.hub.handle_pressure(waiting);
        }
    }
}

fn text(uris: &Uris, notice: &Notice) -> String {
    serde_json::to_string(&gws_json::notice(uris, notice))
        .unwrap_or_else(|_| unreachable!("a notice is text, numbers and lists of them"))
}

/// How long what comes in has to wait, on the whole.
#[derive(Default)]
struct Lag {
    longest: Duration,
    since: Option<Instant>,
}

const MEASURED_EVERY: Duration = Duration::from_secs(1);

impl Lag {
    fn note(&mut self, came: Instant, now: Instant) {
        self.longest = self.longest.max(now.saturating_duration_since(came));
    }

    fn measured(&mut self, now: Instant) -> Option<Duration> {
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) < MEASURED_EVERY {
            return None;
        }
        self.since = Some(now);
        Some(std::mem::take(&mut self.longest))
    }
}

/// Clients can make us say things as fast as they ask: in the log stand a few lines of each user in
/// a second, of nobody's and of all together a few more, and how many were left out. The metrics
/// count all of them.
#[derive(Default)]
struct LogThrottle {
    said: BTreeMap<Option<UserId>, u32>,
    all: u32,
    left_out: u64,
}

const LINES_OF_ONE: u32 = 5;
const LINES_OF_ALL: u32 = 50;

impl LogThrottle {
    fn may_say(&mut self, user: Option<&UserId>) -> bool {
        let said = self.said.get(&user.cloned()).copied().unwrap_or(0);
        if said >= LINES_OF_ONE || self.all >= LINES_OF_ALL {
            self.left_out += 1;
            return false;
        }
        self.said.insert(user.cloned(), said + 1);
        self.all += 1;
        true
    }

    fn next_second(&mut self) {
        if self.left_out > 0 {
            tracing::info!(
                lines = self.left_out,
                "lines about CometD clients were left out in the last second"
            );
        }
        *self = Self::default();
    }
}

/// Handles, so that nothing is looked up by name while there is work to do.
struct Gauges {
    by_transport: Vec<metrics::Gauge>,
    held: metrics::Gauge,
    sockets: metrics::Gauge,
    queued: metrics::Gauge,
    lag: metrics::Gauge,
    delivered: metrics::Counter,
    replayed: metrics::Counter,
    replays: metrics::Counter,
    delivery: metrics::Histogram,
}

impl Gauges {
    fn new() -> Self {
        Self {
            by_transport: ConnectionType::ALL
                .iter()
                .map(|transport| {
                    metrics::gauge!("undertone_cometd_sessions", "transport" => transport.as_str())
                })
                .collect(),
            held: metrics::gauge!("undertone_cometd_held"),
            sockets: metrics::gauge!("undertone_cometd_websockets"),
            queued: metrics::gauge!("undertone_cometd_queued"),
            lag: metrics::gauge!("undertone_cometd_lag_seconds"),
            delivered: metrics::counter!("undertone_cometd_events_delivered_total"),
            replayed: metrics::counter!("undertone_cometd_events_replayed_total"),
            replays: metrics::counter!("undertone_cometd_replays_total"),
            delivery: metrics::histogram!("undertone_cometd_delivery_seconds"),
        }
    }

    /// Only what differs from what was told before: there are many of them, and many turns.
    fn tell(
        &self,
        (load, counts): (Load, SessionCounts),
        (load_before, before): (Load, SessionCounts),
    ) {
        let set = |gauge: &metrics::Gauge, now: usize, before: usize| {
            if now != before {
                gauge.set(now as f64);
            }
        };
        for ((gauge, now), before) in
            self.by_transport.iter().zip(counts.by_transport).zip(before.by_transport)
        {
            set(gauge, now, before);
        }
        set(&self.held, load.held, load_before.held);
        set(&self.sockets, load.sockets, load_before.sockets);
        set(&self.queued, counts.queued, before.queued);
        if counts.handed_out != before.handed_out {
            self.delivered.absolute(counts.handed_out);
        }
        if counts.replayed != before.replayed {
            self.replayed.absolute(counts.replayed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_says_a_few_lines_of_each_and_counts_the_rest() {
        let mut log = LogThrottle::default();
        let (anna, bert) = (UserId::from("anna"), UserId::from("bert"));
        let said = |log: &mut LogThrottle, who: Option<&UserId>| {
            (0..1_000).filter(|_| log.may_say(who)).count()
        };
        assert_eq!(said(&mut log, None), 5);
        assert_eq!(said(&mut log, Some(&anna)), 5);
        assert_eq!(log.left_out, 1_990);
        log.next_second();
        assert_eq!(said(&mut log, Some(&bert)), 5);
        assert_eq!(
            (0..1_000)
                .filter(|number| log.may_say(Some(&UserId::from(format!("user{number}")))))
                .count(),
            45
        );
    }
}
