//! The server transactions (RFC 3261 17.2, RFC 6026 7.1).

use super::key::ServerKey;
use super::{TransactionContext, TransactionKind, TransactionTimer};
use crate::sip::flow::{ConnectionId, Flow};
use crate::sip::peer::{ReturnPath, flow_to};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A server transaction that waits for an answer or for its ACK.
#[derive(Debug)]
pub(super) struct ServerTransaction {
    pub(super) key: Arc<ServerKey>,
    flow: Flow,
    /// Where its answers go when the connection is gone.
    fallback: Option<SocketAddr>,
    state: ServerState,
}

#[derive(Debug)]
enum ServerState {
    InviteProceeding { last: Option<Vec<u8>> },
    InviteCompleted { response: Vec<u8>, interval: Duration },
    Trying,
}

/// What is for a server transaction.
#[derive(Debug)]
pub(super) enum ServerInput<'a> {
    /// A copy of its request has come.
    Repeated(&'a ReturnPath),
    /// The ACK of its refusal has come.
    Ack { now: Instant },
    /// The user agent answers.
    Respond { status: u16, bytes: Vec<u8>, now: Instant },
    /// Answers that are still to come go another way.
    Redirect { flow: Flow, fallback: Option<SocketAddr> },
    /// The connection of its answers is gone (RFC 3261 18.2.2).
    ConnectionLost(&'a Flow),
    /// A timer of it is due.
    Timeout { timer: TransactionTimer, now: Instant },
}

/// What has become of a server transaction.
#[derive(Debug)]
pub(super) enum ServerStep {
    /// What came does not fit its state, and changes nothing.
    Ignored,
    /// It goes on.
    Stays,
    /// Its INVITE is refused: it waits for the ACK from now on.
    Refused,
    /// It is over, and its copies are known until then.
    Ended(FinalOutcome, Instant),
    /// It is over, and no copy of it can come.
    Terminated,
}

/// How a server transaction has ended, as its copies have to know it.
#[derive(Debug)]
pub(super) enum FinalOutcome {
    /// An INVITE with a 2xx, which the user agent repeats itself: copies are absorbed (RFC 6026
    /// 7.1, timer L).
    Accepted,
    /// A refused INVITE with its ACK: copies of both are absorbed (timer I).
    Acknowledged,
    /// Anything else: its answer, for copies (timer J).
    Answered(Box<[u8]>),
}

impl ServerTransaction {
    pub(super) fn new(key: Arc<ServerKey>, path: &ReturnPath, kind: TransactionKind) -> Self {
        let state = match kind {
            TransactionKind::Invite => ServerState::InviteProceeding { last: None },
            TransactionKind::Other => ServerState::Trying,
        };
        Self { key, flow: path.reply, fallback: path.fallback, state }
    }

    /// Where its answer goes.
    pub(super) fn flow(&self) -> Flow {
        self.flow
    }

    /// The connection that its answer goes by.
    pub(super) fn connection(&self) -> Option<ConnectionId> {
        Some(self.flow.connection).filter(|connection| *connection != ConnectionId::NONE)
    }

    pub(super) fn handle<C>(
        &mut self,
        input: ServerInput<'_>,
        ctx: &mut TransactionContext<'_, C>,
    ) -> ServerStep {
        match input {
            // A copy from another place is answered there: the first may be gone.
            ServerInput::Repeated(path) => self.move_to(path.reply, path.fallback, true, ctx),
            ServerInput::Redirect { flow, fallback } => self.move_to(flow, fallback, false, ctx),
            ServerInput::ConnectionLost(flow) => match self.fallback {
                Some(address) => self.move_to(flow_to(address, flow), None, true, ctx),
                None => ServerStep::Ignored,
            },
            ServerInput::Ack { now } => self.handle_ack(now, ctx),
            ServerInput::Respond { status, bytes, now } => self.respond(status, bytes, now, ctx),
            ServerInput::Timeout { timer: TransactionTimer::G, now } => {
                self.repeat_refusal(now, ctx)
            }
            ServerInput::Timeout { .. } => ServerStep::Terminated,
        }
    }

    /// Answers go this way from now on; the last one `again`, if there is one.
    fn move_to<C>(
        &mut self,
        flow: Flow,
        fallback: Option<SocketAddr>,
        again: bool,
        ctx: &mut TransactionContext<'_, C>,
    ) -> ServerStep {
        (self.flow, self.fallback) = (flow, fallback);
        let last = match &self.state {
            ServerState::InviteProceeding { last } => last.as_ref(),
            ServerState::InviteCompleted { response, .. } => Some(response),
            ServerState::Trying => None,
        };
        if let Some(bytes) = last.filter(|_| again) {
            ctx.transmit(flow, bytes.clone());
        }
        ServerStep::Stays
    }

    fn handle_ack<C>(&self, now: Instant, ctx: &TransactionContext<'_, C>) -> ServerStep {
        match self.state {
            ServerState::InviteCompleted { .. } if self.flow.protocol.is_reliable() => {
                ServerStep::Terminated
            }
            ServerState::InviteCompleted { .. } => {
                ServerStep::Ended(FinalOutcome::Acknowledged, now + ctx.timing.t4)
            }
            ServerState::InviteProceeding { .. } | ServerState::Trying => ServerStep::Ignored,
        }
    }

    fn respond<C>(
        &mut self,
        status: u16,
        bytes: Vec<u8>,
        now: Instant,
        ctx: &mut TransactionContext<'_, C>,
    ) -> ServerStep {
        let is_reliable = self.flow.protocol.is_reliable();
        let over_at = now + ctx.timing.give_up();
        let step = match (&mut self.state, status) {
            (ServerState::InviteProceeding { last }, 100..=199) => {
                *last = Some(bytes.clone());
                ServerStep::Stays
            }
            (ServerState::InviteProceeding { .. }, 200..=299) => {
                ServerStep::Ended(FinalOutcome::Accepted, over_at)
            }
            (ServerState::InviteProceeding { .. }, _) => {
                let interval = ctx.timing.t1;
                self.state = ServerState::InviteCompleted { response: bytes.clone(), interval };
                if !is_reliable {
                    ctx.set(TransactionTimer::G, now + interval);
                }
                ctx.set(TransactionTimer::H, over_at);
                ServerStep::Refused
            }
            (ServerState::Trying, 200..) if is_reliable => ServerStep::Terminated,
            (ServerState::Trying, 200..) => {
                let answer = bytes.clone().into_boxed_slice();
                ServerStep::Ended(FinalOutcome::Answered(answer), over_at)
            }
            (ServerState::InviteCompleted { .. } | ServerState::Trying, _) => {
                return ServerStep::Ignored;
            }
        };
        ctx.transmit(self.flow, bytes);
        step
    }

    fn repeat_refusal<C>(
        &mut self,
        now: Instant,
        ctx: &mut TransactionContext<'_, C>,
    ) -> ServerStep {
        let ServerState::InviteCompleted { response, interval } = &mut self.state else {
            return ServerStep::Ignored;
        };
        *interval = (*interval * 2).min(ctx.timing.t2);
        ctx.set(TransactionTimer::G, now + *interval);
        ctx.transmit(self.flow, response.clone());
        ServerStep::Stays
    }
}

impl FinalOutcome {
    /// The answer, for a copy of the request.
    pub(super) fn answer(&self) -> Option<&[u8]> {
        match self {
            Self::Answered(response) => Some(response),
            Self::Accepted | Self::Acknowledged => None,
        }
    }
}
