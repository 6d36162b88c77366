//! `undertone attach`: what an owner of a switch pastes, by flags or by answers on a terminal.

use super::{fail, print};
use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use undertone::attach::{
    Attachment, NumberRange, OurAddress, OutsidePrefix, Paste, SwitchAddress, SwitchKind,
};

/// What is known of a switch.
#[derive(Debug, clap::Args)]
pub(super) struct AttachOptions {
    /// What it is: asterisk (with chan_pjsip), freeswitch, kamailio or other
    #[arg(long, value_name = "KIND")]
    kind: Option<SwitchKind>,
    /// Where it is
    #[arg(long, value_name = "HOST[:PORT]")]
    switch: Option<SwitchAddress>,
    /// Where it, and its phones, reach this program
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    us: Option<OurAddress>,
    /// The numbers of the phones whose calls are led through, as the switch calls the phones
    #[arg(long, value_name = "FIRST-LAST", value_delimiter = ',')]
    numbers: Vec<NumberRange>,
    /// What numbers outside begin with
    #[arg(long, value_name = "PREFIX", value_delimiter = ',')]
    outside: Vec<OutsidePrefix>,
    /// The number of the first agent; left out: the first number
    #[arg(long, value_name = "NUMBER")]
    agent: Option<String>,
    /// The number of the first supervisor; left out: the last number
    #[arg(long, value_name = "NUMBER")]
    supervisor: Option<String>,
    /// Writes each text into a file of this folder, which is made if it is not there
    #[arg(long, value_name = "FOLDER")]
    into: Option<PathBuf>,
}

pub(super) fn run(options: AttachOptions) -> ExitCode {
    let into = options.into.clone();
    let attachment = options
        .complete()
        .and_then(|attachment| attachment.checked().map_err(|fault| fault.to_string()));
    let pastes = match attachment {
        Ok(attachment) => attachment.pastes(),
        Err(error) => return fail(error),
    };
    match into {
        Some(folder) => match write_into(&folder, &pastes) {
            Ok(written) => print(&written),
            Err(error) => fail(error),
        },
        None => print(&pastes.iter().map(headed).collect::<String>()),
    }
}

impl AttachOptions {
    /// Asks for what is missing.
    fn complete(self) -> Result<Attachment, String> {
        let kind =
            known_or_asked(self.kind, "--kind", "Switch (asterisk, freeswitch, kamailio, other)")?;
        let switch =
            known_or_asked(self.switch, "--switch", "Where the switch is (host or host:port)")?;
        let us = known_or_asked(
            self.us,
            "--us",
            "Where it reaches Undertone (address or address:port)",
        )?;
        let numbers = match self.numbers.is_empty() {
            false => self.numbers,
            true => known_or_asked(
                None,
                "--numbers",
                "Numbers of its phones (5000-5999, several with commas)",
            )
            .map(|List(numbers)| numbers)?,
        };
        let outside = match self.outside.is_empty() {
            false => self.outside,
            true => known_or_asked(
                None,
                "--outside",
                "What numbers outside begin with (0, several with commas)",
            )
            .map(|List(prefixes)| prefixes)?,
        };
        let of = |range: Option<&NumberRange>, end: fn(&NumberRange) -> &str| {
            range.map(|range| end(range).to_owned()).unwrap_or_default()
        };
        let agent = self.agent.unwrap_or_else(|| of(numbers.first(), NumberRange::first));
        let supervisor = self.supervisor.unwrap_or_else(|| of(numbers.last(), NumberRange::last));
        Ok(Attachment { kind, switch, us, numbers, outside, agent, supervisor })
    }
}

/// Several of a thing, with commas between them.
struct List<T>(Vec<T>);

impl<T: FromStr> FromStr for List<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        text.split(',').map(|one| one.trim().parse()).collect::<Result<_, _>>().map(Self)
    }
}

/// What a flag says, or somebody at the terminal, who is asked until it can be read.
fn known_or_asked<T>(known: Option<T>, flag: &str, question: &str) -> Result<T, String>
where
    T: FromStr<Err: Display>,
{
    if let Some(known) = known {
        return Ok(known);
    }
    if !std::io::stdin().is_terminal() {
        return Err(format!("{flag} is missing, and there is no terminal to ask at"));
    }
    loop {
        let mut line = String::new();
        let mut terminal = std::io::stderr().lock();
        write!(terminal, "{question}: ").map_err(|error| error.to_string())?;
        let read = std::io::stdin().read_line(&mut line).map_err(|error| error.to_string())?;
        if read == 0 {
            return Err(format!("{flag} is missing"));
        }
        match line.trim().parse() {
            Ok(answer) => return Ok(answer),
            Err(error) => writeln!(terminal, "{error}").map_err(|error| error.to_string())?,
        }
    }
}

fn headed(Paste { file, text }: &Paste) -> String {
    format!("==== {file} ====\n{text}\n")
}

fn write_into(folder: &Path, pastes: &[Paste]) -> Result<String, String> {
    let failed = |path: &Path, error| format!("{}: {error}", path.display());
    std::fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
    // What was made before may have been changed by hand since.
    for Paste { file, .. } in pastes {
        let path = folder.join(file);
        if path.exists() {
            return Err(format!("{} is there already: nothing is written", path.display()));
        }
    }
    let mut written = String::new();
    for Paste { file, text } in pastes {
        let path = folder.join(file);
        std::fs::write(&path, text).map_err(|error| failed(&path, error))?;
        written += &format!("{}\n", path.display());
    }
    Ok(written)
}
