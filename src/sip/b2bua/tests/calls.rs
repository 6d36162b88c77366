//! Calls between two, and what their callers are told.

use super::house::{AGENT, CUSTOMER, House, OTHER, codecs_of, sdp};
use crate::media::{Codec, Expected, Format, LegMedia, MediaCommand, MediaEvent};
use crate::model::{CallType, Command, Fact, LegState, PartyFact, PartyRole, Quality, Reason};
use crate::sip::b2bua::{B2buaConfig, Output, RestoredCalls};
use crate::sip::config::Nat;
use crate::sip::leg::{
    Destination, EndReason, LegCommand, LegEvent, LegId, LegSource, PassedHeader,
};
use crate::sip::sdp::SdpError;
use std::net::SocketAddr;
use std::time::Duration;

fn rejected(house: &mut House) -> Vec<u16> {
    house
        .leg_commands()
        .into_iter()
        .filter_map(|command| match command {
            LegCommand::Reject { status, .. } => Some(status),
            LegCommand::RefuseOffer { .. } => Some(488),
            _ => None,
        })
        .collect()
}

fn dial(device: &str, destination: &str) -> Command {
    Command::Dial { device: device.into(), destination: destination.into() }
}

fn forward(device: &str, to: Option<&str>) -> Command {
    Command::SetForwarding { device: device.into(), to: to.map(Into::into) }
}

#[test]
fn a_customer_calls_an_agent_they_talk_and_nothing_is_left() {
    let mut house = House::new();
    let customer = house.customer_calls("5001");
    let agent = house.ringing(AGENT);
    assert_eq!(house.only_call().call_type, CallType::Inbound);
    assert_eq!(
        (house.state_of(CUSTOMER), house.state_of(AGENT)),
        (LegState::Dialing, LegState::Ringing)
    );

    house.leg(LegEvent::Progress { leg: agent, status: 180, media: None });
    house.log.clear();
    house.answer(agent);
    let commands = house.leg_commands();
    let [LegCommand::Accept { leg, media }] = &commands[..] else { panic!("{commands:?}") };
    assert_eq!((*leg, codecs_of(media)), (customer, vec![Codec::Pcmu]));
    assert_eq!(house.table(&[("c", customer), ("a", agent)]), "ca ac");
    let roles: Vec<_> = house.only_call().parties.iter().map(|party| party.role).collect();
    assert_eq!(roles, [PartyRole::Customer, PartyRole::Agent]);

    house.hangs_up(customer);
    assert_eq!(house.leg_commands(), [LegCommand::Hangup { leg: agent, reason: None }]);
    house.assert_empty();
}

#[test]
fn the_callee_is_offered_the_callers_codecs_in_the_callers_order() {
    let mut house = House::new();
    house.incoming(
        LegSource::Account(CUSTOMER.into()),
        "5001",
        Some(sdp(4000, "8 0 101", "sendrecv")),
    );
    let agent = house.ringing(AGENT);
    assert_eq!(codecs_of(&house.lines[&agent].last_sdp), [Codec::Pcma, Codec::Pcmu]);
}

#[test]
fn a_caller_and_a_callee_without_a_common_codec_talk_transcoded() {
    let mut house = House::new();
    let customer = house.incoming(
        LegSource::Account(CUSTOMER.into()),
        "5001",
        Some(sdp(4000, "8 101", "sendrecv")),
    );
    let agent = house.ringing(AGENT);
    assert_eq!(codecs_of(&house.lines[&agent].last_sdp), [Codec::Pcma, Codec::Pcmu]);
    house.log.clear();
    house.leg(LegEvent::Answered { leg: agent, media: sdp(5001, "0 101", "sendrecv") });
    let codecs = house.log.iter().filter_map(|output| match output {
        Output::Media(MediaCommand::Describe { leg, media, .. }) => Some((*leg, media.codec)),
        _ => None,
    });
    assert_eq!(codecs.collect::<Vec<_>>(), [(agent, Codec::Pcmu), (customer, Codec::Pcma)]);
    assert_eq!(codecs_of(&house.lines[&customer].last_sdp), [Codec::Pcma]);
    assert_eq!(house.table(&[("c", customer), ("a", agent)]), "ca ac");
}

