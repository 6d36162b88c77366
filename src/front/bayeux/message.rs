//! Messages: text ⇄ types. Quiet.
//!
//! What comes in is sorted by its channel into [`Kind`]; a message that breaks a rule is a kind too, so that it gets its own
//! reply and the rest of its batch goes on. `data` is never looked into: it leaves byte for byte as it came.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

/// Names a session: random, alphanumeric, at least 128 bits. Whoever else knows it gets nothing by it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub Arc<str>);

impl Serialize for ClientId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// One message as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// Echoed in the reply. A number comes back as a string.
    pub id: Option<String>,
    /// The session it claims.
    pub client: Option<ClientId>,
    /// What it is.
    pub kind: Kind,
}

/// What a message is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `/meta/handshake`
    Handshake {
        /// `supportedConnectionTypes`, if it came.
        connection_types: Option<Vec<String>>,
    },
    /// `/meta/connect`
    Connect {
        /// `connectionType`, if it came.
        connection_type: Option<String>,
        /// `advice`, if it came.
        advice: Option<ClientAdvice>,
    },
    /// `/meta/subscribe`
    Subscribe(Subscription),
    /// `/meta/unsubscribe`
    Unsubscribe(Subscription),
    /// `/meta/disconnect`
    Disconnect,
    /// Any other channel.
    Publish {
        /// Where to; not checked yet.
        channel: String,
        /// Raw JSON, if it came.
        data: Option<Arc<str>>,
    },
    /// No channel, or one that is no string.
    NoChannel,
    /// An id with other characters than letters and digits.
    BadId {
        /// Its channel.
        channel: String,
    },
}

/// What a client asks of one connect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientAdvice {
    /// How long to hold it.
    pub timeout: Option<Duration>,
    /// How long until its next one.
    pub interval: Option<Duration>,
}

/// The `subscription` field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Subscription {
    /// Absent.
    Missing,
    /// Neither a string nor an array of strings.
    Invalid,
    /// A string.
    One(String),
    /// An array.
    Many(Vec<String>),
}

/// The request as a whole cannot be answered message by message: HTTP 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Neither an object nor an array of objects.
    #[error("the body is not an array of Bayeux messages (line {line}, column {column})")]
    NotMessages {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// `[]`
    #[error("the array is empty")]
    Empty,
    /// More than allowed.
    #[error("more than {0} messages in one request")]
    TooMany(usize),
}

#[derive(Deserialize)]
struct Wire<'a> {
    channel: Option<Value>,
    id: Option<Value>,
    #[serde(rename = "clientId")]
    client_id: Option<Value>,
    #[serde(rename = "supportedConnectionTypes")]
    connection_types: Option<Value>,
    #[serde(rename = "connectionType")]
    connection_type: Option<Value>,
    advice: Option<Value>,
    subscription: Option<Value>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
}

/// Keeps `"data":null` apart from no data.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Reads a request: an array of messages, or one bare.
pub fn parse(body: &[u8], max_messages: usize) -> Result<Vec<Incoming>, BatchError> {
    let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
    let wires: Vec<Wire<'_>> = match first {
        Some(b'{') => serde_json::from_slice(body).map(|one| vec![one]).map_err(not_messages)?,
        _ => serde_json::from_slice(body).map_err(not_messages)?,
    };
    match wires.len() {
        0 => Err(BatchError::Empty),
        count if count > max_messages => Err(BatchError::TooMany(max_messages)),
        _ => Ok(wires.into_iter().map(sort).collect()),
    }
}

fn not_messages(error: serde_json::Error) -> BatchError {
    BatchError::NotMessages {
        line: error.line(),
        column: error.column(),
    }
}

/// Ids and client ids longer than this are none.
const LONGEST_ID: usize = 128;

fn sort(wire: Wire<'_>) -> Incoming {
    let client = match wire.client_id {
        Some(Value::String(text)) if text.len() <= LONGEST_ID => Some(ClientId(text.into())),
        _ => None,
    };
    let (id, id_is_bad) = match wire.id {
        None | Some(Value::Null) => (None, false),
        Some(Value::String(text)) if is_id(&text) => (Some(text), false),
        Some(Value::Number(number)) if is_id(&number.to_string()) => (Some(number.to_string()), false),
        Some(_) => (None, true),
    };
    let Some(Value::String(channel)) = wire.channel else {
        return Incoming {
            id,
            client,
            kind: Kind::NoChannel,
        };
    };
    let kind = match channel.as_str() {
        _ if id_is_bad => Kind::BadId { channel },
        "/meta/handshake" => Kind::Handshake {
            connection_types: wire.connection_types.map(words),
        },
        "/meta/connect" => Kind::Connect {
            connection_type: match wire.connection_type {
                Some(Value::String(text)) => Some(text),
                _ => None,
            },
            advice: wire.advice.map(|advice| client_advice(&advice)),
        },
        "/meta/subscribe" => Kind::Subscribe(subscription(wire.subscription)),
        "/meta/unsubscribe" => Kind::Unsubscribe(subscription(wire.subscription)),
        "/meta/disconnect" => Kind::Disconnect,
        _ => Kind::Publish {
            channel,
            data: wire.data.map(|raw| raw.get().into()),
        },
    };
    Incoming { id, client, kind }
}

