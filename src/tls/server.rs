//! What a door presents to its clients, exchanged while it serves.

use super::key_pair::{Always, KeyPair, KeyPairFiles, certificates};
use super::{TlsError, provider};
use crate::clock;
use crate::model::Timestamp;
use arc_swap::ArcSwap;
use rustls::server::{NoServerSessionStorage, ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
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

/// Which version of a file was read: its device, inode, length and time of change, if it is there.
type Fingerprint = Option<(u64, u64, u64, i64, i64)>;

/// What a door presents. Connections that are open keep what they have.
pub struct ServerTls {
    door: &'static str,
    alpn: Alpn,
    files: ServerTlsFiles,
    current: ArcSwap<Current>,
    /// Of the files when they were read last, for good or not.
    seen: Mutex<Vec<Fingerprint>>,
}

struct Current {
    config: Arc<ServerConfig>,
    expires: Timestamp,
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
        let seen = fingerprints(&files);
        let current = Current::load(&files, alpn)?;
        let tls = Self {
            door,
            alpn,
            files,
            current: ArcSwap::from_pointee(current),
            seen: Mutex::new(seen),
        };
        tls.report(clock::wall());
        tls.failed(false);
        Ok(tls)
    }

    /// For connections from now on.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.current.load().config.clone()
    }

    /// Reads the files again if they have changed, or in any case. A pair that is wrong changes
    /// nothing.
    pub fn refresh(&self, in_any_case: bool) {
        let now = fingerprints(&self.files);
        let before = {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *seen, now.clone())
        };
        if !in_any_case && before == now {
            return self.report(clock::wall());
        }
        match Current::load(&self.files, self.alpn) {
            Ok(current) => {
                self.current.store(Arc::new(current));
                self.failed(false);
                tracing::info!(door = self.door, "the certificate was read again");
            }
            Err(error) => {
                self.failed(true);
                metrics::counter!("undertone_tls_reload_failures_total", "door" => self.door)
                    .increment(1);
                tracing::warn!(
                    door = self.door,
                    %error,
                    "the certificate cannot be used: the one of before stays"
                );
            }
        }
        self.report(clock::wall());
    }

    /// Whether what stands in the files is not what is presented.
    fn failed(&self, has_failed: bool) {
        metrics::gauge!("undertone_tls_reload_failed", "door" => self.door).set(if has_failed {
            1.0
        } else {
            0.0
        });
    }

    fn report(&self, now: Timestamp) {
        let left = self.current.load().expires.seconds_since(now);
        metrics::gauge!("undertone_tls_days_to_expiry", "door" => self.door)
            .set(left as f64 / DAY as f64);
    }

    /// Warns when the certificate expires within a fortnight: to be called now and then.
    pub fn warn_of_expiry(&self, now: Timestamp) {
        let days = self.current.load().expires.seconds_since(now) / DAY;
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

impl Current {
    fn load(files: &ServerTlsFiles, alpn: Alpn) -> Result<Self, TlsError> {
        let pair = KeyPair::load(&files.pair, clock::wall())?;
        let builder = ServerConfig::builder_with_provider(provider());
        let builder = builder
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Handshake { path: files.pair.certificate.clone(), error })?;
        let builder = match &files.client_authorities {
            Some(path) => {
                let authorities = authorities(path)?;
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider())
                        .allow_unauthenticated()
                        .build()
                        .map_err(|error| TlsError::Authorities {
                            path: path.clone(),
                            error: error.to_string(),
                        })?;
                builder.with_client_cert_verifier(verifier)
            }
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
        Ok(Self { config: Arc::new(config), expires: pair.expires() })
    }
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

fn fingerprints(files: &ServerTlsFiles) -> Vec<Fingerprint> {
    let paths = [&files.pair.certificate, &files.pair.key].into_iter();
    let paths = paths.chain(files.client_authorities.as_ref());
    // Behind links: certificates are often exchanged by turning one.
    let fingerprint = |path: &PathBuf| {
        let file = fs::metadata(path).ok()?;
        Some((file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec()))
    };
    paths.map(fingerprint).collect()
}
