//! What a supervisor dials is what a client asks for.

use super::*;
use crate::model::{FeatureCode, FeatureCodeDialled, FeatureCodeId};

const CODE: &str = "code-1";

fn dialled(device: &str, code: FeatureCode) -> FeatureCodeDialled {
    let from = Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)));
    FeatureCodeDialled { id: CODE.into(), device: device.into(), code, from }
}

fn coach(number: &str) -> FeatureCode {
    FeatureCode::Start {
        number: number.into(),
        activity: Activity::Coach,
        mode: Mode::NextCall,
        scope: Scope::Call,
    }
}

/// What came of a code: commands with the code each is the answer to, and the lines of the audit.
type Came = (Vec<(Command, Option<FeatureCodeId>)>, Vec<AuditRecord>);

impl Harness {
    /// A code comes; every line is written, or none, and the backend answers every command so.
    fn dials(
        &mut self,
        dialled: FeatureCodeDialled,
        is_written: bool,
        result: &Result<(), Refusal>,
    ) -> Came {
        self.fact(Fact::FeatureCodeDialled(dialled));
        let (mut commands, mut records) = (Vec::new(), Vec::new());
        while let Some(output) = self.gateway.poll_output() {
            match output {
                Output::Command { id, command, context } => {
                    commands.push((command, context.feature_code));
                    self.gateway.handle_command_result(id, result.clone(), self.now);
                }
                Output::Audit { id, record } => {
                    records.push(record);
                    let written = is_written.then_some(()).ok_or(AuditFailed);
                    self.gateway.handle_audited(id, written, self.now);
                }
                Output::Reply { .. } => panic!("nobody waits for a reply"),
                Output::Notice(_)
                | Output::Keep { .. }
                | Output::KeepHearing { .. }
                | Output::KeepMonitoring { .. }
                | Output::EndFailed { .. } => {}
            }
        }
        (commands, records)
    }
}

/// The reason for which the phone is refused, if that is all that was done.
fn refused(came: &Came, device: &str) -> Option<Reason> {
    match &came.0[..] {
        [(Command::RefuseFeatureCode { device: of, code, refusal }, None)]
            if of.as_str() == device && code.as_str() == CODE =>
        {
            Some(refusal.reason)
        }
        _ => None,
    }
}

#[test]
fn a_code_is_the_request_of_the_devices_user_with_its_line_before_the_command() {
    let mut harness = Harness::new();
    let (commands, records) = harness.dials(dialled(MEG_PHONE, coach("5001")), true, &Ok(()));
    let expected = Command::StartMonitoring {
        supervisor: MEG_PHONE.into(),
        target: BOB_PHONE.into(),
        activity: Activity::Coach,
        mode: Mode::NextCall,
        scope: Scope::Call,
        confirm_joins: true,
        agent_side_only: false,
    };
    assert_eq!(commands, [(expected, Some(CODE.into()))]);
    assert!(harness.gateway.works.is_empty());
    let [record] = &records[..] else { panic!("{records:?}") };
    assert_eq!((record.event, record.user.as_ref()), (AuditEvent::Allowed, Some(&MEG.into())));
    assert_eq!(record.from, Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7))));
    assert_eq!(record.request_id, Some(CODE.into()));
    assert_eq!(record.target, Some(BOB_PHONE.into()));
}

#[test]
fn no_command_goes_out_for_a_code_before_its_line_is_on_disk_and_none_without_it() {
    let mut harness = Harness::new();
    harness.fact(Fact::FeatureCodeDialled(dialled(MEG_PHONE, coach("5001"))));
    let outputs = harness.outputs();
    assert!(matches!(&outputs[..], [Output::Audit { .. }]), "{outputs:?}");

    let mut harness = Harness::new();
    let came = harness.dials(dialled(MEG_PHONE, coach("5001")), false, &Ok(()));
    assert_eq!(refused(&came, MEG_PHONE), Some(Reason::Internal));
}

#[test]
fn whoever_may_not_is_refused_as_by_a_client_and_it_is_written_down() {
    for (device, code, reason) in [
        ("eve-phone", coach("5001"), Reason::NotPermitted),
        (OTTO_PHONE, coach("5001"), Reason::NotPermitted),
        (MEG_PHONE, coach("5002"), Reason::NotPermitted),
        ("unknown", coach("5001"), Reason::NotPermitted),
    ] {
        let mut harness = Harness::new();
        let came = harness.dials(dialled(device, code), true, &Ok(()));
        assert_eq!(refused(&came, device), Some(reason), "{device}");
        assert_eq!(came.1.len(), 1);
        assert_eq!(
            (came.1[0].event, &came.1[0].operation),
            (AuditEvent::Refused, &Some(Operation::Coach))
        );
    }
    let mut harness = Harness::new();
    let came = harness.dials(dialled(MEG_PHONE, coach("5999")), true, &Ok(()));
    assert_eq!(refused(&came, MEG_PHONE), Some(Reason::NotFound));
}

