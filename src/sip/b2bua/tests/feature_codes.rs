//! Supervisors dial at their phones what clients ask for.

use super::harness::{AGENT, CUSTOMER, Harness, OTHER, SUPERVISOR, SUPERVISOR2, sdp};
use crate::media::{MediaCommand, MediaEvent};
use crate::model::{
    Activity, CallId, Command, FeatureCode, FeatureCodeDialled, FeatureCodeId, Mode, MonitorState,
    Number, PartyRole, Reason, Refusal, Scope,
};
use crate::sip::b2bua::{B2buaConfig, FeatureCodeConfig, NumberingChange, Output, RestoredCalls};
use crate::sip::leg::{LegCommand, LegEvent, LegId, LegSource};
use std::time::Duration;

fn harness() -> Harness {
    let feature_codes = FeatureCodeConfig { enabled: true, ..FeatureCodeConfig::default() };
    let config = B2buaConfig { feature_codes, ..B2buaConfig::default() };
    Harness::with(config, RestoredCalls::default())
}

fn dials(harness: &mut Harness, device: &str, number: &str) -> LegId {
    let offer = Some(sdp(6000, "0 8 101", "sendrecv"));
    harness.incoming(LegSource::Account(device.into()), number, offer)
}

/// The code that has been dialled, told once.
fn told(harness: &mut Harness) -> FeatureCodeDialled {
    let told = std::mem::take(&mut harness.dialled);
    assert_eq!(told.len(), 1, "{told:?}");
    told.into_iter().next().unwrap()
}

fn start(activity: Activity, confirm_joins: bool) -> Command {
    Command::StartMonitoring {
        supervisor: SUPERVISOR.into(),
        target: AGENT.into(),
        activity,
        mode: Mode::NextCall,
        scope: Scope::Call,
        confirm_joins,
        agent_side_only: false,
    }
}

/// The gateway does what was dialled.
fn coach(harness: &mut Harness, code: &FeatureCodeId) -> Result<(), Refusal> {
    harness.answer_code(Some(code), start(Activity::Coach, true))
}

fn admit(harness: &mut Harness, call: CallId, admitted: bool) {
    let supervisor = SUPERVISOR.into();
    harness.command(Command::AdmitMonitoring { supervisor, call, admitted }).unwrap();
}

/// A supervisor has dialled its way in: customer, agent, supervisor.
fn listening(harness: &mut Harness) -> (LegId, LegId, LegId) {
    let (customer, agent) = harness.talk();
    let leg = dials(harness, SUPERVISOR, "*815001");
    let code = told(harness).id;
    coach(harness, &code).unwrap();
    let call = harness.call_id();
    admit(harness, call, true);
    harness.leg(LegEvent::Confirmed { leg, media: None });
    (customer, agent, leg)
}

fn refused_with(commands: &[LegCommand], leg: LegId) -> Option<(u16, &str)> {
    commands.iter().find_map(|command| match command {
        LegCommand::Refuse { leg: of, status, text } if *of == leg => Some((*status, &**text)),
        LegCommand::Reject { leg: of, status } if *of == leg => Some((*status, "")),
        _ => None,
    })
}

fn is_answered(commands: &[LegCommand], leg: LegId) -> bool {
    let accepts =
        |command: &LegCommand| matches!(command, LegCommand::Accept { leg: of, .. } if *of == leg);
    commands.iter().any(accepts)
}

fn is_hung_up(commands: &[LegCommand], leg: LegId) -> bool {
    let ends =
        |command: &LegCommand| matches!(command, LegCommand::Hangup { leg: of, .. } if *of == leg);
    commands.iter().any(ends)
}

fn key(harness: &mut Harness, leg: LegId, digit: char) {
    harness.media(MediaEvent::Key { leg, digit });
}

fn switch(call: CallId, activity: Activity) -> Command {
    Command::SwitchMonitoring { supervisor: SUPERVISOR.into(), call, activity }
}

