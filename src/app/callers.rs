//! Who may call the contract of this process, and how its gateway is known to a backend elsewhere.

use super::{ServerRole, StartError};
use crate::audit::{AuditConfig, AuditLine, AuditLog};
use crate::clock;
use crate::config::Config;
use crate::model::{Command, CommandContext, Operation};
use crate::telephony::callers::{
    BearerToken, CallerAuth, Callers, ContractServer, JoinRecorder, is_loopback_url,
};
use std::sync::Arc;
use tokio::sync::oneshot;

/// The callers of the configuration, and the layer in front of the contract.
pub(super) fn auth(
    config: &Config,
    part: ServerRole,
) -> Result<(Arc<Callers>, CallerAuth), StartError> {
    let callers = Callers::load(config.callers.clone(), config.grpc_token_file.clone())?;
    let callers = Arc::new(callers);
    let auth = |server| CallerAuth::new(callers.clone(), server);
    let auth = match part {
        ServerRole::Serve | ServerRole::Gateway | ServerRole::SimulatedGateway => {
            auth(ContractServer::Gateway)
        }
        ServerRole::SipBackend => {
            let auth = auth(ContractServer::Backend);
            match config.callers.iter().any(|caller| caller.may_join_unasked) {
                true => auth.recording(recorder(config)?),
                false => auth,
            }
        }
    };
    Ok((callers, auth))
}

/// What the gateway shows the backend at `url`: the token that it is told to, or else, on one machine and
/// without a certificate to show, that of the state directory. A backend elsewhere in the machine
/// would hold that one against the certificate.
pub(super) fn token(config: &Config, url: &str) -> Result<BearerToken, StartError> {
    Ok(match (&config.backend_token_file, &config.grpc_token_file) {
        (Some(path), _) => BearerToken::of_file(path, url)?,
        (None, Some(path)) if is_loopback_url(url) && !shows_certificate(config, url) => {
            BearerToken::of_own_file(path, url)?
        }
        (None, _) => BearerToken::none(),
    })
}

fn shows_certificate(config: &Config, url: &str) -> bool {
    let scheme = url.split(':').next().unwrap_or_default();
    scheme.eq_ignore_ascii_case("https") && config.tls.backend.pair.is_some()
}

/// Writes down that a supervisor may join without being asked for. A gateway writes everything else
/// about joins down before it gives leave; here no leave is asked.
fn recorder(config: &Config) -> Result<JoinRecorder, StartError> {
    // A gateway in the same directory has a chain of its own there.
    let audit = AuditLog::open(&AuditConfig {
        file: config.backend_audit_file.clone(),
        state_dir: config.state_dir.join("sip-backend-audit"),
        ..config.audit.clone()
    })?;
    Ok(Arc::new(move |context: &CommandContext, command: &Command| {
        let (tell, told) = oneshot::channel();
        audit.write(&unasked(context, command), move |kept| {
            // Who asked may have gone.
            let _ = tell.send(kept.is_ok());
        });
        Box::pin(async move { told.await.unwrap_or(false) })
    }))
}

fn unasked<'a>(context: &'a CommandContext, command: &'a Command) -> AuditLine<'a> {
    let line = AuditLine {
        at: clock::wall(),
        event: "allowed_unasked",
        user: context.user.as_ref().map(|user| user.as_str()),
        caller: context.caller.as_ref().map(|caller| caller.name.as_str()),
        request_id: Some(context.request_id.as_str()),
        ..AuditLine::default()
    };
    match command {
        Command::StartMonitoring { supervisor, target, activity, mode, scope, .. } => AuditLine {
            operation: Some(Operation::start(*activity).as_str()),
            device: Some(supervisor.as_str()),
            target: Some(target.as_str()),
            activity: Some(activity.as_str()),
            mode: Some(mode.as_str()),
            scope: Some(scope.as_str()),
            ..line
        },
        _ => line,
    }
}
