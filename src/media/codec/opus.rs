//! Opus (RFC 6716) as telephones use it (RFC 7587): heard and spoken here at 16 kHz in mono, whatever the other side's band; one frame a packet.

use opus_rs::{Application, OpusDecoder, OpusEncoder};

/// The longest packet: 120 ms.
pub(super) const LONGEST: usize = 1920;
const RATE: i32 = 16_000;
const BITS_PER_SECOND: i32 = 24_000;
/// Of 0 to 10: what a coach on a telephone can tell from more does not pay for its processor time.
const COMPLEXITY: i32 = 0;

/// How long a packet sounds, in ticks of its 48 kHz clock (RFC 6716 3.1, 3.2); `None`: it is none.
pub(super) fn ticks(packet: &[u8]) -> Option<u32> {
    let toc = *packet.first()?;
    let frame = match toc >> 3 {
        config @ 0..=11 => [480, 960, 1920, 2880][usize::from(config & 3)],
        config @ 12..=15 => [480, 960][usize::from(config & 1)],
        config => [120, 240, 480, 960][usize::from(config & 3)],
    };
    let frames = match toc & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => u32::from(packet.get(1)? & 63),
    };
    let ticks = frame * frames;
    (1..=5760).contains(&ticks).then_some(ticks)
}

/// Packets to samples at 16 kHz.
pub(super) struct Decoder {
    inner: OpusDecoder,
    floats: [f32; LONGEST],
}

impl Decoder {
    /// `None` only if the library refuses what it documents to take.
    pub(super) fn new() -> Option<Self> {
        Some(Self {
            inner: OpusDecoder::new(RATE, 1).ok()?,
            floats: [0.0; LONGEST],
        })
    }

    /// The samples of a packet, as many as `samples` has room for; 0 for what is none.
    pub(super) fn decode(&mut self, packet: &[u8], samples: &mut [i16]) -> usize {
        let Some(ticks) = ticks(packet) else { return 0 };
        self.run(packet, ticks as usize / 3, samples)
    }

    /// What a lost packet is replaced by.
    pub(super) fn conceal(&mut self, samples: &mut [i16]) {
        // The library conceals in steps of 2.5 ms.
        let len = samples.len().min(LONGEST) / 40 * 40;
        let done = if len > 0 { self.run(&[], len, samples) } else { 0 };
        samples[done..].fill(0);
    }

    fn run(&mut self, packet: &[u8], len: usize, samples: &mut [i16]) -> usize {
        let Some(floats) = self.floats.get_mut(..len) else { return 0 };
        let Ok(decoded) = self.inner.decode(packet, len, floats) else {
            return 0;
        };
        let decoded = decoded.min(len).min(samples.len());
        for (sample, float) in samples.iter_mut().zip(&floats[..decoded]) {
            *sample = (float * 32_768.0).round().clamp(-32_768.0, 32_767.0) as i16;
        }
        decoded
    }
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").finish_non_exhaustive()
    }
}

/// Samples at 16 kHz to packets.
pub(super) struct Encoder(OpusEncoder);

impl Encoder {
    /// `None` only if the library refuses what it documents to take.
    pub(super) fn new() -> Option<Self> {
        let mut inner = OpusEncoder::new(RATE, 1, Application::Voip).ok()?;
        inner.bitrate_bps = BITS_PER_SECOND;
        inner.complexity = COMPLEXITY;
        Some(Self(inner))
    }

    /// One frame of 10, 20, 40 or 60 ms; 0 when it is of another length or has no room.
    pub(super) fn encode(&mut self, samples: &[i16], packet: &mut [u8]) -> usize {
        self.0.encode_i16(samples, samples.len(), packet).unwrap_or(0)
    }
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").finish_non_exhaustive()
    }
}
