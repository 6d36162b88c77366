//! G.722 at 64 kbit/s (ITU-T G.722 (09/12), clause 3 to 6): two bands of 4 kHz, each in adaptive
//! differential code, six bits below and two above.
//!
//! Names follow the recommendation: `det` is the quantizer's scale factor, `nb` its logarithm, `s`
//! the predicted sample, `sp` and `sz` its parts from poles and zeros, `r` reconstructed samples,
//! `d` quantized differences, `p` partial reconstructions, `a` and `b` the predictor's
//! coefficients.

/// Clause 3.1, table 4: half of the 24 taps of the quadrature mirror filter.
const QMF: [i32; 12] = [3, -11, 12, 32, -210, 951, 3876, -805, 362, -156, 53, -11];

/// Table 7, logarithms to scale factors.
const ILB: [i32; 32] = [
    2048, 2093, 2139, 2186, 2233, 2282, 2332, 2383, 2435, 2489, 2543, 2599, 2656, 2714, 2774, 2834,
    2896, 2960, 3025, 3091, 3158, 3228, 3298, 3371, 3444, 3520, 3597, 3676, 3756, 3838, 3922, 4008,
];
/// The lower band's: decision levels, output levels by four and by six bits, multipliers of the
/// logarithm.
const Q6: [i32; 31] = [
    0,
    35,
    72,
    110,
    150,
    190,
    233,
    276,
    323,
    370,
    422,
    473,
    530,
    587,
    650,
    714,
    786,
    858,
    940,
    1023,
    1121,
    1219,
    1339,
    1458,
    1612,
    1765,
    1980,
    2195,
    2557,
    2919,
    i32::MAX,
];
const QM4: [i32; 16] = [
    0, -20456, -12896, -8968, -6288, -4240, -2584, -1200, 20456, 12896, 8968, 6288, 4240, 2584,
    1200, 0,
];
const QM6: [i32; 64] = [
    -136, -136, -136, -136, -24808, -21904, -19008, -16704, -14984, -13512, -12280, -11192, -10232,
    -9360, -8576, -7856, -7192, -6576, -6000, -5456, -4944, -4464, -4008, -3576, -3168, -2776,
    -2400, -2032, -1688, -1360, -1040, -728, 24808, 21904, 19008, 16704, 14984, 13512, 12280,
    11192, 10232, 9360, 8576, 7856, 7192, 6576, 6000, 5456, 4944, 4464, 4008, 3576, 3168, 2776,
    2400, 2032, 1688, 1360, 1040, 728, 432, 136, -432, -136,
];
const WL: [i32; 16] =
    [-60, 3042, 1198, 538, 334, 172, 58, -30, 3042, 1198, 538, 334, 172, 58, -30, -60];
/// The higher band's output levels and multipliers.
const QM2: [i32; 4] = [-7408, -1616, 7408, 1616];
const WH: [i32; 4] = [798, -214, 798, -214];

fn saturate(value: i32) -> i32 {
    value.clamp(-32_768, 32_767)
}

/// One band's adaptive predictor and scale factor: the same in coder and decoder.
#[derive(Clone, Debug)]
struct Band {
    s: i32,
    sp: i32,
    sz: i32,
    r: [i32; 2],
    p: [i32; 2],
    a: [i32; 2],
    b: [i32; 6],
    d: [i32; 6],
    nb: i32,
    det: i32,
}

impl Band {
    fn new(det: i32) -> Self {
        Self {
            s: 0,
            sp: 0,
            sz: 0,
            r: [0; 2],
            p: [0; 2],
            a: [0; 2],
            b: [0; 6],
            d: [0; 6],
            nb: 0,
            det,
        }
    }

    /// Clause 6.2.1.3 and 6.2.2.3: the logarithm leaks, is moved, and becomes the next scale
    /// factor.
    fn adapt_scale(&mut self, multiplier: i32, limit: i32, shift: i32) {
        self.nb = (((self.nb * 127) >> 7) + multiplier).clamp(0, limit);
        let mantissa = ILB[(self.nb >> 6 & 31) as usize];
        let exponent = shift - (self.nb >> 11);
        let scale = if exponent < 0 { mantissa << -exponent } else { mantissa >> exponent };
        self.det = scale << 2;
    }

