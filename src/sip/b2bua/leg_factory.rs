//! Makes legs: their ids, ports and keys.

use super::media_address::{MediaDestination, MediaReach};
use super::party::{LegStage, Party, PartyStart};
use super::{Environment, session_id};
use crate::media::{CallKey, Expected};
use crate::model::CallId;
use crate::sip::config::Nat;
use crate::sip::leg::{LegId, LegSource};
use crate::sip::sdp::{Local, SrtpPolicy};
use std::collections::BTreeSet;

/// Where new legs, and the ids of new calls, come from.
pub(super) struct LegFactory<E> {
    pub(super) environment: E,
    /// Where the leg of the next INVITE is.
    arriving: Option<(LegId, MediaReach)>,
    /// Devices and trunks with an address that was seen to be translated.
    behind_nat: BTreeSet<LegSource>,
    next_call: u64,
    next_leg: u64,
}

impl<E: Environment> LegFactory<E> {
    pub(super) fn new(environment: E) -> Self {
        Self { environment, arriving: None, behind_nat: BTreeSet::new(), next_call: 1, next_leg: 1 }
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

    /// The peer is behind a NAT, by what it sends.
    pub(super) fn note_nat(&mut self, peer: &LegSource) {
        self.behind_nat.insert(peer.clone());
    }

    /// The key of the next call, as long as no other is made.
    pub(super) fn next_call(&self) -> CallKey {
        CallKey(self.next_call)
    }

    pub(super) fn new_call(&mut self) -> (CallKey, CallId, String) {
        let key = CallKey(self.next_call);
        self.next_call += 1;
        let id = format!("{:032X}", self.environment.random());
        let conn_id = format!("{:016x}", self.environment.random() as u64);
        (key, CallId::from(id), conn_id)
    }

    pub(super) fn new_leg(&mut self) -> LegId {
        let leg = LegId(self.next_leg);
        self.next_leg += 2;
        leg
    }

    /// A party with its ports open, or nothing at all.
    pub(super) fn open(&mut self, call: CallKey, start: PartyStart) -> Option<Party> {
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
            (LegSource::Account(device), _) => Expected::Phone(device.to_string()),
            (LegSource::Trunk(_), Some(source)) => Expected::Offered(source),
            (LegSource::Trunk(_), None) => Expected::Nothing,
        };
        let address = self.environment.open_port(call, start.leg, expected)?;
        let local = Local::new(session_id(self.environment.random()), address);
        let local = match policy.srtp {
            SrtpPolicy::Off => local,
            SrtpPolicy::Optional | SrtpPolicy::Required => {
                local.with_srtp(policy.srtp, self.secret())
            }
        };
        Some(Party { place, ..Party::new(start, local) })
    }

    /// Random octets, of which the keys of a leg are made.
    fn secret(&mut self) -> [u8; 32] {
        let mut secret = [0; 32];
        for half in secret.chunks_exact_mut(16) {
            half.copy_from_slice(&self.environment.random().to_be_bytes());
        }
        secret
    }
}
