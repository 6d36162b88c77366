//! Monitors that must end: found in a snapshot by a gateway that has just started, and those that
//! the backend does not end at the first word.

use super::*;
use crate::model::JoinSound;

/// A gateway that has just started finds this monitor at the backend.
fn starts(change: impl FnOnce(&mut Directory), found: MonitorFact) -> (Harness, Vec<Output>) {
    starts_with(Restored::default(), change, found)
}

fn starts_with(
    kept: Restored,
    change: impl FnOnce(&mut Directory),
    found: MonitorFact,
) -> (Harness, Vec<Output>) {
    let mut directory = directory();
    change(&mut directory);
    let mut harness = Harness::cold(GatewayConfig::default(), directory, kept);
    harness.fact(Fact::SnapshotBegin);
    for (id, number) in [(MEG_PHONE, "5005"), (BOB_PHONE, "5001"), (EVE_PHONE, "5002")] {
        harness.fact(Fact::Device(device(id, number)));
    }
    harness.fact(Fact::Call(coached(Activity::Coach)));
    harness.fact(Fact::Monitor(found));
    harness.fact(Fact::SnapshotComplete);
    let outputs = harness.outputs();
    for output in &outputs {
        if let Output::Audit { id, .. } = output {
            harness.gateway.handle_audited(*id, Ok(()), harness.now);
        }
    }
    (harness, outputs)
}

fn found() -> MonitorFact {
    monitor(joined_as(Activity::Coach))
}

/// The commands that end Meg's monitor.
fn stops(outputs: &[Output]) -> Vec<WorkId> {
    let stop = |output: &Output| match output {
        Output::Command { id, command: Command::StopMonitoring { supervisor }, .. }
            if supervisor.as_str() == MEG_PHONE =>
        {
            Some(*id)
        }
        _ => None,
    };
    outputs.iter().filter_map(stop).collect()
}

/// The reasons of the cancelled monitors in the audit.
fn reasons(outputs: &[Output]) -> Vec<String> {
    let reason = |output: &Output| match output {
        Output::Audit { record, .. } if record.event == AuditEvent::Cancelled => {
            assert_eq!(record.device, Some(MEG_PHONE.into()));
            assert_eq!(record.target, Some(BOB_PHONE.into()));
            assert_eq!(record.call, Some("call".into()));
            record.refusal.as_ref().map(|refusal| refusal.to_string())
        }
        _ => None,
    };
    outputs.iter().filter_map(reason).collect()
}

fn retries(outputs: &[Output]) -> Vec<Duration> {
    let retry = |output: &Output| match output {
        Output::EndFailed { supervisor, retry_in, .. } => {
            assert_eq!(supervisor.as_str(), MEG_PHONE);
            Some(*retry_in)
        }
        _ => None,
    };
    outputs.iter().filter_map(retry).collect()
}

#[test]
fn what_a_supervisor_lost_while_no_gateway_ran_ends_the_monitor_in_the_first_snapshot() {
    type Change = fn(&mut Directory);
    let rows: [(Change, &str, bool); 5] = [
        (
            |all| {
                all.users.remove(MEG);
                sales(all).supervisors.clear();
            },
            "is not that of the user who monitors with it.",
            false,
        ),
        (
            |all| {
                Arc::make_mut(all.users.get_mut(MEG).expect("Meg")).devices.clear();
            },
            "is not that of the user who monitors with it.",
            false,
        ),
        (
            |all| {
                all.users.remove(MEG);
                all.devices.remove(MEG_PHONE);
                sales(all).supervisors.clear();
            },
            "is not that of the user who monitors with it.",
            false,
        ),
        (|all| sales(all).agent_side_only = true, "ask again.", true),
        (
            |all| {
                sales(all).supervisors.remove(MEG);
            },
            "in none of your groups.",
            true,
        ),
    ];
    for (change, why, owned) in rows {
        let (mut harness, outputs) = starts(change, found());
        assert_eq!(stops(&outputs).len(), 1, "{why}: {outputs:#?}");
        let told = reasons(&outputs);
        assert!(matches!(&told[..], [text] if text.contains(why)), "{why}: {told:?}");
        let errors = notices(&outputs)
            .into_iter()
            .filter(|notice| matches!(&notice.body, NoticeBody::Error { .. }));
        assert_eq!(errors.count(), usize::from(owned), "{why}: {outputs:#?}");
        let again = harness.facts(Fact::Monitor(found()));
        assert_eq!((stops(&again), reasons(&again)), (vec![], vec![]), "it is on its way");
    }
}

/// Meg's device is Ada's now, who may monitor too.
fn passes_to_ada(all: &mut Directory) {
    Arc::make_mut(all.users.get_mut(MEG).expect("Meg")).devices.clear();
    Arc::make_mut(all.users.get_mut("ada").expect("Ada")).devices.push(MEG_PHONE.into());
}

