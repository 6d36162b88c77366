//! How parties come to a call that goes on, and how two calls become one: transfers, consultations
//! and conferences, as the SIP backend does them.

use super::{SimulatedSwitch, not_now, party};
use crate::model::{
    CallFact, CallId, CallType, DeviceId, Fact, Failure, LegState, Now, Number, PartyFact,
    PartyRole, Reason, Refusal, TransferStep, UserData,
};
use crate::supervision::LegOutcome;

/// More parties than a listener follows.
const MOST_PARTIES: usize = 8;

/// What is to become of the party that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TransferKind {
    /// It leaves the call.
    Transfer,
    /// It stays on the call.
    Conference,
}

/// Somebody rings for a call that others are on.
#[derive(Clone, Debug)]
pub(super) struct Newcomer {
    by: DeviceId,
    number: Number,
    kind: TransferKind,
}

impl SimulatedSwitch {
    /// A transfer or a conference. A refusal has changed nothing.
    pub(super) fn join_in(
        &mut self,
        device: &DeviceId,
        call: &CallId,
        step: &TransferStep,
        kind: TransferKind,
        now: Now,
    ) -> Result<(), Refusal> {
        self.principal_leg(device, call)?;
        match step {
            TransferStep::SingleStep { destination, user_data } => {
                self.single_step(device, call, destination, user_data, kind)
            }
            TransferStep::Initiate { destination, user_data } => {
                self.consult(device, call, destination, user_data, now)
            }
            TransferStep::Complete => self.complete(device, call, kind, now),
        }
    }

    /// The destination rings: for the device, which leaves, or beside it.
    fn single_step(
        &mut self,
        device: &DeviceId,
        call: &CallId,
        destination: &Number,
        user_data: &UserData,
        kind: TransferKind,
    ) -> Result<(), Refusal> {
        let fact = self.call(call)?;
        may_call_in(fact, device, kind)?;
        let user_data = with_given(fact, user_data)?;
        let rung = self.route(destination)?;
        let is_here = principals(fact).any(|party| match &rung {
            Some(rung) => party.device.as_ref() == Some(rung),
            None => party.device.is_none() && party.number == *destination,
        });
        if is_here {
            return Err(is_busy(destination));
        }
        let newcomer = self.called(rung, destination);
        if let Some(fact) = self.calls.get_mut(call) {
            fact.user_data = user_data;
            fact.parties.push(newcomer);
        }
        if kind == TransferKind::Transfer {
            self.leg(Some(device), call)?.state = LegState::Released;
        }
        self.await_newcomer(device, call, destination, kind);
        self.touch(call);
        Ok(())
    }

    /// Holds the call, and calls another party to ask about it.
    fn consult(
        &mut self,
        device: &DeviceId,
        call: &CallId,
        destination: &Number,
        user_data: &UserData,
        now: Now,
    ) -> Result<(), Refusal> {
        let number = self.reachable(device)?.number.clone();
        let fact = self.call(call)?;
        may_be_asked_about(fact, device)?;
        if self.consultation(device, call).is_some() {
            return Err(invalid("Another call is already connected with this one."));
        }
        let user_data = with_given(fact, user_data)?;
        let talks_elsewhere = self.calls.values().any(|other| {
            other.id != *call
                && other.party_of(device).is_some_and(|leg| leg.state != LegState::Held)
        });
        if talks_elsewhere {
            return Err(Refusal::number(Reason::InvalidState, &number, "Device '{}' is busy."));
        }
        let rung = self.route(destination)?;
        if rung.as_ref() == Some(device) {
            return Err(is_busy(destination));
        }
        let caller = PartyFact {
            role: self.role(device),
            state: LegState::Dialing,
            ..party(Some(device.clone()), number.clone())
        };
        let callee = self.called(rung, destination);
        let asking =
            self.begin(CallType::Consult, number, destination.clone(), [caller, callee], now);
        if let Some(asking) = self.calls.get_mut(&asking) {
            asking.parent = Some(call.clone());
            asking.user_data = user_data;
        }
        self.leg(Some(device), call)?.state = LegState::Held;
        self.touch(call);
        Ok(())
    }

