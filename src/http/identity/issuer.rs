//! One issuer: what it says of itself, and its keys, fetched once for all that wait for them.

use super::client::{ClientError, Endpoint, IssuerClient};
use super::keys::KeySet;
use super::schedule::KeySchedule;
use super::token::ParsedToken;
use super::{IdentityConfig, IssuerConfig, TokenFault, TokenRefusal};
use crate::clock;
use crate::tls::{ClientTls, ClientTlsFiles};
use arc_swap::ArcSwapOption;
use jsonwebtoken::crypto;
use serde::Deserialize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::watch;

/// An issuer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// Not a URL that may be asked.
    #[error("'{0}' is no https:// URL, and no http:// URL of this machine")]
    Url(String),
}

/// What an issuer says of itself (OpenID Connect Discovery 3, RFC 8414, RFC 9207).
#[derive(Deserialize)]
struct Discovered {
    issuer: String,
    jwks_uri: String,
    authorization_endpoint: Option<String>,
    token_endpoint: Option<String>,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

/// What of that is needed.
pub(super) struct Metadata {
    keys: Endpoint,
    pub(super) authorization: Option<Endpoint>,
    pub(super) token: Option<Endpoint>,
    /// The secret is taken in the form alone, not in a header (RFC 6749 2.3.1).
    pub(super) secret_in_form: bool,
    /// Its answers to a login say who they are of.
    pub(super) names_itself: bool,
}

/// One issuer of the configuration.
pub(super) struct Issuer {
    pub(super) config: IssuerConfig,
    pub(super) client: IssuerClient,
    discovery: Endpoint,
    jwks: Option<Endpoint>,
    pub(super) metadata: ArcSwapOption<Metadata>,
    keys: ArcSwapOption<KeySet>,
    fetching: Mutex<Fetching>,
}

struct Fetching {
    schedule: KeySchedule,
    /// Ends when the fetch under way has.
    under_way: Option<watch::Receiver<()>>,
}

const DISCOVERY: &str = "/.well-known/openid-configuration";

impl Issuer {
    pub(super) fn new(all: &IdentityConfig, config: &IssuerConfig) -> Result<Self, IssuerError> {
        let endpoint =
            |url: &str| Endpoint::parse(url).ok_or_else(|| IssuerError::Url(url.to_owned()));
        let discovery = format!("{}{DISCOVERY}", config.issuer.trim_end_matches('/'));
        let files = ClientTlsFiles { authorities: config.authorities.clone(), pair: None };
        Ok(Self {
            client: IssuerClient::new(ClientTls::new(files)),
            discovery: endpoint(&discovery)?,
            jwks: config.jwks_url.as_deref().map(endpoint).transpose()?,
            metadata: ArcSwapOption::empty(),
            keys: ArcSwapOption::empty(),
            fetching: Mutex::new(Fetching { schedule: KeySchedule::new(all), under_way: None }),
            config: config.clone(),
        })
    }

    fn fetching(&self) -> MutexGuard<'_, Fetching> {
        // A lock that another thread died with holds data that is still whole.
        self.fetching.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches the keys again if they are old.
    pub(super) fn refresh_when_due(self: &Arc<Self>, now: Instant) {
        let mut fetching = self.fetching();
        if fetching.schedule.is_due(now) {
            self.begin(&mut fetching, now);
        }
    }

    /// The fetch under way, begun now if none is. It goes on when nobody waits for it any more.
    fn begin(self: &Arc<Self>, fetching: &mut Fetching, now: Instant) -> watch::Receiver<()> {
        if let Some(under_way) = &fetching.under_way {
            return under_way.clone();
        }
        let (done, under_way) = watch::channel(());
        fetching.under_way = Some(under_way.clone());
        let issuer = Arc::clone(self);
        tokio::spawn(async move {
            let fetched = issuer.fetch().await;
            issuer.handle_fetched(fetched, now);
            drop(done);
        });
        under_way
    }

    fn handle_fetched(&self, fetched: Result<KeySet, ClientError>, begun: Instant) {
        let outcome = if fetched.is_ok() { "fetched" } else { "failed" };
        let name = self.config.name.clone();
        metrics::counter!(
            "undertone_issuer_fetches_total", "issuer" => name.clone(), "outcome" => outcome
        )
        .increment(1);
        let mut fetching = self.fetching();
        fetching.under_way = None;
        match fetched {
            Ok(keys) => {
                self.keys.store(Some(Arc::new(keys)));
                fetching.schedule.handle_fetched(begun);
                tracing::debug!(issuer = name, "the keys of an issuer were fetched");
            }
            Err(error) => {
                fetching.schedule.handle_failed(clock::instant());
                let is_believed = fetching.schedule.is_usable(clock::instant());
                tracing::warn!(
                    issuer = name, %error, is_believed, "the keys of an issuer cannot be fetched"
                );
            }
        }
    }

