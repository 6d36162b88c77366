//! The machines of RFC 3261 17 by the clock: what is sent, and when it is forgotten.

use super::*;
use crate::sip::flow::{ConnectionId, Protocol};
use crate::sip::peer::{Peer, ReturnPath};

type Machine = Transactions<u8, u8>;

const PEER: &str = "192.0.2.2:5060";

#[expect(
    clippy::disallowed_methods,
    reason = "a test has to begin somewhere; time then passes by hand"
)]
fn start() -> Instant {
    Instant::now()
}

fn machine() -> Machine {
    Transactions::new(Timing::default(), Bounds { total: 10, per_source: 2, ..Bounds::default() })
}

fn flow(protocol: Protocol, peer: &str) -> Flow {
    Flow {
        protocol,
        local: "192.0.2.1:5060".parse().unwrap(),
        peer: peer.parse().unwrap(),
        connection: ConnectionId::NONE,
    }
}

fn udp() -> Flow {
    flow(Protocol::Udp, PEER)
}

/// A request from `flow`, and its responses go back there.
fn received(flow: Flow, branch: &str, method: &str) -> ReceivedVia {
    ReceivedVia {
        key: ServerKey::new(
            Peer::Host(flow.peer.ip()),
            branch.as_bytes(),
            b"192.0.2.2",
            method.as_bytes(),
        ),
        path: ReturnPath::new(flow, None, false),
    }
}

fn request(branch: &str, method: &str) -> ReceivedVia {
    received(udp(), branch, method)
}

fn client_key(method: &str) -> ClientKey {
    ClientKey { branch: b"z9hG4bK1".to_vec(), method: method.into() }
}

/// When something was sent, in milliseconds from `from`, until nothing waits any more.
fn sent_at(machine: &mut Machine, from: Instant) -> Vec<u128> {
    let mut times = Vec::new();
    let mut now = from;
    loop {
        while let Some(output) = machine.poll_output() {
            if matches!(output, Output::Transmit { .. }) {
                times.push(now.duration_since(from).as_millis());
            }
        }
        let Some(next) = machine.poll_timeout() else {
            return times;
        };
        now = next;
        machine.handle_timeout(now);
    }
}

#[test]
fn a_request_is_repeated_at_doubling_intervals_up_to_4_s_and_given_up_after_32_s() {
    let (mut machine, now) = (machine(), start());
    machine.request(client_key("OPTIONS"), TransactionKind::Other, udp(), b"o".to_vec(), 1, now);
    let times = sent_at(&mut machine, now);
    assert_eq!(times, [0, 500, 1500, 3500, 7500, 11500, 15500, 19500, 23500, 27500, 31500]);
    assert!(machine.is_empty());
}

#[test]
fn after_a_provisional_response_a_request_is_repeated_every_4_s() {
    let (mut machine, now) = (machine(), start());
    machine.request(client_key("OPTIONS"), TransactionKind::Other, udp(), b"o".to_vec(), 1, now);
    machine.handle_response(&client_key("OPTIONS"), 100, b"", now);
    assert_eq!(
        sent_at(&mut machine, now),
        [0, 4000, 8000, 12000, 16000, 20000, 24000, 28000, 32000]
    );
    assert!(machine.is_empty());
}

#[test]
fn nothing_is_repeated_on_a_connection_and_its_loss_is_a_failure() {
    let (mut machine, now) = (machine(), start());
    let tcp = flow(Protocol::Tcp, PEER);
    machine.request(client_key("INVITE"), TransactionKind::Invite, tcp, b"i".to_vec(), 1, now);
    assert_eq!(machine.poll_output(), Some(Output::Transmit { flow: tcp, bytes: b"i".to_vec() }));
    machine.handle_unreachable(&udp());
    assert_eq!(machine.poll_output(), None);
    machine.handle_unreachable(&tcp);
    assert_eq!(machine.poll_output(), Some(Output::Unreachable(1)));
    assert!(machine.is_empty());
}

