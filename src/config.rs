//! One struct per room, parsed once into final types; bad values never get past here.
//!
//! The defaults are a file of their own, `config/defaults.toml`: what `undertone config` prints is what is used. Over it come the
//! user's file and the environment (`UNDERTONE__SECTION__KEY`).

mod credentials;
mod locate;
mod raw;
mod rooms;

pub use credentials::{CredentialsError, Made, forget_credentials};

use crate::cometd;
use crate::gateway::{self, Directory};
use crate::http::server;
use crate::http::{self, auth};
use crate::media::MediaConfig;
use crate::model::{Number, UserId};
use crate::sip;
use crate::sip::b2bua::{B2buaConfig, Numbering};
use crate::telemetry;
use figment::Figment;
use figment::error::Kind;
use figment::providers::{Format, Serialized, Toml};
use figment::value::{Dict, Value};
use locate::ConfigFile;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

const DEFAULTS: &str = include_str!("config/defaults.toml");

/// What `undertone config` prints: every key with its default and what it does.
pub fn commented_defaults() -> &'static str {
    DEFAULTS
}

/// Everything the rooms are told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where state is kept.
    pub state_dir: PathBuf,
    /// Doors without TLS may be opened to the network.
    pub insecure_bind: bool,
    /// For a gateway without a backend of its own: where the backend is.
    pub backend_url: String,
    /// Where REST and CometD listen.
    pub rest_bind: SocketAddr,
    /// REST and CometD over HTTP.
    pub front: http::HttpConfig,
    /// Logins.
    pub login: auth::AuthConfig,
    /// CometD sessions.
    pub bayeux: cometd::CometdConfig,
    /// Where the telephony contract is served.
    pub grpc_bind: SocketAddr,
    /// gRPC server reflection.
    pub grpc_reflection: bool,
    /// Where health and metrics are served.
    pub admin_bind: SocketAddr,
    /// What each door allows.
    pub doors: Doors,
    /// Where a SIP backend alone serves the telephony contract.
    pub backend_grpc_bind: SocketAddr,
    /// Where a SIP backend alone serves health and metrics.
    pub backend_admin_bind: SocketAddr,
    /// The gateway.
    pub gateway: gateway::GatewayConfig,
    /// Who exists.
    pub directory: Directory,
    /// The audit file.
    pub audit_file: PathBuf,
    /// The SIP endpoint. Its accounts can log in once [`Config::sip_with_credentials`] has given them their HA1s.
    pub sip: sip::config::SipConfig,
    /// The B2BUA.
    pub b2bua: B2buaConfig,
    /// Every number of the house, and the ways out of it.
    pub numbering: Numbering,
    /// RTP.
    pub media: MediaConfig,
    /// Logs.
    pub telemetry: telemetry::LogConfig,
    password_hashes: BTreeMap<UserId, String>,
    sip_passwords: BTreeMap<Number, String>,
}

/// What each TCP door but SIP's allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doors {
    /// REST and CometD.
    pub rest: server::ConnectionLimits,
    /// The telephony contract, of a gateway or a backend.
    pub grpc: server::ConnectionLimits,
    /// Health and metrics.
    pub admin: server::ConnectionLimits,
}

impl Config {
    /// The state file of a process; each kind of process has its own, so that gateway and backend can share a directory.
    pub fn state_file(&self, process: &str) -> PathBuf {
        self.state_dir.join(format!("{process}.redb"))
    }
}

