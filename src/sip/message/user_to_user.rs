//! User-to-User (RFC 7433): what the two ends of a call tell each other of it.

use super::number::is_printable;
use super::scan::{split_list, trim, unquote};
use super::value::Params;

/// The protocol discriminators that data of an ISDN begins with where it is text (ITU-T Q.931,
/// table 4-26): user-specific, and IA5 characters.
const DISCRIMINATORS: [u8; 2] = [0x00, 0x04];

/// The texts of one field, a value a text, in order. Data in hexadecimal is decoded where it is
/// text that can be shown, with or without a discriminator of an ISDN before it; else it is left
/// as it is. Parameters are left out, and so is what can not be shown at all.
pub fn read_user_to_user(field: &[u8]) -> impl Iterator<Item = String> {
    split_list(field).filter_map(|value| {
        let (data, params) = split_data(value);
        let is_hex = Params::parse(params).is_ok_and(|params| {
            params.get("encoding").is_some_and(|it| unquote(it).eq_ignore_ascii_case(b"hex"))
        });
        let data = unquote(trim(data));
        let decoded = is_hex.then(|| decoded(&data)).flatten();
        decoded.or_else(|| shown(data))
    })
}

/// A value that says this text.
pub fn write_user_to_user(text: &str) -> String {
    let mut value = String::with_capacity(2 * text.len() + 13);
    for byte in text.bytes() {
        for digit in [byte >> 4, byte & 15] {
            value.extend(char::from_digit(u32::from(digit), 16));
        }
    }
    value + ";encoding=hex"
}

/// Data, and from its semicolon on the parameters.
fn split_data(value: &[u8]) -> (&[u8], &[u8]) {
    let (mut quoted, mut escaped) = (false, false);
    let end = value.iter().position(|byte| {
        let is_end = *byte == b';' && !quoted;
        quoted ^= *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && quoted && !escaped;
        is_end
    });
    value.split_at(end.unwrap_or(value.len()))
}

fn decoded(hex: &[u8]) -> Option<String> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let (pairs, rest) = hex.as_chunks::<2>();
    let byte = |&[high, low]: &[u8; 2]| u8::try_from(digit(high)? << 4 | digit(low)?).ok();
    let bytes: Vec<u8> = pairs.iter().map(byte).collect::<Option<_>>()?;
    let text = match bytes.as_slice() {
        [first, rest @ ..] if DISCRIMINATORS.contains(first) => rest.to_vec(),
        bytes => bytes.to_vec(),
    };
    shown(text).filter(|_| rest.is_empty())
}

/// Text that may be shown; `None` for any other, and for none.
fn shown(text: Vec<u8>) -> Option<String> {
    String::from_utf8(text).ok().filter(|text| !text.is_empty() && text.chars().all(is_printable))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(field: &str) -> Vec<String> {
        read_user_to_user(field.as_bytes()).collect()
    }

    #[test]
    fn hexadecimal_that_is_text_is_text_and_other_data_is_left_as_it_is() {
        for (field, expected) in [
            ("4b2d3437;encoding=hex", &["K-47"][..]),
            ("4B2D3437 ; purpose=isdn-uui ; content=isdn-uui ; encoding=HEX", &["K-47"]),
            ("044b2d3437;encoding=hex", &["K-47"]),
            ("004b2d3437;encoding=\"hex\"", &["K-47"]),
            ("c3bc;encoding=hex", &["ü"]),
            ("c3;encoding=hex", &["c3"]),
            ("4b2d3;encoding=hex", &["4b2d3"]),
            ("4b2d34xx;encoding=hex", &["4b2d34xx"]),
            ("0d0a;encoding=hex", &["0d0a"]),
            ("00;encoding=hex", &["00"]),
            ("4b2d3437", &["4b2d3437"]),
            ("K-47;encoding=ascii", &["K-47"]),
            ("\"a;b, \\\"c\\\"\";purpose=x", &["a;b, \"c\""]),
            ("4b;encoding=hex,  34 ;encoding=hex,x", &["K", "4", "x"]),
            ("4b;encoding=hex;;", &["4b"]),
            ("", &[]),
            (";encoding=hex", &[]),
            (",,", &[]),
            ("a\u{1b}[2J", &[]),
        ] {
            assert_eq!(read(field), expected, "{field}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_no_input_panics(
            text in "[^\\p{C}\\p{Zl}\\p{Zp}]{1,40}", any in prop::collection::vec(any::<u8>(), 0..60)
        ) {
            prop_assert_eq!(read(&write_user_to_user(&text)), [text]);
            prop_assert!(read_user_to_user(&any).all(|text| text.chars().all(is_printable)));
        }
    }
}
