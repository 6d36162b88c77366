//! What a user sees: pure functions from facts to views.

mod reader;

pub(super) use reader::Reader;

use super::access::may_monitor_at_all;
use super::{DeviceEntry, GatewayConfig, NotifyAgent, User};
use crate::model::{
    Activity, CallFact, CallId, CallType, CallView, Capabilities, DeviceFact, DeviceId, DeviceView,
    Feature, LegState, MonitorFact, MonitorState, Number, Operation, ParticipantView, PartyFact,
    PartyRole, Timestamp, UserState,
};

/// What a device's own user sees; `state` is the user's voice state.
pub(super) fn device(
    entry: &DeviceEntry,
    owner: Option<&User>,
    fact: Option<&DeviceFact>,
    monitor: Option<&MonitorFact>,
    state: UserState,
    backend: &Capabilities,
) -> DeviceView {
    let active = fact.is_some_and(|fact| fact.registered);
    let do_not_disturb = fact.is_some_and(|fact| fact.do_not_disturb);
    let forward_to = fact.and_then(|fact| fact.forward_to.clone());
    let mut capabilities = Vec::new();
    if owner.is_some_and(|owner| owner.has(Feature::Voice)) {
        let forwarding = match forward_to {
            Some(_) => Operation::ForwardCallsOff,
            None => Operation::ForwardCallsOn,
        };
        let do_not_disturb = match do_not_disturb {
            true => Operation::DoNotDisturbOff,
            false => Operation::DoNotDisturbOn,
        };
        capabilities.extend(backend.forwarding.then_some(forwarding));
        capabilities.extend(backend.do_not_disturb.then_some(do_not_disturb));
    }
    if owner.is_some_and(|owner| may_monitor_at_all(owner).is_ok()) {
        let offered = [Activity::ListenIn, Activity::Coach, Activity::BargeIn];
        capabilities.extend(
            offered
                .iter()
                .filter(|activity| backend.activities.contains(activity))
                .map(|activity| Operation::start(*activity)),
        );
        if monitor.is_some() {
            capabilities.push(Operation::CancelSupervisorMonitoring);
        }
    }
    DeviceView {
        id: entry.id.clone(),
        number: entry.number.clone(),
        active,
        user_state: (active && owner.is_some()).then_some(state),
        do_not_disturb,
        forward_to,
        voice_environment: entry.voice_environment.clone(),
        capabilities,
        monitoring: monitor.map(|monitor| {
            (activity_now(monitor), monitor.mode, monitor.scope, monitor.target.clone())
        }),
    }
}

/// What another user sees of a device that the user may monitor: nothing that only its user may
/// ask.
pub(super) fn of_another(view: DeviceView) -> DeviceView {
    DeviceView { capabilities: Vec::new(), monitoring: None, ..view }
}

fn activity_now(monitor: &MonitorFact) -> Activity {
    match monitor.state {
        MonitorState::Joined { activity, .. } => activity,
        MonitorState::Armed | MonitorState::Admitting { .. } | MonitorState::Inviting { .. } => {
            monitor.activity
        }
    }
}

/// The latest leg of a device on a call, also one that has left.
pub(super) fn leg<'a>(call: &'a CallFact, device: &DeviceEntry) -> Option<&'a PartyFact> {
    let mut legs =
        call.parties.iter().rev().filter(|party| party.device.as_ref() == Some(&device.id));
    let latest = legs.clone().next();
    legs.find(|party| party.state != LegState::Released).or(latest)
}

/// What another call of the same device has to do with this one.
#[derive(Clone, Debug, Default)]
pub(super) struct Related {
    /// This one was made to ask about that one.
    pub(super) parent: Option<CallId>,
    /// That one was made to ask about this one.
    pub(super) is_asked_about: bool,
    /// The device talks on the one and holds the other.
    pub(super) may_swap: bool,
    /// They can become one.
    pub(super) may_complete: bool,
}

impl Related {
    fn is_consultation(&self) -> bool {
        self.parent.is_some() || self.is_asked_about
    }
}

