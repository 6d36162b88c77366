//! How good it can sound: the E-model (ITU-T G.107), with everything at its default but loss, delay
//! and codec.
//!
//! ```text
//!  loss, codec ─▶ Ie,eff ─┐
//!                         ├─▶ R = 93.2 − Idd − Ie,eff ─▶ MOS
//!  delay ───────▶ Idd ────┘
//! ```
//!
//! An estimate of what the network leaves possible, not a judgement of what was said: nobody
//! listens.

use super::codec::Codec;
use std::time::Duration;

/// R with nothing impaired (ITU-T G.107, default values).
const R0: f32 = 93.2;
/// Up to here delay impairs nothing (ITU-T G.107 7.4).
const UNNOTICED: Duration = Duration::from_millis(100);
/// A packet is 20 ms of sound that have to be collected before it leaves.
const PACKET: Duration = Duration::from_millis(20);

/// What a codec does to speech (ITU-T G.107 7.5).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Equipment {
    /// Ie: its impairment without loss.
    pub impairment: f32,
    /// Bpl: how well it bears random loss of packets.
    pub robustness: f32,
}

impl Equipment {
    /// G.711 with packet loss concealment (ITU-T G.113 Appendix I).
    ///
    /// Wideband codecs that conceal loss are rated the same: on the scale of narrowband speech
    /// G.113 has no values for G.722 or Opus, and at the rates of telephony neither is heard to be
    /// worse than G.711.
    pub const CONCEALED_G711: Equipment = Equipment { impairment: 0.0, robustness: 25.1 };

    /// G.729A with annex B (ITU-T G.113 Appendix I).
    pub const G729: Equipment = Equipment { impairment: 11.0, robustness: 19.0 };

    /// That of a codec.
    pub fn of(codec: Codec) -> Equipment {
        match codec {
            Codec::Pcmu | Codec::Pcma | Codec::G722 | Codec::Opus | Codec::L16 => {
                Equipment::CONCEALED_G711
            }
            Codec::G729 => Equipment::G729,
        }
    }

    /// Ie,eff of so many percent of packets lost at random (ITU-T G.107 7.5, BurstR = 1).
    fn effective(self, percent_lost: f32) -> f32 {
        self.impairment + (95.0 - self.impairment) * percent_lost / (percent_lost + self.robustness)
    }
}

/// From one mouth to the other ear, as far as a leg has to do with it: half its round trip, a
/// packet, and a jitter buffer of twice the jitter, which is what an adaptive one comes to.
pub fn delay(round_trip: Duration, jitter: Duration) -> Duration {
    round_trip / 2 + PACKET + 2 * jitter
}

/// R, 0 to 93.2: of `expected` packets `lost` did not come, the others so late.
pub fn rating(codec: Codec, lost: u64, expected: u64, delay: Duration) -> f32 {
    let percent_lost =
        if expected == 0 { 0.0 } else { (lost as f32 * 100.0 / expected as f32).min(100.0) };
    (R0 - delay_impairment(delay) - Equipment::of(codec).effective(percent_lost)).clamp(0.0, R0)
}

/// Idd (ITU-T G.107 7.4).
fn delay_impairment(delay: Duration) -> f32 {
    if delay <= UNNOTICED {
        return 0.0;
    }
    let x = (delay.as_secs_f32() / UNNOTICED.as_secs_f32()).log2();
    let term = |x: f32| (1.0 + x.powi(6)).powf(1.0 / 6.0);
    25.0 * (term(x) - 3.0 * term(x / 3.0) + 2.0)
}

/// The mean opinion score of a rating, in hundredths: 100 to 450 (ITU-T G.107 Annex B).
pub fn mos(rating: f32) -> u16 {
    let r = rating.clamp(0.0, 100.0);
    let mos = 1.0 + 0.035 * r + r * (r - 60.0) * (100.0 - r) * 7e-6;
    (mos * 100.0).round().clamp(100.0, 450.0) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Duration = Duration::ZERO;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn score(percent_lost: u64, delay: Duration) -> u16 {
        mos(rating(Codec::Pcmu, percent_lost, 100, delay))
    }

    #[test]
    fn the_scale_is_that_of_annex_b() {
        let table = [
            (0.0, 100),
            (50.0, 258),
            (60.0, 310),
            (70.0, 360),
            (80.0, 402),
            (90.0, 434),
            (93.2, 441),
            (100.0, 450),
        ];
        for (rating, expected) in table {
            assert_eq!(mos(rating), expected, "R {rating}");
        }
    }

    #[test]
    fn loss_costs_what_g113_says_of_concealed_g711() {
        assert_eq!(
            [0, 1, 2, 5, 10, 20].map(|percent| score(percent, NOW)),
            [441, 433, 423, 392, 341, 263]
        );
        assert_eq!(score(100, NOW), 118);
    }

    #[test]
    fn delay_costs_nothing_up_to_100_ms_and_much_beyond_300() {
        let rating = |delay| (rating(Codec::Pcmu, 0, 100, ms(delay)) * 10.0).round() / 10.0;
        assert_eq!([0, 100, 150, 200, 300, 400].map(rating), [93.2, 93.2, 93.0, 90.2, 78.4, 69.1]);
    }

    #[test]
    fn a_leg_adds_half_its_round_trip_a_packet_and_twice_its_jitter() {
        assert_eq!(delay(ms(80), ms(5)), ms(70));
    }

    #[test]
    fn where_nothing_was_due_nothing_is_lost() {
        assert_eq!(rating(Codec::Pcma, 0, 0, NOW), 93.2);
    }

    proptest! {
        #[test]
        fn more_loss_or_delay_never_sounds_better(
            lost in 0u64..1000, more in 0u64..1000, delay in 0u64..20_000, longer in 0u64..20_000
        ) {
            let at = |lost: u64, delay| mos(rating(Codec::Pcmu, lost, 1000, ms(delay)));
            prop_assert!((100..=450).contains(&at(lost, delay)));
            prop_assert!(at(lost + more, delay) <= at(lost, delay));
            prop_assert!(at(lost, delay + longer) <= at(lost, delay));
        }
    }
}
