//! Two calls of one agent, and what becomes of them: attended transfers and conferences.

use super::harness::{AGENT, CUSTOMER, Harness, OTHER, SUPERVISOR, SUPERVISOR2, sdp};
use crate::media::MediaCommand;
use crate::model::{
    Activity, CallFact, CallId, CallType, Command, DeviceId, LegState, Mode, MonitorState, Number,
    PartyFact, Reason, Refusal, Scope, TransferStep,
};
use crate::sip::b2bua::{B2buaConfig, Output, RestoredCalls};
use crate::sip::leg::{LegCommand, LegEvent, LegId, LegSource};

fn step(harness: &mut Harness, call: &CallId, step: TransferStep) -> Result<(), Refusal> {
    harness.command(Command::Transfer { device: AGENT.into(), call: call.clone(), step })
}

fn conference(harness: &mut Harness, call: &CallId, step: TransferStep) -> Result<(), Refusal> {
    harness.command(Command::Conference { device: AGENT.into(), call: call.clone(), step })
}

fn to(number: &str) -> TransferStep {
    TransferStep::Initiate { destination: number.into(), user_data: Default::default() }
}

fn rings(harness: &mut Harness, leg: LegId) {
    harness.leg(LegEvent::Progress { leg, status: 180, media: None });
}

fn the_other(harness: &Harness, first: &CallId) -> CallFact {
    let mut others = harness.calls.values().filter(|call| call.id != *first);
    let other = others.next().expect("a second call").clone();
    assert!(others.next().is_none());
    other
}

/// A call that the agent has, with its legs.
struct Asked {
    harness: Harness,
    first: CallId,
    second: CallId,
    customer: LegId,
    agent: LegId,
    /// The agent's leg on the second call.
    asking: LegId,
    colleague: LegId,
    supervisor: LegId,
}

impl Asked {
    /// The agent, who is coached, has put the customer on hold and talks to a colleague.
    fn with(activity: Activity, scope: Scope) -> Self {
        let mut harness = Harness::new();
        let (customer, agent, supervisor) = harness.coached_with(activity, scope);
        let first = harness.call_id();
        step(&mut harness, &first, to("5002")).expect("accepted");
        let asking = harness.ringing(AGENT);
        harness.answer(asking);
        let colleague = harness.ringing(OTHER);
        harness.answer(colleague);
        let second = the_other(&harness, &first).id;
        harness.log.clear();
        Self { harness, first, second, customer, agent, asking, colleague, supervisor }
    }

    fn coached(scope: Scope) -> Self {
        Self::with(Activity::Coach, scope)
    }

    fn table(&self) -> String {
        self.harness.table(&[
            ("c", self.customer),
            ("a", self.agent),
            ("q", self.asking),
            ("n", self.colleague),
            ("s", self.supervisor),
        ])
    }

    fn customers_reinvites(&self) -> usize {
        let to_customer = |output: &&Output| {
            matches!(
                output,
                Output::Leg(LegCommand::Offer { leg, .. }) if *leg == self.customer
            )
        };
        self.harness.log.iter().filter(to_customer).count()
    }
}

#[test]
fn who_asks_a_colleague_holds_the_customer_and_the_coach_stays_with_the_first_call() {
    let asked = Asked::coached(Scope::Agent);
    let second = &asked.harness.calls[&asked.second];
    assert_eq!((second.call_type, &second.parent), (CallType::Consult, &Some(asked.first.clone())));
    let first = &asked.harness.calls[&asked.first];
    let agent = first.party_of(&AGENT.into()).expect("he is there");
    assert_eq!(agent.state, LegState::Held);
    assert_eq!(
        asked.table(),
        "as qn nq sc sa",
        "the whisper stays on the first call, and the colleague hears none of it"
    );
}

