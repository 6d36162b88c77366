//! Bearer tokens (RFC 6750 2.1) in files: made, read, shown to a server, compared.

use super::permission::{is_loopback_host, scheme_and_host};
use crate::clock;
use crate::private::{self, Fingerprint, SecretBytes, SecretFileError, fingerprint};
use crate::secret::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use subtle::{Choice, ConstantTimeEq};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};
use zeroize::Zeroizing;

/// Bytes of a token that is made.
const RANDOM: usize = 32;
/// Characters of a token: fewer can be guessed, more are no token.
const LENGTH: std::ops::RangeInclusive<usize> = 32..=512;
/// Bytes of a file.
const LONGEST_FILE: u64 = 8 * 1024;
/// How long what was read of a file is shown before it is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What is wrong with a token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be made, or opened.
    #[error("{}: {error}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The file is not read: others may, or it cannot be.
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    /// A line is no token, or one that can be guessed, or there is none.
    #[error(
        "{}: a token is {} to {} letters, digits and -._~+/, one a line", .0.display(),
        LENGTH.start(), LENGTH.end()
    )]
    NotAToken(PathBuf),
    /// The token would be sent in clear to another machine.
    #[error("a token goes by https:// or to this machine alone, not to '{0}'")]
    InClear(String),
}

/// Of a token; in its place wherever it is compared.
#[derive(Clone, Copy)]
pub(super) struct TokenHash([u8; 32]);

impl TokenHash {
    pub(super) fn of(token: &[u8]) -> Self {
        Self(Sha256::digest(token).into())
    }
}

