//! Messages: text ⇄ types. Quiet.
//!
//! What comes in is sorted by its channel into [`MessageKind`]; a message that breaks a rule is a
//! kind too, so that it gets its own reply and the rest of its batch goes on. `data` is never
//! looked into: it leaves byte for byte as it came.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Names a session: random, alphanumeric, at least 128 bits. Another that knows it gets nothing by
/// it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub Arc<str>);

impl Serialize for ClientId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// One message as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientMessage {
    /// Echoed in the reply. A number comes back as a string.
    pub id: Option<String>,
    /// The session it claims.
    pub client: Option<ClientId>,
    /// Its extensions.
    pub ext: Ext,
    /// What it is.
    pub kind: MessageKind,
}

/// The extensions of a message that we know; others are ignored, as the text wants it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ext {
    /// `ext.ack` of a handshake: the client can acknowledge.
    pub acks: bool,
    /// `ext.ack` of a connect: the last batch that came.
    pub ack: Option<i64>,
    /// `ext.timesync`
    pub timesync: Option<Timesync>,
    /// `ext.replay` of a subscription.
    pub replay: Option<Replay>,
}

/// What a client says of its clock: milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timesync {
    /// Its own time when it sent.
    pub tc: i64,
    /// The network's delay, as it believes.
    pub lag: i64,
    /// Its clock's offset, as it believes.
    pub offset: i64,
}

/// From where on a subscription wants to hear what has been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replay {
    /// After this number, on every channel of the subscription; −1: nothing, −2: all that is kept.
    After(i64),
    /// The same, for each channel its own.
    Each(BTreeMap<String, i64>),
}

impl Replay {
    /// After which number this channel is to be replayed.
    pub fn after(&self, channel: &str) -> Option<u64> {
        let after = match self {
            Replay::After(number) => *number,
            Replay::Each(numbers) => *numbers.get(channel)?,
        };
        match after {
            -2 => Some(0),
            _ => u64::try_from(after).ok(),
        }
    }
}

/// What a message is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// `/meta/handshake`
    Handshake {
        /// `supportedConnectionTypes`, if it came.
        connection_types: Option<Vec<String>>,
        /// `advice`, if it came.
        advice: Option<ClientAdvice>,
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
    /// Data nested deeper than other clients can be expected to read.
    TooDeep {
        /// Its channel.
        channel: String,
    },
    /// No channel, or one that is no string.
    NoChannel,
    /// An id with other characters than letters and digits.
    BadId {
        /// Its channel.
        channel: String,
    },
}

impl MessageKind {
    /// The channel it came on.
    pub fn channel(&self) -> Option<&str> {
        match self {
            MessageKind::Handshake { .. } => Some("/meta/handshake"),
            MessageKind::Connect { .. } => Some("/meta/connect"),
            MessageKind::Subscribe(_) => Some("/meta/subscribe"),
            MessageKind::Unsubscribe(_) => Some("/meta/unsubscribe"),
            MessageKind::Disconnect => Some("/meta/disconnect"),
            MessageKind::Publish { channel, .. }
            | MessageKind::BadId { channel }
            | MessageKind::TooDeep { channel } => Some(channel),
            MessageKind::NoChannel => None,
        }
    }
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

/// The reply to what cannot be answered message by message, where there is no HTTP status to say
/// so.
pub fn malformed(error: &BatchError) -> BayeuxReply {
    BayeuxReply {
        error: Some(match error {
            BatchError::NotMessages { .. } => "400::messages_malformed",
            BatchError::Empty => "400::messages_missing",
            BatchError::TooMany(_) => "413::too_many_messages",
        }),
        ..BayeuxReply::default()
    }
}

/// The replies to messages that cannot be taken for now: come again after so long.
pub fn come_again(
    messages: Vec<ClientMessage>,
    error: &'static str,
    after: Duration,
) -> Vec<BayeuxReply> {
    let reply = |message: ClientMessage| {
        let is_handshake = matches!(message.kind, MessageKind::Handshake { .. });
        BayeuxReply {
            channel: message.kind.channel().map(str::to_owned),
            id: message.id,
            error: Some(error),
            advice: Some(Advice {
                reconnect: if is_handshake { Reconnect::Handshake } else { Reconnect::Retry },
                interval: after.as_millis() as u64,
                timeout: None,
                multiple_clients: None,
            }),
            ..BayeuxReply::default()
        }
    };
    messages.into_iter().map(reply).collect()
}

#[derive(Deserialize)]
struct RawMessage<'a> {
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
    ext: Option<Value>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
}

