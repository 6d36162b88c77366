//! Bodies of operations: read strictly, with errors that name the field.

use super::{OperationLabel, RestState, is_id, shortened};
use crate::http::body::read_whole;
use crate::http::error::HttpError;
use crate::http::gws_json::VOICE;
use crate::model::{
    AgentState, CallId, DeviceId, DialString, Digits, NotDialable, NotReadyReason, Number,
    Operation, Reason, Refusal, UnknownWord, UserData,
};
use axum::extract::{FromRequest, Request};
use axum::http::header;
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

/// Of a type other than it must be.
macro_rules! wrong_type {
    ($field:expr, $wanted:literal, $found:expr) => {
        bad(
            $field,
            match $found {
                Value::Null => concat!("Parameter '{}' must be ", $wanted, ", not null."),
                Value::Bool(_) => concat!("Parameter '{}' must be ", $wanted, ", not a boolean."),
                Value::Number(_) => concat!("Parameter '{}' must be ", $wanted, ", not a number."),
                Value::String(_) => concat!("Parameter '{}' must be ", $wanted, ", not a string."),
                Value::Array(_) => concat!("Parameter '{}' must be ", $wanted, ", not an array."),
                Value::Object(_) => concat!("Parameter '{}' must be ", $wanted, ", not an object."),
            },
        )
    };
}
/// A body: `{"operationName": …, …}`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct OperationBody {
    /// `operationName`.
    pub(super) operation: Result<Operation, Refusal>,
    /// What came with it.
    pub(super) parameters: Parameters,
}

/// The other fields of a body. Unknown ones are let be; a `null` is as good as absent.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Parameters(BTreeMap<String, Value>);

/// The channels that a session is to be opened on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AskedChannels {
    /// Voice is among them.
    pub(super) voice: bool,
    /// Those that do not exist here, each once.
    pub(super) missing: Vec<String>,
}

impl FromRequest<RestState> for OperationBody {
    type Rejection = HttpError;

    async fn from_request(request: Request, rest: &RestState) -> Result<Self, HttpError> {
        must_be_json(&request)?;
        let label = request.extensions().get::<OperationLabel>().cloned().unwrap_or_default();
        let bytes = read_whole(request, rest.body_limit).await?;
        let body = Self::parse(&bytes)?;
        if let Ok(operation) = body.operation {
            label.name(operation.as_str());
        }
        Ok(body)
    }
}

fn must_be_json(request: &Request) -> Result<(), HttpError> {
    let media_type = request.headers().get(header::CONTENT_TYPE);
    match media_type.and_then(|value| value.to_str().ok()).is_some_and(is_json) {
        true => Ok(()),
        false => Err(HttpError::new(
            Reason::UnsupportedMediaType,
            "Content-Type must be application/json.",
        )),
    }
}

/// The members of a body that is a JSON object, each once.
pub(super) async fn read_fields(
    request: Request,
    limit: usize,
) -> Result<Map<String, Value>, HttpError> {
    must_be_json(&request)?;
    let bytes = read_whole(request, limit).await?;
    let JsonFields(fields) = object(&bytes)?;
    Ok(fields.into_iter().collect())
}

fn object(bytes: &[u8]) -> Result<JsonFields, Refusal> {
    serde_json::from_slice(bytes).map_err(|error| {
        Refusal::new(Reason::InvalidInput, "The body is not a JSON object: {}")
            .quoting(shortened(&error.to_string()))
    })
}

