//! One leg: its streams, its codecs, its counters, as it goes from call to call.

use super::*;

/// What was agreed before is still heard for so long: packets on their way, and a peer that changes a moment later (RFC 3264 8.3.2).
pub(super) const FORMER: Duration = Duration::from_secs(2);

/// No payload type: those of RTP are below 128.
pub(super) const NO_TYPE: u8 = 0xff;

/// The longest hole that a codec conceals itself: 200 ms at 16 kHz.
pub(super) const MAX_HOLE: usize = 3200;

/// What one piece of a payload is decoded to at most.
pub(super) const PIECE: usize = 480;

/// A party who has not sent for so long no longer paces anybody.
pub(super) const TALKS: Duration = Duration::from_millis(200);

/// The longest packet that leaves a leg under SRTP: the longest RTP, or a report, with what protects it.
pub(super) const MAX_PROTECTED: usize = HEADER + MAX_PAYLOAD + srtp::MAX_RTCP_GROWTH;

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

/// What was agreed for a leg, as far as every packet needs it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Agreement {
    /// What is sent to it, and how.
    pub(super) codec: Codec,
    pub(super) payload_type: u8,
    pub(super) dtmf_pt: Option<u8>,
    pub(super) comfort_noise: Option<u8>,
    pub(super) dtmf_clock: u32,
    pub(super) send: bool,
    pub(super) receive: bool,
    /// It should send, and it is known where from.
    pub(super) is_expected: bool,
}

