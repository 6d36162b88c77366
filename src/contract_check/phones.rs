//! The telephones of the backend under check.

use crate::model::PlainText;
use crate::telephony::phones::PhoneCommand;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::io;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// Bytes of an answer at most.
const LONGEST_ANSWER: u64 = 4096;

/// How things happen that no command of the contract makes happen.
pub trait Phones {
    /// Does it. Ends when it is done, as far as the telephone is concerned.
    fn act(&mut self, command: &PhoneCommand) -> impl Future<Output = Result<(), PhonesError>>;

    /// How what moves them has ended, when it has.
    fn ended(&mut self) -> Option<String> {
        None
    }
}

/// Something could not be done at a telephone.
#[derive(Debug, thiserror::Error)]
pub enum PhonesError {
    /// The program that moves them says why not.
    #[error("{}", PlainText(.0))]
    Refused(String),
    /// The program does not answer.
    #[error("the program that moves the telephones does not answer")]
    Silent,
    /// The program's answer has no end.
    #[error("the program that moves the telephones answers with more than {LONGEST_ANSWER} bytes")]
    TooLong,
    /// The program has ended.
    #[error("the program that moves the telephones has ended")]
    Ended,
    /// The program cannot be started, or spoken to.
    #[error("the program that moves the telephones: {0}")]
    Io(#[from] io::Error),
}

/// A program that lives longer has begun to read lines, or says why not.
const AT_ONCE: Duration = Duration::from_millis(300);

/// No telephones: never asked.
#[derive(Clone, Copy, Debug)]
pub enum NoPhones {}

impl Phones for NoPhones {
    async fn act(&mut self, _: &PhoneCommand) -> Result<(), PhonesError> {
        match *self {}
    }
}

/// A program that moves the telephones: it reads lines of [`PhoneCommand`] from its standard input
/// and answers each with one line, `ok` when it is done or `error` and why. Ended when dropped.
#[derive(Debug)]
pub struct PhonesProgram {
    child: Child,
    input: ChildStdin,
    answers: BufReader<ChildStdout>,
    patience: Duration,
    /// It has not answered once, or without end: which line a later answer belongs to is not known.
    is_lost: bool,
}

impl PhonesProgram {
    /// Starts it by `sh -c`. It has `patience` to answer a line.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(command: &str, patience: Duration) -> Result<Self, PhonesError> {
        let mut child = Command::new("sh")
            .args(["-c", command])
            // What the shell starts ends with it.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(PhonesError::Ended);
        };
        let answers = BufReader::new(output);
        Ok(Self { child, input, answers, patience, is_lost: false })
    }

    /// Waits a moment for a program that ends at once; true: it has.
    pub(super) async fn ends_at_once(&mut self) -> bool {
        timeout(AT_ONCE, self.child.wait()).await.is_ok()
    }

    async fn ask(&mut self, command: &PhoneCommand) -> Result<(), PhonesError> {
        self.input.write_all(format!("{command}\n").as_bytes()).await.map_err(ended)?;
        self.input.flush().await.map_err(ended)?;
        let mut answer = Vec::new();
        let most = LONGEST_ANSWER + 1;
        let read = (&mut self.answers).take(most).read_until(b'\n', &mut answer).await?;
        if read == 0 {
            return Err(PhonesError::Ended);
        }
        if answer.len() as u64 == most && !answer.ends_with(b"\n") {
            return Err(PhonesError::TooLong);
        }
        match String::from_utf8_lossy(&answer).trim() {
            "ok" => Ok(()),
            refused => Err(PhonesError::Refused(format!("'{command}' is answered '{refused}'"))),
        }
    }
}

impl Drop for PhonesProgram {
    fn drop(&mut self) {
        if let Some(id) = self.child.id().and_then(|id| i32::try_from(id).ok()) {
            // It may have ended by itself.
            let _ = killpg(Pid::from_raw(id), Signal::SIGTERM);
        }
    }
}

impl Phones for PhonesProgram {
    fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok().flatten()?;
        Some(status.to_string())
    }

    async fn act(&mut self, command: &PhoneCommand) -> Result<(), PhonesError> {
        if self.is_lost {
            return Err(PhonesError::Silent);
        }
        let patience = self.patience;
        let asked = timeout(patience, self.ask(command)).await;
        let asked = asked.unwrap_or(Err(PhonesError::Silent));
        self.is_lost = matches!(asked, Err(PhonesError::Silent | PhonesError::TooLong));
        asked
    }
}

/// A program that does not read any more has most likely ended.
fn ended(error: io::Error) -> PhonesError {
    match error.kind() {
        io::ErrorKind::BrokenPipe => PhonesError::Ended,
        _ => PhonesError::Io(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_without_end_is_not_kept_and_a_hostile_one_is_escaped() {
        let patience = Duration::from_secs(30);
        let command: PhoneCommand = "answer 5001".parse().expect("a command");
        let mut endless = PhonesProgram::start("yes | tr -d '\\n'", patience).expect("started");
        assert!(matches!(endless.act(&command).await, Err(PhonesError::TooLong)));
        assert!(matches!(endless.act(&command).await, Err(PhonesError::Silent)));
        let hostile = "printf '\\033[2J\\n'; printf 'ok\\n'; cat >/dev/null";
        let mut hostile = PhonesProgram::start(hostile, patience).expect("started");
        let refused = hostile.act(&command).await.expect_err("it is not ok");
        assert_eq!(refused.to_string(), r"'answer 5001' is answered '\u{1b}[2J'");
        hostile.act(&command).await.expect("the next line is ok");
    }
}