/// The device has made the one call to ask about the other, and they are two: no party that it asks
/// is on both.
pub(super) fn asks(device: &DeviceId, by: &CallFact, about: &CallFact) -> bool {
    let made_it = by.parties.first().is_some_and(|first| first.device.as_ref() == Some(device));
    let is_there = |call: &CallFact| call.party_of(device).is_some();
    let is_asked = |party: &&PartyFact| {
        party.role != PartyRole::Supervisor && party.device.as_ref() != Some(device)
    };
    let mut asked = by.parties.iter().filter(is_asked).filter_map(|party| party.device.as_ref());
    made_it
        && is_there(by)
        && is_there(about)
        && !asked.any(|asked| about.party_of(asked).is_some())
}

/// The first call is talked on, and the second is talked on, too, or rings at the one party that is
/// asked.
pub(super) fn may_become_one(device: &DeviceId, first: &CallFact, second: &CallFact) -> bool {
    let others = |call: &'_ CallFact| -> Vec<LegState> {
        let live = call.parties.iter().filter(|party| {
            party.role != PartyRole::Supervisor
                && party.state != LegState::Released
                && party.device.as_ref() != Some(device)
        });
        live.map(|party| party.state).collect()
    };
    let talks = |state: &LegState| matches!(state, LegState::Established | LegState::Held);
    let device_talks = |call: &CallFact| call.party_of(device).is_some_and(on_the_call);
    let asked = others(second);
    let rings = asked == [LegState::Ringing];
    let is_asked = !asked.is_empty() && asked.iter().all(talks) && device_talks(second);
    device_talks(first) && others(first).iter().any(talks) && (is_asked || rings)
}

/// One device's leg of a call, as its user sees it. The duration is zero until
/// [`timed`] sets it.
pub(super) fn call(
    call: &CallFact,
    entry: &DeviceEntry,
    party: &PartyFact,
    related: Related,
    config: &GatewayConfig,
    backend: &Capabilities,
) -> CallView {
    let (supervision, monitored) = match party.role {
        PartyRole::Supervisor => {
            (SupervisionView::Supervisor(party.activity), monitored_by(call, party))
        }
        PartyRole::Agent | PartyRole::Customer => (supervised(call, party, config), Some(party)),
    };
    let monitoring_state = match supervision {
        SupervisionView::None => None,
        SupervisionView::Supervisor(activity) => activity,
        SupervisionView::Supervised(activity) => Some(activity),
    };
    CallView {
        id: call.id.clone(),
        conn_id: call.conn_id.clone(),
        state: party.state,
        device: entry.id.clone(),
        number: entry.number.clone(),
        participants: participants(call, party),
        ani: call.ani.clone(),
        dnis: call.dnis.clone(),
        call_type: call.call_type,
        capabilities: capabilities(call, party, &related, config, backend),
        parent: related.parent,
        user_data: call.user_data.clone(),
        established_at: party.established_at,
        duration_s: 0,
        muted: party.muted || supervision == SupervisionView::Supervisor(Some(Activity::ListenIn)),
        supervisor_listening_in: supervision == SupervisionView::Supervised(Activity::ListenIn),
        monitored_user_muted: monitored.is_some_and(|party| party.muted_by_supervisor),
        monitoring: party.role == PartyRole::Supervisor,
        monitoring_state,
        quality: None,
        handed_on_to: party.handed_on_to.clone(),
    }
}

/// Adds how the sound fares: of the leg itself, and of the others that its user sees.
pub(super) fn measured(mut view: CallView, call: &CallFact, me: &PartyFact) -> CallView {
    view.quality = me.quality;
    for (participant, party) in view.participants.iter_mut().zip(others(call, me)) {
        participant.quality = party.quality;
    }
    view
}

/// Sets how long the leg has lasted.
pub(super) fn timed(mut view: CallView, now: Timestamp) -> CallView {
    view.duration_s = view.established_at.map_or(0, |since| now.seconds_since(since));
    view
}

