//! One call's sound: packets and time in, packets and events out. No socket, no clock, no lock; no allocation per packet.
//!
//! A listener's row of the allow-list decides how he is served:
//!
//! | row | served | paced by |
//! |---|---|---|
//! | nobody | silence, once he has heard something | our clock |
//! | one speaker at unity | **relay**: the payload untouched under our header, while he speaks the listener's codec | the speaker |
//! | | transcoded packet by packet, while he speaks another | |
//! | anything else | mixed | his first party who talks; our clock when that is silent for 1.5 packets |
//!
//! In ListenIn and Coach the customer's row is the agent alone: a relay, so identical bytes whether or not somebody coaches.
//!
//! A leg may send every format that was agreed, and change from one to another from packet to packet (RFC 3264 6.1 and 7): see
//! [`Formats`]. It is sent one codec under one number, whatever comes.
//!
//! Whatever the rows say, every packet is held against [`Hearing::permits`] just before it leaves: the leak guard.

use super::codec::{Codec, ComfortNoise, Decoder, Downsampler, Encoder, MAX_DECODED, Upsampler, noise_level};
use super::formats::{Format, Formats};
use super::hearing::{Gain, Hearing};
use super::jitter::{Reader, Ring};
use super::mix::{MAX_FRAME, Sum};
use super::quality;
use super::rtcp::{self, Block, Interval, Reception, Reporter};
use super::rtp::{self, CLOCK, HEADER, MAX_PAYLOAD, ReceivedRtp, RtpHeader, Stream, StreamOrigin};
use super::source::{SourceFilter, SourceRule};
use super::srtp::{self, Protection, SrtpError};
use super::transcode::Transcoder;
use super::{CallKey, LegId, LegMedia, LegStats, MediaEvent};
use crate::model::{Now, Quality, RemoteQuality};
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::{Index, IndexMut};
use std::time::{Duration, Instant};

/// Legs a call may have.
pub const MAX_LEGS: usize = 16;

/// Legs that a call holds in one piece: customer, agent, supervisor.
pub const USUAL_LEGS: usize = 3;

/// A frame on our own clock until somebody's packets say otherwise, in ticks of 1/8000 s as all frames: 20 ms.
const FRAME: u32 = 160;
/// The longest frame: 30 ms.
const LONGEST: u32 = 240;
/// The longest hole that a codec conceals itself: 200 ms at 16 kHz.
const MAX_HOLE: usize = 3200;
/// What one piece of a payload is decoded to at most.
const PIECE: usize = 480;
/// A deadline so near is looked at again when a packet comes, so that the call is not visited for it alone.
const SOON: Duration = Duration::from_millis(10);
/// A party who has not sent for so long no longer paces anybody.
const TALKS: Duration = Duration::from_millis(200);
/// Sends over which a standing lead is looked for.
const WINDOW: u16 = 25;
/// Packets of speech for which a lead is kept rather than given back.
const MAX_PUT_OFF: u16 = 250;
/// A leak guard event at most this often per leg.
const GUARD_INTERVAL: Duration = Duration::from_secs(1);
/// One step of a digit that we send: 20 ms.
const DIGIT_STEP: Duration = Duration::from_millis(20);
/// Steps of a digit's sound, of its end (RFC 4733 2.5.1.4: three times), and all of it with the silence after.
const TONE: u32 = 5;
const ENDS: u32 = 3;
const DIGIT: u32 = 10;
/// RFC 4733 2.3: -10 dBm0.
const DIGIT_VOLUME: u8 = 10;
/// What was agreed before is still heard for so long: packets on their way, and a peer that changes a moment later (RFC 3264 8.3.2).
const FORMER: Duration = Duration::from_secs(2);
/// No payload type: those of RTP are below 128.
const NO_TYPE: u8 = 0xff;
/// Added to a speaker's slot it names the events that we make in his name.
const OURS: usize = MAX_LEGS;
/// Digits of one leg that may wait; beyond it they are dropped.
const MAX_DIGITS: usize = 64;
/// Louder than this, -40 dBFS, a supervisor speaks.
const SPEECH: u16 = 328;
/// Ticks of a beep: 200 ms.
const BEEP: u32 = 1600;
/// Where no party of a call sends, inactivity is told after this part of the time that it takes where one does.
const ALL_QUIET: u32 = 3;
/// Events nobody has polled; beyond it they are dropped.
const MAX_EVENTS: usize = 64;
/// The longest packet that leaves a leg under SRTP: the longest RTP, or a report, with what protects it.
const MAX_PROTECTED: usize = HEADER + MAX_PAYLOAD + srtp::MAX_RTCP_GROWTH;

/// Settings of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallConfig {
    /// See [`MediaConfig::inactivity`](super::MediaConfig::inactivity).
    pub inactivity: Duration,
    /// See [`MediaConfig::rtcp_interval`](super::MediaConfig::rtcp_interval).
    pub rtcp_interval: Duration,
}

impl Default for CallConfig {
    fn default() -> Self {
        Self {
            inactivity: Duration::from_secs(15),
            rtcp_interval: Duration::from_secs(5),
        }
    }
}

/// Where a leg's outgoing numbers begin (RFC 3550 5.1): all of them random.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamStart {
    /// The SSRC.
    pub ssrc: u32,
    /// The first sequence number.
    pub sequence: u16,
    /// The first timestamp.
    pub timestamp: u32,
    /// What its RTCP name and the times of its reports are made from (RFC 7022 4.2, RFC 3550 6.2).
    pub reports: u128,
}

/// What a sent packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransmitKind {
    /// RTP: another leg's payload, byte for byte.
    Unchanged,
    /// RTP: one other leg's sound in another codec.
    Transcoded,
    /// RTP: a sum.
    Mixed,
    /// RTP: nothing but silence.
    Silent,
    /// RTP: silence in place of what the leak guard stopped.
    Guarded,
    /// An RTCP report.
    Rtcp,
}

/// A packet to send.
#[derive(Debug)]
pub struct Transmit<'a> {
    /// The slot of the leg whose socket sends it.
    pub slot: usize,
    /// What it is.
    pub sent: TransmitKind,
    /// It is RTCP that leaves by the RTP port (RFC 5761); otherwise each has its own.
    pub muxed: bool,
    /// Its destination: the signalled or learned address, never another.
    pub to: SocketAddr,
    /// Its bytes.
    pub bytes: &'a [u8],
}

/// What became of a received packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeakVerdict {
    /// Taken.
    Accepted,
    /// From another address than the signalled one.
    Foreign,
    /// Not RTP or RTCP, an unknown payload type, empty, or too long.
    Malformed,
    /// Of the right source, but late or not to be received now.
    Discarded,
    /// Of the right source, but without the protection that was agreed (RFC 3711).
    Unauthenticated,
    /// Of the right source, but it was there before, or is too old to tell (RFC 3711 3.3.2).
    Replayed,
}

/// How a listener is served; speakers as bits by slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Silent,
    /// One speaker, packet by packet: relayed in the listener's codec, transcoded from another.
    Pass(usize),
    Mix(u16),
}

impl Route {
    fn has(self, speaker: usize) -> bool {
        match self {
            Route::Silent => false,
            Route::Pass(only) => only == speaker,
            Route::Mix(speakers) => speakers & bit(speaker) != 0,
        }
    }
}

/// How a listener hears one speaker.
#[derive(Clone, Copy, Debug, Default)]
struct MixInput {
    gain: u16,
    /// What `gain` is times while a supervisor speaks to the listener, in 1/256.
    duck: u16,
    reader: Reader,
}

/// How far the others have gone softer for a supervisor who speaks to the listener.
#[derive(Clone, Copy, Debug, Default)]
struct Ducking {
    /// 0: not at all, 256: all the way.
    level: u16,
    /// Samples for which it stays so.
    hold: u32,
}

impl Ducking {
    /// All the way within the frame in which he begins; back again within 200 ms, from 300 ms after his last word.
    fn pass(&mut self, speaks: bool, samples: u32) {
        const HOLD: u32 = 2400;
        const RELEASE: u32 = 1600;
        if speaks {
            *self = Self { level: 256, hold: HOLD };
        } else if self.hold > 0 {
            self.hold = self.hold.saturating_sub(samples);
        } else {
            self.level = self.level.saturating_sub((256 * samples / RELEASE).max(1) as u16);
        }
    }

    /// The gain of whoever goes softer to `duck` times it.
    fn of(self, gain: u16, duck: u16) -> u16 {
        let duck = 256 + (i32::from(duck) - 256) * i32::from(self.level) / 256;
        (i32::from(gain) * duck / 256) as u16
    }
}

/// When a listener is sent to.
#[derive(Clone, Copy, Debug)]
struct Pacer {
    /// He has sound until then, if it was played without delay.
    until: Instant,
    frame: u32,
    /// Nobody paces him, or whoever did has fallen silent: our own clock sends.
    own: bool,
    /// The least that he had in hand, and the least that packets came late, in this window.
    low: Duration,
    late: Duration,
    sends: u16,
    /// How often a lead was not given back because somebody spoke.
    put_off: u16,
}

/// What a packet of the pacer triggers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Send,
    Wait,
    /// Nothing is sent this once, so that the phone has a frame less waiting; the ring now has it, and drains it.
    GiveBack,
}

impl Pacer {
    fn new(now: Instant) -> Self {
        Self {
            until: now,
            frame: FRAME,
            own: true,
            low: Duration::MAX,
            late: Duration::MAX,
            sends: 0,
            put_off: 0,
        }
    }

    /// Whether a packet that just came may trigger a frame: he has no more than one and a half in hand. What a burst brings beyond
    /// that stays in the ring. A lead that stands is given back, a frame at a time.
    fn turn(&mut self, samples: u32, now: Instant) -> Turn {
        self.frame = samples.clamp(FRAME / 2, LONGEST);
        let frame = rtp::duration_of(self.frame);
        let lead = self.until.saturating_duration_since(now);
        if lead > frame * 3 / 2 {
            return Turn::Wait;
        }
        self.low = self.low.min(lead);
        self.late = self.late.min(now.saturating_duration_since(self.until));
        self.sends += 1;
        if self.sends < WINDOW {
            return Turn::Send;
        }
        let low = std::mem::replace(&mut self.low, Duration::MAX);
        let late = std::mem::replace(&mut self.late, Duration::MAX);
        self.sends = 0;
        if low >= frame * 3 / 4 {
            return Turn::GiveBack;
        }
        // They all come later than they did: that is when they come from now on.
        self.until = self.until - low + late;
        Turn::Send
    }

    /// A lead is given back where it costs nobody a word: now, or when the next packets are quiet, but after some seconds in any case.
    fn may_give_back(&mut self, is_quiet: bool) -> bool {
        if is_quiet || self.put_off >= MAX_PUT_OFF {
            self.put_off = 0;
            return true;
        }
        self.put_off += 1;
        self.sends = WINDOW - 1;
        false
    }

    /// A frame is sent because a packet came. One that came late, but before our clock, changes nothing: the phone's own buffer is for that.
    fn sent(&mut self, samples: u32, now: Instant) {
        let frame = rtp::duration_of(samples);
        let since = if self.own || self.due() <= now {
            self.until.max(now)
        } else {
            self.until
        };
        self.until = (since + frame).min(now + 2 * frame);
        self.own = false;
    }

    /// When our own clock sends the next frame: half a frame late when it paces; while packets do, not before they are two frames late. Sooner,
    /// each that was merely held up would be made up for by a frame, which would have to be left out again.
    fn due(&self) -> Instant {
        self.until + rtp::duration_of(if self.own { self.frame / 2 } else { 2 * self.frame })
    }

    /// Packets have come, and a frame is still missing: one of them was lost.
    fn is_short(&self, now: Instant) -> bool {
        self.until < now + rtp::duration_of(self.frame / 2)
    }

    /// Our own clock sends a frame. After a stall of ours, one frame is sent for all that was missed.
    fn ticked(&mut self, now: Instant) {
        self.own = true;
        let frame = rtp::duration_of(self.frame);
        self.until = if now > self.until + 4 * frame { now } else { self.until + frame };
    }
}

/// What was agreed for a leg, as far as every packet needs it.
#[derive(Clone, Copy, Debug)]
struct Agreement {
    /// What is sent to it, and how.
    codec: Codec,
    payload_type: u8,
    dtmf_pt: Option<u8>,
    comfort_noise: Option<u8>,
    dtmf_clock: u32,
    send: bool,
    receive: bool,
    /// It should send, and it is known where from.
    is_expected: bool,
}

impl Agreement {
    fn of(media: &LegMedia) -> Self {
        Self {
            codec: media.codec,
            payload_type: media.payload_type,
            dtmf_pt: media.dtmf_pt,
            comfort_noise: media.comfort_noise,
            dtmf_clock: media.dtmf_clock,
            send: media.send,
            receive: media.receive,
            is_expected: media.receive && media.remote.is_some(),
        }
    }
}

/// A leg with its stream and its counters, as it goes from call to call.
///
/// What a packet touches comes first and in the order of its use: with hundreds of calls it is the cold lines that cost.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Leg {
    /// Its packets are protected, both ways.
    srtp: Option<Box<Protection>>,
    /// What we dial in his name.
    dialling: Option<Box<DtmfSender>>,
    row: Route,
    /// Who may be heard at most: the leak guard.
    permitted: u16,
    /// Who mixes this speaker, and who relays or transcodes him, by slot.
    mixed_by: u16,
    passed_to: u16,
    /// An agent or a customer by the allow-list; not a supervisor, not unnamed.
    party: bool,
    muted: bool,
    inactive: bool,
    /// It has said that it is silent, and how that sounds.
    noise: Option<ComfortNoise>,
    /// The payload type of its sound, [`NO_TYPE`] for none, and the codec that names; the codecs it has spoken since it was described, as bits.
    spoken_type: u8,
    speaks: Codec,
    spoken: u8,
    media: Option<Agreement>,
    source: SourceFilter,
    heard: Instant,
    last_audio: Option<Instant>,
    pace: Pacer,
    reception: Reception,
    stream: Stream,
    stats: LegStats,
    /// What one other says in this one's codec.
    transcoder: Option<(LegId, Box<Transcoder>)>,
    /// What it says in the codec that it speaks, as samples, while somebody mixes it.
    decoder: Option<(Codec, Decoder)>,
    /// What is mixed for it, as payloads.
    encoder: Option<(Codec, Encoder)>,
    ring: Ring,
    /// Ticks of a tone that he has still to hear.
    beep: u32,
    ducking: Ducking,
    rtcp_due: Instant,
    name: LegId,
    seldom: Box<LegCold>,
}

/// What of a leg no packet in G.711 touches.
#[derive(Debug)]
struct LegCold {
    reporter: Reporter,
    /// What the leg reported last of what it receives.
    remote: Option<Block>,
    up: Upsampler,
    down: Downsampler,
    digit: Option<(u32, u32)>,
    /// The clock of the event that came last.
    event_clock: u32,
    guard_said: Option<Instant>,
    /// What was agreed, all of it.
    described: Option<LegMedia>,
    /// What was agreed before, and until when it is heard.
    former: Option<(Formats, Instant)>,
    /// For the other codecs that it has spoken: whoever goes back to one of them goes on without memory being taken.
    decoders: Vec<(Codec, Decoder)>,
    /// The same for those of the one speaker that it hears.
    transcoders: Vec<(LegId, Box<Transcoder>)>,
}

/// Digits that are sent in a leg's name, one after another: 100 ms each and as much of silence after it.
#[derive(Debug)]
struct DtmfSender {
    /// Event numbers (RFC 4733 3.2).
    events: VecDeque<u8>,
    /// Steps of 20 ms of the digit in hand: [`TONE`] of sound, [`ENDS`] ends, then nothing.
    step: u32,
    /// Names the digit to the listeners' streams.
    timestamp: u32,
    next: Instant,
}

impl DtmfSender {
    fn sounds(&self) -> bool {
        self.step < TONE + ENDS && !self.events.is_empty()
    }
}

impl Leg {
    /// A leg that nothing was agreed for yet.
    pub fn new(name: LegId, start: StreamStart, now: Instant) -> Self {
        Self {
            srtp: None,
            dialling: None,
            row: Route::Silent,
            permitted: 0,
            mixed_by: 0,
            passed_to: 0,
            party: false,
            muted: false,
            inactive: false,
            noise: None,
            spoken_type: NO_TYPE,
            speaks: Codec::Pcmu,
            spoken: 0,
            media: None,
            source: SourceFilter::default(),
            heard: now,
            last_audio: None,
            pace: Pacer::new(now),
            reception: Reception::default(),
            stream: Stream::new(start.ssrc, start.sequence, start.timestamp),
            stats: LegStats::default(),
            transcoder: None,
            decoder: None,
            encoder: None,
            ring: Ring::default(),
            beep: 0,
            ducking: Ducking::default(),
            rtcp_due: now,
            name,
            seldom: Box::new(LegCold {
                reporter: Reporter::new(start.reports),
                remote: None,
                up: Upsampler::default(),
                down: Downsampler::default(),
                digit: None,
                event_clock: CLOCK,
                guard_said: None,
                described: None,
                former: None,
                decoders: Vec::new(),
                transcoders: Vec::new(),
            }),
        }
    }

    /// Its name.
    pub fn name(&self) -> LegId {
        self.name
    }

    /// What it did so far.
    pub fn stats(&self) -> LegStats {
        let stats = self.stats;
        let lost = self.reception.lost();
        let remote_lost = self.seldom.remote.map_or(0, |remote| u64::try_from(remote.lost).unwrap_or(0));
        LegStats {
            lost,
            jitter: self.reception.jitter_time(),
            remote_lost,
            remote_fraction_lost: self.seldom.remote.map_or(0, |remote| remote.fraction_lost),
            remote_jitter: self.seldom.remote.map_or(Duration::ZERO, |remote| self.remote_jitter(remote)),
            mos: (stats.received > 0)
                .then(|| self.mos(self.speaks, lost, stats.received + lost, self.reception.jitter_time()))
                .flatten(),
            remote_mos: self
                .seldom
                .remote
                .and_then(|remote| self.mos(self.media?.codec, remote_lost, stats.sent, self.remote_jitter(remote))),
            ..stats
        }
    }

    /// How it fares after an interval.
    fn quality(&self, interval: Interval) -> Quality {
        let stats = &self.stats;
        let jitter = self.reception.jitter_time();
        let came = interval.expected > interval.lost;
        Quality {
            packets_sent: stats.sent,
            packets_received: stats.received,
            lost_permille: permille(interval.lost, interval.expected),
            jitter_ms: millis(jitter),
            mos: came
                .then(|| self.mos(self.speaks, interval.lost, interval.expected, jitter))
                .flatten(),
            remote: self.seldom.remote.and_then(|remote| {
                let lost = u64::from(remote.fraction_lost);
                Some(RemoteQuality {
                    lost_permille: permille(lost, 256),
                    jitter_ms: millis(self.remote_jitter(remote)),
                    mos: self.mos(self.media?.codec, lost, 256, self.remote_jitter(remote))?,
                })
            }),
            round_trip_ms: stats.round_trip.map(millis),
        }
    }

    /// A leg measures the jitter of what we send it by the clock of what we send.
    fn remote_jitter(&self, remote: Block) -> Duration {
        rtcp::time_of(remote.jitter, self.stream.clock())
    }

    fn mos(&self, codec: Codec, lost: u64, expected: u64, jitter: Duration) -> Option<u16> {
        self.media?;
        let delay = quality::delay(self.stats.round_trip.unwrap_or(Duration::ZERO), jitter);
        Some(quality::mos(quality::rating(codec, lost, expected, delay)))
    }

    /// What was agreed and where to, when we may send to it.
    fn outlet(&self) -> Option<(Agreement, SocketAddr)> {
        let media = self.media.filter(|media| media.send)?;
        Some((media, self.source.target()?))
    }

    fn talks(&self, now: Instant) -> bool {
        self.last_audio.is_some_and(|at| now.saturating_duration_since(at) < TALKS)
    }

    /// When our own clock is due, if it serves him.
    fn clock_due(&self) -> Option<Instant> {
        self.outlet()?;
        match self.row {
            Route::Mix(_) => Some(self.pace.due()),
            Route::Silent => (self.stream.packets() > 0).then(|| self.pace.due()),
            Route::Pass(_) => None,
        }
    }

    fn inactive_due(&self, config: &CallConfig) -> Option<Instant> {
        (self.should_send() && !self.inactive).then(|| self.heard + config.inactivity)
    }

    /// Something should come from the leg.
    fn should_send(&self) -> bool {
        self.media.is_some_and(|media| media.is_expected)
    }

    fn rtcp_due(&self) -> Option<Instant> {
        (self.media.is_some() && self.source.rtcp_target().is_some()).then_some(self.rtcp_due)
    }

    fn due(&self, config: &CallConfig) -> Option<Instant> {
        let digit_due = self.dialling.as_ref().map(|dialling| dialling.next);
        [self.clock_due(), self.inactive_due(config), self.rtcp_due(), digit_due]
            .into_iter()
            .flatten()
            .min()
    }

    /// What a payload type of its names: what comes again and again first.
    fn format_of(&self, payload_type: u8, now: Instant) -> Option<Format> {
        if payload_type == self.spoken_type {
            return Some(Format::Audio(self.speaks));
        }
        let described = self.seldom.described.as_ref()?;
        described.receives.get(payload_type).or_else(|| {
            let (former, until) = self.seldom.former.as_ref()?;
            former.get(payload_type).filter(|_| now < *until)
        })
    }

