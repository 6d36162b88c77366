//! One leg: its streams, its codecs, its counters, as it goes from call to call.

use super::*;

/// A leg that has not sent for so long no longer paces anybody.
const TALKS: Duration = Duration::from_millis(200);
/// A leak guard event of one reason at most this often per leg.
const GUARD_INTERVAL: Duration = Duration::from_secs(1);
/// The longest packet that leaves a leg under SRTP: the longest RTP, or a report, with what
/// protects it.
pub(super) const MAX_PROTECTED: usize = HEADER + MAX_PAYLOAD + srtp::MAX_RTCP_GROWTH;

/// Where the outgoing numbers of a leg begin (RFC 3550 5.1): all of them random.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamStart {
    /// The SSRC of all that is sent to it.
    pub ssrc: u32,
    /// The first sequence number.
    pub sequence: u16,
    /// The first timestamp.
    pub timestamp: u32,
    /// What its RTCP name and the times of its reports are made from (RFC 7022 4.2, RFC 3550 6.2).
    pub reports: u128,
}

/// What one packet of a leg brings to the others, once it is known to be valid.
#[derive(Debug)]
pub(super) enum AcceptedPacket {
    Audio(AudioPacket),
    Noise(NoisePacket),
    Event(EventPacket),
}

/// What another codec of a speaker changes for its listeners.
#[derive(Clone, Copy, Debug)]
pub(super) struct CodecChange {
    /// The listeners toward which numbers begin anew, as bits: the clock is another one (RFC 7160).
    pub(super) cuts: Option<u16>,
    /// The speaker uses it for the first time.
    pub(super) is_first: bool,
}

/// The machine of one leg, with its streams and its counters, as it goes from call to call.
///
/// [`Call`] finds it and hands in what is for it, with what it may touch of the call; it never sees
/// the other legs, but for the speakers that a `Mixer` reads for it. What a packet touches comes
/// first and in the order of its use: with hundreds of calls it is the cold lines that cost.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Leg {
    /// Its packets are protected, both ways.
    pub(super) srtp: Option<Box<Protection>>,
    /// What it is sent, while it is a customer and a supervisor is on its call.
    pub(super) sound: Option<Box<SoundCount>>,
    /// The digits that are sent in its name.
    pub(super) digits: Option<Box<DtmfSender>>,
    pub(super) route: Route,
    /// The speakers that it may hear at most, as bits by slot: the leak guard.
    pub(super) permitted: u16,
    /// The listeners that mix this speaker, and those that it is relayed or transcoded to, as bits
    /// by slot.
    pub(super) mixed_by: u16,
    pub(super) passed_to: u16,
    /// An agent or a customer by the allow-list; not a supervisor, not unnamed.
    pub(super) party: bool,
    pub(super) inactive: bool,
    /// It has said that it is silent, and how that sounds.
    pub(super) noise: Option<ComfortNoise>,
    pub(super) spoken: SpokenCodecs,
    pub(super) media: Option<Agreement>,
    pub(super) source: SourceFilter,
    pub(super) heard: Instant,
    last_audio: Option<Instant>,
    pub(super) pace: Pacer,
    reception: Reception,
    pub(super) stream: Stream,
    pub(super) stats: LegStats,
    /// Sound of its one speaker in its own codec.
    pub(super) transcoder: Option<SpeakerTranscoder>,
    /// What is mixed for it, as payloads.
    pub(super) encoder: MixEncoder,
    pub(super) speech: Speech,
    pub(super) beep: Beep,
    pub(super) ducking: Ducking,
    rtcp_due: Instant,
    pub(super) name: LegId,
    /// Its place in the call.
    pub(super) slot: usize,
    pub(super) seldom: Box<LegCold>,
}

/// What of a leg no packet in G.711 touches.
#[derive(Debug)]
pub(super) struct LegCold {
    reporter: Reporter,
    /// The local port, once it is known.
    pub(super) port: u16,
    /// Of what it was sent during joins that are over.
    pub(super) sound_hash: SoundHash,
    /// What the leg reported last of what it receives.
    remote: Option<Block>,
    up: Upsampler,
    pub(super) down: Downsampler,
    keypad: Keypad,
    /// What it hears while it is held.
    pub(super) music: Option<MusicPlayer>,
    /// When the leak guard was last told of, by reason.
    guard_said: [Option<Instant>; LeakReason::COUNT],
    agreements: Agreements,
    /// For the other codecs that it has spoken: going back to one of them takes no memory.
    pub(super) decoders: Vec<(Codec, Decoder)>,
    transcoders: SpareTranscoders,
}