/// The leg after it has left: what becomes of the call is not its user's to know.
pub(super) fn released(view: CallView, handed_on_to: Option<Number>) -> CallView {
    CallView {
        state: LegState::Released,
        handed_on_to,
        capabilities: Vec::new(),
        monitoring_state: None,
        supervisor_listening_in: false,
        ..view
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum SupervisionView {
    None,
    Supervisor(Option<Activity>),
    Supervised(Activity),
}

fn on_the_call(party: &PartyFact) -> bool {
    matches!(party.state, LegState::Established | LegState::Held)
}

/// What the strongest of the supervisors that monitor this party does, if the party is told.
fn supervised(call: &CallFact, party: &PartyFact, config: &GatewayConfig) -> SupervisionView {
    if config.notify_agent == NotifyAgent::None || party.device.is_none() || !on_the_call(party) {
        return SupervisionView::None;
    }
    call.parties
        .iter()
        .filter(|other| other.role == PartyRole::Supervisor && on_the_call(other))
        .filter(|supervisor| {
            monitored_by(call, supervisor).is_some_and(|monitored| std::ptr::eq(monitored, party))
        })
        .filter_map(|supervisor| supervisor.activity)
        .max()
        .map_or(SupervisionView::None, SupervisionView::Supervised)
}

/// The party that the supervisor monitors now: the target or, when that one has left, the agent in
/// its place.
fn monitored_by<'a>(call: &'a CallFact, supervisor: &PartyFact) -> Option<&'a PartyFact> {
    let target = call.party_of(supervisor.monitors.as_ref()?).filter(|party| on_the_call(party));
    let successor =
        || call.parties.iter().find(|party| party.role == PartyRole::Agent && on_the_call(party));
    target.or_else(successor)
}

/// A call of more than two, supervisors not counted.
fn is_conference(call: &CallFact) -> bool {
    let there = |party: &&PartyFact| {
        party.role != PartyRole::Supervisor && party.state != LegState::Released
    };
    call.parties.iter().filter(there).count() > 2
}

/// The others that talk. A supervisor is one of them only in BargeIn: in ListenIn and Coach the
/// customer's side never knows of the supervisor.
fn others<'a>(call: &'a CallFact, me: &'a PartyFact) -> impl Iterator<Item = &'a PartyFact> {
    call.parties
        .iter()
        .filter(move |party| !std::ptr::eq(*party, me) && party.state != LegState::Released)
        .filter(move |party| me.device.is_none() || party.device != me.device)
        .filter(|party| {
            party.role != PartyRole::Supervisor
                || (on_the_call(party) && party.activity == Some(Activity::BargeIn))
        })
}

fn participants(call: &CallFact, me: &PartyFact) -> Vec<ParticipantView> {
    let participant = |number: &Number| ParticipantView { number: number.clone(), quality: None };
    let mut there: Vec<_> = others(call, me).map(|party| participant(&party.number)).collect();
    let dials = me.state == LegState::Dialing && call.call_type != CallType::Inbound;
    if there.is_empty() && dials {
        // The agent's own phone is called first; the number is known already.
        there.push(participant(&call.dnis));
    }
    there
}

fn capabilities(
    call: &CallFact,
    party: &PartyFact,
    related: &Related,
    config: &GatewayConfig,
    backend: &Capabilities,
) -> Vec<Operation> {
    let is_supervisor = party.role == PartyRole::Supervisor;
    let is_anothers = call.owner.is_some() && !is_owner(call, party) && is_conference(call);
    let may_clear = backend.clear_call && !is_anothers;
    match party.state {
        LegState::Released => Vec::new(),
        LegState::Dialing if is_supervisor => vec![Operation::Hangup],
        LegState::Dialing => [Operation::Hangup].into_iter().chain(on_data(backend)).collect(),
        LegState::Ringing => while_ringing(is_supervisor, may_clear, backend),
        LegState::Established | LegState::Held if is_supervisor => {
            supervisor_capabilities(call, party, config, backend)
        }
        LegState::Held => {
            let mut offered = vec![Operation::Hangup];
            offered.extend(may_clear.then_some(Operation::ClearCall));
            let may_retrieve = backend.hold && !party.held_at_phone;
            offered.extend(may_retrieve.then_some(Operation::Retrieve));
            offered.extend(on_both_calls(related, backend));
            offered.extend(on_data(backend));
            offered
        }
        LegState::Established => {
            let mut offered = while_talking(call, party, related, backend);
            offered.extend(may_clear.then_some(Operation::ClearCall));
            offered
        }
    }
}

