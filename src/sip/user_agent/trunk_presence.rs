//! Whether the targets of trunks are there: OPTIONS from time to time (RFC 3261 11).
//!
//! Any response is a sign of life, but for 408 and 503, which a proxy gives in the name of a switch
//! that is gone. A device behind a switch registers with the switch, of which nothing is told here:
//! it is present as long as one target of its switch answers.
//!
//! | the trunk | its devices are |
//! |---|---|
//! | has not been asked yet | absent |
//! | has a target that has answered | present |
//! | all its targets are silent for [`PATIENCE`], or answer 408 or 503 | absent |
//! | is never asked (`qualify = 0`) | present |

use super::Output;
use super::context::Context;
use super::leg::ClientUse;
use super::trunk_targets::{NextHop, TargetAddress, flow_to};
use crate::model::{DeviceId, Now};
use crate::sip::config::Trunk;
use crate::sip::leg::ANONYMOUS;
use crate::sip::message::{Uri, UriError};
use crate::sip::timers::Timers;
use crate::sip::transaction::ClientTransactionId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// An answer that takes longer has been lost, or there is nobody to give it: four transmissions
/// (RFC 3261 17.1.2.2).
const PATIENCE: Duration = Duration::from_secs(6);

/// A target of the trunk of this name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TargetOf {
    pub(super) trunk: String,
    pub(super) address: TargetAddress,
}

/// What is known of trunks and their targets.
#[derive(Debug, Default)]
pub(super) struct TrunkPresence {
    trunks: BTreeMap<String, TrunkState>,
    targets: BTreeMap<TargetOf, TargetState>,
    timers: Timers<TargetOf>,
}

/// What is known of one trunk.
#[derive(Debug, Default)]
struct TrunkState {
    /// One of its targets answers, or it is never asked.
    is_there: bool,
    /// Whether it does has been told.
    is_told: bool,
    /// The devices behind it.
    devices: BTreeSet<DeviceId>,
}

/// What is known of one target.
#[derive(Debug, Default)]
struct TargetState {
    /// It answers; `None`: it has not been asked yet, or its first answer is still out.
    is_there: Option<bool>,
    /// The OPTIONS that waits for its response.
    waiting: Option<ClientTransactionId>,
    /// How often it is asked.
    interval: Option<Duration>,
}

impl TrunkPresence {
    /// When to call [`Self::handle_timeout`].
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// The devices that are present.
    pub(super) fn present(&self) -> impl Iterator<Item = &DeviceId> {
        let there = self.trunks.values().filter(|trunk| trunk.is_there);
        there.flat_map(|trunk| &trunk.devices)
    }

    /// The directory, or what names stand for, is this from now on.
    pub(super) fn handle_directory(&mut self, ctx: &mut Context, now: Now) {
        let mut behind: BTreeMap<&str, BTreeSet<DeviceId>> = BTreeMap::new();
        for account in ctx.domain.config.accounts.iter() {
            if let Some(trunk) = account.via.as_ref().and_then(|via| ctx.domain.config.trunk(via)) {
                behind.entry(&trunk.name).or_default().insert(account.device.clone());
            }
        }
        let devices_of = |name: &str| behind.get(name).cloned().unwrap_or_default();
        let trunks: Vec<(Trunk, BTreeSet<DeviceId>)> = ctx
            .domain
            .config
            .trunks
            .iter()
            .map(|trunk| (trunk.clone(), devices_of(&trunk.name)))
            .collect();
        self.forget(&trunks, ctx);
        for (trunk, devices) in trunks {
            let state = self.trunks.entry(trunk.name.clone()).or_default();
            let left: BTreeSet<DeviceId> = state.devices.difference(&devices).cloned().collect();
            let come: BTreeSet<DeviceId> = devices.difference(&state.devices).cloned().collect();
            state.devices = devices;
            state.tell(&left, false, ctx);
            state.tell(&come, true, ctx);
            let targets =
                trunk.addresses().map(|address| TargetOf { trunk: trunk.name.clone(), address });
            for target in targets {
                let state = self.targets.entry(target.clone()).or_default();
                let is_new = std::mem::replace(&mut state.interval, trunk.qualify) != trunk.qualify;
                let is_due = !self.timers.is_set(&target) || is_new && state.waiting.is_none();
                match trunk.qualify {
                    Some(_) if is_due => self.timers.set(target, now.mono),
                    Some(_) => {}
                    None => {
                        self.timers.clear(&target);
                        let waiting = state.waiting.take().into_iter();
                        waiting.for_each(|waiting| ctx.transactions.abandon(waiting));
                    }
                }
            }
            self.judge(&trunk.name, ctx);
        }
    }

    /// Forgets trunks and targets that are no more.
    fn forget(&mut self, trunks: &[(Trunk, BTreeSet<DeviceId>)], ctx: &mut Context) {
        let is_used = |target: &TargetOf| {
            trunks.iter().any(|(trunk, _)| {
                trunk.name == target.trunk && trunk.addresses().any(|at| at == target.address)
            })
        };
        let gone: Vec<TargetOf> =
            self.targets.keys().filter(|target| !is_used(target)).cloned().collect();
        for target in gone {
            self.timers.clear(&target);
            if let Some(state) = self.targets.remove(&target) {
                state.waiting.into_iter().for_each(|waiting| ctx.transactions.abandon(waiting));
                ctx.outputs.push_back(Output::TargetGone {
                    trunk: target.trunk.clone(),
                    address: target.address,
                });
            }
        }
        ctx.targets.keep(|address| {
            trunks.iter().any(|(trunk, _)| trunk.addresses().any(|at| at == address))
        });
        let is_left = |name: &str| trunks.iter().any(|(trunk, _)| trunk.name == name);
        let gone: Vec<String> = self.trunks.keys().filter(|name| !is_left(name)).cloned().collect();
        for name in gone {
            if let Some(trunk) = self.trunks.remove(&name) {
                trunk.tell(&trunk.devices, false, ctx);
            }
        }
    }

