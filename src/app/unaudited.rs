//! Changes of the directory that were made while no gateway ran: what was imported, passwords that
//! were left, another configuration file. They are in the audit before the gateway serves anybody.

use crate::config::{Config, LONGEST_SECRET};
use crate::gateway::handle::GatewayHandle;
use crate::hex::hex;
use crate::private;
use crate::store::{Store, StoreError, Write};
use sha2::{Digest, Sha256};

/// Lines that the next gateway writes down, in the order of their keys.
const LINES: &str = "directory.unaudited";
/// `file` → the SHA-256 of the configuration file that the audit knows of, with the secrets that it
/// names.
const SEEN: &str = "directory.seen";
const FILE: &str = "file";

/// What the store of a gateway is told of changes that are not in the audit yet.
pub(super) fn keep<'a>(
    store: &Store,
    lines: impl Iterator<Item = &'a str>,
) -> Result<Vec<Write>, StoreError> {
    let known = store.load(LINES)?.len();
    Ok(lines
        .enumerate()
        .map(|(number, line)| Write::put(LINES, format!("{:08}", known + number), line))
        .collect())
}

/// Writes them into the audit, with `more`. What cannot be written is in the log, and waits for the
/// next start: a full disk keeps no gateway from starting.
pub(super) async fn tell(
    gateway: &GatewayHandle,
    config: &Config,
    store: &Store,
    more: Vec<String>,
) {
    if let Err(error) = try_tell(gateway, config, store, more).await {
        tracing::warn!(%error, "the next start tells again what has changed while nothing ran");
    }
}

async fn try_tell(
    gateway: &GatewayHandle,
    config: &Config,
    store: &Store,
    more: Vec<String>,
) -> Result<(), StoreError> {
    for line in &more {
        // Nobody keeps a right because of a disk: the failure is in the log.
        let _ = gateway.audit_directory(line, None).await;
    }
    let mut done = Vec::new();
    for (key, line) in store.load(LINES)? {
        let line = String::from_utf8_lossy(&line).into_owned();
        if gateway.audit_directory(&line, None).await.is_ok() {
            done.push(Write::remove(LINES, key));
        }
    }
    let seen = store.load(SEEN)?.remove(FILE);
    if let Some(now) = fingerprint(config).filter(|now| seen.as_deref() != Some(now.as_bytes())) {
        let line =
            "the configuration file, or a secret that it names, was changed while no gateway ran";
        if seen.is_none() || gateway.audit_directory(line, None).await.is_ok() {
            done.push(Write::put(SEEN, FILE, now));
        }
    }
    if done.is_empty() { Ok(()) } else { store.write(&done) }
}

/// The audit knows of the configuration file as it is now.
pub(super) fn seen(config: &Config) -> Option<Write> {
    fingerprint(config).map(|now| Write::put(SEEN, FILE, now))
}

fn fingerprint(config: &Config) -> Option<String> {
    let mut all = Sha256::new();
    all.update(std::fs::read(config.file.as_deref()?).ok()?);
    for file in &config.secret_files {
        let secret = private::read_secret(file, LONGEST_SECRET).ok()?;
        all.update(Sha256::digest(secret.expose()));
    }
    Some(hex(&all.finalize()))
}