#[test]
fn a_trunk_is_offered_and_taken_at_the_codecs_it_may_use() {
    let mut house = House::new();
    house.incoming(LegSource::Account(AGENT.into()), "0800", Some(sdp(4000, "0", "sendrecv")));
    let out = *house.lines.keys().min().expect("two legs");
    assert_eq!(codecs_of(&house.lines[&out].last_sdp), [Codec::Pcma]);
    house.log.clear();
    house.incoming(LegSource::Trunk("a-law".into()), "5001", Some(sdp(4000, "0", "sendrecv")));
    assert_eq!(rejected(&mut house), [488]);
}

#[test]
fn both_legs_of_a_call_speak_the_codec_that_the_callee_chose() {
    let mut house = House::new();
    house.incoming(LegSource::Account(CUSTOMER.into()), "5001", Some(sdp(4000, "8 0", "sendrecv")));
    let agent = house.ringing(AGENT);
    house.answer(agent);
    let codecs: Vec<_> = house
        .log
        .iter()
        .filter_map(|output| match output {
            Output::Media(MediaCommand::Describe { media, .. }) => Some(media.codec),
            _ => None,
        })
        .collect();
    assert_eq!(codecs, [Codec::Pcmu, Codec::Pcmu]);
}

#[test]
fn early_media_reaches_the_caller_and_the_final_answer_repeats_the_early_one() {
    let mut house = House::new();
    let customer = house.customer_calls("5001");
    let agent = house.ringing(AGENT);
    house.log.clear();
    house.leg(LegEvent::Progress {
        leg: agent,
        status: 183,
        media: Some(sdp(5000, "0", "sendrecv")),
    });
    let commands = house.leg_commands();
    let [LegCommand::Provisional { status: 183, media: Some(early), .. }] = &commands[..] else {
        panic!("{commands:?}")
    };
    assert!(house.hears(customer, agent));
    house.answer(agent);
    assert_eq!(house.leg_commands(), [LegCommand::Accept { leg: customer, media: early.clone() }]);
    assert_eq!(house.table(&[("c", customer), ("a", agent)]), "ca ac");
}

#[test]
fn a_caller_without_an_offer_is_made_one_and_answers_in_his_ack() {
    let mut house = House::new();
    let customer = house.incoming(LegSource::Account(CUSTOMER.into()), "5001", None);
    let agent = house.ringing(AGENT);
    house.log.clear();
    house.leg(LegEvent::Answered { leg: agent, media: sdp(5000, "8 0", "sendrecv") });
    let commands = house.leg_commands();
    let [LegCommand::Accept { media, .. }] = &commands[..] else { panic!("{commands:?}") };
    assert_eq!(codecs_of(media), [Codec::Pcma, Codec::Pcmu]);
    assert!(!house.hears(agent, customer));
    house.leg(LegEvent::Confirmed { leg: customer, media: Some(sdp(4000, "8", "sendrecv")) });
    assert_eq!(house.table(&[("c", customer), ("a", agent)]), "ca ac");
}

#[test]
fn an_ack_without_the_answer_it_owes_ends_the_call() {
    let mut house = House::new();
    let customer = house.incoming(LegSource::Account(CUSTOMER.into()), "5001", None);
    let agent = house.ringing(AGENT);
    house.answer(agent);
    house.leg(LegEvent::Confirmed { leg: customer, media: None });
    house.assert_empty();
}

#[test]
fn ports_are_shared_where_it_is_known_whose_sound_comes_from_where() {
    let mut house = House::new();
    house.incoming(LegSource::Trunk("city".into()), "5001", Some(sdp(4000, "0", "sendrecv")));
    let offered = SocketAddr::from(([127, 0, 0, 1], 4000));
    assert_eq!(
        house.b2bua.environment.expected,
        [Expected::Offered(offered), Expected::Phone(AGENT.into())]
    );
    house.b2bua.environment.expected.clear();
    house.incoming(LegSource::Trunk("city".into()), "5002", None);
    assert_eq!(
        house.b2bua.environment.expected[0],
        Expected::Nothing,
        "a trunk that says nothing of it"
    );
    house.b2bua.environment.expected.clear();
    house.incoming(LegSource::Account(OTHER.into()), "0123", Some(sdp(4002, "0", "sendrecv")));
    assert_eq!(house.b2bua.environment.expected[1], Expected::Nothing, "a trunk that is called");
}

