//! What each module is told, read once into the types that the module itself defines; bad values
//! never get past here.
//!
//! A module's own `Config` says its keys, their types and what a single value may be (serde); here
//! is the rest: where each key stands in the file (`sections`), what is read (`reader`), what
//! several keys must keep together (`checks`), on which line a problem is (`locate`), and
//! passwords (`credentials`).
//!
//! The defaults are a file of their own, `config/defaults.toml`: what `undertone config` prints is
//! what is used. Over it come the user's file and the environment (`UNDERTONE__SECTION__KEY`).

mod checks;
mod credentials;
mod device_range;
mod locate;
mod machine;
mod reader;
mod remarks;
mod sections;

pub use credentials::{
    CredentialsError, Made, forget_credentials, ha1s_of, keep_ha1s, keep_password,
};

use crate::audit::AuditConfig;
use crate::cluster::discovery::NodeSource;
use crate::cometd;
use crate::gateway::{self, DeviceEntry, Directory};
use crate::http;
use crate::http::auth::{self, PasswordHashes};
use crate::http::identity::{IdentityConfig, IssuerConfig};
use crate::http::server;
use crate::media::MediaConfig;
use crate::model::{Number, PlainText, UserId};
use crate::private::{self, Exposed};
use crate::secret::Secret;
use crate::sip;
use crate::sip::b2bua::B2buaConfig;
use crate::sip::config::SipAccount;
use crate::telemetry;
use crate::telephony::callers::CallerConfig;
use crate::tls::{ClientTlsFiles, ServerTlsFiles};
use checks::Checks;
use locate::ConfigFile;
pub(crate) use reader::LONGEST_SECRET;
use reader::{ConfigReader, Finding, Findings};
use sections::Sections;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

const DEFAULTS: &str = include_str!("config/defaults.toml");
const SAMPLE_HOUSE: &str = include_str!("../docs/contract-suite.toml");

/// What `undertone config` prints: every key with its default and what it does.
pub fn commented_defaults() -> &'static str {
    DEFAULTS
}

/// What every module is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// The directory of the state files.
    pub state_dir: PathBuf,
    /// Servers without TLS may listen on other addresses than the loopback.
    pub tls: TlsConfig,
    /// The address of the backend, for a gateway without one in its own process.
    pub backend_url: String,
    /// Where the backends are, for a gateway of several: then they count instead of
    /// `backend_url`.
    pub backends: Option<NodeSource>,
    /// The file with the token that the gateway shows its backend.
    pub backend_token_file: Option<PathBuf>,
    /// Where REST and CometD listen.
    pub rest_bind: SocketAddr,
    /// REST and CometD over HTTP.
    pub http: http::HttpConfig,
    /// Logins and their sessions.
    pub login: auth::AuthConfig,
    /// What holds for all issuers of tokens.
    pub identity: IdentityConfig,
    /// The issuers whose tokens are believed.
    pub issuers: Vec<IssuerConfig>,
    /// The event channel and its limits.
    pub cometd: cometd::CometdConfig,
    /// Where the telephony contract is served.
    pub grpc_bind: SocketAddr,
    /// gRPC server reflection.
    pub grpc_reflection: bool,
    /// The file with the token that stands for a gateway on this machine, made at the first start.
    pub grpc_token_file: Option<PathBuf>,
    /// The services that may call the telephony contract.
    pub callers: Vec<CallerConfig>,
    /// Where health and metrics are served.
    pub admin_bind: SocketAddr,
    /// What each server allows at once.
    pub server_limits: ServerLimits,
    /// Where a SIP backend alone serves the telephony contract.
    pub backend_grpc_bind: SocketAddr,
    /// Where a SIP backend alone serves health and metrics.
    pub backend_admin_bind: SocketAddr,
    /// Where a SIP backend alone writes down that a supervisor may join without being asked for.
    pub backend_audit_file: PathBuf,
    /// How the gateway behaves.
    pub gateway: gateway::GatewayConfig,
    /// Users, devices, groups and voice environments.
    pub directory: Directory,
    /// The audit: its file, when another is begun, and how long they are kept.
    pub audit: AuditConfig,
    /// The SIP endpoint. Its accounts can log in once [`Config::sip_with_credentials`] has given
    /// them their HA1s.
    pub sip: sip::config::SipConfig,
    /// How the B2BUA and the rules of monitoring behave.
    pub b2bua: B2buaConfig,
    /// Addresses, ports and timers of RTP.
    pub media: MediaConfig,
    /// What is logged, and how.
    pub telemetry: telemetry::LogConfig,
    /// Where users, devices and groups are kept.
    pub directory_source: DirectorySource,
    /// The calls of devices that are taken out of the directory end.
    pub end_calls_of_removed_devices: bool,
    /// The file that it was read from, to be read again.
    pub file: Option<PathBuf>,
    /// The files that secrets of it were read from.
    pub secret_files: Vec<PathBuf>,
    /// The directory in which passwords that are made are written down, and new ones are waited
    /// for; `None`: nowhere, since nothing is kept.
    pub password_dir: Option<PathBuf>,
    /// The devices of `[[device_range]]`, which are there wherever the directory is kept.
    pub ranged: Ranged,
    settings: Settings,
    password_hashes: PasswordHashes,
    sip_passwords: BTreeMap<Number, Secret>,
}

