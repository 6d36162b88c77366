//! Makes legs: their ids, ports and keys; and reads what their peers describe.

use super::call_table::CallTable;
use super::codec_selection::read;
use super::media_address::{MediaDestination, MediaReach, Remark};
use super::party::{LegStage, Party, PartyStart};
use super::step::Step;
use super::{Environment, MediaPolicy, Output, session_id};
use crate::media::{CallKey, Expected, Forbidden};
use crate::model::CallId;
use crate::sip::config::Nat;
use crate::sip::leg::{LegId, LegSource};
use crate::sip::sdp::{Local, SdpError, SdpFault, SdpSession, SrtpPolicy};
use std::collections::BTreeSet;

/// The peer that describes where its sound is.
pub(super) struct Describer<'a> {
    /// The call of the leg, or where it would be.
    pub(super) call: CallKey,
    pub(super) peer: &'a LegSource,
    pub(super) policy: &'a MediaPolicy,
    pub(super) place: Option<MediaReach>,
}

/// Where new legs, and the ids of new calls, come from.
pub(super) struct LegFactory {
    /// Where the leg of the next INVITE is.
    arriving: Option<(LegId, MediaReach)>,
    /// Devices and trunks with an address that was seen to be translated.
    behind_nat: BTreeSet<LegSource>,
    next_call: u64,
    next_leg: u64,
}

impl LegFactory {
    pub(super) fn new() -> Self {
        Self { arriving: None, behind_nat: BTreeSet::new(), next_call: 1, next_leg: 1 }
    }

    /// The INVITE of this leg comes next.
    pub(super) fn handle_located(&mut self, leg: LegId, place: MediaReach) {
        self.arriving = Some((leg, place));
    }

    /// Where an arriving leg is.
    pub(super) fn place_of(&self, leg: LegId) -> Option<MediaReach> {
        let arriving = self.arriving.filter(|(arriving, _)| *arriving == leg);
        arriving.map(|(_, place)| place)
    }

    /// Reads a description, and sees to it that sound may be sent where it points. A peer that is
    /// behind a NAT by what it describes is remembered.
    pub(super) fn read(
        &mut self,
        body: &[u8],
        by: Describer<'_>,
        calls: &CallTable,
        out: &mut Step,
    ) -> Result<SdpSession, SdpFault> {
        let Describer { call, peer, policy, place } = by;
        let session = read(body, policy)?;
        let aim = MediaDestination::at(&policy.reach, place, session.audio.rtp, session.audio.rtcp);
        let mut addresses = aim.remote.into_iter().chain(aim.remote_rtcp);
        let ours = addresses.find(|address| policy.targets.is_ours(*address));
        let checked = match ours {
            Some(address) if !calls.may_be_ours(policy, call, address) => {
                Err((address, Forbidden::Ours))
            }
            Some(_) | None => aim.check(policy, place),
        };
        if let Err((address, why)) = checked {
            let peer = peer.clone();
            out.push(Output::Remark(Remark::Refused { peer, address, why }));
            return Err(session.fault(SdpError::Address));
        }
        if aim.nat && !self.behind_nat.contains(peer) {
            self.behind_nat.insert(peer.clone());
        }
        Ok(session)
    }

    /// The key of the next call, as long as no other is made.
    pub(super) fn next_call(&self) -> CallKey {
        CallKey(self.next_call)
    }

    pub(super) fn new_call(
        &mut self,
        environment: &mut dyn Environment,
    ) -> (CallKey, CallId, String) {
        let key = CallKey(self.next_call);
        self.next_call += 1;
        let id = format!("{:032X}", environment.random());
        let conn_id = format!("{:016x}", environment.random() as u64);
        (key, CallId::from(id), conn_id)
    }

    pub(super) fn new_leg(&mut self) -> LegId {
        let leg = LegId(self.next_leg);
        self.next_leg += 2;
        leg
    }

    /// A party with its ports open, or nothing at all.
    pub(super) fn open(
        &mut self,
        environment: &mut dyn Environment,
        call: CallKey,
        start: PartyStart,
    ) -> Option<Party> {
        let offered = match &start.stage {
            LegStage::Calling { offer: Some(offer), .. } => offer.audio.rtp,
            _ => None,
        };
        let place = self.arriving.take_if(|(arriving, _)| *arriving == start.leg);
        let place = place.map(|(_, place)| place);
        let (peer, policy) = (&start.peer, &start.policy);
        let is_natted = || {
            self.behind_nat.contains(peer)
                || MediaDestination::at(&policy.reach, place, offered, None).nat
        };
        let expected = match (peer, offered) {
            _ if policy.own_ports || policy.reach.nat() == Nat::Always || is_natted() => {
                Expected::Nothing
            }
            (LegSource::Account(device), _) if !policy.reach.is_trunks() => {
                Expected::Phone(device.to_string())
            }
            (_, Some(source)) => Expected::Offered(source),
            (_, None) => Expected::Nothing,
        };
        let address = environment.open_port(call, start.leg, expected)?;
        let local = Local::new(session_id(environment.random()), address);
        let local = match policy.srtp {
            SrtpPolicy::Off => local,
            SrtpPolicy::Optional | SrtpPolicy::Required => {
                local.with_srtp(policy.srtp, secret(environment))
            }
        };
        Some(Party { place, ..Party::new(start, local) })
    }
}

/// Random octets, of which the keys of a leg are made.
fn secret(environment: &mut dyn Environment) -> [u8; 32] {
    let mut secret = [0; 32];
    for half in secret.chunks_exact_mut(16) {
        half.copy_from_slice(&environment.random().to_be_bytes());
    }
    secret
}
