//! What a customer is sent while a supervisor is on the call: counted, and hashed packet by packet.
//!
//! The hash of a leg goes on over all joins of the call: `hash = SHA-256(hash before ‖ length ‖
//! payload ‖ length ‖ payload …)`, and is cut wherever a supervisor joins or leaves. It is kept
//! running (one block of SHA-256 for each 64 octets), so that a packet takes no memory.

use super::*;
use crate::media::HearingRole;
use crate::model::{LegSound, PartyRole, SentSound};
use sha2::{Digest, Sha256};

/// SHA-256 over packets.
pub(super) type SoundHash = [u8; 32];

/// What is counted of a leg while a supervisor is on its call.
#[derive(Debug)]
pub(super) struct SoundCount {
    running: Sha256,
    /// As of the last cut.
    hash: SoundHash,
    /// Something was sent since.
    has_piece: bool,
    packets: u64,
    agents: u64,
    /// The leg is passed an agent's packets.
    is_agents: bool,
}

/// A join that goes on.
#[derive(Debug)]
pub(super) struct Join {
    supervisor: LegId,
    /// Customers, as they were counted when it began.
    begun: SmallVec<[(LegId, SentSound); 1]>,
    /// Customers that have left.
    left: Vec<LegSound>,
}

impl SoundCount {
    fn new(hash: SoundHash) -> Self {
        Self {
            running: Self::running(&hash),
            hash,
            has_piece: false,
            packets: 0,
            agents: 0,
            is_agents: false,
        }
    }

    fn running(hash: &SoundHash) -> Sha256 {
        Sha256::new_with_prefix(hash)
    }

    /// A packet that was sent.
    pub(super) fn note(&mut self, sent: TransmitKind, packet: &[u8]) {
        if sent == TransmitKind::Rtcp {
            return;
        }
        let payload = packet.get(HEADER..).unwrap_or_default();
        self.has_piece = true;
        self.packets += 1;
        self.agents += u64::from(sent == TransmitKind::Unchanged && self.is_agents);
        self.running.update((payload.len() as u16).to_be_bytes());
        self.running.update(payload);
    }

    /// Another piece begins, unless nothing is in this one.
    fn cut(&mut self) {
        if !std::mem::take(&mut self.has_piece) {
            return;
        }
        self.hash = std::mem::take(&mut self.running).finalize().into();
        self.running = Self::running(&self.hash);
    }

    fn so_far(&self) -> SentSound {
        let (packets, agents, hash) = (self.packets, self.agents, self.hash);
        SentSound { packets, agents, hash_before: hash, hash }
    }

    fn since(&self, begun: &SentSound) -> SentSound {
        SentSound {
            packets: self.packets - begun.packets,
            agents: self.agents - begun.agents,
            hash_before: begun.hash,
            hash: self.hash,
        }
    }
}

impl Leg {
    fn joined_as(&self, role: PartyRole, begun: Option<&SentSound>) -> LegSound {
        LegSound {
            role,
            port: self.seldom.port,
            remote: self.source.target(),
            codec: self.media.map(|media| media.codec.name().to_owned()).unwrap_or_default(),
            sent: begun.and_then(|begun| Some(self.sound.as_ref()?.since(begun))),
        }
    }
}

impl Call {
    /// The allow-list is about to be another one: joins of supervisors that it does not name end,
    /// and customers that are none any more are counted no more.
    pub(super) fn end_joins(&mut self, next: &Hearing) {
        if self.joins.is_empty() {
            return;
        }
        let is_ending = |join: &Join| next.role(join.supervisor).is_none();
        let customers: Vec<LegId> = self.joins.iter().flat_map(Join::customers).collect();
        let leaving = |leg: &LegId| next.role(*leg) != Some(HearingRole::Customer);
        if self.joins.iter().any(is_ending) || customers.iter().any(leaving) {
            self.cut_sound();
        }
        customers.iter().filter(|leg| leaving(leg)).for_each(|leg| self.leave_joins(*leg));
        let joins = std::mem::take(&mut self.joins);
        let (ended, going_on): (Vec<Join>, Vec<Join>) = joins.into_iter().partition(is_ending);
        self.joins = going_on;
        for join in ended {
            self.end_join(join);
        }
    }

