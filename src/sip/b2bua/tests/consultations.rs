//! Two calls of one agent, and what becomes of them: attended transfers and conferences.

use super::house::{AGENT, BOSS, BOSS2, CUSTOMER, House, OTHER, sdp};
use crate::media::MediaCommand;
use crate::model::{
    Activity, CallFact, CallId, CallType, Command, DeviceId, LegState, Mode, MonitorState, Number,
    PartyFact, Reason, Refusal, Scope, TransferStep,
};
use crate::sip::b2bua::{B2buaConfig, Output, RestoredCalls};
use crate::sip::leg::{LegCommand, LegEvent, LegId, LegSource};

fn step(house: &mut House, call: &CallId, step: TransferStep) -> Result<(), Refusal> {
    house.command(Command::Transfer { device: AGENT.into(), call: call.clone(), step })
}

fn conference(house: &mut House, call: &CallId, step: TransferStep) -> Result<(), Refusal> {
    house.command(Command::Conference { device: AGENT.into(), call: call.clone(), step })
}

fn to(number: &str) -> TransferStep {
    TransferStep::Initiate { destination: number.into() }
}

fn rings(house: &mut House, leg: LegId) {
    house.leg(LegEvent::Progress { leg, status: 180, media: None });
}

fn told(house: &mut House, leg: LegId) -> Vec<u16> {
    let commands = house.leg_commands().into_iter();
    let told = commands.filter_map(|command| match command {
        LegCommand::TellReferrer { leg: to, status } if to == leg => Some(status),
        _ => None,
    });
    told.collect()
}

fn the_other(house: &House, first: &CallId) -> CallFact {
    let mut others = house.calls.values().filter(|call| call.id != *first);
    let other = others.next().expect("a second call").clone();
    assert!(others.next().is_none());
    other
}

/// A call that the agent has, with its legs.
struct Asked {
    house: House,
    first: CallId,
    second: CallId,
    customer: LegId,
    agent: LegId,
    /// The agent's leg on the second call.
    asking: LegId,
    colleague: LegId,
    boss: LegId,
}

impl Asked {
    /// The agent, who is coached, has put the customer on hold and talks to a colleague.
    fn with(activity: Activity, scope: Scope) -> Self {
        let mut house = House::new();
        let (customer, agent, boss) = house.coached_with(activity, scope);
        let first = house.call_id();
        step(&mut house, &first, to("5002")).expect("accepted");
        let asking = house.ringing(AGENT);
        house.answer(asking);
        let colleague = house.ringing(OTHER);
        house.answer(colleague);
        let second = the_other(&house, &first).id;
        house.log.clear();
        Self { house, first, second, customer, agent, asking, colleague, boss }
    }

    fn coached(scope: Scope) -> Self {
        Self::with(Activity::Coach, scope)
    }

    fn table(&self) -> String {
        self.house.table(&[
            ("c", self.customer),
            ("a", self.agent),
            ("q", self.asking),
            ("n", self.colleague),
            ("s", self.boss),
        ])
    }

    fn customers_reinvites(&self) -> usize {
        let to_customer = |output: &&Output| matches!(output, Output::Leg(LegCommand::Offer { leg, .. }) if *leg == self.customer);
        self.house.log.iter().filter(to_customer).count()
    }
}

#[test]
fn who_asks_a_colleague_holds_the_customer_and_the_coach_stays_with_the_first_call() {
    let asked = Asked::coached(Scope::Agent);
    let second = &asked.house.calls[&asked.second];
    assert_eq!((second.call_type, &second.parent), (CallType::Consult, &Some(asked.first.clone())));
    let first = &asked.house.calls[&asked.first];
    let agent = first.party_of(&AGENT.into()).expect("he is there");
    assert_eq!(agent.state, LegState::Held);
    assert_eq!(
        asked.table(),
        "as qn nq sc sa",
        "the whisper stays on the first call, and the colleague hears none of it"
    );
}

#[test]
fn with_scope_call_the_coach_goes_on_to_the_colleague_when_the_transfer_is_complete() {
    for named in 0..2 {
        let mut asked = Asked::coached(Scope::Call);
        let call = [asked.first.clone(), asked.second.clone()][named].clone();
        step(&mut asked.house, &call, TransferStep::Complete).expect("accepted");
        assert_eq!(asked.table(), "cn nc ns sc sn");
        assert_eq!(asked.house.call_id(), asked.first, "the first call lives on");
        assert!(asked.house.lines[&asked.agent].ended && asked.house.lines[&asked.asking].ended);
        assert_eq!(asked.customers_reinvites(), 0);
        let moved = |output: &Output| matches!(output, Output::Media(MediaCommand::Move { leg, .. }) if leg.0 == asked.colleague.0);
        assert!(asked.house.log.iter().any(moved));
        asked.house.hangs_up(asked.customer);
        asked.house.stop().expect("armed still");
        asked.house.assert_empty();
    }
}

