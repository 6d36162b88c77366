//! Customer, agent and supervisor as software phones, and who hears whom among them.

use super::server::{AGENT, Account, CUSTOMER, SUPERVISOR};
use super::wait;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use undertone::clock;
use undertone::demo::phone::{AnswerPolicy, Phone, PhoneConfig};

/// Longer than anything takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// What is heard is measured over so much.
const WINDOW: Duration = Duration::from_millis(200);
/// A tone louder than this is heard; phones speak at −16 dBFS.
pub const HEARD: f32 = -30.0;

/// Each with a tone of its own.
const TONES: [f32; 3] = [437.0, 613.0, 877.0];
/// The customer's tone.
pub const CUSTOMER_HZ: f32 = TONES[0];
/// The agent's tone.
pub const AGENT_HZ: f32 = TONES[1];
/// The supervisor's tone.
pub const SUPERVISOR_HZ: f32 = TONES[2];

/// Nobody but customer and agent hear each other.
pub const TALK: [&str; 3] = ["agent", "customer", ""];
/// The supervisor hears both, and only the agent hears the supervisor.
pub const COACH: [&str; 3] = ["agent", "customer supervisor", "customer agent"];
/// All hear all.
pub const BARGE_IN: [&str; 3] = ["agent supervisor", "customer supervisor", "customer agent"];

const NAMES: [&str; 3] = ["customer", "agent", "supervisor"];

/// A registered phone.
pub async fn phone(account: Account, sip: SocketAddr, hz: f32, answer: AnswerPolicy) -> Phone {
    let config = PhoneConfig::new(account.number, account.password, sip, hz).answering(answer);
    let phone = Phone::start(config).await.unwrap();
    phone.register().await.unwrap();
    phone
}

/// The three phones, registered.
pub struct Trio {
    pub customer: Phone,
    pub agent: Phone,
    pub supervisor: Phone,
}

impl Trio {
    /// The agent answers at once, the supervisor's phone when it is asked to.
    pub async fn register(sip: SocketAddr) -> Trio {
        Trio {
            customer: phone(CUSTOMER, sip, CUSTOMER_HZ, AnswerPolicy::Never).await,
            agent: phone(AGENT, sip, AGENT_HZ, AnswerPolicy::Auto(Duration::ZERO)).await,
            supervisor: phone(SUPERVISOR, sip, SUPERVISOR_HZ, AnswerPolicy::ByHeader).await,
        }
    }

    /// The customer calls the agent, who answers.
    pub async fn call(&self) {
        self.customer.call(AGENT.number).await.unwrap();
        self.customer.established(PATIENCE).await.unwrap();
    }

    /// Waits until exactly these hear exactly those; only what is heard from now on counts.
    #[track_caller]
    pub fn hear(&self, expected: [&'static str; 3]) -> impl Future<Output = ()> {
        let phones = [&self.customer, &self.agent, &self.supervisor];
        let speakers = std::array::from_fn(|at| (NAMES[at], phones[at], TONES[at]));
        hear(speakers, expected)
    }
}

/// Somebody by name, with the tone of the phone.
pub type Speaker<'a> = (&'static str, &'a Phone, f32);

/// Waits until each hears exactly those of the others that are named in its place; only what is
/// heard from now on counts.
#[track_caller]
pub fn hear<'a, const N: usize>(
    speakers: [Speaker<'a>; N],
    expected: [&'a str; N],
) -> impl Future<Output = ()> + use<'a, N> {
    let (since, caller) = (clock::instant(), std::panic::Location::caller());
    async move {
        let wrong = || wrong(&speakers, &expected, since);
        let in_time = wait::found(PATIENCE, async || wrong().is_empty().then_some(())).await;
        assert!(in_time.is_some(), "{caller}: {:?}", wrong());
    }
}

/// What is wrong now, judged by what came after `since`.
fn wrong(speakers: &[Speaker<'_>], expected: &[&str], since: Instant) -> Vec<String> {
    if clock::instant() < since + WINDOW {
        return vec!["too early to tell".into()];
    }
    let mut wrong = Vec::new();
    for ((listener, phone, _), expected) in speakers.iter().zip(expected) {
        for (speaker, _, hz) in speakers {
            let allowed = expected.split(' ').any(|name| name == *speaker);
            let level = phone.hears(*hz, WINDOW);
            if (level > HEARD) != allowed {
                wrong.push(format!("{listener} hears {speaker} at {level} dBFS"));
            }
        }
    }
    wrong
}
