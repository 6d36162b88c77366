//! The rules that need no memory: what a call, as it is now, means for a monitor.

use super::{Consults, ReleaseReason, SupervisionConfig};
use crate::model::{Activity, CallFact, CallType, DeviceId, LegState, PartyFact, PartyRole, Scope};

/// Where a joined supervisor stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct MonitorPlace {
    pub(super) coached: Option<DeviceId>,
    pub(super) takeover: bool,
}

/// May a monitor of `target` begin on this call, as far as the call is concerned?
pub(super) fn may_join(
    config: &SupervisionConfig,
    call: &CallFact,
    target: &DeviceId,
    supervisor: &DeviceId,
) -> bool {
    let is_agent_here =
        call.party_of(target).is_some_and(|party| talks(party) && party.role == PartyRole::Agent);
    let somebody_talks_to_it =
        people(call).any(|(_, party)| talks(party) && party.device.as_ref() != Some(target));
    // A party of the call would monitor itself.
    let is_party_itself = call.party_of(supervisor).is_some();
    is_agent_here && somebody_talks_to_it && !is_party_itself && kind_allowed(config, call, target)
}

fn kind_allowed(config: &SupervisionConfig, call: &CallFact, target: &DeviceId) -> bool {
    let made_it =
        || call.parties.first().is_some_and(|first| first.device.as_ref() == Some(target));
    match call.call_type {
        CallType::Inbound | CallType::Outbound => true,
        CallType::Internal => config.monitor_internal_calls,
        CallType::Consult => match config.monitor_consult_calls {
            Consults::None => false,
            Consults::Orig => made_it(),
            Consults::Dest => !made_it(),
            Consults::All => true,
        },
    }
}

/// Where the supervisor stands on this call as it is now, or why it may stay no longer.
pub(super) fn place(
    config: &SupervisionConfig,
    call: &CallFact,
    target: &DeviceId,
    scope: Scope,
    activity: Activity,
    coached_until_now: Option<&DeviceId>,
) -> Result<MonitorPlace, ReleaseReason> {
    let target_here =
        call.party_of(target).is_some_and(|party| party.role != PartyRole::Supervisor);
    if scope == Scope::Agent && !target_here {
        return Err(ReleaseReason::AgentLeft);
    }
    if people(call).next().is_none() {
        return Err(ReleaseReason::CallEnded);
    }
    let coached = coached(call, target, coached_until_now);
    if !other_side_is_here(call, target, scope) {
        let debriefing = config.debrief && activity != Activity::ListenIn && coached.is_some();
        return if debriefing {
            Ok(MonitorPlace { coached, takeover: false })
        } else {
            Err(ReleaseReason::CustomerLeft)
        };
    }
    let only_customers =
        people(call).all(|(_, party)| party.role == PartyRole::Customer && talks(party));
    let takeover = config.takeover && activity == Activity::BargeIn && only_customers;
    Ok(MonitorPlace { coached, takeover })
}

/// Is the side there that the monitor lasts for? With scope Agent anybody the agent talks to; with
/// scope Call the customer.
fn other_side_is_here(call: &CallFact, target: &DeviceId, scope: Scope) -> bool {
    if scope == Scope::Call && had_customer(call) {
        people(call).any(|(_, party)| party.role == PartyRole::Customer)
    } else {
        people(call).any(|(_, party)| party.device.as_ref() != Some(target))
    }
}

/// The device that hears the whisper: the target while it is here, then the agent of now. Never a
/// customer; none when in doubt.
fn coached(call: &CallFact, target: &DeviceId, until_now: Option<&DeviceId>) -> Option<DeviceId> {
    let is_target = |party: &PartyFact| party.device.as_ref() == Some(target);
    let agents =
        || people(call).filter(|(_, party)| party.role == PartyRole::Agent && talks(party));
    if agents().any(|(_, party)| is_target(party)) {
        return Some(target.clone());
    }
    // Between two agents the one that talked to the target is the customer: only an agent that came
    // after the target took its place.
    let (had_customer, targets_turn) =
        (had_customer(call), call.parties.iter().rposition(is_target));
    let successors = || {
        agents()
            .filter(|(turn, _)| had_customer || targets_turn.is_some_and(|targets| *turn > targets))
    };
    let device = |(_, party): (usize, &PartyFact)| party.device.clone();
    let still_here =
        successors().any(|(_, party)| until_now.is_some() && party.device.as_ref() == until_now);
    if still_here {
        return until_now.cloned();
    }
    successors().find_map(device)
}

/// Is a customer here, or has one talked and left? A customer that was never reached was never
/// here.
fn had_customer(call: &CallFact) -> bool {
    let mut customers = call.parties.iter().filter(|party| party.role == PartyRole::Customer);
    customers.any(|party| party.state != LegState::Released || party.established_at.is_some())
}

/// The parties that have not left and were not brought in by a monitor, with their turn.
fn people(call: &CallFact) -> impl Iterator<Item = (usize, &PartyFact)> {
    call.parties.iter().enumerate().filter(|(_, party)| {
        party.role != PartyRole::Supervisor && party.state != LegState::Released
    })
}

fn talks(party: &PartyFact) -> bool {
    matches!(party.state, LegState::Established | LegState::Held)
}
