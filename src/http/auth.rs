//! Credentials → user. `Auth::identify` finds the user of a request, [`require`] refuses requests
//! without one.
//!
//! A new kind of credential (a client certificate) is a variant of `Presented` and an arm in
//! `Auth::identify`.

mod devices;
mod failures;
mod hashing;
mod queue;
mod sessions;

use super::error::HttpError;
use super::identity::{Identities, TokenLogin, TokenRefusal};
use super::server::ClientNetwork;
use crate::clock;
use crate::model::{Reason, UserId, config_value};
use crate::secret::{Secret, SharedSecret};
use argon2::password_hash::PasswordHasher;
use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, Version};
use axum::extract::{ConnectInfo, Request};
use axum::http::{HeaderMap, HeaderValue, Method, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use devices::{DEVICE_COOKIE, KNOWN_FOR, KnownDevices};
use failures::{LoginFailures, Place};
use queue::{LoginTurns, PendingLogin, Standing};
use serde::Deserialize;
use sessions::{LoginSessions, SessionKey, key_of};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// What the login may be told.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthConfig {
    /// How long a session cookie is good for.
    #[serde(deserialize_with = "config_value::some_seconds")]
    pub session_life: Duration,
    /// Sessions of one user at once; the oldest goes.
    #[serde(deserialize_with = "config_value::nonzero")]
    pub sessions_per_user: usize,
    /// How long a verified password is believed without hashing it again.
    #[serde(deserialize_with = "config_value::seconds")]
    pub cache_life: Duration,
    /// Cookies are sent over TLS only.
    pub secure_cookies: bool,
    /// Failed logins of one user from one address, or on one device that is known with the user,
    /// before it has to wait; one more is allowed every `failure_refill`.
    pub failures_per_user: NonZeroU32,
    /// Failed logins of all users from one address before logins from there, but those of known
    /// devices, wait behind all others.
    pub failures_per_address: NonZeroU32,
    /// How long until one more failure is allowed.
    #[serde(deserialize_with = "config_value::some_seconds")]
    pub failure_refill: Duration,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            session_life: Duration::from_secs(12 * 3600),
            sessions_per_user: 64,
            cache_life: Duration::from_secs(120),
            secure_cookies: false,
            failures_per_user: NonZeroU32::new(10).unwrap_or(NonZeroU32::MIN),
            failures_per_address: NonZeroU32::new(60).unwrap_or(NonZeroU32::MIN),
            failure_refill: Duration::from_secs(6),
        }
    }
}

/// Login name → password hash, a PHC string such as `$argon2id$v=19$…`.
pub type PasswordHashes = BTreeMap<UserId, Secret>;

/// A password cannot be hashed, or what should be its hash is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// argon2 refuses the password: too long.
    #[error("the password can not be hashed")]
    Unhashable,
    /// Not a PHC string.
    #[error("the password hash of user '{0}' is not a PHC string")]
    NotAHash(UserId),
}

/// Hashes a password for [`PasswordHashes`]: argon2id, 19 MiB, two passes (OWASP).
pub fn hash_password(password: &str) -> Result<String, PasswordError> {
    hash_with(&Argon2::default(), password)
}

/// As [`hash_password`], but cheap: for passwords that live for a minute, as those of the demo and
/// of tests.
pub fn hash_password_cheaply(password: &str) -> Result<String, PasswordError> {
    let params =
        Params::new(Params::MIN_M_COST, 1, 1, None).map_err(|_| PasswordError::Unhashable)?;
    hash_with(&Argon2::new(Algorithm::Argon2id, Version::V0x13, params), password)
}

fn hash_with(argon2: &Argon2<'_>, password: &str) -> Result<String, PasswordError> {
    let hash = argon2.hash_password(password.as_bytes()).map_err(|_| PasswordError::Unhashable)?;
    Ok(hash.to_string())
}

/// The user of a request. An extension of every request that `Auth::identify` let through with
/// credentials.
#[derive(Clone, Debug)]
pub struct AuthenticatedUser {
    /// The user.
    pub user: UserId,
    /// From where.
    pub address: IpAddr,
    /// How the request proves it.
    pub by: Means,
    /// End of the login, unless it is proved anew.
    pub until: Instant,
    /// What a POST by cookie sends back when CSRF protection is on. It names the HTTP session that
    /// the request belongs to, or that its answer opens.
    pub(crate) csrf: SessionName,
    /// The HTTP session whose cookie came with the request.
    session: Option<SessionKey>,
}

