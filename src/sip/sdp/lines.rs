//! The lines of a description on which a call depends, and where each stood.
//!
//! A reader of all of RFC 8866 refuses calls for lines that nobody here needs: a bandwidth with a
//! fraction, a user name with a space, a time beyond 64 bits. So only `v=`, `c=`, `m=` and `a=` go
//! to it, and `o=` as far as it can be read.

use super::{FaultLine, SdpError, SdpFault};
use sdp_types::ParserError;

/// Text of a line that is told, in characters.
const LONGEST_TOLD: usize = 100;

/// What is left of a description.
pub(super) struct SdpWriter<'a> {
    /// What the reader is given.
    pub(super) text: String,
    /// The lines of `text`: their numbers in the description, and how they stood there.
    from: Vec<(usize, &'a str)>,
    /// For each media line: its place in `from`, and that of its own connection.
    media: Vec<(usize, Option<usize>)>,
    /// The session's connection, by its place in `from`.
    connection: Option<usize>,
}

impl<'a> SdpWriter<'a> {
    /// Sorts the lines of a description.
    pub(super) fn of(description: &'a str) -> Result<SdpWriter<'a>, SdpFault> {
        let mut lines = SdpWriter {
            text: String::with_capacity(description.len()),
            from: Vec::new(),
            media: Vec::new(),
            connection: None,
        };
        let mut has_origin = false;
        for (number, line) in
            (1..).zip(description.split(['\r', '\n'].as_slice()).filter(|line| !line.is_empty()))
        {
            let value = line.get(2..).filter(|_| line.as_bytes().get(1) == Some(&b'='));
            let (Some(key), Some(value)) = (line.chars().next(), value) else {
                return Err(fault(SdpError::Unreadable, number, line));
            };
            let value = value.trim_end();
            match key {
                'o' if !has_origin && lines.media.is_empty() => {
                    has_origin = true;
                    lines.keep(number, line, &format!("o={}", origin(value)));
                }
                'c' => lines.keep_connection(number, line, value),
                'm' => {
                    let told =
                        media(value).ok_or_else(|| fault(SdpError::Unreadable, number, line))?;
                    lines.media.push((lines.from.len(), None));
                    lines.keep(number, line, &told);
                }
                'v' | 'a' => lines.keep(number, line, &format!("{key}={value}")),
                _ => {}
            }
        }
        Ok(lines)
    }

    fn keep(&mut self, number: usize, line: &'a str, told: &str) {
        self.from.push((number, line));
        self.text.push_str(told);
        self.text.push_str("\r\n");
    }

    /// Of several the first counts: they are for layers of a multicast, which nobody here takes
    /// (RFC 8866 5.7).
    fn keep_connection(&mut self, number: usize, line: &'a str, value: &str) {
        let at = self.from.len();
        let place = match self.media.last_mut() {
            Some((_, connection)) => connection,
            None => &mut self.connection,
        };
        if place.is_none() {
            *place = Some(at);
            self.keep(number, line, &format!("c={value}"));
        }
    }

    /// What the reader could not take.
    pub(super) fn unreadable(&self, error: &ParserError) -> SdpFault {
        let number = line_of(error).and_then(|number| number.checked_sub(1));
        self.at(SdpError::Unreadable, number)
    }

    /// Why a media line is not taken.
    pub(super) fn of_media(&self, error: SdpError, media: usize) -> SdpFault {
        let place = self.media.get(media);
        let at = match error {
            SdpError::Address | SdpError::Multicast => {
                place.and_then(|(line, connection)| connection.or(self.connection).or(Some(*line)))
            }
            _ => place.map(|(line, _)| *line),
        };
        self.at(error, at)
    }

    /// The last media line: where there are too many, the fault is there.
    pub(super) fn of_last(&self, error: SdpError) -> SdpFault {
        self.at(error, self.media.last().map(|(line, _)| *line))
    }

    fn at(&self, error: SdpError, place: Option<usize>) -> SdpFault {
        match place.and_then(|place| self.from.get(place)) {
            Some((number, line)) => fault(error, *number, line),
            None => error.into(),
        }
    }
}

/// Text is told of lines that can hold neither a key nor anybody's name.
fn fault(error: SdpError, number: usize, line: &str) -> SdpFault {
    let is_told = ["v=", "c=", "m="].iter().any(|key| line.starts_with(key));
    let visible = |char: &char| (' '..='~').contains(char) && !matches!(char, '"' | '\\');
    let text = if is_told { line } else { "" };
    SdpFault {
        error,
        line: Some(FaultLine {
            number,
            text: text.chars().filter(visible).take(LONGEST_TOLD).collect(),
        }),
    }
}

/// An origin that the reader takes. A user name may have spaces, so it is read from its end; a
/// version that is no number of 64 bits counts as 0: nothing here depends on either.
fn origin(value: &str) -> String {
    let words: Vec<&str> = value.split_ascii_whitespace().collect();
    let from_end =
        |place: usize| words.len().checked_sub(place).and_then(|at| words.get(at)).copied();
    let id = from_end(5).filter(|_| words.len() >= 6).unwrap_or("0");
    let version: u64 = from_end(4).and_then(|version| version.parse().ok()).unwrap_or(0);
    format!("- {id} {version} IN IP4 0.0.0.0")
}

/// A media line with one space between its words. One without formats is no fault by itself:
/// refused lines come so (RFC 3264 6), and of any other nothing can be taken.
fn media(value: &str) -> Option<String> {
    let mut words = value.split_ascii_whitespace();
    let (media, port, proto) = (words.next()?, words.next()?, words.next()?);
    let formats: Vec<&str> = words.collect();
    let formats = if formats.is_empty() { NO_FORMAT.to_owned() } else { formats.join(" ") };
    Some(format!("m={media} {port} {proto} {formats}"))
}

/// Stands where a media line has no formats.
pub(super) const NO_FORMAT: &str = "-";

fn line_of(error: &ParserError) -> Option<usize> {
    match error {
        ParserError::InvalidLineFormat(line, _)
        | ParserError::InvalidFieldEncoding(line, _)
        | ParserError::InvalidFieldFormat(line, _)
        | ParserError::MissingField(line, _)
        | ParserError::FieldTrailingData(line, _)
        | ParserError::InvalidVersion(line, _)
        | ParserError::MultipleVersions(line)
        | ParserError::MultipleConnections(line) => Some(*line),
        _ => None,
    }
}
