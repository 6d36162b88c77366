//! Users by bearer token (RFC 6750, RFC 9068) and by a login at their issuer (OpenID Connect): the
//! issuers of the configuration, their keys, and what of a token has to be right.
//!
//! ```text
//! token ─▶ token: its parts ─▶ Issuer: its keys ─▶ signature ─▶ claims ─▶ a user of the directory
//!                                │ a KeySchedule says when they are fetched: once for many
//!                                └─▶ client: https, or http on this machine; bounded
//! browser ─▶ /login ─▶ browser_login: state, nonce, PKCE ─▶ issuer ─▶ /login/callback ─▶ session
//! ```

mod browser_login;
mod claims;
mod client;
mod issuer;
mod keys;
mod schedule;
mod token;

pub(crate) use browser_login::{
    Begun, CallbackQuery, Finished, LOGIN_COOKIE, LONGEST_LOGIN, LoginFault,
};
pub use claims::TokenFault;
pub use client::Endpoint;
pub use issuer::IssuerError;
pub use token::SignatureAlgorithm;

use crate::clock;
use crate::model::{GroupId, Role, UserId, config_value};
use crate::rate_limit::TokenBucket;
use crate::secret::Secret;
use browser_login::Seal;
use issuer::Issuer;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use token::ParsedToken;

/// What holds for all issuers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IdentityConfig {
    /// How far the clock of an issuer may differ from ours; what a token has opened ends so long
    /// after it.
    #[serde(deserialize_with = "config_value::seconds")]
    pub leeway: Duration,
    /// How old the keys of an issuer may become before they are fetched again.
    #[serde(deserialize_with = "config_value::some_seconds")]
    pub keys_refresh: Duration,
    /// How old they may become while they cannot be fetched; then its tokens are not believed.
    #[serde(deserialize_with = "config_value::some_seconds")]
    pub keys_stale: Duration,
}

impl Default for IdentityConfig {
    fn default() -> Self {
        Self {
            leeway: Duration::from_secs(60),
            keys_refresh: Duration::from_secs(300),
            keys_stale: Duration::from_secs(3600),
        }
    }
}

/// An issuer of tokens: `[[identity.issuer]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// What it is called here, in the log and by `/api/v2/login?issuer=`.
    pub name: String,
    /// Its URL, exactly as `iss` of its tokens has it.
    pub issuer: String,
    /// What `aud` of its access tokens names us by: one of these is enough.
    #[serde(default)]
    pub audience: Vec<String>,
    /// Where its keys are; left out: as its `/.well-known/openid-configuration` says.
    #[serde(default)]
    pub jwks_url: Option<String>,
    /// Signatures that are taken.
    #[serde(default = "default_algorithms")]
    pub algorithms: Vec<SignatureAlgorithm>,
    /// What `typ` of its access tokens may be.
    #[serde(default = "default_types")]
    pub token_types: Vec<TokenType>,
    /// The claim with the login name.
    #[serde(default = "default_user_claim")]
    pub user_claim: String,
    /// The claim with the roles that the issuer vouches for; left out: it vouches for all.
    #[serde(default)]
    pub roles_claim: Option<String>,
    /// What that claim calls roles; a value that is not here is the name of a role.
    #[serde(default)]
    pub roles: BTreeMap<String, Role>,
    /// The claim with the groups that the issuer vouches for; left out: it vouches for all.
    #[serde(default)]
    pub groups_claim: Option<String>,
    /// What that claim calls groups; a value that is not here is the id of a group.
    #[serde(default)]
    pub groups: BTreeMap<String, GroupId>,
    /// What we are called there; left out: browsers do not log in by it.
    #[serde(default)]
    pub client_id: Option<String>,
    /// What we prove that by; left out: by PKCE alone.
    #[serde(default)]
    pub client_secret: Option<Secret>,
    /// What a browser's login asks for.
    #[serde(default = "default_scopes")]
    pub scopes: Vec<String>,
    /// Authorities, in PEM, that vouch for it; left out: those of the system.
    #[serde(default)]
    pub authorities: Option<PathBuf>,
}

fn default_algorithms() -> Vec<SignatureAlgorithm> {
    vec![SignatureAlgorithm::RS256, SignatureAlgorithm::ES256]
}

fn default_types() -> Vec<TokenType> {
    vec![TokenType::AccessToken]
}

fn default_user_claim() -> String {
    "sub".to_owned()
}

fn default_scopes() -> Vec<String> {
    vec!["openid".to_owned()]
}

/// What `typ` of an access token may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum TokenType {
    /// `at+jwt` or `application/at+jwt` (RFC 9068 4).
    #[serde(rename = "at+jwt")]
    AccessToken,
    /// `JWT`, or none at all: of issuers from before RFC 9068.
    #[serde(rename = "JWT")]
    Jwt,
}

/// The directory as it is now.
pub trait Users: Send + Sync {
    /// Roles of a user; `None`: there is no such user.
    fn roles(&self, user: &UserId) -> Option<BTreeSet<Role>>;

    /// The groups that name a user.
    fn groups(&self, user: &UserId) -> BTreeSet<GroupId>;
}

/// Whether a token is somebody's cannot be said, or it is nobody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenRefusal {
    /// It is nobody's.
    Fault(TokenFault),
    /// The keys of its issuer are not known, or are too old.
    NoKeys,
}

impl TokenRefusal {
    /// The label of the metric.
    fn as_str(self) -> &'static str {
        match self {
            TokenRefusal::Fault(fault) => fault.as_str(),
            TokenRefusal::NoKeys => "no_keys",
        }
    }
}