impl AuthenticatedUser {
    /// No cookie of a session came with the request, but a password or a token alone.
    pub(crate) fn is_by_password_alone(&self) -> bool {
        self.session.is_none()
    }
}

/// What names an HTTP session, to the event channel and to a page of ours: who knows it can pass a
/// page off as one.
pub type SessionName = SharedSecret;

/// The credentials of a request are wrong: it is nobody's, but not that of somebody without any. An
/// extension of requests to a protocol that has its own words for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginRefused;

/// A login that has ended, with all that was opened by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedLogin {
    /// The user.
    pub user: UserId,
    /// How much of it.
    pub what: EndedPart,
}

/// How much of a user's logins has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndedPart {
    /// This HTTP session.
    Session(SessionName),
    /// Programs that have no session, and send a password or a token alone.
    WithoutSession,
    /// All of it: the account is gone, or has another password.
    Everything,
}

/// Hears of logins that end.
pub trait LoginListener: Send + Sync {
    /// A login has ended.
    fn handle_ended(&self, ended: EndedLogin);
}

/// The answer ends the login of its request: the cookie goes. An extension of responses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoggedOut;

/// How a request proves its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// By password, in this very request.
    Password,
    /// By the session cookie, which a browser also sends for a foreign page.
    Cookie,
    /// By a bearer token (RFC 6750), in this very request.
    Token,
}

/// What a request brings along.
enum Presented<'a> {
    Nothing,
    Cookie(String),
    Token(&'a str),
    Password { user: UserId, password: String, cookie: Option<String> },
    Unreadable,
}

/// The register of logins. Cheap to clone.
#[derive(Clone)]
pub struct Auth(Arc<Register>);

struct Register {
    config: AuthConfig,
    accounts: Mutex<PasswordHashes>,
    /// Verified against when the user is unknown, so that both take as long.
    nobody: Secret,
    key: [u8; 32],
    verified: Mutex<BTreeMap<[u8; 32], Verified>>,
    sessions: Mutex<LoginSessions>,
    failures: LoginFailures,
    devices: KnownDevices,
    turns: LoginTurns,
    /// How many logins have ended.
    ended: AtomicU64,
    listener: OnceLock<Arc<dyn LoginListener>>,
    identities: OnceLock<Identities>,
}

struct Verified {
    user: UserId,
    until: Instant,
    session: String,
}

/// Verified passwords remembered.
const VERIFIED: usize = 4096;
/// No login name or password is longer.
pub const LONGEST_CREDENTIAL: usize = 1024;
/// The session cookie of GWS.
pub(crate) const SESSION_COOKIE: &str = "JSESSIONID";

impl Auth {
    /// A register with these accounts. Refuses what is no hash.
    pub fn new(config: AuthConfig, accounts: PasswordHashes) -> Result<Self, PasswordError> {
        Self::with_devices(config, accounts, rand::random())
    }

    /// The same; devices that have a cookie by this key are known.
    ///
    /// # Errors
    /// What is no hash.
    pub fn with_devices(
        config: AuthConfig,
        accounts: PasswordHashes,
        devices: [u8; 32],
    ) -> Result<Self, PasswordError> {
        for (user, hash) in &accounts {
            PasswordHash::new(hash.expose()).map_err(|_| PasswordError::NotAHash(user.clone()))?;
        }
        let nobody = match accounts.values().next() {
            Some(hash) => hash.clone(),
            None => hash_password_cheaply("")?.into(),
        };
        let failures = LoginFailures::new(&config);
        Ok(Self(Arc::new(Register {
            config,
            accounts: Mutex::new(accounts),
            nobody,
            key: rand::random(),
            verified: Mutex::default(),
            sessions: Mutex::default(),
            failures,
            devices: KnownDevices::new(devices),
            turns: LoginTurns::new(hashing::at_once()),
            ended: AtomicU64::new(0),
            listener: OnceLock::new(),
            identities: OnceLock::new(),
        })))
    }

    /// Believes the tokens of these issuers; the first ones that it is told.
    pub fn believe(&self, identities: Identities) {
        // One server has one list of issuers.
        let _ = self.0.identities.set(identities);
    }

    /// The issuers whose tokens are believed.
    pub(crate) fn identities(&self) -> Option<&Identities> {
        self.0.identities.get()
    }

