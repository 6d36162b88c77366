//! What holds after every step, whatever has happened.

use super::harness::{Harness, codecs_of};
use crate::media::Codec;
use crate::sip::b2bua::party::Party;
use crate::sip::b2bua::{B2bua, TrunkRoute};
use crate::sip::leg::LegCommand;

/// Whatever is described has a codec.
pub(super) fn has_codec(command: &LegCommand) {
    if let LegCommand::Invite { offer: said, .. }
    | LegCommand::Offer { media: said, .. }
    | LegCommand::Accept { media: said, .. }
    | LegCommand::AnswerOffer { media: said, .. } = command
    {
        assert!(!codecs_of(said).is_empty(), "no codec: {command:?}");
    }
}

impl Harness {
    /// As many legs go by each trunk as it is held to carry.
    pub(super) fn count_legs_of_trunks(&self) {
        let B2bua { calls, codes, plan, .. } = &self.b2bua;
        for TrunkRoute { name, .. } in &self.trunks {
            let parties = calls.iter().flat_map(|call| call.parties.iter()).chain(codes.parties());
            let live = parties.filter(|party| !party.is_over());
            let of_trunk = live.filter(|party| plan.trunk_of(&party.peer) == Some(name));
            assert_eq!(of_trunk.count(), calls.legs.seated(name), "legs of '{name}'");
        }
    }

    /// All parties of a call have codecs that reach each other, and no supervisor is on one that is
    /// only relayed.
    pub(super) fn compare_codecs(&self) {
        for call in self.b2bua.calls.iter() {
            let codecs: Vec<Codec> = call.parties.principals().filter_map(Party::codec).collect();
            let reach = |one: &Codec| codecs.iter().all(|other| one.reaches(*other));
            assert!(codecs.iter().all(reach), "{codecs:?}");
            let is_supervised = call.parties.supervisors().next().is_some();
            assert!(!(is_supervised && call.parties.is_relayed()), "{:?}", call.fact());
        }
    }
}