impl ConstantTimeEq for TokenHash {
    fn ct_eq(&self, other: &Self) -> Choice {
        self.0.ct_eq(&other.0)
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> TokenError {
    let path = path.to_owned();
    move |error| TokenError::File { path, error }
}

/// Makes a file with a random token of 256 bits, for its owner alone, unless it is there. Of several
/// processes that try, one makes it.
pub(super) fn make(path: &Path) -> Result<(), TokenError> {
    if path.symlink_metadata().is_ok() {
        return Ok(());
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    private::make_directory(folder).map_err(failed(path))?;
    let draft = folder.join(format!(".token-{:016x}", rand::random::<u64>()));
    let made = write_new(&draft).and_then(|()| match fs::hard_link(&draft, path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => File::open(folder)?.sync_all(),
    });
    // What is left of it opens nothing.
    let _ = fs::remove_file(&draft);
    made.map_err(failed(path))
}

fn write_new(path: &Path) -> io::Result<()> {
    let secret = Zeroizing::new(rand::random::<[u8; RANDOM]>());
    let mut text = Zeroizing::new(URL_SAFE_NO_PAD.encode(secret.as_slice()));
    text.push('\n');
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// The tokens of a file, one a line.
pub(super) fn tokens(path: &Path) -> Result<Vec<Secret>, TokenError> {
    tokens_of(path, private::read_secret(path, LONGEST_FILE)?)
}

/// A file has tokens that count.
///
/// # Errors
/// What is wrong with it.
pub fn check_token_file(path: &Path) -> Result<(), TokenError> {
    tokens(path).map(drop)
}

/// The tokens of a file that this product has made: its owner's alone, and no link to another.
pub(super) fn own_tokens(path: &Path) -> Result<Vec<Secret>, TokenError> {
    tokens_of(path, private::read_own_secret(path, LONGEST_FILE)?)
}

fn tokens_of(path: &Path, bytes: SecretBytes) -> Result<Vec<Secret>, TokenError> {
    let text = std::str::from_utf8(bytes.expose()).unwrap_or_default();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let tokens: Vec<_> = lines.map(Secret::from).collect();
    match !tokens.is_empty() && tokens.iter().all(|token| is_token(token.expose())) {
        true => Ok(tokens),
        false => Err(TokenError::NotAToken(path.to_owned())),
    }
}

/// RFC 6750 2.1, b64token.
fn is_token(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
    LENGTH.contains(&text.len()) && text.trim_end_matches('=').bytes().all(fits)
}

/// A file with the token that a client shows; of several, the first.
struct TokenFile {
    path: PathBuf,
    read: Mutex<TokenRead>,
}

struct TokenRead {
    at: Instant,
    version: Fingerprint,
    header: Result<MetadataValue<Ascii>, Arc<TokenError>>,
}

impl TokenFile {
    fn new(path: PathBuf) -> Self {
        let read = Mutex::new(TokenRead::of(&path));
        Self { path, read }
    }

    fn locked(&self) -> MutexGuard<'_, TokenRead> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The `authorization` header as the file has it now.
    fn header(&self) -> Result<MetadataValue<Ascii>, Arc<TokenError>> {
        let mut read = self.locked();
        if clock::instant().saturating_duration_since(read.at) >= LOOK_AGAIN {
            read.at = clock::instant();
            if fingerprint(&self.path) != read.version || read.header.is_err() {
                read.take(TokenRead::of(&self.path), &self.path);
            }
        }
        read.header.clone()
    }
}

impl TokenRead {
    /// A token that could be shown is shown until there is another: its file may be gone, or on its
    /// way.
    fn take(&mut self, now: TokenRead, path: &Path) {
        if let (Ok(_), Err(error)) = (&self.header, &now.header) {
            let (at, version) = (now.at, now.version);
            tracing::warn!(path = %path.display(), %error, "the token of before is shown");
            (self.at, self.version) = (at, version);
        } else {
            *self = now;
        }
    }

    fn of(path: &Path) -> Self {
        let (at, version) = (clock::instant(), fingerprint(path));
        let header = tokens(path).and_then(|tokens| {
            let not_one = || TokenError::NotAToken(path.to_owned());
            let token = tokens.first().ok_or_else(not_one)?;
            let text = Zeroizing::new(format!("Bearer {}", token.expose().as_str()));
            let mut header: MetadataValue<Ascii> = text.parse().map_err(|_| not_one())?;
            header.set_sensitive(true);
            Ok(header)
        });
        Self { at, version, header: header.map_err(Arc::new) }
    }
}

/// The token that a client shows, if any. The file is read again when it changes.
#[derive(Clone, Default)]
pub struct BearerToken(Option<Arc<TokenFile>>);

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.0.as_ref().map(|file| &file.path);
        f.debug_struct("BearerToken").field("file", &path).finish_non_exhaustive()
    }
}

impl BearerToken {
    /// None is shown.
    pub fn none() -> Self {
        Self::default()
    }

    /// The one in this file, to the server at this URL.
    ///
    /// # Errors
    /// The file has no token, or the token would go to another machine in clear.
    pub fn of_file(path: &Path, url: &str) -> Result<Self, TokenError> {
        let is_safe = scheme_and_host(url).is_some_and(|(scheme, host)| match scheme {
            "https" => true,
            "http" => is_loopback_host(host),
            _ => false,
        });
        if !is_safe {
            return Err(TokenError::InClear(url.to_owned()));
        }
        tokens(path)?;
        Ok(Self(Some(Arc::new(TokenFile::new(path.to_owned())))))
    }

    /// As [`Self::of_file`], with the file of the state directory, which is made when it is not
    /// there.
    ///
    /// # Errors
    /// As [`Self::of_file`], or the file cannot be made.
    pub fn of_own_file(path: &Path, url: &str) -> Result<Self, TokenError> {
        make(path)?;
        own_tokens(path)?;
        Self::of_file(path, url)
    }
}

impl Interceptor for BearerToken {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(file) = &self.0 {
            let header = file.header().map_err(|error| {
                Status::unauthenticated(format!("the token cannot be shown: {error}"))
            })?;
            request.metadata_mut().insert("authorization", header);
        }
        Ok(request)
    }
}
