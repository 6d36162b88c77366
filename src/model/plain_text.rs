use std::fmt::{self, Write};

/// The character can stand in a line for people: it is no control character and no format character
/// that breaks the line or turns its direction (Unicode 9.3 and 23.2).
pub fn is_plain(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Shows text of others in a terminal: what is not plain is escaped, and after
/// [`PlainText::LONGEST`] characters the text is cut.
#[derive(Clone, Copy, Debug)]
pub struct PlainText<T>(pub T);

impl<T> PlainText<T> {
    /// Characters that are shown at most.
    pub const LONGEST: usize = 300;
}

impl<T: fmt::Display> fmt::Display for PlainText<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = PlainLine { to: f, left: PlainText::<T>::LONGEST, is_cut: false };
        match write!(line, "{}", self.0) {
            // The text goes no further than it is shown.
            Err(fmt::Error) if line.is_cut => f.write_char('…'),
            written => written,
        }
    }
}

struct PlainLine<'a, 'f> {
    to: &'a mut fmt::Formatter<'f>,
    left: usize,
    is_cut: bool,
}

impl Write for PlainLine<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            let Some(left) = self.left.checked_sub(1) else {
                self.is_cut = true;
                return Err(fmt::Error);
            };
            self.left = left;
            match is_plain(c) {
                true => self.to.write_char(c)?,
                false => write!(self.to, "{}", c.escape_default())?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_plain_is_escaped_and_what_is_long_is_cut() {
        let shown = |text: &str| PlainText(text).to_string();
        assert_eq!(shown("\u{1b}[2Jä\r\n\u{9b}\u{202e}"), r"\u{1b}[2Jä\r\n\u{9b}\u{202e}");
        assert_eq!(shown(r"a\b 'ü'"), r"a\b 'ü'");
        let longest = "é".repeat(PlainText::<&str>::LONGEST);
        assert_eq!(shown(&longest), longest);
        assert_eq!(shown(&format!("{longest}x")), format!("{longest}…"));
    }
}
