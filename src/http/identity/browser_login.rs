//! A browser logs in at its user's issuer: the authorization code flow of OpenID Connect, with PKCE
//! (RFC 7636). What has to be remembered between the two requests is with the browser, sealed.

use super::client::{ClientError, Endpoint};
use super::issuer::Issuer;
use super::token::ParsedToken;
use super::{Identities, TokenFault, TokenLogin, TokenRefusal, TokenType};
use crate::clock;
use crate::http::auth::random_text;
use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use axum::http::HeaderValue;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use form_urlencoded::{Serializer, byte_serialize};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::Duration;
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

/// The cookie of a login under way.
pub(crate) const LOGIN_COOKIE: &str = "UNDERTONE_LOGIN";
/// How long a user may take at the issuer.
pub(crate) const LONGEST_LOGIN: Duration = Duration::from_secs(600);
/// Codes that are exchanged at once; one more is told to come again.
const EXCHANGES: usize = 32;
/// Characters of a code or a state.
const LONGEST_PARAMETER: usize = 4096;
/// Characters of the path that a login ends at.
const LONGEST_PATH: usize = 1024;
/// Where a login ends that says nothing of it.
const DEFAULT_PATH: &str = "/api/v2/me";

/// Why a browser is not logged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LoginFault {
    /// There is no such issuer, or none that browsers log in at.
    NoIssuer,
    /// It is to end at something else than a path of ours.
    Redirect,
    /// Nobody here has begun it, or too long ago, or in another browser.
    State,
    /// The issuer says no, or what it says is not whole.
    Refused,
    /// The issuer cannot be asked now.
    Unavailable,
    /// Its token is nobody's.
    Token,
}

impl From<TokenRefusal> for LoginFault {
    fn from(refusal: TokenRefusal) -> Self {
        match refusal {
            TokenRefusal::Fault(_) => LoginFault::Token,
            TokenRefusal::NoKeys => LoginFault::Unavailable,
        }
    }
}

/// A login begins: where the browser goes, and what it brings back.
pub(crate) struct Begun {
    pub(crate) location: String,
    pub(crate) cookie: String,
}

/// A login has ended well.
pub(crate) struct Finished {
    pub(crate) login: TokenLogin,
    /// Where the browser goes now.
    pub(crate) path: String,
}

/// What an issuer sends a browser back with (RFC 6749 4.1.2, RFC 9207).
#[derive(Deserialize)]
pub(crate) struct CallbackQuery {
    code: Option<String>,
    state: Option<String>,
    iss: Option<String>,
    error: Option<String>,
}

/// What is remembered of a login under way.
#[derive(Serialize, Deserialize)]
struct Transaction {
    state: String,
    nonce: String,
    verifier: String,
    /// The name of its issuer.
    issuer: String,
    path: String,
    /// In milliseconds since 1970.
    until: u64,
}

/// Seals what a browser keeps for us. With the process goes the key, and with it logins under way.
pub(super) struct Seal {
    key: RandomizedNonceKey,
    exchanges: Semaphore,
}

const NONCE: usize = 12;

impl Seal {
    pub(super) fn new() -> Self {
        let key: Zeroizing<[u8; 32]> = Zeroizing::new(rand::random());
        let key = RandomizedNonceKey::new(&AES_256_GCM, key.as_slice())
            .unwrap_or_else(|_| unreachable!("a key of 256 bits"));
        Self { key, exchanges: Semaphore::new(EXCHANGES) }
    }

    fn close(&self, transaction: &Transaction) -> Option<String> {
        let mut text = Zeroizing::new(serde_json::to_vec(transaction).ok()?);
        let context = Aad::from(LOGIN_COOKIE);
        let nonce = self.key.seal_in_place_append_tag(context, &mut *text).ok()?;
        let sealed: Vec<u8> = nonce.as_ref().iter().chain(text.iter()).copied().collect();
        Some(URL_SAFE_NO_PAD.encode(sealed))
    }

    fn open(&self, cookie: &str) -> Option<Transaction> {
        let mut sealed = Zeroizing::new(URL_SAFE_NO_PAD.decode(cookie).ok()?);
        let (nonce, text) = sealed.split_at_mut_checked(NONCE)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let text = self.key.open_in_place(nonce, Aad::from(LOGIN_COOKIE), text).ok()?;
        serde_json::from_slice(text).ok()
    }
}

/// A path of ours that a browser takes for nothing else (RFC 3986 4.2).
fn own_path(path: &str) -> Option<&str> {
    let is_plain = path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    let is_own = path.starts_with('/') && !path.starts_with("//");
    (is_own && is_plain && path.len() <= LONGEST_PATH).then_some(path)
}

