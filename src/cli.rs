//! The command line: what may be asked of the program, and each answer.

use clap::{Args, Parser, Subcommand};
use std::fmt::Display;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use undertone::app::{self, ServerRole};
use undertone::config::{self, Config};
#[cfg(feature = "demo")]
use undertone::demo::events::{self, EventFormat};
#[cfg(feature = "demo")]
use undertone::demo::{self, Scenario};
use undertone::telemetry::{self, Metrics};

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
    Gateway(Configured),
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
    /// Says what is wrong with a configuration file, and where, and what of it this machine cannot
    /// do
    Check {
        /// The configuration file to check
        file: PathBuf,
    },
    /// Prints the default configuration with its comments
    Config,
}

#[derive(Debug, Args)]
struct Configured {
    /// A TOML file; what it leaves out keeps its default. UNDERTONE__SECTION__KEY in the
    /// environment overrides it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
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
        CliCommand::Gateway(configured) => serve(configured, ServerRole::Gateway),
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
        CliCommand::Demo { json, verbose, split, scenario, .. } => {
            show(demo::DemoOptions { json, verbose, split, scenario })
        }
        #[cfg(feature = "demo")]
        CliCommand::Events { user, password_file, url, channels, after, verbose, json } => {
            let format = match (json, verbose) {
                (true, _) => EventFormat::Json,
                (false, true) => EventFormat::Verbose,
                (false, false) => EventFormat::Line,
            };
            match password(password_file) {
                Ok(password) => {
                    tail(events::EventsOptions { url, user, password, channels, after, format })
                }
                Err(error) => fail(error),
            }
        }
        CliCommand::Check { file } => check(file),
        CliCommand::Config => print(config::commented_defaults()),
    }
}

fn serve(Configured { config }: Configured, role: ServerRole) -> ExitCode {
    let config: Config = match config::load(config.as_deref()) {
        Ok(config) => config,
        Err(problems) => return fail(problems),
    };
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
fn show(options: demo::DemoOptions) -> ExitCode {
    match block_on(demo::run(options)) {
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

fn check(file: PathBuf) -> ExitCode {
    match config::check(&file) {
        Ok(()) => print(&format!("{}: good\n", file.display())),
        Err(problems) => fail(problems),
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
