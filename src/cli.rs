//! The command line: what may be asked of the program, and each answer.

mod attach;
mod audit;
mod password;
mod probe;

use clap::{Args, Parser, Subcommand};
use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use undertone::app::directory_files::{self, Counts, DirectoryFiles, FilesError};
use undertone::app::{self, ServerRole};
use undertone::clock;
use undertone::config::{self, Config, Problems};
#[cfg(feature = "contract-check")]
use undertone::contract_check::{
    House,
    terminal::{self, CheckOptions},
};
#[cfg(feature = "demo")]
use undertone::demo::{
    self, Scenario,
    events::{self, EventFormat},
    simulate,
};
#[cfg(feature = "contract-check")]
use undertone::model::{DialString, NotDialable, Number, UserId};
use undertone::telemetry::{self, Metrics};
use undertone::tls::Authority;
#[cfg(feature = "contract-check")]
use undertone::tls::{ClientTlsFiles, KeyPairFiles};

/// A supervisor-coaching gateway for contact centres: the supervisor hears both, only the agent
/// hears the supervisor.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: CliCommand,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Gateway and SIP backend in one process
    Serve(Configured),
    /// The gateway alone; its backend is at backend_url
    Gateway {
        #[command(flatten)]
        configured: Configured,
        /// No backend: simulated telephones, for the author of a desktop. Keeps nothing; made
        /// passwords are printed, or UNDERTONE_PASSWORD in the environment is everybody's
        #[arg(long)]
        simulated: bool,
    },
    /// The SIP backend alone
    SipBackend(Configured),
    #[cfg(feature = "demo")]
    /// A coached call with three software phones, and proof of what each of them heard
    Demo {
        /// One JSON document on stdout instead of a story
        #[arg(long)]
        json: bool,
        /// Requests, events and the phones' messages whole, instead of a line each
        #[arg(long, conflicts_with = "json")]
        verbose: bool,
        /// Gateway and SIP backend as two processes
        #[arg(long)]
        split: bool,
        /// HTTPS, SIP over TLS and SRTP everywhere, by a private authority made for it
        #[arg(long)]
        tls: bool,
        /// Which story; `--list` names them
        #[arg(long, value_name = "NAME", default_value = "coach", value_parser = scenario)]
        scenario: Scenario,
        /// Names the stories
        #[arg(long)]
        list: bool,
    },
    #[cfg(feature = "demo")]
    /// Shows a user's events as they happen, until interrupted
    Events {
        /// Login name of the user
        #[arg(long, short)]
        user: String,
        /// A file with the password in its first line, or - for standard input. Without it:
        /// UNDERTONE_PASSWORD in the environment
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
        /// Where the gateway is
        #[arg(long, default_value = "http://127.0.0.1:8080")]
        url: String,
        /// The authorities, in PEM, that vouch for it over https; without it: those of the system
        #[arg(long, value_name = "FILE")]
        ca: Option<PathBuf>,
        /// A channel or pattern; may be repeated
        #[arg(long = "channel", value_name = "CHANNEL", default_value = "/v2/**")]
        channels: Vec<String>,
        /// Begin behind the event with this number; -2: with the oldest that is kept
        #[arg(long, value_name = "NUMBER", default_value_t = -1, allow_negative_numbers = true)]
        after: i64,
        /// All that each event says, instead of a line for people
        #[arg(long)]
        verbose: bool,
        /// Messages as they came
        #[arg(long, conflicts_with = "verbose")]
        json: bool,
    },
    #[cfg(feature = "demo")]
    /// Moves the telephones of `undertone gateway --simulated`: call 7001 5001, answer 5001, hangup
    /// 7001. Without words it shows them all
    Simulate {
        /// Where the gateway's admin is
        #[arg(long, default_value = "http://127.0.0.1:9090")]
        url: String,
        /// The authorities, in PEM, that vouch for it over https; without it: those of the system
        #[arg(long, value_name = "FILE")]
        ca: Option<PathBuf>,
        /// A line: call FROM TO, answer NUMBER, hangup NUMBER, phone NUMBER
        /// answers|rings|busy|rejects, register NUMBER, unregister NUMBER; or - for lines from
        /// standard input
        #[arg(value_name = "WORD")]
        words: Vec<String>,
    },
    #[cfg(feature = "contract-check")]
    /// Holds any backend of the telephony contract against its rules. Exit code 0: none is broken;
    /// 1: some are; 2: it can not be checked
    ContractCheck {
        /// Where the backend is, as http://127.0.0.1:11052
        url: String,
        /// One JSON document instead of lines
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        identity: Identity,
        /// A program that moves the backend's telephones: it reads "call 7001 5001", "answer 5001",
        /// "hangup 7001" and "phone 5005 answers|rings|busy|rejects", one a line, and answers each
        /// with "ok" or "error WHY". It may be the backend itself. Without it, only what needs no
        /// telephones is checked
        #[arg(long, value_name = "COMMAND")]
        phones: Option<String>,
        /// How long anything may take
        #[arg(long, value_name = "SECONDS", default_value_t = 10,
              value_parser = clap::value_parser!(u64).range(1..=600))]
        patience: u64,
        /// A supervisor: telephone number and login name
        #[arg(long, value_name = "NUMBER=USER", default_value = "5005=supervisor",
              value_parser = person)]
        supervisor: (Number, UserId),
        /// Another supervisor
        #[arg(long, value_name = "NUMBER=USER", default_value = "5006=supervisor2",
              value_parser = person)]
        second: (Number, UserId),
        /// An agent that both may monitor
        #[arg(long, value_name = "NUMBER=USER", default_value = "5001=agent",
              value_parser = person)]
        agent: (Number, UserId),
        /// Another one
        #[arg(long, value_name = "NUMBER=USER", default_value = "5002=agent2",
              value_parser = person)]
        colleague: (Number, UserId),
        /// A number outside, which calls the agent
        #[arg(long, value_name = "NUMBER", default_value = "7001", value_parser = number)]
        customer: Number,
    },
    /// Users, devices and groups from and to CSV files, where the directory is kept in the state
    /// file (directory.source = "store") and the product does not run
    #[command(subcommand)]
    Directory(DirectoryCommand),
    /// Says what is wrong with a configuration file, and where, and what of it this machine cannot
    /// do
    Check {
        /// Asks each trunk whether it is there, by OPTIONS. Exit code 1: one is not
        #[arg(long)]
        probe: bool,
        /// The configuration file to check
        file: PathBuf,
    },
    /// Prints what leads the calls of a switch through here: the configuration of this program, and
    /// the lines of the switch. What is not said by a flag the terminal asks
    Attach(attach::AttachOptions),
    /// Makes a private authority and certificates of it, to try TLS out: authority.crt, server.crt,
    /// gateway.crt and their keys. An authority that is there already vouches
    Certificates {
        /// Where they are written; made when it is not there
        directory: PathBuf,
        /// A name or address of the server; may be repeated
        #[arg(long = "host", value_name = "HOST",
              default_values = ["localhost", "127.0.0.1", "::1"])]
        hosts: Vec<String>,
        /// How long the certificates are good for; the authority ten times as long
        #[arg(long, value_name = "DAYS", default_value_t = 365,
              value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
    },
    /// Sets or resets a user's password. A gateway that runs believes it at once, and ends what the
    /// old one has opened
    Password {
        #[command(flatten)]
        configured: Configured,
        #[command(flatten)]
        source: password::PasswordSource,
        /// Login name
        user: String,
    },
    /// Prints what stands for a password in the configuration file (password_hash)
    Hash {
        #[command(flatten)]
        source: password::PasswordSource,
    },
    /// Prints the default configuration with its comments
    Config,
    /// Verifies the audit, or shows what is in it
    #[command(subcommand)]
    Audit(audit::AuditCommand),
}