/// Everything that is wrong with a configuration; one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `undertone.toml:12`, or the environment variable.
    pub place: String,
    /// The key, `sip.trunk[0].target`; empty when it is about the whole file.
    pub key: String,
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key.is_empty() {
            true => write!(f, "{}: {}", self.place, self.message),
            false => write!(f, "{}: {}: {}", self.place, self.key, self.message),
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Reads the file, if any, and the environment over the defaults.
///
/// # Errors
/// Everything that is wrong, each with its place.
pub fn load(file: Option<&Path>) -> Result<Config, Problems> {
    let environment = std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
    let Some(path) = file else { return parse(None, environment) };
    match std::fs::read_to_string(path) {
        Ok(text) => parse(Some((path, &text)), environment),
        Err(error) => Err(Problems(vec![Problem {
            place: path.display().to_string(),
            key: String::new(),
            message: error.to_string(),
        }])),
    }
}

/// As [`load`], with the file's text and the environment handed in.
///
/// # Errors
/// Everything that is wrong, each with its place.
pub fn parse(file: Option<(&Path, &str)>, environment: impl IntoIterator<Item = (String, String)>) -> Result<Config, Problems> {
    let environment: BTreeMap<String, String> = environment.into_iter().filter(|(key, _)| key.starts_with(PREFIX)).collect();
    let source = ConfigFile::new(file, &environment).map_err(|problem| Problems(vec![problem]))?;
    let whole = match layers(file, &environment) {
        Ok(whole) => whole,
        Err(error) => {
            let problems = error.into_iter().map(|error| source.problem(&error.path, describe(&error.kind)));
            return Err(Problems(problems.collect()));
        }
    };
    let mut reader = ConfigReader {
        whole,
        defaults: dict(DEFAULTS),
        problems: Vec::new(),
    };
    let shapes = rooms::Shapes::read(&mut reader);
    reader.unknown_sections();
    let problems = |found: Vec<Found>| Problems(found.into_iter().map(|(path, message)| source.problem(&path, message)).collect());
    match shapes {
        Some(shapes) if reader.problems.is_empty() => shapes.into_config().map_err(problems),
        _ => Err(problems(reader.problems)),
    }
}

const PREFIX: &str = "UNDERTONE__";
const DIRECTORY: [&str; 4] = ["user", "device", "group", "voice_environment"];

/// A key's path and what is wrong there.
type Found = (Vec<String>, String);

#[expect(clippy::result_large_err, reason = "figment's error; once at the start")]
fn layers(file: Option<(&Path, &str)>, environment: &BTreeMap<String, String>) -> Result<Dict, figment::Error> {
    let mut defaults = dict(DEFAULTS);
    let mut figment = Figment::new();
    let text = file.map_or("", |(_, text)| text);
    let own = Figment::from(Toml::string(text)).extract::<Dict>()?;
    if DIRECTORY.iter().any(|name| own.contains_key(*name)) {
        DIRECTORY.iter().for_each(|name| {
            defaults.remove(*name);
        });
    }
    figment = figment.merge(Serialized::defaults(defaults)).merge(Serialized::defaults(own));
    for (key, value) in environment {
        // A value that is no TOML is text; `Value`'s parser never fails.
        let value: Value = match value.parse() {
            Ok(value) => value,
            Err(never) => match never {},
        };
        figment = figment.merge(Serialized::default(&path_of(key).join("."), value));
    }
    figment.extract()
}

fn path_of(variable: &str) -> Vec<String> {
    let keys = variable.trim_start_matches(PREFIX).split("__");
    keys.map(str::to_ascii_lowercase).collect()
}

fn dict(text: &str) -> Dict {
    // The defaults are part of the program, and a test reads them.
    Figment::from(Toml::string(text)).extract().unwrap_or_default()
}

fn describe(kind: &Kind) -> String {
    match kind {
        Kind::UnknownField(name, known) => format!("there is no key '{name}' here; there are: {}", known.join(", ")),
        Kind::MissingField(name) => format!("'{name}' is missing"),
        Kind::UnknownVariant(found, known) => format!("'{found}' is not one of {}", known.join(", ")),
        Kind::InvalidType(found, expected) => format!("found {found}, expected {expected}"),
        other => other.to_string(),
    }
}

/// Takes sections out of the whole, and goes on after each problem with the default in its place, so that all problems are found.
struct ConfigReader {
    whole: Dict,
    defaults: Dict,
    problems: Vec<Found>,
}

impl ConfigReader {
    /// The keys outside any section.
    fn top<T: DeserializeOwned>(&mut self, names: &[&str]) -> Option<T> {
        let take = |from: &mut Dict| -> Dict { names.iter().filter_map(|name| from.remove_entry(*name)).collect() };
        let (section, defaults) = (take(&mut self.whole), take(&mut self.defaults.clone()));
        self.fitted(&[], section, &defaults)
    }

    fn section<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        let defaults = match self.defaults.get(name) {
            Some(Value::Dict(_, defaults)) => defaults.clone(),
            _ => Dict::new(),
        };
        match self.whole.remove(name) {
            Some(Value::Dict(_, section)) => self.fitted(&[name.to_owned()], section, &defaults),
            Some(_) => {
                self.problems.push((vec![name.to_owned()], format!("must be a section: [{name}]")));
                None
            }
            None => self.fitted(&[name.to_owned()], defaults.clone(), &defaults),
        }
    }

    fn fitted<T: DeserializeOwned>(&mut self, path: &[String], mut section: Dict, defaults: &Dict) -> Option<T> {
        let most = section.len() + defaults.len() + 1;
        for _ in 0..most {
            let error = match Value::from(section.clone()).deserialize::<T>() {
                Ok(fitted) => return Some(fitted),
                Err(error) => error,
            };
            let key = self.note(path, &error)?;
            match defaults.get(&key) {
                Some(default) => section.insert(key, default.clone()),
                None => section.remove(&key),
            };
        }
        None
    }

    /// The tables of a list.
    fn list<T: DeserializeOwned>(&mut self, path: &[&str]) -> Vec<T> {
        let value = match path {
            [name] => self.whole.remove(*name),
            [section, name] => match self.whole.get_mut(*section) {
                Some(Value::Dict(_, section)) => section.remove(*name),
                _ => None,
            },
            _ => None,
        };
        let path: Vec<String> = path.iter().map(|step| (*step).to_owned()).collect();
        let items = match value {
            None => return Vec::new(),
            Some(Value::Array(_, items)) => items,
            Some(_) => {
                self.problems
                    .push((path.clone(), format!("must be a list of tables: [[{}]]", path.join("."))));
                return Vec::new();
            }
        };
        let mut fitted = Vec::new();
        for (number, item) in items.into_iter().enumerate() {
            let path: Vec<String> = path.iter().cloned().chain([number.to_string()]).collect();
            match item {
                Value::Dict(_, item) => fitted.extend(self.fitted_item(&path, item)),
                _ => self.problems.push((path, "must be a table".to_owned())),
            }
        }
        fitted
    }

    fn fitted_item<T: DeserializeOwned>(&mut self, path: &[String], mut item: Dict) -> Option<T> {
        loop {
            let error = match Value::from(item.clone()).deserialize::<T>() {
                Ok(fitted) => return Some(fitted),
                Err(error) => error,
            };
            let unknown = matches!(error.kind, Kind::UnknownField(..));
            let key = self.note(path, &error)?;
            if !unknown || item.remove(&key).is_none() {
                return None;
            }
        }
    }

    /// Writes a problem down; the key under `path` that has it, if one does.
    fn note(&mut self, path: &[String], error: &figment::Error) -> Option<String> {
        let mut within = error.path.clone();
        if let Kind::UnknownField(name, _) = &error.kind
            && within.last() != Some(name)
        {
            within.push(name.clone());
        }
        let full: Vec<String> = path.iter().chain(&within).cloned().collect();
        self.problems.push((full, describe(&error.kind)));
        within.into_iter().next()
    }

    fn unknown_sections(&mut self) {
        for name in std::mem::take(&mut self.whole).into_keys() {
            let message = format!("there is no section or key '{name}'");
            self.problems.push((vec![name], message));
        }
    }
}

#[cfg(test)]
mod tests;
