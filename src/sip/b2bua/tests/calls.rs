//! Calls between two, and what their callers are told.

use super::harness::{AGENT, CUSTOMER, Harness, OTHER, SUPERVISOR, codecs_of, sdp};
use crate::media::{Codec, Expected, Format, LegMedia, MediaCommand, MediaEvent};
use crate::model::{
    Activity, CallType, Command, Fact, LegState, Mode, PartyFact, PartyRole, Quality, Reason,
    Scope, TransferStep, UserData,
};
use crate::sip::b2bua::{B2buaConfig, Output, RestoredCalls};
use crate::sip::config::Nat;
use crate::sip::leg::{
    Destination, EndReason, LegCommand, LegEvent, LegId, LegSource, PassedHeader,
};
use crate::sip::sdp::SdpError;
use std::net::SocketAddr;
use std::time::Duration;

fn rejected(harness: &mut Harness) -> Vec<u16> {
    harness
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
    Command::Dial {
        device: device.into(),
        destination: destination.into(),
        user_data: Default::default(),
    }
}

fn forward(device: &str, to: Option<&str>) -> Command {
    Command::SetForwarding { device: device.into(), to: to.map(Into::into) }
}

#[test]
fn a_customer_calls_an_agent_they_talk_and_nothing_is_left() {
    let mut harness = Harness::new();
    let customer = harness.customer_calls("5001");
    let agent = harness.ringing(AGENT);
    assert_eq!(harness.only_call().call_type, CallType::Inbound);
    assert_eq!(
        (harness.state_of(CUSTOMER), harness.state_of(AGENT)),
        (LegState::Dialing, LegState::Ringing)
    );

    harness.leg(LegEvent::Progress { leg: agent, status: 180, media: None });
    harness.log.clear();
    harness.answer(agent);
    let commands = harness.leg_commands();
    let [LegCommand::Accept { leg, media }] = &commands[..] else { panic!("{commands:?}") };
    assert_eq!((*leg, codecs_of(media)), (customer, vec![Codec::Pcmu]));
    assert_eq!(harness.table(&[("c", customer), ("a", agent)]), "ca ac");
    let roles: Vec<_> = harness.only_call().parties.iter().map(|party| party.role).collect();
    assert_eq!(roles, [PartyRole::Customer, PartyRole::Agent]);

    harness.hangs_up(customer);
    assert_eq!(harness.leg_commands(), [LegCommand::Hangup { leg: agent, reason: None }]);
    harness.assert_empty();
}

#[test]
fn the_callee_is_offered_the_callers_codecs_in_the_callers_order() {
    let mut harness = Harness::new();
    harness.incoming(
        LegSource::Account(CUSTOMER.into()),
        "5001",
        Some(sdp(4000, "8 0 101", "sendrecv")),
    );
    let agent = harness.ringing(AGENT);
    assert_eq!(codecs_of(&harness.lines[&agent].last_sdp), [Codec::Pcma, Codec::Pcmu]);
}

#[test]
fn a_caller_and_a_callee_without_a_common_codec_talk_transcoded() {
    let mut harness = Harness::new();
    let customer = harness.incoming(
        LegSource::Account(CUSTOMER.into()),
        "5001",
        Some(sdp(4000, "8 101", "sendrecv")),
    );
    let agent = harness.ringing(AGENT);
    assert_eq!(codecs_of(&harness.lines[&agent].last_sdp), [Codec::Pcma, Codec::Pcmu]);
    harness.log.clear();
    harness.leg(LegEvent::Answered { leg: agent, media: sdp(5001, "0 101", "sendrecv") });
    let codecs = harness.log.iter().filter_map(|output| match output {
        Output::Media(MediaCommand::Describe { leg, media, .. }) => Some((*leg, media.codec)),
        _ => None,
    });
    assert_eq!(codecs.collect::<Vec<_>>(), [(agent, Codec::Pcmu), (customer, Codec::Pcma)]);
    assert_eq!(codecs_of(&harness.lines[&customer].last_sdp), [Codec::Pcma]);
    assert_eq!(harness.table(&[("c", customer), ("a", agent)]), "ca ac");
}

#[test]
fn a_trunk_is_offered_and_taken_at_the_codecs_it_may_use() {
    let mut harness = Harness::new();
    harness.incoming(LegSource::Account(AGENT.into()), "0800", Some(sdp(4000, "0", "sendrecv")));
    let out = *harness.lines.keys().min().expect("two legs");
    assert_eq!(codecs_of(&harness.lines[&out].last_sdp), [Codec::Pcma]);
    harness.log.clear();
    harness.incoming(LegSource::Trunk("a-law".into()), "5001", Some(sdp(4000, "0", "sendrecv")));
    assert_eq!(rejected(&mut harness), [488]);
}