    /// Clause 6.2.1.4 to 6.2.1.6: the predictor learns from the quantized difference and predicts
    /// the next sample.
    fn adapt_predictor(&mut self, d: i32) {
        let r = saturate(self.s + d);
        let p = saturate(self.sz + d);
        let same = |one: i32, other: i32| (one < 0) == (other < 0);

        let lift = saturate(self.a[0] << 2);
        let toward = if same(p, self.p[0]) { -lift } else { lift }.min(32_767) >> 7;
        let bias = if same(p, self.p[1]) { 128 } else { -128 };
        let a2 = (toward + bias + ((self.a[1] * 32_512) >> 15)).clamp(-12_288, 12_288);
        let step = if same(p, self.p[0]) { 192 } else { -192 };
        let bound = saturate(15_360 - a2);
        let a1 = saturate(step + ((self.a[0] * 32_640) >> 15)).clamp(-bound, bound);

        let step = if d == 0 { 0 } else { 128 };
        for (b, before) in self.b.iter_mut().zip(&self.d) {
            let step = if same(d, *before) { step } else { -step };
            *b = saturate(step + ((*b * 32_640) >> 15));
        }

        self.a = [a1, a2];
        self.p = [p, self.p[0]];
        self.r = [r, self.r[0]];
        self.d.rotate_right(1);
        self.d[0] = d;

        let weigh = |coefficient: i32, value: i32| (coefficient * saturate(value + value)) >> 15;
        self.sp = saturate(weigh(a1, self.r[0]) + weigh(a2, self.r[1]));
        // From the oldest on, as the recommendation adds: rounding depends on nothing, saturation
        // on the end alone.
        self.sz = saturate(self.b.iter().zip(&self.d).rev().map(|(b, d)| weigh(*b, *d)).sum());
        self.s = saturate(self.sp + self.sz);
    }

    fn adapt_lower(&mut self, code: usize) {
        let index = code >> 2 & 15;
        let d = (self.det * QM4[index]) >> 15;
        self.adapt_scale(WL[index], 18_432, 8);
        self.adapt_predictor(d);
    }

    fn adapt_higher(&mut self, code: usize) -> i32 {
        let d = (self.det * QM2[code & 3]) >> 15;
        self.adapt_scale(WH[code & 3], 22_528, 10);
        self.adapt_predictor(d);
        d
    }
}

/// The last 24 samples or sums of the mirror filter.
type History = [i32; 24];

fn split(history: &History) -> (i32, i32) {
    let pairs = history.chunks_exact(2);
    let odd = pairs.clone().zip(&QMF).map(|(pair, tap)| pair[0] * tap).sum();
    let even = pairs.zip(QMF.iter().rev()).map(|(pair, tap)| pair[1] * tap).sum();
    (odd, even)
}

fn push(history: &mut History, pair: [i32; 2]) {
    history.copy_within(2.., 0);
    history[22..].copy_from_slice(&pair);
}

/// Octets to samples at 16 kHz, two an octet.
#[derive(Clone, Debug)]
pub(super) struct G722Decoder {
    lower: Band,
    higher: Band,
    history: History,
}

impl G722Decoder {
    pub(super) fn new() -> Self {
        Self { lower: Band::new(32), higher: Band::new(8), history: [0; 24] }
    }

    /// As many octets as `samples` has pairs.
    pub(super) fn decode(&mut self, payload: &[u8], samples: &mut [i16]) {
        for (octet, pair) in payload.iter().zip(samples.chunks_exact_mut(2)) {
            let code = usize::from(*octet);
            let low =
                (self.lower.s + ((self.lower.det * QM6[code & 63]) >> 15)).clamp(-16_384, 16_383);
            self.lower.adapt_lower(code & 63);
            let predicted = self.higher.s;
            let high = (predicted + self.higher.adapt_higher(code >> 6)).clamp(-16_384, 16_383);
            push(&mut self.history, [low + high, low - high]);
            let (odd, even) = split(&self.history);
            pair[0] = saturate(even >> 11) as i16;
            pair[1] = saturate(odd >> 11) as i16;
        }
    }
}

/// Samples at 16 kHz to octets, one for two.
#[derive(Clone, Debug)]
pub(super) struct G722Encoder {
    lower: Band,
    higher: Band,
    history: History,
}

impl G722Encoder {
    pub(super) fn new() -> Self {
        Self { lower: Band::new(32), higher: Band::new(8), history: [0; 24] }
    }

    /// As many pairs as `payload` has octets.
    pub(super) fn encode(&mut self, samples: &[i16], payload: &mut [u8]) {
        for (pair, octet) in samples.chunks_exact(2).zip(payload) {
            push(&mut self.history, [i32::from(pair[0]), i32::from(pair[1])]);
            let (odd, even) = split(&self.history);
            let low = Self::quantize_lower(&self.lower, (even + odd) >> 14);
            self.lower.adapt_lower(low);
            let high = Self::quantize_higher(&self.higher, (even - odd) >> 14);
            self.higher.adapt_higher(high);
            *octet = (high << 6 | low) as u8;
        }
    }

