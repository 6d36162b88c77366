//! The telephones of the backend under check.

use crate::telephony::phones::PhoneCommand;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::io;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

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
    #[error("{0}")]
    Refused(String),
    /// The program does not answer.
    #[error("the program that moves the telephones does not answer")]
    Silent,
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
    answers: Lines<BufReader<ChildStdout>>,
    patience: Duration,
    /// It has not answered once: which line a later answer belongs to is not known.
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
        let answers = BufReader::new(output).lines();
        Ok(Self { child, input, answers, patience, is_lost: false })
    }

    /// Waits a moment for a program that ends at once; true: it has.
    pub(super) async fn ends_at_once(&mut self) -> bool {
        timeout(AT_ONCE, self.child.wait()).await.is_ok()
    }

    async fn ask(&mut self, command: &PhoneCommand) -> Result<(), PhonesError> {
        self.input.write_all(format!("{command}\n").as_bytes()).await.map_err(ended)?;
        self.input.flush().await.map_err(ended)?;
        let answer = self.answers.next_line().await?.ok_or(PhonesError::Ended)?;
        match answer.trim() {
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
        self.is_lost = asked.is_err();
        asked.unwrap_or(Err(PhonesError::Silent))
    }
}

/// A program that does not read any more has most likely ended.
fn ended(error: io::Error) -> PhonesError {
    match error.kind() {
        io::ErrorKind::BrokenPipe => PhonesError::Ended,
        _ => PhonesError::Io(error),
    }
}