#[test]
fn both_legs_of_a_call_speak_the_codec_that_the_callee_chose() {
    let mut harness = Harness::new();
    harness.incoming(
        LegSource::Account(CUSTOMER.into()),
        "5001",
        Some(sdp(4000, "8 0", "sendrecv")),
    );
    let agent = harness.ringing(AGENT);
    harness.answer(agent);
    let codecs: Vec<_> = harness
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
    let mut harness = Harness::new();
    let customer = harness.customer_calls("5001");
    let agent = harness.ringing(AGENT);
    harness.log.clear();
    harness.leg(LegEvent::Progress {
        leg: agent,
        status: 183,
        media: Some(sdp(5000, "0", "sendrecv")),
    });
    let commands = harness.leg_commands();
    let [LegCommand::Provisional { status: 183, media: Some(early), .. }] = &commands[..] else {
        panic!("{commands:?}")
    };
    assert!(harness.hears(customer, agent));
    harness.answer(agent);
    assert_eq!(
        harness.leg_commands(),
        [LegCommand::Accept { leg: customer, media: early.clone() }]
    );
    assert_eq!(harness.table(&[("c", customer), ("a", agent)]), "ca ac");
}

#[test]
fn a_caller_without_an_offer_is_made_one_and_answers_in_his_ack() {
    let mut harness = Harness::new();
    let customer = harness.incoming(LegSource::Account(CUSTOMER.into()), "5001", None);
    let agent = harness.ringing(AGENT);
    harness.log.clear();
    harness.leg(LegEvent::Answered { leg: agent, media: sdp(5000, "8 0", "sendrecv") });
    let commands = harness.leg_commands();
    let [LegCommand::Accept { media, .. }] = &commands[..] else { panic!("{commands:?}") };
    assert_eq!(codecs_of(media), [Codec::Pcma, Codec::Pcmu]);
    assert!(!harness.hears(agent, customer));
    harness.leg(LegEvent::Confirmed { leg: customer, media: Some(sdp(4000, "8", "sendrecv")) });
    assert_eq!(harness.table(&[("c", customer), ("a", agent)]), "ca ac");
}

#[test]
fn an_ack_without_the_answer_it_owes_ends_the_call() {
    let mut harness = Harness::new();
    let customer = harness.incoming(LegSource::Account(CUSTOMER.into()), "5001", None);
    let agent = harness.ringing(AGENT);
    harness.answer(agent);
    harness.leg(LegEvent::Confirmed { leg: customer, media: None });
    harness.assert_empty();
}

#[test]
fn ports_are_shared_where_it_is_known_whose_sound_comes_from_where() {
    let mut harness = Harness::new();
    harness.incoming(LegSource::Trunk("city".into()), "5001", Some(sdp(4000, "0", "sendrecv")));
    let offered = SocketAddr::from(([127, 0, 0, 1], 4000));
    assert_eq!(
        harness.b2bua.environment.expected,
        [Expected::Offered(offered), Expected::Phone(AGENT.into())]
    );
    harness.b2bua.environment.expected.clear();
    harness.incoming(LegSource::Trunk("city".into()), "5002", None);
    assert_eq!(
        harness.b2bua.environment.expected[0],
        Expected::Nothing,
        "a trunk that says nothing of it"
    );
    harness.b2bua.environment.expected.clear();
    harness.incoming(LegSource::Account(OTHER.into()), "0123", Some(sdp(4002, "0", "sendrecv")));
    assert_eq!(harness.b2bua.environment.expected[1], Expected::Nothing, "a trunk that is called");
}

#[test]
fn who_is_behind_a_nat_or_is_to_have_ports_of_his_own_shares_none() {
    for (nat, own_ports) in [(Nat::Always, false), (Nat::Auto, true)] {
        let mut harness = Harness::with_peers(
            B2buaConfig::default(),
            RestoredCalls::default(),
            |is_natted, has_own| {
                (*is_natted, *has_own) = (nat, own_ports);
            },
        );
        harness.incoming(LegSource::Trunk("city".into()), "5001", Some(sdp(4000, "0", "sendrecv")));
        assert_eq!(harness.b2bua.environment.expected, [Expected::Nothing, Expected::Nothing]);
    }
}

fn over_ipv6(sdp: Vec<u8>) -> Vec<u8> {
    let text = String::from_utf8(sdp).expect("text");
    text.replace("IP4 127.0.0.1", "IP6 ::1").into_bytes()
}