#[test]
fn a_customer_whom_the_phone_holds_besides_is_taken_back_at_the_phone_by_one_action() {
    let Asked { mut harness, first, second, customer, agent, .. } =
        Asked::with(Activity::Coach, Scope::Agent);
    let at_phone = |harness: &mut Harness, direction| {
        harness.leg(LegEvent::Offered { leg: agent, media: Some(sdp(5000, "0 101", direction)) });
        let fact = &harness.calls[&first];
        let party = fact.party_of(&AGENT.into()).expect("the agent is there");
        (party.state, party.held_at_phone)
    };
    assert_eq!(at_phone(&mut harness, "sendonly"), (LegState::Held, true));
    let commands = [
        Command::Retrieve { device: AGENT.into(), call: first.clone() },
        Command::SwapCalls { device: AGENT.into(), call: first.clone(), other: second.clone() },
        Command::SwapCalls { device: AGENT.into(), call: second.clone(), other: first.clone() },
    ];
    for _ in 0..2 {
        for command in &commands {
            let before = harness.calls.clone();
            harness.log.clear();
            let refused = harness.command(command.clone()).expect_err("only the phone can");
            assert_eq!(refused.reason, Reason::InvalidState);
            assert_eq!(refused.to_string(), "The call is held at the phone.");
            assert!(before == harness.calls && harness.log.is_empty());
        }
    }
    assert!(!harness.hears(customer, agent) && !harness.hears(agent, customer));
    assert_eq!(at_phone(&mut harness, "sendonly"), (LegState::Held, true), "said again");
    assert_eq!(at_phone(&mut harness, "sendrecv"), (LegState::Established, false));
    assert!(harness.hears(customer, agent) && harness.hears(agent, customer));
}

#[test]
fn a_phone_that_says_it_listens_ends_no_hold_by_command_unless_it_held_itself() {
    let Asked { mut harness, first, second, customer, agent, .. } =
        Asked::with(Activity::Coach, Scope::Agent);
    harness.leg(LegEvent::Offered { leg: agent, media: Some(sdp(5000, "0 101", "sendrecv")) });
    let fact = harness.calls[&first].party_of(&AGENT.into()).expect("the agent is there").clone();
    assert_eq!((fact.state, fact.held_at_phone), (LegState::Held, false));
    assert!(!harness.hears(customer, agent));
    let swap = Command::SwapCalls { device: AGENT.into(), call: first, other: second };
    harness.command(swap).expect("accepted");
    assert!(harness.hears(customer, agent));
}

#[test]
fn with_scope_call_the_coach_goes_on_to_the_colleague_when_the_transfer_is_complete() {
    for named in 0..2 {
        let mut asked = Asked::coached(Scope::Call);
        let call = [asked.first.clone(), asked.second.clone()][named].clone();
        step(&mut asked.harness, &call, TransferStep::Complete).expect("accepted");
        assert_eq!(asked.table(), "cn nc ns sc sn");
        assert_eq!(asked.harness.call_id(), asked.first, "the first call lives on");
        assert!(
            asked.harness.lines[&asked.agent].ended && asked.harness.lines[&asked.asking].ended
        );
        assert_eq!(asked.customers_reinvites(), 0);
        let moved = |output: &Output| {
            matches!(
                output,
                Output::Media(MediaCommand::Move { leg, .. }) if leg.0 == asked.colleague.0
            )
        };
        assert!(asked.harness.log.iter().any(moved));
        asked.harness.hangs_up(asked.customer);
        asked.harness.stop().expect("armed still");
        asked.harness.assert_empty();
    }
}

#[test]
fn with_scope_agent_the_coach_is_out_in_the_step_that_completes_the_transfer() {
    let mut asked = Asked::coached(Scope::Agent);
    step(&mut asked.harness, &asked.first.clone(), TransferStep::Complete).expect("accepted");
    assert!(asked.harness.lines[&asked.supervisor].ended);
    assert_eq!(asked.table(), "cn nc");
    assert_eq!(asked.harness.monitors[SUPERVISOR].state, MonitorState::Armed);
}

