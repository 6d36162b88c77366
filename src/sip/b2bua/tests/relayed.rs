//! G.729: relayed between two parties that have nothing else in common, joined by nobody.

use super::harness::{AGENT, CUSTOMER, Harness, OTHER, SUPERVISOR, codecs_of, sdp};
use crate::media::{Codec, MediaCommand};
use crate::model::{
    Activity, CallId, Command, FeatureCode, LegState, Mode, MonitorState, Reason, Refusal, Scope,
    TransferStep,
};
use crate::sip::b2bua::{B2buaConfig, FeatureCodeConfig, Output, RestoredCalls};
use crate::sip::leg::{LegCommand, LegEvent, LegId, LegSource};

const NOBODY_JOINS: &str = "The sound of the call is in G.729, which is relayed without being \
                            decoded: nobody else can join it.";

/// With what it says of annex B.
fn g729(annex_b: &str) -> Vec<u8> {
    let mut body = sdp(4000, "18 101", "sendrecv");
    body.extend(format!("a=fmtp:18 annexb={annex_b}\r\n").bytes());
    body
}

fn customer_calls(harness: &mut Harness, types: &str) -> LegId {
    let offer = Some(sdp(4000, types, "sendrecv"));
    harness.incoming(LegSource::Account(CUSTOMER.into()), "5001", offer)
}

fn answers(harness: &mut Harness, leg: LegId, types: &str) {
    harness.leg(LegEvent::Answered { leg, media: sdp(5000, types, "sendrecv") });
}

/// The customer, who has G.729 alone, talks to the agent.
fn relayed(harness: &mut Harness) -> (LegId, LegId) {
    let customer = customer_calls(harness, "18 101");
    let agent = harness.ringing(AGENT);
    answers(harness, agent, "18 101");
    (customer, agent)
}

fn said(harness: &mut Harness, leg: LegId) -> String {
    String::from_utf8(harness.line(leg).last_sdp.clone()).unwrap()
}

fn codecs(harness: &mut Harness, leg: LegId) -> Vec<Codec> {
    codecs_of(&harness.line(leg).last_sdp)
}

/// The codec that the engine was told last of a leg.
fn described(harness: &Harness, leg: LegId) -> Option<Codec> {
    harness.log.iter().rev().find_map(|output| match output {
        Output::Media(MediaCommand::Describe { leg: of, media, .. }) if *of == leg => {
            Some(media.codec)
        }
        _ => None,
    })
}

fn rejected(harness: &mut Harness, leg: LegId) -> Option<u16> {
    harness.leg_commands().into_iter().find_map(|command| match command {
        LegCommand::Reject { leg: of, status } if of == leg => Some(status),
        LegCommand::RefuseOffer { leg: of, fault } if of == leg => {
            assert_eq!(fault.error.to_string(), "no common codec");
            Some(488)
        }
        _ => None,
    })
}

fn single(harness: &mut Harness, destination: &str) -> Result<(), Refusal> {
    let step =
        TransferStep::SingleStep { destination: destination.into(), user_data: Default::default() };
    let call = harness.call_id();
    harness.command(Command::Transfer { device: AGENT.into(), call, step })
}

fn transfer(harness: &mut Harness, call: &CallId, step: TransferStep) -> Result<(), Refusal> {
    harness.command(Command::Transfer { device: AGENT.into(), call: call.clone(), step })
}

#[test]
fn a_caller_with_g729_alone_is_connected_to_a_phone_that_has_it() {
    let mut harness = Harness::new();
    let customer = customer_calls(&mut harness, "18 101");
    let agent = harness.ringing(AGENT);
    assert_eq!(codecs(&mut harness, agent), [Codec::G729], "no transcoding exists");
    answers(&mut harness, agent, "18 101");
    assert_eq!(codecs(&mut harness, customer), [Codec::G729]);
    assert!(said(&mut harness, customer).contains("telephone-event/8000"));
    for leg in [customer, agent] {
        assert_eq!(described(&harness, leg), Some(Codec::G729));
    }
    assert_eq!(harness.table(&[("c", customer), ("a", agent)]), "ca ac");
    harness.hangs_up(customer);
    harness.assert_empty();
}

