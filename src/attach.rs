//! What the owner of a switch pastes: our configuration, and the lines of the switch
//! (`undertone attach`).
//!
//! The calls of some numbers are led through here: the switch sends them here by a trunk, and they
//! ring at its phones by the same trunk. The tests run these very texts with a real switch.

mod numbers;

pub use numbers::{NotNumbers, NumberRange};

use numbers::{asterisk_patterns, regex};
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// What a switch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwitchKind {
    /// Asterisk with chan_pjsip.
    Asterisk,
    /// FreeSWITCH with mod_sofia.
    FreeSwitch,
    /// Kamailio as the registrar of the phones.
    Kamailio,
    /// Any other one.
    Other,
}

impl SwitchKind {
    /// Every kind.
    pub const ALL: [SwitchKind; 4] =
        [SwitchKind::Asterisk, SwitchKind::FreeSwitch, SwitchKind::Kamailio, SwitchKind::Other];

    /// Its name: `asterisk`.
    pub fn name(self) -> &'static str {
        match self {
            SwitchKind::Asterisk => "asterisk",
            SwitchKind::FreeSwitch => "freeswitch",
            SwitchKind::Kamailio => "kamailio",
            SwitchKind::Other => "other",
        }
    }
}

/// Text that is no kind of switch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not asterisk, freeswitch, kamailio or other")]
pub struct NotASwitchKind(String);

impl FromStr for SwitchKind {
    type Err = NotASwitchKind;

    fn from_str(text: &str) -> Result<Self, NotASwitchKind> {
        let kind = Self::ALL.into_iter().find(|kind| kind.name() == text);
        kind.ok_or_else(|| NotASwitchKind(text.to_owned()))
    }
}

/// Where a switch is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchAddress {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// Text that says not where a switch is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a host or host:port")]
pub struct NotASwitchAddress(String);

/// `192.0.2.10`, `192.0.2.10:5060` or `pbx.example.com`
impl FromStr for SwitchAddress {
    type Err = NotASwitchAddress;

    fn from_str(text: &str) -> Result<Self, NotASwitchAddress> {
        let bad = || NotASwitchAddress(text.to_owned());
        if let Ok(address) = OurAddress::from_str(text) {
            return Ok(Self { host: address.0.ip().to_string(), port: address.0.port() });
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| bad())?),
            None => (text, DEFAULT_PORT),
        };
        let is_host =
            |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'-' || byte == b'_';
        match !host.is_empty() && host.bytes().all(is_host) && port > 0 {
            true => Ok(Self { host: host.to_owned(), port }),
            false => Err(bad()),
        }
    }
}

/// RFC 3261 19.1.2.
const DEFAULT_PORT: u16 = 5060;

/// Where the switch and its phones reach us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OurAddress(pub SocketAddr);

/// Text that is no address of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an address or address:port of this machine")]
pub struct NotOurAddress(String);

/// `192.0.2.20` or `192.0.2.20:5062`
impl FromStr for OurAddress {
    type Err = NotOurAddress;

    fn from_str(text: &str) -> Result<Self, NotOurAddress> {
        let address = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, DEFAULT_PORT));
        let address = address.or_else(|_| text.parse::<SocketAddr>()).ok();
        let address =
            address.filter(|address| address.port() > 0 && !address.ip().is_unspecified());
        address.map(Self).ok_or_else(|| NotOurAddress(text.to_owned()))
    }
}

/// A prefix of numbers outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutsidePrefix(String);

/// Text with which no number begins.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not digits, with or without a + in front")]
pub struct NotAPrefix(String);

impl FromStr for OutsidePrefix {
    type Err = NotAPrefix;

    fn from_str(text: &str) -> Result<Self, NotAPrefix> {
        let digits = text.strip_prefix('+').unwrap_or(text);
        match !text.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
            true => Ok(Self(text.to_owned())),
            false => Err(NotAPrefix(text.to_owned())),
        }
    }
}