#[test]
fn the_call_to_a_code_is_the_listening_call_and_nothing_is_heard_before_it_was_allowed() {
    let mut harness = harness();
    let (customer, agent) = harness.talk();
    let call = harness.call_id();
    harness.locate_next([192, 0, 2, 7].into(), false);
    let leg = dials(&mut harness, SUPERVISOR, "*815001");
    let told = told(&mut harness);
    let number = Number::from("5001");
    let (activity, mode, scope) = (Activity::Coach, Mode::NextCall, Scope::Call);
    assert_eq!(told.code, FeatureCode::Start { number, activity, mode, scope });
    assert_eq!((told.device, told.from), (SUPERVISOR.into(), Some([192, 0, 2, 7].into())));

    let legs = [("c", customer), ("a", agent), ("s", leg)];
    for step in [
        |_: &mut Harness, _: &FeatureCodeId| {},
        |harness: &mut Harness, code: &_| {
            coach(harness, code).unwrap();
        },
    ] {
        step(&mut harness, &told.id);
        assert!(!is_answered(&harness.leg_commands(), leg));
        assert_eq!(harness.table(&legs), "ca ac");
    }
    admit(&mut harness, call.clone(), true);
    assert!(is_answered(&harness.leg_commands(), leg));
    assert_eq!(harness.table(&legs), "ca ac", "an INVITE that nobody confirms may be a forged one");
    harness.leg(LegEvent::Confirmed { leg, media: None });
    assert_eq!(harness.table(&legs), "ca ac as sc sa");
    let party = harness.only_call().party_of(&SUPERVISOR.into()).unwrap().clone();
    assert_eq!((party.role, party.activity), (PartyRole::Supervisor, Some(Activity::Coach)));
    assert!(
        matches!(&harness.monitors[SUPERVISOR].state, MonitorState::Joined { call: on, .. } if *on == call)
    );

    harness.hangs_up(leg);
    assert_eq!(harness.table(&legs), "ca ac");
    assert!(harness.monitors.is_empty());
    harness.hangs_up(customer);
    harness.assert_empty();
}

#[test]
fn an_invite_without_an_offer_is_a_listening_call_once_its_ack_has_an_answer() {
    let mut harness = harness();
    let (customer, agent) = harness.talk();
    let leg = harness.incoming(LegSource::Account(SUPERVISOR.into()), "*805001", None);
    let code = told(&mut harness).id;
    harness.answer_code(Some(&code), start(Activity::ListenIn, false)).unwrap();
    assert!(is_answered(&harness.leg_commands(), leg));
    harness.line(leg).answer_due = true;
    harness.leg(LegEvent::Confirmed { leg, media: Some(sdp(6000, "0 101", "sendrecv")) });
    assert_eq!(harness.table(&[("c", customer), ("a", agent), ("s", leg)]), "ca ac sc sa");
}

#[test]
fn with_no_call_to_join_the_monitor_is_armed_and_the_phone_is_told_so_by_a_tone() {
    let mut harness = harness();
    let leg = dials(&mut harness, SUPERVISOR, "*81*5001");
    let code = told(&mut harness).id;
    coach(&mut harness, &code).unwrap();
    assert_eq!(harness.monitors[SUPERVISOR].state, MonitorState::Armed);
    let beeps = harness.log.contains(&Output::Media(MediaCommand::Beep { leg }));
    assert!(beeps && is_answered(&harness.leg_commands(), leg));
    harness.wait(Duration::from_secs(1));
    assert!(is_hung_up(&harness.leg_commands(), leg));
    assert_eq!(harness.monitors[SUPERVISOR].state, MonitorState::Armed);

    harness.talk();
    let call = harness.call_id();
    admit(&mut harness, call, true);
    let phone = harness.ringing(SUPERVISOR);
    harness.answer(phone);
    harness.hangs_up(phone);
    assert!(harness.monitors.is_empty());
}

#[test]
fn a_code_dialled_while_monitoring_switches_and_ends() {
    let mut harness = harness();
    let (customer, agent, leg) = listening(&mut harness);
    harness.leg_commands();
    let second = dials(&mut harness, SUPERVISOR, "*825001");
    let code = told(&mut harness).id;
    harness.answer_code(Some(&code), start(Activity::BargeIn, true)).unwrap();
    assert_eq!(harness.table(&[("c", customer), ("a", agent), ("s", leg)]), "ca cs ac as sc sa");
    assert!(is_answered(&harness.leg_commands(), second));
    harness.hangs_up(second);
    assert_eq!(harness.table(&[("c", customer), ("a", agent), ("s", leg)]), "ca cs ac as sc sa");
    harness.wait(Duration::from_secs(2));
    assert!(harness.leg_commands().is_empty());
}

