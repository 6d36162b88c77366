//! The layer in front of everything that is served over gRPC.

use super::permission::permitted;
use super::permission::rpc_of;
use super::{Callers, Lease, Presented, Unknown};
use crate::clock;
use crate::model::{Caller, Command, CommandContext, Reason, Refusal};
use crate::rate_limit::TokenBucket;
use crate::telephony::proto::telephony_server::TelephonyServer;
use crate::telephony::{TelephonyService, status_of};
use crate::tls::{PeerCertificates, SubjectName};
use axum::extract::{ConnectInfo, Request as HttpRequest, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response as HttpResponse;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tonic::server::NamedService;
use tonic::transport::server::TcpConnectInfo;
use tonic::{Extensions, Request, Status};
use tonic_health::pb::health_server::HealthServer;

/// Lines of the log about callers that were refused: at once, and how long until another.
const LINES: u32 = 10;
const LINES_EACH: Duration = Duration::from_secs(6);

/// Which end of the contract serves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContractServer {
    /// A gateway: it holds each command against the permissions of the user, and keeps the audit.
    Gateway,
    /// A backend, which does what gateways say.
    Backend,
}

/// Writes down that a supervisor may join without being asked for; false: it could not be, and
/// nobody joins.
pub type JoinRecorder = Arc<
    dyn Fn(&CommandContext, &Command) -> Pin<Box<dyn Future<Output = bool> + Send>> + Send + Sync,
>;

/// Makes callers out, and answers the others.
#[derive(Clone)]
pub struct CallerAuth {
    callers: Arc<Callers>,
    server: ContractServer,
    recorder: Option<JoinRecorder>,
    refused: Arc<RefusedCallers>,
}

/// The caller of a request: an extension of it.
#[derive(Clone)]
pub(in crate::telephony) struct Known {
    pub(in crate::telephony) caller: Arc<Caller>,
    pub(in crate::telephony) lease: Lease,
    /// Where it calls from; `None`: from this process.
    pub(in crate::telephony) from: Option<IpAddr>,
    /// `None`: joins without AdmissionAsked are not written down.
    pub(in crate::telephony) recorder: Option<JoinRecorder>,
    /// The other half of a process that has both.
    pub(in crate::telephony) is_here: bool,
    pub(in crate::telephony) refused: Arc<RefusedCallers>,
}

impl CallerAuth {
    /// In front of a server of this kind.
    pub fn new(callers: Arc<Callers>, server: ContractServer) -> Self {
        Self { callers, server, recorder: None, refused: Arc::default() }
    }

    /// Joins without AdmissionAsked are written down here first. Without a recorder there are none,
    /// whoever asks.
    #[must_use]
    pub fn recording(self, recorder: JoinRecorder) -> Self {
        Self { recorder: Some(recorder), ..self }
    }

    fn identify(&self, request: &HttpRequest) -> Result<(Arc<Caller>, Lease), Unknown> {
        let names = request.extensions().get::<PeerCertificates>().map(PeerCertificates::names);
        let tokens: Vec<_> = tokens(request.headers()).collect();
        let presented = Presented {
            names: names.as_deref(),
            tokens: &tokens,
            from: peer(request).map(|peer| peer.ip()),
        };
        let found = self.callers.identify(&presented);
        if let Err(unknown) = &found {
            let names = names.unwrap_or_default();
            self.refused.note(unknown.as_str(), &listed(&names), peer(request));
        }
        found
    }
}

/// Of each `authorization` header its bearer token; `None`: it has another scheme.
fn tokens(headers: &HeaderMap) -> impl Iterator<Item = Option<&str>> {
    headers.get_all(header::AUTHORIZATION).iter().map(|value| {
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    })
}

fn peer(request: &HttpRequest) -> Option<SocketAddr> {
    let ours = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| *peer);
    // Of tonic's own server.
    let theirs = || request.extensions().get::<TcpConnectInfo>()?.remote_addr();
    ours.or_else(theirs)
}

fn listed(names: &[SubjectName]) -> String {
    const MOST: usize = 4;
    let shown: Vec<_> = names.iter().take(MOST).map(SubjectName::to_string).collect();
    shown.join(", ")
}

