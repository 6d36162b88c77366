//! What is known of peers by their certificates.

use crate::sip::config::{SipConfig, Trunk};
use crate::sip::flow::{ConnectionId, Flow};
use std::collections::{BTreeMap, BTreeSet};

/// The names on the certificates of connections that are open (RFC 5922 7.1), in lower case.
#[derive(Debug, Default)]
pub(super) struct PeerCertificates {
    names: BTreeMap<ConnectionId, Vec<String>>,
    /// Connections by which requests for the address of a trunk go (RFC 5923).
    aliases: BTreeSet<ConnectionId>,
}

impl PeerCertificates {
    /// A connection has been made with the owner of a certificate.
    pub(super) fn add(&mut self, connection: ConnectionId, names: Vec<String>) {
        self.names.insert(connection, names);
    }

    /// A connection is gone.
    pub(super) fn forget(&mut self, connection: ConnectionId) {
        self.names.remove(&connection);
        self.aliases.remove(&connection);
    }

    /// The owner of the certificate at the other end is this trunk.
    pub(super) fn name(&self, trunk: &Trunk, flow: &Flow) -> bool {
        let names = self.names.get(&flow.connection);
        names.is_some_and(|names| trunk.certificate_names().any(|name| names.contains(&name)))
    }

    /// What its addresses say of a trunk is enough, or its certificate says it too.
    pub(super) fn allow(&self, trunk: &Trunk, flow: &Flow, config: &SipConfig) -> bool {
        !trunk.is_secure() || !config.verifies_clients || self.name(trunk, flow)
    }

    /// True the first time that a connection is said to be an alias.
    pub(super) fn alias(&mut self, connection: ConnectionId) -> bool {
        self.aliases.insert(connection)
    }
}