    /// The call and the one that the device has made to ask about it; either may be named.
    fn consultation(&self, device: &DeviceId, call: &CallId) -> Option<(CallId, CallId)> {
        let asks = |asking: &&CallFact| {
            asking.parent.is_some()
                && asking.party_of(device).is_some()
                && asking.parties.first().is_some_and(|party| party.device.as_ref() == Some(device))
        };
        let pair = |asking: &CallFact| Some((asking.parent.clone()?, asking.id.clone()));
        let named = self.calls.get(call).filter(asks);
        let about = || {
            let mut asking = self.calls.values().filter(asks);
            asking.find(|asking| asking.parent.as_ref() == Some(call))
        };
        named.or_else(about).and_then(pair)
    }

    /// Joins the call and the one that was made to ask about it.
    fn complete(
        &mut self,
        device: &DeviceId,
        call: &CallId,
        kind: TransferKind,
        now: Now,
    ) -> Result<(), Refusal> {
        let pair = self.consultation(device, call);
        let (into, from) =
            pair.ok_or_else(|| invalid("No other call was made to ask about this one."))?;
        self.may_become_one(device, &into, &from)?;
        for (supervised, other) in [(&into, &from), (&from, &into)] {
            for supervisor in self.supervised_by_parties_of(supervised, other) {
                self.release(&supervisor, supervised);
                self.supervision.handle_leg(&supervisor, supervised, LegOutcome::Busy, now);
            }
        }
        self.supervision.handle_merged(&from, &into);
        self.become_one(device, &into, &from, kind)
    }

    fn may_become_one(
        &self,
        device: &DeviceId,
        into: &CallId,
        from: &CallId,
    ) -> Result<(), Refusal> {
        let (first, second) = (self.call(into)?, self.call(from)?);
        let gone = || invalid("One of the two calls is over.");
        let mine =
            (first.party_of(device).ok_or_else(gone)?, second.party_of(device).ok_or_else(gone)?);
        if mine.0.role != PartyRole::Agent || mine.1.role != PartyRole::Agent {
            return Err(invalid("Only an agent's two calls can become one."));
        }
        if self.newcomers.contains_key(into) || self.newcomers.contains_key(from) {
            return Err(invalid("One of the two calls is being transferred already."));
        }
        if !is_talking(mine.0) || !others(first, device).any(is_talking) {
            return Err(invalid("The first call is not established."));
        }
        let asked: Vec<_> = others(second, device).collect();
        let is_one_ringing = matches!(asked.as_slice(), [only] if only.state == LegState::Ringing);
        let all_talk =
            !asked.is_empty() && is_talking(mine.1) && asked.iter().all(|party| is_talking(party));
        if !all_talk && !is_one_ringing {
            return Err(invalid("The second call is not established."));
        }
        let is_on_both =
            |party: &PartyFact| party.device.as_ref().is_some_and(|it| is_principal(first, it));
        if asked.iter().any(|party| is_on_both(party)) {
            return Err(invalid("One party is on both calls."));
        }
        if principals(first).count() + asked.len() > MOST_PARTIES {
            return Err(invalid("There are too many parties for one call."));
        }
        Ok(())
    }

    /// Supervisors on one call that are parties of the other: of what comes of both they would be
    /// twice.
    fn supervised_by_parties_of(&self, call: &CallId, other: &CallId) -> Vec<DeviceId> {
        let (Some(call), Some(other)) = (self.calls.get(call), self.calls.get(other)) else {
            return Vec::new();
        };
        let here = call.parties.iter().filter(|party| party.state != LegState::Released);
        let supervisors = here.filter(|party| party.role == PartyRole::Supervisor);
        let devices = supervisors.filter_map(|party| party.device.clone());
        devices.filter(|supervisor| is_principal(other, supervisor)).collect()
    }