#[test]
fn a_code_for_another_agent_leaves_the_first_and_joins_with_the_new_call() {
    let mut harness = harness();
    let (_, _, first) = listening(&mut harness);
    harness.customer_calls("5002");
    let other = harness.ringing(OTHER);
    harness.answer(other);
    harness.leg_commands();
    let second = dials(&mut harness, SUPERVISOR, "*815002");
    let code = told(&mut harness).id;
    let Command::StartMonitoring { supervisor, activity, mode, scope, .. } =
        start(Activity::Coach, false)
    else {
        unreachable!()
    };
    let command = Command::StartMonitoring {
        supervisor,
        target: OTHER.into(),
        activity,
        mode,
        scope,
        confirm_joins: false,
        agent_side_only: false,
    };
    harness.answer_code(Some(&code), command).unwrap();
    let commands = harness.leg_commands();
    assert!(is_hung_up(&commands, first) && is_answered(&commands, second));
    harness.leg(LegEvent::Confirmed { leg: second, media: None });
    assert!(harness.hears(other, second) && harness.hears(second, other));
}

#[test]
fn stop_ends_the_monitor_and_the_call_that_listens() {
    let mut harness = harness();
    let (_, _, leg) = listening(&mut harness);
    harness.leg_commands();
    let second = dials(&mut harness, SUPERVISOR, "*83");
    let told = told(&mut harness);
    assert_eq!(told.code, FeatureCode::Stop);
    let command = Command::StopMonitoring { supervisor: SUPERVISOR.into() };
    harness.answer_code(Some(&told.id), command).unwrap();
    let commands = harness.leg_commands();
    assert!(is_hung_up(&commands, leg) && is_answered(&commands, second));
    assert!(harness.monitors.is_empty());
    harness.wait(Duration::from_secs(1));
    assert!(is_hung_up(&harness.leg_commands(), second));
}

#[test]
fn keys_switch_the_activity_one_after_the_other_and_the_last_one_counts() {
    let mut harness = harness();
    let (customer, agent, leg) = listening(&mut harness);
    let call = harness.call_id();
    let legs = [("c", customer), ("a", agent), ("s", leg)];
    for digit in ['5', '1', '#'] {
        key(&mut harness, leg, digit);
        assert!(harness.dialled.is_empty(), "{digit}");
    }
    for (digit, activity, table) in [
        ('6', Activity::BargeIn, "ca cs ac as sc sa"),
        ('4', Activity::ListenIn, "ca ac sc sa"),
        ('5', Activity::Coach, "ca ac as sc sa"),
    ] {
        key(&mut harness, leg, digit);
        let told = told(&mut harness);
        assert_eq!(told.code, FeatureCode::Switch { call: call.clone(), activity });
        harness.answer_code(Some(&told.id), switch(call.clone(), activity)).unwrap();
        assert_eq!(harness.table(&legs), table);
    }
    for digit in ['6', '5', '4'] {
        key(&mut harness, leg, digit);
    }
    let first = told(&mut harness);
    harness.answer_code(Some(&first.id), switch(call.clone(), Activity::BargeIn)).unwrap();
    let last = told(&mut harness);
    let activity = Activity::ListenIn;
    assert_eq!(last.code, FeatureCode::Switch { call: call.clone(), activity });
    harness.answer_code(Some(&last.id), switch(call.clone(), activity)).unwrap();
    assert_eq!(harness.table(&legs), "ca ac sc sa");
    let again = harness.answer_code(Some(&last.id), switch(call, Activity::BargeIn));
    assert_eq!(again.unwrap_err().reason, Reason::InvalidState);
    assert_eq!(harness.table(&legs), "ca ac sc sa");
}

#[test]
fn a_key_by_info_does_the_same_and_one_that_is_refused_leaves_the_next_its_turn() {
    let mut harness = harness();
    let (_, _, leg) = listening(&mut harness);
    let call = harness.call_id();
    harness.leg(LegEvent::Dialled { leg, digits: "6".to_owned() });
    let first = told(&mut harness);
    harness.leg(LegEvent::Dialled { leg, digits: "4".to_owned() });
    assert!(harness.dialled.is_empty());
    let refusal = Refusal::new(Reason::Internal, "no audit");
    let (device, code) = (SUPERVISOR.into(), first.id.clone());
    harness.command(Command::RefuseFeatureCode { device, code, refusal }).unwrap();
    let activity = Activity::ListenIn;
    assert_eq!(told(&mut harness).code, FeatureCode::Switch { call, activity });
}