#[test]
fn with_scope_agent_the_coach_is_out_in_the_step_that_completes_the_transfer() {
    let mut asked = Asked::coached(Scope::Agent);
    step(&mut asked.house, &asked.first.clone(), TransferStep::Complete).expect("accepted");
    assert!(asked.house.lines[&asked.boss].ended);
    assert_eq!(asked.table(), "cn nc");
    assert_eq!(asked.house.monitors[BOSS].state, MonitorState::Armed);
}

#[test]
fn a_transfer_can_be_completed_while_the_colleagues_phone_rings() {
    let mut house = House::new();
    let (customer, agent, boss) = house.coached_with(Activity::Coach, Scope::Call);
    let first = house.call_id();
    step(&mut house, &first, to("5002")).expect("accepted");
    let asking = house.ringing(AGENT);
    house.answer(asking);
    let colleague = house.ringing(OTHER);
    step(&mut house, &first, TransferStep::Complete).expect("accepted");
    assert!(
        house.lines[&asking].ended && !house.lines[&agent].ended,
        "until it rings he keeps the customer"
    );
    rings(&mut house, colleague);
    assert!(house.lines[&agent].ended);
    let legs = [("c", customer), ("n", colleague), ("s", boss)];
    assert_eq!(house.table(&legs), "sc");
    house.answer(colleague);
    assert_eq!(house.table(&legs), "cn nc ns sc sn");
}

#[test]
fn a_colleague_who_then_does_not_answer_gives_the_customer_back() {
    let mut house = House::new();
    let (customer, _) = house.talk();
    let first = house.call_id();
    step(&mut house, &first, to("5002")).expect("accepted");
    let asking = house.ringing(AGENT);
    house.answer(asking);
    let colleague = house.ringing(OTHER);
    rings(&mut house, colleague);
    step(&mut house, &first, TransferStep::Complete).expect("accepted");
    house.leg(LegEvent::Refused { leg: colleague, status: 408 });
    let again = house.ringing(AGENT);
    house.answer(again);
    assert_eq!(house.table(&[("c", customer), ("a", again)]), "ca ac");
    assert!(house.failures.iter().any(|failure| failure.device == DeviceId::from(AGENT)));
}

#[test]
fn a_conference_is_heard_by_all_and_the_coach_by_his_agent_alone() {
    let mut asked = Asked::coached(Scope::Call);
    conference(&mut asked.house, &asked.second.clone(), TransferStep::Complete).expect("accepted");
    assert_eq!(
        asked.table(),
        "cq cn qc qn qs nc nq sc sq sn",
        "the leg at which his phone is lives on"
    );
    let call = asked.house.only_call();
    assert_eq!((&call.id, call.owner.as_ref()), (&asked.first, Some(&AGENT.into())));
    assert_eq!(call.parent, None);
    assert_eq!(asked.customers_reinvites(), 0);
    let states: Vec<_> =
        call.parties.iter().map(|party| (party.number.as_str(), party.state)).collect();
    let there = LegState::Established;
    assert_eq!(states, [("7001", there), ("5001", there), ("5005", there), ("5002", there)]);
    asked.house.hangs_up(asked.asking);
    assert_eq!(asked.table(), "cn nc ns sc sn", "the coach goes on with the colleague");
}

