//! A switch with its phones, a carrier behind it, and the product beside it, each at an address of
//! its own on the loopback.

use super::asterisk::Asterisk;
use super::kamailio::Kamailio;
use crate::support::process::Process;
use crate::support::rest_client::RestClient;
use crate::support::talk::{PATIENCE, Speaker, hear};
use crate::support::wait;
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use undertone::attach::{Attachment, SwitchKind};
use undertone::demo::phone::{AnswerPolicy, Phone, PhoneConfig};

/// Somebody with a phone, and the tone spoken there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Person {
    pub name: &'static str,
    pub number: &'static str,
    pub hz: u16,
}

pub const AGENT: Person = Person { name: "agent", number: "5001", hz: 613 };
pub const COLLEAGUE: Person = Person { name: "colleague", number: "5002", hz: 787 };
pub const SUPERVISOR: Person = Person { name: "supervisor", number: "5005", hz: 1021 };
/// Somebody outside, whom the carrier brings and reaches.
pub const CUSTOMER: Person = Person { name: "customer", number: "0301234", hz: 437 };
/// Somebody else outside.
pub const FRIEND: Person = Person { name: "friend", number: "0302222", hz: 1327 };
/// What the switch plays to a call that is on hold.
pub const MUSIC_HZ: u16 = 1567;

/// Addresses of the loopback that no other test has.
#[derive(Clone, Copy, Debug)]
pub struct Network(u8, u8);

impl Network {
    fn new() -> Network {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        const PER_PROCESS: u32 = 4;
        const FIRST: u32 = 64;
        let place = std::process::id() * PER_PROCESS + COUNT.fetch_add(1, Ordering::Relaxed);
        let bytes = place.to_be_bytes();
        Network((FIRST + u32::from(bytes[2]) % 128) as u8, bytes[3])
    }

    pub fn ip(self, last: u8) -> IpAddr {
        Ipv4Addr::new(127, self.0, self.1, last).into()
    }

    pub fn switch(self) -> SocketAddr {
        SocketAddr::new(self.ip(1), 5060)
    }

    pub fn us(self) -> SocketAddr {
        SocketAddr::new(self.ip(2), 5060)
    }
}

/// The switch, as it runs.
pub enum Switch {
    Asterisk(Asterisk),
    Kamailio(Kamailio),
}

/// All of them.
pub struct Site {
    pub network: Network,
    pub switch: Switch,
    pub us: Option<Process>,
    pub agent: Phone,
    pub colleague: Phone,
    pub supervisor: Phone,
    pub customer: Phone,
    pub friend: Phone,
    place: TempDir,
}

impl Site {
    /// The switch is attached, its phones are registered with it, and both sides have seen each
    /// other.
    pub async fn open(kind: SwitchKind) -> Site {
        let network = Network::new();
        let place = tempfile::tempdir().unwrap();
        let customer = outside(CUSTOMER, network.ip(200), network).await;
        let friend = outside(FRIEND, network.ip(201), network).await;
        let carrier = [customer.address(), friend.address()];
        let attachment = attachment(kind, network);
        let switch = match kind {
            SwitchKind::Asterisk => {
                Switch::Asterisk(Asterisk::start(&attachment, network, carrier).await)
            }
            SwitchKind::Kamailio => {
                Switch::Kamailio(Kamailio::start(&attachment, network, carrier).await)
            }
            SwitchKind::FreeSwitch | SwitchKind::Other => panic!("there is none to be had"),
        };
        let us = start_us(&attachment, &place).await;
        let phone = async |person: Person, answer| {
            let phone = Phone::start(phone_config(person, network).answering(answer)).await;
            let phone = phone.unwrap();
            phone.register().await.unwrap();
            phone
        };
        let site = Site {
            agent: phone(AGENT, AnswerPolicy::Auto(Duration::ZERO)).await,
            colleague: phone(COLLEAGUE, AnswerPolicy::Auto(Duration::ZERO)).await,
            supervisor: phone(SUPERVISOR, AnswerPolicy::ByHeader).await,
            network,
            switch,
            us: Some(us),
            customer,
            friend,
            place,
        };
        if let Switch::Asterisk(asterisk) = &site.switch {
            asterisk.sees_us().await;
        }
        site
    }

    /// Waits until the switch knows that we are gone, if it looks.
    pub async fn misses_us(&self) {
        if let Switch::Asterisk(asterisk) = &self.switch {
            asterisk.misses_us().await;
        }
    }

    /// Another line of the agent's phone: it calls, and is not called.
    pub async fn second_line(&self) -> Phone {
        Phone::start(phone_config(AGENT, self.network)).await.unwrap()
    }

    /// The carrier brings a call of somebody that shows this number, and asserts another or none.
    pub async fn stranger(&self, shown: &'static str, asserted: Option<&str>) -> Phone {
        let stranger = Person { name: "stranger", number: shown, hz: FRIEND.hz };
        let config = PhoneConfig {
            asserts: asserted.map(str::to_owned),
            ..outside_config(stranger, self.network.ip(200), self.network)
        };
        Phone::start(config).await.unwrap()
    }

    /// The customer calls the agent, who answers.
    pub async fn call(&self) {
        self.customer.call(AGENT.number).await.unwrap();
        self.customer.established(PATIENCE).await.unwrap();
    }

    /// A user's client, with the password that was made at the first start.
    pub fn client(&self, user: &str) -> RestClient {
        let made = fs::read_to_string(self.place.path().join("state/made-passwords.txt")).unwrap();
        let password = made
            .lines()
            .find_map(|line| line.strip_prefix("REST ")?.strip_prefix(user)?.strip_prefix(' '));
        let password = password.unwrap_or_else(|| panic!("no password of {user} in {made}"));
        RestClient::new(self.us.as_ref().unwrap().door("rest"), user, password)
    }

