//! Where a leg's packets come from and where they are sent.
//!
//! | | taken from | sent to |
//! |---|---|---|
//! | the described address sends | there | there |
//! | another port of its host sends first | there, after two packets | as described; NAT: there |
//! | another port of its host goes on with a silent stream | there, after two packets | there (1) |
//! | a port once in use sends its own stream again beside another | there, at once | as before |
//! | another host | never | never |
//!
//! (1) With `follow = false`, where it was. Two packets: in a row. NAT: the peer is behind one.
//!
//! A stream goes on under its SSRC: a sender at another port of the host, or one that writes that
//! host into its packets, does not know it. Behind a NAT nothing is known before the first packets:
//! what was learned from few of them, or has been silent for [`ABANDONED`], gives way to any
//! stream.
//!
//! How much is sent before anything has come is for [`SourceRule::unheard`] to say.

use crate::media::LegMedia;
use crate::media::rtp::ReceivedRtp;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// How long the port in use is silent before another port of its host may take its place.
const SILENT: Duration = Duration::from_secs(1);
/// How many packets show that the port that was learned first is the phone's: a second of sound.
const PROVEN: u32 = 50;
/// How long a learned port is silent before any stream of its host may take its place.
const ABANDONED: Duration = Duration::from_secs(15);
/// The shortest time between two such changes.
const BETWEEN: Duration = Duration::from_secs(5);

/// What holds for the addresses of a leg beside what its description says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceRule {
    /// Packets, RTP and RTCP, that are sent to the described address while none has come from
    /// there; `None`: as many as there are. A valid packet from there lifts the bound until another
    /// address is described.
    pub unheard: Option<u32>,
    /// Another host that the leg's packets may come from, and are then sent to: that of its
    /// signalling.
    pub or_from: Option<IpAddr>,
    /// Whether packets are sent after a port that has changed in the middle of the stream. Without
    /// it they go where the description says.
    pub follow: bool,
}

impl Default for SourceRule {
    fn default() -> Self {
        Self { unheard: None, or_from: None, follow: true }
    }
}

/// The end of what was heard.
#[derive(Clone, Copy, Debug)]
struct Last {
    at: Instant,
    ssrc: u32,
    /// Packets that have come from there, as far as they count.
    packets: u32,
}

/// The addresses of a leg.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SourceFilter {
    /// Where RTP is taken from.
    from: Option<SocketAddr>,
    /// Where RTP is sent.
    to: Option<SocketAddr>,
    rtcp: Option<SocketAddr>,
    /// Where the description says that it is.
    described: Option<SocketAddr>,
    /// RTCP is where RTP is.
    rtcp_mux: bool,
    nat: bool,
    /// `from` is settled: it was signalled and is not behind a NAT, or has sent, or was learned.
    settled: bool,
    rtcp_settled: bool,
    /// Something is another one since [`SourceFilter::take_changed`] was asked.
    changed: bool,
    /// Packets that may still be sent; `None`: any number.
    left: Option<u32>,
    /// Packets that were sent to addresses of which nothing had come, of all descriptions of the
    /// leg.
    spent: u32,
    /// The bound was reached, and nobody has been told.
    withheld: bool,
    /// A valid packet has come from where packets are sent.
    confirmed: bool,
    last: Option<Last>,
    /// The source that was in use before: its address and SSRC.
    before: Option<(SocketAddr, u32)>,
    /// The source that may be learned: address, SSRC, sequence number of its first packet.
    candidate: Option<(SocketAddr, u32, u16)>,
    /// When a port was learned in the place of another.
    relearned: Option<Instant>,
    rule: SourceRule,
}

impl SourceFilter {
    /// As a description has it, under the rule that holds already.
    pub(super) fn described(&self, media: &LegMedia) -> Self {
        Self {
            from: media.remote,
            to: media.remote,
            described: media.remote,
            rtcp: media.remote_rtcp.or_else(|| media.remote.and_then(after)),
            rtcp_mux: media.rtcp_mux,
            nat: media.nat,
            settled: !media.nat,
            rtcp_settled: !media.nat,
            changed: true,
            left: self.rule.unheard.map(|all| all.saturating_sub(self.spent)),
            spent: self.spent,
            rule: self.rule,
            ..Self::default()
        }
    }

