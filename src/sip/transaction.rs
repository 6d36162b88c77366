//! INVITE and non-INVITE transactions, client and server (RFC 3261 17, with RFC 6026 and RFC 4320).
//!
//! ```text
//! INVITE client:      Calling ─▶ Proceeding ─▶ Completed (ACK) | Accepted (2xx) ─▶ gone
//! non-INVITE client:  Trying  ─▶ Proceeding ─▶ Completed ─▶ gone
//! INVITE server:      Proceeding ─▶ Completed ─▶ Confirmed | Accepted (2xx) ─▶ gone
//! non-INVITE server:  Trying ─▶ Completed ─▶ gone
//! ```
//!
//! The machine knows keys, status codes and finished bytes; it never looks into a message. A server
//! transaction is named by what its requests have in common (RFC 3261 17.2.3) and by its peer, not
//! by a source: each answer goes where the latest copy of the request wants it. What is over is
//! remembered until no copy of it can come any more, in as few bytes as that takes, and never
//! stands in the way of what is new: when memory runs short, the oldest is forgotten first. After
//! every `&mut` call, drain [`Transactions::poll_output`]. What repeats by itself (retransmissions,
//! ACKs of refusals and of repeated 2xx) never reaches the user agent. Neither side sends a 1xx or
//! a 408 to a non-INVITE request (RFC 4320).

use super::flow::{ConnectionId, Flow};
use super::peer::{Peer, ReturnPath, flow_to};
use super::timers::Timers;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
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

/// What makes two requests one (RFC 3261 17.2.3), with the peer: nobody but the sender of an INVITE
/// may cancel it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerKey {
    peer: Peer,
    /// Length and bytes of the branch, the same of sent-by, then the method. RFC 2543: a branch of
    /// no length, length and bytes of the other marks, then the method.
    marks: Box<[u8]>,
    method_at: u32,
}

impl ServerKey {
    /// The key of a request with a branch that begins with the magic cookie. `sent_by` is in lower
    /// case; ACK counts as INVITE.
    pub fn new(peer: Peer, branch: &[u8], sent_by: &[u8], method: &[u8]) -> Self {
        let mut marks = Vec::with_capacity(branch.len() + sent_by.len() + method.len() + 8);
        for part in [branch, sent_by] {
            marks.extend_from_slice(&(part.len() as u32).to_be_bytes());
            marks.extend_from_slice(part);
        }
        Self::of(peer, marks, method)
    }

    /// The key of an RFC 2543 request: Request-URI, From tag, Call-ID, CSeq number and top Via, in
    /// this order.
    pub fn old(peer: Peer, fields: &[&[u8]], method: &[u8]) -> Self {
        let mut marks = vec![0; 4];
        for field in fields {
            marks.extend_from_slice(&(field.len() as u32).to_be_bytes());
            marks.extend_from_slice(field);
        }
        Self::of(peer, marks, method)
    }

    fn of(peer: Peer, mut marks: Vec<u8>, method: &[u8]) -> Self {
        let method_at = marks.len() as u32;
        marks.extend_from_slice(method);
        Self { peer, marks: marks.into_boxed_slice(), method_at }
    }

    /// The same marks with another method: the INVITE that a CANCEL means.
    pub fn with_method(&self, wanted: &[u8]) -> ServerKey {
        Self::of(self.peer, self.marks[..self.method_at as usize].to_vec(), wanted)
    }

    /// The peer that sent the request.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    fn method(&self) -> &[u8] {
        &self.marks[self.method_at as usize..]
    }

    /// Length and bytes of the branch; `None` of RFC 2543's.
    fn branch(&self) -> Option<&[u8]> {
        let (length, rest) = self.marks.split_first_chunk::<4>()?;
        let length = u32::from_be_bytes(*length) as usize;
        (length > 0 && length <= rest.len()).then(|| &self.marks[..4 + length])
    }
}

impl std::fmt::Debug for ServerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ServerKey({:?}, {})", self.peer, self.marks.escape_ascii())
    }
}

/// A request as its transaction sees it.
#[derive(Clone, Debug)]
pub struct ReceivedVia {
    /// What it has in common with its repetitions.
    pub key: ServerKey,
    /// Where it came from, and where its responses go.
    pub path: ReturnPath,
}

/// What finds a client transaction (RFC 3261 17.1.3).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientKey {
    /// The branch of our Via.
    pub branch: Vec<u8>,
    /// Method of the CSeq.
    pub method: Vec<u8>,
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
    /// Those that wait for an answer or for its ACK.
    servers: BTreeMap<ServerTransactionId, ServerTransaction<S>>,
    /// Those that are over.
    ended: BTreeMap<ServerTransactionId, Ended<S>>,
    server_keys: BTreeMap<Arc<ServerKey>, ServerTransactionId>,
    /// When each that is over is forgotten.
    forgotten_at: BTreeSet<(Instant, ServerTransactionId)>,
    /// Refused INVITEs without an ACK.
    unacknowledged: BTreeSet<ServerTransactionId>,
    /// Those that wait on a connection.
    on_connection: BTreeSet<(ConnectionId, ServerTransactionId)>,
    per_source: BTreeMap<IpAddr, Usage>,
    /// Bytes, about.
    remembered: usize,
    clients: BTreeMap<ClientTransactionId, ClientTransaction<C>>,
    client_keys: BTreeMap<ClientKey, ClientTransactionId>,
    timers: Timers<(TransactionTimer, u64)>,
    outputs: VecDeque<Output<C>>,
}

