//! The names of trunks' targets and sources: looked up in the background, and again when what was
//! found is no longer valid. What a name stood for holds until something else is found.
//!
//! ```text
//! Waiting ──its time──▶ Asked ──found──▶ Waiting, for its TTL
//!    ▲                    │ not found
//!    └─ 1 s, 2 s, … 60 s ◀┘
//! ```

use super::Output;
use super::context::Context;
use crate::model::Now;
use crate::rate_limit::back_off;
use crate::sip::config::{FoundHost, Lookup, LookupAnswer, LookupFault, Trunk};
use crate::sip::timers::Timers;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long until a name that was not found is looked up again; twice that the next time, and so
/// on.
const FIRST: Duration = Duration::from_secs(1);
/// How long at most.
const LONGEST: Duration = Duration::from_secs(60);
/// What is valid for less is not looked up more often.
const SHORTEST_TTL: Duration = Duration::from_secs(10);
/// What is valid for longer is looked up all the same: a switch that has moved is found again.
const LONGEST_TTL: Duration = Duration::from_secs(3600);

/// The names of trunks.
#[derive(Debug, Default)]
pub(super) struct TrunkNames {
    names: BTreeMap<Lookup, Name>,
    timers: Timers<Lookup>,
}

/// What is known of one name.
#[derive(Debug, Default)]
struct Name {
    /// What it stands for.
    hosts: Vec<FoundHost>,
    /// Times in a row that nothing was found.
    failures: u32,
}

impl TrunkNames {
    /// When to call [`Self::handle_timeout`].
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// The names of these trunks are looked up from now on; what is known of them is written into
    /// the trunks.
    pub(super) fn handle_trunks(&mut self, trunks: &mut [Trunk], now: Now) {
        let wanted: BTreeSet<Lookup> = trunks.iter().flat_map(Trunk::lookups).collect();
        let gone: Vec<Lookup> =
            self.names.keys().filter(|name| !wanted.contains(name)).cloned().collect();
        for name in gone {
            self.names.remove(&name);
            self.timers.clear(&name);
        }
        for name in wanted {
            if !self.names.contains_key(&name) {
                self.names.insert(name.clone(), Name::default());
                self.timers.set(name, now.mono);
            }
        }
        for (lookup, name) in self.names.iter().filter(|(_, name)| !name.hosts.is_empty()) {
            trunks.iter_mut().for_each(|trunk| trunk.place(lookup, &name.hosts));
        }
    }

    /// Asks for the names that are due.
    pub(super) fn handle_timeout(&mut self, ctx: &mut Context, now: Now) {
        while let Some(name) = self.timers.pop(now.mono) {
            ctx.outputs.push_back(Output::LookUp(name));
        }
    }

    /// What a name stands for, or why for nothing; the hosts, if they are others than before.
    pub(super) fn handle_answer(
        &mut self,
        lookup: &Lookup,
        answer: Result<LookupAnswer, LookupFault>,
        ctx: &mut Context,
        now: Now,
    ) -> Option<Vec<FoundHost>> {
        let name = self.names.get_mut(lookup)?;
        match answer {
            Ok(LookupAnswer { mut hosts, ttl }) => {
                hosts.sort_unstable();
                hosts.dedup();
                name.failures = 0;
                let ttl = ttl.clamp(SHORTEST_TTL, LONGEST_TTL);
                self.timers.set(lookup.clone(), now.mono + ttl);
                let is_news = name.hosts != hosts;
                name.hosts = hosts;
                is_news.then(|| name.hosts.clone())
            }
            Err(fault) => {
                let wait = back_off(FIRST, name.failures, LONGEST);
                self.timers.set(lookup.clone(), now.mono + wait);
                name.failures += 1;
                if name.failures == 1 {
                    let (host, known) = (lookup.host.clone(), !name.hosts.is_empty());
                    let uses = |trunk: &&Trunk| trunk.lookups().any(|name| name == *lookup);
                    let trunks = ctx.domain.config.trunks.iter().filter(uses);
                    let trunks = trunks.map(|trunk| trunk.name.clone()).collect();
                    ctx.outputs.push_back(Output::NotFound { trunks, host, fault, known });
                }
                None
            }
        }
    }
}
