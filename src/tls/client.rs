//! How the gateway knows its backend, and is known to it.

use super::key_pair::{KeyPairFiles, certificates, private_key};
use super::server::authorities;
use super::{TlsError, provider};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
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
        let roots = match &self.files.authorities {
            Some(path) => authorities(path)?,
            None => system_authorities(),
        };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Handshake { path: PathBuf::new(), error })?
            .with_root_certificates(roots);
        let mut config = match &self.files.pair {
            Some(pair) => {
                let (chain, key) = (certificates(&pair.certificate)?, private_key(&pair.key)?);
                builder.with_client_auth_cert(chain, key).map_err(|error| TlsError::Key {
                    certificate: pair.certificate.clone(),
                    key: pair.key.clone(),
                    error,
                })?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Ok(config)
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