/// What a listener has to know of a speaker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Speaker {
    pub(super) name: LegId,
    pub(super) spoken: SpokenCodecs,
}

impl Leg {
    /// A leg that nothing was agreed for yet.
    pub fn new(name: LegId, start: StreamStart, now: Instant) -> Self {
        Self {
            srtp: None,
            sound: None,
            digits: None,
            route: Route::Silent,
            permitted: 0,
            mixed_by: 0,
            passed_to: 0,
            party: false,
            inactive: false,
            noise: None,
            spoken: SpokenCodecs::default(),
            media: None,
            source: SourceFilter::default(),
            heard: now,
            last_audio: None,
            pace: Pacer::new(now),
            reception: Reception::default(),
            stream: Stream::new(start.ssrc, start.sequence, start.timestamp),
            stats: LegStats::default(),
            transcoder: None,
            encoder: MixEncoder::default(),
            speech: Speech::default(),
            beep: Beep::default(),
            ducking: Ducking::default(),
            rtcp_due: now,
            name,
            slot: 0,
            seldom: Box::new(LegCold {
                reporter: Reporter::new(start.reports),
                port: 0,
                sound_hash: SoundHash::default(),
                remote: None,
                up: Upsampler::default(),
                down: Downsampler::default(),
                keypad: Keypad::default(),
                music: None,
                guard_said: [None; LeakReason::COUNT],
                agreements: Agreements::default(),
                decoders: Vec::new(),
                transcoders: SpareTranscoders::default(),
            }),
        }
    }

    /// The same at a local port.
    pub fn at_port(mut self, port: u16) -> Self {
        self.seldom.port = port;
        self
    }

    /// The id that names it.
    pub fn name(&self) -> LegId {
        self.name
    }

    /// What it did so far.
    pub fn stats(&self) -> LegStats {
        self.measured().stats()
    }

    fn measured(&self) -> Measured {
        Measured {
            counted: self.stats,
            lost: self.reception.lost(),
            jitter: self.reception.jitter_time(),
            spoken: self.spoken.codec(),
            sent: self.media.map(|media| media.codec),
            clock: self.stream.clock(),
            remote: self.seldom.remote,
        }
    }

    /// Takes its place in a call, where it hears nobody yet.
    pub(super) fn enter(&mut self, slot: usize) {
        self.slot = slot;
        self.route = Route::Silent;
        self.permitted = 0;
        self.stream.cut();
    }

    /// What was agreed. Returns whether what its listeners know of its numbers is no longer true.
    pub(super) fn handle_describe(
        &mut self,
        media: LegMedia,
        state: &mut CallState,
        now: Instant,
    ) -> bool {
        let before = self.seldom.agreements.replace(media, now);
        self.media = Some(Agreement::of(&media));
        let speaks_other = self.spoken.expect(&media, before.is_none());
        self.stream.set_clock(media.codec.clock());
        let addresses =
            |media: LegMedia| (media.remote, media.remote_rtcp, media.rtcp_mux, media.nat);
        if before.map(addresses) != Some(addresses(media)) {
            self.source = self.source.described(&media);
        }
        if !before.is_some_and(|before| before.receive && before.remote.is_some()) {
            self.heard = now;
            self.inactive = false;
        }
        if before.is_none() {
            self.rtcp_due =
                now + self.seldom.reporter.next_interval(state.config.rtcp_interval) / 2;
        }
        // What was never due is not lost: a leg that was not sent to goes on with the next number.
        let sends = |media: LegMedia| media.send && media.remote.is_some();
        let receives = |media: LegMedia| media.receive && media.remote.is_some();
        if before.is_some_and(|before| sends(before) != sends(media)) {
            self.stream.cut();
            // A phone that hears nobody holds: it sends music, or nothing, while its numbers may
            // count on.
            self.reception.pause();
        }
        if !receives(media) {
            self.noise = None;
        }
        let was_held = before.is_some_and(|before| receives(before) != receives(media));
        if was_held {
            self.reception.pause();
        }
        state.moved |= self.source.take_changed();
        // Another codec is another clock: what was made of the timestamps under the one says
        // nothing of those under the other.
        was_held || speaks_other
    }