#[test]
fn keys_of_a_supervisor_reach_nobody_and_those_of_a_party_ask_for_nothing() {
    let mut harness = harness();
    let (customer, agent, leg) = listening(&mut harness);
    harness.log.clear();
    for leg in [customer, agent] {
        key(&mut harness, leg, '6');
        assert!(harness.dialled.is_empty());
    }
    harness.leg(LegEvent::Dialled { leg, digits: "6".to_owned() });
    let sent = harness
        .log
        .iter()
        .any(|output| matches!(output, Output::Media(MediaCommand::SendDigits { .. })));
    assert!(!sent, "{:?}", harness.log);
}

#[test]
fn what_a_gateway_refuses_the_phone_is_told_by_status_and_text() {
    for (reason, status) in [
        (Reason::NotPermitted, 403),
        (Reason::NotFound, 404),
        (Reason::InUse, 486),
        (Reason::InvalidState, 480),
        (Reason::Internal, 500),
        (Reason::Unavailable, 503),
        (Reason::TooManyRequests, 503),
        (Reason::InvalidInput, 400),
    ] {
        let mut harness = harness();
        let leg = dials(&mut harness, SUPERVISOR, "*815001");
        let code = told(&mut harness).id;
        let refusal = Refusal::new(reason, "Not so.");
        let command =
            Command::RefuseFeatureCode { device: SUPERVISOR.into(), code: code.clone(), refusal };
        harness.command(command.clone()).unwrap();
        assert_eq!(refused_with(&harness.leg_commands(), leg), Some((status, "Not so.")));
        let again = harness.command(command);
        assert_eq!(again.unwrap_err().reason, Reason::InvalidState);
        harness.assert_empty();
    }
}

#[test]
fn a_code_that_another_party_dials_at_the_device_is_refused_and_a_late_answer_does_nothing() {
    // A customer's number, another agent's, an alias of that, and a stranger's where the device has
    // names of its own.
    for (device, name) in
        [(SUPERVISOR, "7001"), (SUPERVISOR, "5002"), (SUPERVISOR, "1002"), (OTHER, "0815")]
    {
        let mut harness = harness();
        harness.talk();
        let leg = dials(&mut harness, device, "*815001");
        let names = vec![name.into()];
        harness.leg(LegEvent::ConnectedIdentity { leg, names, withheld: false });
        let commands = harness.leg_commands();
        let refused = refused_with(&commands, leg).map(|(status, _)| status);
        assert_eq!(refused, Some(403), "{device} {name}: {commands:?}");
        let code = told(&mut harness).id;
        assert!(coach(&mut harness, &code).is_err(), "{device} {name}");
        assert!(harness.monitors.is_empty(), "{device} {name}");
    }
    for name in ["5005", "0815"] {
        let mut harness = harness();
        harness.talk();
        let leg = dials(&mut harness, SUPERVISOR, "*815001");
        let names = vec![name.into()];
        harness.leg(LegEvent::ConnectedIdentity { leg, names, withheld: false });
        assert_eq!(refused_with(&harness.leg_commands(), leg), None, "{name}");
    }
}

#[test]
fn a_code_that_no_gateway_answers_is_refused_and_a_late_answer_does_nothing() {
    let mut harness = harness();
    harness.talk();
    let leg = dials(&mut harness, SUPERVISOR, "*815001");
    let code = told(&mut harness).id;
    harness.wait(Duration::from_secs(10));
    assert_eq!(refused_with(&harness.leg_commands(), leg), Some((503, "No gateway answers.")));
    let late = coach(&mut harness, &code);
    assert_eq!(late.unwrap_err().reason, Reason::InvalidState);
    assert!(harness.monitors.is_empty());

    let leg = dials(&mut harness, SUPERVISOR, "*815001");
    let code = told(&mut harness).id;
    let now = harness.now;
    harness.b2bua.handle_unheard(&code, now);
    harness.drain();
    assert_eq!(refused_with(&harness.leg_commands(), leg), Some((503, "No gateway answers.")));
}

