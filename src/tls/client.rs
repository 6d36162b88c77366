//! How the gateway knows its backend, and is known to it.

use super::key_pair::{KeyPairFiles, certificates, private_key};
use super::server::authorities;
use super::sip::{SipServerVerifier, sip_domains};
use super::{TlsError, provider};
use rustls::client::WantsClientCert;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};
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

/// Reads its files for each connection: what changes in them holds for the next.
#[derive(Clone, Debug, Default)]
pub struct ClientTls {
    files: ClientTlsFiles,
}

impl ClientTls {
    /// With these files.
    pub fn new(files: ClientTlsFiles) -> Self {
        Self { files }
    }

    /// What a connection is made with now.
    ///
    /// # Errors
    /// What is wrong with the files.
    pub fn config(&self, alpn: &[&[u8]]) -> Result<ClientConfig, TlsError> {
        let builder = self.builder()?.with_root_certificates(self.authorities()?);
        let mut config = self.presenting(builder)?;
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Ok(config)
    }

    fn authorities(&self) -> Result<RootCertStore, TlsError> {
        match &self.files.authorities {
            Some(path) => authorities(path),
            None => Ok(system_authorities()),
        }
    }

    fn builder(&self) -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, TlsError> {
        ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Handshake { path: PathBuf::new(), error })
    }

    fn presenting(
        &self,
        builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    ) -> Result<ClientConfig, TlsError> {
        Ok(match &self.files.pair {
            Some(pair) => {
                let (chain, key) = (certificates(&pair.certificate)?, private_key(&pair.key)?);
                builder.with_client_auth_cert(chain, key).map_err(|error| TlsError::Key {
                    certificate: pair.certificate.clone(),
                    key: pair.key.clone(),
                    error,
                })?
            }
            None => builder.with_no_client_auth(),
        })
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
        let verifier = SipServerVerifier {
            authorities: self.authorities().map_err(io::Error::other)?,
            domains,
            provider: provider(),
        };
        let builder = self.builder().map_err(io::Error::other)?;
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
        let config = self.presenting(builder).map_err(io::Error::other)?;
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
        let config = self.config(alpn).map_err(io::Error::other)?;
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }
}

fn system_authorities() -> RootCertStore {
    let mut store = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    store.add_parsable_certificates(found.certs);
    store
}
