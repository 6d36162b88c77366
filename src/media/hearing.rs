use super::LegId;
use crate::model::Activity;
use serde::de::{Deserialize, Deserializer, Error};
use std::collections::{BTreeMap, BTreeSet};

/// How loud a speaker is for a listener, in 1/256; 256 is unity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gain(pub u16);

impl Gain {
    /// As it comes. One speaker at unity is relayed, not mixed.
    pub const UNITY: Gain = Gain(256);

    /// From decibels, at most ±40.
    pub fn from_db(db: f32) -> Gain {
        let factor = 10_f32.powf(db.clamp(-40.0, 40.0) / 20.0);
        Gain((factor * f32::from(Gain::UNITY.0)).round() as u16)
    }

    /// As configured: decibels between two bounds.
    pub fn from_db_between<'de, D: Deserializer<'de>, const LEAST: i8, const MOST: i8>(
        deserializer: D,
    ) -> Result<Gain, D::Error> {
        let db = f32::deserialize(deserializer)?;
        if !(f32::from(LEAST)..=f32::from(MOST)).contains(&db) {
            return Err(D::Error::custom(format_args!("must be {LEAST} to {MOST}")));
        }
        Ok(Gain::from_db(db))
    }
}

/// What a leg is, as far as hearing goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HearingRole {
    /// An agent, or any other party of ours.
    Agent,
    /// A customer, or what else is on the other side (music, a queue, another site).
    Customer,
    /// A supervisor of the call.
    Supervisor {
        /// What it does.
        activity: Activity,
        /// The leg that it coaches; `None`, or a leg not named: nobody hears it, whatever the
        /// activity. In Coach it must be an agent. In BargeIn it may be a customer, once the agent
        /// is gone and the supervisor has taken over.
        coached: Option<LegId>,
        /// It hears agents only (where listening to customers is unlawful), and in BargeIn is heard
        /// by the coached agent only.
        agent_side_only: bool,
    },
}

/// Rules that hold for every call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HearingRules {
    /// Several supervisors of a call hear each other.
    pub supervisors_hear_each_other: bool,
    /// How loud a supervisor is for the parties that hear it.
    pub whisper: Gain,
    /// How loud a customer is for an agent while a supervisor speaks to that agent.
    pub duck: Gain,
}

impl Default for HearingRules {
    fn default() -> Self {
        Self { supervisors_hear_each_other: false, whisper: Gain::UNITY, duck: Gain::UNITY }
    }
}

/// Which leg hears which: `hears[listener][speaker]`, empty by default. A cell is set, or it is
/// silence.
///
/// | activity | supervisor hears | agent hears | customer hears |
/// |---|---|---|---|
/// | ListenIn | agent, customer | customer | agent |
/// | Coach | agent, customer | customer, supervisor | agent |
/// | BargeIn | agent, customer | customer, supervisor | agent, supervisor |
/// | agent side only | agent | customer (, supervisor if coaching) | agent |
///
/// It keeps the roles beside the cells: from the roles alone follows what may reach a listener at
/// most, and the packets sent are held against that ([`Hearing::permits`]), so that a wrong cell is
/// silence and an alarm, not a leak.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hearing {
    roles: BTreeMap<LegId, HearingRole>,
    rules: HearingRules,
    hears: BTreeMap<(LegId, LegId), Gain>,
}

impl Hearing {
    /// The table above for these legs, supervisors not hearing each other.
    pub fn of(roles: &[(LegId, HearingRole)]) -> Self {
        Self::with(roles, HearingRules::default())
    }

    /// The table above for these legs. A leg named twice hears nobody and is heard by nobody.
    pub fn with(roles: &[(LegId, HearingRole)], rules: HearingRules) -> Self {
        let mut named = BTreeMap::new();
        let mut twice = BTreeSet::new();
        for &(leg, role) in roles {
            if named.insert(leg, role).is_some() {
                twice.insert(leg);
            }
        }
        named.retain(|leg, _| !twice.contains(leg));
        let mut hearing = Self { roles: named, rules, ..Self::default() };
        hearing.fill();
        hearing
    }

    /// The same with one cell changed; `None` empties it. For volumes and mutes; no cell changes
    /// what [`Hearing::permits`].
    pub fn cell(mut self, listener: LegId, speaker: LegId, gain: Option<Gain>) -> Self {
        match gain {
            Some(gain) => self.hears.insert((listener, speaker), gain),
            None => self.hears.remove(&(listener, speaker)),
        };
        self
    }

    /// How loud the listener hears the speaker; `None` is silence.
    pub fn gain(&self, listener: LegId, speaker: LegId) -> Option<Gain> {
        self.hears.get(&(listener, speaker)).copied().filter(|gain| gain.0 > 0)
    }

    /// The listener hears a speaker.
    pub fn hears_somebody(&self, listener: LegId) -> bool {
        let mut heard = self.hears.iter().filter(|((by, _), _)| *by == listener);
        heard.any(|(_, gain)| gain.0 > 0)
    }

