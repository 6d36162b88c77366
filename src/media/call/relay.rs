//! Packets of one speaker on their way to one listener: relayed, or transcoded one by one.

use super::*;

/// Sound of one speaker, as its listeners are given it.
#[derive(Debug)]
pub(super) struct AudioPacket {
    /// The slot of the speaker.
    pub(super) slot: usize,
    pub(super) codec: Codec,
    /// Its length, in ticks of the clock of its codec.
    pub(super) ticks: u32,
    /// It is the first in another codec.
    pub(super) change: Option<CodecChange>,
    /// A digit is sent in the name of the speaker meanwhile.
    pub(super) is_under_digit: bool,
    pub(super) received: ReceivedRtp,
}

impl AudioPacket {
    /// Its length in ticks of [`CLOCK`].
    pub(super) fn frame(&self) -> u32 {
        self.ticks / (self.codec.clock() / CLOCK)
    }

    fn origin(&self) -> StreamOrigin {
        StreamOrigin { source: SoundSource::Leg(self.slot), ssrc: self.received.ssrc }
    }
}

/// Comfort noise (RFC 3389) of one speaker.
#[derive(Debug)]
pub(super) struct NoisePacket {
    /// The slot of the speaker.
    pub(super) slot: usize,
    /// The codec that it interrupts.
    pub(super) codec: Codec,
    pub(super) passed_to: u16,
    pub(super) mixed_by: u16,
    pub(super) received: ReceivedRtp,
}

impl Leg {
    /// A packet of the one speaker that it hears, relayed or transcoded.
    pub(super) fn relay(
        &mut self,
        audio: &AudioPacket,
        packet: &mut [u8],
        ctx: &mut MediaCtx<'_, impl FnMut(Transmit<'_>)>,
    ) {
        let Some((media, to)) = self.outlet() else {
            return;
        };
        // RFC 4733 2.5.1.2: the digit stands in place of the sound.
        if audio.is_under_digit && self.party && media.dtmf_pt.is_some() {
            return;
        }
        let (codec, received, now) = (audio.codec, &audio.received, ctx.now);
        self.pace.sent(audio.frame(), now);
        let is_permitted = self.permitted & bit(audio.slot) != 0;
        if let (Route::Pass(_), true, Some((_, transcoder))) =
            (self.route, is_permitted, &self.transcoder)
            && transcoder.is(codec, media.codec)
        {
            return self.transcode(audio, packet, ctx);
        }
        let Some(header) = self.stream.relay(audio.origin(), received, audio.ticks, now) else {
            self.stats.discarded += 1;
            return;
        };
        let header = RtpHeader { payload_type: media.payload_type, ..header };
        let is_permitted = is_permitted && matches!(self.route, Route::Pass(_));
        if is_permitted && media.codec == codec {
            let bytes = header.put_before(packet, &received.payload);
            return self.send(TransmitKind::Unchanged, to, bytes, ctx.out);
        }
        let mut buffer = [0; HEADER + MAX_PAYLOAD];
        buffer[..HEADER].copy_from_slice(&header.to_bytes());
        let space = &mut buffer[HEADER..];
        let payload = &packet[received.payload.clone()];
        if is_permitted && codec.transcode_law(media.codec, payload, space) {
            return self.send(
                TransmitKind::Transcoded,
                to,
                &buffer[..HEADER + payload.len()],
                ctx.out,
            );
        }
        let octets = media.codec.silence(audio.frame(), space);
        if octets > 0 {
            self.send(TransmitKind::Guarded, to, &buffer[..HEADER + octets], ctx.out);
        } else {
            self.stream.cut();
        }
        let reason = match is_permitted {
            true => LeakReason::CodecMismatch,
            false => LeakReason::NotPermitted,
        };
        self.guard(reason, now, ctx.state);
    }

    /// A packet of its speaker in its own codec. One for one, loss and reordering of the source
    /// stay visible; where lengths do not fit, the packets are numbered as they are made.
    fn transcode(
        &mut self,
        audio: &AudioPacket,
        packet: &[u8],
        ctx: &mut MediaCtx<'_, impl FnMut(Transmit<'_>)>,
    ) {
        let (received, now) = (&audio.received, ctx.now);
        let Some((media, to)) = self.outlet() else {
            return;
        };
        let Some((_, transcoder)) = &mut self.transcoder else {
            return;
        };
        let timestamp = transcoder.timestamp(received.timestamp);
        let mut is_one_for_one = transcoder.take(&packet[received.payload.clone()]);
        let mut buffer = [0; HEADER + MAX_PAYLOAD];
        while let Some((_, transcoder)) = &mut self.transcoder
            && let Some((frame, is_all)) = transcoder.ready()
        {
            let octets = transcoder.give(&mut buffer[HEADER..]);
            let ticks = frame * (media.codec.clock() / CLOCK);
            is_one_for_one &= is_all;
            let header = if is_one_for_one {
                let theirs =
                    ReceivedRtp { timestamp, payload: HEADER..HEADER + octets, ..*received };
                self.stream.relay(audio.origin(), &theirs, ticks, now)
            } else {
                Some(self.stream.own(ticks, octets, now))
            };
            let Some(header) = header else {
                self.stats.discarded += 1;
                return;
            };
            let header = RtpHeader { payload_type: media.payload_type, ..header };
            buffer[..HEADER].copy_from_slice(&header.to_bytes());
            self.send(TransmitKind::Transcoded, to, &buffer[..HEADER + octets], ctx.out);
        }
    }

    /// Comfort noise of the one speaker that it hears, if it knows what that is.
    pub(super) fn relay_noise(
        &mut self,
        noise: &NoisePacket,
        packet: &mut [u8],
        ctx: &mut MediaCtx<'_, impl FnMut(Transmit<'_>)>,
    ) {
        let Some((media, to)) = self.outlet() else {
            return;
        };
        let is_permitted =
            matches!(self.route, Route::Pass(_)) && self.permitted & bit(noise.slot) != 0;
        let is_relayed = is_permitted && media.codec == noise.codec;
        let Some(payload_type) = media.comfort_noise.filter(|_| is_relayed) else {
            // Numbers nobody gets are not lost: the next packet goes on without them.
            self.stream.cut();
            return;
        };
        let origin =
            StreamOrigin { source: SoundSource::Leg(noise.slot), ssrc: noise.received.ssrc };
        if let Some(header) = self.stream.relay(origin, &noise.received, 0, ctx.now) {
            let bytes =
                RtpHeader { payload_type, ..header }.put_before(packet, &noise.received.payload);
            self.send(TransmitKind::Unchanged, to, bytes, ctx.out);
        }
    }
}