/// Devices with their accounts. A copy shares them.
pub type Ranged = Arc<[(SipAccount, DeviceEntry)]>;

/// Where users, devices and groups are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DirectorySource {
    /// In the configuration file.
    File,
    /// In the state file, where an admin changes them over REST.
    Store,
}

/// Every key that needs a restart, with its value.
#[derive(Clone, Default, PartialEq, Eq)]
struct Settings(BTreeMap<String, String>);

/// Values may be secrets.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// What each TCP server but that of SIP allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerLimits {
    /// The server of REST and CometD.
    pub rest: server::ConnectionLimits,
    /// The telephony contract, of a gateway or a backend.
    pub grpc: server::ConnectionLimits,
    /// The server of health and metrics.
    pub admin: server::ConnectionLimits,
}

/// The certificates of the doors, and of the way to the backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// REST and CometD.
    pub rest: Option<ServerTlsFiles>,
    /// The telephony contract, of a gateway or a backend.
    pub grpc: Option<ServerTlsFiles>,
    /// The server of health and metrics.
    pub admin: Option<ServerTlsFiles>,
    /// SIP over TLS, where somebody else connects.
    pub sip: Option<ServerTlsFiles>,
    /// SIP over TLS, where we connect.
    pub sip_client: ClientTlsFiles,
    /// A gateway's way to its backend.
    pub backend: ClientTlsFiles,
}

impl Config {
    /// The keys that are other than in this one, and are obeyed after a restart only.
    pub fn restart_keys(&self, new: &Config) -> Vec<String> {
        let (before, after) = (&self.settings.0, &new.settings.0);
        let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        keys.into_iter().filter(|key| before.get(*key) != after.get(*key)).cloned().collect()
    }

    /// Reads the file again that it was read from, and the environment; `None`: there is none.
    ///
    /// # Errors
    /// Everything that is wrong, each with its place.
    pub fn read_again(&self) -> Option<Result<Config, Problems>> {
        self.file.as_deref().map(|file| load(Some(file)))
    }

    /// The passwords of the configuration file are those of another one from now on.
    pub fn take_passwords(&mut self, new: &Config) {
        self.password_hashes.clone_from(&new.password_hashes);
        self.sip_passwords.clone_from(&new.sip_passwords);
    }

    /// The user's password stands in the configuration file, or in one that is named there.
    pub fn has_password(&self, user: &UserId) -> bool {
        self.directory_source == DirectorySource::File && self.password_hashes.contains_key(user)
    }

    /// The state file of a process; each kind of process has its own, so that gateway and backend
    /// can share a directory.
    pub fn state_file(&self, process: &str) -> PathBuf {
        self.state_dir.join(format!("{process}.redb"))
    }
}

/// Everything that is wrong with a configuration, one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    /// What is wrong.
    pub list: Vec<Problem>,
    /// The files with secrets that the configuration names: what is wrong may be wrong there.
    pub secret_files: Vec<PathBuf>,
}