#[test]
fn what_else_he_asks_about_the_call_goes_on_when_one_of_his_colleagues_is_in_it() {
    let mut house = House::new();
    let (customer, agent) = house.talk();
    let call = house.call_id();
    house.command(Command::Hold { device: AGENT.into(), call: call.clone() }).unwrap();
    // His phone has three lines.
    let asks = |house: &mut House, number: &str| {
        let before: Vec<LegId> = house.lines.keys().copied().collect();
        let leg = house.incoming(
            LegSource::Account(AGENT.into()),
            number,
            Some(sdp(4000, "0", "sendrecv")),
        );
        let rings = house.lines.values().find(|line| line.outgoing && !before.contains(&line.leg));
        let rings = rings.expect("it rings").leg;
        house.answer(rings);
        leg
    };
    let first = asks(&mut house, "5002");
    let second = asks(&mut house, "0123");
    let asked_about = |house: &House, leg: LegId| {
        let key = house.lines[&leg].call;
        let of_leg =
            house.b2bua.calls.iter().find(|call| Some(call.key) == key).map(|call| call.id.clone());
        of_leg.and_then(|id| house.calls[&id].parent.clone())
    };
    assert_eq!(asked_about(&house, first), Some(call.clone()));
    assert_eq!(asked_about(&house, second), Some(call.clone()));
    conference(&mut house, &call, TransferStep::Complete).expect("accepted");
    assert!(house.lines[&agent].ended && !house.lines[&first].ended);
    assert_eq!(asked_about(&house, second), Some(call.clone()), "he has another leg there now");
    house.hangs_up(first);
    assert_eq!(
        asked_about(&house, second),
        None,
        "he is out of it, and this is a call like any other"
    );
    assert!(!house.lines[&customer].ended && !house.lines[&second].ended);
}

#[test]
fn a_barge_in_into_a_conference_is_heard_by_everybody_of_it() {
    let mut asked = Asked::with(Activity::BargeIn, Scope::Agent);
    assert_eq!(asked.table(), "as qn nq sc sa", "not by a customer on hold");
    conference(&mut asked.house, &asked.first.clone(), TransferStep::Complete).expect("accepted");
    assert_eq!(asked.table(), "cq cn cs qc qn qs nc nq ns sc sq sn");
    asked.house.hangs_up(asked.asking);
    assert!(asked.house.lines[&asked.boss].ended, "his agent has left");
    assert_eq!(asked.table(), "cn nc");
}

#[test]
fn the_owner_of_a_conference_and_its_supervisor_can_remove_a_participant_and_nobody_else() {
    for asker in [AGENT, BOSS] {
        let mut asked = Asked::coached(Scope::Call);
        conference(&mut asked.house, &asked.first.clone(), TransferStep::Complete)
            .expect("accepted");
        let remove = |house: &mut House, device: &str, participant: &str| {
            let call = house.call_id();
            house.command(Command::RemoveParticipant {
                device: device.into(),
                call,
                participant: participant.into(),
            })
        };
        let reason = |done: Result<(), Refusal>| done.expect_err("refused").reason;
        assert_eq!(reason(remove(&mut asked.house, OTHER, "7001")), Reason::NotPermitted);
        assert_eq!(reason(remove(&mut asked.house, CUSTOMER, "5002")), Reason::NotPermitted);
        assert_eq!(reason(remove(&mut asked.house, asker, "999")), Reason::NotFound);
        assert_eq!(
            reason(remove(&mut asked.house, AGENT, "5005")),
            Reason::NotFound,
            "a supervisor is no participant"
        );
        remove(&mut asked.house, asker, "5002").expect("accepted");
        assert!(asked.house.lines[&asked.colleague].ended);
        assert_eq!(asked.table(), "cq qc qs sc sq");
        assert_eq!(
            reason(remove(&mut asked.house, asker, "7001")),
            Reason::InvalidState,
            "no conference any more"
        );
    }
}

#[test]
fn a_single_step_conference_brings_somebody_in_and_loses_nothing_when_it_can_not() {
    let mut house = House::new();
    let (customer, agent, boss) = house.coached_with(Activity::Coach, Scope::Agent);
    let call = house.call_id();
    let single = || TransferStep::SingleStep { destination: "5002".into() };
    conference(&mut house, &call, single()).expect("accepted");
    let refused = conference(&mut house, &call, single()).expect_err("one at a time");
    assert_eq!(refused.reason, Reason::InvalidState);
    let colleague = house.ringing(OTHER);
    house.leg(LegEvent::Refused { leg: colleague, status: 486 });
    let legs = [("c", customer), ("a", agent), ("n", colleague), ("s", boss)];
    assert_eq!(house.table(&legs), "ca ac as sc sa");
    assert_eq!(house.failures.len(), 1);

    conference(&mut house, &call, single()).expect("accepted");
    let colleague = house.ringing(OTHER);
    rings(&mut house, colleague);
    let legs = [("c", customer), ("a", agent), ("n", colleague), ("s", boss)];
    assert_eq!(house.table(&legs), "ca ac as sc sa", "a phone that rings is not there yet");
    assert_eq!(house.only_call().owner, None);
    house.answer(colleague);
    assert_eq!(house.table(&legs), "ca cn ac an as nc na sc sa sn");
    assert_eq!(house.only_call().owner, Some(AGENT.into()));
}