    /// Sets the rule. What has been heard stays heard.
    pub(super) fn set_rule(&mut self, rule: SourceRule) {
        if self.rule.unheard != rule.unheard && !self.confirmed {
            self.left = rule.unheard.map(|all| all.saturating_sub(self.spent));
            self.changed = true;
        }
        self.rule = rule;
    }

    /// Where RTP may be sent now.
    pub(super) fn target(&self) -> Option<SocketAddr> {
        self.to.filter(|_| self.left != Some(0))
    }

    /// Where RTCP may be sent now.
    pub(super) fn rtcp_target(&self) -> Option<SocketAddr> {
        let to = if self.rtcp_mux { self.to } else { self.rtcp };
        to.filter(|_| self.left != Some(0))
    }

    /// A packet is sent.
    pub(super) fn spend(&mut self) {
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(1);
            self.spent = self.spent.saturating_add(1);
            self.withheld |= *left == 0;
        }
    }

    /// Whether the bound was reached since this was asked.
    pub(super) fn take_withheld(&mut self) -> bool {
        std::mem::take(&mut self.withheld)
    }

    /// Whether the addresses, or whether anything may be sent, may be others since this was asked.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// RTCP shares the ports of RTP.
    pub(super) fn is_muxed(&self) -> bool {
        self.rtcp_mux
    }

    /// Where RTP comes from, once that is settled.
    pub(super) fn rtp_source(&self) -> Option<SocketAddr> {
        self.from.filter(|_| self.settled)
    }

    /// Where RTCP comes from, once that is settled; `None` where it comes with RTP.
    pub(super) fn rtcp_source(&self) -> Option<SocketAddr> {
        self.rtcp.filter(|_| self.rtcp_settled && !self.rtcp_mux)
    }

    /// Whether RTP from there is the leg's. `packet`: it is RTP of a payload type that was agreed.
    pub(super) fn admits(
        &mut self,
        from: SocketAddr,
        packet: Option<&ReceivedRtp>,
        now: Instant,
    ) -> bool {
        let Some(known) = self.from else { return false };
        if from == known {
            if let Some(packet) = packet {
                self.hear(from, packet, now);
            }
            return true;
        }
        let Some(packet) = packet else { return false };
        if self.is_back(from) && self.before.is_some_and(|(_, ssrc)| ssrc == packet.ssrc) {
            self.learn(from, packet, now);
            return true;
        }
        if self.is_described_again(from) {
            // The described address is the leg's, whatever another port of its host has sent
            // before.
            self.from = Some(from);
            self.hear(from, packet, now);
            return true;
        }
        if !self.may_learn(from, now)
            || self.last.is_some_and(|last| !last.gives_way_to(packet, self.nat, now))
        {
            return false;
        }
        match self.candidate {
            Some((address, ssrc, sequence))
                if address == from
                    && ssrc == packet.ssrc
                    && packet.sequence == sequence.wrapping_add(1) =>
            {
                self.learn(from, packet, now);
                true
            }
            Some(_) | None => {
                self.candidate = Some((from, packet.ssrc, packet.sequence));
                false
            }
        }
    }

    /// Whether RTP from there may be the leg's, once it has shown to be valid.
    pub(super) fn may_admit(&self, from: SocketAddr, now: Instant) -> bool {
        self.from == Some(from)
            || self.from.is_some()
                && (self.is_described_again(from)
                    || self.is_back(from)
                    || self.may_learn(from, now))
    }

    /// Whether RTP from there has been the leg's.
    pub(super) fn is_known(&self, from: SocketAddr) -> bool {
        self.from == Some(from)
    }

    /// [`SourceFilter::may_admit`] of RTCP.
    pub(super) fn may_admit_rtcp(&self, from: SocketAddr) -> bool {
        if self.rtcp_mux {
            return self.is_rtp_address(from);
        }
        self.rtcp == Some(from)
            || !self.rtcp_settled && self.rtcp.is_some_and(|known| known.ip() == from.ip())
    }

    /// [`SourceFilter::is_known`] of RTCP.
    pub(super) fn is_known_rtcp(&self, from: SocketAddr) -> bool {
        self.rtcp == Some(from)
    }

    /// Whether RTCP from there is the leg's. Behind a NAT, and after RTP has moved, its port is
    /// learned, once.
    pub(super) fn admits_rtcp(&mut self, from: SocketAddr, valid: bool) -> bool {
        if self.rtcp_mux {
            let admitted = self.is_rtp_address(from);
            if admitted && valid && self.to == Some(from) {
                self.confirm();
            }
            return admitted;
        }
        let Some(known) = self.rtcp else { return false };
        if from == known {
            self.changed |= valid && !self.rtcp_settled;
            self.rtcp_settled |= valid;
            if valid && self.to.is_some_and(|to| to.ip() == from.ip()) {
                self.confirm();
            }
            return true;
        }
        if self.rtcp_settled || from.ip() != known.ip() || !valid {
            return false;
        }
        self.rtcp = Some(from);
        self.rtcp_settled = true;
        self.changed = true;
        true
    }

    fn is_rtp_address(&self, from: SocketAddr) -> bool {
        self.from == Some(from) || self.to == Some(from) && !self.nat
    }

    /// The described address speaks after another port of its host was heard in its place.
    fn is_described_again(&self, from: SocketAddr) -> bool {
        !self.nat && self.to == Some(from) && !self.confirmed
    }

    /// The port was in use, and another stream is heard since.
    fn is_back(&self, from: SocketAddr) -> bool {
        let is_other = |ssrc| self.last.is_some_and(|last| last.ssrc != ssrc);
        self.before.is_some_and(|(before, ssrc)| before == from && is_other(ssrc))
    }

    /// Whether two packets in a row from there would make it the source.
    fn may_learn(&self, from: SocketAddr, now: Instant) -> bool {
        let is_of_host = self.from.is_some_and(|known| known.ip() == from.ip());
        match self.last {
            None => is_of_host || self.rule.or_from == Some(from.ip()),
            Some(last) => {
                let is_silent = now.saturating_duration_since(last.at) >= SILENT;
                is_of_host
                    && is_silent
                    && self.relearned.is_none_or(|at| now.saturating_duration_since(at) >= BETWEEN)
            }
        }
    }

    fn learn(&mut self, from: SocketAddr, packet: &ReceivedRtp, now: Instant) {
        let is_other_host = self.from.is_some_and(|known| known.ip() != from.ip());
        let is_symmetric = self.to == self.from;
        let moves = match self.last {
            None => self.nat || is_other_host,
            Some(_) => is_symmetric && (self.nat || self.rule.follow),
        };
        if let Some(last) = self.last {
            self.relearned = Some(now);
            if last.ssrc != packet.ssrc {
                // A sender that had spoken little, and not from where it was described, has nothing
                // to come back to.
                let was_shown = last.packets >= PROVEN || self.from == self.described;
                self.before = self.from.filter(|_| was_shown).map(|known| (known, last.ssrc));
                self.last = None;
            }
        }
        self.candidate = None;
        self.from = Some(from);
        self.settled = true;
        self.changed = true;
        if moves {
            self.to = Some(from);
            self.rtcp_settled = false;
            if is_other_host {
                self.rtcp = after(from);
            }
        }
        self.hear(from, packet, now);
    }

    fn hear(&mut self, from: SocketAddr, packet: &ReceivedRtp, now: Instant) {
        let packets = self.last.map_or(1, |last| last.packets.saturating_add(1));
        self.last = Some(Last { at: now, ssrc: packet.ssrc, packets });
        if !self.settled {
            self.settled = true;
            self.changed = true;
        }
        if self.to == Some(from) {
            self.confirm();
        }
    }

    fn confirm(&mut self) {
        if !self.confirmed {
            self.confirmed = true;
            self.left = None;
            self.changed = true;
        }
    }
}