    /// Asks the targets that are due, and gives those up that have not answered.
    pub(super) fn handle_timeout(&mut self, ctx: &mut Context, now: Now) -> Vec<TargetOf> {
        let mut news = Vec::new();
        while let Some(target) = self.timers.pop(now.mono) {
            let (Some(state), Some(trunk)) =
                (self.targets.get_mut(&target), ctx.domain.config.trunk(&target.trunk).cloned())
            else {
                continue;
            };
            let wait = match state.waiting.take() {
                Some(transaction) => {
                    ctx.transactions.abandon(transaction);
                    news.extend(self.handle_outcome(&target, false, ctx));
                    interval(&trunk)
                }
                None => {
                    state.waiting = ask(&trunk, target.clone(), ctx, now);
                    // What has no way there is looked at again.
                    if state.waiting.is_some() { PATIENCE } else { interval(&trunk) }
                }
            };
            self.timers.set(target, now.mono + wait);
        }
        news
    }

    /// An OPTIONS was answered with this status, or found nobody; the target, if that is news.
    pub(super) fn handle_answer(
        &mut self,
        target: &TargetOf,
        status: u16,
        ctx: &mut Context,
        now: Now,
    ) -> Option<TargetOf> {
        let state = self.targets.get_mut(target)?;
        state.waiting = None;
        if let Some(trunk) = ctx.domain.config.trunk(&target.trunk) {
            self.timers.set(target.clone(), now.mono + interval(trunk));
        }
        self.handle_outcome(target, !matches!(status, 408 | 503), ctx)
    }

    /// One target of each trunk, or none, is there.
    fn handle_outcome(
        &mut self,
        target: &TargetOf,
        is_there: bool,
        ctx: &mut Context,
    ) -> Option<TargetOf> {
        let state = self.targets.get_mut(target)?;
        match is_there {
            true => ctx.targets.handle_answer(target.address),
            false => ctx.targets.handle_silence(target.address),
        }
        let is_news = state.is_there.replace(is_there) != Some(is_there);
        if is_news {
            let (trunk, address) = (target.trunk.clone(), target.address);
            ctx.outputs.push_back(Output::TargetPresent { trunk, address, present: is_there });
        }
        self.judge(&target.trunk, ctx);
        is_news.then(|| target.clone())
    }

    /// Whether a trunk is there follows from its targets.
    fn judge(&mut self, name: &str, ctx: &mut Context) {
        let (Some(trunk), Some(state)) = (ctx.domain.config.trunk(name), self.trunks.get_mut(name))
        else {
            return;
        };
        let mut known = self.targets.iter().filter(|(target, _)| target.trunk == *name);
        let is_asked = trunk.qualify.is_some();
        let is_there = !is_asked || known.any(|(_, state)| state.is_there == Some(true));
        let mut known = self.targets.iter().filter(|(target, _)| target.trunk == *name);
        // Before all have been heard nothing is said of a trunk that is not there.
        let is_known = is_there || known.all(|(_, state)| state.is_there.is_some());
        let is_news = std::mem::replace(&mut state.is_there, is_there) != is_there;
        if is_known && (!std::mem::replace(&mut state.is_told, true) || is_news) && is_asked {
            let (trunk, devices) = (name.to_owned(), state.devices.len());
            ctx.outputs.push_back(Output::TrunkPresent { trunk, present: is_there, devices });
        }
        if is_news {
            for device in &state.devices {
                ctx.registered(device.clone(), is_there);
            }
        }
    }
}

impl TrunkState {
    /// Devices have come or gone, while the trunk is there.
    fn tell(&self, devices: &BTreeSet<DeviceId>, present: bool, ctx: &mut Context) {
        for device in devices.iter().filter(|_| self.is_there) {
            ctx.registered(device.clone(), present);
        }
    }
}

fn interval(trunk: &Trunk) -> Duration {
    trunk.qualify.unwrap_or(PATIENCE)
}

/// Sends an OPTIONS to a target; `None`: nothing of ours leads there.
fn ask(trunk: &Trunk, of: TargetOf, ctx: &mut Context, now: Now) -> Option<ClientTransactionId> {
    let (protocol, address) = of.address;
    let target = trunk.target_at(protocol, address)?;
    let flow = flow_to(of.address, &ctx.domain.locals)?;
    let uri = target_uri(&NextHop { target, flow }, None).ok()?;
    let options = ctx.options(uri, &flow, &ANONYMOUS.into())?;
    Some(ctx.request(options, flow, |_| ClientUse::AskTrunk(of), now))
}

/// A URI of a target, with the transport that leads there.
pub(super) fn target_uri(hop: &NextHop<'_>, user: Option<&[u8]>) -> Result<Uri, UriError> {
    let uri = Uri::sip(user, &hop.target.uri_host(), hop.target.port)?;
    match hop.flow.protocol.uri_param() {
        Some(transport) => uri.with_param("transport", Some(transport)),
        None => Ok(uri),
    }
}