/// A switch that calls are led through from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// What it is.
    pub kind: SwitchKind,
    /// Where it is.
    pub switch: SwitchAddress,
    /// Where we are.
    pub us: OurAddress,
    /// The numbers of its phones that are led through; at least one range.
    pub numbers: Vec<NumberRange>,
    /// What numbers outside begin with.
    pub outside: Vec<OutsidePrefix>,
    /// The number of the first agent.
    pub agent: String,
    /// The number of the first supervisor.
    pub supervisor: String,
}

/// What of an attachment can not be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachmentFault {
    /// There is nothing to lead through.
    #[error("no numbers")]
    NoNumbers,
    /// A user's phone is none of them.
    #[error("'{0}' is not one of the numbers")]
    NotAmongThem(String),
    /// Nobody coaches at the own phone.
    #[error("'{0}' can not be the number of the agent and of the supervisor")]
    SameNumber(String),
    /// Each number is one phone's.
    #[error("{0} and {1} have numbers in common")]
    Overlap(NumberRange, NumberRange),
    /// What begins so may be a number of the phones.
    #[error("'{prefix}' does not tell numbers outside from {number}")]
    OwnPrefix {
        /// What numbers outside are to begin with.
        prefix: String,
        /// Numbers of the phones.
        number: NumberRange,
    },
    /// Both would listen there.
    #[error("the switch and Undertone can not both be at {0}")]
    SameAddress(SocketAddr),
}

/// A text to be pasted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paste {
    /// What it is called; the name of the switch's own file where it goes to the end of that.
    pub file: &'static str,
    /// The text, which says where it goes.
    pub text: String,
}

/// These numbers can be led through: there are some, and each is one phone's.
pub fn check_numbers(numbers: &[NumberRange]) -> Result<(), AttachmentFault> {
    for (at, range) in numbers.iter().enumerate() {
        if let Some(other) = numbers[..at].iter().find(|other| other.overlaps(range)) {
            return Err(AttachmentFault::Overlap(other.clone(), range.clone()));
        }
    }
    if numbers.is_empty() { Err(AttachmentFault::NoNumbers) } else { Ok(()) }
}

/// The agent and the supervisor can have these of the numbers.
pub fn check_users(
    numbers: &[NumberRange],
    agent: &str,
    supervisor: &str,
) -> Result<(), AttachmentFault> {
    for number in [agent, supervisor] {
        if !numbers.iter().any(|range| range.contains(number)) {
            return Err(AttachmentFault::NotAmongThem(number.to_owned()));
        }
    }
    match agent == supervisor {
        true => Err(AttachmentFault::SameNumber(agent.to_owned())),
        false => Ok(()),
    }
}

/// These prefixes begin none of the numbers.
pub fn check_outside(
    outside: &[OutsidePrefix],
    numbers: &[NumberRange],
) -> Result<(), AttachmentFault> {
    for OutsidePrefix(prefix) in outside {
        let begins = |range: &&NumberRange| range.first_with(prefix).is_some();
        if let Some(number) = numbers.iter().find(begins) {
            let (prefix, number) = (prefix.clone(), number.clone());
            return Err(AttachmentFault::OwnPrefix { prefix, number });
        }
    }
    Ok(())
}

/// The switch is not where we are.
pub fn check_addresses(switch: &SwitchAddress, us: OurAddress) -> Result<(), AttachmentFault> {
    match switch.host == us.0.ip().to_string() && switch.port == us.0.port() {
        true => Err(AttachmentFault::SameAddress(us.0)),
        false => Ok(()),
    }
}

impl Attachment {
    /// The attachment, if it can be.
    pub fn checked(self) -> Result<Self, AttachmentFault> {
        check_numbers(&self.numbers)?;
        check_users(&self.numbers, &self.agent, &self.supervisor)?;
        check_outside(&self.outside, &self.numbers)?;
        check_addresses(&self.switch, self.us)?;
        Ok(self)
    }

    /// Our own configuration.
    pub fn ours(&self) -> String {
        let mut ranges = String::new();
        for range in &self.numbers {
            let (first, last) = (range.first(), range.last());
            // Writing to a String can not fail.
            let _ = write!(
                ranges,
                "[[device_range]]\nfirst = \"{first}\"\nlast = \"{last}\"\nvia = \"switch\"\n\n"
            );
        }
        let prefixes: Vec<String> =
            self.outside.iter().map(|prefix| format!("\"{}\"", prefix.0)).collect();
        self.filled(include_str!("attach/undertone.toml"))
            .replace("{ranges}\n", &ranges)
            .replace("{prefixes}", &prefixes.join(", "))
    }

