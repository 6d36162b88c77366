//! Sums of speakers for listeners with more than one.

use super::*;

/// Louder than this, -40 dBFS, a supervisor speaks.
const SPEECH: u16 = 328;
/// Frames that are made up at most for packets of the pacer that were lost.
const MAX_MADE_UP: usize = 2;

/// How a listener hears one speaker.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MixInput {
    gain: u16,
    /// What `gain` is times while a supervisor speaks to the listener, in 1/256.
    duck: u16,
    pub(super) reader: PlayoutReader,
}

/// How far the others have gone softer for a supervisor that speaks to the listener.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ducking {
    /// 0: not at all, 256: all the way.
    level: u16,
    /// Samples for which it stays so.
    hold: u32,
}

impl Ducking {
    /// All the way within the frame in which speech begins; back again within 200 ms, from 300 ms
    /// after the last word.
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

    /// The gain of a speaker that goes softer to `duck` times it.
    fn of(self, gain: u16, duck: u16) -> u16 {
        let duck = 256 + (i32::from(duck) - 256) * i32::from(self.level) / 256;
        (i32::from(gain) * duck / 256) as u16
    }
}

/// How each leg hears each other, by listener and speaker; those of the usual legs close together.
#[derive(Debug, Default)]
pub(super) struct MixInputs(SmallVec<[MixInput; USUAL_LEGS * USUAL_LEGS]>);

impl MixInputs {
    /// Among the first `n` slots come the first `n²` places.
    fn place(listener: usize, speaker: usize) -> usize {
        if listener >= speaker {
            listener * listener + speaker
        } else {
            speaker * speaker + speaker + 1 + listener
        }
    }

    pub(super) fn make_room(&mut self, slots: usize) {
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

/// The speakers of a call, as one listener hears them.
#[derive(Debug)]
pub(super) struct Mixer<'a> {
    /// The slot of the listener.
    listener: usize,
    /// The legs in the slots before its own, and after.
    before: &'a mut [Option<Leg>],
    after: &'a mut [Option<Leg>],
    inputs: &'a mut MixInputs,
    /// Legs of parties.
    parties: u16,
}

impl<'a> Mixer<'a> {
    /// A listener, and all others for it.
    pub(super) fn split(
        listener: usize,
        legs: &'a mut [Option<Leg>],
        inputs: &'a mut MixInputs,
        parties: u16,
    ) -> Option<(&'a mut Leg, Self)> {
        let (before, rest) = legs.split_at_mut_checked(listener)?;
        let (leg, after) = rest.split_first_mut()?;
        let mixer = Self { listener, before, after, inputs, parties };
        Some((leg.as_mut()?, mixer))
    }

    fn speaker(&mut self, slot: usize) -> Option<(&mut Leg, &mut MixInput)> {
        let leg = match slot.checked_sub(self.listener + 1) {
            Some(after) => self.after.get_mut(after),
            None => self.before.get_mut(slot),
        };
        Some((leg?.as_mut()?, &mut self.inputs[(self.listener, slot)]))
    }

    /// The one that paces a mix: the first of its parties that talks, else the first supervisor
    /// that does.
    pub(super) fn pacer(&mut self, route: Route, now: Instant) -> Option<usize> {
        let mut talks = |is_party: bool| {
            slots(route.mixed()).find(|&slot| {
                let speaker = self.speaker(slot);
                speaker.is_some_and(|(leg, _)| leg.party == is_party && leg.talks(now))
            })
        };
        talks(true).or_else(|| talks(false))
    }

    /// Reads each speaker as another plan has it. A speaker that was heard before goes on.
    pub(super) fn join(&mut self, serving: &Serving, before: Route) {
        for slot in slots(serving.heard) {
            let Some((speaker, input)) = self.speaker(slot) else {
                continue;
            };
            let ring = &mut speaker.speech.ring;
            if !matches!(before, Route::Mix(_)) || !before.has(slot) {
                let reader = match serving.buffered & bit(slot) != 0 {
                    true => PlayoutReader::buffered(ring),
                    false => PlayoutReader::direct(ring),
                };
                input.reader = if before.has(slot) {
                    reader.going_on()
                } else {
                    ring.forget();
                    reader
                };
            }
            input.gain = serving.gains[slot];
            input.duck = serving.ducks[slot];
        }
    }

