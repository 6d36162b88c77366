//! What the user agent (SIP messages, transactions, dialogs) and the B2BUA (calls) say to each
//! other.
//!
//! A leg is one dialog with one phone or trunk, from INVITE to BYE. The user agent knows headers
//! and retransmissions and nothing of calls; the B2BUA knows calls and nothing of headers.

use super::sdp::SdpFault;
pub use crate::model::LegId;
use crate::model::{DeviceId, Network, Number, UserData};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// The far end of an incoming leg, as far as it was authenticated.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LegSource {
    /// An account of ours, by digest.
    Account(DeviceId),
    /// A configured trunk, by source address and certificate.
    Trunk(String),
}

/// Where an outgoing leg goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The registered phone of a device.
    Device(DeviceId),
    /// A number behind a configured trunk.
    Trunk {
        /// The trunk's name.
        name: String,
        /// The number there.
        number: Number,
    },
}

/// The number of a caller that withholds its own, or that gives none (RFC 3323 4.1.1.3).
pub const ANONYMOUS: &str = "anonymous";

/// How many proxies and B2BUAs may hand a request on (RFC 3261 8.1.1.6), when nothing before it has
/// set less.
pub const MAX_FORWARDS: u8 = 70;

/// The party that is shown as calling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The caller's number: the user part of the URI.
    pub number: Number,
    /// The caller's display name, empty when there is none. UTF-8, without quotes.
    pub display: String,
    /// It wants to be known to our trust domain alone (RFC 3325 7): others see an anonymous caller.
    pub is_private: bool,
}

impl Identity {
    /// A caller that anybody may know.
    pub fn new(number: Number, display: String) -> Self {
        Self { number, display, is_private: false }
    }

    /// A caller with a number that is not shown. `display` says what may be said instead.
    pub fn withheld(display: String) -> Self {
        Self::new(Number::from(ANONYMOUS), display)
    }

    /// The caller as somebody sees it; `trusted`: within our trust domain.
    pub fn seen(&self, trusted: bool) -> Self {
        match self.is_private && !trusted {
            true => Self::withheld(String::new()),
            false => self.clone(),
        }
    }

    /// Nothing that goes to the callee may tell the number.
    pub fn is_withheld(&self) -> bool {
        self.number.as_str() == ANONYMOUS
    }
}

/// A header field that the B-leg may carry, already checked against the allow-list. Bytes as they
/// came.
#[derive(Clone, PartialEq, Eq)]
pub struct PassedHeader {
    /// Its name in canonical spelling.
    pub name: &'static str,
    /// Its raw value.
    pub value: Vec<u8>,
}

/// Its name, and how long its value is: that may be a customer's, and is kept out of logs.
impl fmt::Debug for PassedHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.name, self.value.len())
    }
}

/// Why an INVITE of ours goes to where it goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallReasons {
    /// The numbers of ours that have sent the call on, the last one first (RFC 5806).
    pub diversions: Vec<Diversion>,
    /// The party whose REFER has asked for it (RFC 3892).
    pub referred_by: Option<Identity>,
}

/// A number of ours has sent a call on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diversion {
    /// The number.
    pub number: Number,
    /// Why it did.
    pub reason: DiversionReason,
}

/// Why a number has sent a call on (RFC 5806 4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiversionReason {
    /// All its calls are forwarded.
    Unconditional,
    /// Its phone, or its user, has sent this one elsewhere while it rang.
    Deflection,
    /// It was on the call and has transferred it: no reason of RFC 5806.
    Transfer,
}

impl DiversionReason {
    /// Its value in Diversion.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unconditional => "unconditional",
            Self::Deflection => "deflection",
            Self::Transfer => "unknown",
        }
    }
}