fn audited(outputs: &[Output]) -> Vec<(AuditEvent, Option<UserId>)> {
    let line = |output: &Output| match output {
        Output::Audit { record, .. } => Some((record.event, record.user.clone())),
        _ => None,
    };
    outputs.iter().filter_map(line).collect()
}

#[test]
fn a_device_that_has_passed_to_another_supervisor_takes_no_monitor_along() {
    let meg = || Some(MEG.into());
    let record = MonitoringRecord { user: meg(), is_ending: false };
    let monitoring = BTreeMap::from([(MEG_PHONE.into(), record)]);
    for state in [MonitorState::Armed, joined_as(Activity::Coach)] {
        let kept = Restored { monitoring: monitoring.clone(), ..Restored::default() };
        let (mut harness, outputs) = starts_with(kept, passes_to_ada, monitor(state.clone()));
        let [stop] = stops(&outputs)[..] else { panic!("{state:?}: {outputs:#?}") };
        let lines = audited(&outputs);
        assert!(lines.contains(&(AuditEvent::Cancelled, meg())), "{state:?}: {lines:?}");
        assert!(lines.iter().all(|(_, user)| *user == meg()), "{state:?}: {lines:?}");
        let ask = AdmissionAsked {
            supervisor: MEG_PHONE.into(),
            target: BOB_PHONE.into(),
            call: "call".into(),
            activity: Activity::Coach,
        };
        let lines = audited(&harness.facts(Fact::AdmissionAsked(ask)));
        assert!(matches!(lines[..], [(AuditEvent::NotAdmitted, _)]), "{lines:?}");
        harness.gateway.handle_command_result(stop, Ok(()), harness.now);
        let outputs = harness.facts(Fact::MonitorGone { supervisor: MEG_PHONE.into() });
        assert!(audited(&outputs).iter().all(|(_, user)| *user == meg()), "{outputs:#?}");
    }
}

#[test]
fn the_lines_of_a_join_name_its_user_also_when_the_device_passes_to_another() {
    let mut harness = Harness::new();
    harness.facts(Fact::Call(coached(Activity::Coach)));
    harness.facts(Fact::Monitor(found()));
    let mut changed = directory();
    passes_to_ada(&mut changed);
    harness.gateway.handle_directory(Arc::new(changed), harness.now);
    let mut outputs = harness.outputs();
    outputs.extend(harness.facts(Fact::MonitorGone { supervisor: MEG_PHONE.into() }));
    let sound = JoinSound {
        supervisor: MEG_PHONE.into(),
        target: BOB_PHONE.into(),
        call: "call".into(),
        since: Timestamp(1_000_000),
        legs: Vec::new(),
    };
    outputs.extend(harness.facts(Fact::JoinSound(sound)));
    let meg = || Some(MEG.into());
    let expected = [AuditEvent::Cancelled, AuditEvent::Released, AuditEvent::Sound];
    assert_eq!(audited(&outputs), expected.map(|event| (event, meg())));
}

#[test]
fn a_monitor_of_nobodys_device_that_appears_is_ended_at_once() {
    let mut harness = Harness::new();
    let appears = MonitorFact { supervisor: "nobody's".into(), ..monitor(MonitorState::Armed) };
    let outputs = harness.facts(Fact::Monitor(appears));
    assert!(
        outputs.iter().any(|output| matches!(
            output,
            Output::Command { command: Command::StopMonitoring { supervisor }, context, .. }
                if supervisor.as_str() == "nobody's" && context.user.is_none()
        )),
        "{outputs:#?}"
    );
}

#[test]
fn a_monitor_of_nobodys_device_that_was_started_unasked_stays() {
    let unasked = MonitorFact { confirm_joins: false, ..found() };
    let goes = |all: &mut Directory| {
        all.users.remove(MEG);
        sales(all).supervisors.clear();
    };
    let (mut harness, outputs) = starts(goes, unasked);
    assert_eq!((stops(&outputs), reasons(&outputs)), (vec![], vec![]));
    let mut changed = directory();
    goes(&mut changed);
    sales(&mut changed).agent_side_only = true;
    harness.gateway.handle_directory(Arc::new(changed), harness.now);
    assert_eq!(stops(&harness.outputs()), []);
}

#[test]
fn a_monitor_of_agents_only_stays_where_agents_only_may_be_heard() {
    let agents_only = MonitorFact { agent_side_only: true, ..found() };
    let (_, outputs) = starts(|all| sales(all).agent_side_only = true, agents_only);
    assert_eq!((stops(&outputs), reasons(&outputs)), (vec![], vec![]));
}

/// A gateway that has asked for the end of a monitor of a supervisor that is gone.
fn ends() -> (Harness, WorkId) {
    let goes = |all: &mut Directory| {
        all.users.remove(MEG);
        sales(all).supervisors.clear();
    };
    let (harness, outputs) = starts(goes, found());
    let [stop] = stops(&outputs)[..] else { panic!("{outputs:#?}") };
    (harness, stop)
}

