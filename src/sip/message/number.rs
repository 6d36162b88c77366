//! Telephone numbers as URIs write them (RFC 3261 19.1.6, RFC 3966, RFC 4694), and text that is
//! shown to people.

use super::uri::{Scheme, Uri, unescape};

/// The longest number or name, in bytes: nothing longer is anybody's.
const LONGEST: usize = 128;

impl Uri {
    /// The number or name that a sip, sips or tel URI means, as it is written: what stands before
    /// the parameters of the user part (`;npdi`, `;rn=`, `;phone-context=`, `;isub=`; a password is
    /// no part of it), unescaped once. `None` when there is none, it is longer than 128 bytes, or
    /// it holds what cannot be printed.
    pub fn subscriber(&self) -> Option<String> {
        let raw = match self.scheme() {
            Scheme::Sip | Scheme::Sips => self.raw_user()?,
            Scheme::Tel => self.opaque(),
            Scheme::Other => return None,
        };
        let written = raw.split(|byte| matches!(byte, b';' | b'?')).next().unwrap_or_default();
        let text = String::from_utf8(unescape(written).into_owned()).ok()?;
        let fits = !text.is_empty() && text.len() <= LONGEST && text.chars().all(is_printable);
        fits.then_some(text)
    }

    /// The same without the visual separators of a telephone number (RFC 3966 5.1.1). A name stays
    /// as it is.
    pub fn number(&self) -> Option<String> {
        let is_telephone = self.scheme() == Scheme::Tel
            || self.param("user").is_some_and(|user| user.eq_ignore_ascii_case(b"phone"));
        self.subscriber().map(|text| without_separators(&text, is_telephone))
    }
}

/// Only what looks like a telephone number loses its separators. Hexadecimal digits (RFC 3966 3,
/// `phonedigit-hex`) count as digits only where a telephone number is announced: `a.b` is a name.
fn without_separators(text: &str, is_telephone: bool) -> String {
    let digits = text.strip_prefix('+').unwrap_or(text);
    let is_separator = |char| matches!(char, '-' | '.' | '(' | ')' | ' ');
    let is_digit = |char: char| {
        char.is_ascii_digit()
            || matches!(char, '*' | '#')
            || is_telephone && char.is_ascii_hexdigit()
    };
    let is_number = digits.chars().all(|char| is_separator(char) || is_digit(char))
        && digits.chars().any(is_digit);
    match is_number {
        true => text.chars().filter(|char| !is_separator(*char)).collect(),
        false => text.to_owned(),
    }
}