/// User agent → B2BUA. Session descriptions are raw `application/sdp` bodies; `sip::sdp` reads and
/// writes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LegEvent {
    /// An INVITE for a new call, authenticated. Answered by `Provisional`, `Accept` or `Reject`.
    Incoming {
        /// The leg that begins with it.
        leg: LegId,
        /// The Call-ID, for logs.
        call_id: String,
        /// The account or the trunk that calls.
        source: LegSource,
        /// The caller as it may be shown: an account's own number, or what a trunk says; withheld
        /// where that was asked for.
        from: Identity,
        /// The number that the caller says it is, or that its account has. To be shown to nobody:
        /// it tells loops apart.
        claimed: Number,
        /// The number of the Request-URI, without what decorates it.
        to: Number,
        /// The offer; `None` when the INVITE had none (then `Accept` carries ours and the answer
        /// comes with `Confirmed`).
        offer: Option<Vec<u8>>,
        /// Max-Forwards left for the B-leg.
        max_forwards: u8,
        /// What the B-leg may carry.
        passed: Vec<PassedHeader>,
        /// What its header fields say of the call: User-to-User, and those that are configured.
        user_data: UserData,
        /// The leg that the caller takes the place of (RFC 3891): an established one of the same
        /// peer.
        replaces: Option<LegId>,
        /// The outgoing leg with the INVITE that comes back in this one, through a proxy or a
        /// B2BUA: a spiral (RFC 3261 16.3).
        returns: Option<LegId>,
        /// It was for a sips URI: the call goes on over TLS, or not at all (RFC 5630 3.1).
        is_secure: bool,
    },
    /// Where the signalling of a leg comes from, by which its descriptions are judged. Right before
    /// `Incoming`, and before a description that comes from a host not told yet.
    Located {
        /// The leg concerned.
        leg: LegId,
        /// The peer's address as we see it.
        host: IpAddr,
        /// That is a public address, and the peer's Via names another one, or its Contact a private
        /// one: an address translator is on the way.
        is_translated: bool,
    },
    /// What the peer says of the party at its end: right after `Incoming`, right before `Answered`,
    /// `Offered` and `OfferAnswered`, and by itself after an UPDATE. The same names again are no
    /// news.
    ConnectedIdentity {
        /// The leg concerned.
        leg: LegId,
        /// The numbers it names (RFC 3325 9.1, RFC 4916), at least one; `anonymous` where it
        /// withholds one.
        names: Vec<Number>,
        /// They are for us to know and to be shown to nobody (RFC 3323 4.2).
        withheld: bool,
    },
    /// A 1xx other than 100 on our INVITE.
    Progress {
        /// The leg concerned.
        leg: LegId,
        /// 180 to 199.
        status: u16,
        /// Description of early media, if any.
        media: Option<Vec<u8>>,
    },
    /// A 2xx on our INVITE; its ACK has been sent.
    Answered {
        /// The leg concerned.
        leg: LegId,
        /// The description that answers the offer.
        media: Vec<u8>,
    },
    /// A final refusal of our INVITE by its peer.
    Refused {
        /// The leg, which is gone.
        leg: LegId,
        /// 300 to 699.
        status: u16,
    },
    /// Our INVITE has come to nothing, and its peer has not refused it: a time-out while it rang
    /// (408), no way to reach it (480 unregistered, 503 nobody said anything at all, or the
    /// transport failed), or an answer that cannot be used (488, 502).
    Failed {
        /// The leg, which is gone.
        leg: LegId,
        /// The status that says so.
        status: u16,
    },
    /// The phone of a device has sent the caller elsewhere (300, 301, 302): refused as by
    /// `Refused`, with where to go on.
    Redirected {
        /// The leg, which is gone.
        leg: LegId,
        /// 300, 301 or 302.
        status: u16,
        /// The numbers to try, the preferred first. Never empty.
        to: Vec<Number>,
    },
    /// The ACK of our 2xx has come.
    Confirmed {
        /// The leg concerned.
        leg: LegId,
        /// The answer, when our 2xx carried the offer. `None` as well where that was to a re-INVITE
        /// and the ACK has none: the session stays as it was.
        media: Option<Vec<u8>>,
    },
    /// The peer's re-INVITE or UPDATE with an offer (`None`: a re-INVITE without one). Answered by
    /// `AnswerOffer` or `RejectOffer`.
    Offered {
        /// The leg concerned.
        leg: LegId,
        /// The description that is offered.
        media: Option<Vec<u8>>,
    },
    /// The peer's answer to our re-INVITE (`Offer`).
    OfferAnswered {
        /// The leg concerned.
        leg: LegId,
        /// The description that answers the offer.
        media: Vec<u8>,
    },
    /// The peer refused our re-INVITE; the session stays as it was. (491 is retried by the user
    /// agent first.)
    OfferRefused {
        /// The leg concerned.
        leg: LegId,
        /// 300 to 699.
        status: u16,
    },
    /// The phone can not be made to answer (`AskToAnswer`): it refused, or nothing came back (408),
    /// or it has given no way to ask (480). It rings on.
    AskToAnswerRefused {
        /// The leg concerned.
        leg: LegId,
        /// 300 to 699.
        status: u16,
    },
    /// The peer asks that this number take its place (REFER, RFC 3515). It has been answered with
    /// 202; what comes of it is told by `TellReferrer`.
    Referred {
        /// The leg concerned.
        leg: LegId,
        /// The number, without what decorates it.
        to: Number,
        /// The other leg of the peer that goes there already (RFC 3891): the two calls are to be
        /// joined without the peer.
        replaces: Option<LegId>,
        /// It is a sips URI: the number is called over TLS, or not at all.
        is_secure: bool,
    },
    /// Digits that the peer has dialled by INFO. They have been answered with 200.
    Dialled {
        /// The leg concerned.
        leg: LegId,
        /// `0`–`9`, `*`, `#`, `A`–`D`.
        digits: String,
    },
    /// The leg is gone: BYE, CANCEL, no ACK, session expiry.
    Ended {
        /// The leg concerned.
        leg: LegId,
        /// What has ended it.
        reason: EndReason,
    },
    /// A trunk is elsewhere than before.
    TrunkLocated {
        /// The name of the trunk.
        trunk: String,
        /// Its hosts: where its requests come from and ours go.
        hosts: Vec<Network>,
    },
    /// A device's phone can be reached, or no longer.
    Registered {
        /// The device with that phone.
        device: DeviceId,
        /// It can be reached.
        registered: bool,
    },
}

