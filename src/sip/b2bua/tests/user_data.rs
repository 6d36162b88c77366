//! What is attached to a call, from its INVITE or its Dial to the call that it becomes a part of.

use super::harness::{AGENT, CUSTOMER, Harness, OTHER, SUPERVISOR, sdp};
use crate::model::{
    Activity, CallId, Command, LegState, Reason, Refusal, TransferStep, UserData, UserDataChange,
};
use crate::sip::b2bua::Output;
use crate::sip::leg::{LegCommand, LegEvent, LegId, LegSource, PassedHeader};

fn data(pairs: &[(&str, &str)]) -> UserData {
    UserData::new(pairs.iter().map(|(key, value)| ((*key).into(), (*value).into()))).unwrap()
}

/// What is attached, as text: `a=1 b=2`.
fn told(data: &UserData) -> String {
    let pairs: Vec<String> = data.pairs().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(" ")
}

fn attached(harness: &Harness, call: &CallId) -> String {
    told(&harness.calls[call].user_data)
}

/// More than half of what a call may have.
fn large(key: &str) -> UserData {
    data(&[(key, &"x".repeat(UserData::MOST_BYTES / 2 + 1))])
}

fn change(
    harness: &mut Harness,
    device: &str,
    call: &CallId,
    change: UserDataChange,
) -> Result<(), Refusal> {
    let command = Command::ChangeUserData { device: device.into(), call: call.clone(), change };
    harness.command(command)
}

fn set(harness: &mut Harness, pairs: &[(&str, &str)]) {
    let call = harness.call_id();
    change(harness, AGENT, &call, UserDataChange::Set(data(pairs))).expect("accepted");
}

/// What the INVITE to this leg carried.
fn invited_with(harness: &Harness, leg: LegId) -> String {
    let mut invites = harness.log.iter().filter_map(|output| match output {
        Output::Leg(LegCommand::Invite { leg: to, user_data, .. }) if *to == leg => Some(user_data),
        _ => None,
    });
    told(invites.next_back().expect("it was invited"))
}

fn trunk_calls(harness: &mut Harness, said: &[(&str, &str)]) -> LegId {
    harness.said = data(said);
    harness.incoming(LegSource::Trunk("city".into()), "5001", Some(sdp(4000, "0", "sendrecv")))
}

fn transfer(harness: &mut Harness, step: TransferStep) -> Result<(), Refusal> {
    let call = harness.calls.keys().next().cloned().expect("a call");
    harness.command(Command::Transfer { device: AGENT.into(), call, step })
}

fn single_step(to: &str, user_data: UserData) -> TransferStep {
    TransferStep::SingleStep { destination: to.into(), user_data }
}

/// The agent holds the only call, and has a colleague on a second one: the two calls.
fn consult(harness: &mut Harness, given: &[(&str, &str)]) -> (CallId, CallId) {
    let first = harness.call_id();
    let step = TransferStep::Initiate { destination: "5002".into(), user_data: data(given) };
    let command = Command::Transfer { device: AGENT.into(), call: first.clone(), step };
    harness.command(command).expect("accepted");
    let second = harness.calls.keys().find(|call| **call != first).cloned().expect("two calls");
    (first, second)
}

fn answers(harness: &mut Harness, device: &str) -> LegId {
    let leg = harness.ringing(device);
    harness.answer(leg);
    leg
}

#[test]
fn what_is_given_with_dial_is_there_from_the_beginning_and_goes_to_both_phones() {
    let mut harness = Harness::new();
    let dial = Command::Dial {
        device: AGENT.into(),
        destination: "5002".into(),
        user_data: data(&[("Account", "1")]),
    };
    harness.command(dial).expect("accepted");
    let call = harness.call_id();
    assert_eq!(harness.state_of(AGENT), LegState::Dialing);
    assert_eq!(attached(&harness, &call), "Account=1");
    let own = harness.ringing(AGENT);
    assert_eq!(invited_with(&harness, own), "Account=1");
    change(&mut harness, AGENT, &call, UserDataChange::Set(data(&[("Why", "2")]))).expect("so");
    harness.answer(own);
    let other = harness.ringing(OTHER);
    assert_eq!(invited_with(&harness, other), "Account=1 Why=2");
}

