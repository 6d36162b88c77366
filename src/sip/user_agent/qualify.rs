//! Whether registered phones are still there: OPTIONS from time to time (RFC 3261 11), and any response is a sign of life.
//!
//! A phone that has lost its power stays registered until its binding expires, and each caller of it waits for 64·T1. So a phone that has
//! answered an OPTIONS once, and then leaves one unanswered, is not called any more until it answers again, or registers.
//!
//! | the phone | is asked again | is called |
//! |---|---|---|
//! | has not answered yet since it registered: it may not know OPTIONS | after the interval | yes |
//! | answers | after the interval | yes |
//! | has answered before, and is silent for [`PATIENCE`] | after [`SOON`] | no |

use super::leg::ClientUse;
use super::{Output, UserAgent};
use crate::model::{DeviceId, Now};
use crate::sip::flow::Flow;
use crate::sip::leg::{ANONYMOUS, LegId, LegSource};
use crate::sip::message::{Method, NameAddr, SipRequest, Uri};
use crate::sip::registrar::Binding;
use crate::sip::timers::Timers;
use crate::sip::transaction::{ClientTransactionId, TransactionKind};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// An answer that takes longer has been lost, or there is nobody to give it: four transmissions (RFC 3261 17.1.2.2).
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
    /// When to call [`UserAgent::ask_phones`].
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }
}

impl UserAgent {
    /// The bindings of a device have changed: phones that are new are asked from now on, and those that are gone no more.
    pub(super) fn qualify(&mut self, device: &DeviceId, now: Now) {
        let Some(interval) = self.config.qualify else { return };
        if self.config.account(device).is_none_or(|account| !account.qualify) {
            return;
        }
        let bound: Vec<QualifiedPhone> = self
            .registrar
            .of(device, now.mono)
            .map(|binding| QualifiedPhone::of(device, &binding.contact))
            .collect();
        let first = QualifiedPhone {
            device: device.clone(),
            contact: Vec::new(),
        };
        let known = self
            .qualification
            .phones
            .range(first..)
            .take_while(|(phone, _)| phone.device == *device);
        let gone: Vec<QualifiedPhone> = known
            .map(|(phone, _)| phone.clone())
            .filter(|phone| !bound.contains(phone))
            .collect();
        for phone in gone {
            self.ask_no_more(&phone);
        }
        for phone in bound {
            if !self.qualification.phones.contains_key(&phone) {
                // Phones that have registered together, after a power cut or a restart of ours, are not asked together.
                let wait = Duration::from_millis(1000 + self.chance.below((interval.as_millis() as u64).max(1)));
                self.qualification.timers.set(phone.clone(), now.mono + wait);
                self.qualification.phones.insert(phone, Probe::default());
            }
        }
    }

    fn ask_no_more(&mut self, phone: &QualifiedPhone) {
        self.qualification.timers.clear(phone);
        let probe = self.qualification.phones.remove(phone);
        if let Some(transaction) = probe.and_then(|probe| probe.waiting) {
            self.transactions.abandon(transaction);
        }
    }

    /// Asks the phones whose time it is, and gives those up that have not answered.
    pub(super) fn ask_phones(&mut self, now: Now) {
        while let Some(phone) = self.qualification.timers.pop(now.mono) {
            let Some(probe) = self.qualification.phones.get_mut(&phone) else {
                continue;
            };
            match probe.waiting.take() {
                Some(transaction) => {
                    self.transactions.abandon(transaction);
                    self.has_not_answered(&phone, now);
                }
                None => self.ask_phone(phone, now),
            }
        }
    }

