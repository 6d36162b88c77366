//! From a number to where it rings.

use crate::media::Codec;
use crate::model::{DeviceId, Network, Number};
use crate::sip::config::{HandedOn, Nat, Referrals, SipAccount, SipConfig, Trunk, TrunkHold};
use crate::sip::sdp::SrtpPolicy;
use std::collections::BTreeMap;

/// What an account is used for. The hearing follows from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccountKind {
    /// A telephone of an agent or a supervisor: an internal device.
    #[default]
    #[serde(rename = "house")]
    Internal,
    /// A customer's account. It may call devices only, and nobody monitors it.
    Customer,
}

/// An account and its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// The device of the extension.
    pub device: DeviceId,
    /// The number of the extension.
    pub number: Number,
    /// What a switch that its phone is at may call it besides, as a connected identity. No call is
    /// routed by them.
    pub aliases: Vec<Number>,
    /// The trunk that it is behind; `None`: its phones register here.
    pub via: Option<String>,
    /// What it is used for.
    pub kind: AccountKind,
    /// Whether it is behind a NAT.
    pub nat: Nat,
    /// It has a pair of ports of its own for each call even where legs share them: it may send the
    /// sound of several calls from one port.
    pub own_ports: bool,
    /// Whether its media is encrypted.
    pub srtp: SrtpPolicy,
}

/// A trunk and the numbers it takes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrunkRoute {
    /// The name of the trunk.
    pub name: String,
    /// The numbers it takes out begin with one of these; an empty one fits every number. None: it
    /// only brings calls in.
    pub prefixes: Vec<String>,
    /// The codecs it may use, best first. Empty, or none that we have: all of ours.
    pub codecs: Vec<Codec>,
    /// More calls at once over it are refused; `None`: as many as there may be at all.
    pub max_calls: Option<usize>,
    /// Whether it is behind a NAT.
    pub nat: Nat,
    /// Its own hosts: where its requests come from and ours go.
    pub hosts: Vec<Network>,
    /// Where its sound may be besides; none: not said.
    pub media_sources: Vec<Network>,
    /// It has a pair of ports of its own for each call even where legs share them: it may send the
    /// sound of several calls from one port.
    pub own_ports: bool,
    /// Whether its media is encrypted.
    pub srtp: SrtpPolicy,
    /// Whether it says that it has handed a leg on.
    pub handed_on: HandedOn,
    /// It is told when its party is on hold.
    pub signals_hold: bool,
    /// Its party may be replaced by a number, at its own wish (RFC 3515).
    pub follows_referrals: bool,
}

/// Every internal number, and the trunks that lead outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbering {
    extensions: BTreeMap<Number, Extension>,
    /// The number of the extension that has an alias.
    aliases: BTreeMap<Number, Number>,
    trunks: Vec<TrunkRoute>,
}

/// Where a number leads before anything about the device is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NumberOwner<'a> {
    /// An account of ours.
    Extension(&'a Extension),
    /// A number that a trunk takes.
    Trunk(&'a TrunkRoute),
}

impl Numbering {
    /// Of the accounts and trunks that are configured.
    pub fn of(sip: &SipConfig) -> Self {
        let extensions = sip.accounts.iter().map(Extension::of);
        Self::new(extensions, sip.trunks.iter().map(TrunkRoute::of).collect())
    }

    /// Of accounts and trunks. Of two accounts with one number the later counts; the trunk with the
    /// longest fitting prefix takes a call, the first of equals.
    pub fn new(extensions: impl IntoIterator<Item = Extension>, trunks: Vec<TrunkRoute>) -> Self {
        let extensions: BTreeMap<Number, Extension> =
            extensions.into_iter().map(|extension| (extension.number.clone(), extension)).collect();
        let of = |extension: &Extension| {
            let number = extension.number.clone();
            extension.aliases.clone().into_iter().map(move |alias| (alias, number.clone()))
        };
        Self { aliases: extensions.values().flat_map(of).collect(), extensions, trunks }
    }

    /// Takes an account, in the place of the one of its number.
    pub(super) fn insert(&mut self, extension: Extension) {
        for alias in &extension.aliases {
            self.aliases.insert(alias.clone(), extension.number.clone());
        }
        self.extensions.insert(extension.number.clone(), extension);
    }

    /// Forgets an account, unless its number has passed to another device.
    pub(super) fn remove(&mut self, extension: &Extension) {
        for alias in &extension.aliases {
            if self.aliases.get(alias) == Some(&extension.number) {
                self.aliases.remove(alias);
            }
        }
        let has_it = |now: &Extension| now.device == extension.device;
        if self.extensions.get(&extension.number).is_some_and(has_it) {
            self.extensions.remove(&extension.number);
        }
    }

    /// Other trunks from now on. One that is gone takes no number out; the legs that are still with
    /// it keep what holds for its media. `is_used`: there are such legs.
    pub(super) fn change_trunks(
        &mut self,
        trunks: Vec<TrunkRoute>,
        is_used: impl Fn(&TrunkRoute) -> bool,
    ) {
        let before = std::mem::replace(&mut self.trunks, trunks);
        for former in before.into_iter().filter(is_used) {
            if self.trunk(&former.name).is_none() {
                self.trunks.push(TrunkRoute { prefixes: Vec::new(), ..former });
            }
        }
    }

    /// The account that a number or an alias names.
    pub(super) fn named(&self, name: &Number) -> Option<&Extension> {
        let number = self.aliases.get(name).unwrap_or(name);
        self.extensions.get(name).or_else(|| self.extensions.get(number))
    }

    /// Every account, by number.
    pub fn extensions(&self) -> impl Iterator<Item = &Extension> {
        self.extensions.values()
    }

    pub(super) fn find(&self, number: &Number) -> Option<NumberOwner<'_>> {
        if let Some(extension) = self.extensions.get(number) {
            return Some(NumberOwner::Extension(extension));
        }
        let fitting = self.trunks.iter().filter_map(|trunk| Some((trunk.fits(number)?, trunk)));
        fitting.rev().max_by_key(|(length, _)| *length).map(|(_, trunk)| NumberOwner::Trunk(trunk))
    }

    pub(super) fn trunk_mut(&mut self, name: &str) -> Option<&mut TrunkRoute> {
        self.trunks.iter_mut().find(|trunk| trunk.name == name)
    }

    pub(super) fn trunk(&self, name: &str) -> Option<&TrunkRoute> {
        self.trunks.iter().find(|trunk| trunk.name == name)
    }
}