#[test]
fn where_phones_are_told_an_ipv6_address_one_with_ipv6_is_taken_and_one_with_ipv4_is_not() {
    let mut harness = Harness::with(
        B2buaConfig { media_over_ipv6: true, ..B2buaConfig::default() },
        RestoredCalls::default(),
    );
    harness.incoming(LegSource::Account(CUSTOMER.into()), "5001", Some(sdp(4000, "0", "sendrecv")));
    assert_eq!(rejected(&mut harness), [488]);
    harness.incoming(
        LegSource::Account(CUSTOMER.into()),
        "5001",
        Some(over_ipv6(sdp(4000, "0", "sendrecv"))),
    );
    harness.ringing(AGENT);
    assert!(rejected(&mut harness).is_empty());
}

#[test]
fn callers_are_told_404_480_482_486_488_and_503_where_each_is_right() {
    let mut harness = Harness::new();
    harness.customer_calls("9999");
    assert_eq!(rejected(&mut harness), [404], "nobody has this number");
    harness.customer_calls("0123");
    assert_eq!(rejected(&mut harness), [403], "customers do not call out through us");
    harness.incoming(LegSource::Account(CUSTOMER.into()), "5001", Some(sdp(4000, "4", "sendrecv")));
    assert_eq!(rejected(&mut harness), [488], "no common codec");
    harness.incoming(
        LegSource::Account(CUSTOMER.into()),
        "5001",
        Some(over_ipv6(sdp(4000, "0", "sendrecv"))),
    );
    assert_eq!(rejected(&mut harness), [488], "an address that nothing of ours reaches");
    harness.incoming(LegSource::Account(AGENT.into()), "5001", Some(sdp(4000, "0", "sendrecv")));
    assert_eq!(rejected(&mut harness), [486], "he is on the line himself");

    harness.leg(LegEvent::Registered { device: OTHER.into(), registered: false });
    harness.customer_calls("5002");
    assert_eq!(rejected(&mut harness), [480], "unregistered");
    harness.command(Command::SetDoNotDisturb { device: AGENT.into(), on: true }).expect("accepted");
    harness.customer_calls("5001");
    assert_eq!(rejected(&mut harness), [486], "do not disturb");

    harness.command(forward(AGENT, Some("5002"))).expect("accepted");
    harness.command(forward(OTHER, Some("5001"))).expect("accepted");
    harness.customer_calls("5001");
    assert_eq!(rejected(&mut harness), [482], "forwarded in a circle");

    harness.command(forward(AGENT, None)).expect("accepted");
    harness
        .command(Command::SetDoNotDisturb { device: AGENT.into(), on: false })
        .expect("accepted");
    harness.b2bua.environment.free = 1;
    harness.customer_calls("5001");
    assert_eq!(rejected(&mut harness), [503], "a port for one leg only");
    harness.assert_empty();
}

#[test]
fn one_device_gets_no_more_calls_than_its_share_and_the_others_go_on() {
    let mut harness = Harness::with(
        B2buaConfig { max_calls_per_device: 3, ..B2buaConfig::default() },
        RestoredCalls::default(),
    );
    let free = harness.b2bua.environment.free;
    let calls: Vec<LegId> = (0..3).map(|_| harness.customer_calls("5001")).collect();
    let taken = free - harness.b2bua.environment.free;
    harness.log.clear();
    harness.customer_calls("5002");
    assert_eq!(rejected(&mut harness), [503], "the customer has his share");
    harness.incoming(LegSource::Trunk("city".into()), "5001", Some(sdp(4000, "0", "sendrecv")));
    assert_eq!(rejected(&mut harness), [486], "the agent has his share");
    let refusal = harness.command(dial(AGENT, "0123")).expect_err("his share");
    assert_eq!(refusal.reason, Reason::InvalidState);
    assert_eq!(free - harness.b2bua.environment.free, taken, "a refused call takes no port");

    harness.incoming(LegSource::Trunk("city".into()), "5002", Some(sdp(4000, "0", "sendrecv")));
    harness.ringing(OTHER);
    harness.hangs_up(calls[0]);
    harness.log.clear();
    harness.customer_calls("5001");
    assert!(rejected(&mut harness).is_empty(), "a call that is over counts no more");
}

#[test]
fn a_trunk_gets_no_more_calls_than_it_may_have_both_ways() {
    let mut harness = Harness::new();
    let offer = || Some(sdp(4000, "8", "sendrecv"));
    let first = harness.incoming(LegSource::Trunk("a-law".into()), "5001", offer());
    harness.incoming(LegSource::Account(AGENT.into()), "0800", offer());
    harness.log.clear();
    harness.incoming(LegSource::Trunk("a-law".into()), "5001", offer());
    harness.incoming(LegSource::Account(OTHER.into()), "0800", offer());
    assert_eq!(rejected(&mut harness), [503, 503]);
    harness.hangs_up(first);
    harness.log.clear();
    harness.incoming(LegSource::Account(OTHER.into()), "0800", offer());
    assert!(rejected(&mut harness).is_empty());
}