    /// The keys of its SRTP.
    pub(super) fn handle_keys(&mut self, keys: Option<&srtp::Keys>) {
        match (keys, &mut self.srtp) {
            (Some(keys), Some(srtp)) => srtp.rekey(keys),
            (Some(keys), none) => *none = Some(Box::new(Protection::new(keys))),
            (None, some) => *some = None,
        }
    }

    /// A datagram on its RTP port. What is protected is in clear afterwards.
    pub(super) fn handle_rtp(
        &mut self,
        from: SocketAddr,
        packet: &mut [u8],
        state: &mut CallState,
        now: Instant,
    ) -> Result<AcceptedPacket, PacketVerdict> {
        let len = self.unprotect_rtp(from, packet, now)?;
        let packet = packet.get(..len).unwrap_or_default();
        let parsed = rtp::parse(packet).ok();
        let format =
            parsed.as_ref().and_then(|received| self.format_of(received.payload_type, now));
        let known = parsed.as_ref().filter(|_| format.is_some());
        if !self.source.admits(from, known, now) {
            self.stats.foreign += 1;
            return Err(PacketVerdict::Foreign);
        }
        if self.source.take_changed() {
            state.moved = true;
            state.wake_by(now);
        }
        let (Some(media), Some(received), Some(format)) = (self.media, parsed, format) else {
            self.stats.malformed += 1;
            return Err(PacketVerdict::Malformed);
        };
        if !media.receive {
            return Err(self.discard());
        }
        self.stats.received += 1;
        let clock = match format {
            Format::Audio(codec) => Some(codec.clock()),
            Format::ComfortNoise => Some(CLOCK),
            Format::Events(_) => None,
        };
        self.reception.note(&received, clock, now);
        self.heard = now;
        if std::mem::take(&mut self.inactive) {
            state.wake_by(now + state.config.inactivity);
            state.tell(MediaEvent::Active { leg: self.name });
        }
        let payload = &packet[received.payload.clone()];
        match format {
            Format::Audio(codec) => {
                self.take_audio(codec, payload, received, now).map(AcceptedPacket::Audio)
            }
            Format::ComfortNoise => self.take_noise(payload, received).map(AcceptedPacket::Noise),
            Format::Events(clock) => {
                self.take_event(clock.ticks(), payload, received, state).map(AcceptedPacket::Event)
            }
        }
    }

    fn take_audio(
        &mut self,
        codec: Codec,
        payload: &[u8],
        received: ReceivedRtp,
        now: Instant,
    ) -> Result<AudioPacket, PacketVerdict> {
        let Some(ticks) = codec.ticks(payload) else {
            self.stats.malformed += 1;
            return Err(PacketVerdict::Malformed);
        };
        let change = match self.spoken.format_of(received.payload_type) {
            Some(_) => None,
            None => self.turn_to(codec, received.payload_type),
        };
        self.last_audio = Some(now);
        self.noise = None;
        Ok(AudioPacket {
            slot: self.slot,
            codec,
            ticks,
            change,
            is_under_digit: self.digits.as_ref().is_some_and(|digits| digits.sounds()),
            received,
        })
    }

    fn take_noise(
        &mut self,
        payload: &[u8],
        received: ReceivedRtp,
    ) -> Result<NoisePacket, PacketVerdict> {
        let Some(level) = noise_level(payload) else {
            return Err(self.discard());
        };
        self.noise = Some(ComfortNoise::new(level));
        Ok(NoisePacket {
            slot: self.slot,
            codec: self.spoken.codec(),
            passed_to: self.passed_to,
            mixed_by: self.mixed_by,
            received,
        })
    }

    fn take_event(
        &mut self,
        clock: u32,
        payload: &[u8],
        received: ReceivedRtp,
        state: &mut CallState,
    ) -> Result<EventPacket, PacketVerdict> {
        let Some(event) = rtp::telephone_event(payload) else {
            return Err(self.discard());
        };
        if !self.party {
            if self.seldom.keypad.is_news(&received) {
                state.tell(MediaEvent::Key { leg: self.name, digit: event.digit });
            }
            return Err(self.discard());
        }
        Ok(EventPacket { source: SoundSource::Leg(self.slot), clock, received })
    }

