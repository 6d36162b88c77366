//! `undertone audit`: whether it is what was written, and what is in it.

use super::{fail, print};
use clap::{Args, Subcommand};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use undertone::audit::show::{Moment, ShowOptions, show};
use undertone::audit::verify::{VerifyOptions, files_of, verify};
use undertone::audit::{AuditError, HEAD_FILE, PUBLIC_KEY_FILE, PublicKey};
use undertone::config::{self, Config};

/// What is asked of the audit.
#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Says which line was altered, removed, moved, put in or cut off, and where the clock ran back.
    /// Exit code 0: intact; 1: it is not; 2: it can not be read
    Verify(VerifyArguments),
    /// Shows lines by what they are about
    Show(ShowArguments),
}

#[derive(Debug, Args)]
pub(super) struct VerifyArguments {
    /// The files, rotated ones too, in any order. None: those of the configuration, with the key
    /// and the head that are in the state directory
    files: Vec<PathBuf>,
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A public key in PEM, audit.pub of a state directory; may be repeated. None: the one in the
    /// state directory
    #[arg(long = "key", value_name = "FILE")]
    keys: Vec<PathBuf>,
    /// The file that says how far the audit goes, audit.head of a state directory
    #[arg(long, value_name = "FILE")]
    head: Option<PathBuf>,
    /// The files are a part of the audit: what comes before and after them is not missed
    #[arg(long, conflicts_with = "head")]
    part: bool,
    /// One JSON document instead of lines
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ShowArguments {
    /// The files, rotated ones too, in any order. None: those of the configuration
    files: Vec<PathBuf>,
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A login name or a device: lines of this supervisor
    #[arg(long, value_name = "NAME")]
    supervisor: Option<String>,
    /// A login name, a device or a number: lines about this agent
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// A call
    #[arg(long, value_name = "ID")]
    call: Option<String>,
    /// A UTC time, or the beginning of one (2026-11-23): not before
    #[arg(long, value_name = "TIME")]
    from: Option<Moment>,
    /// Not after; a day is a whole day
    #[arg(long, value_name = "TIME")]
    to: Option<Moment>,
    /// Lines as they are in the file
    #[arg(long)]
    json: bool,
}

/// So often an audit that is being written is read.
const TRIES: u32 = 5;
/// Nothing was found out.
const NOT_READ: u8 = 2;

pub(super) fn run(command: AuditCommand) -> ExitCode {
    let outcome = match command {
        AuditCommand::Verify(arguments) => run_verify(arguments),
        AuditCommand::Show(arguments) => run_show(arguments),
    };
    outcome.unwrap_or_else(|problem| {
        fail(problem);
        ExitCode::from(NOT_READ)
    })
}

fn run_verify(arguments: VerifyArguments) -> Result<ExitCode, String> {
    let VerifyArguments { files, config, keys, head, part, json } = arguments;
    let is_own = files.is_empty();
    let mut options = VerifyOptions { files, keys: Vec::new(), head, is_part: part };
    for path in &keys {
        options.keys.push(PublicKey::read(path).map_err(told)?);
    }
    let config = match is_own || keys.is_empty() {
        true => Some(load(config.as_deref())?),
        false => None,
    };
    if let Some(config) = &config {
        let beside = |name: &str| config.audit.state_dir.join(name);
        if is_own {
            options.files = own_files(config)?;
            if options.head.is_none() && !part {
                options.head = Some(beside(HEAD_FILE));
            }
        }
        // What is verified without them may have been made anew from its first line.
        if keys.is_empty() && (is_own || beside(PUBLIC_KEY_FILE).exists()) {
            options.keys.push(PublicKey::read(&beside(PUBLIC_KEY_FILE)).map_err(told)?);
        }
    }
    let mut report = verify(&options).map_err(told)?;
    let mut tries = 1;
    while let Some(config) = config.as_ref().filter(|_| is_own)
        && !report.is_intact()
        && tries < TRIES
    {
        // While it is written, a file may have been rotated since they were listed.
        let files = own_files(config)?;
        if files == options.files {
            break;
        }
        options.files = files;
        report = verify(&options).map_err(told)?;
        tries += 1;
    }
    let text = if json { format!("{:#}\n", report.json()) } else { report.to_string() };
    print(&text);
    Ok(match report.is_intact() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn run_show(arguments: ShowArguments) -> Result<ExitCode, String> {
    let ShowArguments { files, config, supervisor, agent, call, from, to, json } = arguments;
    let config = match (files.is_empty() || config.is_some(), &config) {
        (true, path) => Some(load(path.as_deref())?),
        (false, _) => None,
    };
    let files = match &config {
        Some(config) if files.is_empty() => own_files(config)?,
        Some(_) | None => files,
    };
    let names = |name: String| names_of(name, config.as_ref());
    let options = ShowOptions {
        files,
        supervisor: supervisor.map(names),
        agent: agent.map(names),
        call,
        from,
        to,
        json,
    };
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let unreadable = match show(&options, &mut out) {
        Ok(unreadable) => unreadable,
        // A closed pipe means that the reader wants no more.
        Err(AuditError::Closed) => 0,
        Err(error) => return Err(told(error)),
    };
    let _ = out.flush();
    if unreadable > 0 {
        fail(format_args!("{unreadable} lines can not be read: see `undertone audit verify`"));
    }
    Ok(ExitCode::SUCCESS)
}

fn load(file: Option<&Path>) -> Result<Config, String> {
    config::load(file).map_err(|problems| problems.to_string())
}

fn told(error: AuditError) -> String {
    error.to_string()
}

fn own_files(config: &Config) -> Result<Vec<PathBuf>, String> {
    let (files, compressed) = files_of(&config.audit.file).map_err(told)?;
    if !compressed.is_empty() {
        let names: Vec<String> = compressed.iter().map(|path| path.display().to_string()).collect();
        fail(format_args!("not read, for they are compressed: {}", names.join(", ")));
    }
    Ok(files)
}

/// A name with the devices and the numbers that go with it in the directory.
fn names_of(name: String, config: Option<&Config>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    if let Some(directory) = config.map(|config| &config.directory) {
        let owned = directory.users.values().filter(|user| user.id.as_str() == name);
        names.extend(owned.flat_map(|user| &user.devices).map(|device| device.as_str().to_owned()));
        let known = directory.devices.values();
        let of_number = known.clone().filter(|device| device.number.as_str() == name);
        let devices: Vec<String> = of_number.map(|device| device.id.as_str().to_owned()).collect();
        names.extend(devices);
        let numbers =
            known.filter(|device| names.contains(device.id.as_str()) || device.id.as_str() == name);
        let numbers: Vec<String> =
            numbers.map(|device| device.number.as_str().to_owned()).collect();
        names.extend(numbers);
    }
    names.insert(name);
    names
}