#[test]
fn what_the_callee_says_reaches_the_caller_as_what_it_means_to_him() {
    let told = |status| {
        let mut harness = Harness::new();
        harness.customer_calls("5001");
        let leg = harness.ringing(AGENT);
        harness.log.clear();
        harness.leg(LegEvent::Refused { leg, status });
        let told = rejected(&mut harness);
        harness.assert_empty();
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
        let mut harness = Harness::new();
        harness.incoming(
            LegSource::Account(AGENT.into()),
            "0123",
            Some(sdp(4000, "0", "sendrecv")),
        );
        let leg = *harness.lines.keys().min().expect("two legs");
        harness.log.clear();
        harness.leg(LegEvent::Refused { leg, status });
        assert_eq!(rejected(&mut harness), [expected]);
        harness.assert_empty();
    }
}

#[test]
fn a_cancel_takes_the_callees_leg_with_it() {
    let mut harness = Harness::new();
    let customer = harness.customer_calls("5001");
    let agent = harness.ringing(AGENT);
    harness.log.clear();
    harness.leg(LegEvent::Ended { leg: customer, reason: EndReason::Cancelled });
    assert_eq!(harness.leg_commands(), [LegCommand::Hangup { leg: agent, reason: None }]);
    // The callee's 200 crosses the CANCEL.
    harness.leg(LegEvent::Answered { leg: agent, media: sdp(5000, "0", "sendrecv") });
    harness.assert_empty();
}

#[test]
fn a_busy_device_rings_again_unless_call_waiting_is_off() {
    let mut harness = Harness::new();
    harness.talk();
    harness.incoming(LegSource::Trunk("city".into()), "5001", Some(sdp(4000, "0", "sendrecv")));
    harness.ringing(AGENT);

    let config = B2buaConfig { call_waiting: false, ..B2buaConfig::default() };
    let mut harness = Harness::with(config, RestoredCalls::default());
    harness.talk();
    harness.log.clear();
    harness.incoming(LegSource::Trunk("city".into()), "5001", Some(sdp(4000, "0", "sendrecv")));
    assert_eq!(rejected(&mut harness), [486]);
}

#[test]
fn a_forwarded_call_is_not_the_devices_call() {
    let mut harness = Harness::new();
    harness.command(forward(AGENT, Some("5002"))).expect("accepted");
    harness.customer_calls("5001");
    harness.ringing(OTHER);
    assert!(harness.only_call().party_of(&AGENT.into()).is_none());
    assert_eq!(harness.only_call().dnis.as_str(), "5001");
}

#[test]
fn a_device_may_send_its_calls_out_by_a_trunk() {
    let mut harness = Harness::new();
    harness.command(forward(AGENT, Some("0123"))).expect("accepted");
    harness.customer_calls("5001");
    let commands = harness.leg_commands();
    let [LegCommand::Invite { to: Destination::Trunk { name, number }, .. }] = &commands[..] else {
        panic!("{commands:?}")
    };
    assert_eq!((name.as_str(), number.as_str()), ("city", "0123"));
}

#[test]
fn what_was_set_on_a_device_survives_a_restart() {
    let mut harness = Harness::new();
    harness.command(forward(AGENT, Some("5002"))).expect("accepted");
    let kept = RestoredCalls {
        devices: harness
            .log
            .iter()
            .filter_map(|output| match output {
                Output::Keep(crate::sip::b2bua::Persist::Device(device)) => Some(device.clone()),
                _ => None,
            })
            .collect(),
        monitors: Vec::new(),
    };
    let mut harness = Harness::with(B2buaConfig::default(), kept);
    harness.customer_calls("5001");
    harness.ringing(OTHER);
}

#[test]
fn a_hold_at_the_phone_is_answered_and_shown_and_so_is_its_end() {
    let mut harness = Harness::new();
    let (_, agent) = harness.talk();
    harness.log.clear();
    harness.leg(LegEvent::Offered { leg: agent, media: Some(sdp(5000, "0", "sendonly")) });
    assert_eq!(harness.state_of(AGENT), LegState::Held);
    let answer = String::from_utf8_lossy(&harness.lines[&agent].last_sdp).into_owned();
    assert!(answer.contains("a=recvonly"), "{answer}");
    let refusal = harness
        .command(Command::Retrieve { device: AGENT.into(), call: harness.call_id() })
        .expect_err("his phone holds");
    assert_eq!(refusal.reason, Reason::InvalidState);
    harness.leg(LegEvent::Offered { leg: agent, media: Some(sdp(5000, "0", "sendrecv")) });
    assert_eq!(harness.state_of(AGENT), LegState::Established);
}

