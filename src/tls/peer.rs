//! A client of a door, as its certificate names it.

use super::SubjectName;
use rustls::pki_types::CertificateDer;
use std::sync::Arc;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

/// The certificates that a client has presented, its own first, each vouched for by an authority of
/// the door: an extension of its requests.
#[derive(Clone, Debug)]
pub struct PeerCertificates(pub Arc<Vec<CertificateDer<'static>>>);

impl PeerCertificates {
    /// The names by which the client's own certificate speaks of a service: those of hosts and the
    /// URIs among its subjectAltName (RFC 5280 4.2.1.6). The subject itself is none: whatever stands
    /// in a common name, nobody has promised that it is a name of a service.
    pub fn names(&self) -> Vec<SubjectName> {
        let own = self.0.first().and_then(|own| X509Certificate::from_der(own).ok());
        let Some((_, own)) = own else {
            return Vec::new();
        };
        let alternatives =
            own.extensions().iter().flat_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(names) => names.general_names.as_slice(),
                _ => &[],
            });
        let named = alternatives.filter_map(|name| match name {
            GeneralName::DNSName(host) => Some(SubjectName::Host((*host).to_owned())),
            GeneralName::URI(uri) => Some(SubjectName::Uri((*uri).to_owned())),
            _ => None,
        });
        named.collect()
    }
}