/// Whether a character may be shown: no control character, nothing that turns the direction of what
/// follows (Unicode Bidi_Control), no line or paragraph separator, and nothing invisible that makes
/// two names look the same.
pub fn is_printable(char: char) -> bool {
    let hidden = matches!(
        char,
        '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    );
    !char.is_control() && !hidden
}

/// Text for people: at most `most` characters, all of which may be shown. What is no UTF-8 becomes
/// U+FFFD.
pub fn printable(text: &[u8], most: usize) -> String {
    // No character is longer than four bytes: what comes behind so many is not looked at.
    let start = &text[..text.len().min(most.saturating_mul(8))];
    let shown = String::from_utf8_lossy(start);
    shown.chars().filter(|char| is_printable(*char)).take(most).collect()
}

#[cfg(test)]
mod tests {
    //! RFC 3261 19.1.6, RFC 3966 3 and 5, RFC 4694 3.

    use super::*;
    use proptest::prelude::*;

    fn number(uri: &str) -> Option<String> {
        Uri::parse(uri.as_bytes()).unwrap().number()
    }

    #[test]
    fn the_password_of_a_uri_is_shown_to_nobody() {
        let uri = Uri::parse(b"sip:anna:hunter2@192.0.2.1:5070;transport=tcp").unwrap();
        let shown = "sip:anna:<secret>@192.0.2.1:5070;transport=tcp";
        assert_eq!((uri.to_string(), format!("{uri:?}")), (shown.into(), format!("Uri({shown})")));
    }

    #[test]
    fn the_number_is_what_stands_before_the_parameters_whatever_decorates_it() {
        for uri in [
            "sip:5001@h",
            "sip:5001@h;user=phone",
            "sip:5001;phone-context=example.test@h;user=phone",
            "sip:5001;phone-context=+49@h:5060;user=phone",
            "sip:5001;npdi;rn=+4930555@h;user=phone",
            "sip:5001;npdi@h",
            "sip:5001;isub=1@h",
            "sip:5001;ext=7;cpc=payphone@h",
            "sip:50-01@h;user=phone",
            "sip:50-01@h",
            "sip:(50).01@h",
            "sip:50%2001@h",
            "sip:%35001@h",
            "sip:%35%30%30%31@h",
            "sip:5001:password@h",
            "sip:5001;npdi:password@h",
            "sips:5001@h",
            "tel:5001",
            "TEL:50.01;phone-context=example.test",
            "tel:5001;isub=12;rn=+1",
        ] {
            assert_eq!(number(uri).as_deref(), Some("5001"), "{uri}");
        }
        assert_eq!(number("sip:%2b49-30-123@h").as_deref(), Some("+4930123"));
        assert_eq!(number("tel:+49(30)123").as_deref(), Some("+4930123"));
        assert_eq!(number("tel:0a-f*%23").as_deref(), Some("0af*#"));
    }

    #[test]
    fn a_name_keeps_its_dots_and_dashes() {
        for (uri, name) in [
            ("sip:a.b@h", "a.b"),
            ("sip:front-desk@h", "front-desk"),
            ("sip:front-desk@h;user=phone", "front-desk"),
            ("sip:-.-@h", "-.-"),
            ("sip:50+01@h", "50+01"),
        ] {
            assert_eq!(number(uri).as_deref(), Some(name), "{uri}");
        }
    }

    #[test]
    fn nothing_that_cannot_be_printed_is_a_number() {
        let long = format!("sip:{}@h", "1".repeat(129));
        for uri in [
            "sip:h",
            "tel:",
            "tel:;rn=1",
            "sip:50%0d01@h",
            "sip:50%0001@h",
            "sip:%ff@h",
            "sip:%E2%80%AE5001@h",
            "mailto:5001",
            &long,
        ] {
            assert_eq!(number(uri), None, "{uri}");
        }
    }

    #[test]
    fn what_is_shown_turns_no_line_and_ends_none() {
        assert_eq!(
            printable("A\u{202e}nna\u{200b}\r\n\u{1b}[31m\u{2066}x".as_bytes(), 128),
            "Anna[31mx"
        );
        assert_eq!(printable("Müller".as_bytes(), 3), "Mül");
        assert_eq!(printable(b"M\xfcller", 128), "M\u{fffd}ller");
    }

    proptest! {
        #[test]
        fn separators_escapes_and_parameters_change_nothing(
            digits in "[0-9]{1,12}", plus in any::<bool>(), seed in any::<u64>()
        ) {
            let (mut written, mut chance) = (String::new(), seed);
            if plus {
                written.push('+');
            }
            for digit in digits.chars() {
                chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                match chance >> 61 {
                    0 => written.push_str(&format!("%{:02x}", digit as u32)),
                    1 => written.push_str(&format!("-{digit}")),
                    2 => written.push_str(&format!("{digit}.")),
                    3 => written.push_str(&format!("({digit})")),
                    _ => written.push(digit),
                }
            }
            let expected = format!("{}{digits}", if plus { "+" } else { "" });
            for uri in [
                format!("sip:{written}@h"),
                format!("sip:{written};npdi;rn=+1:pw@h:5060;user=phone"),
                format!("tel:{written};phone-context=x"),
            ] {
                prop_assert_eq!(number(&uri), Some(expected.clone()));
            }
        }

        #[test]
        fn no_text_becomes_a_number_with_something_hidden_in_it(text in ".{0,40}") {
            if let Ok(uri) = Uri::sip(Some(text.as_bytes()), "h", None)
                && let Some(number) = uri.number()
            {
                prop_assert!(number.chars().all(is_printable) && number.len() <= LONGEST);
            }
        }
    }
}
