//! Requests to issuers: over TLS, or to this machine; bounded, and never led elsewhere.

use crate::tls::ClientTls;
use axum::body::Body;
use axum::http::{HeaderValue, Method, Request, Uri, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::io;
use std::net::IpAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

/// Bytes of an answer.
const LONGEST_ANSWER: usize = 256 * 1024;
/// Bytes of the head of an answer.
const LONGEST_HEAD: usize = 64 * 1024;
/// How long all of a request may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// A URL that may be asked: https, or http on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    is_secure: bool,
    host: String,
    port: u16,
    authority: String,
    path: String,
}

impl Endpoint {
    /// `None`: it is no URL, or one that may not be asked.
    pub fn parse(url: &str) -> Option<Self> {
        let uri = url.parse::<Uri>().ok().filter(|_| !url.contains('#'))?;
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let is_secure = match uri.scheme_str()? {
            "https" => true,
            "http" if is_here(&host) => false,
            _ => return None,
        };
        let port = authority.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        (!host.is_empty()).then(|| Self {
            is_secure,
            host,
            port,
            authority: authority.as_str().to_owned(),
            path,
        })
    }

    /// The whole URL.
    pub(super) fn url(&self) -> String {
        let scheme = if self.is_secure { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority, self.path)
    }
}

/// The host is this machine, by its name.
fn is_here(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(is_loopback)
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// Why there is no answer. Nothing in it is of the request.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error("it cannot be reached: {0}")]
    Connection(#[from] io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("HTTP status {0}")]
    Status(u16),
    #[error("the answer is longer than {LONGEST_ANSWER} bytes, or was cut off")]
    Body,
    #[error("no answer in {DEADLINE:?}")]
    Late,
    #[error("the answer is not what was asked for")]
    Unreadable,
}

/// Asks one issuer.
pub(super) struct IssuerClient(ClientTls);

impl IssuerClient {
    pub(super) fn new(tls: ClientTls) -> Self {
        Self(tls)
    }

    /// The body of an answer with status 200.
    pub(super) async fn get(&self, at: &Endpoint) -> Result<Bytes, ClientError> {
        self.ask(at, Method::GET, Body::empty(), None).await
    }

    /// The body of an answer with status 200 to a form. `authorization`: a header.
    pub(super) async fn post_form(
        &self,
        at: &Endpoint,
        form: &Zeroizing<String>,
        authorization: Option<HeaderValue>,
    ) -> Result<Bytes, ClientError> {
        self.ask(at, Method::POST, Body::from(form.as_str().to_owned()), authorization).await
    }

    async fn ask(
        &self,
        at: &Endpoint,
        method: Method,
        body: Body,
        authorization: Option<HeaderValue>,
    ) -> Result<Bytes, ClientError> {
        let mut request = Request::new(body);
        let headers = request.headers_mut();
        let host = HeaderValue::from_str(&at.authority).map_err(|_| ClientError::Unreadable)?;
        headers.insert(header::HOST, host);
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        if method == Method::POST {
            let form = HeaderValue::from_static("application/x-www-form-urlencoded");
            headers.insert(header::CONTENT_TYPE, form);
        }
        if let Some(authorization) = authorization {
            headers.insert(header::AUTHORIZATION, authorization);
        }
        *request.method_mut() = method;
        *request.uri_mut() = at.path.parse().map_err(|_| ClientError::Unreadable)?;
        let answering = async {
            let stream = TcpStream::connect((at.host.as_str(), at.port)).await?;
            if at.is_secure {
                let stream = self.0.connect(&at.host, stream, &[b"http/1.1"]).await?;
                return exchange(stream, request).await;
            }
            // Whatever the name stands for today.
            if !is_loopback(stream.peer_addr()?.ip()) {
                return Err(io::Error::from(io::ErrorKind::PermissionDenied).into());
            }
            exchange(stream, request).await
        };
        tokio::time::timeout(DEADLINE, answering).await.map_err(|_| ClientError::Late)?
    }
}

async fn exchange<S>(stream: S, request: Request<Body>) -> Result<Bytes, ClientError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder.max_buf_size(LONGEST_HEAD);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let answering = async {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        if status != 200 {
            return Err(ClientError::Status(status));
        }
        let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect().await;
        body.map(|body| body.to_bytes()).map_err(|_| ClientError::Body)
    };
    let answer = answering.await;
    connection.abort();
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_and_this_machine_may_be_asked() {
        for url in [
            "https://id.example.com/realms/desk?x=1",
            "https://192.0.2.1:8443/",
            "http://127.0.0.1:3000/jwks",
            "http://localhost",
            "http://[::1]:80/jwks",
        ] {
            let endpoint = Endpoint::parse(url).expect(url);
            assert_eq!(endpoint.url().trim_end_matches('/'), url.trim_end_matches('/'));
        }
        for url in [
            "http://id.example.com/",
            "http://127.0.0.1.example.com/",
            "http://192.0.2.1/",
            "ftp://127.0.0.1/",
            "https://user:password@id.example.com/",
            "https://id.example.com/#fragment",
            "/jwks",
            "file:///etc/passwd",
            "",
        ] {
            assert_eq!(Endpoint::parse(url), None, "{url}");
        }
    }
}