impl Agreement {
    pub(super) fn of(media: &LegMedia) -> Self {
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
    pub(super) srtp: Option<Box<Protection>>,
    /// What we dial in his name.
    pub(super) dialling: Option<Box<DtmfSender>>,
    pub(super) row: Route,
    /// Who may be heard at most: the leak guard.
    pub(super) permitted: u16,
    /// Who mixes this speaker, and who relays or transcodes him, by slot.
    pub(super) mixed_by: u16,
    pub(super) passed_to: u16,
    /// An agent or a customer by the allow-list; not a supervisor, not unnamed.
    pub(super) party: bool,
    pub(super) muted: bool,
    pub(super) inactive: bool,
    /// It has said that it is silent, and how that sounds.
    pub(super) noise: Option<ComfortNoise>,
    /// The payload type of its sound, [`NO_TYPE`] for none, and the codec that names; the codecs it has spoken since it was described, as bits.
    pub(super) spoken_type: u8,
    pub(super) speaks: Codec,
    pub(super) spoken: u8,
    pub(super) media: Option<Agreement>,
    pub(super) source: SourceFilter,
    pub(super) heard: Instant,
    pub(super) last_audio: Option<Instant>,
    pub(super) pace: Pacer,
    pub(super) reception: Reception,
    pub(super) stream: Stream,
    pub(super) stats: LegStats,
    /// What one other says in this one's codec.
    pub(super) transcoder: Option<(LegId, Box<Transcoder>)>,
    /// What it says in the codec that it speaks, as samples, while somebody mixes it.
    pub(super) decoder: Option<(Codec, Decoder)>,
    /// What is mixed for it, as payloads.
    pub(super) encoder: Option<(Codec, Encoder)>,
    pub(super) ring: Ring,
    /// Ticks of a tone that he has still to hear.
    pub(super) beep: u32,
    pub(super) ducking: Ducking,
    pub(super) rtcp_due: Instant,
    pub(super) name: LegId,
    pub(super) seldom: Box<LegCold>,
}

/// What of a leg no packet in G.711 touches.
#[derive(Debug)]
pub(super) struct LegCold {
    pub(super) reporter: Reporter,
    /// What the leg reported last of what it receives.
    pub(super) remote: Option<Block>,
    pub(super) up: Upsampler,
    pub(super) down: Downsampler,
    pub(super) digit: Option<(u32, u32)>,
    /// The clock of the event that came last.
    pub(super) event_clock: u32,
    pub(super) guard_said: Option<Instant>,
    /// What was agreed, all of it.
    pub(super) described: Option<LegMedia>,
    /// What was agreed before, and until when it is heard.
    pub(super) former: Option<(Formats, Instant)>,
    /// For the other codecs that it has spoken: whoever goes back to one of them goes on without memory being taken.
    pub(super) decoders: Vec<(Codec, Decoder)>,
    /// The same for those of the one speaker that it hears.
    pub(super) transcoders: Vec<(LegId, Box<Transcoder>)>,
}

/// What a listener has to know of a speaker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Speaker {
    pub(super) name: LegId,
    pub(super) speaks: Codec,
    /// What it has spoken, as bits.
    pub(super) spoken: u8,
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
    pub(super) fn quality(&self, interval: Interval) -> Quality {
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
    pub(super) fn remote_jitter(&self, remote: Block) -> Duration {
        rtcp::time_of(remote.jitter, self.stream.clock())
    }

    pub(super) fn mos(&self, codec: Codec, lost: u64, expected: u64, jitter: Duration) -> Option<u16> {
        self.media?;
        let delay = quality::delay(self.stats.round_trip.unwrap_or(Duration::ZERO), jitter);
        Some(quality::mos(quality::rating(codec, lost, expected, delay)))
    }

    /// What was agreed and where to, when we may send to it.
    pub(super) fn outlet(&self) -> Option<(Agreement, SocketAddr)> {
        let media = self.media.filter(|media| media.send)?;
        Some((media, self.source.target()?))
    }

    pub(super) fn talks(&self, now: Instant) -> bool {
        self.last_audio.is_some_and(|at| now.saturating_duration_since(at) < TALKS)
    }

    /// When our own clock is due, if it serves him.
    pub(super) fn clock_due(&self) -> Option<Instant> {
        self.outlet()?;
        match self.row {
            Route::Mix(_) => Some(self.pace.due()),
            Route::Silent => (self.stream.packets() > 0).then(|| self.pace.due()),
            Route::Pass(_) => None,
        }
    }

    pub(super) fn inactive_due(&self, config: &CallConfig) -> Option<Instant> {
        (self.should_send() && !self.inactive).then(|| self.heard + config.inactivity)
    }

    /// Something should come from the leg.
    pub(super) fn should_send(&self) -> bool {
        self.media.is_some_and(|media| media.is_expected)
    }

    pub(super) fn rtcp_due(&self) -> Option<Instant> {
        (self.media.is_some() && self.source.rtcp_target().is_some()).then_some(self.rtcp_due)
    }

    pub(super) fn due(&self, config: &CallConfig) -> Option<Instant> {
        let digit_due = self.dialling.as_ref().map(|dialling| dialling.next);
        [self.clock_due(), self.inactive_due(config), self.rtcp_due(), digit_due]
            .into_iter()
            .flatten()
            .min()
    }

    /// What a payload type of its names: what comes again and again first.
    pub(super) fn format_of(&self, payload_type: u8, now: Instant) -> Option<Format> {
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
    pub(super) fn expect(&mut self, media: &LegMedia, before: Option<&LegMedia>, now: Instant) -> bool {
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
    pub(super) fn sample_rate(&self) -> u32 {
        let spoken = Codec::ALL.into_iter().filter(|codec| self.spoken & codec_bit(*codec) != 0);
        spoken.map(Codec::sample_rate).max().unwrap_or(CLOCK)
    }

    /// Has a decoder for the codec that it speaks, if anybody mixes it; `anew`: at another rate than before.
    pub(super) fn prepare_decoder(&mut self, anew: bool) {
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
    pub(super) fn prepare_transcoder(&mut self, speaker: Option<Speaker>) {
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
    pub(super) fn decode(&mut self, received: &ReceivedRtp, payload: &[u8], rate: u32, now: Instant) -> bool {
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
    pub(super) fn encode(&mut self, codec: Codec, samples: &[i16], rate: u32, payload: &mut [u8]) -> usize {
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

    pub(super) fn send(&mut self, slot: usize, sent: TransmitKind, to: SocketAddr, bytes: &[u8], out: &mut impl FnMut(Transmit<'_>)) {
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
    pub(super) fn unprotect_rtp(&mut self, from: SocketAddr, packet: &mut [u8], now: Instant) -> Result<usize, LeakVerdict> {
        match &mut self.srtp {
            Some(srtp) if self.source.may_admit(from, now) => {
                let is_known = self.source.is_known(from);
                srtp.unprotect_rtp(packet).map_err(|error| self.unprotected(error, is_known))
            }
            Some(_) | None => Ok(packet.len()),
        }
    }

    /// The same of RTCP, in the buffer, where there is protection to take off.
    pub(super) fn unprotect_rtcp<'a>(&mut self, from: SocketAddr, packet: &'a [u8], buffer: &'a mut [u8]) -> Result<&'a [u8], LeakVerdict> {
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

    pub(super) fn unprotected(&mut self, error: SrtpError, is_known: bool) -> LeakVerdict {
        let (count, verdict) = match error {
            _ if !is_known => (&mut self.stats.foreign, LeakVerdict::Foreign),
            SrtpError::Unauthenticated => (&mut self.stats.srtp_rejected, LeakVerdict::Unauthenticated),
            SrtpError::Replayed => (&mut self.stats.srtp_replayed, LeakVerdict::Replayed),
        };
        *count += 1;
        verdict
    }

    pub(super) fn count(&mut self, sent: TransmitKind) {
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

pub(super) fn permille(part: u64, whole: u64) -> u16 {
    (part * 1000).checked_div(whole).unwrap_or(0).min(1000) as u16
}

pub(super) fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

pub(super) fn codec_bit(codec: Codec) -> u8 {
    1 << codec as u8
}
