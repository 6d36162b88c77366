//! INVITE and non-INVITE transactions, client and server (RFC 3261 17, with RFC 6026 and RFC 4320).
//!
//! ```text
//! INVITE client:      Calling ─▶ Proceeding ─▶ Completed (ACK) | Accepted (2xx) ─▶ gone
//! non-INVITE client:  Trying  ─▶ Proceeding ─▶ Completed ─▶ gone
//! INVITE server:      Proceeding ─▶ Completed ─▶ Confirmed | Accepted (2xx) ─▶ gone
//! non-INVITE server:  Trying ─▶ Completed ─▶ gone
//! ```
//!
//! [`Transactions`] finds the transaction that something is for; a `ClientTransaction` or a
//! `ServerTransaction` behaves, and says what has become of it.
//!
//! The machine knows keys, status codes and finished bytes; it never looks into a message. A server
//! transaction is named by what its requests have in common (RFC 3261 17.2.3) and by its peer, not
//! by a source: each answer goes where the latest copy of the request wants it. What is over is
//! remembered until no copy of it can come any more, in as few bytes as that takes, and never
//! stands in the way of what is new: when memory runs short, the oldest is forgotten first. After
//! every `&mut` call, drain [`Transactions::poll_output`]. What repeats by itself (retransmissions,
//! ACKs of refusals and of repeated 2xx) never reaches the user agent. Neither side sends a 1xx or
//! a 408 to a non-INVITE request (RFC 4320).

mod client;
mod ended;
mod key;
mod server;
#[cfg(test)]
mod tests;

use super::flow::{ConnectionId, Flow};
use super::timers::Timers;
use client::{ClientInput, ClientStep, ClientTransaction};
use ended::{EndedTransactions, PerSource};
pub use key::{ClientKey, ReceivedVia, ServerKey};
use server::{FinalOutcome, ServerInput, ServerStep, ServerTransaction};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// RFC 3261 17.1.1.1 and Table 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Estimate of the round trip: 500 ms.
    pub t1: Duration,
    /// Longest interval between retransmissions: 4 s.
    pub t2: Duration,
    /// How long a message stays in the network: 5 s.
    pub t4: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            t1: Duration::from_millis(500),
            t2: Duration::from_secs(4),
            t4: Duration::from_secs(5),
        }
    }
}

impl Timing {
    /// 64·T1: timers B, F, H, J, L, M.
    pub fn give_up(&self) -> Duration {
        self.t1 * 64
    }
}

/// The timers of RFC 3261 17 and RFC 6026 7.1. Those of server transactions that are over (I, J, L)
/// are the times in [`Transactions`] at which each is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TransactionTimer {
    /// INVITE client, UDP: when to send the request again.
    A,
    /// INVITE client: when to give up waiting for any response.
    B,
    /// INVITE client, UDP: when to forget a refused request (32 s of repeated refusals).
    D,
    /// Non-INVITE client, UDP: when to send the request again.
    E,
    /// Non-INVITE client: when to give up.
    F,
    /// INVITE server, UDP: when to send the refusal again.
    G,
    /// INVITE server: when to give up waiting for the ACK.
    H,
    /// Non-INVITE client, UDP: when to forget an answered request.
    K,
    /// INVITE client: when to forget an accepted request.
    M,
}

/// The two kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionKind {
    /// An INVITE transaction.
    Invite,
    /// Everything else but ACK.
    Other,
}

/// A server transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerTransactionId(u64);

/// A client transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientTransactionId(u64);

/// What a request is to the transactions that exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Not seen before; [`Transactions::open`] makes a transaction of it, if it deserves one.
    New,
    /// A repetition; answered, if an answer is known.
    Repeated,
}

/// What a response is to the transactions that exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply<C> {
    /// For the user agent.
    Pass(ClientTransactionId, C),
    /// The first refusal of an INVITE: for the user agent, which also calls
    /// [`Transactions::acknowledge`].
    Refused(ClientTransactionId, C),
    /// Nobody's, or dealt with here.
    Absorbed,
}

/// Too many transactions; nothing was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many transactions")]
pub struct Overloaded;

/// What the machine wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output<C> {
    /// Bytes to send.
    Transmit {
        /// The flow to the peer.
        flow: Flow,
        /// A whole message.
        bytes: Vec<u8>,
    },
    /// No response in 64·T1; the transaction is gone.
    TimedOut(C),
    /// The transport can not reach the peer; the transaction is gone.
    Unreachable(C),
}