impl Last {
    /// The stream of another port takes the place of what was heard: the same stream; and behind a
    /// NAT any, where there was little to hear, or nothing for long.
    fn gives_way_to(&self, packet: &ReceivedRtp, nat: bool, now: Instant) -> bool {
        let is_abandoned = now.saturating_duration_since(self.at) >= ABANDONED;
        packet.ssrc == self.ssrc || nat && (self.packets < PROVEN || is_abandoned)
    }
}

fn after(mut address: SocketAddr) -> Option<SocketAddr> {
    address.set_port(address.port().checked_add(1)?);
    Some(address)
}

#[cfg(test)]
mod tests {
    //! RFC 3264 5.1 (where media is sent), RFC 4961 (symmetric RTP), RFC 3550 11.

    use super::*;
    use crate::media::Codec;

    const HOST: [u8; 4] = [192, 0, 2, 7];
    const OTHER: [u8; 4] = [192, 0, 2, 8];

    struct Bench {
        source: SourceFilter,
        now: Instant,
        sequence: u16,
    }

    fn at(host: [u8; 4], port: u16) -> SocketAddr {
        SocketAddr::from((host, port))
    }

    fn described(nat: bool) -> LegMedia {
        LegMedia {
            remote: Some(at(HOST, 4000)),
            remote_rtcp: None,
            rtcp_mux: false,
            codec: Codec::Pcmu,
            payload_type: 0,
            dtmf_pt: None,
            dtmf_clock: 8000,
            comfort_noise: None,
            receives: crate::media::PayloadTypes::default(),
            send: true,
            receive: true,
            nat,
        }
    }

