//! A real Kamailio.

use super::site::Network;
use std::net::SocketAddr;
use undertone::attach::Attachment;

pub struct Kamailio;

impl Kamailio {
    pub async fn start(_: &Attachment, _: Network, _: SocketAddr) -> Kamailio {
        panic!("not yet")
    }
}
