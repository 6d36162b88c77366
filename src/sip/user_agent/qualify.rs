//! Whether registered phones are still there: OPTIONS from time to time (RFC 3261 11), and any
//! response is a sign of life.
//!
//! A phone that has lost its power stays registered until its binding expires, and each caller of
//! it waits for 64·T1. So a phone that has answered an OPTIONS once, and then leaves one
//! unanswered, is not called any more until it answers again, or registers.
//!
//! | the phone | is asked again | is called |
//! |---|---|---|
//! | has not answered yet since it registered: it may not know OPTIONS | after the interval | yes |
//! | answers | after the interval | yes |
//! | has answered before, and is silent for [`PATIENCE`] | after [`SOON`] | no |

use super::Output;
use super::context::Context;
use super::leg::ClientUse;
use crate::model::{DeviceId, Now};
use crate::sip::flow::Flow;
use crate::sip::leg::{ANONYMOUS, LegSource};
use crate::sip::message::Uri;
use crate::sip::registrar::Binding;
use crate::sip::timers::Timers;
use crate::sip::transaction::ClientTransactionId;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// An answer that takes longer has been lost, or there is nobody to give it: four transmissions
/// (RFC 3261 17.1.2.2).
const PATIENCE: Duration = Duration::from_secs(6);

/// How long until a silent phone is asked again.
const SOON: Duration = Duration::from_secs(10);

/// A registered phone: its device and the raw URI of its Contact.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct QualifiedPhone {
    device: DeviceId,
    contact: Vec<u8>,
}

/// What is known of the phones that are asked.
#[derive(Debug, Default)]
pub(super) struct Qualification {
    phones: BTreeMap<QualifiedPhone, Probe>,
    timers: Timers<QualifiedPhone>,
}

#[derive(Debug, Default)]
struct Probe {
    /// It knows OPTIONS.
    answers: bool,
    /// The OPTIONS that waits for its response.
    waiting: Option<ClientTransactionId>,
}

impl Qualification {
    /// When to call [`Self::handle_timeout`].
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// The bindings of a device have changed: phones that are new are asked from now on, and those
    /// that are gone no more.
    pub(super) fn handle_bindings(&mut self, device: &DeviceId, ctx: &mut Context, now: Now) {
        let Some(interval) = ctx.domain.config.qualify else {
            return;
        };
        if ctx.domain.config.account(device).is_none_or(|account| !account.qualify) {
            return;
        }
        let bound: Vec<QualifiedPhone> = ctx
            .registrar
            .of(device, now.mono)
            .map(|binding| QualifiedPhone::of(device, &binding.contact))
            .collect();
        let first = QualifiedPhone { device: device.clone(), contact: Vec::new() };
        let known = self.phones.range(first..).take_while(|(phone, _)| phone.device == *device);
        let gone: Vec<QualifiedPhone> =
            known.map(|(phone, _)| phone.clone()).filter(|phone| !bound.contains(phone)).collect();
        for phone in gone {
            self.ask_no_more(&phone, ctx);
        }
        for phone in bound {
            if !self.phones.contains_key(&phone) {
                // Phones that have registered together, after a power cut or a restart of ours, are
                // not asked together.
                let wait = Duration::from_millis(
                    1000 + ctx.tokens.below((interval.as_millis() as u64).max(1)),
                );
                self.timers.set(phone.clone(), now.mono + wait);
                self.phones.insert(phone, Probe::default());
            }
        }
    }

    /// The phones of a device are asked no more.
    pub(super) fn forget(&mut self, device: &DeviceId, ctx: &mut Context) {
        let first = QualifiedPhone { device: device.clone(), contact: Vec::new() };
        let known = self.phones.range(first..).take_while(|(phone, _)| phone.device == *device);
        for phone in known.map(|(phone, _)| phone.clone()).collect::<Vec<_>>() {
            self.ask_no_more(&phone, ctx);
        }
    }

    fn ask_no_more(&mut self, phone: &QualifiedPhone, ctx: &mut Context) {
        self.timers.clear(phone);
        let probe = self.phones.remove(phone);
        if let Some(transaction) = probe.and_then(|probe| probe.waiting) {
            ctx.transactions.abandon(transaction);
        }
    }

    /// Asks the phones that are due, and gives those up that have not answered.
    pub(super) fn handle_timeout(&mut self, ctx: &mut Context, now: Now) {
        while let Some(phone) = self.timers.pop(now.mono) {
            let Some(probe) = self.phones.get_mut(&phone) else {
                continue;
            };
            let wait = match probe.waiting.take() {
                Some(transaction) => {
                    ctx.transactions.abandon(transaction);
                    probe.handle_failure(&phone, ctx, now)
                }
                None => match probe.ask(&phone, ctx, now) {
                    Some(()) => PATIENCE,
                    None => {
                        self.ask_no_more(&phone, ctx);
                        continue;
                    }
                },
            };
            self.timers.set(phone, now.mono + wait);
        }
    }