#[test]
fn g729_beside_what_can_be_mixed_is_neither_taken_nor_offered_on() {
    let mut harness = Harness::new();
    let customer = customer_calls(&mut harness, "18 8 101");
    let agent = harness.ringing(AGENT);
    assert_eq!(codecs(&mut harness, agent), [Codec::Pcma, Codec::Pcmu]);
    answers(&mut harness, agent, "8 101");
    assert_eq!(codecs(&mut harness, customer), [Codec::Pcma]);
    // A phone that is called with nothing known of the other side is not offered it either.
    let mut harness = Harness::new();
    let caller = harness.incoming(LegSource::Account(CUSTOMER.into()), "5001", None);
    let agent = harness.ringing(AGENT);
    assert!(!codecs(&mut harness, agent).contains(&Codec::G729));
    harness.answer(agent);
    assert!(!codecs(&mut harness, caller).contains(&Codec::G729));
}

#[test]
fn annex_b_that_one_side_rules_out_is_ruled_out_for_the_other() {
    for (theirs, answered) in [("yes", "yes"), ("yes", "no"), ("no", "no"), ("no", "yes")] {
        let mut harness = Harness::new();
        let source = LegSource::Account(CUSTOMER.into());
        let customer = harness.incoming(source, "5001", Some(g729(theirs)));
        let agent = harness.ringing(AGENT);
        let offered = format!("a=fmtp:18 annexb={theirs}\r\n");
        assert!(said(&mut harness, agent).contains(&offered), "{theirs}");
        harness.leg(LegEvent::Answered { leg: agent, media: g729(answered) });
        let both = if (theirs, answered) == ("yes", "yes") { "yes" } else { "no" };
        let told = format!("a=fmtp:18 annexb={both}\r\n");
        assert!(said(&mut harness, customer).contains(&told), "{theirs} and {answered}");
    }
}

#[test]
fn a_phone_without_g729_refuses_and_its_caller_is_told_488() {
    let mut harness = Harness::new();
    let customer = customer_calls(&mut harness, "18 101");
    let leg = harness.ringing(AGENT);
    harness.leg(LegEvent::Refused { leg, status: 488 });
    assert_eq!(rejected(&mut harness, customer), Some(488));
    harness.assert_empty();
    // Or it answers with what it was not offered.
    let customer = customer_calls(&mut harness, "18 101");
    let leg = harness.ringing(AGENT);
    answers(&mut harness, leg, "0 101");
    assert_eq!(rejected(&mut harness, customer), Some(488));
    harness.assert_empty();
}

#[test]
fn a_trunk_that_may_not_use_it_is_not_called() {
    let mut harness = Harness::new();
    let offer = Some(sdp(4000, "18 101", "sendrecv"));
    harness.log.clear();
    let caller = harness.incoming(LegSource::Account(AGENT.into()), "0812", offer);
    let commands = harness.leg_commands();
    let [LegCommand::Reject { leg, status: 488 }] = &commands[..] else { panic!("{commands:?}") };
    assert_eq!(*leg, caller);
    harness.assert_empty();
}

#[test]
fn another_branch_with_another_codec_than_that_of_the_early_media_ends_the_call() {
    let mut harness = Harness::new();
    let (customer, agent) = relayed(&mut harness);
    let call = harness.call_id();
    // A consultation is offered both.
    let step = TransferStep::Initiate { destination: "5002".into(), user_data: Default::default() };
    transfer(&mut harness, &call, step).unwrap();
    let asking = harness.ringing(AGENT);
    assert_eq!(codecs(&mut harness, asking), [Codec::G729, Codec::Pcmu, Codec::Pcma]);
    answers(&mut harness, asking, "18 101");
    let colleague = harness.ringing(OTHER);
    assert_eq!(codecs(&mut harness, colleague), [Codec::G729]);
    answers(&mut harness, colleague, "0 101");
    assert!(harness.line(colleague).ended && harness.line(asking).ended);
    assert!(!harness.line(customer).ended && !harness.line(agent).ended);
}