impl Extension {
    /// What the dial plan has of an account.
    pub fn of(account: &SipAccount) -> Self {
        Self {
            device: account.device.clone(),
            number: account.number.clone(),
            // The user agent knows what a switch calls what is behind it.
            aliases: account.aliases.iter().filter(|_| account.via.is_none()).cloned().collect(),
            via: account.via.clone(),
            kind: account.kind,
            nat: account.nat,
            own_ports: account.own_ports,
            srtp: account.srtp,
        }
    }
}

impl Extension {
    /// What the world outside calls it: its first alias in international form, else its number.
    pub(super) fn public_number(&self) -> &Number {
        let outside = self.aliases.iter().find(|alias| alias.as_str().starts_with('+'));
        outside.unwrap_or(&self.number)
    }
}

impl TrunkRoute {
    /// What the dial plan has of a trunk.
    pub fn of(trunk: &Trunk) -> Self {
        Self {
            name: trunk.name.clone(),
            prefixes: trunk.prefixes.clone(),
            codecs: trunk.codecs.clone(),
            max_calls: trunk.max_calls,
            nat: trunk.nat,
            hosts: trunk.hosts(),
            media_sources: trunk.media_sources.clone(),
            own_ports: trunk.own_ports,
            srtp: trunk.srtp,
            handed_on: trunk.handed_on,
            signals_hold: trunk.hold == TrunkHold::Signal,
            follows_referrals: trunk.refer == Referrals::Follow,
        }
    }

    /// The length of the longest prefix that fits.
    fn fits(&self, number: &Number) -> Option<usize> {
        let fitting =
            self.prefixes.iter().filter(|prefix| number.as_str().starts_with(prefix.as_str()));
        fitting.map(String::len).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbering() -> Numbering {
        let desk = Extension {
            device: "d1".into(),
            number: "5001".into(),
            aliases: Vec::new(),
            via: None,
            kind: AccountKind::Internal,
            nat: Nat::Auto,
            own_ports: false,
            srtp: SrtpPolicy::Off,
        };
        let trunk = |name: &str, prefix: &str| TrunkRoute {
            name: name.into(),
            prefixes: vec![prefix.into()],
            codecs: Vec::new(),
            max_calls: None,
            nat: Nat::Auto,
            hosts: Vec::new(),
            media_sources: Vec::new(),
            own_ports: false,
            srtp: SrtpPolicy::Off,
            handed_on: HandedOn::Told,
            signals_hold: false,
            follows_referrals: false,
        };
        Numbering::new(
            [desk],
            vec![trunk("city", "0"), trunk("site", "6"), trunk("world", "00"), trunk("moon", "00")],
        )
    }

    fn place(number: &str) -> Option<String> {
        numbering().find(&number.into()).map(|place| match place {
            NumberOwner::Extension(extension) => extension.device.to_string(),
            NumberOwner::Trunk(trunk) => trunk.name.clone(),
        })
    }

    #[test]
    fn a_number_of_ours_comes_first_then_the_trunk_with_the_longest_prefix() {
        assert_eq!(place("5001").as_deref(), Some("d1"));
        assert_eq!(place("0049").as_deref(), Some("world"));
        assert_eq!(place("049").as_deref(), Some("city"));
        assert_eq!(place("6123").as_deref(), Some("site"));
        assert_eq!(place("7"), None);
        assert_eq!(place(""), None);
    }
}
