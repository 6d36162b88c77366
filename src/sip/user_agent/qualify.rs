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
use crate::sip::message::{Method, NameAddr, SipRequest, Uri};
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
            match probe.waiting.take() {
                Some(transaction) => {
                    ctx.transactions.abandon(transaction);
                    self.handle_failure(&phone, ctx, now);
                }
                None => self.ask_phone(phone, ctx, now),
            }
        }
    }

    fn ask_phone(&mut self, phone: QualifiedPhone, ctx: &mut Context, now: Now) {
        let is_it = |binding: &&Binding| binding.contact.as_bytes() == phone.contact.as_slice();
        let found = ctx.registrar.of(&phone.device, now.mono).find(is_it);
        let Some((uri, flow)) = found.map(|binding| (binding.contact.clone(), binding.target))
        else {
            return self.ask_no_more(&phone, ctx);
        };
        let account = ctx
            .domain
            .config
            .account(&phone.device)
            .map(|account| account.number.clone())
            .unwrap_or_else(|| ANONYMOUS.into());
        let host = ctx.domain.via_host(&flow);
        let Ok(own) = Uri::sip(None, &host, None) else {
            return;
        };
        let from = NameAddr::new(own).with_tag(&ctx.tokens.word());
        let options = SipRequest::new(Method::Options, uri.clone())
            .with("Max-Forwards", "70")
            .with("From", from.to_bytes())
            .with("To", NameAddr::new(uri).to_bytes())
            .with("Call-ID", format!("{}@{host}", ctx.tokens.word()))
            .with("CSeq", "1 OPTIONS")
            .with("Contact", ctx.domain.contact(&flow, &account))
            .with("Accept", "application/sdp")
            .with("User-Agent", &ctx.domain.config.product);
        let transaction = ctx.request(options, flow, |_| ClientUse::Qualify(phone.clone()), now);
        if let Some(probe) = self.phones.get_mut(&phone) {
            probe.waiting = Some(transaction);
        }
        self.timers.set(phone, now.mono + PATIENCE);
    }

    /// A response to OPTIONS, whatever it says.
    pub(super) fn handle_response(&mut self, phone: &QualifiedPhone, ctx: &mut Context, now: Now) {
        let Some(probe) = self.phones.get_mut(phone) else {
            return;
        };
        *probe = Probe { answers: true, waiting: None };
        self.ask_again(phone, ctx.domain.config.qualify.unwrap_or(SOON), now);
        self.mark(phone, false, ctx, now);
    }

    /// Nothing came, or the way to the phone is broken.
    pub(super) fn handle_failure(&mut self, phone: &QualifiedPhone, ctx: &mut Context, now: Now) {
        let Some(probe) = self.phones.get_mut(phone) else {
            return;
        };
        probe.waiting = None;
        let wait = if probe.answers { SOON } else { ctx.domain.config.qualify.unwrap_or(SOON) };
        let is_silent = probe.answers;
        self.ask_again(phone, wait, now);
        if is_silent {
            self.mark(phone, true, ctx, now);
        }
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
            if self.phones.get(&phone).is_some_and(|probe| probe.answers && probe.waiting.is_none())
            {
                self.handle_failure(&phone, ctx, now);
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
            self.mark(&phone, false, ctx, now);
        }
    }

    fn ask_again(&mut self, phone: &QualifiedPhone, wait: Duration, now: Now) {
        self.timers.set(phone.clone(), now.mono + wait);
    }

    fn mark(&self, phone: &QualifiedPhone, is_silent: bool, ctx: &mut Context, now: Now) {
        let was = ctx.registrar.lookup(&phone.device, now.mono).is_some();
        if !ctx.registrar.mark(&phone.device, &phone.contact, is_silent) {
            return;
        }
        ctx.outputs
            .push_back(Output::Qualified { device: phone.device.clone(), answers: !is_silent });
        let is = ctx.registrar.lookup(&phone.device, now.mono).is_some();
        if is != was {
            ctx.registered(phone.device.clone(), is);
        }
    }
}

impl QualifiedPhone {
    fn of(device: &DeviceId, contact: &Uri) -> QualifiedPhone {
        QualifiedPhone { device: device.clone(), contact: contact.as_bytes().to_vec() }
    }
}