#[test]
fn nobody_listens_coaches_or_barges_in_and_the_monitor_waits_for_the_next_call() {
    for activity in [Activity::ListenIn, Activity::Coach, Activity::BargeIn] {
        for is_armed_before in [true, false] {
            let mut harness = Harness::new();
            if is_armed_before {
                harness.monitor(activity, Mode::NextCall, Scope::Call).unwrap();
            }
            let (customer, agent) = relayed(&mut harness);
            if !is_armed_before {
                harness.monitor(activity, Mode::NextCall, Scope::Call).unwrap();
            }
            let failure = harness.failures.pop().expect("told");
            assert_eq!(failure.device, SUPERVISOR.into());
            assert_eq!(failure.call, Some(harness.call_id()));
            assert_eq!(failure.refusal.reason, Reason::InvalidState);
            assert_eq!(failure.refusal.to_string(), NOBODY_JOINS);
            assert!(harness.failures.is_empty(), "once");
            let told = harness
                .log
                .iter()
                .filter(|output| matches!(output, Output::Relayed { codec: Codec::G729, .. }));
            assert_eq!(told.count(), 1);
            assert_eq!(harness.find_ringing(SUPERVISOR), None);
            assert_eq!(harness.monitors[SUPERVISOR].state, MonitorState::Armed);
            assert_eq!(harness.table(&[("c", customer), ("a", agent)]), "ca ac");
            harness.hangs_up(customer);

            harness.talk();
            let supervisor = harness.ringing(SUPERVISOR);
            harness.answer(supervisor);
            let state = &harness.monitors[SUPERVISOR].state;
            assert!(matches!(state, MonitorState::Joined { .. }), "{state:?}");
        }
    }
}

#[test]
fn who_confirms_joins_is_not_asked_about_a_call_that_cannot_be_joined() {
    let mut harness = Harness::new();
    relayed(&mut harness);
    let start = Command::StartMonitoring {
        supervisor: SUPERVISOR.into(),
        target: AGENT.into(),
        activity: Activity::Coach,
        mode: Mode::AllCalls,
        scope: Scope::Call,
        confirm_joins: true,
        agent_side_only: false,
    };
    harness.command(start).unwrap();
    assert!(harness.asked.is_empty());
    assert_eq!(harness.failures.pop().expect("told").refusal.to_string(), NOBODY_JOINS);
    assert_eq!(harness.monitors[SUPERVISOR].state, MonitorState::Armed);
}

#[test]
fn a_feature_code_for_such_a_call_is_refused_at_the_phone_and_so_is_a_phone_with_g729_alone() {
    let feature_codes = FeatureCodeConfig { enabled: true, ..FeatureCodeConfig::default() };
    let config = B2buaConfig { feature_codes, ..B2buaConfig::default() };
    let mut harness = Harness::with(config, RestoredCalls::default());
    relayed(&mut harness);
    let source = || LegSource::Account(SUPERVISOR.into());
    let alone = harness.incoming(source(), "*815001", Some(sdp(6000, "18 101", "sendrecv")));
    assert_eq!(rejected(&mut harness, alone), Some(488));
    assert!(harness.dialled.is_empty());

    let leg = harness.incoming(source(), "*815001", Some(sdp(6000, "18 0 101", "sendrecv")));
    let dialled = harness.dialled.pop().expect("told");
    let FeatureCode::Start { activity, mode, scope, .. } = dialled.code else { panic!() };
    let command = Command::StartMonitoring {
        supervisor: SUPERVISOR.into(),
        target: AGENT.into(),
        activity,
        mode,
        scope,
        confirm_joins: false,
        agent_side_only: false,
    };
    harness.answer_code(Some(&dialled.id), command).unwrap();
    let text = harness.leg_commands().into_iter().find_map(|command| match command {
        LegCommand::Refuse { leg: of, text, .. } if of == leg => Some(text),
        _ => None,
    });
    assert_eq!(text.as_deref(), Some(NOBODY_JOINS));
}

