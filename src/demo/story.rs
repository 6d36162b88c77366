//! The scripts, one for each [`Scenario`].

use super::desktop::{Desktop, Notifications};
use super::hearing::{self, HeardPart, Person, Phase, Scene};
use super::timeline::Timeline;
use super::world::{self, World};
use super::{DemoError, DemoOptions, Scenario};
use crate::clock;
use crate::demo::phone::{AnswerPolicy, Phone, SrtpCounts, Voice};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Write;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(8);
/// From a change to the first packet that is measured: what was under way has arrived.
const SETTLE: Duration = Duration::from_millis(250);
const LISTEN: Duration = Duration::from_millis(700);
/// A burst in the supervisor's voice that is looked for at the agent.
const MARK: Voice = Voice { hz: 2203.0, dbfs: -10.0 };
const MARK_PACKETS: usize = 4;
const MARKS: usize = 5;

/// What the demo has found.
struct Findings {
    phases: Vec<Phase>,
    join: Option<Duration>,
    armed_join: Option<Duration>,
    /// What the story comes to when every cell is right.
    moral: &'static str,
    whisper_delays: Vec<f64>,
    customer_packets: usize,
    identical: usize,
    /// What has come to all phones, where they have SRTP.
    srtp: Option<SrtpCounts>,
}

impl Findings {
    fn whisper_delay_ms(&self) -> Option<f64> {
        let mut delays = self.whisper_delays.clone();
        delays.sort_by(f64::total_cmp);
        delays.get(delays.len() / 2).copied()
    }

    fn ok(&self) -> bool {
        let right = self.phases.iter().all(Phase::is_right);
        let relayed = self.customer_packets > 0 && self.identical == self.customer_packets;
        let encrypted = self.srtp.is_none_or(|srtp| srtp.encrypted > 0 && srtp.rejected == 0);
        right && relayed && encrypted && self.join.is_some() && self.whisper_delay_ms().is_some()
    }
}

/// Tells the story; `Ok(false)` when a cell of the table is wrong.
///
/// # Errors
/// The story did not come to its end.
pub async fn run(options: DemoOptions) -> Result<bool, DemoError> {
    let timeline = Timeline::new(clock::instant(), !options.json, options.verbose);
    let world = World::start(options.split, options.tls).await?;
    timeline.title(&format!(
        "Undertone on free loopback ports{}: REST and CometD {}, SIP {}{}",
        if options.split { ", gateway and SIP backend as two processes" } else { "" },
        world.base,
        if options.tls { "over TLS with SRTP " } else { "" },
        world.sip
    ));
    let told = tell(&world, &timeline, options.scenario).await;
    timeline.tell();
    world.stop().await;
    let findings = told?;
    match options.json {
        true => print_json(&findings, &timeline),
        false => show(&findings, &timeline),
    }
    Ok(findings.ok())
}

struct Cast<'a> {
    timeline: &'a Timeline,
    customer: Phone,
    agent: Phone,
    supervisor: Phone,
    /// Where there is one.
    colleague: Option<Phone>,
    /// The second supervisor, where there is one.
    second: Option<(Phone, Desktop)>,
    agents_desk: Desktop,
    desktop: Desktop,
    news: Notifications,
    told_until: Instant,
}

async fn tell(
    world: &World,
    timeline: &Timeline,
    scenario: Scenario,
) -> Result<Findings, DemoError> {
    let mut cast = assemble(world, timeline, scenario).await?;
    let mut findings = Findings {
        phases: Vec::new(),
        join: None,
        armed_join: None,
        moral: match scenario {
            Scenario::Coach => "Only the agent heard the supervisor whisper.",
            Scenario::Transfer => {
                "The whisper went to the next agent or nowhere, and never to the customer."
            }
            Scenario::Hold => "On hold the customer heard nothing, and the agent the coach.",
            Scenario::Conference => {
                "Three talked, and only the agent heard the supervisor whisper."
            }
            Scenario::TwoSupervisors => {
                "The agent heard both coaches, and nobody else heard either of them."
            }
        },
        whisper_delays: Vec::new(),
        customer_packets: 0,
        identical: 0,
        srtp: None,
    };
    match scenario {
        Scenario::Coach => {
            cast.first_call(&mut findings).await?;
            cast.armed_call(&mut findings).await?;
        }
        Scenario::Transfer => {
            let followed = cast.followed_call(&mut findings).await?;
            cast.left_call(&followed, &mut findings).await?;
        }
        Scenario::Hold => cast.held_call(&mut findings).await?,
        Scenario::Conference => cast.conference(&mut findings).await?,
        Scenario::TwoSupervisors => cast.two_supervisors(&mut findings).await?,
    }
    findings.srtp = cast.srtp();
    Ok(findings)
}

