//! A naive model of calls.
//!
//! The model knows nothing of parties or roles in the engine. It reads the published [`CallFact`]s,
//! and holds each `Hear` against the table of the mission; it counts the ends of legs and ports.

use super::harness::{CUSTOMER, DEVICES, Harness, Line, OTHER};
use crate::media::{CallKey, Hearing, HearingRole};
use crate::model::{Activity, CallFact, DeviceId, LegState, Number, PartyFact, PartyRole, Scope};
use crate::sip::leg::{LegEvent, LegId, LegSource};

impl Harness {
    /// The peer of a leg says who is at its end. The model's reading: an internal line is
    /// another party's once it is named otherwise than it was known, and a stranger's when that
    /// party is on the call already, or has lost its own line to somebody.
    pub(super) fn is_named(&mut self, leg: LegId, name: &str) {
        let line = self.lines[&leg].clone();
        let has_alias = !self.behind.contains_key(OTHER);
        let listed = |(device, number): &(&str, &str)| {
            name == *number || has_alias && *device == OTHER && name == "1002"
        };
        let learned = line
            .learned
            .iter()
            .find(|(known, _)| known.as_str() == name)
            .map(|(_, device)| device.clone());
        let device = learned.or_else(|| {
            DEVICES.iter().copied().find(listed).map(|(device, _)| DeviceId::from(device))
        });
        let is_own = match &line.party {
            Ok(own) => device.as_ref() == Some(own),
            Err(number) => number.as_str() == name || line.known_as.as_deref() == Some(name),
        };
        let supervises = line
            .party
            .as_ref()
            .is_ok_and(|device| self.role_on_call(&line, device) == Some(PartyRole::Supervisor));
        let (calls, rings) = (!line.outgoing && !line.answered, line.outgoing && !line.answered);
        if self.is_internal_line(leg) && !line.ended && !is_own && !supervises {
            let has_no_aliases =
                line.party.as_ref().is_ok_and(|own| !has_alias || own.as_str() != OTHER);
            let rings =
                rings && line.party.as_ref().is_ok_and(|device| !self.behind.contains_key(device));
            match (&line.party, &device) {
                (_, None) if calls && name == "anonymous" => {}
                (Ok(_), None) if rings && has_no_aliases && name == "anonymous" => {}
                (Ok(own), None) if (calls || rings) && has_no_aliases => {
                    let (own, line) = (own.clone(), self.line(leg));
                    line.learned.retain(|(_, device)| *device != own);
                    line.learned.push((name.into(), own));
                }
                _ => self.is_lost_to(leg, name, device),
            }
        }
        if !self.is_internal_line(leg) && line.call.is_some() && !line.ended && !is_own {
            let is_known = line.known_as.as_deref() == Some(name);
            let outside = self.line(leg);
            outside.known_as = Some(name.to_owned());
            if outside.answered && !is_known && outside.party.is_err() {
                outside.party = Err(name.into());
            }
        }
        self.leg(LegEvent::ConnectedIdentity { leg, names: vec![name.into()], withheld: false });
    }

    /// The switch of the peer of this leg may hand it on without a word.
    fn is_mute(&self, leg: LegId) -> bool {
        let peer = self.lines.get(&leg).and_then(|line| line.peer.as_ref().ok());
        let trunk = peer.and_then(|device| self.behind.get(device));
        trunk.is_some_and(|trunk| trunk == "mute")
    }

    fn role_on_call(&self, line: &Line, device: &DeviceId) -> Option<PartyRole> {
        let call = line
            .call
            .and_then(|key| self.b2bua.calls.get(key))
            .and_then(|call| self.calls.get(&call.id));
        call.and_then(|call| call.party_of(device)).map(|party| party.role)
    }