fn is_id(text: &str) -> bool {
    (1..=LONGEST_ID).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn words(value: Value) -> Vec<String> {
    match value {
        Value::Array(values) => values
            .into_iter()
            .filter_map(|value| match value {
                Value::String(text) => Some(text),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    }
}

fn client_advice(value: &Value) -> ClientAdvice {
    let milliseconds = |field: &str| value.get(field).and_then(Value::as_u64).map(Duration::from_millis);
    ClientAdvice {
        timeout: milliseconds("timeout"),
        interval: milliseconds("interval"),
    }
}

fn subscription(value: Option<Value>) -> Subscription {
    match value {
        None | Some(Value::Null) => Subscription::Missing,
        Some(Value::String(text)) => Subscription::One(text),
        Some(Value::Array(values)) => {
            let count = values.len();
            let texts = words(Value::Array(values));
            if texts.len() == count && count > 0 {
                Subscription::Many(texts)
            } else {
                Subscription::Invalid
            }
        }
        Some(_) => Subscription::Invalid,
    }
}

/// A channel or pattern, checked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pattern {
    /// One channel.
    Exact(String),
    /// `/foo/*`: one more segment. Holds `/foo/`.
    Children(String),
    /// `/foo/**`: one or more. Holds `/foo/`.
    Descendants(String),
}

const LONGEST_CHANNEL: usize = 255;

impl Pattern {
    /// Reads one; `None` when the name breaks the grammar: `/` and segments, `*` and `**` at the end only.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > LONGEST_CHANNEL {
            return None;
        }
        let segments = text.strip_prefix('/')?;
        let (parents, last) = segments
            .rsplit_once('/')
            .map_or((None, segments), |(parents, last)| (Some(parents), last));
        if !parents.is_none_or(|parents| parents.split('/').all(is_token)) {
            return None;
        }
        match last {
            "*" => Some(Pattern::Children(text.strip_suffix('*')?.to_owned())),
            "**" => Some(Pattern::Descendants(text.strip_suffix("**")?.to_owned())),
            token if is_token(token) => Some(Pattern::Exact(text.to_owned())),
            _ => None,
        }
    }

    /// The pattern takes in this channel.
    pub fn matches(&self, channel: &str) -> bool {
        match self {
            Pattern::Exact(name) => name == channel,
            Pattern::Children(parent) => channel
                .strip_prefix(parent.as_str())
                .is_some_and(|rest| !rest.is_empty() && !rest.contains('/')),
            Pattern::Descendants(parent) => channel.strip_prefix(parent.as_str()).is_some_and(|rest| !rest.is_empty()),
        }
    }

    /// The name when it is one channel.
    pub fn exact(&self) -> Option<&str> {
        match self {
            Pattern::Exact(name) => Some(name),
            Pattern::Children(_) | Pattern::Descendants(_) => None,
        }
    }
}

/// The text's token characters and those that CometD takes besides.
fn is_token(segment: &str) -> bool {
    !segment.is_empty()
        && segment
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_!~()$@ #+.{}".contains(&byte))
}

/// A reply to one message. Key order is CometD's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reply {
    /// Absent when the message had none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// The message's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Whether it was done.
    pub successful: bool,
    /// `code:arguments:text`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'static str>,
    /// Of a handshake.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<&'static str>,
    /// Of a handshake.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub supported_connection_types: Option<&'static [&'static str]>,
    /// Of a handshake.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<ClientId>,
    /// Echoed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscription: Option<Subscription>,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<Advice>,
}

/// What a client is to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// Which way.
    pub reconnect: Reconnect,
    /// Milliseconds until then.
    pub interval: u64,
    /// Milliseconds a connect is held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
}

/// How a client goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reconnect {
    /// With a connect.
    Retry,
    /// With a handshake: the session is gone.
    Handshake,
    /// Not at all.
    None,
}