#[test]
fn a_hold_by_command_silences_both_ways_until_it_is_retrieved() {
    let mut harness = Harness::new();
    let (customer, agent) = harness.talk();
    let (device, call) = (crate::model::DeviceId::from(AGENT), harness.call_id());
    let hold = Command::Hold { device: device.clone(), call: call.clone() };
    harness.command(hold.clone()).expect("accepted");
    assert_eq!(harness.table(&[("c", customer), ("a", agent)]), "");
    assert_eq!(harness.state_of(AGENT), LegState::Held);
    assert_eq!(harness.command(hold).expect_err("held already").reason, Reason::InvalidState);
    harness.command(Command::Retrieve { device, call }).expect("accepted");
    assert_eq!(harness.table(&[("c", customer), ("a", agent)]), "ca ac");
}

#[test]
fn where_holds_are_signalled_the_other_phone_is_told_sendonly_and_sendrecv_again() {
    let config = B2buaConfig { signal_hold: true, ..B2buaConfig::default() };
    let mut harness = Harness::with(config, RestoredCalls::default());
    let (customer, agent) = harness.talk();
    let direction = |harness: &Harness| {
        let sdp = String::from_utf8_lossy(&harness.lines[&customer].last_sdp).into_owned();
        sdp.lines().last().unwrap_or_default().to_owned()
    };
    harness.leg(LegEvent::Offered { leg: agent, media: Some(sdp(5000, "0", "sendonly")) });
    assert_eq!(direction(&harness), "a=sendonly");
    harness.leg(LegEvent::OfferAnswered { leg: customer, media: sdp(4000, "0", "recvonly") });
    assert_eq!(
        (harness.state_of(AGENT), harness.state_of(CUSTOMER)),
        (LegState::Held, LegState::Established)
    );
    harness.leg(LegEvent::Offered { leg: agent, media: Some(sdp(5000, "0", "sendrecv")) });
    assert_eq!(direction(&harness), "a=sendrecv");
}

#[test]
fn a_party_that_knows_of_its_hold_is_sent_nothing_unless_it_is_to_hear_music() {
    for has_music in [false, true] {
        let config = B2buaConfig { signal_hold: true, has_music, ..B2buaConfig::default() };
        let mut harness = Harness::with(config, RestoredCalls::default());
        let (customer, _) = harness.talk();
        // Whether the engine sends to the customer, where it has been told anew.
        let sends = |harness: &mut Harness| {
            let log = std::mem::take(&mut harness.log);
            let mut told = log.iter().filter_map(|output| match output {
                Output::Media(MediaCommand::Describe { leg, media, .. }) if *leg == customer => {
                    Some(media.send)
                }
                _ => None,
            });
            told.next_back()
        };
        let (device, call) = (crate::model::DeviceId::from(AGENT), harness.call_id());
        let hold = Command::Hold { device: device.clone(), call: call.clone() };
        let retrieve = Command::Retrieve { device, call };
        sends(&mut harness);
        harness.command(hold.clone()).expect("accepted");
        assert_ne!(sends(&mut harness), Some(false), "it has not agreed");
        harness.leg(LegEvent::OfferAnswered { leg: customer, media: sdp(4000, "0", "recvonly") });
        assert_eq!(sends(&mut harness), Some(has_music));
        harness.command(retrieve.clone()).expect("accepted");
        assert_ne!(sends(&mut harness), Some(false), "it is spoken to before it has agreed");
        harness.leg(LegEvent::OfferAnswered { leg: customer, media: sdp(4000, "0", "sendrecv") });
        assert_eq!(sends(&mut harness), Some(true));
        // It takes no hold, and is sent to as before.
        harness.command(hold).expect("accepted");
        harness.leg(LegEvent::OfferRefused { leg: customer, status: 488 });
        harness.command(retrieve).expect("accepted");
        assert_ne!(sends(&mut harness), Some(false));
    }
}

#[test]
fn a_muted_party_is_heard_by_nobody() {
    let mut harness = Harness::new();
    let (customer, agent) = harness.talk();
    let mute = |on, call| Command::Mute { device: AGENT.into(), call, on };
    let reason = |harness: &mut Harness, on| {
        harness.command(mute(on, harness.call_id())).expect_err("it is so already").reason
    };
    assert_eq!(reason(&mut harness, false), Reason::InvalidState);
    harness.command(mute(true, harness.call_id())).expect("accepted");
    assert_eq!(harness.table(&[("c", customer), ("a", agent)]), "ac");
    assert_eq!(reason(&mut harness, true), Reason::InvalidState);
    harness.command(mute(false, harness.call_id())).expect("accepted");
    assert_eq!(harness.table(&[("c", customer), ("a", agent)]), "ca ac");
}

