//! Who calls the contract: by client certificate or bearer token to a caller of the configuration,
//! and what that caller may ask. Nobody else is answered.
//!
//! ```text
//! request ─▶ CallerAuth ─▶ Callers: certificate, token ─▶ a Caller ─▶ its role, this rpc ─▶ service
//!               │ nobody: UNAUTHENTICATED            │ may not: PERMISSION_DENIED
//!               └─ a metric, and a line of the log that counts what is left out
//! ```

mod door;
mod lease;
mod permission;
mod token;

pub use door::{CallerAuth, ContractServer, JoinRecorder, RefusedCallers};
pub(super) use door::{Known, authorize, in_this_process};
pub(super) use lease::Lease;
pub use permission::is_loopback_url;
pub use token::{BearerToken, TokenError, check_token_file};

use crate::model::{Caller, CallerName, CallerRole, GroupId, UserId};
use crate::private::{GrantFile, Refreshed};
use crate::tls::SubjectName;
use permission::is_loopback;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use subtle::{Choice, ConstantTimeEq};
use token::{TokenHash, own_tokens, tokens};
use tokio::sync::watch;

/// The caller that the token of the state directory stands for.
pub const LOCAL: &str = "local";

/// A caller as it is configured: `[[grpc.caller]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallerConfig {
    /// Its name, for the audit and the log.
    pub name: CallerName,
    /// Names of its client certificate: a URI or a DNS name among the alternative names of the
    /// subject (RFC 5280 4.2.1.6). The common name does not count.
    #[serde(default)]
    pub san: Vec<String>,
    /// A file with its token, or with several, one a line.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// What it may ask.
    pub role: CallerRole,
    /// Of a service: the users that it may act for.
    #[serde(default)]
    pub users: BTreeSet<UserId>,
    /// Of a service: the groups for the members of which it may act.
    #[serde(default)]
    pub groups: BTreeSet<GroupId>,
    /// Of a gateway: a supervisor may join at its word alone, without AdmissionAsked.
    #[serde(default)]
    pub may_join_unasked: bool,
}

/// What is wrong with callers.
#[derive(Debug, thiserror::Error)]
pub enum CallersError {
    /// A token cannot be read.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// One token would stand for two callers.
    #[error("callers '{0}' and '{1}' have the same token")]
    SameToken(CallerName, CallerName),
}

/// Why nobody was made out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unknown {
    /// Neither certificate nor token.
    Anonymous,
    /// The token is nobody's, or no token.
    Token,
    /// The certificate has no caller's name, or those of several.
    Certificate,
}

/// What a caller shows.
#[derive(Debug, Default)]
pub(super) struct Presented<'a> {
    /// The names of its certificate, if it has one that is vouched for.
    pub(super) names: Option<&'a [SubjectName]>,
    /// Of each `authorization` header: the bearer token, or that it is none.
    pub(super) tokens: &'a [Option<&'a str>],
    /// Where it calls from, if that is known.
    pub(super) from: Option<IpAddr>,
}

/// What a caller has shown: all that it takes to make it out again.
#[derive(Clone)]
enum Credential {
    Token { hash: TokenHash, is_here: bool },
    Names(Vec<SubjectName>),
}

/// A caller, and what it is known by.
#[derive(Clone)]
struct Entry {
    caller: Arc<Caller>,
    san: Vec<String>,
    tokens: Vec<TokenHash>,
    /// Its token counts on this machine alone.
    is_local: bool,
}

/// A caller as its file has it, if it has one.
struct Source {
    entry: Entry,
    file: Option<GrantFile>,
}

/// The callers of the configuration, their tokens read again when the files change.
pub struct Callers {
    sources: Mutex<Vec<Source>>,
    entries: watch::Sender<Arc<Vec<Entry>>>,
}

impl Callers {
    /// Reads the token files. `local`: the file with the token that stands for a gateway on this
    /// machine, with everything that a gateway may but joining unasked; made when it is not there.
    ///
    /// # Errors
    /// A file cannot be read, or be made, or has no good token; two callers have the same.
    pub fn load(configs: Vec<CallerConfig>, local: Option<PathBuf>) -> Result<Self, CallersError> {
        if let Some(path) = &local {
            token::make(path)?;
        }
        let local = local.as_deref().map(Source::local);
        let sources: Vec<_> =
            configs.iter().map(Source::load).chain(local).collect::<Result<_, _>>()?;
        let entries: Vec<_> = sources.iter().map(|source| source.entry.clone()).collect();
        if let Some((_, [one, other])) = shared(&entries).into_iter().next() {
            return Err(CallersError::SameToken(one, other));
        }
        sources.iter().for_each(Source::report);
        let entries = watch::Sender::new(Arc::new(entries));
        Ok(Self { sources: Mutex::new(sources), entries })
    }