async fn assemble<'a>(
    world: &World,
    timeline: &'a Timeline,
    scenario: Scenario,
) -> Result<Cast<'a>, DemoError> {
    let start = clock::instant();
    let phone = async |person: Person, number: &str, password: &str, answer: AnswerPolicy| {
        let config = world.phone(number, password, person.hz()).answering(answer);
        let phone =
            Phone::start(config).await.map_err(|error| DemoError::Phone(person.name(), error))?;
        phone.register().await.map_err(|error| DemoError::Phone(person.name(), error))?;
        Ok::<_, DemoError>(phone)
    };
    let desk = |user: &str, password: &str| {
        Desktop::new(&world.base, &world.tls, (user, password), timeline.clone())
    };
    timeline.title("The phones register, the desktops log in");
    let customer = phone(
        Person::Customer,
        world::CUSTOMER_NUMBER,
        &world.customer_password,
        AnswerPolicy::Auto(Duration::ZERO),
    )
    .await?;
    let after_ringing = AnswerPolicy::Auto(Duration::from_millis(300));
    let agent =
        phone(Person::Agent, world::AGENT_NUMBER, &world.agent_password, after_ringing).await?;
    let supervisor = phone(
        Person::Supervisor,
        world::SUPERVISOR_NUMBER,
        &world.supervisor_password,
        AnswerPolicy::ByHeader,
    )
    .await?;
    let colleague = match scenario {
        Scenario::Coach | Scenario::Hold | Scenario::TwoSupervisors => None,
        Scenario::Transfer | Scenario::Conference => Some(
            phone(
                Person::Colleague,
                world::COLLEAGUE_NUMBER,
                &world.colleague_password,
                after_ringing,
            )
            .await?,
        ),
    };
    let second = match scenario {
        Scenario::Coach | Scenario::Transfer | Scenario::Hold | Scenario::Conference => None,
        Scenario::TwoSupervisors => {
            let desktop = desk(world::SECOND_USER, &world.second_password)?;
            let answer = AnswerPolicy::ByHeader;
            Some((
                phone(Person::Second, world::SECOND_NUMBER, &world.second_password, answer).await?,
                desktop,
            ))
        }
    };
    let agents_desk = desk(world::AGENT_USER, &world.agent_password)?;
    let desktop = desk(world::SUPERVISOR_USER, &world.supervisor_password)?;
    let session = json!({"operationName": "StartContactCenterSession", "channels": ["voice"]});
    agents_desk.post("/api/v2/me", session.clone()).await?;
    desktop.post("/api/v2/me", session.clone()).await?;
    if let Some((_, second)) = &second {
        second.post("/api/v2/me", session).await?;
    }
    let news = desktop.listen(&["/v2/me/devices", "/v2/me/calls"]).await?;
    let mut cast = Cast {
        timeline,
        customer,
        agent,
        supervisor,
        colleague,
        second,
        agents_desk,
        desktop,
        news,
        told_until: start,
    };
    cast.tell();
    Ok(cast)
}

