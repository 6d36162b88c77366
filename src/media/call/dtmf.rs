//! Telephone-events (RFC 4733): those that come, and the digits that are sent in the name of a leg.

use super::*;

/// One step of a digit that we send: 20 ms.
const DIGIT_STEP: Duration = Duration::from_millis(20);

/// Steps of a digit's sound, of its end (RFC 4733 2.5.1.4: three times), and all of it with the silence after.
const TONE: u32 = 5;
const ENDS: u32 = 3;
const DIGIT: u32 = 10;
/// RFC 4733 2.3: -10 dBm0.
const DIGIT_VOLUME: u8 = 10;

/// Added to a speaker's slot it names the events that we make in his name.
pub(super) const OURS: usize = MAX_LEGS;

/// Digits of one leg that may wait; beyond it they are dropped.
const MAX_DIGITS: usize = 64;

/// Digits that are sent in a leg's name, one after another: 100 ms each and as much of silence after it.
#[derive(Debug)]
pub(super) struct DtmfSender {
    /// Event numbers (RFC 4733 3.2).
    pub(super) events: VecDeque<u8>,
    /// Steps of 20 ms of the digit in hand: [`TONE`] of sound, [`ENDS`] ends, then nothing.
    pub(super) step: u32,
    /// Names the digit to the listeners' streams.
    pub(super) timestamp: u32,
    pub(super) next: Instant,
}

impl DtmfSender {
    pub(super) fn sounds(&self) -> bool {
        self.step < TONE + ENDS && !self.events.is_empty()
    }
}

impl Call {
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

    /// A telephone-event: told to the B2BUA, and passed between parties. A supervisor's reaches nobody, and nobody's reaches a
    /// supervisor.
    pub(super) fn hear_event(
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

    /// The next step of the digits that are sent in a leg's name.
    pub(super) fn dial(&mut self, slot: usize, now: Instant, out: &mut impl FnMut(Transmit<'_>)) {
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

    /// An event to one listener: a speaker's own, or one that we make in his name.
    pub(super) fn pass_event(
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
}