    /// What may come from now on. Returns whether the codec that comes has to be another one.
    fn expect(&mut self, media: &LegMedia, before: Option<&LegMedia>, now: Instant) -> bool {
        let receives = &media.receives;
        if let Some(before) = before.filter(|before| before.receives != *receives) {
            self.seldom.former = Some((before.receives, now + FORMER));
        }
        let was = self.speaks;
        let codecs = || {
            receives.iter().filter_map(|(_, format)| match format {
                Format::Audio(codec) => Some(codec),
                Format::Events(_) | Format::ComfortNoise => None,
            })
        };
        if before.is_none() || !codecs().any(|codec| codec == was) {
            let same_as_sent = codecs().find(|codec| *codec == media.codec);
            self.speaks = same_as_sent.or_else(|| codecs().next()).unwrap_or(media.codec);
        }
        if receives.get(self.spoken_type) != Some(Format::Audio(self.speaks)) {
            self.spoken_type = receives.number_of(self.speaks).unwrap_or(NO_TYPE);
        }
        let agreed = codecs().fold(0, |mask, codec| mask | codec_bit(codec));
        self.spoken = self.spoken & agreed | codec_bit(self.speaks);
        before.is_some() && self.speaks != was
    }

    /// The samples a second that hold whatever it has spoken.
    fn sample_rate(&self) -> u32 {
        let spoken = Codec::ALL.into_iter().filter(|codec| self.spoken & codec_bit(*codec) != 0);
        spoken.map(Codec::sample_rate).max().unwrap_or(CLOCK)
    }

    /// Has a decoder for the codec that it speaks, if anybody mixes it; `anew`: at another rate than before.
    fn prepare_decoder(&mut self, anew: bool) {
        let spares = &mut self.seldom.decoders;
        if anew || self.mixed_by == 0 || self.media.is_none() {
            self.decoder = None;
            *spares = Vec::new();
        }
        let is_there = self.decoder.as_ref().is_some_and(|(codec, _)| *codec == self.speaks);
        if self.mixed_by == 0 || self.media.is_none() || is_there {
            return;
        }
        let spare = spares.iter().position(|(codec, _)| *codec == self.speaks);
        let next = spare.map(|at| spares.swap_remove(at));
        let next = next.unwrap_or_else(|| (self.speaks, Decoder::new(self.speaks)));
        spares.extend(self.decoder.replace(next));
        let spoken = self.spoken;
        spares.retain(|(codec, _)| spoken & codec_bit(*codec) != 0);
        self.seldom.up = Upsampler::default();
    }

    /// Has a transcoder from what the one speaker that it hears speaks, where tables of G.711 do not do it.
    fn prepare_transcoder(&mut self, speaker: Option<Speaker>) {
        let spares = &mut self.seldom.transcoders;
        let (Some(speaker), Some(media)) = (speaker, self.media) else {
            self.transcoder = None;
            *spares = Vec::new();
            return;
        };
        let (from, to) = (speaker.speaks, media.codec);
        let is_needed = from != to && !(from.is_law() && to.is_law());
        let is = |(name, transcoder): &(LegId, Box<Transcoder>)| *name == speaker.name && transcoder.is(from, to);
        if !(is_needed && self.transcoder.as_ref().is_some_and(is)) {
            spares.extend(self.transcoder.take());
        }
        spares.retain(|(name, transcoder)| *name == speaker.name && transcoder.may_be_needed(speaker.spoken, to));
        if !is_needed || self.transcoder.is_some() {
            return;
        }
        let spare = spares.iter().position(is).map(|at| spares.swap_remove(at));
        self.transcoder = Some(match spare {
            Some((name, mut transcoder)) => {
                transcoder.restart();
                (name, transcoder)
            }
            None => (speaker.name, Box::new(Transcoder::new(from, to))),
        });
    }

    /// A payload of its own into its ring, piece by piece. Returns whether the ring grew.
    fn decode(&mut self, received: &ReceivedRtp, payload: &[u8], rate: u32, now: Instant) -> bool {
        let Some((codec, decoder)) = &mut self.decoder else { return false };
        let clock = codec.clock();
        // Distances count, and a wrap is a restart at most once a day.
        let mut timestamp = if clock > rate {
            received.timestamp / (clock / rate)
        } else {
            received.timestamp.wrapping_mul(rate / clock)
        };
        if *codec == Codec::Opus {
            // What is not lost but late is decoded out of its order when it comes.
            let mut samples = [0; MAX_HOLE];
            let missing = self.ring.missing(received.ssrc, timestamp).min(MAX_HOLE);
            if missing > 0 && decoder.conceal(&mut samples[..missing]) {
                self.ring.fill(&samples[..missing]);
            }
        }
        let mut is_first = true;
        let mut write = |samples: &[i16]| {
            let grew = match std::mem::take(&mut is_first) {
                true => self.ring.write(received.ssrc, timestamp, samples, now),
                false => self.ring.write_on(received.ssrc, timestamp, samples),
            };
            timestamp = timestamp.wrapping_add(samples.len() as u32);
            grew
        };
        if *codec == Codec::Opus {
            let mut samples = [0; MAX_DECODED];
            let count = decoder.decode(payload, &mut samples);
            return samples[..count].chunks(PIECE).fold(false, |grew, piece| write(piece) | grew);
        }
        let mut grew = false;
        let octets = if *codec == Codec::L16 { 2 * PIECE } else { PIECE / 2 };
        for piece in payload.chunks(octets) {
            let mut samples = [0; PIECE];
            let count = decoder.decode(piece, &mut samples);
            if codec.sample_rate() == rate {
                grew |= write(&samples[..count]);
            } else {
                let mut wide = [0; PIECE];
                self.seldom.up.pass(&samples[..count], &mut wide[..2 * count]);
                grew |= write(&wide[..2 * count]);
            }
        }
        grew
    }

    /// A frame at the call's rate as a payload; silence when it cannot be coded. Returns its octets.
    fn encode(&mut self, codec: Codec, samples: &[i16], rate: u32, payload: &mut [u8]) -> usize {
        let octets = match &mut self.encoder {
            Some((_, encoder)) if codec.sample_rate() == rate => encoder.encode(samples, payload),
            Some((_, encoder)) => {
                let mut narrow = [0; MAX_FRAME / 2];
                let narrow = &mut narrow[..samples.len() / 2];
                self.seldom.down.pass(samples, narrow);
                encoder.encode(narrow, payload)
            }
            None => 0,
        };
        if octets > 0 {
            octets
        } else {
            codec.silence(samples.len() as u32 / (rate / CLOCK), payload)
        }
    }

    fn send(&mut self, slot: usize, sent: TransmitKind, to: SocketAddr, bytes: &[u8], out: &mut impl FnMut(Transmit<'_>)) {
        let muxed = sent == TransmitKind::Rtcp && self.source.is_muxed();
        let Some(srtp) = &mut self.srtp else {
            out(Transmit {
                slot,
                sent,
                muxed,
                to,
                bytes,
            });
            return self.count(sent);
        };
        let mut buffer = [0; MAX_PROTECTED];
        let protected = match sent {
            TransmitKind::Rtcp => srtp.protect_rtcp(bytes, &mut buffer),
            TransmitKind::Unchanged | TransmitKind::Transcoded | TransmitKind::Mixed | TransmitKind::Silent | TransmitKind::Guarded => {
                srtp.protect_rtp(bytes, &mut buffer)
            }
        };
        let Some(bytes) = protected else {
            self.stats.discarded += 1;
            return;
        };
        out(Transmit {
            slot,
            sent,
            muxed,
            to,
            bytes,
        });
        self.count(sent);
    }

    /// Takes the protection off an RTP packet, if it is this leg's to have one; returns the packet's length then. What comes from
    /// elsewhere is left as it is: foreign.
    fn unprotect_rtp(&mut self, from: SocketAddr, packet: &mut [u8], now: Instant) -> Result<usize, LeakVerdict> {
        match &mut self.srtp {
            Some(srtp) if self.source.may_admit(from, now) => {
                let is_known = self.source.is_known(from);
                srtp.unprotect_rtp(packet).map_err(|error| self.unprotected(error, is_known))
            }
            Some(_) | None => Ok(packet.len()),
        }
    }

    /// The same of RTCP, in the buffer, where there is protection to take off.
    fn unprotect_rtcp<'a>(&mut self, from: SocketAddr, packet: &'a [u8], buffer: &'a mut [u8]) -> Result<&'a [u8], LeakVerdict> {
        match &mut self.srtp {
            Some(srtp) if self.source.may_admit_rtcp(from) => {
                let is_known = self.source.is_known_rtcp(from);
                let Some(room) = buffer.get_mut(..packet.len()) else {
                    self.stats.malformed += 1;
                    return Err(LeakVerdict::Malformed);
                };
                room.copy_from_slice(packet);
                let len = srtp.unprotect_rtcp(room).map_err(|error| self.unprotected(error, is_known))?;
                Ok(room.get(..len).unwrap_or_default())
            }
            Some(_) | None => Ok(packet),
        }
    }

    fn unprotected(&mut self, error: SrtpError, is_known: bool) -> LeakVerdict {
        let (count, verdict) = match error {
            _ if !is_known => (&mut self.stats.foreign, LeakVerdict::Foreign),
            SrtpError::Unauthenticated => (&mut self.stats.srtp_rejected, LeakVerdict::Unauthenticated),
            SrtpError::Replayed => (&mut self.stats.srtp_replayed, LeakVerdict::Replayed),
        };
        *count += 1;
        verdict
    }

    fn count(&mut self, sent: TransmitKind) {
        self.source.spend();
        let stats = &mut self.stats;
        match sent {
            TransmitKind::Rtcp => {
                stats.rtcp_sent += 1;
                return;
            }
            TransmitKind::Unchanged => stats.unchanged += 1,
            TransmitKind::Transcoded => stats.transcoded += 1,
            TransmitKind::Mixed => stats.mixed += 1,
            TransmitKind::Silent => stats.silent += 1,
            TransmitKind::Guarded => {
                stats.silent += 1;
                stats.leak_guards += 1;
            }
        }
        stats.sent += 1;
    }
}

/// What a listener has to know of a speaker.
#[derive(Clone, Copy, Debug)]
struct Speaker {
    name: LegId,
    speaks: Codec,
    /// What it has spoken, as bits.
    spoken: u8,
}

/// The machine of one call.
///
/// After any `handle_*`, drain [`Call::poll_event`] and ask [`Call::poll_timeout`] when [`Call::handle_timeout`] is due. Packets to send
/// are handed to the `out` of the method that caused them, before it returns: their bytes lie in the received packet itself.
#[derive(Debug)]
#[repr(C)]
pub struct Call {
    wake: Option<Instant>,
    /// Samples a second of rings and sums: the most that anybody who mixes or is mixed has.
    rate: u32,
    /// Who is a party, by slot.
    parties: u16,
    /// A leg's packets may come from elsewhere since [`Call::take_moved`] was asked.
    moved: bool,
    events: VecDeque<MediaEvent>,
    config: CallConfig,
    key: CallKey,
    ears: MixInputs,
    legs: SmallVec<[Option<Leg>; USUAL_LEGS]>,
    hearing: Hearing,
}

/// How everybody hears everybody, by listener and speaker; the usual legs' close together.
#[derive(Debug, Default)]
struct MixInputs(SmallVec<[MixInput; USUAL_LEGS * USUAL_LEGS]>);

impl MixInputs {
    /// Among the first `n` slots come the first `n²` places.
    fn place(listener: usize, speaker: usize) -> usize {
        if listener >= speaker {
            listener * listener + speaker
        } else {
            speaker * speaker + speaker + 1 + listener
        }
    }

    fn make_room(&mut self, slots: usize) {
        self.0.resize(slots * slots, MixInput::default());
    }
}

impl Index<(usize, usize)> for MixInputs {
    type Output = MixInput;

    fn index(&self, (listener, speaker): (usize, usize)) -> &MixInput {
        &self.0[Self::place(listener, speaker)]
    }
}

impl IndexMut<(usize, usize)> for MixInputs {
    fn index_mut(&mut self, (listener, speaker): (usize, usize)) -> &mut MixInput {
        &mut self.0[Self::place(listener, speaker)]
    }
}

impl Call {
    /// A call without legs.
    pub fn new(key: CallKey, config: CallConfig) -> Self {
        Self {
            wake: None,
            rate: CLOCK,
            parties: 0,
            moved: false,
            events: VecDeque::with_capacity(8),
            config,
            key,
            ears: MixInputs::default(),
            legs: SmallVec::new(),
            hearing: Hearing::default(),
        }
    }

    /// Its key.
    pub fn key(&self) -> CallKey {
        self.key
    }

    /// Whether it has no legs.
    pub fn is_empty(&self) -> bool {
        self.legs.iter().all(Option::is_none)
    }

    /// Where a leg's RTP comes from, once that is settled: signalled and not behind a NAT, or learned.
    pub fn source(&self, slot: usize) -> Option<SocketAddr> {
        self.legs.get(slot)?.as_ref()?.source.rtp_source()
    }

    /// The same of its RTCP; `None` where that comes with RTP (RFC 5761).
    pub fn rtcp_source(&self, slot: usize) -> Option<SocketAddr> {
        self.legs.get(slot)?.as_ref()?.source.rtcp_source()
    }

    /// Whether a [`Call::source`] or [`Call::rtcp_source`] may be another one since this was asked last.
    pub fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// Takes a leg in; it hears whom the allow-list already says, nobody if it is not named. Returns its slot, or the leg when the
    /// call is full or has it already.
    pub fn put(&mut self, mut leg: Leg, now: Instant) -> Result<usize, Box<Leg>> {
        if self.slot(leg.name).is_some() {
            return Err(Box::new(leg));
        }
        let slot = match self.legs.iter().position(Option::is_none) {
            Some(free) => free,
            None if self.legs.len() < MAX_LEGS => {
                self.legs.push(None);
                self.ears.make_room(self.legs.len());
                self.legs.len() - 1
            }
            None => return Err(Box::new(leg)),
        };
        leg.row = Route::Silent;
        leg.permitted = 0;
        leg.stream.cut();
        for other in 0..self.legs.len() {
            self.ears[(slot, other)] = MixInput::default();
            self.ears[(other, slot)] = MixInput::default();
        }
        self.legs[slot] = Some(leg);
        self.moved = true;
        self.arrange(now);
        Ok(slot)
    }

    /// Takes a leg out, to close it or to put it into another call.
    pub fn take(&mut self, leg: LegId, now: Instant) -> Option<Leg> {
        let slot = self.slot(leg)?;
        let taken = self.legs[slot].take();
        self.arrange(now);
        taken
    }

    /// A leg by name.
    pub fn leg(&self, leg: LegId) -> Option<&Leg> {
        self.legs.iter().flatten().find(|here| here.name == leg)
    }

    fn leg_mut(&mut self, leg: LegId) -> Option<&mut Leg> {
        self.legs.iter_mut().flatten().find(|here| here.name == leg)
    }

    /// The slot of a leg.
    pub fn slot(&self, leg: LegId) -> Option<usize> {
        self.legs.iter().position(|here| here.as_ref().is_some_and(|here| here.name == leg))
    }

    /// Sets what signalling agreed for a leg. What was learned behind a NAT stays when the signalled addresses stay.
    pub fn handle_describe(&mut self, leg: LegId, media: LegMedia, now: Instant) {
        let Some(slot) = self.slot(leg) else { return };
        let Some(here) = self.legs[slot].as_mut() else { return };
        let before = here.seldom.described.replace(media);
        here.media = Some(Agreement::of(&media));
        let speaks_other = here.expect(&media, before.as_ref(), now);
        here.stream.set_clock(media.codec.clock());
        let addresses = |media: LegMedia| (media.remote, media.remote_rtcp, media.rtcp_mux, media.nat);
        if before.map(addresses) != Some(addresses(media)) {
            here.source = here.source.described(&media);
        }
        if !before.is_some_and(|before| before.receive && before.remote.is_some()) {
            here.heard = now;
            here.inactive = false;
        }
        if before.is_none() {
            here.rtcp_due = now + here.seldom.reporter.next_interval(self.config.rtcp_interval) / 2;
        }
        // What was never due is not lost: whoever was not sent to goes on with the next number.
        let sends = |media: LegMedia| media.send && media.remote.is_some();
        let receives = |media: LegMedia| media.receive && media.remote.is_some();
        if before.is_some_and(|before| sends(before) != sends(media)) {
            here.stream.cut();
        }
        if !receives(media) {
            here.noise = None;
        }
        let was_held = before.is_some_and(|before| receives(before) != receives(media));
        if was_held {
            here.reception.pause();
        }
        // Another codec is another clock: what was made of the timestamps under the one says nothing of those under the other.
        if was_held || speaks_other {
            let listeners = here.passed_to;
            for listener in slots(listeners) {
                if let Some(listener) = self.legs[listener].as_mut() {
                    listener.stream.cut();
                }
            }
        }
        self.note_source(slot);
        self.arrange(now);
    }

    /// Sets what holds for a leg's addresses beside its description; comes before [`Call::handle_describe`] where it is about that.
    pub fn handle_source_rule(&mut self, leg: LegId, rule: SourceRule) {
        if let Some(here) = self.leg_mut(leg) {
            here.source.set_rule(rule);
            self.note_source_of(leg);
        }
    }

    /// Another source, or the first packet of one that was waited for: the leg's sockets, and the deadlines of the call, are others.
    fn note_source(&mut self, slot: usize) {
        if let Some(leg) = self.legs.get_mut(slot).and_then(Option::as_mut)
            && leg.source.take_changed()
        {
            self.moved = true;
            self.wake = self.earliest();
        }
    }

    fn note_source_of(&mut self, leg: LegId) {
        if let Some(slot) = self.slot(leg) {
            self.note_source(slot);
        }
    }

    /// Sets the keys of a leg's SRTP (RFC 3711), or that it has none; comes right before [`Call::handle_describe`], in one step with it.
    /// Keys that stay go on where they are; see [`Protection::rekey`].
    pub fn handle_keys(&mut self, leg: LegId, keys: Option<&srtp::Keys>) {
        let Some(here) = self.leg_mut(leg) else { return };
        match (keys, &mut here.srtp) {
            (Some(keys), Some(srtp)) => srtp.rekey(keys),
            (Some(keys), none) => *none = Some(Box::new(Protection::new(keys))),
            (None, some) => *some = None,
        }
    }

    /// Replaces the allow-list.
    pub fn handle_hear(&mut self, hearing: Hearing, now: Instant) {
        self.hearing = hearing;
        self.arrange(now);
    }

    /// Silences a leg toward everybody but supervisors, or no longer.
    pub fn handle_mute(&mut self, leg: LegId, muted: bool, now: Instant) {
        if let Some(here) = self.leg_mut(leg) {
            here.muted = muted;
            self.arrange(now);
        }
    }

    /// Sends digits in the leg's name to the parties that hear it.
    pub fn handle_digits(&mut self, leg: LegId, digits: &str, now: Instant) {
        let Some(here) = self.leg_mut(leg) else { return };
        let events = digits.chars().filter_map(rtp::event_of);
        let dialling = here.dialling.get_or_insert_with(|| {
            Box::new(DtmfSender {
                events: VecDeque::new(),
                step: 0,
                timestamp: 0,
                next: now,
            })
        });
        let room = MAX_DIGITS.saturating_sub(dialling.events.len());
        dialling.events.extend(events.take(room));
        let next = dialling.next;
        self.wake = earlier(self.wake, next);
    }

    /// Plays a short tone to the leg.
    pub fn handle_beep(&mut self, leg: LegId, now: Instant) {
        if let Some(here) = self.leg_mut(leg) {
            here.beep = BEEP;
            self.arrange(now);
        }
    }