/// `application/json`, whatever its parameters.
fn is_json(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

impl OperationBody {
    /// It ends the contact-centre session of its user.
    pub(super) fn ends_session(&self) -> bool {
        self.operation == Ok(Operation::EndContactCenterSession)
    }

    /// The channels that it opens a session on; `None` of those that it can not be read with, and
    /// of other operations.
    pub(super) fn asked_channels(&self) -> Option<AskedChannels> {
        if self.operation != Ok(Operation::StartContactCenterSession) {
            return None;
        }
        let mut words = self.parameters.channel_words().ok()?;
        let voice = words.remove(VOICE);
        Some(AskedChannels { voice, missing: words.into_iter().map(shortened).collect() })
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        let JsonFields(mut fields) = object(bytes)?;
        match fields.remove("operationName") {
            None | Some(Value::Null) => Err(Refusal::missing("operationName")),
            Some(Value::String(name)) => Ok(Self {
                operation: name.parse().map_err(|_: UnknownWord| unknown_operation(&name)),
                parameters: Parameters(fields),
            }),
            Some(other) => Err(wrong_type!("operationName", "a string", &other)),
        }
    }
}

/// There is no such operation on this resource.
pub(super) fn unknown_operation(name: &str) -> Refusal {
    Refusal::new(Reason::Forbidden, "Operation '{}' does not exist on this resource.")
        .quoting(shortened(name))
}

impl Parameters {
    fn value(&self, field: &str) -> Option<&Value> {
        self.0.get(field).filter(|value| !value.is_null())
    }

    fn text(&self, field: &str) -> Result<Option<&str>, Refusal> {
        match self.value(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong_type!(field, "a string", other)),
        }
    }

    /// A word of one of our vocabularies; case matters. `pattern` names the words.
    pub(super) fn word<W: FromStr<Err = UnknownWord>>(
        &self,
        field: &str,
        pattern: &'static str,
    ) -> Result<Option<W>, Refusal> {
        let Some(text) = self.text(field)? else {
            return Ok(None);
        };
        text.parse()
            .map(Some)
            .map_err(|_: UnknownWord| bad(field, pattern).quoting(shortened(text)))
    }

    /// A telephone number.
    pub(super) fn number(&self, field: &str) -> Result<Option<Number>, Refusal> {
        self.text(field)?.map(|text| number(field, text)).transpose()
    }

    /// A telephone number that must be there.
    pub(super) fn required_number(&self, field: &str) -> Result<DialString, Refusal> {
        let text = self.text(field)?.ok_or_else(|| Refusal::missing(field))?;
        dial_string(field, text)
    }

    /// The call a URI names.
    pub(super) fn call_uri(&self, field: &str) -> Result<Option<CallId>, Refusal> {
        self.text(field)?.map(|text| call_of(field, text)).transpose()
    }

    /// `userData`: an object of texts; an integer of 64 bits or a boolean is taken as it is written.
    pub(super) fn user_data(&self) -> Result<UserData, Refusal> {
        let fields = match self.value("userData") {
            None => return Err(Refusal::missing("userData")),
            Some(Value::Object(fields)) => fields,
            Some(other) => return Err(wrong_type!("userData", "an object", other)),
        };
        let pairs = fields.iter().map(|(key, value)| match value {
            Value::String(text) => Ok((key.clone(), text.clone())),
            Value::Bool(_) => Ok((key.clone(), value.to_string())),
            Value::Number(number) if !number.is_f64() => Ok((key.clone(), number.to_string())),
            // It would come out in other digits than it went in with.
            Value::Number(_) => Err(bad(
                &format!("userData.{}", shortened(key)),
                "Parameter '{}' must be a string, not a number that is no integer of 64 bits.",
            )),
            Value::Null | Value::Array(_) | Value::Object(_) => {
                Err(wrong_type!(&format!("userData.{}", shortened(key)), "a string", value))
            }
        });
        let pairs = pairs.collect::<Result<Vec<_>, _>>()?;
        UserData::new(pairs).map_err(|_| Refusal::too_much_user_data("userData"))
    }

    /// The same, where it may be left out.
    pub(super) fn user_data_if_any(&self) -> Result<UserData, Refusal> {
        self.value("userData").map_or_else(|| Ok(UserData::default()), |_| self.user_data())
    }

    /// `key` of a call's data.
    pub(super) fn user_data_key(&self) -> Result<String, Refusal> {
        let key = self.text("key")?.ok_or_else(|| Refusal::missing("key"))?;
        match UserData::is_key(key) {
            true => Ok(key.to_owned()),
            false => Err(Refusal::too_much_user_data("key")),
        }
    }

    /// `workMode` of NotReady: AfterCallWork or AuxWork. Another one is left out.
    pub(super) fn work_mode(&self) -> Result<Option<AgentState>, Refusal> {
        Ok(match self.text("workMode")? {
            Some("AfterCallWork") => Some(AgentState::AfterCallWork),
            Some("AuxWork") => Some(AgentState::AuxWork),
            Some(_) | None => None,
        })
    }

    /// `reason` of a state in which the agent is not ready.
    pub(super) fn reason(&self) -> Result<Option<NotReadyReason>, Refusal> {
        let reason = self.text("reason")?.filter(|text| !text.is_empty());
        reason.map(str::parse).transpose().map_err(|_| {
            let pattern = "Parameter '{}' must be 1 to 255 printable characters.";
            Refusal::parameter(Reason::InvalidInput, "reason", pattern)
        })
    }

    /// The device a URI names.
    pub(super) fn device_uri(&self, field: &str) -> Result<Option<DeviceId>, Refusal> {
        self.text(field)?.map(|text| device_of(field, text)).transpose()
    }

    /// `destination: {"phoneNumber": …}`
    pub(super) fn destination(&self) -> Result<DialString, Refusal> {
        match self.value("destination") {
            None => Err(Refusal::missing("destination")),
            Some(Value::Object(fields)) => {
                phone_number("destination.phoneNumber", fields.get("phoneNumber"))
            }
            Some(other) => Err(wrong_type!("destination", "an object with phoneNumber", other)),
        }
    }

    /// `participant: {"phoneNumber": …}`, or the bare number.
    pub(super) fn participant(&self) -> Result<DialString, Refusal> {
        match self.value("participant") {
            None => Err(Refusal::missing("participant")),
            Some(Value::Object(fields)) => {
                phone_number("participant.phoneNumber", fields.get("phoneNumber"))
            }
            bare => phone_number("participant", bare),
        }
    }

    /// `channels: ["voice", …]`: each word once, and one at least.
    fn channel_words(&self) -> Result<BTreeSet<&str>, Refusal> {
        let channels = match self.value("channels") {
            None => return Err(Refusal::missing("channels")),
            Some(Value::Array(channels)) => channels,
            Some(other) => return Err(wrong_type!("channels", "an array of strings", other)),
        };
        if channels.is_empty() {
            return Err(bad("channels", "Parameter '{}' is empty."));
        }
        let word = |channel: &'_ Value| match channel {
            Value::String(_) => Ok(()),
            other => Err(wrong_type!("channels", "an array of strings", other)),
        };
        channels.iter().try_for_each(word)?;
        Ok(channels.iter().filter_map(Value::as_str).collect())
    }

    /// `channels`, voice among them.
    pub(super) fn channels(&self) -> Result<(), Refusal> {
        let words = self.channel_words()?;
        match words.first() {
            Some(word) if !words.contains(VOICE) => {
                let pattern = "Parameter '{}': '{}' is not one of voice.";
                Err(bad("channels", pattern).quoting(shortened(word)))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The same, where it may be left out.
    pub(super) fn channels_if_any(&self) -> Result<(), Refusal> {
        self.value("channels").map_or(Ok(()), |_| self.channels())
    }

    /// `digits`: what a telephone can dial.
    pub(super) fn digits(&self) -> Result<Digits, Refusal> {
        let text = self.text("digits")?.ok_or_else(|| Refusal::missing("digits"))?;
        let digits = text.parse().ok().filter(|_| text.len() <= DialString::LONGEST);
        digits.ok_or_else(|| {
            Refusal::parameter(
                Reason::InvalidInput,
                "digits",
                "Parameter '{}' must be 1 to 64 of 0-9, *, #, A-D.",
            )
        })
    }
}

fn phone_number(field: &str, value: Option<&Value>) -> Result<DialString, Refusal> {
    match value {
        None | Some(Value::Null) => Err(Refusal::missing(field)),
        Some(Value::String(text)) => dial_string(field, text),
        Some(other) => Err(wrong_type!(field, "a string", other)),
    }
}

/// A number or extension, which names nothing else.
pub(super) fn number(field: &str, text: &str) -> Result<Number, Refusal> {
    dial_string(field, text).map(Number::from)
}

fn dial_string(field: &str, text: &str) -> Result<DialString, Refusal> {
    let not_one = |_: NotDialable| {
        Refusal::parameter(Reason::InvalidInput, field, "Parameter '{}' is not a telephone number.")
    };
    text.parse().map_err(not_one)
}

/// Of a URI as a parameter, in bytes.
pub(super) const LONGEST_URI: usize = 2048;

/// The device that a URI names.
fn device_of(field: &str, uri: &str) -> Result<DeviceId, Refusal> {
    id_of(field, uri, "devices", "Parameter '{}' is not the URI of a device.").map(DeviceId::from)
}

/// The call that a URI names.
fn call_of(field: &str, uri: &str) -> Result<CallId, Refusal> {
    id_of(field, uri, "calls", "Parameter '{}' is not the URI of a call.").map(CallId::from)
}

/// The id in a URI of a resource of this collection, by its path; the host is whatever name the
/// client knows us by, and nothing is ever fetched.
fn id_of(
    field: &str,
    uri: &str,
    collection: &str,
    pattern: &'static str,
) -> Result<String, Refusal> {
    let not_one = || bad(field, pattern);
    if uri.len() > LONGEST_URI || uri.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(not_one());
    }
    let path = match split_scheme(uri) {
        Some((scheme, rest))
            if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https") =>
        {
            let rest = rest.strip_prefix("//").ok_or_else(not_one)?;
            rest.find('/').and_then(|slash| rest.get(slash..)).ok_or_else(not_one)?
        }
        Some(_) => return Err(not_one()),
        None if uri.starts_with("//") => return Err(not_one()),
        None if uri.contains('/') => uri,
        None => return Err(not_one()),
    };
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let segments: Vec<&str> =
        path.trim_start_matches('/').trim_end_matches('/').split('/').collect();
    let in_it = match segments.as_slice() {
        ["api", "v2", rest @ ..] => rest,
        rest => rest,
    };
    let id = match in_it {
        ["me", of, id] | [of, id] if *of == collection => unescaped(id),
        _ => return Err(Refusal::not_found(shortened(path))),
    };
    id.filter(|id| is_id(id)).ok_or_else(not_one)
}

/// RFC 3986 3.1: letters, digits, `+ - .` up to the first colon.
fn split_scheme(uri: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = uri.split_once(':')?;
    let is_scheme = !scheme.is_empty()
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    is_scheme.then_some((scheme, rest))
}

fn unescaped(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let high = char::from(rest.next()?).to_digit(16)?;
        let low = char::from(rest.next()?).to_digit(16)?;
        bytes.push((high * 16 + low) as u8);
    }
    String::from_utf8(bytes).ok()
}

