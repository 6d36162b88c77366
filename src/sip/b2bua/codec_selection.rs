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

/// The codecs of an offer, the peer's best first; what is only relayed comes after all that can be
/// mixed.
pub(super) fn codecs_of(offer: &SdpSession) -> Vec<Codec> {
    let mut codecs: Vec<Codec> = offer.audio.codecs.iter().map(|(_, codec)| *codec).collect();
    codecs.sort_by_key(|codec| !codec.is_mixable());
    codecs
}

/// Puts a codec of an offer first, if the peer has it, then those that reach it, then all that can
/// be mixed: the first is the one that is taken.
pub(super) fn prefer(offer: &mut SdpSession, wish: Option<Codec>) {
    offer.audio.codecs.sort_by_key(|(_, codec)| {
        let is_out_of_reach = wish.is_some_and(|wish| !codec.reaches(wish));
        (Some(*codec) != wish, is_out_of_reach, !codec.is_mixable())
    });
}

/// These codecs first, then what everybody speaks, as far as it reaches them: a peer that is not
/// offered more has no reason to choose what must be transcoded.
pub(super) fn first_of(first: &[Codec], codecs: &[Codec]) -> Vec<Codec> {
    let may_follow = |codec: &Codec| {
        first.is_empty() || codec.is_law() && first.iter().any(|wish| wish.reaches(*codec))
    };
    let rest = codecs.iter().filter(|codec| !first.contains(codec) && may_follow(codec));
    first.iter().chain(rest).copied().collect()
}

/// This codec, if there is one, before the others.
pub(super) fn with_first(codec: Option<Codec>, mut codecs: Vec<Codec>) -> Vec<Codec> {
    codecs.retain(|other| Some(*other) != codec);
    codecs.splice(..0, codec);
    codecs
}

/// Of the codecs of a call those that a leg which may use `own` is offered, or else its own that
/// reach them. Empty: it has none in common with the call.
///
/// What is only relayed is not offered beside what can be mixed, unless the call comes with it
/// first: a peer that has both might choose it, and no supervisor could join.
pub(super) fn common(own: &[Codec], call: &[Codec]) -> Vec<Codec> {
    let both: Vec<Codec> = call.iter().copied().filter(|codec| own.contains(codec)).collect();
    let reaches_call = |codec: &Codec| call.iter().any(|other| codec.reaches(*other));
    let mut common = match both.is_empty() {
        true => own.iter().copied().filter(reaches_call).collect(),
        false => both,
    };
    if call.first().is_none_or(|first| first.is_mixable())
        && common.iter().any(|codec| codec.is_mixable())
    {
        common.retain(|codec| codec.is_mixable());
    }
    common
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
