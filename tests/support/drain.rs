//! The door by which a process takes no new calls, and what others see of that.

use super::process::{ANY, Process};
use super::rest_client::http_client;
use super::talk::PATIENCE;
use reqwest::Method;
use serde_json::Value;
use std::net::SocketAddr;
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// What a SIP backend answers to an OPTIONS of a stranger.
pub(crate) async fn asked_by_options(sip: SocketAddr, name: &str) -> String {
    let socket = UdpSocket::bind(ANY).await.unwrap();
    let address = socket.local_addr().unwrap();
    let options = format!(
        "OPTIONS sip:{sip} SIP/2.0\r\nVia: SIP/2.0/UDP {address};branch=z9hG4bK{name};rport\r\n\
         Max-Forwards: 70\r\nFrom: <sip:x@{address}>;tag=x\r\nTo: <sip:{sip}>\r\n\
         Call-ID: {name}\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    );
    socket.send_to(options.as_bytes(), sip).await.unwrap();
    let mut answer = vec![0; 4096];
    let read = timeout(PATIENCE, socket.recv(&mut answer)).await.unwrap().unwrap();
    String::from_utf8(answer[..read].to_vec()).unwrap()
}

/// What a process says of its drain when this is asked there: status and JSON.
pub(crate) async fn drain(process: &Process, method: Method, origin: Option<&str>) -> (u16, Value) {
    let url = format!("http://{}/drain", process.door("admin"));
    let mut asked = http_client().request(method, url);
    if let Some(origin) = origin {
        asked = asked.header("Origin", origin);
    }
    let answer = asked.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap_or_default())
}
