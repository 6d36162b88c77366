//! What a door presents to its clients, exchanged while it serves.

use super::key_pair::{Always, KeyPair, KeyPairFiles, certificates};
use super::vouching::{ClientAuthorities, Vouching};
use super::{TlsError, provider};
use crate::clock;
use crate::model::Timestamp;
use crate::private::{Fingerprint, GrantFile, Refreshed, fingerprint};
use arc_swap::ArcSwap;
use rustls::pki_types::CertificateDer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// How long a client may take to shake hands.
const PATIENCE: Duration = Duration::from_secs(10);
/// TLS 1.2 sessions that are kept to be resumed.
const SESSIONS: usize = 4096;
/// The warning of a certificate's end begins so long before.
const NOTICE_DAYS: u64 = 14;
const DAY: u64 = 24 * 3600;

/// Protocols that a door offers (RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    /// HTTP/2 and HTTP/1.1.
    Http,
    /// HTTP/2: gRPC.
    Http2,
    /// None: SIP.
    None,
}

impl Alpn {
    fn names(self) -> Vec<Vec<u8>> {
        match self {
            Alpn::Http => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Alpn::Http2 => vec![b"h2".to_vec()],
            Alpn::None => Vec::new(),
        }
    }
}

/// Where a door's certificates are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTlsFiles {
    /// What it presents.
    pub pair: KeyPairFiles,
    /// Authorities, in PEM, that vouch for clients. With them a client may present a certificate,
    /// and one that nobody there vouches for ends the handshake.
    pub client_authorities: Option<PathBuf>,
}

/// What a door presents, and who vouches for its clients. Connections that are open keep what they
/// were presented; one whose client is vouched for no more is to be closed: [`Self::vouching`].
pub struct ServerTls {
    door: &'static str,
    alpn: Alpn,
    files: ServerTlsFiles,
    config: ArcSwap<ServerConfig>,
    read: Mutex<FilesRead>,
    authorities: watch::Sender<ClientAuthorities>,
}

/// What was last read of the files.
struct FilesRead {
    pair: KeyPair,
    /// Of the pair's files, for good or not.
    seen: [Fingerprint; 2],
    /// What stands in the pair's files is not what is presented.
    pair_failed: bool,
    authorities: Option<GrantFile>,
}

/// A client that has shaken hands: its socket, and the machine that seals what is sent there.
pub struct Handshake {
    /// The socket.
    pub stream: TcpStream,
    /// The machine.
    pub session: Box<ServerConnection>,
}

