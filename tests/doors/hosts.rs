//! Requests for another host: pages of a foreign site that has its own name point to us.

use crate::support::frames::{self, END_HEADERS, END_STREAM, HEADERS, frame, greeting};
use crate::support::process::Process;
use crate::support::server::{AGENT, directory};
use crate::support::talk::PATIENCE;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

fn basic() -> String {
    format!("Basic {}", STANDARD.encode(format!("{}:{}", AGENT.user, AGENT.password)))
}

/// The same three ways in over HTTP/1.1: a route, a poll on the fast path, an upgrade.
fn requests(host: &str) -> Vec<(&'static str, String)> {
    let basic = basic();
    let body = serde_json::json!([{
        "channel": "/meta/handshake", "version": "1.0",
        "supportedConnectionTypes": ["long-polling"],
    }])
    .to_string();
    vec![
        (
            "route",
            format!(
                "GET /api/v2/me HTTP/1.1\r\n{host}Authorization: {basic}\r\n\
                 Connection: close\r\n\r\n"
            ),
        ),
        (
            "poll",
            format!(
                "POST /api/v2/notifications HTTP/1.1\r\n{host}Authorization: {basic}\r\n\
                 Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ),
        ),
        (
            "websocket",
            format!(
                "GET /api/v2/notifications HTTP/1.1\r\n{host}Authorization: {basic}\r\n\
                 Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            ),
        ),
    ]
}

/// The status, and the rest of what comes with it.
async fn ask(rest: SocketAddr, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(rest).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let reading = async {
        let mut answer = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&answer).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| {
                    line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok()
                });
                if body.len() >= length.unwrap_or(0) {
                    return text;
                }
            }
            assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "{text}");
        }
    };
    let text = timeout(PATIENCE, reading).await.unwrap();
    (text[9..12].parse().unwrap(), text)
}

/// The status of `GET /api/v2/me` over HTTP/2 for this host.
async fn ask_h2(rest: SocketAddr, authority: &str) -> String {
    let mut block = Vec::new();
    let basic = basic();
    for (name, value) in [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/api/v2/me"),
        (":authority", authority),
        ("authorization", &basic),
    ] {
        block.push(0);
        for text in [name, value] {
            block.push(text.len() as u8);
            block.extend(text.bytes());
        }
    }
    let mut stream = TcpStream::connect(rest).await.unwrap();
    let head = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block);
    stream.write_all(&[greeting(), head].concat()).await.unwrap();
    let reading = async {
        while let Some((kind, _, _, payload)) = frames::next(&mut stream).await {
            if kind == HEADERS {
                // RFC 7541 appendix A: 8 is ":status: 200"; another stands as it is, or by Huffman.
                return if payload[0] == 0x88 { "200" } else { "refused" };
            }
        }
        "closed"
    };
    timeout(PATIENCE, reading).await.unwrap().to_owned()
}

async fn serve(place: &std::path::Path, rest: &str) -> Process {
    let config = format!(
        "[rest]\nbind = '127.0.0.1:0'\n{rest}\n[grpc]\nbind = '127.0.0.1:0'\n[admin]\n\
         bind = '127.0.0.1:0'\n[sip]\nlisten = ['udp:127.0.0.1:0', 'tcp:127.0.0.1:0']\n{}",
        directory()
    );
    let process = Process::start("serve", place, &config).await;
    process.ready().await;
    process
}

async fn admits(process: &Process, host: &str) {
    let rest = process.door("rest");
    for (way, request) in requests(&format!("Host: {host}\r\n")) {
        let (status, text) = ask(rest, &request).await;
        assert_eq!(status, if way == "websocket" { 101 } else { 200 }, "{way} {host}: {text}");
    }
    assert_eq!(ask_h2(rest, host).await, "200", "{host}");
}

async fn refuses(process: &Process, host: &str) {
    let rest = process.door("rest");
    for (way, request) in requests(host) {
        let (status, text) = ask(rest, &request).await;
        assert_eq!(status, 421, "{way} {host}: {text}");
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["statusCode"], 10, "{way}: {body}");
        assert!(!head.to_ascii_lowercase().contains("set-cookie"), "{way}: {head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_loopback_a_foreign_name_is_refused_on_every_way_in() {
    let place = tempfile::tempdir().unwrap();
    let process = serve(place.path(), "").await;
    let rest = process.door("rest");
    for host in [rest.to_string(), format!("localhost:{}", rest.port()), "[::1]:1".into()] {
        admits(&process, &host).await;
    }
    for host in ["Host: rebound.example\r\n", "Host: 192.0.2.1\r\n", "Host:\r\n", ""] {
        refuses(&process, host).await;
    }
    assert_eq!(ask_h2(rest, "rebound.example").await, "refused");
    // A foreign target, though the field is ours (RFC 9112 3.2.2).
    let request = "GET http://rebound.example/api/v2/diagnostics/version HTTP/1.1\r\n\
                   Host: localhost\r\n\r\n";
    assert_eq!(ask(rest, request).await.0, 421);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_the_configuration_and_of_the_public_url_are_ours_and_behind_a_proxy_any_is() {
    let place = tempfile::tempdir().unwrap();
    let named = "public_url = 'https://desk.example.com'\nhosts = ['calls.example.com']";
    let process = serve(place.path(), named).await;
    for host in ["desk.example.com", "calls.example.com:8443"] {
        admits(&process, host).await;
    }
    refuses(&process, "Host: localhost\r\n").await;
    drop(process);
    let place = tempfile::tempdir().unwrap();
    let process = serve(place.path(), "trusted_proxies = ['127.0.0.1']").await;
    admits(&process, "whatever.example.com").await;
    drop(process);
    let place = tempfile::tempdir().unwrap();
    let both = "trusted_proxies = ['127.0.0.1']\nhosts = ['desk.example.com']";
    let process = serve(place.path(), both).await;
    admits(&process, "desk.example.com").await;
    refuses(&process, "Host: rebound.example\r\n").await;
}