    /// Reads the token files again that have changed, or all in any case. One that cannot be used
    /// takes its caller's tokens away, and nobody else's: [`GrantFile::refresh`].
    pub fn refresh(&self, in_any_case: bool) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let mut is_new = false;
        for source in sources.iter_mut() {
            is_new |= source.refresh(in_any_case);
        }
        if !is_new {
            return;
        }
        let mut entries: Vec<_> = sources.iter().map(|source| source.entry.clone()).collect();
        let shared = shared(&entries);
        for (_, [one, other]) in &shared {
            tracing::warn!(%one, %other, "a token of two gRPC callers counts for neither");
        }
        for entry in &mut entries {
            entry.tokens.retain(|token| !shared.iter().any(|(it, _)| token.ct_eq(it).into()));
        }
        self.entries.send_replace(Arc::new(entries));
        tracing::info!("the tokens of gRPC callers were read again");
    }

    /// The caller that shows this. A token, where one is sent, decides alone.
    pub(super) fn identify(
        &self,
        presented: &Presented<'_>,
    ) -> Result<(Arc<Caller>, Lease), Unknown> {
        let credential = match (presented.tokens, presented.names) {
            ([Some(token)], _) => Credential::Token {
                hash: TokenHash::of(token.as_bytes()),
                is_here: presented.from.is_some_and(is_loopback),
            },
            ([_, ..], _) => return Err(Unknown::Token),
            ([], None) => return Err(Unknown::Anonymous),
            ([], Some(names)) => Credential::Names(names.to_vec()),
        };
        let mut entries = self.entries.subscribe();
        let caller = credential.caller_among(&entries.borrow_and_update())?;
        Ok((caller.clone(), Lease::new(caller, credential, entries)))
    }
}

impl Credential {
    fn caller_among(&self, entries: &[Entry]) -> Result<Arc<Caller>, Unknown> {
        match self {
            Credential::Token { hash, is_here } => {
                let counts = |entry: &&Entry| !entry.is_local || *is_here;
                // Each is compared, to its end.
                let matching: Vec<_> =
                    entries.iter().filter(counts).filter(|entry| entry.has(hash)).collect();
                matching.first().map(|entry| entry.caller.clone()).ok_or(Unknown::Token)
            }
            Credential::Names(names) => {
                let mut named = entries.iter().filter(|entry| entry.is_named(names));
                match (named.next(), named.next()) {
                    (Some(entry), None) => Ok(entry.caller.clone()),
                    (_, _) => Err(Unknown::Certificate),
                }
            }
        }
    }
}

impl Source {
    fn load(config: &CallerConfig) -> Result<Self, TokenError> {
        let CallerConfig { name, san, token_file, role, users, groups, may_join_unasked } = config;
        let caller = Caller {
            name: name.clone(),
            role: *role,
            users: users.clone(),
            groups: groups.clone(),
            may_join_unasked: *may_join_unasked,
        };
        let read = |path: &PathBuf| GrantFile::load(path, |path| hashes(path, false));
        let (file, tokens) = token_file.as_ref().map(read).transpose()?.unzip();
        let (tokens, san) = (tokens.unwrap_or_default(), san.clone());
        let entry = Entry { caller: Arc::new(caller), san, tokens, is_local: false };
        Ok(Self { entry, file })
    }

    fn local(path: &Path) -> Result<Self, TokenError> {
        let caller = Caller {
            name: CallerName::from(LOCAL),
            role: CallerRole::Gateway,
            users: BTreeSet::new(),
            groups: BTreeSet::new(),
            may_join_unasked: false,
        };
        let (file, tokens) = GrantFile::load(path, |path| hashes(path, true))?;
        let entry = Entry { caller: Arc::new(caller), san: Vec::new(), tokens, is_local: true };
        Ok(Self { entry, file: Some(file) })
    }

    /// Whether its tokens may be others from now on.
    fn refresh(&mut self, in_any_case: bool) -> bool {
        let Some(file) = &mut self.file else {
            return false;
        };
        let is_local = self.entry.is_local;
        match file.refresh(in_any_case, |path| hashes(path, is_local)) {
            Refreshed::Unchanged => return false,
            Refreshed::Granted(tokens) => self.entry.tokens = tokens,
            Refreshed::Void(error) => {
                self.entry.tokens = Vec::new();
                let caller = &self.entry.caller.name;
                tracing::warn!(%caller, %error, "a gRPC caller has no token any more");
            }
        }
        self.report();
        true
    }

    fn report(&self) {
        if let Some(file) = &self.file {
            let caller = self.entry.caller.name.to_string();
            metrics::gauge!("undertone_grpc_token_file_failed", "caller" => caller)
                .set(if file.is_void() { 1.0 } else { 0.0 });
        }
    }
}

impl Entry {
    fn has(&self, shown: &TokenHash) -> bool {
        let none = Choice::from(0);
        self.tokens.iter().fold(none, |found, hash| found | hash.ct_eq(shown)).into()
    }

    fn is_named(&self, names: &[SubjectName]) -> bool {
        names.iter().any(|name| match name {
            SubjectName::Host(name) => {
                self.san.iter().any(|san| !is_uri(san) && san.eq_ignore_ascii_case(name))
            }
            SubjectName::Uri(uri) => self.san.iter().any(|san| is_uri(san) && san == uri),
            SubjectName::Address(_) => false,
        })
    }
}

/// No DNS name has a colon, and every URI has one.
fn is_uri(san: &str) -> bool {
    san.contains(':')
}

fn hashes(path: &Path, is_local: bool) -> Result<Vec<TokenHash>, TokenError> {
    let tokens = if is_local { own_tokens(path)? } else { tokens(path)? };
    Ok(tokens.iter().map(|token| TokenHash::of(token.expose().as_bytes())).collect())
}

/// Tokens that would stand for two callers.
fn shared(entries: &[Entry]) -> Vec<(TokenHash, [CallerName; 2])> {
    let mut shared = Vec::new();
    for (number, entry) in entries.iter().enumerate() {
        for other in entries.iter().skip(number + 1) {
            let tokens = entry.tokens.iter().filter(|token| other.has(token));
            let names = || [entry.caller.name.clone(), other.caller.name.clone()];
            shared.extend(tokens.map(|token| (*token, names())));
        }
    }
    shared
}

#[cfg(test)]
mod tests;
