//! Monitors: armed, joined, and out again.

use super::ACTIVITIES;
use crate::contract_check::session::{Known, Miss, Session, Verdict, ensure, refused_as};
use crate::contract_check::{Person, Phones, Residents};
use crate::model::{
    Activity, CallId, Command, DeviceId, LegState, Mode, MonitorState, PartyRole, Reason, Scope,
};
use crate::telephony::phones::{PhoneCommand, Pickup};

pub(super) async fn arms_and_cancels<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    let supervisor = session.residents().supervisor.clone();
    session.start(Activity::Coach).await?;
    until_is(session, (Activity::Coach, Mode::AllCalls, Scope::Call)).await?;
    session.until_armed().await?;
    session.stop(&supervisor).await?;
    session.until_unmonitored().await?;
    let stop = Command::StopMonitoring { supervisor: supervisor.device.clone() };
    session.refused(&supervisor, stop, Reason::InvalidState).await
}

pub(super) async fn changes_when_asked_again<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    session.start(Activity::Coach).await?;
    let offered = &session.bench.offered;
    let mode = [Mode::NextCall, Mode::AllCalls].into_iter().find(|it| offered.modes.contains(it));
    let scope = [Scope::Agent, Scope::Call].into_iter().find(|it| offered.scopes.contains(it));
    let terms = (Activity::ListenIn, mode.unwrap_or(Mode::AllCalls), scope.unwrap_or(Scope::Call));
    session.start_as(terms.0, terms.1, terms.2).await?;
    until_is(session, terms).await
}

pub(super) async fn monitors_one_target_at_a_time<P: Phones>(
    session: &mut Session<'_, P>,
) -> Verdict {
    let residents = session.residents();
    let (supervisor, colleague) = (residents.supervisor.clone(), residents.colleague.clone());
    session.start(Activity::Coach).await?;
    session.accepted(&supervisor, start(&supervisor, &colleague.device, false)).await?;
    session
        .until("the supervisor monitors the other agent, and nobody else", |known, residents| {
            let monitor = known.monitors.get(&residents.supervisor.device);
            monitor.is_some_and(|monitor| monitor.target == residents.colleague.device)
                && known.monitors.len() == 1
        })
        .await
}

pub(super) async fn nobody_monitors_itself<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    let supervisor = session.residents().supervisor.clone();
    let command = start(&supervisor, &supervisor.device, false);
    session.refused(&supervisor, command, Reason::NotPermitted).await
}

pub(super) async fn refuses_a_second_supervisor<P: Phones>(
    session: &mut Session<'_, P>,
) -> Verdict {
    session.start(Activity::Coach).await?;
    let (second, agent) = (session.residents().second.clone(), session.residents().agent.clone());
    let context = session.context(&second);
    let command = start(&second, &agent.device, false);
    match session.send(&context, &command).await {
        Err(refusal) if refusal.reason == Reason::InUse => Ok(()),
        Err(refusal) => Err(Miss::failed("it is refused as InUse", refused_as(&refusal))),
        Ok(_) => {
            let expected = "both monitors are there, when a second supervisor is accepted";
            session.until(expected, |known, _| known.monitors.len() == 2).await?;
            Err(Miss::Skipped("the backend lets several supervisors monitor one agent".into()))
        }
    }
}

