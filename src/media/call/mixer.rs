//! Sums of speakers for listeners with more than one.

use super::*;

/// Louder than this, -40 dBFS, a supervisor speaks.
const SPEECH: u16 = 328;

/// Ticks of a beep: 200 ms.
pub(super) const BEEP: u32 = 1600;

/// How a listener hears one speaker.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MixInput {
    pub(super) gain: u16,
    /// What `gain` is times while a supervisor speaks to the listener, in 1/256.
    pub(super) duck: u16,
    pub(super) reader: Reader,
}

/// How far the others have gone softer for a supervisor who speaks to the listener.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ducking {
    /// 0: not at all, 256: all the way.
    pub(super) level: u16,
    /// Samples for which it stays so.
    pub(super) hold: u32,
}

impl Ducking {
    /// All the way within the frame in which he begins; back again within 200 ms, from 300 ms after his last word.
    pub(super) fn pass(&mut self, speaks: bool, samples: u32) {
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
    pub(super) fn of(self, gain: u16, duck: u16) -> u16 {
        let duck = 256 + (i32::from(duck) - 256) * i32::from(self.level) / 256;
        (i32::from(gain) * duck / 256) as u16
    }
}

/// How everybody hears everybody, by listener and speaker; the usual legs' close together.
#[derive(Debug, Default)]
pub(super) struct MixInputs(SmallVec<[MixInput; USUAL_LEGS * USUAL_LEGS]>);

impl MixInputs {
    /// Among the first `n` slots come the first `n²` places.
    pub(super) fn place(listener: usize, speaker: usize) -> usize {
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

impl Call {
    /// Who paces a listener's mix: the first of his parties who talks, else the first supervisor who does.
    pub(super) fn pacer(&self, listener: usize, now: Instant) -> Option<usize> {
        let Route::Mix(speakers) = self.legs[listener].as_ref()?.row else {
            return None;
        };
        let talks = |party: bool| {
            slots(speakers).find(|&speaker| self.legs[speaker].as_ref().is_some_and(|leg| leg.party == party && leg.talks(now)))
        };
        talks(true).or_else(|| talks(false))
    }

    /// A packet of the pacer came: as much is sent, if the listener is not ahead already.
    pub(super) fn send_paced(&mut self, pacer: usize, listener: usize, ticks: u32, now: Instant, out: &mut impl FnMut(Transmit<'_>)) {
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
    pub(super) fn make_up(&mut self, pacer: usize, listener: usize, now: Instant, out: &mut impl FnMut(Transmit<'_>)) {
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
    pub(super) fn send_frame(&mut self, listener: usize, ticks: u32, now: Instant, out: &mut impl FnMut(Transmit<'_>)) {
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
