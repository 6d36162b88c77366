//! `undertone attach`: what an owner of a switch pastes, by flags or by answers on a terminal.

use super::{fail, print};
use std::fmt::Display;
use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use undertone::attach::{
    Attachment, AttachmentFault, NumberRange, OurAddress, OutsidePrefix, Paste, SwitchAddress,
    SwitchKind, check_addresses, check_numbers, check_outside, check_users,
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
    let stdin = std::io::stdin();
    let answers = stdin.is_terminal().then(|| stdin.lock());
    let attachment = options
        .complete(&mut Terminal { answers, questions: std::io::stderr() })
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
    /// Asks for what is missing; for what can not be, again.
    fn complete<A: BufRead, Q: Write>(
        self,
        terminal: &mut Terminal<A, Q>,
    ) -> Result<Attachment, String> {
        let kind = terminal.known_or_asked(
            self.kind,
            ("--kind", "Switch (asterisk, freeswitch, kamailio, other)"),
            |_| Ok(()),
        )?;
        let switch = terminal.known_or_asked(
            self.switch,
            ("--switch", "Where the switch is (host or host:port)"),
            |_| Ok(()),
        )?;
        let us = terminal.known_or_asked(
            self.us,
            ("--us", "Where it reaches Undertone (address or address:port)"),
            |us| check_addresses(&switch, *us),
        )?;
        let (agent, supervisor) = (self.agent, self.supervisor);
        let of = |range: Option<&NumberRange>, end: fn(&NumberRange) -> &str| {
            range.map(|range| end(range).to_owned()).unwrap_or_default()
        };
        let agent_of = |numbers: &[NumberRange]| {
            agent.clone().unwrap_or_else(|| of(numbers.first(), NumberRange::first))
        };
        let supervisor_of = |numbers: &[NumberRange]| {
            supervisor.clone().unwrap_or_else(|| of(numbers.last(), NumberRange::last))
        };
        let List(numbers) = terminal.known_or_asked(
            Some(List(self.numbers)).filter(|List(numbers)| !numbers.is_empty()),
            ("--numbers", "Numbers of its phones (5000-5999, several with commas)"),
            |List(numbers)| {
                check_numbers(numbers)?;
                check_users(numbers, &agent_of(numbers), &supervisor_of(numbers))
            },
        )?;
        let List(outside) = terminal.known_or_asked(
            Some(List(self.outside)).filter(|List(outside)| !outside.is_empty()),
            ("--outside", "What numbers outside begin with (0, several with commas)"),
            |List(outside)| check_outside(outside, &numbers),
        )?;
        let (agent, supervisor) = (agent_of(&numbers), supervisor_of(&numbers));
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

/// Where questions are asked.
struct Terminal<A, Q> {
    /// Where answers come from, if there is somebody.
    answers: Option<A>,
    questions: Q,
}

impl<A: BufRead, Q: Write> Terminal<A, Q> {
    /// What a flag says, or somebody at the terminal, who is asked until it can be.
    fn known_or_asked<T>(
        &mut self,
        known: Option<T>,
        (flag, question): (&str, &str),
        check: impl Fn(&T) -> Result<(), AttachmentFault>,
    ) -> Result<T, String>
    where
        T: FromStr<Err: Display>,
    {
        if let Some(known) = known {
            return Ok(known);
        }
        let Some(answers) = &mut self.answers else {
            return Err(format!("{flag} is missing, and there is no terminal to ask at"));
        };
        loop {
            let mut line = String::new();
            write!(self.questions, "{question}: ").map_err(|error| error.to_string())?;
            self.questions.flush().map_err(|error| error.to_string())?;
            let read = answers.read_line(&mut line).map_err(|error| error.to_string())?;
            if read == 0 {
                return Err(format!("{flag} is missing"));
            }
            let answer = line.trim().parse::<T>().map_err(|error| error.to_string());
            let answer = answer.and_then(|answer| match check(&answer) {
                Ok(()) => Ok(answer),
                Err(fault) => Err(fault.to_string()),
            });
            match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    writeln!(self.questions, "{error}").map_err(|error| error.to_string())?
                }
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_can_not_be_is_asked_for_again_and_the_others_are_kept() {
        let answers = "toaster\nasterisk\n192.0.2.10\n192.0.2.10\n192.0.2.20\n\
                       5000-5999,5500-5600\n5001\n5000-5999\n5\n0,+\n";
        let mut terminal = Terminal { answers: Some(answers.as_bytes()), questions: Vec::new() };
        let options = AttachOptions {
            kind: None,
            switch: None,
            us: None,
            numbers: Vec::new(),
            outside: Vec::new(),
            agent: None,
            supervisor: None,
            into: None,
        };
        let attachment = options.complete(&mut terminal).unwrap().checked().unwrap();
        assert_eq!((attachment.agent.as_str(), attachment.supervisor.as_str()), ("5000", "5999"));
        let said = String::from_utf8(terminal.questions).unwrap();
        for fault in [
            "'toaster' is not asterisk",
            "can not both be at 192.0.2.10:5060",
            "5000-5999 and 5500-5600 have numbers in common",
            "'5001' can not be the number of the agent and of the supervisor",
            "'5' does not tell numbers outside from 5000-5999",
        ] {
            assert!(said.contains(fault), "{fault}: {said}");
        }
    }
}
