//! The hearing of a call: which party hears which other, from nothing but its parties as they are
//! now.
//!
//! [`HearingPolicy::hearing`] is worked out anew after every step. The media engine is told the
//! table, and its leak guard checks each packet against it.

use super::call::Call;
use super::party::{MonitorLink, Party};
use crate::media::{Gain, Hearing, HearingRole, HearingRules};
use crate::model::{Activity, PartyRole};
use crate::sip::b2bua::B2buaConfig;
use crate::sip::config::HandedOn;
use crate::sip::leg::LegId;

/// What of the configuration decides the hearing.
#[derive(Clone, Copy, Debug)]
pub(super) struct HearingPolicy {
    monitor_party_on_hold: bool,
    supervisors_hear_each_other: bool,
    agent_side_only: bool,
    has_music: bool,
    whisper: Gain,
    duck: Gain,
}

impl HearingPolicy {
    pub(super) fn of(config: &B2buaConfig) -> Self {
        Self {
            monitor_party_on_hold: config.monitor_party_on_hold,
            supervisors_hear_each_other: config.supervisors_hear_each_other,
            agent_side_only: config.agent_side_only,
            has_music: config.has_music,
            whisper: config.whisper,
            duck: config.duck,
        }
    }

    /// The table of a call as it is now.
    pub(super) fn hearing(self, call: &Call) -> Hearing {
        let audible: Vec<&Party> = call.parties.iter().filter(|party| is_audible(party)).collect();
        let roles: Vec<(LegId, HearingRole)> =
            audible.iter().map(|party| (party.leg, self.role(call, party))).collect();
        let mut hearing = Hearing::with(
            &roles,
            HearingRules {
                supervisors_hear_each_other: self.supervisors_hear_each_other,
                whisper: self.whisper,
                duck: self.duck,
            },
        );
        for party in &audible {
            for other in audible.iter().filter(|other| other.leg != party.leg) {
                if !self.may_hear(call, party, other) {
                    hearing = hearing.cell(party.leg, other.leg, None);
                }
            }
        }
        hearing
    }

    fn role(self, call: &Call, party: &Party) -> HearingRole {
        match (&party.link, party.role) {
            (Some(link), _) if takes_over(call, party, link) => HearingRole::Agent,
            (Some(link), _) => HearingRole::Supervisor {
                activity: link.activity,
                coached: coached(call, party, link),
                agent_side_only: self.agent_side_only || link.agent_side_only,
            },
            (None, PartyRole::Agent) => HearingRole::Agent,
            (None, PartyRole::Customer | PartyRole::Supervisor) => HearingRole::Customer,
        }
    }

    /// What holds and mutes take away from the table.
    fn may_hear(self, call: &Call, listener: &Party, speaker: &Party) -> bool {
        if speaker.muted || speaker.muted_by.is_some() && !listener.is_supervisor() {
            return false;
        }
        // RFC 3264 8.4: a supervisor's phone that holds does not listen, and what it plays
        // meanwhile is for nobody.
        if speaker.is_supervisor() && speaker.held_by_phone {
            return false;
        }
        match (listener.is_supervisor(), speaker.is_supervisor()) {
            // Our music is heard by itself, whatever the phone plays that holds.
            (false, false) => {
                let hears_music = self.has_music && call.parties.is_to_hear_music(listener);
                !listener.held_by_command && !speaker.held_by_command && !hears_music
            }
            (true, false) => self.monitor_party_on_hold || !call.parties.is_on_hold(speaker),
            // A supervisor that takes over is an agent to the engine, but still a supervisor to the
            // others.
            (true, true) => self.supervisors_hear_each_other,
            (false, true) => may_hear_supervisor(call, listener, speaker),
        }
    }
}

fn is_audible(party: &Party) -> bool {
    if party.is_over() || party.media.is_none() {
        return false;
    }
    party.link.as_ref().is_none_or(|link| link.joined && party.is_talking())
}

/// Alone with the customer, the supervisor is the agent.
fn takes_over(call: &Call, supervisor: &Party, link: &MonitorLink) -> bool {
    let mut principals = call.parties.principals();
    let alone = principals.next().is_some_and(|last| {
        last.role == PartyRole::Customer && last.is_talking() && !last.in_doubt()
    }) && principals.next().is_none();
    link.takeover
        && link.activity == Activity::BargeIn
        && alone
        && !supervisor.in_doubt()
        && !call.distrusted
}

/// The leg of the coached agent, unless anything about it is in doubt.
fn coached(call: &Call, supervisor: &Party, link: &MonitorLink) -> Option<LegId> {
    let device = link.coached.as_ref()?;
    let agent = call.parties.principals().find(|party| {
        party.device.as_ref() == Some(device)
            && party.role == PartyRole::Agent
            && party.is_talking()
            && party.media.is_some()
    })?;
    let doubt = match link.activity {
        Activity::ListenIn | Activity::Coach => agent.in_doubt(),
        Activity::BargeIn => call.parties.principals().any(Party::in_doubt),
    };
    let is_told = |party: &Party| party.policy.handed_on == HandedOn::Told && !party.is_on_two;
    let may_whisper = link.activity != Activity::Coach || is_told(agent) && is_told(supervisor);
    (may_whisper && !doubt && !supervisor.in_doubt() && !call.distrusted).then_some(agent.leg)
}

/// A party on hold hears no supervisor, nor does a phone that only rings. The coached agent does,
/// whatever is on hold: agent and supervisor keep talking.
fn may_hear_supervisor(call: &Call, listener: &Party, supervisor: &Party) -> bool {
    if !listener.is_talking() {
        return false;
    }
    let coached = supervisor.link.as_ref().and_then(|link| coached(call, supervisor, link));
    if coached == Some(listener.leg) {
        return true;
    }
    let agent_holds =
        call.parties.principals().any(|party| Some(party.leg) == coached && party.is_held());
    !agent_holds && !listener.is_held() && !call.parties.is_on_hold(listener)
}