/// Keeps `"data":null` apart from no data.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Reads a request: an array of messages, or one bare.
pub fn parse(body: &[u8], max_messages: usize) -> Result<Vec<ClientMessage>, BatchError> {
    let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
    let wires: Vec<RawMessage<'_>> = match first {
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
    BatchError::NotMessages { line: error.line(), column: error.column() }
}

/// Ids and client ids longer than this are none.
const LONGEST_ID: usize = 128;

fn sort(wire: RawMessage<'_>) -> ClientMessage {
    let client = match wire.client_id {
        Some(Value::String(text)) if text.len() <= LONGEST_ID => Some(ClientId(text.into())),
        _ => None,
    };
    let (id, id_is_bad) = match wire.id {
        None | Some(Value::Null) => (None, false),
        Some(Value::String(text)) if is_id(&text) => (Some(text), false),
        Some(Value::Number(number)) if is_id(&number.to_string()) => {
            (Some(number.to_string()), false)
        }
        Some(_) => (None, true),
    };
    let ext = wire.ext.as_ref().map(ext).unwrap_or_default();
    let Some(Value::String(channel)) = wire.channel else {
        return ClientMessage { id, client, ext, kind: MessageKind::NoChannel };
    };
    let kind = match channel.as_str() {
        _ if id_is_bad => MessageKind::BadId { channel },
        "/meta/handshake" => MessageKind::Handshake {
            connection_types: wire.connection_types.map(words),
            advice: wire.advice.map(|advice| client_advice(&advice)),
        },
        "/meta/connect" => MessageKind::Connect {
            connection_type: match wire.connection_type {
                Some(Value::String(text)) => Some(text),
                _ => None,
            },
            advice: wire.advice.map(|advice| client_advice(&advice)),
        },
        "/meta/subscribe" => MessageKind::Subscribe(subscription(wire.subscription)),
        "/meta/unsubscribe" => MessageKind::Unsubscribe(subscription(wire.subscription)),
        "/meta/disconnect" => MessageKind::Disconnect,
        _ if wire.data.is_some_and(|raw| is_too_deep(raw.get())) => {
            MessageKind::TooDeep { channel }
        }
        _ => MessageKind::Publish { channel, data: wire.data.map(|raw| raw.get().into()) },
    };
    ClientMessage { id, client, ext, kind }
}

fn ext(value: &Value) -> Ext {
    let ack = value.get("ack");
    let timesync = value.get("timesync").and_then(|sync| {
        let number = |field: &str| sync.get(field).and_then(whole_number);
        Some(Timesync {
            tc: number("tc")?,
            lag: number("l").unwrap_or(0),
            offset: number("o").unwrap_or(0),
        })
    });
    let replay = value.get("replay").and_then(|replay| match replay {
        Value::Object(each) => Some(Replay::Each(
            each.iter()
                .filter_map(|(channel, number)| Some((channel.clone(), whole_number(number)?)))
                .collect(),
        )),
        // Only to learn the present number.
        Value::Bool(true) => Some(Replay::After(-1)),
        // A number that is none of ours, however large: nothing is kept behind it, and the reply
        // says so.
        Value::Number(number) => {
            Some(Replay::After(whole_number(&Value::Number(number.clone())).unwrap_or(i64::MAX)))
        }
        _ => None,
    });
    Ext {
        acks: match ack {
            Some(Value::Object(fields)) => fields.get("enabled") == Some(&Value::Bool(true)),
            other => other == Some(&Value::Bool(true)),
        },
        ack: ack.and_then(whole_number),
        timesync,
        replay,
    }
}

/// JavaScript knows no integers: 5.0 is one, within what both sides can say exactly.
fn whole_number(value: &Value) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    value.as_i64().or_else(|| {
        value.as_f64().filter(|number| number.abs() < EXACT).map(|number| number as i64)
    })
}

/// As deep as serde_json reads.
const DEEPEST: usize = 128;

fn is_too_deep(json: &str) -> bool {
    // Most have fewer brackets than that in all, which is counted many bytes at a time.
    if json.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count() <= DEEPEST {
        return false;
    }
    let (mut depth, mut is_text, mut is_escaped) = (0usize, false, false);
    for byte in json.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_text => is_escaped = true,
            b'"' => is_text = !is_text,
            b'[' | b'{' if !is_text => depth += 1,
            b']' | b'}' if !is_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEEPEST {
            return true;
        }
    }
    false
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
    let milliseconds =
        |field: &str| value.get(field).and_then(Value::as_u64).map(Duration::from_millis);
    ClientAdvice { timeout: milliseconds("timeout"), interval: milliseconds("interval") }
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
    /// Reads one; `None` when the name breaks the grammar: `/` and segments, `*` and `**` at the
    /// end only.
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
            Pattern::Descendants(parent) => {
                channel.strip_prefix(parent.as_str()).is_some_and(|rest| !rest.is_empty())
            }
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
pub struct BayeuxReply {
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
    pub supported_connection_types: Option<Vec<&'static str>>,
    /// Of a handshake.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<ClientId>,
    /// Echoed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscription: Option<Subscription>,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<Advice>,
    /// Extensions.
    #[serde(skip_serializing_if = "ReplyExt::is_empty")]
    pub ext: ReplyExt,
}