#[test]
fn a_transfer_can_be_completed_while_the_colleagues_phone_rings() {
    let mut harness = Harness::new();
    let (customer, agent, supervisor) = harness.coached_with(Activity::Coach, Scope::Call);
    let first = harness.call_id();
    step(&mut harness, &first, to("5002")).expect("accepted");
    let asking = harness.ringing(AGENT);
    harness.answer(asking);
    let colleague = harness.ringing(OTHER);
    step(&mut harness, &first, TransferStep::Complete).expect("accepted");
    assert!(
        harness.lines[&asking].ended && !harness.lines[&agent].ended,
        "until it rings he keeps the customer"
    );
    rings(&mut harness, colleague);
    assert!(harness.lines[&agent].ended);
    let legs = [("c", customer), ("n", colleague), ("s", supervisor)];
    assert_eq!(harness.table(&legs), "sc");
    harness.answer(colleague);
    assert_eq!(harness.table(&legs), "cn nc ns sc sn");
}

#[test]
fn a_colleague_who_then_does_not_answer_gives_the_customer_back() {
    let mut harness = Harness::new();
    let (customer, _) = harness.talk();
    let first = harness.call_id();
    step(&mut harness, &first, to("5002")).expect("accepted");
    let asking = harness.ringing(AGENT);
    harness.answer(asking);
    let colleague = harness.ringing(OTHER);
    rings(&mut harness, colleague);
    step(&mut harness, &first, TransferStep::Complete).expect("accepted");
    harness.leg(LegEvent::Refused { leg: colleague, status: 408 });
    let again = harness.ringing(AGENT);
    harness.answer(again);
    assert_eq!(harness.table(&[("c", customer), ("a", again)]), "ca ac");
    assert!(harness.failures.iter().any(|failure| failure.device == DeviceId::from(AGENT)));
}

#[test]
fn a_conference_is_heard_by_all_and_the_coach_by_his_agent_alone() {
    let mut asked = Asked::coached(Scope::Call);
    conference(&mut asked.harness, &asked.second.clone(), TransferStep::Complete)
        .expect("accepted");
    assert_eq!(
        asked.table(),
        "cq cn qc qn qs nc nq sc sq sn",
        "the leg at which his phone is lives on"
    );
    let call = asked.harness.only_call();
    assert_eq!((&call.id, call.owner.as_ref()), (&asked.first, Some(&AGENT.into())));
    assert_eq!(call.parent, None);
    assert_eq!(asked.customers_reinvites(), 0);
    let states: Vec<_> =
        call.parties.iter().map(|party| (party.number.as_str(), party.state)).collect();
    let there = LegState::Established;
    assert_eq!(states, [("7001", there), ("5001", there), ("5005", there), ("5002", there)]);
    asked.harness.hangs_up(asked.asking);
    assert_eq!(asked.table(), "cn nc ns sc sn", "the coach goes on with the colleague");
}