    /// What the speaker's loudness for the listener is times while a supervisor speaks to the
    /// listener.
    pub fn ducked(&self, listener: LegId, speaker: LegId) -> Gain {
        match (self.role(listener), self.role(speaker)) {
            (Some(HearingRole::Agent), Some(HearingRole::Customer)) => self.rules.duck,
            _ => Gain::UNITY,
        }
    }

    /// What the leg is.
    pub fn role(&self, leg: LegId) -> Option<HearingRole> {
        self.roles.get(&leg).copied()
    }

    /// Whether the leg is a supervisor's.
    pub fn is_supervisor(&self, leg: LegId) -> bool {
        matches!(self.role(leg), Some(HearingRole::Supervisor { .. }))
    }

    /// What the roles allow at most, whatever the cells say. This is what the leak guard asks,
    /// packet by packet.
    pub fn permits(&self, listener: LegId, speaker: LegId) -> bool {
        if listener == speaker {
            return false;
        }
        let (Some(hearer), Some(talker)) = (self.role(listener), self.role(speaker)) else {
            return false;
        };
        match talker {
            HearingRole::Supervisor { activity, coached, agent_side_only } => {
                let coached = coached.filter(|leg| match self.role(*leg) {
                    Some(HearingRole::Agent) => true,
                    Some(HearingRole::Customer) => {
                        activity == Activity::BargeIn && !agent_side_only
                    }
                    Some(HearingRole::Supervisor { .. }) | None => false,
                });
                match hearer {
                    HearingRole::Supervisor { .. } => self.rules.supervisors_hear_each_other,
                    HearingRole::Agent | HearingRole::Customer => {
                        let reach = match (activity, agent_side_only) {
                            (Activity::ListenIn, _) => Reach::Nobody,
                            (Activity::Coach, _) | (Activity::BargeIn, true) => Reach::Coached,
                            (Activity::BargeIn, false) => Reach::Everybody,
                        };
                        match (reach, coached) {
                            (Reach::Everybody, Some(_)) => true,
                            (Reach::Coached, Some(agent)) => agent == listener,
                            (Reach::Everybody | Reach::Coached, None) | (Reach::Nobody, _) => false,
                        }
                    }
                }
            }
            HearingRole::Agent => true,
            HearingRole::Customer => match hearer {
                HearingRole::Supervisor { agent_side_only, .. } => !agent_side_only,
                HearingRole::Agent | HearingRole::Customer => true,
            },
        }
    }

    /// Every leg it names.
    pub fn legs(&self) -> impl Iterator<Item = LegId> + '_ {
        self.roles.keys().copied()
    }

    fn fill(&mut self) {
        let legs: Vec<_> = self.legs().collect();
        for &listener in &legs {
            for &speaker in &legs {
                if self.permits(listener, speaker) {
                    let whispers = self.is_supervisor(speaker) && !self.is_supervisor(listener);
                    let gain = if whispers { self.rules.whisper } else { Gain::UNITY };
                    self.hears.insert((listener, speaker), gain);
                }
            }
        }
    }
}

/// How far a supervisor's voice goes.
enum Reach {
    Nobody,
    Coached,
    Everybody,
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGENT: LegId = LegId(1);
    const CUSTOMER: LegId = LegId(2);
    const SUPERVISOR: LegId = LegId(3);
    const OTHER: LegId = LegId(4);

    fn supervisor(
        activity: Activity,
        coached: Option<LegId>,
        agent_side_only: bool,
    ) -> HearingRole {
        HearingRole::Supervisor { activity, coached, agent_side_only }
    }

    fn who_hears_whom(hearing: &Hearing) -> Vec<(u64, u64)> {
        let mut pairs = Vec::new();
        for listener in 1..=4 {
            for speaker in 1..=4 {
                if hearing.gain(LegId(listener), LegId(speaker)).is_some() {
                    pairs.push((listener, speaker));
                }
            }
        }
        pairs
    }

    fn of(activity: Activity, coached: Option<LegId>, agent_side_only: bool) -> Vec<(u64, u64)> {
        who_hears_whom(&Hearing::of(&[
            (AGENT, HearingRole::Agent),
            (CUSTOMER, HearingRole::Customer),
            (SUPERVISOR, supervisor(activity, coached, agent_side_only)),
        ]))
    }