    async fn fetch(&self) -> Result<KeySet, ClientError> {
        let discovered = match (&self.jwks, &self.config.client_id) {
            (Some(_), None) => None,
            (_, _) => Some(self.discover().await),
        };
        let keys = match (&self.jwks, discovered) {
            (Some(jwks), Some(Ok(metadata))) => {
                self.metadata.store(Some(Arc::new(metadata)));
                jwks.clone()
            }
            (Some(jwks), _) => jwks.clone(),
            (None, Some(metadata)) => {
                let metadata = metadata?;
                let keys = metadata.keys.clone();
                self.metadata.store(Some(Arc::new(metadata)));
                keys
            }
            (None, None) => return Err(ClientError::Unreadable),
        };
        let body = self.client.get(&keys).await?;
        KeySet::read(&body).ok_or(ClientError::Unreadable)
    }

    async fn discover(&self) -> Result<Metadata, ClientError> {
        let body = self.client.get(&self.discovery).await?;
        let found: Discovered =
            serde_json::from_slice(&body).map_err(|_| ClientError::Unreadable)?;
        // OpenID Connect Discovery 4.3: else it speaks of another.
        if found.issuer != self.config.issuer {
            return Err(ClientError::Unreadable);
        }
        let methods = found.token_endpoint_auth_methods_supported.unwrap_or_default();
        let has = |method: &str| methods.iter().any(|one| one == method);
        let endpoint = |url: Option<String>| url.as_deref().and_then(Endpoint::parse);
        Ok(Metadata {
            keys: Endpoint::parse(&found.jwks_uri).ok_or(ClientError::Unreadable)?,
            authorization: endpoint(found.authorization_endpoint),
            token: endpoint(found.token_endpoint),
            secret_in_form: has("client_secret_post") && !has("client_secret_basic"),
            names_itself: found.authorization_response_iss_parameter_supported,
        })
    }

    /// The keys that may be believed now, fetched if there are none.
    async fn usable_keys(self: &Arc<Self>) -> Result<Arc<KeySet>, TokenRefusal> {
        let now = clock::instant();
        let waits = {
            let mut fetching = self.fetching();
            let schedule = &fetching.schedule;
            let is_good = schedule.is_usable(now) && !schedule.is_neglected(now);
            let under_way = match schedule.is_due(now) {
                true => Some(self.begin(&mut fetching, now)),
                false => fetching.under_way.clone(),
            };
            under_way.filter(|_| !is_good)
        };
        if let Some(under_way) = waits {
            end_of(under_way).await;
        }
        let is_usable = self.fetching().schedule.is_usable(clock::instant());
        self.keys.load_full().filter(|_| is_usable).ok_or(TokenRefusal::NoKeys)
    }

    /// What it says of itself, fetched if that is not known.
    pub(super) async fn described(self: &Arc<Self>) -> Result<Arc<Metadata>, TokenRefusal> {
        self.usable_keys().await?;
        if let Some(metadata) = self.metadata.load_full() {
            return Ok(metadata);
        }
        // Its keys are elsewhere, and were found; it was not.
        let now = clock::instant();
        let under_way = {
            let mut fetching = self.fetching();
            fetching.schedule.may_force(now).then(|| self.begin(&mut fetching, now))
        };
        if let Some(under_way) = under_way {
            end_of(under_way).await;
        }
        self.metadata.load_full().ok_or(TokenRefusal::NoKeys)
    }

    /// It has signed the token, with an algorithm that is taken from it.
    pub(super) async fn verify(
        self: &Arc<Self>,
        token: &ParsedToken<'_>,
    ) -> Result<(), TokenRefusal> {
        if !self.config.algorithms.contains(&token.algorithm) {
            return Err(TokenFault::Algorithm.into());
        }
        let kid = token.kid.as_deref();
        let mut keys = self.usable_keys().await?;
        if keys.find(kid, token.algorithm).is_none() {
            let now = clock::instant();
            let renewing = {
                let mut fetching = self.fetching();
                let is_under_way = fetching.under_way.is_some();
                let fetches = is_under_way || fetching.schedule.may_force(now);
                fetches.then(|| self.begin(&mut fetching, now))
            };
            if let Some(under_way) = renewing {
                end_of(under_way).await;
                keys = self.keys.load_full().ok_or(TokenRefusal::NoKeys)?;
            }
        }
        let key = keys.find(kid, token.algorithm).ok_or(TokenFault::Key)?;
        let message = token.message.as_bytes();
        let verified =
            crypto::verify(token.signature, message, &key.key, token.algorithm.of_library());
        match verified {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(TokenFault::Signature.into()),
        }
    }
}

/// The fetch has ended, whatever came of it.
async fn end_of(mut under_way: watch::Receiver<()>) {
    while under_way.changed().await.is_ok() {}
}