#[derive(Debug)]
struct ServerTransaction<S> {
    key: Arc<ServerKey>,
    flow: Flow,
    fallback: Option<SocketAddr>,
    state: ServerState,
    owner: S,
}

#[derive(Debug)]
enum ServerState {
    InviteProceeding { last: Option<Vec<u8>> },
    InviteCompleted { response: Vec<u8>, interval: Duration },
    Trying,
}

/// A server transaction that is over.
#[derive(Debug)]
struct Ended<S> {
    key: Arc<ServerKey>,
    outcome: FinalOutcome,
    until: Instant,
    owner: S,
}

#[derive(Debug)]
enum FinalOutcome {
    /// An INVITE with a 2xx, which the user agent repeats itself: copies are absorbed (RFC 6026 7.1,
    /// timer L).
    Accepted,
    /// A refused INVITE with its ACK: copies of both are absorbed (timer I).
    Acknowledged,
    /// Anything else: its answer, for copies (timer J).
    Answered(Box<[u8]>),
}

/// What one address that is no trunk's takes up.
#[derive(Debug, Default)]
struct Usage {
    open: usize,
    /// Bytes, about.
    remembered: usize,
}

#[derive(Debug)]
struct ClientTransaction<C> {
    key: ClientKey,
    flow: Flow,
    state: ClientState,
    owner: C,
}

#[derive(Debug)]
enum ClientState {
    Calling { request: Vec<u8>, interval: Duration },
    InviteProceeding,
    InviteCompleted { ack: Option<Vec<u8>> },
    InviteAccepted { acks: Vec<Acknowledged> },
    Trying { request: Vec<u8>, interval: Duration },
    Proceeding { request: Vec<u8> },
    Completed,
}

#[derive(Debug)]
struct Acknowledged {
    to_tag: Vec<u8>,
    flow: Flow,
    ack: Vec<u8>,
}

/// 2xx of so many forks are told apart; further ones are ignored.
const FORKS: usize = 8;

impl<S: Clone, C: Clone> Transactions<S, C> {
    /// No transactions yet.
    pub fn new(timing: Timing, bounds: Bounds) -> Self {
        Self {
            timing,
            bounds,
            next_id: 1,
            servers: BTreeMap::new(),
            ended: BTreeMap::new(),
            server_keys: BTreeMap::new(),
            forgotten_at: BTreeSet::new(),
            unacknowledged: BTreeSet::new(),
            on_connection: BTreeSet::new(),
            per_source: BTreeMap::new(),
            remembered: 0,
            clients: BTreeMap::new(),
            client_keys: BTreeMap::new(),
            timers: Timers::default(),
            outputs: VecDeque::new(),
        }
    }

    /// A request other than ACK has come.
    pub fn handle_request(&mut self, request: &ReceivedVia) -> Arrival {
        let Some(&id) = self.server_keys.get(&request.key) else {
            return Arrival::New;
        };
        let again = match (self.servers.get(&id), self.ended.get(&id)) {
            (Some(server), _) => match &server.state {
                ServerState::InviteProceeding { last } => last.clone(),
                ServerState::InviteCompleted { response, .. } => Some(response.clone()),
                ServerState::Trying => None,
            },
            (None, Some(ended)) => match &ended.outcome {
                FinalOutcome::Answered(response) => Some(response.to_vec()),
                FinalOutcome::Accepted | FinalOutcome::Acknowledged => None,
            },
            (None, None) => None,
        };
        // Whoever asks again from another place is answered there: the first may be gone.
        self.redirect(id, request.path.reply, request.path.fallback);
        if let Some(bytes) = again {
            let flow = request.path.reply;
            self.outputs.push_back(Output::Transmit { flow, bytes });
        }
        Arrival::Repeated
    }

    /// An ACK has come; true when it was for a refusal and is dealt with. `key` says INVITE.
    pub fn handle_ack(&mut self, key: &ServerKey, now: Instant) -> bool {
        let Some(&id) = self.server_keys.get(key) else {
            return false;
        };
        if let Some(ended) = self.ended.get(&id) {
            return matches!(ended.outcome, FinalOutcome::Acknowledged);
        }
        let Some(server) = self.servers.get(&id) else {
            return false;
        };
        let reliable = server.flow.protocol.is_reliable();
        match server.state {
            ServerState::InviteCompleted { .. } if reliable => drop(self.take_server(id)),
            ServerState::InviteCompleted { .. } => {
                self.end(id, FinalOutcome::Acknowledged, now + self.timing.t4)
            }
            ServerState::InviteProceeding { .. } | ServerState::Trying => return false,
        }
        true
    }