fn while_ringing(is_supervisor: bool, may_clear: bool, backend: &Capabilities) -> Vec<Operation> {
    let mut offered = Vec::new();
    offered.extend(backend.answer.then_some(Operation::Answer));
    offered.push(Operation::Hangup);
    if !is_supervisor {
        offered.extend(backend.reject.then_some(Operation::Reject));
        offered.extend(backend.redirect.then_some(Operation::Redirect));
        offered.extend(may_clear.then_some(Operation::ClearCall));
        offered.extend(on_data(backend));
    }
    offered
}

fn while_talking(
    call: &CallFact,
    party: &PartyFact,
    related: &Related,
    backend: &Capabilities,
) -> Vec<Operation> {
    let mut offered = vec![Operation::Hangup];
    offered.extend(backend.hold.then_some(Operation::Hold));
    let mute = if party.muted { Operation::UnmuteCall } else { Operation::MuteCall };
    offered.extend(backend.mute.then_some(mute));
    offered.extend(backend.dtmf.then_some(Operation::SendDtmf));
    let may_ask = backend.consultations && !related.is_consultation();
    let is_conference = is_conference(call);
    if backend.transfers {
        offered.extend((!is_conference).then_some(Operation::SingleStepTransfer));
        offered.extend(may_ask.then_some(Operation::InitiateTransfer));
    }
    if backend.conferences {
        offered.push(Operation::SingleStepConference);
        offered.extend(may_ask.then_some(Operation::InitiateConference));
        let may_remove = is_conference && is_owner(call, party);
        offered.extend(may_remove.then_some(Operation::RemoveParticipantFromConference));
    }
    offered.extend(on_both_calls(related, backend));
    offered.extend(on_data(backend));
    offered
}

/// The party's device has made a conference of the call.
fn is_owner(call: &CallFact, party: &PartyFact) -> bool {
    call.owner.is_some() && call.owner == party.device
}

/// What a device may do with the two calls that it has.
fn on_both_calls(related: &Related, backend: &Capabilities) -> impl Iterator<Item = Operation> {
    let may_complete = related.may_complete && backend.consultations;
    let swap = related.may_swap && backend.swap_calls;
    let complete_transfer = may_complete && backend.transfers;
    let complete_conference = may_complete && backend.conferences;
    [
        swap.then_some(Operation::SwapCalls),
        complete_transfer.then_some(Operation::CompleteTransfer),
        complete_conference.then_some(Operation::CompleteConference),
    ]
    .into_iter()
    .flatten()
}

fn on_data(backend: &Capabilities) -> impl Iterator<Item = Operation> {
    const ALL: [Operation; 4] = [
        Operation::AttachUserData,
        Operation::UpdateUserData,
        Operation::DeleteUserData,
        Operation::DeleteUserDataPair,
    ];
    ALL.into_iter().filter(|_| backend.user_data)
}

fn supervisor_capabilities(
    call: &CallFact,
    party: &PartyFact,
    config: &GatewayConfig,
    backend: &Capabilities,
) -> Vec<Operation> {
    let mut offered = vec![Operation::Hangup];
    if backend.live_switching {
        let may_switch = |to: &Activity| {
            backend.activities.contains(to)
                && party.activity != Some(*to)
                && !(config.one_way_coach && *to == Activity::Coach)
        };
        offered.extend(
            Activity::ALL.iter().filter(|to| may_switch(to)).map(|to| Operation::switch_to(*to)),
        );
    }
    if let Some(agent) = monitored_by(call, party).filter(|_| backend.mute_monitored) {
        offered.push(if agent.muted_by_supervisor {
            Operation::UnmuteMonitoredUser
        } else {
            Operation::MuteMonitoredUser
        });
    }
    if backend.conferences && is_conference(call) {
        offered.push(Operation::RemoveParticipantFromConference);
    }
    offered
}
