//! Packets of one speaker on their way to listeners: relayed, or transcoded one by one.

use super::*;

/// A deadline so near is looked at again when a packet comes, so that the call is not visited for it alone.
const SOON: Duration = Duration::from_millis(10);

/// A leak guard event at most this often per leg.
const GUARD_INTERVAL: Duration = Duration::from_secs(1);

impl Call {
    /// A packet of sound, on its way to every listener.
    pub(super) fn hear_audio(
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
    pub(super) fn pass(
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
    pub(super) fn transcode(
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
    pub(super) fn hear_noise(
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

    pub(super) fn discard(&mut self, slot: usize) -> LeakVerdict {
        if let Some(leg) = self.legs[slot].as_mut() {
            leg.stats.discarded += 1;
        }
        LeakVerdict::Discarded
    }

    pub(super) fn guard(&mut self, listener: usize, now: Instant) {
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
}
