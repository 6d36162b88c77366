//! What of a configuration this machine cannot do now. Only `undertone check` asks: a process finds
//! it out by starting.

use super::reader::Finding;
use super::sections::Sections;
use crate::media::engine::{self, MediaError};
use nix::errno::Errno;
use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};

/// Addresses that are another machine's, and RTP ports of which none can be opened.
pub(super) fn findings(sections: &Sections) -> Vec<Finding> {
    let tcp = sections
        .addresses()
        .into_iter()
        .map(|(section, key, address)| (vec![section.to_owned(), key.to_owned()], address.ip()));
    let sip = sections.sip.listen.iter().enumerate().map(|(number, listen)| {
        let path = ["sip", "listen", &number.to_string()].map(str::to_owned);
        (path.into(), listen.address.ip())
    });
    let foreign = |(path, ip): (Vec<String>, IpAddr)| {
        is_foreign(ip).then(|| Finding { path, message: no_such_address(ip) })
    };
    tcp.chain(sip).filter_map(foreign).chain(sound(sections)).collect()
}

fn sound(sections: &Sections) -> Option<Finding> {
    let media = &sections.media;
    let error = engine::can_open(media).err()?;
    let (key, message) = match error {
        MediaError::NoPorts => ("ports", format!("no two of them are free on {}", media.bind)),
        MediaError::Socket(errno) if Errno::from_raw(errno) == Errno::EADDRNOTAVAIL => {
            ("bind", no_such_address(media.bind))
        }
        MediaError::Socket(_)
        | MediaError::NoDescriptors
        | MediaError::TooManyLegs
        | MediaError::LegExists
        | MediaError::Stopping => ("bind", format!("no RTP port can be opened: {error}")),
    };
    Some(Finding { path: vec!["media".to_owned(), key.to_owned()], message })
}

/// No socket of this machine can be bound to it.
fn is_foreign(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_err_and(|error| error.kind() == ErrorKind::AddrNotAvailable)
}

fn no_such_address(ip: IpAddr) -> String {
    format!("this machine does not have the address {ip}")
}