/// The extensions of a reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReplyExt {
    /// Of a handshake `true`, of a connect the number of its batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ack: Option<AckExt>,
    /// The answer to a client's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timesync: Option<TimesyncReply>,
    /// Of a subscription with `ext.replay`, and of a handshake with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay: Option<ReplayReply>,
}

impl ReplyExt {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// `ext.ack` of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum AckExt {
    /// Of a handshake.
    Enabled(bool),
    /// Of a connect.
    Batch(u64),
}

/// `ext.timesync` of a reply, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TimesyncReply {
    /// The client's own, back.
    pub tc: i64,
    /// When the message came, by our clock.
    pub ts: i64,
    /// How long we held it.
    pub p: i64,
    /// How far the client's estimate was off: tc + o + l − ts.
    pub a: i64,
}

/// `ext.replay` of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ReplayReply {
    /// The number of the user's last event so far.
    pub last: u64,
    /// Nothing is missing between the asked number and the first replayed event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub complete: Option<bool>,
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
    /// True: other sessions of the same browser hold all connects it may have.
    #[serde(rename = "multiple-clients", skip_serializing_if = "Option::is_none")]
    pub multiple_clients: Option<bool>,
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

/// An event as it goes to every session that takes it: written once, shared.
#[derive(Debug, PartialEq, Eq)]
pub struct Event {
    /// The whole message, JSON.
    pub text: Box<str>,
    /// Its number among its user's events; 0: it has none.
    pub number: u64,
    /// When it came to be.
    pub born: Instant,
}

impl Event {
    /// Without a number: a state as it is now, or what a client has published. `data` is JSON.
    pub fn plain(channel: &str, data: &str, born: Instant) -> Arc<Self> {
        let name = Value::from(channel);
        Arc::new(Self {
            text: format!(r#"{{"data":{data},"channel":{name}}}"#).into(),
            number: 0,
            born,
        })
    }

    /// With its user's number. `data` is JSON.
    pub fn numbered(channel: &str, data: &str, number: u64, born: Instant) -> Arc<Self> {
        let name = Value::from(channel);
        Arc::new(Self {
            text: format!(r#"{{"data":{data},"channel":{name},"ext":{{"replay":{number}}}}}"#)
                .into(),
            number,
            born,
        })
    }
}

/// The body of an answer: events first, then replies, always an array.
pub fn body(events: &[Arc<Event>], replies: &[BayeuxReply]) -> String {
    let mut body = Body::with_capacity(
        events.iter().map(|event| event.text.len() + 1).sum::<usize>() + 160 * replies.len(),
    );
    events.iter().for_each(|event| body.event(event));
    replies.iter().for_each(|reply| body.reply(reply));
    body.end()
}

/// An array of messages as it grows.
#[derive(Debug)]
pub struct Body(String);

impl Body {
    /// Without messages, with room for so many bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        let mut text = String::with_capacity(bytes + 2);
        text.push('[');
        Self(text)
    }

    /// One event more.
    pub fn event(&mut self, event: &Event) {
        separate(&mut self.0);
        self.0.push_str(&event.text);
    }

    /// One reply more.
    pub fn reply(&mut self, reply: &BayeuxReply) {
        separate(&mut self.0);
        let reply = serde_json::to_string(reply)
            .unwrap_or_else(|_| unreachable!("a reply is text, numbers and lists of text"));
        self.0.push_str(&reply);
    }

    /// The whole text.
    pub fn end(mut self) -> String {
        let _ = self.0.write_char(']');
        self.0
    }
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

    fn one(text: &str) -> ClientMessage {
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
            assert!(
                matches!(parse(text.as_bytes(), 10), Err(BatchError::NotMessages { .. })),
                "{text}"
            );
        }
        assert_eq!(parse(b"[]", 10), Err(BatchError::Empty));
        assert_eq!(parse(b"[{},{},{}]", 2), Err(BatchError::TooMany(2)));
        assert!(parse(b"[{\"channel\":\"\xff\"}]", 2).is_err());
    }