    impl Bench {
        #[expect(clippy::disallowed_methods, reason = "an arbitrary origin of the test's clock")]
        fn new(nat: bool, rule: SourceRule) -> Self {
            let mut source = SourceFilter::default();
            source.set_rule(rule);
            Self { source: source.described(&described(nat)), now: Instant::now(), sequence: 100 }
        }

        fn packet(&mut self, from: SocketAddr, ssrc: u32, sequence: u16) -> bool {
            let packet = ReceivedRtp {
                marker: false,
                payload_type: 0,
                sequence,
                timestamp: u32::from(sequence) * 160,
                ssrc,
                payload: 12..172,
            };
            self.source.admits(from, Some(&packet), self.now)
        }

        /// The next packets of the phone's stream; how many are taken.
        fn speaks(&mut self, from: SocketAddr, packets: usize) -> usize {
            (0..packets)
                .filter(|_| {
                    self.sequence += 1;
                    self.packet(from, 7, self.sequence)
                })
                .count()
        }

        fn wait(&mut self, millis: u64) {
            self.now += Duration::from_millis(millis);
        }
    }

    #[test]
    fn a_phone_sending_from_another_port_than_described_is_heard_there_and_sent_to_where_it_said() {
        let mut bench = Bench::new(false, SourceRule::default());
        assert_eq!(bench.speaks(at(HOST, 5000), 10), 9);
        assert_eq!(bench.source.target(), Some(at(HOST, 4000)));
        assert_eq!(bench.source.rtp_source(), Some(at(HOST, 5000)));
        assert_eq!(bench.speaks(at(OTHER, 5000), 10), 0);
        assert_eq!(bench.speaks(at(HOST, 5002), 10), 0);
    }

    #[test]
    fn the_described_address_is_heard_at_once_whatever_another_port_of_its_host_has_sent() {
        let mut bench = Bench::new(false, SourceRule::default());
        bench.speaks(at(HOST, 5000), 10);
        assert_eq!(bench.speaks(at(HOST, 4000), 3), 3);
        assert_eq!(bench.speaks(at(HOST, 5000), 10), 0);
        assert_eq!(bench.source.target(), Some(at(HOST, 4000)));
    }

