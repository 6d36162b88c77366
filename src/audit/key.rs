//! The key that signs, and the file beside it that says how far the audit goes.

use super::chain::{ChainEnd, EACH, is_signed, signed};
use super::{AuditError, utc};
use crate::hex::{from_hex, hex};
use crate::model::Timestamp;
use crate::private;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use nix::fcntl::{Flock, FlockArg};
use serde::Deserialize;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// The name of the private key's file, in the state directory.
pub const KEY_FILE: &str = "audit.key";
/// The name of the public key's file, beside it.
pub const PUBLIC_KEY_FILE: &str = "audit.pub";
/// The name of the public key's file of the key before, where it is replaced.
pub(super) const OLD_PUBLIC_KEY_FILE: &str = "audit.pub.old";
/// The name of the file that says how far the audit goes, beside it.
pub const HEAD_FILE: &str = "audit.head";

/// An Ed25519 key in PKCS#8 before its 32 octets (RFC 8410 7).
const PKCS8: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
/// A public one in a SubjectPublicKeyInfo before its 32 octets (RFC 8410 4).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];
/// A key file is no longer than this.
const MAX_KEY_FILE: u64 = 4096;
/// The size of the head: one sector, so that it is written whole or not at all.
const HEAD: usize = 512;
/// How long another process, or an earlier life, may take to let go of the audit.
const LET_GO: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The key that signs the audit.
pub(super) struct AuditKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
    /// It was made now, and is nowhere yet.
    is_new: bool,
}

/// What the signatures of an audit are held against: an Ed25519 public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// The first eight octets of the key in hexadecimal: what lines name it by.
    pub fn id(&self) -> String {
        hex(&self.0[..8])
    }

    /// Reads a PEM file (`-----BEGIN PUBLIC KEY-----`).
    ///
    /// # Errors
    /// It cannot be read, or is no Ed25519 key.
    pub fn read(path: &Path) -> Result<Self, AuditError> {
        let text =
            text_of(crate::private::open_named(path).map_err(|error| disk(path, &error))?, path)?;
        let octets = pem_octets(&text, "PUBLIC KEY").and_then(|der| {
            der.strip_prefix(&SPKI[..]).and_then(|key| <[u8; 32]>::try_from(key).ok())
        });
        octets.map(Self).ok_or_else(|| wrong(path, "it is no Ed25519 public key in PEM"))
    }

    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(message, signature).is_ok()
    }

    fn to_pem(&self) -> String {
        pem(&[&SPKI[..], &self.0].concat(), "PUBLIC KEY")
    }
}

impl AuditKey {
    /// Reads the key of a state directory; makes one where there is none.
    ///
    /// # Errors
    /// It cannot be read, others may read it, or it is no key.
    pub(super) fn open(directory: &Path) -> Result<Self, AuditError> {
        let path = directory.join(KEY_FILE);
        let (pair, is_new) = match private::open_existing(&path) {
            Ok(file) => (read_pair(file, &path)?, false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = Ed25519KeyPair::generate();
                (made.map_err(|_| wrong(&path, "no key can be made"))?, true)
            }
            Err(error) => return Err(disk(&path, &error)),
        };
        let public = pair.public_key().as_ref().try_into().map(PublicKey);
        let public = public.map_err(|_| wrong(&path, "it is no Ed25519 key"))?;
        Ok(Self { pair, public, is_new })
    }

    /// Writes the key where it is new, and its public half beside it.
    ///
    /// # Errors
    /// They cannot be written.
    pub(super) fn keep(&self, directory: &Path) -> Result<(), AuditError> {
        if self.is_new {
            keep_pair(&self.pair, &directory.join(KEY_FILE))?;
        }
        let beside = directory.join(PUBLIC_KEY_FILE);
        if PublicKey::read(&beside).ok().as_ref() != Some(&self.public) {
            private::replace(&beside, self.public.to_pem().as_bytes())
                .map_err(|error| disk(&beside, &error))?;
        }
        Ok(())
    }

    pub(super) fn is_new(&self) -> bool {
        self.is_new
    }

    pub(super) fn public(&self) -> &PublicKey {
        &self.public
    }

    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }
}

fn read_pair(file: File, path: &Path) -> Result<Ed25519KeyPair, AuditError> {
    let about = file.metadata().map_err(|error| disk(path, &error))?;
    if about.mode() & 0o077 != 0 {
        return Err(wrong(path, "others may read it: chmod 600, or remove it for a new one"));
    }
    let text = text_of(file, path)?;
    let octets = pem_octets(&text, "PRIVATE KEY");
    let seed = octets.as_deref().and_then(|der| der.strip_prefix(&PKCS8[..]));
    seed.and_then(|seed| Ed25519KeyPair::from_seed_unchecked(seed).ok())
        .ok_or_else(|| wrong(path, "it is no Ed25519 key in PEM"))
}

