//! The gRPC server that every backend shares.

use super::callers::{CallerAuth, Known, authorize};
use super::convert::{self, Commanding, LegMethod, OnLeg, StepMethod, Stepwise};
use super::dedup::Deduplicator;
use super::proto::telephony_server::{Telephony, TelephonyServer};
use super::proto::{self, CommandResponse};
use super::watches::{Feeder, WatchStream, Watches};
use super::{CommandCall, CommandInbox, FactLog, status_of};
use crate::model::{Capabilities, Command, CommandContext, NodeLoad, Reason, Refusal};
use axum::Router as HttpRouter;
use axum::extract::Request as HttpRequest;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response as HttpResponse;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;
use tonic::service::{Routes, RoutesBuilder};
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic::{Extensions, Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// Commands that wait for a backend's loop; more are refused. A loop takes microseconds for one.
const WAITING: usize = 256;
/// How long a caller waits that sets no deadline.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long a caller waits at most.
const LONGEST_DEADLINE: Duration = Duration::from_secs(30);
/// How long a request may take to come and be answered; a stream of answers has begun by then.
const WHOLE_REQUEST: Duration = Duration::from_secs(40);
/// Bytes of a request: a call's data, which has up to 64 KiB, and what goes with it. A stream's room
/// is taken by the length that its client declares.
const LONGEST_REQUEST: usize = 96 * 1024;
/// Requests at once on one connection, bytes that may come and bytes that may wait on each, where
/// no door of ours says so.
const STREAMS: u32 = 100;
const WINDOW: u32 = 64 * 1024 - 1;
const HEARTBEAT: Duration = Duration::from_secs(10);
const HEARTBEAT_ALLOWED: (Duration, Duration) =
    (Duration::from_millis(50), Duration::from_secs(60));

/// The contract, served: hands commands to a backend's loop and its facts to watchers.
///
/// Watches end, with `UNAVAILABLE`, when the backend drops its end.
#[derive(Debug)]
pub struct TelephonyService {
    about: AboutBackend,
    commands: mpsc::Sender<CommandCall>,
    facts: FactLog,
    watches: Watches,
    once: Arc<Deduplicator>,
    /// A gateway asks before each join itself, whatever it is told.
    asks_before_joins: bool,
}

/// What is told of a backend beside its facts.
#[derive(Clone, Debug)]
pub struct AboutBackend {
    /// What it can do.
    pub capabilities: watch::Receiver<Capabilities>,
    /// How busy it is.
    pub load: watch::Receiver<NodeLoad>,
    /// Whether there is anything to tell: false as long as a gateway has not met its own backend.
    /// Describe and Watch are then refused as [`Reason::Unavailable`]: an empty answer would say
    /// that there is no device and no call.
    pub has_met: watch::Receiver<bool>,
}

/// A server for one backend, and the backend's end of it. Request ids are done once, malformed
/// input goes no further.
pub fn serve(capabilities: Capabilities) -> (TelephonyServer<TelephonyService>, CommandInbox) {
    let facts = FactLog::new();
    let load = watch::Sender::new(NodeLoad::default());
    let about = AboutBackend {
        capabilities: watch::Sender::new(capabilities).subscribe(),
        load: load.subscribe(),
        has_met: watch::Sender::new(true).subscribe(),
    };
    let (server, commands) = served(about, facts.clone(), false);
    (server, CommandInbox { commands, facts, load })
}

/// The same for a gateway, which has its facts already and capabilities that change.
pub fn serve_facts(
    about: AboutBackend,
    facts: FactLog,
) -> (TelephonyServer<TelephonyService>, mpsc::Receiver<CommandCall>) {
    served(about, facts, true)
}

fn served(
    about: AboutBackend,
    facts: FactLog,
    asks_before_joins: bool,
) -> (TelephonyServer<TelephonyService>, mpsc::Receiver<CommandCall>) {
    let (commands, placed) = mpsc::channel(WAITING);
    let service = TelephonyService {
        about,
        commands,
        facts,
        watches: Watches::default(),
        once: Arc::default(),
        asks_before_joins,
    };
    (TelephonyServer::new(service).max_decoding_message_size(LONGEST_REQUEST), placed)
}

/// The whole gRPC router of a backend, for tonic's own server: to be started with
/// `serve_with_incoming_shutdown`. It bounds what one connection may make it remember, not the
/// number of connections.
pub async fn router(
    server: TelephonyServer<TelephonyService>,
    auth: CallerAuth,
    ready: watch::Receiver<bool>,
    reflection: bool,
) -> Router {
    Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(4 * WINDOW)
        .add_routes(routes(server, auth, ready, reflection).await.into())
}

/// Everything that a backend serves over gRPC: the contract, `grpc.health.v1` (serving while
/// `ready` says so), and server reflection, v1 and v1alpha, if asked for. Health is for everybody,
/// the rest for callers that `auth` makes out.
pub async fn routes(
    server: TelephonyServer<TelephonyService>,
    auth: CallerAuth,
    mut ready: watch::Receiver<bool>,
    reflection: bool,
) -> HttpRouter {
    let (health, health_service) = tonic_health::server::health_reporter();
    let serving = *ready.borrow_and_update();
    tell_health(&health, serving).await;
    tokio::spawn(async move {
        while ready.changed().await.is_ok() {
            let serving = *ready.borrow_and_update();
            tell_health(&health, serving).await;
        }
    });
    let mut routes = Routes::builder();
    routes
        .add_service(server)
        .add_service(health_service.max_decoding_message_size(LONGEST_REQUEST));
    if reflection {
        add_reflection(&mut routes);
    }
    let known = from_fn_with_state(auth, authorize);
    routes.routes().into_axum_router().layer(known).layer(from_fn(in_time))
}

/// Both versions of server reflection: clients that ask for v1 and older ones for v1alpha.
fn add_reflection(routes: &mut RoutesBuilder) {
    const OUR_OWN: &str = "both descriptor sets were made by our own compiler";
    let described = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let v1 = described().build_v1().expect(OUR_OWN);
    let v1alpha = described().build_v1alpha().expect(OUR_OWN);
    routes
        .add_service(v1.max_decoding_message_size(LONGEST_REQUEST))
        .add_service(v1alpha.max_decoding_message_size(LONGEST_REQUEST));
}

/// A client that opens a stream and sends no whole request does not keep it.
async fn in_time(request: HttpRequest, next: Next) -> HttpResponse {
    match tokio::time::timeout(WHOLE_REQUEST, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            Status::deadline_exceeded("The request did not come to its end in time.").into_http()
        }
    }
}

