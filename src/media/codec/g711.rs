//! G.711, both laws, both directions, and from one law to the other: tables only.

/// The two laws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Law {
    Mu,
    A,
}

impl Law {
    pub(super) fn decode(self, payload: &[u8], samples: &mut [i16]) {
        let table = match self {
            Law::Mu => &ULAW_TO_LINEAR,
            Law::A => &ALAW_TO_LINEAR,
        };
        for (sample, byte) in samples.iter_mut().zip(payload) {
            *sample = table[usize::from(*byte)];
        }
    }

    pub(super) fn encode(self, samples: &[i16], payload: &mut [u8]) {
        match self {
            Law::Mu => {
                for (byte, sample) in payload.iter_mut().zip(samples) {
                    *byte = LINEAR_TO_ULAW[usize::from(*sample as u16 >> 2)];
                }
            }
            Law::A => {
                for (byte, sample) in payload.iter_mut().zip(samples) {
                    *byte = LINEAR_TO_ALAW[usize::from(*sample as u16 >> 3)];
                }
            }
        }
    }

    /// To the other law.
    pub(super) fn transcode(self, payload: &[u8], transcoded: &mut [u8]) {
        let table = match self {
            Law::Mu => &ULAW_TO_ALAW,
            Law::A => &ALAW_TO_ULAW,
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

    fn decoded(law: Law, byte: u8) -> i16 {
        let mut sample = [0];
        law.decode(&[byte], &mut sample);
        sample[0]
    }

    fn encoded(law: Law, sample: i16) -> u8 {
        let mut byte = [0];
        law.encode(&[sample], &mut byte);
        byte[0]
    }

    #[test]
    fn known_values_are_those_of_g711() {
        assert_eq!(
            [0x00, 0x80, 0xff, 0x7f].map(|byte| decoded(Law::Mu, byte)),
            [-32124, 32124, 0, 0]
        );
        assert_eq!(
            [0x55, 0xd5, 0x2a, 0xaa].map(|byte| decoded(Law::A, byte)),
            [-8, 8, -32256, 32256]
        );
    }

    #[test]
    fn every_byte_survives_decoding_and_encoding() {
        for law in [Law::Mu, Law::A] {
            for byte in 0..=255 {
                // µ-law has two zeros.
                let expected = if law == Law::Mu && byte == 0x7f { 0xff } else { byte };
                assert_eq!(encoded(law, decoded(law, byte)), expected, "{law:?} {byte:#x}");
            }
        }
    }

    #[test]
    fn every_sample_comes_back_within_its_quantising_step() {
        for law in [Law::Mu, Law::A] {
            for sample in i16::MIN..=i16::MAX {
                let again = decoded(law, encoded(law, sample));
                let error = (i32::from(sample) - i32::from(again)).abs();
                assert!(error <= 16 + i32::from(sample).abs() / 16, "{law:?} {sample} {again}");
            }
        }
    }

    #[test]
    fn transcoding_is_decoding_and_encoding() {
        for (from, to) in [(Law::Mu, Law::A), (Law::A, Law::Mu)] {
            for byte in 0..=255 {
                let mut direct = [0];
                from.transcode(&[byte], &mut direct);
                assert_eq!(direct[0], encoded(to, decoded(from, byte)));
            }
        }
    }
}