#[derive(Debug, Subcommand)]
enum DirectoryCommand {
    /// Takes entries in, each in the place of the one of its id; all of them or none
    Import {
        #[command(flatten)]
        configured: Configured,
        /// Users: id, roles, devices and other keys of [[user]], and password or password_hash
        users: PathBuf,
        /// Devices: id, number and other keys of [[device]], and password or its digests
        devices: PathBuf,
        /// Groups: id, agents, supervisors; left out, they stay as they are
        groups: Option<PathBuf>,
    },
    /// Writes users.csv, devices.csv and groups.csv, which only their owner reads: they have the
    /// digests of passwords
    Export {
        #[command(flatten)]
        configured: Configured,
        /// Where to
        folder: PathBuf,
    },
}

#[derive(Debug, Args)]
struct Configured {
    /// A TOML file; what it leaves out keeps its default. UNDERTONE__SECTION__KEY in the
    /// environment overrides it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[cfg(feature = "contract-check")]
/// What is shown to a backend.
#[derive(Debug, Args)]
struct Identity {
    /// A file with the token to show there, over https:// or on this machine: that of a backend of
    /// ours is in its state directory, grpc-token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The authorities, in PEM, that vouch for the backend; without it: those of the system
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// A client certificate in PEM to present there
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// Its key; without it: in the same file
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
}

#[cfg(feature = "contract-check")]
impl Identity {
    fn tls(self) -> ClientTlsFiles {
        let pair = self.certificate.map(|certificate| {
            let key = self.key.unwrap_or_else(|| certificate.clone());
            KeyPairFiles { certificate, key }
        });
        ClientTlsFiles { authorities: self.ca, pair }
    }
}

#[cfg(feature = "demo")]
fn scenario(name: &str) -> Result<Scenario, String> {
    let found = Scenario::ALL.into_iter().find(|scenario| scenario.name() == name);
    found.ok_or_else(|| {
        format!(
            "there is no such story; there are: {}",
            Scenario::ALL.map(Scenario::name).join(", ")
        )
    })
}

/// Does what the arguments of the process ask for.
pub(crate) fn run() -> ExitCode {
    match Arguments::parse().command {
        CliCommand::Serve(configured) => serve(configured, ServerRole::Serve),
        CliCommand::Gateway { configured, simulated: false } => {
            serve(configured, ServerRole::Gateway)
        }
        CliCommand::Gateway { configured, simulated: true } => simulate_gateway(configured),
        CliCommand::SipBackend(configured) => serve(configured, ServerRole::SipBackend),
        #[cfg(feature = "demo")]
        CliCommand::Demo { list: true, .. } => {
            for scenario in Scenario::ALL {
                // A closed pipe means that the reader wants no more.
                let _ = writeln!(std::io::stdout(), "{:10} {}", scenario.name(), scenario.about());
            }
            ExitCode::SUCCESS
        }
        #[cfg(feature = "demo")]
        CliCommand::Demo { json, verbose, split, tls, scenario, .. } => {
            verdict(block_on(demo::run(demo::DemoOptions { json, verbose, split, tls, scenario })))
        }
        #[cfg(feature = "demo")]
        CliCommand::Events { user, password_file, url, ca, channels, after, verbose, json } => {
            let format = match (json, verbose) {
                (true, _) => EventFormat::Json,
                (false, true) => EventFormat::Verbose,
                (false, false) => EventFormat::Line,
            };
            match password(password_file) {
                Ok(password) => tail(events::EventsOptions {
                    url,
                    authorities: ca,
                    user,
                    password: password.into(),
                    channels,
                    after,
                    format,
                }),
                Err(error) => fail(error),
            }
        }
        #[cfg(feature = "demo")]
        CliCommand::Simulate { url, ca, words } => {
            let what = match &words[..] {
                [] => simulate::SimulateWhat::Show,
                [dash] if dash == "-" => simulate::SimulateWhat::StandardInput,
                words => simulate::SimulateWhat::Line(words.join(" ")),
            };
            let options = simulate::SimulateOptions { url, authorities: ca, what };
            verdict(block_on(simulate::run(options)))
        }
        #[cfg(feature = "contract-check")]
        CliCommand::ContractCheck {
            url,
            json,
            identity,
            phones,
            patience,
            supervisor,
            second,
            agent,
            colleague,
            customer,
        } => {
            let house = House { supervisor, second, agent, colleague, customer };
            let patience = Duration::from_secs(patience);
            let token_file = identity.token_file.clone();
            let tls = identity.tls();
            contract_check(&CheckOptions { url, token_file, tls, house, phones, patience, json })
        }
        CliCommand::Directory(DirectoryCommand::Import { configured, users, devices, groups }) => {
            import(configured, &DirectoryFiles { users, devices, groups })
        }
        CliCommand::Directory(DirectoryCommand::Export { configured, folder }) => {
            counted(config::load(configured.config.as_deref()), "written", |config| {
                directory_files::export(config, &folder)
            })
        }
        CliCommand::Check { probe, file } => check(&file, probe),
        CliCommand::Attach(options) => attach::run(options),
        CliCommand::Certificates { directory, hosts, days } => {
            let life = Duration::from_secs(u64::from(days) * 24 * 3600);
            match Authority::write(&directory, &hosts, clock::wall(), life) {
                Ok(written) => print(&written_lines(&written)),
                Err(error) => fail(error),
            }
        }
        CliCommand::Password { configured, source, user } => {
            password::set(configured, &user, &source)
        }
        CliCommand::Hash { source } => password::hash(&source),
        CliCommand::Config => print(config::commented_defaults()),
        CliCommand::Audit(command) => audit::run(command),
    }
}

fn written_lines(written: &[PathBuf]) -> String {
    written.iter().map(|path| format!("{}\n", path.display())).collect()
}

fn serve(Configured { config }: Configured, role: ServerRole) -> ExitCode {
    match config::load(config.as_deref()) {
        Ok(config) => serve_configured(config, role),
        Err(problems) => fail(problems),
    }
}

fn simulate_gateway(Configured { config }: Configured) -> ExitCode {
    let mut config = match config::load_simulated(config.as_deref()) {
        Ok(config) => config,
        Err(problems) => return fail(problems),
    };
    if let Ok(password) = std::env::var("UNDERTONE_PASSWORD")
        && let Err(error) = config.give_password(&password)
    {
        return fail(error);
    }
    serve_configured(config, ServerRole::SimulatedGateway)
}

fn serve_configured(config: Config, role: ServerRole) -> ExitCode {
    telemetry::start_log(&config.telemetry);
    let metrics = match Metrics::start() {
        Ok(metrics) => metrics,
        Err(error) => return fail(error),
    };
    let outcome = block_on(app::run(config, role, Some(metrics), |running| {
        running.introduction().map(print);
    }));
    match outcome {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => fail(error),
        Err(error) => fail(error),
    }
}

#[cfg(feature = "demo")]
fn verdict<E: Display>(outcome: std::io::Result<Result<bool, E>>) -> ExitCode {
    match outcome {
        Ok(Ok(true)) => ExitCode::SUCCESS,
        Ok(Ok(false)) => ExitCode::FAILURE,
        Ok(Err(error)) => fail(error),
        Err(error) => fail(error),
    }
}

#[cfg(feature = "demo")]
fn password(file: Option<PathBuf>) -> Result<String, String> {
    let Some(file) = file else {
        return std::env::var("UNDERTONE_PASSWORD").map_err(|_| {
            "no password: set UNDERTONE_PASSWORD, or give --password-file".to_owned()
        });
    };
    let text = match file.as_os_str() == "-" {
        true => std::io::read_to_string(std::io::stdin()),
        false => std::fs::read_to_string(&file),
    };
    let text = text.map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

#[cfg(feature = "demo")]
fn tail(options: events::EventsOptions) -> ExitCode {
    match block_on(events::run(options)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => fail(error),
        Err(error) => fail(error),
    }
}

#[cfg(feature = "contract-check")]
fn person(text: &str) -> Result<(Number, UserId), String> {
    match text.split_once('=') {
        Some((telephone, user)) if !user.is_empty() => Ok((number(telephone)?, user.into())),
        Some(_) | None => Err("must be NUMBER=USER, as 5005=supervisor".to_owned()),
    }
}

#[cfg(feature = "contract-check")]
fn number(text: &str) -> Result<Number, String> {
    let dialled: DialString = text.parse().map_err(|error: NotDialable| error.to_string())?;
    Ok(dialled.number().clone())
}

#[cfg(feature = "contract-check")]
fn contract_check(options: &CheckOptions) -> ExitCode {
    /// Nothing was found out.
    const NOT_CHECKED: u8 = 2;
    let error = match block_on(terminal::run(options)) {
        Ok(Ok(true)) => return ExitCode::SUCCESS,
        Ok(Ok(false)) => return ExitCode::FAILURE,
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    if options.json {
        print(&format!("{:#}\n", serde_json::json!({ "url": options.url, "error": error })));
    }
    fail(error);
    ExitCode::from(NOT_CHECKED)
}

fn import(Configured { config }: Configured, files: &DirectoryFiles) -> ExitCode {
    counted(config::load(config.as_deref()), "taken in", |config| {
        directory_files::import(config, files)
    })
}

fn counted(
    config: Result<Config, Problems>,
    done: &str,
    act: impl FnOnce(Config) -> Result<Counts, FilesError>,
) -> ExitCode {
    let outcome = match config {
        Ok(config) => act(config),
        Err(problems) => return fail(problems),
    };
    match outcome {
        Ok(Counts { users, devices, groups }) => {
            print(&format!("{users} users, {devices} devices and {groups} groups {done}\n"))
        }
        Err(error) => fail(error),
    }
}

fn check(file: &Path, probes: bool) -> ExitCode {
    let (config, remarks) = match config::check(file) {
        Ok(checked) => checked,
        Err(problems) => return fail(problems),
    };
    let remarks: String = remarks.iter().map(|remark| format!("{remark}\n")).collect();
    let good = print(&format!("{remarks}{}: good\n", file.display()));
    match probes {
        true => probe::run(&config),
        false => good,
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    Ok(runtime.block_on(work))
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn fail(error: impl Display) -> ExitCode {
    // Standard error may be closed; the exit code says it too.
    let _ = writeln!(std::io::stderr().lock(), "undertone: {error}");
    ExitCode::FAILURE
}