    async fn by_token(&self, token: &str) -> Result<TokenLogin, HttpError> {
        // Where no issuer is known a token is no kind of login.
        let identities = self.identities().ok_or_else(HttpError::access_denied)?;
        identities.user_of(token).await.map_err(|refusal| match refusal {
            TokenRefusal::Fault(_) => HttpError::invalid_token(),
            TokenRefusal::NoKeys => {
                HttpError::new(Reason::Unavailable, "Tokens can not be checked now.")
            }
        })
    }

    /// Opens an HTTP session after a login elsewhere, until then or for `session_life`; or, where the
    /// browser has one of the same user, prolongs that. The header that sets its cookie.
    pub(crate) fn open_session(
        &self,
        login: &TokenLogin,
        headers: &HeaderMap,
    ) -> Option<HeaderValue> {
        let now = clock::instant();
        let until = login.until.min(now + self.0.config.session_life);
        let mut sessions = locked(&self.0.sessions);
        let kept = cookie(headers, SESSION_COOKIE)
            .filter(|cookie| sessions.prolong(cookie, &login.user, until, now));
        let opened = match kept {
            Some(kept) => kept.to_owned(),
            None => sessions.open(&login.user, self.0.config.sessions_per_user, until, now),
        };
        self.cookie_line(SESSION_COOKIE, &opened, (until - now).as_secs())
    }

    /// Tells this listener of logins that end; the first one is told.
    pub fn tell(&self, listener: Arc<dyn LoginListener>) {
        // One server has one event channel.
        let _ = self.0.listener.set(listener);
    }

    /// Ends the HTTP session whose cookie came with the request, and all that was opened in it.
    /// Where a password came alone there is none, and nothing ends.
    pub(crate) fn end_session(&self, caller: &AuthenticatedUser) -> Option<LoggedOut> {
        let key = caller.session?;
        locked(&self.0.sessions).close(&caller.user, &key);
        self.ended(caller, Some(caller.csrf.clone()))
    }

    /// Ends that session or, where a password or a token came alone, what the user's programs have
    /// opened that send these alone.
    pub(crate) fn log_out(&self, caller: &AuthenticatedUser) -> Option<LoggedOut> {
        self.end_session(caller).or_else(|| self.ended(caller, None))
    }

    fn ended(&self, caller: &AuthenticatedUser, session: Option<SessionName>) -> Option<LoggedOut> {
        let what = session.map_or(EndedPart::WithoutSession, EndedPart::Session);
        self.tell_ended(&caller.user, what);
        Some(LoggedOut)
    }

    fn tell_ended(&self, user: &UserId, what: EndedPart) {
        self.0.ended.fetch_add(1, Ordering::Release);
        if let Some(listener) = self.0.listener.get() {
            listener.handle_ended(EndedLogin { user: user.clone(), what });
        }
    }

    /// Other accounts from now on: `put` are those that are new or have another password. Whoever
    /// is gone or has another password is logged in no more, and all that was opened by it ends.
    ///
    /// # Errors
    /// What is no hash; then nothing has changed.
    pub fn change_accounts(
        &self,
        put: PasswordHashes,
        removed: &[UserId],
    ) -> Result<(), PasswordError> {
        for (user, hash) in &put {
            PasswordHash::new(hash.expose()).map_err(|_| PasswordError::NotAHash(user.clone()))?;
        }
        let mut ended: Vec<UserId> = Vec::new();
        let mut accounts = locked(&self.0.accounts);
        for user in removed {
            // Without a password, too, there may be logins by token.
            accounts.remove(user);
            ended.push(user.clone());
        }
        for (user, hash) in put {
            let before = accounts.insert(user.clone(), hash);
            if before.is_some_and(|before| accounts.get(&user) != Some(&before)) {
                ended.push(user);
            }
        }
        if ended.is_empty() {
            return Ok(());
        }
        ended.sort_unstable();
        let is_ended = |user: &UserId| ended.binary_search(user).is_ok();
        locked(&self.0.verified).retain(|_, entry| !is_ended(&entry.user));
        drop(accounts);
        for user in &ended {
            let sessions = locked(&self.0.sessions).close_all(user);
            for session in sessions {
                self.tell_ended(user, EndedPart::Session(session));
            }
            self.tell_ended(user, EndedPart::Everything);
        }
        Ok(())
    }

