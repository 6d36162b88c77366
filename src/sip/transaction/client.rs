//! The client transactions (RFC 3261 17.1, RFC 6026 7.2).

use super::key::ClientKey;
use super::{Output, TransactionContext, TransactionKind, TransactionTimer};
use crate::sip::flow::Flow;
use std::time::{Duration, Instant};

/// 2xx of so many forks are told apart; further ones are ignored.
const FORKS: usize = 8;

/// A client transaction. `C` is what the user agent remembers with it.
#[derive(Debug)]
pub(super) struct ClientTransaction<C> {
    pub(super) key: ClientKey,
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
    Terminated,
}

/// A 2xx that has its ACK.
#[derive(Debug)]
struct Acknowledged {
    to_tag: Vec<u8>,
    flow: Flow,
    ack: Vec<u8>,
}

/// What is for a client transaction.
#[derive(Debug)]
pub(super) enum ClientInput<'a> {
    /// A response has come.
    Response { status: u16, to_tag: &'a [u8], now: Instant },
    /// The user agent sends this ACK.
    Acknowledge { to_tag: &'a [u8], flow: Flow, ack: &'a [u8] },
    /// The dialog is over: the INVITE is forgotten in 64·T1.
    AbandonLater { now: Instant },
    /// The transport has lost the way to the peer.
    Unreachable,
    /// A timer of it is due.
    Timeout { timer: TransactionTimer, now: Instant },
}

/// What the user agent hears of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientStep {
    /// A response.
    Pass,
    /// The first refusal of an INVITE.
    Refused,
    /// Nothing.
    Absorbed,
}

impl<C: Clone> ClientTransaction<C> {
    /// A request that is sent with this.
    pub(super) fn new(
        key: ClientKey,
        kind: TransactionKind,
        (flow, bytes): (Flow, Vec<u8>),
        owner: C,
        ctx: &mut TransactionContext<'_, C>,
        now: Instant,
    ) -> Self {
        let (again, give_up) = match kind {
            TransactionKind::Invite => (TransactionTimer::A, TransactionTimer::B),
            TransactionKind::Other => (TransactionTimer::E, TransactionTimer::F),
        };
        let interval = ctx.timing.t1;
        if !flow.protocol.is_reliable() {
            ctx.set(again, now + interval);
        }
        ctx.set(give_up, now + ctx.timing.give_up());
        let request = bytes.clone();
        ctx.transmit(flow, bytes);
        let state = match kind {
            TransactionKind::Invite => ClientState::Calling { request, interval },
            TransactionKind::Other => ClientState::Trying { request, interval },
        };
        Self { key, flow, state, owner }
    }

    pub(super) fn owner(&self) -> &C {
        &self.owner
    }

    /// Where its request went.
    pub(super) fn flow(&self) -> &Flow {
        &self.flow
    }

    pub(super) fn is_terminated(&self) -> bool {
        matches!(self.state, ClientState::Terminated)
    }

    /// No response has come.
    pub(super) fn is_unheard(&self) -> bool {
        matches!(self.state, ClientState::Calling { .. } | ClientState::Trying { .. })
    }

    /// It waits for a response by this flow.
    pub(super) fn waits_on(&self, flow: &Flow) -> bool {
        let waits = match self.state {
            ClientState::Calling { .. }
            | ClientState::InviteProceeding
            | ClientState::Trying { .. }
            | ClientState::Proceeding { .. } => true,
            ClientState::InviteCompleted { .. }
            | ClientState::InviteAccepted { .. }
            | ClientState::Completed
            | ClientState::Terminated => false,
        };
        waits && self.flow == *flow
    }

    /// After this it may be over ([`is_terminated`](Self::is_terminated)), and is then dropped.
    pub(super) fn handle(
        &mut self,
        input: ClientInput<'_>,
        ctx: &mut TransactionContext<'_, C>,
    ) -> ClientStep {
        match input {
            ClientInput::Response { status, to_tag, now } => {
                return self.handle_response(status, to_tag, ctx, now);
            }
            ClientInput::Acknowledge { to_tag, flow, ack } => self.acknowledge(to_tag, flow, ack),
            ClientInput::AbandonLater { now } => {
                ctx.set(TransactionTimer::M, now + ctx.timing.give_up());
            }
            ClientInput::Unreachable => self.fail(Output::Unreachable, ctx),
            ClientInput::Timeout { timer, now } => self.handle_timeout(timer, ctx, now),
        }
        ClientStep::Absorbed
    }

