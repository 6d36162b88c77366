//! A leg: one dialog with one peer, from INVITE to BYE.
//!
//! | part | what |
//! |---|---|
//! | `machine` | commands, timers, requests and responses as they come in; the end of a leg |
//! | `phase` | how far a leg is |
//! | `uac` | requests of ours and their responses |
//! | `uas` | requests of the peer and their answers |
//! | `peer` | the other end: its identity, the dialog with it, and the flow to it |
//! | `invite_session` | offer and answer within the dialog, and its refresh |
//! | `session_timer` | RFC 4028 |
//! | `reliable` | provisional responses that are acknowledged (RFC 3262) |
//! | `refer` | RFC 3515 |
//! | `info` | digits by INFO |
//! | `connected_identity` | the identity at the far end (RFC 4916, RFC 3325) |

mod connected_identity;
mod info;
mod invite_session;
mod machine;
mod peer;
mod phase;
mod refer;
mod reliable;
mod session_timer;
mod uac;
mod uas;

use super::context::Context;
use super::qualify::QualifiedPhone;
use super::trunk_presence::TargetOf;
use crate::model::Number;
use crate::sip::flow::Flow;
use crate::sip::leg::{HangupCause, LegId, LegSource};
use crate::sip::message::{NameAddr, SipRequest, Uri};
use crate::sip::transaction::ReceivedVia;
use connected_identity::ConnectedNames;
use info::InfoDigits;
use invite_session::InviteSession;
pub(super) use peer::LegPeer;
use phase::{IncomingInvite, LegPhase, OutgoingInvite};
use refer::Referral;
pub(super) use refer::refer_target;
use reliable::ReliableProvisionals;
use session_timer::SessionTimer;
pub(super) use session_timer::check_session;
use std::collections::VecDeque;
use std::sync::Arc;
pub(super) use uac::{InviteContent, refusal_ack, refuse_fork, shown_as};
pub(super) use uas::{capabilities, refuse_method, warning};

/// Reason header of a hang-up.
type HangupReason = Option<HangupCause>;

/// One leg. It owns its dialog and its session; it sees no other leg.
///
/// The user agent finds the leg that something is for and calls one of
///
/// - [`handle_command`](Leg::handle_command): the B2BUA wants something,
/// - [`handle_request`](Leg::handle_request) and [`handle_ack`](Leg::handle_ack): the peer has sent
///   a request within the dialog,
/// - [`handle_cancel`](Leg::handle_cancel): the peer has cancelled its INVITE,
/// - [`handle_response`](Leg::handle_response): the peer has answered a request of ours,
/// - [`handle_failure`](Leg::handle_failure): a request of ours found nobody,
/// - [`handle_timeout`](Leg::handle_timeout): a timer of the leg is due,
/// - [`follow`](Leg::follow) and [`handle_flow_gone`](Leg::handle_flow_gone): the flow to the peer
///   has changed.
///
/// After each of these calls the leg may be over ([`is_over`](Leg::is_over)) and is then dropped,
/// and `Context` holds what it wants, in this order: transactions to poll, which may fail at once
/// and come back by `handle_failure`; then outputs to drain; then the timers that it has set, which
/// say when to call next.
#[derive(Debug)]
pub(super) struct Leg {
    peer: LegPeer,
    phase: LegPhase,
    session: InviteSession,
    digits: InfoDigits,
    /// The peer has asked that another take its place, and waits to hear of it.
    referral: Option<Referral>,
    /// Their INVITE takes reliable provisional responses.
    reliable: Option<ReliableProvisionals>,
    connected: ConnectedNames,
    /// The branches of its INVITE at targets that were given up.
    given_up: Vec<Vec<u8>>,
}

impl Leg {
    fn new(peer: LegPeer, phase: LegPhase, session: InviteSession) -> Self {
        Self {
            peer,
            phase,
            session,
            digits: InfoDigits::default(),
            referral: None,
            reliable: None,
            connected: ConnectedNames::default(),
            given_up: Vec::new(),
        }
    }
}

/// A request of ours as it went out.
#[derive(Debug)]
pub(super) struct SentRequest {
    pub(super) request: SipRequest,
    pub(super) flow: Flow,
    pub(super) branch: Vec<u8>,
    pub(super) cseq: u32,
    /// How often it was sent anew because of 401, 407 or 422.
    pub(super) attempts: u8,
}