#[test]
fn who_hangs_up_before_it_is_decided_has_asked_for_nothing() {
    let mut harness = harness();
    harness.talk();
    let leg = dials(&mut harness, SUPERVISOR, "*815001");
    let code = told(&mut harness).id;
    harness.hangs_up(leg);
    assert_eq!(coach(&mut harness, &code).unwrap_err().reason, Reason::InvalidState);
    assert!(harness.monitors.is_empty());

    let leg = dials(&mut harness, SUPERVISOR, "*815001");
    let code = told(&mut harness).id;
    coach(&mut harness, &code).unwrap();
    assert!(matches!(harness.monitors[SUPERVISOR].state, MonitorState::Admitting { .. }));
    harness.hangs_up(leg);
    assert!(harness.monitors.is_empty());
    assert_eq!(harness.find_ringing(SUPERVISOR), None);
}

#[test]
fn who_is_not_admitted_is_refused_and_no_monitor_stays() {
    let mut harness = harness();
    harness.talk();
    let call = harness.call_id();
    let leg = dials(&mut harness, SUPERVISOR, "*815001");
    let code = told(&mut harness).id;
    coach(&mut harness, &code).unwrap();
    admit(&mut harness, call, false);
    let commands = harness.leg_commands();
    assert_eq!(refused_with(&commands, leg).map(|(status, _)| status), Some(403));
    assert!(harness.monitors.is_empty());
}

#[test]
fn a_code_without_a_number_is_incomplete_and_a_second_call_of_a_device_is_busy() {
    let mut harness = harness();
    let leg = dials(&mut harness, SUPERVISOR, "*81");
    assert_eq!(refused_with(&harness.leg_commands(), leg), Some((484, "")));
    dials(&mut harness, SUPERVISOR, "*81");
    let logged = (SUPERVISOR.to_owned(), "*81".to_owned(), Reason::MissingParameter);
    assert_eq!(refused_codes(&mut harness), [logged]);
    dials(&mut harness, SUPERVISOR, "*815001");
    let second = dials(&mut harness, SUPERVISOR, "*825001");
    assert_eq!(refused_with(&harness.leg_commands(), second), Some((486, "")));
    let other = dials(&mut harness, SUPERVISOR2, "*815001");
    assert_eq!(refused_with(&harness.leg_commands(), other), None);
    assert_eq!(harness.dialled.len(), 2);
}

#[test]
fn a_device_that_dials_codes_without_end_is_busy_and_takes_no_ports() {
    let mut harness = harness();
    let mut busy = 0;
    for _ in 0..20 {
        let leg = dials(&mut harness, SUPERVISOR, "*815001");
        busy += usize::from(refused_with(&harness.leg_commands(), leg) == Some((486, "")));
        harness.hangs_up(leg);
    }
    assert_eq!((busy, harness.dialled.len()), (10, 10));
    harness.wait(Duration::from_secs(1));
    let leg = dials(&mut harness, SUPERVISOR, "*815001");
    assert_eq!(refused_with(&harness.leg_commands(), leg), None);
}

#[test]
fn customers_trunks_and_a_house_without_codes_dial_a_number_like_any_other() {
    let mut harness = harness();
    for source in [LegSource::Account(CUSTOMER.into()), LegSource::Trunk("city".into())] {
        let offer = Some(sdp(6000, "0", "sendrecv"));
        let leg = harness.incoming(source, "*815001", offer);
        assert_eq!(refused_with(&harness.leg_commands(), leg), Some((404, "")));
    }
    assert!(harness.dialled.is_empty());
    let mut harness = Harness::new();
    let leg = dials(&mut harness, SUPERVISOR, "*815001");
    assert_eq!(refused_with(&harness.leg_commands(), leg), Some((404, "")));
}

#[test]
fn an_offer_that_can_not_be_used_is_refused_before_anybody_is_asked() {
    let mut harness = harness();
    let offer = Some(b"v=0\r\n".to_vec());
    harness.incoming(LegSource::Account(SUPERVISOR.into()), "*815001", offer);
    assert!(harness.dialled.is_empty());
    let refuses = |command: &LegCommand| matches!(command, LegCommand::RefuseOffer { .. });
    assert!(harness.leg_commands().iter().any(refuses));
    harness.assert_empty();
}