#[test]
fn who_is_behind_a_nat_or_is_to_have_ports_of_his_own_shares_none() {
    for (nat, own_ports) in [(Nat::Always, false), (Nat::Auto, true)] {
        let mut house = House::with_peers(
            B2buaConfig::default(),
            RestoredCalls::default(),
            |is_natted, has_own| {
                (*is_natted, *has_own) = (nat, own_ports);
            },
        );
        house.incoming(LegSource::Trunk("city".into()), "5001", Some(sdp(4000, "0", "sendrecv")));
        assert_eq!(house.b2bua.environment.expected, [Expected::Nothing, Expected::Nothing]);
    }
}

fn over_ipv6(sdp: Vec<u8>) -> Vec<u8> {
    let text = String::from_utf8(sdp).expect("text");
    text.replace("IP4 127.0.0.1", "IP6 ::1").into_bytes()
}

#[test]
fn where_phones_are_told_an_ipv6_address_one_with_ipv6_is_taken_and_one_with_ipv4_is_not() {
    let mut house = House::with(
        B2buaConfig { media_over_ipv6: true, ..B2buaConfig::default() },
        RestoredCalls::default(),
    );
    house.incoming(LegSource::Account(CUSTOMER.into()), "5001", Some(sdp(4000, "0", "sendrecv")));
    assert_eq!(rejected(&mut house), [488]);
    house.incoming(
        LegSource::Account(CUSTOMER.into()),
        "5001",
        Some(over_ipv6(sdp(4000, "0", "sendrecv"))),
    );
    house.ringing(AGENT);
    assert!(rejected(&mut house).is_empty());
}

#[test]
fn callers_are_told_404_480_482_486_488_and_503_where_each_is_right() {
    let mut house = House::new();
    house.customer_calls("9999");
    assert_eq!(rejected(&mut house), [404], "nobody has this number");
    house.customer_calls("0123");
    assert_eq!(rejected(&mut house), [403], "customers do not call out through us");
    house.incoming(LegSource::Account(CUSTOMER.into()), "5001", Some(sdp(4000, "18", "sendrecv")));
    assert_eq!(rejected(&mut house), [488], "no common codec");
    house.incoming(
        LegSource::Account(CUSTOMER.into()),
        "5001",
        Some(over_ipv6(sdp(4000, "0", "sendrecv"))),
    );
    assert_eq!(rejected(&mut house), [488], "an address that nothing of ours reaches");
    house.incoming(LegSource::Account(AGENT.into()), "5001", Some(sdp(4000, "0", "sendrecv")));
    assert_eq!(rejected(&mut house), [486], "he is on the line himself");

    house.leg(LegEvent::Registered { device: OTHER.into(), registered: false });
    house.customer_calls("5002");
    assert_eq!(rejected(&mut house), [480], "unregistered");
    house.command(Command::SetDoNotDisturb { device: AGENT.into(), on: true }).expect("accepted");
    house.customer_calls("5001");
    assert_eq!(rejected(&mut house), [486], "do not disturb");

    house.command(forward(AGENT, Some("5002"))).expect("accepted");
    house.command(forward(OTHER, Some("5001"))).expect("accepted");
    house.customer_calls("5001");
    assert_eq!(rejected(&mut house), [482], "forwarded in a circle");

    house.command(forward(AGENT, None)).expect("accepted");
    house.command(Command::SetDoNotDisturb { device: AGENT.into(), on: false }).expect("accepted");
    house.b2bua.environment.free = 1;
    house.customer_calls("5001");
    assert_eq!(rejected(&mut house), [503], "a port for one leg only");
    house.assert_empty();
}

