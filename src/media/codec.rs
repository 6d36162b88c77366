//! G.711, both laws, both directions, and from one law to the other: tables only.

/// An audio codec; RTP clock 8000 Hz, one byte a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Codec {
    /// G.711 µ-law, static payload type 0.
    Pcmu,
    /// G.711 A-law, static payload type 8.
    Pcma,
}

impl Codec {
    /// Its static payload type (RFC 3551).
    pub fn payload_type(self) -> u8 {
        match self {
            Codec::Pcmu => 0,
            Codec::Pcma => 8,
        }
    }

    /// Its name in SDP.
    pub fn name(self) -> &'static str {
        match self {
            Codec::Pcmu => "PCMU",
            Codec::Pcma => "PCMA",
        }
    }

    /// The byte that is silence.
    pub fn silence(self) -> u8 {
        match self {
            Codec::Pcmu => 0xff,
            Codec::Pcma => 0xd5,
        }
    }

    /// Bytes to 16-bit samples; as many as the shorter slice holds.
    pub fn decode(self, payload: &[u8], samples: &mut [i16]) {
        let table = match self {
            Codec::Pcmu => &ULAW_TO_LINEAR,
            Codec::Pcma => &ALAW_TO_LINEAR,
        };
        for (sample, byte) in samples.iter_mut().zip(payload) {
            *sample = table[usize::from(*byte)];
        }
    }

    /// 16-bit samples to bytes; as many as the shorter slice holds.
    pub fn encode(self, samples: &[i16], payload: &mut [u8]) {
        match self {
            Codec::Pcmu => {
                for (byte, sample) in payload.iter_mut().zip(samples) {
                    *byte = LINEAR_TO_ULAW[usize::from(*sample as u16 >> 2)];
                }
            }
            Codec::Pcma => {
                for (byte, sample) in payload.iter_mut().zip(samples) {
                    *byte = LINEAR_TO_ALAW[usize::from(*sample as u16 >> 3)];
                }
            }
        }
    }

    /// Bytes of this codec to bytes of another; as many as the shorter slice holds.
    pub fn transcode(self, to: Codec, payload: &[u8], transcoded: &mut [u8]) {
        let table = match (self, to) {
            (Codec::Pcmu, Codec::Pcma) => &ULAW_TO_ALAW,
            (Codec::Pcma, Codec::Pcmu) => &ALAW_TO_ULAW,
            (Codec::Pcmu, Codec::Pcmu) | (Codec::Pcma, Codec::Pcma) => {
                let len = payload.len().min(transcoded.len());
                transcoded[..len].copy_from_slice(&payload[..len]);
                return;
            }
        };
        for (byte, from) in transcoded.iter_mut().zip(payload) {
            *byte = table[usize::from(*from)];
        }
    }
}

static ULAW_TO_LINEAR: [i16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = ulaw_to_linear(byte as u8);
        byte += 1;
    }
    table
};

static ALAW_TO_LINEAR: [i16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = alaw_to_linear(byte as u8);
        byte += 1;
    }
    table
};

/// By the upper 14 bits of the sample.
static LINEAR_TO_ULAW: [u8; 1 << 14] = {
    let mut table = [0; 1 << 14];
    let mut upper = 0;
    while upper < 1 << 14 {
        table[upper] = linear_to_ulaw(((upper << 2) as u16 as i16) >> 2);
        upper += 1;
    }
    table
};

/// By the upper 13 bits of the sample.
static LINEAR_TO_ALAW: [u8; 1 << 13] = {
    let mut table = [0; 1 << 13];
    let mut upper = 0;
    while upper < 1 << 13 {
        table[upper] = linear_to_alaw(((upper << 3) as u16 as i16) >> 3);
        upper += 1;
    }
    table
};

static ULAW_TO_ALAW: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = linear_to_alaw(ulaw_to_linear(byte as u8) >> 3);
        byte += 1;
    }
    table
};

static ALAW_TO_ULAW: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = linear_to_ulaw(alaw_to_linear(byte as u8) >> 2);
        byte += 1;
    }
    table
};