#[test]
fn what_else_he_asks_about_the_call_goes_on_when_one_of_his_colleagues_is_in_it() {
    let mut harness = Harness::new();
    let (customer, agent) = harness.talk();
    let call = harness.call_id();
    harness.command(Command::Hold { device: AGENT.into(), call: call.clone() }).unwrap();
    // His phone has three lines.
    let asks = |harness: &mut Harness, number: &str| {
        let before: Vec<LegId> = harness.lines.keys().copied().collect();
        let leg = harness.incoming(
            LegSource::Account(AGENT.into()),
            number,
            Some(sdp(4000, "0", "sendrecv")),
        );
        let rings =
            harness.lines.values().find(|line| line.outgoing && !before.contains(&line.leg));
        let rings = rings.expect("it rings").leg;
        harness.answer(rings);
        leg
    };
    let first = asks(&mut harness, "5002");
    let second = asks(&mut harness, "0123");
    let asked_about = |harness: &Harness, leg: LegId| {
        let key = harness.lines[&leg].call;
        let of_leg = harness
            .b2bua
            .calls
            .iter()
            .find(|call| Some(call.key) == key)
            .map(|call| call.id.clone());
        of_leg.and_then(|id| harness.calls[&id].parent.clone())
    };
    assert_eq!(asked_about(&harness, first), Some(call.clone()));
    assert_eq!(asked_about(&harness, second), Some(call.clone()));
    conference(&mut harness, &call, TransferStep::Complete).expect("accepted");
    assert!(harness.lines[&agent].ended && !harness.lines[&first].ended);
    assert_eq!(asked_about(&harness, second), Some(call.clone()), "he has another leg there now");
    harness.hangs_up(first);
    assert_eq!(
        asked_about(&harness, second),
        None,
        "he is out of it, and this is a call like any other"
    );
    assert!(!harness.lines[&customer].ended && !harness.lines[&second].ended);
}

#[test]
fn a_barge_in_into_a_conference_is_heard_by_everybody_of_it() {
    let mut asked = Asked::with(Activity::BargeIn, Scope::Agent);
    assert_eq!(asked.table(), "as qn nq sc sa", "not by a customer on hold");
    conference(&mut asked.harness, &asked.first.clone(), TransferStep::Complete).expect("accepted");
    assert_eq!(asked.table(), "cq cn cs qc qn qs nc nq ns sc sq sn");
    asked.harness.hangs_up(asked.asking);
    assert!(asked.harness.lines[&asked.supervisor].ended, "his agent has left");
    assert_eq!(asked.table(), "cn nc");
}

#[test]
fn the_owner_of_a_conference_and_its_supervisor_can_remove_a_participant_and_nobody_else() {
    for asker in [AGENT, SUPERVISOR] {
        let mut asked = Asked::coached(Scope::Call);
        conference(&mut asked.harness, &asked.first.clone(), TransferStep::Complete)
            .expect("accepted");
        let remove = |harness: &mut Harness, device: &str, participant: &str| {
            let call = harness.call_id();
            harness.command(Command::RemoveParticipant {
                device: device.into(),
                call,
                participant: participant.into(),
            })
        };
        let reason = |done: Result<(), Refusal>| done.expect_err("refused").reason;
        assert_eq!(reason(remove(&mut asked.harness, OTHER, "7001")), Reason::NotPermitted);
        assert_eq!(reason(remove(&mut asked.harness, CUSTOMER, "5002")), Reason::NotPermitted);
        assert_eq!(reason(remove(&mut asked.harness, asker, "999")), Reason::NotFound);
        assert_eq!(
            reason(remove(&mut asked.harness, AGENT, "5005")),
            Reason::NotFound,
            "a supervisor is no participant"
        );
        remove(&mut asked.harness, asker, "5002").expect("accepted");
        assert!(asked.harness.lines[&asked.colleague].ended);
        assert_eq!(asked.table(), "cq qc qs sc sq");
        assert_eq!(
            reason(remove(&mut asked.harness, asker, "7001")),
            Reason::InvalidState,
            "no conference any more"
        );
    }
}