/// How much is kept at most. Requests within dialogs, ACK and CANCEL are never refused for want of
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Server transactions that wait for an answer or for its ACK.
    pub total: usize,
    /// Those of one address that is no trunk's.
    pub per_source: usize,
    /// Refusals that wait for their ACK; with more, the oldest is no longer repeated.
    pub unacknowledged: usize,
    /// Bytes for the memory of server transactions that are over; with more, the oldest is
    /// forgotten.
    pub remembered: usize,
    /// Of these, bytes for one address that is no trunk's; what is more is not remembered.
    pub remembered_per_source: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            total: 20_000,
            per_source: 5_000,
            unacknowledged: 8_192,
            remembered: 48 << 20,
            remembered_per_source: 4 << 20,
        }
    }
}

/// What a remembered transaction costs besides its key and its answer, in bytes (held by
/// `tests/allocation.rs`).
const REMEMBERED: usize = 320;

/// Every transaction. `S` and `C` are what the user agent wants to remember with a server or a
/// client transaction.
#[derive(Debug)]
pub struct Transactions<S, C> {
    timing: Timing,
    bounds: Bounds,
    next_id: u64,
    /// Every request that copies of are known, answered or not.
    known: BTreeMap<Arc<ServerKey>, KnownRequest<S>>,
    /// Those that wait for an answer or for its ACK.
    servers: BTreeMap<ServerTransactionId, ServerTransaction>,
    /// The same, by source.
    per_source: PerSource,
    /// Refused INVITEs without an ACK.
    unacknowledged: BTreeSet<ServerTransactionId>,
    /// Those that wait on a connection.
    on_connection: BTreeSet<(ConnectionId, ServerTransactionId)>,
    /// Those that are over.
    ended: EndedTransactions,
    clients: BTreeMap<ClientTransactionId, ClientTransaction<C>>,
    client_keys: BTreeMap<ClientKey, ClientTransactionId>,
    timers: Timers<(TransactionTimer, u64)>,
    outputs: VecDeque<Output<C>>,
}

/// The server transaction of a request.
#[derive(Debug)]
struct KnownRequest<S> {
    id: ServerTransactionId,
    owner: S,
    /// `None` while it waits for an answer or for its ACK.
    outcome: Option<FinalOutcome>,
}

/// What a transaction reaches beside itself: the times, its timers, and the way out.
struct TransactionContext<'a, C> {
    id: u64,
    timing: &'a Timing,
    timers: &'a mut Timers<(TransactionTimer, u64)>,
    outputs: &'a mut VecDeque<Output<C>>,
}

impl<C> TransactionContext<'_, C> {
    fn set(&mut self, timer: TransactionTimer, at: Instant) {
        self.timers.set((timer, self.id), at);
    }

    fn clear(&mut self, timers: &[TransactionTimer]) {
        for timer in timers {
            self.timers.clear(&(*timer, self.id));
        }
    }

    fn transmit(&mut self, flow: Flow, bytes: Vec<u8>) {
        self.outputs.push_back(Output::Transmit { flow, bytes });
    }
}

impl<S: Clone, C: Clone> Transactions<S, C> {
    /// No transactions yet.
    pub fn new(timing: Timing, bounds: Bounds) -> Self {
        Self {
            timing,
            bounds,
            next_id: 1,
            known: BTreeMap::new(),
            servers: BTreeMap::new(),
            per_source: PerSource::default(),
            unacknowledged: BTreeSet::new(),
            on_connection: BTreeSet::new(),
            ended: EndedTransactions::default(),
            clients: BTreeMap::new(),
            client_keys: BTreeMap::new(),
            timers: Timers::default(),
            outputs: VecDeque::new(),
        }
    }

    // ---- server transactions

    /// A request other than ACK has come.
    pub fn handle_request(&mut self, request: &ReceivedVia) -> Arrival {
        match self.known.get(&request.key) {
            None => return Arrival::New,
            Some(KnownRequest { id, outcome: None, .. }) => {
                self.handle_server(*id, ServerInput::Repeated(&request.path));
            }
            Some(KnownRequest { outcome: Some(outcome), .. }) => {
                if let Some(answer) = outcome.answer() {
                    let (flow, bytes) = (request.path.reply, answer.to_vec());
                    self.outputs.push_back(Output::Transmit { flow, bytes });
                }
            }
        }
        Arrival::Repeated
    }

