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

mod dtmf;
mod leg;
mod mixer;
mod pacer;
mod plan;
mod relay;
mod source;
#[cfg(test)]
mod tests;

use super::codec::{Codec, ComfortNoise, Decoder, Downsampler, Encoder, MAX_DECODED, Upsampler, noise_level};
use super::formats::{Format, Formats};
use super::hearing::{Gain, Hearing};
use super::jitter::{Reader, Ring};
use super::mix::{MAX_FRAME, Sum};
use super::quality;
use super::rtcp::{self, Block, Interval, Reception, Reporter};
use super::rtp::{self, CLOCK, HEADER, MAX_PAYLOAD, ReceivedRtp, RtpHeader, Stream, StreamOrigin};
use super::srtp::{self, Protection, SrtpError};
use super::transcode::Transcoder;
use super::{CallKey, LegId, LegMedia, LegStats, MediaEvent};
use crate::model::{Now, Quality, RemoteQuality};
use dtmf::*;
use leg::*;
pub use leg::{Leg, StreamStart};
use mixer::*;
use pacer::*;
use plan::*;
use smallvec::SmallVec;
use source::SourceFilter;
pub use source::SourceRule;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::{Index, IndexMut};
use std::time::{Duration, Instant};

/// Legs a call may have.
pub const MAX_LEGS: usize = 16;

/// Legs that a call holds in one piece: customer, agent, supervisor.
pub const USUAL_LEGS: usize = 3;

/// Where no party of a call sends, inactivity is told after this part of the time that it takes where one does.
const ALL_QUIET: u32 = 3;

/// Events nobody has polled; beyond it they are dropped.
const MAX_EVENTS: usize = 64;

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

    fn tell(&mut self, event: MediaEvent) {
        if self.events.len() < MAX_EVENTS {
            self.events.push_back(event);
        }
    }
}

fn earlier(a: Option<Instant>, b: Instant) -> Option<Instant> {
    Some(a.map_or(b, |a| a.min(b)))
}
