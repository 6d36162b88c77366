//! The music of those who are held: what a file of it may be, and how it is played.

use super::codec::{Codec, Decoder, Downsampler};
use super::rtp::CLOCK;
use std::fmt;
use std::sync::Arc;

/// Music at 8000 Hz, shared by all who hear it.
///
/// A file of it is WAV, mono, in G.711 or in 16 bits linear, at 8000 or 16,000 Hz; or G.711 without a
/// header, which is taken for µ-law unless the file's name ends in `.al` or `.alaw`.
#[derive(Clone, PartialEq, Eq)]
pub struct Music(Arc<[i16]>);

/// How much there is of it.
impl fmt::Debug for Music {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Music({} samples)", self.0.len())
    }
}

/// The file is no music.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotMusic {
    /// There is nothing to be heard.
    #[error("there is no sound in it")]
    Empty,
    /// It is longer than [`Music::LONGEST_FILE`].
    #[error("it is larger than {} MB", Music::LONGEST_FILE / 1_000_000)]
    TooLarge,
    /// A WAV file of another kind.
    #[error("it must be mono, G.711 or 16 bits linear, at 8000 or 16000 Hz")]
    Format,
    /// A WAV file that is cut off, or none that can be read.
    #[error("it is no whole WAV file")]
    Broken,
}

/// How the samples of a file are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Samples {
    Law(Codec),
    Linear,
}

impl Music {
    /// Octets of a file at most: twenty minutes of G.711.
    pub const LONGEST_FILE: u64 = 10_000_000;

    /// Reads a file. `is_a_law`: what has no header is A-law.
    ///
    /// # Errors
    /// It is none of what [`Music`] says.
    pub fn read(file: &[u8], is_a_law: bool) -> Result<Self, NotMusic> {
        if file.len() as u64 > Self::LONGEST_FILE {
            return Err(NotMusic::TooLarge);
        }
        let law = if is_a_law { Codec::Pcma } else { Codec::Pcmu };
        let (samples, rate, data) = match file.starts_with(b"RIFF") {
            true => read_wav(file)?,
            false => (Samples::Law(law), CLOCK, file),
        };
        let wide = linear(samples, data);
        let narrow = if rate == CLOCK { wide } else { halved(&wide) };
        match narrow.is_empty() {
            true => Err(NotMusic::Empty),
            false => Ok(Self(narrow.into())),
        }
    }
}

fn linear(samples: Samples, data: &[u8]) -> Vec<i16> {
    match samples {
        Samples::Law(law) => {
            let mut linear = vec![0; data.len()];
            Decoder::new(law).decode(data, &mut linear);
            linear
        }
        Samples::Linear => {
            let pairs = data.chunks_exact(2).filter_map(<[u8]>::first_chunk::<2>);
            pairs.map(|pair| i16::from_le_bytes(*pair)).collect()
        }
    }
}

fn halved(wide: &[i16]) -> Vec<i16> {
    let even = &wide[..wide.len() & !1];
    let mut narrow = vec![0; even.len() / 2];
    Downsampler::default().pass(even, &mut narrow);
    narrow
}

/// What the chunks of a WAV file say: how its samples are written, how many a second, and they
/// themselves. A length that is more than there is, as a writer leaves it that did not come to its
/// end, means the rest.
fn read_wav(file: &[u8]) -> Result<(Samples, u32, &[u8]), NotMusic> {
    if file.get(8..12) != Some(b"WAVE") {
        return Err(NotMusic::Broken);
    }
    let mut rest = file.get(12..).unwrap_or_default();
    let mut format = None;
    while let Some((head, body)) = rest.split_first_chunk::<8>() {
        let [name @ .., a, b, c, d] = *head;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        let chunk = body.get(..length).unwrap_or(body);
        match &name {
            b"fmt " => format = Some(read_format(chunk)?),
            b"data" => {
                let (samples, rate) = format.ok_or(NotMusic::Broken)?;
                return Ok((samples, rate, chunk));
            }
            _ => {}
        }
        // Chunks begin at even places.
        let padded = length.saturating_add(length & 1);
        rest = body.get(padded..).unwrap_or_default();
    }
    Err(NotMusic::Broken)
}

fn read_format(chunk: &[u8]) -> Result<(Samples, u32), NotMusic> {
    let head = chunk.first_chunk::<16>().ok_or(NotMusic::Broken)?;
    let half = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
    let rate = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    let samples = match (half(0), half(14)) {
        (1, 16) => Samples::Linear,
        (6, 8) => Samples::Law(Codec::Pcma),
        (7, 8) => Samples::Law(Codec::Pcmu),
        _ => return Err(NotMusic::Format),
    };
    let is_mono = half(2) == 1;
    match is_mono && (rate == CLOCK || rate == 2 * CLOCK) {
        true => Ok((samples, rate)),
        false => Err(NotMusic::Format),
    }
}

/// Music as one listener hears it.
#[derive(Clone, Debug)]
pub(super) struct MusicPlayer {
    music: Music,
    next: usize,
}

