//! What each role may ask. An rpc that is not here is nobody's.

use super::ContractServer;
use crate::model::{Caller, CallerRole};
use std::net::IpAddr;

/// What an rpc of the contract is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rpc {
    Describe,
    Watch,
    /// Something is to be done on behalf of a user.
    Command,
    /// Leave to join, and what a phone is told that has asked for it.
    Admission,
}

/// Every rpc of the contract.
const RPCS: [(&str, Rpc); 25] = [
    ("Describe", Rpc::Describe),
    ("Watch", Rpc::Watch),
    ("StartMonitoring", Rpc::Command),
    ("StopMonitoring", Rpc::Command),
    ("SwitchMonitoring", Rpc::Command),
    ("AdmitMonitoring", Rpc::Admission),
    ("MuteMonitoredParty", Rpc::Command),
    ("SetDoNotDisturb", Rpc::Command),
    ("SetForwarding", Rpc::Command),
    ("Dial", Rpc::Command),
    ("Answer", Rpc::Command),
    ("Hangup", Rpc::Command),
    ("ClearCall", Rpc::Command),
    ("Reject", Rpc::Command),
    ("Redirect", Rpc::Command),
    ("Hold", Rpc::Command),
    ("Retrieve", Rpc::Command),
    ("SwapCalls", Rpc::Command),
    ("Mute", Rpc::Command),
    ("SendDtmf", Rpc::Command),
    ("Transfer", Rpc::Command),
    ("Conference", Rpc::Command),
    ("RemoveParticipant", Rpc::Command),
    ("ChangeUserData", Rpc::Command),
    ("RefuseFeatureCode", Rpc::Admission),
];

/// The rpc of a name; `None`: there is none.
pub(super) fn rpc_of(name: &str) -> Option<Rpc> {
    RPCS.into_iter().find(|(known, _)| *known == name).map(|(_, rpc)| rpc)
}

/// # Errors
/// Why the caller may not ask this of a server of this kind, for people.
pub(super) fn permitted(caller: &Caller, rpc: Rpc, server: ContractServer) -> Result<(), String> {
    let Caller { name, role, .. } = caller;
    let may_not = |why: &str| Err(format!("Caller '{name}' may not: {why}"));
    match (role, rpc) {
        (CallerRole::Gateway, Rpc::Describe | Rpc::Watch | Rpc::Command | Rpc::Admission)
        | (CallerRole::Observer, Rpc::Describe | Rpc::Watch)
        | (CallerRole::Service, Rpc::Describe) => Ok(()),
        (CallerRole::Service, Rpc::Command) => match server {
            ContractServer::Gateway => Ok(()),
            ContractServer::Backend => may_not(
                "a service asks a gateway, which knows what its users may; a backend does not.",
            ),
        },
        (CallerRole::Observer, Rpc::Command | Rpc::Admission) => {
            may_not("an observer asks Describe and Watch alone.")
        }
        (CallerRole::Service, Rpc::Watch) => may_not("a service sees no calls: observers do."),
        (CallerRole::Service, Rpc::Admission) => may_not("gateways alone give leave to join."),
    }
}

/// The address is this machine's own.
pub(super) fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// The parts of a URL without a path; the host without brackets.
pub(super) fn scheme_and_host(url: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.trim_end_matches('/');
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        Some(_) | None => authority,
    };
    Some((scheme, host.trim_start_matches('[').trim_end_matches(']')))
}

/// By name or address, this machine.
pub(super) fn is_loopback_host(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(is_loopback)
}

/// The server at this URL is on this machine.
pub fn is_loopback_url(url: &str) -> bool {
    scheme_and_host(url).is_some_and(|(_, host)| is_loopback_host(host))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telephony::proto;
    use prost::Message;

    #[test]
    fn every_rpc_of_the_proto_file_is_in_the_table_and_nothing_else() {
        let files = prost_types::FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap();
        let services = files.file.iter().flat_map(|file| &file.service);
        let methods = services.flat_map(|service| &service.method);
        let names: Vec<&str> = methods.map(|method| method.name()).collect();
        assert_eq!(names, RPCS.map(|(name, _)| name));
    }

    #[test]
    fn this_machine_is_known_by_its_names_and_nothing_else_is() {
        for url in
            ["http://127.0.0.1:1", "http://[::1]:1/", "http://LocalHost", "https://127.9.9.9"]
        {
            assert!(is_loopback_url(url), "{url}");
        }
        for url in [
            "http://10.0.0.1:1",
            "http://localhost.evil:1",
            "http://127.0.0.1.evil",
            "http://127.0.0.1@evil",
            "http://evil#localhost",
            "localhost",
        ] {
            assert!(!is_loopback_url(url), "{url}");
        }
    }
}