#[test]
fn a_single_step_conference_brings_somebody_in_and_loses_nothing_when_it_can_not() {
    let mut harness = Harness::new();
    let (customer, agent, supervisor) = harness.coached_with(Activity::Coach, Scope::Agent);
    let call = harness.call_id();
    let single =
        || TransferStep::SingleStep { destination: "5002".into(), user_data: Default::default() };
    conference(&mut harness, &call, single()).expect("accepted");
    let refused = conference(&mut harness, &call, single()).expect_err("one at a time");
    assert_eq!(refused.reason, Reason::InvalidState);
    let colleague = harness.ringing(OTHER);
    harness.leg(LegEvent::Refused { leg: colleague, status: 486 });
    let legs = [("c", customer), ("a", agent), ("n", colleague), ("s", supervisor)];
    assert_eq!(harness.table(&legs), "ca ac as sc sa");
    assert_eq!(harness.failures.len(), 1);

    conference(&mut harness, &call, single()).expect("accepted");
    let colleague = harness.ringing(OTHER);
    rings(&mut harness, colleague);
    let legs = [("c", customer), ("a", agent), ("n", colleague), ("s", supervisor)];
    assert_eq!(harness.table(&legs), "ca ac as sc sa", "a phone that rings is not there yet");
    assert_eq!(harness.only_call().owner, None);
    harness.answer(colleague);
    assert_eq!(harness.table(&legs), "ca cn ac an as nc na sc sa sn");
    assert_eq!(harness.only_call().owner, Some(AGENT.into()));
}

#[test]
fn a_consultation_that_fails_leaves_the_customer_on_hold_and_says_so() {
    let mut harness = Harness::new();
    let (customer, agent) = harness.talk();
    let first = harness.call_id();
    step(&mut harness, &first, to("5002")).expect("accepted");
    let asking = harness.ringing(AGENT);
    harness.answer(asking);
    let colleague = harness.ringing(OTHER);
    harness.leg(LegEvent::Refused { leg: colleague, status: 486 });
    assert_eq!(harness.only_call().id, first);
    assert_eq!(harness.state_of(AGENT), LegState::Held);
    assert_eq!(harness.failures.len(), 1);
    harness.command(Command::Retrieve { device: AGENT.into(), call: first }).expect("accepted");
    assert_eq!(harness.table(&[("c", customer), ("a", agent)]), "ca ac");
}

#[test]
fn a_consultation_whose_customer_has_gone_is_a_call_like_any_other() {
    let mut asked = Asked::coached(Scope::Call);
    asked.harness.hangs_up(asked.customer);
    let call = asked.harness.only_call().clone();
    assert_eq!((call.call_type, call.parent), (CallType::Internal, None));
    let refused = step(&mut asked.harness, &asked.second.clone(), TransferStep::Complete)
        .expect_err("nothing to complete");
    assert_eq!(refused.reason, Reason::InvalidState);
    let supervisor = asked.harness.ringing(SUPERVISOR);
    asked.harness.answer(supervisor);
    let legs = [("q", asked.asking), ("n", asked.colleague), ("s", supervisor)];
    assert_eq!(asked.harness.table(&legs), "qn qs nq sq sn", "and is monitored as one");
}

#[test]
fn steps_that_do_not_fit_are_refused_and_change_nothing() {
    let mut asked = Asked::coached(Scope::Call);
    let before = asked.table();
    let (first, second) = (asked.first.clone(), asked.second.clone());
    let mut refusals = Vec::new();
    for (device, call, step) in [
        (AGENT, &first, to("5006")),
        (SUPERVISOR, &first, to("5006")),
        (SUPERVISOR, &first, TransferStep::Complete),
        (OTHER, &second, TransferStep::Complete),
        (CUSTOMER, &first, to("5006")),
        (SUPERVISOR2, &first, TransferStep::Complete),
    ] {
        for is_transfer in [true, false] {
            let (device, call, step) = (device.into(), call.clone(), step.clone());
            let done = match is_transfer {
                true => asked.harness.command(Command::Transfer { device, call, step }),
                false => asked.harness.command(Command::Conference { device, call, step }),
            };
            refusals.push(done.expect_err("refused").reason);
        }
    }
    let (state, nothing) = (Reason::InvalidState, Reason::NotFound);
    assert_eq!(refusals[..2], [state; 2]);
    assert_eq!(refusals[2..6], [Reason::Forbidden; 4], "of a supervisor's leg");
    assert_eq!(refusals[6..10], [state; 4]);
    assert_eq!(refusals[10..], [nothing; 2], "it is no call of the device");
    assert_eq!(asked.table(), before);
    assert_eq!(asked.harness.calls.len(), 2);
}

