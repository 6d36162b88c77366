//! INVITE and non-INVITE transactions, client and server (RFC 3261 17, with RFC 6026 and RFC 4320).
//!
//! ```text
//! INVITE client:      Calling ─▶ Proceeding ─▶ Completed (ACK) | Accepted (2xx) ─▶ gone
//! non-INVITE client:  Trying  ─▶ Proceeding ─▶ Completed ─▶ gone
//! INVITE server:      Proceeding ─▶ Completed ─▶ Confirmed | Accepted (2xx) ─▶ gone
//! non-INVITE server:  Trying ─▶ Completed ─▶ gone
//! ```
//!
//! The machine knows keys, status codes and finished bytes; it never looks into a message. After every `&mut` call, drain
//! [`Transactions::poll_output`]. What repeats by itself (retransmissions, ACKs of refusals and of repeated 2xx) never reaches
//! the user agent. Neither side sends a 1xx or a 408 to a non-INVITE request (RFC 4320).

use super::flow::Flow;
use super::timers::Timers;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
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

/// The timers of RFC 3261 17 and RFC 6026 7.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
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
    /// INVITE server, UDP: when to forget an acknowledged refusal.
    I,
    /// Non-INVITE server, UDP: when to forget an answered request.
    J,
    /// Non-INVITE client, UDP: when to forget an answered request.
    K,
    /// INVITE server: when to forget an accepted request.
    L,
    /// INVITE client: when to forget an accepted request.
    M,
}

/// What makes two requests one (RFC 3261 17.2.3), with the peer: nobody but the sender of an INVITE may cancel it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerKey {
    /// Whence.
    pub peer: SocketAddr,
    /// The request's own marks.
    pub mark: Mark,
}

/// The marks of a request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// The branch begins with the magic cookie.
    Branch {
        /// Branch of the top Via.
        branch: Vec<u8>,
        /// Sent-by of the top Via, in lower case.
        sent_by: Vec<u8>,
        /// The method; ACK counts as INVITE.
        method: Vec<u8>,
    },
    /// RFC 2543: Request-URI, From tag, Call-ID, CSeq number, top Via, and the method; ACK counts as INVITE.
    Old {
        /// All of them, separated by NUL.
        fields: Vec<u8>,
        /// The method.
        method: Vec<u8>,
    },
}

impl ServerKey {
    /// The same marks with another method: the INVITE that a CANCEL means.
    pub fn with_method(&self, wanted: &[u8]) -> ServerKey {
        let mut key = self.clone();
        match &mut key.mark {
            Mark::Branch { method, .. } | Mark::Old { method, .. } => *method = wanted.to_vec(),
        }
        key
    }
}

/// What finds a client transaction (RFC 3261 17.1.3).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientKey {
    /// Our branch.
    pub branch: Vec<u8>,
    /// Method of the CSeq.
    pub method: Vec<u8>,
}

/// The two kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// INVITE.
    Invite,
    /// Everything else but ACK.
    Other,
}

/// A server transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerId(u64);

/// A client transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(u64);

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
    Pass(ClientId, C),
    /// The first refusal of an INVITE: for the user agent, which also calls [`Transactions::acknowledge`].
    Refused(ClientId, C),
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
        /// Where.
        flow: Flow,
        /// What.
        bytes: Vec<u8>,
    },
    /// No response in 64·T1; the transaction is gone.
    TimedOut(C),
    /// The transport can not reach the peer; the transaction is gone.
    Unreachable(C),
}

/// How much is kept at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Server transactions in all.
    pub total: usize,
    /// Server transactions of one source address.
    pub per_source: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            total: 20_000,
            per_source: 5_000,
        }
    }
}

/// Every transaction. `S` and `C` are what the user agent wants to remember with a server or a client transaction.
#[derive(Debug)]
pub struct Transactions<S, C> {
    timing: Timing,
    bounds: Bounds,
    next_id: u64,
    servers: BTreeMap<ServerId, Server<S>>,
    server_keys: BTreeMap<ServerKey, ServerId>,
    per_source: BTreeMap<IpAddr, usize>,
    clients: BTreeMap<ClientId, Client<C>>,
    client_keys: BTreeMap<ClientKey, ClientId>,
    timers: Timers<(Timer, u64)>,
    outputs: VecDeque<Output<C>>,
}

