use super::activity::string_enum;
use super::{CallId, DeviceId, Number, UnknownWord, UserId};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

string_enum! {
    /// Why a request or command was refused. Each is one row of `http/error.rs`.
    Reason {
        /// A required parameter is missing.
        MissingParameter,
        /// Not valid in the current state.
        InvalidState,
        /// The operation does not exist here or is forbidden to everybody.
        Forbidden,
        /// Our own fault or the backend's.
        Internal,
        /// The backend can not be reached; asking again may work.
        Unavailable,
        /// This user may not.
        NotPermitted,
        /// No such resource, or not one the user may know of.
        NotFound,
        /// The input is not what it should be.
        InvalidInput,
        /// The input is larger than allowed.
        TooLarge,
        /// The input is of the wrong media type.
        UnsupportedMediaType,
        /// Another supervisor monitors this device.
        InUse,
        /// The caller is not known.
        NotAuthenticated,
        /// Asked too often.
        TooManyRequests,
    } "the reasons of the contract"
}

/// What a refusal is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A device, by its id.
    Device(DeviceId),
    /// A telephone number.
    Number(Number),
    /// A call, by its id.
    Call(CallId),
    /// A user, by the login name.
    User(UserId),
    /// A parameter of the request, by its name.
    Parameter(String),
    /// A resource, by its path.
    Resource(String),
}

impl Subject {
    /// Every kind, as the contract spells it.
    pub const KINDS: &'static [&'static str] =
        &["device", "number", "call", "user", "parameter", "resource"];

    /// The kind in one word, as the contract spells it.
    pub fn kind(&self) -> &'static str {
        match self {
            Subject::Device(_) => "device",
            Subject::Number(_) => "number",
            Subject::Call(_) => "call",
            Subject::User(_) => "user",
            Subject::Parameter(_) => "parameter",
            Subject::Resource(_) => "resource",
        }
    }

    /// The subject of this kind and name; `None` for a kind of a newer contract.
    pub fn of_kind(kind: &str, name: &str) -> Option<Self> {
        Some(match kind {
            "device" => Subject::Device(name.into()),
            "number" => Subject::Number(name.into()),
            "call" => Subject::Call(name.into()),
            "user" => Subject::User(name.into()),
            "parameter" => Subject::Parameter(name.to_owned()),
            "resource" => Subject::Resource(name.to_owned()),
            _ => return None,
        })
    }

    /// The name by which a text calls it.
    pub fn name(&self) -> &str {
        match self {
            Subject::Device(device) => device.as_str(),
            Subject::Number(number) => number.as_str(),
            Subject::Call(call) => call.as_str(),
            Subject::User(user) => user.as_str(),
            Subject::Parameter(name) | Subject::Resource(name) => name,
        }
    }
}

/// A refusal: nothing has been changed. What it is about is data; [`fmt::Display`] makes the text,
/// once, where it leaves the program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    /// The row of the table of errors.
    pub reason: Reason,
    /// What was refused or stands in the way; `None` where the text says it all.
    pub subject: Option<Subject>,
    /// For people. The first [`Refusal::PLACE`] in it stands for the subject's name, the second for
    /// `quoted`.
    pub pattern: Cow<'static, str>,
    /// What the caller sent, where the text repeats it.
    pub quoted: Option<String>,
}

impl Refusal {
    /// Where the subject's name, and then what is quoted, stands in a pattern.
    pub const PLACE: &'static str = "{}";