#[test]
fn the_supervisors_of_both_agents_go_on_in_one_call() {
    let mut harness = Harness::new();
    let (customer, agent, supervisor) = harness.coached_with(Activity::Coach, Scope::Call);
    harness
        .command(Command::StartMonitoring {
            supervisor: SUPERVISOR2.into(),
            target: OTHER.into(),
            activity: Activity::ListenIn,
            mode: Mode::AllCalls,
            scope: Scope::Agent,
            confirm_joins: false,
            agent_side_only: false,
        })
        .expect("accepted");
    // The colleague is on a call of his own, which is listened to; the agent's phone calls him and
    // waits.
    let caller = harness.incoming(
        LegSource::Trunk("city".into()),
        "5002",
        Some(sdp(4000, "0 8 101", "sendrecv")),
    );
    let colleague = harness.ringing(OTHER);
    harness.answer(colleague);
    let supervisor2 = harness.ringing(SUPERVISOR2);
    harness.answer(supervisor2);
    let legs = [
        ("c", customer),
        ("a", agent),
        ("s", supervisor),
        ("k", caller),
        ("n", colleague),
        ("t", supervisor2),
    ];
    assert_eq!(harness.table(&legs), "ca ac as sc sa kn nk tk tn");
    // He puts his caller on hold, and asks the agent.
    harness.leg(LegEvent::Offered { leg: colleague, media: Some(sdp(5000, "0 101", "sendonly")) });
    let asking = harness.incoming(
        LegSource::Account(OTHER.into()),
        "5001",
        Some(sdp(4002, "0 8 101", "sendrecv")),
    );
    let asked = harness.ringing(AGENT);
    harness.answer(asked);
    assert_eq!(
        harness.calls.values().filter(|call| call.call_type == CallType::Consult).count(),
        1
    );
    // He lets his caller go on to the agent, who has two calls now; the first coach stays where he
    // is, the second is out.
    harness.leg(LegEvent::Referred {
        leg: colleague,
        to: "5001".into(),
        replaces: Some(asking),
        is_secure: false,
    });
    assert_eq!(harness.told_referrer(colleague), [200]);
    let legs = [
        ("c", customer),
        ("a", agent),
        ("s", supervisor),
        ("k", caller),
        ("b", asked),
        ("t", supervisor2),
    ];
    assert_eq!(harness.table(&legs), "ca ac as sc sa kb bk");
    assert!(harness.lines[&supervisor2].ended);
}

#[test]
fn a_supervisor_who_is_asked_and_takes_the_call_is_no_supervisor_of_it_any_more() {
    let mut harness = Harness::new();
    let (customer, _, supervisor) = harness.coached_with(Activity::Coach, Scope::Call);
    let first = harness.call_id();
    step(&mut harness, &first, to("5005")).expect("accepted");
    let asking = harness.ringing(AGENT);
    harness.answer(asking);
    let asked = harness.ringing(SUPERVISOR);
    harness.answer(asked);
    step(&mut harness, &first, TransferStep::Complete).expect("accepted");
    assert!(harness.lines[&supervisor].ended);
    assert_eq!(harness.table(&[("c", customer), ("n", asked), ("s", supervisor)]), "cn nc");
    assert_eq!(harness.monitors[SUPERVISOR].state, MonitorState::Armed);
}