    /// A response to OPTIONS has come, whatever it says; or none (`answers` is false), or the way
    /// to the phone is broken.
    pub(super) fn handle_outcome(
        &mut self,
        phone: &QualifiedPhone,
        answers: bool,
        ctx: &mut Context,
        now: Now,
    ) {
        let Some(probe) = self.phones.get_mut(phone) else {
            return;
        };
        let wait = match answers {
            true => probe.handle_response(phone, ctx, now),
            false => probe.handle_failure(phone, ctx, now),
        };
        self.timers.set(phone.clone(), now.mono + wait);
    }

    /// An INVITE has found nobody: a phone that has answered OPTIONS before is asked again before
    /// anybody else waits for it.
    pub(super) fn handle_unanswered_call(
        &mut self,
        source: &LegSource,
        flow: Flow,
        ctx: &mut Context,
        now: Now,
    ) {
        let LegSource::Account(device) = source else {
            return;
        };
        let called = ctx.registrar.of(device, now.mono).filter(|binding| binding.target == flow);
        let phones: Vec<QualifiedPhone> =
            called.map(|binding| QualifiedPhone::of(device, &binding.contact)).collect();
        for phone in phones {
            let probe = self.phones.get_mut(&phone);
            if let Some(probe) = probe.filter(|probe| probe.answers && probe.waiting.is_none()) {
                let wait = probe.handle_failure(&phone, ctx, now);
                self.timers.set(phone, now.mono + wait);
            }
        }
    }

    /// A phone has called: it is there.
    pub(super) fn handle_call_from(
        &mut self,
        device: &DeviceId,
        source: &Flow,
        ctx: &mut Context,
        now: Now,
    ) {
        let silent = ctx
            .registrar
            .of(device, now.mono)
            .filter(|binding| binding.is_silent() && binding.flow == *source);
        for phone in
            silent.map(|binding| QualifiedPhone::of(device, &binding.contact)).collect::<Vec<_>>()
        {
            phone.mark(false, ctx, now);
        }
    }
}

impl Probe {
    /// Sends an OPTIONS to the phone; `None` when it has no binding any more, or our own address
    /// makes no URI.
    fn ask(&mut self, phone: &QualifiedPhone, ctx: &mut Context, now: Now) -> Option<()> {
        let is_it = |binding: &&Binding| binding.contact.as_bytes() == phone.contact.as_slice();
        let found = ctx.registrar.of(&phone.device, now.mono).find(is_it);
        let (uri, flow) = found.map(|binding| (binding.contact.clone(), binding.target))?;
        let account = ctx
            .domain
            .config
            .account(&phone.device)
            .map(|account| account.number.clone())
            .unwrap_or_else(|| ANONYMOUS.into());
        let options = ctx.options(uri, &flow, &account)?;
        let transaction = ctx.request(options, flow, |_| ClientUse::Qualify(phone.clone()), now);
        self.waiting = Some(transaction);
        Some(())
    }

    /// A response to OPTIONS has come. How long until the next one.
    fn handle_response(&mut self, phone: &QualifiedPhone, ctx: &mut Context, now: Now) -> Duration {
        *self = Probe { answers: true, waiting: None };
        phone.mark(false, ctx, now);
        ctx.domain.config.qualify.unwrap_or(SOON)
    }

    /// Nothing came, or the way to the phone is broken. How long until the next one.
    fn handle_failure(&mut self, phone: &QualifiedPhone, ctx: &mut Context, now: Now) -> Duration {
        self.waiting = None;
        if self.answers {
            phone.mark(true, ctx, now);
            return SOON;
        }
        ctx.domain.config.qualify.unwrap_or(SOON)
    }
}

impl QualifiedPhone {
    fn of(device: &DeviceId, contact: &Uri) -> QualifiedPhone {
        QualifiedPhone { device: device.clone(), contact: contact.as_bytes().to_vec() }
    }

    /// It is called, or not any more.
    fn mark(&self, is_silent: bool, ctx: &mut Context, now: Now) {
        let was = ctx.registrar.lookup(&self.device, now.mono).is_some();
        if !ctx.registrar.mark(&self.device, &self.contact, is_silent) {
            return;
        }
        let device = self.device.clone();
        ctx.outputs.push_back(Output::Qualified { device, answers: !is_silent });
        let is = ctx.registrar.lookup(&self.device, now.mono).is_some();
        if is != was {
            ctx.registered(self.device.clone(), is);
        }
    }
}
