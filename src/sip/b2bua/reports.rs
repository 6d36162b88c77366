//! What the media engine, the clients and supervision were told of a call last: each is told what
//! is news to it.

use super::Output;
use super::parties::Parties;
use super::step::{Ctx, Step};
use crate::media::{CallKey, Hearing, MediaCommand};
use crate::model::{CallFact, Fact};
use std::time::Instant;

/// The last reports of a call.
#[derive(Default)]
pub(super) struct CallReports {
    /// The hearing that the engine was told.
    hearing: Hearing,
    /// The fact that was published, without its quality.
    fact: Option<CallFact>,
    /// When the quality was published for its own sake.
    quality_at: Option<Instant>,
    /// The fact that supervision was told.
    supervised: Option<CallFact>,
}

impl CallReports {
    /// Tells supervision of the call as it is now.
    pub(super) fn inform_supervision(&mut self, fact: CallFact, ctx: &mut Ctx<'_>) {
        if self.supervised.as_ref() != Some(&fact) {
            ctx.supervision.handle_call(&fact, ctx.now);
            self.supervised = Some(fact);
        }
    }

    /// Publishes the call, among the outputs from `first` on.
    pub(super) fn publish(
        &mut self,
        fact: CallFact,
        parties: &Parties,
        first: usize,
        out: &mut Step,
    ) {
        if self.fact.as_ref() != Some(&fact) {
            self.fact = Some(fact.clone());
            let fact = measured(fact, parties);
            out.outputs.insert(first, Output::Fact(Fact::Call(fact)));
        }
    }

    /// A leg's quality is no change of its call: supervision is never told. It goes along with the
    /// next change, or by itself when it is a leg's first, or when the last time is long enough
    /// ago.
    pub(super) fn publish_quality(&mut self, is_first: bool, parties: &Parties, ctx: &mut Ctx<'_>) {
        let interval = ctx.config.quality_interval;
        let is_due = is_first || self.quality_at.is_none_or(|told| told + interval <= ctx.now.mono);
        if is_due && let Some(fact) = &self.fact {
            self.quality_at = Some(ctx.now.mono);
            ctx.out.fact(Fact::Call(measured(fact.clone(), parties)));
        }
    }

    /// Tells the media engine the hearing.
    pub(super) fn tell_engine(&mut self, call: CallKey, hearing: Hearing, out: &mut Step) {
        if self.hearing != hearing {
            self.hearing.clone_from(&hearing);
            out.media(MediaCommand::Hear { call, hearing });
        }
    }
}

/// A fact with how the sound of each party fares.
fn measured(mut fact: CallFact, parties: &Parties) -> CallFact {
    for (told, party) in fact.parties.iter_mut().zip(parties.iter()) {
        told.quality = party.quality;
    }
    fact
}