    #[test]
    fn nobody_is_sent_to_who_was_described_elsewhere_until_a_valid_packet_has_come_from_there() {
        let rule = SourceRule { unheard: Some(0), ..SourceRule::default() };
        let mut bench = Bench::new(false, rule);
        assert_eq!((bench.source.target(), bench.source.rtcp_target()), (None, None));
        // Not RTP, not from there, not from the described port.
        assert!(bench.source.admits(at(HOST, 4000), None, bench.now));
        bench.speaks(at(OTHER, 4000), 5);
        bench.speaks(at(HOST, 4002), 5);
        assert_eq!((bench.source.target(), bench.source.rtcp_target()), (None, None));
        bench.speaks(at(HOST, 4000), 1);
        assert_eq!(bench.source.target(), Some(at(HOST, 4000)));
        assert_eq!(bench.source.rtcp_target(), Some(at(HOST, 4001)));
        // Another address: the same again. The same rule again: what was heard stays heard.
        bench.source.set_rule(SourceRule { unheard: Some(9), ..SourceRule::default() });
        assert_eq!(bench.source.target(), Some(at(HOST, 4000)));
        let elsewhere = LegMedia { remote: Some(at(OTHER, 6000)), ..described(false) };
        bench.source.set_rule(rule);
        assert_eq!(bench.source.described(&elsewhere).target(), None);
    }

    #[test]
    fn valid_rtcp_from_where_it_was_described_is_a_sign_of_life_too() {
        let rule = SourceRule { unheard: Some(0), ..SourceRule::default() };
        let mut bench = Bench::new(false, rule);
        assert!(!bench.source.admits_rtcp(at(OTHER, 4001), true));
        assert!(bench.source.admits_rtcp(at(HOST, 4001), false));
        assert_eq!(bench.source.target(), None);
        assert!(bench.source.admits_rtcp(at(HOST, 4001), true));
        assert_eq!(bench.source.target(), Some(at(HOST, 4000)));
    }

    #[test]
    fn so_many_packets_and_no_more_go_to_an_address_of_which_nothing_comes() {
        let rule = SourceRule { unheard: Some(3), ..SourceRule::default() };
        let mut bench = Bench::new(false, rule);
        for _ in 0..3 {
            assert!(bench.source.target().is_some());
            assert!(!bench.source.take_withheld());
            bench.source.spend();
        }
        assert_eq!(bench.source.target(), None);
        assert!(bench.source.take_withheld());
        assert!(!bench.source.take_withheld());
        bench.speaks(at(HOST, 4000), 1);
        for _ in 0..10 {
            bench.source.spend();
        }
        assert_eq!(bench.source.target(), Some(at(HOST, 4000)));
    }

    #[test]
    fn a_nat_that_rebinds_is_followed_to_another_port_of_the_same_host_once_the_old_one_is_silent()
    {
        for nat in [true, false] {
            let mut bench = Bench::new(nat, SourceRule::default());
            bench.speaks(at(HOST, 4000), 10);
            assert_eq!(bench.speaks(at(HOST, 9000), 10), 0, "the old one is not silent");
            bench.wait(1000);
            assert_eq!(bench.speaks(at(OTHER, 9000), 10), 0, "another host");
            assert_eq!(bench.speaks(at(HOST, 9000), 10), 9);
            assert_eq!(bench.source.target(), Some(at(HOST, 9000)));
            assert_eq!(bench.speaks(at(HOST, 4000), 10), 0, "there is one at a time");
            // RTCP has another port too.
            assert!(bench.source.admits_rtcp(at(HOST, 9003), true));
            assert_eq!(bench.source.rtcp_target(), Some(at(HOST, 9003)));
        }
    }

