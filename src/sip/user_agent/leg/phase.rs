//! How far a leg is, and what may be asked of it there.

use super::reliable::Fork;
use super::uac::{InviteAnswer, Progress};
use super::{HangupReason, SentRequest};
use crate::model::Now;
use crate::sip::flow::Flow;
use crate::sip::leg::LegId;
use crate::sip::message::{Host, Refuse, SipRequest, SipResponse, Uri};
use crate::sip::transaction::{ClientTransactionId, ServerTransactionId};
use crate::sip::user_agent::context::Context;
use std::collections::VecDeque;
use std::sync::Arc;

/// How far a leg is.
#[derive(Debug)]
pub(super) enum LegPhase {
    /// Their INVITE waits for us.
    Incoming(IncomingInvite),
    /// Our INVITE waits for them.
    Calling(OutgoingInvite),
    /// Given up before an answer; the CANCEL is under way, or waits for a provisional response.
    Cancelling(OutgoingInvite, HangupReason),
    /// Both have said yes.
    Confirmed,
    /// Hung up, but BYE may be sent only after their ACK (RFC 3261 15), or when there is a flow
    /// again.
    ByePending(HangupReason),
    /// BYE is under way.
    ByeSent,
    /// Nothing is left to do.
    Over,
}

#[derive(Debug)]
pub(super) struct IncomingInvite {
    pub(super) transaction: ServerTransactionId,
    pub(super) invite: SipRequest,
    /// Status and bytes of the last provisional response.
    pub(super) last: Option<(u16, Vec<u8>)>,
}

#[derive(Clone, Debug)]
pub(super) struct OutgoingInvite {
    pub(super) transaction: ClientTransactionId,
    pub(super) sent: Arc<SentRequest>,
    /// A provisional response has come.
    pub(super) provisional: bool,
    pub(super) cancelled: bool,
    /// The early dialogs, each with its own description.
    pub(super) forks: Vec<Fork>,
    /// The targets that have not been tried, the best first.
    pub(super) others: VecDeque<(Flow, Uri)>,
}

/// What a BYE of the peer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ByeOutcome {
    /// It ends the call, and the B2BUA hears of that.
    Ends,
    /// It ends the leg; that the call has ended is known already.
    EndsQuietly,
    /// It has crossed with ours.
    Crossed,
}

impl LegPhase {
    pub(super) fn is_confirmed(&self) -> bool {
        matches!(self, Self::Confirmed)
    }

    /// Our INVITE waits, and has been heard.
    pub(super) fn is_progressing(&self) -> bool {
        matches!(self, Self::Calling(calling) if calling.provisional)
    }

    /// Takes a provisional response to our INVITE: what is news of it. A CANCEL that has waited for
    /// it is sent.
    pub(super) fn hear(
        &mut self,
        response: &SipResponse,
        leg: LegId,
        ctx: &mut Context,
        now: Now,
    ) -> Option<Progress> {
        match self {
            Self::Calling(calling) => calling.hear(response),
            Self::Cancelling(calling, reason) => {
                calling.provisional = true;
                calling.cancel_if_heard(*reason, leg, ctx, now);
                None
            }
            Self::Incoming(_)
            | Self::Confirmed
            | Self::ByePending(_)
            | Self::ByeSent
            | Self::Over => None,
        }
    }

    /// The host that the Via of their INVITE names, while it waits.
    pub(super) fn via_host(&self) -> Option<Host> {
        match self {
            Self::Incoming(incoming) => incoming.via_host(),
            Self::Calling(_)
            | Self::Cancelling(..)
            | Self::Confirmed
            | Self::ByePending(_)
            | Self::ByeSent
            | Self::Over => None,
        }
    }

    /// What a 2xx to our INVITE means; `None` when it comes too late.
    pub(super) fn take_answer(&mut self, response: &SipResponse) -> Option<InviteAnswer> {
        match self {
            Self::Calling(calling) => Some(calling.answer(response)),
            Self::Cancelling(_, reason) => Some(InviteAnswer::Cancelled(*reason)),
            Self::Incoming(_)
            | Self::Confirmed
            | Self::ByePending(_)
            | Self::ByeSent
            | Self::Over => None,
        }
    }

    /// Whether another INVITE may take the place of this leg (RFC 3891 3).
    pub(super) fn check_replaced(&self, early_only: bool) -> Result<(), Refuse> {
        match self {
            Self::Confirmed if early_only => Err(Refuse::new(486)),
            Self::Confirmed => Ok(()),
            Self::Incoming(_)
            | Self::Calling(_)
            | Self::Cancelling(..)
            | Self::ByePending(_)
            | Self::ByeSent
            | Self::Over => Err(Refuse::new(481)),
        }
    }

    /// Whether the Replaces of a REFER may name this leg.
    pub(super) fn may_be_referred_to(&self, early_only: bool) -> bool {
        match self {
            Self::Confirmed => !early_only,
            Self::Incoming(_) | Self::Calling(_) => true,
            Self::Cancelling(..) | Self::ByePending(_) | Self::ByeSent | Self::Over => false,
        }
    }

    /// Whether an offer of theirs can be taken now (RFC 3261 14.2).
    pub(super) fn check_offer(&self) -> Result<(), Refuse> {
        match self {
            Self::Confirmed => Ok(()),
            Self::Incoming(_) | Self::Calling(_) | Self::Cancelling(..) => Err(Refuse::new(491)),
            Self::ByePending(_) | Self::ByeSent | Self::Over => Err(Refuse::new(481)),
        }
    }

    /// Whether a REFER can be taken now.
    pub(super) fn check_refer(&self) -> Result<(), Refuse> {
        match self {
            Self::Confirmed => Ok(()),
            Self::Incoming(_) | Self::Calling(_) => Err(Refuse::new(491)),
            Self::Cancelling(..) | Self::ByePending(_) | Self::ByeSent | Self::Over => {
                Err(Refuse::new(481))
            }
        }
    }

    /// What a BYE of the peer means now. A callee may not leave an early dialog with BYE (RFC 3261
    /// 15).
    pub(super) fn check_bye(&self) -> Result<ByeOutcome, Refuse> {
        match self {
            Self::Calling(_) | Self::Cancelling(..) | Self::Over => Err(Refuse::new(481)),
            Self::Incoming(_) | Self::Confirmed => Ok(ByeOutcome::Ends),
            Self::ByePending(_) => Ok(ByeOutcome::EndsQuietly),
            Self::ByeSent => Ok(ByeOutcome::Crossed),
        }
    }
}
