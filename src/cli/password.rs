//! `undertone password` and `undertone hash`: a password is read where nobody sees it.

use super::{Configured, fail, print};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};
use undertone::app::new_passwords::{self, LeftPassword};
use undertone::clock;
use undertone::config::{self, DirectorySource};
use undertone::http::auth::{LONGEST_CREDENTIAL, hash_password};
use undertone::model::UserId;
use undertone::private;
use undertone::secret::Secret;

/// How long the gateway may take to take a password; it looks five times a second.
const PATIENCE: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Where a password comes from.
#[derive(Debug, clap::Args)]
pub(super) struct PasswordSource {
    /// A file with the password in its only line, which others may not read, or - for standard
    /// input. Without it the terminal asks, twice
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

impl PasswordSource {
    fn read(&self) -> Result<Secret, String> {
        let password = match self.password_file.as_deref() {
            None => typed()?,
            Some(path) if path == Path::new("-") => first_line(standard_input()?),
            Some(path) => {
                let bytes = private::read_secret(path, LONGEST_CREDENTIAL as u64 + 2);
                let bytes = bytes.map_err(|error| error.to_string())?;
                let text = std::str::from_utf8(bytes.expose());
                first_line(Secret::from(text.map_err(|_| "the password is not UTF-8")?))
            }
        };
        match password.expose().len() {
            0 => Err("the password is empty".to_owned()),
            length if length > LONGEST_CREDENTIAL => {
                Err(format!("the password is longer than {LONGEST_CREDENTIAL} bytes"))
            }
            _ => Ok(password),
        }
    }
}

fn standard_input() -> Result<Secret, String> {
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line);
    let line = Secret::from(line);
    read.map(|_| line).map_err(|error| format!("standard input: {error}"))
}

fn first_line(text: Secret) -> Secret {
    text.expose().lines().next().unwrap_or_default().into()
}

fn typed() -> Result<Secret, String> {
    let ask = |prompt: &str| {
        let typed = rpassword::prompt_password(prompt).map(Secret::from);
        typed.map_err(|error| format!("the terminal: {error}; or give --password-file"))
    };
    let (one, other) = (ask("New password: ")?, ask("Again: ")?);
    match one == other {
        true => Ok(one),
        false => Err("these are two passwords".to_owned()),
    }
}

/// Prints a PHC string for `password_hash`.
pub(super) fn hash(source: &PasswordSource) -> ExitCode {
    let hash = source
        .read()
        .and_then(|password| hash_password(password.expose()).map_err(|error| error.to_string()));
    match hash {
        Ok(hash) => print(&format!("{hash}\n")),
        Err(error) => fail(error),
    }
}

/// Sets a user's password, whether the gateway runs or not.
pub(super) fn set(
    Configured { config }: Configured,
    user: &str,
    source: &PasswordSource,
) -> ExitCode {
    match config::load(config.as_deref()) {
        Ok(config) => match leave(&config, &user.into(), source) {
            Ok(said) => print(&said),
            Err(error) => fail(error),
        },
        Err(problems) => fail(problems),
    }
}

fn leave(
    config: &config::Config,
    user: &UserId,
    source: &PasswordSource,
) -> Result<String, String> {
    if config.directory_source == DirectorySource::File {
        if config.directory.user(user).is_none() {
            return Err(format!("there is no user '{user}'"));
        }
        if config.has_password(user) {
            return Err(format!(
                "the password of '{user}' stands in the configuration file: put another there, as \
                 `undertone hash` prints it"
            ));
        }
    }
    let password = source.read()?;
    let hash = hash_password(password.expose()).map_err(|error| error.to_string())?.into();
    let file = new_passwords::leave(config, user, &hash);
    let file = file.map_err(|error| format!("{}: {error}", config.state_dir.display()))?;
    let end: Instant = clock::instant() + PATIENCE;
    loop {
        match new_passwords::fate(&file) {
            LeftPassword::Taken => {
                return Ok(format!(
                    "{user}: the new password is in use, and what the old one opened has ended\n"
                ));
            }
            LeftPassword::Refused => {
                return Err(format!(
                    "'{user}' is no user of the gateway that runs, or has the password in its \
                     configuration file"
                ));
            }
            LeftPassword::Waits if clock::instant() < end => thread::sleep(LOOK_AGAIN),
            LeftPassword::Waits => {
                return Ok(format!(
                    "{user}: no gateway runs with {}; the next one takes the new password\n",
                    config.state_dir.display()
                ));
            }
        }
    }
}