    /// A datagram on a leg's RTP port. The bytes are overwritten by what is sent on.
    pub fn handle_rtp(
        &mut self,
        slot: usize,
        from: SocketAddr,
        packet: &mut [u8],
        now: Instant,
        out: &mut impl FnMut(Transmit<'_>),
    ) -> LeakVerdict {
        let Some(leg) = self.legs.get_mut(slot).and_then(Option::as_mut) else {
            return LeakVerdict::Foreign;
        };
        let packet = match leg.unprotect_rtp(from, packet, now) {
            Ok(len) => packet.get_mut(..len).unwrap_or_default(),
            Err(verdict) => return verdict,
        };
        let parsed = rtp::parse(packet).ok();
        let media = leg.media;
        let format = parsed.as_ref().and_then(|received| leg.format_of(received.payload_type, now));
        let known = parsed.as_ref().filter(|_| format.is_some());
        if !leg.source.admits(from, known, now) {
            leg.stats.foreign += 1;
            return LeakVerdict::Foreign;
        }
        if leg.source.take_changed() {
            self.moved = true;
            self.wake = earlier(self.wake, now);
        }
        let (Some(media), Some(received), Some(format)) = (media, known, format) else {
            leg.stats.malformed += 1;
            return LeakVerdict::Malformed;
        };
        if !media.receive {
            leg.stats.discarded += 1;
            return LeakVerdict::Discarded;
        }
        leg.stats.received += 1;
        let clock = match format {
            Format::Audio(codec) => Some(codec.clock()),
            Format::ComfortNoise => Some(CLOCK),
            Format::Events(_) => None,
        };
        leg.reception.note(received, clock, now);
        leg.heard = now;
        if std::mem::take(&mut leg.inactive) {
            let event = MediaEvent::Active { leg: leg.name };
            self.wake = earlier(self.wake, now + self.config.inactivity);
            self.tell(event);
        }
        let received = received.clone();
        match format {
            Format::Audio(codec) => self.hear_audio(slot, codec, &received, packet, now, out),
            Format::ComfortNoise => self.hear_noise(slot, &received, packet, now, out),
            Format::Events(clock) => {
                if let Some(leg) = self.legs[slot].as_mut() {
                    leg.seldom.event_clock = clock.ticks();
                }
                self.hear_event(slot, &received, packet, now, out)
            }
        }
    }

    /// A leg goes on in another codec, or under another number. What that takes is made once for each codec and kept.
    fn turn_to(&mut self, slot: usize, codec: Codec, payload_type: u8, now: Instant) {
        let Some(leg) = self.legs[slot].as_mut() else { return };
        let agreed = leg.seldom.described.as_ref().and_then(|media| media.receives.get(payload_type));
        leg.spoken_type = if agreed == Some(Format::Audio(codec)) {
            payload_type
        } else {
            NO_TYPE
        };
        let was = std::mem::replace(&mut leg.speaks, codec);
        if was == codec {
            return;
        }
        let is_first = leg.spoken & codec_bit(codec) == 0;
        leg.spoken |= codec_bit(codec);
        if was.clock() != codec.clock() {
            // What was made of the timestamps under the one clock says nothing of those under the other (RFC 7160).
            leg.ring.cut();
            let listeners = leg.passed_to;
            for listener in slots(listeners) {
                if let Some(listener) = self.legs[listener].as_mut() {
                    listener.stream.cut();
                }
            }
        }
        if is_first {
            self.arrange(now);
        } else {
            self.prepare();
        }
    }

    /// Whether a datagram on a leg's RTP port is for [`Call::handle_rtcp`] (RFC 5761 4).
    pub fn is_rtcp(&self, slot: usize, packet: &[u8]) -> bool {
        let leg = self.legs.get(slot).and_then(Option::as_ref);
        leg.is_some_and(|leg| leg.source.is_muxed()) && rtcp::is_rtcp(packet)
    }

    /// RTCP from a leg.
    pub fn handle_rtcp(&mut self, slot: usize, from: SocketAddr, packet: &[u8], now: Instant) -> LeakVerdict {
        let Some(leg) = self.legs.get_mut(slot).and_then(Option::as_mut) else {
            return LeakVerdict::Foreign;
        };
        let mut buffer = [0; rtcp::MAX_PACKET + srtp::MAX_RTCP_GROWTH];
        let packet = match leg.unprotect_rtcp(from, packet, &mut buffer) {
            Ok(packet) => packet,
            Err(verdict) => return verdict,
        };
        let report = rtcp::read(packet, leg.stream.ssrc());
        if !leg.source.admits_rtcp(from, report.is_ok()) {
            leg.stats.foreign += 1;
            return LeakVerdict::Foreign;
        }
        let Ok(report) = report else {
            leg.stats.malformed += 1;
            return LeakVerdict::Malformed;
        };
        leg.stats.rtcp_received += 1;
        if let Some((ssrc, middle)) = report.sender {
            leg.reception.note_sender_report(ssrc, middle, now);
        }
        if let Some(block) = report.about_us {
            leg.stats.round_trip = leg.seldom.reporter.round_trip(&block, now).or(leg.stats.round_trip);
            leg.seldom.remote = Some(block);
        }
        self.note_source(slot);
        LeakVerdict::Accepted
    }

    /// Does what is due: frames on our own clock, RTCP reports, inactivity.
    pub fn handle_timeout(&mut self, now: Now, out: &mut impl FnMut(Transmit<'_>)) {
        for slot in 0..self.legs.len() {
            self.dial(slot, now.mono, out);
            for _ in 0..4 {
                let Some(leg) = self.legs[slot].as_mut() else { break };
                if leg.clock_due().is_none_or(|due| due > now.mono) {
                    break;
                }
                let frame = leg.pace.frame;
                let frame = leg.outlet().and_then(|(media, _)| media.codec.frame(frame)).unwrap_or(frame);
                leg.pace.frame = frame;
                leg.pace.ticked(now.mono);
                self.send_frame(slot, frame, now.mono, out);
            }
            let Some(leg) = self.legs[slot].as_mut() else { continue };
            if leg.rtcp_due().is_some_and(|due| due <= now.mono) {
                leg.rtcp_due = now.mono + leg.seldom.reporter.next_interval(self.config.rtcp_interval);
                self.report(slot, false, now, out);
            }
            let Some(leg) = self.legs[slot].as_mut() else { continue };
            if leg.source.take_withheld() {
                let event = MediaEvent::Withheld { leg: leg.name };
                self.tell(event);
            }
        }
        self.tell_inactive(now.mono);
        self.wake = self.earliest();
    }

    /// Tells of legs that should send and do not: each by itself, and sooner where no party of the call sends.
    fn tell_inactive(&mut self, now: Instant) {
        let all_quiet = self.all_quiet_due().is_some_and(|due| due <= now);
        for slot in 0..self.legs.len() {
            let Some(leg) = self.legs[slot].as_mut() else { continue };
            let is_due = leg.inactive_due(&self.config).is_some_and(|due| due <= now);
            if is_due || all_quiet && leg.party && leg.should_send() && !leg.inactive {
                leg.inactive = true;
                let event = MediaEvent::Inactive { leg: leg.name };
                self.tell(event);
            }
        }
    }

    /// When none of the parties that should send has sent for so long that all of them are told of; `None` where one is alone, and once
    /// that was done.
    fn all_quiet_due(&self) -> Option<Instant> {
        let parties = || self.legs.iter().flatten().filter(|leg| leg.party && leg.should_send());
        let is_news = parties().nth(1).is_some() && parties().any(|leg| !leg.inactive);
        let last = parties().map(|leg| leg.heard).max().filter(|_| is_news)?;
        Some(last + self.config.inactivity / ALL_QUIET)
    }

    /// Says goodbye to a leg that is about to be closed: a last report with BYE (RFC 3550 6.6), if it ever got anything from us.
    pub fn farewell(&mut self, leg: LegId, now: Now, out: &mut impl FnMut(Transmit<'_>)) {
        let Some(slot) = self.slot(leg) else { return };
        let has_spoken = |leg: &Leg| leg.stats.sent > 0 || leg.stats.rtcp_sent > 0;
        if self.legs[slot].as_ref().is_some_and(has_spoken) {
            self.report(slot, true, now, out);
        }
    }

    fn report(&mut self, slot: usize, is_last: bool, now: Now, out: &mut impl FnMut(Transmit<'_>)) {
        let Some(leg) = self.legs[slot].as_mut() else { return };
        let Some(to) = leg.source.rtcp_target() else { return };
        let mut buffer = [0; rtcp::MAX_REPORT];
        let (bytes, interval) = leg
            .seldom
            .reporter
            .report(&leg.stream, &mut leg.reception, is_last, now, &mut buffer);
        leg.send(slot, TransmitKind::Rtcp, to, bytes, out);
        if !is_last && leg.stats.sent + leg.stats.received > 0 {
            let event = MediaEvent::Quality {
                leg: leg.name,
                quality: leg.quality(interval),
            };
            self.tell(event);
        }
    }

    /// When [`Call::handle_timeout`] is due; may be earlier than needed, never later.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.wake
    }

    fn earliest(&self) -> Option<Instant> {
        let legs = self.legs.iter().flatten().filter_map(|leg| leg.due(&self.config)).min();
        [legs, self.all_quiet_due()].into_iter().flatten().min()
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<MediaEvent> {
        self.events.pop_front()
    }

    /// A packet of sound, on its way to every listener.
    fn hear_audio(
        &mut self,
        slot: usize,
        codec: Codec,
        received: &ReceivedRtp,
        packet: &mut [u8],
        now: Instant,
        out: &mut impl FnMut(Transmit<'_>),
    ) -> LeakVerdict {
        let Some(leg) = self.legs[slot].as_mut() else {
            return LeakVerdict::Foreign;
        };
        let Some(ticks) = codec.ticks(&packet[received.payload.clone()]) else {
            leg.stats.malformed += 1;
            return LeakVerdict::Malformed;
        };
        if leg.spoken_type != received.payload_type {
            self.turn_to(slot, codec, received.payload_type, now);
        }
        let Some(leg) = self.legs[slot].as_mut() else {
            return LeakVerdict::Foreign;
        };
        leg.last_audio = Some(now);
        leg.noise = None;
        let (mixed_by, passed_to) = (leg.mixed_by, leg.passed_to);
        let frame = ticks / (codec.clock() / CLOCK);
        let mut grew = false;
        if mixed_by != 0 {
            if slots(mixed_by).all(|listener| self.ears[(listener, slot)].reader.behind(&leg.ring) == 0) {
                leg.ring.rewind();
            }
            grew = leg.decode(received, &packet[received.payload.clone()], self.rate, now);
        }
        for listener in slots(passed_to) {
            self.pass(slot, listener, received, packet, now, out);
        }
        for listener in slots(mixed_by) {
            if grew && self.pacer(listener, now) == Some(slot) {
                self.send_paced(slot, listener, frame, now, out);
            }
        }
        // Now that its legs are at hand: whoever was just sent to is not due as early as he was.
        if mixed_by != 0 && self.wake.is_some_and(|wake| wake < now + SOON) {
            self.wake = self.earliest();
        }
        LeakVerdict::Accepted
    }

    /// Relays or transcodes a packet to one listener.
    fn pass(
        &mut self,
        speaker: usize,
        listener: usize,
        received: &ReceivedRtp,
        packet: &mut [u8],
        now: Instant,
        out: &mut impl FnMut(Transmit<'_>),
    ) {
        let Some(codec) = self.legs[speaker].as_ref().map(|leg| leg.speaks) else {
            return;
        };
        // RFC 4733 2.5.1.2: the digit stands in place of the sound.
        let dials = |leg: &Leg| leg.dialling.as_ref().is_some_and(|dialling| dialling.sounds());
        let is_dialling = self.legs[speaker].as_ref().is_some_and(dials);
        let Some(leg) = self.legs[listener].as_mut() else { return };
        let Some((media, to)) = leg.outlet() else { return };
        if is_dialling && leg.party && media.dtmf_pt.is_some() {
            return;
        }
        let origin = StreamOrigin {
            slot: speaker,
            ssrc: received.ssrc,
        };
        let Some(ticks) = codec.ticks(&packet[received.payload.clone()]) else {
            return;
        };
        let frame = ticks / (codec.clock() / CLOCK);
        leg.pace.sent(frame, now);
        let permitted = leg.permitted & bit(speaker) != 0;
        if let (Route::Pass(_), true, Some((_, transcoder))) = (leg.row, permitted, &leg.transcoder)
            && transcoder.is(codec, media.codec)
        {
            return self.transcode(listener, origin, received, packet, now, out);
        }
        let Some(header) = leg.stream.relay(origin, received, ticks, now) else {
            leg.stats.discarded += 1;
            return;
        };
        let header = RtpHeader {
            payload_type: media.payload_type,
            ..header
        };
        let permitted = permitted && matches!(leg.row, Route::Pass(_));
        if permitted && media.codec == codec {
            let sent = TransmitKind::Unchanged;
            let bytes = header.put_before(packet, &received.payload);
            return leg.send(listener, sent, to, bytes, out);
        }
        let mut buffer = [0; HEADER + MAX_PAYLOAD];
        buffer[..HEADER].copy_from_slice(&header.to_bytes());
        let room = &mut buffer[HEADER..];
        let payload = &packet[received.payload.clone()];
        if permitted && codec.transcode_law(media.codec, payload, room) {
            let sent = TransmitKind::Transcoded;
            return leg.send(listener, sent, to, &buffer[..HEADER + payload.len()], out);
        }
        let octets = media.codec.silence(frame, room);
        let sent = TransmitKind::Guarded;
        leg.send(listener, sent, to, &buffer[..HEADER + octets], out);
        self.guard(listener, now);
    }

    /// One speaker's packet in a listener's codec. One for one, loss and reordering of the source stay visible; where lengths do not fit, the
    /// packets are numbered as they are made.
    fn transcode(
        &mut self,
        listener: usize,
        origin: StreamOrigin,
        received: &ReceivedRtp,
        packet: &[u8],
        now: Instant,
        out: &mut impl FnMut(Transmit<'_>),
    ) {
        let Some(leg) = self.legs[listener].as_mut() else { return };
        let Some((media, to)) = leg.outlet() else { return };
        let Some((_, transcoder)) = &mut leg.transcoder else { return };
        let timestamp = transcoder.timestamp(received.timestamp);
        let mut is_one_for_one = transcoder.take(&packet[received.payload.clone()]);
        let mut buffer = [0; HEADER + MAX_PAYLOAD];
        while let Some((_, transcoder)) = &mut leg.transcoder
            && let Some((frame, is_all)) = transcoder.ready()
        {
            let octets = transcoder.give(&mut buffer[HEADER..]);
            let ticks = frame * (media.codec.clock() / CLOCK);
            is_one_for_one &= is_all;
            let header = if is_one_for_one {
                let theirs = ReceivedRtp {
                    timestamp,
                    payload: HEADER..HEADER + octets,
                    ..*received
                };
                leg.stream.relay(origin, &theirs, ticks, now)
            } else {
                Some(leg.stream.own(ticks, octets, now))
            };
            let Some(header) = header else {
                leg.stats.discarded += 1;
                return;
            };
            let header = RtpHeader {
                payload_type: media.payload_type,
                ..header
            };
            buffer[..HEADER].copy_from_slice(&header.to_bytes());
            let sent = TransmitKind::Transcoded;
            leg.send(listener, sent, to, &buffer[..HEADER + octets], out);
        }
    }

    /// Comfort noise (RFC 3389): passed on to who knows it, and heard in sums.
    fn hear_noise(
        &mut self,
        slot: usize,
        received: &ReceivedRtp,
        packet: &mut [u8],
        now: Instant,
        out: &mut impl FnMut(Transmit<'_>),
    ) -> LeakVerdict {
        let Some(level) = noise_level(&packet[received.payload.clone()]) else {
            return self.discard(slot);
        };
        let Some(leg) = self.legs[slot].as_mut() else {
            return LeakVerdict::Foreign;
        };
        leg.noise = Some(ComfortNoise::new(level));
        let (passed_to, mixed_by, speaks) = (leg.passed_to, leg.mixed_by, leg.speaks);
        // It has said that it sends no more: its listeners need not wait to see that.
        for listener in slots(mixed_by) {
            if self.pacer(listener, now) == Some(slot)
                && let Some(leg) = self.legs[listener].as_mut()
            {
                leg.pace.own = true;
                self.wake = earlier(self.wake, leg.pace.due());
            }
        }
        let origin = StreamOrigin { slot, ssrc: received.ssrc };
        for listener in slots(passed_to) {
            let Some(leg) = self.legs[listener].as_mut() else { continue };
            let Some((media, to)) = leg.outlet() else { continue };
            let is_relayed = matches!(leg.row, Route::Pass(_)) && leg.permitted & bit(slot) != 0 && media.codec == speaks;
            let Some(payload_type) = media.comfort_noise.filter(|_| is_relayed) else {
                // Numbers nobody gets are not lost: the next packet goes on without them.
                leg.stream.cut();
                continue;
            };
            if let Some(header) = leg.stream.relay(origin, received, 0, now) {
                let sent = TransmitKind::Unchanged;
                let bytes = RtpHeader { payload_type, ..header }.put_before(packet, &received.payload);
                leg.send(listener, sent, to, bytes, out);
            }
        }
        LeakVerdict::Accepted
    }

    /// The next step of the digits that are sent in a leg's name.
    fn dial(&mut self, slot: usize, now: Instant, out: &mut impl FnMut(Transmit<'_>)) {
        let Some(leg) = self.legs[slot].as_mut() else { return };
        let party = leg.party;
        let Some(dialling) = leg.dialling.as_mut().filter(|dialling| dialling.next <= now) else {
            return;
        };
        let Some(&event) = dialling.events.front().filter(|_| party) else {
            leg.dialling = None;
            return;
        };
        let step = dialling.step;
        let sounds = dialling.sounds();
        let timestamp = dialling.timestamp;
        dialling.step += 1;
        dialling.next = (dialling.next + DIGIT_STEP).max(now);
        if dialling.step == DIGIT {
            dialling.step = 0;
            dialling.timestamp = dialling.timestamp.wrapping_add(1);
            dialling.events.pop_front();
        }
        if !sounds {
            return;
        }
        let end = if step >= TONE { 0x80 } else { 0 };
        let duration = ((step + 1).min(TONE) * FRAME) as u16;
        let [high, low] = duration.to_be_bytes();
        let mut packet = [0; HEADER + 4];
        packet[HEADER..].copy_from_slice(&[event, end | DIGIT_VOLUME, high, low]);
        let ours = ReceivedRtp {
            marker: step == 0,
            payload_type: 0,
            sequence: step as u16,
            timestamp,
            ssrc: 0,
            payload: HEADER..HEADER + 4,
        };
        let origin = StreamOrigin {
            slot: OURS + slot,
            ssrc: ours.ssrc,
        };
        for listener in 0..self.legs.len() {
            self.pass_event(origin, listener, &ours, &mut packet, now, out);
        }
    }

    /// Who paces a listener's mix: the first of his parties who talks, else the first supervisor who does.
    fn pacer(&self, listener: usize, now: Instant) -> Option<usize> {
        let Route::Mix(speakers) = self.legs[listener].as_ref()?.row else {
            return None;
        };
        let talks = |party: bool| {
            slots(speakers).find(|&speaker| self.legs[speaker].as_ref().is_some_and(|leg| leg.party == party && leg.talks(now)))
        };
        talks(true).or_else(|| talks(false))
    }

    /// A packet of the pacer came: as much is sent, if the listener is not ahead already.
    fn send_paced(&mut self, pacer: usize, listener: usize, ticks: u32, now: Instant, out: &mut impl FnMut(Transmit<'_>)) {
        let mut left = ticks;
        while left > 0 {
            let Some(leg) = self.legs[listener].as_mut() else { return };
            // What is too short for a frame waits in the ring for the rest.
            let Some(frame) = leg.outlet().and_then(|(media, _)| media.codec.frame(left)) else {
                return;
            };
            left -= frame;
            match leg.pace.turn(frame, now) {
                Turn::Send => {
                    leg.pace.sent(frame, now);
                    self.send_frame(listener, frame, now, out);
                }
                Turn::Wait => return,
                Turn::GiveBack => {
                    let len = (frame * (self.rate / CLOCK)) as usize;
                    let reader = self.ears[(listener, pacer)].reader;
                    let is_quiet = self.legs[pacer].as_ref().is_some_and(|leg| reader.is_quiet(&leg.ring, len));
                    let Some(leg) = self.legs[listener].as_mut() else { return };
                    if !leg.pace.may_give_back(is_quiet) {
                        leg.pace.sent(frame, now);
                        self.send_frame(listener, frame, now, out);
                        continue;
                    }
                    let reader = &mut self.ears[(listener, pacer)].reader;
                    match self.legs[pacer].as_ref() {
                        Some(leg) if is_quiet => reader.skip(&leg.ring, len),
                        Some(leg) => reader.drain(&leg.ring),
                        None => {}
                    }
                    return;
                }
            }
        }
        self.make_up(pacer, listener, now, out);
    }

    /// Sends in the place of packets of the pacer that were lost, now that one has come after them.
    fn make_up(&mut self, pacer: usize, listener: usize, now: Instant, out: &mut impl FnMut(Transmit<'_>)) {
        for _ in 0..2 {
            let (Some(speaker), Some(leg)) = (self.legs[pacer].as_ref(), self.legs[listener].as_ref()) else {
                return;
            };
            let frame = leg.pace.frame;
            let len = frame * (self.rate / CLOCK);
            let reader = &self.ears[(listener, pacer)].reader;
            if !leg.pace.is_short(now) || !reader.is_direct() || reader.behind(&speaker.ring) < len {
                return;
            }
            let Some(frame) = leg.outlet().and_then(|(media, _)| media.codec.frame(frame)) else {
                return;
            };
            if let Some(leg) = self.legs[listener].as_mut() {
                leg.pace.sent(frame, now);
            }
            self.send_frame(listener, frame, now, out);
        }
    }

    /// Mixes and sends one frame, or silence when there is nobody to hear.
    fn send_frame(&mut self, listener: usize, ticks: u32, now: Instant, out: &mut impl FnMut(Transmit<'_>)) {
        let Some(leg) = self.legs[listener].as_ref() else { return };
        let Some((media, to)) = leg.outlet() else { return };
        let speakers = match leg.row {
            Route::Mix(speakers) => speakers,
            Route::Silent | Route::Pass(_) => 0,
        };
        let (permitted, beep) = (leg.permitted, leg.beep);
        let Some(ticks) = media.codec.frame(ticks) else { return };
        let len = (ticks * (self.rate / CLOCK)) as usize;
        let mut sum = Sum::default();
        let mut linear = [0; MAX_FRAME];
        let linear = &mut linear[..len];
        let mut contributors = 0;
        let mut speaks = false;
        let before = leg.ducking;
        let mut ducking = before;
        // Supervisors first: how soft the others are depends on them.
        let parties = self.parties & speakers;
        for (those, are_parties) in [(speakers & !parties, false), (parties, true)] {
            for speaker in slots(those) {
                let Some(leg) = self.legs[speaker].as_mut() else { continue };
                let ear = &mut self.ears[(listener, speaker)];
                if !ear.reader.read(&leg.ring, linear) {
                    let Some(noise) = &mut leg.noise else { continue };
                    noise.fill(linear);
                }
                contributors |= bit(speaker);
                if !are_parties {
                    speaks |= linear.iter().any(|sample| sample.unsigned_abs() > SPEECH);
                }
                if ear.duck == Gain::UNITY.0 {
                    sum.add(linear, ear.gain);
                } else {
                    sum.add_between(linear, before.of(ear.gain, ear.duck), ducking.of(ear.gain, ear.duck));
                }
            }
            if !are_parties {
                ducking.pass(speaks, ticks);
            }
        }
        if beep > 0 {
            tone(BEEP - beep, beep, self.rate / CLOCK, linear);
            sum.add(linear, Gain::UNITY.0);
        }
        let mut buffer = [0; HEADER + MAX_PAYLOAD];
        let payload = &mut buffer[HEADER..];
        let Some(leg) = self.legs[listener].as_mut() else { return };
        let (sent, octets) = if contributors & !permitted != 0 {
            (TransmitKind::Guarded, media.codec.silence(ticks, payload))
        } else if contributors == 0 && beep == 0 {
            (TransmitKind::Silent, media.codec.silence(ticks, payload))
        } else {
            sum.saturate(linear);
            (TransmitKind::Mixed, leg.encode(media.codec, linear, self.rate, payload))
        };
        let header = RtpHeader {
            payload_type: media.payload_type,
            ..leg.stream.own(ticks * (media.codec.clock() / CLOCK), octets, now)
        };
        buffer[..HEADER].copy_from_slice(&header.to_bytes());
        leg.send(listener, sent, to, &buffer[..HEADER + octets], out);
        leg.beep = beep.saturating_sub(ticks);
        leg.ducking = ducking;
        let is_over = beep > 0 && leg.beep == 0;
        if sent == TransmitKind::Guarded {
            self.guard(listener, now);
        }
        if is_over {
            self.arrange(now);
        }
    }

    /// A telephone-event: told to the B2BUA, and passed between parties. A supervisor's reaches nobody, and nobody's reaches a
    /// supervisor.
    fn hear_event(
        &mut self,
        slot: usize,
        received: &ReceivedRtp,
        packet: &mut [u8],
        now: Instant,
        out: &mut impl FnMut(Transmit<'_>),
    ) -> LeakVerdict {
        let Some(event) = rtp::telephone_event(&packet[received.payload.clone()]) else {
            return self.discard(slot);
        };
        let Some(leg) = self.legs[slot].as_mut() else {
            return LeakVerdict::Foreign;
        };
        if !leg.party {
            return self.discard(slot);
        }
        let this = (received.ssrc, received.timestamp);
        if event.end && leg.seldom.digit != Some(this) {
            leg.seldom.digit = Some(this);
            let event = MediaEvent::Digits {
                leg: leg.name,
                digit: event.digit,
            };
            self.tell(event);
        }
        let origin = StreamOrigin { slot, ssrc: received.ssrc };
        for listener in 0..self.legs.len() {
            self.pass_event(origin, listener, received, packet, now, out);
        }
        LeakVerdict::Accepted
    }

    /// An event to one listener: a speaker's own, or one that we make in his name.
    fn pass_event(
        &mut self,
        origin: StreamOrigin,
        listener: usize,
        received: &ReceivedRtp,
        packet: &mut [u8],
        now: Instant,
        out: &mut impl FnMut(Transmit<'_>),
    ) {
        let (speaker, is_ours) = (origin.slot % OURS, origin.slot >= OURS);
        let theirs = self.legs[speaker].as_ref().map_or(CLOCK, |leg| leg.seldom.event_clock);
        let clock = if is_ours { CLOCK } else { theirs };
        let Some(leg) = self.legs[listener].as_mut() else { return };
        let Some((media, to)) = leg.outlet() else { return };
        let Some(payload_type) = media.dtmf_pt else { return };
        if !leg.party || !leg.row.has(speaker) {
            return;
        }
        if leg.permitted & bit(speaker) == 0 {
            leg.stats.leak_guards += 1;
            self.guard(listener, now);
            return;
        }
        let header = match (leg.row, &mut leg.transcoder) {
            (Route::Pass(_), Some((_, transcoder))) if !is_ours => {
                // In the time of the sound that it stands in for.
                let timestamp = transcoder.timestamp(received.timestamp);
                let theirs = ReceivedRtp {
                    timestamp,
                    ..received.clone()
                };
                leg.stream.relay(origin, &theirs, 0, now)
            }
            (Route::Pass(_), _) if !is_ours => leg.stream.relay(origin, received, 0, now),
            (Route::Pass(_) | Route::Mix(_), _) => Some(leg.stream.event(origin, received, now)),
            (Route::Silent, _) => None,
        };
        let Some(header) = header else {
            leg.stats.discarded += 1;
            return;
        };
        let header = RtpHeader { payload_type, ..header };
        let sent = TransmitKind::Unchanged;
        if clock == media.dtmf_clock {
            let bytes = header.put_before(packet, &received.payload);
            return leg.send(listener, sent, to, bytes, out);
        }
        let Some([event, flags, high, low]) = packet[received.payload.clone()].first_chunk::<4>().copied() else {
            return;
        };
        let ticks = u64::from(u16::from_be_bytes([high, low])) * u64::from(media.dtmf_clock) / u64::from(clock.max(1));
        let [high, low] = (ticks.min(0xffff) as u16).to_be_bytes();
        let mut bytes = [0; HEADER + 4];
        bytes[..HEADER].copy_from_slice(&header.to_bytes());
        bytes[HEADER..].copy_from_slice(&[event, flags, high, low]);
        leg.send(listener, sent, to, &bytes, out);
    }

    fn discard(&mut self, slot: usize) -> LeakVerdict {
        if let Some(leg) = self.legs[slot].as_mut() {
            leg.stats.discarded += 1;
        }
        LeakVerdict::Discarded
    }

    fn guard(&mut self, listener: usize, now: Instant) {
        let Some(leg) = self.legs[listener].as_mut() else { return };
        if leg
            .seldom
            .guard_said
            .is_some_and(|at| now.saturating_duration_since(at) < GUARD_INTERVAL)
        {
            return;
        }
        leg.seldom.guard_said = Some(now);
        let event = MediaEvent::LeakGuard {
            call: self.key,
            leg: leg.name,
        };
        self.tell(event);
    }

    fn tell(&mut self, event: MediaEvent) {
        if self.events.len() < MAX_EVENTS {
            self.events.push_back(event);
        }
    }

    /// Works out every row from the allow-list, between two packets. Who goes on hearing somebody loses nothing; who begins to hears
    /// nothing of what was said before.
    fn arrange(&mut self, now: Instant) {
        let facts: [Option<(LegId, bool, bool)>; MAX_LEGS] = std::array::from_fn(|slot| {
            let leg = self.legs.get(slot)?.as_ref()?;
            Some((leg.name, leg.media.is_some(), leg.muted))
        });
        let mut mixed_by = [0; MAX_LEGS];
        let mut passed_to = [0; MAX_LEGS];
        for (slot, fact) in facts.iter().enumerate() {
            let &Some((listener, is_described, _)) = fact else { continue };
            let supervisor = self.hearing.is_supervisor(listener);
            let mut permitted = 0;
            let mut gains = [0; MAX_LEGS];
            let mut ducks = [Gain::UNITY.0; MAX_LEGS];
            for (other, fact) in facts.iter().enumerate() {
                let &Some((speaker, true, muted)) = fact else { continue };
                if other == slot || (muted && !supervisor) {
                    continue;
                }
                if self.hearing.permits(listener, speaker) {
                    permitted |= bit(other);
                }
                gains[other] = self.hearing.gain(listener, speaker).map_or(0, |gain| gain.0);
                ducks[other] = self.hearing.ducked(listener, speaker).0;
            }
            let heard = (0..MAX_LEGS)
                .filter(|&other| gains[other] > 0)
                .fold(0, |mask, other| mask | bit(other));
            let only = slots(heard)
                .next()
                .filter(|&other| heard == bit(other) && gains[other] == Gain::UNITY.0);
            let beeps = self.legs[slot].as_ref().is_some_and(|leg| leg.beep > 0);
            let row = match only {
                _ if !is_described => Route::Silent,
                _ if beeps => Route::Mix(heard),
                _ if heard == 0 => Route::Silent,
                Some(other) => Route::Pass(other),
                None => Route::Mix(heard),
            };
            match row {
                Route::Silent => {}
                Route::Pass(other) => passed_to[other] |= bit(slot),
                Route::Mix(speakers) => slots(speakers).for_each(|other| mixed_by[other] |= bit(slot)),
            }
            let Some(before) = self.legs[slot].as_ref().map(|leg| leg.row) else {
                continue;
            };
            for other in slots(heard) {
                let Some(ring) = self.legs[other].as_mut().map(|leg| &mut leg.ring) else {
                    continue;
                };
                let ear = &mut self.ears[(slot, other)];
                if !matches!(before, Route::Mix(_)) || !before.has(other) {
                    let is_supervision = supervisor || self.hearing.is_supervisor(facts[other].map_or(listener, |(name, ..)| name));
                    let reader = if is_supervision {
                        Reader::buffered(ring)
                    } else {
                        Reader::direct(ring)
                    };
                    ear.reader = if before.has(other) {
                        reader.going_on()
                    } else {
                        ring.forget();
                        reader
                    };
                }
                ear.gain = gains[other];
                ear.duck = ducks[other];
            }
            let Some(leg) = self.legs[slot].as_mut() else { continue };
            leg.pace.own |= row != before;
            if row != before && !matches!(before, Route::Mix(_)) {
                leg.pace.until = leg.pace.until.max(now);
            }
            leg.row = row;
            leg.permitted = permitted;
            leg.party = self.hearing.role(listener).is_some() && !supervisor;
        }
        for (slot, leg) in self.legs.iter_mut().enumerate() {
            if let Some(leg) = leg {
                self.parties = self.parties & !bit(slot) | if leg.party { bit(slot) } else { 0 };
                leg.mixed_by = mixed_by[slot];
                leg.passed_to = passed_to[slot];
            }
        }
        self.prepare();
        self.wake = self.earliest();
    }

    /// Gives every leg what its row needs and nothing else: this is where memory is taken, never in the way of a packet, but for the first
    /// that a leg sends in another codec.
    fn prepare(&mut self) {
        let hears = |leg: &Leg| leg.media.filter(|_| matches!(leg.row, Route::Mix(_))).map(|media| media.codec);
        let is_mixed = |leg: &Leg| leg.media.is_some() && leg.mixed_by != 0;
        let rates = self.legs.iter().flatten().flat_map(|leg| {
            let spoken = is_mixed(leg).then(|| leg.sample_rate());
            [spoken, hears(leg).map(Codec::sample_rate)]
        });
        let rate = rates.flatten().max().unwrap_or(CLOCK);
        let is_other = std::mem::replace(&mut self.rate, rate) != rate;
        let speakers: [Option<Speaker>; MAX_LEGS] = std::array::from_fn(|slot| {
            let leg = self.legs.get(slot)?.as_ref().filter(|leg| leg.media.is_some())?;
            Some(Speaker {
                name: leg.name,
                speaks: leg.speaks,
                spoken: leg.spoken,
            })
        });
        for leg in self.legs.iter_mut().flatten() {
            leg.prepare_decoder(is_other);
            match is_mixed(leg) {
                true if is_other || !leg.ring.is_open() => leg.ring.open(rate),
                true => {}
                false => leg.ring.close(),
            }
            let heard = hears(leg);
            if is_other || leg.encoder.as_ref().map(|(codec, _)| *codec) != heard {
                leg.encoder = heard.map(|codec| (codec, Encoder::new(codec)));
                leg.seldom.down = Downsampler::default();
            }
            leg.prepare_transcoder(match leg.row {
                Route::Pass(other) => speakers[other],
                Route::Silent | Route::Mix(_) => None,
            });
        }
        if is_other {
            for (slot, speaker) in self.legs.iter().enumerate() {
                let Some(speaker) = speaker else { continue };
                for listener in 0..self.legs.len() {
                    let reader = &mut self.ears[(listener, slot)].reader;
                    *reader = reader.anew(&speaker.ring);
                }
            }
        }
    }
}

/// A piece of a soft 440 Hz tone, from its `begun`th tick on, so many samples a tick; silence when `left` are over. It swells and fades for
/// 10 ms, without a click.
fn tone(begun: u32, left: u32, samples_per_tick: u32, samples: &mut [i16]) {
    const FADE: f32 = 80.0;
    let left = (left * samples_per_tick) as usize;
    for (n, sample) in samples.iter_mut().take(left).enumerate() {
        let at = begun as f32 + n as f32 / samples_per_tick as f32;
        let to_go = (left - n) as f32 / samples_per_tick as f32;
        let swell = (at / FADE).min(to_go / FADE).min(1.0);
        *sample = (2000.0 * swell * (at * 440.0 / CLOCK as f32 * std::f32::consts::TAU).sin()) as i16;
    }
    if let Some(rest) = samples.get_mut(left..) {
        rest.fill(0);
    }
}

fn permille(part: u64, whole: u64) -> u16 {
    (part * 1000).checked_div(whole).unwrap_or(0).min(1000) as u16
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

fn codec_bit(codec: Codec) -> u8 {
    1 << codec as u8
}

fn bit(slot: usize) -> u16 {
    1 << slot
}

/// The slots in a mask, in order.
fn slots(mut mask: u16) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        (mask != 0).then(|| {
            let slot = mask.trailing_zeros() as usize;
            mask &= mask - 1;
            slot
        })
    })
}

fn earlier(a: Option<Instant>, b: Instant) -> Option<Instant> {
    Some(a.map_or(b, |a| a.min(b)))
}

#[cfg(test)]
mod tests {
    use super::super::formats::EventClock;
    use super::super::hearing::{HearingRole, HearingRules};
    use super::*;
    use crate::model::{Activity, Timestamp};
    use proptest::prelude::*;

    const AGENT: LegId = LegId(1);
    const CUSTOMER: LegId = LegId(2);
    const SUPERVISOR: LegId = LegId(3);
    const LEGS: [LegId; 3] = [AGENT, CUSTOMER, SUPERVISOR];
    const MS: Duration = Duration::from_millis(1);
    const TELEPHONE_EVENT: u8 = 101;

    /// A packet that left.
    #[derive(Clone, Debug)]
    struct Heard {
        listener: LegId,
        sent: TransmitKind,
        at: Duration,
        rtp: ReceivedRtp,
        payload: Vec<u8>,
    }

    impl Heard {
        fn samples(&self, codec: Codec) -> Vec<i16> {
            let mut samples = vec![0; MAX_DECODED];
            let count = Decoder::new(codec).decode(&self.payload, &mut samples);
            samples.truncate(count);
            samples
        }
    }

    /// A call under a clock of its own, and phones that count their packets.
    struct House {
        call: Call,
        start: Instant,
        now: Duration,
        codecs: [Codec; 3],
        phones: [(u16, u32); 3],
        heard: Vec<Heard>,
        /// RTCP that left, as it went.
        reports: Vec<Report>,
        qualities: Vec<(LegId, Quality)>,
        events: Vec<MediaEvent>,
    }

    /// RTCP that left.
    #[derive(Clone, Debug)]
    struct Report {
        listener: LegId,
        at: Duration,
        to: SocketAddr,
        muxed: bool,
        bytes: Vec<u8>,
    }

    #[expect(clippy::disallowed_methods, reason = "an arbitrary origin of the test's clock")]
    fn start() -> Instant {
        Instant::now()
    }

    fn address(index: usize) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, index as u8 + 1], 4000))
    }

    fn media(index: usize, codec: Codec) -> LegMedia {
        LegMedia {
            remote: Some(address(index)),
            remote_rtcp: None,
            rtcp_mux: false,
            codec,
            payload_type: codec.payload_type(),
            dtmf_pt: Some(TELEPHONE_EVENT),
            dtmf_clock: 8000,
            comfort_noise: None,
            receives: Formats::of(&[
                (codec.payload_type(), Format::Audio(codec)),
                (TELEPHONE_EVENT, Format::Events(EventClock::Narrow)),
                (13, Format::ComfortNoise),
            ]),
            send: true,
            receive: true,
            nat: false,
        }
    }

    fn hearing(activity: Option<Activity>) -> Hearing {
        let mut roles = vec![(AGENT, HearingRole::Agent), (CUSTOMER, HearingRole::Customer)];
        if let Some(activity) = activity {
            let coached = Some(AGENT);
            let agent_side_only = false;
            roles.push((
                SUPERVISOR,
                HearingRole::Supervisor {
                    activity,
                    coached,
                    agent_side_only,
                },
            ));
        }
        Hearing::of(&roles)
    }

    impl House {
        fn new(codecs: [Codec; 3], activity: Option<Activity>) -> Self {
            let start = start();
            let mut call = Call::new(CallKey(7), CallConfig::default());
            for (index, name) in LEGS.into_iter().enumerate() {
                let numbers = StreamStart {
                    ssrc: 100 + index as u32,
                    sequence: 65_500,
                    timestamp: u32::MAX - 1000,
                    reports: (index as u128) << 96,
                };
                assert_eq!(call.put(Leg::new(name, numbers, start), start).unwrap(), index);
                call.handle_describe(name, media(index, codecs[index]), start);
            }
            call.handle_hear(hearing(activity), start);
            Self {
                call,
                start,
                now: Duration::ZERO,
                codecs,
                phones: [(0, 0); 3],
                heard: Vec::new(),
                reports: Vec::new(),
                qualities: Vec::new(),
                events: Vec::new(),
            }
        }

        fn pcmu(activity: Option<Activity>) -> Self {
            Self::new([Codec::Pcmu; 3], activity)
        }

        fn time(&self) -> Instant {
            self.start + self.now
        }

        fn hear(&mut self, activity: Option<Activity>) {
            self.call.handle_hear(hearing(activity), self.time());
        }

        /// Lets time pass, with everything that becomes due.
        fn pass(&mut self, time: Duration) {
            let until = self.now + time;
            while let Some(due) = self.call.poll_timeout().map(|at| at.saturating_duration_since(self.start)) {
                if due > until {
                    break;
                }
                self.now = self.now.max(due);
                let now = Now {
                    mono: self.time(),
                    wall: Timestamp(self.now.as_millis() as u64),
                };
                let (at, heard, reports) = (self.now, &mut self.heard, &mut self.reports);
                self.call.handle_timeout(now, &mut |packet| match packet.sent {
                    TransmitKind::Rtcp => reports.push(Report {
                        listener: LEGS[packet.slot],
                        at,
                        to: packet.to,
                        muxed: packet.muxed,
                        bytes: packet.bytes.to_vec(),
                    }),
                    _ => note(heard, at, packet),
                });
                self.drain();
            }
            self.now = until;
        }

        fn drain(&mut self) {
            while let Some(event) = self.call.poll_event() {
                match event {
                    MediaEvent::Quality { leg, quality } => self.qualities.push((leg, quality)),
                    event => self.events.push(event),
                }
            }
        }

        fn datagram(&mut self, index: usize, from: SocketAddr, mut bytes: Vec<u8>) -> LeakVerdict {
            let (now, at, heard) = (self.time(), self.now, &mut self.heard);
            let verdict = self
                .call
                .handle_rtp(index, from, &mut bytes, now, &mut |packet| note(heard, at, packet));
            self.drain();
            verdict
        }

        fn payload(&mut self, index: usize, payload_type: u8, payload: &[u8]) -> LeakVerdict {
            let (sequence, timestamp) = self.phones[index];
            self.phones[index] = (sequence.wrapping_add(1), timestamp.wrapping_add(payload.len() as u32));
            self.datagram(index, address(index), packet(index, payload_type, sequence, timestamp, payload))
        }

        /// The phone says a payload of its codec.
        fn speak(&mut self, index: usize, payload: &[u8]) -> LeakVerdict {
            let (sequence, timestamp) = self.phones[index];
            let codec = self.codecs[index];
            let ticks = codec.ticks(payload).unwrap();
            self.phones[index] = (sequence.wrapping_add(1), timestamp.wrapping_add(ticks));
            self.datagram(
                index,
                address(index),
                packet(index, codec.payload_type(), sequence, timestamp, payload),
            )
        }

        /// The phone says 20 ms of one level.
        fn say(&mut self, index: usize, level: i16) -> LeakVerdict {
            let codec = self.codecs[index];
            let mut payload = [0; 160];
            Encoder::new(codec).encode(&[level; 160], &mut payload);
            self.payload(index, codec.payload_type(), &payload)
        }

        /// The phone loses its packet on the way.
        fn lose(&mut self, index: usize) {
            let (sequence, timestamp) = self.phones[index];
            self.phones[index] = (sequence.wrapping_add(1), timestamp.wrapping_add(160));
        }

        fn to(&self, listener: LegId) -> impl Iterator<Item = &Heard> {
            self.heard.iter().filter(move |heard| heard.listener == listener)
        }

        fn last(&self, listener: LegId) -> &Heard {
            self.to(listener).last().unwrap()
        }

        fn stats(&self, leg: LegId) -> LegStats {
            self.call.leg(leg).unwrap().stats()
        }
    }

    fn note(heard: &mut Vec<Heard>, at: Duration, packet: Transmit<'_>) {
        assert_eq!(packet.to.ip(), address(packet.slot).ip(), "sent to a stranger");
        if packet.sent != TransmitKind::Rtcp {
            let rtp = rtp::parse(packet.bytes).unwrap();
            heard.push(Heard {
                listener: LEGS[packet.slot],
                sent: packet.sent,
                at,
                payload: packet.bytes[rtp.payload.clone()].to_vec(),
                rtp,
            });
        }
    }

    fn packet(index: usize, payload_type: u8, sequence: u16, timestamp: u32, payload: &[u8]) -> Vec<u8> {
        let header = RtpHeader {
            marker: false,
            payload_type,
            sequence,
            timestamp,
            ssrc: 7000 + index as u32,
        };
        [&header.to_bytes(), payload].concat()
    }

    /// Levels that no sum of others can be taken for.
    const AGENT_LEVEL: i16 = 1000;
    const CUSTOMER_LEVEL: i16 = 4000;
    const SUPERVISOR_LEVEL: i16 = 12_000;
    const LEVELS: [i16; 3] = [AGENT_LEVEL, CUSTOMER_LEVEL, SUPERVISOR_LEVEL];

    fn is_about(sample: i16, level: i32) -> bool {
        (i32::from(sample) - level).abs() <= 64 + level.abs() / 16
    }

    const SUITES: [srtp::Suite; 4] = srtp::Suite::ALL;

    fn srtp_key(suite: srtp::Suite, first: u8) -> srtp::MasterKey {
        srtp::MasterKey::new(suite, &vec![first; suite.material_len()]).unwrap()
    }

    /// The keys of a leg as we have them; the phone's `Protection` has them the other way round.
    fn srtp_keys(suite: srtp::Suite, ours: u8, theirs: u8) -> srtp::Keys {
        srtp::Keys {
            ours: srtp_key(suite, ours),
            theirs: srtp_key(suite, theirs),
        }
    }

    fn secure(house: &mut House, index: usize, keys: &srtp::Keys) {
        let codec = house.codecs[index];
        house.call.handle_keys(LEGS[index], Some(keys));
        house.call.handle_describe(LEGS[index], media(index, codec), house.time());
    }

    /// The next packet of a phone, protected by it.
    fn protected(house: &mut House, index: usize, phone: &mut Protection, payload: &[u8]) -> Vec<u8> {
        let (sequence, timestamp) = house.phones[index];
        house.phones[index] = (sequence.wrapping_add(1), timestamp.wrapping_add(160));
        let mut buffer = [0; MAX_PROTECTED];
        let clear = packet(index, 0, sequence, timestamp, payload);
        phone.protect_rtp(&clear, &mut buffer).unwrap().to_vec()
    }

    /// One datagram in; what leaves to a leg, as it leaves.
    fn raw(house: &mut House, index: usize, from: SocketAddr, mut bytes: Vec<u8>, to: usize) -> (LeakVerdict, Vec<Vec<u8>>) {
        let now = house.time();
        let mut sent = Vec::new();
        let verdict = house.call.handle_rtp(index, from, &mut bytes, now, &mut |packet| {
            if packet.slot == to {
                sent.push(packet.bytes.to_vec());
            }
        });
        (verdict, sent)
    }

    #[test]
    fn srtp_toward_the_agent_and_clear_toward_the_customer_carry_the_same_payload() {
        for suite in SUITES {
            let mut house = House::pcmu(None);
            let keys = srtp_keys(suite, 1, 2);
            let mut phone = Protection::new(&srtp_keys(suite, 2, 1));
            secure(&mut house, 0, &keys);
            for round in 0..50_u8 {
                let secret = protected(&mut house, 0, &mut phone, &[round; 160]);
                let (verdict, sent) = raw(&mut house, 0, address(0), secret, 1);
                assert_eq!(verdict, LeakVerdict::Accepted);
                assert_eq!(sent.len(), 1);
                assert_eq!(sent[0][HEADER..], [round; 160]);

                let clear = packet(1, 0, u16::from(round), u32::from(round) * 160, &[round ^ 0x55; 160]);
                let (_, sent) = raw(&mut house, 1, address(1), clear, 0);
                let mut sent = sent.into_iter().next().unwrap();
                assert_ne!(sent[HEADER..HEADER + 160], [round ^ 0x55; 160]);
                assert_eq!(phone.unprotect_rtp(&mut sent), Ok(HEADER + 160));
                assert_eq!(sent[HEADER..HEADER + 160], [round ^ 0x55; 160]);
            }
            let (agent, customer) = (house.stats(AGENT), house.stats(CUSTOMER));
            assert_eq!((agent.received, agent.unchanged, agent.srtp_rejected), (50, 50, 0));
            assert_eq!((customer.received, customer.unchanged), (50, 50));
        }
    }

    #[test]
    fn the_longest_packet_passes_under_srtp() {
        let mut house = House::pcmu(None);
        secure(&mut house, 0, &srtp_keys(SUITES[0], 1, 2));
        let (verdict, sent) = raw(&mut house, 1, address(1), packet(1, 0, 1, 1, &[9; MAX_PAYLOAD]), 0);
        assert_eq!((verdict, sent[0].len()), (LeakVerdict::Accepted, HEADER + MAX_PAYLOAD + 16));
        let mut phone = Protection::new(&srtp_keys(SUITES[0], 2, 1));
        let secret = protected(&mut house, 0, &mut phone, &[9; MAX_PAYLOAD]);
        let (verdict, sent) = raw(&mut house, 0, address(0), secret, 1);
        assert_eq!((verdict, sent[0].len()), (LeakVerdict::Accepted, HEADER + MAX_PAYLOAD));
    }

    #[test]
    fn bad_packets_are_dropped_and_counted_and_end_nothing() {
        let mut house = House::pcmu(None);
        let mut phone = Protection::new(&srtp_keys(SUITES[2], 2, 1));
        let mut stranger = Protection::new(&srtp_keys(SUITES[2], 3, 1));
        secure(&mut house, 0, &srtp_keys(SUITES[2], 1, 2));
        let first = protected(&mut house, 0, &mut phone, &[1; 160]);
        assert_eq!(raw(&mut house, 0, address(0), first.clone(), 1).0, LeakVerdict::Accepted);
        for round in 0..200_u8 {
            let forged = match round % 3 {
                0 => protected(&mut house, 0, &mut stranger, &[round; 160]),
                1 => packet(0, 0, 9000, 9000, &[round; 160]),
                _ => vec![0x80; 13],
            };
            let (verdict, sent) = raw(&mut house, 0, address(0), forged, 1);
            assert_eq!((verdict, sent.len()), (LeakVerdict::Unauthenticated, 0));
        }
        assert_eq!(raw(&mut house, 0, address(0), first, 1).0, LeakVerdict::Replayed);
        assert_eq!(raw(&mut house, 0, address(2), vec![0x80; 172], 1).0, LeakVerdict::Foreign);
        let next = protected(&mut house, 0, &mut phone, &[7; 160]);
        let (verdict, sent) = raw(&mut house, 0, address(0), next, 1);
        assert_eq!((verdict, &sent[0][HEADER..]), (LeakVerdict::Accepted, &[7; 160][..]));
        let stats = house.stats(AGENT);
        assert_eq!(
            (
                stats.srtp_rejected,
                stats.srtp_replayed,
                stats.foreign,
                stats.received,
                stats.malformed
            ),
            (200, 1, 1, 2, 0)
        );
    }

    #[test]
    fn a_new_key_counts_at_once_and_what_was_on_its_way_is_heard() {
        let mut house = House::pcmu(None);
        let mut before = Protection::new(&srtp_keys(SUITES[0], 2, 1));
        secure(&mut house, 0, &srtp_keys(SUITES[0], 1, 2));
        let packet = protected(&mut house, 0, &mut before, &[1; 160]);
        assert_eq!(raw(&mut house, 0, address(0), packet, 1).0, LeakVerdict::Accepted);
        // Of two packets under the key before one is too late.
        let on_its_way = [(); 2].map(|()| protected(&mut house, 0, &mut before, &[2; 160]));
        secure(&mut house, 0, &srtp_keys(SUITES[0], 1, 4));
        let [soon, late] = on_its_way;
        assert_eq!(raw(&mut house, 0, address(0), soon, 1).0, LeakVerdict::Accepted);
        let mut after = Protection::new(&srtp_keys(SUITES[0], 4, 1));
        for round in 0..5 {
            let packet = protected(&mut house, 0, &mut after, &[round; 160]);
            let (verdict, sent) = raw(&mut house, 0, address(0), packet, 1);
            assert_eq!((verdict, &sent[0][HEADER..]), (LeakVerdict::Accepted, &[round; 160][..]));
        }
        assert_eq!(raw(&mut house, 0, address(0), late, 1).0, LeakVerdict::Unauthenticated);
        // Our own key has stayed: the phone's decryption goes on.
        house.say(1, CUSTOMER_LEVEL);
        assert_eq!(house.stats(CUSTOMER).sent, 7);
    }

    #[test]
    fn the_same_description_again_leaves_srtp_where_it_is() {
        let mut house = House::pcmu(None);
        let keys = srtp_keys(SUITES[1], 1, 2);
        let mut phone = Protection::new(&srtp_keys(SUITES[1], 2, 1));
        secure(&mut house, 0, &keys);
        let packet = protected(&mut house, 0, &mut phone, &[1; 160]);
        assert_eq!(raw(&mut house, 0, address(0), packet.clone(), 1).0, LeakVerdict::Accepted);
        secure(&mut house, 0, &keys);
        assert_eq!(raw(&mut house, 0, address(0), packet, 1).0, LeakVerdict::Replayed);
    }

    #[test]
    fn a_port_behind_a_nat_is_learned_from_authentic_packets_alone() {
        let mut house = House::pcmu(None);
        let mut phone = Protection::new(&srtp_keys(SUITES[2], 2, 1));
        house.call.handle_keys(AGENT, Some(&srtp_keys(SUITES[2], 1, 2)));
        let behind = LegMedia {
            nat: true,
            ..media(0, Codec::Pcmu)
        };
        house.call.handle_describe(AGENT, behind, house.time());
        let mut elsewhere = address(0);
        elsewhere.set_port(5555);
        for sequence in 0..4 {
            let clear = packet(0, 0, sequence, 0, &[1; 160]);
            assert_eq!(raw(&mut house, 0, elsewhere, clear, 1).0, LeakVerdict::Foreign);
        }
        let verdicts = [(); 3].map(|()| {
            let secret = protected(&mut house, 0, &mut phone, &[1; 160]);
            raw(&mut house, 0, elsewhere, secret, 1).0
        });
        assert_eq!(verdicts, [LeakVerdict::Foreign, LeakVerdict::Accepted, LeakVerdict::Accepted]);
    }

    #[test]
    fn reports_are_protected_both_ways() {
        let mut house = House::pcmu(None);
        let mut phone = Protection::new(&srtp_keys(SUITES[3], 2, 1));
        secure(&mut house, 0, &srtp_keys(SUITES[3], 1, 2));
        let mut sent = Vec::new();
        for _ in 0..3 {
            house.now = house.call.poll_timeout().unwrap().saturating_duration_since(house.start);
            let now = Now {
                mono: house.time(),
                wall: Timestamp(0),
            };
            house.call.handle_timeout(now, &mut |packet| {
                if packet.slot == 0 && packet.sent == TransmitKind::Rtcp {
                    sent.push(packet.bytes.to_vec());
                }
            });
        }
        assert!(!sent.is_empty());
        for report in &mut sent {
            let len = phone.unprotect_rtcp(report).unwrap();
            assert!(rtcp::read(&report[..len], 100).is_ok());
        }
        let from = SocketAddr::new(address(0).ip(), address(0).port() + 1);
        let report = [0x80, 201, 0, 1, 0, 0, 0, 9];
        let mut buffer = [0; 64];
        let secret = phone.protect_rtcp(&report, &mut buffer).unwrap();
        assert_eq!(house.call.handle_rtcp(0, from, secret, house.time()), LeakVerdict::Accepted);
        assert_eq!(house.call.handle_rtcp(0, from, secret, house.time()), LeakVerdict::Replayed);
        assert_eq!(house.call.handle_rtcp(0, from, &report, house.time()), LeakVerdict::Unauthenticated);
        let stats = house.stats(AGENT);
        assert_eq!((stats.rtcp_received, stats.srtp_replayed, stats.srtp_rejected), (1, 1, 1));
    }

    #[test]
    fn without_a_supervisor_both_sides_are_relayed_byte_for_byte() {
        let mut house = House::pcmu(None);
        for round in 0..50u8 {
            house.payload(0, 0, &[round; 160]);
            house.payload(1, 0, &[round ^ 0x55; 160]);
            house.pass(20 * MS);
        }
        let to_customer: Vec<_> = house.to(CUSTOMER).map(|heard| heard.payload[0]).collect();
        let to_agent: Vec<_> = house.to(AGENT).map(|heard| heard.payload[0]).collect();
        assert_eq!(to_customer, (0..50).collect::<Vec<u8>>());
        assert_eq!(to_agent, (0..50).map(|round| round ^ 0x55).collect::<Vec<u8>>());
        assert_eq!(house.to(SUPERVISOR).count(), 0);
        let stats = house.stats(CUSTOMER);
        assert_eq!((stats.sent, stats.unchanged), (50, 50));
    }

    #[test]
    fn nobody_hears_anybody_before_the_allow_list_says_so() {
        let mut house = House::pcmu(None);
        house.call.handle_hear(Hearing::default(), house.time());
        for _ in 0..50 {
            (0..3).for_each(|index| {
                house.say(index, LEVELS[index]);
            });
            house.pass(20 * MS);
        }
        assert!(house.heard.is_empty());
    }

    #[test]
    fn a_coach_is_heard_by_the_agent_at_once_and_the_customer_gets_the_agents_bytes() {
        let mut house = House::pcmu(Some(Activity::Coach));
        house.say(1, CUSTOMER_LEVEL);
        house.pass(10 * MS);
        house.say(2, SUPERVISOR_LEVEL);
        house.pass(10 * MS);
        house.say(0, AGENT_LEVEL);
        house.say(1, CUSTOMER_LEVEL);
        let agent = house.last(AGENT);
        assert_eq!(agent.sent, TransmitKind::Mixed);
        assert_eq!(agent.at, 20 * MS, "the mix leaves with the customer's packet");
        // The coach begins softly: 4 ms.
        for sample in &agent.samples(Codec::Pcmu)[32..] {
            assert!(is_about(*sample, i32::from(CUSTOMER_LEVEL) + i32::from(SUPERVISOR_LEVEL)));
        }
        let customer = house.last(CUSTOMER);
        assert_eq!(customer.sent, TransmitKind::Unchanged);
        assert!(
            customer
                .samples(Codec::Pcmu)
                .iter()
                .all(|sample| is_about(*sample, i32::from(AGENT_LEVEL)))
        );
        house.pass(10 * MS);
        let supervisor = house.to(SUPERVISOR).filter(|heard| heard.sent == TransmitKind::Mixed).last();
        assert!(supervisor.is_some());
    }

    /// A stream of a phone: a tone of its own, coded once and said packet by packet.
    struct Voice {
        encoder: Encoder,
        codec: Codec,
        hertz: f64,
        said: usize,
    }

    impl Voice {
        fn new(codec: Codec, hertz: f64) -> Self {
            Self {
                encoder: Encoder::new(codec),
                codec,
                hertz,
                said: 0,
            }
        }

        /// The next 20 ms.
        fn next(&mut self) -> Vec<u8> {
            let rate = self.codec.sample_rate() as usize;
            let sample = |n: usize| (6000.0 * (std::f64::consts::TAU * self.hertz * n as f64 / rate as f64).sin()) as i16;
            let samples: Vec<i16> = (self.said..self.said + rate / 50).map(sample).collect();
            self.said += rate / 50;
            let mut payload = [0; MAX_PAYLOAD];
            let len = self.encoder.encode(&samples, &mut payload);
            payload[..len].to_vec()
        }
    }

    const TONES: [f64; 3] = [400.0, 700.0, 1100.0];

    /// The level of a tone in what a phone heard, in dB below what was said; the first half second is left out.
    fn level_of(house: &House, listener: usize, hertz: f64) -> f64 {
        let codec = house.codecs[listener];
        let rate = f64::from(codec.sample_rate());
        let mut decoder = Decoder::new(codec);
        let mut heard = Vec::new();
        for packet in house.to(LEGS[listener]) {
            let mut samples = [0; MAX_DECODED];
            let count = decoder.decode(&packet.payload, &mut samples);
            heard.extend_from_slice(&samples[..count]);
        }
        let heard = &heard[heard.len() / 4..];
        let (mut re, mut im) = (0.0, 0.0);
        for (n, sample) in heard.iter().enumerate() {
            let phase = std::f64::consts::TAU * hertz * n as f64 / rate;
            re += f64::from(*sample) * phase.cos();
            im += f64::from(*sample) * phase.sin();
        }
        20.0 * (2.0 * re.hypot(im) / heard.len() as f64 / 6000.0).log10()
    }

    fn converse(codecs: [Codec; 3], activity: Option<Activity>) -> House {
        converse_over(codecs, activity, |_| false)
    }

    /// The same when the network loses some of the supervisor's packets.
    fn converse_over(codecs: [Codec; 3], activity: Option<Activity>, loses: impl Fn(u32) -> bool) -> House {
        let mut house = House::new(codecs, activity);
        let mut voices: [Voice; 3] = std::array::from_fn(|index| Voice::new(codecs[index], TONES[index]));
        for round in 0..150 {
            for (index, voice) in voices.iter_mut().enumerate() {
                let payload = voice.next();
                if index == 2 && loses(round) {
                    let ticks = codecs[index].clock() / 50;
                    let (sequence, timestamp) = house.phones[index];
                    house.phones[index] = (sequence.wrapping_add(1), timestamp.wrapping_add(ticks));
                    continue;
                }
                assert_eq!(house.speak(index, &payload), LeakVerdict::Accepted);
            }
            house.pass(20 * MS);
        }
        house
    }

    #[test]
    fn whatever_codecs_they_have_each_hears_whom_he_may_and_nobody_else() {
        use Codec::{G722, L16, Opus, Pcma, Pcmu};
        let mixtures = [
            [Pcmu, Pcmu, Opus],
            [Opus, Opus, Pcmu],
            [G722, Pcma, Opus],
            [Pcmu, Opus, G722],
            [L16, G722, Pcma],
            [Opus, Opus, Opus],
            [G722, G722, G722],
        ];
        for codecs in mixtures {
            let house = converse(codecs, Some(Activity::Coach));
            for (listener, hears) in [(0, [false, true, true]), (1, [true, false, false]), (2, [true, true, false])] {
                for (speaker, hears) in hears.into_iter().enumerate() {
                    let level = level_of(&house, listener, TONES[speaker]);
                    match hears {
                        true => assert!(level > -6.0, "{codecs:?}: {listener} hears {speaker} at {level} dB"),
                        // What Opus and G.722 add of their own lies about 40 dB below.
                        false => assert!(level < -30.0, "{codecs:?}: {listener} hears {speaker} at {level} dB"),
                    }
                }
            }
            let stats = house.stats(CUSTOMER);
            assert_eq!((stats.mixed, stats.silent, stats.leak_guards), (0, 0, 0));
            assert!(stats.sent >= 149);
            for leg in LEGS {
                let packets: Vec<_> = house.to(leg).collect();
                let ticks = house.codecs[house.call.slot(leg).unwrap()].clock() / 50;
                for two in packets.windows(2).skip(3) {
                    assert_eq!(two[1].rtp.timestamp.wrapping_sub(two[0].rtp.timestamp), ticks, "{codecs:?} {leg:?}");
                    assert_eq!(two[1].rtp.sequence.wrapping_sub(two[0].rtp.sequence), 1);
                }
            }
        }
    }

    #[test]
    fn a_customer_with_another_codec_gets_the_same_bytes_whether_or_not_somebody_coaches() {
        use Codec::{G722, L16, Opus, Pcma, Pcmu};
        for (agent, customer) in [(Pcmu, Pcma), (G722, Pcmu), (Opus, Pcma), (Pcmu, Opus), (L16, G722), (Opus, G722)] {
            for supervisor in [Pcmu, Opus] {
                let sent = |activity| {
                    let house = converse([agent, customer, supervisor], activity);
                    let packets = house.to(CUSTOMER).map(|heard| (heard.at, heard.rtp.clone(), heard.payload.clone()));
                    packets.collect::<Vec<_>>()
                };
                let alone = sent(None);
                assert_eq!(alone.len(), 150, "{agent:?} to {customer:?}");
                assert!(
                    alone == sent(Some(Activity::Coach)),
                    "{agent:?} to {customer:?} under {supervisor:?}"
                );
                assert!(alone == sent(Some(Activity::ListenIn)));
            }
        }
    }

    #[test]
    fn what_was_said_while_muted_does_not_come_back_to_conceal_a_loss() {
        let mut house = House::pcmu(Some(Activity::BargeIn));
        house.call.handle_mute(AGENT, true, house.time());
        let shout = |house: &mut House| {
            let mut payload = [0; 160];
            let samples: [i16; 160] = std::array::from_fn(|n| if n % 40 < 20 { 16_000 } else { -16_000 });
            Encoder::new(Codec::Pcmu).encode(&samples, &mut payload);
            house.payload(0, 0, &payload);
        };
        for _ in 0..20 {
            shout(&mut house);
            house.say(1, 0);
            house.pass(20 * MS);
        }
        house.heard.clear();
        house.call.handle_mute(AGENT, false, house.time());
        house.lose(0);
        for _ in 0..3 {
            house.pass(20 * MS);
            house.say(0, AGENT_LEVEL);
            house.lose(0);
        }
        house.pass(100 * MS);
        let loudest = house
            .to(CUSTOMER)
            .flat_map(|heard| heard.samples(Codec::Pcmu))
            .map(i16::unsigned_abs)
            .max();
        assert!(loudest <= Some(AGENT_LEVEL.unsigned_abs() + 64), "{loudest:?}");
        assert!(house.to(CUSTOMER).count() > 0);
    }

    #[test]
    fn with_15_per_cent_of_the_supervisors_packets_lost_agent_and_customer_notice_nothing() {
        for supervisor in [Codec::Pcmu, Codec::Opus] {
            let codecs = [Codec::Pcmu, Codec::Pcmu, supervisor];
            // 23 of 150, singly and in pairs.
            let loses = |round: u32| round > 0 && round * 7919 % 150 < 24;
            let whole = converse(codecs, Some(Activity::Coach));
            let lossy = converse_over(codecs, Some(Activity::Coach), loses);
            let packets = |house: &House, leg| {
                let packets = house
                    .to(leg)
                    .map(|heard| (heard.at, heard.rtp.sequence, heard.rtp.timestamp, heard.payload.len()));
                packets.collect::<Vec<_>>()
            };
            assert_eq!(packets(&whole, AGENT), packets(&lossy, AGENT));
            assert_eq!(packets(&whole, CUSTOMER), packets(&lossy, CUSTOMER));
            let bytes = |house: &House| house.to(CUSTOMER).map(|heard| heard.payload.clone()).collect::<Vec<_>>();
            assert!(bytes(&whole) == bytes(&lossy));
            let customer = level_of(&lossy, 0, TONES[1]);
            assert!(customer.abs() < 0.5, "the agent hears the customer at {customer} dB");
            let whisper = level_of(&lossy, 0, TONES[2]);
            assert!(whisper > -3.0, "and the whisper at {whisper} dB");
            assert_eq!(lossy.stats(SUPERVISOR).lost, 23);
        }
    }

    #[test]
    fn nothing_is_decoded_while_nobody_monitors_and_nothing_ever_of_who_is_relayed_alone() {
        let house = converse([Codec::Opus, Codec::Opus, Codec::Opus], None);
        assert!(
            house
                .call
                .legs
                .iter()
                .flatten()
                .all(|leg| leg.decoder.is_none() && leg.encoder.is_none() && !leg.ring.is_open())
        );
        let stats = house.stats(AGENT);
        assert_eq!((stats.sent, stats.unchanged), (150, 150));
        let house = converse([Codec::Opus, Codec::Opus, Codec::Opus], Some(Activity::Coach));
        let customer = house.call.leg(CUSTOMER).unwrap();
        assert!(customer.encoder.is_none() && customer.transcoder.is_none());
        assert_eq!(house.stats(CUSTOMER).unchanged, house.stats(CUSTOMER).sent);
    }

    #[test]
    fn comfort_noise_is_passed_on_to_who_knows_it_and_is_a_soft_noise_for_the_supervisor() {
        let mut house = House::pcmu(Some(Activity::ListenIn));
        for (index, leg) in LEGS.into_iter().enumerate() {
            let knows = LegMedia {
                comfort_noise: (index != 1).then_some(13),
                ..media(index, Codec::Pcmu)
            };
            house.call.handle_describe(leg, knows, house.time());
        }
        let known = LegMedia {
            comfort_noise: Some(13),
            ..media(1, Codec::Pcmu)
        };
        for round in 0..100 {
            house.say(0, AGENT_LEVEL);
            if round < 20 {
                house.say(1, CUSTOMER_LEVEL);
            } else if round == 20 {
                house.call.handle_describe(CUSTOMER, known, house.time());
                assert_eq!(house.payload(1, 13, &[50]), LeakVerdict::Accepted);
            }
            house.pass(20 * MS);
        }
        let noise: Vec<_> = house.to(AGENT).filter(|heard| heard.payload.len() == 1).collect();
        assert_eq!(noise.len(), 1);
        assert_eq!((noise[0].payload[0], noise[0].rtp.payload_type), (50, 13));
        let heard = house.last(SUPERVISOR).samples(Codec::Pcmu);
        let differs = heard.iter().filter(|sample| (**sample - AGENT_LEVEL).abs() > 16).count();
        assert!(differs > 40, "{heard:?}");
        assert!(heard.iter().all(|sample| (sample - AGENT_LEVEL).abs() < 300));
    }

    #[test]
    fn a_digit_takes_its_time_in_a_stream_that_is_transcoded() {
        for (codecs, ticks) in [
            ([Codec::Opus, Codec::Pcmu, Codec::Pcmu], 960),
            ([Codec::Pcmu, Codec::Opus, Codec::Pcmu], 160),
            ([Codec::G722, Codec::Pcma, Codec::Pcmu], 160),
            ([Codec::Pcmu, Codec::Pcma, Codec::Pcmu], 160),
            ([Codec::Opus, Codec::Opus, Codec::Pcmu], 960),
        ] {
            for before in [15, 200] {
                let mut house = House::new(codecs, None);
                let samples = vec![500; codecs[0].sample_rate() as usize / 50];
                let mut encoder = Encoder::new(codecs[0]);
                let mut payload = [0; MAX_PAYLOAD];
                let mut say = |house: &mut House| {
                    let len = encoder.encode(&samples, &mut payload);
                    house.speak(0, &payload[..len]);
                    house.pass(20 * MS);
                };
                (0..before).for_each(|_| say(&mut house));
                let sound = house.last(CUSTOMER).rtp.clone();
                let (_, digit) = house.phones[0];
                for step in 0..8 {
                    let (sequence, timestamp) = house.phones[0];
                    house.phones[0] = (sequence.wrapping_add(1), timestamp.wrapping_add(ticks));
                    let end = if step < 5 { 0 } else { 0x80 };
                    let event = packet(0, TELEPHONE_EVENT, sequence, digit, &[5, end | 10, 0, 160]);
                    house.datagram(0, address(0), event);
                    house.pass(20 * MS);
                }
                let event = house.last(CUSTOMER).rtp.clone();
                say(&mut house);
                let after = house.last(CUSTOMER).rtp.clone();
                let frame = codecs[1].clock() / 50;
                let name = format!("{codecs:?} after {before}");
                assert_eq!(event.timestamp.wrapping_sub(sound.timestamp), frame, "the digit: {name}");
                assert_eq!(after.timestamp.wrapping_sub(sound.timestamp), 9 * frame, "the sound: {name}");
            }
        }
    }

    #[test]
    fn noise_of_who_is_held_is_heard_no_more() {
        let mut house = House::pcmu(Some(Activity::ListenIn));
        let quiet = LegMedia {
            comfort_noise: Some(13),
            ..media(1, Codec::Pcmu)
        };
        house.call.handle_describe(CUSTOMER, quiet, house.time());
        house.say(1, CUSTOMER_LEVEL);
        house.payload(1, 13, &[40]);
        let held = LegMedia { receive: false, ..quiet };
        house.call.handle_describe(CUSTOMER, held, house.time());
        house.pass(400 * MS);
        house.heard.clear();
        for _ in 0..10 {
            house.say(0, 0);
            house.pass(20 * MS);
        }
        let heard: Vec<i16> = house.to(SUPERVISOR).flat_map(|heard| heard.samples(Codec::Pcmu)).collect();
        assert!(heard.len() > 800);
        assert!(heard.iter().all(|sample| sample.abs() < 16), "{:?}", &heard[..20]);
    }

    #[test]
    fn a_speaker_who_changes_his_codec_goes_on_in_the_time_of_his_listener() {
        let mut house = House::new([Codec::Opus, Codec::Pcmu, Codec::Pcmu], None);
        let mut encoder = Encoder::new(Codec::Opus);
        let mut payload = [0; MAX_PAYLOAD];
        for _ in 0..15 {
            let len = encoder.encode(&[500; 320], &mut payload);
            house.speak(0, &payload[..len]);
            house.pass(20 * MS);
        }
        let before = house.last(CUSTOMER).rtp.clone();
        house.codecs[0] = Codec::Pcmu;
        house.call.handle_describe(AGENT, media(0, Codec::Pcmu), house.time());
        house.speak(0, &[0x55; 160]);
        let after = house.last(CUSTOMER).rtp.clone();
        assert_eq!(after.sequence, before.sequence.wrapping_add(1));
        assert_eq!(after.timestamp.wrapping_sub(before.timestamp), 160);
    }

    #[test]
    fn digits_keep_their_length_between_clocks() {
        let mut house = House::new([Codec::Opus, Codec::Pcmu, Codec::Pcmu], None);
        let wide = LegMedia {
            dtmf_clock: 48_000,
            receives: Formats::of(&[
                (111, Format::Audio(Codec::Opus)),
                (TELEPHONE_EVENT, Format::Events(EventClock::Full)),
            ]),
            ..media(0, Codec::Opus)
        };
        house.call.handle_describe(AGENT, wide, house.time());
        house.payload(0, TELEPHONE_EVENT, &[5, 0x8a, 0x12, 0xc0]);
        assert_eq!(house.last(CUSTOMER).payload, [5, 0x8a, 0x03, 0x20]);
        house.payload(1, TELEPHONE_EVENT, &[5, 0x8a, 0x03, 0x20]);
        assert_eq!(house.last(AGENT).payload, [5, 0x8a, 0x12, 0xc0]);
    }

    // ---- what a leg may send, and when it changes: RFC 3264 6.1, 7 and 8.3.2

    /// PCMU, PCMA and Opus under two numbers each, events of two clocks, and comfort noise.
    const SEVERAL: [(u8, Format); 10] = [
        (0, Format::Audio(Codec::Pcmu)),
        (8, Format::Audio(Codec::Pcma)),
        (9, Format::Audio(Codec::G722)),
        (97, Format::Audio(Codec::Opus)),
        (111, Format::Audio(Codec::Opus)),
        (96, Format::Events(EventClock::Narrow)),
        (TELEPHONE_EVENT, Format::Events(EventClock::Narrow)),
        (100, Format::Events(EventClock::Full)),
        (13, Format::ComfortNoise),
        (98, Format::ComfortNoise),
    ];

    fn several(index: usize, sent: Codec) -> LegMedia {
        LegMedia {
            receives: Formats::of(&SEVERAL),
            ..media(index, sent)
        }
    }

    impl House {
        /// The phone says 20 ms of one level in a codec, under a number; `encoder` is the codec's.
        fn say_in(&mut self, index: usize, number: u8, encoder: &mut (Codec, Encoder), level: i16) -> LeakVerdict {
            let (codec, encoder) = encoder;
            let samples = vec![level; codec.sample_rate() as usize / 50];
            let mut payload = [0; MAX_PAYLOAD];
            let len = encoder.encode(&samples, &mut payload);
            let (sequence, timestamp) = self.phones[index];
            self.phones[index] = (sequence.wrapping_add(1), timestamp.wrapping_add(codec.clock() / 50));
            self.datagram(index, address(index), packet(index, number, sequence, timestamp, &payload[..len]))
        }
    }

    fn encoder(codec: Codec) -> (Codec, Encoder) {
        (codec, Encoder::new(codec))
    }

    #[test]
    fn every_agreed_number_is_heard_and_no_other() {
        let mut house = House::pcmu(None);
        house.call.handle_describe(AGENT, several(0, Codec::Pcmu), house.time());
        for number in 0..128 {
            let payload: &[u8] = match Formats::of(&SEVERAL).get(number) {
                Some(Format::Audio(Codec::Opus)) => &[9 << 3],
                Some(Format::Audio(_)) => &[0xff; 160],
                Some(Format::ComfortNoise) => &[60],
                Some(Format::Events(_)) | None => &[5, 0x0a, 0, 160],
            };
            let expected = match Formats::of(&SEVERAL).get(number) {
                Some(_) => LeakVerdict::Accepted,
                None => LeakVerdict::Malformed,
            };
            assert_eq!(house.payload(0, number, payload), expected, "{number}");
        }
    }

    #[test]
    fn a_relay_transcodes_while_the_codec_is_another_and_is_a_relay_again() {
        let mut house = House::new([Codec::Pcmu; 3], Some(Activity::Coach));
        house.call.handle_describe(AGENT, several(0, Codec::Pcmu), house.time());
        let mut plan = Vec::new();
        for (number, codec) in [
            (0, Codec::Pcmu),
            (8, Codec::Pcma),
            (0, Codec::Pcmu),
            (9, Codec::G722),
            (97, Codec::Opus),
            (111, Codec::Opus),
            (8, Codec::Pcma),
            (0, Codec::Pcmu),
        ] {
            let mut encoder = encoder(codec);
            for _ in 0..20 {
                assert_eq!(house.say_in(0, number, &mut encoder, AGENT_LEVEL), LeakVerdict::Accepted);
                plan.push(codec);
                house.pass(20 * MS);
            }
        }
        let heard: Vec<Heard> = house.to(CUSTOMER).cloned().collect();
        assert_eq!(heard.len(), plan.len(), "one for one");
        for (n, (heard, codec)) in heard.iter().zip(&plan).enumerate() {
            let sent = if *codec == Codec::Pcmu {
                TransmitKind::Unchanged
            } else {
                TransmitKind::Transcoded
            };
            assert_eq!((heard.sent, heard.rtp.payload_type), (sent, 0), "{n}: {codec:?}");
            // Opus filters out what does not swing.
            let steady = n % 20 > 5 && *codec != Codec::Opus;
            let right = |sample: &i16| is_about(*sample, AGENT_LEVEL.into());
            assert!(
                !steady || heard.samples(Codec::Pcmu).iter().filter(|sample| right(sample)).count() > 120,
                "{n}: {codec:?}"
            );
        }
        for two in heard.windows(2) {
            assert_eq!(two[1].rtp.sequence, two[0].rtp.sequence.wrapping_add(1));
            assert_eq!(two[1].rtp.timestamp.wrapping_sub(two[0].rtp.timestamp), 160, "{two:?}");
        }
        let stats = house.stats(CUSTOMER);
        assert_eq!((stats.unchanged, stats.transcoded, stats.leak_guards), (60, 100, 0));
        assert_eq!(house.stats(AGENT).malformed, 0);
    }

    #[test]
    fn a_speaker_may_change_at_every_packet_and_is_heard_by_whoever_mixes_it() {
        for numbers in [[0, 8], [8, 9], [0, 111]] {
            let mut house = House::new([Codec::Pcmu; 3], Some(Activity::Coach));
            house.call.handle_describe(SUPERVISOR, several(2, Codec::Pcmu), house.time());
            let mut encoders = numbers.map(|number| match Formats::of(&SEVERAL).get(number) {
                Some(Format::Audio(codec)) => encoder(codec),
                other => panic!("{other:?}"),
            });
            for round in 0..200 {
                house.say(0, 0);
                house.say(1, 0);
                // Two of each: the numbers of a stream are its own, whatever codec is in it.
                let which = round / 2 % 2;
                assert_eq!(
                    house.say_in(2, numbers[which], &mut encoders[which], SUPERVISOR_LEVEL),
                    LeakVerdict::Accepted
                );
                house.pass(20 * MS);
            }
            let whispered = house.to(AGENT).skip(50).flat_map(|heard| heard.samples(Codec::Pcmu));
            let whispered: Vec<i16> = whispered.collect();
            let loud = whispered.iter().filter(|sample| **sample > SUPERVISOR_LEVEL / 2).count();
            // Opus filters out what does not swing.
            let tenths = if numbers.contains(&111) { 4 } else { 6 };
            assert!(loud > whispered.len() * tenths / 10, "{numbers:?}: {loud} of {}", whispered.len());
            assert!(house.to(CUSTOMER).all(|heard| heard.sent == TransmitKind::Unchanged));
            assert_eq!(house.stats(CUSTOMER).leak_guards + house.stats(AGENT).leak_guards, 0);
        }
    }

    #[test]
    fn digits_of_either_number_and_clock_arrive_under_the_listeners_number() {
        for (number, duration) in [(96, [3, 0x20]), (TELEPHONE_EVENT, [3, 0x20]), (100, [0x12, 0xc0])] {
            let mut house = House::pcmu(None);
            let other = LegMedia {
                dtmf_pt: Some(98),
                ..media(1, Codec::Pcmu)
            };
            house.call.handle_describe(AGENT, several(0, Codec::Pcmu), house.time());
            house.call.handle_describe(CUSTOMER, other, house.time());
            house.payload(0, number, &[5, 0x8a, duration[0], duration[1]]);
            let heard = house.last(CUSTOMER);
            assert_eq!((heard.rtp.payload_type, &heard.payload[..]), (98, &[5, 0x8a, 3, 0x20][..]));
            assert!(matches!(house.events[..], [MediaEvent::Digits { leg: AGENT, digit: '5' }]));
        }
    }

    #[test]
    fn what_was_agreed_before_is_heard_for_a_moment_more() {
        let mut house = House::pcmu(None);
        let other = LegMedia {
            receives: Formats::of(&[(8, Format::Audio(Codec::Pcma)), (96, Format::Events(EventClock::Narrow))]),
            ..media(0, Codec::Pcma)
        };
        let (mut before, mut after) = (encoder(Codec::Pcmu), encoder(Codec::Pcma));
        house.say_in(0, 0, &mut before, AGENT_LEVEL);
        house.call.handle_describe(AGENT, other, house.time());
        house.pass(500 * MS);
        assert_eq!(house.say_in(0, 8, &mut after, AGENT_LEVEL), LeakVerdict::Accepted);
        assert_eq!(house.last(CUSTOMER).sent, TransmitKind::Transcoded);
        assert_eq!(house.say_in(0, 0, &mut before, AGENT_LEVEL), LeakVerdict::Accepted);
        assert_eq!(house.last(CUSTOMER).sent, TransmitKind::Unchanged);
        assert_eq!(house.say_in(0, 0, &mut before, AGENT_LEVEL), LeakVerdict::Accepted);
        assert_eq!(house.payload(0, TELEPHONE_EVENT, &[5, 0x8a, 3, 0x20]), LeakVerdict::Accepted);
        house.pass(FORMER);
        assert_eq!(house.say_in(0, 0, &mut before, AGENT_LEVEL), LeakVerdict::Malformed);
        assert_eq!(house.payload(0, TELEPHONE_EVENT, &[5, 0x8a, 3, 0x20]), LeakVerdict::Malformed);
        assert_eq!(house.say_in(0, 8, &mut after, AGENT_LEVEL), LeakVerdict::Accepted);
    }

    #[test]
    fn a_codec_that_is_no_longer_agreed_is_no_longer_expected() {
        let mut house = House::new([Codec::Pcmu; 3], Some(Activity::Coach));
        house.call.handle_describe(AGENT, several(0, Codec::Pcmu), house.time());
        let mut wide = encoder(Codec::G722);
        for _ in 0..5 {
            house.say_in(0, 9, &mut wide, AGENT_LEVEL);
            house.pass(20 * MS);
        }
        assert_eq!(house.call.rate, 16_000, "the supervisor hears it as it is");
        house.call.handle_describe(AGENT, media(0, Codec::Pcmu), house.time());
        assert_eq!(house.call.rate, 8000);
        let agent = house.call.leg(AGENT).unwrap();
        assert!(agent.seldom.decoders.is_empty() && agent.speaks == Codec::Pcmu);
        assert!(house.call.leg(CUSTOMER).unwrap().transcoder.is_none());
    }

    #[test]
    fn the_leak_guard_holds_whatever_codec_is_spoken() {
        let mut house = House::pcmu(Some(Activity::Coach));
        house.call.handle_describe(SUPERVISOR, several(2, Codec::Pcmu), house.time());
        house.say(0, AGENT_LEVEL);
        let customer = house.call.slot(CUSTOMER).unwrap();
        if let Some(leg) = house.call.legs[customer].as_mut() {
            leg.row = Route::Pass(2);
        }
        if let Some(leg) = house.call.legs[2].as_mut() {
            leg.passed_to |= bit(customer);
        }
        for (number, codec) in [(0, Codec::Pcmu), (8, Codec::Pcma), (0, Codec::Pcmu)] {
            house.say_in(2, number, &mut encoder(codec), SUPERVISOR_LEVEL);
            if house.last(CUSTOMER).rtp.ssrc == 101 && house.to(CUSTOMER).count() > 1 {
                assert_eq!(house.last(CUSTOMER).sent, TransmitKind::Guarded, "{codec:?}");
            }
        }
        assert!(
            house
                .to(CUSTOMER)
                .all(|heard| heard.samples(Codec::Pcmu).iter().all(|sample| *sample < SUPERVISOR_LEVEL / 2))
        );
        assert!(house.stats(CUSTOMER).leak_guards > 0);
    }

    #[test]
    fn while_the_coach_speaks_the_customer_goes_softer_for_the_agent_and_comes_back_without_a_step() {
        let mut house = House::pcmu(None);
        let rules = HearingRules {
            whisper: Gain::from_db(-6.0),
            duck: Gain::from_db(-12.0),
            ..HearingRules::default()
        };
        let coach = HearingRole::Supervisor {
            activity: Activity::Coach,
            coached: Some(AGENT),
            agent_side_only: false,
        };
        let roles = [(AGENT, HearingRole::Agent), (CUSTOMER, HearingRole::Customer), (SUPERVISOR, coach)];
        house.call.handle_hear(Hearing::with(&roles, rules), house.time());
        for round in 0..150 {
            house.say(0, AGENT_LEVEL);
            house.say(1, CUSTOMER_LEVEL);
            house.say(2, if (50..75).contains(&round) { SUPERVISOR_LEVEL } else { 0 });
            house.pass(20 * MS);
        }
        let heard: Vec<i16> = house.to(AGENT).flat_map(|heard| heard.samples(Codec::Pcmu)).collect();
        let (whisper, softer) = (i32::from(SUPERVISOR_LEVEL) / 2, i32::from(CUSTOMER_LEVEL) / 4);
        let about = |from: usize, to: usize, level: i32| {
            let samples = &heard[from * 160..to * 160];
            assert!(
                samples.iter().all(|sample| is_about(*sample, level)),
                "{from} to {to}: {:?}",
                &samples[..8]
            );
        };
        about(5, 49, i32::from(CUSTOMER_LEVEL));
        about(53, 74, whisper + softer);
        about(78, 88, softer);
        about(110, 145, i32::from(CUSTOMER_LEVEL));
        let back = &heard[78 * 160..145 * 160];
        assert!(back.windows(2).all(|two| (two[1] - two[0]).abs() <= 256), "a step on the way back");
        let customer: Vec<_> = house.to(CUSTOMER).map(|heard| heard.sent).collect();
        assert!(customer.iter().all(|sent| *sent == TransmitKind::Unchanged));
    }

    #[test]
    fn the_whisper_goes_on_while_the_customer_sends_nothing() {
        let mut house = House::pcmu(Some(Activity::Coach));
        for _ in 0..100 {
            house.say(2, SUPERVISOR_LEVEL);
            house.pass(20 * MS);
        }
        let whispered: usize = house
            .to(AGENT)
            .map(|heard| {
                heard
                    .samples(Codec::Pcmu)
                    .iter()
                    .filter(|sample| is_about(**sample, i32::from(SUPERVISOR_LEVEL)))
                    .count()
            })
            .sum();
        assert!(whispered >= 97 * 160, "{whispered} samples");
        assert_eq!(house.to(CUSTOMER).count(), 0);
    }

    #[test]
    fn when_packets_stop_our_clock_takes_over_two_packet_times_after_the_next_was_due() {
        let mut house = House::pcmu(Some(Activity::Coach));
        for _ in 0..10 {
            house.say(1, CUSTOMER_LEVEL);
            house.pass(20 * MS);
        }
        let before = house.to(AGENT).count();
        house.pass(39 * MS);
        assert_eq!(house.to(AGENT).count(), before);
        house.pass(MS);
        assert_eq!(house.to(AGENT).count(), before + 2, "nothing is owed");
        house.pass(200 * MS);
        assert_eq!(house.to(AGENT).count(), before + 12);
    }

    #[test]
    fn a_packet_that_is_lost_is_replaced_when_the_next_one_comes() {
        let mut house = House::pcmu(Some(Activity::Coach));
        for round in 0..100 {
            match round {
                50 => house.lose(1),
                _ => drop(house.say(1, CUSTOMER_LEVEL)),
            }
            house.pass(20 * MS);
            let frames = house.to(AGENT).count();
            assert_eq!(frames, if round == 50 { 50 } else { round + 1 });
        }
    }

    #[test]
    fn a_speaker_who_says_that_it_is_silent_is_not_waited_for() {
        let mut house = House::pcmu(Some(Activity::Coach));
        let noisy = LegMedia {
            comfort_noise: Some(13),
            ..media(1, Codec::Pcmu)
        };
        house.call.handle_describe(CUSTOMER, noisy, house.time());
        for _ in 0..10 {
            house.say(1, CUSTOMER_LEVEL);
            house.pass(20 * MS);
        }
        house.payload(1, 13, &[60]);
        let before = house.to(AGENT).count();
        house.pass(10 * MS);
        assert_eq!(house.to(AGENT).count(), before + 1);
    }

    #[test]
    fn numbers_toward_everybody_are_unbroken_through_joins_switches_and_leaves() {
        let mut house = House::pcmu(None);
        let modes = [
            None,
            Some(Activity::ListenIn),
            Some(Activity::Coach),
            Some(Activity::BargeIn),
            Some(Activity::Coach),
            None,
        ];
        for mode in modes {
            house.hear(mode);
            for _ in 0..25 {
                for (index, level) in LEVELS.into_iter().enumerate() {
                    house.say(index, level);
                }
                house.pass(20 * MS);
            }
        }
        for (index, leg) in LEGS.into_iter().enumerate().take(2) {
            let packets: Vec<_> = house.to(leg).collect();
            assert!((149..=152).contains(&packets.len()), "{}", packets.len());
            for (n, heard) in packets.iter().enumerate() {
                assert_eq!(heard.rtp.ssrc, 100 + index as u32);
                assert_eq!(heard.rtp.sequence, 65_500_u16.wrapping_add(n as u16));
                assert_eq!(heard.rtp.timestamp, (u32::MAX - 1000).wrapping_add(160 * n as u32));
            }
        }
    }

    #[test]
    fn numbers_toward_everybody_are_unbroken_through_a_hold_and_time_goes_on() {
        let inactive = |media: &mut LegMedia| (media.send, media.receive) = (false, false);
        let sendonly = |media: &mut LegMedia| media.receive = false;
        let nowhere = |media: &mut LegMedia| (media.send, media.remote, media.remote_rtcp) = (false, None, None);
        let deaf = |media: &mut LegMedia| media.send = false;
        let holds: [&dyn Fn(&mut LegMedia); 4] = [&inactive, &sendonly, &nowhere, &deaf];
        for codecs in [[Codec::Pcmu; 3], [Codec::Pcmu, Codec::Pcma, Codec::Pcmu]] {
            for activity in [None, Some(Activity::Coach)] {
                for hold in holds {
                    let mut house = House::new(codecs, activity);
                    let talk = |house: &mut House, rounds: usize| {
                        for _ in 0..rounds {
                            for (index, level) in LEVELS.into_iter().enumerate() {
                                house.say(index, level);
                            }
                            house.pass(20 * MS);
                        }
                    };
                    talk(&mut house, 10);
                    let mut held = media(0, codecs[0]);
                    hold(&mut held);
                    house.call.handle_describe(AGENT, held, house.time());
                    talk(&mut house, 100);
                    house.call.handle_describe(AGENT, media(0, codecs[0]), house.time());
                    talk(&mut house, 10);
                    for leg in LEGS {
                        for two in house.to(leg).collect::<Vec<_>>().windows(2) {
                            let [before, after] = [two[0], two[1]];
                            assert_eq!(after.rtp.sequence, before.rtp.sequence.wrapping_add(1), "{leg:?} {held:?}");
                            let moved = i64::from(after.rtp.timestamp.wrapping_sub(before.rtp.timestamp));
                            let passed = (after.at - before.at).as_millis() as i64 * 8;
                            assert!((moved - passed).abs() <= 400, "{leg:?} {held:?}: {moved} in {passed}");
                        }
                    }
                    assert_eq!(house.stats(AGENT).lost, 0);
                }
            }
        }
    }

    #[test]
    fn sound_toward_the_customer_has_no_hole_at_a_join() {
        let mut house = House::pcmu(None);
        for round in 0..100 {
            if round == 50 {
                house.hear(Some(Activity::BargeIn));
            }
            house.say(0, AGENT_LEVEL);
            house.say(1, CUSTOMER_LEVEL);
            assert_eq!(house.last(CUSTOMER).at, house.now);
            assert!(
                house
                    .last(CUSTOMER)
                    .samples(Codec::Pcmu)
                    .iter()
                    .all(|sample| is_about(*sample, i32::from(AGENT_LEVEL)))
            );
            house.pass(20 * MS);
        }
        assert_eq!(house.to(CUSTOMER).count(), 100);
    }

    #[test]
    fn differing_codecs_are_transcoded_and_counted_apart() {
        let mut house = House::new([Codec::Pcmu, Codec::Pcma, Codec::Pcmu], Some(Activity::Coach));
        for _ in 0..10 {
            house.say(0, AGENT_LEVEL);
            house.pass(20 * MS);
        }
        let stats = house.stats(CUSTOMER);
        assert_eq!((stats.sent, stats.unchanged, stats.transcoded), (10, 0, 10));
        assert_eq!(house.last(CUSTOMER).rtp.payload_type, 8);
        assert!(
            house
                .last(CUSTOMER)
                .samples(Codec::Pcma)
                .iter()
                .all(|sample| is_about(*sample, i32::from(AGENT_LEVEL)))
        );
    }

    #[test]
    fn a_cell_that_roles_forbid_is_silence_and_an_alarm() {
        for also_agent in [true, false] {
            let mut house = House::pcmu(None);
            let mut tampered = hearing(Some(Activity::Coach)).cell(CUSTOMER, SUPERVISOR, Some(Gain::UNITY));
            if !also_agent {
                tampered = tampered.cell(CUSTOMER, AGENT, None);
            }
            house.call.handle_hear(tampered, house.time());
            for _ in 0..10 {
                house.say(2, SUPERVISOR_LEVEL);
                house.say(0, AGENT_LEVEL);
                house.pass(20 * MS);
            }
            assert!(house.to(CUSTOMER).count() >= 10);
            for heard in house.to(CUSTOMER) {
                assert!(
                    heard.payload.iter().all(|byte| *byte == 0xff)
                        || heard.sent == TransmitKind::Mixed && is_about(heard.samples(Codec::Pcmu)[0], i32::from(AGENT_LEVEL)),
                    "{:?} {:?} {also_agent}",
                    heard.sent,
                    heard.samples(Codec::Pcmu)
                );
                assert!(
                    heard
                        .samples(Codec::Pcmu)
                        .iter()
                        .all(|sample| !is_about(*sample, i32::from(SUPERVISOR_LEVEL)))
                );
            }
            let leak = MediaEvent::LeakGuard {
                call: CallKey(7),
                leg: CUSTOMER,
            };
            assert_eq!(house.events, [leak], "one alarm a second");
            assert!(house.stats(CUSTOMER).leak_guards >= 9);
        }
    }

    #[test]
    fn a_muted_agent_reaches_the_supervisor_but_not_the_customer() {
        let mut house = House::pcmu(Some(Activity::Coach));
        house.say(0, AGENT_LEVEL);
        house.call.handle_mute(AGENT, true, house.time());
        for _ in 0..20 {
            house.pass(20 * MS);
            house.say(0, AGENT_LEVEL);
        }
        let after: Vec<_> = house.to(CUSTOMER).skip(1).collect();
        assert!(after.len() > 15);
        assert!(after.iter().all(|heard| heard.sent == TransmitKind::Silent));
        let supervisor = house.to(SUPERVISOR).last().unwrap();
        assert!(
            supervisor
                .samples(Codec::Pcmu)
                .iter()
                .any(|sample| is_about(*sample, i32::from(AGENT_LEVEL)))
        );
    }

    #[test]
    fn digits_go_between_the_parties_and_a_supervisors_go_nowhere() {
        for activity in [None, Some(Activity::ListenIn), Some(Activity::Coach), Some(Activity::BargeIn)] {
            let mut house = House::pcmu(activity);
            for index in 0..3 {
                house.say(index, 0);
            }
            house.heard.clear();
            for index in 0..3 {
                for payload in [[5, 10, 0, 160], [5, 0x8a, 1, 64], [5, 0x8a, 1, 64]] {
                    let (sequence, timestamp) = house.phones[index];
                    house.phones[index].0 += 1;
                    house.datagram(index, address(index), packet(index, TELEPHONE_EVENT, sequence, timestamp, &payload));
                }
            }
            let relayed: Vec<_> = house.heard.iter().map(|heard| (heard.listener, heard.rtp.payload_type)).collect();
            let expected: Vec<_> = [CUSTOMER; 3]
                .into_iter()
                .chain([AGENT; 3])
                .map(|leg| (leg, TELEPHONE_EVENT))
                .collect();
            assert_eq!(relayed, expected, "{activity:?}");
            for events in [&house.heard[..3], &house.heard[3..]] {
                assert!(events.windows(2).all(|two| two[0].rtp.timestamp == two[1].rtp.timestamp));
                assert!(
                    events
                        .windows(2)
                        .all(|two| two[1].rtp.sequence == two[0].rtp.sequence.wrapping_add(1))
                );
            }
            let digit = '5';
            assert_eq!(
                house.events,
                [
                    MediaEvent::Digits { leg: AGENT, digit },
                    MediaEvent::Digits { leg: CUSTOMER, digit }
                ]
            );
        }
    }

    #[test]
    fn digits_that_we_send_are_events_in_the_agents_stream_and_no_supervisor_gets_them() {
        for activity in [None, Some(Activity::BargeIn)] {
            let mut house = House::pcmu(activity);
            let mut sequence = 0;
            for round in 0..40 {
                if round == 5 {
                    house.call.handle_digits(AGENT, "4x#", house.time());
                }
                for (index, level) in LEVELS.into_iter().enumerate() {
                    house.say(index, level);
                }
                house.pass(20 * MS);
            }
            let (mut digits, mut sound_within) = (Vec::new(), 0);
            for (n, heard) in house.to(CUSTOMER).enumerate() {
                let expected = *house.to(CUSTOMER).next().map(|first| &first.rtp.sequence).unwrap();
                assert_eq!(heard.rtp.sequence, expected.wrapping_add(n as u16), "unbroken");
                sequence += 1;
                if heard.rtp.payload_type == TELEPHONE_EVENT {
                    let [event, flags, high, low] = heard.payload[..] else {
                        panic!("{:?}", heard.payload)
                    };
                    digits.push((event, flags >= 0x80, u16::from_be_bytes([high, low]), heard.rtp.timestamp));
                } else if matches!(digits.last(), Some((_, false, ..))) {
                    sound_within += 1;
                }
            }
            assert!(sequence > 30);
            let of = |event: u8| digits.iter().filter(move |digit| digit.0 == event).collect::<Vec<_>>();
            for event in [4, 11] {
                let packets = of(event);
                let durations: Vec<_> = packets.iter().map(|packet| (packet.1, packet.2)).collect();
                let ends = (true, 800);
                let sound = [160, 320, 480, 640, 800].map(|duration| (false, duration));
                assert_eq!(durations, [&sound[..], &[ends; 3]].concat());
                assert!(
                    packets.iter().all(|packet| packet.3 == packets[0].3),
                    "one timestamp for the whole event"
                );
            }
            assert!(of(11)[0].3.wrapping_sub(of(4)[0].3) < 0x8000_0000, "later");
            assert_eq!(digits.len(), 16);
            assert!(
                activity.is_some() || sound_within == 0,
                "where the agent is relayed, the digit stands in place of his sound"
            );
            let stray = house
                .to(AGENT)
                .chain(house.to(SUPERVISOR))
                .filter(|heard| heard.rtp.payload_type == TELEPHONE_EVENT);
            assert_eq!(stray.count(), 0);
        }
    }

    #[test]
    fn a_beep_is_heard_by_the_agent_and_changes_nothing_for_the_customer() {
        for activity in [None, Some(Activity::ListenIn), Some(Activity::Coach)] {
            let mut house = House::pcmu(activity);
            let mut beeped = 0;
            for round in 0..40u8 {
                if round == 10 {
                    house.call.handle_beep(AGENT, house.time());
                }
                house.payload(0, 0, &[round; 160]);
                house.payload(1, 0, &[0xff; 160]);
                house.pass(20 * MS);
                let last = house.last(AGENT);
                let loud = last.samples(Codec::Pcmu).iter().any(|sample| *sample > 1500);
                assert!(!loud || (10..22).contains(&round), "{round}");
                beeped += u32::from(loud);
            }
            assert!((9..=11).contains(&beeped), "200 ms: {beeped}");
            let to_customer: Vec<_> = house.to(CUSTOMER).map(|heard| (heard.sent, heard.payload[0])).collect();
            assert_eq!(
                to_customer,
                (0..40).map(|round| (TransmitKind::Unchanged, round)).collect::<Vec<_>>()
            );
            assert_eq!(
                house.last(AGENT).sent,
                if activity == Some(Activity::Coach) {
                    TransmitKind::Mixed
                } else {
                    TransmitKind::Unchanged
                }
            );
        }
    }

    #[test]
    fn a_stranger_is_counted_and_neither_heard_nor_answered() {
        let mut house = House::pcmu(Some(Activity::Coach));
        house.say(0, AGENT_LEVEL);
        let stranger = SocketAddr::from(([127, 0, 0, 3], 4000));
        let before = house.heard.len();
        for (index, leg) in LEGS.into_iter().enumerate() {
            let spray = packet(index, 0, 1, 160, &[0; 160]);
            assert_eq!(house.datagram(index, stranger, spray), LeakVerdict::Foreign);
            let mut port = address(index);
            port.set_port(4002);
            assert_eq!(
                house.datagram(index, port, packet(index, 0, 1, 160, &[0; 160])),
                LeakVerdict::Foreign
            );
            assert_eq!(house.stats(leg).foreign, 2);
        }
        assert_eq!(house.heard.len(), before);
    }

    #[test]
    fn behind_a_nat_the_port_is_learned_once_and_no_other_host_ever() {
        let mut house = House::pcmu(None);
        let nat = LegMedia {
            nat: true,
            ..media(0, Codec::Pcmu)
        };
        house.call.handle_describe(AGENT, nat, house.time());
        let mut real = address(0);
        real.set_port(9999);
        let stranger = SocketAddr::from(([127, 0, 0, 3], 9999));
        assert_eq!(house.datagram(0, stranger, packet(0, 0, 1, 160, &[0; 160])), LeakVerdict::Foreign);
        assert_eq!(house.datagram(0, stranger, packet(0, 0, 2, 320, &[0; 160])), LeakVerdict::Foreign);
        assert_eq!(house.datagram(0, real, packet(0, 0, 1, 160, &[0; 160])), LeakVerdict::Foreign);
        assert_eq!(house.datagram(0, real, packet(0, 0, 2, 320, &[0; 160])), LeakVerdict::Accepted);
        assert_eq!(house.datagram(0, real, packet(0, 0, 3, 480, &[0; 160])), LeakVerdict::Accepted);
        assert_eq!(house.datagram(0, address(0), packet(0, 0, 4, 640, &[0; 160])), LeakVerdict::Foreign);
        let mut third = address(0);
        third.set_port(7777);
        for sequence in 5..9 {
            assert_eq!(house.datagram(0, third, packet(0, 0, sequence, 0, &[0; 160])), LeakVerdict::Foreign);
        }
    }

    #[test]
    fn what_nobody_agreed_to_is_dropped() {
        let mut house = House::pcmu(None);
        let from = address(0);
        assert_eq!(house.datagram(0, from, packet(0, 77, 1, 160, &[0; 160])), LeakVerdict::Malformed);
        assert_eq!(house.datagram(0, from, packet(0, 8, 1, 160, &[0; 160])), LeakVerdict::Malformed);
        assert_eq!(house.datagram(0, from, packet(0, 0, 1, 160, &[])), LeakVerdict::Malformed);
        assert_eq!(house.datagram(0, from, vec![0x80; 3]), LeakVerdict::Malformed);
        assert_eq!(
            house.datagram(0, from, packet(0, TELEPHONE_EVENT, 1, 160, &[255, 0x8a, 255, 255])),
            LeakVerdict::Discarded
        );
        let held = LegMedia {
            receive: false,
            ..media(0, Codec::Pcmu)
        };
        house.call.handle_describe(AGENT, held, house.time());
        assert_eq!(house.datagram(0, from, packet(0, 0, 1, 160, &[0; 160])), LeakVerdict::Discarded);
        assert!(house.heard.is_empty());
        assert!(house.events.is_empty());
    }

    #[test]
    fn who_sends_nothing_for_15_s_is_reported_once_until_he_sends_again() {
        let mut house = House::pcmu(None);
        for leg in [CUSTOMER, SUPERVISOR] {
            house.call.take(leg, house.time());
        }
        house.pass(Duration::from_secs(14));
        assert!(house.events.is_empty());
        house.pass(Duration::from_secs(60));
        house.say(0, 0);
        house.pass(Duration::from_secs(16));
        let (inactive, active) = (MediaEvent::Inactive { leg: AGENT }, MediaEvent::Active { leg: AGENT });
        assert_eq!(house.events, [inactive.clone(), active, inactive]);
    }

    #[test]
    fn after_a_hiccup_of_300_ms_the_whispers_delay_returns_to_what_it_was() {
        for speaker in [2, 1] {
            let mut house = House::pcmu(Some(Activity::Coach));
            let mut missing = 0;
            for round in 0..600 {
                let hiccup = (100..115).contains(&round);
                for (index, level) in LEVELS.into_iter().enumerate() {
                    if index == speaker && hiccup {
                        missing += 1;
                        continue;
                    }
                    let late = if index == speaker { std::mem::take(&mut missing) } else { 0 };
                    for _ in 0..=late {
                        house.say(index, level);
                    }
                }
                house.pass(20 * MS);
            }
            // As many frames as the time had: none are waiting in the phone either.
            let frames = house.to(AGENT).count();
            assert!((598..=601).contains(&frames), "speaker {speaker}: {frames} frames in 600 rounds");
            // He stops: what is still on its way is his delay.
            house.heard.clear();
            for _ in 0..50 {
                for index in (0..3).filter(|index| *index != speaker) {
                    house.say(index, LEVELS[index]);
                }
                house.pass(20 * MS);
            }
            let quiet = if speaker == 2 { CUSTOMER_LEVEL } else { SUPERVISOR_LEVEL };
            let still: usize = house
                .to(AGENT)
                .map(|heard| {
                    heard
                        .samples(Codec::Pcmu)
                        .iter()
                        .filter(|sample| !is_about(**sample, i32::from(quiet)) && **sample != 0)
                        .count()
                })
                .sum();
            // And the 60 ms in which what is concealed fades.
            assert!(still <= 240 + 480, "speaker {speaker}: {still} samples of his were still to come");
        }
    }

    #[test]
    fn a_burst_is_not_sent_on_as_a_burst() {
        let mut house = House::pcmu(Some(Activity::Coach));
        for _ in 0..10 {
            house.say(1, CUSTOMER_LEVEL);
            house.pass(20 * MS);
        }
        house.pass(300 * MS);
        let before = house.to(AGENT).count();
        for _ in 0..15 {
            house.say(1, CUSTOMER_LEVEL);
        }
        assert!(house.to(AGENT).count() - before <= 2);
    }

    #[test]
    fn a_leg_goes_to_another_call_with_its_stream() {
        let mut house = House::pcmu(None);
        house.say(0, AGENT_LEVEL);
        let sequence = house.last(CUSTOMER).rtp.sequence;
        let leg = house.call.take(CUSTOMER, house.time()).unwrap();
        let mut other = Call::new(CallKey(8), CallConfig::default());
        let start = StreamStart {
            ssrc: 9,
            sequence: 9,
            timestamp: 9,
            reports: 9,
        };
        other.put(Leg::new(LegId(9), start, house.time()), house.time()).unwrap();
        other.handle_describe(LegId(9), media(0, Codec::Pcmu), house.time());
        let slot = other.put(leg, house.time()).unwrap();
        let mut seen = Vec::new();
        let bytes = packet(0, 0, 50, 5000, &[9; 160]);
        other.handle_rtp(0, address(0), &mut bytes.clone(), house.time(), &mut |_| {
            panic!("heard without a word of the allow-list")
        });
        other.handle_hear(
            Hearing::of(&[(LegId(9), HearingRole::Agent), (CUSTOMER, HearingRole::Customer)]),
            house.time(),
        );
        other.handle_rtp(0, address(0), &mut bytes.clone(), house.time(), &mut |packet| {
            assert_eq!(packet.slot, slot);
            seen.push(rtp::parse(packet.bytes).unwrap().sequence);
        });
        assert_eq!(seen, [sequence.wrapping_add(1)]);
    }

    impl House {
        fn talk(&mut self, rounds: usize) {
            for _ in 0..rounds {
                self.say(0, 0);
                self.say(1, 0);
                self.pass(20 * MS);
            }
        }

        /// A leg's RTCP comes, from there.
        fn rtcp_from(&mut self, index: usize, from: SocketAddr, bytes: &[u8]) -> LeakVerdict {
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
    fn receiver_report(ours: u32, lost: (u8, i32), jitter: u32, (middle, delay): (u32, u32)) -> Vec<u8> {
        let lost = u32::from(lost.0) << 24 | lost.1 as u32 & 0xff_ffff;
        let words = [0x81c9_0007, 7, ours, lost, 0, jitter, middle, delay];
        words.into_iter().flat_map(u32::to_be_bytes).collect()
    }

    #[test]
    fn reports_go_out_every_five_seconds_on_average_and_not_to_all_at_once() {
        let mut house = House::pcmu(None);
        house.talk(30_000);
        for leg in LEGS {
            let at: Vec<_> = house
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
            assert_eq!(house.stats(leg).rtcp_sent, at.len() as u64);
            let words = if leg == SUPERVISOR { 0 } else { at.len() };
            assert_eq!(
                house.qualities_of(leg).len(),
                words,
                "one word with each report, if there is anything to say"
            );
        }
        assert_ne!(house.reports[0].at, house.reports[1].at);
        assert_eq!(house.stats(CUSTOMER).lost, 0);
    }

    #[test]
    fn what_a_leg_loses_and_says_it_loses_is_told_at_each_report() {
        let mut house = House::pcmu(None);
        house.talk(300);
        let steady = *house.qualities_of(AGENT).last().unwrap();
        assert_eq!((steady.lost_permille, steady.jitter_ms, steady.mos), (0, 0, Some(441)));
        assert_eq!((steady.remote, steady.round_trip_ms), (None, None));
        // One in five.
        for _ in 0..100 {
            house.lose(0);
            house.talk(4);
        }
        let sr = house.reports.iter().rev().find(|report| report.listener == AGENT).unwrap().clone();
        let sent = rtcp::read(&sr.bytes, 0).unwrap().sender.unwrap();
        let away = house.now - sr.at;
        house.pass(2 * MS);
        let delay = ((away - 38 * MS).as_micros() * 65_536 / 1_000_000) as u32;
        let report = receiver_report(sent.0, (26, 40), 160, (sent.1, delay));
        assert_eq!(house.rtcp_from(0, rtcp_address(0), &report), LeakVerdict::Accepted);
        for _ in 0..100 {
            house.lose(0);
            house.talk(4);
        }
        let quality = *house.qualities_of(AGENT).last().unwrap();
        assert!((190..=210).contains(&quality.lost_permille), "{quality:?}");
        assert!((260..=272).contains(&quality.mos.unwrap()), "{quality:?}");
        let remote = RemoteQuality {
            lost_permille: 101,
            jitter_ms: 20,
            mos: 340,
        };
        assert_eq!((quality.remote, quality.round_trip_ms), (Some(remote), Some(40)));
        let stats = house.stats(AGENT);
        assert_eq!((stats.lost, stats.remote_lost, stats.remote_fraction_lost), (200, 40, 26));
        assert_eq!(stats.remote_jitter, 20 * MS);
        assert!(stats.round_trip.unwrap().abs_diff(40 * MS) < MS);
        // Of all that came 15 of a hundred are missing, of all that went 4.
        assert!(
            (290..=300).contains(&stats.mos.unwrap()) && (395..=415).contains(&stats.remote_mos.unwrap()),
            "{stats:?}"
        );
    }

    #[test]
    fn a_leg_of_which_nothing_comes_has_no_mos() {
        let mut house = House::pcmu(None);
        house.say(0, 0);
        house.pass(Duration::from_secs(10));
        let expected = Quality {
            packets_sent: 1,
            ..Quality::default()
        };
        assert_eq!(house.qualities_of(CUSTOMER)[0], expected);
        assert_eq!((house.stats(CUSTOMER).mos, house.stats(CUSTOMER).remote_mos), (None, None));
    }

    #[test]
    fn who_shares_the_port_gets_and_sends_rtcp_there_and_nowhere_else() {
        let mut house = House::pcmu(None);
        let shared = LegMedia {
            rtcp_mux: true,
            ..media(0, Codec::Pcmu)
        };
        house.call.handle_describe(AGENT, shared, house.time());
        house.talk(500);
        let places = |leg, house: &House| {
            let of = house.reports.iter().filter(move |report| report.listener == leg);
            let mut places: Vec<_> = of.map(|report| (report.to, report.muxed)).collect();
            places.dedup();
            places
        };
        assert_eq!(places(AGENT, &house), [(address(0), true)]);
        assert_eq!(places(CUSTOMER, &house), [(rtcp_address(1), false)]);
        let report = receiver_report(100, (1, 1), 0, (0, 0));
        assert!(house.call.is_rtcp(0, &report) && !house.call.is_rtcp(1, &report));
        assert!(!house.call.is_rtcp(0, &packet(0, 0, 1, 160, &[0; 160])));
        assert_eq!(house.rtcp_from(0, address(0), &report), LeakVerdict::Accepted);
        assert_eq!(house.rtcp_from(0, rtcp_address(0), &report), LeakVerdict::Foreign);
        assert_eq!(house.rtcp_from(1, rtcp_address(1), &report), LeakVerdict::Accepted);
        assert_eq!(house.rtcp_from(1, address(1), &report), LeakVerdict::Foreign);
    }

    #[test]
    fn behind_a_nat_shared_rtcp_goes_where_rtp_was_learned() {
        let mut house = House::pcmu(None);
        let shared = LegMedia {
            rtcp_mux: true,
            nat: true,
            ..media(0, Codec::Pcmu)
        };
        house.call.handle_describe(AGENT, shared, house.time());
        let mut real = address(0);
        real.set_port(9999);
        let report = receiver_report(100, (1, 1), 0, (0, 0));
        assert_eq!(house.rtcp_from(0, real, &report), LeakVerdict::Foreign, "RTCP teaches nothing");
        house.datagram(0, real, packet(0, 0, 1, 160, &[0; 160]));
        house.datagram(0, real, packet(0, 0, 2, 320, &[0; 160]));
        assert_eq!(house.rtcp_from(0, real, &report), LeakVerdict::Accepted);
        house.pass(Duration::from_secs(8));
        let to = house
            .reports
            .iter()
            .filter(|report| report.listener == AGENT)
            .map(|report| report.to);
        assert!(to.clone().count() > 0 && to.into_iter().all(|to| to == real));
    }

    #[test]
    fn who_is_released_is_told_goodbye_and_who_never_got_anything_is_not() {
        let mut house = House::pcmu(None);
        house.say(0, 0);
        let farewell = |house: &mut House, leg| {
            let now = Now {
                mono: house.time(),
                wall: Timestamp(0),
            };
            let mut said = Vec::new();
            house.call.farewell(leg, now, &mut |packet| {
                assert_eq!((packet.sent, packet.to), (TransmitKind::Rtcp, rtcp_address(packet.slot)));
                said.push(packet.bytes.to_vec());
            });
            said
        };
        assert!(farewell(&mut house, AGENT).is_empty(), "nothing ever went to him");
        let said = farewell(&mut house, CUSTOMER);
        assert_eq!(said.len(), 1);
        assert!(said[0].ends_with(&[0x81, 203, 0, 1, 0, 0, 0, 101]), "{said:?}");
        assert_eq!(said[0][1], 200, "a report comes first");
        house.call.take(CUSTOMER, house.time());
        assert!(farewell(&mut house, CUSTOMER).is_empty());
    }

    /// What the network and the supervision do.
    #[derive(Clone, Debug)]
    enum Happening {
        Say(usize),
        Lose(usize),
        /// Two packets of a phone change places.
        Swap(usize),
        Restart(usize),
        Stranger(usize),
        Hear(Option<Activity>),
        Mute(bool),
        /// A phone goes on in the one law or in the other.
        Turn(usize, bool),
        Hold(usize, bool),
        Pass(u64),
    }

    fn happening() -> impl Strategy<Value = Happening> {
        let activity = prop_oneof![
            Just(None),
            Just(Some(Activity::ListenIn)),
            Just(Some(Activity::Coach)),
            Just(Some(Activity::BargeIn))
        ];
        prop_oneof![
            12 => (0usize..3).prop_map(Happening::Say),
            1 => (0usize..3).prop_map(Happening::Lose),
            1 => (0usize..3).prop_map(Happening::Swap),
            1 => (0usize..3).prop_map(Happening::Restart),
            1 => (0usize..3).prop_map(Happening::Stranger),
            1 => activity.prop_map(Happening::Hear),
            1 => any::<bool>().prop_map(Happening::Mute),
            1 => (0usize..3, any::<bool>()).prop_map(|(index, other)| Happening::Turn(index, other)),
            1 => (0usize..3, any::<bool>()).prop_map(|(index, held)| Happening::Hold(index, held)),
            8 => (1u64..40).prop_map(Happening::Pass),
        ]
    }

    /// Each phone says one level; a sample is a sum of some of them, so who is in it can be read off. The levels double and
    /// more, with room for quantising and for the slopes between sound and silence.
    fn speakers_in(sample: i16) -> Option<u8> {
        (0..8u8).find(|mask| {
            let level: i32 = (0..3)
                .filter(|index| mask & 1 << index != 0)
                .map(|index| i32::from(LEVELS[index]))
                .sum();
            is_about(sample, level)
        })
    }

    fn play(happenings: &[Happening], mut check: impl FnMut(&House, Option<Activity>, bool, usize)) -> House {
        let mut house = House::pcmu(None);
        for (index, leg) in LEGS.into_iter().enumerate() {
            house.call.handle_describe(leg, several(index, Codec::Pcmu), house.time());
        }
        let (mut activity, mut muted) = (None, false);
        for happening in happenings {
            let before = house.heard.len();
            match *happening {
                Happening::Say(index) => {
                    house.say(index, LEVELS[index]);
                }
                Happening::Lose(index) => house.lose(index),
                Happening::Swap(index) => {
                    let (sequence, timestamp) = house.phones[index];
                    house.phones[index] = (sequence.wrapping_add(1), timestamp.wrapping_add(160));
                    house.say(index, LEVELS[index]);
                    let mut payload = [0; 160];
                    let codec = house.codecs[index];
                    Encoder::new(codec).encode(&[LEVELS[index]; 160], &mut payload);
                    let late = packet(index, codec.payload_type(), sequence, timestamp, &payload);
                    house.datagram(index, address(index), late);
                }
                Happening::Restart(index) => house.phones[index] = (house.phones[index].0 ^ 0x5a5a, house.phones[index].1 ^ 0xdead_beef),
                Happening::Stranger(index) => {
                    let mut payload = [0; 160];
                    Encoder::new(Codec::Pcmu).encode(&[-20_000; 160], &mut payload);
                    house.datagram(index, address(9), packet(index, 0, 1, 160, &payload));
                }
                Happening::Hear(next) => {
                    activity = next;
                    house.hear(next);
                }
                Happening::Mute(next) => {
                    muted = next;
                    house.call.handle_mute(AGENT, next, house.time());
                }
                Happening::Turn(index, other) => house.codecs[index] = if other { Codec::Pcma } else { Codec::Pcmu },
                Happening::Hold(index, held) => {
                    let held = LegMedia {
                        receive: !held,
                        ..several(index, Codec::Pcmu)
                    };
                    house.call.handle_describe(LEGS[index], held, house.time());
                }
                Happening::Pass(ms) => house.pass(Duration::from_millis(ms)),
            }
            check(&house, activity, muted, before);
        }
        house
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

        #[test]
        fn whatever_happens_nobody_hears_whom_the_table_does_not_allow(happenings in proptest::collection::vec(happening(), 1..250)) {
            let house = play(&happenings, |house, activity, muted, before| {
                for heard in &house.heard[before..] {
                    let agent = if muted { 0 } else { 1 };
                    let allowed = match (heard.listener, activity) {
                        (AGENT, None | Some(Activity::ListenIn)) => 2,
                        (AGENT, Some(Activity::Coach | Activity::BargeIn)) => 2 | 4,
                        (CUSTOMER, None | Some(Activity::ListenIn | Activity::Coach)) => agent,
                        (CUSTOMER, Some(Activity::BargeIn)) => agent | 4,
                        (SUPERVISOR, Some(_)) => 1 | 2,
                        _ => 0,
                    };
                    let samples = heard.samples(Codec::Pcmu);
                    // Whoever fades in or out is anywhere below his level; whoever goes on is at it.
                    let most: i32 = (0..3).filter(|index| allowed & 1 << index != 0).map(|index| i32::from(LEVELS[index])).sum();
                    let is_steady = samples.iter().all(|sample| *sample == samples[0]);
                    let is_forbidden = |sample: i16| match is_steady {
                        true => speakers_in(sample).is_none_or(|speakers| speakers & !allowed != 0),
                        false => !(-64..=most + 64 + most / 16).contains(&i32::from(sample)),
                    };
                    let forbidden: Vec<_> = samples.into_iter().filter(|sample| is_forbidden(*sample)).collect();
                    // A sample between sound and silence may fall between two levels.
                    assert!(forbidden.len() <= 3, "{:?} heard {forbidden:?} in {activity:?}", heard.listener);
                }
            });
            for leg in LEGS {
                let sequences: Vec<_> = house.to(leg).map(|heard| heard.rtp.ssrc).collect();
                prop_assert!(sequences.windows(2).all(|two| two[0] == two[1]));
                prop_assert_eq!(house.stats(leg).leak_guards, 0);
            }
        }

        #[test]
        fn the_customers_bytes_are_the_same_whether_or_not_somebody_coaches(happenings in proptest::collection::vec(happening(), 1..250)) {
            let alone: Vec<_> = happenings
                .iter()
                .filter(|happening| !matches!(happening, Happening::Hear(_) | Happening::Mute(_)))
                .cloned()
                .collect();
            let coached: Vec<_> = happenings
                .iter()
                .filter(|happening| !matches!(happening, Happening::Mute(_)))
                .map(|happening| match happening {
                    Happening::Hear(Some(Activity::BargeIn)) => Happening::Hear(Some(Activity::Coach)),
                    other => other.clone(),
                })
                .collect();
            let sent = |happenings: &[Happening]| {
                let house = play(happenings, |_, _, _, _| {});
                let stats = house.stats(CUSTOMER);
                assert_eq!(stats.sent, stats.unchanged + stats.transcoded);
                house.to(CUSTOMER).map(|heard| (heard.at, heard.rtp.sequence, heard.rtp.timestamp, heard.payload.clone())).collect::<Vec<_>>()
            };
            prop_assert_eq!(sent(&alone), sent(&coached));
        }
    }

    /// What the agent gets while the customer's packets are held up once, all else on time.
    struct HeldUp {
        /// Frames more than the time had, at the most, and at the end of 12 s.
        most: i64,
        left: i64,
        /// When the last frame more was there.
        until: Duration,
        /// Frames in which the customer's voice is not as it was said.
        changed: usize,
    }

    /// One hold-up of the customer's packets after 100 rounds; what was held comes at once after it.
    fn held_up(hold: Duration, stalls: bool) -> HeldUp {
        let mut house = House::pcmu(Some(Activity::Coach));
        let voice = |round: u32| -> Vec<u8> {
            let samples: Vec<i16> = (0..160)
                .map(|n| {
                    let at = f64::from(round * 160 + n) / 8000.0;
                    (9000.0 * (at * 170.0 * std::f64::consts::TAU).sin() * (1.0 + 0.3 * (at * 3.0).sin())) as i16
                })
                .collect();
            let mut payload = [0; 160];
            Encoder::new(Codec::Pcmu).encode(&samples, &mut payload);
            payload.to_vec()
        };
        let mut said = std::collections::BTreeSet::new();
        let mut most = 0;
        let mut until = Duration::ZERO;
        let origin = house.now;
        let begin = 100 * 20 * MS;
        let mut waiting: Vec<Vec<u8>> = Vec::new();
        for round in 0..700_u32 {
            let at = origin + round * 20 * MS;
            if !waiting.is_empty() && at >= begin + hold {
                let rest = (begin + hold).saturating_sub(house.now);
                house.pass(rest);
                for payload in waiting.drain(..) {
                    house.payload(1, 0, &payload);
                }
            }
            let rest = at.saturating_sub(house.now);
            match stalls && !waiting.is_empty() {
                true => house.now = house.now.max(at),
                false => house.pass(rest),
            }
            house.say(0, 0);
            let payload: Vec<u8> = voice(round);
            said.insert(payload.clone());
            match at >= begin && at < begin + hold {
                true => waiting.push(payload),
                false => drop(house.payload(1, 0, &payload)),
            }
            let frames = house.to(AGENT).count() as i64 - i64::from(round + 1);
            most = most.max(frames);
            if frames > 0 {
                until = house.now - begin;
            }
        }
        let changed = house.to(AGENT).filter(|heard| !said.contains(&heard.payload)).count();
        HeldUp {
            most,
            left: house.to(AGENT).count() as i64 - 700,
            until,
            changed,
        }
    }

    /// What is held up for less than two packet times reaches the agent as it was said, as late as it came; beyond that one frame is made up, and
    /// given back within six seconds.
    #[test]
    fn a_hold_up_of_the_customers_packets_is_no_frame_more_for_the_agent_and_no_word_less() {
        let calm = held_up(Duration::ZERO, false);
        assert_eq!((calm.most, calm.left), (0, 0));
        for stalls in [false, true] {
            for hold in [5, 9, 12, 15, 19, 25, 29, 35, 39] {
                let seen = held_up(hold * MS, stalls);
                assert_eq!((seen.most, seen.left), (0, 0), "{hold} ms");
                assert!(
                    seen.changed <= calm.changed,
                    "{hold} ms: {} frames are not as they were said",
                    seen.changed
                );
            }
        }
        for hold in [45, 65, 85, 125, 205] {
            let seen = held_up(hold * MS, false);
            assert!(
                seen.most <= 1 && seen.left <= 0 && seen.until <= Duration::from_millis(6500),
                "{hold} ms"
            );
        }
    }
}
