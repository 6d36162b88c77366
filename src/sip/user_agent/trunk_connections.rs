//! A standing connection to each target over TLS of a trunk that takes calls out: a call does not wait for a
//! handshake, and that a trunk cannot be reached is known before anybody calls there.
//!
//! ```text
//! Waiting ──its time──▶ Connecting ──certificate──▶ Connected
//!    ▲                      │ failed                   │ gone
//!    └── 1 s, 2 s, … 60 s ◀─┴──────────────────────────┘
//! ```

use super::Output;
use super::context::Context;
use crate::model::Now;
use crate::rate_limit::back_off;
use crate::sip::config::Trunk;
use crate::sip::flow::{ConnectionId, Flow};
use crate::sip::user_agent::trunk_targets::flow_to;
use std::time::{Duration, Instant};

/// How long until the first new attempt; twice that until the next, and so on.
const FIRST: Duration = Duration::from_secs(1);
/// How long at most (RFC 5626 4.5 has 30 minutes: nobody could call meanwhile).
const LONGEST: Duration = Duration::from_secs(60);
/// A connection that has stood for so long begins anew with [`FIRST`].
const STABLE: Duration = Duration::from_secs(60);

/// The standing connections.
#[derive(Debug)]
pub(super) struct TrunkConnections {
    trunks: Vec<TrunkConnection>,
}

/// The standing connection to a target of a trunk.
#[derive(Debug)]
struct TrunkConnection {
    name: String,
    /// To its address, by whatever connection.
    flow: Flow,
    /// Attempts since it stood for a while.
    failures: u32,
    state: ConnectionState,
    /// That it cannot be reached has been told.
    is_missing: bool,
}

#[derive(Debug)]
enum ConnectionState {
    Waiting { until: Instant },
    Connecting,
    Connected { by: ConnectionId, since: Instant },
}

impl TrunkConnections {
    pub(super) fn new(trunks: &[Trunk], ctx: &Context, now: Now) -> Self {
        let calls_out = |trunk: &&Trunk| !trunk.prefixes.is_empty();
        let addresses = trunks.iter().filter(calls_out).flat_map(|trunk| {
            let secure = trunk.addresses().filter(|(protocol, _)| protocol.is_secure());
            secure.map(move |address| (trunk, address))
        });
        let standing = addresses.filter_map(|(trunk, address)| {
            Some(TrunkConnection {
                name: trunk.name.clone(),
                flow: flow_to(address, &ctx.domain.locals)?,
                failures: 0,
                state: ConnectionState::Waiting { until: now.mono },
                is_missing: false,
            })
        });
        Self { trunks: standing.collect() }
    }

    /// Other trunks from now on; connections that stand, or are being made, are kept.
    pub(super) fn change(&mut self, trunks: &[Trunk], ctx: &Context, now: Now) {
        let mut before = std::mem::take(&mut self.trunks);
        self.trunks = Self::new(trunks, ctx, now).trunks;
        for trunk in &mut self.trunks {
            let same =
                |known: &TrunkConnection| known.name == trunk.name && known.flow == trunk.flow;
            if let Some(at) = before.iter().position(same) {
                *trunk = before.swap_remove(at);
            }
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.trunks.iter().filter_map(TrunkConnection::poll_timeout).min()
    }

    pub(super) fn handle_timeout(&mut self, ctx: &mut Context, now: Now) {
        let is_due = |trunk: &&mut TrunkConnection| {
            trunk.poll_timeout().is_some_and(|until| until <= now.mono)
        };
        for trunk in self.trunks.iter_mut().filter(is_due) {
            trunk.state = ConnectionState::Connecting;
            ctx.outputs.push_back(Output::Connect(trunk.flow));
        }
    }

    /// A connection stands by which the address of a trunk is reached.
    pub(super) fn handle_connected(&mut self, flow: &Flow, ctx: &mut Context, now: Now) {
        for trunk in self.trunks.iter_mut().filter(|trunk| trunk.is_at(flow)) {
            if let ConnectionState::Connected { .. } = trunk.state {
                continue;
            }
            trunk.state = ConnectionState::Connected { by: flow.connection, since: now.mono };
            trunk.is_missing = false;
            ctx.outputs.push_back(trunk.news(true));
        }
    }

    /// A connection is gone, or could not be made.
    pub(super) fn handle_gone(&mut self, gone: &Flow, ctx: &mut Context, now: Now) {
        for trunk in &mut self.trunks {
            match trunk.state {
                ConnectionState::Connected { by, since } if by == gone.connection => {
                    if now.mono.saturating_duration_since(since) >= STABLE {
                        trunk.failures = 0;
                    }
                }
                ConnectionState::Connecting if trunk.is_at(gone) => {}
                ConnectionState::Waiting { .. }
                | ConnectionState::Connecting
                | ConnectionState::Connected { .. } => continue,
            }
            let until = now.mono + trunk.wait(ctx);
            trunk.state = ConnectionState::Waiting { until };
            if !std::mem::replace(&mut trunk.is_missing, true) {
                ctx.outputs.push_back(trunk.news(false));
            }
        }
    }
}

impl TrunkConnection {
    fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            ConnectionState::Waiting { until } => Some(until),
            ConnectionState::Connecting | ConnectionState::Connected { .. } => None,
        }
    }

    fn news(&self, connected: bool) -> Output {
        let (trunk, address) = (self.name.clone(), self.flow.peer);
        Output::TrunkConnected { trunk, address, connected }
    }

    fn is_at(&self, flow: &Flow) -> bool {
        flow.protocol == self.flow.protocol && flow.peer == self.flow.peer
    }

    /// How long until the next attempt.
    fn wait(&mut self, ctx: &mut Context) -> Duration {
        let most = back_off(FIRST, self.failures, LONGEST);
        self.failures += 1;
        ctx.tokens.scattered(most)
    }
}