impl MusicPlayer {
    /// From its beginning.
    pub(super) fn new(music: Music) -> Self {
        Self { music, next: 0 }
    }

    /// Its next samples, so many a tick of [`CLOCK`]; after the last comes the first.
    pub(super) fn fill(&mut self, samples_per_tick: u32, samples: &mut [i16]) {
        let wide = samples_per_tick.max(1);
        let all = &self.music.0;
        for tick in samples.chunks_mut(wide as usize) {
            let following = if self.next + 1 < all.len() { self.next + 1 } else { 0 };
            let at = |place: usize| i32::from(all.get(place).copied().unwrap_or_default());
            let (from, to) = (at(self.next), at(following));
            for (n, sample) in tick.iter_mut().enumerate() {
                *sample = (from + (to - from) * n as i32 / wide as i32) as i16;
            }
            self.next = following;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wav(kind: u16, bits: u16, channels: u16, rate: u32, data: &[u8]) -> Vec<u8> {
        let mut file = Vec::from(*b"RIFF\0\0\0\0WAVELIST\x03\0\0\0abc\0fmt \x10\0\0\0");
        file.extend([kind.to_le_bytes(), channels.to_le_bytes()].concat());
        file.extend([rate.to_le_bytes(), rate.to_le_bytes()].concat());
        file.extend([2_u16.to_le_bytes(), bits.to_le_bytes()].concat());
        file.extend(b"data");
        file.extend((data.len() as u32).to_le_bytes());
        file.extend(data);
        file
    }

    fn plays(music: Music, samples_per_tick: u32, count: usize) -> Vec<i16> {
        let mut samples = vec![0; count];
        MusicPlayer::new(music).fill(samples_per_tick, &mut samples);
        samples
    }

    #[test]
    fn it_is_played_again_and_again_at_any_rate() {
        let data: Vec<u8> = [100_i16, 200, 300].iter().flat_map(|it| it.to_le_bytes()).collect();
        let music = Music::read(&wav(1, 16, 1, 8000, &data), false).expect("music");
        assert_eq!(plays(music.clone(), 1, 7), [100, 200, 300, 100, 200, 300, 100]);
        assert_eq!(plays(music, 2, 8), [100, 150, 200, 250, 300, 200, 100, 150]);
    }

    #[test]
    fn g711_with_a_header_and_without_is_the_same_music() {
        let data: Vec<u8> = (0..200).collect();
        for (kind, is_a_law) in [(7, false), (6, true)] {
            let bare = Music::read(&data, is_a_law);
            assert_eq!(Music::read(&wav(kind, 8, 1, 8000, &data), !is_a_law), bare);
            assert_eq!(bare.expect("music").0.len(), 200);
        }
    }

    #[test]
    fn wide_band_is_halved_and_the_pitch_stays() {
        let tone = |n: i32| (8000.0 * (n as f32 * 0.2).sin()) as i16;
        let data: Vec<u8> = (0..1600).flat_map(|n| tone(n).to_le_bytes()).collect();
        let music = Music::read(&wav(1, 16, 1, 16_000, &data), false).expect("music");
        assert_eq!(music.0.len(), 800);
        let crossings =
            |samples: &[i16]| samples.windows(2).filter(|pair| pair[0] < 0 && pair[1] >= 0).count();
        // A filter begins with what rings before the first sample.
        let settled = crossings(&music.0[100..]);
        assert!(settled.abs_diff(1400 / 31) <= 1, "{settled}");
    }

    #[test]
    fn what_is_no_music_is_said_to_be_none() {
        let fine = [0; 64];
        for (file, error) in [
            (Vec::new(), NotMusic::Empty),
            (wav(1, 16, 1, 8000, &[]), NotMusic::Empty),
            (wav(1, 16, 2, 8000, &fine), NotMusic::Format),
            (wav(1, 16, 1, 44_100, &fine), NotMusic::Format),
            (wav(1, 24, 1, 8000, &fine), NotMusic::Format),
            (wav(3, 32, 1, 8000, &fine), NotMusic::Format),
            (b"RIFF\0\0\0\0AVI ".to_vec(), NotMusic::Broken),
            (b"RIFF".to_vec(), NotMusic::Broken),
            (b"RIFF\0\0\0\0WAVEfmt \xff\xff\xff\xff".to_vec(), NotMusic::Broken),
            (b"RIFF\0\0\0\0WAVEdata\x04\0\0\0abcd".to_vec(), NotMusic::Broken),
            (vec![0; Music::LONGEST_FILE as usize + 1], NotMusic::TooLarge),
        ] {
            assert_eq!(Music::read(&file, false), Err(error));
        }
    }

    #[test]
    fn a_length_beyond_the_end_means_the_rest() {
        let mut file = wav(7, 8, 1, 8000, &[1; 50]);
        let place = file.len() - 54;
        file[place..place + 4].fill(0xff);
        assert_eq!(Music::read(&file, false).expect("music").0.len(), 50);
    }
}