    /// Makes a server transaction of a new request, if there is room.
    pub fn open(
        &mut self,
        request: ReceivedVia,
        kind: TransactionKind,
        owner: S,
    ) -> Result<ServerTransactionId, Overloaded> {
        let of_source = match request.key.peer {
            Peer::Host(source) => self.per_source.get(&source).map_or(0, |usage| usage.open),
            Peer::Trunk(_) => 0,
        };
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
        if let Peer::Host(source) = key.peer {
            self.per_source.entry(source).or_default().open += 1;
        }
        let id = ServerTransactionId(self.fresh());
        let state = match kind {
            TransactionKind::Invite => ServerState::InviteProceeding { last: None },
            TransactionKind::Other => ServerState::Trying,
        };
        let key = Arc::new(key);
        if path.reply.connection != ConnectionId::NONE {
            self.on_connection.insert((path.reply.connection, id));
        }
        let server = ServerTransaction {
            key: key.clone(),
            flow: path.reply,
            fallback: path.fallback,
            state,
            owner,
        };
        self.server_keys.insert(key, id);
        self.servers.insert(id, server);
        id
    }

    /// Sends a response. Nothing happens when the transaction is gone or has a final one already.
    pub fn respond(&mut self, id: ServerTransactionId, status: u16, bytes: Vec<u8>, now: Instant) {
        let Some(server) = self.servers.get_mut(&id) else {
            return;
        };
        let reliable = server.flow.protocol.is_reliable();
        let flow = server.flow;
        match (&mut server.state, status) {
            (ServerState::InviteProceeding { last }, 100..=199) => *last = Some(bytes.clone()),
            (ServerState::InviteProceeding { .. }, 200..=299) => {
                self.end(id, FinalOutcome::Accepted, now + self.timing.give_up())
            }
            (ServerState::InviteProceeding { .. }, _) => {
                server.state = ServerState::InviteCompleted {
                    response: bytes.clone(),
                    interval: self.timing.t1,
                };
                if !reliable {
                    self.timers.set((TransactionTimer::G, id.0), now + self.timing.t1);
                }
                self.timers.set((TransactionTimer::H, id.0), now + self.timing.give_up());
                self.unacknowledged.insert(id);
                if self.unacknowledged.len() > self.bounds.unacknowledged
                    && let Some(oldest) = self.unacknowledged.pop_first()
                {
                    self.take_server(oldest);
                }
            }
            (ServerState::Trying, 200..) if reliable => drop(self.take_server(id)),
            (ServerState::Trying, 200..) => {
                let answer = FinalOutcome::Answered(bytes.clone().into_boxed_slice());
                self.end(id, answer, now + self.timing.give_up());
            }
            (ServerState::InviteCompleted { .. } | ServerState::Trying, _) => return,
        }
        self.outputs.push_back(Output::Transmit { flow, bytes });
    }

    /// The INVITE transaction that a key names, and its owner, while it is there (answered or not).
    pub fn server(&self, key: &ServerKey) -> Option<(ServerTransactionId, S)> {
        let id = *self.server_keys.get(key)?;
        let owner = self.servers.get(&id).map(|server| &server.owner);
        let owner = owner.or_else(|| self.ended.get(&id).map(|ended| &ended.owner));
        owner.map(|owner| (id, owner.clone()))
    }

    /// A transaction of the same peer, branch and method, whatever its sent-by is.
    pub fn of_same_branch(&self, key: &ServerKey) -> Option<ServerKey> {
        let branch = key.branch()?;
        let from = ServerKey { marks: branch.into(), ..key.clone() };
        let of_branch =
            |found: &&Arc<ServerKey>| found.peer == key.peer && found.marks.starts_with(branch);
        let mut found = self
            .server_keys
            .range::<ServerKey, _>(&from..)
            .map(|(key, _)| key)
            .take_while(of_branch);
        found.find(|found| found.method() == key.method()).map(|found| ServerKey::clone(found))
    }

    /// Where the answer to a request goes, while it waits for one.
    pub fn reply_flow(&self, id: ServerTransactionId) -> Option<Flow> {
        self.servers.get(&id).map(|server| server.flow)
    }