    /// The supervisor coaches, listens or barges in, with more in the request.
    pub async fn monitor(&self, operation: &str, more: Value) {
        let mut body = json!({
            "operationName": operation,
            "targetDeviceUri": format!("http://localhost/api/v2/devices/{}", AGENT.number),
        });
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        let path = format!("/me/devices/{}", SUPERVISOR.number);
        self.client("supervisor").post(&path, body).await;
    }

    /// The calls of a user.
    pub async fn calls(&self, user: &str) -> Vec<Value> {
        let mut reply = self.client(user).look("/me/calls?fields=*").await;
        reply["calls"].as_array_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Waits until the states of a user's calls are these, in any order; the calls.
    #[track_caller]
    pub fn until(&self, user: &str, states: &[&str]) -> impl Future<Output = Vec<Value>> {
        let caller = std::panic::Location::caller();
        let mut wanted: Vec<String> = states.iter().map(|state| (*state).to_owned()).collect();
        wanted.sort_unstable();
        let user = user.to_owned();
        async move {
            let found = wait::found(PATIENCE, async || {
                let calls = self.calls(&user).await;
                let mut now: Vec<String> = calls
                    .iter()
                    .filter_map(|call| Some(call["state"].as_str()?.to_owned()))
                    .collect();
                now.sort_unstable();
                (now == wanted).then_some(calls)
            });
            match found.await {
                Some(calls) => calls,
                None => panic!("{caller}: {user}: {wanted:?}, not {:#?}", self.calls(&user).await),
            }
        }
    }

    /// A user does something with a call of theirs.
    pub async fn does(&self, user: &str, call: &Value, body: Value) {
        let id = call["id"].as_str().unwrap();
        self.client(user).post(&format!("/me/calls/{id}"), body).await;
    }

    /// Waits until customer, agent, colleague and supervisor hear exactly these.
    #[track_caller]
    pub fn hear<'a>(&'a self, expected: [&'a str; 4]) -> impl Future<Output = ()> + use<'a> {
        let speakers: [Speaker<'a>; 4] = [
            (CUSTOMER.name, &self.customer, f32::from(CUSTOMER.hz)),
            (AGENT.name, &self.agent, f32::from(AGENT.hz)),
            (COLLEAGUE.name, &self.colleague, f32::from(COLLEAGUE.hz)),
            (SUPERVISOR.name, &self.supervisor, f32::from(SUPERVISOR.hz)),
        ];
        hear(speakers, expected)
    }

    /// What the product has logged.
    pub fn log(&self) -> String {
        self.us.as_ref().map(|us| us.log().join("\n")).unwrap_or_default()
    }
}

impl Drop for Site {
    /// What was said on the wire is what explains a failure.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let mut story = format!("--- the product\n{}\n", self.log());
        for phone in [&self.customer, &self.friend, &self.agent, &self.colleague, &self.supervisor]
        {
            story += &format!("--- {} at {}\n", phone.number(), phone.address());
            for message in phone.trace() {
                let way = if message.sent { '>' } else { '<' };
                story += &format!("{way} {}\n", message.line);
            }
        }
        story += "--- the switch\n";
        story += &match &self.switch {
            Switch::Asterisk(asterisk) => asterisk.log(),
            Switch::Kamailio(kamailio) => kamailio.log(),
        };
        // The test has failed already.
        let _ = std::io::stderr().write_all(story.as_bytes());
    }
}

/// What is asked of `undertone attach`.
pub fn attachment(kind: SwitchKind, network: Network) -> Attachment {
    Attachment {
        kind,
        switch: network.switch().to_string().parse().unwrap(),
        us: network.us().to_string().parse().unwrap(),
        numbers: vec!["5000-5999".parse().unwrap()],
        outside: vec!["0".parse().unwrap()],
        agent: AGENT.number.to_owned(),
        supervisor: SUPERVISOR.number.to_owned(),
    }
}

/// The product, with what is pasted. Its other doors are at free ports, and there is a user more.
async fn start_us(attachment: &Attachment, place: &TempDir) -> Process {
    let ours = attachment.ours();
    let doors = "[rest]\nbind = '127.0.0.1:0'\n[grpc]\nbind = '127.0.0.1:0'\n[admin]\n\
                 bind = '127.0.0.1:0'\n[log]\nfilter = 'info,undertone=debug'\npersonal_data = true\n";
    let colleague = format!(
        "[[user]]\nid = 'colleague'\nroles = ['Agent']\ndevices = ['{}']\n",
        COLLEAGUE.number
    );
    let text = format!("state_dir = 'state'\n{ours}\n{doors}\n{colleague}");
    let us = Process::start("serve", place.path(), &text).await;
    us.ready().await;
    us
}

/// The password of a phone at the switch.
pub fn password(number: &str) -> String {
    format!("secret-{number}")
}

fn phone_config(person: Person, network: Network) -> PhoneConfig {
    let last = person.number[2..].parse::<u8>().unwrap() + 10;
    PhoneConfig {
        ip: network.ip(last),
        ..PhoneConfig::new(
            person.number,
            &password(person.number),
            network.switch(),
            f32::from(person.hz),
        )
    }
}

fn outside_config(person: Person, ip: IpAddr, network: Network) -> PhoneConfig {
    let config = PhoneConfig::new(person.number, "", network.switch(), f32::from(person.hz));
    PhoneConfig { ip, ..config }
}

async fn outside(person: Person, ip: IpAddr, network: Network) -> Phone {
    Phone::start(outside_config(person, ip, network)).await.unwrap()
}