    /// These users are no more: what was opened by a token while the directory was changed ends.
    pub fn end_all_of(&self, removed: &[UserId]) {
        removed.iter().for_each(|user| self.tell_ended(user, EndedPart::Everything));
    }

    /// The password hash of a user.
    pub fn password_hash(&self, user: &UserId) -> Option<Secret> {
        locked(&self.0.accounts).get(user).cloned()
    }

    /// How many logins have ended: what was believed before the last one did is to be checked anew.
    pub(crate) fn ended_so_far(&self) -> u64 {
        self.0.ended.load(Ordering::Acquire)
    }

    /// Finds the login of a password. The cookie of its device, if it has to be set.
    async fn by_password(
        &self,
        (user, password): (UserId, String),
        address: IpAddr,
        device: Option<&str>,
    ) -> Result<(Verified, Option<String>), HttpError> {
        let register = &*self.0;
        let digest = register.digest(&user, &password);
        if let Some(verified) = register.remembered(&digest) {
            return Ok((verified, None));
        }
        let network = ClientNetwork::of(address);
        let device = device
            .and_then(|cookie| register.devices.recognise(&user, cookie, clock::wall()))
            .map(Place::Device);
        let place = device.unwrap_or(Place::Network(network));
        // A password that was right before is no guess, however many others guess from the same
        // address.
        let is_guess = !locked(&register.verified).contains_key(&digest);
        if is_guess {
            register.failures.allowed(&user, place)?;
        }
        let standing = match device {
            Some(_) => Standing::Known,
            None if !is_guess => Standing::Known,
            None => register.failures.standing(network),
        };
        let is_account = locked(&register.accounts).contains_key(&user);
        let login = PendingLogin { origin: network, standing, user, is_account };
        let turn = register.turns.take(&login).await.ok_or_else(too_busy)?;
        let user = login.user;
        if let Some(verified) = register.remembered(&digest) {
            // Another request of the user was first: a desktop's tabs come back together.
            return Ok((verified, None));
        }
        if is_guess {
            register.failures.allowed(&user, place)?;
        }
        let known = locked(&register.accounts).get(&user).cloned();
        let hash = known.clone().unwrap_or_else(|| register.nobody.clone());
        let verified = hashing::verify(hash, password, turn).await;
        // Counted before it is the next one's turn.
        let (matches, _turn) = verified.ok_or_else(too_busy)?;
        let accounts = locked(&register.accounts);
        // The account may have gone, or got another password, meanwhile.
        if !(matches && known.is_some() && accounts.get(&user) == known.as_ref()) {
            drop(accounts);
            register.failures.record(&user, place);
            metrics::counter!("undertone_login_failures_total").increment(1);
            tracing::info!(%user, %address, "login refused");
            return Err(HttpError::access_denied());
        }
        let cookie = match device {
            Some(_) => None,
            None => register.devices.cookie(&user, rand::random(), clock::wall()),
        };
        Ok((register.remember(digest, user), cookie))
    }
}

fn too_busy() -> HttpError {
    HttpError::new(Reason::Unavailable, "Too many logins at once.")
}

impl Register {
    /// Keyed, so that a dump of the cache is no list of fast password hashes.
    fn digest(&self, user: &UserId, password: &str) -> [u8; 32] {
        let mut hasher = Sha256::new();
        hasher.update(self.key);
        hasher.update((user.as_str().len() as u64).to_be_bytes());
        hasher.update(user.as_str());
        hasher.update(password);
        hasher.update(self.key);
        hasher.finalize().into()
    }

    fn remembered(&self, digest: &[u8; 32]) -> Option<Verified> {
        let now = clock::instant();
        let mut verified = locked(&self.verified);
        let entry = verified.get_mut(digest).filter(|entry| entry.until > now)?;
        if locked(&self.sessions).find(&entry.session, now).is_none() {
            entry.session = locked(&self.sessions).open(
                &entry.user,
                self.config.sessions_per_user,
                now + self.config.session_life,
                now,
            );
        }
        Some(Verified {
            user: entry.user.clone(),
            until: entry.until,
            session: entry.session.clone(),
        })
    }

