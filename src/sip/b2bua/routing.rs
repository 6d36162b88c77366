//! Where a number leads: dial rules, forwarding, redirections by a phone, and the loops that these
//! can make.
//!
//! ```text
//! dialled ──▶ extension ──▶ forwarded ──▶ extension ──▶ its phone
//!    ▲            │             └───────▶ trunk
//!    └────────────┴── 302 of its phone
//! ```
//!
//! A called leg knows every number that led to it, those before the call came back to us included.
//! One that is asked for twice is a loop, whatever stands between: a proxy, a B2BUA, forwarding, a
//! redirection.

use super::call_table::CallTable;
use super::media_address::Reachability;
use super::numbering::{Extension, NumberOwner};
use super::party::Party;
use super::rejection::Rejection;
use super::{
    B2buaConfig, DeviceState, MediaPolicy, Numbering, RestoredDevice, TrunkRoute, role_of,
};
use crate::media::Codec;
use crate::model::{DeviceId, Number, PartyRole, Reason, Refusal};
use crate::sip::b2bua::AccountKind;
use crate::sip::config::HandedOn;
use crate::sip::leg::{
    ANONYMOUS, Destination, Diversion, DiversionReason, Identity, LegId, LegSource,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Numbers that one call is sent to, one after the other. No telephone system forwards so often.
const LONGEST_TRAIL: usize = 20;

/// The calling party as the dial plan sees it.
pub(super) struct CallingParty {
    pub(super) device: Option<DeviceId>,
    pub(super) role: PartyRole,
    pub(super) policy: MediaPolicy,
}

/// The called party, after forwarding.
pub(super) struct CalledParty {
    pub(super) number: Number,
    pub(super) role: PartyRole,
    pub(super) policy: MediaPolicy,
    pub(super) to: Destination,
    /// The way that led there.
    pub(super) trail: Trail,
    /// The party whose REFER has asked for it.
    pub(super) referred_by: Option<Identity>,
}

/// The way of a call through numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct Trail {
    /// Every number that it was sent to.
    pub(super) numbers: BTreeSet<Number>,
    /// The devices that have sent it on, by forwarding or by a redirection of their phones.
    pub(super) forwarded_by: BTreeSet<DeviceId>,
    /// Their numbers and why, the last one last.
    pub(super) diversions: Vec<Diversion>,
}

/// Why a caller does not get where it wants to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unroutable {
    /// Nobody has the number, and no trunk takes it.
    #[error("no such number")]
    NoSuchNumber,
    /// A trunk would take it, and this caller may not call out.
    #[error("may not call out")]
    MayNotCallOut,
    /// The trunk carries as many calls as it may.
    #[error("the trunk is full")]
    TrunkFull,
    /// The device is on as many calls as it may be.
    #[error("the device is on as many calls as it may be")]
    DeviceFull,
    /// The device has sent on as many calls that live as it may have.
    #[error("the device has forwarded as many calls as it may")]
    ForwardedTooOften,
    /// The number was asked for before on the way of this call.
    #[error("loop")]
    Loop,
    /// The same caller is on its way there by the same trunk.
    #[error("the same caller is on its way there already")]
    Repeated,
    /// The device wants no calls.
    #[error("do-not-disturb")]
    DoNotDisturb,
    /// No phone is registered for the device.
    #[error("no phone is registered, or none answers OPTIONS")]
    NotRegistered,
    /// The device is on a call, and takes no second one.
    #[error("busy")]
    Busy,
    /// The device calls its own number.
    #[error("calls itself")]
    CallsItself,
}

impl Unroutable {
    /// What a SIP caller is told.
    pub fn sip_status(self) -> u16 {
        match self {
            Unroutable::NoSuchNumber => 404,
            Unroutable::MayNotCallOut => 403,
            Unroutable::TrunkFull => 503,
            Unroutable::Loop | Unroutable::Repeated => 482,
            Unroutable::NotRegistered => 480,
            Unroutable::DeviceFull
            | Unroutable::ForwardedTooOften
            | Unroutable::DoNotDisturb
            | Unroutable::Busy
            | Unroutable::CallsItself => 486,
        }
    }
}

/// The devices and trunks, what is set on them, and where a number leads.
pub(super) struct DialPlan {
    pub(super) config: Arc<B2buaConfig>,
    pub(super) numbering: Numbering,
    pub(super) devices: BTreeMap<DeviceId, DeviceState>,
    /// Devices that are known no more, for the legs that are still with them.
    pub(super) former: BTreeMap<DeviceId, DeviceState>,
}

