//! What is counted of a customer while a supervisor is on the call.

use super::*;
use crate::model::{LegSound, PartyRole, SentSound};
use sha2::{Digest, Sha256};

const SECOND: LegId = LegId(4);

/// As an auditor makes it, from the packets that were captured.
fn hash(before: [u8; 32], payloads: &[Vec<u8>]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(before);
    for payload in payloads {
        hash.update((payload.len() as u16).to_be_bytes());
        hash.update(payload);
    }
    hash.finalize().into()
}

impl Harness {
    /// The supervisor's leg and the legs of each join that has ended since this was asked last.
    fn ended(&mut self) -> Vec<(LegId, Vec<LegSound>)> {
        self.drain();
        let mut ended = Vec::new();
        self.events.retain(|event| match event {
            MediaEvent::JoinEnded { supervisor, legs } => {
                ended.push((*supervisor, legs.clone()));
                false
            }
            _ => true,
        });
        ended
    }

    fn converse(&mut self, packets: i16) -> Vec<Vec<u8>> {
        let before = self.to(CUSTOMER).count();
        for number in 0..packets {
            self.say(0, 400 + number);
            self.say(1, -900);
            self.say(2, 3000);
            self.pass(20 * MS);
        }
        self.to(CUSTOMER).skip(before).map(|heard| heard.payload.clone()).collect()
    }
}

fn sent(legs: &[LegSound]) -> SentSound {
    let customer = legs.iter().find(|leg| leg.role == PartyRole::Customer);
    customer.and_then(|leg| leg.sent).expect("a customer")
}

#[test]
fn a_coached_customer_was_sent_the_agents_bytes_and_their_hash_can_be_made_again() {
    let mut harness = Harness::pcmu(None);
    harness.converse(10);
    harness.hear(Some(Activity::Coach));
    let first = harness.converse(25);
    harness.hear(None);
    let [(SUPERVISOR, legs)] = &harness.ended()[..] else { panic!("one join has ended") };
    assert_eq!(
        legs.iter().map(|leg| leg.role).collect::<Vec<_>>(),
        [PartyRole::Customer, PartyRole::Agent, PartyRole::Supervisor]
    );
    assert!(legs.iter().all(|leg| leg.codec == "PCMU"));
    assert_eq!(legs[0].remote, Some(address(1)));
    assert!(legs[1].sent.is_none() && legs[2].sent.is_none());
    let expected =
        SentSound { packets: 25, agents: 25, hash_before: [0; 32], hash: hash([0; 32], &first) };
    assert_eq!(sent(legs), expected);

    // Between two joins nothing is counted; the hash goes on.
    harness.converse(10);
    harness.hear(Some(Activity::ListenIn));
    let second = harness.converse(5);
    harness.hear(None);
    let [(SUPERVISOR, legs)] = &harness.ended()[..] else { panic!("one join has ended") };
    assert_eq!(sent(legs).hash_before, expected.hash);
    assert_eq!(sent(legs).hash, hash(expected.hash, &second));
    assert_eq!((sent(legs).packets, sent(legs).agents), (5, 5));
}

#[test]
fn what_was_mixed_or_coded_anew_is_not_the_agents() {
    let mut harness = Harness::pcmu(Some(Activity::Coach));
    let coached = harness.converse(10);
    harness.hear(Some(Activity::BargeIn));
    let barged = harness.converse(10);
    harness.hear(None);
    let ended = harness.ended();
    let counted = sent(&ended[0].1);
    assert_eq!(counted.agents, 10);
    assert_eq!(counted.packets, (coached.len() + barged.len()) as u64);
    assert!(barged.len() > 8, "{}", barged.len());
    assert_eq!(counted.hash, hash([0; 32], &[coached, barged].concat()));

    let mut harness = Harness::new([Codec::Pcma, Codec::Pcmu, Codec::Pcmu], Some(Activity::Coach));
    harness.converse(10);
    harness.hear(None);
    let counted = sent(&harness.ended()[0].1);
    assert_eq!((counted.packets, counted.agents), (10, 0));
}

#[test]
fn the_join_of_a_second_supervisor_parts_the_hash_of_the_first() {
    let mut harness = Harness::pcmu(Some(Activity::Coach));
    let alone = harness.converse(4);
    let numbers = StreamStart { ssrc: 9, sequence: 1, timestamp: 1, reports: 1 };
    let leg = Leg::new(SECOND, numbers, harness.time()).at_port(20_006);
    harness.call.put(leg, harness.time()).unwrap();
    let listens = LegMedia { send: false, ..media(3, Codec::Pcmu) };
    harness.call.handle_describe(SECOND, listens, harness.time());
    let role = |activity| HearingRole::Supervisor {
        activity,
        coached: Some(AGENT),
        agent_side_only: false,
    };
    let both = Hearing::of(&[
        (AGENT, HearingRole::Agent),
        (CUSTOMER, HearingRole::Customer),
        (SUPERVISOR, role(Activity::Coach)),
        (SECOND, role(Activity::ListenIn)),
    ]);
    harness.call.handle_hear(both, harness.time());
    let together = harness.converse(6);
    // The first one's leg is closed; the second one stays.
    harness.call.take(SUPERVISOR, harness.time()).unwrap();
    let [(SUPERVISOR, legs)] = &harness.ended()[..] else { panic!("one join has ended") };
    let first = sent(legs);
    let parted = hash([0; 32], &alone);
    assert_eq!(first.hash, hash(parted, &together));
    assert_eq!((first.packets, first.agents, first.hash_before), (10, 10, [0; 32]));
    // The customer hangs up before the second supervisor.
    let last = harness.converse(3);
    harness.call.take(CUSTOMER, harness.time()).unwrap();
    assert_eq!(harness.ended(), [], "the supervisor is there still");
    harness.call.handle_hear(Hearing::default(), harness.time());
    let [(SECOND, legs)] = &harness.ended()[..] else { panic!("one join has ended") };
    let second = sent(legs);
    assert_eq!((second.packets, second.hash_before), (9, parted));
    assert_eq!(second.hash, hash(first.hash, &last));
    let ports: Vec<u16> = legs.iter().map(|leg| leg.port).collect();
    assert_eq!(ports, [0, 0, 20_006]);
}

#[test]
fn a_call_without_a_supervisor_counts_nothing() {
    let mut harness = Harness::pcmu(None);
    harness.converse(5);
    assert!(harness.call.leg(CUSTOMER).unwrap().sound.is_none());
    harness.hear(Some(Activity::Coach));
    assert!(harness.call.leg(CUSTOMER).unwrap().sound.is_some());
    assert!(harness.call.leg(AGENT).unwrap().sound.is_none());
    harness.hear(None);
    assert!(harness.call.leg(CUSTOMER).unwrap().sound.is_none());
}