#[test]
fn a_late_response_to_an_answered_request_is_absorbed_for_5_s() {
    let (mut machine, now) = (machine(), start());
    let id =
        machine.request(client_key("BYE"), TransactionKind::Other, udp(), b"b".to_vec(), 1, now);
    assert_eq!(machine.handle_response(&client_key("BYE"), 200, b"", now), Reply::Pass(id, 1));
    assert_eq!(machine.handle_response(&client_key("BYE"), 200, b"", now), Reply::Absorbed);
    machine.handle_timeout(now + Duration::from_secs(5));
    assert!(machine.is_empty());
}

#[test]
fn an_answer_is_repeated_for_as_long_as_the_request_may_be() {
    let (mut machine, now) = (machine(), start());
    let key = request("z9hG4bKa", "BYE");
    let id = machine.open(key.clone(), TransactionKind::Other, 1).unwrap();
    assert_eq!(machine.handle_request(&key), Arrival::Repeated);
    assert_eq!(machine.poll_output(), None, "there is no answer yet");
    machine.respond(id, 200, b"ok".to_vec(), now);
    machine.respond(id, 500, b"too late".to_vec(), now);
    assert_eq!(machine.handle_request(&key), Arrival::Repeated);
    let sent: Vec<_> = std::iter::from_fn(|| machine.poll_output()).collect();
    let ok = Output::Transmit { flow: udp(), bytes: b"ok".to_vec() };
    assert_eq!(sent, [ok.clone(), ok]);
    machine.handle_timeout(now + Duration::from_secs(32));
    assert!(machine.is_empty());
    assert_eq!(machine.handle_request(&key), Arrival::New);
}

#[test]
fn a_refusal_of_an_invite_is_repeated_until_its_ack_or_32_s() {
    let (mut machine, now) = (machine(), start());
    let key = request("z9hG4bKa", "INVITE");
    let id = machine.open(key.clone(), TransactionKind::Invite, 1).unwrap();
    machine.respond(id, 486, b"busy".to_vec(), now);
    let times = sent_at(&mut machine, now);
    assert_eq!(times, [0, 500, 1500, 3500, 7500, 11500, 15500, 19500, 23500, 27500, 31500]);
    assert!(machine.is_empty());

    let id = machine.open(key.clone(), TransactionKind::Invite, 1).unwrap();
    machine.respond(id, 486, b"busy".to_vec(), now);
    assert!(machine.handle_ack(&key.key, now));
    assert!(machine.handle_ack(&key.key, now), "a repeated ACK is absorbed");
    assert_eq!(sent_at(&mut machine, now), [0]);
    assert!(machine.is_empty());
}

#[test]
fn an_accepted_invite_absorbs_its_repetitions_and_leaves_the_ack_to_the_dialog() {
    let (mut machine, now) = (machine(), start());
    let key = request("z9hG4bKa", "INVITE");
    let id = machine.open(key.clone(), TransactionKind::Invite, 1).unwrap();
    machine.respond(id, 180, b"ringing".to_vec(), now);
    assert_eq!(machine.handle_request(&key), Arrival::Repeated);
    machine.respond(id, 200, b"ok".to_vec(), now);
    assert_eq!(machine.handle_request(&key), Arrival::Repeated);
    assert!(!machine.handle_ack(&key.key, now));
    let sent: Vec<_> = std::iter::from_fn(|| machine.poll_output()).collect();
    assert_eq!(sent.len(), 3, "180 twice, 200 once: {sent:?}");
    machine.handle_timeout(now + Duration::from_secs(32));
    assert!(machine.is_empty());
}