/// One thing that is wrong. What of the file is repeated is escaped when it is shown.
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
        let Self { place, key, message } = self;
        let (place, key, message) = (PlainText(place), PlainText(key), PlainText(message));
        match self.key.is_empty() {
            true => write!(f, "{place}: {message}"),
            false => write!(f, "{place}: {key}: {message}"),
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.list.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl Problems {
    fn of(list: Vec<Problem>) -> Self {
        Self { list, secret_files: Vec::new() }
    }
}

/// Reads the file, if any, and the environment over the defaults.
///
/// # Errors
/// Everything that is wrong, each with its place.
pub fn load(file: Option<&Path>) -> Result<Config, Problems> {
    let config = match file {
        Some(path) => {
            let (text, exposed) = text_of(path)?;
            parse_for(Some((path, &text)), environment(), Scrutiny { exposed, machine: false })
        }
        None => parse(None, environment()),
    }?;
    Ok(Config { file: file.map(Path::to_owned), ..config })
}

/// As [`load`], for people: what this machine cannot do is wrong, too. With what is right, and most
/// likely not meant. What is right, and gives
/// something up that somebody may miss, is returned.
///
/// # Errors
/// Everything that is wrong, each with its place.
pub fn check(file: &Path) -> Result<(Config, Vec<Problem>), Problems> {
    let (text, exposed) = text_of(file)?;
    let scrutiny = Scrutiny { exposed, machine: true };
    parse_with_remarks(Some((file, &text)), environment(), scrutiny)
}

/// What else to find fault with.
#[derive(Clone, Copy, Debug, Default)]
struct Scrutiny {
    /// The file is open to others, so that no secret may stand in it.
    exposed: Option<Exposed>,
    /// What this machine cannot do.
    machine: bool,
}

/// The text of a file, and whether others may read it.
fn text_of(file: &Path) -> Result<(Zeroizing<String>, Option<Exposed>), Problems> {
    let read = || {
        let mut open = private::open_named(file)?;
        let exposed = private::exposed(&open.metadata()?);
        let mut text = Zeroizing::new(String::new());
        open.read_to_string(&mut text)?;
        Ok((text, exposed))
    };
    read().map_err(|error: std::io::Error| {
        let place = file.display().to_string();
        Problems::of(vec![Problem { place, key: String::new(), message: error.to_string() }])
    })
}

fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
}

/// As [`load`], for a gateway over simulated telephones: where the file has no directory, with two
/// supervisors and two agents.
///
/// # Errors
/// Everything that is wrong, each with its place.
pub fn load_simulated(file: Option<&Path>) -> Result<Config, Problems> {
    let mut config = load(file)?;
    if config.directory == parse(None, [])?.directory {
        let sample = parse(Some((Path::new("docs/contract-suite.toml"), SAMPLE_HOUSE)), [])?;
        config.directory = sample.directory;
    }
    Ok(config)
}

/// As [`load`], with the file's text and the environment handed in.
///
/// # Errors
/// Everything that is wrong, each with its place.
pub fn parse(
    file: Option<(&Path, &str)>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Config, Problems> {
    parse_for(file, environment, Scrutiny::default())
}

fn parse_for(
    file: Option<(&Path, &str)>,
    environment: impl IntoIterator<Item = (String, String)>,
    scrutiny: Scrutiny,
) -> Result<Config, Problems> {
    parse_with_remarks(file, environment, scrutiny).map(|(config, _)| config)
}

fn parse_with_remarks(
    file: Option<(&Path, &str)>,
    environment: impl IntoIterator<Item = (String, String)>,
    scrutiny: Scrutiny,
) -> Result<(Config, Vec<Problem>), Problems> {
    let mut environment: BTreeMap<String, String> = environment
        .into_iter()
        .filter(|(key, _)| key.starts_with(PREFIX) || key == CREDENTIALS)
        .collect();
    let credentials = environment.remove(CREDENTIALS).map(PathBuf::from);
    let source =
        ConfigFile::new(file, &environment).map_err(|problem| Problems::of(vec![problem]))?;
    let mut reader = ConfigReader::new(file.map(|(_, text)| text), &environment, credentials)
        .map_err(|findings| source.problems(findings))?;
    let settings = Settings(reader.settings());
    let sections = Sections::read(&mut reader);
    let Findings { mut findings, faulty, files } = reader.finish();
    if let (Some((path, text)), Some(exposed)) = (file, scrutiny.exposed)
        && let Some(secret) = reader::first_secret(text)
    {
        let key = secret.last().cloned().unwrap_or_default();
        let path = path.display();
        let message = format!(
            "this secret stands in a file, and {exposed} {path}, or name a file with it: {key}_file"
        );
        findings.push(Finding { path: secret, message });
    }
    if let Some(sections) = &sections {
        let more = if scrutiny.machine { machine::findings(sections) } else { Vec::new() };
        findings.extend(Checks::of(sections, &source, &faulty, more));
    }
    match sections {
        Some(sections) if findings.is_empty() => {
            let remarks = match remarks::of(&sections) {
                remarks if remarks.is_empty() => Vec::new(),
                remarks => source.problems(remarks).list,
            };
            let config = Config { settings, secret_files: files, ..sections.into_config() };
            Ok((config, remarks))
        }
        Some(_) | None => Err(Problems { secret_files: files, ..source.problems(findings) }),
    }
}

const PREFIX: &str = "UNDERTONE__";
/// Where systemd puts the credentials of a service (systemd.exec(5), LoadCredential=).
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

fn path_of(variable: &str) -> Vec<String> {
    let keys = variable.trim_start_matches(PREFIX).split("__");
    keys.map(str::to_ascii_lowercase).collect()
}

#[cfg(test)]
mod tests;