    fn is_lost_to(&mut self, leg: LegId, name: &str, device: Option<DeviceId>) {
        let line = self.lines[&leg].clone();
        let shown = |party: &Result<DeviceId, Number>| match party {
            Ok(device) => DEVICES
                .iter()
                .find(|(known, _)| *known == device.as_str())
                .map_or("?".into(), |(_, number)| Number::from(*number)),
            Err(number) => number.clone(),
        };
        let is_supervisor = |other: &Line| {
            other
                .party
                .as_ref()
                .is_ok_and(|device| self.role_on_call(other, device) == Some(PartyRole::Supervisor))
        };
        let stranger =
            device.as_ref().filter(|device| line.peer.as_ref() != Ok(*device)).and_then(|device| {
                let mut own = self.lines.values().filter(|other| {
                    !other.ended && other.peer.as_ref() == Ok(device) && other.call.is_some()
                });
                own.find(|other| other.party.as_ref() != Ok(device) && !is_supervisor(other))
                    .map(|other| shown(&other.party))
            });
        let next = device
            .clone()
            .filter(|device| self.role_on_call(&line, device).is_none() && stranger.is_none());
        let lost = line.party.as_ref().ok().filter(|lost| line.peer.as_ref() == Ok(*lost)).cloned();
        let party = next.clone().ok_or_else(|| stranger.unwrap_or_else(|| name.into()));
        let bearing: Vec<LegId> = lost
            .into_iter()
            .flat_map(|lost| {
                let bears = |other: &&Line| {
                    !other.ended
                        && other.party.as_ref() == Ok(&lost)
                        && other.peer.as_ref() != Ok(&lost)
                        && !is_supervisor(other)
                };
                self.lines.values().filter(bears).map(|other| other.leg).collect::<Vec<_>>()
            })
            .collect();
        let changed = self.line(leg);
        changed.party = party;
        changed.known_as = Some(name.to_owned());
        for other in bearing {
            self.is_lost_to(other, name, next.clone());
        }
    }

    /// Whether a leg is with an internal telephone, whichever party has it now.
    pub(super) fn is_internal_line(&self, leg: LegId) -> bool {
        let call = self.lines[&leg].call.and_then(|key| self.b2bua.calls.get(key));
        let party = call.and_then(|call| call.parties.get(leg));
        party.is_some_and(|party| {
            matches!(
                &party.peer,
                LegSource::Account(device) if device.as_str() != CUSTOMER
            )
        })
    }

    /// Nobody is on a call as a supervisor without a monitor that says so.
    pub(super) fn hold_supervisors_against_monitors(&self) {
        for call in self.calls.values() {
            for party in call.parties.iter().filter(|party| party.state != LegState::Released) {
                if party.role == PartyRole::Supervisor {
                    let monitor =
                        party.device.as_ref().and_then(|device| self.monitors.get(device));
                    let state = monitor.map(|monitor| &monitor.state);
                    assert_eq!(state.and_then(|state| state.call()), Some(&call.id), "{party:?}");
                }
            }
        }
    }

    pub(super) fn hold_against_table(&self, key: CallKey, hearing: &Hearing) {
        let id = self.b2bua.calls.get(key).map(|call| call.id.clone());
        let fact = id.as_ref().and_then(|id| self.calls.get(id));
        for coach in self.lines.values() {
            let is_coach = |role| {
                matches!(role, Some(HearingRole::Supervisor { activity: Activity::Coach, .. }))
            };
            if is_coach(hearing.role(coach.leg)) {
                let supervisor = |leg: &LegId| hearing.is_supervisor(*leg);
                let ears: Vec<LegId> = hearing
                    .legs()
                    .filter(|leg| !supervisor(leg) && hearing.gain(*leg, coach.leg).is_some())
                    .collect();
                assert!(ears.len() <= 1, "a coach is heard by one agent alone");
                assert!(
                    ears.iter().all(|ear| !self.is_mute(*ear) && !self.is_mute(coach.leg)),
                    "nobody knows who hears the whisper"
                );
            }
        }
        for waiting in self.waiting.keys() {
            let cell = |leg: LegId| hearing.gain(leg, *waiting).or(hearing.gain(*waiting, leg));
            assert!(
                hearing.legs().all(|leg| cell(leg).is_none()),
                "not invited yet, and on the line"
            );
        }
        let named: Vec<&Line> = hearing.legs().filter_map(|leg| self.lines.get(&leg)).collect();
        for &listener in &named {
            for &speaker in &named {
                if hearing.gain(listener.leg, speaker.leg).is_none() {
                    continue;
                }
                assert!(!listener.closed && !speaker.closed && !listener.ended && !speaker.ended);
                assert_eq!(listener.call, Some(key));
                assert_eq!(speaker.call, Some(key));
                let fact = fact.expect("a call that lives");
                let (listening, speaking) = (self.party(fact, listener), self.party(fact, speaker));
                assert!(
                    self.table_allows(fact, listening, speaking),
                    "{listening:?}\nmust not hear\n{speaking:?}\nin\n{fact:#?}"
                );
                for party in [listening, speaking] {
                    if let Some(device) = &party.device
                        && self.held.contains(&(device.clone(), fact.id.clone()))
                    {
                        let supervised = listening.role == PartyRole::Supervisor
                            || speaking.role == PartyRole::Supervisor;
                        assert!(supervised, "heard while on hold");
                        let another = listening.device.as_ref() != Some(device)
                            && listening.role != PartyRole::Supervisor;
                        let whispered = speaking.role == PartyRole::Supervisor
                            && speaking.monitors == listening.device;
                        assert!(!another || whispered, "hears a supervisor while on hold");
                    }
                }
            }
        }
    }