    /// The lines of the switch.
    pub fn theirs(&self) -> Vec<Paste> {
        let paste = |file, text: &str| Paste { file, text: self.filled(text) };
        match self.kind {
            SwitchKind::Asterisk => vec![
                paste("pjsip.conf", include_str!("attach/asterisk-pjsip.conf")),
                Paste { file: "extensions.conf", text: self.asterisk_dial_plan() },
            ],
            SwitchKind::FreeSwitch => vec![
                paste("freeswitch-gateway.xml", include_str!("attach/freeswitch-gateway.xml")),
                paste("freeswitch-default.xml", include_str!("attach/freeswitch-default.xml")),
                paste("freeswitch-public.xml", include_str!("attach/freeswitch-public.xml")),
                paste("freeswitch-without.xml", include_str!("attach/freeswitch-without.xml")),
            ],
            SwitchKind::Kamailio => vec![
                paste(
                    "kamailio-authenticated.cfg",
                    include_str!("attach/kamailio-authenticated.cfg"),
                ),
                paste(
                    "kamailio-request-route.cfg",
                    include_str!("attach/kamailio-request-route.cfg"),
                ),
                paste("kamailio-routes.cfg", include_str!("attach/kamailio-routes.cfg")),
            ],
            SwitchKind::Other => vec![paste("switch.txt", include_str!("attach/switch.txt"))],
        }
    }

    /// Everything: our configuration first.
    pub fn pastes(&self) -> Vec<Paste> {
        let ours = Paste { file: "undertone.toml", text: self.ours() };
        std::iter::once(ours).chain(self.theirs()).collect()
    }

    fn asterisk_dial_plan(&self) -> String {
        let lines = |patterns: &[String], to: &str| -> String {
            let line = |pattern: &String| format!("exten => {pattern},1,Goto({to},${{EXTEN}},1)\n");
            patterns.iter().map(line).collect()
        };
        let numbers = asterisk_patterns(&self.numbers);
        let outside: Vec<String> =
            self.outside.iter().map(|prefix| format!("_{}!", prefix.0)).collect();
        self.filled(include_str!("attach/asterisk-extensions.conf"))
            .replace("{numbers}\n", &lines(&numbers, "undertone-call"))
            .replace("{outside}\n", &lines(&outside, "undertone-call"))
            .replace("{phones}", &lines(&numbers, "undertone-phone"))
            .replace("{carrier}\n", &lines(&outside, "outgoing"))
    }

    /// A text with what most of them need.
    fn filled(&self, text: &str) -> String {
        let prefixes: Vec<String> =
            self.outside.iter().map(|prefix| prefix.0.replace('+', "\\+")).collect();
        let us_host = self.us.0.ip().to_string();
        let in_uri = match self.us.0.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        let plain: Vec<String> = self.numbers.iter().map(ToString::to_string).collect();
        let us = self.us.0;
        let (switch_host, port) = (&self.switch.host, self.switch.port);
        let switch = match switch_host.contains(':') {
            true => format!("[{switch_host}]:{port}"),
            false => format!("{switch_host}:{port}"),
        };
        let mut text = text
            .replace("{us}", &us.to_string())
            .replace("{us_host}", &us_host)
            .replace("{us_in_uri}", &in_uri)
            .replace("{us_host_regex}", &us_host.replace('.', "\\."))
            .replace("{us_port}", &us.port().to_string())
            .replace("{switch}", &switch)
            .replace("{switch_host}", switch_host)
            .replace("{agent}", &self.agent)
            .replace("{supervisor}", &self.supervisor)
            .replace("{numbers_plain}", &plain.join(", "));
        if self.kind != SwitchKind::Asterisk {
            text = text
                .replace("{numbers}", &regex(&self.numbers))
                .replace("{outside}", &format!("^({})", prefixes.join("|")));
        }
        text
    }
}