#[test]
fn it_is_changed_in_each_state_by_each_party_and_told_once() {
    let mut harness = Harness::new();
    trunk_calls(&mut harness, &[]);
    let call = harness.call_id();
    let changes = |harness: &mut Harness, device: &str, wanted, expected: &str| {
        harness.log.clear();
        change(harness, device, &call, wanted).expect("accepted");
        assert_eq!(attached(harness, &call), expected);
        assert_eq!(harness.log.len(), 1, "{:?}", harness.log);
    };
    let sets = |pairs| UserDataChange::Set(data(pairs));
    changes(&mut harness, AGENT, sets(&[("a", "1"), ("b", "2")]), "a=1 b=2");
    answers(&mut harness, AGENT);
    changes(&mut harness, AGENT, sets(&[("b", "3")]), "a=1 b=3");
    let hold = Command::Hold { device: AGENT.into(), call: call.clone() };
    harness.command(hold).expect("accepted");
    changes(&mut harness, AGENT, UserDataChange::Delete("a".into()), "b=3");
    let retrieve = Command::Retrieve { device: AGENT.into(), call: call.clone() };
    harness.command(retrieve).expect("accepted");
    let conference = Command::Conference {
        device: AGENT.into(),
        call: call.clone(),
        step: single_step("5002", data(&[("c", "4")])),
    };
    harness.command(conference).expect("accepted");
    changes(&mut harness, OTHER, sets(&[("d", "5")]), "b=3 c=4 d=5");
    answers(&mut harness, OTHER);
    changes(&mut harness, OTHER, UserDataChange::Clear, "");
    // What changes nothing is accepted, and no news.
    harness.log.clear();
    change(&mut harness, AGENT, &call, UserDataChange::Clear).expect("accepted");
    change(&mut harness, AGENT, &call, UserDataChange::Delete("z".into())).expect("accepted");
    assert!(harness.log.is_empty(), "{:?}", harness.log);
}

#[test]
fn more_than_a_call_may_have_is_refused_and_a_supervisor_attaches_nothing() {
    let mut harness = Harness::new();
    harness.coached(Activity::Coach);
    let call = harness.call_id();
    change(&mut harness, AGENT, &call, UserDataChange::Set(large("a"))).expect("fits");
    let before = harness.calls.clone();
    harness.log.clear();
    let refused = |done: Result<(), Refusal>| done.expect_err("refused").reason;
    let more = change(&mut harness, AGENT, &call, UserDataChange::Set(large("b")));
    assert_eq!(refused(more), Reason::InvalidInput);
    for given in [
        single_step("5002", large("b")),
        TransferStep::Initiate { destination: "5002".into(), user_data: large("b") },
    ] {
        assert_eq!(refused(transfer(&mut harness, given)), Reason::InvalidInput);
    }
    let supervisors = change(&mut harness, SUPERVISOR, &call, UserDataChange::Clear);
    assert_eq!(refused(supervisors), Reason::Forbidden);
    assert_eq!((before, harness.log.len()), (harness.calls.clone(), 0));
}

#[test]
fn what_an_invite_says_goes_along_wherever_the_call_is_sent() {
    let mut harness = Harness::new();
    let forward =
        |to: Option<&str>| Command::SetForwarding { device: AGENT.into(), to: to.map(Into::into) };
    harness.command(forward(Some("5002"))).expect("accepted");
    trunk_calls(&mut harness, &[("User-to-User", "K-47")]);
    let call = harness.call_id();
    assert_eq!(attached(&harness, &call), "User-to-User=K-47");
    let forwarded = harness.ringing(OTHER);
    assert_eq!(invited_with(&harness, forwarded), "User-to-User=K-47");
    harness.command(forward(None)).expect("accepted");

    // Its phone sends it on, and then the next one's user from afar.
    harness.leg(LegEvent::Redirected { leg: forwarded, status: 302, to: vec!["5005".into()] });
    let next = harness.ringing(SUPERVISOR);
    assert_eq!(invited_with(&harness, next), "User-to-User=K-47");
    let destination = "0123".into();
    harness
        .command(Command::Redirect { device: SUPERVISOR.into(), call: call.clone(), destination })
        .expect("accepted");
    let outside = harness.lines.values().find(|line| line.party == Err("0123".into()));
    let outside = outside.expect("called").leg;
    assert_eq!(invited_with(&harness, outside), "User-to-User=K-47");
    assert_eq!(attached(&harness, &call), "User-to-User=K-47");
}

#[test]
fn a_transfer_takes_along_what_there_is_and_what_is_given() {
    let mut harness = Harness::new();
    harness.talk();
    set(&mut harness, &[("a", "1"), ("b", "2")]);
    let call = harness.call_id();
    transfer(&mut harness, single_step("5002", data(&[("b", "3"), ("c", "4")]))).expect("accepted");
    let next = harness.ringing(OTHER);
    assert_eq!(invited_with(&harness, next), "a=1 b=3 c=4");
    harness.answer(next);
    assert_eq!(attached(&harness, &call), "a=1 b=3 c=4");
    harness.leg(LegEvent::Referred {
        leg: next,
        to: "0123".into(),
        replaces: None,
        is_secure: false,
    });
    let outside = harness.lines.values().find(|line| line.party == Err("0123".into()));
    assert_eq!(invited_with(&harness, outside.expect("called").leg), "a=1 b=3 c=4");
}