    /// Clause 6.2.1.1: sixty levels, none of the four that would look like a bit error.
    fn quantize_lower(band: &Band, sample: i32) -> usize {
        let e = saturate(sample - band.s);
        let size = if e < 0 { -(e + 1) } else { e };
        let level =
            Q6[1..30].iter().position(|bound| size < (*bound * band.det) >> 12).unwrap_or(29) + 1;
        match (e < 0, level) {
            (true, 1 | 2) => 64 - level,
            (true, _) => 34 - level,
            (false, _) => 62 - level,
        }
    }

    fn quantize_higher(band: &Band, sample: i32) -> usize {
        let e = saturate(sample - band.s);
        let size = if e < 0 { -(e + 1) } else { e };
        let is_outer = size >= (564 * band.det) >> 12;
        match (e < 0, is_outer) {
            (true, false) => 1,
            (true, true) => 0,
            (false, false) => 3,
            (false, true) => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ezk_g722::libg722;
    use proptest::prelude::*;

    /// The independent coder begins with scale factors of 0 instead of the 32 and 8 of the
    /// recommendation. Ours so, for comparison.
    fn encoder() -> G722Encoder {
        G722Encoder { lower: Band::new(0), higher: Band::new(0), ..G722Encoder::new() }
    }

    fn decoder() -> G722Decoder {
        G722Decoder { lower: Band::new(0), higher: Band::new(0), ..G722Decoder::new() }
    }

    fn speech(len: usize) -> Vec<i16> {
        let sample = |n: usize| {
            let t = n as f64 / 16_000.0;
            let tone = |hertz: f64| (std::f64::consts::TAU * hertz * t).sin();
            let swell = (std::f64::consts::TAU * 3.0 * t).sin().abs();
            (swell * (6000.0 * tone(310.0) + 3000.0 * tone(1270.0) + 1500.0 * tone(4900.0))) as i16
        };
        (0..len).map(sample).collect()
    }

    #[test]
    fn it_codes_speech_bit_for_bit_like_an_independent_coder_and_decodes_it_sample_for_sample() {
        let samples = speech(16_000);
        let mut octets = vec![0; samples.len() / 2];
        encoder().encode(&samples, &mut octets);
        let theirs = libg722::encoder::Encoder::new(libg722::Bitrate::Mode1_64000, false, false)
            .encode(&samples);
        assert_eq!(octets, theirs);
        let mut decoded = vec![0; samples.len()];
        decoder().decode(&octets, &mut decoded);
        assert_eq!(
            decoded,
            libg722::decoder::Decoder::new(libg722::Bitrate::Mode1_64000, false, false)
                .decode(&octets)
        );
    }

    #[test]
    fn what_comes_back_is_what_went_in_with_little_noise() {
        let samples = speech(16_000);
        let mut octets = vec![0; samples.len() / 2];
        G722Encoder::new().encode(&samples, &mut octets);
        let mut decoded = vec![0; samples.len()];
        G722Decoder::new().decode(&octets, &mut decoded);
        // Both mirror filters together: 22 samples.
        let (mut signal, mut noise) = (0.0, 0.0);
        for (before, after) in samples[1000..15_000].iter().zip(&decoded[1022..]) {
            signal += f64::from(*before).powi(2);
            noise += (f64::from(*before) - f64::from(*after)).powi(2);
        }
        let ratio = 10.0 * (signal / noise).log10();
        assert!(ratio > 20.0, "{ratio} dB");
    }

    proptest! {
        #[test]
        fn any_octets_are_decoded_like_by_an_independent_decoder(
            octets in proptest::collection::vec(any::<u8>(), 0..600)
        ) {
            let mut decoded = vec![0; 2 * octets.len()];
            decoder().decode(&octets, &mut decoded);
            prop_assert_eq!(
                decoded,
                libg722::decoder::Decoder::new(libg722::Bitrate::Mode1_64000, false, false)
                    .decode(&octets)
            );
        }

        #[test]
        fn any_samples_are_coded_like_by_an_independent_coder(
            samples in proptest::collection::vec(any::<i16>(), 0..600)
        ) {
            let samples = &samples[..samples.len() & !1];
            let mut octets = vec![0; samples.len() / 2];
            encoder().encode(samples, &mut octets);
            prop_assert_eq!(
                octets,
                libg722::encoder::Encoder::new(libg722::Bitrate::Mode1_64000, false, false)
                    .encode(samples)
            );
        }
    }
}