#[derive(Debug)]
struct Server<S> {
    key: ServerKey,
    flow: Flow,
    state: ServerState,
    owner: S,
}

#[derive(Debug)]
enum ServerState {
    InviteProceeding { last: Option<Vec<u8>> },
    InviteCompleted { response: Vec<u8>, interval: Duration },
    InviteConfirmed,
    InviteAccepted,
    Trying,
    Completed { response: Vec<u8> },
}

#[derive(Debug)]
struct Client<C> {
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
            server_keys: BTreeMap::new(),
            per_source: BTreeMap::new(),
            clients: BTreeMap::new(),
            client_keys: BTreeMap::new(),
            timers: Timers::default(),
            outputs: VecDeque::new(),
        }
    }

    /// A request other than ACK has come.
    pub fn handle_request(&mut self, key: &ServerKey) -> Arrival {
        let Some(server) = self.server_keys.get(key).and_then(|id| self.servers.get(id)) else {
            return Arrival::New;
        };
        let again = match &server.state {
            ServerState::InviteProceeding { last } => last.clone(),
            ServerState::InviteCompleted { response, .. } | ServerState::Completed { response } => Some(response.clone()),
            ServerState::InviteConfirmed | ServerState::InviteAccepted | ServerState::Trying => None,
        };
        if let Some(bytes) = again {
            self.outputs.push_back(Output::Transmit { flow: server.flow, bytes });
        }
        Arrival::Repeated
    }

    /// An ACK has come; true when it was for a refusal and is dealt with. `key` says INVITE.
    pub fn handle_ack(&mut self, key: &ServerKey, now: Instant) -> bool {
        let Some(&id) = self.server_keys.get(key) else { return false };
        let Some(server) = self.servers.get_mut(&id) else { return false };
        match server.state {
            ServerState::InviteCompleted { .. } => {
                server.state = ServerState::InviteConfirmed;
                let reliable = server.flow.protocol.is_reliable();
                self.timers.clear(&(Timer::G, id.0));
                self.timers.clear(&(Timer::H, id.0));
                if reliable {
                    self.remove_server(id);
                } else {
                    self.timers.set((Timer::I, id.0), now + self.timing.t4);
                }
                true
            }
            ServerState::InviteConfirmed => true,
            ServerState::InviteProceeding { .. } | ServerState::InviteAccepted | ServerState::Trying | ServerState::Completed { .. } => {
                false
            }
        }
    }

    /// Makes a server transaction of a new request.
    pub fn open(&mut self, key: ServerKey, kind: Kind, flow: Flow, owner: S) -> Result<ServerId, Overloaded> {
        let source = flow.peer.ip();
        let of_source = self.per_source.get(&source).copied().unwrap_or(0);
        if self.servers.len() >= self.bounds.total || of_source >= self.bounds.per_source {
            return Err(Overloaded);
        }
        self.per_source.insert(source, of_source + 1);
        let id = ServerId(self.fresh());
        let state = match kind {
            Kind::Invite => ServerState::InviteProceeding { last: None },
            Kind::Other => ServerState::Trying,
        };
        self.server_keys.insert(key.clone(), id);
        self.servers.insert(id, Server { key, flow, state, owner });
        Ok(id)
    }

    /// Sends a response. Nothing happens when the transaction is gone or has a final one already.
    pub fn respond(&mut self, id: ServerId, status: u16, bytes: Vec<u8>, now: Instant) {
        let Some(server) = self.servers.get_mut(&id) else { return };
        let reliable = server.flow.protocol.is_reliable();
        let flow = server.flow;
        match (&mut server.state, status) {
            (ServerState::InviteProceeding { last }, 100..=199) => *last = Some(bytes.clone()),
            (ServerState::InviteProceeding { .. }, 200..=299) => {
                server.state = ServerState::InviteAccepted;
                self.timers.set((Timer::L, id.0), now + self.timing.give_up());
            }
            (ServerState::InviteProceeding { .. }, _) => {
                server.state = ServerState::InviteCompleted {
                    response: bytes.clone(),
                    interval: self.timing.t1,
                };
                if !reliable {
                    self.timers.set((Timer::G, id.0), now + self.timing.t1);
                }
                self.timers.set((Timer::H, id.0), now + self.timing.give_up());
            }
            (ServerState::Trying, 200..) if reliable => self.remove_server(id),
            (ServerState::Trying, 200..) => {
                server.state = ServerState::Completed { response: bytes.clone() };
                self.timers.set((Timer::J, id.0), now + self.timing.give_up());
            }
            (
                ServerState::InviteCompleted { .. }
                | ServerState::InviteConfirmed
                | ServerState::InviteAccepted
                | ServerState::Trying
                | ServerState::Completed { .. },
                _,
            ) => return,
        }
        self.outputs.push_back(Output::Transmit { flow, bytes });
    }

    /// Whose INVITE a key names, while it is there (answered or not).
    pub fn server(&self, key: &ServerKey) -> Option<(ServerId, S)> {
        let id = *self.server_keys.get(key)?;
        self.servers.get(&id).map(|server| (id, server.owner.clone()))
    }

    /// Sends a request and waits for its response.
    pub fn request(&mut self, key: ClientKey, kind: Kind, flow: Flow, bytes: Vec<u8>, owner: C, now: Instant) -> ClientId {
        let id = ClientId(self.fresh());
        let unreliable = !flow.protocol.is_reliable();
        let (again, give_up) = match kind {
            Kind::Invite => (Timer::A, Timer::B),
            Kind::Other => (Timer::E, Timer::F),
        };
        if unreliable {
            self.timers.set((again, id.0), now + self.timing.t1);
        }
        self.timers.set((give_up, id.0), now + self.timing.give_up());
        let (request, interval) = (bytes.clone(), self.timing.t1);
        let state = match kind {
            Kind::Invite => ClientState::Calling { request, interval },
            Kind::Other => ClientState::Trying { request, interval },
        };
        self.client_keys.insert(key.clone(), id);
        self.clients.insert(id, Client { key, flow, state, owner });
        self.outputs.push_back(Output::Transmit { flow, bytes });
        id
    }

    /// A response has come from `peer`.
    pub fn handle_response(&mut self, key: &ClientKey, status: u16, to_tag: &[u8], peer: IpAddr, now: Instant) -> Reply<C> {
        let Some(&id) = self.client_keys.get(key) else {
            return Reply::Absorbed;
        };
        let Some(client) = self.clients.get_mut(&id) else {
            return Reply::Absorbed;
        };
        if client.flow.peer.ip() != peer {
            return Reply::Absorbed;
        }
        let reliable = client.flow.protocol.is_reliable();
        let owner = client.owner.clone();
        match (&mut client.state, status) {
            (ClientState::Calling { .. }, 100..=199) => {
                client.state = ClientState::InviteProceeding;
                self.clear(&[Timer::A, Timer::B], id.0);
                Reply::Pass(id, owner)
            }
            (ClientState::InviteProceeding, 100..=199) => Reply::Pass(id, owner),
            (ClientState::Calling { .. } | ClientState::InviteProceeding, 200..=299) => {
                client.state = ClientState::InviteAccepted { acks: Vec::new() };
                self.clear(&[Timer::A, Timer::B], id.0);
                self.timers.set((Timer::M, id.0), now + self.timing.give_up());
                Reply::Pass(id, owner)
            }
            (ClientState::Calling { .. } | ClientState::InviteProceeding, _) => {
                client.state = ClientState::InviteCompleted { ack: None };
                self.clear(&[Timer::A, Timer::B], id.0);
                // RFC 3261 17.1.1.2: at least 32 s over UDP. Over TCP the transaction goes when its ACK has been sent.
                if !reliable {
                    self.timers.set((Timer::D, id.0), now + self.timing.give_up());
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
            (ClientState::InviteAccepted { acks }, 200..=299) => match acks.iter().find(|known| known.to_tag == to_tag) {
                Some(known) => {
                    let (flow, bytes) = (known.flow, known.ack.clone());
                    self.outputs.push_back(Output::Transmit { flow, bytes });
                    Reply::Absorbed
                }
                None if acks.len() < FORKS => Reply::Pass(id, owner),
                None => Reply::Absorbed,
            },
            (ClientState::Trying { request, .. }, 100..=199) => {
                let request = std::mem::take(request);
                client.state = ClientState::Proceeding { request };
                if !reliable {
                    self.timers.set((Timer::E, id.0), now + self.timing.t2);
                }
                Reply::Absorbed
            }
            (ClientState::Trying { .. } | ClientState::Proceeding { .. }, 200..) => {
                client.state = ClientState::Completed;
                self.clear(&[Timer::E, Timer::F], id.0);
                if reliable {
                    self.remove_client(id);
                } else {
                    self.timers.set((Timer::K, id.0), now + self.timing.t4);
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
    pub fn acknowledge(&mut self, id: ClientId, to_tag: &[u8], flow: Flow, bytes: Vec<u8>) {
        if let Some(client) = self.clients.get_mut(&id) {
            match &mut client.state {
                ClientState::InviteCompleted { ack } => {
                    *ack = Some(bytes.clone());
                    if client.flow.protocol.is_reliable() {
                        self.remove_client(id);
                    }
                }
                ClientState::InviteAccepted { acks } => acks.push(Acknowledged {
                    to_tag: to_tag.to_vec(),
                    flow,
                    ack: bytes.clone(),
                }),
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
    pub fn abandon(&mut self, id: ClientId) {
        self.remove_client(id);
    }

    /// Forgets an INVITE in 64·T1, whatever has come by then: its dialog is over. Until then refusals are still acknowledged.
    pub fn abandon_later(&mut self, id: ClientId, now: Instant) {
        if self.clients.contains_key(&id) {
            self.timers.set((Timer::M, id.0), now + self.timing.give_up());
        }
    }

    /// The transport has lost the way to a peer: requests that still wait there have failed.
    pub fn handle_unreachable(&mut self, flow: &Flow) {
        let lost: Vec<ClientId> = self
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
                Timer::A | Timer::E => self.repeat_request(timer, ClientId(id), now),
                Timer::G => self.repeat_refusal(ServerId(id), now),
                Timer::B | Timer::F => {
                    if let Some(client) = self.remove_client(ClientId(id)) {
                        self.outputs.push_back(Output::TimedOut(client.owner));
                    }
                }
                Timer::D | Timer::K | Timer::M => {
                    self.remove_client(ClientId(id));
                }
                Timer::H | Timer::I | Timer::J | Timer::L => self.remove_server(ServerId(id)),
            }
        }
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output<C>> {
        self.outputs.pop_front()
    }

    /// No transaction and no timer is left.
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty()
            && self.clients.is_empty()
            && self.timers.is_empty()
            && self.per_source.is_empty()
            && self.server_keys.is_empty()
            && self.client_keys.is_empty()
    }

    /// Server and client transactions.
    pub fn count(&self) -> (usize, usize) {
        (self.servers.len(), self.clients.len())
    }

    fn repeat_request(&mut self, timer: Timer, id: ClientId, now: Instant) {
        let Some(client) = self.clients.get_mut(&id) else { return };
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

    fn repeat_refusal(&mut self, id: ServerId, now: Instant) {
        let Some(server) = self.servers.get_mut(&id) else { return };
        let ServerState::InviteCompleted { response, interval } = &mut server.state else {
            return;
        };
        *interval = (*interval * 2).min(self.timing.t2);
        self.timers.set((Timer::G, id.0), now + *interval);
        self.outputs.push_back(Output::Transmit {
            flow: server.flow,
            bytes: response.clone(),
        });
    }

    fn fresh(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn clear(&mut self, timers: &[Timer], id: u64) {
        for timer in timers {
            self.timers.clear(&(*timer, id));
        }
    }

    fn remove_server(&mut self, id: ServerId) {
        let Some(server) = self.servers.remove(&id) else { return };
        self.server_keys.remove(&server.key);
        self.clear(&[Timer::G, Timer::H, Timer::I, Timer::J, Timer::L], id.0);
        let source = server.flow.peer.ip();
        match self.per_source.get_mut(&source) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                self.per_source.remove(&source);
            }
        }
    }

    fn remove_client(&mut self, id: ClientId) -> Option<Client<C>> {
        let client = self.clients.remove(&id)?;
        self.client_keys.remove(&client.key);
        self.clear(&[Timer::A, Timer::B, Timer::D, Timer::E, Timer::F, Timer::K, Timer::M], id.0);
        Some(client)
    }
}

impl<C> Client<C> {
    fn waits(&self) -> bool {
        match self.state {
            ClientState::Calling { .. } | ClientState::InviteProceeding | ClientState::Trying { .. } | ClientState::Proceeding { .. } => {
                true
            }
            ClientState::InviteCompleted { .. } | ClientState::InviteAccepted { .. } | ClientState::Completed => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::flow::{ConnectionId, Protocol};

    type Machine = Transactions<u8, u8>;

    const PEER: &str = "192.0.2.2:5060";

    #[expect(clippy::disallowed_methods, reason = "a test has to begin somewhere; time then passes by hand")]
    fn start() -> Instant {
        Instant::now()
    }

    fn machine() -> Machine {
        Transactions::new(Timing::default(), Bounds { total: 10, per_source: 2 })
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

    fn server_key(branch: &str, method: &str) -> ServerKey {
        ServerKey {
            peer: PEER.parse().unwrap(),
            mark: Mark::Branch {
                branch: branch.into(),
                sent_by: b"192.0.2.2".to_vec(),
                method: method.into(),
            },
        }
    }

    fn client_key(method: &str) -> ClientKey {
        ClientKey {
            branch: b"z9hG4bK1".to_vec(),
            method: method.into(),
        }
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
            let Some(next) = machine.poll_timeout() else { return times };
            now = next;
            machine.handle_timeout(now);
        }
    }

    #[test]
    fn a_request_is_repeated_at_doubling_intervals_up_to_4_s_and_given_up_after_32_s() {
        let (mut machine, now) = (machine(), start());
        machine.request(client_key("OPTIONS"), Kind::Other, udp(), b"o".to_vec(), 1, now);
        let times = sent_at(&mut machine, now);
        assert_eq!(times, [0, 500, 1500, 3500, 7500, 11500, 15500, 19500, 23500, 27500, 31500]);
        assert!(machine.is_empty());
    }

    #[test]
    fn after_a_provisional_response_a_request_is_repeated_every_4_s() {
        let (mut machine, now) = (machine(), start());
        machine.request(client_key("OPTIONS"), Kind::Other, udp(), b"o".to_vec(), 1, now);
        machine.handle_response(&client_key("OPTIONS"), 100, b"", udp().peer.ip(), now);
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
        machine.request(client_key("INVITE"), Kind::Invite, tcp, b"i".to_vec(), 1, now);
        assert_eq!(
            machine.poll_output(),
            Some(Output::Transmit {
                flow: tcp,
                bytes: b"i".to_vec()
            })
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
        let id = machine.request(client_key("BYE"), Kind::Other, udp(), b"b".to_vec(), 1, now);
        let peer = udp().peer.ip();
        assert_eq!(machine.handle_response(&client_key("BYE"), 200, b"", peer, now), Reply::Pass(id, 1));
        assert_eq!(machine.handle_response(&client_key("BYE"), 200, b"", peer, now), Reply::Absorbed);
        machine.handle_timeout(now + Duration::from_secs(5));
        assert!(machine.is_empty());
    }

    #[test]
    fn an_answer_is_repeated_for_as_long_as_the_request_may_be() {
        let (mut machine, now) = (machine(), start());
        let key = server_key("z9hG4bKa", "BYE");
        let id = machine.open(key.clone(), Kind::Other, udp(), 1).unwrap();
        assert_eq!(machine.handle_request(&key), Arrival::Repeated);
        assert_eq!(machine.poll_output(), None, "there is no answer yet");
        machine.respond(id, 200, b"ok".to_vec(), now);
        machine.respond(id, 500, b"too late".to_vec(), now);
        assert_eq!(machine.handle_request(&key), Arrival::Repeated);
        let sent: Vec<_> = std::iter::from_fn(|| machine.poll_output()).collect();
        let ok = Output::Transmit {
            flow: udp(),
            bytes: b"ok".to_vec(),
        };
        assert_eq!(sent, [ok.clone(), ok]);
        machine.handle_timeout(now + Duration::from_secs(32));
        assert!(machine.is_empty());
        assert_eq!(machine.handle_request(&key), Arrival::New);
    }

    #[test]
    fn a_refusal_of_an_invite_is_repeated_until_its_ack_or_32_s() {
        let (mut machine, now) = (machine(), start());
        let key = server_key("z9hG4bKa", "INVITE");
        let id = machine.open(key.clone(), Kind::Invite, udp(), 1).unwrap();
        machine.respond(id, 486, b"busy".to_vec(), now);
        let times = sent_at(&mut machine, now);
        assert_eq!(times, [0, 500, 1500, 3500, 7500, 11500, 15500, 19500, 23500, 27500, 31500]);
        assert!(machine.is_empty());

        let id = machine.open(key.clone(), Kind::Invite, udp(), 1).unwrap();
        machine.respond(id, 486, b"busy".to_vec(), now);
        assert!(machine.handle_ack(&key, now));
        assert!(machine.handle_ack(&key, now), "a repeated ACK is absorbed");
        assert_eq!(sent_at(&mut machine, now), [0]);
        assert!(machine.is_empty());
    }

    #[test]
    fn an_accepted_invite_absorbs_its_repetitions_and_leaves_the_ack_to_the_dialog() {
        let (mut machine, now) = (machine(), start());
        let key = server_key("z9hG4bKa", "INVITE");
        let id = machine.open(key.clone(), Kind::Invite, udp(), 1).unwrap();
        machine.respond(id, 180, b"ringing".to_vec(), now);
        assert_eq!(machine.handle_request(&key), Arrival::Repeated);
        machine.respond(id, 200, b"ok".to_vec(), now);
        assert_eq!(machine.handle_request(&key), Arrival::Repeated);
        assert!(!machine.handle_ack(&key, now));
        let sent: Vec<_> = std::iter::from_fn(|| machine.poll_output()).collect();
        assert_eq!(sent.len(), 3, "180 twice, 200 once: {sent:?}");
        machine.handle_timeout(now + Duration::from_secs(32));
        assert!(machine.is_empty());
    }

    #[test]
    fn a_source_has_only_so_many_transactions() {
        let mut machine = machine();
        machine.open(server_key("z9hG4bKa", "BYE"), Kind::Other, udp(), 1).unwrap();
        let id = machine.open(server_key("z9hG4bKb", "BYE"), Kind::Other, udp(), 1).unwrap();
        assert_eq!(machine.open(server_key("z9hG4bKc", "BYE"), Kind::Other, udp(), 1), Err(Overloaded));
        let other = flow(Protocol::Udp, "192.0.2.3:5060");
        let key = ServerKey {
            peer: other.peer,
            ..server_key("z9hG4bKc", "BYE")
        };
        assert!(machine.open(key, Kind::Other, other, 1).is_ok());
        let now = start();
        machine.respond(id, 200, b"ok".to_vec(), now);
        machine.handle_timeout(now + Duration::from_secs(32));
        assert!(machine.open(server_key("z9hG4bKd", "BYE"), Kind::Other, udp(), 1).is_ok());
    }
}