/// RFC 3261 18.2.2.
#[test]
fn an_answer_goes_where_the_latest_copy_of_the_request_wants_it() {
    let (mut machine, now) = (machine(), start());
    let first = request("z9hG4bKa", "INVITE");
    let id = machine.open(first.clone(), TransactionKind::Invite, 1).unwrap();
    machine.respond(id, 100, b"trying".to_vec(), now);
    let elsewhere = flow(Protocol::Udp, "192.0.2.2:40000");
    let again = ReceivedVia { path: ReturnPath::new(elsewhere, None, false), ..first.clone() };
    assert_eq!(machine.handle_request(&again), Arrival::Repeated);
    machine.respond(id, 200, b"ok".to_vec(), now);
    let sent: Vec<Flow> = std::iter::from_fn(|| machine.poll_output())
        .map(|output| match output {
            Output::Transmit { flow, .. } => flow,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(sent, [udp(), elsewhere, elsewhere]);
}

/// RFC 3261 18.2.2.
#[test]
fn what_was_said_by_a_connection_that_is_gone_is_said_again_by_a_new_one_where_the_via_has_a_port()
{
    let (mut machine, now) = (machine(), start());
    let connection = Flow { connection: ConnectionId(7), ..flow(Protocol::Tcp, "192.0.2.2:40000") };
    let named = flow(Protocol::Tcp, "192.0.2.2:5070");
    for (fallback, said) in [(Some(named.peer), 1), (None, 0)] {
        let mut asked = received(connection, "z9hG4bKa", "INVITE");
        asked.path.fallback = fallback;
        let id = machine.open(asked.clone(), TransactionKind::Invite, 1).unwrap();
        machine.respond(id, 486, b"busy".to_vec(), now);
        machine.poll_output();
        machine.handle_unreachable(&connection);
        let sent: Vec<_> = std::iter::from_fn(|| machine.poll_output()).collect();
        assert_eq!(sent.len(), said);
        assert!(
            sent.iter()
                .all(|output| matches!(output, Output::Transmit { flow, .. } if *flow == named))
        );
        assert!(machine.handle_ack(&asked.key, now));
        assert!(machine.is_empty());
    }
}

#[test]
fn a_key_of_the_same_branch_is_found_whatever_its_sent_by_is_and_another_peers_is_not() {
    let mut machine = machine();
    let peer = Peer::Host("192.0.2.2".parse().unwrap());
    let key = |peer, branch: &[u8], sent_by: &[u8], method: &[u8]| {
        ServerKey::new(peer, branch, sent_by, method)
    };
    machine.open(request("z9hG4bKa", "INVITE"), TransactionKind::Invite, 1).unwrap();
    let found = machine.of_same_branch(&key(peer, b"z9hG4bKa", b"another", b"INVITE"));
    assert_eq!(found, Some(request("z9hG4bKa", "INVITE").key));
    for other in [
        key(peer, b"z9hG4bKa", b"another", b"BYE"),
        key(peer, b"z9hG4bK", b"another", b"INVITE"),
        key(peer, b"z9hG4bKab", b"another", b"INVITE"),
        key(Peer::Host("192.0.2.3".parse().unwrap()), b"z9hG4bKa", b"192.0.2.2", b"INVITE"),
        key(Peer::Trunk(0), b"z9hG4bKa", b"192.0.2.2", b"INVITE"),
        ServerKey::old(peer, &[b"z9hG4bKa"], b"INVITE"),
    ] {
        assert_eq!(machine.of_same_branch(&other), None, "{other:?}");
    }
}

#[test]
fn a_source_has_only_so_many_transactions_that_wait_for_something() {
    let mut machine = machine();
    machine.open(request("z9hG4bKa", "BYE"), TransactionKind::Other, 1).unwrap();
    let id = machine.open(request("z9hG4bKb", "BYE"), TransactionKind::Other, 1).unwrap();
    assert_eq!(
        machine.open(request("z9hG4bKc", "BYE"), TransactionKind::Other, 1),
        Err(Overloaded)
    );
    let other = flow(Protocol::Udp, "192.0.2.3:5060");
    assert!(machine.open(received(other, "z9hG4bKc", "BYE"), TransactionKind::Other, 1).is_ok());
    machine.respond(id, 200, b"ok".to_vec(), start());
    assert!(machine.open(request("z9hG4bKd", "BYE"), TransactionKind::Other, 1).is_ok());
}
