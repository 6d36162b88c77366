//! How the gateway knows its backend, and is known to it.

use super::key_pair::{KeyPairFiles, certificates, private_key};
use super::server::authorities;
use super::sip::{SipServerVerifier, sip_domains};
use super::{TlsError, provider};
use arc_swap::ArcSwapOption;
use rustls::client::WantsClientCert;
use rustls::pki_types::ServerName;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Where the certificates of a client are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTlsFiles {
    /// Authorities, in PEM, that vouch for servers; without: those of the system.
    pub authorities: Option<PathBuf>,
    /// What is presented to a server that asks for it.
    pub pair: Option<KeyPairFiles>,
}

/// Reads its files for each connection: what changes in them holds for the next, and what is wrong
/// then changes nothing.
#[derive(Clone, Default)]
pub struct ClientTls {
    files: ClientTlsFiles,
    /// What was in them when they were fine last.
    last: Arc<ArcSwapOption<ClientIdentity>>,
}

/// What the files of a client say.
struct ClientIdentity {
    authorities: RootCertStore,
    pair: Option<CertifiedKey>,
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClientTls").field(&self.files).finish()
    }
}

impl ClientTls {
    /// With these files.
    pub fn new(files: ClientTlsFiles) -> Self {
        Self { files, last: Arc::default() }
    }

    /// What a connection is made with now.
    ///
    /// # Errors
    /// What is wrong with the files.
    pub fn config(&self, alpn: &[&[u8]]) -> Result<ClientConfig, TlsError> {
        self.read()?.config(alpn)
    }

    /// Reads the files ahead, so that they may be wrong later.
    ///
    /// # Errors
    /// What is wrong with them now.
    pub fn load(&self) -> Result<(), TlsError> {
        self.identity().map(|_| ())
    }

    fn read(&self) -> Result<ClientIdentity, TlsError> {
        let authorities = match &self.files.authorities {
            Some(path) => authorities(path)?,
            None => system_authorities(),
        };
        let read = |pair: &KeyPairFiles| {
            let (chain, key) = (certificates(&pair.certificate)?, private_key(&pair.key)?);
            CertifiedKey::from_der(chain, key, &provider()).map_err(|error| TlsError::Key {
                certificate: pair.certificate.clone(),
                key: pair.key.clone(),
                error,
            })
        };
        Ok(ClientIdentity { authorities, pair: self.files.pair.as_ref().map(read).transpose()? })
    }

    /// What the files say, or, where something is wrong with them, what they said before.
    fn identity(&self) -> Result<Arc<ClientIdentity>, TlsError> {
        match (self.read(), self.last.load_full()) {
            (Ok(identity), _) => {
                let identity = Arc::new(identity);
                self.last.store(Some(identity.clone()));
                Ok(identity)
            }
            (Err(error), Some(last)) => {
                tracing::warn!(%error, "certificates cannot be used: those of before stay");
                Ok(last)
            }
            (Err(error), None) => Err(error),
        }
    }

    /// Shakes hands over a TCP connection with a SIP server of one of these domains (RFC 5922 7), in
    /// lower case; the stream, and all domains of the server.
    ///
    /// # Errors
    /// It is none of those, or something is wrong with our files.
    pub async fn connect_sip(
        &self,
        domains: Vec<String>,
        stream: TcpStream,
    ) -> io::Result<(TlsStream<TcpStream>, Vec<String>)> {
        let named = domains.first().cloned().unwrap_or_default();
        let name = ServerName::try_from(named).map_err(io::Error::other)?;
        let identity = self.identity().map_err(io::Error::other)?;
        let verifier = SipServerVerifier {
            authorities: identity.authorities.clone(),
            domains,
            provider: provider(),
        };
        let builder = builder().map_err(io::Error::other)?;
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
        let config = identity.presenting(builder);
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let presented = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let found = presented.map(sip_domains).unwrap_or_default();
        Ok((stream, found))
    }

    /// Shakes hands over a TCP connection with the server of this name, which its certificate must
    /// have (RFC 9525).
    ///
    /// # Errors
    /// It is not that server, or something is wrong with our files.
    pub async fn connect(
        &self,
        host: &str,
        stream: TcpStream,
        alpn: &[&[u8]],
    ) -> io::Result<TlsStream<TcpStream>> {
        let identity = self.identity().map_err(io::Error::other)?;
        let config = identity.config(alpn).map_err(io::Error::other)?;
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }
}

impl ClientIdentity {
    fn config(&self, alpn: &[&[u8]]) -> Result<ClientConfig, TlsError> {
        let builder = builder()?.with_root_certificates(self.authorities.clone());
        let mut config = self.presenting(builder);
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Ok(config)
    }

    fn presenting(&self, builder: ConfigBuilder<ClientConfig, WantsClientCert>) -> ClientConfig {
        match &self.pair {
            Some(pair) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair.clone())))
            }
            None => builder.with_no_client_auth(),
        }
    }
}

fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, TlsError> {
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Handshake { path: PathBuf::new(), error })
}

fn system_authorities() -> RootCertStore {
    let mut store = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    store.add_parsable_certificates(found.certs);
    store
}