    fn remember(&self, digest: [u8; 32], user: UserId) -> Verified {
        let now = clock::instant();
        let (most, until) = (self.config.sessions_per_user, now + self.config.session_life);
        let session = locked(&self.sessions).open(&user, most, until, now);
        let entry = || Verified {
            user: user.clone(),
            until: now + self.config.cache_life,
            session: session.clone(),
        };
        let mut verified = locked(&self.verified);
        if verified.len() >= VERIFIED {
            verified.retain(|_, entry| entry.until > now);
        }
        if verified.len() < VERIFIED {
            verified.insert(digest, entry());
        }
        entry()
    }
}

/// A lock that another thread died with holds data that is still whole: every change under it is
/// one statement.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `N` random bytes as URL-safe text.
pub(crate) fn random_text<const N: usize>() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>().get(..N).unwrap_or_default())
}

/// Cookies that an answer has to set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NewCookies {
    session: Option<String>,
    device: Option<String>,
}

impl Auth {
    /// Finds the user of a request; none when there are no credentials, or a dead cookie. Wrong
    /// credentials are refused. A login by password has cookies to be set, see
    /// `Auth::with_cookies`.
    pub(crate) async fn identify(
        &self,
        headers: &HeaderMap,
        address: IpAddr,
    ) -> Result<(Option<AuthenticatedUser>, NewCookies), HttpError> {
        let now = clock::instant();
        let session_of = |cookie: &str| locked(&self.0.sessions).find(cookie, now).cloned();
        let nothing = NewCookies::default();
        let (caller, new_cookies) = match presented(headers) {
            Presented::Nothing => return Ok((None, nothing)),
            Presented::Unreadable => return Err(HttpError::access_denied()),
            Presented::Token(token) => {
                let TokenLogin { user, until } = self.by_token(token).await?;
                let (by, csrf) = (Means::Token, SessionName::shared(""));
                (AuthenticatedUser { user, address, by, until, csrf, session: None }, nothing)
            }
            Presented::Cookie(cookie) => {
                let Some(session) = session_of(&cookie) else {
                    return Ok((None, nothing));
                };
                let caller = AuthenticatedUser {
                    user: session.user,
                    address,
                    by: Means::Cookie,
                    until: session.until,
                    csrf: session.csrf,
                    session: Some(key_of(&cookie)),
                };
                (caller, nothing)
            }
            Presented::Password { user, password, cookie } => {
                let device = self::cookie(headers, DEVICE_COOKIE);
                let (verified, device) =
                    self.by_password((user, password), address, device).await?;
                let kept = cookie
                    .as_deref()
                    .and_then(session_of)
                    .filter(|session| session.user == verified.user);
                let new = kept.is_none().then(|| verified.session.clone());
                let key = cookie.filter(|_| kept.is_some()).map(|cookie| key_of(&cookie));
                let session = kept.or_else(|| session_of(&verified.session));
                let (until, csrf) = session
                    .map_or((now, SessionName::default()), |session| (session.until, session.csrf));
                let caller = AuthenticatedUser {
                    user: verified.user,
                    address,
                    by: Means::Password,
                    until,
                    csrf,
                    session: key,
                };
                (caller, NewCookies { session: new, device })
            }
        };
        Ok((Some(caller), new_cookies))
    }

    /// A session cookie came, and no password. Of a request without a user: the cookie is dead.
    pub(crate) fn has_cookie_alone(headers: &HeaderMap) -> bool {
        matches!(presented(headers), Presented::Cookie(_))
    }

    /// The headers that set cookies.
    pub(crate) fn cookie_lines(&self, cookies: &NewCookies) -> Vec<HeaderValue> {
        let life = self.0.config.session_life.as_secs();
        let session = cookies.session.as_deref().map(|value| (SESSION_COOKIE, value, life));
        let device = cookies.device.as_deref().map(|value| (DEVICE_COOKIE, value, KNOWN_FOR));
        session
            .into_iter()
            .chain(device)
            .filter_map(|(name, value, life)| self.cookie_line(name, value, life))
            .collect()
    }

    fn cookie_line(&self, name: &str, value: &str, life: u64) -> Option<HeaderValue> {
        self.cookie_below("/", (name, value), life)
    }

    /// The header that sets a cookie for what is below this path, for so many seconds; 0: it goes.
    pub(crate) fn cookie_below(
        &self,
        path: &str,
        (name, value): (&str, &str),
        life: u64,
    ) -> Option<HeaderValue> {
        let secure = if self.0.config.secure_cookies { "; Secure" } else { "" };
        HeaderValue::from_str(&format!(
            "{name}={value}; Path={path}; HttpOnly; SameSite=Lax; Max-Age={life}{secure}"
        ))
        .ok()
    }

