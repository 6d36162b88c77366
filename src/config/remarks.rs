//! What is right in a configuration and gives something up, or is most likely not meant.

use super::reader::Finding;
use super::sections::Sections;
use crate::attach::NumberRange;
use crate::sip::config::{AssertedIdentity, HandedOn, Trunk, TrunkTarget};
use crate::sip::flow::Protocol;
use std::net::IpAddr;

/// What is given up, with its place.
pub(super) fn of(sections: &Sections) -> Vec<Finding> {
    let mut found = Vec::new();
    for (place, (trunk, _)) in sections.trunks.iter().enumerate() {
        let mut find = |key: &str, message| {
            let path = ["sip", "trunk", &place.to_string(), key].map(str::to_owned).to_vec();
            found.push(Finding { path, message });
        };
        let (name, devices) = (&trunk.name, devices_behind(trunk, sections));
        if trunk.handed_on == HandedOn::Refuse {
            let message = format!(
                "nobody is coached, and nobody coaches, at the {devices} devices behind '{name}': \
                 it may hand a call on without saying so"
            );
            find("handed_on", message);
        }
        if trunk.identity == AssertedIdentity::From && devices > 0 {
            let message = format!(
                "a caller outside that shows the number of one of the {devices} devices behind \
                 '{name}' is taken for it, and hears its supervisor, unless '{name}' keeps such a \
                 number out of From; \"pai\" needs P-Asserted-Identity"
            );
            find("identity", message);
        }
    }
    found.extend(unreachable(sections));
    found.extend(ambiguous_prefixes(sections));
    found
}

/// How many devices are behind a trunk.
fn devices_behind(trunk: &Trunk, sections: &Sections) -> usize {
    let is_behind = |via: Option<&str>| via == Some(trunk.name.as_str());
    let devices = sections.devices.iter();
    let devices = devices.filter(|(account, _)| is_behind(account.via.as_deref())).count();
    let ranged = sections.ranges.iter().filter(|range| is_behind(Some(&range.via)));
    devices + ranged.map(|range| range.devices().map_or(0, |it| it.len())).sum::<usize>()
}

/// Prefixes of a trunk that begin the number of a device behind it. Here the device is called; what
/// its switch makes of numbers that are no device's may be another phone or the carrier.
fn ambiguous_prefixes(sections: &Sections) -> Vec<Finding> {
    let mut found = Vec::new();
    for (place, (trunk, _)) in sections.trunks.iter().enumerate() {
        for prefix in trunk.prefixes.iter().filter(|prefix| !prefix.is_empty()) {
            let devices = sections.devices.iter().map(|(account, _)| account);
            let devices = devices.filter(|account| account.via.as_ref() == Some(&trunk.name));
            let named = devices.map(|account| account.number.as_str());
            let named = named.filter(|number| number.starts_with(prefix.as_str()));
            let ranges = sections.ranges.iter().filter(|range| range.via == trunk.name);
            let ranged = ranges.filter_map(|range| {
                let range = format!("{}-{}", range.first, range.last).parse::<NumberRange>();
                range.ok()?.first_with(prefix)
            });
            if let Some(number) = named.map(str::to_owned).chain(ranged).next() {
                let name = &trunk.name;
                found.push(Finding {
                    path: ["sip", "trunk", &place.to_string(), "prefixes"]
                        .map(str::to_owned)
                        .to_vec(),
                    message: format!(
                        "'{prefix}' does not tell numbers outside from {number}, which is behind \
                         '{name}'"
                    ),
                });
            }
        }
    }
    found
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
