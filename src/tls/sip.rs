//! Who a SIP peer is by its certificate (RFC 5922).

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::sync::Arc;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// The domains of a certificate, in lower case (RFC 5922 7.1): those of the sip URIs without a user
/// in its subjectAltName; without any, its DNS names. The common name is none.
pub fn sip_domains(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let names = &names.value.general_names;
    let of_uris: Vec<String> = names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => domain_of(uri),
            _ => None,
        })
        .collect();
    if !of_uris.is_empty() {
        return of_uris;
    }
    names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        })
        .collect()
}

/// The host of a sip URI that names a domain.
fn domain_of(uri: &str) -> Option<String> {
    let (scheme, rest) = uri.split_once(':')?;
    let host = rest.split([':', ';', '?']).next()?;
    let is_domain = scheme.eq_ignore_ascii_case("sip") && !rest.contains('@') && !host.is_empty();
    is_domain.then(|| host.to_ascii_lowercase())
}

/// Verifies that a server is one of these domains. A wildcard is nobody's name (RFC 5922 7.2).
#[derive(Debug)]
pub(super) struct SipServerVerifier {
    pub(super) authorities: RootCertStore,
    /// In lower case.
    pub(super) domains: Vec<String>,
    pub(super) provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for SipServerVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.authorities,
            intermediates,
            now,
            algorithms,
        )?;
        let presented = sip_domains(certificate);
        match presented.iter().any(|name| self.domains.contains(name)) {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(CertificateError::NotValidForName.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SanType};

    fn domains(names: Vec<SanType>) -> Vec<String> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "common.example");
        params.subject_alt_names = names;
        let key = KeyPair::generate().unwrap();
        sip_domains(params.self_signed(&key).unwrap().der())
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    fn dns(text: &str) -> SanType {
        SanType::DnsName(text.try_into().unwrap())
    }

    #[test]
    fn sip_uris_without_a_user_are_the_domains_of_a_certificate_and_dns_names_where_it_has_none() {
        for (names, expected) in [
            (vec![uri("sip:A.Example"), dns("b.example")], vec!["a.example"]),
            (vec![uri("SIP:a.example:5061;transport=tls")], vec!["a.example"]),
            (vec![dns("B.example"), dns("c.example")], vec!["b.example", "c.example"]),
            (vec![uri("sip:user@a.example"), dns("b.example")], vec!["b.example"]),
            (vec![uri("sips:a.example"), dns("b.example")], vec!["b.example"]),
            (vec![uri("urn:undertone:gateway")], vec![]),
            (vec![], vec![]),
        ] {
            assert_eq!(domains(names.clone()), expected, "{names:?}");
        }
    }
}
