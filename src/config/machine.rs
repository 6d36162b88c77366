//! What of a configuration this machine cannot do now. Only `undertone check` asks: a process finds
//! it out by starting.

use super::reader::Finding;
use super::sections::Sections;
use crate::http::identity::IssuerConfig;
use crate::media::engine::{self, MediaError};
use crate::sip::flow::Protocol;
use crate::telephony::callers;
use crate::tls::{Alpn, ClientTls, ClientTlsFiles, ServerTls, ServerTlsFiles};
use nix::errno::Errno;
use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::path::PathBuf;

/// Addresses that are another machine's, and RTP ports of which none can be opened.
pub(super) fn findings(sections: &Sections) -> Vec<Finding> {
    let tcp = sections
        .addresses()
        .into_iter()
        .map(|tcp| (vec![tcp.section.to_owned(), tcp.key.to_owned()], tcp.address.ip()));
    let sip = sections.sip.listen.iter().enumerate().map(|(number, listen)| {
        let path = ["sip", "listen", &number.to_string()].map(str::to_owned);
        (path.into(), listen.address.ip())
    });
    let foreign = |(path, ip): (Vec<String>, IpAddr)| {
        is_foreign(ip).then(|| Finding { path, message: no_such_address(ip) })
    };
    tcp.chain(sip)
        .filter_map(foreign)
        .chain(certificates(sections))
        .chain(tokens(sections))
        .chain(issuers(sections))
        .chain(sound(sections))
        .chain(music(sections))
        .collect()
}

/// Pairs that no door can present now.
fn certificates(sections: &Sections) -> impl Iterator<Item = Finding> {
    let wrong = |(prefix, files): (&str, Option<ServerTlsFiles>)| {
        let error = ServerTls::load("check", files?, Alpn::Http).err()?;
        let key = match (prefix, sections.tls.pairs().into_iter().find(|p| p.name == prefix)) {
            (_, Some(own)) if own.certificate.is_some() => format!("{prefix}certificate"),
            (_, Some(_) | None) => "certificate".to_owned(),
        };
        Some(Finding { path: vec!["tls".to_owned(), key], message: error.to_string() })
    };
    let doors = ["rest_", "grpc_", "admin_", "sip_"].map(|name| (name, sections.tls.door(name)));
    let findings: Vec<Finding> = doors.into_iter().filter_map(wrong).collect();
    let trunks = sections.trunks.iter().any(|(_, keys)| keys.speaks(Protocol::Tls));
    let sip = ClientTls::new(sections.tls.sip_client());
    let sip = trunks.then(|| sip.config(&[]).err()).flatten().map(|error| Finding {
        path: vec!["tls".to_owned(), "sip_authorities".to_owned()],
        message: error.to_string(),
    });
    let backend = ClientTls::new(sections.tls.backend()).config(&[]).err().map(|error| Finding {
        path: vec!["tls".to_owned(), "backend_authorities".to_owned()],
        message: error.to_string(),
    });
    findings.into_iter().chain(sip).chain(backend)
}

/// Token files that cannot be used now. That of the state directory is made at the first start.
fn tokens(sections: &Sections) -> impl Iterator<Item = Finding> {
    let callers = sections.callers.iter().enumerate().map(|(number, caller)| {
        let path = ["grpc", "caller", &number.to_string(), "token_file"].map(str::to_owned);
        (path.to_vec(), caller.token_file.clone())
    });
    let backend =
        (vec!["backend_token_file".to_owned()], sections.process.backend_token_file.clone());
    let wrong = |(path, file): (Vec<String>, Option<PathBuf>)| {
        let error = callers::check_token_file(&file?).err()?;
        Some(Finding { path, message: error.to_string() })
    };
    let findings: Vec<Finding> = callers.chain([backend]).filter_map(wrong).collect();
    findings.into_iter()
}

/// Authorities of issuers that cannot be used now.
fn issuers(sections: &Sections) -> impl Iterator<Item = Finding> {
    let wrong = |(number, issuer): (usize, &IssuerConfig)| {
        let finding = |key: &str, message: String| Finding {
            path: ["identity", "issuer", &number.to_string(), key].map(str::to_owned).to_vec(),
            message,
        };
        let files = ClientTlsFiles { authorities: issuer.authorities.clone(), pair: None };
        let authorities = ClientTls::new(files).config(&[]).err();
        authorities.map(|error| finding("authorities", error.to_string()))
    };
    let findings: Vec<Finding> = sections.issuers.iter().enumerate().filter_map(wrong).collect();
    findings.into_iter()
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

fn music(sections: &Sections) -> Option<Finding> {
    let error = engine::read_music(sections.media.music.as_deref()?).err()?;
    let path = vec!["media".to_owned(), "music".to_owned()];
    Some(Finding { path, message: error.to_string() })
}

/// No socket of this machine can be bound to it.
fn is_foreign(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_err_and(|error| error.kind() == ErrorKind::AddrNotAvailable)
}

fn no_such_address(ip: IpAddr) -> String {
    format!("this machine does not have the address {ip}")
}