async fn tell_health(health: &HealthReporter, serving: bool) {
    let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    for service in ["", <TelephonyServer<TelephonyService> as NamedService>::NAME] {
        health.set_service_status(service, status).await;
    }
}

impl TelephonyService {
    /// # Errors
    /// Nobody has made the caller out, or the gateway has not met its backend yet.
    fn known(&self, extensions: &Extensions) -> Result<Known, Status> {
        let known = Known::of(extensions).map_err(|refusal| status_of(&refusal))?;
        let has_met = *self.about.has_met.borrow();
        has_met.then_some(known).ok_or_else(|| {
            let text = "The telephony backend has not been reached yet.";
            status_of(&Refusal::new(Reason::Unavailable, text))
        })
    }

    /// Hands a command to the backend's loop, once, and waits for its answer.
    async fn execute<M: Commanding>(
        &self,
        request: Request<M>,
    ) -> Result<Response<CommandResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let known = Known::of(&extensions).map_err(|refusal| status_of(&refusal))?;
        let deadline = deadline(&metadata).unwrap_or(DEADLINE).min(LONGEST_DEADLINE);
        let (mut context, command) =
            read(message, deadline).map_err(|refusal| status_of(&refusal))?;
        context.caller = Some(known.caller.clone());
        context.from = known.from;
        if !self.asks_before_joins
            && matches!(command, Command::StartMonitoring { confirm_joins: false, .. })
        {
            let admitted = known.admits_unasked(&context, &command).await;
            admitted.map_err(|refusal| status_of(&refusal))?;
        }
        let answer = self.once.answer(context, command, self.commands.clone(), &self.facts);
        match tokio::time::timeout(deadline, answer).await {
            Ok(Ok(revision)) => Ok(Response::new(CommandResponse { revision })),
            Ok(Err(refusal)) => Err(status_of(&refusal)),
            Err(_) => Err(status_of(&Refusal::new(
                Reason::Unavailable,
                "The telephony backend does not answer.",
            ))),
        }
    }
}