/// What the issuer answers to a code.
#[derive(Deserialize)]
struct TokenAnswer {
    id_token: String,
}

impl Identities {
    /// Browsers can log in at an issuer.
    pub(crate) fn has_logins(&self) -> bool {
        self.0.issuers.iter().any(|issuer| issuer.config.client_id.is_some())
    }

    fn login_issuer(&self, name: Option<&str>) -> Option<&Arc<Issuer>> {
        let mut issuers = self.0.issuers.iter().filter(|one| one.config.client_id.is_some());
        issuers.find(|issuer| name.is_none_or(|name| issuer.config.name == name))
    }

    /// A browser logs in, at the first issuer or that of this name, and ends at this path.
    /// `callback`: where the issuer sends it back to.
    pub(crate) async fn begin_login(
        &self,
        issuer: Option<&str>,
        path: Option<&str>,
        callback: &str,
    ) -> Result<Begun, LoginFault> {
        let issuer = self.login_issuer(issuer).ok_or(LoginFault::NoIssuer)?;
        let path = own_path(path.unwrap_or(DEFAULT_PATH)).ok_or(LoginFault::Redirect)?;
        let metadata = issuer.described().await?;
        let endpoint = metadata.authorization.as_ref().ok_or(LoginFault::Unavailable)?;
        let transaction = Transaction {
            state: random_text::<32>(),
            nonce: random_text::<32>(),
            verifier: random_text::<32>(),
            issuer: issuer.config.name.clone(),
            path: path.to_owned(),
            until: clock::wall().0 + LONGEST_LOGIN.as_millis() as u64,
        };
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(&transaction.verifier));
        let query = Serializer::new(String::new())
            .append_pair("response_type", "code")
            .append_pair("client_id", issuer.config.client_id.as_deref().unwrap_or_default())
            .append_pair("redirect_uri", callback)
            .append_pair("scope", &issuer.config.scopes.join(" "))
            .append_pair("state", &transaction.state)
            .append_pair("nonce", &transaction.nonce)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256")
            .finish();
        let url = endpoint.url();
        let joint = if url.contains('?') { '&' } else { '?' };
        let cookie = self.0.seal.close(&transaction).ok_or(LoginFault::Unavailable)?;
        Ok(Begun { location: format!("{url}{joint}{query}"), cookie })
    }

    /// The issuer has sent the browser back with `query`; `cookie`: what it has kept for us.
    pub(crate) async fn finish_login(
        &self,
        query: CallbackQuery,
        cookie: Option<&str>,
        callback: &str,
    ) -> Result<Finished, LoginFault> {
        let begun = cookie.and_then(|cookie| self.0.seal.open(cookie)).ok_or(LoginFault::State)?;
        let state = query.state.unwrap_or_default();
        let is_own: bool = begun.state.as_bytes().ct_eq(state.as_bytes()).into();
        if !is_own || clock::wall().0 >= begun.until {
            return Err(LoginFault::State);
        }
        let issuer = self.login_issuer(Some(&begun.issuer)).ok_or(LoginFault::NoIssuer)?;
        let metadata = issuer.described().await?;
        // RFC 9207 2.4: else another issuer has led the browser here.
        let is_named = match &query.iss {
            Some(iss) => *iss == issuer.config.issuer,
            None => !metadata.names_itself,
        };
        if !is_named {
            return Err(LoginFault::State);
        }
        let code = match (query.error, query.code) {
            (None, Some(code)) if code.len() <= LONGEST_PARAMETER => code,
            (_, _) => return Err(LoginFault::Refused),
        };
        let endpoint = metadata.token.as_ref().ok_or(LoginFault::Unavailable)?;
        let answer = {
            let _place =
                self.0.seal.exchanges.try_acquire().map_err(|_| LoginFault::Unavailable)?;
            let proof = (code.as_str(), begun.verifier.as_str(), callback);
            exchange(issuer, endpoint, metadata.secret_in_form, proof).await?
        };
        let login = self.user_of_id_token(issuer, &answer.id_token, &begun.nonce).await;
        if let Err(refusal) = &login {
            self.note(*refusal);
        }
        Ok(Finished { login: login?, path: begun.path })
    }

    /// OpenID Connect Core 3.1.3.7.
    async fn user_of_id_token(
        &self,
        issuer: &Arc<Issuer>,
        token: &str,
        nonce: &str,
    ) -> Result<TokenLogin, TokenRefusal> {
        let parsed = ParsedToken::read(token)?;
        let claims = &parsed.claims;
        if claims.text("iss") != Some(issuer.config.issuer.as_str()) {
            return Err(TokenFault::Issuer.into());
        }
        if !parsed.is_of_type(TokenType::Jwt) {
            return Err(TokenFault::Type.into());
        }
        issuer.verify(&parsed).await?;
        let now = clock::now();
        let left = claims.life_left(now.wall, self.0.leeway)?;
        let client = issuer.config.client_id.as_deref().unwrap_or_default();
        let is_for_more = claims.audiences().any(|audience| audience != client);
        let party = claims.text("azp");
        let is_ours = party.is_none_or(|party| party == client);
        if !claims.is_for(client) || !is_ours || (is_for_more && party.is_none()) {
            return Err(TokenFault::Audience.into());
        }
        if claims.text("nonce") != Some(nonce) {
            return Err(TokenFault::Nonce.into());
        }
        let user = self.vouched_user(&issuer.config, &parsed)?;
        Ok(TokenLogin { user, until: now.mono + left })
    }
}

