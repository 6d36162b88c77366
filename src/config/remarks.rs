//! What an owner should be told of a configuration that is good.

use super::Config;
use crate::sip::config::Trunk;
use std::fmt;
use std::net::IpAddr;

/// Something that is allowed, and most likely not meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remark {
    /// A trunk is on another machine, and SIP listens where that cannot reach it.
    SipOnLoopback {
        /// The trunk.
        trunk: String,
    },
    /// A trunk is on another machine, and its sound is told to come where it cannot.
    MediaOnLoopback {
        /// The trunk.
        trunk: String,
        /// The address that it is told.
        address: IpAddr,
    },
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Remark::SipOnLoopback { trunk } => write!(
                f,
                "sip.listen: only this machine reaches it, and the trunk '{trunk}' is on another"
            ),
            Remark::MediaOnLoopback { trunk, address } => write!(
                f,
                "media.bind: the trunk '{trunk}' is on another machine, and its sound is told to \
                 come to {address}"
            ),
        }
    }
}

impl Config {
    /// What should be told of it.
    pub fn remarks(&self) -> Vec<Remark> {
        let is_sip_local = |trunk: &Trunk| {
            let listens = self.sip.listen.iter();
            let mut fitting = listens.filter(|listen| listen.protocol == trunk.protocol).peekable();
            fitting.peek().is_some() && fitting.all(|listen| listen.address.ip().is_loopback())
        };
        let told = self.media.advertised.unwrap_or(self.media.bind);
        let elsewhere = self.sip.trunks.iter().filter(|trunk| is_elsewhere(trunk));
        elsewhere
            .flat_map(|trunk| {
                let trunk_name = || trunk.name.clone();
                let sip =
                    is_sip_local(trunk).then(|| Remark::SipOnLoopback { trunk: trunk_name() });
                let media = told
                    .is_loopback()
                    .then(|| Remark::MediaOnLoopback { trunk: trunk_name(), address: told });
                [sip, media].into_iter().flatten()
            })
            .collect()
    }
}

/// The trunk is on another machine, as far as its target says.
fn is_elsewhere(trunk: &Trunk) -> bool {
    let Some((host, _)) = Trunk::host_and_port(&trunk.target, trunk.protocol) else {
        return false;
    };
    match host.parse::<IpAddr>() {
        Ok(ip) => !ip.is_loopback(),
        Err(_) => !host.eq_ignore_ascii_case("localhost"),
    }
}
