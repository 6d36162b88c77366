//! Sound of one call: packets and time in, packets and events out. No socket, no clock, no lock; no
//! allocation per packet.
//!
//! The row of a listener in the allow-list decides how it is served:
//!
//! | row | served | paced by |
//! |---|---|---|
//! | nobody | silence, once it has heard something | our clock |
//! | one speaker at unity | **relay**: payload untouched, in the listener's codec | the speaker |
//! | | transcoded packet by packet, while the speaker uses another codec | |
//! | anything else | mixed | the first heard that talks; our clock after 1.5 packets of silence |
//!
//! A codec that is only relayed ([`Handling::Relayed`]) has the second row and no other: a leg that
//! has it is sent nothing where it would hear silence, a sum, our music or another codec, and what
//! it says is in no sum.
//!
//! In ListenIn and Coach the row of the customer is the agent alone: a relay, so identical bytes
//! whether or not somebody coaches.
//!
//! A leg may send every format that was agreed, and change from one to another from packet to
//! packet (RFC 3264 6.1 and 7): see [`PayloadTypes`]. It is sent one codec under one number,
//! whatever comes.
//!
//! Whatever the rows say, every packet is held against [`Hearing::permits`] just before it leaves:
//! the leak guard.
//!
//! [`Call`] finds the leg that a datagram or a command is for, and takes what comes of it to the
//! legs that hear it. What a leg does is in [`Leg`]: its streams and codecs in `leg`, what it is
//! sent of one speaker in `relay`, of several in `mixer`, on which clock in `pacer`.

mod agreement;
mod beep;
mod dtmf;
mod leg;
mod mixer;
mod pacer;
mod plan;
mod quality;
mod relay;
mod sound_count;
mod source;
mod speech;
#[cfg(test)]
mod tests;
mod transcoding;

#[cfg(doc)]
use super::codec::Handling;
use super::codec::{
    Codec, ComfortNoise, Decoder, Downsampler, Encoder, MAX_DECODED, Upsampler, noise_level,
};
use super::e_model;
use super::hearing::{Gain, Hearing};
use super::jitter::{JitterBuffer, PlayoutReader};
use super::music::{Music, MusicPlayer};
use super::payload_types::{Format, PayloadTypes};
use super::rtcp::{self, Block, Interval, Reception, Reporter};
use super::rtp::{
    self, CLOCK, HEADER, MAX_PAYLOAD, ReceivedRtp, RtpHeader, SoundSource, Stream, StreamOrigin,
};
use super::srtp::{self, Protection, SrtpError};
use super::sum::{MAX_FRAME, Sum};
use super::transcode::Transcoder;
use super::{CallKey, LeakReason, LegId, LegMedia, LegStats, MediaEvent};
use crate::model::{Now, Quality, RemoteQuality};
use agreement::*;
use beep::*;
use dtmf::*;
use leg::*;
pub use leg::{Leg, StreamStart};
use mixer::*;
use pacer::*;
use plan::*;
use quality::*;
use relay::*;
use smallvec::SmallVec;
use sound_count::{Join, SoundCount, SoundHash};
use source::SourceFilter;
pub use source::SourceRule;
use speech::*;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::{Index, IndexMut};
use std::time::{Duration, Instant};
use transcoding::*;

/// Legs a call may have.
pub const MAX_LEGS: usize = 16;

/// Legs that a call holds in one piece: customer, agent, supervisor.
pub const USUAL_LEGS: usize = 3;

/// Where no party of a call sends, inactivity is told after this part of the time that it takes
/// where one does.
const ALL_QUIET: u32 = 3;

/// Frames that one leg is sent on our clock in one go, after a stall of ours.
const MAX_FRAMES: usize = 4;
/// A deadline so near is looked at again when a packet comes, so that the call is not visited for
/// it alone.
const SOON: Duration = Duration::from_millis(10);
/// Events nobody has polled; beyond it they are dropped.
const MAX_EVENTS: usize = 64;

