//! Whether the switches are there that devices are behind: OPTIONS from time to time (RFC 3261 11).
//!
//! A device behind a switch registers with the switch, of which nothing is told here: it is present
//! as long as its switch answers. Any response is a sign of life, but for 408 and 503, which a
//! proxy gives in the name of a switch that is gone.
//!
//! | the trunk | its devices are |
//! |---|---|
//! | has not been asked yet | absent |
//! | has answered | present |
//! | is silent for [`PATIENCE`], or answers 408 or 503 | absent |
//! | is never asked (`qualify = 0`) | present |

use super::Output;
use super::context::Context;
use super::leg::ClientUse;
use super::outgoing::flow_to_trunk;
use crate::model::{DeviceId, Now};
use crate::sip::config::Trunk;
use crate::sip::message::{Method, NameAddr, SipRequest, Uri};
use crate::sip::timers::Timers;
use crate::sip::transaction::ClientTransactionId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// An answer that takes longer has been lost, or there is nobody to give it: four transmissions
/// (RFC 3261 17.1.2.2).
const PATIENCE: Duration = Duration::from_secs(6);

/// What is known of the trunks that devices are behind.
#[derive(Debug, Default)]
pub(super) struct TrunkPresence {
    trunks: BTreeMap<String, Presence>,
    timers: Timers<String>,
}

/// What is known of one trunk.
#[derive(Debug, Default)]
struct Presence {
    /// It answers.
    is_there: bool,
    /// That it does, or does not, has been told.
    is_told: bool,
    /// The OPTIONS that waits for its response.
    waiting: Option<ClientTransactionId>,
    /// How often it is asked.
    interval: Option<Duration>,
    /// The devices behind it.
    devices: BTreeSet<DeviceId>,
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

    /// The directory is this from now on.
    pub(super) fn handle_directory(&mut self, ctx: &mut Context, now: Now) {
        let mut behind: BTreeMap<String, BTreeSet<DeviceId>> = BTreeMap::new();
        for account in ctx.domain.config.accounts.iter() {
            if let Some(trunk) = account.via.as_ref().and_then(|via| ctx.domain.config.trunk(via)) {
                behind.entry(trunk.name.clone()).or_default().insert(account.device.clone());
            }
        }
        let gone: Vec<String> =
            self.trunks.keys().filter(|name| !behind.contains_key(*name)).cloned().collect();
        for name in gone {
            self.timers.clear(&name);
            if let Some(trunk) = self.trunks.remove(&name) {
                trunk.waiting.into_iter().for_each(|waiting| ctx.transactions.abandon(waiting));
                trunk.tell(&trunk.devices, false, ctx);
            }
        }
        for (name, devices) in behind {
            let interval = ctx.domain.config.trunk(&name).and_then(|trunk| trunk.qualify);
            let trunk = self.trunks.entry(name.clone()).or_default();
            let left: BTreeSet<DeviceId> = trunk.devices.difference(&devices).cloned().collect();
            let come: BTreeSet<DeviceId> = devices.difference(&trunk.devices).cloned().collect();
            trunk.devices = devices;
            trunk.tell(&left, false, ctx);
            trunk.tell(&come, true, ctx);
            let is_new = std::mem::replace(&mut trunk.interval, interval) != interval;
            let is_due = !self.timers.is_set(&name) || is_new && trunk.waiting.is_none();
            match interval {
                Some(_) if is_due => self.timers.set(name, now.mono),
                Some(_) => {}
                None => {
                    self.timers.clear(&name);
                    trunk.handle_outcome(&name, true, ctx);
                }
            }
        }
    }

    /// Asks the trunks that are due, and gives those up that have not answered.
    pub(super) fn handle_timeout(&mut self, ctx: &mut Context, now: Now) {
        while let Some(name) = self.timers.pop(now.mono) {
            let (Some(presence), Some(trunk)) =
                (self.trunks.get_mut(&name), ctx.domain.config.trunk(&name).cloned())
            else {
                continue;
            };
            let wait = match presence.waiting.take() {
                Some(transaction) => {
                    ctx.transactions.abandon(transaction);
                    presence.handle_outcome(&name, false, ctx);
                    interval(&trunk)
                }
                None => {
                    presence.waiting = ask(&trunk, ctx, now);
                    // What has no way there is looked at again.
                    if presence.waiting.is_some() { PATIENCE } else { interval(&trunk) }
                }
            };
            self.timers.set(name, now.mono + wait);
        }
    }

    /// An OPTIONS was answered with this status, or found nobody.
    pub(super) fn handle_answer(&mut self, name: &str, status: u16, ctx: &mut Context, now: Now) {
        let Some(presence) = self.trunks.get_mut(name) else { return };
        presence.waiting = None;
        presence.handle_outcome(name, !matches!(status, 408 | 503), ctx);
        if let Some(trunk) = ctx.domain.config.trunk(name) {
            self.timers.set(name.to_owned(), now.mono + interval(trunk));
        }
    }
}

impl Presence {
    fn handle_outcome(&mut self, name: &str, is_there: bool, ctx: &mut Context) {
        let is_news = std::mem::replace(&mut self.is_there, is_there) != is_there;
        let is_first = !std::mem::replace(&mut self.is_told, true);
        if is_news || is_first {
            let trunk = name.to_owned();
            ctx.outputs.push_back(Output::TrunkPresent { trunk, present: is_there });
        }
        if is_news {
            for device in &self.devices {
                ctx.registered(device.clone(), is_there);
            }
        }
    }

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

/// Sends an OPTIONS to a trunk; `None`: nothing of ours leads there.
fn ask(trunk: &Trunk, ctx: &mut Context, now: Now) -> Option<ClientTransactionId> {
    let flow = flow_to_trunk(trunk, &ctx.domain.locals)?;
    let (host, _) = Trunk::host_and_port(&trunk.target, trunk.protocol)?;
    let own = ctx.domain.via_host(&flow);
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let uri = Uri::sip(None, &host, Some(flow.peer.port())).ok()?;
    let uri = match flow.protocol.uri_param() {
        Some(transport) => uri.with_param("transport", Some(transport)).ok()?,
        None => uri,
    };
    let from = NameAddr::new(Uri::sip(None, &own, None).ok()?).with_tag(&ctx.tokens.word());
    let contact = ctx.domain.contact(&flow, false, &crate::sip::leg::ANONYMOUS.into());
    let options = SipRequest::new(Method::Options, uri.clone())
        .with("Max-Forwards", "70")
        .with("From", from.to_bytes())
        .with("To", NameAddr::new(uri).to_bytes())
        .with("Call-ID", format!("{}@{own}", ctx.tokens.word()))
        .with("CSeq", "1 OPTIONS")
        .with("Contact", contact)
        .with("Accept", "application/sdp")
        .with("User-Agent", &ctx.domain.config.product);
    let name = trunk.name.clone();
    Some(ctx.request(options, flow, |_| ClientUse::AskTrunk(name), now))
}