    /// Whatever could be in the way was looked at before.
    fn become_one(
        &mut self,
        device: &DeviceId,
        into: &CallId,
        from: &CallId,
        kind: TransferKind,
    ) -> Result<(), Refusal> {
        let ended = self.calls.get_mut(from).ok_or_else(|| Refusal::no_call(from))?;
        let (dnis, user_data) = (ended.dnis.clone(), ended.user_data.clone());
        let moves = |party: &PartyFact| {
            party.state != LegState::Released && party.device.as_ref() != Some(device)
        };
        let (moved, mut left): (Vec<_>, Vec<_>) =
            std::mem::take(&mut ended.parties).into_iter().partition(moves);
        let is_muted = left.iter().any(|leg| leg.state != LegState::Released && leg.muted);
        for leg in &mut left {
            leg.state = LegState::Released;
        }
        ended.parties = left;
        let rings = moved
            .iter()
            .any(|party| party.role != PartyRole::Supervisor && party.state == LegState::Ringing);
        let call = self.calls.get_mut(into).ok_or_else(|| Refusal::no_call(into))?;
        call.user_data = call.user_data.with_what_fits(&user_data);
        call.parties.extend(moved);
        if kind == TransferKind::Conference {
            call.owner = Some(device.clone());
        }
        let asker = self.leg(Some(device), into)?;
        match kind {
            TransferKind::Transfer => asker.state = LegState::Released,
            TransferKind::Conference => {
                asker.state = LegState::Established;
                asker.muted |= is_muted;
            }
        }
        let joined: Vec<_> = self.heard.keys().filter(|(call, _)| call == from).cloned().collect();
        for key in joined {
            if let Some(heard) = self.heard.remove(&key) {
                self.heard.insert((into.clone(), key.1), heard);
            }
        }
        for mute in self.muted.iter_mut().filter(|mute| mute.call == *from) {
            mute.call.clone_from(into);
        }
        if rings {
            self.await_newcomer(device, into, &dnis, kind);
        }
        self.touch(into);
        self.touch(from);
        Ok(())
    }

    /// Releases another party of a conference: its owner may, and a supervisor that monitors it.
    pub(super) fn remove_participant(
        &mut self,
        device: &DeviceId,
        call: &CallId,
        participant: &Number,
    ) -> Result<(), Refusal> {
        self.leg(Some(device), call)?;
        let fact = self.call(call)?;
        if principals(fact).count() < 3 {
            return Err(invalid("The call is not a conference."));
        }
        let monitors = self.heard.contains_key(&(call.clone(), device.clone()));
        if fact.owner.as_ref() != Some(device) && !monitors {
            let message = "Only the owner of the conference, or a supervisor of it, can remove a participant.";
            return Err(Refusal::new(Reason::NotPermitted, message));
        }
        let places = fact.parties.iter().enumerate().filter(|(_, party)| {
            party.state != LegState::Released
                && party.role != PartyRole::Supervisor
                && party.device.as_ref() != Some(device)
                && party.number == *participant
        });
        let places: Vec<_> = places.map(|(place, party)| (place, party.state)).collect();
        match places.as_slice() {
            [] => Err(Refusal::not_found(format_args!("participant {participant}"))),
            [(place, state)] => {
                if *state == LegState::Ringing {
                    self.newcomers.remove(call);
                }
                self.hang_up_leg(call, *place)
            }
            _ => Err(Refusal::number(
                Reason::InvalidState,
                participant,
                "Several participants have the number '{}'.",
            )),
        }
    }

    /// Whom a transfer or a conference has called has answered.
    pub(super) fn newcomer_answers(&mut self, call: &CallId) {
        let Some(newcomer) = self.newcomers.remove(call) else {
            return;
        };
        if newcomer.kind == TransferKind::Conference
            && let Some(fact) = self.calls.get_mut(call)
        {
            fact.owner = Some(newcomer.by);
        }
    }

    /// Whom a transfer or a conference has called does not want the call: the party that asked is
    /// told, and called back when it has left.
    pub(super) fn newcomer_declines(&mut self, call: &CallId) {
        let Some(Newcomer { by, number, kind }) = self.newcomers.remove(call) else {
            return;
        };
        let pattern = "Number '{}' rejects the call.";
        self.facts.publish(Fact::Failed(Failure {
            device: by.clone(),
            call: Some(call.clone()),
            request_id: None,
            refusal: Refusal::number(Reason::InvalidState, &number, pattern),
        }));
        if kind == TransferKind::Conference {
            return;
        }
        let Ok(device) = self.reachable(&by) else { return };
        let recalled =
            PartyFact { role: self.role(&by), ..party(Some(by.clone()), device.number.clone()) };
        let is_alone = |fact: &&mut CallFact| principals(fact).any(is_talking);
        if let Some(fact) = self.calls.get_mut(call).filter(is_alone) {
            fact.parties.push(recalled);
        }
    }