impl ServerTls {
    /// Reads and judges the files. `door`: its name in the log and the metrics.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn load(door: &'static str, files: ServerTlsFiles, alpn: Alpn) -> Result<Self, TlsError> {
        let seen = fingerprints(&files.pair);
        let pair = KeyPair::load(&files.pair, clock::wall())?;
        let load = |path: &PathBuf| GrantFile::load(path, verifier);
        let (authorities, verifier) =
            files.client_authorities.as_ref().map(load).transpose()?.unzip();
        let config = server_config(&pair, &files, verifier.clone(), alpn)?;
        let read = FilesRead { pair, seen, pair_failed: false, authorities };
        let tls = Self {
            door,
            alpn,
            files,
            config: ArcSwap::new(config),
            read: Mutex::new(read),
            authorities: watch::Sender::new(verifier),
        };
        tls.report(&tls.read());
        Ok(tls)
    }

    /// For connections from now on.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }

    fn read(&self) -> MutexGuard<'_, FilesRead> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the files again if they have changed, or in any case. A pair that is wrong changes
    /// nothing. Authorities that cannot be used vouch for nobody: [`GrantFile::refresh`].
    pub fn refresh(&self, in_any_case: bool) {
        let mut read = self.read();
        let has_pair = self.refresh_pair(&mut read, in_any_case);
        let has_authorities = self.refresh_authorities(&mut read, in_any_case);
        if has_pair || has_authorities {
            let verifier = self.authorities.borrow().clone();
            match server_config(&read.pair, &self.files, verifier, self.alpn) {
                Ok(config) => {
                    self.config.store(config);
                    tracing::info!(door = self.door, "the certificate was read again");
                }
                Err(error) => {
                    read.pair_failed = true;
                    self.warn(&error, "the certificate cannot be used: the one of before stays");
                }
            }
        }
        self.report(&read);
    }

    /// Whether there is another pair.
    fn refresh_pair(&self, read: &mut FilesRead, in_any_case: bool) -> bool {
        let now = fingerprints(&self.files.pair);
        let before = std::mem::replace(&mut read.seen, now);
        if !in_any_case && before == now {
            return false;
        }
        let pair = KeyPair::load(&self.files.pair, clock::wall());
        read.pair_failed = pair.is_err();
        match pair {
            Ok(pair) => read.pair = pair,
            Err(error) => {
                self.warn(&error, "the certificate cannot be used: the one of before stays");
            }
        }
        !read.pair_failed
    }

    /// Whether there are other authorities.
    fn refresh_authorities(&self, read: &mut FilesRead, in_any_case: bool) -> bool {
        let Some(file) = &mut read.authorities else {
            return false;
        };
        match file.refresh(in_any_case, verifier) {
            Refreshed::Unchanged => return false,
            Refreshed::Granted(verifier) => self.authorities.send_replace(Some(verifier)),
            Refreshed::Void(error) => {
                self.warn(&error, "nobody vouches for clients any more: no certificate is known");
                self.authorities.send_replace(None)
            }
        };
        true
    }

    fn warn(&self, error: &TlsError, what: &'static str) {
        metrics::counter!("undertone_tls_reload_failures_total", "door" => self.door).increment(1);
        tracing::warn!(door = self.door, %error, "{what}");
    }

    fn report(&self, read: &FilesRead) {
        let left = read.pair.expires().seconds_since(clock::wall());
        metrics::gauge!("undertone_tls_days_to_expiry", "door" => self.door)
            .set(left as f64 / DAY as f64);
        let has_failed =
            read.pair_failed || read.authorities.as_ref().is_some_and(GrantFile::is_void);
        metrics::gauge!("undertone_tls_reload_failed", "door" => self.door).set(if has_failed {
            1.0
        } else {
            0.0
        });
    }

    /// How long a client that has presented these certificates is vouched for.
    pub fn vouching(&self, presented: Option<&[CertificateDer<'_>]>) -> Vouching {
        Vouching::new(self.door, presented, self.authorities.subscribe())
    }

    /// Warns when the certificate expires within a fortnight: to be called now and then.
    pub fn warn_of_expiry(&self, now: Timestamp) {
        let days = self.read().pair.expires().seconds_since(now) / DAY;
        if days < NOTICE_DAYS {
            tracing::warn!(
                door = self.door,
                certificate = %self.files.pair.certificate.display(),
                days,
                "the certificate expires soon"
            );
        }
    }

    /// Shakes hands with a client. `None`: it could not, or took too long.
    pub async fn accept(&self, stream: TcpStream) -> Option<Handshake> {
        let (stream, session) = self.accept_stream(stream, PATIENCE).await?.into_inner();
        Some(Handshake { stream, session: Box::new(session) })
    }

    /// The same as a stream, with another patience.
    pub async fn accept_stream(
        &self,
        stream: TcpStream,
        patience: Duration,
    ) -> Option<TlsStream<TcpStream>> {
        let acceptor = TlsAcceptor::from(self.config());
        let outcome = timeout(patience, acceptor.accept(stream)).await;
        let reason = match outcome {
            Ok(Ok(shaken)) => return Some(shaken),
            Ok(Err(error)) => {
                tracing::debug!(door = self.door, %error, "a TLS handshake has failed");
                "refused"
            }
            Err(_) => {
                tracing::debug!(door = self.door, "a TLS handshake took too long");
                "timeout"
            }
        };
        let labels = [("door", self.door), ("reason", reason)];
        metrics::counter!("undertone_tls_handshake_failures_total", &labels).increment(1);
        None
    }
}

fn server_config(
    pair: &KeyPair,
    files: &ServerTlsFiles,
    verifier: ClientAuthorities,
    alpn: Alpn,
) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Handshake { path: files.pair.certificate.clone(), error })?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(Always(pair.certified())));
    config.alpn_protocols = alpn.names();
    match files.client_authorities {
        // A session that is resumed is not verified again: a client that was taken out of the
        // authorities would come in by it.
        Some(_) => {
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        None => {
            config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
            if let Ok(ticketer) = rustls::crypto::aws_lc_rs::Ticketer::new() {
                config.ticketer = ticketer;
            }
        }
    }
    Ok(Arc::new(config))
}

/// Verifies the clients that authorities of a PEM file vouch for, and lets those in that present
/// nothing.
fn verifier(path: &Path) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let authorities = Arc::new(authorities(path)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(authorities, provider())
        .allow_unauthenticated()
        .build();
    verifier
        .map_err(|error| TlsError::Authorities { path: path.to_owned(), error: error.to_string() })
}

/// The authorities of a PEM file.
pub(super) fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        store.add(certificate).map_err(|error| TlsError::Authorities {
            path: path.to_owned(),
            error: error.to_string(),
        })?;
    }
    Ok(store)
}

fn fingerprints(files: &KeyPairFiles) -> [Fingerprint; 2] {
    [&files.certificate, &files.key].map(|path| fingerprint(path))
}