#[test]
fn what_the_backend_refuses_the_phone_is_told_in_the_words_of_its_user() {
    let mut harness = Harness::new();
    let in_use = Refusal::device(
        Reason::InUse,
        &BOB_PHONE.into(),
        "Device '{}' is already monitored by another supervisor.",
    );
    let (commands, records) = harness.dials(dialled(MEG_PHONE, coach("5001")), true, &Err(in_use));
    let [_, (Command::RefuseFeatureCode { refusal, .. }, None)] = &commands[..] else {
        panic!("{commands:?}")
    };
    let text = "Device '5001' is already monitored by another supervisor.";
    assert_eq!((refusal.reason, refusal.to_string().as_str()), (Reason::InUse, text));
    let events: Vec<_> = records.iter().map(|record| record.event).collect();
    assert_eq!(events, [AuditEvent::Allowed, AuditEvent::Refused]);
}

#[test]
fn stop_and_the_keys_are_requests_as_well_and_the_rule_of_one_way_coach_holds_for_them() {
    let mut harness = Harness::new();
    harness.fact(Fact::Monitor(monitor(joined_as(Activity::Coach))));
    harness.fact(Fact::Call(coached(Activity::Coach)));
    harness.outputs();
    let call = || CallId::from("call");
    let switch = |activity| FeatureCode::Switch { call: call(), activity };
    let (commands, records) =
        harness.dials(dialled(MEG_PHONE, switch(Activity::BargeIn)), true, &Ok(()));
    let activity = Activity::BargeIn;
    let expected =
        Command::SwitchMonitoring { supervisor: MEG_PHONE.into(), call: call(), activity };
    assert_eq!(commands, [(expected, Some(CODE.into()))]);
    assert_eq!(records[0].operation, Some(Operation::switch_to(Activity::BargeIn)));

    let (commands, _) = harness.dials(dialled(MEG_PHONE, FeatureCode::Stop), true, &Ok(()));
    let expected = Command::StopMonitoring { supervisor: MEG_PHONE.into() };
    assert_eq!(commands, [(expected, Some(CODE.into()))]);

    let config = GatewayConfig { one_way_coach: true, ..GatewayConfig::default() };
    let mut harness = Harness::with(config, directory());
    harness.fact(Fact::Monitor(monitor(joined_as(Activity::ListenIn))));
    harness.fact(Fact::Call(coached(Activity::ListenIn)));
    harness.outputs();
    let came = harness.dials(dialled(MEG_PHONE, switch(Activity::Coach)), true, &Ok(()));
    assert!(refused(&came, MEG_PHONE).is_some(), "{came:?}");
}

#[test]
fn a_backend_that_says_nothing_is_given_up_and_the_phone_is_told() {
    let mut harness = Harness::new();
    harness.fact(Fact::FeatureCodeDialled(dialled(MEG_PHONE, FeatureCode::Stop)));
    harness.outputs();
    harness.now = harness.now + Duration::from_secs(6);
    harness.gateway.handle_timeout(harness.now);
    let outputs = harness.outputs();
    let tells = |output: &Output| match output {
        Output::Command { command: Command::RefuseFeatureCode { refusal, .. }, .. } => {
            refusal.reason == Reason::Unavailable
        }
        _ => false,
    };
    assert!(outputs.iter().any(tells), "{outputs:?}");
}

#[test]
fn codes_of_a_device_that_is_nobodys_are_written_down_within_measure() {
    let config = GatewayConfig { refused_per_user: 3, ..GatewayConfig::default() };
    let mut harness = Harness::with(config, directory());
    let mut lines = 0;
    let reasons = [(); 5].map(|()| {
        let came = harness.dials(dialled("spare", coach("5001")), true, &Ok(()));
        lines += came.1.len();
        refused(&came, "spare")
    });
    let told = [Reason::NotPermitted; 3].into_iter().chain([Reason::TooManyRequests; 2]);
    assert_eq!(reasons.to_vec(), told.map(Some).collect::<Vec<_>>());
    assert_eq!(lines, 3);
}