    fn discard(&mut self) -> PacketVerdict {
        self.stats.discarded += 1;
        PacketVerdict::Discarded
    }

    /// It goes on in another codec, or under another number; `None`: in the same codec. What that
    /// takes is made once for each codec and kept.
    fn turn_to(&mut self, codec: Codec, payload_type: u8) -> Option<CodecChange> {
        let agreed = self.seldom.agreements.current(payload_type);
        let was = self.spoken.codec();
        let is_first = self.spoken.turn_to(codec, payload_type, agreed)?;
        // What was made of the timestamps under the one clock says nothing of those under the other
        // (RFC 7160).
        let is_other_clock = was.clock() != codec.clock();
        if is_other_clock {
            self.speech.ring.cut();
        }
        Some(CodecChange { cuts: is_other_clock.then_some(self.passed_to), is_first })
    }

    /// Its sound into its ring, for those that mix it. Returns whether the ring grew.
    pub(super) fn hear(
        &mut self,
        received: &ReceivedRtp,
        packet: &[u8],
        rate: u32,
        now: Instant,
    ) -> bool {
        let payload = &packet[received.payload.clone()];
        self.speech.decode(received, payload, rate, &mut self.seldom.up, now)
    }

    /// A datagram of RTCP.
    pub(super) fn handle_rtcp(
        &mut self,
        from: SocketAddr,
        packet: &[u8],
        now: Instant,
    ) -> PacketVerdict {
        let mut buffer = [0; rtcp::MAX_PACKET + srtp::MAX_RTCP_GROWTH];
        let packet = match self.unprotect_rtcp(from, packet, &mut buffer) {
            Ok(packet) => packet,
            Err(verdict) => return verdict,
        };
        let report = rtcp::read(packet, self.stream.ssrc());
        if !self.source.admits_rtcp(from, report.is_ok()) {
            self.stats.foreign += 1;
            return PacketVerdict::Foreign;
        }
        let Ok(report) = report else {
            self.stats.malformed += 1;
            return PacketVerdict::Malformed;
        };
        self.stats.rtcp_received += 1;
        if let Some((ssrc, middle)) = report.sender {
            self.reception.note_sender_report(ssrc, middle, now);
        }
        if let Some(block) = report.about_us {
            self.stats.round_trip =
                self.seldom.reporter.round_trip(&block, now).or(self.stats.round_trip);
            self.seldom.remote = Some(block);
        }
        PacketVerdict::Accepted
    }