#[test]
fn one_device_gets_no_more_calls_than_its_share_and_the_others_go_on() {
    let mut house = House::with(
        B2buaConfig { max_calls_per_device: 3, ..B2buaConfig::default() },
        RestoredCalls::default(),
    );
    let free = house.b2bua.environment.free;
    let calls: Vec<LegId> = (0..3).map(|_| house.customer_calls("5001")).collect();
    let taken = free - house.b2bua.environment.free;
    house.log.clear();
    house.customer_calls("5002");
    assert_eq!(rejected(&mut house), [503], "the customer has his share");
    house.incoming(LegSource::Trunk("city".into()), "5001", Some(sdp(4000, "0", "sendrecv")));
    assert_eq!(rejected(&mut house), [486], "the agent has his share");
    let refusal = house.command(dial(AGENT, "0123")).expect_err("his share");
    assert_eq!(refusal.reason, Reason::InvalidState);
    assert_eq!(free - house.b2bua.environment.free, taken, "a refused call takes no port");

    house.incoming(LegSource::Trunk("city".into()), "5002", Some(sdp(4000, "0", "sendrecv")));
    house.ringing(OTHER);
    house.hangs_up(calls[0]);
    house.log.clear();
    house.customer_calls("5001");
    assert!(rejected(&mut house).is_empty(), "a call that is over counts no more");
}

#[test]
fn a_trunk_gets_no_more_calls_than_it_may_have_both_ways() {
    let mut house = House::new();
    let offer = || Some(sdp(4000, "8", "sendrecv"));
    let first = house.incoming(LegSource::Trunk("a-law".into()), "5001", offer());
    house.incoming(LegSource::Account(AGENT.into()), "0800", offer());
    house.log.clear();
    house.incoming(LegSource::Trunk("a-law".into()), "5001", offer());
    house.incoming(LegSource::Account(OTHER.into()), "0800", offer());
    assert_eq!(rejected(&mut house), [503, 503]);
    house.hangs_up(first);
    house.log.clear();
    house.incoming(LegSource::Account(OTHER.into()), "0800", offer());
    assert!(rejected(&mut house).is_empty());
}

#[test]
fn what_the_callee_says_reaches_the_caller_as_what_it_means_to_him() {
    let told = |status| {
        let mut house = House::new();
        house.customer_calls("5001");
        let leg = house.ringing(AGENT);
        house.log.clear();
        house.leg(LegEvent::Refused { leg, status });
        let told = rejected(&mut house);
        house.assert_empty();
        told
    };
    for (status, expected) in [
        (486, 486),
        (603, 603),
        (600, 600),
        (404, 404),
        (488, 488),
        (480, 480),
        (408, 480),
        (302, 480),
        (401, 500),
        (503, 480),
    ] {
        assert_eq!(told(status), [expected], "{status}");
    }
}

#[test]
fn a_trunk_where_nobody_answers_at_all_is_503_to_the_caller_and_one_that_rang_out_480() {
    for (status, expected) in [(503, 503), (408, 480)] {
        let mut house = House::new();
        house.incoming(LegSource::Account(AGENT.into()), "0123", Some(sdp(4000, "0", "sendrecv")));
        let leg = *house.lines.keys().min().expect("two legs");
        house.log.clear();
        house.leg(LegEvent::Refused { leg, status });
        assert_eq!(rejected(&mut house), [expected]);
        house.assert_empty();
    }
}

#[test]
fn a_cancel_takes_the_callees_leg_with_it() {
    let mut house = House::new();
    let customer = house.customer_calls("5001");
    let agent = house.ringing(AGENT);
    house.log.clear();
    house.leg(LegEvent::Ended { leg: customer, reason: EndReason::Cancelled });
    assert_eq!(house.leg_commands(), [LegCommand::Hangup { leg: agent, reason: None }]);
    // The callee's 200 crosses the CANCEL.
    house.leg(LegEvent::Answered { leg: agent, media: sdp(5000, "0", "sendrecv") });
    house.assert_empty();
}

#[test]
fn a_busy_device_rings_again_unless_call_waiting_is_off() {
    let mut house = House::new();
    house.talk();
    house.incoming(LegSource::Trunk("city".into()), "5001", Some(sdp(4000, "0", "sendrecv")));
    house.ringing(AGENT);

    let config = B2buaConfig { call_waiting: false, ..B2buaConfig::default() };
    let mut house = House::with(config, RestoredCalls::default());
    house.talk();
    house.log.clear();
    house.incoming(LegSource::Trunk("city".into()), "5001", Some(sdp(4000, "0", "sendrecv")));
    assert_eq!(rejected(&mut house), [486]);
}