pub(super) async fn joins_the_next_call<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    session.start(Activity::Coach).await?;
    session.until_armed().await?;
    let call = session.talk().await?;
    session.until_joined(&call, Activity::Coach).await?;
    let supervisor = session.residents().supervisor.clone();
    let states = session.known().states.iter().filter(|(device, state)| {
        // A gateway asks itself for leave.
        *device == supervisor.device && !matches!(state, MonitorState::Admitting { .. })
    });
    let mut states: Vec<String> = states.map(|(_, state)| state.to_string()).collect();
    states.dedup();
    let order = "armed, inviting, joined";
    ensure(states.join(", ") == order, format!("the monitor is {order}"), || states.join(", "))?;

    let agent = session.residents().agent.clone();
    let known = session.snapshot().await?;
    let Some(fact) = known.calls.get(&call) else {
        return Err(Miss::failed("the call is in a snapshot", known.describe()));
    };
    let role = |role| fact.parties.iter().filter(|party| party.role == role).collect::<Vec<_>>();
    let (agents, customers, supervisors) =
        (role(PartyRole::Agent), role(PartyRole::Customer), role(PartyRole::Supervisor));
    let ([at_agent], [_], [at_supervisor]) = (&agents[..], &customers[..], &supervisors[..]) else {
        let expected = "one agent, one customer and one supervisor are on the call";
        return Err(Miss::failed(expected, known.describe()));
    };
    let device = |device: &Option<DeviceId>| {
        device.as_ref().map_or("no device".to_owned(), |device| format!("device {device}"))
    };
    ensure(
        at_agent.device.as_ref() == Some(&agent.device),
        format!("the agent's leg is that of device {}", agent.device),
        || device(&at_agent.device),
    )?;
    ensure(
        at_supervisor.device.as_ref() == Some(&supervisor.device),
        format!("the supervisor's leg is that of device {}", supervisor.device),
        || device(&at_supervisor.device),
    )?;
    ensure(
        at_supervisor.monitors.as_ref() == Some(&agent.device),
        format!("the supervisor's leg monitors device {}", agent.device),
        || device(&at_supervisor.monitors),
    )?;
    ensure(
        fact.parties.iter().all(|party| party.established_at.is_some()),
        "each party says since when it is established",
        || "one does not".into(),
    )?;
    ensure(
        fact.conn_id.len() == 16 && fact.conn_id.bytes().all(|digit| digit.is_ascii_hexdigit()),
        "conn_id has 16 hexadecimal digits",
        || fact.conn_id.clone(),
    )
}

pub(super) async fn waits_for_the_answer<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    session.start(Activity::Coach).await?;
    session.until_armed().await?;
    let call = session.ring().await?;
    session.catch_up().await?;
    let supervisor = session.residents().supervisor.device.clone();
    let known = session.known();
    let mut states = known.states.iter().filter(|(device, _)| *device == supervisor);
    let early = states.find(|(_, state)| *state != MonitorState::Armed);
    let expected = "the monitor is armed while the agent's phone rings";
    ensure(early.is_none(), expected, || known.describe())?;
    let legs = supervisors_legs(known, &call);
    let expected = "the supervisor is no party while the agent's phone rings";
    ensure(legs == 0, expected, || known.describe())?;
    session.act(PhoneCommand::Answer(session.residents().agent.number.clone())).await?;
    session.until_joined(&call, Activity::Coach).await
}

pub(super) async fn waits_for_the_call_after<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    session.start(Activity::Coach).await?;
    let call = session.talk().await?;
    session.until_joined(&call, Activity::Coach).await?;
    session.hang_up(&call).await?;
    session
        .until("the monitor is armed again, in Coach", |known, residents| {
            let monitor = known.monitors.get(&residents.supervisor.device);
            monitor.is_some_and(|monitor| {
                monitor.state == MonitorState::Armed && monitor.activity == Activity::Coach
            })
        })
        .await?;
    let call = session.talk().await?;
    session.until_joined(&call, Activity::Coach).await
}

pub(super) async fn switches_live<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    let supervisor = session.residents().supervisor.clone();
    session.start(Activity::Coach).await?;
    let call = session.talk().await?;
    session.until_joined(&call, Activity::Coach).await?;
    let order = ACTIVITIES.iter().rev().chain(&ACTIVITIES).filter(|to| **to != Activity::Coach);
    let mut last = Activity::Coach;
    for activity in order.copied().chain([Activity::Coach, Activity::BargeIn]) {
        if activity == last {
            continue;
        }
        last = activity;
        let switch = Command::SwitchMonitoring {
            supervisor: supervisor.device.clone(),
            call: call.clone(),
            activity,
        };
        session.accepted(&supervisor, switch.clone()).await?;
        session.until_joined(&call, activity).await?;
        session.refused(&supervisor, switch, Reason::InvalidState).await?;
    }
    session.hang_up(&call).await?;
    session
        .until("the monitor is armed, in the activity first asked for", |known, residents| {
            let monitor = known.monitors.get(&residents.supervisor.device);
            monitor.is_some_and(|monitor| {
                monitor.state == MonitorState::Armed && monitor.activity == Activity::Coach
            })
        })
        .await
}

