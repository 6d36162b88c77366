//! What the log and the metrics are told of trunks.

use crate::sip::config::LookupFault;
use crate::sip::flow::Protocol;
use crate::sip::user_agent::RegistrationState;
use std::net::SocketAddr;

/// A target over TLS can be reached, or no longer.
pub(super) fn connected(trunk: String, address: SocketAddr, connected: bool) {
    match connected {
        true => tracing::info!(trunk, address = %address, "connected to a trunk over TLS"),
        false => {
            tracing::warn!(
                trunk,
                address = %address,
                "no connection to a trunk over TLS; trying again"
            )
        }
    }
    let target = address.to_string();
    metrics::gauge!("undertone_sip_trunk_connected", "trunk" => trunk, "target" => target)
        .set(number(connected));
}

/// One of a trunk's targets answers OPTIONS, or none does.
pub(super) fn present(trunk: String, present: bool, devices: usize) {
    match present {
        true => tracing::info!(trunk, devices, "trunk up: it answers OPTIONS"),
        false => tracing::warn!(trunk, devices, "trunk down: it does not answer OPTIONS"),
    }
    metrics::gauge!("undertone_sip_trunk_up", "trunk" => trunk).set(number(present));
}

/// A target of a trunk answers OPTIONS, or does not.
pub(super) fn target_present(
    trunk: String,
    (protocol, address): (Protocol, SocketAddr),
    present: bool,
) {
    match present {
        true => tracing::info!(trunk, address = %address, %protocol, "target of a trunk up"),
        false => tracing::warn!(trunk, address = %address, %protocol, "target of a trunk down"),
    }
    set_target(trunk, (protocol, address), number(present));
}

/// A target is none any more. A metric that was there once does not go: it says so.
pub(super) fn target_gone(trunk: String, address: (Protocol, SocketAddr)) {
    set_target(trunk, address, f64::NAN);
}

fn set_target(trunk: String, (protocol, address): (Protocol, SocketAddr), value: f64) {
    let target = address.to_string();
    metrics::gauge!(
        "undertone_sip_trunk_target_up",
        "trunk" => trunk,
        "target" => target,
        "transport" => protocol.as_str()
    )
    .set(value);
}

/// How our registration with a trunk stands.
pub(super) fn registration(trunk: String, state: &RegistrationState) {
    let is_registered = match state {
        RegistrationState::Registered { expires } => {
            tracing::info!(trunk, expires_s = expires.as_secs(), "registered with a trunk");
            true
        }
        RegistrationState::Failed { status, wait } => {
            tracing::warn!(
                trunk,
                status,
                again_s = wait.as_secs(),
                "not registered with a trunk; trying again"
            );
            false
        }
        RegistrationState::Removed => {
            tracing::info!(trunk, "registration with a trunk taken back");
            false
        }
    };
    metrics::gauge!("undertone_sip_trunk_registered", "trunk" => trunk).set(number(is_registered));
}

/// A name of trunks stands for nothing.
pub(super) fn not_found(trunks: &[String], host: &str, fault: &LookupFault, known: bool) {
    let trunk = trunks.join(", ");
    match known {
        true => tracing::warn!(
            trunk,
            name = host,
            error = %fault,
            "a trunk's name can not be looked up; what was found before holds"
        ),
        false => tracing::warn!(
            trunk,
            name = host,
            error = %fault,
            "a trunk's name can not be looked up; trying again"
        ),
    }
}

fn number(is: bool) -> f64 {
    if is { 1.0 } else { 0.0 }
}