#[test]
fn dialling_brings_in_the_own_phone_first_and_then_the_destination() {
    let mut harness = Harness::new();
    harness.command(dial(AGENT, "0123")).expect("accepted");
    let own = harness.ringing(AGENT);
    assert!(harness.lines[&own].auto_answer);
    assert_eq!(harness.lines.len(), 1);
    assert_eq!(
        (harness.only_call().call_type, harness.state_of(AGENT)),
        (CallType::Outbound, LegState::Dialing)
    );
    harness.answer(own);
    assert_eq!(harness.state_of(AGENT), LegState::Dialing);
    let destination = *harness.lines.keys().max().expect("two legs");
    assert!(!harness.lines[&destination].auto_answer);
    harness.answer(destination);
    assert_eq!(harness.state_of(AGENT), LegState::Established);
    assert_eq!(harness.table(&[("o", own), ("d", destination)]), "od do");
    harness.hangs_up(destination);
    harness.assert_empty();
}

#[test]
fn who_dialled_is_told_that_nobody_could_be_had() {
    let mut harness = Harness::new();
    harness.command(dial(AGENT, "5002")).expect("accepted");
    let own = harness.ringing(AGENT);
    harness.answer(own);
    let other = harness.ringing(OTHER);
    harness.leg(LegEvent::Refused { leg: other, status: 486 });
    assert_eq!(harness.failures.len(), 1);
    assert_eq!(harness.failures[0].refusal.to_string(), "Number '5002' is busy.");
    harness.assert_empty();
}

#[test]
fn a_dial_that_can_not_work_is_refused_at_once() {
    let mut harness = Harness::new();
    assert_eq!(harness.command(dial(AGENT, "9999")).expect_err("unknown").reason, Reason::NotFound);
    harness.leg(LegEvent::Registered { device: AGENT.into(), registered: false });
    let refusal = harness.command(dial(AGENT, "5002")).expect_err("unregistered");
    assert_eq!(
        (refusal.reason, &*refusal.text()),
        (Reason::Internal, "Device '5001' is not registered.")
    );
    harness.assert_empty();
}

#[test]
fn a_ringing_call_can_be_answered_and_declined_by_command() {
    let mut harness = Harness::new();
    harness.customer_calls("5001");
    let (call, agent) = (harness.call_id(), harness.ringing(AGENT));
    let answer = Command::Answer { device: AGENT.into(), call: call.clone() };
    harness.log.clear();
    harness.command(answer.clone()).expect("accepted");
    assert_eq!(
        harness.leg_commands(),
        [],
        "the phone has not said anything yet: there is no dialog to ask in"
    );
    harness.leg(LegEvent::Progress { leg: agent, status: 180, media: None });
    assert_eq!(harness.leg_commands()[0], LegCommand::AskToAnswer { leg: agent });
    harness.command(answer).expect("accepted");
    assert_eq!(harness.leg_commands(), [LegCommand::AskToAnswer { leg: agent }]);
    harness.command(Command::Hangup { device: AGENT.into(), call }).expect("accepted");
    assert_eq!(rejected(&mut harness), [486]);
    harness.assert_empty();
}

#[test]
fn whoever_asked_a_phone_to_answer_that_will_not_is_told_and_it_rings_on() {
    let mut harness = Harness::new();
    harness.customer_calls("5001");
    let (call, agent) = (harness.call_id(), harness.ringing(AGENT));
    harness.leg(LegEvent::Progress { leg: agent, status: 180, media: None });
    let answer = Command::Answer { device: AGENT.into(), call: call.clone() };
    for (status, text) in [(489, "can not be made to answer"), (408, "has not reacted")] {
        harness.command(answer.clone()).expect("accepted");
        harness.leg(LegEvent::AskToAnswerRefused { leg: agent, status });
        let failure = harness.failures.pop().expect("told");
        assert_eq!((failure.device, failure.call.as_ref()), (AGENT.into(), Some(&call)));
        assert_eq!(failure.refusal.reason, Reason::InvalidState);
        assert!(failure.refusal.text().contains(text), "{}", failure.refusal);
    }
    assert_eq!(harness.ringing(AGENT), agent);
    harness.command(Command::Hangup { device: AGENT.into(), call }).expect("accepted");
    harness.assert_empty();
    harness.leg(LegEvent::AskToAnswerRefused { leg: agent, status: 408 });
    assert!(harness.failures.is_empty(), "nobody waits for it any more");
}