#[test]
fn a_re_invite_to_what_the_other_does_not_have_is_refused_and_the_call_stays() {
    for (call, to) in [("18 101", "0 8 101"), ("0 8 101", "18 101")] {
        let mut harness = Harness::new();
        let customer = customer_calls(&mut harness, call);
        let agent = harness.ringing(AGENT);
        answers(&mut harness, agent, call);
        let was = described(&harness, agent);
        harness.log.clear();
        let media = Some(sdp(5000, to, "sendrecv"));
        harness.leg(LegEvent::Offered { leg: agent, media });
        assert_eq!(described(&harness, agent), None, "{to}");
        assert_eq!(rejected(&mut harness, agent), Some(488), "{to}");
        assert_eq!(harness.table(&[("c", customer), ("a", agent)]), "ca ac");
        // With both it stays as it is; a hold is one like any other.
        let media = Some(sdp(5000, "0 8 18 101", "sendonly"));
        harness.leg(LegEvent::Offered { leg: agent, media });
        assert_eq!(described(&harness, agent), was);
        assert_eq!(harness.state_of(AGENT), LegState::Held);
        let media = Some(sdp(5000, "0 8 18 101", "sendrecv"));
        harness.leg(LegEvent::Offered { leg: agent, media });
        assert_eq!(harness.state_of(AGENT), LegState::Established);
        // Without an offer it is asked for what it has.
        harness.leg(LegEvent::Offered { leg: agent, media: None });
        assert_eq!(codecs(&mut harness, agent).contains(&Codec::G729), was == Some(Codec::G729));
    }
}

#[test]
fn a_transfer_to_a_phone_without_g729_leaves_the_call_as_it_was_and_to_one_with_it_is_done() {
    let mut harness = Harness::new();
    let (customer, agent) = relayed(&mut harness);
    // A trunk that may not use it is not even called.
    let refusal = single(&mut harness, "0812").unwrap_err();
    assert_eq!(refusal.to_string(), "Number '0812' has no codec in common with the call.");

    let refer =
        LegEvent::Referred { leg: agent, to: "5002".into(), replaces: None, is_secure: false };
    harness.leg(refer.clone());
    let next = harness.ringing(OTHER);
    assert_eq!(codecs(&mut harness, next), [Codec::G729]);
    harness.leg(LegEvent::Refused { leg: next, status: 488 });
    assert_eq!(harness.told_referrer(agent), [488]);
    assert_eq!(harness.table(&[("c", customer), ("a", agent)]), "ca ac");

    harness.leg(refer);
    let next = harness.ringing(OTHER);
    answers(&mut harness, next, "18 101");
    assert_eq!(harness.table(&[("c", customer), ("a", agent), ("n", next)]), "cn nc");
}

#[test]
fn no_third_party_comes_to_a_call_that_cannot_be_mixed() {
    let mut harness = Harness::new();
    let (customer, agent) = relayed(&mut harness);
    let call = harness.call_id();
    let step =
        TransferStep::SingleStep { destination: "5002".into(), user_data: Default::default() };
    let command = Command::Conference { device: AGENT.into(), call, step };
    assert_eq!(harness.command(command).unwrap_err().to_string(), NOBODY_JOINS);
    assert_eq!(harness.find_ringing(OTHER), None);
    assert_eq!(harness.table(&[("c", customer), ("a", agent)]), "ca ac");
}

#[test]
fn two_calls_become_one_where_both_are_in_g729_and_stay_two_where_one_is_not() {
    for (types, is_joined) in [("18 101", true), ("0 101", false)] {
        let mut harness = Harness::new();
        let (customer, agent) = relayed(&mut harness);
        let call = harness.call_id();
        let step =
            TransferStep::Initiate { destination: "5002".into(), user_data: Default::default() };
        transfer(&mut harness, &call, step).unwrap();
        let asking = harness.ringing(AGENT);
        answers(&mut harness, asking, types);
        let colleague = harness.ringing(OTHER);
        answers(&mut harness, colleague, types);
        let conference = Command::Conference {
            device: AGENT.into(),
            call: call.clone(),
            step: TransferStep::Complete,
        };
        assert!(harness.command(conference).is_err());
        let done = transfer(&mut harness, &call, TransferStep::Complete);
        let table = harness.table(&[("c", customer), ("a", agent), ("n", colleague)]);
        match is_joined {
            true => assert_eq!((done, table.as_str()), (Ok(()), "cn nc")),
            false => {
                let refusal = done.unwrap_err();
                assert_eq!(refusal.to_string(), "The two calls have no codec in common.");
                assert!(!harness.line(colleague).ended && !harness.line(customer).ended);
                assert!(!harness.line(agent).ended && !harness.line(asking).ended);
            }
        }
    }
}

