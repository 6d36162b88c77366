use super::*;

impl Harness {
    fn talk(&mut self, rounds: usize) {
        for _ in 0..rounds {
            self.say(0, 0);
            self.say(1, 0);
            self.pass(20 * MS);
        }
    }

    /// A leg's RTCP comes, from there.
    fn rtcp_from(&mut self, index: usize, from: SocketAddr, bytes: &[u8]) -> PacketVerdict {
        self.call.handle_rtcp(index, from, bytes, self.time())
    }

    fn qualities_of(&self, leg: LegId) -> Vec<Quality> {
        let of = self.qualities.iter().filter(|(of, _)| *of == leg);
        of.map(|(_, quality)| *quality).collect()
    }
}

/// The RTCP port of a phone that does not share.
fn rtcp_address(index: usize) -> SocketAddr {
    let mut address = address(index);
    address.set_port(4001);
    address
}

/// What a phone reports of our stream to it: one block.
fn receiver_report(
    ours: u32,
    lost: (u8, i32),
    jitter: u32,
    (middle, delay): (u32, u32),
) -> Vec<u8> {
    let lost = u32::from(lost.0) << 24 | lost.1 as u32 & 0xff_ffff;
    let words = [0x81c9_0007, 7, ours, lost, 0, jitter, middle, delay];
    words.into_iter().flat_map(u32::to_be_bytes).collect()
}

#[test]
fn reports_go_out_every_five_seconds_on_average_and_not_to_all_at_once() {
    let mut harness = Harness::pcmu(None);
    harness.talk(30_000);
    for leg in LEGS {
        let at: Vec<_> = harness
            .reports
            .iter()
            .filter(|report| report.listener == leg)
            .map(|report| report.at)
            .collect();
        assert!((110..=130).contains(&at.len()), "{} in 600 s", at.len());
        assert!(at[0] >= 1250 * MS && at[0] < 3750 * MS);
        let gaps: Vec<_> = at.windows(2).map(|two| two[1] - two[0]).collect();
        assert!(gaps.iter().all(|gap| (2500 * MS..7500 * MS).contains(gap)));
        assert!(gaps.iter().max() > gaps.iter().min().map(|gap| *gap * 2).as_ref());
        assert_eq!(harness.stats(leg).rtcp_sent, at.len() as u64);
        let words = if leg == SUPERVISOR { 0 } else { at.len() };
        assert_eq!(
            harness.qualities_of(leg).len(),
            words,
            "one word with each report, if there is anything to say"
        );
    }
    assert_ne!(harness.reports[0].at, harness.reports[1].at);
    assert_eq!(harness.stats(CUSTOMER).lost, 0);
}

#[test]
fn what_a_leg_loses_and_says_it_loses_is_told_at_each_report() {
    let mut harness = Harness::pcmu(None);
    harness.talk(300);
    let steady = *harness.qualities_of(AGENT).last().unwrap();
    assert_eq!((steady.lost_permille, steady.jitter_ms, steady.mos), (0, 0, Some(441)));
    assert_eq!((steady.remote, steady.round_trip_ms), (None, None));
    // One in five.
    for _ in 0..100 {
        harness.lose(0);
        harness.talk(4);
    }
    let sr = harness.reports.iter().rev().find(|report| report.listener == AGENT).unwrap().clone();
    let sent = rtcp::read(&sr.bytes, 0).unwrap().sender.unwrap();
    let away = harness.now - sr.at;
    harness.pass(2 * MS);
    let delay = ((away - 38 * MS).as_micros() * 65_536 / 1_000_000) as u32;
    let report = receiver_report(sent.0, (26, 40), 160, (sent.1, delay));
    assert_eq!(harness.rtcp_from(0, rtcp_address(0), &report), PacketVerdict::Accepted);
    for _ in 0..100 {
        harness.lose(0);
        harness.talk(4);
    }
    let quality = *harness.qualities_of(AGENT).last().unwrap();
    assert!((190..=210).contains(&quality.lost_permille), "{quality:?}");
    assert!((260..=272).contains(&quality.mos.unwrap()), "{quality:?}");
    let remote = RemoteQuality { lost_permille: 101, jitter_ms: 20, mos: 340 };
    assert_eq!((quality.remote, quality.round_trip_ms), (Some(remote), Some(40)));
    let stats = harness.stats(AGENT);
    assert_eq!((stats.lost, stats.remote_lost, stats.remote_fraction_lost), (200, 40, 26));
    assert_eq!(stats.remote_jitter, 20 * MS);
    assert!(stats.round_trip.unwrap().abs_diff(40 * MS) < MS);
    // Of all that came 15 of a hundred are missing, of all that went 4.
    assert!(
        (290..=300).contains(&stats.mos.unwrap())
            && (395..=415).contains(&stats.remote_mos.unwrap()),
        "{stats:?}"
    );
}