/// Health is for everybody, reflection for every caller, the contract by role.
pub(in crate::telephony) async fn authorize(
    State(auth): State<CallerAuth>,
    mut request: HttpRequest,
    next: Next,
) -> HttpResponse {
    let (service, method) = service_and_method(request.uri().path());
    if service == <HealthServer<tonic_health::server::HealthService> as NamedService>::NAME {
        request.headers_mut().remove(header::AUTHORIZATION);
        return next.run(request).await;
    }
    let (caller, lease) = match auth.identify(&request) {
        Ok(known) => known,
        Err(unknown) => return refusal(Reason::NotAuthenticated, unknown.text()),
    };
    if service == <TelephonyServer<TelephonyService> as NamedService>::NAME {
        let permission = match rpc_of(method) {
            Some(rpc) => permitted(&caller, rpc, auth.server),
            None => Err(format!("Caller '{}' may not: there is no such rpc.", caller.name)),
        };
        if let Err(why) = permission {
            auth.refused.note("role", caller.name.as_str(), peer(&request));
            return refusal(Reason::NotPermitted, why);
        }
    }
    let (recorder, refused) = (auth.recorder.clone(), auth.refused.clone());
    let from = peer(&request).map(|peer| peer.ip().to_canonical());
    let known = Known { caller, lease, from, recorder, is_here: false, refused };
    request.extensions_mut().insert(known);
    // Nothing behind this needs it, or could log it.
    request.headers_mut().remove(header::AUTHORIZATION);
    next.run(request).await
}

fn service_and_method(path: &str) -> (&str, &str) {
    path.strip_prefix('/').and_then(|path| path.split_once('/')).unwrap_or_default()
}

fn refusal(reason: Reason, text: impl Into<std::borrow::Cow<'static, str>>) -> HttpResponse {
    status_of(&Refusal::new(reason, text)).into_http()
}

/// The two halves of one process know each other.
pub(in crate::telephony) fn in_this_process(
    mut request: Request<()>,
) -> Result<Request<()>, Status> {
    request.extensions_mut().insert(Known {
        caller: Arc::new(Caller::in_this_process()),
        lease: Lease::without_end(),
        from: None,
        recorder: None,
        is_here: true,
        refused: Arc::default(),
    });
    Ok(request)
}

impl Known {
    /// The caller of a request, if anybody has made it out.
    pub(in crate::telephony) fn of(extensions: &Extensions) -> Result<Self, Refusal> {
        extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(|| Refusal::new(Reason::NotAuthenticated, Unknown::Anonymous.text()))
    }

    /// A supervisor may join without being asked for: this caller may say so, and it is written
    /// down.
    pub(in crate::telephony) async fn admits_unasked(
        &self,
        context: &CommandContext,
        command: &Command,
    ) -> Result<(), Refusal> {
        let Caller { name, may_join_unasked, .. } = &*self.caller;
        if self.is_here {
            return Ok(());
        }
        if !may_join_unasked {
            self.refused.note("unasked", name.as_str(), None);
            let text = format!(
                "Caller '{name}' may not have supervisors join unasked: confirm_joins must be true."
            );
            return Err(Refusal::new(Reason::NotPermitted, text));
        }
        let recorded = match &self.recorder {
            Some(recorder) => recorder(context, command).await,
            None => false,
        };
        match recorded {
            true => Ok(()),
            false => Err(Refusal::new(
                Reason::Unavailable,
                "Nobody joins unasked now: it can not be written down.",
            )),
        }
    }
}

impl Unknown {
    fn as_str(self) -> &'static str {
        match self {
            Unknown::Anonymous => "anonymous",
            Unknown::Token => "token",
            Unknown::Certificate => "certificate",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Unknown::Anonymous => {
                "The caller is not known: it has to present a client certificate or to send \
                 'authorization: Bearer TOKEN'."
            }
            Unknown::Token => "The caller is not known: its token is no caller's.",
            Unknown::Certificate => {
                "The caller is not known: none, or more than one, has a DNS name or URI of the \
                 certificate's subjectAltName."
            }
        }
    }
}

/// Callers that were refused for what they are: counted all, written down as far as there is room.
#[derive(Debug, Default)]
pub struct RefusedCallers(Mutex<Lines>);

#[derive(Debug, Default)]
struct Lines {
    allowance: TokenBucket,
    left_out: u64,
}

impl RefusedCallers {
    /// `caller`: its name, or those of its certificate.
    pub fn note(&self, reason: &'static str, caller: &str, from: Option<SocketAddr>) {
        metrics::counter!("undertone_grpc_callers_refused_total", "reason" => reason).increment(1);
        let Some(left_out) = self.take() else {
            return;
        };
        let from = from.map(tracing::field::display);
        tracing::warn!(reason, caller, from, left_out, "a gRPC caller is refused");
    }

    /// How many lines were left out since the last one, if there may be one now.
    fn take(&self) -> Option<u64> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match lines.allowance.try_take(LINES, LINES_EACH, clock::instant()) {
            Ok(()) => Some(std::mem::take(&mut lines.left_out)),
            Err(_) => {
                lines.left_out += 1;
                None
            }
        }
    }
}