/// A parameter cannot be what it is.
fn bad(field: &str, pattern: &'static str) -> Refusal {
    Refusal::parameter(Reason::InvalidInput, field, pattern)
}

/// A JSON object in which no field comes twice, at any depth: two readers could take two different
/// ones.
struct JsonFields(BTreeMap<String, Value>);

impl<'de> Deserialize<'de> for JsonFields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = JsonFields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<JsonFields, A::Error> {
                Ok(JsonFields(unique(map)?.into_iter().collect()))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

fn unique<'de, A: MapAccess<'de>>(mut map: A) -> Result<Map<String, Value>, A::Error> {
    let mut fields = Map::new();
    while let Some(key) = map.next_key::<String>()? {
        if fields.contains_key(&key) {
            return Err(A::Error::custom(format!("field '{}' comes twice", shortened(&key))));
        }
        let UniqueValue(value) = map.next_value()?;
        fields.insert(key, value);
    }
    Ok(fields)
}

/// Any JSON value, with objects such as those of [`JsonFields`].
struct UniqueValue(Value);

impl<'de> Deserialize<'de> for UniqueValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }

            fn visit_unit<E: Error>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
                let mut values = Vec::new();
                while let Some(UniqueValue(value)) = seq.next_element()? {
                    values.push(value);
                }
                Ok(values.into())
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Value, A::Error> {
                unique(map).map(Value::Object)
            }
        }

        deserializer.deserialize_any(Any).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Scope;

    fn device(uri: &str) -> Result<String, Reason> {
        device_of("targetDeviceUri", uri).map(|id| id.to_string()).map_err(|refusal| refusal.reason)
    }

    #[test]
    fn a_device_uri_is_resolved_by_its_path_whatever_the_host() {
        let id = "9c14cad7-17c4-48d0-8492-7cf0ff92c224";
        for uri in [
            format!("http://localhost:8080/api/v2/devices/{id}"),
            format!("HTTPS://elsewhere.example/api/v2/devices/{id}/"),
            format!("http://[::1]:8080/api/v2/devices/{id}?fields=*"),
            format!("/api/v2/devices/{id}"),
            format!("api/v2/devices/{id}"),
            format!("/devices/{id}#x"),
            format!("/api/v2/me/devices/{id}"),
            "/devices/9c14cad7%2D17c4-48d0-8492-7cf0ff92c224".to_owned(),
        ] {
            assert_eq!(device(&uri), Ok(id.to_owned()), "{uri}");
        }
    }

    #[test]
    fn no_other_uri_names_a_device() {
        let long = format!("/devices/{}", "a".repeat(10_000));
        for uri in [
            "sip:127.0.0.1:22;transport=tcp",
            "sip:169.254.169.254",
            "sip:[::1]",
            "tel:+15550100",
            "file:///devices/x",
            "http://",
            "http://host",
            "//host/devices/x",
            "devices",
            "",
            "/devices/a%0d%0ab",
            "/devices/a\r\nb",
            "/devices/%ff",
            "/devices/%4",
            "/devices/",
            "sip:user%0d%0a@host/devices/x",
            long.as_str(),
        ] {
            let reason = device(uri).expect_err(uri);
            assert!(matches!(reason, Reason::InvalidInput | Reason::NotFound), "{uri}: {reason}");
        }
        assert_eq!(device("http://host/api/v2/calls/x"), Err(Reason::NotFound));
        assert_eq!(device("/api/v2/devices/../devices/x"), Err(Reason::NotFound));
    }

    #[test]
    fn a_body_is_an_object_with_a_name() {
        let refused = |text: &str| {
            OperationBody::parse(text.as_bytes()).map_err(|refusal| refusal.reason).expect_err(text)
        };
        for text in [
            "",
            "{",
            "[]",
            "1",
            "null",
            "\"Coach\"",
            "{\"operationName\":1}",
            "{\"operationName\":\"a\",\"operationName\":\"b\"}",
            "{} {}",
        ] {
            assert_eq!(refused(text), Reason::InvalidInput, "{text}");
        }
        assert_eq!(refused("{}"), Reason::MissingParameter);
        assert_eq!(refused("{\"operationName\":null}"), Reason::MissingParameter);
        let deep = "[".repeat(100_000);
        assert_eq!(
            refused(&format!("{{\"operationName\":\"Coach\",\"x\":{deep}")),
            Reason::InvalidInput
        );
    }

    #[test]
    fn an_empty_work_mode_is_as_good_as_none_and_a_reason_is_text() {
        let parameters = |body: &str| OperationBody::parse(body.as_bytes()).unwrap().parameters;
        let empty = parameters(r#"{"operationName":"NotReady","workMode":"","reason":""}"#);
        assert_eq!((empty.work_mode(), empty.reason()), (Ok(None), Ok(None)));
        let number = parameters(r#"{"operationName":"NotReady","workMode":1,"reason":7}"#);
        assert!(number.work_mode().is_err() && number.reason().is_err());
    }

    #[test]
    fn no_field_comes_twice_at_any_depth() {
        for text in [
            r#"{"operationName":"Dial","userData":{"a":"1","a":"2"}}"#,
            r#"{"operationName":"Dial","x":[{"y":{"a":1,"b":2,"\u0061":3}}]}"#,
        ] {
            let refusal = OperationBody::parse(text.as_bytes()).expect_err(text);
            assert_eq!(refusal.reason, Reason::InvalidInput);
            assert!(refusal.to_string().contains("field 'a' comes twice"), "{refusal}");
        }
        let nested = r#"{"operationName":"Dial","a":{"a":[{"a":null},{"a":-1.5}]},"b":[true,"x"]}"#;
        let body = OperationBody::parse(nested.as_bytes()).expect("an operation");
        let Value::Object(mut whole) = serde_json::from_str(nested).expect("JSON") else {
            panic!()
        };
        whole.remove("operationName");
        assert_eq!(body.parameters, Parameters(whole.into_iter().collect()));
    }

    #[test]
    fn numbers_in_user_data_are_taken_as_they_are_written_or_not_at_all() {
        let read = |number: &str| {
            let text = format!(r#"{{"operationName":"Dial","userData":{{"x":{number}}}}}"#);
            OperationBody::parse(text.as_bytes()).expect(number).parameters.user_data()
        };
        for number in ["0", "-7", "18446744073709551615", "-9223372036854775808", "true"] {
            let data = read(number).expect(number);
            assert_eq!(data.pairs().collect::<Vec<_>>(), [("x", number)]);
        }
        for number in ["12345678901234567890123", "1.10", "1e22", "1.0", "-0"] {
            let refusal = read(number).expect_err(number);
            assert_eq!(refusal.reason, Reason::InvalidInput);
            let says = "Parameter 'userData.x' must be a string, not a number";
            assert!(refusal.to_string().starts_with(says), "{refusal}");
        }
    }

    #[test]
    fn an_unknown_word_is_named_with_what_may_stand_there() {
        let operation = OperationBody::parse(
            br#"{"operationName":"Coach","supervisorMonitoringScope":"agent"}"#,
        )
        .expect("an operation");
        let refusal = operation
            .parameters
            .word::<Scope>(
                "supervisorMonitoringScope",
                "Parameter '{}': '{}' is not one of Agent, Call.",
            )
            .expect_err("wrong case");
        assert_eq!(refusal.reason, Reason::InvalidInput);
        assert_eq!(
            refusal.to_string(),
            "Parameter 'supervisorMonitoringScope': 'agent' is not one of Agent, Call."
        );
    }

    #[test]
    fn a_number_can_smuggle_nothing() {
        for text in ["5001", "+49-30-123", "*72#", "a.b_c", "+1 (650) 466-1000"] {
            assert!(number("phoneNumber", text).is_ok(), "{text}");
        }
        for text in [
            "",
            "50 01;x",
            "sip:5001@evil",
            "5001;x=y",
            "5001\r\n",
            "5001%0d",
            "5001@evil",
            "５００１",
            &"1".repeat(65),
        ] {
            assert!(number("phoneNumber", text).is_err(), "{text}");
        }
    }
}
