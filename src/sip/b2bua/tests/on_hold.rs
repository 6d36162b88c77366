//! What a held party hears, and what its switch is told.

use super::harness::{AGENT, Harness, OTHER, SUPERVISOR, sdp};
use crate::media::MediaCommand;
use crate::model::{Activity, Command, Mode, Scope};
use crate::sip::b2bua::{B2buaConfig, Output, RestoredCalls};
use crate::sip::leg::{LegCommand, LegEvent, LegId, LegSource};

fn with_music() -> Harness {
    let config = B2buaConfig { has_music: true, ..B2buaConfig::default() };
    Harness::with(config, RestoredCalls::default())
}

/// Who was told to hear music, or no more, since the last look.
fn music(harness: &mut Harness) -> Vec<(LegId, bool)> {
    let log = std::mem::take(&mut harness.log);
    let music = log.into_iter().filter_map(|output| match output {
        Output::Media(MediaCommand::Music { leg, on }) => Some((leg, on)),
        _ => None,
    });
    music.collect()
}

fn hold(harness: &mut Harness, on: bool) {
    let (device, call) = (AGENT.into(), harness.call_id());
    harness
        .command(match on {
            true => Command::Hold { device, call },
            false => Command::Retrieve { device, call },
        })
        .expect("accepted");
}

fn reinvites(harness: &mut Harness, leg: LegId, direction: &str) {
    let media = Some(sdp(4000, "0 8 101", direction));
    harness.leg(LegEvent::Offered { leg, media });
}

/// The agent talks to somebody behind a trunk, who has called: that one, and the agent.
fn talk_with(harness: &mut Harness, trunk: &str) -> (LegId, LegId) {
    let offer = Some(sdp(4000, "0 8 101", "sendrecv"));
    let outside = harness.incoming(LegSource::Trunk(trunk.into()), "5001", offer);
    let agent = harness.ringing(AGENT);
    harness.answer(agent);
    (outside, agent)
}

fn offered(harness: &mut Harness) -> Vec<(LegId, String)> {
    let offers = harness.leg_commands().into_iter().filter_map(|command| match command {
        LegCommand::Offer { leg, media } => {
            let text = String::from_utf8_lossy(&media).into_owned();
            let directions = ["sendrecv", "sendonly", "recvonly", "inactive"];
            let said = directions.into_iter().find(|said| text.contains(&format!("a={said}")));
            Some((leg, said.unwrap_or("sendrecv").to_owned()))
        }
        _ => None,
    });
    offers.collect()
}

#[test]
fn whoever_an_agent_holds_hears_music_and_nothing_else_until_taken_back() {
    let mut harness = with_music();
    let (customer, agent) = harness.talk();
    assert_eq!(music(&mut harness), []);
    hold(&mut harness, true);
    assert_eq!(music(&mut harness), [(customer, true)]);
    assert_eq!(harness.table(&[("c", customer), ("a", agent)]), "");
    hold(&mut harness, false);
    assert_eq!(music(&mut harness), [(customer, false)]);
    assert_eq!(harness.table(&[("c", customer), ("a", agent)]), "ca ac");

    // The phone holds, whatever it plays meanwhile.
    reinvites(&mut harness, agent, "sendonly");
    assert_eq!(music(&mut harness), [(customer, true)]);
    assert!(!harness.hears(customer, agent));
    reinvites(&mut harness, agent, "sendrecv");
    assert_eq!(music(&mut harness), [(customer, false)]);
    assert!(harness.hears(customer, agent));
}

#[test]
fn a_customer_that_holds_plays_its_own_music_and_a_coached_agent_hears_the_coach() {
    let mut harness = with_music();
    let (customer, agent) = harness.talk();
    reinvites(&mut harness, customer, "sendonly");
    assert_eq!(music(&mut harness), []);
    assert!(harness.hears(agent, customer));
    reinvites(&mut harness, customer, "sendrecv");
    harness.hangs_up(customer);

    let colleague = harness.incoming(
        LegSource::Account(OTHER.into()),
        "5001",
        Some(sdp(4002, "0 101", "sendrecv")),
    );
    let agent = harness.ringing(AGENT);
    harness.answer(agent);
    harness.monitor(Activity::Coach, Mode::AllCalls, Scope::Agent).expect("accepted");
    let supervisor = harness.ringing(SUPERVISOR);
    harness.answer(supervisor);
    harness.log.clear();
    reinvites(&mut harness, colleague, "sendonly");
    assert_eq!(music(&mut harness), []);
    assert!(harness.hears(agent, supervisor));
    harness.stop().expect("accepted");
    assert_eq!(music(&mut harness), [(agent, true)]);
}

#[test]
fn the_music_ends_when_a_transfer_takes_the_held_customer_on() {
    let mut harness = with_music();
    let (customer, _) = harness.talk();
    hold(&mut harness, true);
    assert_eq!(music(&mut harness), [(customer, true)]);
    let (device, call) = (AGENT.into(), harness.call_id());
    let step = crate::model::TransferStep::SingleStep {
        destination: "5002".into(),
        user_data: Default::default(),
    };
    harness.command(Command::Transfer { device, call, step }).expect("accepted");
    let other = harness.ringing(OTHER);
    harness.leg(LegEvent::Progress { leg: other, status: 180, media: None });
    harness.answer(other);
    assert!(music(&mut harness).contains(&(customer, false)));
    assert!(harness.hears(customer, other));
}