#[test]
fn a_consultation_that_fails_leaves_the_customer_on_hold_and_says_so() {
    let mut house = House::new();
    let (customer, agent) = house.talk();
    let first = house.call_id();
    step(&mut house, &first, to("5002")).expect("accepted");
    let asking = house.ringing(AGENT);
    house.answer(asking);
    let colleague = house.ringing(OTHER);
    house.leg(LegEvent::Refused { leg: colleague, status: 486 });
    assert_eq!(house.only_call().id, first);
    assert_eq!(house.state_of(AGENT), LegState::Held);
    assert_eq!(house.failures.len(), 1);
    house.command(Command::Retrieve { device: AGENT.into(), call: first }).expect("accepted");
    assert_eq!(house.table(&[("c", customer), ("a", agent)]), "ca ac");
}

#[test]
fn a_consultation_whose_customer_has_gone_is_a_call_like_any_other() {
    let mut asked = Asked::coached(Scope::Call);
    asked.house.hangs_up(asked.customer);
    let call = asked.house.only_call().clone();
    assert_eq!((call.call_type, call.parent), (CallType::Internal, None));
    let refused = step(&mut asked.house, &asked.second.clone(), TransferStep::Complete)
        .expect_err("nothing to complete");
    assert_eq!(refused.reason, Reason::InvalidState);
    let boss = asked.house.ringing(BOSS);
    asked.house.answer(boss);
    let legs = [("q", asked.asking), ("n", asked.colleague), ("s", boss)];
    assert_eq!(asked.house.table(&legs), "qn qs nq sq sn", "and is monitored as one");
}

#[test]
fn steps_that_do_not_fit_are_refused_and_change_nothing() {
    let mut asked = Asked::coached(Scope::Call);
    let before = asked.table();
    let (first, second) = (asked.first.clone(), asked.second.clone());
    let mut refusals = Vec::new();
    for (device, call, step) in [
        (AGENT, &first, to("5006")),
        (BOSS, &first, to("5006")),
        (BOSS, &first, TransferStep::Complete),
        (OTHER, &second, TransferStep::Complete),
        (CUSTOMER, &first, to("5006")),
        (BOSS2, &first, TransferStep::Complete),
    ] {
        for is_transfer in [true, false] {
            let (device, call, step) = (device.into(), call.clone(), step.clone());
            let done = match is_transfer {
                true => asked.house.command(Command::Transfer { device, call, step }),
                false => asked.house.command(Command::Conference { device, call, step }),
            };
            refusals.push(done.expect_err("refused").reason);
        }
    }
    let (state, nothing) = (Reason::InvalidState, Reason::NotFound);
    assert_eq!(refusals[..10], [state; 10]);
    assert_eq!(refusals[10..], [nothing; 2], "it is none of his calls");
    assert_eq!(asked.table(), before);
    assert_eq!(asked.house.calls.len(), 2);
}