impl DialPlan {
    /// The devices, with what was set on them before a restart.
    pub(super) fn new(
        config: Arc<B2buaConfig>,
        numbering: Numbering,
        restored: Vec<RestoredDevice>,
    ) -> Self {
        let mut devices: BTreeMap<DeviceId, DeviceState> = numbering
            .extensions()
            .map(|extension| (extension.device.clone(), DeviceState::new(extension.clone())))
            .collect();
        for set in restored {
            if let Some(device) = devices.get_mut(&set.device) {
                device.do_not_disturb = set.do_not_disturb;
                device.forward_to = set.forward_to;
            }
        }
        Self { config, numbering, devices, former: BTreeMap::new() }
    }

    pub(super) fn is_known(&self, device: &DeviceId) -> bool {
        self.devices.contains_key(device)
    }

    pub(super) fn policy_of_extension(&self, extension: &Extension) -> MediaPolicy {
        let trunk = extension.via.as_ref().and_then(|trunk| self.numbering.trunk(trunk));
        if let Some(trunk) = trunk {
            return self.policy_of_trunk(trunk);
        }
        MediaPolicy {
            reach: Reachability::Device(extension.nat),
            targets: Arc::clone(&self.config.targets),
            own_ports: extension.own_ports,
            srtp: extension.srtp,
            ipv6: self.config.media_over_ipv6,
            codecs: self.config.codecs.clone(),
            handed_on: HandedOn::Told,
            signals_hold: self.config.signal_hold,
        }
    }

    fn policy_of_trunk(&self, trunk: &TrunkRoute) -> MediaPolicy {
        let common: Vec<Codec> = trunk
            .codecs
            .iter()
            .copied()
            .filter(|codec| self.config.codecs.contains(codec))
            .collect();
        MediaPolicy {
            reach: Reachability::Trunk {
                nat: trunk.nat,
                hosts: trunk.hosts.clone(),
                media_sources: trunk.media_sources.clone(),
            },
            targets: Arc::clone(&self.config.targets),
            own_ports: trunk.own_ports,
            srtp: trunk.srtp,
            ipv6: self.config.media_over_ipv6,
            codecs: if common.is_empty() { self.config.codecs.clone() } else { common },
            handed_on: trunk.handed_on,
            signals_hold: trunk.signals_hold || self.config.signal_hold,
        }
    }

    pub(super) fn caller(&self, source: &LegSource) -> Option<CallingParty> {
        match source {
            LegSource::Account(id) => self.device(id).map(|device| CallingParty {
                device: Some(id.clone()),
                role: role_of(device.extension.kind),
                policy: self.policy_of_extension(&device.extension),
            }),
            LegSource::Trunk(name) => Some(CallingParty {
                device: None,
                role: PartyRole::Customer,
                policy: self.numbering.trunk(name).map(|trunk| self.policy_of_trunk(trunk))?,
            }),
        }
    }

    pub(super) fn device(&self, device: &DeviceId) -> Option<&DeviceState> {
        self.devices.get(device)
    }

    pub(super) fn known(&self, device: &DeviceId) -> Result<&DeviceState, Refusal> {
        self.device(device).ok_or_else(|| Refusal::no_device(device))
    }

    /// The number that others see of a device.
    pub(super) fn shown(&self, device: &DeviceId) -> Number {
        let extension = self.extension(device);
        extension.map_or_else(|| Number::from(""), |extension| extension.number.clone())
    }

    /// The leg is with a telephone of an agent or a supervisor, or with the switch that it is
    /// registered from.
    pub(super) fn is_internal(&self, peer: &LegSource) -> bool {
        match peer {
            LegSource::Account(device) => self
                .extension(device)
                .is_some_and(|extension| extension.kind == AccountKind::Internal),
            LegSource::Trunk(_) => false,
        }
    }

    /// The configuration says what the switch of a device calls it.
    pub(super) fn knows_names(&self, device: &DeviceId) -> bool {
        let is_behind = self.extension(device).is_some_and(|extension| extension.via.is_some());
        is_behind || self.has_aliases(device)
    }

    pub(super) fn has_aliases(&self, device: &DeviceId) -> bool {
        self.extension(device).is_some_and(|extension| !extension.aliases.is_empty())
    }

    /// The account of a device, known still or no more.
    fn extension(&self, device: &DeviceId) -> Option<&Extension> {
        let device = self.device(device).or_else(|| self.former.get(device));
        device.map(|device| &device.extension)
    }