    /// Adds up what the speakers say in a frame of so many ticks; `linear` is for the samples of
    /// each. Returns those that said anything, and how soft the parties are after it.
    fn mix(
        &mut self,
        speakers: u16,
        before: Ducking,
        ticks: u32,
        linear: &mut [i16],
        sum: &mut Sum,
    ) -> (u16, Ducking) {
        let mut contributors = 0;
        let mut speaks = false;
        let mut ducking = before;
        // Supervisors first: how soft the others are depends on them.
        let parties = self.parties & speakers;
        for (those, are_parties) in [(speakers & !parties, false), (parties, true)] {
            for slot in slots(those) {
                let Some((speaker, input)) = self.speaker(slot) else {
                    continue;
                };
                if !input.reader.read(&speaker.speech.ring, linear) {
                    let Some(noise) = &mut speaker.noise else {
                        continue;
                    };
                    noise.fill(linear);
                }
                contributors |= bit(slot);
                if !are_parties {
                    speaks |= linear.iter().any(|sample| sample.unsigned_abs() > SPEECH);
                }
                if input.duck == Gain::UNITY.0 {
                    sum.add(linear, input.gain);
                } else {
                    sum.add_between(
                        linear,
                        before.of(input.gain, input.duck),
                        ducking.of(input.gain, input.duck),
                    );
                }
            }
            if !are_parties {
                ducking.pass(speaks, ticks);
            }
        }
        (contributors, ducking)
    }
}

/// The encoder of what is mixed for a leg.
#[derive(Debug, Default)]
pub(super) struct MixEncoder(pub(super) Option<(Codec, Encoder)>);

impl MixEncoder {
    /// Has an encoder for the codec that the leg is mixed in, if it is; `is_other`: the rate of the
    /// call is another one than before.
    pub(super) fn prepare(&mut self, codec: Option<Codec>, is_other: bool, down: &mut Downsampler) {
        if is_other || self.0.as_ref().map(|(codec, _)| *codec) != codec {
            self.0 = codec.map(|codec| (codec, Encoder::new(codec)));
            *down = Downsampler::default();
        }
    }

    /// A frame at the rate of the call as a payload; silence when it cannot be coded. Returns its
    /// octets.
    fn encode(
        &mut self,
        codec: Codec,
        samples: &[i16],
        rate: u32,
        down: &mut Downsampler,
        payload: &mut [u8],
    ) -> usize {
        let octets = match &mut self.0 {
            Some((_, encoder)) if codec.sample_rate() == rate => encoder.encode(samples, payload),
            Some((_, encoder)) => {
                let mut narrow = [0; MAX_FRAME / 2];
                let narrow = &mut narrow[..samples.len() / 2];
                down.pass(samples, narrow);
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
}

impl Leg {
    /// A packet of a speaker that it mixes: if that one paces it, as much is sent, unless it is
    /// ahead already. Returns whether its beep is over.
    pub(super) fn handle_pacer(
        &mut self,
        audio: &AudioPacket,
        mixer: &mut Mixer<'_>,
        ctx: &mut MediaCtx<'_, impl FnMut(Transmit<'_>)>,
    ) -> bool {
        let (pacer, now) = (audio.slot, ctx.now);
        let mut is_over = false;
        if mixer.pacer(self.route, now) != Some(pacer) {
            return is_over;
        }
        let mut left = audio.frame();
        while left > 0 {
            // What is too short for a frame waits in the ring for the rest.
            let Some(frame) = self.outlet().and_then(|(media, _)| media.codec.frame(left)) else {
                return is_over;
            };
            left -= frame;
            match self.pace.turn(frame, now) {
                Turn::Send => {
                    self.pace.sent(frame, now);
                    is_over |= self.send_frame(frame, mixer, ctx);
                }
                Turn::Wait => return is_over,
                Turn::GiveBack => {
                    let len = (frame * (ctx.state.rate / CLOCK)) as usize;
                    let Some((speaker, input)) = mixer.speaker(pacer) else {
                        return is_over;
                    };
                    let ring = &speaker.speech.ring;
                    let is_quiet = input.reader.is_quiet(ring, len);
                    if self.pace.may_give_back(is_quiet) {
                        match is_quiet {
                            true => input.reader.skip(ring, len),
                            false => input.reader.drain(ring),
                        }
                        return is_over;
                    }
                    self.pace.sent(frame, now);
                    is_over |= self.send_frame(frame, mixer, ctx);
                }
            }
        }
        is_over | self.make_up(pacer, mixer, ctx)
    }

    /// Sends in the place of packets of the pacer that were lost, now that one has come after them.
    fn make_up(
        &mut self,
        pacer: usize,
        mixer: &mut Mixer<'_>,
        ctx: &mut MediaCtx<'_, impl FnMut(Transmit<'_>)>,
    ) -> bool {
        let mut is_over = false;
        for _ in 0..MAX_MADE_UP {
            let frame = self.pace.frame;
            let len = frame * (ctx.state.rate / CLOCK);
            let Some((speaker, input)) = mixer.speaker(pacer) else {
                break;
            };
            let reader = &input.reader;
            if !self.pace.is_short(ctx.now)
                || !reader.is_direct()
                || reader.behind(&speaker.speech.ring) < len
            {
                break;
            }
            let Some(frame) = self.outlet().and_then(|(media, _)| media.codec.frame(frame)) else {
                break;
            };
            self.pace.sent(frame, ctx.now);
            is_over |= self.send_frame(frame, mixer, ctx);
        }
        is_over
    }

    /// A frame on our own clock; `None`: none is due. Returns whether its beep is over.
    pub(super) fn tick(
        &mut self,
        mixer: &mut Mixer<'_>,
        ctx: &mut MediaCtx<'_, impl FnMut(Transmit<'_>)>,
    ) -> Option<bool> {
        self.clock_due().filter(|due| *due <= ctx.now)?;
        let frame = self.pace.frame;
        let frame = self.outlet().and_then(|(media, _)| media.codec.frame(frame)).unwrap_or(frame);
        self.pace.frame = frame;
        self.pace.ticked(ctx.now);
        Some(self.send_frame(frame, mixer, ctx))
    }

