//! The file as it is written: names and shapes only. What the values mean is decided in the parent.

use crate::media;
use serde::Deserialize;
use serde::de::{self, Deserializer};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

/// Seconds, whole or not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seconds(pub(super) Duration);

/// A year: anything longer is a slip of the pen.
const LONGEST_SECONDS: f64 = 366.0 * 86_400.0;

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        if !(0.0..=LONGEST_SECONDS).contains(&seconds) {
            return Err(de::Error::custom(format_args!(
                "{seconds} is not a number of seconds between 0 and a year"
            )));
        }
        Ok(Self(Duration::from_secs_f64(seconds)))
    }
}

/// As [`Seconds`], but a time-out of nothing would never let anything happen.
#[derive(Clone, Copy, Debug)]
pub(super) struct SomeSeconds(pub(super) Duration);

impl<'de> Deserialize<'de> for SomeSeconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Seconds(duration) = Seconds::deserialize(deserializer)?;
        if duration.is_zero() {
            return Err(de::Error::custom("must be more than 0 seconds"));
        }
        Ok(Self(duration))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Top {
    pub(super) state_dir: PathBuf,
    pub(super) insecure_bind: bool,
    pub(super) backend_url: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rest {
    pub(super) bind: SocketAddr,
    pub(super) public_url: Option<String>,
    pub(super) allowed_origins: Vec<String>,
    pub(super) trusted_proxies: Vec<IpAddr>,
    pub(super) csrf: bool,
    pub(super) body_limit: usize,
    pub(super) timeout: SomeSeconds,
    pub(super) concurrency: NonZeroU32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Login {
    pub(super) session_life: SomeSeconds,
    pub(super) sessions_per_user: NonZeroU32,
    pub(super) cache_life: Seconds,
    pub(super) secure_cookies: bool,
    pub(super) failures_per_user: NonZeroU32,
    pub(super) failures_per_address: NonZeroU32,
    pub(super) failure_refill: SomeSeconds,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bayeux {
    pub(super) hold: SomeSeconds,
    pub(super) max_interval: SomeSeconds,
    pub(super) interval: Seconds,
    pub(super) longest_hold: SomeSeconds,
    pub(super) max_held_per_browser: usize,
    pub(super) multi_interval: SomeSeconds,
    pub(super) websocket: bool,
    pub(super) callback_polling: bool,
    pub(super) same_site: SameSite,
    pub(super) partitioned: bool,
    pub(super) max_sessions: usize,
    pub(super) max_sessions_per_user: usize,
    pub(super) max_sessions_per_address: usize,
    pub(super) handshakes_per_user: NonZeroU32,
    pub(super) handshakes_per_address: NonZeroU32,
    pub(super) max_subscriptions: usize,
    pub(super) max_subscriptions_per_user: usize,
    pub(super) max_subscriptions_per_address: usize,
    pub(super) max_messages: usize,
    pub(super) max_queue: usize,
    pub(super) max_queue_bytes: usize,
    pub(super) max_queue_bytes_per_user: usize,
    pub(super) max_queue_bytes_per_address: usize,
    pub(super) replay_events: usize,
    pub(super) replay_bytes: usize,
    pub(super) drain_window: Seconds,
    pub(super) overload: SomeSeconds,
    pub(super) open_channels: Vec<String>,
    pub(super) anonymous: bool,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum SameSite {
    Strict,
    Lax,
    None,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Grpc {
    pub(super) bind: SocketAddr,
    pub(super) reflection: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Admin {
    pub(super) bind: SocketAddr,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Doors {
    pub(super) idle: SomeSeconds,
    pub(super) streams: NonZeroU32,
    pub(super) rest_connections: NonZeroU32,
    pub(super) rest_connections_per_address: NonZeroU32,
    pub(super) grpc_connections: NonZeroU32,
    pub(super) grpc_connections_per_address: NonZeroU32,
    pub(super) grpc_peers: Vec<IpAddr>,
    pub(super) admin_connections: NonZeroU32,
    pub(super) admin_connections_per_address: NonZeroU32,
    pub(super) admin_peers: Vec<IpAddr>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SipBackend {
    pub(super) grpc_bind: SocketAddr,
    pub(super) admin_bind: SocketAddr,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Intrusion {
    Any,
    BargeIn,
    Never,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Consults {
    None,
    Orig,
    Dest,
    All,
}

/// One to four: the media engine has places for so many beside the parties of a conference.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "u32")]
pub(super) struct UpToFour(pub(super) usize);

impl TryFrom<u32> for UpToFour {
    type Error = &'static str;

    fn try_from(number: u32) -> Result<Self, &'static str> {
        match number {
            1..=4 => Ok(Self(number as usize)),
            _ => Err("must be 1 to 4"),
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum NotifyAgent {
    None,
    Event,
    Beep,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Monitoring {
    pub(super) intrusion: Intrusion,
    pub(super) invite_timeout: SomeSeconds,
    pub(super) admission_timeout: SomeSeconds,
    pub(super) cancel_releases_call: bool,
    pub(super) max_supervisors_per_device: UpToFour,
    pub(super) supervisors_hear_each_other: bool,
    pub(super) debrief: bool,
    pub(super) takeover: bool,
    pub(super) monitor_internal_calls: bool,
    pub(super) monitor_consult_calls: Consults,
    pub(super) monitor_party_on_hold: bool,
    pub(super) agent_side_only: bool,
    pub(super) whisper_gain_db: f32,
    pub(super) duck_db: f32,
    pub(super) one_way_coach: bool,
    pub(super) notify_agent: NotifyAgent,
    pub(super) command_deadline: SomeSeconds,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Audit {
    pub(super) file: PathBuf,
    pub(super) deadline: SomeSeconds,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) enum Digest {
    #[serde(rename = "MD5")]
    Md5,
    #[serde(rename = "SHA-256")]
    Sha256,
    #[serde(rename = "SHA-512-256")]
    Sha512Of256,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) enum Codec {
    #[serde(rename = "PCMU")]
    Pcmu,
    #[serde(rename = "PCMA")]
    Pcma,
    #[serde(rename = "G722")]
    G722,
    #[serde(rename = "OPUS")]
    Opus,
    #[serde(rename = "L16")]
    L16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Protocol {
    Udp,
    Tcp,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Srtp {
    #[default]
    Off,
    Optional,
    Required,
}

/// `udp:127.0.0.1:5060`
#[derive(Clone, Copy, Debug)]
pub(super) struct Listen {
    pub(super) protocol: Protocol,
    pub(super) address: SocketAddr,
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let parsed = text.split_once(':').and_then(|(protocol, address)| {
            let protocol = match protocol {
                "udp" => Protocol::Udp,
                "tcp" => Protocol::Tcp,
                _ => return None,
            };
            let address = address.parse().ok()?;
            Some(Self { protocol, address })
        });
        parsed.ok_or_else(|| de::Error::custom(format_args!("'{text}' is not 'udp:address:port' or 'tcp:address:port'")))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sip {
    pub(super) listen: Vec<Listen>,
    pub(super) domains: Vec<String>,
    pub(super) advertised: Option<String>,
    pub(super) realm: String,
    pub(super) digests: Vec<Digest>,
    pub(super) challenge_invites: bool,
    pub(super) codecs: Vec<Codec>,
    pub(super) ring_timeout: SomeSeconds,
    pub(super) call_waiting: bool,
    pub(super) max_calls: usize,
    pub(super) max_calls_per_device: usize,
    pub(super) signal_hold: bool,
    pub(super) grace: Seconds,
    pub(super) session_expires: SomeSeconds,
    pub(super) min_expires: SomeSeconds,
    pub(super) max_expires: SomeSeconds,
    pub(super) qualify: Seconds,
}

/// `192.0.2.10` or `192.0.2.10:5060`
#[derive(Clone, Copy, Debug)]
pub(super) struct Source {
    pub(super) address: IpAddr,
    pub(super) port: Option<u16>,
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if let Ok(address) = text.parse() {
            return Ok(Self { address, port: None });
        }
        match text.parse::<SocketAddr>() {
            Ok(socket) => Ok(Self {
                address: socket.ip(),
                port: Some(socket.port()),
            }),
            Err(_) => Err(de::Error::custom(format_args!(
                "'{text}' is not an address, with or without a port"
            ))),
        }
    }
}

/// `"auto"`, or whether it is so.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Nat {
    #[default]
    Auto,
    Said(bool),
}

impl<'de> Deserialize<'de> for Nat {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AutoOrBool;

        impl de::Visitor<'_> for AutoOrBool {
            type Value = Nat;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"auto\", true or false")
            }

            fn visit_bool<E: de::Error>(self, said: bool) -> Result<Nat, E> {
                Ok(Nat::Said(said))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Nat, E> {
                match text {
                    "auto" => Ok(Nat::Auto),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
        }

        deserializer.deserialize_any(AutoOrBool)
    }
}

/// `192.0.2.10` or `192.0.2.0/24`
#[derive(Clone, Copy, Debug)]
pub(super) struct Network(pub(super) media::Network);

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let network = media::Network::parse(&text).map(Self);
        network.ok_or_else(|| de::Error::custom(format_args!("'{text}' is not an address or a network such as 192.0.2.0/24")))
    }
}

fn udp() -> Protocol {
    Protocol::Udp
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Trunk {
    pub(super) name: String,
    pub(super) sources: Vec<Source>,
    pub(super) target: String,
    #[serde(default = "udp")]
    pub(super) protocol: Protocol,
    #[serde(default)]
    pub(super) prefixes: Vec<String>,
    #[serde(default)]
    pub(super) codecs: Vec<Codec>,
    pub(super) max_calls: Option<usize>,
    pub(super) max_calls_per_second: Option<u32>,
    #[serde(default)]
    pub(super) nat: Nat,
    #[serde(default)]
    pub(super) media_sources: Vec<Network>,
    #[serde(default)]
    pub(super) own_ports: bool,
    #[serde(default)]
    pub(super) srtp: Srtp,
    #[serde(default)]
    pub(super) own_numbers: bool,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) realm: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum PortUse {
    PerLeg,
    Shared,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Media {
    pub(super) bind: IpAddr,
    pub(super) advertised: Option<IpAddr>,
    pub(super) ports: (u16, u16),
    pub(super) port_use: PortUse,
    pub(super) workers: usize,
    pub(super) inactivity: SomeSeconds,
    pub(super) rtcp_interval: SomeSeconds,
    pub(super) dscp: u8,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum LogFormat {
    Pretty,
    Json,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Log {
    pub(super) filter: String,
    pub(super) format: LogFormat,
    pub(super) personal_data: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VoiceEnvironment {
    pub(super) id: String,
    #[serde(default)]
    pub(super) name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    House,
    Customer,
}

fn house() -> Kind {
    Kind::House
}

fn yes() -> bool {
    true
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Device {
    pub(super) id: String,
    pub(super) number: String,
    #[serde(default)]
    pub(super) aliases: Vec<String>,
    #[serde(default = "house")]
    pub(super) kind: Kind,
    pub(super) voice_environment: Option<String>,
    #[serde(default)]
    pub(super) nat: Nat,
    #[serde(default)]
    pub(super) own_ports: bool,
    #[serde(default)]
    pub(super) srtp: Srtp,
    #[serde(default = "yes")]
    pub(super) qualify: bool,
    #[serde(default = "yes")]
    pub(super) auto_answer: bool,
    pub(super) password: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) enum Role {
    Agent,
    Supervisor,
    Admin,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Feature {
    ApiVoice,
    ApiSupervisorMonitoring,
}

fn all_features() -> Vec<Feature> {
    vec![Feature::ApiVoice, Feature::ApiSupervisorMonitoring]
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct User {
    pub(super) id: String,
    pub(super) display_name: Option<String>,
    pub(super) roles: Vec<Role>,
    #[serde(default = "all_features")]
    pub(super) features: Vec<Feature>,
    #[serde(default)]
    pub(super) devices: Vec<String>,
    pub(super) password_hash: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Group {
    pub(super) id: String,
    #[serde(default)]
    pub(super) agents: Vec<String>,
    #[serde(default)]
    pub(super) supervisors: Vec<String>,
    #[serde(default)]
    pub(super) monitor_supervisors: bool,
    #[serde(default)]
    pub(super) agent_side_only: bool,
}