    fn ask_phone(&mut self, phone: QualifiedPhone, now: Now) {
        let is_it = |binding: &&Binding| binding.contact.as_bytes() == phone.contact.as_slice();
        let found = self.registrar.of(&phone.device, now.mono).find(is_it);
        let Some((uri, flow)) = found.map(|binding| (binding.contact.clone(), binding.target)) else {
            return self.ask_no_more(&phone);
        };
        let account = self
            .config
            .account(&phone.device)
            .map(|account| account.number.clone())
            .unwrap_or_else(|| ANONYMOUS.into());
        let host = self.via_host(&flow);
        let Ok(own) = Uri::sip(None, &host, None) else { return };
        let from = NameAddr::new(own).with_tag(&self.chance.word());
        let options = SipRequest::new(Method::Options, uri.clone())
            .with("Max-Forwards", "70")
            .with("From", from.to_bytes())
            .with("To", NameAddr::new(uri).to_bytes())
            .with("Call-ID", format!("{}@{host}", self.chance.word()))
            .with("CSeq", "1 OPTIONS")
            .with("Contact", self.contact(&flow, &account))
            .with("Accept", "application/sdp")
            .with("User-Agent", &self.config.product);
        let sent = self.sent(options, flow, 0);
        let transaction = self.send(TransactionKind::Other, ClientUse::Qualify(phone.clone()), &sent, now);
        if let Some(probe) = self.qualification.phones.get_mut(&phone) {
            probe.waiting = Some(transaction);
        }
        self.qualification.timers.set(phone, now.mono + PATIENCE);
    }

    /// A response to OPTIONS, whatever it says.
    pub(super) fn has_answered(&mut self, phone: &QualifiedPhone, now: Now) {
        let Some(probe) = self.qualification.phones.get_mut(phone) else {
            return;
        };
        *probe = Probe {
            answers: true,
            waiting: None,
        };
        self.ask_again(phone, self.config.qualify.unwrap_or(SOON), now);
        self.mark(phone, false, now);
    }

    /// Nothing came, or the way to the phone is broken.
    pub(super) fn has_not_answered(&mut self, phone: &QualifiedPhone, now: Now) {
        let Some(probe) = self.qualification.phones.get_mut(phone) else {
            return;
        };
        probe.waiting = None;
        let wait = if probe.answers { SOON } else { self.config.qualify.unwrap_or(SOON) };
        let is_silent = probe.answers;
        self.ask_again(phone, wait, now);
        if is_silent {
            self.mark(phone, true, now);
        }
    }

    /// An INVITE has found nobody: a phone that has answered OPTIONS before is asked again before anybody else waits for it.
    pub(super) fn has_not_been_found(&mut self, leg: LegId, now: Now) {
        let Some(leg) = self.legs.get(&leg) else { return };
        let LegSource::Account(device) = &leg.peer else { return };
        let called = self
            .registrar
            .of(device, now.mono)
            .filter(|binding| binding.target == leg.dialog.flow);
        let phones: Vec<QualifiedPhone> = called.map(|binding| QualifiedPhone::of(device, &binding.contact)).collect();
        for phone in phones {
            if self
                .qualification
                .phones
                .get(&phone)
                .is_some_and(|probe| probe.answers && probe.waiting.is_none())
            {
                self.has_not_answered(&phone, now);
            }
        }
    }

    /// A phone has called: it is there.
    pub(super) fn is_there(&mut self, device: &DeviceId, source: &Flow, now: Now) {
        let silent = self
            .registrar
            .of(device, now.mono)
            .filter(|binding| binding.is_silent() && binding.flow == *source);
        for phone in silent
            .map(|binding| QualifiedPhone::of(device, &binding.contact))
            .collect::<Vec<_>>()
        {
            self.mark(&phone, false, now);
        }
    }

    fn ask_again(&mut self, phone: &QualifiedPhone, wait: Duration, now: Now) {
        self.qualification.timers.set(phone.clone(), now.mono + wait);
    }

    fn mark(&mut self, phone: &QualifiedPhone, is_silent: bool, now: Now) {
        let was = self.registrar.lookup(&phone.device, now.mono).is_some();
        if !self.registrar.mark(&phone.device, &phone.contact, is_silent) {
            return;
        }
        self.outputs.push_back(Output::Qualified {
            device: phone.device.clone(),
            answers: !is_silent,
        });
        let is = self.registrar.lookup(&phone.device, now.mono).is_some();
        if is != was {
            self.registered(phone.device.clone(), is);
        }
    }
}

impl QualifiedPhone {
    fn of(device: &DeviceId, contact: &Uri) -> QualifiedPhone {
        QualifiedPhone {
            device: device.clone(),
            contact: contact.as_bytes().to_vec(),
        }
    }
}