    /// Nobody is coached at a device, or coaches from there, whose switch may hand its leg on
    /// without a word.
    pub(super) fn may_be_coached(&self, device: &DeviceId) -> Result<(), Refusal> {
        let via = self.extension(device).and_then(|extension| extension.via.as_ref());
        let trunk = via.and_then(|trunk| self.numbering.trunk(trunk));
        match trunk.map(|trunk| trunk.handed_on) {
            None | Some(HandedOn::Told) => Ok(()),
            Some(HandedOn::Refuse) => Err(Refusal::device(
                Reason::Forbidden,
                device,
                "Device '{}' is behind a switch that may hand its calls on to others without \
                 saying so (handed_on = \"refuse\"): nobody coaches there. Listening in and barging \
                 in are possible.",
            )),
        }
    }

    /// The trunk that a peer is, or is behind.
    pub(super) fn trunk_of<'a>(&'a self, peer: &'a LegSource) -> Option<&'a str> {
        match peer {
            LegSource::Account(device) => self.extension(device)?.via.as_deref(),
            LegSource::Trunk(name) => Some(name),
        }
    }

    /// Where a number leads for this caller.
    pub(super) fn route(
        &self,
        calls: &CallTable,
        caller: &CallingParty,
        dialled: &Number,
    ) -> Result<CalledParty, Unroutable> {
        self.route_on(calls, caller, dialled, Trail::default(), None)
    }

    /// Where a number leads that a device has dialled, or transfers a call to.
    pub(super) fn route_for(
        &self,
        calls: &CallTable,
        device: &DeviceId,
        dialled: &Number,
    ) -> Result<CalledParty, Rejection> {
        let caller = self.caller(&LegSource::Account(device.clone()));
        let caller = caller.ok_or(Rejection::UnknownCaller)?;
        Ok(self.route(calls, &caller, dialled)?)
    }

    /// Where a number leads that the party of a trunk is to be replaced by: to a device, or out by
    /// that trunk again.
    pub(super) fn route_referral(
        &self,
        calls: &CallTable,
        trunk: &LegSource,
        number: &Number,
    ) -> Result<CalledParty, Rejection> {
        let caller = self.caller(trunk).ok_or(Rejection::UnknownCaller)?;
        let own = self.trunk_of(trunk);
        let role = match self.numbering.find(number) {
            Some(NumberOwner::Trunk(out)) if own == Some(&out.name) => PartyRole::Agent,
            _ => caller.role,
        };
        Ok(self.route(calls, &CallingParty { role, ..caller }, number)?)
    }

    /// The trunk may have its party replaced.
    pub(super) fn follows_referrals(&self, peer: &LegSource) -> bool {
        match peer {
            LegSource::Trunk(name) => {
                self.numbering.trunk(name).is_some_and(|trunk| trunk.follows_referrals)
            }
            LegSource::Account(_) => false,
        }
    }

    /// A device has transferred a call.
    pub(super) fn transferred_by(&self, device: &DeviceId) -> Option<Diversion> {
        let number = self.extension(device)?.public_number().clone();
        Some(Diversion { number, reason: DiversionReason::Transfer })
    }

    /// The way back to a device that has left a call.
    pub(super) fn route_back(
        &self,
        calls: &CallTable,
        device: &DeviceId,
    ) -> Result<CalledParty, Rejection> {
        let caller = self.caller(&LegSource::Account(device.clone()));
        // Not on its own behalf: it would be busy to itself.
        let caller = CallingParty { device: None, ..caller.ok_or(Rejection::UnknownCaller)? };
        Ok(self.route(calls, &caller, &self.shown(device))?)
    }

