//! A private authority and certificates of it, for trying out what needs them.

use crate::model::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How far clocks may be apart.
const LEEWAY: Duration = Duration::from_secs(3600);

/// Vouches for certificates.
pub struct Authority {
    certificate: String,
    key: String,
}

/// A certificate and its key, both in PEM.
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// PKCS #8.
    pub key: String,
}

/// The subject's names of a certificate (RFC 5280 4.2.1.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubjectName {
    /// Of a host.
    Host(String),
    /// Of a host that has none.
    Address(IpAddr),
    /// Of a service, as `urn:undertone:gateway`.
    Uri(String),
}

impl fmt::Display for SubjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(name) | Self::Uri(name) => f.write_str(name),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl SubjectName {
    /// A host by its name or address.
    pub fn of_host(host: &str) -> Self {
        match host.trim_matches(['[', ']']).parse() {
            Ok(address) => Self::Address(address),
            Err(_) => Self::Host(host.to_owned()),
        }
    }

    fn san(&self) -> Result<SanType, rcgen::Error> {
        Ok(match self {
            Self::Host(name) => SanType::DnsName(name.as_str().try_into()?),
            Self::Address(address) => SanType::IpAddress(*address),
            Self::Uri(uri) => SanType::URI(uri.as_str().try_into()?),
        })
    }
}

/// Why certificates cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A name cannot stand in a certificate, or a key cannot be made or read.
    #[error(transparent)]
    Certificate(#[from] rcgen::Error),
    /// A file cannot be read or written.
    #[error("{}: {error}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
}

fn life(params: &mut CertificateParams, now: Timestamp, life: Duration) {
    let epoch = date_time_ymd(1970, 1, 1);
    let now = Duration::from_millis(now.0);
    params.not_before = epoch + now.saturating_sub(LEEWAY);
    params.not_after = epoch + (now + life);
}

impl Authority {
    /// Makes one that vouches for this long.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn make(name: &str, now: Timestamp, for_long: Duration) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        life(&mut params, now, for_long);
        let certificate = params.self_signed(&key)?;
        Ok(Self { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// In PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A certificate for servers and clients with these names, for this long; the first is also its
    /// common name.
    ///
    /// # Errors
    /// A name cannot stand in a certificate.
    pub fn issue(
        &self,
        names: &[SubjectName],
        now: Timestamp,
        for_long: Duration,
    ) -> Result<Issued, AuthorityError> {
        let issuer = Issuer::from_ca_cert_pem(&self.certificate, KeyPair::from_pem(&self.key)?)?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.iter().map(SubjectName::san).collect::<Result<_, _>>()?;
        let common = match names.first() {
            Some(SubjectName::Host(name) | SubjectName::Uri(name)) => name.clone(),
            Some(SubjectName::Address(address)) => address.to_string(),
            None => String::new(),
        };
        params.distinguished_name.push(DnType::CommonName, common);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        life(&mut params, now, for_long);
        let certificate = params.signed_by(&key, &issuer)?;
        Ok(Issued { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// Writes into a directory, which is made: `authority.crt` and `.key`, unless they are there
    /// and then vouch, `server.crt` and `.key` for these hosts, and `gateway.crt` and `.key` for a
    /// gateway that is a client of its backend. Names what was written.
    ///
    /// # Errors
    /// A certificate is there already, or a file cannot be written.
    pub fn write(
        directory: &Path,
        hosts: &[String],
        now: Timestamp,
        for_long: Duration,
    ) -> Result<Vec<PathBuf>, AuthorityError> {
        let place = |name: &str| directory.join(name);
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error| AuthorityError::File { path, error }
        };
        fs::create_dir_all(directory).map_err(failed(directory))?;
        let mut written = Vec::new();
        let (certificate, key) = (place("authority.crt"), place("authority.key"));
        let authority = if certificate.exists() {
            let read = |path: &Path| fs::read_to_string(path).map_err(failed(path));
            Self { certificate: read(&certificate)?, key: read(&key)? }
        } else {
            let made = Self::make("Undertone private authority", now, for_long * 10)?;
            write_new(&key, &made.key, 0o600, &mut written)?;
            write_new(&certificate, &made.certificate, 0o644, &mut written)?;
            made
        };
        let hosts: Vec<_> = hosts.iter().map(|host| SubjectName::of_host(host)).collect();
        let gateway = [SubjectName::Uri("urn:undertone:gateway".to_owned())];
        for (name, names) in [("server", hosts.as_slice()), ("gateway", &gateway)] {
            let issued = authority.issue(names, now, for_long)?;
            write_new(&place(&format!("{name}.key")), &issued.key, 0o600, &mut written)?;
            let chain = format!("{name}.crt");
            write_new(&place(&chain), &issued.certificate, 0o644, &mut written)?;
        }
        Ok(written)
    }
}

/// A file of before is not written over.
fn write_new(
    path: &Path,
    text: &str,
    mode: u32,
    written: &mut Vec<PathBuf>,
) -> Result<(), AuthorityError> {
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| AuthorityError::File { path: path.to_owned(), error })?;
    written.push(path.to_owned());
    Ok(())
}