    /// Sets cookies, if there are any to set; takes that of the session away where the login ends.
    pub(crate) fn with_cookies(&self, cookies: &NewCookies, mut response: Response) -> Response {
        let lines = match response.extensions().get::<LoggedOut>() {
            Some(LoggedOut) => self.cookie_line(SESSION_COOKIE, "", 0).into_iter().collect(),
            None => self.cookie_lines(cookies),
        };
        for line in lines {
            response.headers_mut().append(header::SET_COOKIE, line);
        }
        response
    }
}

/// Refuses requests without a user.
pub async fn require(request: Request, next: Next) -> Response {
    match request.extensions().get::<AuthenticatedUser>() {
        Some(_) => next.run(request).await,
        None => HttpError::access_denied().into_response(),
    }
}

/// A foreign page can make a browser send our cookie: a request that changes something must come
/// from our own origin or an allowed one. Browsers say which; programs that keep cookies send no
/// Origin.
pub(crate) fn same_origin(allowed: &[String], request: &Request) -> Result<(), HttpError> {
    if by_cookie(request).is_some() && !is_safe(request.method()) && is_foreign(request, allowed) {
        return Err(HttpError::new(Reason::NotPermitted, "Cross-site requests are not allowed."));
    }
    Ok(())
}

/// The token a browser page of ours must send back. A GET is answered with it, see [`offer_csrf`].
pub(crate) fn csrf(request: &Request) -> Result<Option<SessionName>, HttpError> {
    let sent = request.headers().get("x-csrf-token").map(HeaderValue::as_bytes);
    if let Some(caller) = by_cookie(request)
        && !is_safe(request.method())
        && sent != Some(caller.csrf.expose().as_bytes())
    {
        return Err(HttpError::new(Reason::NotPermitted, "Missing or invalid Csrf token"));
    }
    let caller = request.extensions().get::<AuthenticatedUser>();
    let caller =
        caller.filter(|caller| request.method() == Method::GET && caller.by != Means::Token);
    Ok(caller.map(|caller| caller.csrf.clone()))
}

/// Tells a page its token.
pub(crate) fn offer_csrf(response: &mut Response, token: &str) {
    if let Ok(token) = HeaderValue::from_str(token) {
        let headers = response.headers_mut();
        headers.insert("x-csrf-header", HeaderValue::from_static("X-CSRF-TOKEN"));
        headers.insert("x-csrf-token", token);
    }
}

fn by_cookie(request: &Request) -> Option<&AuthenticatedUser> {
    let caller = request.extensions().get::<AuthenticatedUser>();
    caller.filter(|caller| caller.by == Means::Cookie)
}

fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Whether a browser says that the request comes from a page that is neither ours nor allowed.
pub(crate) fn is_foreign(request: &Request, allowed: &[String]) -> bool {
    let Some(origin) = request.headers().get(header::ORIGIN) else {
        let site = request.headers().get("sec-fetch-site").map(HeaderValue::as_bytes);
        return matches!(site, Some(b"cross-site" | b"same-site"));
    };
    let Ok(origin) = origin.to_str() else {
        return true;
    };
    !is_own(origin, request, allowed)
}

/// Whether a browser says that the request comes from a page of ours or an allowed one, or from its
/// user alone. One that says nothing may show any page.
pub(crate) fn is_from_own_page(request: &Request, allowed: &[String]) -> bool {
    let text = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    matches!(text("sec-fetch-site"), Some("same-origin" | "none"))
        || text("origin").is_some_and(|origin| is_own(origin, request, allowed))
        || text("referer")
            .and_then(origin_of)
            .is_some_and(|origin| is_own(&origin, request, allowed))
}

/// The origin of a URL as browsers write it (RFC 6454 section 6.2): without the usual port.
pub(crate) fn origin_of(url: &str) -> Option<String> {
    let url = url.split('#').next()?.parse::<Uri>().ok()?;
    let scheme = url.scheme_str()?.to_ascii_lowercase();
    let authority = url.authority()?.as_str().to_ascii_lowercase();
    let usual = if scheme == "https" { ":443" } else { ":80" };
    Some(format!("{scheme}://{}", authority.strip_suffix(usual).unwrap_or(&authority)))
}