#[test]
fn a_phone_that_asks_a_colleague_by_itself_keeps_the_codec_of_its_call_where_the_colleague_has_it()
{
    for (types, taken) in [("18 101", Codec::G729), ("0 101", Codec::Pcmu)] {
        let mut harness = Harness::new();
        let (_, agent) = relayed(&mut harness);
        let media = Some(sdp(5000, "18 101", "sendonly"));
        harness.leg(LegEvent::Offered { leg: agent, media });
        let offer = Some(sdp(5002, "0 18 101", "sendrecv"));
        let asking = harness.incoming(LegSource::Account(AGENT.into()), "5002", offer);
        let colleague = harness.ringing(OTHER);
        assert_eq!(codecs(&mut harness, colleague), [Codec::G729, Codec::Pcmu, Codec::Pcma]);
        answers(&mut harness, colleague, types);
        assert_eq!(codecs(&mut harness, asking), [taken]);
    }
}

#[test]
fn whoever_takes_the_place_of_a_leg_has_its_codec_or_is_refused() {
    let mut harness = Harness::new();
    let (customer, agent) = relayed(&mut harness);
    let source = || LegSource::Account(AGENT.into());
    let refused = harness.replaces(source(), agent, Some(sdp(5002, "0 8 101", "sendrecv")));
    assert_eq!(rejected(&mut harness, refused), Some(488));
    assert_eq!(harness.table(&[("c", customer), ("a", agent)]), "ca ac");
    let next = harness.replaces(source(), agent, Some(sdp(5002, "0 18 101", "sendrecv")));
    assert_eq!(codecs(&mut harness, next), [Codec::G729]);
    assert_eq!(harness.table(&[("c", customer), ("n", next)]), "cn nc");
}

#[test]
fn a_phone_that_answers_with_several_codecs_is_taken_at_its_first() {
    for (types, taken) in [("18 0 101", Codec::G729), ("0 18 101", Codec::Pcmu)] {
        let mut harness = Harness::new();
        relayed(&mut harness);
        let call = harness.call_id();
        let step =
            TransferStep::Initiate { destination: "5002".into(), user_data: Default::default() };
        transfer(&mut harness, &call, step).unwrap();
        let asking = harness.ringing(AGENT);
        answers(&mut harness, asking, types);
        assert_eq!(described(&harness, asking), Some(taken), "what it sends: {types}");
    }
}

#[test]
fn what_a_caller_without_an_offer_may_use_counts_where_its_call_is_sent_on() {
    let mut harness = Harness::new();
    let may_use = |harness: &mut Harness, trunk: &str, codec: Codec| {
        harness.trunks.iter_mut().find(|route| route.name == trunk).unwrap().codecs = vec![codec];
        harness.move_behind(SUPERVISOR, "mute");
    };
    may_use(&mut harness, "city", Codec::G729);
    let caller = harness.incoming(LegSource::Trunk("a-law".into()), "5001", None);
    let agent = harness.ringing(AGENT);
    harness.log.clear();
    let to = vec!["0301".into()];
    harness.leg(LegEvent::Redirected { leg: agent, status: 302, to });
    // The number is behind a trunk with G.729 alone, and the caller comes by one that has A-law
    // alone.
    let commands = harness.leg_commands();
    assert!(
        !commands.iter().any(|command| matches!(command, LegCommand::Invite { .. })),
        "{commands:?}"
    );
    assert!(harness.line(caller).ended);
    harness.assert_empty();
}

#[test]
fn a_feature_code_without_an_offer_is_refused_where_g729_alone_may_be_used() {
    let feature_codes = FeatureCodeConfig { enabled: true, ..FeatureCodeConfig::default() };
    let config = B2buaConfig { feature_codes, ..B2buaConfig::default() };
    let mut harness = Harness::with(config, RestoredCalls::default());
    let city = harness.trunks.iter_mut().find(|route| route.name == "city").unwrap();
    city.codecs = vec![Codec::G729];
    harness.move_behind(SUPERVISOR, "city");
    let leg = harness.incoming(LegSource::Account(SUPERVISOR.into()), "*815001", None);
    assert!(harness.dialled.is_empty(), "nothing can be made for it to hear");
    assert_eq!(rejected(&mut harness, leg), Some(488));
}

