//! Offer and answer, as far as calls look at them.

use super::routing::Unroutable;
use super::whereabouts::Aim;
use super::{MediaPolicy, Output};
use crate::media::{Codec, LegMedia};
use crate::sip::leg::{LegCommand, LegId};
use crate::sip::sdp::{Agreed, SdpError, SdpFault, SdpSession};

/// Reads a description that has at least one codec of ours, an address of our family, and SRTP where it must have it.
pub(super) fn read(body: &[u8], policy: &MediaPolicy) -> Result<SdpSession, SdpFault> {
    let mut session = SdpSession::parse_for(body, policy.srtp)?;
    session.audio.codecs.retain(|(_, codec)| policy.codecs.contains(codec));
    if session.audio.codecs.is_empty() {
        return Err(session.fault(SdpError::Codec));
    }
    if session.audio.rtp.is_some_and(|rtp| rtp.is_ipv6() != policy.ipv6) {
        return Err(session.fault(SdpError::Address));
    }
    Ok(session)
}

/// Why a call of theirs is not taken.
#[derive(Debug)]
pub(super) enum Rejection {
    /// The number cannot be had.
    Unroutable(Unroutable),
    /// With this status.
    Status(u16),
    /// For what its offer says.
    Offer(SdpFault),
}

impl From<u16> for Rejection {
    fn from(status: u16) -> Rejection {
        Rejection::Status(status)
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

impl Rejection {
    /// Says so to the caller, and to whoever reads the log.
    pub(super) fn tell(self, leg: LegId, outputs: &mut impl Extend<Output>) {
        match self {
            Rejection::Status(status) => outputs.extend([Output::Leg(LegCommand::Reject { leg, status })]),
            Rejection::Unroutable(why) => outputs.extend([
                Output::Denied { leg, why },
                Output::Leg(LegCommand::Reject { leg, status: why.status() }),
            ]),
            Rejection::Offer(fault) => outputs.extend(refuse_offer(leg, fault)),
        }
    }
}

/// An offer that cannot be used is refused, and the log says why.
pub(super) fn refuse_offer(leg: LegId, fault: SdpFault) -> [Output; 2] {
    let told = fault.clone();
    [
        Output::Unusable { leg, fault: told },
        Output::Leg(LegCommand::RefuseOffer { leg, fault }),
    ]
}

/// The codecs of a description, the peer's best first.
pub(super) fn codecs_of(session: &SdpSession) -> Vec<Codec> {
    session.audio.codecs.iter().map(|(_, codec)| *codec).collect()
}

/// Puts a codec first, if the peer has it: the first is the one that is taken.
pub(super) fn prefer(session: &mut SdpSession, wish: Option<Codec>) {
    session.audio.codecs.sort_by_key(|(_, codec)| Some(*codec) != wish);
}

/// These codecs first, then what everybody speaks: who is not offered more has no reason to choose what must be transcoded.
pub(super) fn first_of(first: &[Codec], codecs: &[Codec]) -> Vec<Codec> {
    let rest = codecs
        .iter()
        .filter(|codec| !first.contains(codec) && (codec.is_law() || first.is_empty()));
    first.iter().chain(rest).copied().collect()
}

/// What the engine has to know.
pub(super) fn media_of(agreed: &Agreed, aim: &Aim) -> LegMedia {
    LegMedia {
        remote: aim.remote,
        remote_rtcp: aim.remote_rtcp,
        rtcp_mux: agreed.rtcp_mux,
        codec: agreed.codec,
        payload_type: agreed.payload_type,
        dtmf_pt: agreed.telephone_event.map(|(payload_type, _)| payload_type),
        dtmf_clock: agreed.telephone_event.map_or(8000, |(_, clock)| clock),
        comfort_noise: agreed.comfort_noise,
        receives: agreed.receives,
        send: agreed.send,
        receive: agreed.receive,
        nat: aim.nat,
    }
}