impl From<TokenFault> for TokenRefusal {
    fn from(fault: TokenFault) -> Self {
        TokenRefusal::Fault(fault)
    }
}

/// The user of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenLogin {
    /// The user.
    pub user: UserId,
    /// When it is over, `leeway` after `exp`.
    pub until: Instant,
}

/// The issuers whose tokens are believed. Cheap to clone.
#[derive(Clone)]
pub struct Identities(Arc<Shared>);

struct Shared {
    issuers: Vec<Arc<Issuer>>,
    leeway: Duration,
    users: Arc<dyn Users>,
    lines: Mutex<RefusalLines>,
    seal: Seal,
}

/// Lines of the log about refused tokens: at once, and how long until another.
const LINES: u32 = 10;
const LINES_EACH: Duration = Duration::from_secs(6);

#[derive(Default)]
struct RefusalLines {
    allowance: TokenBucket,
    left_out: u64,
}

impl Identities {
    /// The issuers of the configuration; `users`: the directory. Their keys are fetched when
    /// they are needed, or by [`Identities::prefetch`].
    ///
    /// # Errors
    /// A URL is none.
    pub fn new(
        config: &IdentityConfig,
        issuers: &[IssuerConfig],
        users: Arc<dyn Users>,
    ) -> Result<Self, IssuerError> {
        let issuers = issuers.iter().map(|issuer| Issuer::new(config, issuer).map(Arc::new));
        Ok(Self(Arc::new(Shared {
            issuers: issuers.collect::<Result<_, _>>()?,
            leeway: config.leeway,
            users,
            lines: Mutex::default(),
            seal: Seal::new(),
        })))
    }

    /// Fetches the keys of all issuers, so that the first token need not wait for them. Call it on
    /// a tokio runtime.
    pub fn prefetch(&self) {
        let now = clock::instant();
        self.0.issuers.iter().for_each(|issuer| issuer.refresh_when_due(now));
    }

    /// The user of an access token. Whoever is refused is counted, and in the log.
    ///
    /// # Errors
    /// It is nobody's, or that cannot be said now.
    pub async fn user_of(&self, token: &str) -> Result<TokenLogin, TokenRefusal> {
        let verified = self.verified(token).await;
        if let Err(refusal) = &verified {
            self.note(*refusal);
        }
        verified
    }

    async fn verified(&self, token: &str) -> Result<TokenLogin, TokenRefusal> {
        let parsed = ParsedToken::read(token)?;
        let iss = parsed.claims.text("iss").ok_or(TokenFault::Issuer)?;
        let issuers = &self.0.issuers;
        let issuer = issuers.iter().find(|issuer| issuer.config.issuer == iss);
        let issuer = issuer.ok_or(TokenFault::Issuer)?;
        let config = &issuer.config;
        if !config.token_types.iter().any(|known| parsed.is_of_type(*known)) {
            return Err(TokenFault::Type.into());
        }
        issuer.verify(&parsed).await?;
        let now = clock::now();
        let left = parsed.claims.life_left(now.wall, self.0.leeway)?;
        if !config.audience.iter().any(|audience| parsed.claims.is_for(audience)) {
            return Err(TokenFault::Audience.into());
        }
        if parsed.claims.is_bound() {
            return Err(TokenFault::Bound.into());
        }
        let user = self.vouched_user(config, &parsed)?;
        Ok(TokenLogin { user, until: now.mono + left })
    }

    /// The user whom the claims name. The directory says what the user may; the token has to vouch
    /// for all of it where the configuration names claims for that.
    fn vouched_user(
        &self,
        config: &IssuerConfig,
        token: &ParsedToken<'_>,
    ) -> Result<UserId, TokenFault> {
        let claims = &token.claims;
        let user = claims.text(&config.user_claim).ok_or(TokenFault::User)?;
        let user = UserId::from(user);
        let roles = self.0.users.roles(&user).ok_or(TokenFault::User)?;
        if let Some(claim) = &config.roles_claim {
            let vouched = claims.words(claim);
            let is_vouched = |role: &Role| {
                vouched.iter().any(|word| match config.roles.get(*word) {
                    Some(mapped) => mapped == role,
                    None => *word == role.as_str(),
                })
            };
            if !roles.iter().all(is_vouched) {
                return Err(TokenFault::Role);
            }
        }
        if let Some(claim) = &config.groups_claim {
            let vouched = claims.words(claim);
            let is_vouched = |group: &GroupId| {
                vouched.iter().any(|word| match config.groups.get(*word) {
                    Some(mapped) => mapped == group,
                    None => *word == group.as_str(),
                })
            };
            if !self.0.users.groups(&user).iter().all(is_vouched) {
                return Err(TokenFault::Group);
            }
        }
        Ok(user)
    }

    fn note(&self, refusal: TokenRefusal) {
        let reason = refusal.as_str();
        metrics::counter!("undertone_tokens_refused_total", "reason" => reason).increment(1);
        // A lock that another thread died with holds data that is still whole.
        let mut lines = self.0.lines.lock().unwrap_or_else(PoisonError::into_inner);
        match lines.allowance.try_take(LINES, LINES_EACH, clock::instant()) {
            Ok(()) => {
                let left_out = std::mem::take(&mut lines.left_out);
                tracing::info!(reason, left_out, "a token is refused");
            }
            Err(_) => lines.left_out += 1,
        }
    }
}
