//! Why a call, a transfer or a consultation is not taken.

use super::Output;
use super::party::Release;
use super::routing::Unroutable;
use super::transfer::TransferKind;
use crate::model::{Number, Reason, Refusal};
use crate::sip::leg::{HangupCause, LegCommand, LegId};
use crate::sip::sdp::{SdpError, SdpFault};
use crate::supervision::LegOutcome;

/// Why something that a peer or a client asks for is not done.
#[derive(Clone, Debug)]
pub(super) enum Rejection {
    /// The number leads nowhere.
    Unroutable(Unroutable),
    /// The session description cannot be used.
    Offer(SdpFault),
    /// A feature code without the number that belongs to it.
    Incomplete,
    /// The backend takes no more calls.
    Stopping,
    /// The backend takes no new calls for a while.
    Draining,
    /// As many calls live as may.
    TooManyCalls,
    /// The caller's device or trunk is on as many calls as it may be.
    CallerFull,
    /// No account and no trunk is known for the caller.
    UnknownCaller,
    /// The call has been sent on too often (RFC 3261 8.1.1.6).
    TooManyHops,
    /// It may use no codec that reaches those of the call.
    NoCommonCodec,
    /// The sound of the call is only relayed: nobody can be mixed into it.
    Relayed,
    /// No media port is free.
    NoPort,
    /// The call has as many legs as the engine can mix.
    TooManyLegs,
    /// The leg or the call is gone.
    NoSuchCall,
    /// The leg is another peer's.
    NotTheirs,
    /// The device is on the call already.
    OnCallAlready,
    /// The leg to be replaced is not established, or its call is being transferred.
    NotReplaceable,
    /// A supervisor changes nothing about the call that it monitors.
    Supervisor,
    /// Only an agent's device may do it.
    NotAgent,
    /// The call is not in a state that allows it.
    NotNow,
    /// The destination is on the call already.
    DestinationOnCall,
    /// The two calls cannot be joined.
    NotJoinable,
    /// The called party could not be had.
    Callee {
        /// Why not.
        failure: CalleeFailure,
        /// It is a device's, and no trunk's.
        to_device: bool,
    },
    /// The phone that was to dial has another party now.
    HandedOn,
    /// Nobody is left that could answer.
    NoAnswer,
    /// What carried the sound of the call has failed.
    MediaFailed,
}

/// Why a called party could not be had.
#[derive(Clone, Copy, Debug)]
pub(super) enum CalleeFailure {
    /// Its peer has refused the INVITE with this status.
    Refused(u16),
    /// Its peer has said nothing to the INVITE, or nothing that can be used: our own status.
    Unreached(u16),
    /// Its phone has sent the caller elsewhere, and that leads nowhere.
    Redirected(Unroutable),
    /// Its user has declined the call.
    Declined,
    /// Its session description cannot be used.
    Unusable,
}

impl CalleeFailure {
    /// The status that a party is told that has asked for it at its phone.
    pub(super) fn sip_status(self) -> u16 {
        match self {
            CalleeFailure::Refused(status) | CalleeFailure::Unreached(status) => status,
            CalleeFailure::Redirected(why) => why.sip_status(),
            CalleeFailure::Declined => 603,
            CalleeFailure::Unusable => SdpError::STATUS,
        }
    }

    /// The status that the caller is told. To a caller a declined call is a busy one: a hunting
    /// trunk goes on to look elsewhere, which a 603 would forbid.
    fn as_told_to_caller(self, to_device: bool) -> u16 {
        match self {
            CalleeFailure::Refused(status) | CalleeFailure::Unreached(status) => {
                as_told_to_caller(status, to_device)
            }
            CalleeFailure::Redirected(why) => as_told_to_caller(why.sip_status(), to_device),
            CalleeFailure::Declined => 486,
            CalleeFailure::Unusable => SdpError::STATUS,
        }
    }

    /// What a client is told that has asked for it.
    pub(super) fn refusal(self, number: &Number) -> Refusal {
        unreached(self.sip_status(), number)
    }

    /// How its leg ends.
    pub(super) fn release(self) -> Release {
        match self {
            CalleeFailure::Refused(_)
            | CalleeFailure::Unreached(_)
            | CalleeFailure::Redirected(_) => Release::Gone,
            CalleeFailure::Declined => Release::Hangup(Some(HangupCause::Declined)),
            CalleeFailure::Unusable => Release::Hangup(Some(HangupCause::NotAcceptable)),
        }
    }

    /// What it means where it is a supervisor's phone.
    pub(super) fn outcome(self) -> LegOutcome {
        match self {
            CalleeFailure::Refused(486 | 600) => LegOutcome::Busy,
            CalleeFailure::Refused(408 | 487) | CalleeFailure::Unreached(408) => {
                LegOutcome::NoAnswer
            }
            CalleeFailure::Refused(status @ (404 | 410 | 480 | 500..=599 | 604)) => {
                LegOutcome::Unreachable { status: Some(status) }
            }
            CalleeFailure::Refused(603) => LegOutcome::Rejected { status: None },
            CalleeFailure::Refused(status) => LegOutcome::Rejected { status: Some(status) },
            CalleeFailure::Unreached(480) => LegOutcome::Unregistered,
            CalleeFailure::Unreached(503) => LegOutcome::Unreachable { status: None },
            CalleeFailure::Unreached(_) | CalleeFailure::Declined | CalleeFailure::Unusable => {
                LegOutcome::Rejected { status: None }
            }
            CalleeFailure::Redirected(why) => CalleeFailure::Refused(why.sip_status()).outcome(),
        }
    }
}