    /// An ACK has come; true when it was for a refusal and is dealt with. `key` says INVITE.
    pub fn handle_ack(&mut self, key: &ServerKey, now: Instant) -> bool {
        match self.known.get(key) {
            None => false,
            Some(KnownRequest { id, outcome: None, .. }) => {
                self.handle_server(*id, ServerInput::Ack { now })
            }
            Some(KnownRequest { outcome: Some(outcome), .. }) => {
                matches!(outcome, FinalOutcome::Acknowledged)
            }
        }
    }

    /// Makes a server transaction of a new request, if there is room.
    pub fn open(
        &mut self,
        request: ReceivedVia,
        kind: TransactionKind,
        owner: S,
    ) -> Result<ServerTransactionId, Overloaded> {
        let of_source = self.per_source.of(request.key.peer());
        if self.servers.len() >= self.bounds.total || of_source >= self.bounds.per_source {
            return Err(Overloaded);
        }
        Ok(self.open_always(request, kind, owner))
    }

    /// Makes a server transaction of a request that belongs to what is there already: a dialog, or
    /// an INVITE that it cancels.
    pub fn open_always(
        &mut self,
        request: ReceivedVia,
        kind: TransactionKind,
        owner: S,
    ) -> ServerTransactionId {
        let ReceivedVia { key, path } = request;
        self.per_source.add(key.peer(), 1);
        let id = ServerTransactionId(self.fresh());
        let key = Arc::new(key);
        let server = ServerTransaction::new(key.clone(), &path, kind);
        self.on_connection.extend(server.connection().map(|connection| (connection, id)));
        self.known.insert(key, KnownRequest { id, owner, outcome: None });
        self.servers.insert(id, server);
        id
    }

    /// Sends a response. Nothing happens when the transaction is gone or has a final one already.
    pub fn respond(&mut self, id: ServerTransactionId, status: u16, bytes: Vec<u8>, now: Instant) {
        self.handle_server(id, ServerInput::Respond { status, bytes, now });
    }

    /// The INVITE transaction that a key names, and its owner, while it is there (answered or not).
    pub fn server(&self, key: &ServerKey) -> Option<(ServerTransactionId, S)> {
        self.known.get(key).map(|known| (known.id, known.owner.clone()))
    }

    /// A transaction of the same peer, branch and method, whatever its sent-by is.
    pub fn of_same_branch(&self, key: &ServerKey) -> Option<ServerKey> {
        let from = key.first_of_branch()?;
        let mut found = self
            .known
            .range::<ServerKey, _>(&from..)
            .map(|(found, _)| found)
            .take_while(|found| found.is_of_branch(&from));
        found.find(|found| found.method() == key.method()).map(|found| ServerKey::clone(found))
    }

    /// Where the answer to a request goes, while it waits for one.
    pub fn reply_flow(&self, id: ServerTransactionId) -> Option<Flow> {
        self.servers.get(&id).map(ServerTransaction::flow)
    }

    /// Answers that are still to come go another way.
    pub fn redirect(&mut self, id: ServerTransactionId, flow: Flow, fallback: Option<SocketAddr>) {
        self.handle_server(id, ServerInput::Redirect { flow, fallback });
    }

    // ---- client transactions

    /// Sends a request and waits for its response.
    pub fn request(
        &mut self,
        key: ClientKey,
        kind: TransactionKind,
        flow: Flow,
        bytes: Vec<u8>,
        owner: C,
        now: Instant,
    ) -> ClientTransactionId {
        let id = ClientTransactionId(self.fresh());
        let (timing, timers) = (&self.timing, &mut self.timers);
        let mut ctx = TransactionContext { id: id.0, timing, timers, outputs: &mut self.outputs };
        let sent = (flow, bytes);
        let client = ClientTransaction::new(key.clone(), kind, sent, owner, &mut ctx, now);
        self.client_keys.insert(key, id);
        self.clients.insert(id, client);
        id
    }

    /// What waits for a response, and where its request went: whether the response comes from the
    /// same peer is for the caller to say.
    pub fn client(&self, key: &ClientKey) -> Option<(&C, &Flow)> {
        let id = self.client_keys.get(key)?;
        self.clients.get(id).map(|client| (client.owner(), client.flow()))
    }

