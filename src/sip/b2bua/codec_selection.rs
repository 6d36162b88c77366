//! Offer and answer, as far as calls look at them.

use super::MediaPolicy;
use super::media_address::MediaDestination;
use crate::media::{Codec, LegMedia};
use crate::sip::sdp::{Agreed, SdpError, SdpFault, SdpSession};

/// Reads a description that has at least one codec of ours, an address of our family, and SRTP
/// where it must have it.
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

/// The codecs of a description, the peer's best first.
pub(super) fn codecs_of(session: &SdpSession) -> Vec<Codec> {
    session.audio.codecs.iter().map(|(_, codec)| *codec).collect()
}

/// Puts a codec first, if the peer has it: the first is the one that is taken.
pub(super) fn prefer(session: &mut SdpSession, wish: Option<Codec>) {
    session.audio.codecs.sort_by_key(|(_, codec)| Some(*codec) != wish);
}

/// These codecs first, then what everybody speaks: a peer that is not offered more has no reason to
/// choose what must be transcoded.
pub(super) fn first_of(first: &[Codec], codecs: &[Codec]) -> Vec<Codec> {
    let rest = codecs
        .iter()
        .filter(|codec| !first.contains(codec) && (codec.is_law() || first.is_empty()));
    first.iter().chain(rest).copied().collect()
}

/// What the engine has to know.
pub(super) fn media_of(agreed: &Agreed, aim: &MediaDestination) -> LegMedia {
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
