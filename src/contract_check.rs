//! What every backend of `undertone.telephony.v1` must do, checked over gRPC against any backend in
//! any language: `undertone contract-check URL`, and the tests of our own backends.
//!
//! Each rule is one sentence, a variant of [`Rule`]. What Describe does not offer is not asked for.
//! What no command makes happen (a customer calls, a phone is busy) is asked of [`Phones`].

mod phones;
mod report;
mod rule;
mod rules;
mod session;
pub mod terminal;

pub use phones::{NoPhones, Phones, PhonesError, PhonesProgram};
pub use report::{Report, RuleOutcome, RuleReport};
pub use rule::Rule;

use crate::model::{Capabilities, DeviceId, Number, PlainText, Reason, Refusal, UserId};
use crate::telephony::connection::TelephonyChannel;
use crate::telephony::proto::telephony_client::TelephonyClient;
use crate::telephony::{proto, refusal_of};
use session::{Bench, Miss, Verdict};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status};

/// Between two tries to reach a backend that is still starting.
const AGAIN: Duration = Duration::from_millis(100);

/// What tonic says before the HTTP status of an answer that is no gRPC: one without a body, and one
/// whose body is no message.
const BEFORE_HTTP_STATUS: [&str; 2] = [
    "grpc-status header missing, mapped from HTTP status code ",
    " while receiving response with status: ",
];
/// How tonic begins to say that an answer is otherwise no gRPC.
const NO_GRPC: &str = "protocol error:";

/// How the reason begins for which every rule is left out after one that left something behind.
const UNREST: &str = "the backend was not at rest ";

/// Who is who on the backend: telephones by their numbers, and the users that commands are given
/// for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct House {
    /// A supervisor.
    pub supervisor: (Number, UserId),
    /// Another supervisor.
    pub second: (Number, UserId),
    /// An agent that both may monitor.
    pub agent: (Number, UserId),
    /// Another one.
    pub colleague: (Number, UserId),
    /// A telephone outside, which calls the agent.
    pub customer: Number,
}

impl Default for House {
    /// The world of `docs/contract-suite.toml`.
    fn default() -> Self {
        Self {
            supervisor: ("5005".into(), "supervisor".into()),
            second: ("5006".into(), "supervisor2".into()),
            agent: ("5001".into(), "agent".into()),
            colleague: ("5002".into(), "agent2".into()),
            customer: "7001".into(),
        }
    }
}

/// Somebody of the house with a device.
#[derive(Clone, Debug)]
struct Person {
    device: DeviceId,
    number: Number,
    user: UserId,
}

/// The house, with the devices that the backend has for its numbers.
#[derive(Clone, Debug)]
struct Residents {
    supervisor: Person,
    second: Person,
    agent: Person,
    colleague: Person,
    customer: Number,
}

/// Why nothing could be checked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotChecked {
    /// The backend does not answer, or refuses Describe or Watch.
    #[error("the backend can not be reached: {}", PlainText(.0))]
    Unreachable(Refusal),
    /// The backend has no device with a number of the house.
    #[error("the backend has no device with the number {0}; it has {known}", known = PlainText(.1))]
    NoDevice(Number, String),
    /// What should move the telephones does not run.
    #[error("the program that moves the telephones has ended ({0}) before anything was checked")]
    PhonesEnded(String),
    /// Something else answers there.
    #[error("what answers there is no gRPC server of undertone.telephony.v1: {}", PlainText(.0))]
    SomethingElse(String),
    /// What is going on there would be disturbed.
    #[error("the backend is not at rest: it has {calls} calls and {monitors} monitors")]
    Busy {
        /// Calls that live.
        calls: usize,
        /// Monitors.
        monitors: usize,
    },
}

/// Holds a backend against every rule, one after the other, and hands each outcome to `told` as it
/// is known. No wait is longer than `patience`, but that for leave to join, of at least eight
/// seconds, and that for a supervisor's phone that nobody answers, of at least 25. `phones`: `None` leaves out the rules that need telephones.
///
/// # Errors
/// The backend can not be checked.
pub async fn check<P: Phones>(
    channel: TelephonyChannel,
    house: &House,
    mut phones: Option<P>,
    patience: Duration,
    mut told: impl FnMut(&RuleReport),
) -> Result<Report, NotChecked> {
    let mut client = TelephonyClient::new(channel);
    let met = meet(&mut client, patience).await;
    if let Some(how) = phones.as_mut().and_then(Phones::ended) {
        return Err(NotChecked::PhonesEnded(how));
    }
    let offered = met?;
    let backend = offered.backend.clone();
    let residents = settle_in(&client, house, patience).await?;
    let mut bench = Bench::new(client, residents, offered, phones, patience);
    let mut rules = Vec::new();
    let mut unrest: Option<Rule> = None;
    for rule in Rule::ALL {
        let outcome = match (unrest, bench.missing(*rule)) {
            (Some(before), _) => {
                let why = format!("{UNREST}after \"{}\"", before.sentence());
                RuleOutcome::Skipped { why }
            }
            (None, Some(why)) => RuleOutcome::Skipped { why },
            (None, None) => {
                let verdict = bench.hold_against(*rule).await;
                match (verdict, bench.tidy().await) {
                    (verdict, Ok(())) => outcome_of(verdict),
                    (Err(failed @ Miss::Failed { .. }), Err(_)) => {
                        unrest = Some(*rule);
                        outcome_of(Err(failed))
                    }
                    (Ok(()) | Err(Miss::Skipped(_)), Err(untidy)) => {
                        unrest = Some(*rule);
                        outcome_of(Err(untidy))
                    }
                }
            }
        };
        let report = RuleReport { rule: *rule, outcome };
        told(&report);
        rules.push(report);
    }
    Ok(Report { backend, rules })
}