#[test]
fn the_supervisors_of_both_agents_go_on_in_one_call() {
    let mut house = House::new();
    let (customer, agent, boss) = house.coached_with(Activity::Coach, Scope::Call);
    house
        .command(Command::StartMonitoring {
            supervisor: BOSS2.into(),
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
    let caller = house.incoming(
        LegSource::Trunk("city".into()),
        "5002",
        Some(sdp(4000, "0 8 101", "sendrecv")),
    );
    let colleague = house.ringing(OTHER);
    house.answer(colleague);
    let boss2 = house.ringing(BOSS2);
    house.answer(boss2);
    let legs =
        [("c", customer), ("a", agent), ("s", boss), ("k", caller), ("n", colleague), ("t", boss2)];
    assert_eq!(house.table(&legs), "ca ac as sc sa kn nk tk tn");
    // He puts his caller on hold, and asks the agent.
    house.leg(LegEvent::Offered { leg: colleague, media: Some(sdp(5000, "0 101", "sendonly")) });
    let asking = house.incoming(
        LegSource::Account(OTHER.into()),
        "5001",
        Some(sdp(4002, "0 8 101", "sendrecv")),
    );
    let asked = house.ringing(AGENT);
    house.answer(asked);
    assert_eq!(house.calls.values().filter(|call| call.call_type == CallType::Consult).count(), 1);
    // He lets his caller go on to the agent, who has two calls now; the first coach stays where he
    // is, the second is out.
    house.leg(LegEvent::Referred { leg: colleague, to: "5001".into(), replaces: Some(asking) });
    assert_eq!(told(&mut house, colleague), [200]);
    let legs =
        [("c", customer), ("a", agent), ("s", boss), ("k", caller), ("b", asked), ("t", boss2)];
    assert_eq!(house.table(&legs), "ca ac as sc sa kb bk");
    assert!(house.lines[&boss2].ended);
}

#[test]
fn a_supervisor_who_is_asked_and_takes_the_call_is_no_supervisor_of_it_any_more() {
    let mut house = House::new();
    let (customer, _, boss) = house.coached_with(Activity::Coach, Scope::Call);
    let first = house.call_id();
    step(&mut house, &first, to("5005")).expect("accepted");
    let asking = house.ringing(AGENT);
    house.answer(asking);
    let asked = house.ringing(BOSS);
    house.answer(asked);
    step(&mut house, &first, TransferStep::Complete).expect("accepted");
    assert!(house.lines[&boss].ended);
    assert_eq!(house.table(&[("c", customer), ("n", asked), ("s", boss)]), "cn nc");
    assert_eq!(house.monitors[BOSS].state, MonitorState::Armed);
}

#[test]
fn a_phone_transfers_by_itself_with_refer_and_replaces() {
    for second_asks in [false, true] {
        let mut house = House::new();
        let (customer, agent, boss) = house.coached_with(Activity::Coach, Scope::Call);
        house.leg(LegEvent::Offered { leg: agent, media: Some(sdp(5000, "0 101", "sendonly")) });
        let first = house.call_id();
        let asking = house.incoming(
            LegSource::Account(AGENT.into()),
            "5002",
            Some(sdp(4002, "0 8 101", "sendrecv")),
        );
        let colleague = house.ringing(OTHER);
        house.answer(colleague);
        assert_eq!(the_other(&house, &first).parent, Some(first.clone()));
        let (leg, replaced) = if second_asks { (asking, agent) } else { (agent, asking) };
        house.leg(LegEvent::Referred { leg, to: "5002".into(), replaces: Some(replaced) });
        assert_eq!(told(&mut house, leg), [200]);
        assert_eq!(house.call_id(), first);
        assert_eq!(
            house.table(&[("c", customer), ("n", colleague), ("s", boss)]),
            "cn nc ns sc sn"
        );
        house.hangs_up(colleague);
        house.stop().expect("armed still");
        house.assert_empty();
    }
}

#[test]
fn a_refer_that_replaces_what_it_may_not_is_told_so() {
    let mut house = House::new();
    let (customer, agent, boss) = house.coached_with(Activity::Coach, Scope::Call);
    for other in [agent, customer, boss, LegId(999)] {
        house.leg(LegEvent::Referred { leg: agent, to: "5002".into(), replaces: Some(other) });
        assert_eq!(told(&mut house, agent), [481]);
    }
    assert_eq!(house.table(&[("c", customer), ("a", agent), ("s", boss)]), "ca ac as sc sa");
}

#[test]
fn another_phone_of_the_agent_takes_his_place_and_the_coach_stays() {
    let mut house = House::new();
    let (customer, agent, boss) = house.coached_with(Activity::Coach, Scope::Agent);
    house.log.clear();
    let here = house.replaces(
        LegSource::Account(AGENT.into()),
        agent,
        Some(sdp(4010, "0 8 101", "sendrecv")),
    );
    assert!(house.lines[&agent].ended);
    assert_eq!(house.table(&[("c", customer), ("a", here), ("s", boss)]), "ca ac as sc sa");
    let without_offer = house.replaces(LegSource::Account(AGENT.into()), here, None);
    house.leg(LegEvent::Confirmed {
        leg: without_offer,
        media: Some(sdp(4012, "0 8 101", "sendrecv")),
    });
    assert_eq!(
        house.table(&[("c", customer), ("a", without_offer), ("s", boss)]),
        "ca ac as sc sa"
    );
    house.hangs_up(without_offer);
    house.stop().expect("armed still");
    house.assert_empty();
}

#[test]
fn a_switch_hands_the_customers_side_over_and_nobody_else_may() {
    let mut house = House::new();
    let customer = house.incoming(
        LegSource::Trunk("city".into()),
        "5001",
        Some(sdp(4000, "0 8 101", "sendrecv")),
    );
    let agent = house.ringing(AGENT);
    house.answer(agent);
    house.monitor(Activity::Coach, Mode::AllCalls, Scope::Call).expect("accepted");
    let boss = house.ringing(BOSS);
    house.answer(boss);
    let offer = || Some(sdp(4010, "0 8 101", "sendrecv"));
    for source in [
        LegSource::Account(OTHER.into()),
        LegSource::Account(AGENT.into()),
        LegSource::Trunk("a-law".into()),
    ] {
        let stranger = house.replaces(source, customer, offer());
        assert!(house.lines[&stranger].ended, "refused");
    }
    let his_own = house.replaces(LegSource::Account(BOSS.into()), boss, offer());
    assert!(
        house.lines[&his_own].ended,
        "a supervisor's leg is brought in by the monitor, and by nothing else"
    );
    let next = house.replaces(LegSource::Trunk("city".into()), customer, offer());
    assert_eq!(house.table(&[("c", next), ("a", agent), ("s", boss)]), "ca ac as sc sa");
    let number = Number::from(format!("0170{}", next.0));
    assert!(house.only_call().parties.iter().any(|party| party.number == number));
}

#[test]
fn digits_go_to_the_other_party_in_the_callers_name_and_a_supervisor_sends_none() {
    let mut house = House::new();
    let (_, agent, boss) = house.coached(Activity::BargeIn);
    let call = house.call_id();
    house.log.clear();
    let send = |device: &str| Command::SendDtmf {
        device: device.into(),
        call: call.clone(),
        digits: "42#".parse().expect("digits"),
    };
    house.command(send(AGENT)).expect("accepted");
    let dialled = |house: &mut House| {
        let log = std::mem::take(&mut house.log);
        let of = log.into_iter().filter_map(|output| match output {
            Output::Media(MediaCommand::SendDigits { leg, digits }) => Some((leg.0, digits)),
            _ => None,
        });
        of.collect::<Vec<_>>()
    };
    assert_eq!(dialled(&mut house), [(agent.0, "42#".to_owned())]);
    assert_eq!(house.command(send(BOSS)).expect_err("refused").reason, Reason::InvalidState);
    for leg in [boss, agent] {
        let digits = "7".to_owned();
        house.leg(LegEvent::Dialled { leg, digits });
    }
    assert_eq!(
        dialled(&mut house),
        [(agent.0, "7".to_owned())],
        "by INFO from the phone, the same"
    );
}

#[test]
fn where_it_is_wished_for_an_agent_hears_that_he_is_monitored_and_so_does_the_next() {
    let mut house =
        House::with(B2buaConfig { beep: true, ..B2buaConfig::default() }, RestoredCalls::default());
    let beeped = |house: &mut House| {
        let log = std::mem::take(&mut house.log);
        let beeps = log.into_iter().filter_map(|output| match output {
            Output::Media(MediaCommand::Beep { leg }) => Some(leg),
            _ => None,
        });
        beeps.collect::<Vec<_>>()
    };
    let (_, agent, _) = house.coached(Activity::ListenIn);
    assert_eq!(beeped(&mut house), [agent]);
    house.monitor(Activity::Coach, Mode::AllCalls, Scope::Call).expect("accepted");
    assert_eq!(beeped(&mut house), [], "he knows already");
    let call = house.call_id();
    let single = TransferStep::SingleStep { destination: "5002".into() };
    step(&mut house, &call, single).expect("accepted");
    let next = house.ringing(OTHER);
    house.answer(next);
    assert_eq!(beeped(&mut house), [next]);
}

#[test]
fn a_conference_has_room_for_eight() {
    let mut house = House::with(
        B2buaConfig { max_calls_per_device: 20, ..B2buaConfig::default() },
        RestoredCalls::default(),
    );
    house.talk();
    let call = house.call_id();
    let mut add = |number: String| {
        let step = TransferStep::SingleStep { destination: number.as_str().into() };
        conference(&mut house, &call, step).map(|()| {
            let is_new =
                |line: &&super::house::Line| line.outgoing && !line.answered && !line.ended;
            let leg = house.lines.values().find(is_new).expect("called").leg;
            house.answer(leg);
        })
    };
    for n in 1..=6 {
        add(format!("0{n}")).expect("there is room");
    }
    assert_eq!(add("07".to_owned()).expect_err("full").reason, Reason::InvalidState);
    let talk = |party: &&PartyFact| party.state == LegState::Established;
    assert_eq!(house.calls[&call].parties.iter().filter(talk).count(), 8);
}
