//! Programs that others wrote as children of the test, and the sound files that they read and write.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use tokio::process::{Child, Command};
use undertone::demo::phone::audio::Tone;

/// The size of the header of a WAV file in its simplest form, in bytes.
pub const WAV_HEADER: usize = 44;
const SPEECH_DBFS: f32 = -16.0;
const SPEECH_SECONDS: usize = 40;

/// What a program says at −16 dBFS, for longer than a test takes.
pub fn speech(hz: f32) -> Vec<i16> {
    let mut tone = Tone::new(hz as u32);
    (0..SPEECH_SECONDS * 50).flat_map(|_| tone.frame(hz, SPEECH_DBFS)).collect()
}

/// Starts a program with nothing else of its user's than what is in its place; what it says goes to
/// the log.
pub fn start(program: &str, arguments: &[String], place: &Path, log: &Path) -> Child {
    let output = fs::File::create(log).unwrap();
    Command::new(program)
        .args(arguments)
        .current_dir(place)
        .env("HOME", place)
        .env("TERM", "dumb")
        .stdin(Stdio::piped())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("{program} does not start ({error}); ./test installs it"))
}

/// Writes a 16-bit WAV file of one channel at 8 kHz.
pub fn write_wav(path: &Path, samples: &[i16]) {
    let size = samples.len() as u32 * 2;
    let mut bytes = Vec::new();
    bytes.extend(b"RIFF");
    bytes.extend((36 + size).to_le_bytes());
    bytes.extend(b"WAVEfmt ");
    bytes.extend(16_u32.to_le_bytes());
    bytes.extend([1, 0, 1, 0]);
    bytes.extend(8000_u32.to_le_bytes());
    bytes.extend(16_000_u32.to_le_bytes());
    bytes.extend([2, 0, 16, 0]);
    bytes.extend(b"data");
    bytes.extend(size.to_le_bytes());
    bytes.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
    fs::write(path, bytes).unwrap();
}

/// The samples of a 16-bit WAV file, also of one whose writer did not come to fill in the sizes:
/// one channel, at 8 kHz. The tones lie far below.
pub fn read_wav(bytes: &[u8]) -> Vec<i16> {
    let chunk =
        |name: &[u8]| bytes.windows(4).position(|window| window == name).expect("a chunk") + 8;
    let format = chunk(b"fmt ");
    let channels = usize::from(u16::from_le_bytes([bytes[format + 2], bytes[format + 3]]));
    let rate = u32::from_le_bytes([
        bytes[format + 4],
        bytes[format + 5],
        bytes[format + 6],
        bytes[format + 7],
    ]) as usize;
    let samples = bytes[chunk(b"data")..].chunks_exact(2);
    samples
        .step_by(channels * rate / 8000)
        .map(|pair| i16::from_le_bytes([pair[0], pair[1]]))
        .collect()
}