fn keep_pair(pair: &Ed25519KeyPair, path: &Path) -> Result<(), AuditError> {
    let seed = pair.seed().and_then(|seed| {
        use aws_lc_rs::encoding::{AsBigEndian, Curve25519SeedBin};
        AsBigEndian::<Curve25519SeedBin<'_>>::as_be_bytes(&seed)
    });
    let seed = seed.map_err(|_| wrong(path, "no key can be made"))?;
    let text = pem(&[&PKCS8[..], seed.as_ref()].concat(), "PRIVATE KEY");
    private::replace(path, text.as_bytes()).map_err(|error| disk(path, &error))
}

fn text_of(file: File, path: &Path) -> Result<String, AuditError> {
    let mut text = String::new();
    file.take(MAX_KEY_FILE).read_to_string(&mut text).map_err(|error| disk(path, &error))?;
    Ok(text)
}

fn pem(der: &[u8], what: &str) -> String {
    use base64::Engine;
    let octets = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN {what}-----\n{octets}\n-----END {what}-----\n")
}

fn pem_octets(text: &str, what: &str) -> Option<Vec<u8>> {
    use base64::Engine;
    let (_, rest) = text.split_once(&format!("-----BEGIN {what}-----"))?;
    let (octets, _) = rest.split_once(&format!("-----END {what}-----"))?;
    let octets: String = octets.split_whitespace().collect();
    base64::engine::general_purpose::STANDARD.decode(octets).ok()
}

pub(super) fn disk(path: &Path, error: &io::Error) -> AuditError {
    let problem = match error.raw_os_error() {
        Some(nix::libc::ELOOP) => "it is a symbolic link, which is not followed".to_owned(),
        Some(_) | None => error.to_string(),
    };
    AuditError::Disk { path: path.to_owned(), problem }
}

fn wrong(path: &Path, problem: &str) -> AuditError {
    AuditError::Disk { path: path.to_owned(), problem: problem.to_owned() }
}

/// How far the audit goes, signed, in a file of its own: what is cut off at the end of the audit is
/// missed. It is locked for as long as the audit is written, so that nobody else writes.
pub(super) struct HeadFile {
    path: PathBuf,
    file: Flock<File>,
    /// The last write has failed, which was said.
    failed: bool,
}

/// What a head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The last line.
    pub(super) end: ChainEnd,
    /// Lines that come after it are signed, each of them.
    pub(super) signs_each: bool,
}

impl Head {
    pub(super) fn of(end: ChainEnd) -> Self {
        Self { end, signs_each: true }
    }
}

#[derive(Deserialize)]
struct HeadText {
    head: HeadMembers,
}

#[derive(Deserialize)]
struct HeadMembers {
    n: u64,
    hash: String,
    signs: Option<String>,
}

impl HeadFile {
    pub(super) fn open(directory: &Path) -> Result<Self, AuditError> {
        let path = directory.join(HEAD_FILE);
        let mut file = private::open(&path).map_err(|error| disk(&path, &error))?;
        let mut waited = Duration::ZERO;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => return Ok(Self { path, file, failed: false }),
                Err((given_back, _)) if waited < LET_GO => {
                    file = given_back;
                    thread::sleep(LOOK_AGAIN);
                    waited += LOOK_AGAIN;
                }
                Err(_) => return Err(wrong(&path, "another process writes this audit")),
            }
        }
    }

    /// What the head says; `None`: there is none, or it is not signed with this key.
    pub(super) fn read(&self, key: &PublicKey) -> Option<Head> {
        let mut text = [0; HEAD];
        let read = self.file.read_at(&mut text, 0).ok()?;
        parse_head(text.get(..read)?, key)
    }

    /// Says how far the audit goes now. What fails is logged: the audit itself is on disk.
    pub(super) fn write(&mut self, end: ChainEnd, at: Timestamp, key: &AuditKey) {
        let (n, hash, at) = (end.n, hex(&end.hash), utc(at));
        let opened =
            format!(r#"{{"head":{{"n":{n},"hash":"{hash}","at":"{at}","signs":"{EACH}"}}"#);
        let text = format!("{:511}\n", signed(opened, key));
        let written = self.file.write_all_at(text.as_bytes(), 0);
        if let Err(error) = &written
            && !self.failed
        {
            tracing::warn!(path = %self.path.display(), %error, "the audit's head can not be written");
        }
        self.failed = written.is_err();
    }

    /// Has the disk keep what was written: lines in another file than it knows come after it.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn parse_head(text: &[u8], key: &PublicKey) -> Option<Head> {
    let text = std::str::from_utf8(text).ok()?.trim_end();
    let HeadText { head } = serde_json::from_str(text).ok()?;
    is_signed(text, key)?.then_some(())?;
    let end = ChainEnd { n: head.n, hash: from_hex(&head.hash)? };
    Some(Head { end, signs_each: head.signs.as_deref() == Some(EACH) })
}

/// What the head in a file says.
///
/// # Errors
/// It cannot be read, or is not signed with the key.
pub(super) fn read_head(path: &Path, key: &PublicKey) -> Result<Head, AuditError> {
    let file = crate::private::open_named(path).map_err(|error| disk(path, &error))?;
    let text = text_of(file, path)?;
    parse_head(text.as_bytes(), key)
        .ok_or_else(|| wrong(path, "it is not signed with the audit's key"))
}

impl std::fmt::Debug for AuditKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuditKey").field("public", &self.public).finish_non_exhaustive()
    }
}