#[test]
fn a_silent_phone_is_probed_and_one_that_is_gone_ends_the_call() {
    let mut harness = Harness::new();
    let (customer, _) = harness.talk();
    let before = harness.lines[&customer].last_sdp.clone();
    harness.media(MediaEvent::Inactive { leg: customer });
    assert!(harness.lines[&customer].offered);
    assert_ne!(before, harness.lines[&customer].last_sdp, "an offer has all our codecs");
    harness.leg(LegEvent::OfferRefused { leg: customer, status: 481 });
    harness.assert_empty();
}

#[test]
fn on_closing_no_call_comes_in_and_live_ones_end_when_grace_is_over() {
    let mut harness = Harness::new();
    harness.talk();
    harness.log.clear();
    harness.b2bua.close(Duration::from_secs(5), harness.now);
    harness.customer_calls("5002");
    assert_eq!(rejected(&mut harness), [503]);
    assert!(!harness.b2bua.is_idle());
    harness.wait(Duration::from_secs(5));
    harness.assert_empty();
}

#[test]
fn while_it_drains_no_call_begins_live_ones_go_on_and_supervisors_join_them() {
    let mut harness = Harness::new();
    let (customer, agent) = harness.talk();
    harness.log.clear();
    harness.b2bua.set_draining(true);
    let load = harness.b2bua.load();
    assert_eq!((load.calls, load.is_draining, load.takes_calls()), (1, true, false));
    harness.customer_calls("5002");
    assert_eq!(rejected(&mut harness), [503]);
    let refusal = harness.command(dial(OTHER, "0123")).expect_err("no new calls");
    assert_eq!(refusal.reason, Reason::Unavailable);
    harness.wait(Duration::from_secs(3600));
    let coach = harness.monitor(Activity::Coach, Mode::AllCalls, Scope::Agent);
    coach.expect("a call that lives is coached");
    let supervisor = harness.ringing(SUPERVISOR);
    harness.answer(supervisor);
    assert!(harness.hears(supervisor, customer) && harness.hears(agent, supervisor));
    harness.b2bua.set_draining(false);
    harness.log.clear();
    harness.customer_calls("5002");
    assert!(rejected(&mut harness).is_empty());
}

#[test]
fn while_it_drains_an_agent_may_still_ask_about_a_call_that_lives() {
    let mut harness = Harness::new();
    harness.talk();
    harness.b2bua.set_draining(true);
    let call = harness.call_id();
    let initiate =
        TransferStep::Initiate { destination: "5002".into(), user_data: UserData::default() };
    let ask = Command::Transfer { device: AGENT.into(), call, step: initiate };
    harness.command(ask).expect("it belongs to that call");
    let asking = harness.ringing(AGENT);
    harness.answer(asking);
    harness.ringing(OTHER);
}

#[test]
fn events_of_unknown_legs_are_ignored() {
    let mut harness = Harness::new();
    harness
        .b2bua
        .handle_leg(LegEvent::Ended { leg: LegId(77), reason: EndReason::Bye }, harness.now);
    assert_eq!(harness.b2bua.poll_output(), None);
}

#[test]
fn an_identity_goes_on_to_the_number_it_was_signed_for_and_not_to_where_that_is_forwarded() {
    let mut harness = Harness::new();
    let passed_on = |harness: &mut Harness| {
        harness.log.clear();
        let passed = ["Identity", "Date", "User-to-User"]
            .map(|name| PassedHeader { name, value: b"x".to_vec() });
        let leg = harness.incoming_with(LegSource::Trunk("city".into()), "5001", passed.into());
        let invited = harness.leg_commands().into_iter().find_map(|command| match command {
            LegCommand::Invite { passed, .. } => {
                Some(passed.iter().map(|header| header.name).collect::<Vec<_>>())
            }
            _ => None,
        });
        harness.hangs_up(leg);
        invited.expect("somebody is called")
    };
    assert_eq!(passed_on(&mut harness), ["Identity", "Date", "User-to-User"]);
    let forward = Command::SetForwarding { device: AGENT.into(), to: Some("5002".into()) };
    harness.command(forward).expect("accepted");
    assert_eq!(passed_on(&mut harness), ["User-to-User"]);
}

fn quality(leg: LegId, packets_sent: u64) -> MediaEvent {
    MediaEvent::Quality { leg, quality: Quality { packets_sent, ..Quality::default() } }
}

/// Packets sent by leg, in every fact since the last look.
fn measured(harness: &mut Harness) -> Vec<Vec<Option<u64>>> {
    let facts = std::mem::take(&mut harness.log).into_iter().map(|output| match output {
        Output::Fact(Fact::Call(call)) => call,
        other => panic!("{other:?}"),
    });
    let packets = |party: &PartyFact| party.quality.map(|quality| quality.packets_sent);
    facts.map(|call| call.parties.iter().map(packets).collect()).collect()
}