    /// A response has come from the peer that the request went to.
    pub fn handle_response(
        &mut self,
        key: &ClientKey,
        status: u16,
        to_tag: &[u8],
        now: Instant,
    ) -> Reply<C> {
        match self.client_keys.get(key) {
            Some(id) => self.handle_client(*id, ClientInput::Response { status, to_tag, now }),
            None => Reply::Absorbed,
        }
    }

    /// Sends the ACK of a final response, and again whenever that response is repeated.
    pub fn acknowledge(
        &mut self,
        id: ClientTransactionId,
        to_tag: &[u8],
        flow: Flow,
        bytes: Vec<u8>,
    ) {
        self.handle_client(id, ClientInput::Acknowledge { to_tag, flow, ack: &bytes });
        self.outputs.push_back(Output::Transmit { flow, bytes });
    }

    /// Forgets a client transaction: a cancelled INVITE that nobody finished (RFC 3261 9.1).
    pub fn abandon(&mut self, id: ClientTransactionId) {
        self.remove_client(id);
    }

    /// Nobody waits for the answer to a request any more: it is not sent again, and what comes of it
    /// is still told.
    pub fn stop_repeating(&mut self, id: ClientTransactionId) {
        for timer in [TransactionTimer::A, TransactionTimer::E] {
            self.timers.clear(&(timer, id.0));
        }
    }

    /// Forgets an INVITE in 64·T1, whatever has come by then: its dialog is over. Until then
    /// refusals are still acknowledged.
    pub fn abandon_later(&mut self, id: ClientTransactionId, now: Instant) {
        self.handle_client(id, ClientInput::AbandonLater { now });
    }

    // ---- both

    /// The transport has lost the way to a peer: requests that still wait there have failed, and
    /// answers are said by a new connection (RFC 3261 18.2.2).
    pub fn handle_unreachable(&mut self, flow: &Flow) {
        if flow.connection != ConnectionId::NONE {
            let waiting = (flow.connection, ServerTransactionId(0))
                ..=(flow.connection, ServerTransactionId(u64::MAX));
            let waiting: Vec<_> = self.on_connection.range(waiting).map(|(_, id)| *id).collect();
            for id in waiting {
                self.handle_server(id, ServerInput::ConnectionLost(flow));
            }
        }
        let lost: Vec<_> = self
            .clients
            .iter()
            .filter(|(_, client)| client.waits_on(flow))
            .map(|(id, _)| *id)
            .collect();
        for id in lost {
            self.handle_client(id, ClientInput::Unreachable);
        }
    }

    /// What has gone by this flow has not arrived: requests that nothing has been heard of have
    /// failed.
    pub fn handle_undelivered(&mut self, flow: &Flow) {
        let unheard = |(_, client): &(&_, &ClientTransaction<C>)| {
            client.flow() == flow && client.is_unheard()
        };
        let lost: Vec<_> = self.clients.iter().filter(unheard).map(|(id, _)| *id).collect();
        for id in lost {
            self.handle_client(id, ClientInput::Unreachable);
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((timer, id)) = self.timers.pop(now) {
            match timer {
                TransactionTimer::G | TransactionTimer::H => {
                    self.handle_server(
                        ServerTransactionId(id),
                        ServerInput::Timeout { timer, now },
                    );
                }
                TransactionTimer::A
                | TransactionTimer::B
                | TransactionTimer::D
                | TransactionTimer::E
                | TransactionTimer::F
                | TransactionTimer::K
                | TransactionTimer::M => {
                    self.handle_client(
                        ClientTransactionId(id),
                        ClientInput::Timeout { timer, now },
                    );
                }
            }
        }
        while let Some(key) = self.ended.pop_due(now) {
            self.known.remove(&*key);
        }
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.timers.next(), self.ended.next()].into_iter().flatten().min()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output<C>> {
        self.outputs.pop_front()
    }

    /// No transaction and no timer is left.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
            && self.servers.is_empty()
            && self.per_source.is_empty()
            && self.unacknowledged.is_empty()
            && self.on_connection.is_empty()
            && self.ended.is_empty()
            && self.clients.is_empty()
            && self.client_keys.is_empty()
            && self.timers.is_empty()
    }

