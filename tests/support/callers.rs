//! Callers of the contract with tokens in files, as the product makes them out.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;
use undertone::model::CallerRole;
use undertone::telephony::callers::{
    BearerToken, CallerAuth, CallerConfig, Callers, ContractServer,
};
use undertone::telephony::connection::{TelephonyChannel, remote};
use undertone::tls::ClientTls;

/// The caller of a backend in this process, by a token: a gateway that may do everything.
pub(crate) struct LocalCaller {
    folder: TempDir,
}

impl LocalCaller {
    /// With a token of its own.
    pub(crate) fn new() -> Self {
        let caller = Self { folder: tempfile::tempdir().unwrap() };
        write_token(&caller.token_file(), &"a-token-of-a-test".repeat(3));
        caller
    }

    /// The file with its token.
    pub(crate) fn token_file(&self) -> PathBuf {
        self.folder.path().join("grpc-token")
    }

    /// In front of a backend that it may command, and have supervisors join at unasked.
    pub(crate) fn auth(&self) -> CallerAuth {
        let gateway = CallerConfig {
            name: "laboratory".into(),
            san: Vec::new(),
            token_file: Some(self.token_file()),
            role: CallerRole::Gateway,
            users: BTreeSet::new(),
            groups: BTreeSet::new(),
            may_join_unasked: true,
        };
        let callers = Callers::load(vec![gateway], None).unwrap();
        CallerAuth::new(Arc::new(callers), ContractServer::Backend)
            .recording(Arc::new(|_, _| Box::pin(async { true })))
    }

    /// Its way to a server there.
    pub(crate) fn channel_to(&self, url: &str) -> TelephonyChannel {
        channel(url, &self.token_file())
    }
}

/// The way to a server at this URL, in clear, with the token in this file.
pub(crate) fn channel(url: &str, token_file: &Path) -> TelephonyChannel {
    let token = BearerToken::of_file(token_file, url).unwrap();
    remote(url, ClientTls::default(), token).unwrap()
}

/// The way of a caller that shows nothing.
pub(crate) fn anonymous(url: &str) -> TelephonyChannel {
    remote(url, ClientTls::default(), BearerToken::none()).unwrap()
}

/// A token in a file of this name that only its owner may read.
pub(crate) fn write_token(path: &Path, token: &str) {
    fs::write(path, token).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}
