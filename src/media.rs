//! Sound: which leg hears which, and the packets that make it so.
//!
//! ```text
//!  socket ─▶ source check ─▶ rtp ─┬─ relay rows: new header, same payload ───────────────▶ socket
//!                                 └─ jitter ─▶ reader ─▶ gain ─▶ sum, saturate ─▶ codec ─▶ socket
//! ```
//!
//! [`Hearing`] is the allow-list. [`call::Call`] is the quiet machine of one call: packets and time
//! in, packets and events out. [`engine::Engine`] owns threads and sockets and drives the machines;
//! `sip` talks to nothing else.

pub mod call;
pub mod codec;
pub mod e_model;
#[cfg(feature = "io")]
pub mod engine;
mod forbidden_destinations;
mod hearing;
pub mod jitter;
mod music;
mod payload_types;
pub mod rtcp;
pub mod rtp;
pub mod srtp;
pub mod sum;
pub mod transcode;

pub use call::SourceRule;
pub use codec::Codec;
pub use forbidden_destinations::{Forbidden, Targets, is_private};
pub use hearing::{Gain, Hearing, HearingRole, HearingRules};
pub use music::{Music, NotMusic};
pub use payload_types::{EventClock, Format, MAX_FORMATS, PayloadTypes};

pub use crate::model::LegId;
use crate::model::{LegSound, Quality, config_value};
use serde::de::{Deserialize, Deserializer, Error};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// Names a call in the media engine. All legs of a call share a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallKey(pub u64);

/// Settings of the media engine.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MediaConfig {
    /// The address the sockets bind to. The default is the loopback: nothing is exposed unless
    /// configured.
    pub bind: IpAddr,
    /// The address told to phones, when it is another one. Needed when `bind` is unspecified.
    pub advertised: Option<IpAddr>,
    /// The UDP ports: RTP on even ones, RTCP on the odd one after. `None`: any the system gives
    /// (tests).
    #[serde(deserialize_with = "port_range")]
    pub ports: Option<RangeInclusive<u16>>,
    /// Whether legs have ports of their own.
    pub port_use: PortUse,
    /// A pair of ports that was given back rests so long before another leg gets it: what is still
    /// on its way to the old call does not reach the new one. 5 s.
    #[serde(skip)]
    pub port_rest: Duration,
    /// Worker threads; 0: one per core. Each call stays with one.
    pub workers: usize,
    /// A leg that should send and does not, for so long, is reported. 15 s.
    #[serde(deserialize_with = "config_value::some_seconds")]
    pub inactivity: Duration,
    /// Between two RTCP reports to a leg, on average: each time half to one and a half of it (RFC
    /// 3550 6.2: 5 s).
    #[serde(deserialize_with = "config_value::some_seconds")]
    pub rtcp_interval: Duration,
    /// The DSCP of what is sent; 46 is EF (RFC 3246).
    pub dscp: u8,
    /// The file of the music that is played to those who are held; `None`: they hear silence. See
    /// [`Music`] for what it may be.
    pub music: Option<PathBuf>,
}

impl Default for MediaConfig {
    fn default() -> Self {
        Self {
            bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
            advertised: None,
            ports: Some(20_000..=29_999),
            port_use: PortUse::PerLeg,
            port_rest: Duration::from_secs(5),
            workers: 0,
            inactivity: Duration::from_secs(15),
            rtcp_interval: Duration::from_secs(5),
            dscp: 46,
            music: None,
        }
    }
}

/// The first and the last port; among them must be an even one with an odd one after it.
fn port_range<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<RangeInclusive<u16>>, D::Error> {
    let (first, last) = <(u16, u16)>::deserialize(deserializer)?;
    let pair = first.checked_add(first % 2).and_then(|even| even.checked_add(1));
    if first == 0 || pair.is_none_or(|odd| odd > last) {
        return Err(D::Error::custom(format_args!(
            "[{first}, {last}] has no even port followed by an odd one"
        )));
    }
    Ok(Some(first..=last))
}

/// Whether legs have ports of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortUse {
    /// Each leg has.
    #[default]
    PerLeg,
    /// Legs of which enough is known when they are opened ([`Expected`]) share a few pairs of
    /// ports, and are told apart by where their packets come from. It takes the system less time,
    /// and legs are less protected from each other: a flood at one of these ports is a flood for
    /// many calls.
    Shared,
}