#[test]
fn a_phone_transfers_by_itself_with_refer_and_replaces() {
    for second_asks in [false, true] {
        let mut harness = Harness::new();
        let (customer, agent, supervisor) = harness.coached_with(Activity::Coach, Scope::Call);
        harness.leg(LegEvent::Offered { leg: agent, media: Some(sdp(5000, "0 101", "sendonly")) });
        let first = harness.call_id();
        let asking = harness.incoming(
            LegSource::Account(AGENT.into()),
            "5002",
            Some(sdp(4002, "0 8 101", "sendrecv")),
        );
        let colleague = harness.ringing(OTHER);
        harness.answer(colleague);
        assert_eq!(the_other(&harness, &first).parent, Some(first.clone()));
        let (leg, replaced) = if second_asks { (asking, agent) } else { (agent, asking) };
        harness.leg(LegEvent::Referred {
            leg,
            to: "5002".into(),
            replaces: Some(replaced),
            is_secure: false,
        });
        assert_eq!(harness.told_referrer(leg), [200]);
        assert_eq!(harness.call_id(), first);
        assert_eq!(
            harness.table(&[("c", customer), ("n", colleague), ("s", supervisor)]),
            "cn nc ns sc sn"
        );
        harness.hangs_up(colleague);
        harness.stop().expect("armed still");
        harness.assert_empty();
    }
}

#[test]
fn a_refer_that_replaces_what_it_may_not_is_told_so() {
    let mut harness = Harness::new();
    let (customer, agent, supervisor) = harness.coached_with(Activity::Coach, Scope::Call);
    for other in [agent, customer, supervisor, LegId(999)] {
        harness.leg(LegEvent::Referred {
            leg: agent,
            to: "5002".into(),
            replaces: Some(other),
            is_secure: false,
        });
        assert_eq!(harness.told_referrer(agent), [481]);
    }
    assert_eq!(
        harness.table(&[("c", customer), ("a", agent), ("s", supervisor)]),
        "ca ac as sc sa"
    );
}

#[test]
fn another_phone_of_the_agent_takes_his_place_and_the_coach_stays() {
    let mut harness = Harness::new();
    let (customer, agent, supervisor) = harness.coached_with(Activity::Coach, Scope::Agent);
    harness.log.clear();
    let here = harness.replaces(
        LegSource::Account(AGENT.into()),
        agent,
        Some(sdp(4010, "0 8 101", "sendrecv")),
    );
    assert!(harness.lines[&agent].ended);
    assert_eq!(harness.table(&[("c", customer), ("a", here), ("s", supervisor)]), "ca ac as sc sa");
    let without_offer = harness.replaces(LegSource::Account(AGENT.into()), here, None);
    harness.leg(LegEvent::Confirmed {
        leg: without_offer,
        media: Some(sdp(4012, "0 8 101", "sendrecv")),
    });
    assert_eq!(
        harness.table(&[("c", customer), ("a", without_offer), ("s", supervisor)]),
        "ca ac as sc sa"
    );
    harness.hangs_up(without_offer);
    harness.stop().expect("armed still");
    harness.assert_empty();
}

#[test]
fn a_switch_hands_the_customers_side_over_and_nobody_else_may() {
    let mut harness = Harness::new();
    let customer = harness.incoming(
        LegSource::Trunk("city".into()),
        "5001",
        Some(sdp(4000, "0 8 101", "sendrecv")),
    );
    let agent = harness.ringing(AGENT);
    harness.answer(agent);
    harness.monitor(Activity::Coach, Mode::AllCalls, Scope::Call).expect("accepted");
    let supervisor = harness.ringing(SUPERVISOR);
    harness.answer(supervisor);
    let offer = || Some(sdp(4010, "0 8 101", "sendrecv"));
    for source in [
        LegSource::Account(OTHER.into()),
        LegSource::Account(AGENT.into()),
        LegSource::Trunk("a-law".into()),
    ] {
        let stranger = harness.replaces(source, customer, offer());
        assert!(harness.lines[&stranger].ended, "refused");
    }
    let his_own = harness.replaces(LegSource::Account(SUPERVISOR.into()), supervisor, offer());
    assert!(
        harness.lines[&his_own].ended,
        "a supervisor's leg is brought in by the monitor, and by nothing else"
    );
    let next = harness.replaces(LegSource::Trunk("city".into()), customer, offer());
    assert_eq!(harness.table(&[("c", next), ("a", agent), ("s", supervisor)]), "ca ac as sc sa");
    let number = Number::from(format!("0170{}", next.0));
    assert!(harness.only_call().parties.iter().any(|party| party.number == number));
}