impl Cast<'_> {
    async fn first_call(&mut self, findings: &mut Findings) -> Result<(), DemoError> {
        self.timeline.title("The customer calls the agent");
        let talking_since = self.call_agent().await?;
        self.phase("customer and agent", HeardPart::Absent, findings).await;

        self.timeline.title("The supervisor posts the Coach request of the sample");
        let asked = self.post_device(coach(None)).await?;
        self.supervisor_joined().await?;
        let call = self.joined_call("Coach").await?;
        findings.join = self.whisper_heard(asked).await;
        self.phase("Coach", HeardPart::Coach, findings).await;
        self.measure_whisper_delay(findings).await;

        self.timeline
            .title("The supervisor speaks to both, only listens, whispers again: live switching");
        let barged = clock::instant();
        self.switch(&call, "SwitchToBargeIn", "BargeIn").await?;
        self.phase("BargeIn", HeardPart::BargeIn, findings).await;
        self.switch(&call, "SwitchToListenIn", "ListenIn").await?;
        let listening = clock::instant() + SETTLE;
        self.phase("ListenIn", HeardPart::ListenIn, findings).await;
        self.switch(&call, "SwitchToCoach", "Coach").await?;
        self.phase("Coach again", HeardPart::Coach, findings).await;

        self.timeline.title("The supervisor cancels");
        self.post_device(json!({"operationName": "CancelSupervisorMonitoring"})).await?;
        self.news
            .until("a device without supervisorMonitoringState", |data| {
                data["devices"].is_array() && monitoring(data).is_none()
            })
            .await?;
        self.supervisor_left().await?;
        self.phase("cancelled", HeardPart::Absent, findings).await;
        let over = clock::instant();
        self.hang_up().await?;
        self.count_identical(&[(talking_since, barged), (listening, over)], findings);
        Ok(())
    }

    async fn armed_call(&mut self, findings: &mut Findings) -> Result<(), DemoError> {
        self.timeline.title("The same once more, armed before the call, for the next call only");
        self.post_device(coach(Some("NextCall"))).await?;
        self.news
            .until("a device that coaches the next call", |data| {
                monitoring(data).is_some_and(|state| state["mode"] == "NextCall")
            })
            .await?;
        self.tell();
        self.timeline.title("The customer calls again");
        let talking_since = self.call_agent().await?;
        self.supervisor_joined().await?;
        self.joined_call("Coach").await?;
        findings.armed_join = self.whisper_heard(talking_since).await;
        self.phase("Coach, armed before the call", HeardPart::Coach, findings).await;
        let over = clock::instant();
        self.hang_up().await?;
        self.supervisor_left().await?;
        self.news
            .until("a device without supervisorMonitoringState", |data| {
                data["devices"].is_array() && monitoring(data).is_none()
            })
            .await?;
        self.tell();
        self.count_identical(&[(talking_since, over)], findings);
        Ok(())
    }

    /// With scope Call the coach goes with the customer. The call.
    async fn followed_call(&mut self, findings: &mut Findings) -> Result<String, DemoError> {
        self.timeline.title(
            "The customer calls the agent, and the supervisor coaches the call wherever it goes",
        );
        let (call, talking_since) = self.coached_call("Coach, scope Call", findings).await?;

        self.timeline.title(
            "The agent transfers the customer to a colleague: the coach follows, \
             and so does the whisper",
        );
        let left = self.transfer(&call).await?;
        self.phase_with("after the transfer", (Person::Colleague, HeardPart::Coach), findings)
            .await;
        let there = clock::instant();
        self.phase_with("the colleague goes on", (Person::Colleague, HeardPart::Coach), findings)
            .await;
        let over = clock::instant();
        self.customer_leaves(Person::Colleague).await?;
        self.supervisor_left().await?;
        self.tell();
        self.count_identical(&[(talking_since, left), (there, over)], findings);
        Ok(call)
    }

    /// With scope Agent the supervisor leaves the call with the agent.
    async fn left_call(&mut self, before: &str, findings: &mut Findings) -> Result<(), DemoError> {
        self.timeline.title("The same, but the supervisor coaches the agent only");
        let mut body = coach(None);
        body["supervisorMonitoringScope"] = json!("Agent");
        self.post_device(body).await?;
        let talking_since = self.call_agent().await?;
        self.supervisor_joined().await?;
        // Events of the last call may still be unread.
        let call = loop {
            let call = self.joined_call("Coach").await?;
            if call != before {
                break call;
            }
        };
        findings.armed_join = self.whisper_heard(talking_since).await;
        self.phase("Coach, scope Agent", HeardPart::Coach, findings).await;
        self.timeline.title("The agent transfers the customer: the supervisor is out too");
        let left = self.transfer(&call).await?;
        self.supervisor_left().await?;
        self.phase_with("without the supervisor", (Person::Colleague, HeardPart::Absent), findings)
            .await;
        self.customer_leaves(Person::Colleague).await?;
        self.count_identical(&[(talking_since, left)], findings);
        Ok(())
    }

    /// The customer calls the agent, and the supervisor coaches the agent: the call, and since when
    /// they talk.
    async fn coached_call(
        &mut self,
        phase: &str,
        findings: &mut Findings,
    ) -> Result<(String, Instant), DemoError> {
        let talking_since = self.call_agent().await?;
        let asked = self.post_device(coach(None)).await?;
        self.supervisor_joined().await?;
        let call = self.joined_call("Coach").await?;
        findings.join = self.whisper_heard(asked).await;
        self.phase(phase, HeardPart::Coach, findings).await;
        self.measure_whisper_delay(findings).await;
        Ok((call, talking_since))
    }

    /// The supervisor coaches the agent's call, as most stories begin.
    async fn opening(&mut self, findings: &mut Findings) -> Result<(String, Instant), DemoError> {
        self.timeline.title("The customer calls the agent, and the supervisor coaches");
        self.coached_call("Coach", findings).await
    }

    /// The customer and the agent talk alone again; the agent is coached until the customer hangs
    /// up. The packets until `left` are counted, and those from when all has settled.
    async fn ending(
        &mut self,
        (since, left): (Instant, Instant),
        phase: &str,
        findings: &mut Findings,
    ) -> Result<(), DemoError> {
        self.phase(phase, HeardPart::Coach, findings).await;
        let there = clock::instant();
        self.phase("and on they talk", HeardPart::Coach, findings).await;
        let over = clock::instant();
        self.hang_up().await?;
        self.count_identical(&[(since, left), (there, over)], findings);
        Ok(())
    }

    async fn held_call(&mut self, findings: &mut Findings) -> Result<(), DemoError> {
        let (call, talking_since) = self.opening(findings).await?;
        let path = format!("/api/v2/me/calls/{call}");
        self.timeline.title("The agent puts the customer on hold: agent and coach go on talking");
        let held = self.agents_desk.post(&path, json!({"operationName": "Hold"})).await?;
        let scene = Scene::new(&[
            (Person::Agent, &[Person::Supervisor]),
            (Person::Supervisor, &[Person::Agent, Person::Customer]),
        ]);
        self.scene("on hold", &scene, findings).await;
        self.timeline.title("The agent takes the customer back");
        self.agents_desk.post(&path, json!({"operationName": "Retrieve"})).await?;
        self.ending((talking_since, held), "retrieved", findings).await
    }

    async fn conference(&mut self, findings: &mut Findings) -> Result<(), DemoError> {
        let (call, talking_since) = self.opening(findings).await?;
        let path = format!("/api/v2/me/calls/{call}");
        self.timeline.title("The agent brings a colleague into the call");
        let body = json!({
            "operationName": "SingleStepConference",
            "destination": {"phoneNumber": world::COLLEAGUE_NUMBER},
        });
        let asked = self.agents_desk.post(&path, body).await?;
        let lost = |error| DemoError::Phone("colleague", error);
        let missing = || DemoError::Missing("the colleague's phone".into());
        self.colleague.as_ref().ok_or_else(missing)?.established(SOON).await.map_err(lost)?;
        let (customer, agent, colleague, supervisor) =
            (Person::Customer, Person::Agent, Person::Colleague, Person::Supervisor);
        let scene = Scene::new(&[
            (customer, &[agent, colleague]),
            (agent, &[customer, colleague, supervisor]),
            (colleague, &[customer, agent]),
            (supervisor, &[customer, agent, colleague]),
        ]);
        self.scene("conference of three", &scene, findings).await;
        self.timeline.title("The supervisor removes the colleague");
        let body = json!({
            "operationName": "RemoveParticipantFromConference",
            "participant": world::COLLEAGUE_NUMBER,
        });
        self.desktop.post(&path, body).await?;
        self.colleague.as_ref().ok_or_else(missing)?.ended(SOON).await.map_err(lost)?;
        self.ending((talking_since, asked), "without the colleague", findings).await
    }

    async fn two_supervisors(&mut self, findings: &mut Findings) -> Result<(), DemoError> {
        let (_, talking_since) = self.opening(findings).await?;
        let (customer, agent, supervisor, second) =
            (Person::Customer, Person::Agent, Person::Supervisor, Person::Second);
        let both = [customer, agent];
        for (activity, to_agent) in [
            ("ListenIn", vec![customer, supervisor]),
            ("Coach", vec![customer, supervisor, second]),
        ] {
            self.timeline.title(&format!("A second supervisor asks for {activity}"));
            self.second_asks(activity).await?;
            let scene = Scene::new(&[
                (customer, &[agent]),
                (agent, &to_agent),
                (supervisor, &both),
                (second, &both),
            ]);
            self.scene(&format!("the second: {activity}"), &scene, findings).await;
        }
        self.timeline.title("The second supervisor cancels, and the first goes on");
        self.second_asks("CancelSupervisorMonitoring").await?;
        self.phase("the first alone again", HeardPart::Coach, findings).await;
        let over = clock::instant();
        self.hang_up().await?;
        self.count_identical(&[(talking_since, over)], findings);
        Ok(())
    }

    async fn second_asks(&mut self, operation: &str) -> Result<(), DemoError> {
        let Some((phone, desktop)) = &self.second else {
            return Err(DemoError::Missing("the second supervisor".into()));
        };
        let mut body = coach(None);
        body["operationName"] = json!(operation);
        desktop.post(&format!("/api/v2/me/devices/{}", world::SECOND_DEVICE), body).await?;
        let done = match operation {
            "CancelSupervisorMonitoring" => phone.ended(SOON).await,
            "ListenIn" => phone.established(SOON).await,
            // The supervisor is on the call already: the activity changes live.
            _ => return Ok(()),
        };
        done.map(drop).map_err(|error| DemoError::Phone("second supervisor", error))
    }

    /// By the agent's desktop. The moment at which it was asked for.
    async fn transfer(&mut self, call: &str) -> Result<Instant, DemoError> {
        let body = json!({
            "operationName": "SingleStepTransfer",
            "destination": {"phoneNumber": world::COLLEAGUE_NUMBER},
        });
        let asked = self.agents_desk.post(&format!("/api/v2/me/calls/{call}"), body).await?;
        self.agent.ended(SOON).await.map_err(|error| DemoError::Phone("agent", error))?;
        if let Some(colleague) = &self.colleague {
            let established = colleague.established(SOON).await;
            established.map_err(|error| DemoError::Phone("colleague", error))?;
        }
        self.tell();
        Ok(asked)
    }

    async fn call_agent(&mut self) -> Result<Instant, DemoError> {
        let customer = |error| DemoError::Phone("customer", error);
        self.customer.call(world::AGENT_NUMBER).await.map_err(customer)?;
        self.agent.established(SOON).await.map_err(|error| DemoError::Phone("agent", error))?;
        let at = self.customer.established(SOON).await.map_err(customer)?.at;
        self.tell();
        Ok(at)
    }

    async fn supervisor_joined(&mut self) -> Result<(), DemoError> {
        let established = self.supervisor.established(SOON).await;
        established.map_err(|error| DemoError::Phone("supervisor", error)).map(drop)
    }

    async fn supervisor_left(&mut self) -> Result<(), DemoError> {
        let ended = self.supervisor.ended(SOON).await;
        ended.map_err(|error| DemoError::Phone("supervisor", error)).map(drop)
    }

    /// Waits for the established leg of the supervisor and the activity on it; the id of the call.
    async fn joined_call(&mut self, activity: &str) -> Result<String, DemoError> {
        let what = format!("the call in {activity}");
        let event = self.news.until(&what, |data| {
            let call = &data["call"];
            call["state"] == "Established" && call["supervisorMonitoringState"]["state"] == activity
        });
        let id = event.await?["data"]["call"]["id"].as_str().map(str::to_owned);
        id.ok_or_else(|| DemoError::Missing("the call's id".into()))
    }

    async fn switch(
        &mut self,
        call: &str,
        operation: &str,
        activity: &str,
    ) -> Result<(), DemoError> {
        self.desktop
            .post(&format!("/api/v2/me/calls/{call}"), json!({"operationName": operation}))
            .await?;
        self.joined_call(activity).await.map(drop)
    }

    async fn post_device(&self, body: Value) -> Result<Instant, DemoError> {
        self.desktop.post(&format!("/api/v2/me/devices/{}", world::SUPERVISOR_DEVICE), body).await
    }

    async fn hang_up(&mut self) -> Result<(), DemoError> {
        self.customer_leaves(Person::Agent).await
    }

    /// The customer hangs up on this one.
    async fn customer_leaves(&mut self, on: Person) -> Result<(), DemoError> {
        self.customer.hang_up().await.map_err(|error| DemoError::Phone("customer", error))?;
        let other =
            self.colleague.as_ref().filter(|_| on == Person::Colleague).unwrap_or(&self.agent);
        other.ended(SOON).await.map_err(|error| DemoError::Phone(on.name(), error))?;
        self.tell();
        Ok(())
    }

    /// Lets the phase settle, listens, measures, and tells what has happened so far.
    async fn phase(&mut self, name: &str, part: HeardPart, findings: &mut Findings) {
        self.phase_with(name, (Person::Agent, part), findings).await;
    }

    async fn phase_with(
        &mut self,
        name: &str,
        (agent, part): (Person, HeardPart),
        findings: &mut Findings,
    ) {
        self.scene(name, &Scene::of(agent, part), findings).await;
    }

    async fn scene(&mut self, name: &str, scene: &Scene, findings: &mut Findings) {
        tokio::time::sleep(SETTLE).await;
        let since = clock::instant();
        tokio::time::sleep(LISTEN).await;
        let phase = Phase::measure(name, scene, &self.people(), since, clock::instant());
        self.tell();
        phase.tell(self.timeline);
        findings.phases.push(phase);
    }

    /// From `since` to the arrival of the first packet in which the agent hears the supervisor.
    async fn whisper_heard(&self, since: Instant) -> Option<Duration> {
        let deadline = clock::instant() + SOON;
        while clock::instant() < deadline {
            if let Some(at) = self.agent.first_heard(Person::Supervisor.hz(), -26.0, since) {
                return Some(at - since);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        None
    }

    /// Both moments are those of a packet leaving and arriving, so its 20 ms of packetisation are
    /// not in the difference.
    async fn measure_whisper_delay(&self, findings: &mut Findings) {
        for _ in 0..MARKS {
            let since = clock::instant();
            self.supervisor.mark(MARK, MARK_PACKETS);
            tokio::time::sleep(Duration::from_millis(300)).await;
            if let (Some(said), Some(heard)) =
                (self.supervisor.marked_at(), self.agent.mark_heard_at(MARK, since))
            {
                findings
                    .whisper_delays
                    .push(heard.saturating_duration_since(said).as_secs_f64() * 1000.0);
            }
        }
    }

    fn count_identical(&self, windows: &[(Instant, Instant)], findings: &mut Findings) {
        let Some((first, _)) = windows.first() else {
            return;
        };
        // The agent may have spoken before the phone of the customer knew of the answer.
        let spoken = first.checked_sub(SOON).unwrap_or(*first);
        let agents = std::iter::once(&self.agent).chain(&self.colleague);
        let sent: BTreeSet<_> =
            agents.flat_map(|agent| agent.sent(spoken)).map(|packet| packet.payload).collect();
        for (since, until) in windows {
            let received = self.customer.received_between(*since, *until);
            findings.customer_packets += received.len();
            findings.identical +=
                received.iter().filter(|packet| sent.contains(&packet.payload)).count();
        }
    }

    fn people(&self) -> Vec<(Person, &Phone)> {
        let three = [
            (Person::Customer, &self.customer),
            (Person::Agent, &self.agent),
            (Person::Supervisor, &self.supervisor),
        ];
        let colleague = self.colleague.as_ref().map(|colleague| (Person::Colleague, colleague));
        let second = self.second.as_ref().map(|(second, _)| (Person::Second, second));
        three.into_iter().chain(colleague).chain(second).collect()
    }

    /// What has come to all phones; `None` where their sound is in clear.
    fn srtp(&self) -> Option<SrtpCounts> {
        self.people().into_iter().filter_map(|(_, phone)| phone.srtp()).reduce(|sum, more| {
            SrtpCounts {
                encrypted: sum.encrypted + more.encrypted,
                rejected: sum.rejected + more.rejected,
            }
        })
    }

    fn tell(&mut self) {
        let since = std::mem::replace(&mut self.told_until, clock::instant());
        for (person, phone) in self.people() {
            self.timeline.add_sip(person.name(), phone, since);
        }
        self.timeline.tell();
    }
}

/// The request of the sample, as printed there.
fn coach(mode: Option<&str>) -> Value {
    let mut body = json!({
        "operationName": "Coach",
        "targetDeviceUri": format!("http://localhost:8080/api/v2/devices/{}", world::AGENT_DEVICE),
    });
    if let Some(mode) = mode {
        body["supervisorMonitoringMode"] = json!(mode);
    }
    body
}

/// The monitoring state in a message about the device of the supervisor; `None` too when it is
/// about something else.
fn monitoring(data: &Value) -> Option<&Value> {
    data["devices"].as_array()?.iter().find_map(|device| device.get("supervisorMonitoringState"))
}

fn show(findings: &Findings, timeline: &Timeline) {
    hearing::show(&findings.phases, timeline);
    timeline.title("Figures");
    let ms = |time: Option<Duration>| {
        time.map_or("never".into(), |time| format!("{:.0} ms", time.as_secs_f64() * 1000.0))
    };
    timeline.text(&format!(
        "  join, POST to the first whisper at the agent      {}",
        ms(findings.join)
    ));
    if findings.armed_join.is_some() {
        timeline.text(&format!(
            "  join when armed, answer to the first whisper      {}",
            ms(findings.armed_join)
        ));
    }
    let delay =
        findings.whisper_delay_ms().map_or("not found".into(), |delay| format!("{delay:.1} ms"));
    timeline.text(&format!(
        "  whisper's added delay, without packetisation      {delay} (the next packet to the \
         agent: 0 to 20, as the phones' clocks lie)"
    ));
    let (same, all) = (findings.identical, findings.customer_packets);
    timeline.text(&format!(
        "  packets to the customer while not barged in       {all}, {same} byte for byte as the \
         agent sent them"
    ));
    if let Some(SrtpCounts { encrypted, rejected }) = findings.srtp {
        timeline.text(&format!(
            "  packets to the phones over SRTP                   {encrypted} encrypted and \
             authentic, {rejected} otherwise"
        ));
    }
    timeline.text("");
    match findings.ok() {
        true => timeline.good(findings.moral),
        false => timeline.bad("Something is wrong: see above."),
    }
    timeline.text("(--verbose shows every message whole; --list names the other stories)");
}

fn print_json(findings: &Findings, timeline: &Timeline) {
    let tenths = |ms: f64| (ms * 10.0).round() / 10.0;
    let mut document = json!({
        "ok": findings.ok(),
        "phases": findings.phases.iter().map(Phase::json).collect::<Vec<_>>(),
        "join_ms": findings.join.map(|join| tenths(join.as_secs_f64() * 1000.0)),
        "whisper_delay_ms": findings.whisper_delay_ms().map(tenths),
        "customer_packets": findings.customer_packets,
        "customer_packets_identical": findings.identical,
        "rest": timeline.rest(),
        "cometd": timeline.cometd(),
    });
    if let Some(SrtpCounts { encrypted, rejected }) = findings.srtp {
        document["srtp"] = json!({"encrypted": encrypted, "rejected": rejected});
    }
    // A closed pipe means that the reader wants no more.
    let _ = writeln!(std::io::stdout().lock(), "{document}");
}