/// Where an INVITE of ours goes.
#[derive(Debug)]
pub(super) struct RequestRoute {
    pub(super) flow: Flow,
    pub(super) uri: Uri,
    pub(super) to: NameAddr,
    pub(super) source: LegSource,
    /// What is said by it goes over TLS, or not at all.
    pub(super) is_secure: bool,
    /// Where it goes when nobody answers there, the best first.
    pub(super) others: VecDeque<(Flow, Uri)>,
}

/// A request within a dialog, and what of it has been found out.
#[derive(Debug)]
pub(super) struct InDialogRequest<'a> {
    pub(super) request: &'a SipRequest,
    pub(super) via: ReceivedVia,
    /// The leg that a REFER names by Replaces.
    pub(super) referred: Option<ReferredLeg>,
}

/// A leg that a REFER names by Replaces.
#[derive(Debug)]
pub(super) struct ReferredLeg {
    pub(super) leg: LegId,
    pub(super) source: LegSource,
    /// The number of ours there.
    pub(super) number: Number,
}

/// The timers of a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum LegTimer {
    /// When an unanswered incoming INVITE is refused.
    Ringing,
    /// When an incoming INVITE expires by its own Expires (RFC 3261 13.3.1).
    Stale,
    /// When a provisional response is sent again (RFC 3261 13.3.1.1).
    Remind,
    /// When a reliable provisional response is sent again, or given up (RFC 3262 3).
    Reliable,
    /// When an outgoing INVITE of which nothing has been heard goes to the next target.
    FirstResponse,
    /// When an unanswered outgoing INVITE is cancelled.
    NoAnswer,
    /// When a cancelled INVITE without a final response is forgotten (RFC 3261 9.1).
    Cancelled,
    /// When our 2xx is sent again, or given up (RFC 3261 13.3.1.4).
    Accepted,
    /// When we refresh the session (RFC 4028 10).
    Refresh,
    /// When the session has expired without their refresh.
    Expire,
    /// When our re-INVITE without a final response is given up.
    Offer,
    /// When an offer of theirs that nobody here has answered is refused.
    Theirs,
    /// When our offer may be tried again after 491 (RFC 3261 14.1).
    Glare,
    /// When a phone that has not come back is given up.
    Lost,
}

impl LegTimer {
    const ALL: [LegTimer; 14] = [
        LegTimer::Ringing,
        LegTimer::Stale,
        LegTimer::Remind,
        LegTimer::Reliable,
        LegTimer::FirstResponse,
        LegTimer::NoAnswer,
        LegTimer::Cancelled,
        LegTimer::Accepted,
        LegTimer::Refresh,
        LegTimer::Expire,
        LegTimer::Offer,
        LegTimer::Theirs,
        LegTimer::Glare,
        LegTimer::Lost,
    ];

    /// None of a leg runs any more.
    fn stop_all(leg: LegId, ctx: &mut Context) {
        for timer in Self::ALL {
            ctx.timers.clear(&(leg, timer));
        }
    }
}

/// The leg that a server transaction belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ServerUse(pub(super) Option<LegId>);

/// What a client transaction is for.
#[derive(Clone, Debug)]
pub(super) enum ClientUse {
    Invite(LegId, Arc<SentRequest>),
    Reinvite(LegId, Arc<SentRequest>),
    Update(LegId, Arc<SentRequest>),
    Bye(LegId, Arc<SentRequest>),
    Prack(LegId, Arc<SentRequest>),
    /// NOTIFY with `Event: talk`.
    Talk(LegId),
    /// OPTIONS to see whether a phone is there.
    Qualify(QualifiedPhone),
    /// An OPTIONS to a target of a trunk.
    AskTrunk(TargetOf),
    /// A REGISTER to the trunk of this name.
    Register(String, Arc<SentRequest>),
    /// Nobody waits for the outcome.
    Other,
}

impl ClientUse {
    /// The leg that it is for.
    pub(super) fn leg(&self) -> Option<LegId> {
        match self {
            Self::Invite(leg, _)
            | Self::Reinvite(leg, _)
            | Self::Update(leg, _)
            | Self::Bye(leg, _)
            | Self::Prack(leg, _)
            | Self::Talk(leg) => Some(*leg),
            Self::Qualify(_) | Self::AskTrunk(_) | Self::Register(..) | Self::Other => None,
        }
    }
}