/// Shows the code to the issuer, with what proves that the browser has it from here.
async fn exchange(
    issuer: &Issuer,
    endpoint: &Endpoint,
    secret_in_form: bool,
    (code, verifier, callback): (&str, &str, &str),
) -> Result<TokenAnswer, LoginFault> {
    let client = issuer.config.client_id.as_deref().unwrap_or_default();
    let secret = issuer.config.client_secret.as_ref();
    let in_header = secret.filter(|_| !secret_in_form);
    let form = {
        let mut form = Serializer::new(String::new());
        form.append_pair("grant_type", "authorization_code")
            .append_pair("code", code)
            .append_pair("redirect_uri", callback)
            .append_pair("code_verifier", verifier);
        if in_header.is_none() {
            form.append_pair("client_id", client);
        }
        if let Some(secret) = secret.filter(|_| secret_in_form) {
            form.append_pair("client_secret", secret.expose());
        }
        Zeroizing::new(form.finish())
    };
    let authorization = in_header.map(|secret| {
        let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
        let pair = Zeroizing::new(format!("{}:{}", encoded(client), encoded(secret.expose())));
        let line = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
        HeaderValue::from_str(&line).map(|mut value| {
            value.set_sensitive(true);
            value
        })
    });
    let authorization = authorization.transpose().map_err(|_| LoginFault::Unavailable)?;
    let name = &issuer.config.name;
    let body = match issuer.client.post_form(endpoint, &form, authorization).await {
        Ok(body) => body,
        Err(ClientError::Status(status @ 400..500)) => {
            tracing::info!(issuer = name, status, "an issuer refuses the code of a login");
            return Err(LoginFault::Refused);
        }
        Err(error) => {
            tracing::warn!(issuer = name, %error, "the code of a login cannot be exchanged");
            return Err(LoginFault::Unavailable);
        }
    };
    serde_json::from_slice(&body).map_err(|_| LoginFault::Refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transaction() -> Transaction {
        Transaction {
            state: "state".to_owned(),
            nonce: "nonce".to_owned(),
            verifier: "verifier".to_owned(),
            issuer: "id".to_owned(),
            path: "/desk".to_owned(),
            until: 7,
        }
    }

    #[test]
    fn what_a_browser_keeps_is_opened_by_its_own_seal_alone() {
        let seal = Seal::new();
        let cookie = seal.close(&transaction()).expect("a cookie");
        assert!(!cookie.contains("verifier"));
        assert_eq!(seal.open(&cookie).expect("what was sealed").verifier, "verifier");
        assert!(Seal::new().open(&cookie).is_none());
        let other = if cookie.ends_with('A') { "B" } else { "A" };
        let forged = format!("{}{other}", &cookie[..cookie.len() - 1]);
        assert!(seal.open(&forged).is_none());
        for nothing in ["", "AAAA", "!", "AAAAAAAAAAAAAAAA"] {
            assert!(seal.open(nothing).is_none(), "{nothing}");
        }
    }

    #[test]
    fn a_login_ends_at_a_path_of_ours_alone() {
        for path in ["/", "/desk", "/desk?tab=1#calls", "/a//b"] {
            assert_eq!(own_path(path), Some(path));
        }
        for path in [
            "",
            "desk",
            "//evil.example",
            "/\\evil.example",
            "\\\\evil.example",
            "https://evil.example/",
            "/\t/evil.example",
            "/a b",
            "/a\r\nSet-Cookie: x=y",
            "javascript:alert(1)",
        ] {
            assert_eq!(own_path(path), None, "{path}");
        }
        assert_eq!(own_path(&format!("/{}", "a".repeat(LONGEST_PATH))), None);
    }
}