    /// Server transactions that wait for something, and client transactions.
    pub fn count(&self) -> (usize, usize) {
        (self.servers.len(), self.clients.len())
    }

    /// Server transactions that are over and not forgotten, and how many bytes that takes, about.
    pub fn remembered(&self) -> (usize, usize) {
        (self.ended.count(), self.ended.remembered())
    }

    fn fresh(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Something is for a server transaction, and may end it. False when it does not matter there.
    fn handle_server(&mut self, id: ServerTransactionId, input: ServerInput<'_>) -> bool {
        let Some(server) = self.servers.get_mut(&id) else {
            return false;
        };
        let (timing, timers) = (&self.timing, &mut self.timers);
        let mut ctx = TransactionContext { id: id.0, timing, timers, outputs: &mut self.outputs };
        let before = server.connection();
        let step = server.handle(input, &mut ctx);
        let after = server.connection();
        if before != after {
            if let Some(connection) = before {
                self.on_connection.remove(&(connection, id));
            }
            self.on_connection.extend(after.map(|connection| (connection, id)));
        }
        match step {
            ServerStep::Ignored => return false,
            ServerStep::Stays => {}
            ServerStep::Refused => {
                self.unacknowledged.insert(id);
                if self.unacknowledged.len() > self.bounds.unacknowledged
                    && let Some(oldest) = self.unacknowledged.pop_first()
                {
                    self.terminate(oldest);
                }
            }
            ServerStep::Ended(outcome, until) => self.end(id, outcome, until),
            ServerStep::Terminated => self.terminate(id),
        }
        true
    }

    /// A server transaction waits for nothing any more.
    fn take_server(&mut self, id: ServerTransactionId) -> Option<ServerTransaction> {
        let server = self.servers.remove(&id)?;
        self.unacknowledged.remove(&id);
        for timer in [TransactionTimer::G, TransactionTimer::H] {
            self.timers.clear(&(timer, id.0));
        }
        if let Some(connection) = server.connection() {
            self.on_connection.remove(&(connection, id));
        }
        self.per_source.subtract(server.key.peer(), 1);
        Some(server)
    }

    /// A server transaction is over, without a memory of it.
    fn terminate(&mut self, id: ServerTransactionId) {
        if let Some(server) = self.take_server(id) {
            self.known.remove(&*server.key);
        }
    }

    /// A server transaction is over: what its copies need is remembered.
    fn end(&mut self, id: ServerTransactionId, outcome: FinalOutcome, until: Instant) {
        let Some(ServerTransaction { key, .. }) = self.take_server(id) else {
            return;
        };
        let cost = REMEMBERED + key.len() + outcome.answer().map_or(0, <[u8]>::len);
        if !self.ended.add((id, &key), cost, until, &self.bounds) {
            self.known.remove(&*key);
            return;
        }
        self.known.entry(key).and_modify(|known| known.outcome = Some(outcome));
        while let Some(key) = self.ended.pop_excess(&self.bounds) {
            self.known.remove(&*key);
        }
    }

    /// Something is for a client transaction, and may end it.
    fn handle_client(&mut self, id: ClientTransactionId, input: ClientInput<'_>) -> Reply<C> {
        let Some(client) = self.clients.get_mut(&id) else {
            return Reply::Absorbed;
        };
        let (timing, timers) = (&self.timing, &mut self.timers);
        let mut ctx = TransactionContext { id: id.0, timing, timers, outputs: &mut self.outputs };
        let reply = match client.handle(input, &mut ctx) {
            ClientStep::Pass => Reply::Pass(id, client.owner().clone()),
            ClientStep::Refused => Reply::Refused(id, client.owner().clone()),
            ClientStep::Absorbed => Reply::Absorbed,
        };
        if client.is_terminated() {
            self.remove_client(id);
        }
        reply
    }

    fn remove_client(&mut self, id: ClientTransactionId) {
        let Some(client) = self.clients.remove(&id) else {
            return;
        };
        self.client_keys.remove(&client.key);
        for timer in [
            TransactionTimer::A,
            TransactionTimer::B,
            TransactionTimer::D,
            TransactionTimer::E,
            TransactionTimer::F,
            TransactionTimer::K,
            TransactionTimer::M,
        ] {
            self.timers.clear(&(timer, id.0));
        }
    }
}