    /// A leg is about to be taken out.
    pub(super) fn end_joins_of(&mut self, leg: LegId) {
        if self.joins.is_empty() {
            return;
        }
        let is_its = |join: &Join| join.supervisor == leg;
        if self.joins.iter().any(|join| is_its(join) || join.customers().any(|it| it == leg)) {
            self.cut_sound();
        }
        self.leave_joins(leg);
        let joins = std::mem::take(&mut self.joins);
        let (ended, going_on): (Vec<Join>, Vec<Join>) = joins.into_iter().partition(is_its);
        self.joins = going_on;
        for join in ended {
            self.end_join(join);
        }
    }

    /// After the allow-list, or the legs, have changed: supervisors and customers that are new.
    pub(super) fn begin_joins(&mut self) {
        let hearing = &self.hearing;
        let new: SmallVec<[LegId; 1]> = self
            .legs
            .iter()
            .flatten()
            .map(|leg| leg.name)
            .filter(|leg| hearing.is_supervisor(*leg))
            .filter(|leg| !self.joins.iter().any(|join| join.supervisor == *leg))
            .collect();
        if !new.is_empty() {
            self.cut_sound();
        }
        self.joins.extend(new.into_iter().map(Join::new));
        let is_joined = !self.joins.is_empty();
        let agents = self.agents();
        for leg in self.legs.iter_mut().flatten() {
            let is_customer = self.hearing.role(leg.name) == Some(HearingRole::Customer);
            if !is_joined || !is_customer {
                leg.forget_sound();
                continue;
            }
            let hash = leg.seldom.sound_hash;
            let count = leg.sound.get_or_insert_with(|| Box::new(SoundCount::new(hash)));
            count.is_agents = match leg.route {
                Route::Pass(speaker) => agents & bit(speaker) != 0,
                Route::Silent | Route::Mix(_) => false,
            };
            for join in &mut self.joins {
                if join.customers().all(|customer| customer != leg.name) {
                    join.begun.push((leg.name, count.so_far()));
                }
            }
        }
    }

    /// The legs of agents, and of nobody that took over from one, as bits by slot.
    fn agents(&self) -> u16 {
        let is_agent = |leg: &&Leg| {
            self.hearing.role(leg.name) == Some(HearingRole::Agent)
                && self.joins.iter().all(|join| join.supervisor != leg.name)
        };
        self.legs.iter().flatten().filter(is_agent).fold(0, |mask, leg| mask | bit(leg.slot))
    }

    fn cut_sound(&mut self) {
        for leg in self.legs.iter_mut().flatten() {
            if let Some(count) = &mut leg.sound {
                count.cut();
            }
        }
    }

    /// A customer leaves the joins that it was in.
    fn leave_joins(&mut self, customer: LegId) {
        let Some(leg) = self.legs.iter().flatten().find(|leg| leg.name == customer) else {
            return;
        };
        for join in &mut self.joins {
            if let Some(at) = join.begun.iter().position(|(name, _)| *name == customer) {
                let (_, begun) = join.begun.remove(at);
                join.left.push(leg.joined_as(PartyRole::Customer, Some(&begun)));
            }
        }
    }

    fn end_join(&mut self, join: Join) {
        let mut legs = join.left;
        for leg in self.legs.iter().flatten() {
            let role = match self.hearing.role(leg.name) {
                _ if leg.name == join.supervisor => PartyRole::Supervisor,
                Some(HearingRole::Customer) => PartyRole::Customer,
                Some(HearingRole::Agent) => PartyRole::Agent,
                Some(HearingRole::Supervisor { .. }) | None => continue,
            };
            let begun = join.begun.iter().find(|(name, _)| *name == leg.name);
            if role != PartyRole::Customer || begun.is_some() {
                legs.push(leg.joined_as(role, begun.map(|(_, begun)| begun)));
            }
        }
        legs.sort_by_key(|leg| match leg.role {
            PartyRole::Customer => 0,
            PartyRole::Agent => 1,
            PartyRole::Supervisor => 2,
        });
        self.state.tell(MediaEvent::JoinEnded { supervisor: join.supervisor, legs });
    }
}

impl Leg {
    /// It is counted no more; its hash is kept for the next join.
    fn forget_sound(&mut self) {
        if let Some(count) = self.sound.take() {
            self.seldom.sound_hash = count.hash;
        }
    }
}

impl Join {
    fn new(supervisor: LegId) -> Self {
        Self { supervisor, begun: SmallVec::new(), left: Vec::new() }
    }

    fn customers(&self) -> impl Iterator<Item = LegId> {
        self.begun.iter().map(|(leg, _)| *leg)
    }
}