    #[test]
    fn a_message_that_breaks_a_rule_stands_alone() {
        assert_eq!(one(r#"{"id":"1"}"#).kind, MessageKind::NoChannel);
        assert_eq!(one(r#"{"channel":7}"#).kind, MessageKind::NoChannel);
        assert!(matches!(
            one(r#"{"channel":"/meta/connect","id":"a b"}"#).kind,
            MessageKind::BadId { .. }
        ));
        let subscribe =
            |text: &str| match one(&format!(r#"{{"channel":"/meta/subscribe"{text}}}"#)).kind {
                MessageKind::Subscribe(subscription) => subscription,
                other => panic!("{other:?}"),
            };
        assert_eq!(subscribe(""), Subscription::Missing);
        assert_eq!(subscribe(r#","subscription":5"#), Subscription::Invalid);
        assert_eq!(subscribe(r#","subscription":[]"#), Subscription::Invalid);
        assert_eq!(subscribe(r#","subscription":["/a",1]"#), Subscription::Invalid);
        assert_eq!(subscribe(r#","subscription":"/a""#), Subscription::One("/a".to_owned()));
    }

    #[test]
    fn extensions_are_read_where_they_make_sense_and_ignored_where_not() {
        let ext = |text: &str| one(&format!(r#"{{"channel":"/meta/connect","ext":{text}}}"#)).ext;
        assert!(ext(r#"{"ack":true}"#).acks);
        assert!(ext(r#"{"ack":{"enabled":true,"batch":3}}"#).acks);
        assert!(!ext(r#"{"ack":"true"}"#).acks);
        assert_eq!(ext(r#"{"ack":-1}"#).ack, Some(-1));
        assert_eq!(ext(r#"{"ack":5.0}"#).ack, Some(5));
        assert_eq!(ext(r#"{"ack":1e300}"#).ack, None);
        let sync = Timesync { tc: 5, lag: 0, offset: -3 };
        assert_eq!(ext(r#"{"timesync":{"tc":5,"l":0,"o":-3}}"#).timesync, Some(sync));
        assert_eq!(ext(r#"{"timesync":{}}"#).timesync, None);
        let after = |text: &str, channel: &str| {
            ext(&format!(r#"{{"replay":{text}}}"#)).replay.and_then(|replay| replay.after(channel))
        };
        assert_eq!(after("7", "/a"), Some(7));
        assert_eq!(after("-1", "/a"), None);
        assert_eq!(after("-2", "/a"), Some(0));
        assert_eq!(after(r#"{"/a":7}"#, "/a"), Some(7));
        assert_eq!(after(r#"{"/a":7}"#, "/b"), None);
        for text in ["null", "[]", "7", "\"x\"", "{}"] {
            assert_eq!(ext(text), Ext::default(), "{text}");
        }
    }

    #[test]
    fn data_keeps_its_bytes_and_null_is_data() {
        let data = |text: &str| match one(&format!(r#"{{"channel":"/x/a"{text}}}"#)).kind {
            MessageKind::Publish { data, .. } => data,
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
    fn data_may_be_deep_but_not_bottomless() {
        let kind = |depth: usize| {
            one(&format!(
                r#"{{"channel":"/x/a","data":{}{}}}"#,
                "[".repeat(depth),
                "]".repeat(depth)
            ))
            .kind
        };
        assert!(matches!(kind(128), MessageKind::Publish { .. }));
        assert!(matches!(kind(129), MessageKind::TooDeep { .. }));
        assert!(!is_too_deep(&format!(r#"["{}\"[{}"]"#, "[".repeat(500), "{".repeat(500))));
    }

    #[test]
    fn wildcards_take_in_what_the_text_says() {
        let matches =
            |pattern: &str, channel: &str| Pattern::parse(pattern).expect(pattern).matches(channel);
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
            "", "/", "foo", "/a//b", "/a/", "/**/a", "/a/*/b", "/a*", "/a/***", "/a\n", "/ä",
            "/a/%", "/a?b",
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
        let reply = BayeuxReply {
            channel: Some("/meta/connect".to_owned()),
            successful: true,
            ..BayeuxReply::default()
        };
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let now = Instant::now();
        let events = [Event::plain("/x/a", "1", now), Event::numbered("/x/\"b", "{}", 7, now)];
        assert_eq!(
            body(&events, &[reply]),
            concat!(
                r#"[{"data":1,"channel":"/x/a"},{"data":{},"channel":"/x/\"b","#,
                r#""ext":{"replay":7}},{"channel":"/meta/connect","successful":true}]"#,
            )
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