#[test]
fn without_music_nobody_is_told_of_any() {
    let mut harness = Harness::new();
    harness.talk();
    hold(&mut harness, true);
    hold(&mut harness, false);
    assert_eq!(music(&mut harness), []);
}

#[test]
fn a_trunk_is_told_of_a_hold_where_it_wishes_and_no_phone_is() {
    let mut harness = Harness::new();
    let (switch, _) = talk_with(&mut harness, "either");
    harness.leg_commands();
    hold(&mut harness, true);
    assert_eq!(offered(&mut harness), [(switch, "sendonly".to_owned())]);
    harness.leg(LegEvent::OfferAnswered { leg: switch, media: sdp(4000, "0 101", "recvonly") });
    hold(&mut harness, false);
    assert_eq!(offered(&mut harness), [(switch, "sendrecv".to_owned())]);
    harness.leg(LegEvent::OfferAnswered { leg: switch, media: sdp(4000, "0 101", "sendrecv") });
    harness.hangs_up(switch);

    let (carrier, _) = talk_with(&mut harness, "city");
    harness.leg_commands();
    hold(&mut harness, true);
    hold(&mut harness, false);
    assert_eq!(offered(&mut harness), []);
    harness.hangs_up(carrier);

    let (_, agent) = harness.talk();
    harness.leg_commands();
    reinvites(&mut harness, agent, "sendonly");
    assert_eq!(offered(&mut harness), []);
}

#[test]
fn an_offer_of_a_fax_in_a_call_is_refused_and_the_call_goes_on_as_it_was() {
    let mut harness = Harness::new();
    let (outside, agent) = talk_with(&mut harness, "city");
    let table = harness.table(&[("c", outside), ("a", agent)]);
    for lines in [
        "m=image 4100 udptl t38\r\na=T38FaxVersion:0\r\n",
        "m=audio 0 RTP/AVP 0\r\nm=image 4100 udptl t38\r\n",
        "m=image 4100 UDPTL t38\r\nm=audio 0 RTP/AVP 8\r\n",
    ] {
        harness.leg_commands();
        let media = format!(
            "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n{lines}"
        );
        harness.leg(LegEvent::Offered { leg: outside, media: Some(media.into_bytes()) });
        let commands = harness.leg_commands();
        assert!(
            matches!(&commands[..], [LegCommand::RefuseOffer { leg, .. }] if *leg == outside),
            "{commands:?}"
        );
        assert_eq!(harness.table(&[("c", outside), ("a", agent)]), table);
    }
    // A fax beside the sound is left out of the answer.
    let media = "v=0\r\no=- 1 3 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
                 m=audio 4000 RTP/AVP 0\r\nm=image 4100 udptl t38\r\n";
    harness.leg(LegEvent::Offered { leg: outside, media: Some(media.into()) });
    let commands = harness.leg_commands();
    let [LegCommand::AnswerOffer { media, .. }] = &commands[..] else { panic!("{commands:?}") };
    let text = String::from_utf8_lossy(media);
    assert!(text.contains("m=image 0 udptl t38"), "{text}");
    harness.hangs_up(outside);
    harness.assert_empty();
}

#[test]
fn where_a_trunk_sends_a_call_the_caller_may_go_and_nowhere_else() {
    // The agent calls a number outside, and the carrier sends the call to a colleague.
    let mut harness = Harness::new();
    let offer = || Some(sdp(4000, "0 8 101", "sendrecv"));
    let agent = harness.incoming(LegSource::Account(AGENT.into()), "0301", offer());
    let outside = harness.lines.values().find(|line| line.outgoing).expect("called").leg;
    let to = vec!["0999".into(), "5002".into()];
    harness.leg(LegEvent::Redirected { leg: outside, status: 302, to });
    let next = harness.lines.values().find(|line| line.outgoing && !line.ended);
    assert_eq!(next.map(|line| line.party.clone()), Some(Err("0999".into())));
    harness.hangs_up(agent);
    harness.assert_empty();

    // A customer who is forwarded outside is sent back inside only.
    let mut harness = Harness::new();
    let to = Some("0301".into());
    harness.command(Command::SetForwarding { device: AGENT.into(), to }).expect("accepted");
    let customer = harness.customer_calls("5001");
    let outside = harness.lines.values().find(|line| line.outgoing).expect("called").leg;
    let to = vec!["0900".into(), "5002".into()];
    harness.leg(LegEvent::Redirected { leg: outside, status: 302, to });
    let next = harness.lines.values().find(|line| line.outgoing && !line.ended);
    assert_eq!(next.map(|line| line.party.clone()), Some(Ok(OTHER.into())));
    harness.hangs_up(customer);
    harness.assert_empty();
}