impl Harness {
    fn fails(&mut self, id: WorkId, reason: Reason) -> Vec<Output> {
        let refusal = Refusal::new(reason, "busy");
        self.gateway.handle_command_result(id, Err(refusal), self.now);
        self.outputs()
    }

    fn waits(&mut self, time: Duration) -> Vec<Output> {
        self.now = self.now + time;
        self.gateway.handle_timeout(self.now);
        self.outputs()
    }
}

#[test]
fn a_monitor_that_could_not_be_ended_is_ended_again_and_again_until_it_is_gone() {
    const MOMENT: Duration = Duration::from_millis(1);
    let reasons = [
        Reason::Unavailable,
        Reason::Internal,
        Reason::InvalidState,
        Reason::NotPermitted,
        Reason::NotFound,
        Reason::Unavailable,
        Reason::Unavailable,
    ];
    let (mut harness, mut stop) = ends();
    for (reason, seconds) in reasons.into_iter().zip([1, 2, 4, 8, 16, 30, 30]) {
        let retry_in = Duration::from_secs(seconds);
        assert_eq!(retries(&harness.fails(stop, reason)), [retry_in]);
        assert_eq!(stops(&harness.waits(retry_in - MOMENT)), [], "not before its time");
        assert!(harness.gateway.poll_timeout() <= Some(harness.now.mono + MOMENT));
        let outputs = harness.waits(MOMENT);
        let [again] = stops(&outputs)[..] else { panic!("{outputs:#?}") };
        stop = again;
    }
    let retry_in = Duration::from_secs(30);
    for _ in 0..2 {
        harness.gateway.handle_command_result(stop, Ok(()), harness.now);
        assert!(retries(&harness.outputs()).is_empty(), "it may well be on its way");
        assert_eq!(stops(&harness.waits(retry_in - MOMENT)), [], "not before its time");
        let outputs = harness.waits(MOMENT);
        assert_eq!(retries(&outputs).len(), 1, "accepted, and still there");
        let [again] = stops(&outputs)[..] else { panic!("{outputs:#?}") };
        stop = again;
    }
    harness.gateway.handle_command_result(stop, Ok(()), harness.now);
    harness.facts(Fact::MonitorGone { supervisor: MEG_PHONE.into() });
    assert_eq!(stops(&harness.waits(Duration::from_secs(60))), []);
}

#[test]
fn a_monitor_that_must_end_must_do_so_in_the_next_life_of_the_gateway_too() {
    let mut harness = Harness::new();
    harness.logs_in(MEG);
    harness.facts(Fact::Call(coached(Activity::Coach)));
    harness.facts(Fact::Monitor(found()));
    harness.request(MEG, Request::EndSession);
    let kept = harness.outputs().into_iter().filter_map(|output| match output {
        Output::KeepMonitoring { supervisor, monitoring } => Some((supervisor, monitoring?)),
        _ => None,
    });
    let kept = Restored { monitoring: kept.collect(), ..Restored::default() };
    let (mut harness, outputs) = starts_with(kept, |_| {}, found());
    assert_eq!(stops(&outputs).len(), 1, "{outputs:#?}");
    let outputs = harness.facts(Fact::MonitorGone { supervisor: MEG_PHONE.into() });
    assert!(
        outputs
            .iter()
            .any(|output| matches!(output, Output::KeepMonitoring { monitoring: None, .. })),
        "{outputs:#?}"
    );
}

#[test]
fn the_end_of_a_monitor_that_is_not_answered_in_time_is_asked_for_again() {
    let (mut harness, _) = ends();
    let deadline = GatewayConfig::default().command_deadline;
    assert_eq!(retries(&harness.waits(deadline)), [Duration::from_secs(1)]);
    assert_eq!(stops(&harness.waits(Duration::from_secs(1))).len(), 1);
}

#[test]
fn a_monitor_that_is_gone_before_its_end_fails_is_not_ended_again() {
    let (mut harness, stop) = ends();
    harness.facts(Fact::MonitorGone { supervisor: MEG_PHONE.into() });
    assert_eq!(harness.fails(stop, Reason::InvalidState), []);
    let (mut harness, stop) = ends();
    harness.fails(stop, Reason::Unavailable);
    harness.facts(Fact::MonitorGone { supervisor: MEG_PHONE.into() });
    assert_eq!(stops(&harness.waits(Duration::from_secs(60))), []);
}

#[test]
fn a_backend_that_is_away_is_asked_to_end_a_monitor_when_it_is_back() {
    let (mut harness, stop) = ends();
    harness.facts(Fact::Lost);
    harness.fails(stop, Reason::Unavailable);
    assert_eq!(stops(&harness.waits(Duration::from_secs(60))), []);
    assert_eq!(harness.gateway.poll_timeout(), None, "nothing to wait for");
    harness.facts(Fact::SnapshotBegin);
    harness.facts(Fact::Monitor(found()));
    assert_eq!(stops(&harness.facts(Fact::SnapshotComplete)).len(), 1);
}