    #[test]
    fn a_stream_that_does_not_go_on_with_what_was_heard_takes_no_place() {
        for nat in [true, false] {
            let mut bench = Bench::new(nat, SourceRule::default());
            bench.speaks(at(HOST, 4000), 60);
            for wait in [1000, 4000, 9000] {
                bench.wait(wait);
                let next = bench.sequence + 1;
                assert!(
                    (0..50).all(|n| !bench.packet(at(HOST, 9000), 8, next + n)),
                    "numbers that may follow are no proof"
                );
                assert!((0..50).all(|n| !bench.packet(at(HOST, 9000), 8, 40_000 + n)));
            }
            assert_eq!(bench.speaks(at(HOST, 4000), 10), 10);
        }
    }

    #[test]
    fn behind_a_nat_few_packets_from_another_port_before_the_phones_own_do_not_keep_it_out() {
        let mut bench = Bench::new(true, SourceRule::default());
        assert_eq!((1..4).filter(|n| bench.packet(at(HOST, 9000), 8, *n)).count(), 2);
        bench.wait(1000);
        assert_eq!(bench.speaks(at(HOST, 5000), 10), 9);
        assert_eq!(bench.source.target(), Some(at(HOST, 5000)));
        assert_eq!((4..40).filter(|n| bench.packet(at(HOST, 9000), 8, *n)).count(), 0);
    }

    #[test]
    fn behind_a_nat_a_port_that_is_silent_for_long_gives_way_and_is_back_at_once_when_it_speaks() {
        let mut bench = Bench::new(true, SourceRule::default());
        bench.speaks(at(HOST, 4000), 60);
        bench.wait(14_000);
        assert!((1..9).all(|n| !bench.packet(at(HOST, 9000), 8, n)));
        bench.wait(1000);
        assert_eq!((1..9).filter(|n| bench.packet(at(HOST, 9000), 8, *n)).count(), 7);
        assert_eq!(bench.speaks(at(HOST, 4000), 10), 10, "the phone's own stream again");
        assert_eq!(bench.source.target(), Some(at(HOST, 4000)));
        assert_eq!((9..20).filter(|n| bench.packet(at(HOST, 9000), 8, *n)).count(), 0);
    }

    #[test]
    fn ports_change_no_more_than_every_five_seconds() {
        let mut bench = Bench::new(true, SourceRule::default());
        bench.speaks(at(HOST, 4000), 10);
        bench.wait(1000);
        assert_eq!(bench.speaks(at(HOST, 9000), 2), 1);
        bench.wait(1500);
        assert_eq!(bench.speaks(at(HOST, 9002), 10), 0);
        bench.wait(3500);
        assert_eq!(bench.speaks(at(HOST, 9002), 10), 9);
    }

    #[test]
    fn where_nothing_is_to_be_followed_a_new_port_is_heard_and_the_old_one_sent_to() {
        let rule = SourceRule { follow: false, ..SourceRule::default() };
        let mut bench = Bench::new(false, rule);
        bench.speaks(at(HOST, 4000), 10);
        bench.wait(1000);
        assert_eq!(bench.speaks(at(HOST, 9000), 10), 9);
        assert_eq!(bench.source.target(), Some(at(HOST, 4000)));
    }

    #[test]
    fn the_host_of_the_signalling_may_send_in_the_place_of_the_described_one_until_that_is_heard() {
        let rule =
            SourceRule { unheard: Some(0), or_from: Some(IpAddr::from(OTHER)), follow: true };
        let mut bench = Bench::new(true, rule);
        assert_eq!(bench.speaks(at(OTHER, 7000), 3), 2);
        assert_eq!(bench.source.target(), Some(at(OTHER, 7000)));
        assert_eq!(bench.source.rtcp_target(), Some(at(OTHER, 7001)));
        assert_eq!(bench.speaks(at(HOST, 4000), 3), 0);
        let mut bench = Bench::new(true, rule);
        assert_eq!(bench.speaks(at(HOST, 4000), 3), 3);
        bench.wait(10_000);
        assert_eq!(bench.speaks(at(OTHER, 7000), 10), 0);
    }
}