#[test]
fn a_forwarded_call_is_not_the_devices_call() {
    let mut house = House::new();
    house.command(forward(AGENT, Some("5002"))).expect("accepted");
    house.customer_calls("5001");
    house.ringing(OTHER);
    assert!(house.only_call().party_of(&AGENT.into()).is_none());
    assert_eq!(house.only_call().dnis.as_str(), "5001");
}

#[test]
fn a_device_may_send_its_calls_out_of_the_house() {
    let mut house = House::new();
    house.command(forward(AGENT, Some("0123"))).expect("accepted");
    house.customer_calls("5001");
    let commands = house.leg_commands();
    let [LegCommand::Invite { to: Destination::Trunk { name, number }, .. }] = &commands[..] else {
        panic!("{commands:?}")
    };
    assert_eq!((name.as_str(), number.as_str()), ("city", "0123"));
}

#[test]
fn what_was_set_on_a_device_survives_a_restart() {
    let mut house = House::new();
    house.command(forward(AGENT, Some("5002"))).expect("accepted");
    let kept = RestoredCalls {
        devices: house
            .log
            .iter()
            .filter_map(|output| match output {
                Output::Keep(crate::sip::b2bua::Persist::Device(device)) => Some(device.clone()),
                _ => None,
            })
            .collect(),
        monitors: Vec::new(),
    };
    let mut house = House::with(B2buaConfig::default(), kept);
    house.customer_calls("5001");
    house.ringing(OTHER);
}

#[test]
fn a_hold_at_the_phone_is_answered_and_shown_and_so_is_its_end() {
    let mut house = House::new();
    let (_, agent) = house.talk();
    house.log.clear();
    house.leg(LegEvent::Offered { leg: agent, media: Some(sdp(5000, "0", "sendonly")) });
    assert_eq!(house.state_of(AGENT), LegState::Held);
    let answer = String::from_utf8_lossy(&house.lines[&agent].last_sdp).into_owned();
    assert!(answer.contains("a=recvonly"), "{answer}");
    let refusal = house
        .command(Command::Retrieve { device: AGENT.into(), call: house.call_id() })
        .expect_err("his phone holds");
    assert_eq!(refusal.reason, Reason::InvalidState);
    house.leg(LegEvent::Offered { leg: agent, media: Some(sdp(5000, "0", "sendrecv")) });
    assert_eq!(house.state_of(AGENT), LegState::Established);
}

#[test]
fn a_hold_by_command_silences_both_ways_until_it_is_retrieved() {
    let mut house = House::new();
    let (customer, agent) = house.talk();
    let (device, call) = (crate::model::DeviceId::from(AGENT), house.call_id());
    let hold = Command::Hold { device: device.clone(), call: call.clone() };
    house.command(hold.clone()).expect("accepted");
    assert_eq!(house.table(&[("c", customer), ("a", agent)]), "");
    assert_eq!(house.state_of(AGENT), LegState::Held);
    assert_eq!(house.command(hold).expect_err("held already").reason, Reason::InvalidState);
    house.command(Command::Retrieve { device, call }).expect("accepted");
    assert_eq!(house.table(&[("c", customer), ("a", agent)]), "ca ac");
}

#[test]
fn where_holds_are_signalled_the_other_phone_is_told_sendonly_and_sendrecv_again() {
    let config = B2buaConfig { signal_hold: true, ..B2buaConfig::default() };
    let mut house = House::with(config, RestoredCalls::default());
    let (customer, agent) = house.talk();
    let direction = |house: &House| {
        let sdp = String::from_utf8_lossy(&house.lines[&customer].last_sdp).into_owned();
        sdp.lines().last().unwrap_or_default().to_owned()
    };
    house.leg(LegEvent::Offered { leg: agent, media: Some(sdp(5000, "0", "sendonly")) });
    assert_eq!(direction(&house), "a=sendonly");
    house.leg(LegEvent::OfferAnswered { leg: customer, media: sdp(4000, "0", "recvonly") });
    assert_eq!(
        (house.state_of(AGENT), house.state_of(CUSTOMER)),
        (LegState::Held, LegState::Established)
    );
    house.leg(LegEvent::Offered { leg: agent, media: Some(sdp(5000, "0", "sendrecv")) });
    assert_eq!(direction(&house), "a=sendrecv");
}