fn outcome_of(verdict: Verdict) -> RuleOutcome {
    match verdict {
        Ok(()) => RuleOutcome::Ok,
        Err(Miss::Failed { expected, came }) => RuleOutcome::Failed { expected, came },
        Err(Miss::Skipped(why)) => RuleOutcome::Skipped { why },
    }
}

/// What the backend can do; asked again while it is starting.
async fn meet(
    client: &mut TelephonyClient<TelephonyChannel>,
    patience: Duration,
) -> Result<Capabilities, NotChecked> {
    let until = Instant::now() + patience;
    loop {
        let (not_checked, may_be_starting) =
            match timeout(patience, client.describe(proto::DescribeRequest {})).await {
                Ok(Ok(described)) => return Ok(described.into_inner().into()),
                Ok(Err(status)) => NotChecked::from_describe(&status),
                Err(_) => {
                    let silent = Refusal::new(Reason::Unavailable, "Describe is not answered.");
                    (NotChecked::Unreachable(silent), true)
                }
            };
        if !may_be_starting || Instant::now() >= until {
            return Err(not_checked);
        }
        sleep(AGAIN).await;
    }
}

impl NotChecked {
    /// Describe was refused. True: what answers may be a backend that is still starting, or a proxy
    /// in front of one.
    fn from_describe(status: &Status) -> (Self, bool) {
        let refusal = refusal_of(status);
        let may_be_starting = refusal.reason == Reason::Unavailable;
        let message = status.message();
        let http_status = BEFORE_HTTP_STATUS.iter().find_map(|said| message.split_once(said));
        let (what, may_be_starting) = if is_no_http2(status) {
            (format!("it does not speak HTTP/2 ({message})"), false)
        } else if let Some((_, http)) = http_status {
            (format!("it answers as plain HTTP does, with status {http}"), may_be_starting)
        } else if message.starts_with(NO_GRPC) {
            (message.to_owned(), false)
        } else if status.code() == Code::Unimplemented {
            (format!("it has no Describe ({message})"), false)
        } else {
            return (NotChecked::Unreachable(refusal), may_be_starting);
        };
        (NotChecked::SomethingElse(what), may_be_starting)
    }
}

/// HTTP/1, or no HTTP at all.
fn is_no_http2(status: &Status) -> bool {
    use std::error::Error;
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.to_string().contains("http2 error") {
            return true;
        }
        cause = error.source();
    }
    status.message().contains("http2 error")
}

async fn settle_in(
    client: &TelephonyClient<TelephonyChannel>,
    house: &House,
    patience: Duration,
) -> Result<Residents, NotChecked> {
    let known = session::snapshot(client, patience).await.map_err(|miss| {
        let text = match miss {
            Miss::Failed { expected, came } => format!("{expected}: {came}"),
            Miss::Skipped(why) => why,
        };
        NotChecked::Unreachable(Refusal::new(Reason::Unavailable, text))
    })?;
    if !known.calls.is_empty() || !known.monitors.is_empty() {
        let (calls, monitors) = (known.calls.len(), known.monitors.len());
        return Err(NotChecked::Busy { calls, monitors });
    }
    let person = |(number, user): &(Number, UserId)| {
        let device = known.devices.values().find(|device| device.number == *number);
        let person = device.map(|device| Person {
            device: device.id.clone(),
            number: number.clone(),
            user: user.clone(),
        });
        person.ok_or_else(|| {
            let numbers: Vec<_> =
                known.devices.values().map(|device| device.number.as_str()).collect();
            NotChecked::NoDevice(number.clone(), numbers.join(", "))
        })
    };
    Ok(Residents {
        supervisor: person(&house.supervisor)?,
        second: person(&house.second)?,
        agent: person(&house.agent)?,
        colleague: person(&house.colleague)?,
        customer: house.customer.clone(),
    })
}
