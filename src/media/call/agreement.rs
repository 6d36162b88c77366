//! What was agreed for a leg: as far as every packet needs it, and all of it.

use super::*;

/// What was agreed before is still heard for so long: packets on their way, and a peer that changes
/// a moment later (RFC 3264 8.3.2).
pub(super) const FORMER: Duration = Duration::from_secs(2);

/// What was agreed for a leg, as far as every packet needs it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Agreement {
    /// What is sent to it, and how.
    pub(super) codec: Codec,
    pub(super) payload_type: u8,
    pub(super) dtmf_pt: Option<u8>,
    pub(super) comfort_noise: Option<u8>,
    pub(super) dtmf_clock: u32,
    pub(super) send: bool,
    pub(super) receive: bool,
    /// It should send, and it is known where from.
    pub(super) is_expected: bool,
}

impl Agreement {
    pub(super) fn of(media: &LegMedia) -> Self {
        Self {
            codec: media.codec,
            payload_type: media.payload_type,
            dtmf_pt: media.dtmf_pt,
            comfort_noise: media.comfort_noise,
            dtmf_clock: media.dtmf_clock,
            send: media.send,
            receive: media.receive,
            is_expected: media.receive && media.remote.is_some(),
        }
    }
}

/// All that was agreed for a leg, and the payload types that it may still use from before.
#[derive(Debug, Default)]
pub(super) struct Agreements {
    current: Option<LegMedia>,
    /// Until when they are heard.
    former: Option<(PayloadTypes, Instant)>,
}

impl Agreements {
    /// Goes over to another agreement; returns the one before.
    pub(super) fn replace(&mut self, media: LegMedia, now: Instant) -> Option<LegMedia> {
        let before = self.current.replace(media);
        if let Some(before) = before.filter(|before| before.receives != media.receives) {
            self.former = Some((before.receives, now + FORMER));
        }
        before
    }

    /// What a payload type names, by what is agreed now.
    pub(super) fn current(&self, payload_type: u8) -> Option<Format> {
        self.current.as_ref()?.receives.get(payload_type)
    }

    /// What a payload type names, by what is agreed now or was a moment ago.
    pub(super) fn format_of(&self, payload_type: u8, now: Instant) -> Option<Format> {
        self.current.as_ref()?;
        self.current(payload_type).or_else(|| {
            let (former, until) = self.former.as_ref()?;
            former.get(payload_type).filter(|_| now < *until)
        })
    }
}