pub(super) async fn spends_next_call<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    session.start_as(Activity::ListenIn, Mode::NextCall, Scope::Call).await?;
    let call = session.talk().await?;
    session.until_joined(&call, Activity::ListenIn).await?;
    session.hang_up(&call).await?;
    session.until_unmonitored().await
}

pub(super) async fn keeps_scope_agent<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    session.start_as(Activity::Coach, Mode::AllCalls, Scope::Agent).await?;
    let call = session.talk().await?;
    session.until_joined(&call, Activity::Coach).await?;
    until_is(session, (Activity::Coach, Mode::AllCalls, Scope::Agent)).await
}

pub(super) async fn joins_a_call_that_goes_on<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    let call = session.talk().await?;
    session.start(Activity::BargeIn).await?;
    session.until_joined(&call, Activity::BargeIn).await?;
    session.start(Activity::Coach).await?;
    session.until_joined(&call, Activity::Coach).await?;
    let legs = supervisors_legs(session.known(), &call);
    ensure(legs == 1, "one leg of the supervisor", || format!("{legs} legs"))
}

pub(super) async fn leaves_when_cancelled<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    let supervisor = session.residents().supervisor.clone();
    session.start(Activity::Coach).await?;
    let call = session.talk().await?;
    session.until_joined(&call, Activity::Coach).await?;
    session.stop(&supervisor).await?;
    session.until_unmonitored().await?;
    session.until("the supervisor is out and the call goes on", is_out(&call)).await
}

pub(super) async fn lets_a_supervisor_hang_up<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    session.start(Activity::Coach).await?;
    let call = session.talk().await?;
    session.until_joined(&call, Activity::Coach).await?;
    session.act(PhoneCommand::HangUp(session.residents().supervisor.number.clone())).await?;
    session.until("the supervisor is out and the call goes on", is_out(&call)).await?;
    session.until_armed().await?;
    // Were the supervisor invited again, the call's end would come after that.
    session.hang_up(&call).await?;
    let last = session.known().over.last();
    let legs = last.map_or(0, |fact| {
        fact.parties.iter().filter(|party| party.role == PartyRole::Supervisor).count()
    });
    ensure(legs == 1, "the supervisor had one leg on the call", || format!("{legs} legs"))
}

pub(super) async fn reports_a_busy_supervisor<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    reports(session, Pickup::Busy).await
}

pub(super) async fn reports_a_rejection<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    reports(session, Pickup::Rejects).await
}

pub(super) async fn gives_up_an_unanswered_phone<P: Phones>(
    session: &mut Session<'_, P>,
) -> Verdict {
    reports(session, Pickup::Rings).await
}

async fn reports<P: Phones>(session: &mut Session<'_, P>, pickup: Pickup) -> Verdict {
    let number = session.residents().supervisor.number.clone();
    session.act(PhoneCommand::Pickup(number.clone(), pickup)).await?;
    let reported = reports_a_failure(session, pickup).await;
    let answers = session.act(PhoneCommand::Pickup(number, Pickup::Answers)).await;
    reported.and(answers)
}

async fn reports_a_failure<P: Phones>(session: &mut Session<'_, P>, pickup: Pickup) -> Verdict {
    session.start(Activity::Coach).await?;
    let call = session.talk().await?;
    if pickup == Pickup::Rings {
        session
            .until("the supervisor's phone rings, as a party of the call", |known, residents| {
                let leg = known.calls.get(&call);
                let leg = leg.and_then(|call| call.party_of(&residents.supervisor.device));
                leg.is_some_and(|leg| leg.state == LegState::Ringing)
            })
            .await?;
    }
    session
        .until("a Failure of the supervisor's device is reported", |known, residents| {
            known.failures.contains(&residents.supervisor.device)
        })
        .await?;
    session.until("the supervisor is out and the call goes on", is_out(&call)).await?;
    session.until_armed().await
}