#[test]
fn a_muted_party_is_heard_by_nobody() {
    let mut house = House::new();
    let (customer, agent) = house.talk();
    let mute = |on, call| Command::Mute { device: AGENT.into(), call, on };
    let reason = |house: &mut House, on| {
        house.command(mute(on, house.call_id())).expect_err("it is so already").reason
    };
    assert_eq!(reason(&mut house, false), Reason::InvalidState);
    house.command(mute(true, house.call_id())).expect("accepted");
    assert_eq!(house.table(&[("c", customer), ("a", agent)]), "ac");
    assert_eq!(reason(&mut house, true), Reason::InvalidState);
    house.command(mute(false, house.call_id())).expect("accepted");
    assert_eq!(house.table(&[("c", customer), ("a", agent)]), "ca ac");
}

#[test]
fn dialling_brings_in_the_own_phone_first_and_then_the_destination() {
    let mut house = House::new();
    house.command(dial(AGENT, "0123")).expect("accepted");
    let own = house.ringing(AGENT);
    assert!(house.lines[&own].auto_answer);
    assert_eq!(house.lines.len(), 1);
    assert_eq!(
        (house.only_call().call_type, house.state_of(AGENT)),
        (CallType::Outbound, LegState::Dialing)
    );
    house.answer(own);
    assert_eq!(house.state_of(AGENT), LegState::Dialing);
    let destination = *house.lines.keys().max().expect("two legs");
    assert!(!house.lines[&destination].auto_answer);
    house.answer(destination);
    assert_eq!(house.state_of(AGENT), LegState::Established);
    assert_eq!(house.table(&[("o", own), ("d", destination)]), "od do");
    house.hangs_up(destination);
    house.assert_empty();
}

#[test]
fn who_dialled_is_told_that_nobody_could_be_had() {
    let mut house = House::new();
    house.command(dial(AGENT, "5002")).expect("accepted");
    let own = house.ringing(AGENT);
    house.answer(own);
    let other = house.ringing(OTHER);
    house.leg(LegEvent::Refused { leg: other, status: 486 });
    assert_eq!(house.failures.len(), 1);
    assert_eq!(house.failures[0].refusal.to_string(), "Number '5002' is busy.");
    house.assert_empty();
}

#[test]
fn a_dial_that_can_not_work_is_refused_at_once() {
    let mut house = House::new();
    assert_eq!(house.command(dial(AGENT, "9999")).expect_err("unknown").reason, Reason::NotFound);
    house.leg(LegEvent::Registered { device: AGENT.into(), registered: false });
    let refusal = house.command(dial(AGENT, "5002")).expect_err("unregistered");
    assert_eq!(
        (refusal.reason, &*refusal.text()),
        (Reason::Internal, "Device '5001' is not registered.")
    );
    house.assert_empty();
}

#[test]
fn a_ringing_call_can_be_answered_and_declined_by_command() {
    let mut house = House::new();
    house.customer_calls("5001");
    let (call, agent) = (house.call_id(), house.ringing(AGENT));
    let answer = Command::Answer { device: AGENT.into(), call: call.clone() };
    house.log.clear();
    house.command(answer.clone()).expect("accepted");
    assert_eq!(
        house.leg_commands(),
        [],
        "the phone has not said anything yet: there is no dialog to ask in"
    );
    house.leg(LegEvent::Progress { leg: agent, status: 180, media: None });
    assert_eq!(house.leg_commands()[0], LegCommand::AskToAnswer { leg: agent });
    house.command(answer).expect("accepted");
    assert_eq!(house.leg_commands(), [LegCommand::AskToAnswer { leg: agent }]);
    house.command(Command::Hangup { device: AGENT.into(), call }).expect("accepted");
    assert_eq!(rejected(&mut house), [486]);
    house.assert_empty();
}

