//! What the payload types of received RTP name (RFC 3264 5.1, 6.1 and 7).
//!
//! A leg is sent one codec under one number. What it may send is more: every format that was
//! agreed, each under the number of the offer and under that of the answer.

use super::codec::Codec;

/// Payload types that a leg keeps at most: every codec, event clock and comfort noise under two
/// numbers each, and some to spare.
pub const MAX_FORMATS: usize = 24;

/// The format that a payload type names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Sound in this codec.
    Audio(Codec),
    /// Telephone events (RFC 4733) with durations in ticks of this clock.
    Events(EventClock),
    /// Comfort noise at 8000 Hz (RFC 3389).
    ComfortNoise,
}

/// The clock of telephone events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventClock {
    /// 8000 ticks a second.
    Narrow,
    /// 16000 ticks a second.
    Wide,
    /// 48000 ticks a second.
    Full,
}

impl EventClock {
    /// The clock of so many ticks a second; `None`: none that is known.
    pub fn of(ticks: u32) -> Option<EventClock> {
        match ticks {
            8000 => Some(EventClock::Narrow),
            16_000 => Some(EventClock::Wide),
            48_000 => Some(EventClock::Full),
            _ => None,
        }
    }

    /// Ticks a second.
    pub fn ticks(self) -> u32 {
        match self {
            EventClock::Narrow => 8000,
            EventClock::Wide => 16_000,
            EventClock::Full => 48_000,
        }
    }
}

/// A table of payload types, each with its format. No number is in it twice.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PayloadTypes {
    len: u8,
    numbers: [u8; MAX_FORMATS],
    formats: [Format; MAX_FORMATS],
}

impl Default for PayloadTypes {
    fn default() -> Self {
        Self { len: 0, numbers: [0; MAX_FORMATS], formats: [Format::ComfortNoise; MAX_FORMATS] }
    }
}

impl std::fmt::Debug for PayloadTypes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl PayloadTypes {
    /// A table of these; of two with one number the first counts.
    pub fn of(formats: &[(u8, Format)]) -> PayloadTypes {
        formats.iter().copied().collect()
    }

    /// Adds a payload type. False if its number names something else, or there is no room.
    pub fn add(&mut self, number: u8, format: Format) -> bool {
        if let Some(known) = self.get(number) {
            return known == format;
        }
        let at = usize::from(self.len);
        if at == MAX_FORMATS || number > 127 {
            return false;
        }
        self.numbers[at] = number;
        self.formats[at] = format;
        self.len += 1;
        true
    }

    /// What a payload type names.
    pub fn get(&self, number: u8) -> Option<Format> {
        let known = &self.numbers[..usize::from(self.len)];
        let at = known.iter().position(|known| *known == number)?;
        Some(self.formats[at])
    }

    /// All of them, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = (u8, Format)> + '_ {
        let numbers = self.numbers[..usize::from(self.len)].iter().copied();
        numbers.zip(self.formats.iter().copied())
    }

    /// The first number of a codec.
    pub fn number_of(&self, codec: Codec) -> Option<u8> {
        let found = self.iter().find(|(_, format)| *format == Format::Audio(codec));
        found.map(|(number, _)| number)
    }
}

impl FromIterator<(u8, Format)> for PayloadTypes {
    fn from_iter<T: IntoIterator<Item = (u8, Format)>>(formats: T) -> PayloadTypes {
        let mut table = PayloadTypes::default();
        for (number, format) in formats {
            table.add(number, format);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_names_what_it_named_first() {
        let mut formats = PayloadTypes::of(&[
            (0, Format::Audio(Codec::Pcmu)),
            (0, Format::ComfortNoise),
            (101, Format::Events(EventClock::Narrow)),
        ]);
        assert_eq!(formats.get(0), Some(Format::Audio(Codec::Pcmu)));
        assert_eq!(formats.get(101), Some(Format::Events(EventClock::Narrow)));
        assert_eq!(formats.get(8), None);
        assert!(formats.add(0, Format::Audio(Codec::Pcmu)));
        assert!(!formats.add(101, Format::Audio(Codec::Opus)));
        assert_eq!(formats.iter().count(), 2);
    }

    #[test]
    fn there_is_room_for_so_many_and_for_no_more() {
        let mut formats = PayloadTypes::default();
        for number in 0..=255 {
            formats.add(number, Format::ComfortNoise);
        }
        assert_eq!(formats.iter().count(), MAX_FORMATS);
        assert_eq!(formats.get(MAX_FORMATS as u8), None);
        assert!(!PayloadTypes::default().add(128, Format::ComfortNoise));
    }

    #[test]
    fn a_table_is_small() {
        assert!(size_of::<PayloadTypes>() <= 3 * MAX_FORMATS + 1, "{}", size_of::<PayloadTypes>());
    }
}
