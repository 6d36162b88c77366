//! The alphabet of RFC 3261 25.1 and a cursor over a header value.

/// `token`.
pub(crate) const TOKEN: u8 = 1;
/// A host name.
pub(crate) const HOST: u8 = 2;
/// `userinfo`. '#' is none of RFC 3261, yet phones dial it; bytes of UTF-8 are let through.
pub(crate) const USER: u8 = 4;
/// A URI parameter, name or value.
pub(crate) const PARAM: u8 = 8;
/// What stands behind the `?` of a URI.
pub(crate) const HEADER: u8 = 16;
/// Any URI, anywhere.
pub(crate) const URI: u8 = 32;

static CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let it = byte as u8;
        let alphanumeric = it.is_ascii_alphanumeric();
        let mark = matches!(it, b'-' | b'_' | b'.' | b'!' | b'~' | b'*' | b'\'' | b'(' | b')');
        let token = alphanumeric
            || matches!(it, b'-' | b'.' | b'!' | b'%' | b'*' | b'_' | b'+' | b'`' | b'\'' | b'~');
        let any = alphanumeric || mark || it >= 0x80 || it == b'%';
        let param = any || token || matches!(it, b'[' | b']' | b'/' | b':' | b'&' | b'$' | b'=');
        let mut class = 0;
        if token {
            class |= TOKEN;
        }
        if alphanumeric || matches!(it, b'-' | b'.' | b'_') {
            class |= HOST;
        }
        if any || matches!(it, b'&' | b'=' | b'+' | b'$' | b',' | b';' | b'?' | b'/' | b':' | b'#')
        {
            class |= USER;
        }
        if param {
            class |= PARAM;
        }
        if param || matches!(it, b'?' | b',' | b';') {
            class |= HEADER;
        }
        if it > b' ' && !matches!(it, 0x7f | b'<' | b'>' | b'"') {
            class |= URI;
        }
        classes[byte] = class;
        byte += 1;
    }
    classes
}

pub(crate) fn is(class: u8, byte: u8) -> bool {
    CLASSES[usize::from(byte)] & class != 0
}

pub(crate) fn are(class: u8, text: &[u8]) -> bool {
    text.iter().all(|byte| is(class, *byte))
}

/// How many bytes of this class `text` begins with.
pub(crate) fn span(class: u8, text: &[u8]) -> usize {
    text.iter().position(|byte| !is(class, *byte)).unwrap_or(text.len())
}

pub(crate) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && are(TOKEN, text)
}

pub(crate) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// Where the first CR or LF is; eight bytes at a time, for this is where most of the time of
/// reading a message goes.
pub(crate) fn line_break(text: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::MAX / 255;
    const CRS: u64 = ONES * b'\r' as u64;
    const LFS: u64 = ONES * b'\n' as u64;
    // The lowest high bit set is that of the lowest zero byte.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & (ONES << 7);
    let (words, rest) = text.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let found = zeros(word ^ CRS) | zeros(word ^ LFS);
        if found != 0 {
            return Some(8 * index + (found.trailing_zeros() / 8) as usize);
        }
    }
    let found = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n'))?;
    Some(8 * words.len() + found)
}

pub(crate) fn trim(mut text: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = text
        && is_space(*first)
    {
        text = rest;
    }
    while let [rest @ .., last] = text
        && is_space(*last)
    {
        text = rest;
    }
    text
}

/// Digits only, no sign, no overflow.
pub(crate) fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |sum, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

#[derive(Clone)]
pub(crate) struct Scan<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    pub(crate) fn new(text: &'a [u8]) -> Scan<'a> {
        Scan { text, at: 0 }
    }

    pub(crate) fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        &self.text[self.at..]
    }

    pub(crate) fn done(&self) -> bool {
        self.at == self.text.len()
    }

    pub(crate) fn spaces(&mut self) {
        while self.peek().is_some_and(is_space) {
            self.at += 1;
        }
    }

    pub(crate) fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    pub(crate) fn take_while(&mut self, wanted: impl Fn(u8) -> bool) -> &'a [u8] {
        let start = self.at;
        while self.peek().is_some_and(&wanted) {
            self.at += 1;
        }
        &self.text[start..self.at]
    }

    pub(crate) fn take(&mut self, length: usize) -> &'a [u8] {
        let taken = &self.rest()[..length.min(self.text.len() - self.at)];
        self.at += taken.len();
        taken
    }

    pub(crate) fn token(&mut self) -> Option<&'a [u8]> {
        let token = self.take(span(TOKEN, self.rest()));
        (!token.is_empty()).then_some(token)
    }

    /// A quoted string, from its opening quote to its closing one, both included. `None`, and
    /// nothing taken, when there is none.
    pub(crate) fn quoted(&mut self) -> Option<&'a [u8]> {
        let start = self.at;
        if self.peek() != Some(b'"') {
            return None;
        }
        let mut at = start + 1;
        while let Some(byte) = self.text.get(at) {
            match byte {
                b'\\' => at += 2,
                b'"' => {
                    self.at = at + 1;
                    return Some(&self.text[start..self.at]);
                }
                _ => at += 1,
            }
        }
        None
    }
}

/// What a quoted string says; anything else as it is.
pub(crate) fn unquote(text: &[u8]) -> Vec<u8> {
    let [b'"', inner @ .., b'"'] = text else {
        return text.to_vec();
    };
    let mut said = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => said.extend(bytes.next()),
            byte => said.push(*byte),
        }
    }
    said
}

/// A quoted string that says `text`. Line ends, which no quoted string can hold, become spaces.
pub(crate) fn quote(text: &[u8]) -> Vec<u8> {
    let mut quoted = vec![b'"'];
    for byte in text {
        match byte {
            b'"' | b'\\' => quoted.extend([b'\\', *byte]),
            b'\r' | b'\n' => quoted.push(b' '),
            byte => quoted.push(*byte),
        }
    }
    quoted.push(b'"');
    quoted
}

/// Splits at commas that stand in no quoted string and in no angle brackets.
pub(crate) fn split_list(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let (mut quoted, mut bracketed, mut at) = (false, false, 0);
        while let Some(byte) = text.get(at) {
            match byte {
                b'\\' if quoted => at += 1,
                b'"' => quoted = !quoted,
                b'<' if !quoted => bracketed = true,
                b'>' if !quoted => bracketed = false,
                b',' if !quoted && !bracketed => {
                    rest = Some(&text[at + 1..]);
                    return Some(trim(&text[..at]));
                }
                _ => {}
            }
            at += 1;
        }
        rest = None;
        Some(trim(text))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_break_is_found_wherever_it_is() {
        for length in 0..40 {
            let mut text = vec![0x8au8; length];
            assert_eq!(line_break(&text), None);
            for at in (0..length).rev() {
                text[at] = 0x0c;
                assert_eq!(line_break(&text), (at + 1 < length).then_some(at + 1));
                text[at] = if at % 2 == 0 { b'\r' } else { b'\n' };
                assert_eq!(line_break(&text), Some(at));
            }
        }
    }
}
