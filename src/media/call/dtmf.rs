//! Telephone-events (RFC 4733): those that come, and the digits that are sent in the name of a leg.

use super::*;

/// The key that a leg has pressed last.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Keypad {
    /// The SSRC and the timestamp of its packets: the same for all of one key (RFC 4733 2.5.1.2).
    last: Option<(u32, u32)>,
}

impl Keypad {
    /// The packet is the first of a key. One of a key before, that was late, is none.
    pub(super) fn is_news(&mut self, received: &ReceivedRtp) -> bool {
        let ReceivedRtp { ssrc, timestamp, .. } = *received;
        let is_news = match self.last {
            Some((stream, last)) if stream == ssrc => {
                timestamp != last && timestamp.wrapping_sub(last) < 1 << 31
            }
            Some(_) | None => true,
        };
        if is_news {
            self.last = Some((ssrc, timestamp));
        }
        is_news
    }
}

/// One step of a digit that is sent: 20 ms.
const STEP: Duration = Duration::from_millis(20);
/// Steps of the sound of a digit, of its end (RFC 4733 2.5.1.4: three times), and all of it with
/// the silence after.
const TONE: u32 = 5;
const ENDS: u32 = 3;
const DIGIT: u32 = 10;
/// RFC 4733 2.3: -10 dBm0.
const VOLUME: u8 = 10;
/// Digits of one leg that may wait; beyond it they are dropped.
const MAX_DIGITS: usize = 64;
/// A header and an event.
const EVENT: usize = HEADER + 4;

/// A telephone-event, as its listeners are given it.
#[derive(Debug)]
pub(super) struct EventPacket {
    pub(super) source: SoundSource,
    /// The clock of its duration, in ticks a second.
    pub(super) clock: u32,
    pub(super) received: ReceivedRtp,
}

/// Digits that are sent in the name of a leg, one after another: 100 ms each and as much of silence
/// after it.
#[derive(Debug)]
pub(super) struct DtmfSender {
    /// Event numbers (RFC 4733 3.2).
    events: VecDeque<u8>,
    /// Steps of 20 ms of the digit in hand: [`TONE`] of sound, [`ENDS`] ends, then nothing.
    step: u32,
    /// Names the digit to the streams of the listeners.
    timestamp: u32,
    next: Instant,
}

impl DtmfSender {
    pub(super) fn new(now: Instant) -> Self {
        Self { events: VecDeque::new(), step: 0, timestamp: 0, next: now }
    }

    /// Takes more digits, as many as may wait. Returns when its next step is due.
    pub(super) fn push(&mut self, digits: &str) -> Instant {
        let space = MAX_DIGITS.saturating_sub(self.events.len());
        self.events.extend(digits.chars().filter_map(rtp::event_of).take(space));
        self.next
    }

    pub(super) fn next_due(&self) -> Instant {
        self.next
    }

    /// The digit stands in place of the sound of the leg now.
    pub(super) fn sounds(&self) -> bool {
        self.step < TONE + ENDS && !self.events.is_empty()
    }

    /// The packet of the step that is due, if it has one.
    fn step(&mut self, now: Instant) -> Option<(ReceivedRtp, [u8; EVENT])> {
        let event = *self.events.front()?;
        let (step, sounds, timestamp) = (self.step, self.sounds(), self.timestamp);
        self.step += 1;
        self.next = (self.next + STEP).max(now);
        if self.step == DIGIT {
            self.step = 0;
            self.timestamp = self.timestamp.wrapping_add(1);
            self.events.pop_front();
        }
        if !sounds {
            return None;
        }
        let end = if step >= TONE { 0x80 } else { 0 };
        let duration = ((step + 1).min(TONE) * FRAME) as u16;
        let [high, low] = duration.to_be_bytes();
        let mut packet = [0; EVENT];
        packet[HEADER..].copy_from_slice(&[event, end | VOLUME, high, low]);
        let rtp = ReceivedRtp {
            marker: step == 0,
            payload_type: 0,
            sequence: step as u16,
            timestamp,
            ssrc: 0,
            payload: HEADER..EVENT,
        };
        Some((rtp, packet))
    }
}

impl EventPacket {
    /// Its payload (RFC 4733 2.3) with the duration in ticks of another clock.
    fn in_clock(&self, clock: u32, packet: &[u8]) -> Option<[u8; 4]> {
        let payload = packet.get(self.received.payload.clone())?;
        let [number, flags, high, low] = *payload.first_chunk::<4>()?;
        let ticks = u64::from(u16::from_be_bytes([high, low])) * u64::from(clock)
            / u64::from(self.clock.max(1));
        let [high, low] = (ticks.min(0xffff) as u16).to_be_bytes();
        Some([number, flags, high, low])
    }
}

impl Leg {
    /// The packet of a digit that is sent in its name and is due. Only a party has any.
    pub(super) fn next_digit(&mut self, now: Instant) -> Option<(EventPacket, [u8; EVENT])> {
        let digits = self.digits.as_mut().filter(|digits| digits.next <= now)?;
        if !self.party || digits.events.is_empty() {
            self.digits = None;
            return None;
        }
        let (received, packet) = digits.step(now)?;
        let event = EventPacket { source: SoundSource::Digits(self.slot), clock: CLOCK, received };
        Some((event, packet))
    }

    /// A telephone-event of a speaker that it hears, or one that is sent in the name of that
    /// speaker.
    pub(super) fn relay_event(
        &mut self,
        event: &EventPacket,
        packet: &mut [u8],
        ctx: &mut MediaCtx<'_, impl FnMut(Transmit<'_>)>,
    ) {
        let (received, speaker, now) = (&event.received, event.source.slot(), ctx.now);
        let Some((media, to)) = self.outlet() else {
            return;
        };
        let Some(payload_type) = media.dtmf_pt else {
            return;
        };
        if !self.party || !self.route.has(speaker) {
            return;
        }
        if self.permitted & bit(speaker) == 0 {
            self.stats.leak_guards += 1;
            return self.guard(LeakReason::NotPermitted, now, ctx.state);
        }
        let origin = StreamOrigin { source: event.source, ssrc: received.ssrc };
        let header = match (self.route, event.source) {
            (Route::Pass(_), SoundSource::Leg(_)) => {
                // In the time of the sound that it stands in for.
                let timestamp = match &mut self.transcoder {
                    Some((_, transcoder)) => transcoder.timestamp(received.timestamp),
                    None => received.timestamp,
                };
                let theirs = ReceivedRtp { timestamp, ..received.clone() };
                self.stream.relay(origin, &theirs, 0, now)
            }
            (Route::Pass(_), SoundSource::Digits(_)) | (Route::Mix(_), _) => {
                Some(self.stream.event(origin, received, now))
            }
            (Route::Silent, _) => None,
        };
        let Some(header) = header else {
            self.stats.discarded += 1;
            return;
        };
        let header = RtpHeader { payload_type, ..header };
        if event.clock == media.dtmf_clock {
            let bytes = header.put_before(packet, &received.payload);
            return self.send(TransmitKind::Unchanged, to, bytes, ctx.out);
        }
        let Some(payload) = event.in_clock(media.dtmf_clock, packet) else {
            return;
        };
        let mut bytes = [0; EVENT];
        bytes[..HEADER].copy_from_slice(&header.to_bytes());
        bytes[HEADER..].copy_from_slice(&payload);
        self.send(TransmitKind::Unchanged, to, &bytes, ctx.out);
    }
}
