//! TLS of every door, and of the gateway's way to its backend: rustls with aws-lc-rs, TLS 1.2 and
//! 1.3.
//!
//! ```text
//! files ─▶ KeyPair: chain, key, dates, a handshake with itself ─▶ ServerTls ─▶ new connections
//!   ▲         │ something is wrong: the pair of before stays, a warning, a metric
//!   └─ looked at again every few seconds, and at SIGHUP
//! ```

mod authority;
mod client;
mod key_pair;
mod peer;
mod server;
mod sip;
mod vouching;

pub use authority::{Authority, AuthorityError, Issued, SubjectName};
pub use client::{ClientTls, ClientTlsFiles};
pub use key_pair::{KeyPair, KeyPairFiles};
pub use peer::PeerCertificates;
pub use server::{Alpn, Handshake, ServerTls, ServerTlsFiles};
pub use sip::sip_domains;
pub use vouching::Vouching;

use crate::model::Timestamp;
use crate::private::SecretFileError;
use rustls::crypto::CryptoProvider;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// Makes aws-lc-rs the provider of cryptography of the process: to be called before anything else
/// uses TLS. Called again, it does nothing.
pub fn install_provider() {
    // There is one already: the same.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

fn provider() -> Arc<CryptoProvider> {
    install_provider();
    CryptoProvider::get_default()
        .cloned()
        .unwrap_or_else(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
}

/// What is wrong with certificates and keys.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read.
    #[error("{}: {error}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// A key is not read: others may, or it cannot be.
    #[error(transparent)]
    KeyFile(#[from] SecretFileError),
    /// The file is not PEM (RFC 7468) of what it should be.
    #[error("{}: {error}", .path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: String,
    },
    /// There is no certificate in the file.
    #[error("{}: there is no certificate in it", .path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// A certificate of the chain is not one (RFC 5280).
    #[error("{}: certificate {number} of the chain: {error}", .path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Its place in the chain, from 1.
        number: usize,
        /// Why not.
        error: String,
    },
    /// A certificate of the chain is not valid yet.
    #[error(
        "{}: certificate {number} of the chain is not valid before {}", .path.display(), date(*.from)
    )]
    NotYetValid {
        /// The file.
        path: PathBuf,
        /// Its place in the chain, from 1.
        number: usize,
        /// When it becomes valid.
        from: Timestamp,
    },
    /// A certificate of the chain is not valid any more.
    #[error("{}: certificate {number} of the chain has expired, {}", .path.display(), date(*.since))]
    Expired {
        /// The file.
        path: PathBuf,
        /// Its place in the chain, from 1.
        number: usize,
        /// When it was valid last.
        since: Timestamp,
    },
    /// Each certificate of a chain is to be signed by the next (RFC 8446 4.4.2).
    #[error("{}: certificate {number} of the chain is not signed by the next", .path.display())]
    BrokenChain {
        /// The file.
        path: PathBuf,
        /// Its place in the chain, from 1.
        number: usize,
    },
    /// The key is another certificate's, or of a kind that is not supported.
    #[error("{}: the key does not go with {}: {error}", .key.display(), .certificate.display())]
    Key {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why not.
        error: rustls::Error,
    },
    /// A client could not shake hands with this pair.
    #[error("{}: a handshake with it fails: {error}", .path.display())]
    Handshake {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        error: rustls::Error,
    },
    /// The authorities in the file can verify nobody.
    #[error("{}: {error}", .path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: String,
    },
}

/// As in HTTP (RFC 9110 5.6.7).
fn date(time: Timestamp) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(time.0))
}
