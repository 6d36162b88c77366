//! What came of a check, for people and for machines.

use super::Rule;
use crate::model::PlainText;
use serde::Serialize;
use std::fmt;

/// What came of every rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Name and version of the backend, as it describes itself.
    pub backend: String,
    /// The rules in the order in which they were checked.
    pub rules: Vec<RuleReport>,
}

/// What came of one rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleReport {
    /// The rule.
    pub rule: Rule,
    /// What came of it.
    pub outcome: RuleOutcome,
}

/// Whether a backend keeps a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleOutcome {
    /// It does.
    Ok,
    /// It does not.
    Failed {
        /// What it should have done.
        expected: String,
        /// What it did.
        came: String,
    },
    /// It was not asked for.
    Skipped {
        /// Why not.
        why: String,
    },
}

impl Report {
    /// Rules that are kept, broken, and left out.
    pub fn counts(&self) -> (usize, usize, usize) {
        let outcomes = || self.rules.iter().map(|rule| &rule.outcome);
        let failed = outcomes().filter(|outcome| matches!(outcome, RuleOutcome::Failed { .. }));
        let skipped = outcomes().filter(|outcome| matches!(outcome, RuleOutcome::Skipped { .. }));
        let (failed, skipped) = (failed.count(), skipped.count());
        (self.rules.len() - failed - skipped, failed, skipped)
    }

    /// No rule is broken.
    pub fn is_good(&self) -> bool {
        self.counts().1 == 0
    }
}

/// The last line, for people.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ok, failed, skipped) = self.counts();
        let backend = PlainText(&self.backend);
        write!(f, "{backend}: {ok} rules ok, {failed} failed, {skipped} skipped")
    }
}

/// A rule and its outcome, for people.
impl fmt::Display for RuleReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sentence = self.rule.sentence();
        match &self.outcome {
            RuleOutcome::Ok => write!(f, "ok       {sentence}"),
            RuleOutcome::Failed { expected, came } => write!(
                f,
                "FAILED   {sentence}\n           expected: {}\n           came:     {}",
                PlainText(expected),
                PlainText(came)
            ),
            RuleOutcome::Skipped { why } => {
                write!(f, "skipped  {sentence}\n           because {}", PlainText(why))
            }
        }
    }
}

impl Serialize for RuleReport {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("rule", &format!("{:?}", self.rule))?;
        map.serialize_entry("sentence", self.rule.sentence())?;
        match &self.outcome {
            RuleOutcome::Ok => map.serialize_entry("outcome", "ok")?,
            RuleOutcome::Failed { expected, came } => {
                map.serialize_entry("outcome", "failed")?;
                map.serialize_entry("expected", expected)?;
                map.serialize_entry("came", came)?;
            }
            RuleOutcome::Skipped { why } => {
                map.serialize_entry("outcome", "skipped")?;
                map.serialize_entry("why", why)?;
            }
        }
        map.end()
    }
}