fn read<M: Commanding>(
    message: M,
    deadline: Duration,
) -> Result<(CommandContext, Command), Refusal> {
    let (context, command) = message.command()?;
    Ok((convert::context(context, deadline)?, command))
}

/// `grpc-timeout` as the gRPC specification writes it: up to eight digits and a unit.
fn deadline(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let amount: u64 = Some(digits).filter(|digits| digits.len() <= 8)?.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[tonic::async_trait]
impl Telephony for TelephonyService {
    type WatchStream = WatchStream;

    async fn describe(
        &self,
        request: Request<proto::DescribeRequest>,
    ) -> Result<Response<proto::DescribeResponse>, Status> {
        self.known(request.extensions())?;
        let mut can = proto::DescribeResponse::from(&*self.about.capabilities.borrow());
        can.load = Some(convert::node_load::wire_load(&self.about.load.borrow()));
        // A gateway answers feature codes itself.
        can.feature_codes &= !self.asks_before_joins;
        Ok(Response::new(can))
    }

    async fn watch(
        &self,
        request: Request<proto::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let known = self.known(request.extensions())?;
        let permit = self.watches.begin(&known.caller.name);
        let permit = permit.map_err(|refusal| status_of(&refusal))?;
        let request = request.into_inner();
        let (shortest, longest) = HEARTBEAT_ALLOWED;
        let heartbeat = match request.heartbeat_ms {
            0 => HEARTBEAT,
            asked => Duration::from_millis(asked.into()).clamp(shortest, longest),
        };
        let feeder = Feeder {
            watcher: self.facts.resume(&request.instance, request.after_revision),
            instance: self.facts.instance().to_owned(),
            heartbeat,
            load: self.about.load.clone(),
            lease: known.lease,
            commands: self.commands.clone(),
        };
        Ok(Response::new(feeder.start(permit)))
    }

    async fn start_monitoring(
        &self,
        request: Request<proto::StartMonitoringRequest>,
    ) -> Result<Response<CommandResponse>, Status> {
        self.execute(request).await
    }

    async fn stop_monitoring(
        &self,
        request: Request<proto::StopMonitoringRequest>,
    ) -> Result<Response<CommandResponse>, Status> {
        self.execute(request).await
    }

    async fn switch_monitoring(
        &self,
        request: Request<proto::SwitchMonitoringRequest>,
    ) -> Result<Response<CommandResponse>, Status> {
        self.execute(request).await
    }

    async fn admit_monitoring(
        &self,
        request: Request<proto::AdmitMonitoringRequest>,
    ) -> Result<Response<CommandResponse>, Status> {
        self.execute(request).await
    }

    async fn mute_monitored_party(
        &self,
        request: Request<proto::MuteMonitoredPartyRequest>,
    ) -> Result<Response<CommandResponse>, Status> {
        self.execute(request).await
    }

    async fn set_do_not_disturb(
        &self,
        request: Request<proto::SetDoNotDisturbRequest>,
    ) -> Result<Response<CommandResponse>, Status> {
        self.execute(request).await
    }

    async fn set_forwarding(
        &self,
        request: Request<proto::SetForwardingRequest>,
    ) -> Result<Response<CommandResponse>, Status> {
        self.execute(request).await
    }

    async fn dial(
        &self,
        request: Request<proto::DialRequest>,
    ) -> Result<Response<CommandResponse>, Status> {
        self.execute(request).await
    }

    async fn answer(
        &self,
        request: Request<proto::LegRequest>,
    ) -> Result<Response<CommandResponse>, Status> {
        self.execute(request.map(|message| OnLeg(message, LegMethod::Answer))).await
    }

    async fn hangup(
        &self,
        request: Request<proto::LegRequest>,
    ) -> Result<Response<CommandResponse>, Status> {
        self.execute(request.map(|message| OnLeg(message, LegMethod::Hangup))).await
    }

    async fn clear_call(
        &self,
        request: Request<proto::LegRequest>,
    ) -> Result<Response<CommandResponse>, Status> {
        self.execute(request.map(|message| OnLeg(message, LegMethod::ClearCall))).await
    }

    async fn reject(
        &self,
        request: Request<proto::LegRequest>,
    ) -> Result<Response<CommandResponse>, Status> {
        self.execute(request.map(|message| OnLeg(message, LegMethod::Reject))).await
    }

    async fn redirect(
        &self,
        request: Request<proto::RedirectRequest>,
    ) -> Result<Response<CommandResponse>, Status> {
        self.execute(request).await
    }

    async fn hold(
        &self,
        request: Request<proto::LegRequest>,
    ) -> Result<Response<CommandResponse>, Status> {
        self.execute(request.map(|message| OnLeg(message, LegMethod::Hold))).await
    }

    async fn retrieve(
        &self,
        request: Request<proto::LegRequest>,
    ) -> Result<Response<CommandResponse>, Status> {
        self.execute(request.map(|message| OnLeg(message, LegMethod::Retrieve))).await
    }

    async fn swap_calls(
        &self,
        request: Request<proto::SwapCallsRequest>,
    ) -> Result<Response<CommandResponse>, Status> {
        self.execute(request).await
    }

    async fn mute(
        &self,
        request: Request<proto::MuteRequest>,
    ) -> Result<Response<CommandResponse>, Status> {
        self.execute(request).await
    }

    async fn send_dtmf(
        &self,
        request: Request<proto::SendDtmfRequest>,
    ) -> Result<Response<CommandResponse>, Status> {
        self.execute(request).await
    }

    async fn transfer(
        &self,
        request: Request<proto::TransferRequest>,
    ) -> Result<Response<CommandResponse>, Status> {
        self.execute(request.map(|message| Stepwise(message, StepMethod::Transfer))).await
    }

    async fn conference(
        &self,
        request: Request<proto::TransferRequest>,
    ) -> Result<Response<CommandResponse>, Status> {
        self.execute(request.map(|message| Stepwise(message, StepMethod::Conference))).await
    }

    async fn change_user_data(
        &self,
        request: Request<proto::ChangeUserDataRequest>,
    ) -> Result<Response<CommandResponse>, Status> {
        self.execute(request).await
    }

    async fn remove_participant(
        &self,
        request: Request<proto::RemoveParticipantRequest>,
    ) -> Result<Response<CommandResponse>, Status> {
        self.execute(request).await
    }

    async fn refuse_feature_code(
        &self,
        request: Request<proto::RefuseFeatureCodeRequest>,
    ) -> Result<Response<CommandResponse>, Status> {
        self.execute(request).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_read_as_grpc_writes_it() {
        let read = |text: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().unwrap());
            deadline(&metadata)
        };
        assert_eq!(read("250m"), Some(Duration::from_millis(250)));
        assert_eq!(read("3S"), Some(Duration::from_secs(3)));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(read("123456789S"), None);
        assert_eq!(read("S"), None);
        assert_eq!(read("1x"), None);
    }
}