    /// Answers that are still to come go another way.
    pub fn redirect(&mut self, id: ServerTransactionId, flow: Flow, fallback: Option<SocketAddr>) {
        let Some(server) = self.servers.get_mut(&id) else {
            return;
        };
        if server.flow.connection != ConnectionId::NONE {
            self.on_connection.remove(&(server.flow.connection, id));
        }
        if flow.connection != ConnectionId::NONE {
            self.on_connection.insert((flow.connection, id));
        }
        (server.flow, server.fallback) = (flow, fallback);
    }

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
        let unreliable = !flow.protocol.is_reliable();
        let (again, give_up) = match kind {
            TransactionKind::Invite => (TransactionTimer::A, TransactionTimer::B),
            TransactionKind::Other => (TransactionTimer::E, TransactionTimer::F),
        };
        if unreliable {
            self.timers.set((again, id.0), now + self.timing.t1);
        }
        self.timers.set((give_up, id.0), now + self.timing.give_up());
        let (request, interval) = (bytes.clone(), self.timing.t1);
        let state = match kind {
            TransactionKind::Invite => ClientState::Calling { request, interval },
            TransactionKind::Other => ClientState::Trying { request, interval },
        };
        self.client_keys.insert(key.clone(), id);
        self.clients.insert(id, ClientTransaction { key, flow, state, owner });
        self.outputs.push_back(Output::Transmit { flow, bytes });
        id
    }

    /// What waits for a response, and where its request went: whether the response comes from the
    /// same peer is for the caller to say.
    pub fn client(&self, key: &ClientKey) -> Option<(&C, &Flow)> {
        let id = self.client_keys.get(key)?;
        self.clients.get(id).map(|client| (&client.owner, &client.flow))
    }

    /// A response has come from the peer that the request went to.
    pub fn handle_response(
        &mut self,
        key: &ClientKey,
        status: u16,
        to_tag: &[u8],
        now: Instant,
    ) -> Reply<C> {
        let Some(&id) = self.client_keys.get(key) else {
            return Reply::Absorbed;
        };
        let Some(client) = self.clients.get_mut(&id) else {
            return Reply::Absorbed;
        };
        let reliable = client.flow.protocol.is_reliable();
        let owner = client.owner.clone();
        match (&mut client.state, status) {
            (ClientState::Calling { .. }, 100..=199) => {
                client.state = ClientState::InviteProceeding;
                self.clear(&[TransactionTimer::A, TransactionTimer::B], id.0);
                Reply::Pass(id, owner)
            }
            (ClientState::InviteProceeding, 100..=199) => Reply::Pass(id, owner),
            (ClientState::Calling { .. } | ClientState::InviteProceeding, 200..=299) => {
                client.state = ClientState::InviteAccepted { acks: Vec::new() };
                self.clear(&[TransactionTimer::A, TransactionTimer::B], id.0);
                self.timers.set((TransactionTimer::M, id.0), now + self.timing.give_up());
                Reply::Pass(id, owner)
            }
            (ClientState::Calling { .. } | ClientState::InviteProceeding, _) => {
                client.state = ClientState::InviteCompleted { ack: None };
                self.clear(&[TransactionTimer::A, TransactionTimer::B], id.0);
                // RFC 3261 17.1.1.2: at least 32 s over UDP. Over TCP the transaction goes when its
                // ACK has been sent.
                if !reliable {
                    self.timers.set((TransactionTimer::D, id.0), now + self.timing.give_up());
                }
                Reply::Refused(id, owner)
            }
            (ClientState::InviteCompleted { ack }, 300..) => {
                if let Some(bytes) = ack.clone() {
                    let flow = client.flow;
                    self.outputs.push_back(Output::Transmit { flow, bytes });
                }
                Reply::Absorbed
            }
            (ClientState::InviteAccepted { acks }, 200..=299) => {
                match acks.iter().find(|known| known.to_tag == to_tag) {
                    Some(known) => {
                        let (flow, bytes) = (known.flow, known.ack.clone());
                        self.outputs.push_back(Output::Transmit { flow, bytes });
                        Reply::Absorbed
                    }
                    None if acks.len() < FORKS => Reply::Pass(id, owner),
                    None => Reply::Absorbed,
                }
            }
            (ClientState::Trying { request, .. }, 100..=199) => {
                let request = std::mem::take(request);
                client.state = ClientState::Proceeding { request };
                if !reliable {
                    self.timers.set((TransactionTimer::E, id.0), now + self.timing.t2);
                }
                Reply::Absorbed
            }
            (ClientState::Trying { .. } | ClientState::Proceeding { .. }, 200..) => {
                client.state = ClientState::Completed;
                self.clear(&[TransactionTimer::E, TransactionTimer::F], id.0);
                if reliable {
                    self.remove_client(id);
                } else {
                    self.timers.set((TransactionTimer::K, id.0), now + self.timing.t4);
                }
                Reply::Pass(id, owner)
            }
            (
                ClientState::InviteCompleted { .. }
                | ClientState::InviteAccepted { .. }
                | ClientState::Proceeding { .. }
                | ClientState::Completed
                | ClientState::Trying { .. },
                _,
            ) => Reply::Absorbed,
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
        if let Some(client) = self.clients.get_mut(&id) {
            match &mut client.state {
                ClientState::InviteCompleted { ack } => {
                    *ack = Some(bytes.clone());
                    if client.flow.protocol.is_reliable() {
                        self.remove_client(id);
                    }
                }
                ClientState::InviteAccepted { acks } => {
                    acks.push(Acknowledged { to_tag: to_tag.to_vec(), flow, ack: bytes.clone() })
                }
                ClientState::Calling { .. }
                | ClientState::InviteProceeding
                | ClientState::Trying { .. }
                | ClientState::Proceeding { .. }
                | ClientState::Completed => {}
            }
        }
        self.outputs.push_back(Output::Transmit { flow, bytes });
    }

    /// Forgets a client transaction: a cancelled INVITE that nobody finished (RFC 3261 9.1).
    pub fn abandon(&mut self, id: ClientTransactionId) {
        self.remove_client(id);
    }

    /// Forgets an INVITE in 64·T1, whatever has come by then: its dialog is over. Until then
    /// refusals are still acknowledged.
    pub fn abandon_later(&mut self, id: ClientTransactionId, now: Instant) {
        if self.clients.contains_key(&id) {
            self.timers.set((TransactionTimer::M, id.0), now + self.timing.give_up());
        }
    }

    /// The transport has lost the way to a peer: requests that still wait there have failed, and
    /// answers are said by a new connection (RFC 3261 18.2.2).
    pub fn handle_unreachable(&mut self, flow: &Flow) {
        let waiting = (flow.connection, ServerTransactionId(0))
            ..=(flow.connection, ServerTransactionId(u64::MAX));
        let waiting = self
            .on_connection
            .range(waiting)
            .filter(|(connection, _)| *connection != ConnectionId::NONE);
        for id in waiting.map(|(_, id)| *id).collect::<Vec<_>>() {
            let Some(server) = self.servers.get(&id) else {
                continue;
            };
            let Some(address) = server.fallback else {
                continue;
            };
            let again = match &server.state {
                ServerState::InviteProceeding { last } => last.clone(),
                ServerState::InviteCompleted { response, .. } => Some(response.clone()),
                ServerState::Trying => None,
            };
            let new = flow_to(address, flow);
            self.redirect(id, new, None);
            if let Some(bytes) = again {
                self.outputs.push_back(Output::Transmit { flow: new, bytes });
            }
        }
        let lost: Vec<ClientTransactionId> = self
            .clients
            .iter()
            .filter(|(_, client)| client.flow == *flow && client.waits())
            .map(|(id, _)| *id)
            .collect();
        for id in lost {
            if let Some(client) = self.remove_client(id) {
                self.outputs.push_back(Output::Unreachable(client.owner));
            }
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((timer, id)) = self.timers.pop(now) {
            match timer {
                TransactionTimer::A | TransactionTimer::E => {
                    self.repeat_request(timer, ClientTransactionId(id), now)
                }
                TransactionTimer::G => self.repeat_refusal(ServerTransactionId(id), now),
                TransactionTimer::B | TransactionTimer::F => {
                    if let Some(client) = self.remove_client(ClientTransactionId(id)) {
                        self.outputs.push_back(Output::TimedOut(client.owner));
                    }
                }
                TransactionTimer::D | TransactionTimer::K | TransactionTimer::M => {
                    self.remove_client(ClientTransactionId(id));
                }
                TransactionTimer::H => drop(self.take_server(ServerTransactionId(id))),
            }
        }
        while let Some(&(at, id)) = self.forgotten_at.first() {
            if at > now {
                break;
            }
            self.forget(id);
        }
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        let forgotten_at = self.forgotten_at.first().map(|(at, _)| *at);
        [self.timers.next(), forgotten_at].into_iter().flatten().min()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output<C>> {
        self.outputs.pop_front()
    }

    /// No transaction and no timer is left.
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty()
            && self.ended.is_empty()
            && self.forgotten_at.is_empty()
            && self.unacknowledged.is_empty()
            && self.on_connection.is_empty()
            && self.remembered == 0
            && self.clients.is_empty()
            && self.timers.is_empty()
            && self.per_source.is_empty()
            && self.server_keys.is_empty()
            && self.client_keys.is_empty()
    }

    /// Server transactions that wait for something, and client transactions.
    pub fn count(&self) -> (usize, usize) {
        (self.servers.len(), self.clients.len())
    }

    /// Server transactions that are over and not forgotten, and how many bytes that takes, about.
    pub fn remembered(&self) -> (usize, usize) {
        (self.ended.len(), self.remembered)
    }

    fn repeat_request(&mut self, timer: TransactionTimer, id: ClientTransactionId, now: Instant) {
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        let (bytes, wait) = match &mut client.state {
            ClientState::Calling { request, interval } => {
                *interval *= 2;
                (request.clone(), *interval)
            }
            ClientState::Trying { request, interval } => {
                *interval = (*interval * 2).min(self.timing.t2);
                (request.clone(), *interval)
            }
            ClientState::Proceeding { request } => (request.clone(), self.timing.t2),
            ClientState::InviteProceeding
            | ClientState::InviteCompleted { .. }
            | ClientState::InviteAccepted { .. }
            | ClientState::Completed => {
                return;
            }
        };
        self.timers.set((timer, id.0), now + wait);
        let flow = client.flow;
        self.outputs.push_back(Output::Transmit { flow, bytes });
    }

    fn repeat_refusal(&mut self, id: ServerTransactionId, now: Instant) {
        let Some(server) = self.servers.get_mut(&id) else {
            return;
        };
        let ServerState::InviteCompleted { response, interval } = &mut server.state else {
            return;
        };
        *interval = (*interval * 2).min(self.timing.t2);
        self.timers.set((TransactionTimer::G, id.0), now + *interval);
        self.outputs.push_back(Output::Transmit { flow: server.flow, bytes: response.clone() });
    }

    fn fresh(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn clear(&mut self, timers: &[TransactionTimer], id: u64) {
        for timer in timers {
            self.timers.clear(&(*timer, id));
        }
    }

    /// Takes a server transaction out, without a memory of it.
    fn take_server(&mut self, id: ServerTransactionId) -> Option<ServerTransaction<S>> {
        let server = self.servers.remove(&id)?;
        self.server_keys.remove(&*server.key);
        self.unacknowledged.remove(&id);
        self.clear(&[TransactionTimer::G, TransactionTimer::H], id.0);
        if server.flow.connection != ConnectionId::NONE {
            self.on_connection.remove(&(server.flow.connection, id));
        }
        self.use_less(server.key.peer, 1, 0);
        Some(server)
    }

    /// A server transaction is over: what its copies need is remembered.
    fn end(&mut self, id: ServerTransactionId, outcome: FinalOutcome, until: Instant) {
        let Some(ServerTransaction { key, owner, .. }) = self.take_server(id) else {
            return;
        };
        let ended = Ended { key, outcome, until, owner };
        let cost = ended.cost();
        if let Peer::Host(source) = ended.key.peer {
            let usage = self.per_source.entry(source).or_default();
            if usage.remembered + cost > self.bounds.remembered_per_source {
                return self.use_less(Peer::Host(source), 0, 0);
            }
            usage.remembered += cost;
        }
        self.remembered += cost;
        self.server_keys.insert(ended.key.clone(), id);
        self.forgotten_at.insert((until, id));
        self.ended.insert(id, ended);
        while self.remembered > self.bounds.remembered
            && let Some(&(_, oldest)) = self.forgotten_at.first()
        {
            self.forget(oldest);
        }
    }

    fn forget(&mut self, id: ServerTransactionId) {
        let Some(ended) = self.ended.remove(&id) else {
            return;
        };
        self.forgotten_at.remove(&(ended.until, id));
        self.server_keys.remove(&*ended.key);
        let cost = ended.cost();
        self.remembered -= cost;
        self.use_less(ended.key.peer, 0, cost);
    }

    fn use_less(&mut self, peer: Peer, open: usize, remembered: usize) {
        let Peer::Host(source) = peer else { return };
        let Some(usage) = self.per_source.get_mut(&source) else {
            return;
        };
        usage.open -= open;
        usage.remembered -= remembered;
        if usage.open == 0 && usage.remembered == 0 {
            self.per_source.remove(&source);
        }
    }

    fn remove_client(&mut self, id: ClientTransactionId) -> Option<ClientTransaction<C>> {
        let client = self.clients.remove(&id)?;
        self.client_keys.remove(&client.key);
        self.clear(
            &[
                TransactionTimer::A,
                TransactionTimer::B,
                TransactionTimer::D,
                TransactionTimer::E,
                TransactionTimer::F,
                TransactionTimer::K,
                TransactionTimer::M,
            ],
            id.0,
        );
        Some(client)
    }
}

impl<S> Ended<S> {
    fn cost(&self) -> usize {
        let answer = match &self.outcome {
            FinalOutcome::Answered(response) => response.len(),
            FinalOutcome::Accepted | FinalOutcome::Acknowledged => 0,
        };
        REMEMBERED + self.key.marks.len() + answer
    }
}

impl<C> ClientTransaction<C> {
    fn waits(&self) -> bool {
        match self.state {
            ClientState::Calling { .. }
            | ClientState::InviteProceeding
            | ClientState::Trying { .. }
            | ClientState::Proceeding { .. } => true,
            ClientState::InviteCompleted { .. }
            | ClientState::InviteAccepted { .. }
            | ClientState::Completed => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::flow::{ConnectionId, Protocol};

    type Machine = Transactions<u8, u8>;

    const PEER: &str = "192.0.2.2:5060";

    #[expect(
        clippy::disallowed_methods,
        reason = "a test has to begin somewhere; time then passes by hand"
    )]
    fn start() -> Instant {
        Instant::now()
    }

    fn machine() -> Machine {
        Transactions::new(
            Timing::default(),
            Bounds { total: 10, per_source: 2, ..Bounds::default() },
        )
    }

    fn flow(protocol: Protocol, peer: &str) -> Flow {
        Flow {
            protocol,
            local: "192.0.2.1:5060".parse().unwrap(),
            peer: peer.parse().unwrap(),
            connection: ConnectionId::NONE,
        }
    }

    fn udp() -> Flow {
        flow(Protocol::Udp, PEER)
    }

    /// A request from `flow`, and its responses go back there.
    fn received(flow: Flow, branch: &str, method: &str) -> ReceivedVia {
        ReceivedVia {
            key: ServerKey::new(
                Peer::Host(flow.peer.ip()),
                branch.as_bytes(),
                b"192.0.2.2",
                method.as_bytes(),
            ),
            path: ReturnPath::new(flow, None, false),
        }
    }

    fn request(branch: &str, method: &str) -> ReceivedVia {
        received(udp(), branch, method)
    }

    fn client_key(method: &str) -> ClientKey {
        ClientKey { branch: b"z9hG4bK1".to_vec(), method: method.into() }
    }

    /// When something was sent, in milliseconds from `from`, until nothing waits any more.
    fn sent_at(machine: &mut Machine, from: Instant) -> Vec<u128> {
        let mut times = Vec::new();
        let mut now = from;
        loop {
            while let Some(output) = machine.poll_output() {
                if matches!(output, Output::Transmit { .. }) {
                    times.push(now.duration_since(from).as_millis());
                }
            }
            let Some(next) = machine.poll_timeout() else {
                return times;
            };
            now = next;
            machine.handle_timeout(now);
        }
    }

    #[test]
    fn a_request_is_repeated_at_doubling_intervals_up_to_4_s_and_given_up_after_32_s() {
        let (mut machine, now) = (machine(), start());
        machine.request(
            client_key("OPTIONS"),
            TransactionKind::Other,
            udp(),
            b"o".to_vec(),
            1,
            now,
        );
        let times = sent_at(&mut machine, now);
        assert_eq!(times, [0, 500, 1500, 3500, 7500, 11500, 15500, 19500, 23500, 27500, 31500]);
        assert!(machine.is_empty());
    }

    #[test]
    fn after_a_provisional_response_a_request_is_repeated_every_4_s() {
        let (mut machine, now) = (machine(), start());
        machine.request(
            client_key("OPTIONS"),
            TransactionKind::Other,
            udp(),
            b"o".to_vec(),
            1,
            now,
        );
        machine.handle_response(&client_key("OPTIONS"), 100, b"", now);
        assert_eq!(
            sent_at(&mut machine, now),
            [0, 4000, 8000, 12000, 16000, 20000, 24000, 28000, 32000]
        );
        assert!(machine.is_empty());
    }

    #[test]
    fn nothing_is_repeated_on_a_connection_and_its_loss_is_a_failure() {
        let (mut machine, now) = (machine(), start());
        let tcp = flow(Protocol::Tcp, PEER);
        machine.request(client_key("INVITE"), TransactionKind::Invite, tcp, b"i".to_vec(), 1, now);
        assert_eq!(
            machine.poll_output(),
            Some(Output::Transmit { flow: tcp, bytes: b"i".to_vec() })
        );
        machine.handle_unreachable(&udp());
        assert_eq!(machine.poll_output(), None);
        machine.handle_unreachable(&tcp);
        assert_eq!(machine.poll_output(), Some(Output::Unreachable(1)));
        assert!(machine.is_empty());
    }

    #[test]
    fn a_late_response_to_an_answered_request_is_absorbed_for_5_s() {
        let (mut machine, now) = (machine(), start());
        let id = machine.request(
            client_key("BYE"),
            TransactionKind::Other,
            udp(),
            b"b".to_vec(),
            1,
            now,
        );
        assert_eq!(machine.handle_response(&client_key("BYE"), 200, b"", now), Reply::Pass(id, 1));
        assert_eq!(machine.handle_response(&client_key("BYE"), 200, b"", now), Reply::Absorbed);
        machine.handle_timeout(now + Duration::from_secs(5));
        assert!(machine.is_empty());
    }

    #[test]
    fn an_answer_is_repeated_for_as_long_as_the_request_may_be() {
        let (mut machine, now) = (machine(), start());
        let key = request("z9hG4bKa", "BYE");
        let id = machine.open(key.clone(), TransactionKind::Other, 1).unwrap();
        assert_eq!(machine.handle_request(&key), Arrival::Repeated);
        assert_eq!(machine.poll_output(), None, "there is no answer yet");
        machine.respond(id, 200, b"ok".to_vec(), now);
        machine.respond(id, 500, b"too late".to_vec(), now);
        assert_eq!(machine.handle_request(&key), Arrival::Repeated);
        let sent: Vec<_> = std::iter::from_fn(|| machine.poll_output()).collect();
        let ok = Output::Transmit { flow: udp(), bytes: b"ok".to_vec() };
        assert_eq!(sent, [ok.clone(), ok]);
        machine.handle_timeout(now + Duration::from_secs(32));
        assert!(machine.is_empty());
        assert_eq!(machine.handle_request(&key), Arrival::New);
    }

    #[test]
    fn a_refusal_of_an_invite_is_repeated_until_its_ack_or_32_s() {
        let (mut machine, now) = (machine(), start());
        let key = request("z9hG4bKa", "INVITE");
        let id = machine.open(key.clone(), TransactionKind::Invite, 1).unwrap();
        machine.respond(id, 486, b"busy".to_vec(), now);
        let times = sent_at(&mut machine, now);
        assert_eq!(times, [0, 500, 1500, 3500, 7500, 11500, 15500, 19500, 23500, 27500, 31500]);
        assert!(machine.is_empty());

        let id = machine.open(key.clone(), TransactionKind::Invite, 1).unwrap();
        machine.respond(id, 486, b"busy".to_vec(), now);
        assert!(machine.handle_ack(&key.key, now));
        assert!(machine.handle_ack(&key.key, now), "a repeated ACK is absorbed");
        assert_eq!(sent_at(&mut machine, now), [0]);
        assert!(machine.is_empty());
    }

    #[test]
    fn an_accepted_invite_absorbs_its_repetitions_and_leaves_the_ack_to_the_dialog() {
        let (mut machine, now) = (machine(), start());
        let key = request("z9hG4bKa", "INVITE");
        let id = machine.open(key.clone(), TransactionKind::Invite, 1).unwrap();
        machine.respond(id, 180, b"ringing".to_vec(), now);
        assert_eq!(machine.handle_request(&key), Arrival::Repeated);
        machine.respond(id, 200, b"ok".to_vec(), now);
        assert_eq!(machine.handle_request(&key), Arrival::Repeated);
        assert!(!machine.handle_ack(&key.key, now));
        let sent: Vec<_> = std::iter::from_fn(|| machine.poll_output()).collect();
        assert_eq!(sent.len(), 3, "180 twice, 200 once: {sent:?}");
        machine.handle_timeout(now + Duration::from_secs(32));
        assert!(machine.is_empty());
    }

    /// RFC 3261 18.2.2.
    #[test]
    fn an_answer_goes_where_the_latest_copy_of_the_request_wants_it() {
        let (mut machine, now) = (machine(), start());
        let first = request("z9hG4bKa", "INVITE");
        let id = machine.open(first.clone(), TransactionKind::Invite, 1).unwrap();
        machine.respond(id, 100, b"trying".to_vec(), now);
        let elsewhere = flow(Protocol::Udp, "192.0.2.2:40000");
        let again = ReceivedVia { path: ReturnPath::new(elsewhere, None, false), ..first.clone() };
        assert_eq!(machine.handle_request(&again), Arrival::Repeated);
        machine.respond(id, 200, b"ok".to_vec(), now);
        let sent: Vec<Flow> = std::iter::from_fn(|| machine.poll_output())
            .map(|output| match output {
                Output::Transmit { flow, .. } => flow,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(sent, [udp(), elsewhere, elsewhere]);
    }

    /// RFC 3261 18.2.2.
    #[test]
    fn what_was_said_by_a_connection_that_is_gone_is_said_again_by_a_new_one_where_the_via_names_a_port()
     {
        let (mut machine, now) = (machine(), start());
        let connection =
            Flow { connection: ConnectionId(7), ..flow(Protocol::Tcp, "192.0.2.2:40000") };
        let named = flow(Protocol::Tcp, "192.0.2.2:5070");
        for (fallback, said) in [(Some(named.peer), 1), (None, 0)] {
            let mut asked = received(connection, "z9hG4bKa", "INVITE");
            asked.path.fallback = fallback;
            let id = machine.open(asked.clone(), TransactionKind::Invite, 1).unwrap();
            machine.respond(id, 486, b"busy".to_vec(), now);
            machine.poll_output();
            machine.handle_unreachable(&connection);
            let sent: Vec<_> = std::iter::from_fn(|| machine.poll_output()).collect();
            assert_eq!(sent.len(), said);
            assert!(
                sent.iter().all(
                    |output| matches!(output, Output::Transmit { flow, .. } if *flow == named)
                )
            );
            assert!(machine.handle_ack(&asked.key, now));
            assert!(machine.is_empty());
        }
    }

    #[test]
    fn a_key_of_the_same_branch_is_found_whatever_its_sent_by_is_and_another_peers_is_not() {
        let mut machine = machine();
        let peer = Peer::Host("192.0.2.2".parse().unwrap());
        let key = |peer, branch: &[u8], sent_by: &[u8], method: &[u8]| {
            ServerKey::new(peer, branch, sent_by, method)
        };
        machine.open(request("z9hG4bKa", "INVITE"), TransactionKind::Invite, 1).unwrap();
        let found = machine.of_same_branch(&key(peer, b"z9hG4bKa", b"another", b"INVITE"));
        assert_eq!(found, Some(request("z9hG4bKa", "INVITE").key));
        for other in [
            key(peer, b"z9hG4bKa", b"another", b"BYE"),
            key(peer, b"z9hG4bK", b"another", b"INVITE"),
            key(peer, b"z9hG4bKab", b"another", b"INVITE"),
            key(Peer::Host("192.0.2.3".parse().unwrap()), b"z9hG4bKa", b"192.0.2.2", b"INVITE"),
            key(Peer::Trunk(0), b"z9hG4bKa", b"192.0.2.2", b"INVITE"),
            ServerKey::old(peer, &[b"z9hG4bKa"], b"INVITE"),
        ] {
            assert_eq!(machine.of_same_branch(&other), None, "{other:?}");
        }
    }

    #[test]
    fn a_source_has_only_so_many_transactions_that_wait_for_something() {
        let mut machine = machine();
        machine.open(request("z9hG4bKa", "BYE"), TransactionKind::Other, 1).unwrap();
        let id = machine.open(request("z9hG4bKb", "BYE"), TransactionKind::Other, 1).unwrap();
        assert_eq!(
            machine.open(request("z9hG4bKc", "BYE"), TransactionKind::Other, 1),
            Err(Overloaded)
        );
        let other = flow(Protocol::Udp, "192.0.2.3:5060");
        assert!(
            machine.open(received(other, "z9hG4bKc", "BYE"), TransactionKind::Other, 1).is_ok()
        );
        machine.respond(id, 200, b"ok".to_vec(), start());
        assert!(machine.open(request("z9hG4bKd", "BYE"), TransactionKind::Other, 1).is_ok());
    }
}