#[test]
fn of_a_transfer_that_is_refused_nothing_is_kept() {
    let mut harness = Harness::new();
    harness.talk();
    set(&mut harness, &[("a", "1")]);
    let call = harness.call_id();
    let given = || data(&[("b", "2")]);
    transfer(&mut harness, single_step("999", given())).expect_err("nobody has it");
    harness.b2bua.environment.free = 0;
    transfer(&mut harness, single_step("5002", given())).expect_err("no port");
    let step = TransferStep::Initiate { destination: "5002".into(), user_data: given() };
    transfer(&mut harness, step).expect_err("no port");
    assert_eq!((attached(&harness, &call).as_str(), harness.calls.len()), ("a=1", 1));
}

#[test]
fn a_call_to_ask_begins_with_a_copy_and_gives_back_what_was_attached_to_it() {
    for completes in [true, false] {
        let mut harness = Harness::new();
        harness.talk();
        set(&mut harness, &[("a", "1"), ("b", "2")]);
        let (first, second) = consult(&mut harness, &[("b", "3")]);
        assert_eq!(attached(&harness, &second), "a=1 b=3");
        answers(&mut harness, AGENT);
        let colleague = answers(&mut harness, OTHER);
        assert_eq!(invited_with(&harness, colleague), "a=1 b=3");
        change(&mut harness, OTHER, &second, UserDataChange::Set(data(&[("c", "4")]))).expect("so");
        assert_eq!(attached(&harness, &first), "a=1 b=2", "each has its own");
        let (device, call, step) = (AGENT.into(), first.clone(), TransferStep::Complete);
        if completes {
            harness.command(Command::Transfer { device, call, step }).expect("accepted");
            assert_eq!(attached(&harness, &first), "a=1 b=3 c=4");
        } else {
            harness.command(Command::Conference { device, call, step }).expect("accepted");
            assert_eq!(attached(&harness, &first), "a=1 b=3 c=4");
        }
    }
}

#[test]
fn of_two_calls_that_become_one_what_has_no_room_is_left_out_and_the_call_goes_on() {
    let mut harness = Harness::new();
    harness.talk();
    let (first, second) = consult(&mut harness, &[]);
    answers(&mut harness, AGENT);
    answers(&mut harness, OTHER);
    change(&mut harness, AGENT, &first, UserDataChange::Set(large("a"))).expect("fits");
    change(&mut harness, AGENT, &second, UserDataChange::Set(large("b"))).expect("fits");
    change(&mut harness, AGENT, &second, UserDataChange::Set(data(&[("c", "4")]))).expect("fits");
    transfer(&mut harness, TransferStep::Complete).expect("accepted");
    let keys: Vec<&str> = harness.calls[&first].user_data.pairs().map(|(key, _)| key).collect();
    assert_eq!(keys, ["a", "c"]);
}

#[test]
fn a_transfer_at_the_phone_takes_it_along_and_another_call_of_the_phone_begins_without() {
    let mut harness = Harness::new();
    let (_, agent) = harness.talk();
    set(&mut harness, &[("a", "1")]);
    let first = harness.call_id();
    let held = Some(sdp(5000, "0 101", "sendonly"));
    harness.leg(LegEvent::Offered { leg: agent, media: held });
    let line = harness.incoming(
        LegSource::Account(AGENT.into()),
        "5002",
        Some(sdp(4000, "0", "sendrecv")),
    );
    let second = harness.calls.keys().find(|call| **call != first).cloned().expect("two calls");
    assert_eq!(attached(&harness, &second), "", "nobody has said that it is for the other");
    answers(&mut harness, OTHER);
    change(&mut harness, OTHER, &second, UserDataChange::Set(data(&[("b", "2")]))).expect("so");
    harness.leg(LegEvent::Referred {
        leg: agent,
        to: "5002".into(),
        replaces: Some(line),
        is_secure: false,
    });
    assert_eq!(attached(&harness, &first), "a=1 b=2");

    // Another leg of the same peer takes the place of one, and says more.
    let mut harness = Harness::new();
    let customer = trunk_calls(&mut harness, &[("a", "1")]);
    answers(&mut harness, AGENT);
    harness.said = data(&[("b", "2")]);
    let offer = Some(sdp(4000, "0", "sendrecv"));
    harness.replaces(LegSource::Trunk("city".into()), customer, offer);
    let call = harness.call_id();
    assert_eq!(attached(&harness, &call), "a=1 b=2");
}

#[test]
fn nothing_that_is_attached_or_passed_on_shows_where_events_and_commands_are_shown() {
    let mut harness = Harness::new();
    harness.said = data(&[("Account", "4711-secret")]);
    let value = b"34373131;encoding=hex".to_vec();
    let passed = vec![PassedHeader { name: "User-to-User", value }];
    harness.incoming_with(LegSource::Account(CUSTOMER.into()), "5001", passed);
    set(&mut harness, &[("More", "secret")]);
    let shown = format!("{:?}{:?}", harness.log, harness.calls);
    assert!(shown.contains("UserData(2 keys)"), "{shown}");
    assert!(!shown.contains("secret") && !shown.contains("34373131"), "{shown}");
    assert!(!shown.contains(&format!("{:?}", b"34373131")), "{shown}");
}