#[test]
fn a_supervisor_with_g729_alone_is_told_why_it_cannot_join_a_call_that_is_mixed() {
    let mut harness = Harness::new();
    let city = harness.trunks.iter_mut().find(|route| route.name == "city").unwrap();
    city.codecs = vec![Codec::G729];
    harness.move_behind(SUPERVISOR, "city");
    harness.talk();
    harness.monitor(Activity::Coach, Mode::NextCall, Scope::Call).unwrap();
    let failure = harness.failures.pop().expect("told");
    assert_eq!(
        failure.refusal.to_string(),
        "Device 'supervisor' has no codec in common with the call."
    );
    assert_eq!(failure.refusal.reason, Reason::InvalidState);
}

#[test]
fn a_transfer_while_it_rings_comes_to_nothing_where_the_colleague_answers_in_another_codec() {
    let mut harness = Harness::new();
    let (customer, agent) = relayed(&mut harness);
    let call = harness.call_id();
    let step = TransferStep::Initiate { destination: "5002".into(), user_data: Default::default() };
    transfer(&mut harness, &call, step).unwrap();
    let asking = harness.ringing(AGENT);
    // In what can be mixed: the colleague is not offered G.729.
    answers(&mut harness, asking, "0 101");
    let colleague = harness.ringing(OTHER);
    assert!(transfer(&mut harness, &call, TransferStep::Complete).is_err());
    assert!(!harness.line(customer).ended && !harness.line(agent).ended);
    assert!(!harness.line(asking).ended && !harness.line(colleague).ended);

    // The phone has asked by itself, with both, and no early media: there is no codec yet.
    let mut harness = Harness::new();
    let (customer, agent) = relayed(&mut harness);
    let call = harness.call_id();
    let media = Some(sdp(5000, "18 101", "sendonly"));
    harness.leg(LegEvent::Offered { leg: agent, media });
    let offer = Some(sdp(5002, "0 18 101", "sendrecv"));
    harness.incoming(LegSource::Account(AGENT.into()), "5002", offer);
    let colleague = harness.ringing(OTHER);
    transfer(&mut harness, &call, TransferStep::Complete).unwrap();
    answers(&mut harness, colleague, "0 101");
    assert!(harness.line(colleague).ended);
    assert!(!harness.line(customer).ended && !harness.line(agent).ended);
    assert_eq!(harness.failures.pop().expect("told").device, AGENT.into());
    let media = Some(sdp(5000, "18 101", "sendrecv"));
    harness.leg(LegEvent::Offered { leg: agent, media });
    assert_eq!(harness.table(&[("c", customer), ("a", agent)]), "ca ac");
}

#[test]
fn a_call_that_is_mixed_and_coached_is_never_joined_with_a_colleague_in_g729() {
    let mut harness = Harness::new();
    let (customer, agent) = harness.talk();
    let call = harness.call_id();
    harness.monitor(Activity::Coach, Mode::NextCall, Scope::Call).unwrap();
    let supervisor = harness.ringing(SUPERVISOR);
    harness.answer(supervisor);
    let media = Some(sdp(5000, "0 101", "sendonly"));
    harness.leg(LegEvent::Offered { leg: agent, media });
    // A second line that has G.729 alone, before and after the colleague has answered.
    let offer = || Some(sdp(5002, "18 101", "sendrecv"));
    let asking = harness.incoming(LegSource::Account(AGENT.into()), "5002", offer());
    let colleague = harness.ringing(OTHER);
    assert_eq!(codecs(&mut harness, colleague), [Codec::G729]);
    answers(&mut harness, colleague, "18 101");
    assert!(transfer(&mut harness, &call, TransferStep::Complete).is_err());
    harness.hangs_up(asking);

    harness.incoming(LegSource::Account(AGENT.into()), "5002", offer());
    let colleague = harness.ringing(OTHER);
    let done = transfer(&mut harness, &call, TransferStep::Complete);
    answers(&mut harness, colleague, "18 101");
    for leg in [customer, supervisor] {
        assert_eq!(described(&harness, leg), Some(Codec::Pcmu), "{done:?}");
    }
    assert!(harness.line(colleague).ended, "{done:?}");
    assert!(!harness.line(customer).ended);
}
