//! How each listener is served, worked out from the allow-list.

use super::*;

/// How a listener is served; speakers as bits by slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Silent,
    /// One speaker, packet by packet: relayed in the listener's codec, transcoded from another.
    Pass(usize),
    Mix(u16),
}

impl Route {
    pub(super) fn has(self, speaker: usize) -> bool {
        match self {
            Route::Silent => false,
            Route::Pass(only) => only == speaker,
            Route::Mix(speakers) => speakers & bit(speaker) != 0,
        }
    }
}

impl Call {
    /// A leg goes on in another codec, or under another number. What that takes is made once for each codec and kept.
    pub(super) fn turn_to(&mut self, slot: usize, codec: Codec, payload_type: u8, now: Instant) {
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

    /// Works out every row from the allow-list, between two packets. Who goes on hearing somebody loses nothing; who begins to hears
    /// nothing of what was said before.
    pub(super) fn arrange(&mut self, now: Instant) {
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
    pub(super) fn prepare(&mut self) {
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

pub(super) fn bit(slot: usize) -> u16 {
    1 << slot
}

/// The slots in a mask, in order.
pub(super) fn slots(mut mask: u16) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        (mask != 0).then(|| {
            let slot = mask.trailing_zeros() as usize;
            mask &= mask - 1;
            slot
        })
    })
}