/// Settings of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallConfig {
    /// As in [`MediaConfig::inactivity`](super::MediaConfig::inactivity).
    pub inactivity: Duration,
    /// As in [`MediaConfig::rtcp_interval`](super::MediaConfig::rtcp_interval).
    pub rtcp_interval: Duration,
}

impl Default for CallConfig {
    fn default() -> Self {
        Self { inactivity: Duration::from_secs(15), rtcp_interval: Duration::from_secs(5) }
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
    /// The slot of the leg that it goes to, by its sockets.
    pub slot: usize,
    /// What it carries.
    pub sent: TransmitKind,
    /// It is RTCP that leaves by the RTP port (RFC 5761); otherwise each has its own.
    pub muxed: bool,
    /// Its destination: the signalled or learned address, never another.
    pub to: SocketAddr,
    /// The datagram as it leaves.
    pub bytes: &'a [u8],
}

/// What became of a received packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketVerdict {
    /// Taken as sound, an event or a report.
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

/// What a call has beside its legs, as far as a leg may have to change it.
#[derive(Debug)]
#[repr(C)]
struct CallState {
    wake: Option<Instant>,
    /// Samples a second of rings and sums: the most that any leg has that mixes or is mixed.
    rate: u32,
    /// Packets of a leg may come from elsewhere since [`Call::take_moved`] was asked.
    moved: bool,
    events: VecDeque<MediaEvent>,
    config: CallConfig,
    key: CallKey,
}

impl CallState {
    fn tell(&mut self, event: MediaEvent) {
        if self.events.len() < MAX_EVENTS {
            self.events.push_back(event);
        }
    }

    fn wake_by(&mut self, at: Instant) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }
}

/// What a leg is given by its call while it handles something.
struct MediaCtx<'a, F> {
    now: Instant,
    state: &'a mut CallState,
    /// Takes the packets that leave.
    out: &'a mut F,
}

/// The machine of one call.
///
/// After any `handle_*`, drain [`Call::poll_event`] and ask [`Call::poll_timeout`] when
/// [`Call::handle_timeout`] is due. Packets to send are handed to the `out` of the method that
/// caused them, before it returns: their bytes lie in the received packet itself.
#[derive(Debug)]
#[repr(C)]
pub struct Call {
    state: CallState,
    /// Legs of parties, as bits by slot.
    parties: u16,
    inputs: MixInputs,
    legs: SmallVec<[Option<Leg>; USUAL_LEGS]>,
    hearing: Hearing,
    /// The supervisors that are on the call, with what was sent to customers before.
    joins: Vec<Join>,
}

impl Call {
    /// A call without legs.
    pub fn new(key: CallKey, config: CallConfig) -> Self {
        Self {
            state: CallState {
                wake: None,
                rate: CLOCK,
                moved: false,
                events: VecDeque::with_capacity(8),
                config,
                key,
            },
            parties: 0,
            inputs: MixInputs::default(),
            legs: SmallVec::new(),
            hearing: Hearing::default(),
            joins: Vec::new(),
        }
    }

    /// The key that names it.
    pub fn key(&self) -> CallKey {
        self.state.key
    }

    /// Whether it has no legs.
    pub fn is_empty(&self) -> bool {
        self.legs.iter().all(Option::is_none)
    }

    /// Where the RTP and the RTCP of each leg come from, by slot, once that is settled: signalled
    /// and not behind a NAT, or learned. RTCP that comes with RTP (RFC 5761) has no source of its
    /// own.
    pub fn sources(&self) -> impl Iterator<Item = [Option<SocketAddr>; 2]> {
        let of = |leg: &Leg| [leg.source.rtp_source(), leg.source.rtcp_source()];
        self.legs.iter().map(move |leg| leg.as_ref().map_or([None; 2], of))
    }

