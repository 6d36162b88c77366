//! A certificate chain and its key, judged before anybody relies on it.

use super::{TlsError, provider};
use crate::model::Timestamp;
use crate::private;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ResolvesServerCert;
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, ServerConfig, ServerConnection,
    SignatureScheme,
};
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A file with a key, a chain or the authorities of a whole system is no longer than this.
const LONGEST_PEM_FILE: u64 = 1024 * 1024;

/// Where a certificate chain and its key are, both in PEM.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyPairFiles {
    /// The certificate, then those that vouch for it, each for the one before.
    pub certificate: PathBuf,
    /// PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
}

/// A certificate chain with its key.
#[derive(Clone, Debug)]
pub struct KeyPair {
    certified: Arc<CertifiedKey>,
    expires: Timestamp,
}

impl KeyPair {
    /// Reads a pair and judges it whole: the chain in its order, the dates at `now`, whether key
    /// and certificate go together, and a handshake of the pair with itself.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn load(files: &KeyPairFiles, now: Timestamp) -> Result<Self, TlsError> {
        let chain = certificates(&files.certificate)?;
        let expires = judge_chain(&files.certificate, &chain, now)?;
        let key = private_key(&files.key)?;
        let certified = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| {
            TlsError::Key { certificate: files.certificate.clone(), key: files.key.clone(), error }
        })?;
        let pair = Self { certified: Arc::new(certified), expires };
        pair.shake_hands()
            .map_err(|error| TlsError::Handshake { path: files.certificate.clone(), error })?;
        Ok(pair)
    }

    /// When the first certificate of its chain expires.
    pub fn expires(&self) -> Timestamp {
        self.expires
    }

    pub(super) fn certified(&self) -> Arc<CertifiedKey> {
        self.certified.clone()
    }

    /// A client that trusts it for this once, and the server that it would make, without a network.
    fn shake_hands(&self) -> Result<(), rustls::Error> {
        let provider = provider();
        let trust = Arc::new(TrustsAnybody(provider.clone()));
        let client = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(trust)
            .with_no_client_auth();
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Always(self.certified.clone())));
        let name = ServerName::try_from("self.invalid").map_err(|_| {
            rustls::Error::General("the name of the handshake with itself".to_owned())
        })?;
        let mut client = ClientConnection::new(Arc::new(client), name)?;
        let mut server = ServerConnection::new(Arc::new(server))?;
        while client.is_handshaking() || server.is_handshaking() {
            let sent = carry(&mut client, &mut server)? + carry(&mut server, &mut client)?;
            if sent == 0 {
                return Err(rustls::Error::HandshakeNotComplete);
            }
        }
        Ok(())
    }
}

/// What one side has to say, to the other; in bytes.
fn carry<A, B>(
    from: &mut rustls::ConnectionCommon<A>,
    to: &mut rustls::ConnectionCommon<B>,
) -> Result<usize, rustls::Error> {
    let memory = |error: std::io::Error| rustls::Error::General(error.to_string());
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).map_err(memory)?;
    }
    let mut unread = Cursor::new(&bytes);
    while unread.position() < bytes.len() as u64 {
        to.read_tls(&mut unread).map_err(memory)?;
        to.process_new_packets()?;
    }
    Ok(bytes.len())
}

/// Presents one pair to everybody.
#[derive(Debug)]
pub(super) struct Always(pub(super) Arc<CertifiedKey>);

impl ResolvesServerCert for Always {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

/// For the handshake of a pair with itself: that the server has the key is verified all the same.
#[derive(Debug)]
struct TrustsAnybody(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustsAnybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    private::read_named(path, LONGEST_PEM_FILE)
        .map_err(|error| TlsError::Read { path: path.to_owned(), error })
}

/// All certificates of a PEM file, one at least.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found =
        found.map_err(|error| TlsError::Pem { path: path.to_owned(), error: error.to_string() })?;
    match found.is_empty() {
        true => Err(TlsError::NoCertificate { path: path.to_owned() }),
        false => Ok(found),
    }
}

pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = private::read_secret(path, LONGEST_PEM_FILE)?;
    PrivateKeyDer::from_pem_slice(bytes.expose()).map_err(|error| TlsError::Pem {
        path: path.to_owned(),
        error: match error {
            pem::Error::NoItemsFound => "there is no private key in it".to_owned(),
            error => error.to_string(),
        },
    })
}

/// When the first certificate of the chain expires.
fn judge_chain(
    path: &Path,
    chain: &[CertificateDer<'_>],
    now: Timestamp,
) -> Result<Timestamp, TlsError> {
    let path = || path.to_owned();
    let mut parsed = Vec::new();
    for (index, certificate) in chain.iter().enumerate() {
        let number = index + 1;
        let (_, certificate) = X509Certificate::from_der(certificate).map_err(|error| {
            TlsError::Certificate { path: path(), number, error: error.to_string() }
        })?;
        let (from, until) = validity(&certificate);
        if now < from {
            return Err(TlsError::NotYetValid { path: path(), number, from });
        }
        if now >= until {
            return Err(TlsError::Expired { path: path(), number, since: until });
        }
        parsed.push((certificate, until));
    }
    for (index, pair) in parsed.windows(2).enumerate() {
        if let [(certificate, _), (next, _)] = pair
            && certificate.issuer() != next.subject()
        {
            return Err(TlsError::BrokenChain { path: path(), number: index + 1 });
        }
    }
    let expires = parsed.iter().map(|(_, until)| *until).min();
    expires.ok_or_else(|| TlsError::NoCertificate { path: path() })
}

/// From when until when a certificate is valid.
fn validity(certificate: &X509Certificate<'_>) -> (Timestamp, Timestamp) {
    // Before 1970 is 1970.
    let time = |seconds: i64| Timestamp(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000));
    let validity = certificate.validity();
    (time(validity.not_before.timestamp()), time(validity.not_after.timestamp()))
}