    /// The same for a call that has a way behind it. Where the phone of a device sends it, only
    /// that device's own dial rules count: no phone makes an agent that calls it pay for where it
    /// points.
    pub(super) fn route_on(
        &self,
        calls: &CallTable,
        caller: &CallingParty,
        dialled: &Number,
        mut trail: Trail,
        by: Option<&DeviceId>,
    ) -> Result<CalledParty, Unroutable> {
        let mut number = dialled;
        let mut may_leave = match by.and_then(|device| self.device(device)) {
            Some(device) => {
                let reason = DiversionReason::Deflection;
                self.send_on(calls, &device.extension, reason, &mut trail)?
            }
            None => caller.role == PartyRole::Agent,
        };
        loop {
            if trail.numbers.len() >= LONGEST_TRAIL || !trail.numbers.insert(number.clone()) {
                return Err(Unroutable::Loop);
            }
            let extension = match self.numbering.find(number) {
                None => return Err(Unroutable::NoSuchNumber),
                Some(NumberOwner::Trunk(_)) if !may_leave => return Err(Unroutable::MayNotCallOut),
                Some(NumberOwner::Trunk(trunk)) if self.trunk_is_full(calls, &trunk.name) => {
                    return Err(Unroutable::TrunkFull);
                }
                Some(NumberOwner::Trunk(trunk)) => {
                    return Ok(CalledParty {
                        number: number.clone(),
                        role: PartyRole::Customer,
                        policy: self.policy_of_trunk(trunk),
                        to: Destination::Trunk { name: trunk.name.clone(), number: number.clone() },
                        trail,
                        referred_by: None,
                    });
                }
                Some(NumberOwner::Extension(extension)) => extension,
            };
            let device = self.device(&extension.device).ok_or(Unroutable::NoSuchNumber)?;
            if let Some(forward_to) = &device.forward_to {
                let reason = DiversionReason::Unconditional;
                may_leave |= self.send_on(calls, extension, reason, &mut trail)?;
                number = forward_to;
                continue;
            }
            if device.do_not_disturb {
                return Err(Unroutable::DoNotDisturb);
            }
            if !device.registered {
                return Err(Unroutable::NotRegistered);
            }
            if caller.device.as_ref() == Some(&extension.device) {
                return Err(Unroutable::CallsItself);
            }
            if !self.config.call_waiting
                && calls.live_legs(&LegSource::Account(extension.device.clone())).next().is_some()
            {
                return Err(Unroutable::Busy);
            }
            let peer = LegSource::Account(extension.device.clone());
            if calls.has_legs(&peer, self.config.max_calls_per_device) {
                return Err(Unroutable::DeviceFull);
            }
            if extension.via.as_ref().is_some_and(|trunk| self.trunk_is_full(calls, trunk)) {
                return Err(Unroutable::TrunkFull);
            }
            return Ok(CalledParty {
                number: number.clone(),
                role: role_of(extension.kind),
                policy: self.policy_of_extension(extension),
                to: Destination::Device(extension.device.clone()),
                trail,
                referred_by: None,
            });
        }
    }

    /// A device sends a call on: whether it may leave by a trunk for it. It has a measure of such
    /// calls, as of its own.
    fn send_on(
        &self,
        calls: &CallTable,
        extension: &Extension,
        reason: DiversionReason,
        trail: &mut Trail,
    ) -> Result<bool, Unroutable> {
        if calls.forwarded_by(&extension.device) >= self.config.max_calls_per_device {
            return Err(Unroutable::ForwardedTooOften);
        }
        trail.forwarded_by.insert(extension.device.clone());
        trail.diversions.push(Diversion { number: extension.public_number().clone(), reason });
        Ok(extension.kind == AccountKind::Internal)
    }

    /// The same caller is called through to the same number by the same trunk, or to the same
    /// device behind one, and it rings there: the call has come round through a switch that hides
    /// that it has. A caller that withholds its number is not known again.
    pub(super) fn is_repeated(
        &self,
        calls: &CallTable,
        caller: &CallingParty,
        claimed: &Number,
        callee: &CalledParty,
    ) -> bool {
        let (peer, number) = match &callee.to {
            Destination::Trunk { name, number } => (LegSource::Trunk(name.clone()), number),
            Destination::Device(device) if callee.policy.reach.is_trunks() => {
                (LegSource::Account(device.clone()), &callee.number)
            }
            Destination::Device(_) => return false,
        };
        // An agent may call a number outside twice.
        let may_again = caller.role == PartyRole::Agent && matches!(peer, LegSource::Trunk(_));
        if may_again || matches!(claimed.as_str(), "" | ANONYMOUS) {
            return false;
        }
        let rings_there = |party: &Party| party.is_invited() && party.number == *number;
        calls.live_legs(&peer).any(|(call, party)| call.claimed == *claimed && rings_there(party))
    }

    /// A caller is on as many calls as it may be: the device, or the trunk that it comes by.
    pub(super) fn is_full(&self, calls: &CallTable, peer: &LegSource) -> bool {
        let is_full = match peer {
            LegSource::Account(_) => calls.has_legs(peer, self.config.max_calls_per_device),
            LegSource::Trunk(_) => false,
        };
        is_full || self.trunk_of(peer).is_some_and(|trunk| self.trunk_is_full(calls, trunk))
    }

    /// A trunk carries as many calls as it may, those of the devices behind it among them.
    fn trunk_is_full(&self, calls: &CallTable, name: &str) -> bool {
        let most = self.numbering.trunk(name).and_then(|trunk| trunk.max_calls);
        most.is_some_and(|most| calls.legs.seated(name) >= most)
    }
}

impl CallTable {
    /// The way behind a call that comes back from a leg of ours, and how many hops its INVITE had
    /// left.
    pub(super) fn behind(&self, returns: Option<LegId>) -> (Trail, u8) {
        let found = returns.and_then(|leg| self.party(leg));
        found.map_or((Trail::default(), u8::MAX), |(call, party)| {
            (party.trail.clone(), call.max_forwards)
        })
    }
}