    /// Whether one of [`Call::sources`] may be another one since this was asked last.
    pub fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.state.moved)
    }

    /// Takes a leg in; it hears what the allow-list already says, nobody if it is not named.
    /// Returns its slot, or the leg when the call is full or has it already.
    pub fn put(&mut self, mut leg: Leg, now: Instant) -> Result<usize, Box<Leg>> {
        if self.slot(leg.name).is_some() {
            return Err(Box::new(leg));
        }
        let slot = match self.legs.iter().position(Option::is_none) {
            Some(free) => free,
            None if self.legs.len() < MAX_LEGS => {
                self.legs.push(None);
                self.inputs.make_room(self.legs.len());
                self.legs.len() - 1
            }
            None => return Err(Box::new(leg)),
        };
        leg.enter(slot);
        for other in 0..self.legs.len() {
            self.inputs[(slot, other)] = MixInput::default();
            self.inputs[(other, slot)] = MixInput::default();
        }
        self.legs[slot] = Some(leg);
        self.state.moved = true;
        self.arrange(now);
        Ok(slot)
    }

    /// Takes a leg out, to close it or to put it into another call.
    pub fn take(&mut self, leg: LegId, now: Instant) -> Option<Leg> {
        let slot = self.slot(leg)?;
        self.end_joins_of(leg);
        let taken = self.legs[slot].take();
        self.arrange(now);
        taken
    }

    /// A leg by name.
    pub fn leg(&self, leg: LegId) -> Option<&Leg> {
        self.legs.iter().flatten().find(|here| here.name == leg)
    }

    /// The slot of a leg.
    pub fn slot(&self, leg: LegId) -> Option<usize> {
        self.legs.iter().position(|here| here.as_ref().is_some_and(|here| here.name == leg))
    }

    /// Sets what signalling agreed for a leg. What was learned behind a NAT stays when the
    /// signalled addresses stay.
    pub fn handle_describe(&mut self, leg: LegId, media: LegMedia, now: Instant) {
        let Some(here) = named(&mut self.legs, leg) else {
            return;
        };
        let is_cut = here.handle_describe(media, &mut self.state, now);
        let listeners = here.passed_to;
        if is_cut {
            self.cut(listeners);
        }
        self.arrange(now);
    }

    /// Sets what holds for the addresses of a leg beside its description; comes before
    /// [`Call::handle_describe`] where it is about that.
    pub fn handle_source_rule(&mut self, leg: LegId, rule: SourceRule) {
        let Some(here) = named(&mut self.legs, leg) else {
            return;
        };
        here.source.set_rule(rule);
        if here.source.take_changed() {
            self.note_source();
        }
    }

    /// Another source, or the first packet of one that was waited for: the sockets of the leg, and
    /// the deadlines of the call, are others.
    fn note_source(&mut self) {
        self.state.moved = true;
        self.state.wake = self.earliest();
    }

    /// Sets the keys of the SRTP of a leg (RFC 3711), or that it has none; comes right before
    /// [`Call::handle_describe`], in one step with it. Keys that stay go on where they are; see
    /// [`Protection::rekey`].
    pub fn handle_keys(&mut self, leg: LegId, keys: Option<&srtp::Keys>) {
        if let Some(here) = named(&mut self.legs, leg) {
            here.handle_keys(keys);
        }
    }

    /// Replaces the allow-list.
    pub fn handle_hear(&mut self, hearing: Hearing, now: Instant) {
        self.end_joins(&hearing);
        self.hearing = hearing;
        self.arrange(now);
    }

    /// Sends digits in the name of the leg to the parties that hear it.
    pub fn handle_digits(&mut self, leg: LegId, digits: &str, now: Instant) {
        if let Some(here) = named(&mut self.legs, leg) {
            let next =
                here.digits.get_or_insert_with(|| Box::new(DtmfSender::new(now))).push(digits);
            self.state.wake_by(next);
        }
    }

    /// Plays a short tone to the leg.
    pub fn handle_beep(&mut self, leg: LegId, now: Instant) {
        if let Some(here) = named(&mut self.legs, leg) {
            here.handle_beep();
            self.arrange(now);
        }
    }

    /// Plays this music to the leg, from its beginning; `None`: none any more.
    pub fn handle_music(&mut self, leg: LegId, music: Option<Music>, now: Instant) {
        if let Some(here) = named(&mut self.legs, leg) {
            here.seldom.music = music.map(MusicPlayer::new);
            self.arrange(now);
        }
    }

    /// A datagram on the RTP port of a leg. The bytes are overwritten by what is sent on.
    pub fn handle_rtp(
        &mut self,
        slot: usize,
        from: SocketAddr,
        packet: &mut [u8],
        now: Instant,
        out: &mut impl FnMut(Transmit<'_>),
    ) -> PacketVerdict {
        let Some(leg) = self.legs.get_mut(slot).and_then(Option::as_mut) else {
            return PacketVerdict::Foreign;
        };
        let accepted = match leg.handle_rtp(from, packet, &mut self.state, now) {
            Ok(accepted) => accepted,
            Err(verdict) => return verdict,
        };
        match accepted {
            AcceptedPacket::Audio(audio) => self.spread_audio(&audio, packet, now, out),
            AcceptedPacket::Noise(noise) => self.spread_noise(&noise, packet, now, out),
            AcceptedPacket::Event(event) => self.spread_event(&event, packet, now, out),
        }
        PacketVerdict::Accepted
    }

    /// A packet of sound, on its way to every listener.
    fn spread_audio(
        &mut self,
        audio: &AudioPacket,
        packet: &mut [u8],
        now: Instant,
        out: &mut impl FnMut(Transmit<'_>),
    ) {
        if let Some(change) = audio.change {
            self.follow(change, now);
        }
        let Some(leg) = self.legs[audio.slot].as_mut() else {
            return;
        };
        let (mixed_by, passed_to) = (leg.mixed_by, leg.passed_to);
        let mut grew = false;
        if mixed_by != 0 {
            let (inputs, ring) = (&self.inputs, &mut leg.speech.ring);
            if slots(mixed_by)
                .all(|listener| inputs[(listener, audio.slot)].reader.behind(ring) == 0)
            {
                ring.rewind();
            }
            grew = leg.hear(&audio.received, packet, self.state.rate, now);
        }
        let state = &mut self.state;
        let ctx = &mut MediaCtx { now, state, out };
        for listener in among(&mut self.legs, passed_to) {
            listener.relay(audio, packet, ctx);
        }
        for listener in slots(mixed_by).filter(|_| grew) {
            let Some((leg, mut mixer)) =
                Mixer::split(listener, &mut self.legs, &mut self.inputs, self.parties)
            else {
                continue;
            };
            let state = &mut self.state;
            if leg.handle_pacer(audio, &mut mixer, &mut MediaCtx { now, state, out }) {
                self.arrange(now);
            }
        }
        // Now that its legs are at hand: a leg that was just sent to is not due as early as it was.
        if mixed_by != 0 && self.state.wake.is_some_and(|wake| wake < now + SOON) {
            self.state.wake = self.earliest();
        }
    }

    /// A speaker goes on in another codec: its listeners are served otherwise.
    fn follow(&mut self, change: CodecChange, now: Instant) {
        if let Some(listeners) = change.cuts {
            self.cut(listeners);
        }
        if change.is_first {
            self.arrange(now);
        } else {
            self.prepare();
        }
    }

    /// Numbers of before say nothing of those to come.
    fn cut(&mut self, listeners: u16) {
        among(&mut self.legs, listeners).for_each(|listener| listener.stream.cut());
    }

    /// Comfort noise (RFC 3389): passed on to each listener that knows it, and heard in sums.
    fn spread_noise(
        &mut self,
        noise: &NoisePacket,
        packet: &mut [u8],
        now: Instant,
        out: &mut impl FnMut(Transmit<'_>),
    ) {
        // It has said that it sends no more: its listeners need not wait to see that.
        for listener in slots(noise.mixed_by) {
            if let Some((leg, mut mixer)) =
                Mixer::split(listener, &mut self.legs, &mut self.inputs, self.parties)
                && mixer.pacer(leg.route, now) == Some(noise.slot)
            {
                leg.pace.own = true;
                self.state.wake_by(leg.pace.due());
            }
        }
        let state = &mut self.state;
        let ctx = &mut MediaCtx { now, state, out };
        for listener in among(&mut self.legs, noise.passed_to) {
            listener.relay_noise(noise, packet, ctx);
        }
    }

    /// A telephone-event, passed between parties. None of a supervisor reaches anybody, and none
    /// reaches a supervisor.
    fn spread_event(
        &mut self,
        event: &EventPacket,
        packet: &mut [u8],
        now: Instant,
        out: &mut impl FnMut(Transmit<'_>),
    ) {
        let state = &mut self.state;
        let ctx = &mut MediaCtx { now, state, out };
        for listener in self.legs.iter_mut().flatten() {
            listener.relay_event(event, packet, ctx);
        }
    }

    /// Whether a datagram on the RTP port of a leg is for [`Call::handle_rtcp`] (RFC 5761 4).
    pub fn is_rtcp(&self, slot: usize, packet: &[u8]) -> bool {
        let leg = self.legs.get(slot).and_then(Option::as_ref);
        leg.is_some_and(|leg| leg.source.is_muxed()) && rtcp::is_rtcp(packet)
    }

    /// RTCP from a leg.
    pub fn handle_rtcp(
        &mut self,
        slot: usize,
        from: SocketAddr,
        packet: &[u8],
        now: Instant,
    ) -> PacketVerdict {
        let Some(leg) = self.legs.get_mut(slot).and_then(Option::as_mut) else {
            return PacketVerdict::Foreign;
        };
        let verdict = leg.handle_rtcp(from, packet, now);
        if verdict == PacketVerdict::Accepted && leg.source.take_changed() {
            self.note_source();
        }
        verdict
    }

    /// Does what is due: frames on our own clock, RTCP reports, inactivity.
    pub fn handle_timeout(&mut self, now: Now, out: &mut impl FnMut(Transmit<'_>)) {
        for slot in 0..self.legs.len() {
            self.send_digit(slot, now.mono, out);
            for _ in 0..MAX_FRAMES {
                if !self.tick(slot, now.mono, out) {
                    break;
                }
            }
            if let Some(leg) = self.legs[slot].as_mut() {
                let (mono, state) = (now.mono, &mut self.state);
                leg.handle_timeout(now, &mut MediaCtx { now: mono, state, out });
            }
        }
        self.tell_inactive(now.mono);
        self.state.wake = self.earliest();
    }

    /// The next step of the digits that are sent in the name of a leg.
    fn send_digit(&mut self, slot: usize, now: Instant, out: &mut impl FnMut(Transmit<'_>)) {
        if let Some(leg) = self.legs[slot].as_mut()
            && let Some((event, mut packet)) = leg.next_digit(now)
        {
            self.spread_event(&event, &mut packet, now, out);
        }
    }

    /// A frame on our own clock to one listener, if it is due.
    fn tick(&mut self, slot: usize, now: Instant, out: &mut impl FnMut(Transmit<'_>)) -> bool {
        let Some((leg, mut mixer)) =
            Mixer::split(slot, &mut self.legs, &mut self.inputs, self.parties)
        else {
            return false;
        };
        let state = &mut self.state;
        let Some(is_over) = leg.tick(&mut mixer, &mut MediaCtx { now, state, out }) else {
            return false;
        };
        if is_over {
            self.arrange(now);
        }
        true
    }

    /// Tells of legs that should send and do not: each by itself, and sooner where no party of the
    /// call sends.
    fn tell_inactive(&mut self, now: Instant) {
        let all_quiet = self.all_quiet_due().is_some_and(|due| due <= now);
        for leg in self.legs.iter_mut().flatten() {
            let is_due = leg.inactive_due(&self.state.config).is_some_and(|due| due <= now);
            if is_due || all_quiet && leg.party && leg.should_send() && !leg.inactive {
                leg.inactive = true;
                self.state.tell(MediaEvent::Inactive { leg: leg.name });
            }
        }
    }

    /// When none of the parties that should send has sent for so long that all of them are told of;
    /// `None` where one is alone, and once that was done.
    fn all_quiet_due(&self) -> Option<Instant> {
        let parties = || self.legs.iter().flatten().filter(|leg| leg.party && leg.should_send());
        let is_news = parties().nth(1).is_some() && parties().any(|leg| !leg.inactive);
        let last = parties().map(|leg| leg.heard).max().filter(|_| is_news)?;
        Some(last + self.state.config.inactivity / ALL_QUIET)
    }

    /// The last report of a leg that is about to be closed, with BYE (RFC 3550 6.6), if it ever got
    /// anything from us.
    pub fn handle_release(&mut self, leg: LegId, now: Now, out: &mut impl FnMut(Transmit<'_>)) {
        if let Some(here) = named(&mut self.legs, leg) {
            let (mono, state) = (now.mono, &mut self.state);
            here.handle_release(now, &mut MediaCtx { now: mono, state, out });
        }
    }

    /// When [`Call::handle_timeout`] is due; may be earlier than needed, never later.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.state.wake
    }

    fn earliest(&self) -> Option<Instant> {
        let legs = self.legs.iter().flatten().filter_map(|leg| leg.due(&self.state.config)).min();
        [legs, self.all_quiet_due()].into_iter().flatten().min()
    }

    /// The next event that has not been fetched.
    pub fn poll_event(&mut self) -> Option<MediaEvent> {
        self.state.events.pop_front()
    }

    /// Works out every row from the allow-list, between two packets. A listener that goes on
    /// hearing a speaker loses nothing; one that begins to hears nothing of what was said before.
    fn arrange(&mut self, now: Instant) {
        let mut members = [None; MAX_LEGS];
        for leg in self.legs.iter().flatten() {
            members[leg.slot] = Some(leg.member());
        }
        let plan = Plan::of(&self.hearing, &members);
        for slot in 0..self.legs.len() {
            if let Some((leg, mut mixer)) =
                Mixer::split(slot, &mut self.legs, &mut self.inputs, self.parties)
            {
                leg.serve(&plan, &mut mixer, now);
            }
        }
        self.parties = plan.parties();
        self.begin_joins();
        self.prepare();
        self.state.wake = self.earliest();
    }

    /// Gives every leg what its row needs and nothing else: this is where memory is taken, never in
    /// the way of a packet, but for the first that a leg sends in another codec.
    fn prepare(&mut self) {
        let rate = self.legs.iter().flatten().filter_map(Leg::rate_needed).max().unwrap_or(CLOCK);
        let is_other = std::mem::replace(&mut self.state.rate, rate) != rate;
        let mut speakers = [None; MAX_LEGS];
        for leg in self.legs.iter().flatten() {
            speakers[leg.slot] = leg.as_speaker();
        }
        for leg in self.legs.iter_mut().flatten() {
            leg.prepare(rate, is_other, &speakers);
        }
        if is_other {
            for speaker in self.legs.iter().flatten() {
                for listener in 0..self.legs.len() {
                    let reader = &mut self.inputs[(listener, speaker.slot)].reader;
                    *reader = reader.anew(&speaker.speech.ring);
                }
            }
        }
    }
}

fn named(legs: &mut [Option<Leg>], name: LegId) -> Option<&mut Leg> {
    legs.iter_mut().flatten().find(|leg| leg.name == name)
}

/// The legs in a mask, in order.
fn among(legs: &mut [Option<Leg>], mask: u16) -> impl Iterator<Item = &mut Leg> {
    let legs = legs.iter_mut().enumerate().filter(move |(slot, _)| mask & bit(*slot) != 0);
    legs.filter_map(|(_, leg)| leg.as_mut())
}