#[test]
fn a_backend_that_stops_and_a_device_that_is_gone_wait_for_no_answer() {
    let mut harness = harness();
    let leg = dials(&mut harness, SUPERVISOR, "*815001");
    let now = harness.now;
    harness.b2bua.close(Duration::from_secs(60), now);
    harness.drain();
    assert_eq!(refused_with(&harness.leg_commands(), leg), Some((503, "")));
    assert!(harness.b2bua.is_idle());

    let mut harness = self::harness();
    let leg = dials(&mut harness, SUPERVISOR, "*815001");
    let code = told(&mut harness).id;
    let change = NumberingChange {
        removed: vec![SUPERVISOR.into()],
        trunks: harness.trunks.clone(),
        ..NumberingChange::default()
    };
    let now = harness.now;
    harness.b2bua.handle_directory(change, now);
    harness.drain();
    assert_eq!(refused_with(&harness.leg_commands(), leg), Some((403, "")));
    assert!(coach(&mut harness, &code).is_err());
}

/// The refused codes and keys that the log is told of.
fn refused_codes(harness: &mut Harness) -> Vec<(String, String, Reason)> {
    let log = std::mem::take(&mut harness.log);
    let refused = log.into_iter().filter_map(|output| match output {
        Output::CodeRefused { device, code, refusal } => {
            Some((device.to_string(), code, refusal.reason))
        }
        _ => None,
    });
    refused.collect()
}

#[test]
fn a_refused_code_and_a_refused_key_are_told_to_the_log_with_device_and_code() {
    let may_not = Refusal::new(Reason::NotPermitted, "No permission.");
    let refuse = |harness: &mut Harness| {
        let code = told(harness).id;
        let (device, refusal) = (SUPERVISOR.into(), may_not.clone());
        harness.command(Command::RefuseFeatureCode { device, code, refusal }).unwrap();
        refused_codes(harness)
    };
    let mut harness = harness();
    harness.talk();
    for (dialled, code) in
        [("*815001", "*81"), ("*80*5001", "*80"), ("*825001", "*82"), ("*83", "*83")]
    {
        dials(&mut harness, SUPERVISOR, dialled);
        let expected = [(SUPERVISOR.to_owned(), code.to_owned(), Reason::NotPermitted)];
        assert_eq!(refuse(&mut harness), expected, "{dialled}");
    }

    let mut harness = self::harness();
    let (_, _, leg) = listening(&mut harness);
    let call = harness.call_id();
    key(&mut harness, leg, '4');
    let expected = |reason| [(SUPERVISOR.to_owned(), "4".to_owned(), reason)];
    assert_eq!(refuse(&mut harness), expected(Reason::NotPermitted));
    key(&mut harness, leg, '4');
    let code = told(&mut harness).id;
    let done = harness.answer_code(Some(&code), switch(call, Activity::Coach));
    assert_eq!(done.unwrap_err().reason, Reason::InvalidState);
    assert_eq!(refused_codes(&mut harness), expected(Reason::InvalidState));
    key(&mut harness, leg, '4');
    told(&mut harness);
    harness.wait(Duration::from_secs(11));
    assert_eq!(refused_codes(&mut harness), expected(Reason::Unavailable));
}

#[test]
fn a_phone_that_goes_on_pressing_a_refused_key_does_not_fill_the_log() {
    let mut harness = harness();
    let (_, _, leg) = listening(&mut harness);
    let mut lines = 0;
    for _ in 0..200 {
        key(&mut harness, leg, '4');
        let code = told(&mut harness).id;
        let refusal = Refusal::new(Reason::NotPermitted, "No permission.");
        let device = SUPERVISOR.into();
        harness.command(Command::RefuseFeatureCode { device, code, refusal }).unwrap();
        lines += refused_codes(&mut harness).len();
    }
    assert!((1..=20).contains(&lines), "{lines}");
    harness.wait(Duration::from_secs(5));
    key(&mut harness, leg, '4');
    let code = told(&mut harness).id;
    let refusal = Refusal::new(Reason::NotPermitted, "No permission.");
    let device = SUPERVISOR.into();
    harness.command(Command::RefuseFeatureCode { device, code, refusal }).unwrap();
    assert_eq!(refused_codes(&mut harness).len(), 1, "later it is told again");
}