impl Rejection {
    /// The status of the response to the peer.
    pub(super) fn sip_status(&self) -> u16 {
        match self {
            Rejection::Unroutable(why) => why.sip_status(),
            Rejection::Offer(_) | Rejection::NoCommonCodec | Rejection::Relayed => SdpError::STATUS,
            Rejection::UnknownCaller | Rejection::NotAgent => 403,
            Rejection::NotReplaceable | Rejection::HandedOn | Rejection::NoAnswer => 480,
            Rejection::NoSuchCall => 481,
            Rejection::TooManyHops => 483,
            Rejection::Incomplete => 484,
            Rejection::DestinationOnCall | Rejection::NotJoinable => 486,
            Rejection::NotNow => 491,
            Rejection::Stopping
            | Rejection::Draining
            | Rejection::TooManyCalls
            | Rejection::CallerFull
            | Rejection::NoPort
            | Rejection::TooManyLegs => 503,
            Rejection::NotTheirs | Rejection::OnCallAlready | Rejection::Supervisor => 603,
            Rejection::Callee { failure, to_device } => failure.as_told_to_caller(*to_device),
            Rejection::MediaFailed => 500,
        }
    }

    /// What a client is told that has asked for a call to `destination`, or to bring it into a
    /// call.
    pub(super) fn refusal(&self, destination: &Number, kind: TransferKind) -> Refusal {
        match (self, kind) {
            (Rejection::NotNow, TransferKind::Conference) => Refusal::new(
                Reason::InvalidState,
                "Only an established call takes a further party, one at a time and eight in all.",
            ),
            (Rejection::NotNow, TransferKind::Transfer | TransferKind::Recall) => Refusal::new(
                Reason::InvalidState,
                "Only an established call of two can be transferred, once at a time.",
            ),
            (Rejection::Relayed, _) => Refusal::relayed(),
            _ => self.unreached(destination),
        }
    }

    /// What a client is told that has asked for a call to this number.
    pub(super) fn unreached(&self, number: &Number) -> Refusal {
        unreached(self.sip_status(), number)
    }

    /// Says so to the caller, and to the log.
    pub(super) fn tell(self, leg: LegId, outputs: &mut impl Extend<Output>) {
        let status = self.sip_status();
        match self {
            Rejection::Unroutable(why) => outputs.extend([
                Output::Denied { leg, why },
                Output::Leg(LegCommand::Reject { leg, status }),
            ]),
            Rejection::Offer(fault) => outputs.extend(refuse_offer(leg, fault)),
            _ => outputs.extend([Output::Leg(LegCommand::Reject { leg, status })]),
        }
    }
}

impl From<Unroutable> for Rejection {
    fn from(why: Unroutable) -> Rejection {
        Rejection::Unroutable(why)
    }
}

impl From<SdpFault> for Rejection {
    fn from(fault: SdpFault) -> Rejection {
        Rejection::Offer(fault)
    }
}

/// An offer that cannot be used is refused, and the log says why.
pub(super) fn refuse_offer(leg: LegId, fault: SdpFault) -> [Output; 2] {
    let told = fault.clone();
    [Output::Unusable { leg, fault: told }, Output::Leg(LegCommand::RefuseOffer { leg, fault })]
}

/// What a device that dialled is told about a number that could not be had, by the status that its
/// leg ended with.
fn unreached(status: u16, number: &Number) -> Refusal {
    match status {
        404 => Refusal::no_number(number),
        403 => Refusal::number(
            Reason::NotPermitted,
            number,
            "Number '{}' may not be called from here.",
        ),
        408 | 480 => Refusal::number(Reason::InvalidState, number, "Number '{}' does not answer."),
        486 | 600 => Refusal::number(Reason::InvalidState, number, "Number '{}' is busy."),
        603 => Refusal::number(Reason::InvalidState, number, "Number '{}' rejects the call."),
        488 => Refusal::number(
            Reason::InvalidState,
            number,
            "Number '{}' has no codec in common with the call.",
        ),
        503 => Refusal::number(Reason::Unavailable, number, "Number '{}' can not be called now."),
        _ => Refusal::number(
            Reason::Internal,
            number,
            format!("Number '{{}}' could not be called ({status})."),
        ),
    }
}

/// What the caller is told of a refusal by the callee.
fn as_told_to_caller(status: u16, to_device: bool) -> u16 {
    match status {
        // A redirection that is not followed, or nobody answered.
        300..=399 | 408 | 487 => 480,
        // Matters between us and the callee, of which the caller knows nothing.
        401 | 407 | 405 | 415 | 420 | 421 | 422 | 491 | 494 => 500,
        // A phone that can not be reached is away; a trunk that can not be reached is out of
        // service.
        503 if to_device => 480,
        _ => status.clamp(400, 699),
    }
}