    /// Mixes and sends one frame, or silence when there is nobody to hear. Returns whether its beep
    /// is over.
    fn send_frame(
        &mut self,
        ticks: u32,
        mixer: &mut Mixer<'_>,
        ctx: &mut MediaCtx<'_, impl FnMut(Transmit<'_>)>,
    ) -> bool {
        let (rate, now) = (ctx.state.rate, ctx.now);
        let Some((media, to)) = self.outlet() else {
            return false;
        };
        let Some(ticks) = media.codec.frame(ticks) else {
            return false;
        };
        let mut sum = Sum::default();
        let mut linear = [0; MAX_FRAME];
        let linear = &mut linear[..(ticks * (rate / CLOCK)) as usize];
        let (contributors, ducking) =
            mixer.mix(self.route.mixed(), self.ducking, ticks, linear, &mut sum);
        self.ducking = ducking;
        if let Some(music) = &mut self.seldom.music {
            music.fill(rate / CLOCK, linear);
            sum.add(linear, Gain::UNITY.0);
        }
        if self.beep.sounds() {
            self.beep.fill(rate / CLOCK, linear);
            sum.add(linear, Gain::UNITY.0);
        }
        let mut buffer = [0; HEADER + MAX_PAYLOAD];
        let payload = &mut buffer[HEADER..];
        let (sent, octets) = if contributors & !self.permitted != 0 {
            (TransmitKind::Guarded, media.codec.silence(ticks, payload))
        } else if contributors == 0 && !self.has_tone() {
            (TransmitKind::Silent, media.codec.silence(ticks, payload))
        } else {
            sum.saturate(linear);
            let down = &mut self.seldom.down;
            (TransmitKind::Mixed, self.encoder.encode(media.codec, linear, rate, down, payload))
        };
        let header = RtpHeader {
            payload_type: media.payload_type,
            ..self.stream.own(ticks * (media.codec.clock() / CLOCK), octets, now)
        };
        buffer[..HEADER].copy_from_slice(&header.to_bytes());
        self.send(sent, to, &buffer[..HEADER + octets], ctx.out);
        if sent == TransmitKind::Guarded {
            self.guard(LeakReason::NotPermitted, now, ctx.state);
        }
        self.beep.pass(ticks)
    }
}
