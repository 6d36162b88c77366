use super::qualify::QualifiedPhone;
use super::refer::Referrer;
use super::reliable::{Fork, Reliable};
use crate::media::is_private;
use crate::model::Number;
use crate::sip::dialog::Dialog;
use crate::sip::flow::Flow;
use crate::sip::leg::{LegId, LegSource};
use crate::sip::message::{Host, SipRequest};
use crate::sip::transaction::{ClientTransactionId, ServerTransactionId};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Reason header of a hang-up.
pub(super) type HangupReason = Option<(u16, &'static str)>;

#[derive(Debug)]
pub(super) struct Leg {
    pub(super) peer: LegSource,
    /// The number that we go by on this leg: whoever was called here, or is shown as calling there.
    pub(super) number: Number,
    pub(super) dialog: Dialog,
    pub(super) way: Way,
    pub(super) state: LegPhase,
    pub(super) exchange: Exchange,
    /// Our 2xx that waits for its ACK.
    pub(super) unacknowledged: Option<Unacknowledged>,
    /// An offer that waits until it may be sent.
    pub(super) queued: Option<QueuedRequest>,
    pub(super) session: SessionTimer,
    /// The description we sent last.
    pub(super) local_media: Vec<u8>,
    /// The description they sent last.
    pub(super) remote_media: Vec<u8>,
    /// What `Located` told last.
    pub(super) located: Option<(IpAddr, bool)>,
    /// Digits by INFO are taken, and go nowhere.
    pub(super) swallow_digits: bool,
    /// The peer has asked that another take its place, and waits to hear of it.
    pub(super) referrer: Option<Referrer>,
    /// Their INVITE takes reliable provisional responses.
    pub(super) reliable: Option<Reliable>,
    /// What the last provisional response of each early dialog has named, by its To tag.
    pub(super) named_early: Vec<(Vec<u8>, Vec<Number>)>,
    /// The peer has sent another From than the dialog's (RFC 4916 4.4).
    pub(super) from_moved: bool,
}

impl Leg {
    /// Where its signalling comes from; and whether that is a device which names another address in its Via, or another, private one in its
    /// Contact. A trunk may have several addresses of its own, and so may the loopback.
    pub(super) fn whereabouts(&self) -> (IpAddr, bool) {
        let host = self.dialog.flow.peer.ip().to_canonical();
        if host.is_loopback() || matches!(self.peer, LegSource::Trunk(_)) {
            return (host, false);
        }
        let was = self.located.is_some_and(|(before, is_translated)| is_translated && before == host);
        let contact = self.dialog.target.host();
        let via = match &self.state {
            LegPhase::Incoming(incoming) => incoming.invite.headers.via_top().ok().map(|via| Host::read(&via.host)),
            LegPhase::Calling(_) | LegPhase::Cancelling(..) | LegPhase::Confirmed | LegPhase::ByePending(_) | LegPhase::ByeSent => None,
        };
        let is_hidden = matches!(contact, Host::Address(address) if is_private(address) && address.to_canonical() != host);
        let is_other = matches!(via, Some(Host::Address(address)) if address.to_canonical() != host);
        (host, was || is_hidden || is_other)
    }
}

/// How the way to a leg's peer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Its phone has registered by it: where the phone goes, the leg follows.
    Registered,
    /// The leg's own: it stays until it is gone, or the device's only phone registers at the same host.
    Own,
    /// Gone: what is to be said waits until the phone registers again.
    Lost,
}

#[derive(Debug)]
pub(super) enum LegPhase {
    /// Their INVITE waits for us.
    Incoming(Incoming),
    /// Our INVITE waits for them.
    Calling(Calling),
    /// Given up before an answer; the CANCEL is under way, or waits for a provisional response.
    Cancelling(Calling, HangupReason),
    /// Both have said yes.
    Confirmed,
    /// Hung up, but BYE may be sent only after their ACK (RFC 3261 15), or when there is a way again.
    ByePending(HangupReason),
    /// BYE is under way.
    ByeSent,
}

#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) transaction: ServerTransactionId,
    pub(super) invite: SipRequest,
    pub(super) last: Option<(u16, Vec<u8>)>,
}

#[derive(Clone, Debug)]
pub(super) struct Calling {
    pub(super) transaction: ClientTransactionId,
    pub(super) sent: Arc<SentInvite>,
    pub(super) provisional: bool,
    pub(super) cancelled: bool,
    /// The early dialogs, each with its own description.
    pub(super) forks: Vec<Fork>,
}

/// A request of ours as it went out.
#[derive(Debug)]
pub(super) struct SentInvite {
    pub(super) request: SipRequest,
    pub(super) flow: Flow,
    pub(super) branch: Vec<u8>,
    pub(super) cseq: u32,
    /// How often it was sent anew because of 401, 407 or 422.
    pub(super) attempts: u8,
}

/// Offer and answer within the dialog.
#[derive(Debug)]
pub(super) enum Exchange {
    Idle,
    /// Our re-INVITE is under way.
    Ours {
        transaction: ClientTransactionId,
        media: Vec<u8>,
        refresh: bool,
        glares: u8,
    },
    /// Their re-INVITE or UPDATE waits for us.
    Theirs {
        transaction: ServerTransactionId,
        request: SipRequest,
    },
}

#[derive(Debug)]
pub(super) struct QueuedRequest {
    pub(super) media: Vec<u8>,
    pub(super) glares: u8,
}

#[derive(Debug)]
pub(super) struct Unacknowledged {
    pub(super) cseq: u32,
    pub(super) flow: Flow,
    pub(super) response: Vec<u8>,
    pub(super) interval: Duration,
    pub(super) give_up_at: Instant,
    /// Our 2xx had the offer: the ACK has the answer.
    pub(super) offered: bool,
    /// It answered the INVITE that began the session.
    pub(super) is_first: bool,
}

/// RFC 4028 as agreed.
#[derive(Clone, Copy, Debug)]
pub(super) struct SessionTimer {
    pub(super) interval: Duration,
    pub(super) min: Duration,
    pub(super) we_refresh: bool,
    pub(super) peer_knows: bool,
}

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
    pub(super) const ALL: [LegTimer; 13] = [
        LegTimer::Ringing,
        LegTimer::Stale,
        LegTimer::Remind,
        LegTimer::Reliable,
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
}

/// Whose a server transaction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ServerUse(pub(super) Option<LegId>);

/// What a client transaction is for.
#[derive(Clone, Debug)]
pub(super) enum ClientUse {
    Invite(LegId, Arc<SentInvite>),
    Reinvite(LegId, Arc<SentInvite>),
    Update(LegId, Arc<SentInvite>),
    Bye(LegId, Arc<SentInvite>),
    Prack(LegId, Arc<SentInvite>),
    /// NOTIFY with `Event: talk`.
    Talk(LegId),
    /// OPTIONS to see whether a phone is there.
    Qualify(QualifiedPhone),
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
            Self::Qualify(_) | Self::Other => None,
        }
    }
}