    /// Its report and its news, when they are due.
    pub(super) fn handle_timeout(
        &mut self,
        now: Now,
        ctx: &mut MediaCtx<'_, impl FnMut(Transmit<'_>)>,
    ) {
        if self.rtcp_due().is_some_and(|due| due <= now.mono) {
            self.rtcp_due =
                now.mono + self.seldom.reporter.next_interval(ctx.state.config.rtcp_interval);
            self.report(false, now, ctx);
        }
        if self.source.take_withheld() {
            ctx.state.tell(MediaEvent::Withheld { leg: self.name });
        }
    }

    /// Its last report, if anything was ever sent to it.
    pub(super) fn handle_release(
        &mut self,
        now: Now,
        ctx: &mut MediaCtx<'_, impl FnMut(Transmit<'_>)>,
    ) {
        if self.stats.sent > 0 || self.stats.rtcp_sent > 0 {
            self.report(true, now, ctx);
        }
    }

    fn report(
        &mut self,
        is_last: bool,
        now: Now,
        ctx: &mut MediaCtx<'_, impl FnMut(Transmit<'_>)>,
    ) {
        let Some(to) = self.source.rtcp_target() else {
            return;
        };
        let mut buffer = [0; rtcp::MAX_REPORT];
        let (bytes, interval) = self.seldom.reporter.report(
            &self.stream,
            &mut self.reception,
            is_last,
            now,
            &mut buffer,
        );
        self.send(TransmitKind::Rtcp, to, bytes, ctx.out);
        if !is_last && self.stats.sent + self.stats.received > 0 {
            ctx.state.tell(MediaEvent::Quality {
                leg: self.name,
                quality: self.measured().quality(interval),
            });
        }
    }

    /// Tells that the leak guard sent silence in place of sound, and why.
    pub(super) fn guard(&mut self, reason: LeakReason, now: Instant, state: &mut CallState) {
        let said = &mut self.seldom.guard_said[reason as usize];
        if said.is_some_and(|at| now.saturating_duration_since(at) < GUARD_INTERVAL) {
            return;
        }
        *said = Some(now);
        state.tell(MediaEvent::LeakGuard { call: state.key, leg: self.name, reason });
    }

    /// What was agreed and where to, when we may send to it.
    pub(super) fn outlet(&self) -> Option<(Agreement, SocketAddr)> {
        let media = self.media.filter(|media| media.send)?;
        Some((media, self.source.target()?))
    }

    pub(super) fn talks(&self, now: Instant) -> bool {
        self.last_audio.is_some_and(|at| now.saturating_duration_since(at) < TALKS)
    }

    /// When our own clock is due, if it serves the leg.
    pub(super) fn clock_due(&self) -> Option<Instant> {
        self.outlet().filter(|(media, _)| media.codec.is_mixable())?;
        match self.route {
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

    fn rtcp_due(&self) -> Option<Instant> {
        (self.media.is_some() && self.source.rtcp_target().is_some()).then_some(self.rtcp_due)
    }

    pub(super) fn due(&self, config: &CallConfig) -> Option<Instant> {
        let digit_due = self.digits.as_ref().map(|digits| digits.next_due());
        [self.clock_due(), self.inactive_due(config), self.rtcp_due(), digit_due]
            .into_iter()
            .flatten()
            .min()
    }

    /// What a payload type of its names: what comes again and again first.
    fn format_of(&self, payload_type: u8, now: Instant) -> Option<Format> {
        let spoken = self.spoken.format_of(payload_type);
        spoken.or_else(|| self.seldom.agreements.format_of(payload_type, now))
    }

    /// What the plan of a call has to know of it.
    pub(super) fn member(&self) -> Member {
        Member { name: self.name, is_described: self.media.is_some(), has_tone: self.has_tone() }
    }

    /// It hears something of our own: nothing can be made in a codec that is only relayed.
    pub(super) fn has_tone(&self) -> bool {
        self.can_be_mixed_for() && (self.beep.sounds() || self.seldom.music.is_some())
    }

    fn can_be_mixed_for(&self) -> bool {
        self.media.is_none_or(|media| media.codec.is_mixable())
    }

    /// A beep begins, if there is a way to make one.
    pub(super) fn handle_beep(&mut self) {
        if self.can_be_mixed_for() {
            self.beep = Beep::start();
        }
    }

    /// What a listener has to know of it, once anything may come from it.
    pub(super) fn as_speaker(&self) -> Option<Speaker> {
        self.media.map(|_| Speaker { name: self.name, spoken: self.spoken })
    }

    /// Is served by another plan.
    pub(super) fn serve(&mut self, plan: &Plan, mixer: &mut Mixer<'_>, now: Instant) {
        let serving = plan.serving(self.slot);
        let before = self.route;
        mixer.join(serving, before);
        self.pace.own |= serving.route != before;
        if serving.route != before && !matches!(before, Route::Mix(_)) {
            self.pace.until = self.pace.until.max(now);
        }
        self.route = serving.route;
        self.permitted = serving.permitted;
        self.party = serving.is_party;
        (self.mixed_by, self.passed_to) = plan.listeners(self.slot);
    }

    /// The codec that it is mixed in.
    fn mixed_in(&self) -> Option<Codec> {
        let media = self.media.filter(|_| matches!(self.route, Route::Mix(_)))?;
        Some(media.codec)
    }

    fn is_mixed(&self) -> bool {
        self.media.is_some() && self.mixed_by != 0
    }

    /// Samples a second that its ring, or a sum for it, should have.
    pub(super) fn rate_needed(&self) -> Option<u32> {
        let spoken = self.is_mixed().then(|| self.spoken.sample_rate());
        spoken.max(self.mixed_in().map(Codec::sample_rate))
    }

    /// Has what it needs for its row and nothing else; `is_other`: the rate is another one than
    /// before.
    pub(super) fn prepare(
        &mut self,
        rate: u32,
        is_other: bool,
        speakers: &[Option<Speaker>; MAX_LEGS],
    ) {
        self.speech.prepare_decoder(
            self.is_mixed().then_some(self.spoken),
            is_other,
            &mut self.seldom.decoders,
            &mut self.seldom.up,
        );
        match self.is_mixed() {
            true if is_other || !self.speech.ring.is_open() => self.speech.ring.open(rate),
            true => {}
            false => self.speech.ring.close(),
        }
        let mixed_in = self.mixed_in();
        self.encoder.prepare(mixed_in, is_other, &mut self.seldom.down);
        let speaker = match self.route {
            Route::Pass(speaker) => speakers[speaker],
            Route::Silent | Route::Mix(_) => None,
        };
        let to = self.media.map(|media| media.codec);
        self.seldom.transcoders.prepare(&mut self.transcoder, speaker, to);
    }

    pub(super) fn send(
        &mut self,
        sent: TransmitKind,
        to: SocketAddr,
        bytes: &[u8],
        out: &mut impl FnMut(Transmit<'_>),
    ) {
        let muxed = sent == TransmitKind::Rtcp && self.source.is_muxed();
        let clear = bytes;
        let Some(srtp) = &mut self.srtp else {
            out(Transmit { slot: self.slot, sent, muxed, to, bytes });
            return self.note_sent(sent, clear);
        };
        let mut buffer = [0; MAX_PROTECTED];
        let protected = match sent {
            TransmitKind::Rtcp => srtp.protect_rtcp(bytes, &mut buffer),
            TransmitKind::Unchanged
            | TransmitKind::Transcoded
            | TransmitKind::Mixed
            | TransmitKind::Silent
            | TransmitKind::Guarded => srtp.protect_rtp(bytes, &mut buffer),
        };
        let Some(bytes) = protected else {
            self.stats.discarded += 1;
            return;
        };
        out(Transmit { slot: self.slot, sent, muxed, to, bytes });
        self.note_sent(sent, clear);
    }

    fn note_sent(&mut self, sent: TransmitKind, packet: &[u8]) {
        self.source.spend();
        self.stats.count(sent);
        if let Some(sound) = &mut self.sound {
            sound.note(sent, packet);
        }
    }

    /// Takes the protection off an RTP packet, if it is this leg's to have one; returns the
    /// packet's length then. What comes from elsewhere is left as it is: foreign.
    fn unprotect_rtp(
        &mut self,
        from: SocketAddr,
        packet: &mut [u8],
        now: Instant,
    ) -> Result<usize, PacketVerdict> {
        match &mut self.srtp {
            Some(srtp) if self.source.may_admit(from, now) => {
                let is_known = self.source.is_known(from);
                srtp.unprotect_rtp(packet).map_err(|error| self.unprotected(error, is_known))
            }
            Some(_) | None => Ok(packet.len()),
        }
    }

    /// The same of RTCP, in the buffer, where there is protection to take off.
    fn unprotect_rtcp<'a>(
        &mut self,
        from: SocketAddr,
        packet: &'a [u8],
        buffer: &'a mut [u8],
    ) -> Result<&'a [u8], PacketVerdict> {
        match &mut self.srtp {
            Some(srtp) if self.source.may_admit_rtcp(from) => {
                let is_known = self.source.is_known_rtcp(from);
                let Some(copy) = buffer.get_mut(..packet.len()) else {
                    self.stats.malformed += 1;
                    return Err(PacketVerdict::Malformed);
                };
                copy.copy_from_slice(packet);
                let len =
                    srtp.unprotect_rtcp(copy).map_err(|error| self.unprotected(error, is_known))?;
                Ok(copy.get(..len).unwrap_or_default())
            }
            Some(_) | None => Ok(packet),
        }
    }

    fn unprotected(&mut self, error: SrtpError, is_known: bool) -> PacketVerdict {
        let (count, verdict) = match error {
            _ if !is_known => (&mut self.stats.foreign, PacketVerdict::Foreign),
            SrtpError::Unauthenticated => {
                (&mut self.stats.srtp_rejected, PacketVerdict::Unauthenticated)
            }
            SrtpError::Replayed => (&mut self.stats.srtp_replayed, PacketVerdict::Replayed),
        };
        *count += 1;
        verdict
    }
}