    /// A refusal about nothing in particular, with its text.
    pub fn new(reason: Reason, text: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, subject: None, pattern: text.into(), quoted: None }
    }

    /// A refusal about something: `pattern` has [`Refusal::PLACE`] where its name stands.
    pub fn about(reason: Reason, subject: Subject, pattern: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, subject: Some(subject), pattern: pattern.into(), quoted: None }
    }

    /// A refusal about a device, by its id.
    pub fn device(reason: Reason, id: &DeviceId, pattern: impl Into<Cow<'static, str>>) -> Self {
        Self::about(reason, Subject::Device(id.clone()), pattern)
    }

    /// A refusal about a telephone number.
    pub fn number(reason: Reason, number: &Number, pattern: impl Into<Cow<'static, str>>) -> Self {
        Self::about(reason, Subject::Number(number.clone()), pattern)
    }

    /// The same refusal about the same thing under another name.
    pub fn renamed(self, subject: Subject) -> Self {
        Self { subject: Some(subject), ..self }
    }

    /// The text for people.
    pub fn text(&self) -> Cow<'_, str> {
        let fills = self.subject.iter().map(Subject::name).chain(self.quoted.as_deref());
        let mut pieces = self.pattern.as_ref();
        let mut text = String::new();
        for fill in fills {
            let Some((before, behind)) = pieces.split_once(Self::PLACE) else {
                break;
            };
            text.extend([before, fill]);
            pieces = behind;
        }
        match pieces.len() == self.pattern.len() {
            true => Cow::Borrowed(&self.pattern),
            false => Cow::Owned(text + pieces),
        }
    }

    /// A required parameter is missing.
    pub fn missing(field: &str) -> Self {
        Self::parameter(Reason::MissingParameter, field, "Parameter '{}' is required.")
    }

    /// A parameter is not what it should be.
    pub fn parameter(reason: Reason, field: &str, pattern: impl Into<Cow<'static, str>>) -> Self {
        Self::about(reason, Subject::Parameter(field.to_owned()), pattern)
    }

    /// The same refusal, which repeats what the caller sent.
    pub fn quoting(self, quoted: impl Into<String>) -> Self {
        Self { quoted: Some(quoted.into()), ..self }
    }

    /// A call's data would be more than a call may have, or has a key that cannot be.
    pub fn too_much_user_data(field: &str) -> Self {
        const PATTERN: &str = "Parameter '{}': a call's data has at most 400 keys of 1 to 256 \
                               bytes, 65536 bytes in all, and no control characters.";
        Self::parameter(Reason::InvalidInput, field, PATTERN)
    }

    /// What a supervisor's leg can not be asked to do.
    pub fn supervisors_leg() -> Self {
        Self::new(
            Reason::Forbidden,
            "A supervisor's leg can only be answered, released and switched.",
        )
    }

    /// Nobody can be mixed into a call of which the sound is not decoded.
    pub fn relayed() -> Self {
        Self::new(
            Reason::InvalidState,
            "The sound of the call is in G.729, which is relayed without being decoded: nobody \
             else can join it.",
        )
    }

    /// MuteCall while muted, UnmuteCall while not.
    pub fn muted_already(muted: bool) -> Self {
        Self::new(
            Reason::InvalidState,
            if muted { "The call is already muted." } else { "The call is not muted." },
        )
    }

    /// No such resource, by its path: what the caller sent and nothing that it may not know.
    pub fn not_found(path: impl fmt::Display) -> Self {
        Self::about(
            Reason::NotFound,
            Subject::Resource(path.to_string()),
            "Resource '{}' was not found.",
        )
    }

    /// No such device.
    pub fn no_device(id: &DeviceId) -> Self {
        Self::about(
            Reason::NotFound,
            Subject::Device(id.clone()),
            "Resource '/devices/{}' was not found.",
        )
    }

    /// No such call.
    pub fn no_call(id: &CallId) -> Self {
        Self::about(
            Reason::NotFound,
            Subject::Call(id.clone()),
            "Resource '/calls/{}' was not found.",
        )
    }

    /// No device has this number.
    pub fn no_number(number: &Number) -> Self {
        Self::about(
            Reason::NotFound,
            Subject::Number(number.clone()),
            "No device has the number '{}'.",
        )
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::UserData;

    #[test]
    fn a_text_names_its_subject_where_the_pattern_says() {
        let refusal = Refusal::about(
            Reason::Internal,
            Subject::Device("d-1".into()),
            "Device '{}' is not registered.",
        );
        assert_eq!(refusal.to_string(), "Device 'd-1' is not registered.");
        let renamed = refusal.renamed(Subject::Number("5001".into()));
        assert_eq!(renamed.to_string(), "Device '5001' is not registered.");
        let word = Refusal::parameter(Reason::InvalidInput, "{}", "'{}': '{}' is no word: {}.");
        assert_eq!(word.clone().quoting("{}?").to_string(), "'{}': '{}?' is no word: {}.");
        assert_eq!(word.to_string(), "'{}': '{}' is no word: {}.");
        assert_eq!(
            Refusal::new(Reason::Internal, "A text with {}.").to_string(),
            "A text with {}."
        );
    }

    #[test]
    fn too_much_data_is_refused_with_the_bounds_that_hold() {
        let text = Refusal::too_much_user_data("userData").to_string();
        for bound in [UserData::MOST_KEYS, UserData::LONGEST_KEY, UserData::MOST_BYTES] {
            assert!(text.contains(&format!(" {bound} ")), "{bound}: {text}");
        }
    }

    #[test]
    fn every_kind_of_subject_has_its_word() {
        for kind in Subject::KINDS {
            let subject = Subject::of_kind(kind, "x").expect("a kind of the contract");
            assert_eq!((subject.kind(), subject.name()), (*kind, "x"));
        }
        assert_eq!(Subject::of_kind("planet", "x"), None);
    }
}
