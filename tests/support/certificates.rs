//! A private authority, and what it vouches for.

use super::talk::PATIENCE;
use reqwest::Client;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpStream;
use undertone::clock;
use undertone::model::Timestamp;
use undertone::tls::{
    Alpn, Authority, ClientTls, ClientTlsFiles, KeyPairFiles, ServerTls, ServerTlsFiles,
    SubjectName,
};

/// How long certificates are good for.
pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

/// An authority with a folder for its certificates.
pub(crate) struct Certificates {
    authority: Authority,
    place: TempDir,
}

impl Certificates {
    /// Of an authority of its own.
    pub(crate) fn new() -> Self {
        let authority = Authority::make("A test's authority", clock::wall(), 30 * DAY).unwrap();
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("authority.crt"), authority.certificate()).unwrap();
        Self { authority, place }
    }

    /// The file of those who trust it.
    pub(crate) fn authority_file(&self) -> PathBuf {
        self.place.path().join("authority.crt")
    }

    /// A pair in files of this name, for these names, good for a month from then on. Files of
    /// before are written over.
    pub(crate) fn issue_at(
        &self,
        file: &str,
        names: &[SubjectName],
        now: Timestamp,
        life: Duration,
    ) -> KeyPairFiles {
        let issued = self.authority.issue(names, now, life).unwrap();
        let place = |kind: &str| self.place.path().join(format!("{file}.{kind}"));
        let files = KeyPairFiles { certificate: place("crt"), key: place("key") };
        fs::write(&files.key, issued.key).unwrap();
        fs::set_permissions(&files.key, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&files.certificate, issued.certificate).unwrap();
        files
    }

    /// As [`Self::issue_at`], from now on, for a month.
    pub(crate) fn issue(&self, file: &str, names: &[SubjectName]) -> KeyPairFiles {
        self.issue_at(file, names, clock::wall(), 30 * DAY)
    }

    /// Of a server of this machine.
    pub(crate) fn server(&self) -> KeyPairFiles {
        self.issue("server", &["localhost", "127.0.0.1"].map(SubjectName::of_host))
    }

    /// What a door presents.
    pub(crate) fn door(&self, alpn: Alpn) -> Arc<ServerTls> {
        let files = ServerTlsFiles { pair: self.server(), client_authorities: None };
        Arc::new(ServerTls::load("test", files, alpn).unwrap())
    }

    /// A client that trusts this authority alone.
    pub(crate) fn client(&self) -> ClientTls {
        ClientTls::new(ClientTlsFiles { authorities: Some(self.authority_file()), pair: None })
    }

    /// The certificate that this server of this machine presents, in DER.
    pub(crate) async fn presented(&self, at: SocketAddr) -> Vec<u8> {
        let stream = TcpStream::connect(at).await.expect("connects");
        let stream = self.client().connect("127.0.0.1", stream, &[]).await.expect("trusts it");
        let chain = stream.get_ref().1.peer_certificates().expect("a certificate");
        chain[0].to_vec()
    }

    /// An HTTP client that trusts this authority alone.
    pub(crate) fn http_client(&self) -> Client {
        let tls = self.client().config(&[b"http/1.1"]).unwrap();
        let client = crate::support::rest_client::client_builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .timeout(PATIENCE);
        client.build().expect("a client")
    }
}