    /// The party of the call that a line is. Two outside may have the same number: they are told
    /// apart by their order.
    fn party<'a>(&self, fact: &'a CallFact, line: &Line) -> &'a PartyFact {
        let is_like = |party: &&PartyFact| match &line.party {
            Ok(device) => party.device.as_ref() == Some(device),
            Err(number) => party.device.is_none() && party.number == *number,
        };
        let alike = || {
            fact.parties.iter().filter(|party| party.state != LegState::Released).filter(is_like)
        };
        let twins = self
            .lines
            .values()
            .filter(|other| !other.ended && other.call == line.call && other.party == line.party);
        let turn = twins.take_while(|other| other.leg != line.leg).count();
        let found = alike().nth(turn).or_else(|| alike().next_back());
        found.unwrap_or_else(|| panic!("{line:?} is not on {fact:#?}"))
    }

    /// The table of the mission, read from the fact alone.
    fn table_allows(&self, fact: &CallFact, listener: &PartyFact, speaker: &PartyFact) -> bool {
        let there = |party: &PartyFact| party.state != LegState::Released;
        let config = &self.b2bua.config;
        let talks =
            |party: &PartyFact| matches!(party.state, LegState::Established | LegState::Held);
        let principals = || {
            fact.parties.iter().filter(|party| there(party) && party.role != PartyRole::Supervisor)
        };
        let takes_over = |supervisor: &PartyFact| {
            let alone = principals().count() == 1
                && principals().all(|party| party.role == PartyRole::Customer);
            config.supervision.takeover && alone && supervisor.activity == Some(Activity::BargeIn)
        };
        let limited = |supervisor: &PartyFact| {
            let monitor = supervisor.device.as_ref().and_then(|device| self.monitors.get(device));
            config.agent_side_only || monitor.is_some_and(|monitor| monitor.agent_side_only)
        };
        let is_silenced =
            speaker.muted || speaker.muted_by_supervisor && listener.role != PartyRole::Supervisor;
        if std::ptr::eq(listener, speaker) || !there(listener) || !there(speaker) || is_silenced {
            return false;
        }
        match (listener.role, speaker.role) {
            (PartyRole::Supervisor, PartyRole::Supervisor) => false,
            (PartyRole::Supervisor, PartyRole::Agent) => talks(listener),
            (PartyRole::Supervisor, PartyRole::Customer) => {
                talks(listener) && (!limited(listener) || takes_over(listener))
            }
            (PartyRole::Agent | PartyRole::Customer, PartyRole::Supervisor) => {
                let agents =
                    || principals().filter(|party| party.role == PartyRole::Agent && talks(party));
                let monitor = speaker.device.as_ref().and_then(|device| self.monitors.get(device));
                let target = agents().find(|party| {
                    monitor.is_some_and(|monitor| party.device.as_ref() == Some(&monitor.target))
                });
                let scope = monitor.map(|monitor| monitor.scope);
                // With scope Call the whisper moves to an agent who is there, never to a customer.
                let next = agents()
                    .find(|party| scope == Some(Scope::Call) && std::ptr::eq(*party, listener));
                let any = agents().next().filter(|_| scope == Some(Scope::Call));
                let coached = target.or(next).or(any);
                let only_coached = coached.is_some_and(|agent| std::ptr::eq(agent, listener));
                talks(speaker)
                    && talks(listener)
                    && match speaker.activity {
                        Some(Activity::ListenIn) | None => false,
                        Some(Activity::Coach) => only_coached,
                        Some(Activity::BargeIn) if takes_over(speaker) => true,
                        Some(Activity::BargeIn) if limited(speaker) => only_coached,
                        Some(Activity::BargeIn) => coached.is_some(),
                    }
            }
            (PartyRole::Agent | PartyRole::Customer, PartyRole::Agent | PartyRole::Customer) => {
                true
            }
        }
    }
}
