//! Ranges of numbers, and what matches them in the dial plans of switches.

use std::fmt;
use std::str::FromStr;

/// Longer numbers are none that a dial plan has in a row.
const MOST_DIGITS: usize = 15;

/// Numbers in a row, all with as many digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumberRange {
    first: String,
    last: String,
}

/// Text that names no numbers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a number, or FIRST-LAST with as many digits each")]
pub struct NotNumbers(String);

impl NumberRange {
    /// The first.
    pub fn first(&self) -> &str {
        &self.first
    }

    /// The last.
    pub fn last(&self) -> &str {
        &self.last
    }

    /// It is one of them.
    pub fn contains(&self, number: &str) -> bool {
        number.len() == self.first.len()
            && (self.first.as_str()..=self.last.as_str()).contains(&number)
    }

    /// They have a number in common.
    pub fn overlaps(&self, other: &NumberRange) -> bool {
        self.contains(&other.first) || other.contains(&self.first)
    }

    /// The first of them that begins with these digits.
    pub fn first_with(&self, prefix: &str) -> Option<String> {
        let (first, last) = (self.first.get(..prefix.len())?, self.last.get(..prefix.len())?);
        let zeros = "0".repeat(self.first.len() - prefix.len());
        match (first..=last).contains(&prefix) {
            true if first == prefix => Some(self.first.clone()),
            true => Some(format!("{prefix}{zeros}")),
            false => None,
        }
    }
}

/// `5000-5999` or `5001`
impl FromStr for NumberRange {
    type Err = NotNumbers;

    fn from_str(text: &str) -> Result<Self, NotNumbers> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let is_number = |number: &str| {
            (1..=MOST_DIGITS).contains(&number.len())
                && number.bytes().all(|byte| byte.is_ascii_digit())
        };
        match is_number(first) && is_number(last) && first.len() == last.len() && first <= last {
            true => Ok(Self { first: first.to_owned(), last: last.to_owned() }),
            false => Err(NotNumbers(text.to_owned())),
        }
    }
}

impl fmt::Display for NumberRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => f.write_str(&self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

/// The digits that may stand in a place, the lowest and the highest.
type Place = (u8, u8);

/// Every number from `first` to `last`, as a few patterns of places.
fn patterns(first: &[u8], last: &[u8]) -> Vec<Vec<Place>> {
    let (Some((&low, first_rest)), Some((&high, last_rest))) =
        (first.split_first(), last.split_first())
    else {
        return vec![Vec::new()];
    };
    let behind = |digit: u8, rest: Vec<Vec<Place>>| {
        rest.into_iter().map(move |rest| [vec![(digit, digit)], rest].concat())
    };
    if low == high {
        return behind(low, patterns(first_rest, last_rest)).collect();
    }
    let any = vec![(b'0', b'9'); first_rest.len()];
    let (zeros, nines) = (vec![b'0'; first_rest.len()], vec![b'9'; first_rest.len()]);
    let (mut found, mut tail) = (Vec::new(), Vec::new());
    let (mut from, mut to) = (low, high);
    if first_rest != zeros {
        found.extend(behind(low, patterns(first_rest, &nines)));
        from += 1;
    }
    if last_rest != nines {
        tail.extend(behind(high, patterns(&zeros, last_rest)));
        to -= 1;
    }
    if from <= to {
        found.push([vec![(from, to)], any].concat());
    }
    found.extend(tail);
    found
}

fn all(ranges: &[NumberRange]) -> impl Iterator<Item = Vec<Place>> {
    ranges.iter().flat_map(|range| patterns(range.first.as_bytes(), range.last.as_bytes()))
}

/// One of some digits, where `any` stands for every digit.
fn place((low, high): Place, any: &str) -> String {
    let (low, high) = (char::from(low), char::from(high));
    match (low, high) {
        ('0', '9') => any.to_owned(),
        _ if low == high => low.to_string(),
        _ => format!("[{low}-{high}]"),
    }
}

/// As extensions of Asterisk.
pub(super) fn asterisk_patterns(ranges: &[NumberRange]) -> Vec<String> {
    let pattern = |places: Vec<Place>| {
        let text: String = places.iter().map(|digits| place(*digits, "X")).collect();
        // Without a class of digits it is the number itself.
        let is_number = places.iter().all(|(low, high)| low == high);
        if is_number { text } else { format!("_{text}") }
    };
    all(ranges).map(pattern).collect()
}

/// As a regular expression.
pub(super) fn regex(ranges: &[NumberRange]) -> String {
    let pattern = |places: Vec<Place>| -> String {
        places.into_iter().map(|digits| place(digits, "[0-9]")).collect()
    };
    let patterns: Vec<String> = all(ranges).map(pattern).collect();
    format!("^({})$", patterns.join("|"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(text: &str) -> Vec<NumberRange> {
        text.split(',').map(|range| range.parse().unwrap()).collect()
    }

    #[test]
    fn ranges_are_a_few_patterns_of_asterisk_and_one_regular_expression() {
        for (text, asterisk, expression) in [
            ("5000-5999", "_5XXX", "^(5[0-9][0-9][0-9])$"),
            ("5001", "5001", "^(5001)$"),
            ("5001-5050", "_500[1-9] _50[1-4]X 5050", "^(500[1-9]|50[1-4][0-9]|5050)$"),
            ("09-11,7", "09 _1[0-1] 7", "^(09|1[0-1]|7)$"),
            ("0-9", "_X", "^([0-9])$"),
        ] {
            assert_eq!(asterisk_patterns(&ranges(text)).join(" "), asterisk);
            assert_eq!(regex(&ranges(text)), expression);
        }
    }

    #[test]
    fn the_patterns_of_a_range_fit_each_of_its_numbers_once_and_no_other() {
        for (first, last) in [(0, 999), (7, 7), (99, 100), (123, 457), (199, 801), (5, 995)] {
            let text = format!("{first:03}-{last:03}");
            let patterns: Vec<_> = all(&ranges(&text)).collect();
            for number in 0..1000 {
                let digits = format!("{number:03}");
                let fits = |places: &&Vec<Place>| {
                    let mut both = places.iter().zip(digits.bytes());
                    both.all(|((low, high), digit)| (*low..=*high).contains(&digit))
                };
                let wanted = usize::from((first..=last).contains(&number));
                assert_eq!(patterns.iter().filter(fits).count(), wanted, "{text}: {digits}");
            }
        }
    }

    #[test]
    fn the_first_number_of_a_range_that_begins_with_some_digits_is_found() {
        for (range, prefix, found) in [
            ("5000-5999", "5", Some("5000")),
            ("5000-5999", "59", Some("5900")),
            ("5020-5999", "50", Some("5020")),
            ("5000-5999", "5999", Some("5999")),
            ("5000-5999", "4", None),
            ("5000-5999", "60", None),
            ("5000-5999", "50000", None),
            ("5000-5999", "+5", None),
        ] {
            let range: NumberRange = range.parse().unwrap();
            assert_eq!(range.first_with(prefix).as_deref(), found, "{range} {prefix}");
        }
    }

    #[test]
    fn what_is_no_range_is_said() {
        for text in ["", "-", "5000-499", "5000-60000", "50a0", "5000-5999-6000", "+49"] {
            assert_eq!(text.parse::<NumberRange>(), Err(NotNumbers(text.to_owned())));
        }
    }
}