    #[test]
    fn the_table_of_the_mission_is_this_table() {
        let agent = Some(AGENT);
        assert_eq!(of(Activity::ListenIn, agent, false), [(1, 2), (2, 1), (3, 1), (3, 2)]);
        assert_eq!(of(Activity::Coach, agent, false), [(1, 2), (1, 3), (2, 1), (3, 1), (3, 2)]);
        assert_eq!(
            of(Activity::BargeIn, agent, false),
            [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2)]
        );
        assert_eq!(of(Activity::ListenIn, agent, true), [(1, 2), (2, 1), (3, 1)]);
        assert_eq!(of(Activity::Coach, agent, true), [(1, 2), (1, 3), (2, 1), (3, 1)]);
        assert_eq!(of(Activity::BargeIn, agent, true), [(1, 2), (1, 3), (2, 1), (3, 1)]);
    }

    #[test]
    fn nobody_hears_a_supervisor_whose_coached_leg_is_unknown_or_a_customers() {
        for activity in Activity::ALL {
            for coached in [None, Some(OTHER), Some(SUPERVISOR)] {
                assert_eq!(of(*activity, coached, false), [(1, 2), (2, 1), (3, 1), (3, 2)]);
            }
        }
        assert_eq!(of(Activity::Coach, Some(CUSTOMER), false), [(1, 2), (2, 1), (3, 1), (3, 2)]);
    }

    #[test]
    fn a_supervisor_who_has_taken_over_is_heard_by_the_customer() {
        let hearing = Hearing::of(&[
            (CUSTOMER, HearingRole::Customer),
            (SUPERVISOR, supervisor(Activity::BargeIn, Some(CUSTOMER), false)),
        ]);
        assert_eq!(who_hears_whom(&hearing), [(2, 3), (3, 2)]);
    }

    #[test]
    fn a_coach_reaches_the_coached_agent_and_no_other() {
        let hearing = Hearing::of(&[
            (AGENT, HearingRole::Agent),
            (OTHER, HearingRole::Agent),
            (SUPERVISOR, supervisor(Activity::Coach, Some(OTHER), false)),
        ]);
        assert_eq!(who_hears_whom(&hearing), [(1, 4), (3, 1), (3, 4), (4, 1), (4, 3)]);
    }

    #[test]
    fn supervisors_hear_each_other_only_if_the_rules_say_so() {
        let roles = [
            (AGENT, HearingRole::Agent),
            (SUPERVISOR, supervisor(Activity::ListenIn, None, false)),
            (OTHER, supervisor(Activity::Coach, Some(AGENT), false)),
        ];
        assert_eq!(who_hears_whom(&Hearing::of(&roles)), [(1, 4), (3, 1), (4, 1)]);
        let rules = HearingRules { supervisors_hear_each_other: true, ..HearingRules::default() };
        let together = Hearing::with(&roles, rules);
        assert_eq!(who_hears_whom(&together), [(1, 4), (3, 1), (3, 4), (4, 1), (4, 3)]);
    }

    #[test]
    fn a_whisper_has_its_own_loudness_and_only_a_customer_goes_softer_for_an_agent() {
        let rules = HearingRules {
            whisper: Gain::from_db(6.0),
            duck: Gain::from_db(-12.0),
            ..HearingRules::default()
        };
        let hearing = Hearing::with(
            &[
                (AGENT, HearingRole::Agent),
                (CUSTOMER, HearingRole::Customer),
                (SUPERVISOR, supervisor(Activity::Coach, Some(AGENT), false)),
            ],
            rules,
        );
        assert_eq!(hearing.gain(AGENT, SUPERVISOR), Some(Gain(511)));
        assert_eq!(hearing.gain(AGENT, CUSTOMER), Some(Gain::UNITY));
        assert_eq!(hearing.gain(SUPERVISOR, AGENT), Some(Gain::UNITY));
        assert_eq!(hearing.ducked(AGENT, CUSTOMER), Gain(64));
        for (listener, speaker) in [(CUSTOMER, AGENT), (SUPERVISOR, CUSTOMER), (AGENT, SUPERVISOR)]
        {
            assert_eq!(hearing.ducked(listener, speaker), Gain::UNITY);
        }
    }

    #[test]
    fn a_muted_agent_is_heard_by_the_supervisor_alone() {
        let hearing = Hearing::of(&[
            (AGENT, HearingRole::Agent),
            (CUSTOMER, HearingRole::Customer),
            (SUPERVISOR, supervisor(Activity::BargeIn, Some(AGENT), false)),
        ])
        .cell(CUSTOMER, AGENT, None);
        assert_eq!(who_hears_whom(&hearing), [(1, 2), (1, 3), (2, 3), (3, 1), (3, 2)]);
    }

    #[test]
    fn a_leg_with_two_roles_has_none() {
        let hearing = Hearing::of(&[
            (AGENT, HearingRole::Agent),
            (CUSTOMER, HearingRole::Customer),
            (AGENT, HearingRole::Customer),
        ]);
        assert_eq!(who_hears_whom(&hearing), []);
    }

    #[test]
    fn a_tampered_cell_changes_nothing_of_what_is_permitted() {
        let hearing = Hearing::of(&[
            (CUSTOMER, HearingRole::Customer),
            (SUPERVISOR, supervisor(Activity::ListenIn, None, false)),
        ])
        .cell(CUSTOMER, SUPERVISOR, Some(Gain::UNITY));
        assert_eq!(hearing.gain(CUSTOMER, SUPERVISOR), Some(Gain::UNITY));
        assert!(!hearing.permits(CUSTOMER, SUPERVISOR));
    }
}
