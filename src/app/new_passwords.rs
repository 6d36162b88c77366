//! Passwords that `undertone password` leaves in the state directory for the gateway, which may run
//! or not: one file for each user, named by the login name in hexadecimal, with the hash in it.

use crate::config::{Config, keep_password};
use crate::hex::hex;
use crate::http::auth::PasswordHashes;
use crate::model::UserId;
use crate::private;
use crate::secret::Secret;
use crate::store::{Store, StoreError, Write};
use argon2::password_hash::phc::PasswordHash;
use std::fs;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

const FOLDER: &str = "new-passwords";
/// What a file is called that the gateway has not taken.
const REFUSED: &str = "refused";
/// No hash is longer.
const LONGEST: u64 = 1024;

/// A password that the gateway has not taken yet.
struct NewPassword {
    file: PathBuf,
    user: UserId,
    hash: Secret,
}

/// What has become of a password that was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftPassword {
    /// The gateway has not looked at it: it may not run.
    Waits,
    /// It is the user's from now on.
    Taken,
    /// There is no such user, or the password stands in the configuration file.
    Refused,
}

/// Where they are left.
pub(super) fn folder(state_dir: &Path) -> PathBuf {
    state_dir.join(FOLDER)
}

fn name_of(user: &UserId) -> String {
    hex(user.as_str().as_bytes())
}

/// Leaves the hash of a user's new password; its file.
///
/// # Errors
/// The state directory cannot be written.
pub fn leave(config: &Config, user: &UserId, hash: &Secret) -> io::Result<PathBuf> {
    private::make_state_directory(&config.state_dir)?;
    // Root may set a password of a gateway that runs as somebody else.
    private::as_owner_of(&config.state_dir, || {
        let folder = folder(&config.state_dir);
        private::make_directory(&folder)?;
        let file = folder.join(name_of(user));
        let _ = fs::remove_file(refused(&file));
        private::replace(&file, hash.expose().as_bytes())?;
        Ok(file)
    })
}

/// What has become of the file of a password.
pub fn fate(file: &Path) -> LeftPassword {
    match (file.exists(), refused(file).exists()) {
        (true, _) => LeftPassword::Waits,
        (false, true) => {
            let _ = fs::remove_file(refused(file));
            LeftPassword::Refused
        }
        (false, false) => LeftPassword::Taken,
    }
}

fn refused(file: &Path) -> PathBuf {
    file.with_extension(REFUSED)
}

/// The passwords that were left. Of a user that there is not, and of one with a password in the
/// configuration file, none is taken.
fn waiting(folder: &Path, may_have: impl Fn(&UserId) -> bool) -> Vec<NewPassword> {
    let files = match fs::read_dir(folder) {
        Ok(files) => files,
        Err(error) => {
            tracing::warn!(%error, "new passwords can not be read");
            return Vec::new();
        }
    };
    let paths = files.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    // Others are on their way, or were refused.
    let paths = paths.filter(|path| path.extension().is_none());
    let read = |file: PathBuf| match read(&file) {
        Ok((user, hash)) if may_have(&user) => Some(NewPassword { file, user, hash }),
        Ok((user, _)) => {
            tracing::warn!(%user, "a new password is refused: the user is not here, or has it in \
                                   the configuration file");
            refuse(&file);
            None
        }
        Err(error) => {
            tracing::warn!(file = %file.display(), %error, "a new password can not be read");
            refuse(&file);
            None
        }
    };
    paths.filter_map(read).collect()
}

/// Takes the passwords that were left for users who may have one into the store of a gateway.
///
/// # Errors
/// The store fails: they wait.
pub(super) async fn take(
    state_dir: &Path,
    store: &Store,
    may_have: impl Fn(&UserId) -> bool,
) -> Result<PasswordHashes, StoreError> {
    let folder = match private::open_directory(&folder(state_dir)) {
        Ok(folder) => folder,
        Err(error) => {
            if error.kind() != ErrorKind::NotFound {
                tracing::warn!(%error, "new passwords can not be read");
            }
            return Ok(PasswordHashes::new());
        }
    };
    let waiting = waiting(&folder.path(), may_have);
    if waiting.is_empty() {
        return Ok(PasswordHashes::new());
    }
    let writes: Vec<Write> =
        waiting.iter().map(|new| keep_password(&new.user, Some(&new.hash))).collect();
    let store = store.clone();
    let written = tokio::task::spawn_blocking(move || store.write(&writes)).await;
    written.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    let taken = waiting.iter().inspect(|new| new.done());
    Ok(taken.map(|new| (new.user.clone(), new.hash.clone())).collect())
}

fn refuse(file: &Path) {
    if let Err(error) = fs::rename(file, refused(file)) {
        tracing::warn!(file = %file.display(), %error, "a new password can not be put aside");
    }
}

fn read(file: &Path) -> io::Result<(UserId, Secret)> {
    let wrong = |what: &str| io::Error::new(ErrorKind::InvalidData, what.to_owned());
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let user = text_of(name).ok_or_else(|| wrong("its name is not a user's"))?;
    let mut text = String::new();
    private::open_existing(file)?.take(LONGEST).read_to_string(&mut text)?;
    let hash = Secret::from(text);
    match PasswordHash::new(hash.expose()) {
        Ok(_) => Ok((UserId::from(user.as_str()), hash)),
        Err(_) => Err(wrong("it has no password hash")),
    }
}

/// What is written in hexadecimal.
fn text_of(digits: &str) -> Option<String> {
    let (pairs, []) = digits.as_bytes().as_chunks::<2>() else {
        return None;
    };
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    String::from_utf8(pairs.iter().map(byte).collect::<Option<_>>()?).ok()
}

impl NewPassword {
    /// It is kept elsewhere now.
    fn done(&self) {
        if let Err(error) = fs::remove_file(&self.file) {
            tracing::warn!(file = %self.file.display(), %error, "a new password is left over");
        }
    }
}
