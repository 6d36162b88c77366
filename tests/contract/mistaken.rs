//! Backends that are wrong in one thing each, and what the check says of them.

use super::backends::{ByHand, simulated_config};
use super::house;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tonic::{Request, Response, Status};
use undertone::contract_check::{Rule, RuleOutcome, check};
use undertone::supervision::SupervisionConfig;
use undertone::telephony::connection::TelephonyChannel;
use undertone::telephony::connection::in_process;
use undertone::telephony::proto::telephony_client::TelephonyClient;
use undertone::telephony::proto::telephony_server::{Telephony, TelephonyServer};
use undertone::telephony::proto::watch_response::Fact;
use undertone::telephony::proto::{self, CommandResponse, WatchResponse};
use undertone::telephony::simulated::{self, SimulatedConfig};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    JoinsWhileTheAgentsPhoneRings,
    TellsCallsThatAreOverInSnapshots,
    BeatsAtRevisionZero,
    ResumesAtTheLatestRevision,
    ResumesWithNoNews,
    LeavesQuestionsOutOfSnapshots,
    AnswersWithTheRevisionAfter,
    AnswersWithNoRevision,
    TakesRequestIdsOfTwoUsersForOne,
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_that_is_joined_while_the_agents_phone_rings_is_found() {
    let [(expected, came)] =
        found(Mistake::JoinsWhileTheAgentsPhoneRings, [Rule::WaitsForTheAnswer]).await;
    assert_eq!(expected, "the monitor is armed while the agent's phone rings");
    assert!(came.contains("5001 Agent Ringing, 5005 Supervisor Established"), "{came}");
    assert!(came.contains("a monitor of 5005 on 5001 in Coach, joined"), "{came}");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_over_and_in_a_later_snapshot_is_found() {
    let [(expected, came)] =
        found(Mistake::TellsCallsThatAreOverInSnapshots, [Rule::EndsACallOnce]).await;
    assert_eq!(expected, "the call that is over is in no snapshot");
    assert!(came.starts_with("a later snapshot tells call simulated-"), "{came}");
}

#[tokio::test(start_paused = true)]
async fn heartbeats_at_another_revision_than_was_told_last_are_found() {
    let rules = [Rule::ResumesAfterARevision, Rule::BeatsWhenNothingHappens];
    for (expected, came) in found(Mistake::BeatsAtRevisionZero, rules).await {
        assert!(expected.starts_with("the Heartbeat has revision "), "{expected}");
        assert_eq!(came, "revision 0");
    }
    let rules = [Rule::ResumesAfterARevision];
    let [(expected, came)] = found(Mistake::ResumesAtTheLatestRevision, rules).await;
    assert_eq!(expected, "the Heartbeat has revision 4, which was asked for");
    assert_eq!(came, "revision 5");
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_resumes_and_is_told_nothing_of_what_came_since_is_found() {
    let [(expected, came)] = found(Mistake::ResumesWithNoNews, [Rule::ResumesAfterARevision]).await;
    assert_eq!(expected, "the monitor that was armed since is told");
    assert_eq!(came, "Heartbeats alone come");
}

#[tokio::test(start_paused = true)]
async fn a_question_that_waits_and_is_in_no_snapshot_is_found() {
    let [(expected, came)] =
        found(Mistake::LeavesQuestionsOutOfSnapshots, [Rule::TellsWhichJoinsWaitForLeave]).await;
    assert!(expected.starts_with("a snapshot tells the AdmissionAsked for call "), "{expected}");
    assert!(came.starts_with("it tells none, and call "), "{came}");
    assert!(came.ends_with("a monitor of 5005 on 5001 in Coach, admitting"), "{came}");
}

#[tokio::test(start_paused = true)]
async fn answers_with_another_revision_than_the_one_before_are_found() {
    let rule = [Rule::AnswersWithTheRevisionBefore];
    let [(expected, came)] = found(Mistake::AnswersWithTheRevisionAfter, rule).await;
    let said =
        expected.strip_prefix("what comes of StartMonitoring, which was answered with revision ");
    let said = said.and_then(|said| said.strip_suffix(", has a higher one"));
    assert_eq!(Some(came.as_str()), said.map(|said| format!("revision {said}")).as_deref());
    let [(expected, came)] = found(Mistake::AnswersWithNoRevision, rule).await;
    assert!(expected.starts_with("StartMonitoring is answered with revision "), "{expected}");
    assert_eq!(came, "revision 0");
}

#[tokio::test(start_paused = true)]
async fn request_ids_of_two_users_that_are_taken_for_one_are_found() {
    let [(expected, came)] =
        found(Mistake::TakesRequestIdsOfTwoUsersForOne, [Rule::KeepsUsersRequestIdsApart]).await;
    assert_eq!(expected, "user otto may use a request id that user meg has used");
    assert!(came.starts_with("it is refused as InvalidInput"), "{came}");
}

#[tokio::test(start_paused = true)]
async fn a_phone_that_rings_for_a_supervisor_for_ever_is_found() {
    let config = SimulatedConfig {
        supervision: SupervisionConfig {
            invite_timeout: Duration::from_secs(1000),
            ..SupervisionConfig::default()
        },
        ..simulated_config()
    };
    let [(expected, came)] = found_of(config, None, [Rule::GivesUpAnUnansweredPhone]).await;
    assert_eq!(expected, "a Failure of the supervisor's device is reported");
    assert!(came.starts_with("after 25 s there are call "), "{came}");
    assert!(came.contains("5005 Supervisor Ringing"), "{came}");
}

#[tokio::test(start_paused = true)]
async fn without_a_mistake_nothing_is_found_and_twenty_seconds_may_a_phone_ring() {
    let config =
        SimulatedConfig { supervision: SupervisionConfig::default(), ..simulated_config() };
    let [] = found_of(config, None, []).await;
}

/// The rules that a backend with this mistake breaks, and what is said of each: expected, came.
async fn found<const N: usize>(mistake: Mistake, broken: [Rule; N]) -> [(String, String); N] {
    found_of(simulated_config(), Some(mistake), broken).await
}

async fn found_of<const N: usize>(
    config: SimulatedConfig,
    mistake: Option<Mistake>,
    broken: [Rule; N],
) -> [(String, String); N] {
    let (server, simulated) = simulated::start(config);
    let phones = ByHand(simulated.clone());
    let inner = TelephonyClient::new(in_process(server));
    let backend = Mistaken { inner, mistake, simulated, over: Arc::default() };
    let channel = in_process(TelephonyServer::new(backend));
    let patience = Duration::from_secs(10);
    let report = check(channel, &house(), Some(phones), patience, |_| {}).await.unwrap();
    let is_failed = |outcome: &RuleOutcome| matches!(outcome, RuleOutcome::Failed { .. });
    let failed = report.rules.iter().filter(|told| is_failed(&told.outcome));
    let failed: Vec<_> = failed.map(|told| told.rule).collect();
    assert_eq!(failed, broken, "{:#?}", report.rules);
    broken.map(|rule| {
        let told = report.rules.iter().find(|told| told.rule == rule).unwrap();
        match &told.outcome {
            RuleOutcome::Failed { expected, came } => (expected.clone(), came.clone()),
            RuleOutcome::Ok | RuleOutcome::Skipped { .. } => unreachable!("{told}"),
        }
    })
}

/// The simulated backend, with a mistake on the way to it or back.
struct Mistaken {
    inner: TelephonyClient<TelephonyChannel>,
    mistake: Option<Mistake>,
    simulated: simulated::Simulated,
    over: Arc<Mutex<Vec<proto::Call>>>,
}

impl Mistaken {
    fn makes(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }
}

macro_rules! mistaken {
    ($($method:ident($request:ident),)*) => {
        #[tonic::async_trait]
        impl Telephony for Mistaken {
            type WatchStream = BoxStream<'static, Result<WatchResponse, Status>>;

            async fn describe(
                &self,
                request: Request<proto::DescribeRequest>,
            ) -> Result<Response<proto::DescribeResponse>, Status> {
                self.inner.clone().describe(request.into_inner()).await
            }

            async fn watch(
                &self,
                request: Request<proto::WatchRequest>,
            ) -> Result<Response<Self::WatchStream>, Status> {
                let told = self.inner.clone().watch(request.into_inner()).await?.into_inner();
                let mut teller = Teller {
                    mistake: self.mistake,
                    has_begun: false,
                    is_resumed: false,
                    simulated: self.simulated.clone(),
                    over: Arc::clone(&self.over),
                    in_snapshot: false,
                    armed: None,
                    has_joined: false,
                };
                let mistaken = told.flat_map(move |told| {
                    let told = match told {
                        Ok(response) => teller.tell(response).into_iter().map(Ok).collect(),
                        Err(status) => vec![Err(status)],
                    };
                    stream::iter(told)
                });
                Ok(Response::new(mistaken.boxed()))
            }

            $(async fn $method(
                &self,
                request: Request<proto::$request>,
            ) -> Result<Response<CommandResponse>, Status> {
                let mut request = request.into_inner();
                if self.makes(Mistake::TakesRequestIdsOfTwoUsersForOne)
                    && let Some(context) = &mut request.context
                    && !context.on_behalf_of.is_empty()
                {
                    context.on_behalf_of = "anybody".into();
                }
                let mut response = self.inner.clone().$method(request).await?;
                let revision = &mut response.get_mut().revision;
                if self.makes(Mistake::AnswersWithTheRevisionAfter) {
                    *revision += 1;
                } else if self.makes(Mistake::AnswersWithNoRevision) {
                    *revision = 0;
                }
                Ok(response)
            })*
        }
    };
}

mistaken! {
    start_monitoring(StartMonitoringRequest),
    stop_monitoring(StopMonitoringRequest),
    switch_monitoring(SwitchMonitoringRequest),
    admit_monitoring(AdmitMonitoringRequest),
    mute_monitored_party(MuteMonitoredPartyRequest),
    set_do_not_disturb(SetDoNotDisturbRequest),
    set_forwarding(SetForwardingRequest),
    dial(DialRequest),
    answer(LegRequest),
    hangup(LegRequest),
    clear_call(LegRequest),
    reject(LegRequest),
    redirect(RedirectRequest),
    hold(LegRequest),
    retrieve(LegRequest),
    swap_calls(SwapCallsRequest),
    mute(MuteRequest),
    send_dtmf(SendDtmfRequest),
    transfer(TransferRequest),
    conference(TransferRequest),
    remove_participant(RemoveParticipantRequest),
    change_user_data(ChangeUserDataRequest),
    refuse_feature_code(RefuseFeatureCodeRequest),
}

/// What one watch is told instead of the truth.
struct Teller {
    mistake: Option<Mistake>,
    has_begun: bool,
    is_resumed: bool,
    simulated: simulated::Simulated,
    over: Arc<Mutex<Vec<proto::Call>>>,
    in_snapshot: bool,
    /// The monitor that waits for a call.
    armed: Option<proto::Monitor>,
    /// It was said to have joined before it did.
    has_joined: bool,
}

impl Teller {
    fn tell(&mut self, mut response: WatchResponse) -> Vec<WatchResponse> {
        let in_snapshot = self.in_snapshot;
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        if is_first {
            self.is_resumed = matches!(response.fact, Some(Fact::Heartbeat(_)));
        }
        match &response.fact {
            Some(Fact::SnapshotBegin(_)) => self.in_snapshot = true,
            Some(Fact::SnapshotComplete(_)) => self.in_snapshot = false,
            _ => {}
        }
        match (self.mistake, &mut response.fact) {
            (Some(Mistake::BeatsAtRevisionZero), Some(Fact::Heartbeat(_))) => {
                response.revision = 0;
                vec![response]
            }
            (Some(Mistake::ResumesAtTheLatestRevision), Some(Fact::Heartbeat(_))) if is_first => {
                response.revision = self.simulated.facts().revision();
                vec![response]
            }
            (Some(Mistake::ResumesWithNoNews), Some(fact))
                if self.is_resumed && !matches!(fact, Fact::Heartbeat(_)) =>
            {
                Vec::new()
            }
            (Some(Mistake::LeavesQuestionsOutOfSnapshots), Some(Fact::AdmissionAsked(_)))
                if in_snapshot =>
            {
                Vec::new()
            }
            (Some(Mistake::TellsCallsThatAreOverInSnapshots), _) => self.with_calls_over(response),
            (Some(Mistake::JoinsWhileTheAgentsPhoneRings), _) => self.joined_early(response),
            _ => vec![response],
        }
    }

    fn with_calls_over(&mut self, response: WatchResponse) -> Vec<WatchResponse> {
        let mut over = self.over.lock().unwrap();
        let mut told = Vec::new();
        match &response.fact {
            Some(Fact::Call(call)) if call.parties.iter().all(has_left) && !over.contains(call) => {
                over.push(call.clone());
            }
            Some(Fact::SnapshotComplete(_)) => {
                let fact = |call| WatchResponse { revision: 0, fact: Some(Fact::Call(call)) };
                told.extend(over.iter().cloned().map(fact));
            }
            _ => {}
        }
        told.push(response);
        told
    }

    fn joined_early(&mut self, mut response: WatchResponse) -> Vec<WatchResponse> {
        use proto::monitor::State;
        let (revision, mut told) = (response.revision, Vec::new());
        match &mut response.fact {
            Some(Fact::Monitor(monitor)) => match &monitor.state {
                Some(State::Inviting(_)) if self.has_joined => return told,
                Some(State::Armed(_)) if !monitor.confirm_joins => {
                    self.has_joined = false;
                    self.armed.get_or_insert_with(|| monitor.clone());
                }
                _ => self.has_joined = false,
            },
            Some(Fact::MonitorGone(_)) => (self.armed, self.has_joined) = (None, false),
            Some(Fact::Call(call)) => {
                if let Some(monitor) = self.armed.take_if(|monitor| rings(call, &monitor.target)) {
                    self.has_joined = true;
                    call.parties.push(proto::Party {
                        device_id: monitor.supervisor.clone(),
                        number: "5005".into(),
                        role: proto::PartyRole::Supervisor.into(),
                        state: proto::LegState::Established.into(),
                        activity: monitor.activity,
                        monitors: monitor.target.clone(),
                        ..proto::Party::default()
                    });
                    let (call, activity) = (call.id.clone(), monitor.activity);
                    for state in [
                        State::Inviting(proto::monitor::Inviting { call: call.clone() }),
                        State::Joined(proto::monitor::Joined { call, activity, since_ms: 1 }),
                    ] {
                        let state = Some(state);
                        let fact = Fact::Monitor(proto::Monitor { state, ..monitor.clone() });
                        told.push(WatchResponse { revision, fact: Some(fact) });
                    }
                }
            }
            _ => {}
        }
        told.push(response);
        told
    }
}

fn has_left(party: &proto::Party) -> bool {
    party.state() == proto::LegState::Released
}

fn rings(call: &proto::Call, device: &str) -> bool {
    let mut parties = call.parties.iter();
    parties.any(|party| party.device_id == device && party.state() == proto::LegState::Ringing)
}
