//! What is right in a configuration and gives something up, or is most likely not meant.

use super::reader::Finding;
use super::sections::Sections;
use crate::sip::config::{HandedOn, Trunk, TrunkTarget};
use crate::sip::flow::Protocol;
use std::net::IpAddr;

/// What is given up, with its place.
pub(super) fn of(sections: &Sections) -> Vec<Finding> {
    let trunks = sections.trunks.iter().enumerate();
    let refusing = trunks.filter(|(_, (trunk, _))| trunk.handed_on == HandedOn::Refuse);
    let remark = |(place, (trunk, _)): (usize, &(Trunk, _))| {
        let is_behind = |via: Option<&str>| via == Some(trunk.name.as_str());
        let devices = sections.devices.iter();
        let devices = devices.filter(|(account, _)| is_behind(account.via.as_deref())).count();
        let ranged = sections.ranges.iter().filter(|range| is_behind(Some(&range.via)));
        let ranged: usize = ranged.map(|range| range.devices().map_or(0, |it| it.len())).sum();
        Finding {
            path: ["sip", "trunk", &place.to_string(), "handed_on"].map(str::to_owned).to_vec(),
            message: format!(
                "nobody is coached, and nobody coaches, at the {} devices behind '{}': it may hand \
                 a call on without saying so",
                devices + ranged,
                trunk.name
            ),
        }
    };
    refusing.map(remark).chain(unreachable(sections)).collect()
}

/// Trunks on other machines that reach nothing of ours.
fn unreachable(sections: &Sections) -> Vec<Finding> {
    let told = sections.media.advertised.unwrap_or(sections.media.bind);
    let mut found = Vec::new();
    for (place, (_, keys)) in sections.trunks.iter().enumerate() {
        let targets = keys.targets().into_iter().filter_map(|(_, target)| target.ok());
        let elsewhere: Vec<TrunkTarget> = targets.filter(is_elsewhere).collect();
        let mut find = |message| {
            let path = ["sip", "trunk", &place.to_string(), "target"].map(str::to_owned).to_vec();
            found.push(Finding { path, message });
        };
        let is_deaf = |protocol: Protocol| {
            let listens = sections.sip.listen.iter();
            let mut fitting = listens.filter(|listen| listen.protocol == protocol).peekable();
            fitting.peek().is_some() && fitting.all(|listen| listen.address.ip().is_loopback())
        };
        if elsewhere.iter().any(|target| is_deaf(target.protocol)) {
            find("is on another machine, and sip.listen is reached from this one only".to_owned());
        }
        if !elsewhere.is_empty() && told.is_loopback() {
            let message = format!("is on another machine, and its sound is told to come to {told}");
            find(message + " (media.bind)");
        }
    }
    found
}

/// It is on another machine, as far as it says.
fn is_elsewhere(target: &TrunkTarget) -> bool {
    match target.host.parse::<IpAddr>() {
        Ok(ip) => !ip.is_loopback(),
        Err(_) => !target.host.eq_ignore_ascii_case("localhost"),
    }
}