#[test]
fn how_the_sound_of_a_leg_fares_is_told_at_first_and_then_every_ten_seconds() {
    let mut harness = Harness::new();
    let (customer, agent) = harness.talk();
    harness.log.clear();
    harness.media(quality(customer, 1));
    harness.media(quality(agent, 2));
    assert_eq!(measured(&mut harness), [[Some(1), None], [Some(1), Some(2)]]);
    for packets in 3..6 {
        harness.media(quality(customer, packets));
        harness.wait(Duration::from_secs(3));
    }
    assert_eq!(measured(&mut harness), [[None; 2]; 0]);
    harness.wait(Duration::from_secs(1));
    harness.media(quality(customer, 5));
    assert_eq!(measured(&mut harness), [[None; 2]; 0], "nothing is new");
    harness.media(quality(agent, 6));
    assert_eq!(measured(&mut harness), [[Some(5), Some(6)]]);
}

#[test]
fn how_the_sound_fares_goes_along_with_a_change_and_makes_none() {
    let mut harness = Harness::new();
    let (customer, agent) = harness.talk();
    harness.media(quality(customer, 1));
    harness.media(quality(customer, 2));
    let before = harness.only_call().clone();
    harness.log.clear();
    let hold = Command::Hold { device: AGENT.into(), call: before.id.clone() };
    harness.command(hold).expect("accepted");
    let call = harness.only_call();
    assert_eq!(call.parties[0].quality.map(|quality| quality.packets_sent), Some(2));
    assert!(!call.is_same_but_quality(&before));
    // Who has left is measured no more.
    harness.leg(LegEvent::Ended { leg: agent, reason: EndReason::Bye });
    harness.log.clear();
    harness.media(quality(agent, 9));
    assert_eq!(measured(&mut harness), [[None; 2]; 0]);
}

fn described(output: &Output) -> Option<LegMedia> {
    match output {
        Output::Media(MediaCommand::Describe { media, .. }) => Some(*media),
        _ => None,
    }
}

#[test]
fn an_ack_without_the_answer_to_a_re_invite_leaves_the_session_as_it_was() {
    let mut harness = Harness::new();
    let (customer, agent) = harness.talk();
    harness.log.clear();
    harness.leg(LegEvent::Offered { leg: customer, media: None });
    harness.leg(LegEvent::Confirmed { leg: customer, media: None });
    let told: Vec<_> = harness.log.iter().filter_map(described).collect();
    // What is offered may come at once; when it comes to nothing, what was agreed counts again.
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[0].receives.get(8), Some(Format::Audio(Codec::Pcma)));
    assert_eq!(told[1].receives.get(8), None);
    assert_eq!(told[1].receives.get(0), Some(Format::Audio(Codec::Pcmu)));
    assert!(harness.hears(agent, customer) && harness.hears(customer, agent));
    let commands = harness.leg_commands();
    assert!(matches!(commands[..], [LegCommand::AnswerOffer { .. }]), "{commands:?}");
}

#[test]
fn an_answer_of_several_codecs_is_heard_in_each_and_sent_in_the_first() {
    let mut harness = Harness::new();
    let customer = harness.customer_calls("5001");
    let agent = harness.ringing(AGENT);
    harness.log.clear();
    harness.leg(LegEvent::Answered { leg: agent, media: sdp(4000, "8 0 101", "sendrecv") });
    let media = harness.log.iter().find_map(described).expect("described");
    assert_eq!((media.codec, media.payload_type), (Codec::Pcma, 8));
    assert_eq!(media.receives.get(0), Some(Format::Audio(Codec::Pcmu)));
    assert_eq!(media.receives.get(8), Some(Format::Audio(Codec::Pcma)));
    assert!(harness.hears(customer, agent));
}

#[test]
fn an_answer_that_cannot_be_used_is_told_to_the_log_with_its_line() {
    let mut harness = Harness::new();
    harness.customer_calls("5001");
    let agent = harness.ringing(AGENT);
    harness.log.clear();
    harness.leg(LegEvent::Answered { leg: agent, media: sdp(4000, "4", "sendrecv") });
    let told = harness.log.iter().find_map(|output| match output {
        Output::Unusable { leg, fault } if *leg == agent => Some(fault.clone()),
        _ => None,
    });
    let fault = told.expect("told");
    assert_eq!(fault.error, SdpError::Codec);
    assert!(fault.line.is_some_and(|line| line.text.starts_with("m=audio 4000")));
    harness.assert_empty();
}
