//! How each listener is served, worked out from the allow-list.

use super::*;

/// How a listener is served; speakers as bits by slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Route {
    #[default]
    Silent,
    /// One speaker, packet by packet: relayed in the codec of the listener, transcoded from
    /// another.
    Pass(usize),
    Mix(u16),
}

impl Route {
    pub(super) fn has(self, speaker: usize) -> bool {
        match self {
            Route::Silent => false,
            Route::Pass(only) => only == speaker,
            Route::Mix(speakers) => speakers & bit(speaker) != 0,
        }
    }

    /// The speakers that are mixed.
    pub(super) fn mixed(self) -> u16 {
        match self {
            Route::Mix(speakers) => speakers,
            Route::Silent | Route::Pass(_) => 0,
        }
    }
}

/// What a plan has to know of a leg.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) name: LegId,
    pub(super) is_described: bool,
    /// It hears something of our own.
    pub(super) has_tone: bool,
}

/// How one leg is served as a listener; speakers as bits, or in order, by slot.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Serving {
    pub(super) route: Route,
    /// The speakers that the roles allow at most.
    pub(super) permitted: u16,
    /// The speakers that have a gain.
    pub(super) heard: u16,
    /// Of all speakers those that are read buffered: supervisors, and everybody for a supervisor.
    pub(super) buffered: u16,
    pub(super) is_party: bool,
    pub(super) gains: [u16; MAX_LEGS],
    pub(super) ducks: [u16; MAX_LEGS],
}

impl Serving {
    fn of(
        slot: usize,
        listener: Member,
        hearing: &Hearing,
        members: &[Option<Member>; MAX_LEGS],
    ) -> Self {
        let is_supervisor = hearing.is_supervisor(listener.name);
        let mut serving = Self {
            is_party: hearing.role(listener.name).is_some() && !is_supervisor,
            ..Self::default()
        };
        for (other, member) in members.iter().enumerate() {
            let Some(speaker) = member.filter(|member| member.is_described && other != slot) else {
                continue;
            };
            if hearing.permits(listener.name, speaker.name) {
                serving.permitted |= bit(other);
            }
            if is_supervisor || hearing.is_supervisor(speaker.name) {
                serving.buffered |= bit(other);
            }
            if let Some(gain) = hearing.gain(listener.name, speaker.name) {
                serving.heard |= bit(other);
                serving.gains[other] = gain.0;
            }
            serving.ducks[other] = hearing.ducked(listener.name, speaker.name).0;
        }
        serving.route = serving.route_for(listener);
        serving
    }

    fn route_for(&self, listener: Member) -> Route {
        let first = slots(self.heard).next();
        let only =
            first.filter(|&other| self.heard == bit(other) && self.gains[other] == Gain::UNITY.0);
        match only {
            _ if !listener.is_described => Route::Silent,
            _ if listener.has_tone => Route::Mix(self.heard),
            _ if self.heard == 0 => Route::Silent,
            Some(other) => Route::Pass(other),
            None => Route::Mix(self.heard),
        }
    }
}

/// How the legs of a call are served, by slot.
#[derive(Debug)]
pub(super) struct Plan {
    servings: [Serving; MAX_LEGS],
}

impl Plan {
    pub(super) fn of(hearing: &Hearing, members: &[Option<Member>; MAX_LEGS]) -> Self {
        let serving = |slot: usize| {
            members[slot].map(|listener| Serving::of(slot, listener, hearing, members))
        };
        Self { servings: std::array::from_fn(|slot| serving(slot).unwrap_or_default()) }
    }

    pub(super) fn serving(&self, slot: usize) -> &Serving {
        &self.servings[slot]
    }

    /// The listeners that mix a speaker, and those that it is relayed or transcoded to.
    pub(super) fn listeners(&self, speaker: usize) -> (u16, u16) {
        let (mut mixed_by, mut passed_to) = (0, 0);
        for (slot, serving) in self.servings.iter().enumerate() {
            match serving.route {
                Route::Mix(speakers) if speakers & bit(speaker) != 0 => mixed_by |= bit(slot),
                Route::Pass(only) if only == speaker => passed_to |= bit(slot),
                Route::Silent | Route::Pass(_) | Route::Mix(_) => {}
            }
        }
        (mixed_by, passed_to)
    }

    /// The legs of parties.
    pub(super) fn parties(&self) -> u16 {
        let parties = self.servings.iter().enumerate().filter(|(_, serving)| serving.is_party);
        parties.fold(0, |mask, (slot, _)| mask | bit(slot))
    }
}

pub(super) fn bit(slot: usize) -> u16 {
    1 << slot
}

/// The slots in a mask, in order.
pub(super) fn slots(mut mask: u16) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        (mask != 0).then(|| {
            let slot = mask.trailing_zeros() as usize;
            mask &= mask - 1;
            slot
        })
    })
}
