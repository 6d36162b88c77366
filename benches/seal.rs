//! TLS of the servers of a bench, and its load's trust in them.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use std::error::Error;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use undertone::clock::wall;
use undertone::tls::{Authority, SubjectName, install_provider};

/// A certificate for the servers, and a client's trust in it.
pub struct Seal {
    /// In PEM.
    pub certificate: PathBuf,
    /// In PEM.
    pub key: PathBuf,
    /// What a client needs.
    pub client: Arc<ClientConfig>,
    _place: TempDir,
}

impl Seal {
    /// Of an authority of its own; for 127.0.0.1, for a day.
    pub fn make() -> Result<Self, Box<dyn Error>> {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        install_provider();
        let authority = Authority::make("A bench's authority", wall(), DAY)?;
        let issued = authority.issue(&[SubjectName::of_host("127.0.0.1")], wall(), DAY)?;
        let place = tempfile::tempdir()?;
        let (certificate, key) = (place.path().join("server.crt"), place.path().join("server.key"));
        fs::write(&certificate, issued.certificate)?;
        fs::write(&key, issued.key)?;
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.certificate().as_bytes())?)?;
        let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Ok(Self { certificate, key, client: Arc::new(client), _place: place })
    }

    /// The section of our configuration.
    pub fn keys(&self) -> String {
        format!("[tls]\nrest_certificate = {:?}\nrest_key = {:?}\n", self.certificate, self.key)
    }
}