#[test]
fn what_a_phone_does_not_send_while_it_holds_is_not_lost() {
    for receive in [true, false] {
        let mut harness = Harness::pcmu(None);
        harness.talk(50);
        let held = LegMedia { send: false, receive, ..media(0, Codec::Pcmu) };
        harness.call.handle_describe(AGENT, held, harness.time());
        // Its numbers count on.
        for _ in 0..400 {
            harness.lose(0);
            harness.pass(20 * MS);
        }
        harness.call.handle_describe(AGENT, media(0, Codec::Pcmu), harness.time());
        harness.talk(500);
        assert_eq!(harness.stats(AGENT).lost, 0, "receive: {receive}");
        let qualities = harness.qualities_of(AGENT);
        assert!(qualities.len() > 1);
        assert!(qualities.iter().all(|quality| quality.lost_permille == 0), "{qualities:?}");
        assert!(qualities.iter().all(|quality| quality.jitter_ms < 5), "{qualities:?}");
    }
}

#[test]
fn a_leg_of_which_nothing_comes_has_no_mos() {
    let mut harness = Harness::pcmu(None);
    harness.say(0, 0);
    harness.pass(Duration::from_secs(10));
    let expected = Quality { packets_sent: 1, ..Quality::default() };
    assert_eq!(harness.qualities_of(CUSTOMER)[0], expected);
    assert_eq!((harness.stats(CUSTOMER).mos, harness.stats(CUSTOMER).remote_mos), (None, None));
}

#[test]
fn who_shares_the_port_gets_and_sends_rtcp_there_and_nowhere_else() {
    let mut harness = Harness::pcmu(None);
    let shared = LegMedia { rtcp_mux: true, ..media(0, Codec::Pcmu) };
    harness.call.handle_describe(AGENT, shared, harness.time());
    harness.talk(500);
    let places = |leg, harness: &Harness| {
        let of = harness.reports.iter().filter(move |report| report.listener == leg);
        let mut places: Vec<_> = of.map(|report| (report.to, report.muxed)).collect();
        places.dedup();
        places
    };
    assert_eq!(places(AGENT, &harness), [(address(0), true)]);
    assert_eq!(places(CUSTOMER, &harness), [(rtcp_address(1), false)]);
    let report = receiver_report(100, (1, 1), 0, (0, 0));
    assert!(harness.call.is_rtcp(0, &report) && !harness.call.is_rtcp(1, &report));
    assert!(!harness.call.is_rtcp(0, &packet(0, 0, 1, 160, &[0; 160])));
    assert_eq!(harness.rtcp_from(0, address(0), &report), PacketVerdict::Accepted);
    assert_eq!(harness.rtcp_from(0, rtcp_address(0), &report), PacketVerdict::Foreign);
    assert_eq!(harness.rtcp_from(1, rtcp_address(1), &report), PacketVerdict::Accepted);
    assert_eq!(harness.rtcp_from(1, address(1), &report), PacketVerdict::Foreign);
}

#[test]
fn behind_a_nat_shared_rtcp_goes_where_rtp_was_learned() {
    let mut harness = Harness::pcmu(None);
    let shared = LegMedia { rtcp_mux: true, nat: true, ..media(0, Codec::Pcmu) };
    harness.call.handle_describe(AGENT, shared, harness.time());
    let mut real = address(0);
    real.set_port(9999);
    let report = receiver_report(100, (1, 1), 0, (0, 0));
    assert_eq!(harness.rtcp_from(0, real, &report), PacketVerdict::Foreign, "RTCP teaches nothing");
    harness.datagram(0, real, packet(0, 0, 1, 160, &[0; 160]));
    harness.datagram(0, real, packet(0, 0, 2, 320, &[0; 160]));
    assert_eq!(harness.rtcp_from(0, real, &report), PacketVerdict::Accepted);
    harness.pass(Duration::from_secs(8));
    let to =
        harness.reports.iter().filter(|report| report.listener == AGENT).map(|report| report.to);
    assert!(to.clone().count() > 0 && to.into_iter().all(|to| to == real));
}

#[test]
fn who_is_released_is_told_goodbye_and_who_never_got_anything_is_not() {
    let mut harness = Harness::pcmu(None);
    harness.say(0, 0);
    let release = |harness: &mut Harness, leg| {
        let now = Now { mono: harness.time(), wall: Timestamp(0) };
        let mut said = Vec::new();
        harness.call.handle_release(leg, now, &mut |packet| {
            assert_eq!((packet.sent, packet.to), (TransmitKind::Rtcp, rtcp_address(packet.slot)));
            said.push(packet.bytes.to_vec());
        });
        said
    };
    assert!(release(&mut harness, AGENT).is_empty(), "nothing ever went to him");
    let said = release(&mut harness, CUSTOMER);
    assert_eq!(said.len(), 1);
    assert!(said[0].ends_with(&[0x81, 203, 0, 1, 0, 0, 0, 101]), "{said:?}");
    assert_eq!(said[0][1], 200, "a report comes first");
    harness.call.take(CUSTOMER, harness.time());
    assert!(release(&mut harness, CUSTOMER).is_empty());
}
