//! How a leg fares: its counters, and the quality that they and its reports come to.

use super::*;

/// What is known of a leg at one moment, to be judged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    /// What it counted, without what follows from its streams.
    pub(super) counted: LegStats,
    /// Packets that it has sent and that did not come.
    pub(super) lost: u64,
    /// The jitter of what comes from it (RFC 3550 6.4.1).
    pub(super) jitter: Duration,
    /// The codec that comes from it.
    pub(super) spoken: Codec,
    /// The codec that is sent to it; `None`: nothing was agreed yet, and nothing is judged.
    pub(super) sent: Option<Codec>,
    /// Ticks a second of what is sent to it: a leg measures our jitter by our clock.
    pub(super) clock: u32,
    /// What it reported last of what it receives.
    pub(super) remote: Option<Block>,
}

impl Measured {
    /// All that the leg did so far.
    pub(super) fn stats(self) -> LegStats {
        let received = self.counted.received;
        let remote_lost = self.remote.map_or(0, |remote| u64::try_from(remote.lost).unwrap_or(0));
        LegStats {
            lost: self.lost,
            jitter: self.jitter,
            remote_lost,
            remote_fraction_lost: self.remote.map_or(0, |remote| remote.fraction_lost),
            remote_jitter: self.remote.map_or(Duration::ZERO, |remote| self.remote_jitter(remote)),
            mos: self.mos_received(self.lost, received + self.lost).filter(|_| received > 0),
            remote_mos: self
                .remote
                .and_then(|remote| self.mos_sent(remote, remote_lost, self.counted.sent)),
            ..self.counted
        }
    }

    /// What an interval between two reports came to.
    pub(super) fn quality(self, interval: Interval) -> Quality {
        let has_come = interval.expected > interval.lost;
        Quality {
            packets_sent: self.counted.sent,
            packets_received: self.counted.received,
            lost_permille: permille(interval.lost, interval.expected),
            jitter_ms: millis(self.jitter),
            mos: self.mos_received(interval.lost, interval.expected).filter(|_| has_come),
            remote: self.remote.and_then(|remote| {
                let lost = u64::from(remote.fraction_lost);
                Some(RemoteQuality {
                    lost_permille: permille(lost, 256),
                    jitter_ms: millis(self.remote_jitter(remote)),
                    mos: self.mos_sent(remote, lost, 256)?,
                })
            }),
            round_trip_ms: self.counted.round_trip.map(millis),
        }
    }

    fn remote_jitter(self, remote: Block) -> Duration {
        rtcp::time_of(remote.jitter, self.clock)
    }

    fn mos_received(self, lost: u64, expected: u64) -> Option<u16> {
        self.sent?;
        Some(self.mos(self.spoken, lost, expected, self.jitter))
    }

    fn mos_sent(self, remote: Block, lost: u64, expected: u64) -> Option<u16> {
        Some(self.mos(self.sent?, lost, expected, self.remote_jitter(remote)))
    }

    fn mos(self, codec: Codec, lost: u64, expected: u64, jitter: Duration) -> u16 {
        let round_trip = self.counted.round_trip.unwrap_or(Duration::ZERO);
        e_model::mos(e_model::rating(codec, lost, expected, e_model::delay(round_trip, jitter)))
    }
}

impl LegStats {
    /// A packet has been sent.
    pub(super) fn count(&mut self, sent: TransmitKind) {
        match sent {
            TransmitKind::Rtcp => {
                self.rtcp_sent += 1;
                return;
            }
            TransmitKind::Unchanged => self.unchanged += 1,
            TransmitKind::Transcoded => self.transcoded += 1,
            TransmitKind::Mixed => self.mixed += 1,
            TransmitKind::Silent => self.silent += 1,
            TransmitKind::Guarded => {
                self.silent += 1;
                self.leak_guards += 1;
            }
        }
        self.sent += 1;
    }
}

fn permille(part: u64, whole: u64) -> u16 {
    (part * 1000).checked_div(whole).unwrap_or(0).min(1000) as u16
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}
