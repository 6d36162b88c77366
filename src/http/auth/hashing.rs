//! Hashes passwords apart from everything else: on threads that run when the others have nothing to
//! do, so that no flood of logins slows a poll or a call.

use super::queue::Turn;
use crate::secret::Secret;
use argon2::Argon2;
use argon2::password_hash::PasswordVerifier;
use argon2::password_hash::phc::PasswordHash;
use rustix::process::setpriority_process;
use rustix::thread::gettid;
use std::num::NonZeroUsize;
use std::thread;
use tokio::sync::oneshot;

/// Passwords hashed at once, each on a core and in 19 MiB: half of the cores, and a few at most.
const MOST: usize = 4;
/// How far a thread that hashes stands back (`nice`).
const STANDS_BACK: i32 = 5;

/// How many passwords are hashed at once.
pub(super) fn at_once() -> usize {
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    (cores / 2).clamp(1, MOST)
}

/// Whether a password is that of a hash. The turn comes back with the answer, and is used up if
/// nobody waits for that; none: there is no thread to be had.
pub(super) async fn verify(hash: Secret, password: String, turn: Turn) -> Option<(bool, Turn)> {
    let (done, outcome) = oneshot::channel();
    let work = move || {
        // Linux has a priority for each thread, by its id. Where it is not to be had, it hashes all
        // the same.
        let _ = setpriority_process(Some(gettid()), STANDS_BACK);
        let matches = PasswordHash::new(hash.expose()).is_ok_and(|hash| {
            Argon2::default().verify_password(password.as_bytes(), &hash).is_ok()
        });
        let _ = done.send((matches, turn));
    };
    thread::Builder::new().name("login".to_owned()).spawn(work).ok()?;
    outcome.await.ok()
}
