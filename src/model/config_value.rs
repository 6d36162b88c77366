//! Values of the configuration that are checked while they are read: each function is for
//! `serde(deserialize_with)`.

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

/// The longest time that can be configured, a year: anything longer is a typing error.
const LONGEST_SECONDS: f64 = 366.0 * 86_400.0;

/// Seconds, whole or not, between none and a year.
pub fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let seconds = deserializer.deserialize_f64(Seconds)?;
    if !(0.0..=LONGEST_SECONDS).contains(&seconds) {
        return Err(D::Error::custom(format_args!(
            "{seconds} is not a number of seconds between 0 and a year"
        )));
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// A number; what is none is told what was expected in the words of the configuration.
struct Seconds;

impl Visitor<'_> for Seconds {
    type Value = f64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of seconds")
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<f64, E> {
        Ok(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<f64, E> {
        Ok(value as f64)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<f64, E> {
        Ok(value as f64)
    }
}

/// As [`seconds`], but more than none: a time-out of nothing would never let anything happen.
pub fn some_seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    match seconds(deserializer)? {
        Duration::ZERO => Err(D::Error::custom("must be more than 0 seconds")),
        duration => Ok(duration),
    }
}

/// As [`seconds`], where 0 means never.
pub fn seconds_or_never<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    Ok(Some(seconds(deserializer)?).filter(|duration| !duration.is_zero()))
}

/// A number of 32 bits that is more than 0, for a field of that size or of a larger one.
pub fn nonzero<'de, D: Deserializer<'de>, T: TryFrom<u32>>(deserializer: D) -> Result<T, D::Error> {
    let number = NonZeroU32::deserialize(deserializer)?.get();
    T::try_from(number).map_err(|_| D::Error::custom("is too large"))
}

/// A number that is more than 0.
pub fn positive<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    match usize::deserialize(deserializer)? {
        0 => Err(D::Error::custom("must be more than 0")),
        number => Ok(number),
    }
}