#[test]
fn whoever_asked_a_phone_to_answer_that_will_not_is_told_and_it_rings_on() {
    let mut house = House::new();
    house.customer_calls("5001");
    let (call, agent) = (house.call_id(), house.ringing(AGENT));
    house.leg(LegEvent::Progress { leg: agent, status: 180, media: None });
    let answer = Command::Answer { device: AGENT.into(), call: call.clone() };
    for (status, text) in [(489, "can not be made to answer"), (408, "has not reacted")] {
        house.command(answer.clone()).expect("accepted");
        house.leg(LegEvent::AskToAnswerRefused { leg: agent, status });
        let failure = house.failures.pop().expect("told");
        assert_eq!((failure.device, failure.call.as_ref()), (AGENT.into(), Some(&call)));
        assert_eq!(failure.refusal.reason, Reason::InvalidState);
        assert!(failure.refusal.text().contains(text), "{}", failure.refusal);
    }
    assert_eq!(house.ringing(AGENT), agent);
    house.command(Command::Hangup { device: AGENT.into(), call }).expect("accepted");
    house.assert_empty();
    house.leg(LegEvent::AskToAnswerRefused { leg: agent, status: 408 });
    assert!(house.failures.is_empty(), "nobody waits for it any more");
}

#[test]
fn a_silent_phone_is_probed_and_one_that_is_gone_ends_the_call() {
    let mut house = House::new();
    let (customer, _) = house.talk();
    let before = house.lines[&customer].last_sdp.clone();
    house.media(MediaEvent::Inactive { leg: customer });
    assert!(house.lines[&customer].offered);
    assert_ne!(before, house.lines[&customer].last_sdp, "an offer has all our codecs");
    house.leg(LegEvent::OfferRefused { leg: customer, status: 481 });
    house.assert_empty();
}

#[test]
fn on_closing_no_call_comes_in_and_live_ones_end_when_grace_is_over() {
    let mut house = House::new();
    house.talk();
    house.log.clear();
    house.b2bua.close(Duration::from_secs(5), house.now);
    house.customer_calls("5002");
    assert_eq!(rejected(&mut house), [503]);
    assert!(!house.b2bua.is_idle());
    house.wait(Duration::from_secs(5));
    house.assert_empty();
}

#[test]
fn events_of_unknown_legs_are_ignored() {
    let mut house = House::new();
    house.b2bua.handle_leg(LegEvent::Ended { leg: LegId(77), reason: EndReason::Bye }, house.now);
    assert_eq!(house.b2bua.poll_output(), None);
}

#[test]
fn an_identity_goes_on_to_the_number_it_was_signed_for_and_not_to_where_that_is_forwarded() {
    let mut house = House::new();
    let passed_on = |house: &mut House| {
        house.log.clear();
        let passed = ["Identity", "Date", "User-to-User"]
            .map(|name| PassedHeader { name, value: b"x".to_vec() });
        let leg = house.incoming_with(LegSource::Trunk("city".into()), "5001", passed.into());
        let invited = house.leg_commands().into_iter().find_map(|command| match command {
            LegCommand::Invite { passed, .. } => {
                Some(passed.iter().map(|header| header.name).collect::<Vec<_>>())
            }
            _ => None,
        });
        house.hangs_up(leg);
        invited.expect("somebody is called")
    };
    assert_eq!(passed_on(&mut house), ["Identity", "Date", "User-to-User"]);
    let forward = Command::SetForwarding { device: AGENT.into(), to: Some("5002".into()) };
    house.command(forward).expect("accepted");
    assert_eq!(passed_on(&mut house), ["User-to-User"]);
}

fn quality(leg: LegId, packets_sent: u64) -> MediaEvent {
    MediaEvent::Quality { leg, quality: Quality { packets_sent, ..Quality::default() } }
}

/// Packets sent by leg, in every fact since the last look.
fn measured(house: &mut House) -> Vec<Vec<Option<u64>>> {
    let facts = std::mem::take(&mut house.log).into_iter().map(|output| match output {
        Output::Fact(Fact::Call(call)) => call,
        other => panic!("{other:?}"),
    });
    let packets = |party: &PartyFact| party.quality.map(|quality| quality.packets_sent);
    facts.map(|call| call.parties.iter().map(packets).collect()).collect()
}