pub(super) async fn joins_nobody_without_leave<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    let call = wait_for_leave(session).await?;
    session
        .until("without an answer the monitor is armed", |known, residents| {
            known.is_armed(&residents.supervisor)
        })
        .await?;
    session.until("without an answer nobody has joined", is_out(&call)).await?;
    let (supervisor, late) = admit(session, &call, true);
    session.refused(&supervisor, late, Reason::InvalidState).await
}

pub(super) async fn joins_nobody_who_may_not<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    let call = wait_for_leave(session).await?;
    let (supervisor, no) = admit(session, &call, false);
    session.accepted(&supervisor, no).await?;
    session.until_armed().await?;
    session.until("nobody has joined", is_out(&call)).await
}

pub(super) async fn tells_which_joins_wait_for_leave<P: Phones>(
    session: &mut Session<'_, P>,
) -> Verdict {
    let call = wait_for_leave(session).await?;
    let device = session.residents().supervisor.device.clone();
    let known = session.snapshot().await?;
    let expected = format!("a snapshot tells the AdmissionAsked for call {call} that waits");
    ensure(known.asked.get(&device) == Some(&call), expected, || match known.asked.is_empty() {
        true => format!("it tells none, and {}", known.describe()),
        false => format!("it tells {:?}", known.asked),
    })?;
    let (supervisor, no) = admit(session, &call, false);
    session.accepted(&supervisor, no).await?;
    session.until_armed().await?;
    let known = session.snapshot().await?;
    let expected = "an AdmissionAsked that is answered is in no snapshot";
    ensure(known.asked.is_empty(), expected, || "a later snapshot tells it".into())
}

pub(super) async fn joins_with_leave<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    let call = wait_for_leave(session).await?;
    let (supervisor, yes) = admit(session, &call, true);
    session.accepted(&supervisor, yes).await?;
    session.until_joined(&call, Activity::Coach).await
}

/// A monitor that confirms joins has a call to join.
async fn wait_for_leave<P: Phones>(session: &mut Session<'_, P>) -> Verdict<CallId> {
    let (supervisor, agent) =
        (session.residents().supervisor.clone(), session.residents().agent.clone());
    session.accepted(&supervisor, start(&supervisor, &agent.device, true)).await?;
    let call = session.talk().await?;
    session
        .until("AdmissionAsked is reported", |known, residents| {
            known.asked.get(&residents.supervisor.device) == Some(&call)
        })
        .await?;
    Ok(call)
}

fn admit<P: Phones>(session: &Session<'_, P>, call: &CallId, admitted: bool) -> (Person, Command) {
    let supervisor = session.residents().supervisor.clone();
    let device = supervisor.device.clone();
    (supervisor, Command::AdmitMonitoring { supervisor: device, call: call.clone(), admitted })
}

fn start(supervisor: &Person, target: &DeviceId, confirm_joins: bool) -> Command {
    Command::StartMonitoring {
        supervisor: supervisor.device.clone(),
        target: target.clone(),
        activity: Activity::Coach,
        mode: Mode::AllCalls,
        scope: Scope::Call,
        confirm_joins,
        agent_side_only: false,
    }
}

async fn until_is<P: Phones>(
    session: &mut Session<'_, P>,
    (activity, mode, scope): (Activity, Mode, Scope),
) -> Verdict {
    let expected = format!("the monitor of the agent is reported with {activity}, {mode}, {scope}");
    session
        .until(expected, |known, residents| {
            let monitor = known.monitors.get(&residents.supervisor.device);
            monitor.is_some_and(|monitor| {
                monitor.target == residents.agent.device
                    && (monitor.activity, monitor.mode, monitor.scope) == (activity, mode, scope)
            })
        })
        .await
}

/// The supervisor is not on the call, and the agent is.
fn is_out(call: &CallId) -> impl Fn(&Known, &Residents) -> bool {
    move |known, residents| {
        known.calls.get(call).is_some_and(|call| {
            call.party_of(&residents.supervisor.device).is_none()
                && call.party_of(&residents.agent.device).is_some()
        })
    }
}

fn supervisors_legs(known: &Known, call: &CallId) -> usize {
    let parties = known.calls.get(call).into_iter().flat_map(|call| &call.parties);
    parties.filter(|party| party.role == PartyRole::Supervisor).count()
}