/// ITU-T G.711 table 2.
const fn ulaw_to_linear(byte: u8) -> i16 {
    let byte = !byte;
    let magnitude = ((((byte & 0x0f) as i16) << 3) + 0x84) << ((byte & 0x70) >> 4);
    if byte & 0x80 != 0 { 0x84 - magnitude } else { magnitude - 0x84 }
}

/// ITU-T G.711 table 1.
const fn alaw_to_linear(byte: u8) -> i16 {
    let byte = byte ^ 0x55;
    let step = ((byte & 0x0f) as i16) << 4;
    let magnitude = match (byte & 0x70) >> 4 {
        0 => step + 8,
        segment => (step + 0x108) << (segment - 1),
    };
    if byte & 0x80 != 0 { magnitude } else { -magnitude }
}

/// A 14-bit sample.
const fn linear_to_ulaw(sample: i16) -> u8 {
    let (magnitude, mask) = if sample < 0 { (-sample, 0x7f) } else { (sample, 0xff) };
    let magnitude = if magnitude > 8158 { 8158 } else { magnitude } + 33;
    let mut segment = 0;
    while segment < 7 && magnitude > (0x40 << segment) - 1 {
        segment += 1;
    }
    (((segment << 4) | ((magnitude >> (segment + 1)) & 0x0f)) as u8) ^ mask
}

/// A 13-bit sample.
const fn linear_to_alaw(sample: i16) -> u8 {
    let (magnitude, mask) = if sample < 0 { (-sample - 1, 0x55) } else { (sample, 0xd5) };
    let mut segment = 0;
    while segment < 7 && magnitude > (0x20 << segment) - 1 {
        segment += 1;
    }
    let shift = if segment < 2 { 1 } else { segment };
    (((segment << 4) | ((magnitude >> shift) & 0x0f)) as u8) ^ mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values_are_those_of_g711() {
        let mut samples = [0; 4];
        Codec::Pcmu.decode(&[0x00, 0x80, 0xff, 0x7f], &mut samples);
        assert_eq!(samples, [-32124, 32124, 0, 0]);
        Codec::Pcma.decode(&[0x55, 0xd5, 0x2a, 0xaa], &mut samples);
        assert_eq!(samples, [-8, 8, -32256, 32256]);
    }

    #[test]
    fn every_byte_survives_decoding_and_encoding() {
        for codec in [Codec::Pcmu, Codec::Pcma] {
            for byte in 0..=255 {
                let mut sample = [0];
                codec.decode(&[byte], &mut sample);
                let mut again = [0];
                codec.encode(&sample, &mut again);
                // µ-law has two zeros.
                let expected = if codec == Codec::Pcmu && byte == 0x7f { 0xff } else { byte };
                assert_eq!(again[0], expected, "{codec:?} {byte:#x}");
            }
        }
    }

    #[test]
    fn every_sample_comes_back_within_its_quantising_step() {
        for codec in [Codec::Pcmu, Codec::Pcma] {
            for sample in i16::MIN..=i16::MAX {
                let mut byte = [0];
                codec.encode(&[sample], &mut byte);
                let mut again = [0];
                codec.decode(&byte, &mut again);
                let error = (i32::from(sample) - i32::from(again[0])).abs();
                assert!(error <= 16 + i32::from(sample).abs() / 16, "{codec:?} {sample} {}", again[0]);
            }
        }
    }

    #[test]
    fn transcoding_is_decoding_and_encoding() {
        for (from, to) in [(Codec::Pcmu, Codec::Pcma), (Codec::Pcma, Codec::Pcmu), (Codec::Pcmu, Codec::Pcmu)] {
            for byte in 0..=255 {
                let mut direct = [0];
                from.transcode(to, &[byte], &mut direct);
                let mut sample = [0];
                from.decode(&[byte], &mut sample);
                let mut expected = [0];
                to.encode(&sample, &mut expected);
                if from != to {
                    assert_eq!(direct, expected);
                } else {
                    assert_eq!(direct, [byte]);
                }
            }
        }
    }

    #[test]
    fn silence_is_silent() {
        for codec in [Codec::Pcmu, Codec::Pcma] {
            let mut sample = [1];
            codec.decode(&[codec.silence()], &mut sample);
            assert!(sample[0].abs() <= 8);
        }
    }
}