/// An event as it goes to every session that takes it: made once, shared.
pub fn event(channel: &str, data: &str) -> Arc<str> {
    let name = Value::from(channel);
    format!(r#"{{"data":{data},"channel":{name}}}"#).into()
}

/// The body of an answer: events first, then replies, always an array.
pub fn body(events: &[Arc<str>], replies: &[Reply]) -> String {
    let length: usize = events.iter().map(|event| event.len() + 1).sum();
    let mut text = String::with_capacity(length + 160 * replies.len() + 2);
    text.push('[');
    for event in events {
        separate(&mut text);
        text.push_str(event);
    }
    for reply in replies {
        separate(&mut text);
        let reply = serde_json::to_string(reply).unwrap_or_else(|_| unreachable!("a reply is text, numbers and lists of text"));
        text.push_str(&reply);
    }
    let _ = text.write_char(']');
    text
}

fn separate(text: &mut String) {
    if text.len() > 1 {
        text.push(',');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(text: &str) -> Incoming {
        let mut messages = parse(text.as_bytes(), 10).expect(text);
        assert_eq!(messages.len(), 1);
        messages.remove(0)
    }

    #[test]
    fn a_bare_object_is_as_good_as_an_array() {
        let bare = one(r#" {"channel":"/meta/disconnect","id":"1","clientId":"c"}"#);
        let wrapped = one(r#"[{"channel":"/meta/disconnect","id":1,"clientId":"c"}]"#);
        assert_eq!(bare, wrapped);
        assert_eq!(bare.id.as_deref(), Some("1"));
    }

    #[test]
    fn what_is_no_batch_of_objects_is_refused_as_a_whole() {
        for text in [
            "",
            "[",
            "1",
            "[1]",
            "[null]",
            "[[]]",
            "\"x\"",
            "{}{}",
            "[{}",
            "\u{feff}[]",
            "{\"channel\":\"/a\",\"channel\":\"/b\"}",
        ] {
            assert!(matches!(parse(text.as_bytes(), 10), Err(BatchError::NotMessages { .. })), "{text}");
        }
        assert_eq!(parse(b"[]", 10), Err(BatchError::Empty));
        assert_eq!(parse(b"[{},{},{}]", 2), Err(BatchError::TooMany(2)));
        assert!(parse(b"[{\"channel\":\"\xff\"}]", 2).is_err());
    }

    #[test]
    fn a_message_that_breaks_a_rule_stands_alone() {
        assert_eq!(one(r#"{"id":"1"}"#).kind, Kind::NoChannel);
        assert_eq!(one(r#"{"channel":7}"#).kind, Kind::NoChannel);
        assert!(matches!(one(r#"{"channel":"/meta/connect","id":"a b"}"#).kind, Kind::BadId { .. }));
        let subscribe = |text: &str| match one(&format!(r#"{{"channel":"/meta/subscribe"{text}}}"#)).kind {
            Kind::Subscribe(subscription) => subscription,
            other => panic!("{other:?}"),
        };
        assert_eq!(subscribe(""), Subscription::Missing);
        assert_eq!(subscribe(r#","subscription":5"#), Subscription::Invalid);
        assert_eq!(subscribe(r#","subscription":[]"#), Subscription::Invalid);
        assert_eq!(subscribe(r#","subscription":["/a",1]"#), Subscription::Invalid);
        assert_eq!(subscribe(r#","subscription":"/a""#), Subscription::One("/a".to_owned()));
    }

    #[test]
    fn data_keeps_its_bytes_and_null_is_data() {
        let data = |text: &str| match one(&format!(r#"{{"channel":"/x/a"{text}}}"#)).kind {
            Kind::Publish { data, .. } => data,
            other => panic!("{other:?}"),
        };
        assert_eq!(data(""), None);
        assert_eq!(data(r#","data":null"#).as_deref(), Some("null"));
        assert_eq!(
            data(r#","data":{"n":1.0e400,"s":"\u00e9 🎧"}"#).as_deref(),
            Some(r#"{"n":1.0e400,"s":"\u00e9 🎧"}"#)
        );
    }

    #[test]
    fn wildcards_take_in_what_the_text_says() {
        let matches = |pattern: &str, channel: &str| Pattern::parse(pattern).expect(pattern).matches(channel);
        assert!(matches("/foo/*", "/foo/bar"));
        for channel in ["/foo", "/foobar", "/foo/bar/boo", "/foo/"] {
            assert!(!matches("/foo/*", channel), "{channel}");
        }
        assert!(matches("/foo/**", "/foo/bar"));
        assert!(matches("/foo/**", "/foo/bar/boo"));
        assert!(!matches("/foo/**", "/foo"));
        assert!(matches("/**", "/foo"));
        assert!(matches("/*", "/foo"));
        assert!(!matches("/*", "/foo/bar"));
    }

    #[test]
    fn names_that_break_the_grammar_are_none() {
        for text in [
            "", "/", "foo", "/a//b", "/a/", "/**/a", "/a/*/b", "/a*", "/a/***", "/a\n", "/ä", "/a/%", "/a?b",
        ] {
            assert_eq!(Pattern::parse(text), None, "{text:?}");
        }
        assert_eq!(
            Pattern::parse("/a b/c.d").and_then(|p| p.exact().map(str::to_owned)),
            Some("/a b/c.d".to_owned())
        );
    }

    #[test]
    fn a_body_has_events_first() {
        let reply = Reply {
            channel: Some("/meta/connect".to_owned()),
            successful: true,
            ..Reply::default()
        };
        let events = [event("/x/a", "1"), event("/x/\"b", "{}")];
        assert_eq!(
            body(&events, &[reply]),
            r#"[{"data":1,"channel":"/x/a"},{"data":{},"channel":"/x/\"b"},{"channel":"/meta/connect","successful":true}]"#
        );
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes, 10);
        }

        #[test]
        fn no_text_of_the_right_letters_panics(text in r#"[\[\]{}:," a-z/*0-9\\u.-]{0,120}"#) {
            let _ = parse(text.as_bytes(), 10);
            let _ = Pattern::parse(&text);
        }
    }
}
