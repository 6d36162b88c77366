//! What every backend of `undertone.telephony.v1` must do, in whatever language it is written: the
//! rules are `undertone::contract_check`, and `undertone contract-check` is for backends of others.

mod backends;
mod checked;
mod joining;
mod mistaken;
mod reflection;
mod seam;

use std::time::Duration;
use undertone::contract_check::{House, Phones, Rule, RuleOutcome, check};
use undertone::telephony::connection::TelephonyChannel;

/// How long anything may take. Generous: the machine may be busy, and nothing waits longer than it
/// must.
const PATIENCE: Duration = Duration::from_secs(30);

/// Nothing is broken, and nothing is left out but what may be.
async fn keeps_every_rule(
    channel: TelephonyChannel,
    phones: impl Phones,
    may_be_left_out: &[Rule],
) {
    let report = check(channel, &house(), Some(phones), PATIENCE, |_| {}).await.unwrap();
    for told in &report.rules {
        match &told.outcome {
            RuleOutcome::Ok => {}
            RuleOutcome::Skipped { .. } if may_be_left_out.contains(&told.rule) => {}
            RuleOutcome::Skipped { .. } | RuleOutcome::Failed { .. } => panic!("{told}"),
        }
    }
    assert_eq!(report.rules.len(), Rule::ALL.len());
}

fn house() -> House {
    House {
        supervisor: ("5005".into(), "meg".into()),
        second: ("5006".into(), "otto".into()),
        agent: ("5001".into(), "bob".into()),
        colleague: ("5002".into(), "eve".into()),
        customer: "7001".into(),
    }
}