/// Whether an origin is allowed, or the one that the request is made to.
fn is_own(origin: &str, request: &Request, allowed: &[String]) -> bool {
    if allowed.iter().any(|one| one == origin) {
        return true;
    }
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let own = host.or_else(|| request.uri().authority().map(|authority| authority.as_str()));
    let named = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    named.is_some() && named == own
}

/// From where a request really comes, once that is known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientAddress(pub(crate) IpAddr);

pub(crate) fn address_of(request: &Request) -> IpAddr {
    if let Some(ClientAddress(address)) = request.extensions().get() {
        return *address;
    }
    let info = request.extensions().get::<ConnectInfo<SocketAddr>>();
    info.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ConnectInfo(address)| {
        address.ip().to_canonical()
    })
}

fn presented(headers: &HeaderMap) -> Presented<'_> {
    let cookie = cookie(headers, SESSION_COOKIE).map(str::to_owned);
    let mut lines = headers.get_all(header::AUTHORIZATION).iter();
    let authorization = match (lines.next(), lines.next()) {
        (None, _) => return cookie.map_or(Presented::Nothing, Presented::Cookie),
        (Some(authorization), None) => authorization,
        (Some(_), Some(_)) => return Presented::Unreadable,
    };
    if let Some(token) = bearer(authorization) {
        return Presented::Token(token);
    }
    let Some((user, password)) = basic(authorization) else {
        return Presented::Unreadable;
    };
    Presented::Password { user, password, cookie }
}

/// RFC 6750 2.1: `Bearer token`.
fn bearer(authorization: &HeaderValue) -> Option<&str> {
    let text = authorization.to_str().ok()?;
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// RFC 7617: `Basic base64(user:password)`.
fn basic(authorization: &HeaderValue) -> Option<(UserId, String)> {
    let (scheme, token) = authorization.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(token.trim()).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    let fits = user.len() <= LONGEST_CREDENTIAL
        && password.len() <= LONGEST_CREDENTIAL
        && !user.is_empty();
    fits.then(|| (user.into(), password.to_owned()))
}

/// The value of a cookie.
pub(crate) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_str(value).expect("a header")))
            .collect()
    }

    #[test]
    fn basic_credentials_are_read_and_everything_else_is_not() {
        let read = |text: &str| basic(&HeaderValue::from_str(text).expect("a header"));
        let token = STANDARD.encode("anna:pass:word");
        assert_eq!(read(&format!("Basic {token}")), Some(("anna".into(), "pass:word".to_owned())));
        assert_eq!(read(&format!("basic {token}")), Some(("anna".into(), "pass:word".to_owned())));
        assert_eq!(read("Bearer abc"), None);
        assert_eq!(read("Basic !!!"), None);
        assert_eq!(read(&format!("Basic {}", STANDARD.encode("no colon"))), None);
        assert_eq!(read(&format!("Basic {}", STANDARD.encode([0xff, b':', 0xfe]))), None);
    }

    #[test]
    fn a_cookie_is_found_among_others_and_in_any_line() {
        let headers =
            headers(&[(header::COOKIE, "a=1; JSESSIONID=x; b=2"), (header::COOKIE, "c=\"3\"")]);
        assert_eq!(cookie(&headers, "JSESSIONID"), Some("x"));
        assert_eq!(cookie(&headers, "c"), Some("3"));
        assert_eq!(cookie(&headers, "d"), None);
    }

    #[test]
    fn foreign_origins_are_told_from_our_own() {
        let request = |origin: Option<&str>| {
            let mut request =
                Request::builder().uri("/api/v2/me").header(header::HOST, "127.0.0.1:8080");
            if let Some(origin) = origin {
                request = request.header(header::ORIGIN, origin);
            }
            request.body(axum::body::Body::empty()).expect("a request")
        };
        let allowed = ["https://desk.example".to_owned()];
        assert!(!is_foreign(&request(None), &allowed));
        assert!(!is_foreign(&request(Some("http://127.0.0.1:8080")), &allowed));
        assert!(!is_foreign(&request(Some("https://desk.example")), &allowed));
        assert!(is_foreign(&request(Some("https://evil")), &allowed));
        assert!(is_foreign(&request(Some("null")), &allowed));
        assert!(is_foreign(&request(Some("http://127.0.0.1:8081")), &allowed));
    }
}