/// Why a leg ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// The peer sent BYE.
    Bye,
    /// The peer sent CANCEL before we answered.
    Cancelled,
    /// Our 2xx was never acknowledged (RFC 3261 13.3.1.4: 64·T1, then BYE), or a reliable
    /// provisional response before it (RFC 3262 3).
    NoAck,
    /// The session timer ran out (RFC 4028), or a probe got 481 or 408.
    Expired,
}

/// B2BUA → user agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LegCommand {
    /// Make a leg.
    Invite {
        /// The leg to be made.
        leg: LegId,
        /// The device or the number to call.
        to: Destination,
        /// The party that is shown as calling.
        from: Identity,
        /// The description that is offered.
        offer: Vec<u8>,
        /// Ask the phone to answer by itself, as configured for the device (Answer-Mode, Call-Info,
        /// Alert-Info).
        auto_answer: bool,
        /// Digits by INFO are taken with 200 and reach nobody. Else they are refused with 415, so
        /// that the phone does not believe they were heard: between parties digits go as
        /// telephone-event (RFC 4733).
        swallow_digits: bool,
        /// Refused as 408 and cancelled when nobody has answered by then.
        timeout: Duration,
        /// Max-Forwards of the INVITE.
        max_forwards: u8,
        /// Header fields that the INVITE carries for the A-leg.
        passed: Vec<PassedHeader>,
        /// The data of the call: what of it is configured for the peer goes along in header
        /// fields.
        user_data: UserData,
        /// Over TLS, or not at all: else it is refused with 480.
        is_secure: bool,
        /// Why it goes there.
        reasons: CallReasons,
    },
    /// Send a 1xx on an incoming leg.
    Provisional {
        /// The leg concerned.
        leg: LegId,
        /// 180 to 199.
        status: u16,
        /// Description of early media, if any.
        media: Option<Vec<u8>>,
    },
    /// Send 200 on an incoming leg.
    Accept {
        /// The leg concerned.
        leg: LegId,
        /// The answer, or the offer when the INVITE had none.
        media: Vec<u8>,
    },
    /// Send a final refusal on an incoming leg, which is then gone.
    Reject {
        /// The leg concerned.
        leg: LegId,
        /// 400 to 699.
        status: u16,
    },
    /// Send a final refusal on an incoming leg, which is then gone, and say why in a Warning (RFC
    /// 3261 20.43).
    Refuse {
        /// The leg concerned.
        leg: LegId,
        /// 400 to 699.
        status: u16,
        /// Why, for people.
        text: String,
    },
    /// Re-INVITE with an offer.
    Offer {
        /// The leg concerned.
        leg: LegId,
        /// The description that is offered.
        media: Vec<u8>,
    },
    /// 200 to the peer's re-INVITE or UPDATE.
    AnswerOffer {
        /// The leg concerned.
        leg: LegId,
        /// The description that answers the offer.
        media: Vec<u8>,
    },
    /// Refuse the peer's re-INVITE or UPDATE; the session stays as it was.
    RejectOffer {
        /// The leg concerned.
        leg: LegId,
        /// 400 to 699.
        status: u16,
    },
    /// Refuse the peer's INVITE, which ends the leg, or its re-INVITE or UPDATE, which leaves the
    /// session as it was: 488, with what is wrong with the offer in a Warning (RFC 3261 20.43).
    RefuseOffer {
        /// The leg concerned.
        leg: LegId,
        /// What is wrong with the offer.
        fault: SdpFault,
    },
    /// Another party is at the other end of the call: an established leg's peer is told (RFC 4916,
    /// RFC 3325 9.1) by UPDATE or re-INVITE, if it may know. Nothing comes of it here.
    Identify {
        /// The leg concerned.
        leg: LegId,
        /// The party, whose number is not withheld.
        party: Identity,
    },
    /// Ask a ringing phone to answer (NOTIFY with `Event: talk` in the early dialog).
    AskToAnswer {
        /// The leg concerned.
        leg: LegId,
    },
    /// How it goes with what the peer has asked for (`Referred`): NOTIFY with a `message/sipfrag`.
    /// Nothing if it has asked for nothing.
    TellReferrer {
        /// The leg concerned.
        leg: LegId,
        /// 100 to 699; from 200 on the last word.
        status: u16,
    },
    /// Release the leg in whatever state it is: CANCEL, BYE, or a refusal. No event follows.
    Hangup {
        /// The leg concerned.
        leg: LegId,
        /// What its Reason header field says (RFC 3326), if it has one.
        reason: Option<HangupCause>,
    },
}

/// Why a leg is released, as its peer is told (RFC 3326).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HangupCause {
    /// Its session description cannot be used (RFC 3261 21.4.26).
    NotAcceptable,
    /// It has not answered an offer of ours (RFC 3264 5).
    NoAnswer,
    /// Its Contact cannot be read: no request reaches it (RFC 3261 21.5.3).
    BadContact,
    /// What carried the sound of its call has failed (RFC 3261 21.5.1).
    MediaFailure,
    /// The backend stops (RFC 3261 21.5.4).
    Stopping,
    /// Its user has declined the call elsewhere than at the phone (RFC 3261 21.6.2).
    Declined,
    /// Its user has sent the call elsewhere (RFC 3261 21.3.3).
    Redirected,
}

impl HangupCause {
    /// The status that it stands for.
    pub fn sip_status(self) -> u16 {
        match self {
            HangupCause::NotAcceptable | HangupCause::NoAnswer => 488,
            HangupCause::BadContact => 502,
            HangupCause::MediaFailure => 500,
            HangupCause::Stopping => 503,
            HangupCause::Declined => 603,
            HangupCause::Redirected => 302,
        }
    }
}
