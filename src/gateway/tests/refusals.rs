//! How many refused attempts are written down.

use super::*;

const BOB: &str = "bob";
const EVE: &str = "eve";

/// What the agent may not ask for.
fn forbidden() -> Request {
    coach_from(BOB_PHONE, EVE_PHONE)
}

impl Harness {
    /// Asks until it is put off; the lines that were written before.
    fn asks_until_put_off(&mut self, user: &str) -> usize {
        for written in 0.. {
            let (answer, commands, records) = self.asks(user, forbidden());
            let refusal = answer.expect_err("it is refused");
            assert_eq!(commands, []);
            if refusal.reason == Reason::TooManyRequests {
                assert_eq!(records, [], "nothing is written down");
                return written;
            }
            let events: Vec<_> = records.iter().map(|record| record.event).collect();
            assert_eq!(events, [AuditEvent::Refused]);
        }
        unreachable!("there are more numbers than that")
    }

    fn passes(&mut self, time: Duration) -> Vec<AuditRecord> {
        self.now = self.now + time;
        self.gateway.handle_timeout(self.now);
        let outputs = self.outputs();
        let records = outputs.into_iter().filter_map(|output| match output {
            Output::Audit { record, .. } => Some(record),
            _ => None,
        });
        records.collect()
    }
}

#[test]
fn whoever_is_refused_too_often_is_put_off_and_one_line_says_how_often() {
    let mut harness = Harness::new();
    let began = harness.now.wall;
    assert_eq!(harness.asks_until_put_off(BOB), 60);
    for _ in 0..999 {
        assert_eq!(harness.reason(BOB, forbidden()), Reason::TooManyRequests);
    }
    let others = harness.reason(EVE, coach_from(EVE_PHONE, BOB_PHONE));
    assert_ne!(others, Reason::TooManyRequests, "each has an account of its own");
    let due = harness.gateway.poll_timeout().expect("a line is due");
    assert!(due <= harness.now.mono + Duration::from_secs(60));
    let records = harness.passes(Duration::from_secs(60));
    let [record] = &records[..] else { panic!("{records:?}") };
    assert_eq!((record.event, record.left_out), (AuditEvent::LeftOut, Some(1000)));
    assert_eq!((record.user.as_ref(), record.since), (Some(&BOB.into()), Some(began)));
    assert_eq!(record.from, Some(IpAddr::V4(Ipv4Addr::LOCALHOST)));
    assert_eq!(harness.passes(Duration::from_secs(60)), [], "it is said once");
    assert_eq!(harness.asks_until_put_off(BOB), 60, "a minute later all is forgiven");
}

#[test]
fn what_is_permitted_is_done_for_a_user_that_was_refused_too_often() {
    let mut harness = Harness::new();
    harness.asks_until_put_off(BOB);
    let dnd = Request::SetDoNotDisturb { device: BOB_PHONE.into(), on: true };
    let (answer, commands, _) = harness.asks(BOB, dnd);
    assert_eq!(answer, Ok(Answer::Accepted));
    assert_eq!(commands.len(), 1);
}

#[test]
fn what_the_backend_refuses_counts_and_soon_it_is_not_asked_any_more() {
    let mut harness = Harness::new();
    let mut lines = 0;
    for _ in 0..200 {
        harness.request(MEG, coach_from(MEG_PHONE, BOB_PHONE));
        for output in harness.outputs() {
            let Output::Audit { id, .. } = output else { continue };
            lines += 1;
            harness.gateway.handle_audited(id, Ok(()), harness.now);
        }
        for output in harness.outputs() {
            let Output::Command { id, .. } = output else { continue };
            let busy = Refusal::new(Reason::InUse, "Another supervisor monitors this device.");
            harness.gateway.handle_command_result(id, Err(busy), harness.now);
        }
        lines += harness
            .outputs()
            .iter()
            .filter(|output| matches!(output, Output::Audit { .. }))
            .count();
    }
    assert_eq!(lines, 120, "60 that were allowed, and refused");
}

#[test]
fn an_address_has_a_rate_of_its_own_and_strangers_have_one_together() {
    let config = GatewayConfig { refused_per_address: 5, ..GatewayConfig::default() };
    let mut harness = Harness::with(config, directory());
    assert_eq!(harness.asks_until_put_off(BOB), 5);
    assert_eq!(harness.asks_until_put_off(EVE), 0, "from the same address");
    let records = harness.passes(Duration::from_secs(60));
    assert_eq!(records.len(), 2, "one line for each user: {records:?}");

    let mut harness = Harness::new();
    let mut written = 0;
    for number in 0..200 {
        let (_, _, records) = harness.asks(&format!("stranger{number}"), forbidden());
        written += records.len();
    }
    assert_eq!(written, 60);
    let records = harness.passes(Duration::from_secs(60));
    assert_eq!((records.len(), records[0].user.clone()), (1, None));
    assert_eq!(records[0].left_out, Some(140));
}
