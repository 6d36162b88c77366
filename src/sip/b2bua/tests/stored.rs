//! What must be stored before a command is executed.

use super::harness::{AGENT, Harness, SUPERVISOR};
use crate::model::{
    Activity, Command, DeviceId, Fact, Mode, MonitorFact, MonitorState, Reason, Refusal, Scope,
};
use crate::sip::b2bua::{CommandId, Output, Persist, RestoredDevice};

const FIRST: CommandId = CommandId(900);
const SECOND: CommandId = CommandId(901);

fn outputs(harness: &mut Harness) -> Vec<Output> {
    std::iter::from_fn(|| harness.b2bua.poll_output()).collect()
}

fn start_monitoring() -> Command {
    Command::StartMonitoring {
        supervisor: SUPERVISOR.into(),
        target: AGENT.into(),
        activity: Activity::Coach,
        mode: Mode::AllCalls,
        scope: Scope::Call,
        confirm_joins: false,
        agent_side_only: false,
    }
}

fn armed() -> MonitorFact {
    MonitorFact {
        supervisor: SUPERVISOR.into(),
        target: AGENT.into(),
        activity: Activity::Coach,
        mode: Mode::AllCalls,
        scope: Scope::Call,
        confirm_joins: false,
        agent_side_only: false,
        state: MonitorState::Armed,
    }
}

fn accepted(id: CommandId) -> Output {
    Output::Reply { id, result: Ok(()) }
}

fn persist_monitor(id: CommandId) -> Output {
    Output::Persist { id, change: Persist::Monitor(armed()) }
}

fn no_monitor() -> Output {
    Output::Keep(Persist::NoMonitor { supervisor: SUPERVISOR.into() })
}

fn reason(outputs: &[Output]) -> Option<Reason> {
    match outputs.last() {
        Some(Output::Reply { result: Err(refusal), .. }) => Some(refusal.reason),
        _ => None,
    }
}

#[test]
fn monitoring_begins_when_it_is_stored() {
    let mut harness = Harness::new();
    harness.b2bua.handle_command(FIRST, start_monitoring(), harness.now);
    assert_eq!(outputs(&mut harness), [persist_monitor(FIRST)]);
    harness.b2bua.handle_persisted(FIRST, true, harness.now);
    let published = Output::Fact(Fact::Monitor(armed()));
    assert_eq!(
        outputs(&mut harness),
        [Output::Keep(Persist::Monitor(armed())), published, accepted(FIRST)]
    );
}

#[test]
fn a_change_that_can_not_be_stored_changes_nothing_and_what_holds_is_kept_again() {
    let mut harness = Harness::new();
    harness.b2bua.handle_command(FIRST, start_monitoring(), harness.now);
    assert_eq!(outputs(&mut harness), [persist_monitor(FIRST)]);
    harness.b2bua.handle_persisted(FIRST, false, harness.now);
    let after = outputs(&mut harness);
    assert_eq!((&after[..1], after.len()), (&[no_monitor()][..], 2));
    assert_eq!(reason(&after), Some(Reason::Internal));

    let device = DeviceId::from(AGENT);
    let on = Command::SetDoNotDisturb { device: device.clone(), on: true };
    harness.b2bua.handle_command(SECOND, on, harness.now);
    outputs(&mut harness);
    harness.b2bua.handle_persisted(SECOND, false, harness.now);
    let after = outputs(&mut harness);
    let holds = RestoredDevice { device, do_not_disturb: false, forward_to: None };
    assert_eq!(after[0], Output::Keep(Persist::Device(holds)));
    assert_eq!(reason(&after), Some(Reason::Internal));
}

#[test]
fn monitoring_that_is_stopped_before_it_is_stored_never_begins() {
    let mut harness = Harness::new();
    harness.b2bua.handle_command(FIRST, start_monitoring(), harness.now);
    outputs(&mut harness);
    let stop = Command::StopMonitoring { supervisor: SUPERVISOR.into() };
    harness.b2bua.handle_command(SECOND, stop, harness.now);
    assert_eq!(outputs(&mut harness), [no_monitor(), accepted(SECOND)]);
    harness.b2bua.handle_persisted(FIRST, true, harness.now);
    let after = outputs(&mut harness);
    assert_eq!((&after[..1], after.len()), (&[no_monitor()][..], 2));
    assert_eq!(reason(&after), Some(Reason::InvalidState));
}

#[test]
fn what_is_refused_at_once_is_not_stored() {
    let mut harness = Harness::new();
    let unknown = Command::SetDoNotDisturb { device: "nobody".into(), on: true };
    harness.b2bua.handle_command(FIRST, unknown, harness.now);
    let refusal = Refusal::no_device(&"nobody".into());
    let result = Err(refusal);
    assert_eq!(outputs(&mut harness), [Output::Reply { id: FIRST, result }]);
}