    fn handle_response(
        &mut self,
        status: u16,
        to_tag: &[u8],
        ctx: &mut TransactionContext<'_, C>,
        now: Instant,
    ) -> ClientStep {
        let is_reliable = self.flow.protocol.is_reliable();
        match (&mut self.state, status) {
            (ClientState::Calling { .. }, 100..=199) => {
                self.state = ClientState::InviteProceeding;
                ctx.clear(&[TransactionTimer::A, TransactionTimer::B]);
                ClientStep::Pass
            }
            (ClientState::InviteProceeding, 100..=199) => ClientStep::Pass,
            (ClientState::Calling { .. } | ClientState::InviteProceeding, 200..=299) => {
                self.state = ClientState::InviteAccepted { acks: Vec::new() };
                ctx.clear(&[TransactionTimer::A, TransactionTimer::B]);
                ctx.set(TransactionTimer::M, now + ctx.timing.give_up());
                ClientStep::Pass
            }
            (ClientState::Calling { .. } | ClientState::InviteProceeding, _) => {
                self.state = ClientState::InviteCompleted { ack: None };
                ctx.clear(&[TransactionTimer::A, TransactionTimer::B]);
                // RFC 3261 17.1.1.2: at least 32 s over UDP. Over TCP the transaction goes when its
                // ACK has been sent.
                if !is_reliable {
                    ctx.set(TransactionTimer::D, now + ctx.timing.give_up());
                }
                ClientStep::Refused
            }
            (ClientState::InviteCompleted { ack }, 300..) => {
                if let Some(bytes) = ack.clone() {
                    ctx.transmit(self.flow, bytes);
                }
                ClientStep::Absorbed
            }
            (ClientState::InviteAccepted { acks }, 200..=299) => {
                match acks.iter().find(|known| known.to_tag == to_tag) {
                    Some(known) => {
                        ctx.transmit(known.flow, known.ack.clone());
                        ClientStep::Absorbed
                    }
                    None if acks.len() < FORKS => ClientStep::Pass,
                    None => ClientStep::Absorbed,
                }
            }
            (ClientState::Trying { request, .. }, 100..=199) => {
                let request = std::mem::take(request);
                self.state = ClientState::Proceeding { request };
                if !is_reliable {
                    ctx.set(TransactionTimer::E, now + ctx.timing.t2);
                }
                ClientStep::Absorbed
            }
            (ClientState::Trying { .. } | ClientState::Proceeding { .. }, 200..) => {
                self.complete(is_reliable, ctx, now);
                ClientStep::Pass
            }
            (
                ClientState::InviteCompleted { .. }
                | ClientState::InviteAccepted { .. }
                | ClientState::Proceeding { .. }
                | ClientState::Completed
                | ClientState::Terminated
                | ClientState::Trying { .. },
                _,
            ) => ClientStep::Absorbed,
        }
    }

    /// The final response to a request other than INVITE has come.
    fn complete(&mut self, is_reliable: bool, ctx: &mut TransactionContext<'_, C>, now: Instant) {
        if is_reliable {
            self.state = ClientState::Terminated;
            return;
        }
        self.state = ClientState::Completed;
        ctx.clear(&[TransactionTimer::E, TransactionTimer::F]);
        ctx.set(TransactionTimer::K, now + ctx.timing.t4);
    }

    fn acknowledge(&mut self, to_tag: &[u8], flow: Flow, sent: &[u8]) {
        match &mut self.state {
            ClientState::InviteCompleted { .. } if self.flow.protocol.is_reliable() => {
                self.state = ClientState::Terminated;
            }
            ClientState::InviteCompleted { ack } => *ack = Some(sent.to_vec()),
            ClientState::InviteAccepted { acks } => {
                acks.push(Acknowledged { to_tag: to_tag.to_vec(), flow, ack: sent.to_vec() })
            }
            ClientState::Calling { .. }
            | ClientState::InviteProceeding
            | ClientState::Trying { .. }
            | ClientState::Proceeding { .. }
            | ClientState::Completed
            | ClientState::Terminated => {}
        }
    }

    fn handle_timeout(
        &mut self,
        timer: TransactionTimer,
        ctx: &mut TransactionContext<'_, C>,
        now: Instant,
    ) {
        match timer {
            TransactionTimer::A | TransactionTimer::E => self.repeat_request(timer, ctx, now),
            TransactionTimer::B | TransactionTimer::F => self.fail(Output::TimedOut, ctx),
            TransactionTimer::D
            | TransactionTimer::K
            | TransactionTimer::M
            | TransactionTimer::G
            | TransactionTimer::H => self.state = ClientState::Terminated,
        }
    }

    fn repeat_request(
        &mut self,
        timer: TransactionTimer,
        ctx: &mut TransactionContext<'_, C>,
        now: Instant,
    ) {
        let (bytes, wait) = match &mut self.state {
            ClientState::Calling { request, interval } => {
                *interval *= 2;
                (request.clone(), *interval)
            }
            ClientState::Trying { request, interval } => {
                *interval = (*interval * 2).min(ctx.timing.t2);
                (request.clone(), *interval)
            }
            ClientState::Proceeding { request } => (request.clone(), ctx.timing.t2),
            ClientState::InviteProceeding
            | ClientState::InviteCompleted { .. }
            | ClientState::InviteAccepted { .. }
            | ClientState::Completed
            | ClientState::Terminated => return,
        };
        ctx.set(timer, now + wait);
        ctx.transmit(self.flow, bytes);
    }

    /// No response will come.
    fn fail(&mut self, how: impl FnOnce(C) -> Output<C>, ctx: &mut TransactionContext<'_, C>) {
        self.state = ClientState::Terminated;
        ctx.outputs.push_back(how(self.owner.clone()));
    }
}