#[test]
fn digits_go_to_the_other_party_in_the_callers_name_and_a_supervisor_sends_none() {
    let mut harness = Harness::new();
    let (_, agent, supervisor) = harness.coached(Activity::BargeIn);
    let call = harness.call_id();
    harness.log.clear();
    let send = |device: &str| Command::SendDtmf {
        device: device.into(),
        call: call.clone(),
        digits: "42#".parse().expect("digits"),
    };
    harness.command(send(AGENT)).expect("accepted");
    let dialled = |harness: &mut Harness| {
        let log = std::mem::take(&mut harness.log);
        let of = log.into_iter().filter_map(|output| match output {
            Output::Media(MediaCommand::SendDigits { leg, digits }) => Some((leg.0, digits)),
            _ => None,
        });
        of.collect::<Vec<_>>()
    };
    assert_eq!(dialled(&mut harness), [(agent.0, "42#".to_owned())]);
    assert_eq!(harness.command(send(SUPERVISOR)).expect_err("refused").reason, Reason::Forbidden);
    for leg in [supervisor, agent] {
        let digits = "7".to_owned();
        harness.leg(LegEvent::Dialled { leg, digits });
    }
    assert_eq!(
        dialled(&mut harness),
        [(agent.0, "7".to_owned())],
        "by INFO from the phone, the same"
    );
}

#[test]
fn where_it_is_wished_for_an_agent_hears_that_he_is_monitored_and_so_does_the_next() {
    let mut harness = Harness::with(
        B2buaConfig { beep: true, ..B2buaConfig::default() },
        RestoredCalls::default(),
    );
    let beeped = |harness: &mut Harness| {
        let log = std::mem::take(&mut harness.log);
        let beeps = log.into_iter().filter_map(|output| match output {
            Output::Media(MediaCommand::Beep { leg }) => Some(leg),
            _ => None,
        });
        beeps.collect::<Vec<_>>()
    };
    let (_, agent, _) = harness.coached(Activity::ListenIn);
    assert_eq!(beeped(&mut harness), [agent]);
    harness.monitor(Activity::Coach, Mode::AllCalls, Scope::Call).expect("accepted");
    assert_eq!(beeped(&mut harness), [], "he knows already");
    let call = harness.call_id();
    let single =
        TransferStep::SingleStep { destination: "5002".into(), user_data: Default::default() };
    step(&mut harness, &call, single).expect("accepted");
    let next = harness.ringing(OTHER);
    harness.answer(next);
    assert_eq!(beeped(&mut harness), [next]);
}

#[test]
fn a_conference_has_room_for_eight() {
    let mut harness = Harness::with(
        B2buaConfig { max_calls_per_device: 20, ..B2buaConfig::default() },
        RestoredCalls::default(),
    );
    harness.talk();
    let call = harness.call_id();
    let mut add = |number: String| {
        let step = TransferStep::SingleStep {
            destination: number.as_str().into(),
            user_data: Default::default(),
        };
        conference(&mut harness, &call, step).map(|()| {
            let is_new =
                |line: &&super::harness::Line| line.outgoing && !line.answered && !line.ended;
            let leg = harness.lines.values().find(is_new).expect("called").leg;
            harness.answer(leg);
        })
    };
    for n in 1..=6 {
        add(format!("0{n}")).expect("there is room");
    }
    assert_eq!(add("07".to_owned()).expect_err("full").reason, Reason::InvalidState);
    let talk = |party: &&PartyFact| party.state == LegState::Established;
    assert_eq!(harness.calls[&call].parties.iter().filter(talk).count(), 8);
}