    /// A party has left: nobody rings any more for a party that is gone, or for nobody else.
    pub(super) fn drop_moot_newcomer(&mut self, call: &CallId) {
        let (Some(newcomer), Some(fact)) = (self.newcomers.get(call), self.calls.get(call)) else {
            return;
        };
        let is_moot = match newcomer.kind {
            TransferKind::Transfer => !principals(fact).any(is_talking),
            TransferKind::Conference => {
                fact.party_of(&newcomer.by).is_none() || !others(fact, &newcomer.by).any(is_talking)
            }
        };
        if !is_moot {
            return;
        }
        self.newcomers.remove(call);
        let parties = self.calls.get_mut(call).into_iter().flat_map(|call| &mut call.parties);
        for ringing in parties
            .filter(|party| party.role != PartyRole::Supervisor && party.state == LegState::Ringing)
        {
            ringing.state = LegState::Released;
        }
    }

    /// A call that was made to ask about one that is over, or that its party has left, is a call
    /// like any other.
    pub(super) fn end_consultations(&mut self, about: &CallFact) {
        let mut ended = Vec::new();
        for call in self.calls.values_mut().filter(|call| call.parent.as_ref() == Some(&about.id)) {
            let asker = call.parties.first().and_then(|party| party.device.as_ref());
            if asker.is_none_or(|asker| about.party_of(asker).is_none()) {
                call.parent = None;
                ended.push(call.id.clone());
            }
        }
        for call in ended {
            self.touch(&call);
        }
    }

    fn await_newcomer(
        &mut self,
        by: &DeviceId,
        call: &CallId,
        number: &Number,
        kind: TransferKind,
    ) {
        let newcomer = Newcomer { by: by.clone(), number: number.clone(), kind };
        self.newcomers.insert(call.clone(), newcomer);
    }
}

/// The parties of a call that do not supervise it.
pub(super) fn principals(call: &CallFact) -> impl Iterator<Item = &PartyFact> {
    let here = call.parties.iter().filter(|party| party.state != LegState::Released);
    here.filter(|party| party.role != PartyRole::Supervisor)
}

fn others<'a>(
    call: &'a CallFact,
    device: &'a DeviceId,
) -> impl Iterator<Item = &'a PartyFact> + 'a {
    principals(call).filter(move |party| party.device.as_ref() != Some(device))
}

fn is_principal(call: &CallFact, device: &DeviceId) -> bool {
    principals(call).any(|party| party.device.as_ref() == Some(device))
}

pub(super) fn is_talking(party: &PartyFact) -> bool {
    matches!(party.state, LegState::Established | LegState::Held)
}

/// The device may send the call to another, or call another into it.
fn may_call_in(call: &CallFact, device: &DeviceId, kind: TransferKind) -> Result<(), Refusal> {
    let leg = call.party_of(device).ok_or_else(|| Refusal::no_call(&call.id))?;
    if leg.role != PartyRole::Agent {
        return Err(not_now(&call.id));
    }
    let rings = principals(call).any(|party| party.state == LegState::Ringing);
    let mut others = others(call, device);
    let (may, message) = match kind {
        TransferKind::Transfer => (
            others.next().is_some_and(is_talking) && others.next().is_none(),
            "Only an established call of two can be transferred, once at a time.",
        ),
        TransferKind::Conference => (
            others.any(is_talking) && principals(call).count() < MOST_PARTIES,
            "Only an established call takes a further party, one at a time and eight in all.",
        ),
    };
    if may && is_talking(leg) && !rings { Ok(()) } else { Err(invalid(message)) }
}

fn may_be_asked_about(call: &CallFact, device: &DeviceId) -> Result<(), Refusal> {
    let leg = call.party_of(device).ok_or_else(|| Refusal::no_call(&call.id))?;
    if !is_talking(leg) || leg.role != PartyRole::Agent {
        return Err(invalid("Only an established call can be asked about."));
    }
    let rings = principals(call).any(|party| party.state == LegState::Ringing);
    if rings || !others(call, device).any(is_talking) {
        return Err(invalid("The call is being transferred, or nobody is on it."));
    }
    Ok(())
}

fn with_given(call: &CallFact, given: &UserData) -> Result<UserData, Refusal> {
    call.user_data.with(given).map_err(|_| Refusal::too_much_user_data("user_data"))
}

fn is_busy(number: &Number) -> Refusal {
    Refusal::number(Reason::InvalidState, number, "Number '{}' is busy.")
}

fn invalid(message: &'static str) -> Refusal {
    Refusal::new(Reason::InvalidState, message)
}
