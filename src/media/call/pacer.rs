//! When a listener of a mix is sent to.

use super::*;

/// A frame on our own clock until packets say otherwise, in ticks of 1/8000 s as all frames: 20 ms.
pub(super) const FRAME: u32 = 160;

/// The longest frame: 30 ms.
const LONGEST: u32 = 240;

/// Sends over which a standing lead is looked for.
const WINDOW: u16 = 25;

/// Packets of speech for which a lead is kept rather than given back.
const MAX_PUT_OFF: u16 = 250;

/// When a listener is sent to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pacer {
    /// The listener has sound until then, if it was played without delay.
    pub(super) until: Instant,
    pub(super) frame: u32,
    /// Nobody paces it, or the pacer has fallen silent: our own clock sends.
    pub(super) own: bool,
    /// The least that it had in hand, and the least that packets came late, in this window.
    pub(super) low: Duration,
    pub(super) late: Duration,
    pub(super) sends: u16,
    /// How often a lead was not given back because somebody spoke.
    pub(super) put_off: u16,
}

/// What a packet of the pacer triggers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Send,
    Wait,
    /// Nothing is sent this once, so that the phone has a frame less waiting; the ring now has it,
    /// and drains it.
    GiveBack,
}

impl Pacer {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            until: now,
            frame: FRAME,
            own: true,
            low: Duration::MAX,
            late: Duration::MAX,
            sends: 0,
            put_off: 0,
        }
    }

    /// Whether a packet that just came may trigger a frame: the listener has no more than one and a
    /// half in hand. What a burst brings beyond that stays in the ring. A lead that stands is given
    /// back, a frame at a time.
    pub(super) fn turn(&mut self, samples: u32, now: Instant) -> Turn {
        self.frame = samples.clamp(FRAME / 2, LONGEST);
        let frame = rtp::duration_of(self.frame);
        let lead = self.until.saturating_duration_since(now);
        if lead > frame * 3 / 2 {
            return Turn::Wait;
        }
        self.low = self.low.min(lead);
        self.late = self.late.min(now.saturating_duration_since(self.until));
        self.sends += 1;
        if self.sends < WINDOW {
            return Turn::Send;
        }
        let low = std::mem::replace(&mut self.low, Duration::MAX);
        let late = std::mem::replace(&mut self.late, Duration::MAX);
        self.sends = 0;
        if low >= frame * 3 / 4 {
            return Turn::GiveBack;
        }
        // They all come later than they did: that is when they come from now on.
        self.until = self.until - low + late;
        Turn::Send
    }

    /// A lead is given back where it costs nobody a word: now, or when the next packets are quiet,
    /// but after some seconds in any case.
    pub(super) fn may_give_back(&mut self, is_quiet: bool) -> bool {
        if is_quiet || self.put_off >= MAX_PUT_OFF {
            self.put_off = 0;
            return true;
        }
        self.put_off += 1;
        self.sends = WINDOW - 1;
        false
    }

    /// A frame is sent because a packet came. One that came late, but before our clock, changes
    /// nothing: the phone's own buffer is for that.
    pub(super) fn sent(&mut self, samples: u32, now: Instant) {
        let frame = rtp::duration_of(samples);
        let since = if self.own || self.due() <= now { self.until.max(now) } else { self.until };
        self.until = (since + frame).min(now + 2 * frame);
        self.own = false;
    }

    /// When our own clock sends the next frame: half a frame late when it paces; while packets do,
    /// not before they are two frames late. Sooner, each that was merely held up would be made up
    /// for by a frame, which would have to be left out again.
    pub(super) fn due(&self) -> Instant {
        self.until + rtp::duration_of(if self.own { self.frame / 2 } else { 2 * self.frame })
    }

    /// Packets have come, and a frame is still missing: one of them was lost.
    pub(super) fn is_short(&self, now: Instant) -> bool {
        self.until < now + rtp::duration_of(self.frame / 2)
    }

    /// Our own clock sends a frame. After a stall of ours, one frame is sent for all that was
    /// missed.
    pub(super) fn ticked(&mut self, now: Instant) {
        self.own = true;
        let frame = rtp::duration_of(self.frame);
        self.until = if now > self.until + 4 * frame { now } else { self.until + frame };
    }
}