/// What is known, when a leg is opened, of where its packets will come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Nothing: it is behind a NAT, or it may use one port for several calls.
    Nothing,
    /// A port of this telephone's. No two of its legs are at one pair: whatever port it uses for
    /// the next call, it is told apart.
    Phone(String),
    /// This address: the offer of a trunk said so.
    Offered(SocketAddr),
}

/// What signalling has agreed for a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LegMedia {
    /// Where its RTP comes from and goes to. `None`: nothing is sent and everything that comes is
    /// foreign.
    ///
    /// With `nat` the host must be the one that the signalling came from; the port is learned.
    pub remote: Option<SocketAddr>,
    /// Where its RTCP comes from and goes to; `None`: the port after `remote`'s. Without effect
    /// with `rtcp_mux`.
    pub remote_rtcp: Option<SocketAddr>,
    /// RTCP shares the ports of RTP, both ways (RFC 5761).
    pub rtcp_mux: bool,
    /// The codec that we send.
    pub codec: Codec,
    /// Its RTP payload type.
    pub payload_type: u8,
    /// The payload type of the telephone-events (RFC 4733) that we send, if agreed.
    pub dtmf_pt: Option<u8>,
    /// The clock of their durations, in ticks a second: 8000, or the codec's.
    pub dtmf_clock: u32,
    /// The payload type of the comfort noise (RFC 3389) that we send, if agreed.
    pub comfort_noise: Option<u8>,
    /// What may come: every format that was agreed, under each of its numbers, and in any order
    /// (RFC 3264 6.1 and 7). Anything else is dropped.
    pub receives: PayloadTypes,
    /// We may send to it (its direction is sendrecv or recvonly).
    pub send: bool,
    /// We accept from it (its direction is sendrecv or sendonly).
    pub receive: bool,
    /// It is behind a NAT: what is sent goes where its packets come from, once some have come. See
    /// [`SourceRule`] for what else holds.
    pub nat: bool,
}

/// `sip` → media. Commands about legs or calls that are gone are ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MediaCommand {
    /// Sets or replaces what signalling agreed for a leg. Outgoing SSRC, sequence and timestamp go
    /// on unbroken.
    Describe {
        /// The leg that it is about.
        leg: LegId,
        /// What was agreed.
        media: LegMedia,
        /// The keys of its SRTP; `None`: RTP in clear, both ways.
        srtp: Option<Box<srtp::Keys>>,
    },
    /// Sets what holds for a leg's addresses beside its description; before the `Describe` that it
    /// is about. Without one it is [`SourceRule::default`].
    Sources {
        /// The leg that it is about.
        leg: LegId,
        /// What holds from now on.
        rule: SourceRule,
    },
    /// Replaces the whole allow-list of a call between two packets. Legs it does not name hear
    /// nobody and are heard by nobody.
    Hear {
        /// The call that it is about.
        call: CallKey,
        /// The new allow-list.
        hearing: Hearing,
    },
    /// Sends digits as telephone-events (RFC 4733) in the name of the leg to every party that hears
    /// it, one after another. No supervisor gets them.
    SendDigits {
        /// The leg that it is about.
        leg: LegId,
        /// `0`–`9`, `*`, `#`, `A`–`D`; anything else is left out.
        digits: String,
    },
    /// Plays a short tone (440 Hz, 200 ms) to this leg, over whatever it hears, and to nobody else.
    Beep {
        /// The leg that it is about.
        leg: LegId,
    },
    /// Plays the music of the configuration to this leg, from its beginning and again and again, over
    /// whatever it hears, or ends that. Nothing where there is none.
    Music {
        /// The leg that it is about.
        leg: LegId,
        /// It is to be heard.
        on: bool,
    },
    /// Moves a leg with its sockets and its stream into another call (attended transfer). In the
    /// new call it hears nobody and is heard by nobody until that call's allow-list names it.
    Move {
        /// The leg that it is about.
        leg: LegId,
        /// The call it goes to.
        call: CallKey,
    },
    /// Closes a leg's sockets; answered by [`MediaEvent::Closed`]. A call is gone with its last
    /// leg.
    Close {
        /// The leg that it is about.
        leg: LegId,
    },
}