#[test]
fn how_the_sound_of_a_leg_fares_is_told_at_first_and_then_every_ten_seconds() {
    let mut house = House::new();
    let (customer, agent) = house.talk();
    house.log.clear();
    house.media(quality(customer, 1));
    house.media(quality(agent, 2));
    assert_eq!(measured(&mut house), [[Some(1), None], [Some(1), Some(2)]]);
    for packets in 3..6 {
        house.media(quality(customer, packets));
        house.wait(Duration::from_secs(3));
    }
    assert_eq!(measured(&mut house), [[None; 2]; 0]);
    house.wait(Duration::from_secs(1));
    house.media(quality(customer, 5));
    assert_eq!(measured(&mut house), [[None; 2]; 0], "nothing is new");
    house.media(quality(agent, 6));
    assert_eq!(measured(&mut house), [[Some(5), Some(6)]]);
}

#[test]
fn how_the_sound_fares_goes_along_with_a_change_and_makes_none() {
    let mut house = House::new();
    let (customer, agent) = house.talk();
    house.media(quality(customer, 1));
    house.media(quality(customer, 2));
    let before = house.only_call().clone();
    house.log.clear();
    let hold = Command::Hold { device: AGENT.into(), call: before.id.clone() };
    house.command(hold).expect("accepted");
    let call = house.only_call();
    assert_eq!(call.parties[0].quality.map(|quality| quality.packets_sent), Some(2));
    assert!(!call.is_same_but_quality(&before));
    // Who has left is measured no more.
    house.leg(LegEvent::Ended { leg: agent, reason: EndReason::Bye });
    house.log.clear();
    house.media(quality(agent, 9));
    assert_eq!(measured(&mut house), [[None; 2]; 0]);
}

fn described(output: &Output) -> Option<LegMedia> {
    match output {
        Output::Media(MediaCommand::Describe { media, .. }) => Some(*media),
        _ => None,
    }
}

#[test]
fn an_ack_without_the_answer_to_a_re_invite_leaves_the_session_as_it_was() {
    let mut house = House::new();
    let (customer, agent) = house.talk();
    house.log.clear();
    house.leg(LegEvent::Offered { leg: customer, media: None });
    house.leg(LegEvent::Confirmed { leg: customer, media: None });
    let told: Vec<_> = house.log.iter().filter_map(described).collect();
    // What is offered may come at once; when it comes to nothing, what was agreed counts again.
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[0].receives.get(8), Some(Format::Audio(Codec::Pcma)));
    assert_eq!(told[1].receives.get(8), None);
    assert_eq!(told[1].receives.get(0), Some(Format::Audio(Codec::Pcmu)));
    assert!(house.hears(agent, customer) && house.hears(customer, agent));
    let commands = house.leg_commands();
    assert!(matches!(commands[..], [LegCommand::AnswerOffer { .. }]), "{commands:?}");
}

#[test]
fn an_answer_of_several_codecs_is_heard_in_each_and_sent_in_the_first() {
    let mut house = House::new();
    let customer = house.customer_calls("5001");
    let agent = house.ringing(AGENT);
    house.log.clear();
    house.leg(LegEvent::Answered { leg: agent, media: sdp(4000, "8 0 101", "sendrecv") });
    let media = house.log.iter().find_map(described).expect("described");
    assert_eq!((media.codec, media.payload_type), (Codec::Pcma, 8));
    assert_eq!(media.receives.get(0), Some(Format::Audio(Codec::Pcmu)));
    assert_eq!(media.receives.get(8), Some(Format::Audio(Codec::Pcma)));
    assert!(house.hears(customer, agent));
}

#[test]
fn an_answer_that_cannot_be_used_is_told_to_the_log_with_its_line() {
    let mut house = House::new();
    house.customer_calls("5001");
    let agent = house.ringing(AGENT);
    house.log.clear();
    house.leg(LegEvent::Answered { leg: agent, media: sdp(4000, "18", "sendrecv") });
    let told = house.log.iter().find_map(|output| match output {
        Output::Unusable { leg, fault } if *leg == agent => Some(fault.clone()),
        _ => None,
    });
    let fault = told.expect("told");
    assert_eq!(fault.error, SdpError::Codec);
    assert!(fault.line.is_some_and(|line| line.text.starts_with("m=audio 4000")));
    house.assert_empty();
}