/// media → `sip`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MediaEvent {
    /// Nothing valid came from a leg that should send, for [`MediaConfig::inactivity`], or for a
    /// third of it from any party of its call. Said once until something comes again.
    Inactive {
        /// The leg that it is about.
        leg: LegId,
    },
    /// A leg that was inactive sends again.
    Active {
        /// The leg that it is about.
        leg: LegId,
    },
    /// Nothing more is sent to a leg, because nothing has come from its address
    /// ([`SourceRule::unheard`]). Said when something was about to be.
    Withheld {
        /// The leg that it is about.
        leg: LegId,
    },
    /// The worker of a leg has failed, and the leg with it: it is silent, and only
    /// [`MediaCommand::Close`] is understood of it. ERROR.
    Failed {
        /// The leg that it is about.
        leg: LegId,
    },
    /// The leak guard sent silence in place of sound. At most one a second per leg and reason.
    LeakGuard {
        /// The call that it is about.
        call: CallKey,
        /// The listener that got silence.
        leg: LegId,
        /// Why it did.
        reason: LeakReason,
    },
    /// How a leg fares, at each of its RTCP reports once it has sent or been sent something.
    Quality {
        /// The leg that it is about.
        leg: LegId,
        /// Since the report before.
        quality: Quality,
    },
    /// A leg that is no party's has pressed a key (RFC 4733): once for each, at its first packet. It
    /// reaches nobody.
    Key {
        /// The leg that it is about.
        leg: LegId,
        /// `0`–`9`, `*`, `#`, `A`–`D`.
        digit: char,
    },
    /// A supervisor is on its call no more. Comes before the `Closed` of its leg.
    JoinEnded {
        /// The supervisor's leg.
        supervisor: LegId,
        /// The legs of the call, and what was sent to customers meanwhile.
        legs: Vec<LegSound>,
    },
    /// A leg is closed.
    Closed {
        /// The leg that it is about.
        leg: LegId,
        /// What it did.
        stats: LegStats,
    },
}

/// Why the leak guard sent silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeakReason {
    /// Sound was about to reach a listener that must not hear it, by its role. WARN.
    NotPermitted,
    /// Sound that the listener may hear is in a codec that it does not have, and nothing is there
    /// to transcode it. INFO.
    CodecMismatch,
}

impl LeakReason {
    /// How many there are.
    pub(crate) const COUNT: usize = 2;
}

/// What a leg did, in packets unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LegStats {
    /// Valid RTP from the signalled source.
    pub received: u64,
    /// RTP sent to it.
    pub sent: u64,
    /// Of `sent`: another leg's payload, byte for byte. In ListenIn and Coach the `unchanged` of a
    /// customer equals its `sent`.
    pub unchanged: u64,
    /// Of `sent`: one other leg's sound in another codec, packet by packet, whichever it speaks at
    /// the time.
    pub transcoded: u64,
    /// Of `sent`: a sum.
    pub mixed: u64,
    /// Of `sent`: nothing but silence, on our clock.
    pub silent: u64,
    /// Dropped: from another address than the signalled one, RTP or RTCP.
    pub foreign: u64,
    /// Dropped: not RTP, an unknown payload type, empty, or too long.
    pub malformed: u64,
    /// Dropped: too late for the stream it belongs to, or while we do not receive.
    pub discarded: u64,
    /// Dropped: not authentic under the agreed SRTP key, RTP or RTCP.
    pub srtp_rejected: u64,
    /// Dropped: SRTP or SRTCP that was there before, or is too old to tell.
    pub srtp_replayed: u64,
    /// Packets of the leg that the network lost, by sequence number.
    pub lost: u64,
    /// Times the leak guard sent silence to it.
    pub leak_guards: u64,
    /// RTCP from its source.
    pub rtcp_received: u64,
    /// RTCP sent to it.
    pub rtcp_sent: u64,
    /// Interarrival jitter of what it sends (RFC 3550 6.4.1).
    pub jitter: Duration,
    /// Of `sent`: those that never reached it, by its last RTCP report; 0 as well when it sends
    /// none.
    pub remote_lost: u64,
    /// What its last RTCP report says it lost of ours, in 1/256 of the packets since the report
    /// before.
    pub remote_fraction_lost: u8,
    /// Interarrival jitter of ours, by its last RTCP report.
    pub remote_jitter: Duration,
    /// The last round trip between us, without what either kept the other waiting; `None` while it
    /// has answered no report of ours.
    pub round_trip: Option<Duration>,
    /// How good what it sends can sound, over all of it: MOS in hundredths, see [`e_model`]. `None`
    /// while nothing came.
    pub mos: Option<u16>,
    /// The same of what we send to it, by its RTCP reports; `None` while none came.
    pub remote_mos: Option<u16>,
}
